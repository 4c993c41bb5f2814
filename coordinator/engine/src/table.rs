//! An ordered map that remembers which keys changed, so that a projection can copy just those. It does not know who copies.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Which table a stored key belongs to; the number is part of the projection's format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum TableId {
    Requests = 1,
    Definitions = 2,
    Deployments = 3,
    Origins = 4,
    EventsTaken = 5,
    Held = 6,
    Runs = 7,
    Models = 8,
    Notifications = 9,
    /// Tasks of a run, by group; their run is in `Runs`.
    Tasks = 10,
    Histories = 100,
    Retired = 101,
    HeldBack = 102,
    Snapshots = 103,
    DeadLetters = 104,
    Schedules = 120,
    Skipped = 121,
    Backfills = 122,
    Work = 110,
    Memo = 123,
}

/// One changed key; `value` is `None` when it was removed. Keys and values are MessagePack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub table: TableId,
    pub key: Vec<u8>,
    pub value: Option<Vec<u8>>,
}

/// A `BTreeMap` with a set of keys touched since they were last taken.
#[derive(Clone, Debug)]
pub struct Table<K, V> {
    map: BTreeMap<K, V>,
    changed: BTreeSet<K>,
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self { map: BTreeMap::new(), changed: BTreeSet::new() }
    }
}

impl<K: Ord + Clone, V> Table<K, V> {
    pub fn get(&self, key: &K) -> Option<&V> {
        self.map.get(key)
    }

    /// The value to be changed in place; counts as changed.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let value = self.map.get_mut(key)?;
        if !self.changed.contains(key) {
            self.changed.insert(key.clone());
        }
        Some(value)
    }

    /// The value to be changed in a way that no copy needs to follow.
    pub(crate) fn peek_mut(&mut self, key: &K) -> Option<&mut V> {
        self.map.get_mut(key)
    }

    /// The keys changed since they were last taken.
    pub(crate) fn changed(&self) -> impl Iterator<Item = &K> {
        self.changed.iter()
    }

    pub fn insert(&mut self, key: K, value: V) {
        self.changed.insert(key.clone());
        self.map.insert(key, value);
    }

    pub fn remove(&mut self, key: &K) -> Option<V> {
        let value = self.map.remove(key)?;
        self.changed.insert(key.clone());
        Some(value)
    }

    pub fn contains(&self, key: &K) -> bool {
        self.map.contains_key(key)
    }

    pub fn iter(&self) -> std::collections::btree_map::Iter<'_, K, V> {
        self.map.iter()
    }

    pub fn range(&self, range: impl std::ops::RangeBounds<K>) -> std::collections::btree_map::Range<'_, K, V> {
        self.map.range(range)
    }

    pub fn keys(&self) -> impl DoubleEndedIterator<Item = &K> {
        self.map.keys()
    }

    pub fn values(&self) -> impl DoubleEndedIterator<Item = &V> {
        self.map.values()
    }

    pub fn first(&self) -> Option<(&K, &V)> {
        self.map.first_key_value()
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.map.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// Forgets what changed: nobody copies this table.
    pub fn forget_changes(&mut self) {
        self.changed.clear();
    }

    #[must_use]
    pub fn changes_len(&self) -> usize {
        self.changed.len()
    }
}

impl<K: Ord + Clone + Serialize, V: Serialize> Table<K, V> {
    /// Takes the changed keys with their present values.
    pub fn take_changes(&mut self, table: TableId, into: &mut Vec<Change>) {
        for key in std::mem::take(&mut self.changed) {
            let value = self.map.get(&key).map(encode);
            into.push(Change { table, key: encode(&key), value });
        }
    }

    /// Gives every entry to `each`, in key order.
    pub fn each(&self, table: TableId, each: &mut impl FnMut(TableId, Vec<u8>, Vec<u8>)) {
        for (key, value) in &self.map {
            each(table, encode(key), encode(value));
        }
    }
}

impl<K: Ord + Clone + DeserializeOwned, V: DeserializeOwned> Table<K, V> {
    /// Puts back an entry that [`Table::take_changes`] gave.
    pub fn restore(&mut self, key: &[u8], value: &[u8]) -> Result<(), rmp_serde::decode::Error> {
        self.map.insert(rmp_serde::from_slice(key)?, rmp_serde::from_slice(value)?);
        Ok(())
    }
}

pub(crate) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    rmp_serde::to_vec_named(value).expect("state serializes")
}
