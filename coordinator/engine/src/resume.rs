//! Resume: a run that takes accepted results of an earlier one. What may be taken is settled when it starts, from both graphs; whether a
//! task has a result is asked for when it is ready, so that of a wide run never more is known than its window. From there on the
//! ordinary rules hold: a task with a result goes on like one that has just succeeded.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use causey_protocol::flow::{Flow, StepIndex, Transition};
use causey_protocol::id::{Digest, Origin, Path, RequestId, RunId, StepName, Timestamp, hash_fields};
use causey_protocol::input::{Found, FoundResult, Resume};
use causey_protocol::parameter;
use causey_protocol::problem::{Code, Problem};
use causey_protocol::record::{Answer, Cause, ItemReused, Record, ResultRemembered, Resumption, RunState, TaskSet};
use causey_protocol::task::Success;

use crate::engine::{Decider, NewRun, objection};
use crate::memo::{self, Known};
use crate::run::{Chunk, Run, TaskRef, TaskState, join_of, splits_below, steps_below};
use crate::state::State;
use crate::switch;

/// Tasks sought together at most: what is decided of one answer has to fit a turn.
pub(crate) const SOUGHT_MAX: u32 = causey_protocol::chunk::CHUNK_ITEMS;

/// What a run of `flow` can take from an `earlier` one, if it may resume that at all: from `step` on everything runs again, or without
/// one whatever has no result.
///
/// # Errors
/// A [`Problem`] that says why not, and what to do.
pub fn resumption(earlier: &Run, before: &Flow, flow: &Flow, step: Option<&StepName>) -> Result<Resumption, Problem> {
    let (name, old, new) = (&earlier.start.name, &before.definition().name, &flow.definition().name);
    if !earlier.state.is_terminal() {
        let what = format!("run {name} has not ended yet");
        return Err(Problem::new(Code::NOT_RESUMABLE, what).hint(format!("wait for it, or cancel it first: causey cancel {name}")));
    }
    if old != new {
        let what = format!("run {name} is one of flow {old}, and not of flow {new}");
        return Err(Problem::new(Code::NOT_RESUMABLE, what).hint("name a run of this flow: causey runs"));
    }
    if let Some(step) = step.filter(|step| flow.find(step).is_none()) {
        let steps: Vec<&str> = flow.definition().steps.iter().map(|step| step.name.as_str()).collect();
        let what = format!("flow {new} has no step `{step}`");
        return Err(Problem::new(Code::NOT_FOUND, what).hint(format!("it has: {}", steps.join(", "))));
    }
    if step.is_none() && earlier.state == RunState::Succeeded {
        let what = format!("run {name} has succeeded: nothing of it is left to be done");
        return Err(Problem::new(Code::NOT_RESUMABLE, what).hint(format!("name the step to run again: causey resume {name} STEP")));
    }
    Ok(Resumption {
        run: earlier.id(),
        name: name.clone(),
        step: step.cloned(),
        again: again(earlier, before, flow, step),
        events: earlier.start.cause.events().to_vec(),
        instant: earlier.start.cause.instant(),
    })
}

/// The steps of `flow` whose results in a run of the flow as it was `before` do not hold any more, and why. A step depends on all
/// that lead to it.
fn again(earlier: &Run, before: &Flow, flow: &Flow, from: Option<&StepName>) -> BTreeMap<StepName, String> {
    let started = |step: StepIndex| earlier.gates.iter().flat_map(|gates| gates.children.keys()).any(|(task, _)| task.step == step);
    let names = |flow: &Flow, step: StepIndex| flow.parents(step).iter().map(|parent| flow.step(*parent).name.clone()).collect();
    let changed = |step: StepIndex| {
        let now = flow.step(step);
        let Some(old) = before.find(&now.name) else { return Some("it is new") };
        let was = before.step(old);
        let (led, leads): (BTreeSet<StepName>, BTreeSet<StepName>) = (names(before, old), names(flow, step));
        if from == Some(&now.name) {
            Some("it was asked for")
        } else if was.join != now.join {
            Some("it is a join now, or no longer one")
        } else if was.next != now.next {
            Some("it goes on to other steps, or in another way")
        } else if led != leads {
            Some("other steps lead to it")
        } else if now.gate.is_some() || was.gate.is_some() {
            // Signals and decisions are those of a run, and steps behind it may read them.
            Some("it waits for a signal or an approval, which are asked for again")
        } else if started(old) {
            Some("it started other runs, which are not taken over")
        } else {
            None
        }
    };
    let mut again: BTreeMap<StepName, String> =
        flow.indices().filter_map(|step| Some((flow.step(step).name.clone(), changed(step)?.to_owned()))).collect();
    loop {
        let known = again.len();
        for step in flow.indices() {
            let name = &flow.step(step).name;
            let parents = flow.parents(step).iter().map(|parent| &flow.step(*parent).name);
            let rerun = parents.into_iter().find(|parent| again.contains_key(parent));
            if let Some(parent) = rerun.filter(|_| !again.contains_key(name)) {
                again.insert(name.clone(), format!("`{parent}` before it runs again"));
            }
        }
        if again.len() == known {
            return again;
        }
    }
}

