//! From the tables of a flow file to the definition of its graph and the commands of its steps.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json, json};
use toml::de::{DeTable, DeValue};

use causey_protocol::flow::{EXECUTABLE, PYTHON, R};

use super::flow_file::{CommandStep, What};
use super::reader::{Reader, Value, did_you_mean};

const FLOW_KEYS: [&str; 4] = ["name", "doc", "timeout", "package"];
const STEP_KEYS: [&str; 18] = [
    "command",
    "run",
    "r",
    "python",
    "next",
    "foreach",
    "switch",
    "join",
    "inputs",
    "outputs",
    "env",
    "retry",
    "permanent",
    "timeout",
    "grace",
    "resources",
    "doc",
    "host",
];
const PARAMETER_KEYS: [&str; 4] = ["type", "default", "required", "help"];
const PARAMETER_TYPES: [&str; 5] = ["int", "float", "str", "bool", "json"];
const RETRY_KEYS: [&str; 6] = ["times", "delay", "factor", "max_delay", "jitter", "on"];
const RESOURCE_KEYS: [&str; 4] = ["cpu", "memory", "gpu", "pool"];
const HOSTS: [&str; 3] = ["fork", "reuse", "spawn"];

/// What a flow file says.
#[derive(Debug)]
pub(super) struct Parsed {
    pub(super) definition: Json,
    pub(super) package: Vec<String>,
    pub(super) steps: BTreeMap<String, CommandStep>,
}

/// A step's table with its name and place, in the order of the file.
struct Entry<'v, 't> {
    name: String,
    at: usize,
    table: &'v DeTable<'t>,
}

pub(super) fn read<'t>(reader: &mut Reader<'t>, document: &DeTable<'t>, file: &str) -> Option<Parsed> {
    reader.only(document, &["flow", "parameters", "env", "steps"], "a flow file");
    let mut definition = Map::new();
    definition.insert("format".into(), json!(1));
    definition.insert("name".into(), json!(flow_name(file)));
    definition.insert("language".into(), json!(EXECUTABLE));
    definition.insert("file".into(), json!(file));
    let mut package = Vec::new();
    if let Some(flow) = document.get("flow").and_then(|value| reader.table(value, "flow")) {
        reader.only(flow, &FLOW_KEYS, "[flow]");
        for (key, wanted) in [("name", "name"), ("doc", "doc")] {
            if let Some(text) = flow.get(key).and_then(|value| reader.text(value, key)) {
                definition.insert(wanted.into(), json!(text));
            }
        }
        if let Some(seconds) = flow.get("timeout").and_then(|value| reader.seconds(value, "timeout")) {
            definition.insert("timeout_seconds".into(), json!(seconds));
        }
        package = flow.get("package").and_then(|value| reader.texts(value, "package")).unwrap_or_default();
    }
    definition.insert("parameters".into(), Json::Array(parameters(reader, document)));
    let env = document.get("env").map(|value| environment(reader, value)).unwrap_or_default();
    let entries = entries(reader, document);
    if entries.is_empty() {
        reader.flaw(0..0, "the flow has no steps", Some("add one: [steps.start] with command = [\"echo\", \"hello\"]".into()));
        return None;
    }
    let mut steps = BTreeMap::new();
    let mut defined = Vec::new();
    for (place, entry) in entries.iter().enumerate() {
        reader.step = Some(entry.name.clone());
        let following = entries.get(place + 1).map(|entry| entry.name.as_str());
        let names: Vec<&str> = entries.iter().map(|entry| entry.name.as_str()).collect();
        let (step, mut command) = step(reader, entry, following, &names);
        for (name, value) in &env {
            command.env.entry(name.clone()).or_insert_with(|| value.clone());
        }
        defined.push(step);
        steps.insert(entry.name.clone(), command);
    }
    reader.step = None;
    definition.insert("steps".into(), Json::Array(defined));
    Some(Parsed { definition: Json::Object(definition), package, steps })
}

/// The file's name in the letters that a flow's name may have.
fn flow_name(file: &str) -> String {
    let stem = file.rsplit('/').next().unwrap_or(file).trim_end_matches(".toml");
    let name: String =
        stem.chars().map(|letter| if letter.is_ascii_alphanumeric() || letter == '-' { letter } else { '_' }).take(64).collect();
    if name.is_empty() { "flow".into() } else { name }
}

