//! The simulated world: one server, processes with connections to it, a clock for each, and the faults that befall them. Everything
//! happens on one thread with paused time, and every choice is drawn from one generator: the same plan is the same world.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use causey_artifacts::Memory;
use causey_coordinator::outside::{Message, Unanswered};
use causey_coordinator::publisher::Answer;
use causey_coordinator::signal;
use causey_protocol::subject::{INBOX_STREAM, LOG_STREAM};
use fastrand::Rng;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::judge::Judge;
use super::plan::{Fault, Mistake, Plan, What, Whom};
use super::server::Server;

/// When every world begins, in microseconds since the Unix epoch.
pub(crate) const BEGINNING: u64 = 1_767_000_000_000_000;

/// How often the server looks what has come due.
const TICK: Duration = Duration::from_millis(100);

/// What happened last, kept to be shown with a violation.
const NOTES_MAX: usize = 400;

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Coordinator,
    Worker,
    Client,
}

/// One life of a process.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) id: u64,
    pub(crate) name: String,
    pub(crate) role: Role,
    /// Killed: whatever it does from now on has no effect.
    pub(crate) dead: CancellationToken,
    /// Asked to stop.
    pub(crate) stop: CancellationToken,
    /// How long it stays away afterwards.
    pub(crate) away: Mutex<Duration>,
    pub(crate) made: signal::Sender<u64>,
    pub(crate) up: signal::Sender<bool>,
    cut_until: Mutex<Instant>,
    muted_until: Mutex<Instant>,
    frozen_until: Mutex<Instant>,
    skew_micros: AtomicI64,
    names: AtomicU64,
    /// Told of every connect.
    pub(crate) connects: Mutex<Option<mpsc::UnboundedSender<causey_worker::Event>>>,
}

impl Process {
    /// Counts connections: what was in flight on an earlier one is lost.
    pub(crate) fn connection(&self) -> u64 {
        self.made.get()
    }

    /// Before this nothing is seen.
    pub(crate) fn thaws(&self) -> Instant {
        *lock(&self.frozen_until)
    }

    fn kill(&self, away: Duration) {
        *lock(&self.away) = away;
        self.dead.cancel();
    }

    /// A number that this process has not used.
    pub(crate) fn number(&self) -> u64 {
        self.names.fetch_add(1, Ordering::Relaxed)
    }
}

/// What befalls one step.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Fate {
    pub(crate) question_lost: bool,
    pub(crate) answer_lost: bool,
    pub(crate) late: Duration,
    pub(crate) twice: bool,
    pub(crate) killed_after: Option<Duration>,
}

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) begun: Instant,
    pub(crate) store: Memory,
    pub(crate) judge: Mutex<Judge>,
    pub(crate) judged: Notify,
    server: Mutex<Server>,
    chance: Mutex<Rng>,
    faults: Mutex<Vec<Fault>>,
    processes: Mutex<BTreeMap<u64, Arc<Process>>>,
    /// The process that wrote the log last.
    leader: AtomicU64,
    steps: AtomicU64,
    trace: Mutex<blake3::Hasher>,
    notes: Mutex<Vec<String>>,
    came: Mutex<Vec<String>>,
    spoilt: AtomicBool,
}

impl World {
    pub(crate) fn new(plan: Plan, store: Memory) -> Arc<Self> {
        let world = Arc::new(Self {
            begun: Instant::now(),
            judge: Mutex::new(Judge::new(store.clone())),
            judged: Notify::new(),
            server: Mutex::new(Server::new(BEGINNING)),
            chance: Mutex::new(Rng::with_seed(plan.seed)),
            faults: Mutex::new(plan.faults.clone()),
            processes: Mutex::default(),
            leader: AtomicU64::new(0),
            steps: AtomicU64::new(0),
            trace: Mutex::default(),
            notes: Mutex::default(),
            came: Mutex::default(),
            spoilt: AtomicBool::new(false),
            plan,
            store,
        });
        tokio::spawn(world.clone().tick());
        world
    }

    async fn tick(self: Arc<Self>) {
        let mut tick = tokio::time::interval(TICK);
        loop {
            tick.tick().await;
            self.with_server(|server| {
                if server.up {
                    server.tick(Instant::now());
                }
            });
        }
    }