/// Whether results of a step may be taken.
pub(crate) fn holds(run: &Run, flow: &Flow, step: StepIndex) -> bool {
    run.start.cause.earlier().is_some_and(|earlier| !earlier.again.contains_key(&flow.step(step).name))
}

/// Whether what the earlier run has of this task's result is to be asked for. What a task depends on must have been taken from there:
/// after a task that runs again, the earlier run has nothing that holds.
pub(crate) fn is_sought(run: &Run, flow: &Flow, task: &TaskRef) -> bool {
    if !holds(run, flow, task.step) {
        return false;
    }
    let before = match flow.closes(task.step) {
        Some(split) => Some(TaskRef::new(split.step, task.path.clone(), 0)),
        None if task.step == flow.start() && task.visit == 0 => return true,
        None => switch::parent(run, flow, task),
    };
    before.and_then(|before| run.task(&before)).is_some_and(|before| before.reused.is_some())
}

/// The step that opened the foreach of which these tasks are a whole chunk, where a chunk of the earlier run may stand for it.
pub(crate) fn chunk_of(run: &Run, flow: &Flow, step: StepIndex, tasks: &TaskSet) -> Option<(StepIndex, u32)> {
    let (TaskSet::Range { path, from, to }, [split]) = (tasks, flow.parents(step)) else { return None };
    let foreach = run.foreach(*split, path)?;
    let chunk = from / foreach.chunk?.max(1);
    let whole = foreach.items(chunk) == (*from, *to) && foreach.chunks.get(&chunk).is_none_or(|chunk| chunk.arrived == 0);
    (whole && steps_below(flow, *split, path).all(|(step, _)| holds(run, flow, step))).then_some((*split, chunk))
}

