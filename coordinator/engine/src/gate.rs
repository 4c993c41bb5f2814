//! Gates: what tasks wait for before they are opened: signals to their run, an approval of their step, the end of runs that their
//! parents started. One list per run says which tasks wait for what; whatever comes strikes itself off, and tasks that wait for nothing
//! more are opened. A run whose flow has no gates and which starts no runs pays one look at its step's definition.

use std::collections::BTreeMap;

use causey_protocol::artifact::ObjectRef;
use causey_protocol::flow::{Flow, StepIndex, Transition};
use causey_protocol::gate::{Awaited, EndedChild, Gate, SIGNALS_BYTES_MAX, SignalGate, SignalSource, value_fault};
use causey_protocol::id::{FlowName, Path, RequestId, RunId, RunName, SignalName, StepName, Timestamp};
use causey_protocol::policy;
use causey_protocol::problem::{Code, Problem};
use causey_protocol::record::{Answer, Record, RunState, TaskSet, Topic};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::engine::Decider;
use crate::run::{Run, TaskRef};
use crate::switch;

/// Waiting dispatches that one input opens, and runs that one input ends because their parent has ended: keeps a turn small. The timer
/// goes on with the rest at once.
pub(crate) const SETTLED_MAX: usize = 100;

/// Everything about gates that a run has come to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Gates {
    /// Tasks that wait, by the first of those that wait together.
    pub waiting: BTreeMap<TaskRef, Gated>,
    pub signals: BTreeMap<SignalName, Signal>,
    /// By the step that needs it; asked for once in a run, however many tasks the step has.
    pub approvals: BTreeMap<StepIndex, Approval>,
    /// Runs that tasks of this one started, by the task and their place.
    pub children: BTreeMap<(TaskRef, u32), Child>,
    /// When and how the run ended that had started this one and waited for it.
    pub orphaned: Option<(Timestamp, RunState)>,
}

/// Tasks of one step that wait together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gated {
    pub tasks: TaskSet,
    pub since: Timestamp,
    pub awaits: Vec<Awaited>,
    /// When the last of what they waited for came.
    pub met: Option<Timestamp>,
}

impl Gated {
    /// When something has to be decided about them.
    fn due(&self) -> Option<Timestamp> {
        self.met.or_else(|| self.awaits.iter().filter_map(|awaited| awaited.until).min())
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Signal {
    pub data: Value,
    pub at: Timestamp,
    pub source: SignalSource,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    pub requested: Timestamp,
    pub until: Option<Timestamp>,
    pub decision: Option<Decision>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    pub approved: bool,
    pub user: String,
    pub because: String,
    pub at: Timestamp,
}

/// A run that a task started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Child {
    pub run: RunId,
    pub name: RunName,
    pub flow: FlowName,
    pub wait: bool,
    pub allow_failure: bool,
    /// How it ended; `None` while it has not, or if it outlived this run.
    pub ended: Option<RunState>,
    pub object: Option<ObjectRef>,
}

impl Gates {
    /// When something has to be decided about tasks that wait.
    pub(crate) fn timers(&self) -> impl Iterator<Item = (Timestamp, &TaskRef)> {
        self.waiting.iter().filter_map(|(first, gated)| Some((gated.due()?, first)))
    }

    /// Strikes a gate off; gives the entries concerned with the time they were due and are due now.
    fn strike(&mut self, at: Timestamp, is_it: impl Fn(&TaskRef, &Gate) -> bool) -> Vec<Rearmed> {
        let mut changed = Vec::new();
        for (first, gated) in &mut self.waiting {
            let (before, count) = (gated.due(), gated.awaits.len());
            gated.awaits.retain(|awaited| !is_it(first, &awaited.gate));
            if gated.awaits.len() < count {
                gated.met = gated.awaits.is_empty().then_some(at);
                changed.push(Rearmed { first: first.clone(), before, after: gated.due() });
            }
        }
        changed
    }

