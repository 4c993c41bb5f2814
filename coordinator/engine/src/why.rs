//! What a run, a step, a task or a trigger waits for, as far as the state knows. Pure, and bounded by what is open: stored chunks and
//! finished tasks are not looked at one by one.

use std::collections::BTreeSet;

use causey_protocol::flow::{Flow, StepIndex};
use causey_protocol::gate::Gate;
use causey_protocol::id::{FlowName, Path, RunId, StepName};
use causey_protocol::problem::{Code, Problem};
use causey_protocol::record::RunState;
use serde_json::Value;

use crate::gang::{Gang, GangPhase};
use crate::gate::Gated;
use crate::hold::{HeldBack, HoldReason};
use crate::join;
use crate::reason::{HeldEvent, NAMES_MAX, Reason};
use crate::run::{Foreach, Run, Task, TaskRef, TaskState, steps_below};
use crate::state::State;

/// Declined events told about.
const DECLINED_MAX: usize = 3;

/// What is asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    Run(RunId),
    Step(RunId, StepIndex),
    Task(RunId, TaskRef),
    Trigger(FlowName),
}

/// Something that waits, and for what.
#[derive(Clone, Debug, PartialEq)]
pub struct Wait {
    /// `None`: the whole run, or the trigger.
    pub step: Option<StepName>,
    /// Some of the tasks it holds for, and how many they are; none where it holds for the step.
    pub tasks: Vec<TaskRef>,
    pub count: u32,
    pub reason: Reason,
}

/// What the thing waits for; empty when there is no such thing. Of a run that has not ended it is never empty.
#[must_use]
pub fn why(state: &State, question: &Question) -> Vec<Wait> {
    match question {
        Question::Run(run) => of_run(state, *run, &|_| true),
        Question::Step(run, step) => of_step(state, *run, *step),
        Question::Task(run, task) => of_task(state, *run, task),
        Question::Trigger(flow) => of_trigger(state, flow),
    }
}

fn ended(state: RunState, at: Option<causey_protocol::id::Timestamp>, problem: Option<Problem>) -> Vec<Wait> {
    vec![Wait { step: None, tasks: Vec::new(), count: 0, reason: Reason::Ended { state: state.as_str(), at, problem } }]
}

/// Waits by step, like ones together.
#[derive(Default)]
struct Waits(Vec<Wait>);

impl Waits {
    fn add(&mut self, flow: &Flow, step: StepIndex, task: Option<TaskRef>, count: u32, reason: Reason) {
        let name = &flow.step(step).name;
        for wait in self.0.iter_mut().filter(|wait| wait.step.as_ref() == Some(name)) {
            if wait.reason.absorb(&reason) {
                wait.count += count;
                wait.tasks.extend(task.filter(|_| wait.tasks.len() < NAMES_MAX));
                return;
            }
        }
        self.0.push(Wait { step: Some(name.clone()), tasks: task.into_iter().collect(), count, reason });
    }
}