fn entries<'v, 't>(reader: &mut Reader<'t>, document: &'v DeTable<'t>) -> Vec<Entry<'v, 't>> {
    let Some(steps) = document.get("steps").and_then(|value| reader.table(value, "steps")) else { return Vec::new() };
    let mut entries: Vec<Entry<'v, 't>> = Vec::new();
    for (key, value) in steps.iter() {
        let name: &str = key.get_ref();
        if !causey_protocol::id::is_name(name) {
            reader.flaw(key.span(), format!("`{name}` cannot be a step's name"), Some("use up to 64 letters, digits, `_` and `-`".into()));
        } else if let Some(table) = reader.table(value, name) {
            entries.push(Entry { name: name.to_owned(), at: key.span().start, table });
        }
    }
    entries.sort_by_key(|entry| entry.at);
    entries
}

fn parameters<'t>(reader: &mut Reader<'t>, document: &DeTable<'t>) -> Vec<Json> {
    let Some(table) = document.get("parameters").and_then(|value| reader.table(value, "parameters")) else { return Vec::new() };
    let mut found: Vec<(usize, Json)> = Vec::new();
    for (key, value) in table.iter() {
        let name: &str = key.get_ref();
        let parameter = match value.get_ref() {
            DeValue::Table(table) => {
                reader.only(table, &PARAMETER_KEYS, "a parameter");
                let default = table.get("default").and_then(|value| reader.json(value, "default"));
                let told = table.get("type").and_then(|value| reader.text(value, "type").map(|text| (value.span(), text.to_owned())));
                if let Some((span, kind)) = &told
                    && !PARAMETER_TYPES.contains(&kind.as_str())
                {
                    let hint = did_you_mean(kind, &PARAMETER_TYPES).unwrap_or_else(|| format!("use one of {}", PARAMETER_TYPES.join(", ")));
                    reader.flaw(span.clone(), format!("`{kind}` is not a type of parameters"), Some(hint));
                }
                let kind = told.map_or_else(|| kind_of(default.as_ref()), |(_, kind)| kind);
                let required = table.get("required").and_then(|value| reader.flag(value, "required"));
                let help = table.get("help").and_then(|value| reader.text(value, "help")).unwrap_or_default();
                json!({"name": name, "type": kind, "required": required.unwrap_or(default.is_none()), "default": default, "help": help})
            }
            _ => {
                let Some(default) = reader.json(value, name) else { continue };
                json!({"name": name, "type": kind_of(Some(&default)), "required": false, "default": default, "help": ""})
            }
        };
        found.push((key.span().start, parameter));
    }
    found.sort_by_key(|(at, _)| *at);
    found.into_iter().map(|(_, parameter)| parameter).collect()
}

fn kind_of(default: Option<&Json>) -> String {
    let kind = match default {
        Some(Json::Bool(_)) => "bool",
        Some(Json::Number(number)) if number.is_f64() => "float",
        Some(Json::Number(_)) => "int",
        Some(Json::String(_)) | None => "str",
        Some(_) => "json",
    };
    kind.to_owned()
}

fn environment<'t>(reader: &mut Reader<'t>, value: &Value<'t>) -> BTreeMap<String, String> {
    let Some(table) = reader.table(value, "env") else { return BTreeMap::new() };
    let mut found = BTreeMap::new();
    for (key, value) in table.iter() {
        let name: &str = key.get_ref();
        if name.starts_with("CAUSEY_") || name.is_empty() || name.contains('=') {
            reader.flaw(key.span(), format!("`{name}` cannot be set"), Some("names that begin with CAUSEY_ are Causey's own".into()));
        } else if let Some(text) = reader.json(value, name) {
            found.insert(name.to_owned(), text.as_str().map_or_else(|| text.to_string(), str::to_owned));
        }
    }
    found
}

/// What a step runs: the one key that says so.
fn what<'t>(reader: &mut Reader<'t>, entry: &Entry<'_, 't>) -> (What, Option<Json>) {
    let span = entry.at..entry.at;
    let given: Vec<&str> = ["command", "run", "r", "python"].into_iter().filter(|key| entry.table.contains_key(*key)).collect();
    let (name, key) = match given[..] {
        [key] => (&entry.name, key),
        [] => {
            let hint = "give it `command`, `run`, `r` or `python`";
            reader.flaw(span, format!("step `{}` has nothing to run", entry.name), Some(hint.into()));
            return (What::default(), None);
        }
        [first, second, ..] => {
            reader.flaw(span, format!("step `{}` has `{first}` and `{second}`: a step runs one thing", entry.name), None);
            return (What::default(), None);
        }
    };
    let value = &entry.table[key];
    match key {
        "command" => {
            let words = match value.get_ref() {
                DeValue::String(text) => Some(text.split_whitespace().map(str::to_owned).collect()),
                _ => reader.texts(value, key),
            };
            let words: Vec<String> = words.unwrap_or_else(|| vec![String::new()]);
            if words.first().is_none_or(|word| word.is_empty()) && reader.flaws.last().is_none_or(|flaw| flaw.step.as_ref() != Some(name)) {
                reader.flaw(value.span(), format!("the command of step `{name}` names no program"), None);
            }
            (What::Program(words), None)
        }
        "run" => (What::Shell(reader.text(value, key).unwrap_or_default().to_owned()), None),
        language => {
            let file = reader.text(value, key).unwrap_or_default().to_owned();
            let language = if language == "r" { R } else { PYTHON };
            (What::Elsewhere, Some(json!({"language": language, "file": file})))
        }
    }
}

