//! Gangs: all members or none, one gathering per pool, addresses told when all are there, and one fate for all.

use std::collections::BTreeMap;

use crate::world::{World, definition, item, pool};
use causey_engine::{GangPhase, TaskRef, TaskState};
use causey_protocol::flow::StepIndex;
use causey_protocol::id::{Path, RunId, Timestamp};
use causey_protocol::input::{Input, Request};
use causey_protocol::parameter::Values;
use causey_protocol::policy::{HostMode, RetryPolicy};
use causey_protocol::problem::Code;
use causey_protocol::record::{Answer, FailureCause, Record, RunState};
use causey_protocol::resources::Resources;
use causey_protocol::task::{
    Address, Dispatch, DispatchedTask, ErrorInfo, Failure, FailureKind, GANG_MEMBERS_MAX, Inputs, Outcome, Publication,
};
use causey_protocol::upkeep::{Storage, StorageLevel};
use proptest::prelude::*;

pub(crate) const LINES: [&str; 4] = ["start gang train", "train > gather", "gather* > end", "end"];
const SECOND: u64 = 1_000_000;

/// A world with one run whose gang of so many members gathers.
fn gathering(size: u32) -> (World, RunId) {
    let mut world = World::new();
    let run = another(&mut world, size, 0);
    (world, run)
}

/// One more run, up to its gang; a member may fail `retries` times.
fn another(world: &mut World, size: u32, retries: u32) -> RunId {
    let mut flow = definition("Demo", &LINES);
    let retry =
        RetryPolicy { times: retries, delay_seconds: 10.0, factor: 1.0, cap_seconds: 3600.0, jitter: 0.0, on: vec!["OSError".into()] };
    flow.steps[1].retry = (retries > 0).then_some(retry);
    let Answer::RunStarted { run, .. } = world.submit(flow, Values::new()) else { panic!("refused") };
    world.succeed("start/0", Some(size));
    run
}

fn phase(world: &World, run: RunId) -> GangPhase {
    world.state.run(run).unwrap().gangs[&(StepIndex(1), Path::default())].phase
}

fn dissolved(world: &World, run: RunId) -> String {
    world.state.run(run).unwrap().gangs[&(StepIndex(1), Path::default())].dissolved.clone().unwrap_or_default()
}

fn fail(world: &mut World, (dispatch, task): &(Dispatch, DispatchedTask), kind: FailureKind, class: &str) -> Vec<Record> {
    let error = Box::new(ErrorInfo { kind: class.into(), message: "bad\nworse".into(), ..ErrorInfo::default() });
    let (started, ended) = (Timestamp(world.now), Timestamp(world.now));
    world.report(item(dispatch, task, Outcome::Failed(Failure { kind, error, digest: None, bytes: 0, started, ended })))
}

fn lose(world: &mut World, worker: &str) {
    world.request(Request::WorkerLost { pool: pool("default"), worker: worker.parse().unwrap() });
}

fn ignored(records: &[Record]) -> &str {
    match records {
        [Record::Ignored { because }] => because,
        other => panic!("not ignored: {other:?}"),
    }
}

#[test]
fn members_are_opened_together_and_begin_once_all_are_there() {
    let (mut world, run) = gathering(3);
    assert_eq!(world.queued(), ["train/0", "train/1", "train/2"]);
    assert!(world.queue.iter().all(|dispatch| dispatch.gang && dispatch.tasks.len() == 1));
    world.join("train/2", "w2");
    world.join("train/0", "w1");
    assert!(matches!(phase(&world, run), GangPhase::Gathering { .. }) && world.told.is_empty());
    world.restart();
    world.take("train/2");
    world.take("train/0");
    world.join("train/1", "w1");
    assert_eq!((phase(&world, run), &world.told), (GangPhase::Formed, &vec![run]));
    let found = world.state.run(run).unwrap();
    let addresses = found.gangs[&(StepIndex(1), Path::default())].addresses().unwrap();
    assert_eq!(addresses.iter().map(|address| address.port).collect::<Vec<_>>(), [4_000, 4_001, 4_002]);
    assert_eq!(world.state.next_timer(), None, "who is there has all the time");
}

