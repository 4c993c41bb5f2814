//! What must hold whatever happens: random flows, workers that fail, vanish, repeat and delay their reports, and a leader that is
//! killed at any time. Violations are checked by the world after every turn.

use std::collections::BTreeMap;

use crate::world::{World, definition, inputs, item, pool};
use causey_engine::{GangPhase, Question, Run, State, TaskRef, TaskState, decide, why};
use causey_protocol::gate::ChildStart;
use causey_protocol::id::{RunId, Timestamp};
use causey_protocol::input::{Input, Request};
use causey_protocol::policy::{HostMode, RetryPolicy};
use causey_protocol::record::{Answer, Record, RunState};
use causey_protocol::task::{Dispatch, ErrorInfo, Failure, FailureKind, Outcome, ReportItem};
use proptest::prelude::*;
use serde_json::json;

/// Flows with every construct, by number.
const FLOWS: [&[&str]; 13] = [
    &["start > middle", "middle > end", "end"],
    &["start > a b", "a > meet", "b > meet", "meet* > end", "end"],
    &["start each work", "work > gather", "gather* > end", "end"],
    &["start each outer", "outer each inner", "inner > fold", "fold* > gather", "gather* > end", "end"],
    &["start ? b a", "a > meet", "b > meet", "meet > end", "end"],
    &["start > loop", "loop ? loop loop2 end", "loop2 > end", "end"],
    &["start each loop", "loop ? loop a b", "a > gather", "b > gather", "gather* > end", "end"],
    &["start gang train", "train > gather", "gather* > end", "end"],
    &["start each work", "work gang train", "train > meet", "meet* > gather", "gather* > end", "end"],
    &["start > a b", "a gang left", "left > la", "la* > meet", "b gang right", "right > rb", "rb* > meet", "meet* > end", "end"],
    &["start each item", "item > left right", "left > meet", "right > meet", "meet* > gather", "gather* > end", "end"],
    &["start > middle", "middle > end", "end"],
    &["start each work", "work > gather", "gather* > end", "end"],
];

/// In flows from this number on, the second step waits for a signal and the third for an approval, and the second starts runs.
const GATED: usize = 11;

/// What may happen next; numbers choose among what is there.
#[derive(Clone, Debug)]
enum Happening {
    Succeed(usize),
    /// A message with many results, some of them twice, and one that came before.
    SucceedTogether(Vec<usize>),
    Fail(usize),
    Start(usize),
    Repeat(usize),
    WorkerLost,
    Signal,
    Decide(bool),
    Stored(usize),
    Restart,
    Time,
    /// The wall clock jumps by an hour, forwards or back.
    Clock {
        back: bool,
    },
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        8 => any::<usize>().prop_map(Happening::Succeed),
        3 => prop::collection::vec(any::<usize>(), 2..40).prop_map(Happening::SucceedTogether),
        2 => any::<usize>().prop_map(Happening::Stored),
        1 => any::<usize>().prop_map(Happening::Fail),
        2 => any::<usize>().prop_map(Happening::Start),
        2 => any::<usize>().prop_map(Happening::Repeat),
        1 => Just(Happening::WorkerLost),
        1 => Just(Happening::Signal),
        1 => prop::bool::weighted(0.9).prop_map(Happening::Decide),
        1 => Just(Happening::Restart),
        1 => Just(Happening::Time),
        1 => any::<bool>().prop_map(|back| Happening::Clock { back }),
    ]
}

/// A world with one run of flow number `flow`, its steps retried often and, by `reuse`, dispatched in lists.
fn world_with(flow: usize, reuse: bool) -> World {
    let mut world = World::new();
    let mut definition = definition("Demo", FLOWS[flow]);
    for step in &mut definition.steps {
        step.retry = Some(RetryPolicy { times: 3, delay_seconds: 1.0, factor: 2.0, cap_seconds: 60.0, jitter: 0.5, on: Vec::new() });
        step.host = reuse.then_some(HostMode::Reuse);
        step.timeout_seconds = Some(600.0);
    }
    if flow >= GATED {
        let gate = |json| Some(Box::new(serde_json::from_value(json).unwrap()));
        definition.steps[1].gate =
            gate(json!({"signals": [{"name": "go", "timeout_seconds": 5.0, "default": {"value": 1}}, {"name": "on"}]}));
        definition.steps[2].gate = gate(json!({"approval": {"timeout_seconds": 86_400.0}}));
        definition.name = "Parent".parse().unwrap();
        world.deploy(crate::world::definition("Child", &["begin > last", "last"]));
    }
    assert!(matches!(world.submit(definition, Default::default()), Answer::RunStarted { .. }));
    world
}

