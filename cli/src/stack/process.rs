//! Processes as people and restarts see them: who is it (a process id can be used again, a start time makes it one's own), how did
//! it end, and ending one that is no child of this process.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::state::write_private;

/// A process, told apart from a later one with the same id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) pid: i32,
    /// Clock ticks from the machine's start to the process's.
    started: u64,
}

impl Identity {
    /// The identity of a live process.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let pid = i32::try_from(pid).ok()?;
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (state, started) = parse_stat(&stat)?;
        (state != 'Z').then_some(Self { pid, started })
    }

    pub(crate) fn is_alive(self) -> bool {
        u32::try_from(self.pid).ok().and_then(Self::of) == Some(self)
    }

    /// Notes the process in a file, for a later start to find it.
    pub(crate) fn note(self, file: &Path) -> std::io::Result<()> {
        write_private(file, format!("{} {}\n", self.pid, self.started).as_bytes())
    }

    /// Reads a note.
    pub(crate) fn noted(file: &Path) -> Option<Self> {
        let text = fs::read_to_string(file).ok()?;
        let (pid, started) = text.trim().split_once(' ')?;
        Some(Self { pid: pid.parse().ok()?, started: started.parse().ok()? })
    }
}

/// The state and the start time in `/proc/PID/stat`. The command's name in parentheses may hold anything, so fields count from behind it.
fn parse_stat(stat: &str) -> Option<(char, u64)> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

/// Kills the process noted in `file` if it is still that one, waits until it is gone, and removes the note. True if there was one.
pub(crate) fn reap(file: &Path) -> bool {
    let Some(left) = Identity::noted(file) else { return false };
    let alive = left.is_alive();
    if alive {
        signal(left.pid, Signal::KILL);
        let begun = Instant::now();
        while left.is_alive() && begun.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    let _ = fs::remove_file(file);
    alive
}

/// Sends a signal; a process that is gone already is none to worry about.
pub(crate) fn signal(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, signal);
    }
}

/// How a process ended, in words.
pub(crate) fn ending(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with status {code}"),
        (None, Some(number)) => format!("was killed by {}", signal_name(number)),
        (None, None) => "ended".into(),
    }
}

fn signal_name(number: i32) -> String {
    let name = match number {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        13 => "SIGPIPE",
        15 => "SIGTERM",
        _ => return format!("signal {number}"),
    };
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_time_is_found_behind_any_command_name() {
        let stat = "4242 (a b) c) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 98765 20 21";
        assert_eq!(parse_stat(stat), Some(('S', 98765)));
    }

    #[test]
    fn a_process_is_itself_and_not_another_with_the_same_id() {
        let own = Identity::of(std::process::id()).unwrap();
        assert!(own.is_alive());
        assert!(!Identity { started: own.started + 1, ..own }.is_alive());
    }

    #[test]
    fn a_left_over_process_is_killed_and_its_note_removed() {
        let base = tempfile::tempdir().unwrap();
        let file = base.path().join("nats.pid");
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        Identity::of(child.id()).unwrap().note(&file).unwrap();
        let waiter = std::thread::spawn(move || child.wait().unwrap());
        assert!(reap(&file));
        assert_eq!(ending(waiter.join().unwrap()), "was killed by SIGKILL");
        assert!(!file.exists() && !reap(&file));
    }

    #[test]
    fn a_note_about_a_process_id_that_is_used_again_kills_nobody() {
        let base = tempfile::tempdir().unwrap();
        let file = base.path().join("nats.pid");
        let own = Identity::of(std::process::id()).unwrap();
        Identity { started: own.started + 1, ..own }.note(&file).unwrap();
        assert!(!reap(&file));
    }
}
