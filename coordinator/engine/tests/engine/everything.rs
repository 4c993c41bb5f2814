//! One log with every kind of record: what becomes a golden log. Whoever adds a kind makes it happen here.

use crate::backfills::plan;
use crate::concurrency::limited;
use crate::schedules::scheduled;
use causey_engine::Sought;

use crate::world::{World, definition, item, pool};
use causey_protocol::event::CloudEvent;
use causey_protocol::flow::{Flow, StepIndex};
use causey_protocol::gate::{ChildStart, StepGate};
use causey_protocol::id::{Digest, RunId, Timestamp};
use causey_protocol::input::{FlowChoice, Found, Input, Request};
use causey_protocol::letter::{LetterEnd, Original};
use causey_protocol::live::Order;
use causey_protocol::parameter::{Parameter, ParameterType, Values};
use causey_protocol::policy::{CatchPolicy, HostMode, MemoPolicy, RetryPolicy};
use causey_protocol::record::{Answer, Record, RunState};
use causey_protocol::resources::{Equipment, Gpu, Resources, Shape, count_shapes};
use causey_protocol::schedule::Strategy;
use causey_protocol::share::{Share, Shares, Standing};
use causey_protocol::task::{ErrorInfo, Failure, FailureKind, Outcome, Usage};
use causey_protocol::upkeep::{SnapshotTaken, Storage, StorageLevel};
use serde_json::json;
use uuid::Uuid;

const MINUTE: u64 = 60_000_000;

/// Finished runs that stay whole once their history is stored.
const KEEP: u32 = 8;

pub(crate) fn everything() -> World {
    let mut world = World::new();
    let store = Record::LogOpened { store: Uuid::from_u128(7) };
    world.take_over(vec![store, leader("alpha"), streams(1)], (0, 0));
    plain(&mut world);
    events(&mut world);
    foreaches(&mut world);
    snapshot(&mut world);
    switches(&mut world);
    gangs(&mut world);
    gates(&mut world);
    failures(&mut world);
    limits(&mut world);
    by_the_clock(&mut world);
    shares(&mut world);
    work(&mut world);
    pools(&mut world);
    world.take_over(vec![leader("beta")], (world.state.inbox, world.state.events));
    world.restart();
    resumes(&mut world);
    memos(&mut world);
    refusals(&mut world);
    snapshot(&mut world);
    retire(&mut world);
    loss(&mut world);
    storage(&mut world);
    snapshot(&mut world);
    under_way(&mut world);
    world
}

fn leader(name: &str) -> Record {
    Record::LeaderChanged { leader: name.into() }
}

/// The streams, the inbox having been made for the `time`th time.
fn streams(time: u64) -> Record {
    Record::StreamsSeen { created: [("CAUSEY_IN".into(), time), ("CAUSEY_EVENT".into(), 1), ("CAUSEY_LOG".into(), 1)].into() }
}

/// A line of steps, one of whose workers is lost and one of which publishes a model, twice; and a branch.
fn plain(world: &mut World) {
    for _ in 0..2 {
        world.run(&["start > middle", "middle > end", "end"]);
        world.started("start/0", "w");
        world.request(Request::WorkerLost { pool: pool("default"), worker: "w".parse().unwrap() });
        finish(world, &["start/0"]);
        world.publish("middle/0", "demand");
        finish(world, &["end/0"]);
    }
    world.run(&["start > a b", "a > meet", "b > meet", "meet* > end", "end"]);
    finish(world, &["start/0", "b/0", "a/0", "meet/0", "end/0"]);
}

