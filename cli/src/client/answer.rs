//! The API's answers (`docs/protocol.md` §3) as far as this program reads them. Fields a server leaves out have a default, and
//! fields it adds are ignored, so that client and server of different versions understand each other.

use std::collections::BTreeMap;

use causey_protocol::problem::Problem;
use causey_protocol::task::ErrorInfo;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Answer to a submitted run.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Submitted {
    pub(crate) run: String,
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) resumed: Option<Resumed>,
}

/// What a resumed run takes from an earlier one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Resumed {
    pub(crate) run: String,
    pub(crate) name: String,
    /// From here on everything runs again.
    pub(crate) step: Option<String>,
    /// Steps whose results are taken, as far as there are any.
    pub(crate) reused: Vec<String>,
    /// Steps that run again, and why.
    pub(crate) again: BTreeMap<String, String>,
}

impl Resumed {
    /// For people to read.
    pub(crate) fn lines(&self) -> impl Iterator<Item = String> {
        let from = self.step.as_ref().map_or_else(|| "where it has no results".to_owned(), |step| format!("`{step}`"));
        let again = self.again.iter().map(|(step, why)| format!("  `{step}` runs again: {why}"));
        std::iter::once(format!("  resumes {} from {from} on", self.name)).chain(again.collect::<Vec<_>>())
    }
}

/// Where a run is on its way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    #[default]
    Pending,
    Waiting,
    Ready,
    Dispatched,
    Running,
    Succeeded,
    Failed,
    Cancelled,
    Aborted,
    /// A step that no switch chose.
    Skipped,
}

impl State {
    pub(crate) fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled | Self::Aborted | Self::Skipped)
    }

    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Waiting => "waiting",
            Self::Ready => "ready",
            Self::Dispatched => "dispatched",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Aborted => "aborted",
            Self::Skipped => "skipped",
        }
    }
}

/// Tasks by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Counts {
    pub(crate) waiting: u64,
    pub(crate) ready: u64,
    pub(crate) dispatched: u64,
    pub(crate) running: u64,
    pub(crate) succeeded: u64,
    pub(crate) failed: u64,
    pub(crate) cancelled: u64,
    pub(crate) aborted: u64,
}

impl Counts {
    pub(crate) fn ended(&self) -> u64 {
        self.succeeded + self.failed + self.cancelled + self.aborted
    }

    pub(crate) fn open(&self) -> u64 {
        self.waiting + self.ready + self.dispatched + self.running
    }
}

/// Equal failures of a step.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Failures {
    #[serde(default)]
    pub(crate) count: u64,
    #[serde(default)]
    pub(crate) error: ErrorInfo,
    #[serde(default)]
    pub(crate) tasks: Vec<String>,
}

/// One step of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct StepView {
    pub(crate) step: String,
    #[serde(default)]
    pub(crate) state: State,
    /// Tasks the step will have; unknown until its split has run.
    #[serde(default)]
    pub(crate) total: Option<u64>,
    #[serde(default)]
    pub(crate) counts: Counts,
    /// Tasks whose result is one of an earlier run.
    #[serde(default)]
    pub(crate) reused: u64,
    #[serde(default)]
    pub(crate) first_started: Option<u64>,
    #[serde(default)]
    pub(crate) last_finished: Option<u64>,
    #[serde(default)]
    pub(crate) failures: Vec<Failures>,
    #[serde(default)]
    pub(crate) usage: Option<Usage>,
}

/// What tasks of a step have used that took more than a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Usage {
    pub(crate) tasks: u64,
    pub(crate) peak_memory_bytes: u64,
    pub(crate) cpu_millis: Option<u64>,
}

