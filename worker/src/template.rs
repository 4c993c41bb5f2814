//! A template: the warm process that has imported a flow, and the runners made from it. One task owns all of it; attempts talk to
//! it through a handle. When the template dies it is started again for those who wait, a few times; when the flow cannot
//! be forked, or its language has no templates, runners are started one by one instead.

use std::collections::{HashMap, HashSet, VecDeque};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use causey_protocol::policy::HostMode;
use causey_protocol::task::ErrorInfo;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::net::unix::pipe;
use tokio::process::Child;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::connection::{Connection, Pipes as PipesToHost};
use crate::frame::{FromHost, Role, ToHost};
use crate::host::{HostError, Place, READY_TIMEOUT, Runner, output_pipes};
use crate::hosts::Shared;
use crate::leftover;
use crate::output::Pipes;
use crate::pressure::is_short_of_memory;
use crate::process::{self, End, FlowCode, Interpreters, Language, Line, Start};

/// A template nobody asked for so long goes.
const IDLE_MAX: Duration = Duration::from_secs(5 * 60);

/// The same where memory is short.
const IDLE_MAX_WHEN_SHORT: Duration = Duration::from_secs(10);

/// Forks under way at once: more would only delay the first.
const FORKS_MAX: usize = 2;

/// Fresh children kept ready beside one for each slot.
const STOCK_BEYOND_SLOTS: usize = 2;

/// Time without a lease after which the stock is filled up and finished runners end. In between either would take milliseconds of a
/// core that the running attempts need.
const CALM: Duration = Duration::from_millis(5);

/// The same when the stock is empty: time for the step that got the last child to end, if it is a tiny one.
const CALM_WITHOUT_STOCK: Duration = Duration::from_millis(1);

/// Runners that are over and wait for calm to end; beyond these the oldest ends at once.
const DONE_MAX: usize = 8;

/// Times a dying template, or one that cannot fork, is tried again before its waiting attempts fail.
const FAILURES_MAX: u32 = 3;

/// How long a failed import is taken for the answer before the file is imported again: packages get installed.
const LOAD_FAILED_FOR: Duration = Duration::from_secs(5);

/// Longest way from the end of a process to the last line it sent, and back.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_millis(500);

/// How runners ended is remembered for so many of them.
const ENDS_MAX: usize = 256;

/// Kept of what a template prints, for the words about its death, in bytes.
const TAIL_BYTES: usize = 4 * 1024;

type Answer = oneshot::Sender<Result<Runner, HostError>>;

#[derive(Debug)]
enum Ask {
    Prepare(HostMode),
    Runner(HostMode, Answer),
    GiveBack(Box<Runner>),
    Done(Box<Runner>),
    HowEnded(String, oneshot::Sender<Option<End>>),
    /// The place for a runner to be forked is made.
    Prepared(Result<Box<Place>, HostError>),
    /// A forked runner is ready, or never will be.
    Ready(String, Result<(Connection, i32), HostError>),
    Retire,
}

/// The handle. Questions are bounded by the attempts this worker holds.
#[derive(Clone, Debug)]
pub(crate) struct Template(mpsc::UnboundedSender<Ask>);

impl Template {
    pub(crate) fn new(shared: Arc<Shared>, code: FlowCode) -> Self {
        let (sender, asks) = mpsc::unbounded_channel();
        let template = Self(sender);
        let keeper = Keeper {
            shared,
            handle: template.0.downgrade(),
            asks,
            life: rest(&code),
            fresh: VecDeque::new(),
            used: VecDeque::new(),
            done: VecDeque::new(),
            preparing: 0,
            forking: HashMap::new(),
            waiting: VecDeque::new(),
            leased: HashSet::new(),
            ends: VecDeque::new(),
            failures: 0,
            stocking: false,
            refilling: false,
            leased_at: Instant::now(),
            load_failed: None,
            used_at: Instant::now(),
            looked_at: Instant::now(),
            retiring: false,
            code,
        };
        tokio::spawn(keeper.keep());
        template
    }

