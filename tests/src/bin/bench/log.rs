//! What the log and the inbox say about a run, with the times at which the server stored each message. All processes run on one
//! machine, so their clocks agree.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use async_nats::jetstream::consumer::pull::Config as PullConfig;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy};
use bytes::Bytes;
use causey_protocol::codec::{self, MESSAGE_BYTES_MAX, TURN_BYTES_MAX};
use causey_protocol::flow::StepIndex;
use causey_protocol::record::{ItemSucceeded, Record, Turn};
use causey_protocol::subject;
use causey_protocol::task::{Outcome, Report};
use futures_util::StreamExt as _;

use crate::session::{Place, Session};
use crate::stats::millis_between;

/// A message with the time in microseconds at which the server stored it.
#[derive(Debug)]
struct Stored {
    at: u64,
    subject: String,
    payload: Bytes,
}

/// The messages of `stream` behind `after` up to its present end.
async fn read(session: &Session<'_>, stream: &'static str, after: u64) -> anyhow::Result<Vec<Stored>> {
    let last = session.last(stream).await?;
    let mut found = Vec::new();
    if last <= after {
        return Ok(found);
    }
    let config = PullConfig {
        deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: after + 1 },
        ack_policy: AckPolicy::None,
        memory_storage: true,
        inactive_threshold: Duration::from_secs(30),
        ..PullConfig::default()
    };
    let consumer = session.jetstream.create_consumer_on_stream(config, stream).await?;
    let mut messages = consumer.messages().await?;
    loop {
        let message = messages.next().await.context("the stream ended")??;
        let info = message.info().map_err(|error| anyhow::anyhow!(error.to_string()))?;
        let at = u64::try_from(info.published.unix_timestamp_nanos() / 1_000)?;
        let sequence = info.stream_sequence;
        found.push(Stored { at, subject: message.subject.to_string(), payload: message.payload.clone() });
        if sequence >= last {
            return Ok(found);
        }
    }
}

/// A turn and when it was stored; `turn.at` is when the leader opened it.
#[derive(Debug)]
struct StoredTurn {
    stored: u64,
    turn: Turn,
}

/// One step of a run, in microseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct StepTimes {
    /// The turn that opened its attempt: decided, stored.
    pub(crate) opened: u64,
    pub(crate) opened_stored: u64,
    /// By the worker's clock.
    pub(crate) started: u64,
    pub(crate) ended: u64,
    /// When its report was in the inbox.
    pub(crate) reported: u64,
    /// The turn that accepted the report.
    pub(crate) accepted: u64,
}

/// What the log says about one run.
#[derive(Debug, Default)]
pub(crate) struct Timeline {
    pub(crate) started: u64,
    pub(crate) finished: u64,
    pub(crate) split: u64,
    pub(crate) join: u64,
    pub(crate) turns: usize,
    /// Longest time in milliseconds between two turns about this run.
    pub(crate) longest_gap: f64,
    pub(crate) steps: BTreeMap<StepIndex, StepTimes>,
}

impl Timeline {
    /// Milliseconds from the run's start to its end.
    pub(crate) fn millis(&self) -> f64 {
        millis_between(self.started, self.finished)
    }

    /// Milliseconds from the acceptance of the split to the opening of the join.
    pub(crate) fn fan_millis(&self) -> f64 {
        millis_between(self.split, self.join)
    }
}

/// Reads the timeline of a run whose messages lie behind `place`.
pub(crate) async fn timeline(session: &Session<'_>, place: Place, run: &str) -> anyhow::Result<Timeline> {
    let turns = read(session, subject::LOG_STREAM, place.log).await?;
    let turns = turns.into_iter().map(|stored| Ok(StoredTurn { stored: stored.at, turn: codec::decode(&stored.payload, TURN_BYTES_MAX)? }));
    let turns = turns.collect::<anyhow::Result<Vec<StoredTurn>>>()?;
    let mut timeline = fold(&turns, run);
    for stored in read(session, subject::INBOX_STREAM, place.inbox).await? {
        if !stored.subject.starts_with("causey.in.report.") {
            continue;
        }
        let report: Report = codec::decode(&stored.payload, MESSAGE_BYTES_MAX)?;
        for item in report.items.iter().filter(|item| item.run.to_string() == run && matches!(item.outcome, Outcome::Succeeded(_))) {
            let Outcome::Succeeded(success) = &item.outcome else { continue };
            let same = |step: &&mut StepTimes| step.ended == success.ended.0 && step.started == success.started.0;
            if let Some(step) = timeline.steps.values_mut().find(same) {
                step.reported = stored.at;
            }
        }
    }
    Ok(timeline)
}

fn fold(turns: &[StoredTurn], wanted: &str) -> Timeline {
    let mut timeline = Timeline::default();
    let mut before = None;
    for StoredTurn { stored, turn } in turns {
        let at = turn.at.0;
        let mut about = false;
        for record in turn.records.iter().filter(|record| run_of(record).is_some_and(|run| run == wanted)) {
            about = true;
            match record {
                Record::RunStarted(_) => timeline.started = at,
                Record::RunFinished { .. } => timeline.finished = at,
                Record::ForeachOpened { .. } => timeline.split = at,
                Record::AttemptsOpened { step, .. } => {
                    let times = timeline.steps.entry(*step).or_default();
                    if times.opened == 0 {
                        (times.opened, times.opened_stored) = (at, *stored);
                        // The last step that opens behind the split and before the end's: with four steps that is the join's.
                        timeline.join = if timeline.split > 0 && timeline.steps.len() == 3 { at } else { timeline.join };
                    }
                }
                Record::AttemptSucceeded { step, started, ended, .. } => {
                    let times = timeline.steps.entry(*step).or_default();
                    (times.started, times.ended, times.accepted) = (started.0, ended.0, at);
                }
                Record::AttemptsSucceeded { step, since, items, .. } => {
                    let times = timeline.steps.entry(*step).or_default();
                    if let Some(ItemSucceeded(.., started, ended)) = items.last() {
                        (times.started, times.ended, times.accepted) = (since.0 + started, since.0 + ended, at);
                    }
                }
                _ => {}
            }
        }
        if about {
            timeline.turns += 1;
            timeline.longest_gap = timeline.longest_gap.max(before.map_or(0.0, |before| millis_between(before, at)));
            before = Some(at);
        }
    }
    timeline
}

/// The run that a record is about, where it matters here.
fn run_of(record: &Record) -> Option<String> {
    match record {
        Record::RunStarted(started) => Some(started.run.to_string()),
        Record::RunFinished { run, .. }
        | Record::ForeachOpened { run, .. }
        | Record::AttemptsOpened { run, .. }
        | Record::AttemptStarted { run, .. }
        | Record::AttemptSucceeded { run, .. }
        | Record::AttemptsSucceeded { run, .. }
        | Record::AttemptFailed { run, .. }
        | Record::RetryScheduled { run, .. }
        | Record::ChunkGathered { run, .. }
        | Record::ChunkStored { run, .. }
        | Record::InputsGathered { run, .. }
        | Record::InputsStored { run, .. } => Some(run.to_string()),
        _ => None,
    }
}
