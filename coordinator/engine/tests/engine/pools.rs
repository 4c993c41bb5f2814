//! Which pool a task goes to: the cheapest that has what it needs, and a wait in words where none has.

use crate::gangs::LINES;
use crate::world::{World, definition, pool};
use causey_engine::{GangPhase, Question, State, TaskState, why};
use causey_protocol::flow::{Definition, StepIndex};
use causey_protocol::id::{Path, RunId, Timestamp};
use causey_protocol::input::{Input, Request};
use causey_protocol::live::Order;
use causey_protocol::record::{Answer, FailureCause, Record, RunState};
use causey_protocol::resources::{Equipment, Gpu, Resources, Shape, Spill, count_shapes};
use causey_protocol::task::{Outcome, ReportItem};
use proptest::prelude::*;

fn shape(slots: u32, memory_mb: u64, gpus: usize) -> Shape {
    let gpu = |number| Gpu { uuid: format!("GPU-{number}"), model: "NVIDIA A100".into(), memory_mb: 40_000, mig: false };
    let equipment = Equipment { gpus: (0..gpus).map(gpu).collect(), ..Equipment::default() };
    Shape::new(slots, memory_mb, &["python".into()], &equipment)
}

fn offer(world: &mut World, name: &str, shapes: &[Shape]) -> Vec<Record> {
    world.input(Input::PoolOffered { pool: pool(name), shapes: count_shapes(shapes.iter().cloned()) })
}

fn with(lines: &[&str], step: usize, resources: Resources) -> Definition {
    let mut flow = definition("Demo", lines);
    flow.steps[step].resources = Some(resources);
    flow
}

fn start(world: &mut World, flow: Definition) -> RunId {
    match world.submit(flow, Default::default()) {
        Answer::RunStarted { run, .. } => run,
        other => panic!("{other:?}"),
    }
}

fn gpu() -> Resources {
    Resources { gpu: 1.0, ..Resources::default() }
}

/// The pools in whose queues attempts of a run lie.
fn pools(state: &State, run: RunId) -> Vec<String> {
    state.run(run).unwrap().dispatches().map(|(_, open)| open.pool.to_string()).collect()
}

fn said(world: &World, run: RunId) -> Vec<String> {
    why(&world.state, &Question::Run(run)).iter().map(|wait| wait.reason.words(Timestamp(world.now))).collect()
}

/// A worker of a pool tells about the queued task.
fn tell(world: &mut World, name: &str, from: &str, outcome: impl FnOnce(ReportItem) -> ReportItem) -> Vec<Record> {
    let (dispatch, task) = world.take(name);
    let item = outcome(world.success(&dispatch, &task, None, Vec::new()));
    world.input(Input::Report { pool: pool(from), worker: "w".parse().unwrap(), items: vec![item] })
}

const TWO: &[&str] = &["start > end", "end"];

#[test]
fn a_task_goes_to_the_cheapest_pool_that_has_what_it_needs() {
    let mut world = World::new();
    offer(&mut world, "default", &[shape(2, 4_000, 0)]);
    offer(&mut world, "big", &[shape(16, 64_000, 0)]);
    offer(&mut world, "gpu", &[shape(4, 16_000, 1)]);
    offer(&mut world, "many-gpus", &[shape(4, 16_000, 8)]);
    let goes = |world: &mut World, resources| {
        let run = start(world, with(TWO, 0, resources));
        pools(&world.state, run).join(" ")
    };
    assert_eq!(goes(&mut world, gpu()), "gpu");
    assert_eq!(goes(&mut world, Resources { gpu: 2.0, ..gpu() }), "many-gpus");
    assert_eq!(goes(&mut world, Resources { memory_mb: Some(2_000), ..Resources::default() }), "default");
    // No GPU lies idle where another pool has the memory.
    assert_eq!(goes(&mut world, Resources { memory_mb: Some(10_000), ..Resources::default() }), "big");
    assert_eq!(goes(&mut world, Resources { cpu: 8.0, ..Resources::default() }), "big");
    assert_eq!(goes(&mut world, Resources { cpu: 64.0, ..Resources::default() }), "big", "as many cores as there are");
    // Who names a pool gets it; who needs nothing goes to the default one.
    assert_eq!(goes(&mut world, Resources { pool: Some(pool("many-gpus")), ..gpu() }), "many-gpus");
    assert_eq!(goes(&mut world, Resources { pool: Some(pool("elsewhere")), ..gpu() }), "elsewhere");
    assert_eq!(goes(&mut world, Resources::default()), "default");
    assert_eq!(world.state.open_in(&pool("many-gpus")), 2);
}

