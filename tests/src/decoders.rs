//! Everything that reads bytes from outside, as targets: each says of any bytes whether it takes them, but must not panic, and what it
//! takes must mean the same when it is written and read again. `tests/decoders.rs` runs them over damaged seeds, `fuzz/` under libFuzzer.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::LazyLock;

use bytes::Bytes;
use causey_coordinator::inbox::{decode_event, decode_inbox};
use causey_coordinator::outside::Raw;
use causey_coordinator::{archive, log, snapshot};
use causey_engine::{Command, History, State, commands, decide, outstanding, violations};
use causey_protocol::chunk::{CHUNK_BYTES_MAX, Chunk, ChunkList};
use causey_protocol::codec::{self, MESSAGE_BYTES_MAX, TURN_BYTES_MAX};
use causey_protocol::event::CloudEvent;
use causey_protocol::flow::{Definition, Flow, Transition};
use causey_protocol::id::{Digest, Timestamp};
use causey_protocol::input::{Input, RequestMessage};
use causey_protocol::live::{Ask, LiveOutput, Told};
use causey_protocol::record::{Position, RunState, Turn};
use causey_protocol::task::{Dispatch, DispatchedTask, InputRef, Inputs, Outcome, Report, ReportItem};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::tools::workspace;

/// One target.
#[derive(Clone, Copy, Debug)]
pub struct Decoder {
    pub name: &'static str,
    /// Whether it takes the bytes.
    pub read: fn(&[u8]) -> bool,
    /// Bytes it accepts.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All targets; `fuzz/fuzz_targets` has a file for each.
pub const ALL: [Decoder; 14] = [
    Decoder { name: "turn", read: turn, seeds: || golden("turn") },
    Decoder { name: "dispatch", read: dispatch, seeds: || golden("dispatch") },
    Decoder { name: "report", read: report, seeds: || golden("report") },
    Decoder { name: "request", read: request, seeds: || golden("request") },
    Decoder { name: "live", read: live, seeds: || [golden("ask"), golden("told"), golden("live")].concat() },
    Decoder { name: "chunk", read: chunk, seeds: || [golden("chunk"), golden("inputs")].concat() },
    Decoder { name: "event", read: event, seeds: event_seeds },
    Decoder { name: "flow", read: flow, seeds: flow_seeds },
    Decoder { name: "host_line", read: host_line, seeds: host_line_seeds },
    Decoder { name: "package", read: package, seeds: package_seeds },
    Decoder { name: "object", read: object, seeds: object_seeds },
    Decoder { name: "snapshot", read: snapshot, seeds: snapshot_seeds },
    Decoder { name: "history", read: history, seeds: history_seeds },
    Decoder { name: "inputs", read: inputs, seeds: inputs_seeds },
];

/// Reads a message; what is read must be the same after it was written.
fn message<T: Serialize + DeserializeOwned>(bytes: &[u8], bytes_max: usize) -> Option<T> {
    let value: T = codec::decode(bytes, bytes_max).ok()?;
    let written = codec::encode(&value);
    let again: T = codec::decode(&written, usize::MAX).expect("what was written is read");
    assert_eq!(codec::encode(&again), written, "it changes when it is written and read");
    Some(value)
}

/// Golden messages whose names begin so.
fn golden(name: &str) -> Vec<Vec<u8>> {
    let folder = workspace().join("protocol/tests/golden");
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(folder).expect("there are golden messages").map(|entry| entry.expect("it is listed").path()).collect();
    files.sort();
    let named = files.into_iter().filter(|file| file.file_name().is_some_and(|file| file.to_string_lossy().starts_with(name)));
    named.map(|file| std::fs::read(file).expect("a golden message can be read")).collect()
}

/// A turn of the log.
pub fn turn(bytes: &[u8]) -> bool {
    let _ = log::follow(log::Tail::EMPTY, 1, bytes);
    message::<Turn>(bytes, TURN_BYTES_MAX).is_some()
}

/// What a worker takes from its queue.
pub fn dispatch(bytes: &[u8]) -> bool {
    let Some(dispatch) = message::<Dispatch>(bytes, MESSAGE_BYTES_MAX) else { return false };
    for task in &dispatch.tasks {
        let _ = (dispatch.key(task), dispatch.task_id(task).to_string());
    }
    true
}

/// What the coordinator is told by a worker.
pub fn report(bytes: &[u8]) -> bool {
    let Some(report) = message::<Report>(bytes, MESSAGE_BYTES_MAX) else { return false };
    let items = report.items.len();
    assert_eq!(report.pieces().map(|piece| piece.len()).sum::<usize>(), items, "an item is lost or doubled");
    true
}

/// What people ask for.
pub fn request(bytes: &[u8]) -> bool {
    message::<RequestMessage>(bytes, MESSAGE_BYTES_MAX).is_some()
}

/// What workers and coordinators say past the streams.
pub fn live(bytes: &[u8]) -> bool {
    let (ask, told) = (message::<Ask>(bytes, MESSAGE_BYTES_MAX), message::<Told>(bytes, MESSAGE_BYTES_MAX));
    ask.is_some() || told.is_some() || message::<LiveOutput>(bytes, MESSAGE_BYTES_MAX).is_some()
}

/// Chunks of a wide foreach, and the inputs of its join.
pub fn chunk(bytes: &[u8]) -> bool {
    let list = message::<ChunkList>(bytes, CHUNK_BYTES_MAX).is_some();
    let inputs = message::<Inputs>(bytes, CHUNK_BYTES_MAX).is_some() || message::<Vec<InputRef>>(bytes, CHUNK_BYTES_MAX).is_some();
    let Some(chunk) = message::<Chunk>(bytes, CHUNK_BYTES_MAX) else { return list || inputs };
    for step in &chunk.steps {
        let _ = chunk.tasks(&step.step).count();
    }
    true
}

/// A CloudEvent: structured JSON, or behind a line of `name: value` headers that end with an empty line the binary form.
pub fn event(bytes: &[u8]) -> bool {
    let Input::Event { event, .. } = decode_event(&raw_event(bytes)) else { return false };
    let again = CloudEvent::from_structured(event.to_structured()).expect("what was written is read");
    assert_eq!(again, event, "it changes when it is written and read");
    true
}

fn raw_event(bytes: &[u8]) -> Raw {
    let end = bytes.windows(2).position(|pair| pair == b"\n\n");
    let (head, payload) = end.map_or((&bytes[..0], bytes), |end| (&bytes[..end], &bytes[end + 2..]));
    let head = String::from_utf8_lossy(head).into_owned();
    let headers = head.lines().filter_map(|line| line.split_once(": ")).map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()));
    Raw { sequence: 1, subject: "causey.event.api".into(), headers: headers.collect(), payload: Bytes::copy_from_slice(payload) }
}

