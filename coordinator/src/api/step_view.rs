//! A step of a run as clients see it: how many tasks in which state, of how many, since when, and its failures grouped. Never a
//! list of all tasks: a foreach may have a million.

use std::collections::BTreeMap;

use causey_engine::{Run, Task, TaskState};
use causey_protocol::flow::{Flow, StepIndex};
use causey_protocol::id::{StepName, Timestamp};
use causey_protocol::record::RunState;
use causey_protocol::task::{ErrorInfo, Usage};
use serde::Serialize;

/// Groups of failures shown of a step, the largest.
const FAILURE_GROUPS_MAX: usize = 10;

/// Tasks named in a group of failures.
const TASKS_NAMED_MAX: usize = 5;

/// Tasks by state. `ready`: items of a foreach that no pool has been offered yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Counts {
    waiting: u64,
    ready: u64,
    dispatched: u64,
    running: u64,
    succeeded: u64,
    failed: u64,
    cancelled: u64,
    aborted: u64,
}

impl Counts {
    pub(super) fn add(&mut self, other: &Self) {
        self.waiting += other.waiting;
        self.ready += other.ready;
        self.dispatched += other.dispatched;
        self.running += other.running;
        self.succeeded += other.succeeded;
        self.failed += other.failed;
        self.cancelled += other.cancelled;
        self.aborted += other.aborted;
    }

    fn open(&self) -> u64 {
        self.waiting + self.ready + self.dispatched + self.running
    }
}

/// Equal failures of a step.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Failures {
    count: u64,
    /// The first of them, in the order of tasks.
    error: ErrorInfo,
    tasks: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct StepView {
    step: StepName,
    state: &'static str,
    /// How many tasks there will be; `None` while a foreach before it has not said.
    total: Option<u64>,
    counts: Counts,
    /// Tasks whose result was taken from an earlier run.
    reused: u32,
    first_started: Option<Timestamp>,
    last_finished: Option<Timestamp>,
    failures: Vec<Failures>,
    /// What attempts that took more than a second have used.
    usage: Option<Used>,
}

/// What the last attempts of some tasks of a step used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
struct Used {
    /// Of how many tasks it is known: neither of short ones nor of those that lie in stored chunks.
    tasks: u64,
    /// The most that one of them had.
    peak_memory_bytes: u64,
    /// Of all of them; `None` where their processes have run other attempts too.
    cpu_millis: Option<u64>,
}

impl Used {
    fn add(before: Option<Self>, usage: Usage) -> Self {
        let Usage { peak_memory_bytes, cpu_millis, memory_limit: _ } = usage;
        let before = before.unwrap_or(Self { cpu_millis: Some(0), ..Self::default() });
        Self {
            tasks: before.tasks + 1,
            peak_memory_bytes: before.peak_memory_bytes.max(peak_memory_bytes),
            cpu_millis: before.cpu_millis.zip(cpu_millis).map(|(before, now)| before + now),
        }
    }
}

pub(super) fn steps(run: &Run, flow: &Flow) -> Vec<StepView> {
    flow.indices().map(|step| view(run, flow, step)).collect()
}

/// Tasks of a step by state, without looking at any task.
pub(super) fn counts(run: &Run, flow: &Flow, step: StepIndex) -> Counts {
    let unopened = if run.state.is_terminal() { 0 } else { unopened(run, flow, step) };
    let mut counts = by_state(&run.step(step).counts, unopened);
    let gated = run.gated_of(step);
    // The items of a foreach that wait together are among those that were not offered.
    counts.ready -= gated.min(counts.ready);
    counts.waiting += gated;
    counts
}

/// Counts in the order of [`TaskState::ALL`] by name.
pub(super) fn by_state(counted: &[u32; 7], ready: u64) -> Counts {
    let count = |state: TaskState| u64::from(counted[state as usize]);
    Counts {
        waiting: count(TaskState::Waiting),
        ready,
        dispatched: count(TaskState::Dispatched),
        running: count(TaskState::Running),
        succeeded: count(TaskState::Succeeded),
        failed: count(TaskState::Failed),
        cancelled: count(TaskState::Cancelled),
        aborted: count(TaskState::Aborted),
    }
}

/// Items of the foreach, or members of the gang, that leads straight to this step and are not offered to a pool yet.
fn unopened(run: &Run, flow: &Flow, step: StepIndex) -> u64 {
    let [split] = flow.parents(step) else { return 0 };
    if !flow.step(*split).next.is_indexed() {
        return 0;
    }
    let split = run.step(*split);
    split.items.saturating_sub(split.offered)
}

/// How many tasks a step will have: the items of its innermost foreach, once all of those are open. Where switches or recursion decide,
/// what the run has opened; inside a foreach and for recursion that is known at the end.
fn total(run: &Run, flow: &Flow, step: StepIndex) -> Option<u64> {
    let levels = flow.foreach_levels(step).last();
    if flow.recurs(step) || !flow.is_certain(step) {
        let entered = run.step(step).counts.iter().map(|count| u64::from(*count)).sum();
        let known = run.state.is_terminal() || (levels.is_none() && !flow.recurs(step));
        return (run.state == RunState::Succeeded || (entered > 0 && known)).then_some(entered);
    }
    let Some(split) = levels else { return Some(1) };
    let opened = run.step(split);
    (opened.foreaches > 0 && total(run, flow, split)? == u64::from(opened.foreaches)).then_some(opened.items)
}

