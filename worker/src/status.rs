//! What an attempt tells about its run, on its way to the inbox: the last value of each name, at most one report a second, and only when
//! the one before has arrived. So a step that tells in a loop costs little, and an outage holds two reports an attempt.

use causey_protocol::id::StatusName;
use causey_protocol::status::{self, STATUS_NAMES_MAX, Values};
use causey_protocol::task::Outcome;
use serde_json::Value;
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

use crate::attempt::Job;
use crate::report::{Confirm, Reports};

/// Values that are not told yet, and the report that may still be on its way.
#[derive(Debug, Default)]
pub(crate) struct Telling {
    pending: Values,
    sent: Option<oneshot::Receiver<()>>,
}

impl Telling {
    /// What the host said. The SDK refuses what is too much; from any other host it is dropped here.
    pub(crate) fn note(&mut self, name: StatusName, value: Value) {
        let known = self.pending.contains_key(&name);
        if status::fault(&value).is_none() && (known || self.pending.len() < STATUS_NAMES_MAX) {
            self.pending.insert(name, value);
        } else {
            tracing::warn!(%name, "a step tells more about its run than is taken");
        }
    }

    /// To be called once a second.
    pub(crate) fn tell(&mut self, reports: &Reports, job: &Job) {
        let under_way = self.sent.as_mut().is_some_and(|sent| matches!(sent.try_recv(), Err(TryRecvError::Empty)));
        if !under_way {
            self.tell_last(reports, job);
        }
    }

    /// Tells what is pending, whatever is under way.
    pub(crate) fn tell_last(&mut self, reports: &Reports, job: &Job) {
        if self.pending.is_empty() {
            return;
        }
        let (told, heard) = oneshot::channel();
        let values = std::mem::take(&mut self.pending);
        reports.send(job.report(Outcome::Status { values }), Confirm::Waiting(told));
        self.sent = Some(heard);
    }
}
