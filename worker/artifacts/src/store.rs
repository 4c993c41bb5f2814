//! One face for all kinds of store, with the rules they share: valid paths, write once, an identity.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use causey_protocol::id::Digest;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::{OpenError, StoreError};
use crate::folder::Folder;
use crate::memory::Memory;
use crate::s3::{Bucket, S3Access};

/// The path of the store's identity.
const IDENTITY: &str = "store.json";

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// The bytes are there now, written by this call.
    Stored,
    /// Something was there before; it was left as it is.
    Present,
}

/// An open artifact store. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    id: Uuid,
    backend: Backend,
}

#[derive(Clone, Debug)]
enum Backend {
    Folder(Folder),
    Bucket(Bucket),
    Memory(Memory),
}

#[derive(Serialize, Deserialize)]
struct Identity {
    id: Uuid,
}

impl Store {
    /// Opens the store at `location`, a folder path or `s3://bucket/prefix`, and gives it an identity if it has none.
    /// `durable`: a write to a folder returns only when file and folder are synced; S3 is always durable.
    ///
    /// For S3 the access is taken from the environment, see [`S3Access::from_environment`].
    ///
    /// # Errors
    /// [`OpenError`] naming the location and what is missing.
    pub async fn open(location: &str, durable: bool) -> Result<Self, OpenError> {
        if location.starts_with("s3://") {
            return Self::open_bucket(location, S3Access::from_environment()?).await;
        }
        let backend = if location.is_empty() || location.contains("://") {
            return Err(OpenError::Location { location: location.to_owned() });
        } else {
            let folder = Folder::open(Path::new(location), durable);
            Backend::Folder(folder.map_err(|source| OpenError::Store { location: location.to_owned(), source })?)
        };
        Self::identified(location, backend).await
    }

    /// Opens the store at `location`, `s3://bucket/prefix`.
    ///
    /// # Errors
    /// [`OpenError`] naming the location and what is wrong.
    pub async fn open_bucket(location: &str, access: S3Access) -> Result<Self, OpenError> {
        let rest = location.strip_prefix("s3://").ok_or_else(|| OpenError::Location { location: location.to_owned() })?;
        Self::identified(location, Backend::Bucket(Bucket::open(location, rest, access)?)).await
    }

    /// A store in memory.
    #[must_use]
    pub fn in_memory(memory: Memory) -> Self {
        Self { id: memory.id, backend: Backend::Memory(memory) }
    }

    async fn identified(location: &str, backend: Backend) -> Result<Self, OpenError> {
        let failed = |source| OpenError::Store { location: location.to_owned(), source };
        let mut store = Self { id: Uuid::nil(), backend };
        store.id = store.identity().await.map_err(failed)?.ok_or_else(|| OpenError::Identity { location: location.to_owned() })?;
        Ok(store)
    }

    async fn identity(&self) -> Result<Option<Uuid>, StoreError> {
        let found = match self.get(IDENTITY).await? {
            Some(found) => Some(found),
            None => {
                let fresh = Identity { id: random_id()? };
                let bytes = serde_json::to_vec(&fresh).expect("an id has a JSON form");
                self.put_if_absent(IDENTITY, Bytes::from(bytes)).await?;
                // Whoever was first decides.
                self.get(IDENTITY).await?
            }
        };
        Ok(found.and_then(|bytes| serde_json::from_slice::<Identity>(&bytes).ok()).map(|identity| identity.id))
    }

    /// The identity written when the store was made.
    #[must_use]
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// Writes `bytes` under `path` unless something is there. Of concurrent calls exactly one gets [`Put::Stored`].
    ///
    /// # Errors
    /// [`StoreError`] naming the path; nothing is then visible under it, unless an S3 answer was lost.
    pub async fn put_if_absent(&self, path: &str, bytes: Bytes) -> Result<Put, StoreError> {
        check(path)?;
        match &self.backend {
            Backend::Folder(folder) => folder.put(path, bytes).await,
            Backend::Bucket(bucket) => bucket.put(path, bytes).await,
            Backend::Memory(memory) => memory.put(path, bytes).await,
        }
    }

    /// Bytes will be written under `path` soon: does ahead, in the background, what takes longest then. Call it in a runtime.
    pub fn prepare(&self, path: &str) {
        if let Backend::Folder(folder) = &self.backend
            && check(path).is_ok()
        {
            folder.prepare(path);
        }
    }

    /// Like [`Store::put_if_absent`] with the content of a file that nobody writes any more. A folder takes the file itself when it
    /// is on the same file system (mode 0444); either way the file may be gone afterwards.
    ///
    /// # Errors
    /// [`StoreError`] naming the path or the file.
    pub async fn put_file_if_absent(&self, path: &str, file: &Path) -> Result<Put, StoreError> {
        check(path)?;
        match &self.backend {
            Backend::Folder(folder) => folder.put_file(path, file).await,
            Backend::Bucket(bucket) => bucket.put_file(path, file).await,
            Backend::Memory(memory) => memory.put_file(path, file).await,
        }
    }

