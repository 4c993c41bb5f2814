//! The shell around the engine: reads inputs by position, commits turns, performs commands, serves the HTTP API.

pub mod api;
pub mod archive;
pub mod broker;
pub mod calendar;
mod clock;
pub mod committed;
pub mod config;
pub mod coordinator;
pub mod desk;
pub mod durability;
mod earlier;
mod fill;
mod fold;
mod histories;
pub mod inbox;
pub mod jetstream;
mod leader;
pub mod leadership;
pub mod log;
pub mod operator;
pub mod outside;
pub mod parts;
mod perform;
pub mod projection;
pub mod publisher;
pub mod readers;
pub mod recover;
pub mod sealed;
pub mod signal;
pub mod snapshot;
mod standby;
mod stored;
pub mod streams;
mod sweep;
mod takeover;
mod timetable;
pub mod upkeep;

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use causey_artifacts::Store;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::coordinator::Coordinator;
use crate::jetstream::JetStream;
use crate::leadership::Holder;
use crate::parts::{Parts, Setup};
use crate::projection::Projection;

/// Runs a coordinator until `shutdown` or until it cannot go on.
///
/// # Errors
/// When the streams, the store or the projection forbid to lead; the text says which and how to mend it.
pub async fn run(config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    let token = read_token(&config.token_file)?;
    let listener = TcpListener::bind(config.listen).await.with_context(|| {
        format!("failed to listen on {}\nhint: another program uses this port; choose one with --listen", config.listen)
    })?;
    let address = listener.local_addr()?;
    writeln!(std::io::stdout(), "listening http://{address}").context("failed to write to standard output")?;

    let store = Arc::new(Store::open(&config.store, !config.unsafe_durability).await.context("failed to open the artifact store")?);
    let (projection, state, tail) = Projection::open(&config.projection)
        .with_context(|| format!("failed to open the projection in {}\nhint: the folder must be writable, and no other coordinator may use it: give each its own with --projection", config.projection.display()))?;
    let connect = |role| broker::connect(&config.nats_url, role, config.unsafe_nats_version);
    let connecting = async { futures_util::try_join!(connect("causey coordinator api"), connect("causey leader")) };
    let (front, hot) = tokio::select! {
        connected = connecting => connected?,
        () = shutdown.cancelled() => return Ok(()),
    };
    if !config.unsafe_durability {
        durability::check(config.nats_monitoring_url.as_deref()).await?;
    }
    let limits = streams::Limits { bytes_max: config.stream_bytes_max, replicas: config.replicas };
    let ensured = streams::ensure_patiently(&front, limits, witness(&config, &store, tail).await?);
    let Some(ensured) = shutdown.run_until_cancelled(ensured).await else { return Ok(()) };
    ensured?;

    let stop = shutdown.child_token();
    // Nothing else is unique to this process wherever it runs.
    let inbox = front.client.new_inbox();
    let parts = Parts::new(Setup {
        hot,
        front: front.clone(),
        store: store.clone(),
        projection,
        state,
        tail,
        holder: Holder::this_process(&config.name),
        id: inbox.rsplit('.').next().unwrap_or_default().to_owned(),
        ack_wait: Duration::from_secs(config.ack_wait_seconds.max(1).into()),
        limits,
        upkeep: config.upkeep(),
        shares: config.shares()?,
        shutdown: stop.clone(),
    });
    let api = api::Api {
        committed: parts.committed.clone(),
        info: api::Info::new(&config, front.client.server_info().version, parts.workers.clone(), parts.writable.clone()),
        jetstream: front.context,
        client: front.client,
        store,
        token,
        metrics: install_metrics(),
        shutdown: stop.clone(),
    };
    let (coordinator, beside) = parts.begin();
    let ended = spawn(coordinator)?;
    let served = tokio::spawn(api::serve(listener, api));
    let result = ended.await.context("the leader's thread ended without a word")?;
    stop.cancel();
    served.await?.context("the HTTP API failed")?;
    beside.ended().await?;
    Ok(result?)
}

/// Leads and follows on a thread of its own: a current-thread runtime saves a fifth of a step's latency, and nothing the API does
/// can delay it.
fn spawn(coordinator: Coordinator<JetStream>) -> anyhow::Result<tokio::sync::oneshot::Receiver<Result<(), coordinator::Error>>> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("leader".into()).spawn(move || {
        let _ = sender.send(runtime.block_on(coordinator.run()));
    })?;
    Ok(receiver)
}

fn read_token(path: &Path) -> anyhow::Result<String> {
    let token = std::fs::read_to_string(path).with_context(|| {
        format!("failed to read the API token from {}\nhint: write a random text into it, readable by its owner only", path.display())
    })?;
    let token = token.trim().to_owned();
    anyhow::ensure!(token.len() >= 16, "the API token in {} is shorter than 16 characters", path.display());
    Ok(token)
}

/// Whoever knows of a log that must therefore exist.
async fn witness(config: &Config, store: &Store, tail: log::Tail) -> anyhow::Result<Option<String>> {
    if Projection::knows_a_log(tail) {
        return Ok(Some(format!("the projection in {}", config.projection.display())));
    }
    let mark = store.head(leader::LOG_MARK).await.context("failed to look into the artifact store")?;
    Ok(mark.map(|_| format!("the artifact store {}", config.store)))
}

/// One recorder a process: a second coordinator in the same process (tests) shares it.
fn install_metrics() -> metrics_exporter_prometheus::PrometheusHandle {
    static HANDLE: std::sync::OnceLock<metrics_exporter_prometheus::PrometheusHandle> = std::sync::OnceLock::new();
    let install = || {
        let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        if metrics::set_global_recorder(recorder).is_err() {
            tracing::debug!("metrics go to a recorder installed before");
        }
        handle
    };
    HANDLE.get_or_init(install).clone()
}