/// A trigger on one event and one on two, versions, events that start nothing, one that comes twice.
fn events(world: &mut World) {
    let mut flow = definition("Daily", &["only"]);
    flow.parameters = vec![Parameter { name: "day".into(), kind: ParameterType::Str, required: true, default: None, help: String::new() }];
    flow.triggers = serde_json::from_value(json!([{"events": [{"name": "arrived", "parameters": {"day": "date"}}]}])).unwrap();
    world.deploy(flow.clone());
    flow.doc = "Every day.".into();
    assert!(matches!(world.deploy(flow), Answer::Deployed { version: 2, .. }));
    let mut both = definition("Both", &["only"]);
    both.triggers = serde_json::from_value(json!([{"events": [{"name": "a"}, {"name": "b"}]}])).unwrap();
    world.deploy(both);
    world.event(1, "e1", "arrived", &json!({"date": "2026-01-01"}));
    world.event(2, "e1", "arrived", &json!({"date": "2026-01-01"}));
    world.event(3, "e2", "arrived", &json!({}));
    world.event(4, "e3", "nobody", &json!({}));
    world.event(5, "a1", "a", &json!({"x": 1}));
    world.event(6, "b1", "b", &json!({"y": [1.5, null, "z"]}));
    world.event(7, "a2", "a", &json!({}));
    finish(world, &["only/0", "only/0"]);
}

/// Narrow, of some hundreds, wide, and one inside another; singly, in lists and in packs.
fn foreaches(world: &mut World) {
    let lines = ["start each work", "work > gather", "gather* > end", "end"];
    world.run(&lines);
    world.succeed("start/0", Some(3));
    finish(world, &["work/1", "work/0", "work/2", "gather/0", "end/0"]);
    for count in [200, 1_050] {
        let mut flow = definition("Wide", &lines);
        flow.steps[1].host = Some(HostMode::Reuse);
        world.submit(flow, Values::new());
        world.succeed("start/0", Some(count));
        while !world.queue.is_empty() {
            pack(world);
        }
        world.store_blobs();
        finish(world, &["gather/0", "end/0"]);
    }
    let run = world.run(&["start each outer", "outer each inner", "inner > fold", "fold* > gather", "gather* > end", "end"]);
    world.succeed("start/0", Some(2));
    world.succeed("outer/0", Some(65));
    world.succeed("outer/1", Some(1));
    for index in 0..65 {
        world.succeed(&format!("inner/0.{index}"), None);
    }
    world.store_blobs();
    finish(world, &["inner/1.0", "fold/1", "fold/0", "gather/0", "end/0"]);
    assert_eq!(world.run_state(run), RunState::Succeeded);
}

/// Two hundred tasks of what is queued succeed and are reported in one message.
fn pack(world: &mut World) {
    let names: Vec<String> = world.queued().into_iter().take(200).collect();
    pack_of(world, &names);
}

fn pack_of(world: &mut World, names: &[String]) {
    let items = names.iter().map(|name| {
        let (dispatch, task) = world.take(name);
        world.success(&dispatch, &task, None, Vec::new())
    });
    let items = items.collect();
    world.report_message(items);
}

fn switches(world: &mut World) {
    world.run(&["start ? b a", "a > meet", "b > meet", "meet > end", "end"]);
    world.choose("start/0", "a");
    finish(world, &["a/0", "meet/0", "end/0"]);
    let mut flow = definition("Loop", &["start > again", "again ? again end", "end"]);
    flow.steps[1].visits_max = Some(3);
    world.submit(flow.clone(), Values::new());
    finish(world, &["start/0"]);
    world.choose("again/0", "again");
    world.choose("again/0~1", "end");
    finish(world, &["end/0"]);
    let Answer::RunStarted { run: endless, .. } = world.submit(flow, Values::new()) else { panic!() };
    finish(world, &["start/0"]);
    for name in ["again/0", "again/0~1", "again/0~2"] {
        world.choose(name, "again");
    }
    assert_eq!(world.run_state(endless), RunState::Failed);
}

const GANG: [&str; 4] = ["start gang train", "train > gather", "gather* > end", "end"];

