//! Time limits of attempts and runs, and which failures are tried again.

use crate::world::{World, definition, item};
use causey_protocol::id::Timestamp;
use causey_protocol::input::{FlowChoice, Input, Request};
use causey_protocol::parameter::Values;
use causey_protocol::policy::{CatchPolicy, RetryPolicy};
use causey_protocol::record::{Answer, FailureCause, Record, RunState};
use causey_protocol::task::{ErrorInfo, Failure, FailureKind, Outcome};

const SECOND: u64 = 1_000_000;

fn retry(times: u32, on: &[&str]) -> Option<RetryPolicy> {
    let on = on.iter().map(|name| (*name).to_owned()).collect();
    Some(RetryPolicy { times, delay_seconds: 0.0, factor: 1.0, cap_seconds: 0.0, jitter: 0.0, on })
}

/// The queued task fails with an error of this class.
fn fail_with(world: &mut World, name: &str, kind: FailureKind, class: &str, bases: &[&str]) {
    let (dispatch, task) = world.take(name);
    let classes = bases.iter().map(|base| (*base).to_owned()).collect();
    let error = Box::new(ErrorInfo { kind: class.into(), message: "bad".into(), classes, ..ErrorInfo::default() });
    let (started, ended) = (Timestamp(world.now), Timestamp(world.now));
    world.report(item(&dispatch, &task, Outcome::Failed(Failure { kind, error, digest: None, bytes: 0, started, ended })));
}

#[test]
fn a_dispatch_carries_the_limit_and_the_grace_of_its_step() {
    let mut world = World::new();
    let mut flow = definition("Demo", &["start > end", "end"]);
    (flow.steps[0].timeout_seconds, flow.steps[0].grace_seconds) = (Some(90.0), Some(1.5));
    world.submit(flow, Values::new());
    assert_eq!((world.queue[0].timeout_seconds, world.queue[0].grace_seconds), (Some(90.0), Some(1.5)));
    world.succeed("start/0", None);
    assert_eq!((world.queue[0].timeout_seconds, world.queue[0].grace_seconds), (None, None));
}

#[test]
fn an_attempt_that_timed_out_is_charged_and_named() {
    let mut world = World::new();
    let mut flow = definition("Demo", &["start > end", "end"]);
    (flow.steps[0].timeout_seconds, flow.steps[0].retry) = (Some(90.0), retry(1, &[]));
    let Answer::RunStarted { run, .. } = world.submit(flow, Values::new()) else { panic!() };
    fail_with(&mut world, "start/0", FailureKind::TimedOut, "TimeoutException", &[]);
    assert_eq!((world.queue[0].tasks[0].attempt, world.queue[0].tasks[0].retry), (1, 1));
    fail_with(&mut world, "start/0", FailureKind::TimedOut, "TimeoutException", &[]);
    assert_eq!(world.run_state(run), RunState::Failed);
    let problem = world.state.run(run).unwrap().problem.clone().unwrap();
    assert_eq!(problem.code, causey_protocol::problem::Code::TIMED_OUT);
    assert_eq!(problem.message, "start/0 failed after 2 attempts: TimeoutException: bad");
}

/// Row 5 of the fault model.
#[test]
fn an_attempt_whose_worker_is_silent_ends_a_minute_after_its_limit_and_grace() {
    let mut world = World::new();
    let mut flow = definition("Demo", &["start > end", "end"]);
    (flow.steps[0].timeout_seconds, flow.steps[0].retry) = (Some(90.0), retry(1, &[]));
    let Answer::RunStarted { run, .. } = world.submit(flow, Values::new()) else { panic!() };
    assert_eq!(world.state.next_timer(), None, "a task that waits for a worker has all the time");
    let (dispatch, task) = world.started("start/0", "w");
    assert_eq!(world.state.next_timer(), Some(Timestamp(world.now + (90 + 5 + 60) * SECOND)));
    world.restart();
    world.queue.clear();
    world.pass_time();
    assert_eq!((world.queue[0].tasks[0].attempt, world.queue[0].tasks[0].retry), (1, 1));
    let late = world.success(&dispatch, &task, None, Vec::new());
    assert!(matches!(world.report(late)[..], [Record::Ignored { .. }]));
    world.started("start/0", "w");
    world.pass_time();
    assert_eq!(world.run_state(run), RunState::Failed);
    assert_eq!(
        world.problem(run),
        "start/0 failed after 2 attempts: CSY-2108: step `start` timed out after 90 seconds, and its worker has not reported since"
    );
}