fn event_seeds() -> Vec<Vec<u8>> {
    let structured = json!({"specversion": "1.0", "id": "1", "source": "/s", "type": "t", "subject": "x", "time": "2026-01-01T00:00:00Z",
        "traceparent": "00-a", "data": {"day": "2026-01-01", "rows": [1, 2.5, null, true]}});
    let base64 = json!({"specversion": "1.0", "id": "2", "source": "/s", "type": "t", "data_base64": "AAEC"});
    let binary = "ce-specversion: 1.0\nce-id: 1\nce-source: /s%20p\nce-type: t\ncontent-type: application/json\n\n{\"a\": 1}";
    let text = "ce-specversion: 1.0\nce-id: 1\nce-source: /s\nce-type: t\ncontent-type: text/plain\n\nwords";
    vec![structured.to_string().into(), base64.to_string().into(), binary.into(), text.into()]
}

/// A flow as an SDK writes it.
pub fn flow(bytes: &[u8]) -> bool {
    let Ok(definition) = serde_json::from_slice::<Definition>(bytes) else { return false };
    let Ok(flow) = Flow::try_from(definition) else { return false };
    let written = serde_json::to_vec(&flow).expect("a flow has a JSON form");
    let again: Flow = serde_json::from_slice(&written).expect("what was written is read");
    assert_eq!(again.digest(), flow.digest(), "it changes when it is written and read");
    true
}

