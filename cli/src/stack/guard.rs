//! `causey guard -- PROGRAM …`: runs a program that knows nothing of its owner and stops it when the owner is gone. The owner holds
//! the other end of this process's standard input; the kernel closes it, however the owner ends.

use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::process::Signal;

use crate::arguments::Guard;
use crate::exit::Exit;
use crate::fault::{self, Fault};
use crate::stack::process::{Identity, signal};

/// How long the program may take to stop by itself.
const GRACE: Duration = Duration::from_secs(3);

/// Runs the program to its end or the owner's.
///
/// # Errors
/// When the program does not start.
pub(crate) fn run(arguments: &Guard) -> Result<Exit, Fault> {
    let (program, rest) = arguments.program.split_first().map_or(("", &[][..]), |(program, rest)| (program.as_str(), rest));
    let unusable = |error: std::io::Error| Fault::new(Exit::Failed, fault::STACK, format!("cannot start {program}")).detail(error);
    let mut child = Command::new(program).args(rest).stdin(Stdio::null()).spawn().map_err(unusable)?;
    let pid = i32::try_from(child.id()).unwrap_or_default();
    if let Some(identity) = Identity::of(child.id()) {
        identity.note(&arguments.pid_file).map_err(|error| Fault::state("write", &arguments.pid_file, &error))?;
    }
    let (ended, end) = mpsc::channel();
    std::thread::spawn(move || {
        // Nobody writes to this pipe: reading returns when its other end is closed.
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        signal(pid, Signal::TERM);
        if end.recv_timeout(GRACE) == Err(mpsc::RecvTimeoutError::Timeout) {
            signal(pid, Signal::KILL);
        }
    });
    let status = child.wait().map_err(unusable)?;
    // Said before the note goes, so that the killer above never meets a process id that is used again.
    let _ = ended.send(());
    let _ = std::fs::remove_file(&arguments.pid_file);
    Ok(exit_of(status))
}

fn exit_of(status: ExitStatus) -> Exit {
    match status.code().map(u8::try_from) {
        Some(Ok(0)) => Exit::Ok,
        Some(Ok(code)) => Exit::Command(code),
        _ => Exit::Failed,
    }
}
