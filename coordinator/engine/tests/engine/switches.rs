//! Switch and recursion: one of several paths is taken, paths meet again without a join, a step is entered as often as it asks for.

use crate::world::{World, definition, item};
use causey_protocol::id::{RunId, StepName};
use causey_protocol::parameter::Values;
use causey_protocol::policy::RetryPolicy;
use causey_protocol::record::{Answer, Record, RunState};
use causey_protocol::task::{FailureKind, Inputs, Outcome};

/// The parents whose objects the queued task receives, as `step/path`.
fn parents(world: &World, name: &str) -> Vec<String> {
    let found = world.queue.iter().flat_map(|dispatch| dispatch.tasks.iter().map(move |task| (dispatch, task)));
    let (_, task) = found.into_iter().find(|(dispatch, task)| dispatch.task_id(task).to_string() == name).unwrap();
    let Inputs::Listed(inputs) = &task.inputs else { panic!() };
    inputs.iter().map(|input| format!("{}/{}", input.step, input.path)).collect()
}

/// The keys of a run's objects are those of its tasks, so the input's key tells the visit.
fn parent_key(world: &World, name: &str) -> String {
    let task = world.queue.iter().flat_map(|dispatch| dispatch.tasks.iter().map(move |task| (dispatch, task)));
    let (_, task) = task.into_iter().find(|(dispatch, task)| dispatch.task_id(task).to_string() == name).unwrap();
    let Inputs::Listed(inputs) = &task.inputs else { panic!() };
    inputs[0].object.key.to_string()
}

fn key_of(step: &str, visit: u32) -> String {
    causey_protocol::id::TaskId { step: StepName::new(step).unwrap(), path: Default::default(), visit }.key(0).to_string()
}

fn step_tasks(world: &World, run: RunId, name: &str) -> usize {
    let run = world.state.run(run).unwrap();
    let step = world.state.flow_of(run).unwrap().find(&StepName::new(name).unwrap()).unwrap();
    run.tasks_of(step).count()
}

#[test]
fn a_switch_opens_the_step_it_chose_and_no_other() {
    let mut world = World::new();
    let run = world.run(&["start ? left right", "left > meet", "right > meet", "meet > end", "end"]);
    let records = world.choose("start/0", "right");
    assert!(records.iter().any(|record| matches!(record, Record::SwitchTaken { .. })));
    assert_eq!(world.queued(), ["right/0"]);
    assert_eq!(parents(&world, "right/0"), ["start/0"]);
    world.succeed("right/0", None);
    assert_eq!(parents(&world, "meet/0"), ["right/0"], "the path not taken is no parent");
    world.succeed("meet/0", None);
    world.succeed("end/0", None);
    assert_eq!(world.run_state(run), RunState::Succeeded);
    assert_eq!(step_tasks(&world, run, "left"), 0);
}

#[test]
fn a_step_that_a_switch_and_another_step_lead_to_has_the_parent_that_came() {
    let lines = ["start ? long meet", "long > meet", "meet > end", "end"];
    let mut world = World::new();
    world.run(&lines);
    world.choose("start/0", "meet");
    assert_eq!(parents(&world, "meet/0"), ["start/0"]);
    let mut world = World::new();
    world.run(&lines);
    world.choose("start/0", "long");
    world.succeed("long/0", None);
    assert_eq!(parents(&world, "meet/0"), ["long/0"], "the switch came to its end too, but did not choose it");
}

#[test]
fn a_join_receives_one_object_for_each_branch_whatever_path_it_took() {
    let mut world = World::new();
    let run = world.run(&["start > right left", "left ? a b", "a > meet", "b > meet", "right > meet", "meet* > end", "end"]);
    world.succeed("start/0", None);
    world.choose("left/0", "b");
    world.succeed("b/0", None);
    assert_eq!(world.queued(), ["right/0"]);
    world.succeed("right/0", None);
    assert_eq!(parents(&world, "meet/0"), ["right/0", "b/0"]);
    world.succeed("meet/0", None);
    world.succeed("end/0", None);
    assert_eq!(world.run_state(run), RunState::Succeeded);
}

