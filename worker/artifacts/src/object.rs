//! An attempt's object as data: its manifest and how to find things in its bytes. Format: `docs/protocol.md` §2. Reading is
//! total: any bytes give an object or an error, and nothing is allocated on the word of a length field.

use std::collections::BTreeMap;

use bytes::Bytes;
use causey_protocol::artifact::object_path;
use causey_protocol::flow::STEPS_MAX;
use causey_protocol::gate::ChildStart;
use causey_protocol::id::{ContentId, Digest, FlowName, Path, RunId, RunName, StepName, TaskKey, Timestamp, hash_fields};
use causey_protocol::task::{ErrorInfo, FailureKind, Publication};
use serde::{Deserialize, Serialize};

use crate::error::ObjectError;

/// The last bytes of every object.
pub(crate) const MARK: &[u8; 8] = b"CAUSEY1\n";
pub(crate) const FOOTER_BYTES: usize = 24;

/// What stands at the end of an object.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    pub format: u32,
    pub task: TaskNote,
    /// Objects that hold the bytes of inherited artifacts.
    #[serde(default)]
    pub objects: Vec<ObjectLink>,
    #[serde(default)]
    pub artifacts: BTreeMap<String, Artifact>,
    #[serde(default)]
    pub output: Option<OutputEntry>,
    #[serde(default)]
    pub error: Option<ErrorInfo>,
    #[serde(default)]
    pub next: Vec<StepName>,
    #[serde(default)]
    pub foreach: Option<u32>,
    /// What a worker needs to repeat the attempt's report when it finds the object.
    #[serde(default)]
    pub report: Option<ReportNote>,
}

impl Manifest {
    /// The blobs this object refers to, each once.
    #[must_use]
    pub fn blobs(&self) -> Vec<Digest> {
        let output = self.output.and_then(|output| output.blob);
        let mut found: Vec<Digest> = self.artifacts.values().filter_map(|artifact| artifact.blob).chain(output).collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// What the attempt left, told by the hashes of its artifacts and the way it went on: the same for equal values whichever run made
    /// them. `None` when an artifact has no hash.
    #[must_use]
    pub fn content(&self) -> Option<ContentId> {
        let mut fields: Vec<&[u8]> = Vec::with_capacity(self.artifacts.len() * 3 + self.next.len() + 1);
        for (name, artifact) in &self.artifacts {
            if artifact.hash.is_empty() {
                return None;
            }
            fields.extend([name.as_bytes(), artifact.encoding.as_bytes(), artifact.hash.as_bytes()]);
        }
        let count = self.foreach.map(u32::to_le_bytes);
        fields.push(count.as_ref().map_or(&[][..], |count| count));
        fields.extend(self.next.iter().map(|step| step.as_str().as_bytes()));
        Some(ContentId(hash_fields("causey content v1", &fields)))
    }
}

/// The attempt that left an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskNote {
    pub run: RunId,
    pub run_name: RunName,
    pub flow: FlowName,
    pub step: StepName,
    pub path: Path,
    pub visit: u32,
    pub attempt: u32,
}

/// What a report says beyond `next`, `foreach` and `error`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReportNote {
    pub started: Timestamp,
    pub ended: Timestamp,
    /// `None` for a success.
    #[serde(default)]
    pub failure: Option<FailureKind>,
    #[serde(default)]
    pub publications: Vec<Publication>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub children: Vec<ChildStart>,
}

/// An object and what it must contain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectLink {
    pub run: RunId,
    pub key: TaskKey,
    pub digest: Digest,
}

impl ObjectLink {
    /// The object's path in the artifact store.
    #[must_use]
    pub fn path(&self) -> String {
        object_path(self.run, &self.key)
    }
}

/// A named value: where its bytes are and how to read them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    /// Index into the manifest's `objects`: the bytes are in that object at `offset`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<u32>,
    /// The bytes are the whole of `cas/<digest>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blob: Option<Digest>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    pub bytes: u64,
    /// Offset and length of the pickle stream, then of each out-of-band buffer, relative to the artifact's first byte.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub buffers: Option<Vec<(u64, u64)>>,
    pub encoding: String,
    #[serde(rename = "type", default)]
    pub kind: String,
    #[serde(default)]
    pub hash: String,
}

