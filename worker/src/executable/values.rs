//! What a command reads and leaves, as files. An artifact in an encoding that all languages know becomes a file named after it; a
//! file that a command leaves becomes an artifact, by its ending.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use causey_artifacts::{Artifact, Object, ObjectLink, Where};
use causey_protocol::artifact::{blob_path, object_path};
use serde_json::{Map, Value, json};

/// Small values travel inside the result's line, up to so many bytes.
const INLINE_BYTES_MAX: usize = 16 * 1024;

/// Larger ones get a file of their own.
const OWN_FILE_BYTES_MIN: usize = 1024 * 1024;

/// Every value begins at a multiple of this.
const ALIGNMENT: usize = 64;

/// Items of a foreach in one artifact.
const ITEMS_PER_CHUNK: usize = 1000;

const ITEMS_PREFIX: &str = "_items_";
const SPLIT_STACK: &str = "_split_stack";

/// What went wrong with a value, for the person whose step it is.
#[derive(Debug)]
pub(super) struct Trouble {
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

pub(super) fn trouble(message: impl Into<String>) -> Trouble {
    Trouble { message: message.into(), hint: None }
}

/// An object of the artifact store, and where to find it again.
#[derive(Debug)]
pub(super) struct Parent {
    pub(super) step: String,
    pub(super) link: ObjectLink,
    pub(super) object: Object,
}

/// A stored value: its entry, and the object it was found in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stored<'a> {
    pub(super) parent: &'a Parent,
    pub(super) name: &'a str,
    pub(super) entry: &'a Artifact,
}

impl Parent {
    pub(super) fn artifacts(&self) -> impl Iterator<Item = Stored<'_>> {
        self.object.manifest.artifacts.iter().map(|(name, entry)| Stored { parent: self, name, entry })
    }

    pub(super) fn artifact(&self, name: &str) -> Option<Stored<'_>> {
        let (name, entry) = self.object.manifest.artifacts.get_key_value(name)?;
        Some(Stored { parent: self, name, entry })
    }
}

impl Stored<'_> {
    /// The file of the store that holds the bytes, unless the parent's own object does.
    pub(super) fn file(&self) -> Option<String> {
        match self.parent.object.locate(self.name).ok()? {
            Where::Here(_) => None,
            Where::There { object, .. } => Some(object_path(object.run, &object.key)),
            Where::Blob { digest, .. } => Some(blob_path(&digest)),
        }
    }

    /// The bytes; `store` holds the file already.
    pub(super) fn bytes(&self, store: &Path) -> Result<Bytes, Trouble> {
        let lost = |what: &dyn std::fmt::Display| {
            trouble(format!("artifact `{}` of step `{}` cannot be read: {what}", self.name, self.parent.step))
        };
        match self.parent.object.locate(self.name).map_err(|error| lost(&error))? {
            Where::Here(bytes) => Ok(bytes),
            Where::Blob { digest, .. } => fs::read(store.join(blob_path(&digest))).map(Bytes::from).map_err(|error| lost(&error)),
            Where::There { object, offset, bytes } => {
                let file = fs::read(store.join(object_path(object.run, &object.key))).map_err(|error| lost(&error))?;
                let outside = || lost(&"it lies outside of its object");
                let start = usize::try_from(offset).map_err(|_| outside())?;
                let end = usize::try_from(bytes).ok().and_then(|bytes| start.checked_add(bytes)).ok_or_else(outside)?;
                if end > file.len() {
                    return Err(outside());
                }
                Ok(Bytes::from(file).slice(start..end))
            }
        }
    }

    /// Whether every language reads it.
    pub(super) fn is_typed(&self) -> bool {
        matches!(self.entry.encoding.as_str(), "json" | "table" | "text" | "bytes")
    }

    /// Why it is of no use to a command.
    pub(super) fn unreadable(&self) -> Trouble {
        let language = match self.entry.encoding.as_str() {
            "pickle5" | "skops" => "only Python",
            "rds" => "only R",
            _ => "not every language",
        };
        let message = format!(
            "artifact `{}`, which step `{}` left, is kept as {}, which {language} reads (its type there is {})",
            self.name, self.parent.step, self.entry.encoding, self.entry.kind
        );
        let hint = "leave it as numbers, text, lists of them or a data frame: those are kept so that every language reads them";
        Trouble { message, hint: Some(hint.into()) }
    }

    pub(super) fn value(&self, store: &Path) -> Result<Value, Trouble> {
        let bytes = self.bytes(store)?;
        let damaged =
            |error: serde_json::Error| trouble(format!("artifact `{}` of step `{}` is no JSON: {error}", self.name, self.parent.step));
        match self.entry.encoding.as_str() {
            "json" => serde_json::from_slice(&bytes).map_err(damaged),
            "table" => Ok(records(&serde_json::from_slice(&bytes).map_err(damaged)?)),
            "text" => Ok(String::from_utf8_lossy(&bytes).into_owned().into()),
            _ => Err(self.unreadable()),
        }
    }

    /// Writes it into a folder, for a command to read.
    pub(super) fn write(&self, store: &Path, folder: &Path) -> Result<(), Trouble> {
        let (ending, bytes) = match self.entry.encoding.as_str() {
            "json" => (".json", self.bytes(store)?),
            "table" => (".json", Bytes::from(self.value(store)?.to_string())),
            "text" => (".txt", self.bytes(store)?),
            "bytes" => ("", self.bytes(store)?),
            _ => return Err(self.unreadable()),
        };
        let path = folder.join(format!("{}{ending}", self.name));
        fs::write(&path, bytes).map_err(|error| trouble(format!("cannot write {}: {error}", path.display())))
    }
}

