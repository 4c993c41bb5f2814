//! The committed fold as readers see it: API, event streams and the projection look here, never at the working state. Whoever
//! folds the log writes, everyone else reads; locks are held for the length of a look-up, never across an await.

use std::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use causey_engine::State;

use crate::signal;

/// How far the committed state has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Log sequence of the last committed turn.
    pub sequence: u64,
    /// Inbox and events sequences that it and its predecessors cover.
    pub inbox: u64,
    pub events: u64,
}

/// What this coordinator does now. Reads are served in every role but the first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// It has not yet folded the log to its end, and never comes back to this.
    #[default]
    Starting,
    /// It follows the log; `leader` is the name of who holds the leadership key, if anybody does.
    Standby { leader: Option<String> },
    /// It writes the log.
    Leader,
}

impl Role {
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Standby { .. } => "standby",
            Self::Leader => "leader",
        }
    }
}

/// The committed state, and signals of its progress and of this coordinator's role.
#[derive(Debug)]
pub struct Committed {
    state: RwLock<State>,
    progress: signal::Sender<Progress>,
    role: signal::Sender<Role>,
}

impl Committed {
    #[must_use]
    pub fn new(state: State) -> Self {
        Self { state: RwLock::new(state), progress: signal::Sender::default(), role: signal::Sender::default() }
    }

    /// The state as it is now; drop the guard before awaiting anything.
    ///
    /// # Panics
    /// When a writer panicked: the fold would be half done, and this process must not go on.
    pub fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().expect("a writer of the committed state panicked")
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().expect("a writer of the committed state panicked")
    }

    /// Signals every change of progress; the newest value counts.
    #[must_use]
    pub fn watch(&self) -> signal::Receiver<Progress> {
        self.progress.subscribe()
    }

    pub(crate) fn announce(&self, progress: Progress) {
        self.progress.send_replace(progress);
    }

    /// Signals every change of role.
    #[must_use]
    pub fn role(&self) -> signal::Receiver<Role> {
        self.role.subscribe()
    }

    pub(crate) fn set_role(&self, role: Role) {
        self.role.send_if_modified(|current| {
            let changed = *current != role;
            if changed {
                metrics::gauge!("causey_leading").set(if role == Role::Leader { 1.0 } else { 0.0 });
                *current = role;
            }
            changed
        });
    }
}
