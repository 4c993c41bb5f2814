//! Resumed runs: what is taken from the earlier one, what runs again, and what is refused.

use causey_engine::{TaskRef, outstanding};
use causey_protocol::flow::{Flow, StepIndex};
use causey_protocol::gate::ChildStart;
use causey_protocol::id::{Path, RunId};
use causey_protocol::input::{FlowChoice, Found, Input, Request};
use causey_protocol::policy::HostMode;
use causey_protocol::problem::Code;
use causey_protocol::record::{Answer, Record, RunState};
use causey_protocol::share::Standing;
use causey_protocol::task::{FailureKind, Inputs};

use crate::world::{World, definition};

const LINE: [&str; 4] = ["start > clean", "clean > train", "train > end", "end"];
const WIDE: [&str; 5] = ["start each clean", "clean > work", "work > gather", "gather* > end", "end"];

/// A run of `lines` in which these tasks have succeeded.
fn begun(world: &mut World, lines: &[&str], tasks: &[&str]) -> RunId {
    let run = world.run(lines);
    tasks.iter().for_each(|task| drop(world.succeed(task, None)));
    run
}

/// Ends whatever is queued, and answers what is sought or stored, until there is nothing left.
fn finish(world: &mut World) {
    loop {
        look(world);
        let Some(name) = world.queued().first().cloned() else { return };
        world.succeed(&name, None);
    }
}

/// Answers what is sought or stored, until there is nothing left.
fn look(world: &mut World) {
    while !world.sought.is_empty() || !world.blobs.is_empty() {
        world.find_all();
        world.store_blobs();
    }
}

fn cancel(world: &mut World, run: RunId) {
    world.request(Request::Cancel { run, because: String::new() });
}

/// Tasks with a reused result, by step.
fn reused(world: &World, run: RunId) -> Vec<u32> {
    world.state.run(run).unwrap().steps.iter().map(|step| step.reused).collect()
}

/// Attempts that the log says were opened in a run.
fn attempts(world: &World, of: RunId) -> u32 {
    let records = world.turns.iter().flat_map(|turn| &turn.records);
    records
        .map(|record| {
            if let Record::AttemptsOpened { run, tasks, .. } = record
                && *run == of
            {
                tasks.len()
            } else {
                0
            }
        })
        .sum()
}

#[test]
fn a_failed_run_is_resumed_from_the_step_that_failed() {
    let mut world = World::new();
    let earlier = begun(&mut world, &LINE, &["start/0", "clean/0"]);
    world.fail("train/0", FailureKind::User);
    let run = world.resume(earlier, None, None).unwrap();
    world.find_all();
    assert_eq!((world.queued(), attempts(&world, run)), (vec!["train/0".to_owned()], 1));
    let (dispatch, task) = world.take("train/0");
    let Inputs::Listed(inputs) = &task.inputs else { panic!() };
    assert_eq!((inputs[0].object.run, dispatch.origin_run), (earlier, Some(earlier)), "the object stays where it was made");
    let report = world.success(&dispatch, &task, None, Vec::new());
    world.report(report);
    finish(&mut world);
    assert_eq!((world.run_state(run), reused(&world, run)), (RunState::Succeeded, vec![1, 1, 0, 0]));
    assert_eq!(world.replayed().hash(), world.state.hash());
}

#[test]
fn a_named_step_and_all_behind_it_run_again_whatever_became_of_the_run() {
    let mut world = World::new();
    let earlier = begun(&mut world, &LINE, &["start/0", "clean/0", "train/0", "end/0"]);
    let run = world.resume(earlier, Some("clean"), None).unwrap();
    finish(&mut world);
    assert_eq!((world.run_state(run), reused(&world, run), attempts(&world, run)), (RunState::Succeeded, vec![1, 0, 0, 0], 3));
    let again = &world.state.run(run).unwrap().start.cause.earlier().unwrap().again;
    let why: Vec<String> = again.iter().map(|(step, why)| format!("{step}: {why}")).collect();
    assert_eq!(why, ["clean: it was asked for", "end: `train` before it runs again", "train: `clean` before it runs again"]);
}

