//! The state: the fold of the log. `apply` only folds what was decided and never fails on it; tables remember what changed so
//! that a projection can follow.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use causey_protocol::artifact::ObjectRef;
use causey_protocol::flow::{Flow, StepIndex};
use causey_protocol::id::{
    Digest, FlowName, MemoKey, ModelName, NotificationId, Origin, Path, PoolName, RequestId, RunId, RunName, Timestamp, WorkerName,
};
use causey_protocol::record::{Answer, Cause, FailureCause, ItemSucceeded, Position, Record, RunStarted, RunState, Topic, Turn};
use causey_protocol::share::Shares;
use causey_protocol::subject;
use causey_protocol::task::Publication;
use causey_protocol::upkeep::{SnapshotTaken, Storage};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::backfill::Backfill;
use crate::chunk::BlobUse;
use crate::concurrency::Lanes;
use crate::gang::{self, Gang, GangKey, GangPhase, Lines, Member};
use crate::hold::HeldBack;
use crate::letter::Letter;
use crate::line;
use crate::memo::Remembered;
use crate::retire::{self, RetiredRun};
use crate::route::{self, Offers, Orders};
use crate::run::{Join, OpenDispatch, Run, TaskRef, TaskState, join_after};
use crate::schedule::{Fired, Schedules};
use crate::table::{Change, Table, TableId, encode};
use crate::tasks::{Group, GroupKey};
use crate::timeout;
use crate::work::Accepted;

/// How long answers to requests and outcomes of events are kept, in microseconds.
const ANSWERS_KEPT_MICROS: u64 = 10 * 60 * 1_000_000;

/// How long an origin is remembered, in microseconds (90 days).
const ORIGINS_KEPT_MICROS: u64 = 90 * 24 * 3_600 * 1_000_000;

/// Most reasons kept of why an event started nothing.
const REASONS_MAX: usize = 1_000;

/// Most origins remembered.
const ORIGINS_MAX: usize = 5_000_000;

/// Snapshots that are kept.
const SNAPSHOTS_KEPT: usize = 2;

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

/// What follows from the tables; never stored.
#[derive(Clone, Debug, Default)]
pub(crate) struct Indices {
    live: BTreeSet<RunId>,
    pub(crate) names: BTreeMap<RunName, RunId>,
    /// Delays of retries, and time limits: of a running attempt, of a gang that gathers, or without a task of the whole run.
    pub(crate) timers: BTreeSet<(Timestamp, RunId, Option<TaskRef>)>,
    /// Gangs that have not formed, by pool.
    pub(crate) lines: Lines,
    /// Running attempts by the worker that said so.
    held: BTreeMap<WorkerName, BTreeSet<(RunId, TaskRef)>>,
    /// Blobs that are to be stored, and what for.
    blobs: BTreeSet<(Digest, RunId, BlobUse)>,
    /// Finished runs whose history is not stored.
    pub(crate) unstored: BTreeSet<RunId>,
    /// Finished runs whose history is stored, by their end, and how many tasks they have.
    pub(crate) stored: BTreeSet<(Timestamp, RunId)>,
    pub(crate) stored_tasks: u64,
    /// How many whole runs are pinned to a definition.
    pub(crate) uses: BTreeMap<Digest, u32>,
    pub(crate) lanes: Lanes,
    /// Backfills that have not ended.
    pub(crate) backfills: BTreeSet<RequestId>,
    /// What is open in each pool, and who waits.
    pub(crate) room: line::Lines,
    /// Remembered results by age.
    pub(crate) memo: BTreeSet<(Timestamp, MemoKey)>,
    requests: BTreeSet<(Timestamp, RequestId)>,
    origins: BTreeSet<(Timestamp, Origin)>,
}

/// What is open of a step: all of it, and by pool where the pools of its attempts are chosen.
struct OpenAt {
    all: u32,
    away: Vec<(PoolName, u32)>,
}

impl OpenAt {
    fn of(run: &Run, step: StepIndex) -> Self {
        Self { all: run.open_at(step), away: if run.away.is_empty() { Vec::new() } else { run.away_of(step) } }
    }
}

impl Indices {
    /// A task whose attempt ends, or gets another holder.
    fn release(&mut self, run: &Run, id: RunId, task: &TaskRef) {
        if self.held.is_empty() {
            return;
        }
        let holder = run.task(task).filter(|found| found.state == TaskState::Running).and_then(|found| found.worker.as_ref());
        let Some(holder) = holder else { return };
        if let Some(held) = self.held.get_mut(holder) {
            held.remove(&(id, task.clone()));
            if held.is_empty() {
                self.held.remove(holder);
            }
        }
        if let Some(due) = run.deadlines.get(task) {
            self.timers.remove(&(*due, id, Some(task.clone())));
        }
    }

