//! Which R runs the flow, and what the R package says about a flow file: `Rscript …/exec/causey.R describe FILE`.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use crate::describe::{DescribeError, not_described};
use crate::exit::Exit;
use crate::fault::{self, Fault};
use crate::python::{is_program, on_path};
use crate::sdk;

/// How to come to an R.
const HINT: &str =
    "install R with its package jsonlite (Debian: apt-get install r-base-core r-cran-jsonlite), or give its path in CAUSEY_RSCRIPT";

/// Rscript: as told in CAUSEY_RSCRIPT, or on PATH.
///
/// # Errors
/// When there is none.
pub(crate) fn find() -> Result<PathBuf, Fault> {
    let told = std::env::var_os("CAUSEY_RSCRIPT").filter(|told| !told.is_empty()).map(PathBuf::from);
    let found = match &told {
        Some(told) if told.components().count() > 1 => Some(told.clone()).filter(|file| is_program(file)),
        Some(told) => on_path(told),
        None => on_path(Path::new("Rscript")),
    };
    found.ok_or_else(|| {
        let what = told.map_or_else(|| "no Rscript found".to_owned(), |told| format!("no Rscript at {}", told.display()));
        Fault::new(Exit::Usage, fault::R, what).hint(HINT)
    })
}

/// Asks the R package beside the SDK about a flow file.
///
/// # Errors
/// When R does not start.
pub(crate) async fn describe(program: &Path, sdk_folder: &Path, file: &Path) -> Result<Output, Fault> {
    let mut command = tokio::process::Command::new(program);
    command
        .args(["--no-save", "--no-restore", "--no-init-file"])
        .arg(sdk_folder.join(sdk::R_FOLDER).join("exec/causey.R"))
        .arg("describe")
        .arg(file);
    command.stdin(Stdio::null()).kill_on_drop(true);
    let started = command.output().await;
    started.map_err(|error| Fault::new(Exit::Usage, fault::R, format!("cannot start {}", program.display())).detail(error).hint(HINT))
}

/// R did not answer as it should.
pub(crate) fn failed(program: &Path, output: &Output, why: &str) -> DescribeError {
    let fault = not_described(program, output, why);
    let lacks_jsonlite = String::from_utf8_lossy(&output.stderr).contains("jsonlite");
    DescribeError::Failed(if lacks_jsonlite { fault.hint(HINT) } else { fault })
}
