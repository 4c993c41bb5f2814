//! `causey schedules`: when deployed flows start by the clock; pausing and resuming that.

use serde_json::{Value, json};

use crate::arguments::{Listing, ScheduledFlow, Schedules, SchedulesOf};
use crate::command::given;
use crate::exit::Exit;
use crate::fault::Fault;
use crate::screen::format::moment;
use crate::screen::live::{print_json, print_text};
use crate::screen::table;
use crate::session::with_server;
use crate::state::random_hex;

/// Runs the command.
///
/// # Errors
/// When there is no such flow, or the server cannot be reached.
pub(crate) async fn run(arguments: &SchedulesOf) -> Result<Exit, Fault> {
    match &arguments.command {
        None => list(&arguments.list).await,
        Some(Schedules::Ls(listing)) => list(listing).await,
        Some(Schedules::Pause(flow)) => switch(flow, "pause", "paused").await,
        Some(Schedules::Resume(flow)) => switch(flow, "resume", "resumed").await,
    }
}

async fn list(arguments: &Listing) -> Result<Exit, Fault> {
    with_server(&arguments.place, async |session| {
        let answer: Value = session.client.get(&["schedules"], &[]).await?;
        let schedules = answer["schedules"].as_array().map(Vec::as_slice).unwrap_or_default();
        if arguments.json {
            schedules.iter().for_each(print_json);
        } else if schedules.is_empty() {
            eprintln!("no deployed flow has a schedule");
        } else {
            print_text(&(table::lines(&rows(schedules)).join("\n") + "\n"));
        }
        Ok(Exit::Ok)
    })
    .await
}

fn rows(schedules: &[Value]) -> Vec<Vec<String>> {
    let heading = ["FLOW", "SCHEDULE", "ZONE", "CATCH-UP", "NEXT", "LAST", "CAME TO"].map(str::to_owned).to_vec();
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let time = |value: &Value| value.as_u64().map(moment).unwrap_or_default();
    let row = |schedule: &Value| {
        let next = match (schedule["problem"].as_str(), schedule["paused"].is_null()) {
            (Some(problem), _) => problem.to_owned(),
            (None, false) => "paused".into(),
            (None, true) => time(&schedule["next"]),
        };
        let last = &schedule["last"];
        let came_to = last["name"].as_str().or_else(|| last["because"].as_str()).unwrap_or_default().to_owned();
        let [flow, cron, zone, catch_up] = ["flow", "cron", "timezone", "catch_up"].map(|name| word(&schedule[name]));
        vec![flow, cron, zone, catch_up, next, time(&last["instant"]), came_to]
    };
    std::iter::once(heading).chain(schedules.iter().map(row)).collect()
}

async fn switch(arguments: &ScheduledFlow, verb: &str, done: &str) -> Result<Exit, Fault> {
    with_server(&arguments.place, async |session| {
        let body = json!({"request_id": random_hex(), "user": given::user(None)});
        let _: Value = session.client.post(&["schedules", &arguments.flow, verb], &body).await?;
        eprintln!("the schedules of {} are {done}", arguments.flow);
        Ok(Exit::Ok)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_paused_schedule_says_so_instead_of_its_next_firing() {
        let schedule = json!({"flow": "Nightly", "cron": "0 2 * * *", "timezone": "UTC", "catch_up": "latest", "paused": {"user": "ann"},
            "next": null, "last": {"instant": null, "name": "brisk-otter-41"}});
        assert_eq!(rows(&[schedule])[1], ["Nightly", "0 2 * * *", "UTC", "latest", "paused", "", "brisk-otter-41"]);
    }
}