#[test]
fn results_are_accepted_together_and_the_join_receives_them_in_order() {
    let (mut world, run) = gathering(3);
    let members = world.form("train");
    let reports: Vec<_> = members.iter().map(|(dispatch, task)| world.success(dispatch, task, None, Vec::new())).collect();
    for report in [&reports[2], &reports[0]] {
        let records = world.report(report.clone());
        assert!(matches!(records[..], [Record::MemberSucceeded { .. }]), "{records:?}");
    }
    assert!(ignored(&world.report(reports[0].clone())).starts_with("late report"));
    world.restart();
    assert!(world.queue.iter().all(|dispatch| dispatch.task_id(&dispatch.tasks[0]).to_string() == "train/1"));
    let records = world.report(reports[1].clone());
    let accepted = records.iter().filter(|record| matches!(record, Record::AttemptSucceeded { .. })).count();
    assert_eq!(accepted, 3);
    assert!(world.state.run(run).unwrap().gangs.is_empty());
    world.queue.retain(|dispatch| dispatch.step.as_str() == "gather");
    let (dispatch, task) = world.take("gather/0");
    let Inputs::Listed(inputs) = &task.inputs else { panic!() };
    assert_eq!(inputs.iter().map(|input| input.path.to_string()).collect::<Vec<_>>(), ["0", "1", "2"]);
    world.end_well(vec![(dispatch, task)]);
    world.succeed("end/0", None);
    assert_eq!(world.run_state(run), RunState::Succeeded);
}

#[test]
fn reports_in_one_message_are_decided_one_by_one() {
    let (mut world, run) = gathering(3);
    let joins: Vec<_> = world.queue.clone().iter().map(|dispatch| world.joined(dispatch, &dispatch.tasks[0])).collect();
    let members: Vec<_> = ["train/0", "train/1", "train/2"].into_iter().map(|name| world.take(name)).collect();
    world.report_message(joins);
    assert_eq!(phase(&world, run), GangPhase::Formed);
    let ends = members.iter().map(|(dispatch, task)| world.success(dispatch, task, None, Vec::new())).collect();
    world.report_message(ends);
    assert_eq!(world.queued(), ["gather/0"]);
}

#[test]
fn a_failing_member_stops_the_others_and_the_gang_is_charged_one_retry() {
    let mut world = World::new();
    let run = another(&mut world, 3, 2);
    let members = world.form("train");
    world.end_well(vec![members[0].clone()]);
    fail(&mut world, &members[1], FailureKind::User, "OSError");
    let since = world.now;
    assert_eq!(dissolved(&world, run), "train/1 failed: OSError: bad");
    let late = world.success(&members[2].0, &members[2].1, None, Vec::new());
    assert!(ignored(&world.report(late)).starts_with("late report"));
    world.now = world.state.next_timer().unwrap().0;
    world.input(Input::TimersDue);
    assert_eq!(world.now - 1_000, since + 10 * SECOND, "the delay of the retry");
    let again = world.form("train");
    assert_eq!(again.iter().map(|(_, task)| (task.attempt, task.retry)).collect::<Vec<_>>(), [(1, 1); 3]);
    world.end_well(again);
    assert_eq!(world.queued(), ["gather/0"]);
    let retries = world.turns.iter().flat_map(|turn| &turn.records).filter(|record| matches!(record, Record::GangDissolved { .. })).count();
    assert_eq!((retries, world.run_state(run)), (1, RunState::Running));
}

#[test]
fn a_failure_beyond_the_retries_or_the_filter_ends_the_run() {
    let mut world = World::new();
    let run = another(&mut world, 2, 1);
    let members = world.form("train");
    fail(&mut world, &members[1], FailureKind::User, "OSError");
    world.pass_time();
    let members = world.form("train");
    fail(&mut world, &members[0], FailureKind::User, "OSError");
    assert_eq!((world.run_state(run), world.problem(run)), (RunState::Failed, "train/0 failed after 2 attempts: OSError: bad".into()));
    assert_eq!(world.cancelled, [run]);
    let run = another(&mut world, 2, 1);
    let members = world.form("train");
    fail(&mut world, &members[1], FailureKind::User, "KeyError");
    assert_eq!(world.run_state(run), RunState::Failed);
}

