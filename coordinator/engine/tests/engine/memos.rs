//! Memoised steps: which results later runs take, what makes them run after all, and what becomes of results that are gone.

use causey_engine::{Question, Reason, State, TaskRef, outstanding, why};
use causey_protocol::flow::{Definition, Flow, StepIndex};
use causey_protocol::gate::ChildStart;
use causey_protocol::id::{Digest, MemoKey, Path, RunId, Timestamp};
use causey_protocol::input::{FlowChoice, Request};
use causey_protocol::parameter::{Parameter, ParameterType, Values};
use causey_protocol::policy::{HostMode, MemoPolicy};
use causey_protocol::record::{Answer, Record, ResultRemembered, RunState};
use causey_protocol::share::Standing;
use causey_protocol::task::FailureKind;
use serde_json::json;

use crate::world::{World, definition};

const LINE: [&str; 4] = ["start > clean", "clean > train", "train > end", "end"];
const WIDE: [&str; 4] = ["start each work", "work > gather", "gather* > end", "end"];

/// A flow of which these steps are memoised.
fn memoised(lines: &[&str], steps: &[usize]) -> Definition {
    let mut flow = definition("Demo", lines);
    for step in steps {
        flow.steps[*step].memo = Some(MemoPolicy::default());
    }
    flow
}

fn start(world: &mut World, flow: Definition, parameters: Values, fresh: bool) -> RunId {
    let flow = FlowChoice::Given(Box::new(Flow::try_from(flow).unwrap()));
    let (tags, standing) = (Vec::new(), Standing::default());
    let submit = Request::Submit { flow, parameters, tags, host: None, timeout_seconds: None, standing, fresh };
    match world.request(submit) {
        Answer::RunStarted { run, .. } => run,
        other => panic!("{other:?}"),
    }
}

fn run(world: &mut World, flow: &Definition) -> RunId {
    start(world, flow.clone(), Values::new(), false)
}

/// Ends whatever is queued, answers what is sought or stored, until there is nothing left; says which tasks were run.
fn finish(world: &mut World, items: u32) -> Vec<String> {
    let mut ran = Vec::new();
    loop {
        world.find_all();
        world.store_blobs();
        let Some(name) = world.queued().first().cloned() else { break };
        world.succeed(&name, Some(items).filter(|items| *items > 0 && name == "start/0"));
        ran.push(name);
    }
    ran.sort();
    ran
}

fn owner(world: &World, run: RunId, step: u16) -> Option<RunId> {
    world.state.run(run).unwrap().task(&TaskRef::new(StepIndex(step), Path::default(), 0)).unwrap().reused
}

#[test]
fn a_later_run_takes_the_results_of_memoised_steps() {
    let mut world = World::new();
    let flow = memoised(&LINE, &[1, 2]);
    let first = run(&mut world, &flow);
    assert_eq!(finish(&mut world, 0), ["clean/0", "end/0", "start/0", "train/0"]);
    let second = run(&mut world, &flow);
    assert_eq!(finish(&mut world, 0), ["end/0", "start/0"]);
    assert_eq!(
        (world.run_state(second), owner(&world, second, 1), owner(&world, second, 2)),
        (RunState::Succeeded, Some(first), Some(first))
    );
    let reused: Vec<u32> = world.state.run(second).unwrap().steps.iter().map(|step| step.reused).collect();
    assert_eq!(reused, [0, 1, 1, 0]);
    let question = Question::Task(second, TaskRef::new(StepIndex(2), Path::default(), 0));
    let Some(Reason::Reused { run: made, .. }) = why(&world.state, &question).pop().map(|wait| wait.reason) else { panic!() };
    assert_eq!(made, world.state.name_of(first).unwrap().to_string());
    // What was taken stays with the run that made it.
    let third = run(&mut world, &flow);
    finish(&mut world, 0);
    assert_eq!((owner(&world, third, 1), owner(&world, third, 2)), (Some(first), Some(first)));
    assert_eq!(world.replayed().hash(), world.state.hash());
}

