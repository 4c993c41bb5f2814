//! Nameless files made ahead of need. Making a file costs 10 µs on most file systems, but up to a millisecond on an ext4 without
//! journal, which passes over inodes deleted in the last minutes one by one; a result must not wait for that. Nameless files
//! (`O_TMPFILE`) vanish with the process, so nothing is ever left behind.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

/// Files made in one go: each go costs a wake-up of another thread.
const KEPT_MAX: usize = 16;

/// From here on more are made.
const KEPT_LOW: usize = 8;

/// The files of one folder store.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spares(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    kept: Mutex<Vec<File>>,
    filling: AtomicBool,
}

impl Spares {
    /// Sees to it, in the background, that files of this mode are there on the file system of `folder`, and makes the folder `missing`.
    /// Call it in a runtime.
    pub(crate) fn prepare(&self, folder: PathBuf, mode: u32, missing: Option<PathBuf>) {
        let few = self.kept(|kept| kept.len() < KEPT_LOW) && !self.0.filling.swap(true, Ordering::AcqRel);
        if !few && missing.is_none() {
            return;
        }
        let spares = self.clone();
        tokio::task::spawn_blocking(move || {
            if let Some(missing) = missing {
                // Whoever writes there makes it if this fails.
                let _ = fs::create_dir_all(missing);
            }
            if few {
                spares.fill(&folder, mode);
                spares.0.filling.store(false, Ordering::Release);
            }
        });
    }

    fn fill(&self, folder: &Path, mode: u32) {
        while self.kept(|kept| kept.len() < KEPT_MAX) {
            let flags = OFlags::WRONLY | OFlags::TMPFILE | OFlags::CLOEXEC;
            // NFS and older overlays know no such files; results are then written in the usual way.
            let Ok(file) = rustix::fs::open(folder, flags, Mode::from_raw_mode(mode)) else { return };
            self.kept(|kept| kept.push(file.into()));
        }
    }

    /// A file that is writable through its handle, if one is there.
    pub(crate) fn take(&self) -> Option<File> {
        self.kept(Vec::pop)
    }

    fn kept<T>(&self, look: impl FnOnce(&mut Vec<File>) -> T) -> T {
        look(&mut self.0.kept.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Gives a nameless file its name; `EXIST` when the name is taken. Needs `/proc` (open(2), `O_TMPFILE`).
pub(crate) fn name(file: &File, target: &Path) -> Result<(), Errno> {
    use std::os::fd::AsRawFd as _;
    rustix::fs::linkat(CWD, format!("/proc/self/fd/{}", file.as_raw_fd()), CWD, target, AtFlags::SYMLINK_FOLLOW)
}
