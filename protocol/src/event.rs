//! CloudEvents 1.0 (<https://github.com/cloudevents/spec>): the one form in which the outside world tells Causey something and is
//! told. Structured JSON and the binary form with `ce-` headers, which HTTP and NATS share.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::problem::{Code, Problem};

/// Longest `id`, `source`, `type` or `subject`, in bytes.
const ATTRIBUTE_BYTES_MAX: usize = 1024;

/// Largest sum of events that start one run, in bytes of structured JSON: they travel in every dispatch of the run.
pub const STARTING_EVENTS_BYTES_MAX: usize = 128 * 1024;

/// Content type of one event in structured JSON.
pub const STRUCTURED: &str = "application/cloudevents+json";

/// Content type of a JSON list of events.
pub const BATCH: &str = "application/cloudevents-batch+json";

/// One event. Attributes this type does not name, extensions too, are kept in `attributes`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloudEvent {
    pub id: String,
    pub source: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub subject: Option<String>,
    /// `time`, `datacontenttype`, `dataschema` and extensions, as text.
    pub attributes: BTreeMap<String, String>,
    /// JSON data as it is; other data as text, or base64 under `data_base64` in the structured form.
    pub data: Value,
    /// Whether `data` holds base64 of binary data.
    pub base64: bool,
}

impl CloudEvent {
    /// Reads the structured form.
    ///
    /// # Errors
    /// A [`Problem`] naming the attribute that is missing or wrong.
    pub fn from_structured(value: Value) -> Result<Self, Problem> {
        let Value::Object(mut fields) = value else {
            return Err(malformed("a CloudEvent is a JSON object"));
        };
        let version = take_text(&mut fields, "specversion")?;
        if version != "1.0" {
            return Err(malformed(&format!("specversion {version:?} is not read; send \"1.0\"")));
        }
        let id = take_text(&mut fields, "id")?;
        let source = take_text(&mut fields, "source")?;
        let kind = take_text(&mut fields, "type")?;
        let subject = if fields.contains_key("subject") { Some(take_text(&mut fields, "subject")?) } else { None };
        let (data, base64) = match (fields.remove("data"), fields.remove("data_base64")) {
            (Some(data), None) => (data, false),
            (None, Some(data @ Value::String(_))) => (data, true),
            (None, None) => (Value::Null, false),
            _ => return Err(malformed("an event has either `data` or `data_base64` (text)")),
        };
        let mut attributes = BTreeMap::new();
        for (name, value) in fields {
            check_attribute_name(&name)?;
            let text = match value {
                Value::String(text) => text,
                Value::Number(number) => number.to_string(),
                Value::Bool(flag) => flag.to_string(),
                Value::Null => continue,
                Value::Array(_) | Value::Object(_) => {
                    return Err(malformed(&format!("attribute `{name}` is neither text, number nor boolean")));
                }
            };
            attributes.insert(name, text);
        }
        Self { id, source, kind, subject, attributes, data, base64 }.checked()
    }

    /// Reads the binary form: attributes from `ce-` headers (names in lower case), `content_type` and the body as data.
    ///
    /// # Errors
    /// A [`Problem`] naming the header that is missing or wrong.
    pub fn from_binary(headers: &BTreeMap<String, String>, content_type: Option<&str>, body: &[u8]) -> Result<Self, Problem> {
        let mut fields = Map::new();
        for (name, value) in headers {
            if let Some(attribute) = name.strip_prefix("ce-") {
                fields.insert(attribute.to_owned(), Value::String(percent_decode(value)));
            }
        }
        let content_type =
            content_type.map(str::to_owned).or_else(|| fields.get("datacontenttype").and_then(Value::as_str).map(str::to_owned));
        if !body.is_empty() {
            let json = content_type.as_deref().is_none_or(is_json);
            let data = if json {
                serde_json::from_slice(body).map_err(|error| malformed(&format!("the body is not JSON: {error}")))?
            } else {
                let text = std::str::from_utf8(body).map_err(|_| {
                    malformed("the body is neither JSON nor text; send binary data as `data_base64` in the structured form")
                })?;
                Value::String(text.to_owned())
            };
            fields.insert("data".into(), data);
        }
        if let Some(content_type) = content_type {
            fields.insert("datacontenttype".into(), Value::String(content_type));
        }
        Self::from_structured(Value::Object(fields))
    }