#[test]
fn the_first_step_and_the_last_are_memoised_like_others() {
    let mut world = World::new();
    let flow = memoised(&["start > end", "end"], &[0, 1]);
    run(&mut world, &flow);
    assert_eq!(finish(&mut world, 0), ["end/0", "start/0"]);
    let second = run(&mut world, &flow);
    assert_eq!((finish(&mut world, 0), world.run_state(second)), (Vec::new(), RunState::Succeeded));
}

#[test]
fn other_inputs_code_parameters_or_another_version_make_it_run() {
    let mut flow = memoised(&LINE, &[1]);
    flow.parameters = vec![Parameter { name: "day".into(), kind: ParameterType::Str, required: true, default: None, help: String::new() }];
    let day = |day: &str| Values::from([("day".to_owned(), json!(day))]);
    let ran = |world: &mut World, flow: Definition, day: Values| {
        start(world, flow, day, false);
        finish(world, 0).contains(&"clean/0".to_owned())
    };
    let begun = || {
        let mut world = World::new();
        assert!(ran(&mut world, flow.clone(), day("1")));
        world
    };
    let version = |name: &str, package: &[u8]| {
        let mut flow = flow.clone();
        flow.package = Digest::of(package);
        flow.steps[1].memo = Some(MemoPolicy { version: Some(name.into()), expires_seconds: None });
        flow
    };
    assert!(!ran(&mut begun(), flow.clone(), day("1")));
    assert!(ran(&mut begun(), flow.clone(), day("2")), "another parameter");
    let mut world = begun();
    world.values = "other".into();
    assert!(ran(&mut world, flow.clone(), day("1")), "the step before it left something else");
    let other_code = Definition { package: Digest::of(b"mended"), ..flow.clone() };
    assert!(ran(&mut begun(), other_code, day("1")), "other code");
    let mut world = begun();
    assert!(ran(&mut world, version("v1", b"a"), day("1")), "a version is not the code");
    assert!(!ran(&mut world, version("v1", b"b"), day("1")), "the version stands for the code");
    assert!(ran(&mut world, version("v2", b"b"), day("1")), "another version");
    let mut renamed = flow.clone();
    renamed.name = "Other".parse().unwrap();
    assert!(ran(&mut begun(), renamed, day("1")), "another flow");
}

#[test]
fn results_that_have_expired_are_made_anew_and_count_from_then() {
    let mut world = World::new();
    let mut flow = memoised(&LINE, &[1]);
    flow.steps[1].memo.as_mut().unwrap().expires_seconds = Some(3600.0);
    run(&mut world, &flow);
    finish(&mut world, 0);
    for (minutes, runs) in [(59, false), (2, true), (59, false)] {
        world.now += minutes * 60_000_000;
        run(&mut world, &flow);
        assert_eq!(finish(&mut world, 0).contains(&"clean/0".to_owned()), runs, "after {minutes} minutes");
    }
}

#[test]
fn a_fresh_run_takes_nothing_and_its_results_are_taken_later() {
    let mut world = World::new();
    let flow = memoised(&LINE, &[1, 2]);
    run(&mut world, &flow);
    finish(&mut world, 0);
    let fresh = start(&mut world, flow.clone(), Values::new(), true);
    assert_eq!(finish(&mut world, 0).len(), 4);
    let third = run(&mut world, &flow);
    finish(&mut world, 0);
    assert_eq!(owner(&world, third, 2), Some(fresh));
}

#[test]
fn a_resumed_run_takes_from_the_run_it_resumes_alone() {
    let mut world = World::new();
    let flow = memoised(&LINE, &[1, 2]);
    let first = run(&mut world, &flow);
    finish(&mut world, 0);
    let resumed = world.resume(first, Some("train"), None).unwrap();
    assert_eq!(finish(&mut world, 0), ["end/0", "train/0"], "what was asked for is done again");
    let third = run(&mut world, &flow);
    finish(&mut world, 0);
    assert_eq!((owner(&world, third, 1), owner(&world, third, 2)), (Some(first), Some(resumed)));
}

