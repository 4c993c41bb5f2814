//! The lines of the host protocol (`docs/protocol.md` §1) as types. One JSON object per line; unknown fields are skipped, an
//! unknown `type` is an error.

use std::borrow::Cow;
use std::collections::BTreeMap;

use causey_artifacts::ObjectLink;
use causey_protocol::flow::Transition;
use causey_protocol::gate::{ChildStart, EndedChild};
use causey_protocol::id::{
    Digest, FlowName, IdempotencyKey, ModelName, Path, RunId, RunName, SignalName, StatusName, StepName, TaskKey, Timestamp,
};
use causey_protocol::parameter::Values;
use causey_protocol::task::{Address, ErrorInfo, Publication, SplitLevel};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The version of the host protocol this worker speaks.
pub(crate) const PROTOCOL: u32 = 1;

/// A line from a host.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum FromHost {
    Hello(Hello),
    Loaded { forkable: bool, because: Option<String> },
    LoadFailed { error: ErrorInfo },
    Exited { host: String, pid: Option<i32>, code: Option<i32>, signal: Option<String> },
    ForkFailed { host: String, message: String },
    Ready,
    Finished(Box<Finished>),
    Failed(Box<Failed>),
    Fetch { path: String },
    Inputs { from: u32, count: u32 },
    Model { name: String, version: Option<u32> },
    Status { name: StatusName, value: Value },
}

#[derive(Debug, Deserialize)]
pub(crate) struct Hello {
    pub(crate) protocol: u32,
    pub(crate) host: String,
    pub(crate) role: Role,
    pub(crate) pid: i32,
    pub(crate) language: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Role {
    Template,
    Runner,
}

impl Role {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Template => "template",
            Self::Runner => "runner",
        }
    }
}

/// The attempt ended well.
#[derive(Debug, Deserialize)]
pub(crate) struct Finished {
    pub(crate) key: TaskKey,
    #[serde(default)]
    pub(crate) next: Vec<StepName>,
    #[serde(default)]
    pub(crate) foreach: Option<u32>,
    #[serde(default)]
    pub(crate) objects: Vec<ObjectLink>,
    #[serde(default)]
    pub(crate) artifacts: BTreeMap<String, HostArtifact>,
    #[serde(default)]
    pub(crate) data: Option<String>,
    #[serde(default)]
    pub(crate) publish: Vec<Publication>,
    /// Runs to be started.
    #[serde(default)]
    pub(crate) start: Vec<ChildStart>,
}

/// The attempt raised; it may leave artifacts all the same.
#[derive(Debug, Deserialize)]
pub(crate) struct Failed {
    pub(crate) key: TaskKey,
    #[serde(default = "yes")]
    pub(crate) retryable: bool,
    /// The host ended the step at its time limit.
    #[serde(default)]
    pub(crate) timed_out: bool,
    pub(crate) error: ErrorInfo,
    #[serde(default)]
    pub(crate) objects: Vec<ObjectLink>,
    #[serde(default)]
    pub(crate) artifacts: BTreeMap<String, HostArtifact>,
    #[serde(default)]
    pub(crate) data: Option<String>,
}

fn yes() -> bool {
    true
}

/// A value as a host leaves it: in a file of the task folder, in an earlier object, or in a blob.
#[derive(Debug, Deserialize)]
pub(crate) struct HostArtifact {
    #[serde(default)]
    pub(crate) file: Option<String>,
    #[serde(default)]
    pub(crate) object: Option<u32>,
    #[serde(default)]
    pub(crate) blob: Option<Digest>,
    #[serde(default)]
    pub(crate) offset: Option<u64>,
    pub(crate) bytes: u64,
    #[serde(default)]
    pub(crate) buffers: Option<Vec<(u64, u64)>>,
    pub(crate) encoding: String,
    #[serde(rename = "type", default)]
    pub(crate) kind: String,
    #[serde(default)]
    pub(crate) hash: String,
}

