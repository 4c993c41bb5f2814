//! MessagePack with a version byte in front. Structs travel by field name, so that a reader of another version can skip what it
//! does not know; nesting and size are bounded before anything is built.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The first byte of every message written by this version.
pub const VERSION: u8 = 1;

/// Largest message on any subject but the log, in bytes; larger content goes to the artifact store.
pub const MESSAGE_BYTES_MAX: usize = 256 * 1024;

/// Largest dispatch: parameters, starting events and signals of a run may each have their full size.
pub const DISPATCH_BYTES_MAX: usize = 512 * 1024;

/// Largest turn on the log, in bytes.
pub const TURN_BYTES_MAX: usize = 1024 * 1024;

/// Deepest nesting a decoder follows.
pub const DEPTH_MAX: usize = 64;

/// Why bytes are not a message.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("the message is empty")]
    Empty,
    #[error("the message has format version {found}; this program reads {VERSION}")]
    Version { found: u8 },
    #[error("the message has {bytes} bytes; at most {max} are accepted")]
    TooLarge { bytes: usize, max: usize },
    #[error("the message is not what its subject promises")]
    Malformed(#[source] rmp_serde::decode::Error),
}

/// Encodes `message` behind the version byte.
///
/// # Panics
/// Never for the types of this crate: all of them have a MessagePack form.
pub fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    rmp_serde::encode::write_named(&mut bytes, message).expect("types of this crate serialize");
    bytes
}

/// Decodes what [`encode`] wrote, refusing anything above `bytes_max`.
///
/// # Errors
/// [`DecodeError`] for any bytes that are not such a message; never panics.
pub fn decode<T: DeserializeOwned>(bytes: &[u8], bytes_max: usize) -> Result<T, DecodeError> {
    if bytes.len() > bytes_max {
        return Err(DecodeError::TooLarge { bytes: bytes.len(), max: bytes_max });
    }
    match bytes.split_first() {
        None => Err(DecodeError::Empty),
        Some((&VERSION, body)) => {
            let mut deserializer = rmp_serde::Deserializer::from_read_ref(body);
            deserializer.set_max_depth(DEPTH_MAX);
            T::deserialize(&mut deserializer).map_err(DecodeError::Malformed)
        }
        Some((&found, _)) => Err(DecodeError::Version { found }),
    }
}
