//! `causey logs`: what runs is shown while it prints, then what is stored of it; nothing twice, and what is not shown is named.

use std::path::PathBuf;

use causey_tests::service::{Place, worker};
use causey_tests::wait::until_true;
use causey_tests::{Api, Coordinator, Nats, Project, Service, until};
use serde_json::{Value, json};

const TALKING: &str = r#"
import sys
import time
from pathlib import Path

from causey import FlowSpec, Parameter, step


class Talking(FlowSpec):
    marks = Parameter("marks", required=True)
    lines = Parameter("lines", default=3)

    def say(self, words, stream=sys.stdout):
        print(words, file=stream, flush=True)

    def wait(self, name):
        Path(self.marks, f"at-{name}").touch()
        while not Path(self.marks, name).exists():
            time.sleep(0.01)

    @step
    def start(self):
        self.say("\x1b[32mbefore\x1b[0m anybody listens")
        self.say("half a euro: ", sys.stderr)
        sys.stdout.buffer.write(b"\xe2\x82")
        sys.stdout.flush()
        self.wait("half")
        sys.stdout.buffer.write(b"\xac \xff\x00 noise\n10 %\r90 %\r")
        sys.stdout.flush()
        self.wait("go")
        self.say("100 %")
        self.tasks = ["loud", "quiet"]
        self.next(self.work, foreach="tasks")

    @step
    def work(self):
        if self.input == "loud":
            for number in range(self.lines):
                print(f"line {number:08d} " + "x" * 83)
        else:
            self.say("a word in between")
            self.wait("end")
        self.next(self.join)

    @step
    def join(self, inputs):
        self.next(self.end)

    @step
    def end(self):
        pass
"#;

/// What `start` prints, and how that reads where it is no terminal.
const START: &str = "\u{1b}[32mbefore\u{1b}[0m anybody listens\nhalf a euro: \n€ \u{fffd}\0 noise\n10 %\r90 %\r100 %\n";

struct Scene {
    project: Project,
    nats: Nats,
    place: Place,
    _coordinator: Coordinator,
    _worker: Service,
    api: Api,
    marks: PathBuf,
    run: String,
}

impl Scene {
    /// A run whose first step has printed something and waits.
    async fn start(lines: u32) -> Self {
        let project = Project::new();
        let base = project.path();
        let nats = Nats::start(&project.file("jetstream")).await;
        let place = Place::new(base, "one");
        let (coordinator, api) = Coordinator::leading(&nats, base, &place).await;
        let worker = worker(&nats.url(), base, &place.store, "local");
        project.ok(&["deploy", &project.flow("talking.py", TALKING), "--url", &api.url, "--token", &api.token]).await;
        let marks = project.file("marks");
        std::fs::create_dir_all(&marks).unwrap();
        let request = json!({"request_id": "run-1", "flow": "Talking", "parameters": {"marks": marks, "lines": lines}});
        let run = api.post("/v1/runs", &request).await.body["name"].as_str().unwrap().to_owned();
        let scene = Self { project, nats, place, _coordinator: coordinator, _worker: worker, api, marks, run };
        scene.comes_to("half").await;
        scene
    }

    async fn comes_to(&self, mark: &str) {
        until_true(mark, 30, || self.marks.join(format!("at-{mark}")).exists()).await;
    }

    fn let_go(&self, mark: &str) {
        std::fs::write(self.marks.join(mark), "").unwrap();
    }

    /// `causey logs -f` in the background.
    fn follows(&self, api: &Api, path: &str, options: &[&str]) -> Service {
        let mut command = self.project.causey();
        command.args(["logs", "-f", &format!("{}{path}", self.run), "--url", &api.url, "--token", &api.token]).args(options);
        Service::start(command.into_std(), &self.project.file(&format!("follower{}-{}", path.replace('/', "-"), options.join(""))))
    }

    async fn logs(&self, path: &str, options: &[&str]) -> causey_tests::Output {
        let place = ["--url", &self.api.url, "--token", &self.api.token];
        self.project.ok(&[&["logs", &format!("{}{path}", self.run)], &place[..], options].concat()).await
    }
}

