//! The committed fold as readers see it: API, event streams and the projection look here, never at the working state. The loop
//! writes, everyone else reads; locks are held for the length of a look-up, never across an await.

use std::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use causey_engine::State;
use tokio::sync::watch;

/// How far the committed state has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Log sequence of the last committed turn.
    pub sequence: u64,
    /// Inbox and events sequences that it and its predecessors cover.
    pub inbox: u64,
    pub events: u64,
    /// Whether this coordinator leads: only then does progress go on.
    pub leading: bool,
}

/// The committed state and a signal of its progress.
#[derive(Debug)]
pub struct Committed {
    state: RwLock<State>,
    progress: watch::Sender<Progress>,
}

impl Committed {
    #[must_use]
    pub fn new(state: State) -> Self {
        Self { state: RwLock::new(state), progress: watch::Sender::new(Progress::default()) }
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
    pub fn watch(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    pub(crate) fn announce(&self, progress: Progress) {
        self.progress.send_replace(progress);
    }
}