    /// Draws.
    pub(crate) fn chance<T>(&self, draw: impl FnOnce(&mut Rng) -> T) -> T {
        draw(&mut lock(&self.chance))
    }

    /// How long something is under way: mostly little, sometimes much.
    pub(crate) fn latency(&self) -> Duration {
        self.chance(|chance| Duration::from_millis(if chance.u32(..40) == 0 { chance.u64(..300) } else { chance.u64(..3) }))
    }

    /// Wall clock of a process.
    pub(crate) fn clock(&self, process: &Process) -> u64 {
        let micros = u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        (BEGINNING + micros).saturating_add_signed(process.skew_micros.load(Ordering::Relaxed))
    }

    pub(crate) fn note(&self, text: &str) {
        let mut notes = lock(&self.notes);
        if notes.len() == NOTES_MAX {
            notes.drain(..NOTES_MAX / 2);
        }
        notes.push(format!("{:>9.3} s {text}", self.begun.elapsed().as_secs_f64()));
    }

    pub(crate) fn notes(&self) -> Vec<String> {
        lock(&self.notes).clone()
    }

    /// Something has happened: when, and all that tells it apart from anything else.
    fn happened(&self, what: &[&[u8]]) {
        let mut trace = lock(&self.trace);
        trace.update(&(self.begun.elapsed().as_micros() as u64).to_le_bytes());
        for part in what {
            trace.update(&part.len().to_le_bytes());
            trace.update(part);
        }
    }

    /// Everything that has happened and was drawn so far, as one number.
    pub(crate) fn trace(&self) -> String {
        let drawn = self.chance(|chance| chance.u64(..));
        self.happened(&[&drawn.to_le_bytes()]);
        lock(&self.trace).finalize().to_hex()[..16].to_owned()
    }

    /// The faults that have come, in words.
    pub(crate) fn came(&self) -> Vec<String> {
        lock(&self.came).clone()
    }

    pub(crate) fn steps(&self) -> u64 {
        self.steps.load(Ordering::Relaxed)
    }

    /// How many faults are still to come.
    pub(crate) fn faults_left(&self) -> usize {
        lock(&self.faults).len()
    }

    /// Whether the log has lost its end, as the plan's mistake says.
    pub(crate) fn is_spoilt(&self) -> bool {
        self.spoilt.load(Ordering::Relaxed)
    }

    /// Starts a process, which has its connection after a moment.
    pub(crate) fn boot(self: &Arc<Self>, name: &str, role: Role) -> Arc<Process> {
        let now = Instant::now();
        let mut processes = lock(&self.processes);
        let id = self.chance(|chance| chance.u64(1..1 << 40));
        let process = Arc::new(Process {
            id,
            name: name.to_owned(),
            role,
            dead: CancellationToken::new(),
            stop: CancellationToken::new(),
            away: Mutex::new(Duration::from_millis(200)),
            made: signal::Sender::new(0),
            up: signal::Sender::new(false),
            cut_until: Mutex::new(now),
            muted_until: Mutex::new(now),
            frozen_until: Mutex::new(now),
            skew_micros: AtomicI64::new(0),
            names: AtomicU64::new(0),
            connects: Mutex::default(),
        });
        processes.insert(process.id, process.clone());
        drop(processes);
        self.note(&format!("{name} starts"));
        tokio::spawn(self.clone().connect(process.clone()));
        process
    }

    /// A process is over.
    pub(crate) fn bury(&self, process: &Process) {
        self.note(&format!("{} is over", process.name));
        process.dead.cancel();
        self.with_server(|server| server.bury(process.id));
        lock(&self.processes).remove(&process.id);
    }

    async fn connect(self: Arc<Self>, process: Arc<Process>) {
        loop {
            tokio::time::sleep(self.latency().max(Duration::from_millis(1))).await;
            if process.dead.is_cancelled() || process.up.get() {
                return;
            }
            if Instant::now() < *lock(&process.cut_until) || !lock(&self.server).up {
                continue;
            }
            process.made.send_replace(process.connection() + 1);
            process.up.send_replace(true);
            if let Some(events) = &*lock(&process.connects) {
                let _ = events.send(causey_worker::Event::Connected);
            }
            return;
        }
    }

