//! A process's way to the simulated world: the boundaries of coordinator and worker, as they are on a bad day.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use causey_coordinator::outside::{
    AppendError, Aside, Bucket, Entry, KeyError, Keys, Line, Link, Listener, Look, Machine, Message, Purge, Queues, Raw, Reader, Streams,
    Unanswered, Unseen, Watch, Word, Words,
};
use causey_coordinator::publisher::{Answer, Token};
use causey_coordinator::streams::Limits;
use causey_protocol::id::{PoolName, Timestamp};
use causey_worker::outside as worker;
use tokio::time::Instant;

use super::mailbox::Mailbox;
use super::server::{Letter, Server};
use super::world::{Process, World};

/// How long a reader whose consumer is gone waits for a sign of life.
const HEARTBEAT_MISSED: Duration = Duration::from_secs(10);

/// A connection of a process. All connections of one process share their fate.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) world: Arc<World>,
    pub(crate) process: Arc<Process>,
}

impl Node {
    async fn call<T: Send>(&self, what: &str, work: impl FnOnce(&World) -> T + Send) -> Result<T, Unanswered> {
        self.world.call(&self.process, what, work).await
    }

    pub(crate) fn now(&self) -> Timestamp {
        Timestamp(self.world.clock(&self.process))
    }
}

impl Streams for Node {
    type Reader = Reading;
    type Line = Publishing;

    async fn look(&self, stream: &'static str) -> Result<Look, Unseen> {
        self.call("look", |world| world.with_server(|server| server.look(stream))).await?.ok_or(Unseen::Gone)
    }

    async fn message(&self, stream: &'static str, sequence: u64) -> Result<Option<Raw>, Unanswered> {
        self.call("message", |world| world.with_server(|server| server.message(stream, sequence))).await
    }

    async fn read(&self, stream: &'static str, after: u64) -> Result<Reading, Unanswered> {
        let process = self.process.id;
        let mailbox = self.call("read", |world| world.with_server(|server| server.open(process, stream, after))).await?;
        Ok(Reading { node: self.clone(), mailbox })
    }

    async fn subjects(&self, stream: &'static str) -> Result<BTreeSet<String>, Unanswered> {
        self.call("subjects", |world| world.with_server(|server| server.subjects(stream))).await?.ok_or_else(gone)
    }

    async fn append(&self, message: Message) -> Result<u64, AppendError> {
        let process = self.process.clone();
        match self.call("append", |world| world.store(&process, &message)).await? {
            Answer::Stored { sequence } => Ok(sequence),
            Answer::WrongLast => Err(AppendError::WrongLast),
            Answer::Refused { text, .. } => Err(Unanswered(text).into()),
        }
    }

    async fn line(&self) -> Result<Publishing, Unanswered> {
        self.world.thaw(&self.process).await;
        Ok(Publishing { node: self.clone(), answers: Arc::default() })
    }

    async fn purge(&self, stream: &'static str, what: Purge) -> Result<u64, Unanswered> {
        self.call("purge", |world| world.with_server(|server| server.purge(stream, &what))).await?.ok_or_else(gone)
    }

    async fn room(&self) -> Result<(u64, u64), Unanswered> {
        self.call("room", |_| (0, 0)).await
    }
}

#[derive(Debug)]
pub(crate) struct Reading {
    node: Node,
    mailbox: Arc<Mailbox<Raw>>,
}

impl Reader for Reading {
    async fn next(&mut self) -> Result<Raw, Unanswered> {
        match self.mailbox.next(|| self.node.process.thaws()).await {
            Some(raw) => Ok(raw),
            None => {
                tokio::time::sleep(HEARTBEAT_MISSED).await;
                Err(Unanswered("no heartbeat".into()))
            }
        }
    }
}

/// Publishes of one process, with their answers.
#[derive(Debug)]
pub(crate) struct Publishing {
    node: Node,
    /// With the connection on which they come.
    answers: Arc<Mailbox<(u64, Token, Answer)>>,
}