/// The report of the `choice`th queued task; splits report three items or 65. A member of a gang joins before it does anything else.
fn success(world: &mut World, choice: usize) -> Option<ReportItem> {
    let queued = world.queued();
    let name = queued.get(choice.checked_rem(queued.len())?)?.clone();
    let (dispatch, task) = world.take(&name);
    let run = world.state.run(dispatch.run)?;
    let flow = world.state.flow_of(run)?;
    let step = flow.step(flow.find(&dispatch.step)?);
    let member = TaskRef::new(flow.find(&dispatch.step)?, task.path.clone(), task.visit);
    if run.gang_of(&member).is_some_and(|(_, gang, _)| gang.phase != GangPhase::Formed) {
        world.queue.push(Dispatch { tasks: vec![task.clone()], ..dispatch.clone() });
        return Some(world.joined(&dispatch, &task));
    }
    // Inside another foreach, 65 items are enough for chunks.
    let count = if task.path.0 == [0] { 65 } else { 3 };
    let foreach = step.next.is_indexed().then_some(count);
    let starts = flow.definition().name.as_str() == "Parent" && matches!(dispatch.step.as_str(), "middle" | "work");
    let mut report = world.success(&dispatch, &task, foreach, Vec::new());
    if let Outcome::Succeeded(success) = &mut report.outcome
        && starts
    {
        let child = |wait| ChildStart { flow: "Child".parse().unwrap(), parameters: Default::default(), wait, allow_failure: true };
        success.children = vec![child(true), child(false)];
    }
    Some(report)
}

/// Somebody sends the signal that the first run may wait for, or decides about its third step.
fn intervene(world: &mut World, decision: Option<bool>) {
    let run = *world.state.runs.keys().next().unwrap();
    let flow = world.state.flow_of(world.state.run(run).unwrap()).unwrap();
    let step = flow.definition().steps.get(2).map(|step| step.name.clone());
    let request = match (decision, step) {
        (Some(approved), Some(step)) => Request::Approve { run, step, approved, because: String::new() },
        _ => Request::Signal { run, name: "on".parse().unwrap(), data: json!([1]) },
    };
    world.request(request);
}

fn happen(world: &mut World, past: &mut Vec<ReportItem>, happening: &Happening) {
    match happening {
        Happening::Succeed(choice) => {
            if let Some(report) = success(world, *choice) {
                past.push(report.clone());
                world.report(report);
            }
        }
        Happening::SucceedTogether(choices) => {
            let mut items: Vec<ReportItem> = choices.iter().filter_map(|choice| success(world, *choice)).collect();
            let twice = items.first().cloned();
            items.extend(twice);
            items.extend(past.first().cloned());
            past.extend(items.iter().cloned());
            world.report_message(items);
        }
        Happening::Stored(choice) => {
            if let Some(place) = choice.checked_rem(world.blobs.len()) {
                let digest = world.blobs.swap_remove(place);
                world.input(Input::BlobStored { digest });
            }
        }
        Happening::Fail(choice) | Happening::Start(choice) => {
            let queued = world.queued();
            let Some(name) = choice.checked_rem(queued.len()).map(|place| queued[place].clone()) else { return };
            if matches!(happening, Happening::Start(_)) {
                // The worker that started it keeps it: either it reports later (a repeat) or it is lost.
                let (dispatch, task) = world.started(&name, "w");
                world.queue.push(Dispatch { tasks: vec![task], ..dispatch });
                return;
            }
            let (dispatch, task) = world.take(&name);
            let error = ErrorInfo { kind: "ValueError".into(), message: "bad".into(), ..ErrorInfo::default() };
            let (started, ended) = (Timestamp(world.now), Timestamp(world.now));
            let outcome =
                Outcome::Failed(Failure { kind: FailureKind::User, error: Box::new(error), digest: None, bytes: 0, started, ended });
            let report = item(&dispatch, &task, outcome);
            past.push(report.clone());
            world.report(report);
        }
        Happening::Repeat(choice) => {
            if let Some(place) = choice.checked_rem(past.len()) {
                let records = world.report(past[place].clone());
                assert!(matches!(records[..], [Record::Ignored { .. }]), "a repeated report changed something: {records:?}");
            }
        }
        Happening::WorkerLost => {
            world.request(Request::WorkerLost { pool: pool("default"), worker: "w".parse().unwrap() });
        }
        Happening::Signal => intervene(world, None),
        Happening::Decide(approved) => intervene(world, Some(*approved)),
        Happening::Restart => world.restart(),
        Happening::Clock { back } => {
            const HOUR: u64 = 3_600_000_000;
            world.now = if *back { world.now - HOUR } else { world.now + HOUR };
        }
        Happening::Time => {
            if world.state.next_timer().is_some() {
                world.pass_time();
            }
        }
    }
}

