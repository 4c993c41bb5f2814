//! Publishes that are numbered, whose answers are matched by number, and which are sent again as long as they stay without an
//! answer. Everything published here is safe to send twice, because it carries an expectation the server checks.

use std::collections::BTreeMap;

use tokio::time::Instant;

use crate::config::PUBLISH_TIMEOUT;
use crate::outside::{Line, Message};

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
    message: Message,
    at: Instant,
}

/// The publishes of one connection that wait for an answer.
#[derive(Debug)]
pub(crate) struct Publisher<L> {
    line: L,
    waiting: BTreeMap<Token, Sent>,
    next: Token,
}

impl<L: Line> Publisher<L> {
    pub(crate) fn new(line: L) -> Self {
        Self { line, waiting: BTreeMap::new(), next: 0 }
    }

    /// Sends a message; its answer comes from [`Publisher::answer`] under the returned number.
    pub(crate) async fn publish(&mut self, message: Message) -> Token {
        let token = self.next;
        self.next += 1;
        self.waiting.insert(token, Sent { message, at: Instant::now() });
        self.send(token).await;
        token
    }

    async fn send(&mut self, token: Token) {
        let Some(sent) = self.waiting.get_mut(&token) else { return };
        sent.at = Instant::now();
        self.line.send(token, &sent.message).await;
    }

    /// The next answer. Safe to drop at its await: an answer is taken whole or not at all.
    pub(crate) async fn answer(&mut self) -> (Token, Answer) {
        loop {
            let (token, answer) = self.line.answer().await;
            if !self.waiting.contains_key(&token) {
                continue;
            }
            if !matches!(answer, Answer::Refused { .. }) {
                self.waiting.remove(&token);
            }
            return (token, answer);
        }
    }

    /// Sends again what waits longer than [`PUBLISH_TIMEOUT`].
    pub(crate) async fn send_again(&mut self) {
        let late: Vec<Token> =
            self.waiting.iter().filter(|(_, sent)| sent.at.elapsed() > PUBLISH_TIMEOUT).map(|(token, _)| *token).collect();
        for token in late {
            self.send(token).await;
        }
    }
}
