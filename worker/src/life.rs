//! The life of a worker from its first hello to its last word, whatever its connection and its bench are.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use causey_artifacts::failpoint;
use causey_protocol::backoff::Delays;
use causey_protocol::live::{Ask, Offer, Told};
use causey_protocol::subject::{self, CANCEL_ALL, GANG_ALL};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::bench::Bench;
use crate::capacity::Capacity;
use crate::held::Held;
use crate::leader::Leader;
use crate::lease::Lease;
use crate::outside::{Outside, Unanswered};
use crate::presence::Presence;
use crate::pull::Pull;
use crate::report::Reports;
use crate::slots::Slots;
use crate::worker::{Event, Worker};

/// Longest time running attempts get to end after the wish to stop; most supervisors kill after 30 s.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(25);

/// Longest time for reports and acknowledgements after that.
pub(crate) const FAREWELL_TIME_MAX: Duration = Duration::from_secs(3);

/// Waits between hellos until a coordinator answers.
const FIRST_WAIT: Duration = Duration::from_millis(5);
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// How often to say what the worker waits for.
const WAITING_PERIOD: Duration = Duration::from_secs(5);

/// What a worker is made of.
#[derive(Debug)]
pub struct Setup<O, B> {
    pub outside: O,
    pub bench: Arc<B>,
    pub offer: Offer,
    pub ack_wait: Duration,
    /// Where [`Event::Connected`] comes in.
    pub events: mpsc::UnboundedReceiver<Event>,
    pub event_sender: mpsc::UnboundedSender<Event>,
    /// Address of the server, for people to read.
    pub server: String,
    pub limits: Limits,
}

/// When a worker ends by itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// Once it has run so many tasks.
    pub tasks: Option<u64>,
    /// Once it has had nothing to do for so long.
    pub idle: Option<Duration>,
}

/// Waits for a coordinator, works until `stopping`, and drains, which `hurry` makes short.
///
/// # Errors
/// When the connection is closed for good.
pub async fn live<O: Outside, B: Bench>(
    setup: Setup<O, B>,
    stopping: &CancellationToken,
    hurry: impl Future<Output = ()>,
) -> Result<(), Unanswered> {
    let Setup { outside, bench, offer, ack_wait, events, event_sender, server, limits } = setup;
    let leader = Leader::new(outside.clone(), &offer.pool, &offer.worker);
    let (pool, name) = (offer.pool.clone(), offer.worker.clone());
    let mut presence = Presence::new(outside.clone(), offer);
    let welcomed = stopping.run_until_cancelled(wait_for_welcome(&outside, &leader, presence.offer(), &server)).await;
    if welcomed.is_none() {
        return Ok(());
    }
    presence.show();
    let (pull, arrivals) = Pull::open(outside.clone(), &pool).await?;
    let cancels = outside.listen(CANCEL_ALL).await?;
    let gangs = outside.listen(GANG_ALL).await?;
    let calls = outside.listen(&subject::call(&pool)).await?;
    let slots = Slots::new(presence.offer().slots);
    let capacity = Capacity::new(presence.offer());
    tracing::info!(%pool, worker = %name, slots = slots.total(), "worker ready");
    let mut worker = Worker {
        reports: Reports::open(outside.clone(), pool, name, event_sender.clone()),
        outside,
        bench,
        leader,
        presence,
        slots,
        capacity,
        lease: Lease::new(ack_wait),
        pull,
        arrivals,
        cancels,
        gangs,
        calls,
        events,
        event_sender,
        held: Held::default(),
        outdated: false,
        misfit_since: None,
        ending: None,
        limits,
        begun: 0,
        idle_since: Instant::now(),
        passed_on: VecDeque::new(),
        unheard: false,
    };
    worker.run(stopping).await;
    if let Some(why) = &worker.ending {
        tracing::info!(why, "worker ends");
    }
    drain(&mut worker, hurry).await;
    Ok(())
}

/// Takes no more, lets run what runs, hands back the rest.
async fn drain<O: Outside, B: Bench>(worker: &mut Worker<O, B>, hurry: impl Future<Output = ()>) {
    worker.begin_drain().await;
    failpoint::here("drain.begun");
    let enough = async {
        tokio::select! {
            biased;
            () = hurry => {}
            () = tokio::time::sleep(DRAIN_TIME_MAX) => {}
        }
    };
    worker.finish_held(enough).await;
    worker.stop_running();
    worker.finish_held(tokio::time::sleep(FAREWELL_TIME_MAX)).await;
    failpoint::here("drain.finished");
    worker.presence.remove().await;
}

/// Says hello until a coordinator answers that the pool's queue is there; says in words what it waits for.
async fn wait_for_welcome<O: Outside>(outside: &O, leader: &Leader<O>, offer: &Offer, server: &str) {
    let mut delays = Delays::new(FIRST_WAIT, LONGEST_WAIT);
    let mut said = Instant::now();
    loop {
        let connected = outside.is_connected();
        let answer = if connected { Some(leader.ask(&Ask::Hello { offer: offer.clone(), open: vec![] }).await) } else { None };
        if let Some(Ok(Told::Welcome { epoch, .. })) = answer {
            tracing::debug!(epoch, "welcome");
            return;
        }
        if said.elapsed() >= WAITING_PERIOD {
            said = Instant::now();
            match answer {
                None => tracing::warn!(server, "waiting for the NATS server"),
                Some(Ok(Told::Refused(problem))) => tracing::warn!(%problem, hint = problem.hint, "the coordinator refuses this worker"),
                Some(Ok(_)) => tracing::warn!("the coordinator answered something else"),
                Some(Err(error)) => tracing::warn!(%error, "waiting for a coordinator"),
            }
        }
        tokio::time::sleep(delays.next_delay()).await;
    }
}
