//! A store in a local folder. A file is written under a temporary name in the same file system and then renamed without
//! replacing, so a reader sees all of it or nothing, and of two writers one wins.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;

use crate::error::StoreError;
use crate::failpoint;
use crate::spare::{self, Spares};
use crate::store::Put;

/// Up to here a write into the page cache is shorter than the way to another thread and back (about 50 µs), in bytes.
const INLINE_BYTES_MAX: usize = 256 * 1024;

/// Nobody changes a stored file: mapped copies of it would change with it.
const STORED_MODE: u32 = 0o444;

static TEMPORARY: AtomicU64 = AtomicU64::new(0);

#[derive(Clone, Debug)]
pub(crate) struct Folder {
    root: Arc<Path>,
    durable: bool,
    spares: Spares,
}

impl Folder {
    pub(crate) fn open(root: &Path, durable: bool) -> Result<Self, StoreError> {
        fs::create_dir_all(root).map_err(|error| StoreError::file("create folder", root, error))?;
        let root = root.canonicalize().map_err(|error| StoreError::file("resolve folder", root, error))?;
        for part in ["cas", "runs", "tmp"] {
            let part = root.join(part);
            fs::create_dir_all(&part).map_err(|error| StoreError::file("create folder", &part, error))?;
        }
        Ok(Self { root: root.into(), durable, spares: Spares::default() })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// Runs in place when that is quick: syncing and large writes go to another thread.
    async fn perform<T: Send + 'static>(&self, bytes: usize, work: impl FnOnce(&Self) -> T + Send + 'static) -> T {
        if !self.durable && bytes <= INLINE_BYTES_MAX {
            return work(self);
        }
        let folder = self.clone();
        tokio::task::spawn_blocking(move || work(&folder)).await.expect("file work does not panic")
    }

    pub(crate) async fn put(&self, path: &str, bytes: Bytes) -> Result<Put, StoreError> {
        let target = self.path(path);
        let spare = self.spares.take();
        self.perform(bytes.len(), move |folder| {
            if let Some(put) = spare.and_then(|file| folder.put_spare(file, &bytes, &target)) {
                return Ok(put);
            }
            let temporary = folder.temporary();
            let written = folder.write(&temporary, &bytes).map_err(|error| StoreError::file("write", &temporary, error));
            folder.settle(&temporary, written.and_then(|()| folder.publish(&temporary, &target)))
        })
        .await
    }

    /// Makes in the background what [`Folder::put`] of `path` will need.
    pub(crate) fn prepare(&self, path: &str) {
        let target = self.path(path);
        // A durable store syncs each folder that it makes, and must not find one that is not.
        let missing = target.parent().filter(|parent| !self.durable && !parent.exists()).map(Path::to_owned);
        self.spares.prepare(self.root.join("tmp"), STORED_MODE, missing);
    }

    pub(crate) async fn put_file(&self, path: &str, file: &Path) -> Result<Put, StoreError> {
        let (target, file) = (self.path(path), file.to_owned());
        self.perform(usize::MAX, move |folder| {
            let failed = |error| StoreError::file("prepare", &file, error);
            fs::set_permissions(&file, Permissions::from_mode(STORED_MODE)).map_err(failed)?;
            if folder.durable {
                File::open(&file).and_then(|file| file.sync_all()).map_err(failed)?;
            }
            match folder.publish(&file, &target) {
                Err(StoreError::File { source, .. }) if source.kind() == io::ErrorKind::CrossesDevices => {
                    let temporary = folder.temporary();
                    let copied = folder.copy(&file, &temporary).map_err(|error| StoreError::file("copy", &file, error));
                    folder.settle(&temporary, copied.and_then(|()| folder.publish(&temporary, &target)))
                }
                other => other,
            }
        })
        .await
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Option<Bytes>, StoreError> {
        let target = self.path(path);
        let size = size_of(&target)?;
        let Some(size) = size else { return Ok(None) };
        let read = move || match fs::read(&target) {
            Ok(bytes) => Ok(Some(Bytes::from(bytes))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::file("read", &target, error)),
        };
        if size <= INLINE_BYTES_MAX as u64 {
            return read();
        }
        tokio::task::spawn_blocking(read).await.expect("file work does not panic")
    }

    pub(crate) async fn get_to_file(&self, path: &str, file: &Path) -> Result<bool, StoreError> {
        let (source, target) = (self.path(path), file.to_owned());
        self.perform(usize::MAX, move |_| match fs::copy(&source, &target) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !source.exists() => Ok(false),
            Err(error) => Err(StoreError::file("copy", &source, error)),
        })
        .await
    }

