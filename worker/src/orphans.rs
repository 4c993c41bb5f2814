//! Processes that outlive the attempt that started them. A daemon leaves its group and its parent, but not this worker: the kernel gives
//! it to the nearest ancestor that takes such children, which is the runner while that lives, and then the worker. So a child of
//! the worker that is none of its hosts has outlived its attempt, and is killed.

use std::collections::HashMap;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions};
use tokio::process::Child;

use crate::family::{self, MARK, Member};

/// Time between two looks: each reads all of `/proc`.
const LOOK_PERIOD: Duration = Duration::from_secs(1);

/// A look may take one part in so many of the time.
const LOOK_SHARE: u32 = 50;

/// The first look after an end: by then the kernel has taken most processes down.
const FIRST_LOOK: Duration = Duration::from_millis(50);

/// Longest wait for the last of them when the worker ends.
const LAST_LOOKS: Duration = Duration::from_secs(1);

/// The hosts that are children of this process: of all workers in it, as it is the process that orphans come to.
static HOSTS: LazyLock<Mutex<Hosts>> = LazyLock::new(Mutex::default);

#[derive(Debug, Default)]
struct Hosts {
    /// By process id: their host ids.
    known: HashMap<i32, String>,
    /// Those that are ending. What they leave behind comes to light once they are gone.
    leaving: Vec<i32>,
}

#[derive(Clone, Debug)]
pub(crate) struct Orphans {
    wake: SyncSender<()>,
}

impl Orphans {
    /// Makes this process the parent of what its hosts leave behind, and looks for it in the background.
    ///
    /// # Errors
    /// When there is no thread for it, or the kernel refuses.
    pub(crate) fn open() -> io::Result<Self> {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        let (wake, woken) = sync_channel(1);
        std::thread::Builder::new().name("causey-orphans".into()).spawn(move || watch(&woken))?;
        Ok(Self { wake })
    }

    /// Starts the host `id`; the lock keeps it from being taken for an orphan.
    ///
    /// # Errors
    /// Those of `spawn`.
    pub(crate) fn adopt(&self, id: &str, spawn: impl FnOnce() -> io::Result<Child>) -> io::Result<Child> {
        let mut hosts = hosts();
        let child = spawn()?;
        if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
            hosts.known.insert(pid, id.to_owned());
        }
        Ok(child)
    }

    /// The host `id` has ended, or is about to.
    pub(crate) fn forget(&self, id: &str) {
        let mut hosts = hosts();
        if let Some(pid) = hosts.known.iter().find(|(_, known)| *known == id).map(|(pid, _)| *pid) {
            hosts.known.remove(&pid);
            hosts.leaving.push(pid);
        }
        drop(hosts);
        self.look();
    }

    /// A host has ended: what it leaves behind is looked for soon.
    pub(crate) fn look(&self) {
        // When it is full, the look that is asked for already does.
        let _ = self.wake.try_send(());
    }
}

fn hosts() -> MutexGuard<'static, Hosts> {
    HOSTS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Looks when asked to, and then until nobody is left.
fn watch(woken: &Receiver<()>) {
    while woken.recv().is_ok() {
        std::thread::sleep(FIRST_LOOK);
        loop {
            let begun = Instant::now();
            let any = sweep(&mut hosts());
            std::thread::sleep(LOOK_PERIOD.max(begun.elapsed() * LOOK_SHARE));
            if !any {
                break;
            }
        }
    }
}

/// Kills what belongs to no host any more, and takes the last word of what has ended. Returns whether to look again.
fn sweep(hosts: &mut Hosts) -> bool {
    let own = rustix::process::getpid().as_raw_pid();
    let everybody = family::everybody();
    let Some(worker) = everybody.iter().find(|member| member.pid == own) else { return false };
    let children: Vec<&Member> = everybody.iter().filter(|member| member.parent == own).collect();
    let is_there = |pid: &i32| children.iter().any(|child| child.pid == *pid);
    hosts.leaving.retain(is_there);
    // Of one that never came to be a host nobody says that it has ended.
    hosts.known.retain(|pid, _| is_there(pid));
    let mut any = !hosts.leaving.is_empty();
    for child in children.into_iter().filter(|child| !hosts.known.contains_key(&child.pid)) {
        if child.is_zombie() {
            bury(child, worker);
        } else if is_orphan(child, worker, hosts) {
            tracing::info!(pid = child.pid, "ending a process that outlived the step that started it");
            kill(child);
            any = true;
        }
    }
    any
}

/// Whether a child of the worker was left behind by a host that is gone. The worker's own tools are not marked and share its session.
fn is_orphan(child: &Member, worker: &Member, hosts: &Hosts) -> bool {
    let host = family::variable(child.pid, "CAUSEY_HOST_ID");
    // A host that does not take such children itself still lives: its attempt goes on. Those of templates do take them.
    let of_living = |id: &Vec<u8>| !id.starts_with(b"t") && hosts.known.values().any(|known| known.as_bytes() == id);
    if host.as_ref().is_some_and(of_living) {
        return false;
    }
    family::variable(child.pid, MARK).is_some() || child.session != worker.session
}

fn kill(member: &Member) {
    if let Some(pid) = Pid::from_raw(member.pid) {
        let _ = rustix::process::kill_process(pid, Signal::KILL);
    }
}

/// Takes the last word of a process that was left to the worker. That of one it started itself is taken where it was started.
fn bury(child: &Member, worker: &Member) {
    let own_leader = child.group == child.pid || child.group == worker.group;
    if child.session == worker.session && own_leader {
        return;
    }
    if let Some(pid) = Pid::from_raw(child.pid) {
        let _ = rustix::process::waitpid(Some(pid), WaitOptions::NOHANG);
    }
}

/// Ends all that hosts left behind, at the end of the worker: no host is to live on.
pub(crate) fn end_all() {
    let enough = Instant::now() + LAST_LOOKS;
    while sweep(&mut hosts()) && Instant::now() < enough {
        std::thread::sleep(FIRST_LOOK / 10);
    }
}

/// Ends what an earlier life of the worker with this folder left behind. What it had noted has been ended already.
pub(crate) fn end_marked(folder: &Path) {
    for member in family::everybody() {
        let is_marked = |value: Vec<u8>| value.strip_prefix(folder.as_os_str().as_bytes()).is_some_and(|rest| rest.starts_with(b"/"));
        if member.is_alive() && family::variable(member.pid, MARK).is_some_and(is_marked) {
            tracing::info!(pid = member.pid, "ending a process that a step of an earlier life of this worker left behind");
            kill(&member);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn only_what_is_marked_with_the_folder_is_ended_at_the_start() {
        let start = |file: &str| Command::new("sleep").arg("60").env(MARK, file).spawn().unwrap();
        let (mut ours, mut other) = (start("/var/lib/one/packages/x/flow.py"), start("/var/lib/one-more/packages/x/flow.py"));
        end_marked(Path::new("/var/lib/one"));
        assert!(!ours.wait().unwrap().success());
        assert!(other.try_wait().unwrap().is_none());
        other.kill().unwrap();
        other.wait().unwrap();
    }
}
