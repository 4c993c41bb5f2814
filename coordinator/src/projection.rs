//! sled as a copy of the committed state: whatever changed, with the log position it reflects, in one batch. It is read only at
//! start, may be deleted at any time, and is rebuilt from the log when it is missing, damaged or of another format. The only
//! importer of sled.

use std::fs::{File, TryLockError};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use causey_artifacts::failpoint;
use causey_engine::{Change, State};
use causey_protocol::id::Digest;
use serde::{Deserialize, Serialize};

use crate::log::Tail;

/// Names the encoding of everything stored here; another number means another format, and a rebuild.
const FORMAT: u32 = 3;

/// Where sled lies inside the projection's folder.
const FOLDER: &str = "sled";

/// Whose lock says that the copy is in use. sled locks its own file too, but a thread of sled's lets go of that only some time after
/// the database was dropped.
const LOCK: &str = "lock";

/// The file that sled locks, in its folder.
const SLED_FILE: &str = "db";

const HEAD_KEY: &[u8] = &[0];

/// sled's page cache, in bytes: the projection is written often and read once.
const CACHE_BYTES: u64 = 4 * 1024 * 1024;

/// Of the writer's thread; 0 is that of the others.
const NICE: i32 = 10;

/// Why a projection cannot be used. Not fatal: the log has everything.
#[derive(Debug, thiserror::Error)]
enum Damage {
    #[error("sled: {0}")]
    Sled(#[from] sled::Error),
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("another process uses it")]
    InUse,
    #[error("sled panicked")]
    Panic,
    #[error("it has format {found}, this version writes {FORMAT}")]
    Format { found: u32 },
    #[error("an entry cannot be decoded: {0}")]
    Decode(#[from] rmp_serde::decode::Error),
}

#[derive(Serialize, Deserialize)]
struct Head {
    format: u32,
    sequence: u64,
    hash: Digest,
    header: Vec<u8>,
}

/// What to store: the changes of some turns and the position after the last of them.
#[derive(Debug)]
pub struct Checkpoint {
    pub tail: Tail,
    pub header: Vec<u8>,
    pub changes: Vec<Change>,
    /// Whether this is all there is: what was stored before is forgotten.
    pub whole: bool,
}

impl Checkpoint {
    /// The whole of a state.
    #[must_use]
    pub fn whole(state: &State, tail: Tail) -> Self {
        let mut changes = Vec::new();
        state.each_entry(|table, key, value| changes.push(Change { table, key, value: Some(value) }));
        Self { tail, header: state.header(), changes, whole: true }
    }
}

/// Writes checkpoints on a thread of its own; nothing waits for it, and everything else goes first.
#[derive(Debug)]
pub struct Projection {
    sender: Option<mpsc::Sender<Checkpoint>>,
    writer: Option<JoinHandle<()>>,
    /// Checkpoints handed over and not written yet.
    unwritten: Arc<AtomicUsize>,
}

/// The open copy. The lock is the last to go.
struct Copy {
    db: sled::Db,
    _lock: File,
}

impl Projection {
    /// Opens the copy in `folder`: the state it holds and the log position it reflects. A copy that cannot be used is moved aside,
    /// and an empty state returned.
    ///
    /// # Errors
    /// When the folder cannot be written at all.
    pub fn open(folder: &Path) -> std::io::Result<(Self, State, Tail)> {
        std::fs::create_dir_all(folder)?;
        let path = folder.join(FOLDER);
        let (copy, state, tail) = match load(folder) {
            Ok(loaded) => loaded,
            Err(Damage::InUse) => return Err(std::io::Error::new(std::io::ErrorKind::ResourceBusy, Damage::InUse)),
            Err(damage) => {
                let aside = move_aside(&path)?;
                tracing::warn!(%damage, aside = %aside.display(), "the projection cannot be used; it is rebuilt from the log");
                load(folder).map_err(std::io::Error::other)?
            }
        };
        let (sender, receiver) = mpsc::channel();
        let unwritten = Arc::new(AtomicUsize::new(0));
        let left = unwritten.clone();
        let write = move || {
            stand_back();
            write_all(&copy, &receiver, &left);
        };
        let writer = std::thread::Builder::new().name("projection".into()).spawn(write)?;
        Ok((Self { sender: Some(sender), writer: Some(writer), unwritten }, state, tail))
    }

    /// Hands checkpoints to somebody else who keeps them.
    #[must_use]
    pub fn handed_to(keeper: mpsc::Sender<Checkpoint>) -> Self {
        Self { sender: Some(keeper), writer: None, unwritten: Arc::default() }
    }

    /// Looks at the copy in `folder` without changing what it says: `None` when there is none.
    ///
    /// # Errors
    /// Why it cannot be used, in words.
    pub fn look(folder: &Path) -> Result<Option<(State, Tail)>, String> {
        if !folder.join(FOLDER).exists() {
            return Ok(None);
        }
        let (_, state, tail) = load(folder).map_err(|damage| damage.to_string())?;
        Ok((tail.sequence > 0).then_some((state, tail)))
    }