    /// The content under `path`, whole; `None` when nothing is there.
    ///
    /// # Errors
    /// [`StoreError`] naming the path.
    pub async fn get(&self, path: &str) -> Result<Option<Bytes>, StoreError> {
        check(path)?;
        match &self.backend {
            Backend::Folder(folder) => folder.get(path).await,
            Backend::Bucket(bucket) => bucket.get(path).await,
            Backend::Memory(memory) => memory.get(path).await,
        }
    }

    /// Writes the content under `path` into `file`, piece by piece; `false` when nothing is there.
    ///
    /// # Errors
    /// [`StoreError`] naming the path or the file.
    pub async fn get_to_file(&self, path: &str, file: &Path) -> Result<bool, StoreError> {
        check(path)?;
        match &self.backend {
            Backend::Folder(folder) => folder.get_to_file(path, file).await,
            Backend::Bucket(bucket) => bucket.get_to_file(path, file).await,
            Backend::Memory(memory) => memory.get_to_file(path, file).await,
        }
    }

    /// The size in bytes of what is under `path`; `None` when nothing is there.
    ///
    /// # Errors
    /// [`StoreError`] naming the path.
    pub async fn head(&self, path: &str) -> Result<Option<u64>, StoreError> {
        check(path)?;
        match &self.backend {
            Backend::Folder(folder) => folder.head(path),
            Backend::Bucket(bucket) => bucket.head(path).await,
            Backend::Memory(memory) => memory.head(path).await,
        }
    }

    /// The names of what lies directly in `folder`, in no order; none when there is no such folder.
    ///
    /// # Errors
    /// [`StoreError`] naming the folder.
    pub async fn list(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        check(folder)?;
        match &self.backend {
            Backend::Folder(local) => local.list(folder).await,
            Backend::Bucket(bucket) => bucket.list(folder).await,
            Backend::Memory(memory) => memory.list(folder).await,
        }
    }

    /// Removes what is under `path`; nothing there is as good.
    ///
    /// # Errors
    /// [`StoreError`] naming the path.
    pub async fn remove(&self, path: &str) -> Result<(), StoreError> {
        check(path)?;
        match &self.backend {
            Backend::Folder(folder) => folder.remove(path).await,
            Backend::Bucket(bucket) => bucket.remove(path).await,
            Backend::Memory(memory) => memory.remove(path).await,
        }
    }

    /// Where `path` lies on this machine, whether or not it exists; `None` where it is not in a folder, and for a path that is none.
    #[must_use]
    pub fn local_path(&self, path: &str) -> Option<PathBuf> {
        check(path).ok()?;
        match &self.backend {
            Backend::Folder(folder) => Some(folder.path(path)),
            Backend::Bucket(_) | Backend::Memory(_) => None,
        }
    }

    /// The folder that holds the store; `None` for one that is not in a folder.
    #[must_use]
    pub fn root(&self) -> Option<&Path> {
        match &self.backend {
            Backend::Folder(folder) => Some(folder.root()),
            Backend::Bucket(_) | Backend::Memory(_) => None,
        }
    }
}

/// The digest and size of a file, read in pieces. Blocks: call it off the runtime's threads when the file may be large.
///
/// # Errors
/// [`StoreError`] naming the file.
pub fn hash_file(path: &Path) -> Result<(Digest, u64), StoreError> {
    let failed = |source| StoreError::file("read", path, source);
    let mut file = File::open(path).map_err(failed)?;
    let mut hasher = blake3::Hasher::new();
    // BLAKE3 reaches its full width at 16 KiB a call; larger pieces save system calls.
    let mut piece = vec![0; 256 * 1024];
    let mut bytes = 0;
    loop {
        let read = file.read(&mut piece).map_err(failed)?;
        if read == 0 {
            return Ok((Digest(*hasher.finalize().as_bytes()), bytes));
        }
        hasher.update(&piece[..read]);
        bytes += read as u64;
    }
}

/// Refuses what could leave the store: absolute paths, `..`, odd characters.
fn check(path: &str) -> Result<(), StoreError> {
    let part_fits = |part: &str| {
        !part.is_empty() && !part.starts_with('.') && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
    };
    if path.len() <= 512 && path.split('/').all(part_fits) {
        Ok(())
    } else {
        Err(StoreError::Path { path: path.chars().take(200).collect() })
    }
}

/// A random id from the kernel: one per store, so no generator is linked for it.
fn random_id() -> Result<Uuid, StoreError> {
    let source = Path::new("/dev/urandom");
    let mut bytes = [0; 16];
    let read = File::open(source).and_then(|mut file| file.read_exact(&mut bytes));
    read.map_err(|error| StoreError::file("read", source, error))?;
    Ok(uuid::Builder::from_random_bytes(bytes).into_uuid())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_could_leave_the_store_is_refused() {
        for path in ["", "/etc/passwd", "../x", "runs/../../x", "runs//x", "runs/.", "a b", "cas/\0", "runs/x/"] {
            assert!(matches!(check(path), Err(StoreError::Path { .. })), "{path:?}");
        }
        assert!(check("runs/0199/ab12").is_ok() && check("store.json").is_ok());
    }
}
