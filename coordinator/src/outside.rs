//! What a coordinator sees of the world outside its process: streams, keys, words over core NATS, the clock. One small trait each,
//! with the operations that are used and no others, so that the same leader, standby and upkeep run on JetStream
//! ([`crate::jetstream`]) and in a simulated world. One suite holds both to the same behaviour.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use causey_protocol::id::{PoolName, Timestamp};

use crate::publisher::{Answer, Token};
use crate::signal;
use crate::streams::Limits;

/// Everything together.
pub trait Outside: Streams + Queues + Keys + Words + Machine + Aside {}

impl<T: Streams + Queues + Keys + Words + Machine + Aside> Outside for T {}

/// The server refused, did not answer in time, or cannot be reached: in words. What was asked for may have happened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unanswered(pub String);

impl Unanswered {
    pub(crate) fn new(error: impl std::fmt::Display) -> Self {
        Self(error.to_string())
    }
}

/// A message of a stream, not looked into yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Raw {
    pub sequence: u64,
    pub subject: String,
    /// By name in small letters, the first value of each.
    pub headers: BTreeMap<String, String>,
    pub payload: Bytes,
}

/// What the server checks before it stores a message. Error 10071 says that it is not so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    Nothing,
    /// The stream ends at this sequence.
    End(u64),
    /// The stream has no message on this subject.
    NoneOnSubject,
}

/// A message to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub subject: String,
    pub expect: Expect,
    pub headers: Vec<(&'static str, String)>,
    pub payload: Bytes,
}

/// A stream as it is at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    pub first: u64,
    /// Sequence of the last message that was ever stored; 0 before the first.
    pub last: u64,
    /// When it was created, in microseconds since the Unix epoch.
    pub created: u64,
    pub bytes: u64,
    /// 0 for none.
    pub bytes_max: u64,
}

/// Why a stream cannot be looked at.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unseen {
    #[error("there is no such stream")]
    Gone,
    #[error(transparent)]
    Unanswered(#[from] Unanswered),
}

/// Why a message is not known to be stored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    #[error("the stream is not as expected")]
    WrongLast,
    /// It may be stored.
    #[error(transparent)]
    Unanswered(#[from] Unanswered),
}

/// Which messages a stream loses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purge {
    /// Those up to this sequence.
    To(u64),
    /// Those whose subject matches.
    Subject(String),
}

/// Streams: messages in order, read by position. What was read stays; nothing is acknowledged.
pub trait Streams: Clone + Debug + Send + Sync + 'static {
    type Reader: Reader;
    type Line: Line;

    /// Asks the stream's leader what it holds.
    fn look(&self, stream: &'static str) -> impl Future<Output = Result<Look, Unseen>> + Send;

    /// Reads one message from the stream's leader; `None` when it is not there.
    fn message(&self, stream: &'static str, sequence: u64) -> impl Future<Output = Result<Option<Raw>, Unanswered>> + Send;

    /// Opens the stream behind sequence `after`.
    fn read(&self, stream: &'static str, after: u64) -> impl Future<Output = Result<Self::Reader, Unanswered>> + Send;

    /// The subjects of all messages that a stream holds.
    fn subjects(&self, stream: &'static str) -> impl Future<Output = Result<BTreeSet<String>, Unanswered>> + Send;

    /// Stores a message and waits for the word that it is stored; gives its sequence.
    fn append(&self, message: Message) -> impl Future<Output = Result<u64, AppendError>> + Send;

    /// Opens a way to store messages without waiting for each.
    fn line(&self) -> impl Future<Output = Result<Self::Line, Unanswered>> + Send;

    /// Removes messages; says how many.
    fn purge(&self, stream: &'static str, what: Purge) -> impl Future<Output = Result<u64, Unanswered>> + Send;

    /// Bytes that all streams together have stored, and may store; 0 for no limit.
    fn room(&self) -> impl Future<Output = Result<(u64, u64), Unanswered>> + Send;
}

/// The messages of a stream behind a position, in order, as they come.
pub trait Reader: Send + 'static {
    /// The next message. An error ends it; another reader goes on. Safe to drop at its await.
    fn next(&mut self) -> impl Future<Output = Result<Raw, Unanswered>> + Send;
}

/// Messages on their way to streams, each under a number that its answer bears.
pub trait Line: Debug + Send + 'static {
    /// Sends a message; whether it arrives is told by its answer only.
    fn send(&mut self, token: Token, message: &Message) -> impl Future<Output = ()> + Send;

    /// The next answer to anything sent, however often it was sent. Safe to drop at its await: an answer is taken whole or not at all.
    fn answer(&mut self) -> impl Future<Output = (Token, Answer)> + Send;
}

/// The queues of worker pools.
pub trait Queues {
    /// Makes the stream of all queues, unless it is there.
    fn ensure_tasks(&self, limits: Limits) -> impl Future<Output = Result<(), Unanswered>> + Send;

    /// Makes the one consumer of a pool's queue, unless it is there.
    fn ensure_queue(&self, pool: &PoolName, ack_wait: Duration) -> impl Future<Output = Result<(), Unanswered>> + Send;
}

/// Keys with a time limit, in the bucket of coordinators.
pub trait Keys {
    type Bucket: Bucket;

    fn bucket(&self) -> impl Future<Output = Result<Self::Bucket, Unanswered>> + Send;
}

/// A key's value, or that it is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub key: String,
    /// `None` when it was deleted or has expired.
    pub value: Option<Bytes>,
    pub revision: u64,
}

/// Why a key was not written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("the key is at another revision")]
    WrongRevision,
    #[error(transparent)]
    Unanswered(#[from] Unanswered),
}

pub trait Bucket: Clone + Debug + Send + Sync + 'static {
    type Watch: Watch;

    /// Writes a key that has no value; gives its revision.
    fn create(&self, key: &str, value: Bytes) -> impl Future<Output = Result<u64, KeyError>> + Send;

    /// Writes a key that is at this revision; gives the new one.
    fn update(&self, key: &str, value: Bytes, revision: u64) -> impl Future<Output = Result<u64, KeyError>> + Send;

    fn put(&self, key: &str, value: Bytes) -> impl Future<Output = Result<(), Unanswered>> + Send;

    /// Deletes a key, if it is at this revision where one is given.
    fn delete(&self, key: &str, revision: Option<u64>) -> impl Future<Output = Result<(), Unanswered>> + Send;

    /// The last thing that happened to a key; `None` when nothing is known of it.
    fn entry(&self, key: &str) -> impl Future<Output = Result<Option<Entry>, Unanswered>> + Send;

    /// Follows the keys that match, from their present values on.
    fn watch(&self, pattern: &str) -> impl Future<Output = Result<Self::Watch, Unanswered>> + Send;
}

