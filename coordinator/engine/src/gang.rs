//! Gangs: tasks of one step that run at the same time and know each other, all or none. One gang of a pool gathers at a time and the
//! others stand in line, so that no two wait for each other's places. What ends the attempt of one member ends those of all, and their
//! results are accepted together.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use causey_protocol::flow::{Flow, StepIndex};
use causey_protocol::id::{Path, PoolName, RunId, Timestamp, WorkerName};
use causey_protocol::policy::{self, GATHER_SECONDS_DEFAULT};
use causey_protocol::problem::{Code, Problem};
use causey_protocol::record::{FailureCause, Record, RunState, TaskSet};
use causey_protocol::task::{Address, Success};
use causey_protocol::upkeep::StorageLevel;
use serde::{Deserialize, Serialize};

use crate::command::slots;
use crate::engine::Decider;
use crate::route;
use crate::run::{Run, TaskRef, TaskState};
use crate::state::State;

/// Wait after the first gathering in vain, in microseconds; doubled by each further one, [`BACKOFF_DOUBLINGS_MAX`] times.
const BACKOFF_MICROS: u64 = 1_000_000;
const BACKOFF_DOUBLINGS_MAX: u32 = 6;

/// Longest reason for a dissolution, in characters.
const BECAUSE_CHARS_MAX: usize = 300;

/// Names a gang within its run: the step of its members, and their path without the index.
pub type GangKey = (StepIndex, Path);

/// A gang whose results are not accepted yet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gang {
    pub size: u32,
    pub pool: PoolName,
    /// The attempt of all members; while it stands in line, the next one.
    pub attempt: u32,
    /// Charged retries of all members.
    pub retry: u32,
    /// Attempts in which the worker of a member vanished after the gang had formed.
    pub lost: u32,
    /// Attempts that a member failed for reasons of infrastructure.
    pub infrastructure: u32,
    /// Gatherings in a row that came to nothing.
    pub vain: u32,
    pub phase: GangPhase,
    /// Those that are there, by index.
    pub members: BTreeMap<u32, Member>,
    /// Why its last attempt was over.
    pub dissolved: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum GangPhase {
    /// Behind those of its pool that came earlier, and not before this time.
    InLine {
        since: Timestamp,
    },
    /// The attempts of its members are open; they wait for each other.
    Gathering {
        until: Timestamp,
    },
    Formed,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Member {
    pub worker: WorkerName,
    pub address: Address,
    /// Its result, which waits for those of the others.
    pub success: Option<Box<Success>>,
}

impl Gang {
    pub(crate) fn new(size: u32, pool: PoolName, since: Timestamp) -> Self {
        let phase = GangPhase::InLine { since };
        Self { size, pool, attempt: 0, retry: 0, lost: 0, infrastructure: 0, vain: 0, phase, members: BTreeMap::new(), dissolved: None }
    }

    pub(crate) fn call(&mut self, attempt: u32, until: Timestamp) {
        (self.attempt, self.phase) = (attempt, GangPhase::Gathering { until });
        self.members.clear();
    }

    /// Whether it has formed with this worker in this place.
    pub(crate) fn is_run_by(&self, index: u32, worker: &WorkerName) -> bool {
        self.phase == GangPhase::Formed && self.members.get(&index).is_some_and(|member| member.worker == *worker)
    }

    fn is_complete(&self) -> bool {
        self.members.len() == self.size as usize
    }

    /// The state after a dissolution.
    pub(crate) fn dissolve(&mut self, retry: u32, since: Timestamp, because: &str) {
        self.vain = self.vain_after();
        (self.attempt, self.retry, self.phase) = (self.attempt + 1, retry, GangPhase::InLine { since });
        self.dissolved = Some(because.to_owned());
        self.members.clear();
    }

    /// Gatherings in vain, were it dissolved now.
    fn vain_after(&self) -> u32 {
        if self.phase == GangPhase::Formed { 0 } else { self.vain.saturating_add(1) }
    }

    /// The addresses of all members in order; `None` while it is not formed.
    #[must_use]
    pub fn addresses(&self) -> Option<Vec<Address>> {
        (self.phase == GangPhase::Formed).then(|| self.members.values().map(|member| member.address).collect())
    }
}

impl Run {
    /// The gang that a task is a member of, and its index there.
    #[must_use]
    pub fn gang_of(&self, task: &TaskRef) -> Option<(GangKey, &Gang, u32)> {
        if self.gangs.is_empty() {
            return None;
        }
        let (outer, index) = task.path.split_last()?;
        let key = (task.step, outer);
        let gang = self.gangs.get(&key)?;
        Some((key, gang, index))
    }

    pub(crate) fn gang_of_mut(&mut self, task: &TaskRef) -> Option<(&mut Gang, u32)> {
        let (key, _, index) = self.gang_of(task)?;
        Some((self.gangs.get_mut(&key)?, index))
    }
}

/// The tasks of a gang in order.
pub(crate) fn members(step: StepIndex, path: &Path, size: u32) -> impl Iterator<Item = TaskRef> + '_ {
    (0..size).map(move |index| TaskRef::new(step, path.child(index), 0))
}

