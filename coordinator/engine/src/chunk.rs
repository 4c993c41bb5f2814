//! Chunks of a wide foreach: once all items of a chunk have reached the join, its results become a blob; once that is stored, the
//! state forgets the tasks. The join then receives a list of chunks.

use causey_protocol::chunk::{CHUNK_ITEMS, Chunk, ChunkList, ChunkStep, ChunkTask, ChunkedForeach, ReusedTasks};
use causey_protocol::codec;
use causey_protocol::flow::{Flow, StepIndex};
use causey_protocol::id::{Digest, Path, RunId, Timestamp, WorkerName};
use causey_protocol::record::{Record, TaskSet};
use causey_protocol::task::INLINE_INPUTS_MAX;

use crate::engine::Decider;
use crate::run::{Run, Task, TaskRef, join_of, splits_below, steps_below};

/// What a blob is wanted for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum BlobUse {
    Chunk { split: StepIndex, path: Path, chunk: u32 },
    Join { step: StepIndex, path: Path },
}

impl BlobUse {
    /// Before all others.
    pub(crate) const FIRST: Self = Self::Chunk { split: StepIndex(0), path: Path(Vec::new()), chunk: 0 };
}

/// Whether the results of a foreach are gathered in chunks. A foreach inside another is, unless its join's inputs fit a dispatch:
/// many of them would else come together in one chunk of the outer one. Where switches make several steps the last one, a chunk could not
/// say which an item came to: the join then gets a manifest.
pub(crate) fn size(flow: &Flow, split: StepIndex, path: &Path, count: u32) -> Option<u32> {
    let mut joins = flow.indices().filter(|step| flow.closes(*step).is_some_and(|closed| closed.foreach && closed.step == split));
    if joins.any(|join| flow.parents(join).len() > 1) {
        return None;
    }
    let unchunked = if path.0.is_empty() { CHUNK_ITEMS } else { u32::try_from(INLINE_INPUTS_MAX).unwrap_or(u32::MAX) };
    (count > unchunked).then_some(CHUNK_ITEMS)
}

/// The bytes of a chunk all of whose items have arrived.
pub(crate) fn bytes(run: &Run, flow: &Flow, split: StepIndex, path: &Path, chunk: u32) -> Option<Vec<u8>> {
    let items = run.foreach(split, path)?.items(chunk);
    let steps = steps_below(flow, split, path).filter_map(|(step, depth)| gathered(run, flow, step, path, depth, items));
    let nested = splits_below(flow, split, path).flat_map(|inner| {
        let found = run.foreaches.range((inner, path.child(items.0))..(inner, path.child(items.1)));
        found.filter(|(_, foreach)| foreach.chunk.is_some()).map(move |((_, path), foreach)| ChunkedForeach {
            split: flow.step(inner).name.clone(),
            path: path.clone(),
            count: foreach.count,
            chunks: foreach.digests(),
        })
    });
    let chunk = Chunk {
        run: run.id(),
        split: flow.step(split).name.clone(),
        path: path.clone(),
        from: items.0,
        to: items.1,
        steps: steps.collect(),
        nested: nested.collect(),
    };
    Some(codec::encode(&chunk))
}

/// One step's part of a chunk; `None` if all its tasks lie in chunks of foreaches further inside.
fn gathered(run: &Run, flow: &Flow, step: StepIndex, path: &Path, depth: usize, items: (u32, u32)) -> Option<ChunkStep> {
    let times = |task: &Task| (task.started.unwrap_or_default(), task.ended.unwrap_or_default());
    let found = || run.tasks.below(step, path, depth, items);
    let since = found().map(|(_, task)| times(task).0.min(times(task).1)).min()?;
    let mut workers: Vec<WorkerName> = Vec::new();
    let tasks = found().map(|(place, task)| pack(&place, task, path, times(task), since, &mut workers)).collect();
    let reused = reused(found().map(|(_, task)| task.reused));
    Some(ChunkStep { step: flow.step(step).name.clone(), workers, since, tasks, reused })
}

/// Neighbours with results of the same earlier run, of tasks in order.
fn reused(owners: impl Iterator<Item = Option<RunId>>) -> Vec<ReusedTasks> {
    let mut ranges: Vec<ReusedTasks> = Vec::new();
    for (place, owner) in (0u32..).zip(owners) {
        let Some(owner) = owner else { continue };
        match ranges.last_mut() {
            Some(ReusedTasks(_, to, run)) if *to == place && *run == owner => *to += 1,
            _ => ranges.push(ReusedTasks(place, place + 1, owner)),
        }
    }
    ranges
}

