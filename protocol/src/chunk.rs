//! Chunks: results of consecutive items of a wide foreach, gathered in the artifact store so that neither log nor state needs them
//! one by one. A chunk holds every task below its items; a chunk list is what the join receives.

use serde::{Deserialize, Serialize};

use crate::artifact::ObjectRef;
use crate::id::{Digest, Path, RunId, StepName, TaskId, Timestamp, WorkerName};
use crate::task::InputRef;

/// Items of a foreach in one chunk.
pub const CHUNK_ITEMS: u32 = 1_000;

/// Largest chunk or chunk list, in bytes.
pub const CHUNK_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A blob: all tasks below items `from..to` of the foreach that `split` opened on `path`. All of them have succeeded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    pub run: RunId,
    pub split: StepName,
    pub path: Path,
    pub from: u32,
    pub to: u32,
    pub steps: Vec<ChunkStep>,
    /// Foreaches inside the items whose own tasks lie in chunks of theirs.
    pub nested: Vec<ChunkedForeach>,
}

/// Tasks of one step, in the order of their paths.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkStep {
    pub step: StepName,
    /// Who ran them; tasks name a place in this list.
    pub workers: Vec<WorkerName>,
    /// The times of tasks count from here.
    pub since: Timestamp,
    pub tasks: Vec<ChunkTask>,
    /// Tasks whose results were made in other runs than the chunk's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reused: Vec<ReusedTasks>,
}

/// Consecutive tasks of a step with results of one earlier run, as a compact tuple: `from..to` among the step's tasks, and that run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReusedTasks(pub u32, pub u32, pub RunId);

/// A task as a compact tuple: path below the foreach (its item first), visit, accepted attempt, charged retries, worker, digest and
/// size of its object, microseconds of start and end behind the step's `since`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkTask(pub Vec<u32>, pub u32, pub u32, pub u32, pub u32, pub Digest, pub u64, pub u64, pub u64);

/// A foreach all of whose items lie in chunks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkedForeach {
    pub split: StepName,
    pub path: Path,
    pub count: u32,
    /// In order, [`CHUNK_ITEMS`] items each, the last one the rest.
    pub chunks: Vec<Digest>,
}

/// A blob: the inputs of a join that closes a chunked foreach.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkList {
    pub run: RunId,
    /// The step whose results the join receives.
    pub step: StepName,
    pub foreach: ChunkedForeach,
}

/// One task of a chunk, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredTask {
    pub id: TaskId,
    pub attempt: u32,
    pub retry: u32,
    pub worker: Option<WorkerName>,
    pub object: ObjectRef,
    pub started: Timestamp,
    pub ended: Timestamp,
}

impl Chunk {
    /// The tasks of a step; nothing if the step has none here.
    pub fn tasks<'a>(&'a self, step: &'a StepName) -> impl Iterator<Item = StoredTask> + 'a {
        let found = self.steps.iter().find(|found| found.step == *step);
        found.into_iter().flat_map(move |found| {
            let mut reused = found.reused.iter().peekable();
            (0u32..).zip(&found.tasks).map(move |(place, task)| {
                while reused.next_if(|ReusedTasks(_, to, _)| *to <= place).is_some() {}
                let owner = reused.peek().filter(|ReusedTasks(from, ..)| *from <= place).map(|ReusedTasks(.., run)| *run);
                self.task(found, task, owner)
            })
        })
    }

    fn task(&self, step: &ChunkStep, task: &ChunkTask, owner: Option<RunId>) -> StoredTask {
        let ChunkTask(below, visit, attempt, retry, worker, digest, bytes, started, ended) = task;
        let path = Path(self.path.0.iter().chain(below).copied().collect());
        let id = TaskId { step: step.step.clone(), path, visit: *visit };
        StoredTask {
            attempt: *attempt,
            retry: *retry,
            worker: step.workers.get(*worker as usize).cloned(),
            object: ObjectRef { run: owner.unwrap_or(self.run), key: id.key(*attempt), digest: *digest, bytes: *bytes },
            started: step.since.plus_micros(*started),
            ended: step.since.plus_micros(*ended),
            id,
        }
    }
}

impl From<StoredTask> for InputRef {
    fn from(task: StoredTask) -> Self {
        Self { step: task.id.step, path: task.id.path, object: task.object }
    }
}
