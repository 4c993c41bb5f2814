//! Firings of schedules: each counts once, and what a pause, a new version or a restart changes about that.

use std::collections::BTreeSet;

use crate::world::{World, definition};
use causey_engine::Fired;
use causey_protocol::flow::Definition;
use causey_protocol::id::{RunId, Timestamp};
use causey_protocol::input::{Input, Request};
use causey_protocol::parameter::{Parameter, ParameterType, Values};
use causey_protocol::record::{Answer, Cause, Record, RunState};
use serde_json::json;

const NIGHTLY: &str = "0 2 * * * UTC";

pub(crate) fn scheduled(crons: &[&str]) -> Definition {
    let mut flow = definition("Nightly", &["only"]);
    flow.parameters = vec![Parameter {
        name: "day".into(),
        kind: ParameterType::Str,
        required: false,
        default: Some(json!("none")),
        help: String::new(),
    }];
    flow.schedules = serde_json::from_value(json!(crons.iter().map(|cron| json!({"cron": cron})).collect::<Vec<_>>())).unwrap();
    flow
}

impl World {
    pub(crate) fn due(&mut self, schedule: &str, instant: u64) -> Vec<Record> {
        let given = Values::from([("day".into(), json!(instant.to_string()))]);
        let (flow, schedule, instant) = ("Nightly".parse().unwrap(), schedule.to_owned(), Timestamp(instant));
        self.input(Input::Due { flow, schedule, instant, missed: 0, given })
    }

    fn fired(&self, schedule: &str) -> Fired {
        self.state.schedules.get(&"Nightly".parse().unwrap()).unwrap().firings[schedule].fired.clone().unwrap()
    }
}

fn started(records: &[Record]) -> Vec<RunId> {
    records.iter().filter_map(|record| if let Record::RunStarted(start) = record { Some(start.run) } else { None }).collect()
}

#[test]
fn a_firing_starts_one_run_with_its_instant_however_often_it_comes() {
    let mut world = World::new();
    world.deploy(scheduled(&["0 2 * * *"]));
    let instant = world.now + 1_000_000;
    let [run] = started(&world.due(NIGHTLY, instant))[..] else { panic!() };
    let start = world.state.run(run).unwrap().start.clone();
    assert_eq!(start.cause, Cause::Schedule { schedule: NIGHTLY.into(), instant: Timestamp(instant) });
    assert_eq!((&start.parameters["day"], start.version, start.user.as_str()), (&json!(instant.to_string()), Some(1), "ann"));
    assert_eq!(world.queue[0].scheduled_at, Some(Timestamp(instant)));
    for earlier in [instant, instant - 1, 0] {
        assert!(matches!(world.due(NIGHTLY, earlier)[..], [Record::Ignored { .. }]), "{earlier}");
        world.restart();
    }
    assert_eq!(started(&world.due(NIGHTLY, instant + 1)).len(), 1);
    assert_eq!(world.fired(NIGHTLY).instant, Timestamp(instant + 1));
}

#[test]
fn firings_from_before_the_deployment_and_of_other_flows_are_ignored() {
    let mut world = World::new();
    assert!(matches!(world.due(NIGHTLY, u64::MAX)[..], [Record::Ignored { .. }]));
    world.deploy(scheduled(&["0 2 * * *"]));
    let deployed = world.now;
    assert!(matches!(world.due(NIGHTLY, deployed)[..], [Record::Ignored { .. }]));
    assert!(matches!(world.due("0 3 * * * UTC", deployed + 9)[..], [Record::Ignored { .. }]));
}

#[test]
fn firings_that_nobody_saw_to_are_noted_and_past() {
    let mut world = World::new();
    world.deploy(scheduled(&["0 2 * * *"]));
    let until = Timestamp(world.now + 5_000_000);
    world.input(Input::Missed { flow: "Nightly".parse().unwrap(), schedule: NIGHTLY.into(), until, missed: 3 });
    let fired = world.fired(NIGHTLY);
    assert_eq!((fired.run, fired.missed, fired.because.unwrap().contains("missed")), (None, 2, true));
    assert!(matches!(world.due(NIGHTLY, until.0)[..], [Record::Ignored { .. }]));
    assert_eq!(started(&world.due(NIGHTLY, until.0 + 1)).len(), 1);
}

