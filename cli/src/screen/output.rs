//! What tasks print, as lines with a short label. Equal lines from many tasks of a step are told once with a count. Pure: chunks in,
//! lines out; the caller decides when to flush.

use std::collections::HashMap;

use serde::Serialize;

use crate::client::answer::Chunk;
use crate::screen::ansi;

/// Longest line shown, in characters; the whole text is in `causey logs`.
const LINE_MAX: usize = 2_000;

/// Lines remembered to find out at the end which ones the live stream has lost.
const SEEN_MAX: usize = 20_000;

/// Longest unfinished line kept back, in bytes.
const PARTIAL_BYTES_MAX: usize = 64 * 1024;

type Task = (String, String, u32);

/// A line that one or more tasks of a step have printed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Line {
    pub(crate) step: String,
    pub(crate) tasks: Vec<String>,
    pub(crate) text: String,
}

/// Collects output and gives labelled lines.
#[derive(Debug, Default)]
pub(crate) struct Output {
    /// Text of a line whose end has not come yet, by task and stream.
    partial: HashMap<(Task, String), String>,
    pending: Vec<(String, String, String)>,
    seen: HashMap<(Task, u64), u32>,
    seen_count: usize,
    /// Steps that run more than one task, so that their lines say which.
    wide: HashMap<String, bool>,
    colour: bool,
}

impl Output {
    /// Output that is shown with the colours it was printed in, or without.
    pub(crate) fn with_colour(colour: bool) -> Self {
        Self { colour, ..Self::default() }
    }

    /// Notes whether a step has many tasks.
    pub(crate) fn step(&mut self, name: &str, total: Option<u64>) {
        self.wide.insert(name.to_owned(), total != Some(1));
    }

    /// Takes a chunk of the live stream.
    pub(crate) fn live(&mut self, chunk: &Chunk) {
        for line in self.lines_of(chunk) {
            self.remember(chunk, &line);
            self.pending.push((chunk.step.clone(), chunk.task.clone(), line));
        }
    }

    /// Takes the stored output of ended attempts and keeps of it what the live stream has not brought.
    pub(crate) fn stored(&mut self, chunks: &[Chunk]) {
        self.end_lines();
        if self.seen_count >= SEEN_MAX {
            return;
        }
        let mut missing = Vec::new();
        let mut whole = Self::default();
        for chunk in chunks {
            for line in whole.lines_of(chunk) {
                missing.push((task_of(chunk), line));
            }
        }
        for ((task, _), line) in whole.partial.drain() {
            missing.push((task, line));
        }
        for (task, line) in missing {
            let (step, place) = (task.0.clone(), task.1.clone());
            match self.seen.get_mut(&(task, line_hash(&line))) {
                Some(count) if *count > 0 => *count -= 1,
                _ => self.pending.push((step, place, line)),
            }
        }
    }

    /// Whether the stored output is worth asking for.
    pub(crate) fn can_compare(&self) -> bool {
        self.seen_count < SEEN_MAX
    }

    /// Gives the lines collected so far. Equal lines of one step are put together at the place of the first.
    pub(crate) fn flush(&mut self) -> Vec<Line> {
        let pending = std::mem::take(&mut self.pending);
        let mut lines: Vec<Line> = Vec::new();
        let mut places: HashMap<(String, String), usize> = HashMap::new();
        for (step, task, text) in pending {
            let key = (step.clone(), text.clone());
            let collapse = places.get(&key).copied().filter(|place| !lines[*place].tasks.contains(&task));
            match collapse {
                Some(place) => lines[place].tasks.push(task),
                None => {
                    places.insert(key, lines.len());
                    lines.push(Line { step, tasks: vec![task], text });
                }
            }
        }
        lines
    }

    /// A line with its label.
    pub(crate) fn show(&self, line: &Line) -> String {
        let text = if self.colour { ansi::coloured(&line.text, LINE_MAX) } else { ansi::plain(&line.text, LINE_MAX) };
        format!("  {} │ {text}", self.label(&line.step, &line.tasks))
    }

    /// Ends all lines: no more will come.
    pub(crate) fn end_lines(&mut self) {
        let mut partial: Vec<_> = self.partial.drain().collect();
        partial.sort();
        for ((task, _), line) in partial {
            let line = last_rewrite(&line).to_owned();
            self.remember_line(task.clone(), &line);
            self.pending.push((task.0, task.1, line));
        }
    }