    /// Gets the process under way.
    pub(crate) fn prepare(&self, mode: HostMode) {
        let _ = self.0.send(Ask::Prepare(mode));
    }

    /// A process that is ready to run an attempt in `mode`.
    ///
    /// # Errors
    /// [`HostError`] when the flow cannot be imported or no process comes to be.
    pub(crate) async fn runner(&self, mode: HostMode) -> Result<Runner, HostError> {
        let (answer, runner) = oneshot::channel();
        let _ = self.0.send(Ask::Runner(mode, answer));
        runner.await.unwrap_or_else(|_| Err(HostError::System("the worker stops".into())))
    }

    /// Takes back a runner that may run more attempts.
    pub(crate) fn give_back(&self, runner: Runner) {
        let _ = self.0.send(Ask::GiveBack(Box::new(runner)));
    }

    /// Takes a forked runner whose attempts are over, to let it end when nothing else is in a hurry.
    pub(crate) fn done(&self, runner: Runner) {
        let _ = self.0.send(Ask::Done(Box::new(runner)));
    }

    /// How the forked runner `host` ended; waits until the template says so.
    pub(crate) async fn how_ended(&self, host: &str) -> Option<End> {
        let (answer, end) = oneshot::channel();
        let _ = self.0.send(Ask::HowEnded(host.to_owned(), answer));
        end.await.ok().flatten()
    }

    /// No new runners will be asked for.
    pub(crate) fn retire(&self) {
        let _ = self.0.send(Ask::Retire);
    }
}

/// Where the template's process is in its life.
enum Life {
    /// No process; the next question starts one.
    Asleep,
    Running(Box<Process>),
    /// The flow does not survive a fork: runners are started.
    Unforkable,
}

struct Process {
    child: Child,
    connection: Connection,
    tail: Tail,
    id: String,
}

#[derive(Debug)]
struct Forking {
    place: Place,
    pipes: Pipes,
}

struct Keeper {
    shared: Arc<Shared>,
    code: FlowCode,
    /// Weak, so that the task ends when no handle is left.
    handle: mpsc::WeakUnboundedSender<Ask>,
    asks: mpsc::UnboundedReceiver<Ask>,
    life: Life,
    /// Ready and never used.
    fresh: VecDeque<Runner>,
    /// Ready after earlier attempts in mode `reuse`.
    used: VecDeque<Runner>,
    /// Over, but not told to end yet: the end of a large process takes milliseconds of a core that running attempts need.
    done: VecDeque<Runner>,
    /// Forks whose places are being made.
    preparing: usize,
    forking: HashMap<String, Forking>,
    waiting: VecDeque<(HostMode, Answer)>,
    /// Runners with attempts.
    leased: HashSet<String>,
    ends: VecDeque<(String, Waited)>,
    /// Deaths and failed forks since the last runner.
    failures: u32,
    /// Whether to keep fresh children in stock: only while mode `fork` is asked for.
    stocking: bool,
    /// Forking until the stock is full.
    refilling: bool,
    leased_at: Instant,
    load_failed: Option<(Box<ErrorInfo>, Instant)>,
    used_at: Instant,
    /// When it was last looked whether it has been idle for too long.
    looked_at: Instant,
    retiring: bool,
}

/// The end of a runner: known, or asked for.
enum Waited {
    Known(End),
    Asked(oneshot::Sender<Option<End>>),
}

enum Event {
    Ask(Option<Ask>),
    Line(Option<FromHost>),
    Calm,
    Idle,
}

impl Keeper {
    async fn keep(mut self) {
        while !(self.retiring && self.leased.is_empty() && self.waiting.is_empty()) {
            self.serve_waiting().await;
            let event = self.next_event().await;
            match event {
                Event::Ask(None) => break,
                Event::Ask(Some(ask)) => self.on_ask(ask).await,
                Event::Line(Some(line)) => self.on_line(line),
                Event::Line(None) => self.on_death().await,
                Event::Calm => {
                    self.done.clear();
                    self.refilling = true;
                }
                Event::Idle => {
                    if is_over(self.used_at.elapsed(), is_short_of_memory) {
                        self.go_to_sleep();
                    }
                    self.looked_at = Instant::now();
                }
            }
        }
        // The sockets close here: template and runners end by themselves.
        self.go_to_sleep();
    }

