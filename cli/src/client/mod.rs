//! The HTTP API as this program uses it: typed answers, errors with code and hint, and patience with a server that is being
//! restarted. Every request that changes something carries an id of its own, so sending it again is harmless.

pub(crate) mod answer;
pub(crate) mod sse;
pub(crate) mod stream;

use std::error::Error as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use causey_protocol::backoff::Delays;
use causey_protocol::problem::Code;
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url, header};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::exit::Exit;
use crate::fault::{self, Fault};

/// Longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(5);

/// Longest wait for the whole answer of an ordinary call; the server itself waits up to 5 s for a decision.
const CALL: Duration = Duration::from_secs(60);

/// How long a server that has answered before may be away: a coordinator restarts in less.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection to one server.
#[derive(Debug)]
pub(crate) struct Client {
    http: reqwest::Client,
    base: Url,
    token: String,
    /// Whether the server has ever answered; before that, a refused connection is final.
    reached: AtomicBool,
}

impl Client {
    /// # Errors
    /// When `url` is not one this program can talk to.
    pub(crate) fn new(url: &str, token: &str) -> Result<Self, Fault> {
        let wrong = |what: &str| {
            Fault::new(Exit::Usage, fault::ARGUMENT, format!("{url:?} is no server address: {what}"))
                .hint("an address looks like http://127.0.0.1:4780")
        };
        let base: Url = url.parse().map_err(|_| wrong("it is not a URL"))?;
        if base.scheme() == "https" {
            return Err(wrong("this build does not speak https; put a proxy or an SSH tunnel in front and use http on loopback"));
        }
        if base.scheme() != "http" || base.host().is_none() {
            return Err(wrong("it does not begin with http://"));
        }
        let http = reqwest::Client::builder().no_proxy().connect_timeout(CONNECT).tcp_nodelay(true).build();
        let http = http.map_err(|error| Fault::new(Exit::Failed, fault::UNREACHABLE, "cannot set up HTTP").detail(chain(&error)))?;
        Ok(Self { http, base, token: token.to_owned(), reached: AtomicBool::new(false) })
    }

    pub(crate) fn base(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    /// Treats the server as known to be up, so that a refused connection means it is being restarted.
    pub(crate) fn assume_reached(&self) {
        self.reached.store(true, Ordering::Relaxed);
    }

    /// # Errors
    /// [`Fault`] for an unreachable server, its refusal, or an answer that is not as promised.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &[&str], query: &[(&str, String)]) -> Result<T, Fault> {
        let url = self.url(path, query);
        read(self.send(|| self.request(Method::GET, url.clone()).timeout(CALL)).await?).await
    }

    /// Posts JSON. Sent again after a broken connection, so the body must carry its own identity.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub(crate) async fn post<T: DeserializeOwned>(&self, path: &[&str], body: &serde_json::Value) -> Result<T, Fault> {
        let url = self.url(path, &[]);
        read(self.send(|| self.request(Method::POST, url.clone()).timeout(CALL).json(body)).await?).await
    }

    /// Posts a CloudEvent in structured form; its `source` and `id` are its identity.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub(crate) async fn post_event(&self, event: &serde_json::Value) -> Result<answer::Published, Fault> {
        let url = self.url(&["events"], &[]);
        let body = event.to_string();
        let request = || {
            let request = self.request(Method::POST, url.clone()).timeout(CALL);
            request.header(header::CONTENT_TYPE, causey_protocol::event::STRUCTURED).body(body.clone())
        };
        read(self.send(request).await?).await
    }

    /// Stores a code package; a known one is accepted as well.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub(crate) async fn put_package(&self, digest: &str, tar: Vec<u8>) -> Result<(), Fault> {
        let url = self.url(&["packages", digest], &[]);
        let body = bytes::Bytes::from(tar);
        self.send(|| self.request(Method::PUT, url.clone()).timeout(CALL).body(body.clone())).await.map(drop)
    }

    /// Tells the server that a worker is gone. One try: without it the worker's tasks come back later, by their ack wait.
    pub(crate) async fn report_lost(&self, pool: &str, worker: &str, patience: Duration) -> bool {
        let url = self.url(&["workers", pool, worker, "lost"], &[]);
        let answer = self.request(Method::POST, url).timeout(patience).json(&serde_json::json!({})).send().await;
        answer.is_ok_and(|answer| answer.status().is_success())
    }

    fn url(&self, path: &[&str], query: &[(&str, String)]) -> Url {
        let mut url = self.base.clone();
        // A base with a host, as checked in `new`, always has path segments.
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().push("v1").extend(path);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        url
    }

    fn request(&self, method: Method, url: Url) -> RequestBuilder {
        self.http.request(method, url).bearer_auth(&self.token)
    }

    /// Sends until there is an answer other than "not now", as long as the server may be expected to come back.
    async fn send(&self, request: impl Fn() -> RequestBuilder) -> Result<Response, Fault> {
        let begun = Instant::now();
        let mut delays = Delays::new(Duration::from_millis(5), Duration::from_secs(1));
        loop {
            let fault = match request().send().await {
                Ok(answer) => {
                    self.assume_reached();
                    if answer.status().is_success() {
                        return Ok(answer);
                    }
                    let busy = answer.status() == StatusCode::SERVICE_UNAVAILABLE;
                    let fault = refusal(answer).await;
                    // A store that refuses will go on doing so; a broker or a leader on its way comes back.
                    if !busy || fault.code == Code::STORE {
                        return Err(fault);
                    }
                    fault
                }
                Err(error) => self.unreachable(&error),
            };
            if !self.reached.load(Ordering::Relaxed) || begun.elapsed() > PATIENCE {
                return Err(fault);
            }
            tokio::time::sleep(delays.next_delay()).await;
        }
    }

    pub(crate) fn unreachable(&self, error: &reqwest::Error) -> Fault {
        Fault::new(Exit::Unreachable, fault::UNREACHABLE, format!("cannot reach the server at {}", self.base()))
            .detail(chain(error))
            .hint("start a local one with: causey dev")
    }
}