/// Row 1 of the fault model.
#[test]
fn a_lost_worker_costs_the_gang_its_attempt_but_no_retry_until_it_counts_as_poison() {
    let (mut world, run) = gathering(2);
    for attempt in 0..4 {
        assert_eq!(world.queue[0].tasks[0].attempt, attempt);
        world.form("train");
        lose(&mut world, if attempt % 2 == 0 { "w1" } else { "w2" });
        assert_eq!(world.state.run(run).unwrap().state.is_terminal(), attempt == 3);
    }
    assert_eq!(world.problem(run), "train/1 is poison: 4 workers vanished while they ran it");
}

#[test]
fn a_member_lost_or_given_back_while_gathering_sends_all_of_them_back_uncharged_and_slower_each_time() {
    let (mut world, run) = gathering(2);
    for round in 0..12_u32 {
        let (dispatch, task) = world.join("train/1", "w1");
        if round % 2 == 0 {
            lose(&mut world, "w1");
            assert_eq!(dissolved(&world, run), "train/1 was given back: its worker vanished");
        } else {
            world.report(item(&dispatch, &task, Outcome::Released { because: "draining".into() }));
        }
        assert_eq!(world.queued(), Vec::<String>::new());
        let wait = world.state.next_timer().unwrap().0 - world.now;
        assert_eq!(wait, SECOND << round.min(6));
        world.restart();
        world.pass_time();
        assert_eq!((task.retry, world.queued().len()), (0, 2));
    }
    let members = world.form("train");
    world.end_well(members);
    assert_eq!(world.queued(), ["gather/0"]);
}

#[test]
fn a_gang_that_is_not_complete_in_time_lets_go_of_its_places() {
    let (mut world, run) = gathering(2);
    let called = world.now;
    let (dispatch, task) = world.join("train/0", "w1");
    world.pass_time();
    assert!(world.now - called >= 60 * SECOND && world.now - called <= 60 * SECOND + 10_000);
    assert_eq!(dissolved(&world, run), "only 1 of its 2 members were there in time");
    assert_eq!(world.queued(), Vec::<String>::new());
    let late = world.joined(&dispatch, &task);
    assert!(ignored(&world.report(late)).starts_with("late report"));
    let waiting = world.state.run(run).unwrap().step(StepIndex(1)).counts[TaskState::Waiting as usize];
    assert_eq!(waiting, 2);
}

#[test]
fn gangs_of_one_pool_gather_one_after_the_other_in_order() {
    let (mut world, first) = gathering(2);
    let second = another(&mut world, 3, 0);
    let third = another(&mut world, 1, 0);
    assert_eq!(world.queued(), ["train/0", "train/1"]);
    world.join("train/0", "w1");
    world.restart();
    world.take("train/0");
    world.join("train/1", "w2");
    assert_eq!(phase(&world, first), GangPhase::Formed);
    assert!(matches!(phase(&world, second), GangPhase::Gathering { .. }), "the first one runs, so the second may gather");
    assert!(matches!(phase(&world, third), GangPhase::InLine { .. }));
    // No place is left for the second: it lets the third through and comes again behind it.
    world.join("train/0", "w1");
    world.pass_time();
    assert!(matches!(phase(&world, second), GangPhase::InLine { .. }));
    assert!(matches!(phase(&world, third), GangPhase::Gathering { .. }));
    let members = world.form("train");
    assert_eq!((members.len(), phase(&world, third)), (1, GangPhase::Formed));
    world.pass_time();
    assert_eq!(world.form("train").len(), 3);
    assert_eq!(phase(&world, second), GangPhase::Formed);
}

#[test]
fn gangs_of_two_pools_gather_beside_each_other() {
    let mut world = World::new();
    for name in ["default", "gpu"] {
        let mut flow = definition("Demo", &LINES);
        flow.steps[1].resources = Some(Resources { pool: Some(pool(name)), ..Resources::default() });
        world.submit(flow, Values::new());
        world.succeed("start/0", Some(2));
    }
    assert_eq!(world.queued(), ["train/0", "train/1", "train/0", "train/1"]);
}

