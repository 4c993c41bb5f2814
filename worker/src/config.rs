//! Settings of a worker: defaults in one place, every bound named with its unit.

use std::net::IpAddr;
use std::path::PathBuf;

use causey_protocol::id::{PoolName, WorkerName};

use crate::confine::Sandbox;
use crate::equipment::Said;

/// How to run a worker.
#[derive(Clone, Debug, clap::Args)]
pub struct Config {
    /// Address of the NATS server, with user and password if it asks for them; of a cluster several, separated by commas
    #[arg(long, env = "CAUSEY_NATS_URL", default_value = "nats://127.0.0.1:4222", hide_env_values = true)]
    pub nats_url: String,

    /// Artifact store: a folder or s3://bucket/prefix
    #[arg(long, env = "CAUSEY_STORE")]
    pub store: String,

    /// Folder for unpacked code, task folders and the cache index; may be deleted while the worker is stopped
    #[arg(long, env = "CAUSEY_WORKER_FOLDER")]
    pub folder: PathBuf,

    /// The pool this worker belongs to
    #[arg(long, env = "CAUSEY_POOL", default_value = "default")]
    pub pool: PoolName,

    /// Name of this worker within its pool
    #[arg(long, env = "CAUSEY_WORKER_NAME", default_value = "worker")]
    pub name: WorkerName,

    /// Tasks that run at once (default: the number of cores)
    #[arg(long, env = "CAUSEY_SLOTS")]
    pub slots: Option<u32>,

    #[command(flatten)]
    pub equipment: Said,

    /// End once so many tasks have been run
    #[arg(long, env = "CAUSEY_MAX_TASKS", value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub max_tasks: Option<u64>,

    /// End once there has been nothing to do for so long
    #[arg(long, env = "CAUSEY_EXIT_WHEN_IDLE", value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub exit_when_idle: Option<u64>,

    /// Python interpreter that runs Python steps
    #[arg(long, env = "CAUSEY_PYTHON", default_value = "python3")]
    pub python: PathBuf,

    /// uv, which builds environments for steps that ask for packages (default: beside the Python interpreter, or on PATH)
    #[arg(long, env = "CAUSEY_UV", value_name = "FILE")]
    pub uv: Option<PathBuf>,

    /// Folder of built environments; workers of one machine may share it (default: in the worker's folder)
    #[arg(long, env = "CAUSEY_ENVIRONMENTS", value_name = "FOLDER")]
    pub environments: Option<PathBuf>,

    /// Folder put in front of the interpreter's search path; holds the Causey SDK
    #[arg(long, env = "CAUSEY_SDK")]
    pub sdk: Option<PathBuf>,

    /// Rscript that runs R steps
    #[arg(long, env = "CAUSEY_RSCRIPT", default_value = "Rscript")]
    pub rscript: PathBuf,

    /// Sources of the R package causey (default: the installed package)
    #[arg(long, env = "CAUSEY_R_SDK", value_name = "FOLDER")]
    pub r_sdk: Option<PathBuf>,

    /// The program that runs steps that are commands: `causey` (default: this one)
    #[arg(long, hide = true, value_name = "FILE")]
    pub command_host: Option<PathBuf>,

    /// Secrets that steps may name, each perhaps with * at its end, separated by commas, such as env:DB_*,file:/run/secrets/* (default: all but env:AWS_*)
    #[arg(long, env = "CAUSEY_SECRETS", value_name = "PLACES", value_delimiter = ',')]
    pub secrets: Vec<String>,

    /// A command that answers secrets: a step's command:NAME/ARGUMENT runs PROGRAM with its words and ARGUMENT. May be repeated
    #[arg(long, env = "CAUSEY_SECRET_COMMANDS", value_name = "NAME=PROGRAM", value_delimiter = ';', value_parser = secret_command)]
    pub secret_command: Vec<(String, Vec<String>)>,

    /// IP address under which members of a gang on other machines reach those on this one (default: the one from which the NATS server
    /// is reached)
    #[arg(long, env = "CAUSEY_ADDRESS")]
    pub address: Option<IpAddr>,

    /// Seconds a delivery stays with this worker without a sign of life
    #[arg(long, env = "CAUSEY_ACK_WAIT_SECONDS", default_value_t = 30)]
    pub ack_wait_seconds: u32,

    /// Bytes that must be free on the disks of folder and store: with fewer this worker takes no tasks
    #[arg(long, env = "CAUSEY_FREE_BYTES_MIN", default_value_t = 64 * 1024 * 1024)]
    pub free_bytes_min: u64,

    /// Let steps use more memory than they booked
    #[arg(long, env = "CAUSEY_NO_MEMORY_LIMIT")]
    pub no_memory_limit: bool,

    /// What is kept from steps, beside new privileges
    #[arg(long, env = "CAUSEY_SANDBOX", value_enum, default_value_t)]
    pub sandbox: Sandbox,

    /// File or folder that steps may write to with `--sandbox files`; may be given several times
    #[arg(long, env = "CAUSEY_WRITABLE", value_name = "PATH", value_delimiter = ':')]
    pub writable: Vec<PathBuf>,

    /// File or folder that steps may not read with `--sandbox files`; may be given several times
    #[arg(long, env = "CAUSEY_UNREADABLE", value_name = "PATH", value_delimiter = ':')]
    pub unreadable: Vec<PathBuf>,

    /// Accept a NATS server that does not sync every write; artifacts are then not synced either
    #[arg(long, env = "CAUSEY_UNSAFE_DURABILITY")]
    pub unsafe_durability: bool,

    /// Stop when standard input is closed: its owner is gone
    #[arg(long, hide = true)]
    pub owned: bool,
}

fn secret_command(text: &str) -> Result<(String, Vec<String>), String> {
    let (name, command) = text.split_once('=').ok_or("it is not NAME=PROGRAM")?;
    let words: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
    if words.is_empty() || !causey_protocol::id::is_name(name) {
        return Err("it is not NAME=PROGRAM".into());
    }
    Ok((name.to_owned(), words))
}
