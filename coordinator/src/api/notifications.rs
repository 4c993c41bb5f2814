//! Notifications to consumers: the notify stream as server-sent events. A consumer keeps its position and resumes behind it; a
//! lost broker is waited for, and nothing is skipped.

use std::convert::Infallible;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::HeaderMap as NatsHeaders;
use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use async_nats::jetstream::stream::{LastRawMessageErrorKind, Stream as NatsStream};
use async_nats::jetstream::{ErrorCode, Message};
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use causey_protocol::backoff::Delays;
use causey_protocol::record::{Position, Topic};
use causey_protocol::subject::{self, NOTIFY_STREAM, SEQUENCE_HEADER};
use futures_util::{Stream, StreamExt as _, stream};
use serde::Deserialize;

use super::context::Context;
use super::extract::{Asked, SEQUENCE};
use super::follow::KEEP_ALIVE;
use super::refusal::Refusal;

const TOPICS: [Topic; 4] = [Topic::ModelPublished, Topic::RunFinished, Topic::ApprovalRequested, Topic::DeadLetter];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    after: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    name: Option<String>,
}

pub(super) async fn follow(State(context): State<Context>, Asked(wanted): Asked<Wanted>, headers: HeaderMap) -> Result<Response, Refusal> {
    let resumed = headers.get("last-event-id").and_then(|value| value.to_str().ok()).map(str::to_owned);
    let after = resumed.or(wanted.after).map(|text| parse_position(&text)).transpose()?;
    let filter = filter(wanted.kind.as_deref(), wanted.name.as_deref())?;
    let notify = open(&context).await?;
    let (next, behind) = match after {
        Some(after) => (first_behind(&notify, after).await?, after),
        None => newest(&notify).await?,
    };
    let reader = Reader { context, filter, next, behind, messages: None, connects: 0, delays: Delays::new(FIRST_WAIT, LONGEST_WAIT) };
    let events = Sse::new(events(reader)).keep_alive(KeepAlive::new().interval(KEEP_ALIVE));
    Ok(([(SEQUENCE, behind.to_string())], events).into_response())
}

/// Waits before the broker is asked again.
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

fn parse_position(text: &str) -> Result<Position, Refusal> {
    text.parse()
        .map_err(|error: String| Refusal::malformed(error).hint("send the id of the last event that was handled; 0 is the beginning"))
}

/// The subjects that carry what is wanted. Types are known by their CloudEvents name or by their topic.
fn filter(kind: Option<&str>, name: Option<&str>) -> Result<String, Refusal> {
    let topic =
        match kind {
            None => None,
            Some(kind) => {
                let topic = TOPICS.into_iter().find(|topic| topic.event_type() == kind || topic.as_str() == kind);
                let known = || TOPICS.map(Topic::event_type).join(", ");
                Some(topic.ok_or_else(|| {
                    Refusal::malformed(format!("no notification has type {kind:?}")).hint(format!("there are: {}", known()))
                })?)
            }
        };
    // Subjects are built by `subject` alone; a wildcard takes the place of what is not asked for.
    let (any_topic, any_name) = (topic.is_none(), name.is_none());
    let full = subject::notify(topic.unwrap_or(TOPICS[0]), name.unwrap_or("any"));
    let mut tokens: Vec<&str> = full.split('.').collect();
    let last = tokens.len() - 1;
    if any_name {
        tokens[last] = "*";
    }
    if any_topic {
        tokens[last - 1] = "*";
    }
    Ok(tokens.join("."))
}

async fn open(context: &Context) -> Result<NatsStream, Refusal> {
    context.api.jetstream.get_stream(NOTIFY_STREAM).await.map_err(|error| Refusal::broker("open the notifications", &error))
}

/// Where to start for "from now on": behind the last message, whose position lets a client resume before it got anything.
async fn newest(notify: &NatsStream) -> Result<(u64, Position), Refusal> {
    let state = &notify.cached_info().state;
    let position = if state.messages == 0 { None } else { position_at(notify, state.last_sequence).await? };
    Ok((state.last_sequence + 1, position.unwrap_or_default()))
}

/// The stream sequence of the first message behind `after`. Positions grow along the stream, so halving finds it.
async fn first_behind(notify: &NatsStream, after: Position) -> Result<u64, Refusal> {
    let state = &notify.cached_info().state;
    let (mut low, mut high) = (state.first_sequence.max(1), state.last_sequence + 1);
    if after == Position::default() {
        return Ok(low);
    }
    // Everything before `low` is not behind `after`; everything from `high` on is.
    while low < high {
        let middle = low + (high - low) / 2;
        match position_at(notify, middle).await? {
            Some(position) if position > after => high = middle,
            // A gap: the half above it is looked at; the reader skips what is not behind `after`.
            None if middle + 1 < high && is_behind_next(notify, middle, high, after).await? => high = middle,
            Some(_) | None => low = middle + 1,
        }
    }
    Ok(low)
}

/// Whether the first message found after a gap at `middle` lies behind `after`.
async fn is_behind_next(notify: &NatsStream, middle: u64, high: u64, after: Position) -> Result<bool, Refusal> {
    for sequence in middle + 1..high {
        if let Some(position) = position_at(notify, sequence).await? {
            return Ok(position > after);
        }
    }
    Ok(true)
}