/// Where the output of an attempt is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputEntry {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blob: Option<Digest>,
    pub bytes: u64,
}

/// Where the bytes of an artifact are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Where {
    /// In this object.
    Here(Bytes),
    /// In another attempt's object, at this place.
    There { object: ObjectLink, offset: u64, bytes: u64 },
    /// The whole of a blob.
    Blob { digest: Digest, bytes: u64 },
}

/// An object that was read.
#[derive(Clone, Debug)]
pub struct Object {
    pub manifest: Manifest,
    bytes: Bytes,
}

impl Object {
    /// Reads an object whose bytes are already known to be right.
    ///
    /// # Errors
    /// [`ObjectError`] for bytes that are no object.
    pub fn read(bytes: Bytes) -> Result<Self, ObjectError> {
        let footer_at = bytes.len().checked_sub(FOOTER_BYTES).ok_or(ObjectError::Truncated { bytes: bytes.len() })?;
        let footer = &bytes[footer_at..];
        if &footer[16..] != MARK {
            return Err(ObjectError::Footer);
        }
        let number = |at: usize| u64::from_le_bytes(footer[at..at + 8].try_into().expect("eight bytes"));
        let (length, offset) = (number(0), number(8));
        let place = || ObjectError::ManifestPlace { offset, length, bytes: bytes.len() };
        let manifest = slice(&bytes[..footer_at], offset, length).ok_or_else(place)?;
        let manifest: Manifest = serde_json::from_slice(manifest).map_err(ObjectError::Manifest)?;
        match manifest.format {
            1 if manifest.next.len() <= STEPS_MAX => Ok(Self { manifest, bytes }),
            found => Err(ObjectError::Format { found }),
        }
    }

    /// Reads an object after comparing its digest.
    ///
    /// # Errors
    /// [`ObjectError`] for other bytes, or bytes that are no object.
    pub fn verified(bytes: Bytes, digest: &Digest) -> Result<Self, ObjectError> {
        if Digest::of(&bytes) == *digest { Self::read(bytes) } else { Err(ObjectError::Digest { expected: *digest }) }
    }

    /// The size of the whole object in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// The digest of the whole object.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(&self.bytes)
    }

    /// Bytes of this object, as another object's `There` names them; `None` when the place is outside.
    #[must_use]
    pub fn slice(&self, offset: u64, bytes: u64) -> Option<Bytes> {
        slice(&self.bytes, offset, bytes).map(|found| self.bytes.slice_ref(found))
    }

    /// Where the bytes of an artifact are.
    ///
    /// # Errors
    /// [`ObjectError`] when there is no such artifact, or it refers to a place that does not exist.
    pub fn locate(&self, name: &str) -> Result<Where, ObjectError> {
        let artifact = self.manifest.artifacts.get(name).ok_or_else(|| ObjectError::NoArtifact { name: name.to_owned() })?;
        let outside = || ObjectError::ArtifactPlace { name: name.to_owned() };
        match (artifact.blob, artifact.object, artifact.offset) {
            (Some(digest), None, _) => Ok(Where::Blob { digest, bytes: artifact.bytes }),
            (None, Some(index), Some(offset)) => {
                let object = self.manifest.objects.get(index as usize).ok_or_else(outside)?;
                Ok(Where::There { object: *object, offset, bytes: artifact.bytes })
            }
            (None, None, Some(offset)) => self.slice(offset, artifact.bytes).map(Where::Here).ok_or_else(outside),
            _ => Err(outside()),
        }
    }
}

fn slice(bytes: &[u8], offset: u64, length: u64) -> Option<&[u8]> {
    let from = usize::try_from(offset).ok()?;
    let to = from.checked_add(usize::try_from(length).ok()?)?;
    bytes.get(from..to)
}
