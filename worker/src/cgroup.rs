//! Control groups (version 2) for attempts that booked memory, where somebody has delegated them to this worker: systemd with
//! `Delegate=yes`, or a container with a writable `/sys/fs/cgroup`. The kernel then keeps the limit and says when it had to kill.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Most processes and threads of one attempt.
const PIDS_MAX: u64 = 16_384;

/// The share of one core; the kernel's own default.
const WEIGHT_PER_CORE: f64 = 100.0;

/// Longest wait for the last process of a group to go.
const GONE_TIMEOUT: Duration = Duration::from_secs(2);

/// The group of this worker, with one of its own for each attempt that needs it.
#[derive(Clone, Debug)]
pub(crate) struct Groups(PathBuf);

impl Groups {
    /// Moves this process into a leaf of its own group, so that there may be others beside it. `None` where that is not allowed: then
    /// nothing has changed.
    pub(crate) fn open() -> Option<Self> {
        let own = own_folder()?;
        let controllers = fs::read_to_string(own.join("cgroup.controllers")).ok()?;
        if !["memory", "pids", "cpu"].iter().all(|wanted| controllers.split_whitespace().any(|there| there == *wanted)) {
            return None;
        }
        let leaf = own.join("causey-worker");
        fs::create_dir_all(&leaf).ok()?;
        let pid = std::process::id().to_string();
        let opened =
            fs::write(leaf.join("cgroup.procs"), &pid).and_then(|()| fs::write(own.join("cgroup.subtree_control"), "+memory +pids +cpu"));
        if let Err(error) = opened {
            tracing::debug!(%error, folder = %own.display(), "no control groups for steps: this one is not delegated to the worker alone");
            let _ = fs::write(own.join("cgroup.procs"), &pid);
            let _ = fs::remove_dir(&leaf);
            return None;
        }
        Some(Self(own))
    }

    /// A group for the host `id` and all it starts from now on.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn enter(&self, id: &str, pid: i32, memory_bytes: u64, cores: f64) -> io::Result<Group> {
        let group = Group(self.0.join(format!("causey-{id}")));
        fs::create_dir(&group.0)?;
        group.set("memory.max", &memory_bytes.to_string())?;
        // Without a swap controller there is nothing to forbid.
        let _ = group.set("memory.swap.max", "0");
        group.set("memory.oom.group", "1")?;
        group.set("pids.max", &PIDS_MAX.to_string())?;
        group.set("cpu.weight", &format!("{:.0}", (cores * WEIGHT_PER_CORE).clamp(1.0, 10_000.0)))?;
        group.set("cgroup.procs", &pid.to_string())?;
        Ok(group)
    }
}

/// The group of one attempt. Dropping it kills what is left in it.
#[derive(Debug)]
pub(crate) struct Group(PathBuf);

impl Group {
    fn set(&self, file: &str, value: &str) -> io::Result<()> {
        fs::write(self.0.join(file), value)
    }

    /// Whether the kernel has killed in it for want of memory.
    pub(crate) fn ran_out(&self) -> bool {
        let events = fs::read_to_string(self.0.join("memory.events")).unwrap_or_default();
        events.lines().filter_map(|line| line.strip_prefix("oom_kill ")).any(|count| count.trim() != "0")
    }

    pub(crate) fn peak_bytes(&self) -> Option<u64> {
        fs::read_to_string(self.0.join("memory.peak")).ok()?.trim().parse().ok()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let folder = std::mem::take(&mut self.0);
        let _ = fs::write(folder.join("cgroup.kill"), "1");
        let remove = move || {
            let enough = Instant::now() + GONE_TIMEOUT;
            // A group is busy until the kernel has taken down its last process.
            while fs::remove_dir(&folder).is_err_and(|error| error.kind() == io::ErrorKind::ResourceBusy) && Instant::now() < enough {
                std::thread::sleep(GONE_TIMEOUT / 100);
            }
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}

/// The folder of this process's group in the file system of version 2.
fn own_folder() -> Option<PathBuf> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    Some(Path::new(mount_point(&mounts)?).join(path))
}

/// Where version 2 is mounted: the fifth field of its line in `mountinfo`, whose type follows a dash.
fn mount_point(mounts: &str) -> Option<&str> {
    let line = mounts.lines().find(|line| line.split_once(" - ").is_some_and(|(_, about)| about.starts_with("cgroup2 ")))?;
    line.split_whitespace().nth(4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_is_found_among_others() {
        let mounts = "24 1 0:22 / /proc rw - proc proc rw\n30 24 0:26 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n";
        assert_eq!(mount_point(mounts), Some("/sys/fs/cgroup/unified"));
        assert_eq!(mount_point("24 1 0:22 / /proc rw - proc proc rw\n"), None);
    }

    /// Row 28 of the fault model.
    #[test]
    fn a_process_that_takes_more_than_its_group_has_is_killed_and_that_is_said() {
        let Some(groups) = Groups::open() else {
            eprintln!("skipped: no control groups of version 2 with memory, pids and cpu are delegated to this process");
            return;
        };
        let script = "read line; x=$(head -c 200000000 /dev/zero | tr '\\0' x); echo ${#x}";
        let mut child = std::process::Command::new("sh")
            .args(["-c", script])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let group = groups.enter("test", child.id().try_into().unwrap(), 32 << 20, 1.0).unwrap();
        drop(child.stdin.take());
        assert!(!child.wait().unwrap().success());
        assert!(group.ran_out() && group.peak_bytes().is_none_or(|peak| peak <= 33 << 20));
    }
}