#[test]
fn a_new_version_goes_on_with_the_schedules_it_keeps_and_drops_the_others() {
    let mut world = World::new();
    world.deploy(scheduled(&["0 2 * * *", "0 3 * * *"]));
    let instant = world.now + 60_000_000;
    world.due(NIGHTLY, instant);
    world.deploy(scheduled(&["0  2 * * *", "0 4 * * *"]));
    assert!(matches!(world.due(NIGHTLY, instant)[..], [Record::Ignored { .. }]), "it has fired under the version before");
    assert!(matches!(world.due("0 3 * * * UTC", instant)[..], [Record::Ignored { .. }]));
    let [run] = started(&world.due("0 4 * * * UTC", instant))[..] else { panic!() };
    assert_eq!(world.state.run(run).unwrap().start.version, Some(2));
    world.deploy(scheduled(&[]));
    assert!(world.state.schedules.is_empty());
    assert!(matches!(world.due(NIGHTLY, instant + 1)[..], [Record::Ignored { .. }]));
}

#[test]
fn paused_schedules_fire_nothing_and_never_make_up_for_it() {
    let mut world = World::new();
    let flow = || "Nightly".parse().unwrap();
    assert!(matches!(world.request(Request::PauseSchedules { flow: flow() }), Answer::Refused(_)));
    world.deploy(scheduled(&["0 2 * * *"]));
    let instant = world.now + 5_000;
    world.request(Request::PauseSchedules { flow: flow() });
    assert!(matches!(world.due(NIGHTLY, instant)[..], [Record::Ignored { .. }]));
    // A pause outlives a new version.
    world.deploy(scheduled(&["0 2 * * *", "0 3 * * *"]));
    assert_eq!(world.state.schedules.get(&flow()).unwrap().paused.as_ref().unwrap().0, "ann");
    world.now += 60_000_000;
    assert_eq!(world.request(Request::ResumeSchedules { flow: flow() }), Answer::Done);
    let resumed = world.now;
    assert_eq!(world.request(Request::ResumeSchedules { flow: flow() }), Answer::Done);
    for (schedule, instant) in [(NIGHTLY, instant), ("0 3 * * * UTC", resumed)] {
        assert!(matches!(world.due(schedule, instant)[..], [Record::Ignored { .. }]));
    }
    assert_eq!(started(&world.due(NIGHTLY, resumed + 1)).len(), 1);
}

#[test]
fn an_instant_that_fits_no_parameter_says_so_and_is_past() {
    let mut world = World::new();
    let mut flow = scheduled(&["0 2 * * *"]);
    flow.parameters[0].kind = ParameterType::Bool;
    flow.parameters[0].default = Some(json!(true));
    world.deploy(flow);
    let instant = world.now + 5_000;
    assert!(started(&world.due(NIGHTLY, instant)).is_empty());
    assert!(world.fired(NIGHTLY).because.unwrap().contains("parameter `day` needs true or false"));
    assert!(matches!(world.due(NIGHTLY, instant)[..], [Record::Ignored { .. }]));
}

#[test]
fn two_schedules_of_one_flow_fire_apart_at_one_instant() {
    let mut world = World::new();
    world.deploy(scheduled(&["0 2 * * *", "0 2 * * MON"]));
    let instant = world.now + 5_000;
    let both = [NIGHTLY, "0 2 * * MON UTC"].map(|schedule| started(&world.due(schedule, instant)));
    assert_eq!(both.iter().flatten().collect::<BTreeSet<_>>().len(), 2);
    world.succeed("only/0", None);
    assert_eq!(world.run_state(both[0][0]), RunState::Succeeded);
}
