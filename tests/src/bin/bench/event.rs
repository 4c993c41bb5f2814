//! From an event to the first line of the step it starts, everything warm. Publisher and step note the time by the same wall clock.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use async_nats::HeaderMap;
use causey_protocol::event::STRUCTURED;
use serde_json::{Value, json};

use crate::flows::{self, EVENT};
use crate::session::{Session, random_id};
use crate::stats::Samples;
use crate::table::Row;

const FLOW: &str = "BenchEvent";
const SUBJECT: &str = "causey.event.bench";
const WARM_UP: u64 = 20;
const SAMPLES: u64 = 300;

/// Between events: the next child is forked in this time.
const PAUSE: Duration = Duration::from_millis(15);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Nats,
    Http,
}

/// Measures both ways in.
pub(crate) async fn measure(session: &mut Session<'_>, folder: &Path) -> anyhow::Result<Vec<Row>> {
    let noted = folder.join("first-lines");
    session.deploy(&flows::write(folder, FLOW, &flows::event(FLOW, &noted))?)?;
    let mut rows = Vec::new();
    for (way, name) in [(Way::Nats, "event on NATS → first line of the step"), (Way::Http, "event by HTTP → first line of the step")] {
        let latencies = latencies(session, &noted, way).await?;
        let row = |which: &str, measured: f64| Row::less("event", format!("{name}, {which}"), "ms", measured);
        rows.push(row("p50", latencies.median()).spread(latencies.spread()).gate(1.5).goal(0.9));
        rows.push(row("p99", latencies.quantile(0.99)).gate(4.0).goal(2.0));
    }
    Ok(rows)
}

/// Measures the way over NATS where everything is synced.
pub(crate) async fn measure_synced(session: &mut Session<'_>, folder: &Path) -> anyhow::Result<Vec<Row>> {
    let noted = folder.join("first-lines");
    session.deploy(&flows::write(folder, FLOW, &flows::event(FLOW, &noted))?)?;
    let latencies = latencies(session, &noted, Way::Nats).await?;
    let row = |which: &str, measured: f64| {
        Row::less("always", format!("event on NATS → first line of the step, sync always, {which}"), "ms", measured)
    };
    Ok(vec![
        row("p50", latencies.median()).spread(latencies.spread()).gate(4.0).goal(1.8),
        row("p99", latencies.quantile(0.99)).gate(7.0).goal(3.5),
    ])
}

async fn latencies(session: &mut Session<'_>, noted: &Path, way: Way) -> anyhow::Result<Samples> {
    let _ = fs::remove_file(noted);
    let mut sent = BTreeMap::new();
    for number in 0..WARM_UP + SAMPLES {
        tokio::time::sleep(PAUSE).await;
        let event = json!({"specversion": "1.0", "id": random_id(), "source": "/bench", "type": EVENT,
            "data": {"number": number}});
        sent.insert(number, now());
        publish(session, way, &event).await?;
        session.ended(None).await?;
    }
    let text = fs::read_to_string(noted).context("no step has noted its first line")?;
    let mut latencies = Samples::default();
    for line in text.lines() {
        let (number, arrived) = line.split_once(' ').context("a line without a number")?;
        let (number, arrived): (u64, u64) = (number.parse()?, arrived.parse()?);
        let sent = sent.get(&number).context("a number that was not sent")?;
        if number >= WARM_UP {
            #[expect(clippy::cast_precision_loss, reason = "a difference of times")]
            latencies.push(arrived.saturating_sub(*sent) as f64 / 1e6);
        }
    }
    anyhow::ensure!(latencies.len() == usize::try_from(SAMPLES)?, "{} of {SAMPLES} events ran", latencies.len());
    Ok(latencies)
}

async fn publish(session: &Session<'_>, way: Way, event: &Value) -> anyhow::Result<()> {
    match way {
        Way::Nats => {
            let mut headers = HeaderMap::new();
            headers.insert("Content-Type", STRUCTURED);
            session.jetstream.publish_with_headers(SUBJECT, headers, event.to_string().into()).await?.await?;
        }
        Way::Http => drop(session.post("/v1/events", event).await?),
    }
    Ok(())
}

/// Nanoseconds since the Unix epoch.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
