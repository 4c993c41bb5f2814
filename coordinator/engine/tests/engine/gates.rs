//! What tasks wait for beside their inputs: signals, approvals, runs that their parents started.

use crate::world::{World, definition, item};
use causey_engine::State;
use causey_protocol::flow::Definition;
use causey_protocol::gate::{ChildStart, Gate, SignalSource, StepGate};
use causey_protocol::id::{RequestId, RunId};
use causey_protocol::input::{Input, Request, RequestMessage};
use causey_protocol::parameter::{Parameter, ParameterType, Values};
use causey_protocol::problem::Code;
use causey_protocol::record::{Answer, Record, RunState, Topic};
use causey_protocol::schedule::{Concurrency, Strategy};
use causey_protocol::task::{FailureKind, Outcome};
use causey_protocol::upkeep::{Storage, StorageLevel};
use serde_json::{Value, json};

const FAN: [&str; 4] = ["start each work", "work > gather", "gather* > end", "end"];

/// A flow whose step number `step` has this gate.
fn gated(lines: &[&str], step: usize, gate: Value) -> Definition {
    let mut flow = definition("Demo", lines);
    flow.steps[step].gate = Some(Box::new(serde_json::from_value::<StepGate>(gate).unwrap()));
    flow
}

fn submit(world: &mut World, flow: Definition) -> RunId {
    match world.submit(flow, Values::new()) {
        Answer::RunStarted { run, .. } => run,
        other => panic!("{other:?}"),
    }
}

fn signal(world: &mut World, run: RunId, name: &str, data: Value) -> Answer {
    world.request(Request::Signal { run, name: name.parse().unwrap(), data })
}

fn decide(world: &mut World, run: RunId, step: &str, approved: bool) -> Answer {
    world.request(Request::Approve { run, step: step.parse().unwrap(), approved, because: String::new() })
}

fn refused(answer: Answer) -> (Code, String, String) {
    match answer {
        Answer::Refused(problem) => (problem.code, problem.message, problem.hint.unwrap_or_default()),
        other => panic!("not refused: {other:?}"),
    }
}

/// What the first waiting tasks of a run wait for.
fn awaited(world: &World, run: RunId) -> Vec<Gate> {
    let run = world.state.run(run).unwrap();
    run.gated().next().map(|(_, gated)| gated.awaits.iter().map(|awaited| awaited.gate.clone()).collect()).unwrap_or_default()
}

/// Replaying the log and storing the state both give the state, with its timers.
fn survives(world: &World) {
    let mut replayed = world.replayed();
    assert_eq!(replayed.hash(), world.state.hash());
    let entries: Vec<_> =
        replayed.take_changes().into_iter().filter_map(|change| Some((change.table as u8, change.key, change.value?))).collect();
    let restored = State::restore(&replayed.header(), entries).unwrap();
    assert_eq!((restored.hash(), restored.next_timer()), (world.state.hash(), world.state.next_timer()));
}

#[test]
fn a_step_that_waits_for_a_signal_opens_when_it_comes_and_sees_its_data() {
    let mut world = World::new();
    let run = submit(&mut world, gated(&["start > middle", "middle > end", "end"], 1, json!({"signals": [{"name": "go"}]})));
    world.succeed("start/0", None);
    assert!(world.queued().is_empty());
    assert_eq!(awaited(&world, run), [Gate::Signal { name: "go".parse().unwrap() }]);
    assert_eq!(world.state.next_timer(), None);
    survives(&world);
    world.restart();
    assert_eq!(signal(&mut world, run, "go", json!({"rate": 0.5})), Answer::Done);
    for step in ["middle/0", "end/0"] {
        assert_eq!(world.queue[0].signals["go".parse::<causey_protocol::id::SignalName>().as_ref().unwrap()], json!({"rate": 0.5}));
        world.succeed(step, None);
    }
    assert_eq!(world.run_state(run), RunState::Succeeded);
}

