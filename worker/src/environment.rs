//! Environments of packages: each is built once into a folder named by its lock, interpreter and platform, and used from then on by all
//! workers that share the folder. It is built beside its place and renamed, so what has the name is whole, whatever was killed meanwhile.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use causey_artifacts::failpoint;
use causey_protocol::id::{Digest, StepName, hash_fields, hex};
use causey_protocol::problem::Code;
use causey_protocol::surroundings::Environment;
use causey_protocol::task::{ErrorInfo, FailureKind};
use tokio::sync::OnceCell;
use tokio::time::Instant;

use crate::depot::{Depot, DepotError};
use crate::python::Facts;
use crate::uv::{self, UvError};

/// Environments kept in the folder; of those nobody uses the ones that were wanted longest ago go first.
const ENVIRONMENTS_MAX: usize = 32;

/// How long a failed build is taken for the answer: others of the same step ask at the same time.
const FAILED_FOR: Duration = Duration::from_secs(5);

/// Why there is no environment.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum EnvironmentError {
    #[error("its lock cannot be fetched: {0}")]
    Lock(String),
    #[error("{0}")]
    Uv(#[from] UvError),
    #[error("it is for Python {wanted}, and this worker has {found}")]
    Python { wanted: String, found: String },
    #[error("{0}")]
    Interpreter(String),
    #[error("cannot {what} {}: {why}", path.display())]
    Folder { what: &'static str, path: PathBuf, why: String },
}

impl EnvironmentError {
    fn folder(what: &'static str, path: &Path, error: &io::Error) -> Self {
        Self::Folder { what, path: path.to_owned(), why: error.to_string() }
    }

    fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Uv(UvError::Missing | UvError::Start { .. }) => Some(uv::INSTALL),
            Self::Uv(UvError::Failed { transient: true, .. }) => Some("the worker has to reach the package index; it tries again"),
            Self::Uv(UvError::Failed { .. }) => Some("what the build said is in the task's traceback"),
            Self::Python { .. } => Some("install that Python on the worker's machine, or ask for another with python=…"),
            Self::Lock(_) | Self::Interpreter(_) | Self::Folder { .. } => None,
        }
    }

    /// As a failure of the step that needs it. Only what may work later is tried again.
    pub(crate) fn into_fault(self, step: &StepName) -> (FailureKind, ErrorInfo) {
        let transient = match &self {
            Self::Uv(error) => error.is_transient(),
            Self::Lock(_) | Self::Folder { .. } => true,
            Self::Python { .. } | Self::Interpreter(_) => false,
        };
        let kind = if transient { FailureKind::Infrastructure } else { FailureKind::Permanent };
        let code = if matches!(self, Self::Uv(UvError::Missing)) { Code::ENVIRONMENT_TOOL } else { Code::ENVIRONMENT_BUILD };
        let traceback = if let Self::Uv(error) = &self { error.said().to_owned() } else { String::new() };
        let error = ErrorInfo {
            kind: code.to_string(),
            message: format!("the environment of step `{step}` cannot be built: {self}"),
            traceback,
            step: Some(step.to_string()),
            hint: self.hint().map(str::to_owned),
            ..ErrorInfo::default()
        };
        (kind, error)
    }
}

/// An environment that is being asked for.
#[derive(Debug, Default)]
struct Wanted {
    built: OnceCell<Arc<Built>>,
    failed: Mutex<Option<(EnvironmentError, Instant)>>,
}

/// One that is there. While this is held nobody removes it.
#[derive(Debug)]
struct Built {
    folder: PathBuf,
    _used: File,
}

/// The environments of this worker.
#[derive(Debug)]
pub(crate) struct Environments {
    folder: PathBuf,
    /// Where uv is, if it was told.
    uv: Option<PathBuf>,
    /// The worker's own interpreter.
    python: PathBuf,
    facts: OnceCell<Facts>,
    wanted: Mutex<HashMap<(Digest, String), Arc<Wanted>>>,
}

impl Environments {
    pub(crate) fn new(folder: PathBuf, uv: Option<PathBuf>, python: PathBuf) -> Self {
        Self { folder, uv, python, facts: OnceCell::new(), wanted: Mutex::default() }
    }

