//! Which pool attempts of a step go to. A step that needs nothing in particular, in a language that every worker runs, goes to the pool it
//! names, or to the default one; for any other the choice is made when its attempt is opened: the cheapest pool of which a live worker has what is needed. Nothing has it:
//! the attempt waits until something does. It knows what workers have, not what is in use.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};

use causey_protocol::flow::{EXECUTABLE, Flow, PYTHON, R, StepIndex};
use causey_protocol::id::{PoolName, RunId, Timestamp, WorkerName};
use causey_protocol::live::Order;
use causey_protocol::policy;
use causey_protocol::problem::{Code, Problem};
use causey_protocol::record::{Answer, FailureCause, Record, TaskSet};
use causey_protocol::resources::{Cost, Lack, Resources, SPILL_SECONDS_DEFAULT, ShapeCount};
use serde::{Deserialize, Serialize};

use crate::command::slots;
use crate::engine::Decider;
use crate::gang::GangPhase;
use crate::hold::PIECE_RECORDS;
use crate::reason::Reason;
use crate::run::{Run, TaskRef, TaskState};
use crate::state::State;

/// How long an attempt may lie in the queue of a pool that lost what it needs before another pool gets it, in microseconds.
const STRANDED_MICROS: u64 = 2_000_000;

/// Words to workers that are remembered.
const ORDERS_MAX: usize = 1_000;

/// Pools, and kinds of workers of each, that are named where nothing fits.
const POOLS_SHOWN_MAX: usize = 8;
const SHAPES_SHOWN_MAX: usize = 3;

/// What is said to be missing in a pool.
const MISSING_MAX: usize = 16;

/// What the live workers of each pool have; of a pool without any, what the last ones had, with no workers.
pub type Offers = BTreeMap<PoolName, Vec<ShapeCount>>;

/// A word to workers, and when it was said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ordered {
    pub order: Order,
    pub at: Timestamp,
}

/// Words by pool, and by worker where it is for one.
pub type Orders = BTreeMap<(PoolName, Option<WorkerName>), Ordered>;

fn default_pool() -> &'static PoolName {
    static DEFAULT: LazyLock<PoolName> = LazyLock::new(|| PoolName::new("default").expect("a name"));
    &DEFAULT
}

/// Languages that every worker runs.
const COMMON_LANGUAGES: [&str; 2] = [PYTHON, EXECUTABLE];

/// The language of a step's code, where only some workers run it.
fn rare_language(flow: &Flow, step: StepIndex) -> Option<&str> {
    let language = flow.code(step).0;
    (!COMMON_LANGUAGES.contains(&language)).then_some(language)
}

/// What a step needs that says nothing.
fn nothing() -> &'static Resources {
    static NOTHING: LazyLock<Resources> = LazyLock::new(Resources::default);
    &NOTHING
}

/// What decides about a step's pool, beside its language; `None`: the step alone ([`named`]).
pub(crate) fn routed(flow: &Flow, step: StepIndex) -> Option<&Resources> {
    let resources = flow.step(step).resources.as_ref();
    if rare_language(flow, step).is_some() {
        return Some(resources.unwrap_or_else(|| nothing()));
    }
    let resources = resources?;
    let any = resources.pool.is_none() && resources.cpu > 1.0;
    (any || resources.spill.is_some() || !resources.is_plain()).then_some(resources)
}

/// The pool a step names, or the default one.
pub(crate) fn named(flow: &Flow, step: StepIndex) -> &PoolName {
    let wanted = flow.step(step).resources.as_ref().and_then(|resources| resources.pool.as_ref());
    wanted.unwrap_or_else(|| default_pool())
}

/// The pool of a step whose pool is not chosen.
pub(crate) fn fixed(flow: &Flow, step: StepIndex) -> Option<&PoolName> {
    if routed(flow, step).is_none() { Some(named(flow, step)) } else { None }
}

/// The pool that the next attempt of a step goes to; `None`: no live worker has what it needs.
pub(crate) fn pool_for<'a>(offers: &'a Offers, flow: &'a Flow, step: StepIndex) -> Option<&'a PoolName> {
    pool_with_room(offers, flow, step, 1)
}

