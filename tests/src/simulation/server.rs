//! A NATS server with JetStream as it can be at its worst, in memory and without time of its own: whoever calls it says what time it
//! is, and carries the letters it writes. It keeps what it has acknowledged, and nothing else can be relied upon: acks go to sequences
//! and not to deliveries, consumers forget, keys expire, who does not listen misses.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use causey_coordinator::config::LEADERSHIP_TTL;
use causey_coordinator::outside::{Entry, Expect, KeyError, Look, Message, Purge, Raw};
use causey_coordinator::publisher::Answer;
use causey_protocol::subject::{EVENT_STREAM, INBOX_STREAM, LOG_STREAM, NOTIFY_STREAM, TASK_STREAM};
use serde_json::Value;
use tokio::time::Instant;

use super::mailbox::Mailbox;

/// Status codes.
const TIMEOUT: u16 = 408;
const NO_RESPONDERS: u16 = 503;

/// What arrives at somebody who listens.
#[derive(Clone, Debug, Default)]
pub(crate) struct Letter {
    pub(crate) subject: String,
    pub(crate) reply: Option<String>,
    pub(crate) payload: Bytes,
    pub(crate) status: Option<u16>,
    pub(crate) unfilled: Option<u32>,
}

/// A letter and who gets it.
pub(crate) type Delivery = (Arc<Mailbox<Letter>>, Letter);

#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) created: u64,
    first: u64,
    pub(crate) last: u64,
    pub(crate) messages: BTreeMap<u64, Raw>,
}

#[derive(Debug)]
struct Subscription {
    process: u64,
    pattern: String,
    mailbox: Arc<Mailbox<Letter>>,
}

#[derive(Debug)]
struct Reading {
    process: u64,
    stream: &'static str,
    mailbox: Arc<Mailbox<Raw>>,
}

#[derive(Debug)]
struct Watching {
    process: u64,
    pattern: String,
    mailbox: Arc<Mailbox<Entry>>,
}

#[derive(Debug)]
struct Pull {
    inbox: String,
    left: u32,
    expires: Instant,
}

/// The consumer of a pool's queue.
#[derive(Debug)]
struct Queue {
    ack_wait: Duration,
    /// Until when a delivered message is somebody's.
    pending: BTreeMap<u64, Instant>,
    delivered: BTreeMap<u64, u64>,
    pulls: VecDeque<Pull>,
}

#[derive(Debug)]
struct Key {
    value: Option<Bytes>,
    revision: u64,
    expires: Instant,
}

#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) up: bool,
    pub(crate) streams: BTreeMap<&'static str, Stream>,
    queues: BTreeMap<String, Queue>,
    keys: BTreeMap<String, Key>,
    revision: u64,
    subscriptions: Vec<Subscription>,
    readings: Vec<Reading>,
    watches: Vec<Watching>,
    /// Where the sequences of the next task queue begin.
    tasks_begin: u64,
    /// Tasks acknowledged lately: what a crash may bring back.
    acknowledged: Vec<(Instant, Raw)>,
    /// Letters written and not carried yet.
    pub(crate) letters: Vec<Delivery>,
    pub(crate) read: Vec<(Arc<Mailbox<Raw>>, Raw)>,
    pub(crate) changes: Vec<(Arc<Mailbox<Entry>>, Entry)>,
}

/// Whether a subject matches a pattern with `*` and `>`.
fn matches(pattern: &str, subject: &str) -> bool {
    let mut tokens = subject.split('.');
    for wanted in pattern.split('.') {
        match (wanted, tokens.next()) {
            (">", Some(_)) => return true,
            ("*", Some(_)) => {}
            (wanted, Some(token)) if wanted == token => {}
            _ => return false,
        }
    }
    tokens.next().is_none()
}

/// The stream that takes a subject.
fn stream_of(subject: &str) -> Option<&'static str> {
    let prefixes =
        [("causey.in.", INBOX_STREAM), ("causey.event.", EVENT_STREAM), ("causey.task.", TASK_STREAM), ("causey.notify.", NOTIFY_STREAM)];
    let found = prefixes.iter().find(|(prefix, _)| subject.starts_with(prefix)).map(|(_, stream)| *stream);
    found.or_else(|| (subject == "causey.log" || subject.starts_with("causey.log.")).then_some(LOG_STREAM))
}

