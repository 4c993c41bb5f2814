//! What holds an attempt to the memory and disk it booked: a control group where this worker has been given one, else the watchdog; a
//! bound on the size of files. Attempts that booked neither pay nothing.

use causey_protocol::policy::HostMode;
use causey_protocol::resources::Resources;
use causey_protocol::task::{MemoryKeeper, MemoryLimit};

use crate::cgroup::{Group, Groups};
use crate::host::Runner;
use crate::process::{self, MEGABYTE};
use crate::watchdog;

/// What this worker can do about it.
#[derive(Debug)]
pub(crate) struct Limits {
    groups: Option<Groups>,
    keeps_memory: bool,
}

impl Limits {
    /// `keeps_memory`: whether steps may not use more memory than they booked.
    pub(crate) fn new(keeps_memory: bool) -> Self {
        Self { groups: if keeps_memory { Groups::open() } else { None }, keeps_memory }
    }

    /// Holds a runner to what its attempt needs.
    pub(crate) fn hold(&self, runner: &Runner, needs: &Resources, mode: HostMode) -> Held {
        let files = needs.disk_mb.is_some();
        if let Some(megabytes) = needs.disk_mb {
            process::limit_files(runner.pid, Some(megabytes.saturating_mul(MEGABYTE)));
        }
        let bytes = needs.memory_mb.filter(|_| self.keeps_memory).map(|megabytes| megabytes.saturating_mul(MEGABYTE));
        let Some(bytes) = bytes else { return Held { pid: runner.pid, files, memory: None, group: None } };
        // A process that runs further attempts cannot leave with its group.
        let groups = self.groups.as_ref().filter(|_| mode != HostMode::Reuse);
        let group = groups.and_then(|groups| match groups.enter(runner.id(), runner.pid, bytes, needs.cpu) {
            Ok(group) => Some(group),
            Err(error) => {
                tracing::warn!(%error, "no control group for an attempt; its memory is watched instead");
                None
            }
        });
        let by = if group.is_some() { MemoryKeeper::Cgroup } else { MemoryKeeper::Watchdog };
        Held { pid: runner.pid, files, memory: Some(MemoryLimit { bytes, by }), group }
    }
}

/// A runner that is held to what its attempt booked. Dropping this ends the control group with all that is in it.
#[derive(Debug)]
pub(crate) struct Held {
    pid: i32,
    files: bool,
    memory: Option<MemoryLimit>,
    group: Option<Group>,
}

impl Held {
    pub(crate) fn memory(&self) -> Option<MemoryLimit> {
        self.memory
    }

    /// Whether nobody but the worker looks at its memory.
    pub(crate) fn is_watched(&self) -> bool {
        self.memory.is_some() && self.group.is_none()
    }

    /// The bytes it holds, if those are more than it booked.
    pub(crate) async fn excess(&self) -> Option<u64> {
        let (pid, limit) = (self.pid, self.memory?.bytes);
        // Reading about all processes takes milliseconds, which are not the loop's.
        let held = tokio::task::spawn_blocking(move || watchdog::held_bytes(pid, limit)).await.unwrap_or_default();
        (held > limit).then_some(held)
    }

    /// The most memory it had, if the kernel killed for that.
    pub(crate) fn killed_at(&self) -> Option<u64> {
        let group = self.group.as_ref().filter(|group| group.ran_out())?;
        Some(group.peak_bytes().unwrap_or(self.memory?.bytes))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.files {
            process::limit_files(self.pid, None);
        }
    }
}
