//! Compares what lies on the task queues with what the committed state says, once an ack wait while this coordinator leads: a message
//! that is gone although its attempts are open is published again, one whose attempts are closed is removed. It covers what the
//! server lost, what somebody deleted, forged acknowledgements and withdrawals that did not arrive. It works beside the leader.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use causey_engine::{Queued, State};
use causey_protocol::codec;
use causey_protocol::id::RunId;
use causey_protocol::live::OpenAttempt;
use causey_protocol::subject;
use tokio_util::sync::CancellationToken;

use crate::committed::{Committed, Role};
use crate::desk::Workers;
use crate::outside::{AppendError, Expect, Message, Outside, Purge, Unanswered};
use crate::streams::{self, Limits};

/// Messages that are missing in so many rounds in a row before are lost: the ones that are on their way come sooner. Rounds, because
/// wall clocks jump.
const MISSING_ROUNDS: u32 = 2;

/// Messages published again in one round; the rest has its turn in the next.
const PUBLISHED_MAX: usize = 1_000;

/// Removals in one round.
const REMOVED_MAX: usize = 200;

/// Why a round found nothing out. The next one tries again.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Streams(#[from] streams::Error),
    #[error("the task queue cannot be made")]
    Make(#[source] Unanswered),
    #[error("the task queue cannot be read")]
    List(#[source] Unanswered),
    #[error("the task queue refuses a task")]
    Publish(#[source] Unanswered),
    #[error("the task queue refuses a removal")]
    Remove(#[source] Unanswered),
}

/// The sweep of one coordinator.
#[derive(Debug)]
pub(crate) struct Sweep<O> {
    outside: O,
    committed: Arc<Committed>,
    workers: Arc<Workers>,
    ack_wait: Duration,
    limits: Limits,
    /// Subjects that the last round found without an open attempt: their workers may have been about to acknowledge them.
    suspects: BTreeSet<String>,
    /// Subjects that were missing, and in how many rounds before.
    missing: BTreeMap<String, u32>,
}

/// What one comparison found.
#[derive(Debug, Default)]
struct Found {
    /// Open dispatches without a message, by the subject it should have.
    missing: BTreeMap<String, Queued>,
    /// Messages without an open dispatch.
    orphans: BTreeSet<String>,
}

impl<O: Outside> Sweep<O> {
    pub(crate) fn new(outside: O, committed: Arc<Committed>, workers: Arc<Workers>, ack_wait: Duration, limits: Limits) -> Self {
        Self { outside, committed, workers, ack_wait, limits, suspects: BTreeSet::new(), missing: BTreeMap::new() }
    }

    /// Works until `shutdown`, whenever this coordinator leads.
    pub(crate) async fn serve(mut self, shutdown: CancellationToken) {
        let role = self.committed.role();
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(self.ack_wait) => {}
            }
            if role.get() != Role::Leader {
                self.suspects.clear();
                self.missing.clear();
                continue;
            }
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                result = self.round() => {
                    if let Err(error) = result {
                        tracing::warn!(%error, "the sweep of the task queue failed; trying again");
                    }
                }
            }
        }
    }

    async fn round(&mut self) -> Result<(), Error> {
        self.outside.ensure_tasks(self.limits).await.map_err(Error::Make)?;
        let listed = self.outside.subjects(subject::TASK_STREAM).await.map_err(Error::List)?;
        // A message enters the queue after its turn, and leaves it after its report: a state that covers all turns and reports up to
        // now knows of every one that was or was not listed. A leader deposed meanwhile waits for turns of others and so learns of them.
        if !self.covers_everything().await? {
            return Ok(());
        }
        let state = self.committed.read().clone();
        let held = self.workers.held();
        let found = self.outside.aside(move || compare(&state, &listed, &held)).await;
        let orphans = found.orphans.intersection(&self.suspects).cloned().collect();
        self.suspects = found.orphans;
        self.remove(orphans).await?;
        let rounds = |subject: &String| self.missing.get(subject).map_or(0, |rounds| rounds + 1);
        let missing = found.missing.keys().map(|subject| (subject.clone(), rounds(subject))).collect();
        let lost = found.missing.into_iter().filter(|(subject, _)| rounds(subject) >= MISSING_ROUNDS).map(|(_, queued)| queued).collect();
        self.missing = missing;
        self.publish(lost).await
    }

    /// Waits until the committed state covers the log and the inbox as they are now; `false`: it did not for an ack wait.
    async fn covers_everything(&self) -> Result<bool, Error> {
        let tails = streams::look(&self.outside).await?.tails;
        let mut progress = self.committed.watch();
        let covered = progress.wait_for(|progress| progress.sequence >= tails.log && progress.inbox >= tails.inbox);
        Ok(tokio::time::timeout(self.ack_wait, covered).await.is_ok_and(|covered| covered.is_ok()))
    }

    async fn publish(&self, lost: Vec<Queued>) -> Result<(), Error> {
        for Queued { run, pool, first, attempt, key, .. } in lost.into_iter().take(PUBLISHED_MAX) {
            let dispatch = {
                let state = self.committed.read();
                state.run(run).and_then(|found| causey_engine::dispatch(&state, found, &first, attempt, true))
            };
            let Some(dispatch) = dispatch else { continue };
            tracing::warn!(%run, step = %dispatch.step, path = %first.path, attempt, "a task was lost from its queue; it is offered again");
            let (subject, payload) = (subject::task(&pool, run, &key), codec::encode(&dispatch).into());
            match self.outside.append(Message { subject, expect: Expect::NoneOnSubject, headers: Vec::new(), payload }).await {
                Ok(_) => metrics::counter!("causey_tasks_offered_again_total").increment(1),
                // Somebody else has put it there since.
                Err(AppendError::WrongLast) => {}
                Err(AppendError::Unanswered(why)) => return Err(Error::Publish(why)),
            }
        }
        Ok(())
    }

    async fn remove(&self, orphans: BTreeSet<String>) -> Result<(), Error> {
        let filters: BTreeSet<String> = {
            let state = self.committed.read();
            orphans.into_iter().map(|subject| ended_run(&state, &subject).map_or(subject, subject::run_tasks)).collect()
        };
        for filter in filters.into_iter().take(REMOVED_MAX) {
            let removed = self.outside.purge(subject::TASK_STREAM, Purge::Subject(filter.clone())).await.map_err(Error::Remove)?;
            tracing::info!(filter, removed, "tasks whose attempts are closed were still queued; they are removed");
            metrics::counter!("causey_tasks_removed_total").increment(removed);
        }
        Ok(())
    }
}

/// Compares `listed` subjects with the open dispatches. One that a worker holds is not offered again although its message is gone: it
/// would run twice.
fn compare(state: &State, listed: &BTreeSet<String>, held: &BTreeSet<OpenAttempt>) -> Found {
    let mut found = Found { missing: BTreeMap::new(), orphans: listed.clone() };
    for queued in causey_engine::queued(state) {
        let subject = subject::task(&queued.pool, queued.run, &queued.key);
        let present = found.orphans.remove(&subject);
        if !present && !queued.is_held(held) {
            found.missing.insert(subject, queued);
        }
    }
    found
}

/// The run of a queued task, if it has ended: nothing of it is queued rightly.
fn ended_run(state: &State, subject: &str) -> Option<RunId> {
    let (_, run, _) = subject::parse_task(subject)?;
    state.run(run).is_none_or(|run| run.state.is_terminal()).then_some(run)
}
