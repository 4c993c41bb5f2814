//! What the engine decides, scenario by scenario.

use crate::world::{World, definition, input_count, item, pool};
use causey_engine::TaskState;
use causey_protocol::chunk::{CHUNK_BYTES_MAX, Chunk, ChunkList};
use causey_protocol::codec::decode;
use causey_protocol::id::Digest;
use causey_protocol::input::{Input, Request};
use causey_protocol::parameter::{Parameter, ParameterType, Values};
use causey_protocol::policy::{CatchPolicy, HostMode, RetryPolicy};
use causey_protocol::record::{Answer, Record, RunState};
use causey_protocol::task::{FailureKind, Inputs, Outcome};
use serde_json::json;

fn ignored(records: &[Record]) -> &str {
    match records {
        [Record::Ignored { because }] => because,
        other => panic!("not ignored: {other:?}"),
    }
}

fn retry(times: u32, delay_seconds: f64) -> Option<RetryPolicy> {
    Some(RetryPolicy { times, delay_seconds, factor: 1.0, cap_seconds: 3600.0, jitter: 0.0, on: Vec::new() })
}

#[test]
fn a_linear_run_opens_each_step_once_its_parent_succeeded() {
    let mut world = World::new();
    let run = world.run(&["start > middle", "middle > end", "end"]);
    for step in ["start/0", "middle/0", "end/0"] {
        assert_eq!(world.queued(), [step]);
        world.succeed(step, None);
    }
    assert_eq!(world.run_state(run), RunState::Succeeded);
    assert!(world.queued().is_empty());
}

#[test]
fn a_task_receives_its_parents_object() {
    let mut world = World::new();
    world.run(&["start > end", "end"]);
    world.succeed("start/0", None);
    let (_, task) = world.take("end/0");
    let Inputs::Listed(inputs) = task.inputs else { panic!() };
    assert_eq!((inputs[0].step.as_str(), inputs[0].object.bytes), ("start", 10));
}

#[test]
fn a_join_waits_for_all_branches_and_receives_them_in_the_order_the_split_names_them() {
    let mut world = World::new();
    world.run(&["start > b a", "a > meet", "b > meet", "meet* > end", "end"]);
    world.succeed("start/0", None);
    world.succeed("a/0", None);
    assert_eq!(world.queued(), ["b/0"]);
    world.succeed("b/0", None);
    let (_, task) = world.take("meet/0");
    let Inputs::Listed(inputs) = task.inputs else { panic!() };
    assert_eq!(inputs.iter().map(|input| input.step.as_str()).collect::<Vec<_>>(), ["b", "a"]);
}

#[test]
fn a_nested_foreach_joins_level_by_level() {
    let mut world = World::new();
    let run = world.run(&["start each outer", "outer each inner", "inner > fold", "fold* > gather", "gather* > end", "end"]);
    world.succeed("start/0", Some(2));
    world.succeed("outer/0", Some(2));
    world.succeed("outer/1", Some(1));
    assert_eq!(world.queued(), ["inner/0.0", "inner/0.1", "inner/1.0"]);
    let (dispatch, _) = (world.queue[2].clone(), ());
    assert_eq!(dispatch.splits.iter().map(|split| (split.step.as_str(), split.count)).collect::<Vec<_>>(), [("start", 2), ("outer", 1)]);
    world.succeed("inner/1.0", None);
    world.succeed("inner/0.1", None);
    assert_eq!(world.queued(), ["inner/0.0", "fold/1"]);
    world.succeed("inner/0.0", None);
    world.succeed("fold/1", None);
    world.succeed("fold/0", None);
    world.succeed("gather/0", None);
    world.succeed("end/0", None);
    assert_eq!(world.run_state(run), RunState::Succeeded);
}

#[test]
fn a_join_of_some_hundreds_waits_for_the_manifest_of_its_inputs() {
    let mut world = World::new();
    let run = world.run(&["start each work", "work > gather", "gather* > end", "end"]);
    world.succeed("start/0", Some(1_000));
    for index in 0..1_000 {
        world.succeed(&format!("work/{index}"), None);
    }
    assert!(world.queued().is_empty(), "the join waits for its manifest");
    assert_eq!(world.blobs.len(), 1);
    let other = Input::BlobStored { digest: causey_protocol::id::Digest::of(b"other") };
    assert!(ignored(&world.input(other)).starts_with("nothing waits for blob"));
    world.store_blobs();
    let (_, task) = world.take("gather/0");
    assert!(matches!(task.inputs, Inputs::Manifest { count: 1_000, .. }));
    assert_eq!(world.run_state(run), RunState::Running);
}

