//! The artifact store as this worker uses it: written through, and laid out in a local folder where hosts find the files. With a
//! folder store that is the store itself; with S3 it is a cache into which files are fetched and which is trimmed at start.
//!
//! Nothing reaches user code unverified: a local file is hashed when this process first meets it, unless its size, time and inode
//! are those noted when it was written or verified; what comes from S3 is hashed always.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use causey_artifacts::{Manifest, Object, ObjectLink, Put, Store, StoreError, hash_file};
use causey_protocol::artifact::{blob_path, object_path};
use causey_protocol::backoff::Delays;
use causey_protocol::id::{Digest, RunId, TaskKey};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use crate::cache::{Cache, Stamp};

/// Files remembered as verified in memory; more start it anew. About 200 bytes each.
const REMEMBERED_MAX: usize = 20_000;

/// Smaller files are hashed again by the next process rather than noted on disk, in bytes.
const NOTED_BYTES_MIN: u64 = 64 * 1024;

/// Up to here a file is hashed in place: that takes less time than another thread would, in bytes.
const INLINE_HASH_BYTES_MAX: u64 = 64 * 1024;

/// Objects fetched at the same time when a host asks for several.
const FETCHES_AT_ONCE: usize = 16;

/// Tries of a store call that may work later, within one attempt.
const TRIES_MAX: u32 = 8;

/// The fetched files of an S3 store are trimmed to this at start, oldest first, in bytes.
const FETCHED_BYTES_MAX: u64 = 20 * 1024 * 1024 * 1024;

/// Why an input cannot be given to user code.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DepotError {
    #[error("{path} is not in the artifact store")]
    Missing { path: String },
    #[error("{path} is damaged: its content does not match its digest\nhint: the step that made it can be run again")]
    Damaged { path: String },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Paths with their digests.
pub(crate) type References = Arc<[(String, Digest)]>;

/// What is known of a verified file.
#[derive(Clone, Debug)]
struct Known {
    digest: Digest,
    stamp: Stamp,
    /// Files that an object refers to; they are checked with it.
    refers_to: References,
}

#[derive(Debug)]
pub(crate) struct Depot {
    store: Store,
    /// The files beside an S3 store.
    fetched: Option<Store>,
    root: PathBuf,
    root_text: String,
    cache: Cache,
    known: Mutex<HashMap<String, Known>>,
}

impl Depot {
    /// `folder` is where files of an S3 store are fetched to.
    ///
    /// # Errors
    /// When that folder cannot be made.
    pub(crate) async fn open(store: Store, folder: &Path, cache: Cache) -> Result<Self, causey_artifacts::OpenError> {
        let fetched = match store.root() {
            Some(_) => None,
            None => {
                let fetched = Store::open(&folder.to_string_lossy(), false).await?;
                let folder = folder.to_owned();
                drop(tokio::task::spawn_blocking(move || trim(&folder, FETCHED_BYTES_MAX)));
                Some(fetched)
            }
        };
        let root = fetched.as_ref().unwrap_or(&store).root().unwrap_or(folder).to_owned();
        let root_text = root.to_string_lossy().into_owned();
        Ok(Self { store, fetched, root, root_text, cache, known: Mutex::default() })
    }

    /// Where hosts find `runs/…` and `cas/…`.
    pub(crate) fn root(&self) -> &str {
        &self.root_text
    }