#[test]
fn what_nobody_offers_is_waited_for_in_words_and_starts_when_it_comes() {
    let mut world = World::new();
    offer(&mut world, "default", &[shape(2, 4_000, 0), shape(2, 4_000, 0)]);
    let run = start(&mut world, with(TWO, 0, gpu()));
    assert!(world.queue.is_empty());
    assert_eq!(said(&world, run), ["no live worker offers gpu≥1; there are pool `default` (2 × 2 cores, 4000 MB memory)"]);
    let hint = why(&world.state, &Question::Run(run))[0].reason.hint().unwrap();
    assert_eq!(hint, "start one: causey worker --pool default, on a machine with such a GPU");
    let records = offer(&mut world, "gpu", &[shape(1, 16_000, 1)]);
    assert!(matches!(&records[..], [Record::PoolOffered { .. }, Record::AttemptsOpened { pool, .. }] if pool.as_str() == "gpu"));
    tell(&mut world, "start/0", "gpu", |item| item);
    world.succeed("end/0", None);
    assert_eq!(world.run_state(run), RunState::Succeeded);
    // Their pool is remembered when its last worker has gone.
    offer(&mut world, "gpu", &[]);
    let run = start(&mut world, with(TWO, 0, gpu()));
    assert!(said(&world, run)[0].contains("pool `gpu`, which has no worker now (1 kinds were there)"));
    let demand = &world.state.demands()[&pool("gpu")];
    assert_eq!((demand.waiting_slots, demand.workers, demand.missing.clone()), (1, 1, vec!["gpu≥1".to_owned()]));
}

#[test]
fn each_of_it_may_be_there_but_not_together() {
    let mut world = World::new();
    offer(&mut world, "default", &[shape(2, 4_000, 1)]);
    offer(&mut world, "big", &[shape(2, 64_000, 0)]);
    let run = start(&mut world, with(TWO, 0, Resources { memory_mb: Some(32_000), ..gpu() }));
    assert!(said(&world, run)[0].starts_with("no live worker offers memory=32000 MB and gpu≥1 together; there are pool `big`"));
}

#[test]
fn items_that_wait_for_a_worker_go_through_its_window_when_it_comes() {
    let mut world = World::new();
    let wide = ["start each work", "work > gather", "gather* > end", "end"];
    offer(&mut world, "default", &[shape(2, 4_000, 0)]);
    let run = start(&mut world, with(&wide, 1, gpu()));
    world.succeed("start/0", Some(200));
    assert!(world.queue.is_empty());
    let demand = &world.state.demands()[&pool("default")];
    assert_eq!(demand.waiting_slots, 200);
    offer(&mut world, "gpu", &[shape(4, 16_000, 2)]);
    world.input(Input::PoolResized { pool: pool("gpu"), slots: 4 });
    assert!(world.state.open_in(&pool("gpu")) >= 64);
    assert_eq!(world.state.open_in(&pool("default")), 0);
    let mut turns = 0;
    while !world.run_state(run).is_terminal() {
        world.store_blobs();
        let name = world.queued()[0].clone();
        let from = if name.starts_with("work") { "gpu" } else { "default" };
        tell(&mut world, &name, from, |item| item);
        turns += 1;
        assert!(turns < 1_000);
    }
    assert_eq!(world.run_state(run), RunState::Succeeded);
    assert_eq!(world.state.open_in(&pool("gpu")), 0);
    let replayed = world.replayed();
    assert_eq!(replayed.hash(), world.state.hash());
}

