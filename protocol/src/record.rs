//! Records: immutable decided facts, and the turn that packs them into one message of the log. An old log must replay for ever,
//! so a kind is added, never changed; an unknown kind stops the reader.

mod outcome;
mod start;
mod tasks;
mod turn;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::artifact::ObjectRef;
use crate::flow::{Flow, StepIndex};
use crate::gate::{Awaited, SignalSource};
use crate::id::{Digest, FlowName, MemoKey, NotificationId, Origin, Path, PoolName, RequestId, RunId, SignalName, Timestamp, WorkerName};
use crate::letter::{DeadLetter, LetterEnd};
use crate::live::Order;
use crate::problem::Problem;
use crate::resources::ShapeCount;
use crate::share::Shares;
use crate::status;
use crate::task::{Address, Success, Usage};
use crate::upkeep::{SnapshotTaken, Storage};

pub use outcome::{Answer, FailureCause, ModelPublished, RunState, Topic};
pub use start::{BackfillStarted, Cause, Resumption, RunStarted, Work};
pub use tasks::{ItemReused, ItemSucceeded, ResultRemembered, TaskSet};
pub use turn::{Position, Turn};

/// Generation of records that this version reads and writes. A release that adds a kind, or a field that an older reader must not
/// skip, raises it by one.
pub const GENERATION: u32 = 1;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Record {
    /// The first record of a log: the artifact store it belongs to.
    LogOpened {
        store: Uuid,
    },
    /// A leader took over; nothing of an older epoch may follow.
    LeaderChanged {
        leader: String,
    },
    RequestAnswered {
        id: RequestId,
        answer: Answer,
    },
    /// A definition that runs and deployments name by its digest.
    FlowRegistered {
        digest: Digest,
        flow: Box<Flow>,
    },
    FlowDeployed {
        flow: FlowName,
        version: u32,
        definition: Digest,
        user: String,
    },
    /// An event was considered; `started` and `because` say what came of it.
    EventTaken {
        sequence: u64,
        source: String,
        id: String,
        started: Vec<RunId>,
        because: Vec<String>,
        duplicate: bool,
    },
    /// A trigger that needs several events has got one of them.
    EventHeld {
        flow: FlowName,
        trigger: u16,
        event: u16,
        origin: Origin,
        cloud_event: Value,
    },
    RunStarted(Box<RunStarted>),
    /// One dispatch: attempts of one step, opened together, published as one message.
    AttemptsOpened {
        run: RunId,
        step: StepIndex,
        pool: PoolName,
        tasks: TaskSet,
        attempt: u32,
        retry: u32,
    },
    AttemptStarted {
        run: RunId,
        step: StepIndex,
        path: Path,
        visit: u32,
        attempt: u32,
        worker: WorkerName,
        at: Timestamp,
    },
    AttemptSucceeded {
        run: RunId,
        step: StepIndex,
        path: Path,
        visit: u32,
        attempt: u32,
        worker: WorkerName,
        digest: Digest,
        bytes: u64,
        started: Timestamp,
        ended: Timestamp,
    },
    /// Attempts of one number at items of one foreach that one report told about: as many [`Record::AttemptSucceeded`].
    AttemptsSucceeded {
        run: RunId,
        step: StepIndex,
        /// The path of the foreach; the items' indices come below it.
        outer: Path,
        visit: u32,
        attempt: u32,
        worker: WorkerName,
        /// The items' times count from here.
        since: Timestamp,
        items: Vec<ItemSucceeded>,
    },
    AttemptFailed {
        run: RunId,
        step: StepIndex,
        path: Path,
        visit: u32,
        attempt: u32,
        worker: Option<WorkerName>,
        cause: FailureCause,
        started: Timestamp,
        ended: Timestamp,
        /// The pool it was offered to, where that does not follow from its step alone.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pool: Option<PoolName>,
    },
    RetryScheduled {
        run: RunId,
        step: StepIndex,
        path: Path,
        visit: u32,
        attempt: u32,
        retry: u32,
        not_before: Timestamp,
    },
    /// The switch of a finished task chose the step `to`, which has this task as its parent.
    SwitchTaken {
        run: RunId,
        step: StepIndex,
        path: Path,
        visit: u32,
        to: StepIndex,
    },
    ForeachOpened {
        run: RunId,
        step: StepIndex,
        path: Path,
        count: u32,
        /// Items in a chunk; `None`: their results are not gathered in chunks.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        chunk: Option<u32>,
    },
    /// A gang stands in line for its pool. `step` and `path` are those of its members, without their index.
    GangOpened {
        run: RunId,
        step: StepIndex,
        path: Path,
        size: u32,
        pool: PoolName,
    },
    /// It is the only gang of its pool that gathers; the attempts of all its members are opened next.
    GangCalled {
        run: RunId,
        step: StepIndex,
        path: Path,
        attempt: u32,
        /// When all members must be there.
        until: Timestamp,
    },
    /// `path` is the member's own.
    MemberJoined {
        run: RunId,
        step: StepIndex,
        path: Path,
        attempt: u32,
        worker: WorkerName,
        address: Address,
        at: Timestamp,
    },
    /// All members are there: their user code may begin.
    GangFormed {
        run: RunId,
        step: StepIndex,
        path: Path,
        attempt: u32,
    },
    /// A member, whose own path is `path`, has its result; it is accepted with those of all others, or not at all.
    MemberSucceeded {
        run: RunId,
        step: StepIndex,
        path: Path,
        attempt: u32,
        worker: WorkerName,
        success: Box<Success>,
    },
    /// The attempts of all members are over, uncharged but for the one that failed. The gang stands in line again from `not_before` on.
    GangDissolved {
        run: RunId,
        step: StepIndex,
        path: Path,
        attempt: u32,
        /// Charged retries from now on.
        retry: u32,
        not_before: Timestamp,
        because: String,
    },
    /// All items of a chunk have reached the join: the chunk shall be stored.
    ChunkGathered {
        run: RunId,
        step: StepIndex,
        path: Path,
        chunk: u32,
        digest: Digest,
    },
    /// The chunk is in the artifact store; the state forgets its tasks.
    ChunkStored {
        run: RunId,
        step: StepIndex,
        path: Path,
        chunk: u32,
    },
    /// Tasks are ready, and wait for what there is of their results: in the run that theirs resumes, or remembered from any.
    ResultsSought {
        run: RunId,
        step: StepIndex,
        tasks: TaskSet,
    },
    /// Of the tasks that were sought together these take a result of another run, without an attempt; the others have none.
    ResultsReused {
        run: RunId,
        step: StepIndex,
        tasks: TaskSet,
        /// The runs in which the results were made; items name a place in this list.
        owners: Vec<RunId>,
        items: Vec<ItemReused>,
    },
    /// What is known of results that have just been accepted: for later tasks of the run, and for memoised steps of later runs.
    ResultsRemembered {
        run: RunId,
        step: StepIndex,
        results: Vec<ResultRemembered>,
    },
    /// Remembered results whose objects cannot be had.
    ResultsForgotten {
        keys: Vec<MemoKey>,
    },
    /// A chunk of an earlier run's foreach, which `step` opened, stands for the same items of this one.
    ChunkReused {
        run: RunId,
        step: StepIndex,
        path: Path,
        chunk: u32,
        digest: Digest,
        /// How many tasks of each step are below its items.
        tasks: Vec<(StepIndex, u32)>,
    },
    /// All inputs of a join have arrived and are more than fit a dispatch: their manifest shall be stored.
    InputsGathered {
        run: RunId,
        step: StepIndex,
        path: Path,
        digest: Digest,
        count: u32,
    },
    InputsStored {
        run: RunId,
        step: StepIndex,
        path: Path,
    },
    ModelPublished(Box<ModelPublished>),
    Notified {
        id: NotificationId,
        topic: Topic,
        name: String,
        /// Zeros where no run is concerned.
        run: RunId,
        data: Value,
    },
    RunFinished {
        run: RunId,
        state: RunState,
        problem: Option<Problem>,
    },
    /// An input changed nothing.
    Ignored {
        because: String,
    },
    /// The input streams and the log by the time they were created, in microseconds since the Unix epoch: another time means
    /// another stream.
    StreamsSeen {
        created: BTreeMap<String, u64>,
    },
    SnapshotTaken(Box<SnapshotTaken>),
    /// The history of a finished run lies in the artifact store.
    HistoryStored {
        run: RunId,
        digest: Digest,
        bytes: u64,
    },
    /// Of a finished run only its entry in the index is kept; its history is stored.
    RunRetired {
        run: RunId,
    },
    StorageChanged(Storage),
    /// Attempts that would have been opened, had the streams, the pool, the run or its tenant room for them: they wait for it. Of a
    /// foreach these are all the items that it has not opened.
    AttemptsHeld {
        run: RunId,
        step: StepIndex,
        tasks: TaskSet,
        attempt: u32,
        retry: u32,
    },
    /// Tasks that would have been opened, had not something to come first.
    TasksGated {
        run: RunId,
        step: StepIndex,
        tasks: TaskSet,
        awaits: Vec<Awaited>,
    },
    SignalReceived {
        run: RunId,
        name: SignalName,
        data: Value,
        source: SignalSource,
    },
    /// Tasks of a step have come to where its approval is needed.
    ApprovalRequested {
        run: RunId,
        step: StepIndex,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        until: Option<Timestamp>,
    },
    ApprovalDecided {
        run: RunId,
        step: StepIndex,
        approved: bool,
        user: String,
        because: String,
    },
    /// A run that the run `run` started has ended.
    ChildEnded {
        run: RunId,
        child: RunId,
        state: RunState,
        /// What its last task left.
        object: Option<ObjectRef>,
    },
    /// An open attempt, whose result follows, has used this much.
    AttemptUsed {
        run: RunId,
        step: StepIndex,
        path: Path,
        visit: u32,
        attempt: u32,
        usage: Usage,
    },
    /// A running attempt told about its run.
    StatusSet {
        run: RunId,
        step: StepIndex,
        path: Path,
        visit: u32,
        attempt: u32,
        values: status::Values,
    },
    /// An operator accepted that a stream of inputs moved back: it is read on from the watermark of this turn.
    LossAccepted {
        stream: String,
        /// The watermark before.
        seen: u64,
        /// Where the stream ended.
        found: u64,
        user: String,
    },
    /// Something would have started a run, had the flow's concurrency strategy allowed it. Its origin starts none later either.
    StartSkipped {
        flow: FlowName,
        origin: Origin,
        joined: Vec<Origin>,
        /// The trigger whose events are thereby used up.
        trigger: Option<u16>,
        because: String,
    },
    /// A run that waited for a place has got one.
    RunAdmitted {
        run: RunId,
    },
    /// A schedule's firing was seen to, and with it every earlier one.
    ScheduleFired {
        flow: FlowName,
        schedule: String,
        instant: Timestamp,
        /// Earlier firings that were passed over.
        missed: u32,
        run: Option<RunId>,
        /// Why it started no run.
        because: Option<String>,
    },
    SchedulesPaused {
        flow: FlowName,
        user: String,
    },
    SchedulesResumed {
        flow: FlowName,
        user: String,
    },
    BackfillStarted(Box<BackfillStarted>),
    /// An instant of a backfill was seen to, and with it every earlier one.
    BackfillAdvanced {
        backfill: RequestId,
        instant: Timestamp,
        run: Option<RunId>,
        /// Why it started no run.
        because: Option<String>,
    },
    /// It starts no further run.
    BackfillCancelled {
        backfill: RequestId,
        because: String,
    },
    /// Something was given up on; its id is the place of this record in the log.
    DeadLettered(Box<DeadLetter>),
    DeadLetterClosed {
        letter: Position,
        end: LetterEnd,
        user: String,
    },
    /// The slots of a pool are others than before.
    PoolResized {
        pool: PoolName,
        slots: u32,
    },
    /// The live workers of a pool are others than before. Without any, what the last ones were like is kept.
    PoolOffered {
        pool: PoolName,
        shapes: Vec<ShapeCount>,
    },
    /// A gang that stands in line goes to another pool, which has what it needs.
    GangMoved {
        run: RunId,
        step: StepIndex,
        path: Path,
        pool: PoolName,
    },
    /// Somebody's word to all workers of a pool, or to one.
    WorkersOrdered {
        pool: PoolName,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        worker: Option<WorkerName>,
        order: Order,
        user: String,
    },
    /// What the tenants get is other than before.
    SharesChanged(Box<Shares>),
    /// An input with larger effects than fit a turn: the rest of it is decided by and by, before any other input.
    WorkAccepted(Box<Work>),
    /// A further piece of what an event starts; the last piece is [`Record::EventTaken`].
    EventSpread {
        sequence: u64,
        /// The first trigger that has not been looked at: flow, trigger, event in it.
        next: (FlowName, u16, u16),
        started: Vec<RunId>,
        because: Vec<String>,
        /// Triggers that had run for this event before.
        duplicates: u32,
    },
    /// The accepted loss of a worker has been decided to its end.
    WorkDone {
        work: u64,
    },
}

