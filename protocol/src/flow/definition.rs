//! What an SDK sends: a flow as its author wrote it, unchecked.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::gate::StepGate;
use crate::id::{Digest, FlowName, StepName};
use crate::parameter::Parameter;
use crate::policy::{CatchPolicy, HostMode, MemoPolicy, RetryPolicy};
use crate::resources::Resources;
use crate::schedule::{Concurrency, Schedule};
use crate::share::Standing;
use crate::surroundings::Surroundings;

/// What an SDK sends: the flow as its author wrote it. Format: `docs/protocol.md` §4.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Definition {
    pub format: u32,
    pub name: FlowName,
    pub language: String,
    /// The flow file's path inside the code package.
    pub file: String,
    pub package: Digest,
    #[serde(default)]
    pub doc: String,
    pub steps: Vec<Step>,
    #[serde(default)]
    pub parameters: Vec<Parameter>,
    #[serde(default)]
    pub triggers: Vec<Trigger>,
    /// Longest time a run may take, in seconds. A request may set another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<f64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub schedules: Vec<Schedule>,
    /// `None`: any number of runs at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<Concurrency>,
    /// How its runs stand among others. A request may say otherwise.
    #[serde(default, skip_serializing_if = "Standing::is_ordinary")]
    pub standing: Standing,
}

/// A named node of a flow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    pub name: StepName,
    /// Line of the step in the flow file; 0 when unknown.
    #[serde(default)]
    pub line: u32,
    #[serde(default)]
    pub doc: String,
    /// Whether the step waits for all siblings and receives them as inputs.
    #[serde(default)]
    pub join: bool,
    pub next: Transition,
    #[serde(default)]
    pub retry: Option<RetryPolicy>,
    #[serde(default)]
    pub catch: Option<CatchPolicy>,
    #[serde(default)]
    pub resources: Option<Resources>,
    /// `None`: the worker's default.
    #[serde(default)]
    pub host: Option<HostMode>,
    /// How often recursion may enter the step on one path; `None`: [`VISITS_MAX_DEFAULT`](super::VISITS_MAX_DEFAULT).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub visits_max: Option<u32>,
    /// Longest time an attempt may take, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<f64>,
    /// Time between the request to end and the kill, in seconds; `None`: [`crate::policy::GRACE_SECONDS_DEFAULT`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace_seconds: Option<f64>,
    /// How long the members of its gang may take to come together, in seconds; `None`: [`crate::policy::GATHER_SECONDS_DEFAULT`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gather_seconds: Option<f64>,
    /// What its tasks wait for beside their inputs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<Box<StepGate>>,
    /// Whether later runs may take its results.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memo: Option<MemoPolicy>,
    /// What runs the step where that is not the flow file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<Box<StepCode>>,
    /// Its variables, secrets and packages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub surroundings: Option<Box<Surroundings>>,
}

/// The code of one step in a flow whose steps are written in several languages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepCode {
    pub language: String,
    /// Its file's path inside the code package. It holds a function with the step's name.
    pub file: String,
}

/// How a step ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transition {
    Linear {
        to: StepName,
    },
    /// Fixed parallel paths.
    Branch {
        to: Vec<StepName>,
    },
    /// One task per item of the artifact `variable`.
    Foreach {
        to: StepName,
        variable: String,
    },
    /// A gang: as many tasks as the step says, which run at the same time and know each other.
    Gang {
        to: StepName,
    },
    /// One of several paths, chosen by the value of the artifact `condition`. A case may lead back to the step itself.
    Switch {
        condition: String,
        cases: Vec<Case>,
    },
    End,
}

/// One value of a switch's condition and where it leads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// A text, number or boolean. For people to read: the host compares, the coordinator only knows the steps.
    pub value: serde_json::Value,
    pub to: StepName,
}

impl Transition {
    /// The steps this transition names, each once.
    #[must_use]
    pub fn targets(&self) -> Vec<&StepName> {
        match self {
            Self::Linear { to } | Self::Foreach { to, .. } | Self::Gang { to } => vec![to],
            Self::Branch { to } => to.iter().collect(),
            Self::Switch { cases, .. } => {
                let mut targets: Vec<&StepName> = Vec::with_capacity(cases.len());
                for case in cases {
                    if !targets.contains(&&case.to) {
                        targets.push(&case.to);
                    }
                }
                targets
            }
            Self::End => Vec::new(),
        }
    }

    /// Whether it opens several tasks of one step, told apart by an index in their paths.
    #[must_use]
    pub fn is_indexed(&self) -> bool {
        matches!(self, Self::Foreach { .. } | Self::Gang { .. })
    }
}

/// A rule: which events start the flow. All events named are needed; one alone fires at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trigger {
    pub events: Vec<TriggerEvent>,
}

/// One event a trigger waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TriggerEvent {
    /// The CloudEvent's `type`.
    pub name: String,
    /// Flow parameter → field of the event's data. `None`: every parameter that is a field of the data.
    #[serde(default)]
    pub parameters: Option<BTreeMap<String, String>>,
}

pub(super) fn leads_to_itself(step: &Step) -> bool {
    matches!(&step.next, Transition::Switch { cases, .. } if cases.iter().any(|case| case.to == step.name))
}
