//! Foreach: how many items are opened at once, and how they are packed into dispatches.

use causey_protocol::flow::StepIndex;
use causey_protocol::id::{Path, RunId};
use causey_protocol::policy::HostMode;
use causey_protocol::record::{Record, TaskSet};
use causey_protocol::task::TASKS_PER_DISPATCH_MAX;

use crate::engine::Decider;

/// Items of one foreach that may be open at once: keeps the queue short, so that cancel stays quick and memory small.
pub(crate) const WINDOW: u32 = 1_024;

/// A list of tasks per dispatch pays for tiny tasks only, and must leave work for other workers: at least this many lists.
const DISPATCHES_MIN: u32 = 32;

impl Decider<'_> {
    pub(crate) fn open_foreach(&mut self, run: RunId, split: StepIndex, path: &Path, count: u32) {
        self.emit(Record::ForeachOpened { run, step: split, path: path.clone(), count });
        self.refill_foreach(run, split, path);
    }

    /// Opens further items while the window has room.
    pub(crate) fn refill_foreach(&mut self, run: RunId, split: StepIndex, path: &Path) {
        let Some((found, flow)) = self.run_and_flow(run) else { return };
        let Some(foreach) = found.foreaches.get(&(split, path.clone())).copied() else { return };
        let Some(step) = flow.step(split).next.targets().first().and_then(|target| flow.find(target)) else { return };
        let host = found.start.host.or(flow.step(step).host).unwrap_or_default();
        let chunk = match host {
            HostMode::Reuse => (foreach.count / DISPATCHES_MIN).clamp(1, TASKS_PER_DISPATCH_MAX),
            HostMode::Fork | HostMode::Spawn => 1,
        };
        let mut opened = foreach.opened;
        while opened < foreach.count && opened - foreach.arrived + chunk <= WINDOW {
            let to = (opened + chunk).min(foreach.count);
            self.open(run, step, TaskSet::Range { path: path.clone(), from: opened, to }, 0, 0);
            opened = to;
        }
    }
}
