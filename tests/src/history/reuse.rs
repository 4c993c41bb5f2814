//! What tasks take from other runs: a result that was accepted there and is what it was, and for a memoised step one that was made of the
//! same inputs. It finds out by itself what a result was made of: the engine's keys are not asked.

use std::collections::BTreeMap;

use causey_engine::{Run, State};
use causey_protocol::flow::{Flow, StepIndex};
use causey_protocol::id::{ContentId, Digest, RunId, TaskId, TaskKey};
use causey_protocol::parameter::Values;
use causey_protocol::record::{Record, RunStarted};

use super::judge::Task;
use super::results::{accepted, reused};

/// The results so far, and what they contain.
#[derive(Debug, Default)]
pub(super) struct Reuse {
    /// By the run that made it, and the attempt.
    results: BTreeMap<(RunId, TaskKey), Digest>,
    contents: BTreeMap<Task, ContentId>,
    /// Parameters and definition of every run.
    runs: BTreeMap<RunId, (Values, Digest)>,
}

impl Reuse {
    /// Judges a record in the state in which it was decided. `needs` are the tasks whose results a task takes.
    pub(super) fn record(&mut self, state: &State, record: &Record, needs: impl Fn(&Flow, &Task) -> Vec<Task>, found: &mut Vec<String>) {
        match record {
            Record::RunStarted(start) => {
                let RunStarted { run, parameters, definition, .. } = &**start;
                self.runs.insert(*run, (parameters.clone(), *definition));
            }
            Record::ResultsRemembered { run, step, results } => {
                let contents = results.iter().filter_map(|result| Some(((*run, *step, result.0.clone(), result.1), result.2?)));
                self.contents.extend(contents);
            }
            Record::ResultsSought { run, step, .. } => {
                let Some((run, flow)) = run_and_flow(state, *run) else { return };
                let remembers = flow.step(*step).memo.is_some() && !run.start.fresh;
                if run.start.cause.earlier().is_none() && !remembers {
                    found.push(format!("I3: run {} seeks results for step {}, which may take none", run.id(), flow.step(*step).name));
                }
            }
            Record::ResultsReused { run, step, .. } => {
                let Some((run, flow)) = run_and_flow(state, *run) else { return };
                let name = &flow.step(*step).name;
                for (owner, (id, step, path, visit, attempt, digest, _)) in reused(record) {
                    let key = TaskId { step: name.clone(), path: path.clone(), visit }.key(attempt);
                    if self.results.get(&(owner, key)) != Some(&digest) {
                        found.push(format!("I3: run {id} takes a result for {name} at {path} that run {owner} did not accept"));
                    }
                    if run.start.cause.earlier().is_none() && !self.is_same(&flow, owner, &(id, step, path.clone(), visit), &needs) {
                        found.push(format!("I3: run {id} takes a result for {name} at {path} that run {owner} made of something else"));
                    }
                }
            }
            _ => {
                for (run, step, path, visit, attempt, digest, _) in accepted(record) {
                    let Some((_, flow)) = run_and_flow(state, run) else { continue };
                    let task = TaskId { step: flow.step(step).name.clone(), path, visit };
                    self.results.insert((run, task.key(attempt)), digest);
                }
            }
        }
    }

    /// Whether the task of the owner had the same parameters and inputs. A definition that has changed may have had its reasons.
    fn is_same(&self, flow: &Flow, owner: RunId, task: &Task, needs: &impl Fn(&Flow, &Task) -> Vec<Task>) -> bool {
        let (Some(one), Some(other)) = (self.runs.get(&task.0), self.runs.get(&owner)) else { return false };
        if one.1 != other.1 {
            return true;
        }
        let theirs = (owner, task.1, task.2.clone(), task.3);
        let made_of = |task: &Task| -> Option<Vec<(StepIndex, ContentId)>> {
            needs(flow, task).into_iter().map(|needed| Some((needed.1, *self.contents.get(&needed)?))).collect()
        };
        let inputs = made_of(task);
        one.0 == other.0 && inputs.is_some() && inputs == made_of(&theirs)
    }
}

fn run_and_flow(state: &State, run: RunId) -> Option<(&Run, std::sync::Arc<Flow>)> {
    let run = state.run(run)?;
    Some((run, state.flow_of(run)?))
}
