//! The history checker: reads log, inbox, notify stream and store from outside and judges the invariants of the design (I1–I4, I6–I8,
//! I11; with `bounds` I10, with `reports` I14; and the engine's own). It folds records one by one, so that every record is judged in the state it was decided in.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path as FilePath;
use std::sync::Arc;

use async_nats::Client;
use async_nats::jetstream::stream::RawMessageErrorKind;
use bytes::Bytes;
use causey_coordinator::archive;
use causey_coordinator::log::Tail;
use causey_engine::State;
use causey_protocol::artifact::{blob_path, object_path};
use causey_protocol::chunk::CHUNK_ITEMS;
use causey_protocol::codec::{self, TURN_BYTES_MAX};
use causey_protocol::flow::{Flow, StepIndex};
use causey_protocol::id::{Digest, ModelName, NotificationId, Origin, Path, RunId, SignalName, TaskId, Timestamp};
use causey_protocol::record::{Cause, ItemReused, ItemSucceeded, Position, Record, RunStarted, Topic, Turn};
use causey_protocol::subject;
use serde_json::Value;

use crate::bounds::Bounds;
use crate::reports::Reports;
use crate::wait::until;

/// A task of any run.
type Task = (RunId, StepIndex, Path, u32);

/// One message of the log.
#[derive(Clone, Debug)]
pub struct Entry {
    pub sequence: u64,
    pub subject: String,
    pub payload: Bytes,
    pub turn: Turn,
}

/// One message of the notify stream.
#[derive(Clone, Debug)]
pub struct Notice {
    pub subject: String,
    /// `Causey-Sequence`.
    pub position: String,
    pub event: Value,
}

/// Everything that was decided and announced.
#[derive(Clone, Debug)]
pub struct History {
    pub entries: Vec<Entry>,
    pub notices: Vec<Notice>,
    /// Last sequences of the inbox and the events stream.
    inputs: (u64, u64),
    /// Messages of the inbox, subject and payload; `None` when it does not begin with its first one.
    inbox: Option<Vec<(String, Bytes)>>,
}

struct Raw {
    sequence: u64,
    subject: String,
    header: String,
    payload: Bytes,
}

/// All messages of a stream. Streams of a test are short, so they are read one by one from the stream's leader.
async fn messages(client: &Client, stream: &str) -> (u64, Vec<Raw>) {
    let context = async_nats::jetstream::new(client.clone());
    let handle = context.get_stream(stream).await.unwrap_or_else(|error| panic!("stream {stream}: {error}"));
    let state = &handle.cached_info().state;
    let mut found = Vec::new();
    for sequence in state.first_sequence.max(1)..=state.last_sequence {
        // A stream whose leader is being elected has not lost the message.
        let what = format!("message {sequence} of {stream} is read");
        let read = until(&what, 20, async || match handle.get_raw_message(sequence).await {
            Ok(message) => Some(Some(message)),
            Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => Some(None),
            Err(_) => None,
        });
        let Some(message) = read.await else { continue };
        let header = message.headers.get(subject::SEQUENCE_HEADER).map(|value| value.to_string()).unwrap_or_default();
        found.push(Raw { sequence, subject: message.subject.to_string(), header, payload: message.payload });
    }
    (state.last_sequence, found)
}

async fn last_sequence(client: &Client, stream: &str) -> u64 {
    let context = async_nats::jetstream::new(client.clone());
    let handle = context.get_stream(stream).await.unwrap_or_else(|error| panic!("stream {stream}: {error}"));
    handle.cached_info().state.last_sequence
}

impl History {
    /// Reads the streams once every notification decided has been announced.
    ///
    /// # Panics
    /// When a stream cannot be read, a turn cannot be decoded or a notification is not announced.
    pub async fn read(client: &Client) -> Self {
        until("all notifications decided are announced", 20, async || {
            let history = Self::read_now(client).await;
            history.unannounced().is_empty().then_some(history)
        })
        .await
    }

    /// Like [`History::read`], with the turns that were trimmed from the log and lie in the archive of the folder `store`.
    ///
    /// # Panics
    /// As [`History::read`], or when archive and log leave a gap.
    pub async fn read_whole(client: &Client, store: &FilePath) -> Self {
        let store = causey_artifacts::Store::open(&store.to_string_lossy(), false).await.expect("the store can be opened");
        // The log may be trimmed while it is read.
        until("archive and log are read without a gap", 20, async || {
            let mut history = Self::read(client).await;
            let first = history.entries.first().map_or(1, |entry| entry.sequence);
            let mut archived = Vec::new();
            let archive = archive::replay(&store, Tail::EMPTY, first - 1, |read| {
                let fence = read.turn.records.iter().any(|record| matches!(record, Record::LeaderChanged { .. }));
                let subject = if fence { subject::LOG_FENCE } else { subject::LOG_TURN }.to_owned();
                let (sequence, turn) = (read.tail.sequence, read.turn.clone());
                archived.push(Entry { sequence, subject, payload: codec::encode(&turn).into(), turn });
            });
            archive.await.ok()?;
            archived.append(&mut history.entries);
            let whole = (1..).zip(&archived).all(|(sequence, entry)| entry.sequence == sequence);
            whole.then_some(Self { entries: archived, ..history })
        })
        .await
    }

