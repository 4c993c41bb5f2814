//! What keeps a log short and its storage safe: snapshots, the fill of the streams, and which streams are the known ones. Records
//! refer to these; whoever writes snapshots or trims streams is no part of it.

use serde::{Deserialize, Serialize};

use crate::id::Digest;

/// A snapshot that lies in the artifact store. Trimming relies on it once a committed record names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotTaken {
    /// Log sequence of the last turn it contains; it lies under [`snapshot_path`].
    pub sequence: u64,
    /// BLAKE3 of that turn's message: the next turn names it as its predecessor.
    pub turn: Digest,
    /// Hash of the state.
    pub state: Digest,
    /// BLAKE3 of the stored object.
    pub digest: Digest,
    pub bytes: u64,
    /// Records folded up to there, since the log began.
    pub records: u64,
    /// Watermarks of the state: what lies up to here in the input streams is covered by the snapshot.
    pub inbox: u64,
    pub events: u64,
}

/// How full the fullest stream is, as far as decisions depend on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StorageLevel {
    /// Everything is accepted.
    #[default]
    Ample,
    /// New runs and events are refused.
    Scarce,
    /// No attempt is opened either: what is left belongs to reports, cancels, the fence and snapshots.
    Critical,
}

/// The level, and the stream it comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Storage {
    pub level: StorageLevel,
    /// The fullest stream.
    pub stream: String,
    /// How full it was when the level was decided.
    pub percent: u8,
}

/// The path of the snapshot after turn `sequence`.
#[must_use]
pub fn snapshot_path(sequence: u64) -> String {
    format!("snap/{sequence}")
}

/// The path of the archived turns `first` to `last`.
#[must_use]
pub fn archive_path(first: u64, last: u64) -> String {
    format!("arch/{first}-{last}")
}

/// The path of a finished run's history.
#[must_use]
pub fn history_path(run: crate::id::RunId) -> String {
    format!("runs/{run}/history")
}
