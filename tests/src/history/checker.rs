//! Judges the log turn by turn: its chain, epochs and watermarks, and by its parts what every record says.

use std::collections::{BTreeMap, BTreeSet};

use causey_engine::State;
use causey_protocol::id::Digest;
use causey_protocol::record::{Position, Record};
use causey_protocol::subject;

use super::judge::Judge;
use super::{Entry, Notice};
use crate::bounds::Bounds;
use crate::reports::Reports;

/// Judges a log turn by turn, from its beginning: what it says after each holds for the log so far.
#[derive(Debug)]
pub struct Checker {
    /// The fold, record by record.
    pub state: State,
    judge: Judge,
    previous: Digest,
    watermarks: (u64, u64, Position),
    /// Notifications by their id.
    decided: BTreeMap<String, Position>,
    bounds: Bounds,
    /// To be told of every message of the inbox before a turn is judged that may follow from it.
    pub reports: Reports,
}

impl Checker {
    /// One that knows how the coordinators are configured.
    #[must_use]
    pub fn within(bounds: Bounds) -> Self {
        let (state, judge, previous) = (State::default(), Judge::default(), Digest([0; 32]));
        let (watermarks, decided) = ((0, 0, Position::default()), BTreeMap::new());
        Self { state, judge, previous, watermarks, decided, bounds, reports: Reports::default() }
    }

    /// Judges the next turn.
    pub fn turn(&mut self, entry: &Entry, found: &mut Vec<String>) {
        self.chain(entry, found);
        self.epoch(entry, found);
        self.watermarks(entry, found);
        let Entry { sequence, turn, .. } = entry;
        self.state.sequence = sequence - 1;
        self.state.open_turn(turn.at);
        self.state.epoch = turn.epoch;
        for (index, record) in (0..).zip(&turn.records) {
            self.judge.record(&self.state, record, found);
            self.bounds.record(&self.state, record, found);
            self.reports.record(&self.state, record, found);
            if let Record::Notified { id, .. } = record {
                let position = Position { sequence: *sequence, index };
                if let Some(before) = self.decided.insert(id.to_string(), position) {
                    found.push(format!("I6: notification {id} was decided at {before} and at {position}"));
                }
            }
            self.state.apply(record);
        }
        self.state.cover(turn.inbox, turn.events, turn.announced);
        self.bounds.turn(&self.state, (entry.payload.len(), turn.records.len()), found);
        found.extend(causey_engine::violations(&self.state).into_iter().map(|text| format!("after turn {sequence}: {text}")));
    }

    /// I11: sequences without gaps, every turn behind the hash of the one before.
    fn chain(&mut self, entry: &Entry, found: &mut Vec<String>) {
        let expected = self.state.sequence + 1;
        if entry.sequence != expected {
            found.push(format!("I11: message {} of the log comes as number {expected}", entry.sequence));
        }
        if entry.turn.previous != self.previous {
            found.push(format!("I11: the chain is broken before turn {}", entry.sequence));
        }
        self.previous = Digest::of(&entry.payload);
    }

    /// I7: an epoch begins with its fence, one higher than the last, and nothing older follows.
    fn epoch(&self, entry: &Entry, found: &mut Vec<String>) {
        let expected = if entry.subject == subject::LOG_FENCE { self.state.epoch + 1 } else { self.state.epoch };
        if entry.turn.epoch != expected {
            found.push(format!("I7: turn {} on {} has epoch {}, not {expected}", entry.sequence, entry.subject, entry.turn.epoch));
        }
    }

    /// I1 as far as it shows in the log: watermarks never fall, unless an operator accepted a loss.
    fn watermarks(&mut self, entry: &Entry, found: &mut Vec<String>) {
        let (last, now) = (self.watermarks, (entry.turn.inbox, entry.turn.events, entry.turn.announced));
        let accepted = entry.turn.records.iter().any(|record| matches!(record, Record::LossAccepted { .. }));
        if !accepted && (now.0 < last.0 || now.1 < last.1 || now.2 < last.2) {
            found.push(format!("I1: the watermarks of turn {} fall from {last:?} to {now:?}", entry.sequence));
        }
        self.watermarks = now;
    }

    /// I1: watermarks never pass what was accepted, where inbox and events stream end.
    pub fn ends(&self, inputs: (u64, u64), found: &mut Vec<String>) {
        let last = self.watermarks;
        if last.0 > inputs.0 || last.1 > inputs.1 {
            found.push(format!("I1: watermarks {last:?} pass the streams, which end at {inputs:?}"));
        }
    }

    /// I6: what was decided is announced under its id and place, and nothing else is.
    pub fn notices(&self, notices: &[Notice], found: &mut Vec<String>) {
        for notice in notices {
            let id = notice.event["id"].as_str().unwrap_or_default();
            match self.decided.get(id) {
                None => found.push(format!("I6: {id} was announced but never decided")),
                Some(position) if position.to_string() != notice.position => {
                    found.push(format!("I6: {id} was decided at {position} and announced as {}", notice.position));
                }
                Some(_) => {}
            }
        }
        found.extend(self.unannounced(notices).into_iter().map(|id| format!("I6: {id} was decided but not announced")));
    }

    /// Ids of notifications that were decided and are not among the notices.
    #[must_use]
    pub fn unannounced(&self, notices: &[Notice]) -> Vec<String> {
        let announced: BTreeSet<&str> = notices.iter().filter_map(|notice| notice.event["id"].as_str()).collect();
        self.decided.keys().filter(|id| !announced.contains(id.as_str())).cloned().collect()
    }
}