#[test]
fn each_item_of_a_foreach_has_a_result_of_its_own() {
    for host in [None, Some(HostMode::Reuse)] {
        let mut world = World::new();
        let mut flow = memoised(&WIDE, &[1, 2]);
        flow.steps[1].host = host;
        run(&mut world, &flow);
        world.succeed("start/0", Some(5));
        for item in [0, 3, 4] {
            world.succeed(&format!("work/{item}"), None);
        }
        world.fail("work/1", FailureKind::User);
        let second = run(&mut world, &flow);
        assert_eq!(finish(&mut world, 5), ["end/0", "gather/0", "start/0", "work/1", "work/2"]);
        assert_eq!((world.run_state(second), world.state.run(second).unwrap().step(StepIndex(1)).reused), (RunState::Succeeded, 3));
        let third = run(&mut world, &flow);
        assert_eq!(finish(&mut world, 5), ["end/0", "start/0"], "the join has the same inputs");
        assert_eq!(world.run_state(third), RunState::Succeeded);
        world.values = "six".into();
        run(&mut world, &flow);
        assert!(finish(&mut world, 6).contains(&"work/0".to_owned()), "the step before it left another list");
    }
}

#[test]
fn items_of_a_wide_foreach_are_taken_in_pieces_and_its_join_runs() {
    let mut world = World::new();
    let mut flow = memoised(&WIDE, &[1, 2]);
    flow.steps[1].host = Some(HostMode::Reuse);
    let mut tasks = |items: u32| {
        run(&mut world, &flow);
        world.succeed("start/0", Some(items));
        let mut ran = 0;
        loop {
            world.find_all();
            world.store_blobs();
            let queued: Vec<String> = world.queued();
            if queued.is_empty() && world.blobs.is_empty() && world.sought.is_empty() {
                return ran;
            }
            ran += queued.len();
            let taken: Vec<_> = queued.iter().map(|name| world.take(name)).collect();
            let items = taken.iter().map(|(dispatch, task)| world.success(dispatch, task, None, Vec::new())).collect();
            world.report_message(items);
        }
    };
    assert_eq!(tasks(2_500), 2_502);
    assert_eq!(tasks(2_500), 2, "gather and end");
    let sought = world.turns.iter().flat_map(|turn| &turn.records).filter(|record| matches!(record, Record::ResultsSought { .. })).count();
    assert!(sought <= 6, "{sought} questions");
}

#[test]
fn switches_and_visits_go_on_as_they_did() {
    let mut world = World::new();
    let flow = memoised(&["start ? a b", "a > again", "b > again", "again ? again end", "end"], &[0, 1, 2, 3]);
    run(&mut world, &flow);
    world.choose("start/0", "b");
    world.succeed("b/0", None);
    world.choose("again/0", "again");
    world.choose("again/0~1", "again");
    world.fail("again/0~2", FailureKind::User);
    let second = run(&mut world, &flow);
    world.find_all();
    assert_eq!(world.queued(), ["again/0~2"]);
    world.choose("again/0~2", "end");
    finish(&mut world, 0);
    assert_eq!(world.run_state(second), RunState::Succeeded);
}

#[test]
fn a_result_that_is_gone_is_forgotten_and_its_task_runs() {
    let mut world = World::new();
    let flow = memoised(&LINE, &[1]);
    let first = run(&mut world, &flow);
    finish(&mut world, 0);
    world.objects.retain(|(run, _), _| *run != first);
    let second = run(&mut world, &flow);
    assert!(finish(&mut world, 0).contains(&"clean/0".to_owned()));
    let forgotten = world.turns.iter().flat_map(|turn| &turn.records).filter(|record| matches!(record, Record::ResultsForgotten { .. }));
    assert_eq!((forgotten.count(), world.run_state(second)), (1, RunState::Succeeded));
    let third = run(&mut world, &flow);
    finish(&mut world, 0);
    assert_eq!(owner(&world, third, 1), Some(second));
}

#[test]
fn a_remembered_result_that_no_longer_fits_the_graph_is_not_taken() {
    let mut world = World::new();
    let version = |mut flow: Definition| {
        flow.steps[1].memo = Some(MemoPolicy { version: Some("v1".into()), expires_seconds: None });
        flow
    };
    run(&mut world, &version(definition("Demo", &["start > fan", "fan each work", "work > gather", "gather* > end", "end"])));
    world.succeed("start/0", None);
    world.succeed("fan/0", Some(2));
    finish(&mut world, 0);
    let second = run(&mut world, &version(definition("Demo", &["start > fan", "fan > end", "end"])));
    assert_eq!(
        (finish(&mut world, 0), world.run_state(second)),
        (vec!["end/0".into(), "fan/0".into(), "start/0".into()], RunState::Succeeded)
    );
}

