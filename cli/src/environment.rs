//! The environments that the steps of a flow ask for, resolved by uv to locks before the flow is sent: `@pypi` of a step, a block in the
//! flow file as PEP 723 has it, or a file named by `--environment`. A lock names packages with versions and hashes, no addresses. It is
//! kept in the state folder, so the same request gives the same environment until it is asked to be resolved anew.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use causey_protocol::flow::{Definition, PYTHON};
use causey_protocol::id::Digest;
use causey_protocol::problem::Code;
use causey_protocol::surroundings::Environment;
use causey_worker::uv::{self, UvError};
use serde::{Deserialize, Serialize};

use crate::arguments::{Local, Packages};
use crate::exit::Exit;
use crate::fault::{self, Fault};
use crate::package::Packaged;
use crate::python::{self, Interpreter};
use crate::session::Project;
use crate::state::write_private;

/// What the SDK says of the environments of a flow.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Asked {
    #[serde(default)]
    pub(crate) steps: BTreeMap<String, Request>,
    /// Steps that want none.
    #[serde(default)]
    pub(crate) bare: BTreeSet<String>,
    #[serde(default)]
    pub(crate) warnings: Vec<String>,
}

/// Packages of one environment.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Request {
    #[serde(default)]
    requirements: Vec<String>,
    /// Versions of Python that will do.
    #[serde(default)]
    python: Option<String>,
}

/// What all steps without a request of their own get.
#[derive(Debug)]
enum Base {
    Packages(Request),
    File(PathBuf),
}

/// A lock, and the Python it is for.
#[derive(Clone, Debug)]
struct Resolved {
    lock: String,
    python: String,
}

/// Resolves what the steps ask for, and writes the locks into the definition. Does nothing for a flow whose steps ask for nothing.
///
/// # Errors
/// When there is no uv, or what is asked for does not go together or is not there.
pub(crate) async fn settle(
    packaged: &mut Packaged,
    project: &Project,
    local: &Local,
    packages: &Packages,
    file: &Path,
) -> Result<(), Fault> {
    let asked = std::mem::take(&mut packaged.asked);
    for warning in &asked.warnings {
        eprintln!("warning: {warning}");
    }
    let base = base(packages, file)?;
    if base.is_none() && asked.steps.is_empty() {
        return Ok(());
    }
    let resolver = Resolver::new(project, local, packages, file)?;
    let mut known: BTreeMap<Request, Environment> = BTreeMap::new();
    for (step, request) in &asked.steps {
        let environment = match known.get(request) {
            Some(environment) => environment.clone(),
            None => packaged.add(resolver.packages(request).await?),
        };
        known.insert(request.clone(), environment.clone());
        set(&mut packaged.definition, |name| name == step, &environment);
    }
    let resolved = match base {
        None => return Ok(()),
        Some(Base::Packages(request)) => resolver.packages(&request).await?,
        Some(Base::File(file)) => resolver.file(&file).await?,
    };
    let environment = packaged.add(resolved);
    set(&mut packaged.definition, |name| !asked.steps.contains_key(name) && !asked.bare.contains(name), &environment);
    Ok(())
}

impl Packaged {
    fn add(&mut self, Resolved { lock, python }: Resolved) -> Environment {
        let digest = Digest::of(lock.as_bytes());
        self.locks.insert(digest, lock.into_bytes());
        Environment { lock: digest, python }
    }
}

/// Gives the environment to steps in Python that are chosen.
fn set(definition: &mut Definition, is_chosen: impl Fn(&str) -> bool, environment: &Environment) {
    let language = definition.language.clone();
    for step in &mut definition.steps {
        let written = step.code.as_ref().map_or(&language, |code| &code.language);
        if written == PYTHON && is_chosen(step.name.as_str()) {
            step.surroundings.get_or_insert_default().environment = Some(environment.clone());
        }
    }
}

fn base(packages: &Packages, file: &Path) -> Result<Option<Base>, Fault> {
    if let Some(named) = &packages.environment {
        if !named.is_file() {
            return Err(Fault::new(Exit::NotFound, fault::FILE, format!("there is no file {}", named.display()))
                .hint("--environment names a requirements.txt, pylock.toml or uv.lock"));
        }
        return Ok(Some(Base::File(named.clone())));
    }
    let text = fs::read_to_string(file).unwrap_or_default();
    let Some(block) = script_block(&text) else { return Ok(None) };
    let block: Script = toml::from_str(&block).map_err(|error| {
        Fault::new(Exit::Usage, Code::ENVIRONMENT_UNRESOLVED, format!("the `script` block of {} cannot be read", file.display()))
            .detail(error.message())
            .hint("write it as PEP 723 has it: dependencies = [\"pandas\"]")
    })?;
    Ok(Some(Base::Packages(Request { requirements: block.dependencies, python: block.requires_python })))
}

#[derive(Deserialize)]
struct Script {
    #[serde(default)]
    dependencies: Vec<String>,
    #[serde(rename = "requires-python")]
    requires_python: Option<String>,
}

