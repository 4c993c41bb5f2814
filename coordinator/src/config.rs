//! Settings of the coordinator: defaults in one place, every bound named with its unit.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use causey_protocol::share::{Shares, WEIGHT_MAX};

use crate::upkeep::Settings;

/// How to run a coordinator.
#[derive(Clone, Debug, clap::Args)]
pub struct Config {
    /// Address of the NATS server, with user and password if it asks for them; of a cluster several, separated by commas
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

    /// Name of this coordinator, shown as the leader's; several of an installation should have different ones
    #[arg(long, env = "CAUSEY_COORDINATOR_NAME", default_value = "coordinator")]
    pub name: String,

    /// Seconds a dispatch stays with a worker without a sign of life before another worker gets it
    #[arg(long, env = "CAUSEY_ACK_WAIT_SECONDS", default_value_t = 30)]
    pub ack_wait_seconds: u32,

    /// Size cap of each of the five streams in bytes, which the NATS server reserves; -1 leaves it to the server's store limit. A full
    /// stream refuses, it drops nothing
    #[arg(long, env = "CAUSEY_STREAM_BYTES_MAX", allow_negative_numbers = true, default_value_t = 8 * 1024 * 1024 * 1024)]
    pub stream_bytes_max: i64,

    /// Servers of a NATS cluster that keep a copy of each stream and bucket made by this coordinator; 3 survive the loss of one
    #[arg(long, env = "CAUSEY_REPLICAS", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=5))]
    pub replicas: u8,

    /// Seconds after which a changed state is written as a snapshot
    #[arg(long, env = "CAUSEY_SNAPSHOT_SECONDS", default_value_t = 60)]
    pub snapshot_seconds: u32,

    /// Records after which a snapshot is written sooner
    #[arg(long, env = "CAUSEY_SNAPSHOT_RECORDS", default_value_t = 50_000)]
    pub snapshot_records: u64,

    /// Finished runs kept whole in memory; older ones are read from the artifact store
    #[arg(long, env = "CAUSEY_RUNS_WHOLE_MAX", default_value_t = 200)]
    pub runs_whole_max: u32,

    /// Weight of a tenant (the user of a run): NAME=N, several separated by commas. While several wait for a pool, each gets open tasks in
    /// proportion; whoever is not named has 1
    #[arg(long = "tenant-weight", env = "CAUSEY_TENANT_WEIGHTS", value_name = "NAME=N", value_delimiter = ',')]
    pub tenant_weights: Vec<String>,

    /// Most tasks that all runs of a tenant have open at a time: NAME=N, several separated by commas; `*=N` for everybody who is not named
    #[arg(long = "tenant-window", env = "CAUSEY_TENANT_WINDOWS", value_name = "NAME=N", value_delimiter = ',')]
    pub tenant_windows: Vec<String>,

    /// While this many runs have not ended, no further one is accepted (default: 100000)
    #[arg(long, env = "CAUSEY_RUNS_MAX", value_name = "N")]
    pub runs_max: Option<u32>,

    /// Address of the NATS server's monitoring port, where its sync interval can be read; of a cluster, all servers' with commas between
    #[arg(long, env = "CAUSEY_NATS_MONITORING_URL")]
    pub nats_monitoring_url: Option<String>,

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

impl Config {
    /// What tenants get.
    ///
    /// # Errors
    /// When a weight or a window is not written as `NAME=N`, or out of range.
    pub(crate) fn shares(&self) -> anyhow::Result<Shares> {
        let mut shares = Shares { runs_max: self.runs_max, ..Shares::default() };
        for (name, weight) in named(&self.tenant_weights, "--tenant-weight", WEIGHT_MAX)? {
            shares.tenants.entry(name).or_default().weight = weight;
        }
        let windows = named(&self.tenant_windows, "--tenant-window", u32::MAX)?;
        shares.others.window = windows.iter().find(|(name, _)| name == "*").map(|(_, window)| *window);
        for share in shares.tenants.values_mut() {
            share.window = shares.others.window;
        }
        for (name, window) in windows.into_iter().filter(|(name, _)| name != "*") {
            shares.tenants.entry(name).or_default().window = Some(window);
        }
        Ok(shares)
    }

