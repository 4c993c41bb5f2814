//! Read your writes: waits until the committed state has come far enough, and stamps answers with what they reflect.

use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::HeaderValue;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use causey_protocol::problem::{Code, Problem};
use causey_protocol::record::Position;

use super::context::Context;
use super::extract::SEQUENCE;
use super::refusal::Refusal;
use crate::committed::{Committed, Progress, Role};

/// How long a call waits for the committed state.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// Waits until `enough` holds of the progress; `Err` is the progress when patience ran out.
pub(super) async fn until(committed: &Committed, enough: impl Fn(&Progress) -> bool) -> Result<(), Progress> {
    let mut progress = committed.watch();
    // The sender lives in `Committed`, which we hold: only time can run out.
    let reached = tokio::time::timeout(PATIENCE, progress.wait_for(|progress| enough(progress))).await.is_ok();
    if reached { Ok(()) } else { Err(progress.get()) }
}

/// Whether the committed state has come to where the log was when this coordinator started: before that it answers nobody.
async fn is_serving(committed: &Committed) -> bool {
    let mut role = committed.role();
    tokio::time::timeout(PATIENCE, role.wait_for(|role| *role != Role::Starting)).await.is_ok()
}

/// Why an accepted message has no outcome yet: nobody decides, or not fast enough.
pub(super) fn undecided(committed: &Committed, what: &str) -> Refusal {
    let led = matches!(committed.role().get(), Role::Leader | Role::Standby { leader: Some(_) });
    let (code, why) = if led { (Code::BROKER, "") } else { (Code::NOT_LEADER, "; no coordinator leads") };
    let problem = Problem::new(code, format!("{what} was accepted, but not decided within {} seconds{why}", PATIENCE.as_secs()));
    problem.hint("it will be; ask again with the same request_id or event id, it is not done twice").into()
}

pub(super) fn starting() -> Refusal {
    let problem = Problem::new(Code::NOT_LEADER, "this coordinator has not yet read the log to its end");
    problem.hint("it is starting; try again in a moment, or ask another coordinator").into()
}

/// Honours `Causey-Sequence` of the call and puts one on every answer. What a handler does not stamp itself gets the sequence from
/// before the handler looked: never more than the answer reflects.
pub(super) async fn stamp(State(context): State<Context>, request: Request, next: Next) -> Response {
    // A coordinator that has just started knows only what its projection held; a call that comes early waits for the rest.
    let path = request.uri().path();
    let needs_state = path.starts_with("/v1/") && !path.starts_with("/v1/packages/") && path != "/v1/status";
    if needs_state && !is_serving(&context.api.committed).await {
        return starting().into_response();
    }
    if let Some(wanted) = request.headers().get(SEQUENCE)
        && let Err(refusal) = reach(&context.api.committed, wanted).await
    {
        return refusal.into_response();
    }
    let before = context.read().sequence;
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let mut response = next.run(request).await;
    if response.status().is_server_error() {
        tracing::warn!(%method, path, status = response.status().as_u16(), "call failed");
    }
    response.headers_mut().entry(SEQUENCE).or_insert_with(|| HeaderValue::from(before));
    response
}

async fn reach(committed: &Committed, wanted: &HeaderValue) -> Result<(), Refusal> {
    let position: Option<Position> = wanted.to_str().ok().and_then(|text| text.parse().ok());
    let Some(Position { sequence, .. }) = position else {
        return Err(Refusal::malformed("the header Causey-Sequence is not a log sequence").hint("send what an earlier answer carried"));
    };
    if committed.read().sequence >= sequence {
        return Ok(());
    }
    until(committed, |progress| progress.sequence >= sequence).await.map_err(|progress| {
        let what = format!("this coordinator has come to log sequence {}, not yet to {sequence}", progress.sequence);
        Problem::new(Code::BROKER, what).hint("try again in a moment").into()
    })
}
