//! Runs a command to its end and says what the end means: exit statuses and signals in words, and whether another try may help.

use std::collections::BTreeMap;
use std::env;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use super::flow_file::{CommandStep, What};
use super::task::Run;
use super::values::{Trouble, trouble};
use crate::process::signal_name;

/// Why a step did not succeed.
pub(super) struct Failed {
    pub(super) kind: String,
    pub(super) trouble: Trouble,
    pub(super) retryable: bool,
    pub(super) timed_out: bool,
    /// What is not in the log already.
    pub(super) said: String,
}

impl From<Trouble> for Failed {
    fn from(trouble: Trouble) -> Self {
        let said = format!("{}\n", trouble.message);
        Self { kind: "StepError".into(), trouble, retryable: true, timed_out: false, said }
    }
}

/// How a command came to its end.
#[derive(Clone, Copy)]
pub(super) enum End {
    Status(ExitStatus),
    TimedOut(f64),
}

/// Runs the step's command to its end, or to the step's time limit. When the worker goes away (`gone`) everything ends at once: nobody
/// else knows of the command.
pub(super) async fn run(
    run: &Run,
    step: &CommandStep,
    environment: &BTreeMap<String, String>,
    gone: impl Future<Output = ()>,
) -> Result<End, Failed> {
    let words: Vec<&str> = match &step.what {
        What::Program(words) => words.iter().map(String::as_str).collect(),
        What::Shell(text) => vec!["sh", "-eu", "-c", text],
        What::Elsewhere => return Err(trouble(format!("step `{}` is no command", run.step)).into()),
    };
    let program = program(words[0]);
    let mut command = tokio::process::Command::new(&program);
    command.args(&words[1..]).envs(environment).stdin(Stdio::null());
    // The worker's line is not the command's business.
    for name in ["CAUSEY_HOST_SOCKET", "CAUSEY_HOST_ID", "CAUSEY_HOST_ROLE"] {
        command.env_remove(name);
    }
    let mut child = command.spawn().map_err(|error| not_started(run, words[0], &program, &error))?;
    let limit = run.timeout_seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let watched = async {
        let status = match limit {
            Some(limit) => tokio::time::timeout(limit, child.wait()).await.ok(),
            None => Some(child.wait().await),
        };
        if status.is_none() {
            // All of the group hears it, this process too, which goes on.
            let _ = rustix::process::kill_current_process_group(Signal::TERM);
            // The worker kills the group when the step's grace is over.
            let _ = child.wait().await;
        }
        status
    };
    let ended = tokio::select! {
        ended = watched => ended,
        () = gone => {
            let _ = rustix::process::kill_current_process_group(Signal::KILL);
            return Err(trouble("the worker went away").into());
        }
    };
    match ended {
        Some(status) => Ok(End::Status(status.map_err(|error| trouble(format!("the command cannot be waited for: {error}")))?)),
        None => Ok(End::TimedOut(run.timeout_seconds.unwrap_or_default())),
    }
}

/// A program of the package is named by its path from there; others are looked for in PATH.
fn program(word: &str) -> PathBuf {
    let beside = env::current_dir().unwrap_or_default().join(word);
    if word.contains('/') || beside.is_file() { beside } else { PathBuf::from(word) }
}

fn not_started(run: &Run, word: &str, program: &Path, error: &io::Error) -> Failed {
    let step = &run.step;
    let (kind, what, hint) = match error.kind() {
        io::ErrorKind::NotFound if program.exists() => (
            "ExecutableBroken",
            format!("step `{step}` cannot run {word}: the interpreter in its first line is not there"),
            "see the line that begins with #!, and whether it ends in a carriage return".to_owned(),
        ),
        io::ErrorKind::NotFound => (
            "ExecutableNotFound",
            format!("step `{step}` cannot run {word}: there is no such program in its package or on the worker's PATH"),
            format!("put it beside the flow file and name it ./{}, or install it where the workers run", word.trim_start_matches("./")),
        ),
        io::ErrorKind::PermissionDenied => (
            "ExecutableNotAllowed",
            format!("step `{step}` cannot run {word}: it is not executable"),
            format!("chmod +x {word}, or name its interpreter, as in command = [\"sh\", \"{word}\"]"),
        ),
        _ => (
            "ExecutableBroken",
            format!("step `{step}` cannot run {word}: {error}"),
            "see whether it runs on the worker's machine".to_owned(),
        ),
    };
    let said = format!("{what}\n");
    Failed { kind: kind.into(), trouble: Trouble { message: what, hint: Some(hint) }, retryable: false, timed_out: false, said }
}

/// Whether the command did well, and if not, what its end means.
pub(super) fn judge(run: &Run, step: &CommandStep, end: End) -> Result<(), Failed> {
    let name = &run.step;
    let failed = |kind: String, message: String, hint: Option<String>, retryable: bool| {
        Err(Failed { kind, trouble: Trouble { message, hint }, retryable, timed_out: false, said: String::new() })
    };
    let status = match end {
        End::Status(status) if status.success() => return Ok(()),
        End::Status(status) => status,
        End::TimedOut(seconds) => {
            let trouble = Trouble {
                message: format!("step `{name}` timed out after {seconds} seconds"),
                hint: Some("give the step a longer `timeout`, or see in its output where it hangs".into()),
            };
            return Err(Failed { kind: "TimeoutException".into(), trouble, retryable: true, timed_out: true, said: String::new() });
        }
    };
    if let Some(number) = status.signal() {
        let signal = signal_name(number);
        let hint = (signal == "SIGKILL").then(|| "perhaps it was out of memory: ask for more with resources = { memory = … }".to_owned());
        return failed(format!("signal {signal}"), format!("the command of step `{name}` was killed by {signal}"), hint, true);
    }
    let code = status.code().unwrap_or_default();
    let is_shell = matches!(step.what, What::Shell(_));
    let permanent = step.permanent.contains(&i64::from(code));
    let (words, hint, hopeless) = match code {
        126 if is_shell => {
            (", which sh says of a program that is not executable".into(), Some("chmod +x, or name its interpreter".into()), true)
        }
        127 if is_shell => (
            ", which sh says of a program that it did not find".into(),
            Some("see the last lines of its output; install it where the workers run, or put it beside the flow file".into()),
            true,
        ),
        129..=192 if is_shell => (format!(", which sh says of a program that was killed by {}", signal_name(code - 128)), None, false),
        _ if permanent => (", after which another try would not help".to_owned(), None, true),
        _ => (String::new(), None, false),
    };
    failed(
        format!("exit {code}"),
        format!("the command of step `{name}` ended with exit status {code}{words}"),
        hint,
        !(hopeless || permanent),
    )
}
