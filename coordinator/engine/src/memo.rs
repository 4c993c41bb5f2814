//! Memoised steps: accepted results are remembered under a key made of all that they depend on, and a later task with the same key takes
//! one instead of being run. Whether there is one is looked up when an attempt would be opened; from there on it goes as in a resumed run.
//! It does not know what objects contain: workers say so.

use std::collections::{BTreeMap, BTreeSet};

use causey_protocol::artifact::ObjectRef;
use causey_protocol::flow::{Flow, StepIndex};
use causey_protocol::id::{ContentId, Digest, MemoKey, Path, RunId, SignalName, StepName, Timestamp, hash_fields};
use causey_protocol::policy;
use causey_protocol::record::{Record, ResultRemembered, TaskSet};
use causey_protocol::task::Success;
use serde::{Deserialize, Serialize};

use crate::engine::Decider;
use crate::join;
use crate::resume::SOUGHT_MAX;
use crate::run::{Run, TaskRef};
use crate::state::State;
use crate::switch;

/// Results that are remembered; the oldest go first.
const REMEMBERED_MAX: usize = 100_000;

/// An accepted result of a memoised step. Its object's place follows from the run, from the task, which is part of the key, and from the
/// attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    pub at: Timestamp,
    /// The run that made it.
    pub run: RunId,
    pub attempt: u32,
    pub digest: Digest,
    pub bytes: u64,
}

/// A remembered result that a task may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Which of the tasks that are sought together.
    pub place: u32,
    pub attempt: u32,
    pub object: ObjectRef,
}

/// Whether tasks of a step may take remembered results. A resumed run takes those of the run that it resumes, and no others: what was
/// asked to be done again shall be.
fn recalls(run: &Run, flow: &Flow, step: StepIndex) -> bool {
    flow.step(step).memo.is_some() && !run.start.fresh && run.start.cause.earlier().is_none()
}

/// What the result of a task depends on. `None` for a step that is not memoised, and where it depends on something that is not known: an
/// input whose content was not told, more of them than are known one by one, or other runs that this one started.
pub(crate) fn key(run: &Run, flow: &Flow, task: &TaskRef) -> Option<MemoKey> {
    let (definition, step) = (flow.definition(), flow.step(task.step));
    let memo = step.memo.as_ref()?;
    if run.gates.as_ref().is_some_and(|gates| !gates.children.is_empty()) {
        return None;
    }
    let code = memo.version.as_ref().map_or_else(|| format!("package {}", definition.package), |version| format!("version {version}"));
    let path: Vec<u8> = task.path.0.iter().flat_map(|index| index.to_le_bytes()).collect();
    let parameters = json(&run.start.parameters);
    let signals = json(&signals(run, flow, task.step));
    let inputs = inputs(run, flow, task)?;
    let visit = task.visit.to_le_bytes();
    let mut fields: Vec<&[u8]> = vec![
        definition.name.as_str().as_bytes(),
        step.name.as_str().as_bytes(),
        code.as_bytes(),
        &path,
        &visit,
        parameters.as_bytes(),
        signals.as_bytes(),
    ];
    for (step, content) in &inputs {
        fields.extend([step.as_str().as_bytes(), &content.0]);
    }
    let surroundings = step.surroundings.as_ref().map(json);
    fields.extend(surroundings.as_ref().map(|surroundings| surroundings.as_bytes()));
    Some(MemoKey(hash_fields("causey memo key v1", &fields)))
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("parameters and signals have a JSON form")
}

/// What the task's inputs contain, in order.
fn inputs(run: &Run, flow: &Flow, task: &TaskRef) -> Option<Vec<(StepName, ContentId)>> {
    let content = |parent: &TaskRef| Some((flow.step(parent.step).name.clone(), *run.task(parent)?.content.as_deref()?));
    if flow.step(task.step).join {
        if join::is_chunked(run, flow, task.step, &task.path) {
            return None;
        }
        return join::parents(run, flow, task.step, &task.path).iter().map(content).collect();
    }
    if task.step == flow.start() && task.visit == 0 {
        return Some(Vec::new());
    }
    let parent = switch::parent(run, flow, task)?;
    Some(vec![content(&parent)?])
}

/// Data of the signals that came before the step: those that it or a step before it waits for. Others may come at any time.
fn signals<'a>(run: &'a Run, flow: &Flow, step: StepIndex) -> BTreeMap<&'a SignalName, &'a serde_json::Value> {
    let Some(gates) = run.gates.as_ref().filter(|gates| !gates.signals.is_empty()) else { return BTreeMap::new() };
    let (mut before, mut next) = (BTreeSet::from([step]), vec![step]);
    while let Some(step) = next.pop() {
        next.extend(flow.parents(step).iter().filter(|parent| before.insert(**parent)));
    }
    let waited = before.iter().filter_map(|step| flow.step(*step).gate.as_ref()).flat_map(|gate| &gate.signals);
    waited.filter_map(|signal| gates.signals.get_key_value(&signal.name)).map(|(name, signal)| (name, &signal.data)).collect()
}

