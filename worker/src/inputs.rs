//! The inputs of a wide join: a table in a file, made of the chunks that hold them, whose entries are verified when user code
//! touches them. Neither worker nor host holds a million references.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use causey_artifacts::ObjectLink;
use causey_protocol::chunk::{CHUNK_BYTES_MAX, Chunk, ChunkList};
use causey_protocol::codec::{self, DecodeError};
use causey_protocol::id::{Digest, Path as TaskPath, RunId, StepName, TaskKey};

use crate::depot::{Depot, DepotError};
use crate::frame::InputTable;

/// An entry: run, key and digest of an object, in bytes.
const ENTRY_BYTES: usize = 16 + 16 + 32;

/// Most entries a host may ask for at once.
const ENTRIES_MAX: u32 = 1_024;

/// Why a table cannot be made, or entries of it not be given.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TableError {
    #[error(transparent)]
    Depot(#[from] DepotError),
    #[error("the list of inputs is damaged")]
    Decode(#[from] DecodeError),
    #[error("the chunks hold {found} inputs, but the join waits for {expected}")]
    Count { found: u32, expected: u32 },
    #[error("input {at} of the list is that of {path}")]
    Order { at: u32, path: TaskPath },
    #[error("inputs {from} to {} were asked for, of {count}; at most {ENTRIES_MAX} at once", from.saturating_add(*asked))]
    Range { from: u32, asked: u32, count: u32 },
    #[error("the table of inputs cannot be used")]
    File(#[from] std::io::Error),
}

/// The table of one attempt; its file goes with it.
#[derive(Debug)]
pub(crate) struct Table {
    file: File,
    place: PathBuf,
    step: StepName,
    /// The path of the foreach: entry `n` is that of its item `n`.
    path: TaskPath,
    count: u32,
}

impl Table {
    /// Writes the table to `place`.
    ///
    /// # Errors
    /// [`TableError`] when a chunk is not there or not what it should be.
    pub(crate) async fn write(depot: &Depot, list: &Digest, place: PathBuf) -> Result<Self, TableError> {
        let ChunkList { step, foreach, .. } = codec::decode(&depot.blob(list).await?, CHUNK_BYTES_MAX)?;
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&place)?;
        // From here on the file goes when this is dropped.
        let table = Self { file, place, step, path: foreach.path, count: foreach.count };
        let mut entries = BufWriter::new(&table.file);
        let mut at = 0;
        for digest in &foreach.chunks {
            let chunk: Chunk = codec::decode(&depot.blob(digest).await?, CHUNK_BYTES_MAX)?;
            for task in chunk.tasks(&table.step) {
                if task.id.path != table.path.child(at) {
                    return Err(TableError::Order { at, path: task.id.path });
                }
                entries.write_all(&task.object.run.to_bytes())?;
                entries.write_all(&task.object.key.0)?;
                entries.write_all(&task.object.digest.0)?;
                at += 1;
            }
        }
        entries.flush()?;
        drop(entries);
        if at == table.count { Ok(table) } else { Err(TableError::Count { found: at, expected: table.count }) }
    }

    /// As a host is told about it.
    pub(crate) fn line(&self) -> InputTable<'_> {
        InputTable { file: self.place.to_string_lossy(), step: &self.step, path: &self.path, count: self.count }
    }

    /// Sees to it that the objects of some entries are under the depot's root and verified.
    ///
    /// # Errors
    /// [`TableError`] naming the file that is missing or damaged.
    pub(crate) async fn ready(&self, depot: &Depot, from: u32, asked: u32) -> Result<Vec<ObjectLink>, TableError> {
        let links = self.links(from, asked)?;
        depot.bring(links.clone()).await?;
        depot.verify(links.iter().cloned()).await?;
        Ok(links)
    }

    fn links(&self, from: u32, asked: u32) -> Result<Vec<ObjectLink>, TableError> {
        if asked > ENTRIES_MAX || from.checked_add(asked).is_none_or(|to| to > self.count) {
            return Err(TableError::Range { from, asked, count: self.count });
        }
        let mut bytes = vec![0; asked as usize * ENTRY_BYTES];
        self.file.read_exact_at(&mut bytes, u64::from(from) * ENTRY_BYTES as u64)?;
        let link = |entry: &[u8]| {
            let (mut run, mut key, mut digest) = ([0; 16], [0; 16], [0; 32]);
            run.copy_from_slice(&entry[..16]);
            key.copy_from_slice(&entry[16..32]);
            digest.copy_from_slice(&entry[32..]);
            ObjectLink { run: RunId::from_bytes(run), key: TaskKey(key), digest: Digest(digest) }
        };
        Ok(bytes.chunks_exact(ENTRY_BYTES).map(link).collect())
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        // A file that stays goes with the folder it is in at the next start.
        let _ = std::fs::remove_file(&self.place);
    }
}

