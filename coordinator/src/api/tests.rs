//! The API over real connections, without a broker: what it answers about a committed state, and whom it refuses.

pub(in crate::api) mod scene;

use std::sync::Arc;
use std::time::Duration;

use causey_artifacts::{OutputPlace, Store, compose};
use causey_engine::State;
use causey_protocol::artifact::object_path;
use causey_protocol::id::{Digest, Path, StepName, TaskId, Timestamp};
use causey_protocol::task::Publication;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::{Api, Info, serve};
use crate::committed::{Committed, Progress, Role};
use crate::readers::Announcer;

/// A served API and what stands behind it.
struct Server {
    address: std::net::SocketAddr,
    committed: Arc<Committed>,
    store: Arc<Store>,
    shutdown: CancellationToken,
    _folder: tempfile::TempDir,
}

struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)))
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

async fn server(state: State) -> Server {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(folder.path().to_str().unwrap(), false).await.unwrap());
    // Nobody listens there: the client goes on trying, as it does while the broker is down.
    let client = async_nats::ConnectOptions::new().retry_on_initial_connect().connect("nats://127.0.0.1:1").await.unwrap();
    let shutdown = CancellationToken::new();
    let committed = Arc::new(Committed::new(state));
    committed.set_role(Role::Leader);
    let jetstream = async_nats::jetstream::new(client.clone());
    let info = Info {
        version: "0.1.0".into(),
        name: "c-1".into(),
        nats_version: "2.15.1".into(),
        store: folder.path().display().to_string(),
        started: Timestamp(1),
        workers: Arc::default(),
        writable: Announcer::new((), "1", "c-1").1,
    };
    let api = Api {
        committed: committed.clone(),
        jetstream,
        client,
        store: store.clone(),
        token: "secret".into(),
        info,
        metrics: metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder().handle(),
        shutdown: shutdown.clone(),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, api));
    Server { address, committed, store, shutdown, _folder: folder }
}

impl Server {
    async fn connect(&self, call: &str, headers: &str, body: &[u8]) -> TcpStream {
        let mut connection = TcpStream::connect(self.address).await.unwrap();
        let length = body.len();
        let head = format!("{call} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n", self.address);
        connection.write_all(head.as_bytes()).await.unwrap();
        // A refused call may be answered before its body is read.
        let _ = connection.write_all(body).await;
        connection
    }

    async fn call_with(&self, call: &str, headers: &str, body: &[u8]) -> Answer {
        let mut connection = self.connect(call, headers, body).await;
        let mut bytes = Vec::new();
        let read = connection.read_to_end(&mut bytes);
        tokio::time::timeout(Duration::from_secs(20), read).await.expect("an answer").unwrap();
        parse(&bytes)
    }

