//! What tasks printed: the output sections of ended attempts, read object by object and sent on as they are read, so that the
//! output of a large run never lies in memory.

use std::ops::Bound;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use causey_artifacts::{Chunk, Object, Store, read_output};
use causey_engine::{Run, Task, TaskRef};
use causey_protocol::artifact::object_path;
use causey_protocol::flow::{Flow, StepIndex};
use causey_protocol::id::{Path, RunId, StepName, TaskId, Timestamp};
use causey_protocol::live::{LiveOutput, OutputStream};
use futures_util::{Stream, StreamExt as _, stream};
use serde::{Deserialize, Serialize};

use super::context::Context;
use super::extract::{Asked, Named, SEQUENCE};
use super::refusal::{Refusal, causes};
use super::tasks::find_step;
use crate::stored::{self, Covered, Search};

/// Chunks in one answer.
const CHUNKS_MAX: usize = 10_000;

/// Text in one answer, in bytes.
const TEXT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Attempts looked at for one answer; many print nothing.
pub(super) const ATTEMPTS_MAX: usize = 10_000;

/// Objects read at the same time.
const READS_AHEAD: usize = 8;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    pub(super) step: Option<StepName>,
    /// A task's text form, such as `3.1` or `0`; with recursion one visit, such as `0~2`, or without it all of them.
    pub(super) task: Option<String>,
    pub(super) attempt: Option<u32>,
    /// Only what was printed from then on, in microseconds since 1970.
    pub(super) since: Option<u64>,
}

/// A chunk of output as clients see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct ChunkView {
    pub(super) step: StepName,
    pub(super) task: String,
    pub(super) attempt: u32,
    pub(super) micros: u64,
    pub(super) stream: OutputStream,
    pub(super) text: String,
    /// Bytes of text that the attempt had printed before.
    pub(super) position: u64,
}

impl From<LiveOutput> for ChunkView {
    fn from(output: LiveOutput) -> Self {
        let LiveOutput { step, task, attempt, at, stream, text, position } = output;
        Self { step, task, attempt, micros: at.0, stream, text, position }
    }
}

/// An ended attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) task: TaskId,
    pub(super) attempt: u32,
}

pub(super) async fn list(
    State(context): State<Context>,
    Named(run): Named<String>,
    Asked(wanted): Asked<Wanted>,
) -> Result<Response, Refusal> {
    let look = |sequence: u64, run: &Run, flow: &Arc<Flow>| {
        let open = wanted.open_attempts(run, flow)?;
        Ok::<_, Refusal>((sequence, run.id(), flow.clone(), ended_attempts(run, flow, &wanted)?, wanted.chunks(run, flow)?, open))
    };
    let (sequence, run, flow, mut attempts, chunks, open) = context.with_run(&run, look).await??;
    attempts.extend(wanted.stored_attempts(&context.api.store, run, &flow, chunks).await?);
    let attempts = wanted.in_order(attempts);
    let body = answer(context.api.store.clone(), run, attempts, wanted.since.unwrap_or_default(), open);
    let body = Body::from_stream(body.map(Ok::<_, std::convert::Infallible>));
    let headers = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json")), (SEQUENCE, sequence.into())];
    Ok((headers, body).into_response())
}

impl Wanted {
    fn task(&self) -> Result<Option<(Path, Option<u32>)>, Refusal> {
        self.task.as_deref().map(parse_task).transpose()
    }

    /// Whether a piece of output is wanted.
    pub(super) fn takes(&self, piece: &ChunkView) -> bool {
        let is_task =
            |wanted: &String| *wanted == piece.task || piece.task.strip_prefix(wanted.as_str()).is_some_and(|rest| rest.starts_with('~'));
        self.step.as_ref().is_none_or(|step| *step == piece.step)
            && self.task.as_ref().is_none_or(is_task)
            && self.attempt.is_none_or(|attempt| attempt == piece.attempt)
    }

    /// How many attempts that are wanted are under way.
    fn open_attempts(&self, run: &Run, flow: &Flow) -> Result<usize, Refusal> {
        Ok(self.tasks(run, flow)?.filter(|(_, task)| task.state.is_open()).count())
    }

    /// Whether nothing that is wanted can be printed any more: the run has ended, or the one task that is wanted.
    pub(super) fn is_over(&self, run: &Run, flow: &Flow) -> Result<bool, Refusal> {
        if run.state.is_terminal() || self.task.is_none() || self.step.is_none() {
            return Ok(run.state.is_terminal());
        }
        let mut tasks = self.tasks(run, flow)?.peekable();
        Ok(tasks.peek().is_some() && tasks.all(|(_, task)| !task.state.is_unfinished()))
    }

