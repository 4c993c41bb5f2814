//! The real coordinators and workers in a simulated world: a seed says what is submitted, how long everything takes and which faults
//! befall whom; after every turn the invariants of the design are judged.
//!
//! `plan` is what befalls a world; `world` runs processes in it; `server` is NATS as it is at its worst; `node` is a process's way to
//! all this; `bench` is user code, `client`, `clerk` and `forger` are the people: those who want something, answer and cheat.

mod bench;
mod clerk;
mod client;
mod flows;
mod forger;
mod judge;
mod mailbox;
mod node;
mod panics;
pub mod plan;
mod server;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, mpsc};
use std::time::Duration;

use causey_artifacts::{Memory, Store};
use causey_coordinator::coordinator::Error;
use causey_coordinator::leadership::Holder;
use causey_coordinator::log::Tail;
use causey_coordinator::outside::Outside;
use causey_coordinator::parts::{Parts, Setup};
use causey_coordinator::projection::{Checkpoint, Projection};
use causey_coordinator::streams::Limits;
use causey_coordinator::upkeep::Settings;
use causey_engine::State;
use causey_protocol::artifact::blob_path;
use causey_protocol::id::{Digest, Timestamp};
use causey_protocol::live::Offer;
use causey_protocol::share::{Share, Shares};
use causey_worker::{Gangs, Leader};
use tokio::time::Instant;

use bench::Simulated;
use client::{Client, USERS};
use node::{Node, StoreWay};
pub use plan::{Fault, Mistake, Plan, What, Whom};
use world::{Process, Role, World, lock};

/// Processes of each kind.
const COORDINATORS: usize = 2;
const WORKERS: [(&str, u32); 3] = [("default", 2), ("default", 1), (flows::OTHER_POOL, 2)];

const ACK_WAIT: Duration = Duration::from_secs(10);

/// Everything must be over so long after the last fault.
const PATIENCE: Duration = Duration::from_secs(180);

/// Longest time for finding a smaller plan.
const SHRINKING_MAX: Duration = Duration::from_secs(60);

/// What came of a world.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// Broken invariants, in words.
    pub violations: Vec<String>,
    /// What happened, as one number: the same for the same plan.
    pub trace: String,
    /// What happened last.
    pub notes: Vec<String>,
    pub steps: u64,
    pub turns: usize,
    /// Kinds of records in the log, by their names.
    pub kinds: BTreeSet<String>,
    /// Simulated time.
    pub lasted: Duration,
    /// The faults that came, each with its time and whom it befell, in words.
    pub came: Vec<String>,
    /// Why coordinators refused to go on.
    pub refusals: Vec<String>,
    /// Faults that had not come when everything was over.
    pub faults_left: usize,
}

/// Lives through a world.
///
/// # Panics
/// When no runtime can be made.
#[must_use]
pub fn live(plan: &Plan) -> Verdict {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().expect("a runtime");
    fastrand::seed(plan.seed);
    panics::forget();
    let mut verdict = runtime.block_on(through(plan.clone()));
    drop(runtime);
    verdict.violations.extend(panics::seen());
    verdict
}

async fn through(plan: Plan) -> Verdict {
    let store = Memory::new(uuid::Uuid::from_u128(plan.seed.into()));
    let world = World::new(plan, store.clone());
    Store::in_memory(store).put_if_absent(&blob_path(&Digest::of(flows::PACKAGE)), flows::PACKAGE.into()).await.expect("memory takes it");
    let refusals = Arc::default();
    for number in 0..COORDINATORS {
        tokio::spawn(keep_coordinator(world.clone(), number, Arc::clone(&refusals)));
    }
    for (number, (pool, slots)) in WORKERS.into_iter().enumerate() {
        tokio::spawn(keep_worker(world.clone(), number, pool, slots));
    }
    let person = |name| {
        let process = world.boot(name, Role::Client);
        Client::new(Node { world: world.clone(), process }, name)
    };
    let client = tokio::spawn(person("client").live());
    tokio::spawn(clerk::answer(person("clerk")));
    let lasted = until_over(&world, client).await;
    let mut judge = lock(&world.judge);
    judge.close();
    let refusals: Vec<String> = lock(&refusals).clone();
    if !world.is_spoilt() {
        refusals.iter().for_each(|why| judge.blame(format!("a coordinator refuses without a reason: {why}")));
    }
    Verdict {
        violations: judge.violations().to_vec(),
        trace: world.trace(),
        notes: world.notes(),
        steps: world.steps(),
        turns: judge.turns(),
        kinds: judge.kinds().clone(),
        lasted,
        came: world.came(),
        refusals,
        faults_left: world.faults_left(),
    }
}

