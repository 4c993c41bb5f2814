//! Finished runs leave the state, full streams hold work back, snapshots are remembered two deep.

use causey_engine::{History, State, TaskState};
use causey_protocol::id::{Digest, RunId};
use causey_protocol::input::{Input, Request};
use causey_protocol::policy::RetryPolicy;
use causey_protocol::problem::Code;
use causey_protocol::record::{Answer, Record, RunState};
use causey_protocol::upkeep::{SnapshotTaken, Storage, StorageLevel};

use crate::world::{World, definition};

fn press(world: &mut World, level: StorageLevel) -> Vec<Record> {
    world.input(Input::Pressure(Storage { level, stream: "CAUSEY_LOG".into(), percent: 91 }))
}

fn finished(world: &mut World) -> RunId {
    let run = world.run(&["start > end", "end"]);
    world.succeed("start/0", None);
    world.succeed("end/0", None);
    assert_eq!(world.run_state(run), RunState::Succeeded);
    run
}

#[test]
fn a_finished_run_asks_for_its_history_until_it_is_stored() {
    let mut world = World::new();
    let live = world.run(&["start > end", "end"]);
    let run = finished_beside(&mut world);
    assert_eq!(world.committed.unstored_runs().collect::<Vec<_>>(), [run]);
    assert!(world.committed.history(live).is_none());
    world.restart();
    assert_eq!(world.committed.unstored_runs().collect::<Vec<_>>(), [run]);
    assert!(matches!(world.store_history(run, 5)[..], [Record::HistoryStored { .. }]));
    assert_eq!(world.committed.unstored_runs().count(), 0);
    assert!(matches!(world.store_history(run, 5)[..], [Record::Ignored { .. }]), "twice is harmless");
    assert_eq!(world.run_state(run), RunState::Cancelled, "it stays whole while there is room");
}

/// A run that ends by being cancelled; tasks of other runs stay queued.
fn finished_beside(world: &mut World) -> RunId {
    let run = world.run(&["start > end", "end"]);
    world.request(Request::Cancel { run, because: String::new() });
    run
}

#[test]
fn the_oldest_finished_runs_make_room_and_keep_their_name_and_origin() {
    let mut world = World::new();
    let runs: Vec<RunId> = (0..4).map(|_| finished(&mut world)).collect();
    let name = world.state.name_of(runs[0]).unwrap().clone();
    for run in &runs {
        world.store_history(*run, 2);
    }
    let whole: Vec<RunId> = world.state.runs.keys().copied().collect();
    assert_eq!(whole, runs[2..]);
    let entry = world.state.retired.get(&runs[0]).unwrap();
    assert_eq!((entry.state, entry.counts[TaskState::Succeeded as usize], &entry.name), (RunState::Succeeded, 2, &name));
    assert_eq!(entry.flow.as_str(), "Demo");
    assert!(entry.details.is_some());
    assert_eq!(world.state.run_named(&name), Some(runs[0]));
    assert_eq!(world.request(Request::Cancel { run: runs[0], because: String::new() }), Answer::Cancelling { run: runs[0] });
    assert_eq!(world.replayed().hash(), world.state.hash());
    // All four came with the same definition: it goes with the last of them.
    assert_eq!(world.state.definitions.len(), 1);
    for run in &runs[2..] {
        let found = world.state.histories.get(run).copied();
        assert!(found.is_some());
    }
}

#[test]
fn a_definition_that_nobody_uses_any_more_is_forgotten_and_comes_back_with_the_next_run() {
    let mut world = World::new();
    let run = finished(&mut world);
    world.store_history(run, 0);
    assert_eq!((world.state.runs.len(), world.state.definitions.len()), (0, 0));
    finished(&mut world);
    assert_eq!(world.state.definitions.len(), 1);
    world.deploy(definition("Demo", &["start > end", "end"]));
    let run = world.state.runs.values().next().unwrap().id();
    world.store_history(run, 0);
    assert_eq!((world.state.runs.len(), world.state.definitions.len()), (0, 1), "it is deployed");
}

