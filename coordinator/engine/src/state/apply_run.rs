//! The fold of records of one run, and of a gang in it.

use std::sync::Arc;

use causey_protocol::flow::{Flow, StepIndex};
use causey_protocol::id::{Path, RunId};
use causey_protocol::record::{Cause, FailureCause, ItemSucceeded, Record, RunState};

use super::State;
use super::indices::OpenAt;
use crate::chunk::BlobUse;
use crate::gang::{Gang, GangPhase, Member};
use crate::run::{Join, OpenDispatch, Run, TaskRef, TaskState, join_after};
use crate::{gang, route, timeout};

impl State {
    pub(super) fn apply_to_run(&mut self, id: RunId, record: &Record) {
        let at = self.at;
        let Some(run) = self.runs.get_mut(&id).map(Arc::make_mut) else { return };
        let Some(flow) = self.definitions.get(&run.start.definition).cloned() else { return };
        let index = &mut self.index_by;
        match record {
            Record::AttemptsOpened { step, pool, tasks, attempt, retry, .. } => {
                // A first attempt has no timer.
                for (path, visit) in tasks.iter().filter(|_| *attempt > 0) {
                    let task = TaskRef::new(*step, path, visit);
                    if let Some(due) = run.task(&task).and_then(|task| task.not_before) {
                        index.timers.remove(&(due, id, Some(task)));
                    }
                }
                let first = tasks.iter().next().map(|(path, visit)| TaskRef::new(*step, path, visit));
                let dispatch =
                    OpenDispatch { pool: pool.clone(), tasks: tasks.clone(), attempt: *attempt, retry: *retry, open: tasks.len() };
                let is_fixed = route::routed(&flow, *step).is_none();
                let open = |run: &Run| if is_fixed { run.open_at(*step) } else { run.away_at(*step, pool) };
                let before = open(run);
                run.offer(&flow, *step, dispatch, at);
                index.room.of(&self.pools, pool).count(&self.shares, id, run.tenant(), before, open(run));
                if let Some(first) = first.as_ref().filter(|_| run.gates.is_some()) {
                    index.let_through(run, first);
                }
                if let Some(first) = first.filter(|_| !self.held_back.is_empty()) {
                    self.let_go(id, &first, tasks.len());
                }
            }
            Record::AttemptStarted { step, path, visit, worker, at, .. } => {
                let task = TaskRef::new(*step, path.clone(), *visit);
                index.release(run, id, &task);
                run.started(&task, worker, *at);
                if let Some(due) = timeout::attempt_deadline(&flow, *step, self.at) {
                    run.deadlines.insert(task.clone(), due);
                    index.timers.insert((due, id, Some(task.clone())));
                }
                index.held.entry(worker.clone()).or_default().insert((id, task));
            }
            Record::AttemptSucceeded { step, path, visit, worker, digest, bytes, started, ended, .. } => {
                let task = TaskRef::new(*step, path.clone(), *visit);
                let before = OpenAt::of(run, *step);
                index.release(run, id, &task);
                run.succeed(&task, worker, (*digest, *bytes), (*started, *ended));
                let (outer, item) = task.path.split_last().map_or((Path::default(), None), |(outer, item)| (outer, Some(item)));
                run.arrive(&flow, *step, &outer, std::iter::once(item));
                index.closed(&self.shares, run, &flow, *step, before);
                if !self.held_back.is_empty() {
                    self.wake_arrived(id, &flow, *step, &outer);
                }
            }
            Record::AttemptsSucceeded { step, outer, visit, worker, since, items, .. } => {
                let before = OpenAt::of(run, *step);
                for ItemSucceeded(item, digest, bytes, started, ended) in items {
                    let task = TaskRef::new(*step, outer.child(*item), *visit);
                    index.release(run, id, &task);
                    run.succeed(&task, worker, (*digest, *bytes), (since.plus_micros(*started), since.plus_micros(*ended)));
                }
                run.arrive(&flow, *step, outer, items.iter().map(|ItemSucceeded(item, ..)| Some(*item)));
                index.closed(&self.shares, run, &flow, *step, before);
                if !self.held_back.is_empty() {
                    self.wake_arrived(id, &flow, *step, outer);
                }
            }
            Record::AttemptFailed { step, path, visit, worker, cause, started, ended, .. } => {
                let task = TaskRef::new(*step, path.clone(), *visit);
                let before = OpenAt::of(run, *step);
                index.release(run, id, &task);
                run.close(&task, *started, *ended, |found| {
                    found.state = TaskState::Failed;
                    found.worker.clone_from(worker);
                    match cause {
                        FailureCause::User { error, object }
                        | FailureCause::Permanent { error, object }
                        | FailureCause::TimedOut { error, object } => {
                            found.error = Some(error.clone());
                            found.object = *object;
                        }
                        FailureCause::Infrastructure { error } => {
                            found.infrastructure += 1;
                            found.error = Some(error.clone());
                        }
                        FailureCause::Lost => found.lost += 1,
                        FailureCause::Released { .. } => {}
                    }
                });
                if let Some((gang, _)) = run.gang_of_mut(&task) {
                    gang.lost += u32::from(matches!(cause, FailureCause::Lost));
                    gang.infrastructure += u32::from(matches!(cause, FailureCause::Infrastructure { .. }));
                }
                index.closed(&self.shares, run, &flow, *step, before);
            }
            Record::RetryScheduled { step, path, visit, retry, not_before, .. } => {
                let task = TaskRef::new(*step, path.clone(), *visit);
                run.wait(&task, *retry, *not_before);
                index.timers.insert((*not_before, id, Some(task)));
            }
            Record::SwitchTaken { step, path, visit, to, .. } => {
                run.routes.insert((*to, path.clone()), (*step, *visit));
            }
            Record::ForeachOpened { step, path, count, chunk, .. } => {
                run.open_foreach(*step, path, *count, *chunk);
            }
            Record::ChunkGathered { step, path, chunk, digest, .. } => {
                if let Some(foreach) = run.foreaches.get_mut(&(*step, path.clone())) {
                    foreach.chunks.entry(*chunk).or_default().digest = Some(*digest);
                    index.blobs.insert((*digest, id, BlobUse::Chunk { split: *step, path: path.clone(), chunk: *chunk }));
                }
            }
            Record::ChunkStored { step, path, chunk, .. } => {
                let digest = run.foreach(*step, path).and_then(|foreach| foreach.chunks.get(chunk)?.digest);
                if let Some(digest) = digest {
                    index.blobs.remove(&(digest, id, BlobUse::Chunk { split: *step, path: path.clone(), chunk: *chunk }));
                }
                run.forget_chunk(&flow, *step, path, *chunk);
                if !self.held_back.is_empty() {
                    self.wake_foreach(id, *step, path);
                }
            }
            Record::ResultsSought { step, tasks, .. } => {
                run.seek(&flow, *step, tasks);
                let Some(first) = tasks.iter().next().map(|(path, visit)| TaskRef::new(*step, path, visit)) else { return };
                if run.gates.is_some() {
                    index.let_through(run, &first);
                }
                if !self.held_back.is_empty() {
                    self.let_go(id, &first, tasks.len());
                }
            }
            Record::ResultsReused { step, tasks, owners, items, .. } => {
                run.found(&flow, *step, tasks, owners, items, at);
                let outer = tasks.iter().next().and_then(|(path, _)| path.split_last()).map(|(outer, _)| outer);
                if let Some(outer) = outer.filter(|_| !self.held_back.is_empty()) {
                    self.wake_arrived(id, &flow, *step, &outer);
                }
            }
            Record::ChunkReused { step, path, chunk, digest, tasks, .. } => {
                run.reuse_chunk(&flow, *step, path, (*chunk, *digest), tasks, at);
                if !self.held_back.is_empty() {
                    self.wake_foreach(id, *step, path);
                }
            }
            Record::InputsGathered { step, path, digest, count, .. } => {
                run.joins.entry((*step, path.clone())).or_insert_with(Join::default).manifest = Some((*digest, *count));
                index.blobs.insert((*digest, id, BlobUse::Join { step: *step, path: path.clone() }));
            }
            Record::InputsStored { step, path, .. } => {
                if let Some(join) = run.joins.get_mut(&(*step, path.clone())) {
                    join.stored = true;
                    if let Some((digest, _)) = join.manifest {
                        index.blobs.remove(&(digest, id, BlobUse::Join { step: *step, path: path.clone() }));
                    }
                }
            }
            Record::RunFinished { state, problem, .. } => {
                let others = if *state == RunState::Cancelled { TaskState::Cancelled } else { TaskState::Aborted };
                index.forget(run);
                index.lanes.leave(&flow.definition().name, run);
                let open: Vec<_> = flow.indices().map(|step| (step, OpenAt::of(run, step))).filter(|(_, open)| open.all > 0).collect();
                run.finish(*state, problem.clone(), others, at);
                for (step, before) in open {
                    index.closed(&self.shares, run, &flow, step, before);
                }
                index.unstored.insert(id);
                let cause = run.start.cause.clone();
                if !self.held_back.is_empty() {
                    self.let_go_all(id);
                }
                if let Cause::Backfill { backfill, .. } = &cause {
                    self.count_in_backfill(backfill, id, Some(*state));
                }
                self.orphan_children(id, *state);
            }
            Record::RunAdmitted { .. } => {
                index.lanes.leave(&flow.definition().name, run);
                (run.waits, run.admitted) = (None, Some(at));
                index.lanes.enter(&flow.definition().name, run);
                index.timers.extend(run.deadline().map(|due| (due, id, None)));
            }
            Record::AttemptUsed { step, path, visit, usage, .. } => run.use_up(&TaskRef::new(*step, path.clone(), *visit), *usage),
            Record::StatusSet { step, path, visit, attempt, values, .. } => {
                run.set_status(at, &TaskRef::new(*step, path.clone(), *visit), *attempt, values);
            }
            gate => index.apply_to_gates(run, at, gate),
        }
    }