    async fn call(&self, call: &str, body: &[u8]) -> Answer {
        self.call_with(call, "authorization: Bearer secret\r\n", body).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.call(&format!("GET {path}"), b"").await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// Reads an answer to its end; undoes chunked encoding.
fn parse(bytes: &[u8]) -> Answer {
    let at = bytes.windows(4).position(|window| window == b"\r\n\r\n").expect("a head") + 4;
    let head = String::from_utf8(bytes[..at].to_vec()).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let mut rest = &bytes[at..];
    if !head.contains("transfer-encoding: chunked") {
        return Answer { status, head, body: rest.to_vec() };
    }
    let mut body = Vec::new();
    while let Some(end) = rest.windows(2).position(|window| window == b"\r\n") {
        let length = usize::from_str_radix(std::str::from_utf8(&rest[..end]).unwrap(), 16).unwrap();
        body.extend_from_slice(&rest[end + 2..end + 2 + length]);
        rest = &rest[end + 2 + length + 2..];
    }
    Answer { status, head, body }
}

#[tokio::test]
async fn a_run_is_shown_by_name_and_by_id_with_the_sequence_it_reflects() {
    let scene = scene::fanned_out(3);
    let (id, name) = (scene.run.to_string(), scene.run().0.start.name.to_string());
    let sequence = scene.state.sequence.to_string();
    let server = server(scene.state).await;
    let by_name = server.get(&format!("/v1/runs/{name}")).await;
    assert_eq!((by_name.status, by_name.header("causey-sequence")), (200, Some(sequence.as_str())));
    let run = by_name.json();
    assert_eq!(run, server.get(&format!("/v1/runs/{id}")).await.json());
    assert_eq!((&run["run"], &run["state"], &run["user"], &run["version"]), (&json!(id), &json!("running"), &json!("ann"), &Value::Null));
    assert_eq!(run["cause"], json!({"kind": "request", "id": "request-1"}));
    assert_eq!((&run["tasks"]["dispatched"], &run["tasks"]["succeeded"]), (&json!(3), &json!(1)));
    assert_eq!(run["steps"].as_array().unwrap().len(), 3);
    let listed = server.get("/v1/runs?state=running&flow=Demo").await.json();
    assert_eq!((&listed["runs"][0]["name"], listed["runs"][0].get("steps")), (&json!(name), None));
    assert_eq!(server.get("/v1/runs?state=failed").await.json(), json!({"runs": []}));
}

#[tokio::test]
async fn everything_refused_is_a_problem_with_code_and_hint() {
    let server = server(State::default()).await;
    let no_run = server.get("/v1/runs/nobody-knows-1").await;
    assert_eq!((no_run.status, no_run.header("content-type")), (404, Some("application/problem+json")));
    assert_eq!(
        no_run.json(),
        json!({"type": "about:blank", "title": "Not Found", "status": 404, "detail": "no run `nobody-knows-1`", "code": "CSY-1006",
               "hint": "list the runs: causey runs"})
    );
    let refused = |answer: Answer| (answer.status, answer.json()["code"].clone());
    assert_eq!(refused(server.get("/v1/nothing").await), (404, json!("CSY-1006")));
    assert_eq!(refused(server.get("/elsewhere").await), (404, json!("CSY-1006")));
    let method = server.call("DELETE /v1/runs", b"").await;
    assert!(method.header("allow").unwrap().contains("POST"));
    assert_eq!(refused(method), (405, json!("CSY-1001")));
    assert_eq!(refused(server.get("/v1/runs?limit=many").await), (400, json!("CSY-1001")));
    assert_eq!(refused(server.get("/v1/runs?state=sleeping").await), (400, json!("CSY-1001")));
    assert_eq!(refused(server.call("POST /v1/runs", b"{\"flow\":").await), (400, json!("CSY-1001")));
    assert_eq!(refused(server.call("POST /v1/runs", b"").await), (400, json!("CSY-1001")));
    assert_eq!(refused(server.call("POST /v1/runs", &vec![b' '; 2 << 20]).await), (413, json!("CSY-1104")));
    assert_eq!(refused(server.call("PUT /v1/packages/xyz", b"").await), (400, json!("CSY-1001")));
    assert_eq!(refused(server.call("POST /v1/events", b"{}").await), (400, json!("CSY-1001")));
}

#[tokio::test]
async fn without_token_or_from_a_foreign_page_nothing_is_told() {
    let server = server(State::default()).await;
    let refused = |answer: Answer| (answer.status, answer.json()["code"].clone());
    let bare = server.call_with("GET /v1/status", "", b"").await;
    assert_eq!(bare.header("www-authenticate"), Some("Bearer"));
    assert_eq!(refused(bare), (401, json!("CSY-1004")));
    assert_eq!(refused(server.call_with("GET /v1/nothing", "", b"").await), (401, json!("CSY-1004")));
    let foreign = "authorization: Bearer secret\r\norigin: http://evil.example\r\n";
    assert_eq!(refused(server.call_with("GET /v1/status", foreign, b"").await), (403, json!("CSY-1005")));
    assert_eq!(server.call_with("GET /livez", "", b"").await.body, b"live\n");
    assert_eq!(server.call_with("GET /metrics", "", b"").await.status, 200);
    assert_eq!(refused(server.call_with("GET /readyz", "", b"").await), (503, json!("CSY-5001")));
}

#[tokio::test]
async fn a_package_is_stored_once_under_its_own_digest() {
    let server = server(State::default()).await;
    let digest = Digest::of(b"tar");
    assert_eq!(server.call(&format!("HEAD /v1/packages/{digest}"), b"").await.status, 404);
    let stored = server.call(&format!("PUT /v1/packages/{digest}"), b"tar").await;
    assert_eq!((stored.status, stored.json()), (201, json!({"digest": digest, "bytes": 3})));
    assert_eq!(server.call(&format!("PUT /v1/packages/{digest}"), b"tar").await.status, 200);
    assert_eq!(server.call(&format!("HEAD /v1/packages/{digest}"), b"").await.status, 200);
    let other = server.call(&format!("PUT /v1/packages/{digest}"), b"other").await;
    assert_eq!((other.status, &other.json()["code"]), (422, &json!("CSY-1103")));
}

#[tokio::test]
async fn a_run_needs_a_sound_graph_and_a_stored_package() {
    let server = server(State::default()).await;
    let step = |name: &str, next: Value| json!({"name": name, "line": 3, "next": next});
    let body = |steps: Value| {
        let definition =
            json!({"format": 1, "name": "Demo", "language": "python", "file": "demo.py", "package": Digest::of(b"code"), "steps": steps});
        json!({"definition": definition}).to_string().into_bytes()
    };
    let lost = server.call("POST /v1/runs", &body(json!([step("start", json!({"linear": {"to": "gone"}}))]))).await;
    assert_eq!((lost.status, &lost.json()["code"]), (422, &json!("CSY-1101")));
    let sound = server.call("POST /v1/runs", &body(json!([step("only", json!("end"))]))).await;
    assert_eq!((sound.status, &sound.json()["code"]), (422, &json!("CSY-1102")));
    assert!(sound.json()["hint"].as_str().unwrap().contains("PUT /v1/packages"));
}

#[tokio::test]
async fn a_published_model_is_found_by_number_and_as_latest() {
    let mut scene = scene::fanned_out(1);
    scene.succeed("work", 0);
    let publication = json!({"model": "title-demand", "artifact": "_model", "format": "skops", "metrics": {"mape": 0.1}});
    scene.publish(serde_json::from_value::<Publication>(publication).unwrap());
    let name = scene.run().0.start.name.to_string();
    let server = server(scene.state).await;
    let model = server.get("/v1/models/title-demand/latest").await.json();
    assert_eq!(
        (&model["version"], &model["run_name"], &model["flow"], &model["step"]),
        (&json!(1), &json!(name), &json!("Demo"), &json!("join"))
    );
    assert_eq!(model, server.get("/v1/models/title-demand/1").await.json());
    assert_eq!(server.get("/v1/models").await.json()["models"][0], model);
    assert_eq!(server.get("/v1/models/title-demand").await.json()["versions"][0], model);
    assert_eq!(server.get("/v1/models/title-demand/2").await.json()["hint"], json!("the newest is 1; `latest` names it"));
    let gone = server.get("/v1/models/title-demand/latest/content").await;
    assert_eq!((gone.status, &gone.json()["code"]), (404, &json!("CSY-1006")));
}

#[tokio::test]
async fn what_an_attempt_left_is_read_out_of_its_object() {
    let mut scene = scene::fanned_out(1);
    let task = TaskId { step: StepName::new("join").unwrap(), path: Path::default(), visit: 0 };
    let manifest = json!({
        "format": 1,
        "task": {"run": scene.run, "run_name": "brisk-otter-41", "flow": "Demo", "step": "join", "path": [], "visit": 0, "attempt": 0},
        "artifacts": {"_model": {"offset": 0, "bytes": 5, "encoding": "bytes", "type": "bytes", "hash": ""}},
    });
    let output = b"[7,\"o\",\"fitted\\n\"]\n[8,\"e\",\"warning\"]\n";
    scene.object = compose(b"model".to_vec(), OutputPlace::Here(output), serde_json::from_value(manifest).unwrap());
    scene.succeed("work", 0);
    let publication = json!({"model": "title-demand", "artifact": "_model", "format": "skops"});
    scene.publish(serde_json::from_value::<Publication>(publication).unwrap());
    let (run, object, path) = (scene.run, scene.object.clone(), object_path(scene.run, &task.key(0)));
    let server = server(scene.state).await;
    server.store.put_if_absent(&path, object.into()).await.unwrap();
    let content = server.get("/v1/models/title-demand/latest/content").await;
    assert_eq!((content.status, content.body.as_slice()), (200, b"model".as_slice()));
    assert_eq!((content.header("causey-model-format"), content.header("causey-model-version")), (Some("skops"), Some("1")));
    let chunk = |micros: u64, position: u64, stream: &str, text: &str| json!({"step": "join", "task": "0", "attempt": 0, "micros": micros, "position": position, "stream": stream, "text": text});
    let logs = server.get(&format!("/v1/runs/{run}/logs?step=join")).await;
    assert_eq!(
        logs.json(),
        json!({"chunks": [chunk(7, 0, "stdout", "fitted\n"), chunk(8, 7, "stderr", "warning")], "truncated": false, "open": 0})
    );
    assert_eq!(server.get(&format!("/v1/runs/{run}/logs?step=wrok")).await.status, 404);
}

#[tokio::test]
async fn a_read_waits_until_the_state_has_come_far_enough() {
    let scene = scene::fanned_out(1);
    let wanted = scene.state.sequence;
    let server = server(State::default()).await;
    let waiting = format!("authorization: Bearer secret\r\ncausey-sequence: {wanted}\r\n");
    let (answer, ()) = tokio::join!(server.call_with("GET /v1/runs", &waiting, b""), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        *server.committed.write() = scene.state;
        server.committed.announce(Progress { sequence: wanted, ..Progress::default() });
    });
    assert_eq!(answer.json()["runs"].as_array().unwrap().len(), 1);
    let nonsense = server.call_with("GET /v1/runs", "authorization: Bearer secret\r\ncausey-sequence: x\r\n", b"").await;
    assert_eq!(nonsense.status, 400);
}

#[tokio::test]
async fn a_call_that_comes_early_waits_until_the_log_is_read() {
    let server = server(State::default()).await;
    server.committed.set_role(Role::Starting);
    let (answer, ()) = tokio::join!(server.get("/v1/runs"), async {
        tokio::task::yield_now().await;
        server.committed.set_role(Role::Standby { leader: None });
    });
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn status_tells_the_role_and_who_leads() {
    let server = server(State::default()).await;
    let told = async || {
        let status = server.get("/v1/status").await.json();
        (status["role"].as_str().unwrap().to_owned(), status["leader"].clone())
    };
    assert_eq!(told().await, ("leader".into(), json!("c-1")));
    server.committed.set_role(Role::Standby { leader: Some("c-2".into()) });
    assert_eq!(told().await, ("standby".into(), json!("c-2")));
    server.committed.set_role(Role::Standby { leader: None });
    assert_eq!(told().await, ("standby".into(), json!(null)));
}

#[tokio::test]
async fn a_followed_run_is_shown_at_once_on_change_and_at_its_end() {
    let mut scene = scene::fanned_out(1);
    let run = scene.run;
    let server = server(scene.state.clone()).await;
    let mut connection = server.connect(&format!("GET /v1/runs/{run}/follow"), "authorization: Bearer secret\r\n", b"").await;
    let mut seen = Vec::new();
    read_until(&mut connection, &mut seen, "event: run").await;
    scene.succeed("work", 0);
    *server.committed.write() = scene.state.clone();
    server.committed.announce(Progress { sequence: 2, ..Progress::default() });
    read_until(&mut connection, &mut seen, "\"succeeded\":2").await;
    scene.publish(serde_json::from_value(json!({"model": "m", "artifact": "a", "format": "text"})).unwrap());
    *server.committed.write() = scene.state.clone();
    server.committed.announce(Progress { sequence: 3, ..Progress::default() });
    tokio::time::timeout(Duration::from_secs(5), connection.read_to_end(&mut seen)).await.expect("the stream ends").unwrap();
    let text = String::from_utf8(parse(&seen).body).unwrap();
    let events: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("event: ")).collect();
    assert_eq!(events, ["run", "run", "end"]);
    let last: Value =
        serde_json::from_str(text.lines().rfind(|line| line.starts_with("data: ")).unwrap().strip_prefix("data: ").unwrap()).unwrap();
    assert_eq!((&last["state"], &last["steps"][2]["state"]), (&json!("succeeded"), &json!("succeeded")));
    assert!(text.ends_with("\n\n"));
}

#[tokio::test]
async fn streams_end_at_shutdown() {
    let scene = scene::started();
    let run = scene.run;
    let server = server(scene.state).await;
    let mut connection = server.connect(&format!("GET /v1/runs/{run}/follow"), "authorization: Bearer secret\r\n", b"").await;
    let mut seen = Vec::new();
    read_until(&mut connection, &mut seen, "event: run").await;
    server.shutdown.cancel();
    tokio::time::timeout(Duration::from_secs(3), connection.read_to_end(&mut seen)).await.expect("the stream ends").unwrap();
}

async fn read_until(connection: &mut TcpStream, seen: &mut Vec<u8>, text: &str) {
    let read = async {
        while !String::from_utf8_lossy(seen).contains(text) {
            assert_ne!(connection.read_buf(seen).await.unwrap(), 0, "the stream ended");
        }
    };
    tokio::time::timeout(Duration::from_secs(5), read).await.unwrap_or_else(|_| panic!("no {text:?} in time"));
}