fn flow_seeds() -> Vec<Vec<u8>> {
    let switching = json!({"format": 1, "name": "Demo", "language": "python", "file": "flow.py", "package": Digest::of(b"package"), "doc": "words",
        "steps": [
            {"name": "start", "line": 3, "next": {"branch": {"to": ["left", "right"]}}},
            {"name": "left", "next": {"foreach": {"to": "item", "variable": "items"}}, "retry": {"times": 3, "delay_seconds": 1.5, "factor": 2.0, "cap_seconds": 60, "jitter": 0.5, "on": ["OSError"]}},
            {"name": "item", "next": {"linear": {"to": "gather"}}, "host": "reuse", "timeout_seconds": 60.0, "grace_seconds": 1.0},
            {"name": "gather", "join": true, "next": {"linear": {"to": "meet"}}, "catch": {"variable": "problem"}},
            {"name": "right", "next": {"linear": {"to": "turn"}}, "resources": {"cpu": 2, "memory_mb": 100, "gpu": 0, "pool": "default"}},
            {"name": "turn", "next": {"switch": {"condition": "kind", "cases": [{"value": "again", "to": "turn"}, {"value": 1, "to": "leave"}]}}, "visits_max": 5},
            {"name": "leave", "next": {"linear": {"to": "meet"}}},
            {"name": "meet", "join": true, "next": {"linear": {"to": "end"}}},
            {"name": "end", "next": "end"}],
        "parameters": [{"name": "alpha", "type": "float", "required": false, "default": 0.5, "help": "a number"}],
        "triggers": [{"events": [{"name": "data.arrived", "parameters": {"alpha": "alpha"}}]}], "timeout_seconds": 3600.0});
    vec![switching.to_string().into(), serde_json::to_vec(&small_flow()).expect("a flow has a JSON form")]
}

fn small_flow() -> Definition {
    let step = |name: &str, next: serde_json::Value| json!({"name": name, "next": next, "join": name == "gather"});
    let steps = [
        step("start", json!({"foreach": {"to": "work", "variable": "items"}})),
        step("work", json!({"linear": {"to": "gather"}})),
        step("gather", json!({"linear": {"to": "turn"}})),
        step(
            "turn",
            json!({"switch": {"condition": "kind", "cases": [{"value": "again", "to": "turn"}, {"value": "leave", "to": "end"}]}}),
        ),
        step("end", json!("end")),
    ];
    let definition =
        json!({"format": 1, "name": "Demo", "language": "python", "file": "flow.py", "package": Digest::of(b"package"), "steps": steps});
    serde_json::from_value(definition).expect("it is a definition")
}

/// A line from a host.
pub fn host_line(bytes: &[u8]) -> bool {
    causey_worker::decoders::host_line(bytes)
}

fn host_line_seeds() -> Vec<Vec<u8>> {
    let (key, digest) = ("00112233445566778899aabbccddeeff", Digest::of(b"content"));
    let object = json!({"run": "0199aaaa-0000-7000-8000-000000000000", "key": key, "digest": digest});
    let artifact =
        json!({"file": "data", "offset": 0, "bytes": 3, "buffers": [[0, 1], [1, 2]], "encoding": "pickle5", "type": "int", "hash": "00"});
    let error = json!({"type": "ValueError", "message": "bad", "traceback": "", "classes": ["Exception"], "step": "work"});
    let publication = json!({"model": "squares", "artifact": "x", "format": "json", "metrics": {"rmse": 0.5}, "tags": {"a": "b"}});
    let lines = [
        json!({"type": "hello", "protocol": 1, "host": "h1", "role": "template", "pid": 7, "language": "python"}),
        json!({"type": "loaded", "forkable": true, "because": null}),
        json!({"type": "load_failed", "error": error}),
        json!({"type": "exited", "host": "h1", "pid": 7, "code": 1, "signal": null}),
        json!({"type": "finished", "key": key, "next": ["end"], "foreach": 3, "objects": [object], "artifacts": {"x": artifact}, "data": "AAEC", "publish": [publication]}),
        json!({"type": "failed", "key": key, "retryable": false, "timed_out": true, "error": error, "artifacts": {"x": artifact}}),
        json!({"type": "fetch", "path": "cas/x"}),
        json!({"type": "inputs", "from": 0, "count": 10}),
        json!({"type": "model", "name": "squares", "version": 1}),
    ];
    lines.iter().map(|line| line.to_string().into()).collect()
}

/// A code package. Whatever it is, nothing appears outside of its folder, and no link in it.
///
/// # Panics
/// When something did.
pub fn package(bytes: &[u8]) -> bool {
    let around = tempfile::tempdir().expect("a temporary folder");
    let inside = around.path().join("package");
    std::fs::create_dir(&inside).expect("a folder in it");
    let taken = causey_worker::decoders::package(bytes, &inside);
    let mut folders = vec![around.path().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("it can be listed") {
            let path = entry.expect("it is listed").path();
            let kind = std::fs::symlink_metadata(&path).expect("it is there").file_type();
            assert!(path.starts_with(&inside) && (kind.is_dir() || kind.is_file()), "{}", path.display());
            if kind.is_dir() {
                folders.push(path);
            }
        }
    }
    taken
}

