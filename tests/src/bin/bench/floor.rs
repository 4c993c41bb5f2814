//! What the machine allows: raw JetStream round trips and deliveries by async-nats, a JSON line to a warm Python and back, a small file
//! written. Their sum is the floor of one durable step.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use async_nats::HeaderMap;
use async_nats::jetstream::Context as JetStream;
use async_nats::jetstream::consumer::AckPolicy;
use async_nats::jetstream::consumer::pull::{Config as PullConfig, Stream as Messages};
use async_nats::jetstream::stream::{Config, RetentionPolicy};
use futures_util::StreamExt as _;

use crate::peer::{self, Peer};
use crate::programs::Programs;
use crate::session::Session;
use crate::stats::Samples;
use crate::table::Row;

const SAMPLES: usize = 1_000;
const WARM_UP: usize = 100;

/// About the size of a dispatch.
const PAYLOAD: [u8; 400] = [b'x'; 400];

const TASKS: &str = "BENCH_TASK";
const DONE: &str = "BENCH_DONE";

/// Echoes JSON lines as a warm host would take and answer them.
const ECHO: &str = "
import json, socket
with socket.socket(fileno=0) as connection, connection.makefile('rwb') as lines:
    for line in lines:
        lines.write(json.dumps(json.loads(line)).encode() + b'\\n')
        lines.flush()
";

/// Latencies in milliseconds.
#[derive(Debug, Default)]
pub(crate) struct Floor {
    publish: Samples,
    commit: Samples,
    delivery: Samples,
    report: Samples,
    pair: Samples,
    python: Samples,
    object: Samples,
}

impl Floor {
    /// The sum of a durable step's parts, in milliseconds.
    pub(crate) fn step_millis(&self) -> f64 {
        [&self.delivery, &self.python, &self.object, &self.report, &self.commit].map(Samples::median).iter().sum()
    }

    pub(crate) fn rows(&self) -> Vec<Row> {
        let row = |name: &str, samples: &Samples| Row::less("floor", name, "ms", samples.median()).spread(samples.spread());
        vec![
            row("raw: publish → ack", &self.publish),
            row("raw: task + completion over two streams, both acked", &self.pair),
            row("floor: delivery of a task (publish → waiting pull consumer)", &self.delivery),
            row("floor: JSON line to a warm Python and back", &self.python),
            row("floor: small object written", &self.object),
            row("floor: delivery of a report", &self.report),
            row("floor: commit (publish with expected sequence → ack)", &self.commit),
            Row::less("floor", "floor of one durable step (sum of the five)", "ms", self.step_millis()),
        ]
    }

