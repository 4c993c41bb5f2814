//! Reading inputs: messages of the inbox and the events stream by position, and what each means to the engine. Positions live in
//! the log, so nothing is acknowledged here; a message is read again until a committed turn covers it.

use std::time::Duration;

use causey_protocol::backoff::Delays;
use causey_protocol::codec::{self, MESSAGE_BYTES_MAX};
use causey_protocol::event::{self, CloudEvent};
use causey_protocol::input::{Input, RequestMessage};
use causey_protocol::letter::Original;
use causey_protocol::subject::{self, InboxSubject};
use causey_protocol::task::Report;
use tokio::sync::mpsc;

use crate::outside::{Outside, Raw, Reader as _};

/// Reads `stream` behind sequence `after` for ever, in order and without gaps, into `into`. Ends when the receiver is gone.
pub(crate) async fn read(outside: impl Outside, stream: &'static str, mut after: u64, into: mpsc::Sender<Raw>) {
    let mut delays = Delays::new(Duration::from_millis(5), Duration::from_secs(1));
    let mut connected = outside.link().made();
    loop {
        connected.mark_seen();
        let mut messages = match outside.read(stream, after).await {
            Ok(messages) => messages,
            Err(error) => {
                tracing::warn!(stream, after, %error, "cannot read inputs; trying again");
                tokio::select! {
                    biased;
                    () = into.closed() => return,
                    () = tokio::time::sleep(delays.next_delay()) => continue,
                }
            }
        };
        loop {
            let message = tokio::select! {
                biased;
                message = messages.next() => message,
                // After a reconnect the server may have forgotten the consumer, and says so only when its heartbeat is missed.
                _ = connected.changed() => break,
                () = into.closed() => return,
            };
            let Ok(raw) = message else { break };
            let sequence = raw.sequence;
            if sequence <= after {
                continue;
            }
            delays.reset();
            if into.send(raw).await.is_err() {
                return;
            }
            after = sequence;
        }
    }
}

/// What a message of the inbox means: one input for a request, one per piece of a report. Whatever cannot be read is an input too.
#[must_use]
pub fn decode_inbox(raw: &Raw) -> Vec<Input> {
    let malformed = |because: String| vec![unreadable(raw, because)];
    match subject::parse_inbox(&raw.subject) {
        None => malformed("the subject belongs to nobody".into()),
        Some(InboxSubject::Request { .. }) => match codec::decode::<RequestMessage>(&raw.payload, MESSAGE_BYTES_MAX) {
            Ok(request) => vec![Input::Request(request)],
            Err(error) => malformed(words(&error)),
        },
        Some(InboxSubject::Report { pool, worker }) => match codec::decode::<Report>(&raw.payload, MESSAGE_BYTES_MAX) {
            Ok(report) if report.pool == pool && report.worker == worker => {
                report.pieces().map(|items| Input::Report { pool: pool.clone(), worker: worker.clone(), items }).collect()
            }
            Ok(report) => malformed(format!("the report names worker {}.{}", report.pool, report.worker)),
            Err(error) => malformed(words(&error)),
        },
    }
}

fn unreadable(raw: &Raw, because: String) -> Input {
    let original = Original::new(&raw.headers, &raw.payload);
    Input::Malformed { subject: raw.subject.clone(), sequence: raw.sequence, because, original }
}

/// What a message of the events stream means: structured or binary CloudEvents.
#[must_use]
pub fn decode_event(raw: &Raw) -> Input {
    let malformed = |because: String| unreadable(raw, because);
    let Some(source) = subject::parse_event(&raw.subject) else {
        return malformed("the last token of the subject is no source name".into());
    };
    let content_type = raw.headers.get("content-type").map(String::as_str);
    let structured = content_type.map_or(!raw.headers.contains_key("ce-id"), |kind| kind.starts_with(event::STRUCTURED));
    let read = if structured {
        serde_json::from_slice(&raw.payload)
            .map_err(|error| error.to_string())
            .and_then(|value| CloudEvent::from_structured(value).map_err(|problem| problem.message))
    } else {
        CloudEvent::from_binary(&raw.headers, content_type, &raw.payload).map_err(|problem| problem.message)
    };
    match read {
        Ok(event) => Input::Event { sequence: raw.sequence, source, event },
        Err(because) => malformed(because),
    }
}

fn words(error: &codec::DecodeError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn raw(subject: &str, headers: &[(&str, &str)], payload: &[u8]) -> Raw {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Raw { sequence: 7, subject: subject.into(), headers, payload: Bytes::copy_from_slice(payload) }
    }

    fn because(input: &Input) -> &str {
        match input {
            Input::Malformed { sequence: 7, because, .. } => because,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn garbage_is_an_input_that_says_what_is_wrong() {
        assert_eq!(because(&decode_inbox(&raw("causey.in.request.submit", &[], b""))[0]), "the message is empty");
        assert_eq!(
            because(&decode_inbox(&raw("causey.in.request.submit", &[], b"\x07x"))[0]),
            "the message has format version 7; this program reads 1"
        );
        assert!(because(&decode_inbox(&raw("causey.in.report.p.w", &[], b"\x01\xc1"))[0]).starts_with("the message is not what"));
        assert_eq!(because(&decode_inbox(&raw("causey.in.elsewhere", &[], b""))[0]), "the subject belongs to nobody");
        assert!(because(&decode_event(&raw("causey.event.api", &[], b"{"))).contains("EOF"));
    }

    /// Row 41 of the fault model.
    #[test]
    fn a_report_in_the_name_of_another_worker_is_refused() {
        let report = Report { pool: "gpu".parse().unwrap(), worker: "a".parse().unwrap(), items: Vec::new() };
        let inputs = decode_inbox(&raw("causey.in.report.gpu.b", &[], &codec::encode(&report)));
        assert_eq!(because(&inputs[0]), "the report names worker gpu.a");
    }

    #[test]
    fn events_are_read_in_both_forms() {
        let structured = br#"{"specversion":"1.0","id":"1","source":"/s","type":"t"}"#;
        assert!(matches!(decode_event(&raw("causey.event.api", &[], structured)), Input::Event { .. }));
        let headers =
            [("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "/s"), ("ce-type", "t"), ("content-type", "application/json")];
        assert!(matches!(decode_event(&raw("causey.event.api", &headers, b"{\"a\":1}")), Input::Event { .. }));
    }
}
