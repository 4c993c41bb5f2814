//! What is on its way to one receiver, each with the time at which it arrives.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

#[derive(Debug)]
struct Inner<T> {
    /// By arrival, then in the order of sending.
    letters: BTreeMap<(Instant, u64), T>,
    sent: u64,
    /// Arrival of the last one that was to come in order.
    last: Option<Instant>,
    closed: bool,
}

/// Letters for one receiver.
#[derive(Debug)]
pub(crate) struct Mailbox<T> {
    inner: Mutex<Inner<T>>,
    changed: Notify,
}

impl<T> Default for Mailbox<T> {
    fn default() -> Self {
        let inner = Inner { letters: BTreeMap::new(), sent: 0, last: None, closed: false };
        Self { inner: Mutex::new(inner), changed: Notify::new() }
    }
}

impl<T> Mailbox<T> {
    fn lock(&self) -> MutexGuard<'_, Inner<T>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a letter that arrives at `at`, whatever else is on its way.
    pub(crate) fn send(&self, at: Instant, letter: T) {
        let mut inner = self.lock();
        if inner.closed {
            return;
        }
        inner.sent += 1;
        let place = (at, inner.sent);
        inner.letters.insert(place, letter);
        drop(inner);
        self.changed.notify_one();
    }

    /// Sends a letter that arrives at `at`, but not before those sent earlier.
    pub(crate) fn send_in_order(&self, at: Instant, letter: T) {
        let at = {
            let mut inner = self.lock();
            let at = inner.last.map_or(at, |last| last.max(at));
            inner.last = Some(at);
            at
        };
        self.send(at, letter);
    }

    /// No more arrives; what is on its way still does.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_one();
    }

    /// What is on its way never arrives.
    pub(crate) fn lose(&self) {
        let mut inner = self.lock();
        inner.letters.clear();
        inner.last = None;
    }

    /// The next letter, which is not seen before `opens`; `None` when there are no more. Safe to drop at its await.
    pub(crate) async fn next(&self, opens: impl Fn() -> Instant) -> Option<T> {
        loop {
            let changed = self.changed.notified();
            let arrival = {
                let mut inner = self.lock();
                match inner.letters.first_key_value().map(|((at, _), _)| opens().max(*at)) {
                    Some(at) if at <= Instant::now() => return inner.letters.pop_first().map(|(_, letter)| letter),
                    Some(at) => Some(at),
                    None if inner.closed => return None,
                    None => None,
                }
            };
            match arrival {
                Some(at) => {
                    tokio::select! {
                        biased;
                        () = changed => {}
                        () = tokio::time::sleep_until(at) => {}
                    }
                }
                None => changed.await,
            }
        }
    }
}
