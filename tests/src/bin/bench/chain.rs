//! A chain of steps that do nothing, one after the other: what a step costs.

use std::path::Path;
use std::time::Duration;

use crate::flows::{self, CHAIN_STEPS};
use crate::log::{self, Timeline};
use crate::session::{Ended, Session};
use crate::stack::SLOTS;
use crate::stats::Samples;
use crate::table::Row;
use crate::trace::{self, Used};

/// The worker keeps so many forked children in stock.
const STOCK: usize = SLOTS + 2;

/// In this time the worker has filled its stock again.
const REFILL: Duration = Duration::from_millis(250);

/// What a template of a scientific flow imports.
const SCIENCE: [&str; 2] = ["pandas", "sklearn.ensemble"];

/// Runs of one kind.
struct Series {
    per_step: Samples,
    /// The same by the client's clock, request and notification included.
    per_step_wall: Samples,
    longest_gap: f64,
    first_wall: Duration,
    timelines: Vec<Timeline>,
    used: [Used; 2],
}

struct Plan<'a> {
    flow: &'a str,
    steps: usize,
    host: &'a str,
    warm_up: usize,
    runs: usize,
    pause: Duration,
}

async fn series(session: &mut Session<'_>, plan: &Plan<'_>) -> anyhow::Result<Series> {
    let before = Used::read(session.stack);
    let mut series = Series {
        used: [before; 2],
        per_step: Samples::default(),
        per_step_wall: Samples::default(),
        longest_gap: 0.0,
        first_wall: Duration::ZERO,
        timelines: Vec::new(),
    };
    for number in 0..plan.warm_up + plan.runs {
        tokio::time::sleep(plan.pause).await;
        let place = session.place().await?;
        let Ended { run, wall } = session.run(plan.flow, plan.host).await?;
        if number == 0 {
            series.first_wall = wall;
        }
        if number < plan.warm_up {
            series.used = [Used::read(session.stack); 2];
            continue;
        }
        let timeline = log::timeline(session, place, &run).await?;
        #[expect(clippy::cast_precision_loss, reason = "a few steps")]
        let steps = plan.steps as f64;
        series.per_step.push(timeline.millis() / steps);
        series.per_step_wall.push(wall.as_secs_f64() * 1e3 / steps);
        series.longest_gap = series.longest_gap.max(timeline.longest_gap);
        series.timelines.push(timeline);
    }
    series.used[1] = Used::read(session.stack);
    Ok(series)
}

/// Measures the chain whose files are synced.
pub(crate) async fn measure_synced(session: &mut Session<'_>, folder: &Path) -> anyhow::Result<Row> {
    session.deploy(&flows::write(folder, "BenchChain", &flows::chain("BenchChain", CHAIN_STEPS, &[]))?)?;
    let plan = Plan { flow: "BenchChain", steps: CHAIN_STEPS, host: "reuse", warm_up: 2, runs: 7, pause: Duration::ZERO };
    let series = series(session, &plan).await?;
    let row = Row::less("always", format!("chain of {CHAIN_STEPS}, reuse, sync always"), "ms/step", series.per_step.median());
    Ok(row.spread(series.per_step.spread()).gate(3.5).goal(2.3))
}

/// Measures all chains.
pub(crate) async fn measure(session: &mut Session<'_>, folder: &Path, traced: bool) -> anyhow::Result<(Vec<Row>, f64)> {
    let science = session.programs.importable(&SCIENCE);
    let imports = if science.is_empty() { "no packages".into() } else { science.join(" + ").replace(".ensemble", "") };
    for (name, steps, imports) in
        [("BenchChain", CHAIN_STEPS, &[][..]), ("BenchScience", CHAIN_STEPS, &science), ("BenchReady", STOCK, &science)]
    {
        session.deploy(&flows::write(folder, name, &flows::chain(name, steps, imports))?)?;
    }
    let plan = |flow, steps, host, runs, pause| Plan { flow, steps, host, warm_up: 2, runs, pause };
    let row =
        |name: String, series: &Series| Row::less("chain", name, "ms/step", series.per_step.median()).spread(series.per_step.spread());
    let wall = |name: &str, series: &Series| {
        Row::less("chain", format!("{name}, by the client's clock"), "ms/step", series.per_step_wall.median())
            .spread(series.per_step_wall.spread())
    };
    let first = |name: &str, series: &Series| {
        Row::less("chain", format!("{name}, first run (warm-up)"), "ms", series.first_wall.as_secs_f64() * 1e3)
    };

    let reuse = series(session, &plan("BenchChain", CHAIN_STEPS, "reuse", 15, Duration::ZERO)).await?;
    let ready = series(session, &plan("BenchReady", STOCK, "fork", 30, REFILL)).await?;
    let sustained = series(session, &plan("BenchScience", CHAIN_STEPS, "fork", 7, Duration::ZERO)).await?;
    let bare = series(session, &plan("BenchChain", CHAIN_STEPS, "fork", 7, Duration::ZERO)).await?;
    if traced {
        for (name, series) in [("reuse", &reuse), ("fork, children ready", &ready), ("fork, sustained", &sustained), ("fork, bare", &bare)]
        {
            trace::print(name, &series.timelines);
            let [before, after] = series.used;
            after.print_since(before, series.timelines.iter().map(|timeline| timeline.steps.len()).sum());
        }
    }
    let rows = vec![
        row(format!("chain of {CHAIN_STEPS}, reuse"), &reuse).gate(1.3).goal(0.9),
        wall("chain, reuse", &reuse),
        first("chain, reuse", &reuse),
        row(format!("chain, fork ({imports}), children ready ({STOCK} steps)"), &ready).gate(1.8).goal(1.0),
        row(format!("chain of {CHAIN_STEPS}, fork ({imports}), sustained"), &sustained).gate(10.0).goal(6.5),
        first("chain, fork", &sustained),
        row(format!("chain of {CHAIN_STEPS}, fork (no packages)"), &bare),
    ];
    let gap = [&reuse, &ready, &sustained, &bare].iter().map(|series| series.longest_gap).fold(0.0, f64::max);
    Ok((rows, gap))
}
