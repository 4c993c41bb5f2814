//! Who goes first when not all have room: priorities, tenants, runs, and the windows of pool, run and tenant.

use std::collections::BTreeMap;

use causey_engine::{HoldReason, State};
use causey_protocol::flow::{Definition, Flow};
use causey_protocol::id::RunId;
use causey_protocol::input::{FlowChoice, Input, Request};
use causey_protocol::parameter::Values;
use causey_protocol::policy::HostMode;
use causey_protocol::problem::Code;
use causey_protocol::record::{Answer, Record, RunState};
use causey_protocol::share::{Share, Shares, Standing};
use proptest::prelude::*;

use crate::world::{POOL, World, definition, pool};

const CHAIN: [&str; 3] = ["start > middle", "middle > end", "end"];
const WIDE: [&str; 4] = ["start each work", "work > gather", "gather* > end", "end"];

/// A world whose pool has so many slots; its window is 64 up to 32 of them.
fn world_of(slots: u32) -> World {
    let mut world = World::new();
    world.input(Input::PoolResized { pool: pool(POOL), slots });
    world
}

fn start(world: &mut World, user: &str, definition: Definition, standing: Standing) -> RunId {
    let flow = FlowChoice::Given(Box::new(Flow::try_from(definition).unwrap()));
    let submit =
        Request::Submit { flow, parameters: Values::new(), tags: Vec::new(), host: None, timeout_seconds: None, standing, fresh: false };
    match world.request_of(user, submit) {
        Answer::RunStarted { run, .. } => run,
        other => panic!("{other:?}"),
    }
}

fn priority(priority: i8) -> Standing {
    Standing { priority: Some(priority), max_parallel: None }
}

/// A run of that user with a foreach over `items`, the first step of which is done as soon as it is queued.
fn wide(world: &mut World, user: &str, items: u32, standing: Standing) -> RunId {
    let run = start(world, user, definition("Wide", &WIDE), standing);
    while world.state.run(run).unwrap().foreaches.is_empty() {
        let first = world.queue.iter().position(|dispatch| dispatch.run == run).unwrap_or(0);
        succeed(world, first, items);
    }
    run
}

/// The dispatch at that place of the queue, of one task, succeeds.
fn succeed(world: &mut World, place: usize, items: u32) -> RunId {
    let dispatch = world.queue.remove(place);
    let splits = dispatch.step.as_str() == "start" && dispatch.flow.as_str() == "Wide";
    let report = world.success(&dispatch, &dispatch.tasks[0], splits.then_some(items), Vec::new());
    world.report(report);
    dispatch.run
}

fn open(world: &World, run: RunId) -> u32 {
    world.state.run(run).unwrap().open()
}

#[test]
fn a_run_of_higher_priority_overtakes_whatever_waits() {
    let mut world = world_of(4);
    let low = wide(&mut world, "ann", 100_000, priority(-10));
    assert_eq!(open(&world, low), 64);
    let urgent = start(&mut world, "ann", definition("Urgent", &CHAIN), priority(100));
    let ordinary = start(&mut world, "ann", definition("Ordinary", &CHAIN), Standing::default());
    let mut ended = Vec::new();
    for _ in 0..400 {
        // The queue is worked off in order.
        succeed(&mut world, 0, 0);
        ended.extend(
            [urgent, ordinary]
                .into_iter()
                .filter(|run| world.run_state(*run).is_terminal())
                .filter(|run| !ended.contains(run))
                .collect::<Vec<_>>(),
        );
        assert!(world.state.open_in(&pool(POOL)) <= 64);
        assert!(world.state.held_back.len() <= 3, "a foreach waits as one");
        if ended.len() == 2 {
            break;
        }
    }
    assert_eq!(ended, [urgent, ordinary]);
    let done = world
        .state
        .run(low)
        .unwrap()
        .step(world.state.flow_of(world.state.run(low).unwrap()).unwrap().find(&"work".parse().unwrap()).unwrap());
    assert!(done.counts[3] < 400, "three steps waited three times behind what was queued before: {done:?}");
}

#[test]
fn tenants_share_a_pool_by_their_weights() {
    let mut world = world_of(32);
    let share = |weight| Share { weight, window: None };
    let tenants = BTreeMap::from([("ann".to_owned(), share(1)), ("bob".to_owned(), share(3))]);
    world.input(Input::SharesSet(Box::new(Shares { tenants, ..Shares::default() })));
    let ann = wide(&mut world, "ann", 5_000, Standing::default());
    assert_eq!(open(&world, ann), 64, "whoever is alone has all");
    let bob = wide(&mut world, "bob", 5_000, Standing::default());
    for _ in 0..200 {
        succeed(&mut world, 0, 0);
    }
    assert_eq!((open(&world, ann), open(&world, bob)), (16, 48));
    let mut done = BTreeMap::new();
    for _ in 0..400 {
        *done.entry(succeed(&mut world, 0, 0)).or_insert(0) += 1;
    }
    assert!((95..=105).contains(&done[&ann]), "{done:?}");
}

