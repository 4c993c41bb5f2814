//! The form of snapshots and archive segments: a magic, pieces with their lengths in front, and the BLAKE3 of all that at the end. A
//! flipped bit or a missing end is noticed before anything is believed.

use bytes::Bytes;
use causey_protocol::id::Digest;

/// Why bytes are not a sealed object.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsealed {
    #[error("it does not match its checksum: it is damaged or incomplete")]
    Checksum,
    #[error("it has another format than this version of Causey reads")]
    Format,
    #[error("it ends in the middle of an entry")]
    Short,
}

/// Puts pieces together.
#[derive(Debug)]
pub(crate) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    pub(crate) fn new(magic: &[u8; 16]) -> Self {
        Self { bytes: magic.to_vec() }
    }

    /// Adds a piece of less than 4 GiB.
    pub(crate) fn piece(&mut self, piece: &[u8]) {
        let length = u32::try_from(piece.len()).expect("no entry of a state has 4 GiB");
        self.bytes.extend_from_slice(&length.to_le_bytes());
        self.bytes.extend_from_slice(piece);
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The object, and its own BLAKE3.
    pub(crate) fn seal(mut self) -> (Bytes, Digest) {
        let checksum = Digest::of(&self.bytes);
        self.bytes.extend_from_slice(&checksum.0);
        let digest = Digest::of(&self.bytes);
        (self.bytes.into(), digest)
    }
}

/// Takes pieces apart.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn open(magic: &[u8; 16], bytes: &'a [u8]) -> Result<Self, Unsealed> {
        let (body, checksum) = bytes.split_last_chunk::<32>().ok_or(Unsealed::Checksum)?;
        if Digest::of(body).0 != *checksum {
            return Err(Unsealed::Checksum);
        }
        Ok(Self { rest: body.strip_prefix(magic).ok_or(Unsealed::Format)? })
    }

    /// The next piece; `None` at the end.
    pub(crate) fn piece(&mut self) -> Result<Option<&'a [u8]>, Unsealed> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let (length, rest) = self.rest.split_first_chunk::<4>().ok_or(Unsealed::Short)?;
        let length = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| Unsealed::Short)?;
        let (piece, rest) = rest.split_at_checked(length).ok_or(Unsealed::Short)?;
        self.rest = rest;
        Ok(Some(piece))
    }

    /// The next piece, which must be there.
    pub(crate) fn need(&mut self) -> Result<&'a [u8], Unsealed> {
        self.piece()?.ok_or(Unsealed::Short)
    }
}
