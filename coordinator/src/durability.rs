//! Whether the NATS server syncs every write before it acknowledges. With its default it syncs every two minutes: an
//! acknowledgement then survives kill -9 of the server, but no power loss.

use serde_json::Value;

/// Why durable operation cannot be promised.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "the NATS server's sync interval is unknown, which counts as not safe\nhint: give --nats-monitoring-url, or --unsafe-durability to run without protection against power loss"
    )]
    Unknown,
    #[error("failed to read {url}: {reason}\nhint: check --nats-monitoring-url, or give --unsafe-durability")]
    Unreadable { url: String, reason: String },
    #[error(
        "the NATS server does not sync every write (sync_interval is not `always`)\nhint: set `sync_interval: always` in its jetstream block (see deploy/nats), or give --unsafe-durability"
    )]
    NotAlways,
}

/// Reads the server's monitoring data and checks that `sync_interval` is `always`.
///
/// # Errors
/// [`Error`] when it is not, or cannot be read.
pub(crate) async fn check(monitoring_url: Option<&str>) -> Result<(), Error> {
    let base = monitoring_url.ok_or(Error::Unknown)?;
    let url = format!("{}/varz", base.trim_end_matches('/'));
    let read = async { reqwest::get(&url).await?.error_for_status()?.json::<Value>().await };
    let varz = read.await.map_err(|error: reqwest::Error| Error::Unreadable { url, reason: error.to_string() })?;
    if syncs_always(&varz) { Ok(()) } else { Err(Error::NotAlways) }
}

fn syncs_always(varz: &Value) -> bool {
    varz.pointer("/jetstream/config/sync_always").and_then(Value::as_bool) == Some(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Row 12 of the fault model.
    #[test]
    fn only_an_explicit_always_counts() {
        assert!(syncs_always(&json!({"jetstream": {"config": {"sync_always": true, "sync_interval": 120_000_000_000_u64}}})));
        assert!(!syncs_always(&json!({"jetstream": {"config": {"sync_interval": 120_000_000_000_u64}}})));
        assert!(!syncs_always(&json!({})));
    }
}
