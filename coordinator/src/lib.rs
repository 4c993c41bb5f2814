//! The shell around the engine: reads inputs by position, commits turns, performs commands, serves the HTTP API.

pub mod config;

use tokio_util::sync::CancellationToken;

/// Runs a coordinator until `shutdown` or until it cannot go on.
///
/// # Errors
/// When the streams, the store or the projection forbid to lead; the text says which and how to mend it.
pub async fn run(config: config::Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    let _ = (config, shutdown);
    anyhow::bail!("not built yet")
}
