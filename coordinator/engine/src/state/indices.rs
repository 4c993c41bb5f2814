//! What follows from the tables, so that the engine need not look through them. Never stored: a restored state builds it anew.

use std::collections::{BTreeMap, BTreeSet};

use causey_protocol::flow::{Flow, StepIndex};
use causey_protocol::id::{Digest, MemoKey, Origin, PoolName, RequestId, RunId, RunName, Timestamp, WorkerName};
use causey_protocol::share::Shares;

use super::State;
use crate::chunk::BlobUse;
use crate::concurrency::Lanes;
use crate::gang::{Gang, GangKey, GangPhase, Lines};
use crate::run::{Run, TaskRef, TaskState};
use crate::{gang, line, retire, route};

/// What follows from the tables; never stored.
#[derive(Clone, Debug, Default)]
pub(crate) struct Indices {
    pub(super) live: BTreeSet<RunId>,
    pub(crate) names: BTreeMap<RunName, RunId>,
    /// Delays of retries, and time limits: of a running attempt, of a gang that gathers, or without a task of the whole run.
    pub(crate) timers: BTreeSet<(Timestamp, RunId, Option<TaskRef>)>,
    /// Gangs that have not formed, by pool.
    pub(crate) lines: Lines,
    /// Running attempts by the worker that said so.
    pub(super) held: BTreeMap<WorkerName, BTreeSet<(RunId, TaskRef)>>,
    /// Blobs that are to be stored, and what for.
    pub(super) blobs: BTreeSet<(Digest, RunId, BlobUse)>,
    /// Finished runs whose history is not stored.
    pub(crate) unstored: BTreeSet<RunId>,
    /// Finished runs whose history is stored, by their end, and how many tasks they have.
    pub(crate) stored: BTreeSet<(Timestamp, RunId)>,
    pub(crate) stored_tasks: u64,
    /// How many whole runs are pinned to a definition.
    pub(crate) uses: BTreeMap<Digest, u32>,
    pub(crate) lanes: Lanes,
    /// Backfills that have not ended.
    pub(crate) backfills: BTreeSet<RequestId>,
    /// What is open in each pool, and who waits.
    pub(crate) room: line::Lines,
    /// Remembered results by age.
    pub(crate) memo: BTreeSet<(Timestamp, MemoKey)>,
    pub(super) requests: BTreeSet<(Timestamp, RequestId)>,
    pub(super) origins: BTreeSet<(Timestamp, Origin)>,
}

/// What is open of a step: all of it, and by pool where the pools of its attempts are chosen.
pub(super) struct OpenAt {
    pub(super) all: u32,
    away: Vec<(PoolName, u32)>,
}

impl OpenAt {
    pub(super) fn of(run: &Run, step: StepIndex) -> Self {
        Self { all: run.open_at(step), away: if run.away.is_empty() { Vec::new() } else { run.away_of(step) } }
    }
}

impl Indices {
    /// A task whose attempt ends, or gets another holder.
    pub(super) fn release(&mut self, run: &Run, id: RunId, task: &TaskRef) {
        if self.held.is_empty() {
            return;
        }
        let holder = run.task(task).filter(|found| found.state == TaskState::Running).and_then(|found| found.worker.as_ref());
        let Some(holder) = holder else { return };
        if let Some(held) = self.held.get_mut(holder) {
            held.remove(&(id, task.clone()));
            if held.is_empty() {
                self.held.remove(holder);
            }
        }
        if let Some(due) = run.deadlines.get(task) {
            self.timers.remove(&(*due, id, Some(task.clone())));
        }
    }

    pub(crate) fn enter_gang(&mut self, id: RunId, key: &GangKey, gang: &Gang) {
        self.lines.enter(id, key, gang);
        if let GangPhase::Gathering { until } = gang.phase {
            self.timers.insert((until, id, Some(gang::timer(key))));
        }
    }

    pub(crate) fn leave_gang(&mut self, id: RunId, key: &GangKey, gang: &Gang) {
        self.lines.leave(id, key, gang);
        if let GangPhase::Gathering { until } = gang.phase {
            self.timers.remove(&(until, id, Some(gang::timer(key))));
        }
    }

