//! The host of steps that are commands (`causey host`): says hello, takes attempts, runs a command for each and answers with what it
//! left. It speaks the protocol of `docs/protocol.md` §1 over the worker's socket and runs no user code in its own process.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use causey_artifacts::{Object, ObjectLink};
use causey_protocol::artifact::object_path;
use causey_protocol::flow::Transition;
use causey_protocol::id::hex;
use serde_json::{Map, Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::signal::unix::{SignalKind, signal};

use super::command::{self, Failed};
use super::flow_file::{CommandStep, FlowFile, What};
use super::task::{Folders, Input, Run, environment};
use super::values::{self, Parent, Product, Trouble, trouble};

/// Inputs of a wide join asked for at once.
const INPUTS_AT_ONCE: u32 = 1_024;

/// Bytes of one input in a table: run, key and digest of its object.
const TABLE_ROW_BYTES: usize = 64;

/// The line to the worker.
struct Wire {
    lines: tokio::io::Lines<BufReader<OwnedReadHalf>>,
    writer: OwnedWriteHalf,
}

impl Wire {
    async fn connect(socket: &Path) -> io::Result<Self> {
        let (reader, writer) = UnixStream::connect(socket).await?.into_split();
        Ok(Self { lines: BufReader::new(reader).lines(), writer })
    }

    async fn send(&mut self, line: &Value) -> io::Result<()> {
        self.writer.write_all(format!("{line}\n").as_bytes()).await
    }

    /// Asks the worker and returns its answer.
    async fn ask(&mut self, question: &Value) -> Result<Value, Trouble> {
        let gone = |error: io::Error| trouble(format!("the worker went away: {error}"));
        self.send(question).await.map_err(gone)?;
        let line = self.lines.next_line().await.map_err(gone)?.ok_or_else(|| trouble("the worker went away"))?;
        serde_json::from_str(&line).map_err(|error| trouble(format!("the worker's answer cannot be read: {error}")))
    }

    /// Waits until the worker closes the line. While a command runs there is nothing else to hear from it.
    async fn gone(&mut self) {
        let _ = self.lines.next_line().await;
    }

    /// Sees to it that a file of the artifact store is there.
    async fn fetch(&mut self, store: &Path, path: &str) -> Result<(), Trouble> {
        if store.join(path).exists() {
            return Ok(());
        }
        let answer = self.ask(&json!({"type": "fetch", "path": path})).await?;
        match answer["type"].as_str() {
            Some("fetched") => Ok(()),
            _ => Err(trouble(format!("{path} cannot be fetched: {}", answer["message"].as_str().unwrap_or_default()))),
        }
    }
}

/// What the host runs: the commands of a flow file, or one program for a step of a flow in another language.
enum Code {
    File(Box<FlowFile>),
    Program(PathBuf),
}

/// Serves the worker that started this process, until it closes the line.
///
/// # Errors
/// When this process was not started as a host, or the line breaks.
pub async fn serve() -> io::Result<()> {
    let told = |name: &str| env::var(name).map_err(|_| io::Error::other(format!("{name} is not set: `causey host` is started by workers")));
    let (socket, host, file) = (told("CAUSEY_HOST_SOCKET")?, told("CAUSEY_HOST_ID")?, told("CAUSEY_FLOW_FILE")?);
    // Asked to end, the command ends; this process lives to tell.
    let _heard = signal(SignalKind::terminate())?;
    let mut wire = Wire::connect(Path::new(&socket)).await?;
    let language = format!("exec {}", env!("CARGO_PKG_VERSION"));
    let hello = json!({"type": "hello", "protocol": 1, "host": host, "role": "runner", "pid": std::process::id(), "language": language});
    wire.send(&hello).await?;
    let code = match load(Path::new(&file)) {
        Ok(code) => code,
        Err(error) => {
            wire.send(&json!({"type": "load_failed", "error": error})).await?;
            return Ok(());
        }
    };
    wire.send(&json!({"type": "ready"})).await?;
    while let Some(line) = wire.lines.next_line().await? {
        let Ok(run) = serde_json::from_str::<Run>(&line) else {
            return Err(io::Error::other("the worker said what this host does not know"));
        };
        let answer = answer(&mut wire, &code, &run).await;
        wire.send(&answer).await?;
    }
    Ok(())
}

fn load(file: &Path) -> Result<Code, Value> {
    if file.extension().is_none_or(|ending| ending != "toml") {
        return Ok(Code::Program(file.to_owned()));
    }
    let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let failed = |message: String, line: Option<u32>, hint: Option<String>| json!({"type": "InvalidFlow", "message": message, "traceback": "", "file": name, "line": line, "hint": hint});
    let text = fs::read_to_string(file).map_err(|error| failed(format!("{name} cannot be read: {error}"), None, None))?;
    FlowFile::parse(&text, &name).map(|flow| Code::File(Box::new(flow))).map_err(|flaws| {
        let first = flaws.into_iter().next().unwrap_or_default();
        failed(first.message, Some(first.line), first.hint)
    })
}

async fn answer(wire: &mut Wire, code: &Code, run: &Run) -> Value {
    match attempt(wire, code, run).await {
        Ok(fields) => Value::Object(fields),
        Err(Failed { kind, trouble: Trouble { message, hint }, retryable, timed_out, said }) => {
            let hash = blake3::hash(format!("{}\n{kind}", run.step).as_bytes()).to_hex();
            let error = json!({"type": kind, "message": message, "traceback": said, "step": run.step, "hash": &hash[..32], "hint": hint});
            json!({"type": "failed", "key": run.key, "retryable": retryable, "timed_out": timed_out, "error": error})
        }
    }
}

async fn attempt(wire: &mut Wire, code: &Code, run: &Run) -> Result<Map<String, Value>, Failed> {
    let program;
    let step = match code {
        Code::File(flow) => flow.steps.get(&run.step).ok_or_else(|| trouble(format!("the flow file has no step `{}`", run.step)))?,
        Code::Program(file) => {
            program = CommandStep { what: What::Program(vec![file.display().to_string()]), ..CommandStep::default() };
            &program
        }
    };
    let parents = parents(wire, run).await?;
    let is_join = parents.len() != 1;
    let folders = Folders::make(&run.folder)?;
    give_inputs(wire, run, step, &parents, &folders).await?;
    let item = match &parents[..] {
        [parent] => {
            for file in values::needed_for_item(parent, &run.path) {
                wire.fetch(&run.store, &file).await?;
            }
            values::item(parent, &run.path, &run.store)?
        }
        _ => None,
    };
    let environment = environment(run, step, &folders, item.as_ref(), parents.len())?;
    let status = command::run(run, step, &environment, wire.gone()).await?;
    command::judge(run, step, status)?;
    let mut product = Product::default();
    product.take(&folders.outputs, &run.folder)?;
    for wanted in &step.outputs {
        if !folders.outputs.join(wanted).is_file() {
            let hint = format!("write it to \"$CAUSEY_OUTPUTS/{wanted}\", or take it out of `outputs`");
            return Err(Trouble { message: format!("step `{}` did not leave its output {wanted}", run.step), hint: Some(hint) }.into());
        }
    }
    let splits = matches!(run.transition, Transition::Foreach { .. });
    inherit(&mut product, &parents, is_join, splits || run.path.is_empty());
    let (next, count) = go_on(wire, run, &parents, &mut product).await?;
    let mut fields = product.fields(&run.folder)?;
    fields.insert("type".into(), json!("finished"));
    fields.insert("key".into(), json!(run.key));
    fields.insert("next".into(), json!(next));
    fields.insert("foreach".into(), json!(count));
    fields.insert("publish".into(), json!([]));
    Ok(fields)
}

/// A join keeps what all its parents have alike; any other step what its parent has.
fn inherit(product: &mut Product, parents: &[Parent], is_join: bool, new_foreach: bool) {
    let Some(first) = parents.first() else { return };
    for stored in first.artifacts() {
        let about_foreach = values::is_about_foreach(stored.name);
        let alike = || {
            parents[1..].iter().all(|parent| {
                parent.artifact(stored.name).is_some_and(|other| !stored.entry.hash.is_empty() && other.entry.hash == stored.entry.hash)
            })
        };
        let wanted = match (about_foreach, is_join) {
            (true, _) => !new_foreach,
            (false, true) => alike(),
            (false, false) => !stored.name.starts_with("_model_"),
        };
        if wanted {
            product.inherit(stored);
        }
    }
}

/// The steps that follow, and the number of items of a foreach.
async fn go_on(wire: &mut Wire, run: &Run, parents: &[Parent], product: &mut Product) -> Result<(Vec<String>, Option<usize>), Failed> {
    let step = &run.step;
    match &run.transition {
        Transition::End => Ok((Vec::new(), None)),
        Transition::Linear { to } => Ok((vec![to.to_string()], None)),
        Transition::Branch { to } => Ok((to.iter().map(ToString::to_string).collect(), None)),
        Transition::Gang { .. } => Err(trouble(format!("step `{step}` is a command and cannot open a gang")).into()),
        Transition::Foreach { to, variable } => {
            let value = left_or_inherited(wire, run, parents, product, variable).await?;
            let missing = || Trouble {
                message: format!("step `{step}` splits over `{variable}`, but left no such output"),
                hint: Some(format!("write a JSON list to \"$CAUSEY_OUTPUTS/{variable}.json\"")),
            };
            let Value::Array(items) = value.ok_or_else(missing)? else {
                return Err(trouble(format!("step `{step}` splits over `{variable}`, which is no JSON list")).into());
            };
            if items.is_empty() {
                return Err(trouble(format!("step `{step}` splits over `{variable}`, which has no items: it needs at least one")).into());
            }
            let outer = values::split_stack(parents.first(), run.path.len(), &run.store)?;
            product.open_foreach(variable, &items, &outer, &run.folder)?;
            Ok((vec![to.to_string()], Some(items.len())))
        }
        Transition::Switch { condition, cases } => {
            let value = left_or_inherited(wire, run, parents, product, condition).await?;
            let value = value.ok_or_else(|| Trouble {
                message: format!("step `{step}` switches on `{condition}`, but left no such output"),
                hint: Some(format!("write one of the cases as JSON to \"$CAUSEY_OUTPUTS/{condition}.json\"")),
            })?;
            let case = cases.iter().find(|case| case.value == value).ok_or_else(|| {
                let known: Vec<String> = cases.iter().map(|case| case.value.to_string()).collect();
                trouble(format!("step `{step}` switches on `{condition}`, which is {value}; the cases are {}", known.join(", ")))
            })?;
            Ok((vec![case.to.to_string()], None))
        }
    }
}

async fn left_or_inherited(
    wire: &mut Wire,
    run: &Run,
    parents: &[Parent],
    product: &Product,
    name: &str,
) -> Result<Option<Value>, Trouble> {
    if let Some(value) = product.value(name) {
        return Ok(Some(value.clone()));
    }
    let [parent] = parents else { return Ok(None) };
    let Some(stored) = parent.artifact(name) else { return Ok(None) };
    if let Some(file) = stored.file() {
        wire.fetch(&run.store, &file).await?;
    }
    stored.value(&run.store).map(Some)
}

/// The objects of the parent tasks.
async fn parents(wire: &mut Wire, run: &Run) -> Result<Vec<Parent>, Trouble> {
    let mut parents = Vec::new();
    for Input { step, run: of, key, digest } in inputs(wire, run).await? {
        let path = object_path(of, &key);
        wire.fetch(&run.store, &path).await?;
        let unreadable = |error: &dyn std::fmt::Display| trouble(format!("the result of step `{step}` cannot be read: {error}"));
        let bytes = fs::read(run.store.join(&path)).map_err(|error| unreadable(&error))?;
        let object = Object::read(Bytes::from(bytes)).map_err(|error| unreadable(&error))?;
        parents.push(Parent { step, link: ObjectLink { run: of, key, digest }, object });
    }
    Ok(parents)
}

async fn inputs(wire: &mut Wire, run: &Run) -> Result<Vec<Input>, Trouble> {
    if let Some(inputs) = &run.inputs {
        return Ok(inputs.clone());
    }
    let unreadable = |error: &dyn std::fmt::Display| trouble(format!("the list of inputs cannot be read: {error}"));
    if let Some(file) = &run.inputs_file {
        let bytes = fs::read(file).map_err(|error| unreadable(&error))?;
        return serde_json::from_slice(&bytes).map_err(|error| unreadable(&error));
    }
    let Some(table) = &run.inputs_table else { return Ok(Vec::new()) };
    let mut from = 0;
    while from < table.count {
        let count = INPUTS_AT_ONCE.min(table.count - from);
        let answer = wire.ask(&json!({"type": "inputs", "from": from, "count": count})).await?;
        if answer["type"] != "inputs_ready" {
            return Err(unreadable(&answer["message"].as_str().unwrap_or_default()));
        }
        from += count;
    }
    let bytes = fs::read(&table.file).map_err(|error| unreadable(&error))?;
    let rows = bytes.chunks_exact(TABLE_ROW_BYTES).map(|row| {
        let (run, key, digest) = (&row[..16], &row[16..32], &row[32..]);
        let step = table.step.clone();
        let fields = json!({"step": step, "run": hex(run), "key": hex(key), "digest": hex(digest)});
        serde_json::from_value(fields).map_err(|error| unreadable(&error))
    });
    rows.collect()
}

async fn give_inputs(wire: &mut Wire, run: &Run, step: &CommandStep, parents: &[Parent], folders: &Folders) -> Result<(), Failed> {
    let single = parents.len() == 1;
    for (place, parent) in parents.iter().enumerate() {
        let folder = if single { folders.inputs.clone() } else { folders.inputs.join(place.to_string()) };
        if !single {
            fs::create_dir(&folder).map_err(|error| trouble(format!("cannot make a folder for inputs: {error}")))?;
        }
        for stored in parent.artifacts().filter(|stored| !stored.name.starts_with('_')) {
            let asked = step.inputs.as_ref().map(|inputs| inputs.iter().any(|name| name == stored.name));
            match asked {
                Some(false) => continue,
                None if !stored.is_typed() => continue,
                Some(true) if !stored.is_typed() => {
                    let mut failed = Failed::from(stored.unreadable());
                    failed.retryable = false;
                    return Err(failed);
                }
                Some(true) | None => {}
            }
            if let Some(file) = stored.file() {
                wire.fetch(&run.store, &file).await?;
            }
            stored.write(&run.store, &folder)?;
        }
    }
    for wanted in step.inputs.iter().flatten() {
        if !parents.is_empty() && parents.iter().all(|parent| parent.artifact(wanted).is_none()) {
            let known: Vec<&str> = parents[0].artifacts().map(|stored| stored.name).filter(|name| !name.starts_with('_')).collect();
            let message = format!("step `{}` reads `{wanted}`, which no step before it left", run.step);
            return Err(Trouble { message, hint: Some(format!("there is: {}", known.join(", "))) }.into());
        }
    }
    Ok(())
}
