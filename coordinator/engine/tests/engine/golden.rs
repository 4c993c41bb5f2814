//! Golden logs: a log that some version wrote is folded by every later one to the same state, and so are snapshots and projections
//! of it. A file is added, never edited: `cargo nextest run -p causey-engine --run-ignored only golden` writes what is missing.
//!
//! `golden/NAME.log` holds the messages of the log, each behind its length as four bytes, low byte first; `golden/NAME.hash` the hash of
//! the state that they fold to. What a later version adds to the state must not be written while it is empty, or no hash of an older log
//! (those in its snapshots neither) is met any more.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::everything::everything;
use causey_engine::{State, TableId, violations};
use causey_protocol::codec::{TURN_BYTES_MAX, decode, encode};
use causey_protocol::id::Digest;
use causey_protocol::record::{Record, Turn};

/// The logs in the order they were written, each with the kinds of record that it was the first to have.
macro_rules! logs {
    ($($log:literal: $($kind:ident)+;)+) => {
        const LOGS: &[(&str, &[&str])] = &[$(($log, &[$(stringify!($kind)),+])),+];

        /// A new kind is named in a new line above, and made to happen in `everything`.
        fn kind(record: &Record) -> &'static str {
            match record {
                $($(Record::$kind { .. } => stringify!($kind),)+)+
            }
        }
    };
}

logs! {
    "0.1.0":
        LogOpened LeaderChanged RequestAnswered FlowRegistered FlowDeployed EventTaken EventHeld RunStarted AttemptsOpened AttemptStarted
        AttemptSucceeded AttemptsSucceeded AttemptFailed RetryScheduled SwitchTaken ForeachOpened ChunkGathered ChunkStored InputsGathered
        InputsStored ModelPublished Notified RunFinished Ignored StreamsSeen SnapshotTaken HistoryStored RunRetired StorageChanged
        AttemptsHeld LossAccepted StartSkipped RunAdmitted ScheduleFired SchedulesPaused SchedulesResumed
        BackfillStarted BackfillAdvanced BackfillCancelled
        GangOpened GangCalled MemberJoined GangFormed MemberSucceeded GangDissolved
        TasksGated SignalReceived ApprovalRequested ApprovalDecided ChildEnded StatusSet AttemptUsed DeadLettered DeadLetterClosed
        ResultsSought ResultsReused ChunkReused ResultsRemembered ResultsForgotten
        PoolResized PoolOffered GangMoved WorkersOrdered SharesChanged WorkAccepted EventSpread WorkDone;
}

/// The largest golden log, in bytes: they are kept for ever.
const LOG_BYTES_MAX: usize = 512 * 1024;

/// The messages of a log and the hash of the state that they fold to.
struct Golden {
    turns: Vec<Turn>,
    state: Digest,
}

fn path(name: &str, ending: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.{ending}"))
}

#[expect(clippy::disallowed_methods, reason = "a golden log lies in a file")]
fn golden(name: &str) -> Golden {
    let read = |ending| std::fs::read(path(name, ending)).unwrap_or_else(|error| panic!("{}: {error}", path(name, ending).display()));
    let (log, hash) = (read("log"), String::from_utf8(read("hash")).unwrap());
    assert!(log.len() <= LOG_BYTES_MAX, "{name} has {} bytes", log.len());
    Golden { turns: unpack(&log), state: hash.trim().parse().unwrap() }
}

fn pack(turns: &[Turn]) -> Vec<u8> {
    let packed =
        turns.iter().map(encode).map(|message| [&u32::try_from(message.len()).unwrap().to_le_bytes(), message.as_slice()].concat());
    packed.collect::<Vec<_>>().concat()
}

/// The turns, each of which must name the message before it.
fn unpack(mut log: &[u8]) -> Vec<Turn> {
    let (mut turns, mut previous) = (Vec::new(), Digest([0; 32]));
    while let Some((length, rest)) = log.split_first_chunk::<4>() {
        let (message, rest) = rest.split_at(u32::from_le_bytes(*length) as usize);
        let turn: Turn =
            decode(message, TURN_BYTES_MAX).unwrap_or_else(|error| panic!("turn {} does not read: {error:?}", turns.len() + 1));
        assert_eq!(turn.previous, previous, "turn {} does not follow the one before it", turns.len() + 1);
        (previous, log) = (Digest::of(message), rest);
        turns.push(turn);
    }
    assert!(log.is_empty(), "the log ends within a length");
    turns
}

fn each_log(check: impl Fn(&Golden)) {
    for (name, _) in LOGS {
        println!("golden log {name}");
        check(&golden(name));
    }
}

fn kinds(turns: &[Turn]) -> BTreeSet<&'static str> {
    turns.iter().flat_map(|turn| &turn.records).map(kind).collect()
}

type Copy = BTreeMap<(u8, Vec<u8>), Vec<u8>>;

