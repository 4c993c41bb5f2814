//! Code packages: fetched by digest, verified, unpacked once per worker. The archive is hostile until proven otherwise: only
//! regular files and folders, only beneath the target, within limits; owners and modes of the archive are ignored, but for whether a
//! file is a program.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use causey_artifacts::archive::{self, ArchiveError, Kind};
use causey_artifacts::failpoint;
use causey_protocol::artifact::blob_path;
use causey_protocol::id::Digest;
use tokio::sync::OnceCell;

use crate::cache::Cache;
use crate::depot::{Depot, DepotError};

/// Why a package is not unpacked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PackageError {
    #[error("cannot fetch the code package")]
    Fetch(#[from] DepotError),
    #[error("cannot read the code package")]
    Read(#[source] io::Error),
    #[error("cannot write {}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Archive(#[from] ArchiveError),
}

impl PackageError {
    /// Whether the package itself is to blame, so that no worker will ever unpack it.
    pub(crate) fn is_permanent(&self) -> bool {
        match self {
            Self::Archive(_) => true,
            Self::Fetch(_) | Self::Read(_) | Self::Write { .. } => false,
        }
    }
}

/// The packages unpacked by this worker.
#[derive(Debug)]
pub(crate) struct Packages {
    folder: PathBuf,
    cache: Cache,
    ready: Mutex<HashMap<Digest, Arc<OnceCell<PathBuf>>>>,
}

impl Packages {
    pub(crate) fn new(folder: PathBuf, cache: Cache) -> Self {
        Self { folder, cache, ready: Mutex::default() }
    }

    /// The folder of the unpacked package. Of concurrent calls one unpacks and the others wait for it; a failure is tried again
    /// by the next call.
    ///
    /// # Errors
    /// [`PackageError`].
    pub(crate) async fn unpacked(&self, digest: &Digest, depot: &Depot) -> Result<PathBuf, PackageError> {
        let cell = self.ready.lock().unwrap_or_else(PoisonError::into_inner).entry(*digest).or_default().clone();
        cell.get_or_try_init(|| self.unpack(digest, depot)).await.cloned()
    }

    async fn unpack(&self, digest: &Digest, depot: &Depot) -> Result<PathBuf, PackageError> {
        let path = blob_path(digest);
        depot.fetch(&path, digest).await?;
        let archive = Path::new(depot.root()).join(path);
        let (name, target) = (digest.to_string(), self.folder.join(digest.to_string()));
        let (cache, folder) = (self.cache.clone(), target.clone());
        let work = move || -> Result<(), PackageError> {
            if folder.exists() && cache.was_unpacked(&name) {
                return Ok(());
            }
            let part = folder.with_extension("part");
            clear(&part)?;
            clear(&folder)?;
            fs::create_dir_all(&part).map_err(|source| PackageError::Write { path: part.clone(), source })?;
            unpack_archive(File::open(archive).map_err(PackageError::Read)?, &part)?;
            failpoint::here("package.unpacked");
            fs::rename(&part, &folder).map_err(|source| PackageError::Write { path: folder.clone(), source })?;
            failpoint::here("package.named");
            cache.note_unpacked(&name);
            Ok(())
        };
        tokio::task::spawn_blocking(work).await.expect("unpacking does not panic")?;
        Ok(target)
    }
}

fn clear(folder: &Path) -> Result<(), PackageError> {
    match fs::remove_dir_all(folder) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(PackageError::Write { path: folder.to_owned(), source }),
        _ => Ok(()),
    }
}

/// Unpacks into `target`, a fresh folder nobody else knows: nothing in it is a link, so joining checked parts stays inside.
pub(crate) fn unpack_archive(archive: impl Read, target: &Path) -> Result<(), PackageError> {
    archive::each_entry(archive, |inside, kind, contents| {
        let path = target.join(inside);
        let failed = |source| PackageError::Write { path: path.clone(), source };
        match kind {
            Kind::Folder => fs::create_dir_all(&path).map_err(failed),
            Kind::File { is_program } => {
                fs::create_dir_all(path.parent().unwrap_or(target)).map_err(failed)?;
                let mode = if is_program { 0o755 } else { 0o644 };
                let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&path).map_err(failed)?;
                io::copy(contents, &mut file).map(drop).map_err(failed)
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(name: &[u8], kind: tar::EntryType, size: u64) -> tar::Header {
        let mut header = tar::Header::new_ustar();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name);
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(if name == b"flow.py" { 0o4666 } else { 0o4777 });
        header.set_cksum();
        header
    }

    fn unpack(entries: &[(&[u8], tar::EntryType, &[u8])]) -> (tempfile::TempDir, Result<(), PackageError>) {
        let mut builder = tar::Builder::new(vec![]);
        for (name, kind, content) in entries {
            builder.append(&header(name, *kind, content.len() as u64), *content).unwrap();
        }
        let folder = tempfile::tempdir().unwrap();
        let outcome = unpack_archive(&builder.into_inner().unwrap()[..], folder.path());
        (folder, outcome)
    }

    #[test]
    fn of_a_files_mode_only_counts_whether_it_is_a_program() {
        use std::os::unix::fs::PermissionsExt as _;
        let (folder, outcome) = unpack(&[
            (b"./", tar::EntryType::Directory, b""),
            (b"lib/", tar::EntryType::Directory, b""),
            (b"lib/a.py", tar::EntryType::Regular, b"a = 1\n"),
            (b"flow.py", tar::EntryType::Regular, b""),
        ]);
        outcome.unwrap();
        assert_eq!(fs::read_to_string(folder.path().join("lib/a.py")).unwrap(), "a = 1\n");
        for (name, mode) in [("flow.py", 0o644), ("lib/a.py", 0o755)] {
            assert_eq!(fs::metadata(folder.path().join(name)).unwrap().permissions().mode() & 0o7777 & !0o022, mode);
        }
    }

    /// Row 33 of the fault model.
    #[test]
    fn what_could_reach_outside_leaves_nothing_there() {
        let (folder, outcome) = unpack(&[(b"../evil", tar::EntryType::Regular, b"1")]);
        assert!(matches!(&outcome, Err(error @ PackageError::Archive(ArchiveError::Entry { .. })) if error.is_permanent()), "{outcome:?}");
        assert!(!folder.path().parent().unwrap().join("evil").exists());
    }

    #[test]
    fn a_file_that_is_there_twice_is_refused() {
        let (_folder, outcome) = unpack(&[(b"a", tar::EntryType::Regular, b"1"), (b"a", tar::EntryType::Regular, b"2")]);
        assert!(matches!(outcome, Err(PackageError::Write { .. })));
    }
}
