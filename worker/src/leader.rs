//! Questions to the leader over core NATS. Lossy: whoever asks asks again.

use std::time::Duration;

use async_nats::{Client, Request};
use causey_protocol::codec::{self, DecodeError, MESSAGE_BYTES_MAX};
use causey_protocol::id::{PoolName, WorkerName};
use causey_protocol::live::{Ask, Told};
use causey_protocol::subject;

/// Longest wait for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    #[error("no coordinator answers")]
    Silence(#[source] async_nats::RequestError),
    #[error("the coordinator's answer cannot be read")]
    Answer(#[from] DecodeError),
}

#[derive(Clone, Debug)]
pub(crate) struct Leader {
    client: Client,
    subject: String,
}

impl Leader {
    pub(crate) fn new(client: Client, pool: &PoolName, worker: &WorkerName) -> Self {
        Self { client, subject: subject::live_worker(pool, worker) }
    }

    /// # Errors
    /// [`AskError`] when nobody answers in time or the answer is not understood.
    pub(crate) async fn ask(&self, ask: &Ask) -> Result<Told, AskError> {
        let request = Request::new().payload(codec::encode(ask).into()).timeout(Some(ANSWER_TIMEOUT));
        let answer = self.client.send_request(self.subject.clone(), request).await.map_err(AskError::Silence)?;
        Ok(codec::decode(&answer.payload, MESSAGE_BYTES_MAX)?)
    }
}
