//! What must hold of every state, whatever the inputs were. Used by unit tests, properties and, from outside, by the tests on
//! real processes.

use causey_protocol::record::RunState;

use crate::join;
use crate::run::{Run, TaskState};
use crate::state::State;

/// Every broken invariant, in words; empty for a sound state.
#[must_use]
pub fn violations(state: &State) -> Vec<String> {
    let mut found = Vec::new();
    for run in state.runs.values() {
        let Some(flow) = state.flow_of(run) else {
            found.push(format!("run {} is pinned to a definition that is not there", run.id()));
            continue;
        };
        counts(run, &mut found);
        dispatches(run, &mut found);
        for ((step, path), join) in &run.joins {
            if join::expected(run, &flow, *step, path).is_some_and(|expected| join.arrived > expected) {
                found.push(format!("run {}: more siblings than exist arrived at join {}/{path}", run.id(), flow.step(*step).name));
            }
        }
        for ((step, path), foreach) in &run.foreaches {
            if foreach.arrived > foreach.opened || foreach.opened > foreach.count {
                found.push(format!("run {}: foreach {}/{path} counts {foreach:?}", run.id(), flow.step(*step).name));
            }
        }
        if run.state == RunState::Succeeded && run.tasks.values().any(|task| task.state != TaskState::Succeeded) {
            found.push(format!("run {} succeeded with a task that did not", run.id()));
        }
        // I5: a live run has an attempt that is open or waits for its time, or a join that waits for its manifest.
        let waits = |run: &Run| {
            !run.dispatches.is_empty()
                || run.tasks.values().any(|task| task.state == TaskState::Waiting)
                || run.joins.values().any(|join| join.manifest.is_some() && !join.stored)
        };
        if !run.state.is_terminal() && !waits(run) {
            found.push(format!("run {} is live but waits for nothing", run.id()));
        }
    }
    for (origin, (_, run)) in state.origins.iter() {
        if state.run(*run).is_some_and(|run| run.start.origin != *origin && !run.start.joined.contains(origin)) {
            found.push(format!("origin {origin} names run {run}, which stems from another"));
        }
    }
    found
}

fn counts(run: &Run, found: &mut Vec<String>) {
    let mut counted = vec![[0; 7]; run.counts.len()];
    for (task, state) in &run.tasks {
        counted[usize::from(task.step.0)][state.state as usize] += 1;
    }
    if counted != run.counts {
        found.push(format!("run {}: counts {:?} are not those of its tasks {counted:?}", run.id(), run.counts));
    }
}

fn dispatches(run: &Run, found: &mut Vec<String>) {
    let open = run.tasks.values().filter(|task| task.state.is_open()).count();
    let offered: u32 = run.dispatches.values().map(|dispatch| dispatch.open).sum();
    if open != offered as usize {
        found.push(format!("run {}: {open} attempts are open, but {offered} are on offer", run.id()));
    }
    if run.state.is_terminal() && open > 0 {
        found.push(format!("run {} has ended with {open} attempts open", run.id()));
    }
}
