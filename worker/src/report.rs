//! Reports to the inbox, packed: one message is in flight, and whatever ends meanwhile goes into the next. A message whose fate
//! is unknown is sent again, for ever: a second copy is a counted no-op (I3), a lost result is not. Results are kept in hand
//! over any outage.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use causey_artifacts::failpoint;
use causey_protocol::backoff::Delays;
use causey_protocol::codec;
use causey_protocol::id::{PoolName, Timestamp, WorkerName};
use causey_protocol::live::OpenAttempt;
use causey_protocol::subject;
use causey_protocol::task::{Outcome, ReportItem};
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::attempt::Job;
use crate::outside::Outside;
use crate::worker::Event;

/// Size of a packed report, in bytes: room for the envelope below the limit of a message.
const REPORT_BYTES_MAX: usize = 200 * 1024;

/// Most reports in one message.
const ITEMS_MAX: usize = 500;

/// Longest wait for the inbox to confirm.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(5);

/// Who is told once the inbox has the report.
#[derive(Debug)]
pub enum Confirm {
    /// The worker's loop: the attempt is over.
    Attempt(OpenAttempt),
    /// An attempt that waits before it starts its host.
    Waiting(oneshot::Sender<()>),
    Nobody,
}

/// While tiny tasks stream through, a message waits for so many reports, or so long. Every message costs leader and server a
/// wake-up and a turn: 1,000 tasks took 400 to 900 messages without this.
const GATHER_ITEMS: usize = 32;
const GATHER_TIME: Duration = Duration::from_millis(2);

/// The handle. What it holds is bounded by the attempts the worker holds: each has at most two reports, and two about the status
/// of its run.
#[derive(Clone, Debug)]
pub struct Reports {
    queue: mpsc::UnboundedSender<(ReportItem, Confirm)>,
    gather: Arc<AtomicBool>,
}

/// A `Report` from borrowed items: the same bytes.
#[derive(Serialize)]
struct Packed<'a> {
    pool: &'a PoolName,
    worker: &'a WorkerName,
    items: Vec<&'a ReportItem>,
}

impl Reports {
    /// Sends in the background until all handles are gone.
    pub(crate) fn open(outside: impl Outside, pool: PoolName, worker: WorkerName, events: mpsc::UnboundedSender<Event>) -> Self {
        let (sender, queue) = mpsc::unbounded_channel();
        let gather = Arc::new(AtomicBool::new(false));
        let sending = Sending { outside, pool, worker, gather: gather.clone() };
        tokio::spawn(sending.send_all(queue, events));
        Self { queue: sender, gather }
    }

    pub fn send(&self, item: ReportItem, confirm: Confirm) {
        let _ = self.queue.send((item, confirm));
    }

    /// Says that an attempt is about to run, and returns when the inbox knows.
    pub async fn started(&self, job: &Job, at: Timestamp) {
        self.confirmed(job.report(Outcome::Started { at })).await;
    }

    /// Sends a report and returns when the inbox has it.
    pub(crate) async fn confirmed(&self, item: ReportItem) {
        let (told, heard) = oneshot::channel();
        self.send(item, Confirm::Waiting(told));
        let _ = heard.await;
    }

    /// Whether more reports are about to come, so that a message may wait for them.
    pub(crate) fn gather(&self, more_to_come: bool) {
        self.gather.store(more_to_come, Ordering::Relaxed);
    }
}

struct Sending<O> {
    outside: O,
    pool: PoolName,
    worker: WorkerName,
    gather: Arc<AtomicBool>,
}

impl<O: Outside> Sending<O> {
    async fn send_all(self, mut queue: mpsc::UnboundedReceiver<(ReportItem, Confirm)>, events: mpsc::UnboundedSender<Event>) {
        let mut pending = Vec::new();
        while !pending.is_empty() || queue.recv_many(&mut pending, ITEMS_MAX).await > 0 {
            self.gather(&mut pending, &mut queue).await;
            let (count, message) = self.pack(&pending);
            failpoint::here("report.packed");
            self.publish(message).await;
            failpoint::here("report.confirmed");
            let mut attempts = Vec::with_capacity(count);
            for (_, confirm) in pending.drain(..count) {
                match confirm {
                    Confirm::Attempt(attempt) => attempts.push(attempt),
                    Confirm::Waiting(told) => drop(told.send(())),
                    Confirm::Nobody => {}
                }
            }
            let _ = events.send(Event::Reported(attempts));
        }
    }

    async fn gather(&self, pending: &mut Vec<(ReportItem, Confirm)>, queue: &mut mpsc::UnboundedReceiver<(ReportItem, Confirm)>) {
        let until = Instant::now() + GATHER_TIME;
        while self.gather.load(Ordering::Relaxed) && pending.len() < GATHER_ITEMS {
            match tokio::time::timeout_at(until, queue.recv_many(pending, ITEMS_MAX)).await {
                Ok(1..) => {}
                Ok(0) | Err(_) => return,
            }
        }
    }

    /// As many items from the front as fit, at least one, and their message.
    fn pack(&self, pending: &[(ReportItem, Confirm)]) -> (usize, Bytes) {
        let mut count = pending.len();
        loop {
            let items = pending[..count].iter().map(|(item, _)| item).collect();
            let message = codec::encode(&Packed { pool: &self.pool, worker: &self.worker, items });
            if message.len() <= REPORT_BYTES_MAX || count == 1 {
                return (count, message.into());
            }
            count = count.div_ceil(2);
        }
    }

    /// Returns when the inbox has confirmed.
    async fn publish(&self, message: Bytes) {
        let subject = subject::report(&self.pool, &self.worker);
        let mut delays = Delays::new(Duration::from_millis(20), Duration::from_secs(5));
        loop {
            // A disconnected client would queue each try and send all of them later.
            if self.outside.is_connected() {
                match tokio::time::timeout(CONFIRM_TIMEOUT, self.outside.store(&subject, message.clone())).await {
                    Ok(Ok(())) => return,
                    Ok(Err(error)) => tracing::warn!(%error, "the inbox does not take a report; sending it again"),
                    Err(_) => tracing::warn!("the inbox does not confirm a report; sending it again"),
                }
            }
            tokio::time::sleep(delays.next_delay()).await;
        }
    }
}
