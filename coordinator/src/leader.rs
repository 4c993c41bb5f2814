//! The leader's loop: take inputs, decide, commit, apply, perform. One turn is in flight; while it is under way the next one
//! fills. Runs on a thread of its own with its own connection.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_nats::jetstream::Context;
use bytes::Bytes;
use causey_artifacts::Store;
use causey_engine::{Command, State};
use causey_protocol::codec;
use causey_protocol::id::{Digest, Timestamp};
use causey_protocol::input::Input;
use causey_protocol::record::{Position, Record, Turn};
use causey_protocol::subject;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::broker::Broker;
use crate::committed::{Committed, Progress};
use crate::config::{
    INPUTS_READ_AHEAD, LEADERSHIP_RENEWAL, PROJECTION_CHANGES_MAX, PROJECTION_LAG, TURN_RECORDS_BYTES_MAX, TURN_RECORDS_MAX,
};
use crate::inbox::{self, Raw};
use crate::leadership::{self, Holder, Leadership};
use crate::log::{self, Tail};
use crate::perform::Performer;
use crate::projection::{Checkpoint, Projection};
use crate::publisher::{Answer, Publisher};
use crate::streams::{self, Tails};

/// Name of the mark that the artifact store carries once a log belongs to it.
pub(crate) const LOG_MARK: &str = "log.json";

/// Why this process cannot lead, or must not go on leading.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Streams(#[from] streams::Error),
    #[error(transparent)]
    Log(#[from] log::Error),
    #[error(transparent)]
    Leadership(#[from] leadership::Error),
    #[error("the broker connection is closed: {0}")]
    Broker(String),
    #[error("another coordinator took over at log sequence {sequence}; this one has stopped without writing")]
    Fenced { sequence: u64 },
    #[error(
        "the log belongs to artifact store {expected}, but the configured store is {found}\nhint: start with the store that was used before"
    )]
    WrongStore { expected: uuid::Uuid, found: uuid::Uuid },
    #[error("failed to mark the artifact store: {0}")]
    Mark(#[source] causey_artifacts::StoreError),
}

/// What the leader works with.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) broker: Broker,
    pub(crate) committed: Arc<Committed>,
    pub(crate) store: Arc<Store>,
    pub(crate) projection: Projection,
    pub(crate) tail: Tail,
    pub(crate) holder: Holder,
    pub(crate) shutdown: CancellationToken,
}

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
    inbox: u64,
    events: u64,
}

impl Filling {
    fn has_room(&self) -> bool {
        self.records.len() < TURN_RECORDS_MAX && self.bytes < TURN_RECORDS_BYTES_MAX
    }
}

struct Leader {
    context: Context,
    committed: Arc<Committed>,
    working: State,
    tail: Tail,
    filling: Filling,
    /// Inputs of a message that did not all fit the turn; its sequence is covered once they are decided.
    pending: VecDeque<Input>,
    pending_sequence: u64,
    in_flight: Option<InFlight>,
    performer: Performer,
    projection: Projection,
    projection_due: Option<Instant>,
}

/// The wall clock.
fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

/// Waits for the leadership, catches up and leads until `shutdown` or until leading is no longer safe.
///
/// # Errors
/// [`Error`] says why; whatever was accepted is in the streams, and another coordinator may go on.
pub(crate) async fn lead(setup: Setup) -> Result<(), Error> {
    let context = async_nats::jetstream::new(setup.broker.client.clone());
    let shutdown = setup.shutdown.clone();
    let leadership = tokio::select! {
        leadership = leadership::acquire(&context, &setup.holder) => leadership?,
        () = shutdown.cancelled() => return Ok(()),
    };
    let result = take_over(&setup.holder.name.clone(), context, setup, leadership.clone()).await;
    if result.is_ok() {
        leadership.release().await;
    }
    result
}

