//! Keeps the log short while this coordinator leads: stores histories of finished runs, takes snapshots, archives and trims what lies
//! before the older one, and watches how full the streams are. It works beside the leader, from the committed state and over the API's
//! connection; whatever it has done reaches the state as an input, and all of it may be done twice.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use causey_artifacts::{Put, Store, StoreError, failpoint};
use causey_engine::{History, State, WaitingCount};
use causey_protocol::id::{Digest, PoolName, RunId};
use causey_protocol::input::Input;
use causey_protocol::subject;
use causey_protocol::upkeep::{SnapshotTaken, Storage, StorageLevel, history_path, snapshot_path};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::committed::{Committed, Role};
use crate::outside::{Outside, Purge};
use crate::{archive, fill, log, snapshot, streams};

/// How often it measures the streams and looks whether there is something to do.
const ROUND: Duration = Duration::from_secs(1);

/// From this fill of the events stream on events are no longer kept for replay alone, in percent.
const CLOSE_PERCENT: u8 = 50;

/// Shortest time between snapshots while room is scarce: only snapshots let streams be trimmed.
const PRESSED_INTERVAL: Duration = Duration::from_secs(2);

/// Between snapshots with no more records than these nothing has happened: their own, and one that the streams are full.
const QUIET_RECORDS: u64 = 2;

/// A snapshot that took long is followed by a pause this many times as long.
const PAUSE_FACTOR: u32 = 20;

/// Histories stored in one round.
const HISTORIES_MAX: usize = 256;

/// A stored history whose record has not come by then is told of again.
const TOLD_AGAIN: Duration = Duration::from_secs(10);

/// When to do what.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub snapshot_interval: Duration,
    pub snapshot_records: u64,
    /// Finished runs that stay whole in the state.
    pub runs_whole: u32,
}

