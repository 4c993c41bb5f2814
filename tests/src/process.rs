//! Processes as the kernel shows them: signals by id, children, and who was started in a test's folder.

use std::fs;
use std::path::Path;

pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};

/// Sends a signal; a process that is gone already is none to worry about.
pub fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// Whether the process runs: it exists and is no zombie.
#[must_use]
pub fn is_alive(pid: u32) -> bool {
    stat(pid).is_some_and(|(state, _)| state != 'Z')
}

/// State and parent. The name in parentheses may hold anything, so fields count from behind it (proc(5)).
fn stat(pid: u32) -> Option<(char, u32)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

fn all() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// The living children of a process.
#[must_use]
pub fn children(pid: u32) -> Vec<u32> {
    all().into_iter().filter(|child| stat(*child).is_some_and(|(state, parent)| parent == pid && state != 'Z')).collect()
}

/// Living processes that have `folder` on their command line or in their environment, with their command lines.
#[must_use]
pub fn started_in(folder: &Path) -> Vec<(u32, String)> {
    let wanted = folder.as_os_str().as_encoded_bytes();
    let names = |bytes: &[u8]| bytes.windows(wanted.len()).any(|window| window == wanted);
    let read = |pid: u32, file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let found = all().into_iter().filter(|pid| *pid != std::process::id() && is_alive(*pid));
    found
        .filter(|pid| names(&read(*pid, "cmdline")) || names(&read(*pid, "environ")))
        .map(|pid| (pid, String::from_utf8_lossy(&read(pid, "cmdline")).replace('\0', " ").trim().to_owned()))
        .collect()
}
