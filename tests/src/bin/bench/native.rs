//! A wide foreach through the real coordinator and server, with a worker that reports success at once: what is measured is the
//! engine room alone. Memory and log grow beside the rate, so that anything that grows with the width shows.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use async_nats::{Client, Message, Subscriber};
use bytes::Bytes;
use causey_protocol::codec::{self, MESSAGE_BYTES_MAX};
use causey_protocol::id::{Digest, PoolName, Timestamp, WorkerName};
use causey_protocol::live::{Ask, Offer, Told};
use causey_protocol::subject;
use causey_protocol::task::{Dispatch, Outcome, Report, ReportItem, Success};
use futures_util::{FutureExt as _, StreamExt as _};
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::flows;
use crate::machine::resident_megabytes;
use crate::session::{Session, random_id};
use crate::table::Row;

const POOL: &str = "native";
const WORKER: &str = "stub";

/// Widths, the gate for steps a second, and that for memory.
const WIDTHS: [(u32, Option<f64>, Option<f64>); 3] =
    [(10_000, Some(15_000.0), None), (100_000, Some(20_000.0), None), (1_000_000, None, Some(96.0))];

/// Dispatches asked for ahead, and those whose items go into one report.
const CREDIT: usize = 64;
const DISPATCHES_PER_REPORT: usize = 4;

/// Reports under way.
const REPORTS_AT_ONCE: usize = 8;

const SAMPLED_EVERY: Duration = Duration::from_millis(50);
const REST: Duration = Duration::from_secs(3);

/// Measures every width once, in order.
pub(crate) async fn measure(session: &mut Session<'_>) -> anyhow::Result<Vec<Row>> {
    let package = Bytes::from_static(b"no code");
    session.put_package(&Digest::of(&package), package).await?;
    let mut rows = Vec::new();
    for (width, rate_gate, memory_gate) in WIDTHS {
        let (user, password) = session.stack.credentials();
        let options = async_nats::ConnectOptions::with_user_and_password(user.into(), password.into());
        let client = options.subscription_capacity(65_536).connect(&session.stack.nats_address).await?;
        let worker = Stub::start(client, width).await?;
        let measured = one(session, width).await;
        worker.stop();
        let One { seconds, coordinator, server, log_bytes } = measured?;
        let rate = f64::from(width) / seconds;
        let row = Row::more("native", format!("foreach of {width}, native"), "steps/s", rate);
        rows.push(rate_gate.into_iter().fold(row, Row::gate));
        let row = Row::less("native", format!("foreach of {width}, coordinator's peak over idle"), "MB", coordinator);
        rows.push(memory_gate.into_iter().fold(row, Row::gate));
        rows.push(Row::less("native", format!("foreach of {width}, nats-server's peak over idle"), "MB", server));
        rows.push(Row::less("native", format!("foreach of {width}, log"), "bytes/item", log_bytes));
    }
    Ok(rows)
}

/// What one run came to. Memory is over what it was at rest before, in MB.
struct One {
    seconds: f64,
    coordinator: f64,
    server: f64,
    log_bytes: f64,
}

