//! What can go wrong with a store and with the bytes in it. Each error knows whether the same call may work later.

use std::io;

use causey_protocol::id::Digest;

/// Why a store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{location:?} is no artifact store: give a folder or s3://bucket/prefix")]
    Location { location: String },
    #[error("the environment variable {name} is needed for an artifact store in S3")]
    Credentials { name: &'static str },
    #[error("store.json of the artifact store {location} is damaged: it holds no id")]
    Identity { location: String },
    #[error("the artifact store {location} cannot be opened")]
    Store {
        location: String,
        #[source]
        source: StoreError,
    },
}

/// A failed call to the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{path:?} is no path of an artifact store: use relative parts of A-Z a-z 0-9 _ - .")]
    Path { path: String },
    #[error("cannot {action} {path}{}", hint_of(source))]
    File {
        action: &'static str,
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("cannot {action} {path} in bucket {bucket}: {message}")]
    Bucket { action: &'static str, bucket: String, path: String, message: String, transient: bool },
}

impl StoreError {
    pub(crate) fn file(action: &'static str, path: &std::path::Path, source: io::Error) -> Self {
        Self::File { action, path: path.display().to_string(), source }
    }

    /// Whether the same call may work later without anybody changing anything.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Path { .. } => false,
            Self::File { source, .. } => matches!(
                source.kind(),
                io::ErrorKind::Interrupted
                    | io::ErrorKind::TimedOut
                    | io::ErrorKind::WouldBlock
                    | io::ErrorKind::StorageFull
                    | io::ErrorKind::QuotaExceeded
            ),
            Self::Bucket { transient, .. } => *transient,
        }
    }
}

/// Advice for the errors that people can mend, on its own line.
fn hint_of(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "\nhint: the disk or quota is full; make room, the task is tried again"
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => "\nhint: give this user write access to the store's folder",
        _ => "",
    }
}

/// Why bytes are no object of an attempt.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    #[error("the object has {bytes} bytes, less than its footer")]
    Truncated { bytes: usize },
    #[error("the object does not end with its mark: it is cut off or no object")]
    Footer,
    #[error("the manifest at {offset} with {length} bytes lies outside of the object's {bytes} bytes")]
    ManifestPlace { offset: u64, length: u64, bytes: usize },
    #[error("the manifest cannot be read")]
    Manifest(#[source] serde_json::Error),
    #[error("the object has format {found}; this program reads 1")]
    Format { found: u32 },
    #[error("the content does not match its digest {expected}: it is damaged")]
    Digest { expected: Digest },
    #[error("the object holds no artifact `{name}`")]
    NoArtifact { name: String },
    #[error("artifact `{name}` refers to a place that does not exist")]
    ArtifactPlace { name: String },
    #[error("the output section is not what its format promises")]
    Output,
}

/// Why something could not be read from a store.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("{path} is not in the artifact store")]
    Missing { path: String },
    #[error("{path} is damaged")]
    Damaged {
        path: String,
        #[source]
        source: ObjectError,
    },
    #[error(transparent)]
    Store(#[from] StoreError),
}
