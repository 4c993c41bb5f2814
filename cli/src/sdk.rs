//! The SDKs travel inside this binary, so any Python 3.10 and any R with jsonlite runs a flow without an installation. They are unpacked
//! once per content into a cache folder, where Python also keeps its compiled form.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use include_dir::{Dir, File, include_dir};

use crate::fault::Fault;
use crate::state::StateFolder;

static PYTHON: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../sdk/python/causey");
static R: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../sdk/r/R");
static R_EXEC: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../sdk/r/exec");

/// Where the R package lies in the folder of the SDKs. No name that Python could import.
pub(crate) const R_FOLDER: &str = "causey-r";

/// The folder to put in front of Python's search path, with the R package in it too; unpacks the SDKs if they are not there yet.
///
/// # Errors
/// When neither the cache folder nor the state folder can be written to.
pub(crate) fn folder(state: &StateFolder) -> Result<PathBuf, Fault> {
    let cache = cache_folder();
    let name = format!("sdk-{}", content_hash());
    if let Some(cache) = &cache {
        let target = cache.join(&name);
        if target.is_dir() || unpack(&target).is_ok() {
            return Ok(target);
        }
    }
    let target = state.file(&name);
    if !target.is_dir() {
        unpack(&target).map_err(|error| Fault::state("unpack the SDK to", &target, &error))?;
    }
    Ok(target)
}

fn cache_folder() -> Option<PathBuf> {
    let told = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let base = told.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")));
    base.map(|base| base.join("causey"))
}

/// The SDKs' files in a fixed order, each with its path in the folder, without what Python left beside them in a source tree.
fn files() -> Vec<(PathBuf, &'static File<'static>)> {
    fn collect(folder: &'static Dir<'static>, into: &mut Vec<&'static File<'static>>) {
        into.extend(folder.files().filter(|file| file.path().extension().is_none_or(|ending| ending != "pyc")));
        folder.dirs().for_each(|inner| collect(inner, into));
    }
    let mut found = Vec::new();
    for (folder, root) in [("causey", &PYTHON), ("causey-r/R", &R), ("causey-r/exec", &R_EXEC)] {
        let mut files = Vec::new();
        collect(root, &mut files);
        found.extend(files.into_iter().map(|file| (Path::new(folder).join(file.path()), file)));
    }
    found.sort_by(|one, other| one.0.cmp(&other.0));
    found
}

/// Names the SDKs' content.
pub(crate) fn content_hash() -> String {
    let mut hasher = blake3::Hasher::new();
    for (path, file) in files() {
        let path = path.as_os_str().as_encoded_bytes();
        hasher.update(&(path.len() as u64).to_le_bytes());
        hasher.update(path);
        hasher.update(&(file.contents().len() as u64).to_le_bytes());
        hasher.update(file.contents());
    }
    hasher.finalize().to_hex()[..16].to_owned()
}

/// Writes beside the target and renames: whoever sees the folder sees all of it.
fn unpack(target: &Path) -> io::Result<()> {
    let parent = target.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent)?;
    let fresh = tempfile::Builder::new().prefix(".sdk-").tempdir_in(parent)?;
    for (inside, file) in files() {
        let path = fresh.path().join(inside);
        fs::create_dir_all(path.parent().unwrap_or(fresh.path()))?;
        fs::write(path, file.contents())?;
    }
    match fs::rename(fresh.path(), target) {
        Ok(()) => {
            // The folder has moved; there is nothing left to remove.
            let _ = fresh.keep();
            Ok(())
        }
        // Another process was faster: same hash, same content.
        Err(_) if target.is_dir() => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sdk_unpacks_whole_and_twice_is_harmless() {
        let base = tempfile::tempdir().unwrap();
        let target = base.path().join("cache/sdk-x");
        unpack(&target).unwrap();
        unpack(&target).unwrap();
        assert!(target.join("causey/__init__.py").is_file() && target.join(R_FOLDER).join("exec/causey.R").is_file());
        assert_eq!(fs::read_dir(base.path().join("cache")).unwrap().count(), 1);
    }

    #[test]
    fn compiled_files_of_a_source_tree_are_left_out() {
        assert!(files().iter().all(|(_, file)| !file.path().to_string_lossy().ends_with(".pyc")));
        assert_eq!(content_hash(), content_hash());
    }
}