#[test]
fn models_are_not_published_again_and_starting_runs_is_not_remembered() {
    let mut world = World::new();
    world.deploy(definition("Other", &["only"]));
    let flow = memoised(&LINE, &[1, 2]);
    for _ in 0..2 {
        run(&mut world, &flow);
        world.succeed("start/0", None);
        world.find_all();
        if world.queued() == ["clean/0"] {
            world.publish("clean/0", "demand");
        }
        let child = ChildStart { flow: "Other".parse().unwrap(), parameters: Values::new(), wait: false, allow_failure: false };
        world.start_children("train/0", vec![child]);
        finish(&mut world, 0);
    }
    assert_eq!(world.state.models.values().map(Vec::len).sum::<usize>(), 1);
}

#[test]
fn a_leader_that_dies_while_results_are_sought_asks_again() {
    let mut world = World::new();
    let flow = memoised(&LINE, &[1, 2]);
    run(&mut world, &flow);
    finish(&mut world, 0);
    let second = run(&mut world, &flow);
    world.succeed("start/0", None);
    let before = std::mem::take(&mut world.sought);
    world.restart();
    assert_eq!((&world.sought, outstanding(&world.committed).len()), (&before, 1));
    world.sought.push(before[0].clone());
    assert_eq!((finish(&mut world, 0), world.run_state(second)), (vec!["end/0".to_owned()], RunState::Succeeded));
}

#[test]
fn what_is_remembered_outlives_its_run_and_a_copy_of_the_state() {
    let mut world = World::new();
    let flow = memoised(&LINE, &[1]);
    let first = run(&mut world, &flow);
    finish(&mut world, 0);
    world.store_history(first, 0);
    assert!(world.state.runs.get(&first).is_none());
    let mut entries = Vec::new();
    world.state.each_entry(|table, key, value| entries.push((table as u8, key, value)));
    let copy = State::restore(&world.state.header(), entries).unwrap();
    assert_eq!(copy.hash(), world.state.hash());
    let second = run(&mut world, &flow);
    finish(&mut world, 0);
    assert_eq!(owner(&world, second, 1), Some(first));
}

#[test]
fn the_oldest_results_make_room_for_new_ones() {
    let mut world = World::new();
    let first = run(&mut world, &memoised(&LINE, &[1]));
    world.succeed("start/0", None);
    world.succeed("clean/0", None);
    let key = |number: u32| MemoKey([&number.to_be_bytes()[..], &[7; 12]].concat().try_into().unwrap());
    let result = |number| ResultRemembered(Path::default(), 0, None, Some(key(number)));
    let mut state = world.state.clone();
    for thousand in 0..100 {
        let results = (thousand * 1_000..(thousand + 1) * 1_000).map(result).collect();
        state.open_turn(Timestamp(world.now + 1));
        state.apply(&Record::ResultsRemembered { run: first, step: StepIndex(1), results });
    }
    assert_eq!(state.memo.len(), 100_000);
    assert!((0..100_000).all(|number| state.memo.contains(&key(number))), "the first one of all has made room");
}

#[test]
fn steps_that_cannot_be_memoised_are_refused() {
    let problem = |flow: Definition| Flow::try_from(flow).unwrap_err().message;
    let mut caught = memoised(&LINE, &[1]);
    caught.steps[1].catch = Some(causey_protocol::policy::CatchPolicy { variable: None });
    assert_eq!(problem(caught), "step `clean` is memoised and has catch: a caught failure would be taken as its result");
    let gang = memoised(&["start gang train", "train > gather", "gather* > end", "end"], &[1]);
    assert_eq!(problem(gang), "step `train` is memoised, and is the step of a gang");
    let mut expired = memoised(&LINE, &[1]);
    expired.steps[1].memo.as_mut().unwrap().expires_seconds = Some(0.0);
    assert!(problem(expired).contains("expire after 0 seconds"));
}
