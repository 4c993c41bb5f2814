//! What has been decided so far about each run and task, and whether the next record goes with it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use causey_engine::State;
use causey_protocol::chunk::CHUNK_ITEMS;
use causey_protocol::flow::{Flow, StepIndex};
use causey_protocol::id::{ModelName, NotificationId, Origin, Path, RunId, SignalName, Timestamp};
use causey_protocol::record::{Cause, ItemSucceeded, Record, RunStarted};

use super::results::reused;
use super::reuse::Reuse;

/// A task of any run.
pub(super) type Task = (RunId, StepIndex, Path, u32);

/// What the records so far have done to tasks.
#[derive(Debug, Default)]
pub(super) struct Judge {
    origins: BTreeSet<Origin>,
    /// Tasks for which a result of another run is sought.
    sought: BTreeSet<Task>,
    /// The open attempt of each task.
    open: BTreeMap<Task, u32>,
    attempts: BTreeMap<Task, u32>,
    /// Attempts of gang members that have a result, which waits for those of the others.
    done: BTreeMap<Task, u32>,
    accepted: BTreeSet<Task>,
    foreaches: BTreeMap<(RunId, StepIndex, Path), u32>,
    gathered: BTreeSet<(RunId, StepIndex, Path, u32)>,
    /// Tasks that a switch chose, and the task that did.
    switched: BTreeMap<Task, Task>,
    ended: BTreeSet<RunId>,
    signals: BTreeSet<(RunId, SignalName)>,
    approved: BTreeSet<(RunId, StepIndex)>,
    /// Runs that a task started, that are waited for and have not ended.
    children: BTreeMap<Task, BTreeSet<RunId>>,
    models: BTreeMap<ModelName, u32>,
    published: BTreeSet<(Task, ModelName)>,
    notified: BTreeSet<NotificationId>,
    /// Runs that wait for a place among those of their flow.
    waiting: BTreeSet<RunId>,
    /// The last instant of every schedule and backfill.
    instants: BTreeMap<String, Timestamp>,
    reuse: Reuse,
}

impl Judge {
    /// Schedules and backfills only go forward.
    fn instant(&mut self, of: String, instant: Timestamp, found: &mut Vec<String>) {
        if let Some(before) = self.instants.get(&of).filter(|before| **before >= instant) {
            found.push(format!("I2: {of} came to instant {} after {}", instant.0, before.0));
        }
        self.instants.insert(of, instant);
    }

