//! Schedules of deployed flows: what fires next, and pausing all of a flow's.

use axum::extract::State;
use causey_artifacts::wall;
use causey_engine::{Fired, Schedules, State as Committed};
use causey_protocol::flow::{Definition, Flow};
use causey_protocol::id::{FlowName, RequestId, Timestamp};
use causey_protocol::input::Request;
use causey_protocol::record::Answer;
use causey_protocol::schedule::{CatchUp, Schedule};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::context::{Context, not_found};
use super::extract::{Body, Named, Reply};
use super::publish::{self, other_request};
use super::refusal::Refusal;
use crate::calendar::Calendar;

/// Firings that the answer to a deployment names.
const FIRINGS_SHOWN: usize = 5;

#[derive(Debug, Serialize)]
pub(super) struct ScheduleView {
    flow: FlowName,
    version: u32,
    cron: String,
    timezone: String,
    catch_up: CatchUp,
    catch_up_max: u32,
    jitter_seconds: u32,
    paused: Option<Value>,
    /// `None` while it is paused.
    next: Option<Timestamp>,
    last: Option<Value>,
    /// Why it never fires.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

pub(super) async fn list(State(context): State<Context>) -> Reply<Value> {
    let state = context.read();
    let mut schedules = Vec::new();
    for (flow, known) in state.schedules.iter() {
        let Some(deployment) = state.deployments.get(flow) else { continue };
        let Some(definition) = state.definitions.get(&deployment.definition) else { continue };
        let of_flow = definition.definition().schedules.iter();
        schedules.extend(of_flow.map(|schedule| view(&state, flow, deployment.version, known, schedule)));
    }
    Reply::ok(state.sequence, json!({"schedules": schedules}))
}

fn view(state: &Committed, flow: &FlowName, version: u32, known: &Schedules, schedule: &Schedule) -> ScheduleView {
    let firing = known.firings.get(&schedule.identity());
    let calendar = Calendar::new(&schedule.cron, schedule.zone());
    let next = |calendar: &Calendar| calendar.after(firing?.last);
    ScheduleView {
        flow: flow.clone(),
        version,
        cron: schedule.cron.clone(),
        timezone: schedule.zone().to_owned(),
        catch_up: schedule.catch_up,
        catch_up_max: schedule.catch_up_max,
        jitter_seconds: schedule.jitter_seconds,
        paused: known.paused.as_ref().map(|(user, at)| json!({"user": user, "at": at})),
        next: calendar.as_ref().ok().and_then(next).filter(|_| known.paused.is_none()),
        last: firing.and_then(|firing| firing.fired.as_ref()).map(|fired| last(state, fired)),
        problem: calendar.err().map(|error| error.to_string()),
    }
}

fn last(state: &Committed, fired: &Fired) -> Value {
    let name = fired.run.and_then(|run| state.name_of(run));
    json!({"instant": fired.instant, "at": fired.at, "run": fired.run, "name": name, "missed": fired.missed, "because": fired.because})
}

/// The schedules of a flow that has just been deployed, each with its next firings.
pub(super) fn with_firings(flow: &Flow) -> Vec<Value> {
    let firings = |schedule: &Schedule| {
        let calendar = Calendar::new(&schedule.cron, schedule.zone()).ok();
        let next = |after: Timestamp| calendar.as_ref().and_then(|calendar| calendar.after(after));
        let next: Vec<Timestamp> = std::iter::successors(next(wall::now()), |last| next(*last)).take(FIRINGS_SHOWN).collect();
        json!({"cron": schedule.cron, "timezone": schedule.zone(), "next": next})
    };
    let definition: &Definition = flow.definition();
    definition.schedules.iter().map(firings).collect()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wish {
    request_id: Option<RequestId>,
    user: Option<String>,
}

pub(super) async fn pause(
    State(context): State<Context>,
    Named(flow): Named<String>,
    Body(wish): Body<Wish>,
) -> Result<Reply<Value>, Refusal> {
    switch(&context, wish, Request::PauseSchedules { flow: named(&flow)? }).await
}

pub(super) async fn resume(
    State(context): State<Context>,
    Named(flow): Named<String>,
    Body(wish): Body<Wish>,
) -> Result<Reply<Value>, Refusal> {
    switch(&context, wish, Request::ResumeSchedules { flow: named(&flow)? }).await
}

pub(super) fn named(flow: &str) -> Result<FlowName, Refusal> {
    FlowName::new(flow).map_err(|error| not_found(error.to_string(), "list the flows with schedules: causey schedules"))
}

async fn switch(context: &Context, wish: Wish, request: Request) -> Result<Reply<Value>, Refusal> {
    let answered = publish::request(context, wish.request_id, &wish.user.unwrap_or_default(), request).await?;
    let Answer::Done = answered.answer else { return Err(other_request()) };
    Ok(Reply::ok(context.read().sequence, json!({})))
}
