//! What operators do by hand: verify that log, archive, snapshots and projection agree, rebuild the projection, and accept that a
//! stream of inputs has lost messages. All of it works without a coordinator, on the streams and the store alone.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use causey_artifacts::Store;
use causey_engine::State;
use causey_protocol::id::Digest;
use causey_protocol::record::{Record, Turn};
use causey_protocol::subject;
use causey_protocol::upkeep::history_path;
use futures_util::{StreamExt as _, stream};
use serde::Serialize;

use crate::jetstream::JetStream;
use crate::leadership::Holder;
use crate::log::{self, Tail};
use crate::outside::{Bucket, Entry, Keys as _, Machine as _};
use crate::projection::{Checkpoint, Projection};
use crate::recover::{self, Extent};
use crate::{archive, broker, snapshot, streams};

/// How long to wait for the NATS server.
const PATIENCE: Duration = Duration::from_secs(5);

/// Histories looked for at the same time.
const LOOKS_AHEAD: usize = 16;

/// What to work on.
#[derive(Clone, Debug)]
pub struct Place {
    pub nats_url: String,
    pub store: String,
    pub projection: Option<PathBuf>,
    pub unsafe_nats_version: bool,
}

/// Why the work cannot be done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no NATS server answers within {} seconds\nhint: start it, or correct --nats-url", PATIENCE.as_secs())]
    Unreachable,
    #[error(transparent)]
    Broker(#[from] broker::Error),
    #[error(transparent)]
    Open(#[from] causey_artifacts::OpenError),
    #[error(transparent)]
    Store(#[from] causey_artifacts::StoreError),
    #[error(transparent)]
    Streams(#[from] streams::Error),
    #[error(transparent)]
    Recover(#[from] recover::Error),
    #[error(transparent)]
    Log(#[from] log::Error),
    #[error("the projection in {} cannot be removed\nhint: stop the coordinator that uses it", folder.display())]
    Projection {
        folder: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("coordinator `{name}` leads on these streams\nhint: stop it first")]
    Led { name: String },
    #[error(
        "stream {stream} is not one whose loss can be accepted: it ends at sequence {found}, but {seen} has been read\nhint: restore the JetStream folder of the NATS server from a backup"
    )]
    Unacceptable { stream: &'static str, found: u64, seen: u64 },
    #[error("the log belongs to artifact store {expected}, but the given store is {found}\nhint: give the store that was used before")]
    WrongStore { expected: uuid::Uuid, found: uuid::Uuid },
}

/// What was found out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// First and last sequence of the log stream.
    pub first: u64,
    pub last: u64,
    /// Turns whose chain was followed, in the archive and in the log.
    pub archived: u64,
    pub read: u64,
    pub snapshots: Vec<Checked>,
    /// Log sequence of the projection, where there is one.
    pub projection: Option<u64>,
    pub runs: usize,
    /// Finished runs whose history lies in the store.
    pub histories: usize,
    /// Hash of the state at the end of the log; `None` when it cannot be made.
    pub state: Option<Digest>,
    /// What is wrong, in words; nothing when all is well.
    pub problems: Vec<String>,
}

/// A snapshot in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Checked {
    pub sequence: u64,
    pub good: bool,
}

async fn open(place: &Place) -> Result<(JetStream, Store), Error> {
    let connecting = broker::connect(&place.nats_url, "causey state", place.unsafe_nats_version);
    let nats = tokio::time::timeout(PATIENCE, connecting).await.map_err(|_| Error::Unreachable)??;
    Ok((nats, Store::open(&place.store, true).await?))
}

/// Follows the chain through archive and log, and compares every snapshot and the projection with the fold at their place.
///
/// # Errors
/// When something cannot be reached; what is wrong with what was reached is in the report.
pub async fn verify(place: &Place) -> Result<Report, Error> {
    let (nats, store) = open(place).await?;
    let looked = streams::look(&nats).await?;
    let extent = recover::extent(&nats).await?;
    let mut report = Report { first: extent.first, last: extent.last, ..Report::default() };
    // Hashes of the fold that others must have, by sequence.
    let mut expected: BTreeMap<u64, Vec<(String, Digest)>> = BTreeMap::new();
    let mut bases: Vec<(State, Tail)> = Vec::new();
    for sequence in snapshot::sequences(&store).await? {
        let loaded = snapshot::load(&nats, &store, sequence).await;
        report.snapshots.push(Checked { sequence, good: loaded.is_ok() });
        match loaded {
            Ok(found) => {
                expected.entry(sequence).or_default().push((format!("snapshot {sequence}"), found.state.hash()));
                bases.push((found.state, found.tail));
            }
            Err(damage) => report.problems.push(format!("snapshot {sequence}: {damage}")),
        }
        if sequence > extent.last {
            report.problems.push(moved_back(extent.last, sequence, "a snapshot"));
        }
    }
    if let Some(folder) = &place.projection {
        match Projection::look(folder) {
            Ok(Some((state, tail))) => {
                report.projection = Some(tail.sequence);
                expected.entry(tail.sequence).or_default().push(("the projection".into(), state.hash()));
                if tail.sequence > extent.last {
                    report.problems.push(moved_back(extent.last, tail.sequence, "the projection"));
                }
            }
            Ok(None) => {}
            Err(why) => report.problems.push(format!("the projection in {} cannot be read: {why}", folder.display())),
        }
    }
    if let Some((state, tail)) = fold(&nats, &store, extent, bases, &expected, &mut report).await {
        compare(&state, tail, &looked, &store, &mut report).await?;
    }
    Ok(report)
}

fn moved_back(found: u64, seen: u64, who: &str) -> String {
    format!("stream {} moved back: it ends at sequence {found}, but {who} has turn {seen}", subject::LOG_STREAM)
}

/// Folds everything there is, from the beginning of the log if the archive has it, else from the oldest snapshot that leads into the
/// log; hashes are compared on the way.
async fn fold(
    nats: &JetStream,
    store: &Store,
    extent: Extent,
    bases: Vec<(State, Tail)>,
    expected: &BTreeMap<u64, Vec<(String, Digest)>>,
    report: &mut Report,
) -> Option<(State, Tail)> {
    let (mut state, mut tail) = (State::default(), Tail::EMPTY);
    let mut problems = Vec::new();
    let mut take = |state: &mut State, read: &log::Read| {
        state.apply_turn(read.tail.sequence, &read.turn);
        for (what, hash) in expected.get(&read.tail.sequence).into_iter().flatten() {
            if *hash != state.hash() {
                problems.push(format!("{what} is not the fold of the log at sequence {}", read.tail.sequence));
            }
        }
    };
    if extent.first > 1 {
        match archive::replay(store, tail, extent.first - 1, |read| take(&mut state, read)).await {
            Ok(reached) => {
                report.archived = reached.sequence;
                tail = reached;
            }
            Err(error) => {
                report.problems.push(error.to_string());
                let base = bases.into_iter().filter(|(_, tail)| tail.sequence + 1 >= extent.first && tail.sequence <= extent.last);
                let Some(base) = base.min_by_key(|(_, tail)| tail.sequence) else {
                    report.problems.push(format!("nothing gives the state before turn {}", extent.first));
                    return None;
                };
                (state, tail) = base;
            }
        }
    }
    let mut read = 0;
    let replayed = log::replay(nats, tail, extent.last, |turn| {
        read += 1;
        take(&mut state, turn);
    })
    .await;
    report.read = read;
    report.problems.append(&mut problems);
    match replayed {
        Ok(tail) => Some((state, tail)),
        Err(error) => {
            report.problems.push(in_one_line(&error));
            None
        }
    }
}

/// Compares the fold with the streams of inputs and the store.
async fn compare(state: &State, tail: Tail, looked: &streams::Looked, store: &Store, report: &mut Report) -> Result<(), Error> {
    report.state = Some(state.hash());
    report.runs = state.runs.len() + state.retired.len();
    for loss in losses(state, looked) {
        let Loss { stream, seen, found, .. } = loss;
        report.problems.push(if loss.another {
            format!("stream {stream} is another one than the log has read")
        } else {
            format!("stream {stream} ends at sequence {found}, but {seen} has been read")
        });
    }
    if let Some(expected) = state.store.filter(|expected| *expected != store.id()) {
        report.problems.push(format!("the log belongs to artifact store {expected}, but the given store is {}", store.id()));
    }
    let kept = state.histories.iter().map(|(run, (_, bytes))| (*run, *bytes));
    let retired = state.retired.iter().map(|(run, entry)| (*run, entry.bytes));
    let looks = stream::iter(kept.chain(retired).collect::<Vec<_>>())
        .map(|(run, bytes)| async move { store.head(&history_path(run)).await.map(|found| (run, bytes, found)) });
    let mut looks = looks.buffered(LOOKS_AHEAD);
    while let Some(found) = looks.next().await {
        match found? {
            (_, bytes, Some(found)) if bytes == found => report.histories += 1,
            (run, bytes, found) => {
                let found = found.map_or_else(|| "is missing".into(), |found| format!("has {found} bytes instead of {bytes}"));
                report.problems.push(format!("the history of run {run} {found} (turn {})", tail.sequence));
            }
        }
    }
    Ok(())
}

/// What a stream of inputs has lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Loss {
    pub stream: &'static str,
    /// The log has read up to here.
    pub seen: u64,
    /// The stream ends here.
    pub found: u64,
    /// Whether the stream was deleted and made again.
    pub another: bool,
}

impl Loss {
    /// Where reading goes on.
    fn watermark(&self) -> u64 {
        if self.another { 0 } else { self.found }
    }
}

/// What is missing of the streams, the log included.
fn losses(state: &State, looked: &streams::Looked) -> Vec<Loss> {
    let ends = [
        (subject::LOG_STREAM, state.sequence, looked.tails.log),
        (subject::INBOX_STREAM, state.inbox, looked.tails.inbox),
        (subject::EVENT_STREAM, state.events, looked.tails.events),
    ];
    let loss = |(stream, seen, found): (&'static str, u64, u64)| {
        let another = state.streams.get(stream).is_some_and(|known| looked.created.get(stream) != Some(known));
        (another || found < seen).then_some(Loss { stream, seen, found, another })
    };
    ends.into_iter().filter_map(loss).collect()
}

/// The state at the end of the log, whatever the streams of inputs have lost.
async fn state_of_log(nats: &JetStream, store: &Store) -> Result<(State, Tail), Error> {
    let base = recover::base(nats, store, Tail::EMPTY).await?;
    let mut state = base.instead.unwrap_or_default();
    let extent = recover::extent(nats).await?;
    let tail = log::replay(nats, base.tail, extent.last, |read| state.apply_turn(read.tail.sequence, &read.turn)).await?;
    if let Some(expected) = state.store.filter(|expected| *expected != store.id()) {
        return Err(Error::WrongStore { expected, found: store.id() });
    }
    Ok((state, tail))
}

/// Removes the projection and writes it anew from the newest snapshot or the archive, and the log. Gives sequence and hash.
///
/// # Errors
/// [`Error`]; a coordinator that starts then rebuilds it itself.
pub async fn rebuild(place: &Place, folder: &std::path::Path) -> Result<(u64, Digest), Error> {
    let (nats, store) = open(place).await?;
    let failed = |source| Error::Projection { folder: folder.to_owned(), source };
    Projection::remove(folder).map_err(failed)?;
    let (state, tail) = state_of_log(&nats, &store).await?;
    let (mut projection, _, _) = Projection::open(folder).map_err(failed)?;
    projection.store(Checkpoint::whole(&state, tail));
    projection.close();
    Ok((tail.sequence, state.hash()))
}

/// Writes into the log that what the streams of inputs have lost is accepted; reading goes on with what they hold. Gives what was
/// accepted: nothing when nothing is missing.
///
/// # Errors
/// [`Error::Led`] while a coordinator leads, [`Error::Unacceptable`] when the log itself has lost its end.
pub async fn accept_loss(place: &Place, user: &str) -> Result<Vec<Loss>, Error> {
    let (nats, store) = open(place).await?;
    refuse_leader(&nats).await?;
    let looked = streams::look(&nats).await?;
    if let Some(folder) = &place.projection
        && let Ok(Some((_, Tail { sequence: seen, .. }))) = Projection::look(folder)
        && seen > looked.tails.log
    {
        return Err(Error::Unacceptable { stream: subject::LOG_STREAM, found: looked.tails.log, seen });
    }
    let (state, tail) = state_of_log(&nats, &store).await?;
    let losses = losses(&state, &looked);
    if let Some(Loss { stream, found, seen, .. }) = losses.iter().find(|loss| loss.stream == subject::LOG_STREAM) {
        return Err(Error::Unacceptable { stream, found: *found, seen: *seen });
    }
    if losses.is_empty() {
        return Ok(losses);
    }
    let watermark = |stream: &str, now: u64| losses.iter().find(|loss| loss.stream == stream).map_or(now, Loss::watermark);
    let mut records = vec![Record::LeaderChanged { leader: "causey state accept-loss".into() }];
    records.extend(losses.iter().map(|loss| Record::LossAccepted {
        stream: loss.stream.into(),
        seen: loss.seen,
        found: loss.found,
        user: user.into(),
    }));
    records.push(Record::StreamsSeen { created: looked.created.clone() });
    let turn = Turn {
        epoch: state.epoch + 1,
        at: state.at.max(nats.now()),
        inbox: watermark(subject::INBOX_STREAM, state.inbox),
        events: watermark(subject::EVENT_STREAM, state.events),
        announced: state.announced,
        previous: tail.hash,
        records,
    };
    log::append(&nats, subject::LOG_FENCE, tail, &turn).await?;
    Ok(losses)
}

async fn refuse_leader(nats: &JetStream) -> Result<(), Error> {
    // No bucket, no leader.
    let Ok(bucket) = nats.bucket().await else { return Ok(()) };
    let Ok(Some(Entry { value: Some(value), .. })) = Bucket::entry(&bucket, subject::LEADER_KEY).await else { return Ok(()) };
    match serde_json::from_slice::<Holder>(&value) {
        Ok(holder) if !holder.is_dead() => Err(Error::Led { name: holder.name }),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// An error and its causes without hints.
fn in_one_line(error: &dyn std::error::Error) -> String {
    let first_line = |error: &dyn std::error::Error| error.to_string().lines().next().unwrap_or_default().to_owned();
    let mut text = first_line(error);
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {}", first_line(cause));
        source = cause.source();
    }
    text
}