/// Stands for a gang among timers, which name tasks: no task of its step has a path that short.
pub(crate) fn timer(key: &GangKey) -> TaskRef {
    TaskRef::new(key.0, key.1.clone(), 0)
}

/// A gang of any run.
type GangRef = (RunId, GangKey);

/// The gangs of one pool that have not formed.
#[derive(Clone, Debug, Default)]
struct Line {
    gathering: Option<GangRef>,
    waiting: BTreeSet<(Timestamp, GangRef)>,
}

/// The lines of all pools. Follows from the runs; never stored.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lines(BTreeMap<PoolName, Line>);

impl Lines {
    pub(crate) fn enter(&mut self, run: RunId, key: &GangKey, gang: &Gang) {
        match gang.phase {
            GangPhase::InLine { since } => {
                self.0.entry(gang.pool.clone()).or_default().waiting.insert((since, (run, key.clone())));
            }
            GangPhase::Gathering { .. } => self.0.entry(gang.pool.clone()).or_default().gathering = Some((run, key.clone())),
            GangPhase::Formed => {}
        }
    }

    pub(crate) fn leave(&mut self, run: RunId, key: &GangKey, gang: &Gang) {
        let Some(line) = self.0.get_mut(&gang.pool) else { return };
        match gang.phase {
            GangPhase::InLine { since } => drop(line.waiting.remove(&(since, (run, key.clone())))),
            GangPhase::Gathering { .. } => line.gathering = None,
            GangPhase::Formed => {}
        }
        if line.gathering.is_none() && line.waiting.is_empty() {
            self.0.remove(&gang.pool);
        }
    }

    /// The first of each line for which there is what it needs, where no other gang of the pool gathers.
    fn first<'a>(&'a self, has_place: impl Fn(&GangRef, &PoolName) -> bool + 'a) -> impl Iterator<Item = &'a (Timestamp, GangRef)> {
        let free = self.0.iter().filter(|(_, line)| line.gathering.is_none());
        free.filter_map(move |(pool, line)| line.waiting.iter().find(|(_, gang)| has_place(gang, pool)))
    }

    /// All of a pool that have not formed, in order.
    fn of(&self, pool: &PoolName) -> Vec<GangRef> {
        let Some(line) = self.0.get(pool) else { return Vec::new() };
        line.gathering.iter().chain(line.waiting.iter().map(|(_, gang)| gang)).cloned().collect()
    }
}

/// A gang that has more members than its pool has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLarge {
    run: RunId,
    step: StepIndex,
    size: u32,
    room: u32,
}

impl State {
    /// When the next gang in line may gather; `None` while room in the streams is what it waits for.
    pub(crate) fn next_gang(&self) -> Option<Timestamp> {
        if self.storage.level == StorageLevel::Critical {
            return None;
        }
        self.index_by.lines.first(|gang, pool| self.may_gather(gang, pool)).map(|(since, _)| *since).min()
    }

