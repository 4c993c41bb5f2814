//! Path, query and body of a call, and the JSON answer. Same as axum's, but every refusal is a [`Refusal`].

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use causey_protocol::problem::{Code, Problem};
use futures_util::StreamExt as _;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::refusal::Refusal;

/// The log sequence that an answer reflects, or that a read has to wait for.
pub(super) const SEQUENCE: HeaderName = HeaderName::from_static("causey-sequence");

/// Taken in of a body that is refused for its size, in bytes and time.
const UNWANTED_BYTES_MAX: usize = 64 * 1024 * 1024;
const UNWANTED_TIME_MAX: Duration = Duration::from_secs(10);

/// The parts of the path that the route names.
pub(super) struct Named<T>(pub(super) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Named<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let Path(named) = Path::from_request_parts(parts, state).await.map_err(|rejection| Refusal::malformed(rejection.body_text()))?;
        Ok(Self(named))
    }
}

/// The query string.
pub(super) struct Asked<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Asked<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        let Query(asked) = Query::try_from_uri(&parts.uri).map_err(|rejection| Refusal::malformed(rejection.body_text()))?;
        Ok(Self(asked))
    }
}

/// The bytes of the body, as many as the route accepts.
pub(super) struct Content(pub(super) Bytes);

impl<S: Send + Sync> FromRequest<S> for Content {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        match Bytes::from_request(request, state).await {
            Ok(bytes) => Ok(Self(bytes)),
            Err(rejection) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => Err(too_large()),
            Err(rejection) => Err(Refusal::malformed(format!("the body broke off: {}", rejection.body_text()))),
        }
    }
}

fn too_large() -> Refusal {
    Problem::new(Code::TOO_LARGE, "the body is larger than this call accepts").hint("docs/protocol.md has the limits").into()
}

/// Refuses a body that says itself that it is larger than `bytes_max`, after taking it in: a client that is still sending when the
/// connection closes never sees the answer.
pub(super) async fn bounded(State(bytes_max): State<u64>, request: Request, next: Next) -> Response {
    let length = request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if length.is_none_or(|length| length <= bytes_max) {
        return next.run(request).await;
    }
    let mut left = UNWANTED_BYTES_MAX;
    let mut body = request.into_body().into_data_stream();
    let drain = async {
        while let Some(Ok(piece)) = body.next().await {
            left = left.saturating_sub(piece.len());
            if left == 0 {
                return;
            }
        }
    };
    // Whoever sends slowly or without end is cut off.
    let _ = tokio::time::timeout(UNWANTED_TIME_MAX, drain).await;
    too_large().into_response()
}

/// A JSON body; an absent one reads as `{}`.
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        let Content(bytes) = Content::from_request(request, state).await?;
        read_json(&bytes).map(Self)
    }
}

fn read_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Refusal> {
    let bytes = if bytes.is_empty() { b"{}" } else { bytes };
    serde_json::from_slice(bytes).map_err(|error| {
        let what = if error.is_data() { "the body does not fit this call" } else { "the body is not JSON" };
        Refusal::malformed(format!("{what}: {error}")).hint("docs/protocol.md has the fields")
    })
}

/// A JSON answer that reflects the log up to `sequence`.
#[derive(Debug)]
pub(super) struct Reply<T> {
    pub(super) status: StatusCode,
    pub(super) sequence: u64,
    pub(super) body: T,
}

impl<T> Reply<T> {
    pub(super) fn ok(sequence: u64, body: T) -> Self {
        Self { status: StatusCode::OK, sequence, body }
    }

    pub(super) fn status(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }
}

impl<T: Serialize> IntoResponse for Reply<T> {
    fn into_response(self) -> Response {
        let bytes = serde_json::to_vec(&self.body).expect("answers have a JSON form");
        let headers = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json")), (SEQUENCE, self.sequence.into())];
        (self.status, headers, bytes).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Given {
        #[serde(default)]
        #[expect(dead_code, reason = "only its type matters")]
        count: u32,
    }

    #[test]
    fn a_bad_body_is_refused_with_its_place() {
        let refused = |text: &str| read_json::<Given>(text.as_bytes()).unwrap_err().problem.message;
        assert_eq!(refused("{\"count\":"), "the body is not JSON: EOF while parsing a value at line 1 column 9");
        assert_eq!(refused("{\"cuont\":1}"), "the body does not fit this call: unknown field `cuont`, expected `count` at line 1 column 8");
        assert!(read_json::<Given>(b"").is_ok());
    }
}