    pub(super) fn record(&mut self, state: &State, record: &Record, found: &mut Vec<String>) {
        let mut reuse = std::mem::take(&mut self.reuse);
        reuse.record(state, record, |flow, task| self.taken_by(flow, task), found);
        self.reuse = reuse;
        match record {
            Record::RunStarted(start) => {
                for origin in std::iter::once(&start.origin).chain(&start.joined) {
                    if !self.origins.insert(*origin) {
                        found.push(format!("I2: origin {origin} started run {} and another one", start.run));
                    }
                }
                if start.waits {
                    self.waiting.insert(start.run);
                }
                self.child_started(state, start, found);
            }
            Record::StartSkipped { origin, joined, .. } => {
                for origin in std::iter::once(origin).chain(joined) {
                    if !self.origins.insert(*origin) {
                        found.push(format!("I2: origin {origin} was skipped and had been decided about before"));
                    }
                }
            }
            Record::RunAdmitted { run } => {
                if !self.waiting.remove(run) {
                    found.push(format!("run {run} got a place that it did not wait for"));
                }
            }
            Record::ScheduleFired { flow, schedule, instant, .. } => {
                self.instant(format!("schedule {schedule} of {flow}"), *instant, found);
            }
            Record::BackfillAdvanced { backfill, instant, .. } => self.instant(format!("backfill {backfill}"), *instant, found),
            Record::AttemptsOpened { run, .. } if self.waiting.contains(run) => {
                found.push(format!("run {run} began before it got a place"));
            }
            Record::AttemptsOpened { run, step, tasks, attempt, .. } => {
                for (path, visit) in tasks.iter() {
                    self.opened(state, &(*run, *step, path, visit), *attempt, found);
                }
            }
            Record::AttemptStarted { run, step, path, visit, attempt, .. } => {
                let task = (*run, *step, path.clone(), *visit);
                if self.open.get(&task) != Some(attempt) {
                    found.push(format!("I3: attempt {attempt} of {task:?} started while it was not open"));
                }
            }
            Record::MemberJoined { run, step, path, attempt, .. } => {
                let task = (*run, *step, path.clone(), 0);
                if self.open.get(&task) != Some(attempt) {
                    found.push(format!("I3: attempt {attempt} of {task:?} joined its gang while it was not open"));
                }
            }
            Record::MemberSucceeded { run, step, path, attempt, .. } => {
                let task = (*run, *step, path.clone(), 0);
                self.closed(&task, *attempt, found);
                self.done.insert(task, *attempt);
            }
            Record::GangDissolved { run, step, path, attempt, .. } => {
                let is_member =
                    |task: &Task| (task.0, task.1) == (*run, *step) && task.2.split_last().is_some_and(|(outer, _)| outer == *path);
                self.open.retain(|task, open| !is_member(task) || open != attempt);
                self.done.retain(|task, _| !is_member(task));
            }
            Record::AttemptSucceeded { run, step, path, visit, attempt, .. }
                if self.done.get(&(*run, *step, path.clone(), *visit)) == Some(attempt) =>
            {
                let task = (*run, *step, path.clone(), *visit);
                self.done.remove(&task);
                self.accept(task, found);
            }
            Record::StatusSet { run, step, path, visit, attempt, .. } | Record::AttemptUsed { run, step, path, visit, attempt, .. } => {
                let task = (*run, *step, path.clone(), *visit);
                if self.open.get(&task) != Some(attempt) {
                    found.push(format!("I3: attempt {attempt} of {task:?} told about itself or its run while it was not open"));
                }
            }
            Record::AttemptSucceeded { run, step, path, visit, attempt, .. } => {
                self.succeeded((*run, *step, path.clone(), *visit), *attempt, found);
            }
            Record::AttemptsSucceeded { run, step, outer, visit, attempt, items, .. } => {
                for ItemSucceeded(item, ..) in items {
                    self.succeeded((*run, *step, outer.child(*item), *visit), *attempt, found);
                }
            }
            Record::ChunkGathered { run, step, path, chunk, .. } => {
                let count = self.foreaches.get(&(*run, *step, path.clone())).copied().unwrap_or_default();
                let missing = self.missing_of_chunk(state, (*run, *step, path), count, *chunk);
                found.extend(missing.map(|task| format!("I4: chunk {chunk} was gathered before {task:?} was accepted")));
                if !self.gathered.insert((*run, *step, path.clone(), *chunk)) {
                    found.push(format!("I3: chunk {chunk} of a foreach of run {run} was gathered twice"));
                }
            }
            Record::ChunkStored { run, step, path, chunk } => {
                if !self.gathered.contains(&(*run, *step, path.clone(), *chunk)) {
                    found.push(format!("I8: chunk {chunk} of a foreach of run {run} was stored before it was gathered"));
                }
            }
            Record::ResultsSought { run, step, tasks } => {
                let tasks: Vec<Task> = tasks.iter().map(|(path, visit)| (*run, *step, path, visit)).collect();
                for task in tasks {
                    self.ready(state, &task, found);
                    if self.attempts.contains_key(&task) || self.accepted.contains(&task) || !self.sought.insert(task.clone()) {
                        found.push(format!("I3: a result of {task:?} was sought after its beginning"));
                    }
                }
            }
            Record::ResultsReused { run, step, tasks, .. } => {
                for (_, (run, step, path, visit, ..)) in reused(record) {
                    self.taken((run, step, path, visit), found);
                }
                for (path, visit) in tasks.iter() {
                    self.sought.remove(&(*run, *step, path, visit));
                }
            }
            Record::ChunkReused { run, step, path, chunk, .. } => {
                let count = self.foreaches.get(&(*run, *step, path.clone())).copied().unwrap_or_default();
                let items = chunk.saturating_mul(CHUNK_ITEMS)..chunk.saturating_add(1).saturating_mul(CHUNK_ITEMS).min(count);
                let flow = state.run(*run).and_then(|run| state.flow_of(run));
                let first = flow.as_ref().and_then(|flow| flow.find(flow.step(*step).next.targets().first()?));
                for (first, item) in first.into_iter().flat_map(|first| items.clone().map(move |item| (first, item))) {
                    let task = (*run, first, path.child(item), 0);
                    if !self.sought.remove(&task) {
                        found.push(format!("I3: chunk {chunk} was taken for {task:?}, which was not sought"));
                    }
                }
                let missing: Vec<Task> = self.missing_of_chunk(state, (*run, *step, path), count, *chunk).collect();
                if missing.len() != items.len() || !self.gathered.insert((*run, *step, path.clone(), *chunk)) {
                    found.push(format!("I3: chunk {chunk} of a foreach of run {run} was taken although something of it was there"));
                }
                self.accepted.extend(missing);
            }
            Record::AttemptFailed { run, step, path, visit, attempt, .. } => {
                self.closed(&(*run, *step, path.clone(), *visit), *attempt, found);
            }
            Record::ForeachOpened { run, step, path, count, .. } => {
                if self.foreaches.insert((*run, *step, path.clone()), *count).is_some() {
                    found.push(format!("I3: a foreach of run {run} was opened twice"));
                }
            }
            Record::SwitchTaken { run, step, path, visit, to } => {
                let by = (*run, *step, path.clone(), *visit);
                if !self.accepted.contains(&by) {
                    found.push(format!("I4: the switch of {by:?} was taken before its result was accepted"));
                }
                // A switch leads back to its own step only.
                let entered = if to == step { visit + 1 } else { 0 };
                self.switched.insert((*run, *to, path.clone(), entered), by);
            }
            Record::ModelPublished(published) => {
                let task = (published.run, published.step, published.path.clone(), published.visit);
                let versions = self.models.entry(published.name().clone()).or_default();
                *versions += 1;
                if published.version != *versions {
                    found.push(format!("version {} of {} comes as number {versions}", published.version, published.name()));
                }
                if !self.accepted.contains(&task) || !self.published.insert((task.clone(), published.name().clone())) {
                    found.push(format!("{} was published by {task:?} without or beyond its accepted result", published.name()));
                }
            }
            Record::Notified { id, .. } => {
                if !self.notified.insert(*id) {
                    found.push(format!("I6: notification {id} was decided twice"));
                }
            }
            Record::SignalReceived { run, name, .. } => {
                if !self.signals.insert((*run, name.clone())) {
                    found.push(format!("signal {name} was received twice by run {run}"));
                }
            }
            Record::ApprovalDecided { run, step, approved, .. } => {
                if *approved && !self.approved.insert((*run, *step)) {
                    found.push(format!("step {step:?} of run {run} was approved twice"));
                }
            }
            Record::ChildEnded { run, child, .. } => {
                for (_, children) in self.children.iter_mut().filter(|(task, _)| task.0 == *run) {
                    children.remove(child);
                }
            }
            Record::RunFinished { run, .. } => {
                self.open.retain(|task, _| task.0 != *run);
                self.sought.retain(|task| task.0 != *run);
                if !self.ended.insert(*run) {
                    found.push(format!("run {run} ended twice"));
                }
            }
            Record::LogOpened { .. }
            | Record::LeaderChanged { .. }
            | Record::RequestAnswered { .. }
            | Record::FlowRegistered { .. }
            | Record::FlowDeployed { .. }
            | Record::EventTaken { .. }
            | Record::PoolResized { .. }
            | Record::PoolOffered { .. }
            | Record::GangMoved { .. }
            | Record::WorkersOrdered { .. }
            | Record::SharesChanged(_)
            | Record::WorkAccepted(_)
            | Record::EventSpread { .. }
            | Record::WorkDone { .. }
            | Record::EventHeld { .. }
            | Record::RetryScheduled { .. }
            | Record::ResultsRemembered { .. }
            | Record::ResultsForgotten { .. }
            | Record::InputsGathered { .. }
            | Record::InputsStored { .. }
            | Record::StreamsSeen { .. }
            | Record::SnapshotTaken(_)
            | Record::HistoryStored { .. }
            | Record::RunRetired { .. }
            | Record::StorageChanged(_)
            | Record::AttemptsHeld { .. }
            | Record::TasksGated { .. }
            | Record::ApprovalRequested { .. }
            | Record::LossAccepted { .. }
            | Record::SchedulesPaused { .. }
            | Record::SchedulesResumed { .. }
            | Record::BackfillStarted(_)
            | Record::GangOpened { .. }
            | Record::GangCalled { .. }
            | Record::GangFormed { .. }
            | Record::BackfillCancelled { .. }
            | Record::DeadLettered(_)
            | Record::DeadLetterClosed { .. }
            | Record::Ignored { .. } => {}
        }
    }