/// The TOML between `# /// script` and `# ///`.
fn script_block(text: &str) -> Option<String> {
    let mut lines = text.lines().skip_while(|line| line.trim_end() != "# /// script").skip(1);
    let mut block = String::new();
    for line in &mut lines {
        if line.trim_end() == "# ///" {
            return Some(block);
        }
        let inner = line.strip_prefix('#')?;
        block.push_str(inner.strip_prefix(' ').unwrap_or(inner));
        block.push('\n');
    }
    None
}

struct Resolver<'a> {
    uv: PathBuf,
    python: Interpreter,
    /// Major and minor version of that interpreter.
    own: String,
    folder: PathBuf,
    again: bool,
    file: &'a Path,
}

impl<'a> Resolver<'a> {
    fn new(project: &Project, local: &Local, packages: &Packages, file: &'a Path) -> Result<Self, Fault> {
        let python = project.python(local)?;
        let uv = uv::find(local.uv.as_deref(), &python.path).ok_or_else(|| unresolved(file, &UvError::Missing))?;
        let said = python::check(&python)?;
        let own = said.trim_start_matches("Python ").split('.').take(2).collect::<Vec<_>>().join(".");
        Ok(Self { uv, python, own, folder: project.state.folder("locks")?, again: packages.upgrade, file })
    }

    async fn packages(&self, request: &Request) -> Result<Resolved, Fault> {
        let python = request.python.clone().unwrap_or_else(|| format!(">={}", self.own));
        let key = serde_json::to_vec(&(&request.requirements, &python)).unwrap_or_default();
        let kept = self.folder.join(format!("{}.txt", Digest::of(&key)));
        if !self.again
            && let Ok(lock) = fs::read_to_string(&kept)
        {
            return Ok(Resolved { lock, python });
        }
        let list = request.requirements.join("\n");
        let lock = self.compile(OsStr::new("-"), Some(&list), &python).await?;
        // One that is not kept costs time, nothing else.
        let _ = write_private(&kept, lock.as_bytes());
        Ok(Resolved { lock, python })
    }

    async fn file(&self, file: &Path) -> Result<Resolved, Fault> {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("pylock.") && name.ends_with(".toml") {
            return pylock(file);
        }
        if name == "uv.lock" {
            return self.exported(file).await;
        }
        let python = format!(">={}", self.own);
        Ok(Resolved { lock: self.compile(file.as_os_str(), None, &python).await?, python })
    }

    async fn compile(&self, from: &OsStr, input: Option<&str>, python: &str) -> Result<String, Fault> {
        let least = least(python).unwrap_or_else(|| self.own.clone());
        let words = ["pip", "compile", "--universal", "--generate-hashes", "--no-header", "--no-annotate", "--python-version", &least];
        let mut words = words.map(OsStr::new).to_vec();
        words.extend([OsStr::new("--python"), self.python.path.as_os_str(), from]);
        let (lock, said) = uv::run(&self.uv, &words, input).await.map_err(|error| unresolved(self.file, &error))?;
        warn(&said);
        Ok(lock)
    }

    async fn exported(&self, file: &Path) -> Result<Resolved, Fault> {
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let words = ["export", "--frozen", "--no-emit-project", "--no-header", "--no-annotate", "--no-dev", "--format", "requirements.txt"];
        let mut words = words.map(OsStr::new).to_vec();
        words.extend([OsStr::new("--no-emit-workspace"), OsStr::new("--project"), folder.as_os_str()]);
        words.extend([OsStr::new("--python"), self.python.path.as_os_str()]);
        let (lock, said) = uv::run(&self.uv, &words, None).await.map_err(|error| unresolved(file, &error))?;
        warn(&said);
        let text = fs::read_to_string(file).unwrap_or_default();
        let python = toml::from_str::<UvLock>(&text).ok().and_then(|lock| lock.requires_python);
        Ok(Resolved { lock, python: python.unwrap_or_else(|| format!(">={}", self.own)) })
    }
}

#[derive(Deserialize)]
struct UvLock {
    #[serde(rename = "requires-python")]
    requires_python: Option<String>,
}

/// Such as packages that their authors have taken back.
fn warn(said: &str) {
    for line in said.lines().filter(|line| line.starts_with("warning:")) {
        eprintln!("{line}");
    }
}

/// The lowest version that fits these clauses, as far as they say one.
fn least(python: &str) -> Option<String> {
    let lower = python.split(',').map(str::trim).find(|clause| !clause.starts_with(['<', '!']))?;
    let version = lower.trim_start_matches(['=', '>', '~', ' ']).trim_end_matches(".*");
    (!version.is_empty()).then(|| version.to_owned())
}

fn unresolved(file: &Path, error: &UvError) -> Fault {
    if matches!(error, UvError::Missing | UvError::Start { .. }) {
        return Fault::new(Exit::Usage, Code::ENVIRONMENT_TOOL, format!("{} asks for packages, and {error}", file.display()))
            .hint(uv::INSTALL);
    }
    let fault =
        Fault::new(Exit::Usage, Code::ENVIRONMENT_UNRESOLVED, format!("the packages that {} asks for cannot be had", file.display()));
    let fault = fault.detail(error.to_string());
    if error.is_transient() {
        return fault.hint("the package index cannot be reached from here; try again, or see UV_DEFAULT_INDEX");
    }
    fault.hint("see names and versions in @pypi(packages=…), the `script` block or the file that --environment names")
}

