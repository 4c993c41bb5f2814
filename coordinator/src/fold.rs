//! The committed fold with its place in the log and its copy on disk: what a coordinator has whether it leads or follows. It does
//! not know who wrote the turns.

use std::sync::Arc;

use causey_engine::State;
use causey_protocol::record::Turn;
use tokio::time::Instant;

use crate::committed::{Committed, Progress};
use crate::config::{PROJECTION_CHANGES_MAX, PROJECTION_LAG};
use crate::log::Tail;
use crate::projection::{Checkpoint, Projection};

#[derive(Debug)]
pub(crate) struct Fold {
    pub(crate) committed: Arc<Committed>,
    /// The last turn that the committed state holds.
    pub(crate) tail: Tail,
    projection: Projection,
    /// When the projection shall follow.
    pub(crate) due: Option<Instant>,
}

impl Fold {
    pub(crate) fn new(committed: Arc<Committed>, tail: Tail, projection: Projection) -> Self {
        Self { committed, tail, projection, due: None }
    }

    /// Goes on from another state than the projection has, which begins anew with it.
    pub(crate) fn begin(&mut self, state: State, tail: Tail) {
        self.projection.store(Checkpoint::whole(&state, tail));
        *self.committed.write() = state;
        self.tail = tail;
    }

    /// Folds a turn. Readers are told of it by [`Fold::announce`].
    pub(crate) fn apply(&mut self, tail: Tail, turn: &Turn) {
        self.committed.write().apply_turn(tail.sequence, turn);
        self.tail = tail;
    }

    /// Tells readers how far the fold has come, and sees to its copy.
    pub(crate) fn announce(&mut self) {
        let (progress, changes) = {
            let state = self.committed.read();
            (Progress { sequence: state.sequence, inbox: state.inbox, events: state.events }, state.changes_len())
        };
        self.committed.announce(progress);
        if changes >= PROJECTION_CHANGES_MAX && !self.projection.is_behind() {
            self.checkpoint();
        } else {
            self.due.get_or_insert_with(|| Instant::now() + PROJECTION_LAG);
        }
    }

    /// The projection's time to follow has come; it is put off while what it was told before is not written.
    pub(crate) fn follow(&mut self) {
        if self.projection.is_behind() {
            self.due = Some(Instant::now() + PROJECTION_LAG);
        } else {
            self.checkpoint();
        }
    }

    /// Hands the projection what changed since it was last told.
    fn checkpoint(&mut self) {
        self.due = None;
        let (header, changes) = {
            let mut state = self.committed.write();
            (state.header(), state.take_changes())
        };
        self.projection.store(Checkpoint { tail: self.tail, header, changes, whole: false });
    }

    /// Writes the copy to its end. For the end of the process.
    pub(crate) fn close(&mut self) {
        self.checkpoint();
        self.projection.close();
    }
}