/// A gang that forms at its second call, loses a worker, fails, and ends well; one that is larger than its pool.
fn gangs(world: &mut World) {
    let mut flow = definition("Gang", &GANG);
    (flow.steps[1].retry, flow.steps[1].gather_seconds) = (retry(1, 0.0, &[]), Some(30.0));
    world.submit(flow.clone(), Values::new());
    world.succeed("start/0", Some(2));
    world.join("train/1", "w1");
    world.pass_time();
    world.pass_time();
    world.form("train");
    world.request(Request::WorkerLost { pool: pool("default"), worker: "w2".parse().unwrap() });
    let members = world.form("train");
    let (dispatch, task) = &members[0];
    let error = Box::new(ErrorInfo { kind: "ValueError".into(), message: "bad".into(), ..ErrorInfo::default() });
    let (at, kind) = (Timestamp(world.now), FailureKind::User);
    world.report(item(dispatch, task, Outcome::Failed(Failure { kind, error, digest: None, bytes: 0, started: at, ended: at })));
    let members = world.form("train");
    world.end_well(members);
    finish(world, &["gather/0", "end/0"]);
    let Answer::RunStarted { run, .. } = world.submit(flow, Values::new()) else { panic!() };
    world.succeed("start/0", Some(9));
    world.input(Input::PoolCounted { pool: pool("default"), slots: vec![2, 2] });
    assert_eq!(world.run_state(run), RunState::Failed);
}

/// Signals that come before they are waited for and one that does not come; an approval given and one refused; a child that is waited for,
/// one that fails and one that ends with its parent.
fn gates(world: &mut World) {
    let mut flow = definition("Gated", &["start > middle", "middle > end", "end"]);
    let signals = json!({"signals": [{"name": "early"}, {"name": "late", "timeout_seconds": 60.0, "default": {"value": {"rate": 0.5}}}]});
    flow.steps[1].gate = gate(signals);
    flow.steps[2].gate = gate(json!({"approval": {"by": ["ann"], "timeout_seconds": 3600.0}}));
    let approve = |world: &mut World, run, approved| {
        let answer = world.request(Request::Approve { run, step: "end".parse().unwrap(), approved, because: "looks right".into() });
        assert_eq!(answer, Answer::Done);
    };
    for turn in 0..2 {
        let Answer::RunStarted { run, .. } = world.submit(flow.clone(), Values::new()) else { panic!() };
        world.request(Request::Signal { run, name: "early".parse().unwrap(), data: json!([turn, null]) });
        finish(world, &["start/0"]);
        world.pass_time();
        finish(world, &["middle/0"]);
        approve(world, run, turn == 0);
        if turn == 0 {
            finish(world, &["end/0"]);
        }
        assert_eq!(world.run_state(run), if turn == 0 { RunState::Succeeded } else { RunState::Failed });
    }
    world.deploy(definition("Child", &["only"]));
    let start = |wait, allow_failure| ChildStart { flow: "Child".parse().unwrap(), parameters: Values::new(), wait, allow_failure };
    let parent = world.run(&["start > end", "end"]);
    world.start_children("start/0", vec![start(true, false), start(false, true)]);
    let (dispatch, task) = world.started("only/0", "w");
    let values = [("progress".parse().unwrap(), json!(0.5)), ("phase".parse().unwrap(), json!({"epoch": [1, null]}))];
    world.report(item(&dispatch, &task, Outcome::Status { values: values.into() }));
    let usage = Usage { peak_memory_bytes: 50_000_000, cpu_millis: Some(1_250), memory_limit: None };
    world.report(item(&dispatch, &task, Outcome::Used { usage }));
    let ended = world.success(&dispatch, &task, None, Vec::new());
    world.report(ended);
    finish(world, &["end/0", "only/0"]);
    assert_eq!(world.run_state(parent), RunState::Succeeded);
    let parent = world.run(&["start > end", "end"]);
    world.start_children("start/0", vec![start(true, false), start(true, false)]);
    fail(world, "only/0", FailureKind::User, "KeyError", &[]);
    world.pass_time();
    assert_eq!(world.run_state(parent), RunState::Failed);
}

