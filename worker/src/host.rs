//! A runner: one connected process that takes attempts. It holds everything that belongs to the process (socket, pipes, task
//! folder); dropping it ends the process.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use causey_protocol::task::ErrorInfo;
use rustix::fs::{CWD, Mode};
use tokio::net::unix::pipe;
use tokio::process::Child;
use tokio::sync::oneshot;

use crate::connection::Connection;
use crate::frame::FromHost;
use crate::hosts::{Arrival, Folders};
use crate::leftover;
use crate::output::Pipes;
use crate::process::{self, End};
use crate::template::Template;

/// Longest wait for a started or forked runner to say `ready`: importing heavy libraries on a busy machine takes tens of seconds.
pub(crate) const READY_TIMEOUT: Duration = Duration::from_secs(120);

/// Longest wait for the news how a runner ended, after its socket closed.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// Why there is no runner for an attempt.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum HostError {
    #[error("the flow file cannot be imported")]
    Load(Box<ErrorInfo>),
    #[error("the interpreter died while it started")]
    Died { end: Option<End>, tail: String },
    #[error("{0}")]
    System(String),
}

impl HostError {
    pub(crate) fn system(what: &str, error: &io::Error) -> Self {
        Self::System(format!("{what}: {error}"))
    }
}

/// Where a runner's output comes out, and the folder for its attempts, made before the process exists.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) id: String,
    pub(crate) task_folder: PathBuf,
    folders: Folders,
}

impl Place {
    /// # Errors
    /// When the folder cannot be made.
    pub(crate) fn make(folders: &Folders, id: String) -> Result<Self, HostError> {
        let task_folder = folders.tasks.join(&id);
        DirBuilder::new().mode(0o700).create(&task_folder).map_err(|error| HostError::system("cannot make a task folder", &error))?;
        Ok(Self { id, task_folder, folders: folders.clone() })
    }

    /// Makes the two FIFOs and opens their reading ends, so that the runner's open does not wait.
    ///
    /// # Errors
    /// When the system refuses.
    pub(crate) fn fifos(&self) -> Result<Fifos, HostError> {
        let make = |name: &str| -> io::Result<(PathBuf, pipe::Receiver)> {
            let path = self.folders.hosts.join(format!("{}.{name}", self.id));
            rustix::fs::mknodat(CWD, &path, rustix::fs::FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
            let receiver = pipe::OpenOptions::new().open_receiver(&path)?;
            Ok((path, receiver))
        };
        let failed = |error| HostError::system("cannot make a pipe for output", &error);
        let (stdout_path, stdout) = make("out").map_err(failed)?;
        let (stderr_path, stderr) = make("err").map_err(failed)?;
        Ok(Fifos { stdout_path, stderr_path, pipes: Pipes::new(stdout, stderr) })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let (hosts, id, folder) = (self.folders.hosts.clone(), std::mem::take(&mut self.id), std::mem::take(&mut self.task_folder));
        let clean = move || {
            leftover::forget(&hosts, &id);
            // What cannot be removed is removed at the next start.
            let _ = fs::remove_dir_all(folder);
        };
        // Off the loop's thread: the folder may hold gigabytes.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            drop(runtime.spawn_blocking(clean));
        }
    }
}

/// The FIFOs of a runner to be forked. Their names are only needed until it has opened them.
#[derive(Debug)]
pub(crate) struct Fifos {
    pub(crate) stdout_path: PathBuf,
    pub(crate) stderr_path: PathBuf,
    pipes: Pipes,
}

impl Fifos {
    pub(crate) fn into_pipes(self) -> Pipes {
        let names = [self.stdout_path, self.stderr_path];
        drop(tokio::task::spawn_blocking(move || {
            // A name that stays is removed with its folder at the next start.
            names.iter().map(fs::remove_file).for_each(drop);
        }));
        self.pipes
    }
}