fn step<'t>(reader: &mut Reader<'t>, entry: &Entry<'_, 't>, following: Option<&str>, names: &[&str]) -> (Json, CommandStep) {
    let Entry { name, at, table } = entry;
    reader.only(table, &STEP_KEYS, "a step");
    let (what, code) = what(reader, entry);
    let next = next(reader, entry, following, names);
    let mut step = Map::new();
    step.insert("name".into(), json!(name));
    step.insert("line".into(), json!(reader.line(*at)));
    step.insert("next".into(), next);
    if let Some(code) = code {
        step.insert("code".into(), code);
    }
    for (key, value) in table.iter() {
        let read = match key.get_ref().as_ref() {
            "doc" => reader.text(value, "doc").map(|text| ("doc", json!(text))),
            "join" => reader.flag(value, "join").map(|flag| ("join", json!(flag))),
            "timeout" => reader.seconds(value, "timeout").map(|seconds| ("timeout_seconds", json!(seconds))),
            "grace" => reader.seconds(value, "grace").map(|seconds| ("grace_seconds", json!(seconds))),
            "retry" => retry(reader, value).map(|retry| ("retry", retry)),
            "resources" => resources(reader, value).map(|resources| ("resources", resources)),
            "host" => one_of(reader, value, "host", &HOSTS).map(|host| ("host", json!(host))),
            _ => None,
        };
        if let Some((key, value)) = read {
            step.insert(key.into(), value);
        }
    }
    let command = CommandStep {
        what,
        env: table.get("env").map(|value| environment(reader, value)).unwrap_or_default(),
        inputs: table.get("inputs").and_then(|value| reader.texts(value, "inputs")),
        outputs: table.get("outputs").and_then(|value| reader.texts(value, "outputs")).unwrap_or_default(),
        permanent: table.get("permanent").map(|value| codes(reader, value, "permanent")).unwrap_or_default(),
    };
    (Json::Object(step), command)
}

fn one_of<'t>(reader: &mut Reader<'t>, value: &Value<'t>, key: &str, known: &[&str]) -> Option<String> {
    let text = reader.text(value, key)?.to_owned();
    if known.contains(&text.as_str()) {
        return Some(text);
    }
    let hint = did_you_mean(&text, known).unwrap_or_else(|| format!("use one of {}", known.join(", ")));
    reader.flaw(value.span(), format!("`{text}` is not a {key}"), Some(hint));
    None
}

fn next<'t>(reader: &mut Reader<'t>, entry: &Entry<'_, 't>, following: Option<&str>, names: &[&str]) -> Json {
    let table = entry.table;
    if let Some(value) = table.get("switch") {
        return switch(reader, value, entry, names);
    }
    let targets = match table.get("next") {
        Some(value) if value.get_ref().as_str().is_some() => vec![target(reader, value, entry, names)],
        Some(value) => match value.get_ref().as_array() {
            Some(array) => array.iter().map(|item| target(reader, item, entry, names)).collect(),
            None => {
                reader.flaw(value.span(), "`next` must be a step's name or a list of them", None);
                Vec::new()
            }
        },
        None => following.into_iter().map(str::to_owned).collect(),
    };
    let variable = table.get("foreach").and_then(|value| reader.text(value, "foreach").map(|text| (value.span(), text.to_owned())));
    match (&targets[..], variable) {
        ([to], Some((_, variable))) => json!({"foreach": {"to": to, "variable": variable}}),
        (_, Some((span, _))) => {
            reader.flaw(span, format!("step `{}` splits with `foreach`, so it goes on to exactly one step", entry.name), None);
            json!("end")
        }
        ([], None) => json!("end"),
        ([to], None) => json!({"linear": {"to": to}}),
        (several, None) => json!({"branch": {"to": several}}),
    }
}