    fn opened(&mut self, state: &State, task: &Task, attempt: u32, found: &mut Vec<String>) {
        let expected = self.attempts.get(task).map_or(0, |last| last + 1);
        if attempt != expected {
            found.push(format!("attempt {attempt} of {task:?} was opened, {expected} is next"));
        }
        if self.accepted.contains(task) || self.sought.contains(task) || self.ended.contains(&task.0) {
            found.push(format!("I3: {task:?} was opened again after its end"));
        }
        if let Some(open) = self.open.insert(task.clone(), attempt) {
            found.push(format!("I3: {task:?} was opened while its attempt {open} was open"));
        }
        self.attempts.insert(task.clone(), attempt);
        self.ready(state, task, found);
        if let Some(flow) = flow_of(state, task) {
            self.passed_gates(&flow, task, found);
        }
    }

    /// A result of an earlier run becomes that of a task.
    fn taken(&mut self, task: Task, found: &mut Vec<String>) {
        if !self.sought.remove(&task) {
            found.push(format!("I3: {task:?} took a result that was not sought"));
        }
        if let Some(task) = self.accepted.replace(task) {
            found.push(format!("I3: {task:?} has two accepted results"));
        }
    }

    /// I4: everything a task takes has an accepted result. What it waits for beside that comes after an earlier result was sought for it.
    fn ready(&self, state: &State, task: &Task, found: &mut Vec<String>) {
        let Some(flow) = flow_of(state, task) else {
            found.push(format!("I4: {task:?} was opened in a run that is not known"));
            return;
        };
        let missing = self.needs(&flow, task).into_iter().filter(|needed| !needed.iter().any(|one| self.accepted.contains(one)));
        found.extend(missing.map(|needed| format!("I4: {task:?} was dispatched before one of {needed:?} was accepted")));
    }

