//! The leader's loop: take inputs, decide, commit, apply, perform. One turn is in flight; while it is under way the next one
//! fills. Runs on a thread of its own with its own connection. Whatever makes leading unsafe ends the loop; the committed fold
//! stays, and the coordinator follows the log again.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use causey_artifacts::{Store, failpoint};
use causey_engine::{Command, State};
use causey_protocol::codec;
use causey_protocol::id::{Digest, TaskKey};
use causey_protocol::input::Input;
use causey_protocol::record::{Position, Record, Turn};
use causey_protocol::share::Shares;
use causey_protocol::subject;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::committed::Role;
use crate::config::{INPUTS_READ_AHEAD, LEADERSHIP_RENEWAL, TURN_RECORDS_BYTES_MAX, TURN_RECORDS_MAX};
use crate::coordinator::{Coordinator, Error};
use crate::fold::Fold;
use crate::inbox;
use crate::log::{self, Tail};
use crate::outside::{Link, Outside, Raw};
use crate::perform::Performer;
use crate::publisher::{Answer, Publisher};
use crate::readers::Writable;
use crate::standby::sleep_until;
use crate::streams::Limits;
use crate::timetable::Timetable;
use crate::{recover, streams, takeover};

/// Name of the mark that the artifact store carries once a log belongs to it.
pub(crate) const LOG_MARK: &str = "log.json";

/// A turn that was sent and not answered.
struct InFlight {
    token: u64,
    turn: Turn,
    payload: Bytes,
    /// What the turn asks for, made ready while it is under way; performed only once it is committed.
    commands: Vec<Command>,
}

/// What the turn being filled holds so far.
#[derive(Default)]
struct Filling {
    records: Vec<Record>,
    bytes: usize,
    /// Highest generation of its records.
    generation: u32,
    inbox: u64,
    events: u64,
}

impl Filling {
    fn has_room(&self) -> bool {
        self.records.len() < TURN_RECORDS_MAX && self.bytes < TURN_RECORDS_BYTES_MAX
    }
}

struct Leader<'a, O: Outside> {
    outside: O,
    clock: Clock,
    fold: &'a mut Fold,
    working: State,
    filling: Filling,
    /// Inputs of a message that did not all fit the turn; its sequence is covered once they are decided.
    pending: VecDeque<Input>,
    pending_sequence: u64,
    in_flight: Option<InFlight>,
    performer: Performer<O>,
    writable: Writable,
    timetable: Timetable,
    /// Whether the turn waits for a coordinator that could not read it.
    held: bool,
}

/// Takes over and leads until shutdown; `lost` says that the leadership key is gone.
///
/// # Errors
/// [`Error`] says why leading is no longer safe. The fold is then at the last turn known to be committed; one that was in flight is
/// in the log or is not.
pub(crate) async fn lead<O: Outside>(this: &mut Coordinator<O>, lost: CancellationToken) -> Result<(), Error> {
    takeover::take_over(this, &lost).await?;
    let working = {
        let mut working = this.fold.committed.read().clone();
        working.forget_changes();
        working
    };
    let committed = this.fold.committed.clone();
    let publisher = Publisher::new(this.outside.line().await?);
    let filling = Filling { inbox: working.inbox, events: working.events, ..Filling::default() };
    let mut leader = Leader {
        outside: this.outside.clone(),
        clock: Clock::new(working.at),
        fold: &mut this.fold,
        working,
        filling,
        pending: VecDeque::new(),
        pending_sequence: 0,
        in_flight: None,
        performer: Performer::new(publisher, this.outside.clone(), this.store.clone(), committed, this.notice.clone()),
        writable: this.writable.clone(),
        timetable: Timetable::new(),
        held: false,
    };
    leader.start(&this.store, this.limits).await?;
    leader.begin(this.shares.clone()).await;
    leader.run(&mut this.link, &lost, &mut this.noticed, &this.shutdown).await
}

/// What a new leader does at once. A dispatch that a worker has begun is not offered again, although a queue in memory may have lost it with
/// its server: the sweep offers it, should nobody hold it.
fn outstanding(state: &State) -> Vec<Command> {
    let begun: BTreeSet<TaskKey> = causey_engine::queued(state).filter(|queued| queued.begun).map(|queued| queued.key).collect();
    let mut commands = causey_engine::outstanding(state);
    commands.retain(|command| !matches!(command, Command::Dispatch { key, .. } if begun.contains(key)));
    commands
}

