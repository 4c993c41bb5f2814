//! Gates: what the tasks of a step wait for beside their inputs. A step may wait for signals to its run and for an approval; whatever
//! the author wrote, a task also waits for the runs that its parents started and want to wait for.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::artifact::ObjectRef;
use crate::id::{FlowName, Path, RunId, RunName, SignalName, StepName, Timestamp};
use crate::parameter::Values;
use crate::policy::timeout_fault;
use crate::record::RunState;

/// Most signals that one step may wait for.
pub const SIGNALS_PER_STEP_MAX: usize = 16;

/// Most bytes of a signal's data as JSON, and of the data of all signals of a run.
pub const SIGNALS_BYTES_MAX: usize = 64 * 1024;

/// Deepest nesting of a value that a signal or a status carries: far less than a message may have, because it travels inside others.
pub const VALUE_DEPTH_MAX: usize = 32;

/// Most people an approval may name, and the longest name in bytes.
pub const APPROVERS_MAX: usize = 64;
pub const APPROVER_BYTES_MAX: usize = 256;

/// Most runs that one task, and that one run, may start as children.
pub const CHILDREN_PER_TASK_MAX: usize = 100;
pub const CHILDREN_PER_RUN_MAX: usize = 256;

/// Most bytes of what one task says about the children it starts.
pub const CHILDREN_BYTES_MAX: usize = 64 * 1024;

/// How deep runs may start runs; the first one has depth 0.
pub const CHILD_DEPTH_MAX: u32 = 10;

/// What a step waits for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepGate {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signals: Vec<SignalGate>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<ApprovalGate>,
}

/// A signal that the run must have received.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignalGate {
    pub name: SignalName,
    /// How long a task waits, in seconds; `None`: for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<f64>,
    /// What counts as the signal's data when the time is over; `None`: the run fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<DefaultData>,
}

/// A value in a struct of its own, so that `null` is one too.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DefaultData {
    pub value: Value,
}

/// An approval of the step by a person.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApprovalGate {
    /// Who may decide; empty: everybody.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub by: Vec<String>,
    /// How long the approval may take from when it is asked for, in seconds; `None`: for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<f64>,
}

impl StepGate {
    /// Why this is no gate, in words; `None` when it is one.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        if self.signals.is_empty() && self.approval.is_none() {
            return Some("a gate waits for nothing".into());
        }
        if self.signals.len() > SIGNALS_PER_STEP_MAX {
            return Some(format!("it waits for {} signals; at most {SIGNALS_PER_STEP_MAX} are possible", self.signals.len()));
        }
        for (place, signal) in self.signals.iter().enumerate() {
            let name = &signal.name;
            if self.signals[..place].iter().any(|earlier| earlier.name == *name) {
                return Some(format!("it waits for signal `{name}` twice"));
            }
            if let Some(what) = signal.timeout_seconds.and_then(timeout_fault) {
                return Some(format!("waiting for signal `{name}`: {what}"));
            }
            if let Some(default) = &signal.default {
                if signal.timeout_seconds.is_none() {
                    return Some(format!("the default of signal `{name}` never counts without a timeout"));
                }
                if let Some(what) = value_fault(&default.value, SIGNALS_BYTES_MAX) {
                    return Some(format!("the default of signal `{name}` {what}"));
                }
            }
        }
        let approval = self.approval.as_ref()?;
        if approval.by.len() > APPROVERS_MAX || approval.by.iter().any(|user| user.is_empty() || user.len() > APPROVER_BYTES_MAX) {
            return Some(format!("an approval names at most {APPROVERS_MAX} people by 1 to {APPROVER_BYTES_MAX} bytes each"));
        }
        approval.timeout_seconds.and_then(timeout_fault).map(|what| format!("the approval: {what}"))
    }
}

/// Why a value cannot travel in a signal or a status, as the end of a sentence; `None` when it can.
#[must_use]
pub fn value_fault(value: &Value, bytes_max: usize) -> Option<String> {
    if !is_shallow(value, VALUE_DEPTH_MAX) {
        return Some(format!("is nested more than {VALUE_DEPTH_MAX} levels deep"));
    }
    let bytes = value.to_string().len();
    (bytes > bytes_max).then(|| format!("has {bytes} bytes; at most {bytes_max} are accepted"))
}

