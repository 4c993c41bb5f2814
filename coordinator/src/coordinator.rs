//! The life of a coordinator: it follows the log until it gets the leadership, leads until it loses it, and follows again. It ends
//! when it is asked to, or when the log, a stream or the store forbids to go on.

use std::sync::Arc;
use std::time::Duration;

use causey_artifacts::Store;
use causey_protocol::backoff::Delays;
use causey_protocol::input::Input;
use causey_protocol::share::Shares;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::committed::Role;
use crate::config::LEADERSHIP_TTL;
use crate::fold::Fold;
use crate::leadership::{self, Holder};
use crate::log;
use crate::outside::{Link, Outside, Unanswered};
use crate::readers::Writable;
use crate::streams::{self, Limits, Tails};
use crate::{leader, recover, standby};

/// Why a coordinator stops leading or following.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Streams(#[from] streams::Error),
    #[error(transparent)]
    Log(#[from] log::Error),
    #[error(transparent)]
    Leadership(#[from] leadership::Error),
    #[error(transparent)]
    Recover(#[from] recover::Error),
    #[error("the log was trimmed past what this coordinator had read")]
    Trimmed,
    #[error("the NATS server does not do what is asked: {0}")]
    Broker(#[from] Unanswered),
    #[error("the connection to the NATS server is lost")]
    Disconnected,
    #[error("another coordinator took over at log sequence {sequence}")]
    Fenced { sequence: u64 },
    #[error("the leadership key is lost: another coordinator took it, or it could not be renewed within 3 seconds")]
    KeyLost,
    #[error(
        "the log belongs to artifact store {expected}, but the configured store is {found}\nhint: start with the store that was used before"
    )]
    WrongStore { expected: uuid::Uuid, found: uuid::Uuid },
    #[error("failed to mark the artifact store: {0}")]
    Mark(#[source] causey_artifacts::StoreError),
}

impl Error {
    /// Whether the process must not go on. Everything else is mended by following the log again.
    #[must_use]
    pub fn is_final(&self) -> bool {
        match self {
            Self::Streams(error) | Self::Recover(recover::Error::Streams(error)) => !matches!(error, streams::Error::Look { .. }),
            Self::Log(error) | Self::Recover(recover::Error::Log(error)) => {
                !matches!(error, log::Error::Read(_) | log::Error::Short { .. } | log::Error::Append(_) | log::Error::Taken { .. })
            }
            Self::Recover(recover::Error::Store(error)) => !error.is_transient(),
            Self::Recover(recover::Error::NoBase { .. }) => true,
            Self::Mark(error) => !error.is_transient(),
            Self::WrongStore { .. } => true,
            Self::Trimmed | Self::Leadership(_) | Self::Broker(_) | Self::Disconnected | Self::Fenced { .. } | Self::KeyLost => false,
        }
    }
}

/// What a coordinator works with in either role.
#[derive(Debug)]
pub struct Coordinator<O> {
    pub(crate) outside: O,
    pub(crate) link: Link,
    pub(crate) fold: Fold,
    pub(crate) store: Arc<Store>,
    pub(crate) holder: Holder,
    pub(crate) limits: Limits,
    /// Which records all coordinators can read.
    pub(crate) writable: Writable,
    /// What this process has done or noticed beside the loop.
    pub(crate) notice: mpsc::Sender<Input>,
    pub(crate) noticed: mpsc::Receiver<Input>,
    /// What tenants get while this coordinator leads.
    pub(crate) shares: Shares,
    pub(crate) shutdown: CancellationToken,
}

impl<O: Outside> Coordinator<O> {
    /// Follows and leads until shutdown.
    ///
    /// # Errors
    /// A final [`Error`]; whatever was accepted is in the streams, and another coordinator may go on.
    pub async fn run(mut self) -> Result<(), Error> {
        let result = self.alternate().await;
        self.fold.close();
        result
    }

    async fn alternate(&mut self) -> Result<(), Error> {
        let mut delays = Delays::new(Duration::from_millis(10), Duration::from_secs(1));
        loop {
            let Some(keeper) = standby::follow(self).await? else { return Ok(()) };
            let begun = Instant::now();
            let led = leader::lead(self, keeper.lost()).await;
            self.fold.committed.set_role(Role::Standby { leader: None });
            let led = match led {
                Ok(()) => Ok(()),
                Err(error) => Err(standby::trimmed(self, error).await),
            };
            match led {
                Ok(()) => {
                    keeper.release().await;
                    return Ok(());
                }
                Err(error) if error.is_final() => {
                    keeper.release().await;
                    return Err(error);
                }
                // The key is left as it is: it is somebody else's, expires, or is found to be still ours.
                Err(error) => {
                    metrics::counter!("causey_depositions_total").increment(1);
                    tracing::warn!(%error, sequence = self.fold.tail.sequence, "no longer leading; following the log");
                    drop(keeper);
                    if begun.elapsed() > LEADERSHIP_TTL {
                        delays.reset();
                    }
                    tokio::time::sleep(delays.next_delay()).await;
                }
            }
        }
    }

    /// How far the streams have been read, by the committed state.
    fn seen(&self) -> Tails {
        let state = self.fold.committed.read();
        Tails { inbox: state.inbox, events: state.events, log: self.fold.tail.sequence, notify: 0 }
    }

    /// Checks that no stream moved back or is another one, and gives their ends.
    ///
    /// # Errors
    /// [`streams::Error`] naming the stream.
    pub(crate) async fn verify(&self) -> Result<Tails, streams::Error> {
        let known = self.fold.committed.read().streams.clone();
        Ok(streams::verify(&self.outside, self.seen(), &known).await?.tails)
    }

    /// Checks the log alone, and gives the ends of all streams: what follows in the log may accept that a stream of inputs moved back.
    ///
    /// # Errors
    /// [`streams::Error`] naming the log.
    pub(crate) async fn verify_log(&self) -> Result<Tails, streams::Error> {
        let known = self.fold.committed.read().streams.clone();
        streams::verify_log(&self.outside, self.fold.tail.sequence, &known).await
    }

    /// # Errors
    /// [`Error::WrongStore`] when the log belongs to another artifact store.
    pub(crate) fn check_store(&self) -> Result<(), Error> {
        match self.fold.committed.read().store {
            Some(expected) if expected != self.store.id() => Err(Error::WrongStore { expected, found: self.store.id() }),
            _ => Ok(()),
        }
    }
}