#[test]
fn a_history_holds_the_run_its_flow_and_what_it_published_and_shows_damage() {
    let mut world = World::new();
    let run = world.run(&["start > end", "end"]);
    world.publish("start/0", "demand");
    world.succeed("end/0", None);
    let history = world.state.history(run).unwrap();
    assert_eq!(history.published.len(), 1);
    let bytes = history.encode();
    assert_eq!(History::read(&bytes).unwrap(), history);
    for place in [0, 1, bytes.len() / 2, bytes.len() - 1] {
        let mut damaged = bytes.clone();
        damaged[place] ^= 1;
        assert!(History::read(&damaged).is_err(), "byte {place}");
    }
}

/// Row 13 of the fault model.
#[test]
fn scarce_storage_refuses_runs_and_critical_storage_holds_attempts_until_there_is_room() {
    let mut world = World::new();
    let run = world.run(&["start each work", "work > gather", "gather* > end", "end"]);
    press(&mut world, StorageLevel::Scarce);
    let Answer::Refused(problem) = world.submit(definition("Demo", &["start > end", "end"]), Default::default()) else {
        panic!("accepted");
    };
    assert_eq!(problem.code, Code::STORAGE_FULL);
    assert!(problem.message.contains("CAUSEY_LOG is 91 % full"), "{problem:?}");
    world.succeed("start/0", Some(3));
    assert_eq!(world.queued(), ["work/0", "work/1", "work/2"], "scarce storage still starts tasks");

    press(&mut world, StorageLevel::Critical);
    assert!(matches!(press(&mut world, StorageLevel::Critical)[..], [Record::Ignored { .. }]), "the same level again is no news");
    for task in ["work/0", "work/1", "work/2"] {
        world.succeed(task, None);
    }
    assert_eq!(world.queued(), Vec::<String>::new());
    assert_eq!(world.state.held_back_of(run).count(), 1, "the join waits for room");
    world.restart();
    assert_eq!(world.state.held_back_of(run).count(), 1);

    press(&mut world, StorageLevel::Ample);
    assert_eq!(world.queued(), ["gather/0"]);
    assert_eq!(world.state.held_back.len(), 0);
    world.succeed("gather/0", None);
    world.succeed("end/0", None);
    assert_eq!(world.run_state(run), RunState::Succeeded);
    assert!(matches!(world.submit(definition("Demo", &["start > end", "end"]), Default::default()), Answer::RunStarted { .. }));
}

#[test]
fn a_retry_that_comes_due_while_storage_is_critical_waits_without_a_timer() {
    let mut world = World::new();
    let mut flow = definition("Demo", &["start > end", "end"]);
    flow.steps[0].retry = Some(RetryPolicy { times: 3, delay_seconds: 1.0, factor: 1.0, cap_seconds: 60.0, jitter: 0.0, on: Vec::new() });
    let Answer::RunStarted { run, .. } = world.submit(flow, Default::default()) else { panic!("refused") };
    world.fail("start/0", causey_protocol::task::FailureKind::User);
    press(&mut world, StorageLevel::Critical);
    world.pass_time();
    assert_eq!((world.state.next_timer(), world.queued().len()), (None, 0));
    assert_eq!(world.state.held_back_of(run).count(), 1);
    press(&mut world, StorageLevel::Scarce);
    assert_eq!(world.queued(), ["start/0"]);
    press(&mut world, StorageLevel::Critical);
    world.request(Request::Cancel { run, because: String::new() });
    assert_eq!(world.state.held_back.len(), 0, "a cancelled run waits for nothing");
}

#[test]
fn two_snapshots_are_remembered_and_an_accepted_loss_forgets_what_they_cover() {
    let mut world = World::new();
    for sequence in [3, 5, 9] {
        let digest = Digest::of(b"snapshot");
        let snapshot =
            SnapshotTaken { sequence, turn: digest, state: digest, digest, bytes: 1, records: sequence, inbox: sequence, events: 1 };
        world.input(Input::SnapshotStored(Box::new(snapshot)));
    }
    assert_eq!(world.state.snapshots.keys().copied().collect::<Vec<_>>(), [5, 9]);
    let mut state = State::default();
    state.apply(&world.turns[2].records[0]);
    let loss = Record::LossAccepted { stream: "CAUSEY_IN".into(), seen: 9, found: 2, user: "ann".into() };
    state.apply(&loss);
    let snapshot = state.snapshots.values().next().unwrap();
    assert_eq!((snapshot.inbox, snapshot.events), (0, 1));
}
