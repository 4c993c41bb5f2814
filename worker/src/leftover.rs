//! What an earlier life of this worker's folder left behind: processes and temporary files. A lock keeps two workers apart; a
//! note per host process, with the time of its start, tells ours from a later process with the same number.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use crate::family::{self, Member, boot_id, member};
use crate::process;

/// Why a worker cannot have its folder.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FolderError {
    #[error("cannot {action} {}\nhint: give another folder with --folder, or rights on this one", path.display())]
    File {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("another worker uses the folder {}\nhint: give each worker its own with --folder", path.display())]
    Taken { path: PathBuf },
}

/// Makes the worker's folder and takes it until the returned file is dropped.
///
/// # Errors
/// [`FolderError`] naming the folder.
pub(crate) fn take_folder(folder: &Path) -> Result<File, FolderError> {
    let failed = |action| move |source| FolderError::File { action, path: folder.to_owned(), source };
    fs::create_dir_all(folder).map_err(failed("make folder"))?;
    let lock = File::create(folder.join("lock")).map_err(failed("write into folder"))?;
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(FolderError::Taken { path: folder.to_owned() }),
        Err(error) => Err(failed("lock folder")(error.into())),
    }
}

/// Ends the noted processes of an earlier life and makes the folder of notes anew, readable for this user only.
///
/// # Errors
/// [`FolderError`] naming the folder.
pub(crate) fn reap(notes: &Path) -> Result<(), FolderError> {
    for note in fs::read_dir(notes).into_iter().flatten().flatten() {
        let path = note.path();
        if path.extension().is_some_and(|extension| extension == "pid")
            && let Ok(text) = fs::read_to_string(&path)
            && let Some(pid) = left_running(&text)
        {
            tracing::info!(pid, "ending a host of an earlier life of this worker");
            process::kill_group(pid);
        }
    }
    make_empty(notes)
}

/// Makes a folder anew, empty and private.
///
/// # Errors
/// [`FolderError`] naming the folder.
pub(crate) fn make_empty(folder: &Path) -> Result<(), FolderError> {
    let failed = |action| move |source| FolderError::File { action, path: folder.to_owned(), source };
    match fs::remove_dir_all(folder) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed("empty folder")(error)),
    }
    DirBuilder::new().mode(0o700).recursive(true).create(folder).map_err(failed("make folder"))
}

/// Notes a process. Without a note it is only not found after a crash.
pub(crate) fn note(notes: &Path, id: &str, pid: i32) {
    if let Some(found) = member(pid) {
        let _ = fs::write(notes.join(format!("{id}.pid")), format!("{pid} {}", found.identity()));
    }
}

/// The process has ended.
pub(crate) fn forget(notes: &Path, id: &str) {
    let _ = fs::remove_file(notes.join(format!("{id}.pid")));
}

/// The process group of a note, if it still has members that are ours: its leader lives, or has gone and left them (its number
/// is not given to others while they live). Those that have ended and only wait for their parent are gone.
fn left_running(note: &str) -> Option<i32> {
    let (pid, noted) = note.split_once(' ')?;
    let pid: i32 = pid.parse().ok()?;
    match member(pid).filter(Member::is_alive) {
        Some(found) => (found.identity() == noted).then_some(pid),
        None => {
            let same_boot = noted.split_once(' ').is_some_and(|(boot, _)| boot == boot_id());
            (same_boot && has_living_members(pid)).then_some(pid)
        }
    }
}

fn has_living_members(group: i32) -> bool {
    family::everybody().iter().any(|member| member.group == group && member.is_alive())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::CommandExt as _;
    use std::process::Command;

    #[test]
    fn a_noted_process_is_ended_at_the_next_start() {
        let folder = tempfile::tempdir().unwrap();
        let notes = folder.path().join("hosts");
        make_empty(&notes).unwrap();
        let mut child = Command::new("sleep").arg("60").process_group(0).spawn().unwrap();
        note(&notes, "h1", child.id().try_into().unwrap());
        reap(&notes).unwrap();
        assert!(!child.wait().unwrap().success());
        assert_eq!(fs::read_dir(&notes).unwrap().count(), 0);
    }

    #[test]
    fn a_process_that_took_over_the_number_is_spared() {
        let pid = i32::try_from(std::process::id()).unwrap();
        assert_eq!(left_running(&format!("{pid} {} 1", boot_id())), None);
        assert_eq!(left_running(&format!("{pid} {}", member(pid).unwrap().identity())), Some(pid));
        assert_eq!(left_running("4194304 another-boot 12"), None);
        assert_eq!(left_running("nonsense"), None);
    }

    #[test]
    fn a_process_that_has_ended_and_is_not_waited_for_is_gone() {
        let mut child = Command::new("true").process_group(0).spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let note = format!("{pid} {}", member(pid).unwrap().identity());
        while member(pid).unwrap().is_alive() {
            std::thread::yield_now();
        }
        assert_eq!(left_running(&note), None);
        child.wait().unwrap();
        assert_eq!(left_running(&note), None);
    }

    #[test]
    fn a_folder_has_one_worker() {
        let folder = tempfile::tempdir().unwrap();
        let _lock = take_folder(folder.path()).unwrap();
        assert!(matches!(take_folder(folder.path()), Err(FolderError::Taken { .. })));
    }
}
