//! Retry timing: waits keep within cap and jitter, grow, and are the same at every replay.

use causey_protocol::policy::{RETRIES_MAX, RetryPolicy, micros};
use proptest::prelude::*;

fn policy() -> impl Strategy<Value = RetryPolicy> {
    let days = 30.0 * 86_400.0;
    (0..=RETRIES_MAX, 0.0..=days, 1.0..=100.0_f64, 0.0..=days, 0.0..=1.0_f64).prop_map(
        |(times, delay_seconds, factor, cap_seconds, jitter)| RetryPolicy {
            times,
            delay_seconds,
            factor,
            cap_seconds,
            jitter,
            on: Vec::new(),
        },
    )
}

proptest! {
    #[test]
    fn a_wait_is_within_cap_and_jitter_and_always_the_same(policy in policy(), retry in 1..=RETRIES_MAX, seed: [u8; 16]) {
        prop_assert_eq!(policy.fault(), None);
        let wait = policy.delay_micros(retry, &seed);
        prop_assert_eq!(wait, policy.delay_micros(retry, &seed));
        let whole = RetryPolicy { jitter: 0.0, ..policy.clone() }.delay_micros(retry, &seed);
        prop_assert!(wait <= whole && whole <= micros(policy.cap_seconds), "{wait} of {whole}");
        // One microsecond for rounding.
        let least = micros(policy.delay_seconds.min(policy.cap_seconds) * (1.0 - policy.jitter));
        prop_assert!(wait + 1 >= least, "{wait} is less than {least}");
    }

    #[test]
    fn waits_without_jitter_never_shrink(policy in policy(), seed: [u8; 16]) {
        let policy = RetryPolicy { jitter: 0.0, ..policy };
        let waits: Vec<u64> = (1..=RETRIES_MAX).map(|retry| policy.delay_micros(retry, &seed)).collect();
        prop_assert!(waits.is_sorted(), "{waits:?}");
        prop_assert_eq!(waits[0], micros(policy.delay_seconds.min(policy.cap_seconds)));
    }

    #[test]
    fn numbers_that_make_no_policy_are_refused(times: u32, delay: f64, factor: f64, cap: f64, jitter: f64) {
        let policy = RetryPolicy { times, delay_seconds: delay, factor, cap_seconds: cap, jitter, on: Vec::new() };
        let fits = times <= RETRIES_MAX && (1.0..=100.0).contains(&factor) && (0.0..=1.0).contains(&jitter);
        if !fits {
            prop_assert!(policy.fault().is_some());
        }
        if policy.fault().is_none() {
            let _ = policy.delay_micros(times, b"task");
        }
    }
}