impl Server {
    pub(crate) fn new(created: u64) -> Self {
        let stream = |name| (name, Stream { created, first: 0, last: 0, messages: BTreeMap::new() });
        Self {
            up: true,
            streams: [INBOX_STREAM, EVENT_STREAM, LOG_STREAM, NOTIFY_STREAM].map(stream).into(),
            queues: BTreeMap::new(),
            keys: BTreeMap::new(),
            revision: 0,
            subscriptions: Vec::new(),
            readings: Vec::new(),
            watches: Vec::new(),
            tasks_begin: 1_000,
            acknowledged: Vec::new(),
            letters: Vec::new(),
            read: Vec::new(),
            changes: Vec::new(),
        }
    }

    /// The task queue, which alone may be missing.
    fn tasks(&mut self) -> Option<&mut Stream> {
        self.streams.get_mut(TASK_STREAM)
    }

    /// Makes the task queue, unless it is there. No sequence that it has ever had comes again.
    pub(crate) fn ensure_tasks(&mut self) {
        let begin = self.tasks_begin;
        let stream = || Stream { created: begin, first: begin, last: begin - 1, messages: BTreeMap::new() };
        self.streams.entry(TASK_STREAM).or_insert_with(stream);
    }

    pub(crate) fn look(&self, name: &'static str) -> Option<Look> {
        let stream = self.streams.get(name)?;
        Some(Look { first: stream.first, last: stream.last, created: stream.created, bytes: 0, bytes_max: 0 })
    }

    pub(crate) fn message(&self, name: &'static str, sequence: u64) -> Option<Raw> {
        self.streams[name].messages.get(&sequence).cloned()
    }