    /// Attempts of a run at one step, of which `before` were open, have been closed.
    pub(super) fn closed(&mut self, shares: &Shares, run: &Run, flow: &Flow, step: StepIndex, before: OpenAt) {
        let after = run.open_at(step);
        if let Some(line) = route::fixed(flow, step).and_then(|pool| self.room.pools.get_mut(pool)) {
            line.count(shares, run.id(), run.tenant(), before.all, after);
        }
        for (pool, before) in before.away {
            if let Some(line) = self.room.pools.get_mut(&pool) {
                line.count(shares, run.id(), run.tenant(), before, run.away_at(step, &pool));
            }
        }
        if after < before.all {
            self.room.wake(shares, run.id(), run.tenant());
        }
    }

    /// Enters a run that has not ended.
    fn enter(&mut self, run: &Run) {
        let id = run.id();
        self.live.insert(id);
        for (task, found) in run.unfinished() {
            if let Some(due) = found.not_before {
                self.timers.insert((due, id, Some(task)));
            } else if let (TaskState::Running, Some(worker)) = (found.state, &found.worker) {
                self.held.entry(worker.clone()).or_default().insert((id, task));
            }
        }
        for (key, gang) in &run.gangs {
            self.enter_gang(id, key, gang);
        }
        self.timers.extend(run.deadlines.iter().map(|(task, due)| (*due, id, Some(task.clone()))));
        self.timers.extend(run.deadline().map(|due| (due, id, None)));
        if let Some(gates) = &run.gates {
            self.timers.extend(gates.timers().map(|(due, first)| (due, id, Some(first.clone()))));
            self.timers.extend(gates.orphaned.map(|(due, _)| (due, id, None)));
        }
        self.blobs.extend(run.blobs().map(|(digest, used)| (digest, id, used)));
    }

    /// Forgets a run that ends.
    pub(super) fn forget(&mut self, run: &Run) {
        let id = run.id();
        self.live.remove(&id);
        for (task, found) in run.unfinished() {
            match found.not_before {
                Some(due) => drop(self.timers.remove(&(due, id, Some(task)))),
                None => self.release(run, id, &task),
            }
        }
        if let Some(due) = run.deadline() {
            self.timers.remove(&(due, id, None));
        }
        for (key, gang) in &run.gangs {
            self.leave_gang(id, key, gang);
        }
        if let Some(gates) = &run.gates {
            for (due, first) in gates.timers() {
                self.timers.remove(&(due, id, Some(first.clone())));
            }
            if let Some((due, _)) = gates.orphaned {
                self.timers.remove(&(due, id, None));
            }
        }
        for (digest, used) in run.blobs() {
            self.blobs.remove(&(digest, id, used));
        }
    }
}

impl State {
    pub(super) fn rebuild_indices(&mut self) {
        let mut indices = Indices::default();
        for run in self.runs.values() {
            indices.names.insert(run.start.name.clone(), run.id());
            *indices.uses.entry(run.start.definition).or_default() += 1;
            if !run.state.is_terminal() {
                indices.enter(run);
                if let Some(flow) = self.flow_of(run) {
                    indices.lanes.enter(&flow.definition().name, run);
                }
            } else if self.histories.contains(&run.id()) {
                indices.stored.insert((run.finished.unwrap_or_default(), run.id()));
                indices.stored_tasks += retire::tasks(run);
            } else {
                indices.unstored.insert(run.id());
            }
        }
        indices.names.extend(self.retired.iter().map(|(id, run)| (run.name.clone(), *id)));
        indices.requests = self.requests.iter().map(|(id, (at, _))| (*at, id.clone())).collect();
        indices.origins = self.origins.iter().map(|(origin, (at, _))| (*at, *origin)).collect();
        indices.memo = self.memo.iter().map(|(key, found)| (found.at, *key)).collect();
        indices.origins.extend(self.skipped.iter().map(|(origin, (at, _))| (*at, *origin)));
        let under_way = self.backfills.iter().filter(|(_, backfill)| backfill.finished.is_none());
        indices.backfills = under_way.map(|(id, _)| id.clone()).collect();
        self.index_by = indices;
        self.rebuild_lines();
    }
}