/// What the wanted steps of a run wait for.
fn of_run(state: &State, id: RunId, wanted: &dyn Fn(StepIndex) -> bool) -> Vec<Wait> {
    if let Some(retired) = state.retired.get(&id) {
        return ended(retired.state, retired.finished, retired.problem.clone());
    }
    let Some((run, flow)) = state.run(id).and_then(|run| Some((run, state.flow_of(run)?))) else { return Vec::new() };
    if run.state.is_terminal() {
        return ended(run.state, run.finished, run.problem.clone());
    }
    if let Some(waits) = state.waits_of(id) {
        let name = |run: &RunId| state.name_of(*run).map_or_else(|| run.to_string(), ToString::to_string);
        let active = waits.active.iter().take(NAMES_MAX).map(name).collect();
        let reason = Reason::Place { flow: waits.flow, ahead: u32::try_from(waits.ahead).unwrap_or(u32::MAX), active };
        return vec![Wait { step: None, tasks: Vec::new(), count: 0, reason }];
    }
    let mut waits = Waits::default();
    for (task, found) in run.unfinished().filter(|(task, _)| wanted(task.step)) {
        waits.add(&flow, task.step, Some(task.clone()), 1, open_reason(state, run, &task, found));
    }
    for (first, gated) in run.gated().filter(|(first, _)| wanted(first.step)) {
        waits.add(&flow, first.step, Some(first.clone()), gated.tasks.len(), gate_reason(state, &flow, first, gated));
    }
    for (first, tasks) in run.sought.iter().filter(|(first, _)| wanted(first.step)) {
        let reason = match run.start.cause.earlier() {
            Some(earlier) => Reason::Results { run: earlier.name.to_string() },
            None => Reason::Remembered,
        };
        waits.add(&flow, first.step, Some(first.clone()), tasks.len(), reason);
    }
    for ((step, path), gang) in run.gangs.iter().filter(|((step, _), _)| wanted(*step)) {
        if let Some(reason) = gang_reason(state, id, *step, gang) {
            waits.add(&flow, *step, Some(TaskRef::new(*step, path.child(0), 0)), gang.size, reason);
        }
    }
    // Retries that are held back have been among the tasks.
    for (first, held) in state.held_back_of(id).filter(|(first, held)| held.attempt == 0 && wanted(first.step)) {
        if let Some(reason) = held_reason(state, id, first) {
            waits.add(&flow, first.step, Some(first.clone()), held.tasks.len(), reason);
        }
    }
    for ((split, _), foreach) in &run.foreaches {
        let target = flow.step(*split).next.targets().first().and_then(|target| flow.find(target)).unwrap_or(*split);
        if wanted(target) && foreach.opened < foreach.count {
            let window = Reason::Window { opened: foreach.opened, count: foreach.count };
            waits.add(&flow, target, None, 0, window);
        }
        let storing = storing(foreach);
        if wanted(*split) && storing > 0 {
            waits.add(&flow, *split, None, 0, Reason::Store { blobs: storing });
        }
    }
    for (step, path) in run.joins.keys().filter(|(step, _)| wanted(*step)) {
        if let Some(reason) = join_reason(run, &flow, *step, path) {
            waits.add(&flow, *step, Some(TaskRef::new(*step, path.clone(), 0)), 1, reason);
        }
    }
    waits.0.sort_by_key(|wait| wait.step.as_ref().and_then(|step| flow.find(step)));
    waits.0
}

/// What tasks of one step wait for before they are opened.
fn gate_reason(state: &State, flow: &Flow, first: &TaskRef, gated: &Gated) -> Reason {
    let (mut signals, mut approval, mut children) = (Vec::new(), None, Vec::new());
    for awaited in &gated.awaits {
        match &awaited.gate {
            Gate::Signal { name } => signals.push(name.clone()),
            Gate::Approval => {
                let gate = flow.step(first.step).gate.as_ref().and_then(|gate| gate.approval.as_ref());
                approval = Some(gate.map(|gate| gate.by.clone()).unwrap_or_default());
            }
            Gate::Child { run } if children.len() < NAMES_MAX => {
                children.push(state.name_of(*run).map_or_else(|| run.to_string(), ToString::to_string));
            }
            Gate::Child { .. } => {}
        }
    }
    let until = gated.awaits.iter().filter_map(|awaited| awaited.until).min();
    Reason::Gate { since: gated.since, signals, approval, children, until }
}

/// What the members of a gang wait for; `None` once it has formed.
fn gang_reason(state: &State, run: RunId, step: StepIndex, gang: &Gang) -> Option<Reason> {
    let (gathering, since, until) = match gang.phase {
        GangPhase::InLine { .. } if !state.has_place_for(run, step, &gang.pool) => return state.nowhere(run, step),
        GangPhase::InLine { since } => (false, Some(since), None),
        GangPhase::Gathering { until } => (true, None, Some(until)),
        GangPhase::Formed => return None,
    };
    let here = u32::try_from(gang.members.len()).unwrap_or(u32::MAX);
    let (pool, dissolved) = (gang.pool.clone(), gang.dissolved.clone());
    Some(Reason::Gang { pool, size: gang.size, here, gathering, since, until, dissolved })
}