#[test]
fn a_run_that_resumed_another_is_resumed_itself_and_results_keep_their_owner() {
    let mut world = World::new();
    let first = begun(&mut world, &LINE, &["start/0"]);
    world.fail("clean/0", FailureKind::User);
    let second = world.resume(first, None, None).unwrap();
    world.find_all();
    world.succeed("clean/0", None);
    world.fail("train/0", FailureKind::User);
    let third = world.resume(second, None, None).unwrap();
    finish(&mut world);
    assert_eq!(reused(&world, third), [1, 1, 0, 0]);
    let owner = |step| world.state.run(third).unwrap().task(&TaskRef::new(StepIndex(step), Path::default(), 0)).unwrap().reused;
    assert_eq!([owner(0), owner(1), owner(2)], [Some(first), Some(second), None]);
}

#[test]
fn steps_that_changed_and_what_is_behind_them_run_again() {
    let mut world = World::new();
    let lines = ["start > a b", "a > meet", "b > meet", "meet* > end", "end"];
    let earlier = begun(&mut world, &lines, &["start/0", "a/0", "b/0", "meet/0"]);
    world.fail("end/0", FailureKind::User);
    let mended = definition("Demo", &["start > a b", "a > more", "more > meet", "b > meet", "meet* > end", "end"]);
    let run = world.resume(earlier, None, Some(mended)).unwrap();
    finish(&mut world);
    // start and b are taken; a goes on to another step now, more is new, and the rest is behind them.
    assert_eq!((world.run_state(run), reused(&world, run)), (RunState::Succeeded, vec![1, 0, 0, 1, 0, 0]));
}

#[test]
fn a_join_whose_branches_are_all_taken_receives_their_objects() {
    let mut world = World::new();
    let lines = ["start > a b", "a > meet", "b > meet", "meet* > end", "end"];
    let earlier = begun(&mut world, &lines, &["start/0", "a/0", "b/0"]);
    world.fail("meet/0", FailureKind::User);
    world.resume(earlier, None, None).unwrap();
    world.find_all();
    let (_, task) = world.take("meet/0");
    let Inputs::Listed(inputs) = &task.inputs else { panic!() };
    let from: Vec<(&str, RunId)> = inputs.iter().map(|input| (input.step.as_str(), input.object.run)).collect();
    assert_eq!(from, [("a", earlier), ("b", earlier)]);
}

#[test]
fn of_a_foreach_only_items_without_a_result_run_again() {
    let mut world = World::new();
    let earlier = world.run(&WIDE);
    world.succeed("start/0", Some(5));
    for item in [0, 1, 2, 4] {
        world.succeed(&format!("clean/{item}"), None);
    }
    for item in [0, 4] {
        world.succeed(&format!("work/{item}"), None);
    }
    world.fail("work/1", FailureKind::User);
    let run = world.resume(earlier, None, None).unwrap();
    world.find_all();
    let mut queued = world.queued();
    queued.sort();
    assert_eq!(queued, ["clean/3", "work/1", "work/2"]);
    finish(&mut world);
    assert_eq!((world.run_state(run), reused(&world, run)), (RunState::Succeeded, vec![1, 4, 2, 0, 0]));
}

#[test]
fn switches_and_recursion_take_the_way_they_took() {
    let mut world = World::new();
    let earlier = begun(&mut world, &["start ? a b", "a > again", "b > again", "again ? again end", "end"], &[]);
    world.choose("start/0", "b");
    world.succeed("b/0", None);
    world.choose("again/0", "again");
    world.choose("again/0~1", "again");
    world.fail("again/0~2", FailureKind::User);
    let run = world.resume(earlier, None, None).unwrap();
    world.find_all();
    assert_eq!((world.queued(), reused(&world, run)), (vec!["again/0~2".to_owned()], vec![1, 0, 1, 2, 0]));
}

/// A foreach of `count` items, all of whose results but those of `failed` are there, and no more than a window is open at once.
fn wide(world: &mut World, count: u32, failed: &str) -> RunId {
    let earlier = world.run(&WIDE);
    world.succeed("start/0", Some(count));
    loop {
        let ready: Vec<String> = world.queued().into_iter().filter(|name| name != failed).take(200).collect();
        if ready.is_empty() && world.blobs.is_empty() {
            break;
        }
        let items = ready.iter().map(|name| world.take(name)).collect::<Vec<_>>();
        let items = items.iter().map(|(dispatch, task)| world.success(dispatch, task, None, Vec::new())).collect();
        world.report_message(items);
        world.store_blobs();
    }
    world.fail(failed, FailureKind::User);
    earlier
}

