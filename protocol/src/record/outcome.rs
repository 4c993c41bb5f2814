//! What attempts, runs and requests come to, and what is announced of it.

use serde::{Deserialize, Serialize};

use crate::flow::StepIndex;
use crate::id::{Digest, FlowName, ModelName, Path, RequestId, RunId, RunName};
use crate::problem::Problem;
use crate::task::{ErrorInfo, Publication};

/// Why an attempt brought no result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureCause {
    /// Charged.
    User {
        error: Box<ErrorInfo>,
        object: Option<(Digest, u64)>,
    },
    /// Charged, and no retry can help.
    Permanent {
        error: Box<ErrorInfo>,
        object: Option<(Digest, u64)>,
    },
    Infrastructure {
        error: Box<ErrorInfo>,
    },
    /// Its worker vanished; not charged.
    Lost,
    /// Its worker gave it back unstarted; not charged.
    Released {
        because: String,
    },
    /// It took longer than its step's timeout. Charged.
    TimedOut {
        error: Box<ErrorInfo>,
        object: Option<(Digest, u64)>,
    },
}

/// A run's or a task's life ends in one of the last four.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    Pending,
    Running,
    Succeeded,
    Failed,
    Cancelled,
    Aborted,
}

impl RunState {
    #[must_use]
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled | Self::Aborted)
    }

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Aborted => "aborted",
        }
    }
}

/// What a request came to; kept ten minutes under its id.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Answer {
    RunStarted { run: RunId, name: RunName },
    Deployed { flow: FlowName, version: u32 },
    Cancelling { run: RunId },
    BackfillStarted { backfill: RequestId, total: u32 },
    Done,
    Refused(Problem),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelPublished {
    pub version: u32,
    pub run: RunId,
    pub step: StepIndex,
    pub path: Path,
    pub visit: u32,
    pub attempt: u32,
    pub digest: Digest,
    pub bytes: u64,
    pub publication: Publication,
}

impl ModelPublished {
    #[must_use]
    pub fn name(&self) -> &ModelName {
        &self.publication.model
    }
}

/// What a notification is about: one token of its subject, and its CloudEvents type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Topic {
    ModelPublished,
    RunFinished,
    ApprovalRequested,
    DeadLetter,
}

impl Topic {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ModelPublished => "model-published",
            Self::RunFinished => "run-finished",
            Self::ApprovalRequested => "approval-requested",
            Self::DeadLetter => "dead-letter",
        }
    }

    /// The CloudEvents `type` of this topic's notifications.
    #[must_use]
    pub fn event_type(self) -> &'static str {
        match self {
            Self::ModelPublished => "dev.causey.model.published.v1",
            Self::RunFinished => "dev.causey.run.finished.v1",
            Self::ApprovalRequested => "dev.causey.approval.requested.v1",
            Self::DeadLetter => "dev.causey.dead-letter.added.v1",
        }
    }
}
