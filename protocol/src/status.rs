//! Status: what a running run tells about itself, by name; the last value wins. Small on purpose: it is in every copy of the state.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::gate::value_fault;
use crate::id::StatusName;

/// Most names that a run may tell about.
pub const STATUS_NAMES_MAX: usize = 32;

/// Largest value, in bytes as JSON.
pub const STATUS_VALUE_BYTES_MAX: usize = 4 * 1024;

/// Values by name.
pub type Values = BTreeMap<StatusName, Value>;

/// Why a value cannot be told, as the end of a sentence; `None` when it can.
#[must_use]
pub fn fault(value: &Value) -> Option<String> {
    value_fault(value, STATUS_VALUE_BYTES_MAX)
}
