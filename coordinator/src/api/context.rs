//! What all handlers share, and how they look into the committed state.

use std::net::SocketAddr;
use std::sync::{Arc, RwLockReadGuard};

use causey_engine::{Run, State};
use causey_protocol::flow::Flow;
use causey_protocol::id::{RunId, RunName};
use causey_protocol::problem::{Code, Problem};
use tokio::sync::Semaphore;

use crate::histories::Histories;

use super::Api;
use super::live::Hub;
use super::packages::UPLOADS_MAX;
use super::refusal::Refusal;

/// What handlers take as their axum state.
pub(super) type Context = Arc<Shared>;

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) api: Api,
    /// Hash of the token: hashes are compared in constant time.
    pub(super) token: blake3::Hash,
    /// Where we listen.
    pub(super) listen: SocketAddr,
    /// Bounds the memory of package uploads.
    pub(super) uploads: Semaphore,
    pub(super) live: Hub,
    pub(super) histories: Histories,
}

impl Shared {
    pub(super) fn new(api: Api, listen: SocketAddr) -> Self {
        let token = blake3::hash(api.token.as_bytes());
        Self { api, token, listen, uploads: Semaphore::new(UPLOADS_MAX), live: Hub::default(), histories: Histories::default() }
    }

    /// The committed state; drop the guard before awaiting anything.
    pub(super) fn read(&self) -> RwLockReadGuard<'_, State> {
        self.api.committed.read()
    }
}

/// The id of the run that `text` names or is the id of.
pub(super) fn find_run(state: &State, text: &str) -> Result<RunId, Refusal> {
    let by_id = text.parse::<RunId>().ok().filter(|run| state.name_of(*run).is_some());
    let by_name = || RunName::new(text).ok().and_then(|name| state.run_named(&name));
    let shown: String = text.chars().take(100).collect();
    by_id.or_else(by_name).ok_or_else(|| not_found(format!("no run `{shown}`"), "list the runs: causey runs"))
}

/// A run that is whole in the state, and the flow it is pinned to.
pub(super) fn run_and_flow(state: &State, run: RunId) -> Result<(&Run, Arc<Flow>), Refusal> {
    let found = state.run(run).and_then(|found| Some((found, state.flow_of(found)?)));
    found.ok_or_else(|| not_found(format!("no run {run}"), "list the runs: causey runs"))
}

pub(super) fn not_found(what: impl Into<String>, hint: &str) -> Refusal {
    Refusal::from(Problem::new(Code::NOT_FOUND, what).hint(hint))
}