    async fn read_now(client: &Client) -> Self {
        // Before the log: what is announced while they are read was decided there.
        let (_, notices) = messages(client, subject::NOTIFY_STREAM).await;
        let notices = notices.into_iter().map(|raw| {
            let event = serde_json::from_slice(&raw.payload).unwrap_or_else(|error| panic!("notification {}: {error}", raw.sequence));
            Notice { subject: raw.subject, position: raw.header, event }
        });
        let notices = notices.collect();
        let (_, log) = messages(client, subject::LOG_STREAM).await;
        let entries = log.into_iter().map(|raw| {
            let turn = codec::decode(&raw.payload, TURN_BYTES_MAX).unwrap_or_else(|error| panic!("turn {}: {error}", raw.sequence));
            Entry { sequence: raw.sequence, subject: raw.subject, payload: raw.payload, turn }
        });
        let entries = entries.collect();
        // After the log: what follows from a message came after it.
        let (last, messages) = messages(client, subject::INBOX_STREAM).await;
        let inputs = (last, last_sequence(client, subject::EVENT_STREAM).await);
        let whole = messages.len() as u64 == last;
        let inbox = whole.then(|| messages.into_iter().map(|raw| (raw.subject, raw.payload)).collect());
        Self { entries, notices, inputs, inbox }
    }

    /// Every record with its place, in order.
    pub fn records(&self) -> impl Iterator<Item = (Position, &Record)> {
        self.entries.iter().flat_map(|entry| {
            let place = |index| Position { sequence: entry.sequence, index: u32::try_from(index).unwrap_or(u32::MAX) };
            entry.turn.records.iter().enumerate().map(move |(index, record)| (place(index), record))
        })
    }

    /// The fold of the log.
    #[must_use]
    pub fn state(&self) -> State {
        let mut state = State::default();
        for entry in &self.entries {
            state.apply_turn(entry.sequence, &entry.turn);
        }
        state
    }

    /// The fold of the log up to a sequence.
    #[must_use]
    pub fn state_at(&self, sequence: u64) -> State {
        let mut state = State::default();
        for entry in self.entries.iter().filter(|entry| entry.sequence <= sequence) {
            state.apply_turn(entry.sequence, &entry.turn);
        }
        state
    }

    /// The notices of a topic.
    #[must_use]
    pub fn announced(&self, topic: Topic) -> Vec<&Notice> {
        self.notices.iter().filter(|notice| notice.event["type"] == topic.event_type()).collect()
    }

    fn unannounced(&self) -> Vec<String> {
        let announced: BTreeSet<&str> = self.notices.iter().filter_map(|notice| notice.event["id"].as_str()).collect();
        let decided =
            self.records().filter_map(|(_, record)| if let Record::Notified { id, .. } = record { Some(id.to_string()) } else { None });
        decided.filter(|id| !announced.contains(id.as_str())).collect()
    }

    /// Every broken invariant, in words.
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut checker = Checker::within(Bounds::default());
        // What was lost with an operator's consent was there when it was decided about.
        let loss = |(_, record): (Position, &Record)| matches!(record, Record::LossAccepted { .. });
        checker.reports.is_trimmed = self.inbox.is_none() || self.records().any(loss);
        self.inbox.iter().flatten().for_each(|(subject, payload)| checker.reports.stored(subject, payload));
        for entry in &self.entries {
            checker.turn(entry, &mut found);
        }
        checker.ends(self.inputs, &mut found);
        checker.notices(&self.notices, &mut found);
        if checker.state.hash() != self.state().hash() {
            found.push("I9: folding record by record and turn by turn differ".into());
        }
        found
    }

    /// I8: every object a record names is in the store with its digest, and every blob is what its name says.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn store_violations(&self, store: &FilePath) -> std::io::Result<Vec<String>> {
        let mut found = Vec::new();
        let state = self.state();
        let look = |place: &str| std::fs::read(store.join(place)).ok().map(Bytes::from);
        for (position, record) in self.records() {
            missing_objects(&state, position, record, look, &mut found);
        }
        for flow in state.definitions.values() {
            let place = blob_path(&flow.definition().package);
            if !store.join(&place).is_file() {
                found.push(format!("I8: the code package {place} is missing"));
            }
        }
        for blob in files(&store.join("cas"))? {
            let name = blob.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if Digest::of(&std::fs::read(&blob)?).to_string() != name {
                found.push(format!("I8: blob {} is not what its name says", blob.display()));
            }
        }
        Ok(found)
    }
}