    /// Stores a message if what it expects is so.
    pub(crate) fn store(&mut self, message: &Message, now: Instant) -> Answer {
        let Some(name) = stream_of(&message.subject) else {
            return Answer::Refused { code: 10_000, text: "no stream takes this subject".into() };
        };
        let Some(stream) = self.streams.get_mut(name) else {
            return Answer::Refused { code: u64::from(NO_RESPONDERS), text: "the stream is gone".into() };
        };
        let as_expected = match message.expect {
            Expect::Nothing => true,
            Expect::End(sequence) => stream.last == sequence,
            Expect::NoneOnSubject => !stream.messages.values().any(|stored| stored.subject == message.subject),
        };
        if !as_expected {
            return Answer::WrongLast;
        }
        stream.last += 1;
        let sequence = stream.last;
        stream.first = stream.messages.first_key_value().map_or(sequence, |(first, _)| *first);
        let headers = message.headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone())).collect();
        let raw = Raw { sequence, subject: message.subject.clone(), headers, payload: message.payload.clone() };
        stream.messages.insert(sequence, raw.clone());
        for reading in self.readings.iter().filter(|reading| reading.stream == name) {
            self.read.push((reading.mailbox.clone(), raw.clone()));
        }
        if name == TASK_STREAM {
            self.deliver(now);
        }
        Answer::Stored { sequence }
    }

    pub(crate) fn subjects(&self, name: &'static str) -> Option<BTreeSet<String>> {
        Some(self.streams.get(name)?.messages.values().map(|message| message.subject.clone()).collect())
    }

    /// Some tasks are no longer there, and nobody has acknowledged them.
    pub(crate) fn lose_tasks(&mut self, mut loses: impl FnMut() -> bool) {
        if let Some(tasks) = self.tasks() {
            tasks.messages.retain(|_, _| !loses());
        }
        self.forget_missing();
    }

    pub(crate) fn purge(&mut self, name: &'static str, what: &Purge) -> Option<u64> {
        let stream = self.streams.get_mut(name)?;
        let before = stream.messages.len();
        match what {
            Purge::To(sequence) => stream.messages = stream.messages.split_off(&(sequence + 1)),
            Purge::Subject(filter) => stream.messages.retain(|_, message| !matches(filter, &message.subject)),
        }
        stream.first = stream.messages.first_key_value().map_or(stream.last + 1, |(first, _)| *first);
        let purged = before - stream.messages.len();
        if name == TASK_STREAM {
            self.forget_missing();
        }
        Some(purged as u64)
    }

    pub(crate) fn open(&mut self, process: u64, stream: &'static str, after: u64) -> Arc<Mailbox<Raw>> {
        let mailbox = Arc::new(Mailbox::default());
        for raw in self.streams[stream].messages.range(after + 1..).map(|(_, raw)| raw.clone()) {
            self.read.push((mailbox.clone(), raw));
        }
        self.readings.push(Reading { process, stream, mailbox: mailbox.clone() });
        mailbox
    }

    pub(crate) fn listen(&mut self, process: u64, pattern: &str) -> Arc<Mailbox<Letter>> {
        let mailbox = Arc::new(Mailbox::default());
        self.subscriptions.push(Subscription { process, pattern: pattern.to_owned(), mailbox: mailbox.clone() });
        mailbox
    }

    /// A client that has lost its connection subscribes again, under the same pattern.
    pub(crate) fn leave(&mut self, mailbox: &Arc<Mailbox<Letter>>) {
        self.subscriptions.retain(|subscription| !Arc::ptr_eq(&subscription.mailbox, mailbox));
    }

    /// Makes a pool's consumer, unless it is there; `None` without the task queue.
    pub(crate) fn ensure_queue(&mut self, pool: &str, ack_wait: Duration, now: Instant) -> Option<()> {
        self.tasks()?;
        let queue = || Queue { ack_wait, pending: BTreeMap::new(), delivered: BTreeMap::new(), pulls: VecDeque::new() };
        self.queues.entry(pool.to_owned()).or_insert_with(queue);
        self.deliver(now);
        Some(())
    }

    /// Takes what a client says: an ack, a pull request, a key, or words for whoever listens. `false` when nobody takes it.
    pub(crate) fn say(&mut self, subject: &str, reply: Option<&str>, payload: &Bytes, now: Instant) -> bool {
        if let Some(ack) = subject.strip_prefix("$JS.ACK.CAUSEY_TASK.") {
            self.acknowledge(ack, payload, now);
            if let Some(reply) = reply {
                self.tell(&Letter { subject: reply.to_owned(), ..Letter::default() });
            }
            return true;
        }
        if let (Some(pool), Some(inbox)) = (subject.strip_prefix("$JS.API.CONSUMER.MSG.NEXT.CAUSEY_TASK."), reply) {
            self.pull(pool, inbox, payload, now);
            return true;
        }
        self.tell(&Letter { subject: subject.to_owned(), reply: reply.map(str::to_owned), payload: payload.clone(), ..Letter::default() })
    }

    fn tell(&mut self, letter: &Letter) -> bool {
        let listening = self.subscriptions.iter().filter(|subscription| matches(&subscription.pattern, &letter.subject));
        let mailboxes: Vec<_> = listening.map(|subscription| subscription.mailbox.clone()).collect();
        let heard = !mailboxes.is_empty();
        self.letters.extend(mailboxes.into_iter().map(|mailbox| (mailbox, letter.clone())));
        heard
    }

    fn pull(&mut self, pool: &str, inbox: &str, payload: &[u8], now: Instant) {
        let asked: Value = serde_json::from_slice(payload).unwrap_or_default();
        let (batch, expires) = (asked["batch"].as_u64().unwrap_or(1), asked["expires"].as_u64().unwrap_or(0));
        let Some(queue) = self.queues.get_mut(pool) else {
            self.tell(&Letter { subject: inbox.to_owned(), status: Some(NO_RESPONDERS), ..Letter::default() });
            return;
        };
        let left = u32::try_from(batch).unwrap_or(u32::MAX);
        queue.pulls.push_back(Pull { inbox: inbox.to_owned(), left, expires: now + Duration::from_nanos(expires) });
        self.deliver(now);
    }

    /// The rest of an ack's subject is `<pool>.<delivered>.<sequence>.…`. It names no delivery: whoever has ever had the message acts on it.
    fn acknowledge(&mut self, ack: &str, payload: &[u8], now: Instant) {
        let mut tokens = ack.split('.');
        let (Some(pool), Some(sequence)) = (tokens.next(), tokens.nth(1).and_then(|token| token.parse::<u64>().ok())) else { return };
        let Some(queue) = self.queues.get_mut(pool) else { return };
        if payload.starts_with(b"+WPI") {
            let until = now + queue.ack_wait;
            queue.pending.entry(sequence).and_modify(|lapses| *lapses = until);
        } else if payload.starts_with(b"-NAK") {
            queue.pending.entry(sequence).and_modify(|lapses| *lapses = now + Duration::from_secs(5));
        } else {
            queue.pending.remove(&sequence);
            queue.delivered.remove(&sequence);
            if let Some(raw) = self.tasks().and_then(|tasks| tasks.messages.remove(&sequence)) {
                self.acknowledged.push((now, raw));
            }
        }
    }

    fn forget_missing(&mut self) {
        let there: BTreeSet<u64> = self.tasks().map(|tasks| tasks.messages.keys().copied().collect()).unwrap_or_default();
        for queue in self.queues.values_mut() {
            queue.pending.retain(|sequence, _| there.contains(sequence));
            queue.delivered.retain(|sequence, _| there.contains(sequence));
        }
    }

    /// Gives what is queued to whoever asks.
    fn deliver(&mut self, now: Instant) {
        let mut letters = Vec::new();
        let Some(tasks) = self.streams.get(TASK_STREAM) else { return };
        for (pool, queue) in &mut self.queues {
            let filter = format!("causey.task.{pool}.>");
            for (sequence, raw) in &tasks.messages {
                if !matches(&filter, &raw.subject) || queue.pending.contains_key(sequence) {
                    continue;
                }
                let Some(pull) = queue.pulls.front_mut() else { break };
                pull.left -= 1;
                let inbox = pull.inbox.clone();
                if pull.left == 0 {
                    queue.pulls.pop_front();
                }
                let count = queue.delivered.entry(*sequence).or_default();
                *count += 1;
                queue.pending.insert(*sequence, now + queue.ack_wait);
                let reply = format!("$JS.ACK.CAUSEY_TASK.{pool}.{count}.{sequence}.{sequence}.0.0");
                letters.push((
                    inbox,
                    Letter { subject: raw.subject.clone(), reply: Some(reply), payload: raw.payload.clone(), ..Letter::default() },
                ));
            }
        }
        for (inbox, letter) in letters {
            let listening = self.subscriptions.iter().filter(|subscription| subscription.pattern == inbox);
            self.letters.extend(listening.map(|subscription| (subscription.mailbox.clone(), letter.clone())).collect::<Vec<_>>());
        }
    }

    /// What happens by itself: pull requests end, deliveries lapse, keys expire.
    pub(crate) fn tick(&mut self, now: Instant) {
        let mut ended = Vec::new();
        for queue in self.queues.values_mut() {
            queue.pending.retain(|_, lapses| *lapses > now);
            queue.pulls.retain(|pull| {
                let over = pull.expires <= now;
                if over {
                    let (subject, unfilled) = (pull.inbox.clone(), Some(pull.left));
                    ended.push(Letter { subject, status: Some(TIMEOUT), unfilled, ..Letter::default() });
                }
                !over
            });
        }
        for letter in ended {
            self.tell(&letter);
        }
        self.deliver(now);
        let expired: Vec<String> =
            self.keys.iter().filter(|(_, key)| key.value.is_some() && key.expires <= now).map(|(name, _)| name.clone()).collect();
        for name in expired {
            self.write_key(&name, None, now);
        }
        self.acknowledged.retain(|(at, _)| now.duration_since(*at) < Duration::from_millis(200));
    }

    fn write_key(&mut self, name: &str, value: Option<Bytes>, now: Instant) -> u64 {
        self.revision += 1;
        let revision = self.revision;
        let entry = Entry { key: name.to_owned(), value: value.clone(), revision };
        self.keys.insert(name.to_owned(), Key { value, revision, expires: now + LEADERSHIP_TTL });
        for watching in self.watches.iter().filter(|watching| matches(&watching.pattern, name)) {
            self.changes.push((watching.mailbox.clone(), entry.clone()));
        }
        revision
    }

    pub(crate) fn create_key(&mut self, name: &str, value: Bytes, now: Instant) -> Result<u64, KeyError> {
        match self.keys.get(name) {
            Some(key) if key.value.is_some() && key.expires > now => Err(KeyError::WrongRevision),
            _ => Ok(self.write_key(name, Some(value), now)),
        }
    }

    pub(crate) fn update_key(&mut self, name: &str, value: Option<Bytes>, revision: u64, now: Instant) -> Result<u64, KeyError> {
        match self.keys.get(name) {
            Some(key) if key.revision == revision => Ok(self.write_key(name, value, now)),
            _ => Err(KeyError::WrongRevision),
        }
    }

    pub(crate) fn put_key(&mut self, name: &str, value: Option<Bytes>, now: Instant) {
        self.write_key(name, value, now);
    }

    pub(crate) fn key(&self, name: &str, now: Instant) -> Option<Entry> {
        let key = self.keys.get(name)?;
        let value = key.value.clone().filter(|_| key.expires > now);
        Some(Entry { key: name.to_owned(), value, revision: key.revision })
    }

    pub(crate) fn watch(&mut self, process: u64, pattern: &str, now: Instant) -> Arc<Mailbox<Entry>> {
        let mailbox = Arc::new(Mailbox::default());
        let names: Vec<String> = self.keys.keys().filter(|name| matches(pattern, name)).cloned().collect();
        let entries: Vec<Entry> = names.iter().filter_map(|name| self.key(name, now)).collect();
        self.changes.extend(entries.into_iter().map(|entry| (mailbox.clone(), entry)));
        self.watches.push(Watching { process, pattern: pattern.to_owned(), mailbox: mailbox.clone() });
        mailbox
    }

    /// A process has lost its connection: what was on its way to it is lost, what it has subscribed to begins anew when it is back, and
    /// its consumers are gone.
    pub(crate) fn disconnect(&mut self, process: u64) {
        for subscription in self.subscriptions.iter().filter(|subscription| subscription.process == process) {
            subscription.mailbox.lose();
        }
        self.readings.retain(|reading| {
            let gone = reading.process == process;
            if gone {
                reading.mailbox.lose();
                reading.mailbox.close();
            }
            !gone
        });
        self.watches.retain(|watching| {
            let gone = watching.process == process;
            if gone {
                watching.mailbox.close();
            }
            !gone
        });
    }

    /// A process is dead.
    pub(crate) fn bury(&mut self, process: u64) {
        self.disconnect(process);
        self.subscriptions.retain(|subscription| subscription.process != process);
    }

    /// The server is killed and comes back with what it had stored. Tasks it may have had in memory only. Else it may have forgotten that
    /// some were acknowledged, and how often others were delivered; `remembers` says of each.
    pub(crate) fn crash(&mut self, mut remembers: impl FnMut() -> bool) {
        let acknowledged = std::mem::take(&mut self.acknowledged);
        if !remembers() {
            if let Some(tasks) = self.streams.remove(TASK_STREAM) {
                self.tasks_begin = tasks.last + 1_000;
            }
            self.queues.clear();
            return;
        }
        let Some(tasks) = self.tasks() else { return };
        for (_, raw) in acknowledged {
            let taken = tasks.messages.values().any(|stored| stored.subject == raw.subject);
            if !taken && !remembers() {
                tasks.messages.insert(raw.sequence, raw);
            }
        }
        for queue in self.queues.values_mut() {
            queue.pulls.clear();
            queue.pending.clear();
            queue.delivered.retain(|_, _| remembers());
        }
    }

    /// Messages at the end of a stream are gone, although they were acknowledged.
    pub(crate) fn cut(&mut self, name: &'static str, messages: u64) {
        let Some(stream) = self.streams.get_mut(name) else { return };
        stream.last = stream.last.saturating_sub(messages);
        let last = stream.last;
        stream.messages.retain(|sequence, _| *sequence <= last);
    }
}
