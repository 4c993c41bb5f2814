//! Runs wherever they are: whole in the committed state, or as a history in the artifact store, of which the state keeps an entry in
//! its index. Callers see no difference.

use std::sync::Arc;

use causey_engine::{History, RetiredRun, Run, State};
use causey_protocol::flow::Flow;
use causey_protocol::id::{FlowName, RunId};
use causey_protocol::record::RunState;

use super::context::{Shared, find_run, not_found, run_and_flow};
use super::refusal::Refusal;
use super::run_view::{self, RunView};
use crate::jetstream::Threads;

impl Shared {
    /// Looks at the run that `text` names or is the id of; `look` also gets the log sequence that the answer reflects.
    pub(super) async fn with_run<T>(&self, text: &str, look: impl FnOnce(u64, &Run, &Arc<Flow>) -> T) -> Result<T, Refusal> {
        let (id, sequence) = {
            let state = self.read();
            let found = find_run(&state, text);
            if let Ok(id) = found
                && let Ok((run, flow)) = run_and_flow(&state, id)
            {
                return Ok(look(state.sequence, run, &flow));
            }
            // What has dropped out of the index is still in the store under its id.
            let id = found.or_else(|refusal| text.parse::<RunId>().map_err(|_| refusal))?;
            (id, state.sequence)
        };
        let history = self.history(id).await?;
        Ok(look(sequence, &history.run, &history.flow))
    }

    async fn history(&self, run: RunId) -> Result<Arc<History>, Refusal> {
        let read = self.histories.read(&Threads, &self.api.store, run).await;
        let found = read.map_err(|error| Refusal::store(&format!("read the history of run {run}"), &error))?;
        found.ok_or_else(|| not_found(format!("no run `{run}`"), "list the runs: causey runs"))
    }

    /// The view of a listed run, read from its history where the index has too little.
    pub(super) async fn complete(&self, listed: Listed) -> Result<RunView, Refusal> {
        match listed {
            Listed::Seen(view) => Ok(*view),
            Listed::Stored(run) => self.with_run(&run.to_string(), |_, run, flow| run_view::summary(run, flow)).await,
        }
    }
}

/// A run in a list.
#[derive(Debug)]
pub(super) enum Listed {
    Seen(Box<RunView>),
    /// Only its history has everything a list shows.
    Stored(RunId),
}

/// A run as far as the state knows it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Known<'a> {
    Whole(&'a Run),
    Retired(RunId, &'a RetiredRun),
}

impl Known<'_> {
    fn id(&self) -> RunId {
        match self {
            Self::Whole(run) => run.id(),
            Self::Retired(id, _) => *id,
        }
    }

    pub(super) fn state(&self) -> RunState {
        match self {
            Self::Whole(run) => run.state,
            Self::Retired(_, run) => run.state,
        }
    }

    pub(super) fn flow(&self, state: &State) -> Option<FlowName> {
        match self {
            Self::Whole(run) => state.flow_of(run).map(|flow| flow.definition().name.clone()),
            Self::Retired(_, run) => Some(run.flow.clone()),
        }
    }

    /// The run as a list shows it; of one that has not ended `stuck` says what it waits for.
    pub(super) fn listed(&self, state: &State, stuck: &mut impl FnMut(&Run) -> Option<String>) -> Option<Listed> {
        match self {
            Self::Whole(run) => {
                let summary = run_view::summary(run, &*state.flow_of(run)?);
                let stuck = if run.state.is_terminal() { None } else { stuck(run) };
                Some(Listed::Seen(Box::new(summary.waiting(run_view::waits(state, run.id())).stuck(stuck))))
            }
            Self::Retired(id, run) => Some(run_view::retired(*id, run).map_or(Listed::Stored(*id), |view| Listed::Seen(Box::new(view)))),
        }
    }
}

/// All runs that the state knows, the newest first: run ids grow with time.
pub(super) fn newest(state: &State) -> impl Iterator<Item = Known<'_>> {
    let mut whole = state.runs.values().rev().map(|run| Known::Whole(run)).peekable();
    let mut retired = state.retired.iter().rev().map(|(id, run)| Known::Retired(*id, run)).peekable();
    std::iter::from_fn(move || match (whole.peek(), retired.peek()) {
        (Some(a), Some(b)) if a.id() < b.id() => retired.next(),
        (Some(_), _) => whole.next(),
        (None, _) => retired.next(),
    })
}