fn gate(gate: serde_json::Value) -> Option<Box<StepGate>> {
    Some(Box::new(serde_json::from_value(gate).unwrap()))
}

/// Every cause of a failure, with and without a retry, a filter, a fallback; late and foreign reports; a cancel.
fn failures(world: &mut World) {
    let mut flow = definition("Fails", &["start > end", "end"]);
    flow.steps[0].retry = retry(2, 30.0, &["OSError"]);
    world.submit(flow.clone(), Values::new());
    fail(world, "start/0", FailureKind::User, "ConnectionError", &["OSError"]);
    world.pass_time();
    fail(world, "start/0", FailureKind::Infrastructure, "CSY-3001", &[]);
    world.pass_time();
    let (dispatch, task) = world.take("start/0");
    world.report(item(&dispatch, &task, Outcome::Released { because: "draining".into() }));
    finish(world, &["start/0"]);
    let late = world.success(&dispatch, &task, None, Vec::new());
    world.report(late.clone());
    world.input(Input::Report { pool: pool("gpu"), worker: "w".parse().unwrap(), items: vec![late] });
    finish(world, &["end/0"]);
    // The filter does not cover this one.
    world.submit(flow.clone(), Values::new());
    fail(world, "start/0", FailureKind::User, "KeyError", &["LookupError"]);
    world.submit(flow.clone(), Values::new());
    fail(world, "start/0", FailureKind::Permanent, "ImportError", &[]);
    flow.steps[0].catch = Some(CatchPolicy { variable: Some("error".into()) });
    world.submit(flow, Values::new());
    fail(world, "start/0", FailureKind::User, "KeyError", &["LookupError"]);
    finish(world, &["start/0", "end/0"]);

    let poisoned = world.run(&["start > end", "end"]);
    for _ in 0..4 {
        world.started("start/0", "w1");
        world.request(Request::WorkerLost { pool: pool("default"), worker: "w1".parse().unwrap() });
    }
    assert_eq!(world.run_state(poisoned), RunState::Failed);
    let empty = world.run(&["start each work", "work > gather", "gather* > end", "end"]);
    world.succeed("start/0", Some(0));
    assert_eq!(world.run_state(empty), RunState::Failed);
    let cancelled = world.run(&["start > a b", "a > meet", "b > meet", "meet* > end", "end"]);
    finish(world, &["start/0"]);
    world.started("a/0", "w");
    world.request(Request::Cancel { run: cancelled, because: "wrong data".into() });
    assert_eq!(world.run_state(cancelled), RunState::Cancelled);
}

/// An attempt that is told to have timed out, one of which nothing is heard, and a run that takes too long.
fn limits(world: &mut World) {
    let mut flow = definition("Limits", &["start > end", "end"]);
    (flow.steps[0].timeout_seconds, flow.steps[0].grace_seconds, flow.steps[0].retry) = (Some(90.0), Some(1.5), retry(2, 0.0, &[]));
    flow.timeout_seconds = Some(3600.0);
    let Answer::RunStarted { run, .. } = world.submit(flow, Values::new()) else { panic!() };
    world.started("start/0", "w");
    world.pass_time();
    fail(world, "start/0", FailureKind::TimedOut, "TimeoutException", &[]);
    finish(world, &["start/0"]);
    world.pass_time();
    assert_eq!(world.run_state(run), RunState::Failed);
}