impl Decider<'_> {
    pub(crate) fn resume(&mut self, id: &RequestId, user: String, wish: Resume) -> Result<Answer, Problem> {
        let Resume { earlier, flow, version, parameters, tags, host, timeout_seconds, standing } = wish;
        let origin = origin_of(id);
        if let Some(answer) = self.asked_before(&origin, timeout_seconds)? {
            return Ok(answer);
        }
        if let Some(what) = standing.fault() {
            return Err(Problem::new(Code::MALFORMED, what));
        }
        if self.state.run(earlier.run).is_some_and(|run| !run.state.is_terminal()) {
            return Err(Problem::new(Code::NOT_RESUMABLE, format!("run {} has not ended yet", earlier.name)));
        }
        let parameters = parameter::resolve(&flow.definition().parameters, parameters)?;
        let cause = Cause::Resume { id: id.clone(), earlier: Box::new(earlier) };
        let new = NewRun::of(Arc::new(flow), version, origin, parameters, cause, user);
        self.start_asked(NewRun { tags, host, timeout_seconds, standing, ..new })
    }

    /// Asks for results of these tasks, which are ready, if there may be any.
    pub(crate) fn seek(&mut self, run: RunId, step: StepIndex, tasks: &TaskSet) -> bool {
        let Some((found, flow)) = self.run_and_flow(run) else { return false };
        let first = tasks.iter().next().map(|(path, visit)| TaskRef::new(step, path, visit));
        let sought = first.is_some_and(|first| is_sought(found, &flow, &first));
        if sought {
            self.emit(Record::ResultsSought { run, step, tasks: tasks.clone() });
        }
        sought
    }

    /// Decides about tasks that waited for what there is of them in other runs.
    pub(crate) fn results_found(&mut self, run: RunId, step: StepIndex, tasks: &TaskSet, found: Found) {
        let Some((resumed, flow)) = self.run_and_flow(run) else {
            return self.ignore(format!("results for unknown run {run}"));
        };
        let first = tasks.iter().next().map(|(path, visit)| TaskRef::new(step, path, visit));
        if first.and_then(|first| resumed.sought.get(&first)) != Some(tasks) {
            return self.ignore(format!("results that run {run} does not seek"));
        }
        match found {
            Found::Broken { because } => self.broken(run, &because),
            Found::Chunk { digest, tasks: counts } => {
                let counts: Vec<(StepIndex, u32)> = counts.iter().filter_map(|(name, count)| Some((flow.find(name)?, *count))).collect();
                match (chunk_of(resumed, &flow, step, tasks), tasks) {
                    (Some((split, chunk)), TaskSet::Range { path, .. }) if counts.contains(&(step, tasks.len())) => {
                        let path = path.clone();
                        self.emit(Record::ChunkReused { run, step: split, path: path.clone(), chunk, digest, tasks: counts });
                        self.after_chunk(run, split, &path);
                    }
                    _ => self.broken(run, &format!("chunk {digest} is not what was sought")),
                }
            }
            Found::Results(results) => self.take_results(run, &flow, step, tasks, results),
        }
    }

    fn take_results(&mut self, run: RunId, flow: &Arc<Flow>, step: StepIndex, tasks: &TaskSet, results: Vec<FoundResult>) {
        let (mut owners, mut items, mut taken) = (Vec::new(), Vec::new(), BTreeMap::new());
        // What is remembered need not fit: the task is run instead.
        let remembered = self.state.run(run).is_some_and(|run| run.start.cause.earlier().is_none());
        let mut places = (0u32..).zip(tasks.iter());
        for result in results {
            let Some((_, (path, visit))) = places.find(|(place, _)| *place == result.place) else {
                return self.broken(run, "results came out of order");
            };
            let task = TaskRef::new(step, path, visit);
            let success = as_success(flow, step, &result, self.now());
            if let Some(error) = objection(flow, &task, &success) {
                if remembered {
                    continue;
                }
                return self.broken(run, &format!("the result of {} does not fit the graph: {}", task.id(flow), error.message));
            }
            let owner = owners.iter().position(|known| *known == result.owner).unwrap_or_else(|| {
                owners.push(result.owner);
                owners.len() - 1
            });
            let owner = u32::try_from(owner).unwrap_or(u32::MAX);
            items.push(ItemReused(result.place, owner, result.attempt, result.digest, result.bytes));
            taken.insert(result.place, (task, success));
        }
        let gang = flow.is_gang(step);
        if gang && !taken.is_empty() && taken.len() < tasks.len() as usize {
            return self.broken(run, "of a gang only some members have a result");
        }
        let missing: Vec<u32> = (0..tasks.len()).filter(|place| !taken.contains_key(place)).collect();
        let content = |(task, success): &(TaskRef, Success)| {
            let content = success.content.filter(|_| flow.feeds_memo(step))?;
            Some(ResultRemembered(task.path.clone(), task.visit, Some(content), None))
        };
        let contents = taken.values().filter_map(content).collect();
        self.emit(Record::ResultsReused { run, step, tasks: tasks.clone(), owners, items });
        self.note_results(run, step, contents);
        if remembered {
            let tasks = (0u32..).zip(tasks.iter()).filter(|(place, _)| !taken.contains_key(place));
            self.forget_results(run, tasks.map(|(_, (path, visit))| TaskRef::new(step, path, visit)));
        }
        match (tasks, &flow.step(step).next) {
            (TaskSet::Range { path, from, .. }, Transition::Linear { .. }) if !taken.is_empty() => {
                let items: Vec<u32> = taken.keys().map(|place| from + place).collect();
                self.go_on_with_items(run, flow, step, path, &items);
            }
            _ => taken.into_values().for_each(|(task, success)| self.go_on(run, flow, &task, &success)),
        }
        match tasks {
            TaskSet::One { .. } if !missing.is_empty() => self.pass_gates(run, step, tasks.clone(), 0, 0),
            TaskSet::One { .. } => {}
            TaskSet::Range { path, .. } if gang && !missing.is_empty() => self.line_up(run, flow, step, path, tasks.len()),
            TaskSet::Range { path, from, .. } => {
                let items: Vec<u32> = missing.iter().map(|place| from + place).collect();
                self.offer_items(run, step, path, &items);
            }
        }
    }

    /// A result that must be there is not: whatever runs again after it would not fit the rest.
    fn broken(&mut self, run: RunId, because: &str) {
        let earlier = self.state.run(run).and_then(|run| run.start.cause.earlier()).map(|earlier| earlier.name.to_string());
        let earlier = earlier.unwrap_or_default();
        let problem = Problem::new(Code::STORE, format!("a result of run {earlier} cannot be reused: {because}"));
        let hint = format!("name the step to run again instead: causey resume {earlier} STEP");
        self.finish(run, RunState::Failed, Some(problem.hint(hint)));
    }
}

/// The origin of the run that a request starts.
pub(crate) fn origin_of(id: &RequestId) -> Origin {
    Origin(hash_fields("causey origin request v1", &[id.as_str().as_bytes()]))
}

/// The result as its worker reported it, but for what the coordinator does once only.
fn as_success(flow: &Flow, step: StepIndex, found: &FoundResult, at: Timestamp) -> Success {
    let next = &flow.step(step).next;
    let next = match next {
        Transition::Switch { .. } => found.next.clone(),
        _ => next.targets().into_iter().cloned().collect(),
    };
    let FoundResult { digest, bytes, foreach, content, .. } = *found;
    Success { digest, bytes, next, foreach, publications: Vec::new(), children: Vec::new(), started: at, ended: at, content }
}

