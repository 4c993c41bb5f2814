//! Runs: start, list, show, cancel.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use causey_artifacts::wall;
use causey_engine::Run;
use causey_protocol::artifact::blob_path;
use causey_protocol::flow::{Definition, Flow};
use causey_protocol::id::{Digest, FlowName, RequestId};
use causey_protocol::input::{FlowChoice, Request};
use causey_protocol::parameter::Values;
use causey_protocol::policy::HostMode;
use causey_protocol::problem::{Code, Problem};
use causey_protocol::record::{Answer, RunState};
use causey_protocol::share::Standing;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::cancellation::Cancellation;
use super::context::{Context, Shared, find_run};
use super::extract::{Asked, Body, Named, Reply};
use super::listed;
use super::publish::{self, TEXT_BYTES_MAX, other_request};
use super::refusal::Refusal;
use super::run_view::{self, RunView};
use super::stuck::{LOOKED_AT_MAX, stuck};
use super::why::Known;
use crate::calendar;

/// Runs in one answer: without `limit`, and at most.
const RUNS_LISTED: usize = 50;
const RUNS_LISTED_MAX: usize = 500;

/// Runs looked at for one answer, so that a filter that matches nothing stays cheap.
const RUNS_SCANNED_MAX: usize = 50_000;

/// Most tags of a run.
const TAGS_MAX: usize = 100;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Submission {
    request_id: Option<RequestId>,
    definition: Option<Definition>,
    flow: Option<FlowName>,
    #[serde(default)]
    parameters: Option<Values>,
    user: Option<String>,
    #[serde(default)]
    tags: Vec<String>,
    host: Option<HostMode>,
    timeout_seconds: Option<f64>,
    priority: Option<i8>,
    max_parallel: Option<u32>,
    /// `false`: no remembered result of a memoised step is taken.
    memo: Option<bool>,
}

pub(super) async fn submit(State(context): State<Context>, Body(given): Body<Submission>) -> Result<Reply<Value>, Refusal> {
    check_tags(&given.tags)?;
    let flow = match (given.definition, given.flow) {
        (Some(definition), None) => FlowChoice::Given(Box::new(checked(&context, definition).await?)),
        (None, Some(name)) => FlowChoice::Deployed(name),
        (Some(_), Some(_)) | (None, None) => {
            return Err(Refusal::malformed("a run needs either `definition` or `flow`").hint("`flow` names a deployed flow"));
        }
    };
    let parameters = given.parameters.unwrap_or_default();
    let standing = Standing { priority: given.priority, max_parallel: given.max_parallel };
    let (tags, host, timeout_seconds) = (given.tags, given.host, given.timeout_seconds);
    let fresh = given.memo == Some(false);
    let request = Request::Submit { flow, parameters, tags, host, timeout_seconds, standing, fresh };
    started(&context, given.request_id, &given.user.unwrap_or_default(), request).await
}

/// Asks for a run, and answers with its name.
pub(super) async fn started(context: &Shared, id: Option<RequestId>, user: &str, request: Request) -> Result<Reply<Value>, Refusal> {
    let answered = publish::request(context, id, user, request).await?;
    let Answer::RunStarted { run, name } = answered.answer else { return Err(other_request()) };
    let state = context.read();
    let created = state.runs.get(&run).map(|run| run.created).or_else(|| state.retired.get(&run).map(|run| run.created));
    let older = created.is_some_and(|created| created < answered.asked);
    let status = if answered.repeated || older { StatusCode::OK } else { StatusCode::CREATED };
    Ok(Reply::ok(state.sequence, json!({"run": run, "name": name, "sequence": state.sequence})).status(status))
}

pub(super) fn check_tags(tags: &[String]) -> Result<(), Refusal> {
    if tags.len() > TAGS_MAX || tags.iter().any(|tag| tag.len() > TEXT_BYTES_MAX) {
        return Err(Refusal::malformed(format!("a run has at most {TAGS_MAX} tags of {TEXT_BYTES_MAX} bytes each")));
    }
    Ok(())
}