#[test]
fn a_wide_foreach_opens_a_window_and_its_results_leave_the_state_chunk_by_chunk() {
    let mut world = World::new();
    let run = world.run(&["start each work", "work > gather", "gather* > end", "end"]);
    world.succeed("start/0", Some(3_500));
    assert_eq!(world.queued().len(), 1_024);
    for index in (0..3_500).filter(|index| *index != 1_500) {
        world.succeed(&format!("work/{index}"), None);
    }
    assert_eq!(world.blobs.len(), 3, "the chunk of the late item is not full");
    world.store_blobs();
    let held = world.state.run(run).unwrap().tasks(std::ops::Bound::Unbounded).count();
    assert_eq!(held, 1 + 1_000);
    world.restart();
    world.succeed("work/1500", None);
    world.restart();
    world.restart();
    assert!(world.queued().is_empty(), "the join waits for its inputs");
    world.store_blobs();
    let (_, task) = world.take("gather/0");
    assert_eq!(input_count(&task.inputs), 3_500);
    let Inputs::Chunks { digest, .. } = task.inputs else { panic!() };
    let list: ChunkList = decode(&world.store[&digest], CHUNK_BYTES_MAX).unwrap();
    let mut items = 0;
    for digest in &list.foreach.chunks {
        let chunk: Chunk = decode(&world.store[digest], CHUNK_BYTES_MAX).unwrap();
        for task in chunk.tasks(&list.step) {
            assert_eq!((task.id.path.0.as_slice(), task.worker.as_ref().unwrap().as_str()), ([items].as_slice(), "w"));
            assert_eq!(task.object.digest, Digest::of(task.id.to_string().as_bytes()));
            items += 1;
        }
    }
    assert_eq!(items, 3_500);
    let step = world.state.run(run).unwrap().steps[1];
    assert_eq!((step.stored, step.counts[TaskState::Succeeded as usize]), (3_500, 3_500));
}

/// Row 38 of the fault model.
#[test]
fn late_items_and_a_slow_store_hold_a_wide_foreach_back() {
    let mut world = World::new();
    let run = world.run(&["start each work", "work > gather", "gather* > end", "end"]);
    world.succeed("start/0", Some(40_000));
    let held = |world: &World| world.state.run(run).unwrap().tasks(std::ops::Bound::Unbounded).count();
    while !world.queue.is_empty() {
        let queue = std::mem::take(&mut world.queue);
        let items = queue.iter().map(|dispatch| world.success(dispatch, &dispatch.tasks[0], None, Vec::new())).collect();
        world.report_message(items);
    }
    assert!((32_000..35_000).contains(&held(&world)), "{}", held(&world));
    world.store_blobs();
    assert!(!world.queue.is_empty(), "stored chunks make room");
    assert!(held(&world) < 3_000, "{}", held(&world));
}

#[test]
fn a_pack_of_successes_is_one_record_and_opens_the_next_step_in_lists() {
    let mut world = World::new();
    let mut flow = definition("Demo", &["start each one", "one > two", "two > gather", "gather* > end", "end"]);
    flow.steps[1].host = Some(HostMode::Reuse);
    flow.steps[2].host = Some(HostMode::Reuse);
    world.submit(flow, Values::new());
    world.succeed("start/0", Some(64));
    let queue = std::mem::take(&mut world.queue);
    let mut items: Vec<_> = queue
        .iter()
        .flat_map(|dispatch| dispatch.tasks.iter().map(|task| (dispatch.clone(), task.clone())))
        .map(|(dispatch, task)| world.success(&dispatch, &task, None, Vec::new()))
        .collect();
    items.push(items[3].clone());
    items.swap(0, 60);
    let records = world.report_message(items.clone());
    let packed =
        records.iter().filter_map(|record| if let Record::AttemptsSucceeded { items, .. } = record { Some(items.len()) } else { None });
    assert_eq!(packed.collect::<Vec<_>>(), [64]);
    assert_eq!(
        (world.queue.len(), world.queue[0].tasks.len(), world.queue[0].tasks[0].inputs.clone()),
        (1, 64, world.queue[0].tasks[0].inputs.clone())
    );
    let again = world.report_message(items);
    assert!(ignored(&again).starts_with("65 late reports"), "{again:?}");
    let other = Input::Report { pool: pool("gpu"), worker: "w".parse().unwrap(), items: Vec::new() };
    assert!(world.input(other).is_empty());
}

