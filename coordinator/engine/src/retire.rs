//! Finished runs leave the state: first their history is stored as one immutable object, then, when newer ones have finished, only an
//! entry in an index is kept. The index is bounded too; what drops out of it is still in the artifact store under its id.

use std::sync::Arc;

use causey_protocol::flow::Flow;
use causey_protocol::id::{Digest, FlowName, RunId, RunName, Timestamp};
use causey_protocol::parameter::Values;
use causey_protocol::problem::Problem;
use causey_protocol::record::{Cause, Record, Resumption, RunState};
use causey_protocol::share::Standing;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::engine::Decider;
use crate::hold::PIECE_RECORDS;
use crate::run::Run;
use crate::state::{ModelVersion, State};
use crate::tasks::{Group, GroupKey};

/// Tasks of finished runs that stay whole in the state, in sum.
const WHOLE_TASKS_MAX: u64 = 100_000;

/// Entries in the index of finished runs.
pub(crate) const RETIRED_MAX: usize = 20_000;

/// Parameters and cause are kept in the index up to this size, in bytes; larger ones are read from the history.
const DETAILS_BYTES_MAX: usize = 2 * 1024;

/// The first byte of every history; another one means another format.
const FORMAT: u8 = 1;

/// A finished run as the index keeps it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RetiredRun {
    pub name: RunName,
    pub flow: FlowName,
    pub version: Option<u32>,
    pub state: RunState,
    pub user: String,
    pub tags: Vec<String>,
    #[serde(default, skip_serializing_if = "Standing::is_ordinary")]
    pub standing: Standing,
    pub created: Timestamp,
    pub started: Option<Timestamp>,
    pub finished: Option<Timestamp>,
    pub problem: Option<Problem>,
    /// Tasks by state, in the order of [`TaskState::ALL`](crate::TaskState::ALL).
    pub counts: [u32; 7],
    /// Tasks whose result was taken from another run.
    #[serde(default)]
    pub reused: u64,
    /// Parameters and cause, where they are small; events without their data.
    pub details: Option<(Values, Cause)>,
    /// BLAKE3 and size of the stored history.
    pub digest: Digest,
    pub bytes: u64,
}

impl RetiredRun {
    pub(crate) fn new(run: &Run, flow: &Flow, (digest, bytes): (Digest, u64)) -> Self {
        let mut counts = [0; 7];
        for step in &run.steps {
            for (sum, count) in counts.iter_mut().zip(&step.counts) {
                *sum += count;
            }
        }
        let details = (run.start.parameters.clone(), without_data(&run.start.cause));
        let size = rmp_serde::to_vec_named(&details).map_or(usize::MAX, |encoded| encoded.len());
        Self {
            name: run.start.name.clone(),
            flow: flow.definition().name.clone(),
            version: run.start.version,
            state: run.state,
            user: run.start.user.clone(),
            tags: run.start.tags.clone(),
            standing: run.start.standing,
            created: run.created,
            started: run.first_started,
            finished: run.finished,
            problem: run.problem.clone(),
            counts,
            reused: run.reused(),
            details: (size <= DETAILS_BYTES_MAX).then_some(details),
            digest,
            bytes,
        }
    }
}

/// What identifies events, without what they carry.
fn without_data(cause: &Cause) -> Cause {
    let identity = |event: &Value| {
        let kept = ["id", "source", "type", "subject"].iter();
        Value::Object(kept.filter_map(|name| Some(((*name).to_owned(), event.get(*name)?.clone()))).collect::<Map<_, _>>())
    };
    match cause {
        Cause::Event { trigger, events } => Cause::Event { trigger: *trigger, events: events.iter().map(identity).collect() },
        Cause::Resume { id, earlier } => {
            let events = earlier.events.iter().map(identity).collect();
            Cause::Resume { id: id.clone(), earlier: Box::new(Resumption { events, ..(**earlier).clone() }) }
        }
        Cause::Request { .. } | Cause::Schedule { .. } | Cause::Backfill { .. } | Cause::Parent(_) => cause.clone(),
    }
}

/// Everything about a finished run, with the flow it was pinned to.
#[derive(Clone, Debug, PartialEq)]
pub struct History {
    pub run: Arc<Run>,
    pub flow: Arc<Flow>,
    pub published: Vec<ModelVersion>,
}

/// A history as it is stored.
#[derive(Serialize, Deserialize)]
struct Packed {
    run: Arc<Run>,
    /// A run is encoded without its tasks.
    tasks: Vec<(GroupKey, Arc<Group>)>,
    flow: Arc<Flow>,
    published: Vec<ModelVersion>,
}

/// Why bytes are not a history.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    #[error("the history does not match its checksum")]
    Damaged,
    #[error("the history has format {found}; this version reads {FORMAT}")]
    Format { found: u8 },
    #[error("the history cannot be decoded")]
    Decode(#[source] rmp_serde::decode::Error),
}

