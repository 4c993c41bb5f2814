//! Credit pull: raw requests to the pool's consumer for exactly the places that are free, with all answers on one
//! subscription. `async-nats`'s own streams ask for whole batches ahead and would hoard tasks.
//!
//! Answers do not name their request: a message uses a credit of the oldest, a status returns what its request still had, and what is
//! left of a request that must have ended is taken as lost. Asking for too much by such a count only means that a few tasks wait here.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use causey_protocol::id::PoolName;
use causey_protocol::subject::TASK_STREAM;
use tokio::time::Instant;

use crate::outside::{Message, Outside, Unanswered};

/// How long a request waits at the server.
const EXPIRES: Duration = Duration::from_secs(30);

/// Added to it before a request without answer counts as lost.
const ANSWER_SLACK: Duration = Duration::from_secs(3);

/// Pause after the server refused a request (no consumer, too many waiting).
const REFUSED_PAUSE: Duration = Duration::from_millis(250);

/// Status codes of the server.
const IDLE_HEARTBEAT: u16 = 100;
const NOT_FOUND: u16 = 404;
const TIMEOUT: u16 = 408;
const NO_RESPONDERS: u16 = 503;

/// What came on the pull subscription.
#[derive(Debug)]
pub(crate) enum Arrival {
    Task(Message),
    /// Housekeeping; nothing to do but to look whether to ask again.
    Status,
    /// The consumer is not there.
    NoConsumer,
}

/// Places asked for and not filled yet, by the requests that asked for them, oldest first. Pure.
#[derive(Debug, Default)]
struct Credit {
    asked: VecDeque<(Instant, u32)>,
    paused_until: Option<Instant>,
}

impl Credit {
    fn ask(&mut self, batch: u32, now: Instant) {
        self.asked.push_back((now, batch));
    }

    /// So many places are filled, or not asked for any more.
    fn used(&mut self, mut places: u32) {
        while let Some((_, left)) = self.asked.front_mut() {
            if *left > places {
                *left -= places;
                return;
            }
            places -= *left;
            self.asked.pop_front();
        }
    }

    /// A request ended with `left` places unfilled; `None` when the server did not say.
    fn ended(&mut self, left: Option<u32>) {
        match left {
            Some(left) => self.used(left),
            None => self.asked.clear(),
        }
    }

    /// The places that count as asked for at `now`; `None` while asking is no use.
    fn current(&mut self, now: Instant) -> Option<u32> {
        if self.paused_until.is_some_and(|until| now < until) {
            return None;
        }
        while self.asked.pop_front_if(|(at, _)| now.saturating_duration_since(*at) > EXPIRES + ANSWER_SLACK).is_some() {}
        Some(self.asked.iter().map(|(_, left)| left).sum())
    }
}

#[derive(Debug)]
pub(crate) struct Pull<O> {
    outside: O,
    subject: String,
    inbox: String,
    credit: Credit,
}

impl<O: Outside> Pull<O> {
    /// Opens the subscription on which tasks will come.
    ///
    /// # Errors
    /// When the client is closed.
    pub(crate) async fn open(outside: O, pool: &PoolName) -> Result<(Self, O::Listener), Unanswered> {
        let inbox = outside.inbox();
        let arrivals = outside.listen(&inbox).await?;
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{TASK_STREAM}.{pool}");
        Ok((Self { outside, subject, inbox, credit: Credit::default() }, arrivals))
    }

    /// Asks for the places that `want`, given the credit out, says are free. Returns whether it asked.
    pub(crate) async fn ask(&mut self, now: Instant, want: impl FnOnce(u32) -> u32) -> bool {
        let Some(credit) = self.credit.current(now) else { return false };
        let batch = want(credit);
        if batch == 0 {
            return false;
        }
        let request = format!(r#"{{"batch":{batch},"expires":{}}}"#, EXPIRES.as_nanos());
        let sent = self.outside.say(&self.subject, Some(&self.inbox), Bytes::from(request)).await;
        match sent {
            Ok(()) => self.credit.ask(batch, now),
            Err(error) => tracing::warn!(%error, "cannot ask for tasks"),
        }
        true
    }

    /// Counts what came.
    pub(crate) fn note(&mut self, message: Message, now: Instant) -> Arrival {
        let Some(status) = message.status else {
            self.credit.used(1);
            return Arrival::Task(message);
        };
        match status {
            // A heartbeat.
            IDLE_HEARTBEAT => Arrival::Status,
            NO_RESPONDERS => {
                self.credit.ended(None);
                self.credit.paused_until = Some(now + REFUSED_PAUSE);
                Arrival::NoConsumer
            }
            _ => {
                self.credit.ended(message.unfilled);
                // 404 and 408: nothing there in time. Everything else is a refusal, which an immediate request would meet again.
                if !matches!(status, NOT_FOUND | TIMEOUT) {
                    self.credit.paused_until = Some(now + REFUSED_PAUSE);
                    tracing::debug!(status, description = message.description, "pull request ended");
                }
                let deleted = message.description.contains("Consumer Deleted");
                if deleted { Arrival::NoConsumer } else { Arrival::Status }
            }
        }
    }

    /// The connection was made anew: requests of the old one are gone.
    pub(crate) fn reconnected(&mut self) {
        self.credit = Credit::default();
    }
}

/// How often the queue has delivered this message, from its reply subject; 1 when that is no such subject.
pub(crate) fn delivery_count(reply: &str) -> u64 {
    let tokens: Vec<&str> = reply.split('.').collect();
    // `$JS.ACK.<stream>.<consumer>.<delivered>.…` has nine tokens; with domain and account hash in front of the stream, more.
    let place = if tokens.len() == 9 { 4 } else { 6 };
    tokens.get(place).and_then(|token| token.parse().ok()).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credit_is_used_by_messages_and_returned_by_statuses() {
        let now = Instant::now();
        let mut credit = Credit::default();
        credit.ask(5, now);
        credit.used(2);
        assert_eq!(credit.current(now), Some(3));
        credit.ended(Some(2));
        assert_eq!(credit.current(now), Some(1));
        credit.ended(None);
        assert_eq!(credit.current(now), Some(0));
    }

    #[test]
    fn credit_without_an_answer_is_counted_anew() {
        let now = Instant::now();
        let mut credit = Credit::default();
        credit.ask(5, now);
        assert_eq!(credit.current(now + EXPIRES), Some(5));
        let later = now + EXPIRES;
        credit.ask(2, later);
        credit.used(1);
        assert_eq!(credit.current(now + EXPIRES + 2 * ANSWER_SLACK), Some(2), "what was heard of others does not keep it");
    }

    #[test]
    fn the_delivery_count_is_in_both_forms_of_the_reply_subject() {
        assert_eq!(delivery_count("$JS.ACK.CAUSEY_TASK.default.3.17.20.1700000000000000000.0"), 3);
        assert_eq!(delivery_count("$JS.ACK.hub.AbCdEf.CAUSEY_TASK.default.4.17.20.1700000000000000000.0.xyz"), 4);
        assert_eq!(delivery_count("_INBOX.x"), 1);
    }
}
