//! Waiting for a condition with a deadline, instead of sleeping and hoping.

use std::time::{Duration, Instant};

/// How often a condition is looked at.
const EVERY: Duration = Duration::from_millis(20);

/// Looks until there is something to see.
///
/// # Panics
/// When there is nothing after `seconds`; the text names `what` was waited for.
pub async fn until<T>(what: &str, seconds: u64, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(seen) = look().await {
            return seen;
        }
        assert!(begun.elapsed() < Duration::from_secs(seconds), "waited {seconds} s in vain: {what}");
        tokio::time::sleep(EVERY).await;
    }
}

/// Looks until the condition holds.
///
/// # Panics
/// When it does not hold after `seconds`.
pub async fn until_true(what: &str, seconds: u64, mut holds: impl FnMut() -> bool) {
    until(what, seconds, async || holds().then_some(())).await;
}
