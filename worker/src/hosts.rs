//! All hosts of this worker: the socket they connect to, and a template for each code package in use. Connections find the place
//! where they are expected by the id they repeat in `hello`.

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use causey_protocol::policy::HostMode;
use tokio::net::UnixListener;
use tokio::sync::oneshot;

use crate::connection::Connection;
use crate::frame::{FromHost, Hello, PROTOCOL};
use crate::host::{HostError, Runner, Spare};
use crate::leftover;
use crate::orphans::Orphans;
use crate::process::{FlowCode, Interpreters};
use crate::template::Template;

/// Templates kept at once; each holds the memory of what its flow imports.
const TEMPLATES_MAX: usize = 4;

/// Longest time from a connection to its `hello`.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest path of a Unix socket that every system takes, in bytes.
const SOCKET_PATH_BYTES_MAX: usize = 100;

/// Where things of hosts lie.
#[derive(Clone, Debug)]
pub(crate) struct Folders {
    /// Socket and notes of processes; private.
    pub(crate) hosts: Arc<Path>,
    /// Task folders.
    pub(crate) tasks: Arc<Path>,
    /// Those of them to be used again.
    pub(crate) spare: Spare,
    pub(crate) socket: Arc<Path>,
    /// What hosts leave behind.
    pub(crate) orphans: Orphans,
}

impl Folders {
    /// The host `id` has ended, or is about to.
    pub(crate) fn forget(&self, id: &str) {
        leftover::forget(&self.hosts, id);
        self.orphans.forget(id);
    }
}

/// A host that said `hello`.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) connection: Connection,
    pub(crate) hello: Hello,
}

/// The places where connections are expected, by host id.
#[derive(Clone, Debug, Default)]
pub(crate) struct Expected(Arc<Mutex<HashMap<String, oneshot::Sender<Arrival>>>>);

impl Expected {
    /// A host id that no other host of this worker has.
    pub(crate) fn new_id(&self, kind: char) -> String {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        format!("{kind}{}", NUMBER.fetch_add(1, Ordering::Relaxed))
    }

    /// Where the connection of the host `id` will come.
    pub(crate) fn host(&self, id: &str) -> oneshot::Receiver<Arrival> {
        let (sender, receiver) = oneshot::channel();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned(), sender);
        receiver
    }

    /// The host will not come.
    pub(crate) fn forget(&self, id: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    /// Takes the first line of a connection and hands it to whoever expects the host.
    pub(crate) async fn welcome(self, mut connection: Connection, patience: Duration) {
        let line = tokio::time::timeout(patience, connection.receive()).await;
        let Ok(Ok(Some(FromHost::Hello(hello)))) = line else {
            tracing::warn!("a host did not say hello");
            return;
        };
        if let Err(error) = connection.settle() {
            tracing::warn!(%error, "a host cannot be written to");
            return;
        }
        if hello.protocol != PROTOCOL {
            tracing::error!(found = hello.protocol, known = PROTOCOL, "a host speaks another version of the host protocol; update the SDK");
            return self.forget(&hello.host);
        }
        let expected = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&hello.host);
        match expected {
            Some(sender) => {
                tracing::debug!(host = hello.host, role = ?hello.role, pid = hello.pid, language = hello.language, "host connected");
                // Nobody waits any more: dropping the connection ends the host.
                let _ = sender.send(Arrival { connection, hello });
            }
            None => tracing::warn!(host = hello.host, "an unexpected host connected"),
        }
    }
}

/// What all templates share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) interpreters: Interpreters,
    pub(crate) folders: Folders,
    pub(crate) expected: Expected,
    /// Attempts that run at once.
    pub(crate) slots: usize,
}

#[derive(Debug)]
pub(crate) struct Hosts {
    shared: Arc<Shared>,
    templates: Mutex<HashMap<FlowCode, (Template, Instant)>>,
    /// Removed with this, when the socket had to lie elsewhere.
    socket_folder: Option<PathBuf>,
}

impl Hosts {
    /// Opens the socket and takes connections in the background. `hosts` and `tasks` are existing private folders.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub(crate) fn open(interpreters: Interpreters, hosts: &Path, tasks: &Path, slots: u32) -> io::Result<Self> {
        let (socket, socket_folder) = socket_place(hosts)?;
        let listener = UnixListener::bind(&socket)?;
        let expected = Expected::default();
        tokio::spawn(accept(listener, expected.clone()));
        let orphans = interpreters.orphans.clone();
        let folders = Folders { hosts: hosts.into(), tasks: tasks.into(), spare: Spare::default(), socket: socket.into(), orphans };
        let shared = Arc::new(Shared { interpreters, folders, expected, slots: slots as usize });
        Ok(Self { shared, templates: Mutex::default(), socket_folder })
    }

    /// Whether the worker was told where the SDK for Python is.
    pub(crate) fn has_python_sdk(&self) -> bool {
        self.shared.interpreters.python.sdk.is_some()
    }

    /// Starts the template of `code` unless it is there, without waiting for it.
    pub(crate) fn prepare(&self, code: &FlowCode, mode: HostMode) {
        self.template(code).prepare(mode);
    }

    /// A process that is ready to run an attempt in `mode`.
    ///
    /// # Errors
    /// [`HostError`] when the flow cannot be imported or no process comes to be.
    pub(crate) async fn runner(&self, code: &FlowCode, mode: HostMode) -> Result<Runner, HostError> {
        self.template(code).runner(mode).await
    }

    fn template(&self, code: &FlowCode) -> Template {
        let mut templates = self.templates.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if let Some((template, used)) = templates.get_mut(code) {
            *used = now;
            return template.clone();
        }
        if templates.len() >= TEMPLATES_MAX {
            let oldest = templates.iter().min_by_key(|(_, (_, used))| *used).map(|(code, _)| code.clone());
            // It ends once its runners are done: nobody asks it for new ones any more.
            if let Some((template, _)) = oldest.and_then(|oldest| templates.remove(&oldest)) {
                template.retire();
            }
        }
        let template = Template::new(self.shared.clone(), code.clone());
        templates.insert(code.clone(), (template.clone(), now));
        template
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        if let Some(folder) = &self.socket_folder {
            let _ = std::fs::remove_dir_all(folder);
        }
    }
}

/// The socket's path: with the other things of hosts, or in a private folder of its own where that path is too long.
fn socket_place(hosts: &Path) -> io::Result<(PathBuf, Option<PathBuf>)> {
    let socket = hosts.join("socket");
    if socket.as_os_str().len() <= SOCKET_PATH_BYTES_MAX {
        return Ok((socket, None));
    }
    let nanos = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    let folder = std::env::temp_dir().join(format!("causey-{}-{nanos:x}", std::process::id()));
    // Fails if the folder is there, so nobody else can have prepared it.
    std::fs::DirBuilder::new().mode(0o700).create(&folder)?;
    Ok((folder.join("socket"), Some(folder)))
}

async fn accept(listener: UnixListener, expected: Expected) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(expected.clone().welcome(Connection::new(stream), HELLO_TIMEOUT))),
            Err(error) => {
                // Out of descriptors, most likely: they come back when tasks end.
                tracing::warn!(%error, "cannot take a host's connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}
