//! Code packages: stored under the digest of their bytes, before a run may name them.

use axum::extract::{FromRequest as _, Request, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use causey_artifacts::Put;
use causey_artifacts::archive::{ArchiveError, check_archive};
use causey_protocol::artifact::blob_path;
use causey_protocol::id::Digest;
use causey_protocol::problem::{Code, Problem};
use serde_json::{Value, json};

use super::context::{Context, not_found};
use super::extract::{Content, Named, Reply};
use super::refusal::Refusal;

/// Largest code package, in bytes.
pub(super) const PACKAGE_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Packages received at the same time; each is held in memory until it is stored.
pub(super) const UPLOADS_MAX: usize = 2;

pub(super) async fn put(State(context): State<Context>, Named(digest): Named<Digest>, request: Request) -> Result<Reply<Value>, Refusal> {
    let _place = context.uploads.acquire().await.expect("the semaphore is never closed");
    let Content(bytes) = Content::from_request(request, &()).await.map_err(|refusal| match refusal.problem.code {
        Code::TOO_LARGE => refusal.hint("keep data out of the folder of the flow file; 256 MiB are accepted"),
        _ => refusal,
    })?;
    let hashed = bytes.clone();
    // Hashing 256 MiB takes a while; it leaves the runtime's threads.
    let look = move || (Digest::of(&hashed), check_archive(&hashed[..]));
    let (found, checked) = tokio::task::spawn_blocking(look).await.expect("neither hashing nor reading panics");
    if found != digest {
        let problem = Problem::new(Code::PACKAGE_DIGEST, format!("the {} bytes have the digest {found}, not {digest}", bytes.len()));
        return Err(problem.hint("send the package again; digests are BLAKE3-256").into());
    }
    match checked {
        // What is no archive harms nobody and fails by name where it is to be unpacked.
        Ok(()) | Err(ArchiveError::Unreadable(_)) => {}
        Err(error @ (ArchiveError::Entry { .. } | ArchiveError::TooLarge { .. })) => {
            let problem = Problem::new(Code::PACKAGE_CONTENT, error.to_string());
            return Err(problem.hint("leave it out of the flow's folder, or put a copy of the file in its place").into());
        }
    }
    let length = bytes.len();
    let stored = context.api.store.put_if_absent(&blob_path(&digest), bytes).await;
    let status = match stored.map_err(|error| Refusal::store("store the package", &error))? {
        Put::Stored => StatusCode::CREATED,
        Put::Present => StatusCode::OK,
    };
    let sequence = context.read().sequence;
    Ok(Reply::ok(sequence, json!({"digest": digest, "bytes": length})).status(status))
}

/// Whether a package is there, so that a client can skip the upload.
pub(super) async fn head(State(context): State<Context>, Named(digest): Named<Digest>) -> Result<impl IntoResponse, Refusal> {
    let found = context.api.store.head(&blob_path(&digest)).await.map_err(|error| Refusal::store("look for the package", &error))?;
    let bytes = found.ok_or_else(|| not_found(format!("no package {digest}"), "send it: PUT /v1/packages/DIGEST"))?;
    Ok([(header::CONTENT_LENGTH, bytes.to_string())])
}
