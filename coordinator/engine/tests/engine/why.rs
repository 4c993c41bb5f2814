//! What runs, tasks and triggers wait for, in the words in which people read it.

use crate::world::{World, definition};
use causey_engine::{Question, Reason, TaskRef, why};
use causey_protocol::flow::{StepIndex, Trigger, TriggerEvent};
use causey_protocol::id::{Path, RunId, Timestamp};
use causey_protocol::input::{FlowChoice, Request};
use causey_protocol::policy::RetryPolicy;
use causey_protocol::record::Answer;
use causey_protocol::schedule::{Concurrency, Strategy};
use causey_protocol::task::FailureKind;
use causey_protocol::upkeep::{Storage, StorageLevel};
use serde_json::json;

const WIDE: &[&str] = &["start each work", "work > gather", "gather* > end", "end"];

/// `step ×count: words` for everything that waits.
fn said(world: &World, question: &Question) -> Vec<String> {
    let now = Timestamp(world.now + 12_000_000);
    let line = |wait: &causey_engine::Wait| {
        let step = wait.step.as_ref().map_or("-", |step| step.as_str());
        format!("{step} ×{}: {}", wait.count, wait.reason.words(now))
    };
    why(&world.state, question).iter().map(line).collect()
}

fn task(run: RunId, step: u16, path: &[u32]) -> Question {
    Question::Task(run, TaskRef::new(StepIndex(step), Path(path.to_vec()), 0))
}

fn retried() -> (World, RunId) {
    let mut world = World::new();
    let mut flow = definition("Demo", WIDE);
    flow.steps[1].retry = Some(RetryPolicy { times: 3, delay_seconds: 60.0, factor: 1.0, cap_seconds: 60.0, jitter: 0.0, on: Vec::new() });
    let Answer::RunStarted { run, .. } = world.submit(flow, Default::default()) else { panic!() };
    (world, run)
}

#[test]
fn a_run_says_what_each_of_its_steps_waits_for() {
    let (mut world, run) = retried();
    assert_eq!(said(&world, &Question::Run(run)), ["start ×1: queued in pool `default` for 12 s"]);
    assert_eq!(
        said(&world, &Question::Step(run, StepIndex(3))),
        ["end ×0: not begun: waits for step gather", "start ×1: queued in pool `default` for 12 s"]
    );
    world.succeed("start/0", Some(5));
    world.succeed("work/0", None);
    world.started("work/1", "w");
    world.fail("work/2", FailureKind::User);
    assert_eq!(
        said(&world, &Question::Run(run)),
        [
            "work ×1: running on worker w in pool `default` for 12 s",
            "work ×1: tried again in 48 s (attempt 2), after ValueError: bad",
            "work ×2: queued in pool `default` for 12 s",
            "gather ×1: waits for 4 of 5 inputs; missing: work/1, work/2, work/3, work/4; failed and tried again: work/2",
        ]
    );
}

#[test]
fn a_task_says_for_itself() {
    let (mut world, run) = retried();
    world.succeed("start/0", Some(3_000));
    world.succeed("work/0", None);
    world.fail("work/2", FailureKind::User);
    assert_eq!(said(&world, &task(run, 1, &[0])), ["work ×1: succeeded 12 s ago"]);
    assert_eq!(said(&world, &task(run, 1, &[2])), ["work ×1: tried again in 48 s (attempt 2), after ValueError: bad"]);
    assert_eq!(said(&world, &task(run, 1, &[2_999])), ["work ×1: 1025 of 3000 items have been opened; the others wait for those"]);
    assert!(said(&world, &task(run, 2, &[]))[0].starts_with("gather ×1: waits for 2999 of 3000 inputs; missing: work/1, "));
    assert_eq!(said(&world, &task(run, 3, &[]))[0], "end ×0: not begun: waits for step gather");
    // No such items, levels or runs.
    assert!(said(&world, &task(run, 1, &[3_000])).is_empty());
    assert!(said(&world, &task(run, 1, &[])).is_empty());
    assert!(said(&world, &Question::Run(RunId(Default::default()))).is_empty());
}

