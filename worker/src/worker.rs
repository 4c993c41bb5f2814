//! The worker's loop. It takes deliveries, starts attempts in free slots, keeps leases alive, and follows what the leader says; all
//! state is here, and everything slow runs in tasks of its own that answer with an [`Event`]. It runs on one thread with its
//! own runtime and connection: that is a fifth of the latency of a step (measured, `step-loop` note).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use causey_artifacts::failpoint;
use causey_protocol::codec::{self, DISPATCH_BYTES_MAX, DecodeError};
use causey_protocol::live::{Ask, OpenAttempt, Order, Told};
use causey_protocol::resources::Resources;
use causey_protocol::subject;
use causey_protocol::task::{Dispatch, Outcome};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::attempt::Job;
use crate::bench::{self, Bench, Progress};
use crate::capacity::Capacity;
use crate::held::{Because, Held, Stage, Stop};
use crate::leader::Leader;
use crate::lease::Lease;
use crate::life::Limits;
use crate::outside::{Listener as _, Message, Outside};
use crate::presence::Presence;
use crate::pull::{Arrival, Pull, delivery_count};
use crate::report::{Confirm, Reports};
use crate::slots::Slots;

/// How often the worker tells the leader what it holds.
const HELLO_PERIOD: Duration = Duration::from_secs(10);

/// How often to look whether to ask for tasks, or to say hello again, although nothing happened: requests lapse, pauses end.
const PULL_CHECK_PERIOD: Duration = Duration::from_millis(250);

/// An attempt that needs more than is free is handed back after this time: another worker may have them.
const MISFIT_TIME_MAX: Duration = Duration::from_secs(5);

/// How often that time doubles for one that has been handed back before.
const MISFIT_DOUBLINGS_MAX: u32 = 6;

/// Deliveries of something that this worker can never run which are left to others of its pool before it is handed back.
const PASSED_ON_MAX: u64 = 4;

/// Longest wait for what the queue had sent before it learnt that no more is wanted.
const PULL_DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// A delivery that is handed on waits here so long, lest it comes straight back. The server's own delay is not used: of several that end
/// at one time it forgets some until the ack wait is over.
const PASS_ON_DELAY: Duration = Duration::from_millis(500);

const PASS_ON: &str = "-NAK";

/// Longest wait for the server to confirm an acknowledgement.
const ACK_TIMEOUT: Duration = Duration::from_secs(10);

/// Wait before a dispatch of an unknown version is delivered again, to a newer worker with luck.
const UNREADABLE_DELAY: Duration = Duration::from_secs(5);

/// What the tasks around the loop tell it.
#[derive(Debug)]
pub enum Event {
    /// The connection to NATS is there, again perhaps.
    Connected,
    /// User code has ended; the slots are free.
    Ended { attempt: OpenAttempt, ran: Duration },
    /// The attempt was stopped before its user code had ended; its host is dead.
    Stopped(OpenAttempt),
    /// The inbox has the reports of these attempts.
    Reported(Vec<OpenAttempt>),
    /// Nobody has answered a hello.
    Unheard,
    /// The leader's answer to a hello.
    Told(Told),
    /// The server has seen signs of life that left at this time.
    Alive(Instant),
}

pub(crate) struct Worker<O: Outside, B> {
    pub(crate) outside: O,
    pub(crate) bench: Arc<B>,
    pub(crate) reports: Reports,
    pub(crate) leader: Leader<O>,
    pub(crate) presence: Presence<O>,
    pub(crate) slots: Slots,
    pub(crate) capacity: Capacity,
    pub(crate) lease: Lease,
    pub(crate) pull: Pull<O>,
    pub(crate) arrivals: O::Listener,
    pub(crate) cancels: O::Listener,
    pub(crate) gangs: O::Listener,
    /// There is a word for the workers of the pool.
    pub(crate) calls: O::Listener,
    pub(crate) events: mpsc::UnboundedReceiver<Event>,
    pub(crate) event_sender: mpsc::UnboundedSender<Event>,
    pub(crate) held: Held,
    /// A dispatch of a later version was seen: this program is too old to take more.
    pub(crate) outdated: bool,
    pub(crate) misfit_since: Option<Instant>,
    /// Why it ends, once it is to.
    pub(crate) ending: Option<String>,
    pub(crate) limits: Limits,
    /// Attempts that were begun.
    pub(crate) begun: u64,
    pub(crate) idle_since: Instant,
    /// Deliveries that other workers shall have, and when they get them; the earliest first.
    pub(crate) passed_on: VecDeque<(Instant, String)>,
    /// The last hello was not answered: another one soon.
    pub(crate) unheard: bool,
}