#[test]
fn of_a_wide_foreach_whole_chunks_are_taken_and_the_log_stays_small() {
    let mut world = World::new();
    let earlier = wide(&mut world, 3_500, "work/2345");
    let turns = world.turns.len();
    let run = world.resume(earlier, None, None).unwrap();
    look(&mut world);
    assert_eq!((world.queued(), attempts(&world, run)), (vec!["work/2345".to_owned()], 1));
    let records: Vec<&Record> = world.turns[turns..].iter().flat_map(|turn| &turn.records).collect();
    let chunks = records.iter().filter(|record| matches!(record, Record::ChunkReused { .. })).count();
    assert_eq!((chunks, reused(&world, run)), (3, vec![1, 3_500, 3_499, 0, 0]));
    assert!(records.len() < 40, "{}", records.len());
    assert_eq!(world.replayed().hash(), world.state.hash());
    finish(&mut world);
    assert_eq!(world.run_state(run), RunState::Succeeded);
    assert_eq!(world.replayed().hash(), world.state.hash());
}

#[test]
fn of_a_stored_chunk_a_step_that_does_not_run_again_is_taken_item_by_item() {
    let mut world = World::new();
    let earlier = wide(&mut world, 1_100, "work/1050");
    let mut mended = definition("Demo", &WIDE);
    mended.steps[2].host = Some(HostMode::Reuse);
    let run = world.resume(earlier, Some("work"), Some(mended)).unwrap();
    world.find_all();
    finish(&mut world);
    assert_eq!((world.run_state(run), reused(&world, run), attempts(&world, run)), (RunState::Succeeded, vec![1, 1_100, 0, 0, 0], 1_102));
    // The new chunks say whose results they hold.
    let again = world.resume(run, Some("gather"), None).unwrap();
    look(&mut world);
    assert_eq!((reused(&world, again), world.queued()), (vec![1, 1_100, 1_100, 0, 0], vec!["gather/0".to_owned()]));
}

#[test]
fn a_retired_run_is_resumed_from_its_history() {
    let mut world = World::new();
    let earlier = begun(&mut world, &LINE, &["start/0", "clean/0"]);
    world.fail("train/0", FailureKind::User);
    world.store_history(earlier, 0);
    assert!(world.state.run(earlier).is_none());
    let run = world.resume(earlier, None, None).unwrap();
    finish(&mut world);
    assert_eq!((world.run_state(run), reused(&world, run)), (RunState::Succeeded, vec![1, 1, 0, 0]));
}

#[test]
fn a_leader_that_dies_while_results_are_sought_asks_again_and_takes_them_once() {
    let mut world = World::new();
    let earlier = begun(&mut world, &LINE, &["start/0", "clean/0"]);
    world.fail("train/0", FailureKind::User);
    let run = world.resume(earlier, None, None).unwrap();
    let before = world.sought.clone();
    world.sought.clear();
    world.restart();
    assert_eq!(world.sought, before);
    let twice = world.sought[0].clone();
    world.find(0);
    world.sought.insert(0, twice);
    let records = world.find(0);
    assert!(matches!(records[..], [Record::Ignored { .. }]), "{records:?}");
    assert_eq!(outstanding(&world.committed).len(), 1, "what is sought now");
    finish(&mut world);
    assert_eq!((world.run_state(run), reused(&world, run)), (RunState::Succeeded, vec![1, 1, 0, 0]));
}

#[test]
fn a_result_that_is_missing_in_the_store_fails_the_run_with_a_name() {
    let mut world = World::new();
    let earlier = begun(&mut world, &LINE, &["start/0", "clean/0"]);
    world.fail("train/0", FailureKind::User);
    let run = world.resume(earlier, None, None).unwrap();
    let sought = world.sought.remove(0);
    let found = Found::Broken { because: "object runs/1/2 is missing or damaged".into() };
    world.input(Input::ResultsFound { run, step: sought.step, tasks: sought.tasks, found });
    assert_eq!(world.run_state(run), RunState::Failed);
    let name = &world.state.run(earlier).unwrap().start.name;
    assert_eq!(world.problem(run), format!("a result of run {name} cannot be reused: object runs/1/2 is missing or damaged"));
}