/// Row 26 of the fault model.
#[test]
fn the_rest_of_a_list_stays_on_offer_when_its_first_task_is_tried_again() {
    let mut world = World::new();
    let mut flow = definition("Demo", &["start each work", "work > gather", "gather* > end", "end"]);
    flow.steps[1].host = Some(HostMode::Reuse);
    let Answer::RunStarted { run, .. } = world.submit(flow, Values::new()) else { panic!() };
    world.succeed("start/0", Some(64));
    let list = world.queue[0].clone();
    assert_eq!(list.tasks.len(), 2);
    let (dispatch, first) = world.started("work/0", "w1");
    world.request(Request::WorkerLost { pool: pool("default"), worker: "w1".parse().unwrap() });
    assert_eq!(world.queued().iter().filter(|name| *name == "work/1").count(), 1, "the message is needed for the other task");
    let late = world.success(&dispatch, &first, None, Vec::new());
    assert!(ignored(&world.report(late)).starts_with("late report"));
    world.queue.clear();
    world.restart();
    let offered: Vec<(u32, usize)> = world.queue[..2].iter().map(|dispatch| (dispatch.tasks[0].attempt, dispatch.tasks.len())).collect();
    assert_eq!(offered, [(0, 2), (1, 1)]);
    let second = world.success(&list, &list.tasks[1], None, Vec::new());
    world.report(second);
    assert_eq!(world.state.run(run).unwrap().steps[1].counts[TaskState::Succeeded as usize], 1);
}

#[test]
fn nested_wide_foreaches_are_chunks_within_chunks() {
    let mut world = World::new();
    let lines = ["start each outer", "outer each inner", "inner > fold", "fold* > gather", "gather* > end", "end"];
    let run = world.run(&lines);
    world.succeed("start/0", Some(1_001));
    for outer in 0..1_001 {
        let count = if outer == 7 { 65 } else { 1 };
        world.succeed(&format!("outer/{outer}"), Some(count));
        for inner in 0..count {
            world.succeed(&format!("inner/{outer}.{inner}"), None);
        }
        world.store_blobs();
        world.succeed(&format!("fold/{outer}"), None);
    }
    world.store_blobs();
    let (_, task) = world.take("gather/0");
    let Inputs::Chunks { digest, count: 1_001 } = task.inputs else { panic!() };
    let list: ChunkList = decode(&world.store[&digest], CHUNK_BYTES_MAX).unwrap();
    let chunk: Chunk = decode(&world.store[&list.foreach.chunks[0]], CHUNK_BYTES_MAX).unwrap();
    let names: Vec<(String, usize)> = chunk.steps.iter().map(|step| (step.step.to_string(), step.tasks.len())).collect();
    assert_eq!(names, [("outer".to_owned(), 1_000), ("inner".to_owned(), 999), ("fold".to_owned(), 1_000)]);
    assert_eq!(chunk.nested.iter().map(|nested| (nested.path.0.clone(), nested.count)).collect::<Vec<_>>(), [(vec![7], 65)]);
    let inner: Chunk = decode(&world.store[&chunk.nested[0].chunks[0]], CHUNK_BYTES_MAX).unwrap();
    assert_eq!(inner.tasks(&"inner".parse().unwrap()).count(), 65);
    let run = world.state.run(run).unwrap();
    assert_eq!(run.tasks(std::ops::Bound::Unbounded).count(), 2, "start and gather");
    assert_eq!(run.foreaches.len(), 1);
}

#[test]
fn a_log_without_chunks_still_runs_to_its_end() {
    let mut world = World::new();
    world.run(&["start each work", "work > gather", "gather* > end", "end"]);
    let (dispatch, task) = world.take("start/0");
    let report = world.success(&dispatch, &task, Some(1_100), Vec::new());
    world.report(report);
    // What an earlier version wrote of a foreach this wide.
    for record in world.turns.iter_mut().flat_map(|turn| &mut turn.records) {
        if let Record::ForeachOpened { chunk, .. } = record {
            *chunk = None;
        }
    }
    world.restart();
    for index in 0..1_100 {
        world.succeed(&format!("work/{index}"), None);
    }
    world.store_blobs();
    assert!(matches!(world.take("gather/0").1.inputs, Inputs::Manifest { count: 1_100, .. }));
}

