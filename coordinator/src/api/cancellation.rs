//! What a client says that cancels something.

use causey_protocol::id::RequestId;
use serde::Deserialize;

use super::publish::TEXT_BYTES_MAX;
use super::refusal::Refusal;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Cancellation {
    pub(super) request_id: Option<RequestId>,
    pub(super) user: Option<String>,
    #[serde(default)]
    reason: Option<String>,
}

impl Cancellation {
    /// The reason that is given, empty without one.
    ///
    /// # Errors
    /// When it is too long.
    pub(super) fn because(&self) -> Result<String, Refusal> {
        let reason = self.reason.clone().unwrap_or_default();
        if reason.len() > TEXT_BYTES_MAX {
            return Err(Refusal::malformed(format!("`reason` has {} bytes; at most {TEXT_BYTES_MAX} are accepted", reason.len())));
        }
        Ok(reason)
    }
}
