//! What follows a failed attempt: a charged retry after its delay, an uncharged new attempt, or the end of the run.

use causey_protocol::flow::Flow;
use causey_protocol::id::RunId;
use causey_protocol::policy::FALLBACK_ATTEMPTS;
use causey_protocol::problem::{Code, Problem};
use causey_protocol::record::{FailureCause, Record, RunState, TaskSet};
use causey_protocol::task::ErrorInfo;

use crate::engine::Decider;
use crate::run::{Task, TaskRef};

/// Attempts of one task whose worker may vanish before the task counts as poison.
pub(crate) const LOST_ATTEMPTS_MAX: u32 = 4;

/// Attempts of one task that may fail for reasons of infrastructure.
pub(crate) const INFRASTRUCTURE_ATTEMPTS_MAX: u32 = 20;

/// Charged retries of a step.
pub(crate) fn retries_max(flow: &Flow, task: &TaskRef) -> u32 {
    flow.step(task.step).retry.as_ref().map_or(0, |retry| retry.times)
}

impl Decider<'_> {
    /// Decides what follows after `cause` has been recorded for the task's last attempt.
    pub(crate) fn after_failure(&mut self, run: RunId, task: &TaskRef, cause: &FailureCause) {
        let Some((found, flow)) = self.run_and_flow(run) else { return };
        let Some(mut state) = found.task(task).cloned() else { return };
        if let Some((_, gang, _)) = found.gang_of(task) {
            (state.lost, state.infrastructure) = (gang.lost, gang.infrastructure);
        }
        let id = task.id(&flow);
        match cause {
            FailureCause::User { error, .. } | FailureCause::TimedOut { error, .. } => {
                let retries = retries_max(&flow, task);
                let policy = flow.step(task.step).retry.as_ref().filter(|policy| policy.covers(error));
                if let Some(policy) = policy.filter(|_| state.retry < retries) {
                    let wait = policy.delay_micros(state.retry + 1, &id.key(0).0);
                    self.try_again(run, task, &state, state.retry + 1, wait, cause);
                } else if flow.step(task.step).catch.is_some() && state.retry < retries + FALLBACK_ATTEMPTS {
                    // The host catches what user code raises; a failure beyond the retries means that its process died, so the
                    // fallback runs in a new one.
                    self.try_again(run, task, &state, state.retry.max(retries) + 1, 0, cause);
                } else {
                    let code = if matches!(cause, FailureCause::TimedOut { .. }) { Code::TIMED_OUT } else { Code::USER_CODE };
                    self.fail(run, user_problem(code, &id.to_string(), &state, error));
                }
            }
            FailureCause::Permanent { error, .. } => self.fail(run, user_problem(Code::USER_CODE, &id.to_string(), &state, error)),
            FailureCause::Infrastructure { error } => {
                if state.infrastructure >= INFRASTRUCTURE_ATTEMPTS_MAX {
                    let what = format!("{id} failed {} times for reasons of infrastructure: {}", state.infrastructure, error.message);
                    self.fail(run, Problem::new(Code::STORE, what).hint("check the artifact store and the disks of the workers"));
                } else {
                    let wait = 1_000_000u64 << state.infrastructure.min(6).saturating_sub(1);
                    self.try_again(run, task, &state, state.retry, wait, cause);
                }
            }
            FailureCause::Lost => {
                if state.lost >= LOST_ATTEMPTS_MAX {
                    let what = format!("{id} is poison: {} workers vanished while they ran it", state.lost);
                    let problem = Problem::new(Code::POISONED, what).hint("run the step alone and watch its memory");
                    self.poisoned(run, task, &problem);
                    self.fail(run, problem);
                } else {
                    self.try_again(run, task, &state, state.retry, 0, cause);
                }
            }
            FailureCause::Released { .. } => self.try_again(run, task, &state, state.retry, 0, cause),
        }
    }

    fn try_again(&mut self, run: RunId, task: &TaskRef, state: &Task, retry: u32, wait_micros: u64, cause: &FailureCause) {
        if let Some((found, flow)) = self.run_and_flow(run)
            && let Some((gang, ..)) = found.gang_of(task)
        {
            let because = in_words(&task.id(&flow).to_string(), cause);
            return self.dissolve(run, &gang, retry, wait_micros, &because);
        }
        let attempt = state.attempt + 1;
        let TaskRef { step, path, visit } = task.clone();
        if wait_micros == 0 {
            self.open(run, step, TaskSet::One { path, visit }, attempt, retry);
        } else {
            let not_before = self.now().plus_micros(wait_micros);
            self.emit(Record::RetryScheduled { run, step, path, visit, attempt, retry, not_before });
        }
    }

    fn fail(&mut self, run: RunId, problem: Problem) {
        self.finish(run, RunState::Failed, Some(problem));
    }
}

/// Why the attempt of a task is over.
fn in_words(task: &str, cause: &FailureCause) -> String {
    match cause {
        FailureCause::User { error, .. }
        | FailureCause::Permanent { error, .. }
        | FailureCause::Infrastructure { error }
        | FailureCause::TimedOut { error, .. } => {
            format!("{task} failed: {}: {}", error.kind, error.message.lines().next().unwrap_or_default())
        }
        FailureCause::Lost => format!("the worker of {task} vanished"),
        FailureCause::Released { because } => format!("{task} was given back: {because}"),
    }
}

fn user_problem(code: Code, task: &str, state: &Task, error: &ErrorInfo) -> Problem {
    // Whoever has a code for it knows better than the kind of failure.
    let code = Code::try_from(error.kind.clone()).unwrap_or(code);
    let attempts = state.attempt + 1;
    let plural = if attempts == 1 { "" } else { "s" };
    let first_line = error.message.lines().next().unwrap_or_default();
    let problem = Problem::new(code, format!("{task} failed after {attempts} attempt{plural}: {}: {first_line}", error.kind));
    match &error.hint {
        Some(hint) => problem.hint(hint.clone()),
        None => problem,
    }
}
