//! `causey deploy FLOW.py`: stores the code and hands the definition to the server, whose triggers start it from now on.

use causey_protocol::share::Standing;
use serde_json::{Value, json};

use crate::arguments::Deploy;
use crate::command::show::settled;
use crate::exit::Exit;
use crate::fault::Fault;
use crate::screen::format::moment;
use crate::screen::live::{print_json, print_text};
use crate::session::with_server;
use crate::state::random_hex;

/// Runs the command.
///
/// # Errors
/// When the flow is not valid, or the server cannot be reached or refuses.
pub(crate) async fn run(arguments: &Deploy) -> Result<Exit, Fault> {
    let mut packaged = settled(&arguments.flow, &arguments.place.local, &arguments.packages).await?;
    // They become part of the version: runs that its triggers start have them.
    let asked = Standing { priority: arguments.priority, max_parallel: arguments.max_workers };
    packaged.definition.standing = asked.or(packaged.definition.standing);
    with_server(&arguments.place, async |session| {
        let client = &session.client;
        packaged.send(client).await?;
        let answer: Value = client.post(&["flows"], &json!({"request_id": random_hex(), "definition": packaged.definition})).await?;
        if arguments.json {
            print_json(&answer);
            return Ok(Exit::Ok);
        }
        print_text(&text(&answer));
        if session.is_own() && !packaged.definition.triggers.is_empty() {
            eprintln!("  its triggers fire while a stack is up: causey dev");
        }
        if session.is_own() && !packaged.definition.schedules.is_empty() {
            eprintln!("  its schedules fire while a stack is up: causey dev");
        }
        Ok(Exit::Ok)
    })
    .await
}

fn text(answer: &Value) -> String {
    let flow = answer["flow"].as_str().unwrap_or_default();
    let triggers = answer["triggers"].as_array().into_iter().flatten();
    let events = triggers.map(|trigger| {
        let names =
            trigger["events"].as_array().into_iter().flatten().filter_map(|event| event["name"].as_str().or_else(|| event.as_str()));
        names.collect::<Vec<_>>().join(" and ")
    });
    let lines: String = events.filter(|names| !names.is_empty()).map(|names| format!("  started by {names}\n")).collect();
    let schedules = answer["schedules"].as_array().into_iter().flatten().map(|schedule| {
        let word = |name: &str| schedule[name].as_str().unwrap_or_default().to_owned();
        let next = schedule["next"].as_array().into_iter().flatten().filter_map(Value::as_u64).map(moment).collect::<Vec<_>>().join(", ");
        format!("  started at {} {}: {next}\n", word("cron"), word("timezone"))
    });
    format!("{flow} version {}\n{lines}{}", answer["version"], schedules.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deployed_flow_names_its_version_and_triggers() {
        let answer = json!({"flow": "Hello", "version": 3, "triggers": [{"events": [{"name": "a"}, {"name": "b"}]}]});
        assert_eq!(text(&answer), "Hello version 3\n  started by a and b\n");
        let answer = json!({"flow": "Hello", "version": 3, "schedules": [{"cron": "0 2 * * *", "timezone": "UTC", "next": []}]});
        assert_eq!(text(&answer), "Hello version 3\n  started at 0 2 * * * UTC: \n");
    }
}
