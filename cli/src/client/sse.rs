//! Server-sent events from a byte stream (<https://html.spec.whatwg.org/multipage/server-sent-events.html>). Pure: bytes in,
//! messages out, wherever the bytes are cut.

/// Longest message accepted, in bytes; a server that sends more is not ours.
const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// One message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Message {
    /// The event's name; `message` when the server gave none.
    pub(crate) event: String,
    pub(crate) data: String,
    /// The last id seen, which also holds for messages without one.
    pub(crate) id: Option<String>,
}

/// The server sent more than [`MESSAGE_BYTES_MAX`] without ending a message.
#[derive(Debug, thiserror::Error)]
#[error("an event has more than {MESSAGE_BYTES_MAX} bytes")]
pub(crate) struct TooLong;

/// Takes bytes and gives messages.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    rest: Vec<u8>,
    event: String,
    data: Vec<String>,
    data_bytes: usize,
    id: Option<String>,
}

impl Parser {
    /// Reads the next bytes of the stream.
    ///
    /// # Errors
    /// [`TooLong`]; the stream is then of no use any more.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Result<Vec<Message>, TooLong> {
        self.rest.extend_from_slice(bytes);
        let buffer = std::mem::take(&mut self.rest);
        let mut messages = Vec::new();
        let mut at = 0;
        while let Some(length) = buffer[at..].iter().position(|byte| *byte == b'\n') {
            let line = &buffer[at..at + length];
            let line = String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line));
            messages.extend(self.line(&line));
            at += length + 1;
        }
        self.rest = buffer[at..].to_vec();
        if self.rest.len() + self.data_bytes > MESSAGE_BYTES_MAX { Err(TooLong) } else { Ok(messages) }
    }

    fn line(&mut self, line: &str) -> Option<Message> {
        if line.is_empty() {
            return self.dispatch();
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.event),
            "data" => {
                self.data_bytes += value.len();
                self.data.push(value.to_owned());
            }
            "id" => self.id = Some(value.to_owned()),
            // Comments keep a connection open; `retry` and unknown fields are none of our business.
            _ => {}
        }
        None
    }

    fn dispatch(&mut self) -> Option<Message> {
        let event = std::mem::take(&mut self.event);
        let data = std::mem::take(&mut self.data);
        self.data_bytes = 0;
        if data.is_empty() {
            return None;
        }
        let event = if event.is_empty() { "message".to_owned() } else { event };
        Some(Message { event, data: data.join("\n"), id: self.id.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(event: &str, data: &str, id: Option<&str>) -> Message {
        Message { event: event.into(), data: data.into(), id: id.map(str::to_owned) }
    }

    const STREAM: &str =
        ": hello\n\nevent: run\ndata: {\"a\":1}\n\nid: 7.0\r\ndata: one\r\ndata:two\r\n\r\ndata: last\n\nevent: none\n\ndata: cut";

    #[test]
    fn messages_come_out_the_same_wherever_the_stream_is_cut() {
        let expected =
            [message("run", "{\"a\":1}", None), message("message", "one\ntwo", Some("7.0")), message("message", "last", Some("7.0"))];
        for size in [1, 2, 3, 7, STREAM.len()] {
            let mut parser = Parser::default();
            let messages: Vec<Message> = STREAM.as_bytes().chunks(size).flat_map(|bytes| parser.feed(bytes).unwrap()).collect();
            assert_eq!(messages, expected, "in pieces of {size}");
        }
    }

    #[test]
    fn a_character_cut_in_two_stays_whole() {
        let bytes = "data: é✔\n\n".as_bytes();
        let mut parser = Parser::default();
        let messages: Vec<Message> = bytes.chunks(1).flat_map(|bytes| parser.feed(bytes).unwrap()).collect();
        assert_eq!(messages, [message("message", "é✔", None)]);
    }
}