async fn take_over(name: &str, context: Context, setup: Setup, leadership: Leadership) -> Result<(), Error> {
    let Setup { broker, committed, store, projection, tail, shutdown, .. } = setup;
    let tail = catch_up(&context, &committed, tail).await?;
    check_store(&committed, &store)?;
    let tail = fence(name, &context, &committed, &store, tail).await?;
    let working = {
        let mut working = committed.read().clone();
        working.forget_changes();
        working
    };
    let publisher = Publisher::new(broker.client.clone()).await.map_err(|error| Error::Broker(error.to_string()))?;
    let (stored_sender, stored) = mpsc::channel(INPUTS_READ_AHEAD);
    let performer = Performer::new(publisher, broker.client.clone(), context.clone(), store.clone(), stored_sender);
    let filling = Filling { inbox: working.inbox, events: working.events, ..Filling::default() };
    let mut leader = Leader {
        context,
        committed,
        working,
        tail,
        filling,
        pending: VecDeque::new(),
        pending_sequence: 0,
        in_flight: None,
        performer,
        projection,
        projection_due: None,
    };
    leader.start(&store).await?;
    let result = leader.run(&broker, leadership, stored, &shutdown).await;
    leader.committed.announce(Progress { leading: false, ..leader.progress() });
    leader.checkpoint();
    leader.projection.close();
    result
}

/// Folds what the log holds behind the projection into the committed state.
async fn catch_up(context: &Context, committed: &Committed, tail: Tail) -> Result<Tail, Error> {
    let seen = {
        let state = committed.read();
        Tails { inbox: state.inbox, events: state.events, log: tail.sequence, notify: 0 }
    };
    let tails = streams::verify(context, seen).await?;
    if tail.sequence > 0 {
        let found = Digest::of(&log::message_at(context, tail.sequence).await?);
        if found != tail.hash {
            return Err(log::Error::BrokenChain { sequence: tail.sequence, expected: tail.hash, found }.into());
        }
    }
    let tail = log::replay(context, tail, tails.log, |read| committed.write().apply_turn(read.tail.sequence, &read.turn)).await?;
    // The watermarks may have moved past what the projection knew.
    let seen = {
        let state = committed.read();
        Tails { inbox: state.inbox, events: state.events, log: tail.sequence, notify: 0 }
    };
    streams::verify(context, seen).await?;
    Ok(tail)
}

fn check_store(committed: &Committed, store: &Store) -> Result<(), Error> {
    match committed.read().store {
        Some(expected) if expected != store.id() => Err(Error::WrongStore { expected, found: store.id() }),
        _ => Ok(()),
    }
}

/// Appends the first turn of a new epoch: from here on nothing of an older leader can be written.
async fn fence(name: &str, context: &Context, committed: &Committed, store: &Store, tail: Tail) -> Result<Tail, Error> {
    let mut records = vec![Record::LeaderChanged { leader: name.into() }];
    let (payload, turn) = {
        let state = committed.read();
        if tail.sequence == 0 {
            records.insert(0, Record::LogOpened { store: store.id() });
        }
        let turn = Turn {
            epoch: state.epoch + 1,
            at: now().max(state.at),
            inbox: state.inbox,
            events: state.events,
            announced: state.announced,
            previous: tail.hash,
            records,
        };
        (Bytes::from(codec::encode(&turn)), turn)
    };
    let sequence = tail.sequence + 1;
    let headers = {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert(async_nats::header::NATS_EXPECTED_LAST_SEQUENCE, tail.sequence.to_string());
        headers
    };
    let sent = async { context.publish_with_headers(subject::LOG_FENCE, headers, payload.clone()).await?.await }.await;
    if let Err(error) = sent {
        // Unknown or refused: what stands at this sequence decides.
        let found = log::message_at(context, sequence).await.map_err(|_| Error::Broker(error.to_string()))?;
        if found != payload {
            return Err(Error::Fenced { sequence });
        }
    }
    committed.write().apply_turn(sequence, &turn);
    Ok(Tail { sequence, hash: Digest::of(&payload) })
}

impl Leader {
    /// Performs what is outstanding and tells readers that there is a leader.
    async fn start(&mut self, store: &Store) -> Result<(), Error> {
        let mark = serde_json::json!({"log": self.working.store});
        store.put_if_absent(LOG_MARK, mark.to_string().into()).await.map_err(Error::Mark)?;
        let announced = self.working.announced;
        self.performer.read_announced(announced).await.map_err(|error| Error::Broker(error.to_string()))?;
        let outstanding = causey_engine::outstanding(&self.committed.read());
        tracing::info!(epoch = self.working.epoch, sequence = self.tail.sequence, outstanding = outstanding.len(), "leading");
        for command in outstanding {
            self.performer.perform(command).await;
        }
        self.committed.announce(self.progress());
        self.projection_due = Some(Instant::now() + PROJECTION_LAG);
        Ok(())
    }

