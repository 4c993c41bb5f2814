//! A run as a tree of steps: one row per step, however many tasks it has.

use crate::client::answer::{RunView, State, StepView, Usage};
use crate::screen::format::{count, duration};
use crate::screen::paint::Paint;
use crate::screen::waits;

/// Characters of a progress bar.
const BAR: u64 = 17;

/// One row per step. `now` is in microseconds since 1970.
pub(crate) fn rows(run: &RunView, now: u64, paint: Paint) -> Vec<String> {
    let names = run.steps.iter().map(|step| step.step.chars().count()).max().unwrap_or_default();
    let done = run.steps.iter().map(|step| progress(step).chars().count()).max().unwrap_or_default();
    let row = |step| {
        let row = row(step, names, done, now, paint);
        waits::of_step(run, &step.step).map_or(row.clone(), |waits| format!("{row}   {}", paint.yellow(&waits)))
    };
    run.steps.iter().map(row).collect()
}

fn row(step: &StepView, names: usize, done: usize, now: u64, paint: Paint) -> String {
    let state = shown_state(step);
    let mut row = format!("  {} {:names$}  {:>done$}", mark(state, paint), step.step, progress(step));
    let active = state == State::Running;
    if active && step.total.is_some_and(|total| total > 1) {
        row += &format!("   {}", bar(step));
    }
    if let Some(started) = step.first_started {
        let until = if active { now } else { step.last_finished.unwrap_or(now) };
        row += &format!("   {:>7}", duration(until.saturating_sub(started)));
    }
    if active && step.total.is_some_and(|total| total > 1) {
        row += &format!("   {} running · {} failed", step.counts.running, step.counts.failed);
        row += &eta(step, now).map(|micros| format!(" · eta {}", duration(micros))).unwrap_or_default();
    } else if step.counts.failed + step.counts.cancelled + step.counts.aborted > 0 {
        row += &format!("   {}", paint.dim(&endings(step)));
    }
    if step.reused > 0 {
        row += &format!("   {}", paint.dim(&reused(step)));
    }
    if let Some(usage) = step.usage {
        row += &format!("   {}", paint.dim(&used(usage)));
    }
    row
}

/// `peak 120 MiB · cpu 3.4 s`
fn used(usage: Usage) -> String {
    let cpu = usage.cpu_millis.map(|millis| format!(" · cpu {}", duration(millis * 1_000))).unwrap_or_default();
    format!("peak {} MiB{cpu}", usage.peak_memory_bytes / (1024 * 1024))
}

/// A step that has begun counts as running until its last task has ended, also between two tasks.
fn shown_state(step: &StepView) -> State {
    let begun = step.first_started.is_some() || step.counts.ended() > 0;
    match step.state {
        State::Pending | State::Waiting | State::Ready | State::Dispatched if begun => State::Running,
        state => state,
    }
}

fn mark(state: State, paint: Paint) -> String {
    match state {
        State::Pending | State::Waiting | State::Ready | State::Dispatched => paint.dim("·"),
        State::Running => paint.cyan("◐"),
        State::Succeeded => paint.green("✔"),
        State::Failed => paint.red("✘"),
        State::Cancelled | State::Aborted => paint.yellow("⊘"),
        State::Skipped => paint.dim("-"),
    }
}

fn progress(step: &StepView) -> String {
    let total = step.total.map_or_else(|| "?".to_owned(), |total| total.to_string());
    format!("{}/{total}", step.counts.succeeded)
}

fn bar(step: &StepView) -> String {
    let total = step.total.unwrap_or(1).max(1);
    let filled = step.counts.ended().min(total) * BAR / total;
    (0..BAR).map(|place| if place < filled { '▇' } else { '░' }).collect()
}

/// What is left, at the pace so far.
fn eta(step: &StepView, now: u64) -> Option<u64> {
    let (ended, total) = (step.counts.ended(), step.total?);
    let elapsed = now.checked_sub(step.first_started?)?;
    (ended > 0 && total > ended).then(|| elapsed / ended * (total - ended))
}

fn reused(step: &StepView) -> String {
    if step.total == Some(1) { "reused".to_owned() } else { format!("{} reused", step.reused) }
}

fn endings(step: &StepView) -> String {
    let counts = [(step.counts.failed, "failed"), (step.counts.cancelled, "cancelled"), (step.counts.aborted, "aborted")];
    counts.iter().filter(|(number, _)| *number > 0).map(|(number, word)| format!("{number} {word}")).collect::<Vec<_>>().join(" · ")
}

/// `Hello  brisk-otter-41   4 steps`
pub(crate) fn heading(run: &RunView, paint: Paint) -> String {
    format!("{}  {}   {}", paint.bold(&run.flow), run.name, count(run.steps.len() as u64, "step"))
}

/// The last line of a run.
pub(crate) fn summary(run: &RunView, paint: Paint) -> String {
    let took = run.finished.zip(run.started.or(run.created)).map(|(end, start)| duration(end.saturating_sub(start)));
    let took = took.map(|took| format!(" in {took}")).unwrap_or_default();
    let tasks = run.tasks.ended() + run.tasks.open();
    let word = match run.state {
        State::Succeeded => "finished",
        state => state.word(),
    };
    format!("{} {} {word}{took} · {} · causey show {}", mark(run.state, paint), run.name, count(tasks, "task"), run.name)
}