/// The same for tasks that run at the same time; where no pool holds all of them, the cheapest that holds one.
pub(crate) fn pool_with_room<'a>(offers: &'a Offers, flow: &'a Flow, step: StepIndex, many: u32) -> Option<&'a PoolName> {
    let Some(resources) = routed(flow, step) else { return Some(named(flow, step)) };
    let language = flow.code(step).0;
    if let Some(pool) = &resources.pool {
        let spill = resources.spill.as_ref().map(|spill| &spill.pool);
        if fits(offers, resources, language, pool) {
            return Some(pool);
        }
        return match spill.filter(|spill| fits(offers, resources, language, spill)) {
            Some(spill) => Some(spill),
            // A worker of a pool that has none may be on its way, with what is needed: its queue is what it is started for.
            None => (!is_live(offers, pool)).then_some(pool),
        };
    }
    let candidates = || offers.iter().filter_map(|(pool, shapes)| Some((cost(resources, language, shapes)?, pool)));
    let holds = |pool: &PoolName| many == 1 || places(offers, flow, step, pool) >= many;
    if let Some((_, pool)) = candidates().filter(|(_, pool)| holds(pool)).min().or_else(|| candidates().min()) {
        return Some(pool);
    }
    let nobody = offers.keys().all(|pool| !is_live(offers, pool));
    (nobody && resources.is_plain() && rare_language(flow, step).is_none()).then(default_pool)
}

fn live(shapes: &[ShapeCount]) -> impl Iterator<Item = &ShapeCount> {
    shapes.iter().filter(|count| count.workers > 0)
}

/// Whether a pool has live workers.
fn is_live(offers: &Offers, pool: &PoolName) -> bool {
    offers.get(pool).is_some_and(|shapes| live(shapes).next().is_some())
}

/// Whether a live worker of the pool has what is needed.
fn fits(offers: &Offers, resources: &Resources, language: &str, pool: &PoolName) -> bool {
    offers.get(pool).is_some_and(|shapes| cost(resources, language, shapes).is_some())
}

/// What the cheapest place in a pool costs.
fn cost(resources: &Resources, language: &str, shapes: &[ShapeCount]) -> Option<Cost> {
    let able = live(shapes).filter(|count| resources.lacks(language, &count.shape).is_empty());
    able.map(|count| resources.cost(&count.shape)).min()
}

/// Whether attempts of a routed step can be run in a pool, or wait for its workers there.
pub(crate) fn takes(offers: &Offers, flow: &Flow, step: StepIndex, pool: &PoolName) -> bool {
    let Some(resources) = routed(flow, step) else { return true };
    fits(offers, resources, flow.code(step).0, pool) || pool_for(offers, flow, step) == Some(pool)
}

/// How many tasks of a routed step the live workers of a pool hold at once.
pub(crate) fn places(offers: &Offers, flow: &Flow, step: StepIndex, pool: &PoolName) -> u32 {
    let Some(resources) = routed(flow, step) else { return u32::MAX };
    let (slots, language) = (slots(flow, step), flow.code(step).0);
    let shapes = offers.get(pool).map(Vec::as_slice).unwrap_or_default();
    let each = |count: &ShapeCount| count.workers.saturating_mul(resources.places(language, slots, &count.shape));
    shapes.iter().map(each).fold(0, u32::saturating_add)
}

/// What no live worker has of what a step needs; if each of it is there, but not together, all of it and `true`.
fn missing(offers: &Offers, flow: &Flow, step: StepIndex) -> (Vec<Lack>, bool) {
    let Some(resources) = routed(flow, step) else { return (Vec::new(), false) };
    let language = flow.code(step).0;
    let spoken = rare_language(flow, step).map(|language| format!("language {language}"));
    let all = || resources.words().into_iter().chain(spoken).map(Lack).collect();
    let is_candidate = |pool: &PoolName| resources.pool.as_ref().is_none_or(|wanted| wanted == pool);
    let shapes = offers.iter().filter(|(pool, _)| is_candidate(pool)).flat_map(|(_, shapes)| live(shapes));
    let mut lacks = shapes.map(|count| resources.lacks(language, &count.shape));
    let Some(mut everywhere) = lacks.next() else { return (all(), false) };
    for lack in lacks {
        everywhere.retain(|what| lack.contains(what));
    }
    if everywhere.is_empty() { (all(), true) } else { (everywhere, false) }
}