fn view(run: &Run, flow: &Flow, step: StepIndex) -> StepView {
    let (counts, total) = (counts(run, flow, step), total(run, flow, step));
    let mut view = StepView {
        step: flow.step(step).name.clone(),
        state: if is_gated(run, step, &counts) { "waiting" } else { state(run.state.is_terminal(), &counts, total) },
        total,
        counts,
        reused: run.step(step).reused,
        first_started: run.step(step).first_started,
        last_finished: run.step(step).last_ended,
        failures: Vec::new(),
        usage: None,
    };
    let mut groups: BTreeMap<String, Failures> = BTreeMap::new();
    for (task, found) in run.tasks_of(step) {
        if let Some(usage) = found.usage.as_deref() {
            view.usage = Some(Used::add(view.usage, *usage));
        }
        if is_failure(found) {
            let hash = found.error.as_ref().map_or_else(String::new, |error| group_of(error));
            let group = groups.entry(hash).or_insert_with(|| Failures { count: 0, error: error_of(found), tasks: Vec::new() });
            group.count += 1;
            if group.tasks.len() < TASKS_NAMED_MAX {
                group.tasks.push(task.path.task_name(task.visit));
            }
        }
    }
    view.failures = groups.into_values().collect();
    view.failures.sort_by_key(|group| std::cmp::Reverse(group.count));
    view.failures.truncate(FAILURE_GROUPS_MAX);
    view
}

/// Whether a task has failed, or waits to be tried again after a failure.
fn is_failure(task: &Task) -> bool {
    task.state == TaskState::Failed || (task.state == TaskState::Waiting && task.error.is_some())
}

fn group_of(error: &ErrorInfo) -> String {
    error.hash.clone().unwrap_or_else(|| format!("{}: {}", error.kind, error.message))
}

fn error_of(task: &Task) -> ErrorInfo {
    task.error.as_deref().cloned().unwrap_or_else(|| {
        let message = format!("{} workers vanished while they ran it", task.lost);
        ErrorInfo { kind: "WorkerLost".into(), message, ..ErrorInfo::default() }
    })
}

/// Whether all that the step has are tasks that wait for something to come.
fn is_gated(run: &Run, step: StepIndex, counts: &Counts) -> bool {
    let gated = run.gated_of(step);
    gated > 0 && counts.open() == gated && counts.succeeded == 0
}

fn state(run_ended: bool, counts: &Counts, total: Option<u64>) -> &'static str {
    if total == Some(0) {
        return "skipped";
    }
    let complete = total.is_some_and(|total| counts.succeeded >= total);
    match (run_ended, counts) {
        (_, _) if complete => "succeeded",
        (false, _) if counts.open() + counts.succeeded > 0 => "running",
        (_, Counts { failed: 1.., .. }) => "failed",
        (_, Counts { cancelled: 1.., .. }) => "cancelled",
        (_, Counts { aborted: 1.., .. }) => "aborted",
        // Some tasks ended well, others were never offered when the run ended.
        (_, Counts { succeeded: 1.., .. }) => "aborted",
        (_, _) => "pending",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::api::tests::scene::{self, Scene};

    fn shown(scene: &Scene) -> Value {
        let (run, flow) = scene.run();
        serde_json::to_value(steps(run, &flow)).unwrap()
    }

    #[test]
    fn the_total_of_a_step_is_known_once_its_foreach_is_open() {
        let before = shown(&scene::started());
        assert_eq!((&before[0]["total"], &before[0]["state"]), (&json!(1), &json!("running")));
        assert_eq!((&before[1]["total"], &before[1]["state"]), (&Value::Null, &json!("pending")));
        let after = shown(&scene::fanned_out(3));
        assert_eq!(
            (&after[0]["state"], &after[1]["total"], &after[1]["counts"]["dispatched"]),
            (&json!("succeeded"), &json!(3), &json!(3))
        );
        assert_eq!(after[2]["total"], json!(1));
    }

    #[test]
    fn items_beyond_the_window_count_as_ready() {
        let steps = shown(&scene::fanned_out(20_000));
        let (ready, dispatched) = (steps[1]["counts"]["ready"].as_u64().unwrap(), steps[1]["counts"]["dispatched"].as_u64().unwrap());
        assert!(ready > 0);
        assert_eq!(ready + dispatched, 20_000);
    }

    #[test]
    fn equal_failures_are_one_group_with_an_example() {
        let mut scene = scene::fanned_out_with_retries(4);
        scene.fail("work", 0, "NameError", "h1");
        scene.fail("work", 2, "NameError", "h1");
        scene.fail("work", 3, "ValueError", "h2");
        let steps = shown(&scene);
        assert_eq!(steps[1]["state"], json!("running"));
        assert_eq!(steps[1]["counts"]["waiting"], json!(3));
        let groups = steps[1]["failures"].as_array().unwrap();
        assert_eq!(groups.len(), 2);
        assert_eq!(
            (&groups[0]["count"], &groups[0]["tasks"], &groups[0]["error"]["type"]),
            (&json!(2), &json!(["0", "2"]), &json!("NameError"))
        );
    }

    #[test]
    fn steps_that_a_failed_run_never_reached_stay_pending() {
        let mut scene = scene::fanned_out(2);
        scene.fail("work", 1, "NameError", "h1");
        let steps = shown(&scene);
        assert_eq!([&steps[0]["state"], &steps[1]["state"], &steps[2]["state"]], ["succeeded", "failed", "pending"]);
        assert_eq!((&steps[1]["counts"]["aborted"], &steps[1]["counts"]["failed"]), (&json!(1), &json!(1)));
    }
}