    fn local(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// The attempt's object will be stored soon: does ahead what takes longest then.
    pub(crate) fn prepare(&self, run: RunId, key: &TaskKey) {
        self.store.prepare(&object_path(run, key));
    }

    /// Stores an attempt's object that is in memory and refers to what is verified. The bytes are as durable as the log when this returns (I8).
    ///
    /// # Errors
    /// [`StoreError`] after several tries if it may work later, at once otherwise.
    pub(crate) async fn put_object(&self, link: &ObjectLink, refers_to: References, bytes: Bytes) -> Result<Put, StoreError> {
        let path = link.path();
        let put = patiently(|| self.store.put_if_absent(&path, bytes.clone())).await?;
        if put == Put::Stored {
            if let Some(fetched) = &self.fetched {
                fetched.put_if_absent(&path, bytes.clone()).await?;
            }
            if let Ok(stamp) = Stamp::of(&self.local(&path)) {
                self.remember(&path, Known { digest: link.digest, stamp, refers_to });
            }
        }
        Ok(put)
    }

    /// Stores an attempt's object that is in a file; the file may be gone afterwards.
    ///
    /// # Errors
    /// As [`Depot::put_object`].
    pub(crate) async fn put_object_file(&self, link: &ObjectLink, file: &Path) -> Result<Put, StoreError> {
        self.put_file(&link.path(), file).await
    }

    /// Stores a file by its digest; the file may be gone afterwards.
    ///
    /// # Errors
    /// [`StoreError`] naming the file; also when it changed while it was hashed.
    pub(crate) async fn put_blob_file(&self, file: &Path) -> Result<(Digest, u64), StoreError> {
        let before = Stamp::of(file);
        let hashed = file.to_owned();
        let (digest, bytes) = run_aside(move || hash_file(&hashed)).await?;
        let path = blob_path(&digest);
        self.put_file(&path, file).await?;
        let stored = Stamp::of(&self.local(&path));
        if let (Ok(before), Ok(stored)) = (before, stored)
            && before.inode == stored.inode
            && (before.bytes, before.modified_nanos) == (stored.bytes, stored.modified_nanos)
        {
            self.remember(&path, Known { digest, stamp: stored, refers_to: Arc::default() });
        }
        Ok((digest, bytes))
    }

    /// Stores bytes by their digest.
    ///
    /// # Errors
    /// As [`Depot::put_object`].
    pub(crate) async fn put_blob(&self, bytes: Bytes) -> Result<Digest, StoreError> {
        let digest = Digest::of(&bytes);
        let path = blob_path(&digest);
        patiently(|| self.store.put_if_absent(&path, bytes.clone())).await?;
        Ok(digest)
    }

    async fn put_file(&self, path: &str, file: &Path) -> Result<Put, StoreError> {
        let put = patiently(|| self.store.put_file_if_absent(path, file)).await?;
        if let Some(fetched) = &self.fetched {
            fetched.put_file_if_absent(path, file).await?;
        }
        Ok(put)
    }

    /// The object of an attempt that an earlier delivery has stored already. It is the first writer's, so whatever its bytes are,
    /// they are the attempt's result.
    ///
    /// # Errors
    /// [`DepotError`] when the store does not answer or the object is damaged.
    pub(crate) async fn stored_result(&self, run: RunId, key: &TaskKey) -> Result<Option<Object>, DepotError> {
        let path = object_path(run, key);
        let Some(bytes) = patiently(|| self.store.get(&path)).await? else { return Ok(None) };
        Object::read(bytes).map(Some).map_err(|_| DepotError::Damaged { path })
    }

    /// Content by its digest, in memory: for lists of inputs.
    ///
    /// # Errors
    /// [`DepotError`] when it is missing, damaged or the store does not answer.
    pub(crate) async fn blob(&self, digest: &Digest) -> Result<Bytes, DepotError> {
        let path = blob_path(digest);
        let bytes = patiently(|| self.store.get(&path)).await?.ok_or_else(|| DepotError::Missing { path: path.clone() })?;
        if Digest::of(&bytes) == *digest { Ok(bytes) } else { Err(DepotError::Damaged { path }) }
    }

    /// Sees to it that inputs and all they refer to are what their digests say. With S3, what is not here yet is verified when
    /// it is fetched.
    ///
    /// # Errors
    /// [`DepotError`] naming the file that is missing or damaged.
    pub(crate) async fn verify(&self, links: impl Iterator<Item = ObjectLink>) -> Result<(), DepotError> {
        // The inputs of a join mostly refer to the same files.
        let mut seen = HashSet::new();
        for link in links {
            self.verify_one(&link, &mut seen).await?;
        }
        Ok(())
    }

    /// Brings objects under [`Depot::root`], several at a time; they are there already with a folder store.
    ///
    /// # Errors
    /// [`DepotError`] naming the first that fails.
    pub(crate) async fn bring(&self, links: Vec<ObjectLink>) -> Result<(), DepotError> {
        if self.fetched.is_none() {
            return Ok(());
        }
        let fetches = stream::iter(links).map(|link| async move { self.fetch(&link.path(), &link.digest).await });
        fetches.buffer_unordered(FETCHES_AT_ONCE).try_collect().await
    }

    async fn verify_one(&self, link: &ObjectLink, seen: &mut HashSet<(String, Digest)>) -> Result<(), DepotError> {
        let path = link.path();
        let known = match self.recall(&path, &link.digest) {
            Some(known) => known,
            None if self.fetched.is_some() && !self.local(&path).exists() => return Ok(()),
            None => self.verify_object(&path, &link.digest).await?,
        };
        for reference in known.refers_to.iter() {
            if seen.contains(reference) {
                continue;
            }
            let (referred, digest) = reference;
            let absent = self.fetched.is_some() && !self.local(referred).exists();
            if !absent && self.recall(referred, digest).is_none() {
                self.verify_file(referred, digest).await?;
            }
            seen.insert(reference.clone());
        }
        Ok(())
    }

    /// Brings a file of the store under [`Depot::root`], verified.
    ///
    /// # Errors
    /// [`DepotError`] naming the file.
    pub(crate) async fn fetch(&self, path: &str, digest: &Digest) -> Result<(), DepotError> {
        let target = self.local(path);
        if let Some(fetched) = &self.fetched
            && !target.exists()
        {
            let part = self.root.join("tmp").join(format!("fetch-{}-{}", std::process::id(), path.replace('/', "-")));
            let found = patiently(|| self.store.get_to_file(path, &part)).await?;
            if !found {
                return Err(DepotError::Missing { path: path.to_owned() });
            }
            let hashed = part.clone();
            if run_aside(move || hash_file(&hashed)).await?.0 != *digest {
                let _ = std::fs::remove_file(&part);
                return Err(DepotError::Damaged { path: path.to_owned() });
            }
            fetched.put_file_if_absent(path, &part).await?;
        }
        self.verify_file(path, digest).await.map(drop)
    }

    /// The digest that `path` must have, if it is one of `links` or something these refer to.
    pub(crate) fn expected_digest(&self, path: &str, links: &[ObjectLink]) -> Option<Digest> {
        if let Some(digest) = path.strip_prefix("cas/") {
            return digest.parse().ok();
        }
        if let Some(link) = links.iter().find(|link| link.path() == path) {
            return Some(link.digest);
        }
        links.iter().find_map(|link| {
            let object = Object::read(std::fs::read(self.local(&link.path())).ok()?.into()).ok()?;
            object.manifest.objects.iter().find(|link| link.path() == path).map(|link| link.digest)
        })
    }

    /// What is known of a file, if it has not changed since.
    fn recall(&self, path: &str, digest: &Digest) -> Option<Known> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(path).cloned()?;
        let unchanged = known.digest == *digest && Stamp::of(&self.local(path)).is_ok_and(|stamp| stamp == known.stamp);
        unchanged.then_some(known)
    }

