//! The history checker: reads log, inbox, notify stream and store from outside and judges the invariants of the design (I1–I4, I6–I8,
//! I11; with `bounds` I10, with `reports` I14; and the engine's own). It folds records one by one, so that every record is judged in the state it was decided in.

mod checker;
mod judge;
mod results;
mod reuse;

use std::collections::BTreeSet;
use std::path::Path as FilePath;

use async_nats::Client;
use async_nats::jetstream::stream::RawMessageErrorKind;
use bytes::Bytes;
use causey_coordinator::archive;
use causey_coordinator::log::Tail;
use causey_engine::State;
use causey_protocol::artifact::blob_path;
use causey_protocol::codec::{self, TURN_BYTES_MAX};
use causey_protocol::id::Digest;
use causey_protocol::record::{Position, Record, Topic, Turn};
use causey_protocol::subject;
use serde_json::Value;

use crate::bounds::Bounds;
use crate::wait::until;

pub use checker::Checker;
pub use results::{accepted, missing_objects, reused};

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