    fn cut(self: &Arc<Self>, process: &Arc<Process>, time: Duration) {
        *lock(&process.cut_until) = Instant::now() + time;
        self.with_server(|server| server.disconnect(process.id));
        if process.up.send_replace(false) {
            tokio::spawn(self.clone().connect(process.clone()));
        }
    }

    fn kill_server(self: &Arc<Self>, time: Duration) {
        if !std::mem::take(&mut lock(&self.server).up) {
            return;
        }
        let processes: Vec<Arc<Process>> = lock(&self.processes).values().cloned().collect();
        for process in processes {
            self.cut(&process, Duration::ZERO);
        }
        let world = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(time).await;
            world.note("the server starts again");
            world.with_server(|server| {
                server.crash(|| world.chance(Rng::bool));
                if world.plan.mistake == Some(Mistake::LogCut) {
                    server.cut(LOG_STREAM, 1);
                    world.spoilt.store(true, Ordering::Relaxed);
                }
                server.up = true;
            });
        });
    }

    /// Whether anything passes on the connection that was used.
    pub(crate) fn is_reachable(&self, process: &Process, connection: u64) -> bool {
        let muted = Instant::now() < *lock(&process.muted_until);
        process.up.get() && process.connection() == connection && !muted && lock(&self.server).up
    }

    /// Works on the server and sends off what it writes.
    pub(crate) fn with_server<T>(&self, work: impl FnOnce(&mut Server) -> T) -> T {
        let mut server = lock(&self.server);
        let result = work(&mut server);
        let now = Instant::now();
        for (mailbox, letter) in std::mem::take(&mut server.letters) {
            self.happened(&[b"letter", letter.subject.as_bytes(), &letter.payload]);
            mailbox.send_in_order(now + self.latency(), letter);
        }
        for (mailbox, raw) in std::mem::take(&mut server.read) {
            self.happened(&[b"read", raw.subject.as_bytes(), &raw.sequence.to_le_bytes()]);
            mailbox.send_in_order(now + self.latency(), raw);
        }
        for (mailbox, entry) in std::mem::take(&mut server.changes) {
            self.happened(&[b"key", entry.key.as_bytes(), &entry.revision.to_le_bytes()]);
            mailbox.send_in_order(now + self.latency(), entry);
        }
        result
    }

    /// Stores a message of a process, and has the judge look at what became of the log.
    pub(crate) fn store(&self, process: &Process, message: &Message) -> Answer {
        let mut message = message.clone();
        let log = message.subject.starts_with("causey.log");
        if log && self.plan.mistake == Some(Mistake::NoCompareAndSet) {
            message.expect = causey_coordinator::outside::Expect::Nothing;
        }
        let forgotten = self.plan.mistake == Some(Mistake::InputsForgotten)
            && message.subject.starts_with("causey.in.")
            && self.chance(|chance| chance.u32(..10) == 0);
        let now = Instant::now();
        if forgotten {
            return Answer::Stored { sequence: self.with_server(|server| server.streams[INBOX_STREAM].last + 1) };
        }
        let answer = self.with_server(|server| server.store(&message, now));
        if let Answer::Stored { sequence } = answer {
            self.happened(&[b"stored", message.subject.as_bytes(), &sequence.to_le_bytes(), &message.payload]);
            if log {
                self.leader.store(process.id, Ordering::Relaxed);
                let ends = self.with_server(|server| (server.streams[INBOX_STREAM].last, server.streams["CAUSEY_EVENT"].last));
                lock(&self.judge).turn(sequence, &message.subject, &message.payload, ends);
                self.judged.notify_one();
            }
            lock(&self.judge).stored(&message);
        }
        answer
    }

    /// A process asks something of the world: here is where faults come. Never returns to the dead.
    pub(crate) async fn step(self: &Arc<Self>, process: &Arc<Process>, what: &str) -> Fate {
        self.thaw(process).await;
        let step = self.steps.fetch_add(1, Ordering::Relaxed);
        self.happened(&[b"step", &step.to_le_bytes(), process.name.as_bytes(), what.as_bytes()]);
        let mut fate = Fate::default();
        let Some(fault) = self.fault_for(step, process) else { return fate };
        let befell = format!("fault {} at step {step}: {} at {what}: {:?}", fault.number, process.name, fault.what);
        lock(&self.came).push(format!("{:>9.3} s {befell}", self.begun.elapsed().as_secs_f64()));
        self.note(&befell);
        match fault.what {
            What::QuestionLost => fate.question_lost = true,
            What::AnswerLost => fate.answer_lost = true,
            What::AnswerLate(time) => fate.late = time,
            What::Twice => fate.twice = true,
            What::KilledBefore(away) => process.kill(away),
            What::KilledAfter(away) => fate.killed_after = Some(away),
            What::Stopped(away) => {
                *lock(&process.away) = away;
                process.stop.cancel();
            }
            What::Frozen(time) => *lock(&process.frozen_until) = Instant::now() + time,
            What::Cut(time) => self.cut(process, time),
            What::Muted(time) => *lock(&process.muted_until) = Instant::now() + time,
            What::ClockSet(seconds) => drop(process.skew_micros.fetch_add(seconds * 1_000_000, Ordering::Relaxed)),
            What::ServerKilled(time) => self.kill_server(time),
            What::TasksLost => self.with_server(|server| server.lose_tasks(|| self.chance(Rng::bool))),
        }
        self.thaw(process).await;
        fate
    }

    fn fault_for(&self, step: u64, process: &Process) -> Option<Fault> {
        if process.role == Role::Client {
            return None;
        }
        let befalls = |whom: Whom| match whom {
            Whom::Anyone => true,
            Whom::Coordinator => process.role == Role::Coordinator,
            Whom::Leader => process.id == self.leader.load(Ordering::Relaxed),
            Whom::Worker => process.role == Role::Worker,
        };
        let mut faults = lock(&self.faults);
        let place = faults.iter().take_while(|fault| fault.step <= step).position(|fault| befalls(fault.whom))?;
        Some(faults.remove(place))
    }

    /// Waits while the process stands still; for ever if it is dead.
    pub(crate) async fn thaw(&self, process: &Process) {
        while Instant::now() < process.thaws() {
            tokio::time::sleep_until(process.thaws()).await;
        }
        if process.dead.is_cancelled() {
            std::future::pending::<()>().await;
        }
    }

    /// The process has done something that is seen; now it may die.
    pub(crate) async fn after(&self, process: &Process, fate: Fate) {
        if let Some(away) = fate.killed_after {
            process.kill(away);
        }
        self.thaw(process).await;
    }

    /// Asks the server something and waits for its answer.
    pub(crate) async fn call<T: Send>(
        self: &Arc<Self>,
        process: &Arc<Process>,
        what: &str,
        work: impl FnOnce(&Self) -> T + Send,
    ) -> Result<T, Unanswered> {
        const PATIENCE: Duration = Duration::from_secs(5);
        let fate = self.step(process, what).await;
        let (begun, connection) = (Instant::now(), process.connection());
        tokio::time::sleep(self.latency()).await;
        let asked = !fate.question_lost && self.is_reachable(process, connection);
        let answer = if asked { Some(work(self)) } else { None };
        self.after(process, fate).await;
        tokio::time::sleep(self.latency() + fate.late).await;
        self.thaw(process).await;
        let heard = !fate.answer_lost && self.is_reachable(process, connection) && begun.elapsed() < PATIENCE;
        match answer {
            Some(answer) if heard => Ok(answer),
            _ => {
                tokio::time::sleep_until(begun + PATIENCE).await;
                self.thaw(process).await;
                Err(Unanswered(format!("no answer to {what}")))
            }
        }
    }

    /// Sends something to the server, without waiting: it is under way, whatever becomes of the process.
    pub(crate) fn send(self: &Arc<Self>, process: &Arc<Process>, fate: Fate, work: impl Fn(&Self) + Send + 'static) {
        let (world, process, connection) = (self.clone(), process.clone(), process.connection());
        tokio::spawn(async move {
            tokio::time::sleep(world.latency()).await;
            if fate.question_lost {
                return;
            }
            if !world.is_reachable(&process, connection) {
                // The client may send what was queued when the connection is back.
                if world.chance(Rng::bool) || process.dead.is_cancelled() {
                    return;
                }
                let mut up = process.up.subscribe();
                if up.wait_for(|up| *up).await.is_err() || !world.is_reachable(&process, process.connection()) {
                    return;
                }
            }
            work(&world);
            if fate.twice {
                tokio::time::sleep(world.latency()).await;
                work(&world);
            }
            if let Some(away) = fate.killed_after {
                process.kill(away);
            }
        });
    }
}