    async fn next_event(&mut self) -> Event {
        let idle_at = self.used_at.max(self.looked_at) + IDLE_MAX_WHEN_SHORT;
        let calm_at = self.leased_at + if self.coming() == 0 { CALM_WITHOUT_STOCK } else { CALM };
        let may_refill = !self.refilling && matches!(self.life, Life::Running(_)) && self.coming() < self.stock();
        let is_awake = match self.life {
            Life::Asleep => false,
            Life::Running(_) => true,
            Life::Unforkable => self.code.language.has_template() || !self.used.is_empty(),
        };
        let may_sleep = is_awake && self.leased.is_empty() && self.waiting.is_empty();
        let line = async {
            match &mut self.life {
                Life::Running(process) => process.connection.receive().await.unwrap_or_else(|error| {
                    tracing::warn!(%error, "a template is not understood");
                    None
                }),
                Life::Asleep | Life::Unforkable => std::future::pending().await,
            }
        };
        tokio::select! {
            ask = self.asks.recv() => Event::Ask(ask),
            line = line => Event::Line(line),
            () = tokio::time::sleep_until(calm_at), if may_refill || !self.done.is_empty() => Event::Calm,
            () = tokio::time::sleep_until(idle_at), if may_sleep => Event::Idle,
        }
    }

    async fn on_ask(&mut self, ask: Ask) {
        match ask {
            Ask::Prepare(mode) => {
                self.used_at = Instant::now();
                self.stocking |= mode == HostMode::Fork;
            }
            Ask::Runner(mode, answer) => {
                self.used_at = Instant::now();
                self.stocking |= mode == HostMode::Fork;
                self.waiting.push_back((mode, answer));
            }
            Ask::GiveBack(runner) => {
                // One that is not leased any more died with an earlier template.
                if self.leased.remove(runner.id()) || !runner.is_forked() {
                    self.used.push_back(*runner);
                }
            }
            Ask::Done(runner) => {
                self.leased.remove(runner.id());
                self.done.push_back(*runner);
                if self.done.len() > DONE_MAX {
                    self.done.pop_front();
                }
            }
            Ask::HowEnded(host, answer) => self.on_how_ended(host, answer),
            Ask::Prepared(prepared) => {
                self.preparing -= 1;
                match prepared {
                    Ok(place) => self.fork(*place).await,
                    Err(error) => self.count_failure(&error),
                }
            }
            Ask::Ready(id, arrived) => self.on_ready(&id, arrived),
            Ask::Retire => self.retiring = true,
        }
    }

    fn on_how_ended(&mut self, host: String, answer: oneshot::Sender<Option<End>>) {
        let known = self.ends.iter().position(|(ended, end)| *ended == host && matches!(end, Waited::Known(_)));
        match known.and_then(|at| self.ends.remove(at)) {
            Some((_, Waited::Known(end))) => drop(answer.send(Some(end))),
            _ => self.remember(host, Waited::Asked(answer)),
        }
    }

    fn remember(&mut self, host: String, end: Waited) {
        if self.ends.len() >= ENDS_MAX {
            self.ends.pop_front();
        }
        self.ends.push_back((host, end));
    }

    fn on_line(&mut self, line: FromHost) {
        match line {
            FromHost::Exited { host, pid, code, signal } => self.on_exited(host, pid, End { code, signal }),
            FromHost::ForkFailed { host, message } => {
                tracing::warn!(message, "a template cannot fork");
                self.shared.expected.forget(&host);
                self.forking.remove(&host);
                self.count_failure(&HostError::System(format!("no process could be forked: {message}")));
            }
            other => tracing::warn!(?other, "a template said something unexpected"),
        }
    }

