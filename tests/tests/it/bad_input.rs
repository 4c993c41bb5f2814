//! Whatever comes in wrong gets a clear error – what, where, how to mend it –, the processes stay up, and nothing accepted is lost.

use async_nats::Client;
use causey_protocol::codec;
use causey_protocol::id::{Path as TaskPath, RunId, Timestamp};
use causey_protocol::record::{FailureCause, Record};
use causey_protocol::task::{Outcome, Report, ReportItem, Success};
use causey_tests::api::send;
use causey_tests::service::{Place, worker_command};
use causey_tests::wait::until_true;
use causey_tests::{Coordinator, History, Nats, Project, Role, Service, SmallDisk, Stack, until};
use reqwest::Method;
use serde_json::{Value, json};

use crate::cancel::{running, start_marked};
use crate::flows::{SMALL, WAITING, with_start};

/// A normal run still works.
pub(crate) async fn small_runs(project: &Project) {
    let output = project.ok(&["run", &project.flow("small.py", SMALL)]).await;
    assert!(output.stdout.contains("alpha=0.5 count=1"), "{output:#?}");
}

#[tokio::test]
async fn an_unknown_parameter_or_a_wrong_type_is_refused_before_anything_starts() {
    let project = Project::new();
    let flow = project.flow("small.py", SMALL);
    project.expect(2, &["run", &flow, "--alhpa", "1"]).await.says(&["no parameter `alhpa`", "CSY-1002", "did you mean --alpha?"]);
    project.expect(2, &["run", &flow, "--count", "three"]).await.says(&["parameter `count` needs", "three", "CSY-1003"]);
    project.is_quiet().await;
    let stack = Stack::start(&project).await;
    project.ok(&["deploy", &flow]).await;
    let submit = |parameters: Value| json!({"flow": "Small", "parameters": parameters});
    stack.api.post("/v1/runs", &submit(json!({"beta": 1}))).await.refused(422, "CSY-1002", &["no parameter `beta`", "alpha"]);
    stack.api.post("/v1/runs", &submit(json!({"count": "three"}))).await.refused(422, "CSY-1003", &["count", "three"]);
    stack.api.post("/v1/runs", &json!({"flow": "Nobody"})).await.refused(404, "CSY-1006", &["Nobody", "causey deploy"]);
    project.expect(3, &["run", "Nobody"]).await.says(&["Nobody", "CSY-1006"]);
    assert_eq!(stack.api.get("/v1/runs").await["runs"], json!([]));
    small_runs(&project).await;
}

#[tokio::test]
async fn a_flow_file_that_cannot_be_used_is_refused_with_place_and_advice() {
    let project = Project::new();
    project.expect(3, &["run", "nowhere.py"]).await.says(&["nowhere.py", "CSY-1201", "No such file"]);
    project.expect(2, &["run", project.path().to_str().unwrap()]).await.says(&["is a folder", "CSY-1201"]);
    let cases: [(&str, &str, &[&str]); 6] = [
        ("syntax.py", "from causey import FlowSpec, step\n\nclass Flow(FlowSpec:\n    pass\n", &["syntax.py:3", "SyntaxError"]),
        ("binary.py", "from causey import FlowSpec\n\0\n", &["binary.py"]),
        ("missing.py", "import no_such_package\nfrom causey import FlowSpec\n", &["missing.py:1", "no_such_package"]),
        ("none.py", "print('no flow here')\n", &["none.py", "flow"]),
        ("cycle.py", CYCLE, &["cycle.py", "first"]),
        ("unbalanced.py", UNBALANCED, &["unbalanced.py", "join"]),
    ];
    for (name, text, words) in cases {
        let flow = project.flow(name, text);
        for command in ["run", "deploy"] {
            let output = project.expect(2, &[command, &flow]).await;
            output.says(words).says(&["✘", "CSY-1"]);
            assert!(!output.stderr.contains("panicked") && !output.stderr.contains("Traceback"), "{output:#?}");
        }
        let checked = project.expect(1, &["check", &flow, "--json"]).await.json();
        assert_eq!(checked["ok"], false, "{name}: {checked}");
    }
    project.is_quiet().await;
    small_runs(&project).await;
}