impl Line for Publishing {
    async fn send(&mut self, token: Token, message: &Message) {
        let Node { world, process } = self.node.clone();
        let fate = world.step(&process, &message.subject).await;
        let (message, answers, sender) = (message.clone(), self.answers.clone(), process.clone());
        world.send(&process, fate, move |world| {
            let answer = world.store(&sender, &message);
            if !fate.answer_lost {
                answers.send(Instant::now() + world.latency() + fate.late, (sender.connection(), token, answer));
            }
        });
    }

    async fn answer(&mut self) -> (Token, Answer) {
        loop {
            match self.answers.next(|| self.node.process.thaws()).await {
                Some((connection, token, answer)) if connection == self.node.process.connection() => return (token, answer),
                Some(_) => {}
                None => std::future::pending().await,
            }
        }
    }
}

fn gone() -> Unanswered {
    Unanswered("the stream is gone".into())
}

impl Queues for Node {
    async fn ensure_tasks(&self, _: Limits) -> Result<(), Unanswered> {
        self.call("ensure_tasks", |world| world.with_server(Server::ensure_tasks)).await
    }

    async fn ensure_queue(&self, pool: &PoolName, ack_wait: Duration) -> Result<(), Unanswered> {
        let ensured =
            self.call("ensure_queue", |world| world.with_server(|server| server.ensure_queue(pool.as_str(), ack_wait, Instant::now())));
        ensured.await?.ok_or_else(gone)
    }
}

impl Keys for Node {
    type Bucket = Self;

    async fn bucket(&self) -> Result<Self, Unanswered> {
        self.call("bucket", |_| ()).await?;
        Ok(self.clone())
    }
}

impl Bucket for Node {
    type Watch = Watching;

    async fn create(&self, key: &str, value: Bytes) -> Result<u64, KeyError> {
        self.call("create", |world| world.with_server(|server| server.create_key(key, value, Instant::now()))).await?
    }

    async fn update(&self, key: &str, value: Bytes, revision: u64) -> Result<u64, KeyError> {
        self.call("update", |world| world.with_server(|server| server.update_key(key, Some(value), revision, Instant::now()))).await?
    }

    async fn put(&self, key: &str, value: Bytes) -> Result<(), Unanswered> {
        self.call("put", |world| world.with_server(|server| server.put_key(key, Some(value), Instant::now()))).await
    }

    async fn delete(&self, key: &str, revision: Option<u64>) -> Result<(), Unanswered> {
        let delete = |world: &World| {
            world.with_server(|server| match revision {
                Some(revision) => server.update_key(key, None, revision, Instant::now()).map(drop),
                None => {
                    server.put_key(key, None, Instant::now());
                    Ok(())
                }
            })
        };
        self.call("delete", delete).await?.map_err(|error| Unanswered(error.to_string()))
    }

    async fn entry(&self, key: &str) -> Result<Option<Entry>, Unanswered> {
        self.call("entry", |world| world.with_server(|server| server.key(key, Instant::now()))).await
    }

    async fn watch(&self, pattern: &str) -> Result<Watching, Unanswered> {
        let process = self.process.id;
        let mailbox = self.call("watch", |world| world.with_server(|server| server.watch(process, pattern, Instant::now()))).await?;
        Ok(Watching { node: self.clone(), mailbox })
    }
}

#[derive(Debug)]
pub(crate) struct Watching {
    node: Node,
    mailbox: Arc<Mailbox<Entry>>,
}

impl Watch for Watching {
    async fn next(&mut self) -> Result<Entry, Unanswered> {
        match self.mailbox.next(|| self.node.process.thaws()).await {
            Some(entry) => Ok(entry),
            None => {
                tokio::time::sleep(HEARTBEAT_MISSED).await;
                Err(Unanswered("no heartbeat".into()))
            }
        }
    }
}

/// Somebody who listens to core NATS.
#[derive(Debug)]
pub(crate) struct Ear {
    node: Node,
    mailbox: Arc<Mailbox<Letter>>,
}

impl Ear {
    async fn letter(&self) -> Option<Letter> {
        self.mailbox.next(|| self.node.process.thaws()).await
    }
}

impl Node {
    async fn ear(&self, pattern: &str) -> Ear {
        self.world.step(&self.process, "listen").await;
        let mailbox = self.world.with_server(|server| server.listen(self.process.id, pattern));
        Ear { node: self.clone(), mailbox }
    }

