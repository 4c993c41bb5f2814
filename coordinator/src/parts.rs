//! The parts of a coordinator and how they hang together, apart from its HTTP API and its threads: the loop that leads and follows,
//! and what is done beside it. It does not know what the world outside is made of.

use std::sync::Arc;
use std::time::Duration;

use causey_artifacts::Store;
use causey_engine::State;
use causey_protocol::share::Shares;
use tokio::task::{JoinError, JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::committed::Committed;
use crate::config;
use crate::coordinator::Coordinator;
use crate::desk::{Desk, Workers};
use crate::fold::Fold;
use crate::leadership::Holder;
use crate::log::Tail;
use crate::outside::{Outside, Unanswered};
use crate::projection::Projection;
use crate::readers::{Announcer, Writable};
use crate::streams::Limits;
use crate::sweep::Sweep;
use crate::upkeep::{Settings, Upkeep};

/// What a coordinator is made of.
#[derive(Debug)]
pub struct Setup<O> {
    /// The connection of the loop, and the one of everything else.
    pub hot: O,
    pub front: O,
    pub store: Arc<Store>,
    pub projection: Projection,
    /// What the projection holds.
    pub state: State,
    pub tail: Tail,
    pub holder: Holder,
    /// Tells this process apart from any other.
    pub id: String,
    pub ack_wait: Duration,
    /// What streams are made with.
    pub limits: Limits,
    pub upkeep: Settings,
    /// What tenants get while it leads.
    pub shares: Shares,
    pub shutdown: CancellationToken,
}

/// A coordinator that has not begun.
#[derive(Debug)]
pub struct Parts<O> {
    pub committed: Arc<Committed>,
    pub workers: Arc<Workers>,
    pub writable: Writable,
    coordinator: Coordinator<O>,
    announcer: Announcer<O>,
    upkeep: Upkeep<O>,
    desk: Desk<O>,
    sweep: Sweep<O>,
    shutdown: CancellationToken,
}

impl<O: Outside> Parts<O> {
    #[must_use]
    pub fn new(setup: Setup<O>) -> Self {
        let Setup { hot, front, store, projection, state, tail, holder, id, ack_wait, limits, upkeep, shares, shutdown } = setup;
        let committed = Arc::new(Committed::new(state));
        let workers = Arc::new(Workers::default());
        let (notice, noticed) = tokio::sync::mpsc::channel(config::INPUTS_READ_AHEAD);
        let upkeep = Upkeep::new(front.clone(), committed.clone(), store.clone(), notice.clone(), upkeep);
        let (announcer, writable) = Announcer::new(front.clone(), &id, &holder.name);
        let sweep = Sweep::new(front.clone(), committed.clone(), workers.clone(), ack_wait, limits);
        let desk = Desk { outside: front, committed: committed.clone(), workers: workers.clone(), ack_wait, inputs: notice.clone() };
        let coordinator = Coordinator {
            link: hot.link(),
            outside: hot,
            fold: Fold::new(committed.clone(), tail, projection),
            store,
            holder,
            limits,
            writable: writable.clone(),
            notice,
            noticed,
            shares,
            shutdown: shutdown.clone(),
        };
        Self { committed, workers, writable, coordinator, announcer, upkeep, desk, sweep, shutdown }
    }

    /// Starts what is done beside the loop, which is left to be run.
    #[must_use]
    pub fn begin(self) -> (Coordinator<O>, Beside) {
        let stop = self.shutdown;
        let beside = Beside {
            announced: tokio::spawn(self.announcer.run(stop.clone())),
            asked: tokio::spawn(self.desk.serve(stop.clone())),
            swept: tokio::spawn(self.sweep.serve(stop.clone())),
            kept: tokio::spawn(self.upkeep.serve(stop)),
        };
        (self.coordinator, beside)
    }
}

/// What is done beside the loop until the shutdown.
#[derive(Debug)]
pub struct Beside {
    announced: JoinHandle<()>,
    asked: JoinHandle<Result<(), Unanswered>>,
    kept: JoinHandle<()>,
    swept: JoinHandle<()>,
}

/// Why something beside the loop ended before it should.
#[derive(Debug, thiserror::Error)]
pub enum BesideError {
    #[error("the announcement to other coordinators failed")]
    Announcer(#[source] JoinError),
    #[error("the upkeep failed")]
    Upkeep(#[source] JoinError),
    #[error("the sweep failed")]
    Sweep(#[source] JoinError),
    #[error("the answers to workers failed")]
    Desk(#[source] JoinError),
    #[error("workers cannot be answered")]
    Unanswered(#[from] Unanswered),
}

impl Beside {
    /// Waits for the end of all of it, after the shutdown.
    ///
    /// # Errors
    /// [`BesideError`] names what failed.
    pub async fn ended(self) -> Result<(), BesideError> {
        self.announced.await.map_err(BesideError::Announcer)?;
        self.kept.await.map_err(BesideError::Upkeep)?;
        self.swept.await.map_err(BesideError::Sweep)?;
        Ok(self.asked.await.map_err(BesideError::Desk)??)
    }
}
