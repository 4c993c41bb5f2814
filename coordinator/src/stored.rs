//! Tasks that lie in stored chunks of a wide foreach: which chunks a step has, and reading tasks from them. Chunks are read one by
//! one, and only as far as an answer needs them.

use std::pin::Pin;

use causey_artifacts::{Store, StoreError};
use causey_engine::Run;
use causey_protocol::artifact::blob_path;
use causey_protocol::chunk::{CHUNK_BYTES_MAX, CHUNK_ITEMS, Chunk, StoredTask};
use causey_protocol::codec::{self, DecodeError};
use causey_protocol::flow::{Flow, StepIndex};
use causey_protocol::id::{Digest, Path, StepName, TaskId};

/// Why a chunk cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{path} is missing or damaged")]
    Missing { path: String },
    #[error("{path} is no chunk")]
    Decode {
        path: String,
        #[source]
        source: DecodeError,
    },
}

/// A chunk, verified.
///
/// # Errors
/// [`Error`] when it is not there or not what it should be.
pub(crate) async fn chunk(store: &Store, digest: Digest) -> Result<Chunk, Error> {
    let path = blob_path(&digest);
    let Some(bytes) = store.get(&path).await?.filter(|bytes| Digest::of(bytes) == digest) else { return Err(Error::Missing { path }) };
    codec::decode(&bytes, CHUNK_BYTES_MAX).map_err(|source| Error::Decode { path, source })
}

/// A stored chunk and the paths it covers, `start..end` in the order of tasks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Covered {
    pub(crate) start: Path,
    pub(crate) end: Path,
    pub(crate) digest: Digest,
}

/// The stored chunks that hold tasks of a step, in order.
pub(crate) fn chunks_of(run: &Run, flow: &Flow, step: StepIndex) -> Vec<Covered> {
    let mut found = Vec::new();
    for split in flow.foreach_levels(step) {
        let all = run.foreaches.range((split, Path::default())..).take_while(|((found, _), _)| *found == split);
        for ((_, path), foreach) in all {
            let stored = foreach.chunks.iter().filter(|(_, chunk)| chunk.stored);
            found.extend(stored.filter_map(|(number, chunk)| {
                let size = foreach.chunk?;
                let (from, to) = (number.saturating_mul(size), number.saturating_add(1).saturating_mul(size).min(foreach.count));
                Some(Covered { start: path.child(from), end: path.child(to), digest: chunk.digest? })
            }));
        }
    }
    found.sort_by(|one, other| one.start.cmp(&other.start));
    found
}

/// What is looked for in chunks.
#[derive(Clone, Debug)]
pub(crate) struct Search<'a> {
    pub(crate) store: &'a Store,
    pub(crate) step: StepName,
    /// The steps that open the foreaches around `step`.
    pub(crate) levels: Vec<StepName>,
    /// Only tasks of this path, and only those behind that path and visit.
    pub(crate) path: Option<&'a Path>,
    pub(crate) after: Option<(&'a Path, u32)>,
    /// Only tasks from this path on, and before that one; without it of the first path alone.
    pub(crate) within: Option<(&'a Path, Option<&'a Path>)>,
}

impl<'a> Search<'a> {
    pub(crate) fn of(store: &'a Store, flow: &Flow, step: StepIndex) -> Self {
        let levels = flow.foreach_levels(step).map(|split| flow.step(split).name.clone()).collect();
        Self { store, step: flow.step(step).name.clone(), levels, path: None, after: None, within: None }
    }

    /// Whether a chunk may hold tasks that are looked for.
    pub(crate) fn wants(&self, chunk: &Covered) -> bool {
        let within =
            self.within.is_none_or(|(start, end)| chunk.end > *start && end.map_or(chunk.start <= *start, |end| chunk.start < *end));
        within
            && self.path.is_none_or(|path| chunk.start <= *path && *path < chunk.end)
            && self.after.is_none_or(|(after, _)| chunk.end > *after)
    }

    fn wants_task(&self, TaskId { path, visit, .. }: &TaskId) -> bool {
        let within = self.within.is_none_or(|(start, end)| end.map_or(path == start, |end| start <= path && path < end));
        within && self.path.is_none_or(|wanted| path == wanted) && self.after.is_none_or(|after| (path, *visit) > after)
    }

    /// Adds the tasks wanted of a chunk, in order, until `found` holds `limit`.
    pub(crate) async fn read(&self, digest: Digest, found: &mut Vec<StoredTask>, limit: usize) -> Result<(), Error> {
        let chunk = chunk(self.store, digest).await?;
        let mut parts: Vec<(Path, Part)> = chunk
            .tasks(&self.step)
            .filter(|task| self.wants_task(&task.id))
            .map(|task| (task.id.path.clone(), Part::Task(Box::new(task))))
            .collect();
        for nested in chunk.nested.iter().filter(|nested| self.levels.contains(&nested.split)) {
            let covered = (0u32..).zip(&nested.chunks).map(|(number, digest)| {
                let from = number.saturating_mul(CHUNK_ITEMS);
                let (start, end) = (nested.path.child(from), nested.path.child(from.saturating_add(CHUNK_ITEMS).min(nested.count)));
                Covered { start, end, digest: *digest }
            });
            parts.extend(covered.filter(|covered| self.wants(covered)).map(|covered| (covered.start.clone(), Part::Chunk(covered.digest))));
        }
        parts.sort_by(|(one, _), (other, _)| one.cmp(other));
        for (_, part) in parts {
            if found.len() >= limit {
                break;
            }
            match part {
                Part::Task(task) => found.push(*task),
                Part::Chunk(digest) => self.read_boxed(digest, found, limit).await?,
            }
        }
        Ok(())
    }

    fn read_boxed<'f>(
        &'f self,
        digest: Digest,
        found: &'f mut Vec<StoredTask>,
        limit: usize,
    ) -> Pin<Box<dyn Future<Output = Result<(), Error>> + Send + 'f>> {
        Box::pin(self.read(digest, found, limit))
    }
}

enum Part {
    Task(Box<StoredTask>),
    Chunk(Digest),
}
