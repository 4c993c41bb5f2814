//! A run's life as data: its tasks, open dispatches, foreach levels and joins, and how each may change. It knows no rules; those
//! decide in `engine.rs` and its neighbours.

mod split;
mod task;

use std::collections::BTreeMap;
use std::ops::Bound;

use causey_protocol::artifact::ObjectRef;
use causey_protocol::flow::{Flow, Split, StepIndex, Transition};
use causey_protocol::id::{ContentId, Digest, Path, PoolName, RunId, StatusName, Timestamp, WorkerName};
use causey_protocol::problem::Problem;
use causey_protocol::record::{Position, RunStarted, RunState, TaskSet};
use causey_protocol::task::{Success, Usage};
use serde::{Deserialize, Serialize};

use crate::chunk::BlobUse;
use crate::gang::{Gang, GangKey};
use crate::gate::Gates;
use crate::status::Status;
use crate::tasks::{Place, Tasks};
use crate::{route, timeout};

pub use split::{Chunk, Foreach, Join};
pub use task::{Task, TaskRef, TaskState};

/// Attempts that were opened together and are published as one message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenDispatch {
    pub pool: PoolName,
    pub tasks: TaskSet,
    pub attempt: u32,
    pub retry: u32,
    /// How many of its attempts are still open.
    pub open: u32,
}

/// What is known of a step's tasks without looking at any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepSummary {
    /// Tasks by state, in the order of [`TaskState::ALL`].
    pub counts: [u32; 7],
    /// Those of the succeeded ones that lie in stored chunks.
    pub stored: u32,
    pub first_started: Option<Timestamp>,
    pub last_ended: Option<Timestamp>,
    /// How often the step, if it splits, has opened a foreach, and the items of all of them.
    pub foreaches: u32,
    pub items: u64,
    /// Those of the items that have been offered to a pool, or whose result is sought in another run.
    pub offered: u64,
    /// Tasks whose result was taken from another run.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub reused: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it like this")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// One execution of a flow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    pub start: RunStarted,
    pub created: Timestamp,
    pub first_started: Option<Timestamp>,
    pub finished: Option<Timestamp>,
    pub state: RunState,
    pub problem: Option<Problem>,
    /// Its place in the line of runs that have not begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits: Option<Position>,
    /// When it got a place, if it had to wait for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admitted: Option<Timestamp>,
    /// Stored apart from the rest of the run.
    #[serde(skip)]
    pub(crate) tasks: Tasks,
    /// Open attempts of steps whose pool is chosen when they are opened, by step and pool. Follows from the dispatches.
    #[serde(skip)]
    pub(crate) away: BTreeMap<(StepIndex, PoolName), u32>,
    /// By the step that splits and its path.
    pub foreaches: BTreeMap<(StepIndex, Path), Foreach>,
    /// By the joining step and its path.
    pub joins: BTreeMap<(StepIndex, Path), Join>,
    /// The parent that a switch gave a step on a path; kept until the step has its result.
    pub routes: BTreeMap<(StepIndex, Path), (StepIndex, u32)>,
    /// When a running attempt whose step has a timeout must be over at the latest.
    pub deadlines: BTreeMap<TaskRef, Timestamp>,
    /// What became of gates; `None` in a run that has met none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gates: Option<Box<Gates>>,
    /// What it tells about itself.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub status: BTreeMap<StatusName, Status>,
    /// By step.
    pub steps: Vec<StepSummary>,
    /// Gangs whose results are not accepted yet.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub gangs: BTreeMap<GangKey, Gang>,
    /// Tasks that are ready and wait for what there is of their results in other runs, by the first of those that are sought together.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) sought: BTreeMap<TaskRef, TaskSet>,
}

impl Run {
    pub(crate) fn new(start: RunStarted, flow: &Flow, created: Timestamp) -> Self {
        Self {
            start,
            created,
            first_started: None,
            finished: None,
            state: RunState::Pending,
            problem: None,
            waits: None,
            admitted: None,
            tasks: Tasks::default(),
            away: BTreeMap::new(),
            foreaches: BTreeMap::new(),
            joins: BTreeMap::new(),
            routes: BTreeMap::new(),
            deadlines: BTreeMap::new(),
            gates: None,
            status: BTreeMap::new(),
            steps: vec![StepSummary::default(); flow.definition().steps.len()],
            gangs: BTreeMap::new(),
            sought: BTreeMap::new(),
        }
    }

    #[must_use]
    pub fn id(&self) -> RunId {
        self.start.run
    }

