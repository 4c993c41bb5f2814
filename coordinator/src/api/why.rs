//! Why something waits: what the engine says of the committed state, and what only a coordinator knows beside it: which workers there
//! are, what they hold, who leads and who could not read what would be decided.

use std::collections::BTreeMap;

use axum::extract::State;
use causey_artifacts::wall;
use causey_engine::{PoolSeen, Question, Queued, Reason, State as Committed, TaskRef, Wait};
use causey_protocol::id::{FlowName, Path, PoolName, RunId, StepName, Timestamp};
use causey_protocol::live::OpenAttempt;
use causey_protocol::record::GENERATION;
use serde::Deserialize;
use serde_json::{Value, json};

use super::context::{Context, Shared, find_run, not_found, run_and_flow};
use super::extract::{Asked, Named, Reply};
use super::logs::parse_task;
use super::refusal::Refusal;
use super::tasks::find_step;
use crate::committed::Role;
use crate::desk::Seen;

/// A worker says hello every ten seconds; from here on it has missed one.
const SILENT_SECONDS: u64 = 13;

/// Waits in one answer.
const WAITS_MAX: usize = 100;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    step: Option<StepName>,
    /// A task's text form, such as `3.1` or `0`.
    task: Option<String>,
}

pub(super) async fn run(
    State(context): State<Context>,
    Named(run): Named<String>,
    Asked(wanted): Asked<Wanted>,
) -> Result<Reply<Value>, Refusal> {
    let state = context.read();
    let id = find_run(&state, &run)?;
    let question = question(&state, id, &wanted)?;
    let waits = causey_engine::why(&state, &question);
    if waits.is_empty() {
        let step = wanted.step.as_ref().map(StepName::as_str).unwrap_or_default();
        let task = wanted.task.unwrap_or_default();
        return Err(not_found(format!("no task {step}/{task} in run {run}"), "list them: GET /v1/runs/RUN/tasks"));
    }
    let over = waits.iter().all(|wait| matches!(wait.reason, Reason::Ended { .. }));
    let known = Known::new(&context, &state);
    let mut waits: Vec<Wait> = waits.into_iter().take(WAITS_MAX).map(|wait| known.complete(id, wait)).collect();
    waits.extend(known.standstill().filter(|_| !over));
    let (name, flow) = (state.name_of(id), state.run(id).and_then(|run| state.flow_of(run)));
    let running = state.run(id).map(|run| run.state).or_else(|| state.retired.get(&id).map(|run| run.state));
    let waits: Vec<Value> = waits.iter().map(|wait| view(wait, flow.as_deref())).collect();
    Ok(Reply::ok(state.sequence, json!({"run": id, "name": name, "state": running, "waits": waits})))
}

pub(super) async fn trigger(State(context): State<Context>, Named(flow): Named<String>) -> Result<Reply<Value>, Refusal> {
    let state = context.read();
    let found = FlowName::new(&flow).ok().map(|name| (causey_engine::why(&state, &Question::Trigger(name.clone())), name));
    let Some((mut waits, name)) = found.filter(|(waits, _)| !waits.is_empty()) else {
        let shown: String = flow.chars().take(100).collect();
        return Err(not_found(format!("no flow `{shown}` is deployed"), "deploy it first: causey deploy FLOW.py"));
    };
    waits.extend(Known::new(&context, &state).standstill());
    let waits: Vec<Value> = waits.iter().map(|wait| view(wait, None)).collect();
    Ok(Reply::ok(state.sequence, json!({"flow": name, "waits": waits})))
}

pub(super) async fn pool(State(context): State<Context>, Named(pool): Named<PoolName>) -> Result<Reply<Value>, Refusal> {
    let state = context.read();
    let known = Known::new(&context, &state);
    let mut waits = known.pool(&pool);
    waits.extend(known.standstill());
    let workers: Vec<Value> = known.workers_of(&pool).map(worker).collect();
    let waits: Vec<Value> = waits.iter().map(|wait| view(wait, None)).collect();
    Ok(Reply::ok(state.sequence, json!({"pool": pool, "workers": workers, "waits": waits})))
}