    pub(crate) fn head(&self, path: &str) -> Result<Option<u64>, StoreError> {
        size_of(&self.path(path))
    }

    pub(crate) async fn list(&self, path: &str) -> Result<Vec<String>, StoreError> {
        let target = self.path(path);
        self.perform(usize::MAX, move |_| {
            let entries = match fs::read_dir(&target) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
                Err(error) => return Err(StoreError::file("list", &target, error)),
            };
            let name = |entry: io::Result<fs::DirEntry>| entry.map(|entry| entry.file_name().to_string_lossy().into_owned());
            entries.map(name).collect::<io::Result<_>>().map_err(|error| StoreError::file("list", &target, error))
        })
        .await
    }

    pub(crate) async fn remove(&self, path: &str) -> Result<(), StoreError> {
        let target = self.path(path);
        self.perform(usize::MAX, move |_| match fs::remove_file(&target) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(StoreError::file("remove", &target, error)),
        })
        .await
    }

    fn temporary(&self) -> PathBuf {
        // The time keeps apart what a process of an earlier boot with the same id left behind.
        let nanos = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        let number = TEMPORARY.fetch_add(1, Ordering::Relaxed);
        self.root.join("tmp").join(format!("{}-{nanos}-{number}", std::process::id()))
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(STORED_MODE).open(path)?;
        file.write_all(bytes)?;
        if self.durable { file.sync_all() } else { Ok(()) }
    }

    /// Stores `bytes` in a file made ahead; `None` when it cannot be done like this.
    fn put_spare(&self, mut file: File, bytes: &[u8], target: &Path) -> Option<Put> {
        file.write_all(bytes).ok()?;
        if self.durable {
            file.sync_all().ok()?;
        }
        self.give_name(target, || spare::name(&file, target)).ok()
    }

    fn copy(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut target = OpenOptions::new().write(true).create_new(true).mode(STORED_MODE).open(to)?;
        io::copy(&mut File::open(from)?, &mut target)?;
        if self.durable { target.sync_all() } else { Ok(()) }
    }

    /// Removes the temporary file unless it was renamed.
    fn settle(&self, temporary: &Path, outcome: Result<Put, StoreError>) -> Result<Put, StoreError> {
        if !matches!(outcome, Ok(Put::Stored)) {
            // Nothing depends on it: names are unique, and a leftover only takes room.
            let _ = fs::remove_file(temporary);
        }
        outcome
    }

    /// Gives a complete file its name, unless the name is taken.
    fn publish(&self, from: &Path, target: &Path) -> Result<Put, StoreError> {
        self.give_name(target, || rename_without_replacing(from, target))
    }

    fn give_name(&self, target: &Path, give: impl Fn() -> Result<(), Errno>) -> Result<Put, StoreError> {
        let parent = target.parent().unwrap_or(&self.root);
        failpoint::here("object.unnamed");
        let mut given = give();
        // Whether or not it is there by now: `prepare` or another writer may have made it since.
        if given == Err(Errno::NOENT) {
            fs::create_dir_all(parent).map_err(|error| StoreError::file("create folder", parent, error))?;
            if self.durable {
                let grandparent = parent.parent().unwrap_or(&self.root);
                sync_folder(grandparent).map_err(|error| StoreError::file("sync folder", grandparent, error))?;
            }
            given = give();
        }
        let put = match given {
            Ok(()) => Put::Stored,
            Err(Errno::EXIST) => Put::Present,
            Err(error) => return Err(StoreError::file("store", target, error.into())),
        };
        failpoint::here("object.named");
        if self.durable {
            // Also when present: the other writer may not have come to its sync yet, and our report will say it is there.
            sync_folder(parent).map_err(|error| StoreError::file("sync folder", parent, error))?;
        }
        Ok(put)
    }
}

fn rename_without_replacing(from: &Path, to: &Path) -> Result<(), Errno> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // NFS and a few others know no such rename: a hard link does not replace either.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
            rustix::fs::link(from, to)?;
            rustix::fs::unlink(from)
        }
        other => other,
    }
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn size_of(path: &Path) -> Result<Option<u64>, StoreError> {
    match fs::metadata(path) {
        Ok(found) => Ok(Some(found.len())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StoreError::file("inspect", path, error)),
    }
}
