//! The wall clock of this process. It lies here because worker and coordinator have one and this crate is below both. In a debug build a test
//! may put it wrong; release builds have no such place.

use std::time::{SystemTime, UNIX_EPOCH};

use causey_protocol::id::Timestamp;

/// Names a file that holds the seconds by which the clock is wrong, such as `-3600`.
#[cfg(debug_assertions)]
const FILE: &str = "CAUSEY_CLOCK_WRONG_BY";

/// What the wall clock shows.
#[must_use]
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let micros = u64::try_from(since.as_micros()).unwrap_or(u64::MAX);
    Timestamp(micros.saturating_add_signed(wrong_by()))
}

/// Microseconds that a test has asked for.
#[cfg(debug_assertions)]
fn wrong_by() -> i64 {
    use std::path::PathBuf;
    use std::sync::OnceLock;

    static WISH: OnceLock<Option<PathBuf>> = OnceLock::new();
    let file = WISH.get_or_init(|| std::env::var_os(FILE).map(PathBuf::from)).as_ref();
    let text = file.and_then(|file| std::fs::read_to_string(file).ok());
    text.and_then(|text| text.trim().parse::<i64>().ok()).unwrap_or_default().saturating_mul(1_000_000)
}

/// A release build's clock is what the machine says.
#[cfg(not(debug_assertions))]
#[inline(always)]
fn wrong_by() -> i64 {
    0
}
