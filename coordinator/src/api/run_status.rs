//! What a run tells about itself.

use std::collections::BTreeMap;

use axum::extract::State;
use causey_engine::Run;
use causey_protocol::flow::Flow;
use causey_protocol::id::StatusName;
use serde::Deserialize;
use serde_json::{Value, json};

use super::context::{Context, not_found};
use super::extract::{Asked, Named, Reply};
use super::refusal::Refusal;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    name: Option<StatusName>,
}

pub(super) async fn show(
    State(context): State<Context>,
    Named(run): Named<String>,
    Asked(wanted): Asked<Wanted>,
) -> Result<Reply<Value>, Refusal> {
    let look = |sequence: u64, run: &Run, flow: &std::sync::Arc<Flow>| Ok(Reply::ok(sequence, view(run, flow, wanted.name.as_ref())?));
    context.with_run(&run, look).await?
}

fn view(run: &Run, flow: &Flow, wanted: Option<&StatusName>) -> Result<Value, Refusal> {
    if let Some(wanted) = wanted.filter(|wanted| !run.status.contains_key(*wanted)) {
        let names: Vec<&str> = run.status.keys().map(StatusName::as_str).collect();
        let hint = if names.is_empty() { "it tells nothing so far".into() } else { format!("it tells: {}", names.join(", ")) };
        return Err(not_found(format!("run {} tells nothing about `{wanted}`", run.start.name), &hint));
    }
    let told = run.status.iter().filter(|(name, _)| wanted.is_none_or(|wanted| wanted == *name));
    let told: BTreeMap<&StatusName, Value> = told
        .map(|(name, status)| {
            let (step, task) = (&flow.step(status.task.step).name, status.task.path.task_name(status.task.visit));
            (name, json!({"value": status.value, "at": status.at, "step": step, "task": task, "attempt": status.attempt}))
        })
        .collect();
    Ok(json!({"run": run.id(), "name": run.start.name, "state": run.state, "status": told}))
}