pub trait Watch: Send + 'static {
    /// The next change. Safe to drop at its await.
    fn next(&mut self) -> impl Future<Output = Result<Entry, Unanswered>> + Send;
}

/// A message of core NATS: whoever does not listen misses it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    pub subject: String,
    pub reply: Option<String>,
    pub payload: Bytes,
}

/// Core NATS, lossy by contract.
pub trait Words {
    type Listener: Listener;

    fn say(&self, subject: String, payload: Bytes) -> impl Future<Output = Result<(), Unanswered>> + Send;

    fn listen(&self, pattern: &'static str) -> impl Future<Output = Result<Self::Listener, Unanswered>> + Send;
}

pub trait Listener: Debug + Send + 'static {
    /// The next message; `None` when the connection has ended for good. Safe to drop at its await.
    fn next(&mut self) -> impl Future<Output = Option<Word>> + Send;
}

/// The machine on which a process runs: its connection and its clock.
pub trait Machine {
    fn link(&self) -> Link;

    /// The wall clock.
    fn now(&self) -> Timestamp;
}

/// Other threads.
pub trait Aside {
    /// Does work that takes long where it keeps nobody waiting.
    fn aside<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> impl Future<Output = T> + Send;
}

/// How often the connection has been made, and whether it stands.
#[derive(Clone, Debug)]
pub struct Link {
    /// Counts up with every (re)connect; what was in flight before may be lost.
    made: signal::Receiver<u64>,
    up: signal::Receiver<bool>,
}

impl Link {
    #[must_use]
    pub fn new(made: signal::Receiver<u64>, up: signal::Receiver<bool>) -> Self {
        Self { made, up }
    }

    /// A signal of every (re)connect.
    #[must_use]
    pub fn made(&self) -> signal::Receiver<u64> {
        self.made.clone()
    }

    /// Waits until the connection stands, and marks it as seen.
    ///
    /// # Errors
    /// When the client has ended.
    pub(crate) async fn is_up(&mut self) -> Result<(), Unanswered> {
        self.up.wait_for(|up| *up).await.map_err(Unanswered::new)?;
        self.made.mark_seen();
        Ok(())
    }

    /// Returns when the connection is lost, or was since [`Link::is_up`]. Safe to drop at its await.
    pub(crate) async fn interrupted(&mut self) {
        // An error of either means that the client has ended, which interrupts as well.
        tokio::select! {
            biased;
            _ = self.made.changed() => {}
            _ = self.up.wait_for(|up| !up) => {}
        }
    }
}
