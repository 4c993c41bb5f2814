//! What a command is told about its attempt: the `run` line of the host protocol, as folders and environment variables.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use causey_protocol::flow::Transition;
use causey_protocol::id::{Digest, RunId, TaskKey};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::flow_file::CommandStep;
use super::values::{Trouble, trouble};

/// Parameters and items longer than this are only in files, in bytes.
const VARIABLE_BYTES_MAX: usize = 32 * 1024;

#[derive(Debug, Deserialize)]
pub(super) struct Run {
    pub(super) key: String,
    pub(super) run: RunId,
    pub(super) run_name: String,
    pub(super) flow: String,
    pub(super) step: String,
    pub(super) path: Vec<u32>,
    pub(super) attempt: u32,
    pub(super) retry: u32,
    pub(super) retries_max: u32,
    pub(super) idempotency_key: String,
    pub(super) parameters: Map<String, Value>,
    #[serde(default)]
    pub(super) trigger: Option<Value>,
    pub(super) store: PathBuf,
    pub(super) folder: PathBuf,
    #[serde(default)]
    pub(super) inputs: Option<Vec<Input>>,
    #[serde(default)]
    pub(super) inputs_file: Option<PathBuf>,
    #[serde(default)]
    pub(super) inputs_table: Option<Table>,
    #[serde(default)]
    pub(super) timeout_seconds: Option<f64>,
    #[serde(default)]
    pub(super) gang: Option<Gang>,
    #[serde(default)]
    pub(super) environment: BTreeMap<String, String>,
    pub(super) transition: Transition,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Input {
    pub(super) step: String,
    pub(super) run: RunId,
    pub(super) key: TaskKey,
    pub(super) digest: Digest,
}

#[derive(Debug, Deserialize)]
pub(super) struct Table {
    pub(super) file: PathBuf,
    pub(super) step: String,
    pub(super) count: u32,
}

#[derive(Debug, Deserialize)]
pub(super) struct Gang {
    pub(super) index: u32,
    pub(super) members: Vec<Member>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Member {
    pub(super) ip: String,
    pub(super) port: u16,
}

/// The folders of an attempt.
pub(super) struct Folders {
    pub(super) inputs: PathBuf,
    pub(super) outputs: PathBuf,
    pub(super) temporary: PathBuf,
}

impl Folders {
    pub(super) fn make(task_folder: &Path) -> Result<Self, Trouble> {
        let make = |name: &str| {
            let folder = task_folder.join(name);
            fs::create_dir(&folder).map(|()| folder).map_err(|error| trouble(format!("cannot make a folder for the step: {error}")))
        };
        Ok(Self { inputs: make("inputs")?, outputs: make("outputs")?, temporary: make("tmp")? })
    }
}

pub(super) fn environment(
    run: &Run,
    step: &CommandStep,
    folders: &Folders,
    item: Option<&Value>,
    parents: usize,
) -> Result<BTreeMap<String, String>, Trouble> {
    let write = |name: &str, value: &Value| {
        let path = run.folder.join(name);
        fs::write(&path, value.to_string())
            .map(|()| path.display().to_string())
            .map_err(|error| trouble(format!("cannot write {name}: {error}")))
    };
    let mut found = step.env.clone();
    found.extend(run.environment.clone());
    let mut set = |name: &str, value: String| found.insert(name.to_owned(), value);
    set("CAUSEY_FLOW", run.flow.clone());
    set("CAUSEY_RUN", run.run.to_string());
    set("CAUSEY_RUN_NAME", run.run_name.clone());
    set("CAUSEY_STEP", run.step.clone());
    set("CAUSEY_ATTEMPT", run.attempt.to_string());
    set("CAUSEY_RETRY", run.retry.to_string());
    set("CAUSEY_RETRIES_MAX", run.retries_max.to_string());
    set("CAUSEY_IDEMPOTENCY_KEY", run.idempotency_key.clone());
    set("CAUSEY_INPUTS", folders.inputs.display().to_string());
    set("CAUSEY_OUTPUTS", folders.outputs.display().to_string());
    set("CAUSEY_PARENTS", parents.to_string());
    set("TMPDIR", folders.temporary.display().to_string());
    set("CAUSEY_PARAMETERS", write("parameters.json", &Value::Object(run.parameters.clone()))?);
    for (name, value) in &run.parameters {
        let text = plain(value);
        let fits = text.len() <= VARIABLE_BYTES_MAX && !text.contains('\0');
        if fits && name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_') {
            set(&format!("CAUSEY_PARAM_{name}"), text);
        }
    }
    if let Some(index) = run.path.last() {
        set("CAUSEY_INDEX", index.to_string());
    }
    if let Some(item) = item {
        set("CAUSEY_ITEM_FILE", write("item.json", item)?);
        let text = plain(item);
        if text.len() <= VARIABLE_BYTES_MAX && !text.contains('\0') {
            set("CAUSEY_ITEM", text);
        }
    }
    if let Some(trigger) = &run.trigger {
        set("CAUSEY_TRIGGER", write("trigger.json", trigger)?);
    }
    if let Some(Gang { index, members }) = &run.gang {
        set("RANK", index.to_string());
        set("WORLD_SIZE", members.len().to_string());
        if let Some(first) = members.first() {
            set("MASTER_ADDR", first.ip.clone());
            set("MASTER_PORT", first.port.to_string());
        }
    }
    Ok(found)
}

/// Text as it is, everything else as JSON.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
