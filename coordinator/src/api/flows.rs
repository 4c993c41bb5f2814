//! Deployed flows.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::StatusCode;
use causey_engine::{Deployment, State as Committed};
use causey_protocol::flow::{Definition, Flow, Trigger};
use causey_protocol::id::{FlowName, RequestId, Timestamp};
use causey_protocol::input::Request;
use causey_protocol::parameter::Parameter;
use causey_protocol::record::Answer;
use causey_protocol::schedule::{Concurrency, Schedule};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::context::{Context, not_found};
use super::extract::{Body, Named, Reply};
use super::listed::{self, Listed};
use super::publish::{self, other_request};
use super::refusal::Refusal;
use super::run_view::RunView;
use super::runs::checked;
use super::schedules::with_firings;

/// Runs looked at to find the last one of a flow, the newest first.
const RUNS_SCANNED_MAX: usize = 50_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewDeployment {
    request_id: Option<RequestId>,
    definition: Definition,
    user: Option<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct FlowView {
    flow: FlowName,
    version: u32,
    user: String,
    deployed: Timestamp,
    doc: String,
    parameters: Vec<Parameter>,
    triggers: Vec<Trigger>,
    schedules: Vec<Schedule>,
    concurrency: Option<Concurrency>,
    last_run: Option<RunView>,
    /// Only of a flow asked for by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    definition: Option<Definition>,
}

#[derive(Debug, Serialize)]
pub(super) struct Flows {
    flows: Vec<FlowView>,
}

pub(super) async fn deploy(State(context): State<Context>, Body(given): Body<NewDeployment>) -> Result<Reply<Value>, Refusal> {
    let flow = checked(&context, given.definition).await?;
    let (triggers, schedules) = (flow.definition().triggers.clone(), with_firings(&flow));
    let request = Request::Deploy { flow: Box::new(flow) };
    let answered = publish::request(&context, given.request_id, &given.user.unwrap_or_default(), request).await?;
    let Answer::Deployed { flow, version } = answered.answer else { return Err(other_request()) };
    let status = if answered.repeated { StatusCode::OK } else { StatusCode::CREATED };
    Ok(Reply::ok(context.read().sequence, json!({"flow": flow, "version": version, "triggers": triggers, "schedules": schedules}))
        .status(status))
}

pub(super) async fn list(State(context): State<Context>) -> Result<Reply<Flows>, Refusal> {
    let (sequence, seen) = {
        let state = context.read();
        let names: Vec<&FlowName> = state.deployments.keys().collect();
        let mut last = last_runs(&state, &names);
        let seen = state.deployments.iter().filter_map(|(name, deployment)| {
            Some((view(deployment, &*state.definitions.get(&deployment.definition).cloned()?), last.remove(name)))
        });
        (state.sequence, seen.collect::<Vec<_>>())
    };
    let mut flows = Vec::with_capacity(seen.len());
    for (view, last) in seen {
        flows.push(with_last_run(&context, view, last).await?);
    }
    Ok(Reply::ok(sequence, Flows { flows }))
}

async fn with_last_run(context: &Context, view: FlowView, last: Option<Listed>) -> Result<FlowView, Refusal> {
    let last_run = match last {
        Some(listed) => Some(context.complete(listed).await?),
        None => None,
    };
    Ok(FlowView { last_run, ..view })
}

pub(super) async fn show(State(context): State<Context>, Named(name): Named<String>) -> Result<Reply<FlowView>, Refusal> {
    let (sequence, view, last) = deployed(&context.read(), &name)?;
    Ok(Reply::ok(sequence, with_last_run(&context, view, last).await?))
}

fn deployed(state: &Committed, name: &str) -> Result<(u64, FlowView, Option<Listed>), Refusal> {
    let deployed = FlowName::new(name).ok().and_then(|name| {
        let deployment = state.deployments.get(&name)?;
        Some((name, deployment, state.definitions.get(&deployment.definition)?))
    });
    let shown: String = name.chars().take(100).collect();
    let (name, deployment, flow) =
        deployed.ok_or_else(|| not_found(format!("no flow `{shown}` is deployed"), "deploy it first: causey deploy FLOW.py"))?;
    let last = last_runs(state, &[&name]).remove(&name);
    let view = FlowView { definition: Some(flow.definition().clone()), ..view(deployment, flow) };
    Ok((state.sequence, view, last))
}

fn view(deployment: &Deployment, flow: &Flow) -> FlowView {
    let definition = flow.definition();
    FlowView {
        flow: definition.name.clone(),
        version: deployment.version,
        user: deployment.user.clone(),
        deployed: deployment.at,
        doc: definition.doc.clone(),
        parameters: definition.parameters.clone(),
        triggers: definition.triggers.clone(),
        schedules: definition.schedules.clone(),
        concurrency: definition.concurrency,
        last_run: None,
        definition: None,
    }
}

/// The newest run of each of these flows, as far as it is among the newest of all.
fn last_runs(state: &Committed, names: &[&FlowName]) -> BTreeMap<FlowName, Listed> {
    let mut found = BTreeMap::new();
    for run in listed::newest(state).take(RUNS_SCANNED_MAX) {
        if found.len() == names.len() {
            break;
        }
        let Some(name) = run.flow(state) else { continue };
        if names.contains(&&name)
            && !found.contains_key(&name)
            && let Some(listed) = run.listed(state, &mut |_| None)
        {
            found.insert(name, listed);
        }
    }
    found
}