/// Results that the log says were accepted.
fn accepted(world: &World) -> u32 {
    world.state.runs.keys().map(|run| accepted_of(world, *run)).sum()
}

/// Those of one run.
fn accepted_of(world: &World, of: RunId) -> u32 {
    let records = world.turns.iter().flat_map(|turn| &turn.records);
    let counts = records.map(|record| match record {
        Record::AttemptSucceeded { run, .. } if *run == of => 1,
        Record::AttemptsSucceeded { run, items, .. } if *run == of => u32::try_from(items.len()).unwrap(),
        _ => 0,
    });
    counts.sum()
}

/// Live runs, steps and tasks of which the state does not say what they wait for.
fn unexplained(state: &State) -> Vec<String> {
    let mut questions = Vec::new();
    for run in state.live_runs() {
        let (flow, id) = (state.flow_of(run).unwrap(), run.id());
        questions.push(Question::Run(id));
        questions.extend(flow.indices().map(|step| Question::Step(id, step)));
        questions.extend(run.tasks(std::ops::Bound::Unbounded).map(|(task, _)| Question::Task(id, task)));
        questions.extend(run.joins.keys().map(|(step, path)| Question::Task(id, TaskRef::new(*step, path.clone(), 0))));
    }
    questions.iter().filter(|question| why(state, question).is_empty()).map(|question| format!("{question:?}")).collect()
}