async fn read<T: DeserializeOwned>(answer: Response) -> Result<T, Fault> {
    let url = answer.url().clone();
    let unexpected = |why: String| {
        Fault::new(Exit::Failed, fault::ANSWER, format!("the answer of {} is not what the API promises", url.path())).detail(why)
    };
    let bytes = answer.bytes().await.map_err(|error| unexpected(chain(&error)))?;
    serde_json::from_slice(&bytes).map_err(|error| unexpected(error.to_string()))
}

/// RFC 9457 problem details, as far as they are needed.
#[derive(Deserialize)]
struct ProblemDetails {
    #[serde(default)]
    title: Option<String>,
    #[serde(default)]
    detail: Option<String>,
    #[serde(default)]
    code: Option<Code>,
    #[serde(default)]
    hint: Option<String>,
}

async fn refusal(answer: Response) -> Fault {
    let (status, path) = (answer.status(), answer.url().path().to_owned());
    let bytes = answer.bytes().await.unwrap_or_default();
    let details = serde_json::from_slice::<ProblemDetails>(&bytes).ok();
    refusal_of(status, &path, details)
}

fn refusal_of(status: StatusCode, path: &str, details: Option<ProblemDetails>) -> Fault {
    let exit = match status.as_u16() {
        404 | 410 => Exit::NotFound,
        409 | 412 => Exit::Conflict,
        408 | 504 => Exit::TimedOut,
        400..=499 => Exit::Usage,
        _ => Exit::Unreachable,
    };
    let Some(details) = details else {
        return Fault::new(exit, fault::ANSWER, format!("the server answered {status} to {path}"));
    };
    let message = details.detail.or(details.title).unwrap_or_else(|| format!("the server answered {status} to {path}"));
    let mut fault = Fault::new(exit, details.code.unwrap_or(fault::ANSWER), message);
    fault.hint = details.hint;
    if fault.hint.is_none() && status == StatusCode::UNAUTHORIZED {
        fault.hint = Some("give the server's token with --token or CAUSEY_TOKEN".into());
    }
    fault
}

/// The causes of an error in one line, each once. What reqwest says first is only that it was sending a request, which every caller
/// says better.
pub(crate) fn chain(error: &reqwest::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut next = error.source().or(Some(error));
    while let Some(error) = next {
        let text = error.to_string();
        if !parts.iter().any(|part| part.contains(&text)) {
            parts.push(text);
        }
        next = error.source();
    }
    parts.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_in_addresses() {
        let client = Client::new("http://127.0.0.1:4780/", "t").unwrap();
        let url = client.url(&["runs", "a/b"], &[("flow", "x y".into())]);
        assert_eq!(url.as_str(), "http://127.0.0.1:4780/v1/runs/a%2Fb?flow=x+y");
    }

    #[test]
    fn an_address_that_cannot_work_is_refused_at_once() {
        assert!(Client::new("127.0.0.1:4780", "t").unwrap_err().message.contains("no server address"));
        assert!(Client::new("https://example.org", "t").unwrap_err().message.contains("https"));
    }

    #[test]
    fn problem_details_keep_their_code_and_hint() {
        let details = serde_json::from_str(
            r#"{"type":"about:blank","title":"Not Found","status":404,"detail":"no run `x`","code":"CSY-1006","hint":"see causey runs"}"#,
        );
        let fault = refusal_of(StatusCode::NOT_FOUND, "/v1/runs/x", details.ok());
        assert_eq!(
            (fault.exit, fault.code, fault.message.as_str(), fault.hint.as_deref()),
            (Exit::NotFound, Code::NOT_FOUND, "no run `x`", Some("see causey runs"))
        );
        assert_eq!(refusal_of(StatusCode::CONFLICT, "/", None).exit, Exit::Conflict);
        assert_eq!(refusal_of(StatusCode::BAD_GATEWAY, "/", None).exit, Exit::Unreachable);
    }
}