fn pack(
    place: &TaskRef,
    task: &Task,
    path: &Path,
    (started, ended): (Timestamp, Timestamp),
    since: Timestamp,
    workers: &mut Vec<WorkerName>,
) -> ChunkTask {
    let worker = task.worker.as_ref().map_or(u32::MAX, |worker| {
        let known = workers.iter().position(|known| known == worker);
        let place = known.unwrap_or_else(|| {
            workers.push(worker.clone());
            workers.len() - 1
        });
        u32::try_from(place).unwrap_or(u32::MAX)
    });
    let (digest, bytes) = task.object.unwrap_or((Digest([0; 32]), 0));
    let below = place.path.0[path.0.len()..].to_vec();
    let (started, ended) = (started.micros_since(since), ended.micros_since(since));
    ChunkTask(below, place.visit, task.attempt, task.retry, worker, digest, bytes, started, ended)
}

/// The bytes of what a join receives that closes a foreach whose chunks are all stored.
pub(crate) fn list(run: &Run, flow: &Flow, join: StepIndex, path: &Path) -> Option<Vec<u8>> {
    let split = flow.closes(join).filter(|split| split.foreach)?.step;
    let foreach = run.foreach(split, path).filter(|foreach| foreach.chunk.is_some())?;
    let step = flow.step(*flow.parents(join).first()?).name.clone();
    let (split, path) = (flow.step(split).name.clone(), path.clone());
    let foreach = ChunkedForeach { split, path, count: foreach.count, chunks: foreach.digests() };
    Some(codec::encode(&ChunkList { run: run.id(), step, foreach }))
}

impl Decider<'_> {
    /// Gathers the chunks that `items`, which are in order, were the last of.
    pub(crate) fn gather_chunks(&mut self, run: RunId, flow: &Flow, split: StepIndex, path: &Path, items: &[u32]) {
        let Some(foreach) = self.state.run(run).and_then(|run| run.foreach(split, path)) else { return };
        let Some(size) = foreach.chunk else { return };
        let mut touched: Vec<u32> = items.iter().map(|item| item / size.max(1)).collect();
        touched.dedup();
        let is_full = |number: &u32| {
            let (from, to) = foreach.items(*number);
            foreach.chunks.get(number).is_some_and(|chunk| chunk.arrived == to - from && chunk.digest.is_none())
        };
        touched.retain(is_full);
        for chunk in touched {
            let bytes = self.state.run(run).and_then(|run| bytes(run, flow, split, path, chunk));
            if let Some(bytes) = bytes {
                self.emit(Record::ChunkGathered { run, step: split, path: path.clone(), chunk, digest: Digest::of(&bytes) });
            }
        }
    }

    pub(crate) fn blob_stored(&mut self, digest: Digest) {
        let waiting = self.state.waiting_for(digest);
        if waiting.is_empty() {
            self.ignore(format!("nothing waits for blob {digest}"));
        }
        for (run, used) in waiting {
            match used {
                BlobUse::Chunk { split, path, chunk } => self.chunk_stored(run, split, &path, chunk),
                BlobUse::Join { step, path } => {
                    self.emit(Record::InputsStored { run, step, path: path.clone() });
                    self.open(run, step, TaskSet::One { path, visit: 0 }, 0, 0);
                }
            }
        }
    }

    fn chunk_stored(&mut self, run: RunId, split: StepIndex, path: &Path, chunk: u32) {
        self.emit(Record::ChunkStored { run, step: split, path: path.clone(), chunk });
        self.after_chunk(run, split, path);
    }

    /// What follows once a chunk of a foreach is in the store: further items, or what the join receives.
    pub(crate) fn after_chunk(&mut self, run: RunId, split: StepIndex, path: &Path) {
        self.refill_foreach(run, split, path);
        let Some((found, flow)) = self.run_and_flow(run) else { return };
        let Some(foreach) = found.foreach(split, path) else { return };
        let (size, count) = (foreach.chunk.unwrap_or(1).max(1), foreach.count);
        if foreach.stored < count.div_ceil(size) {
            return;
        }
        let Some((join, bytes)) = join_of(&flow, split).and_then(|join| Some((join, list(found, &flow, join, path)?))) else { return };
        self.emit(Record::InputsGathered { run, step: join, path: path.clone(), digest: Digest::of(&bytes), count });
    }
}