/// What a pool is wanted for: its own queue, and what waits for room or for a worker before it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// Slots of the attempts that are open in it.
    pub open_slots: u64,
    /// Slots of the attempts that are not opened yet and would go to it.
    pub waiting_slots: u64,
    /// Workers that hold all of both at once, as the pool's workers are or last were.
    pub workers: u32,
    /// Since when there is something that no worker is known to run.
    pub oldest: Option<Timestamp>,
    /// What no live worker offers, of attempts that can go nowhere else.
    pub missing: Vec<String>,
}

/// An attempt that lies in the queue of a pool and shall go to another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stray {
    run: RunId,
    task: TaskRef,
    from: PoolName,
    to: PoolName,
    because: String,
}

impl State {
    /// Open attempts of routed steps that no worker is known to run, and that another pool can have: their own has lost what they need, or
    /// has had no place for them for as long as they wait before they spill. As many as one input may move.
    #[must_use]
    pub fn strays(&self, now: Timestamp) -> Vec<Stray> {
        let mut found = Vec::new();
        for run in self.live_runs().filter(|run| !run.away.is_empty()) {
            let Some(flow) = self.flow_of(run) else { continue };
            for (first, dispatch) in run.dispatches() {
                let Some(resources) = routed(&flow, first.step).filter(|_| !flow.is_gang(first.step)) else { continue };
                for (path, visit) in dispatch.tasks.iter() {
                    let task = TaskRef::new(first.step, path, visit);
                    let Some(open) = run.open_attempt(&task, dispatch.attempt).filter(|open| open.state == TaskState::Dispatched) else {
                        continue;
                    };
                    let waited = now.micros_since(open.opened);
                    if let Some((to, because)) = self.better_place(&flow, first.step, resources, &dispatch.pool, waited, &found) {
                        found.push(Stray { run: run.id(), task, from: dispatch.pool.clone(), to, because });
                    }
                    // Each gives two records.
                    if found.len() >= PIECE_RECORDS / 2 {
                        return found;
                    }
                }
            }
        }
        found
    }

    /// Where an attempt that has waited in `pool` goes instead, and why.
    fn better_place(
        &self,
        flow: &Flow,
        step: StepIndex,
        resources: &Resources,
        pool: &PoolName,
        waited: u64,
        moving: &[Stray],
    ) -> Option<(PoolName, String)> {
        let language = flow.code(step).0;
        if waited >= STRANDED_MICROS && !fits(&self.offers, resources, language, pool) {
            let to = pool_for(&self.offers, flow, step).filter(|to| *to != pool)?;
            return Some((to.clone(), format!("no live worker of pool {pool} has what it needs; pool {to} has")));
        }
        let spill = resources.spill.as_ref().filter(|spill| resources.pool.as_ref() == Some(pool) && spill.pool != *pool)?;
        let after = spill.after_seconds.unwrap_or(SPILL_SECONDS_DEFAULT);
        let to = &spill.pool;
        if waited < policy::micros(after) || !fits(&self.offers, resources, language, to) {
            return None;
        }
        let under_way = moving.iter().filter(|stray| stray.to == *to).count();
        let open = self.open_in(to).saturating_add(u32::try_from(under_way).unwrap_or(u32::MAX));
        let has_place = open < places(&self.offers, flow, step, to);
        has_place.then(|| (to.clone(), format!("pool {pool} had no place for it for {after} s; pool {to} has")))
    }

    /// Whether attempts of a step can be run in a pool, or wait for its workers there.
    pub(crate) fn has_place_for(&self, run: RunId, step: StepIndex, pool: &PoolName) -> bool {
        let flow = self.run(run).and_then(|run| self.flow_of(run));
        flow.is_some_and(|flow| takes(&self.offers, &flow, step, pool))
    }

