//! Commands → NATS and the artifact store, one match. Performed only after the turn that asked for them is committed; all are
//! idempotent, so a restart performs them again from `outstanding`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use causey_artifacts::{Store, failpoint};
use causey_engine::{Command, Notification};
use causey_protocol::artifact::blob_path;
use causey_protocol::backoff::Delays;
use causey_protocol::codec::{self, DISPATCH_BYTES_MAX};
use causey_protocol::id::Digest;
use causey_protocol::input::Input;
use causey_protocol::record::Position;
use causey_protocol::subject;
use serde_json::json;
use tokio::sync::mpsc;

use crate::committed::Committed;
use crate::earlier::Finder;
use crate::outside::{Expect, Message, Outside, Purge, Unanswered, Unseen};
use crate::publisher::{Answer, Publisher, Token};

/// [`subject::SEQUENCE_HEADER`] in small letters.
const POSITION: &str = "causey-sequence";

/// What an answered publish was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Commit,
    Task,
    Announce(Position),
}

/// Performs commands over one connection.
#[derive(Debug)]
pub(crate) struct Performer<O: Outside> {
    pub(crate) publisher: Publisher<O::Line>,
    outside: O,
    store: Arc<Store>,
    kinds: BTreeMap<Token, Kind>,
    announcements: VecDeque<(Position, Notification)>,
    announcing: bool,
    /// Whether the last task was refused: a full queue refuses many, and is told of once.
    refused: bool,
    /// Sequence of the last message in the notify stream.
    notify_tail: u64,
    announced: Position,
    notice: mpsc::Sender<Input>,
    finder: Finder<O>,
}

impl<O: Outside> Performer<O> {
    pub(crate) fn new(
        publisher: Publisher<O::Line>,
        outside: O,
        store: Arc<Store>,
        committed: Arc<Committed>,
        notice: mpsc::Sender<Input>,
    ) -> Self {
        let finder = Finder::new(outside.clone(), committed, store.clone(), notice.clone());
        Self {
            publisher,
            outside,
            store,
            kinds: BTreeMap::new(),
            announcements: VecDeque::new(),
            announcing: false,
            refused: false,
            notify_tail: 0,
            announced: Position::default(),
            notice,
            finder,
        }
    }

    /// Notifications up to here are in the notify stream.
    pub(crate) fn announced(&self) -> Position {
        self.announced
    }

    /// Learns from the notify stream's last message what has been announced already, whoever did it.
    pub(crate) async fn read_announced(&mut self, at_least: Position) -> Result<(), Unanswered> {
        let look = self.outside.look(subject::NOTIFY_STREAM).await.map_err(|why| match why {
            Unseen::Gone => Unanswered(why.to_string()),
            Unseen::Unanswered(why) => why,
        })?;
        let last = if look.last > 0 { self.outside.message(subject::NOTIFY_STREAM, look.last).await? } else { None };
        let position = last.and_then(|last| last.headers.get(POSITION)?.parse().ok());
        self.notify_tail = look.last;
        self.announced = self.announced.max(at_least).max(position.unwrap_or_default());
        Ok(())
    }

    pub(crate) async fn commit(&mut self, subject: &str, expected_last: u64, payload: Bytes) -> Token {
        let (subject, expect, headers) = (subject.into(), Expect::End(expected_last), Vec::new());
        let token = self.publisher.publish(Message { subject, expect, headers, payload }).await;
        self.kinds.insert(token, Kind::Commit);
        token
    }

    pub(crate) async fn perform(&mut self, command: Command) {
        match command {
            Command::Dispatch { pool, key, dispatch } => {
                let payload = codec::encode(&dispatch);
                if payload.len() > DISPATCH_BYTES_MAX {
                    tracing::error!(run = %dispatch.run, step = %dispatch.step, bytes = payload.len(), "dispatch is over the message limit");
                }
                let (subject, headers) = (subject::task(&pool, dispatch.run, &key), Vec::new());
                let message = Message { subject, expect: Expect::NoneOnSubject, headers, payload: payload.into() };
                let token = self.publisher.publish(message).await;
                self.kinds.insert(token, Kind::Task);
            }
            Command::Withdraw { pool, run, key } => self.purge(vec![subject::task(&pool, run, &key)], None),
            Command::Recall { pool, run, keys } => {
                self.purge(keys.iter().map(|key| subject::task(&pool, run, key)).collect(), Some(subject::gang(run)));
            }
            Command::TellGang { run } => tell(&self.outside, subject::gang(run)).await,
            Command::CallWorkers { pool } => tell(&self.outside, subject::call(&pool)).await,
            Command::Cancel { run } => self.purge(vec![subject::run_tasks(run)], Some(subject::cancel(run))),
            Command::StoreBlob { digest, bytes } => self.store_blob(digest, bytes),
            Command::FindResults(sought) => self.finder.find(*sought),
            Command::Announce { position, notification } => {
                self.announcements.push_back((position, notification));
                self.announce_next().await;
            }
        }
    }