/// A table as a list of records.
fn records(table: &Value) -> Value {
    let columns: Vec<&str> = table["columns"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let values: Vec<&Vec<Value>> = table["values"].as_array().into_iter().flatten().filter_map(Value::as_array).collect();
    let count = values.first().map_or(0, |column| column.len());
    let record = |row: usize| {
        let fields = columns.iter().zip(&values).map(|(name, column)| ((*name).to_owned(), column.get(row).cloned().unwrap_or_default()));
        Value::Object(fields.collect())
    };
    Value::Array((0..count).map(record).collect())
}

/// The item of the innermost foreach that a task with this path works on. `fetch` sees to it that a file of the store is there.
pub(super) fn item(parent: &Parent, path: &[u32], store: &Path) -> Result<Option<Value>, Trouble> {
    let Some(index) = path.last().map(|index| *index as usize) else { return Ok(None) };
    let Some(stack) = parent.artifact(SPLIT_STACK) else { return Ok(None) };
    let stack = stack.value(store)?;
    let level = path.len() - 1;
    let (Some(variable), Some(hash)) = (stack[level][0].as_str(), stack[level][1].as_str()) else { return Ok(None) };
    if variable.is_empty() {
        return Ok(Some(json!(index)));
    }
    let latest = stack.as_array().is_some_and(|levels| levels.len() == path.len());
    let whole = parent.artifact(variable);
    if let Some(chunk) = parent.artifact(&format!("{ITEMS_PREFIX}{}", index / ITEMS_PER_CHUNK))
        && latest
        && whole.is_some_and(|whole| whole.entry.hash == hash)
    {
        return chunk.value(store).map(|items| Some(items[index % ITEMS_PER_CHUNK].clone()));
    }
    whole.map(|whole| whole.value(store).map(|items| items[index].clone())).transpose()
}

/// The artifacts whose bytes [`item`] may read.
pub(super) fn needed_for_item(parent: &Parent, path: &[u32]) -> Vec<String> {
    let Some(index) = path.last() else { return Vec::new() };
    let chunk = format!("{ITEMS_PREFIX}{}", *index as usize / ITEMS_PER_CHUNK);
    parent
        .artifacts()
        .filter(|stored| stored.is_typed() && (stored.name == chunk || !stored.name.starts_with(ITEMS_PREFIX)))
        .filter_map(|stored| stored.file())
        .collect()
}

/// A value that a command left.
#[derive(Debug)]
struct Left {
    bytes: Vec<u8>,
    encoding: &'static str,
    kind: &'static str,
}

/// What goes into the result: values, and references to those of the parents.
#[derive(Debug, Default)]
pub(super) struct Product {
    data: Vec<u8>,
    own_files: usize,
    objects: Vec<ObjectLink>,
    artifacts: Map<String, Value>,
    values: BTreeMap<String, Value>,
}

impl Product {
    /// Takes the files of a command's output folder.
    pub(super) fn take(&mut self, outputs: &Path, task_folder: &Path) -> Result<(), Trouble> {
        let failed = |error: std::io::Error| trouble(format!("the outputs cannot be read: {error}"));
        let mut entries: Vec<PathBuf> = Vec::new();
        for entry in fs::read_dir(outputs).map_err(failed)? {
            entries.push(entry.map_err(failed)?.path());
        }
        entries.sort();
        for path in entries {
            let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if file.starts_with('.') {
                continue;
            }
            let found = fs::symlink_metadata(&path).map_err(failed)?;
            if !found.is_file() {
                let hint = "write plain files there; pack a folder into one with tar";
                return Err(Trouble { message: format!("the output {file} is no plain file"), hint: Some(hint.into()) });
            }
            let (name, ending) = file.split_once('.').unwrap_or((&file, ""));
            if !is_artifact_name(name) {
                let hint = "begin with a letter and go on with letters, digits and `_`, as in total.json";
                return Err(Trouble { message: format!("the output {file} cannot be the name of an artifact"), hint: Some(hint.into()) });
            }
            if self.artifacts.contains_key(name) {
                return Err(trouble(format!("two outputs would be the artifact `{name}`; {file} is one of them")));
            }
            let bytes = fs::read(&path).map_err(failed)?;
            self.add(name, &left(&file, ending, bytes)?, task_folder)?;
        }
        Ok(())
    }

    fn add(&mut self, name: &str, left: &Left, task_folder: &Path) -> Result<(), Trouble> {
        if left.encoding == "json" {
            self.values.insert(name.to_owned(), serde_json::from_slice(&left.bytes).unwrap_or_default());
        }
        let hash = blake3::hash(&left.bytes).to_hex();
        let mut entry = json!({"bytes": left.bytes.len(), "encoding": left.encoding, "type": left.kind, "hash": &hash[..32], "offset": 0});
        if left.bytes.len() >= OWN_FILE_BYTES_MIN {
            let file = format!("big-{}", self.own_files);
            self.own_files += 1;
            fs::write(task_folder.join(&file), &left.bytes).map_err(|error| trouble(format!("cannot keep output `{name}`: {error}")))?;
            entry["file"] = json!(file);
        } else {
            self.data.resize(self.data.len().next_multiple_of(ALIGNMENT), 0);
            entry["file"] = json!("data");
            entry["offset"] = json!(self.data.len());
            self.data.extend_from_slice(&left.bytes);
        }
        self.artifacts.insert(name.to_owned(), entry);
        Ok(())
    }

    /// Whether the command left it.
    pub(super) fn value(&self, name: &str) -> Option<&Value> {
        self.values.get(name)
    }

    /// Passes on what the command did not leave anew.
    pub(super) fn inherit(&mut self, stored: Stored<'_>) {
        if self.artifacts.contains_key(stored.name) {
            return;
        }
        let entry = stored.entry;
        let mut inherited = json!({"bytes": entry.bytes, "encoding": entry.encoding, "type": entry.kind, "hash": entry.hash});
        if let Some(buffers) = &entry.buffers {
            inherited["buffers"] = json!(buffers);
        }
        match entry.blob {
            Some(digest) => inherited["blob"] = json!(digest),
            None => {
                let holder = entry.object.and_then(|index| stored.parent.object.manifest.objects.get(index as usize));
                let holder = holder.copied().unwrap_or(stored.parent.link);
                let index = self.objects.iter().position(|object| *object == holder).unwrap_or_else(|| {
                    self.objects.push(holder);
                    self.objects.len() - 1
                });
                inherited["object"] = json!(index);
                inherited["offset"] = json!(entry.offset);
            }
        }
        self.artifacts.insert(stored.name.to_owned(), inherited);
    }

    /// Opens a foreach over a value that was left or inherited: its items in pieces, and where it stands among enclosing ones.
    pub(super) fn open_foreach(&mut self, variable: &str, items: &[Value], outer: &[Value], task_folder: &Path) -> Result<(), Trouble> {
        for (place, chunk) in items.chunks(ITEMS_PER_CHUNK).enumerate() {
            let bytes = serde_json::to_vec(chunk).unwrap_or_default();
            self.add(&format!("{ITEMS_PREFIX}{place}"), &Left { bytes, encoding: "json", kind: "list" }, task_folder)?;
        }
        let hash = self.artifacts.get(variable).map(|entry| entry["hash"].clone()).unwrap_or_default();
        let stack: Vec<Value> = outer.iter().cloned().chain([json!([variable, hash])]).collect();
        let bytes = serde_json::to_vec(&stack).unwrap_or_default();
        self.artifacts.remove(SPLIT_STACK);
        self.add(SPLIT_STACK, &Left { bytes, encoding: "json", kind: "list" }, task_folder)
    }

    /// The fields of the result's line.
    pub(super) fn fields(self, task_folder: &Path) -> Result<Map<String, Value>, Trouble> {
        let mut fields = Map::new();
        if self.data.len() <= INLINE_BYTES_MAX {
            fields.insert("data".into(), json!(BASE64_STANDARD.encode(&self.data)));
        } else {
            let written = fs::File::create(task_folder.join("data")).and_then(|mut file| file.write_all(&self.data));
            written.map_err(|error| trouble(format!("cannot keep the outputs: {error}")))?;
        }
        fields.insert("objects".into(), json!(self.objects));
        fields.insert("artifacts".into(), Value::Object(self.artifacts));
        Ok(fields)
    }
}

/// The enclosing foreach levels as the parent knows them, cut to those of a task with a path of this length.
pub(super) fn split_stack(parent: Option<&Parent>, depth: usize, store: &Path) -> Result<Vec<Value>, Trouble> {
    let Some(stack) = parent.and_then(|parent| parent.artifact(SPLIT_STACK)) else { return Ok(Vec::new()) };
    let Value::Array(mut levels) = stack.value(store)? else { return Ok(Vec::new()) };
    levels.truncate(depth);
    Ok(levels)
}

/// Names of the SDKs' own, which say where a task stands in foreaches.
pub(super) fn is_about_foreach(name: &str) -> bool {
    name == SPLIT_STACK || name.starts_with(ITEMS_PREFIX)
}

fn is_artifact_name(name: &str) -> bool {
    let mut letters = name.chars();
    letters.next().is_some_and(|first| first.is_ascii_alphabetic()) && letters.all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
}

fn left(file: &str, ending: &str, bytes: Vec<u8>) -> Result<Left, Trouble> {
    match ending {
        "json" => {
            let value: Value = serde_json::from_slice(&bytes).map_err(|error| Trouble {
                message: format!("the output {file} is no JSON: {error}"),
                hint: Some("give it another ending if it is something else".into()),
            })?;
            Ok(Left { bytes, encoding: "json", kind: kind(&value) })
        }
        "txt" if std::str::from_utf8(&bytes).is_ok() => Ok(Left { bytes, encoding: "text", kind: "str" }),
        _ => Ok(Left { bytes, encoding: "bytes", kind: "bytes" }),
    }
}

/// What the value is called in Python.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "NoneType",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float",
        Value::Number(_) => "int",
        Value::String(_) => "str",
        Value::Array(_) => "list",
        Value::Object(_) => "dict",
    }
}