    /// Why a step's attempts can go nowhere: what is missing, what there is, and what would help.
    pub(crate) fn nowhere(&self, run: RunId, step: StepIndex) -> Option<Reason> {
        let flow = self.flow_of(self.run(run)?)?;
        let resources = routed(&flow, step)?;
        let language = flow.code(step).0;
        let (missing, together) = missing(&self.offers, &flow, step);
        let seen = |(pool, shapes): (&PoolName, &Vec<ShapeCount>)| {
            let workers: u32 = live(shapes).map(|count| count.workers).sum();
            let had: u32 = u32::try_from(shapes.len()).unwrap_or(u32::MAX);
            let words: Vec<String> =
                live(shapes).take(SHAPES_SHOWN_MAX).map(|count| format!("{} × {}", count.workers, count.shape.words())).collect();
            match workers {
                0 => format!("pool `{pool}`, which has no worker now ({had} kinds were there)"),
                _ => format!("pool `{pool}` ({})", words.join(" | ")),
            }
        };
        let able = |shapes: &[ShapeCount]| shapes.iter().any(|count| resources.lacks(language, &count.shape).is_empty());
        let known = self.offers.iter().find(|(_, shapes)| able(shapes)).map(|(pool, _)| pool);
        let pool = resources.pool.as_ref().or(known).unwrap_or_else(|| default_pool());
        let mut start = format!("causey worker --pool {pool}");
        for (name, value) in &resources.labels {
            start.push_str(&format!(" --label {name}={value}"));
        }
        for (name, wanted) in &resources.custom {
            start.push_str(&format!(" --resource {name}={wanted}"));
        }
        if resources.gpu > 0.0 {
            start.push_str(", on a machine with such a GPU");
        }
        match rare_language(&flow, step) {
            Some(R) => start.push_str(", on a machine with R (Debian: r-base-core r-cran-jsonlite)"),
            Some(language) => start.push_str(&format!(", of a kind that runs {language}")),
            None => {}
        }
        let pools = self.offers.iter().take(POOLS_SHOWN_MAX).map(seen).collect();
        Some(Reason::Nowhere { missing: missing.into_iter().map(|lack| lack.0).collect(), together, pools, start })
    }

    /// Pools that somebody asks for, offers or waits in.
    #[must_use]
    pub fn known_pools(&self) -> BTreeSet<PoolName> {
        let asked = self.index_by.room.pools.keys().chain(self.offers.keys()).chain(self.pools.keys());
        asked.cloned().chain(self.pools_with_gangs()).collect()
    }

    /// What each pool is wanted for. Looks at what is open and waits, whose number is bounded by the windows and the held entries.
    #[must_use]
    pub fn demands(&self) -> BTreeMap<PoolName, Demand> {
        let mut demands: BTreeMap<PoolName, Demand> = self.known_pools().into_iter().map(|pool| (pool, Demand::default())).collect();
        // Workers of each pool for the tasks of each kind of step, in thousandths.
        let mut workers = BTreeMap::<PoolName, u64>::new();
        for run in self.live_runs() {
            let Some(flow) = self.flow_of(run) else { continue };
            for (first, dispatch) in run.dispatches() {
                let demand = demands.entry(dispatch.pool.clone()).or_default();
                demand.open_slots += u64::from(dispatch.open) * u64::from(slots(&flow, first.step));
                *workers.entry(dispatch.pool.clone()).or_default() += self.workers_for(&flow, first.step, &dispatch.pool, dispatch.open);
                let waiting = run.task(&first).filter(|task| task.state == TaskState::Dispatched).map(|task| task.opened);
                demand.oldest = demand.oldest.into_iter().chain(waiting).min();
            }
            let held = self.held_back_of(run.id()).map(|(first, held)| (first.step, held.tasks.len()));
            let gangs = run.gangs.iter().filter(|(_, gang)| matches!(gang.phase, GangPhase::InLine { .. }));
            for (step, many) in held.chain(gangs.map(|((step, _), gang)| (*step, gang.size))) {
                let (pool, missing) = self.wanted_pool(&flow, step);
                let demand = demands.entry(pool.clone()).or_default();
                demand.waiting_slots += u64::from(many) * u64::from(slots(&flow, step));
                demand.oldest = demand.oldest.into_iter().chain([run.created]).min();
                for lack in missing {
                    if !demand.missing.contains(&lack.0) && demand.missing.len() < MISSING_MAX {
                        demand.missing.push(lack.0);
                    }
                }
                *workers.entry(pool.clone()).or_default() += self.workers_for(&flow, step, &pool, many);
            }
        }
        for (pool, wanted) in workers {
            demands.entry(pool).or_default().workers = u32::try_from(wanted.div_ceil(1_000)).unwrap_or(u32::MAX);
        }
        demands
    }

