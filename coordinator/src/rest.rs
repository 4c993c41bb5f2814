//! What a new leader offers to the pools, and when. The task queue may be empty, for a single server keeps it in memory: what no worker is
//! known to run is offered at once, the rest when an ack wait is over and still nobody says that he holds it. A task whose message is
//! queued after all is refused by the queue, which harms nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use causey_engine::{Command, Queued, State};
use causey_protocol::id::TaskKey;
use causey_protocol::live::OpenAttempt;
use tokio::time::Instant;

/// Dispatches that workers may be running.
#[derive(Debug, Default)]
pub(crate) struct Rest {
    due: Option<Instant>,
    dispatches: Vec<Command>,
}

impl Rest {
    /// Takes out of `commands` the dispatches that a worker has begun or says he holds, to be looked at again after `ack_wait`.
    pub(crate) fn take_from(commands: &mut Vec<Command>, state: &State, held: &BTreeSet<OpenAttempt>, ack_wait: Duration) -> Self {
        let running = keys(state, |queued| queued.begun || queued.is_held(held));
        let dispatches: Vec<Command> = commands.extract_if(.., |command| key(command).is_some_and(|key| running.contains(&key))).collect();
        Self { due: (!dispatches.is_empty()).then(|| Instant::now() + ack_wait), dispatches }
    }

    /// When to look again; `None` when nothing is left.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Those that are still open and that nobody holds.
    pub(crate) fn take(&mut self, state: &State, held: &BTreeSet<OpenAttempt>) -> Vec<Command> {
        let open = keys(state, |queued| !queued.is_held(held));
        let Self { dispatches, .. } = std::mem::take(self);
        dispatches.into_iter().filter(|command| key(command).is_some_and(|key| open.contains(&key))).collect()
    }
}

fn key(command: &Command) -> Option<TaskKey> {
    if let Command::Dispatch { key, .. } = command { Some(*key) } else { None }
}

fn keys(state: &State, wanted: impl Fn(&Queued) -> bool) -> BTreeSet<TaskKey> {
    causey_engine::queued(state).filter(wanted).map(|queued| queued.key).collect()
}
