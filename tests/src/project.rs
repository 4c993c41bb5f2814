//! A folder with flows and a state folder of its own, and `causey` commands in it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;

use crate::process::{self, Signal};
use crate::tools;

/// Longest life of a command that is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// A test's folder. Dropping it kills what still runs in it and removes it.
#[derive(Debug)]
pub struct Project {
    folder: TempDir,
}

/// What a command came to.
#[derive(Debug)]
pub struct Output {
    pub arguments: String,
    /// Exit status; `None` when a signal ended it.
    pub status: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    /// The JSON values on standard output, one per line.
    ///
    /// # Panics
    /// When a line is no JSON.
    #[must_use]
    pub fn json_lines(&self) -> Vec<Value> {
        let read = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line:?} of {self:#?}"));
        self.stdout.lines().map(read).collect()
    }

    /// The only JSON value on standard output.
    ///
    /// # Panics
    /// When there is none or more than one.
    #[must_use]
    pub fn json(&self) -> Value {
        let mut lines = self.json_lines();
        assert_eq!(lines.len(), 1, "one JSON value was expected: {self:#?}");
        lines.remove(0)
    }

    /// Checks that standard error has all these words.
    ///
    /// # Panics
    /// When one is missing.
    pub fn says(&self, words: &[&str]) -> &Self {
        for word in words {
            assert!(self.stderr.contains(word), "{word:?} is not in the error text: {self:#?}");
        }
        self
    }
}

impl Default for Project {
    fn default() -> Self {
        Self::new()
    }
}

impl Project {
    /// An empty folder. Its path is short: sockets lie in it.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("csy-").tempdir().expect("a temporary folder");
        std::fs::create_dir(folder.path().join("flows")).expect("a folder for flows");
        Self { folder }
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A file or folder in it.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The state folder, which the commands are told.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.file("state")
    }

    /// Writes a flow file.
    ///
    /// # Panics
    /// When it cannot be written.
    #[must_use]
    pub fn flow(&self, name: &str, text: &str) -> String {
        let path = self.folder.path().join("flows").join(name);
        std::fs::write(&path, text).expect("the flow can be written");
        path.display().to_string()
    }

    /// `causey` in this folder, without its arguments. Nothing of the caller's settings reaches it.
    #[must_use]
    pub fn causey(&self) -> Command {
        let mut command = Command::new(tools::causey());
        let foreign = |name: &str| name.starts_with("CAUSEY_") || name.starts_with("PYTHON");
        for (name, _) in std::env::vars_os().filter(|(name, _)| foreign(&name.to_string_lossy())) {
            command.env_remove(name);
        }
        command.env_remove("VIRTUAL_ENV").env_remove("RUST_LOG").env("NO_COLOR", "1").env("USER", "ann");
        command.env("CAUSEY_STATE", self.state()).env("CAUSEY_PYTHON", tools::python()).env("CAUSEY_NATS_SERVER", tools::nats_server());
        command.env("CAUSEY_SLOTS", "2").current_dir(self.path()).stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    /// Runs a command to its end.
    ///
    /// # Panics
    /// When it cannot be started or takes too long.
    pub async fn run(&self, arguments: &[impl AsRef<str>]) -> Output {
        let arguments: Vec<&str> = arguments.iter().map(AsRef::as_ref).collect();
        let mut command = self.causey();
        command.args(&arguments);
        finish(command, &arguments.join(" ")).await
    }

    /// Runs a command that must end with `status`.
    ///
    /// # Panics
    /// When it ends in another way.
    pub async fn expect(&self, status: i32, arguments: &[impl AsRef<str>]) -> Output {
        let output = self.run(arguments).await;
        assert_eq!(output.status, Some(status), "status {status} was expected: {output:#?}{}", self.logs());
        output
    }

    /// Runs a command that must succeed.
    ///
    /// # Panics
    /// When it does not.
    pub async fn ok(&self, arguments: &[impl AsRef<str>]) -> Output {
        self.expect(0, arguments).await
    }

    /// Checks that nothing runs any more that has to do with the state folder.
    ///
    /// # Panics
    /// When something does, naming it.
    pub async fn is_quiet(&self) {
        let mut left = Vec::new();
        for _ in 0..250 {
            left = process::started_in(&self.state());
            if left.is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("processes were left behind: {left:#?}");
    }

    /// The ends of the logs of this project's stack, for messages.
    #[must_use]
    pub fn logs(&self) -> String {
        let read = |name: &str| std::fs::read_to_string(self.state().join("logs").join(name)).unwrap_or_default();
        let end = |text: &str| text.lines().rev().take(30).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n");
        ["nats-server.log", "coordinator.log", "worker.log"].map(|name| format!("\n--- {name}\n{}", end(&read(name)))).concat()
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
        for (pid, _) in process::started_in(self.path()) {
            process::signal(pid, Signal::KILL);
        }
    }
}

/// Runs any command to its end.
///
/// # Panics
/// When it cannot be started or takes too long.
pub async fn finish(mut command: Command, arguments: &str) -> Output {
    let ended = tokio::time::timeout(PATIENCE, command.kill_on_drop(true).output()).await;
    let output = ended.unwrap_or_else(|_| panic!("`{arguments}` still runs after {PATIENCE:?}")).expect("the program can be started");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Output { arguments: arguments.to_owned(), status: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}
