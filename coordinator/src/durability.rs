//! Whether every NATS server syncs each write before it acknowledges. With its default it syncs every two minutes: an
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
        "the NATS server of {url} does not sync every write (sync_interval is not `always`)\nhint: set `sync_interval: always` in its jetstream block (see deploy/nats), or give --unsafe-durability"
    )]
    NotAlways { url: String },
}

/// Reads the monitoring data of each server that `urls` names, separated by commas, and checks that `sync_interval` is `always`.
///
/// # Errors
/// [`Error`] when it is not, or cannot be read.
pub(crate) async fn check(urls: Option<&str>) -> Result<(), Error> {
    let urls = addresses(urls.unwrap_or_default());
    if urls.is_empty() {
        return Err(Error::Unknown);
    }
    for url in urls {
        let read = async { reqwest::get(&url).await?.error_for_status()?.json::<Value>().await };
        match read.await {
            Ok(varz) if syncs_always(&varz) => {}
            Ok(_) => return Err(Error::NotAlways { url }),
            Err(error) => return Err(Error::Unreadable { url, reason: error.to_string() }),
        }
    }
    Ok(())
}

/// Where the data of each server lies.
fn addresses(urls: &str) -> Vec<String> {
    let named = urls.split(',').map(|url| url.trim().trim_end_matches('/')).filter(|url| !url.is_empty());
    named.map(|url| format!("{url}/varz")).collect()
}

fn syncs_always(varz: &Value) -> bool {
    varz.pointer("/jetstream/config/sync_always").and_then(Value::as_bool) == Some(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_server_of_a_cluster_is_read() {
        assert_eq!(addresses("http://a:8222/, http://b:8222"), ["http://a:8222/varz", "http://b:8222/varz"]);
        assert!(addresses(" ,").is_empty());
    }

    /// Row 12 of the fault model.
    #[test]
    fn only_an_explicit_always_counts() {
        assert!(syncs_always(&json!({"jetstream": {"config": {"sync_always": true, "sync_interval": 120_000_000_000_u64}}})));
        assert!(!syncs_always(&json!({"jetstream": {"config": {"sync_interval": 120_000_000_000_u64}}})));
        assert!(!syncs_always(&json!({})));
    }
}
