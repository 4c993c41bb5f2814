//! Foreach: how many items are opened at once, how they are packed into dispatches, and what follows when items reach the join.

use causey_protocol::chunk::CHUNK_ITEMS;
use causey_protocol::flow::{Flow, StepIndex, Transition};
use causey_protocol::id::{Path, PoolName, RunId};
use causey_protocol::policy::HostMode;
use causey_protocol::record::{Record, TaskSet};
use causey_protocol::task::TASKS_PER_DISPATCH_MAX;

use crate::chunk;
use crate::engine::{Decider, sets};
use crate::gate;
use crate::hold::PIECE_RECORDS;
use crate::line::{WINDOW_MIN, WINDOW_UNKNOWN};
use crate::resume::{SOUGHT_MAX, is_sought};
use crate::route;
use crate::run::{Foreach, Run, TaskRef};
use crate::state::State;

/// Arrived items that may wait for the rest of their chunks or for its blob: what late items or a slow store cost in memory.
const GATHERING_MAX: u32 = 32 * CHUNK_ITEMS;

/// A list of tasks per dispatch pays for tiny tasks only, and must leave work for other workers: at least this many lists.
const DISPATCHES_MIN: u32 = 32;

/// The step that a foreach opens once per item.
pub(crate) fn target(flow: &Flow, split: StepIndex) -> Option<StepIndex> {
    match &flow.step(split).next {
        Transition::Foreach { to, .. } => flow.find(to),
        _ => None,
    }
}

/// The foreach that opens a step once per item.
pub(crate) fn split_before(flow: &Flow, step: StepIndex) -> Option<StepIndex> {
    flow.parents(step).iter().copied().find(|parent| target(flow, *parent) == Some(step))
}

/// Items of the foreach opened on `path` that may be under way at once, where that many of a foreach outside any other may. Foreaches
/// inside others share them, as far as each has the least.
fn items_window(window: u32, run: &Run, flow: &Flow, split: StepIndex, path: &Path) -> u32 {
    let levels = flow.foreach_levels(split).enumerate();
    let enclosing = levels.filter_map(|(depth, outer)| run.foreach(outer, &Path(path.0.get(..depth)?.to_vec())));
    let beside = enclosing.fold(1, |beside: u32, outer| beside.saturating_mul(outer.count.clamp(1, window)));
    (window / beside).max(WINDOW_MIN)
}

impl State {
    /// Tasks of a step in one dispatch, for a foreach of `count` items.
    pub(crate) fn list(&self, run: &Run, flow: &Flow, step: StepIndex, count: u32) -> u32 {
        match run.start.host.or(flow.step(step).host).unwrap_or_default() {
            HostMode::Reuse => {
                // One worker gets the whole list: every slot needs one.
                let slots = route::pool_for(&self.offers, flow, step).and_then(|pool| Some((pool, *self.pools.get(pool)?)));
                let each = slots.map_or(u32::MAX, |(pool, slots)| self.window(pool) / slots.max(1));
                // A list waits until there is room for all of it: two lists keep a window busy.
                let own = run.start.standing.max_parallel.map_or(u32::MAX, |window| window / 2);
                let tenant = self.shares.of(run.tenant()).window.map_or(u32::MAX, |window| window / 2);
                (count / DISPATCHES_MIN).min(each).min(own).min(tenant).clamp(1, TASKS_PER_DISPATCH_MAX)
            }
            HostMode::Fork | HostMode::Spawn => 1,
        }
    }

    /// The items of a foreach that become its next dispatch, as far as its own window has room for them.
    pub(crate) fn next_items(&self, run: &Run, flow: &Flow, split: StepIndex, step: StepIndex, path: &Path) -> Option<(u32, u32)> {
        let foreach = run.foreach(split, path)?;
        let Foreach { count, opened, arrived, .. } = *foreach;
        if opened == count || foreach.gathering() > GATHERING_MAX {
            return None;
        }
        let list = self.list(run, flow, step, count);
        let pool_window = route::pool_for(&self.offers, flow, step).map_or(WINDOW_UNKNOWN, |pool| self.window(pool));
        let window = items_window(pool_window, run, flow, split, path);
        let limit = arrived.saturating_add(window.max(list));
        let has_room = opened.saturating_add(list) <= limit;
        has_room.then(|| (opened, opened.saturating_add(list).min(count)))
    }
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