/// Waits until nothing is to come any more, an invariant is broken or it takes too long.
async fn until_over(world: &Arc<World>, client: tokio::task::JoinHandle<()>) -> Duration {
    let mut left = world.faults_left();
    let mut since = Instant::now();
    loop {
        let looked = tokio::time::timeout(Duration::from_millis(200), world.judged.notified()).await;
        drop(looked);
        let now_left = world.faults_left();
        if now_left != left {
            (left, since) = (now_left, Instant::now());
        }
        let judge = lock(&world.judge);
        if !judge.violations().is_empty() || (world.is_spoilt() && since.elapsed() > Duration::from_secs(30)) {
            return world.begun.elapsed();
        }
        let waits = if client.is_finished() { judge.waits_for() } else { vec!["the client wants more".into()] };
        drop(judge);
        if waits.is_empty() {
            return world.begun.elapsed();
        }
        if since.elapsed() > PATIENCE {
            let mut judge = lock(&world.judge);
            waits.into_iter().for_each(|what| judge.blame(format!("{} s after the last fault: {what}", PATIENCE.as_secs())));
            return world.begun.elapsed();
        }
    }
}

/// A copy on disk as a coordinator leaves it: what it was told in time.
#[derive(Debug, Default)]
struct Disk {
    header: Vec<u8>,
    entries: BTreeMap<(u8, Vec<u8>), Vec<u8>>,
    tail: Option<Tail>,
}

impl Disk {
    fn write(&mut self, checkpoint: Checkpoint) {
        if checkpoint.whole {
            self.entries.clear();
        }
        for change in checkpoint.changes {
            let key = (change.table as u8, change.key);
            match change.value {
                Some(value) => drop(self.entries.insert(key, value)),
                None => drop(self.entries.remove(&key)),
            }
        }
        (self.header, self.tail) = (checkpoint.header, Some(checkpoint.tail));
    }

    /// The state it holds, which must be the one of its sequence (I9).
    fn read(&self, world: &World, who: &str) -> (State, Tail) {
        let Some(tail) = self.tail.filter(|tail| tail.sequence > 0) else { return (State::default(), Tail::EMPTY) };
        let entries = self.entries.iter().map(|((table, key), value)| (*table, key.clone(), value.clone()));
        let state = State::restore(&self.header, entries).expect("what was encoded can be decoded");
        lock(&world.judge).compare(&format!("the projection of {who}"), tail.sequence, state.hash());
        (state, tail)
    }
}