#[test]
fn a_wide_run_does_not_starve_a_short_one_of_the_same_tenant() {
    let mut world = world_of(4);
    wide(&mut world, "ann", 100_000, Standing::default());
    let short = start(&mut world, "ann", definition("Short", &CHAIN), Standing::default());
    let mut steps = 0;
    while !world.run_state(short).is_terminal() {
        succeed(&mut world, 0, 0);
        steps += 1;
    }
    assert!(steps <= 3 * 65, "each of its steps waits for what was queued before, and for nothing else: {steps}");
}

#[test]
fn what_has_begun_goes_on_before_further_items_are_begun() {
    let mut world = world_of(4);
    let lines = ["start each work", "work > more", "more > gather", "gather* > end", "end"];
    let run = start(&mut world, "ann", definition("Wide", &lines), Standing::default());
    succeed(&mut world, 0, 10_000);
    for _ in 0..64 {
        succeed(&mut world, 0, 0);
    }
    let steps: Vec<&str> = world.queue.iter().map(|dispatch| dispatch.step.as_str()).collect();
    assert_eq!(steps, vec!["more"; 64]);
    assert_eq!(world.state.run(run).unwrap().foreaches.values().next().unwrap().opened, 64);
}

#[test]
fn a_run_has_no_more_tasks_open_than_it_wants() {
    let mut world = World::new();
    let standing = Standing { priority: None, max_parallel: Some(2) };
    let mut flow = definition("Wide", &WIDE);
    flow.steps[1].host = Some(HostMode::Reuse);
    let run = start(&mut world, "ann", flow, standing);
    let name = |world: &World| world.queued().first().cloned();
    while let Some(name) = name(&world) {
        assert!(open(&world, run) <= 2, "{:?}", world.queued());
        world.succeed(&name, (name == "start/0").then_some(300));
        world.store_blobs();
        if let Some((first, _)) = world.state.held_back_of(run).next() {
            let reason = world.state.why_held(run, first);
            assert!(matches!(reason, Some(HoldReason::Run { open: 2, window: 2 })), "{reason:?}");
        }
    }
    assert_eq!(world.run_state(run), RunState::Succeeded);
}

#[test]
fn a_tenant_has_no_more_tasks_open_than_its_window() {
    let mut world = World::new();
    let others = Share { weight: 1, window: Some(5) };
    world.input(Input::SharesSet(Box::new(Shares { others, ..Shares::default() })));
    let runs = [wide(&mut world, "ann", 40, Standing::default()), wide(&mut world, "ann", 40, Standing::default())];
    let bob = wide(&mut world, "bob", 40, Standing::default());
    assert_eq!((open(&world, runs[0]) + open(&world, runs[1]), open(&world, bob)), (5, 5));
    let (first, _) = world.state.held_back_of(runs[0]).next().unwrap();
    let reason = world.state.why_held(runs[0], first).unwrap();
    assert_eq!(reason, HoldReason::Tenant { tenant: "ann".into(), open: 5, window: 5 });
    assert_eq!(reason.to_string(), "waits for other tasks of ann: 5 are open, and 5 may be");
    let waiting: u64 = world.state.waiting().iter().filter(|count| count.reason == "tenant").map(|count| count.attempts).sum();
    // One of the first run's items is done: until then the second one's first step waited.
    assert_eq!(waiting, 3 * 35 + 5 - 1);
    while !world.queue.is_empty() {
        succeed(&mut world, 0, 0);
        assert!(open(&world, runs[0]) + open(&world, runs[1]) <= 5);
    }
    assert!(world.state.live_runs().next().is_none());
}

#[test]
fn a_pool_that_grows_lets_through_what_waits_and_one_that_shrinks_takes_nothing_back() {
    let mut world = world_of(1);
    let run = wide(&mut world, "ann", 9_000, Standing::default());
    assert_eq!(open(&world, run), 64);
    world.input(Input::PoolResized { pool: pool(POOL), slots: 2_000 });
    assert_eq!(open(&world, run), 4_000);
    assert!(world.turns.iter().all(|turn| turn.records.len() < 1_100), "a full window is opened in several turns");
    world.input(Input::PoolResized { pool: pool(POOL), slots: 1 });
    assert_eq!(open(&world, run), 4_000);
    succeed(&mut world, 0, 0);
    assert_eq!(open(&world, run), 3_999);
}

