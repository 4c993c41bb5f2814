//! Output of running tasks on its way to followers: one subscription for all runs. The first seconds of a run are kept, because a
//! client can follow a run only after it has started, and a warm task prints within milliseconds. Lossy by contract.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use async_nats::connection::State as Connection;
use bytes::Bytes;
use causey_protocol::codec::{MESSAGE_BYTES_MAX, decode};
use causey_protocol::id::RunId;
use causey_protocol::live::LiveOutput;
use causey_protocol::subject;
use futures_util::StreamExt as _;
use tokio::sync::{mpsc, oneshot};

use super::context::Context;

/// How long after its first output a run's output is kept for followers yet to come.
const KEPT_FOR: Duration = Duration::from_secs(10);

/// What is kept of one run, in bytes, and of how many runs.
const KEPT_BYTES_MAX: usize = 64 * 1024;
const RUNS_KEPT_MAX: usize = 128;

/// Output that waits for one follower, in messages; more is lost to it.
const WAITING_MAX: usize = 4_096;

/// How long a follower waits for output that is still under way when its run ends.
const BARRIER_PATIENCE: Duration = Duration::from_millis(250);

/// Passes output on.
#[derive(Debug, Default)]
pub(super) struct Hub(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    kept: BTreeMap<RunId, Kept>,
    followers: BTreeMap<RunId, Vec<mpsc::Sender<Bytes>>>,
    /// By the name each was sent under.
    barriers: BTreeMap<String, oneshot::Sender<()>>,
}

/// A run's first output.
#[derive(Debug)]
struct Kept {
    since: Instant,
    bytes: usize,
    messages: VecDeque<Bytes>,
}

impl Hub {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect("no holder of this lock panics")
    }

    /// What the run has printed lately if it is young, then all it prints from now on; nothing twice.
    pub(super) fn follow(&self, run: RunId) -> mpsc::Receiver<Bytes> {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        let mut inner = self.inner();
        if let Some(kept) = inner.kept.get(&run).filter(|kept| kept.since.elapsed() < KEPT_FOR) {
            for message in &kept.messages {
                let _ = sender.try_send(message.clone());
            }
        }
        inner.followers.entry(run).or_default().push(sender);
        receiver
    }

    fn pass_on(&self, run: RunId, message: &Bytes) {
        let mut inner = self.inner();
        inner.keep(run, message);
        let Some(followers) = inner.followers.get_mut(&run) else { return };
        followers.retain(|follower| match follower.try_send(message.clone()) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Full(_)) => {
                metrics::counter!("causey_live_output_lost_total").increment(1);
                true
            }
            Err(mpsc::error::TrySendError::Closed(_)) => false,
        });
        if followers.is_empty() {
            inner.followers.remove(&run);
        }
    }

    /// Forgets the followers of a run that have gone; called by each as it goes.
    pub(super) fn leave(&self, run: RunId) {
        let mut inner = self.inner();
        if let Some(followers) = inner.followers.get_mut(&run) {
            followers.retain(|follower| !follower.is_closed());
            if followers.is_empty() {
                inner.followers.remove(&run);
            }
        }
    }

    fn open_barrier(&self, name: &str) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        self.inner().barriers.insert(name.to_owned(), sender);
        receiver
    }

    fn close_barrier(&self, name: &str) {
        let sender = self.inner().barriers.remove(name);
        if let Some(sender) = sender {
            let _ = sender.send(());
        }
    }
}

impl Inner {
    fn keep(&mut self, run: RunId, message: &Bytes) {
        if !self.kept.contains_key(&run) && self.kept.len() >= RUNS_KEPT_MAX {
            let oldest = self.kept.iter().min_by_key(|(_, kept)| kept.since).map(|(run, _)| *run);
            oldest.and_then(|run| self.kept.remove(&run));
        }
        let new = || Kept { since: Instant::now(), bytes: 0, messages: VecDeque::new() };
        let kept = self.kept.entry(run).or_insert_with(new);
        if kept.since.elapsed() >= KEPT_FOR {
            // The entry stays, empty, so that the run does not count as young again.
            (kept.bytes, kept.messages) = (0, VecDeque::new());
            return;
        }
        kept.bytes += message.len();
        kept.messages.push_back(message.clone());
        while kept.bytes > KEPT_BYTES_MAX
            && let Some(first) = kept.messages.pop_front()
        {
            kept.bytes -= first.len();
        }
    }
}

