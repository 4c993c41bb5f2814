//! What runs and backfills begin with, and why.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::gate::Parent;
use crate::id::{Digest, Origin, PoolName, RequestId, RunId, RunName, SourceName, StepName, Timestamp, WorkerName};
use crate::parameter::Values;
use crate::policy::HostMode;
use crate::schedule::BackfillPlan;
use crate::share::Standing;

/// A run and everything it is pinned to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunStarted {
    pub run: RunId,
    pub name: RunName,
    pub origin: Origin,
    /// Origins of the other events a trigger joined: each is remembered singly.
    pub joined: Vec<Origin>,
    pub definition: Digest,
    /// The deployed version, for runs of a deployment.
    pub version: Option<u32>,
    pub parameters: Values,
    pub cause: Cause,
    pub user: String,
    pub tags: Vec<String>,
    pub host: Option<HostMode>,
    /// Longest time the run may take, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<f64>,
    /// It waits for a place among the runs of its flow until a [`super::Record::RunAdmitted`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub waits: bool,
    #[serde(default, skip_serializing_if = "Standing::is_ordinary")]
    pub standing: Standing,
    /// It takes no remembered result of a memoised step.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fresh: bool,
}

/// A backfill and what its runs are pinned to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BackfillStarted {
    /// The id of the request.
    pub backfill: RequestId,
    pub plan: BackfillPlan,
    pub definition: Digest,
    pub version: u32,
    pub user: String,
}

/// What is left of an accepted input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// An event matches further triggers.
    Event { sequence: u64, source: SourceName, cloud_event: Value },
    /// A lost worker held further attempts.
    WorkerLost { pool: PoolName, worker: WorkerName },
}

/// Why a run exists.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    Request {
        id: RequestId,
    },
    /// The CloudEvents, in structured form.
    Event {
        trigger: u16,
        events: Vec<Value>,
    },
    Schedule {
        schedule: String,
        instant: Timestamp,
    },
    Backfill {
        backfill: RequestId,
        instant: Timestamp,
    },
    /// A task of another run started it.
    Parent(Box<Parent>),
    /// An earlier run, whose results it takes as far as they hold.
    Resume {
        id: RequestId,
        earlier: Box<Resumption>,
    },
}

impl Cause {
    /// The instant a run is for, or the one it resumes, if it has one.
    #[must_use]
    pub fn instant(&self) -> Option<Timestamp> {
        match self {
            Self::Schedule { instant, .. } | Self::Backfill { instant, .. } => Some(*instant),
            Self::Request { .. } | Self::Event { .. } | Self::Parent(_) => None,
            Self::Resume { earlier, .. } => earlier.instant,
        }
    }

    /// The CloudEvents that started the run, or the one it resumes.
    #[must_use]
    pub fn events(&self) -> &[Value] {
        match self {
            Self::Request { .. } | Self::Schedule { .. } | Self::Backfill { .. } | Self::Parent(_) => &[],
            Self::Event { events, .. } => events,
            Self::Resume { earlier, .. } => &earlier.events,
        }
    }

    /// The earlier run that this one resumes.
    #[must_use]
    pub fn earlier(&self) -> Option<&Resumption> {
        match self {
            Self::Request { .. } | Self::Event { .. } | Self::Schedule { .. } | Self::Backfill { .. } | Self::Parent(_) => None,
            Self::Resume { earlier, .. } => Some(earlier),
        }
    }
}

/// What a resumed run takes from an earlier one: accepted results of every step that is not in `again`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Resumption {
    pub run: RunId,
    pub name: RunName,
    /// The step from which on everything runs again; `None`: what has no result does.
    pub step: Option<StepName>,
    /// Steps whose results do not hold any more, and why.
    pub again: BTreeMap<StepName, String>,
    /// The CloudEvents that started the earlier run.
    pub events: Vec<Value>,
    /// The instant that the earlier run was for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instant: Option<Timestamp>,
}
