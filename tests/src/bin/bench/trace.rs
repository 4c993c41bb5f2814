//! Where the time goes: of a chain's step hop by hop, from the times that the log, the inbox and the reports carry; and the
//! processor time of each process, which a busy machine changes less than any latency.

use std::fs;

use crate::log::{StepTimes, Timeline};
use crate::stack::Stack;
use crate::stats::{Samples, millis_between};

/// Prints the medians of every hop over all steps of all runs.
pub(crate) fn print(name: &str, timelines: &[Timeline]) {
    let mut hops: [(&str, Samples); 5] = [
        ("turn opened → stored on the log", Samples::default()),
        ("stored → user code begins (ack, dispatch, delivery, host)", Samples::default()),
        ("user code begins → ends", Samples::default()),
        ("ends → report stored (object, report)", Samples::default()),
        ("report stored → next turn opened", Samples::default()),
    ];
    for step in timelines.iter().flat_map(|timeline| timeline.steps.values()).filter(|step| step.reported > 0 && step.accepted > 0) {
        let StepTimes { opened, opened_stored, started, ended, reported, accepted } = *step;
        let times = [opened, opened_stored, started, ended, reported, accepted];
        for (pair, (_, samples)) in times.windows(2).zip(&mut hops) {
            samples.push(millis_between(pair[0], pair[1]));
        }
    }
    println!("chain, {name}: hops over {} runs, ms", timelines.len());
    for (hop, samples) in &hops {
        let spread = samples.spread();
        println!("  {hop:58} p50 {:.3}  p99 {:.3}  max {:.3}  ({})", spread.median, spread.p99, spread.max, spread.samples);
    }
    #[expect(clippy::cast_precision_loss, reason = "a few turns")]
    let turns: Samples = timelines.iter().map(|timeline| timeline.turns as f64 / timeline.steps.len().max(1) as f64).collect();
    println!("  {:58} {:.2}", "turns per step", turns.median());
}

/// Clock ticks a second, in which Linux counts the time of processes.
const TICKS: u64 = 100;

/// Processor time used so far, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Used {
    nats: u64,
    coordinator: u64,
    worker: u64,
    hosts: u64,
}

impl Used {
    pub(crate) fn read(stack: &Stack) -> Self {
        let (nats, coordinator, worker) = (stack.nats_pid(), stack.coordinator_pid(), stack.worker_pid());
        let own = |pid: u32| Process::read(pid).map_or(0, |process| process.own);
        Self { nats: nats.map_or(0, own), coordinator: own(coordinator), worker: own(worker), hosts: descendants(worker) }
    }

    /// Prints what was used since `before`, for each of `steps` steps.
    pub(crate) fn print_since(self, before: Self, steps: usize) {
        #[expect(clippy::cast_precision_loss, reason = "small counts")]
        let each = |now: u64, before: u64| (now.saturating_sub(before) * 1_000 / TICKS) as f64 / steps as f64;
        println!(
            "  processor time a step, ms: nats-server {:.3}, coordinator {:.3}, worker {:.3}, hosts {:.3}",
            each(self.nats, before.nats),
            each(self.coordinator, before.coordinator),
            each(self.worker, before.worker),
            each(self.hosts, before.hosts)
        );
    }
}

struct Process {
    parent: u32,
    own: u64,
    /// Of children that have ended.
    ended: u64,
}

impl Process {
    fn read(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // Behind the name, which may hold anything.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let field = |place: usize| fields.get(place)?.parse::<u64>().ok();
        Some(Self { parent: u32::try_from(field(1)?).ok()?, own: field(11)? + field(12)?, ended: field(13)? + field(14)? })
    }
}

/// Ticks of all processes below `root`, ended ones included.
fn descendants(root: u32) -> u64 {
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let processes: Vec<(u32, Process)> = pids.filter_map(|pid| Some((pid, Process::read(pid)?))).collect();
    let mut below = vec![root];
    let mut ticks = 0;
    while let Some(pid) = below.pop() {
        for (child, process) in processes.iter().filter(|(_, process)| process.parent == pid) {
            ticks += process.own + process.ended;
            below.push(*child);
        }
    }
    ticks
}
