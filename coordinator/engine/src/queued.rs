//! What the queues must hold: for whoever compares it with what they do hold.

use std::collections::BTreeSet;

use causey_protocol::id::{PoolName, RunId, TaskKey, Timestamp};
use causey_protocol::live::OpenAttempt;

use crate::command::slots;
use crate::run::{OpenDispatch, Run, TaskRef, TaskState};
use crate::state::State;

/// An open dispatch: its message belongs on the queue of its pool until all its attempts are closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queued {
    pub run: RunId,
    pub pool: PoolName,
    /// Its first task, under whose key the message lies.
    pub first: TaskRef,
    pub attempt: u32,
    pub key: TaskKey,
    /// When its attempts were opened.
    pub opened: Timestamp,
    /// Its attempts that are open.
    pub attempts: Vec<TaskKey>,
    /// Whether a worker has said that it runs one of them.
    pub begun: bool,
    /// Slots that each of them occupies.
    pub slots: u32,
}

impl Queued {
    /// Whether one of its attempts is among those that workers hold.
    #[must_use]
    pub fn is_held(&self, held: &BTreeSet<OpenAttempt>) -> bool {
        self.attempts.iter().any(|key| held.contains(&OpenAttempt { run: self.run, key: *key }))
    }
}

/// All open dispatches, in the order of runs and tasks.
pub fn queued(state: &State) -> impl Iterator<Item = Queued> {
    state.live_runs().flat_map(move |run| run.dispatches().filter_map(move |(first, open)| entry(state, run, first, open)))
}

fn entry(state: &State, run: &Run, first: TaskRef, dispatch: &OpenDispatch) -> Option<Queued> {
    let flow = state.flow_of(run)?;
    let mut opened = run.created;
    let (mut attempts, mut begun) = (Vec::new(), false);
    for (path, visit) in dispatch.tasks.iter() {
        let task = TaskRef::new(first.step, path, visit);
        if let Some(found) = run.open_attempt(&task, dispatch.attempt) {
            opened = found.opened;
            begun |= found.state == TaskState::Running;
            attempts.push(task.id(&flow).key(dispatch.attempt));
        }
    }
    let (pool, attempt, key) = (dispatch.pool.clone(), dispatch.attempt, first.id(&flow).key(dispatch.attempt));
    let slots = slots(&flow, first.step);
    Some(Queued { run: run.id(), pool, first, attempt, key, opened, attempts, begun, slots })
}