    fn on_exited(&mut self, host: String, pid: Option<i32>, end: End) {
        let was_leased = self.leased.remove(&host);
        if let Some(pid) = pid {
            process::kill_rest_of_group(pid);
        }
        self.shared.folders.orphans.look();
        if self.forking.remove(&host).is_some() {
            self.shared.expected.forget(&host);
            self.count_failure(&HostError::Died { end: Some(end), tail: self.tail() });
            return;
        }
        self.fresh.retain(|runner| runner.id() != host);
        self.used.retain(|runner| runner.id() != host);
        let asked = self.ends.iter().position(|(asked, end)| *asked == host && matches!(end, Waited::Asked(_)));
        match asked.and_then(|at| self.ends.remove(at)) {
            Some((_, Waited::Asked(answer))) => drop(answer.send(Some(end))),
            _ if was_leased => self.remember(host, Waited::Known(end)),
            _ => {}
        }
    }

    fn on_ready(&mut self, id: &str, arrived: Result<(Connection, i32), HostError>) {
        let Some(Forking { place, pipes }) = self.forking.remove(id) else { return };
        match (arrived, self.handle.upgrade()) {
            (Ok(arrived), Some(handle)) => {
                self.failures = 0;
                self.fresh.push_back(Runner::forked(arrived, pipes, place, Template(handle)));
            }
            (Err(error), _) => self.count_failure(&error),
            (Ok(_), None) => {}
        }
    }

    /// After too many failures in a row those who wait are told.
    fn count_failure(&mut self, error: &HostError) {
        self.shared.folders.orphans.look();
        self.failures += 1;
        if self.failures >= FAILURES_MAX {
            self.failures = 0;
            self.fail_waiting(error);
        }
    }

    fn fail_waiting(&mut self, error: &HostError) {
        for (_, answer) in self.waiting.drain(..) {
            let _ = answer.send(Err(error.clone()));
        }
        // Stock is refilled when somebody asks again.
        self.stocking = false;
    }

    fn tail(&self) -> String {
        if let Life::Running(process) = &self.life { process.tail.text() } else { String::new() }
    }

    /// Gives ready runners to those who wait, and sees to it that more come.
    async fn serve_waiting(&mut self) {
        // Ends: after a few failures nobody waits any more.
        while matches!(self.life, Life::Asleep) && (self.stocking || self.waiting.iter().any(|(mode, _)| *mode != HostMode::Spawn)) {
            self.wake().await;
        }
        let mut still_waiting = VecDeque::new();
        self.used.retain_mut(|runner| !runner.has_ended());
        while let Some((mode, answer)) = self.waiting.pop_front() {
            if answer.is_closed() {
                continue;
            }
            let ready = match mode {
                HostMode::Fork => self.fresh.pop_front(),
                HostMode::Reuse => self.used.pop_back().or_else(|| self.fresh.pop_front()),
                HostMode::Spawn => None,
            };
            match ready {
                Some(runner) => self.lease(runner, answer),
                None if mode == HostMode::Spawn || matches!(self.life, Life::Unforkable) => self.start_runner(answer),
                None => still_waiting.push_back((mode, answer)),
            }
        }
        self.waiting = still_waiting;
        self.refill().await;
    }

    fn lease(&mut self, runner: Runner, answer: Answer) {
        if runner.is_forked() {
            self.leased.insert(runner.id().to_owned());
        }
        self.leased_at = Instant::now();
        // An attempt that was stopped meanwhile drops the runner, which ends it.
        let _ = answer.send(Ok(runner));
    }

    async fn refill(&mut self) {
        let (stock, coming) = (self.stock(), self.coming());
        self.refilling = coming < stock && (self.refilling || (coming == 0 && !self.waiting.is_empty()));
        let wanted = self.waiting.len() + if self.refilling { stock } else { 0 };
        while matches!(self.life, Life::Running(_)) && self.coming() < wanted && self.under_way() < FORKS_MAX {
            self.prepare_fork().await;
        }
    }

    /// Fresh children to keep.
    fn stock(&self) -> usize {
        if self.stocking && !self.retiring { self.shared.slots + STOCK_BEYOND_SLOTS } else { 0 }
    }

    /// Whether every slot has an attempt, and the last one came a moment ago: what a fork does before it is ready delays others then.
    fn is_busy(&self) -> bool {
        self.leased.len() + self.waiting.len() >= self.shared.slots && self.leased_at.elapsed() < CALM
    }

