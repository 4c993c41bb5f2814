//! Each strategy for one run too many, and that no origin is lost or doubled under any.

use crate::world::{World, definition};
use causey_protocol::flow::Definition;
use causey_protocol::id::RunId;
use causey_protocol::input::{FlowChoice, Input, Request, RequestMessage};
use causey_protocol::parameter::Values;
use causey_protocol::problem::Code;
use causey_protocol::record::{Answer, RunState};
use causey_protocol::schedule::{Concurrency, Strategy, WAITING_RUNS_MAX};
use serde_json::json;

pub(crate) fn limited(strategy: Strategy, max: u32) -> Definition {
    let mut flow = definition("Nightly", &["only"]);
    flow.concurrency = Some(Concurrency { strategy, max });
    flow.triggers = serde_json::from_value(json!([{"events": [{"name": "a"}, {"name": "b"}]}])).unwrap();
    flow
}

impl World {
    pub(crate) fn submit_deployed(&mut self) -> Answer {
        let flow = FlowChoice::Deployed("Nightly".parse().unwrap());
        self.request(Request::Submit {
            flow,
            parameters: Values::new(),
            tags: Vec::new(),
            host: None,
            timeout_seconds: None,
            standing: Default::default(),
            fresh: false,
        })
    }

    fn begun(&mut self) -> RunId {
        match self.submit_deployed() {
            Answer::RunStarted { run, .. } => run,
            other => panic!("{other:?}"),
        }
    }

    fn under_way(&self) -> (usize, usize) {
        self.state.runs_under_way(&"Nightly".parse().unwrap())
    }

    /// The queued task of this run ends.
    fn end(&mut self, run: RunId) {
        let place = self.queue.iter().position(|queued| queued.run == run).unwrap();
        self.queue.swap(0, place);
        self.succeed("only/0", None);
    }
}

fn world(strategy: Strategy, max: u32) -> World {
    let mut world = World::new();
    world.deploy(limited(strategy, max));
    world
}

#[test]
fn all_run() {
    let mut world = world(Strategy::All, 1);
    for _ in 0..3 {
        world.begun();
    }
    assert_eq!((world.under_way(), world.queue.len()), ((3, 0), 3));
}

#[test]
fn one_too_many_is_skipped_and_its_origin_remembered() {
    let mut world = world(Strategy::Skip, 2);
    let first = world.begun();
    world.begun();
    let Answer::Refused(problem) = world.submit_deployed() else { panic!() };
    assert_eq!(problem.code, Code::CONCURRENCY);
    assert!(problem.message.starts_with("skipped: 2 of at most 2 runs of Nightly under way ("), "{problem}");
    world.event(1, "a1", "a", &json!({}));
    world.event(2, "b1", "b", &json!({}));
    let outcome = world.state.events_taken.get(&2).unwrap().clone();
    assert!(outcome.started.is_empty() && outcome.because[0].contains("skipped: 2 of at most 2"), "{outcome:?}");
    assert!(world.state.held.is_empty(), "its events are used up");
    world.end(first);
    world.restart();
    world.event(3, "b1", "b", &json!({}));
    let again = world.state.events_taken.get(&3).unwrap();
    assert!(again.duplicate && again.because[0].contains("did not run for this event before: skipped"), "{again:?}");
    // Another one finds a place.
    world.event(4, "a2", "a", &json!({}));
    world.event(5, "b2", "b", &json!({}));
    assert_eq!((world.state.events_taken.get(&5).unwrap().started.len(), world.under_way()), (1, (2, 0)));
}

#[test]
fn runs_wait_in_order_and_begin_as_places_become_free() {
    let mut world = world(Strategy::Queue, 1);
    let runs: Vec<RunId> = (0..4).map(|_| world.begun()).collect();
    assert_eq!((world.under_way(), world.queue.len()), ((1, 3), 1));
    assert_eq!(runs.iter().map(|run| world.run_state(*run)).collect::<Vec<_>>()[1..], [RunState::Pending; 3]);
    let waits = world.state.waits_of(runs[3]).unwrap();
    assert_eq!((waits.ahead, waits.active, world.state.waits_of(runs[0])), (2, vec![runs[0]], None));
    world.request(Request::Cancel { run: runs[1], because: String::new() });
    assert_eq!(world.run_state(runs[1]), RunState::Cancelled);
    for run in [runs[0], runs[2], runs[3]] {
        assert_eq!(world.queue.iter().map(|queued| queued.run).collect::<Vec<_>>(), [run]);
        world.restart();
        world.end(run);
    }
    assert_eq!(world.under_way(), (0, 0));
    world.begun();
    assert_eq!(world.under_way(), (1, 0));
}

