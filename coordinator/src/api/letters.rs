//! Dead letters: list, show, have it done again, discard. A message is put on its way again by publishing it once more where it came
//! from; whatever it starts is told apart by its own identity, so doing that twice starts nothing twice. Of a task's run, which is over, a
//! new one takes the results; its request is named after the letter, so there is one however often that is asked for.

use std::collections::BTreeMap;

use async_nats::HeaderMap;
use axum::extract::State;
use axum::http::StatusCode;
use bytes::Bytes;
use causey_engine::{Letter, State as Committed};
use causey_protocol::id::RequestId;
use causey_protocol::input::{Input, Request};
use causey_protocol::letter::{Dead, LetterEnd, Original};
use causey_protocol::problem::{Code, Problem};
use causey_protocol::record::{Answer, Position};
use causey_protocol::subject;
use serde::Deserialize;
use serde_json::{Value, json};

use super::context::{Context, Shared, not_found};
use super::extract::{Body, Named, Reply};
use super::publish::{self, other_request};
use super::refusal::Refusal;
use super::resume::{Resumed, resumed};
use crate::inbox;
use crate::jetstream::first_values;
use crate::outside::Raw;

/// Bytes of an original that are shown.
const SHOWN_BYTES_MAX: usize = 2_048;

/// Headers that say what a message is.
const HEADERS: [&str; 2] = ["content-type", "ce-"];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wish {
    request_id: Option<RequestId>,
    user: Option<String>,
}

/// Newest first.
pub(super) async fn list(State(context): State<Context>) -> Reply<Value> {
    let state = context.read();
    let letters: Vec<Value> = state.dead_letters.iter().rev().map(|(id, letter)| view(&state, *id, letter)).collect();
    Reply::ok(state.sequence, json!({"dead_letters": letters}))
}

pub(super) async fn show(State(context): State<Context>, Named(id): Named<String>) -> Result<Reply<Value>, Refusal> {
    let (sequence, mut shown, letter) = {
        let state = context.read();
        let (id, letter) = find(&state, &id)?;
        (state.sequence, view(&state, id, &letter), letter)
    };
    if let Dead::Message { subject, sequence: place, original } = &letter.letter.what {
        let found = original_of(&context, subject, *place, original).await;
        shown["original"] = found.map_or(Value::Null, |raw| {
            let text = String::from_utf8_lossy(&raw.payload[..raw.payload.len().min(SHOWN_BYTES_MAX)]).into_owned();
            json!({"headers": raw.headers, "text": text, "whole": raw.payload.len() <= SHOWN_BYTES_MAX})
        });
    }
    Ok(Reply::ok(sequence, shown))
}

pub(super) async fn redrive(
    State(context): State<Context>,
    Named(id): Named<String>,
    Body(given): Body<Wish>,
) -> Result<Reply<Value>, Refusal> {
    let (id, letter) = find_or_answered(&context, &id, given.request_id.as_ref())?;
    let mut run = None;
    match letter.map(|letter| letter.letter.what) {
        Some(Dead::Task { run: poisoned, .. }) => {
            let wish = Resumed::as_it_was(resumption_of(id), given.user.clone());
            run = Some(resumed(&context, &poisoned.to_string(), wish).await?.body);
        }
        Some(Dead::Message { subject, sequence, original }) => {
            let raw = original_of(&context, &subject, sequence, &original).await.ok_or_else(|| {
                let what = format!("the original of dead letter {id} is gone: its stream has been trimmed");
                Refusal::from(Problem::new(Code::NOT_FOUND, what).hint("discard it, and have it sent anew"))
            })?;
            again(&context, raw).await?;
        }
        None => run = started_before(&context.read(), id),
    }
    let mut reply = close(&context, id, LetterEnd::Redriven, given).await?;
    if let Some(run) = run {
        (reply.body["run"], reply.body["name"]) = (run["run"].clone(), run["name"].clone());
    }
    Ok(reply)
}

/// The request for the run in which a letter's task is done again.
fn resumption_of(letter: Position) -> RequestId {
    RequestId::new(format!("redrive-{}-{}", letter.sequence, letter.index)).expect("digits and dashes are a name")
}

/// The run that a letter was redriven by.
fn started_before(state: &Committed, letter: Position) -> Option<Value> {
    match state.requests.get(&resumption_of(letter)) {
        Some((_, Answer::RunStarted { run, name })) => Some(json!({"run": run, "name": name})),
        _ => None,
    }
}

pub(super) async fn discard(
    State(context): State<Context>,
    Named(id): Named<String>,
    Body(given): Body<Wish>,
) -> Result<Reply<Value>, Refusal> {
    let (id, _) = find_or_answered(&context, &id, given.request_id.as_ref())?;
    close(&context, id, LetterEnd::Discarded, given).await
}

