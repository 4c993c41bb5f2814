//! Events from outside: read in any of the three HTTP forms of CloudEvents, put on the events stream in structured form, and
//! answered with what came of them.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use causey_artifacts::failpoint;
use causey_engine::State as Committed;
use causey_protocol::codec::MESSAGE_BYTES_MAX;
use causey_protocol::event::{BATCH, CloudEvent, STRUCTURED};
use causey_protocol::id::{FlowName, RunId, RunName, SourceName};
use causey_protocol::problem::{Code, Problem};
use causey_protocol::subject;
use serde::Serialize;
use serde_json::Value;

use super::context::{Context, Shared};
use super::extract::{Content, Reply};
use super::refusal::Refusal;
use super::wait;

/// Largest body, in bytes, and most events in a batch.
pub(super) const BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;
const BATCH_EVENTS_MAX: usize = 1_000;

/// The source that the engine takes these events to come from: whoever holds the token.
const SOURCE: &str = "api";

/// What came of an event; `started`, `because` and `duplicate` are absent while it is not decided.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Outcome {
    /// The event's place in the events stream.
    sequence: u64,
    id: String,
    source: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    started: Option<Vec<Started>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    because: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    duplicate: Option<bool>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Started {
    flow: FlowName,
    run: RunId,
    name: RunName,
}

pub(super) async fn post(State(context): State<Context>, headers: HeaderMap, Content(body): Content) -> Result<Response, Refusal> {
    let (events, batch) = read(&headers, &body)?;
    if let Some(problem) = context.read().refuses_runs() {
        return Err(problem.into());
    }
    let messages = events.iter().map(message).collect::<Result<Vec<_>, _>>()?;
    let sequences = publish(&context, messages).await?;
    let last = sequences.last().copied().unwrap_or_default();
    // Accepted is accepted: patience running out only means that the outcome is not known yet.
    let decided = |progress: &crate::committed::Progress| {
        progress.events >= last && !sequences.iter().any(|sequence| context.read().is_spreading(*sequence))
    };
    let _ = wait::until(&context.api.committed, decided).await;
    let state = context.read();
    let mut outcomes: Vec<Outcome> = sequences.iter().zip(&events).map(|(sequence, event)| outcome(&state, *sequence, event)).collect();
    let known = !outcomes.is_empty() && outcomes.iter().all(|outcome| outcome.duplicate == Some(true));
    let status = if known { StatusCode::OK } else { StatusCode::ACCEPTED };
    let sequence = state.sequence;
    drop(state);
    match outcomes.pop() {
        Some(only) if !batch => Ok(Reply::ok(sequence, only).status(status).into_response()),
        last => {
            outcomes.extend(last);
            Ok(Reply::ok(sequence, outcomes).status(status).into_response())
        }
    }
}

/// The events of a body, and whether it is a batch.
fn read(headers: &HeaderMap, body: &Bytes) -> Result<(Vec<CloudEvent>, bool), Refusal> {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let kind = content_type.and_then(|value| value.split(';').next()).unwrap_or_default().trim().to_ascii_lowercase();
    if kind == STRUCTURED {
        return Ok((vec![CloudEvent::from_structured(json(body)?)?], false));
    }
    if kind == BATCH {
        let Value::Array(events) = json(body)? else {
            return Err(Refusal::malformed("a batch is a JSON list of events"));
        };
        if events.len() > BATCH_EVENTS_MAX {
            let what = format!("the batch has {} events; at most {BATCH_EVENTS_MAX} are accepted", events.len());
            return Err(Problem::new(Code::TOO_LARGE, what).hint("send several batches").into());
        }
        let read = |(place, event)| {
            CloudEvent::from_structured(event).map_err(|problem| {
                let message = format!("event {place} of the batch: {}", problem.message);
                Problem { message, ..problem }
            })
        };
        return Ok((events.into_iter().enumerate().map(read).collect::<Result<_, _>>()?, true));
    }
    let text = |(name, value): (&header::HeaderName, &header::HeaderValue)| Some((name.to_string(), value.to_str().ok()?.to_owned()));
    let headers: BTreeMap<String, String> = headers.iter().filter_map(text).collect();
    if !headers.keys().any(|name| name.starts_with("ce-")) {
        let hint = format!("send Content-Type: {STRUCTURED} with the event as JSON, or the attributes as ce-… headers");
        return Err(Refusal::malformed("the call carries no CloudEvent").hint(hint));
    }
    Ok((vec![CloudEvent::from_binary(&headers, content_type, body)?], false))
}

