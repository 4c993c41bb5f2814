//! Waits between tries of something that may work later (connecting, re-sending): the one module that names the crate
//! `backoff`, used as a delay iterator. The sleep is the caller's, so it can be cancelled. The jitter comes from the thread's generator,
//! which a simulation seeds.

use std::time::Duration;

use backoff::ExponentialBackoff;
use backoff::backoff::Backoff as _;

/// A wait may be this much longer or shorter than its place in the sequence says.
const JITTER: f64 = 0.5;

/// An endless sequence of waits, each about 1.5 times the one before, with jitter, up to a cap.
#[derive(Debug)]
pub struct Delays(ExponentialBackoff);

impl Delays {
    #[must_use]
    pub fn new(first: Duration, cap: Duration) -> Self {
        let mut inner = ExponentialBackoff {
            initial_interval: first,
            max_interval: cap,
            max_elapsed_time: None,
            randomization_factor: 0.0,
            ..ExponentialBackoff::default()
        };
        inner.reset();
        Self(inner)
    }

    /// The next wait.
    #[must_use]
    pub fn next_delay(&mut self) -> Duration {
        let wait = self.0.next_backoff().unwrap_or(self.0.max_interval);
        wait.mul_f64(1.0 - JITTER + 2.0 * JITTER * fastrand::f64())
    }

    /// Starts again from the first wait, after a success.
    pub fn reset(&mut self) {
        self.0.reset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Row 43 of the fault model.
    #[test]
    fn waits_grow_to_the_cap_and_start_again_after_a_reset() {
        let mut delays = Delays::new(Duration::from_millis(10), Duration::from_millis(100));
        let waits: Vec<Duration> = (0..50).map(|_| delays.next_delay()).collect();
        assert!(waits[0] <= Duration::from_millis(15));
        assert!(waits[49] >= Duration::from_millis(50) && waits.iter().all(|wait| *wait <= Duration::from_millis(150)));
        delays.reset();
        assert!(delays.next_delay() <= Duration::from_millis(15));
    }
}
