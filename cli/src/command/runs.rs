//! `causey runs`: runs in a table, the newest first.

use serde::Deserialize;
use serde_json::Value;

use crate::arguments::Runs;
use crate::client::answer::RunView;
use crate::exit::Exit;
use crate::fault::{self, Fault};
use crate::screen::format::{duration, moment, now};
use crate::screen::live::{print_json, print_text};
use crate::screen::table;
use crate::session::with_server;

/// Characters shown of what a run waits for.
const WAITS_SHOWN_MAX: usize = 80;

#[derive(Deserialize)]
struct Answer {
    runs: Vec<Value>,
}

/// Runs the command.
///
/// # Errors
/// When the server cannot be reached or refuses.
pub(crate) async fn run(arguments: &Runs) -> Result<Exit, Fault> {
    with_server(&arguments.place, async |session| {
        let mut query = vec![("limit", arguments.limit.to_string())];
        query.extend(arguments.flow.clone().map(|flow| ("flow", flow)));
        query.extend(arguments.status.clone().map(|state| ("state", state)));
        let answer: Answer = session.client.get(&["runs"], &query).await?;
        if arguments.json {
            answer.runs.iter().for_each(print_json);
            return Ok(Exit::Ok);
        }
        let runs: Result<Vec<RunView>, _> = answer.runs.into_iter().map(serde_json::from_value).collect();
        let runs =
            runs.map_err(|error| Fault::new(Exit::Failed, fault::ANSWER, "the server's list of runs cannot be read").detail(error))?;
        if runs.is_empty() {
            eprintln!("no runs yet: causey run FLOW.py");
        } else {
            print_text(&(table::lines(&rows(&runs, now())).join("\n") + "\n"));
        }
        Ok(Exit::Ok)
    })
    .await
}

fn rows(runs: &[RunView], now: u64) -> Vec<Vec<String>> {
    let heading = ["RUN", "FLOW", "STATE", "TASKS", "CREATED", "TOOK"].map(str::to_owned).to_vec();
    let row = |run: &RunView| {
        let reused = if run.reused > 0 { format!(", {} reused", run.reused) } else { String::new() };
        let tasks = format!("{}/{}{reused}", run.tasks.succeeded, run.tasks.ended() + run.tasks.open());
        let until = run.finished.or_else(|| (!run.state.is_terminal()).then_some(now));
        let took = until.zip(run.started).map(|(end, start)| duration(end.saturating_sub(start))).unwrap_or_default();
        vec![run.name.clone(), run.flow.clone(), run.state.word().to_owned(), tasks, run.created.map(moment).unwrap_or_default(), took]
    };
    let mut rows: Vec<Vec<String>> = std::iter::once(heading).chain(runs.iter().map(row)).collect();
    // Mostly all are alike.
    if runs.iter().any(|run| run.priority != 0) {
        let column = std::iter::once("PRIORITY".to_owned()).chain(runs.iter().map(|run| run.priority.to_string()));
        rows.iter_mut().zip(column).for_each(|(row, cell)| row.insert(3, cell));
    }
    let waits: Vec<String> = runs.iter().map(waits_for).collect();
    if waits.iter().any(|wait| !wait.is_empty()) {
        let column = std::iter::once("WAITS FOR".to_owned()).chain(waits);
        rows.iter_mut().zip(column).for_each(|(row, cell)| row.push(cell));
    }
    rows
}

/// What a run waits for in which nothing happens, or before it begins.
fn waits_for(run: &RunView) -> String {
    let place = run.waits["for"].as_str().map(str::to_owned);
    let text = run.stuck.clone().or(place).unwrap_or_default();
    match text.char_indices().nth(WAITS_SHOWN_MAX) {
        Some((end, _)) => format!("{}… (causey why {})", &text[..end], run.name),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::answer::{Counts, State};

    #[test]
    fn a_run_is_one_row() {
        let run = RunView {
            name: "brisk-otter-41".into(),
            flow: "Hello".into(),
            state: State::Running,
            started: Some(1_000_000),
            tasks: Counts { succeeded: 2, running: 1, ..Counts::default() },
            ..RunView::default()
        };
        assert_eq!(rows(std::slice::from_ref(&run), 1_900_000)[1], ["brisk-otter-41", "Hello", "running", "2/3", "", "0.9 s"]);
        let urgent = RunView { priority: 50, ..run.clone() };
        assert_eq!(rows(&[urgent], 1_900_000)[1][3], "50");
        let taken = RunView { reused: 2, ..run.clone() };
        assert_eq!(rows(&[taken], 1_900_000)[1][3], "2/3, 2 reused");
        let stuck = RunView { stuck: Some(format!("work: {}", "x".repeat(100))), ..run.clone() };
        let queued = RunView { waits: serde_json::json!({"for": "a place"}), ..run };
        let rows = rows(&[stuck, queued], 1_900_000);
        assert_eq!((&*rows[0][6], &*rows[2][6]), ("WAITS FOR", "a place"));
        assert_eq!(rows[1][6], format!("work: {}… (causey why brisk-otter-41)", "x".repeat(74)));
    }
}
