//! Switch and recursion: which step a finished task chose, and which of its possible parents a task has. It does not know how the choice
//! was made; the host did that.

use causey_protocol::flow::{Flow, StepIndex, Transition};
use causey_protocol::id::{RunId, StepName};
use causey_protocol::record::{Record, TaskSet};

use crate::engine::Decider;
use crate::run::{Run, TaskRef};

/// The task whose result this one takes; `None` for the first step and for a join, which has several.
pub(crate) fn parent(run: &Run, flow: &Flow, task: &TaskRef) -> Option<TaskRef> {
    if let Some((step, visit)) = run.routes.get(&(task.step, task.path.clone())) {
        return Some(TaskRef::new(*step, task.path.clone(), *visit));
    }
    // No switch led here, so a step did that always goes here; of several, a switch before them let one run.
    let mut unconditional = flow.parents(task.step).iter().filter_map(|parent| match flow.step(*parent).next {
        Transition::Foreach { .. } | Transition::Gang { .. } => Some(TaskRef::new(*parent, task.path.split_last()?.0, 0)),
        Transition::Linear { .. } | Transition::Branch { .. } => Some(TaskRef::new(*parent, task.path.clone(), 0)),
        Transition::Switch { .. } | Transition::End => None,
    });
    unconditional.find(|parent| run.object(flow, parent).is_some())
}

/// Why a step that recursion enters once more must not be; `None` while its bound is not reached.
pub(crate) fn beyond_bound(flow: &Flow, task: &TaskRef, next: &[StepName]) -> Option<String> {
    let step = flow.step(task.step);
    let (entered, bound) = (task.visit + 1, flow.visits_max(task.step));
    let again = matches!(step.next, Transition::Switch { .. }) && next == [step.name.clone()];
    (again && entered >= bound).then(|| format!("step `{}` leads back to itself after {entered} visits, which is its bound", step.name))
}

impl Decider<'_> {
    /// Opens the step that the switch of a finished task chose.
    pub(crate) fn take_switch(&mut self, run: RunId, task: &TaskRef, to: StepIndex) {
        let TaskRef { step, path, visit } = task.clone();
        let next = if to == step { visit + 1 } else { 0 };
        self.emit(Record::SwitchTaken { run, step, path: path.clone(), visit, to });
        self.open(run, to, TaskSet::One { path, visit: next }, 0, 0);
    }
}
