//! The log as this coordinator knows it: tail sequence and hash, the next message to append, and reading what others appended. One
//! turn is one message; the compare-and-set on the tail is the fence.

use std::time::Duration;

use async_nats::jetstream::consumer::pull::Config as PullConfig;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy};
use async_nats::jetstream::stream::LastRawMessageErrorKind;
use async_nats::jetstream::{Context, ErrorCode};
use bytes::Bytes;
use causey_protocol::codec::{self, DecodeError, TURN_BYTES_MAX};
use causey_protocol::id::Digest;
use causey_protocol::record::Turn;
use causey_protocol::subject;
use futures_util::StreamExt as _;

/// Why the log cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("failed to read the log: {0}")]
    Read(String),
    #[error(
        "turn {sequence} of the log cannot be read\nhint: it was written by another version of Causey, or the JetStream folder is damaged"
    )]
    Unreadable {
        sequence: u64,
        #[source]
        source: DecodeError,
    },
    #[error(
        "the log is broken at sequence {sequence}: its turn follows {expected}, but the message before it is {found}\nhint: messages were lost or changed; restore the JetStream folder of the NATS server from a backup"
    )]
    BrokenChain { sequence: u64, expected: Digest, found: Digest },
    #[error(
        "the log no longer holds message {sequence}, which this coordinator has folded\nhint: it was trimmed or lost; if the other coordinators go on, delete this one's projection and start it again"
    )]
    Missing { sequence: u64 },
    #[error("the log ended at sequence {reached}, but the server says it reaches {expected}")]
    Short { reached: u64, expected: u64 },
}

/// The end of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tail {
    /// Stream sequence of the last message; 0 for an empty log.
    pub sequence: u64,
    /// BLAKE3 of that message's bytes; zeros for an empty log.
    pub hash: Digest,
}

impl Tail {
    pub const EMPTY: Self = Self { sequence: 0, hash: Digest([0; 32]) };
}

/// A turn with its place.
#[derive(Debug)]
pub struct Read {
    pub tail: Tail,
    pub turn: Turn,
}

/// Decodes the message at `sequence` and checks that it continues `tail`.
///
/// # Errors
/// [`Error::Unreadable`] or [`Error::BrokenChain`], both naming the sequence.
pub fn follow(tail: Tail, sequence: u64, payload: &[u8]) -> Result<Read, Error> {
    let turn: Turn = codec::decode(payload, TURN_BYTES_MAX).map_err(|source| Error::Unreadable { sequence, source })?;
    if turn.previous != tail.hash {
        return Err(Error::BrokenChain { sequence, expected: turn.previous, found: tail.hash });
    }
    Ok(Read { tail: Tail { sequence, hash: Digest::of(payload) }, turn })
}

/// Reads all turns behind `tail` up to sequence `to`, in order, giving each to `each`.
///
/// # Errors
/// When the server does not deliver, or a turn does not continue the chain.
pub async fn replay(context: &Context, mut tail: Tail, to: u64, mut each: impl FnMut(&Read)) -> Result<Tail, Error> {
    if tail.sequence >= to {
        return Ok(tail);
    }
    let read = |error: &dyn std::fmt::Display| Error::Read(error.to_string());
    let config = PullConfig {
        deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: tail.sequence + 1 },
        ack_policy: AckPolicy::None,
        memory_storage: true,
        inactive_threshold: Duration::from_secs(30),
        ..PullConfig::default()
    };
    let consumer = context.create_consumer_on_stream(config, subject::LOG_STREAM).await.map_err(|error| read(&error))?;
    let mut messages = consumer.stream().max_messages_per_batch(500).messages().await.map_err(|error| read(&error))?;
    while tail.sequence < to {
        let Some(message) = messages.next().await else { return Err(Error::Short { reached: tail.sequence, expected: to }) };
        let message = message.map_err(|error| read(&error))?;
        let sequence = message.info().map_err(|error| read(&error))?.stream_sequence;
        let turn = follow(tail, sequence, &message.payload)?;
        tail = turn.tail;
        each(&turn);
    }
    Ok(tail)
}

/// The bytes of the message at `sequence`, read from the stream's leader.
///
/// # Errors
/// When the server does not answer or has no such message.
pub async fn message_at(context: &Context, sequence: u64) -> Result<Bytes, Error> {
    let read = |error: &dyn std::fmt::Display| Error::Read(format!("message {sequence}: {error}"));
    let stream = context.get_stream_no_info(subject::LOG_STREAM).await.map_err(|error| read(&error))?;
    match stream.get_raw_message(sequence).await {
        Ok(message) => Ok(message.payload),
        Err(error) => match error.kind() {
            LastRawMessageErrorKind::NoMessageFound => Err(Error::Missing { sequence }),
            LastRawMessageErrorKind::JetStream(inner) if inner.error_code() == ErrorCode::NO_MESSAGE_FOUND => {
                Err(Error::Missing { sequence })
            }
            _ => Err(read(&error)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use causey_protocol::id::Timestamp;
    use causey_protocol::record::Position;

    fn turn(previous: Digest) -> Vec<u8> {
        let turn = Turn { epoch: 1, at: Timestamp(1), inbox: 0, events: 0, announced: Position::default(), previous, records: Vec::new() };
        codec::encode(&turn)
    }

    #[test]
    fn a_turn_must_follow_the_message_before_it() {
        let first = turn(Tail::EMPTY.hash);
        let tail = follow(Tail::EMPTY, 1, &first).unwrap().tail;
        assert!(follow(tail, 2, &turn(tail.hash)).is_ok());
        let error = follow(tail, 2, &turn(Digest::of(b"another"))).unwrap_err();
        assert!(matches!(error, Error::BrokenChain { sequence: 2, .. }));
    }

    #[test]
    fn bytes_that_are_no_turn_stop_the_reader() {
        assert!(matches!(follow(Tail::EMPTY, 7, b"\x01rubbish"), Err(Error::Unreadable { sequence: 7, .. })));
        assert!(matches!(
            follow(Tail::EMPTY, 7, b"\x09"),
            Err(Error::Unreadable { sequence: 7, source: DecodeError::Version { found: 9 } })
        ));
    }
}
