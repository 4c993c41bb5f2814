//! What this worker knows about files from earlier lives: which large ones it has verified, which packages it has unpacked
//! completely. A cache and never the truth: opened in the background, moved aside when damaged, and everything works
//! without it. The only importer of sled.

use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

/// Memory sled may use for pages, in bytes.
const PAGES_BYTES: u64 = 4 * 1024 * 1024;

/// Notes under way to the writing thread; more are dropped, which costs a verification later.
const QUEUE_MAX: usize = 1024;

/// Notes are written together, this often.
const WRITE_PERIOD: Duration = Duration::from_secs(1);

/// With more notes than this at start the cache is begun anew: it has outlived its files.
const NOTES_MAX: usize = 200_000;

/// Begins with another format.
const FORMAT: &[u8] = b"causey worker cache 1";
const FORMAT_KEY: &[u8] = b"format";

/// By what a file is recognised as unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) bytes: u64,
    pub(crate) modified_nanos: i64,
    pub(crate) inode: u64,
}

impl Stamp {
    /// The stamp of the file at `path`.
    ///
    /// # Errors
    /// As `stat`.
    pub(crate) fn of(path: &Path) -> std::io::Result<Self> {
        use std::os::unix::fs::MetadataExt as _;
        let found = std::fs::metadata(path)?;
        let modified_nanos = found.mtime().wrapping_mul(1_000_000_000).wrapping_add(found.mtime_nsec());
        Ok(Self { bytes: found.size(), modified_nanos, inode: found.ino() })
    }

    fn to_bytes(self) -> [u8; 24] {
        let mut out = [0; 24];
        out[..8].copy_from_slice(&self.bytes.to_le_bytes());
        out[8..16].copy_from_slice(&self.modified_nanos.to_le_bytes());
        out[16..].copy_from_slice(&self.inode.to_le_bytes());
        out
    }
}

/// The handle. Dropping the last one writes what is left.
#[derive(Clone, Debug)]
pub(crate) struct Cache {
    database: Arc<OnceLock<Option<sled::Db>>>,
    notes: SyncSender<(String, Vec<u8>)>,
}

impl Cache {
    /// Opens the cache in `folder` on a thread of its own; until that is done it knows nothing.
    pub(crate) fn open(folder: PathBuf) -> Self {
        let database = Arc::new(OnceLock::new());
        let (notes, queue) = sync_channel(QUEUE_MAX);
        let slot = database.clone();
        let spawned = thread::Builder::new().name("causey-cache".into()).spawn(move || {
            let opened = open_or_rebuild(&folder);
            if let Some(database) = slot.get_or_init(|| opened) {
                write_notes(database, &queue);
            }
        });
        if let Err(error) = spawned {
            tracing::warn!(%error, "the worker runs without its cache");
        }
        Self { database, notes }
    }

    /// Notes that the file at `path` has been verified as it is.
    pub(crate) fn note_verified(&self, path: &str, stamp: Stamp) {
        // A full queue drops the note; the file is then verified again.
        let _ = self.notes.try_send((format!("verified/{path}"), stamp.to_bytes().to_vec()));
    }

    /// Whether exactly this file was verified before.
    pub(crate) fn was_verified(&self, path: &str, stamp: Stamp) -> bool {
        self.get(&format!("verified/{path}")).is_some_and(|noted| noted == stamp.to_bytes())
    }

    /// Notes that a package has been unpacked to its end.
    pub(crate) fn note_unpacked(&self, name: &str) {
        let _ = self.notes.try_send((format!("unpacked/{name}"), vec![]));
    }

    /// Whether a package was unpacked to its end. Waits for the opening, at most a second: only asked where a folder exists.
    pub(crate) fn was_unpacked(&self, name: &str) -> bool {
        let deadline = Instant::now() + Duration::from_secs(1);
        while self.database.get().is_none() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(2));
        }
        self.get(&format!("unpacked/{name}")).is_some()
    }

    fn get(&self, key: &str) -> Option<Vec<u8>> {
        let database = self.database.get()?.as_ref()?;
        let found = panic::catch_unwind(AssertUnwindSafe(|| database.get(key)));
        found.ok()?.ok()?.map(|value| value.to_vec())
    }
}

