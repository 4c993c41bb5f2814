//! The project's state folder `.causey/`: where a local stack keeps its data, and where other commands find a stack that runs.
//! Private to its owner (mode 0700), never in version control.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rand::RngCore as _;
use serde::{Deserialize, Serialize};

use crate::fault::Fault;

/// The folder's name inside a project.
const NAME: &str = ".causey";

/// Ports a local stack had last time and takes again if they are free.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ports {
    pub(crate) nats: Option<u16>,
    pub(crate) api: Option<u16>,
}

/// The state folder. `data` differs from `root` only for an ephemeral stack.
#[derive(Clone, Debug)]
pub(crate) struct StateFolder {
    root: PathBuf,
    data: PathBuf,
}

impl StateFolder {
    /// Opens the folder, creating it if need be.
    ///
    /// # Errors
    /// When it cannot be created or written to.
    pub(crate) fn open(root: &Path) -> Result<Self, Fault> {
        create_private(root)?;
        let root = root.canonicalize().map_err(|error| Fault::state("open the state folder", root, &error))?;
        let ignore = root.join(".gitignore");
        if !ignore.exists() {
            write_private(&ignore, b"*\n").map_err(|error| Fault::state("write to the state folder", &root, &error))?;
        }
        Ok(Self { data: root.clone(), root })
    }

    /// The same folder with its data elsewhere.
    pub(crate) fn with_data(&self, data: &Path) -> Self {
        Self { root: self.root.clone(), data: data.to_owned() }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// A folder among the data, created if need be.
    pub(crate) fn data_folder(&self, name: &str) -> Result<PathBuf, Fault> {
        let folder = self.data.join(name);
        create_private(&folder)?;
        Ok(folder)
    }

    /// A folder beside the data, created if need be.
    pub(crate) fn folder(&self, name: &str) -> Result<PathBuf, Fault> {
        let folder = self.root.join(name);
        create_private(&folder)?;
        Ok(folder)
    }

    /// The token of this project's API, made at first use.
    pub(crate) fn token(&self) -> Result<String, Fault> {
        let path = self.file("token");
        match fs::read_to_string(&path) {
            Ok(token) if !token.trim().is_empty() => return Ok(token.trim().to_owned()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Fault::state("read", &path, &error)),
        }
        let token = random_hex();
        write_private(&path, token.as_bytes()).map_err(|error| Fault::state("write", &path, &error))?;
        Ok(token)
    }

    /// The address a running stack has noted.
    pub(crate) fn url(&self) -> Option<String> {
        let text = fs::read_to_string(self.file("url")).ok()?;
        Some(text.trim().to_owned()).filter(|url| !url.is_empty())
    }

    pub(crate) fn note_url(&self, url: &str) -> Result<(), Fault> {
        let path = self.file("url");
        write_private(&path, format!("{url}\n").as_bytes()).map_err(|error| Fault::state("write", &path, &error))
    }

    pub(crate) fn forget_url(&self) {
        // A stale address is harmless: who reads it first looks whether the stack's lock is held.
        let _ = fs::remove_file(self.file("url"));
    }

    pub(crate) fn ports(&self) -> Ports {
        fs::read(self.file("ports.json")).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
    }

    pub(crate) fn note_ports(&self, ports: Ports) -> Result<(), Fault> {
        let path = self.file("ports.json");
        let text = serde_json::to_vec(&ports).unwrap_or_default();
        write_private(&path, &text).map_err(|error| Fault::state("write", &path, &error))
    }
}

/// Where the state folder is: as told, else the nearest `.causey` upward from `near`, then from the working directory, else a new
/// one in the working directory.
pub(crate) fn locate(told: Option<&Path>, near: Option<&Path>, here: &Path) -> PathBuf {
    if let Some(told) = told {
        return here.join(told);
    }
    let starts = near.map(|near| here.join(near)).into_iter().chain([here.to_owned()]);
    let found =
        starts.flat_map(|start| start.ancestors().map(|folder| folder.join(NAME)).collect::<Vec<_>>()).find(|folder| folder.is_dir());
    found.unwrap_or_else(|| here.join(NAME))
}

/// 128 random bits as text.
pub(crate) fn random_hex() -> String {
    let mut bytes = [0; 16];
    rand::rng().fill_bytes(&mut bytes);
    causey_protocol::id::hex(&bytes)
}

fn create_private(folder: &Path) -> Result<(), Fault> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|error| Fault::state("create the folder", folder, &error))
}

/// Replaces a file as a whole; readable by its owner alone. Not synced: after a power cut the old content may be back.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace(path, bytes, false)
}

/// Replaces a file as a whole; on return the new content is on disk.
pub(crate) fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace(path, bytes, true)
}

fn replace(path: &Path, bytes: &[u8], durable: bool) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let fresh = folder.join(format!(".{name}.{}", std::process::id()));
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        file.write_all(bytes)?;
        if durable {
            file.sync_all()?;
        }
        fs::rename(&fresh, path)?;
        if durable {
            File::open(folder)?.sync_all()?;
        }
        Ok(())
    })();
    if written.is_err() {
        let _ = fs::remove_file(&fresh);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn the_nearest_folder_upward_from_the_flow_is_used() {
        let base = tempfile::tempdir().unwrap();
        let (project, elsewhere) = (base.path().join("project/flows"), base.path().join("elsewhere"));
        fs::create_dir_all(&project).unwrap();
        fs::create_dir_all(&elsewhere).unwrap();
        fs::create_dir(base.path().join("project/.causey")).unwrap();
        assert_eq!(locate(None, Some(&project), &elsewhere), base.path().join("project/.causey"));
        assert_eq!(locate(Some(Path::new("x")), Some(&project), &elsewhere), elsewhere.join("x"));
    }

    #[test]
    fn the_folder_and_the_token_are_private_and_the_token_stays() {
        let base = tempfile::tempdir().unwrap();
        let state = StateFolder::open(&base.path().join(".causey")).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let token = state.token().unwrap();
        assert_eq!((token.len(), mode(state.root()), mode(&state.file("token"))), (32, 0o700, 0o600));
        assert_eq!(state.token().unwrap(), token);
        assert_eq!(fs::read_to_string(state.file(".gitignore")).unwrap(), "*\n");
    }

    #[test]
    fn ports_read_back_and_damage_means_none() {
        let base = tempfile::tempdir().unwrap();
        let state = StateFolder::open(base.path()).unwrap();
        let ports = Ports { nats: Some(4000), api: Some(4001) };
        state.note_ports(ports).unwrap();
        assert_eq!(state.ports(), ports);
        fs::write(state.file("ports.json"), "{").unwrap();
        assert_eq!(state.ports(), Ports::default());
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named_with_advice() {
        let base = tempfile::tempdir().unwrap();
        fs::write(base.path().join("file"), "").unwrap();
        let fault = StateFolder::open(&base.path().join("file/.causey")).unwrap_err();
        assert!(fault.message.contains("file/.causey") && fault.hint.unwrap().contains("--state"));
    }
}
