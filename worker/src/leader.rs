//! Questions to the leader over core NATS. Lossy: whoever asks asks again.

use std::time::Duration;

use causey_protocol::codec::{self, DecodeError, MESSAGE_BYTES_MAX};
use causey_protocol::id::{PoolName, WorkerName};
use causey_protocol::live::{Ask, Told};
use causey_protocol::subject;

use crate::outside::{Outside, Unanswered};

/// Longest wait for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    #[error("no coordinator answers")]
    Silence(#[source] Unanswered),
    #[error("the coordinator's answer cannot be read")]
    Answer(#[from] DecodeError),
}

/// The questions of one worker.
#[derive(Clone, Debug)]
pub struct Leader<O> {
    outside: O,
    subject: String,
}

impl<O: Outside> Leader<O> {
    #[must_use]
    pub fn new(outside: O, pool: &PoolName, worker: &WorkerName) -> Self {
        Self { outside, subject: subject::live_worker(pool, worker) }
    }

    /// # Errors
    /// [`AskError`] when nobody answers in time or the answer is not understood.
    pub(crate) async fn ask(&self, ask: &Ask) -> Result<Told, AskError> {
        let answer = self.outside.ask(&self.subject, codec::encode(ask).into(), ANSWER_TIMEOUT).await.map_err(AskError::Silence)?;
        Ok(codec::decode(&answer, MESSAGE_BYTES_MAX)?)
    }
}