    /// Removes the copy in `folder`.
    ///
    /// # Errors
    /// When another process uses it, or the folder cannot be removed.
    pub fn remove(folder: &Path) -> std::io::Result<()> {
        let path = folder.join(FOLDER);
        if path.exists() {
            if let Err(Damage::InUse) = load(folder) {
                return Err(std::io::Error::new(std::io::ErrorKind::ResourceBusy, Damage::InUse));
            }
            std::fs::remove_dir_all(&path)?;
        }
        Ok(())
    }

    /// Whether a folder holds a copy that knows a log; asked before streams are created.
    #[must_use]
    pub fn knows_a_log(tail: Tail) -> bool {
        tail.sequence > 0
    }

    /// Whether an earlier checkpoint is still to be written: what changes meanwhile is better written once, with the next.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.writer.as_ref().is_some_and(|writer| !writer.is_finished()) && self.unwritten.load(Ordering::Relaxed) > 0
    }

    /// Hands over a checkpoint; a writer that has failed is silently gone, because a stale copy is as good as none.
    pub fn store(&self, checkpoint: Checkpoint) {
        if let Some(sender) = &self.sender {
            self.unwritten.fetch_add(1, Ordering::Relaxed);
            let _ = sender.send(checkpoint);
        }
    }

    /// Waits until everything handed over is on disk.
    pub fn close(&mut self) {
        self.sender = None;
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::warn!("the projection's writer panicked; the copy will be rebuilt");
        }
    }
}

impl Drop for Projection {
    fn drop(&mut self) {
        self.close();
    }
}

fn load(folder: &Path) -> Result<(Copy, State, Tail), Damage> {
    let lock = lock(folder)?;
    catch_unwind(AssertUnwindSafe(|| {
        let db = sled::Config::new().path(folder.join(FOLDER)).cache_capacity(CACHE_BYTES).flush_every_ms(None).open()?;
        let Some(head) = db.get(HEAD_KEY)? else {
            db.clear()?;
            return Ok((Copy { db, _lock: lock }, State::default(), Tail::EMPTY));
        };
        let head: Head = rmp_serde::from_slice(&head)?;
        if head.format != FORMAT {
            return Err(Damage::Format { found: head.format });
        }
        let mut entries = Vec::new();
        for entry in db.range([1]..) {
            let (key, value) = entry?;
            entries.push((key[0], key[1..].to_vec(), value.to_vec()));
        }
        let state = State::restore(&head.header, entries)?;
        Ok((Copy { db, _lock: lock }, state, Tail { sequence: head.sequence, hash: head.hash }))
    }))
    .unwrap_or(Err(Damage::Panic))
}

/// Takes the copy for this process, and waits until the threads of the sled that had it before have let go of it.
fn lock(folder: &Path) -> Result<File, Damage> {
    let lock = File::options().create(true).truncate(false).write(true).open(folder.join(LOCK))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(Damage::InUse),
        Err(TryLockError::Error(error)) => return Err(error.into()),
    }
    match File::open(folder.join(FOLDER).join(SLED_FILE)) {
        Ok(file) => file.lock()?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error.into()),
    }
    Ok(lock)
}

fn move_aside(path: &Path) -> std::io::Result<PathBuf> {
    let aside = path.with_extension("damaged");
    if aside.exists() {
        std::fs::remove_dir_all(&aside)?;
    }
    std::fs::rename(path, &aside)?;
    Ok(aside)
}

/// Takes this thread out of the way of those that the leader waits for, where threads have priorities of their own.
fn stand_back() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICE) {
        tracing::debug!(%error, "the projection's thread keeps its priority");
    }
}

fn write_all(copy: &Copy, receiver: &mpsc::Receiver<Checkpoint>, unwritten: &AtomicUsize) {
    while let Ok(checkpoint) = receiver.recv() {
        if let Err(error) = write(&copy.db, checkpoint) {
            tracing::warn!(%error, "the projection cannot be written; the next start replays the log instead");
            return;
        }
        unwritten.fetch_sub(1, Ordering::Relaxed);
    }
}