    /// Whether live workers of a pool have what a gang's members need.
    fn may_gather(&self, (run, (step, _)): &GangRef, pool: &PoolName) -> bool {
        self.has_place_for(*run, *step, pool)
    }

    fn due_gang(&self) -> Option<GangRef> {
        let due = |(since, _): &&(Timestamp, GangRef)| *since <= self.at;
        self.index_by.lines.first(|gang, pool| self.may_gather(gang, pool)).find(due).map(|(_, gang)| gang.clone())
    }

    /// Pools whose gangs have not all formed.
    #[must_use]
    pub fn pools_with_gangs(&self) -> Vec<PoolName> {
        self.index_by.lines.0.keys().cloned().collect()
    }

    /// The gang of a pool that gathers at present.
    #[must_use]
    pub fn gathering(&self, pool: &PoolName) -> Option<(RunId, GangKey)> {
        self.index_by.lines.0.get(pool)?.gathering.clone()
    }

    /// The gangs of a pool that have not formed and never will with these workers, given by their slots. None while there is no worker.
    #[must_use]
    pub fn gangs_too_large(&self, pool: &PoolName, workers: &[u32]) -> Vec<TooLarge> {
        let check = |(run, key): GangRef| {
            let found = self.run(run)?;
            let flow = self.flow_of(found)?;
            let (size, wanted) = (found.gangs.get(&key)?.size, slots(&flow, key.0));
            let room: u32 = workers.iter().map(|slots| slots.max(&1)).map(|slots| slots / wanted.min(*slots)).sum();
            // Where nobody has what they need, that is what they wait for.
            let room = match self.offers.get(pool).and_then(|_| route::routed(&flow, key.0)) {
                Some(_) if !self.may_gather(&(run, key.clone()), pool) => return None,
                Some(_) => room.min(route::places(&self.offers, &flow, key.0, pool)),
                None => room,
            };
            (size > room && !workers.is_empty()).then_some(TooLarge { run, step: key.0, size, room })
        };
        self.index_by.lines.of(pool).into_iter().filter_map(check).collect()
    }

    /// Changes a gang, and its place in line with it.
    pub(crate) fn change_gang(&mut self, id: RunId, key: &GangKey, change: impl FnOnce(&mut Gang)) {
        let Some(run) = self.runs.get_mut(&id).map(Arc::make_mut) else { return };
        let Some(gang) = run.gangs.get_mut(key) else { return };
        self.index_by.leave_gang(id, key, gang);
        change(gang);
        self.index_by.enter_gang(id, key, gang);
    }
}