#[test]
fn models_of_taken_tasks_are_not_published_again() {
    let mut world = World::new();
    let earlier = world.run(&LINE);
    world.publish("start/0", "demand");
    world.fail("clean/0", FailureKind::User);
    let run = world.resume(earlier, None, None).unwrap();
    finish(&mut world);
    let versions = &world.state.models.get(&"demand".parse().unwrap()).unwrap();
    assert_eq!((world.run_state(run), versions.len(), versions[0].run), (RunState::Succeeded, 1, earlier));
}

#[test]
fn a_cancelled_resume_seeks_no_more() {
    let mut world = World::new();
    let earlier = begun(&mut world, &LINE, &["start/0"]);
    cancel(&mut world, earlier);
    let run = world.resume(earlier, None, None).unwrap();
    cancel(&mut world, run);
    let records = world.find(0);
    assert!(matches!(records[..], [Record::Ignored { .. }]), "{records:?}");
    assert_eq!((world.run_state(run), outstanding(&world.committed).len()), (RunState::Cancelled, 0));
}

#[test]
fn what_cannot_be_resumed_is_refused_with_what_to_do() {
    let mut world = World::new();
    let running = begun(&mut world, &LINE, &["start/0"]);
    let refused = |world: &mut World, run, step, mended| {
        let problem = world.resume(run, step, mended).unwrap_err();
        (problem.code, problem.hint.unwrap_or_default())
    };
    let name = world.state.run(running).unwrap().start.name.clone();
    let hint = format!("wait for it, or cancel it first: causey cancel {name}");
    assert_eq!(refused(&mut world, running, None, None), (Code::NOT_RESUMABLE, hint));
    finish(&mut world);
    let hint = format!("name the step to run again: causey resume {name} STEP");
    assert_eq!(refused(&mut world, running, None, None), (Code::NOT_RESUMABLE, hint));
    assert_eq!(refused(&mut world, running, Some("trian"), None), (Code::NOT_FOUND, "it has: start, clean, train, end".into()));
    let other = Some(definition("Other", &LINE));
    assert_eq!(refused(&mut world, running, Some("train"), other), (Code::NOT_RESUMABLE, "name a run of this flow: causey runs".into()));
}

#[test]
fn the_same_request_twice_starts_one_run() {
    let mut world = World::new();
    let earlier = begun(&mut world, &LINE, &["start/0"]);
    cancel(&mut world, earlier);
    let run = world.resume(earlier, None, None).unwrap();
    // Its answer has been forgotten, its origin has not.
    world.now += 11 * 60_000_000;
    let repeated = world.turns.iter().flat_map(|turn| &turn.records).find_map(|record| match record {
        Record::RequestAnswered { id, answer: Answer::RunStarted { run: started, .. } } if *started == run => Some(id.clone()),
        _ => None,
    });
    let state = &world.state;
    let (found, flow) = (state.run(run).unwrap(), state.flow_of(state.run(run).unwrap()).unwrap());
    let wish = causey_protocol::input::Resume {
        earlier: found.start.cause.earlier().unwrap().clone(),
        flow: (*flow).clone(),
        version: None,
        parameters: Default::default(),
        tags: Vec::new(),
        host: None,
        timeout_seconds: None,
        standing: Default::default(),
    };
    let (id, request) = (repeated.unwrap(), Request::Resume(Box::new(wish)));
    let message = causey_protocol::input::RequestMessage { id, user: "ann".into(), request };
    let records = world.input(Input::Request(message));
    assert!(matches!(&records[..], [Record::RequestAnswered { answer: Answer::RunStarted { run: same, .. }, .. }] if *same == run));
}

#[test]
fn a_resumed_run_stands_as_its_earlier_one_was_asked_to_and_else_as_its_flow_says_now() {
    let mut world = World::new();
    let mut flow = definition("Demo", &LINE);
    flow.standing = Standing { priority: Some(3), max_parallel: Some(8) };
    let submit = Request::Submit {
        flow: FlowChoice::Given(Box::new(Flow::try_from(flow.clone()).unwrap())),
        parameters: Default::default(),
        tags: Vec::new(),
        host: None,
        timeout_seconds: None,
        standing: Standing { priority: Some(50), max_parallel: None },
        fresh: false,
    };
    let Answer::RunStarted { run: earlier, .. } = world.request(submit) else { panic!() };
    let standing = |world: &World, run: RunId| world.state.run(run).unwrap().start.standing;
    assert_eq!(standing(&world, earlier), Standing { priority: Some(50), max_parallel: Some(8) });
    cancel(&mut world, earlier);
    flow.standing = Standing { priority: Some(4), max_parallel: Some(9) };
    let run = world.resume(earlier, None, Some(flow)).unwrap();
    assert_eq!(standing(&world, run), Standing { priority: Some(50), max_parallel: Some(9) });
}

