//! When to send signs of life for held deliveries, and when to give up because none can have arrived. Arithmetic over instants
//! that the caller reads from the monotonic clock.
//!
//! A lease grants nothing: the attempt fences. A worker that stops its children before the queue hands the task to another
//! only saves work, and outside effects from happening twice at once.

use std::time::Duration;

use tokio::time::Instant;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Lease {
    /// Time after which the queue delivers a message again.
    ack_wait: Duration,
    /// When the last progress left of which the server confirmed the arrival.
    confirmed: Option<Instant>,
}

impl Lease {
    pub(crate) fn new(ack_wait: Duration) -> Self {
        Self { ack_wait, confirmed: None }
    }

    /// Time between signs of life: two may be lost.
    pub(crate) fn period(&self) -> Duration {
        self.ack_wait / 3
    }

    /// How often to look whether a lease has lapsed.
    pub(crate) fn check_period(&self) -> Duration {
        self.ack_wait / 20
    }

    /// The server confirmed a sign of life that left at `sent`, for everything held then.
    pub(crate) fn confirm(&mut self, sent: Instant) {
        self.confirmed = self.confirmed.max(Some(sent));
    }

    /// Whether a delivery received at `received` may be on its way to another worker: 0.8 of the wait have passed.
    pub(crate) fn has_lapsed(&self, received: Instant, now: Instant) -> bool {
        let alive = self.confirmed.map_or(received, |confirmed| confirmed.max(received));
        now.saturating_duration_since(alive) > self.ack_wait.mul_f64(0.8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Row 4 of the fault model.
    #[test]
    fn a_delivery_lapses_at_four_fifths_of_the_wait_without_confirmed_progress() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut lease = Lease::new(30 * second);
        assert!(!lease.has_lapsed(start, start + 24 * second));
        assert!(lease.has_lapsed(start, start + 25 * second));
        lease.confirm(start + 10 * second);
        assert!(!lease.has_lapsed(start, start + 34 * second));
        assert!(lease.has_lapsed(start, start + 35 * second));
    }

    #[test]
    fn a_young_delivery_does_not_suffer_from_an_old_confirmation() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut lease = Lease::new(30 * second);
        lease.confirm(start);
        assert!(!lease.has_lapsed(start + 30 * second, start + 40 * second));
        assert_eq!(lease.period(), 10 * second);
    }
}
