//! The world outside as it really is: NATS with JetStream through `async-nats`, the system's clock and threads.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use async_nats::jetstream::consumer::pull::{Config as PullConfig, Stream as Pulled};
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy};
use async_nats::jetstream::context::{GetStreamError, GetStreamErrorKind, PublishErrorKind};
use async_nats::jetstream::stream::{LastRawMessageErrorKind, Stream};
use async_nats::jetstream::{Context, ErrorCode, kv};
use async_nats::{Client, HeaderMap, Subscriber};
use bytes::Bytes;
use causey_artifacts::wall;
use causey_protocol::id::{PoolName, Timestamp};
use causey_protocol::subject::{self, LEADER_BUCKET, TASK_STREAM};
use futures_util::{StreamExt, TryStreamExt as _};
use serde::Deserialize;

use crate::outside::{
    AppendError, Aside, Bucket, Entry, Expect, KeyError, Keys, Line, Link, Listener, Look, Machine, Message, Purge, Queues, Raw, Reader,
    Streams, Unanswered, Unseen, Watch, Word, Words,
};
use crate::publisher::{Answer, Token};
use crate::streams::{self, Limits};

/// A connection to NATS. Cheap to clone.
#[derive(Clone, Debug)]
pub struct JetStream {
    pub client: Client,
    pub context: Context,
    link: Link,
}

impl JetStream {
    #[must_use]
    pub fn new(client: Client, link: Link) -> Self {
        Self { context: async_nats::jetstream::new(client.clone()), client, link }
    }
}

pub(crate) fn unseen(error: &GetStreamError) -> Unseen {
    match error.kind() {
        GetStreamErrorKind::JetStream(ref inner) if inner.error_code().0 == 10_059 => Unseen::Gone,
        _ => Unanswered::new(error).into(),
    }
}

impl Streams for JetStream {
    type Reader = Pulled;
    type Line = Replies;

    async fn look(&self, stream: &'static str) -> Result<Look, Unseen> {
        let stream = self.context.get_stream(stream).await.map_err(|error| unseen(&error))?;
        let info = stream.cached_info();
        Ok(Look {
            first: info.state.first_sequence,
            last: info.state.last_sequence,
            created: u64::try_from(info.created.unix_timestamp_nanos() / 1_000).unwrap_or_default(),
            bytes: info.state.bytes,
            bytes_max: u64::try_from(info.config.max_bytes).unwrap_or_default(),
        })
    }

    async fn message(&self, stream: &'static str, sequence: u64) -> Result<Option<Raw>, Unanswered> {
        let stream = self.context.get_stream_no_info(stream).await.map_err(Unanswered::new)?;
        match stream.get_raw_message(sequence).await {
            Ok(found) => Ok(Some(Raw {
                sequence,
                subject: found.subject.to_string(),
                headers: first_values(&found.headers),
                payload: found.payload,
            })),
            Err(error) => match error.kind() {
                LastRawMessageErrorKind::NoMessageFound => Ok(None),
                LastRawMessageErrorKind::JetStream(inner) if inner.error_code() == ErrorCode::NO_MESSAGE_FOUND => Ok(None),
                _ => Err(Unanswered::new(error)),
            },
        }
    }