/// Every task of a run, in whatever state.
fn tasks_of(run: &Run) -> u32 {
    run.steps.iter().flat_map(|step| step.counts).sum()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Rows 1, 6, 23 and 24 of the fault model.
    /// I5: after the faults stop, the run reaches a terminal state. I3: each task then has one result.
    #[test]
    fn every_run_ends_whatever_happens(flow in 0..FLOWS.len(), reuse: bool, happenings in prop::collection::vec(happening(), 0..80)) {
        let mut world = world_with(flow, reuse);
        let mut past = Vec::new();
        for happening in &happenings {
            happen(&mut world, &mut past, happening);
            prop_assert_eq!(unexplained(&world.state), Vec::<String>::new());
        }
        world.restart();
        for _ in 0..2_000 {
            if let Some(report) = success(&mut world, 0) {
                world.report(report);
            } else if world.state.live_runs().any(|run| run.gated().next().is_some()) && world.state.requests.len() < 1_000 {
                intervene(&mut world, None);
                intervene(&mut world, Some(true));
                if world.queue.is_empty() && world.state.next_timer().is_some() {
                    world.pass_time();
                }
            } else if world.state.next_timer().is_some() {
                world.pass_time();
            } else if let Some(digest) = world.blobs.pop() {
                world.input(Input::BlobStored { digest });
            } else {
                break;
            }
        }
        let runs: Vec<&Run> = world.state.runs.values().map(AsRef::as_ref).collect();
        for run in &runs {
            prop_assert!(run.state.is_terminal(), "the run waits for ever in state {:?}", run.state);
        }
        if runs.iter().all(|run| run.state == RunState::Succeeded) {
            prop_assert_eq!(accepted(&world), runs.iter().map(|run| tasks_of(run)).sum::<u32>(), "a task has two accepted results");
        }
        prop_assert!(world.turns.is_sorted_by_key(|turn| turn.at), "the log's time goes back");
        let ended = world.turns.iter().flat_map(|turn| &turn.records).filter(|record| matches!(record, Record::RunFinished { .. })).count();
        prop_assert_eq!(ended, runs.len());
    }

    /// A run that was stopped somewhere is resumed, from somewhere, with the leader killed anywhere and the earlier run retired or not: it ends
    /// well, no task has two results, nothing that was taken is run, and the log replays.
    #[test]
    fn a_resumed_run_takes_what_holds_and_runs_the_rest(
        flow in 0..GATED,
        reuse: bool,
        happenings in prop::collection::vec(happening(), 0..60),
        (step, retired, later) in (any::<prop::sample::Index>(), any::<bool>(), prop::collection::vec(happening(), 0..40)),
    ) {
        let mut world = world_with(flow, reuse);
        let mut past = Vec::new();
        for happening in &happenings {
            happen(&mut world, &mut past, happening);
        }
        let earlier = world.state.runs.values().next().unwrap().clone();
        let steps = &world.state.flow_of(&earlier).unwrap().definition().steps.clone();
        let places: Vec<Option<usize>> = std::iter::once(None).chain((0..steps.len()).map(Some)).collect();
        let mut from = step.get(&places).map(|place| steps[place].name.to_string());
        world.request(Request::Cancel { run: earlier.id(), because: String::new() });
        if world.run_state(earlier.id()) == RunState::Succeeded {
            from = from.or_else(|| Some(steps[0].name.to_string()));
        }
        if retired {
            world.store_history(earlier.id(), 0);
        }
        let run = world.resume(earlier.id(), from.as_deref(), None).unwrap();
        past.clear();
        for happening in &later {
            if let Happening::Stored(choice) = happening && !world.sought.is_empty() {
                world.find(choice % world.sought.len());
            }
            if !matches!(happening, Happening::Fail(_)) {
                happen(&mut world, &mut past, happening);
            }
        }
        world.restart();
        for _ in 0..3_000 {
            if !world.sought.is_empty() {
                world.find(0);
            } else if let Some(report) = success(&mut world, 0) {
                world.report(report);
            } else if world.state.next_timer().is_some() {
                world.pass_time();
            } else if let Some(digest) = world.blobs.pop() {
                world.input(Input::BlobStored { digest });
            } else {
                break;
            }
        }
        let resumed = world.state.run(run).unwrap();
        prop_assert_eq!(resumed.state, RunState::Succeeded, "{:?}", resumed.problem);
        let taken: u32 = resumed.steps.iter().map(|step| step.reused).sum();
        prop_assert_eq!(accepted_of(&world, run) + taken, tasks_of(resumed), "a task has two results, or none");
        let again = &resumed.start.cause.earlier().unwrap().again;
        let taken_of = |name: &str| resumed.steps[steps.iter().position(|step| step.name.as_str() == name).unwrap()].reused;
        prop_assert!(again.keys().all(|name| taken_of(name.as_str()) == 0));
        if earlier.state == RunState::Running && from.is_none() {
            let had: u32 = earlier.steps.iter().map(|step| step.counts[TaskState::Succeeded as usize]).sum();
            prop_assert_eq!(taken, had, "a result that holds was not taken");
        }
        prop_assert_eq!(world.replayed().hash(), world.state.hash());
    }

    /// I9: replaying the log gives the committed state, and so does storing and restoring it.
    #[test]
    fn replay_and_restore_give_the_same_state(flow in 0..FLOWS.len(), reuse: bool, happenings in prop::collection::vec(happening(), 0..60)) {
        let mut world = world_with(flow, reuse);
        let mut past = Vec::new();
        for happening in &happenings {
            happen(&mut world, &mut past, happening);
        }
        let replayed = world.replayed();
        prop_assert_eq!(replayed.hash(), world.state.hash());
        let mut copy = replayed.clone();
        let entries: Vec<(u8, Vec<u8>, Vec<u8>)> = copy
            .take_changes()
            .into_iter()
            .filter_map(|change| Some((change.table as u8, change.key, change.value?)))
            .collect();
        let restored = State::restore(&replayed.header(), entries).unwrap();
        prop_assert_eq!(restored.hash(), replayed.hash());
        prop_assert_eq!(restored.next_timer(), replayed.next_timer());
    }

    /// I9: what a copy is told as changes is all that changed.
    #[test]
    fn a_copy_that_follows_changes_is_the_state(flow in 0..FLOWS.len(), happenings in prop::collection::vec(happening(), 1..40)) {
        let mut world = world_with(flow, true);
        let mut past = Vec::new();
        let mut copy = BTreeMap::new();
        for happening in &happenings {
            happen(&mut world, &mut past, happening);
            for change in world.committed.take_changes() {
                match change.value {
                    Some(value) => drop(copy.insert((change.table as u8, change.key), value)),
                    None => drop(copy.remove(&(change.table as u8, change.key))),
                }
            }
            let entries = copy.iter().map(|((table, key), value)| (*table, key.clone(), value.clone()));
            prop_assert_eq!(State::restore(&world.committed.header(), entries).unwrap().hash(), world.committed.hash());
        }
    }

    /// I9: deciding inputs in one turn or in many gives the same records.
    #[test]
    fn one_turn_or_many_decide_the_same(
        flow in 0..FLOWS.len(),
        reuse: bool,
        messages in prop::collection::vec(prop::collection::vec(any::<usize>(), 1..20), 1..15),
    ) {
        let mut world = world_with(flow, reuse);
        let base = world.state.clone();
        let mut given = Vec::new();
        for choices in messages {
            let items: Vec<ReportItem> = choices.iter().filter_map(|choice| success(&mut world, *choice)).collect();
            given.extend(inputs(items.clone()));
            world.report_message(items);
        }
        let at = Timestamp(world.now + 1);
        let (mut many, mut one) = (base.clone(), base);
        let mut apart = Vec::new();
        for input in given.clone() {
            many.open_turn(at);
            apart.extend(decide(&mut many, input));
        }
        one.open_turn(at);
        let together: Vec<Record> = given.into_iter().flat_map(|input| decide(&mut one, input)).collect();
        prop_assert_eq!(together, apart);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4))]

    /// Row 25 of the fault model.
    /// A wide foreach whose results come in any order, in messages of any size, with the leader killed and blobs stored at any time.
    #[test]
    fn a_wide_foreach_joins_every_item_once(
        reuse: bool,
        messages in prop::collection::vec((prop::collection::vec(any::<usize>(), 150..300), any::<u8>()), 5..12),
    ) {
        let mut world = world_with(2, reuse);
        let (dispatch, task) = world.take("start/0");
        let report = world.success(&dispatch, &task, Some(2_100), Vec::new());
        world.report(report);
        let run = world.state.runs.keys().next().copied().unwrap();
        let mut late: Option<Vec<ReportItem>> = None;
        for (choices, chance) in messages.iter().cycle().take(100) {
            let items: Vec<ReportItem> = choices.iter().filter_map(|choice| success_of_wide(&mut world, *choice)).collect();
            if items.is_empty() && world.blobs.is_empty() {
                break;
            }
            world.report_message(items.clone());
            if let Some(late) = late.replace(items) {
                let records = world.report_message(late);
                prop_assert!(records.iter().all(|record| matches!(record, Record::Ignored { .. })), "{records:?}");
            }
            match chance % 4 {
                0 => world.restart(),
                1 => world.store_blobs(),
                _ => {}
            }
            if world.queue.is_empty() {
                world.store_blobs();
            }
        }
        prop_assert_eq!(world.queued(), ["gather/0"]);
        let work = world.state.run(run).unwrap().steps[1];
        prop_assert_eq!((work.counts.iter().sum::<u32>(), work.stored), (2_100, 2_100));
        prop_assert_eq!(accepted(&world), 2_101);
        prop_assert_eq!(world.replayed().hash(), world.state.hash());
    }
}

/// The report of the `choice`th queued item, not of the join.
fn success_of_wide(world: &mut World, choice: usize) -> Option<ReportItem> {
    let place = choice.checked_rem(world.queue.len())?;
    let dispatch = &world.queue[place];
    if dispatch.step.as_str() != "work" {
        return None;
    }
    let dispatch = dispatch.clone();
    let task = world.queue[place].tasks.remove(choice % dispatch.tasks.len());
    if world.queue[place].tasks.is_empty() {
        world.queue.remove(place);
    }
    Some(world.success(&dispatch, &task, None, Vec::new()))
}
