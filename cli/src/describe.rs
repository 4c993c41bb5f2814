//! What a flow file defines. A file in Python or R is described by the SDK of its language, in a process that imports it; one in TOML is
//! read here. This process never runs user code.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use causey_worker::executable::flow_file::FlowFile;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::arguments::Local;
use crate::environment::Asked;
use crate::exit::Exit;
use crate::fault::{self, Fault};
use crate::gather;
use crate::python::{self, Interpreter};
use crate::rscript;
use crate::sdk;
use crate::session::Project;

/// What the SDK answers about a valid flow.
#[derive(Debug, Deserialize)]
pub(crate) struct Described {
    /// The definition, still without the digest of its package.
    pub(crate) definition: Value,
    /// Files of the package: where they are, and their path inside it.
    pub(crate) files: Vec<(PathBuf, String)>,
    #[serde(default)]
    pub(crate) environments: Asked,
}

/// Something wrong with a flow file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FlowProblem {
    #[serde(default)]
    pub(crate) code: Option<String>,
    pub(crate) message: String,
    #[serde(default)]
    pub(crate) file: Option<String>,
    #[serde(default)]
    pub(crate) line: Option<u32>,
    #[serde(default)]
    pub(crate) step: Option<String>,
    #[serde(default)]
    pub(crate) hint: Option<String>,
}

impl FlowProblem {
    /// `hello.py:9`, as far as it is known.
    pub(crate) fn place(&self) -> String {
        match (&self.file, self.line) {
            (Some(file), Some(line)) => format!("{file}:{line}"),
            (Some(file), None) => file.clone(),
            (None, _) => String::new(),
        }
    }
}

/// Why there is no description.
#[derive(Debug)]
pub(crate) enum DescribeError {
    /// The file is not a valid flow.
    Invalid(Vec<FlowProblem>),
    /// The SDK could not be asked.
    Failed(Fault),
}

impl From<DescribeError> for Fault {
    fn from(error: DescribeError) -> Self {
        match error {
            DescribeError::Failed(fault) => fault,
            DescribeError::Invalid(problems) => invalid(&problems),
        }
    }
}

fn invalid(problems: &[FlowProblem]) -> Fault {
    let line = |problem: &FlowProblem| format!("{} {}", problem.place(), problem.message).trim().to_owned();
    let Some((first, rest)) = problems.split_first() else {
        return Fault::new(Exit::Usage, fault::FLOW_FILE, "the flow file is not valid");
    };
    let code = first.code.clone().and_then(|code| code.try_into().ok()).unwrap_or(fault::FLOW_FILE);
    let mut fault = Fault::new(Exit::Usage, code, line(first));
    fault.hint = first.hint.clone();
    rest.iter().fold(fault, |fault, problem| fault.detail(format!("also: {}", line(problem))))
}

/// The answer in JSON, valid or not.
#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    problem: Option<FlowProblem>,
    #[serde(default)]
    problems: Vec<FlowProblem>,
}

/// The flow file as a file that exists.
///
/// # Errors
/// When there is no such file.
pub(crate) fn flow_file(path: &Path) -> Result<PathBuf, Fault> {
    let missing = |error: &std::io::Error| {
        Fault::new(Exit::NotFound, fault::FILE, format!("cannot read the flow file {}", path.display())).detail(error)
    };
    let whole = path.canonicalize().map_err(|error| missing(&error))?;
    if whole.is_file() {
        return Ok(whole);
    }
    Err(Fault::new(Exit::Usage, fault::FILE, format!("{} is a folder; name the flow file", path.display())))
}

/// The language a flow file is written in, by its ending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Written {
    Python,
    R,
    Toml,
}

impl Written {
    fn of(file: &Path) -> Self {
        match file.extension().and_then(OsStr::to_str) {
            Some("R" | "r") => Self::R,
            Some("toml") => Self::Toml,
            _ => Self::Python,
        }
    }
}

/// Whether this reads as the path of a flow file.
pub(crate) fn is_flow_file(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "py") || Written::of(path) != Written::Python
}

/// Describes the flow in `file`.
///
/// # Errors
/// [`DescribeError`].
pub(crate) async fn describe(project: &Project, local: &Local, file: &Path) -> Result<Described, DescribeError> {
    match Written::of(file) {
        Written::Toml => describe_toml(file),
        Written::R => {
            let sdk = sdk::folder(&project.state).map_err(DescribeError::Failed)?;
            let program = rscript::find().map_err(DescribeError::Failed)?;
            let output = rscript::describe(&program, &sdk, file).await.map_err(DescribeError::Failed)?;
            read(&output, |why| rscript::failed(&program, &output, why))
        }
        Written::Python => {
            let python = project.python(local).map_err(DescribeError::Failed)?;
            let sdk = sdk::folder(&project.state).map_err(DescribeError::Failed)?;
            describe_python(&python, &sdk, file).await
        }
    }
}

