//! The fold: what each record changes. It only folds what was decided and never fails on it.

use std::sync::Arc;

use causey_protocol::artifact::ObjectRef;
use causey_protocol::flow::Flow;
use causey_protocol::id::RunId;
use causey_protocol::record::{Cause, Position, Record, RunStarted};
use causey_protocol::subject;

use super::{Deployment, ModelVersion, Notification, State};
use crate::run::{Run, TaskRef};
use crate::schedule::Fired;

/// Most reasons kept of why an event started nothing.
const REASONS_MAX: usize = 1_000;

/// Snapshots that are kept.
const SNAPSHOTS_KEPT: usize = 2;

impl State {
    /// Folds one record. Total: a record that does not fit the state changes nothing (only a damaged log could hold one).
    pub fn apply(&mut self, record: &Record) {
        let position = Position { sequence: self.sequence, index: self.index };
        self.index += 1;
        self.records += 1;
        match record {
            Record::LogOpened { store } => self.store = Some(*store),
            Record::LeaderChanged { .. } | Record::Ignored { .. } => {}
            Record::RequestAnswered { id, answer } => {
                self.index_by.requests.insert((self.at, id.clone()));
                self.requests.insert(id.clone(), (self.at, answer.clone()));
            }
            Record::FlowRegistered { digest, flow } => self.definitions.insert(*digest, Arc::new((**flow).clone())),
            Record::FlowDeployed { flow, version, definition, user } => {
                let deployment = Deployment { version: *version, definition: *definition, user: user.clone(), at: self.at };
                self.deployments.insert(flow.clone(), deployment);
                if let Some(definition) = self.definitions.get(definition).cloned() {
                    self.set_schedules(flow, &definition);
                }
            }
            Record::EventTaken { sequence, source, id, started, because, duplicate } => {
                self.note_event(*sequence, started, because);
                if let Some(outcome) = self.events_taken.get_mut(sequence) {
                    (outcome.source, outcome.id, outcome.duplicate) = (source.clone(), id.clone(), *duplicate);
                }
                if let Some(work) = self.work.first().and_then(|_| self.work_of_event(*sequence)) {
                    self.work.remove(&work);
                }
            }
            Record::EventSpread { sequence, next, started, because, duplicates } => {
                self.note_event(*sequence, started, because);
                let matches = u32::try_from(started.len() + because.len()).unwrap_or(u32::MAX);
                if let Some(accepted) = self.work_of_event(*sequence).and_then(|work| self.work.get_mut(&work)) {
                    accepted.next = Some(next.clone());
                    accepted.matches = accepted.matches.saturating_add(matches);
                    accepted.duplicates = accepted.duplicates.saturating_add(*duplicates);
                }
            }
            Record::WorkAccepted(work) => self.accept_work(work),
            Record::WorkDone { work } => drop(self.work.remove(work)),
            Record::PoolResized { pool, slots } => {
                self.pools.insert(pool.clone(), *slots);
                self.rebuild_lines();
            }
            Record::PoolOffered { pool, shapes } => self.offer_pool(pool, shapes),
            Record::WorkersOrdered { pool, worker, order, .. } => self.order_workers(pool, worker.as_ref(), *order),
            Record::SharesChanged(shares) => {
                self.shares.clone_from(shares);
                self.rebuild_lines();
            }
            Record::EventHeld { flow, trigger, event, origin, cloud_event } => {
                let key = (flow.clone(), *trigger);
                let mut held = self.held.get(&key).cloned().unwrap_or_default();
                held.events.insert(*event, (*origin, cloud_event.clone()));
                held.since.insert(*event, self.at);
                self.held.insert(key, held);
            }
            Record::RunStarted(start) => self.start_run(start, position),
            Record::DeadLettered(letter) => self.keep_letter(position, (**letter).clone()),
            Record::DeadLetterClosed { letter, .. } => {
                self.dead_letters.remove(letter);
            }
            Record::StreamsSeen { created } => self.streams.clone_from(created),
            Record::SnapshotTaken(snapshot) => {
                self.snapshots.insert(snapshot.sequence, (**snapshot).clone());
                while self.snapshots.len() > SNAPSHOTS_KEPT {
                    let Some(oldest) = self.snapshots.first().map(|(sequence, _)| *sequence) else { break };
                    self.snapshots.remove(&oldest);
                }
            }
            Record::HistoryStored { run, digest, bytes } => self.history_stored(*run, (*digest, *bytes)),
            Record::RunRetired { run } => self.retire(*run),
            Record::StorageChanged(storage) => self.storage.clone_from(storage),
            Record::AttemptsHeld { run, step, tasks, attempt, retry } => self.hold(*run, *step, tasks, *attempt, *retry),
            Record::ResultsRemembered { run, step, results } => self.remember(*run, *step, results),
            Record::ResultsForgotten { keys } => self.forget_remembered(keys),
            Record::LossAccepted { stream, .. } => self.forget_stream(stream),
            Record::StartSkipped { flow, origin, joined, trigger, because } => {
                if let Some(trigger) = trigger {
                    self.held.remove(&(flow.clone(), *trigger));
                }
                for origin in std::iter::once(origin).chain(joined) {
                    self.index_by.origins.insert((self.at, *origin));
                    self.skipped.insert(*origin, (self.at, because.clone()));
                }
            }
            Record::ScheduleFired { flow, schedule, instant, missed, run, because } => {
                let (at, because) = (self.at, because.clone());
                self.schedule_fired(flow, schedule, Fired { instant: *instant, at, missed: *missed, run: *run, because });
            }
            Record::SchedulesPaused { flow, user } => self.pause_schedules(flow, Some((user.clone(), self.at))),
            Record::SchedulesResumed { flow, .. } => self.pause_schedules(flow, None),
            Record::BackfillStarted(started) => self.start_backfill(started),
            Record::BackfillAdvanced { backfill, instant, run, because } => {
                self.advance_backfill(backfill, *instant, *run, because.as_deref());
            }
            Record::BackfillCancelled { backfill, because } => self.stop_backfill(backfill, because),
            Record::ModelPublished(published) => {
                let Some((run, flow)) = self.run_and_flow(published.run) else { return };
                let step = flow.step(published.step).name.to_string();
                let task = TaskRef::new(published.step, published.path.clone(), published.visit).id(&flow);
                let object =
                    ObjectRef { run: run.id(), key: task.key(published.attempt), digest: published.digest, bytes: published.bytes };
                let version = ModelVersion {
                    version: published.version,
                    at: self.at,
                    run: published.run,
                    step,
                    object,
                    publication: published.publication.clone(),
                };
                let mut versions = self.models.get(published.name()).cloned().unwrap_or_default();
                versions.push(version);
                self.models.insert(published.name().clone(), versions);
            }
            Record::Notified { id, topic, name, run: _, data } => {
                let notification = Notification { id: *id, topic: *topic, name: name.clone(), at: self.at, data: data.clone() };
                self.notifications.insert(position, notification);
            }
            Record::AttemptsOpened { run, .. }
            | Record::AttemptStarted { run, .. }
            | Record::AttemptSucceeded { run, .. }
            | Record::AttemptsSucceeded { run, .. }
            | Record::AttemptFailed { run, .. }
            | Record::RetryScheduled { run, .. }
            | Record::SwitchTaken { run, .. }
            | Record::ForeachOpened { run, .. }
            | Record::ChunkGathered { run, .. }
            | Record::ChunkStored { run, .. }
            | Record::ResultsSought { run, .. }
            | Record::ResultsReused { run, .. }
            | Record::ChunkReused { run, .. }
            | Record::InputsGathered { run, .. }
            | Record::InputsStored { run, .. }
            | Record::RunAdmitted { run }
            | Record::TasksGated { run, .. }
            | Record::SignalReceived { run, .. }
            | Record::ApprovalRequested { run, .. }
            | Record::ApprovalDecided { run, .. }
            | Record::ChildEnded { run, .. }
            | Record::StatusSet { run, .. }
            | Record::AttemptUsed { run, .. }
            | Record::RunFinished { run, .. } => self.apply_to_run(*run, record),
            Record::GangOpened { run, .. }
            | Record::GangMoved { run, .. }
            | Record::GangCalled { run, .. }
            | Record::MemberJoined { run, .. }
            | Record::GangFormed { run, .. }
            | Record::MemberSucceeded { run, .. }
            | Record::GangDissolved { run, .. } => self.apply_to_gang(*run, record),
        }
    }

