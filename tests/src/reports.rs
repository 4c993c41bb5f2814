//! I14: what counts of an attempt was said by a worker of the pool to which it was offered, under that worker's own subject. Whatever the
//! inbox holds is collected here, and every record that follows from a report needs one that may count.

use std::collections::{BTreeMap, BTreeSet};

use causey_engine::{Run, State, TaskRef};
use causey_protocol::codec::{self, MESSAGE_BYTES_MAX};
use causey_protocol::flow::StepIndex;
use causey_protocol::id::{Digest, Path, PoolName, RunId, StepName, WorkerName};
use causey_protocol::input::{Request, RequestMessage};
use causey_protocol::record::{FailureCause, ItemSucceeded, Record};
use causey_protocol::subject::{self, InboxSubject};
use causey_protocol::task::{Outcome, Report};

/// An attempt of any run.
type Attempt = (RunId, StepName, Path, u32, u32);

/// What somebody said of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    Started,
    Joined,
    Status,
    Used,
    Succeeded(Digest),
    /// It failed, or was handed back.
    Over,
}

#[derive(Debug)]
struct Claim {
    pool: PoolName,
    worker: WorkerName,
    said: Said,
}

/// What the inbox has held.
#[derive(Debug, Default)]
pub struct Reports {
    claims: BTreeMap<Attempt, Vec<Claim>>,
    /// Workers of which somebody has said that they are lost.
    lost: BTreeSet<(PoolName, WorkerName)>,
    /// Whether the beginning of the inbox is not known: then nothing can be judged.
    pub is_trimmed: bool,
}

/// An attempt as records name it.
struct Place<'a> {
    run: RunId,
    step: StepIndex,
    path: Path,
    visit: u32,
    attempt: u32,
    worker: Option<&'a WorkerName>,
}

impl Reports {
    /// A message stands in the inbox.
    pub fn stored(&mut self, message_subject: &str, payload: &[u8]) {
        match subject::parse_inbox(message_subject) {
            Some(InboxSubject::Request { .. }) => {
                if let Ok(RequestMessage { request: Request::WorkerLost { pool, worker }, .. }) = codec::decode(payload, MESSAGE_BYTES_MAX)
                {
                    self.lost.insert((pool, worker));
                }
            }
            Some(InboxSubject::Report { pool, worker }) => {
                let Ok(report) = codec::decode::<Report>(payload, MESSAGE_BYTES_MAX) else { return };
                if (&report.pool, &report.worker) == (&pool, &worker) {
                    self.take(report);
                }
            }
            None => {}
        }
    }

    fn take(&mut self, Report { pool, worker, items }: Report) {
        for item in items {
            let said = match item.outcome {
                Outcome::Started { .. } => Said::Started,
                Outcome::Joined { .. } => Said::Joined,
                Outcome::Status { .. } => Said::Status,
                Outcome::Used { .. } => Said::Used,
                Outcome::Succeeded(success) => Said::Succeeded(success.digest),
                Outcome::Failed(_) | Outcome::Released { .. } => Said::Over,
            };
            let attempt = (item.run, item.step, item.path, item.visit, item.attempt);
            self.claims.entry(attempt).or_default().push(Claim { pool: pool.clone(), worker: worker.clone(), said });
        }
    }

