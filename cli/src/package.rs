//! The code package: the flow's files as a tar whose bytes depend on nothing but their names and contents, so equal code has an
//! equal digest and is stored once. Whether a file is a program counts as its content.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use causey_protocol::flow::{Definition, Flow};
use causey_protocol::id::Digest;
use serde_json::Value;

use crate::client::Client;
use crate::describe::Described;
use crate::environment::Asked;
use crate::exit::Exit;
use crate::fault::{self, Fault};

/// A flow ready to be sent.
#[derive(Debug)]
pub(crate) struct Packaged {
    pub(crate) definition: Definition,
    pub(crate) digest: Digest,
    pub(crate) tar: Vec<u8>,
    /// What its steps ask for; taken out when it is resolved.
    pub(crate) asked: Asked,
    /// Locks of environments, sent beside the code.
    pub(crate) locks: BTreeMap<Digest, Vec<u8>>,
}

impl Packaged {
    /// Stores code and locks.
    ///
    /// # Errors
    /// When the server cannot be reached or refuses.
    pub(crate) async fn send(&self, client: &Client) -> Result<(), Fault> {
        for (digest, lock) in &self.locks {
            client.put_package(&digest.to_string(), lock.clone()).await?;
        }
        client.put_package(&self.digest.to_string(), self.tar.clone()).await
    }
}

/// Packs the described files and checks the definition as the server will.
///
/// # Errors
/// When a file cannot be read, or the graph is not valid.
pub(crate) fn package(described: Described) -> Result<Packaged, Fault> {
    let tar = pack(described.files)?;
    let digest = Digest::of(&tar);
    let mut value = described.definition;
    if let Value::Object(fields) = &mut value {
        fields.insert("package".into(), Value::String(digest.to_string()));
    }
    let definition: Definition = serde_json::from_value(value)
        .map_err(|error| Fault::new(Exit::Usage, fault::FLOW_FILE, "the SDK's definition of the flow cannot be read").detail(error))?;
    let definition = Definition::from(Flow::try_from(definition).map_err(Fault::usage)?);
    causey_coordinator::calendar::check(&definition).map_err(Fault::usage)?;
    Ok(Packaged { definition, digest, tar, asked: described.environments, locks: BTreeMap::new() })
}

fn pack(mut files: Vec<(PathBuf, String)>) -> Result<Vec<u8>, Fault> {
    files.sort_by(|a, b| a.1.cmp(&b.1));
    files.dedup_by(|a, b| a.1 == b.1);
    let mut tar = tar::Builder::new(Vec::new());
    for (path, name) in files {
        let unreadable =
            |error: std::io::Error| Fault::new(Exit::NotFound, fault::FILE, format!("cannot pack {}", path.display())).detail(error);
        let content = fs::read(&path).map_err(unreadable)?;
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        let is_program = fs::metadata(&path).is_ok_and(|found| found.permissions().mode() & 0o100 != 0);
        header.set_mode(if is_program { 0o755 } else { 0o644 });
        header.set_mtime(0);
        header.set_entry_type(tar::EntryType::Regular);
        tar.append_data(&mut header, &name, content.as_slice()).map_err(unreadable)?;
    }
    tar.into_inner().map_err(|error| Fault::new(Exit::Failed, fault::FILE, "cannot pack the flow").detail(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &std::path::Path, name: &str, text: &str) -> (PathBuf, String) {
        let path = folder.join(name);
        fs::write(&path, text).unwrap();
        (path, name.to_owned())
    }

    #[test]
    fn equal_files_make_equal_bytes_wherever_and_whenever_they_were_written() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let first = vec![write(one.path(), "a.py", "1"), write(one.path(), "b.py", "2")];
        let second = vec![write(two.path(), "b.py", "2"), write(two.path(), "a.py", "1")];
        fs::File::open(&second[0].0).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
        assert_eq!(pack(first).unwrap(), pack(second).unwrap());
    }

    #[test]
    fn an_unreadable_file_is_named() {
        let fault = pack(vec![("/nowhere/x.py".into(), "x.py".into())]).unwrap_err();
        assert_eq!(fault.message, "cannot pack /nowhere/x.py");
    }

    #[test]
    fn the_definition_gets_the_packages_digest() {
        let base = tempfile::tempdir().unwrap();
        let definition = serde_json::json!({"format": 1, "name": "H", "language": "python", "file": "h.py",
            "steps": [{"name": "start", "next": {"linear": {"to": "end"}}}, {"name": "end", "next": "end"}]});
        let packaged =
            package(Described { definition, environments: Asked::default(), files: vec![write(base.path(), "h.py", "x")] }).unwrap();
        assert_eq!(packaged.definition.package, Digest::of(&packaged.tar));
    }
}