#[test]
fn a_restored_state_counts_what_is_open_in_chosen_pools() {
    let mut world = World::new();
    offer(&mut world, "gpu", &[shape(4, 16_000, 2)]);
    let run = start(&mut world, with(TWO, 0, gpu()));
    let mut entries = Vec::new();
    world.state.each_entry(|table, key, value| entries.push((table as u8, key, value)));
    let restored = State::restore(&world.state.header(), entries).unwrap();
    assert_eq!(restored.open_in(&pool("gpu")), 1);
    assert_eq!(causey_engine::violations(&restored), Vec::<String>::new());
    assert_eq!(pools(&restored, run), ["gpu"]);
}

#[test]
fn a_task_that_finds_no_place_spills_where_it_may() {
    let mut world = World::new();
    offer(&mut world, "a", &[shape(1, 4_000, 0)]);
    offer(&mut world, "b", &[shape(1, 4_000, 0)]);
    let spill = Some(Spill { pool: pool("b"), after_seconds: Some(10.0) });
    let flow = with(TWO, 0, Resources { pool: Some(pool("a")), spill, ..Resources::default() });
    let runs: Vec<RunId> = (0..3).map(|_| start(&mut world, flow.clone())).collect();
    assert_eq!(runs.iter().map(|run| pools(&world.state, *run).join(" ")).collect::<Vec<_>>(), ["a", "a", "a"]);
    // The first runs.
    let (dispatch, task) = world.take("start/0");
    let started =
        ReportItem { outcome: Outcome::Started { at: Timestamp(world.now) }, ..world.success(&dispatch, &task, None, Vec::new()) };
    world.input(Input::Report { pool: pool("a"), worker: "w".parse().unwrap(), items: vec![started] });
    assert!(world.state.strays(Timestamp(world.now)).is_empty());
    world.now += 11_000_000;
    let records = world.input(Input::PlacesSought);
    // Of the two that wait, one fits.
    assert!(matches!(
        &records[..],
        [Record::AttemptFailed { cause: FailureCause::Released { because }, worker: None, pool: Some(_), .. }, Record::AttemptsOpened { pool, attempt: 1, retry: 0, .. }]
            if pool.as_str() == "b" && because == "pool a had no place for it for 10 s; pool b has"
    ));
    let places: Vec<String> = runs.iter().map(|run| pools(&world.state, *run).join(" ")).collect();
    assert_eq!(places.iter().filter(|place| *place == "b").count(), 1);
    assert_eq!(world.queue.len(), 2, "what lay in the first queue was withdrawn");
    // Nobody left in the first pool: the next goes to the second at once.
    offer(&mut world, "a", &[]);
    let run = start(&mut world, flow);
    assert_eq!(pools(&world.state, run), ["b"]);
}

#[test]
fn attempts_in_the_queue_of_a_pool_that_lost_what_they_need_go_elsewhere() {
    let mut world = World::new();
    offer(&mut world, "gpu", &[shape(4, 16_000, 1)]);
    let run = start(&mut world, with(TWO, 0, gpu()));
    offer(&mut world, "gpu", &[shape(4, 16_000, 0)]);
    world.now += 5_000_000;
    assert!(world.state.strays(Timestamp(world.now)).is_empty(), "there is no better place");
    assert!(said(&world, run)[0].starts_with("no live worker offers gpu≥1; there are pool `gpu` (1 × 4 cores"), "it is in a queue in vain");
    offer(&mut world, "late", &[shape(4, 16_000, 1)]);
    world.input(Input::PlacesSought);
    assert_eq!(pools(&world.state, run), ["late"]);
    let (_, task) = world.state.run(run).unwrap().unfinished().next().unwrap();
    assert_eq!((task.state, task.attempt, task.retry), (TaskState::Dispatched, 1, 0));
    // A worker that cannot run it hands it back; without a pool that can it waits.
    offer(&mut world, "late", &[]);
    tell(&mut world, "start/0", "late", |item| ReportItem { outcome: Outcome::Released { because: "no GPU here".into() }, ..item });
    assert!(pools(&world.state, run).is_empty() && world.queue.is_empty());
    assert!(said(&world, run)[0].starts_with("no live worker offers gpu≥1"));
}

