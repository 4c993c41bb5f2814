//! `causey backfill` and `causey backfills`: one run of a deployed flow per instant of a span of time.

use serde_json::{Map, Value, json};

use crate::arguments::{Backfill, Backfills, BackfillsCommand, CancelBackfill, Listing};
use crate::command::given;
use crate::exit::Exit;
use crate::fault::{self, Fault};
use crate::screen::format::{count, moment};
use crate::screen::live::{print_json, print_text};
use crate::screen::table;
use crate::session::with_server;
use crate::state::random_hex;

/// Starts a backfill.
///
/// # Errors
/// When the flow is not deployed, the span is empty or too long, or the server cannot be reached.
pub(crate) async fn start(arguments: &Backfill) -> Result<Exit, Fault> {
    let parameters = parameters(&arguments.parameters)?;
    let mut body = json!({
        "request_id": arguments.id.clone().unwrap_or_else(random_hex), "user": given::user(None), "flow": arguments.flow,
        "from": arguments.from, "to": arguments.to, "max_parallel": arguments.max_parallel, "parameters": parameters,
    });
    let given = [("every", &arguments.every), ("timezone", &arguments.timezone)];
    for (name, value) in given.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?))) {
        body[name] = json!(value);
    }
    if let Some(name) = &arguments.parameter_name {
        body["instant"] = json!({name: arguments.parameter_form});
    }
    with_server(&arguments.place, async |session| {
        let answer: Value = session.client.post(&["backfills"], &body).await?;
        if arguments.json {
            print_json(&answer);
            return Ok(Exit::Ok);
        }
        let id = answer["backfill"].as_str().unwrap_or_default();
        print_text(&format!("{id}\n"));
        eprintln!("backfill of {}, {} at once", count(answer["total"].as_u64().unwrap_or_default(), "run"), arguments.max_parallel);
        eprintln!("  see how far it is: causey backfills · cancel it: causey backfills cancel {id}");
        if session.is_own() {
            eprintln!("  it goes on while a stack is up: causey dev");
        }
        Ok(Exit::Ok)
    })
    .await
}

fn parameters(given: &[String]) -> Result<Map<String, Value>, Fault> {
    let pair = |text: &String| {
        let wrong = || Fault::new(Exit::Usage, fault::ARGUMENT, format!("{text:?} is no parameter")).hint("write --param NAME=VALUE");
        let (name, value) = text.split_once('=').ok_or_else(wrong)?;
        Ok((name.to_owned(), Value::from(value)))
    };
    given.iter().map(pair).collect()
}

/// Lists or cancels.
///
/// # Errors
/// When there is no such backfill, or the server cannot be reached.
pub(crate) async fn run(arguments: &Backfills) -> Result<Exit, Fault> {
    match &arguments.command {
        None => list(&arguments.list).await,
        Some(BackfillsCommand::Ls(listing)) => list(listing).await,
        Some(BackfillsCommand::Cancel(cancellation)) => cancel(cancellation).await,
    }
}

async fn list(arguments: &Listing) -> Result<Exit, Fault> {
    with_server(&arguments.place, async |session| {
        let answer: Value = session.client.get(&["backfills"], &[]).await?;
        let backfills = answer["backfills"].as_array().map(Vec::as_slice).unwrap_or_default();
        if arguments.json {
            backfills.iter().for_each(print_json);
        } else if backfills.is_empty() {
            eprintln!("no backfills yet: causey backfill FLOW --from TIME --to TIME");
        } else {
            print_text(&(table::lines(&rows(backfills)).join("\n") + "\n"));
        }
        Ok(Exit::Ok)
    })
    .await
}

async fn cancel(arguments: &CancelBackfill) -> Result<Exit, Fault> {
    with_server(&arguments.place, async |session| {
        let body = json!({"request_id": random_hex(), "user": given::user(None), "reason": arguments.reason});
        let answer: Value = session.client.post(&["backfills", &arguments.backfill, "cancel"], &body).await?;
        if arguments.json {
            print_json(&answer);
        } else {
            eprintln!("backfill {} is {}", arguments.backfill, answer["state"].as_str().unwrap_or_default());
        }
        Ok(Exit::Ok)
    })
    .await
}

fn rows(backfills: &[Value]) -> Vec<Vec<String>> {
    let heading = ["BACKFILL", "FLOW", "STATE", "DONE", "RUNNING", "FAILED", "FIRST", "LAST"].map(str::to_owned).to_vec();
    let row = |backfill: &Value| {
        let [id, flow, state] = ["backfill", "flow", "state"].map(|name| backfill[name].as_str().unwrap_or_default().to_owned());
        let number = |name: &str| backfill[name].as_u64().unwrap_or_default();
        let [first, last] = ["first", "last"].map(|name| backfill[name].as_u64().map(moment).unwrap_or_default());
        let done = format!("{}/{}", number("done"), number("total"));
        vec![id, flow, state, done, number("running").to_string(), number("failed").to_string(), first, last]
    };
    std::iter::once(heading).chain(backfills.iter().map(row)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backfill_shows_how_far_it_has_come() {
        let backfill = json!({"backfill": "b1", "flow": "Nightly", "state": "running", "done": 3, "total": 31, "running": 2, "failed": 1});
        assert_eq!(rows(&[backfill])[1], ["b1", "Nightly", "running", "3/31", "2", "1", "", ""]);
    }

    #[test]
    fn a_parameter_is_a_name_and_a_value() {
        assert_eq!(parameters(&["a=b=c".into()]).unwrap()["a"], "b=c");
        assert!(parameters(&["a".into()]).is_err());
    }
}
