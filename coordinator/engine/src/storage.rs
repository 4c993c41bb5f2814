//! What is decided while the streams are nearly full: new runs are refused, and attempts wait until there is room again.

use std::sync::Arc;

use causey_protocol::flow::StepIndex;
use causey_protocol::id::{Path, RunId};
use causey_protocol::problem::{Code, Problem};
use causey_protocol::record::{Record, TaskSet};
use causey_protocol::upkeep::{Storage, StorageLevel};
use serde::{Deserialize, Serialize};

use crate::engine::Decider;
use crate::run::TaskRef;
use crate::state::State;

/// Dispatches let go by one input once there is room: keeps a turn small.
const RELEASED_MAX: usize = 200;

/// Attempts that wait for room in the streams, by run and first task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldBack {
    pub tasks: TaskSet,
    pub attempt: u32,
    pub retry: u32,
}

impl State {
    /// Why nothing new is accepted at present; `None` while there is room.
    #[must_use]
    pub fn storage_problem(&self) -> Option<Problem> {
        let Storage { level, stream, percent } = &self.storage;
        let what = match level {
            StorageLevel::Ample => return None,
            StorageLevel::Scarce => "no new runs and events are accepted",
            StorageLevel::Critical => "no new runs and events are accepted, and no task is started",
        };
        let problem = Problem::new(Code::STORAGE_FULL, format!("stream {stream} is {percent} % full: {what}"));
        Some(problem.hint("it is taken up again by itself once there is room; give the stream a larger cap or the server more disk"))
    }

    /// The dispatches of a run that wait for room.
    pub fn held_back_of(&self, run: RunId) -> impl Iterator<Item = (&TaskRef, &HeldBack)> {
        let from = (run, TaskRef::new(StepIndex(0), Path::default(), 0));
        self.held_back.range(from..).take_while(move |((of, _), _)| *of == run).map(|((_, task), held)| (task, held))
    }

    pub(crate) fn hold(&mut self, id: RunId, step: StepIndex, tasks: &TaskSet, attempt: u32, retry: u32) {
        let Some((path, visit)) = tasks.iter().next() else { return };
        for (path, visit) in tasks.iter() {
            let task = TaskRef::new(step, path, visit);
            let due = self.run(id).and_then(|run| run.task(&task)).map(|found| found.not_before);
            let Some(due) = due else { continue };
            if let Some(due) = due {
                self.index_by.timers.remove(&(due, id, Some(task.clone())));
            }
            if let Some(run) = self.runs.get_mut(&id).map(Arc::make_mut) {
                run.hold(&task, retry);
            }
        }
        if let Some(run) = self.runs.get_mut(&id).filter(|run| run.gates.is_some()).map(Arc::make_mut) {
            self.index_by.let_through(run, &TaskRef::new(step, path.clone(), visit));
        }
        self.held_back.insert((id, TaskRef::new(step, path, visit)), HeldBack { tasks: tasks.clone(), attempt, retry });
    }

    /// What was held is opened now, or its run has ended.
    pub(crate) fn let_go(&mut self, run: RunId, first: Option<&TaskRef>) {
        let gone: Vec<TaskRef> = match first {
            Some(first) => vec![first.clone()],
            None => self.held_back_of(run).map(|(task, _)| task.clone()).collect(),
        };
        for task in gone {
            self.held_back.remove(&(run, task));
        }
    }
}

impl Decider<'_> {
    /// Whether attempts may be opened; if not, they are noted to be opened later.
    pub(crate) fn held(&mut self, run: RunId, step: StepIndex, tasks: &TaskSet, attempt: u32, retry: u32) -> bool {
        if self.state.storage.level != StorageLevel::Critical {
            return false;
        }
        let first = tasks.iter().next().map(|(path, visit)| (run, TaskRef::new(step, path, visit)));
        if first.is_some_and(|first| !self.state.held_back.contains(&first)) {
            self.emit(Record::AttemptsHeld { run, step, tasks: tasks.clone(), attempt, retry });
        }
        true
    }

    pub(crate) fn pressure(&mut self, storage: Storage) {
        let (level, changed) = (storage.level, storage.level != self.state.storage.level);
        let waiting = !self.state.held_back.is_empty() && level != StorageLevel::Critical;
        if !changed && !waiting {
            return self.ignore("the fill of the streams is at the level that is known");
        }
        if changed {
            self.emit(Record::StorageChanged(storage));
        }
        if !waiting {
            return;
        }
        let held: Vec<_> = self.state.held_back.iter().take(RELEASED_MAX).map(|(key, held)| (key.clone(), held.clone())).collect();
        for ((run, first), HeldBack { tasks, attempt, retry }) in held {
            self.offer(run, first.step, tasks, attempt, retry);
        }
    }
}