impl<O: Outside, B: Bench> Worker<O, B> {
    /// Runs until `shutdown`, or until it ends by itself; attempts may still be under way then.
    pub(crate) async fn run(&mut self, shutdown: &CancellationToken) {
        let ticker = |period| {
            let mut ticker = tokio::time::interval(period);
            ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticker
        };
        let (mut progress, mut lapse) = (ticker(self.lease.period()), ticker(self.lease.check_period()));
        let (mut hello, mut pull) = (ticker(HELLO_PERIOD), ticker(PULL_CHECK_PERIOD));
        self.ask_for_tasks().await;
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                // Before anything else: after a pause of the whole process the lease may have gone.
                _ = lapse.tick() => self.give_up_lapsed(),
                Some(event) = self.events.recv() => self.on_event(event).await,
                Some(message) = self.arrivals.next() => self.on_arrival(message).await,
                Some(message) = self.cancels.next() => self.on_cancel(&message),
                Some(message) = self.gangs.next() => self.on_gang(&message),
                Some(_) = self.calls.next() => self.say_hello(),
                _ = progress.tick() => self.show_life().await,
                _ = hello.tick() => self.say_hello(),
                _ = pull.tick() => {
                    if std::mem::take(&mut self.unheard) {
                        self.say_hello();
                    }
                    self.pass_on_members();
                    self.pass_on_surplus();
                    self.hand_on(Instant::now()).await;
                    self.hand_back_misfit();
                    self.hand_back_without_space();
                }
            }
            self.start_attempts();
            self.reports.gather(self.slots.streams(self.held.queued()));
            self.ask_for_tasks().await;
            if self.is_over() {
                return;
            }
        }
    }

    pub(crate) async fn on_event(&mut self, event: Event) {
        match event {
            Event::Connected => {
                self.pull.reconnected();
                // The server may have lost its queue, and then the leader offers them anew; else they come back.
                let waiting = self.held.pass_on_waiting();
                self.pass_on(waiting);
                self.say_hello();
                self.show_life().await;
            }
            Event::Ended { attempt, ran } => self.on_ended(&attempt, ran),
            Event::Stopped(attempt) => self.on_stopped(&attempt).await,
            Event::Reported(attempts) => {
                for attempt in attempts {
                    self.close(&attempt).await;
                }
            }
            Event::Unheard => self.unheard = true,
            Event::Told(told) => self.on_told(told).await,
            Event::Alive(sent) => self.lease.confirm(sent),
        }
    }

    fn on_ended(&mut self, attempt: &OpenAttempt, ran: Duration) {
        if let Some(attempt) = self.held.get_mut(attempt) {
            self.slots.give_back(self.slots.share(attempt.job.dispatch.slots));
            self.slots.observe(ran);
            if let Some(booking) = attempt.booking.take() {
                self.capacity.give_back(&booking);
            }
            attempt.stage = Stage::Ended;
        }
    }

    async fn on_stopped(&mut self, key: &OpenAttempt) {
        let Some(attempt) = self.held.get_mut(key) else { return };
        let Stage::Running { stopped, .. } = &attempt.stage else { return };
        let because = *stopped;
        self.slots.give_back(self.slots.share(attempt.job.dispatch.slots));
        if let Some(booking) = attempt.booking.take() {
            self.capacity.give_back(&booking);
        }
        let job = attempt.job.clone();
        attempt.stage = Stage::Ended;
        match because {
            Some(because) => self.settle_stopped(&job, because).await,
            // Its task ended without a word, by a bug: the queue delivers it again.
            None => self.held.forget(key),
        }
    }

    /// An attempt without result: what is to be said about it.
    async fn settle_stopped(&mut self, job: &Job, because: Because) {
        let key = job.open_attempt();
        match because {
            Because::Closed => self.close(&key).await,
            Because::Lapsed => self.held.forget(&key),
            Because::HandedBack => self.release(job, "the worker stops"),
        }
    }

    /// Hands an attempt back, uncharged. It stays held until the inbox knows.
    fn release(&mut self, job: &Job, because: &str) {
        let key = job.open_attempt();
        if let Some(attempt) = self.held.get_mut(&key) {
            attempt.stage = Stage::Ended;
        }
        self.reports.send(job.report(Outcome::Released { because: because.into() }), Confirm::Attempt(key));
    }

    async fn close(&mut self, key: &OpenAttempt) {
        for reply in self.held.close(key) {
            self.answer(&reply, "+ACK").await;
        }
    }

    /// Answers a delivery. A lost ack costs one redelivery that finds the result.
    async fn answer(&self, reply: &str, payload: &'static str) {
        if self.outside.is_connected() {
            let _ = self.outside.say(reply, None, Bytes::from_static(payload.as_bytes())).await;
            failpoint::here("delivery.answered");
        }
    }

    async fn on_told(&mut self, told: Told) {
        match told {
            Told::Welcome { closed, order, .. } => {
                self.obey(order);
                for key in closed {
                    if let Some(job) = self.held.stop(&key, Because::Closed) {
                        self.settle_stopped(&job, Because::Closed).await;
                    }
                }
            }
            Told::Refused(problem) => tracing::warn!(%problem, hint = problem.hint, "the coordinator refuses this worker"),
            Told::Model { .. } | Told::Gang { .. } => {}
        }
    }

    async fn on_arrival(&mut self, message: Message) {
        let now = Instant::now();
        match self.pull.note(message, now) {
            Arrival::Task(message) => self.on_task(message, now).await,
            Arrival::Status => {}
            // The leader makes the consumer when it hears of this worker.
            Arrival::NoConsumer => self.say_hello(),
        }
    }

    async fn on_task(&mut self, message: Message, received: Instant) {
        let Some(reply) = message.reply else { return };
        if self.bench.lacks_space() {
            return self.pass_on([reply]);
        }
        let dispatch: Dispatch = match codec::decode(&message.payload, DISPATCH_BYTES_MAX) {
            Ok(dispatch) => dispatch,
            Err(error) => return self.on_unreadable(&message.subject, &reply, &error).await,
        };
        let dispatch = Arc::new(dispatch);
        let delivered = delivery_count(&reply);
        if self.presence.offer().closed {
            return self.pass_on([reply]);
        }
        let nothing = Resources::default();
        let lack = self.capacity.lacks(&dispatch.language, dispatch.needs.as_deref().unwrap_or(&nothing)).pop();
        if lack.is_some() && delivered <= PASSED_ON_MAX {
            return self.pass_on([reply]);
        }
        let job = |index: usize| {
            let key = dispatch.key(&dispatch.tasks[index]);
            let redelivered = delivered > 1;
            Job { dispatch: dispatch.clone(), index, key, perhaps_done: redelivered || dispatch.again, redelivered, devices: None }
        };
        let jobs: Vec<Job> = (0..dispatch.tasks.len()).map(job).collect();
        if jobs.is_empty() {
            return self.answer(&reply, "+TERM").await;
        }
        let unfit = lack.map(|lack| (jobs.iter().map(Job::open_attempt).collect::<Vec<_>>(), format!("this worker does not offer {lack}")));
        self.held.deliver(reply, received, jobs);
        for (key, because) in unfit.iter().flat_map(|(keys, because)| keys.iter().map(move |key| (key, because))) {
            if let Some(job) = self.held.stop(key, Because::HandedBack) {
                self.release(&job, because);
            }
        }
        if unfit.is_some() {
            return;
        }
        // Where a slot is free the attempt itself does this.
        if self.held.queued() > 1 || !self.fits_front() {
            let bench = self.bench.clone();
            tokio::spawn(async move { bench.prepare(&dispatch).await });
        }
    }

    async fn on_unreadable(&mut self, subject: &str, reply: &str, error: &DecodeError) {
        match error {
            // Versions count up by one; a byte far beyond is the first letter of something else.
            DecodeError::Version { found } if (codec::VERSION + 1..32).contains(found) => {
                tracing::error!(
                    subject,
                    found,
                    known = codec::VERSION,
                    "a dispatch has a later format; upgrade me: this worker takes no more tasks"
                );
                self.outdated = true;
                let nak = format!(r#"-NAK {{"delay":{}}}"#, UNREADABLE_DELAY.as_nanos());
                let _ = self.outside.say(reply, None, nak.into()).await;
            }
            DecodeError::Empty | DecodeError::Version { .. } | DecodeError::TooLarge { .. } | DecodeError::Malformed(_) => {
                // No worker will ever read it. If its attempt is open, the leader's sweep offers it again.
                tracing::error!(subject, %error, "a dispatch cannot be read; it is dropped");
                self.answer(reply, "+TERM").await;
            }
        }
    }

    fn on_cancel(&mut self, message: &Message) {
        if subject::parse_cancel(&message.subject).is_some_and(|run| self.held.has_run(run)) {
            self.say_hello();
        }
    }

    /// A gang of the run has formed, or is over: members ask for the addresses of the others, and the worker what has been closed.
    fn on_gang(&mut self, message: &Message) {
        if subject::parse_gang(&message.subject).is_some_and(|run| self.held.has_run(run)) {
            self.bench.gang_changed();
            self.say_hello();
        }
    }

    /// A member that waits for a slot keeps a whole gang waiting, which another worker may complete.
    fn pass_on_members(&mut self) {
        if !self.fits_front() {
            let members = self.held.pass_on_members();
            self.pass_on(members);
        }
    }

    /// Behind one that waits for what it needs there may be others, for which another worker has it.
    fn pass_on_surplus(&mut self) {
        if self.is_blocked() {
            let surplus = self.held.pass_on_surplus();
            self.pass_on(surplus);
        }
    }

    fn pass_on(&mut self, replies: impl IntoIterator<Item = String>) {
        let at = Instant::now() + PASS_ON_DELAY;
        self.passed_on.extend(replies.into_iter().map(|reply| (at, reply)));
    }

    /// Gives the queue back what has waited until `now`.
    async fn hand_on(&mut self, now: Instant) {
        while let Some((_, reply)) = self.passed_on.pop_front_if(|(at, _)| *at <= now) {
            self.answer(&reply, PASS_ON).await;
        }
    }

    fn fits_front(&self) -> bool {
        let has_room = |job: &Job| {
            let needs = job.dispatch.needs.as_ref();
            self.slots.fits(self.slots.share(job.dispatch.slots)) && needs.is_none_or(|needs| self.capacity.find(needs).is_some())
        };
        self.held.front().is_some_and(has_room)
    }

    /// Whether the next attempt needs several slots, or something beside slots, that are not free.
    fn is_blocked(&self) -> bool {
        let lacks = |job: &Job| {
            let share = self.slots.share(job.dispatch.slots);
            let needs = job.dispatch.needs.as_ref();
            (share > 1 && !self.slots.fits(share)) || needs.is_some_and(|needs| self.capacity.find(needs).is_none())
        };
        self.held.front().is_some_and(lacks)
    }

    fn start_attempts(&mut self) {
        while self.fits_front() && !self.bench.lacks_space() {
            let (devices, booking) = match self.held.front().and_then(|job| job.dispatch.needs.clone()) {
                None => (None, None),
                Some(needs) => {
                    self.measure(&needs);
                    let Some(booking) = self.capacity.find(&needs) else { return };
                    self.capacity.take(&booking);
                    (self.capacity.visible_devices(&booking).map(Into::into), Some(Box::new(booking)))
                }
            };
            let Some((job, stop)) = self.held.start_front(devices, booking) else { return };
            self.slots.take(self.slots.share(job.dispatch.slots));
            self.misfit_since = None;
            self.begun += 1;
            tokio::spawn(perform(self.bench.clone(), self.reports.clone(), job, stop, self.event_sender.clone()));
        }
    }

    /// What is free on a GPU that is shared is measured when a share is about to be given.
    fn measure(&mut self, needs: &Resources) {
        if needs.gpu_memory_mb.is_some() && self.capacity.has_devices() {
            let free = self.bench.free_gpu_memory();
            self.capacity.measured(&free);
        }
    }

    /// The front of the queue needs more than is free: it keeps all others waiting, so not for long; but each time it comes back for
    /// longer, lest small ones have the place for ever.
    fn hand_back_misfit(&mut self) {
        if let Some(needs) = self.held.front().and_then(|job| job.dispatch.needs.clone()) {
            self.measure(&needs);
        }
        if !self.is_blocked() {
            self.misfit_since = None;
            return;
        }
        let since = *self.misfit_since.get_or_insert_with(Instant::now);
        let returns = self.held.front().map(Job::task).map_or(0, |task| task.attempt.saturating_sub(task.retry));
        if since.elapsed() > MISFIT_TIME_MAX * (1 << returns.min(MISFIT_DOUBLINGS_MAX))
            && let Some(key) = self.held.front().map(Job::open_attempt)
            && let Some(job) = self.held.stop(&key, Because::HandedBack)
        {
            self.misfit_since = None;
            self.release(&job, "what it needs was not free in time");
        }
    }

    /// Others may have the space that this worker lacks.
    fn hand_back_without_space(&mut self) {
        while self.bench.lacks_space()
            && let Some(key) = self.held.front().map(Job::open_attempt)
            && let Some(job) = self.held.stop(&key, Because::HandedBack)
        {
            self.release(&job, "the worker's disk is full");
        }
    }

    async fn ask_for_tasks(&mut self) {
        // A task that waits for more slots than are free is the only one held ahead.
        let closed = self.outdated || self.presence.offer().closed;
        if closed || self.is_blocked() || !self.outside.is_connected() || self.bench.lacks_space() {
            return;
        }
        let left = self.limits.tasks.map_or(u32::MAX, |most| u32::try_from(most.saturating_sub(self.begun)).unwrap_or(u32::MAX));
        let (slots, queued) = (&self.slots, self.held.queued());
        // The slots of a gang are not free soon, and the next task may be one more member.
        let ahead = if self.held.has_member() { 0 } else { slots.prefetch() };
        let want = |credit: u32| slots.want(queued, credit, ahead).min(left.saturating_sub(queued.saturating_add(credit)));
        self.pull.ask(Instant::now(), want).await;
    }

    /// Does what the coordinator says.
    fn obey(&mut self, order: Order) {
        if order == Order::Drain && self.ending.is_none() {
            self.ending = Some("it was told to drain".into());
        }
        if self.presence.close(order != Order::Serve) {
            let closed = self.presence.offer().closed;
            tracing::info!(
                closed,
                "{}",
                if closed { "cordoned: this worker takes no more tasks" } else { "this worker takes tasks again" }
            );
            self.say_hello();
        }
    }

    /// Whether the worker ends: it was told to, has run what it was to run, or has been idle for long enough.
    fn is_over(&mut self) -> bool {
        if !self.held.is_empty() {
            self.idle_since = Instant::now();
        }
        if self.ending.is_none() {
            let Limits { tasks, idle } = self.limits;
            if let Some(most) = tasks.filter(|most| self.begun >= *most && self.held.is_empty()) {
                self.ending = Some(format!("it has run {most} tasks"));
            } else if let Some(idle) = idle.filter(|idle| self.idle_since.elapsed() >= *idle) {
                self.ending = Some(format!("it has had nothing to do for {} s", idle.as_secs()));
            }
        }
        self.ending.is_some()
    }

    /// Sends signs of life for everything held; the answer to the last of them tells that all have arrived.
    async fn show_life(&mut self) {
        if !self.outside.is_connected() {
            return;
        }
        let mut alive = self.held.alive();
        let Some(last) = alive.pop() else { return };
        let sent = Instant::now();
        for reply in alive {
            let _ = self.outside.say(&reply, None, Bytes::from_static(b"+WPI")).await;
        }
        let (outside, events) = (self.outside.clone(), self.event_sender.clone());
        tokio::spawn(async move {
            if outside.ask(&last, Bytes::from_static(b"+WPI"), ACK_TIMEOUT).await.is_ok() {
                let _ = events.send(Event::Alive(sent));
            }
        });
    }

    /// Stops what the queue may have given to another worker by now.
    fn give_up_lapsed(&mut self) {
        let now = Instant::now();
        let lease = self.lease;
        for key in self.held.lapse(|received| lease.has_lapsed(received, now)) {
            tracing::warn!(run = %key.run, attempt = %key.key, "no sign of life reached the queue in time; stopping the attempt");
            if let Some(job) = self.held.stop(&key, Because::Lapsed) {
                self.held.forget(&job.open_attempt());
            }
        }
    }

    /// Tells the leader what is held, in the background.
    fn say_hello(&mut self) {
        let ask = Ask::Hello { offer: self.presence.offer().clone(), open: self.held.open() };
        let (leader, events) = (self.leader.clone(), self.event_sender.clone());
        tokio::spawn(async move {
            match leader.ask(&ask).await {
                Ok(told) => drop(events.send(Event::Told(told))),
                Err(error) => {
                    tracing::debug!(%error, "no answer to a hello");
                    let _ = events.send(Event::Unheard);
                }
            }
        });
    }

    /// Takes no more tasks and hands back those that have not begun.
    pub(crate) async fn begin_drain(&mut self) {
        for key in self.bench.gathering() {
            self.held.stop(&key, Because::HandedBack);
        }
        // Drained, not dropped: what the server has sent already would otherwise lie still for the ack wait.
        self.arrivals.drain().await;
        let deadline = tokio::time::Instant::now() + PULL_DRAIN_TIMEOUT;
        while let Ok(Some(message)) = tokio::time::timeout_at(deadline, self.arrivals.next()).await {
            self.on_arrival(message).await;
        }
        while let Some(key) = self.held.front().map(Job::open_attempt) {
            if let Some(job) = self.held.stop(&key, Because::HandedBack) {
                self.release(&job, "the worker stops");
            }
        }
        self.hand_on(Instant::now() + PASS_ON_DELAY).await;
        if self.presence.close(true) {
            self.say_hello();
        }
    }

    /// Serves what runs until all of it is over and reported, or `enough`.
    pub(crate) async fn finish_held(&mut self, enough: impl Future<Output = ()>) {
        let mut enough = std::pin::pin!(enough);
        let mut progress = tokio::time::interval(self.lease.period());
        let mut lapse = tokio::time::interval(self.lease.check_period());
        while !self.held.is_empty() {
            tokio::select! {
                biased;
                () = &mut enough => return,
                Some(event) = self.events.recv() => self.on_event_while_draining(event).await,
                _ = progress.tick() => self.show_life().await,
                _ = lapse.tick() => self.give_up_lapsed(),
            }
        }
    }

    async fn on_event_while_draining(&mut self, event: Event) {
        let Event::Reported(attempts) = event else { return self.on_event(event).await };
        for reply in attempts.iter().flat_map(|attempt| self.held.close(attempt)).collect::<Vec<_>>() {
            // With an answer, so that nothing is delivered again after this worker has gone.
            let _ = self.outside.ask(&reply, Bytes::from_static(b"+ACK"), ACK_TIMEOUT).await;
            failpoint::here("drain.answered");
        }
    }

    /// Kills what still runs; each attempt is handed back.
    pub(crate) fn stop_running(&mut self) {
        for key in self.held.unfinished() {
            if let Some(job) = self.held.stop(&key, Because::HandedBack) {
                self.release(&job, "the worker stops");
            }
        }
    }
}