#[test]
fn items_of_a_foreach_take_paths_of_their_own_and_keep_their_places() {
    let mut world = World::new();
    world.run(&["start each sort", "sort ? a b", "a > more", "more > gather", "b > gather", "gather* > end", "end"]);
    world.succeed("start/0", Some(3));
    world.choose("sort/2", "b");
    world.choose("sort/0", "b");
    world.choose("sort/1", "a");
    for task in ["b/2", "a/1", "b/0", "more/1"] {
        world.succeed(task, None);
    }
    assert_eq!(parents(&world, "gather/0"), ["b/0", "more/1", "b/2"]);
}

#[test]
fn recursion_enters_a_step_again_with_the_result_of_its_last_visit() {
    let mut world = World::new();
    let run = world.run(&["start > again", "again ? again end", "end"]);
    world.succeed("start/0", None);
    assert_eq!(parents(&world, "again/0"), ["start/0"]);
    for (visit, name) in (0..).zip(["again/0", "again/0~1", "again/0~2"]) {
        world.choose(name, "again");
        assert_eq!(world.queued(), [format!("again/0~{}", visit + 1)]);
        assert_eq!(parent_key(&world, &world.queued()[0].clone()), key_of("again", visit));
    }
    world.choose("again/0~3", "end");
    assert_eq!(parent_key(&world, "end/0"), key_of("again", 3));
    world.succeed("end/0", None);
    assert_eq!(world.run_state(run), RunState::Succeeded);
    assert_eq!(step_tasks(&world, run, "again"), 4);
}

#[test]
fn a_retry_in_recursion_repeats_the_visit_with_the_same_parent() {
    let mut world = World::new();
    let mut flow = definition("Demo", &["start > again", "again ? again end", "end"]);
    flow.steps[1].retry = Some(RetryPolicy { times: 1, delay_seconds: 5.0, factor: 1.0, cap_seconds: 5.0, jitter: 0.0, on: Vec::new() });
    world.submit(flow, Values::new());
    world.succeed("start/0", None);
    world.choose("again/0", "again");
    let before = parent_key(&world, "again/0~1");
    world.fail("again/0~1", FailureKind::User);
    world.pass_time();
    assert_eq!((world.queued()[0].as_str(), parent_key(&world, "again/0~1")), ("again/0~1", before));
}

#[test]
fn a_restart_in_the_middle_of_a_recursion_offers_the_same_task_again() {
    let mut world = World::new();
    world.run(&["start > again", "again ? again end", "end"]);
    world.succeed("start/0", None);
    world.choose("again/0", "again");
    let before = world.queue.clone();
    world.queue.clear();
    world.restart();
    assert_eq!(world.queued(), ["again/0~1"]);
    assert_eq!(world.queue[0].tasks, before[0].tasks);
}

#[test]
fn endless_recursion_fails_at_the_bound_by_name() {
    let mut world = World::new();
    let mut flow = definition("Demo", &["start > again", "again ? again end", "end"]);
    flow.steps[1].visits_max = Some(3);
    let Answer::RunStarted { run, .. } = world.submit(flow, Values::new()) else { panic!() };
    world.succeed("start/0", None);
    for name in ["again/0", "again/0~1", "again/0~2"] {
        assert_eq!(world.run_state(run), RunState::Running);
        world.choose(name, "again");
    }
    assert_eq!(world.run_state(run), RunState::Failed);
    assert_eq!(
        world.problem(run),
        "again/0~2 failed after 1 attempt: CSY-2107: step `again` leads back to itself after 3 visits, which is its bound"
    );
}

#[test]
fn a_choice_that_is_no_case_of_the_switch_is_not_accepted() {
    for chosen in [vec!["end"], vec!["left", "right"], vec![]] {
        let mut world = World::new();
        let run = world.run(&["start ? left right", "left > end", "right > end", "end"]);
        let (dispatch, task) = world.take("start/0");
        let mut report = item(&dispatch, &task, world.success(&dispatch, &task, None, Vec::new()).outcome);
        let Outcome::Succeeded(success) = &mut report.outcome else { panic!() };
        success.next = chosen.iter().map(|step| StepName::new(step).unwrap()).collect();
        world.report(report);
        assert_eq!(world.run_state(run), RunState::Failed, "{chosen:?}");
        assert!(world.problem(run).contains("CSY-2104: step `start` went on to"), "{}", world.problem(run));
    }
}
