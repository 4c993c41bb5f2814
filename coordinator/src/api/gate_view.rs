//! What of gates a run has come to, as clients see it: per step what its tasks wait for, signals and approvals, and the runs it started.
//! A signal's data is not shown: it can be large.

use std::collections::{BTreeMap, BTreeSet};

use causey_engine::{Gates, Run};
use causey_protocol::flow::{Flow, StepIndex};
use causey_protocol::gate::{Gate, SignalSource};
use causey_protocol::id::{FlowName, RunId, RunName, SignalName, StepName, Timestamp};
use causey_protocol::record::RunState;
use serde::Serialize;
use serde_json::{Value, json};

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct GatesView {
    waiting: Vec<Waiting>,
    signals: BTreeMap<SignalName, Value>,
    approvals: Vec<Value>,
    children: Vec<ChildView>,
}

/// What tasks of a step wait for.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Waiting {
    step: StepName,
    tasks: u64,
    since: Timestamp,
    signals: BTreeSet<SignalName>,
    approval: bool,
    children: BTreeSet<RunId>,
    /// When the first of them has waited too long.
    until: Option<Timestamp>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct ChildView {
    run: RunId,
    name: RunName,
    flow: FlowName,
    /// The task that started it, and its place among the runs this one started.
    step: StepName,
    task: String,
    ordinal: u32,
    wait: bool,
    allow_failure: bool,
    /// `None` while it has not ended, or if it outlived its parent.
    state: Option<RunState>,
}

pub(super) fn view(run: &Run, flow: &Flow) -> Option<GatesView> {
    let gates = run.gates.as_deref()?;
    let name = |step: StepIndex| flow.step(step).name.clone();
    let signals = gates.signals.iter().map(|(name, signal)| {
        let by = match &signal.source {
            SignalSource::Sent { user, .. } => json!(user),
            SignalSource::Default => Value::Null,
        };
        (name.clone(), json!({"at": signal.at, "by": by}))
    });
    let approvals = gates.approvals.iter().map(|(step, approval)| {
        let own = flow.step(*step).gate.as_ref().and_then(|gate| gate.approval.as_ref());
        json!({"step": name(*step), "by": own.map(|own| &own.by), "requested": approval.requested, "until": approval.until, "decision": approval.decision})
    });
    let children = gates.children.iter().map(|((task, ordinal), child)| ChildView {
        run: child.run,
        name: child.name.clone(),
        flow: child.flow.clone(),
        step: name(task.step),
        task: task.path.task_name(task.visit),
        ordinal: *ordinal,
        wait: child.wait,
        allow_failure: child.allow_failure,
        state: child.ended,
    });
    Some(GatesView {
        waiting: waiting(gates, flow),
        signals: signals.collect(),
        approvals: approvals.collect(),
        children: children.collect(),
    })
}

fn waiting(gates: &Gates, flow: &Flow) -> Vec<Waiting> {
    let mut steps: BTreeMap<StepIndex, Waiting> = BTreeMap::new();
    for (first, gated) in &gates.waiting {
        let step = steps.entry(first.step).or_insert_with(|| Waiting {
            step: flow.step(first.step).name.clone(),
            tasks: 0,
            since: gated.since,
            signals: BTreeSet::new(),
            approval: false,
            children: BTreeSet::new(),
            until: None,
        });
        step.tasks += u64::from(gated.tasks.len());
        step.since = step.since.min(gated.since);
        for awaited in &gated.awaits {
            match &awaited.gate {
                Gate::Signal { name } => drop(step.signals.insert(name.clone())),
                Gate::Approval => step.approval = true,
                Gate::Child { run } => drop(step.children.insert(*run)),
            }
            step.until = [step.until, awaited.until].into_iter().flatten().min();
        }
    }
    steps.into_values().collect()
}