#[test]
fn a_signal_may_come_before_its_step_and_the_first_step_may_wait() {
    let mut world = World::new();
    let run = submit(&mut world, gated(&["start > end", "end"], 1, json!({"signals": [{"name": "go"}]})));
    signal(&mut world, run, "go", Value::Null);
    world.succeed("start/0", None);
    assert_eq!(world.queued(), ["end/0"]);
    let run = submit(&mut world, gated(&["start > end", "end"], 0, json!({"signals": [{"name": "go"}]})));
    assert_eq!((world.run_state(run), world.queued().len()), (RunState::Pending, 1));
    signal(&mut world, run, "go", Value::Null);
    assert_eq!(world.queued(), ["end/0", "start/0"]);
}

#[test]
fn a_signal_counts_once_and_its_own_retry_is_no_second_one() {
    let mut world = World::new();
    let run = submit(&mut world, gated(&["start > end", "end"], 1, json!({"signals": [{"name": "go"}]})));
    let message = |data: i32| {
        let request = Request::Signal { run, name: "go".parse().unwrap(), data: json!(data) };
        Input::Request(RequestMessage { id: RequestId::new("mine").unwrap(), user: "bob".into(), request })
    };
    world.input(message(1));
    // Long after the answer is forgotten.
    world.now += 3_600_000_000;
    let records = world.input(message(1));
    assert!(matches!(&records[..], [Record::RequestAnswered { answer: Answer::Done, .. }]), "{records:?}");
    let (code, message, _) = refused(signal(&mut world, run, "go", json!(2)));
    assert_eq!(code, Code::NOT_AWAITED);
    assert!(message.ends_with("has received signal `go` before, from \"bob\""), "{message}");
    let source = &world.state.run(run).unwrap().gates.as_ref().unwrap().signals.values().next().unwrap().source;
    assert!(matches!(source, SignalSource::Sent { user, .. } if user == "bob"));
}

#[test]
fn a_signal_that_nothing_waits_for_is_refused_by_name() {
    let mut world = World::new();
    let flow = gated(&["start > end", "end"], 1, json!({"signals": [{"name": "go"}, {"name": "rate"}]}));
    let run = submit(&mut world, flow);
    let refusal = refused(signal(&mut world, run, "og", json!(1)));
    let expected = "no step of flow Demo waits for signal `og`";
    assert_eq!(refusal, (Code::NOT_AWAITED, expected.to_owned(), "it waits for: go, rate".to_owned()));
    let (code, message, _) = refused(signal(&mut world, run, "go", json!("x".repeat(70_000))));
    assert_eq!((code, message.as_str()), (Code::TOO_LARGE, "the data of signal `go` has 70002 bytes; at most 65536 are accepted"));
    let nested = (0..40).fold(json!(1), |inner, _| json!([inner]));
    assert!(refused(signal(&mut world, run, "go", nested)).1.contains("nested more than 32 levels"));
    signal(&mut world, run, "go", json!("x".repeat(60_000)));
    assert!(refused(signal(&mut world, run, "rate", json!("x".repeat(6_000)))).1.contains("beside the 60002 of other signals"));
    world.request(Request::Cancel { run, because: String::new() });
    let (code, message, hint) = refused(signal(&mut world, run, "rate", json!(1)));
    assert_eq!((code, hint.as_str()), (Code::RUN_ENDED, "it waits for: go, rate"));
    assert!(message.ends_with("has ended (cancelled); it takes no signals any more"), "{message}");
    let nobody = RunId(uuid::Uuid::from_u128(5));
    assert_eq!(refused(signal(&mut world, nobody, "go", json!(1))).0, Code::NOT_FOUND);
}

#[test]
fn without_its_signal_a_step_fails_the_run_in_time_or_goes_on_with_the_default() {
    let mut world = World::new();
    let lines = ["start > end", "end"];
    let run = submit(&mut world, gated(&lines, 1, json!({"signals": [{"name": "go", "timeout_seconds": 30.0}]})));
    world.succeed("start/0", None);
    survives(&world);
    world.restart();
    world.pass_time();
    assert_eq!(world.problem(run), "step `end` waited 30 seconds for signal `go`, which did not come");
    let default = json!({"signals": [{"name": "go", "timeout_seconds": 30.0, "default": {"value": null}}]});
    let run = submit(&mut world, gated(&lines, 1, default));
    world.succeed("start/0", None);
    world.pass_time();
    assert_eq!(world.queue[0].signals.values().next(), Some(&Value::Null));
    let (code, message, _) = refused(signal(&mut world, run, "go", json!(1)));
    assert_eq!(code, Code::NOT_AWAITED);
    assert!(message.contains("the time for signal `go` was over"), "{message}");
    world.succeed("end/0", None);
    assert_eq!((world.run_state(run), world.state.next_timer()), (RunState::Succeeded, None));
}

