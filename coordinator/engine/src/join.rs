//! Joins: when all siblings have arrived, and what the join then receives.

use causey_protocol::codec;
use causey_protocol::flow::{Flow, StepIndex};
use causey_protocol::id::{Digest, Path, RunId};
use causey_protocol::record::{Record, TaskSet};
use causey_protocol::task::{INLINE_INPUTS_MAX, InputRef};

use crate::engine::Decider;
use crate::run::{Run, TaskRef};

/// How many siblings a join waits for; `None` while its foreach is not open.
pub(crate) fn expected(run: &Run, flow: &Flow, join: StepIndex, path: &Path) -> Option<u32> {
    let split = flow.closes(join)?;
    if split.foreach {
        run.foreach(split.step, path).map(|foreach| foreach.count)
    } else {
        u32::try_from(flow.step(split.step).next.targets().len()).ok()
    }
}

/// Whether the join's inputs come in chunks, the last of which opens it.
pub(crate) fn is_chunked(run: &Run, flow: &Flow, join: StepIndex, path: &Path) -> bool {
    let split = flow.closes(join).filter(|split| split.foreach);
    split.and_then(|split| run.foreach(split.step, path)).is_some_and(|foreach| foreach.chunk.is_some())
}

/// The objects a join receives: by foreach index, or in the order in which the split names its branches. Of the parents that a switch
/// makes alternatives, one has an object.
pub(crate) fn inputs(run: &Run, flow: &Flow, join: StepIndex, path: &Path) -> Vec<InputRef> {
    let input = |task: TaskRef| {
        let object = run.object(flow, &task)?;
        Some(InputRef { step: flow.step(task.step).name.clone(), path: task.path, object })
    };
    parents(run, flow, join, path).into_iter().filter_map(input).collect()
}

/// The tasks whose objects a join receives, in the same order.
pub(crate) fn parents(run: &Run, flow: &Flow, join: StepIndex, path: &Path) -> Vec<TaskRef> {
    let Some(split) = flow.closes(join) else { return Vec::new() };
    let has_object = |task: &TaskRef| run.object(flow, task).is_some();
    if split.foreach {
        let count = run.foreach(split.step, path).map_or(0, |foreach| foreach.count);
        let of = |index| flow.parents(join).iter().map(|last| TaskRef::new(*last, path.child(index), 0)).find(has_object);
        (0..count).filter_map(of).collect()
    } else {
        flow.parents(join).iter().map(|parent| TaskRef::new(*parent, path.clone(), 0)).filter(has_object).collect()
    }
}

/// The bytes of the manifest that stands for `inputs`.
pub(crate) fn manifest(inputs: &[InputRef]) -> Vec<u8> {
    codec::encode(&inputs)
}

impl Decider<'_> {
    /// Opens the join if its last sibling has just arrived; more inputs than fit a dispatch are stored first.
    pub(crate) fn try_join(&mut self, run: RunId, join: StepIndex, path: &Path) {
        let Some((found, flow)) = self.run_and_flow(run) else { return };
        let arrived = found.joins.get(&(join, path.clone())).map_or(0, |join| join.arrived);
        if expected(found, &flow, join, path) != Some(arrived) || is_chunked(found, &flow, join, path) {
            return;
        }
        if arrived as usize <= INLINE_INPUTS_MAX {
            self.open(run, join, TaskSet::One { path: path.clone(), visit: 0 }, 0, 0);
            return;
        }
        let digest = Digest::of(&manifest(&inputs(found, &flow, join, path)));
        self.emit(Record::InputsGathered { run, step: join, path: path.clone(), digest, count: arrived });
    }
}