    pub(crate) fn enter_gang(&mut self, id: RunId, key: &GangKey, gang: &Gang) {
        self.lines.enter(id, key, gang);
        if let GangPhase::Gathering { until } = gang.phase {
            self.timers.insert((until, id, Some(gang::timer(key))));
        }
    }

    pub(crate) fn leave_gang(&mut self, id: RunId, key: &GangKey, gang: &Gang) {
        self.lines.leave(id, key, gang);
        if let GangPhase::Gathering { until } = gang.phase {
            self.timers.remove(&(until, id, Some(gang::timer(key))));
        }
    }

    /// Attempts of a run at one step, of which `before` were open, have been closed.
    fn closed(&mut self, shares: &Shares, run: &Run, flow: &Flow, step: StepIndex, before: OpenAt) {
        let after = run.open_at(step);
        if let Some(line) = route::fixed(flow, step).and_then(|pool| self.room.pools.get_mut(pool)) {
            line.count(shares, run.id(), run.tenant(), before.all, after);
        }
        for (pool, before) in before.away {
            if let Some(line) = self.room.pools.get_mut(&pool) {
                line.count(shares, run.id(), run.tenant(), before, run.away_at(step, &pool));
            }
        }
        if after < before.all {
            self.room.wake(shares, run.id(), run.tenant());
        }
    }

    /// Enters a run that has not ended.
    fn enter(&mut self, run: &Run) {
        let id = run.id();
        self.live.insert(id);
        for (task, found) in run.unfinished() {
            if let Some(due) = found.not_before {
                self.timers.insert((due, id, Some(task)));
            } else if let (TaskState::Running, Some(worker)) = (found.state, &found.worker) {
                self.held.entry(worker.clone()).or_default().insert((id, task));
            }
        }
        for (key, gang) in &run.gangs {
            self.enter_gang(id, key, gang);
        }
        self.timers.extend(run.deadlines.iter().map(|(task, due)| (*due, id, Some(task.clone()))));
        self.timers.extend(run.deadline().map(|due| (due, id, None)));
        if let Some(gates) = &run.gates {
            self.timers.extend(gates.timers().map(|(due, first)| (due, id, Some(first.clone()))));
            self.timers.extend(gates.orphaned.map(|(due, _)| (due, id, None)));
        }
        self.blobs.extend(run.blobs().map(|(digest, used)| (digest, id, used)));
    }

    /// Forgets a run that ends.
    fn forget(&mut self, run: &Run) {
        let id = run.id();
        self.live.remove(&id);
        for (task, found) in run.unfinished() {
            match found.not_before {
                Some(due) => drop(self.timers.remove(&(due, id, Some(task)))),
                None => self.release(run, id, &task),
            }
        }
        if let Some(due) = run.deadline() {
            self.timers.remove(&(due, id, None));
        }
        for (key, gang) in &run.gangs {
            self.leave_gang(id, key, gang);
        }
        if let Some(gates) = &run.gates {
            for (due, first) in gates.timers() {
                self.timers.remove(&(due, id, Some(first.clone())));
            }
            if let Some((due, _)) = gates.orphaned {
                self.timers.remove(&(due, id, None));
            }
        }
        for (digest, used) in run.blobs() {
            self.blobs.remove(&(digest, id, used));
        }
    }
}

/// What a projection stores beside the tables.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Header {
    sequence: u64,
    epoch: u64,
    at: Timestamp,
    inbox: u64,
    events: u64,
    announced: Position,
    store: Option<Uuid>,
    records: u64,
    storage: Storage,
    streams: BTreeMap<String, u64>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pools: BTreeMap<PoolName, u32>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    offers: Offers,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    orders: Orders,
    #[serde(default, skip_serializing_if = "Shares::is_default")]
    shares: Shares,
}

