//! `causey logs RUN[/STEP[/TASK]]`: what attempts have printed, and with `-f` what they print.

use std::collections::{BTreeSet, HashMap};

use anstream::adapter::StripBytes;
use causey_protocol::live::news;
use serde_json::json;

use crate::arguments::{Colour, Logs};
use crate::client::answer::{Chunk, Chunks, Gap, RunView};
use crate::client::stream::EventStream;
use crate::exit::Exit;
use crate::fault::{self, Fault};
use crate::screen::format::count;
use crate::screen::live::{print_json, print_text};
use crate::screen::output::Output;
use crate::screen::paint::Paint;
use crate::session::{Session, with_server};

/// Runs the command.
///
/// # Errors
/// When the path is none, or there is no such run.
pub(crate) async fn run(arguments: &Logs) -> Result<Exit, Fault> {
    let (run, mut query) = parse(&arguments.path)?;
    let lone = query.len() == 2;
    query.extend(arguments.attempt.map(|attempt| ("attempt", attempt.to_string())));
    if let Some(since) = &arguments.since {
        query.push(("since", since_micros(since)?.to_string()));
    }
    let colour = match arguments.color {
        Colour::Always => true,
        Colour::Never => false,
        Colour::Auto => Paint::stdout().has_colour(),
    };
    let screen = Screen { json: arguments.json, colour, lone, ..Screen::default() };
    with_server(&arguments.place, async |session| {
        if arguments.follow {
            return follow(session, &run, query, screen).await;
        }
        let answer: Chunks = session.client.get(&["runs", &run, "logs"], &query).await?;
        if answer.truncated {
            query.push(("ended", "true".into()));
            follow(session, &run, query, screen).await?;
        } else if arguments.json {
            answer.chunks.iter().for_each(|chunk| print_json(&json!(chunk)));
        } else {
            print_text(&text(&answer.chunks, colour));
        }
        if answer.open > 0 {
            eprintln!("{} still under way; causey logs -f shows what they print", count(answer.open, "attempt"));
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

/// A moment, or how long ago it was, in microseconds since 1970.
fn since_micros(text: &str) -> Result<u64, Fault> {
    let moment = || {
        if let Ok(moment) = text.parse::<jiff::Timestamp>() {
            return Some(moment);
        }
        let span = text.parse::<jiff::Span>().ok()?;
        Some(jiff::Zoned::now().checked_sub(span).ok()?.timestamp())
    };
    let micros = moment().and_then(|moment| u64::try_from(moment.as_microsecond()).ok());
    micros.ok_or_else(|| {
        Fault::new(Exit::Usage, fault::ARGUMENT, format!("--since {text:?} is no moment"))
            .hint("write how long ago it was, such as 10m or 2h, or when, such as 2026-11-24T12:00:00Z")
    })
}

/// The bare text of one task; labelled lines where there are several.
fn text(chunks: &[Chunk], colour: bool) -> String {
    let tasks: BTreeSet<_> = chunks.iter().map(|chunk| (&chunk.step, &chunk.task, chunk.attempt)).collect();
    if tasks.len() <= 1 {
        let mut bare = Bare::default();
        return chunks.iter().map(|chunk| bare.show(chunk, colour)).collect();
    }
    let mut output = Output::with_colour(colour);
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

/// Text as a task printed it. An escape sequence may be cut between two chunks of a stream.
#[derive(Debug, Default)]
struct Bare(HashMap<String, StripBytes>);

impl Bare {
    fn show(&mut self, chunk: &Chunk, colour: bool) -> String {
        if colour {
            return chunk.text.clone();
        }
        let pieces = self.0.entry(chunk.stream.clone()).or_default().strip_next(chunk.text.as_bytes());
        String::from_utf8_lossy(&pieces.collect::<Vec<_>>().concat()).into_owned()
    }
}

async fn follow(session: &mut Session, run: &str, query: Query, mut screen: Screen) -> Result<Exit, Fault> {
    let view: RunView = session.client.get(&["runs", run], &[]).await?;
    screen.output = Output::with_colour(screen.colour);
    view.steps.iter().for_each(|step| screen.output.step(&step.step, step.total));
    let mut stream = EventStream::new(&session.client, &["runs", run, "logs", "follow"], query, None);
    loop {
        let message = stream.next().await?;
        let unreadable = |error: serde_json::Error| {
            Fault::new(Exit::Failed, fault::ANSWER, format!("the server's event `{}` cannot be read", message.event)).detail(error)
        };
        match message.event.as_str() {
            "output" => screen.chunk(serde_json::from_str(&message.data).map_err(unreadable)?),
            "gap" => screen.gap(&serde_json::from_str(&message.data).map_err(unreadable)?),
            "truncated" => eprintln!("this is not all of it; name a step or a task: causey logs {run}/STEP/TASK"),
            "end" => {
                screen.end();
                return Ok(Exit::Ok);
            }
            // A newer server may tell more.
            _ => {}
        }
    }
}

/// Shows a log as it grows.
#[derive(Debug, Default)]
struct Screen {
    json: bool,
    colour: bool,
    /// Whether one task is followed.
    lone: bool,
    output: Output,
    bare: Bare,
    /// How far each attempt has been shown: a server that was lost tells from the beginning.
    shown: HashMap<(String, String, u32), u64>,
    attempt: Option<u32>,
}

impl Screen {
    fn chunk(&mut self, chunk: Chunk) {
        let Some(chunk) = self.news(chunk) else { return };
        if self.json {
            print_json(&json!(chunk));
        } else if self.lone {
            if self.attempt.replace(chunk.attempt).is_some_and(|before| before != chunk.attempt) {
                eprintln!("── attempt {} ──", chunk.attempt);
            }
            print_text(&self.bare.show(&chunk, self.colour));
        } else {
            self.output.live(&chunk);
            self.print_lines();
        }
    }

    /// What of it has not been shown.
    fn news(&mut self, mut chunk: Chunk) -> Option<Chunk> {
        let shown = self.shown.entry((chunk.step.clone(), chunk.task.clone(), chunk.attempt)).or_default();
        let end = chunk.position + chunk.text.len() as u64;
        let (position, text) = news(chunk.position, &chunk.text, *shown)?;
        if text.len() < chunk.text.len() {
            (chunk.position, chunk.text) = (position, text.to_owned());
        }
        *shown = end;
        Some(chunk)
    }

    fn gap(&mut self, gap: &Gap) {
        let Gap { step, task, attempt, from, to } = gap;
        let shown = self.shown.entry((step.clone(), task.clone(), *attempt)).or_default();
        if to <= shown {
            return;
        }
        *shown = *to;
        if self.json {
            print_json(&json!({"gap": gap}));
        } else {
            let bytes = to - from;
            eprintln!("[{bytes} bytes of {step}/{task} are not shown here; causey logs has them once the attempt has ended]");
        }
    }

    fn end(&mut self) {
        self.output.end_lines();
        self.print_lines();
    }

    fn print_lines(&mut self) {
        let lines = self.output.flush();
        if !lines.is_empty() && !self.json {
            print_text(&lines.iter().map(|line| self.output.show(line) + "\n").collect::<String>());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(step: &str, task: &str, text: &str) -> Chunk {
        Chunk { step: step.into(), task: task.into(), stream: "stdout".into(), text: text.into(), ..Chunk::default() }
    }

    #[test]
    fn a_path_names_a_run_a_step_or_a_task() {
        assert_eq!(parse("brisk-otter-41").unwrap(), ("brisk-otter-41".into(), vec![]));
        assert_eq!(parse("r/work/3.1").unwrap(), ("r".into(), vec![("step", "work".into()), ("task", "3.1".into())]));
        assert!(parse("").is_err() && parse("r/").is_err() && parse("a/b/c/d").is_err());
    }

    #[test]
    fn one_task_is_shown_as_it_printed_and_many_with_labels() {
        assert_eq!(text(&[chunk("work", "0", "a\nb")], false), "a\nb");
        assert_eq!(text(&[chunk("work", "0", "a\n"), chunk("work", "1", "a\n")], false), "  work[0] │ a\n  work[1] │ a\n");
        assert_eq!(text(&[chunk("start", "0", "a\n"), chunk("end", "0", "b\n")], false), "  start │ a\n  end │ b\n");
    }

    #[test]
    fn colours_are_shown_as_printed_or_not_at_all_wherever_they_are_cut() {
        let cut = [chunk("work", "0", "\x1b[3"), chunk("work", "0", "1mred\x1b[0m\r50 %\r")];
        assert_eq!(text(&cut, true), "\x1b[31mred\x1b[0m\r50 %\r");
        assert_eq!(text(&cut, false), "red\r50 %\r");
    }

    #[test]
    fn what_a_server_tells_again_is_shown_once() {
        let mut screen = Screen::default();
        let mut news = |position, text: &str| screen.news(Chunk { position, ..chunk("work", "0", text) }).map(|chunk| chunk.text);
        assert_eq!(
            [news(0, "one "), news(4, "two "), news(0, "one "), news(4, "two three")],
            [Some("one ".into()), Some("two ".into()), None, Some("three".into())]
        );
    }

    #[test]
    fn a_beginning_is_a_moment_or_how_long_ago_it_was() {
        assert_eq!(since_micros("1970-01-01T00:00:01Z").unwrap(), 1_000_000);
        assert!(since_micros("1h").unwrap() + 3_590_000_000 < since_micros("0s").unwrap());
        assert!(since_micros("2d").is_ok() && since_micros("yesterday").is_err());
    }
}