    fn remember(&self, path: &str, known: Known) {
        if known.stamp.bytes >= NOTED_BYTES_MIN {
            self.cache.note_verified(path, known.stamp);
        }
        let mut all = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= REMEMBERED_MAX {
            all.clear();
        }
        all.insert(path.to_owned(), known);
    }

    async fn verify_object(&self, path: &str, digest: &Digest) -> Result<Known, DepotError> {
        let stamp = self.verify_file(path, digest).await?;
        let damaged = || DepotError::Damaged { path: path.to_owned() };
        let local = self.local(path);
        let read = move || std::fs::read(local).ok().and_then(|bytes| Object::read(bytes.into()).ok());
        let object = if stamp.bytes <= INLINE_HASH_BYTES_MAX { read() } else { run_aside(read).await };
        let known = Known { digest: *digest, stamp, refers_to: references(&object.ok_or_else(damaged)?.manifest) };
        self.remember(path, known.clone());
        Ok(known)
    }

    async fn verify_file(&self, path: &str, digest: &Digest) -> Result<Stamp, DepotError> {
        let local = self.local(path);
        let missing = || DepotError::Missing { path: path.to_owned() };
        let stamp = Stamp::of(&local).map_err(|_| missing())?;
        let noted = stamp.bytes >= NOTED_BYTES_MIN && self.cache.was_verified(path, stamp);
        if !noted {
            let found =
                if stamp.bytes <= INLINE_HASH_BYTES_MAX { hash_file(&local)? } else { run_aside(move || hash_file(&local)).await? };
            if found.0 != *digest {
                return Err(DepotError::Damaged { path: path.to_owned() });
            }
        }
        self.remember(path, Known { digest: *digest, stamp, refers_to: Arc::default() });
        Ok(stamp)
    }
}