#[test]
fn a_cancel_while_gathering_makes_way_for_the_next_gang() {
    let (mut world, first) = gathering(2);
    let second = another(&mut world, 2, 0);
    world.join("train/0", "w1");
    world.request(Request::Cancel { run: first, because: String::new() });
    assert_eq!(world.run_state(first), RunState::Cancelled);
    assert!(world.state.run(first).unwrap().gangs.is_empty());
    assert!(matches!(phase(&world, second), GangPhase::Gathering { .. }));
    let counts = world.state.run(first).unwrap().step(StepIndex(1)).counts;
    assert_eq!(counts[TaskState::Cancelled as usize], 2);
    assert!(world.queue.iter().all(|dispatch| dispatch.run == second));
}

#[test]
fn a_gang_larger_than_its_pool_is_refused_by_name_but_not_before_the_pool_is_known() {
    let (mut world, run) = gathering(5);
    let counted = |slots: &[u32]| Input::PoolCounted { pool: pool("default"), slots: slots.to_vec() };
    assert!(ignored(&world.input(counted(&[]))).starts_with("pool default has room"));
    assert!(ignored(&world.input(counted(&[2, 3]))).starts_with("pool default has room"));
    assert!(ignored(&world.input(Input::PoolCounted { pool: pool("gpu"), slots: vec![1] })).starts_with("pool gpu has room"));
    world.input(counted(&[2, 2]));
    let problem = world.state.run(run).unwrap().problem.clone().unwrap();
    assert_eq!(problem.code, Code::GANG_TOO_LARGE);
    assert_eq!(problem.message, "step `train` asks for a gang of 5 members, but pool default has room for 4: 2 workers with 4 slots");
    assert_eq!(world.run_state(run), RunState::Failed);
}

#[test]
fn members_that_need_several_slots_are_counted_as_workers_hold_them() {
    let mut world = World::new();
    let mut flow = definition("Demo", &LINES);
    flow.steps[1].resources = Some(Resources { cpu: 3.0, ..Resources::default() });
    let Answer::RunStarted { run, .. } = world.submit(flow, Values::new()) else { panic!("refused") };
    world.succeed("start/0", Some(4));
    // Two on the largest, one on each of the others, the smaller of which it takes whole.
    world.input(Input::PoolCounted { pool: pool("default"), slots: vec![7, 4, 2] });
    assert_eq!(world.run_state(run), RunState::Running);
    world.input(Input::PoolCounted { pool: pool("default"), slots: vec![8, 4] });
    assert!(world.problem(run).contains("4 members of 3 slots each, but pool default has room for 3: 2 workers with 12 slots"));
}

/// Rows 4 and 16 of the fault model.
#[test]
fn a_member_delivered_twice_counts_as_the_later_one_until_the_gang_has_formed() {
    let (mut world, run) = gathering(2);
    let (dispatch, task) = world.join("train/0", "w1");
    let elsewhere = Address { ip: [10, 0, 0, 7].into(), port: 5_000 };
    let joined = |address| item(&dispatch, &task, Outcome::Joined { address, at: Timestamp(1) });
    let by = |world: &mut World, worker: &str, address| {
        world.input(Input::Report { pool: pool("default"), worker: worker.parse().unwrap(), items: vec![joined(address)] })
    };
    assert!(matches!(by(&mut world, "w9", elsewhere)[..], [Record::MemberJoined { .. }]));
    assert!(ignored(&by(&mut world, "w9", elsewhere)).contains("has joined its gang before"));
    lose(&mut world, "w1");
    assert!(matches!(phase(&world, run), GangPhase::Gathering { .. }), "the loss of the earlier one means nothing");
    world.join("train/1", "w2");
    assert_eq!(world.state.run(run).unwrap().gangs[&(StepIndex(1), Path::default())].addresses().unwrap()[0], elsewhere);
    by(&mut world, "w1", Address { port: 5_001, ..elsewhere });
    assert!(matches!(phase(&world, run), GangPhase::InLine { .. } | GangPhase::Gathering { .. }), "the others know a wrong address");
    assert!(dissolved(&world, run).contains("delivered once more"));
    assert_eq!(world.queue[0].tasks[0].retry, 0);
}