    /// When it must be over; `None` without a time limit, and while it has not begun.
    pub(crate) fn deadline(&self) -> Option<Timestamp> {
        timeout::run_deadline(&self.start, self.admitted.unwrap_or(self.created)).filter(|_| self.waits.is_none())
    }

    /// Whose run it is: runs of one user share what that tenant gets.
    #[must_use]
    pub fn tenant(&self) -> &str {
        &self.start.user
    }

    /// Open attempts at one step.
    #[must_use]
    pub fn open_at(&self, step: StepIndex) -> u32 {
        open_of(&self.step(step))
    }

    /// Open attempts.
    #[must_use]
    pub fn open(&self) -> u32 {
        self.steps.iter().map(open_of).sum()
    }

    /// A task; `None` also for one that lies in a stored chunk.
    #[must_use]
    pub fn task(&self, task: &TaskRef) -> Option<&Task> {
        self.tasks.get(task)
    }

    /// Tasks in order, but those in stored chunks.
    pub fn tasks(&self, from: Bound<TaskRef>) -> impl Iterator<Item = (TaskRef, &Task)> {
        self.tasks.range(from)
    }

    /// Tasks of a step in order, but those in stored chunks.
    pub fn tasks_of(&self, step: StepIndex) -> impl Iterator<Item = (TaskRef, &Task)> {
        let first = TaskRef::new(step, Path::default(), 0);
        self.tasks.range(Bound::Included(first)).take_while(move |(task, _)| task.step == step)
    }

    /// Tasks that are open or wait for their time; takes as long as they are many, however wide the run is.
    pub fn unfinished(&self) -> impl Iterator<Item = (TaskRef, &Task)> {
        self.tasks.unfinished()
    }

    /// Open dispatches by their first task.
    pub fn dispatches(&self) -> impl Iterator<Item = (TaskRef, &OpenDispatch)> {
        self.tasks.dispatches()
    }

    /// The open dispatch that this attempt at `first` leads.
    #[must_use]
    pub fn dispatch(&self, first: &TaskRef, attempt: u32) -> Option<&OpenDispatch> {
        self.tasks.dispatch(first, attempt)
    }

    /// The open dispatch that a task belongs to.
    #[must_use]
    pub fn dispatch_of(&self, task: &TaskRef, found: &Task) -> Option<&OpenDispatch> {
        self.tasks.dispatch(&found.dispatch?.beside(task), found.attempt)
    }

    #[must_use]
    pub fn step(&self, step: StepIndex) -> StepSummary {
        self.steps.get(usize::from(step.0)).copied().unwrap_or_default()
    }

    #[must_use]
    pub fn foreach(&self, split: StepIndex, path: &Path) -> Option<&Foreach> {
        self.foreaches.get(&(split, path.clone()))
    }

    /// The task's current attempt if it is open and has this number.
    #[must_use]
    pub fn open_attempt(&self, task: &TaskRef, attempt: u32) -> Option<&Task> {
        self.task(task).filter(|found| found.state.is_open() && found.attempt == attempt)
    }

    /// The accepted object of a task.
    #[must_use]
    pub fn object(&self, flow: &Flow, task: &TaskRef) -> Option<ObjectRef> {
        let found = self.task(task)?;
        let (digest, bytes) = found.object?;
        Some(ObjectRef { run: found.reused.unwrap_or(self.id()), key: task.id(flow).key(found.attempt), digest, bytes })
    }

    /// Changes a task and counts it under its new state.
    fn change<T>(&mut self, task: &TaskRef, change: impl FnOnce(&mut Task) -> T) -> Option<T> {
        let (before, after, changed) = self.tasks.change(task, |found| {
            let before = found.state;
            let changed = change(found);
            (before, found.state, changed)
        })?;
        let counts = &mut self.steps[usize::from(task.step.0)].counts;
        counts[before as usize] -= 1;
        counts[after as usize] += 1;
        Some(changed)
    }

