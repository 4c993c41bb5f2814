//! `make soak SECONDS=60`: lives through simulated worlds, each of another seed, for so many seconds or until it is stopped, and says
//! how many an hour there were. A seed that fails is printed with its smallest replay, and makes the end a failure.
//! With `--from N` they are the worlds of the seeds from there on. `soak --seed N` lives through one world and says what happened in it;
//! `--faults 3,7` leaves out all its faults but these.

use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use causey_tests::simulation::{Plan, live, many, report};

/// Worlds between two words about them.
const ROUND: u64 = 100;

fn main() -> anyhow::Result<ExitCode> {
    let mut arguments = std::env::args().skip(1);
    let (mut seconds, mut from, mut seed, mut faults) = (None, None, None, None);
    while let Some(name) = arguments.next() {
        let value = arguments.next().with_context(|| format!("{name} needs a value"))?;
        let number = || value.parse::<u64>().with_context(|| format!("{name} takes a number, not {value:?}"));
        match name.as_str() {
            "--seconds" => seconds = Some(Duration::from_secs(number()?)),
            "--from" => from = Some(number()?),
            "--seed" => seed = Some(number()?),
            "--faults" => faults = Some(numbers(&value)?),
            _ => anyhow::bail!("{name} is no option; there are --seconds, --from, --seed and --faults"),
        }
    }
    Ok(match (seed, faults) {
        (Some(seed), None) => one(&Plan::of(seed)),
        (Some(seed), Some(faults)) => one(&Plan::of(seed).only(&faults)),
        (None, Some(_)) => anyhow::bail!("--faults needs the --seed whose faults they are"),
        (None, None) => soak(seconds, from),
    })
}

/// Numbers of faults, separated by commas; none for `none`.
fn numbers(text: &str) -> anyhow::Result<Vec<usize>> {
    if text == "none" {
        return Ok(Vec::new());
    }
    let wrong = || format!("--faults takes numbers separated by commas, or `none`, not {text:?}");
    text.split(',').map(|number| number.trim().parse().with_context(wrong)).collect()
}

fn one(plan: &Plan) -> ExitCode {
    let verdict = live(plan);
    if !verdict.violations.is_empty() {
        eprintln!("{}", report(plan));
        return ExitCode::FAILURE;
    }
    plan.faults.iter().for_each(|fault| println!("{fault}"));
    verdict.notes.iter().for_each(|note| println!("{note}"));
    let (steps, turns, trace) = (verdict.steps, verdict.turns, &verdict.trace);
    println!("seed {} keeps every invariant: {steps} steps, {turns} turns, {:?} of its time, trace {trace}", plan.seed, verdict.lasted);
    ExitCode::SUCCESS
}

fn soak(limit: Option<Duration>, from: Option<u64>) -> ExitCode {
    let begun = Instant::now();
    // Other worlds each time; the seconds are enough, because a soak has far fewer than a million seeds a second.
    let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let mut next = from.unwrap_or(since * 1_000_000);
    let (mut worlds, mut failed) = (0, 0);
    while limit.is_none_or(|limit| begun.elapsed() < limit) {
        let (end, within) = (next + ROUND, || limit.is_none_or(|limit| begun.elapsed() < limit));
        let lived = many(next, |seed| seed < end && within());
        next = end;
        worlds += lived.worlds;
        failed += lived.failures.len();
        lived.failures.iter().for_each(|failure| eprintln!("{}\n", failure.report));
        let hours = begun.elapsed().as_secs_f64() / 3_600.0;
        println!("{worlds} worlds, {failed} failed, {:.0} an hour", worlds as f64 / hours);
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
