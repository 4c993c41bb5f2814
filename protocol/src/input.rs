//! What the engine decides about: wishes and reports from the inbox, events from the events stream, and what the leader's own
//! shell notices. A closed set; nothing in it is decided yet.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::event::CloudEvent;
use crate::flow::{Flow, StepIndex};
use crate::id::{ContentId, Digest, FlowName, PoolName, RequestId, RunId, SignalName, SourceName, StepName, Timestamp, WorkerName};
use crate::letter::{LetterEnd, Original};
use crate::live::Order;
use crate::parameter::Values;
use crate::policy::HostMode;
use crate::record::{Position, Resumption, TaskSet};
use crate::resources::ShapeCount;
use crate::schedule::BackfillPlan;
use crate::share::{Shares, Standing};
use crate::task::ReportItem;
use crate::upkeep::{SnapshotTaken, Storage};

/// A wish in the inbox (`causey.in.request.<kind>`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RequestMessage {
    /// Made by the client; a repeated id is answered like the first.
    pub id: RequestId,
    /// Who asks, for people to read.
    pub user: String,
    pub request: Request,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Request {
    Submit {
        flow: FlowChoice,
        parameters: Values,
        tags: Vec<String>,
        /// Overrides the host mode of every step.
        host: Option<HostMode>,
        /// Longest time the run may take, in seconds. `None`: what the flow says.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        timeout_seconds: Option<f64>,
        /// What is not said here is as the flow says.
        #[serde(default, skip_serializing_if = "Standing::is_ordinary")]
        standing: Standing,
        /// It takes no remembered result of a memoised step.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        fresh: bool,
    },
    /// A new run that takes results of an earlier one, which has ended.
    Resume(Box<Resume>),
    Deploy {
        flow: Box<Flow>,
    },
    Cancel {
        run: RunId,
        because: String,
    },
    WorkerLost {
        pool: PoolName,
        worker: WorkerName,
    },
    /// The flow's schedules fire no more until they are resumed.
    PauseSchedules {
        flow: FlowName,
    },
    /// They fire again from now on.
    ResumeSchedules {
        flow: FlowName,
    },
    Backfill(Box<BackfillPlan>),
    CancelBackfill {
        /// The id of the request that started it.
        backfill: RequestId,
        because: String,
    },
    /// Data for the steps of a run that wait for it.
    Signal {
        run: RunId,
        name: SignalName,
        data: Value,
    },
    /// Somebody's decision about a step that waits for an approval.
    Approve {
        run: RunId,
        step: StepName,
        approved: bool,
        because: String,
    },
    /// A word to all workers of a pool, or to one.
    OrderWorkers {
        pool: PoolName,
        worker: Option<WorkerName>,
        order: Order,
    },
    CloseLetter {
        /// The place of its record in the log.
        letter: Position,
        end: LetterEnd,
    },
}

impl Request {
    /// The last token of the request's subject.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Submit { .. } => "submit",
            Self::Resume(_) => "resume",
            Self::Deploy { .. } => "deploy",
            Self::Cancel { .. } => "cancel",
            Self::WorkerLost { .. } => "worker-lost",
            Self::PauseSchedules { .. } => "pause-schedules",
            Self::ResumeSchedules { .. } => "resume-schedules",
            Self::Backfill(_) => "backfill",
            Self::CancelBackfill { .. } => "cancel-backfill",
            Self::Signal { .. } => "signal",
            Self::Approve { .. } => "approve",
            Self::CloseLetter { .. } => "close-letter",
            Self::OrderWorkers { .. } => "order-workers",
        }
    }
}

/// The run that shall resume another: all of it follows from that one, which no longer changes, and from the wish.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Resume {
    pub earlier: Resumption,
    pub flow: Flow,
    /// The deployed version of the flow, where it is that of the earlier run.
    pub version: Option<u32>,
    pub parameters: Values,
    pub tags: Vec<String>,
    pub host: Option<HostMode>,
    pub timeout_seconds: Option<f64>,
    /// What is not said here is as the flow says.
    #[serde(default, skip_serializing_if = "Standing::is_ordinary")]
    pub standing: Standing,
}

