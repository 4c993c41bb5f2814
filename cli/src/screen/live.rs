//! Where a run's progress is shown: a tree that is drawn anew on a terminal, plain lines elsewhere, JSON Lines for programs. What the
//! flow prints goes to standard output, everything about it to standard error.

use std::io::{IsTerminal as _, Write as _};

use serde_json::{Value, json};

use crate::client::answer::{Chunk, RunView};
use crate::screen::failure::{self, Context};
use crate::screen::format::now;
use crate::screen::output::Output;
use crate::screen::paint::Paint;
use crate::screen::tree;

/// Rows assumed when the terminal does not tell.
const HEIGHT: usize = 24;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Tree,
    Lines,
    Json,
}

/// Shows one run.
#[derive(Debug)]
pub(crate) struct Screen {
    mode: Mode,
    paint: Paint,
    output: Output,
    run: Option<RunView>,
    /// The run as it was when its changes were last told.
    told: Option<RunView>,
    /// Rows of the tree that stand above the cursor.
    drawn: usize,
}

impl Screen {
    pub(crate) fn new(json: bool) -> Self {
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let mode = match (json, std::io::stderr().is_terminal() && !dumb) {
            (true, _) => Mode::Json,
            (false, true) => Mode::Tree,
            (false, false) => Mode::Lines,
        };
        Self { mode, paint: Paint::stderr(), output: Output::with_colour(Paint::stdout().has_colour()), run: None, told: None, drawn: 0 }
    }

    /// A line of talk.
    pub(crate) fn say(&mut self, line: &str) {
        if self.mode != Mode::Json {
            self.erase();
            eprintln!("{line}");
            self.draw();
        }
    }

    /// A remark about the stack.
    pub(crate) fn notice(&mut self, text: &str, event: &Value) {
        match self.mode {
            Mode::Json => print_json(event),
            Mode::Tree | Mode::Lines => self.say(&format!("  {} {text}", self.paint.yellow("!"))),
        }
    }

    /// A new state of the run. `raw` is the server's own word.
    pub(crate) fn run(&mut self, run: RunView, raw: &str) {
        run.steps.iter().for_each(|step| self.output.step(&step.step, step.total));
        match self.mode {
            Mode::Json => {
                if let Ok(raw) = serde_json::from_str::<Value>(raw) {
                    print_json(&json!({"event": "run", "run": raw}));
                }
            }
            Mode::Tree | Mode::Lines => {
                if self.run.is_none() && !run.steps.is_empty() {
                    self.say(&tree::heading(&run, self.paint));
                }
            }
        }
        if !run.steps.is_empty() || self.run.is_none() {
            self.run = Some(run);
        }
    }

    pub(crate) fn chunk(&mut self, chunk: &Chunk) {
        self.output.live(chunk);
    }

    /// Brings the screen up to date; to be called at most ten times a second.
    pub(crate) fn refresh(&mut self) {
        self.erase();
        self.print_output();
        if let (Mode::Lines, Some(run)) = (self.mode, &self.run) {
            for line in tree::changes(self.told.as_ref(), run, now()) {
                eprintln!("{line}");
            }
            self.told = Some(run.clone());
        }
        self.draw();
    }

    /// Whether the stored output is needed to complete what was shown.
    pub(crate) fn wants_stored_output(&self) -> bool {
        self.output.can_compare()
    }

    /// The run's stored output; what the live stream has lost of it is shown now.
    pub(crate) fn stored(&mut self, chunks: &[Chunk]) {
        self.output.stored(chunks);
    }

    /// The run has ended.
    pub(crate) fn end(&mut self, run: &RunView, context: Context<'_>) {
        self.output.end_lines();
        if !run.steps.is_empty() {
            self.run = Some(run.clone());
        }
        self.refresh();
        self.erase();
        if self.mode == Mode::Json {
            print_json(&json!({"event": "end", "run": run}));
            return;
        }
        let mut text = String::new();
        let rows = if self.mode == Mode::Tree {
            self.run.as_ref().map(|run| tree::rows(run, now(), self.paint)).unwrap_or_default()
        } else {
            Vec::new()
        };
        let problems = failure::blocks(run, Context { paint: self.paint, ..context });
        let separator = (!problems.is_empty()).then(String::new);
        for line in rows.into_iter().chain([tree::summary(run, self.paint)]).chain(separator).chain(problems) {
            text += &line;
            text.push('\n');
        }
        eprint!("{text}");
        self.run = None;
    }

    /// Leaves the tree as it stands, for somebody who does not wait for the end.
    pub(crate) fn leave(&mut self) {
        self.output.end_lines();
        self.refresh();
        self.run = None;
        self.drawn = 0;
    }

    fn print_output(&mut self) {
        let lines = self.output.flush();
        if lines.is_empty() {
            return;
        }
        let mut text = String::new();
        for line in &lines {
            match self.mode {
                Mode::Json => text += &json!({"event": "output", "step": line.step, "tasks": line.tasks, "text": line.text}).to_string(),
                Mode::Tree | Mode::Lines => text += &self.output.show(line),
            }
            text.push('\n');
        }
        print_text(&text);
    }

    /// Takes the tree off the terminal, so that lines can be written in its place.
    fn erase(&mut self) {
        if self.drawn > 0 {
            eprint!("\x1b[{}A\r\x1b[J", self.drawn);
            self.drawn = 0;
        }
    }

    fn draw(&mut self) {
        let (Mode::Tree, Some(run)) = (self.mode, &self.run) else { return };
        let rows = fit(tree::rows(run, now(), self.paint), run, height());
        // Without wrapping a long row is cut at the edge instead of taking a second line, which would spoil the count.
        let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
        eprint!("\x1b[?7l{text}\x1b[?7h");
        self.drawn = rows.len();
    }
}

/// At most as many rows as the terminal can take back: first those of steps that run.
fn fit(rows: Vec<String>, run: &RunView, height: usize) -> Vec<String> {
    let room = height.saturating_sub(2).max(1);
    if rows.len() <= room {
        return rows;
    }
    let all = rows.len();
    let active = |place: usize| run.steps.get(place).is_some_and(|step| step.first_started.is_some() && !step.state.is_terminal());
    let mut kept: Vec<String> =
        rows.into_iter().enumerate().filter(|(place, _)| active(*place)).map(|(_, row)| row).take(room - 1).collect();
    kept.push(format!("  … {} more steps", all - kept.len()));
    kept
}

fn height() -> usize {
    rustix::termios::tcgetwinsize(std::io::stderr()).map(|size| usize::from(size.ws_row)).ok().filter(|rows| *rows > 0).unwrap_or(HEIGHT)
}

/// Prints data. A reader that has gone (`causey … | head`) is no error: there is nobody left to tell.
pub(crate) fn print_text(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

/// Prints one JSON line.
pub(crate) fn print_json(value: &Value) {
    print_text(&format!("{value}\n"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_higher_than_the_terminal_keeps_its_running_steps() {
        let run = tree::tests::run();
        let rows: Vec<String> = run.steps.iter().map(|step| step.step.clone()).collect();
        assert_eq!(fit(rows.clone(), &run, 24), rows);
        assert_eq!(fit(rows, &run, 5), ["work", "  … 3 more steps"]);
    }
}