    /// Removes queued tasks and tells the workers on `broadcast`. Level-triggered: a lost broadcast is made good by the
    /// workers' own questions.
    fn purge(&self, filters: Vec<String>, broadcast: Option<String>) {
        let outside = self.outside.clone();
        tokio::spawn(async move {
            for filter in filters {
                if let Err(error) = outside.purge(subject::TASK_STREAM, Purge::Subject(filter.clone())).await {
                    tracing::warn!(%error, filter, "queued tasks not removed; workers refuse them when they ask");
                }
            }
            failpoint::here("tasks.removed");
            if let Some(subject) = broadcast {
                tell(&outside, subject).await;
            }
        });
    }

    fn store_blob(&self, digest: Digest, bytes: Vec<u8>) {
        let (store, notice) = (self.store.clone(), self.notice.clone());
        tokio::spawn(async move {
            let mut delays = Delays::new(Duration::from_millis(50), Duration::from_secs(30));
            let bytes = Bytes::from(bytes);
            while let Err(error) = store.put_if_absent(&blob_path(&digest), bytes.clone()).await {
                tracing::warn!(%error, %digest, "the manifest of a join cannot be stored; trying again");
                tokio::time::sleep(delays.next_delay()).await;
            }
            failpoint::here("blob.stored");
            // A closed channel means that this process no longer leads; the next leader stores it again.
            let _ = notice.send(Input::BlobStored { digest }).await;
        });
    }

    async fn announce_next(&mut self) {
        if self.announcing {
            return;
        }
        while self.announcements.front().is_some_and(|(position, _)| *position <= self.announced) {
            self.announcements.pop_front();
        }
        let Some((position, notification)) = self.announcements.front() else { return };
        let position = *position;
        let headers =
            vec![(subject::SEQUENCE_HEADER, position.to_string()), ("Content-Type", causey_protocol::event::STRUCTURED.to_owned())];
        let payload = serde_json::to_vec(&cloud_event(position, notification)).expect("a CloudEvent serializes").into();
        let (subject, expect) = (subject::notify(notification.topic, &notification.name), Expect::End(self.notify_tail));
        let token = self.publisher.publish(Message { subject, expect, headers, payload }).await;
        self.kinds.insert(token, Kind::Announce(position));
        self.announcing = true;
    }

    /// Takes the server's answer; gives back what concerns the commit.
    pub(crate) async fn answered(&mut self, token: Token, answer: Answer) -> Option<Answer> {
        let kind = *self.kinds.get(&token)?;
        match (kind, &answer) {
            (Kind::Commit, _) => {
                if !matches!(answer, Answer::Refused { .. }) {
                    self.kinds.remove(&token);
                }
                return Some(answer);
            }
            // 10071 on a task means that it is queued already.
            (Kind::Task, Answer::Stored { .. } | Answer::WrongLast) => {
                failpoint::here("task.queued");
                self.kinds.remove(&token);
                self.refused = false;
            }
            (Kind::Announce(position), Answer::Stored { sequence }) => {
                failpoint::here("notification.stored");
                self.kinds.remove(&token);
                self.notify_tail = *sequence;
                self.announced = self.announced.max(position);
                self.announcing = false;
                self.announce_next().await;
            }
            (Kind::Announce(_), Answer::WrongLast) => {
                self.kinds.remove(&token);
                self.announcing = false;
                if let Err(error) = self.read_announced(self.announced).await {
                    tracing::warn!(%error, "the notify stream cannot be read");
                }
                self.announce_next().await;
            }
            // Sent again by the tick; the command stays outstanding.
            (Kind::Task, Answer::Refused { code, text }) => {
                metrics::counter!("causey_dispatches_refused_total").increment(1);
                if !std::mem::replace(&mut self.refused, true) {
                    tracing::warn!(code, text, "the task queue refuses dispatches; they are sent again until there is room");
                }
            }
            (Kind::Announce(_), Answer::Refused { code, text }) => {
                tracing::warn!(code, text, ?kind, "publish refused; trying again");
            }
        }
        None
    }
}

/// Tells whoever listens that it is time to ask; who misses it asks by himself.
async fn tell<O: Outside>(outside: &O, subject: String) {
    if let Err(error) = outside.say(subject.clone(), Bytes::new()).await {
        tracing::debug!(%error, subject, "not broadcast");
    }
}

/// A notification as the outside world sees it.
fn cloud_event(position: Position, notification: &Notification) -> serde_json::Value {
    json!({
        "specversion": "1.0",
        "id": notification.id,
        "source": "/causey",
        "type": notification.topic.event_type(),
        "subject": notification.name,
        "time": rfc3339(notification.at.0),
        "datacontenttype": "application/json",
        "causeysequence": position.to_string(),
        "data": notification.data,
    })
}

/// Microseconds since the Unix epoch as RFC 3339 text.
fn rfc3339(micros: u64) -> String {
    let timestamp = i64::try_from(micros).ok().and_then(|micros| jiff::Timestamp::from_microsecond(micros).ok());
    timestamp.unwrap_or(jiff::Timestamp::UNIX_EPOCH).to_string()
}