#[test]
fn a_step_waits_for_all_its_signals_and_its_approval() {
    let mut world = World::new();
    let gate = json!({"signals": [{"name": "a", "timeout_seconds": 9.0}, {"name": "b"}], "approval": {"by": ["ann"]}});
    let run = submit(&mut world, gated(&["start > end", "end"], 1, gate));
    world.succeed("start/0", None);
    assert_eq!(awaited(&world, run).len(), 3);
    decide(&mut world, run, "end", true);
    signal(&mut world, run, "a", json!(1));
    assert_eq!((world.queued().len(), world.state.next_timer()), (0, None), "the time for `a` runs no longer");
    signal(&mut world, run, "b", json!(2));
    assert_eq!(world.queued(), ["end/0"]);
    survives(&world);
}

#[test]
fn an_approval_is_asked_for_once_and_opens_all_tasks_of_its_step() {
    let mut world = World::new();
    let run = submit(&mut world, gated(&FAN, 1, json!({"approval": {"timeout_seconds": 60.0}})));
    let (code, message, _) = refused(decide(&mut world, run, "work", true));
    assert_eq!(code, Code::NOT_AWAITED);
    assert!(message.ends_with("has not come to step `work` yet"), "{message}");
    world.succeed("start/0", Some(3_000));
    assert!(world.queued().is_empty());
    let asked: Vec<_> = world
        .turns
        .iter()
        .flat_map(|turn| &turn.records)
        .filter_map(|record| if let Record::Notified { topic: Topic::ApprovalRequested, data, .. } = record { Some(data) } else { None })
        .collect();
    assert_eq!((asked.len(), &asked[0]["step"], &asked[0]["by"]), (1, &json!("work"), &json!([])));
    assert_eq!(world.state.run(run).unwrap().gated_of(causey_protocol::flow::StepIndex(1)), 3_000);
    assert_eq!(world.state.run(run).unwrap().gated().count(), 1, "the items of a foreach wait as one");
    survives(&world);
    world.restart();
    decide(&mut world, run, "work", true);
    assert_eq!(world.queued().len(), 1_024, "the window of the foreach");
    assert_eq!(decide(&mut world, run, "work", true), Answer::Done, "the same decision again changes nothing");
    let (code, message, _) = refused(decide(&mut world, run, "work", false));
    assert_eq!((code, message.as_str()), (Code::NOT_AWAITED, "step `work` has been approved by \"ann\" before"));
    assert_eq!(world.state.next_timer(), None);
}

#[test]
fn a_rejection_fails_the_run_although_the_step_is_caught() {
    let mut world = World::new();
    let mut flow = gated(&["start > end", "end"], 1, json!({"approval": {}}));
    flow.steps[1].catch = Some(causey_protocol::policy::CatchPolicy { variable: None });
    let run = submit(&mut world, flow);
    world.succeed("start/0", None);
    let reject = |world: &mut World| {
        world.request(Request::Approve { run, step: "end".parse().unwrap(), approved: false, because: "wrong day".into() })
    };
    assert_eq!(reject(&mut world), Answer::Done);
    let problem = world.state.run(run).unwrap().problem.clone().unwrap();
    assert_eq!((problem.code, problem.message.as_str()), (Code::REJECTED, "step `end` was rejected by \"ann\": wrong day"));
    assert_eq!(reject(&mut world), Answer::Done, "a retry under another id");
    assert_eq!(refused(decide(&mut world, run, "end", true)).0, Code::RUN_ENDED);
}

