//! References to what tasks leave in the artifact store. One object per attempt, `runs/<run>/<key>`; large values and code
//! packages by digest, `cas/<digest>`. The format of an object is in `docs/protocol.md` §2.

use serde::{Deserialize, Serialize};

use crate::id::{Digest, RunId, TaskKey};

/// Where an attempt's object lies and what it must contain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectRef {
    pub run: RunId,
    pub key: TaskKey,
    pub digest: Digest,
    pub bytes: u64,
}

impl ObjectRef {
    /// The object's path in the artifact store.
    #[must_use]
    pub fn path(&self) -> String {
        object_path(self.run, &self.key)
    }
}

/// The path of an attempt's object in the artifact store.
#[must_use]
pub fn object_path(run: RunId, key: &TaskKey) -> String {
    format!("runs/{run}/{key}")
}

/// The path of content-addressed bytes in the artifact store.
#[must_use]
pub fn blob_path(digest: &Digest) -> String {
    format!("cas/{digest}")
}