#[test]
fn reused_hosts_get_lists_of_tasks() {
    let mut world = World::new();
    let mut flow = definition("Demo", &["start each work", "work > gather", "gather* > end", "end"]);
    flow.steps[1].host = Some(HostMode::Reuse);
    world.submit(flow, Values::new());
    world.succeed("start/0", Some(1_000));
    assert_eq!(world.queue.len(), 33);
    assert_eq!(world.queue[0].tasks.len(), 31);
}

#[test]
fn a_failure_is_retried_after_its_delay_as_often_as_asked() {
    let mut world = World::new();
    let mut flow = definition("Demo", &["start > end", "end"]);
    flow.steps[0].retry = retry(2, 30.0);
    let Answer::RunStarted { run, .. } = world.submit(flow, Values::new()) else { panic!() };
    for retries in 1..=2 {
        world.fail("start/0", FailureKind::User);
        assert!(world.queued().is_empty());
        let now = world.now;
        world.pass_time();
        assert_eq!(world.now, now + 30_000_000 + 1_000);
        assert_eq!((world.queue[0].tasks[0].attempt, world.queue[0].tasks[0].retry), (retries, retries));
    }
    world.fail("start/0", FailureKind::User);
    assert_eq!(world.run_state(run), RunState::Failed);
    assert_eq!(world.problem(run), "start/0 failed after 3 attempts: ValueError: bad");
}

/// Row 19 of the fault model.
#[test]
fn infrastructure_failures_and_hand_backs_are_not_charged() {
    let mut world = World::new();
    let run = world.run(&["start > end", "end"]);
    world.fail("start/0", FailureKind::Infrastructure);
    world.pass_time();
    let (dispatch, task) = world.take("start/0");
    assert_eq!((task.attempt, task.retry), (1, 0));
    world.report(item(&dispatch, &task, Outcome::Released { because: "draining".into() }));
    assert_eq!((world.queue[0].tasks[0].attempt, world.queue[0].tasks[0].retry), (2, 0));
    assert_eq!(world.run_state(run), RunState::Running);
}

#[test]
fn a_caught_step_whose_process_dies_gets_a_fallback_attempt() {
    let mut world = World::new();
    let mut flow = definition("Demo", &["start > end", "end"]);
    flow.steps[0].catch = Some(CatchPolicy { variable: None });
    world.submit(flow, Values::new());
    world.fail("start/0", FailureKind::User);
    let (dispatch, task) = world.take("start/0");
    assert!(task.retry > dispatch.retries_max, "the host must be told to run the fallback");
}

#[test]
fn one_failure_aborts_the_siblings() {
    let mut world = World::new();
    let run = world.run(&["start > a b", "a > meet", "b > meet", "meet* > end", "end"]);
    world.succeed("start/0", None);
    let (dispatch, task) = world.take("b/0");
    world.fail("a/0", FailureKind::User);
    assert_eq!(world.run_state(run), RunState::Failed);
    assert_eq!(world.cancelled, [run]);
    let late = world.success(&dispatch, &task, None, Vec::new());
    assert!(ignored(&world.report(late)).starts_with("late report"));
}

/// Rows 2 and 25 of the fault model.
#[test]
fn late_and_repeated_reports_are_ignored() {
    let mut world = World::new();
    world.run(&["start > end", "end"]);
    let (dispatch, task) = world.take("start/0");
    let report = world.success(&dispatch, &task, None, Vec::new());
    world.report(report.clone());
    assert!(ignored(&world.report(report)).starts_with("late report"));
}

/// Row 41 of the fault model.
#[test]
fn a_report_of_another_pool_does_not_count() {
    let mut world = World::new();
    world.run(&["start > end", "end"]);
    let (dispatch, task) = world.take("start/0");
    let item = world.success(&dispatch, &task, None, Vec::new());
    let records = world.input(Input::Report { pool: pool("gpu"), worker: "w".parse().unwrap(), items: vec![item] });
    assert!(ignored(&records).starts_with("report by a worker of pool gpu"));
}