#[test]
fn only_those_whom_the_flow_names_decide_and_in_time() {
    let mut world = World::new();
    let run = submit(&mut world, gated(&["start > end", "end"], 1, json!({"approval": {"by": ["bob"], "timeout_seconds": 5.0}})));
    world.succeed("start/0", None);
    let (code, message, hint) = refused(decide(&mut world, run, "end", true));
    assert_eq!((code, message.as_str()), (Code::FORBIDDEN, "step `end` is not for \"ann\" to decide about"));
    assert_eq!(hint, "its flow names: bob");
    let (code, _, hint) = refused(decide(&mut world, run, "start", true));
    assert_eq!((code, hint.as_str()), (Code::NOT_AWAITED, "those that do: end"));
    assert_eq!(refused(decide(&mut world, run, "nothing", true)).0, Code::NOT_FOUND);
    world.pass_time();
    assert_eq!(world.problem(run), "step `end` was neither approved nor rejected within 5 seconds");
}

#[test]
fn many_waiting_tasks_are_opened_a_few_at_a_time() {
    let mut world = World::new();
    let run = submit(
        &mut world,
        gated(&["start each a", "a > b", "b > gather", "gather* > end", "end"], 2, json!({"signals": [{"name": "go"}]})),
    );
    world.succeed("start/0", Some(250));
    for item in 0..250 {
        world.succeed(&format!("a/{item}"), None);
    }
    assert_eq!(world.state.run(run).unwrap().gated().count(), 250);
    signal(&mut world, run, "go", json!(1));
    let mut opened = vec![world.queued().len()];
    while world.state.next_timer().is_some_and(|due| due.0 <= world.now) {
        survives(&world);
        world.input(Input::TimersDue);
        opened.push(world.queued().len());
    }
    assert_eq!(opened, [100, 200, 250]);
    world.restart();
    assert_eq!(world.queued().len(), 250);
}

#[test]
fn tasks_whose_gate_opens_while_storage_is_critical_are_held_back() {
    let mut world = World::new();
    let run = submit(&mut world, gated(&FAN, 1, json!({"signals": [{"name": "go"}]})));
    world.succeed("start/0", Some(3));
    let press = |level| Input::Pressure(Storage { level, stream: "CAUSEY_LOG".into(), percent: 50 });
    world.input(press(StorageLevel::Critical));
    signal(&mut world, run, "go", json!(1));
    assert_eq!((world.queued().len(), world.state.next_timer()), (0, None));
    survives(&world);
    world.input(press(StorageLevel::Ample));
    assert_eq!(world.queued(), ["work/0", "work/1", "work/2"]);
}

#[test]
fn a_run_keeps_the_last_value_that_an_open_attempt_told_about_it() {
    let mut world = World::new();
    let run = world.run(&["start > end", "end"]);
    let (dispatch, task) = world.started("start/0", "w");
    let tell = |world: &mut World, values: &[(&str, Value)]| {
        let values = values.iter().map(|(name, value)| (name.parse().unwrap(), value.clone())).collect();
        world.report(item(&dispatch, &task, Outcome::Status { values }))
    };
    tell(&mut world, &[("progress", json!(0.1)), ("phase", json!("fit"))]);
    tell(&mut world, &[("progress", json!(0.9)), ("large", json!("x".repeat(5_000)))]);
    let told = |world: &World| {
        let status = &world.state.run(run).unwrap().status;
        status.iter().map(|(name, status)| (name.to_string(), status.value.clone())).collect::<Vec<_>>()
    };
    assert_eq!(told(&world), [("phase".to_owned(), json!("fit")), ("progress".to_owned(), json!(0.9))]);
    let many: Vec<(String, Value)> = (0..40).map(|place| (format!("n{place}"), json!(place))).collect();
    tell(&mut world, &many.iter().map(|(name, value)| (name.as_str(), value.clone())).collect::<Vec<_>>());
    assert_eq!(told(&world).len(), 32);
    survives(&world);
    let report = world.success(&dispatch, &task, None, Vec::new());
    world.report(report);
    let late = tell(&mut world, &[("progress", json!(1))]);
    assert!(matches!(late[..], [Record::Ignored { .. }]), "the attempt is closed: {late:?}");
    world.succeed("end/0", None);
    assert_eq!(told(&world)[told(&world).len() - 1], ("progress".to_owned(), json!(0.9)), "a finished run still tells");
}

