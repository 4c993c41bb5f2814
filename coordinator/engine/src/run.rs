//! A run's life as data: its tasks, open dispatches, foreach levels and joins, and how each may change. It knows no rules; those
//! decide in `engine.rs` and its neighbours.

use std::collections::BTreeMap;

use causey_protocol::artifact::ObjectRef;
use causey_protocol::flow::{Flow, StepIndex, Transition};
use causey_protocol::id::{Digest, Path, PoolName, RunId, TaskId, Timestamp, WorkerName};
use causey_protocol::problem::Problem;
use causey_protocol::record::{RunStarted, RunState, TaskSet};
use causey_protocol::task::ErrorInfo;
use serde::{Deserialize, Serialize};

/// A task within its run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TaskRef {
    pub step: StepIndex,
    pub path: Path,
    pub visit: u32,
}

impl TaskRef {
    #[must_use]
    pub fn new(step: StepIndex, path: Path, visit: u32) -> Self {
        Self { step, path, visit }
    }

    /// The task's identity in the words of people and workers.
    #[must_use]
    pub fn id(&self, flow: &Flow) -> TaskId {
        TaskId { step: flow.step(self.step).name.clone(), path: self.path.clone(), visit: self.visit }
    }
}

/// Where a task is in its life. The last four are final.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    /// For its retry delay.
    Waiting,
    /// Offered to a pool.
    Dispatched,
    /// A worker said that it runs.
    Running,
    Succeeded,
    Failed,
    Cancelled,
    Aborted,
}

impl TaskState {
    pub const ALL: [Self; 7] =
        [Self::Waiting, Self::Dispatched, Self::Running, Self::Succeeded, Self::Failed, Self::Cancelled, Self::Aborted];

    /// Whether a report about its current attempt counts.
    #[must_use]
    pub fn is_open(self) -> bool {
        matches!(self, Self::Dispatched | Self::Running)
    }

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Dispatched => "dispatched",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Aborted => "aborted",
        }
    }
}

/// One execution of a step. `attempt` counts all tries from 0, `retry` only the charged ones.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Task {
    pub state: TaskState,
    pub attempt: u32,
    pub retry: u32,
    /// Attempts whose worker vanished.
    pub lost: u32,
    /// Attempts that failed for reasons of infrastructure.
    pub infrastructure: u32,
    pub worker: Option<WorkerName>,
    /// First task of the open dispatch this one belongs to.
    pub dispatch: Option<Box<TaskRef>>,
    pub not_before: Option<Timestamp>,
    pub opened: Timestamp,
    pub started: Option<Timestamp>,
    pub ended: Option<Timestamp>,
    /// Digest and size of the accepted object; its key follows from the task and `attempt`.
    pub object: Option<(Digest, u64)>,
    pub error: Option<Box<ErrorInfo>>,
}

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

/// One opened foreach: items up to `opened` have a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Foreach {
    pub count: u32,
    pub opened: u32,
    /// Items that have reached the join.
    pub arrived: u32,
}

