//! The life of a worker, top-down: take the folder, open the store, connect, wait for a coordinator, work, drain.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use async_nats::Client;
use async_nats::connection::State;
use causey_artifacts::{Store, failpoint};
use causey_protocol::backoff::Delays;
use causey_protocol::live::{Ask, Offer, Told};
use causey_protocol::subject::CANCEL_ALL;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::attempt::{self, LANGUAGE, Tools};
use crate::cache::Cache;
use crate::config::Config;
use crate::depot::Depot;
use crate::held::Held;
use crate::hosts::Hosts;
use crate::leader::Leader;
use crate::lease::Lease;
use crate::live::Live;
use crate::package::Packages;
use crate::presence::{self, Presence};
use crate::process::Interpreter;
use crate::pull::Pull;
use crate::report::Reports;
use crate::slots::Slots;
use crate::worker::Worker;
use crate::{leftover, nats};

/// Longest time running attempts get to end after the wish to stop; most supervisors kill after 30 s.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(25);

/// Longest time for reports and acknowledgements after that.
const FAREWELL_TIME_MAX: Duration = Duration::from_secs(3);

/// Waits between hellos until a coordinator answers.
const FIRST_WAIT: Duration = Duration::from_millis(5);
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// How often to say what the worker waits for.
const WAITING_PERIOD: Duration = Duration::from_secs(5);

pub(crate) async fn run(config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    let folder = std::path::absolute(&config.folder)?;
    // Held until the end: nobody else may empty these folders.
    let _lock = leftover::take_folder(&folder)?;
    leftover::reap(&folder.join("hosts"))?;
    leftover::make_empty(&folder.join("tasks"))?;
    let cache = Cache::open(folder.join("cache"));
    let store = Store::open(&config.store, !config.unsafe_durability).await?;
    let depot = Depot::open(store, &folder.join("store"), cache.clone()).await?;

    let (event_sender, events) = mpsc::unbounded_channel();
    let owner_gone = if config.owned { watch_owner()? } else { CancellationToken::new() };
    let name = format!("causey-worker {}.{}", config.pool, config.name);
    let connecting = nats::connect(&config.nats_url, name, event_sender.clone()).await;
    let client = connecting.with_context(|| format!("cannot connect to {}", nats::shown(&config.nats_url)))?;
    let offer = offer(&config);
    let slots = Slots::new(offer.slots);
    let leader = Leader::new(client.clone(), &config.pool, &config.name);
    let tools = Arc::new(Tools {
        depot,
        packages: Packages::new(folder.join("packages"), cache),
        hosts: Hosts::open(interpreter(&config)?, &folder.join("hosts"), &folder.join("tasks"), slots.total())?,
        reports: Reports::open(client.clone(), config.pool.clone(), config.name.clone(), event_sender.clone()),
        live: Live::open(client.clone()),
        leader,
    });
    let stopping = CancellationToken::new();
    tokio::spawn({
        let (owner_gone, stopping) = (owner_gone.clone(), stopping.clone());
        async move {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = owner_gone.cancelled() => {}
            }
            stopping.cancel();
        }
    });

    let mut presence = Presence::new(client.clone(), offer);
    let welcomed = stopping.run_until_cancelled(wait_for_welcome(&client, &tools.leader, presence.offer(), &config)).await;
    if welcomed.is_none() {
        return Ok(());
    }
    presence.show();
    let (pull, arrivals) = Pull::open(client.clone(), &config.pool).await?;
    let cancels = client.subscribe(CANCEL_ALL).await?;
    tracing::info!(pool = %config.pool, worker = %config.name, slots = slots.total(), "worker ready");
    let ack_wait = Duration::from_secs(config.ack_wait_seconds.max(1).into());
    let mut worker = Worker {
        client: client.clone(),
        tools,
        presence,
        slots,
        lease: Lease::new(ack_wait),
        pull,
        arrivals,
        cancels,
        events,
        event_sender,
        held: Held::default(),
        outdated: false,
        misfit_since: None,
    };
    worker.run(&stopping).await;
    drain(&mut worker, &owner_gone).await;
    drop(worker);
    // Hosts that are ending may still remove theirs; what stays is removed at the next start.
    let _ = leftover::make_empty(&folder.join("tasks"));
    // What was published must leave before the process does.
    let _ = tokio::time::timeout(FAREWELL_TIME_MAX, client.flush()).await;
    Ok(())
}

/// Takes no more, lets run what runs, hands back the rest. A second signal, or an owner that is gone, makes it short.
async fn drain(worker: &mut Worker, owner_gone: &CancellationToken) {
    worker.begin_drain().await;
    failpoint::here("drain.begun");
    let enough = async {
        tokio::select! {
            () = tokio::time::sleep(DRAIN_TIME_MAX) => {}
            () = next_signal() => {}
            () = owner_gone.cancelled() => {}
        }
    };
    worker.finish_held(enough).await;
    worker.stop_running();
    worker.finish_held(tokio::time::sleep(FAREWELL_TIME_MAX)).await;
    failpoint::here("drain.finished");
    worker.presence.remove().await;
}

async fn next_signal() {
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

/// Cancels the returned token when standard input ends: its owner holds the other end.
fn watch_owner() -> anyhow::Result<CancellationToken> {
    let gone = CancellationToken::new();
    let token = gone.clone();
    std::thread::Builder::new().name("causey-owner".into()).spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        token.cancel();
    })?;
    Ok(gone)
}

fn offer(config: &Config) -> Offer {
    let cores = std::thread::available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(u32::MAX));
    Offer {
        pool: config.pool.clone(),
        worker: config.name.clone(),
        slots: config.slots.unwrap_or(cores).max(1),
        memory_mb: presence::memory_mb(),
        languages: vec![LANGUAGE.into()],
        version: env!("CARGO_PKG_VERSION").into(),
        started: attempt::now(),
    }
}

/// Paths are made absolute: hosts start in another folder. A bare name is looked up in PATH.
fn interpreter(config: &Config) -> anyhow::Result<Interpreter> {
    let is_path = config.python.components().count() > 1;
    let program = if is_path { std::path::absolute(&config.python)? } else { config.python.clone() };
    Ok(Interpreter { program, sdk: config.sdk.as_deref().map(Path::to_owned).map(std::path::absolute).transpose()? })
}

/// Says hello until a coordinator answers that the pool's queue is there; says in words what it waits for.
async fn wait_for_welcome(client: &Client, leader: &Leader, offer: &Offer, config: &Config) {
    let mut delays = Delays::new(FIRST_WAIT, LONGEST_WAIT);
    let mut said = Instant::now();
    loop {
        let connected = client.connection_state() == State::Connected;
        let answer = if connected { Some(leader.ask(&Ask::Hello { offer: offer.clone(), open: vec![] }).await) } else { None };
        if let Some(Ok(Told::Welcome { epoch, .. })) = answer {
            tracing::debug!(epoch, "welcome");
            return;
        }
        if said.elapsed() >= WAITING_PERIOD {
            said = Instant::now();
            match answer {
                None => tracing::warn!(server = nats::shown(&config.nats_url), "waiting for the NATS server"),
                Some(Ok(Told::Refused(problem))) => tracing::warn!(%problem, hint = problem.hint, "the coordinator refuses this worker"),
                Some(Ok(_)) => tracing::warn!("the coordinator answered something else"),
                Some(Err(error)) => tracing::warn!(%error, "waiting for a coordinator"),
            }
        }
        tokio::time::sleep(delays.next_delay()).await;
    }
}
