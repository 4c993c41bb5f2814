//! What a local stack consists of, decided before anything is started, and the command line of each of its processes.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

use tokio::process::Command;

use crate::arguments::Local;
use crate::exit::Exit;
use crate::fault::{self, Fault};
use crate::python::Interpreter;
use crate::sdk;
use crate::stack::nats::{self, NatsServer};
use crate::state::{Ports, StateFolder, random_hex};

/// The one pool and worker of a local stack.
pub(crate) const POOL: &str = "default";
pub(crate) const WORKER: &str = "local";

/// How long a killed worker's young tasks stay with it, in seconds. Coordinator and worker must agree: the queue redelivers after it.
const ACK_WAIT_SECONDS: &str = "10";

/// A part of the stack, in the order of starting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Nats,
    Coordinator,
    Worker,
}

impl Role {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Nats => "nats-server",
            Self::Coordinator => "coordinator",
            Self::Worker => "worker",
        }
    }
}

/// Why the stack is there; it decides how patient it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `causey dev`: goes on whatever dies, drains at the end.
    Dev,
    /// Started by another command for itself: gives up early, stops fast.
    Private,
}

/// Everything a stack needs to start and to restart its parts in the same place.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) kind: Kind,
    pub(crate) state: StateFolder,
    pub(crate) token: String,
    pub(crate) nats: NatsServer,
    pub(crate) settings: nats::Settings,
    /// Port of the API; 0 for a free one.
    pub(crate) api_port: u16,
    pub(crate) slots: Option<u32>,
    nats_config: PathBuf,
    store: PathBuf,
    projection: PathBuf,
    worker: PathBuf,
    logs: PathBuf,
    program: PathBuf,
    python: PathBuf,
    sdk: PathBuf,
    uv: Option<PathBuf>,
}

impl Plan {
    /// Finds the programs, chooses the ports and creates the folders.
    ///
    /// # Errors
    /// When a program is missing or a folder cannot be used.
    pub(crate) fn new(kind: Kind, state: &StateFolder, local: &Local, tools: Tools<'_>, api_port: u16) -> Result<Self, Fault> {
        let nats = nats::find(local.nats_server.as_deref(), Some(tools.python), tools.near, Some(state))?;
        let program = std::env::current_exe()
            .map_err(|error| Fault::new(Exit::Failed, fault::STACK, "cannot find this program's own file").detail(error))?;
        let port = free_port(state.ports().nats)?;
        let settings = nats::Settings { port, user: "causey".into(), password: random_hex() };
        Ok(Self {
            kind,
            token: state.token()?,
            nats_config: nats::configure(state, &settings)?,
            nats,
            settings,
            api_port,
            slots: local.slots,
            uv: local.uv.clone(),
            store: state.data_folder("store")?,
            projection: state.data_folder("projection")?,
            worker: state.data_folder("worker")?,
            logs: state.folder("logs")?,
            program,
            python: tools.python.path.clone(),
            sdk: tools.sdk.to_owned(),
            state: state.clone(),
        })
    }

    /// Where the process writes what it logs.
    pub(crate) fn log(&self, role: Role) -> PathBuf {
        self.logs.join(format!("{}.log", role.name()))
    }

    /// Where the process is noted, for a later start to find what this one left behind.
    pub(crate) fn note(&self, role: Role) -> PathBuf {
        match role {
            Role::Nats => self.state.file("guard.pid"),
            Role::Coordinator | Role::Worker => self.state.file(&format!("{}.pid", role.name())),
        }
    }

    /// Where the guard notes the nats-server it runs.
    pub(crate) fn nats_note(&self) -> PathBuf {
        self.state.file("nats-server.pid")
    }