    /// Fresh children that are there or soon will be.
    fn coming(&self) -> usize {
        self.fresh.len() + self.under_way()
    }

    fn under_way(&self) -> usize {
        self.preparing + self.forking.len()
    }

    /// Finds the place of a runner and asks for the fork. A new folder is made on another thread: that costs hundreds of microseconds
    /// on some disks.
    async fn prepare_fork(&mut self) {
        let (folders, id) = (&self.shared.folders, self.shared.expected.new_id('r'));
        if let Some(task_folder) = folders.spare.take() {
            return self.fork(Place::again(folders, id, task_folder)).await;
        }
        self.preparing += 1;
        let (shared, handle) = (self.shared.clone(), self.handle.clone());
        tokio::task::spawn_blocking(move || {
            let made = Place::make(&shared.folders, id);
            if let Some(handle) = handle.upgrade() {
                let _ = handle.send(Ask::Prepared(made.map(Box::new)));
            }
        });
    }

    async fn fork(&mut self, place: Place) {
        let hurry = self.forking.len() < self.waiting.len() || self.is_busy();
        let Life::Running(process) = &mut self.life else { return };
        let (pipes, theirs) = match output_pipes() {
            Ok(pipes) => pipes,
            Err(error) => return self.count_failure(&error),
        };
        let arrival = self.shared.expected.host(&place.id);
        // A template that is gone is noticed by its closed connection.
        let _ = process.connection.send_with(&ToHost::Fork { host: &place.id, hurry }, theirs.each_ref().map(AsFd::as_fd)).await;
        let (handle, told) = (self.handle.clone(), place.id.clone());
        tokio::spawn(async move {
            let arrived = Runner::receive(arrival).await;
            if let Some(handle) = handle.upgrade() {
                let _ = handle.send(Ask::Ready(told, arrived));
            }
        });
        self.forking.insert(place.id.clone(), Forking { place, pipes });
    }

    /// Starts a runner of its own, in the background.
    fn start_runner(&self, answer: Answer) {
        let (shared, code, handle) = (self.shared.clone(), self.code.clone(), self.handle.clone());
        let id = shared.expected.new_id('s');
        let arrival = shared.expected.host(&id);
        let prepared = Place::make(&shared.folders, id.clone()).and_then(|mut place| {
            let is_r = code.language == Language::R;
            if is_r {
                place.make_temporary()?;
            }
            let pipes = is_r
                .then(|| PipesToHost::make(&shared.folders.hosts, &id))
                .transpose()
                .map_err(|error| HostError::system("cannot make the pipes to a host", &error))?;
            let line = pipes.as_ref().and_then(PipesToHost::line).unwrap_or(Line::Socket(&shared.folders.socket));
            let start = Start { role: Role::Runner, id: &id, line, temporary: place.temporary.as_deref() };
            let child = shared.interpreters.start(&code, start);
            Ok((child.map_err(|error| not_started(&shared, &code, &error))?, place, pipes))
        });
        let (child, place, pipes) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => {
                shared.expected.forget(&id);
                return drop(answer.send(Err(error)));
            }
        };
        tokio::spawn(async move {
            let connected = async {
                if let Some(pipes) = pipes {
                    shared.expected.clone().welcome(Connection::through(pipes), READY_TIMEOUT).await;
                }
                Runner::receive(arrival).await
            };
            let runner = started_runner(child, place, connected, handle).await;
            shared.expected.forget(&id);
            let _ = answer.send(runner);
        });
    }

    /// Starts the template and waits until the flow is imported.
    async fn wake(&mut self) {
        if let Some((error, at)) = self.load_failed.take()
            && at.elapsed() < LOAD_FAILED_FOR
        {
            self.fail_waiting(&HostError::Load(error.clone()));
            self.load_failed = Some((error, at));
            return;
        }
        match start_template(&self.shared, &self.code).await {
            Ok((process, None)) => self.life = Life::Running(Box::new(process)),
            Ok((_, Some(because))) => {
                tracing::info!(file = self.code.file, because, "this flow cannot be forked; each task starts an interpreter of its own");
                self.life = Life::Unforkable;
            }
            Err(HostError::Load(error)) => {
                self.fail_waiting(&HostError::Load(error.clone()));
                self.load_failed = Some((error, Instant::now()));
            }
            Err(error) => {
                tracing::warn!(file = self.code.file, %error, "a template did not start");
                self.count_failure(&error);
            }
        }
    }

    /// The template's connection closed. The kernel kills its children with it.
    async fn on_death(&mut self) {
        let Life::Running(mut process) = std::mem::replace(&mut self.life, Life::Asleep) else { return };
        let ended = tokio::time::timeout(Duration::from_secs(2), process.child.wait()).await;
        let end = ended.ok().and_then(Result::ok).map(End::from);
        tracing::warn!(file = self.code.file, ?end, tail = process.tail.text(), "a template died");
        self.shared.folders.forget(&process.id);
        for id in self.forking.drain().map(|(id, _)| id) {
            self.shared.expected.forget(&id);
        }
        self.fresh.retain(|runner| !runner.is_forked());
        self.used.retain(|runner| !runner.is_forked());
        self.done.clear();
        self.leased.clear();
        for (_, end_asked) in self.ends.drain(..) {
            if let Waited::Asked(answer) = end_asked {
                let _ = answer.send(end.clone());
            }
        }
        self.count_failure(&HostError::Died { end, tail: process.tail.text() });
    }

    fn go_to_sleep(&mut self) {
        self.fresh.clear();
        self.used.clear();
        self.done.clear();
        for id in self.forking.drain().map(|(id, _)| id) {
            self.shared.expected.forget(&id);
        }
        if let Life::Running(process) = std::mem::replace(&mut self.life, rest(&self.code)) {
            self.shared.folders.forget(&process.id);
        }
        self.stocking = false;
    }
}

