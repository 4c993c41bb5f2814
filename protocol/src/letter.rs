//! Dead letters: what was given up on and is kept for people, until they have it done again, discard it, or it is too old.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::flow::StepIndex;
use crate::id::{Path, RunId, WorkerName};

/// An original message of more bytes, headers included, is not kept with its letter; it is then read from its stream.
pub const ORIGINAL_BYTES_MAX: usize = 8 * 1024;

/// What was given up on, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    pub what: Dead,
    /// Why, for people to read.
    pub because: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Dead {
    /// A task whose workers vanished while they ran it; its run has failed.
    Task {
        run: RunId,
        step: StepIndex,
        path: Path,
        visit: u32,
        /// Number of its last attempt.
        attempt: u32,
        /// Who ran that.
        worker: Option<WorkerName>,
    },
    /// A message of the inbox or the events stream that cannot be read.
    Message {
        subject: String,
        /// Its place in its stream.
        sequence: u64,
        original: Original,
    },
}

/// A message as it lay in its stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Original {
    /// Size of the payload.
    pub bytes: u64,
    /// First value of each header, by its name in lower case; empty when the payload is not kept.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// `None`: it was larger than [`ORIGINAL_BYTES_MAX`].
    #[serde(default)]
    pub payload: Option<Vec<u8>>,
}

impl Original {
    /// Keeps the message if it is small enough.
    #[must_use]
    pub fn new(headers: &BTreeMap<String, String>, payload: &[u8]) -> Self {
        let size = headers.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() + payload.len();
        let (bytes, kept) = (payload.len() as u64, size <= ORIGINAL_BYTES_MAX);
        Self { bytes, headers: if kept { headers.clone() } else { BTreeMap::new() }, payload: kept.then(|| payload.to_vec()) }
    }
}

/// How a letter came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LetterEnd {
    /// What it was about was put on its way again.
    Redriven,
    Discarded,
}