/// Runs a coordinator, again and again.
async fn keep_coordinator(world: Arc<World>, number: usize, refusals: Arc<Mutex<Vec<String>>>) {
    let name = format!("coordinator-{number}");
    let mut disk = Disk::default();
    loop {
        let process = world.boot(&name, Role::Coordinator);
        let node = Node { world: world.clone(), process: process.clone() };
        let (keeper, kept) = mpsc::channel();
        if world.chance(|chance| chance.u32(..6) == 0) {
            disk = Disk::default();
        }
        let (state, tail) = disk.read(&world, &name);
        let parts = Parts::new(Setup {
            hot: node.clone(),
            front: node.clone(),
            store: Arc::new(Store::in_memory(world.store.by(Arc::new(StoreWay(node))))),
            projection: Projection::handed_to(keeper),
            state,
            tail,
            holder: Holder::unseen(&name, u32::try_from(process.id % 1_000_000).unwrap_or_default()),
            id: format!("c{}", process.id),
            ack_wait: ACK_WAIT,
            limits: Limits { bytes_max: -1, replicas: 1 },
            shares: shares(&world),
            upkeep: Settings { snapshot_interval: Duration::from_secs(7), snapshot_records: 60, runs_whole: judge::RUNS_WHOLE },
            shutdown: process.stop.clone(),
        });
        let committed = parts.committed.clone();
        let (coordinator, beside) = parts.begin();
        let ended = tokio::select! {
            biased;
            () = process.dead.cancelled() => None,
            ended = coordinator.run() => Some(ended),
        };
        {
            let state = committed.read();
            lock(&world.judge).compare(&format!("the committed state of {name}"), state.sequence, state.hash());
        }
        process.stop.cancel();
        if ended.is_some() {
            let _ = tokio::time::timeout(Duration::from_secs(30), beside.ended()).await;
        }
        world.bury(&process);
        while let Ok(checkpoint) = kept.try_recv() {
            disk.write(checkpoint);
        }
        if let Some(Err(error)) = ended {
            world.note(&format!("{name} refuses to go on: {}", in_words(&error)));
            if error.is_final() {
                lock(&refusals).push(in_words(&error));
            }
        }
        let away = *lock(&process.away);
        tokio::time::sleep(away).await;
    }
}

/// What tenants get: in half of the worlds nobody has said anything about that.
fn shares(world: &World) -> Shares {
    if world.plan.seed.is_multiple_of(2) {
        return Shares::default();
    }
    let tenants = [(USERS[0].to_owned(), Share { weight: 3, window: Some(4) }), (USERS[1].to_owned(), Share { weight: 1, window: None })];
    Shares { tenants: tenants.into(), others: Share { weight: 1, window: Some(3) }, runs_max: None }
}

fn in_words(error: &Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

/// Runs a worker, again and again.
async fn keep_worker(world: Arc<World>, number: usize, pool: &'static str, slots: u32) {
    let name = format!("worker-{number}");
    loop {
        let process = world.boot(&name, Role::Worker);
        let ended = run_worker(&world, &process, (&name, pool, slots));
        tokio::select! {
            biased;
            () = process.dead.cancelled() => {}
            () = ended => {}
        }
        world.bury(&process);
        let away = *lock(&process.away);
        tokio::time::sleep(away).await;
    }
}

async fn run_worker(world: &Arc<World>, process: &Arc<Process>, who: (&str, &str, u32)) {
    let node = Node { world: world.clone(), process: process.clone() };
    let (event_sender, events) = tokio::sync::mpsc::unbounded_channel();
    *lock(&process.connects) = Some(event_sender.clone());
    let (name, pool, slots) = who;
    let store = Store::in_memory(world.store.by(Arc::new(StoreWay(node.clone()))));
    let offer = Offer {
        pool: pool.parse().expect("a pool name"),
        worker: name.parse().expect("a worker name"),
        slots,
        memory_mb: 1_000,
        languages: vec!["python".into()],
        version: "0".into(),
        started: Timestamp(world.clock(process) + process.id % 1_000),
        equipment: Default::default(),
        closed: false,
    };
    let setup = causey_worker::life::Setup {
        bench: Arc::new(Simulated {
            leader: Leader::new(node.clone(), &offer.pool, &offer.worker),
            node: node.clone(),
            store,
            gangs: Gangs::default(),
        }),
        outside: node,
        offer,
        ack_wait: ACK_WAIT,
        events,
        event_sender,
        server: "the simulated server".into(),
        limits: Default::default(),
    };
    if let Err(error) = causey_worker::life::live(setup, &process.stop, std::future::pending()).await {
        lock(&world.judge).blame(format!("worker {name} cannot go on: {error}"));
    }
}

/// A seed in whose world an invariant was broken.
#[derive(Clone, Debug)]
pub struct Failure {
    pub seed: u64,
    /// See [`report`].
    pub report: String,
}

/// What came of many worlds.
#[derive(Debug, Default)]
pub struct Lived {
    pub worlds: u64,
    pub failures: Vec<Failure>,
    /// Kinds of records in any of their logs.
    pub kinds: BTreeSet<String>,
}

/// Lives through the worlds of the seeds from `first` on with as many threads as there are cores, until `goes_on` says no of the next.
#[must_use]
pub fn many(first: u64, goes_on: impl Fn(u64) -> bool + Sync) -> Lived {
    let (next, all) = (AtomicU64::new(first), Mutex::new(Lived::default()));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if !goes_on(seed) {
                return;
            }
            let plan = Plan::of(seed);
            let mut verdict = live(&plan);
            let failure = (!verdict.violations.is_empty()).then(|| Failure { seed, report: report(&plan) });
            let mut all = lock(&all);
            all.worlds += 1;
            all.failures.extend(failure);
            all.kinds.append(&mut verdict.kinds);
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| (0..cores).for_each(|_| drop(scope.spawn(work))));
    std::mem::take(&mut *lock(&all))
}