    pub(super) fn apply_to_gang(&mut self, id: RunId, record: &Record) {
        let at = self.at;
        let Some(run) = self.runs.get_mut(&id).map(Arc::make_mut) else { return };
        let Some(flow) = self.definitions.get(&run.start.definition).cloned() else { return };
        match record {
            Record::GangOpened { step, path, size, pool, .. } => {
                let (key, gang) = ((*step, path.clone()), Gang::new(*size, pool.clone(), at));
                self.index_by.enter_gang(id, &key, &gang);
                run.gangs.insert(key, gang);
            }
            Record::GangCalled { step, path, attempt, until, .. } => {
                run.call_gang(&flow, *step, path);
                self.change_gang(id, &(*step, path.clone()), |gang| gang.call(*attempt, *until));
            }
            Record::GangMoved { step, path, pool, .. } => {
                self.change_gang(id, &(*step, path.clone()), |gang| gang.pool = pool.clone());
            }
            Record::MemberJoined { step, path, worker, address, at, .. } => {
                let task = TaskRef::new(*step, path.clone(), 0);
                self.index_by.release(run, id, &task);
                run.started(&task, worker, *at);
                self.index_by.held.entry(worker.clone()).or_default().insert((id, task.clone()));
                if let Some((gang, index)) = run.gang_of_mut(&task) {
                    gang.members.insert(index, Member { worker: worker.clone(), address: *address, success: None });
                }
            }
            Record::GangFormed { step, path, .. } => {
                self.change_gang(id, &(*step, path.clone()), |gang| (gang.phase, gang.vain) = (GangPhase::Formed, 0));
            }
            Record::MemberSucceeded { step, path, worker, success, .. } => {
                let task = TaskRef::new(*step, path.clone(), 0);
                let before = OpenAt::of(run, *step);
                self.index_by.release(run, id, &task);
                run.member_succeeded(&task, worker, success);
                self.index_by.closed(&self.shares, run, &flow, *step, before);
            }
            Record::GangDissolved { step, path, retry, not_before, because, .. } => {
                let before = OpenAt::of(run, *step);
                let size = run.gangs.get(&(*step, path.clone())).map_or(0, |gang| gang.size);
                for task in gang::members(*step, path, size) {
                    self.index_by.release(run, id, &task);
                    run.recall(&task, *retry, at);
                }
                self.index_by.closed(&self.shares, run, &flow, *step, before);
                self.change_gang(id, &(*step, path.clone()), |gang| gang.dissolve(*retry, *not_before, because));
            }
            _ => {}
        }
    }

    /// Items of a foreach have reached its join.
    fn wake_arrived(&mut self, run: RunId, flow: &Flow, step: StepIndex, outer: &Path) {
        if let Some((_, split)) = join_after(flow, step).filter(|(_, split)| split.foreach) {
            self.wake_foreach(run, split.step, outer);
        }
    }
}
