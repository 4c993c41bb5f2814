//! Who owns the stack of a state folder, and who uses it. The owner holds `stack.lock`; every client of another process holds
//! `clients.lock` shared, so an owner can wait for the last of them. Locks vanish with their process, however it ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use crate::fault::Fault;
use crate::state::StateFolder;

/// How often a lock that another process holds is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// The right to run a stack on the state folder.
#[derive(Debug)]
pub(crate) struct Ownership {
    _lock: File,
}

/// Somebody else's stack.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) pid: Option<i32>,
}

/// Takes the ownership if nobody has it.
///
/// # Errors
/// When the lock file cannot be used.
pub(crate) fn own(state: &StateFolder) -> Result<Result<Ownership, Held>, Fault> {
    let path = state.file("stack.lock");
    let unusable = |error: std::io::Error| Fault::state("lock", &path, &error);
    let mut file = open(&path).map_err(unusable)?;
    match file.try_lock() {
        Ok(()) => {
            file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(unusable)?;
            Ok(Ok(Ownership { _lock: file }))
        }
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            file.read_to_string(&mut text).map_err(unusable)?;
            Ok(Err(Held { pid: text.trim().parse().ok() }))
        }
        Err(TryLockError::Error(error)) => Err(unusable(error)),
    }
}

/// The sign that somebody uses a stack of another process.
#[derive(Debug)]
pub(crate) struct Use {
    _lock: File,
}

/// Marks the stack as used; `None` when its owner is stopping it.
///
/// # Errors
/// When the lock file cannot be used.
pub(crate) fn join(state: &StateFolder) -> Result<Option<Use>, Fault> {
    let path = state.file("clients.lock");
    let file = open(&path).map_err(|error| Fault::state("lock", &path, &error))?;
    match file.try_lock_shared() {
        Ok(()) => Ok(Some(Use { _lock: file })),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(Fault::state("lock", &path, &error)),
    }
}

/// For the owner: closes the door to new clients once the last one has gone. `waiting` is called once if there are any.
///
/// # Errors
/// When the lock file cannot be used.
pub(crate) async fn close(state: &StateFolder, waiting: impl FnOnce()) -> Result<Closed, Fault> {
    let path = state.file("clients.lock");
    let file = open(&path).map_err(|error| Fault::state("lock", &path, &error))?;
    let mut waiting = Some(waiting);
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Closed { _lock: file }),
            Err(TryLockError::WouldBlock) => {
                if let Some(waiting) = waiting.take() {
                    waiting();
                }
                tokio::time::sleep(10 * LOOK_AGAIN).await;
            }
            Err(TryLockError::Error(error)) => return Err(Fault::state("lock", &path, &error)),
        }
    }
}

/// While it lives nobody joins.
#[derive(Debug)]
pub(crate) struct Closed {
    _lock: File,
}

/// A short wait before looking at a lock or at the `url` file again.
pub(crate) async fn look_again() {
    tokio::time::sleep(LOOK_AGAIN).await;
}

fn open(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_owner_at_a_time_and_the_next_after_it() {
        let base = tempfile::tempdir().unwrap();
        let state = StateFolder::open(base.path()).unwrap();
        let owner = own(&state).unwrap().unwrap();
        assert_eq!(own(&state).unwrap().unwrap_err(), Held { pid: i32::try_from(std::process::id()).ok() });
        drop(owner);
        assert!(own(&state).unwrap().is_ok());
    }

    #[tokio::test]
    async fn an_owner_waits_for_its_clients_and_then_lets_nobody_in() {
        let base = tempfile::tempdir().unwrap();
        let state = StateFolder::open(base.path()).unwrap();
        let client = join(&state).unwrap().unwrap();
        let mut told = false;
        let early = tokio::time::timeout(Duration::from_millis(1), close(&state, || told = true)).await;
        assert!(early.is_err() && told);
        drop(client);
        let _closed = close(&state, || ()).await.unwrap();
        assert!(join(&state).unwrap().is_none());
    }
}