/// The lines for an output that is no terminal: one per step whose state or outcome has changed since `before`.
pub(crate) fn changes(before: Option<&RunView>, run: &RunView, now: u64) -> Vec<String> {
    let earlier = |name: &str| before.and_then(|before| before.steps.iter().find(|step| step.step == name)).map(shown_state);
    let names = run.steps.iter().map(|step| step.step.chars().count()).max().unwrap_or_default();
    let changed = run.steps.iter().filter(|step| {
        let state = shown_state(step);
        earlier(&step.step) != Some(state) && (matches!(state, State::Running | State::Waiting) || state.is_terminal())
    });
    let told = |step: &StepView| {
        let line = line(step, names, now);
        waits::of_step(run, &step.step).map_or(line.clone(), |waits| format!("{line}  {waits}"))
    };
    changed.map(told).collect()
}

fn line(step: &StepView, names: usize, now: u64) -> String {
    let state = shown_state(step);
    let mut line = format!("{:names$}  {:9}  {}", step.step, state.word(), progress(step));
    if let Some(started) = step.first_started.filter(|_| state.is_terminal()) {
        line += &format!("  {}", duration(step.last_finished.unwrap_or(now).saturating_sub(started)));
    }
    if state.is_terminal() && step.counts.failed + step.counts.cancelled + step.counts.aborted > 0 {
        line += &format!("  {}", endings(step));
    }
    if state.is_terminal() && step.reused > 0 {
        line += &format!("  {}", reused(step));
    }
    line
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::client::answer::Counts;

    const T0: u64 = 1_700_000_000_000_000;

    fn step(name: &str, state: State, total: Option<u64>, counts: Counts) -> StepView {
        StepView { step: name.into(), state, total, counts, ..StepView::default() }
    }

    #[test]
    fn a_step_shows_what_it_has_used_where_that_is_known() {
        let mut work = step("work", State::Succeeded, Some(1), Counts { succeeded: 1, ..Counts::default() });
        work.usage = Some(Usage { tasks: 1, peak_memory_bytes: 120 << 20, cpu_millis: Some(3_400) });
        assert!(row(&work, 4, 3, T0, Paint::plain()).ends_with("   peak 120 MiB · cpu 3.4 s"));
        work.usage = Some(Usage { cpu_millis: None, ..work.usage.unwrap() });
        assert!(row(&work, 4, 3, T0, Paint::plain()).ends_with("   peak 120 MiB"));
    }

    pub(crate) fn run() -> RunView {
        let succeeded = |succeeded| Counts { succeeded, ..Counts::default() };
        let mut start = step("start", State::Succeeded, Some(1), succeeded(1));
        (start.first_started, start.last_finished) = (Some(T0), Some(T0 + 41_000));
        let mut work = step("work", State::Running, Some(3), Counts { succeeded: 2, running: 1, ..Counts::default() });
        work.first_started = Some(T0 + 50_000);
        let steps = vec![
            start,
            work,
            step("join", State::Pending, Some(1), Counts::default()),
            step("end", State::Pending, None, Counts::default()),
        ];
        RunView {
            name: "brisk-otter-41".into(),
            flow: "HelloFlow".into(),
            state: State::Running,
            started: Some(T0),
            steps,
            ..RunView::default()
        }
    }

    #[test]
    fn a_running_foreach_is_one_row_with_a_bar() {
        let expected = [
            "  ✔ start  1/1     41 ms",
            "  ◐ work   2/3   ▇▇▇▇▇▇▇▇▇▇▇░░░░░░     0.4 s   1 running · 0 failed · eta 0.2 s",
            "  · join   0/1",
            "  · end    0/?",
        ];
        assert_eq!(rows(&run(), T0 + 450_000, Paint::plain()), expected);
    }

    #[test]
    fn a_failed_step_counts_its_endings() {
        let mut run = run();
        run.steps[1].state = State::Failed;
        run.steps[1].last_finished = Some(T0 + 450_000);
        run.steps[1].counts = Counts { succeeded: 1, failed: 1, aborted: 1, ..Counts::default() };
        assert_eq!(rows(&run, T0, Paint::plain())[1], "  ✘ work   1/3     0.4 s   1 failed · 1 aborted");
    }

    #[test]
    fn a_row_says_how_many_results_are_those_of_an_earlier_run() {
        let mut run = run();
        (run.steps[0].reused, run.steps[1].reused) = (1, 2);
        let rows = rows(&run, T0 + 450_000, Paint::plain());
        assert_eq!(rows[0], "  ✔ start  1/1     41 ms   reused");
        assert!(rows[1].ends_with("   2 reused"), "{}", rows[1]);
    }

    #[test]
    fn heading_and_summary_name_the_run() {
        let mut run = run();
        assert_eq!(heading(&run, Paint::plain()), "HelloFlow  brisk-otter-41   4 steps");
        (run.state, run.finished) = (State::Succeeded, Some(T0 + 900_000));
        run.tasks.succeeded = 6;
        assert_eq!(summary(&run, Paint::plain()), "✔ brisk-otter-41 finished in 0.9 s · 6 tasks · causey show brisk-otter-41");
    }

    #[test]
    fn without_a_terminal_there_is_one_line_per_change_of_state() {
        let (first, mut second) = (run(), run());
        assert_eq!(changes(None, &first, T0), ["start  succeeded  1/1  41 ms", "work   running    2/3"]);
        assert!(changes(Some(&first), &second, T0).is_empty());
        second.steps[1].state = State::Succeeded;
        second.steps[1].counts.succeeded = 3;
        second.steps[1].last_finished = Some(T0 + 450_000);
        assert_eq!(changes(Some(&first), &second, T0), ["work   succeeded  3/3  0.4 s"]);
    }
}