    /// Measures all parts once more and adds them to what was measured before.
    pub(crate) async fn measure(&mut self, session: &Session<'_>, programs: &Programs, folder: &Path) -> anyhow::Result<()> {
        let jetstream = &session.jetstream;
        let base = |name: &str| Config { name: name.into(), subjects: vec![format!("bench.{name}.>")], ..Config::default() };
        let tasks = Config { retention: RetentionPolicy::WorkQueue, ..base(TASKS) };
        let queue = jetstream.create_stream(tasks).await?;
        let config = PullConfig { durable_name: Some("bench".into()), ack_policy: AckPolicy::Explicit, ..PullConfig::default() };
        let mut queued = queue.create_consumer(config).await?.stream().max_messages_per_batch(100).messages().await?;
        let inbox = jetstream.create_stream(base(DONE)).await?;
        let config = PullConfig { ack_policy: AckPolicy::None, memory_storage: true, ..PullConfig::default() };
        let mut done = inbox.create_consumer(config).await?.stream().max_messages_per_batch(500).messages().await?;

        self.publish.join(publishes(jetstream, None).await?);
        // Behind what the consumers are to see.
        drain(&mut done, WARM_UP + SAMPLES).await?;
        let last = inbox.get_info().await?.state.last_sequence;
        self.commit.join(publishes(jetstream, Some(last)).await?);
        drain(&mut done, WARM_UP + SAMPLES).await?;
        self.pair.join(pairs(jetstream, &mut queued, &mut done).await?);
        drop((queued, done));
        queue.delete_consumer("bench").await?;
        queue.purge().await?;
        inbox.purge().await?;
        self.delivery.join(deliveries(session, TASKS, true).await?);
        self.report.join(deliveries(session, DONE, false).await?);
        jetstream.delete_stream(TASKS).await?;
        jetstream.delete_stream(DONE).await?;
        self.python.join(echoes(programs)?);
        self.object.join(objects(folder)?);
        Ok(())
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Keeps what was measured after the warm-up.
fn after_warm_up(times: &[Duration]) -> impl Iterator<Item = f64> + '_ {
    times.iter().skip(WARM_UP).map(|time| millis(*time))
}

async fn publishes(jetstream: &JetStream, mut expected: Option<u64>) -> anyhow::Result<Samples> {
    let mut times = Vec::new();
    for _ in 0..WARM_UP + SAMPLES {
        let mut headers = HeaderMap::new();
        if let Some(last) = expected {
            headers.insert(async_nats::header::NATS_EXPECTED_LAST_SEQUENCE, last.to_string());
        }
        let begun = Instant::now();
        let ack = jetstream.publish_with_headers(format!("bench.{DONE}.x"), headers, PAYLOAD.as_slice().into()).await?.await?;
        times.push(begun.elapsed());
        expected = expected.map(|_| ack.sequence);
    }
    Ok(after_warm_up(&times).collect())
}

async fn drain(messages: &mut Messages, count: usize) -> anyhow::Result<()> {
    for _ in 0..count {
        messages.next().await.context("the stream ended")??;
    }
    Ok(())
}

/// From one process to another.
async fn deliveries(session: &Session<'_>, stream: &str, acked: bool) -> anyhow::Result<Samples> {
    let mut peer = Peer::start(session, stream, acked).await?;
    let mut times = Vec::new();
    for _ in 0..WARM_UP + SAMPLES {
        let begun = peer::now();
        let accepted = session.jetstream.publish(format!("bench.{stream}.x"), PAYLOAD.as_slice().into()).await?;
        let arrived = peer.arrived().await?;
        times.push(Duration::from_nanos(u64::try_from(arrived.saturating_sub(begun))?));
        accepted.await?;
    }
    peer.stop()?;
    Ok(after_warm_up(&times).collect())
}

/// A task goes out, its completion comes back: the least that a step over two streams can cost.
async fn pairs(jetstream: &JetStream, queued: &mut Messages, done: &mut Messages) -> anyhow::Result<Samples> {
    let mut times = Vec::new();
    for _ in 0..WARM_UP + SAMPLES {
        let begun = Instant::now();
        let task = jetstream.publish(format!("bench.{TASKS}.x"), PAYLOAD.as_slice().into()).await?;
        let message = queued.next().await.context("the stream ended")??;
        let completion = jetstream.publish(format!("bench.{DONE}.x"), PAYLOAD.as_slice().into()).await?;
        done.next().await.context("the stream ended")??;
        message.ack().await.map_err(|error| anyhow::anyhow!(error))?;
        task.await?;
        completion.await?;
        times.push(begun.elapsed());
    }
    Ok(after_warm_up(&times).collect())
}

fn echoes(programs: &Programs) -> anyhow::Result<Samples> {
    let (ours, theirs) = UnixStream::pair()?;
    let mut child = programs.python().args(["-c", ECHO]).stdin(Stdio::from(OwnedFd::from(theirs))).spawn()?;
    let line = format!("{}\n", serde_json::json!({"type": "run", "text": "x".repeat(600), "inputs": [1, 2, 3]}));
    let mut reader = BufReader::new(ours.try_clone()?);
    let mut times = Vec::new();
    let mut answer = String::new();
    for _ in 0..WARM_UP + SAMPLES {
        answer.clear();
        let begun = Instant::now();
        (&ours).write_all(line.as_bytes())?;
        reader.read_line(&mut answer)?;
        times.push(begun.elapsed());
    }
    drop((reader, ours));
    child.wait()?;
    Ok(after_warm_up(&times).collect())
}

/// Small files under their final names, by renaming; no sync, as in a folder store of this durability. They stay until the end: ext4
/// without a journal passes over inodes deleted in the last minutes one by one, so 1,000 deletions here would make every file
/// of the measurements that follow cost half a millisecond.
fn objects(folder: &Path) -> anyhow::Result<Samples> {
    let folder = tempfile::Builder::new().prefix("objects-").tempdir_in(folder)?.keep();
    let mut times = Vec::new();
    for number in 0..WARM_UP + SAMPLES {
        let begun = Instant::now();
        let fresh = folder.join(format!(".{number}"));
        std::fs::write(&fresh, PAYLOAD)?;
        std::fs::rename(&fresh, folder.join(number.to_string()))?;
        times.push(begun.elapsed());
    }
    Ok(after_warm_up(&times).collect())
}
