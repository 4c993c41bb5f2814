//! How a step wants to be run: retries, catch, the kind of host. Times are plain numbers of seconds as people write
//! them; the engine computes with microseconds.

use serde::{Deserialize, Serialize};

use crate::id::hash_fields;
use crate::task::ErrorInfo;

/// Retries the user may ask for at most.
pub const RETRIES_MAX: u32 = 100;

/// Time between the request to end and the kill when the step sets none, in seconds.
pub const GRACE_SECONDS_DEFAULT: f64 = 5.0;

/// Longest grace, in seconds.
pub const GRACE_SECONDS_MAX: f64 = 3_600.0;

/// How long the members of a gang may take to come together when their step sets nothing, in seconds.
pub const GATHER_SECONDS_DEFAULT: f64 = 60.0;

/// Longest timeout of a step or a run, in seconds.
pub const TIMEOUT_SECONDS_MAX: f64 = 365.0 * 86_400.0;

/// Why this number of seconds is no timeout; `None` when it is.
#[must_use]
pub fn timeout_fault(seconds: f64) -> Option<String> {
    let fits = seconds.is_finite() && seconds > 0.0 && seconds <= TIMEOUT_SECONDS_MAX;
    (!fits).then(|| format!("a timeout of {seconds} seconds is not between 0 (excluded) and {TIMEOUT_SECONDS_MAX}"))
}

/// Why this number of seconds is no grace; `None` when it is.
#[must_use]
pub fn grace_fault(seconds: f64) -> Option<String> {
    let fits = seconds.is_finite() && (0.0..=GRACE_SECONDS_MAX).contains(&seconds);
    (!fits).then(|| format!("a grace of {seconds} seconds is not between 0 and {GRACE_SECONDS_MAX}"))
}

/// Seconds as people write them, in microseconds.
#[must_use]
pub fn micros(seconds: f64) -> u64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a float cast saturates")]
    let micros = (seconds * 1e6) as u64;
    micros
}

/// When and how often a failed attempt is tried again. Only failures of user code are charged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetryPolicy {
    /// Charged retries after the first try.
    pub times: u32,
    /// Wait before the first retry, in seconds.
    pub delay_seconds: f64,
    /// Each further wait is this many times the one before.
    #[serde(default = "one")]
    pub factor: f64,
    /// Longest wait, in seconds.
    #[serde(default = "day")]
    pub cap_seconds: f64,
    /// Share of the wait, 0 to 1, that is drawn by chance (from the task's key, so it is the same at every replay).
    #[serde(default)]
    pub jitter: f64,
    /// Names of error classes: only failures of these and of their subclasses are tried again. Empty: all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub on: Vec<String>,
}

fn one() -> f64 {
    1.0
}

fn day() -> f64 {
    86_400.0
}

impl RetryPolicy {
    /// The wait before retry number `retry` (from 1), in microseconds. `seed` makes the jitter: the same seed, the same wait.
    #[must_use]
    pub fn delay_micros(&self, retry: u32, seed: &[u8]) -> u64 {
        let exponent = i32::try_from(retry.saturating_sub(1)).unwrap_or(i32::MAX);
        let wait = (self.delay_seconds * self.factor.powi(exponent)).clamp(0.0, self.cap_seconds);
        let hash = hash_fields("causey retry jitter v1", &[seed, &retry.to_le_bytes()]);
        let chance = f64::from(u32::from_le_bytes([hash[0], hash[1], hash[2], hash[3]])) / f64::from(u32::MAX);
        micros(wait * (1.0 - self.jitter.clamp(0.0, 1.0) * chance))
    }

    /// Whether a failure with this error is one to be tried again.
    #[must_use]
    pub fn covers(&self, error: &ErrorInfo) -> bool {
        let listed = |name: &String| self.on.contains(name);
        self.on.is_empty() || listed(&error.kind) || error.classes.iter().any(listed)
    }

