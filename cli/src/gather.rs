//! Which files belong to the package of a flow file in TOML: the flow file, the code beside it and below, the programs it names, and
//! what its `package` asks for.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use causey_worker::executable::flow_file::{Flaw, FlowFile};

/// Files with these endings are code. So is every program.
const ENDINGS: [&str; 8] = ["py", "R", "r", "RDS", "sh", "awk", "jq", "toml"];

/// Folders that hold no code of the flow.
const SKIPPED: [&str; 3] = ["__pycache__", "node_modules", "target"];

const FILES_MAX: usize = 10_000;
const BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Where each file is, and its path inside the package.
///
/// # Errors
/// A [`Flaw`] when a file that the flow names is not there, or there is too much.
pub(crate) fn files(flow_file: &Path, flow: &FlowFile) -> Result<Vec<(PathBuf, String)>, Flaw> {
    let root = flow_file.parent().unwrap_or(Path::new("."));
    let mut found: BTreeMap<String, PathBuf> = BTreeMap::new();
    let mut bytes = 0;
    walk(root, root, true, &mut found, &mut bytes)?;
    for wanted in &flow.package {
        let path = inside(root, wanted)?;
        if path.is_dir() { walk(root, &path, false, &mut found, &mut bytes)? } else { add(root, &path, &mut found, &mut bytes)? }
    }
    for wanted in flow.other_files() {
        add(root, &inside(root, &wanted)?, &mut found, &mut bytes)?;
    }
    for program in flow.programs() {
        let path = root.join(program);
        if path.is_file() && inside(root, program).is_ok() {
            add(root, &path, &mut found, &mut bytes)?;
        }
    }
    add(root, flow_file, &mut found, &mut bytes)?;
    Ok(found.into_iter().map(|(name, path)| (path, name)).collect())
}

/// A path that a flow file names, which must lie in its folder.
fn inside(root: &Path, wanted: &str) -> Result<PathBuf, Flaw> {
    let path = root.join(wanted);
    let lies_inside =
        Path::new(wanted).components().all(|part| matches!(part, std::path::Component::Normal(_) | std::path::Component::CurDir));
    if !lies_inside {
        let hint = Some("put it into the folder of the flow file".into());
        return Err(Flaw { message: format!("{wanted} lies outside of the flow file's folder"), hint, ..Flaw::default() });
    }
    if !path.exists() {
        let hint = Some(format!("it was looked for in {}", root.display()));
        return Err(Flaw { message: format!("the flow file names {wanted}, which is not there"), hint, ..Flaw::default() });
    }
    Ok(path)
}

fn walk(root: &Path, folder: &Path, only_code: bool, found: &mut BTreeMap<String, PathBuf>, bytes: &mut u64) -> Result<(), Flaw> {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let Ok(kind) = entry.file_type() else { continue };
        if name.as_encoded_bytes().starts_with(b".") {
            continue;
        }
        if kind.is_dir() {
            let skipped = name.to_str().is_some_and(|name| SKIPPED.contains(&name)) || path.join("pyvenv.cfg").exists();
            if !skipped {
                walk(root, &path, only_code, found, bytes)?;
            }
        } else if kind.is_file() && (!only_code || is_code(&path)) {
            add(root, &path, found, bytes)?;
        }
    }
    Ok(())
}

fn is_code(path: &Path) -> bool {
    let is_program = || fs::metadata(path).is_ok_and(|found| found.permissions().mode() & 0o100 != 0);
    path.extension().and_then(OsStr::to_str).is_some_and(|ending| ENDINGS.contains(&ending)) || is_program()
}

fn add(root: &Path, path: &Path, found: &mut BTreeMap<String, PathBuf>, bytes: &mut u64) -> Result<(), Flaw> {
    let name =
        path.strip_prefix(root).unwrap_or(path).components().map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/");
    let name = name.trim_start_matches("./").to_owned();
    if found.insert(name, path.to_owned()).is_none() {
        *bytes += fs::metadata(path).map_or(0, |found| found.len());
    }
    if found.len() > FILES_MAX || *bytes > BYTES_MAX {
        let message = format!("the code package is too large: over {FILES_MAX} files or {} MiB", BYTES_MAX / (1024 * 1024));
        return Err(Flaw { message, hint: Some("move the flow file to a folder of its own".into()), ..Flaw::default() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_holds_code_programs_and_what_was_asked_for() {
        let base = tempfile::tempdir().unwrap();
        let write = |name: &str, mode: u32| {
            let path = base.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "x").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        };
        for (name, mode) in
            [("a.sh", 0o644), ("tool", 0o755), ("data/x.csv", 0o644), ("big.csv", 0o644), (".git/config", 0o644), ("run.txt", 0o644)]
        {
            write(name, mode);
        }
        let text = "[flow]\npackage = [\"data\"]\n[steps.a]\ncommand = [\"./run.txt\"]\n";
        let file = base.path().join("flow.toml");
        fs::write(&file, text).unwrap();
        let flow = FlowFile::parse(text, "flow.toml").unwrap();
        let names: Vec<String> = files(&file, &flow).unwrap().into_iter().map(|(_, name)| name).collect();
        assert_eq!(names, ["a.sh", "data/x.csv", "flow.toml", "run.txt", "tool"]);
        let flow = FlowFile::parse("[steps.a]\nr = \"gone.R\"\n", "flow.toml").unwrap();
        assert_eq!(files(&file, &flow).unwrap_err().message, "the flow file names gone.R, which is not there");
        let flow = FlowFile::parse("[steps.a]\nr = \"../a.R\"\n", "flow.toml").unwrap();
        assert_eq!(files(&file, &flow).unwrap_err().message, "../a.R lies outside of the flow file's folder");
    }
}
