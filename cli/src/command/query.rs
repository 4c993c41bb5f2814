//! `causey query RUN [NAME]`: what a run tells about itself.

use serde_json::{Map, Value};

use crate::arguments::Query;
use crate::exit::Exit;
use crate::fault::Fault;
use crate::screen::format::moment;
use crate::screen::live::{print_json, print_text};
use crate::screen::table;
use crate::session::with_server;

/// Runs the command.
///
/// # Errors
/// When there is no such run, or it tells nothing under this name.
pub(crate) async fn run(arguments: &Query) -> Result<Exit, Fault> {
    with_server(&arguments.place, async |session| {
        let query: Vec<(&str, String)> = arguments.name.iter().map(|name| ("name", name.clone())).collect();
        let answer: Value = session.client.get(&["runs", &arguments.run, "status"], &query).await?;
        let empty = Map::new();
        let told = answer["status"].as_object().unwrap_or(&empty);
        match &arguments.name {
            _ if arguments.json => print_json(&answer),
            Some(name) => print_text(&format!("{}\n", told.get(name).map_or(&Value::Null, |status| &status["value"]))),
            None if told.is_empty() => eprintln!("{} tells nothing about itself", arguments.run),
            None => print_text(&(table::lines(&rows(told)).join("\n") + "\n")),
        }
        Ok(Exit::Ok)
    })
    .await
}

fn rows(told: &Map<String, Value>) -> Vec<Vec<String>> {
    let heading = ["NAME", "VALUE", "BY", "AT"].map(str::to_owned).to_vec();
    let row = |(name, status): (&String, &Value)| {
        let text = |field: &str| status[field].as_str().unwrap_or_default().to_owned();
        let by = format!("{}/{}", text("step"), text("task"));
        vec![name.clone(), status["value"].to_string(), by, status["at"].as_u64().map(moment).unwrap_or_default()]
    };
    std::iter::once(heading).chain(told.iter().map(row)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_one_row() {
        let told = serde_json::json!({"progress": {"value": 0.5, "step": "work", "task": "3", "attempt": 0}});
        assert_eq!(rows(told.as_object().unwrap())[1], ["progress", "0.5", "work/3", ""]);
    }
}
