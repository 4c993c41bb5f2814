//! The HTTP API (`docs/protocol.md` §3): reads answer from the committed state, writes go through the inbox or the events stream
//! like everybody else's and wait until a turn covers them. It never touches the working state and decides nothing.

mod backfills;
mod cancellation;
mod context;
mod events;
mod extract;
mod flows;
mod follow;
mod gate_view;
mod gates;
mod guard;
mod letters;
mod listed;
mod live;
mod logs;
mod merge;
mod models;
mod notifications;
mod packages;
mod pools;
mod probes;
mod publish;
mod refusal;
mod resume;
mod run_status;
mod run_view;
mod runs;
mod schedules;
mod status;
mod step_view;
mod stuck;
mod tail;
mod tasks;
mod wait;
mod why;

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post, put};
use axum::serve::ListenerExt as _;
use causey_artifacts::wall;
use causey_protocol::id::Timestamp;
use causey_protocol::problem::{Code, Problem};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;

use crate::committed::Committed;
use crate::config::Config;
use crate::desk::Workers;
use crate::readers::Writable;
use context::{Context, Shared};
use refusal::Refusal;

/// How long calls in progress may take once the coordinator shuts down.
const FAREWELL: Duration = Duration::from_secs(5);

/// Largest JSON body of a call, in bytes; a message to the inbox has a smaller limit of its own.
const BODY_BYTES_MAX: usize = 1024 * 1024;

/// What the API needs of the coordinator.
pub struct Api {
    pub committed: Arc<Committed>,
    pub jetstream: async_nats::jetstream::Context,
    pub client: async_nats::Client,
    pub store: Arc<causey_artifacts::Store>,
    /// What every call under `/v1` must carry.
    pub token: String,
    pub info: Info,
    pub metrics: metrics_exporter_prometheus::PrometheusHandle,
    /// Ends streams and stops taking calls.
    pub shutdown: CancellationToken,
}

/// What the coordinator says about itself.
#[derive(Clone, Debug)]
pub struct Info {
    pub version: String,
    /// Name of this coordinator.
    pub name: String,
    pub nats_version: String,
    /// Location of the artifact store.
    pub store: String,
    pub started: Timestamp,
    pub workers: Arc<Workers>,
    pub writable: Writable,
}

impl Info {
    /// What a coordinator that starts now with this configuration says.
    #[must_use]
    pub fn new(config: &Config, nats_version: String, workers: Arc<Workers>, writable: Writable) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").into(),
            name: config.name.clone(),
            nats_version,
            store: config.store.clone(),
            started: wall::now(),
            workers,
            writable,
        }
    }
}

impl std::fmt::Debug for Api {
    /// Without the token.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api").field("info", &self.info).finish_non_exhaustive()
    }
}

/// Serves the API on `listener` until shutdown; calls in progress then have five seconds, event streams end at once.
///
/// # Errors
/// When the listener has no address. A connection that fails concerns only its client.
pub async fn serve(listener: TcpListener, api: Api) -> std::io::Result<()> {
    let shutdown = api.shutdown.clone();
    let shared = Arc::new(Shared::new(api, listener.local_addr()?));
    let live = tokio::spawn(live::listen(shared.clone()));
    // Without this, small events wait for the client's delayed acknowledgement (40 ms).
    let listener = listener.tap_io(|connection| drop(connection.set_nodelay(true)));
    let served = axum::serve(listener, routes(shared)).with_graceful_shutdown(shutdown.clone().cancelled_owned());
    let result = tokio::select! {
        result = async { served.await } => result,
        () = async { shutdown.cancelled().await; tokio::time::sleep(FAREWELL).await } => Ok(()),
    };
    // Ends by itself at shutdown; nothing it holds outlives its followers.
    live.abort();
    result
}

