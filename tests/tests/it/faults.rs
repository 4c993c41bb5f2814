//! Faults in the middle of a foreach, with real processes: kill -9 of each part, one at a time, twice each. The run succeeds, every task
//! has one accepted result, the model is announced under one id and acted on once, and every object is what the log says.

use std::path::{Path, PathBuf};

use causey_protocol::record::{Record, Topic};
use causey_tests::process::{self, Signal};
use causey_tests::wait::until_true;
use causey_tests::{History, Project, Role, Service, Stack, history, tools, until};
use serde_json::{Value, json};

use crate::cancel::{done, running, start_marked};
use crate::flows::ARRIVAL;

const ITEMS: u32 = 60;

/// A stack in the middle of a foreach, with a follower that waits for the model.
struct Scene {
    project: Project,
    stack: Stack,
    marks: PathBuf,
    acted: PathBuf,
    follower: Service,
    run: String,
}

fn follow(project: &Project, acted: &Path, log: &str) -> Service {
    let mut command = project.causey().into_std();
    command.args(["events", "follow", "--type", "dev.causey.model.published.v1", "--subscriber", "loader", "--from-start"]);
    command.args(["--exec", &format!("cat >> '{}'", acted.display())]);
    Service::start(command, &project.file(log))
}

impl Scene {
    async fn new() -> Self {
        let project = Project::new();
        let stack = Stack::start(&project).await;
        let (marks, acted) = (project.file("marks"), project.file("acted"));
        let follower = follow(&project, &acted, "follower");
        let run = start_marked(&project, &marks, ITEMS, 0.1).await;
        Self { project, stack, marks, acted, follower, run }
    }

    /// Waits until so many tasks are done.
    async fn come_to(&self, count: usize) {
        until_true(&format!("{count} tasks are done"), 60, || done(&self.marks) >= count).await;
    }

    fn acted(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.acted).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Everything that must hold at the end. Gives the history, for what a test wants to see besides.
    async fn ends_well(mut self) -> History {
        let ended = self.stack.api.ended(&self.run, 90).await;
        assert_eq!(ended["state"], "succeeded", "{ended}{}", self.project.logs());
        assert_eq!(ended["tasks"]["succeeded"], ITEMS + 3, "{ended}");
        assert_eq!(done(&self.marks), ITEMS as usize);
        let model = self.stack.api.get("/v1/models/squares/latest").await;
        let expected: u32 = (0..ITEMS).map(|number| number * number).sum();
        assert_eq!((&model["version"], &model["run"]), (&json!(1), &ended["run"]));
        assert_eq!(self.stack.api.get("/v1/models/squares/1/content").await, json!({"total": expected}));

        let history = History::read(&self.stack.nats().await).await;
        assert_eq!(history.violations(), Vec::<String>::new());
        assert_eq!(history.store_violations(&self.stack.store()).unwrap(), Vec::<String>::new());
        let results: usize = history.records().map(|(_, record)| history::accepted(record).len()).sum();
        assert_eq!(results, ITEMS as usize + 3, "one accepted result per task");

        let ids: Vec<&str> = history.announced(Topic::ModelPublished).iter().filter_map(|notice| notice.event["id"].as_str()).collect();
        assert!(!ids.is_empty() && ids.iter().all(|id| *id == ids[0]), "{ids:?}");
        until("the follower acts", 20, async || (!self.acted().is_empty()).then_some(())).await;
        assert_eq!(self.follower.ended(), None, "the follower ended: {}", self.follower.stderr());
        // The same subscriber, started again, must have nothing left to do.
        self.follower.stop(10).await;
        let again = [
            "events",
            "follow",
            "--type",
            "dev.causey.model.published.v1",
            "--subscriber",
            "loader",
            "--json",
            "--count",
            "1",
            "--timeout",
            "1",
        ];
        self.project.expect(6, &again).await;
        let acted = self.acted();
        assert_eq!(acted.len(), 1, "{acted:?}");
        assert_eq!(acted[0]["id"], ids[0]);

        assert!(self.stack.stop().await.success());
        self.project.is_quiet().await;
        history
    }
}