    /// Wanted tasks, but those in stored chunks.
    fn tasks<'r>(&self, run: &'r Run, flow: &Flow) -> Result<impl Iterator<Item = (TaskRef, &'r Task)> + use<'r>, Refusal> {
        let step = self.step.as_ref().map(|step| find_step(flow, step)).transpose()?;
        let task = self.task()?;
        let fits = move |found: &TaskRef| {
            task.as_ref().is_none_or(|(path, visit)| {
                let same_path = *path == found.path || (found.path.0.is_empty() && path.0 == [0]);
                same_path && visit.is_none_or(|visit| visit == found.visit)
            })
        };
        Ok(run.tasks(Bound::Unbounded).filter(move |(task, _)| step.is_none_or(|step| task.step == step) && fits(task)))
    }

    /// The stored chunks that may hold wanted tasks.
    pub(super) fn chunks(&self, run: &Run, flow: &Flow) -> Result<Vec<(StepIndex, Covered)>, Refusal> {
        let step = self.step.as_ref().map(|step| find_step(flow, step)).transpose()?;
        let task = self.task()?;
        let wanted = |chunk: &Covered| task.as_ref().is_none_or(|(path, _)| chunk.start <= *path && *path < chunk.end);
        let steps = flow.indices().filter(|found| step.is_none_or(|step| step == *found));
        Ok(steps.flat_map(|step| stored::chunks_of(run, flow, step).into_iter().filter(wanted).map(move |chunk| (step, chunk))).collect())
    }

    /// Attempts at tasks in stored chunks, as many as an answer may look at.
    pub(super) async fn stored_attempts(
        &self,
        store: &Store,
        run: RunId,
        flow: &Flow,
        chunks: Vec<(StepIndex, Covered)>,
    ) -> Result<Vec<Found>, Refusal> {
        let task = self.task()?;
        let mut tasks = Vec::new();
        for (step, chunk) in chunks {
            if tasks.len() > ATTEMPTS_MAX {
                break;
            }
            let search = Search { path: task.as_ref().map(|(path, _)| path), ..Search::of(store, flow, step) };
            search.read(chunk.digest, &mut tasks, ATTEMPTS_MAX + 1).await?;
        }
        let visit = task.and_then(|(_, visit)| visit);
        let own = tasks.into_iter().filter(|task| task.object.run == run);
        let tasks = own.filter(|task| visit.is_none_or(|visit| visit == task.id.visit));
        Ok(tasks.map(|task| Found { started: task.started, count: task.attempt + 1, task: task.id }).collect())
    }

    /// The attempts of tasks in the order in which these started; one more than the bound when there are more.
    pub(super) fn in_order(&self, mut tasks: Vec<Found>) -> Vec<Ended> {
        tasks.sort_by(|one, other| (one.started, &one.task).cmp(&(other.started, &other.task)));
        let attempts =
            tasks.into_iter().flat_map(|Found { task, count, .. }| (0..count).map(move |attempt| Ended { task: task.clone(), attempt }));
        attempts.filter(|ended| self.attempt.is_none_or(|attempt| attempt == ended.attempt)).take(ATTEMPTS_MAX + 1).collect()
    }
}

/// A task with attempts that have ended.
#[derive(Clone, Debug)]
pub(super) struct Found {
    started: Timestamp,
    task: TaskId,
    count: u32,
}

/// Wanted tasks with ended attempts, but those in stored chunks.
pub(super) fn ended_attempts(run: &Run, flow: &Flow, wanted: &Wanted) -> Result<Vec<Found>, Refusal> {
    let ended = wanted.tasks(run, flow)?.filter(|(_, found)| ended_count(found) > 0);
    Ok(ended
        .map(|(task, found)| Found { started: found.started.unwrap_or(found.opened), task: task.id(flow), count: ended_count(found) })
        .collect())
}

/// How many attempts of a task have ended. Of a result of an earlier run that run has the output.
fn ended_count(task: &Task) -> u32 {
    if task.reused.is_some() {
        0
    } else if task.state.is_open() {
        task.attempt
    } else {
        task.attempt + 1
    }
}

pub(super) fn parse_task(text: &str) -> Result<(Path, Option<u32>), Refusal> {
    let parsed = || {
        let (path, visit) = text.split_once('~').map_or((text, None), |(path, visit)| (path, Some(visit)));
        let indices = path.split('.').map(str::parse).collect::<Result<Vec<u32>, _>>()?;
        Ok((Path(indices), visit.map(str::parse).transpose()?))
    };
    parsed().map_err(|_: std::num::ParseIntError| Refusal::malformed(format!("{text:?} is no task; tasks look like 3, 3.1, 0 or 0~2")))
}

/// The JSON text of the answer, piece by piece.
fn answer(store: Arc<Store>, run: RunId, mut attempts: Vec<Ended>, since: u64, open: usize) -> impl Stream<Item = Bytes> {
    let mut truncated = attempts.len() > ATTEMPTS_MAX;
    attempts.truncate(ATTEMPTS_MAX);
    let reads = stream::iter(attempts).map(move |ended| {
        let store = store.clone();
        async move { chunks_of(&store, run, ended).await }
    });
    let (mut chunks, mut bytes) = (0, 0);
    let pieces = reads.buffered(READS_AHEAD).map(Some).chain(stream::iter([None])).scan(false, move |done, read| {
        let piece = match read {
            _ if *done => None,
            Some(found) => {
                let mut piece = Vec::new();
                for chunk in found.into_iter().filter(|chunk| chunk.micros >= since) {
                    if chunks == CHUNKS_MAX || bytes > TEXT_BYTES_MAX {
                        (truncated, *done) = (true, true);
                        break;
                    }
                    bytes += chunk.text.len();
                    piece.extend_from_slice(if chunks == 0 { b"" } else { b"," });
                    serde_json::to_writer(&mut piece, &chunk).expect("a chunk has a JSON form");
                    chunks += 1;
                }
                if *done {
                    piece.extend_from_slice(ending(truncated, open).as_bytes());
                }
                Some(Bytes::from(piece))
            }
            None => {
                *done = true;
                Some(Bytes::from(ending(truncated, open)))
            }
        };
        std::future::ready(piece)
    });
    stream::iter([Bytes::from_static(b"{\"chunks\":[")]).chain(pieces)
}