    /// A run that a task started: its result was accepted, and nobody else's place was taken.
    fn child_started(&mut self, state: &State, start: &RunStarted, found: &mut Vec<String>) {
        let Cause::Parent(parent) = &start.cause else { return };
        let flow = state.runs.get(&parent.run).and_then(|run| state.flow_of(run));
        let Some(step) = flow.and_then(|flow| flow.find(&parent.step)) else { return };
        let task = (parent.run, step, parent.path.clone(), parent.visit);
        if !self.accepted.contains(&task) {
            found.push(format!("I4: run {} was started by {task:?} before its result was accepted", start.run));
        }
        if parent.wait {
            self.children.entry(task).or_default().insert(start.run);
        }
    }

    /// What a task waits for beside its inputs had come before it was opened.
    fn passed_gates(&self, flow: &Flow, task: &Task, found: &mut Vec<String>) {
        let (run, step, ..) = *task;
        if let Some(gate) = &flow.step(step).gate {
            let missing = gate.signals.iter().filter(|signal| !self.signals.contains(&(run, signal.name.clone())));
            found.extend(missing.map(|signal| format!("I4: {task:?} was opened without signal {}", signal.name)));
            if gate.approval.is_some() && !self.approved.contains(&(run, step)) {
                found.push(format!("I4: {task:?} was opened without approval"));
            }
        }
        if self.children.is_empty() {
            return;
        }
        let started = self.needs(flow, task).into_iter().flatten().filter_map(|needed| self.children.get(&needed));
        found.extend(started.flatten().map(|child| format!("I4: {task:?} was opened before run {child} had ended")));
    }