/// Why a piece of upkeep failed. None of them is final: the next round tries again.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Log(#[from] log::Error),
    #[error(transparent)]
    Streams(#[from] streams::Error),
    #[error(transparent)]
    Archive(#[from] archive::Error),
    #[error("snapshot {sequence} is not what was written, so nothing is trimmed: {because}")]
    Snapshot { sequence: u64, because: String },
    #[error("failed to trim stream {stream}: {reason}")]
    Purge { stream: &'static str, reason: String },
}

/// The upkeep of one coordinator.
#[derive(Debug)]
pub(crate) struct Upkeep<O> {
    outside: O,
    committed: Arc<Committed>,
    store: Arc<Store>,
    inputs: mpsc::Sender<Input>,
    settings: Settings,
    /// Histories stored whose record is on its way.
    told: BTreeMap<RunId, Instant>,
    storage: Storage,
    /// Pools and reasons for which waiting attempts are shown.
    shown: BTreeSet<(PoolName, &'static str)>,
    taken: Instant,
    cost: Duration,
    /// Sequence of the snapshot up to which everything has been trimmed.
    trimmed: u64,
}

impl<O: Outside> Upkeep<O> {
    pub(crate) fn new(outside: O, committed: Arc<Committed>, store: Arc<Store>, inputs: mpsc::Sender<Input>, settings: Settings) -> Self {
        let (told, storage, shown) = (BTreeMap::new(), Storage::default(), BTreeSet::new());
        let (taken, cost, trimmed) = (Instant::now(), Duration::ZERO, 0);
        Self { outside, committed, store, inputs, settings, told, storage, shown, taken, cost, trimmed }
    }

    /// Works until `shutdown`, whenever this coordinator leads.
    pub(crate) async fn serve(mut self, shutdown: CancellationToken) {
        let mut round = tokio::time::interval(ROUND);
        round.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let role = self.committed.role();
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                _ = round.tick() => {}
            }
            let leading = role.get() == Role::Leader;
            if !leading {
                continue;
            }
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = self.round() => {}
            }
        }
    }

    async fn round(&mut self) {
        // The fill first: it decides how urgent the rest is.
        let fill = self.fill().await;
        let histories = self.histories().await;
        let snapshot = self.snapshot().await;
        let trim = self.trim().await;
        for (what, result) in [("measure the streams", fill), ("store histories", histories), ("take a snapshot", snapshot), ("trim", trim)]
        {
            if let Err(error) = result {
                tracing::warn!(%error, "failed to {what}; trying again");
            }
        }
    }

    async fn tell(&self, input: Input) {
        // A closed channel means that this process no longer leads; the next leader does it again.
        let _ = self.inputs.send(input).await;
    }

    async fn fill(&mut self) -> Result<(), Error> {
        let (level, waiting, demands) = {
            let state = self.committed.read();
            (state.storage.level, state.waiting(), state.demands())
        };
        self.show_waiting(waiting);
        for (pool, demand) in demands {
            metrics::gauge!("causey_pool_wanted_workers", "pool" => pool.to_string()).set(f64::from(demand.workers));
            metrics::gauge!("causey_pool_open_slots", "pool" => pool.to_string()).set(demand.open_slots as f64);
            metrics::gauge!("causey_pool_waiting_slots", "pool" => pool.to_string()).set(demand.waiting_slots as f64);
            metrics::gauge!("causey_pool_missing", "pool" => pool.to_string()).set(demand.missing.len() as f64);
        }
        self.storage = fill::measure(&self.outside, level).await?;
        metrics::gauge!("causey_storage_fill_percent").set(f64::from(self.storage.percent));
        if self.storage.level != level {
            let Storage { stream, percent, .. } = &self.storage;
            tracing::warn!(stream, percent, level = ?self.storage.level, "the fill of the streams has changed what is accepted");
        }
        if self.storage.level != level {
            self.tell(Input::Pressure(self.storage.clone())).await;
        }
        Ok(())
    }

    /// Attempts that wait, by pool and reason; what waited before and no longer does is shown as 0.
    fn show_waiting(&mut self, counts: Vec<WaitingCount>) {
        let mut before = std::mem::take(&mut self.shown);
        for WaitingCount { pool, reason, attempts } in counts {
            metrics::gauge!("causey_waiting_attempts", "pool" => pool.to_string(), "reason" => reason).set(attempts as f64);
            before.remove(&(pool.clone(), reason));
            self.shown.insert((pool, reason));
        }
        for (pool, reason) in before {
            metrics::gauge!("causey_waiting_attempts", "pool" => pool.to_string(), "reason" => reason).set(0.0);
        }
    }

    async fn histories(&mut self) -> Result<(), Error> {
        self.told.retain(|_, told| told.elapsed() < TOLD_AGAIN);
        let waiting: Vec<RunId> = {
            let state = self.committed.read();
            state.unstored_runs().filter(|run| !self.told.contains_key(run)).take(HISTORIES_MAX).collect()
        };
        for run in waiting {
            let Some(history) = self.committed.read().history(run) else { continue };
            let bytes = Bytes::from(self.outside.aside(move || history.encode()).await);
            let same_run = |bytes: &[u8]| History::read(bytes).is_ok_and(|history| history.run.id() == run);
            let (digest, bytes) = self.put(&history_path(run), bytes, same_run).await?;
            failpoint::here("history.stored");
            self.told.insert(run, Instant::now());
            self.tell(Input::HistoryStored { run, digest, bytes, keep: self.settings.runs_whole }).await;
        }
        Ok(())
    }

    /// Writes an object; gives digest and size of what lies there then. What was there before stays if it is `good`.
    async fn put(&self, path: &str, bytes: Bytes, good: impl Fn(&[u8]) -> bool) -> Result<(Digest, u64), StoreError> {
        if self.store.put_if_absent(path, bytes.clone()).await? == Put::Present
            && let Some(present) = self.store.get(path).await?
        {
            if good(&present) {
                return Ok((Digest::of(&present), present.len() as u64));
            }
            // No record names it: it was left by a process that died, or damaged since.
            self.store.remove(path).await?;
            self.store.put_if_absent(path, bytes.clone()).await?;
        }
        Ok((Digest::of(&bytes), bytes.len() as u64))
    }

    /// Whether a snapshot is due.
    fn due(&self) -> bool {
        let state = self.committed.read();
        let mut newest = state.snapshots.values().rev();
        let (newer, older) = (newest.next().map_or(0, |taken| taken.records), newest.next().map_or(0, |taken| taken.records));
        // The record that told of the last one is no reason for the next.
        let since = state.records.saturating_sub(newer + 1);
        let elapsed = self.taken.elapsed();
        // Only what the older one covers can be trimmed, so a second one is taken even if nothing has happened since the first.
        let pressed =
            self.storage.level > StorageLevel::Ample && elapsed >= PRESSED_INTERVAL && (since > 0 || newer - older > QUIET_RECORDS);
        let ordinary = since > 0 && (since >= self.settings.snapshot_records || elapsed >= self.settings.snapshot_interval);
        elapsed >= self.cost * PAUSE_FACTOR && (pressed || ordinary)
    }

    async fn snapshot(&mut self) -> Result<(), Error> {
        if !self.due() {
            return Ok(());
        }
        let began = Instant::now();
        let mut state = self.committed.read().clone();
        let turn = Digest::of(&log::message_at(&self.outside, state.sequence).await?);
        let encode = move || {
            state.forget_changes();
            snapshot::encode(&state, turn)
        };
        let (bytes, taken) = self.outside.aside(encode).await;
        let SnapshotTaken { sequence, digest, .. } = taken;
        let (written, _) = self.put(&snapshot_path(sequence), bytes, |present| Digest::of(present) == digest).await?;
        failpoint::here("snapshot.stored");
        (self.taken, self.cost) = (Instant::now(), began.elapsed());
        tracing::debug!(sequence, bytes = taken.bytes, digest = %written, "snapshot taken");
        metrics::gauge!("causey_snapshot_bytes").set(taken.bytes as f64);
        self.tell(Input::SnapshotStored(Box::new(taken))).await;
        Ok(())
    }

    /// Removes what lies before the older of two snapshots: from the log once it is archived, from the inbox at once.
    async fn trim(&mut self) -> Result<(), Error> {
        let Some((older, newer)) = two_newest(&self.committed.read()) else { return Ok(()) };
        if self.trimmed == older.sequence {
            return Ok(());
        }
        for taken in [&older, &newer] {
            let (sequence, damaged) = (taken.sequence, |because: String| Error::Snapshot { sequence: taken.sequence, because });
            let found = snapshot::load(&self.outside, &self.store, sequence).await.map_err(|damage| damaged(damage.to_string()))?;
            if found.tail.hash != taken.turn {
                return Err(damaged("it is of another turn".into()));
            }
        }
        archive::extend(&self.outside, &self.store, older.sequence).await?;
        failpoint::here("archive.reaches");
        self.purge(subject::LOG_STREAM, older.sequence).await?;
        failpoint::here("log.trimmed");
        self.purge(subject::INBOX_STREAM, older.inbox).await?;
        failpoint::here("inbox.trimmed");
        if self.storage.stream == subject::EVENT_STREAM && self.storage.percent >= CLOSE_PERCENT {
            self.purge(subject::EVENT_STREAM, older.events).await?;
        }
        for sequence in snapshot::sequences(&self.store).await?.into_iter().filter(|sequence| *sequence < older.sequence) {
            self.store.remove(&snapshot_path(sequence)).await?;
            failpoint::here("snapshot.removed");
        }
        self.trimmed = older.sequence;
        Ok(())
    }

    /// Removes the messages up to sequence `to`.
    async fn purge(&self, name: &'static str, to: u64) -> Result<(), Error> {
        self.outside.purge(name, Purge::To(to)).await.map(drop).map_err(|why| Error::Purge { stream: name, reason: why.to_string() })
    }
}

fn two_newest(state: &State) -> Option<(SnapshotTaken, SnapshotTaken)> {
    let mut newest = state.snapshots.values().rev().cloned();
    let (newer, older) = (newest.next()?, newest.next()?);
    Some((older, newer))
}
