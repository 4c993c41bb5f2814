//! Writes an attempt's object. The data section comes as the host laid it out, from offset 0; what follows is the *tail*: output,
//! manifest, footer. The tail can be appended to a file just as well as to bytes in memory.

use causey_protocol::id::Digest;

use crate::object::{FOOTER_BYTES, MARK, Manifest, OutputEntry};

/// Where the output of the attempt goes.
#[derive(Clone, Copy, Debug)]
pub enum OutputPlace<'a> {
    Nothing,
    /// Into the object.
    Here(&'a [u8]),
    /// It is stored as a blob already.
    Blob {
        digest: Digest,
        bytes: u64,
    },
}

/// A whole object from its data section. `manifest.output` is set here.
///
/// # Panics
/// Never: a manifest has a JSON form.
#[must_use]
pub fn compose(mut data: Vec<u8>, output: OutputPlace<'_>, manifest: Manifest) -> Vec<u8> {
    let tail = tail(data.len() as u64, output, manifest);
    data.reserve_exact(tail.len());
    data.extend_from_slice(&tail);
    data
}

/// What stands behind a data section of `data_bytes` bytes.
///
/// # Panics
/// Never: a manifest has a JSON form.
#[must_use]
pub fn tail(data_bytes: u64, output: OutputPlace<'_>, mut manifest: Manifest) -> Vec<u8> {
    let section = match output {
        OutputPlace::Here(section) => section,
        OutputPlace::Nothing | OutputPlace::Blob { .. } => &[],
    };
    manifest.output = match output {
        OutputPlace::Nothing => None,
        OutputPlace::Here(section) => Some(OutputEntry { offset: Some(data_bytes), blob: None, bytes: section.len() as u64 }),
        OutputPlace::Blob { digest, bytes } => Some(OutputEntry { offset: None, blob: Some(digest), bytes }),
    };
    let mut out = Vec::with_capacity(section.len() + 1024 + FOOTER_BYTES);
    out.extend_from_slice(section);
    let manifest_at = data_bytes + out.len() as u64;
    serde_json::to_writer(&mut out, &manifest).expect("a manifest has a JSON form");
    let length = data_bytes + out.len() as u64 - manifest_at;
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&manifest_at.to_le_bytes());
    out.extend_from_slice(MARK);
    out
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::object::{Artifact, Object, ObjectLink, TaskNote, Where};

    fn artifact(offset: u64, bytes: u64) -> Artifact {
        let (encoding, kind, hash) = ("pickle5".into(), "int".into(), "00".into());
        Artifact { object: None, blob: None, offset: Some(offset), bytes, buffers: None, encoding, kind, hash }
    }

    fn manifest() -> Manifest {
        let digest = Digest::of(b"x");
        let run = "0199aaaa-0000-7000-8000-000000000000".parse().unwrap();
        let key = "00112233445566778899aabbccddeeff".parse().unwrap();
        let task = TaskNote {
            run,
            run_name: "brisk-otter-41".parse().unwrap(),
            flow: "Hello".parse().unwrap(),
            step: "work".parse().unwrap(),
            path: causey_protocol::id::Path(vec![3]),
            visit: 0,
            attempt: 1,
        };
        let artifacts = [
            ("here".into(), artifact(64, 3)),
            ("there".into(), Artifact { object: Some(0), ..artifact(7, 9) }),
            ("blob".into(), Artifact { blob: Some(digest), offset: None, ..artifact(0, 1) }),
            ("outside".into(), artifact(u64::MAX, 2)),
            ("nowhere".into(), Artifact { object: Some(1), ..artifact(0, 1) }),
        ];
        let objects = vec![ObjectLink { run, key, digest }];
        let artifacts = artifacts.into();
        Manifest { format: 1, task, objects, artifacts, output: None, error: None, next: vec![], foreach: None, report: None }
    }

    fn object() -> Vec<u8> {
        let mut data = vec![0; 64];
        data.extend_from_slice(b"abc");
        compose(data, OutputPlace::Here(b"[1,\"o\",\"hi\\n\"]\n"), manifest())
    }

    #[test]
    fn what_was_composed_is_found_again() {
        let object = Object::read(object().into()).unwrap();
        assert_eq!(object.manifest, Manifest { output: object.manifest.output, ..manifest() });
        assert_eq!(object.locate("here").unwrap(), Where::Here(Bytes::from_static(b"abc")));
        assert!(matches!(object.locate("there").unwrap(), Where::There { offset: 7, bytes: 9, .. }));
        assert!(matches!(object.locate("blob").unwrap(), Where::Blob { bytes: 1, .. }));
        assert_eq!(object.manifest.blobs(), [Digest::of(b"x")]);
        for name in ["outside", "nowhere", "missing"] {
            assert!(object.locate(name).is_err(), "{name}");
        }
    }

    /// Row 20 of the fault model.
    #[test]
    fn every_truncation_is_an_error() {
        let whole = object();
        for length in 0..whole.len() {
            assert!(Object::read(whole[..length].to_vec().into()).is_err(), "{length} bytes");
        }
    }

    /// Row 21 of the fault model.
    #[test]
    fn a_flipped_byte_is_seen_by_the_digest() {
        let mut bytes = object();
        let digest = Digest::of(&bytes);
        bytes[65] ^= 1;
        assert!(Object::verified(bytes.into(), &digest).is_err());
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(change in proptest::collection::vec((0usize..2048, any::<u8>()), 1..8)) {
            let mut bytes = object();
            let size = bytes.len();
            for (at, byte) in change {
                bytes[at % size] = byte;
            }
            if let Ok(object) = Object::read(bytes.into()) {
                for name in object.manifest.artifacts.keys() {
                    let _ = object.locate(name);
                }
                let _ = crate::read::inline_output(&object);
            }
        }
    }
}
