//! `causey dead-letters`: what was given up on.

use serde_json::{Value, json};

use crate::arguments::{DeadLetters, Letter, LettersLs};
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
/// When there is no such letter, it cannot be done again, or the server cannot be reached.
pub(crate) async fn run(command: &DeadLetters) -> Result<Exit, Fault> {
    match command {
        DeadLetters::Ls(arguments) => list(arguments).await,
        DeadLetters::Show(arguments) => show(arguments).await,
        DeadLetters::Redrive(arguments) => end(arguments, "redrive", "is on its way again").await,
        DeadLetters::Discard(arguments) => end(arguments, "discard", "is discarded").await,
    }
}

async fn list(arguments: &LettersLs) -> Result<Exit, Fault> {
    with_server(&arguments.place, async |session| {
        let answer: Value = session.client.get(&["dead-letters"], &[]).await?;
        let letters = answer["dead_letters"].as_array().map(Vec::as_slice).unwrap_or_default();
        if arguments.json {
            letters.iter().for_each(print_json);
        } else if letters.is_empty() {
            eprintln!("no dead letters");
        } else {
            print_text(&(table::lines(&rows(letters)).join("\n") + "\n"));
        }
        Ok(Exit::Ok)
    })
    .await
}

async fn show(arguments: &Letter) -> Result<Exit, Fault> {
    with_server(&arguments.place, async |session| {
        let letter: Value = session.client.get(&["dead-letters", &arguments.letter], &[]).await?;
        if arguments.json {
            print_json(&letter);
        } else {
            print_text(&text(&letter));
        }
        Ok(Exit::Ok)
    })
    .await
}

async fn end(arguments: &Letter, how: &str, words: &str) -> Result<Exit, Fault> {
    with_server(&arguments.place, async |session| {
        let body = json!({"request_id": random_hex(), "user": given::user(None)});
        let answer: Value = session.client.post(&["dead-letters", &arguments.letter, how], &body).await?;
        if arguments.json {
            print_json(&answer);
        } else if let Some(run) = answer["name"].as_str() {
            eprintln!("dead letter {} is done again by run {run}: causey show {run}", arguments.letter);
        } else {
            eprintln!("dead letter {} {words}", arguments.letter);
        }
        Ok(Exit::Ok)
    })
    .await
}

fn word(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// What a letter is about: a task by its path, a message by its subject and sequence.
fn about(letter: &Value) -> String {
    match letter["kind"].as_str() {
        Some("task") => [&letter["run_name"], &letter["step"], &letter["task"]].map(word).join("/"),
        _ => format!("{} #{}", word(&letter["subject"]), word(&letter["sequence"])),
    }
}

fn rows(letters: &[Value]) -> Vec<Vec<String>> {
    let heading = ["LETTER", "SINCE", "ABOUT", "WHY"].map(str::to_owned).to_vec();
    let row = |letter: &Value| {
        let since = letter["at"].as_u64().map(moment).unwrap_or_default();
        vec![word(&letter["letter"]), since, about(letter), word(&letter["because"])]
    };
    std::iter::once(heading).chain(letters.iter().map(row)).collect()
}

fn text(letter: &Value) -> String {
    let path = about(letter);
    let logs = if letter["kind"] == "task" { format!("causey logs {path}") } else { String::new() };
    let fields = [
        ("why", word(&letter["because"])),
        ("since", letter["at"].as_u64().map(moment).unwrap_or_default()),
        ("flow", word(&letter["flow"])),
        ("worker", word(&letter["worker"])),
        ("logs", logs),
        ("bytes", word(&letter["bytes"])),
        ("headers", letter["original"]["headers"].as_object().map(|headers| Value::from(headers.clone()).to_string()).unwrap_or_default()),
        ("original", word(&letter["original"]["text"])),
    ];
    let lines = fields.iter().filter(|(_, value)| !value.is_empty()).map(|(name, value)| format!("  {name:9}  {value}\n"));
    format!("{} {path}\n{}", word(&letter["letter"]), lines.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_says_what_it_is_about_and_why() {
        let task =
            json!({"letter": "41.0", "kind": "task", "run_name": "brisk-otter-41", "step": "work", "task": "3", "because": "it is poison"});
        let message = json!({"letter": "9.1", "kind": "message", "subject": "causey.event.shop", "sequence": 7, "because": "no JSON", "bytes": 1,
            "original": {"headers": {"ce-id": "1"}, "text": "{"}});
        assert_eq!(rows(std::slice::from_ref(&task))[1], ["41.0", "", "brisk-otter-41/work/3", "it is poison"]);
        assert_eq!(text(&task), "41.0 brisk-otter-41/work/3\n  why        it is poison\n  logs       causey logs brisk-otter-41/work/3\n");
        assert_eq!(
            text(&message),
            "9.1 causey.event.shop #7\n  why        no JSON\n  bytes      1\n  headers    {\"ce-id\":\"1\"}\n  original   {\n"
        );
    }
}
