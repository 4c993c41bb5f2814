//! Where the programs under test are. Environment variables first, so that `make test` decides; then what a developer has built.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The repository's root.
///
/// # Panics
/// Never: the crate lies in a folder of it.
#[must_use]
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace").to_owned()
}

fn told(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).filter(|path| !path.is_empty()).map(|path| workspace().join(path))
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// The program under test: CAUSEY_BIN, else the one cargo has built beside this test.
///
/// # Panics
/// When it has not been built.
#[must_use]
pub fn causey() -> PathBuf {
    let beside = || {
        let own = std::env::current_exe().ok()?;
        own.ancestors().skip(1).take(2).map(|folder| folder.join("causey")).find(|file| file.is_file())
    };
    let found = told("CAUSEY_BIN").or_else(beside).unwrap_or_else(|| workspace().join("target/debug/causey"));
    assert!(found.is_file(), "there is no program {}: run `cargo build -p causey-cli` first", found.display());
    found
}

/// nats-server: CAUSEY_TEST_NATS_SERVER, else the one in `.venv`, else the one on PATH.
///
/// # Panics
/// When there is none, or it is older than 2.15.1.
#[must_use]
pub fn nats_server() -> PathBuf {
    let beside = Some(workspace().join(".venv/bin/nats-server")).filter(|file| file.is_file());
    let found = told("CAUSEY_TEST_NATS_SERVER").or(beside).or_else(|| on_path("nats-server"));
    let found = found.expect("there is no nats-server: run `make venv` first, or set CAUSEY_TEST_NATS_SERVER");
    let said = Command::new(&found).arg("--version").output().unwrap_or_else(|error| panic!("{} cannot be run: {error}", found.display()));
    let text = String::from_utf8_lossy(&said.stdout).trim().to_owned();
    let version = text.rsplit('v').next().unwrap_or_default().split('-').next().unwrap_or_default();
    let numbers: Vec<u32> = version.split('.').filter_map(|part| part.parse().ok()).collect();
    assert!(numbers >= vec![2, 15, 1], "{} says {text:?}, but 2.15.1 or newer is needed: run `make venv`", found.display());
    found
}

/// The Python that runs flows: CAUSEY_TEST_PYTHON, else the one in `.venv`, else `python3` on PATH.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn python() -> PathBuf {
    let beside = Some(workspace().join(".venv/bin/python")).filter(|file| file.is_file());
    let found = told("CAUSEY_TEST_PYTHON").or(beside).or_else(|| on_path("python3"));
    found.expect("there is no Python: install python3, or set CAUSEY_TEST_PYTHON")
}

/// uv: CAUSEY_TEST_UV, else the one beside the Python, else the one on PATH; if there is none, says that the test which asks is skipped.
#[must_use]
pub fn uv() -> Option<PathBuf> {
    let beside = python().parent().map(|folder| folder.join("uv")).filter(|file| file.is_file());
    let found = told("CAUSEY_TEST_UV").or(beside).or_else(|| on_path("uv"));
    if found.is_none() {
        eprintln!("skipped: there is no uv; `make venv` installs it");
    }
    found
}

/// Whether the Python can import a module; if not, says that the test which asks is skipped.
///
/// # Panics
/// When Python cannot be run.
#[must_use]
pub fn python_has(module: &str) -> bool {
    let python = python();
    let status =
        Command::new(&python).args(["-c", &format!("import {module}")]).stderr(Stdio::null()).current_dir(std::env::temp_dir()).status();
    let has = status.expect("Python can be run").success();
    if !has {
        eprintln!("skipped: {} cannot import {module}; `make venv` installs it", python.display());
    }
    has
}

/// Whether there is R with what the R package needs; if not, says that the test which asks is skipped.
#[must_use]
pub fn has_r() -> bool {
    static FOUND: std::sync::LazyLock<bool> = std::sync::LazyLock::new(|| {
        let asked = Command::new("Rscript").args(["-e", "library(jsonlite)"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
        asked.is_ok_and(|status| status.success())
    });
    if !*FOUND {
        eprintln!("skipped: no Rscript with jsonlite; Debian: apt-get install r-base-core r-cran-jsonlite");
    }
    *FOUND
}

/// The Python SDK as it stands in the repository.
#[must_use]
pub fn sdk() -> PathBuf {
    workspace().join("sdk/python")
}

/// A port nobody listens on now.
///
/// # Panics
/// When the machine has no free port.
#[must_use]
pub fn free_port() -> u16 {
    let [port] = free_ports();
    port
}

/// Different ports nobody listens on now.
///
/// # Panics
/// When the machine has not so many.
#[must_use]
pub fn free_ports<const COUNT: usize>() -> [u16; COUNT] {
    let listeners = [(); COUNT].map(|()| std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a free port"));
    listeners.map(|listener| listener.local_addr().expect("it has an address").port())
}