    /// Writes the structured form.
    #[must_use]
    pub fn to_structured(&self) -> Value {
        let mut fields = Map::new();
        fields.insert("specversion".into(), "1.0".into());
        fields.insert("id".into(), self.id.clone().into());
        fields.insert("source".into(), self.source.clone().into());
        fields.insert("type".into(), self.kind.clone().into());
        if let Some(subject) = &self.subject {
            fields.insert("subject".into(), subject.clone().into());
        }
        for (name, value) in &self.attributes {
            fields.insert(name.clone(), value.clone().into());
        }
        if !self.data.is_null() {
            fields.insert(if self.base64 { "data_base64" } else { "data" }.into(), self.data.clone());
        }
        Value::Object(fields)
    }

    fn checked(self) -> Result<Self, Problem> {
        for (name, text) in [("id", &self.id), ("source", &self.source), ("type", &self.kind)] {
            if text.is_empty() {
                return Err(malformed(&format!("attribute `{name}` is empty")));
            }
            if text.len() > ATTRIBUTE_BYTES_MAX {
                return Err(malformed(&format!("attribute `{name}` has {} bytes; at most {ATTRIBUTE_BYTES_MAX} are accepted", text.len())));
            }
        }
        Ok(self)
    }
}

/// Whether a content type means JSON.
#[must_use]
pub fn is_json(content_type: &str) -> bool {
    let kind = content_type.split(';').next().unwrap_or_default().trim();
    kind == "application/json" || kind == "text/json" || kind.ends_with("+json")
}

fn take_text(fields: &mut Map<String, Value>, name: &str) -> Result<String, Problem> {
    match fields.remove(name) {
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(malformed(&format!("attribute `{name}` is not text"))),
        None => Err(malformed(&format!("attribute `{name}` is missing"))),
    }
}

fn check_attribute_name(name: &str) -> Result<(), Problem> {
    let fits = (1..=20).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    if fits { Ok(()) } else { Err(malformed(&format!("attribute name {name:?} is not 1 to 20 lower-case letters and digits"))) }
}

fn malformed(what: &str) -> Problem {
    Problem::new(Code::MALFORMED, format!("event refused: {what}"))
        .hint("required: specversion \"1.0\", id, source, type; see https://cloudevents.io")
}

/// Header values are percent-encoded in the binary forms; malformed escapes stay as they are.
fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped = (bytes[at] == b'%').then(|| text.get(at + 1..at + 3)).flatten().and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match escaped {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8(out).unwrap_or_else(|_| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_structured_form_reads_back() {
        let value = json!({"specversion": "1.0", "id": "1", "source": "/s", "type": "t", "subject": "x", "traceparent": "00-a", "data": {"day": "2026-01-01"}});
        let event = CloudEvent::from_structured(value.clone()).unwrap();
        assert_eq!(event.attributes["traceparent"], "00-a");
        assert_eq!(event.to_structured(), value);
    }

    #[test]
    fn the_binary_form_takes_attributes_from_headers() {
        let headers = [("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "/s%20p"), ("ce-type", "t"), ("host", "h")];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let event = CloudEvent::from_binary(&headers, Some("application/json"), br#"{"a":1}"#).unwrap();
        assert_eq!((event.source.as_str(), &event.data), ("/s p", &json!({"a": 1})));
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = CloudEvent::from_structured(json!({"specversion": "1.0", "id": "1", "type": "t"})).unwrap_err();
        assert_eq!(error.message, "event refused: attribute `source` is missing");
        assert!(CloudEvent::from_structured(json!([1])).is_err());
        assert!(CloudEvent::from_structured(json!({"specversion": "0.3", "id": "1", "source": "s", "type": "t"})).is_err());
    }
}
