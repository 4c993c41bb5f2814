//! What a worker sees of the world outside its process, apart from its hosts: a connection to NATS, with the operations that are used
//! and no others, so that the same loop runs on NATS ([`crate::nats`]) and in a simulated world.

use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

use bytes::Bytes;

/// The server refused, did not answer in time, or cannot be reached: in words. What was asked for may have happened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unanswered(pub String);

impl Unanswered {
    pub(crate) fn new(error: impl std::fmt::Display) -> Self {
        Self(error.to_string())
    }
}

/// A message from NATS: one of a queue, an answer, or the server's word on a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    pub subject: String,
    /// Where to answer; for a delivery, where to acknowledge it.
    pub reply: Option<String>,
    pub payload: Bytes,
    /// The code of a message that is only the server's word.
    pub status: Option<u16>,
    pub description: String,
    /// `Nats-Pending-Messages`: places of a pull request that were not filled.
    pub unfilled: Option<u32>,
}

/// A connection. Cheap to clone.
pub trait Outside: Clone + Debug + Send + Sync + 'static {
    type Listener: Listener;

    fn is_connected(&self) -> bool;

    /// A subject that nobody else uses.
    fn inbox(&self) -> String;

    fn listen(&self, pattern: &str) -> impl Future<Output = Result<Self::Listener, Unanswered>> + Send;

    /// Sends a message, with a subject for answers where one is given. Whether it arrives is not told.
    fn say(&self, subject: &str, reply: Option<&str>, payload: Bytes) -> impl Future<Output = Result<(), Unanswered>> + Send;

    /// Sends a question and waits for its answer.
    fn ask(&self, subject: &str, payload: Bytes, patience: Duration) -> impl Future<Output = Result<Bytes, Unanswered>> + Send;

    /// Stores a message in the stream of its subject and waits for the word that it is stored. An error may have stored it.
    fn store(&self, subject: &str, payload: Bytes) -> impl Future<Output = Result<(), Unanswered>> + Send;

    /// Sends the word that a key is deleted. Whether it arrives is not told.
    fn delete_key(&self, subject: &str) -> impl Future<Output = Result<(), Unanswered>> + Send;
}

/// What arrives on a subscription.
pub trait Listener: Debug + Send + 'static {
    /// The next message; `None` when there are no more. Safe to drop at its await.
    fn next(&mut self) -> impl Future<Output = Option<Message>> + Send;

    /// Wants no more; what the server has sent already still arrives.
    fn drain(&mut self) -> impl Future<Output = ()> + Send;
}