#[tokio::test]
async fn a_switch_value_without_a_case_and_endless_recursion_fail_by_name() {
    let project = Project::new();
    let stack = Stack::start(&project).await;
    let flow = project.flow("switching.py", SWITCHING);
    project
        .expect(1, &["run", &flow, "--kind", "neither"])
        .await
        .says(&["start", "Switch condition variable 'kind' has value 'neither' which is not in the available cases: ['turn', 'leave']"]);
    project.expect(1, &["run", &flow, "--kind", "turn"]).await.says(&[
        "CSY-2107",
        "step `turn` leads back to itself after 5 visits, which is its bound",
        "@recursion(visits_max=…)",
    ]);
    let output = project.ok(&["run", &flow, "--kind", "leave"]).await;
    assert!(output.stdout.contains("left"), "{output:#?}");
    let listed = project.ok(&["runs", "--json"]).await.json_lines();
    let tree = project.ok(&["show", listed[0]["name"].as_str().unwrap()]).await;
    assert!(tree.stdout.contains("- turn   0/0"), "{tree:#?}");
    let history = History::read(&stack.nats().await).await;
    assert_eq!(history.violations(), Vec::<String>::new());
}

const SWITCHING: &str = "\
from causey import FlowSpec, Parameter, recursion, step


class Switching(FlowSpec):
    kind = Parameter('kind', default='leave')

    @step
    def start(self):
        self.next({'turn': self.turn, 'leave': self.end}, condition='kind')

    @recursion(visits_max=5)
    @step
    def turn(self):
        self.next({'turn': self.turn, 'leave': self.end}, condition='kind')

    @step
    def end(self):
        print('left')
";

const CYCLE: &str = "\
from causey import FlowSpec, step


class Cycle(FlowSpec):
    @step
    def start(self):
        self.next(self.first)

    @step
    def first(self):
        self.next(self.second)

    @step
    def second(self):
        self.next(self.first)

    @step
    def end(self):
        pass


if __name__ == \"__main__\":
    Cycle()
";

const UNBALANCED: &str = "\
from causey import FlowSpec, step