/// A schedule that fires, misses and is paused; backfills to the end and cancelled; every strategy for one run too many.
fn by_the_clock(world: &mut World) {
    const EVERY: &str = "* * * * * UTC";
    let nightly = || "Nightly".parse().unwrap();
    let deploy = |world: &mut World, strategy| {
        let mut flow = limited(strategy, 1);
        flow.schedules = scheduled(&["* * * * *"]).schedules;
        flow.parameters = scheduled(&[]).parameters;
        world.deploy(flow);
    };
    deploy(world, Strategy::Skip);
    world.due(EVERY, world.now + 10_000);
    world.due(EVERY, world.now + 20_000);
    let until = Timestamp(world.now + 30_000);
    world.input(Input::Missed { flow: nightly(), schedule: EVERY.into(), until, missed: 2 });
    world.request(Request::PauseSchedules { flow: nightly() });
    world.due(EVERY, world.now + 40_000);
    world.request(Request::ResumeSchedules { flow: nightly() });
    assert!(matches!(world.submit_deployed(), Answer::Refused(_)));
    for strategy in [Strategy::Queue, Strategy::Latest, Strategy::Replace] {
        deploy(world, strategy);
        world.submit_deployed();
        world.submit_deployed();
        finish(world, &["only/0"]);
    }
    world.backfill(plan(2, 1));
    for _ in 0..2 {
        world.advance();
        finish(world, &["only/0"]);
    }
    let backfill = world.backfill(plan(9, 1));
    world.advance();
    world.input(Input::BackfillDue { backfill: backfill.clone(), instant: Timestamp(1), given: Values::new() });
    world.request(Request::CancelBackfill { backfill, because: "enough".into() });
    let backfill = world.backfill(plan(3, 1));
    world.input(Input::BackfillOver { backfill });
    assert!(world.queued().is_empty());
}

/// Memoised steps: one line whose results are taken, of which one is gone the next time, and a run that wants none.
fn memos(world: &mut World) {
    let mut flow = definition("Memo", &["start > clean", "clean each work", "work > gather", "gather* > end", "end"]);
    for (step, expires_seconds) in [(1, None), (2, Some(3600.0)), (3, None)] {
        flow.steps[step].memo = Some(MemoPolicy { version: Some("v1".into()), expires_seconds });
    }
    for (gone, fresh) in [(false, false), (false, false), (true, false), (false, true)] {
        world.objects.retain(|_, (next, ..)| !gone || !next.iter().any(|step| step.as_str() == "work"));
        let flow = FlowChoice::Given(Box::new(Flow::try_from(flow.clone()).unwrap()));
        let (parameters, tags, standing) = (Values::new(), Vec::new(), Standing::default());
        world.request(Request::Submit { flow, parameters, tags, host: None, timeout_seconds: None, standing, fresh });
        finish(world, &["start/0"]);
        world.find_all();
        while let Some(name) = world.queued().first().cloned() {
            world.succeed(&name, (name == "clean/0").then_some(2));
            world.find_all();
        }
    }
}

/// Runs that take results of earlier ones: whole chunks, item by item, none because the graph changed; one whose results are missing.
fn resumes(world: &mut World) {
    let lines = ["start each work", "work > gather", "gather* > end", "end"];
    let wide = world.state.runs.values().rev().find(|run| run.step(StepIndex(1)).stored > 1_000).unwrap().id();
    let taken = world.resume(wide, Some("gather"), None).unwrap();
    world.find_all();
    world.store_blobs();
    finish(world, &["gather/0", "end/0"]);
    assert_eq!((world.run_state(taken), world.state.run(taken).unwrap().step(StepIndex(1)).reused), (RunState::Succeeded, 1_050));
    let earlier = world.run(&lines);
    world.succeed("start/0", Some(3));
    finish(world, &["work/2", "work/0"]);
    fail(world, "work/1", FailureKind::Permanent, "ValueError", &[]);
    let again = world.resume(earlier, None, None).unwrap();
    world.find_all();
    finish(world, &["work/1"]);
    world.find_all();
    finish(world, &["gather/0", "end/0"]);
    assert_eq!(world.run_state(again), RunState::Succeeded);
    let mended = definition("Demo", &["start > end", "end"]);
    world.resume(earlier, None, Some(mended)).unwrap();
    finish(world, &["start/0", "end/0"]);
    let broken = world.resume(earlier, None, None).unwrap();
    let Sought { step, tasks, .. } = world.sought.remove(0);
    world.input(Input::ResultsFound { run: broken, step, tasks, found: Found::Broken { because: "it is gone".into() } });
    assert_eq!(world.run_state(broken), RunState::Failed);
}