#[test]
fn what_a_member_says_before_its_gang_has_formed_is_ignored_but_for_failures() {
    let mut world = World::new();
    let run = another(&mut world, 2, 1);
    let (dispatch, task) = world.join("train/0", "w");
    let success = world.success(&dispatch, &task, None, Vec::new());
    assert!(ignored(&world.report(success)).ends_with("has a result, but its gang has not formed"));
    let started = item(&dispatch, &task, Outcome::Started { at: Timestamp(world.now) });
    assert!(ignored(&world.report(started.clone())).ends_with("is said to run before its gang has formed"));
    world.join("train/1", "w2");
    assert!(matches!(world.report(started)[..], [Record::AttemptStarted { .. }]));
    fail(&mut world, &(dispatch, task), FailureKind::Permanent, "ImportError");
    assert_eq!(world.run_state(run), RunState::Failed);
    let plain = world.run(&["start > end", "end"]);
    let (dispatch, task) = world.take("start/0");
    let address = Address { ip: [127, 0, 0, 1].into(), port: 1 };
    let joined = item(&dispatch, &task, Outcome::Joined { address, at: Timestamp(1) });
    assert!(ignored(&world.report(joined)).ends_with("is no member of a gang"));
    assert_eq!(world.run_state(plain), RunState::Running);
}

#[test]
fn a_number_of_members_that_cannot_be_is_named() {
    for (size, what) in [
        (Some(0), "step `start` asks for a gang of 0 members; 1 to 500 are possible"),
        (Some(GANG_MEMBERS_MAX + 1), "step `start` asks for a gang of 501 members; 1 to 500 are possible"),
        (None, "step `start` did not say how many members its gang has"),
    ] {
        let mut world = World::new();
        let run = world.run(&LINES);
        world.succeed("start/0", size);
        assert_eq!(world.run_state(run), RunState::Failed);
        assert!(world.problem(run).contains(what), "{}", world.problem(run));
    }
}

#[test]
fn the_largest_gang_joins_by_a_manifest() {
    let (mut world, run) = gathering(GANG_MEMBERS_MAX);
    let members = world.form("train");
    world.end_well(members);
    world.store_blobs();
    world.succeed("gather/0", None);
    world.succeed("end/0", None);
    assert_eq!(world.run_state(run), RunState::Succeeded);
}

#[test]
fn only_the_first_member_publishes() {
    let publication = || Publication {
        model: "m".parse().unwrap(),
        artifact: "_model_m".into(),
        format: "json".into(),
        metrics: serde_json::Map::new(),
        tags: Default::default(),
        description: String::new(),
        allow_pickle: false,
    };
    let (mut world, run) = gathering(2);
    let members = world.form("train");
    let report = world.success(&members[0].0, &members[0].1, None, vec![publication()]);
    world.report(report);
    assert!(world.state.models.is_empty(), "nothing of a gang is accepted before all of it is");
    world.end_well(vec![members[1].clone()]);
    assert_eq!(world.state.models.len(), 1);
    assert_eq!(world.run_state(run), RunState::Running);
    let (mut world, run) = gathering(2);
    let members = world.form("train");
    let report = world.success(&members[1].0, &members[1].1, None, vec![publication()]);
    world.report(report);
    assert!(world.problem(run).contains("train/1 publishes a model, but of a gang only member 0 may"), "{}", world.problem(run));
}

#[test]
fn a_gang_waits_for_room_in_the_streams() {
    let mut world = World::new();
    let run = world.run(&LINES);
    let press = |level| Input::Pressure(Storage { level, stream: "CAUSEY_LOG".into(), percent: 91 });
    world.input(press(StorageLevel::Critical));
    world.succeed("start/0", Some(2));
    assert_eq!((world.queued().len(), world.state.next_timer()), (0, None));
    world.restart();
    world.input(press(StorageLevel::Scarce));
    assert_eq!(world.form("train").len(), 2);
    assert_eq!(phase(&world, run), GangPhase::Formed);
}

