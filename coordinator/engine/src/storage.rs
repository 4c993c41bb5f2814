//! What is decided while the streams are nearly full or there are too many runs: new runs are refused, and attempts wait until there is
//! room again.

use causey_protocol::problem::{Code, Problem};
use causey_protocol::record::Record;
use causey_protocol::share::RUNS_MAX;
use causey_protocol::upkeep::{Storage, StorageLevel};

use crate::engine::Decider;
use crate::state::State;

impl State {
    /// Why no new run is accepted at present; `None` while there is room.
    #[must_use]
    pub fn refuses_runs(&self) -> Option<Problem> {
        self.storage_problem().or_else(|| self.crowd_problem())
    }

    /// Why nothing new is accepted at present; `None` while there is room.
    #[must_use]
    pub fn storage_problem(&self) -> Option<Problem> {
        let Storage { level, stream, percent } = &self.storage;
        let what = match level {
            StorageLevel::Ample => return None,
            StorageLevel::Scarce => "no new runs and events are accepted",
            StorageLevel::Critical => "no new runs and events are accepted, and no task is started",
        };
        let problem = Problem::new(Code::STORAGE_FULL, format!("stream {stream} is {percent} % full: {what}"));
        Some(problem.hint("it is taken up again by itself once there is room; give the stream a larger cap or the server more disk"))
    }

    /// Why there are too many runs for another one.
    fn crowd_problem(&self) -> Option<Problem> {
        let max = self.shares.runs_max.unwrap_or(RUNS_MAX);
        let problem = || Problem::new(Code::CROWDED, format!("{max} runs have not ended, and no more are accepted"));
        (self.live() >= max as usize)
            .then(|| problem().hint("try again once some have ended, or start the coordinator with a larger --runs-max"))
    }
}

impl Decider<'_> {
    pub(crate) fn pressure(&mut self, storage: Storage) {
        if storage.level == self.state.storage.level {
            return self.ignore("the fill of the streams is at the level that is known");
        }
        self.emit(Record::StorageChanged(storage));
    }
}
