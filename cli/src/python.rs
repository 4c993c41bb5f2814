//! Which Python interpreter runs the flow, and the programs beside it. Finding one costs no process start on the way to a run: a
//! wrong version is noticed when the SDK cannot be used, and explained then.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::exit::Exit;
use crate::fault::{self, Fault};
use crate::state::{StateFolder, write_private};

/// The oldest Python the SDK runs on.
const OLDEST: (u32, u32) = (3, 10);

/// How the interpreter was found, for messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Interpreter {
    pub(crate) path: PathBuf,
    pub(crate) from: &'static str,
}

/// Chooses an interpreter: as told (`--python` or CAUSEY_PYTHON), the active virtual environment's, the one in `.venv` beside the
/// flow or above, `python3` on PATH.
///
/// # Errors
/// When there is none, or the one that was told does not exist.
pub(crate) fn find(told: Option<&Path>, near: &Path) -> Result<Interpreter, Fault> {
    if let Some(told) = told {
        let path = if told.components().count() > 1 { Some(told.to_owned()).filter(|path| path.is_file()) } else { on_path(told) };
        return path.map(|path| Interpreter { path, from: "--python or CAUSEY_PYTHON" }).ok_or_else(|| {
            Fault::new(Exit::Usage, fault::PYTHON, format!("no Python interpreter at {}", told.display()))
                .hint("give the path of a Python 3.10 or newer: --python FILE or CAUSEY_PYTHON")
        });
    }
    let active = std::env::var_os("VIRTUAL_ENV").map(|folder| PathBuf::from(folder).join("bin/python"));
    if let Some(path) = active.filter(|path| path.is_file()) {
        return Ok(Interpreter { path, from: "VIRTUAL_ENV" });
    }
    if let Some(path) = near.ancestors().map(|folder| folder.join(".venv/bin/python")).find(|path| path.is_file()) {
        return Ok(Interpreter { path, from: ".venv" });
    }
    on_path(Path::new("python3")).map(|path| Interpreter { path, from: "PATH" }).ok_or_else(|| {
        Fault::new(Exit::Usage, fault::PYTHON, "no Python interpreter found")
            .hint("install Python 3.10 or newer, or give its path: --python FILE or CAUSEY_PYTHON")
    })
}

/// The first program of this name on PATH.
pub(crate) fn on_path(name: &Path) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| is_program(file))
}

/// Whether this is a file that may be executed.
pub(crate) fn is_program(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Version managers put a shell script in front of the interpreter that costs 70 ms per start. Asks it once which interpreter it
/// starts here and remembers that as long as nothing it looks at has changed.
pub(crate) fn without_launcher(interpreter: Interpreter, near: &Path, state: &StateFolder) -> Interpreter {
    if !is_script(&interpreter.path) {
        return interpreter;
    }
    let file = state.file("python.json");
    let key = launcher_key(&interpreter.path, near);
    let known = fs::read(&file).ok().and_then(|bytes| serde_json::from_slice::<BTreeMap<String, PathBuf>>(&bytes).ok()).unwrap_or_default();
    if let Some(path) = known.get(&key).filter(|path| is_program(path)) {
        return Interpreter { path: path.clone(), ..interpreter };
    }
    let asked = Command::new(&interpreter.path).args(["-c", "import sys; print(sys.executable)"]).current_dir(near).output();
    let path =
        asked.ok().filter(|output| output.status.success()).map(|output| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    let Some(path) = path.filter(|path| is_program(path)) else { return interpreter };
    // Only the newest answer is kept: the note shall not grow. A note that cannot be written costs time, nothing else.
    let note = serde_json::to_vec(&BTreeMap::from([(key, path.clone())])).unwrap_or_default();
    let _ = write_private(&file, &note);
    Interpreter { path, ..interpreter }
}

fn is_script(path: &Path) -> bool {
    let mut start = [0; 2];
    fs::File::open(path).and_then(|mut file| file.read_exact(&mut start)).is_ok() && start == *b"#!"
}

/// Everything a version manager's choice depends on.
fn launcher_key(path: &Path, near: &Path) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(path.as_os_str().as_encoded_bytes());
    for variable in ["PYENV_VERSION", "PYENV_ROOT", "ASDF_PYTHON_VERSION", "HOME"] {
        hasher.update(variable.as_bytes());
        hasher.update(std::env::var_os(variable).unwrap_or_default().as_encoded_bytes());
    }
    let beside = path.parent().and_then(Path::parent).map(|root| root.join("version"));
    let chosen = near.ancestors().flat_map(|folder| [folder.join(".python-version"), folder.join(".tool-versions")]);
    for file in chosen.chain(beside) {
        if let Ok(content) = fs::read(&file) {
            hasher.update(file.as_os_str().as_encoded_bytes());
            hasher.update(&content);
        }
    }
    hasher.finalize().to_hex().to_string()
}

/// Asks an interpreter for its version.
///
/// # Errors
/// When it does not start or is too old.
pub(crate) fn check(interpreter: &Interpreter) -> Result<String, Fault> {
    let shown = interpreter.path.display();
    let wrong = |what: String| {
        Fault::new(Exit::Usage, fault::PYTHON, what).hint("Causey's SDK needs Python 3.10 or newer: --python FILE or CAUSEY_PYTHON")
    };
    let output =
        Command::new(&interpreter.path).arg("--version").output().map_err(|error| wrong(format!("cannot start {shown}: {error}")))?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).trim().to_owned();
    match parse_version(&text) {
        Some(version) if version >= OLDEST => Ok(text),
        Some(_) => Err(wrong(format!("{shown} (from {}) is {text}: too old", interpreter.from))),
        None => Err(wrong(format!("{shown} is no Python interpreter: it answers {text:?}"))),
    }
}

fn parse_version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.strip_prefix("Python ")?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(parse_version("Python 3.9.18").unwrap() < OLDEST);
        assert!(parse_version("Python 3.10.0").unwrap() >= OLDEST);
        assert!(parse_version("Python 3.14.0rc1").unwrap() >= OLDEST);
        assert_eq!(parse_version("ruby 3.2"), None);
    }

    #[test]
    fn a_told_interpreter_that_does_not_exist_is_an_error_and_not_replaced() {
        let fault = find(Some(Path::new("/nowhere/python")), Path::new("/")).unwrap_err();
        assert_eq!(fault.message, "no Python interpreter at /nowhere/python");
    }

    #[test]
    fn the_environment_beside_the_flow_comes_before_the_path() {
        if std::env::var_os("VIRTUAL_ENV").is_some() {
            return;
        }
        let base = tempfile::tempdir().unwrap();
        fs::create_dir_all(base.path().join(".venv/bin")).unwrap();
        fs::write(base.path().join(".venv/bin/python"), "").unwrap();
        assert_eq!(find(None, &base.path().join("flows")).unwrap().from, ".venv");
    }
}
