//! Looks at everything that is stored in the simulated world, turn by turn, with the checkers that judge real processes too.

use std::collections::{BTreeSet, HashSet};
use std::mem::Discriminant;

use bytes::Bytes;
use causey_artifacts::Memory;
use causey_coordinator::outside::Message;
use causey_engine::State;
use causey_protocol::codec::{self, TURN_BYTES_MAX};
use causey_protocol::id::{Digest, RequestId};
use causey_protocol::input::RequestMessage;
use causey_protocol::record::{Position, Record, Turn};
use causey_protocol::subject::SEQUENCE_HEADER;

use crate::bounds::Bounds;
use crate::history::{self, Checker, Entry, Notice};

/// Finished runs that coordinators keep whole.
pub(crate) const RUNS_WHOLE: u32 = 2;

/// Turns between two states that are kept.
const MARK: usize = 32;

/// The violations shown: one leads to many.
const SHOWN_MAX: usize = 5;

#[derive(Debug)]
pub(crate) struct Judge {
    checker: Checker,
    notices: Vec<Notice>,
    /// Requests whose storing was acknowledged to somebody, and the last event likewise.
    accepted: Vec<RequestId>,
    /// Requests that the log answers: the state forgets them after a while.
    answered: BTreeSet<RequestId>,
    accepted_event: u64,
    turns: Vec<Turn>,
    seen: HashSet<Discriminant<Record>>,
    /// Names of the kinds of records that were seen.
    kinds: BTreeSet<String>,
    /// The fold after each [`MARK`] turns.
    marks: Vec<State>,
    violations: Vec<String>,
    store: Memory,
}

impl Judge {
    pub(crate) fn new(store: Memory) -> Self {
        Self {
            checker: Checker::within(Bounds { runs_whole: RUNS_WHOLE as usize }),
            notices: Vec::new(),
            accepted: Vec::new(),
            answered: BTreeSet::new(),
            accepted_event: 0,
            turns: Vec::new(),
            seen: HashSet::new(),
            kinds: BTreeSet::new(),
            marks: vec![State::default()],
            violations: Vec::new(),
            store,
        }
    }

    pub(crate) fn state(&self) -> &State {
        &self.checker.state
    }

    pub(crate) fn blame(&mut self, what: String) {
        if self.violations.len() < SHOWN_MAX {
            self.violations.push(what);
        }
    }

    pub(crate) fn violations(&self) -> &[String] {
        &self.violations
    }

    /// A turn stands in the log.
    pub(crate) fn turn(&mut self, sequence: u64, subject: &str, payload: &Bytes, inputs: (u64, u64)) {
        let mut found = Vec::new();
        match codec::decode(payload, TURN_BYTES_MAX) {
            Ok(turn) => {
                let entry = Entry { sequence, subject: subject.to_owned(), payload: payload.clone(), turn };
                self.checker.turn(&entry, &mut found);
                self.checker.ends(inputs, &mut found);
                for (index, record) in (0..).zip(&entry.turn.records) {
                    if self.seen.insert(std::mem::discriminant(record)) {
                        let text = format!("{record:?}");
                        self.kinds.insert(text.chars().take_while(char::is_ascii_alphabetic).collect());
                    }
                    if let Record::RequestAnswered { id, .. } = record {
                        self.answered.insert(id.clone());
                    }
                    let position = Position { sequence, index };
                    history::missing_objects(&self.checker.state, position, record, |place| self.store.object(place), &mut found);
                }
                self.turns.push(entry.turn);
                if self.turns.len().is_multiple_of(MARK) {
                    self.marks.push(self.checker.state.clone());
                }
            }
            Err(error) => found.push(format!("turn {sequence} cannot be decoded: {error}")),
        }
        found.into_iter().for_each(|what| self.blame(what));
    }

    /// A message stands in a stream.
    pub(crate) fn stored(&mut self, message: &Message) {
        if message.subject.starts_with("causey.in.") {
            self.checker.reports.stored(&message.subject, &message.payload);
        }
        if message.subject.starts_with("causey.notify.") {
            let position = message.headers.iter().find(|(name, _)| *name == SEQUENCE_HEADER).map(|(_, value)| value.clone());
            let event = serde_json::from_slice(&message.payload).unwrap_or_default();
            self.notices.push(Notice { subject: message.subject.clone(), position: position.unwrap_or_default(), event });
        }
    }

    /// Somebody was told that his request is stored.
    pub(crate) fn accepted(&mut self, request: &RequestMessage) {
        self.accepted.push(request.id.clone());
    }

    /// Somebody was told that his event is stored.
    pub(crate) fn accepted_event(&mut self, sequence: u64) {
        self.accepted_event = self.accepted_event.max(sequence);
    }

    /// What is still to come, in words; nothing when all is over.
    pub(crate) fn waits_for(&self) -> Vec<String> {
        let state = self.state();
        let mut waits: Vec<String> = Vec::new();
        let unanswered = self.accepted.iter().filter(|id| !self.answered.contains(id));
        waits.extend(unanswered.map(|id| format!("request {id}, which was accepted, is not answered (I1)")));
        if state.events < self.accepted_event {
            waits.push(format!("event {} was accepted, but events are read up to {} (I1)", self.accepted_event, state.events));
        }
        for run in state.live_runs() {
            let flow = state.flow_of(run).expect("a live run has its flow");
            let unfinished =
                run.unfinished().map(|(task, found)| format!("{} {:?} attempt {}", task.id(&flow), found.state, found.attempt));
            let unfinished: Vec<String> = unfinished.collect();
            waits.push(format!("run {} of {} goes on (I5): {}", run.id(), flow.definition().name, unfinished.join(", ")));
        }
        waits.extend(self.checker.unannounced(&self.notices).into_iter().map(|id| format!("notification {id} is not announced (I6)")));
        waits
    }

    /// The end: what was announced is what was decided.
    pub(crate) fn close(&mut self) {
        let mut found = Vec::new();
        self.checker.notices(&self.notices, &mut found);
        let (sequence, hash) = (self.turns.len() as u64, self.checker.state.hash());
        self.compare("the fold of single records", sequence, hash);
        found.into_iter().for_each(|what| self.blame(what));
    }

    /// I9: whoever has folded the log up to a sequence has the state that the log says.
    pub(crate) fn compare(&mut self, who: &str, sequence: u64, hash: Digest) {
        if self.hash(sequence).is_some_and(|expected| expected != hash) {
            self.blame(format!("I9: {who} is not the fold of the log at turn {sequence}"));
        }
    }

    /// The hash of the fold of whole turns up to a sequence. Folded again, because few are asked for and each costs more than the fold.
    fn hash(&self, sequence: u64) -> Option<Digest> {
        let count = usize::try_from(sequence).ok().filter(|count| (1..=self.turns.len()).contains(count))?;
        let mark = (count / MARK).min(self.marks.len() - 1);
        let mut state = self.marks[mark].clone();
        for (sequence, turn) in (1..).zip(&self.turns[..count]).skip(mark * MARK) {
            state.apply_turn(sequence, turn);
        }
        Some(state.hash())
    }

    pub(crate) fn kinds(&self) -> &BTreeSet<String> {
        &self.kinds
    }

    pub(crate) fn turns(&self) -> usize {
        self.turns.len()
    }
}