    async fn read(&self, stream: &'static str, after: u64) -> Result<Pulled, Unanswered> {
        let config = PullConfig {
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: after + 1 },
            ack_policy: AckPolicy::None,
            memory_storage: true,
            inactive_threshold: Duration::from_secs(30),
            ..PullConfig::default()
        };
        let consumer = self.context.create_consumer_on_stream(config, stream).await.map_err(Unanswered::new)?;
        let messages = consumer.stream().max_messages_per_batch(500).expires(Duration::from_secs(30)).heartbeat(Duration::from_secs(5));
        messages.messages().await.map_err(Unanswered::new)
    }

    async fn subjects(&self, stream: &'static str) -> Result<BTreeSet<String>, Unanswered> {
        let stream: Stream<()> = self.context.get_stream_no_info(stream).await.map_err(Unanswered::new)?;
        let subjects = stream.info_with_subjects(">").await.map_err(Unanswered::new)?;
        subjects.map_ok(|(subject, _)| subject).try_collect().await.map_err(Unanswered::new)
    }

    async fn append(&self, message: Message) -> Result<u64, AppendError> {
        let headers = header_map(&message);
        let sent = async { self.context.publish_with_headers(message.subject, headers, message.payload).await?.await };
        match sent.await {
            Ok(stored) => Ok(stored.sequence),
            Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => Err(AppendError::WrongLast),
            Err(error) => Err(Unanswered::new(error).into()),
        }
    }

    async fn line(&self) -> Result<Replies, Unanswered> {
        let inbox = self.client.new_inbox();
        let replies = self.client.subscribe(format!("{inbox}.*")).await.map_err(Unanswered::new)?;
        Ok(Replies { client: self.client.clone(), inbox, replies })
    }

    async fn purge(&self, stream: &'static str, what: Purge) -> Result<u64, Unanswered> {
        let stream: Stream<()> = self.context.get_stream_no_info(stream).await.map_err(Unanswered::new)?;
        let purged = match what {
            // The server removes what lies below the given sequence.
            Purge::To(0) => return Ok(0),
            Purge::To(sequence) => stream.purge().sequence(sequence + 1).await,
            Purge::Subject(filter) => stream.purge().filter(filter).await,
        };
        Ok(purged.map_err(Unanswered::new)?.purged)
    }

    async fn room(&self) -> Result<(u64, u64), Unanswered> {
        let account = self.context.query_account().await.map_err(Unanswered::new)?;
        Ok((account.storage, u64::try_from(account.limits.max_storage.unwrap_or_default()).unwrap_or_default()))
    }
}

fn header_map(message: &Message) -> HeaderMap {
    let mut headers = HeaderMap::new();
    match message.expect {
        Expect::Nothing => {}
        Expect::End(sequence) => headers.insert(async_nats::header::NATS_EXPECTED_LAST_SEQUENCE, sequence.to_string()),
        Expect::NoneOnSubject => headers.insert(async_nats::header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, "0"),
    }
    for (name, value) in &message.headers {
        headers.insert(*name, value.as_str());
    }
    headers
}

pub(crate) fn first_values(map: &HeaderMap) -> BTreeMap<String, String> {
    let first = |(name, values): (&async_nats::HeaderName, &Vec<async_nats::HeaderValue>)| {
        values.first().map(|value| (name.to_string().to_ascii_lowercase(), value.to_string()))
    };
    map.iter().filter_map(first).collect()
}

impl Reader for Pulled {
    async fn next(&mut self) -> Result<Raw, Unanswered> {
        let message = StreamExt::next(self).await.ok_or_else(|| Unanswered::new("the subscription ended"))?.map_err(Unanswered::new)?;
        Ok(Raw {
            sequence: message.info().map_err(Unanswered::new)?.stream_sequence,
            subject: message.subject.to_string(),
            headers: message.headers.as_ref().map(first_values).unwrap_or_default(),
            payload: message.payload.clone(),
        })
    }
}

/// Publishes with one shared reply inbox.
#[derive(Debug)]
pub struct Replies {
    client: Client,
    inbox: String,
    replies: Subscriber,
}

impl Line for Replies {
    async fn send(&mut self, token: Token, message: &Message) {
        let reply = format!("{}.{token}", self.inbox);
        let (subject, headers, payload) = (message.subject.clone(), header_map(message), message.payload.clone());
        // An error means that the client has ended; whatever waits is outstanding for the next leader.
        if let Err(error) = self.client.publish_with_reply_and_headers(subject, reply, headers, payload).await {
            tracing::debug!(%error, token, "publish not sent");
        }
    }

    async fn answer(&mut self) -> (Token, Answer) {
        loop {
            let Some(message) = StreamExt::next(&mut self.replies).await else { std::future::pending().await };
            if let Some(token) = message.subject.rsplit('.').next().and_then(|token| token.parse().ok()) {
                return (token, read(&message));
            }
        }
    }
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

impl Queues for JetStream {
    async fn ensure_tasks(&self, limits: Limits) -> Result<(), Unanswered> {
        match self.look(TASK_STREAM).await {
            Ok(_) => Ok(()),
            Err(Unseen::Unanswered(why)) => Err(why),
            Err(Unseen::Gone) => {
                tracing::info!("the task queue is made; what is open is offered");
                let config = streams::tasks(limits, wall::now().0);
                self.context
                    .create_stream(config)
                    .await
                    .map(drop)
                    .map_err(|error| Unanswered::new(streams::Error::Create { stream: TASK_STREAM.into(), reason: error.to_string() }))
            }
        }
    }