fn child(flow: &str) -> ChildStart {
    ChildStart { flow: flow.parse().unwrap(), parameters: Values::new(), wait: true, allow_failure: false }
}

/// A world with the deployed flow `Child` and a run of `lines`.
fn parent(lines: &[&str]) -> (World, RunId) {
    let mut world = World::new();
    world.deploy(definition("Child", &["begin > last", "last"]));
    let run = world.run(lines);
    (world, run)
}

/// The runs that a run started, in order.
fn children(world: &World, run: RunId) -> Vec<RunId> {
    world.state.run(run).unwrap().gates.iter().flat_map(|gates| gates.children.values()).map(|child| child.run).collect()
}

#[test]
fn what_follows_a_task_waits_for_the_runs_it_started() {
    let (mut world, run) = parent(&["start > end", "end"]);
    world.start_children("start/0", vec![child("Child")]);
    assert_eq!(world.queued(), ["begin/0"]);
    let started = children(&world, run);
    let start = world.state.run(started[0]).unwrap().start.clone();
    assert_eq!((start.user.as_str(), start.version), ("ann", Some(1)));
    assert_eq!(awaited(&world, run), [Gate::Child { run: started[0] }]);
    survives(&world);
    world.restart();
    world.succeed("begin/0", None);
    world.succeed("last/0", None);
    assert_eq!(world.queued(), ["end/0"]);
    let seen = &world.queue[0].children[0];
    assert_eq!((seen.run, seen.state, seen.ordinal, seen.step.as_str()), (started[0], RunState::Succeeded, 0, "start"));
    assert_eq!(seen.object.unwrap().run, started[0]);
    world.succeed("end/0", None);
    assert_eq!(world.run_state(run), RunState::Succeeded);
    survives(&world);
}

#[test]
fn a_run_that_is_not_waited_for_goes_its_own_way() {
    let (mut world, run) = parent(&["start > end", "end"]);
    world.start_children("start/0", vec![ChildStart { wait: false, ..child("Child") }]);
    assert_eq!(world.queued(), ["begin/0", "end/0"]);
    assert!(world.queue[1].children.is_empty());
    world.request(Request::Cancel { run, because: String::new() });
    assert_eq!(world.run_state(children(&world, run)[0]), RunState::Running);
    world.fail("begin/0", FailureKind::User);
    assert_eq!(world.run_state(run), RunState::Cancelled);
}

#[test]
fn a_child_that_fails_fails_its_parent_unless_that_allows_it() {
    let (mut world, run) = parent(&["start > end", "end"]);
    world.start_children("start/0", vec![child("Child"), child("Child")]);
    world.fail("begin/0", FailureKind::User);
    let problem = world.state.run(run).unwrap().problem.clone().unwrap();
    assert_eq!(problem.code, Code::CHILD_FAILED);
    assert!(problem.message.contains("of flow Child, which step `start` started, failed: begin/0 failed after 1 attempt"), "{problem:?}");
    survives(&world);
    world.pass_time();
    assert_eq!(world.run_state(children(&world, run)[1]), RunState::Aborted);
    let run = world.run(&["start > end", "end"]);
    world.start_children("start/0", vec![ChildStart { allow_failure: true, ..child("Child") }]);
    world.fail("begin/0", FailureKind::User);
    assert_eq!((world.queue[0].children[0].state, world.queue[0].children[0].object), (RunState::Failed, None));
    world.succeed("end/0", None);
    assert_eq!(world.run_state(run), RunState::Succeeded);
}

#[test]
fn cancelling_a_run_cancels_the_runs_it_waits_for_and_theirs() {
    let (mut world, run) = parent(&["start > end", "end"]);
    world.deploy(definition("Between", &["top > bottom", "bottom"]));
    world.start_children("start/0", vec![child("Between")]);
    world.start_children("top/0", vec![child("Child")]);
    let between = children(&world, run)[0];
    let lowest = children(&world, between)[0];
    world.request(Request::Cancel { run, because: String::new() });
    world.restart();
    while world.state.next_timer().is_some() {
        world.pass_time();
    }
    assert_eq!([run, between, lowest].map(|run| world.run_state(run)), [RunState::Cancelled; 3]);
    assert!(world.problem(lowest).ends_with("which had started it, was cancelled"));
    assert!(world.queued().is_empty());
}