fn json(body: &[u8]) -> Result<Value, Refusal> {
    serde_json::from_slice(body).map_err(|error| Refusal::malformed(format!("the body is not JSON: {error}")))
}

/// An event as it travels.
fn message(event: &CloudEvent) -> Result<Bytes, Refusal> {
    let bytes = event.to_structured().to_string();
    if bytes.len() > MESSAGE_BYTES_MAX {
        let what = format!("event `{}` has {} bytes; at most {MESSAGE_BYTES_MAX} are accepted", event.id, bytes.len());
        let hint = "put the data into a file or bucket and send its address as `dataref`";
        return Err(Problem::new(Code::TOO_LARGE, what).hint(hint).into());
    }
    Ok(bytes.into())
}

/// Puts messages on the events stream, all on their way before the first is acknowledged, and gives their sequences.
async fn publish(shared: &Shared, messages: Vec<Bytes>) -> Result<Vec<u64>, Refusal> {
    let subject = subject::event(&SourceName::new(SOURCE).expect("this is a name"));
    let count = messages.len();
    let failed = |accepted: usize, error: &dyn std::error::Error| {
        let refusal = Refusal::broker("put the event on the events stream", error);
        match count {
            1 => refusal,
            _ => {
                refusal.hint(format!("{accepted} of {count} events were accepted; send all again, equal source and id start nothing twice"))
            }
        }
    };
    let mut waiting = Vec::with_capacity(count);
    for message in messages {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Content-Type", STRUCTURED);
        let sent = shared.api.jetstream.publish_with_headers(subject.clone(), headers, message).await;
        waiting.push(sent.map_err(|error| failed(0, &error))?);
    }
    let mut sequences = Vec::with_capacity(count);
    for accepted in waiting {
        let accepted = accepted.await.map_err(|error| failed(sequences.len(), &error))?;
        sequences.push(accepted.sequence);
        failpoint::here("event.stored");
    }
    Ok(sequences)
}

fn outcome(state: &Committed, sequence: u64, event: &CloudEvent) -> Outcome {
    let taken = state.events_taken.get(&sequence);
    let started = |run: &RunId| Some(Started { flow: state.flow_name_of(*run)?, run: *run, name: state.name_of(*run)?.clone() });
    Outcome {
        sequence,
        id: event.id.clone(),
        source: event.source.clone(),
        started: taken.map(|taken| taken.started.iter().filter_map(started).collect()),
        because: taken.map(|taken| taken.because.clone()),
        duplicate: taken.map(|taken| taken.duplicate),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(given: &[(&'static str, &'static str)]) -> HeaderMap {
        given.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    const EVENT: &str = r#"{"specversion":"1.0","id":"1","source":"/s","type":"t","data":{"day":1}}"#;

    #[test]
    fn all_three_forms_give_the_same_event() {
        let structured = headers(&[("content-type", "application/cloudevents+json; charset=utf-8")]);
        let (one, batch) = read(&structured, &EVENT.into()).unwrap();
        assert!(!batch);
        let (list, batch) = read(&headers(&[("content-type", BATCH)]), &format!("[{EVENT}]").into()).unwrap();
        assert!(batch);
        assert_eq!(one, list);
        let binary =
            [("content-type", "application/json"), ("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "/s"), ("ce-type", "t")];
        let (binary, _) = read(&headers(&binary), &r#"{"day":1}"#.into()).unwrap();
        assert_eq!((&binary[0].id, &binary[0].data), (&one[0].id, &one[0].data));
    }

    #[test]
    fn a_body_that_is_no_event_is_refused_with_what_to_send() {
        let refused = read(&headers(&[("content-type", "application/json")]), &EVENT.into()).unwrap_err();
        assert!(refused.problem.hint.unwrap().contains(STRUCTURED));
        let refused = read(&headers(&[("content-type", BATCH)]), &format!("[{EVENT},{{}}]").into()).unwrap_err();
        assert_eq!(refused.problem.message, "event 1 of the batch: event refused: attribute `specversion` is missing");
    }

    #[test]
    fn a_large_event_is_refused_with_a_way_out() {
        let mut event = CloudEvent::from_structured(serde_json::from_str(EVENT).unwrap()).unwrap();
        event.data = "x".repeat(MESSAGE_BYTES_MAX).into();
        let refused = message(&event).unwrap_err();
        assert_eq!(refused.status, StatusCode::PAYLOAD_TOO_LARGE);
        assert!(refused.problem.hint.unwrap().contains("dataref"));
    }
}