#[test]
fn a_foreach_that_is_alone_waits_without_a_further_record() {
    let mut world = world_of(2);
    let run = wide(&mut world, "ann", 500, Standing::default());
    let held = |records: &[Record]| records.iter().filter(|record| matches!(record, Record::AttemptsHeld { .. })).count();
    let before: usize = world.turns.iter().map(|turn| held(&turn.records)).sum();
    assert!(before <= 1);
    for _ in 0..500 {
        succeed(&mut world, 0, 0);
    }
    assert_eq!(world.turns.iter().map(|turn| held(&turn.records)).sum::<usize>(), before);
    world.store_blobs();
    assert_eq!(world.queued(), ["gather/0"]);
    assert_eq!(open(&world, run), 1);
}

#[test]
fn a_chain_alone_is_held_back_nowhere() {
    let mut world = world_of(1);
    world.run(&CHAIN);
    for step in ["start/0", "middle/0", "end/0"] {
        let records = world.succeed(step, None);
        assert!(records.iter().all(|record| !matches!(record, Record::AttemptsHeld { .. })), "{records:?}");
    }
    assert_eq!(world.state.held_back.len(), 0);
}

#[test]
fn a_cancelled_run_makes_room_and_waits_for_nothing() {
    let mut world = world_of(2);
    let first = wide(&mut world, "ann", 1_000, Standing::default());
    let second = start(&mut world, "ann", definition("Second", &CHAIN), priority(-100));
    assert_eq!(open(&world, second), 0);
    world.request(Request::Cancel { run: first, because: String::new() });
    assert_eq!((open(&world, second), world.state.held_back.len()), (1, 0));
}

#[test]
fn a_late_report_of_many_items_opens_nothing_in_a_run_that_has_ended() {
    let mut world = world_of(2);
    let run = wide(&mut world, "ann", 1_000, Standing::default());
    let other = wide(&mut world, "ann", 1_000, Standing::default());
    let of_run: Vec<_> = world.queue.iter().filter(|dispatch| dispatch.run == run).cloned().collect();
    let late: Vec<_> = of_run.iter().take(5).map(|dispatch| world.success(dispatch, &dispatch.tasks[0], None, Vec::new())).collect();
    world.request(Request::Cancel { run, because: String::new() });
    let records = world.report_message(late);
    assert!(records.iter().all(|record| matches!(record, Record::Ignored { .. })), "{records:?}");
    assert_eq!((open(&world, run), open(&world, other)), (0, 64));
}

#[test]
fn numbers_out_of_range_are_refused_by_name() {
    let mut world = World::new();
    let mut flow = definition("Demo", &CHAIN);
    flow.standing = priority(101);
    assert!(Flow::try_from(flow).unwrap_err().message.contains("priority 101"));
    let flow = FlowChoice::Given(Box::new(Flow::try_from(definition("Demo", &CHAIN)).unwrap()));
    let standing = Standing { priority: None, max_parallel: Some(0) };
    let submit =
        Request::Submit { flow, parameters: Values::new(), tags: Vec::new(), host: None, timeout_seconds: None, standing, fresh: false };
    let Answer::Refused(problem) = world.request(submit) else { panic!("accepted") };
    assert_eq!(problem.code, Code::MALFORMED);
}

#[test]
fn a_run_too_many_is_refused_until_one_has_ended() {
    let mut world = World::new();
    world.input(Input::SharesSet(Box::new(Shares { runs_max: Some(2), ..Shares::default() })));
    let run = world.run(&CHAIN);
    world.run(&CHAIN);
    let Answer::Refused(problem) = world.submit(definition("Demo", &CHAIN), Values::new()) else { panic!("accepted") };
    assert_eq!((problem.code, problem.message.as_str()), (Code::CROWDED, "2 runs have not ended, and no more are accepted"));
    world.request(Request::Cancel { run, because: String::new() });
    world.run(&CHAIN);
}

#[derive(Clone, Debug)]
enum Happening {
    Start { user: usize, wide: bool, priority: i8, max_parallel: Option<u32>, reuse: bool },
    Succeed(usize),
    Resize(u32),
    Window(Option<u32>),
    Cancel(usize),
    Restart,
}

fn happening() -> impl Strategy<Value = Happening> {
    let start = (0..3usize, any::<bool>(), -2..3i8, prop::option::of(1..5u32), any::<bool>());
    prop_oneof![
        2 => start.prop_map(|(user, wide, priority, max_parallel, reuse)| Happening::Start { user, wide, priority, max_parallel, reuse }),
        20 => any::<usize>().prop_map(Happening::Succeed),
        1 => (1..80u32).prop_map(Happening::Resize),
        1 => prop::option::of(1..30u32).prop_map(Happening::Window),
        1 => any::<usize>().prop_map(Happening::Cancel),
        1 => Just(Happening::Restart),
    ]
}

