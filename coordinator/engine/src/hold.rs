//! Holding attempts back: what has no room in its pool's window, its run's or its tenant's, or in the streams, waits in the state and goes
//! through in order of dispatch as soon as there is room. A foreach waits as one entry, however many items it has not opened.

use std::sync::Arc;

use causey_protocol::flow::{Flow, StepIndex};
use causey_protocol::id::{Path, PoolName, RunId};
use causey_protocol::record::{Record, TaskSet};
use causey_protocol::upkeep::StorageLevel;
use serde::{Deserialize, Serialize};

use crate::engine::Decider;
use crate::foreach;
use crate::line::{Line, Pass, Rank, Waiter, window};
use crate::route;
use crate::run::{Run, TaskRef};
use crate::state::State;

/// One input leads to no more attempts let through than these records; what is left goes on with [`Input::Continue`](causey_protocol::input::Input).
pub(crate) const PIECE_RECORDS: usize = 256;

/// Attempts that wait for room, by run and first task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldBack {
    pub tasks: TaskSet,
    pub attempt: u32,
    pub retry: u32,
    /// How many records there had been when they were held back: the order of waiting.
    pub since: u64,
}

/// Why attempts wait.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HoldReason {
    /// The streams are nearly full.
    Storage,
    /// No live worker has what they need.
    Nowhere,
    /// As many attempts of the run are open as it wants at a time.
    Run { open: u32, window: u32 },
    /// As many attempts of its tenant are open as that may have.
    Tenant { tenant: String, open: u32, window: u32 },
    /// As many items of the foreach are under way as may be.
    Foreach,
    /// Others are open in the pool, or come first.
    Pool { pool: PoolName, open: u32, window: u32 },
}

impl HoldReason {
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Storage => "storage",
            Self::Nowhere => "nowhere",
            Self::Run { .. } => "run",
            Self::Tenant { .. } => "tenant",
            Self::Foreach => "foreach",
            Self::Pool { .. } => "pool",
        }
    }
}

impl std::fmt::Display for HoldReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Storage => f.write_str("waits until the streams have room again"),
            Self::Nowhere => f.write_str("waits for a worker that has what it needs"),
            Self::Run { open, window } => write!(f, "waits for the run's own tasks: {open} are open, and it wants {window} at a time"),
            Self::Tenant { tenant, open, window } => {
                write!(f, "waits for other tasks of {tenant}: {open} are open, and {window} may be")
            }
            Self::Foreach => f.write_str("waits for items of its foreach that are under way"),
            Self::Pool { pool, open, window } => {
                write!(
                    f,
                    "waits for room in pool {pool}: {open} tasks are open, and {window} may be; higher priorities and whoever has less open come first"
                )
            }
        }
    }
}

/// Attempts that wait before one pool for one reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitingCount {
    pub pool: PoolName,
    pub reason: &'static str,
    pub attempts: u64,
}

/// Whether `more` fit beside what is open. What is larger than the whole window goes alone.
fn fits(open: u32, more: u32, window: Option<u32>) -> bool {
    window.is_none_or(|window| open == 0 || open.saturating_add(more) <= window)
}

/// The entry of held attempts in their line.
fn waiter(flow: &Flow, first: &TaskRef, held: &HeldBack) -> Waiter {
    let rest = held.attempt == 0 && matches!(held.tasks, TaskSet::Range { .. }) && foreach::split_before(flow, first.step).is_some();
    Waiter { rest, since: held.since, first: first.clone() }
}

/// What is left of a set once its first `gone` tasks are.
fn without_first(tasks: &TaskSet, gone: u32) -> Option<TaskSet> {
    let TaskSet::Range { path, from, to } = tasks else { return None };
    let from = from.saturating_add(gone);
    (from < *to).then(|| TaskSet::Range { path: path.clone(), from, to: *to })
}

impl State {
    /// Attempts that may be open in a pool.
    #[must_use]
    pub fn window(&self, pool: &PoolName) -> u32 {
        window(self.pools.get(pool).copied())
    }

    /// Attempts that are open in a pool.
    #[must_use]
    pub fn open_in(&self, pool: &PoolName) -> u32 {
        self.index_by.room.pools.get(pool).map_or(0, |line| line.open)
    }

    /// The held attempts of a run.
    pub fn held_back_of(&self, run: RunId) -> impl Iterator<Item = (&TaskRef, &HeldBack)> {
        let from = (run, TaskRef::new(StepIndex(0), Path::default(), 0));
        self.held_back.range(from..).take_while(move |((of, _), _)| *of == run).map(|((_, task), held)| (task, held))
    }