/// A process that is ready for an attempt.
#[derive(Debug)]
pub(crate) struct Runner {
    pub(crate) connection: Connection,
    pub(crate) pipes: Pipes,
    pub(crate) pid: i32,
    place: Place,
    /// Where it came from, and goes back to in mode `reuse`.
    home: Template,
    /// The process itself, if it was started and not forked.
    child: Option<Child>,
    /// Its attempts are done: it ends by itself when the socket closes.
    finished: bool,
}

impl Runner {
    /// Waits for the connection of the process expected at `arrival`, and its `ready`.
    ///
    /// # Errors
    /// [`HostError`] when it does not come or cannot import the flow. How it ended is then for the caller to find out.
    pub(crate) async fn receive(arrival: oneshot::Receiver<Arrival>) -> Result<(Connection, i32), HostError> {
        let receive = async {
            let gone = || HostError::Died { end: None, tail: String::new() };
            let Arrival { mut connection, hello } = arrival.await.map_err(|_| gone())?;
            match connection.receive().await {
                Ok(Some(FromHost::Ready)) => Ok((connection, hello.pid)),
                Ok(Some(FromHost::LoadFailed { error })) => Err(HostError::Load(Box::new(error))),
                Ok(Some(_)) => Err(HostError::System("a runner did not say `ready`".into())),
                Ok(None) => Err(gone()),
                Err(error) => Err(HostError::System(error.to_string())),
            }
        };
        let late = || HostError::System(format!("a runner was not ready within {} seconds", READY_TIMEOUT.as_secs()));
        tokio::time::timeout(READY_TIMEOUT, receive).await.map_err(|_| late())?
    }

    pub(crate) fn forked((connection, pid): (Connection, i32), pipes: Pipes, place: Place, home: Template) -> Self {
        let (notes, id) = (place.folders.hosts.clone(), place.id.clone());
        drop(tokio::task::spawn_blocking(move || leftover::note(&notes, &id, pid)));
        Self { connection, pipes, pid, place, home, child: None, finished: false }
    }

    pub(crate) fn started((connection, pid): (Connection, i32), pipes: Pipes, place: Place, home: Template, child: Child) -> Self {
        let mut runner = Self::forked((connection, pid), pipes, place, home);
        runner.child = Some(child);
        runner
    }

    pub(crate) fn id(&self) -> &str {
        &self.place.id
    }

    /// Whether its template knows how it ends.
    pub(crate) fn is_forked(&self) -> bool {
        self.child.is_none()
    }

    /// Whether a process that nobody watches has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().is_ok_and(|status| status.is_some()))
    }

    /// The folder of the current attempt: empty at its start.
    pub(crate) fn task_folder(&self) -> &Path {
        &self.place.task_folder
    }

    /// How the process ended, once its socket has closed; `None` when nobody knows in time.
    pub(crate) async fn how_it_ended(&mut self) -> Option<End> {
        let asked = match &mut self.child {
            Some(child) => tokio::time::timeout(END_TIMEOUT, async { child.wait().await.ok().map(End::from) }).await,
            None => tokio::time::timeout(END_TIMEOUT, self.home.how_ended(&self.place.id)).await,
        };
        asked.ok().flatten()
    }

    /// The attempt is over: in mode `reuse` the process goes back to its template, otherwise it may end.
    pub(crate) fn finish(mut self, reuse: bool) {
        if reuse {
            self.empty_task_folder();
            self.home.clone().give_back(self);
        } else {
            self.finished = true;
        }
    }

    fn empty_task_folder(&self) {
        let Ok(entries) = fs::read_dir(&self.place.task_folder) else { return };
        for entry in entries.flatten() {
            let path = entry.path();
            // What cannot be removed is overwritten by the next attempt or removed with the folder.
            let _ = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        }
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        // A started process has no template that would end what it leaves behind.
        if !self.finished || self.child.is_some() {
            process::kill_group(self.pid);
        }
    }
}
