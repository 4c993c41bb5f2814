//! Errors as clients see them: RFC 9457 problem details with our code and hint, whatever refused the call.

use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use causey_protocol::problem::{Code, Problem};
use serde_json::{Map, Value, json};

/// A call that was refused or failed.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) problem: Problem,
    /// Further members of the problem details.
    members: Map<String, Value>,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, problem: Problem) -> Self {
        Self { status, problem, members: Map::new() }
    }

    /// A call that cannot be read.
    pub(super) fn malformed(what: impl Into<String>) -> Self {
        Self::from(Problem::new(Code::MALFORMED, what))
    }

    /// The artifact store failed; the cause is for the operator as much as for the caller.
    pub(super) fn store(action: &str, error: &dyn std::error::Error) -> Self {
        let problem = Problem::new(Code::STORE, format!("failed to {action}: {}", causes(error)));
        Self::from(problem.hint("try again; check the artifact store and the coordinator's log"))
    }

    /// The broker did not answer, or not as it should.
    pub(super) fn broker(action: &str, error: &dyn std::error::Error) -> Self {
        let problem = Problem::new(Code::BROKER, format!("failed to {action}: {}", causes(error)));
        Self::from(problem.hint("try again; check that the NATS server is up and has free disk"))
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.problem = self.problem.hint(hint);
        self
    }

    /// Adds a member beside the standard ones.
    pub(super) fn member(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.members.insert(name.to_owned(), value.into());
        self
    }
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self::new(status_of(problem.code), problem)
    }
}

impl From<crate::stored::Error> for Refusal {
    fn from(error: crate::stored::Error) -> Self {
        Self::store("read the results of a foreach", &error)
    }
}

/// The HTTP status that goes with a code.
fn status_of(code: Code) -> StatusCode {
    match code {
        Code::MALFORMED => StatusCode::BAD_REQUEST,
        Code::UNAUTHORIZED => StatusCode::UNAUTHORIZED,
        Code::FOREIGN_ORIGIN | Code::FORBIDDEN => StatusCode::FORBIDDEN,
        Code::NOT_FOUND => StatusCode::NOT_FOUND,
        Code::NOT_RESUMABLE => StatusCode::CONFLICT,
        Code::STORAGE_FULL => StatusCode::INSUFFICIENT_STORAGE,
        Code::CROWDED => StatusCode::TOO_MANY_REQUESTS,
        Code::TOO_LARGE => StatusCode::PAYLOAD_TOO_LARGE,
        Code(1000..=2999) => StatusCode::UNPROCESSABLE_ENTITY,
        Code(3000..=3999) => StatusCode::CONFLICT,
        Code(4000..=5999) => StatusCode::SERVICE_UNAVAILABLE,
        Code(_) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut body = self.members;
        body.insert("type".into(), "about:blank".into());
        body.insert("title".into(), self.status.canonical_reason().unwrap_or("Error").into());
        body.insert("status".into(), self.status.as_u16().into());
        body.insert("detail".into(), self.problem.message.into());
        body.insert("code".into(), json!(self.problem.code));
        body.insert("hint".into(), self.problem.hint.map_or(Value::Null, Value::String));
        let mut response = (self.status, Value::Object(body).to_string()).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        match self.status {
            StatusCode::UNAUTHORIZED => drop(headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))),
            StatusCode::SERVICE_UNAVAILABLE => drop(headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"))),
            // Runs take a while to end.
            StatusCode::TOO_MANY_REQUESTS => drop(headers.insert(header::RETRY_AFTER, HeaderValue::from_static("10"))),
            _ => {}
        }
        response
    }
}

/// An error and its sources in one line.
pub(super) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Some libraries repeat their source in their own text.
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

pub(super) async fn no_such_path(uri: Uri) -> Refusal {
    let problem = Problem::new(Code::NOT_FOUND, format!("this server has nothing at {}", uri.path()));
    Refusal::from(problem.hint("the API is under /v1 and described in docs/protocol.md"))
}

pub(super) async fn no_such_method(method: Method, uri: Uri) -> Refusal {
    let problem = Problem::new(Code::MALFORMED, format!("{} does not take {method}", uri.path()));
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, problem.hint("the answer's `allow` header names the methods it takes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_has_the_status_of_its_code() {
        let status = |code| Refusal::from(Problem::new(code, "x")).status.as_u16();
        assert_eq!([Code::MALFORMED, Code::UNAUTHORIZED, Code::FOREIGN_ORIGIN, Code::NOT_FOUND].map(status), [400, 401, 403, 404]);
        assert_eq!([Code::PARAMETER_TYPE, Code::GRAPH, Code::PACKAGE_UNKNOWN, Code::TOO_LARGE].map(status), [422, 422, 422, 413]);
        assert_eq!([Code::STORE, Code::BROKER, Code::NOT_LEADER, Code::STORAGE_FULL].map(status), [503, 503, 503, 507]);
        assert_eq!(status(Code::CROWDED), 429);
    }

    #[test]
    fn sources_are_told_once() {
        let inner = std::io::Error::other("disk on fire");
        let error = causey_artifacts::StoreError::File { action: "write", path: "cas/1".into(), source: inner };
        assert_eq!(causes(&error), "cannot write cas/1: disk on fire");
    }
}
