//! The installation: who leads, how far the log is, which workers are there; and a supervisor's word that one is gone.

use std::collections::BTreeMap;

use async_nats::connection::State as Connection;
use axum::extract::State;
use axum::http::StatusCode;
use causey_engine::State as Committed;
use causey_protocol::id::{PoolName, RequestId, WorkerName};
use causey_protocol::input::Request;
use causey_protocol::record::{Answer, GENERATION};
use serde::Deserialize;
use serde_json::{Value, json};

use super::context::Context;
use super::extract::{Body, Named, Reply};
use super::publish::{self, other_request};
use super::refusal::Refusal;
use crate::committed::Role;
use crate::desk::Seen;

type Running = BTreeMap<(PoolName, WorkerName), u64>;

pub(super) async fn show(State(context): State<Context>) -> Reply<Value> {
    let info = &context.api.info;
    let connected = context.api.client.connection_state() == Connection::Connected;
    let role = context.api.committed.role().get();
    let leader = match &role {
        Role::Leader => Some(&info.name),
        Role::Standby { leader } => leader.as_ref(),
        Role::Starting => None,
    };
    let writes = info.writable.now();
    let seen = info.workers.list();
    let state = context.read();
    let running = running(&state);
    let workers: Vec<Value> = seen.iter().map(|seen| worker(seen, &running)).collect();
    let body = json!({
        "version": info.version, "name": info.name, "started": info.started, "role": role.as_str(), "leader": leader,
        "epoch": state.epoch, "records": {"reads": GENERATION, "writes": writes.generation, "for": writes.reader}, "sequence": state.sequence, "store": {"id": state.store, "location": info.store},
        "nats": {"version": info.nats_version, "connected": connected}, "runs_live": state.live_runs().count(), "storage": state.storage, "workers": workers,
    });
    Reply::ok(state.sequence, body)
}

/// `open`: attempts the worker said it holds, as of its last hello; `running`: those whose start is in the log.
fn worker(seen: &Seen, running: &Running) -> Value {
    let offer = &seen.offer;
    let running = running.get(&(offer.pool.clone(), offer.worker.clone())).copied().unwrap_or_default();
    json!({"pool": offer.pool, "name": offer.worker, "slots": offer.slots, "running": running, "open": seen.open.len(), "version": offer.version,
           "languages": offer.languages, "memory_mb": offer.memory_mb, "equipment": offer.equipment, "closed": offer.closed, "started": offer.started})
}

/// Attempts that a worker is known to run. Only open attempts are looked at, whose number is bounded.
fn running(state: &Committed) -> Running {
    let mut running = Running::new();
    for run in state.live_runs() {
        for (task, found) in run.unfinished() {
            if let (Some(worker), Some(dispatch)) = (&found.worker, run.dispatch_of(&task, found)) {
                *running.entry((dispatch.pool.clone(), worker.clone())).or_default() += 1;
            }
        }
    }
    running
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Loss {
    request_id: Option<RequestId>,
}

pub(super) async fn worker_lost(
    State(context): State<Context>,
    Named((pool, worker)): Named<(PoolName, WorkerName)>,
    Body(given): Body<Loss>,
) -> Result<Reply<Value>, Refusal> {
    let request = Request::WorkerLost { pool, worker };
    let answered = publish::request(&context, given.request_id, "", request).await?;
    if answered.answer != Answer::Done {
        return Err(other_request());
    }
    Ok(Reply::ok(context.read().sequence, json!({})).status(StatusCode::ACCEPTED))
}