    pub(crate) fn offer(&mut self, flow: &Flow, step: StepIndex, dispatch: OpenDispatch, at: Timestamp) {
        if self.state == RunState::Pending {
            self.state = RunState::Running;
        }
        if route::routed(flow, step).is_some() {
            self.go_away(step, &dispatch.pool, dispatch.tasks.len());
        }
        let mut first = None;
        for (path, visit) in dispatch.tasks.iter() {
            let task = TaskRef::new(step, path, visit);
            let first = *first.get_or_insert_with(|| Place::of(&task));
            let open = |found: &mut Task| {
                found.state = TaskState::Dispatched;
                found.attempt = dispatch.attempt;
                found.retry = dispatch.retry;
                found.opened = at;
                found.not_before = None;
                found.worker = None;
                found.started = None;
                found.ended = None;
                found.usage = None;
                found.dispatch = Some(first);
            };
            if self.change(&task, open).is_none() {
                let mut new = Task::new(at);
                open(&mut new);
                self.steps[usize::from(step.0)].counts[TaskState::Dispatched as usize] += 1;
                self.tasks.insert(&task, new);
            }
        }
        self.offered(flow, step, &dispatch.tasks);
        if flow.step(step).join
            && let TaskSet::One { path, .. } = &dispatch.tasks
        {
            self.joins.remove(&(step, path.clone()));
        }
        let first_task = dispatch.tasks.iter().next();
        if let Some((path, visit)) = first_task {
            self.tasks.offer(&TaskRef::new(step, path, visit), dispatch);
        }
    }

    /// Moves the cursor of the foreach whose items these are.
    pub(crate) fn offered(&mut self, flow: &Flow, step: StepIndex, tasks: &TaskSet) {
        if let (TaskSet::Range { path, to, .. }, [split]) = (tasks, flow.parents(step))
            && let Some(foreach) = self.foreaches.get_mut(&(*split, path.clone()))
        {
            self.steps[usize::from(split.0)].offered += u64::from(to.saturating_sub(foreach.opened));
            foreach.opened = foreach.opened.max(*to);
        }
    }

    pub(crate) fn open_foreach(&mut self, split: StepIndex, path: &Path, count: u32, chunk: Option<u32>) {
        let summary = &mut self.steps[usize::from(split.0)];
        summary.foreaches += 1;
        summary.items += u64::from(count);
        self.foreaches.insert((split, path.clone()), Foreach::new(count, chunk));
    }

    /// A gang is called: all its members are about to be opened.
    pub(crate) fn call_gang(&mut self, flow: &Flow, step: StepIndex, path: &Path) {
        let [split] = flow.parents(step) else { return };
        let Some(foreach) = self.foreaches.get_mut(&(*split, path.clone())) else { return };
        self.steps[usize::from(split.0)].offered += u64::from(foreach.count - foreach.opened.min(foreach.count));
        foreach.opened = foreach.count;
    }

    /// A member's attempt ends with the gang's.
    pub(crate) fn recall(&mut self, task: &TaskRef, retry: u32, at: Timestamp) {
        self.deadlines.remove(task);
        let dispatch = self.change(task, |found| {
            found.state = TaskState::Waiting;
            found.retry = retry;
            found.ended = Some(at);
            Some((found.dispatch.take()?, found.attempt))
        });
        if let Some((first, attempt)) = dispatch.flatten() {
            self.close_one(&first.beside(task), attempt);
        }
    }

    /// An attempt of the dispatch that `first` leads is over.
    fn close_one(&mut self, first: &TaskRef, attempt: u32) {
        if !self.away.is_empty() {
            self.come_back(first, attempt);
        }
        self.tasks.close_one(first, attempt);
    }

    /// A member has its result: its attempt is over, and the task waits for the others.
    pub(crate) fn member_succeeded(&mut self, task: &TaskRef, worker: &WorkerName, success: &Success) {
        self.close(task, success.started, success.ended, |found| {
            found.state = TaskState::Waiting;
            found.worker = Some(worker.clone());
        });
        if let Some((gang, index)) = self.gang_of_mut(task)
            && let Some(member) = gang.members.get_mut(&index)
        {
            member.success = Some(Box::new(success.clone()));
        }
    }

    /// The result of a member is accepted; with the last of them the gang is over.
    fn member_accepted(&mut self, task: &TaskRef) {
        let Some((key, gang, index)) = self.gang_of(task) else { return };
        if gang.members.len() <= 1 {
            self.gangs.remove(&key);
        } else if let Some(gang) = self.gangs.get_mut(&key) {
            gang.members.remove(&index);
        }
    }

    pub(crate) fn started(&mut self, task: &TaskRef, worker: &WorkerName, at: Timestamp) {
        self.note_start(task.step, at);
        self.change(task, |found| {
            found.state = TaskState::Running;
            found.worker = Some(worker.clone());
            found.started = Some(at);
        });
    }

    fn note_start(&mut self, step: StepIndex, at: Timestamp) {
        let earlier = |first: Option<Timestamp>| Some(first.map_or(at, |first| first.min(at)));
        self.first_started = earlier(self.first_started);
        let summary = &mut self.steps[usize::from(step.0)];
        summary.first_started = earlier(summary.first_started);
    }

