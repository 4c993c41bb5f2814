//! Snapshots: the whole state after one turn as one object of the artifact store, in the encoding of the projection, sealed by its
//! BLAKE3. Two are kept. A start without a projection goes on from the newest good one, and only what lies before the older one may
//! be trimmed from the streams.

use bytes::Bytes;
use causey_artifacts::{Store, StoreError};
use causey_engine::State;
use causey_protocol::id::Digest;
use causey_protocol::upkeep::{SnapshotTaken, snapshot_path};
use serde::{Deserialize, Serialize};

use crate::log::Tail;
use crate::outside::Aside;
use crate::sealed::{Reader, Unsealed, Writer};

/// Begins every snapshot; its last byte is the format.
const MAGIC: &[u8; 16] = b"causey snapshot\x01";

#[derive(Serialize, Deserialize)]
struct Head {
    sequence: u64,
    turn: Digest,
    state: Digest,
}

/// Why an object is not a usable snapshot.
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    #[error("it is not there")]
    Missing,
    #[error("it cannot be read: {0}")]
    Store(#[from] StoreError),
    #[error("{0}")]
    Sealed(#[from] Unsealed),
    #[error("an entry cannot be decoded: {0}")]
    Decode(#[from] rmp_serde::decode::Error),
    #[error("it is said to hold turn {expected}, but holds turn {found}")]
    Sequence { expected: u64, found: u64 },
    #[error("the log does not go on from it: it belongs to another log")]
    Foreign,
    #[error("its entries do not make the state it was taken of")]
    State,
}

/// A state and the turn it is the state after.
#[derive(Debug)]
pub struct Snapshot {
    pub state: State,
    pub tail: Tail,
}

/// Encodes the state after the turn whose message has this hash; gives what a record says about it. Slow for a large state.
///
/// # Panics
/// Never: the head has a MessagePack form.
#[must_use]
pub fn encode(state: &State, turn: Digest) -> (Bytes, SnapshotTaken) {
    let hash = state.hash();
    let mut writer = Writer::new(MAGIC);
    let head = Head { sequence: state.sequence, turn, state: hash };
    writer.piece(&rmp_serde::to_vec_named(&head).expect("the head serializes"));
    writer.piece(&state.header());
    state.each_entry(|table, key, value| {
        writer.piece(&[table as u8]);
        writer.piece(&key);
        writer.piece(&value);
    });
    let (bytes, digest) = writer.seal();
    let taken = SnapshotTaken {
        sequence: state.sequence,
        turn,
        state: hash,
        digest,
        bytes: bytes.len() as u64,
        records: state.records,
        inbox: state.inbox,
        events: state.events,
    };
    (bytes, taken)
}

/// Reads what [`encode`] gave, and checks that it makes the state it was taken of.
///
/// # Errors
/// [`Damage`] for any other bytes.
pub fn decode(bytes: &[u8]) -> Result<Snapshot, Damage> {
    let mut reader = Reader::open(MAGIC, bytes)?;
    let head: Head = rmp_serde::from_slice(reader.need()?)?;
    let header = reader.need()?;
    let mut entries = Vec::new();
    while let Some(table) = reader.piece()? {
        let (key, value) = (reader.need()?, reader.need()?);
        entries.push((table.first().copied().unwrap_or_default(), key.to_vec(), value.to_vec()));
    }
    let state = State::restore(header, entries)?;
    if state.hash() != head.state || state.sequence != head.sequence {
        return Err(Damage::State);
    }
    Ok(Snapshot { state, tail: Tail { sequence: head.sequence, hash: head.turn } })
}

/// The sequences of the snapshots in the store, the newest first.
///
/// # Errors
/// When the store does not answer.
pub async fn sequences(store: &Store) -> Result<Vec<u64>, StoreError> {
    let mut found: Vec<u64> = store.list("snap").await?.iter().filter_map(|name| name.parse().ok()).collect();
    found.sort_unstable_by(|a, b| b.cmp(a));
    Ok(found)
}

/// Reads and checks the snapshot after turn `sequence`.
///
/// # Errors
/// [`Damage`] says why it cannot be used.
pub async fn load(thread: &impl Aside, store: &Store, sequence: u64) -> Result<Snapshot, Damage> {
    let bytes = store.get(&snapshot_path(sequence)).await?.ok_or(Damage::Missing)?;
    let snapshot = thread.aside(move || decode(&bytes)).await?;
    if snapshot.tail.sequence != sequence {
        return Err(Damage::Sequence { expected: sequence, found: snapshot.tail.sequence });
    }
    Ok(snapshot)
}

#[cfg(test)]
mod tests {
    use super::*;
    use causey_protocol::id::Timestamp;
    use causey_protocol::record::{Answer, Position, Record, Turn};

    fn filled() -> State {
        let mut state = State::default();
        let records = vec![
            Record::LogOpened { store: uuid::Uuid::from_u128(7) },
            Record::RequestAnswered { id: "r1".parse().unwrap(), answer: Answer::Done },
        ];
        let turn =
            Turn { epoch: 1, at: Timestamp(5), inbox: 3, events: 2, announced: Position::default(), previous: Tail::EMPTY.hash, records };
        state.apply_turn(1, &turn);
        state
    }

    #[test]
    fn a_snapshot_gives_back_the_state_it_was_taken_of() {
        let state = filled();
        let turn = Digest::of(b"turn");
        let (bytes, taken) = encode(&state, turn);
        let snapshot = decode(&bytes).unwrap();
        assert_eq!(snapshot.state.hash(), state.hash());
        assert_eq!(snapshot.tail, Tail { sequence: 1, hash: turn });
        assert_eq!((taken.state, taken.digest, taken.bytes), (state.hash(), Digest::of(&bytes), bytes.len() as u64));
        assert_eq!((taken.records, taken.inbox, taken.events), (2, 3, 2));
    }

    #[test]
    fn no_flipped_bit_and_no_cut_passes() {
        let (bytes, _) = encode(&filled(), Digest::of(b"turn"));
        for place in 0..bytes.len() {
            let mut damaged = bytes.to_vec();
            damaged[place] ^= 1;
            assert!(decode(&damaged).is_err(), "byte {place}");
            assert!(decode(&bytes[..place]).is_err(), "cut at {place}");
        }
    }

    struct Here;

    impl Aside for Here {
        async fn aside<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
            work()
        }
    }

    #[tokio::test]
    async fn snapshots_are_found_newest_first() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().to_str().unwrap(), false).await.unwrap();
        assert_eq!(sequences(&store).await.unwrap(), Vec::<u64>::new());
        for sequence in [9, 100, 20] {
            store.put_if_absent(&snapshot_path(sequence), Bytes::from_static(b"x")).await.unwrap();
        }
        assert_eq!(sequences(&store).await.unwrap(), [100, 20, 9]);
        assert!(matches!(load(&Here, &store, 9).await, Err(Damage::Sealed(_))));
        assert!(matches!(load(&Here, &store, 8).await, Err(Damage::Missing)));
    }
}
