//! Nameless files made ahead of need. Making a file costs 10 µs on most file systems, but up to a millisecond on an ext4 without
//! journal, which passes over inodes deleted in the last minutes one by one; a result must not wait for that. Nameless files
//! (`O_TMPFILE`) vanish with the process, so nothing is ever left behind.

use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

/// Files kept: attempts that run at once and will each store a result.
const KEPT_MAX: usize = 64;

/// The files of one folder store.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spares(Arc<Mutex<Vec<File>>>);

impl Spares {
    /// Makes one more file of this mode on the file system of `folder`. Blocks as long as that takes.
    pub(crate) fn add(&self, folder: &Path, mode: u32) {
        if self.0.lock().unwrap_or_else(PoisonError::into_inner).len() >= KEPT_MAX {
            return;
        }
        let flags = OFlags::WRONLY | OFlags::TMPFILE | OFlags::CLOEXEC;
        // NFS and older overlays know no such files; results are then written in the usual way.
        if let Ok(file) = rustix::fs::open(folder, flags, Mode::from_raw_mode(mode)) {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(file.into());
        }
    }

    /// A file that is writable through its handle, if one is there.
    pub(crate) fn take(&self) -> Option<File> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }
}

/// Gives a nameless file its name; `EXIST` when the name is taken. Needs `/proc` (open(2), `O_TMPFILE`).
pub(crate) fn name(file: &File, target: &Path) -> Result<(), Errno> {
    use std::os::fd::AsRawFd as _;
    rustix::fs::linkat(CWD, format!("/proc/self/fd/{}", file.as_raw_fd()), CWD, target, AtFlags::SYMLINK_FOLLOW)
}