#[derive(Deserialize)]
struct PyLock {
    #[serde(rename = "lock-version")]
    lock_version: String,
    #[serde(rename = "requires-python")]
    requires_python: Option<String>,
    #[serde(default)]
    packages: Vec<PyLockPackage>,
}

#[derive(Deserialize)]
struct PyLockPackage {
    name: String,
    version: Option<String>,
    marker: Option<String>,
    sdist: Option<PyLockFile>,
    #[serde(default)]
    wheels: Vec<PyLockFile>,
}

#[derive(Deserialize)]
struct PyLockFile {
    #[serde(default)]
    hashes: BTreeMap<String, String>,
}

/// A lock as PEP 751 has it, without its addresses.
fn pylock(file: &Path) -> Result<Resolved, Fault> {
    let unreadable = |why: String| {
        Fault::new(Exit::Usage, Code::ENVIRONMENT_UNRESOLVED, format!("the lock {} cannot be used", file.display()))
            .detail(why)
            .hint("make it anew, such as by `uv pip compile --format pylock.toml`")
    };
    let text = fs::read_to_string(file).map_err(|error| unreadable(error.to_string()))?;
    let lock: PyLock = toml::from_str(&text).map_err(|error| unreadable(error.message().to_owned()))?;
    if !lock.lock_version.starts_with("1.") {
        return Err(unreadable(format!("its version is {}; 1.x is read", lock.lock_version)));
    }
    let mut lines = String::new();
    for PyLockPackage { name, version, marker, sdist, wheels } in lock.packages {
        let files = wheels.into_iter().chain(sdist);
        let hashes: Vec<String> =
            files.flat_map(|file| file.hashes).map(|(algorithm, hash)| format!(" \\\n    --hash={algorithm}:{hash}")).collect();
        let version = version.filter(|_| !hashes.is_empty());
        let Some(version) = version else {
            return Err(unreadable(format!(
                "package {name} has no version with hashes: only what an index has can be installed on workers"
            )));
        };
        let marker = marker.map_or_else(String::new, |marker| format!(" ; {marker}"));
        lines.push_str(&format!("{name}=={version}{marker}{}\n", hashes.concat()));
    }
    Ok(Resolved { lock: lines, python: lock.requires_python.unwrap_or_else(|| ">=3.10".into()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_block_is_found_between_its_marks() {
        let text = "#!/usr/bin/env python\n# /// script\n# requires-python = \">=3.11\"\n# dependencies = [\n#   \"pandas<3\",\n# ]\n# ///\nimport x\n";
        let script: Script = toml::from_str(&script_block(text).unwrap()).unwrap();
        assert_eq!((script.dependencies, script.requires_python.as_deref()), (vec!["pandas<3".to_owned()], Some(">=3.11")));
        assert_eq!(script_block("# /// script\nimport x\n# ///\n"), None);
        assert_eq!(script_block("import x\n"), None);
    }

    #[test]
    fn the_lowest_version_of_a_range_is_the_one_to_resolve_for() {
        assert_eq!(least(">=3.10,<3.13").as_deref(), Some("3.10"));
        assert_eq!(least("<3.13, >=3.11").as_deref(), Some("3.11"));
        assert_eq!(least("3.12").as_deref(), Some("3.12"));
        assert_eq!(least("==3.12.*").as_deref(), Some("3.12"));
        assert_eq!(least("<3.13"), None);
    }

    #[test]
    fn of_a_lock_with_addresses_versions_and_hashes_are_taken() {
        let base = tempfile::tempdir().unwrap();
        let file = base.path().join("pylock.toml");
        let write = |text: &str| fs::write(&file, text).unwrap();
        write(
            "lock-version = \"1.0\"\nrequires-python = \">=3.11\"\n[[packages]]\nname = \"a\"\nversion = \"1.0\"\nmarker = \"os_name == 'posix'\"\n\
             [[packages.wheels]]\nurl = \"https://example.org/a.whl\"\nhashes = {sha256 = \"aa\"}\n",
        );
        let resolved = pylock(&file).unwrap();
        assert_eq!(
            (resolved.lock.as_str(), resolved.python.as_str()),
            ("a==1.0 ; os_name == 'posix' \\\n    --hash=sha256:aa\n", ">=3.11")
        );
        write("lock-version = \"1.0\"\n[[packages]]\nname = \"a\"\n[packages.directory]\npath = \".\"\n");
        let fault = pylock(&file).unwrap_err();
        assert_eq!(fault.code, Code::ENVIRONMENT_UNRESOLVED);
        assert!(fault.details[0].starts_with("package a has no version with hashes"), "{fault:?}");
        write("lock-version = [\n");
        assert!(pylock(&file).unwrap_err().message.ends_with("cannot be used"));
    }
}
