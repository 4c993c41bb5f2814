//! The programs that are measured, where they are found, and how they are started: without what the caller's environment says about
//! Python, Causey or logging, which would change what is measured.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

/// Variables of the caller that no program under measurement may see.
const FOREIGN: [&str; 9] = [
    "PYTHONDONTWRITEBYTECODE",
    "PYTHONUNBUFFERED",
    "PYTHONPATH",
    "PYTHONWARNINGS",
    "VIRTUAL_ENV",
    "RUST_LOG",
    "RUST_BACKTRACE",
    "CAUSEY_URL",
    "CAUSEY_TOKEN",
];

/// Where the programs are.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    pub(crate) causey: PathBuf,
    pub(crate) nats_server: PathBuf,
    pub(crate) python: PathBuf,
    /// A copy of the SDK, so that Python may compile it beside its source.
    pub(crate) sdk: PathBuf,
}

impl Programs {
    /// Finds the programs: as the variables say, in the checkout's `.venv`, on PATH; copies the SDK into `folder`.
    pub(crate) fn find(folder: &Path) -> anyhow::Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the checkout has no root")?;
        let causey =
            told("CAUSEY_BIN").or_else(|| Some(std::env::current_exe().ok()?.parent()?.join("causey")).filter(|path| path.is_file()));
        let sdk = folder.join("sdk");
        copy_sources(&root.join("sdk/python/causey"), &sdk.join("causey")).context("the SDK cannot be copied")?;
        let venv = |name: &str| Some(root.join(".venv/bin").join(name)).filter(|path| path.is_file());
        Ok(Self {
            causey: causey.context("no causey program beside this one\nhint: cargo build --release -p causey-cli, or set CAUSEY_BIN")?,
            nats_server: told("CAUSEY_TEST_NATS_SERVER")
                .or_else(|| venv("nats-server"))
                .or_else(|| on_path("nats-server"))
                .context("no nats-server\nhint: make venv, or set CAUSEY_TEST_NATS_SERVER")?,
            python: told("CAUSEY_TEST_PYTHON")
                .or_else(|| venv("python"))
                .or_else(|| on_path("python3"))
                .context("no Python\nhint: make venv, or set CAUSEY_TEST_PYTHON")?,
            sdk,
        })
    }

    pub(crate) fn causey(&self) -> Command {
        clean(Command::new(&self.causey))
    }

    pub(crate) fn python(&self) -> Command {
        clean(Command::new(&self.python))
    }

    /// Those of `modules` that this Python can import.
    pub(crate) fn importable(&self, modules: &[&'static str]) -> Vec<&'static str> {
        let can =
            |module: &str| self.python().args(["-c", &format!("import {module}")]).output().is_ok_and(|output| output.status.success());
        modules.iter().copied().filter(|module| can(module)).collect()
    }
}

fn clean(mut command: Command) -> Command {
    for name in FOREIGN {
        command.env_remove(name);
    }
    command
}

fn told(variable: &str) -> Option<PathBuf> {
    let path = PathBuf::from(std::env::var_os(variable)?);
    // A relative path would mean something else in the folders where the programs run.
    std::path::absolute(&path).ok()
}

fn on_path(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).map(|folder| folder.join(name)).find(|path| path.is_file())
}

fn copy_sources(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            if entry.file_name() != "__pycache__" {
                copy_sources(&source, &target)?;
            }
        } else {
            fs::copy(&source, &target)?;
        }
    }
    Ok(())
}