fn ending(truncated: bool, open: usize) -> String {
    format!("],\"truncated\":{truncated},\"open\":{open}}}")
}

/// What one attempt printed. An attempt whose worker vanished left no object; one that cannot be read says so where its output
/// would be.
pub(super) async fn chunks_of(store: &Store, run: RunId, ended: Ended) -> Vec<ChunkView> {
    let path = object_path(run, &ended.task.key(ended.attempt));
    let chunk = |micros, stream, text| ChunkView {
        step: ended.task.step.clone(),
        task: ended.task.path.task_name(ended.task.visit),
        attempt: ended.attempt,
        micros,
        stream,
        text,
        position: 0,
    };
    let unreadable = |error: &dyn std::error::Error| {
        tracing::warn!(path, error = causes(error), "output of an attempt cannot be read");
        vec![chunk(0, OutputStream::Stderr, format!("[causey: this output cannot be read: {}]\n", causes(error)))]
    };
    let object = match store.get(&path).await {
        Ok(None) => return Vec::new(),
        Ok(Some(bytes)) => Object::read(bytes),
        Err(error) => return unreadable(&error),
    };
    let object = match object {
        Ok(object) => object,
        Err(error) => return unreadable(&error),
    };
    let mut position = 0;
    let placed = |found: Chunk| {
        let stream = if found.is_error { OutputStream::Stderr } else { OutputStream::Stdout };
        let chunk = ChunkView { position, ..chunk(found.micros, stream, found.text) };
        position += chunk.text.len() as u64;
        chunk
    };
    match read_output(store, &object).await {
        Ok(chunks) => chunks.into_iter().map(placed).collect(),
        Err(error) => unreadable(&error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::tests::scene;

    fn names(run: &Run, flow: &Flow, wanted: &Wanted) -> Vec<String> {
        wanted
            .in_order(ended_attempts(run, flow, wanted).unwrap())
            .iter()
            .map(|ended| format!("{}#{}", ended.task, ended.attempt))
            .collect()
    }

    const ALL: Wanted = Wanted { step: None, task: None, attempt: None, since: None };

    #[test]
    fn ended_attempts_come_in_order_of_start_and_open_ones_not_at_all() {
        let mut scene = scene::fanned_out_with_retries(2);
        scene.succeed("work", 1);
        scene.fail("work", 0, "NameError", "h");
        let (run, flow) = scene.run();
        assert_eq!(names(run, &flow, &ALL), ["start/0#0", "work/1#0", "work/0#0"]);
        assert_eq!(names(run, &flow, &Wanted { task: Some("1".into()), ..ALL }), ["work/1#0"]);
        assert_eq!(names(run, &flow, &Wanted { task: Some("0".into()), ..ALL }), ["start/0#0", "work/0#0"]);
        assert_eq!(names(run, &flow, &Wanted { attempt: Some(1), ..ALL }), Vec::<String>::new());
    }

    #[tokio::test]
    async fn attempts_at_tasks_in_stored_chunks_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().to_str().unwrap(), false).await.unwrap();
        let mut scene = scene::fanned_out(1_500);
        (0..1_000).for_each(|index| scene.succeed("work", index));
        scene.store_chunks(&store).await;
        let (run, flow) = scene.run();
        let wanted = Wanted { step: Some("work".parse().unwrap()), task: Some("640".into()), ..ALL };
        assert!(ended_attempts(run, &flow, &wanted).unwrap().is_empty());
        let found = wanted.stored_attempts(&store, run.id(), &flow, wanted.chunks(run, &flow).unwrap()).await.unwrap();
        assert_eq!(found.iter().map(|found| (found.task.to_string(), found.count)).collect::<Vec<_>>(), [("work/640".into(), 1)]);
    }

    #[tokio::test]
    async fn attempts_without_an_object_print_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(folder.path().to_str().unwrap(), false).await.unwrap());
        let scene = scene::fanned_out(2);
        let (run, flow) = scene.run();
        let attempts = ALL.in_order(ended_attempts(run, &flow, &ALL).unwrap());
        let pieces: Vec<Bytes> = answer(store, run.id(), attempts, 0, 1).collect().await;
        assert_eq!(pieces.concat(), b"{\"chunks\":[],\"truncated\":false,\"open\":1}");
    }
}