    fn note_end(&mut self, step: StepIndex, at: Timestamp) {
        let summary = &mut self.steps[usize::from(step.0)];
        summary.last_ended = summary.last_ended.max(Some(at));
    }

    /// Closes the task's open attempt; `change` says what became of it.
    pub(crate) fn close(&mut self, task: &TaskRef, started: Timestamp, ended: Timestamp, change: impl FnOnce(&mut Task)) {
        self.note_start(task.step, started);
        self.note_end(task.step, ended);
        if !self.deadlines.is_empty() {
            self.deadlines.remove(task);
        }
        let dispatch = self.change(task, |found| {
            found.started = Some(started);
            found.ended = Some(ended);
            change(found);
            Some((found.dispatch.take()?, found.attempt))
        });
        if let Some((first, attempt)) = dispatch.flatten() {
            self.close_one(&first.beside(task), attempt);
        }
    }

    pub(crate) fn succeed(&mut self, task: &TaskRef, worker: &WorkerName, object: (Digest, u64), (started, ended): (Timestamp, Timestamp)) {
        if !self.routes.is_empty() {
            self.routes.remove(&(task.step, task.path.clone()));
        }
        self.close(task, started, ended, |found| {
            found.state = TaskState::Succeeded;
            found.object = Some(object);
            found.worker = Some(worker.clone());
            found.error = None;
        });
        self.member_accepted(task);
    }

    /// A task takes the result of another run, without an attempt.
    pub(crate) fn reuse(&mut self, task: &TaskRef, owner: RunId, attempt: u32, object: (Digest, u64), at: Timestamp) {
        self.routes.remove(&(task.step, task.path.clone()));
        self.joins.remove(&(task.step, task.path.clone()));
        self.note_reuse(task.step, 1, at);
        self.steps[usize::from(task.step.0)].counts[TaskState::Succeeded as usize] += 1;
        let (started, ended) = (Some(at), Some(at));
        let (state, object, reused) = (TaskState::Succeeded, Some(object), Some(owner));
        self.tasks.insert(task, Task { state, attempt, started, ended, object, reused, ..Task::new(at) });
    }

    /// Notes what the result of a task contains, and says where it was made.
    pub(crate) fn note_content(&mut self, task: &TaskRef, content: Option<ContentId>) -> Option<(Option<RunId>, u32, (Digest, u64))> {
        let noted = self.change(task, |found| {
            found.content = content.map(Box::new);
            Some((found.reused, found.attempt, found.object?))
        });
        noted.flatten()
    }

    /// Tasks whose result was taken from another run.
    #[must_use]
    pub fn reused(&self) -> u64 {
        self.steps.iter().map(|step| u64::from(step.reused)).sum()
    }

    pub(crate) fn note_reuse(&mut self, step: StepIndex, count: u32, at: Timestamp) {
        if self.state == RunState::Pending {
            self.state = RunState::Running;
        }
        self.note_start(step, at);
        self.note_end(step, at);
        self.steps[usize::from(step.0)].reused += count;
    }

    /// Blobs that are to be stored.
    pub(crate) fn blobs(&self) -> impl Iterator<Item = (Digest, BlobUse)> {
        let chunks = self.foreaches.iter().filter(|(_, foreach)| (foreach.stored as usize) < foreach.chunks.len()).flat_map(
            |((split, path), foreach)| {
                let wanted = foreach.chunks.iter().filter(|(_, chunk)| !chunk.stored);
                wanted.filter_map(|(number, chunk)| {
                    Some((chunk.digest?, BlobUse::Chunk { split: *split, path: path.clone(), chunk: *number }))
                })
            },
        );
        let joins = self.joins.iter().filter(|(_, join)| !join.stored);
        let joins = joins.filter_map(|((step, path), join)| Some((join.manifest?.0, BlobUse::Join { step: *step, path: path.clone() })));
        chunks.chain(joins)
    }

    /// Counts finished tasks, which are `items` of the foreach on `outer` or one task outside any, at the join they lead to.
    pub(crate) fn arrive(&mut self, flow: &Flow, step: StepIndex, outer: &Path, items: impl Iterator<Item = Option<u32>>) {
        let Some((join, split)) = join_after(flow, step) else { return };
        let path = |item: Option<u32>| item.map_or_else(|| outer.clone(), |item| outer.child(item));
        if !split.foreach {
            items.for_each(|item| self.joins.entry((join, path(item))).or_default().arrived += 1);
            return;
        }
        let mut arrived = 0;
        if let Some(foreach) = self.foreaches.get_mut(&(split.step, outer.clone())) {
            for item in items.flatten() {
                foreach.arrive(item);
                arrived += 1;
            }
        }
        self.joins.entry((join, outer.clone())).or_default().arrived += arrived;
    }