/// A join that has not been opened yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Join {
    pub arrived: u32,
    /// The manifest of inputs that shall be stored first.
    pub manifest: Option<(Digest, u32)>,
    pub stored: bool,
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
    pub tasks: BTreeMap<TaskRef, Task>,
    /// By the dispatch's first task.
    pub dispatches: BTreeMap<TaskRef, OpenDispatch>,
    /// By the step that splits and its path.
    pub foreaches: BTreeMap<(StepIndex, Path), Foreach>,
    /// By the joining step and its path.
    pub joins: BTreeMap<(StepIndex, Path), Join>,
    /// Tasks by step and state, in the order of [`TaskState::ALL`].
    pub counts: Vec<[u32; 7]>,
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
            tasks: BTreeMap::new(),
            dispatches: BTreeMap::new(),
            foreaches: BTreeMap::new(),
            joins: BTreeMap::new(),
            counts: vec![[0; 7]; flow.definition().steps.len()],
        }
    }

    #[must_use]
    pub fn id(&self) -> RunId {
        self.start.run
    }

    /// The task's current attempt if it is open and has this number.
    #[must_use]
    pub fn open_attempt(&self, task: &TaskRef, attempt: u32) -> Option<&Task> {
        self.tasks.get(task).filter(|found| found.state.is_open() && found.attempt == attempt)
    }

    /// The accepted object of a task.
    #[must_use]
    pub fn object(&self, flow: &Flow, task: &TaskRef) -> Option<ObjectRef> {
        let found = self.tasks.get(task)?;
        let (digest, bytes) = found.object?;
        Some(ObjectRef { run: self.id(), key: task.id(flow).key(found.attempt), digest, bytes })
    }

    fn set_state(&mut self, task: &TaskRef, state: TaskState) {
        if let Some(found) = self.tasks.get_mut(task) {
            let counts = &mut self.counts[usize::from(task.step.0)];
            counts[found.state as usize] -= 1;
            counts[state as usize] += 1;
            found.state = state;
        }
    }

    pub(crate) fn open(&mut self, flow: &Flow, step: StepIndex, dispatch: &OpenDispatch, at: Timestamp) {
        if self.state == RunState::Pending {
            self.state = RunState::Running;
        }
        let mut first = None;
        for (path, visit) in dispatch.tasks.iter() {
            let task = TaskRef::new(step, path, visit);
            let first = first.get_or_insert_with(|| task.clone());
            let counts = &mut self.counts[usize::from(step.0)];
            let entry = self.tasks.entry(task).or_insert_with(|| {
                counts[TaskState::Dispatched as usize] += 1;
                Task {
                    state: TaskState::Dispatched,
                    attempt: 0,
                    retry: 0,
                    lost: 0,
                    infrastructure: 0,
                    worker: None,
                    dispatch: None,
                    not_before: None,
                    opened: at,
                    started: None,
                    ended: None,
                    object: None,
                    error: None,
                }
            });
            counts[entry.state as usize] -= 1;
            counts[TaskState::Dispatched as usize] += 1;
            entry.state = TaskState::Dispatched;
            entry.attempt = dispatch.attempt;
            entry.retry = dispatch.retry;
            entry.opened = at;
            entry.not_before = None;
            entry.worker = None;
            entry.started = None;
            entry.ended = None;
            entry.dispatch = Some(Box::new(first.clone()));
        }
        if let (TaskSet::Range { path, to, .. }, [split]) = (&dispatch.tasks, flow.parents(step))
            && let Some(foreach) = self.foreaches.get_mut(&(*split, path.clone()))
        {
            foreach.opened = foreach.opened.max(*to);
        }
        if flow.step(step).join
            && let TaskSet::One { path, .. } = &dispatch.tasks
        {
            self.joins.remove(&(step, path.clone()));
        }
        if let Some(first) = first {
            self.dispatches.insert(first, dispatch.clone());
        }
    }

    pub(crate) fn started(&mut self, task: &TaskRef, worker: &WorkerName, at: Timestamp) {
        self.set_state(task, TaskState::Running);
        self.first_started = Some(self.first_started.map_or(at, |first| first.min(at)));
        if let Some(found) = self.tasks.get_mut(task) {
            found.worker = Some(worker.clone());
            found.started = Some(at);
        }
    }

    /// Closes the task's open attempt.
    pub(crate) fn close(&mut self, task: &TaskRef, state: TaskState, started: Timestamp, ended: Timestamp) {
        self.set_state(task, state);
        self.first_started = Some(self.first_started.map_or(started, |first| first.min(started)));
        let Some(found) = self.tasks.get_mut(task) else { return };
        found.started = Some(started);
        found.ended = Some(ended);
        let Some(first) = found.dispatch.take() else { return };
        if let Some(dispatch) = self.dispatches.get_mut(&first) {
            dispatch.open -= 1;
            if dispatch.open == 0 {
                self.dispatches.remove(&first);
            }
        }
    }

    /// Counts a finished task at the join it leads to, if it leads to one.
    pub(crate) fn arrive(&mut self, flow: &Flow, task: &TaskRef) {
        let Some((join, path)) = join_of(flow, task) else { return };
        if let Some(split) = flow.closes(join)
            && split.foreach
            && let Some(foreach) = self.foreaches.get_mut(&(split.step, path.clone()))
        {
            foreach.arrived += 1;
        }
        self.joins.entry((join, path)).or_default().arrived += 1;
    }

    /// Ends the run; whatever was open or waiting is closed as `others`.
    pub(crate) fn finish(&mut self, state: RunState, problem: Option<Problem>, others: TaskState, at: Timestamp) {
        let unfinished: Vec<TaskRef> = self
            .tasks
            .iter()
            .filter(|(_, task)| task.state.is_open() || task.state == TaskState::Waiting)
            .map(|(task, _)| task.clone())
            .collect();
        for task in unfinished {
            self.set_state(&task, others);
            if let Some(found) = self.tasks.get_mut(&task) {
                found.dispatch = None;
                found.not_before = None;
                found.ended = Some(at);
            }
        }
        self.dispatches.clear();
        self.joins.clear();
        self.state = state;
        self.problem = problem;
        self.finished = Some(at);
    }

    pub(crate) fn task_mut(&mut self, task: &TaskRef) -> Option<&mut Task> {
        self.tasks.get_mut(task)
    }

    pub(crate) fn wait(&mut self, task: &TaskRef, retry: u32, not_before: Timestamp) {
        self.set_state(task, TaskState::Waiting);
        if let Some(found) = self.tasks.get_mut(task) {
            found.retry = retry;
            found.not_before = Some(not_before);
        }
    }
}

/// The join that a finished task leads to, and that join's path.
pub(crate) fn join_of(flow: &Flow, task: &TaskRef) -> Option<(StepIndex, Path)> {
    let Transition::Linear { to } = &flow.step(task.step).next else { return None };
    let join = flow.find(to)?;
    let split = flow.closes(join)?;
    if split.foreach { Some((join, task.path.split_last()?.0)) } else { Some((join, task.path.clone())) }
}
