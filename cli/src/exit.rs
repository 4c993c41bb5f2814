//! What the exit status of `causey` means. Scripts rely on these numbers.

use std::process::ExitCode;

/// The exit status of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// 0: done.
    Ok,
    /// 1: the run ended failed, cancelled by someone else or aborted; a check found problems; a service could not go on.
    Failed,
    /// 2: the command line, a parameter or the flow file is wrong.
    Usage,
    /// 3: no such file, run, flow or model.
    NotFound,
    /// 4: something else holds what is needed: a stack, a port, a subscriber's name.
    Conflict,
    /// 5: no server could be reached or started.
    Unreachable,
    /// 6: the time given was over.
    TimedOut,
    /// 130: SIGINT, also for a run cancelled by Ctrl-C.
    Interrupted,
    /// 143: SIGTERM or SIGHUP.
    Terminated,
    /// The status of a command that `--exec` ran and that failed.
    Command(u8),
}

impl Exit {
    pub(crate) fn status(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::Conflict => 4,
            Self::Unreachable => 5,
            Self::TimedOut => 6,
            Self::Interrupted => 130,
            Self::Terminated => 143,
            Self::Command(status) => status,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.status())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_numbers_hold() {
        let all = [Exit::Ok, Exit::Failed, Exit::Usage, Exit::NotFound, Exit::Conflict, Exit::Unreachable, Exit::TimedOut];
        assert_eq!(all.map(Exit::status), [0, 1, 2, 3, 4, 5, 6]);
        assert_eq!((Exit::Interrupted.status(), Exit::Terminated.status()), (130, 143));
    }
}