    /// Adds to what came of an event.
    fn note_event(&mut self, sequence: u64, started: &[RunId], because: &[String]) {
        let mut outcome = self.events_taken.get(&sequence).cloned().unwrap_or_default();
        outcome.at = self.at;
        outcome.started.extend(started);
        let room = REASONS_MAX.saturating_sub(outcome.because.len());
        outcome.because.extend(because.iter().take(room).cloned());
        self.events_taken.insert(sequence, outcome);
    }

    /// An input stream is read on as another one: what was known of the old one no longer says what may be removed.
    fn forget_stream(&mut self, stream: &str) {
        self.streams.remove(stream);
        let sequences: Vec<u64> = self.snapshots.keys().copied().collect();
        for sequence in sequences {
            let Some(snapshot) = self.snapshots.get_mut(&sequence) else { continue };
            match stream {
                subject::INBOX_STREAM => snapshot.inbox = 0,
                subject::EVENT_STREAM => snapshot.events = 0,
                _ => {}
            }
        }
    }

    fn run_and_flow(&self, run: RunId) -> Option<(&Run, Arc<Flow>)> {
        let run = self.run(run)?;
        Some((run, self.flow_of(run)?))
    }

    fn start_run(&mut self, start: &RunStarted, position: Position) {
        let Some(flow) = self.definitions.get(&start.definition).cloned() else { return };
        if let Cause::Event { trigger, .. } = &start.cause {
            self.held.remove(&(flow.definition().name.clone(), *trigger));
        }
        self.index_by.live.insert(start.run);
        *self.index_by.uses.entry(start.definition).or_default() += 1;
        self.index_by.names.insert(start.name.clone(), start.run);
        for origin in std::iter::once(&start.origin).chain(&start.joined) {
            self.index_by.origins.insert((self.at, *origin));
            self.origins.insert(*origin, (self.at, start.run));
        }
        let mut run = Run::new(start.clone(), &flow, self.at);
        run.waits = start.waits.then_some(position);
        if let Some(due) = run.deadline() {
            self.index_by.timers.insert((due, start.run, None));
        }
        self.index_by.lanes.enter(&flow.definition().name, &run);
        if let Cause::Backfill { backfill, .. } = &start.cause {
            self.count_in_backfill(backfill, start.run, None);
        }
        self.runs.insert(start.run, Arc::new(run));
        self.link_child(start, &flow);
    }
}