#[test]
fn a_result_in_time_disarms_the_limit() {
    let mut world = World::new();
    let mut flow = definition("Demo", &["start > end", "end"]);
    flow.steps[0].timeout_seconds = Some(90.0);
    world.submit(flow, Values::new());
    let (dispatch, task) = world.started("start/0", "w");
    let report = world.success(&dispatch, &task, None, Vec::new());
    world.report(report);
    assert_eq!(world.state.next_timer(), None);
}

#[test]
fn a_run_ends_at_its_limit() {
    let mut world = World::new();
    let mut flow = definition("Demo", &["start > end", "end"]);
    flow.timeout_seconds = Some(3600.0);
    let Answer::RunStarted { run, .. } = world.submit(flow, Values::new()) else { panic!() };
    assert_eq!(world.state.next_timer(), Some(Timestamp(world.now + 3600 * SECOND)));
    world.succeed("start/0", None);
    world.restart();
    world.pass_time();
    assert_eq!((world.run_state(run), world.problem(run).as_str()), (RunState::Failed, "the run timed out after 3600 seconds"));
    assert!(world.queued().is_empty());
    assert_eq!((world.cancelled.clone(), world.state.next_timer()), (vec![run], None));
}

#[test]
fn a_request_sets_another_limit_for_its_run() {
    let mut world = World::new();
    let submit = |timeout_seconds| {
        let mut flow = definition("Demo", &["start > end", "end"]);
        flow.timeout_seconds = Some(3600.0);
        let flow = FlowChoice::Given(Box::new(causey_protocol::flow::Flow::try_from(flow).unwrap()));
        Request::Submit {
            flow,
            parameters: Values::new(),
            tags: Vec::new(),
            host: None,
            timeout_seconds,
            standing: Default::default(),
            fresh: false,
        }
    };
    world.request(submit(Some(2.5)));
    assert_eq!(world.state.next_timer(), Some(Timestamp(world.now + 2_500_000)));
    for nonsense in [0.0, -1.0, f64::NAN, 1e12] {
        assert!(matches!(world.request(submit(Some(nonsense))), Answer::Refused(_)), "{nonsense}");
    }
}

#[test]
fn a_filter_lets_other_failures_end_the_run_at_once() {
    let flow = || {
        let mut flow = definition("Demo", &["start > end", "end"]);
        flow.steps[0].retry = retry(3, &["OSError"]);
        flow
    };
    let mut world = World::new();
    let Answer::RunStarted { run, .. } = world.submit(flow(), Values::new()) else { panic!() };
    fail_with(&mut world, "start/0", FailureKind::User, "ConnectionError", &["OSError", "Exception"]);
    assert_eq!(world.queue[0].tasks[0].retry, 1);
    fail_with(&mut world, "start/0", FailureKind::User, "KeyError", &["LookupError"]);
    assert_eq!((world.run_state(run), world.problem(run).as_str()), (RunState::Failed, "start/0 failed after 2 attempts: KeyError: bad"));
}

#[test]
fn a_caught_step_goes_to_its_fallback_when_the_filter_does_not_cover_the_failure() {
    let mut world = World::new();
    let mut flow = definition("Demo", &["start > end", "end"]);
    (flow.steps[0].retry, flow.steps[0].catch) = (retry(3, &["OSError"]), Some(CatchPolicy { variable: None }));
    world.submit(flow, Values::new());
    fail_with(&mut world, "start/0", FailureKind::User, "CSY-2102", &[]);
    assert_eq!((world.queue[0].retries_max, world.queue[0].tasks[0].retry), (3, 4), "the host must be told to run the fallback");
}

#[test]
fn timers_of_an_ended_run_do_nothing() {
    let mut world = World::new();
    let mut flow = definition("Demo", &["start > end", "end"]);
    (flow.steps[0].timeout_seconds, flow.timeout_seconds) = (Some(1.0), Some(1.0));
    let Answer::RunStarted { run, .. } = world.submit(flow, Values::new()) else { panic!() };
    world.started("start/0", "w");
    world.now += 1_000 * SECOND;
    let records = world.input(Input::TimersDue);
    assert_eq!(records.iter().filter(|record| matches!(record, Record::RunFinished { .. })).count(), 1);
    assert!(!records.iter().any(|record| matches!(record, Record::AttemptFailed { cause: FailureCause::TimedOut { .. }, .. })));
    assert_eq!(world.run_state(run), RunState::Failed);
    assert!(world.input(Input::TimersDue).is_empty());
}