#[test]
fn a_gang_gathers_in_a_pool_that_holds_all_its_members() {
    let mut world = World::new();
    offer(&mut world, "one", &[shape(4, 16_000, 1)]);
    offer(&mut world, "two", &[shape(4, 16_000, 2)]);
    let run = start(&mut world, with(&LINES, 1, gpu()));
    world.succeed("start/0", Some(2));
    assert_eq!(pools(&world.state, run), ["two", "two"]);
    let waiting = start(&mut world, with(&LINES, 1, Resources { labels: [("zone".to_owned(), "b".to_owned())].into(), ..gpu() }));
    world.succeed("start/0", Some(2));
    let gang = |world: &World| world.state.run(waiting).unwrap().gangs[&(StepIndex(1), Path::default())].clone();
    assert!(matches!(gang(&world).phase, GangPhase::InLine { .. }));
    assert!(said(&world, waiting).iter().any(|words| words.starts_with("no live worker offers label zone=b")));
    assert!(world.state.next_timer().is_none_or(|due| due > Timestamp(world.now)), "nothing is due for a gang that nobody can hold");
    let labelled = Shape { labels: [("zone".to_owned(), "b".to_owned())].into(), ..shape(4, 16_000, 2) };
    let records = offer(&mut world, "three", &[labelled]);
    assert!(matches!(&records[..2], [Record::PoolOffered { .. }, Record::GangMoved { pool, .. }] if pool.as_str() == "three"));
    assert_eq!(pools(&world.state, waiting), ["three", "three"]);
}

#[test]
fn a_gang_that_needs_more_than_a_pool_has_is_refused_by_name() {
    let mut world = World::new();
    offer(&mut world, "gpu", &[shape(4, 16_000, 1)]);
    let run = start(&mut world, with(&LINES, 1, gpu()));
    world.succeed("start/0", Some(3));
    world.input(Input::PoolCounted { pool: pool("gpu"), slots: vec![4] });
    assert!(world.problem(run).contains("asks for a gang of 3 members, but pool gpu has room for 1"));
}

#[test]
fn a_step_in_a_language_that_some_workers_run_goes_to_them_and_waits_for_them() {
    let mut world = World::new();
    let speaker = Shape::new(1, 1_000, &["python".into(), "r".into()], &Equipment::default());
    offer(&mut world, "default", &[shape(2, 8_000, 0)]);
    let flow = Definition { language: "r".into(), ..definition("Demo", TWO) };
    let run = start(&mut world, flow);
    assert_eq!(pools(&world.state, run), Vec::<String>::new());
    let words = said(&world, run).remove(0);
    assert!(words.starts_with("no live worker offers language r; there are pool `default`"), "{words}");
    offer(&mut world, "stats", std::slice::from_ref(&speaker));
    assert_eq!(pools(&world.state, run), ["stats"]);
    world.succeed("start/0", None);
    // Nobody is left: what is open waits in its queue, what opens now waits for whoever speaks it, not for anybody.
    assert_eq!(pools(&world.state, run), ["stats"]);
    offer(&mut world, "stats", &[]);
    offer(&mut world, "default", &[]);
    let flow = Definition { language: "r".into(), ..definition("Other", TWO) };
    let other = start(&mut world, flow);
    assert_eq!((pools(&world.state, run), pools(&world.state, other)), (vec!["stats".to_owned()], vec![]));
    assert!(said(&world, other)[0].contains("language r"), "{:?}", said(&world, other));
    offer(&mut world, "default", &[speaker]);
    assert_eq!(pools(&world.state, other), ["default"]);
    assert_eq!(world.replayed().hash(), world.state.hash());
}