#[test]
fn a_join_waits_for_its_inputs_to_be_stored() {
    let (mut world, run) = retried();
    world.succeed("start/0", Some(200));
    for item in 0..200 {
        world.succeed(&format!("work/{item}"), None);
    }
    assert_eq!(said(&world, &Question::Run(run)), ["gather ×1: waits for 1 list of results to be stored in the artifact store"]);
}

#[test]
fn what_has_ended_says_why() {
    let mut world = World::new();
    let run = world.run(WIDE);
    world.fail("start/0", FailureKind::User);
    assert_eq!(said(&world, &Question::Run(run)), ["- ×0: failed 12 s ago: start/0 failed after 1 attempt: ValueError: bad"]);
    assert_eq!(said(&world, &task(run, 0, &[])), ["start ×1: failed 12 s ago: ValueError: bad"]);
    assert_eq!(said(&world, &task(run, 3, &[])), said(&world, &Question::Run(run)), "it never began");
}

#[test]
fn attempts_held_for_lack_of_room_say_so() {
    let mut world = World::new();
    let run = world.run(WIDE);
    let storage = Storage { level: StorageLevel::Critical, stream: "CAUSEY_LOG".into(), percent: 93 };
    world.input(causey_protocol::input::Input::Pressure(storage));
    world.succeed("start/0", Some(5));
    let waits = said(&world, &Question::Run(run));
    assert!(waits[0].starts_with("work ×5: not started: stream CAUSEY_LOG is 93 % full"), "{waits:?}");
    assert!(said(&world, &task(run, 1, &[3]))[0].contains("93 % full"));
}

#[test]
fn a_trigger_says_which_events_it_has_and_which_it_lacks() {
    let mut world = World::new();
    let event = |name: &str| TriggerEvent { name: name.into(), parameters: None };
    let mut flow = definition("Both", &["start > end", "end"]);
    flow.triggers = vec![Trigger { events: vec![event("a"), event("b")] }, Trigger { events: vec![event("c")] }];
    let question = Question::Trigger(flow.name.clone());
    assert!(said(&world, &question).is_empty(), "it is not deployed");
    world.deploy(flow);
    world.event(1, "1", "a", &json!({}));
    assert_eq!(said(&world, &question), ["- ×0: waits for `b`; has got `a` 12 s ago", "- ×0: waits for an event of type `c`"]);
    let Reason::Events { held, .. } = &why(&world.state, &question)[0].reason else { panic!() };
    assert_eq!((held[0].source.as_str(), held[0].id.as_str(), held[0].since), ("/s", "1", world.state.at));
    let manual = definition("Manual", &["start > end", "end"]);
    let question = Question::Trigger(manual.name.clone());
    world.deploy(manual);
    assert_eq!(said(&world, &question), ["- ×0: nothing starts it by itself: it has no trigger"]);
}

#[test]
fn a_run_that_may_not_begin_says_which_runs_are_before_it() {
    let mut world = World::new();
    let mut flow = definition("Demo", &["start > end", "end"]);
    flow.concurrency = Some(Concurrency { strategy: Strategy::Queue, max: 1 });
    world.deploy(flow);
    let mut submit = || {
        let flow = FlowChoice::Deployed("Demo".parse().unwrap());
        let request = Request::Submit {
            flow,
            parameters: Default::default(),
            tags: Vec::new(),
            host: None,
            timeout_seconds: None,
            standing: Default::default(),
            fresh: false,
        };
        let Answer::RunStarted { run, name } = world.request(request) else { panic!() };
        (run, name)
    };
    let ((_, first), _, (third, _)) = (submit(), submit(), submit());
    let expected = format!("- ×0: waits until flow Demo lets one more run begin, behind 1 other; under way: {first}");
    assert_eq!(said(&world, &Question::Run(third)), std::slice::from_ref(&expected));
    assert!(said(&world, &task(third, 0, &[])).contains(&expected));
}
