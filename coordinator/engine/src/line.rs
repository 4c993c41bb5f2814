//! The lines before the pools: how many attempts are open in each, and who waits for room, in order of dispatch. Higher priority first;
//! then the tenant that has the least open for its weight, of its runs the one that has the least open, then the older run; within a run
//! what waits longest, and further items of a foreach last. It follows from the tables and is never stored; it knows neither why
//! somebody waits nor who may go.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use causey_protocol::id::{PoolName, RunId};
use causey_protocol::share::Shares;

use crate::run::{Run, TaskRef};

/// Window of a pool whose slots are not known.
pub(crate) const WINDOW_UNKNOWN: u32 = 1_024;

/// The least and the most of what is open in a pool.
pub(crate) const WINDOW_MIN: u32 = 64;
const WINDOW_MAX: u32 = 10_000;

/// Tenants are forgotten once they have nothing open, but this many.
const IDLE_TENANTS_MAX: usize = 64;

/// What a tenant has open is compared in these parts of an attempt for each unit of weight.
const SHARE_UNIT: u64 = 1_000_000;

/// Attempts that may be open in a pool of so many slots: one that runs and one that waits beside each.
pub(crate) fn window(slots: Option<u32>) -> u32 {
    slots.map_or(WINDOW_UNKNOWN, |slots| slots.saturating_mul(2).clamp(WINDOW_MIN, WINDOW_MAX))
}

/// Held attempts of a run, by their first task.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Waiter {
    /// The items that a foreach has not opened: what has begun goes on before them.
    pub(crate) rest: bool,
    pub(crate) since: u64,
    pub(crate) first: TaskRef,
}

/// A run's place in line: the least is the next.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    priority: Reverse<i8>,
    /// What its tenant has open in the pool, for its weight.
    share: u64,
    pub(crate) tenant: Arc<str>,
    /// What it has open in the pool.
    open: u32,
    pub(crate) run: RunId,
}

/// Whom [`Line::first`] may pass over until something closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pass {
    Waiter,
    Run,
    Tenant,
}

/// A run that waits.
#[derive(Clone, Debug)]
struct Waiting {
    priority: Reverse<i8>,
    tenant: Arc<str>,
    open: u32,
    awake: BTreeSet<Waiter>,
    /// Those passed over.
    asleep: BTreeSet<Waiter>,
    attempts: u64,
}

/// The waiting runs of one tenant and priority.
#[derive(Clone, Debug, Default)]
struct Class {
    runs: usize,
    awake: BTreeSet<(u32, RunId)>,
}

/// The line before one pool.
#[derive(Clone, Debug, Default)]
pub(crate) struct Line {
    pub(crate) window: u32,
    /// Open attempts.
    pub(crate) open: u32,
    tenants: BTreeMap<String, u32>,
    runs: BTreeMap<RunId, Waiting>,
    classes: BTreeMap<(Arc<str>, Reverse<i8>), Class>,
    order: BTreeSet<(Reverse<i8>, u64, Arc<str>)>,
}

impl Line {
    pub(crate) fn new(window: u32) -> Self {
        Self { window, ..Self::default() }
    }

    pub(crate) fn is_waited_for(&self) -> bool {
        !self.runs.is_empty()
    }

    /// What a tenant has open here.
    pub(crate) fn open_of(&self, tenant: &str) -> u32 {
        self.tenants.get(tenant).copied().unwrap_or_default()
    }

    fn share(&self, shares: &Shares, tenant: &str) -> u64 {
        u64::from(self.open_of(tenant)) * SHARE_UNIT / u64::from(shares.of(tenant).weight.max(1))
    }

    /// The rank a run has, or would have if it waited.
    pub(crate) fn rank(&self, shares: &Shares, run: &Run, open: u32) -> Rank {
        let tenant = run.tenant();
        let share = self.share(shares, tenant);
        Rank { priority: Reverse(run.start.standing.priority()), share, tenant: tenant.into(), open, run: run.id() }
    }

    /// A run's open attempts here, at one step, were `before` and are `after`.
    pub(crate) fn count(&mut self, shares: &Shares, run: RunId, tenant: &str, before: u32, after: u32) {
        let waited_for = self.is_waited_for();
        let share = if waited_for { self.share(shares, tenant) } else { 0 };
        self.open = (self.open + after).saturating_sub(before);
        if let Some(open) = self.tenants.get_mut(tenant) {
            *open = (*open + after).saturating_sub(before);
            if *open == 0 && self.tenants.len() > IDLE_TENANTS_MAX {
                self.tenants.remove(tenant);
            }
        } else if after > before {
            self.tenants.insert(tenant.to_owned(), after - before);
        }
        if !waited_for {
            return;
        }
        let now = self.share(shares, tenant);
        for (priority, tenant) in self.classes_of(tenant) {
            if self.order.remove(&(priority, share, tenant.clone())) {
                self.order.insert((priority, now, tenant));
            }
        }
        if let Some(waiting) = self.runs.get_mut(&run) {
            let was = waiting.open;
            waiting.open = (was + after).saturating_sub(before);
            if let Some(class) = self.classes.get_mut(&(waiting.tenant.clone(), waiting.priority))
                && class.awake.remove(&(was, run))
            {
                class.awake.insert((waiting.open, run));
            }
        }
    }

    fn classes_of(&self, tenant: &str) -> Vec<(Reverse<i8>, Arc<str>)> {
        let from: (Arc<str>, Reverse<i8>) = (tenant.into(), Reverse(i8::MAX));
        let all = self.classes.range(from..).take_while(|((of, _), _)| **of == *tenant);
        all.map(|((tenant, priority), _)| (*priority, tenant.clone())).collect()
    }

