//! What must hold of every state, whatever the inputs were. Used by unit tests, properties and, from outside, by the tests on
//! real processes.

use std::ops::Bound;

use causey_protocol::flow::{Flow, StepIndex};
use causey_protocol::gate::Gate;
use causey_protocol::id::Path;
use causey_protocol::record::RunState;

use crate::gang;
use crate::join;
use crate::line::Line;
use crate::run::{Foreach, Run, Task, TaskRef, TaskState, steps_below};
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
        gang::violations(state, run, &mut found);
        for ((step, path), join) in &run.joins {
            if join::expected(run, &flow, *step, path).is_some_and(|expected| join.arrived > expected) {
                found.push(format!("run {}: more siblings than exist arrived at join {}/{path}", run.id(), flow.step(*step).name));
            }
        }
        for ((step, path), foreach) in &run.foreaches {
            chunks(run, &flow, (*step, path), foreach, &mut found);
            if foreach.arrived > foreach.opened || foreach.opened > foreach.count {
                found.push(format!("run {}: foreach {}/{path} counts {foreach:?}", run.id(), flow.step(*step).name));
            }
        }
        if run.state == RunState::Succeeded && all_tasks(run).any(|(_, task)| task.state != TaskState::Succeeded) {
            found.push(format!("run {} succeeded with a task that did not", run.id()));
        }
        // I5: a live run has an attempt that is open, waits for its time or for room, a gang, a blob that is to be stored, results to be
        // found, or waits for a place.
        let waits = |run: &Run| {
            run.dispatches().next().is_some()
                || run.unfinished().any(|(_, task)| task.state == TaskState::Waiting)
                || run.blobs().next().is_some()
                || !run.gangs.is_empty()
                || run.gated().next().is_some()
                || !run.sought.is_empty()
        };
        gated(run, &mut found);
        let held = state.held_back_of(run.id()).next().is_some();
        if run.state.is_terminal() && held {
            found.push(format!("run {} has ended with attempts held back", run.id()));
        }
        if !run.state.is_terminal() && !waits(run) && !held && run.waits.is_none() {
            found.push(format!("run {} is live but waits for nothing", run.id()));
        }
    }
    state.lane_violations(&mut found);
    lines(state, &mut found);
    for (origin, (_, run)) in state.origins.iter() {
        if state.run(*run).is_some_and(|run| run.start.origin != *origin && !run.start.joined.contains(origin)) {
            found.push(format!("origin {origin} names run {run}, which stems from another"));
        }
    }
    found
}

/// What the lines say is open and waits is what the runs have.
fn lines(state: &State, found: &mut Vec<String>) {
    let mut counted = state.clone();
    counted.rebuild_lines();
    for (pool, line) in &counted.index_by.room.pools {
        let told = state.index_by.room.pools.get(pool);
        let waiting = |line: &Line| line.waiting().collect::<Vec<_>>();
        if told.is_none_or(|told| told.open != line.open || told.window != line.window || waiting(told) != waiting(line)) {
            found.push(format!("the line before pool {pool} is {told:?}, but the runs make it {line:?}"));
        }
    }
}

/// Every task that is not in a stored chunk.
fn all_tasks(run: &Run) -> impl Iterator<Item = (TaskRef, &Task)> {
    run.tasks(Bound::Unbounded)
}

/// Tasks wait for something that has not come, or are due to be opened; those of a run that has ended wait for nothing.
fn gated(run: &Run, found: &mut Vec<String>) {
    let Some(gates) = &run.gates else { return };
    let has_come = |first: &TaskRef, gate: &Gate| match gate {
        Gate::Signal { name } => gates.signals.contains_key(name),
        Gate::Approval => gates.approvals.get(&first.step).is_none_or(|approval| approval.decision.is_some()),
        Gate::Child { run } => gates.children.values().all(|child| child.run != *run || child.ended.is_some()),
    };
    for (first, gated) in &gates.waiting {
        if run.state.is_terminal() {
            found.push(format!("run {} has ended with tasks that wait: {first:?}", run.id()));
        }
        if gated.awaits.is_empty() != gated.met.is_some() || gated.awaits.iter().any(|awaited| has_come(first, &awaited.gate)) {
            found.push(format!("run {}: {first:?} waits for what has come: {gated:?}", run.id()));
        }
        if run.task(first).is_some() {
            found.push(format!("run {}: {first:?} waits although it has been opened", run.id()));
        }
    }
}

fn counts(run: &Run, found: &mut Vec<String>) {
    let mut counted = vec![[0; 7]; run.steps.len()];
    for (task, state) in all_tasks(run) {
        counted[usize::from(task.step.0)][state.state as usize] += 1;
    }
    for (counted, step) in counted.iter_mut().zip(&run.steps) {
        counted[TaskState::Succeeded as usize] += step.stored;
    }
    if counted.iter().zip(&run.steps).any(|(counted, step)| *counted != step.counts) {
        found.push(format!("run {}: counts {:?} are not those of its tasks {counted:?}", run.id(), run.steps));
    }
    if !run.tasks.is_counted() {
        found.push(format!("run {}: a group of tasks counts its unfinished ones wrongly", run.id()));
    }
}

/// A chunk is gathered once all its items have arrived, and its tasks are in the state until it is stored.
fn chunks(run: &Run, flow: &Flow, (split, path): (StepIndex, &Path), foreach: &Foreach, found: &mut Vec<String>) {
    let mut wrong = |what: String| found.push(format!("run {}: foreach {}/{path}: {what}", run.id(), flow.step(split).name));
    if foreach.chunk.is_none() {
        if !foreach.chunks.is_empty() {
            wrong("has chunks although it is not chunked".into());
        }
        return;
    }
    let (arrived, stored) =
        foreach.chunks.values().fold((0, 0), |(arrived, stored), chunk| (arrived + chunk.arrived, stored + u32::from(chunk.stored)));
    if (arrived, stored) != (foreach.arrived, foreach.stored) {
        wrong(format!(
            "{} items have arrived and {} chunks are stored, but the chunks say {arrived} and {stored}",
            foreach.arrived, foreach.stored
        ));
    }
    for (number, chunk) in &foreach.chunks {
        let (from, to) = foreach.items(*number);
        let full = chunk.arrived == to - from;
        if full != chunk.digest.is_some() || (chunk.stored && !full) {
            wrong(format!("chunk {number} of items {from} to {to} is {chunk:?}"));
        }
        let held = steps_below(flow, split, path).flat_map(|(step, depth)| run.tasks.below(step, path, depth, (from, to))).count();
        if chunk.stored && held > 0 {
            wrong(format!("chunk {number} is stored, but {held} of its tasks are still in the state"));
        }
        if full && !chunk.stored && held < (to - from) as usize {
            wrong(format!("chunk {number} is not stored, but only {held} of its tasks are in the state"));
        }
    }
}

fn dispatches(run: &Run, found: &mut Vec<String>) {
    let open = run.unfinished().filter(|(_, task)| task.state.is_open()).count();
    let offered: u32 = run.dispatches().map(|(_, dispatch)| dispatch.open).sum();
    if open != offered as usize {
        found.push(format!("run {}: {open} attempts are open, but {offered} are on offer", run.id()));
    }
    if run.state.is_terminal() && open > 0 {
        found.push(format!("run {} has ended with {open} attempts open", run.id()));
    }
}