impl<O: Outside> Leader<'_, O> {
    /// Performs what is outstanding and tells readers that there is a leader.
    async fn start(&mut self, store: &Store, limits: Limits) -> Result<(), Error> {
        let mark = serde_json::json!({"log": self.working.store});
        failpoint::here("mark.missing");
        store.put_if_absent(LOG_MARK, mark.to_string().into()).await.map_err(Error::Mark)?;
        let announced = self.working.announced;
        self.performer.read_announced(announced).await?;
        // Whoever announced this had read it in the log: a log that ends before it has lost its end.
        let seen = self.performer.announced().sequence;
        if seen > self.fold.tail.sequence {
            let found = recover::extent(&self.outside).await.map_err(Error::Streams)?.last;
            let stream = subject::LOG_STREAM;
            return Err(if seen > found {
                streams::Error::MovedBack { stream, found, seen }.into()
            } else {
                Error::Fenced { sequence: seen }
            });
        }
        self.outside.ensure_tasks(limits).await?;
        let outstanding = outstanding(&self.fold.committed.read());
        tracing::info!(epoch = self.working.epoch, sequence = self.fold.tail.sequence, outstanding = outstanding.len(), "leading");
        for command in outstanding {
            self.performer.perform(command).await;
            failpoint::here("takeover.performed");
        }
        self.fold.committed.set_role(Role::Leader);
        Ok(())
    }

    /// What is left of accepted inputs goes on before anything is taken, and this coordinator's configuration counts from here on.
    async fn begin(&mut self, shares: Shares) {
        self.take_pending();
        if self.working.shares != shares {
            self.pending.push_back(Input::SharesSet(Box::new(shares)));
            self.pending_sequence = self.filling.inbox;
            self.take_pending();
        }
        self.commit().await;
        self.take_pending();
    }

    async fn run(
        &mut self,
        link: &mut Link,
        lost: &CancellationToken,
        noticed: &mut mpsc::Receiver<Input>,
        shutdown: &CancellationToken,
    ) -> Result<(), Error> {
        let (inbox_sender, mut inbox) = mpsc::channel(INPUTS_READ_AHEAD);
        let (event_sender, mut events) = mpsc::channel(INPUTS_READ_AHEAD);
        tokio::spawn(inbox::read(self.outside.clone(), subject::INBOX_STREAM, self.working.inbox, inbox_sender));
        tokio::spawn(inbox::read(self.outside.clone(), subject::EVENT_STREAM, self.working.events, event_sender));
        let mut tick = tokio::time::interval(LEADERSHIP_RENEWAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let (room, timer, projection_due) = (self.has_room(), self.timer(), self.fold.due);
            let scheduled = self.scheduled();
            let takes_events = room && self.takes_events();
            tokio::select! {
                biased;
                // First, so that no load hides them.
                () = shutdown.cancelled() => return Ok(()),
                () = lost.cancelled() => return Err(Error::KeyLost),
                // Nothing in flight can be trusted to have arrived, the streams may have moved back, and another one may lead: the
                // log tells.
                () = link.interrupted() => return Err(Error::Disconnected),
                (token, answer) = self.performer.publisher.answer() => self.answered(token, answer).await?,
                Some(raw) = inbox.recv(), if room => self.take_inbox(&raw),
                Some(raw) = events.recv(), if takes_events => self.take_event(&raw),
                Some(input) = noticed.recv(), if room => self.take(input),
                () = sleep_until(timer), if room => self.take(Input::TimersDue),
                () = sleep_until(scheduled), if room => self.take_scheduled(),
                () = sleep_until(projection_due) => self.fold.follow(),
                () = self.writable.changed() => {}
                _ = tick.tick() => self.performer.publisher.send_again().await,
            }
            self.take_ready(&mut inbox, &mut events);
            self.commit().await;
            self.take_pending();
        }
    }

    /// Takes whatever has arrived: the inbox before the events.
    fn take_ready(&mut self, inbox: &mut mpsc::Receiver<Raw>, events: &mut mpsc::Receiver<Raw>) {
        while self.has_room() {
            if let Ok(raw) = inbox.try_recv() {
                self.take_inbox(&raw);
            } else if self.takes_events()
                && let Ok(raw) = events.try_recv()
            {
                self.take_event(&raw);
            } else {
                return;
            }
        }
    }

    fn take_inbox(&mut self, raw: &Raw) {
        self.pending.extend(inbox::decode_inbox(raw));
        self.pending_sequence = raw.sequence;
        self.take_pending();
    }

    /// While no runs are accepted events wait in their stream: they would start some.
    fn takes_events(&self) -> bool {
        self.working.refuses_runs().is_none()
    }

    /// Whether the turn takes another message: not before all that has been accepted is decided.
    fn has_room(&mut self) -> bool {
        self.pending.is_empty() && self.filling.has_room() && !self.working.has_work()
    }

    /// Takes what is left of accepted inputs and of a message, as far as the turn has room. Should this process die in between, work
    /// lists are in the state; the message is read again, and what was decided of it is ignored as late.
    fn take_pending(&mut self) {
        while self.filling.has_room() {
            if self.working.has_work() {
                self.take(Input::Continue);
                continue;
            }
            let Some(input) = self.pending.pop_front() else { return };
            self.take(input);
            if self.pending.is_empty() {
                self.filling.inbox = self.pending_sequence;
            }
        }
    }

    /// Takes the firings that have come and the next instants of backfills.
    fn take_scheduled(&mut self) {
        self.pending.extend(self.timetable.due(&self.working, self.outside.now()));
        self.pending_sequence = self.filling.inbox;
        self.take_pending();
    }

    fn take_event(&mut self, raw: &Raw) {
        self.take(inbox::decode_event(raw));
        self.filling.events = raw.sequence;
    }

    fn take(&mut self, input: Input) {
        if self.filling.records.is_empty() {
            self.working.open_turn(self.clock.now(self.outside.now()));
        }
        let records = causey_engine::decide(&mut self.working, input);
        for record in &records {
            if let Record::DeadLettered(letter) = record {
                tracing::warn!(because = letter.because, "something is given up on; see causey dead-letters");
                metrics::counter!("causey_dead_letters_total").increment(1);
            }
            if let Record::Ignored { because } = record {
                tracing::debug!(because, "input ignored");
                metrics::counter!("causey_inputs_ignored_total").increment(1);
            }
            self.timetable.note(record);
            self.filling.bytes += codec::encode(record).len();
            self.filling.generation = self.filling.generation.max(record.generation());
        }
        metrics::counter!("causey_inputs_total").increment(1);
        self.filling.records.extend(records);
    }

    /// Whether all living coordinators could read the turn. One that they could not waits until the last of them is replaced.
    fn is_readable(&mut self) -> bool {
        let writes = self.writable.now();
        let held = self.filling.generation > writes.generation;
        if held && !self.held {
            let reader = writes.reader.unwrap_or_default();
            tracing::warn!(
                "a turn has records of generation {}, and coordinator `{reader}` reads up to {}: nothing is decided until it is upgraded or stopped",
                self.filling.generation,
                writes.generation
            );
        }
        self.held = held;
        !held
    }

    /// Sends the filled turn if none is in flight.
    async fn commit(&mut self) {
        if self.in_flight.is_some() || self.filling.records.is_empty() || !self.is_readable() {
            return;
        }
        let announced = self.performer.announced();
        let Filling { records, inbox, events, .. } = std::mem::take(&mut self.filling);
        self.filling = Filling { inbox, events, ..Filling::default() };
        self.working.cover(inbox, events, announced);
        self.working.forget_changes();
        let turn =
            Turn { epoch: self.working.epoch, at: self.working.at, inbox, events, announced, previous: self.fold.tail.hash, records };
        let payload = Bytes::from(codec::encode(&turn));
        failpoint::here("turn.decided");
        let token = self.performer.commit(subject::LOG_TURN, self.fold.tail.sequence, payload.clone()).await;
        // Lets the connection send it before anything else is done.
        tokio::task::yield_now().await;
        failpoint::here("turn.sent");
        let sequence = self.fold.tail.sequence + 1;
        // Nothing of a later turn is in the working state yet.
        let command = |(index, record)| causey_engine::commands(&self.working, Position { sequence, index }, record);
        let commands = (0..).zip(&turn.records).filter_map(command).collect();
        self.in_flight = Some(InFlight { token, turn, payload, commands });
    }

    async fn answered(&mut self, token: u64, answer: Answer) -> Result<(), Error> {
        let Some(answer) = self.performer.answered(token, answer).await else { return Ok(()) };
        let Some(in_flight) = self.in_flight.take_if(|in_flight| in_flight.token == token) else { return Ok(()) };
        let expected = self.fold.tail.sequence + 1;
        match answer {
            Answer::Stored { sequence } if sequence == expected => self.committed(in_flight).await,
            Answer::Stored { sequence } => return Err(Error::Fenced { sequence }),
            Answer::WrongLast => {
                // Our own earlier copy of this very message, or another leader's?
                if log::message_at(&self.outside, expected).await? != in_flight.payload {
                    return Err(Error::Fenced { sequence: expected });
                }
                self.committed(in_flight).await;
            }
            Answer::Refused { code, text } => {
                tracing::warn!(code, text, "the log refuses a turn; trying again");
                self.in_flight = Some(in_flight);
            }
        }
        Ok(())
    }

    /// The turn holds: readers may see it, and what it asks for is performed.
    async fn committed(&mut self, in_flight: InFlight) {
        failpoint::here("turn.committed");
        let InFlight { turn, payload, commands, .. } = in_flight;
        let sequence = self.fold.tail.sequence + 1;
        self.fold.apply(Tail { sequence, hash: Digest::of(&payload) }, &turn);
        failpoint::here("turn.applied");
        metrics::counter!("causey_turns_total").increment(1);
        metrics::counter!("causey_records_total").increment(turn.records.len() as u64);
        for command in commands {
            self.performer.perform(command).await;
            failpoint::here("command.performed");
        }
        self.fold.announce();
    }

    /// When the next timer of the working state is due.
    fn timer(&mut self) -> Option<Instant> {
        let due = self.working.next_timer()?;
        // A turn has one time: what comes due after it has been opened waits for the next, however long that takes.
        let opened = !self.filling.records.is_empty() && due > self.working.at;
        (!opened).then(|| self.clock.until(due, self.outside.now()))
    }

    /// When the next firing of a schedule comes; like events, they wait while room is scarce. Asked for again with every tick, so that a
    /// wall clock that is set is followed.
    fn scheduled(&mut self) -> Option<Instant> {
        let due = self.timetable.next(&self.working).filter(|_| self.takes_events())?;
        Some(Instant::now() + Duration::from_micros(due.micros_since(self.outside.now())))
    }
}
