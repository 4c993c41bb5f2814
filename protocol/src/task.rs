//! What coordinator and workers tell each other about attempts: dispatches on the task queue, reports in the inbox. Both
//! carry lists, because messages cost and bytes hardly do.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::artifact::ObjectRef;
use crate::flow::Transition;
use crate::gate::{ChildStart, EndedChild};
use crate::id::{
    ContentId, Digest, FlowName, IdempotencyKey, ModelName, Path, PoolName, RunId, RunName, SignalName, StepName, TaskId, TaskKey,
    Timestamp, WorkerName,
};
use crate::parameter::Values;
use crate::policy::HostMode;
use crate::resources::Resources;
use crate::status;
use crate::surroundings::Surroundings;

/// Most tasks of one step in one dispatch (host mode `reuse`; the other modes take one).
pub const TASKS_PER_DISPATCH_MAX: u32 = 64;

/// Most input references that travel inside a dispatch; more of them go by a manifest in the artifact store.
pub const INLINE_INPUTS_MAX: usize = 64;

/// Most members of a gang: all of them are opened, and told of each other, in one message.
pub const GANG_MEMBERS_MAX: u32 = 500;

/// Most base classes of an error inside a report.
pub const ERROR_CLASSES_REPORTED_MAX: usize = 16;

/// Longest traceback or message inside a report, in bytes; the whole text is in the attempt's object.
pub const ERROR_TEXT_BYTES_MAX: usize = 8 * 1024;

/// The message that puts attempts of one step on a pool's queue. Its subject carries the first task's key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dispatch {
    pub run: RunId,
    pub run_name: RunName,
    pub flow: FlowName,
    pub language: String,
    pub package: Digest,
    /// The flow file inside the package.
    pub file: String,
    pub step: StepName,
    pub host: HostMode,
    /// Slots one attempt occupies.
    pub slots: u32,
    /// Charged retries the task has; when an attempt's `retry` has reached it, a failure is final.
    pub retries_max: u32,
    pub parameters: Values,
    pub user: String,
    pub tags: Vec<String>,
    /// The CloudEvents that started the run, in structured form.
    pub events: Vec<Value>,
    /// One entry per enclosing foreach level, outermost first.
    pub splits: Vec<SplitLevel>,
    pub tasks: Vec<DispatchedTask>,
    /// The queue may have lost this dispatch before: look for a stored result first.
    pub again: bool,
    /// Longest time an attempt may take, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<f64>,
    /// Time between the request to end and the kill, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace_seconds: Option<f64>,
    /// The instant of the schedule or backfill that the run is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduled_at: Option<Timestamp>,
    /// The task is a member of a gang: it waits for the others before user code runs.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub gang: bool,
    /// Data of the signals that the run has received.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub signals: BTreeMap<SignalName, Value>,
    /// Runs that earlier tasks started and waited for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub children: Vec<EndedChild>,
    /// The run that this one resumes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin_run: Option<RunId>,
    /// A memoised step takes the results: the report says what they contain.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub content: bool,
    /// What an attempt needs beside its slots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub needs: Option<Box<Resources>>,
    /// How the step goes on, for a host whose code does not say it; absent for Python flows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transition: Option<Transition>,
    /// Steps in other languages read what this one leaves.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub typed: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub surroundings: Option<Box<Surroundings>>,
}