/// A small pool, two tenants, a run of high priority, one that wants few tasks at a time, and a window of its own.
fn shares(world: &mut World) {
    world.input(Input::PoolResized { pool: pool("default"), slots: 2 });
    let ann = Share { weight: 3, window: Some(66) };
    let shares = Shares { tenants: [("ann".into(), ann)].into(), runs_max: Some(1_000), ..Shares::default() };
    world.input(Input::SharesSet(Box::new(shares)));
    let lines = ["start each work", "work > more", "more > gather", "gather* > end", "end"];
    let mut flow = definition("Shared", &lines);
    flow.steps[1].host = Some(HostMode::Reuse);
    let wide = world.submit(flow.clone(), Values::new());
    world.succeed("start/0", Some(70));
    flow.standing = Standing { priority: Some(50), max_parallel: Some(2) };
    let urgent = world.submit(flow, Values::new());
    let runs = [urgent, wide].map(|answer| if let Answer::RunStarted { run, .. } = answer { run } else { panic!("{answer:?}") });
    while !runs.iter().all(|run| world.run_state(*run).is_terminal()) {
        world.store_blobs();
        let queued = world.queued();
        let name = queued.iter().find(|name| !name.starts_with("start")).unwrap_or(&queued[0]).clone();
        world.succeed(&name, (name == "start/0").then_some(5));
    }
    world.input(Input::SharesSet(Box::new(Shares {
        tenants: [("ann".into(), Share { weight: 3, window: None })].into(),
        ..Shares::default()
    })));
    world.input(Input::PoolResized { pool: pool("default"), slots: 512 });
}

/// A task and a gang for which there is no worker at first, a pool that loses what an attempt needs, words to workers.
fn pools(world: &mut World) {
    let shape = |gpus: usize| {
        let gpu = |number| Gpu { uuid: format!("GPU-{number}"), model: "NVIDIA T4".into(), memory_mb: 16_000, mig: false };
        let equipment = Equipment { gpus: (0..gpus).map(gpu).collect(), ..Equipment::default() };
        Shape::new(4, 16_000, &["python".into()], &equipment)
    };
    let offer = |world: &mut World, name: &str, gpus: &[usize]| {
        let shapes = count_shapes(gpus.iter().map(|gpus| shape(*gpus)));
        world.input(Input::PoolOffered { pool: pool(name), shapes });
    };
    offer(world, "default", &[0, 0]);
    let mut flow = definition("Equipped", &["start gang train", "train > gather", "gather* > end", "end"]);
    let gpu = Resources { gpu: 1.0, ..Resources::default() };
    (flow.steps[1].resources, flow.steps[2].resources) = (Some(gpu.clone()), Some(gpu));
    let answer = world.submit(flow, Values::new());
    let Answer::RunStarted { run, .. } = answer else { panic!("{answer:?}") };
    world.succeed("start/0", Some(2));
    offer(world, "gpu", &[2]);
    offer(world, "gpu", &[0]);
    for order in [Order::Cordon, Order::Drain, Order::Serve] {
        world.request(Request::OrderWorkers { pool: pool("gpu"), worker: None, order });
    }
    world.request(Request::OrderWorkers { pool: pool("gpu"), worker: Some("w9".parse().unwrap()), order: Order::Cordon });
    world.request(Request::Cancel { run, because: String::new() });
    offer(world, "gpu", &[]);
    offer(world, "default", &[]);
}

/// A lost worker with more attempts than a piece takes.
fn work(world: &mut World) {
    let run = world.run(&["start each work", "work > gather", "gather* > end", "end"]);
    world.succeed("start/0", Some(102));
    for item in 0..101 {
        world.started(&format!("work/{item}"), "w9");
    }
    world.request(Request::WorkerLost { pool: pool("default"), worker: "w9".parse().unwrap() });
    world.request(Request::Cancel { run, because: String::new() });
}