#[test]
fn a_join_waits_for_the_runs_that_its_inputs_started() {
    let (mut world, run) = parent(&FAN);
    world.succeed("start/0", Some(3));
    world.start_children("work/1", vec![child("Child")]);
    world.succeed("work/0", None);
    world.start_children("work/2", vec![child("Child")]);
    assert_eq!(awaited(&world, run).len(), 2);
    for name in ["begin/0", "last/0", "begin/0", "last/0"] {
        assert!(!world.queued().contains(&"gather/0".to_owned()));
        world.succeed(name, None);
    }
    assert_eq!(world.queued(), ["gather/0"]);
    let seen: Vec<_> = world.queue[0].children.iter().map(|child| child.path.0.clone()).collect();
    assert_eq!(seen, [[1], [2]]);
}

#[test]
fn only_what_follows_the_task_waits() {
    let (mut world, _) = parent(&["start > a b", "a > c", "c > meet", "b > d", "d > meet", "meet* > end", "end"]);
    world.succeed("start/0", None);
    world.start_children("a/0", vec![child("Child")]);
    world.succeed("b/0", None);
    assert_eq!(world.queued(), ["begin/0", "d/0"]);
    let (mut world, run) = parent(&FAN);
    world.deploy(definition("Wide", &FAN));
    let (dispatch, task) = world.take("start/0");
    let mut item = world.success(&dispatch, &task, Some(5), Vec::new());
    if let causey_protocol::task::Outcome::Succeeded(success) = &mut item.outcome {
        success.children = vec![child("Child")];
    }
    world.report(item);
    assert_eq!((world.queued(), awaited(&world, run).len()), (vec!["begin/0".to_owned()], 1), "the items of a foreach wait too");
    world.succeed("begin/0", None);
    world.succeed("last/0", None);
    assert_eq!(world.queued().len(), 5);
}

#[test]
fn runs_that_cannot_be_started_fail_the_attempt_for_good() {
    let refusal = |children: Vec<ChildStart>, lines: &[&str]| {
        let (mut world, run) = parent(lines);
        let mut flow = definition("Picky", &["only"]);
        flow.parameters =
            vec![Parameter { name: "day".into(), kind: ParameterType::Int, required: true, default: None, help: String::new() }];
        world.deploy(flow);
        let first = if lines.len() > 1 { "start/0" } else { "only/0" };
        let (dispatch, task) = world.take(first);
        let size = lines[0].contains("gang").then_some(2);
        let mut item = world.success(&dispatch, &task, size, Vec::new());
        if let Outcome::Succeeded(success) = &mut item.outcome {
            success.children = children;
        }
        world.report(item);
        assert_eq!((world.run_state(run), world.queued().len()), (RunState::Failed, 0));
        world.problem(run)
    };
    let lines = ["start > end", "end"];
    let unknown = refusal(vec![child("Child"), child("Nobody")], &lines);
    assert!(unknown.ends_with("CSY-2110: step `start` cannot start flow Nobody: no flow `Nobody` is deployed"), "{unknown}");
    assert!(refusal(vec![child("Picky")], &lines).ends_with("cannot start flow Picky: parameter `day` is required"));
    assert!(refusal(vec![child("Child"); 101], &lines).contains("starts 101 runs; at most 100"));
    let nested = (0..40).fold(json!(1), |inner, _| json!([inner]));
    let deep = ChildStart { parameters: Values::from([("day".into(), nested)]), ..child("Picky") };
    assert!(refusal(vec![deep], &lines).contains("parameter `day` is nested"));
    assert!(refusal(vec![child("Child")], &["only"]).contains("step `only` is the last one"));
    let gang = refusal(vec![child("Child")], &["start gang train", "train > gather", "gather* > end", "end"]);
    assert!(gang.contains("step `start` opens a gang, which cannot wait"), "{gang}");
}

