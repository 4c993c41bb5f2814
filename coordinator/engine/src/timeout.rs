//! Timeouts: the worker ends an attempt at its limit; the timer here is for a worker that is silent. Runs have no other clock than this.

use causey_protocol::flow::{Flow, StepIndex};
use causey_protocol::id::Timestamp;
use causey_protocol::policy::{self, GRACE_SECONDS_DEFAULT};
use causey_protocol::problem::{Code, Problem};
use causey_protocol::record::{FailureCause, RunStarted, RunState};
use causey_protocol::task::ErrorInfo;

use crate::engine::Decider;
use crate::gate::SETTLED_MAX;
use crate::hold::PIECE_RECORDS;
use crate::run::TaskRef;
use crate::work::Measure;

/// How long after the limit and the grace a worker may take to report, in microseconds.
const SILENCE_MICROS: u64 = 60_000_000;

/// When an attempt that a worker has just said to run must be over; `None` without a timeout.
pub(crate) fn attempt_deadline(flow: &Flow, step: StepIndex, now: Timestamp) -> Option<Timestamp> {
    let step = flow.step(step);
    let grace = step.grace_seconds.unwrap_or(GRACE_SECONDS_DEFAULT);
    Some(now.plus_micros(policy::micros(step.timeout_seconds? + grace)).plus_micros(SILENCE_MICROS))
}

/// When a run must be over; `None` without a timeout.
pub(crate) fn run_deadline(start: &RunStarted, created: Timestamp) -> Option<Timestamp> {
    Some(created.plus_micros(policy::micros(start.timeout_seconds?)))
}

/// The error of an attempt whose worker never said that it ended.
fn silent(flow: &Flow, step: StepIndex) -> ErrorInfo {
    let step = flow.step(step);
    let limit = step.timeout_seconds.unwrap_or_default();
    ErrorInfo {
        kind: Code::TIMED_OUT.to_string(),
        message: format!("step `{}` timed out after {limit} seconds, and its worker has not reported since", step.name),
        step: Some(step.name.to_string()),
        hint: Some("look at the worker: causey doctor".into()),
        classes: vec!["TimeoutException".into()],
        ..ErrorInfo::default()
    }
}

impl Decider<'_> {
    /// Opens the attempts whose delay is over; ends what has run into its time limit.
    pub(crate) fn timers_due(&mut self) {
        let (mut settled, mut measure) = (0, Measure::default());
        for (run, task) in self.state.due_timers(self.now(), PIECE_RECORDS) {
            // What is left is still due.
            if measure.is_full(self.records()) {
                return;
            }
            let Some((found, flow)) = self.run_and_flow(run).filter(|(found, _)| !found.state.is_terminal()) else { continue };
            let gates = found.gates.as_ref();
            let (orphaned, gated) = match (gates, &task) {
                (Some(gates), None) => (gates.orphaned, false),
                (Some(gates), Some(task)) => (None, gates.waiting.contains_key(task)),
                (None, _) => (None, false),
            };
            if orphaned.is_some() || gated {
                settled += 1;
                if settled > SETTLED_MAX {
                    continue;
                }
            }
            if let Some((_, parent)) = orphaned {
                self.end_orphan(run, parent);
                continue;
            }
            let Some(task) = task else {
                let limit = found.start.timeout_seconds.unwrap_or_default();
                let problem = Problem::new(Code::TIMED_OUT, format!("the run timed out after {limit} seconds"));
                self.finish(run, RunState::Failed, Some(problem));
                continue;
            };
            if gated {
                self.gate_due(run, &task);
                continue;
            }
            let gang = (task.step, task.path.clone());
            if found.gangs.contains_key(&gang) {
                self.gathering_timed_out(run, &gang);
                continue;
            }
            // Another timer of this moment may have ended the attempts of a whole gang.
            let Some(state) = found.task(&task) else { continue };
            let (attempt, retry) = (state.attempt, state.retry);
            if state.state.is_open() {
                let started = state.started.unwrap_or(state.opened);
                let cause = FailureCause::TimedOut { error: Box::new(silent(&flow, task.step)), object: None };
                self.close(run, &task, attempt, None, &cause, (started, self.now()));
            } else if state.not_before.is_some() {
                let TaskRef { step, path, visit } = task;
                self.open(run, step, causey_protocol::record::TaskSet::One { path, visit }, attempt + 1, retry);
            }
        }
    }
}
