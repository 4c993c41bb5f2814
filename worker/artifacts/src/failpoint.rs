//! Places between two durable actions at which a test lets the process die as kill -9 would, or sleep. They lie here because store,
//! worker and coordinator have them and this crate is below all three; it does not know what is at the places. Release builds have none.

/// Names a folder: a file in it that is called like a place means one death there, or one sleep when its content is `stop`.
#[cfg(debug_assertions)]
const FOLDER: &str = "CAUSEY_FAILPOINTS";

/// Dies or sleeps here if a test has asked for it. Of processes that share the folder only one does for each file.
#[cfg(debug_assertions)]
pub fn here(place: &str) {
    use std::path::PathBuf;
    use std::sync::OnceLock;

    use rustix::process::{Signal, getpid, kill_process};

    static WISHES: OnceLock<Option<PathBuf>> = OnceLock::new();
    let Some(folder) = WISHES.get_or_init(|| std::env::var_os(FOLDER).map(PathBuf::from)) else { return };
    let file = folder.join(place);
    let Ok(wish) = std::fs::read(&file) else { return };
    if std::fs::remove_file(&file).is_err() {
        return;
    }
    if wish == b"stop" {
        let _ = kill_process(getpid(), Signal::STOP);
    } else {
        let _ = kill_process(getpid(), Signal::KILL);
        std::process::abort();
    }
}

/// A release build goes on.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn here(_: &str) {}
