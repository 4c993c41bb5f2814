//! Identities: names people give, digests of content, keys derived from a task's identity. Each has one text form, and one
//! binary form (raw bytes) inside MessagePack.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

/// Microseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// This time plus `micros` microseconds, clamped at the end of time.
    #[must_use]
    pub fn plus_micros(self, micros: u64) -> Self {
        Self(self.0.saturating_add(micros))
    }

    /// Microseconds from `earlier` to this time; 0 when `earlier` is later.
    #[must_use]
    pub fn micros_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Longest name accepted anywhere, in bytes.
pub const NAME_BYTES_MAX: usize = 64;

/// A text that is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {text:?} is not a name: use 1 to {NAME_BYTES_MAX} of the characters A-Z a-z 0-9 _ -")]
pub struct NameError {
    pub kind: &'static str,
    pub text: String,
}

/// Whether `text` may stand in a NATS subject as it is.
#[must_use]
pub fn is_name(text: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks the characters and the length.
            ///
            /// # Errors
            /// [`NameError`] when `text` is not `[A-Za-z0-9_-]{1,64}`.
            pub fn new(text: impl AsRef<str>) -> Result<Self, NameError> {
                let text = text.as_ref();
                if is_name(text) {
                    Ok(Self(text.into()))
                } else {
                    Err(NameError { kind: $kind, text: text.chars().take(100).collect() })
                }
            }

            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                Self::new(text).map_err(D::Error::custom)
            }
        }
    };
}

name!(/** A flow's name: the user's class. */ FlowName, "flow");
name!(/** A step's name within its flow. */ StepName, "step");
name!(/** A worker pool. */ PoolName, "pool");
name!(/** A worker within its pool. */ WorkerName, "worker");
name!(/** A published model. */ ModelName, "model");
name!(/** A signal to a run. */ SignalName, "signal");
name!(/** What a run tells about itself. */ StatusName, "status");
name!(/** The authenticated source of an event: one token of its subject. */ SourceName, "source");
name!(/** The client's id of a request; a retry of the same request repeats it. */ RequestId, "request id");
name!(/** The readable name of a run, such as `brisk-otter-41`. */ RunName, "run name");

/// Bytes as ids are written: two small hexadecimal digits each.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

macro_rules! bytes_id {
    ($(#[$doc:meta])* $name:ident, $size:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $size]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{self}")
            }
        }

        impl FromStr for $name {
            type Err = HexError;
            fn from_str(text: &str) -> Result<Self, HexError> {
                let wrong = || HexError { expected: $size * 2, text: text.chars().take(100).collect() };
                if text.len() != $size * 2 || !text.is_ascii() {
                    return Err(wrong());
                }
                let mut bytes = [0; $size];
                for (place, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
                    let pair = std::str::from_utf8(pair).map_err(|_| wrong())?;
                    *place = u8::from_str_radix(pair, 16).map_err(|_| wrong())?;
                }
                Ok(Self(bytes))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    serializer.serialize_bytes(&self.0)
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                    return text.parse().map_err(D::Error::custom);
                }
                struct Bytes;
                impl<'de> serde::de::Visitor<'de> for Bytes {
                    type Value = [u8; $size];
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        write!(f, "{} bytes", $size)
                    }
                    fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<Self::Value, E> {
                        bytes.try_into().map_err(|_| E::invalid_length(bytes.len(), &self))
                    }
                }
                deserializer.deserialize_bytes(Bytes).map(Self)
            }
        }
    };
}

/// A text that is not the hexadecimal form of an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {expected} hexadecimal digits")]
pub struct HexError {
    pub expected: usize,
    pub text: String,
}

bytes_id!(/** BLAKE3-256 of some content. */ Digest, 32);
bytes_id!(/** BLAKE3-128 of (step, path, visit, attempt): names an attempt's queue subject and its object. */ TaskKey, 16);
bytes_id!(/** BLAKE3-128 of what a run stems from; one origin, one run. */ Origin, 16);
bytes_id!(/** BLAKE3-128 of (run, task, topic, ordinal). */ NotificationId, 16);
bytes_id!(/** BLAKE3-128 of (run, step, path, visit), without the attempt: given to user code. */ IdempotencyKey, 16);
bytes_id!(/** BLAKE3-128 of what a task left, without anything of the run that made it: equal contents, equal ids. */ ContentId, 16);
bytes_id!(/** BLAKE3-128 of what the result of a memoised task depends on; one key, one result. */ MemoKey, 16);

impl Digest {
    /// The digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

/// Hashes a list of fields to 128 bits. Each field is preceded by its length, so no two different lists collide by
/// concatenation; `domain` keeps the kinds of id apart.
#[must_use]
pub fn hash_fields(domain: &str, fields: &[&[u8]]) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new_derive_key(domain);
    for field in fields {
        hasher.update(&(field.len() as u64).to_le_bytes());
        hasher.update(field);
    }
    let mut out = [0; 16];
    hasher.finalize_xof().fill(&mut out);
    out
}

/// A run's id: a UUIDv7 whose time is the decision's and whose other bits come from the origin.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunId(pub Uuid);

impl RunId {
    /// The id of the run that `origin` starts at `now`.
    #[must_use]
    pub fn derive(now: Timestamp, origin: &Origin) -> Self {
        let mut bytes = [0; 16];
        bytes[..6].copy_from_slice(&(now.0 / 1_000).to_be_bytes()[2..]);
        bytes[6..].copy_from_slice(&origin.0[..10]);
        bytes[6] = (bytes[6] & 0x0f) | 0x70;
        bytes[8] = (bytes[8] & 0x3f) | 0x80;
        Self(Uuid::from_bytes(bytes))
    }

    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }

    #[must_use]
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.into_bytes()
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromStr for RunId {
    type Err = uuid::Error;
    fn from_str(text: &str) -> Result<Self, uuid::Error> {
        Uuid::parse_str(text).map(Self)
    }
}

