//! `causey why RUN[/STEP[/TASK]]`, `--trigger FLOW` or `--pool POOL`: what it waits for, in the server's words.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::Value;

use crate::arguments::Why;
use crate::client::Client;
use crate::command::logs;
use crate::exit::Exit;
use crate::fault::{self, Fault};
use crate::screen::live::{print_json, print_text};
use crate::screen::paint::Paint;
use crate::screen::table;
use crate::session::with_server;

/// Something that waits.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Wait {
    #[serde(default)]
    step: Option<String>,
    #[serde(default)]
    tasks: Vec<String>,
    #[serde(default)]
    count: u32,
    pub(crate) because: String,
    pub(crate) text: String,
    #[serde(default)]
    pub(crate) hint: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
pub(crate) struct Waits {
    pub(crate) waits: Vec<Wait>,
}

/// Runs the command.
///
/// # Errors
/// When there is no such thing, or the server cannot be reached.
pub(crate) async fn run(arguments: &Why) -> Result<Exit, Fault> {
    let (path, query): (Vec<String>, logs::Query) = match (&arguments.path, &arguments.trigger, &arguments.pool) {
        (Some(path), ..) => {
            let (run, query) = logs::parse(path)?;
            (vec!["runs".into(), run, "why".into()], query)
        }
        (None, Some(flow), _) => (vec!["flows".into(), flow.clone(), "why".into()], Vec::new()),
        (None, None, pool) => (vec!["pools".into(), pool.clone().unwrap_or_default(), "why".into()], Vec::new()),
    };
    with_server(&arguments.place, async |session| {
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        let answer: Value = session.client.get(&path, &query).await?;
        if arguments.json {
            print_json(&answer);
            return Ok(Exit::Ok);
        }
        let unreadable = |error| Fault::new(Exit::Failed, fault::ANSWER, "the server's answer cannot be read").detail(error);
        let waits: Waits = serde_json::from_value(answer.clone()).map_err(unreadable)?;
        print_text(&text(&heading(&answer), &waits.waits, Paint::stdout()));
        Ok(Exit::Ok)
    })
    .await
}

/// What a run waits for, while nothing of it runs.
pub(crate) async fn of_idle_run(client: &Client, run: &str) -> Vec<Wait> {
    // Only a hint: whoever asks goes on without it.
    let waits = client.get::<Waits>(&["runs", run, "why"], &[]).await.unwrap_or_default().waits;
    let is_busy = waits.iter().any(|wait| matches!(wait.because.as_str(), "running" | "taken" | "ended"));
    let is_news = |wait: &Wait| !matches!(wait.because.as_str(), "siblings" | "window" | "steps");
    if is_busy { Vec::new() } else { waits.into_iter().filter(is_news).collect() }
}

impl Wait {
    /// What waits: tasks, a step or nothing in particular.
    pub(crate) fn what(&self) -> String {
        let further = self.count.saturating_sub(u32::try_from(self.tasks.len()).unwrap_or(u32::MAX));
        match (self.tasks.as_slice(), further) {
            ([], _) => self.step.clone().unwrap_or_default(),
            (tasks, 0) => tasks.join(", "),
            (tasks, further) => format!("{} and {further} more", tasks.join(", ")),
        }
    }
}

fn heading(answer: &Value) -> String {
    let word = |name: &str| answer[name].as_str().map(str::to_owned);
    match (word("name"), word("state"), word("flow"), word("pool")) {
        (Some(run), Some(state), ..) => format!("{run} is {state}"),
        (_, _, Some(flow), _) => format!("flow {flow}"),
        (_, _, _, Some(pool)) => format!("pool {pool}"),
        _ => String::new(),
    }
}

fn text(heading: &str, waits: &[Wait], paint: Paint) -> String {
    let named = waits.iter().any(|wait| !wait.what().is_empty());
    let row = |wait: &Wait| if named { vec![wait.what(), wait.text.clone()] } else { vec![wait.text.clone()] };
    let rows: Vec<Vec<String>> = waits.iter().map(row).collect();
    let lines: String = table::lines(&rows).iter().map(|line| format!("  {line}\n")).collect();
    let hints: BTreeSet<&String> = waits.iter().filter_map(|wait| wait.hint.as_ref()).collect();
    let hints: String = hints.iter().map(|hint| format!("  {}  {hint}\n", paint.bold("help"))).collect();
    format!("{heading}\n{lines}{hints}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_waits_stands_before_what_it_waits_for() {
        let answer = json!({"name": "brisk-otter-41", "state": "running", "waits": [
            {"because": "no_worker", "step": "work", "tasks": ["work[0]", "work[1]"], "count": 9, "text": "queued for 12 s", "hint": "start one"},
            {"because": "siblings", "step": "gather", "tasks": ["gather"], "count": 1, "text": "waits for 9 of 9 inputs", "hint": null},
            {"because": "no_leader", "step": null, "tasks": [], "count": 0, "text": "no coordinator leads", "hint": "start one"},
        ]});
        let waits: Waits = serde_json::from_value(answer.clone()).unwrap();
        assert_eq!(
            text(&heading(&answer), &waits.waits, Paint::plain()),
            "brisk-otter-41 is running\n  work[0], work[1] and 7 more  queued for 12 s\n  gather                       waits for 9 of 9 inputs\n                               no coordinator leads\n  help  start one\n"
        );
        let pool = json!({"pool": "gpu", "waits": []});
        assert_eq!(text(&heading(&pool), &[], Paint::plain()), "pool gpu\n");
    }
}
