//! Reads objects, artifacts and output out of a store, comparing every digest on the way: for the coordinator's API and for workers.

use bytes::Bytes;
use causey_protocol::artifact::{ObjectRef, blob_path};
use causey_protocol::id::Digest;

use crate::error::{ObjectError, ReadError};
use crate::object::{Object, ObjectLink, OutputEntry, Where};
use crate::store::Store;

/// A piece of output in the order in which it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Microseconds since the Unix epoch.
    pub micros: u64,
    /// Whether it was written to standard error.
    pub is_error: bool,
    pub text: String,
}

/// An attempt's object.
///
/// # Errors
/// [`ReadError`] when it is not there or not what the reference says.
pub async fn read_object(store: &Store, object: &ObjectRef) -> Result<Object, ReadError> {
    read_linked(store, &ObjectLink { run: object.run, key: object.key, digest: object.digest }).await
}

async fn read_linked(store: &Store, link: &ObjectLink) -> Result<Object, ReadError> {
    let path = link.path();
    let bytes = store.get(&path).await?.ok_or_else(|| ReadError::Missing { path: path.clone() })?;
    Object::verified(bytes, &link.digest).map_err(|source| ReadError::Damaged { path, source })
}

/// The bytes of one artifact, wherever they are.
///
/// # Errors
/// [`ReadError`] when it is not there or not what the references say.
pub async fn read_artifact(store: &Store, object: &Object, name: &str) -> Result<Bytes, ReadError> {
    let here = || format!("artifact `{name}` of {}", object.manifest.task.step);
    match object.locate(name).map_err(|source| ReadError::Damaged { path: here(), source })? {
        Where::Here(bytes) => Ok(bytes),
        Where::Blob { digest, bytes } => read_blob(store, &digest, bytes).await,
        Where::There { object: link, offset, bytes } => {
            let holder = read_linked(store, &link).await?;
            let outside = || ObjectError::ArtifactPlace { name: name.to_owned() };
            holder.slice(offset, bytes).ok_or_else(|| ReadError::Damaged { path: link.path(), source: outside() })
        }
    }
}

async fn read_blob(store: &Store, digest: &Digest, bytes: u64) -> Result<Bytes, ReadError> {
    let path = blob_path(digest);
    let found = store.get(&path).await?.ok_or_else(|| ReadError::Missing { path: path.clone() })?;
    if found.len() as u64 != bytes || Digest::of(&found) != *digest {
        return Err(ReadError::Damaged { path, source: ObjectError::Digest { expected: *digest } });
    }
    Ok(found)
}

/// What the attempt printed.
///
/// # Errors
/// [`ReadError`] when it is not there or not what its format promises.
pub async fn read_output(store: &Store, object: &Object) -> Result<Vec<Chunk>, ReadError> {
    let path = || format!("output of {}", object.manifest.task.step);
    let section = match object.manifest.output {
        Some(OutputEntry { blob: Some(digest), bytes, .. }) => read_blob(store, &digest, bytes).await?,
        _ => inline_output(object).map_err(|source| ReadError::Damaged { path: path(), source })?,
    };
    read_chunks(&section).map_err(|source| ReadError::Damaged { path: path(), source })
}

/// The output section inside the object; empty when there is none.
pub(crate) fn inline_output(object: &Object) -> Result<Bytes, ObjectError> {
    match object.manifest.output {
        Some(OutputEntry { offset: Some(offset), bytes, .. }) => object.slice(offset, bytes).ok_or(ObjectError::Output),
        _ => Ok(Bytes::new()),
    }
}

/// The chunks of an output section.
///
/// # Errors
/// [`ObjectError`] for bytes that are no such section.
pub fn read_chunks(section: &[u8]) -> Result<Vec<Chunk>, ObjectError> {
    let lines = section.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let read = |line| {
        let (micros, stream, text): (u64, String, String) = serde_json::from_slice(line).map_err(|_| ObjectError::Output)?;
        match stream.as_str() {
            "o" => Ok(Chunk { micros, is_error: false, text }),
            "e" => Ok(Chunk { micros, is_error: true, text }),
            _ => Err(ObjectError::Output),
        }
    };
    lines.map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_keep_their_order_and_stream() {
        let read = read_chunks(b"[1,\"o\",\"a\\n\"]\n[2,\"e\",\"b\"]\n").unwrap();
        let expected = [Chunk { micros: 1, is_error: false, text: "a\n".into() }, Chunk { micros: 2, is_error: true, text: "b".into() }];
        assert_eq!(read, expected);
        assert!(read_chunks(b"[1,\"x\",\"a\"]").is_err());
        assert!(read_chunks(b"{}").is_err());
    }
}
