//! A value of which only the newest counts, and a signal of its changes. Unlike tokio's watch channel it wakes whoever waits in the
//! order in which they came, so that a simulated world is the same each time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Whoever told the value is gone: it changes no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("nobody tells of changes any more")]
pub struct Closed;

#[derive(Debug)]
struct Inner<T> {
    value: T,
    /// Counts changes.
    version: u64,
    closed: bool,
}

#[derive(Debug)]
struct Shared<T> {
    inner: Mutex<Inner<T>>,
    told: Notify,
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, Inner<T>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells of changes.
#[derive(Debug)]
pub struct Sender<T>(Arc<Shared<T>>);

/// Hears of changes: of each since it looked last, of several at once.
#[derive(Debug)]
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
    seen: u64,
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), seen: self.seen }
    }
}

impl<T: Default> Default for Sender<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.told.notify_waiters();
    }
}

impl<T> Sender<T> {
    pub fn new(value: T) -> Self {
        Self(Arc::new(Shared { inner: Mutex::new(Inner { value, version: 0, closed: false }), told: Notify::new() }))
    }

    /// A receiver that has seen the present value.
    #[must_use]
    pub fn subscribe(&self) -> Receiver<T> {
        Receiver { seen: self.0.lock().version, shared: self.0.clone() }
    }

    /// Changes the value, and tells of it where `change` says that it is another one.
    pub fn send_if_modified(&self, change: impl FnOnce(&mut T) -> bool) {
        {
            let mut inner = self.0.lock();
            if !change(&mut inner.value) {
                return;
            }
            inner.version += 1;
        }
        self.0.told.notify_waiters();
    }

    /// Sets the value and tells of it; gives the one before.
    pub fn send_replace(&self, mut value: T) -> T {
        self.send_if_modified(|current| {
            std::mem::swap(current, &mut value);
            true
        });
        value
    }
}

impl<T: Clone> Sender<T> {
    /// The present value.
    #[must_use]
    pub fn get(&self) -> T {
        self.0.lock().value.clone()
    }
}

impl<T> Receiver<T> {
    /// Counts the present value as seen.
    pub fn mark_seen(&mut self) {
        self.seen = self.shared.lock().version;
    }

    /// Returns when there is a value that was not seen, which counts as seen then. Safe to drop at its await.
    ///
    /// # Errors
    /// When there will be none.
    pub async fn changed(&mut self) -> Result<(), Closed> {
        loop {
            // Made before the look: it is told of everything from here on.
            let told = self.shared.told.notified();
            {
                let inner = self.shared.lock();
                if inner.version != self.seen {
                    self.seen = inner.version;
                    return Ok(());
                }
                if inner.closed {
                    return Err(Closed);
                }
            }
            told.await;
        }
    }

    /// Returns when the value is as wanted, which counts as seen then. Safe to drop at its await.
    ///
    /// # Errors
    /// When it will never be.
    pub async fn wait_for(&mut self, wanted: impl Fn(&T) -> bool) -> Result<(), Closed> {
        loop {
            {
                let inner = self.shared.lock();
                self.seen = inner.version;
                if wanted(&inner.value) {
                    return Ok(());
                }
            }
            self.changed().await?;
        }
    }
}

impl<T: Clone> Receiver<T> {
    /// The present value.
    #[must_use]
    pub fn get(&self) -> T {
        self.shared.lock().value.clone()
    }

    /// The present value, which counts as seen then.
    pub fn take(&mut self) -> T {
        let inner = self.shared.lock();
        self.seen = inner.version;
        inner.value.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn a_receiver_hears_of_what_it_has_not_seen() {
        let sender = Sender::new(0);
        let mut receiver = sender.subscribe();
        sender.send_replace(1);
        sender.send_replace(2);
        receiver.changed().await.unwrap();
        assert_eq!(receiver.get(), 2);
        sender.send_if_modified(|_| false);
        sender.send_replace(3);
        receiver.mark_seen();
        drop(sender);
        assert_eq!(receiver.changed().await, Err(Closed));
        assert_eq!(receiver.wait_for(|value| *value == 3).await, Ok(()));
        assert_eq!(receiver.wait_for(|value| *value == 4).await, Err(Closed));
    }

    #[tokio::test]
    async fn receivers_are_woken_in_the_order_in_which_they_came() {
        let sender = Sender::new(false);
        let (told, heard) = mpsc::channel();
        let wait = |number: usize| {
            let (mut receiver, told) = (sender.subscribe(), told.clone());
            tokio::spawn(async move {
                receiver.wait_for(|value| *value).await.unwrap();
                told.send(number).unwrap();
            })
        };
        let waiting: Vec<_> = (0..50).map(wait).collect();
        tokio::task::yield_now().await;
        sender.send_replace(true);
        for task in waiting {
            task.await.unwrap();
        }
        assert_eq!(heard.try_iter().collect::<Vec<_>>(), (0..50).collect::<Vec<_>>());
    }
}
