//! The results that records accept or take from earlier runs, and whether their objects are stored.

use bytes::Bytes;
use causey_engine::State;
use causey_protocol::artifact::{blob_path, object_path};
use causey_protocol::flow::StepIndex;
use causey_protocol::id::{Digest, Path, RunId, TaskId};
use causey_protocol::record::{ItemReused, ItemSucceeded, Position, Record};

/// A result: run, step, path, visit, attempt, digest and size of the object.
type Result = (RunId, StepIndex, Path, u32, u32, Digest, u64);

/// The results of earlier runs that a record takes, with the runs in which they were made.
#[must_use]
pub fn reused(record: &Record) -> Vec<(RunId, Result)> {
    let Record::ResultsReused { run, step, tasks, owners, items } = record else { return Vec::new() };
    let tasks: Vec<(Path, u32)> = tasks.iter().collect();
    let result = |ItemReused(place, owner, attempt, digest, bytes): &ItemReused| {
        let (path, visit) = tasks[*place as usize].clone();
        (owners[*owner as usize], (*run, *step, path, visit, *attempt, *digest, *bytes))
    };
    items.iter().map(result).collect()
}

/// The results that a record accepts.
#[must_use]
pub fn accepted(record: &Record) -> Vec<Result> {
    match record {
        Record::AttemptSucceeded { run, step, path, visit, attempt, digest, bytes, .. } => {
            vec![(*run, *step, path.clone(), *visit, *attempt, *digest, *bytes)]
        }
        Record::AttemptsSucceeded { run, step, outer, visit, attempt, items, .. } => {
            let item = |ItemSucceeded(item, digest, bytes, ..): &ItemSucceeded| {
                (*run, *step, outer.child(*item), *visit, *attempt, *digest, *bytes)
            };
            items.iter().map(item).collect()
        }
        _ => Vec::new(),
    }
}

/// I8: what a record says to be stored is there. `look` gives the content of a place in the store.
pub fn missing_objects(state: &State, position: Position, record: &Record, look: impl Fn(&str) -> Option<Bytes>, found: &mut Vec<String>) {
    let made = accepted(record).into_iter().map(|result| (result.0, result));
    for (owner, (run, step, path, visit, attempt, digest, bytes)) in made.chain(reused(record)) {
        let Some(flow) = state.run(run).and_then(|run| state.flow_of(run)) else { continue };
        let task = TaskId { step: flow.step(step).name.clone(), path, visit };
        let place = object_path(owner, &task.key(attempt));
        match look(&place) {
            Some(content) if Digest::of(&content) == digest && content.len() as u64 == bytes => {}
            Some(content) => {
                found.push(format!("I8: {place} of {position} has {} bytes and digest {}", content.len(), Digest::of(&content)));
            }
            None => found.push(format!("I8: {place} of {position} is missing")),
        }
    }
    if let Record::ChunkStored { run, step, path, chunk } = record {
        let digest = state.run(*run).and_then(|run| run.foreach(*step, path)?.chunks.get(chunk)?.digest);
        // A chunk of a foreach inside another is named by the outer chunk once that is stored.
        if digest.is_some_and(|digest| look(&blob_path(&digest)).is_none()) {
            found.push(format!("I8: chunk {chunk} of {position} is missing"));
        }
    }
}
