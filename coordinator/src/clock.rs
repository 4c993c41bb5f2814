//! The wall clock, read by the shell alone; the engine gets it as an argument.

use std::time::{SystemTime, UNIX_EPOCH};

use causey_protocol::id::Timestamp;

/// Microseconds since the Unix epoch.
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}