#[test]
fn a_line_has_an_end() {
    let mut world = world(Strategy::Queue, 1);
    // In one turn: looking at the whole state after each would take long.
    let submit = |number| {
        let flow = FlowChoice::Deployed("Nightly".parse().unwrap());
        let request = Request::Submit {
            flow,
            parameters: Values::new(),
            tags: Vec::new(),
            host: None,
            timeout_seconds: None,
            standing: Default::default(),
            fresh: false,
        };
        Input::Request(RequestMessage { id: format!("wait-{number}").parse().unwrap(), user: "ann".into(), request })
    };
    world.turn((0..=WAITING_RUNS_MAX).map(submit).collect());
    let Answer::Refused(problem) = world.submit_deployed() else { panic!() };
    assert_eq!(problem.message, "refused: 1000 runs of Nightly wait for a place, and no more may");
    assert_eq!(world.under_way(), (1, WAITING_RUNS_MAX));
}

#[test]
fn a_newer_run_replaces_the_oldest_and_begins_at_once() {
    let mut world = world(Strategy::Replace, 2);
    let runs = [world.begun(), world.begun(), world.begun()];
    assert_eq!(runs.map(|run| world.run_state(run)), [RunState::Cancelled, RunState::Running, RunState::Running]);
    assert_eq!((world.problem(runs[0]).as_str(), &world.cancelled), ("a newer run has replaced it", &vec![runs[0]]));
    assert_eq!((world.under_way(), world.queue.len()), ((2, 0), 2));
}

#[test]
fn of_those_that_wait_the_newest_is_kept() {
    let mut world = world(Strategy::Latest, 1);
    let runs = [world.begun(), world.begun(), world.begun()];
    assert_eq!(runs.map(|run| world.run_state(run)), [RunState::Running, RunState::Cancelled, RunState::Pending]);
    assert_eq!((world.under_way(), world.problem(runs[1]).as_str()), ((1, 1), "a newer run has taken its place in the line"));
    world.end(runs[0]);
    assert_eq!(world.run_state(runs[2]), RunState::Running);
}

#[test]
fn a_new_version_lets_those_go_that_it_has_places_for() {
    let mut world = world(Strategy::Queue, 1);
    for _ in 0..5 {
        world.begun();
    }
    world.deploy(limited(Strategy::Queue, 3));
    assert_eq!(world.under_way(), (3, 2));
    world.deploy(limited(Strategy::All, 1));
    assert_eq!(world.under_way(), (5, 0));
    world.deploy(limited(Strategy::Skip, 1));
    assert!(matches!(world.submit_deployed(), Answer::Refused(_)));
}

#[test]
fn the_time_limit_of_a_run_begins_when_it_does() {
    let mut world = World::new();
    let mut flow = limited(Strategy::Queue, 1);
    flow.timeout_seconds = Some(60.0);
    world.deploy(flow);
    let runs = [world.begun(), world.begun()];
    let first = world.state.next_timer().unwrap();
    world.now += 50_000_000;
    world.end(runs[0]);
    assert_eq!(world.state.next_timer().unwrap().0, world.now + 60_000_000);
    assert!(world.state.next_timer().unwrap() > first);
    world.pass_time();
    assert_eq!((world.run_state(runs[1]), world.state.next_timer()), (RunState::Failed, None));
}

#[test]
fn a_flow_given_with_its_run_is_bound_by_no_strategy() {
    let mut world = world(Strategy::Queue, 1);
    world.begun();
    assert!(matches!(world.submit(limited(Strategy::Queue, 1), Values::new()), Answer::RunStarted { .. }));
    assert_eq!((world.under_way(), world.queue.len()), ((1, 0), 2));
}