fn question(state: &Committed, run: RunId, wanted: &Wanted) -> Result<Question, Refusal> {
    let Some(step) = &wanted.step else {
        return match wanted.task {
            Some(_) => Err(Refusal::malformed("`task` needs `step`")),
            None => Ok(Question::Run(run)),
        };
    };
    // Of a retired run it is known why it ended, and no more.
    if state.retired.contains(&run) {
        return Ok(Question::Run(run));
    }
    let (_, flow) = run_and_flow(state, run)?;
    let step = find_step(&flow, step)?;
    let Some(task) = &wanted.task else { return Ok(Question::Step(run, step)) };
    let (path, visit) = parse_task(task)?;
    // Outside any foreach a task is called `0`.
    let path = if flow.foreach_levels(step).next().is_none() && path.0 == [0] { Path::default() } else { path };
    Ok(Question::Task(run, TaskRef::new(step, path, visit.unwrap_or_default())))
}

/// A wait as clients see it: the reason's fields beside what it holds for, and the same in words.
fn view(wait: &Wait, flow: Option<&causey_protocol::flow::Flow>) -> Value {
    let mut view = serde_json::to_value(&wait.reason).expect("a reason has a JSON form");
    let task = |task: &TaskRef| flow.map_or_else(|| task.path.task_name(task.visit), |flow| task.id(flow).to_string());
    let tasks: Vec<String> = wait.tasks.iter().map(task).collect();
    for (name, value) in [
        ("step", json!(wait.step)),
        ("tasks", json!(tasks)),
        ("count", json!(wait.count)),
        ("text", json!(wait.reason.words(wall::now()))),
        ("hint", json!(wait.reason.hint())),
    ] {
        view[name] = value;
    }
    view
}

fn worker(seen: &Seen) -> Value {
    json!({"name": seen.offer.worker, "slots": seen.offer.slots, "open": seen.open.len(), "silent_seconds": seen.silence().as_secs(), "closed": seen.offer.closed, "offers": seen.offer.shape().words()})
}

fn count(many: usize) -> u32 {
    u32::try_from(many).unwrap_or(u32::MAX)
}

/// What this coordinator knows beside the state.
pub(super) struct Known<'a> {
    state: &'a Committed,
    workers: Vec<Seen>,
    /// Why nothing at all is decided at present.
    standstill: Option<Reason>,
}

impl<'a> Known<'a> {
    pub(super) fn new(context: &Shared, state: &'a Committed) -> Self {
        let info = &context.api.info;
        let role = context.api.committed.role().get();
        let writes = info.writable.now();
        let standstill = match (role, writes.reader) {
            (Role::Starting | Role::Standby { leader: None }, _) => Some(Reason::NoLeader),
            (Role::Leader | Role::Standby { .. }, Some(reader)) if writes.generation < GENERATION => Some(Reason::Reader { reader }),
            (Role::Leader | Role::Standby { .. }, _) => None,
        };
        Self { state, workers: info.workers.list(), standstill }
    }

    fn standstill(&self) -> Option<Wait> {
        self.standstill.clone().map(|reason| Wait { step: None, tasks: Vec::new(), count: 0, reason })
    }

    pub(super) fn workers_of(&self, pool: &PoolName) -> impl Iterator<Item = &Seen> {
        self.workers.iter().filter(move |seen| seen.offer.pool == *pool)
    }

    pub(super) fn pools(&self) -> Vec<PoolSeen> {
        let mut pools: BTreeMap<&PoolName, (u32, u32)> = BTreeMap::new();
        for seen in self.workers.iter().filter(|seen| !seen.offer.closed) {
            let (workers, slots) = pools.entry(&seen.offer.pool).or_default();
            (*workers, *slots) = (*workers + 1, slots.saturating_add(seen.offer.slots));
        }
        pools.into_iter().map(|(pool, (workers, slots))| PoolSeen { pool: pool.clone(), workers, slots }).collect()
    }

