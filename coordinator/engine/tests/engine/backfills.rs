//! Backfills: one run per instant, in order, a few at once, over restarts and cancels; and all of it mixed at random.

use std::collections::BTreeMap;

use crate::concurrency::limited;
use crate::world::{World, definition};
use causey_engine::{Backfill, State};
use causey_protocol::flow::Definition;
use causey_protocol::id::{RequestId, RunId, Timestamp};
use causey_protocol::input::{Input, Request};
use causey_protocol::parameter::{Parameter, ParameterType, Values};
use causey_protocol::problem::Code;
use causey_protocol::record::{Answer, Cause, Record, RunState};
use causey_protocol::schedule::{BackfillPlan, Strategy};
use causey_protocol::task::FailureKind;
use proptest::prelude::{Just, ProptestConfig, any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest};
use proptest::strategy::Strategy as Strategy_;
use serde_json::json;

/// Instants of the calendar in these tests: 10, 20, 30…
const STEP: u64 = 10;

pub(crate) fn plan(total: u32, max_parallel: u32) -> BackfillPlan {
    BackfillPlan {
        flow: "Nightly".parse().unwrap(),
        cron: "0 2 * * *".into(),
        timezone: "UTC".into(),
        first: Timestamp(STEP),
        last: Timestamp(STEP * u64::from(total)),
        total,
        max_parallel,
        parameters: Values::new(),
        instant: BTreeMap::new(),
    }
}

impl World {
    pub(crate) fn backfill(&mut self, plan: BackfillPlan) -> RequestId {
        match self.request(Request::Backfill(Box::new(plan))) {
            Answer::BackfillStarted { backfill, .. } => backfill,
            other => panic!("{other:?}"),
        }
    }

    /// Does what the shell does: gives every backfill its next instant as long as one may start a run.
    pub(crate) fn advance(&mut self) {
        loop {
            let ready = self.state.backfills_ready().map(|(id, found)| (id.clone(), found.cursor)).next();
            let Some((backfill, cursor)) = ready else { return };
            let instant = Timestamp((cursor.0 / STEP + 1) * STEP);
            self.input(Input::BackfillDue { backfill, instant, given: Values::new() });
        }
    }

    fn progress(&self, id: &RequestId) -> &Backfill {
        self.state.backfills.get(id).unwrap()
    }
}

fn instants(world: &World) -> Vec<u64> {
    let runs = world.turns.iter().flat_map(|turn| &turn.records);
    let instant = |record: &Record| match record {
        Record::RunStarted(start) => start.cause.instant().map(|instant| instant.0),
        _ => None,
    };
    runs.filter_map(instant).collect()
}

fn deployed(strategy: Strategy, max: u32) -> World {
    let mut world = World::new();
    world.deploy(limited(strategy, max));
    world
}

#[test]
fn every_instant_gets_one_run_in_order_and_at_most_so_many_at_once() {
    let mut world = deployed(Strategy::All, 1);
    let id = world.backfill(plan(5, 2));
    world.advance();
    assert_eq!((world.queue.len(), world.progress(&id).live.len(), world.progress(&id).cursor), (2, 2, Timestamp(20)));
    for left in (0..5).rev() {
        world.restart();
        world.advance();
        world.succeed("only/0", None);
        assert_eq!(5 - world.progress(&id).done(), left);
    }
    let ended = world.progress(&id);
    assert_eq!((ended.succeeded, ended.finished.is_some(), ended.live.len()), (5, true, 0));
    assert_eq!(instants(&world), [10, 20, 30, 40, 50]);
    world.advance();
    assert!(world.queue.is_empty());
}

#[test]
fn instants_that_come_twice_too_early_or_too_late_start_nothing() {
    let mut world = deployed(Strategy::All, 1);
    let id = world.backfill(plan(3, 1));
    let due = |world: &mut World, instant| {
        world.input(Input::BackfillDue { backfill: id.clone(), instant: Timestamp(instant), given: Values::new() })
    };
    assert!(matches!(due(&mut world, 9)[..], [Record::Ignored { .. }]));
    assert!(matches!(due(&mut world, 31)[..], [Record::Ignored { .. }]));
    assert!(!matches!(due(&mut world, 10)[..], [Record::Ignored { .. }]));
    assert!(matches!(due(&mut world, 20)[..], [Record::Ignored { .. }]), "one is under way");
    world.succeed("only/0", None);
    assert!(matches!(due(&mut world, 10)[..], [Record::Ignored { .. }]));
    assert!(!matches!(due(&mut world, 20)[..], [Record::Ignored { .. }]));
    world.succeed("only/0", None);
    world.input(Input::BackfillOver { backfill: id.clone() });
    assert!(matches!(world.input(Input::BackfillOver { backfill: id.clone() })[..], [Record::Ignored { .. }]));
    let ended = world.progress(&id);
    assert_eq!((ended.succeeded, ended.without, ended.finished.is_some()), (2, 1, true));
}

