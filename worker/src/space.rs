//! Room on the disks that attempts write to. A worker without any takes no tasks: each would fail for a reason that is not its own.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use causey_protocol::task::{FailureKind, Outcome};
use tokio::time::Instant;

/// How long what was seen counts.
const LOOK_PERIOD: Duration = Duration::from_secs(1);

/// What the kernel says to whoever writes to a full disk.
const FULL: &str = "No space left on device";

#[derive(Debug)]
pub(crate) struct Space {
    folders: Vec<PathBuf>,
    /// With less free than this, in bytes, no task is taken.
    least: u64,
    seen: Mutex<Option<(Instant, bool)>>,
}

impl Space {
    pub(crate) fn new(folders: Vec<PathBuf>, least: u64) -> Self {
        Self { folders, least, seen: Mutex::new(None) }
    }

    /// Whether there is too little of it, as seen within the last second. Says so when that changes.
    pub(crate) fn is_short(&self) -> bool {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, short)) = *seen
            && at.elapsed() < LOOK_PERIOD
        {
            return short;
        }
        let crowded = self.crowded();
        match (seen.is_some_and(|(_, short)| short), &crowded) {
            (false, Some((folder, free))) => {
                let (folder, least) = (folder.display(), self.least);
                tracing::error!(%folder, free, least, "fewer bytes are free than must be; this worker takes no tasks until there are more");
            }
            (true, None) => tracing::info!("there is space again; this worker takes tasks"),
            (false, None) | (true, Some(_)) => {}
        }
        *seen = Some((Instant::now(), crowded.is_some()));
        crowded.is_some()
    }

    /// A folder whose disk has too little free, and how much that is.
    fn crowded(&self) -> Option<(&PathBuf, u64)> {
        self.folders.iter().find_map(|folder| {
            let found = rustix::fs::statvfs(folder).ok()?;
            let free = found.f_bavail.saturating_mul(found.f_frsize);
            (free < self.least).then_some((folder, free))
        })
    }

    /// What a full disk did to user code is no failure of that.
    pub(crate) fn excuse(&self, outcome: Outcome) -> Outcome {
        match outcome {
            Outcome::Failed(mut failure)
                if matches!(failure.kind, FailureKind::User | FailureKind::Permanent)
                    && failure.error.message.contains(FULL)
                    && self.crowded().is_some() =>
            {
                failure.kind = FailureKind::Infrastructure;
                Outcome::Failed(failure)
            }
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use causey_protocol::id::Timestamp;
    use causey_protocol::task::{ErrorInfo, Failure};

    use super::*;

    fn failed(message: &str) -> Outcome {
        let error = Box::new(ErrorInfo { kind: "OSError".into(), message: message.into(), ..ErrorInfo::default() });
        let (started, ended) = (Timestamp(1), Timestamp(2));
        Outcome::Failed(Failure { kind: FailureKind::User, error, digest: None, bytes: 0, started, ended })
    }

    fn kind(outcome: &Outcome) -> FailureKind {
        let Outcome::Failed(failure) = outcome else { panic!("{outcome:?}") };
        failure.kind
    }

    /// Row 29 of the fault model.
    #[test]
    fn only_what_a_full_disk_did_is_excused() {
        let folder = tempfile::tempdir().unwrap();
        let with = |least| Space::new(vec![folder.path().to_owned()], least);
        assert!(with(u64::MAX).is_short() && !with(0).is_short());
        let full = || failed("[Errno 28] No space left on device: 'model.bin'");
        assert_eq!(kind(&with(u64::MAX).excuse(full())), FailureKind::Infrastructure);
        assert_eq!(kind(&with(u64::MAX).excuse(failed("bad value"))), FailureKind::User);
        assert_eq!(kind(&with(0).excuse(full())), FailureKind::User, "another disk, or a quota");
    }
}