fn target<'t>(reader: &mut Reader<'t>, value: &Value<'t>, entry: &Entry<'_, 't>, names: &[&str]) -> String {
    let Some(target) = reader.text(value, "next").map(str::to_owned) else { return entry.name.clone() };
    if !names.contains(&target.as_str()) {
        let hint = did_you_mean(&target, names).unwrap_or_else(|| format!("the steps are {}", names.join(", ")));
        reader.flaw(value.span(), format!("step `{}` goes on to `{target}`, which is not a step", entry.name), Some(hint));
    }
    target
}

/// `switch = { on = "kind", cases = { small = "a", large = "b" } }`.
fn switch<'t>(reader: &mut Reader<'t>, value: &Value<'t>, entry: &Entry<'_, 't>, names: &[&str]) -> Json {
    let Some(table) = reader.table(value, "switch") else { return json!("end") };
    reader.only(table, &["on", "cases"], "a switch");
    let condition = table.get("on").and_then(|value| reader.text(value, "on")).map(str::to_owned);
    let cases = table.get("cases").and_then(|value| reader.table(value, "cases"));
    let (Some(condition), Some(cases)) = (condition, cases) else {
        reader.flaw(value.span(), format!("the switch of step `{}` needs `on`, an output, and `cases`", entry.name), None);
        return json!("end");
    };
    let mut found: Vec<(usize, Json)> = Vec::new();
    for (key, value) in cases.iter() {
        let name: &str = key.get_ref();
        // Keys are text; those that read as a number or a boolean mean one.
        let case = serde_json::from_str::<Json>(name).ok().filter(|case| case.is_number() || case.is_boolean());
        let to = target(reader, value, entry, names);
        found.push((key.span().start, json!({"value": case.unwrap_or_else(|| json!(name)), "to": to})));
    }
    found.sort_by_key(|(at, _)| *at);
    let cases: Vec<Json> = found.into_iter().map(|(_, case)| case).collect();
    json!({"switch": {"condition": condition, "cases": cases}})
}

/// `retry = 3` or `retry = { times = 3, delay = "10s", on = [75] }`.
fn retry<'t>(reader: &mut Reader<'t>, value: &Value<'t>) -> Option<Json> {
    let mut policy = Map::new();
    let DeValue::Table(table) = value.get_ref() else {
        let times = reader.integer(value, "retry")?;
        return Some(json!({"times": times.max(0), "delay_seconds": 1.0}));
    };
    reader.only(table, &RETRY_KEYS, "a retry");
    let times = table.get("times").and_then(|value| reader.integer(value, "times")).unwrap_or(3);
    policy.insert("times".into(), json!(times.max(0)));
    let delay = table.get("delay").and_then(|value| reader.seconds(value, "delay")).unwrap_or(1.0);
    policy.insert("delay_seconds".into(), json!(delay));
    if let Some(most) = table.get("max_delay").and_then(|value| reader.seconds(value, "max_delay")) {
        policy.insert("cap_seconds".into(), json!(most));
    }
    for key in ["factor", "jitter"] {
        if let Some(number) = table.get(key).and_then(|value| reader.number(value, key)) {
            policy.insert(key.into(), json!(number));
        }
    }
    if let Some(value) = table.get("on") {
        let names: Vec<String> = codes(reader, value, "on").iter().map(|code| format!("exit {code}")).collect();
        policy.insert("on".into(), json!(names));
    }
    Some(Json::Object(policy))
}

/// Exit codes.
fn codes<'t>(reader: &mut Reader<'t>, value: &Value<'t>, key: &str) -> Vec<i64> {
    let Some(array) = value.get_ref().as_array() else {
        reader.flaw(value.span(), format!("`{key}` must be a list of exit codes"), None);
        return Vec::new();
    };
    array.iter().filter_map(|item| reader.integer(item, key)).collect()
}

fn resources<'t>(reader: &mut Reader<'t>, value: &Value<'t>) -> Option<Json> {
    let table = reader.table(value, "resources")?;
    reader.only(table, &RESOURCE_KEYS, "resources");
    let mut found = Map::new();
    for (key, name) in [("cpu", "cpu"), ("gpu", "gpu")] {
        if let Some(number) = table.get(key).and_then(|value| reader.number(value, key)) {
            found.insert(name.into(), json!(number));
        }
    }
    if let Some(megabytes) = table.get("memory").and_then(|value| reader.integer(value, "memory")) {
        found.insert("memory_mb".into(), json!(megabytes.max(0)));
    }
    if let Some(pool) = table.get("pool").and_then(|value| reader.text(value, "pool")) {
        found.insert("pool".into(), json!(pool));
    }
    Some(Json::Object(found))
}