#[test]
fn a_gang_is_taken_whole_or_runs_again_whole() {
    let lines = ["start gang train", "train > gather", "gather* > end", "end"];
    let mut world = World::new();
    let earlier = world.run(&lines);
    world.succeed("start/0", Some(2));
    let members = world.form("train");
    world.end_well(members);
    world.fail("gather/0", FailureKind::User);
    let run = world.resume(earlier, None, None).unwrap();
    world.find_all();
    assert_eq!((world.queued(), reused(&world, run)), (vec!["gather/0".to_owned()], vec![1, 2, 0, 0]));
    cancel(&mut world, run);
    let again = world.resume(earlier, Some("train"), None).unwrap();
    world.find_all();
    assert_eq!((world.queued(), reused(&world, again)), (vec!["train/0".to_owned(), "train/1".to_owned()], vec![1, 0, 0, 0]));
    cancel(&mut world, again);
    // A gang that has not formed has no result: it is sought, and stands in line.
    let third = world.resume(again, None, None).unwrap();
    world.find_all();
    assert_eq!((world.queued().len(), reused(&world, third)), (2, vec![1, 0, 0, 0]));
}

#[test]
fn what_waits_for_signals_or_started_other_runs_runs_again() {
    let mut world = World::new();
    let mut flow = definition("Demo", &LINE);
    let gate = serde_json::json!({"signals": [{"name": "go"}]});
    flow.steps[1].gate = Some(Box::new(serde_json::from_value(gate).unwrap()));
    let Answer::RunStarted { run: earlier, .. } = world.submit(flow, Default::default()) else { panic!() };
    let go = |run| Request::Signal { run, name: "go".parse().unwrap(), data: serde_json::json!(1) };
    world.request(go(earlier));
    world.succeed("start/0", None);
    world.succeed("clean/0", None);
    world.fail("train/0", FailureKind::User);
    let run = world.resume(earlier, None, None).unwrap();
    world.find_all();
    assert_eq!((world.queued().len(), reused(&world, run)), (0, vec![1, 0, 0, 0]));
    world.request(go(run));
    finish(&mut world);
    assert_eq!((world.run_state(run), reused(&world, run)), (RunState::Succeeded, vec![1, 0, 0, 0]));

    world.deploy(definition("Child", &["only"]));
    let parent = world.run(&LINE);
    let child = ChildStart { flow: "Child".parse().unwrap(), parameters: Default::default(), wait: true, allow_failure: false };
    world.start_children("start/0", vec![child]);
    cancel(&mut world, parent);
    let run = world.resume(parent, None, None).unwrap();
    world.find_all();
    assert_eq!(reused(&world, run), [0, 0, 0, 0]);
    let again = &world.state.run(run).unwrap().start.cause.earlier().unwrap().again;
    assert_eq!(again[&"start".parse().unwrap()], "it started other runs, which are not taken over");
}

#[test]
fn a_join_that_waits_for_runs_is_sought_once_before_that() {
    let mut world = World::new();
    world.deploy(definition("Child", &["top > bottom", "bottom"]));
    let earlier = world.run(&WIDE);
    world.succeed("start/0", Some(2));
    cancel(&mut world, earlier);
    let run = world.resume(earlier, None, None).unwrap();
    look(&mut world);
    let child = ChildStart { flow: "Child".parse().unwrap(), parameters: Default::default(), wait: true, allow_failure: false };
    for name in ["clean/0", "clean/1"] {
        world.succeed(name, None);
    }
    world.start_children("work/0", vec![child.clone()]);
    world.start_children("work/1", vec![child]);
    look(&mut world);
    // The first child ends long before the second.
    for name in ["top/0", "bottom/0", "top/0", "bottom/0"] {
        world.succeed(name, None);
        look(&mut world);
    }
    finish(&mut world);
    assert_eq!(world.run_state(run), RunState::Succeeded);
    let records = world.turns.iter().flat_map(|turn| &turn.records);
    let sought = |record: &&Record| matches!(record, Record::ResultsSought { run: of, step: StepIndex(3), .. } if *of == run);
    assert_eq!(records.filter(sought).count(), 1);
}