fn open_or_rebuild(folder: &Path) -> Option<sled::Db> {
    if let Some(database) = open_checked(folder) {
        return Some(database);
    }
    let aside = folder.with_extension("damaged");
    let _ = std::fs::remove_dir_all(&aside);
    if std::fs::rename(folder, &aside).is_ok() {
        tracing::warn!(aside = %aside.display(), "the worker's cache is damaged; it was moved aside and is built anew");
    }
    open_checked(folder)
}

/// sled may panic on damaged files; that must not end the worker.
fn open_checked(folder: &Path) -> Option<sled::Db> {
    let open = || -> sled::Result<Option<sled::Db>> {
        let database = sled::Config::new().path(folder).cache_capacity(PAGES_BYTES).flush_every_ms(None).open()?;
        match database.get(FORMAT_KEY)? {
            Some(format) if format != FORMAT => return Ok(None),
            Some(_) if database.len() <= NOTES_MAX => {}
            _ => {
                database.clear()?;
                database.insert(FORMAT_KEY, FORMAT)?;
            }
        }
        Ok(Some(database))
    };
    match panic::catch_unwind(AssertUnwindSafe(open)) {
        Ok(Ok(database)) => database,
        Ok(Err(error)) => {
            tracing::warn!(%error, "cannot open the worker's cache");
            None
        }
        Err(_) => None,
    }
}

/// Until all handles are gone.
fn write_notes(database: &sled::Db, queue: &Receiver<(String, Vec<u8>)>) {
    loop {
        let first = match queue.recv_timeout(WRITE_PERIOD) {
            Ok(first) => first,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => break,
        };
        let mut batch = sled::Batch::default();
        for (key, value) in std::iter::once(first).chain(queue.try_iter().take(QUEUE_MAX)) {
            batch.insert(key.into_bytes(), value);
        }
        let written = panic::catch_unwind(AssertUnwindSafe(|| database.apply_batch(batch)));
        if !matches!(written, Ok(Ok(()))) {
            tracing::warn!("the worker's cache takes no more notes");
            return;
        }
        thread::sleep(WRITE_PERIOD);
    }
    let _ = panic::catch_unwind(AssertUnwindSafe(|| database.flush()));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait_until(what: &str, condition: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !condition() {
            assert!(Instant::now() < deadline, "not in time: {what}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    const STAMP: Stamp = Stamp { bytes: 1, modified_nanos: 2, inode: 3 };

    #[test]
    fn notes_outlive_the_process() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cache");
        let cache = Cache::open(path.clone());
        cache.note_verified("runs/a", STAMP);
        wait_until("the note is written", || cache.was_verified("runs/a", STAMP));
        assert!(!cache.was_verified("runs/a", Stamp { inode: 4, ..STAMP }));
        let database = cache.database.clone();
        drop(cache);
        wait_until("the thread ends", || Arc::strong_count(&database) == 1);
        drop(database);
        let again = Cache::open(path);
        wait_until("the note is found again", || again.was_verified("runs/a", STAMP));
    }

    #[test]
    fn a_damaged_cache_is_built_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cache");
        drop(open_or_rebuild(&path));
        for round in 0..20u8 {
            for entry in std::fs::read_dir(&path).unwrap().flatten().filter(|entry| entry.path().is_file()) {
                let mut bytes = std::fs::read(entry.path()).unwrap();
                let size = bytes.len();
                for (at, byte) in bytes.iter_mut().enumerate().skip(usize::from(round)).step_by(size / 7 + 1) {
                    *byte ^= u8::try_from(at % 255).unwrap() + 1;
                }
                std::fs::write(entry.path(), bytes).unwrap();
            }
            let database = open_or_rebuild(&path).expect("the cache opens whatever its files hold");
            database.insert("k", "v").unwrap();
            database.flush().unwrap();
        }
    }
}
