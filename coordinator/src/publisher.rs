//! JetStream publishes with one shared reply inbox: each is numbered, its answer matched by number, and whatever stays without an
//! answer is sent again. Everything published here is safe to send twice, because it carries an expectation the server checks.

use std::collections::BTreeMap;
use std::time::Instant;

use async_nats::{Client, HeaderMap, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt as _;
use serde::Deserialize;

use crate::config::PUBLISH_TIMEOUT;

/// Numbers a publish.
pub type Token = u64;

/// The server's word on a publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Stored {
        sequence: u64,
    },
    /// JetStream error 10071: what was expected to be last is not.
    WrongLast,
    /// Any other refusal; worth another try later.
    Refused {
        code: u64,
        text: String,
    },
}

#[derive(Debug)]
struct Sent {
    subject: String,
    headers: HeaderMap,
    payload: Bytes,
    at: Instant,
}

/// The publishes of one connection that wait for an answer.
#[derive(Debug)]
pub struct Publisher {
    client: Client,
    inbox: String,
    replies: Subscriber,
    waiting: BTreeMap<Token, Sent>,
    next: Token,
}

#[derive(Deserialize)]
struct Reply {
    #[serde(default)]
    seq: u64,
    error: Option<ReplyError>,
}

#[derive(Deserialize)]
struct ReplyError {
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

impl Publisher {
    /// Subscribes the reply inbox.
    ///
    /// # Errors
    /// When the connection is closed for good.
    pub async fn new(client: Client) -> Result<Self, async_nats::SubscribeError> {
        let inbox = client.new_inbox();
        let replies = client.subscribe(format!("{inbox}.*")).await?;
        Ok(Self { client, inbox, replies, waiting: BTreeMap::new(), next: 0 })
    }

    /// Sends a message; its answer comes from [`Publisher::answer`] under the returned number.
    pub async fn publish(&mut self, subject: String, headers: HeaderMap, payload: Bytes) -> Token {
        let token = self.next;
        self.next += 1;
        self.waiting.insert(token, Sent { subject, headers, payload, at: Instant::now() });
        self.send(token).await;
        token
    }

    async fn send(&mut self, token: Token) {
        let Some(sent) = self.waiting.get_mut(&token) else { return };
        sent.at = Instant::now();
        let reply = format!("{}.{token}", self.inbox);
        let (subject, headers, payload) = (sent.subject.clone(), sent.headers.clone(), sent.payload.clone());
        // An error means that the client has ended; whatever waits is outstanding for the next leader.
        if let Err(error) = self.client.publish_with_reply_and_headers(subject, reply, headers, payload).await {
            tracing::debug!(%error, token, "publish not sent");
        }
    }

    /// The next answer. Safe to drop at its await: an answer is taken whole or not at all.
    pub async fn answer(&mut self) -> (Token, Answer) {
        loop {
            let Some(message) = self.replies.next().await else { std::future::pending().await };
            let Some(token) = message.subject.rsplit('.').next().and_then(|token| token.parse::<Token>().ok()) else { continue };
            if !self.waiting.contains_key(&token) {
                continue;
            }
            let answer = read(&message);
            if !matches!(answer, Answer::Refused { .. }) {
                self.waiting.remove(&token);
            }
            return (token, answer);
        }
    }

    /// Sends again what waits longer than [`PUBLISH_TIMEOUT`].
    pub async fn send_again(&mut self) {
        let late: Vec<Token> =
            self.waiting.iter().filter(|(_, sent)| sent.at.elapsed() > PUBLISH_TIMEOUT).map(|(token, _)| *token).collect();
        for token in late {
            self.send(token).await;
        }
    }
}

fn read(message: &async_nats::Message) -> Answer {
    if let Some(status) = message.status {
        return Answer::Refused { code: u64::from(status.as_u16()), text: "JetStream does not answer".into() };
    }
    match serde_json::from_slice::<Reply>(&message.payload) {
        Ok(Reply { error: None, seq }) => Answer::Stored { sequence: seq },
        Ok(Reply { error: Some(error), .. }) if error.err_code == 10_071 => Answer::WrongLast,
        Ok(Reply { error: Some(error), .. }) => Answer::Refused { code: error.err_code, text: error.description },
        Err(error) => Answer::Refused { code: 0, text: error.to_string() },
    }
}