impl Decider<'_> {
    /// A step has said how many members the gang behind it has.
    pub(crate) fn open_gang(&mut self, run: RunId, split: StepIndex, path: &Path, size: u32) {
        let Some((_, flow)) = self.run_and_flow(run) else { return };
        let Some(step) = flow.step(split).next.targets().first().and_then(|target| flow.find(target)) else { return };
        self.emit(Record::ForeachOpened { run, step: split, path: path.clone(), count: size, chunk: None });
        // The results of a gang are accepted together, so an earlier run has those of all members or of none.
        if size == 0 || !self.seek(run, step, &TaskSet::Range { path: path.clone(), from: 0, to: size }) {
            self.line_up(run, &flow, step, path, size);
        }
    }

    /// Puts a gang in its pool's line.
    pub(crate) fn line_up(&mut self, run: RunId, flow: &Flow, step: StepIndex, path: &Path, size: u32) {
        // Where nobody has what its members need it waits in the line of the pool that would be asked otherwise.
        let pool = route::pool_with_room(&self.state.offers, flow, step, size).unwrap_or_else(|| route::named(flow, step));
        self.emit(Record::GangOpened { run, step, path: path.clone(), size, pool: pool.clone() });
    }

    /// Lets the first gang of each line gather whose pool is free. Called whenever something has been decided, so nobody else has to think
    /// of it.
    pub(crate) fn call_gangs(&mut self) {
        if self.state.storage.level == StorageLevel::Critical {
            return;
        }
        while let Some((run, key)) = self.state.due_gang() {
            let Some((found, flow)) = self.run_and_flow(run) else { return };
            let Some(gang) = found.gangs.get(&key) else { return };
            let ((step, path), Gang { size, pool, attempt, retry, .. }) = (key, gang.clone());
            let seconds = flow.step(step).gather_seconds.unwrap_or(GATHER_SECONDS_DEFAULT);
            let until = self.now().plus_micros(policy::micros(seconds));
            self.emit(Record::GangCalled { run, step, path: path.clone(), attempt, until });
            for TaskRef { path, visit, .. } in members(step, &path, size) {
                let (pool, tasks) = (pool.clone(), TaskSet::One { path, visit });
                self.emit(Record::AttemptsOpened { run, step, pool, tasks, attempt, retry });
            }
        }
    }

    /// A member is ready. With the last of them the gang has formed.
    pub(crate) fn member_joined(&mut self, run: RunId, task: &TaskRef, attempt: u32, worker: &WorkerName, address: Address, at: Timestamp) {
        let Some((found, flow)) = self.run_and_flow(run) else { return };
        let id = task.id(&flow);
        let Some(((step, outer), gang, index)) = found.gang_of(task) else {
            return self.ignore(format!("{id} of run {run} is no member of a gang"));
        };
        let known = gang.members.get(&index);
        if known.is_some_and(|known| known.worker == *worker && known.address == address) {
            return self.ignore(format!("{id} of run {run} has joined its gang before"));
        }
        if gang.phase == GangPhase::Formed {
            // The others were told an address at which nobody is any more.
            let cause = FailureCause::Released { because: "it was delivered once more after its gang had formed".into() };
            return self.close(run, task, attempt, Some(worker.clone()), &cause, (self.now(), self.now()));
        }
        let path = task.path.clone();
        self.emit(Record::MemberJoined { run, step, path, attempt, worker: worker.clone(), address, at });
        let complete = self.state.run(run).and_then(|run| run.gang_of(task)).is_some_and(|(_, gang, _)| gang.is_complete());
        if complete {
            self.emit(Record::GangFormed { run, step, path: outer, attempt });
        }
    }

    /// A member has its result. Once all have, they are accepted.
    pub(crate) fn member_succeeded(
        &mut self,
        run: RunId,
        flow: &Arc<Flow>,
        task: &TaskRef,
        attempt: u32,
        worker: &WorkerName,
        success: Success,
    ) {
        let formed = self.state.run(run).and_then(|run| run.gang_of(task)).is_some_and(|(_, gang, _)| gang.phase == GangPhase::Formed);
        if !formed {
            return self.ignore(format!("{} of run {run} has a result, but its gang has not formed", task.id(flow)));
        }
        let (path, worker) = (task.path.clone(), worker.clone());
        self.emit(Record::MemberSucceeded { run, step: task.step, path, attempt, worker, success: Box::new(success) });
        let Some(((step, outer), gang, _)) = self.state.run(run).and_then(|run| run.gang_of(task)) else { return };
        let results: Option<Vec<_>> = gang.members.values().map(|member| Some((member.worker.clone(), member.success.clone()?))).collect();
        for (task, (worker, success)) in members(step, &outer, gang.size).zip(results.unwrap_or_default()) {
            // A run that a member starts may end this one.
            if self.state.run(run).is_none_or(|run| run.state.is_terminal()) {
                return;
            }
            self.succeeded(run, flow, &task, attempt, &worker, &success);
        }
    }

    /// How the loss of its worker counts for a member: while the gang gathers, no user code has run.
    pub(crate) fn loss(&self, run: RunId, task: &TaskRef) -> FailureCause {
        let gang = self.state.run(run).and_then(|run| run.gang_of(task));
        match gang {
            Some((_, gang, _)) if gang.phase != GangPhase::Formed => FailureCause::Released { because: "its worker vanished".into() },
            _ => FailureCause::Lost,
        }
    }

    /// Not all members were there in time.
    pub(crate) fn gathering_timed_out(&mut self, run: RunId, key: &GangKey) {
        let Some(gang) = self.state.run(run).and_then(|run| run.gangs.get(key)) else { return };
        if !matches!(gang.phase, GangPhase::Gathering { .. }) {
            return;
        }
        let (there, size, retry) = (gang.members.len(), gang.size, gang.retry);
        self.dissolve(run, key, retry, 0, &format!("only {there} of its {size} members were there in time"));
    }

    /// Ends the attempts of all members; the gang stands in line again after a wait.
    pub(crate) fn dissolve(&mut self, run: RunId, key: &GangKey, retry: u32, wait_micros: u64, because: &str) {
        let Some(gang) = self.state.run(run).and_then(|run| run.gangs.get(key)) else { return };
        let (attempt, vain) = (gang.attempt, gang.vain_after());
        let backoff = vain.checked_sub(1).map_or(0, |doublings| BACKOFF_MICROS << doublings.min(BACKOFF_DOUBLINGS_MAX));
        let not_before = self.now().plus_micros(wait_micros.max(backoff));
        let because = because.chars().take(BECAUSE_CHARS_MAX).collect();
        let (step, path) = key.clone();
        self.emit(Record::GangDissolved { run, step, path, attempt, retry, not_before, because });
    }

    /// What a pool has is known: gangs that it can never hold do not wait for it.
    pub(crate) fn pool_counted(&mut self, pool: &PoolName, workers: &[u32]) {
        let refused = self.state.gangs_too_large(pool, workers);
        if refused.is_empty() {
            return self.ignore(format!("pool {pool} has room for the gangs in its line"));
        }
        let (count, total) = (workers.len(), workers.iter().sum::<u32>());
        let has = if count == 1 { "1 worker".to_owned() } else { format!("{count} workers") };
        for TooLarge { run, step, size, room } in refused {
            let Some((_, flow)) = self.run_and_flow(run).filter(|(run, _)| !run.state.is_terminal()) else { continue };
            let (name, wanted) = (&flow.step(step).name, slots(&flow, step));
            let each = if wanted > 1 { format!(" of {wanted} slots each") } else { String::new() };
            let what = format!(
                "step `{name}` asks for a gang of {size} members{each}, but pool {pool} has room for {room}: {has} with {total} slots"
            );
            let problem = Problem::new(Code::GANG_TOO_LARGE, what);
            let problem = problem.hint("start more workers of the pool, give them more --slots, or ask for fewer members");
            self.finish(run, RunState::Failed, Some(problem));
        }
    }
}

