//! Pools: what their workers offer, what is wanted of them, and words to their workers. The demand is what scales a pool: it knows slots and
//! resources, which the length of a queue does not.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::StatusCode;
use causey_artifacts::wall::now;
use causey_engine::{Demand, State as Committed};
use causey_protocol::id::{PoolName, RequestId, Timestamp, WorkerName};
use causey_protocol::input::Request;
use causey_protocol::live::Order;
use causey_protocol::record::Answer;
use serde::Deserialize;
use serde_json::{Value, json};

use super::context::Context;
use super::extract::{Body, Named, Reply};
use super::publish::{self, other_request};
use super::refusal::Refusal;
use super::why::Known;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wish {
    request_id: Option<RequestId>,
    user: Option<String>,
    order: Order,
}

pub(super) async fn list(State(context): State<Context>) -> Reply<Value> {
    let state = context.read();
    let known = Known::new(&context, &state);
    let demands = state.demands();
    let mut pools = state.known_pools();
    pools.extend(context.api.info.workers.list().into_iter().map(|seen| seen.offer.pool));
    let pools: Vec<Value> = pools
        .into_iter()
        .map(|pool| {
            let mut view = wanted(&known, &pool, demands.get(&pool));
            view["pool"] = json!(pool);
            view["shapes"] = shapes(&state, &pool);
            view["orders"] = orders(&state, &pool);
            view
        })
        .collect();
    Reply::ok(state.sequence, json!({"pools": pools}))
}

pub(super) async fn demand(State(context): State<Context>, Named(pool): Named<PoolName>) -> Reply<Value> {
    let state = context.read();
    let known = Known::new(&context, &state);
    // Also of a pool that nobody has heard of: whoever scales it asks before its first worker is there.
    Reply::ok(state.sequence, wanted(&known, &pool, state.demands().get(&pool)))
}

/// What is there of a pool, and what is wanted of it.
fn wanted(known: &Known<'_>, pool: &PoolName, demand: Option<&Demand>) -> Value {
    let (mut workers, mut closed, mut slots, mut taken) = (0, 0, 0_u64, 0);
    for seen in known.workers_of(pool) {
        taken += seen.open.len();
        if seen.offer.closed {
            closed += 1;
        } else {
            workers += 1;
            slots += u64::from(seen.offer.slots);
        }
    }
    let (mut queued_slots, mut oldest): (u64, Option<Timestamp>) = (0, None);
    for queued in known.queued(pool) {
        queued_slots += queued.attempts.len() as u64 * u64::from(queued.slots);
        oldest = oldest.into_iter().chain([queued.opened]).min();
    }
    let none = Demand::default();
    let demand = demand.unwrap_or(&none);
    let oldest = oldest.into_iter().chain(demand.oldest.filter(|_| demand.waiting_slots > 0)).min();
    let age = oldest.map_or(0, |since| now().micros_since(since) / 1_000_000);
    json!({
        "wanted_workers": demand.workers, "queued_slots": queued_slots + demand.waiting_slots, "oldest_age_seconds": age,
        "missing": demand.missing, "workers": workers, "closed_workers": closed, "slots": slots, "taken": taken,
    })
}

fn shapes(state: &Committed, pool: &PoolName) -> Value {
    let shapes = state.offers.get(pool).map(Vec::as_slice).unwrap_or_default();
    shapes.iter().map(|count| json!({"workers": count.workers, "offers": count.shape.words(), "shape": count.shape})).collect()
}

fn orders(state: &Committed, pool: &PoolName) -> Value {
    let of = state.orders.iter().filter(|((named, _), _)| named == pool);
    of.map(|((_, worker), said)| json!({"worker": worker, "order": said.order, "at": said.at})).collect()
}

pub(super) async fn order_pool(
    State(context): State<Context>,
    Named(pool): Named<PoolName>,
    Body(given): Body<Wish>,
) -> Result<Reply<Value>, Refusal> {
    order(&context, pool, None, given).await
}

pub(super) async fn order_worker(
    State(context): State<Context>,
    Named((pool, worker)): Named<(PoolName, WorkerName)>,
    Body(given): Body<Wish>,
) -> Result<Reply<Value>, Refusal> {
    order(&context, pool, Some(worker), given).await
}

async fn order(context: &Context, pool: PoolName, worker: Option<WorkerName>, given: Wish) -> Result<Reply<Value>, Refusal> {
    let Wish { request_id, user, order } = given;
    let request = Request::OrderWorkers { pool: pool.clone(), worker: worker.clone(), order };
    let answered = publish::request(context, request_id, &user.unwrap_or_default(), request).await?;
    if answered.answer != Answer::Done {
        return Err(other_request());
    }
    let told = {
        let state = context.read();
        let known = Known::new(context, &state);
        known.workers_of(&pool).filter(|seen| worker.as_ref().is_none_or(|worker| seen.offer.worker == *worker)).count()
    };
    let body: BTreeMap<&str, Value> =
        [("pool", json!(pool)), ("worker", json!(worker)), ("order", json!(order)), ("workers", json!(told))].into();
    Ok(Reply::ok(context.read().sequence, json!(body)).status(StatusCode::ACCEPTED))
}
