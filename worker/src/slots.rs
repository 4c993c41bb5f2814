//! How much of this worker is in use, how many tasks to ask for, and how far ahead. Plain arithmetic: no clock, no I/O.

use std::time::Duration;

/// Below this mean time of a task it pays to hold more than one task ahead: a round trip to the queue takes 0.3–0.5 ms.
const SHORT_TASK: Duration = Duration::from_millis(10);

/// Tasks below this mean time, with so many queued here, end in a stream: their reports may wait for each other.
const STREAM_TASK: Duration = Duration::from_millis(1);
const STREAM_QUEUE_MIN: u32 = 4;

/// Most tasks held ahead. What is held counts against fairness and cancel.
const PREFETCH_MAX: u32 = 16;

/// Share of a new observation in the mean time of a task.
const WEIGHT: f64 = 0.1;

#[derive(Debug)]
pub(crate) struct Slots {
    total: u32,
    used: u32,
    running: u32,
    mean_task_seconds: Option<f64>,
}

impl Slots {
    pub(crate) fn new(total: u32) -> Self {
        Self { total: total.max(1), used: 0, running: 0, mean_task_seconds: None }
    }

    pub(crate) fn total(&self) -> u32 {
        self.total
    }

    /// What an attempt that asks for `slots` occupies: at least one, at most the whole worker.
    pub(crate) fn share(&self, slots: u32) -> u32 {
        slots.clamp(1, self.total)
    }

    /// Whether `share` slots are free.
    pub(crate) fn fits(&self, share: u32) -> bool {
        share <= self.total - self.used
    }

    /// Books `share` slots, which must be free.
    pub(crate) fn take(&mut self, share: u32) {
        assert!(self.fits(share), "only what is free is booked");
        self.used += share;
        self.running += 1;
    }

    /// Frees what [`Slots::take`] booked.
    pub(crate) fn give_back(&mut self, share: u32) {
        assert!(share <= self.used && self.running > 0, "only what was booked is freed");
        self.used -= share;
        self.running -= 1;
    }

    /// Notes how long user code ran.
    pub(crate) fn observe(&mut self, time: Duration) {
        let seconds = time.as_secs_f64();
        self.mean_task_seconds = Some(self.mean_task_seconds.map_or(seconds, |mean| mean + WEIGHT * (seconds - mean)));
    }

    /// Whether tasks are so short, and so many wait, that their ends come in a stream.
    pub(crate) fn streams(&self, queued: u32) -> bool {
        queued >= STREAM_QUEUE_MIN && self.mean_task_seconds.is_some_and(|mean| mean < STREAM_TASK.as_secs_f64())
    }

    /// Tasks to hold beyond those that run.
    pub(crate) fn prefetch(&self) -> u32 {
        match self.mean_task_seconds {
            Some(mean) if mean < SHORT_TASK.as_secs_f64() => {
                let ahead = f64::from(self.total) * 0.002 / mean.max(1e-6);
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 1..=16 first")]
                let ahead = ahead.clamp(1.0, f64::from(PREFETCH_MAX)) as u32;
                ahead
            }
            _ => 1,
        }
    }

    /// How many tasks to ask the queue for, with `queued` held unstarted, `credit` asked for already and `ahead` to be held beyond those
    /// that run. Asks in portions of a
    /// quarter of the window unless nothing runs: each request costs the server a wake-up.
    pub(crate) fn want(&self, queued: u32, credit: u32, ahead: u32) -> u32 {
        let window = self.total + ahead;
        let held = self.used + queued + credit;
        let free = window.saturating_sub(held);
        if free >= window.div_ceil(4) || (self.running == 0 && queued == 0 && credit == 0) { free } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_worker_asks_for_its_slots_and_one_ahead() {
        let slots = Slots::new(2);
        assert_eq!(slots.prefetch(), 1);
        assert_eq!(slots.want(0, 0, 1), 3);
        assert_eq!(slots.want(0, 3, 1), 0);
        assert_eq!(slots.want(1, 1, 1), 1);
        assert_eq!(slots.want(0, 0, 0), 2);
    }

    #[test]
    fn short_tasks_are_held_further_ahead() {
        let mut slots = Slots::new(2);
        for _ in 0..100 {
            slots.observe(Duration::from_micros(200));
        }
        assert_eq!(slots.prefetch(), 16);
        for _ in 0..100 {
            slots.observe(Duration::from_secs(1));
        }
        assert_eq!(slots.prefetch(), 1);
    }

    #[test]
    fn only_many_short_tasks_make_a_stream() {
        let mut slots = Slots::new(2);
        assert!(!slots.streams(100), "nothing is known yet");
        slots.observe(Duration::from_micros(200));
        assert!(slots.streams(4) && !slots.streams(3));
        slots.observe(Duration::from_secs(1));
        assert!(!slots.streams(100));
    }

    #[test]
    fn an_attempt_larger_than_the_worker_takes_all_of_it() {
        let mut slots = Slots::new(4);
        let share = slots.share(9);
        assert!(slots.fits(share));
        slots.take(share);
        assert!(!slots.fits(1));
        slots.give_back(share);
        slots.take(1);
    }
}