/// Requests and messages that come to nothing.
fn refusals(world: &mut World) {
    assert!(matches!(world.submit(definition("Demo", &["only"]), Values::from([("speed".into(), json!(1))])), Answer::Refused(_)));
    let flow = FlowChoice::Deployed("Nobody".parse().unwrap());
    let host = Some(HostMode::Spawn);
    let (tags, standing) = (vec!["night".into()], Standing { priority: Some(-5), max_parallel: Some(3) });
    let request = Request::Submit { flow, parameters: Values::new(), tags, host, timeout_seconds: Some(60.0), standing, fresh: false };
    assert!(matches!(world.request(request), Answer::Refused(_)));
    let unreadable = |subject: &str, sequence: u64| {
        let original = Original::new(&[("ce-id".to_owned(), "1".to_owned())].into(), b"{");
        Input::Malformed { subject: subject.into(), sequence, because: "the message is empty".into(), original }
    };
    world.input(unreadable("causey.in.elsewhere", 9));
    world.input(unreadable("causey.event.api", 1));
    let letter = *world.state.dead_letters.keys().next().unwrap();
    assert_eq!(world.request(Request::CloseLetter { letter, end: LetterEnd::Discarded }), Answer::Done);
    assert!(matches!(world.request(Request::CloseLetter { letter, end: LetterEnd::Redriven }), Answer::Refused(_)));
    world.input(Input::BlobStored { digest: Digest::of(b"nobody's") });
}

/// The histories of all finished runs are stored; of most only the entry remains.
fn retire(world: &mut World) {
    // Answers are forgotten by now.
    world.now += 11 * MINUTE;
    let ended: Vec<RunId> = world.committed.unstored_runs().collect();
    for run in ended {
        world.store_history(run, KEEP);
    }
    assert!(world.state.retired.len() > 10);
}

/// The inbox moved back, and that was accepted.
fn loss(world: &mut World) {
    let (seen, events) = (world.state.inbox, world.state.events);
    let lost = Record::LossAccepted { stream: "CAUSEY_IN".into(), seen, found: seen - 20, user: "ann".into() };
    world.take_over(vec![leader("causey state accept-loss"), lost, streams(2)], (seen - 20, events));
    world.take_over(vec![leader("alpha")], (seen - 20, events));
    world.restart();
}

/// New runs are refused, then attempts are held back, then all goes on.
fn storage(world: &mut World) {
    world.run(&["start each work", "work > gather", "gather* > end", "end"]);
    world.succeed("start/0", Some(2));
    press(world, StorageLevel::Scarce, 82);
    assert!(matches!(world.submit(definition("Demo", &["only"]), Values::new()), Answer::Refused(_)));
    press(world, StorageLevel::Critical, 91);
    finish(world, &["work/0", "work/1"]);
    assert!(world.queued().is_empty());
    press(world, StorageLevel::Ample, 40);
    finish(world, &["gather/0", "end/0"]);
}