#[test]
fn members_that_fail_for_reasons_of_infrastructure_are_called_again_uncharged() {
    let (mut world, run) = gathering(2);
    let members = world.form("train");
    fail(&mut world, &members[0], FailureKind::Infrastructure, "CSY-4001");
    assert_eq!((world.run_state(run), world.queued().len()), (RunState::Running, 0));
    world.pass_time();
    let members = world.form("train");
    assert_eq!(members.iter().map(|(_, task)| (task.attempt, task.retry)).collect::<Vec<_>>(), [(1, 0); 2]);
}

/// Row 5 of the fault model.
#[test]
fn a_member_that_is_silent_beyond_its_limit_fails_the_gang() {
    let mut world = World::new();
    let mut flow = definition("Demo", &LINES);
    (flow.steps[1].timeout_seconds, flow.steps[1].host) = (Some(10.0), Some(HostMode::Reuse));
    let Answer::RunStarted { run, .. } = world.submit(flow, Values::new()) else { panic!("refused") };
    world.succeed("start/0", Some(2));
    let members = world.form("train");
    assert_eq!(world.state.next_timer(), None, "the time of user code counts from its start");
    let (dispatch, task) = &members[1];
    let started = item(dispatch, task, Outcome::Started { at: Timestamp(world.now) });
    world.input(Input::Report { pool: pool("default"), worker: "w2".parse().unwrap(), items: vec![started] });
    world.pass_time();
    assert_eq!(world.run_state(run), RunState::Failed);
    assert!(world.problem(run).contains("train/1 failed after 1 attempt"), "{}", world.problem(run));
}

#[test]
fn members_that_time_out_at_the_same_moment_fail_the_gang_once() {
    let mut world = World::new();
    let mut flow = definition("Demo", &LINES);
    flow.steps[1].timeout_seconds = Some(10.0);
    flow.steps[1].retry = Some(RetryPolicy { times: 1, delay_seconds: 0.0, factor: 1.0, cap_seconds: 0.0, jitter: 0.0, on: Vec::new() });
    world.submit(flow, Values::new());
    world.succeed("start/0", Some(3));
    let started = world.form("train").into_iter().zip(["w1", "w2", "w3"]).map(|((dispatch, task), worker)| {
        let items = vec![item(&dispatch, &task, Outcome::Started { at: Timestamp(1) })];
        Input::Report { pool: pool("default"), worker: worker.parse().unwrap(), items }
    });
    let started = started.collect();
    world.turn(started);
    world.pass_time();
    let again: Vec<_> = world.queue.iter().map(|dispatch| (dispatch.tasks[0].attempt, dispatch.tasks[0].retry)).collect();
    assert_eq!(again, [(1, 1); 3]);
}

#[test]
fn gangs_in_a_foreach_gather_in_the_order_of_its_items() {
    let mut world = World::new();
    let run = world.run(&["start each work", "work gang train", "train > meet", "meet* > gather", "gather* > end", "end"]);
    world.succeed("start/0", Some(2));
    world.succeed("work/1", Some(2));
    world.succeed("work/0", Some(1));
    assert_eq!(world.queued(), ["train/1.0", "train/1.1"]);
    let splits: Vec<_> = world.queue[0].splits.iter().map(|split| (split.step.to_string(), split.count)).collect();
    assert_eq!(splits, [("start".to_owned(), 2), ("work".to_owned(), 2)]);
    for step in ["train", "meet", "train", "meet"] {
        if step == "train" {
            let members = world.form("train");
            world.end_well(members);
        } else {
            let name = world.queued().into_iter().find(|name| name.starts_with("meet/")).unwrap();
            world.succeed(&name, None);
        }
    }
    world.succeed("gather/0", None);
    world.succeed("end/0", None);
    assert_eq!(world.run_state(run), RunState::Succeeded);
    let failed = world.turns.iter().flat_map(|turn| &turn.records);
    let lost = failed.filter(|record| matches!(record, Record::AttemptFailed { cause: FailureCause::Lost, .. })).count();
    assert_eq!(lost, 0);
}

/// A pool of so many slots, each of which a task occupies from the moment it is taken off the queue until it has ended or been recalled.
struct Pool {
    world: World,
    slots: usize,
    held: Vec<(Dispatch, DispatchedTask)>,
    /// Members of each run's gang.
    sizes: BTreeMap<RunId, u32>,
}

