//! Failures of user code as people want to see them: where, the line itself with a caret, what was said, and which other tasks failed
//! alike. One block per distinct failure.

use std::path::Path;

use causey_protocol::task::ErrorInfo;

use crate::client::answer::{Failures, RunView, State};
use crate::screen::format::one_line;
use crate::screen::paint::Paint;

/// Tasks named in a block; more are counted.
const TASKS_NAMED: usize = 5;

/// Blocks shown; more are counted.
const BLOCKS_MAX: usize = 5;

/// What to show besides what the run says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Context<'a> {
    /// The folder of the flow file, whose lines are quoted while they still are what the error quotes.
    pub(crate) sources: Option<&'a Path>,
    /// What was typed to run the flow.
    pub(crate) again: Option<&'a str>,
    pub(crate) paint: Paint,
}

/// All failures of a run that has ended, and what can be done.
pub(crate) fn blocks(run: &RunView, context: Context<'_>) -> Vec<String> {
    let failures: Vec<(&str, bool, &Failures)> = run
        .steps
        .iter()
        .flat_map(|step| step.failures.iter().map(|failure| (step.step.as_str(), step.total != Some(1), failure)))
        .collect();
    let mut lines = Vec::new();
    for (step, wide, failure) in failures.iter().take(BLOCKS_MAX) {
        lines.extend(block(run, step, *wide, failure, context));
        lines.push(String::new());
    }
    if failures.len() > BLOCKS_MAX {
        lines.push(format!("  and {} more kinds of failure: causey show {}", failures.len() - BLOCKS_MAX, run.name));
    }
    let paint = context.paint;
    if let Some(problem) = run.problem.as_ref().filter(|_| failures.is_empty()) {
        let cancelled = run.state == State::Cancelled;
        let mark = if cancelled { " ".to_owned() } else { paint.red("✘") };
        lines.push(format!("{mark} {}  {}", problem.message, paint.dim(&problem.code.to_string())));
    }
    // The problem of a run is the error of the step that ended it, whose block has said this.
    let is_said = |hint: &String| failures.iter().take(BLOCKS_MAX).any(|(_, _, failure)| failure.error.hint.as_ref() == Some(hint));
    let hint = run.problem.as_ref().and_then(|problem| problem.hint.clone()).filter(|hint| !is_said(hint));
    let again = context.again.filter(|_| run.state == State::Failed).map(|again| format!("mend the step, then: {again}"));
    lines.extend(hint.or(again).map(|hint| format!("  {}  {hint}", paint.bold("help"))));
    lines
}

fn block(run: &RunView, step: &str, wide: bool, failure: &Failures, context: Context<'_>) -> Vec<String> {
    let paint = context.paint;
    let error = &failure.error;
    let label = |task: &str| if wide || task != "0" { format!("{step}[{task}]") } else { step.to_owned() };
    let first = failure.tasks.first().map_or("0", String::as_str);
    let code = run.problem.as_ref().map(|problem| paint.dim(&problem.code.to_string())).unwrap_or_default();
    let mut lines = vec![format!("{} {} failed  {code}", paint.red("✘"), label(first)).trim_end().to_owned(), String::new()];
    lines.extend(place(error, context));
    lines.push(String::new());
    let others = failure.count.saturating_sub(1);
    if others > 0 {
        let named: Vec<String> = failure.tasks.iter().skip(1).take(TASKS_NAMED).map(|task| label(task)).collect();
        let more = if (named.len() as u64) < others { ", …" } else { "" };
        let noun = if others == 1 { "task" } else { "tasks" };
        lines.push(format!("  same error in {others} more {noun}: {}{more}", named.join(", ")));
    }
    lines.push(format!("  log: causey logs {}/{step}/{first}", run.name));
    // Errors of Python have theirs in their text.
    let hint = error.hint.as_deref().or_else(|| Some(error.message.split_once("\nhint: ")?.1));
    lines.extend(hint.map(|hint| format!("  {}  {hint}", paint.bold("help"))));
    lines
}

/// The place in the source with a caret under what went wrong, else the end of the traceback.
fn place(error: &ErrorInfo, context: Context<'_>) -> Vec<String> {
    let said = said(error);
    let (Some(file), Some(number)) = (&error.file, error.line) else {
        let traceback: Vec<&str> = error.traceback.lines().filter(|line| !line.trim().is_empty()).collect();
        let tail = traceback[traceback.len().saturating_sub(12)..].iter().map(|line| format!("  {}", one_line(line, 200)));
        // A traceback ends with the message; the last words of a command do not know it.
        let is_told = error.message.lines().next().is_some_and(|line| !line.is_empty() && error.traceback.contains(line));
        return (!is_told).then(|| format!("  {said}")).into_iter().chain(tail).collect();
    };
    let step = error.step.as_ref().map(|step| format!("  in {step}")).unwrap_or_default();
    let mut lines = vec![format!("  {file}:{number}{step}")];
    let Some(source) = error.source.as_deref().filter(|source| !source.trim().is_empty()) else {
        lines.push(format!("  {said}"));
        return lines;
    };
    let quoted = quote(file, number, source, context.sources);
    let (previous, text) = quoted.as_ref().map_or((None, source), |(previous, text)| (previous.as_deref(), text.as_str()));
    if let Some(previous) = previous.filter(|line| !line.trim().is_empty()) {
        lines.push(format!("  {:>5} | {previous}", number - 1));
    }
    lines.push(format!("  {number:>5} | {text}"));
    let (from, length) = caret(error, source, text);
    lines.push(format!("        | {}{} {said}", " ".repeat(from), context.paint.red(&"^".repeat(length))));
    lines
}