/// Calls a macro with every table and its id: the one list of tables.
macro_rules! each_table {
    ($do:ident) => {
        $do!(requests, Requests);
        $do!(definitions, Definitions);
        $do!(deployments, Deployments);
        $do!(origins, Origins);
        $do!(events_taken, EventsTaken);
        $do!(held, Held);
        $do!(runs, Runs);
        $do!(models, Models);
        $do!(notifications, Notifications);
        $do!(histories, Histories);
        $do!(retired, Retired);
        $do!(held_back, HeldBack);
        $do!(snapshots, Snapshots);
        $do!(schedules, Schedules);
        $do!(skipped, Skipped);
        $do!(backfills, Backfills);
        $do!(dead_letters, DeadLetters);
        $do!(work, Work);
        $do!(memo, Memo);
    };
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

    /// Folds one record. Total: a record that does not fit the state changes nothing (only a damaged log could hold one).
    pub fn apply(&mut self, record: &Record) {
        let position = Position { sequence: self.sequence, index: self.index };
        self.index += 1;
        self.records += 1;
        match record {
            Record::LogOpened { store } => self.store = Some(*store),
            Record::LeaderChanged { .. } | Record::Ignored { .. } => {}
            Record::RequestAnswered { id, answer } => {
                self.index_by.requests.insert((self.at, id.clone()));
                self.requests.insert(id.clone(), (self.at, answer.clone()));
            }
            Record::FlowRegistered { digest, flow } => self.definitions.insert(*digest, Arc::new((**flow).clone())),
            Record::FlowDeployed { flow, version, definition, user } => {
                let deployment = Deployment { version: *version, definition: *definition, user: user.clone(), at: self.at };
                self.deployments.insert(flow.clone(), deployment);
                if let Some(definition) = self.definitions.get(definition).cloned() {
                    self.set_schedules(flow, &definition);
                }
            }
            Record::EventTaken { sequence, source, id, started, because, duplicate } => {
                self.note_event(*sequence, started, because);
                if let Some(outcome) = self.events_taken.get_mut(sequence) {
                    (outcome.source, outcome.id, outcome.duplicate) = (source.clone(), id.clone(), *duplicate);
                }
                if let Some(work) = self.work.first().and_then(|_| self.work_of_event(*sequence)) {
                    self.work.remove(&work);
                }
            }
            Record::EventSpread { sequence, next, started, because, duplicates } => {
                self.note_event(*sequence, started, because);
                let matches = u32::try_from(started.len() + because.len()).unwrap_or(u32::MAX);
                if let Some(accepted) = self.work_of_event(*sequence).and_then(|work| self.work.get_mut(&work)) {
                    accepted.next = Some(next.clone());
                    accepted.matches = accepted.matches.saturating_add(matches);
                    accepted.duplicates = accepted.duplicates.saturating_add(*duplicates);
                }
            }
            Record::WorkAccepted(work) => self.accept_work(work),
            Record::WorkDone { work } => drop(self.work.remove(work)),
            Record::PoolResized { pool, slots } => {
                self.pools.insert(pool.clone(), *slots);
                self.rebuild_lines();
            }
            Record::PoolOffered { pool, shapes } => self.offer_pool(pool, shapes),
            Record::WorkersOrdered { pool, worker, order, .. } => self.order_workers(pool, worker.as_ref(), *order),
            Record::SharesChanged(shares) => {
                self.shares.clone_from(shares);
                self.rebuild_lines();
            }
            Record::EventHeld { flow, trigger, event, origin, cloud_event } => {
                let key = (flow.clone(), *trigger);
                let mut held = self.held.get(&key).cloned().unwrap_or_default();
                held.events.insert(*event, (*origin, cloud_event.clone()));
                held.since.insert(*event, self.at);
                self.held.insert(key, held);
            }
            Record::RunStarted(start) => self.start_run(start, position),
            Record::DeadLettered(letter) => self.keep_letter(position, (**letter).clone()),
            Record::DeadLetterClosed { letter, .. } => {
                self.dead_letters.remove(letter);
            }
            Record::StreamsSeen { created } => self.streams.clone_from(created),
            Record::SnapshotTaken(snapshot) => {
                self.snapshots.insert(snapshot.sequence, (**snapshot).clone());
                while self.snapshots.len() > SNAPSHOTS_KEPT {
                    let Some(oldest) = self.snapshots.first().map(|(sequence, _)| *sequence) else { break };
                    self.snapshots.remove(&oldest);
                }
            }
            Record::HistoryStored { run, digest, bytes } => self.history_stored(*run, (*digest, *bytes)),
            Record::RunRetired { run } => self.retire(*run),
            Record::StorageChanged(storage) => self.storage.clone_from(storage),
            Record::AttemptsHeld { run, step, tasks, attempt, retry } => self.hold(*run, *step, tasks, *attempt, *retry),
            Record::ResultsRemembered { run, step, results } => self.remember(*run, *step, results),
            Record::ResultsForgotten { keys } => self.forget_remembered(keys),
            Record::LossAccepted { stream, .. } => self.forget_stream(stream),
            Record::StartSkipped { flow, origin, joined, trigger, because } => {
                if let Some(trigger) = trigger {
                    self.held.remove(&(flow.clone(), *trigger));
                }
                for origin in std::iter::once(origin).chain(joined) {
                    self.index_by.origins.insert((self.at, *origin));
                    self.skipped.insert(*origin, (self.at, because.clone()));
                }
            }
            Record::ScheduleFired { flow, schedule, instant, missed, run, because } => {
                let (at, because) = (self.at, because.clone());
                self.schedule_fired(flow, schedule, Fired { instant: *instant, at, missed: *missed, run: *run, because });
            }
            Record::SchedulesPaused { flow, user } => self.pause_schedules(flow, Some((user.clone(), self.at))),
            Record::SchedulesResumed { flow, .. } => self.pause_schedules(flow, None),
            Record::BackfillStarted(started) => self.start_backfill(started),
            Record::BackfillAdvanced { backfill, instant, run, because } => {
                self.advance_backfill(backfill, *instant, *run, because.as_deref());
            }
            Record::BackfillCancelled { backfill, because } => self.stop_backfill(backfill, because),
            Record::ModelPublished(published) => {
                let Some((run, flow)) = self.run_and_flow(published.run) else { return };
                let step = flow.step(published.step).name.to_string();
                let task = TaskRef::new(published.step, published.path.clone(), published.visit).id(&flow);
                let object =
                    ObjectRef { run: run.id(), key: task.key(published.attempt), digest: published.digest, bytes: published.bytes };
                let version = ModelVersion {
                    version: published.version,
                    at: self.at,
                    run: published.run,
                    step,
                    object,
                    publication: published.publication.clone(),
                };
                let mut versions = self.models.get(published.name()).cloned().unwrap_or_default();
                versions.push(version);
                self.models.insert(published.name().clone(), versions);
            }
            Record::Notified { id, topic, name, run: _, data } => {
                let notification = Notification { id: *id, topic: *topic, name: name.clone(), at: self.at, data: data.clone() };
                self.notifications.insert(position, notification);
            }
            Record::AttemptsOpened { run, .. }
            | Record::AttemptStarted { run, .. }
            | Record::AttemptSucceeded { run, .. }
            | Record::AttemptsSucceeded { run, .. }
            | Record::AttemptFailed { run, .. }
            | Record::RetryScheduled { run, .. }
            | Record::SwitchTaken { run, .. }
            | Record::ForeachOpened { run, .. }
            | Record::ChunkGathered { run, .. }
            | Record::ChunkStored { run, .. }
            | Record::ResultsSought { run, .. }
            | Record::ResultsReused { run, .. }
            | Record::ChunkReused { run, .. }
            | Record::InputsGathered { run, .. }
            | Record::InputsStored { run, .. }
            | Record::RunAdmitted { run }
            | Record::TasksGated { run, .. }
            | Record::SignalReceived { run, .. }
            | Record::ApprovalRequested { run, .. }
            | Record::ApprovalDecided { run, .. }
            | Record::ChildEnded { run, .. }
            | Record::StatusSet { run, .. }
            | Record::AttemptUsed { run, .. }
            | Record::RunFinished { run, .. } => self.apply_to_run(*run, record),
            Record::GangOpened { run, .. }
            | Record::GangMoved { run, .. }
            | Record::GangCalled { run, .. }
            | Record::MemberJoined { run, .. }
            | Record::GangFormed { run, .. }
            | Record::MemberSucceeded { run, .. }
            | Record::GangDissolved { run, .. } => self.apply_to_gang(*run, record),
        }
    }

    /// Adds to what came of an event.
    fn note_event(&mut self, sequence: u64, started: &[RunId], because: &[String]) {
        let mut outcome = self.events_taken.get(&sequence).cloned().unwrap_or_default();
        outcome.at = self.at;
        outcome.started.extend(started);
        let room = REASONS_MAX.saturating_sub(outcome.because.len());
        outcome.because.extend(because.iter().take(room).cloned());
        self.events_taken.insert(sequence, outcome);
    }

    /// An input stream is read on as another one: what was known of the old one no longer says what may be removed.
    fn forget_stream(&mut self, stream: &str) {
        self.streams.remove(stream);
        let sequences: Vec<u64> = self.snapshots.keys().copied().collect();
        for sequence in sequences {
            let Some(snapshot) = self.snapshots.get_mut(&sequence) else { continue };
            match stream {
                subject::INBOX_STREAM => snapshot.inbox = 0,
                subject::EVENT_STREAM => snapshot.events = 0,
                _ => {}
            }
        }
    }

    fn run_and_flow(&self, run: RunId) -> Option<(&Run, Arc<Flow>)> {
        let run = self.run(run)?;
        Some((run, self.flow_of(run)?))
    }

    fn start_run(&mut self, start: &RunStarted, position: Position) {
        let Some(flow) = self.definitions.get(&start.definition).cloned() else { return };
        if let Cause::Event { trigger, .. } = &start.cause {
            self.held.remove(&(flow.definition().name.clone(), *trigger));
        }
        self.index_by.live.insert(start.run);
        *self.index_by.uses.entry(start.definition).or_default() += 1;
        self.index_by.names.insert(start.name.clone(), start.run);
        for origin in std::iter::once(&start.origin).chain(&start.joined) {
            self.index_by.origins.insert((self.at, *origin));
            self.origins.insert(*origin, (self.at, start.run));
        }
        let mut run = Run::new(start.clone(), &flow, self.at);
        run.waits = start.waits.then_some(position);
        if let Some(due) = run.deadline() {
            self.index_by.timers.insert((due, start.run, None));
        }
        self.index_by.lanes.enter(&flow.definition().name, &run);
        if let Cause::Backfill { backfill, .. } = &start.cause {
            self.count_in_backfill(backfill, start.run, None);
        }
        self.runs.insert(start.run, Arc::new(run));
        self.link_child(start, &flow);
    }

    fn apply_to_run(&mut self, id: RunId, record: &Record) {
        let at = self.at;
        let Some(run) = self.runs.get_mut(&id).map(Arc::make_mut) else { return };
        let Some(flow) = self.definitions.get(&run.start.definition).cloned() else { return };
        let index = &mut self.index_by;
        match record {
            Record::AttemptsOpened { step, pool, tasks, attempt, retry, .. } => {
                // A first attempt has no timer.
                for (path, visit) in tasks.iter().filter(|_| *attempt > 0) {
                    let task = TaskRef::new(*step, path, visit);
                    if let Some(due) = run.task(&task).and_then(|task| task.not_before) {
                        index.timers.remove(&(due, id, Some(task)));
                    }
                }
                let first = tasks.iter().next().map(|(path, visit)| TaskRef::new(*step, path, visit));
                let dispatch =
                    OpenDispatch { pool: pool.clone(), tasks: tasks.clone(), attempt: *attempt, retry: *retry, open: tasks.len() };
                let is_fixed = route::routed(&flow, *step).is_none();
                let open = |run: &Run| if is_fixed { run.open_at(*step) } else { run.away_at(*step, pool) };
                let before = open(run);
                run.offer(&flow, *step, dispatch, at);
                index.room.of(&self.pools, pool).count(&self.shares, id, run.tenant(), before, open(run));
                if let Some(first) = first.as_ref().filter(|_| run.gates.is_some()) {
                    index.let_through(run, first);
                }
                if let Some(first) = first.filter(|_| !self.held_back.is_empty()) {
                    self.let_go(id, &first, tasks.len());
                }
            }
            Record::AttemptStarted { step, path, visit, worker, at, .. } => {
                let task = TaskRef::new(*step, path.clone(), *visit);
                index.release(run, id, &task);
                run.started(&task, worker, *at);
                if let Some(due) = timeout::attempt_deadline(&flow, *step, self.at) {
                    run.deadlines.insert(task.clone(), due);
                    index.timers.insert((due, id, Some(task.clone())));
                }
                index.held.entry(worker.clone()).or_default().insert((id, task));
            }
            Record::AttemptSucceeded { step, path, visit, worker, digest, bytes, started, ended, .. } => {
                let task = TaskRef::new(*step, path.clone(), *visit);
                let before = OpenAt::of(run, *step);
                index.release(run, id, &task);
                run.succeed(&task, worker, (*digest, *bytes), (*started, *ended));
                let (outer, item) = task.path.split_last().map_or((Path::default(), None), |(outer, item)| (outer, Some(item)));
                run.arrive(&flow, *step, &outer, std::iter::once(item));
                index.closed(&self.shares, run, &flow, *step, before);
                if !self.held_back.is_empty() {
                    self.wake_arrived(id, &flow, *step, &outer);
                }
            }
            Record::AttemptsSucceeded { step, outer, visit, worker, since, items, .. } => {
                let before = OpenAt::of(run, *step);
                for ItemSucceeded(item, digest, bytes, started, ended) in items {
                    let task = TaskRef::new(*step, outer.child(*item), *visit);
                    index.release(run, id, &task);
                    run.succeed(&task, worker, (*digest, *bytes), (since.plus_micros(*started), since.plus_micros(*ended)));
                }
                run.arrive(&flow, *step, outer, items.iter().map(|ItemSucceeded(item, ..)| Some(*item)));
                index.closed(&self.shares, run, &flow, *step, before);
                if !self.held_back.is_empty() {
                    self.wake_arrived(id, &flow, *step, outer);
                }
            }
            Record::AttemptFailed { step, path, visit, worker, cause, started, ended, .. } => {
                let task = TaskRef::new(*step, path.clone(), *visit);
                let before = OpenAt::of(run, *step);
                index.release(run, id, &task);
                run.close(&task, *started, *ended, |found| {
                    found.state = TaskState::Failed;
                    found.worker.clone_from(worker);
                    match cause {
                        FailureCause::User { error, object }
                        | FailureCause::Permanent { error, object }
                        | FailureCause::TimedOut { error, object } => {
                            found.error = Some(error.clone());
                            found.object = *object;
                        }
                        FailureCause::Infrastructure { error } => {
                            found.infrastructure += 1;
                            found.error = Some(error.clone());
                        }
                        FailureCause::Lost => found.lost += 1,
                        FailureCause::Released { .. } => {}
                    }
                });
                if let Some((gang, _)) = run.gang_of_mut(&task) {
                    gang.lost += u32::from(matches!(cause, FailureCause::Lost));
                    gang.infrastructure += u32::from(matches!(cause, FailureCause::Infrastructure { .. }));
                }
                index.closed(&self.shares, run, &flow, *step, before);
            }
            Record::RetryScheduled { step, path, visit, retry, not_before, .. } => {
                let task = TaskRef::new(*step, path.clone(), *visit);
                run.wait(&task, *retry, *not_before);
                index.timers.insert((*not_before, id, Some(task)));
            }
            Record::SwitchTaken { step, path, visit, to, .. } => {
                run.routes.insert((*to, path.clone()), (*step, *visit));
            }
            Record::ForeachOpened { step, path, count, chunk, .. } => {
                run.open_foreach(*step, path, *count, *chunk);
            }
            Record::ChunkGathered { step, path, chunk, digest, .. } => {
                if let Some(foreach) = run.foreaches.get_mut(&(*step, path.clone())) {
                    foreach.chunks.entry(*chunk).or_default().digest = Some(*digest);
                    index.blobs.insert((*digest, id, BlobUse::Chunk { split: *step, path: path.clone(), chunk: *chunk }));
                }
            }
            Record::ChunkStored { step, path, chunk, .. } => {
                let digest = run.foreach(*step, path).and_then(|foreach| foreach.chunks.get(chunk)?.digest);
                if let Some(digest) = digest {
                    index.blobs.remove(&(digest, id, BlobUse::Chunk { split: *step, path: path.clone(), chunk: *chunk }));
                }
                run.forget_chunk(&flow, *step, path, *chunk);
                if !self.held_back.is_empty() {
                    self.wake_foreach(id, *step, path);
                }
            }
            Record::ResultsSought { step, tasks, .. } => {
                run.seek(&flow, *step, tasks);
                let Some(first) = tasks.iter().next().map(|(path, visit)| TaskRef::new(*step, path, visit)) else { return };
                if run.gates.is_some() {
                    index.let_through(run, &first);
                }
                if !self.held_back.is_empty() {
                    self.let_go(id, &first, tasks.len());
                }
            }
            Record::ResultsReused { step, tasks, owners, items, .. } => {
                run.found(&flow, *step, tasks, owners, items, at);
                let outer = tasks.iter().next().and_then(|(path, _)| path.split_last()).map(|(outer, _)| outer);
                if let Some(outer) = outer.filter(|_| !self.held_back.is_empty()) {
                    self.wake_arrived(id, &flow, *step, &outer);
                }
            }
            Record::ChunkReused { step, path, chunk, digest, tasks, .. } => {
                run.reuse_chunk(&flow, *step, path, (*chunk, *digest), tasks, at);
                if !self.held_back.is_empty() {
                    self.wake_foreach(id, *step, path);
                }
            }
            Record::InputsGathered { step, path, digest, count, .. } => {
                run.joins.entry((*step, path.clone())).or_insert_with(Join::default).manifest = Some((*digest, *count));
                index.blobs.insert((*digest, id, BlobUse::Join { step: *step, path: path.clone() }));
            }
            Record::InputsStored { step, path, .. } => {
                if let Some(join) = run.joins.get_mut(&(*step, path.clone())) {
                    join.stored = true;
                    if let Some((digest, _)) = join.manifest {
                        index.blobs.remove(&(digest, id, BlobUse::Join { step: *step, path: path.clone() }));
                    }
                }
            }
            Record::RunFinished { state, problem, .. } => {
                let others = if *state == RunState::Cancelled { TaskState::Cancelled } else { TaskState::Aborted };
                index.forget(run);
                index.lanes.leave(&flow.definition().name, run);
                let open: Vec<_> = flow.indices().map(|step| (step, OpenAt::of(run, step))).filter(|(_, open)| open.all > 0).collect();
                run.finish(*state, problem.clone(), others, at);
                for (step, before) in open {
                    index.closed(&self.shares, run, &flow, step, before);
                }
                index.unstored.insert(id);
                let cause = run.start.cause.clone();
                if !self.held_back.is_empty() {
                    self.let_go_all(id);
                }
                if let Cause::Backfill { backfill, .. } = &cause {
                    self.count_in_backfill(backfill, id, Some(*state));
                }
                self.orphan_children(id, *state);
            }
            Record::RunAdmitted { .. } => {
                index.lanes.leave(&flow.definition().name, run);
                (run.waits, run.admitted) = (None, Some(at));
                index.lanes.enter(&flow.definition().name, run);
                index.timers.extend(run.deadline().map(|due| (due, id, None)));
            }
            Record::AttemptUsed { step, path, visit, usage, .. } => run.use_up(&TaskRef::new(*step, path.clone(), *visit), *usage),
            Record::StatusSet { step, path, visit, attempt, values, .. } => {
                run.set_status(at, &TaskRef::new(*step, path.clone(), *visit), *attempt, values);
            }
            gate => index.apply_to_gates(run, at, gate),
        }
    }

    fn apply_to_gang(&mut self, id: RunId, record: &Record) {
        let at = self.at;
        let Some(run) = self.runs.get_mut(&id).map(Arc::make_mut) else { return };
        let Some(flow) = self.definitions.get(&run.start.definition).cloned() else { return };
        match record {
            Record::GangOpened { step, path, size, pool, .. } => {
                let (key, gang) = ((*step, path.clone()), Gang::new(*size, pool.clone(), at));
                self.index_by.enter_gang(id, &key, &gang);
                run.gangs.insert(key, gang);
            }
            Record::GangCalled { step, path, attempt, until, .. } => {
                run.call_gang(&flow, *step, path);
                self.change_gang(id, &(*step, path.clone()), |gang| gang.call(*attempt, *until));
            }
            Record::GangMoved { step, path, pool, .. } => {
                self.change_gang(id, &(*step, path.clone()), |gang| gang.pool = pool.clone());
            }
            Record::MemberJoined { step, path, worker, address, at, .. } => {
                let task = TaskRef::new(*step, path.clone(), 0);
                self.index_by.release(run, id, &task);
                run.started(&task, worker, *at);
                self.index_by.held.entry(worker.clone()).or_default().insert((id, task.clone()));
                if let Some((gang, index)) = run.gang_of_mut(&task) {
                    gang.members.insert(index, Member { worker: worker.clone(), address: *address, success: None });
                }
            }
            Record::GangFormed { step, path, .. } => {
                self.change_gang(id, &(*step, path.clone()), |gang| (gang.phase, gang.vain) = (GangPhase::Formed, 0));
            }
            Record::MemberSucceeded { step, path, worker, success, .. } => {
                let task = TaskRef::new(*step, path.clone(), 0);
                let before = OpenAt::of(run, *step);
                self.index_by.release(run, id, &task);
                run.member_succeeded(&task, worker, success);
                self.index_by.closed(&self.shares, run, &flow, *step, before);
            }
            Record::GangDissolved { step, path, retry, not_before, because, .. } => {
                let before = OpenAt::of(run, *step);
                let size = run.gangs.get(&(*step, path.clone())).map_or(0, |gang| gang.size);
                for task in gang::members(*step, path, size) {
                    self.index_by.release(run, id, &task);
                    run.recall(&task, *retry, at);
                }
                self.index_by.closed(&self.shares, run, &flow, *step, before);
                self.change_gang(id, &(*step, path.clone()), |gang| gang.dissolve(*retry, *not_before, because));
            }
            _ => {}
        }
    }

    /// Items of a foreach have reached its join.
    fn wake_arrived(&mut self, run: RunId, flow: &Flow, step: StepIndex, outer: &Path) {
        if let Some((_, split)) = join_after(flow, step).filter(|(_, split)| split.foreach) {
            self.wake_foreach(run, split.step, outer);
        }
    }

    /// Number of keys changed since they were last taken.
    #[must_use]
    pub fn changes_len(&self) -> usize {
        let mut sum = 0;
        macro_rules! add {
            ($table:ident, $id:ident) => {
                sum += self.$table.changes_len();
            };
        }
        each_table!(add);
        sum + self.runs.changed().filter_map(|run| self.run(*run)).map(|run| run.tasks.changes_len()).sum::<usize>()
    }

    /// Takes what changed since the last call, to be stored together with [`State::header`].
    pub fn take_changes(&mut self) -> Vec<Change> {
        let gone = std::mem::take(&mut self.removed).into_iter();
        let mut changes: Vec<Change> = gone.map(|(run, key)| task_change(run, &key, None)).collect();
        // Groups of tasks are stored under keys of their own: a run that is wide is not written whole.
        let changed: Vec<RunId> = self.runs.changed().copied().collect();
        for id in changed {
            let Some(run) = self.runs.peek_mut(&id).map(Arc::make_mut) else { continue };
            changes.extend(run.tasks.take_changes().iter().map(|(key, group)| task_change(id, key, group.as_ref())));
        }
        macro_rules! take {
            ($table:ident, $id:ident) => {
                self.$table.take_changes(TableId::$id, &mut changes);
            };
        }
        each_table!(take);
        changes
    }

    /// Forgets what changed: nobody copies this state.
    pub fn forget_changes(&mut self) {
        self.removed.clear();
        let changed: Vec<RunId> = self.runs.changed().copied().collect();
        for id in changed {
            if let Some(run) = self.runs.peek_mut(&id) {
                Arc::make_mut(run).tasks.forget_changes();
            }
        }
        macro_rules! forget {
            ($table:ident, $id:ident) => {
                self.$table.forget_changes();
            };
        }
        each_table!(forget);
    }

    /// Sequence, watermarks and the like, encoded.
    ///
    /// # Panics
    /// Never: the header has a MessagePack form.
    #[must_use]
    pub fn header(&self) -> Vec<u8> {
        let header = Header {
            sequence: self.sequence,
            epoch: self.epoch,
            at: self.at,
            inbox: self.inbox,
            events: self.events,
            announced: self.announced,
            store: self.store,
            records: self.records,
            storage: self.storage.clone(),
            streams: self.streams.clone(),
            pools: self.pools.clone(),
            offers: self.offers.clone(),
            orders: self.orders.clone(),
            shares: self.shares.clone(),
        };
        rmp_serde::to_vec_named(&header).expect("the header serializes")
    }

    /// Rebuilds a state from a stored header and entries.
    ///
    /// # Errors
    /// When an entry cannot be decoded: the copy is damaged or of another format, and has to be rebuilt from the log.
    pub fn restore(header: &[u8], entries: impl IntoIterator<Item = (u8, Vec<u8>, Vec<u8>)>) -> Result<Self, rmp_serde::decode::Error> {
        let header: Header = rmp_serde::from_slice(header)?;
        let mut state = Self {
            sequence: header.sequence,
            epoch: header.epoch,
            at: header.at,
            inbox: header.inbox,
            events: header.events,
            announced: header.announced,
            store: header.store,
            records: header.records,
            storage: header.storage,
            streams: header.streams,
            pools: header.pools,
            offers: header.offers,
            orders: header.orders,
            shares: header.shares,
            ..Self::default()
        };
        let mut groups = Vec::new();
        for (table, key, value) in entries {
            if table == TableId::Tasks as u8 {
                groups.push((key, value));
                continue;
            }
            macro_rules! put {
                ($name:ident, $id:ident) => {
                    if table == TableId::$id as u8 {
                        state.$name.restore(&key, &value)?;
                        continue;
                    }
                };
            }
            each_table!(put);
            return Err(serde::de::Error::custom(format_args!("unknown table {table}")));
        }
        for (key, group) in groups {
            let (id, key): (RunId, GroupKey) = rmp_serde::from_slice(&key)?;
            let Some(run) = state.runs.peek_mut(&id) else {
                return Err(serde::de::Error::custom(format_args!("tasks of run {id}, which is not there")));
            };
            Arc::make_mut(run).tasks.restore(key, rmp_serde::from_slice(&group)?);
        }
        state.count_away();
        state.rebuild_indices();
        Ok(state)
    }

    fn count_away(&mut self) {
        let live: Vec<RunId> = self.runs.iter().filter(|(_, run)| !run.state.is_terminal()).map(|(id, _)| *id).collect();
        for id in live {
            let Some(flow) = self.run(id).and_then(|run| self.flow_of(run)) else { continue };
            if flow.indices().any(|step| route::routed(&flow, step).is_some())
                && let Some(run) = self.runs.peek_mut(&id)
            {
                Arc::make_mut(run).count_away(&flow);
            }
        }
    }

    fn rebuild_indices(&mut self) {
        let mut indices = Indices::default();
        for run in self.runs.values() {
            indices.names.insert(run.start.name.clone(), run.id());
            *indices.uses.entry(run.start.definition).or_default() += 1;
            if !run.state.is_terminal() {
                indices.enter(run);
                if let Some(flow) = self.flow_of(run) {
                    indices.lanes.enter(&flow.definition().name, run);
                }
            } else if self.histories.contains(&run.id()) {
                indices.stored.insert((run.finished.unwrap_or_default(), run.id()));
                indices.stored_tasks += retire::tasks(run);
            } else {
                indices.unstored.insert(run.id());
            }
        }
        indices.names.extend(self.retired.iter().map(|(id, run)| (run.name.clone(), *id)));
        indices.requests = self.requests.iter().map(|(id, (at, _))| (*at, id.clone())).collect();
        indices.origins = self.origins.iter().map(|(origin, (at, _))| (*at, *origin)).collect();
        indices.memo = self.memo.iter().map(|(key, found)| (found.at, *key)).collect();
        indices.origins.extend(self.skipped.iter().map(|(origin, (at, _))| (*at, *origin)));
        let under_way = self.backfills.iter().filter(|(_, backfill)| backfill.finished.is_none());
        indices.backfills = under_way.map(|(id, _)| id.clone()).collect();
        self.index_by = indices;
        self.rebuild_lines();
    }

    /// Gives every entry of every table to `each`, in order: what [`State::restore`] takes.
    pub fn each_entry(&self, mut each: impl FnMut(TableId, Vec<u8>, Vec<u8>)) {
        macro_rules! each {
            ($table:ident, $id:ident) => {
                self.$table.each(TableId::$id, &mut each);
            };
        }
        each_table!(each);
        for run in self.runs.values() {
            for (key, group) in run.tasks.groups() {
                each(TableId::Tasks, encode(&(run.id(), key)), encode(group));
            }
        }
    }

    /// BLAKE3 over header and all entries: equal hashes, equal states (I9).
    #[must_use]
    pub fn hash(&self) -> Digest {
        let mut hasher = blake3::Hasher::new();
        let mut field = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        field(&self.header());
        self.each_entry(|table, key, value| {
            field(&[table as u8]);
            field(&key);
            field(&value);
        });
        Digest(*hasher.finalize().as_bytes())
    }
}

fn task_change(run: RunId, key: &GroupKey, group: Option<&Arc<Group>>) -> Change {
    Change { table: TableId::Tasks, key: encode(&(run, key)), value: group.map(encode) }
}
