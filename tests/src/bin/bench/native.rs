//! A wide foreach through the real coordinator and server, with a worker that reports success at once: what is measured is the
//! engine room alone. Memory and log grow beside the rate, so that anything that grows with the width shows.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use causey_protocol::subject;
use serde_json::json;

use crate::flows;
use crate::machine::resident_megabytes;
use crate::session::{Session, random_id};
use crate::stub::{POOL, Shape, Stub};
use crate::table::Row;

/// Widths, the gate for steps a second, and that for memory.
const WIDTHS: [(u32, Option<f64>, Option<f64>); 3] =
    [(10_000, Some(15_000.0), None), (100_000, Some(20_000.0), None), (1_000_000, None, Some(96.0))];

const SAMPLED_EVERY: Duration = Duration::from_millis(50);
const REST: Duration = Duration::from_secs(3);

/// Measures every width once, in order.
pub(crate) async fn measure(session: &mut Session<'_>) -> anyhow::Result<Vec<Row>> {
    session.put_no_code().await?;
    let mut rows = Vec::new();
    for (width, rate_gate, memory_gate) in WIDTHS {
        let worker = Stub::start(session, Shape::Foreach(width)).await?;
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
    let definition = flows::foreach_definition("BenchNative", [POOL; 4])?;
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