#[test]
fn workers_are_told_what_they_are_ordered() {
    let mut world = World::new();
    let (gpu, name, born) = (pool("gpu"), "w1".parse().unwrap(), Timestamp(world.now));
    let order = |world: &mut World, worker: Option<&str>, order| {
        let worker = worker.map(|worker| worker.parse().unwrap());
        assert_eq!(world.request(Request::OrderWorkers { pool: pool("gpu"), worker, order }), Answer::Done);
    };
    assert_eq!(world.state.order_for(&gpu, &name, born), Order::Serve);
    order(&mut world, None, Order::Cordon);
    assert_eq!(world.state.order_for(&gpu, &name, born), Order::Cordon);
    assert_eq!(world.state.order_for(&pool("default"), &name, born), Order::Serve);
    order(&mut world, Some("w1"), Order::Drain);
    assert_eq!(world.state.order_for(&gpu, &name, born), Order::Drain);
    assert_eq!(world.state.order_for(&gpu, &"w2".parse().unwrap(), born), Order::Cordon);
    let later = Timestamp(world.now + 1);
    assert_eq!(world.state.order_for(&gpu, &name, later), Order::Cordon, "its next life is not drained");
    order(&mut world, None, Order::Serve);
    assert_eq!(world.state.order_for(&gpu, &name, born), Order::Serve);
    assert_eq!(world.called, [gpu.clone(), gpu.clone(), gpu]);
    assert_eq!(world.replayed().hash(), world.state.hash());
}

#[derive(Clone, Debug)]
enum Happening {
    /// The workers of a pool: plain ones, and ones with a GPU.
    Offer(usize, u32, u32),
    Start(usize),
    Succeed(usize),
    Release(usize),
    Resize(usize, u32),
    Cancel(usize),
    Seek,
    Restart,
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        4 => (0..3usize, 0..3u32, 0..3u32).prop_map(|(pool, plain, gpu)| Happening::Offer(pool, plain, gpu)),
        3 => (0..5usize).prop_map(Happening::Start),
        16 => any::<usize>().prop_map(Happening::Succeed),
        2 => any::<usize>().prop_map(Happening::Release),
        1 => (0..3usize, 1..40u32).prop_map(|(pool, slots)| Happening::Resize(pool, slots)),
        1 => any::<usize>().prop_map(Happening::Cancel),
        3 => Just(Happening::Seek),
        1 => Just(Happening::Restart),
    ]
}

const NAMES: [&str; 3] = ["default", "gpu", "other"];
const WIDE: &[&str] = &["start each work", "work > gather", "gather* > end", "end"];

/// A flow of one of five kinds.
fn flow(kind: usize) -> Definition {
    let spill = Some(Spill { pool: pool("other"), after_seconds: Some(1.0) });
    match kind {
        0 => definition("Demo", WIDE),
        1 => with(WIDE, 1, gpu()),
        2 => with(WIDE, 1, Resources { memory_mb: Some(1_000), cpu: 3.0, ..Resources::default() }),
        3 => with(WIDE, 1, Resources { pool: Some(pool("gpu")), spill, ..Resources::default() }),
        _ => with(&LINES, 1, gpu()),
    }
}