/// A line to a host.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum ToHost<'a> {
    /// Two descriptors travel with it.
    Fork {
        host: &'a str,
        /// An attempt waits for it, or all slots are busy: it shall not spend time on being quick later.
        hurry: bool,
    },
    Run(Box<Run<'a>>),
    Fetched {
        path: &'a str,
    },
    FetchFailed {
        path: &'a str,
        message: String,
    },
    InputsReady {
        from: u32,
        count: u32,
    },
    InputsFailed {
        from: u32,
        message: String,
    },
    ModelFound {
        name: &'a ModelName,
        version: u32,
        object: ObjectLink,
        artifact: &'a str,
        format: &'a str,
        metrics: &'a Map<String, Value>,
    },
    ModelFailed {
        name: &'a str,
        message: String,
    },
}

/// One attempt to run.
#[derive(Debug, Serialize)]
pub(crate) struct Run<'a> {
    pub(crate) key: TaskKey,
    pub(crate) run: RunId,
    pub(crate) run_name: &'a RunName,
    pub(crate) flow: &'a FlowName,
    pub(crate) step: &'a StepName,
    pub(crate) path: &'a Path,
    pub(crate) visit: u32,
    pub(crate) attempt: u32,
    pub(crate) retry: u32,
    pub(crate) retries_max: u32,
    pub(crate) idempotency_key: IdempotencyKey,
    pub(crate) user: &'a str,
    pub(crate) tags: &'a [String],
    pub(crate) parameters: &'a Values,
    pub(crate) trigger: Option<Trigger<'a>>,
    pub(crate) store: &'a str,
    pub(crate) folder: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) inputs: Option<Vec<Input<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) inputs_file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) inputs_table: Option<InputTable<'a>>,
    pub(crate) splits: &'a [SplitLevel],
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) timeout_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) origin_run: Option<RunId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) scheduled_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) gang: Option<Gang<'a>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) signals: &'a BTreeMap<SignalName, Value>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub(crate) children: &'a [EndedChild],
    /// Variables to be set before user code begins.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) environment: BTreeMap<&'a str, &'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) transition: Option<&'a Transition>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) typed: bool,
}

/// The gang that the task is a member of, and its place in it.
#[derive(Debug, Serialize)]
pub(crate) struct Gang<'a> {
    pub(crate) index: u32,
    pub(crate) members: &'a [Address],
}

/// A file with 64 bytes per input, run, key and digest of its object; input `n` is that of item `n` of the foreach on `path`.
#[derive(Debug, Serialize)]
pub(crate) struct InputTable<'a> {
    pub(crate) file: Cow<'a, str>,
    pub(crate) step: &'a StepName,
    pub(crate) path: &'a Path,
    pub(crate) count: u32,
}

#[derive(Debug, Serialize)]
pub(crate) struct Trigger<'a> {
    pub(crate) events: &'a [Value],
}

/// The object of a parent task.
#[derive(Debug, Serialize)]
pub(crate) struct Input<'a> {
    pub(crate) step: &'a StepName,
    pub(crate) path: &'a Path,
    pub(crate) run: RunId,
    pub(crate) key: TaskKey,
    pub(crate) digest: Digest,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_of_the_documentation_are_read() {
        let key = "00112233445566778899aabbccddeeff";
        let finished = format!(
            r#"{{"type":"finished","key":"{key}","next":["join"],"foreach":null,"objects":[],"artifacts":{{"x":{{"file":"data","offset":0,"bytes":12,
            "encoding":"pickle5","type":"int","hash":"ab"}}}},"data":"AAAA","publish":[],"later":1}}"#
        );
        let FromHost::Finished(finished) = serde_json::from_str(&finished).unwrap() else { panic!("not finished") };
        assert_eq!((finished.next[0].as_str(), finished.artifacts["x"].bytes), ("join", 12));
        let failed = format!(
            r#"{{"type":"failed","key":"{key}","retryable":false,"error":{{"type":"E","message":"m","traceback":"","line":null}}}}"#
        );
        assert!(matches!(serde_json::from_str(&failed).unwrap(), FromHost::Failed(failed) if !failed.retryable));
        assert!(serde_json::from_str::<FromHost>(r#"{"type":"surprise"}"#).is_err());
    }
}
