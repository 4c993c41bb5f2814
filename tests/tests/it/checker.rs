//! The history checker itself: it passes a real history and finds each kind of damage done to it.

use causey_protocol::codec;
use causey_protocol::id::Digest;
use causey_protocol::record::Record;
use causey_tests::{History, Project, Stack};

use crate::flows::{ARRIVAL, EVERYTHING};

/// The history with one change, its chain mended so that only the change itself is wrong.
fn changed(history: &History, change: impl FnOnce(&mut History)) -> Vec<String> {
    let mut history = history.clone();
    change(&mut history);
    let mut previous = Digest([0; 32]);
    for (place, entry) in history.entries.iter_mut().enumerate() {
        entry.sequence = place as u64 + 1;
        entry.turn.previous = previous;
        entry.payload = codec::encode(&entry.turn).into();
        previous = Digest::of(&entry.payload);
    }
    history.violations()
}

/// The last record that fits, with its turn.
fn find(history: &mut History, fits: impl Fn(&Record) -> bool) -> (usize, usize) {
    let places = history.entries.iter().enumerate().flat_map(|(turn, entry)| (0..entry.turn.records.len()).map(move |index| (turn, index)));
    let found: Vec<(usize, usize)> = places.collect();
    found.into_iter().rev().find(|(turn, index)| fits(&history.entries[*turn].turn.records[*index])).expect("there is such a record")
}

/// Says the last record that fits a second time.
fn twice(history: &mut History, fits: impl Fn(&Record) -> bool) {
    let (turn, index) = find(history, fits);
    let record = history.entries[turn].turn.records[index].clone();
    history.entries[turn].turn.records.push(record);
}

/// Removes the first record that fits.
fn without(history: &mut History, fits: impl Fn(&Record) -> bool) {
    let entry = history.entries.iter_mut().find(|entry| entry.turn.records.iter().any(&fits)).expect("there is such a record");
    let index = entry.turn.records.iter().position(fits).expect("there is such a record");
    entry.turn.records.remove(index);
}

#[tokio::test]
async fn the_checker_finds_every_kind_of_damage() {
    let project = Project::new();
    let stack = Stack::start(&project).await;
    project.ok(&["run", &project.flow("everything.py", EVERYTHING)]).await;
    project.ok(&["run", &project.flow("arrival.py", ARRIVAL)]).await;
    let history = History::read(&stack.nats().await).await;
    assert_eq!(history.violations(), Vec::<String>::new());
    assert_eq!(changed(&history, |_| {}), Vec::<String>::new());

    let mut torn = history.clone();
    torn.entries.remove(2);
    let found = torn.violations();
    assert!(found.iter().any(|text| text.starts_with("I11")), "{found:?}");

    type Change = fn(&mut History);
    let damages: [(&str, Change); 8] = [
        ("I2", |history| twice(history, |record| matches!(record, Record::RunStarted(_)))),
        ("I3", |history| twice(history, |record| matches!(record, Record::AttemptSucceeded { .. }))),
        ("I3", |history| twice(history, |record| matches!(record, Record::AttemptsOpened { .. }))),
        ("I4", |history| without(history, |record| matches!(record, Record::AttemptSucceeded { .. }))),
        ("I6", |history| twice(history, |record| matches!(record, Record::Notified { .. }))),
        ("I6", |history| drop(history.notices.pop())),
        ("I7", |history| history.entries.last_mut().unwrap().turn.epoch += 1),
        ("I1", |history| history.entries.last_mut().unwrap().turn.inbox = 0),
    ];
    for (invariant, damage) in damages {
        let found = changed(&history, damage);
        assert!(found.iter().any(|text| text.starts_with(invariant)), "{invariant} was broken, but the checker says {found:?}");
    }

    let object =
        stack.store().join("runs").read_dir().unwrap().next().unwrap().unwrap().path().read_dir().unwrap().next().unwrap().unwrap().path();
    std::fs::remove_file(&object).unwrap();
    let found = history.store_violations(&stack.store()).unwrap();
    assert!(found.len() == 1 && found[0].starts_with("I8"), "{found:?}");
}