    pub(crate) fn upkeep(&self) -> Settings {
        Settings {
            snapshot_interval: Duration::from_secs(self.snapshot_seconds.into()),
            snapshot_records: self.snapshot_records,
            runs_whole: self.runs_whole_max,
        }
    }
}

/// Numbers given as `NAME=N`.
fn named(given: &[String], option: &str, max: u32) -> anyhow::Result<Vec<(String, u32)>> {
    let read = |text: &String| {
        let (name, number) = text.split_once('=')?;
        let number = number.trim().parse().ok().filter(|number| (1..=max).contains(number))?;
        Some((name.trim().to_owned(), number))
    };
    let wrong = |text: &String| anyhow::anyhow!("{option} {text:?} is not a name and a number from 1 to {max}, such as ann=3");
    given.iter().map(|text| read(text).ok_or_else(|| wrong(text))).collect()
}

/// Largest pile of unread inputs of each stream in memory, in messages.
pub(crate) const INPUTS_READ_AHEAD: usize = 1_024;

/// Turns of the log that a standby has received and not folded yet.
pub(crate) const TURNS_READ_AHEAD: usize = 64;

/// A turn takes no further input once it holds this many records.
pub(crate) const TURN_RECORDS_MAX: usize = 800;

/// A turn takes no further input once its records have this many bytes.
pub(crate) const TURN_RECORDS_BYTES_MAX: usize = 256 * 1024;

/// How long the leadership key lives without being renewed.
pub const LEADERSHIP_TTL: Duration = Duration::from_secs(3);

/// How often the leadership key is renewed.
pub(crate) const LEADERSHIP_RENEWAL: Duration = Duration::from_secs(1);

/// A publish without an answer for this long is sent again.
pub(crate) const PUBLISH_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the projection may lag behind the committed state.
pub(crate) const PROJECTION_LAG: Duration = Duration::from_millis(500);

/// Changed keys that make the projection follow at once: they take memory, and what changes often is then written once.
pub(crate) const PROJECTION_CHANGES_MAX: usize = 50_000;

/// A worker that said hello and then nothing for this long is lost.
pub(crate) const WORKER_SILENCE_MAX: Duration = Duration::from_secs(25);

/// A pool whose workers have been the same for this long is taken to be all there is: longer than the pause between two hellos.
pub(crate) const POOL_SETTLED: Duration = Duration::from_secs(12);

/// Oldest NATS server that this version works with.
pub(crate) const NATS_VERSION_MIN: (i64, i64, i64) = (2, 15, 1);

#[cfg(test)]
mod tests {
    use causey_protocol::share::Share;

    use super::*;

    #[test]
    fn shares_are_read_from_names_and_numbers() {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            config: Config,
        }
        let shares = |given: &[&str]| {
            let needed = ["causey", "--store", "s", "--projection", "p", "--token-file", "t"];
            let line = <Line as clap::Parser>::try_parse_from(needed.iter().chain(given)).unwrap();
            line.config.shares()
        };
        let found = shares(&["--tenant-weight", "ann=3,bob=2", "--tenant-window", "bob=7", "--tenant-window", "*=50"]).unwrap();
        assert_eq!(found.of("ann"), Share { weight: 3, window: Some(50) });
        assert_eq!(found.of("bob"), Share { weight: 2, window: Some(7) });
        assert_eq!((found.of("eve"), found.runs_max), (Share { weight: 1, window: Some(50) }, None));
        assert!(shares(&[]).unwrap().is_default());
        for wrong in ["ann", "ann=0", "ann=x", "ann=-1"] {
            let told = shares(&["--tenant-weight", wrong]).unwrap_err().to_string();
            assert!(told.contains("--tenant-weight") && told.contains(wrong), "{told}");
        }
    }
}
