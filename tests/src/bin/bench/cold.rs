//! `causey run` from exec to exit: with nothing running, and beside `causey dev`.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::flows;
use crate::programs::Programs;
use crate::stack;
use crate::stats::Samples;
use crate::table::Row;

const FLOW: &str = "BenchCold";
const STEPS: usize = 3;
const RUNS: usize = 10;

/// Measures all three situations.
pub(crate) fn measure(programs: &Programs, folder: &Path) -> anyhow::Result<Vec<Row>> {
    let fresh = |number: usize| {
        let project = folder.join(format!("project-{number}"));
        flows::write(&project, FLOW, &flows::chain(FLOW, STEPS, &[])).map(|flow| (project, flow))
    };
    let first = {
        let (project, flow) = fresh(0)?;
        run(programs, &project, &flow)?
    };
    let mut new = Samples::default();
    for number in 1..=RUNS {
        let (project, flow) = fresh(number)?;
        new.push(run(programs, &project, &flow)?);
    }
    let (project, flow) = fresh(0)?;
    let mut again = Samples::default();
    for _ in 0..RUNS {
        again.push(run(programs, &project, &flow)?);
    }
    let left = left_behind(folder);
    ensure!(left.is_empty(), "causey run left processes behind:\n{}", left.join("\n"));
    let beside = beside_dev(programs, &project, &flow)?;
    let row = |name: &str, samples: &Samples| Row::less("cold", name, "ms", samples.median()).spread(samples.spread());
    Ok(vec![
        row("cold causey run of 3 steps, nothing running", &again).gate(300.0).goal(110.0),
        row("the same in a new project", &new),
        Row::less("cold", "the same, very first (SDK unpacked and compiled; warm-up)", "ms", first),
        row("causey run of 3 steps beside causey dev", &beside).gate(100.0).goal(40.0),
    ])
}

fn command(programs: &Programs, project: &Path) -> Command {
    let mut command = programs.causey();
    command.current_dir(project).env("CAUSEY_NATS_SERVER", &programs.nats_server).env("CAUSEY_PYTHON", &programs.python);
    command
        .env("CAUSEY_STATE", project.join(".causey"))
        .env("XDG_CACHE_HOME", cache(project))
        .env("CAUSEY_SLOTS", stack::SLOTS.to_string());
    command
}

/// One for all projects, as a user has it.
fn cache(project: &Path) -> PathBuf {
    project.parent().unwrap_or(project).join("cache")
}

/// Milliseconds from exec to exit.
fn run(programs: &Programs, project: &Path, flow: &Path) -> anyhow::Result<f64> {
    let mut command = command(programs, project);
    command.arg("run").arg(flow).stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(project.join("run.log"))?);
    let begun = Instant::now();
    let status = command.status()?;
    let time = begun.elapsed();
    ensure!(status.success(), "causey run ended with {status}:\n{}", fs::read_to_string(project.join("run.log")).unwrap_or_default());
    Ok(time.as_secs_f64() * 1e3)
}

fn beside_dev(programs: &Programs, project: &Path, flow: &Path) -> anyhow::Result<Samples> {
    let mut command = command(programs, project);
    command.args(["dev", "--random-ports", "--json"]).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut dev = command.stderr(fs::File::create(project.join("dev.log"))?).spawn()?;
    let measured = (|| {
        let mut lines = BufReader::new(dev.stdout.take().context("causey dev has no output")?).lines();
        let listening = lines.any(|line| {
            let event = line.ok().and_then(|line| serde_json::from_str::<Value>(&line).ok());
            event.is_some_and(|event| event["event"] == "listening")
        });
        ensure!(listening, "causey dev did not start:\n{}", fs::read_to_string(project.join("dev.log")).unwrap_or_default());
        std::thread::spawn(move || lines.for_each(drop));
        for _ in 0..2 {
            run(programs, project, flow)?;
        }
        (0..2 * RUNS).map(|_| run(programs, project, flow)).collect::<anyhow::Result<Samples>>()
    })();
    stack::stop(&mut dev);
    measured
}

/// Processes of ours that still live: their command line or working directory lies under `folder`.
fn left_behind(folder: &Path) -> Vec<String> {
    let text = folder.to_string_lossy();
    let processes =
        fs::read_dir("/proc").into_iter().flatten().flatten().filter(|entry| entry.file_name() != *std::process::id().to_string());
    let line = |entry: fs::DirEntry| {
        let line = String::from_utf8_lossy(&fs::read(entry.path().join("cmdline")).ok()?).replace('\0', " ");
        let inside = fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(folder));
        (inside || line.contains(&*text)).then_some(line)
    };
    processes.filter_map(line).collect()
}
