//! `make soak SECONDS=60`: lives through simulated worlds, each of another seed, for so many seconds or until it is stopped, and says
//! how many an hour there were. A seed that fails is printed with its smallest replay, and makes the end a failure.
//! `soak --seed N` lives through one world and says what happened in it.

use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use causey_tests::simulation::{Plan, live, many, report};

/// Worlds between two words about them.
const ROUND: u64 = 500;

fn main() -> anyhow::Result<ExitCode> {
    let mut arguments = std::env::args().skip(1);
    let (mut seconds, mut seed) = (None, None);
    while let Some(name) = arguments.next() {
        let value: u64 = arguments.next().context("an option needs a number")?.parse().with_context(|| format!("{name} takes a number"))?;
        match name.as_str() {
            "--seconds" => seconds = Some(Duration::from_secs(value)),
            "--seed" => seed = Some(value),
            _ => anyhow::bail!("{name} is no option; there are --seconds and --seed"),
        }
    }
    Ok(match seed {
        Some(seed) => one(seed),
        None => soak(seconds),
    })
}

fn one(seed: u64) -> ExitCode {
    let plan = Plan::of(seed);
    let verdict = live(&plan);
    if !verdict.violations.is_empty() {
        eprintln!("{}", report(&plan));
        return ExitCode::FAILURE;
    }
    plan.faults.iter().for_each(|fault| println!("{fault}"));
    verdict.notes.iter().for_each(|note| println!("{note}"));
    println!("seed {seed} keeps every invariant: {} steps, {} turns, {:?} of its time", verdict.steps, verdict.turns, verdict.lasted);
    ExitCode::SUCCESS
}

fn soak(limit: Option<Duration>) -> ExitCode {
    let begun = Instant::now();
    // Other worlds each time; the seconds are enough, because a soak has far fewer than a million seeds a second.
    let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let mut next = since * 1_000_000;
    let (mut worlds, mut failed) = (0, 0);
    while limit.is_none_or(|limit| begun.elapsed() < limit) {
        let (end, within) = (next + ROUND, || limit.is_none_or(|limit| begun.elapsed() < limit));
        let (lived, failures) = many(next, |seed| seed < end && within());
        next = end;
        worlds += lived;
        failed += failures.len();
        failures.iter().for_each(|failure| eprintln!("{}\n", failure.report));
        let hours = begun.elapsed().as_secs_f64() / 3_600.0;
        println!("{worlds} worlds, {failed} failed, {:.0} an hour", worlds as f64 / hours);
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
