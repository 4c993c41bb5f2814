//! The state: the fold of the log. Here are its tables and how a turn opens; `apply` folds records into them, `indices` holds what
//! follows from them, `stored` is the form in which a projection and a snapshot keep them.

mod apply;
mod apply_run;
mod indices;
mod stored;

use std::collections::BTreeMap;
use std::sync::Arc;

use causey_protocol::artifact::ObjectRef;
use causey_protocol::flow::Flow;
use causey_protocol::id::{
    Digest, FlowName, MemoKey, ModelName, NotificationId, Origin, PoolName, RequestId, RunId, RunName, Timestamp, WorkerName,
};
use causey_protocol::record::{Answer, Position, Topic, Turn};
use causey_protocol::share::Shares;
use causey_protocol::task::Publication;
use causey_protocol::upkeep::{SnapshotTaken, Storage};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::backfill::Backfill;
use crate::chunk::BlobUse;
use crate::hold::HeldBack;
use crate::letter::Letter;
use crate::memo::Remembered;
use crate::retire::RetiredRun;
use crate::route::{Offers, Orders};
use crate::run::{Run, TaskRef};
use crate::schedule::Schedules;
use crate::table::Table;
use crate::tasks::GroupKey;
use crate::work::Accepted;

pub(crate) use indices::Indices;

/// How long answers to requests and outcomes of events are kept, in microseconds.
const ANSWERS_KEPT_MICROS: u64 = 10 * 60 * 1_000_000;

/// How long an origin is remembered, in microseconds (90 days).
const ORIGINS_KEPT_MICROS: u64 = 90 * 24 * 3_600 * 1_000_000;

/// Most origins remembered.
const ORIGINS_MAX: usize = 5_000_000;

/// A registered flow whose triggers are live.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployment {
    pub version: u32,
    pub definition: Digest,
    pub user: String,
    pub at: Timestamp,
}

/// What came of an event.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventOutcome {
    pub at: Timestamp,
    pub source: String,
    pub id: String,
    pub started: Vec<RunId>,
    pub because: Vec<String>,
    pub duplicate: bool,
}

/// Events a trigger has got while it waits for others, by their place in the trigger.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    pub events: BTreeMap<u16, (Origin, Value)>,
    /// When each of them was taken.
    pub since: BTreeMap<u16, Timestamp>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelVersion {
    pub version: u32,
    pub at: Timestamp,
    pub run: RunId,
    pub step: String,
    pub object: ObjectRef,
    pub publication: Publication,
}

/// A notification that may not be in the notify stream yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notification {
    pub id: NotificationId,
    pub topic: Topic,
    pub name: String,
    pub at: Timestamp,
    pub data: Value,
}

/// The fold of the log up to a sequence.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// Stream sequence of the last turn folded, or of the turn being filled.
    pub sequence: u64,
    /// Index the next record will have in its turn.
    pub index: u32,
    pub epoch: u64,
    pub at: Timestamp,
    pub inbox: u64,
    pub events: u64,
    pub announced: Position,
    pub store: Option<Uuid>,
    /// Records folded since the log began.
    pub records: u64,
    pub storage: Storage,
    /// Streams by the time they were created, in microseconds since the Unix epoch.
    pub streams: BTreeMap<String, u64>,
    /// Slots of the pools whose workers are known.
    pub pools: BTreeMap<PoolName, u32>,
    /// What the live workers of each pool have.
    pub offers: Offers,
    /// What workers are told to do.
    pub orders: Orders,
    pub shares: Shares,
    pub requests: Table<RequestId, (Timestamp, Answer)>,
    pub definitions: Table<Digest, Arc<Flow>>,
    pub deployments: Table<FlowName, Deployment>,
    pub origins: Table<Origin, (Timestamp, RunId)>,
    pub events_taken: Table<u64, EventOutcome>,
    pub held: Table<(FlowName, u16), Held>,
    /// Shared between copies of the state: a copy costs one reference per run, and a run is copied when either changes it.
    pub runs: Table<RunId, Arc<Run>>,
    pub models: Table<ModelName, Vec<ModelVersion>>,
    pub notifications: Table<Position, Notification>,
    /// BLAKE3 and size of the stored histories of runs that are still whole.
    pub histories: Table<RunId, (Digest, u64)>,
    pub retired: Table<RunId, RetiredRun>,
    pub held_back: Table<(RunId, TaskRef), HeldBack>,
    /// The two newest snapshots by their sequence.
    pub snapshots: Table<u64, SnapshotTaken>,
    /// Of deployed flows that have any.
    pub schedules: Table<FlowName, Schedules>,
    /// Origins that started no run, and why; remembered as long as the others.
    pub skipped: Table<Origin, (Timestamp, String)>,
    pub backfills: Table<RequestId, Backfill>,
    /// By the place of their records in the log.
    pub dead_letters: Table<Position, Letter>,
    /// Inputs accepted and not decided to their end, by the number of their first record.
    pub work: Table<u64, Accepted>,
    /// Results of memoised steps.
    pub memo: Table<MemoKey, Remembered>,
    /// Groups of tasks of retired runs, which a copy has to remove.
    pub(crate) removed: Vec<(RunId, GroupKey)>,
    pub(crate) index_by: Indices,
}

