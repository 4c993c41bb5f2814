//! A runner: one connected process that takes attempts. It holds everything that belongs to the process (socket, pipes, task
//! folder); dropping it ends the process.

use std::collections::VecDeque;
use std::fs::{self, DirBuilder};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use causey_protocol::task::ErrorInfo;
use rustix::fs::{Mode, OFlags, RawDir};
use rustix::pipe::PipeFlags;
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

/// Task folders kept to be used again.
const SPARE_FOLDERS_MAX: usize = 256;

/// How many of them, from the oldest, to look at for one whose process has ended.
const SPARE_LOOKS: usize = 4;

/// Why there is no runner for an attempt.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum HostError {
    #[error("the flow file cannot be imported")]
    Load(Box<ErrorInfo>),
    #[error("the interpreter died while it started")]
    Died { end: Option<End>, tail: String },
    /// The program that runs this language is not there.
    #[error("{message}")]
    Missing { message: String, hint: &'static str },
    #[error("{0}")]
    System(String),
}

impl HostError {
    pub(crate) fn system(what: &str, error: &io::Error) -> Self {
        Self::System(format!("{what}: {error}"))
    }
}

/// The id of a runner and the folder for its attempts, found before the process exists.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) id: String,
    pub(crate) task_folder: PathBuf,
    /// For the temporary files of the process itself, where it has any.
    pub(crate) temporary: Option<PathBuf>,
    folders: Folders,
}

impl Place {
    /// A place in a folder out of [`Spare`].
    pub(crate) fn again(folders: &Folders, id: String, task_folder: PathBuf) -> Self {
        Self { id, task_folder, temporary: None, folders: folders.clone() }
    }

    /// # Errors
    /// When the folder cannot be made.
    pub(crate) fn make(folders: &Folders, id: String) -> Result<Self, HostError> {
        let task_folder = folders.tasks.join(&id);
        DirBuilder::new().mode(0o700).create(&task_folder).map_err(|error| HostError::system("cannot make a task folder", &error))?;
        Ok(Self { id, task_folder, temporary: None, folders: folders.clone() })
    }

    /// Makes the folder for temporary files of the process.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) fn make_temporary(&mut self) -> Result<(), HostError> {
        let folder = self.task_folder.with_extension("tmp");
        DirBuilder::new()
            .mode(0o700)
            .create(&folder)
            .map_err(|error| HostError::system("cannot make a folder for temporary files", &error))?;
        self.temporary = Some(folder);
        Ok(())
    }

    /// The forked runner `pid` needs it no more and ends soon.
    fn spare(&mut self, pid: i32) {
        let task_folder = std::mem::take(&mut self.task_folder);
        self.task_folder = self.folders.spare.put(task_folder, pid).unwrap_or_default();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let folder = std::mem::take(&mut self.task_folder);
        if !folder.as_os_str().is_empty() {
            remove_aside(folder);
        }
        if let Some(folder) = self.temporary.take() {
            remove_aside(folder);
        }
    }
}

/// Removes a folder off the loop's thread: it may hold gigabytes. What cannot be removed is removed at the next start.
fn remove_aside(folder: PathBuf) {
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        drop(runtime.spawn_blocking(move || fs::remove_dir_all(folder)));
    }
}

/// Task folders of forked runners that are ending. Making and removing a folder costs hundreds of microseconds on some disks; most
/// are never touched and are used again.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spare(Arc<Mutex<VecDeque<(PathBuf, i32)>>>);

impl Spare {
    /// Keeps the folder of the runner `pid`; returns it when there are enough.
    fn put(&self, folder: PathBuf, pid: i32) -> Option<PathBuf> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= SPARE_FOLDERS_MAX {
            return Some(folder);
        }
        kept.push_back((folder, pid));
        None
    }

    /// A folder as good as a new one: nobody is left of the process group that had it, and it is empty.
    pub(crate) fn take(&self) -> Option<PathBuf> {
        loop {
            let folder = {
                let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                let over = kept.iter().take(SPARE_LOOKS).position(|(_, pid)| !process::group_exists(*pid))?;
                kept.remove(over)?.0
            };
            if is_fresh(&folder) {
                return Some(folder);
            }
            remove_aside(folder);
        }
    }
}

/// Whether a task folder is what [`Place::make`] makes.
fn is_fresh(folder: &Path) -> bool {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let Ok(opened) = rustix::fs::open(folder, flags, Mode::empty()) else { return false };
    let private = rustix::fs::fstat(&opened).is_ok_and(|found| Mode::from_raw_mode(found.st_mode) == Mode::RWXU);
    private && is_empty(&opened)
}

fn is_empty(folder: &OwnedFd) -> bool {
    let mut space = [MaybeUninit::uninit(); 512];
    let mut entries = RawDir::new(folder, &mut space);
    while let Some(entry) = entries.next() {
        match entry {
            Ok(entry) if matches!(entry.file_name().to_bytes(), b"." | b"..") => {}
            _ => return false,
        }
    }
    true
}

/// Both ends of a runner's output: ours, and those it takes as its descriptors 1 and 2.
pub(crate) fn output_pipes() -> Result<(Pipes, [OwnedFd; 2]), HostError> {
    let make = || -> io::Result<(pipe::Receiver, OwnedFd)> {
        let (ours, theirs) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&ours, true)?;
        Ok((pipe::Receiver::from_owned_fd_unchecked(ours)?, theirs))
    };
    let failed = |error| HostError::system("cannot make a pipe for output", &error);
    let ((stdout, their_stdout), (stderr, their_stderr)) = (make().map_err(failed)?, make().map_err(failed)?);
    Ok((Pipes::new(stdout, stderr), [their_stdout, their_stderr]))
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
        Self { connection, pipes, pid, place, home, child: None, finished: false }
    }

    pub(crate) fn started((connection, pid): (Connection, i32), pipes: Pipes, place: Place, home: Template, child: Child) -> Self {
        // A forked one dies with its template, and this one with the worker, but what it started may live on.
        leftover::note(&place.folders.hosts, &place.id, pid);
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
        if reuse && self.empties_task_folder() {
            self.home.clone().give_back(self);
        } else {
            self.finished = true;
            if self.is_forked() {
                self.home.clone().done(self);
            }
        }
    }

    /// Whether the folder is as good as new for the next attempt.
    fn empties_task_folder(&self) -> bool {
        let folder = &self.place.task_folder;
        if is_fresh(folder) {
            return true;
        }
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            // What stays is seen below.
            let _ = if is_folder { fs::remove_dir_all(entry.path()) } else { fs::remove_file(entry.path()) };
        }
        is_fresh(folder)
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        // A started process has no template that would end what it leaves behind.
        if !self.finished || self.child.is_some() {
            process::kill_group(self.pid);
        } else {
            self.place.spare(self.pid);
        }
        if self.child.is_some() {
            self.place.folders.forget(&self.place.id);
        }
    }
}