class Unbalanced(FlowSpec):
    @step
    def start(self):
        self.items = [1, 2]
        self.next(self.work, foreach=\"items\")

    @step
    def work(self):
        self.next(self.end)

    @step
    def end(self):
        pass


if __name__ == \"__main__\":
    Unbalanced()
";

#[tokio::test]
async fn a_package_missing_in_a_step_fails_the_run_with_the_line_and_the_next_run_works() {
    let project = Project::new();
    let stack = Stack::start(&project).await;
    let flow = project.flow("given.py", &with_start("import no_such_package"));
    let output = project.expect(1, &["run", &flow]).await;
    output.says(&[
        "start failed",
        "CSY-2101",
        "given.py:7",
        "import no_such_package",
        "ModuleNotFoundError",
        "No module named 'no_such_package'",
    ]);
    // A process that dies without a word says how.
    let flow = project.flow("given.py", &with_start("import os; os._exit(7)"));
    project.expect(1, &["run", &flow]).await.says(&["CSY-2102", "7"]);
    let flow = project.flow("given.py", &with_start("import os; os.kill(os.getpid(), 9)"));
    project.expect(1, &["run", &flow]).await.says(&["CSY-2102", "SIGKILL"]);
    small_runs(&project).await;
    assert_eq!(History::read(&stack.nats().await).await.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn a_foreach_over_nothing_fails_the_run_with_the_reason() {
    let project = Project::new();
    let text = UNBALANCED.replace("[1, 2]", "[]").replace("self.next(self.end)", "self.next(self.join)").replace(
        "    @step\n    def end(self):",
        "    @step\n    def join(self, inputs):\n        self.next(self.end)\n\n    @step\n    def end(self):",
    );
    let flow = project.flow("empty.py", &text);
    project.expect(1, &["run", &flow]).await.says(&["start failed", "items"]);
    project.is_quiet().await;
}

#[tokio::test]
async fn a_foreach_over_what_has_no_items_fails_the_run_with_the_reason() {
    let project = Project::new();
    let text = UNBALANCED.replace("[1, 2]", "7").replace("self.next(self.end)", "self.next(self.join)").replace(
        "    @step\n    def end(self):",
        "    @step\n    def join(self, inputs):\n        self.next(self.end)\n\n    @step\n    def end(self):",
    );
    let output = project.expect(1, &["run", &project.flow("seven.py", &text)]).await;
    output.says(&["start failed", "foreach variable 'self.items' in step 'start' is not iterable"]);
    project.is_quiet().await;
}

#[tokio::test]
async fn numbers_out_of_range_are_refused_before_anything_starts_by_sdk_and_server() {
    let project = Project::new();
    let stack = Stack::start(&project).await;
    let decorated = |decorator: &str| {
        let text = with_start("pass").replacen("    @step", &format!("    @{decorator}\n    @step"), 1);
        text.replace("import FlowSpec, step", "import FlowSpec, grace, recursion, retry, step, timeout")
    };
    for decorator in ["retry(times=101)", "retry(times=-1)", "timeout(seconds=0)", "timeout(seconds=-1)", "grace(seconds=-1)"] {
        let flow = project.flow("given.py", &decorated(decorator));
        let output = project.run(&["check", &flow]).await;
        let name = decorator.split('(').next().unwrap();
        assert!(output.status != Some(0) && format!("{}{}", output.stdout, output.stderr).contains(name), "{decorator}: {output:#?}");
        assert_ne!(project.run(&["run", &flow]).await.status, Some(0), "{decorator}");
    }
    // Somebody who writes definitions himself meets the server's own check.
    let package = b"no tar";
    let digest = blake3::hash(package).to_hex().to_string();
    let put = stack.api.call(Method::PUT, &format!("/v1/packages/{digest}")).body(&package[..]);
    assert!(send(put).await.status.is_success());
    let retry = |times: i64, delay: f64, jitter: f64| json!({"times": times, "delay_seconds": delay, "jitter": jitter});
    let cases = [
        (json!({"retry": retry(101, 1.0, 0.0)}), "at most 100"),
        (json!({"retry": retry(1, -1.0, 0.0)}), "between 0 seconds and 30 days"),
        (json!({"retry": retry(1, 1.0, 2.0)}), "jitter 2"),
        (json!({"retry": retry(-1, 1.0, 0.0)}), "integer `-1`"),
        (json!({"timeout_seconds": 0.0}), "a timeout of 0 seconds"),
        (json!({"timeout_seconds": 1e12}), "a timeout of 1000000000000 seconds"),
        (json!({"grace_seconds": -1.0}), "a grace of -1 seconds"),
        (json!({"visits_max": 5}), "bounds its visits"),
    ];
    for (fields, words) in cases {
        let mut step = json!({"name": "start", "next": {"linear": {"to": "end"}}});
        step.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let steps = json!([step, {"name": "end", "next": "end"}]);
        let definition = json!({"format": 1, "name": "Odd", "language": "python", "file": "f.py", "package": digest, "steps": steps});
        let reply = stack.api.post("/v1/runs", &json!({"definition": definition})).await;
        assert!(reply.status.is_client_error() && reply.body.to_string().contains(words), "{fields}: {reply:?}");
    }
    assert_eq!(stack.api.get("/v1/runs").await["runs"], json!([]));
    small_runs(&project).await;
}

/// Row 31 of the fault model.
#[tokio::test]
async fn reports_that_no_honest_worker_sends_change_nothing_or_fail_the_run_by_name() {
    let project = Project::new();
    let stack = Stack::start(&project).await;
    let marks = project.file("marks");
    let run = start_marked(&project, &marks, 2, 600.0).await;
    until("two tasks run", 30, async || (running(&marks).len() == 2).then_some(())).await;
    let client = stack.nats().await;
    let id = stack.api.get(&format!("/v1/runs/{run}")).await["run"].as_str().unwrap().to_owned();
    let success = |next: Value, foreach: Value| json!({"Succeeded": {"digest": "0".repeat(64), "bytes": 1, "next": next, "foreach": foreach, "publications": [], "started": 1, "ended": 2}});
    let item = |run: &str, step: &str, path: Value, visit: u32, attempt: u32, outcome: &Value| json!({"run": run, "step": step, "path": path, "visit": visit, "attempt": attempt, "outcome": outcome});
    let done = success(json!(["join"]), json!(null));
    let foreign = "0199aaaa-0000-7000-8000-000000000000";
    let items = [
        item(foreign, "work", json!([0]), 0, 0, &done),
        item(&id, "nowhere", json!([0]), 0, 0, &done),
        item(&id, "work", json!([]), 0, 0, &done),
        item(&id, "work", json!([0, 0]), 0, 0, &done),
        item(&id, "work", json!([7]), 0, 0, &done),
        item(&id, "work", json!([u32::MAX]), 0, 0, &done),
        item(&id, "work", json!([0]), 1, 0, &done),
        item(&id, "work", json!([0]), 0, 1, &done),
        item(&id, "work", json!([0]), 0, u32::MAX, &done),
        // Closed long ago, and not yet opened.
        item(&id, "start", json!([]), 0, 0, &success(json!(["work"]), json!(u32::MAX))),
        item(&id, "join", json!([]), 0, 0, &success(json!(["end"]), json!(null))),
        item(&id, "end", json!([]), 0, 0, &success(json!([]), json!(null))),
    ];
    let before = stack.api.get(&format!("/v1/runs/{run}")).await;
    for item in items {
        let report: Report = serde_json::from_value(json!({"pool": "default", "worker": "local", "items": [item]})).unwrap();
        publish_stored(&client, "causey.in.report.default.local", &codec::encode(&report)).await;
    }
    let inbox = async_nats::jetstream::new(client.clone()).get_stream("CAUSEY_IN").await.unwrap().cached_info().state.last_sequence;
    let read = async || Some(History::read(&client).await).filter(|history| history.state().inbox >= inbox);
    let history = until("all of it is covered", 20, read).await;
    assert_eq!(history.violations(), Vec::<String>::new());
    let after = stack.api.get(&format!("/v1/runs/{run}")).await;
    assert_eq!((&after["state"], &after["tasks"]), (&before["state"], &before["tasks"]));

    // For the attempt that is open, what makes no sense fails the run.
    let odd = item(&id, "work", json!([0]), 0, 0, &success(json!(["start"]), json!(u32::MAX)));
    let report: Report = serde_json::from_value(json!({"pool": "default", "worker": "local", "items": [odd]})).unwrap();
    publish_stored(&client, "causey.in.report.default.local", &codec::encode(&report)).await;
    let ended = stack.api.ended(&run, 20).await;
    assert_eq!(ended["state"], "failed", "{ended}");
    assert!(ended["problem"]["message"].as_str().is_some_and(|text| text.contains("work")), "{ended}");
    small_runs(&project).await;
    assert_eq!(History::read(&client).await.violations(), Vec::<String>::new());
}

/// Bytes that are no message of any kind.
fn garbage() -> Vec<Vec<u8>> {
    let mut deep = vec![codec::VERSION];
    deep.extend(std::iter::repeat_n(0x91, 10_000));
    vec![
        Vec::new(),
        b"rubbish".to_vec(),
        b"{".to_vec(),
        b"{\"specversion\": 1}".to_vec(),
        vec![codec::VERSION],
        vec![codec::VERSION, 0xc1],
        vec![9, 1, 2, 3],
        // A map that promises four billion entries, text that promises four gigabytes, lists in lists.
        vec![codec::VERSION, 0xdf, 0xff, 0xff, 0xff, 0xff],
        vec![codec::VERSION, 0xdb, 0xff, 0xff, 0xff, 0xff],
        deep,
        vec![0xff; 200_000],
    ]
}

async fn publish_stored(client: &Client, subject: &str, payload: &[u8]) {
    let context = async_nats::jetstream::new(client.clone());
    // A refusal by the server (task subjects hold one message) is as good as an acceptance here.
    let _ = context.publish(subject.to_owned(), payload.to_vec().into()).await.unwrap().await;
}

/// A success for a task that does not exist, in the name of `worker`.
fn forged(worker: &str) -> Report {
    let now = Timestamp(1);
    let success = Success {
        digest: causey_protocol::id::Digest::of(b""),
        bytes: 1,
        next: vec![],
        foreach: None,
        publications: vec![],
        children: vec![],
        started: now,
        ended: now,
        content: None,
    };
    let run = RunId(uuid::Uuid::from_u128(7));
    let item = ReportItem {
        run,
        step: "start".parse().unwrap(),
        path: TaskPath::default(),
        visit: 0,
        attempt: 0,
        outcome: Outcome::Succeeded(success),
    };
    Report { pool: "default".parse().unwrap(), worker: worker.parse().unwrap(), items: vec![item] }
}

/// Row 31 of the fault model.
#[tokio::test]
async fn garbage_on_every_subject_is_counted_and_changes_nothing() {
    let project = Project::new();
    let stack = Stack::start(&project).await;
    small_runs(&project).await;
    let pids = [Role::Coordinator, Role::Worker].map(|role| stack.pid(role));
    let client = stack.nats().await;
    let run = "0199aaaa-0000-7000-8000-000000000000";
    let stored = [
        "causey.in.request.submit",
        "causey.in.request.nonsense",
        "causey.in.report.default.local",
        "causey.in.report.nobody.nowhere",
        "causey.in.elsewhere",
        "causey.in.report.a.b.c",
        "causey.event.api",
        "causey.event.some.deeper.subject",
    ];
    for (number, payload) in garbage().into_iter().enumerate() {
        for subject in stored {
            publish_stored(&client, subject, &payload).await;
        }
        // A later version byte means "upgrade me" to a worker, which is another test.
        if payload.first() != Some(&9) {
            publish_stored(&client, &format!("causey.task.default.{run}.{number:032x}"), &payload).await;
        }
        for subject in [
            "causey.live.worker.default.local",
            "causey.live.worker.x.y",
            &format!("causey.live.{run}"),
            &format!("causey.cancel.{run}"),
            "causey.cancel.nobody",
        ] {
            client.publish(subject.to_owned(), payload.clone().into()).await.unwrap();
        }
    }
    publish_stored(&client, "causey.in.report.default.local", &codec::encode(&forged("local"))).await;
    publish_stored(&client, "causey.in.report.default.local", &codec::encode(&forged("another"))).await;
    client.flush().await.unwrap();

    small_runs(&project).await;
    let inbox = async_nats::jetstream::new(client.clone()).get_stream("CAUSEY_IN").await.unwrap().cached_info().state.last_sequence;
    let history =
        until("all garbage is covered", 20, async || Some(History::read(&client).await).filter(|history| history.state().inbox >= inbox))
            .await;
    assert_eq!(history.violations(), Vec::<String>::new());
    let ignored: Vec<&str> = history
        .records()
        .filter_map(|(_, record)| match record {
            Record::Ignored { because } => Some(because.as_str()),
            Record::DeadLettered(letter) => Some(letter.because.as_str()),
            _ => None,
        })
        .collect();
    for words in [
        "the message is empty",
        "format version 9",
        "belongs to nobody",
        "names worker default.another",
        "unknown run",
        "is no source name",
    ] {
        assert!(ignored.iter().any(|because| because.contains(words)), "{words:?} is in none of {ignored:#?}");
    }
    let queue = async_nats::jetstream::new(client.clone());
    until("the worker drops what is no dispatch", 20, async || {
        let state = queue.get_stream("CAUSEY_TASK").await.ok()?.cached_info().state.clone();
        (state.messages == 0).then_some(())
    })
    .await;
    assert_eq!([Role::Coordinator, Role::Worker].map(|role| stack.pid(role)), pids, "a process was restarted: {:?}", stack.said());
}

#[tokio::test]
async fn a_dispatch_of_a_later_format_is_handed_back_and_stops_only_that_worker() {
    let project = Project::new();
    let stack = Stack::start(&project).await;
    let client = stack.nats().await;
    publish_stored(&client, "causey.task.default.0199aaaa-0000-7000-8000-000000000000.00", &[9, 1]).await;
    let log = project.state().join("logs/worker.log");
    until_true("the worker says that it is too old", 20, || std::fs::read_to_string(&log).unwrap_or_default().contains("upgrade me")).await;
    assert!(stack.pid(Role::Worker).is_some());
    assert_eq!(stack.api.get("/v1/status").await["leader"], "coordinator");
}

/// Row 30 of the fault model.
#[tokio::test]
async fn what_is_too_large_is_refused_and_the_connection_of_others_lives_on() {
    let project = Project::new();
    let stack = Stack::start(&project).await;
    let flow = project.flow("small.py", SMALL);
    project.ok(&["deploy", &flow]).await;
    let event = |bytes: usize| json!({"specversion": "1.0", "id": "1", "source": "/s", "type": "t", "data": "x".repeat(bytes)});
    stack.api.post_event(&event(300_000)).await.refused(413, "CSY-1104", &["300", "dataref"]);
    stack.api.post_event(&event(9_000_000)).await.refused(413, "CSY-1104", &[]);
    let parameters = json!({"flow": "Small", "parameters": {"alpha": "1", "note": "x".repeat(300_000)}});
    stack.api.post("/v1/runs", &parameters).await.refused(413, "CSY-1104", &["bytes"]);
    stack.api.post("/v1/runs", &json!({"flow": "x".repeat(1_100_000)})).await.refused(413, "CSY-1104", &[]);
    // Past the streams' own limit the server refuses; past its payload limit it cuts the sender off, and nobody else.
    let client = stack.nats().await;
    let context = async_nats::jetstream::new(client.clone());
    let refused = context.publish("causey.event.api", vec![b'x'; 600_000].into()).await.unwrap().await;
    assert!(refused.is_err(), "{refused:?}");
    let _ = client.publish("causey.event.api", vec![b'x'; 1_100_000].into()).await;
    let _ = client.flush().await;
    assert_eq!(stack.api.post_event(&event(200_000)).await.status.as_u16(), 202);
    // What a step leaves may be as large as it likes.
    let flow = project.flow("given.py", &with_start("self.large = 'x' * 30_000_000; print('y' * 2_000_000)"));
    project.ok(&["run", &flow]).await;
    small_runs(&project).await;
    let history = History::read(&stack.nats().await).await;
    assert_eq!(history.violations(), Vec::<String>::new());
    assert_eq!(history.store_violations(&stack.store()).unwrap(), Vec::<String>::new());
}

/// Row 30 of the fault model.
#[tokio::test]
async fn an_error_of_any_length_reaches_the_user_in_a_bounded_form() {
    let project = Project::new();
    let flow = project.flow("given.py", &with_start("raise ValueError('long ' * 1_000_000)"));
    let output = project.expect(1, &["run", &flow]).await;
    output.says(&["ValueError: long long"]);
    assert!(output.stderr.len() < 100_000, "{} bytes", output.stderr.len());
    project.is_quiet().await;
}

#[tokio::test]
async fn a_call_without_the_right_token_or_from_elsewhere_is_refused_with_a_hint() {
    let project = Project::new();
    let stack = Stack::start(&project).await;
    let api = &stack.api;
    for (method, path) in
        [(Method::GET, "/v1/status"), (Method::POST, "/v1/runs"), (Method::GET, "/v1/events/follow"), (Method::GET, "/v1/nothing")]
    {
        send(api.bare(method.clone(), path)).await.refused(401, "CSY-1004", &["no token", ".causey/token"]);
        send(api.bare(method.clone(), path).bearer_auth("wrong")).await.refused(401, "CSY-1004", &["not this server's"]);
        send(api.call(method.clone(), path).header("Origin", "http://evil.example")).await.refused(403, "CSY-1005", &["origin"]);
        send(api.call(method, path).header("Host", "evil.example")).await.refused(403, "CSY-1005", &["evil.example", "localhost"]);
    }
    send(api.call(Method::GET, "/v1/nothing")).await.refused(404, "CSY-1006", &["/v1/nothing"]);
    assert_eq!(send(api.bare(Method::GET, "/livez")).await.status.as_u16(), 200);
    let output = project.expect(2, &["runs", "--url", &api.url, "--token", "wrong"]).await;
    output.says(&["CSY-1004", "help"]);
    project.expect(5, &["runs", "--url", "http://127.0.0.1:9", "--token", "x"]).await.says(&["CSY-5003", "127.0.0.1:9", "help"]);
    small_runs(&project).await;
}

#[tokio::test]
async fn calls_that_cannot_be_read_say_what_is_wrong() {
    let project = Project::new();
    let stack = Stack::start(&project).await;
    let api = &stack.api;
    let body = |path: &str, text: &str| api.call(Method::POST, path).header("Content-Type", "application/json").body(text.to_owned());
    send(body("/v1/runs", "{")).await.refused(400, "CSY-1001", &["not JSON", "line 1"]);
    send(body("/v1/runs", "[]")).await.refused(400, "CSY-1001", &[]);
    send(body("/v1/runs", r#"{"folw": "x"}"#)).await.refused(400, "CSY-1001", &["folw"]);
    send(body("/v1/runs", "{}")).await.refused(400, "CSY-1001", &["definition", "flow"]);
    send(body("/v1/events", "{}")).await.refused(400, "CSY-1001", &["CloudEvent", "application/cloudevents+json"]);
    api.post_event(&json!({"specversion": "1.0", "id": "1", "type": "t"})).await.refused(400, "CSY-1001", &["`source` is missing"]);
    let wrong = format!("/v1/packages/{}", "0".repeat(64));
    send(api.call(Method::PUT, &wrong).body("other bytes")).await.refused(422, "CSY-1103", &["digest"]);
    send(api.call(Method::GET, "/v1/runs?limit=many")).await.refused(400, "CSY-1001", &["limit"]);
    send(api.call(Method::GET, "/v1/runs/nobody-1")).await.refused(404, "CSY-1006", &["nobody-1"]);
    project.expect(2, &["events", "publish", "t", "--data", "day"]).await.says(&["not JSON", "help"]);
    small_runs(&project).await;
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_is_named() {
    let project = Project::new();
    let flow = project.flow("small.py", SMALL);
    std::fs::write(project.file("file"), "").unwrap();
    let inside = project.file("file").join("state");
    for command in ["run", "runs", "dev"] {
        let arguments: Vec<&str> =
            [command].into_iter().chain((command == "run").then_some(flow.as_str())).chain(["--state", inside.to_str().unwrap()]).collect();
        project.expect(1, &arguments).await.says(&["CSY-6004", inside.to_str().unwrap(), "--state"]);
    }
    project.expect(1, &["run", &flow, "--state", "/proc/causey-test"]).await.says(&["CSY-6004", "/proc/causey-test", "--state"]);
    project.is_quiet().await;
}

/// Row 29 of the fault model.
#[tokio::test]
async fn a_nearly_full_disk_is_called_by_its_name_before_anything_starts() {
    let project = Project::new();
    let at = project.file("disk");
    let Some(_disk) = SmallDisk::mount(&at, 16) else { return };
    let flow = project.flow("small.py", SMALL);
    let state = at.join("state");
    project.expect(1, &["run", &flow, "--state", state.to_str().unwrap()]).await.says(&["CSY-6004", "MB are free", "--state"]);
    project.is_quiet().await;
}

#[tokio::test]
async fn row_29_a_worker_whose_disk_fills_takes_no_tasks_until_there_is_space_and_nothing_is_charged() {
    let project = Project::new();
    let base = project.path();
    let at = project.file("disk");
    let Some(_disk) = SmallDisk::mount(&at, 32) else { return };
    let nats = Nats::start(&project.file("jetstream")).await;
    let place = Place::new(base, "one");
    let (_coordinator, api) = Coordinator::leading(&nats, base, &place).await;
    let mut command = worker_command(&nats.url(), &at, &place.store, "local");
    command.arg("--free-bytes-min=8000000");
    let worker = Service::start(command, &base.join("local"));
    project.ok(&["deploy", &project.flow("waiting.py", WAITING), "--url", &api.url, "--token", &api.token]).await;
    let go = project.file("go");
    let body = json!({"request_id": "r", "flow": "Waiting", "parameters": {"go": go, "size": 3_000_000}});
    let run = api.post("/v1/runs", &body).await.body["name"].as_str().unwrap().to_owned();
    until_true("two items run", 60, || (0..4).filter(|number| go.with_file_name(format!("go-{number}")).is_file()).count() == 2).await;
    let filler = at.join("filler");
    let free = rustix::fs::statvfs(&at).map(|found| found.f_bavail * found.f_frsize).unwrap();
    std::fs::write(&filler, vec![0_u8; usize::try_from(free).unwrap() - 1_000_000]).unwrap();
    std::fs::write(&go, "").unwrap();
    until_true("the worker says that it takes no tasks", 60, || worker.stderr().contains("takes no tasks")).await;
    let failed = async || {
        let history = History::read(&nats.client().await).await;
        let causes = history.records().filter_map(|(_, record)| match record {
            Record::AttemptFailed { cause, .. } => Some(cause.clone()),
            _ => None,
        });
        causes.collect::<Vec<_>>()
    };
    until("what runs fails", 60, async || {
        let causes = failed().await;
        causes.iter().any(|cause| matches!(cause, FailureCause::Infrastructure { .. })).then_some(())
    })
    .await;
    std::fs::remove_file(&filler).unwrap();
    let ended = api.ended(&run, 90).await;
    assert_eq!(ended["state"], "succeeded", "{ended} {}", worker.stderr());
    let uncharged = |cause: &FailureCause| matches!(cause, FailureCause::Infrastructure { .. } | FailureCause::Released { .. });
    let causes = failed().await;
    assert!(causes.iter().all(uncharged), "{causes:?}");
    assert!(worker.stderr().contains("there is space again"));
    assert_eq!(History::read(&nats.client().await).await.violations(), Vec::<String>::new());
}

/// Row 13 of the fault model.
#[tokio::test]
async fn a_full_artifact_disk_refuses_packages_and_works_again_once_there_is_space() {
    let project = Project::new();
    let base = project.path();
    let at = project.file("disk");
    let Some(_disk) = SmallDisk::mount(&at, 8) else { return };
    let nats = Nats::start(&project.file("jetstream")).await;
    let place = Place { store: at.join("store"), ..Place::new(base, "one") };
    let (mut coordinator, api) = Coordinator::leading(&nats, base, &place).await;
    std::fs::write(at.join("filler"), vec![0_u8; 7_900_000]).unwrap();
    let package = vec![7_u8; 2_000_000];
    let path = format!("/v1/packages/{}", blake3::hash(&package).to_hex());
    send(api.call(Method::PUT, &path).body(package.clone())).await.refused(503, "CSY-4001", &["No space left"]);
    assert_eq!(api.get("/v1/status").await["leader"], "one");
    std::fs::remove_file(at.join("filler")).unwrap();
    assert_eq!(send(api.call(Method::PUT, &path).body(package)).await.status.as_u16(), 201);
    assert!(coordinator.service.stop(20).await.success());
}
