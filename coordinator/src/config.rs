//! Settings of the coordinator: defaults in one place, every bound named with its unit.

use std::net::SocketAddr;
use std::path::PathBuf;

/// How to run a coordinator.
#[derive(Clone, Debug, clap::Args)]
pub struct Config {
    /// Address of the NATS server, with user and password if it asks for them
    #[arg(long, env = "CAUSEY_NATS_URL", default_value = "nats://127.0.0.1:4222", hide_env_values = true)]
    pub nats_url: String,

    /// Artifact store: a folder or s3://bucket/prefix
    #[arg(long, env = "CAUSEY_STORE")]
    pub store: String,

    /// Folder of the projection; may be deleted at any time while the coordinator is stopped
    #[arg(long, env = "CAUSEY_PROJECTION")]
    pub projection: PathBuf,

    /// Where to serve the HTTP API; port 0 takes a free one, printed as `listening URL` on standard output
    #[arg(long, env = "CAUSEY_LISTEN", default_value = "127.0.0.1:4780")]
    pub listen: SocketAddr,

    /// File that holds the token every API call must carry
    #[arg(long, env = "CAUSEY_TOKEN_FILE")]
    pub token_file: PathBuf,

    /// Name of this coordinator; one that comes back under its old name takes over from itself at once
    #[arg(long, env = "CAUSEY_COORDINATOR_NAME", default_value = "coordinator")]
    pub name: String,

    /// Accept a NATS server that does not sync every write (it survives kill -9, not power loss)
    #[arg(long, env = "CAUSEY_UNSAFE_DURABILITY")]
    pub unsafe_durability: bool,

    /// Accept a NATS server older than 2.15.1
    #[arg(long, env = "CAUSEY_UNSAFE_NATS_VERSION")]
    pub unsafe_nats_version: bool,

    /// Stop when standard input is closed: its owner is gone
    #[arg(long, hide = true)]
    pub owned: bool,
}