/// Chunks that are complete and not stored.
fn storing(foreach: &Foreach) -> u32 {
    let waiting = foreach.chunks.values().filter(|chunk| chunk.digest.is_some() && !chunk.stored).count();
    u32::try_from(waiting).unwrap_or(u32::MAX)
}

fn of_step(state: &State, id: RunId, step: StepIndex) -> Vec<Wait> {
    let waits = of_run(state, id, &|other| other == step);
    let Some((run, flow)) = state.run(id).and_then(|run| Some((run, state.flow_of(run)?))) else { return waits };
    if !waits.is_empty() {
        return waits;
    }
    let summary = run.step(step);
    let name = flow.step(step).name.clone();
    if summary.counts.iter().any(|count| *count > 0) {
        let reason = Reason::Ended { state: TaskState::Succeeded.as_str(), at: summary.last_ended, problem: None };
        return vec![Wait { step: Some(name), tasks: Vec::new(), count: summary.counts.iter().sum(), reason }];
    }
    before(state, id, &flow, step, None)
}

/// A step or task that has not begun: the steps before it, and what those wait for.
fn before(state: &State, id: RunId, flow: &Flow, step: StepIndex, task: Option<TaskRef>) -> Vec<Wait> {
    let name = |step: &StepIndex| flow.step(*step).name.clone();
    let steps = flow.parents(step).iter().map(name).collect();
    let mut ancestors = BTreeSet::new();
    let mut next: Vec<StepIndex> = flow.parents(step).to_vec();
    while let Some(parent) = next.pop() {
        if ancestors.insert(parent) {
            next.extend(flow.parents(parent));
        }
    }
    let mut waits = vec![Wait { step: Some(name(&step)), tasks: task.into_iter().collect(), count: 0, reason: Reason::Steps { steps } }];
    waits.extend(of_run(state, id, &|step| ancestors.contains(&step)));
    waits
}

fn of_task(state: &State, id: RunId, task: &TaskRef) -> Vec<Wait> {
    let Some((run, flow)) = state.run(id).and_then(|run| Some((run, state.flow_of(run)?))) else {
        return of_run(state, id, &|_| true);
    };
    let wait = |reason| vec![Wait { step: Some(flow.step(task.step).name.clone()), tasks: vec![task.clone()], count: 1, reason }];
    if let Some(found) = run.task(task) {
        if let Some(owner) = found.reused {
            let run = state.name_of(owner).map_or_else(|| owner.to_string(), ToString::to_string);
            return wait(Reason::Reused { run, at: found.ended });
        }
        return wait(if found.state.is_unfinished() { open_reason(state, run, task, found) } else { end_reason(found) });
    }
    if !is_place(run, &flow, task) {
        return Vec::new();
    }
    if run.state.is_terminal() {
        return ended(run.state, run.finished, run.problem.clone());
    }
    let is_held = |(first, held): &(&TaskRef, &HeldBack)| first.step == task.step && held.tasks.holds(&task.path, task.visit);
    if let Some((first, _)) = state.held_back_of(id).find(is_held)
        && let Some(reason) = held_reason(state, id, first)
    {
        return wait(reason);
    }
    let is_here = |(first, gated): &(&TaskRef, &Gated)| {
        first.step == task.step && gated.tasks.iter().any(|(path, visit)| path == task.path && visit == task.visit)
    };
    if let Some((first, gated)) = run.gated().find(is_here) {
        return wait(gate_reason(state, &flow, first, gated));
    }
    match unopened_reason(run, &flow, task) {
        Some(reason) => wait(reason),
        None => before(state, id, &flow, task.step, Some(task.clone())),
    }
}