fn restored(header: &[u8], copy: &Copy) -> State {
    let entries = copy.iter().map(|((table, key), value)| (*table, key.clone(), value.clone()));
    State::restore(header, entries).unwrap()
}

/// What a snapshot of the state holds.
fn entries(state: &State) -> Copy {
    let mut copy = Copy::new();
    state.each_entry(|table, key, value| drop(copy.insert((table as u8, key), value)));
    copy
}

/// Row 37: every log has every kind of record that there was when it was written.
#[test]
fn a_golden_log_has_every_kind_of_record_of_its_time() {
    let mut known = BTreeSet::new();
    for (name, added) in LOGS {
        known.extend(added.iter().copied());
        assert_eq!(kinds(&golden(name).turns), known, "{name}");
    }
    assert_eq!(kinds(&everything().turns), known, "the next golden log lacks a kind");
}

/// Row 37, I9: whoever folds the log has the state that its writer had, at its end and wherever a snapshot tells the hash.
#[test]
fn a_golden_log_folds_to_the_state_its_writer_had() {
    each_log(|golden| {
        let (mut state, mut hashes) = (State::default(), Vec::new());
        for (sequence, turn) in (1..).zip(&golden.turns) {
            state.apply_turn(sequence, turn);
            hashes.push(state.hash());
            assert_eq!(violations(&state), Vec::<String>::new(), "after turn {sequence}");
            for record in &turn.records {
                if let Record::SnapshotTaken(snapshot) = record {
                    let found = hashes[usize::try_from(snapshot.sequence).unwrap() - 1];
                    assert_eq!(found, snapshot.state, "the state after turn {} is not what its writer had", snapshot.sequence);
                }
            }
        }
        assert_eq!(state.hash(), golden.state, "the last state is not what its writer had");
    });
}

/// I9: the leader folds each record as it decides it, everybody else whole turns.
#[test]
fn a_golden_log_folded_as_the_leader_does_gives_the_same_state() {
    each_log(|golden| {
        let mut state = State::default();
        for turn in &golden.turns {
            state.open_turn(turn.at);
            state.epoch = turn.epoch;
            turn.records.iter().for_each(|record| state.apply(record));
            state.cover(turn.inbox, turn.events, turn.announced);
        }
        assert_eq!(state.hash(), golden.state);
    });
}

/// I9: a coordinator may start from a snapshot of any turn.
#[test]
fn a_golden_log_goes_on_from_a_snapshot_of_any_turn() {
    each_log(|golden| {
        let mut state = State::default();
        for (sequence, turn) in (1..).zip(&golden.turns) {
            state.apply_turn(sequence, turn);
            state = restored(&state.header(), &entries(&state));
        }
        assert_eq!(state.hash(), golden.state);
    });
}

/// I9: a projection follows some turns at a time, and a coordinator may start from what it holds.
#[test]
fn a_golden_log_goes_on_from_a_projection_that_lags() {
    for lag in [7, 50] {
        each_log(|golden| {
            let (mut state, mut copy) = (State::default(), Copy::new());
            for (sequence, turn) in (1..).zip(&golden.turns) {
                state.apply_turn(sequence, turn);
                if sequence % lag != 0 {
                    continue;
                }
                for change in state.take_changes() {
                    let key = (change.table as u8, change.key);
                    match change.value {
                        Some(value) => drop(copy.insert(key, value)),
                        None => drop(copy.remove(&key)),
                    }
                }
                assert_eq!(copy, entries(&state), "after turn {sequence}");
                state = restored(&state.header(), &copy);
            }
            assert_eq!(state.hash(), golden.state);
        });
    }
}

#[test]
#[ignore = "writes the golden log that is missing"]
#[expect(clippy::disallowed_methods, reason = "a golden log lies in a file")]
fn the_golden_log_that_is_missing_is_written() {
    for (name, _) in LOGS.iter().filter(|(name, _)| !path(name, "log").exists()) {
        let world = everything();
        std::fs::write(path(name, "log"), pack(&world.turns)).unwrap();
        std::fs::write(path(name, "hash"), format!("{}\n", world.committed.hash())).unwrap();
    }
}

/// The last state has something in every table, or its hash would say less than it could.
#[test]
fn the_next_golden_log_leaves_something_in_every_table() {
    let filled: BTreeSet<u8> = entries(&everything().committed).into_keys().map(|(table, _)| table).collect();
    let tables = [
        TableId::Requests,
        TableId::Definitions,
        TableId::Deployments,
        TableId::Origins,
        TableId::EventsTaken,
        TableId::Held,
        TableId::Runs,
        TableId::Models,
        TableId::Notifications,
        TableId::Tasks,
        TableId::Histories,
        TableId::Retired,
        TableId::HeldBack,
        TableId::Snapshots,
        TableId::Schedules,
        TableId::Skipped,
        TableId::Backfills,
        TableId::DeadLetters,
        TableId::Work,
        TableId::Memo,
    ];
    assert_eq!(filled, tables.map(|table| table as u8).into());
}
