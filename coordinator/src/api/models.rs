//! Published models: versions and their bytes.

use std::path::PathBuf;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use causey_artifacts::{ReadError, Where, read_artifact, read_object};
use causey_engine::{ModelVersion, State as Committed};
use causey_protocol::artifact::{ObjectRef, blob_path};
use causey_protocol::id::{FlowName, ModelName, RunId, RunName, Timestamp};
use causey_protocol::task::Publication;
use serde::Serialize;
use tokio_util::io::ReaderStream;

use super::context::{Context, Shared, not_found};
use super::extract::{Named, Reply};
use super::refusal::Refusal;

const FORMAT: HeaderName = HeaderName::from_static("causey-model-format");
const VERSION: HeaderName = HeaderName::from_static("causey-model-version");

/// `MODEL` of `docs/protocol.md` §3.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct ModelView {
    name: ModelName,
    version: u32,
    format: String,
    run: RunId,
    run_name: Option<RunName>,
    flow: Option<FlowName>,
    step: String,
    metrics: serde_json::Map<String, serde_json::Value>,
    tags: std::collections::BTreeMap<String, String>,
    description: String,
    published: Timestamp,
    object: ObjectRef,
    artifact: String,
}

#[derive(Debug, Serialize)]
pub(super) struct Models {
    models: Vec<ModelView>,
}

#[derive(Debug, Serialize)]
pub(super) struct Versions {
    name: ModelName,
    versions: Vec<ModelView>,
}

fn view(state: &Committed, found: &ModelVersion) -> ModelView {
    let Publication { model, artifact, format, metrics, tags, description, allow_pickle: _ } = found.publication.clone();
    ModelView {
        name: model,
        version: found.version,
        format,
        run: found.run,
        run_name: state.name_of(found.run).cloned(),
        flow: state.flow_name_of(found.run),
        step: found.step.clone(),
        metrics,
        tags,
        description,
        published: found.at,
        object: found.object,
        artifact,
    }
}

/// The newest version of every model.
pub(super) async fn list(State(context): State<Context>) -> Reply<Models> {
    let state = context.read();
    let models = state.models.values().filter_map(|versions| versions.last()).map(|found| view(&state, found)).collect();
    Reply::ok(state.sequence, Models { models })
}

fn find<'a>(state: &'a Committed, name: &str) -> Result<(ModelName, &'a [ModelVersion]), Refusal> {
    let known = ModelName::new(name).ok().and_then(|name| Some((name.clone(), state.models.get(&name)?.as_slice())));
    known.ok_or_else(|| {
        let shown: String = name.chars().take(100).collect();
        not_found(format!("no model `{shown}` has been published"), "list them: causey models")
    })
}

fn find_version<'a>(state: &'a Committed, name: &str, version: &str) -> Result<&'a ModelVersion, Refusal> {
    let (name, versions) = find(state, name)?;
    let newest = versions.last();
    let found = match version {
        "latest" => newest,
        number => number.parse::<u32>().ok().and_then(|number| versions.iter().find(|found| found.version == number)),
    };
    found.ok_or_else(|| {
        let hint = format!("the newest is {}; `latest` names it", newest.map_or(0, |newest| newest.version));
        let shown: String = version.chars().take(100).collect();
        not_found(format!("model {name} has no version `{shown}`"), &hint)
    })
}

pub(super) async fn versions(State(context): State<Context>, Named(name): Named<String>) -> Result<Reply<Versions>, Refusal> {
    let state = context.read();
    let (name, versions) = find(&state, &name)?;
    let versions = versions.iter().map(|found| view(&state, found)).collect();
    Ok(Reply::ok(state.sequence, Versions { name, versions }))
}

pub(super) async fn show(
    State(context): State<Context>,
    Named((name, version)): Named<(String, String)>,
) -> Result<Reply<ModelView>, Refusal> {
    let state = context.read();
    let found = find_version(&state, &name, &version)?;
    Ok(Reply::ok(state.sequence, view(&state, found)))
}

pub(super) async fn content(State(context): State<Context>, Named((name, version)): Named<(String, String)>) -> Result<Response, Refusal> {
    let found = find_version(&context.read(), &name, &version)?.clone();
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(VERSION, found.version.into());
    // A format is free text of user code; what no header can carry is left out.
    if let Ok(format) = HeaderValue::from_str(&found.publication.format) {
        headers.insert(FORMAT, format);
    }
    let (body, bytes) = open(&context, &found).await.map_err(|error| match error {
        ReadError::Missing { .. } => {
            let what = format!("the bytes of model {name} version {} are no longer in the artifact store", found.version);
            not_found(what, "the store was emptied or replaced; publish the model again")
        }
        ReadError::Damaged { .. } | ReadError::Store(_) => Refusal::store("read the model", &error),
    })?;
    headers.insert(header::CONTENT_LENGTH, bytes.into());
    Ok((headers, body).into_response())
}

/// The model's bytes and their number. A blob of a local store is sent from its file; anything else is read and verified first.
async fn open(shared: &Shared, found: &ModelVersion) -> Result<(Body, u64), ReadError> {
    let store = &shared.api.store;
    let object = read_object(store, &found.object).await?;
    let artifact = &found.publication.artifact;
    if let Ok(Where::Blob { digest, bytes }) = object.locate(artifact)
        && let Some(path) = store.local_path(&blob_path(&digest))
        && let Some(body) = file(path, bytes).await
    {
        return Ok((body, bytes));
    }
    let content = read_artifact(store, &object, artifact).await?;
    let bytes = content.len() as u64;
    Ok((Body::from(content), bytes))
}

async fn file(path: PathBuf, bytes: u64) -> Option<Body> {
    let file = tokio::fs::File::open(path).await.ok()?;
    let length = file.metadata().await.ok()?.len();
    (length == bytes).then(|| Body::from_stream(ReaderStream::with_capacity(file, 256 * 1024)))
}