async fn crash_twice(role: Role) -> History {
    let scene = Scene::new().await;
    for count in [10, 30] {
        scene.come_to(count).await;
        scene.stack.crash(role).await;
    }
    scene.ends_well().await
}

/// Row 6 of the fault model.
#[tokio::test]
async fn a_run_survives_two_crashes_of_the_coordinator() {
    let history = crash_twice(Role::Coordinator).await;
    assert_eq!(history.state().epoch, 3);
}

/// Row 1 of the fault model.
#[tokio::test]
async fn a_run_survives_two_crashes_of_the_worker() {
    let history = crash_twice(Role::Worker).await;
    let lost = history.records().filter(|(_, record)| matches!(record, Record::AttemptFailed { .. })).count();
    assert!(lost <= 8, "{lost} attempts were lost with two workers of two slots");
}

/// Row 10 of the fault model.
#[tokio::test]
async fn a_run_survives_two_crashes_of_nats_server() {
    crash_twice(Role::Nats).await;
}

/// Row 1 of the fault model.
#[tokio::test]
async fn a_run_survives_two_crashes_of_a_host() {
    let scene = Scene::new().await;
    for count in [10, 30] {
        scene.come_to(count).await;
        let victim = until("a task runs", 20, async || running(&scene.marks).first().copied()).await;
        process::signal(victim, Signal::KILL);
        until_true("the host is gone", 5, || !process::is_alive(victim)).await;
    }
    let history = scene.ends_well().await;
    let failed = history.records().filter(|(_, record)| matches!(record, Record::AttemptFailed { .. })).count();
    // A host that was killed between its last line and its death may have reported.
    assert!(failed <= 2, "{failed} attempts failed");
}

#[tokio::test]
async fn a_run_survives_the_crash_of_the_whole_stack() {
    let scene = Scene::new().await;
    scene.come_to(10).await;
    let Scene { project, stack, marks, acted, follower, run } = scene;
    process::signal(stack.process(), Signal::KILL);
    drop((stack, follower));
    project.is_quiet().await;
    let stack = Stack::start(&project).await;
    let follower = follow(&project, &acted, "follower");
    Scene { project, stack, marks, acted, follower, run }.ends_well().await;
}

/// Row 4 of the fault model.
#[tokio::test]
async fn a_worker_that_slept_past_its_lease_neither_blocks_nor_doubles_anything() {
    let scene = Scene::new().await;
    scene.come_to(10).await;
    let worker = scene.stack.pid(Role::Worker).unwrap();
    process::signal(worker, Signal::STOP);
    // Longer than the queue waits for a sign of life in a local stack (10 s): what it holds is delivered anew when it wakes.
    tokio::time::sleep(std::time::Duration::from_secs(12)).await;
    process::signal(worker, Signal::CONT);
    scene.ends_well().await;
}

