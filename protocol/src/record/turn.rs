//! A turn, the one message that packs what was decided in one go, and the place of a record in it.

use serde::{Deserialize, Serialize};

use super::Record;
use crate::id::{Digest, Timestamp};

/// What the leader decides in one go and commits as one message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Turn {
    /// The leadership under which it was written; never decreases.
    pub epoch: u64,
    /// The leader's clock, never before the turn before.
    pub at: Timestamp,
    /// Inbox messages up to this sequence are covered by this turn and those before it.
    pub inbox: u64,
    /// Events up to this sequence are covered.
    pub events: u64,
    /// Notifications decided up to this log position (sequence, index in turn) are in the notify stream.
    pub announced: Position,
    /// BLAKE3 of the message before this one on the log; zeros before the first.
    pub previous: Digest,
    pub records: Vec<Record>,
}

/// A record's place in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    /// Stream sequence of the turn.
    pub sequence: u64,
    /// Index of the record in its turn.
    pub index: u32,
}

impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.sequence, self.index)
    }
}

impl std::str::FromStr for Position {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a position such as 41.0");
        let (sequence, index) = text.split_once('.').unwrap_or((text, "0"));
        Ok(Self { sequence: sequence.parse().map_err(|_| wrong())?, index: index.parse().map_err(|_| wrong())? })
    }
}