/// What is remembered of these tasks of a run.
pub(crate) fn known(state: &State, run: &Run, flow: &Flow, step: StepIndex, tasks: &TaskSet) -> Vec<Known> {
    let known = |(place, (path, visit)): (u32, (Path, u32))| {
        let task = TaskRef::new(step, path, visit);
        let Remembered { run, attempt, digest, bytes, .. } = *state.remembered(run, flow, &task)?;
        Some(Known { place, attempt, object: ObjectRef { run, key: task.id(flow).key(attempt), digest, bytes } })
    };
    (0..).zip(tasks.iter()).filter_map(known).collect()
}

impl State {
    /// The remembered result that a task may take.
    fn remembered(&self, run: &Run, flow: &Flow, task: &TaskRef) -> Option<&Remembered> {
        let memo = flow.step(task.step).memo.as_ref()?;
        let found = self.memo.get(&key(run, flow, task)?)?;
        let age = self.at.micros_since(found.at);
        memo.expires_seconds.is_none_or(|seconds| age < policy::micros(seconds)).then_some(found)
    }

    pub(crate) fn remember(&mut self, id: RunId, step: StepIndex, results: &[ResultRemembered]) {
        let Some(run) = self.runs.get_mut(&id).map(std::sync::Arc::make_mut) else { return };
        for ResultRemembered(path, visit, content, key) in results {
            let Some((made, attempt, (digest, bytes))) = run.note_content(&TaskRef::new(step, path.clone(), *visit), *content) else {
                continue;
            };
            let Some(key) = key else { continue };
            let at = self.at;
            if let Some(before) = self.memo.get(key) {
                self.index_by.memo.remove(&(before.at, *key));
            }
            self.memo.insert(*key, Remembered { at, run: made.unwrap_or(id), attempt, digest, bytes });
            self.index_by.memo.insert((at, *key));
        }
        while self.memo.len() > REMEMBERED_MAX
            && let Some((_, oldest)) = self.index_by.memo.pop_first()
        {
            self.memo.remove(&oldest);
        }
    }

    pub(crate) fn forget_remembered(&mut self, keys: &[MemoKey]) {
        for key in keys {
            if let Some(gone) = self.memo.remove(key) {
                self.index_by.memo.remove(&(gone.at, *key));
            }
        }
    }
}

impl Decider<'_> {
    /// Whether results are remembered of some of these tasks, whose first attempts are about to be opened; if so, they are asked for.
    pub(crate) fn recall(&mut self, run: RunId, step: StepIndex, tasks: &TaskSet) -> bool {
        let Some((found, flow)) = self.run_and_flow(run) else { return false };
        if !recalls(found, &flow, step) {
            return false;
        }
        let known = tasks.iter().any(|(path, visit)| self.state.remembered(found, &flow, &TaskRef::new(step, path, visit)).is_some());
        if known {
            self.emit(Record::ResultsSought { run, step, tasks: tasks.clone() });
        }
        known
    }

    /// The same of the items `from..to` that a foreach would open next; with them go further ones of which results are remembered.
    pub(crate) fn recall_items(&mut self, run: RunId, step: StepIndex, path: &Path, (from, to): (u32, u32), count: u32) -> bool {
        let Some((found, flow)) = self.run_and_flow(run) else { return false };
        if !recalls(found, &flow, step) {
            return false;
        }
        let is_known = |item: &u32| self.state.remembered(found, &flow, &TaskRef::new(step, path.child(*item), 0)).is_some();
        if !(from..to).any(|item| is_known(&item)) {
            return false;
        }
        let most = from.saturating_add(SOUGHT_MAX).min(count);
        let further = (to..most).take_while(is_known).count();
        let to = to + u32::try_from(further).unwrap_or_default();
        self.emit(Record::ResultsSought { run, step, tasks: TaskSet::Range { path: path.clone(), from, to } });
        true
    }

    /// What is to be remembered of results of one step before they are accepted: from then on it is not known any more where a task came
    /// from.
    pub(crate) fn memo_of<'a>(
        &self,
        run: RunId,
        step: StepIndex,
        results: impl Iterator<Item = (TaskRef, &'a Success)>,
    ) -> Vec<ResultRemembered> {
        let Some((found, flow)) = self.run_and_flow(run) else { return Vec::new() };
        let feeds = flow.feeds_memo(step);
        if !feeds && flow.step(step).memo.is_none() {
            return Vec::new();
        }
        let noted = |(task, success): (TaskRef, &Success)| {
            let content = success.content.filter(|_| feeds);
            let key = if success.children.is_empty() { key(found, &flow, &task) } else { None };
            (content.is_some() || key.is_some()).then_some(ResultRemembered(task.path, task.visit, content, key))
        };
        results.filter_map(noted).collect()
    }

    pub(crate) fn note_results(&mut self, run: RunId, step: StepIndex, results: Vec<ResultRemembered>) {
        if !results.is_empty() {
            self.emit(Record::ResultsRemembered { run, step, results });
        }
    }

    /// Results that were remembered of these tasks cannot be had.
    pub(crate) fn forget_results(&mut self, run: RunId, tasks: impl Iterator<Item = TaskRef>) {
        let Some((found, flow)) = self.run_and_flow(run) else { return };
        let keys: Vec<MemoKey> = tasks.filter_map(|task| key(found, &flow, &task)).filter(|key| self.state.memo.contains(key)).collect();
        if !keys.is_empty() {
            self.emit(Record::ResultsForgotten { keys });
        }
    }
}