#[test]
fn a_backfill_waits_for_its_turn_under_every_strategy() {
    for strategy in [Strategy::Skip, Strategy::Queue, Strategy::Latest, Strategy::Replace] {
        let mut world = deployed(strategy, 1);
        world.submit_deployed();
        let id = world.backfill(plan(2, 2));
        world.advance();
        assert_eq!((world.queue.len(), world.progress(&id).live.len()), (1, 0), "{strategy:?}");
        for _ in 0..3 {
            world.succeed("only/0", None);
            world.advance();
        }
        assert_eq!((world.progress(&id).succeeded, instants(&world)), (2, vec![10, 20]), "{strategy:?}");
    }
}

#[test]
fn a_cancelled_backfill_ends_its_runs_and_starts_no_other() {
    let mut world = deployed(Strategy::All, 1);
    let id = world.backfill(plan(5, 2));
    world.advance();
    world.fail("only/0", FailureKind::Permanent);
    world.advance();
    assert_eq!(world.request(Request::CancelBackfill { backfill: id.clone(), because: "enough".into() }), Answer::Done);
    world.advance();
    let ended = world.progress(&id);
    assert_eq!((ended.failed, ended.cancelled, ended.done(), ended.finished.is_some()), (1, 2, 3, true));
    assert_eq!(ended.stopped.as_deref(), Some("cancelled on request: enough"));
    assert_eq!(world.request(Request::CancelBackfill { backfill: id, because: String::new() }), Answer::Done);
    let unknown = Request::CancelBackfill { backfill: "nobody".parse().unwrap(), because: String::new() };
    assert!(matches!(world.request(unknown), Answer::Refused(_)));
}

#[test]
fn a_backfill_that_cannot_be_is_refused() {
    let mut world = World::new();
    let mut refused = |plan: BackfillPlan| match world.request(Request::Backfill(Box::new(plan))) {
        Answer::Refused(problem) => problem,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(plan(2, 1)).code, Code::NOT_FOUND);
    assert!(refused(plan(0, 1)).message.contains("no instant"));
    assert!(refused(plan(1, 0)).message.contains("0 runs at once"));
    world.deploy(needs_day());
    let with = |parameters: &[&str], instant: &[&str]| BackfillPlan {
        parameters: parameters.iter().map(|name| ((*name).into(), json!("x"))).collect(),
        instant: instant.iter().map(|name| ((*name).into(), "date".into())).collect(),
        ..plan(2, 1)
    };
    let mut refused = |plan: BackfillPlan| match world.request(Request::Backfill(Box::new(plan))) {
        Answer::Refused(problem) => problem.message,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(with(&[], &[])), "parameter `day` is required");
    assert_eq!(refused(with(&[], &["night"])), "flow Nightly has no parameter `night`");
    assert_eq!(refused(with(&["speed"], &["day"])), "the flow has no parameter `speed`");
    world.backfill(with(&[], &["day"]));
}

fn needs_day() -> Definition {
    let mut flow = definition("Nightly", &["only"]);
    flow.parameters = vec![Parameter { name: "day".into(), kind: ParameterType::Str, required: true, default: None, help: String::new() }];
    flow
}

#[test]
fn runs_of_a_backfill_keep_the_version_it_began_with() {
    let mut world = deployed(Strategy::All, 1);
    world.backfill(plan(2, 1));
    world.deploy(needs_day());
    for _ in 0..2 {
        world.advance();
        world.succeed("only/0", None);
    }
    assert!(world.state.runs.values().all(|run| run.start.version == Some(1) && run.state == RunState::Succeeded));
}

#[derive(Clone, Debug)]
enum Happening {
    Submit,
    Event,
    Due(u64),
    Backfill(u32, u32),
    Advance,
    CancelBackfill(usize),
    CancelRun(usize),
    Succeed(usize),
    Fail(usize),
    Deploy(usize, u32),
    Restart,
}

fn happening() -> impl Strategy_<Value = Happening> {
    prop_oneof![
        4 => Just(Happening::Submit),
        3 => Just(Happening::Event),
        3 => (0_u64..3).prop_map(Happening::Due),
        1 => (1_u32..6, 1_u32..4).prop_map(|(total, parallel)| Happening::Backfill(total, parallel)),
        4 => Just(Happening::Advance),
        1 => any::<usize>().prop_map(Happening::CancelBackfill),
        1 => any::<usize>().prop_map(Happening::CancelRun),
        6 => any::<usize>().prop_map(Happening::Succeed),
        1 => any::<usize>().prop_map(Happening::Fail),
        1 => (0_usize..5, 1_u32..4).prop_map(|(strategy, max)| Happening::Deploy(strategy, max)),
        1 => Just(Happening::Restart),
    ]
}

