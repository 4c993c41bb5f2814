//! How far an opened foreach, its chunks and the join behind it have come.

use std::collections::BTreeMap;

use causey_protocol::id::Digest;
use serde::{Deserialize, Serialize};

/// One opened foreach: items up to `opened` have a task, or are in a stored chunk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Foreach {
    pub count: u32,
    pub opened: u32,
    /// Items that have reached the join.
    pub arrived: u32,
    /// Items in a chunk; `None`: results are not gathered in chunks.
    pub chunk: Option<u32>,
    /// Chunks of which an item has arrived, by number.
    pub chunks: BTreeMap<u32, Chunk>,
    /// Chunks that are stored.
    pub stored: u32,
}

/// Consecutive items of a foreach whose results become one blob.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    /// Items that have reached the join.
    pub arrived: u32,
    /// Known once all have.
    pub digest: Option<Digest>,
    /// The blob is in the artifact store, and the state has forgotten its tasks.
    pub stored: bool,
}

impl Foreach {
    pub(crate) fn new(count: u32, chunk: Option<u32>) -> Self {
        Self { count, opened: 0, arrived: 0, chunk, chunks: BTreeMap::new(), stored: 0 }
    }

    /// The items of a chunk.
    pub(crate) fn items(&self, chunk: u32) -> (u32, u32) {
        let size = self.chunk.unwrap_or(self.count);
        let from = chunk.saturating_mul(size);
        (from, from.saturating_add(size).min(self.count))
    }

    /// The chunks of a foreach that has no items outside them.
    pub(crate) fn digests(&self) -> Vec<Digest> {
        self.chunks.values().filter_map(|chunk| chunk.digest).collect()
    }

    /// Arrived items whose tasks the state still holds.
    pub(crate) fn gathering(&self) -> u32 {
        self.arrived - self.stored.saturating_mul(self.chunk.unwrap_or_default()).min(self.arrived)
    }

    pub(super) fn arrive(&mut self, item: u32) {
        self.arrived += 1;
        if let Some(size) = self.chunk {
            self.chunks.entry(item / size.max(1)).or_default().arrived += 1;
        }
    }
}

/// A join that has not been opened yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Join {
    pub arrived: u32,
    /// The manifest of inputs that shall be stored first.
    pub manifest: Option<(Digest, u32)>,
    pub stored: bool,
}
