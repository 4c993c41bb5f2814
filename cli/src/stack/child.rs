//! One process of the stack: it has its own process group, so that Ctrl-C reaches only its owner, and its standard input is a pipe the
//! owner holds, so that it stops when the owner is gone.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio_util::sync::CancellationToken;

use crate::stack::process::{Identity, signal};

/// A log file is begun anew at a start that finds it larger than this, in bytes.
const LOG_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// A running child.
#[derive(Debug)]
pub(crate) struct Owned {
    child: Child,
    /// Dropping it tells the child that its owner is gone.
    leash: Option<ChildStdin>,
    pid: i32,
    note: PathBuf,
}

/// How to ask a child to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asking {
    /// SIGTERM.
    Signal,
    /// Closing its standard input: the guard then stops its program.
    Leash,
}

impl Owned {
    /// Starts `command` with its output going to `log`, and notes who it is in `note`. The child's standard output is given back where
    /// `listen` asks for it.
    pub(crate) fn start(mut command: Command, log: &Path, note: &Path, listen: bool) -> std::io::Result<(Self, Option<ChildStdout>)> {
        let log = open_log(log)?;
        let stdout = if listen { Stdio::piped() } else { log.try_clone()?.into() };
        let mut child = command.stdin(Stdio::piped()).stdout(stdout).stderr(log).process_group(0).spawn()?;
        let (leash, stdout) = (child.stdin.take(), child.stdout.take());
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).unwrap_or_default();
        if let Some(identity) = child.id().and_then(Identity::of) {
            identity.note(note)?;
        }
        Ok((Self { child, leash, pid, note: note.to_owned() }, stdout))
    }

    /// Waits for its end.
    pub(crate) async fn ended(&mut self) -> std::io::Result<ExitStatus> {
        let status = self.child.wait().await;
        let _ = std::fs::remove_file(&self.note);
        status
    }

    /// Asks it to stop, waits up to `grace`, then kills it; at once when `kill` is set.
    pub(crate) async fn stop(mut self, asking: Asking, grace: Duration, kill: &CancellationToken) {
        if !kill.is_cancelled() {
            match asking {
                Asking::Signal => signal(self.pid, Signal::TERM),
                Asking::Leash => drop(self.leash.take()),
            }
            let ended = tokio::select! {
                ended = tokio::time::timeout(grace, self.child.wait()) => ended.is_ok(),
                () = kill.cancelled() => false,
            };
            if ended {
                let _ = std::fs::remove_file(&self.note);
                return;
            }
        }
        signal(self.pid, Signal::KILL);
        let _ = self.ended().await;
    }
}

fn open_log(path: &Path) -> std::io::Result<File> {
    let large = std::fs::metadata(path).is_ok_and(|meta| meta.len() > LOG_BYTES_MAX);
    if large {
        std::fs::remove_file(path)?;
    }
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

/// The last lines of a log, for an error message.
pub(crate) fn last_lines(path: &Path, count: usize) -> Vec<String> {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(8 * 1024)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(count)..].iter().map(|line| (*line).to_owned()).collect()
}