/// Whether the flow can have such a task, as far as it is known how many items there are.
fn is_place(run: &Run, flow: &Flow, task: &TaskRef) -> bool {
    let levels: Vec<StepIndex> = flow.foreach_levels(task.step).collect();
    let fits = |(depth, split): (usize, &StepIndex)| {
        let foreach = run.foreach(*split, &Path(task.path.0[..depth].to_vec()));
        foreach.is_none_or(|foreach| task.path.0[depth] < foreach.count)
    };
    levels.len() == task.path.0.len() && levels.iter().enumerate().all(fits)
}

/// Why a task that is not in the state is not, if the foreaches around it or its join say so.
fn unopened_reason(run: &Run, flow: &Flow, task: &TaskRef) -> Option<Reason> {
    for (depth, split) in flow.foreach_levels(task.step).enumerate() {
        let foreach = run.foreach(split, &Path(task.path.0[..depth].to_vec()))?;
        let item = task.path.0[depth];
        let chunk = foreach.chunk.and_then(|size| foreach.chunks.get(&(item / size.max(1))));
        if chunk.is_some_and(|chunk| chunk.stored) {
            return Some(Reason::Ended { state: TaskState::Succeeded.as_str(), at: None, problem: None });
        }
        if item >= foreach.opened {
            return Some(Reason::Window { opened: foreach.opened, count: foreach.count });
        }
    }
    flow.step(task.step).join.then(|| join_reason(run, flow, task.step, &task.path)).flatten()
}

/// Why an attempt that is open, or waits to be, has no result.
fn open_reason(state: &State, run: &Run, task: &TaskRef, found: &Task) -> Reason {
    let pool = || run.dispatch_of(task, found).map(|dispatch| dispatch.pool.clone());
    match (found.state, found.not_before, &found.worker, pool()) {
        (TaskState::Running, _, Some(worker), Some(pool)) => Reason::Running {
            pool,
            worker: worker.clone(),
            since: found.started.unwrap_or(found.opened),
            attempt: found.attempt,
            until: run.deadlines.get(task).copied(),
            silent_seconds: None,
            gone: false,
        },
        (_, _, _, Some(pool)) if !state.has_place_for(run.id(), task.step, &pool) => {
            state.nowhere(run.id(), task.step).unwrap_or(Reason::Queued { pool, since: found.opened, attempt: found.attempt })
        }
        (_, _, _, Some(pool)) => Reason::Queued { pool, since: found.opened, attempt: found.attempt },
        (_, Some(at), ..) => Reason::Retry { at, attempt: found.attempt + 1, error: error_words(found) },
        (_, None, _, None) => match held_reason(state, run.id(), task) {
            Some(reason) => reason,
            None => Reason::Retry { at: state.at, attempt: found.attempt + 1, error: error_words(found) },
        },
    }
}

/// What attempts that are held back wait for, where it is not the other items of their foreach.
fn held_reason(state: &State, run: RunId, first: &TaskRef) -> Option<Reason> {
    match state.why_held(run, first)? {
        HoldReason::Storage => state.storage_problem().map(|problem| Reason::Storage { problem }),
        HoldReason::Foreach => None,
        HoldReason::Nowhere => state.nowhere(run, first.step),
        room => Some(Reason::Room { room }),
    }
}

fn end_reason(found: &Task) -> Reason {
    let problem = error_words(found).filter(|_| found.state == TaskState::Failed).map(|what| Problem::new(Code::USER_CODE, what));
    Reason::Ended { state: found.state.as_str(), at: found.ended, problem }
}

fn error_words(found: &Task) -> Option<String> {
    let error = found.error.as_deref()?;
    Some(format!("{}: {}", error.kind, error.message.lines().next().unwrap_or_default()))
}