    /// The tasks whose results this one takes: of each set one, because switches make its members alternatives.
    fn needs(&self, flow: &Flow, task: &Task) -> Vec<Vec<Task>> {
        if let Some(by) = self.switched.get(task) {
            return vec![vec![by.clone()]];
        }
        let (run, step, path, visit) = task;
        let at = |step: StepIndex, path: Path| (*run, step, path, 0);
        let parents = flow.parents(*step);
        match flow.closes(*step) {
            Some(split) if split.foreach => {
                let count = self.foreaches.get(&(*run, split.step, path.clone())).copied().unwrap_or_default();
                (0..count).map(|index| parents.iter().map(|parent| at(*parent, path.child(index))).collect()).collect()
            }
            // Parents are in the order of the branches; with alternatives it is not said here which belong together.
            Some(split) if parents.len() > flow.step(split.step).next.targets().len() => {
                vec![parents.iter().map(|parent| at(*parent, path.clone())).collect()]
            }
            Some(_) => parents.iter().map(|parent| vec![at(*parent, path.clone())]).collect(),
            None if *step == flow.start() && *visit == 0 => Vec::new(),
            None => vec![parents.iter().filter_map(|parent| Some(at(*parent, parent_path(flow, *parent, path)?))).collect()],
        }
    }

    /// Those of them that have a result.
    fn taken_by(&self, flow: &Flow, task: &Task) -> Vec<Task> {
        self.needs(flow, task).into_iter().flatten().filter(|needed| self.accepted.contains(needed)).collect()
    }

    fn succeeded(&mut self, task: Task, attempt: u32, found: &mut Vec<String>) {
        self.closed(&task, attempt, found);
        self.accept(task, found);
    }

    fn accept(&mut self, task: Task, found: &mut Vec<String>) {
        if let Some(task) = self.accepted.replace(task) {
            found.push(format!("I3: {task:?} has two accepted results"));
        }
    }

    /// Items of a chunk whose last step has no accepted result.
    fn missing_of_chunk(
        &self,
        state: &State,
        (run, split, path): (RunId, StepIndex, &Path),
        count: u32,
        chunk: u32,
    ) -> impl Iterator<Item = Task> {
        let flow = state.run(run).and_then(|run| state.flow_of(run));
        let join = flow
            .as_ref()
            .and_then(|flow| flow.indices().find(|step| flow.closes(*step).is_some_and(|closed| closed.foreach && closed.step == split)));
        let last = flow.zip(join).and_then(|(flow, join)| flow.parents(join).first().copied());
        let items = chunk.saturating_mul(CHUNK_ITEMS)..chunk.saturating_add(1).saturating_mul(CHUNK_ITEMS).min(count);
        let tasks = last.into_iter().flat_map(move |last| items.clone().map(move |item| (run, last, path.child(item), 0)));
        tasks.filter(|task| !self.accepted.contains(task)).collect::<Vec<_>>().into_iter()
    }

    fn closed(&mut self, task: &Task, attempt: u32, found: &mut Vec<String>) {
        if self.open.remove(task) != Some(attempt) {
            found.push(format!("I3: attempt {attempt} of {task:?} got a result while it was not open"));
        }
    }
}

fn flow_of(state: &State, task: &Task) -> Option<Arc<Flow>> {
    state.flow_of(state.run(task.0)?)
}

/// A foreach's items, and a gang's members, lie one level below the task that opened it.
fn parent_path(flow: &Flow, parent: StepIndex, path: &Path) -> Option<Path> {
    if flow.step(parent).next.is_indexed() { path.split_last().map(|(outer, _)| outer) } else { Some(path.clone()) }
}