/// Whether a template has been idle for too long. Asks about memory only when that counts.
fn is_over(idle: Duration, is_short: impl FnOnce() -> bool) -> bool {
    idle >= IDLE_MAX || (idle >= IDLE_MAX_WHEN_SHORT && is_short())
}

/// Starts a template; with the reason when the flow must not be forked.
async fn start_template(shared: &Shared, code: &FlowCode) -> Result<(Process, Option<String>), HostError> {
    let id = shared.expected.new_id('t');
    let arrival = shared.expected.host(&id);
    let line = Line::Socket(&shared.folders.socket);
    let started = shared.interpreters.start(code, Start { role: Role::Template, id: &id, line, temporary: None });
    let mut child = started.map_err(|error| {
        shared.expected.forget(&id);
        not_started(shared, code, &error)
    })?;
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
        leftover::note(&shared.folders.hosts, &id, pid);
    }
    let tail = Tail::of(&mut child);
    let load = async {
        let mut connection = arrival.await.ok()?.connection;
        let line = connection.receive().await.ok()??;
        Some((connection, line))
    };
    let loaded = tokio::time::timeout(READY_TIMEOUT, unless_it_ends(&mut child, load)).await.map(Option::flatten);
    shared.expected.forget(&id);
    match loaded {
        Ok(Some((connection, FromHost::Loaded { forkable, because }))) => {
            let because = (!forkable).then(|| because.unwrap_or_else(|| "it says so".into()));
            Ok((Process { child, connection, tail, id }, because))
        }
        Ok(Some((_, FromHost::LoadFailed { error }))) => Err(HostError::Load(Box::new(error))),
        Ok(Some(_)) => Err(HostError::System("a template did not say whether it loaded the flow".into())),
        Ok(None) => {
            let ended = tokio::time::timeout(LAST_WORDS_TIMEOUT, child.wait()).await;
            Err(HostError::Died { end: ended.ok().and_then(Result::ok).map(End::from), tail: tail.text() })
        }
        Err(_) => Err(HostError::System(format!("the flow file was not imported within {} seconds", READY_TIMEOUT.as_secs()))),
    }
}