    /// Forgets what lies below the items of a chunk that has been stored.
    pub(crate) fn forget_chunk(&mut self, flow: &Flow, split: StepIndex, path: &Path, chunk: u32) {
        let Some(foreach) = self.foreaches.get_mut(&(split, path.clone())) else { return };
        let items = foreach.items(chunk);
        let Some(found) = foreach.chunks.get_mut(&chunk).filter(|found| !found.stored) else { return };
        found.stored = true;
        foreach.stored += 1;
        for (step, depth) in steps_below(flow, split, path) {
            let forgotten = self.tasks.forget_below(step, path, depth, items);
            self.steps[usize::from(step.0)].stored += forgotten;
        }
        for inner in splits_below(flow, split, path) {
            let (first, last) = ((inner, path.child(items.0)), (inner, path.child(items.1)));
            let gone: Vec<_> = self.foreaches.range(first..last).map(|(key, _)| key.clone()).collect();
            for key in gone {
                self.foreaches.remove(&key);
            }
        }
    }

    /// Ends the run; whatever was open or waiting is closed as `others`.
    pub(crate) fn finish(&mut self, state: RunState, problem: Option<Problem>, others: TaskState, at: Timestamp) {
        let unfinished: Vec<TaskRef> = self.unfinished().map(|(task, _)| task).collect();
        for task in unfinished {
            self.note_end(task.step, at);
            self.change(&task, |found| {
                found.state = others;
                found.dispatch = None;
                found.not_before = None;
                found.ended = Some(at);
            });
        }
        self.tasks.close_all();
        self.away.clear();
        self.joins.clear();
        self.routes.clear();
        self.deadlines.clear();
        self.waits = None;
        self.gangs.clear();
        if let Some(gates) = &mut self.gates {
            gates.waiting.clear();
        }
        self.sought.clear();
        self.state = state;
        self.problem = problem;
        self.finished = Some(at);
    }

    pub(crate) fn use_up(&mut self, task: &TaskRef, usage: Usage) {
        self.change(task, |found| found.usage = Some(Box::new(usage)));
    }

    /// Keeps a task from being opened for a while.
    pub(crate) fn hold(&mut self, task: &TaskRef, retry: u32) {
        self.change(task, |found| {
            found.state = TaskState::Waiting;
            found.retry = retry;
            found.not_before = None;
        });
    }

    pub(crate) fn wait(&mut self, task: &TaskRef, retry: u32, not_before: Timestamp) {
        self.change(task, |found| {
            found.state = TaskState::Waiting;
            found.retry = retry;
            found.not_before = Some(not_before);
        });
    }
}

fn open_of(step: &StepSummary) -> u32 {
    TaskState::ALL.iter().filter(|state| state.is_open()).map(|state| step.counts[*state as usize]).sum()
}

/// The join that `step` leads to, and the split it closes.
pub(crate) fn join_after(flow: &Flow, step: StepIndex) -> Option<(StepIndex, Split)> {
    let Transition::Linear { to } = &flow.step(step).next else { return None };
    let join = flow.find(to)?;
    Some((join, flow.closes(join)?))
}

/// The join that closes the foreach of `split`.
pub(crate) fn join_of(flow: &Flow, split: StepIndex) -> Option<StepIndex> {
    flow.indices().find(|step| flow.closes(*step).is_some_and(|closed| closed.foreach && closed.step == split))
}

/// The steps inside the foreach that `split` opens on `path`, with the number of indices in their tasks' paths.
pub(crate) fn steps_below(flow: &Flow, split: StepIndex, path: &Path) -> impl Iterator<Item = (StepIndex, usize)> {
    let level = path.0.len();
    flow.indices().filter_map(move |step| {
        let inside = flow.foreach_levels(step).nth(level) == Some(split);
        inside.then(|| (step, flow.foreach_levels(step).count()))
    })
}

/// The steps inside that foreach that open further ones.
pub(crate) fn splits_below(flow: &Flow, split: StepIndex, path: &Path) -> impl Iterator<Item = StepIndex> {
    steps_below(flow, split, path).map(|(step, _)| step).filter(|step| flow.step(*step).next.is_indexed())
}
