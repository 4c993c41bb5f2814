//! A worker: pulls dispatches of its pool, runs them in hosts, stores what they leave and reports.

pub mod config;

use tokio_util::sync::CancellationToken;

/// Runs a worker until `shutdown`; then drains.
///
/// # Errors
/// When it cannot start: no broker, no store, no writable folder; the text says which and how to mend it.
pub async fn run(config: config::Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    let _ = (config, shutdown);
    anyhow::bail!("not built yet")
}
