//! The tasks of a run, page by page. A page starts behind a cursor, which is a place in the order of tasks: pages stay right while
//! tasks change, and no answer holds them all.

use std::ops::Bound;

use axum::extract::State;
use causey_engine::{Run, Task, TaskRef, TaskState};
use causey_protocol::artifact::ObjectRef;
use causey_protocol::flow::{Flow, StepIndex};
use causey_protocol::id::{Path, StepName, Timestamp, WorkerName};
use causey_protocol::task::ErrorInfo;
use serde::{Deserialize, Serialize};

use super::context::{Context, find_run, not_found, run_and_flow};
use super::extract::{Asked, Named, Reply};
use super::refusal::Refusal;

/// Tasks on a page: without `limit`, and at most.
const TASKS_LISTED: usize = 100;
const TASKS_LISTED_MAX: usize = 1_000;

/// Tasks looked at for one page, so that a rare state in a large foreach does not hold the state's lock; such a page may be short.
const TASKS_SCANNED_MAX: usize = 20_000;

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Paging {
    step: Option<StepName>,
    state: Option<TaskState>,
    after: Option<String>,
    limit: Option<usize>,
}

#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Page {
    tasks: Vec<TaskView>,
    /// The cursor to go on with; `None` at the end.
    next: Option<String>,
}

#[derive(Debug, PartialEq, Serialize)]
struct TaskView {
    step: StepName,
    task: String,
    path: Path,
    visit: u32,
    state: TaskState,
    attempt: u32,
    retries: u32,
    worker: Option<WorkerName>,
    started: Option<Timestamp>,
    finished: Option<Timestamp>,
    error: Option<ErrorInfo>,
    object: Option<ObjectRef>,
}

pub(super) async fn list(
    State(context): State<Context>,
    Named(run): Named<String>,
    Asked(paging): Asked<Paging>,
) -> Result<Reply<Page>, Refusal> {
    let state = context.read();
    let (run, flow) = run_and_flow(&state, find_run(&state, &run)?)?;
    Ok(Reply::ok(state.sequence, page(run, &flow, &paging)?))
}

/// The step of this name, or a refusal that names those there are.
pub(super) fn find_step(flow: &Flow, step: &StepName) -> Result<StepIndex, Refusal> {
    let names = || flow.definition().steps.iter().map(|step| step.name.as_str()).collect::<Vec<_>>().join(", ");
    flow.find(step)
        .ok_or_else(|| not_found(format!("flow {} has no step `{step}`", flow.definition().name), &format!("it has: {}", names())))
}

fn page(run: &Run, flow: &Flow, paging: &Paging) -> Result<Page, Refusal> {
    let step = paging.step.as_ref().map(|step| find_step(flow, step)).transpose()?;
    let after = paging.after.as_deref().map(parse_cursor).transpose()?;
    let limit = paging.limit.unwrap_or(TASKS_LISTED).clamp(1, TASKS_LISTED_MAX);
    let first = TaskRef::new(step.unwrap_or(StepIndex(0)), Path::default(), 0);
    let from = match after {
        Some(after) if after >= first => Bound::Excluded(after),
        Some(_) | None => Bound::Included(first),
    };
    let mut tasks = Vec::new();
    let candidates = run.tasks.range((from, Bound::Unbounded)).take_while(|(task, _)| step.is_none_or(|step| task.step == step));
    for (scanned, (task, found)) in (1..).zip(candidates) {
        if paging.state.is_none_or(|state| found.state == state) {
            tasks.push(view(run, flow, task, found));
        }
        if tasks.len() == limit || scanned == TASKS_SCANNED_MAX {
            return Ok(Page { tasks, next: Some(cursor(task)) });
        }
    }
    Ok(Page { tasks, next: None })
}

fn view(run: &Run, flow: &Flow, task: &TaskRef, found: &Task) -> TaskView {
    // While a later attempt is open, the object is still an earlier one's, whose key is not known here.
    let has_object = !found.state.is_open() && !matches!(found.state, TaskState::Cancelled | TaskState::Aborted);
    TaskView {
        step: flow.step(task.step).name.clone(),
        task: task.path.to_string(),
        path: task.path.clone(),
        visit: task.visit,
        state: found.state,
        attempt: found.attempt,
        retries: found.retry,
        worker: found.worker.clone(),
        started: found.started,
        finished: found.ended,
        error: found.error.as_deref().cloned(),
        object: has_object.then(|| run.object(flow, task)).flatten(),
    }
}

/// A cursor's text: step index, path and visit, such as `2:3.1~0`.
fn cursor(task: &TaskRef) -> String {
    let path: Vec<String> = task.path.0.iter().map(u32::to_string).collect();
    format!("{}:{}~{}", task.step.0, path.join("."), task.visit)
}

fn parse_cursor(text: &str) -> Result<TaskRef, Refusal> {
    let parsed = || {
        let (step, rest) = text.split_once(':')?;
        let (path, visit) = rest.split_once('~')?;
        let path = path.split('.').filter(|index| !index.is_empty()).map(str::parse).collect::<Result<Vec<u32>, _>>().ok()?;
        Some(TaskRef::new(StepIndex(step.parse().ok()?), Path(path), visit.parse().ok()?))
    };
    parsed().ok_or_else(|| Refusal::malformed("`after` is not a cursor").hint("send the `next` of the page before"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::tests::scene;

    fn tasks(page: &Page) -> Vec<String> {
        page.tasks.iter().map(|task| format!("{}/{}", task.step, task.task)).collect()
    }

    #[test]
    fn pages_follow_each_other_without_gap_or_repetition() {
        let scene = scene::fanned_out(5);
        let (run, flow) = scene.run();
        let first = page(run, &flow, &Paging { limit: Some(4), ..Paging::default() }).unwrap();
        assert_eq!(tasks(&first), ["start/0", "work/0", "work/1", "work/2"]);
        let second = page(run, &flow, &Paging { limit: Some(4), after: first.next, ..Paging::default() }).unwrap();
        assert_eq!(tasks(&second), ["work/3", "work/4"]);
        assert_eq!(second.next, None);
    }

    #[test]
    fn a_page_can_be_narrowed_to_a_step_and_a_state() {
        let scene = scene::fanned_out(3);
        let (run, flow) = scene.run();
        let step = Some(StepName::new("work").unwrap());
        let open = page(run, &flow, &Paging { step, state: Some(TaskState::Dispatched), ..Paging::default() }).unwrap();
        assert_eq!(tasks(&open), ["work/0", "work/1", "work/2"]);
        let done = page(run, &flow, &Paging { state: Some(TaskState::Succeeded), ..Paging::default() }).unwrap();
        assert_eq!(tasks(&done), ["start/0"]);
        assert!(done.tasks[0].object.is_some());
        let unknown = page(run, &flow, &Paging { step: Some(StepName::new("wrok").unwrap()), ..Paging::default() }).unwrap_err();
        assert_eq!(unknown.problem.hint.as_deref(), Some("it has: start, work, join"));
    }

    #[test]
    fn a_cursor_reads_back_and_anything_else_is_refused() {
        let task = TaskRef::new(StepIndex(2), Path(vec![3, 1]), 0);
        assert_eq!(parse_cursor(&cursor(&task)).unwrap(), task);
        let outside = TaskRef::new(StepIndex(0), Path::default(), 2);
        assert_eq!(parse_cursor(&cursor(&outside)).unwrap(), outside);
        for text in ["", "x", "1:2", "1:2.x~0", "-1:~0"] {
            assert!(parse_cursor(text).is_err(), "{text}");
        }
    }
}