    /// Opens further items while there is room for them; what there is none for waits as one.
    pub(crate) fn refill_foreach(&mut self, run: RunId, split: StepIndex, path: &Path) {
        // A late report of many items comes here although none of them counts.
        let Some((found, flow)) = self.run_and_flow(run).filter(|(found, _)| !found.state.is_terminal()) else { return };
        let Some((step, foreach)) = target(&flow, split).zip(found.foreach(split, path)) else { return };
        let count = foreach.count;
        if self.state.held_back.contains(&(run, TaskRef::new(step, path.child(foreach.opened), 0))) {
            return;
        }
        let Foreach { arrived, mut opened, .. } = *foreach;
        if opened == count || foreach.gathering() > GATHERING_MAX {
            return;
        }
        if is_sought(found, &flow, &TaskRef::new(step, path.child(opened), 0)) {
            // In pieces as large as chunks, for which one of the earlier run may stand. The next one is sought before the window is
            // used up, lest workers wait for it. Seeking needs no worker, so the pool's slots do not count.
            let window_items = items_window(WINDOW_UNKNOWN, found, &flow, split, path);
            let piece = window_items.min(SOUGHT_MAX);
            while opened < count && opened.saturating_sub(arrived) <= window_items / 2 {
                let to = (opened / piece + 1).saturating_mul(piece).min(count);
                self.emit(Record::ResultsSought { run, step, tasks: TaskSet::Range { path: path.clone(), from: opened, to } });
                opened = to;
            }
            return;
        }
        // All items of a foreach wait together.
        let rest = TaskSet::Range { path: path.clone(), from: opened, to: count };
        if gate::may_wait(found, &flow, step) && self.gated(run, step, &rest) {
            return;
        }
        let pool = route::pool_for(&self.state.offers, &flow, step).cloned();
        while let Some((from, to)) = self.state.run(run).and_then(|run| self.state.next_items(run, &flow, split, step, path)) {
            let range = |to| TaskSet::Range { path: path.clone(), from, to };
            let is_full = self.records().len() >= PIECE_RECORDS;
            if !is_full && self.recall_items(run, step, path, (from, to), count) {
                continue;
            }
            let Some(pool) = pool.as_ref().filter(|pool| !is_full && self.state.has_room(run, pool, to - from)) else {
                return self.hold(run, step, range(count), 0, 0);
            };
            self.emit(Record::AttemptsOpened { run, step, pool: pool.clone(), tasks: range(to), attempt: 0, retry: 0 });
        }
    }

    /// The items that foreaches have not opened wait in line, where they may be opened: a pool has got a larger window.
    pub(crate) fn queue_foreaches(&mut self, pool: &PoolName) {
        let mut found = Vec::new();
        for run in self.state.live_runs() {
            let Some(flow) = self.state.flow_of(run) else { continue };
            for ((split, path), foreach) in run.foreaches.iter().filter(|(_, foreach)| foreach.opened < foreach.count) {
                let Some(step) = target(&flow, *split).filter(|step| route::pool_for(&self.state.offers, &flow, *step) == Some(pool))
                else {
                    continue;
                };
                // What is sought goes on by itself.
                let sought = is_sought(run, &flow, &TaskRef::new(step, path.child(foreach.opened), 0));
                if !sought && self.state.next_items(run, &flow, *split, step, path).is_some() {
                    let rest = TaskSet::Range { path: path.clone(), from: foreach.opened, to: foreach.count };
                    found.push((run.id(), step, rest));
                }
            }
        }
        for (run, step, rest) in found {
            if !self.gated(run, step, &rest) {
                self.hold(run, step, rest, 0, 0);
            }
        }
    }

    /// Opens first attempts at items of one foreach, in order: as lists where the step takes lists, else one by one. Neighbours that there is
    /// no room for wait together.
    pub(crate) fn offer_items(&mut self, run: RunId, step: StepIndex, outer: &Path, items: &[u32]) {
        let Some((found, flow)) = self.run_and_flow(run) else { return };
        let list = self.state.list(found, &flow, step, u32::MAX) as usize;
        if gate::may_wait(found, &flow, step) {
            return sets(outer, items, list).for_each(|tasks| self.pass_gates(run, step, tasks, 0, 0));
        }
        let pool = route::pool_for(&self.state.offers, &flow, step).cloned();
        for neighbours in items.chunk_by(|one, next| one + 1 == *next) {
            let mut left = neighbours;
            while !left.is_empty() {
                let (now, later) = left.split_at(left.len().min(list));
                let more = u32::try_from(now.len()).unwrap_or(u32::MAX);
                let is_full = self.records().len() >= PIECE_RECORDS;
                if !is_full && sets(outer, now, list).any(|tasks| self.recall(run, step, &tasks)) {
                    left = later;
                    continue;
                }
                let Some(pool) = pool.as_ref().filter(|pool| !is_full && self.state.has_room(run, pool, more)) else {
                    sets(outer, left, left.len()).for_each(|tasks| self.hold(run, step, tasks, 0, 0));
                    break;
                };
                for tasks in sets(outer, now, list) {
                    self.emit(Record::AttemptsOpened { run, step, pool: pool.clone(), tasks, attempt: 0, retry: 0 });
                }
                left = later;
            }
        }
    }
}
