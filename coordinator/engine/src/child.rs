//! Sub-flows: a task's accepted result may start runs of deployed flows. What follows the task then waits for those it wants to wait
//! for (see `gate.rs`). A child that does not succeed fails its parent; a parent that does not succeed ends the children it waits for.

use std::sync::Arc;

use causey_protocol::artifact::ObjectRef;
use causey_protocol::flow::{Flow, Transition};
use causey_protocol::gate::{
    CHILD_DEPTH_MAX, CHILDREN_BYTES_MAX, CHILDREN_PER_RUN_MAX, CHILDREN_PER_TASK_MAX, ChildStart, Parent, VALUE_DEPTH_MAX, value_fault,
};
use causey_protocol::id::{FlowName, Origin, RunId, hash_fields};
use causey_protocol::parameter;
use causey_protocol::problem::{Code, Problem};
use causey_protocol::record::{Cause, Record, RunStarted, RunState};
use causey_protocol::share::Standing;
use causey_protocol::task::{ErrorInfo, Success};

use crate::concurrency::Begun;
use crate::engine::{Decider, NewRun};
use crate::gate::Child;
use crate::run::{Run, TaskRef};
use crate::state::State;

/// How many runs stand above this one.
fn depth(run: &Run) -> u32 {
    match &run.start.cause {
        Cause::Parent(parent) => parent.depth,
        Cause::Request { .. } | Cause::Event { .. } | Cause::Schedule { .. } | Cause::Backfill { .. } | Cause::Resume { .. } => 0,
    }
}

/// The object of the last task of a run that succeeded.
fn last_object(run: &Run, flow: &Flow) -> Option<ObjectRef> {
    let end = flow.indices().find(|step| flow.step(*step).next == Transition::End)?;
    let last = run.tasks_of(end).map(|(task, _)| task).last()?;
    run.object(flow, &last)
}

impl State {
    /// Enters a run that was just started into the one that started it.
    pub(crate) fn link_child(&mut self, start: &RunStarted, flow: &Flow) {
        let Cause::Parent(parent) = &start.cause else { return };
        let step = self.run(parent.run).and_then(|run| self.flow_of(run)).and_then(|flow| flow.find(&parent.step));
        let (Some(step), Some(run)) = (step, self.runs.get_mut(&parent.run).map(Arc::make_mut)) else { return };
        let child = Child {
            run: start.run,
            name: start.name.clone(),
            flow: flow.definition().name.clone(),
            wait: parent.wait,
            allow_failure: parent.allow_failure,
            ended: None,
            object: None,
        };
        let task = TaskRef::new(step, parent.path.clone(), parent.visit);
        run.gates.get_or_insert_default().children.insert((task, parent.ordinal), child);
    }

    /// A run did not succeed: those that it started and waited for are to be ended.
    pub(crate) fn orphan_children(&mut self, run: RunId, ended: RunState) {
        if ended == RunState::Succeeded {
            return;
        }
        let gates = self.run(run).and_then(|run| run.gates.as_ref());
        let awaited = gates.into_iter().flat_map(|gates| gates.children.values()).filter(|child| child.wait && child.ended.is_none());
        let awaited: Vec<RunId> = awaited.map(|child| child.run).collect();
        let at = self.at;
        for id in awaited {
            let Some(child) = self.runs.get_mut(&id).filter(|child| !child.state.is_terminal()) else { continue };
            Arc::make_mut(child).gates.get_or_insert_default().orphaned = Some((at, ended));
            self.index_by.timers.insert((at, id, None));
        }
    }
}