impl Record {
    /// The generation in which this kind was added. A leader writes a record only while every living coordinator reads its
    /// generation.
    #[must_use]
    pub fn generation(&self) -> u32 {
        match self {
            Self::LogOpened { .. }
            | Self::LeaderChanged { .. }
            | Self::RequestAnswered { .. }
            | Self::FlowRegistered { .. }
            | Self::FlowDeployed { .. }
            | Self::EventTaken { .. }
            | Self::EventHeld { .. }
            | Self::RunStarted(_)
            | Self::AttemptsOpened { .. }
            | Self::AttemptStarted { .. }
            | Self::AttemptSucceeded { .. }
            | Self::AttemptFailed { .. }
            | Self::RetryScheduled { .. }
            | Self::ForeachOpened { .. }
            | Self::InputsGathered { .. }
            | Self::InputsStored { .. }
            | Self::ModelPublished(_)
            | Self::Notified { .. }
            | Self::RunFinished { .. }
            | Self::Ignored { .. }
            | Self::StreamsSeen { .. }
            | Self::SnapshotTaken(_)
            | Self::HistoryStored { .. }
            | Self::RunRetired { .. }
            | Self::StorageChanged(_)
            | Self::AttemptsHeld { .. }
            | Self::LossAccepted { .. }
            | Self::DeadLettered(_)
            | Self::DeadLetterClosed { .. }
            | Self::PoolResized { .. }
            | Self::PoolOffered { .. }
            | Self::GangMoved { .. }
            | Self::WorkersOrdered { .. }
            | Self::SharesChanged(_)
            | Self::WorkAccepted(_)
            | Self::EventSpread { .. }
            | Self::WorkDone { .. }
            | Self::AttemptsSucceeded { .. }
            | Self::ChunkGathered { .. }
            | Self::ChunkStored { .. }
            | Self::SwitchTaken { .. }
            | Self::ResultsSought { .. }
            | Self::ResultsReused { .. }
            | Self::ResultsRemembered { .. }
            | Self::ResultsForgotten { .. }
            | Self::ChunkReused { .. }
            | Self::StartSkipped { .. }
            | Self::RunAdmitted { .. }
            | Self::ScheduleFired { .. }
            | Self::SchedulesPaused { .. }
            | Self::SchedulesResumed { .. }
            | Self::BackfillStarted(_)
            | Self::BackfillAdvanced { .. }
            | Self::BackfillCancelled { .. }
            | Self::GangOpened { .. }
            | Self::GangCalled { .. }
            | Self::MemberJoined { .. }
            | Self::GangFormed { .. }
            | Self::MemberSucceeded { .. }
            | Self::GangDissolved { .. }
            | Self::TasksGated { .. }
            | Self::SignalReceived { .. }
            | Self::ApprovalRequested { .. }
            | Self::ApprovalDecided { .. }
            | Self::ChildEnded { .. }
            | Self::StatusSet { .. }
            | Self::AttemptUsed { .. } => 1,
        }
    }
}
