//! The stored form of the state: a header and the entries of the tables, the same for a projection and for a snapshot, and the hash over
//! them. Tables remember what changed so that a projection can follow.

use std::collections::BTreeMap;
use std::sync::Arc;

use causey_protocol::id::{Digest, PoolName, RunId, Timestamp};
use causey_protocol::record::Position;
use causey_protocol::share::Shares;
use causey_protocol::upkeep::Storage;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::State;
use crate::route::{self, Offers, Orders};
use crate::table::{Change, TableId, encode};
use crate::tasks::{Group, GroupKey};

/// What a projection stores beside the tables.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Header {
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