    async fn ensure_queue(&self, pool: &PoolName, ack_wait: Duration) -> Result<(), Unanswered> {
        let config = PullConfig {
            durable_name: Some(pool.to_string()),
            filter_subject: subject::pool_tasks(pool),
            ack_policy: AckPolicy::Explicit,
            ack_wait,
            max_deliver: -1,
            // Slots plus prefetch of all workers of the pool must fit.
            max_ack_pending: 20_000,
            max_waiting: 4_096,
            ..PullConfig::default()
        };
        self.context.create_consumer_on_stream(config, TASK_STREAM).await.map(drop).map_err(Unanswered::new)
    }
}

impl Keys for JetStream {
    type Bucket = kv::Store;

    async fn bucket(&self) -> Result<kv::Store, Unanswered> {
        self.context.get_key_value(LEADER_BUCKET).await.map_err(Unanswered::new)
    }
}

fn entry_of(entry: kv::Entry) -> Entry {
    let value = (entry.operation == kv::Operation::Put).then_some(entry.value);
    Entry { key: entry.key, value, revision: entry.revision }
}

impl Bucket for kv::Store {
    type Watch = kv::Watch;

    async fn create(&self, key: &str, value: Bytes) -> Result<u64, KeyError> {
        self.create(key, value).await.map_err(|error| match error.kind() {
            kv::CreateErrorKind::AlreadyExists => KeyError::WrongRevision,
            _ => Unanswered::new(error).into(),
        })
    }

    async fn update(&self, key: &str, value: Bytes, revision: u64) -> Result<u64, KeyError> {
        self.update(key, value, revision).await.map_err(|error| match error.kind() {
            kv::UpdateErrorKind::WrongLastRevision => KeyError::WrongRevision,
            _ => Unanswered::new(error).into(),
        })
    }

    async fn put(&self, key: &str, value: Bytes) -> Result<(), Unanswered> {
        self.put(key, value).await.map(drop).map_err(Unanswered::new)
    }

    async fn delete(&self, key: &str, revision: Option<u64>) -> Result<(), Unanswered> {
        self.delete_expect_revision(key, revision).await.map_err(Unanswered::new)
    }

    async fn entry(&self, key: &str) -> Result<Option<Entry>, Unanswered> {
        Ok(self.entry(key).await.map_err(Unanswered::new)?.map(entry_of))
    }

    async fn watch(&self, pattern: &str) -> Result<kv::Watch, Unanswered> {
        self.watch_with_history(pattern).await.map_err(Unanswered::new)
    }
}

impl Watch for kv::Watch {
    async fn next(&mut self) -> Result<Entry, Unanswered> {
        let entry = StreamExt::next(self).await.ok_or_else(|| Unanswered::new("the subscription to the keys ended"))?;
        entry.map(entry_of).map_err(Unanswered::new)
    }
}

impl Words for JetStream {
    type Listener = Subscriber;

    async fn say(&self, subject: String, payload: Bytes) -> Result<(), Unanswered> {
        self.client.publish(subject, payload).await.map_err(Unanswered::new)
    }

    async fn listen(&self, pattern: &'static str) -> Result<Subscriber, Unanswered> {
        self.client.subscribe(pattern).await.map_err(Unanswered::new)
    }
}

impl Listener for Subscriber {
    async fn next(&mut self) -> Option<Word> {
        let message = StreamExt::next(self).await?;
        Some(Word { subject: message.subject.to_string(), reply: message.reply.map(|reply| reply.to_string()), payload: message.payload })
    }
}

impl Machine for JetStream {
    fn link(&self) -> Link {
        self.link.clone()
    }

    fn now(&self) -> Timestamp {
        wall::now()
    }
}

/// The threads of the runtime for work that blocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Threads;

impl Aside for Threads {
    async fn aside<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        tokio::task::spawn_blocking(work).await.expect("work aside does not panic")
    }
}

impl Aside for JetStream {
    async fn aside<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        Threads.aside(work).await
    }
}