fn is_shallow(value: &Value, levels: usize) -> bool {
    match value {
        Value::Array(items) => levels > 0 && items.iter().all(|item| is_shallow(item, levels - 1)),
        Value::Object(fields) => levels > 0 && fields.values().all(|item| is_shallow(item, levels - 1)),
        _ => true,
    }
}

/// One thing that tasks wait for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gate {
    Signal {
        name: SignalName,
    },
    /// An approval of their step.
    Approval,
    /// The end of a run that one of their parents started.
    Child {
        run: RunId,
    },
}

/// A gate, and how long it is waited for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Awaited {
    pub gate: Gate,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

/// How a signal came to its run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SignalSource {
    /// By this request of this user.
    Sent { user: String, request: crate::id::RequestId },
    /// Its time was over.
    Default,
}

/// A run that a step wants started once its result is accepted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChildStart {
    pub flow: FlowName,
    #[serde(default)]
    pub parameters: Values,
    /// Whether what follows the task waits for the end of the run.
    #[serde(default = "yes")]
    pub wait: bool,
    /// Whether the parent goes on when the run does not succeed.
    #[serde(default)]
    pub allow_failure: bool,
}

fn yes() -> bool {
    true
}

/// Where a run that another one started comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Parent {
    pub run: RunId,
    pub name: RunName,
    pub step: StepName,
    pub path: Path,
    pub visit: u32,
    /// Its place among the runs that the task started.
    pub ordinal: u32,
    pub wait: bool,
    pub allow_failure: bool,
    /// How many runs stand above it.
    pub depth: u32,
}

/// A run that an earlier task started and waited for, as a later task sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EndedChild {
    pub run: RunId,
    pub name: RunName,
    pub flow: FlowName,
    pub state: RunState,
    pub step: StepName,
    pub path: Path,
    pub visit: u32,
    pub ordinal: u32,
    /// What its last task left; `None` when it did not come so far.
    pub object: Option<ObjectRef>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn gate(json: Value) -> StepGate {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn a_default_may_be_null_and_needs_a_timeout() {
        let given = gate(json!({"signals": [{"name": "go", "timeout_seconds": 5.0, "default": {"value": null}}]}));
        assert_eq!(given.signals[0].default.as_ref().unwrap().value, Value::Null);
        assert_eq!(given.fault(), None);
        let endless = gate(json!({"signals": [{"name": "go", "default": {"value": 1}}]}));
        assert_eq!(endless.fault().unwrap(), "the default of signal `go` never counts without a timeout");
    }

    #[test]
    fn gates_that_cannot_be_are_named() {
        let fault = |json| gate(json).fault().unwrap();
        assert_eq!(fault(json!({})), "a gate waits for nothing");
        assert_eq!(fault(json!({"signals": [{"name": "go"}, {"name": "go"}]})), "it waits for signal `go` twice");
        let zero = fault(json!({"signals": [{"name": "go", "timeout_seconds": 0.0}]}));
        assert_eq!(zero, "waiting for signal `go`: a timeout of 0 seconds is not between 0 (excluded) and 31536000");
        assert!(fault(json!({"approval": {"by": [""]}})).starts_with("an approval names at most 64 people"));
        assert!(fault(json!({"approval": {"timeout_seconds": -1.0}})).starts_with("the approval: a timeout of -1 seconds"));
        let large = json!({"signals": [{"name": "go", "timeout_seconds": 1.0, "default": {"value": "x".repeat(70_000)}}]});
        assert_eq!(fault(large), "the default of signal `go` has 70002 bytes; at most 65536 are accepted");
    }

    #[test]
    fn a_value_nested_too_deeply_is_refused() {
        let nested = |levels| (0..levels).fold(json!(1), |inner, _| json!([inner]));
        assert_eq!(value_fault(&nested(32), 1000), None);
        assert_eq!(value_fault(&nested(33), 1000).unwrap(), "is nested more than 32 levels deep");
    }
}
