//! Histories of finished runs, read from the artifact store. A few stay in memory, because whoever reads one mostly reads it again.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use causey_artifacts::{Store, StoreError};
use causey_engine::{History, HistoryError};
use causey_protocol::id::RunId;
use causey_protocol::upkeep::history_path;

use crate::outside::Aside;

/// Histories kept in memory, and their size in bytes; one stays whatever its size.
const KEPT: usize = 8;
const KEPT_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Why a history cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    History(#[from] HistoryError),
}

/// Histories read lately, the newest last.
#[derive(Debug, Default)]
pub(crate) struct Histories(Mutex<VecDeque<(RunId, usize, Arc<History>)>>);

impl Histories {
    /// The history of a run, decoded on another thread; `None` if none is stored.
    ///
    /// # Errors
    /// [`Error`] when there is one that cannot be read.
    pub(crate) async fn read(&self, thread: &impl Aside, store: &Store, run: RunId) -> Result<Option<Arc<History>>, Error> {
        if let Some(kept) = self.get(run) {
            return Ok(Some(kept));
        }
        let Some(bytes) = store.get(&history_path(run)).await? else { return Ok(None) };
        let size = bytes.len();
        let history = Arc::new(thread.aside(move || History::read(&bytes)).await?);
        self.keep(run, size, history.clone());
        Ok(Some(history))
    }

    fn get(&self, run: RunId) -> Option<Arc<History>> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().find(|(of, _, _)| *of == run).map(|(_, _, history)| history.clone())
    }

    fn keep(&self, run: RunId, bytes: usize, history: Arc<History>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push_back((run, bytes, history));
        while kept.len() > 1 && (kept.len() > KEPT || kept.iter().map(|(_, bytes, _)| bytes).sum::<usize>() > KEPT_BYTES_MAX) {
            kept.pop_front();
        }
    }
}