async fn close(context: &Context, letter: Position, end: LetterEnd, given: Wish) -> Result<Reply<Value>, Refusal> {
    let request = Request::CloseLetter { letter, end };
    let answered = publish::request(context, given.request_id, &given.user.unwrap_or_default(), request).await?;
    if answered.answer != Answer::Done {
        return Err(other_request());
    }
    let body = json!({"letter": letter.to_string(), "end": end});
    Ok(Reply::ok(context.read().sequence, body).status(StatusCode::ACCEPTED))
}

fn no_letter(id: &str) -> Refusal {
    let shown: String = id.chars().take(100).collect();
    not_found(format!("no dead letter `{shown}`"), "list them: causey dead-letters ls")
}

fn find(state: &Committed, id: &str) -> Result<(Position, Letter), Refusal> {
    let found = id.parse::<Position>().ok().and_then(|place| Some((place, state.dead_letters.get(&place)?.clone())));
    found.ok_or_else(|| no_letter(id))
}

/// The letter, or none if this very request has closed it before.
fn find_or_answered(context: &Shared, id: &str, request: Option<&RequestId>) -> Result<(Position, Option<Letter>), Refusal> {
    let state = context.read();
    let answered = request.is_some_and(|request| state.requests.contains(request));
    match find(&state, id) {
        Ok((place, letter)) => Ok((place, Some(letter).filter(|_| !answered))),
        Err(_) if answered => Ok((id.parse().map_err(|_| no_letter(id))?, None)),
        Err(refusal) => Err(refusal),
    }
}

/// The message as it came: kept with its letter, or still in its stream.
async fn original_of(context: &Shared, subject: &str, sequence: u64, original: &Original) -> Option<Raw> {
    if let Some(payload) = &original.payload {
        let payload = Bytes::copy_from_slice(payload);
        return Some(Raw { sequence, subject: subject.to_owned(), headers: original.headers.clone(), payload });
    }
    let name = if subject.starts_with("causey.event.") { subject::EVENT_STREAM } else { subject::INBOX_STREAM };
    let stream = context.api.jetstream.get_stream_no_info(name).await.ok()?;
    let message = stream.get_raw_message(sequence).await.ok().filter(|message| message.subject.as_str() == subject)?;
    Some(Raw { sequence, subject: subject.to_owned(), headers: first_values(&message.headers), payload: message.payload })
}

/// Publishes a message once more, if it can be read now.
async fn again(context: &Shared, raw: Raw) -> Result<(), Refusal> {
    let is_event = raw.subject.starts_with("causey.event.");
    if !is_event && !raw.subject.starts_with("causey.in.request.") {
        let problem = Problem::new(Code::NOT_FOUND, "a worker's report cannot be sent again by others");
        return Err(Refusal::from(problem.hint("its task runs again by itself if it is open; discard this letter")));
    }
    let inputs = if is_event { vec![inbox::decode_event(&raw)] } else { inbox::decode_inbox(&raw) };
    if let Some(Input::Malformed { because, .. }) = inputs.into_iter().find(|input| matches!(input, Input::Malformed { .. })) {
        let problem = Problem::new(Code::TRANSITION, format!("the message still cannot be read: {because}"));
        let hint = "upgrade the coordinator if the message is of a later version; else discard it, and have it sent anew";
        return Err(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, problem.hint(hint)));
    }
    let mut headers = HeaderMap::new();
    for (name, value) in wanted(&raw.headers) {
        headers.insert(name, value);
    }
    let failed = |error: &dyn std::error::Error| Refusal::broker("publish the message once more", error);
    let sent = context.api.jetstream.publish_with_headers(raw.subject, headers, raw.payload).await.map_err(|error| failed(&error))?;
    sent.await.map_err(|error| failed(&error))?;
    Ok(())
}

/// Expectations about the stream that the original was sent with would not hold any more.
fn wanted(headers: &BTreeMap<String, String>) -> impl Iterator<Item = (&str, &str)> {
    let is_wanted = |name: &str| HEADERS.iter().any(|wanted| name.starts_with(wanted));
    headers.iter().filter(move |(name, _)| is_wanted(name)).map(|(name, value)| (name.as_str(), value.as_str()))
}

fn view(state: &Committed, id: Position, letter: &Letter) -> Value {
    let mut view = json!({"letter": id.to_string(), "at": letter.at, "because": letter.letter.because});
    let about = match &letter.letter.what {
        Dead::Task { run, step, path, visit, attempt, worker } => {
            let flow = state.run(*run).and_then(|run| state.flow_of(run));
            let step = flow.as_ref().map(|flow| flow.step(*step).name.clone());
            json!({"kind": "task", "run": run, "run_name": state.name_of(*run), "flow": flow.map(|flow| flow.definition().name.clone()), "step": step,
                   "task": path.task_name(*visit), "attempt": attempt, "worker": worker})
        }
        Dead::Message { subject, sequence, original } => {
            json!({"kind": "message", "subject": subject, "sequence": sequence, "bytes": original.bytes})
        }
    };
    if let (Some(view), Value::Object(about)) = (view.as_object_mut(), about) {
        view.extend(about);
    }
    view
}
