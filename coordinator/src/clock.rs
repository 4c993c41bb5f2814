//! The time a leader stamps its turns with: the wall clock, except that it never goes back. Where the wall clock is set back, this one
//! goes on with the monotonic clock until the other has caught up, so that a delay takes as long as it should.

use std::time::Duration;

use causey_protocol::id::Timestamp;
use tokio::time::Instant;

#[derive(Debug)]
pub(crate) struct Clock {
    last: Timestamp,
    read: Instant,
}

impl Clock {
    /// A clock that goes on from the last stamp in the log.
    pub(crate) fn new(last: Timestamp) -> Self {
        Self { last, read: Instant::now() }
    }

    /// The time now, while the wall clock shows `wall`.
    pub(crate) fn now(&mut self, wall: Timestamp) -> Timestamp {
        let read = Instant::now();
        let elapsed = u64::try_from(read.duration_since(self.read).as_micros()).unwrap_or(u64::MAX);
        self.last = wall.max(Timestamp(self.last.0.saturating_add(elapsed)));
        self.read = read;
        self.last
    }

    /// When it will show `due`, unless the wall clock is set forward.
    pub(crate) fn until(&mut self, due: Timestamp, wall: Timestamp) -> Instant {
        let now = self.now(wall);
        self.read + Duration::from_micros(due.micros_since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Row 23 of the fault model.
    #[tokio::test(start_paused = true)]
    async fn a_wall_clock_that_is_set_back_makes_no_delay_longer() {
        let second = 1_000_000;
        let mut clock = Clock::new(Timestamp(100 * second));
        assert_eq!(clock.now(Timestamp(90 * second)), Timestamp(100 * second));
        let due = clock.until(Timestamp(103 * second), Timestamp(90 * second));
        tokio::time::sleep_until(due).await;
        assert_eq!(clock.now(Timestamp(93 * second)), Timestamp(103 * second));
        assert_eq!(clock.now(Timestamp(200 * second)), Timestamp(200 * second));
    }
}
