//! Where folding begins at a start: with the projection, where it is there and the log still follows it; else with the newest good
//! snapshot; else with the log itself or the archive. A state that none of them gives is refused in words, never guessed.

use causey_artifacts::{Store, StoreError};
use causey_engine::State;
use causey_protocol::id::Digest;
use causey_protocol::subject;

use crate::log::{self, Tail};
use crate::outside::{Outside, Streams};
use crate::snapshot::{self, Damage, Snapshot};
use crate::{archive, streams};

/// Why there is no state to go on from.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Streams(#[from] streams::Error),
    #[error(transparent)]
    Log(#[from] log::Error),
    #[error("failed to look for snapshots: {0}")]
    Store(#[from] StoreError),
    #[error(
        "stream {stream} begins at sequence {first}, and nothing gives the state before it: {reasons}\nhint: restore the artifact store (snap/ and arch/) or the JetStream folder of the NATS server from a backup; see: causey state verify",
        stream = subject::LOG_STREAM
    )]
    NoBase { first: u64, reasons: String },
}

/// What the log stream holds at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    pub first: u64,
    pub last: u64,
}

/// Reads what the log stream holds.
///
/// # Errors
/// When the server does not answer.
pub async fn extent(outside: &impl Streams) -> Result<Extent, streams::Error> {
    let look = outside.look(subject::LOG_STREAM).await.map_err(|why| streams::unseen(subject::LOG_STREAM, why))?;
    Ok(Extent { first: look.first.max(1), last: look.last })
}

/// Where to begin, and why not elsewhere.
#[derive(Debug)]
pub struct Base {
    /// The state to begin with; `None` when the projection will do.
    pub instead: Option<State>,
    pub tail: Tail,
    /// First sequence that the log holds.
    pub first: u64,
    /// Snapshots that could not be used, and why.
    pub damaged: Vec<(u64, Damage)>,
}

/// Finds where to begin when the projection reflects the log up to `projected`.
///
/// # Errors
/// [`Error`] names the stream, or everything that was tried.
pub async fn base(outside: &impl Outside, store: &Store, projected: Tail) -> Result<Base, Error> {
    // Before the log: a snapshot that a leader takes meanwhile may be of a turn behind the end that is found here.
    let snapshots = snapshot::sequences(store).await?;
    let extent = extent(outside).await?;
    let usable = projected.sequence > 0 && projected.sequence + 1 >= extent.first;
    if usable || extent.last == 0 {
        return Ok(Base { instead: None, tail: projected, first: extent.first, damaged: Vec::new() });
    }
    let mut damaged = Vec::new();
    for sequence in snapshots {
        if sequence > extent.last {
            let (stream, found) = (subject::LOG_STREAM, extent.last);
            return Err(streams::Error::MovedBack { stream, found, seen: sequence }.into());
        }
        if sequence + 1 < extent.first {
            break;
        }
        match snapshot::load(outside, store, sequence).await {
            Ok(Snapshot { state, tail }) if continues(outside, extent, tail).await? => {
                return Ok(Base { instead: Some(state), tail, first: extent.first, damaged });
            }
            Ok(_) => damaged.push((sequence, Damage::Foreign)),
            Err(Damage::Store(error)) if error.is_transient() => return Err(error.into()),
            Err(damage) => damaged.push((sequence, damage)),
        }
    }
    for (sequence, damage) in &damaged {
        tracing::warn!(sequence, %damage, "a snapshot cannot be used");
    }
    let mut state = State::default();
    if extent.first == 1 {
        return Ok(Base { instead: (projected.sequence > 0).then_some(state), tail: Tail::EMPTY, first: extent.first, damaged });
    }
    let archived = archive::replay(store, Tail::EMPTY, extent.first - 1, |read| state.apply_turn(read.tail.sequence, &read.turn)).await;
    match archived {
        Ok(tail) => Ok(Base { instead: Some(state), tail, first: extent.first, damaged }),
        Err(error) => {
            let mut reasons: Vec<String> = damaged.iter().map(|(sequence, damage)| format!("snapshot {sequence}: {damage}")).collect();
            if reasons.is_empty() {
                reasons.push("there is no snapshot".into());
            }
            reasons.push(error.to_string());
            Err(Error::NoBase { first: extent.first, reasons: reasons.join("; ") })
        }
    }
}

/// Whether the log goes on from this turn: it holds the turn itself, or the next one, which names it.
async fn continues(streams: &impl Streams, extent: Extent, tail: Tail) -> Result<bool, log::Error> {
    if tail.sequence >= extent.first {
        return Ok(Digest::of(&log::message_at(streams, tail.sequence).await?) == tail.hash);
    }
    let next = log::message_at(streams, tail.sequence + 1).await?;
    Ok(log::follow(tail, tail.sequence + 1, &next).is_ok())
}