    /// Workers, slots and attempts held of a pool.
    fn capacity(&self, pool: &PoolName) -> (u32, u32, u32) {
        // A closed one may still have something, and takes nothing.
        let add = |(workers, slots, taken): (u32, u32, u32), seen: &Seen| {
            let (one, own) = if seen.offer.closed { (0, 0) } else { (1, seen.offer.slots) };
            (workers + one, slots.saturating_add(own), taken + count(seen.open.len()))
        };
        self.workers_of(pool).fold((0, 0, 0), add)
    }

    /// Dispatches that lie on the queue of a pool and are with no worker.
    pub(super) fn queued<'b>(&'b self, pool: &'b PoolName) -> impl Iterator<Item = Queued> + 'b {
        let is_held = |queued: &Queued| {
            let held = |key| OpenAttempt { run: queued.run, key };
            queued.attempts.iter().any(|key| self.workers_of(pool).any(|seen| seen.open.contains(&held(*key))))
        };
        causey_engine::queued(self.state).filter(move |queued| queued.pool == *pool && !is_held(queued))
    }

    fn complete(&self, run: RunId, wait: Wait) -> Wait {
        let reason = match &wait.reason {
            Reason::Queued { pool, since, attempt } => self.queue(run, &wait, pool, *since, *attempt),
            Reason::Running { pool, worker, .. } => {
                let seen = self.workers_of(pool).find(|seen| seen.offer.worker == *worker);
                let silence = seen.map(|seen| seen.silence().as_secs()).filter(|seconds| *seconds >= SILENT_SECONDS);
                let mut reason = wait.reason.clone();
                if let Reason::Running { silent_seconds, gone, .. } = &mut reason {
                    (*silent_seconds, *gone) = (silence, seen.is_none());
                }
                reason
            }
            other => other.clone(),
        };
        Wait { reason, ..wait }
    }

    fn queue(&self, run: RunId, wait: &Wait, pool: &PoolName, since: Timestamp, attempt: u32) -> Reason {
        let (pool, (workers, slots, taken)) = (pool.clone(), self.capacity(pool));
        if workers == 0 {
            return Reason::NoWorker { pool, since, pools: self.pools() };
        }
        if let Some(worker) = self.taker(run, wait, &pool, attempt) {
            return Reason::Taken { worker, pool, since };
        }
        let ahead = count(self.queued(&pool).filter(|queued| queued.opened < since).count());
        Reason::Busy { pool, since, workers, slots, taken, ahead }
    }

    /// The worker that says it holds the only task of a wait.
    fn taker(&self, run: RunId, wait: &Wait, pool: &PoolName, attempt: u32) -> Option<causey_protocol::id::WorkerName> {
        let [task] = wait.tasks.as_slice() else { return None };
        let flow = self.state.flow_of(self.state.run(run)?)?;
        let open = OpenAttempt { run, key: task.id(&flow).key(attempt) };
        self.workers_of(pool).find(|seen| seen.open.contains(&open)).map(|seen| seen.offer.worker.clone())
    }

    fn pool(&self, pool: &PoolName) -> Vec<Wait> {
        let (workers, slots, taken) = self.capacity(pool);
        let (queued, oldest) = self.queued(pool).fold((0, None), |(queued, oldest): (u32, Option<Timestamp>), next| {
            (queued + 1, Some(oldest.map_or(next.opened, |oldest| oldest.min(next.opened))))
        });
        let mut reasons = vec![Reason::Pool { pool: pool.clone(), workers, slots, taken, queued, oldest }];
        if let (0, Some(since)) = (workers, oldest) {
            reasons.push(Reason::NoWorker { pool: pool.clone(), since, pools: self.pools() });
        }
        reasons.into_iter().map(|reason| Wait { step: None, tasks: Vec::new(), count: 0, reason }).collect()
    }
}
