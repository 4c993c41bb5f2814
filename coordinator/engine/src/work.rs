//! Work lists: an input with larger effects than fit a turn is accepted with what is left of it in the state, and decided piece by piece
//! before anything else is. Each piece is decided alike in whichever turn it comes, and by whoever leads then.

use causey_protocol::codec;
use causey_protocol::event::CloudEvent;
use causey_protocol::id::{FlowName, PoolName, WorkerName};
use causey_protocol::record::{Record, Work};
use serde::{Deserialize, Serialize};

use crate::engine::Decider;
use crate::hold::PIECE_RECORDS;
use crate::state::State;

/// A piece of work takes no more once its records have this many bytes.
const PIECE_BYTES: usize = 128 * 1024;

/// Attempts of a lost worker closed in one piece: each may end a run, or open an attempt.
const LOST_MAX: usize = 100;

/// A place in a trigger: flow, trigger, event in it.
pub(crate) type TriggerPlace = (FlowName, u16, u16);

/// Accepted work, and how far it has come.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Accepted {
    pub work: Work,
    /// Of an event, where to go on.
    pub next: Option<TriggerPlace>,
    /// Triggers it matched so far, and those that had run for it before.
    pub matches: u32,
    pub duplicates: u32,
}

impl State {
    pub(crate) fn accept_work(&mut self, work: &Work) {
        let accepted = Accepted { work: work.clone(), next: None, matches: 0, duplicates: 0 };
        self.work.insert(self.records, accepted);
    }

    /// Whether an event has been accepted and not pulled all its triggers.
    #[must_use]
    pub fn is_spreading(&self, sequence: u64) -> bool {
        self.work_of_event(sequence).is_some()
    }

    /// The accepted work of an event.
    pub(crate) fn work_of_event(&self, sequence: u64) -> Option<u64> {
        let is_it = |accepted: &Accepted| matches!(&accepted.work, Work::Event { sequence: of, .. } if *of == sequence);
        self.work.iter().find(|(_, accepted)| is_it(accepted)).map(|(id, _)| *id)
    }
}

/// How much a piece may still hold; what it holds is measured once.
#[derive(Debug, Default)]
pub(crate) struct Measure {
    records: usize,
    bytes: usize,
}

impl Measure {
    /// Whether what has been decided fills a piece.
    pub(crate) fn is_full(&mut self, records: &[Record]) -> bool {
        for record in &records[self.records..] {
            self.bytes += codec::encode(record).len();
        }
        self.records = records.len();
        self.records >= PIECE_RECORDS || self.bytes >= PIECE_BYTES
    }
}

impl Decider<'_> {
    /// Decides the next piece of what has been accepted.
    pub(crate) fn next_piece(&mut self) {
        let Some((id, Accepted { work, next, .. })) = self.state.work.first().map(|(id, accepted)| (*id, accepted.clone())) else { return };
        match work {
            Work::Event { sequence, source, cloud_event } => match CloudEvent::from_structured(cloud_event) {
                Ok(event) => self.pull_triggers(sequence, &source, &event, next.as_ref()),
                // What was read once reads again; else it ends here.
                Err(problem) => self.emit(Record::EventTaken {
                    sequence,
                    source: source.to_string(),
                    id: String::new(),
                    started: Vec::new(),
                    because: vec![problem.message],
                    duplicate: false,
                }),
            },
            Work::WorkerLost { pool, worker } => {
                if !self.close_lost(&pool, &worker) {
                    self.emit(Record::WorkDone { work: id });
                }
            }
        }
    }

    pub(crate) fn worker_lost(&mut self, pool: &PoolName, worker: &WorkerName) {
        if self.close_lost(pool, worker) {
            self.emit(Record::WorkAccepted(Box::new(Work::WorkerLost { pool: pool.clone(), worker: worker.clone() })));
        }
    }

    /// Closes attempts that a lost worker of the pool held; returns whether there are more.
    fn close_lost(&mut self, pool: &PoolName, worker: &WorkerName) -> bool {
        let held = self.state.held_by(pool, worker, LOST_MAX + 1);
        let (mut measure, many) = (Measure::default(), held.len());
        for (done, (run, task)) in held.into_iter().enumerate() {
            if done == LOST_MAX || measure.is_full(self.records()) {
                return true;
            }
            let Some(found) = self.state.run(run).and_then(|run| run.task(&task)).filter(|task| task.state.is_open()) else { continue };
            let (attempt, started, cause) = (found.attempt, found.started.unwrap_or(found.opened), self.loss(run, &task));
            self.close(run, &task, attempt, Some(worker.clone()), &cause, (started, self.now()));
        }
        many > LOST_MAX
    }
}