    /// The awaited children of a task that have not ended.
    fn children_of(&self, task: &TaskRef) -> impl Iterator<Item = &Child> {
        self.children.range((task.clone(), 0)..=(task.clone(), u32::MAX)).map(|(_, child)| child).filter(|child| child.is_awaited())
    }

    /// The awaited children of the tasks that a join waits for.
    fn children_before(&self, flow: &Flow, join: StepIndex, path: &Path) -> Vec<&Child> {
        let inside = |task: &TaskRef| task.path.0.starts_with(&path.0) && task.path.0.len() <= path.0.len() + 1;
        let of = |parent: &StepIndex| {
            let from = (TaskRef::new(*parent, path.clone(), 0), 0);
            let parent = *parent;
            let near = self.children.range(from..).take_while(move |((task, _), _)| task.step == parent && inside(task));
            near.map(|(_, child)| child).filter(|child| child.is_awaited())
        };
        flow.parents(join).iter().flat_map(of).collect()
    }
}

/// An entry whose timer has moved.
struct Rearmed {
    first: TaskRef,
    before: Option<Timestamp>,
    after: Option<Timestamp>,
}

impl Child {
    fn is_awaited(&self) -> bool {
        self.wait && self.ended.is_none()
    }
}

impl Run {
    /// Tasks that wait for something other than their inputs, and what for.
    pub fn gated(&self) -> impl Iterator<Item = (&TaskRef, &Gated)> {
        self.gates.iter().flat_map(|gates| &gates.waiting)
    }

    /// How many of them a step has.
    #[must_use]
    pub fn gated_of(&self, step: StepIndex) -> u64 {
        self.gated().filter(|(first, _)| first.step == step).map(|(_, gated)| u64::from(gated.tasks.len())).sum()
    }

    /// The data of the signals it has received.
    pub(crate) fn signal_data(&self) -> BTreeMap<SignalName, Value> {
        let signals = self.gates.iter().flat_map(|gates| &gates.signals);
        signals.map(|(name, signal)| (name.clone(), signal.data.clone())).collect()
    }

    /// The runs that its tasks started, waited for and saw ending.
    pub(crate) fn ended_children(&self, flow: &Flow) -> Vec<EndedChild> {
        let all = self.gates.iter().flat_map(|gates| &gates.children).filter(|(_, child)| child.wait);
        let ended = all.filter_map(|((task, ordinal), child)| {
            Some(EndedChild {
                run: child.run,
                name: child.name.clone(),
                flow: child.flow.clone(),
                state: child.ended?,
                step: flow.step(task.step).name.clone(),
                path: task.path.clone(),
                visit: task.visit,
                ordinal: *ordinal,
                object: child.object,
            })
        });
        ended.collect()
    }

    fn gates_mut(&mut self) -> &mut Gates {
        self.gates.get_or_insert_default()
    }
}

impl crate::state::Indices {
    fn rearm(&mut self, run: RunId, changed: Vec<Rearmed>) {
        for Rearmed { first, before, after } in changed {
            if let Some(due) = before {
                self.timers.remove(&(due, run, Some(first.clone())));
            }
            if let Some(due) = after {
                self.timers.insert((due, run, Some(first)));
            }
        }
    }

    /// Tasks wait no longer: they are opened, or held back for other reasons.
    pub(crate) fn let_through(&mut self, run: &mut Run, first: &TaskRef) {
        let id = run.id();
        let Some(gates) = run.gates.as_mut().filter(|gates| !gates.waiting.is_empty()) else { return };
        if let Some(due) = gates.waiting.remove(first).and_then(|gated| gated.due()) {
            self.timers.remove(&(due, id, Some(first.clone())));
        }
    }