fn package_seeds() -> Vec<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, content) in [("flow.py", "import os\n"), ("lib/part.py", "x = 1\n"), (&*"long/".repeat(30), "deep")] {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        archive
            .append_data(&mut header, format!("{name}{}", if name.ends_with('/') { "x" } else { "" }), content.as_bytes())
            .expect("it is appended");
    }
    vec![archive.into_inner().expect("it is written")]
}

/// An attempt's object: manifest, artifacts and the log of its step.
pub fn object(bytes: &[u8]) -> bool {
    let output = causey_artifacts::read_chunks(bytes).is_ok();
    let Ok(object) = causey_artifacts::Object::read(Bytes::copy_from_slice(bytes)) else { return output };
    let _ = object.manifest.blobs();
    for name in object.manifest.artifacts.keys() {
        let _ = object.locate(name);
    }
    true
}

fn object_seeds() -> Vec<Vec<u8>> {
    let task = json!({"run": "0199aaaa-0000-7000-8000-000000000000", "run_name": "brisk-otter-41", "flow": "Demo", "step": "work", "path": [1], "visit": 0, "attempt": 0});
    let artifact = |offset: u64, bytes: u64| json!({"offset": offset, "bytes": bytes, "encoding": "pickle5", "type": "int", "hash": "00"});
    let manifest = json!({"format": 1, "task": task, "artifacts": {"x": artifact(0, 2), "y": artifact(2, 1)}, "next": ["gather"]});
    let manifest = serde_json::from_value(manifest).expect("it is a manifest");
    let output = b"[1,\"o\",\"a\\n\"]\n[2,\"e\",\"b\"]\n";
    let object = causey_artifacts::compose(b"abc".to_vec(), causey_artifacts::OutputPlace::Here(output), manifest);
    vec![object, output.to_vec()]
}

/// The engine's golden log, folded.
static GOLDEN: LazyLock<State> = LazyLock::new(|| {
    let log = std::fs::read(workspace().join("coordinator/engine/tests/golden/0.1.0.log")).expect("there is a golden log");
    let (mut state, mut rest, mut sequence) = (State::default(), log.as_slice(), 0);
    while let Some((length, behind)) = rest.split_first_chunk::<4>() {
        let (message, behind) = behind.split_at(u32::from_le_bytes(*length) as usize);
        let turn = codec::decode(message, TURN_BYTES_MAX).expect("a golden turn is read");
        (rest, sequence) = (behind, sequence + 1);
        state.apply_turn(sequence, &turn);
    }
    state
});

/// With its checksum made anew, so that damage gets past it.
fn sealed(body: &[u8]) -> Vec<u8> {
    [body, &Digest::of(body).0].concat()
}

/// Everything but the checksum.
fn unsealed(bytes: &[u8]) -> Vec<u8> {
    bytes[..bytes.len() - 32].to_vec()
}

/// A snapshot of the state, or a segment of the archive, without its checksum.
pub fn snapshot(body: &[u8]) -> bool {
    let bytes = sealed(body);
    snapshot::decode(&bytes).is_ok() || archive::read(&bytes.into()).is_ok()
}

fn snapshot_seeds() -> Vec<Vec<u8>> {
    let (snapshot, _) = snapshot::encode(&GOLDEN, Digest::of(b"turn"));
    let mut segment = b"causey archive \x01".to_vec();
    for turn in golden("turn") {
        segment.extend_from_slice(&u32::try_from(turn.len()).expect("a turn is small").to_le_bytes());
        segment.extend_from_slice(&turn);
    }
    vec![unsealed(&snapshot), segment]
}

/// The history of a finished run, without its checksum.
pub fn history(body: &[u8]) -> bool {
    let Ok(history) = History::read(&sealed(body)) else { return false };
    let written = history.encode();
    let again = History::read(&written).expect("what was written is read");
    assert_eq!(again.encode(), written, "it changes when it is written and read");
    true
}

fn history_seeds() -> Vec<Vec<u8>> {
    let mut found: Vec<Vec<u8>> =
        GOLDEN.runs.keys().filter_map(|run| GOLDEN.history(*run)).map(|history| unsealed(&history.encode())).collect();
    found.sort_by_key(Vec::len);
    found.truncate(3);
    found
}

/// Subjects of messages by the number that stands before them.
const SUBJECTS: [&str; 3] = ["causey.in.request.submit", "causey.in.report.default.w", "causey.event.api"];