/// Where a member of a gang can be reached: the address of its host, and a port that was free there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    pub ip: IpAddr,
    pub port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SplitLevel {
    pub step: StepName,
    pub count: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DispatchedTask {
    pub path: Path,
    pub visit: u32,
    pub attempt: u32,
    /// Charged retries so far.
    pub retry: u32,
    pub inputs: Inputs,
}

impl Dispatch {
    /// The identity of one of its tasks.
    #[must_use]
    pub fn task_id(&self, task: &DispatchedTask) -> TaskId {
        TaskId { step: self.step.clone(), path: task.path.clone(), visit: task.visit }
    }

    /// The key of one of its attempts.
    #[must_use]
    pub fn key(&self, task: &DispatchedTask) -> TaskKey {
        self.task_id(task).key(task.attempt)
    }

    #[must_use]
    pub fn idempotency_key(&self, task: &DispatchedTask) -> IdempotencyKey {
        self.task_id(task).idempotency_key(self.run)
    }
}

/// The objects of a task's parents, in order of foreach index or branch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Inputs {
    Listed(Vec<InputRef>),
    /// A blob in the artifact store that holds a MessagePack list of [`InputRef`] behind the version byte.
    Manifest {
        digest: Digest,
        count: u32,
    },
    /// A blob in the artifact store that holds a [`crate::chunk::ChunkList`].
    Chunks {
        digest: Digest,
        count: u32,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputRef {
    pub step: StepName,
    pub path: Path,
    pub object: ObjectRef,
}

/// What a worker tells about attempts. Counts only if its authenticated subject names this pool and worker (I14).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub pool: PoolName,
    pub worker: WorkerName,
    pub items: Vec<ReportItem>,
}

impl Report {
    /// The report in pieces that are decided one by one: neighbours that succeeded at items of one foreach, published nothing
    /// and split nothing stay together, everything else is alone, so that what is decided of a piece has a bound.
    pub fn pieces(self) -> impl Iterator<Item = Vec<ReportItem>> {
        let mut items = self.items.into_iter().peekable();
        std::iter::from_fn(move || {
            let mut piece = vec![items.next()?];
            while let Some(next) = items.next_if(|next| piece[0].is_packed_with(next)) {
                piece.push(next);
            }
            Some(piece)
        })
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReportItem {
    pub run: RunId,
    pub step: StepName,
    pub path: Path,
    pub visit: u32,
    pub attempt: u32,
    pub outcome: Outcome,
}

impl ReportItem {
    /// Whether both may become one record.
    #[must_use]
    pub fn is_packed_with(&self, other: &Self) -> bool {
        // What follows from one item must be little, or a piece could fill more than a turn.
        let packable = |item: &Self| {
            let Outcome::Succeeded(success) = &item.outcome else { return false };
            success.publications.is_empty() && success.children.is_empty() && success.foreach.is_none() && success.next.len() <= 1
        };
        packable(self)
            && packable(other)
            && self.run == other.run
            && (self.visit, self.attempt) == (other.visit, other.attempt)
            && self.path.is_beside(&other.path)
            && self.step == other.step
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Outcome {
    /// A host runs the attempt on this worker.
    Started {
        at: Timestamp,
    },
    /// A member of a gang is ready to begin and waits for the others.
    Joined {
        address: Address,
        at: Timestamp,
    },
    Succeeded(Success),
    Failed(Failure),
    /// Handed back unstarted; not charged.
    Released {
        because: String,
    },
    /// The attempt goes on, and tells about its run.
    Status {
        values: status::Values,
    },
    /// What the attempt has used so far; its result follows.
    Used {
        usage: Usage,
    },
}

/// What an attempt that ran for more than a moment used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// The most memory that its process had resident, in bytes.
    pub peak_memory_bytes: u64,
    /// Processor time of its process and of those that this one has waited for, in milliseconds; `None` where the process had run other
    /// attempts before.
    pub cpu_millis: Option<u64>,
    /// The memory it had booked, and who kept it to that; `None`: it had booked none, or nobody did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_limit: Option<MemoryLimit>,
}

/// A limit on the memory of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryLimit {
    pub bytes: u64,
    pub by: MemoryKeeper,
}

/// Who ends an attempt that takes more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemoryKeeper {
    /// The kernel, through a control group.
    Cgroup,
    /// The worker, which looks a few times a second.
    Watchdog,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Success {
    pub digest: Digest,
    pub bytes: u64,
    /// Steps the transition named; empty at the end.
    pub next: Vec<StepName>,
    /// Items of a foreach, or members of a gang.
    pub foreach: Option<u32>,
    pub publications: Vec<Publication>,
    /// Runs to be started once the report is accepted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub children: Vec<ChildStart>,
    pub started: Timestamp,
    pub ended: Timestamp,
    /// What the object contains, where the dispatch asked for it and all of it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<ContentId>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    pub kind: FailureKind,
    pub error: Box<ErrorInfo>,
    /// The object with output and full traceback, if one could be stored.
    pub digest: Option<Digest>,
    pub bytes: u64,
    pub started: Timestamp,
    pub ended: Timestamp,
}

/// Whose fault a failure is; decides whether it is charged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// User code raised or its process died. Charged.
    User,
    /// User code cannot run at all (its file does not import, it says a retry is useless). Final.
    Permanent,
    /// Store, disk or network. Not charged.
    Infrastructure,
    /// It took longer than the step's timeout. Charged.
    TimedOut,
}

/// An error of user code, with what a person needs to find it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorInfo {
    #[serde(rename = "type")]
    pub kind: String,
    pub message: String,
    #[serde(default)]
    pub traceback: String,
    #[serde(default)]
    pub file: Option<String>,
    #[serde(default)]
    pub line: Option<u32>,
    #[serde(default)]
    pub step: Option<String>,
    #[serde(default)]
    pub source: Option<String>,
    #[serde(default)]
    pub column: Option<u32>,
    #[serde(default)]
    pub end_column: Option<u32>,
    /// Groups equal failures.
    #[serde(default)]
    pub hash: Option<String>,
    #[serde(default)]
    pub hint: Option<String>,
    /// Names of the classes that its type derives from, nearest first: what a retry's filter may name too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub classes: Vec<String>,
}

impl ErrorInfo {
    /// Cuts the long texts to [`ERROR_TEXT_BYTES_MAX`], a traceback from its front.
    #[must_use]
    pub fn clipped(mut self) -> Self {
        let cut = (0..=ERROR_TEXT_BYTES_MAX.min(self.message.len())).rev().find(|at| self.message.is_char_boundary(*at)).unwrap_or(0);
        self.message.truncate(cut);
        self.classes.truncate(ERROR_CLASSES_REPORTED_MAX);
        if self.traceback.len() > ERROR_TEXT_BYTES_MAX {
            let from = self.traceback.len() - ERROR_TEXT_BYTES_MAX;
            let from = (from..=self.traceback.len()).find(|at| self.traceback.is_char_boundary(*at)).unwrap_or(from);
            self.traceback = format!("[…]{}", &self.traceback[from..]);
        }
        self
    }
}

/// A model that a step wants published once its report is accepted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Publication {
    pub model: ModelName,
    /// The artifact of the attempt's object that holds the model's bytes.
    pub artifact: String,
    pub format: String,
    #[serde(default)]
    pub metrics: serde_json::Map<String, Value>,
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    #[serde(default)]
    pub description: String,
    #[serde(default)]
    pub allow_pickle: bool,
}