    fn progress(&self) -> Progress {
        let state = self.committed.read();
        Progress { sequence: state.sequence, inbox: state.inbox, events: state.events, leading: true }
    }

    async fn run(
        &mut self,
        broker: &Broker,
        leadership: Leadership,
        mut stored: mpsc::Receiver<Digest>,
        shutdown: &CancellationToken,
    ) -> Result<(), Error> {
        let mut connected = broker.connected.clone();
        connected.mark_unchanged();
        let (inbox_sender, mut inbox) = mpsc::channel(INPUTS_READ_AHEAD);
        let (event_sender, mut events) = mpsc::channel(INPUTS_READ_AHEAD);
        let (context, watch) = (&self.context, &broker.connected);
        tokio::spawn(inbox::read(context.clone(), subject::INBOX_STREAM, self.working.inbox, inbox_sender, watch.clone()));
        tokio::spawn(inbox::read(context.clone(), subject::EVENT_STREAM, self.working.events, event_sender, watch.clone()));
        let deposed = keep(leadership, shutdown.clone());
        let mut tick = tokio::time::interval(LEADERSHIP_RENEWAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let (room, timer, projection_due) = (self.has_room(), self.timer(), self.projection_due);
            tokio::select! {
                biased;
                (token, answer) = self.performer.publisher.answer() => self.answered(token, answer).await?,
                Some(raw) = inbox.recv(), if room => self.take_inbox(&raw),
                Some(raw) = events.recv(), if room => self.take_event(&raw),
                Some(digest) = stored.recv(), if room => self.take(Input::BlobStored { digest }),
                () = sleep_until(timer), if room => self.take(Input::TimersDue),
                () = sleep_until(projection_due) => self.checkpoint(),
                changed = connected.changed() => {
                    changed.map_err(|_| Error::Broker("NATS client ended".into()))?;
                    self.reconnected().await?;
                }
                _ = tick.tick() => self.performer.publisher.send_again(false).await,
                () = deposed.cancelled() => return self.deposed(),
                () = shutdown.cancelled() => return Ok(()),
            }
            self.take_ready(&mut inbox, &mut events);
            self.commit().await;
            self.take_pending();
        }
    }

    /// Another coordinator holds the key; the fence keeps us out at the next write anyway.
    fn deposed(&self) -> Result<(), Error> {
        Err(Error::Fenced { sequence: self.tail.sequence + 1 })
    }

