//! The archive: turns that are about to be trimmed from the log, in segments of the artifact store. Each holds the raw messages, so
//! the hash chain can be followed through it. Two coordinators may write overlapping segments; readers take each turn once.

use bytes::Bytes;
use causey_artifacts::{Store, StoreError, failpoint};
use causey_protocol::upkeep::archive_path;

use crate::log::{self, Tail};
use crate::outside::Streams;
use crate::sealed::{Reader, Unsealed, Writer};

/// Begins every segment; its last byte is the format.
const MAGIC: &[u8; 16] = b"causey archive \x01";

/// A segment takes no further turn once it has this many bytes.
const SEGMENT_BYTES: usize = 8 * 1024 * 1024;

/// Why the archive cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("failed to reach the archive: {0}")]
    Store(#[from] StoreError),
    #[error("failed to read the log for the archive: {0}")]
    Log(#[from] log::Error),
    #[error("archive segment {path} cannot be used: {source}")]
    Segment {
        path: String,
        #[source]
        source: Unsealed,
    },
    #[error("the archive lacks turn {expected}: the next one it holds is {found}")]
    Gap { expected: u64, found: u64 },
    #[error("the archive ends at turn {reached}, but turn {expected} is needed")]
    Short { reached: u64, expected: u64 },
}

/// The segments in the store as (first, last), in order.
///
/// # Errors
/// When the store does not answer.
pub async fn segments(store: &Store) -> Result<Vec<(u64, u64)>, StoreError> {
    let parse = |name: &String| {
        let (first, last) = name.split_once('-')?;
        Some((first.parse().ok()?, last.parse().ok()?))
    };
    let mut found: Vec<(u64, u64)> = store.list("arch").await?.iter().filter_map(parse).collect();
    found.sort_unstable();
    Ok(found)
}

/// How far the archive reaches without a gap.
fn reach(segments: &[(u64, u64)]) -> u64 {
    segments.iter().fold(0, |reached, (first, last)| if *first <= reached + 1 { reached.max(*last) } else { reached })
}

/// Copies the turns up to `to` that are not archived yet.
///
/// # Errors
/// [`Error`]; what was written until then stays and is good.
pub(crate) async fn extend(streams: &impl Streams, store: &Store, to: u64) -> Result<(), Error> {
    let mut next = reach(&segments(store).await?) + 1;
    while next <= to {
        let (first, mut last) = (next, next - 1);
        let mut writer = Writer::new(MAGIC);
        log::messages(streams, first, to, |sequence, payload| {
            if sequence != last + 1 {
                return Err(log::Error::Gap { expected: last + 1, found: sequence });
            }
            writer.piece(payload);
            last = sequence;
            Ok(writer.len() < SEGMENT_BYTES)
        })
        .await?;
        if last < first {
            return Err(log::Error::Short { reached: last, expected: to }.into());
        }
        let (bytes, _) = writer.seal();
        store.put_if_absent(&archive_path(first, last), bytes).await?;
        failpoint::here("archive.extended");
        next = last + 1;
    }
    Ok(())
}

/// Reads the archived turns behind `tail` up to `to`, checking the chain, and gives each to `each`.
///
/// # Errors
/// [`Error`] naming the segment or the turn.
pub async fn replay(store: &Store, mut tail: Tail, to: u64, mut each: impl FnMut(&log::Read)) -> Result<Tail, Error> {
    for (first, last) in segments(store).await? {
        if last <= tail.sequence || tail.sequence >= to {
            continue;
        }
        if first > tail.sequence + 1 {
            return Err(Error::Gap { expected: tail.sequence + 1, found: first });
        }
        let path = archive_path(first, last);
        let Some(bytes) = store.get(&path).await? else { continue };
        let turns = read(&bytes).map_err(|source| Error::Segment { path, source })?;
        for (sequence, payload) in (first..).zip(turns) {
            if sequence <= tail.sequence || sequence > to {
                continue;
            }
            let read = log::follow(tail, sequence, &payload)?;
            tail = read.tail;
            each(&read);
        }
    }
    if tail.sequence < to { Err(Error::Short { reached: tail.sequence, expected: to }) } else { Ok(tail) }
}

/// The messages of a segment.
///
/// # Errors
/// [`Unsealed`] for bytes that are no segment.
pub fn read(bytes: &Bytes) -> Result<Vec<Bytes>, Unsealed> {
    let mut reader = Reader::open(MAGIC, bytes)?;
    let mut turns = Vec::new();
    while let Some(piece) = reader.piece()? {
        turns.push(bytes.slice_ref(piece));
    }
    Ok(turns)
}

#[cfg(test)]
mod tests {
    use super::*;
    use causey_protocol::codec;
    use causey_protocol::id::{Digest, Timestamp};
    use causey_protocol::record::{Position, Turn};

    fn chain(length: u64) -> Vec<Bytes> {
        let mut previous = Tail::EMPTY.hash;
        let turns = (1..=length).map(|epoch| {
            let turn = Turn { epoch, at: Timestamp(1), inbox: 0, events: 0, announced: Position::default(), previous, records: Vec::new() };
            let bytes = Bytes::from(codec::encode(&turn));
            previous = Digest::of(&bytes);
            bytes
        });
        turns.collect()
    }

    async fn put(store: &Store, turns: &[Bytes], first: u64, last: u64) {
        let mut writer = Writer::new(MAGIC);
        for sequence in first..=last {
            writer.piece(&turns[usize::try_from(sequence - 1).unwrap()]);
        }
        store.put_if_absent(&archive_path(first, last), writer.seal().0).await.unwrap();
    }

    async fn epochs(store: &Store, to: u64) -> Result<Vec<u64>, Error> {
        let mut found = Vec::new();
        replay(store, Tail::EMPTY, to, |read| found.push(read.turn.epoch)).await.map(|_| found)
    }

    #[tokio::test]
    async fn overlapping_segments_give_each_turn_once_and_a_gap_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().to_str().unwrap(), false).await.unwrap();
        let turns = chain(9);
        put(&store, &turns, 1, 3).await;
        put(&store, &turns, 2, 6).await;
        assert_eq!(epochs(&store, 5).await.unwrap(), [1, 2, 3, 4, 5]);
        assert_eq!(reach(&segments(&store).await.unwrap()), 6);
        assert!(matches!(epochs(&store, 7).await, Err(Error::Short { reached: 6, expected: 7 })));
        put(&store, &turns, 8, 9).await;
        assert!(matches!(epochs(&store, 9).await, Err(Error::Gap { expected: 7, found: 8 })));
        assert_eq!(reach(&segments(&store).await.unwrap()), 6);
    }

    /// Row 14 of the fault model.
    #[tokio::test]
    async fn a_turn_that_does_not_continue_the_chain_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().to_str().unwrap(), false).await.unwrap();
        let mut turns = chain(4);
        turns[2] = turns[1].clone();
        put(&store, &turns, 1, 4).await;
        assert!(matches!(epochs(&store, 4).await, Err(Error::Log(log::Error::BrokenChain { sequence: 3, .. }))));
    }
}
