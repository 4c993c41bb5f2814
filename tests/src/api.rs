//! The HTTP API as a client sees it.

use std::time::Duration;

use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::Value;

use crate::wait::until;

/// A server's address and token.
#[derive(Clone, Debug)]
pub struct Api {
    client: reqwest::Client,
    pub url: String,
    pub token: String,
}

/// What was answered.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub body: Value,
}

impl Reply {
    /// Checks that the call was refused with this status and code, in these words.
    ///
    /// # Panics
    /// When it was not.
    pub fn refused(&self, status: u16, code: &str, words: &[&str]) {
        assert_eq!((self.status.as_u16(), self.body["code"].as_str()), (status, Some(code)), "{self:?}");
        let text = self.body.to_string();
        for word in words {
            assert!(text.contains(word), "{word:?} is not in {text}");
        }
    }
}

impl Api {
    /// # Panics
    /// When no HTTP client can be made.
    #[must_use]
    pub fn new(url: &str, token: &str) -> Self {
        let client = reqwest::Client::builder().timeout(Duration::from_secs(30)).build().expect("an HTTP client");
        Self { client, url: url.into(), token: token.into() }
    }

    /// A call without token.
    pub fn bare(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.url))
    }

    /// A call with the token.
    pub fn call(&self, method: Method, path: &str) -> RequestBuilder {
        self.bare(method, path).bearer_auth(&self.token)
    }

    /// Reads.
    ///
    /// # Panics
    /// When the server does not answer with 200.
    pub async fn get(&self, path: &str) -> Value {
        let reply = send(self.call(Method::GET, path)).await;
        assert_eq!(reply.status, StatusCode::OK, "GET {path}: {reply:?}");
        reply.body
    }

    /// Reads, if the server answers.
    pub async fn try_get(&self, path: &str) -> Option<Value> {
        let answer = self.call(Method::GET, path).send().await.ok()?;
        if answer.status() == StatusCode::OK { answer.json().await.ok() } else { None }
    }

    pub async fn post(&self, path: &str, body: &Value) -> Reply {
        send(self.call(Method::POST, path).json(body)).await
    }

    /// Publishes a CloudEvent in its structured form.
    pub async fn post_event(&self, event: &Value) -> Reply {
        send(self.call(Method::POST, "/v1/events").header("Content-Type", "application/cloudevents+json").body(event.to_string())).await
    }

    /// Waits until a run has ended, through any outage.
    ///
    /// # Panics
    /// When it has not after `seconds`.
    pub async fn ended(&self, run: &str, seconds: u64) -> Value {
        let path = format!("/v1/runs/{run}");
        let terminal = ["succeeded", "failed", "cancelled", "aborted"];
        let mut last = Value::Null;
        let what = format!("the end of run {run}");
        let look = async || {
            let found = self.try_get(&path).await?;
            last = found;
            terminal.contains(&last["state"].as_str()?).then(|| last.clone())
        };
        until(&what, seconds, look).await
    }
}

/// Sends a call.
///
/// # Panics
/// When the server does not answer.
pub async fn send(call: RequestBuilder) -> Reply {
    let answer = call.send().await.expect("the server answers");
    let status = answer.status();
    let text = answer.text().await.expect("the answer has a body");
    let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
    Reply { status, body }
}