    /// Folds a record about gates into its run.
    pub(crate) fn apply_to_gates(&mut self, run: &mut Run, at: Timestamp, record: &Record) {
        let id = run.id();
        match record {
            Record::TasksGated { step, tasks, awaits, .. } => {
                let Some((path, visit)) = tasks.iter().next() else { return };
                let first = TaskRef::new(*step, path, visit);
                let gated = Gated { tasks: tasks.clone(), since: at, awaits: awaits.clone(), met: None };
                self.timers.extend(gated.due().map(|due| (due, id, Some(first.clone()))));
                run.gates_mut().waiting.insert(first, gated);
            }
            Record::SignalReceived { name, data, source, .. } => {
                let gates = run.gates_mut();
                gates.signals.insert(name.clone(), Signal { data: data.clone(), at, source: source.clone() });
                let changed = gates.strike(at, |_, gate| matches!(gate, Gate::Signal { name: awaited } if awaited == name));
                self.rearm(id, changed);
            }
            Record::ApprovalRequested { step, until, .. } => {
                run.gates_mut().approvals.insert(*step, Approval { requested: at, until: *until, decision: None });
            }
            Record::ApprovalDecided { step, approved, user, because, .. } => {
                let gates = run.gates_mut();
                let Some(approval) = gates.approvals.get_mut(step) else { return };
                approval.decision = Some(Decision { approved: *approved, user: user.clone(), because: because.clone(), at });
                if *approved {
                    let changed = gates.strike(at, |first, gate| first.step == *step && *gate == Gate::Approval);
                    self.rearm(id, changed);
                }
            }
            Record::ChildEnded { child, state, object, .. } => {
                let gates = run.gates_mut();
                for found in gates.children.values_mut().filter(|found| found.run == *child) {
                    (found.ended, found.object) = (Some(*state), *object);
                }
                let changed = gates.strike(at, |_, gate| matches!(gate, Gate::Child { run } if run == child));
                self.rearm(id, changed);
            }
            _ => {}
        }
    }
}

/// Whether tasks of a step may have to wait: the look that every first attempt costs.
pub(crate) fn may_wait(run: &Run, flow: &Flow, step: StepIndex) -> bool {
    run.gates.is_some() || flow.step(step).gate.is_some()
}

/// The split whose foreach leads straight to `step`.
fn split_before(flow: &Flow, step: StepIndex) -> Option<StepIndex> {
    let [split] = flow.parents(step) else { return None };
    matches!(flow.step(*split).next, Transition::Foreach { .. }).then_some(*split)
}

/// What first attempts at `tasks` still have to wait for.
fn unmet(run: &Run, flow: &Flow, step: StepIndex, tasks: &TaskSet, now: Timestamp) -> Vec<Awaited> {
    let none = Gates::default();
    let gates = run.gates.as_deref().unwrap_or(&none);
    let until = |seconds: Option<f64>| seconds.map(|seconds| now.plus_micros(policy::micros(seconds)));
    let mut awaits = Vec::new();
    if let Some(gate) = &flow.step(step).gate {
        let missing = gate.signals.iter().filter(|signal| !gates.signals.contains_key(&signal.name));
        awaits.extend(
            missing.map(|signal| Awaited { gate: Gate::Signal { name: signal.name.clone() }, until: until(signal.timeout_seconds) }),
        );
        if let Some(approval) = &gate.approval {
            let requested = gates.approvals.get(&step);
            if requested.and_then(|requested| requested.decision.as_ref()).is_none_or(|decision| !decision.approved) {
                let until = requested.map_or_else(|| until(approval.timeout_seconds), |requested| requested.until);
                awaits.push(Awaited { gate: Gate::Approval, until });
            }
        }
    }
    if !gates.children.is_empty() {
        awaits.extend(children(run, gates, flow, step, tasks).into_iter().map(|run| Awaited { gate: Gate::Child { run }, until: None }));
    }
    awaits
}

/// The runs that parents of these tasks started and that have not ended.
fn children(run: &Run, gates: &Gates, flow: &Flow, step: StepIndex, tasks: &TaskSet) -> Vec<RunId> {
    if flow.step(step).join {
        let TaskSet::One { path, .. } = tasks else { return Vec::new() };
        return gates.children_before(flow, step, path).into_iter().map(|child| child.run).collect();
    }
    // The items of a foreach have one parent, which is the split.
    let parents = if split_before(flow, step).is_some() { 1 } else { usize::MAX };
    let parents = tasks.iter().take(parents).filter_map(|(path, visit)| switch::parent(run, flow, &TaskRef::new(step, path, visit)));
    parents.flat_map(|parent| gates.children_of(&parent).map(|child| child.run).collect::<Vec<_>>()).collect()
}

impl Decider<'_> {
    /// Whether these tasks, about to be opened for the first time, have to wait; if so, that is noted.
    pub(crate) fn gated(&mut self, run: RunId, step: StepIndex, tasks: &TaskSet) -> bool {
        let Some((found, flow)) = self.run_and_flow(run) else { return false };
        if !may_wait(found, &flow, step) {
            return false;
        }
        let Some((path, visit)) = tasks.iter().next() else { return false };
        let first = TaskRef::new(step, path, visit);
        if found.gates.as_ref().and_then(|gates| gates.waiting.get(&first)).is_some_and(|gated| gated.met.is_none()) {
            return true;
        }
        let awaits = unmet(found, &flow, step, tasks, self.now());
        if awaits.is_empty() {
            return false;
        }
        let approval = awaits.iter().find(|awaited| awaited.gate == Gate::Approval).map(|awaited| awaited.until);
        if let Some(until) = approval {
            self.ask_for_approval(run, &flow, &first, until);
        }
        self.emit(Record::TasksGated { run, step, tasks: tasks.clone(), awaits });
        true
    }