#[tokio::test]
async fn whoever_follows_a_task_late_sees_all_of_it_once_and_at_once() {
    let scene = Scene::start(3).await;
    // This one has never heard what was printed before: only the worker has it.
    let late = Place { projection: scene.project.file("late"), name: "late".into(), ..scene.place.clone() };
    let mut late = Coordinator::start(&scene.nats, scene.project.path(), &late);
    let api = late.with_role("standby").await;
    let mut follower = scene.follows(&api, "/start/0", &["--color", "always"]);
    let shows = async |words: &str| until_true(words, 20, || follower.stdout().contains(words)).await;
    shows("half a euro: \n").await;
    assert_eq!(follower.stdout(), "\u{1b}[32mbefore\u{1b}[0m anybody listens\nhalf a euro: \n");
    scene.let_go("half");
    // A progress bar comes as it is drawn, long before its line ends.
    shows("€ \u{fffd}\0 noise\n10 %\r90 %\r").await;
    let open = scene.logs("/start/0", &[]).await;
    assert_eq!(open.stdout, "");
    open.says(&["1 attempt still under way", "logs -f"]);
    scene.let_go("go");
    assert!(follower.wait(20).await.success(), "{}", follower.stderr());
    assert_eq!(follower.stdout(), START);
    scene.let_go("end");
    assert_eq!(scene.api.ended(&scene.run, 60).await["state"], "succeeded");
    assert_eq!(scene.logs("/start/0", &["--color", "always"]).await.stdout, START);
    let plain = scene.logs("/start/0", &[]).await.stdout;
    assert!(plain.starts_with("before anybody listens\nhalf a euro: \n€ \u{fffd}"), "{plain:?}");
    assert_eq!(scene.logs("/start/0", &["--since", "2099-01-01T00:00:00Z"]).await.stdout, "");
    let all = scene.logs("", &[]).await.stdout;
    for line in ["  start │ before anybody listens", "  start │ 100 %", "  work[1] │ a word in between"] {
        assert!(all.lines().any(|shown| shown == line), "{line:?} is not in {all}");
    }
}

/// Text of each attempt as a follower was told it, what was left out as gaps; fails on anything told twice or out of order.
fn told(lines: &[Value], task: &str) -> (String, u64) {
    let (mut text, mut missing, mut position) = (String::new(), 0, 0);
    for line in lines {
        let (gap, from) = (&line["gap"], &line["position"]);
        let place = if gap.is_null() { line } else { gap };
        if place["task"] != *task || place["step"] != "work" {
            continue;
        }
        if gap.is_null() {
            assert_eq!(from.as_u64(), Some(position), "{line}");
            text += line["text"].as_str().unwrap();
            position += line["text"].as_str().unwrap().len() as u64;
        } else {
            assert_eq!(gap["from"].as_u64(), Some(position), "{line}");
            missing += gap["to"].as_u64().unwrap() - position;
            position = gap["to"].as_u64().unwrap();
        }
    }
    (text, missing)
}

#[tokio::test]
async fn a_step_that_prints_faster_than_is_shown_is_stored_whole_and_slows_nobody() {
    let lines = 80_000;
    let scene = Scene::start(lines).await;
    let mut follower = scene.follows(&scene.api, "", &["--json"]);
    until_true("the follower hears", 20, || follower.stdout().contains("half a euro")).await;
    scene.let_go("half");
    scene.let_go("go");
    // While the other task prints as fast as it can, this one is heard.
    until_true("the quiet task is heard", 30, || follower.stdout().contains("a word in between")).await;
    let whole: String = (0..lines).map(|number| format!("line {number:08} {}\n", "x".repeat(83))).collect();
    until("the loud task has ended", 60, async || {
        let shown = scene.api.get(&format!("/v1/runs/{}", scene.run)).await;
        (shown["steps"][1]["counts"]["succeeded"] == 1).then_some(())
    })
    .await;
    assert!(scene.logs("/work/0", &[]).await.stdout == whole, "the stored log is whole");
    scene.let_go("end");
    assert!(follower.wait(60).await.success(), "{}", follower.stderr());
    let lines: Vec<Value> = follower.stdout().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    // What was left out live is a gap that is named, or is told from the stored log where the follower had not gone past it at the end.
    let (text, missing) = told(&lines, "0");
    assert_eq!(text.len() as u64 + missing, whole.len() as u64);
    assert_eq!(told(&lines, "1"), ("a word in between\n".into(), 0));
}

#[tokio::test]
async fn a_follower_goes_on_where_it_was_when_its_coordinator_is_replaced() {
    let scene = Scene::start(3).await;
    let port = causey_tests::tools::free_port();
    let place = Place { projection: scene.project.file("second"), name: "second".into(), port, ..scene.place.clone() };
    let mut second = Coordinator::start(&scene.nats, scene.project.path(), &place);
    let api = second.with_role("standby").await;
    let mut follower = scene.follows(&api, "/start/0", &["--color", "always"]);
    until_true("the follower hears", 20, || follower.stdout().contains("half a euro")).await;
    second.service.kill();
    scene.let_go("half");
    scene.comes_to("go").await;
    let mut second = Coordinator::start(&scene.nats, scene.project.path(), &place);
    second.with_role("standby").await;
    until_true("the follower has caught up", 20, || follower.stdout().contains("90 %")).await;
    scene.let_go("go");
    assert!(follower.wait(20).await.success(), "{}", follower.stderr());
    assert_eq!(follower.stdout(), START);
    scene.let_go("end");
    scene.api.ended(&scene.run, 60).await;
}