/// Where the table of the attempt with this task folder, which must be empty, lies.
pub(crate) fn place_beside(task_folder: &Path) -> PathBuf {
    task_folder.with_extension("inputs.table")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Cache;
    use bytes::Bytes;
    use causey_artifacts::Store;
    use causey_protocol::chunk::{ChunkStep, ChunkTask, ChunkedForeach, ReusedTasks};
    use causey_protocol::id::{Origin, Timestamp};

    /// The run whose results the first two items of every chunk are.
    fn earlier() -> RunId {
        RunId::derive(Timestamp(1_600_000_000_000_000), &Origin([8; 16]))
    }

    fn chunk(run: RunId, from: u32, to: u32) -> Bytes {
        let task = |item: u32| ChunkTask(vec![item], 0, 0, 0, 0, Digest::of(&item.to_le_bytes()), 9, 0, 1);
        let step = ChunkStep {
            step: "work".parse().unwrap(),
            workers: vec!["w".parse().unwrap()],
            since: Timestamp(5),
            tasks: (from..to).map(task).collect(),
            reused: vec![ReusedTasks(0, 2, earlier())],
        };
        let (split, path) = ("start".parse().unwrap(), TaskPath::default());
        codec::encode(&Chunk { run, split, path, from, to, steps: vec![step], nested: Vec::new() }).into()
    }

    async fn list(depot: &Depot, run: RunId, count: u32, chunks: Vec<Digest>) -> Digest {
        let foreach = ChunkedForeach { split: "start".parse().unwrap(), path: TaskPath::default(), count, chunks };
        depot.put_blob(codec::encode(&ChunkList { run, step: "work".parse().unwrap(), foreach }).into()).await.unwrap()
    }

    #[tokio::test]
    async fn a_table_holds_the_inputs_of_all_chunks_in_order_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store").to_string_lossy(), false).await.unwrap();
        let depot = Depot::open(store, &folder.path().join("fetched"), Cache::open(folder.path().join("cache"))).await.unwrap();
        let run = RunId::derive(Timestamp(1_700_000_000_000_000), &Origin([7; 16]));
        let mut chunks = Vec::new();
        for (from, to) in [(0, 1_000), (1_000, 1_500)] {
            chunks.push(depot.put_blob(chunk(run, from, to)).await.unwrap());
        }
        let place = folder.path().join("table");
        let table = Table::write(&depot, &list(&depot, run, 1_500, chunks.clone()).await, place.clone()).await.unwrap();
        let links = table.links(998, 4).unwrap();
        let expected: Vec<Digest> = (998u32..1_002).map(|item| Digest::of(&item.to_le_bytes())).collect();
        assert_eq!(links.iter().map(|link| link.digest).collect::<Vec<_>>(), expected);
        assert_eq!(links.iter().map(|link| link.run).collect::<Vec<_>>(), [run, run, earlier(), earlier()]);
        assert!(matches!(table.links(1_499, 2), Err(TableError::Range { count: 1_500, .. })));
        assert!(matches!(table.ready(&depot, 0, 1).await, Err(TableError::Depot(DepotError::Missing { .. }))), "no object is there");
        drop(table);
        assert!(!place.exists());

        let short = list(&depot, run, 1_500, chunks[..1].to_vec()).await;
        assert!(matches!(Table::write(&depot, &short, place.clone()).await, Err(TableError::Count { found: 1_000, .. })));
        let turned = list(&depot, run, 1_500, vec![chunks[1], chunks[0]]).await;
        assert!(matches!(Table::write(&depot, &turned, place.clone()).await, Err(TableError::Order { at: 0, .. })));
    }
}