    fn label(&self, step: &str, tasks: &[String]) -> String {
        match tasks {
            [task] if task == "0" && self.wide.get(step) == Some(&false) => step.to_owned(),
            [task] => format!("{step}[{task}]"),
            tasks => format!("{step} ×{}", tasks.len()),
        }
    }

    fn lines_of(&mut self, chunk: &Chunk) -> Vec<String> {
        let key = (task_of(chunk), chunk.stream.clone());
        let mut text = self.partial.remove(&key).unwrap_or_default();
        text.push_str(&chunk.text);
        let (whole, rest) = text.rsplit_once('\n').map_or((None, text.as_str()), |(whole, rest)| (Some(whole), rest));
        let mut lines: Vec<String> =
            whole.into_iter().flat_map(|whole| whole.split('\n')).map(|line| last_rewrite(line).to_owned()).collect();
        // A return at its end says that what comes next takes its place.
        let returns = &rest[rest.trim_end_matches('\r').len()..];
        let rest = format!("{}{returns}", last_rewrite(rest));
        if rest.len() > PARTIAL_BYTES_MAX {
            lines.push(rest);
        } else if !rest.is_empty() {
            self.partial.insert(key, rest);
        }
        lines
    }

    fn remember(&mut self, chunk: &Chunk, line: &str) {
        self.remember_line(task_of(chunk), line);
    }

    fn remember_line(&mut self, task: Task, line: &str) {
        if self.seen_count < SEEN_MAX {
            self.seen_count += 1;
            *self.seen.entry((task, line_hash(line))).or_default() += 1;
        }
    }
}

fn task_of(chunk: &Chunk) -> Task {
    (chunk.step.clone(), chunk.task.clone(), chunk.attempt)
}

fn line_hash(line: &str) -> u64 {
    let hash = blake3::hash(line.as_bytes());
    hash.as_bytes().iter().take(8).fold(0, |all, byte| all << 8 | u64::from(*byte))
}

/// A progress bar rewrites its line with carriage returns; the last state is the one to show.
fn last_rewrite(line: &str) -> &str {
    line.trim_end_matches('\r').rsplit('\r').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(step: &str, task: &str, text: &str) -> Chunk {
        Chunk { step: step.into(), task: task.into(), stream: "stdout".into(), text: text.into(), ..Chunk::default() }
    }

    fn flush(output: &mut Output) -> Vec<String> {
        let lines = output.flush();
        lines.iter().map(|line| output.show(line)).collect()
    }

    fn output() -> Output {
        let mut output = Output::default();
        output.step("start", Some(1));
        output.step("work", Some(3));
        output
    }

    #[test]
    fn lines_carry_their_step_and_in_a_foreach_their_task() {
        let mut output = output();
        output.live(&chunk("start", "0", "hello\n"));
        output.live(&chunk("work", "1", "doubled 2\n"));
        assert_eq!(flush(&mut output), ["  start │ hello", "  work[1] │ doubled 2"]);
        assert!(flush(&mut output).is_empty());
    }

    #[test]
    fn equal_lines_of_many_tasks_are_told_once_with_a_count() {
        let mut output = output();
        ["0", "1", "2"].iter().for_each(|task| output.live(&chunk("work", task, "loading\n")));
        output.live(&chunk("work", "0", "again\nagain\n"));
        assert_eq!(flush(&mut output), ["  work ×3 │ loading", "  work[0] │ again", "  work[0] │ again"]);
    }

    #[test]
    fn a_line_comes_out_when_it_is_whole_and_a_progress_bar_once() {
        let mut output = output();
        output.live(&chunk("start", "0", "10%\r50%"));
        assert!(flush(&mut output).is_empty());
        output.live(&chunk("start", "0", "\r90%\r"));
        output.live(&chunk("start", "0", "100%\nhalf\r"));
        assert_eq!(flush(&mut output), ["  start │ 100%"]);
        output.end_lines();
        assert_eq!(flush(&mut output), ["  start │ half"]);
    }

    #[test]
    fn what_the_live_stream_lost_is_filled_in_from_the_stored_output() {
        let mut output = output();
        output.live(&chunk("start", "0", "b\n"));
        flush(&mut output);
        output.stored(&[chunk("start", "0", "a\nb\n"), chunk("start", "0", "c")]);
        assert_eq!(flush(&mut output), ["  start │ a", "  start │ c"]);
    }
}