    /// Why these numbers make no policy, in words; `None` when they do.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        let in_range = |value: f64, low: f64, high: f64| value.is_finite() && (low..=high).contains(&value);
        if self.times > RETRIES_MAX {
            return Some(format!("retry asks for {} retries; at most {RETRIES_MAX} are possible", self.times));
        }
        if !in_range(self.delay_seconds, 0.0, 30.0 * day()) || !in_range(self.cap_seconds, 0.0, 30.0 * day()) {
            return Some("a retry's delay and cap are between 0 seconds and 30 days".into());
        }
        if !in_range(self.factor, 1.0, 100.0) {
            return Some(format!("retry factor {} is not between 1 and 100", self.factor));
        }
        if !in_range(self.jitter, 0.0, 1.0) {
            return Some(format!("retry jitter {} is not between 0 and 1", self.jitter));
        }
        if self.on.len() > ERROR_CLASSES_MAX || self.on.iter().any(|name| name.is_empty() || name.len() > ERROR_CLASS_BYTES_MAX) {
            return Some(format!("retry names error classes: at most {ERROR_CLASSES_MAX}, of 1 to {ERROR_CLASS_BYTES_MAX} bytes"));
        }
        None
    }
}

/// Most error classes that a retry may name.
pub const ERROR_CLASSES_MAX: usize = 64;

/// Longest name of one, in bytes.
pub const ERROR_CLASS_BYTES_MAX: usize = 256;

/// Longest version of a memoised step, in bytes.
pub const MEMO_VERSION_BYTES_MAX: usize = 128;

/// A memoised step: later runs take its accepted results where code, inputs and parameters are the same.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemoPolicy {
    /// What stands for the code; `None`: the digest of the flow's code package.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Results older than this are not taken, in seconds. `None`: however old.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_seconds: Option<f64>,
}

impl MemoPolicy {
    /// Why this makes no policy, in words; `None` when it does.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        if self.version.as_ref().is_some_and(|version| version.is_empty() || version.len() > MEMO_VERSION_BYTES_MAX) {
            return Some(format!("the version of a memoised step has 1 to {MEMO_VERSION_BYTES_MAX} bytes"));
        }
        let fits = |seconds: f64| seconds.is_finite() && seconds > 0.0 && seconds <= TIMEOUT_SECONDS_MAX;
        let seconds = self.expires_seconds.filter(|seconds| !fits(*seconds))?;
        Some(format!("results that expire after {seconds} seconds: it is not between 0 (excluded) and {TIMEOUT_SECONDS_MAX}"))
    }
}

/// A step whose final failure is caught: the flow goes on with what the step left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CatchPolicy {
    /// The artifact that takes the exception.
    #[serde(default)]
    pub variable: Option<String>,
}

/// Attempts granted beyond the retries to run the fallback of `catch`, when the process died in the last try.
pub const FALLBACK_ATTEMPTS: u32 = 3;

/// The kind of process a step runs in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HostMode {
    /// A child forked ahead of need from a warm template: fresh and isolated.
    #[default]
    Fork,
    /// One process for many tasks.
    Reuse,
    /// A fresh interpreter.
    Spawn,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> RetryPolicy {
        RetryPolicy { times: 5, delay_seconds: 1.0, factor: 2.0, cap_seconds: 5.0, jitter: 0.0, on: Vec::new() }
    }

    #[test]
    fn waits_grow_by_the_factor_up_to_the_cap() {
        let waits: Vec<u64> = (1..=4).map(|retry| policy().delay_micros(retry, b"task")).collect();
        assert_eq!(waits, [1_000_000, 2_000_000, 4_000_000, 5_000_000]);
    }

    #[test]
    fn jitter_shortens_a_wait_and_is_the_same_each_time() {
        let jittered = RetryPolicy { jitter: 1.0, ..policy() };
        let wait = jittered.delay_micros(1, b"task");
        assert!(wait < 1_000_000);
        assert_eq!(wait, jittered.delay_micros(1, b"task"));
        assert_ne!(wait, jittered.delay_micros(1, b"other"));
    }

    #[test]
    fn a_filter_covers_the_classes_it_names_and_their_subclasses() {
        let error = |kind: &str, classes: &[&str]| ErrorInfo {
            kind: kind.into(),
            classes: classes.iter().map(|class| (*class).to_owned()).collect(),
            ..ErrorInfo::default()
        };
        let filtered = RetryPolicy { on: vec!["OSError".into()], ..policy() };
        assert!(policy().covers(&error("ValueError", &[])));
        assert!(filtered.covers(&error("OSError", &[])));
        assert!(filtered.covers(&error("ConnectionError", &["OSError", "Exception"])));
        assert!(!filtered.covers(&error("ValueError", &["Exception"])));
    }

    #[test]
    fn numbers_out_of_range_are_named() {
        let fault = RetryPolicy { factor: f64::NAN, ..policy() }.fault();
        assert_eq!(fault.unwrap(), "retry factor NaN is not between 1 and 100");
    }
}