fn said(error: &ErrorInfo) -> String {
    let message = one_line(&error.message, 300);
    if message.is_empty() { error.kind.clone() } else { format!("{}: {message}", error.kind) }
}

/// The line before and the line itself, if the file still holds what the error quotes.
fn quote(file: &str, number: u32, source: &str, folder: Option<&Path>) -> Option<(Option<String>, String)> {
    let text = std::fs::read_to_string(folder?.join(file)).ok()?;
    let at = usize::try_from(number).ok()?.checked_sub(1)?;
    let line = text.lines().nth(at).filter(|line| line.trim() == source.trim())?;
    let previous = at.checked_sub(1).and_then(|at| text.lines().nth(at)).map(str::to_owned);
    Some((previous, line.to_owned()))
}

/// Where to put how many carets under `text`. Columns count characters in the file's line; `source` may have lost its indent, and then
/// the whole text is marked rather than the wrong part.
fn caret(error: &ErrorInfo, source: &str, text: &str) -> (usize, usize) {
    let indent = text.chars().take_while(|c| c.is_whitespace()).count();
    let whole = (indent, text.trim().chars().count().max(1));
    let (Some(from), Some(to)) = (error.column, error.end_column) else { return whole };
    let (from, to) = (from as usize, to as usize);
    let exact = text != source || source.starts_with(char::is_whitespace);
    if exact && from < to && to <= text.chars().count() { (from, to - from) } else { whole }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::answer::StepView;
    use causey_protocol::problem::{Code, Problem};

    fn failed(error: ErrorInfo, tasks: &[&str]) -> RunView {
        let tasks: Vec<String> = tasks.iter().map(|task| (*task).to_owned()).collect();
        let failures = vec![Failures { count: tasks.len() as u64, error, tasks }];
        let work = StepView { step: "work".into(), state: State::Failed, total: Some(3), failures, ..StepView::default() };
        let problem = Some(Problem::new(Code::USER_CODE, "step `work` failed"));
        RunView { name: "brisk-otter-41".into(), state: State::Failed, steps: vec![work], problem, ..RunView::default() }
    }

    fn name_error() -> ErrorInfo {
        ErrorInfo {
            kind: "NameError".into(),
            message: "name 'undefined' is not defined".into(),
            file: Some("hello.py".into()),
            line: Some(2),
            step: Some("work".into()),
            source: Some("self.y = self.input * undefined".into()),
            column: Some(30),
            end_column: Some(39),
            ..ErrorInfo::default()
        }
    }

    fn text(run: &RunView, sources: Option<&Path>) -> String {
        blocks(run, Context { sources, again: Some("causey resume brisk-otter-41 hello.py"), paint: Paint::plain() }).join("\n")
    }

    #[test]
    fn a_failure_shows_the_line_the_caret_and_the_other_tasks() {
        let base = tempfile::tempdir().unwrap();
        std::fs::write(base.path().join("hello.py"), "    def work(self):\n        self.y = self.input * undefined\n").unwrap();
        let expected = "\
✘ work[1] failed  CSY-2101

  hello.py:2  in work
      1 |     def work(self):
      2 |         self.y = self.input * undefined
        |                               ^^^^^^^^^ NameError: name 'undefined' is not defined

  same error in 2 more tasks: work[0], work[2]
  log: causey logs brisk-otter-41/work/1

  help  mend the step, then: causey resume brisk-otter-41 hello.py";
        assert_eq!(text(&failed(name_error(), &["1", "0", "2"]), Some(base.path())), expected);
    }

    #[test]
    fn without_the_file_the_whole_quoted_line_is_marked() {
        let shown = text(&failed(name_error(), &["1"]), None);
        assert!(
            shown.contains("      2 | self.y = self.input * undefined\n        | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ NameError"),
            "{shown}"
        );
    }

    #[test]
    fn a_failure_without_a_place_shows_the_end_of_its_traceback() {
        let error = ErrorInfo { kind: "HostDied".into(), message: "was killed by SIGKILL".into(), ..ErrorInfo::default() };
        assert!(text(&failed(error.clone(), &["0"]), None).contains("  HostDied: was killed by SIGKILL\n"));
        let traced = ErrorInfo { traceback: "Traceback\n  File x\nHostDied: y".into(), message: "y".into(), ..error.clone() };
        assert!(text(&failed(traced, &["0"]), None).contains("\n\n  Traceback\n    File x\n  HostDied: y\n"));
        let command =
            ErrorInfo { kind: "exit 7".into(), message: "it ended with exit status 7".into(), traceback: "the reason\n".into(), ..error };
        assert!(text(&failed(command, &["0"]), None).contains("\n\n  exit 7: it ended with exit status 7\n  the reason\n"));
    }

    #[test]
    fn what_helps_is_said_once() {
        let error =
            ErrorInfo { kind: "exit 127".into(), message: "not found".into(), hint: Some("install it".into()), ..ErrorInfo::default() };
        let mut run = failed(error, &["0"]);
        run.problem = Some(Problem::new(Code::USER_CODE, "step `work` failed").hint("install it"));
        let shown = text(&run, None);
        assert_eq!(shown.matches("install it").count(), 1, "{shown}");
        assert!(shown.ends_with("  help  mend the step, then: causey resume brisk-otter-41 hello.py"), "{shown}");
    }

    #[test]
    fn a_run_without_failed_steps_shows_its_problem() {
        let problem = Problem::new(Code::GRAPH, "no step").hint("add one");
        let run = RunView { state: State::Aborted, problem: Some(problem), ..RunView::default() };
        assert_eq!(text(&run, None), "✘ no step  CSY-1101\n  help  add one");
    }
}