    /// Takes whatever has arrived: the inbox before the events.
    fn take_ready(&mut self, inbox: &mut mpsc::Receiver<Raw>, events: &mut mpsc::Receiver<Raw>) {
        while self.has_room() {
            if let Ok(raw) = inbox.try_recv() {
                self.take_inbox(&raw);
            } else if let Ok(raw) = events.try_recv() {
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

    /// Whether the turn takes another message.
    fn has_room(&self) -> bool {
        self.pending.is_empty() && self.filling.has_room()
    }

    /// Takes what is left of a message, as far as the turn has room. Should this process die in between, the message is read again,
    /// and what was decided of it is ignored as late.
    fn take_pending(&mut self) {
        while self.filling.has_room() {
            let Some(input) = self.pending.pop_front() else { return };
            self.take(input);
            if self.pending.is_empty() {
                self.filling.inbox = self.pending_sequence;
            }
        }
    }

    fn take_event(&mut self, raw: &Raw) {
        self.take(inbox::decode_event(raw));
        self.filling.events = raw.sequence;
    }

    fn take(&mut self, input: Input) {
        if self.filling.records.is_empty() {
            self.working.open_turn(now());
        }
        let records = causey_engine::decide(&mut self.working, input);
        for record in &records {
            if let Record::Ignored { because } = record {
                tracing::debug!(because, "input ignored");
                metrics::counter!("causey_inputs_ignored_total").increment(1);
            }
            self.filling.bytes += codec::encode(record).len();
        }
        metrics::counter!("causey_inputs_total").increment(1);
        self.filling.records.extend(records);
    }

    /// Sends the filled turn if none is in flight.
    async fn commit(&mut self) {
        if self.in_flight.is_some() || self.filling.records.is_empty() {
            return;
        }
        let announced = self.performer.announced();
        let Filling { records, inbox, events, .. } = std::mem::take(&mut self.filling);
        self.filling = Filling { inbox, events, ..Filling::default() };
        self.working.cover(inbox, events, announced);
        self.working.forget_changes();
        let turn = Turn { epoch: self.working.epoch, at: self.working.at, inbox, events, announced, previous: self.tail.hash, records };
        let payload = Bytes::from(codec::encode(&turn));
        let token = self.performer.commit(subject::LOG_TURN, self.tail.sequence, payload.clone()).await;
        // Lets the connection send it before anything else is done.
        tokio::task::yield_now().await;
        let position = |index: usize| Position { sequence: self.tail.sequence + 1, index: u32::try_from(index).unwrap_or(u32::MAX) };
        // Nothing of a later turn is in the working state yet.
        let commands =
            (0..).zip(&turn.records).filter_map(|(index, record)| causey_engine::commands(&self.working, position(index), record));
        let commands = commands.collect();
        self.in_flight = Some(InFlight { token, turn, payload, commands });
    }

    async fn answered(&mut self, token: u64, answer: Answer) -> Result<(), Error> {
        let Some(answer) = self.performer.answered(token, answer).await else { return Ok(()) };
        let Some(in_flight) = self.in_flight.take_if(|in_flight| in_flight.token == token) else { return Ok(()) };
        let expected = self.tail.sequence + 1;
        match answer {
            Answer::Stored { sequence } if sequence == expected => self.committed(in_flight).await,
            Answer::Stored { sequence } => return Err(Error::Fenced { sequence }),
            Answer::WrongLast => {
                // Our own earlier copy of this very message, or another leader's?
                if log::message_at(&self.context, expected).await? != in_flight.payload {
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
        let InFlight { turn, payload, commands, .. } = in_flight;
        self.tail = Tail { sequence: self.tail.sequence + 1, hash: Digest::of(&payload) };
        let (progress, changes) = {
            let mut state = self.committed.write();
            state.apply_turn(self.tail.sequence, &turn);
            (Progress { sequence: state.sequence, inbox: state.inbox, events: state.events, leading: true }, state.changes_len())
        };
        metrics::counter!("causey_turns_total").increment(1);
        metrics::counter!("causey_records_total").increment(turn.records.len() as u64);
        for command in commands {
            self.performer.perform(command).await;
        }
        self.committed.announce(progress);
        if changes >= PROJECTION_CHANGES_MAX {
            self.checkpoint();
        } else {
            self.projection_due.get_or_insert_with(|| Instant::now() + PROJECTION_LAG);
        }
    }

    /// Hands the projection what changed since it was last told.
    fn checkpoint(&mut self) {
        self.projection_due = None;
        let (header, changes) = {
            let mut state = self.committed.write();
            (state.header(), state.take_changes())
        };
        self.projection.store(Checkpoint { tail: self.tail, header, changes });
    }

    /// After a reconnect nothing in flight can be trusted to have arrived, and the streams may have moved back.
    async fn reconnected(&mut self) -> Result<(), Error> {
        let seen = Tails { inbox: self.filling.inbox, events: self.filling.events, log: self.tail.sequence, notify: 0 };
        let mut delays = causey_protocol::backoff::Delays::new(Duration::from_millis(10), Duration::from_secs(1));
        loop {
            match streams::verify(&self.context, seen).await {
                Ok(_) => break,
                Err(streams::Error::Look { stream, reason }) => {
                    tracing::warn!(stream, reason, "the streams cannot be checked after a reconnect; trying again");
                    tokio::time::sleep(delays.next_delay()).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.performer.publisher.send_again(true).await;
        Ok(())
    }

    /// When the next timer of the working state is due.
    fn timer(&self) -> Option<Instant> {
        let due = self.working.next_timer()?;
        Some(Instant::now() + Duration::from_micros(due.micros_since(now())))
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// Renews the key in the background; the returned token is cancelled when somebody else holds it.
fn keep(mut leadership: Leadership, shutdown: CancellationToken) -> CancellationToken {
    let deposed = CancellationToken::new();
    let signal = deposed.clone();
    tokio::spawn(async move {
        let mut tick = tokio::time::interval(LEADERSHIP_RENEWAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => if !leadership.renew().await { return signal.cancel() },
                () = shutdown.cancelled() => return,
            }
        }
    });
    deposed
}
