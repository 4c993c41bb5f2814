//! Output for those who watch, while it is produced: core NATS, dropped whenever it cannot be sent at once. The last of what each
//! running attempt has printed is kept here, for followers who come later. An attempt that prints faster than anybody reads is not
//! shown all of it, lest it crowds out the others; its stored output stays whole. What is missing shows in the positions.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use causey_protocol::codec;
use causey_protocol::id::{RunId, TaskKey};
use causey_protocol::live::LiveOutput;
use causey_protocol::subject::{self, FOLLOW_ALL};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::outside::{Listener as _, Outside};

/// Pieces of output on their way to the connection.
const QUEUE_MAX: usize = 256;

/// What is kept of each running attempt, in bytes.
const RECENT_BYTES_MAX: usize = 256 * 1024;

/// What an attempt may have shown at once, in bytes, and how much of that it gets back each second.
const BURST_BYTES: f64 = 1024.0 * 1024.0;
const BYTES_PER_SECOND: f64 = 1024.0 * 1024.0;

type Attempts = BTreeMap<(RunId, TaskKey), Recent>;

/// The last output of an attempt, as it was sent.
#[derive(Debug, Default)]
struct Recent {
    bytes: usize,
    messages: VecDeque<Bytes>,
}

impl Recent {
    fn keep(&mut self, message: Bytes) {
        self.bytes += message.len();
        self.messages.push_back(message);
        while self.bytes > RECENT_BYTES_MAX
            && let Some(first) = self.messages.pop_front()
        {
            self.bytes -= first.len();
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Live {
    queue: mpsc::Sender<(RunId, Bytes)>,
    attempts: Arc<Mutex<Attempts>>,
}

impl Live {
    /// Sends in the background until all handles are gone.
    pub(crate) fn open(outside: impl Outside) -> Self {
        let (sender, queue) = mpsc::channel(QUEUE_MAX);
        let attempts = Arc::default();
        tokio::spawn(send(outside, queue, Arc::clone(&attempts)));
        Self { queue: sender, attempts }
    }

    /// Where an attempt's output goes while it runs.
    pub(crate) fn attempt(&self, run: RunId, key: TaskKey) -> Speaker {
        Speaker { live: self.clone(), run, key, budget: Budget { bytes: BURST_BYTES, at: Instant::now() } }
    }
}

fn lock(attempts: &Mutex<Attempts>) -> MutexGuard<'_, Attempts> {
    attempts.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Only output that nobody has asked for is ever lost here: a disconnected client would queue it, and then stand still.
async fn send<O: Outside>(outside: O, mut queue: mpsc::Receiver<(RunId, Bytes)>, attempts: Arc<Mutex<Attempts>>) {
    let mut followers = outside.listen(FOLLOW_ALL).await.inspect_err(|error| tracing::warn!(%error, "cannot hear who follows runs")).ok();
    let say = async |run, message| {
        if outside.is_connected() {
            let _ = outside.say(&subject::live_output(run), None, message).await;
        }
    };
    loop {
        let follower = async {
            match &mut followers {
                Some(followers) => followers.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            output = queue.recv() => match output {
                Some((run, message)) => say(run, message).await,
                None => return,
            },
            asked = follower => {
                let Some(asked) = asked else {
                    followers = None;
                    continue;
                };
                let Some(run) = subject::parse_follow(&asked.subject) else { continue };
                let recent = recent(&lock(&attempts), run);
                for message in recent {
                    say(run, message).await;
                }
            }
        }
    }
}

/// What the running attempts of a run have printed lately.
fn recent(attempts: &Attempts, run: RunId) -> Vec<Bytes> {
    let of = attempts.range((run, TaskKey([0; 16]))..=(run, TaskKey([255; 16])));
    of.flat_map(|(_, recent)| recent.messages.iter().cloned()).collect()
}

/// What an attempt may have shown at present.
#[derive(Debug)]
struct Budget {
    bytes: f64,
    at: Instant,
}

impl Budget {
    fn spend(&mut self, bytes: usize, now: Instant) -> bool {
        let earned = now.saturating_duration_since(self.at).as_secs_f64() * BYTES_PER_SECOND;
        (self.bytes, self.at) = ((self.bytes + earned).min(BURST_BYTES), now);
        #[expect(clippy::cast_precision_loss, reason = "a piece of output is small")]
        let left = self.bytes - bytes as f64;
        let enough = left >= 0.0;
        if enough {
            self.bytes = left;
        }
        enough
    }
}

/// Shows the output of one attempt; what is kept of it goes with it.
#[derive(Debug)]
pub(crate) struct Speaker {
    live: Live,
    run: RunId,
    key: TaskKey,
    budget: Budget,
}

impl Speaker {
    pub(crate) fn show(&mut self, output: &LiveOutput) {
        let message = Bytes::from(codec::encode(output));
        lock(&self.live.attempts).entry((self.run, self.key)).or_default().keep(message.clone());
        if self.budget.spend(message.len(), Instant::now()) {
            let _ = self.live.queue.try_send((self.run, message));
        }
    }
}

impl Drop for Speaker {
    fn drop(&mut self) {
        lock(&self.live.attempts).remove(&(self.run, self.key));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn who_prints_faster_than_is_shown_gets_a_share_each_second() {
        let now = Instant::now();
        let mut budget = Budget { bytes: BURST_BYTES, at: now };
        let mut shown = |now| (0..100).filter(|_| budget.spend(64 * 1024, now)).count();
        assert_eq!((shown(now), shown(now)), (16, 0));
        assert_eq!(shown(now + Duration::from_millis(500)), 8);
        assert_eq!(shown(now + Duration::from_secs(60)), 16, "what nobody printed is not saved up");
    }

    #[test]
    fn the_last_output_of_each_running_attempt_is_kept_and_bounded() {
        let run = |digit: &str| format!("018bcfe5-687b-7000-8000-00000000000{digit}").parse::<RunId>().unwrap();
        let (one, two) = (run("1"), run("2"));
        let mut attempts = Attempts::new();
        for number in 0..100_u8 {
            attempts.entry((one, TaskKey([1; 16]))).or_default().keep(Bytes::from(vec![number; 10_000]));
        }
        attempts.entry((two, TaskKey([0; 16]))).or_default().keep(Bytes::from_static(b"other"));
        attempts.entry((one, TaskKey([255; 16]))).or_default().keep(Bytes::from_static(b"last"));
        let kept = recent(&attempts, one);
        assert!(kept.iter().map(Bytes::len).sum::<usize>() <= RECENT_BYTES_MAX + 4);
        assert_eq!(kept[kept.len() - 2..], [Bytes::from(vec![99; 10_000]), Bytes::from_static(b"last")]);
        assert_eq!(recent(&attempts, two), ["other"]);
    }
}