fn routes(shared: Context) -> Router {
    let large = |path: &str, method, bytes_max: usize| {
        let bounded = from_fn_with_state(bytes_max as u64, extract::bounded);
        Router::new().route(path, method).layer(DefaultBodyLimit::max(bytes_max)).layer(bounded)
    };
    let packages = large("/v1/packages/{digest}", put(packages::put).head(packages::head), packages::PACKAGE_BYTES_MAX);
    let published = large("/v1/events", post(events::post), events::BATCH_BYTES_MAX);
    Router::new()
        .route("/v1/runs", post(runs::submit).get(runs::list))
        .route("/v1/runs/{run}", get(runs::show))
        .route("/v1/runs/{run}/cancel", post(runs::cancel))
        .route("/v1/runs/{run}/status", get(run_status::show))
        .route("/v1/runs/{run}/signals/{name}", post(gates::signal))
        .route("/v1/runs/{run}/approvals/{step}", post(gates::decide))
        .route("/v1/runs/{run}/resume", post(resume::resume))
        .route("/v1/runs/{run}/tasks", get(tasks::list))
        .route("/v1/runs/{run}/logs", get(logs::list))
        .route("/v1/runs/{run}/logs/follow", get(tail::follow))
        .route("/v1/runs/{run}/why", get(why::run))
        .route("/v1/flows/{flow}/why", get(why::trigger))
        .route("/v1/dead-letters", get(letters::list))
        .route("/v1/dead-letters/{letter}", get(letters::show))
        .route("/v1/dead-letters/{letter}/redrive", post(letters::redrive))
        .route("/v1/dead-letters/{letter}/discard", post(letters::discard))
        .route("/v1/pools", get(pools::list))
        .route("/v1/pools/{pool}/why", get(why::pool))
        .route("/v1/pools/{pool}/demand", get(pools::demand))
        .route("/v1/pools/{pool}/order", post(pools::order_pool))
        .route("/v1/workers/{pool}/{worker}/order", post(pools::order_worker))
        .route("/v1/runs/{run}/follow", get(follow::follow))
        .route("/v1/flows", post(flows::deploy).get(flows::list))
        .route("/v1/flows/{flow}", get(flows::show))
        .route("/v1/schedules", get(schedules::list))
        .route("/v1/schedules/{flow}/pause", post(schedules::pause))
        .route("/v1/schedules/{flow}/resume", post(schedules::resume))
        .route("/v1/backfills", post(backfills::start).get(backfills::list))
        .route("/v1/backfills/{backfill}/cancel", post(backfills::cancel))
        .route("/v1/events/follow", get(notifications::follow))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{name}", get(models::versions))
        .route("/v1/models/{name}/{version}", get(models::show))
        .route("/v1/models/{name}/{version}/content", get(models::content))
        .route("/v1/workers/{pool}/{worker}/lost", post(status::worker_lost))
        .route("/v1/status", get(status::show))
        .route("/livez", get(probes::livez))
        .route("/readyz", get(probes::readyz))
        .route("/metrics", get(probes::metrics))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(from_fn_with_state(BODY_BYTES_MAX as u64, extract::bounded))
        .merge(packages)
        .merge(published)
        .fallback(refusal::no_such_path)
        .method_not_allowed_fallback(refusal::no_such_method)
        .layer(from_fn_with_state(shared.clone(), wait::stamp))
        .layer(from_fn_with_state(shared.clone(), guard::check))
        .layer(CatchPanicLayer::custom(panicked))
        .with_state(shared)
}

/// A panic while answering is a bug of ours; it ends one call, not the server.
#[expect(clippy::needless_pass_by_value, reason = "the layer calls it like this")]
fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    tracing::error!(panic = text.unwrap_or("no text"), "a call to the API panicked");
    let problem = Problem::new(Code::BUG, "this call met a bug in Causey").hint("the coordinator's log has the details; please report it");
    Refusal::new(axum::http::StatusCode::INTERNAL_SERVER_ERROR, problem).into_response()
}

#[cfg(test)]
mod tests;
