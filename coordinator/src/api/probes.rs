//! For machines that watch: whether the process lives, whether it can do its work, and its numbers. No token: they tell no names.

use async_nats::connection::State as Connection;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use causey_protocol::problem::{Code, Problem};

use super::context::Context;
use super::refusal::Refusal;
use super::wait::starting;
use crate::committed::Role;

pub(super) async fn livez() -> &'static str {
    "live\n"
}

/// Ready is who has read the log and reaches the broker; leader and standby serve alike.
pub(super) async fn readyz(State(context): State<Context>) -> Result<&'static str, Refusal> {
    if context.api.client.connection_state() != Connection::Connected {
        let problem = Problem::new(Code::BROKER, "the NATS server is not connected");
        return Err(problem.hint("check that it runs and that CAUSEY_NATS_URL is right").into());
    }
    match context.api.committed.role().get() {
        Role::Starting => Err(starting()),
        Role::Standby { .. } => Ok("ready, standby\n"),
        Role::Leader => Ok("ready, leader\n"),
    }
}

pub(super) async fn metrics(State(context): State<Context>) -> impl IntoResponse {
    context.api.metrics.run_upkeep();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], context.api.metrics.render())
}