/// What `wanted` gives; `None` when the process ends first and what it said before does not give it either.
async fn unless_it_ends<T>(child: &mut Child, wanted: impl Future<Output = T>) -> Option<T> {
    let mut wanted = std::pin::pin!(wanted);
    tokio::select! {
        biased;
        got = &mut wanted => Some(got),
        // It may have said why, and that is still on its way.
        _ = child.wait() => tokio::time::timeout(LAST_WORDS_TIMEOUT, wanted).await.ok(),
    }
}

fn not_started(shared: &Shared, code: &FlowCode, error: &std::io::Error) -> HostError {
    let program = shared.interpreters.program(code.language).display();
    // Somebody has to install it: trying again would not help.
    if error.kind() == std::io::ErrorKind::NotFound {
        return HostError::Missing {
            message: format!("this worker has no {program}, which its steps in {:?} need", code.language.name()),
            hint: Interpreters::hint(code.language),
        };
    }
    HostError::system(&format!("cannot start {program}"), error)
}

/// Where a template is before anybody asks for runners: a language without templates starts them one by one.
fn rest(code: &FlowCode) -> Life {
    if code.language.has_template() { Life::Asleep } else { Life::Unforkable }
}

async fn started_runner(
    mut child: Child,
    place: Place,
    connected: impl Future<Output = Result<(Connection, i32), HostError>>,
    handle: mpsc::WeakUnboundedSender<Ask>,
) -> Result<Runner, HostError> {
    let pipes = take_pipes(&mut child).map_err(|error| HostError::system("cannot read a runner's output", &error))?;
    let arrived = match unless_it_ends(&mut child, connected).await {
        None | Some(Err(HostError::Died { .. })) => {
            let ended = tokio::time::timeout(LAST_WORDS_TIMEOUT, child.wait()).await;
            Err(HostError::Died { end: ended.ok().and_then(Result::ok).map(End::from), tail: String::new() })
        }
        Some(arrived) => arrived,
    };
    let handle = handle.upgrade().ok_or_else(|| HostError::System("the worker stops".into()))?;
    Ok(Runner::started(arrived?, pipes, place, Template(handle), child))
}

fn take_pipes(child: &mut Child) -> std::io::Result<Pipes> {
    let gone = || std::io::Error::other("its pipes are gone");
    let stdout = child.stdout.take().ok_or_else(gone)?.into_owned_fd()?;
    let stderr = child.stderr.take().ok_or_else(gone)?.into_owned_fd()?;
    Ok(Pipes::new(pipe::Receiver::from_owned_fd(stdout)?, pipe::Receiver::from_owned_fd(stderr)?))
}

/// The last a template printed, both streams together.
#[derive(Clone, Debug, Default)]
struct Tail(Arc<Mutex<VecDeque<u8>>>);

impl Tail {
    /// Reads the child's output in the background until its end.
    fn of(child: &mut Child) -> Self {
        let tail = Self::default();
        if let Some(stdout) = child.stdout.take() {
            tokio::spawn(tail.clone().follow(stdout));
        }
        if let Some(stderr) = child.stderr.take() {
            tokio::spawn(tail.clone().follow(stderr));
        }
        tail
    }

    async fn follow(self, mut stream: impl AsyncRead + Unpin) {
        let mut piece = vec![0; 4096];
        while let Ok(bytes @ 1..) = stream.read(&mut piece).await {
            tracing::debug!(text = %String::from_utf8_lossy(&piece[..bytes]), "a flow prints while it is imported");
            let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            kept.extend(&piece[..bytes]);
            let excess = kept.len().saturating_sub(TAIL_BYTES);
            kept.drain(..excess);
        }
    }

    fn text(&self) -> String {
        let kept: Vec<u8> = self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect();
        String::from_utf8_lossy(&kept).into_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()) {
            // What the flow file started at import goes too.
            process::kill_group(pid);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_template_goes_early_only_where_memory_is_short() {
        assert!(!is_over(Duration::from_secs(9), || unreachable!()));
        assert!(!is_over(Duration::from_secs(60), || false));
        assert!(is_over(Duration::from_secs(60), || true));
        assert!(is_over(IDLE_MAX, || unreachable!()));
    }
}