    /// The command of a process. `api_port` is the one the API had before, if it was up already.
    pub(crate) fn command(&self, role: Role, api_port: Option<u16>) -> Command {
        let mut command = Command::new(&self.program);
        match role {
            Role::Nats => {
                command
                    .args(["guard", "--pid-file"])
                    .arg(self.nats_note())
                    .arg("--")
                    .arg(&self.nats.path)
                    .arg("--config")
                    .arg(&self.nats_config);
            }
            Role::Coordinator => {
                command
                    .args([
                        "coordinator",
                        "--owned",
                        "--unsafe-durability",
                        "--ack-wait-seconds",
                        ACK_WAIT_SECONDS,
                        "--name",
                        "coordinator",
                        "--store",
                    ])
                    .arg(&self.store);
                command.arg("--projection").arg(&self.projection).arg("--token-file").arg(self.state.file("token"));
                command.arg("--listen").arg(format!("127.0.0.1:{}", api_port.unwrap_or(self.api_port)));
                // The server's own store limit follows the free disk; caps of single streams would have to fit below it at every
                // start, and a stream that does not is not restored.
                command.arg("--stream-bytes-max=-1");
                self.environment(&mut command);
            }
            Role::Worker => {
                command.args([
                    "worker",
                    "--owned",
                    "--unsafe-durability",
                    "--ack-wait-seconds",
                    ACK_WAIT_SECONDS,
                    "--pool",
                    POOL,
                    "--name",
                    WORKER,
                    "--store",
                ]);
                command.arg(&self.store).arg("--folder").arg(&self.worker).arg("--python").arg(&self.python).arg("--sdk").arg(&self.sdk);
                command.arg("--r-sdk").arg(self.sdk.join(sdk::R_FOLDER));
                // The keys to this stack, where files are kept from steps.
                for name in ["token", "nats"] {
                    command.arg("--unreadable").arg(self.state.file(name));
                }
                if let Some(uv) = &self.uv {
                    command.arg("--uv").arg(uv);
                }
                if let Some(slots) = self.slots {
                    command.args(["--slots", &slots.to_string()]);
                }
                self.environment(&mut command);
            }
        }
        command
    }

    /// The password travels in the environment, which only its owner can read; a command line is open to everyone.
    fn environment(&self, command: &mut Command) {
        command.env("CAUSEY_NATS_URL", self.settings.url()).env_remove("CAUSEY_TOKEN");
    }
}

/// What was found before the plan was made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tools<'a> {
    pub(crate) python: &'a Interpreter,
    pub(crate) sdk: &'a Path,
    /// The folder of the flow, or the working directory.
    pub(crate) near: &'a Path,
}

/// Ports tried: below those the kernel gives to outgoing connections (Linux: 32768 and up), which could take one between its
/// choice here and its use.
const PORTS: std::ops::Range<u16> = 10_000..32_000;

/// The port preferred, if it is free, else any. It is free again when this returns, so all processes can be started at once and told
/// where the others will be; losing it in between shows as a process that does not start.
fn free_port(preferred: Option<u16>) -> Result<u16, Fault> {
    let free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    let mut tried = preferred.into_iter().chain((0..100).map(|_| rand::random_range(PORTS)));
    tried.find(free).ok_or_else(|| Fault::new(Exit::Failed, fault::PORT, "no free port on 127.0.0.1"))
}

/// The API's port of a private stack: the last one, so that addresses in people's terminals keep working, or any.
pub(crate) fn private_api_port(ports: Ports) -> u16 {
    ports.api.filter(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok()).unwrap_or(0)
}

/// A port that was asked for by number must be that one.
///
/// # Errors
/// When it is in use.
pub(crate) fn claim_port(port: u16) -> Result<(), Fault> {
    match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
        Ok(_) => Ok(()),
        Err(error) => {
            let exit = if error.kind() == std::io::ErrorKind::AddrInUse { Exit::Conflict } else { Exit::Usage };
            Err(Fault::new(exit, fault::PORT, format!("port {port} on 127.0.0.1 cannot be used"))
                .detail(error)
                .hint("choose another one with --port N, or any with --random-ports"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_named_with_the_way_out() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let fault = claim_port(port).unwrap_err();
        assert!(fault.message.contains(&port.to_string()) && fault.hint.unwrap().contains("--random-ports"));
        assert_eq!(fault.exit, Exit::Conflict);
        assert_ne!(free_port(Some(port)).unwrap(), port);
        assert_eq!(private_api_port(Ports { nats: None, api: Some(port) }), 0);
    }
}
