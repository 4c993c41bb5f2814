//! Backfills: start one over a span of time, see how far each has come, cancel one.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::StatusCode;
use causey_engine::{Backfill, State as Committed};
use causey_protocol::id::{FlowName, RequestId};
use causey_protocol::input::Request;
use causey_protocol::parameter::Values;
use causey_protocol::problem::{Code, Problem};
use causey_protocol::record::Answer;
use causey_protocol::schedule::{BACKFILL_RUNS_MAX, BackfillPlan, Schedule};
use serde::Deserialize;
use serde_json::{Value, json};

use super::cancellation::Cancellation;
use super::context::{Context, not_found};
use super::extract::{Body, Named, Reply};
use super::publish::{self, other_request};
use super::refusal::Refusal;
use crate::calendar::Calendar;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wish {
    request_id: Option<RequestId>,
    user: Option<String>,
    flow: FlowName,
    /// A date, a date and time in the zone, or an instant; the first one that counts.
    from: String,
    /// The first one that does not count.
    to: String,
    /// `hour`, `day`, `week`, `month` or a cron pattern; without it that of the flow's only schedule.
    every: Option<String>,
    timezone: Option<String>,
    max_parallel: Option<u32>,
    parameters: Option<Values>,
    /// Flow parameter → how the instant is written into it; without it that of the flow's only schedule.
    instant: Option<BTreeMap<String, String>>,
}

pub(super) async fn start(State(context): State<Context>, Body(wish): Body<Wish>) -> Result<Reply<Value>, Refusal> {
    let (id, user) = (wish.request_id.clone(), wish.user.clone().unwrap_or_default());
    let schedules = schedules(&context.read(), &wish.flow)?;
    let plan = plan(wish, &schedules)?;
    let answered = publish::request(&context, id, &user, Request::Backfill(Box::new(plan))).await?;
    let Answer::BackfillStarted { backfill, total } = answered.answer else { return Err(other_request()) };
    let status = if answered.repeated { StatusCode::OK } else { StatusCode::CREATED };
    Ok(Reply::ok(context.read().sequence, json!({"backfill": backfill, "total": total})).status(status))
}

fn schedules(state: &Committed, flow: &FlowName) -> Result<Vec<Schedule>, Refusal> {
    let found = state.deployments.get(flow).and_then(|deployment| state.definitions.get(&deployment.definition));
    let missing = || not_found(format!("no flow `{flow}` is deployed"), "deploy it first: causey deploy FLOW.py");
    Ok(found.ok_or_else(missing)?.definition().schedules.clone())
}

fn plan(wish: Wish, schedules: &[Schedule]) -> Result<BackfillPlan, Problem> {
    let wrong = |what: String| Problem::new(Code::SCHEDULE, what);
    let only = if let [only] = schedules { Some(only) } else { None };
    let cron = match (wish.every.as_deref(), only) {
        (Some("hour"), _) => "0 * * * *".into(),
        (Some("day"), _) => "0 0 * * *".into(),
        (Some("week"), _) => "0 0 * * SUN".into(),
        (Some("month"), _) => "0 0 1 * *".into(),
        (Some(cron), _) => cron.to_owned(),
        (None, Some(schedule)) => schedule.cron.clone(),
        (None, None) => {
            let what = format!("flow {} has {} schedules, and the backfill does not say how often it runs", wish.flow, schedules.len());
            return Err(wrong(what).hint("say `every`: hour, day, week, month or a cron pattern"));
        }
    };
    let timezone = wish.timezone.or_else(|| Some(only?.zone().to_owned())).unwrap_or_else(|| "UTC".into());
    let calendar = Calendar::new(&cron, &timezone).map_err(|error| wrong(error.to_string()))?;
    let end = |name: &str, text: &str| {
        let what = || {
            wrong(format!("`{name}` is {text:?}, which is no date or time"))
                .hint("write 2026-01-31, 2026-01-31T06:00 or 2026-01-31T06:00:00Z")
        };
        calendar.read(text).ok_or_else(what)
    };
    let (from, to) = (end("from", &wish.from)?, end("to", &wish.to)?);
    let none = || wrong(format!("`{cron}` does not fire between {} and {} in {timezone}", wish.from, wish.to));
    let (first, last, total) = calendar.span(from, to, BACKFILL_RUNS_MAX).ok_or_else(none)?;
    if total > BACKFILL_RUNS_MAX {
        let what = format!("`{cron}` fires more than {BACKFILL_RUNS_MAX} times between {} and {}", wish.from, wish.to);
        return Err(wrong(what).hint("backfill a shorter span of time"));
    }
    let instant = wish.instant.or_else(|| Some(only?.parameters.clone())).unwrap_or_default();
    calendar.write(first, &instant).map_err(wrong)?;
    let (max_parallel, parameters) = (wish.max_parallel.unwrap_or(1), wish.parameters.unwrap_or_default());
    Ok(BackfillPlan { flow: wish.flow, cron, timezone, first, last, total, max_parallel, parameters, instant })
}

/// Newest first.
pub(super) async fn list(State(context): State<Context>) -> Reply<Value> {
    let state = context.read();
    let mut found: Vec<(&RequestId, &Backfill)> = state.backfills.iter().collect();
    found.sort_by_key(|(_, backfill)| std::cmp::Reverse(backfill.created));
    let views: Vec<Value> = found.into_iter().map(|(id, backfill)| view(id, backfill)).collect();
    Reply::ok(state.sequence, json!({"backfills": views}))
}

fn view(id: &RequestId, backfill: &Backfill) -> Value {
    let plan = &backfill.plan;
    let state = match (backfill.finished, &backfill.stopped) {
        (_, Some(_)) => "cancelled",
        (Some(_), None) => "finished",
        (None, None) => "running",
    };
    json!({
        "backfill": id, "flow": plan.flow, "version": backfill.version, "user": backfill.user, "state": state,
        "cron": plan.cron, "timezone": plan.timezone, "first": plan.first, "last": plan.last, "max_parallel": plan.max_parallel,
        "total": plan.total, "done": backfill.done(), "running": backfill.live.len(), "succeeded": backfill.succeeded,
        "failed": backfill.failed, "cancelled": backfill.cancelled, "without_run": backfill.without, "because": backfill.because,
        "stopped": backfill.stopped, "created": backfill.created, "finished": backfill.finished,
    })
}

pub(super) async fn cancel(
    State(context): State<Context>,
    Named(id): Named<String>,
    Body(given): Body<Cancellation>,
) -> Result<Reply<Value>, Refusal> {
    let backfill = RequestId::new(&id).map_err(|error| not_found(error.to_string(), "list them: causey backfills"))?;
    let because = given.because()?;
    let request = Request::CancelBackfill { backfill: backfill.clone(), because };
    let answered = publish::request(&context, given.request_id, &given.user.unwrap_or_default(), request).await?;
    let Answer::Done = answered.answer else { return Err(other_request()) };
    let state = context.read();
    let found = state.backfills.get(&backfill).map_or(Value::Null, |found| view(&backfill, found));
    Ok(Reply::ok(state.sequence, found).status(StatusCode::ACCEPTED))
}