#[test]
fn a_result_that_contradicts_the_graph_fails_the_run() {
    let mut world = World::new();
    let run = world.run(&["start each work", "work > gather", "gather* > end", "end"]);
    world.succeed("start/0", Some(0));
    assert_eq!(world.run_state(run), RunState::Failed);
    assert!(world.problem(run).contains("foreach over `items`, which has no items"), "{}", world.problem(run));
}

/// Row 27 of the fault model.
#[test]
fn attempts_of_a_lost_worker_run_again_until_the_task_is_poison() {
    let mut world = World::new();
    let run = world.run(&["start > end", "end"]);
    for attempt in 0..4 {
        assert_eq!(world.queue[0].tasks[0].attempt, attempt);
        world.started("start/0", "w1");
        let other = Request::WorkerLost { pool: pool("default"), worker: "w2".parse().unwrap() };
        world.request(other);
        assert!(world.queued().is_empty(), "another worker's loss changes nothing");
        world.request(Request::WorkerLost { pool: pool("default"), worker: "w1".parse().unwrap() });
    }
    assert_eq!(world.run_state(run), RunState::Failed);
    assert!(world.problem(run).contains("is poison"));
}

#[test]
fn cancel_closes_everything_and_is_answered_again_the_same() {
    let mut world = World::new();
    let run = world.run(&["start each work", "work > gather", "gather* > end", "end"]);
    world.succeed("start/0", Some(100));
    let cancel = || Request::Cancel { run, because: "wrong data".into() };
    assert_eq!(world.request(cancel()), Answer::Cancelling { run });
    assert_eq!(world.request(cancel()), Answer::Cancelling { run });
    assert_eq!((world.run_state(run), world.problem(run).as_str()), (RunState::Cancelled, "cancelled on request: wrong data"));
    assert!(world.queued().is_empty());
}

/// Row 24 of the fault model.
#[test]
fn a_repeated_request_starts_no_second_run() {
    let mut world = World::new();
    let flow = || causey_protocol::input::FlowChoice::Given(Box::new(definition("Demo", &["only"]).try_into().unwrap()));
    let submit = || Request::Submit {
        flow: flow(),
        parameters: Values::new(),
        tags: Vec::new(),
        host: None,
        timeout_seconds: None,
        standing: Default::default(),
        fresh: false,
    };
    let message = || causey_protocol::input::RequestMessage { id: "same".parse().unwrap(), user: "ann".into(), request: submit() };
    world.input(Input::Request(message()));
    assert!(ignored(&world.input(Input::Request(message()))).contains("has been answered"));
    // Ten minutes later the answer is forgotten, but not the origin.
    world.now += 11 * 60 * 1_000_000;
    world.input(Input::Request(message()));
    assert_eq!(world.state.runs.len(), 1);
}

/// Row 24 of the fault model.
#[test]
fn an_event_starts_one_run_per_trigger_however_often_it_comes() {
    let mut world = World::new();
    let mut flow = definition("Daily", &["only"]);
    flow.parameters = vec![Parameter { name: "day".into(), kind: ParameterType::Str, required: true, default: None, help: String::new() }];
    flow.triggers = serde_json::from_value(json!([{"events": [{"name": "arrived", "parameters": {"day": "date"}}]}])).unwrap();
    assert!(matches!(world.deploy(flow.clone()), Answer::Deployed { version: 1, .. }));
    assert!(matches!(world.deploy(flow), Answer::Deployed { version: 1, .. }), "the same definition is the same version");
    for sequence in 1..=3 {
        world.event(sequence, "e1", "arrived", &json!({"date": "2026-01-01"}));
    }
    assert_eq!(world.state.runs.len(), 1);
    let run = world.state.runs.values().next().unwrap();
    assert_eq!((run.start.parameters["day"].as_str(), run.start.version), (Some("2026-01-01"), Some(1)));
    assert!(world.state.events_taken.get(&2).unwrap().duplicate);
    assert!(!world.state.events_taken.get(&1).unwrap().duplicate);
}