/// Row 24 of the fault model.
#[tokio::test]
async fn every_input_sent_once_more_changes_nothing() {
    let project = Project::new();
    let stack = Stack::start(&project).await;
    project.ok(&["deploy", &project.flow("arrival.py", ARRIVAL)]).await;
    let publish = ["events", "publish", "numbers.arrived", "--id", "day-1", "--data", r#"{"values": "2,4"}"#, "--json"];
    let run = project.ok(&publish).await.json()["started"][0]["name"].as_str().unwrap().to_owned();
    stack.api.ended(&run, 60).await;
    let client = stack.nats().await;
    let before = History::read(&client).await.state();
    let context = async_nats::jetstream::new(client.clone());
    for stream in ["CAUSEY_IN", "CAUSEY_EVENT"] {
        let handle = context.get_stream(stream).await.unwrap();
        for sequence in 1..=handle.cached_info().state.last_sequence {
            let message = handle.get_raw_message(sequence).await.unwrap();
            context.publish_with_headers(message.subject, message.headers, message.payload).await.unwrap().await.unwrap();
        }
    }
    let after = until("all of it is covered", 20, async || {
        let history = History::read(&client).await;
        let state = history.state();
        (state.inbox >= 2 * before.inbox && state.events >= 2 * before.events).then_some(history)
    })
    .await;
    assert_eq!(after.violations(), Vec::<String>::new());
    let state = after.state();
    assert_eq!(
        (state.runs.len(), state.models.values().map(Vec::len).sum::<usize>(), after.announced(Topic::ModelPublished).len()),
        (1, 1, 1)
    );
    assert_eq!(state.runs.iter().collect::<Vec<_>>(), before.runs.iter().collect::<Vec<_>>());
}

/// The example's flow, whose `read` tasks leave marks and take their time.
fn marked_example() -> String {
    let text = std::fs::read_to_string(tools::workspace().join("examples/title-demand/flow.py")).unwrap();
    let first = "        self.country = self.input\n";
    assert!(text.contains(first), "the example has changed; mend this test");
    let marks = "        running = Path(self.folder, f\"running-{self.index}-{os.getpid()}\")\n        running.touch()\n        time.sleep(0.4)\n        running.unlink()\n";
    let done = "        Path(self.folder, f\"done-{self.index}\").touch()\n";
    format!("import os\nimport time\n{}", text.replace(first, &format!("{marks}{done}{first}")))
}

#[tokio::test]
async fn the_example_survives_two_crashes_of_every_part() {
    if !tools::python_has("sklearn, pyarrow, skops, holidays, plotly") {
        return;
    }
    let project = Project::new();
    let example = tools::workspace().join("examples/title-demand");
    for file in ["demand.py", "generate.py"] {
        std::fs::copy(example.join(file), project.file("flows").join(file)).unwrap();
    }
    let mut generate = tokio::process::Command::new(tools::python());
    generate
        .arg("generate.py")
        .arg(project.path())
        .args(["--countries", "12", "--days", "84", "--titles", "5"])
        .current_dir(project.file("flows"));
    let generated = causey_tests::project::finish(generate, "generate.py").await;
    assert_eq!(generated.status, Some(0), "{generated:#?}");
    let truth: Value = serde_json::from_slice(&std::fs::read(project.file("truth.json")).unwrap()).unwrap();
    let stack = Stack::start(&project).await;
    let flow = project.flow("flow.py", &marked_example());
    project.ok(&["deploy", &flow]).await;
    let (acted, marks) = (project.file("acted"), project.file("viewing"));
    let mut follower = follow(&project, &acted, "follower");
    let data = json!({"folder": marks, "day": truth["last_day"]}).to_string();
    let answer = project.ok(&["events", "publish", "viewing.arrived", "--id", "day-1", "--data", &data, "--json"]).await.json();
    let run = answer["started"][0]["name"].as_str().unwrap().to_owned();

    for count in [1, 3] {
        until_true("some countries are read", 60, || done(&marks) >= count).await;
        let victim = until("a task runs", 20, async || running(&marks).first().copied()).await;
        process::signal(victim, Signal::KILL);
    }
    for (count, role) in
        [(4, Role::Coordinator), (5, Role::Nats), (6, Role::Worker), (8, Role::Coordinator), (10, Role::Nats), (12, Role::Worker)]
    {
        until_true("more countries are read", 60, || done(&marks) >= count).await;
        stack.crash(role).await;
    }
    let ended = stack.api.ended(&run, 120).await;
    assert_eq!(ended["state"], "succeeded", "{ended}{}", project.logs());
    let history = History::read(&stack.nats().await).await;
    assert_eq!(history.violations(), Vec::<String>::new());
    assert_eq!(history.store_violations(&stack.store()).unwrap(), Vec::<String>::new());
    let versions = stack.api.get("/v1/models/title-demand").await;
    assert_eq!(versions["versions"].as_array().map(Vec::len), Some(1));
    until("the follower acts", 20, async || acted.exists().then_some(())).await;
    assert_eq!(follower.ended(), None, "{}", follower.stderr());
    let ids: Vec<&str> = history.announced(Topic::ModelPublished).iter().filter_map(|notice| notice.event["id"].as_str()).collect();
    let text = std::fs::read_to_string(&acted).unwrap();
    let told: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((told.len(), told[0]["id"].as_str()), (1, ids.first().copied()));
    assert!(ids.iter().all(|id| *id == ids[0]));
}
