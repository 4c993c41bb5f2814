//! Why a command stops: what went wrong, a stable code, how to mend it, and the exit status that follows. Every command returns
//! this one type, so that all errors look alike: `✘ …  CSY-1234`, details, then `  help  …`.

use std::fmt::Write as _;
use std::io;
use std::path::Path;

use causey_protocol::problem::{Code, Problem};

use crate::exit::Exit;
use crate::screen::paint::Paint;

/// The flow file, or another file named on the command line, cannot be read.
pub(crate) const FILE: Code = Code(1201);
/// The flow file is not a valid flow.
pub(crate) const FLOW_FILE: Code = Code(1202);
/// An argument cannot be used like this.
pub(crate) const ARGUMENT: Code = Code(1203);
/// Another process holds what this command needs.
pub(crate) const HELD: Code = Code(1204);
/// The server did not answer at all.
pub(crate) const UNREACHABLE: Code = Code(5003);
/// The server's answer is not what the API promises.
pub(crate) const ANSWER: Code = Code(5004);
/// No nats-server program.
pub(crate) const NATS_MISSING: Code = Code(6001);
/// The nats-server program is older than Causey can trust.
pub(crate) const NATS_OLD: Code = Code(6002);
/// No Python interpreter, or one that is too old.
pub(crate) const PYTHON: Code = Code(6003);
/// The state folder cannot be used.
pub(crate) const STATE: Code = Code(6004);
/// The port is in use.
pub(crate) const PORT: Code = Code(6005);
/// A part of the local stack does not start.
pub(crate) const STACK: Code = Code(6006);
/// A service ended with an error.
pub(crate) const SERVICE: Code = Code(6007);

/// No R.
pub(crate) const R: Code = Code(6008);

/// Why a command stops.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    pub(crate) exit: Exit,
    pub(crate) code: Code,
    /// What went wrong and where: one line, without a full stop.
    pub(crate) message: String,
    /// Causes, places and last words, one line each.
    pub(crate) details: Vec<String>,
    pub(crate) hint: Option<String>,
}

impl Fault {
    pub(crate) fn new(exit: Exit, code: Code, message: impl Into<String>) -> Self {
        Self { exit, code, message: message.into(), details: Vec::new(), hint: None }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(crate) fn detail(mut self, detail: impl std::fmt::Display) -> Self {
        self.details.extend(detail.to_string().lines().map(str::to_owned));
        self
    }

    /// A problem that the protocol's own checks found in what the user gave.
    pub(crate) fn usage(problem: Problem) -> Self {
        Self { exit: Exit::Usage, code: problem.code, message: problem.message, details: Vec::new(), hint: problem.hint }
    }

    /// A file of the state folder that cannot be read or written.
    pub(crate) fn state(what: &str, path: &Path, error: &io::Error) -> Self {
        let fault = Self::new(Exit::Failed, STATE, format!("cannot {what} {}", path.display())).detail(error);
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                fault.hint("the disk is full: free some space, or choose a folder on another disk with --state FOLDER")
            }
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                fault.hint("choose a folder you may write to: --state FOLDER or CAUSEY_STATE")
            }
            _ => fault.hint("choose another folder with --state FOLDER or CAUSEY_STATE"),
        }
    }

    /// The text for people.
    pub(crate) fn render(&self, paint: Paint) -> String {
        let mut text = format!("{} {}  {}\n", paint.red("✘"), self.message, paint.dim(&self.code.to_string()));
        for detail in &self.details {
            let _ = writeln!(text, "  {detail}");
        }
        if let Some(hint) = &self.hint {
            let _ = writeln!(text, "  {}  {hint}", paint.bold("help"));
        }
        text
    }

    /// The same for programs.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::json!({"event": "error", "code": self.code, "message": self.message, "details": self.details, "hint": self.hint, "exit": self.exit.status()})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_shows_what_why_and_how_to_mend_it() {
        let fault = Fault::new(Exit::Unreachable, UNREACHABLE, "no server answers at http://127.0.0.1:1")
            .detail("connection refused")
            .hint("start one with: causey dev");
        let expected = "✘ no server answers at http://127.0.0.1:1  CSY-5003\n  connection refused\n  help  start one with: causey dev\n";
        assert_eq!(fault.render(Paint::plain()), expected);
    }

    #[test]
    fn a_full_disk_is_called_by_its_name() {
        let fault = Fault::state("write", Path::new("/x"), &io::Error::from(io::ErrorKind::StorageFull));
        assert!(fault.hint.unwrap().starts_with("the disk is full"));
    }
}