/// Row 36 of the fault model.
#[test]
fn a_run_keeps_the_version_it_started_with() {
    let mut world = World::new();
    let deploy = |world: &mut World, join: &str| {
        let lines = ["start each work".into(), format!("work > {join}"), format!("{join}* > end"), "end".into()];
        let mut flow = definition("Daily", &lines.each_ref().map(String::as_str));
        flow.triggers = serde_json::from_value(json!([{"events": [{"name": "arrived"}]}])).unwrap();
        world.deploy(flow)
    };
    deploy(&mut world, "gather");
    world.event(1, "e1", "arrived", &json!({}));
    world.succeed("start/0", Some(2));
    world.succeed("work/1", None);
    assert!(matches!(deploy(&mut world, "collect"), Answer::Deployed { version: 2, .. }));
    world.restart();
    world.succeed("work/0", None);
    assert_eq!(world.queued(), ["gather/0"]);
    world.event(2, "e2", "arrived", &json!({}));
    let versions: Vec<_> = world.state.runs.values().map(|run| run.start.version).collect();
    assert_eq!(versions, [Some(1), Some(2)]);
}

#[test]
fn an_event_that_starts_nothing_says_why() {
    let mut world = World::new();
    world.event(1, "e1", "nobody", &json!({}));
    assert_eq!(world.state.events_taken.get(&1).unwrap().because, ["no deployed flow has a trigger on `nobody`"]);
    let mut flow = definition("Daily", &["only"]);
    flow.parameters = vec![Parameter { name: "day".into(), kind: ParameterType::Int, required: true, default: None, help: String::new() }];
    flow.triggers = serde_json::from_value(json!([{"events": [{"name": "arrived"}]}])).unwrap();
    world.deploy(flow);
    world.event(2, "e2", "arrived", &json!({"day": "monday"}));
    assert_eq!(world.state.events_taken.get(&2).unwrap().because, ["flow Daily: parameter `day` needs an integer, got \"monday\""]);
    assert!(world.state.runs.is_empty());
}

#[test]
fn an_event_too_large_for_a_dispatch_starts_nothing() {
    let mut world = World::new();
    let mut flow = definition("Daily", &["only"]);
    flow.triggers = serde_json::from_value(json!([{"events": [{"name": "arrived"}]}])).unwrap();
    world.deploy(flow);
    world.event(1, "e1", "arrived", &json!({"blob": "x".repeat(200_000)}));
    assert!(world.state.events_taken.get(&1).unwrap().because[0].contains("pass large data by its address"));
    assert!(world.state.runs.is_empty());
}

#[test]
fn a_trigger_on_two_events_waits_for_both() {
    let mut world = World::new();
    let mut flow = definition("Both", &["only"]);
    flow.triggers = serde_json::from_value(json!([{"events": [{"name": "a"}, {"name": "b"}]}])).unwrap();
    world.deploy(flow);
    world.event(1, "a1", "a", &json!({}));
    assert_eq!(world.state.events_taken.get(&1).unwrap().because, ["flow Both: waits for 1 of 2 events: b"]);
    world.restart();
    world.event(2, "b1", "b", &json!({}));
    assert_eq!(world.state.runs.len(), 1);
    world.event(3, "a1", "a", &json!({}));
    world.event(4, "b2", "b", &json!({}));
    assert_eq!(world.state.runs.len(), 1, "joined events are remembered singly");
}

#[test]
fn a_model_version_exists_once_its_report_is_accepted() {
    let mut world = World::new();
    world.run(&["start > end", "end"]);
    let records = world.publish("start/0", "demand");
    assert!(records.iter().any(|record| matches!(record, Record::ModelPublished(published) if published.version == 1)));
    let ids: Vec<_> = records.iter().filter_map(|record| if let Record::Notified { id, .. } = record { Some(*id) } else { None }).collect();
    assert_eq!(ids.len(), 1);
    assert_eq!(world.announced.len(), 1);
    world.run(&["start > end", "end"]);
    world.publish("start/0", "demand");
    let versions: Vec<u32> = world.state.models.values().next().unwrap().iter().map(|version| version.version).collect();
    assert_eq!(versions, [1, 2]);
}

#[test]
fn a_wrong_parameter_refuses_the_run() {
    let mut world = World::new();
    let answer = world.submit(definition("Demo", &["only"]), Values::from([("speed".into(), json!(1))]));
    assert!(matches!(answer, Answer::Refused(problem) if problem.message == "the flow has no parameter `speed`"));
    assert!(world.state.runs.is_empty());
}