/// One task of the dispatch at that place of the queue succeeds.
fn succeed_one(world: &mut World, choice: usize) {
    let Some(place) = choice.checked_rem(world.queue.len()) else { return };
    let dispatch = world.queue[place].clone();
    let task = world.queue[place].tasks.remove(0);
    world.queue.retain(|dispatch| !dispatch.tasks.is_empty());
    let splits = dispatch.step.as_str() == "start" && dispatch.flow.as_str() == "Wide";
    let report = world.success(&dispatch, &task, splits.then_some(150), Vec::new());
    world.report(report);
}

/// Attempts that went beyond a window with this turn, which they had not filled before it.
fn beyond(world: &mut World, happen: impl FnOnce(&mut World)) -> Option<String> {
    let users = ["ann", "bob", "eve"];
    let open_of =
        |state: &State, user: &str| state.live_runs().filter(|run| run.start.user == user).map(causey_engine::Run::open).sum::<u32>();
    let before = (world.state.open_in(&pool(POOL)), users.map(|user| open_of(&world.state, user)));
    happen(world);
    let state = &world.state;
    let now = (state.open_in(&pool(POOL)), users.map(|user| open_of(state, user)));
    let window = state.window(&pool(POOL));
    if now.0 > window.max(before.0) {
        return Some(format!("{} open in a pool with a window of {window}", now.0));
    }
    if let Some(run) = state.live_runs().find(|run| run.start.standing.max_parallel.is_some_and(|max| run.open() > max)) {
        return Some(format!("{} open of run {}, which wants {:?}", run.open(), run.id(), run.start.standing));
    }
    let over = |place: &usize| state.shares.of(users[*place]).window.is_some_and(|window| now.1[*place] > window.max(before.1[*place]));
    (0..3).find(over).map(|place| format!("{} open of {}", now.1[place], users[place]))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Row 39 of the fault model. I5, I9, I10: windows hold whatever happens, replay and restore give the same state and the same next
    /// decisions, and everything ends.
    #[test]
    fn windows_hold_and_everything_ends(happenings in prop::collection::vec(happening(), 1..80)) {
        let mut world = world_of(3);
        for happening in happenings {
            let broken = beyond(&mut world, |world| match happening {
                Happening::Start { user, wide, priority, max_parallel, reuse } => {
                    let mut flow = definition(if wide { "Wide" } else { "Chain" }, if wide { &WIDE } else { &CHAIN });
                    flow.steps[1].host = reuse.then_some(HostMode::Reuse);
                    start(world, ["ann", "bob", "eve"][user], flow, Standing { priority: Some(priority), max_parallel });
                }
                Happening::Succeed(choice) => succeed_one(world, choice),
                Happening::Resize(slots) => drop(world.input(Input::PoolResized { pool: pool(POOL), slots })),
                Happening::Window(window) => {
                    let others = Share { weight: 1, window };
                    world.input(Input::SharesSet(Box::new(Shares { others, ..Shares::default() })));
                }
                Happening::Cancel(choice) => {
                    let live: Vec<RunId> = world.state.live_runs().map(causey_engine::Run::id).collect();
                    if let Some(place) = choice.checked_rem(live.len()) {
                        world.request(Request::Cancel { run: live[place], because: String::new() });
                    }
                }
                Happening::Restart => world.restart(),
            });
            prop_assert_eq!(broken, None);
            prop_assert!(!world.state.has_work(), "something has room and waits");
        }
        let (mut entries, mut restored) = (Vec::new(), world.replayed());
        restored.each_entry(|table, key, value| entries.push((table as u8, key, value)));
        restored = State::restore(&restored.header(), entries).unwrap();
        prop_assert_eq!(restored.hash(), world.state.hash());
        let mut other = World::new();
        (other.state, other.committed) = (restored.clone(), restored);
        (other.turns, other.queue, other.blobs, other.now) = (world.turns.clone(), world.queue.clone(), world.blobs.clone(), world.now);
        other.announced = world.announced.clone();
        for _ in 0..100_000 {
            if world.queue.is_empty() && world.blobs.is_empty() {
                break;
            }
            if world.queue.is_empty() {
                world.store_blobs();
            }
            succeed_one(&mut world, 0);
            if world.turns.len().is_multiple_of(16) {
                while other.turns.len() < world.turns.len() {
                    if other.queue.is_empty() {
                        other.store_blobs();
                    }
                    succeed_one(&mut other, 0);
                }
                prop_assert_eq!(&world.turns.last().unwrap().records, &other.turns.last().unwrap().records);
            }
        }
        prop_assert!(world.state.live_runs().next().is_none(), "{:?}", world.state.waiting());
    }
}
