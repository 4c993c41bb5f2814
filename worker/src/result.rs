//! From what a host says at the end of an attempt to its stored object and its report. The object is written before the report
//! exists (I8), once: whoever finds it there drops his own and reports the stored one.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use causey_artifacts::{
    Artifact, Manifest, Object, ObjectLink, OutputPlace, Put, ReportNote, StoreError, TaskNote, compose, hash_file, tail,
};
use causey_protocol::codec;
use causey_protocol::gate::{CHILDREN_BYTES_MAX, ChildStart};
use causey_protocol::id::{Digest, StepName, TaskKey, Timestamp};
use causey_protocol::problem::Code;
use causey_protocol::task::{ErrorInfo, Failure, FailureKind, Outcome, Publication, Success};

use crate::depot::{Depot, DepotError, references};
use crate::frame::{Failed, Finished, HostArtifact};
use crate::output::Output;

/// Larger output goes into a blob of its own, in bytes.
const INLINE_OUTPUT_BYTES_MAX: usize = 64 * 1024;

/// A larger data file is not read into memory but becomes the object itself, in bytes.
const DATA_IN_MEMORY_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Most bytes of publications in one report.
const PUBLICATIONS_BYTES_MAX: usize = 64 * 1024;

/// The name of the file with all small values.
const DATA_FILE: &str = "data";

/// How user code ended.
#[derive(Debug)]
pub(crate) enum Ended {
    Finished(Box<Finished>),
    Failed(Box<Failed>),
    /// Without a result: the process died, or could not be started.
    Broken {
        kind: FailureKind,
        error: Box<ErrorInfo>,
    },
}

impl Ended {
    /// Whether some of the result is in the task folder.
    pub(crate) fn uses_files(&self) -> bool {
        let (data, artifacts) = match self {
            Self::Finished(finished) => (&finished.data, &finished.artifacts),
            Self::Failed(failed) => (&failed.data, &failed.artifacts),
            Self::Broken { .. } => return false,
        };
        data.is_none() || artifacts.values().any(|artifact| artifact.file.as_deref().is_some_and(|file| file != DATA_FILE))
    }
}

/// The attempt whose result is stored.
#[derive(Debug)]
pub(crate) struct Ending<'a> {
    pub(crate) task: TaskNote,
    pub(crate) key: TaskKey,
    pub(crate) task_folder: Option<&'a Path>,
    pub(crate) output: Output,
    pub(crate) started: Timestamp,
    pub(crate) ended: Timestamp,
    /// Whether the report says what the object contains.
    pub(crate) content: bool,
}