    /// Why held attempts wait; `None` when they are not held.
    #[must_use]
    pub fn why_held(&self, run: RunId, first: &TaskRef) -> Option<HoldReason> {
        let held = self.held_back.get(&(run, first.clone()))?;
        let found = self.run(run)?;
        let flow = self.flow_of(found)?;
        let Some(pool) = route::pool_for(&self.offers, &flow, first.step) else { return Some(HoldReason::Nowhere) };
        let next = self.portion(found, &flow, first, held).map(|next| next.len());
        Some(self.why_run_waits(found, pool, next))
    }

    /// Why a run gets nothing more into a pool; `next` attempts come next, or the foreach they belong to lets none through.
    fn why_run_waits(&self, run: &Run, pool: &PoolName, next: Option<u32>) -> HoldReason {
        if self.storage.level == StorageLevel::Critical {
            return HoldReason::Storage;
        }
        let Some(next) = next else { return HoldReason::Foreach };
        let open = run.open();
        if let Some(window) = run.start.standing.max_parallel.filter(|window| !fits(open, next, Some(*window))) {
            return HoldReason::Run { open, window };
        }
        let tenant = run.tenant();
        let open = self.index_by.room.open_of(tenant);
        if let Some(window) = self.shares.of(tenant).window.filter(|window| !fits(open, next, Some(*window))) {
            return HoldReason::Tenant { tenant: tenant.to_owned(), open, window };
        }
        HoldReason::Pool { pool: pool.clone(), open: self.open_in(pool), window: self.window(pool) }
    }

    /// How many attempts wait before each pool, and what their runs wait for.
    #[must_use]
    pub fn waiting(&self) -> Vec<WaitingCount> {
        let mut counts = Vec::<WaitingCount>::new();
        for (pool, line) in self.index_by.room.pools.iter().filter(|(_, line)| line.is_waited_for()) {
            for (run, attempts) in line.waiting() {
                let Some(run) = self.run(run) else { continue };
                let reason = self.why_run_waits(run, pool, Some(1)).as_str();
                match counts.iter_mut().find(|count| count.pool == *pool && count.reason == reason) {
                    Some(count) => count.attempts += attempts,
                    None => counts.push(WaitingCount { pool: pool.clone(), reason, attempts }),
                }
            }
        }
        counts
    }

    /// Whether something accepted is not decided to its end: then [`Input::Continue`](causey_protocol::input::Input) comes before any other input.
    pub fn has_work(&mut self) -> bool {
        !self.work.is_empty() || self.next_through().is_some()
    }

    /// Whether attempts of a run may be opened in a pool now, without passing anybody who waits.
    pub(crate) fn has_room(&mut self, run: RunId, pool: &PoolName, more: u32) -> bool {
        if self.storage.level == StorageLevel::Critical {
            return false;
        }
        let (open, window, waited_for) = match self.index_by.room.pools.get(pool) {
            Some(line) => (line.open, line.window, line.is_waited_for()),
            None => (0, self.window(pool), false),
        };
        if !fits(open, more, Some(window)) {
            return false;
        }
        let Some(found) = self.run(run) else { return true };
        if !fits_run(found, more) || (self.index_by.room.windowed && !self.fits_tenant(found.tenant(), more)) {
            return false;
        }
        if !waited_for {
            return true;
        }
        let Some((first, _, _)) = self.first_in(pool) else { return true };
        let own = self.rank(run, pool);
        own.is_some_and(|own| own < first)
    }

    fn rank(&self, run: RunId, pool: &PoolName) -> Option<Rank> {
        let found = self.run(run)?;
        let flow = self.flow_of(found)?;
        Some(self.index_by.room.pools.get(pool)?.rank(&self.shares, found, open_in(found, &flow, pool)))
    }

    fn fits_tenant(&self, tenant: &str, more: u32) -> bool {
        fits(self.index_by.room.open_of(tenant), more, self.shares.of(tenant).window)
    }

    /// The first in the line before a pool that nothing but the pool itself may keep from going through, and what of it comes next.
    fn first_in(&mut self, pool: &PoolName) -> Option<(Rank, Waiter, TaskSet)> {
        loop {
            let (rank, waiter) = self.index_by.room.pools.get_mut(pool)?.first()?;
            let pass = match self.run(rank.run).and_then(|run| Some((run, self.next_of(run, &waiter)?))) {
                None => Pass::Waiter,
                Some((run, next)) if !fits_run(run, next.len()) => Pass::Run,
                Some((_, next)) if !self.fits_tenant(&rank.tenant, next.len()) => Pass::Tenant,
                Some((_, next)) => return Some((rank, waiter, next)),
            };
            self.index_by.room.pools.get_mut(pool)?.pass(&rank, &waiter, pass);
        }
    }