/// I8: what a record says to be stored is there. `look` gives the content of a place in the store.
pub fn missing_objects(state: &State, position: Position, record: &Record, look: impl Fn(&str) -> Option<Bytes>, found: &mut Vec<String>) {
    let made = accepted(record).into_iter().map(|result| (result.0, result));
    for (owner, (run, step, path, visit, attempt, digest, bytes)) in made.chain(reused(record)) {
        let Some(flow) = state.run(run).and_then(|run| state.flow_of(run)) else { continue };
        let task = TaskId { step: flow.step(step).name.clone(), path, visit };
        let place = object_path(owner, &task.key(attempt));
        match look(&place) {
            Some(content) if Digest::of(&content) == digest && content.len() as u64 == bytes => {}
            Some(content) => {
                found.push(format!("I8: {place} of {position} has {} bytes and digest {}", content.len(), Digest::of(&content)));
            }
            None => found.push(format!("I8: {place} of {position} is missing")),
        }
    }
    if let Record::ChunkStored { run, step, path, chunk } = record {
        let digest = state.run(*run).and_then(|run| run.foreach(*step, path)?.chunks.get(chunk)?.digest);
        // A chunk of a foreach inside another is named by the outer chunk once that is stored.
        if digest.is_some_and(|digest| look(&blob_path(&digest)).is_none()) {
            found.push(format!("I8: chunk {chunk} of {position} is missing"));
        }
    }
}

/// Judges a log turn by turn, from its beginning: what it says after each holds for the log so far.
#[derive(Debug)]
pub struct Checker {
    /// The fold, record by record.
    pub state: State,
    judge: Judge,
    previous: Digest,
    watermarks: (u64, u64, Position),
    /// Notifications by their id.
    decided: BTreeMap<String, Position>,
    bounds: Bounds,
    /// To be told of every message of the inbox before a turn is judged that may follow from it.
    pub reports: Reports,
}

impl Checker {
    /// One that knows how the coordinators are configured.
    #[must_use]
    pub fn within(bounds: Bounds) -> Self {
        let (state, judge, previous) = (State::default(), Judge::default(), Digest([0; 32]));
        let (watermarks, decided) = ((0, 0, Position::default()), BTreeMap::new());
        Self { state, judge, previous, watermarks, decided, bounds, reports: Reports::default() }
    }

    /// Judges the next turn.
    pub fn turn(&mut self, entry: &Entry, found: &mut Vec<String>) {
        self.chain(entry, found);
        self.epoch(entry, found);
        self.watermarks(entry, found);
        let Entry { sequence, turn, .. } = entry;
        self.state.sequence = sequence - 1;
        self.state.open_turn(turn.at);
        self.state.epoch = turn.epoch;
        for (index, record) in (0..).zip(&turn.records) {
            self.judge.record(&self.state, record, found);
            self.bounds.record(&self.state, record, found);
            self.reports.record(&self.state, record, found);
            if let Record::Notified { id, .. } = record {
                let position = Position { sequence: *sequence, index };
                if let Some(before) = self.decided.insert(id.to_string(), position) {
                    found.push(format!("I6: notification {id} was decided at {before} and at {position}"));
                }
            }
            self.state.apply(record);
        }
        self.state.cover(turn.inbox, turn.events, turn.announced);
        self.bounds.turn(&self.state, (entry.payload.len(), turn.records.len()), found);
        found.extend(causey_engine::violations(&self.state).into_iter().map(|text| format!("after turn {sequence}: {text}")));
    }

    /// I11: sequences without gaps, every turn behind the hash of the one before.
    fn chain(&mut self, entry: &Entry, found: &mut Vec<String>) {
        let expected = self.state.sequence + 1;
        if entry.sequence != expected {
            found.push(format!("I11: message {} of the log comes as number {expected}", entry.sequence));
        }
        if entry.turn.previous != self.previous {
            found.push(format!("I11: the chain is broken before turn {}", entry.sequence));
        }
        self.previous = Digest::of(&entry.payload);
    }

    /// I7: an epoch begins with its fence, one higher than the last, and nothing older follows.
    fn epoch(&self, entry: &Entry, found: &mut Vec<String>) {
        let expected = if entry.subject == subject::LOG_FENCE { self.state.epoch + 1 } else { self.state.epoch };
        if entry.turn.epoch != expected {
            found.push(format!("I7: turn {} on {} has epoch {}, not {expected}", entry.sequence, entry.subject, entry.turn.epoch));
        }
    }