/// What the log ends with: runs that wait for every kind of thing, so that the last state has an entry in every table.
fn under_way(world: &mut World) {
    let lines = ["start each work", "work > gather", "gather* > end", "end"];
    world.run(&["start > end", "end"]);
    world.started("start/0", "w1");
    let mut flow = definition("Limits", &lines);
    (flow.steps[0].retry, flow.timeout_seconds) = (retry(3, 600.0, &[]), Some(3600.0));
    world.submit(flow, Values::new());
    fail(world, "start/0", FailureKind::User, "ValueError", &[]);
    let mut flow = definition("Wide", &lines);
    (flow.steps[1].host, flow.steps[1].timeout_seconds) = (Some(HostMode::Reuse), Some(90.0));
    world.submit(flow, Values::new());
    world.succeed("start/0", Some(70));
    pack(world);
    assert_eq!(world.blobs.len(), 1, "its join waits for the manifest");
    world.event(8, "e8", "arrived", &json!({"date": "2026-01-02"}));
    world.event(9, "a3", "a", &json!({}));
    world.run(&lines);
    world.succeed("start/0", Some(5));
    world.started("work/3", "w2");
    let mut nightly = limited(Strategy::Queue, 1);
    nightly.schedules = scheduled(&["* * * * *", "0 2 * * *"]).schedules;
    world.deploy(nightly);
    world.due("* * * * * UTC", world.now + 50_000);
    world.submit_deployed();
    world.backfill(plan(3, 1));
    world.request(Request::PauseSchedules { flow: "Nightly".parse().unwrap() });
    for _ in 0..2 {
        world.run(&GANG);
        world.succeed("start/0", Some(2));
    }
    world.join("train/0", "w2");
    let mut flow = definition("Gated", &lines);
    flow.steps[1].gate = gate(json!({"signals": [{"name": "go", "timeout_seconds": 3600.0}], "approval": {}}));
    world.submit(flow, Values::new());
    world.succeed("start/0", Some(2_000));
    let failed = world.state.runs.values().find(|run| run.state == RunState::Failed).unwrap().id();
    world.resume(failed, None, None).unwrap();
    world.run(&["start > end", "end"]);
    press(world, StorageLevel::Critical, 93);
    finish(world, &["start/0", "work/0"]);
    assert_eq!(world.state.held_back.len(), 1);
    let mut flow = definition("Many", &["only"]);
    flow.triggers = (0..101).map(|_| serde_json::from_value(json!({"events": [{"name": "many"}]})).unwrap()).collect();
    world.deploy(flow);
    // Cut in the middle of its work list.
    let many = json!({"specversion": "1.0", "id": "m2", "source": "/s", "type": "many"});
    let event = CloudEvent::from_structured(many).unwrap();
    world.begin(Input::Event { sequence: 11, source: "api".parse().unwrap(), event });
    let (dispatch, task) = world.take("only/0");
    let items = vec![world.success(&dispatch, &task, None, Vec::new())];
    world.begin(Input::Report { pool: pool("default"), worker: "w".parse().unwrap(), items });
}

fn press(world: &mut World, level: StorageLevel, percent: u8) {
    world.input(Input::Pressure(Storage { level, stream: "CAUSEY_LOG".into(), percent }));
}

fn finish(world: &mut World, names: &[&str]) {
    for name in names {
        world.succeed(name, None);
    }
}

fn retry(times: u32, delay_seconds: f64, on: &[&str]) -> Option<RetryPolicy> {
    let on = on.iter().map(|name| (*name).to_owned()).collect();
    Some(RetryPolicy { times, delay_seconds, factor: 2.0, cap_seconds: 3600.0, jitter: 0.25, on })
}

fn fail(world: &mut World, name: &str, kind: FailureKind, class: &str, bases: &[&str]) {
    let (dispatch, task) = world.take(name);
    let classes = bases.iter().map(|base| (*base).to_owned()).collect();
    let error = Box::new(ErrorInfo { kind: class.into(), message: "bad".into(), classes, ..ErrorInfo::default() });
    let (started, ended) = (Timestamp(world.now), Timestamp(world.now + 5));
    let (digest, bytes) = (Some(Digest::of(b"output")), 6);
    world.report(item(&dispatch, &task, Outcome::Failed(Failure { kind, error, digest, bytes, started, ended })));
}

/// A snapshot of the last turn, with the hash of its state: replaying is compared with it on the way.
fn snapshot(world: &mut World) {
    let state = &world.committed;
    let snapshot = SnapshotTaken {
        sequence: state.sequence,
        turn: world.tail(),
        state: state.hash(),
        digest: Digest::of(b"snapshot"),
        bytes: 8,
        records: state.records,
        inbox: state.inbox,
        events: state.events,
    };
    world.input(Input::SnapshotStored(Box::new(snapshot)));
}