    /// Room may have come for a run or its tenant.
    pub(crate) fn wake(&mut self, shares: &Shares, run: RunId, tenant: &str) {
        if let Some(waiting) = self.runs.get(&run).filter(|waiting| !waiting.awake.is_empty())
            && let Some(class) = self.classes.get_mut(&(waiting.tenant.clone(), waiting.priority))
        {
            class.awake.insert((waiting.open, run));
        }
        let share = self.share(shares, tenant);
        for (priority, tenant) in self.classes_of(tenant) {
            if self.classes.get(&(tenant.clone(), priority)).is_some_and(|class| !class.awake.is_empty()) {
                self.order.insert((priority, share, tenant));
            }
        }
    }

    /// Room may have come for one waiter.
    pub(crate) fn wake_waiter(&mut self, shares: &Shares, run: RunId, waiter: &Waiter) {
        let Some(waiting) = self.runs.get_mut(&run) else { return };
        if let Some(waiter) = waiting.asleep.take(waiter) {
            waiting.awake.insert(waiter);
            let tenant = waiting.tenant.clone();
            self.wake(shares, run, &tenant);
        }
    }

    /// Enters attempts of a run that has `open` attempts here.
    pub(crate) fn enter(&mut self, shares: &Shares, run: &Run, open: u32, waiter: Waiter, attempts: u32) {
        let (id, priority) = (run.id(), Reverse(run.start.standing.priority()));
        if !self.runs.contains_key(&id) {
            let tenant: Arc<str> = run.tenant().into();
            self.classes.entry((tenant.clone(), priority)).or_default().runs += 1;
            let (awake, asleep) = (BTreeSet::new(), BTreeSet::new());
            self.runs.insert(id, Waiting { priority, tenant, open, awake, asleep, attempts: 0 });
        }
        if let Some(waiting) = self.runs.get_mut(&id) {
            waiting.attempts += u64::from(attempts);
            waiting.awake.insert(waiter);
        }
        self.wake(shares, id, run.tenant());
    }

    pub(crate) fn leave(&mut self, shares: &Shares, run: RunId, waiter: &Waiter, attempts: u32) {
        let Some(waiting) = self.runs.get_mut(&run) else { return };
        waiting.attempts = waiting.attempts.saturating_sub(attempts.into());
        if !waiting.awake.remove(waiter) {
            waiting.asleep.remove(waiter);
        }
        if waiting.awake.is_empty() && waiting.asleep.is_empty() {
            self.forget(shares, run);
        }
    }

    /// Takes a run out of the line.
    pub(crate) fn forget(&mut self, shares: &Shares, run: RunId) {
        let Some(waiting) = self.runs.remove(&run) else { return };
        let share = self.share(shares, &waiting.tenant);
        let key = (waiting.tenant, waiting.priority);
        if let Some(class) = self.classes.get_mut(&key) {
            class.awake.remove(&(waiting.open, run));
            class.runs -= 1;
            if class.runs == 0 {
                self.classes.remove(&key);
                self.order.remove(&(key.1, share, key.0));
            }
        }
    }

    /// The first in line that is not passed over.
    pub(crate) fn first(&mut self) -> Option<(Rank, Waiter)> {
        loop {
            let (priority, share, tenant) = self.order.first()?.clone();
            let Some(class) = self.classes.get_mut(&(tenant.clone(), priority)).filter(|class| !class.awake.is_empty()) else {
                self.order.pop_first();
                continue;
            };
            let (open, run) = class.awake.first().copied()?;
            let Some(waiter) = self.runs.get(&run).and_then(|waiting| waiting.awake.first()) else {
                class.awake.pop_first();
                continue;
            };
            return Some((Rank { priority, share, tenant, open, run }, waiter.clone()));
        }
    }

    /// Passes over the one that [`Line::first`] gave, or all of its run or tenant, until woken.
    pub(crate) fn pass(&mut self, rank: &Rank, waiter: &Waiter, pass: Pass) {
        match pass {
            Pass::Waiter => {
                if let Some(waiting) = self.runs.get_mut(&rank.run)
                    && let Some(waiter) = waiting.awake.take(waiter)
                {
                    waiting.asleep.insert(waiter);
                }
            }
            Pass::Run => {
                if let Some(class) = self.classes.get_mut(&(rank.tenant.clone(), rank.priority)) {
                    class.awake.remove(&(rank.open, rank.run));
                }
            }
            Pass::Tenant => drop(self.order.remove(&(rank.priority, rank.share, rank.tenant.clone()))),
        }
    }

    /// Attempts that wait, by run.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = (RunId, u64)> {
        self.runs.iter().map(|(run, waiting)| (*run, waiting.attempts))
    }
}

/// All lines.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lines {
    pub(crate) pools: BTreeMap<PoolName, Line>,
    /// Whether any tenant has a window.
    pub(crate) windowed: bool,
}

impl Lines {
    /// The line before a pool, made when it is not there; `slots` are those of all pools.
    pub(crate) fn of(&mut self, slots: &BTreeMap<PoolName, u32>, pool: &PoolName) -> &mut Line {
        if !self.pools.contains_key(pool) {
            self.pools.insert(pool.clone(), Line::new(window(slots.get(pool).copied())));
        }
        self.pools.get_mut(pool).expect("a line that is there")
    }

    /// Something of a run has closed: it and its tenant may have room again, before whichever pool they wait.
    pub(crate) fn wake(&mut self, shares: &Shares, run: RunId, tenant: &str) {
        for line in self.pools.values_mut().filter(|line| line.is_waited_for()) {
            line.wake(shares, run, tenant);
        }
    }

    pub(crate) fn open_of(&self, tenant: &str) -> u32 {
        self.pools.values().map(|line| line.open_of(tenant)).sum()
    }
}