/// Why a result cannot be stored.
#[derive(Debug, thiserror::Error)]
enum ResultError {
    /// The host broke the protocol.
    #[error("the host's result is wrong: {0}")]
    Host(String),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Depot(#[from] DepotError),
}

/// What a host leaves, in the terms of an object.
#[derive(Debug, Default)]
struct Left {
    objects: Vec<ObjectLink>,
    artifacts: BTreeMap<String, HostArtifact>,
    data: Option<String>,
    next: Vec<StepName>,
    foreach: Option<u32>,
    publications: Vec<Publication>,
    children: Vec<ChildStart>,
    failure: Option<(FailureKind, ErrorInfo)>,
}

/// Stores the attempt's object and makes its report. Never fails: what cannot be stored is reported as a failure of the
/// infrastructure, which is not charged.
pub(crate) async fn conclude(depot: &Depot, ending: &Ending<'_>, ended: Ended) -> Outcome {
    let left = left(ended);
    let failure = left.failure.clone();
    match store(depot, ending, left).await {
        Ok(outcome) => outcome,
        Err(ResultError::Host(what)) => {
            let error = host_fault(&ending.task.step, &what);
            let left = Left { failure: Some((FailureKind::User, error.clone())), ..Left::default() };
            match store(depot, ending, left).await {
                Ok(outcome) => outcome,
                Err(_) => unstored(ending, FailureKind::User, error),
            }
        }
        Err(ResultError::Store(error)) => not_stored(ending, failure, &error),
        Err(ResultError::Depot(error)) => not_stored(ending, failure, &error),
    }
}

/// A failure of user code stays one although its object is lost; a success does not count without its object.
fn not_stored(ending: &Ending<'_>, failure: Option<(FailureKind, ErrorInfo)>, error: &dyn std::error::Error) -> Outcome {
    let (kind, error) = failure.unwrap_or_else(|| (FailureKind::Infrastructure, infrastructure(&ending.task.step, error)));
    unstored(ending, kind, error)
}

/// The outcome that a stored object tells.
#[must_use]
pub fn stored_outcome(object: &Object, content: bool) -> Outcome {
    let (digest, bytes) = (object.digest(), object.size());
    let Manifest { task, next, foreach, error, report, .. } = &object.manifest;
    let Some(ReportNote { started, ended, failure, publications, children }) = report.clone() else {
        let now = Timestamp::default();
        let what = "the attempt's object was not written by a worker";
        let error =
            ErrorInfo { kind: Code::STORE.to_string(), message: what.into(), step: Some(task.step.to_string()), ..ErrorInfo::default() };
        let kind = FailureKind::Infrastructure;
        return Outcome::Failed(Failure { kind, error: Box::new(error), digest: Some(digest), bytes, started: now, ended: now });
    };
    match failure {
        Some(kind) => {
            let error = error.clone().unwrap_or_default().clipped();
            Outcome::Failed(Failure { kind, error: Box::new(error), digest: Some(digest), bytes, started, ended })
        }
        None => {
            let content = content.then(|| object.manifest.content()).flatten();
            let (next, foreach) = (next.clone(), *foreach);
            Outcome::Succeeded(Success { digest, bytes, next, foreach, publications, children, started, ended, content })
        }
    }
}

/// An error of store, disk or network, as the person sees it who waits for the step.
pub(crate) fn infrastructure(step: &StepName, error: &dyn std::error::Error) -> ErrorInfo {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    let (message, hint) = match text.split_once("\nhint: ") {
        Some((message, hint)) => (message.to_owned(), Some(hint.to_owned())),
        None => (text, None),
    };
    ErrorInfo { kind: Code::STORE.to_string(), message, hint, step: Some(step.to_string()), ..ErrorInfo::default() }
}

fn host_fault(step: &StepName, what: &str) -> ErrorInfo {
    let message = format!("the result of step `{step}` cannot be taken: {what}");
    ErrorInfo { kind: Code::HOST_DIED.to_string(), message, step: Some(step.to_string()), ..ErrorInfo::default() }
}

fn unstored(ending: &Ending<'_>, kind: FailureKind, error: ErrorInfo) -> Outcome {
    let Ending { started, ended, .. } = *ending;
    Outcome::Failed(Failure { kind, error: Box::new(error.clipped()), digest: None, bytes: 0, started, ended })
}

fn left(ended: Ended) -> Left {
    match ended {
        Ended::Finished(finished) => {
            let Finished { next, foreach, objects, artifacts, data, publish, start, .. } = *finished;
            let failure = publish.iter().find_map(|publication| publication_fault(publication, &artifacts)).or_else(|| too_large(&publish));
            let failure = failure.map(|error| (FailureKind::User, error));
            let failure = failure.or_else(|| starts_too_large(&start).map(|error| (FailureKind::Permanent, error)));
            let (publications, children) = if failure.is_some() { (vec![], vec![]) } else { (publish, start) };
            Left { objects, artifacts, data, next, foreach, publications, children, failure }
        }
        Ended::Failed(failed) => {
            let Failed { retryable, timed_out, error, objects, artifacts, data, .. } = *failed;
            let kind = match (timed_out, retryable) {
                (true, _) => FailureKind::TimedOut,
                (false, true) => FailureKind::User,
                (false, false) => FailureKind::Permanent,
            };
            Left { objects, artifacts, data, failure: Some((kind, error)), ..Left::default() }
        }
        Ended::Broken { kind, error } => Left { failure: Some((kind, *error)), ..Left::default() },
    }
}

/// Why a model must not be published like this.
fn publication_fault(publication: &Publication, artifacts: &BTreeMap<String, HostArtifact>) -> Option<ErrorInfo> {
    let Publication { model, artifact, format, allow_pickle, .. } = publication;
    let (message, hint) = if format == "pickle" && !allow_pickle {
        let message = format!("model `{model}` is a pickle, which runs code wherever it is loaded");
        (message, "publish it in a safe format such as skops, or pass allow_pickle=True if all its consumers trust this flow")
    } else if !artifacts.contains_key(artifact) {
        (format!("model `{model}` refers to artifact `{artifact}`, which the step did not leave"), "publish a value of this step")
    } else {
        return None;
    };
    let (kind, hash) = (Code::PUBLICATION.to_string(), Some(format!("{}-{model}", Code::PUBLICATION)));
    Some(ErrorInfo { kind, message, hint: Some(hint.into()), hash, ..ErrorInfo::default() })
}

/// A report that says too much of the runs to be started would never reach the inbox.
fn starts_too_large(start: &[ChildStart]) -> Option<ErrorInfo> {
    let bytes = if start.is_empty() { 0 } else { codec::encode(&start).len() };
    (bytes > CHILDREN_BYTES_MAX).then(|| ErrorInfo {
        kind: Code::CHILD.to_string(),
        message: format!("the parameters of the runs to be started have {bytes} bytes; at most {CHILDREN_BYTES_MAX} are taken"),
        hint: Some("pass large data by its address".into()),
        ..ErrorInfo::default()
    })
}

fn too_large(publish: &[Publication]) -> Option<ErrorInfo> {
    let bytes = if publish.is_empty() { 0 } else { codec::encode(&publish).len() };
    (bytes > PUBLICATIONS_BYTES_MAX).then(|| ErrorInfo {
        kind: Code::PUBLICATION.to_string(),
        message: format!(
            "metrics, tags and descriptions of the published models have {bytes} bytes; at most {PUBLICATIONS_BYTES_MAX} are taken"
        ),
        hint: Some("keep long tables in an artifact".into()),
        ..ErrorInfo::default()
    })
}

async fn store(depot: &Depot, ending: &Ending<'_>, mut left: Left) -> Result<Outcome, ResultError> {
    let data = data_section(ending, left.data.take())?;
    let artifacts = place_artifacts(depot, ending, &left, data.bytes()).await?;
    let section = ending.output.section();
    let blob = if section.len() > INLINE_OUTPUT_BYTES_MAX { Some(depot.put_blob(Bytes::copy_from_slice(section)).await?) } else { None };
    let output = match blob {
        Some(digest) => OutputPlace::Blob { digest, bytes: section.len() as u64 },
        None if section.is_empty() => OutputPlace::Nothing,
        None => OutputPlace::Here(section),
    };
    let Left { objects, next, foreach, publications, children, failure, .. } = left;
    let (kind, error) = failure.unzip();
    let (started, ended) = (ending.started, ending.ended);
    let note = ReportNote { started, ended, failure: kind, publications: publications.clone(), children: children.clone() };
    let manifest = Manifest {
        format: 1,
        task: ending.task.clone(),
        objects,
        artifacts,
        output: None,
        error: error.clone(),
        next: next.clone(),
        foreach,
        report: Some(note),
    };
    let content = ending.content.then(|| manifest.content()).flatten();
    let Some((digest, bytes)) = put(depot, ending, data, output, manifest).await? else {
        let stored = depot.stored_result(ending.task.run, &ending.key).await?;
        let object = stored.ok_or_else(|| ResultError::Host("its object was there and is gone".into()))?;
        return Ok(stored_outcome(&object, ending.content));
    };
    Ok(match (kind, error) {
        (Some(kind), error) => {
            let error = error.unwrap_or_default().clipped();
            Outcome::Failed(Failure { kind, error: Box::new(error), digest: Some(digest), bytes, started, ended })
        }
        (None, _) => Outcome::Succeeded(Success { digest, bytes, next, foreach, publications, children, started, ended, content }),
    })
}

/// The small values of an attempt, laid out by the host.
#[derive(Debug)]
enum Data {
    Memory(Vec<u8>),
    /// Too large for memory; it becomes the object.
    File {
        path: std::path::PathBuf,
        bytes: u64,
    },
}

impl Data {
    fn bytes(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::File { bytes, .. } => *bytes,
        }
    }
}