fn write(db: &sled::Db, checkpoint: Checkpoint) -> Result<(), sled::Error> {
    if checkpoint.whole {
        // Dying behind this leaves an empty copy, which is as good as none.
        db.clear()?;
    }
    let mut batch = sled::Batch::default();
    for change in checkpoint.changes {
        let mut key = vec![change.table as u8];
        key.extend_from_slice(&change.key);
        match change.value {
            Some(value) => batch.insert(key, value),
            None => batch.remove(key),
        }
    }
    let Checkpoint { tail, header, .. } = checkpoint;
    let head = Head { format: FORMAT, sequence: tail.sequence, hash: tail.hash, header };
    batch.insert(HEAD_KEY, rmp_serde::to_vec_named(&head).expect("the head serializes"));
    failpoint::here("projection.unwritten");
    db.apply_batch(batch)?;
    failpoint::here("projection.written");
    db.flush()?;
    failpoint::here("projection.flushed");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use causey_protocol::id::Timestamp;
    use causey_protocol::record::{Answer, Position, Record, Turn};

    fn filled() -> (State, Tail) {
        let mut state = State::default();
        let records = vec![
            Record::LogOpened { store: uuid::Uuid::from_u128(7) },
            Record::RequestAnswered { id: "r1".parse().unwrap(), answer: Answer::Done },
        ];
        let turn =
            Turn { epoch: 1, at: Timestamp(5), inbox: 3, events: 0, announced: Position::default(), previous: Tail::EMPTY.hash, records };
        state.apply_turn(1, &turn);
        (state, Tail { sequence: 1, hash: Digest::of(b"turn") })
    }

    fn store(folder: &Path) -> (State, Tail) {
        let (mut state, tail) = filled();
        let (projection, _, _) = Projection::open(folder).unwrap();
        projection.store(Checkpoint { tail, header: state.header(), changes: state.take_changes(), whole: false });
        drop(projection);
        (state, tail)
    }

    #[test]
    fn what_was_stored_comes_back_with_the_same_hash() {
        let folder = tempfile::tempdir().unwrap();
        let (state, tail) = store(folder.path());
        let (_, loaded, loaded_tail) = Projection::open(folder.path()).unwrap();
        assert_eq!(loaded.hash(), state.hash());
        assert_eq!(loaded_tail, tail);
    }

    #[test]
    fn a_whole_state_takes_the_place_of_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        store(folder.path());
        let (projection, _, _) = Projection::open(folder.path()).unwrap();
        let (state, tail) = (State::default(), Tail { sequence: 9, hash: Digest::of(b"other") });
        projection.store(Checkpoint::whole(&state, tail));
        drop(projection);
        let (_, loaded, loaded_tail) = Projection::open(folder.path()).unwrap();
        assert_eq!((loaded.hash(), loaded_tail), (state.hash(), tail));
    }

    /// Row 22 of the fault model.
    #[test]
    fn a_copy_whose_files_were_cut_or_flipped_anywhere_is_the_state_it_was_or_an_older_one_or_none() {
        let folder = tempfile::tempdir().unwrap();
        let (state, _) = store(folder.path());
        let model = folder.path().join("model");
        std::fs::rename(folder.path().join(FOLDER), &model).unwrap();
        let files: Vec<_> = std::fs::read_dir(&model).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file()).collect();
        let expected = [state.hash(), State::default().hash()];
        // Reproducible: the places follow from a constant.
        let mut random: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut next = |below: usize| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(random >> 33).unwrap() % below.max(1)
        };
        for round in 0..500 {
            let place = folder.path().join(format!("copy-{round}"));
            let sled = place.join(FOLDER);
            std::fs::create_dir_all(&sled).unwrap();
            for file in &files {
                let mut bytes = std::fs::read(file).unwrap();
                // Behind what was written sled's file is zeros.
                let written = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
                if written > 0 && round % 3 != 0 {
                    bytes[next(written)] ^= 1 << next(8);
                }
                if round % 3 != 1 {
                    bytes.truncate(next(written));
                }
                std::fs::write(sled.join(file.file_name().unwrap()), bytes).unwrap();
            }
            let (_, loaded, _) = Projection::open(&place).unwrap();
            assert!(expected.contains(&loaded.hash()), "round {round} gave a state that never was");
            std::fs::remove_dir_all(&place).unwrap();
        }
    }

    #[test]
    fn a_copy_in_use_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (projection, _, _) = Projection::open(folder.path()).unwrap();
        let refused = Projection::open(folder.path()).unwrap_err();
        assert!(refused.to_string().contains("another process uses it"), "{refused}");
        assert!(Projection::remove(folder.path()).is_err());
        drop(projection);
        Projection::remove(folder.path()).unwrap();
        assert!(Projection::look(folder.path()).unwrap().is_none());
    }

    #[test]
    fn a_missing_copy_is_an_empty_state() {
        let folder = tempfile::tempdir().unwrap();
        let (_, state, tail) = Projection::open(folder.path()).unwrap();
        assert_eq!((state.hash(), tail), (State::default().hash(), Tail::EMPTY));
    }

    #[test]
    fn a_damaged_copy_is_moved_aside() {
        let folder = tempfile::tempdir().unwrap();
        store(folder.path());
        let files = std::fs::read_dir(folder.path().join(FOLDER)).unwrap().map(|entry| entry.unwrap().path());
        for file in files.filter(|path| path.is_file()) {
            std::fs::write(&file, b"rubbish rubbish rubbish").unwrap();
        }
        let (_, state, tail) = Projection::open(folder.path()).unwrap();
        assert_eq!((state.hash(), tail), (State::default().hash(), Tail::EMPTY));
        assert!(folder.path().join("sled.damaged").exists());
    }
}