/// The indices of all enclosing foreach levels, outermost first; empty outside any foreach.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Path(pub Vec<u32>);

impl Path {
    /// The path of item `index` of a foreach opened on this path.
    #[must_use]
    pub fn child(&self, index: u32) -> Self {
        let mut indices = Vec::with_capacity(self.0.len() + 1);
        indices.extend_from_slice(&self.0);
        indices.push(index);
        Self(indices)
    }

    /// Whether both are items of the same foreach.
    #[must_use]
    pub fn is_beside(&self, other: &Self) -> bool {
        match (self.0.split_last(), other.0.split_last()) {
            (Some((_, outer)), Some((_, other))) => outer == other,
            _ => false,
        }
    }

    /// This path without its innermost level, and that level's index; `None` outside any foreach.
    #[must_use]
    pub fn split_last(&self) -> Option<(Self, u32)> {
        let (last, rest) = self.0.split_last()?;
        Some((Self(rest.to_vec()), *last))
    }

    /// A task's name within its step: the path, and for recursion the visit behind a `~`.
    #[must_use]
    pub fn task_name(&self, visit: u32) -> String {
        if visit == 0 { self.to_string() } else { format!("{self}~{visit}") }
    }
}

impl fmt::Display for Path {
    /// The foreach indices joined by `.`; `0` outside one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("0");
        }
        for (place, index) in self.0.iter().enumerate() {
            if place > 0 {
                f.write_str(".")?;
            }
            write!(f, "{index}")?;
        }
        Ok(())
    }
}

/// One execution of a step in a run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TaskId {
    pub step: StepName,
    pub path: Path,
    /// How often recursion has entered this step on this path.
    pub visit: u32,
}

impl TaskId {
    fn fields<'a>(&'a self, path: &'a [u8], visit: &'a [u8; 4]) -> [&'a [u8]; 3] {
        [self.step.as_str().as_bytes(), path, visit]
    }

    fn path_bytes(&self) -> Vec<u8> {
        self.path.0.iter().flat_map(|index| index.to_le_bytes()).collect()
    }

    /// The key of one attempt at this task; distinct tasks and attempts of a run have distinct keys.
    #[must_use]
    pub fn key(&self, attempt: u32) -> TaskKey {
        let (path, visit) = (self.path_bytes(), self.visit.to_le_bytes());
        let [step, path, visit] = self.fields(&path, &visit);
        TaskKey(hash_fields("causey task key v1", &[step, path, visit, &attempt.to_le_bytes()]))
    }

    /// The key that user code may hand to outside systems: the same for all attempts.
    #[must_use]
    pub fn idempotency_key(&self, run: RunId) -> IdempotencyKey {
        let (path, visit) = (self.path_bytes(), self.visit.to_le_bytes());
        let [step, path, visit] = self.fields(&path, &visit);
        IdempotencyKey(hash_fields("causey idempotency key v1", &[run.0.as_bytes(), step, path, visit]))
    }

    /// The id of a notification this task caused: the same over attempts, failover and repair.
    #[must_use]
    pub fn notification_id(&self, run: RunId, topic: &str, ordinal: u32) -> NotificationId {
        let (path, visit) = (self.path_bytes(), self.visit.to_le_bytes());
        let [step, path, visit] = self.fields(&path, &visit);
        let ordinal = ordinal.to_le_bytes();
        let fields: [&[u8]; 6] = [run.0.as_bytes(), step, path, visit, topic.as_bytes(), &ordinal];
        NotificationId(hash_fields("causey notification v1", &fields))
    }
}

impl fmt::Display for TaskId {
    /// `step/TASK` as in people's paths: `work/3`, `work/3.1~2`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.step, self.path.task_name(self.visit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_id_is_a_version_7_uuid_with_the_time_of_the_decision() {
        let id = RunId::derive(Timestamp(1_700_000_000_123_456), &Origin([0xff; 16]));
        assert_eq!(id.0.get_version_num(), 7);
        assert_eq!(&id.to_string()[..13], "018bcfe5-687b");
    }

    #[test]
    fn distinct_tasks_have_distinct_keys() {
        let task = |step: &str, path: &[u32]| TaskId { step: StepName::new(step).unwrap(), path: Path(path.to_vec()), visit: 0 };
        let keys = [task("a", &[]).key(0), task("a", &[]).key(1), task("a", &[0]).key(0), task("a0", &[]).key(0)];
        let distinct: std::collections::BTreeSet<_> = keys.iter().collect();
        assert_eq!(distinct.len(), keys.len());
    }

    #[test]
    fn a_name_with_a_dot_or_no_character_at_all_is_refused() {
        assert!(FlowName::new("a.b").is_err());
        assert!(FlowName::new("").is_err());
        assert!(FlowName::new("x".repeat(65)).is_err());
        assert_eq!(FlowName::new("title-demand_2").unwrap().as_str(), "title-demand_2");
    }

    #[test]
    fn ids_read_back_from_both_their_forms() {
        let digest = Digest::of(b"x");
        assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
        let json = serde_json::to_string(&digest).unwrap();
        assert_eq!(serde_json::from_str::<Digest>(&json).unwrap(), digest);
        let packed = rmp_serde::to_vec(&digest).unwrap();
        assert_eq!(packed.len(), 34);
        assert_eq!(rmp_serde::from_slice::<Digest>(&packed).unwrap(), digest);
    }
}