    /// The pool that waiting attempts of a step are counted at: the one they go to, else one that had what they need, else the named one;
    /// and what is missing if they can go nowhere.
    fn wanted_pool(&self, flow: &Flow, step: StepIndex) -> (PoolName, Vec<Lack>) {
        if let Some(pool) = pool_for(&self.offers, flow, step) {
            return (pool.clone(), Vec::new());
        }
        let had = routed(flow, step).and_then(|resources| {
            let able = |count: &ShapeCount| resources.lacks(flow.code(step).0, &count.shape).is_empty();
            let is_candidate = |pool: &PoolName| resources.pool.as_ref().is_none_or(|wanted| wanted == pool);
            let mut pools = self.offers.iter().filter(|(pool, _)| is_candidate(pool));
            pools.find(|(_, shapes)| shapes.iter().any(able)).map(|(pool, _)| pool)
        });
        (had.unwrap_or_else(|| named(flow, step)).clone(), missing(&self.offers, flow, step).0)
    }

    /// Workers that hold so many tasks of a step at once, in thousandths.
    fn workers_for(&self, flow: &Flow, step: StepIndex, pool: &PoolName, many: u32) -> u64 {
        let slots = slots(flow, step);
        let language = flow.code(step).0;
        let places = |count: &ShapeCount| match routed(flow, step) {
            Some(resources) => resources.places(language, slots, &count.shape),
            None => count.shape.slots.max(1) / slots.clamp(1, count.shape.slots.max(1)),
        };
        let shapes = self.offers.get(pool).map(Vec::as_slice).unwrap_or_default();
        let each = shapes.iter().map(places).max().filter(|places| *places > 0).unwrap_or(1);
        (u64::from(many) * 1_000).div_ceil(each.into())
    }

    /// What a worker that has lived since `started` is to do.
    #[must_use]
    pub fn order_for(&self, pool: &PoolName, worker: &WorkerName, started: Timestamp) -> Order {
        let said = |worker: Option<WorkerName>| self.orders.get(&(pool.clone(), worker)).copied();
        let orders = [said(None), said(Some(worker.clone()))];
        // A drain is over with the life it ended.
        let drained = orders.iter().flatten().any(|said| said.order == Order::Drain && said.at > started);
        let cordoned = orders.iter().flatten().any(|said| said.order == Order::Cordon);
        match (drained, cordoned) {
            (true, _) => Order::Drain,
            (false, true) => Order::Cordon,
            (false, false) => Order::Serve,
        }
    }

    pub(crate) fn order_workers(&mut self, pool: &PoolName, worker: Option<&WorkerName>, order: Order) {
        let at = self.at;
        match (order, worker) {
            (Order::Serve, None) => self.orders.retain(|(of, _), _| of != pool),
            (Order::Serve, Some(_)) => drop(self.orders.remove(&(pool.clone(), worker.cloned()))),
            (Order::Cordon | Order::Drain, _) => drop(self.orders.insert((pool.clone(), worker.cloned()), Ordered { order, at })),
        }
    }

    /// Folds what the live workers of a pool have.
    pub(crate) fn offer_pool(&mut self, pool: &PoolName, shapes: &[ShapeCount]) {
        let known = self.offers.entry(pool.clone()).or_default();
        if shapes.is_empty() {
            known.iter_mut().for_each(|count| count.workers = 0);
        } else {
            *known = shapes.to_vec();
        }
        // What is open stays where it is; what waits may now stand in another line.
        if !self.held_back.is_empty() {
            self.rebuild_lines();
        }
    }

    /// The live workers of a pool, by shape.
    pub fn live_shapes(&self, pool: &PoolName) -> impl Iterator<Item = &ShapeCount> {
        live(self.offers.get(pool).map(Vec::as_slice).unwrap_or_default())
    }
}

impl Run {
    /// Attempts of routed steps that are open in a pool.
    pub(crate) fn away_in(&self, pool: &PoolName) -> u32 {
        self.away.iter().filter(|((_, of), _)| of == pool).map(|(_, open)| open).sum()
    }

    /// Those of one step, by pool.
    pub(crate) fn away_of(&self, step: StepIndex) -> Vec<(PoolName, u32)> {
        self.away.iter().filter(|((of, _), _)| *of == step).map(|((_, pool), open)| (pool.clone(), *open)).collect()
    }

    pub(crate) fn away_at(&self, step: StepIndex, pool: &PoolName) -> u32 {
        self.away.get(&(step, pool.clone())).copied().unwrap_or_default()
    }

    pub(crate) fn go_away(&mut self, step: StepIndex, pool: &PoolName, many: u32) {
        *self.away.entry((step, pool.clone())).or_default() += many;
    }

