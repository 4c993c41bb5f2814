//! An event stream that survives disconnects: it connects again with growing waits and resumes behind the last id it has given out.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use causey_protocol::backoff::Delays;
use reqwest::{Method, Response, StatusCode};

use crate::client::sse::{Message, Parser};
use crate::client::{Client, PATIENCE, chain, refusal};
use crate::exit::Exit;
use crate::fault::{self, Fault};

/// Silence after which the connection counts as dead. Harmless if it is not: the new one resumes.
const SILENCE: Duration = Duration::from_secs(60);

/// A server-sent event stream.
#[derive(Debug)]
pub(crate) struct EventStream<'a> {
    client: &'a Client,
    path: Vec<String>,
    query: Vec<(&'static str, String)>,
    open: Option<Open>,
    ready: VecDeque<Message>,
    /// Where to resume: the server's `Causey-Sequence` at first, then the id of the last message.
    position: Option<String>,
    delays: Delays,
    away_since: Option<Instant>,
    patience: Option<Duration>,
}

#[derive(Debug)]
struct Open {
    answer: Response,
    parser: Parser,
    heard: tokio::time::Instant,
}

impl<'a> EventStream<'a> {
    /// A stream of `path`, resuming behind `position` if there is one. Nothing is sent before the first [`EventStream::next`].
    pub(crate) fn new(client: &'a Client, path: &[&str], query: Vec<(&'static str, String)>, position: Option<String>) -> Self {
        Self {
            client,
            path: path.iter().map(|part| (*part).to_owned()).collect(),
            query,
            open: None,
            ready: VecDeque::new(),
            position,
            delays: Delays::new(Duration::from_millis(20), Duration::from_secs(5)),
            away_since: None,
            patience: Some(PATIENCE),
        }
    }

    /// Waits for a lost server without end.
    pub(crate) fn patient(mut self) -> Self {
        self.patience = None;
        self
    }

    /// The next message. May be dropped while it waits: nothing is lost.
    ///
    /// # Errors
    /// When the server refuses, or stays away too long.
    pub(crate) async fn next(&mut self) -> Result<Message, Fault> {
        loop {
            if let Some(message) = self.ready.pop_front() {
                if message.id.is_some() {
                    self.position.clone_from(&message.id);
                }
                return Ok(message);
            }
            if let Err(fault) = self.advance().await {
                self.open = None;
                self.wait_or_give_up(fault).await?;
            }
        }
    }

    /// Connects if need be; the answer's header says from which sequence on the stream tells everything.
    pub(crate) async fn connect(&mut self) -> Result<Option<String>, Fault> {
        while self.open.is_none() {
            if let Err(fault) = self.advance().await {
                self.wait_or_give_up(fault).await?;
            }
        }
        let header = self.open.as_ref().and_then(|open| open.answer.headers().get("causey-sequence"));
        Ok(header.and_then(|value| value.to_str().ok()).map(str::to_owned))
    }

    /// One step: open the connection, or read from it.
    async fn advance(&mut self) -> Result<(), Interrupted> {
        let Some(open) = &mut self.open else {
            let answer = self.request().await?;
            self.open = Some(Open { answer, parser: Parser::default(), heard: tokio::time::Instant::now() });
            return Ok(());
        };
        let read =
            tokio::time::timeout_at(open.heard + SILENCE, open.answer.chunk()).await.map_err(|_| Interrupted::Lost("silence".into()))?;
        let bytes = read.map_err(|error| Interrupted::Lost(chain(&error)))?.ok_or_else(|| Interrupted::Lost("the stream ended".into()))?;
        open.heard = tokio::time::Instant::now();
        let messages =
            open.parser.feed(&bytes).map_err(|error| Interrupted::Final(Fault::new(Exit::Failed, fault::ANSWER, error.to_string())))?;
        self.ready.extend(messages);
        self.away_since = None;
        self.delays.reset();
        Ok(())
    }

    async fn request(&self) -> Result<Response, Interrupted> {
        let path: Vec<&str> = self.path.iter().map(String::as_str).collect();
        let mut query = self.query.clone();
        query.extend(self.position.clone().map(|position| ("after", position)));
        let request = self.client.request(Method::GET, self.client.url(&path, &query)).header("accept", "text/event-stream");
        match request.send().await {
            Ok(answer) if answer.status().is_success() => {
                self.client.assume_reached();
                Ok(answer)
            }
            Ok(answer) if answer.status() == StatusCode::SERVICE_UNAVAILABLE => Err(Interrupted::Lost(refusal(answer).await.message)),
            Ok(answer) => Err(Interrupted::Final(refusal(answer).await)),
            Err(error) if !self.client.reached.load(std::sync::atomic::Ordering::Relaxed) => {
                Err(Interrupted::Final(self.client.unreachable(&error)))
            }
            Err(error) => Err(Interrupted::Lost(chain(&error))),
        }
    }

    async fn wait_or_give_up(&mut self, interrupted: Interrupted) -> Result<(), Fault> {
        let why = match interrupted {
            Interrupted::Final(fault) => return Err(fault),
            Interrupted::Lost(why) => why,
        };
        let since = *self.away_since.get_or_insert_with(Instant::now);
        if self.patience.is_some_and(|patience| since.elapsed() > patience) {
            return Err(Fault::new(Exit::Unreachable, fault::UNREACHABLE, format!("lost the server at {}", self.client.base())).detail(why));
        }
        tokio::time::sleep(self.delays.next_delay()).await;
        Ok(())
    }
}

/// Why reading stopped.
enum Interrupted {
    /// Worth another connection.
    Lost(String),
    Final(Fault),
}