/// What is wrong with the gangs of a run, in words.
pub(crate) fn violations(state: &State, run: &Run, found: &mut Vec<String>) {
    for (key @ (step, path), gang) in &run.gangs {
        let mut wrong = |what: &str| found.push(format!("run {}: the gang of step {} on {path} {what}: {gang:?}", run.id(), step.0));
        if run.state.is_terminal() {
            wrong("is there although the run has ended");
        }
        let open = members(*step, path, gang.size).filter(|task| run.open_attempt(task, gang.attempt).is_some()).count();
        let done = gang.members.values().filter(|member| member.success.is_some()).count();
        let (size, there) = (gang.size as usize, gang.members.len());
        let is_called = state.gathering(&gang.pool) == Some((run.id(), key.clone()));
        match gang.phase {
            GangPhase::InLine { .. } if open + there > 0 || is_called => wrong("stands in line with members"),
            GangPhase::Gathering { .. } if !is_called => wrong("gathers beside another one of its pool"),
            GangPhase::Gathering { .. } if open != size || there == size || done > 0 => wrong("gathers, but not all its attempts are open"),
            GangPhase::Formed if there != size || open + done != size || done == size => wrong("has formed, but members are missing"),
            GangPhase::InLine { .. } | GangPhase::Gathering { .. } | GangPhase::Formed => {}
        }
        let waiting = members(*step, path, gang.size).filter(|task| run.task(task).is_some_and(|found| found.state == TaskState::Waiting));
        if gang.phase == GangPhase::Formed && waiting.count() != done {
            wrong("has formed, and members wait for something else");
        }
    }
}
