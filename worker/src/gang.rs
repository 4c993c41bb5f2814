//! A member of a gang before its user code runs: it says where it can be reached and waits until all others are there too. Whether they
//! are is asked of the leader again and again; a broadcast only makes the next question come sooner.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use causey_protocol::id::Timestamp;
use causey_protocol::live::{Ask, OpenAttempt, Told};
use causey_protocol::task::{Address, Outcome};
use tokio::sync::Notify;

use crate::attempt::Job;
use crate::leader::Leader;
use crate::outside::Outside;
use crate::report::Reports;

/// Pause between two questions whether the gang has formed.
const ASK_PERIOD: Duration = Duration::from_secs(2);

/// What all members on this worker share.
#[derive(Debug, Default)]
pub struct Gangs {
    changed: Notify,
    waiting: Mutex<BTreeSet<OpenAttempt>>,
}

/// A member that waits, until it is dropped.
#[derive(Debug)]
pub struct Member<'a> {
    gangs: &'a Gangs,
    job: &'a Job,
}

impl Drop for Member<'_> {
    fn drop(&mut self) {
        self.gangs.lock().remove(&self.job.open_attempt());
    }
}

impl Gangs {
    fn lock(&self) -> MutexGuard<'_, BTreeSet<OpenAttempt>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something about a gang has changed: whoever waits asks now.
    pub fn tell(&self) {
        self.changed.notify_waiters();
    }

    /// Members that wait for the others.
    #[must_use]
    pub fn waiting(&self) -> Vec<OpenAttempt> {
        self.lock().iter().copied().collect()
    }

    /// The job's attempt waits from now on.
    #[must_use]
    pub fn member<'a>(&'a self, job: &'a Job) -> Member<'a> {
        self.lock().insert(job.open_attempt());
        Member { gangs: self, job }
    }
}

impl Member<'_> {
    /// Joins the gang with this address and waits until it has formed; gives the addresses of all members in order. Whether the attempt is
    /// still open is not asked here: the worker's loop learns that, and cuts this short. Safe to cut.
    pub async fn gather<O: Outside>(self, leader: &Leader<O>, reports: &Reports, address: Address, at: Timestamp) -> Vec<Address> {
        let (gangs, job) = (self.gangs, self.job);
        reports.confirmed(job.report(Outcome::Joined { address, at })).await;
        let task = job.task();
        let ask = Ask::Gang { run: job.dispatch.run, step: job.dispatch.step.clone(), path: task.path.clone(), attempt: task.attempt };
        loop {
            // Before the question: what changes while it is under way is asked about again.
            let changed = gangs.changed.notified();
            match leader.ask(&ask).await {
                // With another address in our place it has formed without us: the leader is about to dissolve it.
                Ok(Told::Gang { members: Some(members) }) if members.get(job.index_in_gang() as usize) == Some(&address) => {
                    return members;
                }
                Ok(_) => {}
                Err(error) => tracing::debug!(%error, "no answer about a gang"),
            }
            tokio::select! {
                biased;
                () = changed => {}
                () = tokio::time::sleep(ASK_PERIOD) => {}
            }
        }
    }
}