    /// What goes through next, wherever there is room.
    fn next_through(&mut self) -> Option<(RunId, TaskRef, TaskSet, PoolName)> {
        if self.held_back.is_empty() || self.storage.level == StorageLevel::Critical {
            return None;
        }
        let has_room = |line: &Line| line.is_waited_for() && fits(line.open, 1, Some(line.window));
        let pools: Vec<PoolName> =
            self.index_by.room.pools.iter().filter(|(_, line)| has_room(line)).map(|(pool, _)| pool.clone()).collect();
        pools.into_iter().find_map(|pool| {
            let (rank, waiter, next) = self.first_in(&pool)?;
            let line = self.index_by.room.pools.get(&pool)?;
            fits(line.open, next.len(), Some(line.window)).then_some((rank.run, waiter.first, next, pool))
        })
    }

    fn next_of(&self, run: &Run, waiter: &Waiter) -> Option<TaskSet> {
        let held = self.held_back.get(&(run.id(), waiter.first.clone()))?;
        self.portion(run, &*self.flow_of(run)?, &waiter.first, held)
    }

    /// What of held attempts becomes the next dispatch; `None` while their foreach lets nothing through.
    fn portion(&self, run: &Run, flow: &Flow, first: &TaskRef, held: &HeldBack) -> Option<TaskSet> {
        let TaskSet::Range { path, from, to } = &held.tasks else { return Some(held.tasks.clone()) };
        if held.attempt > 0 {
            return Some(held.tasks.clone());
        }
        let is_rest = |split: &StepIndex| run.foreach(*split, path).is_some_and(|foreach| foreach.opened == *from);
        if let Some(split) = foreach::split_before(flow, first.step).filter(is_rest) {
            let (from, to) = self.next_items(run, flow, split, first.step, path)?;
            return Some(TaskSet::Range { path: path.clone(), from, to });
        }
        let to = from.saturating_add(self.list(run, flow, first.step, u32::MAX)).min(*to);
        Some(if to == from + 1 {
            TaskSet::One { path: path.child(*from), visit: 0 }
        } else {
            TaskSet::Range { path: path.clone(), from: *from, to }
        })
    }