    fn ask_for_approval(&mut self, run: RunId, flow: &Flow, first: &TaskRef, until: Option<Timestamp>) {
        let Some(found) = self.state.run(run) else { return };
        if found.gates.as_ref().is_some_and(|gates| gates.approvals.contains_key(&first.step)) {
            return;
        }
        let (id, topic) = (first.id(flow), Topic::ApprovalRequested);
        let by = flow.step(first.step).gate.as_ref().and_then(|gate| gate.approval.as_ref()).map(|approval| approval.by.clone());
        let name = flow.definition().name.to_string();
        let data = json!({
            "run": run, "name": found.start.name, "flow": name, "step": id.step, "by": by, "requested": self.now(), "until": until,
            "user": found.start.user,
        });
        self.emit(Record::ApprovalRequested { run, step: first.step, until });
        self.emit(Record::Notified { id: id.notification_id(run, topic.as_str(), 0), topic, name, run, data });
    }

    /// Opens tasks of a run that wait for nothing any more, as many as one input may.
    pub(crate) fn release(&mut self, run: RunId) {
        let Some(gates) = self.state.run(run).and_then(|found| found.gates.as_ref()) else { return };
        let met = gates.waiting.iter().filter(|(_, gated)| gated.met.is_some());
        let met: Vec<TaskRef> = met.map(|(first, _)| first.clone()).take(SETTLED_MAX).collect();
        for first in met {
            self.let_in(run, &first);
        }
    }

    fn let_in(&mut self, run: RunId, first: &TaskRef) {
        let Some((found, flow)) = self.run_and_flow(run) else { return };
        let Some(tasks) = found.gates.as_ref().and_then(|gates| Some(gates.waiting.get(first)?.tasks.clone())) else { return };
        match (&tasks, split_before(&flow, first.step)) {
            (TaskSet::Range { path, .. }, Some(split)) => self.refill_foreach(run, split, path),
            // Earlier results were sought before the tasks had to wait.
            _ => self.pass_gates(run, first.step, tasks, 0, 0),
        }
    }

