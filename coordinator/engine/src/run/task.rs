//! A task of a run: its identity, where it is in its life, and what is known of it.

use causey_protocol::flow::{Flow, StepIndex};
use causey_protocol::id::{ContentId, Digest, Path, RunId, TaskId, Timestamp, WorkerName};
use causey_protocol::task::{ErrorInfo, Usage};
use serde::{Deserialize, Serialize};

use crate::tasks::Place;

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
    /// For its retry delay; a member of a gang also for its gang to gather again, or with its result for those of the others.
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

    /// Whether something is still to come of the task.
    #[must_use]
    pub fn is_unfinished(self) -> bool {
        self.is_open() || self == Self::Waiting
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
    /// First task of the open dispatch this one belongs to, which is of the same step and foreach.
    pub dispatch: Option<Place>,
    pub not_before: Option<Timestamp>,
    pub opened: Timestamp,
    pub started: Option<Timestamp>,
    pub ended: Option<Timestamp>,
    /// Digest and size of the accepted object; its key follows from the task and `attempt`.
    pub object: Option<(Digest, u64)>,
    pub error: Option<Box<ErrorInfo>>,
    /// The other run whose object it is: the result was taken from there, and no attempt was made here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reused: Option<RunId>,
    /// What the object contains, where a memoised step takes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<Box<ContentId>>,
    /// What its last attempt used, if that ran for more than a moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Box<Usage>>,
}

impl Task {
    /// A task whose attempt is about to be offered.
    pub(super) fn new(at: Timestamp) -> Self {
        Self {
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
            reused: None,
            content: None,
            usage: None,
        }
    }
}