async fn one(session: &mut Session<'_>, width: u32) -> anyhow::Result<One> {
    tokio::time::sleep(REST).await;
    let pids = [session.stack.coordinator_pid(), session.stack.nats_pid().context("the server has no pid")?];
    let idle = [resident_megabytes(pids[0])?, resident_megabytes(pids[1])?];
    let before = session.bytes(subject::LOG_STREAM).await?;
    let begun = Instant::now();
    let definition = flows::foreach_definition("BenchNative", POOL)?;
    let body = json!({"definition": definition, "host": "reuse", "request_id": random_id()});
    let answer = session.post("/v1/runs", &body).await?;
    let run = answer["run"].as_str().context("the answer names no run")?.to_owned();
    let mut peak = idle;
    {
        let mut ended = std::pin::pin!(session.ended(Some(&run)));
        loop {
            for (peak, pid) in peak.iter_mut().zip(pids) {
                *peak = peak.max(resident_megabytes(pid)?);
            }
            if let Ok(ended) = tokio::time::timeout(SAMPLED_EVERY, &mut ended).await {
                ended?;
                break;
            }
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    let bytes = session.bytes(subject::LOG_STREAM).await?.saturating_sub(before);
    #[expect(clippy::cast_precision_loss, reason = "below 2^52")]
    let log_bytes = bytes as f64 / f64::from(width);
    Ok(One { seconds, coordinator: peak[0] - idle[0], server: peak[1] - idle[1], log_bytes })
}

/// A worker without hosts.
struct Stub {
    tasks: [JoinHandle<anyhow::Result<()>>; 2],
}

impl Stub {
    /// Says hello and pulls once the pool's queue is there.
    async fn start(client: Client, items: u32) -> anyhow::Result<Self> {
        hello(&client).await?;
        let greeter = client.clone();
        let greeting = tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_secs(5)).await;
                hello(&greeter).await?;
            }
        });
        Ok(Self { tasks: [greeting, tokio::spawn(serve(client, items))] })
    }

    fn stop(self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

async fn hello(client: &Client) -> anyhow::Result<()> {
    let (pool, worker) = (PoolName::new(POOL)?, WorkerName::new(WORKER)?);
    let subject = subject::live_worker(&pool, &worker);
    let offer = Offer { pool, worker, slots: 64, memory_mb: 1, languages: Vec::new(), version: String::new(), started: Timestamp(0) };
    let answer = client.request(subject, codec::encode(&Ask::Hello { offer, open: Vec::new() }).into()).await?;
    match codec::decode(&answer.payload, MESSAGE_BYTES_MAX)? {
        Told::Welcome { .. } => Ok(()),
        other => bail!("the coordinator does not welcome the stub: {other:?}"),
    }
}

async fn serve(client: Client, items: u32) -> anyhow::Result<()> {
    let inbox = client.new_inbox();
    let mut tasks = client.subscribe(inbox.clone()).await?;
    let jetstream = async_nats::jetstream::new(client.clone());
    let reports = Arc::new(Semaphore::new(REPORTS_AT_ONCE));
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
        if taken.is_empty() {
            continue;
        }
        let place = reports.clone().acquire_owned().await?;
        let (client, jetstream) = (client.clone(), jetstream.clone());
        tokio::spawn(async move {
            let sent = report(&client, &jetstream, &taken, items).await;
            drop(place);
            sent
        });
    }
}

/// What has arrived, up to what goes into a report.
async fn take(tasks: &mut Subscriber, credit: &mut usize) -> anyhow::Result<Vec<Message>> {
    let mut taken = Vec::new();
    let mut next = Some(tasks.next().await.context("the subscription ended")?);
    while let Some(message) = next {
        match message.status {
            None => {
                *credit -= 1;
                taken.push(message);
            }
            // A request ended: what it had left has to be asked for anew.
            Some(_) => *credit = 0,
        }
        next = if taken.len() < DISPATCHES_PER_REPORT { tasks.next().now_or_never().flatten() } else { None };
    }
    Ok(taken)
}

/// Reports everything as done, then acknowledges: the order in which a worker does it.
async fn report(client: &Client, jetstream: &async_nats::jetstream::Context, taken: &[Message], items: u32) -> anyhow::Result<()> {
    let (pool, worker) = (PoolName::new(POOL)?, WorkerName::new(WORKER)?);
    let mut done = Vec::new();
    for message in taken {
        let dispatch: Dispatch = codec::decode(&message.payload, MESSAGE_BYTES_MAX)?;
        let (next, foreach) = match dispatch.step.as_str() {
            "start" => (vec!["work".parse()?], Some(items)),
            "work" => (vec!["join".parse()?], None),
            "join" => (vec!["end".parse()?], None),
            _ => (Vec::new(), None),
        };
        let at = Timestamp(1_700_000_000_000_000);
        done.extend(dispatch.tasks.iter().map(|task| {
            let digest = Digest::of(&task.path.0.last().copied().unwrap_or_default().to_le_bytes());
            let (next, publications) = (next.clone(), Vec::new());
            let success = Success { digest, bytes: 300, next, foreach, publications, started: at, ended: at };
            let (run, step, path) = (dispatch.run, dispatch.step.clone(), task.path.clone());
            ReportItem { run, step, path, visit: task.visit, attempt: task.attempt, outcome: Outcome::Succeeded(success) }
        }));
    }
    let subject = subject::report(&pool, &worker);
    let payload = codec::encode(&Report { pool, worker, items: done });
    ensure!(payload.len() <= MESSAGE_BYTES_MAX, "a report of {} bytes", payload.len());
    jetstream.publish(subject, payload.into()).await?.await?;
    for message in taken {
        if let Some(reply) = message.reply.clone() {
            client.publish(reply, Bytes::from_static(b"+ACK")).await?;
        }
    }
    Ok(())
}