fn data_section(ending: &Ending<'_>, inline: Option<String>) -> Result<Data, ResultError> {
    if let Some(text) = inline {
        let decoded = BASE64_STANDARD.decode(text);
        return decoded.map(Data::Memory).map_err(|error| ResultError::Host(format!("its data is not base64: {error}")));
    }
    let Some(path) = ending.task_folder.map(|folder| folder.join(DATA_FILE)) else { return Ok(Data::Memory(vec![])) };
    match std::fs::symlink_metadata(&path) {
        Ok(found) if !found.is_file() => Err(ResultError::Host("its data file is no regular file".into())),
        Ok(found) if found.len() > DATA_IN_MEMORY_BYTES_MAX => Ok(Data::File { path, bytes: found.len() }),
        Ok(_) => match std::fs::read(&path) {
            Ok(bytes) => Ok(Data::Memory(bytes)),
            Err(error) => Err(ResultError::Host(format!("its data file cannot be read: {error}"))),
        },
        Err(_) => Ok(Data::Memory(vec![])),
    }
}

/// Stores files of their own and gives every artifact its final place.
async fn place_artifacts(
    depot: &Depot,
    ending: &Ending<'_>,
    left: &Left,
    data_bytes: u64,
) -> Result<BTreeMap<String, Artifact>, ResultError> {
    let mut files: HashMap<&str, (Digest, u64)> = HashMap::new();
    let mut placed = BTreeMap::new();
    for (name, artifact) in &left.artifacts {
        let wrong = |what: &str| ResultError::Host(format!("artifact `{name}` {what}"));
        let place = match (artifact.file.as_deref(), artifact.object, artifact.blob) {
            (Some(DATA_FILE), None, None) => {
                let offset = artifact.offset.ok_or_else(|| wrong("has no offset"))?;
                let end = offset.checked_add(artifact.bytes).ok_or_else(|| wrong("ends nowhere"))?;
                if end > data_bytes {
                    return Err(wrong("lies outside of the data file"));
                }
                (None, None, Some(offset))
            }
            (Some(file), None, None) => {
                let stored = match files.get(file) {
                    Some(stored) => *stored,
                    None => {
                        let stored = store_file(depot, ending, name, file).await?;
                        files.insert(file, stored);
                        stored
                    }
                };
                if artifact.offset.unwrap_or(0) != 0 || artifact.bytes != stored.1 {
                    return Err(wrong("is not the whole of its file"));
                }
                (None, Some(stored.0), None)
            }
            (None, Some(object), None) if (object as usize) < left.objects.len() => {
                (Some(object), None, Some(artifact.offset.ok_or_else(|| wrong("has no offset"))?))
            }
            (None, None, Some(blob)) => (None, Some(blob), None),
            _ => return Err(wrong("is neither in a file nor in an earlier object")),
        };
        let (object, blob, offset) = place;
        let HostArtifact { bytes, buffers, encoding, kind, hash, .. } = artifact;
        let (buffers, encoding, kind, hash) = (buffers.clone(), encoding.clone(), kind.clone(), hash.clone());
        placed.insert(name.clone(), Artifact { object, blob, offset, bytes: *bytes, buffers, encoding, kind, hash });
    }
    Ok(placed)
}