    /// Judges a record in the state in which it was decided.
    pub fn record(&self, state: &State, record: &Record, found: &mut Vec<String>) {
        if self.is_trimmed {
            return;
        }
        let place = |run: &RunId, step: &StepIndex, path: &Path, visit: u32, attempt: &u32, worker| {
            let (run, step, path, attempt) = (*run, *step, path.clone(), *attempt);
            Place { run, step, path, visit, attempt, worker }
        };
        let mut check = |place: Place<'_>, what: &str, is_it: &dyn Fn(Said) -> bool| {
            if !self.holds(state, &place, is_it) {
                let Place { run, step, path, attempt, worker, .. } = place;
                let who = worker.map_or_else(|| "a worker".to_owned(), ToString::to_string);
                let task = format!("attempt {attempt} at {path} of step {} of run {run}", step.0);
                found.push(format!("I14: {who} did not say that {task} {what}, under a subject of its own and of the attempt's pool"));
            }
        };
        match record {
            Record::AttemptStarted { run, step, path, visit, attempt, worker, .. } => {
                check(place(run, step, path, *visit, attempt, Some(worker)), "started", &|said| said == Said::Started);
            }
            Record::MemberJoined { run, step, path, attempt, worker, .. } => {
                check(place(run, step, path, 0, attempt, Some(worker)), "joined its gang", &|said| said == Said::Joined);
            }
            Record::MemberSucceeded { run, step, path, attempt, worker, success } => {
                let (place, digest) = (place(run, step, path, 0, attempt, Some(worker)), success.digest);
                check(place, "succeeded", &|said| said == Said::Succeeded(digest));
            }
            Record::AttemptSucceeded { run, step, path, visit, attempt, worker, digest, .. } => {
                let place = place(run, step, path, *visit, attempt, Some(worker));
                check(place, "succeeded", &|said| said == Said::Succeeded(*digest));
            }
            Record::AttemptsSucceeded { run, step, outer, visit, attempt, worker, items, .. } => {
                for ItemSucceeded(item, digest, ..) in items {
                    let place = place(run, step, &outer.child(*item), *visit, attempt, Some(worker));
                    check(place, "succeeded", &|said| said == Said::Succeeded(*digest));
                }
            }
            Record::AttemptUsed { run, step, path, visit, attempt, .. } => {
                check(place(run, step, path, *visit, attempt, None), "used so much", &|said| said == Said::Used);
            }
            Record::StatusSet { run, step, path, visit, attempt, .. } => {
                check(place(run, step, path, *visit, attempt, None), "goes on", &|said| said == Said::Status);
            }
            Record::AttemptFailed { run, step, path, visit, attempt, cause: FailureCause::Lost, .. } => {
                self.lost(state, &place(run, step, path, *visit, attempt, None), found);
            }
            // A result that the engine cannot take makes a failure of a success, and so does a member that joins a gang once more which has
            // formed with it.
            Record::AttemptFailed { run, step, path, visit, attempt, worker: Some(worker), .. } => {
                let place = place(run, step, path, *visit, attempt, Some(worker));
                check(place, "is over", &|said| matches!(said, Said::Over | Said::Succeeded(_) | Said::Joined));
            }
            _ => {}
        }
    }

    /// Whether somebody said this who may.
    fn holds(&self, state: &State, place: &Place<'_>, is_it: &dyn Fn(Said) -> bool) -> bool {
        let Some((run, task, name)) = task(state, place) else { return false };
        // The members of a gang have no dispatch any more when their results are accepted together; each was judged when it came, perhaps
        // from another worker than the one that ran it, whom the record names.
        let pool = run.task(&task).and_then(|found| run.dispatch_of(&task, found)).map(|dispatch| &dispatch.pool);
        let worker = place.worker.filter(|_| pool.is_some());
        let claims = self.claims.get(&(place.run, name, place.path.clone(), place.visit, place.attempt));
        let counts = |claim: &&Claim| {
            pool.is_none_or(|pool| claim.pool == *pool) && worker.is_none_or(|worker| claim.worker == *worker) && is_it(claim.said)
        };
        claims.into_iter().flatten().any(|claim| counts(&claim))
    }

    /// The loss of a worker ends attempts only that it is known to run.
    fn lost(&self, state: &State, place: &Place<'_>, found: &mut Vec<String>) {
        let holder = task(state, place).and_then(|(run, task, _)| {
            let state = run.task(&task)?;
            Some((run.dispatch_of(&task, state)?.pool.clone(), state.worker.clone()?))
        });
        if holder.as_ref().is_none_or(|holder| !self.lost.contains(holder)) {
            let Place { run, step, path, attempt, .. } = place;
            let task = format!("attempt {attempt} at {path} of step {} of run {run}", step.0);
            found.push(format!("I14: {task} was lost, but nobody said so of its holder {holder:?}"));
        }
    }
}

fn task<'a>(state: &'a State, place: &Place<'_>) -> Option<(&'a Run, TaskRef, StepName)> {
    let run = state.run(place.run)?;
    let name = state.flow_of(run)?.step(place.step).name.clone();
    Some((run, TaskRef::new(place.step, place.path.clone(), place.visit), name))
}