/// The position of the message with this sequence; `None` when there is none.
async fn position_at(notify: &NatsStream, sequence: u64) -> Result<Option<Position>, Refusal> {
    match notify.get_raw_message(sequence).await {
        Ok(message) => Ok(position(&message.headers)),
        Err(error) => match error.kind() {
            LastRawMessageErrorKind::NoMessageFound => Ok(None),
            LastRawMessageErrorKind::JetStream(inner) if inner.error_code() == ErrorCode::NO_MESSAGE_FOUND => Ok(None),
            _ => Err(Refusal::broker("read the notifications", &error)),
        },
    }
}

fn position(headers: &NatsHeaders) -> Option<Position> {
    headers.get(SEQUENCE_HEADER)?.as_str().parse().ok()
}

/// Reads the stream for one client.
struct Reader {
    context: Context,
    filter: String,
    /// Nothing before this stream sequence is wanted.
    next: u64,
    /// The position of the last event sent: what is not behind it has been sent.
    behind: Position,
    messages: Option<pull::Ordered>,
    /// Connects to the broker before `messages` began.
    connects: u64,
    delays: Delays,
}

/// Returns once there were more connects than `connects`: the consumer may have died with the server, which the client library notices only after 15 seconds.
async fn reconnected(client: &async_nats::Client, connects: u64) {
    let statistics = client.statistics();
    while statistics.connects.load(Ordering::Relaxed) == connects {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

fn events(reader: Reader) -> impl Stream<Item = Result<Event, Infallible>> {
    stream::unfold(reader, |mut reader| async move { reader.next().await.map(|event| (Ok(event), reader)) })
}

impl Reader {
    /// The next event; `None` at shutdown.
    async fn next(&mut self) -> Option<Event> {
        let shutdown = self.context.api.shutdown.clone();
        shutdown.run_until_cancelled(self.wanted()).await
    }

    async fn wanted(&mut self) -> Event {
        loop {
            let message = self.message().await;
            if let Some(event) = self.event(&message) {
                return event;
            }
        }
    }

    async fn message(&mut self) -> Message {
        loop {
            if let Some(messages) = &mut self.messages {
                let next = tokio::select! {
                    next = messages.next() => next,
                    () = reconnected(&self.context.api.client, self.connects) => None,
                };
                match next {
                    Some(Ok(message)) => {
                        self.delays.reset();
                        return message;
                    }
                    Some(Err(error)) => tracing::debug!(%error, "reading notifications again"),
                    None => {}
                }
                self.messages = None;
                tokio::time::sleep(self.delays.next_delay()).await;
            }
            match self.consume().await {
                Ok(messages) => self.messages = Some(messages),
                Err(refusal) => {
                    tracing::debug!(error = %refusal.problem, "notifications cannot be read yet");
                    tokio::time::sleep(self.delays.next_delay()).await;
                }
            }
        }
    }

    /// Takes `&mut self` because a reader cannot be shared between threads.
    async fn consume(&mut self) -> Result<pull::Ordered, Refusal> {
        self.connects = self.context.api.client.statistics().connects.load(Ordering::Relaxed);
        let config = pull::OrderedConfig {
            filter_subject: self.filter.clone(),
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: self.next },
            ..pull::OrderedConfig::default()
        };
        let consumer = open(&self.context).await?.create_consumer(config).await;
        let consumer = consumer.map_err(|error| Refusal::broker("read the notifications", &error))?;
        consumer.messages().await.map_err(|error| Refusal::broker("read the notifications", &error))
    }

    /// The message as an event, unless it was sent before or lies before the start: a consumer that was made anew by the client
    /// library may begin earlier than asked.
    fn event(&mut self, message: &Message) -> Option<Event> {
        let sequence = message.info().ok()?.stream_sequence;
        let position = message.headers.as_ref().and_then(position)?;
        if sequence < self.next || position <= self.behind {
            return None;
        }
        (self.next, self.behind) = (sequence + 1, position);
        let data = std::str::from_utf8(&message.payload).ok()?;
        // Server-sent events know no carriage return inside a field; JSON needs none outside its strings.
        Some(Event::default().id(position.to_string()).data(data.replace('\r', "")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_name_subjects_of_the_notify_stream() {
        assert_eq!(filter(None, None).unwrap(), "causey.notify.*.*");
        assert_eq!(
            filter(Some("dev.causey.model.published.v1"), Some("title-demand")).unwrap(),
            "causey.notify.model-published.title-demand"
        );
        assert_eq!(filter(Some("run-finished"), None).unwrap(), "causey.notify.run-finished.*");
        assert_eq!(filter(None, Some("Hello")).unwrap(), "causey.notify.*.Hello");
        assert!(filter(Some("dev.causey.unknown"), None).unwrap_err().problem.hint.unwrap().contains("dev.causey.run.finished.v1"));
    }

    #[test]
    fn a_name_cannot_smuggle_a_wildcard_into_the_subject() {
        let filter = filter(None, Some("a.>")).unwrap();
        assert!(filter.starts_with("causey.notify.*.h-"), "{filter}");
        assert!(super::filter(None, Some("*")).unwrap().contains(".h-"));
    }

    #[test]
    fn positions_read_with_and_without_an_index() {
        assert_eq!(parse_position("41.2").unwrap(), Position { sequence: 41, index: 2 });
        assert_eq!(parse_position("0").unwrap(), Position::default());
        assert!(parse_position("now").is_err());
    }
}
