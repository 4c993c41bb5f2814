//! The tasks of a run, page by page. A page starts behind a cursor, which is a place in the order of tasks: pages stay right while
//! tasks change, and no answer holds them all.

use std::ops::Bound;
use std::sync::Arc;

use axum::extract::State;
use causey_artifacts::Store;
use causey_engine::{Run, Task, TaskRef, TaskState};
use causey_protocol::artifact::ObjectRef;
use causey_protocol::chunk::StoredTask;
use causey_protocol::flow::{Flow, StepIndex};
use causey_protocol::id::{Path, RunId, StepName, Timestamp, WorkerName};
use causey_protocol::task::{ErrorInfo, Usage};
use serde::{Deserialize, Serialize};

use super::context::{Context, not_found};
use super::extract::{Asked, Named, Reply};
use super::refusal::Refusal;
use crate::stored::{self, Covered, Search};

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
    /// The earlier run whose result it is; no attempt was made in this one.
    reused: Option<RunId>,
    usage: Option<Usage>,
}

pub(super) async fn list(
    State(context): State<Context>,
    Named(run): Named<String>,
    Asked(paging): Asked<Paging>,
) -> Result<Reply<Page>, Refusal> {
    let look =
        |sequence: u64, run: &Run, flow: &Arc<Flow>| Ok::<_, Refusal>((sequence, run.id(), flow.clone(), pieces(run, flow, &paging)?));
    let (sequence, id, flow, pieces) = context.with_run(&run, look).await??;
    Ok(Reply::ok(sequence, page(&context.api.store, id, &flow, &paging, pieces).await?))
}

/// The step of this name, or a refusal that names those there are.
pub(super) fn find_step(flow: &Flow, step: &StepName) -> Result<StepIndex, Refusal> {
    let names = || flow.definition().steps.iter().map(|step| step.name.as_str()).collect::<Vec<_>>().join(", ");
    flow.find(step)
        .ok_or_else(|| not_found(format!("flow {} has no step `{step}`", flow.definition().name), &format!("it has: {}", names())))
}

/// What a page is made of, in order: tasks that the state knows, and stored chunks that hold others.
#[derive(Debug)]
enum Piece {
    Task(TaskRef, Box<TaskView>),
    Chunk(StepIndex, Covered),
}

#[derive(Debug)]
struct Pieces {
    pieces: Vec<Piece>,
    /// Where to go on when the pieces do not fill the page.
    next: Option<TaskRef>,
}

impl Paging {
    fn limit(&self) -> usize {
        self.limit.unwrap_or(TASKS_LISTED).clamp(1, TASKS_LISTED_MAX)
    }

    fn after(&self) -> Result<Option<TaskRef>, Refusal> {
        self.after.as_deref().map(parse_cursor).transpose()
    }
}

/// At least as many tasks as a page takes, if there are so many.
fn pieces(run: &Run, flow: &Flow, paging: &Paging) -> Result<Pieces, Refusal> {
    let wanted = paging.step.as_ref().map(|step| find_step(flow, step)).transpose()?;
    let (after, limit) = (paging.after()?, paging.limit());
    let (mut pieces, mut scanned) = (Vec::new(), 0);
    for step in flow.indices().filter(|step| wanted.is_none_or(|wanted| wanted == *step)) {
        let first = TaskRef::new(step, Path::default(), 0);
        let from = match &after {
            Some(after) if after.step > step => continue,
            Some(after) if after.step == step => Bound::Excluded(after.clone()),
            _ => Bound::Included(first),
        };
        let behind = after.as_ref().filter(|after| after.step == step).map(|after| &after.path);
        let succeeded = paging.state.is_none_or(|state| state == TaskState::Succeeded);
        let chunks = if succeeded { stored::chunks_of(run, flow, step) } else { Vec::new() };
        let mut chunks = chunks.into_iter().filter(|chunk| behind.is_none_or(|behind| chunk.end > *behind)).peekable();
        for (task, found) in run.tasks(from).take_while(|(task, _)| task.step == step) {
            while let Some(chunk) = chunks.next_if(|chunk| chunk.start < task.path) {
                pieces.push(Piece::Chunk(step, chunk));
            }
            scanned += 1;
            if paging.state.is_none_or(|state| found.state == state) {
                pieces.push(Piece::Task(task.clone(), Box::new(view(run, flow, &task, found))));
            }
            if pieces.len() >= limit || scanned == TASKS_SCANNED_MAX {
                return Ok(Pieces { pieces, next: Some(task) });
            }
        }
        pieces.extend(chunks.map(|chunk| Piece::Chunk(step, chunk)));
    }
    Ok(Pieces { pieces, next: None })
}