/// The flow a run shall execute.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum FlowChoice {
    Given(Box<Flow>),
    /// The newest deployed version.
    Deployed(FlowName),
}

/// One thing to decide about.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    Request(RequestMessage),
    /// A piece of a worker's report ([`crate::task::Report::pieces`]); the shell has checked that the subject names this pool and worker.
    Report {
        pool: PoolName,
        worker: WorkerName,
        items: Vec<ReportItem>,
    },
    Event {
        sequence: u64,
        source: SourceName,
        event: CloudEvent,
    },
    /// Bytes on a subject that are not what the subject promises.
    Malformed {
        subject: String,
        sequence: u64,
        because: String,
        original: Original,
    },
    /// Timers up to the given `now` are due.
    TimersDue,
    /// A `StoreBlob` command has succeeded.
    BlobStored {
        digest: Digest,
    },
    /// A snapshot of the committed state is in the artifact store.
    SnapshotStored(Box<SnapshotTaken>),
    /// The history of a finished run is in the artifact store. Of those stored, `keep` finished runs stay whole in the state.
    HistoryStored {
        run: RunId,
        digest: Digest,
        bytes: u64,
        keep: u32,
    },
    /// A schedule's firing has come; `missed` earlier ones that nobody saw to were passed over. `given` holds the instant as the
    /// schedule's parameters want it.
    Due {
        flow: FlowName,
        /// [`Schedule::identity`](crate::schedule::Schedule::identity).
        schedule: String,
        instant: Timestamp,
        missed: u32,
        given: Values,
    },
    /// Firings up to `until` were missed, and none of them is made up for.
    Missed {
        flow: FlowName,
        schedule: String,
        until: Timestamp,
        missed: u32,
    },
    /// A backfill may start its next run, which is for this instant.
    BackfillDue {
        backfill: RequestId,
        instant: Timestamp,
        given: Values,
    },
    /// No instant of a backfill is left, although its last one was expected later: the calendar has changed.
    BackfillOver {
        backfill: RequestId,
    },
    /// How full the streams are.
    Pressure(Storage),
    /// The slots of every worker of a pool, once the pool has been the same for a while: gangs in its line that are too large for it are
    /// refused. Nothing of it is remembered, unlike the numbers of [`Input::PoolResized`] and the shapes of [`Input::PoolOffered`], which
    /// change at once and would refuse a gang whose workers are still starting.
    PoolCounted {
        pool: PoolName,
        slots: Vec<u32>,
    },
    /// What there is of the results that were sought: those of the run that this one resumes, or remembered ones.
    ResultsFound {
        run: RunId,
        step: StepIndex,
        tasks: TaskSet,
        found: Found,
    },
    /// The workers of a pool that are known offer this many slots together.
    PoolResized {
        pool: PoolName,
        slots: u32,
    },
    /// The shapes of the pool's live workers that take tasks.
    PoolOffered {
        pool: PoolName,
        shapes: Vec<ShapeCount>,
    },
    /// Attempts may lie in queues whose pools have no place for them, while another has.
    PlacesSought,
    /// What the leader's configuration gives to each tenant.
    SharesSet(Box<Shares>),
    /// Nothing new: what has been accepted and not been decided to its end goes on. Given as long as
    /// the state has such work, before any other input.
    Continue,
}

/// What was found of tasks' results.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Each of those there are, in the order of tasks.
    Results(Vec<FoundResult>),
    /// A stored chunk has all of them and everything below these items; with the number of its tasks by step.
    Chunk { digest: Digest, tasks: BTreeMap<StepName, u32> },
    /// A result that there should be cannot be had.
    Broken { because: String },
}

/// An accepted result of another run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundResult {
    /// Which of the tasks that were sought.
    pub place: u32,
    /// The run in which it was made.
    pub owner: RunId,
    pub attempt: u32,
    pub digest: Digest,
    pub bytes: u64,
    /// The steps that a switch chose; of other steps it is not read.
    pub next: Vec<StepName>,
    /// The items of a foreach.
    pub foreach: Option<u32>,
    /// What its object contains, where a memoised step takes it.
    pub content: Option<ContentId>,
}
