//! Dead letters: recorded and told about once, bounded, closed on request.

use crate::world::{World, pool};
use causey_engine::State;
use causey_protocol::id::{Path, RunId};
use causey_protocol::input::{Input, Request};
use causey_protocol::letter::{Dead, LetterEnd, ORIGINAL_BYTES_MAX, Original};
use causey_protocol::record::{Answer, Position, Record, RunState, Topic};

fn unreadable(sequence: u64, payload: &[u8]) -> Input {
    let original = Original::new(&[("ce-id".to_owned(), "1".to_owned())].into(), payload);
    Input::Malformed { subject: "causey.event.shop".into(), sequence, because: "no JSON".into(), original }
}

fn told(records: &[Record]) -> usize {
    records.iter().filter(|record| matches!(record, Record::Notified { topic: Topic::DeadLetter, .. })).count()
}

fn letters(state: &State) -> Vec<(Position, Dead)> {
    state.dead_letters.iter().map(|(id, letter)| (*id, letter.letter.what.clone())).collect()
}

/// Row 27 of the fault model.
#[test]
fn a_poison_task_becomes_a_dead_letter_and_is_told_about_once() {
    let mut world = World::new();
    let run = world.run(&["start each work", "work > gather", "gather* > end", "end"]);
    world.succeed("start/0", Some(3));
    let mut records = Vec::new();
    for _ in 0..4 {
        world.started("work/1", "w1");
        let lost = Request::WorkerLost { pool: pool("default"), worker: "w1".parse().unwrap() };
        assert_eq!(world.request(lost), Answer::Done);
        records.extend(world.turns.last().unwrap().records.clone());
    }
    assert_eq!((world.run_state(run), told(&records)), (RunState::Failed, 1));
    let [(id, Dead::Task { run: of, path, attempt, worker, .. })] = &letters(&world.state)[..] else { panic!() };
    assert_eq!((*of, path, *attempt, worker.as_ref().unwrap().as_str()), (run, &Path(vec![1]), 3, "w1"));
    let Some(Record::Notified { name, data, .. }) = records.iter().find(|record| told(std::slice::from_ref(record)) == 1) else { panic!() };
    assert_eq!((name.as_str(), data["letter"].as_str(), data["task"].as_str()), ("Demo", Some(id.to_string().as_str()), Some("1")));
    assert_eq!(world.replayed().hash(), world.state.hash());
}

#[test]
fn an_unreadable_message_is_kept_with_its_original_if_that_is_small() {
    let mut world = World::new();
    let records = world.input(unreadable(7, b"{"));
    let Some(Record::Notified { run, name, .. }) = records.last() else { panic!("{records:?}") };
    assert_eq!((*run, name.as_str()), (RunId(Default::default()), "shop"));
    world.input(unreadable(8, &vec![b'x'; ORIGINAL_BYTES_MAX + 1]));
    let originals: Vec<(u64, bool)> = letters(&world.state)
        .into_iter()
        .map(|(_, what)| if let Dead::Message { original, .. } = what { (original.bytes, original.payload.is_some()) } else { panic!() })
        .collect();
    assert_eq!(originals, [(1, true), (ORIGINAL_BYTES_MAX as u64 + 1, false)]);
}

#[test]
fn a_letter_is_closed_once() {
    let mut world = World::new();
    world.input(unreadable(7, b"{"));
    let letter = letters(&world.state)[0].0;
    let close = |end| Request::CloseLetter { letter, end };
    assert_eq!(world.request(close(LetterEnd::Redriven)), Answer::Done);
    assert!(letters(&world.state).is_empty());
    assert!(matches!(world.request(close(LetterEnd::Discarded)), Answer::Refused(_)));
}

#[test]
fn a_flood_of_garbage_neither_grows_without_bound_nor_pushes_out_poison_tasks() {
    let mut world = World::new();
    world.run(&["start > end", "end"]);
    for _ in 0..4 {
        world.started("start/0", "w1");
        world.request(Request::WorkerLost { pool: pool("default"), worker: "w1".parse().unwrap() });
    }
    let task = letters(&world.state)[0].0;
    let records: Vec<Record> = (0..700).flat_map(|sequence| world.input(unreadable(sequence, b"{"))).collect();
    assert_eq!((letters(&world.state).len(), told(&records)), (501, 100));
    assert!(world.state.dead_letters.contains(&task));
    world.now += 31 * 24 * 3_600 * 1_000_000;
    world.input(unreadable(9_000, b"{"));
    assert_eq!(letters(&world.state).len(), 1, "the others are too old");
    assert_eq!(world.replayed().hash(), world.state.hash());
}
