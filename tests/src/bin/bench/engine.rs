//! The pure engine on one core: how many transitions of tasks and runs a second it decides and applies, without network, disk or encoding.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use causey_engine::{State, decide};
use causey_protocol::flow::{Flow, StepIndex};
use causey_protocol::id::{Digest, PoolName, RequestId, RunId, Timestamp, WorkerName};
use causey_protocol::input::{FlowChoice, Input, Request, RequestMessage};
use causey_protocol::parameter::Values;
use causey_protocol::policy::HostMode;
use causey_protocol::record::{Position, Record, TaskSet};
use causey_protocol::task::{Outcome, Report, ReportItem, Success};

use crate::flows;
use crate::table::Row;

const RUNS: usize = 10_000;
const RUN_STEPS: usize = 10;
const ITEMS: u32 = 100_000;

/// Tasks in a report of a wide foreach.
const REPORT_ITEMS: usize = 256;

struct World {
    state: State,
    spent: Duration,
    transitions: u64,
    /// Attempts that are open and not reported.
    open: Vec<(RunId, StepIndex, TaskSet)>,
    blobs: Vec<Digest>,
    now: u64,
}

impl World {
    fn new() -> Self {
        let (state, spent) = (State::default(), Duration::ZERO);
        Self { state, spent, transitions: 0, open: Vec::new(), blobs: Vec::new(), now: 1_700_000_000_000_000 }
    }

    /// Decides a turn of inputs, as the leader does, and counts what it made of tasks.
    fn turn(&mut self, inputs: Vec<Input>) {
        self.now += 1_000;
        let begun = Instant::now();
        self.state.open_turn(Timestamp(self.now));
        let mut records: Vec<Record> = inputs.into_iter().flat_map(|input| decide(&mut self.state, input)).collect();
        while self.state.has_work() {
            records.extend(decide(&mut self.state, Input::Continue));
        }
        let everything = Position { sequence: self.state.sequence, index: u32::MAX };
        self.state.cover(0, 0, everything);
        self.state.forget_changes();
        self.spent += begun.elapsed();
        for record in records {
            match record {
                Record::AttemptsOpened { run, step, tasks, .. } => {
                    self.transitions += u64::from(tasks.len());
                    self.open.push((run, step, tasks));
                }
                Record::AttemptSucceeded { .. } | Record::RunStarted(_) | Record::RunFinished { .. } => self.transitions += 1,
                Record::AttemptsSucceeded { items, .. } => self.transitions += items.len() as u64,
                Record::ChunkGathered { digest, .. } | Record::InputsGathered { digest, .. } => self.blobs.push(digest),
                _ => {}
            }
        }
    }

    fn submit(&mut self, flow: &Flow, number: usize) -> anyhow::Result<()> {
        let request = Request::Submit {
            flow: FlowChoice::Given(Box::new(flow.clone())),
            parameters: Values::new(),
            tags: Vec::new(),
            host: Some(HostMode::Reuse),
            timeout_seconds: None,
            standing: Default::default(),
            fresh: false,
        };
        let id = RequestId::new(format!("r{number}"))?;
        self.turn(vec![Input::Request(RequestMessage { id, user: "bench".into(), request })]);
        Ok(())
    }

    /// Success for everything open, in reports of `size`.
    fn report(&mut self, flow: &Flow, items: u32, size: usize) -> anyhow::Result<()> {
        let (pool, worker) = (PoolName::new("default")?, WorkerName::new("w")?);
        let at = Timestamp(self.now);
        let item = |(run, step, path, visit): (RunId, StepIndex, _, u32)| {
            let step = flow.step(step);
            let foreach = matches!(step.next, causey_protocol::flow::Transition::Foreach { .. }).then_some(items);
            let (next, publications) = (step.next.targets().into_iter().cloned().collect(), Vec::new());
            let success = Success {
                digest: Digest([7; 32]),
                bytes: 200,
                next,
                foreach,
                publications,
                children: Vec::new(),
                started: at,
                ended: at,
                content: None,
            };
            ReportItem { run, step: step.name.clone(), path, visit, attempt: 0, outcome: Outcome::Succeeded(success) }
        };
        let open = std::mem::take(&mut self.open);
        let tasks = open.iter().flat_map(|(run, step, tasks)| tasks.iter().map(|(path, visit)| (*run, *step, path, visit)));
        let items: Vec<ReportItem> = tasks.map(item).collect();
        let reports = items.chunks(size).map(|items| Report { pool: pool.clone(), worker: worker.clone(), items: items.to_vec() });
        let pieces = |report: Report| -> Vec<Input> {
            report.pieces().map(|items| Input::Report { pool: pool.clone(), worker: worker.clone(), items }).collect()
        };
        for inputs in reports.map(pieces).collect::<Vec<_>>() {
            self.turn(inputs);
        }
        for digest in std::mem::take(&mut self.blobs) {
            self.turn(vec![Input::BlobStored { digest }]);
        }
        Ok(())
    }

    #[expect(clippy::cast_precision_loss, reason = "millions")]
    fn rate(&self) -> f64 {
        self.transitions as f64 / self.spent.as_secs_f64()
    }
}

/// Measures small runs and one wide one.
pub(crate) fn measure() -> anyhow::Result<Vec<Row>> {
    let chain = flows::chain_definition("BenchChain", RUN_STEPS, "default")?;
    let mut small = World::new();
    for wave in 0..RUNS / 100 {
        for number in 0..100 {
            small.submit(&chain, wave * 100 + number)?;
        }
        while !small.open.is_empty() {
            small.report(&chain, 0, 100)?;
        }
    }
    ensure!(small.state.live_runs().next().is_none(), "a run of the chain did not end");
    let fan = flows::foreach_definition("BenchForeach", ["default"; 4])?;
    let mut wide = World::new();
    wide.submit(&fan, 0)?;
    let run = wide.state.runs.keys().next().copied().context("no run started")?;
    while wide.state.run(run).is_some_and(|run| !run.state.is_terminal()) {
        wide.report(&fan, ITEMS, REPORT_ITEMS)?;
    }
    Ok(vec![
        Row::more("engine", format!("pure engine, chains of {RUN_STEPS}, one core"), "transitions/s", small.rate())
            .gate(1_000_000.0)
            .goal(2_000_000.0),
        Row::more("engine", format!("pure engine, foreach of {ITEMS}, one core"), "transitions/s", wide.rate())
            .gate(1_000_000.0)
            .goal(2_000_000.0),
    ])
}