    fn wanted(&self, Environment { lock, python }: &Environment) -> Arc<Wanted> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner).entry((*lock, python.clone())).or_default().clone()
    }

    /// The folder of the environment, built if it is not there. Of concurrent calls one builds.
    ///
    /// # Errors
    /// [`EnvironmentError`].
    pub(crate) async fn built(&self, environment: &Environment, depot: &Depot) -> Result<PathBuf, EnvironmentError> {
        let wanted = self.wanted(environment);
        let make = || async {
            let failed = wanted.failed.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if let Some((error, _)) = failed.filter(|(_, at)| at.elapsed() < FAILED_FOR) {
                return Err(error);
            }
            let made = self.make(environment, depot).await;
            if let Err(error) = &made {
                *wanted.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some((error.clone(), Instant::now()));
            }
            made.map(Arc::new)
        };
        wanted.built.get_or_try_init(make).await.map(|built| built.folder.clone())
    }

    /// The SDK that is installed in the worker's own interpreter, alone in a folder: others of its packages must not reach environments.
    ///
    /// # Errors
    /// [`EnvironmentError`] when there is none.
    pub(crate) async fn own_sdk(&self) -> Result<PathBuf, EnvironmentError> {
        let facts = self.facts().await?;
        let missing = || EnvironmentError::Interpreter(format!("{} has no package causey; --sdk says where it is", self.python.display()));
        let sdk = facts.sdk.clone().ok_or_else(missing)?;
        let folder = self.folder.join(format!("sdk-{}", hex(&hash_fields("causey sdk folder v1", &[sdk.as_os_str().as_encoded_bytes()]))));
        let link = folder.join("causey");
        fs::create_dir_all(&folder).map_err(|error| EnvironmentError::folder("make", &folder, &error))?;
        match std::os::unix::fs::symlink(&sdk, &link) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(EnvironmentError::folder("make", &link, &error)),
            _ => Ok(folder),
        }
    }

    async fn facts(&self) -> Result<&Facts, EnvironmentError> {
        self.facts.get_or_try_init(|| Facts::of(&self.python)).await.map_err(EnvironmentError::Interpreter)
    }

    async fn make(&self, environment: &Environment, depot: &Depot) -> Result<Built, EnvironmentError> {
        let lock = depot.blob(&environment.lock).await.map_err(|error: DepotError| EnvironmentError::Lock(error.to_string()))?;
        let uv = uv::find(self.uv.as_deref(), &self.python);
        let (python, facts) = self.interpreter(&environment.python, uv.as_deref()).await?;
        let base = facts.base.as_os_str().as_encoded_bytes();
        let version = facts.shown();
        let fields: [&[u8]; 5] = [&environment.lock.0, version.as_bytes(), facts.tag.as_bytes(), facts.platform.as_bytes(), base];
        let id = hex(&hash_fields("causey environment v1", &fields));
        let target = self.folder.join(&id);
        fs::create_dir_all(&self.folder).map_err(|error| EnvironmentError::folder("make", &self.folder, &error))?;
        let note = self.folder.join(format!("{id}.lock"));
        loop {
            let used = held(&note, &target).await?;
            if let Some(used) = used {
                return Ok(Built { folder: target, _used: used });
            }
            let building = alone(&note).await?;
            if !target.exists() {
                let uv = uv.as_deref().ok_or(UvError::Missing)?;
                tracing::info!(environment = id, python = version, "building an environment");
                let begun = Instant::now();
                self.build(uv, &python, &lock, &target).await?;
                tracing::info!(environment = id, seconds = begun.elapsed().as_secs_f64(), "an environment is built");
                make_room(&self.folder);
            }
            drop(building);
        }
    }

    /// An interpreter that will do: the worker's own, or another one of this machine.
    async fn interpreter(&self, wanted: &str, uv: Option<&Path>) -> Result<(PathBuf, Facts), EnvironmentError> {
        let own = self.facts().await?;
        if own.is_one_of(wanted) {
            return Ok((self.python.clone(), own.clone()));
        }
        let none = || EnvironmentError::Python { wanted: wanted.to_owned(), found: own.shown() };
        let uv = uv.ok_or_else(none)?;
        let words = ["python", "find", "--system", "--no-project", "--no-python-downloads", wanted].map(OsStr::new);
        let (found, _) = uv::run(uv, &words, None).await.map_err(|_| none())?;
        let python = PathBuf::from(found.trim());
        let facts = Facts::of(&python).await.map_err(EnvironmentError::Interpreter)?;
        Ok((python, facts))
    }

    async fn build(&self, uv: &Path, python: &Path, lock: &[u8], target: &Path) -> Result<(), EnvironmentError> {
        let part = target.with_extension("part");
        // What a build left that was killed.
        clear(&part)?;
        let list = target.with_extension("txt");
        fs::write(&list, lock).map_err(|error| EnvironmentError::folder("write", &list, &error))?;
        let [venv, relocatable, no_project, with] = ["venv", "--relocatable", "--no-project", "--python"].map(OsStr::new);
        uv::run(uv, &[venv, relocatable, no_project, with, python.as_os_str(), part.as_os_str()], None).await?;
        failpoint::here("environment.made");
        let inside = part.join("bin/python");
        let [pip, sync, hashes, empty] = ["pip", "sync", "--require-hashes", "--allow-empty-requirements"].map(OsStr::new);
        let installed = uv::run(uv, &[pip, sync, hashes, empty, with, inside.as_os_str(), list.as_os_str()], None).await;
        let _ = fs::remove_file(&list);
        if let Err(error) = installed {
            let _ = clear(&part);
            return Err(error.into());
        }
        failpoint::here("environment.built");
        fs::rename(&part, target).map_err(|error| EnvironmentError::folder("name", target, &error))
    }
}