/// The files an object refers to, with their digests.
pub(crate) fn references(manifest: &Manifest) -> References {
    let objects = manifest.objects.iter().map(|link| (link.path(), link.digest));
    objects.chain(manifest.blobs().into_iter().map(|digest| (blob_path(&digest), digest))).collect()
}

async fn run_aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("file work does not panic")
}

/// Repeats a call that may work later.
async fn patiently<T, F>(call: impl Fn() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let mut delays = Delays::new(Duration::from_millis(50), Duration::from_secs(5));
    let mut tries = 1;
    loop {
        match call().await {
            Err(error) if error.is_transient() && tries < TRIES_MAX => {
                tracing::warn!(%error, tries, "the artifact store failed; trying again");
                tokio::time::sleep(delays.next_delay()).await;
                tries += 1;
            }
            other => return other,
        }
    }
}

/// Removes the files not used longest until at most `bytes_max` are left.
fn trim(root: &Path, bytes_max: u64) {
    let mut files: Vec<(SystemTime, u64, PathBuf)> = vec![];
    let mut folders = vec![root.join("cas"), root.join("runs")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(found) if found.is_dir() => folders.push(entry.path()),
                Ok(found) => files.push((found.modified().unwrap_or(SystemTime::UNIX_EPOCH), found.len(), entry.path())),
                Err(_) => {}
            }
        }
    }
    files.sort();
    let mut bytes: u64 = files.iter().map(|(_, bytes, _)| bytes).sum();
    for (_, size, path) in files {
        if bytes <= bytes_max {
            return;
        }
        if std::fs::remove_file(path).is_ok() {
            bytes -= size;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trimming_removes_the_oldest_files_first() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("runs/r")).unwrap();
        std::fs::create_dir_all(folder.path().join("cas")).unwrap();
        for (name, age) in [("runs/r/old", 100), ("cas/young", 1)] {
            let path = folder.path().join(name);
            std::fs::write(&path, [0; 100]).unwrap();
            let file = std::fs::File::options().write(true).open(&path).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
        }
        trim(folder.path(), 150);
        assert!(!folder.path().join("runs/r/old").exists() && folder.path().join("cas/young").exists());
    }

    /// Row 21 of the fault model.
    #[tokio::test]
    async fn a_file_that_changed_behind_our_back_is_not_handed_out() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store").to_string_lossy(), false).await.unwrap();
        let cache = Cache::open(folder.path().join("cache"));
        let depot = Depot::open(store, &folder.path().join("fetched"), cache).await.unwrap();
        let digest = depot.put_blob(Bytes::from_static(b"content")).await.unwrap();
        let path = blob_path(&digest);
        depot.fetch(&path, &digest).await.unwrap();
        let file = folder.path().join("store").join(&path);
        std::fs::remove_file(&file).unwrap();
        std::fs::write(&file, b"c0ntent").unwrap();
        assert!(matches!(depot.fetch(&path, &digest).await, Err(DepotError::Damaged { .. })));
        std::fs::remove_file(&file).unwrap();
        assert!(matches!(depot.fetch(&path, &digest).await, Err(DepotError::Missing { .. })));
    }
}