/// Runs one attempt and reports it. Says exactly one of `Ended` and `Stopped`.
async fn perform<B: Bench>(bench: Arc<B>, reports: Reports, job: Job, stop: Stop, events: mpsc::UnboundedSender<Event>) {
    let key = job.open_attempt();
    let mut last_word = LastWord { events: events.clone(), attempt: Some(key) };
    let begun = Instant::now();
    let progress = tokio::select! {
        biased;
        // The runner is dropped with the attempt, which kills its process group.
        () = stop.now.cancelled() => return,
        progress = bench::progress(&bench, &job, &reports, &stop.gently) => progress,
    };
    let Some(progress) = progress else { return };
    last_word.attempt = None;
    let _ = events.send(Event::Ended { attempt: key, ran: begun.elapsed() });
    failpoint::here("step.ended");
    let (outcome, used) = match progress {
        Progress::Known(outcome) => (*outcome, None),
        Progress::Ran(ran) => bench.store(&job, ran).await,
    };
    failpoint::here("result.stored");
    reports.send(job.report(outcome), Confirm::Attempt(key));
    if let Some(used) = used {
        // Lets the report leave first.
        tokio::task::yield_now().await;
        bench.finish(used);
    }
}

/// Says that an attempt was stopped, however its task ends.
struct LastWord {
    events: mpsc::UnboundedSender<Event>,
    attempt: Option<OpenAttempt>,
}

impl Drop for LastWord {
    fn drop(&mut self) {
        if let Some(attempt) = self.attempt.take() {
            let _ = self.events.send(Event::Stopped(attempt));
        }
    }
}