impl History {
    /// The object to store: format, MessagePack, BLAKE3 of all that. Equal histories have equal bytes.
    ///
    /// # Panics
    /// Never: a history has a MessagePack form.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![FORMAT];
        let tasks = self.run.tasks.groups().map(|(key, group)| (key.clone(), group.clone())).collect();
        let packed = Packed { run: self.run.clone(), tasks, flow: self.flow.clone(), published: self.published.clone() };
        rmp_serde::encode::write_named(&mut bytes, &packed).expect("a history serializes");
        let digest = Digest::of(&bytes);
        bytes.extend_from_slice(&digest.0);
        bytes
    }

    /// Reads what [`History::encode`] gave.
    ///
    /// # Errors
    /// [`HistoryError`] for any other bytes.
    pub fn read(bytes: &[u8]) -> Result<Self, HistoryError> {
        let (body, digest) = bytes.split_last_chunk::<32>().ok_or(HistoryError::Damaged)?;
        if Digest::of(body).0 != *digest {
            return Err(HistoryError::Damaged);
        }
        match body.split_first() {
            Some((&FORMAT, packed)) => {
                let Packed { mut run, tasks, flow, published } = rmp_serde::from_slice(packed).map_err(HistoryError::Decode)?;
                for (key, group) in tasks {
                    Arc::make_mut(&mut run).tasks.restore(key, Arc::unwrap_or_clone(group));
                }
                Ok(Self { run, flow, published })
            }
            Some((&found, _)) => Err(HistoryError::Format { found }),
            None => Err(HistoryError::Damaged),
        }
    }
}

impl State {
    /// Finished runs whose history is not stored yet, oldest first: storing it is asked for until a record says it was done.
    pub fn unstored_runs(&self) -> impl Iterator<Item = RunId> + '_ {
        self.index_by.unstored.iter().copied()
    }

    /// The history of a finished run; `None` for any other.
    #[must_use]
    pub fn history(&self, run: RunId) -> Option<History> {
        let found = self.runs.get(&run).filter(|run| run.state.is_terminal())?;
        let published = self.models.values().flatten().filter(|version| version.run == run).cloned().collect();
        Some(History { run: found.clone(), flow: self.flow_of(found)?, published })
    }

    /// The name of a run, also of a retired one.
    #[must_use]
    pub fn name_of(&self, run: RunId) -> Option<&RunName> {
        let whole = self.runs.get(&run).map(|run| &run.start.name);
        whole.or_else(|| self.retired.get(&run).map(|run| &run.name))
    }

    /// The flow of a run, also of a retired one.
    #[must_use]
    pub fn flow_name_of(&self, run: RunId) -> Option<FlowName> {
        let whole = self.runs.get(&run).and_then(|run| self.flow_of(run)).map(|flow| flow.definition().name.clone());
        whole.or_else(|| self.retired.get(&run).map(|run| run.flow.clone()))
    }

    /// The finished run that has to make room next, when more than `keep` are whole or they have too many tasks.
    fn to_retire(&self, keep: u32) -> Option<RunId> {
        let stored = &self.index_by.stored;
        let crowded = stored.len() > keep as usize || self.index_by.stored_tasks > WHOLE_TASKS_MAX;
        stored.first().filter(|_| crowded).map(|(_, run)| *run)
    }

    pub(crate) fn history_stored(&mut self, run: RunId, stored: (Digest, u64)) {
        let Some(found) = self.runs.get(&run) else { return };
        self.index_by.unstored.remove(&run);
        if self.index_by.stored.insert((found.finished.unwrap_or_default(), run)) {
            self.index_by.stored_tasks += tasks(found);
        }
        self.histories.insert(run, stored);
    }

    pub(crate) fn retire(&mut self, id: RunId) {
        let Some(stored) = self.histories.remove(&id) else { return };
        let Some((run, flow)) = self.runs.get(&id).and_then(|run| Some((run, self.flow_of(run)?))) else { return };
        let entry = RetiredRun::new(run, &flow, stored);
        let (definition, deployed, at, count) =
            (run.start.definition, run.start.version.is_some(), run.finished.unwrap_or_default(), tasks(run));
        self.removed.extend(run.tasks.groups().map(|(key, _)| (id, key.clone())));
        self.runs.remove(&id);
        if self.index_by.stored.remove(&(at, id)) {
            self.index_by.stored_tasks -= count;
        }
        self.retired.insert(id, entry);
        while self.retired.len() > RETIRED_MAX {
            let Some((oldest, name)) = self.retired.first().map(|(run, entry)| (*run, entry.name.clone())) else { break };
            self.retired.remove(&oldest);
            self.index_by.names.remove(&name);
        }
        // A definition that came with a run goes with the last run that has it; its history has a copy.
        let uses = self.index_by.uses.entry(definition).or_default();
        *uses = uses.saturating_sub(1);
        if *uses == 0 {
            self.index_by.uses.remove(&definition);
            if !deployed && self.deployments.values().all(|deployment| deployment.definition != definition) {
                self.definitions.remove(&definition);
            }
        }
    }
}

/// How many tasks a run has.
pub(crate) fn tasks(run: &Run) -> u64 {
    run.steps.iter().flat_map(|step| step.counts).map(u64::from).sum()
}

impl Decider<'_> {
    pub(crate) fn history_stored(&mut self, run: RunId, digest: Digest, bytes: u64, keep: u32) {
        if !self.state.index_by.unstored.contains(&run) {
            return self.ignore(format!("no history of run {run} is waited for"));
        }
        self.emit(Record::HistoryStored { run, digest, bytes });
        // The rest, where there is much, with the histories that follow.
        while self.records().len() < PIECE_RECORDS
            && let Some(run) = self.state.to_retire(keep)
        {
            self.emit(Record::RunRetired { run });
        }
    }
}