    /// Folds that attempts are held back.
    pub(crate) fn hold(&mut self, id: RunId, step: StepIndex, tasks: &TaskSet, attempt: u32, retry: u32) {
        let Some((path, visit)) = tasks.iter().next() else { return };
        // A first attempt has no task yet.
        for (path, visit) in tasks.iter().filter(|_| attempt > 0) {
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
        let held = HeldBack { tasks: tasks.clone(), attempt, retry, since: self.records };
        self.enter_line(id, TaskRef::new(step, path, visit), held);
    }

    fn enter_line(&mut self, id: RunId, first: TaskRef, held: HeldBack) {
        self.queue(id, &first, &held);
        self.held_back.insert((id, first), held);
    }

    /// Enters held attempts in the line before their pool. Those that no pool can have stand in none.
    pub(crate) fn queue(&mut self, id: RunId, first: &TaskRef, held: &HeldBack) {
        let Some(run) = self.runs.get(&id) else { return };
        let Some(flow) = self.definitions.get(&run.start.definition) else { return };
        let Some(pool) = route::pool_for(&self.offers, flow, first.step) else { return };
        let line = self.index_by.room.of(&self.pools, pool);
        line.enter(&self.shares, run, open_in(run, flow, pool), waiter(flow, first, held), held.tasks.len());
    }

    /// The first `opened` of the attempts held under `first` have been opened; the rest waits on.
    pub(crate) fn let_go(&mut self, id: RunId, first: &TaskRef, opened: u32) {
        let Some(held) = self.held_back.remove(&(id, first.clone())) else { return };
        self.leave_line(id, first, &held);
        let Some(rest) = without_first(&held.tasks, opened) else { return };
        let Some((path, visit)) = rest.iter().next() else { return };
        self.enter_line(id, TaskRef::new(first.step, path, visit), HeldBack { tasks: rest, ..held });
    }

    fn leave_line(&mut self, id: RunId, first: &TaskRef, held: &HeldBack) {
        let Some(run) = self.runs.get(&id) else { return };
        let Some(flow) = self.definitions.get(&run.start.definition) else { return };
        let pool = route::pool_for(&self.offers, flow, first.step);
        if let Some(line) = pool.and_then(|pool| self.index_by.room.pools.get_mut(pool)) {
            line.leave(&self.shares, id, &waiter(flow, first, held), held.tasks.len());
        }
    }

    /// A run has ended: it waits for nothing.
    pub(crate) fn let_go_all(&mut self, id: RunId) {
        let gone: Vec<TaskRef> = self.held_back_of(id).map(|(task, _)| task.clone()).collect();
        for task in gone {
            self.held_back.remove(&(id, task));
        }
        for line in self.index_by.room.pools.values_mut() {
            line.forget(&self.shares, id);
        }
    }

    /// A foreach may have room for further items: its rest, if it waits for that, is looked at again.
    pub(crate) fn wake_foreach(&mut self, id: RunId, split: StepIndex, path: &Path) {
        let Some(run) = self.runs.get(&id) else { return };
        let Some(flow) = self.definitions.get(&run.start.definition) else { return };
        let Some((step, foreach)) = foreach::target(flow, split).zip(run.foreach(split, path)) else { return };
        let first = TaskRef::new(step, path.child(foreach.opened), 0);
        let Some(held) = self.held_back.get(&(id, first.clone())) else { return };
        let pool = route::pool_for(&self.offers, flow, step);
        if let Some(line) = pool.and_then(|pool| self.index_by.room.pools.get_mut(pool)) {
            line.wake_waiter(&self.shares, id, &waiter(flow, &first, held));
        }
    }

    /// Makes the lines from the tables: after a restore, and when all ranks may have changed.
    pub(crate) fn rebuild_lines(&mut self) {
        self.index_by.room = Default::default();
        self.index_by.room.windowed = self.shares.has_windows();
        let live: Vec<RunId> = self.live_runs().map(Run::id).collect();
        for id in live {
            let Some((run, flow)) = self.runs.get(&id).and_then(|run| Some((run, self.definitions.get(&run.start.definition)?))) else {
                continue;
            };
            for step in flow.indices() {
                let open = run.open_at(step);
                if let Some(pool) = route::fixed(flow, step).filter(|_| open > 0) {
                    let line = self.index_by.room.of(&self.pools, pool);
                    line.count(&self.shares, id, run.tenant(), 0, open);
                }
            }
            for ((_, pool), open) in &run.away {
                self.index_by.room.of(&self.pools, pool).count(&self.shares, id, run.tenant(), 0, *open);
            }
        }
        let held: Vec<_> = self.held_back.iter().map(|((run, first), held)| (*run, first.clone(), held.clone())).collect();
        for (run, first, held) in held {
            self.queue(run, &first, &held);
        }
    }
}

/// What a run has open in a pool.
fn open_in(run: &Run, flow: &Flow, pool: &PoolName) -> u32 {
    let fixed: u32 = flow.indices().filter(|step| route::fixed(flow, *step) == Some(pool)).map(|step| run.open_at(step)).sum();
    fixed + run.away_in(pool)
}

fn fits_run(run: &Run, more: u32) -> bool {
    let window = run.start.standing.max_parallel;
    window.is_none() || fits(run.open(), more, window)
}

impl Decider<'_> {
    /// Opens attempts of one step as one dispatch, or holds them back; results that are remembered of first ones are asked for
    /// instead. The members of a gang do not come here: all or none of them go.
    pub(crate) fn offer(&mut self, run: RunId, step: StepIndex, tasks: TaskSet, attempt: u32, retry: u32) {
        let Some((_, flow)) = self.run_and_flow(run) else { return };
        if attempt == 0 && self.recall(run, step, &tasks) {
            return;
        }
        let pool = route::pool_for(&self.state.offers, &flow, step).cloned();
        match pool.filter(|pool| self.state.has_room(run, pool, tasks.len())) {
            Some(pool) => self.emit(Record::AttemptsOpened { run, step, pool, tasks, attempt, retry }),
            None => self.hold(run, step, tasks, attempt, retry),
        }
    }

    pub(crate) fn hold(&mut self, run: RunId, step: StepIndex, tasks: TaskSet, attempt: u32, retry: u32) {
        let first = tasks.iter().next().map(|(path, visit)| (run, TaskRef::new(step, path, visit)));
        if first.is_some_and(|first| !self.state.held_back.contains(&first)) {
            self.emit(Record::AttemptsHeld { run, step, tasks, attempt, retry });
        }
    }

    /// Opens what waits and has room now, in order of dispatch.
    pub(crate) fn let_through(&mut self) {
        while self.records().len() < PIECE_RECORDS
            && let Some((run, first, tasks, pool)) = self.state.next_through()
        {
            let Some(HeldBack { attempt, retry, .. }) = self.state.held_back.get(&(run, first.clone())).cloned() else { return };
            if attempt == 0 && self.recall(run, first.step, &tasks) {
                continue;
            }
            self.emit(Record::AttemptsOpened { run, step: first.step, pool, tasks, attempt, retry });
        }
    }
}