/// The subjects of all runs' output, made of the one for a run, so that their form stays in one place.
fn all_subjects() -> String {
    let none = RunId(uuid::Uuid::nil());
    subject::live_output(none).replace(&none.to_string(), "*")
}

fn parse_subject(subject: &str) -> Option<RunId> {
    let run: RunId = subject.rsplit('.').next()?.parse().ok()?;
    (subject == subject::live_output(run)).then_some(run)
}

/// Reads one message of output; `None` for anything else on these subjects.
pub(super) fn read(message: &[u8]) -> Option<LiveOutput> {
    decode(message, MESSAGE_BYTES_MAX).ok()
}

/// Passes output on until shutdown. The subscription outlives reconnects.
pub(super) async fn listen(context: Context) {
    let mut delays = causey_protocol::backoff::Delays::new(Duration::from_millis(50), Duration::from_secs(5));
    let run = async {
        loop {
            match context.api.client.subscribe(all_subjects()).await {
                Ok(mut messages) => {
                    while let Some(message) = messages.next().await {
                        take(&context.live, &message);
                    }
                }
                Err(error) => tracing::warn!(%error, "failed to subscribe to the output of tasks"),
            }
            tokio::time::sleep(delays.next_delay()).await;
        }
    };
    let _ = context.api.shutdown.run_until_cancelled(run).await;
}

/// Header of a message that only asks to be noticed.
const BARRIER_HEADER: &str = "Causey-Barrier";

fn take(hub: &Hub, message: &async_nats::Message) {
    let barrier = message.headers.as_ref().and_then(|headers| headers.get(BARRIER_HEADER));
    if let Some(name) = barrier {
        return hub.close_barrier(name.as_str());
    }
    if let Some(run) = parse_subject(&message.subject) {
        hub.pass_on(run, &message.payload);
    }
}

/// Returns when everything the broker held for us is passed on: sends a message through it to ourselves and waits for that one.
pub(super) async fn settle(context: &Context, run: RunId) {
    if context.api.client.connection_state() != Connection::Connected {
        return;
    }
    let name = context.api.client.new_inbox();
    let passed = context.live.open_barrier(&name);
    let mut headers = async_nats::HeaderMap::new();
    headers.insert(BARRIER_HEADER, name.as_str());
    let sent = context.api.client.publish_with_headers(subject::live_output(run), headers, Bytes::new()).await;
    if sent.is_ok() {
        let _ = tokio::time::timeout(BARRIER_PATIENCE, passed).await;
    }
    context.live.close_barrier(&name);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run() -> RunId {
        "018bcfe5-687b-7000-8000-000000000000".parse().unwrap()
    }

    #[test]
    fn a_follower_gets_what_a_young_run_has_printed_and_then_the_rest_once() {
        let hub = Hub::default();
        hub.pass_on(run(), &Bytes::from_static(b"1"));
        let mut output = hub.follow(run());
        hub.pass_on(run(), &Bytes::from_static(b"2"));
        assert_eq!([output.try_recv().unwrap(), output.try_recv().unwrap()], ["1", "2"]);
        assert!(output.try_recv().is_err());
    }

    #[test]
    fn subjects_of_output_are_recognised_and_no_others() {
        assert_eq!(parse_subject(&subject::live_output(run())), Some(run()));
        assert_eq!(parse_subject(&subject::cancel(run())), None);
        assert_eq!(all_subjects(), "causey.live.*");
    }

    #[test]
    fn what_is_kept_is_bounded_per_run_and_in_runs() {
        let hub = Hub::default();
        for _ in 0..100 {
            hub.pass_on(run(), &Bytes::from(vec![0; 1024]));
        }
        assert!(hub.inner().kept[&run()].bytes <= KEPT_BYTES_MAX);
        for number in 0..2 * RUNS_KEPT_MAX as u128 {
            hub.pass_on(RunId(uuid::Uuid::from_u128(number)), &Bytes::from_static(b"x"));
        }
        assert!(hub.inner().kept.len() <= RUNS_KEPT_MAX);
    }

    #[test]
    fn a_follower_that_goes_leaves_nothing_behind() {
        let hub = Hub::default();
        drop(hub.follow(run()));
        hub.leave(run());
        assert!(hub.inner().followers.is_empty());
    }
}