    async fn word(&self, subject: &str, reply: Option<&str>, payload: Bytes) {
        let what = subject.split('.').take(3).collect::<Vec<_>>().join(".");
        let fate = self.world.step(&self.process, &what).await;
        let (subject, reply) = (subject.to_owned(), reply.map(str::to_owned));
        self.world.send(&self.process, fate, move |world| {
            world.with_server(|server| server.say(&subject, reply.as_deref(), &payload, Instant::now()));
        });
    }
}

impl Words for Node {
    type Listener = Ear;

    async fn say(&self, subject: String, payload: Bytes) -> Result<(), Unanswered> {
        self.word(&subject, None, payload).await;
        Ok(())
    }

    async fn listen(&self, pattern: &'static str) -> Result<Ear, Unanswered> {
        Ok(self.ear(pattern).await)
    }
}

impl Listener for Ear {
    async fn next(&mut self) -> Option<Word> {
        let Letter { subject, reply, payload, .. } = self.letter().await?;
        Some(Word { subject, reply, payload })
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.node.world.with_server(|server| server.leave(&self.mailbox));
    }
}

impl Machine for Node {
    fn link(&self) -> Link {
        Link::new(self.process.made.subscribe(), self.process.up.subscribe())
    }

    fn now(&self) -> Timestamp {
        self.now()
    }
}

impl Aside for Node {
    async fn aside<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        work()
    }
}

impl worker::Outside for Node {
    type Listener = Ear;

    fn is_connected(&self) -> bool {
        self.process.up.get()
    }

    fn inbox(&self) -> String {
        format!("_INBOX.{}.{}", self.process.id, self.process.number())
    }

    async fn listen(&self, pattern: &str) -> Result<Ear, worker::Unanswered> {
        Ok(self.ear(pattern).await)
    }

    async fn say(&self, subject: &str, reply: Option<&str>, payload: Bytes) -> Result<(), worker::Unanswered> {
        self.word(subject, reply, payload).await;
        Ok(())
    }

    async fn ask(&self, subject: &str, payload: Bytes, patience: Duration) -> Result<Bytes, worker::Unanswered> {
        let inbox = worker::Outside::inbox(self);
        let ear = self.ear(&inbox).await;
        self.word(subject, Some(&inbox), payload).await;
        let heard = tokio::time::timeout(patience, ear.letter()).await;
        self.world.thaw(&self.process).await;
        match heard {
            Ok(Some(letter)) => Ok(letter.payload),
            Ok(None) | Err(_) => Err(worker::Unanswered("no answer in time".into())),
        }
    }

    async fn store(&self, subject: &str, payload: Bytes) -> Result<(), worker::Unanswered> {
        let message =
            Message { subject: subject.to_owned(), expect: causey_coordinator::outside::Expect::Nothing, headers: Vec::new(), payload };
        self.append(message).await.map(drop).map_err(|error| worker::Unanswered(error.to_string()))
    }

    async fn delete_key(&self, subject: &str) -> Result<(), worker::Unanswered> {
        self.word(subject, None, Bytes::new()).await;
        Ok(())
    }
}

impl worker::Listener for Ear {
    async fn next(&mut self) -> Option<worker::Message> {
        let Letter { subject, reply, payload, status, unfilled } = self.letter().await?;
        Some(worker::Message { subject, reply, payload, status, unfilled, ..worker::Message::default() })
    }

    async fn drain(&mut self) {
        self.node.world.thaw(&self.node.process).await;
        self.node.world.with_server(|server| server.leave(&self.mailbox));
        self.mailbox.close();
    }
}

/// The way of a process to the artifact store.
#[derive(Clone, Debug)]
pub(crate) struct StoreWay(pub(crate) Node);

impl causey_artifacts::Way for StoreWay {
    fn pass(&self) -> Pin<Box<dyn Future<Output = bool> + Send + '_>> {
        let Node { world, process } = &self.0;
        Box::pin(async move {
            let fate = world.step(process, "store").await;
            tokio::time::sleep(world.latency() + fate.late).await;
            world.after(process, fate).await;
            !fate.question_lost && !fate.answer_lost
        })
    }
}