/// Where results are sought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// In the run that this one resumes.
    Run(RunId),
    /// Among the results of memoised steps: these are remembered, in order.
    Memo(Vec<Known>),
}

/// What has to be found of sought tasks: names and places, as the earlier run knows them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sought {
    pub run: RunId,
    pub source: Source,
    /// The step in the graph of the run that seeks.
    pub step: StepIndex,
    pub name: StepName,
    pub tasks: TaskSet,
    /// Whether how the task went on must be read from its object.
    pub goes_on: bool,
    /// Whether what the objects contain has to be known.
    pub content: bool,
    /// The step that opened the foreach, where a stored chunk may stand for all of them.
    pub chunk_of: Option<StepName>,
}

/// What the open question led by `first` asks for.
pub(crate) fn sought(state: &State, run: &Run, flow: &Flow, first: &TaskRef) -> Option<Sought> {
    let tasks = run.sought.get(first)?.clone();
    let step = flow.step(first.step);
    let source = match run.start.cause.earlier() {
        Some(earlier) => Source::Run(earlier.run),
        None => Source::Memo(memo::known(state, run, flow, first.step, &tasks)),
    };
    Some(Sought {
        run: run.id(),
        source,
        step: first.step,
        name: step.name.clone(),
        goes_on: step.next.is_indexed() || matches!(step.next, Transition::Switch { .. }),
        content: flow.feeds_memo(first.step),
        chunk_of: chunk_of(run, flow, first.step, &tasks).map(|(split, _)| flow.step(split).name.clone()),
        tasks,
    })
}

impl Run {
    pub(crate) fn seek(&mut self, flow: &Flow, step: StepIndex, tasks: &TaskSet) {
        let Some((path, visit)) = tasks.iter().next() else { return };
        self.offered(flow, step, tasks);
        self.sought.insert(TaskRef::new(step, path, visit), tasks.clone());
    }

    /// Tasks that were sought together take these results of other runs, without an attempt.
    pub(crate) fn found(&mut self, flow: &Flow, step: StepIndex, tasks: &TaskSet, owners: &[RunId], items: &[ItemReused], at: Timestamp) {
        let mut places = (0u32..).zip(tasks.iter().map(|(path, visit)| TaskRef::new(step, path, visit))).peekable();
        if let Some((_, first)) = places.peek() {
            self.sought.remove(first);
        }
        let mut arrived = Vec::with_capacity(items.len());
        for ItemReused(place, owner, attempt, digest, bytes) in items {
            let (Some((_, task)), Some(owner)) = (places.find(|(at, _)| at == place), owners.get(*owner as usize)) else { continue };
            self.reuse(&task, *owner, *attempt, (*digest, *bytes), at);
            arrived.push(task.path);
        }
        let Some(first) = arrived.first() else { return };
        let outer = first.split_last().map(|(outer, _)| outer).unwrap_or_default();
        self.arrive(flow, step, &outer, arrived.iter().map(|path| path.0.last().copied()));
    }

    /// A chunk of an earlier run stands for the same items of this one.
    pub(crate) fn reuse_chunk(
        &mut self,
        flow: &Flow,
        split: StepIndex,
        path: &Path,
        (chunk, digest): (u32, Digest),
        tasks: &[(StepIndex, u32)],
        at: Timestamp,
    ) {
        let Some(foreach) = self.foreaches.get_mut(&(split, path.clone())) else { return };
        let (from, to) = foreach.items(chunk);
        foreach.chunks.insert(chunk, Chunk { arrived: to - from, digest: Some(digest), stored: true });
        foreach.arrived += to - from;
        foreach.stored += 1;
        self.sought.retain(|_, sought| !matches!(sought, TaskSet::Range { path: of, from: first, .. } if of == path && *first == from));
        let counts: BTreeMap<StepIndex, u32> = tasks.iter().copied().collect();
        for (step, count) in &counts {
            self.note_reuse(*step, *count, at);
            let summary = &mut self.steps[usize::from(step.0)];
            summary.counts[TaskState::Succeeded as usize] += count;
            summary.stored += count;
        }
        for inner in splits_below(flow, split, path) {
            let items = flow.step(inner).next.targets().first().and_then(|to| counts.get(&flow.find(to)?)).copied().unwrap_or_default();
            let summary = &mut self.steps[usize::from(inner.0)];
            summary.foreaches += counts.get(&inner).copied().unwrap_or_default();
            summary.items += u64::from(items);
            summary.offered += u64::from(items);
        }
        if let Some(join) = join_of(flow, split) {
            self.joins.entry((join, path.clone())).or_default().arrived += to - from;
        }
    }
}