impl Decider<'_> {
    /// Why the runs that a result wants to start cannot be started.
    pub(crate) fn child_objection(&self, run: &Run, flow: &Flow, task: &TaskRef, success: &Success) -> Option<ErrorInfo> {
        if success.children.is_empty() {
            return None;
        }
        let step = flow.step(task.step);
        let Problem { message, hint, .. } = self.child_problem(run, flow, task, success)?;
        let (file, line) = (Some(flow.definition().file.clone()), (step.line > 0).then_some(step.line));
        Some(ErrorInfo { kind: Code::CHILD.to_string(), message, file, line, hint, ..ErrorInfo::default() })
    }

    fn child_problem(&self, run: &Run, flow: &Flow, task: &TaskRef, success: &Success) -> Option<Problem> {
        let (step, children) = (flow.step(task.step), &success.children);
        let problem = |what: String| Some(Problem::new(Code::CHILD, what));
        if children.len() > CHILDREN_PER_TASK_MAX {
            return problem(format!("step `{}` starts {} runs; at most {CHILDREN_PER_TASK_MAX} are possible", step.name, children.len()));
        }
        let before = run.gates.as_ref().map_or(0, |gates| gates.children.len());
        if before + children.len() > CHILDREN_PER_RUN_MAX {
            return problem(format!("the run would start more than {CHILDREN_PER_RUN_MAX} runs"));
        }
        let bytes = serde_json::to_vec(children).map_or(usize::MAX, |json| json.len());
        if bytes > CHILDREN_BYTES_MAX {
            return problem(format!(
                "what step `{}` says of the runs it starts has {bytes} bytes; at most {CHILDREN_BYTES_MAX} are taken",
                step.name
            ));
        }
        if depth(run) >= CHILD_DEPTH_MAX {
            let what = format!("step `{}` starts a run below {CHILD_DEPTH_MAX} others that started each other", step.name);
            return Some(Problem::new(Code::CHILD, what).hint("a flow that starts itself must come to an end"));
        }
        if matches!(step.next, Transition::Gang { .. }) && children.iter().any(|child| child.wait) {
            let what = format!("step `{}` opens a gang, which cannot wait for the runs it starts", step.name);
            return Some(Problem::new(Code::CHILD, what).hint("start them with wait=False, or in an earlier step"));
        }
        if step.next == Transition::End && children.iter().any(|child| child.wait) {
            let what = format!("step `{}` is the last one, so nothing can wait for the runs it starts", step.name);
            return Some(Problem::new(Code::CHILD, what).hint("start them with wait=False, or in an earlier step"));
        }
        children.iter().find_map(|child| {
            let cannot = |problem: Problem| {
                let told = Problem::new(Code::CHILD, format!("step `{}` cannot start flow {}: {}", step.name, child.flow, problem.message));
                problem.hint.into_iter().fold(told, Problem::hint)
            };
            if child.wait && self.state.concurrency_of(&child.flow).is_some() && self.is_below(run, &child.flow) {
                let what =
                    format!("its runs at once are bounded, and run {} would hold a place while it waits for another", run.start.name);
                return Some(cannot(Problem::new(Code::CHILD, what)));
            }
            let flow = match self.deployed(&child.flow) {
                Ok((flow, _)) => flow,
                Err(problem) => return Some(cannot(problem)),
            };
            if let Some((name, _)) = child.parameters.iter().find(|(_, value)| value_fault(value, usize::MAX).is_some()) {
                let what = format!("parameter `{name}` is nested more than {VALUE_DEPTH_MAX} levels deep");
                return Some(cannot(Problem::new(Code::PARAMETER_TYPE, what)));
            }
            parameter::resolve(&flow.definition().parameters, child.parameters.clone()).err().map(cannot)
        })
    }

    /// Whether the run, or one above it, is of this flow.
    fn is_below(&self, run: &Run, flow: &FlowName) -> bool {
        let above = |run: &&Run| match &run.start.cause {
            Cause::Parent(parent) => self.state.run(parent.run),
            _ => None,
        };
        let mut runs = std::iter::successors(Some(run), above);
        runs.any(|run| self.state.flow_name_of(run.id()).is_some_and(|name| name == *flow))
    }

    /// Starts the runs that an accepted result asks for; `child_objection` had none.
    pub(crate) fn start_children(&mut self, run: RunId, flow: &Flow, task: &TaskRef, children: Vec<ChildStart>) {
        let id = task.id(flow);
        for (ordinal, child) in (0u32..).zip(children) {
            let Some(found) = self.state.run(run) else { return };
            let (user, name, depth) = (found.start.user.clone(), found.start.name.clone(), depth(found) + 1);
            let Ok((started, version)) = self.deployed(&child.flow) else { continue };
            let Ok(parameters) = parameter::resolve(&started.definition().parameters, child.parameters) else { continue };
            let key = id.idempotency_key(run);
            let origin = Origin(hash_fields("causey origin child v1", &[run.0.as_bytes(), &key.0, &ordinal.to_le_bytes()]));
            let TaskRef { path, visit, .. } = task.clone();
            let ChildStart { wait, allow_failure, .. } = child;
            let parent = Parent { run, name, step: id.step.clone(), path, visit, ordinal, wait, allow_failure, depth };
            let priority = self.state.run(run).and_then(|parent| parent.start.standing.priority);
            // Whoever waits for it would else wait behind others.
            let standing = Standing { priority: priority.filter(|_| wait), max_parallel: None };
            let new = NewRun::of(started, version, origin, parameters, Cause::Parent(Box::new(parent)), user);
            let begun = self.begin(NewRun { standing, ..new });
            if let Begun::Skipped(problem) = begun
                && wait
                && !allow_failure
            {
                let what = format!("step `{}` cannot start flow {}: {}", id.step, child.flow, problem.message);
                return self.finish(run, RunState::Failed, Some(Problem::new(Code::CHILD_FAILED, what)));
            }
            // A child may have taken the place of the very run that started it.
            if self.state.run(run).is_none_or(|run| run.state.is_terminal()) {
                return;
            }
        }
    }

    /// A run has ended: the one that started it hears of it.
    pub(crate) fn tell_parent(&mut self, child: RunId) {
        let Some((found, flow)) = self.run_and_flow(child) else { return };
        let Cause::Parent(parent) = &found.start.cause else { return };
        let (parent, state) = (parent.clone(), found.state);
        let object = (state == RunState::Succeeded).then(|| last_object(found, &flow)).flatten();
        let why = found.problem.as_ref().map(|problem| format!(": {}", problem.message)).unwrap_or_default();
        let what = format!("run {} of flow {}, which step `{}` started", found.start.name, flow.definition().name, parent.step);
        if self.state.run(parent.run).is_none_or(|run| run.state.is_terminal()) {
            return;
        }
        self.emit(Record::ChildEnded { run: parent.run, child, state, object });
        if parent.wait && !parent.allow_failure && state != RunState::Succeeded {
            let problem = Problem::new(Code::CHILD_FAILED, format!("{what}, {}{why}", state_words(state)));
            let hint = format!("look at it: causey show {child}; allow_failure=True lets the parent go on");
            self.finish(parent.run, RunState::Failed, Some(problem.hint(hint)));
        } else {
            self.release(parent.run);
        }
    }

    /// Ends a run whose parent has ended.
    pub(crate) fn end_orphan(&mut self, run: RunId, parent: RunState) {
        let (state, word) = match parent {
            RunState::Cancelled => (RunState::Cancelled, "was cancelled"),
            _ => (RunState::Aborted, "did not succeed"),
        };
        let name = self.state.run(run).and_then(|run| match &run.start.cause {
            Cause::Parent(parent) => Some(parent.name.to_string()),
            _ => None,
        });
        let what = format!("run {}, which had started it, {word}", name.unwrap_or_default());
        self.finish(run, state, Some(Problem::new(Code::CANCELLED, what)));
    }
}

fn state_words(state: RunState) -> &'static str {
    match state {
        RunState::Cancelled => "was cancelled",
        RunState::Aborted => "was aborted",
        RunState::Pending | RunState::Running | RunState::Succeeded | RunState::Failed => "failed",
    }
}