#[test]
fn a_flow_that_starts_itself_comes_to_an_end() {
    let mut world = World::new();
    world.deploy(definition("Self", &["start > end", "end"]));
    let flow = causey_protocol::input::FlowChoice::Deployed("Self".parse().unwrap());
    let request = Request::Submit {
        flow,
        parameters: Values::new(),
        tags: Vec::new(),
        host: None,
        timeout_seconds: None,
        standing: Default::default(),
        fresh: false,
    };
    let Answer::RunStarted { run, .. } = world.request(request) else { panic!() };
    for _ in 0..=10 {
        world.start_children("start/0", vec![child("Self")]);
    }
    assert_eq!(world.state.runs.len(), 11);
    assert!(world.state.runs.values().all(|run| run.state == RunState::Failed));
    assert!(world.problem(run).contains("starts a run below 10 others"), "{}", world.problem(run));
}

#[test]
fn a_flow_whose_runs_are_bounded_cannot_wait_for_itself() {
    let bounded = |strategy| {
        let mut world = World::new();
        let mut flow = definition("Self", &["start > end", "end"]);
        flow.concurrency = Some(Concurrency { strategy, max: 1 });
        world.deploy(flow);
        let flow = causey_protocol::input::FlowChoice::Deployed("Self".parse().unwrap());
        let request = Request::Submit {
            flow,
            parameters: Values::new(),
            tags: Vec::new(),
            host: None,
            timeout_seconds: None,
            standing: Default::default(),
            fresh: false,
        };
        let Answer::RunStarted { run, .. } = world.request(request) else { panic!() };
        (world, run)
    };
    let (mut world, run) = bounded(Strategy::Queue);
    world.start_children("start/0", vec![child("Self")]);
    assert!(world.problem(run).contains("cannot start flow Self: its runs at once are bounded"), "{}", world.problem(run));
    // Not waited for, it comes when there is a place, or takes it.
    let (mut world, run) = bounded(Strategy::Queue);
    world.start_children("start/0", vec![ChildStart { wait: false, ..child("Self") }]);
    world.succeed("end/0", None);
    assert_eq!((world.run_state(run), world.queued()), (RunState::Succeeded, vec!["start/0".to_owned()]));
    let (mut world, run) = bounded(Strategy::Replace);
    world.start_children("start/0", vec![ChildStart { wait: false, ..child("Self") }]);
    assert_eq!((world.run_state(run), world.queued()), (RunState::Cancelled, vec!["start/0".to_owned()]));
}

#[test]
fn a_child_that_its_flow_lets_not_start_fails_its_parent_unless_that_allows_it() {
    let mut world = World::new();
    let mut flow = definition("Once", &["only"]);
    flow.concurrency = Some(Concurrency { strategy: Strategy::Skip, max: 1 });
    world.deploy(flow);
    let run = world.run(&["start > end", "end"]);
    world.start_children("start/0", vec![child("Once"), ChildStart { allow_failure: true, ..child("Once") }]);
    assert_eq!((world.queued().len(), children(&world, run).len()), (1, 1));
    let other = world.run(&["start > end", "end"]);
    world.start_children("start/0", vec![child("Once")]);
    assert!(world.problem(other).contains("step `start` cannot start flow Once: skipped"), "{}", world.problem(other));
    world.succeed("only/0", None);
    world.succeed("end/0", None);
    assert_eq!(world.run_state(run), RunState::Succeeded);
}

#[test]
fn a_late_result_starts_nothing() {
    let (mut world, run) = parent(&["start > end", "end"]);
    let (dispatch, task) = world.take("start/0");
    let mut item = world.success(&dispatch, &task, None, Vec::new());
    if let causey_protocol::task::Outcome::Succeeded(success) = &mut item.outcome {
        success.children = vec![child("Child")];
    }
    world.report(item.clone());
    let records = world.report(item);
    assert!(matches!(records[..], [Record::Ignored { .. }]), "{records:?}");
    assert_eq!(children(&world, run).len(), 1);
}
