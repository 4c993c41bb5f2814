//! `causey logs RUN[/STEP[/TASK]]`: what ended attempts have printed.

use std::collections::BTreeSet;

use serde_json::json;

use crate::arguments::Logs;
use crate::client::answer::{Chunk, Chunks};
use crate::exit::Exit;
use crate::fault::{self, Fault};
use crate::screen::live::{print_json, print_text};
use crate::screen::output::Output;
use crate::session::with_server;

/// Runs the command.
///
/// # Errors
/// When the path is none, or there is no such run.
pub(crate) async fn run(arguments: &Logs) -> Result<Exit, Fault> {
    let (run, mut query) = parse(&arguments.path)?;
    query.extend(arguments.attempt.map(|attempt| ("attempt", attempt.to_string())));
    with_server(&arguments.place, async |session| {
        let answer: Chunks = session.client.get(&["runs", &run, "logs"], &query).await?;
        if arguments.json {
            answer.chunks.iter().for_each(|chunk| print_json(&json!(chunk)));
        } else {
            print_text(&text(&answer.chunks));
        }
        Ok(Exit::Ok)
    })
    .await
}

pub(crate) type Query = Vec<(&'static str, String)>;

/// The run and the query of a path.
pub(crate) fn parse(path: &str) -> Result<(String, Query), Fault> {
    let parts: Vec<&str> = path.split('/').collect();
    let (run, rest) = parts.split_first().map_or(("", &[][..]), |(run, rest)| (*run, rest));
    if run.is_empty() || rest.len() > 2 || rest.iter().any(|part| part.is_empty()) {
        return Err(Fault::new(Exit::Usage, fault::ARGUMENT, format!("{path:?} is no path of a run or task"))
            .hint("a path looks like RUN, RUN/STEP or RUN/STEP/TASK"));
    }
    let query = ["step", "task"].into_iter().zip(rest.iter().map(|part| (*part).to_owned())).collect();
    Ok((run.to_owned(), query))
}

/// The bare text of one task; labelled lines where there are several.
fn text(chunks: &[Chunk]) -> String {
    let tasks: BTreeSet<_> = chunks.iter().map(|chunk| (&chunk.step, &chunk.task, chunk.attempt)).collect();
    if tasks.len() <= 1 {
        return chunks.iter().map(|chunk| chunk.text.as_str()).collect();
    }
    let mut output = Output::default();
    for step in chunks.iter().map(|chunk| &chunk.step).collect::<BTreeSet<_>>() {
        let alone = chunks.iter().filter(|chunk| chunk.step == *step).all(|chunk| chunk.task == "0");
        output.step(step, alone.then_some(1));
    }
    let mut lines = Vec::new();
    for chunk in chunks {
        output.live(chunk);
        // Flushed one by one: a log shows every line, also those that many tasks have in common.
        lines.extend(output.flush());
    }
    output.end_lines();
    lines.extend(output.flush());
    lines.iter().map(|line| output.show(line) + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(step: &str, task: &str, text: &str) -> Chunk {
        Chunk { step: step.into(), task: task.into(), attempt: 0, micros: 0, stream: "stdout".into(), text: text.into() }
    }

    #[test]
    fn a_path_names_a_run_a_step_or_a_task() {
        assert_eq!(parse("brisk-otter-41").unwrap(), ("brisk-otter-41".into(), vec![]));
        assert_eq!(parse("r/work/3.1").unwrap(), ("r".into(), vec![("step", "work".into()), ("task", "3.1".into())]));
        assert!(parse("").is_err() && parse("r/").is_err() && parse("a/b/c/d").is_err());
    }

    #[test]
    fn one_task_is_shown_as_it_printed_and_many_with_labels() {
        assert_eq!(text(&[chunk("work", "0", "a\nb")]), "a\nb");
        assert_eq!(text(&[chunk("work", "0", "a\n"), chunk("work", "1", "a\n")]), "  work[0] │ a\n  work[1] │ a\n");
        assert_eq!(text(&[chunk("start", "0", "a\n"), chunk("end", "0", "b\n")]), "  start │ a\n  end │ b\n");
    }
}
