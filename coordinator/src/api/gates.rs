//! Signals to a run and decisions about steps that need an approval.

use causey_protocol::id::{RequestId, SignalName, StepName};
use causey_protocol::input::Request;
use causey_protocol::record::Answer;
use serde::Deserialize;
use serde_json::Value;

use axum::extract::State;

use super::context::{Context, find_run};
use super::extract::{Body, Named, Reply};
use super::publish::{self, TEXT_BYTES_MAX, other_request};
use super::refusal::Refusal;
use super::run_view::{self, RunView};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Signal {
    request_id: Option<RequestId>,
    user: Option<String>,
    #[serde(default)]
    data: Value,
}

pub(super) async fn signal(
    State(context): State<Context>,
    Named((run, name)): Named<(String, SignalName)>,
    Body(given): Body<Signal>,
) -> Result<Reply<RunView>, Refusal> {
    let run = find_run(&context.read(), &run)?;
    let request = Request::Signal { run, name, data: given.data };
    ask(&context, &run.to_string(), given.request_id, given.user, request).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Decision {
    request_id: Option<RequestId>,
    user: Option<String>,
    approved: bool,
    #[serde(default)]
    because: Option<String>,
}

pub(super) async fn decide(
    State(context): State<Context>,
    Named((run, step)): Named<(String, StepName)>,
    Body(given): Body<Decision>,
) -> Result<Reply<RunView>, Refusal> {
    let run = find_run(&context.read(), &run)?;
    let because = given.because.unwrap_or_default();
    if because.len() > TEXT_BYTES_MAX {
        return Err(Refusal::malformed(format!("`because` has {} bytes; at most {TEXT_BYTES_MAX} are accepted", because.len())));
    }
    let request = Request::Approve { run, step, approved: given.approved, because };
    ask(&context, &run.to_string(), given.request_id, given.user, request).await
}

async fn ask(
    context: &Context,
    run: &str,
    id: Option<RequestId>,
    user: Option<String>,
    request: Request,
) -> Result<Reply<RunView>, Refusal> {
    let answered = publish::request(context, id, &user.unwrap_or_default(), request).await?;
    if answered.answer != Answer::Done {
        return Err(other_request());
    }
    context.with_run(run, |sequence, run, flow| Reply::ok(sequence, run_view::whole(run, flow))).await
}
