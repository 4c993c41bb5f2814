//! uv, the program that resolves and builds environments for Python: where it is, what of our environment it sees, and how its failures
//! read. Coordinators never run it.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

/// The command that installs it.
pub const INSTALL: &str = "pip install uv, beside the Python interpreter in use or on PATH; --uv FILE or CAUSEY_UV says where else it is";

/// Last bytes kept of what it says.
const SAID_BYTES_MAX: usize = 16 * 1024;

/// What it and the builds of packages may see of our environment, beside what begins like one of [`PREFIXES`]: the rest holds
/// credentials that are none of their business.
const SEEN: [&str; 18] = [
    "PATH",
    "HOME",
    "USER",
    "LANG",
    "TZ",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "NETRC",
    "CC",
    "CXX",
    "CFLAGS",
    "LDFLAGS",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
];
const PREFIXES: [&str; 4] = ["LC_", "UV_", "SSL_", "XDG_"];

/// Words by which it tells of a network or a server in trouble: later it may work.
const TRANSIENT: [&str; 8] = [
    "error sending request",
    "Failed to fetch",
    "Failed to download",
    "dns error",
    "Connection refused",
    "Connection reset",
    "operation timed out",
    "server error (5",
];

/// And those that mean it never will, whatever else is said.
const FINAL: [&str; 3] = ["Hash mismatch", "client error (4", "No solution found"];

/// Why it did not do what it was asked for.
#[derive(Clone, Debug, thiserror::Error)]
pub enum UvError {
    #[error("there is no uv, which installs packages for Python")]
    Missing,
    #[error("{} does not start: {why}", path.display())]
    Start { path: PathBuf, why: String },
    #[error("{}", summary(said))]
    Failed { said: String, transient: bool },
}

impl UvError {
    /// Whether it may work later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Failed { transient: true, .. })
    }

    /// All that uv said.
    #[must_use]
    pub fn said(&self) -> &str {
        match self {
            Self::Failed { said, .. } => said,
            Self::Missing | Self::Start { .. } => "",
        }
    }
}

/// The line that says what is wrong, with the causes below it.
fn summary(said: &str) -> String {
    let wrong = said.lines().map(str::trim).skip_while(|line| !line.starts_with("error")).collect::<Vec<_>>();
    let lines = if wrong.is_empty() { said.lines().map(str::trim).filter(|line| !line.is_empty()).collect() } else { wrong };
    let text = lines.iter().map(|line| line.trim_start_matches("error: ").trim_start_matches("cause: ")).collect::<Vec<_>>().join(": ");
    if text.is_empty() { "uv failed without a word".into() } else { text }
}

/// Finds uv: as told, beside the Python interpreter or this program, on PATH.
#[must_use]
pub fn find(told: Option<&Path>, python: &Path) -> Option<PathBuf> {
    if let Some(told) = told {
        return if told.components().count() > 1 { Some(told.to_owned()).filter(|path| is_program(path)) } else { on_path(told) };
    }
    let beside = |program: &Path| program.parent().map(|folder| folder.join("uv")).filter(|path| is_program(path));
    let python = if python.components().count() > 1 { Some(python.to_owned()) } else { on_path(python) };
    let own = std::env::current_exe().ok();
    python.as_deref().and_then(beside).or_else(|| own.as_deref().and_then(beside)).or_else(|| on_path(Path::new("uv")))
}

fn on_path(name: &Path) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).map(|folder| folder.join(name)).find(|path| is_program(path))
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

/// Runs it to its end and gives what it printed and what it said. `input` is its standard input.
///
/// # Errors
/// [`UvError`] when it does not start or fails.
pub async fn run(uv: &Path, arguments: &[&OsStr], input: Option<&str>) -> Result<(String, String), UvError> {
    let mut command = Command::new(uv);
    command.args(arguments).env_clear();
    let is_seen = |name: &str| SEEN.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix));
    command.envs(std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(is_seen)));
    command.env("UV_NO_PROGRESS", "1").env("NO_COLOR", "1");
    let stdin = if input.is_some() { Stdio::piped() } else { Stdio::null() };
    command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let start = |error: &io::Error| UvError::Start { path: uv.to_owned(), why: error.to_string() };
    let mut child = command.spawn().map_err(|error| start(&error))?;
    if let (Some(text), Some(mut stdin)) = (input, child.stdin.take()) {
        // One that does not read says why at its end.
        let _ = tokio::io::AsyncWriteExt::write_all(&mut stdin, text.as_bytes()).await;
    }
    let output = child.wait_with_output().await.map_err(|error| start(&error))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() {
        return Ok((String::from_utf8_lossy(&output.stdout).into_owned(), said));
    }
    let has = |words: &[&str]| words.iter().any(|word| said.contains(word));
    let transient = has(&TRANSIENT) && !has(&FINAL);
    let from = said.len().saturating_sub(SAID_BYTES_MAX);
    let from = (from..=said.len()).find(|at| said.is_char_boundary(*at)).unwrap_or(from);
    Err(UvError::Failed { said: said[from..].to_owned(), transient })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(text: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("uv");
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        (folder, path)
    }

    #[tokio::test]
    async fn a_network_in_trouble_is_told_from_packages_that_do_not_exist() {
        let (_folder, uv) = script("echo 'error: Request failed\n  cause: error sending request for url (x)' >&2; exit 2");
        let error = run(&uv, &[], None).await.unwrap_err();
        assert_eq!((error.to_string().as_str(), error.is_transient()), ("Request failed: error sending request for url (x)", true));
        let (_folder, uv) = script("echo 'error: No solution found when resolving dependencies\n  cause: Because a' >&2; exit 1");
        let error = run(&uv, &[], None).await.unwrap_err();
        assert_eq!(error.to_string(), "No solution found when resolving dependencies: Because a");
        assert!(!error.is_transient());
    }

    #[tokio::test]
    async fn it_is_found_beside_the_interpreter_and_sees_no_credentials() {
        let (folder, uv) = script("env | cut -d= -f1; cat");
        assert_eq!(find(None, &folder.path().join("python3")), Some(uv.clone()));
        assert_eq!(find(Some(Path::new("/nowhere/uv")), &folder.path().join("python3")), None);
        let (printed, _) = run(&uv, &[], Some("read")).await.unwrap();
        assert!(printed.contains("UV_NO_PROGRESS") && printed.ends_with("read"), "{printed}");
        assert!(!printed.contains("CARGO") && !printed.contains("NEXTEST"), "{printed}");
    }
}