/// A definition that can run: its graph is valid and its code is stored.
pub(super) async fn checked(shared: &Shared, definition: Definition) -> Result<Flow, Refusal> {
    let flow = Flow::try_from(definition)?;
    calendar::check(flow.definition())?;
    let package = flow.definition().package;
    if !is_stored(shared, &package).await? {
        let what = format!("the code package {package} of flow {} is not stored", flow.definition().name);
        return Err(Problem::new(Code::PACKAGE_UNKNOWN, what).hint("send it first: PUT /v1/packages/DIGEST").into());
    }
    let steps = flow.definition().steps.iter();
    let locks: BTreeSet<_> = steps.filter_map(|step| Some(step.surroundings.as_ref()?.environment.as_ref()?.lock)).collect();
    for lock in locks {
        if !is_stored(shared, &lock).await? {
            let what = format!("the lock {lock} of an environment of flow {} is not stored", flow.definition().name);
            return Err(Problem::new(Code::PACKAGE_UNKNOWN, what).hint("send it first: PUT /v1/packages/DIGEST").into());
        }
    }
    Ok(flow)
}

async fn is_stored(shared: &Shared, package: &Digest) -> Result<bool, Refusal> {
    let found = shared.api.store.head(&blob_path(package)).await.map_err(|error| Refusal::store("look for the code package", &error))?;
    Ok(found.is_some())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Listing {
    flow: Option<FlowName>,
    state: Option<RunState>,
    limit: Option<usize>,
}

#[derive(Debug, Serialize)]
pub(super) struct Runs {
    runs: Vec<RunView>,
}

/// Newest first: run ids grow with time.
pub(super) async fn list(State(context): State<Context>, Asked(asked): Asked<Listing>) -> Result<Reply<Runs>, Refusal> {
    let limit = asked.limit.unwrap_or(RUNS_LISTED).min(RUNS_LISTED_MAX);
    let (sequence, listed) = {
        let state = context.read();
        let (pools, now) = (Known::new(&context, &state).pools(), wall::now());
        let mut looks = 0..LOOKED_AT_MAX;
        let mut stuck = |run: &Run| looks.next().and_then(|_| stuck(&state, run, &pools, now));
        let wanted = listed::newest(&state)
            .take(RUNS_SCANNED_MAX)
            .filter(|run| asked.state.is_none_or(|wanted| run.state() == wanted))
            .filter(|run| asked.flow.as_ref().is_none_or(|wanted| run.flow(&state).as_ref() == Some(wanted)));
        (state.sequence, wanted.filter_map(|run| run.listed(&state, &mut stuck)).take(limit).collect::<Vec<_>>())
    };
    let mut runs = Vec::with_capacity(listed.len());
    for run in listed {
        runs.push(context.complete(run).await?);
    }
    Ok(Reply::ok(sequence, Runs { runs }))
}

pub(super) async fn show(State(context): State<Context>, Named(run): Named<String>) -> Result<Reply<RunView>, Refusal> {
    let reply = context.with_run(&run, |sequence, run, flow| Reply::ok(sequence, run_view::whole(run, flow))).await?;
    let waits = run_view::waits(&context.read(), reply.body.id());
    Ok(Reply { body: reply.body.waiting(waits), ..reply })
}

pub(super) async fn cancel(
    State(context): State<Context>,
    Named(run): Named<String>,
    Body(given): Body<Cancellation>,
) -> Result<Reply<RunView>, Refusal> {
    let run = find_run(&context.read(), &run)?;
    let because = given.because()?;
    let request = Request::Cancel { run, because };
    let answered = publish::request(&context, given.request_id, &given.user.unwrap_or_default(), request).await?;
    if !matches!(answered.answer, Answer::Cancelling { .. }) {
        return Err(other_request());
    }
    let view = |sequence, run: &Run, flow: &Arc<Flow>| Reply::ok(sequence, run_view::whole(run, flow)).status(StatusCode::ACCEPTED);
    context.with_run(&run.to_string(), view).await
}
