//! Many runs at once through the real coordinator and server, with a worker that reports success at once: transitions a second, the
//! memory that waiting tasks take, and how fast a coordinator with a long history is back after kill -9.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use causey_protocol::subject;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::json;

use crate::flows;
use crate::machine::resident_megabytes;
use crate::programs::Programs;
use crate::session::{Session, random_id};
use crate::stack::{Stack, Sync};
use crate::stats::Samples;
use crate::stub::{POOL, Shape, Stub};
use crate::table::Row;

const RUNS: usize = 1_000;
const CHAIN: usize = 100;

/// A run of the chain writes two records for each step, and four for its request, its start, its end and the notification.
const RECORDS_OF_RUN: usize = 2 * CHAIN + 4;
const RECORDS: usize = 1_000_000;

/// Tasks that wait in each of the runs.
const PENDING: u32 = 1_000;

/// No worker belongs to it.
const EMPTY_POOL: &str = "empty";

/// Requests under way.
const REQUESTS_AT_ONCE: usize = 64;

const RECOVERIES: usize = 5;
const REST: Duration = Duration::from_secs(3);

/// Measures all three on stacks of their own.
pub(crate) async fn measure(programs: &Programs, folder: &Path) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    let stack = Stack::start(programs, &folder.join("pending"), Sync::Default).await?;
    let found = pending(&Session::open(&stack, programs).await?).await;
    stack.stop();
    rows.extend(found?);
    let mut stack = Stack::start(programs, &folder.join("history"), Sync::Default).await?;
    let found = history(&mut stack, programs).await;
    stack.stop();
    rows.extend(found?);
    Ok(rows)
}

/// Transitions a second, under `sync_interval: always` too.
pub(crate) async fn transitions(session: &mut Session<'_>, sync: Sync) -> anyhow::Result<Row> {
    session.deploy_definition(&flows::chain_definition("BenchCrowd", CHAIN, POOL)?).await?;
    let worker = Stub::start(session, Shape::Chain(CHAIN)).await?;
    let spent = wave(session).await;
    worker.stop();
    let rate = rate(spent?);
    Ok(match sync {
        Sync::Default => {
            Row::more("crowd", format!("{RUNS} chains of {CHAIN} at once, native"), "steps/s", rate).gate(20_000.0).goal(50_000.0)
        }
        Sync::Always => Row::more("always", format!("{RUNS} chains of {CHAIN} at once, native, sync always"), "steps/s", rate)
            .gate(8_000.0)
            .goal(20_000.0),
    })
}

#[expect(clippy::cast_precision_loss, reason = "a hundred thousand")]
fn rate(spent: Duration) -> f64 {
    (RUNS * CHAIN) as f64 / spent.as_secs_f64()
}

/// Starts all runs and waits for the end of each.
async fn wave(session: &mut Session<'_>) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    start_runs(session, "BenchCrowd").await?;
    for _ in 0..RUNS {
        session.ended(None).await?;
    }
    Ok(begun.elapsed())
}

async fn start_runs(session: &Session<'_>, flow: &str) -> anyhow::Result<()> {
    let start = |_| session.post_owned("/v1/runs", json!({"flow": flow, "host": "fork", "request_id": random_id()}));
    stream::iter(0..RUNS).map(start).buffer_unordered(REQUESTS_AT_ONCE).try_for_each(|_| async { Ok(()) }).await
}

/// A thousand runs in each of which a thousand tasks wait for a worker.
async fn pending(session: &Session<'_>) -> anyhow::Result<Vec<Row>> {
    session.deploy_definition(&flows::foreach_definition("BenchPending", [POOL, EMPTY_POOL, EMPTY_POOL, EMPTY_POOL])?).await?;
    tokio::time::sleep(REST).await;
    let pids = [session.stack.coordinator_pid(), session.stack.nats_pid().context("the server has no pid")?];
    let idle = [resident_megabytes(pids[0])?, resident_megabytes(pids[1])?];
    let worker = Stub::start(session, Shape::Foreach(PENDING)).await?;
    start_runs(session, "BenchPending").await?;
    // Until nothing is written any more: all are split.
    let mut last = 0;
    loop {
        tokio::time::sleep(REST).await;
        let now = session.last(subject::LOG_STREAM).await?;
        if now == last {
            break;
        }
        last = now;
    }
    worker.stop();
    let over = |place: usize| anyhow::Ok(resident_megabytes(pids[place])? - idle[place]);
    let name = format!("{RUNS} runs × {PENDING} pending tasks");
    Ok(vec![
        Row::less("crowd", format!("{name}, coordinator over idle"), "MB", over(0)?).gate(200.0).goal(96.0),
        Row::less("crowd", format!("{name}, nats-server over idle"), "MB", over(1)?),
    ])
}

/// A million records behind a thousand live runs, and kill -9.
async fn history(stack: &mut Stack, programs: &Programs) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    {
        let mut session = Session::open(stack, programs).await?;
        rows.push(transitions(&mut session, Sync::Default).await?);
        let worker = Stub::start(&session, Shape::Chain(CHAIN)).await?;
        for _ in 1..RECORDS.div_ceil(RECORDS_OF_RUN * RUNS) {
            wave(&mut session).await?;
        }
        worker.stop();
        session.deploy_definition(&flows::chain_definition("BenchLive", CHAIN, EMPTY_POOL)?).await?;
        start_runs(&session, "BenchLive").await?;
    }
    let mut samples = Samples::default();
    for number in 0..RECOVERIES {
        tokio::time::sleep(REST).await;
        samples.push(stack.recover(programs, &format!("recovery-{number}")).await?.as_secs_f64());
    }
    let name = format!("recovery after kill -9, {} M records, {RUNS} live runs", RECORDS / 1_000_000);
    rows.push(Row::less("crowd", name, "s", samples.median()).spread(samples.spread()).gate(1.5).goal(0.5));
    Ok(rows)
}