/// The task at that place of the queue ends by the word of a worker of the pool that it was offered to.
fn end_one(world: &mut World, choice: usize, outcome: Option<&Outcome>) {
    let Some(place) = choice.checked_rem(world.queue.len()) else { return };
    let dispatch = world.queue[place].clone();
    let task = world.queue[place].tasks.remove(0);
    world.queue.retain(|dispatch| !dispatch.tasks.is_empty());
    let run = world.state.run(dispatch.run).unwrap();
    let step = world.state.flow_of(run).unwrap().find(&dispatch.step).unwrap();
    let named = causey_engine::TaskRef::new(step, task.path.clone(), task.visit);
    let Some(from) = run.open_attempt(&named, task.attempt).and_then(|open| run.dispatch_of(&named, open)).map(|open| open.pool.clone())
    else {
        return;
    };
    let flow = world.state.flow_of(run).unwrap();
    let gang = flow.is_gang(step);
    let many = match (dispatch.step.as_str(), flow.is_gang(StepIndex(1))) {
        ("start", true) => Some(2),
        ("start", false) => Some(90),
        _ => None,
    };
    let mut item = world.success(&dispatch, &task, many, Vec::new());
    if let Some(outcome) = outcome {
        item.outcome = outcome.clone();
    } else if gang {
        // Members never come together here: they are given back.
        item.outcome = Outcome::Released { because: "alone".into() };
    }
    world.input(Input::Report { pool: from, worker: "w".parse().unwrap(), items: vec![item] });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// I5, I9: whatever pools offer and lose, lines and counts are those of the runs (checked at every turn), replay and restore give the same
    /// state, nothing lies open where another pool should have it, and once everything is there all ends.
    #[test]
    fn tasks_find_their_pools_whatever_these_offer(happenings in prop::collection::vec(happening(), 1..60)) {
        let mut world = World::new();
        for happening in happenings {
            match happening {
                Happening::Offer(place, plain, equipped) => {
                    let shapes = (0..plain).map(|_| shape(2, 4_000, 0)).chain((0..equipped).map(|_| shape(4, 16_000, 1)));
                    let shapes: Vec<Shape> = shapes.collect();
                    offer(&mut world, NAMES[place], &shapes);
                }
                Happening::Start(kind) => drop(start(&mut world, flow(kind))),
                Happening::Succeed(choice) => end_one(&mut world, choice, None),
                Happening::Release(choice) => end_one(&mut world, choice, Some(&Outcome::Released { because: "no".into() })),
                Happening::Resize(place, slots) => drop(world.input(Input::PoolResized { pool: pool(NAMES[place]), slots })),
                Happening::Cancel(choice) => {
                    let live: Vec<RunId> = world.state.live_runs().map(causey_engine::Run::id).collect();
                    if let Some(place) = choice.checked_rem(live.len()) {
                        world.request(Request::Cancel { run: live[place], because: String::new() });
                    }
                }
                Happening::Seek => {
                    world.now += 3_000_000;
                    world.input(Input::PlacesSought);
                }
                Happening::Restart => world.restart(),
            }
            prop_assert!(!world.state.has_work(), "something has room and waits");
        }
        let (mut entries, replayed) = (Vec::new(), world.replayed());
        replayed.each_entry(|table, key, value| entries.push((table as u8, key, value)));
        let restored = State::restore(&replayed.header(), entries).unwrap();
        prop_assert_eq!(restored.hash(), world.state.hash());
        prop_assert_eq!(causey_engine::violations(&restored), Vec::<String>::new());
        for name in NAMES {
            offer(&mut world, name, &[shape(4, 16_000, 1), shape(4, 16_000, 1)]);
            prop_assert_eq!(restored.open_in(&pool(name)).min(1), replayed.open_in(&pool(name)).min(1));
        }
        let gangs: Vec<RunId> = world.state.live_runs().filter(|run| !run.gangs.is_empty() || world.state.flow_of(run).unwrap().is_gang(StepIndex(1))).map(causey_engine::Run::id).collect();
        for run in gangs {
            world.request(Request::Cancel { run, because: String::new() });
        }
        for _ in 0..20_000 {
            if world.queue.is_empty() && world.blobs.is_empty() {
                break;
            }
            world.store_blobs();
            end_one(&mut world, 0, None);
        }
        prop_assert!(world.state.live_runs().next().is_none(), "{:?}", world.state.demands());
    }
}