/// Messages in a row, each behind the number of its subject and its length: the engine answers all of them, keeps its invariants, and
/// what it recorded folds to the state it is in.
///
/// # Panics
/// When it does not.
pub fn inputs(bytes: &[u8]) -> bool {
    let mut world = World::default();
    let mut rest = bytes;
    for _ in 0..64 {
        let Some(([subject, low, high], behind)) = rest.split_first_chunk::<3>() else { break };
        let (message, behind) = behind.split_at(usize::from(u16::from_le_bytes([*low, *high])).min(behind.len()));
        rest = behind;
        world.take(usize::from(*subject) % SUBJECTS.len(), message);
    }
    world.state.runs.values().any(|run| run.state == RunState::Succeeded)
}

/// A coordinator without streams: what it decides, and the fold of that.
#[derive(Default)]
struct World {
    state: State,
    fold: State,
    sequence: u64,
}

impl World {
    fn take(&mut self, subject: usize, message: &[u8]) {
        self.sequence += 1;
        self.state.open_turn(Timestamp(1_700_000_000_000_000 + self.sequence * 1_000_000));
        let raw = if subject == 2 {
            raw_event(message)
        } else {
            let payload = Bytes::copy_from_slice(message);
            Raw { sequence: self.sequence, subject: SUBJECTS[subject].into(), headers: BTreeMap::new(), payload }
        };
        let taken = if subject == 2 { vec![decode_event(&raw)] } else { decode_inbox(&raw) };
        let records: Vec<_> = taken.into_iter().chain([Input::TimersDue]).flat_map(|input| decide(&mut self.state, input)).collect();
        self.state.cover(self.sequence, self.sequence, Position::default());
        let (epoch, at, sequence) = (self.state.epoch, self.state.at, self.sequence);
        let turn =
            Turn { epoch, at, inbox: sequence, events: sequence, announced: Position::default(), previous: Digest([0; 32]), records };
        let written: Turn = codec::decode(&codec::encode(&turn), usize::MAX).expect("what was decided is read");
        self.fold.apply_turn(sequence, &written);
        assert_eq!(self.fold.hash(), self.state.hash(), "the records do not fold to the state");
        assert_eq!(violations(&self.state), Vec::<String>::new());
        for (index, record) in (0..).zip(&written.records) {
            let _ = commands(&self.fold, Position { sequence, index }, record);
        }
        let _ = outstanding(&self.fold);
    }
}

fn packed(subject: u8, message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).expect("a message of a seed is short");
    [&[subject][..], &length.to_le_bytes(), message].concat()
}

/// A run from its request to its end, and an event that starts nothing.
fn inputs_seeds() -> Vec<Vec<u8>> {
    let submit = json!({"flow": {"Given": small_flow()}, "parameters": {}, "tags": ["night"], "host": null});
    let request = json!({"id": "r1", "user": "ann", "request": {"Submit": submit}});
    let request: RequestMessage = serde_json::from_value(request).expect("it is a request");
    let mut seed = packed(0, &codec::encode(&request));
    let mut world = World::default();
    world.take(0, &codec::encode(&request));
    for _ in 0..12 {
        let items: Vec<ReportItem> =
            outstanding(&world.fold).into_iter().filter_map(|command| success(&world.fold, command)).flatten().collect();
        if items.is_empty() {
            break;
        }
        let report = Report { pool: "default".parse().expect("a name"), worker: "w".parse().expect("a name"), items };
        world.take(1, &codec::encode(&report));
        seed.extend(packed(1, &codec::encode(&report)));
    }
    seed.extend(packed(2, &event_seeds()[0]));
    vec![seed]
}

/// What a worker says about a dispatch when all goes well.
fn success(state: &State, command: Command) -> Option<Vec<ReportItem>> {
    let Command::Dispatch { dispatch, .. } = command else { return None };
    let run = state.run(dispatch.run)?;
    let flow = state.flow_of(run)?;
    let next = &flow.step(flow.find(&dispatch.step)?).next;
    let item = |task: &DispatchedTask| {
        let targets = next.targets().into_iter().cloned().collect::<Vec<_>>();
        let targets = match next {
            Transition::Switch { .. } => vec![targets[(task.visit as usize).min(1)].clone()],
            _ => targets,
        };
        let foreach = matches!(next, Transition::Foreach { .. }).then_some(3);
        let success = json!({"digest": Digest::of(b"object"), "bytes": 10, "next": targets, "foreach": foreach, "publications": [], "started": 1, "ended": 2});
        let (path, visit, attempt) = (task.path.clone(), task.visit, task.attempt);
        let outcome = Outcome::Succeeded(serde_json::from_value(success).expect("it is a success"));
        ReportItem { run: dispatch.run, step: dispatch.step.clone(), path, visit, attempt, outcome }
    };
    Some(dispatch.tasks.iter().map(item).collect())
}