/// What a join waits for; `None` once it has all.
fn join_reason(run: &Run, flow: &Flow, join: StepIndex, path: &Path) -> Option<Reason> {
    let split = flow.closes(join)?;
    let known = run.joins.get(&(join, path.clone())).copied().unwrap_or_default();
    let expected = join::expected(run, flow, join, path)?;
    if known.arrived < expected {
        let beside = |task: &TaskRef| task.path.0.starts_with(&path.0) && is_between(run, flow, split.step, join, path, task);
        let siblings = || run.unfinished().filter(|(task, _)| beside(task));
        let name = |(task, _): (TaskRef, &Task)| task.id(flow).to_string();
        let missing = siblings().take(NAMES_MAX).map(name).collect();
        let failing = siblings().filter(|(_, found)| found.error.is_some()).take(NAMES_MAX).map(name).collect();
        return Some(Reason::Siblings { arrived: known.arrived, expected, missing, failing });
    }
    let waiting = known.manifest.is_some() && !known.stored;
    let chunked = run.foreach(split.step, path).filter(|foreach| foreach.chunk.is_some()).map_or(0, storing);
    (waiting || chunked > 0).then_some(Reason::Store { blobs: chunked.max(1) })
}

/// Whether a task lies between a split and its join.
fn is_between(run: &Run, flow: &Flow, split: StepIndex, join: StepIndex, path: &Path, task: &TaskRef) -> bool {
    if flow.closes(join).is_some_and(|split| split.foreach) {
        return steps_below(flow, split, path).any(|(step, _)| step == task.step) && run.foreach(split, path).is_some();
    }
    task.step != split && task.step != join
}

fn of_trigger(state: &State, name: &FlowName) -> Vec<Wait> {
    let flow = state.deployments.get(name).and_then(|deployment| state.definitions.get(&deployment.definition));
    let Some(flow) = flow else { return Vec::new() };
    let wait = |reason| Wait { step: None, tasks: Vec::new(), count: 0, reason };
    let schedules = &flow.definition().schedules;
    if flow.definition().triggers.is_empty() && schedules.is_empty() {
        return vec![wait(Reason::NoTrigger)];
    }
    let mut waits: Vec<Wait> = state.storage_problem().map(|problem| wait(Reason::Storage { problem })).into_iter().collect();
    for (trigger, rule) in (0..).zip(&flow.definition().triggers) {
        let held = state.held.get(&(name.clone(), trigger)).cloned().unwrap_or_default();
        let text = |event: &Value, attribute: &str| event.get(attribute).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (mut missing, mut got) = (Vec::new(), Vec::new());
        for (place, wanted) in (0..).zip(&rule.events) {
            match held.events.get(&place) {
                None => missing.push(wanted.name.clone()),
                Some((_, event)) => got.push(HeldEvent {
                    event: wanted.name.clone(),
                    source: text(event, "source"),
                    id: text(event, "id"),
                    since: held.since.get(&place).copied().unwrap_or_default(),
                }),
            }
        }
        waits.push(wait(match (missing.as_slice(), got.is_empty()) {
            ([event], true) => Reason::Event { trigger, event: event.clone() },
            _ => Reason::Events { trigger, missing, held: got },
        }));
    }
    let known = state.schedules.get(name).cloned().unwrap_or_default();
    waits.extend(schedules.iter().map(|schedule| {
        let fired = known.firings.get(&schedule.identity()).and_then(|firing| firing.fired.as_ref());
        let (paused_by, paused) = known.paused.clone().unzip();
        let (cron, timezone) = (schedule.cron.clone(), schedule.timezone.clone());
        wait(Reason::Schedule { cron, timezone, last: fired.map(|fired| fired.instant), paused_by, paused })
    }));
    // Sentences about this flow begin with its name.
    let about = format!("flow {name}");
    let declined = state.events_taken.values().rev().flat_map(|outcome| {
        let why = outcome.because.iter().filter_map(|why| why.strip_prefix(&about)?.strip_prefix(": "));
        // Of events that wait for others the trigger itself tells.
        let why = why.filter(|why| !why.starts_with("waits for"));
        why.map(|why| Reason::Declined { source: outcome.source.clone(), id: outcome.id.clone(), at: outcome.at, why: why.to_owned() })
    });
    waits.extend(declined.take(DECLINED_MAX).map(wait));
    waits
}