    /// The timer of tasks that wait: they may be opened, or their time is over.
    pub(crate) fn gate_due(&mut self, run: RunId, first: &TaskRef) {
        let Some((found, flow)) = self.run_and_flow(run) else { return };
        let Some(gated) = found.gates.as_ref().and_then(|gates| gates.waiting.get(first)) else { return };
        if gated.met.is_some() {
            return self.let_in(run, first);
        }
        let now = self.now();
        let Some(over) = gated.awaits.iter().find(|awaited| awaited.until.is_some_and(|until| until <= now)) else { return };
        let (gate, step) = (over.gate.clone(), flow.step(first.step));
        let own = step.gate.as_deref();
        match gate {
            Gate::Signal { name } => {
                let own = own.and_then(|own| own.signals.iter().find(|signal| signal.name == name));
                if let Some(SignalGate { default: Some(default), .. }) = own {
                    let data = default.value.clone();
                    self.emit(Record::SignalReceived { run, name, data, source: SignalSource::Default });
                    return self.release(run);
                }
                let limit = own.and_then(|own| own.timeout_seconds).unwrap_or_default();
                let what = format!("step `{}` waited {limit} seconds for signal `{name}`, which did not come", step.name);
                let hint = format!("send it in time: causey signal RUN {name}; or give @wait_for a default");
                self.finish(run, RunState::Failed, Some(Problem::new(Code::WAITED_IN_VAIN, what).hint(hint)));
            }
            Gate::Approval => {
                let limit = own.and_then(|own| own.approval.as_ref()?.timeout_seconds).unwrap_or_default();
                let what = format!("step `{}` was neither approved nor rejected within {limit} seconds", step.name);
                self.finish(run, RunState::Failed, Some(Problem::new(Code::WAITED_IN_VAIN, what)));
            }
            Gate::Child { .. } => {}
        }
    }

    /// The run that a request is about, while it goes on.
    fn live(&self, run: RunId, what: &str) -> Result<(&Run, std::sync::Arc<Flow>), Problem> {
        let ended = |state: RunState| Problem::new(Code::RUN_ENDED, format!("run {run} has ended ({}); {what}", state.as_str()));
        match self.run_and_flow(run) {
            Some((found, _)) if found.state.is_terminal() => Err(ended(found.state)),
            Some(found) => Ok(found),
            None => Err(match self.state.retired.get(&run) {
                Some(retired) => ended(retired.state),
                None => Problem::new(Code::NOT_FOUND, format!("no run {run}")),
            }),
        }
    }

    pub(crate) fn signal(&mut self, run: RunId, name: SignalName, data: Value, user: String, request: RequestId) -> Answer {
        match self.signal_problem(run, &name, &data, &request) {
            Err(problem) => return Answer::Refused(problem),
            Ok(true) => return Answer::Done,
            Ok(false) => {}
        }
        self.emit(Record::SignalReceived { run, name, data, source: SignalSource::Sent { user, request } });
        self.release(run);
        Answer::Done
    }

    /// Whether this very request has been heard before; why it cannot be.
    fn signal_problem(&self, run: RunId, name: &SignalName, data: &Value, request: &RequestId) -> Result<bool, Problem> {
        let (found, flow) = self.live(run, "it takes no signals any more").map_err(|problem| {
            let flow = self.run_and_flow(run).map(|(_, flow)| flow);
            flow.map_or_else(|| problem.clone(), |flow| problem.clone().hint(signals_hint(&flow)))
        })?;
        if !flow.signals().contains(&name) {
            let what = format!("no step of flow {} waits for signal `{name}`", flow.definition().name);
            return Err(Problem::new(Code::NOT_AWAITED, what).hint(signals_hint(&flow)));
        }
        let known = found.gates.as_ref().map(|gates| &gates.signals);
        match known.and_then(|known| known.get(name)).map(|signal| &signal.source) {
            Some(SignalSource::Sent { request: earlier, .. }) if earlier == request => return Ok(true),
            Some(SignalSource::Sent { user, .. }) => {
                let what = format!("run {} has received signal `{name}` before, from {user:?}", found.start.name);
                return Err(Problem::new(Code::NOT_AWAITED, what).hint("a signal counts once in a run"));
            }
            Some(SignalSource::Default) => {
                let what = format!("the time for signal `{name}` was over: run {} went on with the default", found.start.name);
                return Err(Problem::new(Code::NOT_AWAITED, what));
            }
            None => {}
        }
        let before: usize = known.into_iter().flatten().map(|(_, signal)| signal.data.to_string().len()).sum();
        match value_fault(data, SIGNALS_BYTES_MAX.saturating_sub(before)) {
            Some(what) => {
                let what = format!("the data of signal `{name}` {what}");
                let what = if before > 0 { format!("{what}, beside the {before} of other signals to this run") } else { what };
                Err(Problem::new(Code::TOO_LARGE, what).hint("put large data into a file or bucket and pass its address"))
            }
            None => Ok(false),
        }
    }