async fn page(store: &Store, run: RunId, flow: &Flow, paging: &Paging, Pieces { pieces, next }: Pieces) -> Result<Page, Refusal> {
    let (after, limit) = (paging.after()?, paging.limit());
    let mut tasks = Vec::new();
    for piece in pieces {
        match piece {
            Piece::Task(task, view) => tasks.push((task, *view)),
            Piece::Chunk(step, chunk) => {
                let behind = after.as_ref().filter(|after| after.step == step).map(|after| (&after.path, after.visit));
                let search = Search { after: behind, ..Search::of(store, flow, step) };
                let mut found = Vec::new();
                search.read(chunk.digest, &mut found, limit - tasks.len()).await?;
                tasks.extend(
                    found.into_iter().map(|task| (TaskRef::new(step, task.id.path.clone(), task.id.visit), stored_view(run, task))),
                );
            }
        }
        if tasks.len() >= limit {
            let next = tasks.last().map(|(task, _)| cursor(task));
            return Ok(Page { tasks: tasks.into_iter().map(|(_, view)| view).collect(), next });
        }
    }
    Ok(Page { tasks: tasks.into_iter().map(|(_, view)| view).collect(), next: next.as_ref().map(cursor) })
}

fn stored_view(run: RunId, task: StoredTask) -> TaskView {
    TaskView {
        step: task.id.step,
        task: task.id.path.task_name(task.id.visit),
        path: task.id.path,
        visit: task.id.visit,
        state: TaskState::Succeeded,
        attempt: task.attempt,
        retries: task.retry,
        worker: task.worker,
        started: Some(task.started),
        finished: Some(task.ended),
        error: None,
        usage: None,
        reused: Some(task.object.run).filter(|owner| *owner != run),
        object: Some(task.object),
    }
}

fn view(run: &Run, flow: &Flow, task: &TaskRef, found: &Task) -> TaskView {
    // While a later attempt is open, the object is still an earlier one's, whose key is not known here.
    let has_object = !found.state.is_open() && !matches!(found.state, TaskState::Cancelled | TaskState::Aborted);
    TaskView {
        step: flow.step(task.step).name.clone(),
        task: task.path.task_name(task.visit),
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
        reused: found.reused,
        usage: found.usage.as_deref().copied(),
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
    use crate::api::tests::scene::{self, Scene};

    fn tasks(page: &Page) -> Vec<String> {
        page.tasks.iter().map(|task| format!("{}/{}", task.step, task.task)).collect()
    }

    async fn shown(scene: &Scene, store: &Store, paging: &Paging) -> Result<Page, Refusal> {
        let (run, flow) = scene.run();
        page(store, run.id(), &flow, paging, pieces(run, &flow, paging)?).await
    }

    async fn store(folder: &tempfile::TempDir) -> Store {
        Store::open(folder.path().to_str().unwrap(), false).await.unwrap()
    }

    #[tokio::test]
    async fn pages_follow_each_other_without_gap_or_repetition() {
        let folder = tempfile::tempdir().unwrap();
        let (scene, store) = (scene::fanned_out(5), store(&folder).await);
        let first = shown(&scene, &store, &Paging { limit: Some(4), ..Paging::default() }).await.unwrap();
        assert_eq!(tasks(&first), ["start/0", "work/0", "work/1", "work/2"]);
        let second = shown(&scene, &store, &Paging { limit: Some(4), after: first.next, ..Paging::default() }).await.unwrap();
        assert_eq!(tasks(&second), ["work/3", "work/4"]);
        assert_eq!(second.next, None);
    }

    #[tokio::test]
    async fn tasks_of_stored_chunks_are_listed_in_their_place() {
        let folder = tempfile::tempdir().unwrap();
        let (mut scene, store) = (scene::fanned_out(2_500), store(&folder).await);
        for index in 0..2_200 {
            scene.succeed("work", index);
        }
        scene.store_chunks(&store).await;
        let mut paging = Paging { limit: Some(1_000), ..Paging::default() };
        let mut listed = Vec::new();
        loop {
            let page = shown(&scene, &store, &paging).await.unwrap();
            listed.extend(tasks(&page));
            assert!(page.tasks.iter().all(|task| task.object.is_some() == (task.state == TaskState::Succeeded)));
            match page.next {
                Some(next) => paging.after = Some(next),
                None => break,
            }
        }
        let expected: Vec<String> = std::iter::once("start/0".into()).chain((0..2_500).map(|index| format!("work/{index}"))).collect();
        assert_eq!(listed, expected);
        let behind = Paging { after: Some("1:1499~0".into()), limit: Some(2), state: Some(TaskState::Succeeded), ..Paging::default() };
        assert_eq!(tasks(&shown(&scene, &store, &behind).await.unwrap()), ["work/1500", "work/1501"]);
    }

    #[tokio::test]
    async fn a_page_can_be_narrowed_to_a_step_and_a_state() {
        let folder = tempfile::tempdir().unwrap();
        let (scene, store) = (scene::fanned_out(3), store(&folder).await);
        let step = Some(StepName::new("work").unwrap());
        let open = shown(&scene, &store, &Paging { step, state: Some(TaskState::Dispatched), ..Paging::default() }).await.unwrap();
        assert_eq!(tasks(&open), ["work/0", "work/1", "work/2"]);
        let done = shown(&scene, &store, &Paging { state: Some(TaskState::Succeeded), ..Paging::default() }).await.unwrap();
        assert_eq!(tasks(&done), ["start/0"]);
        assert!(done.tasks[0].object.is_some());
        let unknown = shown(&scene, &store, &Paging { step: Some(StepName::new("wrok").unwrap()), ..Paging::default() }).await.unwrap_err();
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