async fn store_file(depot: &Depot, ending: &Ending<'_>, name: &str, file: &str) -> Result<(Digest, u64), ResultError> {
    let wrong = |what: &str| ResultError::Host(format!("artifact `{name}` names the file {file:?}, {what}"));
    let folder = ending.task_folder.ok_or_else(|| wrong("but there is no task folder"))?;
    if file.is_empty() || file.starts_with('.') || file.contains(['/', '\0']) {
        return Err(wrong("which is not a plain name"));
    }
    let path = folder.join(file);
    match std::fs::symlink_metadata(&path) {
        Ok(found) if found.is_file() => Ok(depot.put_blob_file(&path).await?),
        _ => Err(wrong("which is no regular file")),
    }
}

/// Writes the object. `None` when one was there.
async fn put(
    depot: &Depot,
    ending: &Ending<'_>,
    data: Data,
    output: OutputPlace<'_>,
    manifest: Manifest,
) -> Result<Option<(Digest, u64)>, ResultError> {
    let link = |digest| ObjectLink { run: ending.task.run, key: ending.key, digest };
    let (put, digest, bytes) = match data {
        Data::Memory(data) => {
            let refers_to = references(&manifest);
            let bytes = Bytes::from(compose(data, output, manifest));
            let (digest, size) = (Digest::of(&bytes), bytes.len() as u64);
            (depot.put_object(&link(digest), refers_to, bytes).await?, digest, size)
        }
        Data::File { path, bytes } => {
            let tail = tail(bytes, output, manifest);
            let file = path.clone();
            let work = move || -> Result<(Digest, u64), StoreError> {
                let written = append(&file, bytes, &tail);
                written.map_err(|source| StoreError::File { action: "write", path: file.display().to_string(), source })?;
                hash_file(&file)
            };
            let (digest, size) = tokio::task::spawn_blocking(work).await.expect("file work does not panic")?;
            (depot.put_object_file(&link(digest), &path).await?, digest, size)
        }
    };
    Ok((put == Put::Stored).then_some((digest, bytes)))
}