/// Reads a flow file in TOML and gathers the files of its package.
fn describe_toml(file: &Path) -> Result<Described, DescribeError> {
    let shown = file.display().to_string();
    let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let text = std::fs::read_to_string(file).map_err(|error| {
        DescribeError::Failed(Fault::new(Exit::NotFound, fault::FILE, format!("cannot read the flow file {shown}")).detail(error))
    })?;
    let problem = |message: String, line: Option<u32>, step: Option<String>, hint: Option<String>| FlowProblem {
        code: Some(causey_protocol::problem::Code::FLOW_FILE.to_string()),
        message,
        file: Some(shown.clone()),
        line,
        step,
        hint,
    };
    let flow = FlowFile::parse(&text, &name).map_err(|flaws| {
        let problems = flaws.into_iter().map(|flaw| problem(flaw.message, Some(flaw.line), flaw.step, flaw.hint));
        DescribeError::Invalid(problems.collect())
    })?;
    let files = gather::files(file, &flow).map_err(|flaw| DescribeError::Invalid(vec![problem(flaw.message, None, None, flaw.hint)]))?;
    Ok(Described { definition: flow.definition, files, environments: Asked::default() })
}

async fn describe_python(interpreter: &Interpreter, sdk: &Path, file: &Path) -> Result<Described, DescribeError> {
    let mut search = vec![sdk.to_owned()];
    if let Some(told) = std::env::var_os("PYTHONPATH") {
        search.extend(std::env::split_paths(&told));
    }
    let mut command = tokio::process::Command::new(&interpreter.path);
    command.args(["-m", "causey._describe"]).arg(file).stdin(Stdio::null()).kill_on_drop(true);
    if let Ok(path) = std::env::join_paths(search) {
        command.env("PYTHONPATH", path);
    }
    match command.output().await {
        Ok(output) => read(&output, |why| failed(interpreter, &output, why)),
        Err(error) => Err(DescribeError::Failed(
            Fault::new(Exit::Usage, fault::PYTHON, format!("cannot start {} (from {})", interpreter.path.display(), interpreter.from))
                .detail(error)
                .hint("give the path of a Python 3.10 or newer: --python FILE or CAUSEY_PYTHON"),
        )),
    }
}

fn read(output: &Output, failed: impl Fn(&str) -> DescribeError) -> Result<Described, DescribeError> {
    // User code runs at import and may print; the answer is the last line.
    let text = String::from_utf8_lossy(&output.stdout);
    let answer = text.trim_end().rsplit('\n').next().unwrap_or_default();
    if output.status.success() {
        return serde_json::from_str(answer).map_err(|error| failed(&error.to_string()));
    }
    match serde_json::from_str::<Answer>(answer) {
        Ok(Answer { problem, mut problems }) if problem.is_some() || !problems.is_empty() => {
            if let Some(problem) = problem.filter(|problem| !problems.contains(problem)) {
                problems.insert(0, problem);
            }
            Err(DescribeError::Invalid(problems))
        }
        _ => Err(failed(&format!("it ended with {}", output.status))),
    }
}

/// The SDK did not answer as it should: the interpreter may be too old for it, which is worth a clearer word.
fn failed(interpreter: &Interpreter, output: &Output, why: &str) -> DescribeError {
    if let Err(fault) = python::check(interpreter) {
        return DescribeError::Failed(fault);
    }
    DescribeError::Failed(not_described(&interpreter.path, output, why))
}

/// An SDK did not answer as it should.
pub(crate) fn not_described(program: &Path, output: &Output, why: &str) -> Fault {
    let stderr = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = stderr.lines().collect();
    let last = lines[lines.len().saturating_sub(20)..].join("\n");
    Fault::new(Exit::Usage, fault::FLOW_FILE, format!("{} could not describe the flow: {why}", program.display())).detail(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt as _;

    fn python() -> Interpreter {
        Interpreter { path: "python3".into(), from: "PATH" }
    }

    fn read_python(output: &Output) -> Result<Described, DescribeError> {
        read(output, |why| failed(&python(), output, why))
    }

    fn output(status: i32, stdout: &str) -> Output {
        Output { status: std::process::ExitStatus::from_raw(status << 8), stdout: stdout.into(), stderr: Vec::new() }
    }

    #[test]
    fn what_the_flow_prints_at_import_does_not_hide_the_answer() {
        let described = read_python(&output(0, "hello\n{\"definition\":{\"name\":\"H\"},\"files\":[[\"/a/h.py\",\"h.py\"]]}\n")).unwrap();
        assert_eq!(described.files, [(PathBuf::from("/a/h.py"), "h.py".to_owned())]);
    }

    #[test]
    fn all_problems_are_told_each_with_its_place() {
        let text = r#"{"problem":{"code":"CSY-1101","message":"step `b` is unknown","file":"h.py","line":4,"step":"a","hint":"did you mean c?"},
            "problems":[{"code":"CSY-1101","message":"step `b` is unknown","file":"h.py","line":4,"step":"a","hint":"did you mean c?"},
            {"message":"no end","file":"h.py","line":null,"step":null,"hint":null}]}"#;
        let DescribeError::Invalid(problems) = read_python(&output(2, &text.replace('\n', ""))).unwrap_err() else { panic!() };
        let fault = invalid(&problems);
        assert_eq!(
            (fault.message.as_str(), fault.details.as_slice()),
            ("h.py:4 step `b` is unknown", ["also: h.py no end".to_owned()].as_slice())
        );
        assert_eq!((fault.exit, fault.code.to_string().as_str()), (Exit::Usage, "CSY-1101"));
    }
}