    /// An attempt of a dispatch that `first` leads is about to be closed.
    pub(crate) fn come_back(&mut self, first: &TaskRef, attempt: u32) {
        let Some(pool) = self.dispatch(first, attempt).map(|dispatch| dispatch.pool.clone()) else { return };
        let key = (first.step, pool);
        if let Some(open) = self.away.get_mut(&key) {
            *open -= 1;
            if *open == 0 {
                self.away.remove(&key);
            }
        }
    }

    /// Counts what is open at routed steps: it follows from the dispatches and is not stored.
    pub(crate) fn count_away(&mut self, flow: &Flow) {
        self.away.clear();
        let open: Vec<_> = self.dispatches().map(|(first, open)| (first.step, open.pool.clone(), open.open)).collect();
        for (step, pool, open) in open.into_iter().filter(|(step, _, open)| routed(flow, *step).is_some() && *open > 0) {
            self.go_away(step, &pool, open);
        }
    }
}

impl Decider<'_> {
    /// The live workers of a pool are others than before.
    pub(crate) fn pool_offered(&mut self, pool: &PoolName, shapes: Vec<ShapeCount>) {
        let known: Vec<&ShapeCount> = self.state.live_shapes(pool).collect();
        if known.iter().copied().eq(&shapes) {
            return self.ignore(format!("what pool {pool} offers is known"));
        }
        self.emit(Record::PoolOffered { pool: pool.clone(), shapes });
        self.move_gangs();
    }

    /// Gangs in line go where there is now what they need.
    fn move_gangs(&mut self) {
        let mut moves = Vec::new();
        for run in self.state.live_runs().filter(|run| !run.gangs.is_empty()) {
            let Some(flow) = self.state.flow_of(run) else { continue };
            for ((step, path), gang) in run.gangs.iter().filter(|(_, gang)| matches!(gang.phase, GangPhase::InLine { .. })) {
                let better = pool_with_room(&self.state.offers, &flow, *step, gang.size).filter(|pool| **pool != gang.pool);
                moves.extend(better.map(|pool| (run.id(), *step, path.clone(), pool.clone())));
            }
        }
        for (run, step, path, pool) in moves {
            self.emit(Record::GangMoved { run, step, path, pool });
        }
    }

    /// Moves attempts that lie where they find no place: closed uncharged there, opened in the other pool.
    pub(crate) fn places_sought(&mut self) {
        let strays = self.state.strays(self.now());
        if strays.is_empty() {
            return self.ignore("no attempt lies in the wrong queue");
        }
        for Stray { run, task, from, to, because } in strays {
            let Some(open) = self.state.run(run).and_then(|run| run.task(&task)) else { continue };
            let (attempt, retry, now) = (open.attempt, open.retry, self.now());
            let TaskRef { step, path, visit } = task;
            let cause = FailureCause::Released { because };
            self.emit(Record::AttemptFailed {
                run,
                step,
                path: path.clone(),
                visit,
                attempt,
                worker: None,
                cause,
                started: now,
                ended: now,
                pool: Some(from),
            });
            let (tasks, attempt) = (TaskSet::One { path, visit }, attempt + 1);
            if self.state.has_room(run, &to, 1) {
                self.emit(Record::AttemptsOpened { run, step, pool: to, tasks, attempt, retry });
            } else {
                self.hold(run, step, tasks, attempt, retry);
            }
        }
    }

    pub(crate) fn order_workers(&mut self, pool: PoolName, worker: Option<WorkerName>, order: Order, user: String) -> Answer {
        let key = (pool, worker);
        let is_new = !self.state.orders.contains_key(&key);
        if order != Order::Serve && is_new && self.state.orders.len() >= ORDERS_MAX {
            let what = format!("{ORDERS_MAX} pools and workers are cordoned or drained already");
            return Answer::Refused(Problem::new(Code::MALFORMED, what).hint("take some back: causey uncordon POOL"));
        }
        let (pool, worker) = key;
        self.emit(Record::WorkersOrdered { pool, worker, order, user });
        Answer::Done
    }
}

/// The pool of a closed attempt, where the record has to say it.
pub(crate) fn said_pool(run: &Run, flow: &Arc<Flow>, task: &TaskRef) -> Option<PoolName> {
    routed(flow, task.step)?;
    let found = run.task(task)?;
    run.dispatch_of(task, found).map(|dispatch| dispatch.pool.clone())
}