impl Pool {
    /// Workers let go of what is no longer open, and nobody is given what is held.
    fn settle(&mut self) {
        let state = &self.world.state;
        let is_open = |dispatch: &Dispatch, task: &DispatchedTask| {
            let run = state.run(dispatch.run).unwrap();
            let step = state.flow_of(run).unwrap().find(&dispatch.step).unwrap();
            run.open_attempt(&TaskRef::new(step, task.path.clone(), task.visit), task.attempt).is_some()
        };
        self.held.retain(|(dispatch, task)| is_open(dispatch, task));
        let held = &self.held;
        let is_held = |dispatch: &Dispatch| {
            let same = |(other, task): &(Dispatch, DispatchedTask)| {
                (other.run, &other.step, &task.path) == (dispatch.run, &dispatch.step, &dispatch.tasks[0].path)
            };
            held.iter().any(same)
        };
        self.world.queue.retain(|dispatch| !is_held(dispatch));
    }

    fn formed(&self, dispatch: &Dispatch) -> bool {
        !dispatch.gang || phase(&self.world, dispatch.run) == GangPhase::Formed
    }

    /// A free slot takes a queued task; a member joins with it.
    fn take(&mut self, choice: usize) -> bool {
        let Some(place) = choice.checked_rem(self.world.queue.len()).filter(|_| self.held.len() < self.slots) else { return false };
        let dispatch = self.world.queue.remove(place);
        let task = dispatch.tasks[0].clone();
        if dispatch.gang {
            let joined = self.world.joined(&dispatch, &task);
            self.world.report(joined);
        }
        self.held.push((dispatch, task));
        true
    }

    /// Something that runs ends well.
    fn end(&mut self, choice: usize) -> bool {
        let running: Vec<usize> = (0..self.held.len()).filter(|place| self.formed(&self.held[*place].0)).collect();
        let Some(place) = choice.checked_rem(running.len()).map(|place| running[place]) else { return false };
        let (dispatch, task) = self.held.remove(place);
        let size = (dispatch.step.as_str() == "start").then(|| self.sizes[&dispatch.run]);
        let success = self.world.success(&dispatch, &task, size, Vec::new());
        self.world.report(success);
        true
    }

    /// Something is handed back, whether it runs or waits for its gang.
    fn give_back(&mut self, choice: usize) -> bool {
        let Some(place) = choice.checked_rem(self.held.len()) else { return false };
        let (dispatch, task) = self.held.remove(place);
        self.world.report(item(&dispatch, &task, Outcome::Released { because: "draining".into() }));
        true
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// I5: gangs of one pool never wait for each other for ever, whatever order workers take their members in, and whoever dies.
    #[test]
    fn gangs_that_compete_for_the_slots_of_a_pool_all_come_to_run(
        sizes in prop::collection::vec(1..=4_u32, 2..5),
        spare in 0..2_usize,
        choices in prop::collection::vec((any::<usize>(), any::<u8>()), 50),
    ) {
        let mut pool = Pool { world: World::new(), slots: 4 + spare, held: Vec::new(), sizes: BTreeMap::new() };
        for size in sizes {
            let run = pool.world.run(&LINES);
            pool.sizes.insert(run, size);
        }
        for (step, (choice, chance)) in choices.iter().cycle().take(2_000).enumerate() {
            pool.settle();
            // Faults only for a while: then all must come to an end.
            let done = match chance % 8 {
                0 if step < 200 => {
                    pool.world.restart();
                    true
                }
                1 | 2 if step < 200 => pool.give_back(*choice),
                3..=5 => pool.take(*choice),
                _ => pool.end(*choice),
            };
            let stuck = !done && !pool.take(*choice) && !pool.end(*choice);
            if stuck && pool.world.state.next_timer().is_some() {
                pool.world.pass_time();
            }
        }
        let runs: Vec<RunId> = pool.sizes.keys().copied().collect();
        for run in runs {
            prop_assert_eq!(pool.world.run_state(run), RunState::Succeeded);
        }
    }
}
