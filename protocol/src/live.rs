//! Core NATS messages, lossy by contract: what a worker asks the leader and what it answers, presence, and output while it is
//! produced.

use serde::{Deserialize, Serialize};

use crate::artifact::ObjectRef;
use crate::id::{ModelName, Path, PoolName, RunId, StepName, TaskKey, Timestamp, WorkerName};
use crate::problem::Problem;
use crate::resources::{Equipment, Shape};
use crate::task::Address;

/// A worker's question on `causey.live.worker.<pool>.<worker>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// "Here I am, with these attempts open": at start, every 10 s, and on a cancel broadcast.
    Hello { offer: Offer, open: Vec<OpenAttempt> },
    /// Where is this model? For a step that loads one.
    FindModel { model: ModelName, version: Option<u32> },
    /// Has the gang of this attempt formed? Asked again and again by a member that waits, and whenever the leader says that something
    /// about a gang of its run has changed.
    Gang { run: RunId, step: StepName, path: Path, attempt: u32 },
}

/// What of a piece of an attempt's output lies behind the first `known` bytes of all its text, and where that begins; `None`: nothing.
#[must_use]
pub fn news(position: u64, text: &str, known: u64) -> Option<(u64, &str)> {
    if position + text.len() as u64 <= known {
        return None;
    }
    let seen = usize::try_from(known.saturating_sub(position)).unwrap_or_default();
    // Cut within a character by whoever counts otherwise: then all of it is told.
    Some(text.get(seen..).map_or((position, text), |rest| (position.max(known), rest)))
}

/// What a worker offers; also its presence entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    pub pool: PoolName,
    pub worker: WorkerName,
    pub slots: u32,
    pub memory_mb: u64,
    pub languages: Vec<String>,
    pub version: String,
    pub started: Timestamp,
    #[serde(default, skip_serializing_if = "Equipment::is_unknown")]
    pub equipment: Equipment,
    /// It takes no tasks at present, or no more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub closed: bool,
}

impl Offer {
    /// What the worker has.
    #[must_use]
    pub fn shape(&self) -> Shape {
        Shape::new(self.slots, self.memory_mb, &self.languages, &self.equipment)
    }
}

/// What workers are told to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Take tasks.
    #[default]
    Serve,
    /// Take no more until told otherwise.
    Cordon,
    /// Take no more, finish those at hand, and end.
    Drain,
}

impl Order {
    fn is_serve(&self) -> bool {
        *self == Self::Serve
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct OpenAttempt {
    pub run: RunId,
    pub key: TaskKey,
}

/// The leader's answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Told {
    /// The pool's consumer exists; those of the worker's attempts that are no longer open shall be killed.
    Welcome {
        epoch: u64,
        closed: Vec<OpenAttempt>,
        #[serde(default, skip_serializing_if = "Order::is_serve")]
        order: Order,
    },
    Model {
        version: u32,
        object: ObjectRef,
        artifact: String,
        format: String,
        metrics: serde_json::Map<String, serde_json::Value>,
    },
    /// The addresses of the gang's members in order; `None` while it gathers.
    Gang {
        members: Option<Vec<Address>>,
    },
    Refused(Problem),
}

/// Output of a task on `causey.live.<run>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveOutput {
    pub step: StepName,
    /// The task's text form, such as `3` or `0`.
    pub task: String,
    pub attempt: u32,
    pub at: Timestamp,
    pub stream: OutputStream,
    pub text: String,
    /// How many bytes of text the attempt had printed before this, on both streams together: by that followers see what they miss and
    /// what they have. The stored output has the same positions.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub position: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it like this")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputStream {
    Stdout,
    Stderr,
}