/// A process in a world without faults: what stands in for a connection to NATS in the suite over both. To be called in a runtime with
/// paused time.
#[must_use]
pub fn quiet() -> impl Outside + causey_worker::outside::Outside {
    let plan = Plan { seed: 1, faults: Vec::new(), mistake: None };
    let world = World::new(plan, Memory::new(uuid::Uuid::nil()));
    let process = world.boot("somebody", Role::Client);
    Node { world, process }
}

/// A plan of which no single fault can be left out, unless that takes too long to find: halves of its faults are left out as long as it
/// still breaks an invariant, then smaller pieces, then one at a time.
#[must_use]
pub fn shrink(plan: &Plan) -> (Plan, Verdict) {
    let begun = std::time::Instant::now();
    let mut best = (plan.clone(), live(plan));
    let mut piece = best.0.faults.len();
    while piece > 0 {
        let (mut place, before) = (0, best.0.faults.len());
        while place < best.0.faults.len() && begun.elapsed() < SHRINKING_MAX {
            let mut smaller = best.0.clone();
            smaller.faults.drain(place..(place + piece).min(smaller.faults.len()));
            let verdict = live(&smaller);
            if verdict.violations.is_empty() {
                place += piece;
            } else {
                best = (smaller, verdict);
            }
        }
        // What was needed may no longer be, now that others are gone.
        let again = piece == 1 && best.0.faults.len() < before && begun.elapsed() < SHRINKING_MAX;
        piece = if again { 1 } else { piece / 2 };
    }
    best
}

/// What a failing seed is shown as: its smallest plan, what is broken, what happened last, and how to see it again.
#[must_use]
pub fn report(plan: &Plan) -> String {
    let (plan, verdict) = shrink(plan);
    let mut text = String::new();
    let mut part = |title: String, lines: &mut dyn Iterator<Item = &String>| {
        writeln!(text, "{title}").expect("text takes text");
        lines.for_each(|line| writeln!(text, "  {line}").expect("text takes text"));
    };
    let (broken, faults) = (&verdict.violations, &plan.faults);
    part("what happened:".into(), &mut verdict.notes.iter());
    part(format!("seed {} breaks an invariant:", plan.seed), &mut broken.iter());
    part(format!("the faults that are needed ({}):", faults.len()), &mut faults.iter().map(Fault::to_string).collect::<Vec<_>>().iter());
    part("of them came:".into(), &mut verdict.came.iter());
    part(format!("replay: {}", plan.command()), &mut std::iter::empty());
    text
}
