//! A worker that reports success at once, without hosts and objects: what is measured with it is the engine room alone.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use async_nats::{Client, Message, Subscriber};
use bytes::Bytes;
use causey_protocol::codec::{self, MESSAGE_BYTES_MAX};
use causey_protocol::id::{Digest, PoolName, StepName, Timestamp, WorkerName};
use causey_protocol::live::{Ask, Offer, Told};
use causey_protocol::subject;
use causey_protocol::task::{Dispatch, Outcome, Report, ReportItem, Success};
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::task::JoinHandle;

use crate::flows;
use crate::session::Session;

/// The pool it belongs to.
pub(crate) const POOL: &str = "native";

const WORKER: &str = "stub";

/// Dispatches asked for ahead.
const CREDIT: usize = 64;

/// Tasks in one report.
const REPORT_TASKS_MAX: usize = 512;

/// The flow it knows the steps of.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Shape {
    /// As [`flows::foreach_definition`], over so many items.
    Foreach(u32),
    /// As [`flows::chain_definition`], of so many steps.
    Chain(usize),
}

impl Shape {
    /// Where a step leads, and over how many items.
    fn next(self, step: &str) -> anyhow::Result<(Vec<StepName>, Option<u32>)> {
        let (next, items) = match (self, step) {
            (_, "end") => return Ok((Vec::new(), None)),
            (Self::Foreach(items), "start") => ("work".to_owned(), Some(items)),
            (Self::Foreach(_), "work") => ("join".to_owned(), None),
            (Self::Foreach(_), _) => ("end".to_owned(), None),
            (Self::Chain(steps), "start") => (flows::step(1, steps), None),
            (Self::Chain(steps), step) => (flows::step(step[1..].parse::<usize>()? + 1, steps), None),
        };
        Ok((vec![next.parse()?], items))
    }
}

/// A worker without hosts.
#[derive(Debug)]
pub(crate) struct Stub {
    tasks: [JoinHandle<anyhow::Result<()>>; 2],
}

impl Stub {
    /// Says hello and pulls once the pool's queue is there.
    pub(crate) async fn start(session: &Session<'_>, shape: Shape) -> anyhow::Result<Self> {
        let (user, password) = session.stack.credentials();
        let options = async_nats::ConnectOptions::with_user_and_password(user.into(), password.into());
        let client = options.subscription_capacity(65_536).connect(&session.stack.nats_address).await?;
        hello(&client).await?;
        let greeter = client.clone();
        let greeting = tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_secs(5)).await;
                hello(&greeter).await?;
            }
        });
        Ok(Self { tasks: [greeting, tokio::spawn(serve(client, shape))] })
    }

    pub(crate) fn stop(self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

async fn hello(client: &Client) -> anyhow::Result<()> {
    let (pool, worker) = (PoolName::new(POOL)?, WorkerName::new(WORKER)?);
    let subject = subject::live_worker(&pool, &worker);
    let offer = Offer {
        pool,
        worker,
        slots: 64,
        memory_mb: 1,
        languages: Vec::new(),
        version: String::new(),
        started: Timestamp(0),
        equipment: Default::default(),
        closed: false,
    };
    let answer = client.request(subject, codec::encode(&Ask::Hello { offer, open: Vec::new() }).into()).await?;
    match codec::decode(&answer.payload, MESSAGE_BYTES_MAX)? {
        Told::Welcome { .. } => Ok(()),
        other => bail!("the coordinator does not welcome the stub: {other:?}"),
    }
}

/// Like a worker it has one report under way, and whatever comes meanwhile goes into the next one.
async fn serve(client: Client, shape: Shape) -> anyhow::Result<()> {
    let inbox = client.new_inbox();
    let mut tasks = client.subscribe(inbox.clone()).await?;
    let jetstream = async_nats::jetstream::new(client.clone());
    let mut credit = 0;
    loop {
        if credit < CREDIT / 2 {
            let asked = CREDIT - credit;
            let next = format!("$JS.API.CONSUMER.MSG.NEXT.{}.{POOL}", subject::TASK_STREAM);
            let request = format!(r#"{{"batch":{asked},"expires":30000000000}}"#);
            client.publish_with_reply(next, inbox.clone(), request.into()).await?;
            credit = CREDIT;
        }
        let taken = take(&mut tasks, &mut credit).await?;
        if !taken.is_empty() {
            report(&client, &jetstream, taken, shape).await?;
        }
    }
}

/// What has arrived, up to what goes into a report.
async fn take(tasks: &mut Subscriber, credit: &mut usize) -> anyhow::Result<Vec<(Message, Dispatch)>> {
    let (mut taken, mut count) = (Vec::new(), 0);
    let mut next = Some(tasks.next().await.context("the subscription ended")?);
    while let Some(message) = next {
        match message.status {
            None => {
                *credit -= 1;
                let dispatch: Dispatch = codec::decode(&message.payload, MESSAGE_BYTES_MAX)?;
                count += dispatch.tasks.len();
                taken.push((message, dispatch));
            }
            // A request ended: what it had left has to be asked for anew.
            Some(_) => *credit = 0,
        }
        next = if *credit > 0 && count < REPORT_TASKS_MAX { tasks.next().now_or_never().flatten() } else { None };
    }
    Ok(taken)
}

/// Reports everything as done, then acknowledges: the order in which a worker does it.
async fn report(
    client: &Client,
    jetstream: &async_nats::jetstream::Context,
    taken: Vec<(Message, Dispatch)>,
    shape: Shape,
) -> anyhow::Result<()> {
    let (pool, worker) = (PoolName::new(POOL)?, WorkerName::new(WORKER)?);
    let mut done = Vec::new();
    for (_, dispatch) in &taken {
        let (next, foreach) = shape.next(dispatch.step.as_str())?;
        let at = Timestamp(1_700_000_000_000_000);
        done.extend(dispatch.tasks.iter().map(|task| {
            let digest = Digest::of(&task.path.0.last().copied().unwrap_or_default().to_le_bytes());
            let (next, publications) = (next.clone(), Vec::new());
            let success =
                Success { digest, bytes: 300, next, foreach, publications, children: Vec::new(), started: at, ended: at, content: None };
            let (run, step, path) = (dispatch.run, dispatch.step.clone(), task.path.clone());
            ReportItem { run, step, path, visit: task.visit, attempt: task.attempt, outcome: Outcome::Succeeded(success) }
        }));
    }
    let subject = subject::report(&pool, &worker);
    let payload = codec::encode(&Report { pool, worker, items: done });
    ensure!(payload.len() <= MESSAGE_BYTES_MAX, "a report of {} bytes", payload.len());
    jetstream.publish(subject, payload.into()).await?.await?;
    for (message, _) in taken {
        if let Some(reply) = message.reply {
            client.publish(reply, Bytes::from_static(b"+ACK")).await?;
        }
    }
    Ok(())
}