    pub(crate) fn approve(&mut self, run: RunId, step: &StepName, approved: bool, user: String, because: String) -> Answer {
        let step = match self.approval_problem(run, step, approved, &user) {
            Err(problem) => return Answer::Refused(problem),
            Ok(None) => return Answer::Done,
            Ok(Some(step)) => step,
        };
        let Some((_, flow)) = self.run_and_flow(run) else { return Answer::Done };
        let name = &flow.step(step).name;
        let why = if because.is_empty() { String::new() } else { format!(": {because}") };
        let rejected = Problem::new(Code::REJECTED, format!("step `{name}` was rejected by {user:?}{why}"));
        self.emit(Record::ApprovalDecided { run, step, approved, user, because });
        if approved {
            self.release(run);
        } else {
            self.finish(run, RunState::Failed, Some(rejected));
        }
        Answer::Done
    }

    /// The step to decide about, nothing if that was done alike before, or why it cannot be.
    fn approval_problem(&self, run: RunId, step: &StepName, approved: bool, user: &str) -> Result<Option<StepIndex>, Problem> {
        let decided = |approved: bool| if approved { "approved" } else { "rejected" };
        let (found, flow) = match self.live(run, "nothing waits for an approval any more") {
            Ok(found) => found,
            // The decision may be what ended it.
            Err(problem) => return if self.is_decided(run, step, approved, user) { Ok(None) } else { Err(problem) },
        };
        let gate = |index: StepIndex| flow.step(index).gate.as_ref().and_then(|gate| gate.approval.as_ref());
        let listed = || {
            let steps: Vec<&str> = flow.indices().filter(|step| gate(*step).is_some()).map(|step| flow.step(step).name.as_str()).collect();
            if steps.is_empty() { "no step of this flow needs an approval".into() } else { format!("those that do: {}", steps.join(", ")) }
        };
        let Some(index) = flow.find(step) else {
            return Err(Problem::new(Code::NOT_FOUND, format!("flow {} has no step `{step}`", flow.definition().name)).hint(listed()));
        };
        let Some(own) = gate(index) else {
            return Err(Problem::new(Code::NOT_AWAITED, format!("step `{step}` needs no approval")).hint(listed()));
        };
        let Some(approval) = found.gates.as_ref().and_then(|gates| gates.approvals.get(&index)) else {
            return Err(Problem::new(Code::NOT_AWAITED, format!("run {} has not come to step `{step}` yet", found.start.name)));
        };
        if !own.by.is_empty() && !own.by.iter().any(|one| one == user) {
            let what = format!("step `{step}` is not for {user:?} to decide about");
            return Err(Problem::new(Code::FORBIDDEN, what).hint(format!("its flow names: {}", own.by.join(", "))));
        }
        match &approval.decision {
            None => Ok(Some(index)),
            Some(decision) if decision.approved == approved => Ok(None),
            Some(decision) => {
                let what = format!("step `{step}` has been {} by {:?} before", decided(decision.approved), decision.user);
                Err(Problem::new(Code::NOT_AWAITED, what))
            }
        }
    }

    /// Whether the same person has decided the same before.
    fn is_decided(&self, run: RunId, step: &StepName, approved: bool, user: &str) -> bool {
        let Some((found, flow)) = self.run_and_flow(run) else { return false };
        let approval = flow.find(step).and_then(|step| found.gates.as_ref()?.approvals.get(&step));
        let decision = approval.and_then(|approval| approval.decision.as_ref());
        decision.is_some_and(|decision| decision.approved == approved && decision.user == user)
    }
}

fn signals_hint(flow: &Flow) -> String {
    let names: Vec<&str> = flow.signals().into_iter().map(SignalName::as_str).collect();
    if names.is_empty() { "none of its steps has @wait_for".into() } else { format!("it waits for: {}", names.join(", ")) }
}
