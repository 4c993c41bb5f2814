//! Foreach: how many items are opened at once, how they are packed into dispatches, and what follows when items reach the join.

use causey_protocol::chunk::CHUNK_ITEMS;
use causey_protocol::flow::{Flow, StepIndex, Transition};
use causey_protocol::id::{Path, RunId};
use causey_protocol::policy::HostMode;
use causey_protocol::record::{Record, TaskSet};
use causey_protocol::task::TASKS_PER_DISPATCH_MAX;

use crate::chunk;
use crate::engine::Decider;
use crate::gate;
use crate::resume::{SOUGHT_MAX, is_sought};
use crate::run::{Run, TaskRef};

/// Items of one foreach that may be open at once: keeps the queue short, so that cancel stays quick and memory small.
const WINDOW: u32 = 1_024;

/// The least of it that a foreach inside others has. They share one window as far as each has this much.
const WINDOW_MIN: u32 = 64;

/// Arrived items that may wait for the rest of their chunks or for its blob: what late items or a slow store cost in memory.
const GATHERING_MAX: u32 = 32 * CHUNK_ITEMS;

/// A list of tasks per dispatch pays for tiny tasks only, and must leave work for other workers: at least this many lists.
const DISPATCHES_MIN: u32 = 32;

/// Tasks of a step in one dispatch, for a foreach of `count` items.
pub(crate) fn tasks_per_dispatch(run: &Run, flow: &Flow, step: StepIndex, count: u32) -> u32 {
    match run.start.host.or(flow.step(step).host).unwrap_or_default() {
        HostMode::Reuse => (count / DISPATCHES_MIN).clamp(1, TASKS_PER_DISPATCH_MAX),
        HostMode::Fork | HostMode::Spawn => 1,
    }
}

/// Items of the foreach opened on `path` that may be open at once.
fn window(run: &Run, flow: &Flow, split: StepIndex, path: &Path) -> u32 {
    let levels = flow.foreach_levels(split).enumerate();
    let enclosing = levels.filter_map(|(depth, outer)| run.foreach(outer, &Path(path.0.get(..depth)?.to_vec())));
    let beside = enclosing.fold(1, |beside: u32, outer| beside.saturating_mul(outer.count.clamp(1, WINDOW)));
    (WINDOW / beside).max(WINDOW_MIN)
}

impl Decider<'_> {
    pub(crate) fn open_foreach(&mut self, run: RunId, split: StepIndex, path: &Path, count: u32) {
        let Some((_, flow)) = self.run_and_flow(run) else { return };
        let chunk = chunk::size(&flow, split, path, count);
        self.emit(Record::ForeachOpened { run, step: split, path: path.clone(), count, chunk });
        self.refill_foreach(run, split, path);
    }

    /// Items, in order, have reached the join of the foreach that `split` opened on `path`.
    pub(crate) fn items_arrived(&mut self, run: RunId, flow: &Flow, (split, join): (StepIndex, StepIndex), path: &Path, items: &[u32]) {
        self.gather_chunks(run, flow, split, path, items);
        self.refill_foreach(run, split, path);
        self.try_join(run, join, path);
    }

    /// Opens further items while the window has room.
    pub(crate) fn refill_foreach(&mut self, run: RunId, split: StepIndex, path: &Path) {
        let Some((found, flow)) = self.run_and_flow(run) else { return };
        // A gang is opened as a whole.
        if !matches!(flow.step(split).next, Transition::Foreach { .. }) {
            return;
        }
        let Some(foreach) = found.foreach(split, path) else { return };
        let Some(step) = flow.step(split).next.targets().first().and_then(|target| flow.find(target)) else { return };
        let (count, arrived, mut opened) = (foreach.count, foreach.arrived, foreach.opened);
        if opened == count || foreach.gathering() > GATHERING_MAX {
            return;
        }
        let window_items = window(found, &flow, split, path);
        if is_sought(found, &flow, &TaskRef::new(step, path.child(opened), 0)) {
            // In pieces as large as chunks, for which one of the earlier run may stand. The next one is sought before the window is
            // used up, lest workers wait for it.
            let piece = window_items.min(SOUGHT_MAX);
            while opened < count && opened.saturating_sub(arrived) <= window_items / 2 {
                let to = (opened / piece + 1).saturating_mul(piece).min(count);
                self.emit(Record::ResultsSought { run, step, tasks: TaskSet::Range { path: path.clone(), from: opened, to } });
                opened = to;
            }
            return;
        }
        // All items of a foreach wait together.
        if gate::may_wait(found, &flow, step) && self.gated(run, step, &TaskSet::Range { path: path.clone(), from: opened, to: count }) {
            return;
        }
        let Some(found) = self.state.run(run) else { return };
        let list = tasks_per_dispatch(found, &flow, step, count);
        let limit = arrived.saturating_add(window_items.max(list));
        while opened < count && opened.saturating_add(list) <= limit {
            let to = opened.saturating_add(list).min(count);
            self.open(run, step, TaskSet::Range { path: path.clone(), from: opened, to }, 0, 0);
            opened = to;
        }
    }
}
