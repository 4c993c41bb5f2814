//! Where attempts are carried out: what the worker's loop asks of whoever runs user code and stores what it left. The real one runs
//! it in hosts ([`crate::attempt`]); a simulated world has its own.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::future::Future;
use std::sync::Arc;

use causey_protocol::live::OpenAttempt;
use causey_protocol::task::{Dispatch, Outcome};
use tokio_util::sync::CancellationToken;

use crate::attempt::Job;
use crate::report::Reports;

pub trait Bench: Debug + Send + Sync + 'static {
    /// What user code left when it ended.
    type Ran: Send;
    /// What is kept until the report is on its way.
    type Used: Send;

    /// Makes ready what a dispatch will need, ahead of a free slot.
    fn prepare(&self, dispatch: &Dispatch) -> impl Future<Output = ()> + Send;

    /// The outcome that this attempt has had already, by its stored object; where the store cannot say, that is the outcome.
    fn known(&self, job: &Job) -> impl Future<Output = Option<Outcome>> + Send;

    /// Everything up to the end of user code. May be cut, which kills it. `None` when `end` asked it to end and it did.
    fn run(&self, job: &Job, reports: &Reports, end: &CancellationToken) -> impl Future<Output = Option<Self::Ran>> + Send;

    /// Stores what user code left and makes the outcome to report. Must not be cut: it is the attempt's only result.
    fn store(&self, job: &Job, ran: Self::Ran) -> impl Future<Output = (Outcome, Option<Self::Used>)> + Send;

    fn finish(&self, used: Self::Used);

    /// Memory that is free on this worker's GPUs now, in MB, by UUID; empty where nobody can tell.
    fn free_gpu_memory(&self) -> BTreeMap<String, u64> {
        BTreeMap::new()
    }

    /// Whether there is no room for what attempts leave.
    fn lacks_space(&self) -> bool {
        false
    }

    /// Something about a gang has changed: members that wait for the others ask now.
    fn gang_changed(&self) {}

    /// Attempts at members of gangs that wait for the others; no user code of theirs has run.
    fn gathering(&self) -> Vec<OpenAttempt> {
        Vec::new()
    }
}

/// One attempt from its delivery to its outcome, as far as it can be cut.
pub(crate) enum Progress<R> {
    /// Its result was there already.
    Known(Box<Outcome>),
    Ran(R),
}

/// Looks for a stored result where there may be one, else runs user code. `None` when it was asked to end.
pub(crate) async fn progress<B: Bench>(bench: &Arc<B>, job: &Job, reports: &Reports, end: &CancellationToken) -> Option<Progress<B::Ran>> {
    if job.perhaps_done
        && let Some(outcome) = bench.known(job).await
    {
        return Some(Progress::Known(Box::new(outcome)));
    }
    bench.run(job, reports, end).await.map(Progress::Ran)
}