impl State {
    /// How many runs have not ended.
    #[must_use]
    pub fn live(&self) -> usize {
        self.index_by.live.len()
    }

    /// Runs that have not ended, oldest first.
    pub fn live_runs(&self) -> impl Iterator<Item = &Run> {
        self.index_by.live.iter().filter_map(|run| self.run(*run))
    }

    #[must_use]
    pub fn run(&self, run: RunId) -> Option<&Run> {
        self.runs.get(&run).map(Arc::as_ref)
    }

    #[must_use]
    pub fn run_named(&self, name: &RunName) -> Option<RunId> {
        self.index_by.names.get(name).copied()
    }

    /// The flow a run is pinned to.
    #[must_use]
    pub fn flow_of(&self, run: &Run) -> Option<Arc<Flow>> {
        self.definitions.get(&run.start.definition).cloned()
    }

    /// When the next timer is due.
    #[must_use]
    pub fn next_timer(&self) -> Option<Timestamp> {
        let timer = self.index_by.timers.first().map(|(due, _, _)| *due);
        timer.into_iter().chain(self.next_gang()).min()
    }

    /// The timers that are due, as many as `most`.
    pub(crate) fn due_timers(&self, now: Timestamp, most: usize) -> Vec<(RunId, Option<TaskRef>)> {
        self.index_by.timers.iter().take_while(|(due, _, _)| *due <= now).take(most).map(|(_, run, task)| (*run, task.clone())).collect()
    }

    /// Attempts that a worker of a pool is known to run, as many as `most`.
    pub(crate) fn held_by(&self, pool: &PoolName, worker: &WorkerName, most: usize) -> Vec<(RunId, TaskRef)> {
        let is_of_pool = |(run, task): &&(RunId, TaskRef)| {
            let run = self.run(*run);
            let dispatch = run.and_then(|run| run.dispatch_of(task, run.task(task)?));
            dispatch.is_some_and(|open| open.pool == *pool)
        };
        self.index_by.held.get(worker).into_iter().flatten().filter(is_of_pool).take(most).cloned().collect()
    }

    /// What waits for a blob.
    pub(crate) fn waiting_for(&self, digest: Digest) -> Vec<(RunId, BlobUse)> {
        let all = self.index_by.blobs.range((digest, RunId(Uuid::nil()), BlobUse::FIRST)..);
        all.take_while(|(wanted, _, _)| *wanted == digest).map(|(_, run, used)| (*run, used.clone())).collect()
    }

    /// Blobs that are to be stored.
    pub(crate) fn blobs_wanted(&self) -> impl Iterator<Item = (RunId, &BlobUse)> {
        self.index_by.blobs.iter().map(|(_, run, used)| (*run, used))
    }

    /// Starts a turn: the next sequence, and a time that never goes back.
    pub fn open_turn(&mut self, now: Timestamp) {
        self.sequence += 1;
        self.index = 0;
        self.at = self.at.max(now);
        self.forget_old();
    }

    /// Folds a committed turn.
    pub fn apply_turn(&mut self, sequence: u64, turn: &Turn) {
        self.sequence = sequence - 1;
        self.open_turn(turn.at);
        self.epoch = turn.epoch;
        for record in &turn.records {
            self.apply(record);
        }
        self.cover(turn.inbox, turn.events, turn.announced);
    }

    /// Moves the watermarks; what has been announced is forgotten.
    pub fn cover(&mut self, inbox: u64, events: u64, announced: Position) {
        self.inbox = inbox;
        self.events = events;
        self.announced = announced;
        while let Some(done) = self.notifications.first().map(|(position, _)| *position).filter(|position| *position <= announced) {
            self.notifications.remove(&done);
        }
    }

    fn forget_old(&mut self) {
        self.forget_old_letters();
        let answers = Timestamp(self.at.0.saturating_sub(ANSWERS_KEPT_MICROS));
        while let Some((_, id)) = self.index_by.requests.first().filter(|(at, _)| *at < answers).cloned() {
            self.index_by.requests.pop_first();
            self.requests.remove(&id);
        }
        while let Some(sequence) = self.events_taken.first().filter(|(_, outcome)| outcome.at < answers).map(|(sequence, _)| *sequence) {
            self.events_taken.remove(&sequence);
        }
        let origins = Timestamp(self.at.0.saturating_sub(ORIGINS_KEPT_MICROS));
        while let Some((at, origin)) = self.index_by.origins.first().copied() {
            if at >= origins && self.origins.len() + self.skipped.len() <= ORIGINS_MAX {
                break;
            }
            self.index_by.origins.pop_first();
            self.origins.remove(&origin);
            self.skipped.remove(&origin);
        }
    }
}