const STRATEGIES: [Strategy; 5] = [Strategy::All, Strategy::Skip, Strategy::Queue, Strategy::Replace, Strategy::Latest];

fn flow(strategy: usize, max: u32) -> Definition {
    let mut flow = limited(STRATEGIES[strategy], max);
    flow.schedules = serde_json::from_value(json!([{"cron": "* * * * *"}])).unwrap();
    flow
}

fn happen(world: &mut World, events: &mut u64, happening: &Happening) {
    match happening {
        Happening::Submit => drop(world.submit_deployed()),
        Happening::Event => {
            for kind in ["a", "b"] {
                *events += 1;
                world.event(*events, &format!("e{events}"), kind, &json!({}));
            }
        }
        // Sometimes one that has been seen to.
        Happening::Due(back) => {
            let (flow, instant) = ("Nightly".parse().unwrap(), Timestamp(world.now + 1_000 - back * 2_000));
            world.input(Input::Due { flow, schedule: "* * * * * UTC".into(), instant, missed: 0, given: Values::new() });
        }
        Happening::Backfill(total, parallel) => drop(world.request(Request::Backfill(Box::new(plan(*total, *parallel))))),
        Happening::Advance => world.advance(),
        Happening::CancelBackfill(choice) => {
            let ids: Vec<RequestId> = world.state.backfills.keys().cloned().collect();
            if let Some(place) = choice.checked_rem(ids.len()) {
                world.request(Request::CancelBackfill { backfill: ids[place].clone(), because: String::new() });
            }
        }
        Happening::CancelRun(choice) => {
            let live: Vec<RunId> = world.state.live_runs().map(causey_engine::Run::id).collect();
            if let Some(place) = choice.checked_rem(live.len()) {
                world.request(Request::Cancel { run: live[place], because: String::new() });
            }
        }
        Happening::Succeed(choice) | Happening::Fail(choice) => {
            let Some(place) = choice.checked_rem(world.queue.len()) else { return };
            world.queue.swap(0, place);
            match happening {
                Happening::Fail(_) => world.fail("only/0", FailureKind::Permanent),
                _ => world.succeed("only/0", None),
            };
        }
        Happening::Deploy(strategy, max) => drop(world.deploy(flow(*strategy, *max))),
        Happening::Restart => world.restart(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// I2: one origin, one run or one skip. I5: whoever waits gets its place in the end. I9: replayed and restored states are equal.
    #[test]
    fn no_start_is_lost_or_doubled_under_any_strategy(
        strategy in 0_usize..5,
        max in 1_u32..4,
        happenings in prop::collection::vec(happening(), 0..60),
    ) {
        let mut world = World::new();
        world.deploy(flow(strategy, max));
        let mut events = 0;
        for happening in &happenings {
            happen(&mut world, &mut events, happening);
        }
        let mut entries = Vec::new();
        world.state.each_entry(|table, key, value| entries.push((table as u8, key, value)));
        let restored = State::restore(&world.state.header(), entries).unwrap();
        prop_assert_eq!(restored.hash(), world.state.hash());
        prop_assert_eq!(causey_engine::violations(&restored), Vec::<String>::new());
        let ready = |state: &State| state.backfills_ready().map(|(id, _)| id.clone()).collect::<Vec<_>>();
        prop_assert_eq!(ready(&restored), ready(&world.state));
        world.restart();
        for _ in 0..2_000 {
            world.advance();
            if world.queue.is_empty() {
                break;
            }
            world.succeed("only/0", None);
        }
        prop_assert_eq!(world.state.live_runs().count(), 0);
        prop_assert!(world.state.backfills.values().all(|found| found.finished.is_some() && found.done() <= found.plan.total));
        let records = || world.turns.iter().flat_map(|turn| &turn.records);
        let mut origins = BTreeMap::new();
        for record in records() {
            if let Record::RunStarted(start) = record {
                *origins.entry(start.origin).or_insert(0) += 1;
            } else if let Record::StartSkipped { origin, .. } = record {
                *origins.entry(*origin).or_insert(0) += 1;
            }
        }
        prop_assert!(origins.values().all(|count| *count == 1), "{origins:?}");
        let mut of_backfills: BTreeMap<RequestId, Vec<Timestamp>> = BTreeMap::new();
        for record in records() {
            if let Record::RunStarted(start) = record
                && let Cause::Backfill { backfill, instant } = &start.cause
            {
                of_backfills.entry(backfill.clone()).or_default().push(*instant);
            }
        }
        prop_assert!(of_backfills.values().all(|instants| instants.is_sorted()));
    }
}
