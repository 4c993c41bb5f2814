//! Inputs with larger effects than fit a turn.

use std::collections::BTreeSet;

use causey_engine::decide;
use causey_protocol::codec;
use causey_protocol::event::CloudEvent;
use causey_protocol::id::{RunId, Timestamp};
use causey_protocol::input::{Input, Request};
use causey_protocol::policy::RetryPolicy;
use causey_protocol::record::{Record, RunState, Turn};
use causey_protocol::task::FailureKind;
use serde_json::json;

use crate::world::{World, definition, pool};

fn event(sequence: u64, data: &serde_json::Value) -> Input {
    let event =
        CloudEvent::from_structured(json!({"specversion": "1.0", "id": "e", "source": "/s", "type": "many", "data": data})).unwrap();
    Input::Event { sequence, source: "api".parse().unwrap(), event }
}

/// A world with so many flows that the event starts.
fn waiting_for_many(flows: usize) -> World {
    let mut world = World::new();
    for number in 0..flows {
        let mut flow = definition(&format!("Many{number}"), &["only"]);
        flow.triggers = serde_json::from_value(json!([{"events": [{"name": "many"}]}])).unwrap();
        world.deploy(flow);
    }
    world
}

fn bytes(turn: &Turn) -> usize {
    turn.records.iter().map(|record| codec::encode(record).len()).sum()
}

fn started(world: &World) -> Vec<RunId> {
    let records = world.turns.iter().flat_map(|turn| &turn.records);
    records.filter_map(|record| if let Record::RunStarted(start) = record { Some(start.run) } else { None }).collect()
}

/// One event that matches 10,000 triggers.
#[test]
fn an_event_with_ten_thousand_triggers_starts_each_once_in_turns_under_the_limit() {
    let mut world = World::new();
    for number in 0..100 {
        let mut flow = definition(&format!("Many{number}"), &["only"]);
        flow.triggers = (0..100).map(|_| serde_json::from_value(json!({"events": [{"name": "many"}]})).unwrap()).collect();
        world.deploy(flow);
    }
    let before = world.turns.len();
    world.input(event(1, &json!({"x": "y".repeat(100)})));
    let runs = started(&world);
    assert_eq!((runs.len(), runs.iter().collect::<BTreeSet<_>>().len()), (10_000, 10_000));
    assert!(world.turns[before..].iter().all(|turn| turn.records.len() <= 1_100 && bytes(turn) <= 512 * 1024));
    let outcome = world.state.events_taken.get(&1).unwrap();
    assert_eq!((outcome.started.len(), outcome.duplicate), (10_000, false));
    assert!(world.state.work.is_empty());
    assert_eq!(world.replayed().hash(), world.state.hash());
}

#[test]
fn a_large_event_is_spread_over_more_turns() {
    let mut world = waiting_for_many(30);
    let before = world.turns.len();
    world.begin(event(1, &json!({"x": "y".repeat(100_000)})));
    assert!(world.state.has_work());
    world.go_on();
    assert_eq!(started(&world).len(), 30);
    assert!(world.turns[before..].iter().all(|turn| bytes(turn) <= 512 * 1024));
    let again = world.input(event(2, &json!({"x": "y".repeat(100_000)})));
    assert!(matches!(again[..], [Record::EventTaken { duplicate: true, .. }]));
}

/// I2, I9: kill -9 at any place of a work list.
#[test]
fn a_work_list_goes_on_wherever_the_leader_is_killed() {
    for killed_after in 0..4 {
        let mut world = waiting_for_many(350);
        world.begin(event(1, &json!({})));
        for _ in 0..killed_after {
            if world.state.has_work() {
                world.begin(Input::Continue);
            }
        }
        world.restart();
        world.go_on();
        let runs = started(&world);
        assert_eq!((runs.len(), runs.iter().collect::<BTreeSet<_>>().len()), (350, 350));
        let all = world.input(event(2, &json!({})));
        assert!(!matches!(all.last(), Some(Record::EventTaken { duplicate: false, .. })), "the same event again starts nothing");
        assert_eq!(started(&world).len(), 350);
    }
}

/// I9: deciding a work list in one turn or in many gives the same records.
#[test]
fn a_work_list_is_decided_alike_in_one_turn_and_in_many() {
    let world = waiting_for_many(250);
    let at = Timestamp(world.now + 1);
    let mut one = world.state;
    let mut many = one.clone();
    one.open_turn(at);
    let mut together = decide(&mut one, event(1, &json!({})));
    while one.has_work() {
        together.extend(decide(&mut one, Input::Continue));
    }
    many.open_turn(at);
    let mut apart = decide(&mut many, event(1, &json!({})));
    while many.has_work() {
        many.open_turn(at);
        apart.extend(decide(&mut many, Input::Continue));
    }
    assert_eq!(together, apart);
}

#[test]
fn a_lost_worker_with_many_attempts_is_dealt_with_in_pieces() {
    let mut world = World::new();
    world.run(&["start each work", "work > gather", "gather* > end", "end"]);
    world.succeed("start/0", Some(700));
    for item in 0..350 {
        world.started(&format!("work/{item}"), "w1");
    }
    let id = "lost".parse().unwrap();
    let request = Request::WorkerLost { pool: pool("default"), worker: "w1".parse().unwrap() };
    let records = world.begin(Input::Request(causey_protocol::input::RequestMessage { id, user: "ann".into(), request }));
    assert!(records.len() < 300 && world.state.has_work());
    world.restart();
    world.go_on();
    let lost = world.turns.iter().flat_map(|turn| &turn.records).filter(|record| matches!(record, Record::AttemptFailed { .. })).count();
    assert_eq!((lost, world.state.work.len()), (350, 0));
    assert_eq!(world.queued().len(), 700, "all of them are offered again");
}

#[test]
fn a_thousand_retries_that_come_due_at_once_are_opened_in_pieces() {
    let mut world = World::new();
    let mut flow = definition("Demo", &["start each work", "work > gather", "gather* > end", "end"]);
    flow.steps[1].retry = Some(RetryPolicy { times: 3, delay_seconds: 60.0, factor: 1.0, cap_seconds: 60.0, jitter: 0.0, on: Vec::new() });
    world.submit(flow, Default::default());
    world.succeed("start/0", Some(600));
    while let Some(name) = world.queued().first().cloned() {
        world.fail(&name, FailureKind::User);
    }
    world.now += 61_000_000;
    let mut turns = 0;
    while world.state.next_timer().is_some_and(|due| due <= Timestamp(world.now)) {
        assert!(world.input(Input::TimersDue).len() <= 300);
        turns += 1;
    }
    assert_eq!((world.queued().len(), turns > 1), (600, true));
    assert!(world.state.runs.values().all(|run| run.state == RunState::Running));
}

#[test]
fn going_on_with_nothing_is_said_to_be_nothing() {
    let mut world = World::new();
    assert!(matches!(world.begin(Input::Continue)[..], [Record::Ignored { .. }]));
}
