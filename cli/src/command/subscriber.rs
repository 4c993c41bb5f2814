//! A subscriber's memory: up to where it has acted, and the last ids it has acted on. Written durably after each act, so a subscriber
//! acts once, unless it dies between acting and noting; then it acts again on an event with the same id.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::exit::Exit;
use crate::fault::{self, Fault};
use crate::state::{StateFolder, write_durably};

/// Ids remembered to tell duplicates.
const IDS_MAX: usize = 1_000;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Memory {
    /// The `Causey-Sequence` to go on behind.
    #[serde(default)]
    position: Option<String>,
    #[serde(default)]
    ids: VecDeque<String>,
}

/// A named subscriber, held by one process at a time.
#[derive(Debug)]
pub(crate) struct Subscriber {
    file: PathBuf,
    memory: Memory,
    _lock: File,
}

impl Subscriber {
    /// Reads what the subscriber knows.
    ///
    /// # Errors
    /// When another process holds the name, or its file is damaged or cannot be used.
    pub(crate) fn open(state: &StateFolder, name: &str) -> Result<Self, Fault> {
        if !causey_protocol::id::is_name(name) {
            return Err(Fault::new(Exit::Usage, fault::ARGUMENT, format!("{name:?} is no name for a subscriber"))
                .hint("use 1 to 64 of the characters A-Z a-z 0-9 _ -"));
        }
        let folder = state.folder("subscribers")?;
        let lock_path = folder.join(format!("{name}.lock"));
        let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&lock_path);
        let lock = lock.map_err(|error| Fault::state("open", &lock_path, &error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Fault::new(Exit::Conflict, fault::HELD, format!("subscriber {name} is in use by another process"))
                    .hint("stop that one, or choose another name"));
            }
            Err(TryLockError::Error(error)) => return Err(Fault::state("lock", &lock_path, &error)),
        }
        let file = folder.join(format!("{name}.json"));
        let memory = match fs::read(&file) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| {
                let fault =
                    Fault::new(Exit::Failed, fault::STATE, format!("the subscriber's file {} is damaged", file.display())).detail(error);
                fault.hint("correct it, or remove it to begin anew")
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Memory::default(),
            Err(error) => return Err(Fault::state("read", &file, &error)),
        };
        Ok(Self { file, memory, _lock: lock })
    }

    pub(crate) fn position(&self) -> Option<&str> {
        self.memory.position.as_deref()
    }

    /// Whether this event has been acted on.
    pub(crate) fn knows(&self, id: &str) -> bool {
        self.memory.ids.iter().any(|known| known == id)
    }

    /// Notes an event that has been acted on; on return it is on disk.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn note(&mut self, position: Option<&str>, id: &str) -> Result<(), Fault> {
        self.memory.position = position.map(str::to_owned).or_else(|| self.memory.position.take());
        if !self.knows(id) {
            self.memory.ids.push_back(id.to_owned());
        }
        while self.memory.ids.len() > IDS_MAX {
            self.memory.ids.pop_front();
        }
        self.save()
    }

    /// Notes where a new subscriber begins, so that it misses nothing if it stops before its first event.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn begin(&mut self, position: &str) -> Result<(), Fault> {
        self.memory.position = Some(position.to_owned());
        self.save()
    }

    fn save(&self) -> Result<(), Fault> {
        let bytes = serde_json::to_vec(&self.memory).unwrap_or_default();
        write_durably(&self.file, &bytes).map_err(|error| Fault::state("write", &self.file, &error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Row 18 of the fault model.
    #[test]
    fn a_subscriber_goes_on_where_it_was_and_knows_what_it_has_done() {
        let base = tempfile::tempdir().unwrap();
        let state = StateFolder::open(base.path()).unwrap();
        let mut first = Subscriber::open(&state, "loader").unwrap();
        assert_eq!(first.position(), None);
        first.note(Some("12.0"), "a").unwrap();
        first.note(None, "b").unwrap();
        assert_eq!(Subscriber::open(&state, "loader").unwrap_err().exit, Exit::Conflict);
        drop(first);
        let second = Subscriber::open(&state, "loader").unwrap();
        assert_eq!((second.position(), second.knows("a"), second.knows("b"), second.knows("c")), (Some("12.0"), true, true, false));
    }

    #[test]
    fn the_memory_is_bounded() {
        let base = tempfile::tempdir().unwrap();
        let mut memory = Memory::default();
        memory.ids.extend((0..IDS_MAX).map(|id| id.to_string()));
        let lock = File::create(base.path().join("lock")).unwrap();
        let mut subscriber = Subscriber { file: base.path().join("x.json"), memory, _lock: lock };
        subscriber.note(Some("1.0"), "new").unwrap();
        assert_eq!((subscriber.memory.ids.len(), subscriber.knows("0"), subscriber.knows("new")), (IDS_MAX, false, true));
    }

    #[test]
    fn damage_is_told_and_not_taken_for_a_new_subscriber() {
        let base = tempfile::tempdir().unwrap();
        let state = StateFolder::open(base.path()).unwrap();
        drop(Subscriber::open(&state, "x").unwrap());
        fs::write(state.file("subscribers/x.json"), "{").unwrap();
        assert!(Subscriber::open(&state, "x").unwrap_err().message.contains("damaged"));
    }
}