    /// I1 as far as it shows in the log: watermarks never fall, unless an operator accepted a loss.
    fn watermarks(&mut self, entry: &Entry, found: &mut Vec<String>) {
        let (last, now) = (self.watermarks, (entry.turn.inbox, entry.turn.events, entry.turn.announced));
        let accepted = entry.turn.records.iter().any(|record| matches!(record, Record::LossAccepted { .. }));
        if !accepted && (now.0 < last.0 || now.1 < last.1 || now.2 < last.2) {
            found.push(format!("I1: the watermarks of turn {} fall from {last:?} to {now:?}", entry.sequence));
        }
        self.watermarks = now;
    }

    /// I1: watermarks never pass what was accepted, where inbox and events stream end.
    pub fn ends(&self, inputs: (u64, u64), found: &mut Vec<String>) {
        let last = self.watermarks;
        if last.0 > inputs.0 || last.1 > inputs.1 {
            found.push(format!("I1: watermarks {last:?} pass the streams, which end at {inputs:?}"));
        }
    }

    /// I6: what was decided is announced under its id and place, and nothing else is.
    pub fn notices(&self, notices: &[Notice], found: &mut Vec<String>) {
        for notice in notices {
            let id = notice.event["id"].as_str().unwrap_or_default();
            match self.decided.get(id) {
                None => found.push(format!("I6: {id} was announced but never decided")),
                Some(position) if position.to_string() != notice.position => {
                    found.push(format!("I6: {id} was decided at {position} and announced as {}", notice.position));
                }
                Some(_) => {}
            }
        }
        found.extend(self.unannounced(notices).into_iter().map(|id| format!("I6: {id} was decided but not announced")));
    }

    /// Ids of notifications that were decided and are not among the notices.
    #[must_use]
    pub fn unannounced(&self, notices: &[Notice]) -> Vec<String> {
        let announced: BTreeSet<&str> = notices.iter().filter_map(|notice| notice.event["id"].as_str()).collect();
        self.decided.keys().filter(|id| !announced.contains(id.as_str())).cloned().collect()
    }
}

/// A result: run, step, path, visit, attempt, digest and size of the object.
type Result = (RunId, StepIndex, Path, u32, u32, Digest, u64);

/// The results of earlier runs that a record takes, with the runs in which they were made.
#[must_use]
pub fn reused(record: &Record) -> Vec<(RunId, Result)> {
    let Record::ResultsReused { run, step, tasks, owners, items } = record else { return Vec::new() };
    let tasks: Vec<(Path, u32)> = tasks.iter().collect();
    let result = |ItemReused(place, owner, attempt, digest, bytes): &ItemReused| {
        let (path, visit) = tasks[*place as usize].clone();
        (owners[*owner as usize], (*run, *step, path, visit, *attempt, *digest, *bytes))
    };
    items.iter().map(result).collect()
}

/// The results that a record accepts.
#[must_use]
pub fn accepted(record: &Record) -> Vec<Result> {
    match record {
        Record::AttemptSucceeded { run, step, path, visit, attempt, digest, bytes, .. } => {
            vec![(*run, *step, path.clone(), *visit, *attempt, *digest, *bytes)]
        }
        Record::AttemptsSucceeded { run, step, outer, visit, attempt, items, .. } => {
            let item = |ItemSucceeded(item, digest, bytes, ..): &ItemSucceeded| {
                (*run, *step, outer.child(*item), *visit, *attempt, *digest, *bytes)
            };
            items.iter().map(item).collect()
        }
        _ => Vec::new(),
    }
}

/// All files below a folder; none when it does not exist.
fn files(folder: &FilePath) -> std::io::Result<Vec<std::path::PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        if !folder.is_dir() {
            continue;
        }
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() { folders.push(entry.path()) } else { found.push(entry.path()) }
        }
    }
    Ok(found)
}

/// What the records so far have done to tasks.
#[derive(Debug, Default)]
struct Judge {
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
    /// Steps that a switch chose, and the task that did.
    switched: BTreeMap<(RunId, StepIndex, Path), Task>,
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
}

impl Judge {
    /// Schedules and backfills only go forward.
    fn instant(&mut self, of: String, instant: Timestamp, found: &mut Vec<String>) {
        if let Some(before) = self.instants.get(&of).filter(|before| **before >= instant) {
            found.push(format!("I2: {of} came to instant {} after {}", instant.0, before.0));
        }
        self.instants.insert(of, instant);
    }

    fn record(&mut self, state: &State, record: &Record, found: &mut Vec<String>) {
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
                self.switched.insert((*run, *to, path.clone()), by);
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
    fn needs(&self, flow: &Flow, (run, step, path, visit): &Task) -> Vec<Vec<Task>> {
        if let Some(by) = self.switched.get(&(*run, *step, path.clone())) {
            return vec![vec![by.clone()]];
        }
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
