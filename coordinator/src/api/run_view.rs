//! `RUN` as clients see it (`docs/protocol.md` §3), made of the committed state.

use causey_engine::{RetiredRun, Run, State, Waits};
use causey_protocol::flow::Flow;
use causey_protocol::id::{FlowName, RunId, RunName, Timestamp};
use causey_protocol::parameter::Values;
use causey_protocol::problem::Problem;
use causey_protocol::record::{Cause, RunState};
use serde::Serialize;
use serde_json::{Value, json};

use super::gate_view::{self, GatesView};
use super::step_view::{self, Counts, StepView};

/// Runs that hold the places somebody waits for, as far as they are named.
const WAITED_FOR_SHOWN: usize = 10;

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct RunView {
    run: RunId,
    name: RunName,
    flow: FlowName,
    version: Option<u32>,
    state: RunState,
    parameters: Values,
    cause: Value,
    user: String,
    tags: Vec<String>,
    priority: i8,
    max_parallel: Option<u32>,
    created: Timestamp,
    started: Option<Timestamp>,
    finished: Option<Timestamp>,
    problem: Option<Problem>,
    tasks: Counts,
    /// Tasks whose result was taken from another run.
    reused: u64,
    /// What a run that has not begun waits for.
    #[serde(skip_serializing_if = "Option::is_none")]
    waits: Option<Value>,
    /// What a run waits for in which nothing has happened for a while, in words; in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    stuck: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    steps: Option<Vec<StepView>>,
    /// Absent in a run that has met no gate.
    #[serde(skip_serializing_if = "Option::is_none")]
    gates: Option<GatesView>,
}

impl RunView {
    pub(super) fn id(&self) -> RunId {
        self.run
    }

    pub(super) fn waiting(self, waits: Option<Value>) -> Self {
        Self { waits, ..self }
    }

    pub(super) fn stuck(self, stuck: Option<String>) -> Self {
        Self { stuck, ..self }
    }
}

/// What a run waits for that has not begun; `None` for every other.
pub(super) fn waits(state: &State, run: RunId) -> Option<Value> {
    let Waits { flow, concurrency, ahead, active } = state.waits_of(run)?;
    let names: Vec<_> = active.iter().take(WAITED_FOR_SHOWN).filter_map(|run| state.name_of(*run)).collect();
    let strategy = concurrency.strategy;
    Some(json!({"for": "a place", "flow": flow, "strategy": strategy, "max": concurrency.max, "ahead": ahead, "running": names}))
}

/// A run without its steps; costs the same however many tasks it has.
pub(super) fn summary(run: &Run, flow: &Flow) -> RunView {
    let mut tasks = Counts::default();
    for step in flow.indices() {
        tasks.add(&step_view::counts(run, flow, step));
    }
    RunView {
        run: run.id(),
        name: run.start.name.clone(),
        flow: flow.definition().name.clone(),
        version: run.start.version,
        state: run.state,
        parameters: run.start.parameters.clone(),
        cause: cause(&run.start.cause),
        user: run.start.user.clone(),
        tags: run.start.tags.clone(),
        priority: run.start.standing.priority(),
        max_parallel: run.start.standing.max_parallel,
        created: run.created,
        started: run.first_started,
        finished: run.finished,
        problem: run.problem.clone(),
        tasks,
        reused: run.reused(),
        waits: None,
        stuck: None,
        steps: None,
        gates: None,
    }
}

/// What the index knows of a retired run; `None` where it is too little for a summary.
pub(super) fn retired(id: RunId, run: &RetiredRun) -> Option<RunView> {
    let (parameters, caused) = run.details.clone()?;
    Some(RunView {
        run: id,
        name: run.name.clone(),
        flow: run.flow.clone(),
        version: run.version,
        state: run.state,
        parameters,
        cause: cause(&caused),
        user: run.user.clone(),
        tags: run.tags.clone(),
        priority: run.standing.priority(),
        max_parallel: run.standing.max_parallel,
        created: run.created,
        started: run.started,
        finished: run.finished,
        problem: run.problem.clone(),
        tasks: step_view::by_state(&run.counts, 0),
        reused: run.reused,
        waits: None,
        stuck: None,
        steps: None,
        gates: None,
    })
}

/// A run with its steps; looks at every task once.
pub(super) fn whole(run: &Run, flow: &Flow) -> RunView {
    RunView { steps: Some(step_view::steps(run, flow)), gates: gate_view::view(run, flow), ..summary(run, flow) }
}

/// Events without their data: it can be large, and what counts of it is in the parameters.
fn cause(cause: &Cause) -> Value {
    match cause {
        Cause::Request { id } => json!({"kind": "request", "id": id}),
        Cause::Parent(parent) => {
            let task = parent.path.task_name(parent.visit);
            json!({"kind": "parent", "run": parent.run, "name": parent.name, "step": parent.step, "task": task, "ordinal": parent.ordinal})
        }
        Cause::Schedule { schedule, instant } => json!({"kind": "schedule", "schedule": schedule, "instant": instant}),
        Cause::Backfill { backfill, instant } => json!({"kind": "backfill", "backfill": backfill, "instant": instant}),
        Cause::Resume { id, earlier } => {
            json!({"kind": "resume", "id": id, "run": earlier.run, "name": earlier.name, "step": earlier.step, "again": earlier.again})
        }
        Cause::Event { trigger, events } => {
            let identity = |event: &Value| {
                let attribute = |name: &str| event.get(name).cloned().unwrap_or(Value::Null);
                json!({"id": attribute("id"), "source": attribute("source"), "type": attribute("type"), "subject": attribute("subject")})
            };
            json!({"kind": "event", "trigger": trigger, "events": events.iter().map(identity).collect::<Vec<_>>()})
        }
    }
}
