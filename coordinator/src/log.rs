//! The log as this coordinator knows it: tail sequence and hash, the next message to append, and reading what others appended. One
//! turn is one message; the compare-and-set on the tail is the fence.

use std::time::Duration;

use bytes::Bytes;
use causey_protocol::codec::{self, DecodeError, TURN_BYTES_MAX};
use causey_protocol::id::Digest;
use causey_protocol::record::Turn;
use causey_protocol::subject;

use crate::outside::{Expect, Message, Reader as _, Streams, Unanswered};

/// Longest wait for the next of several messages that the server says it has.
pub(crate) const NEXT_TIMEOUT: Duration = Duration::from_secs(2);

/// Why the log cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("failed to read the log: {0}")]
    Read(String),
    #[error(
        "turn {sequence} of stream {stream} cannot be read by Causey {this}\nhint: it was written by a newer version of Causey, or the JetStream folder is damaged; start the version that was used last, or see: causey state verify",
        stream = subject::LOG_STREAM,
        this = env!("CARGO_PKG_VERSION")
    )]
    Unreadable {
        sequence: u64,
        #[source]
        source: DecodeError,
    },
    #[error(
        "stream {stream} is broken at sequence {sequence}: its turn follows {expected}, but the message before it is {found}\nhint: messages were lost or changed; see: causey state verify; restore the JetStream folder of the NATS server from a backup",
        stream = subject::LOG_STREAM
    )]
    BrokenChain { sequence: u64, expected: Digest, found: Digest },
    #[error(
        "stream {stream} is not what it was: message {sequence} has hash {found}, but {expected} was read there before\nhint: the log was changed or cut and written on; see: causey state verify; restore the JetStream folder of the NATS server from a backup",
        stream = subject::LOG_STREAM
    )]
    Changed { sequence: u64, expected: Digest, found: Digest },
    #[error(
        "stream {stream} lacks sequence {expected}: the next message it has is {found}\nhint: messages were lost; see: causey state verify; restore the JetStream folder of the NATS server from a backup",
        stream = subject::LOG_STREAM
    )]
    Gap { expected: u64, found: u64 },
    #[error("failed to append to the log: {0}")]
    Append(String),
    #[error("another process wrote turn {sequence} of the log")]
    Taken { sequence: u64 },
    #[error(
        "stream {stream} no longer holds message {sequence}, which has been read\nhint: it was lost; see: causey state verify; restore the JetStream folder of the NATS server from a backup",
        stream = subject::LOG_STREAM
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
    if sequence != tail.sequence + 1 {
        return Err(Error::Gap { expected: tail.sequence + 1, found: sequence });
    }
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
pub async fn replay(streams: &impl Streams, mut tail: Tail, to: u64, mut each: impl FnMut(&Read)) -> Result<Tail, Error> {
    messages(streams, tail.sequence + 1, to, |sequence, payload| {
        let read = follow(tail, sequence, payload)?;
        tail = read.tail;
        each(&read);
        Ok(true)
    })
    .await?;
    Ok(tail)
}

/// Gives the messages `from`..=`to` to `each`, as they are, until it says `false`.
///
/// # Errors
/// When the server does not deliver, or `each` fails.
pub async fn messages(
    streams: &impl Streams,
    from: u64,
    to: u64,
    mut each: impl FnMut(u64, &Bytes) -> Result<bool, Error>,
) -> Result<(), Error> {
    if from > to {
        return Ok(());
    }
    let read = |Unanswered(why): Unanswered| Error::Read(why);
    let mut messages = streams.read(subject::LOG_STREAM, from - 1).await.map_err(read)?;
    let mut reached = from - 1;
    while reached < to {
        let Ok(next) = tokio::time::timeout(NEXT_TIMEOUT, messages.next()).await else {
            // A message that the server counts and cannot read is never delivered; asked for by its sequence it is missing.
            message_at(streams, reached + 1).await?;
            continue;
        };
        let message = next.map_err(read)?;
        reached = message.sequence;
        if !each(reached, &message.payload)? {
            break;
        }
    }
    Ok(())
}

/// The bytes of the message at `sequence`, read from the stream's leader.
///
/// # Errors
/// When the server does not answer or has no such message.
pub async fn message_at(streams: &impl Streams, sequence: u64) -> Result<Bytes, Error> {
    let found = streams.message(subject::LOG_STREAM, sequence).await;
    let found = found.map_err(|why| Error::Read(format!("message {sequence}: {why}")))?;
    found.map(|message| message.payload).ok_or(Error::Missing { sequence })
}

/// Appends a turn behind `tail` and gives the new end.
///
/// # Errors
/// [`Error::Taken`] when another message stands there.
pub async fn append(streams: &impl Streams, subject: &'static str, tail: Tail, turn: &Turn) -> Result<Tail, Error> {
    let payload = Bytes::from(codec::encode(turn));
    let sequence = tail.sequence + 1;
    let (expect, headers) = (Expect::End(tail.sequence), Vec::new());
    let message = Message { subject: subject.into(), expect, headers, payload: payload.clone() };
    if let Err(why) = streams.append(message).await {
        // Unknown or refused: what stands at this sequence decides.
        let found = message_at(streams, sequence).await.map_err(|_| Error::Append(why.to_string()))?;
        if found != payload {
            return Err(Error::Taken { sequence });
        }
    }
    Ok(Tail { sequence, hash: Digest::of(&payload) })
}

/// Checks that the message at the end of what was read is the one that was read.
///
/// # Errors
/// [`Error::Changed`] when it is another one.
pub async fn check(streams: &impl Streams, tail: Tail) -> Result<(), Error> {
    let found = Digest::of(&message_at(streams, tail.sequence).await?);
    if found == tail.hash { Ok(()) } else { Err(Error::Changed { sequence: tail.sequence, expected: tail.hash, found }) }
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
        assert!(matches!(follow(tail, 3, &turn(tail.hash)), Err(Error::Gap { expected: 2, found: 3 })));
        let error = follow(tail, 2, &turn(Digest::of(b"another"))).unwrap_err();
        assert!(matches!(error, Error::BrokenChain { sequence: 2, .. }));
    }

    /// Row 37 of the fault model.
    #[test]
    fn bytes_that_are_no_turn_stop_the_reader() {
        assert!(matches!(follow(Tail::EMPTY, 1, b"\x01rubbish"), Err(Error::Unreadable { sequence: 1, .. })));
        assert!(matches!(
            follow(Tail::EMPTY, 1, b"\x09"),
            Err(Error::Unreadable { sequence: 1, source: DecodeError::Version { found: 9 } })
        ));
    }
}