/// Writes `tail` behind the first `bytes` bytes, wherever the file ended after an earlier try.
fn append(file: &Path, bytes: u64, tail: &[u8]) -> std::io::Result<()> {
    use std::os::unix::fs::FileExt as _;
    let file = std::fs::File::options().write(true).open(file)?;
    file.set_len(bytes)?;
    file.write_all_at(tail, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Cache;
    use causey_artifacts::{Store, read_artifact, read_output};
    use serde_json::json;

    struct Bench {
        folder: tempfile::TempDir,
        store: Store,
        depot: Depot,
    }

    async fn bench() -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store").to_string_lossy(), false).await.unwrap();
        let depot = Depot::open(store.clone(), &folder.path().join("fetched"), Cache::open(folder.path().join("cache"))).await.unwrap();
        std::fs::create_dir(folder.path().join("task")).unwrap();
        Bench { folder, store, depot }
    }

    const KEY: &str = "00112233445566778899aabbccddeeff";

    fn ending(folder: &Path) -> Ending<'_> {
        let task = TaskNote {
            run: "0199aaaa-0000-7000-8000-000000000000".parse().unwrap(),
            run_name: "brisk-otter-41".parse().unwrap(),
            flow: "Hello".parse().unwrap(),
            step: "work".parse().unwrap(),
            path: causey_protocol::id::Path(vec![]),
            visit: 0,
            attempt: 0,
        };
        let (started, ended) = (Timestamp(1), Timestamp(2));
        Ending { task, key: KEY.parse().unwrap(), task_folder: Some(folder), output: Output::default(), started, ended, content: true }
    }

    fn finished(fields: &serde_json::Value) -> Ended {
        let mut line = json!({"key": KEY, "next": ["end"], "foreach": null, "objects": [], "artifacts": {}, "data": "", "publish": []});
        line.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        Ended::Finished(Box::new(serde_json::from_value(line).unwrap()))
    }

    fn entry(file: &str, bytes: usize) -> serde_json::Value {
        json!({"file": file, "offset": 0, "bytes": bytes, "encoding": "bytes", "type": "bytes", "hash": "00"})
    }

    #[tokio::test]
    async fn a_result_is_stored_and_repeated_by_the_next_delivery() {
        let bench = bench().await;
        let task = bench.folder.path().join("task");
        let start = json!([{"flow": "Other", "wait": false}]);
        let ended = || finished(&json!({"artifacts": {"x": entry("data", 3)}, "data": BASE64_STANDARD.encode("abc"), "start": start}));
        let first = conclude(&bench.depot, &ending(&task), ended()).await;
        let Outcome::Succeeded(success) = &first else { panic!("{first:?}") };
        assert_eq!((success.next[0].as_str(), success.children[0].flow.as_str(), success.children[0].wait), ("end", "Other", false));
        // A second delivery ran too and ended otherwise: the stored result counts.
        let again = conclude(&bench.depot, &ending(&task), finished(&json!({"next": []}))).await;
        assert_eq!(first, again);
        let object = bench.depot.stored_result(ending(&task).task.run, &KEY.parse().unwrap()).await.unwrap().unwrap();
        assert!(success.content.is_some());
        assert_eq!(stored_outcome(&object, true), first);
        assert_eq!(read_artifact(&bench.store, &object, "x").await.unwrap(), "abc");
        assert!(read_output(&bench.store, &object).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn large_values_become_blobs_and_a_large_data_file_becomes_the_object() {
        let bench = bench().await;
        let task = bench.folder.path().join("task");
        let size = usize::try_from(DATA_IN_MEMORY_BYTES_MAX).unwrap() + 100;
        std::fs::write(task.join("big-0"), vec![5; 2_000_000]).unwrap();
        std::fs::write(task.join("data"), vec![6; size]).unwrap();
        let artifacts = json!({"big": entry("big-0", 2_000_000), "same": entry("big-0", 2_000_000), "small": entry("data", size)});
        let outcome = conclude(&bench.depot, &ending(&task), finished(&json!({"artifacts": artifacts, "data": null}))).await;
        let Outcome::Succeeded(success) = &outcome else { panic!("{outcome:?}") };
        let object = bench.depot.stored_result(ending(&task).task.run, &KEY.parse().unwrap()).await.unwrap().unwrap();
        assert_eq!((object.digest(), object.size()), (success.digest, success.bytes));
        assert_eq!(read_artifact(&bench.store, &object, "big").await.unwrap(), vec![5; 2_000_000]);
        assert_eq!(read_artifact(&bench.store, &object, "same").await.unwrap(), vec![5; 2_000_000]);
        assert_eq!(read_artifact(&bench.store, &object, "small").await.unwrap(), vec![6; size]);
    }

    #[tokio::test]
    async fn a_result_that_breaks_the_protocol_fails_the_attempt() {
        for artifacts in [
            json!({"x": entry("data", 9)}),
            json!({"x": entry("../data", 9)}),
            json!({"x": entry("missing", 9)}),
            json!({"x": {"object": 0, "offset": 0, "bytes": 1, "encoding": "bytes"}}),
            json!({"x": {"bytes": 1, "encoding": "bytes"}}),
        ] {
            let bench = bench().await;
            let task = bench.folder.path().join("task");
            let outcome = conclude(&bench.depot, &ending(&task), finished(&json!({"artifacts": artifacts}))).await;
            let Outcome::Failed(failure) = outcome else { panic!("{outcome:?}") };
            assert!(failure.error.message.contains("artifact `x`"), "{}", failure.error.message);
            assert!(failure.digest.is_some());
        }
    }

    #[tokio::test]
    async fn more_than_a_report_holds_about_runs_to_be_started_fails_the_attempt_for_good() {
        let bench = bench().await;
        let task = bench.folder.path().join("task");
        let start = json!([{"flow": "Other", "parameters": {"text": "x".repeat(70_000)}}]);
        let outcome = conclude(&bench.depot, &ending(&task), finished(&json!({"start": start}))).await;
        let Outcome::Failed(failure) = outcome else { panic!("{outcome:?}") };
        assert_eq!((failure.kind, failure.error.kind.as_str()), (FailureKind::Permanent, "CSY-2110"));
    }

    #[tokio::test]
    async fn a_pickled_model_is_not_published_without_consent() {
        let bench = bench().await;
        let task = bench.folder.path().join("task");
        let publish = json!([{"model": "demand", "artifact": "x", "format": "pickle"}]);
        let ended = finished(&json!({"artifacts": {"x": entry("data", 0)}, "publish": publish}));
        let outcome = conclude(&bench.depot, &ending(&task), ended).await;
        let Outcome::Failed(failure) = outcome else { panic!("{outcome:?}") };
        assert_eq!(failure.error.kind, "CSY-2105");
        assert_eq!(failure.error.message, "model `demand` is a pickle, which runs code wherever it is loaded");
    }
}