/// A run. Times are microseconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub(crate) struct RunView {
    pub(crate) run: String,
    pub(crate) name: String,
    pub(crate) flow: String,
    #[serde(default)]
    pub(crate) state: State,
    #[serde(default)]
    pub(crate) parameters: Value,
    #[serde(default)]
    pub(crate) cause: Value,
    #[serde(default)]
    pub(crate) user: String,
    #[serde(default)]
    pub(crate) tags: Vec<String>,
    #[serde(default)]
    pub(crate) priority: i8,
    #[serde(default)]
    pub(crate) created: Option<u64>,
    #[serde(default)]
    pub(crate) started: Option<u64>,
    #[serde(default)]
    pub(crate) finished: Option<u64>,
    #[serde(default)]
    pub(crate) problem: Option<Problem>,
    #[serde(default)]
    pub(crate) tasks: Counts,
    /// Tasks whose result was taken from another run.
    #[serde(default)]
    pub(crate) reused: u64,
    #[serde(default)]
    pub(crate) steps: Vec<StepView>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) gates: Option<Gates>,
    /// What one that has not begun waits for.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub(crate) waits: Value,
    /// What one waits for in which nothing happens, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) stuck: Option<String>,
}

/// What a run waits for beside its tasks, and the runs it started.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Gates {
    pub(crate) waiting: Vec<Waiting>,
    pub(crate) approvals: Vec<Approval>,
    pub(crate) children: Vec<ChildView>,
}

/// What tasks of a step wait for.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Waiting {
    pub(crate) step: String,
    pub(crate) tasks: u64,
    pub(crate) signals: Vec<String>,
    pub(crate) approval: bool,
    pub(crate) children: Vec<String>,
    pub(crate) until: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Approval {
    pub(crate) step: String,
    pub(crate) decision: Option<Decision>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Decision {
    pub(crate) approved: bool,
    pub(crate) user: String,
    pub(crate) because: String,
}

/// A run that a task started.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct ChildView {
    pub(crate) run: String,
    pub(crate) name: String,
    pub(crate) flow: String,
    pub(crate) step: String,
    pub(crate) task: String,
    pub(crate) state: Option<State>,
}

/// What a task printed at once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Chunk {
    pub(crate) step: String,
    pub(crate) task: String,
    #[serde(default)]
    pub(crate) attempt: u32,
    #[serde(default)]
    pub(crate) micros: u64,
    #[serde(default)]
    pub(crate) stream: String,
    pub(crate) text: String,
    /// Bytes of text that the attempt had printed before.
    #[serde(default)]
    pub(crate) position: u64,
}

/// Text that a followed log does not show.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Gap {
    pub(crate) step: String,
    pub(crate) task: String,
    pub(crate) attempt: u32,
    pub(crate) from: u64,
    pub(crate) to: u64,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Chunks {
    pub(crate) chunks: Vec<Chunk>,
    /// Whether there is more than one answer has.
    #[serde(default)]
    pub(crate) truncated: bool,
    /// Attempts that have not ended.
    #[serde(default)]
    pub(crate) open: u64,
}

/// Answer to a published event.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Published {
    #[serde(default)]
    pub(crate) sequence: u64,
    #[serde(default)]
    pub(crate) id: String,
    #[serde(default)]
    pub(crate) source: String,
    #[serde(default)]
    pub(crate) started: Vec<Started>,
    #[serde(default)]
    pub(crate) because: Vec<String>,
    #[serde(default)]
    pub(crate) duplicate: bool,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Started {
    pub(crate) flow: String,
    #[serde(default)]
    pub(crate) run: String,
    pub(crate) name: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_reads_with_and_without_its_steps() {
        let text = r#"{"run":"0199","name":"brisk-otter-41","flow":"Hello","version":null,"state":"running","parameters":{},"cause":{"kind":"request"},
            "user":"ann","tags":[],"created":1,"started":2,"finished":null,"problem":null,"tasks":{"running":1},"unknown":1}"#;
        let run: RunView = serde_json::from_str(text).unwrap();
        assert_eq!((run.state, run.tasks.running, run.steps.len()), (State::Running, 1, 0));
    }

    #[test]
    fn a_step_with_failures_reads() {
        let text = r#"{"step":"work","state":"failed","total":3,"counts":{"failed":1},"first_started":1,"last_finished":2,
            "failures":[{"count":1,"error":{"type":"NameError","message":"m","traceback":"t","file":null,"line":null},"tasks":["1"]}]}"#;
        let step: StepView = serde_json::from_str(text).unwrap();
        assert_eq!((step.failures[0].error.kind.as_str(), step.failures[0].tasks.as_slice()), ("NameError", ["1".to_owned()].as_slice()));
    }
}