/// The interpreter of an environment.
pub(crate) fn interpreter(folder: &Path) -> PathBuf {
    folder.join("bin/python")
}

fn clear(folder: &Path) -> Result<(), EnvironmentError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(EnvironmentError::folder("clear", folder, &error)),
        _ => Ok(()),
    }
}

/// The environment's lock, shared with others that use it, if the environment is there.
async fn held(note: &Path, target: &Path) -> Result<Option<File>, EnvironmentError> {
    if !target.exists() {
        return Ok(None);
    }
    let file = locked(note, File::lock_shared).await?;
    // It may have been removed before the lock was had.
    if !target.exists() {
        return Ok(None);
    }
    let _ = file.set_modified(SystemTime::now());
    Ok(Some(file))
}

/// The environment's lock, once nobody else has it.
async fn alone(note: &Path) -> Result<File, EnvironmentError> {
    locked(note, File::lock).await
}

async fn locked(note: &Path, lock: fn(&File) -> io::Result<()>) -> Result<File, EnvironmentError> {
    let path = note.to_owned();
    let work = move || {
        let file = File::options().create(true).truncate(false).write(true).open(&path)?;
        lock(&file)?;
        Ok(file)
    };
    let taken: io::Result<File> = tokio::task::spawn_blocking(work).await.expect("taking a lock does not panic");
    taken.map_err(|error| EnvironmentError::folder("lock", note, &error))
}

/// Removes environments that no worker uses until few enough are left.
fn make_room(folder: &Path) {
    let notes = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut notes: Vec<(SystemTime, PathBuf)> = notes
        .filter(|path| path.extension().is_some_and(|ending| ending == "lock") && path.with_extension("").exists())
        .filter_map(|path| Some((fs::metadata(&path).ok()?.modified().ok()?, path)))
        .collect();
    notes.sort();
    let surplus = notes.len().saturating_sub(ENVIRONMENTS_MAX);
    for (_, note) in notes.into_iter().take(surplus) {
        let Ok(file) = File::options().write(true).open(&note) else { continue };
        if file.try_lock().is_ok() {
            let place = note.with_extension("");
            let going = note.with_extension("part");
            if fs::rename(&place, &going).is_ok() {
                let _ = fs::remove_dir_all(&going);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_made_among_the_oldest_that_nobody_uses() {
        let base = tempfile::tempdir().unwrap();
        for number in 0..ENVIRONMENTS_MAX + 2 {
            fs::create_dir(base.path().join(format!("{number:02}"))).unwrap();
            let note = File::create(base.path().join(format!("{number:02}.lock"))).unwrap();
            note.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(number as u64)).unwrap();
        }
        let used = File::open(base.path().join("00.lock")).unwrap();
        used.lock_shared().unwrap();
        make_room(base.path());
        let there = |name: &str| base.path().join(name).exists();
        assert_eq!([there("00"), there("01"), there("02")], [true, false, true]);
    }
}
