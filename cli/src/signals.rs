//! SIGINT, SIGTERM and SIGHUP as values.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::exit::Exit;
use crate::fault::{self, Fault};

/// The signals that ask a program to end; while this lives they no longer end it by themselves.
#[derive(Debug)]
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn listen() -> Result<Self, Fault> {
        let listen =
            |kind| signal(kind).map_err(|error| Fault::new(Exit::Failed, fault::SERVICE, "cannot listen to signals").detail(error));
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    /// The exit status of the next signal.
    pub(crate) async fn next(&mut self) -> Exit {
        tokio::select! {
            _ = self.interrupt.recv() => Exit::Interrupted,
            _ = self.terminate.recv() => Exit::Terminated,
            _ = self.hangup.recv() => Exit::Terminated,
        }
    }
}
