//! Flows run, give the right artifacts and leave nothing behind.

use std::collections::BTreeMap;
use std::path::Path;

use causey_tests::project::finish;
use causey_tests::{History, Project, Stack, tools};
use serde_json::Value;
use tokio::process::Command;

use crate::flows::{DICE, EVERYTHING, SMALL};

fn hello() -> String {
    std::fs::read_to_string(tools::workspace().join("examples/hello/hello.py")).unwrap()
}

#[tokio::test]
async fn hello_runs_with_nothing_running_before_and_leaves_no_process_behind() {
    let project = Project::new();
    let flow = project.flow("hello.py", &hello());
    let output = project.ok(&["run", &flow]).await;
    project.is_quiet().await;
    for line in ["doubled 1", "doubled 2", "doubled 3", "total=12"] {
        assert!(output.stdout.contains(line), "{line:?} is missing: {output:#?}");
    }
    output.says(&["HelloFlow", "private stack"]);
    let listed = project.ok(&["runs", "--json"]).await;
    project.is_quiet().await;
    assert_eq!(listed.json()["state"], "succeeded");
}

#[tokio::test]
async fn a_nested_foreach_with_branch_retry_and_catch_gives_the_right_result() {
    let project = Project::new();
    let flow = project.flow("everything.py", EVERYTHING);
    let output = project.ok(&["run", &flow, "--letters", "abc", "--times", "2"]).await;
    assert!(output.stdout.contains("words=a0r0 a1r1 b0r0 b1r1 c0r0 c1r1 count=6 caught=True"), "{output:#?}");
    project.is_quiet().await;
}

#[tokio::test]
async fn every_kind_of_host_gives_the_same_result() {
    let project = Project::new();
    let stack = Stack::start(&project).await;
    let flow = project.flow("everything.py", EVERYTHING);
    for host in ["fork", "reuse", "spawn"] {
        let output = project.ok(&["run", &flow, "--host", host]).await;
        assert!(output.stdout.contains("words=a0r0 a1r1 b0r0 b1r1 count=4 caught=True"), "{host}: {output:#?}");
    }
    let history = History::read(&stack.nats().await).await;
    assert_eq!(history.violations(), Vec::<String>::new());
    assert_eq!(history.store_violations(&stack.store()).unwrap(), Vec::<String>::new());
    assert!(stack.stop().await.success());
    project.is_quiet().await;
}

#[tokio::test]
async fn random_numbers_differ_over_the_items_of_a_foreach() {
    if !tools::python_has("numpy") {
        return;
    }
    let project = Project::new();
    let flow = project.flow("dice.py", DICE);
    let output = project.ok(&["run", &flow]).await;
    assert!(output.stdout.contains("different=6,6"), "{output:#?}");
}

#[tokio::test]
async fn a_signal_cancels_the_run_and_leaves_no_process_behind() {
    let project = Project::new();
    let text = crate::flows::with_start("print('asleep', flush=True); import time; time.sleep(100)");
    let flow = project.flow("given.py", &text);
    let mut command = project.causey().into_std();
    command.args(["run", &flow]);
    let mut running = causey_tests::Service::start(command, &project.file("run"));
    causey_tests::until("the step runs", 30, async || running.stdout().contains("asleep").then_some(())).await;
    causey_tests::process::signal(running.pid(), causey_tests::process::Signal::INT);
    assert_eq!(running.wait(20).await.code(), Some(130), "{}", running.stderr());
    project.is_quiet().await;
    let listed = project.ok(&["runs", "--json"]).await;
    assert_eq!(listed.json()["state"], "cancelled");
}

/// Flows written for Metaflow, with the artifacts Metaflow gives. Those of `expected/` were printed by `oracle.py`.
fn metaflow_flows() -> Vec<String> {
    let expected = std::fs::read_dir(tools::sdk().join("tests/expected")).unwrap();
    let mut names: Vec<String> = expected.map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

pub(crate) type Artifacts = BTreeMap<String, Value>;

pub(crate) async fn artifacts(store: &Path, run: &str, flow: &Path) -> Artifacts {
    let mut command = Command::new(tools::python());
    command.args(["-m", "causey._dump"]).arg(store).arg(run).arg("--flow").arg(flow).env("PYTHONPATH", tools::sdk());
    let output = finish(command, "causey._dump").await;
    assert_eq!(output.status, Some(0), "{output:#?}");
    serde_json::from_str(&output.stdout).unwrap()
}

#[tokio::test]
async fn flows_written_for_metaflow_give_the_artifacts_metaflow_gives() {
    let project = Project::new();
    // As many as the largest gang among them has members.
    let stack = Stack::start_with(&project, &["--slots", "4"]).await;
    let names = metaflow_flows();
    assert!(names.len() >= 8, "{names:?}");
    for name in names {
        let flow = tools::sdk().join(format!("tests/flows/{name}.py"));
        let output = project.ok(&["run", flow.to_str().unwrap(), "--json"]).await;
        let run = output.json_lines()[0]["run"].as_str().unwrap().to_owned();
        let expected = std::fs::read(tools::sdk().join(format!("tests/expected/{name}.json"))).unwrap();
        let expected: Artifacts = serde_json::from_slice(&expected).unwrap();
        assert_eq!(artifacts(&stack.store(), &run, &flow).await, expected, "{name}");
    }
    let history = History::read(&stack.nats().await).await;
    assert_eq!(history.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn the_expected_artifacts_are_those_of_the_real_metaflow() {
    if !tools::python_has("metaflow") {
        return;
    }
    for name in ["catching", "merge"] {
        let mut command = Command::new(tools::python());
        command.arg(tools::sdk().join("tests/oracle.py")).arg(tools::sdk().join(format!("tests/flows/{name}.py")));
        command.current_dir(std::env::temp_dir()).env_remove("PYTHONPATH");
        let output = finish(command, "oracle.py").await;
        assert_eq!(output.status, Some(0), "{output:#?}");
        let real: Artifacts = serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:#?}"));
        let expected = std::fs::read(tools::sdk().join(format!("tests/expected/{name}.json"))).unwrap();
        assert_eq!(real, serde_json::from_slice::<Artifacts>(&expected).unwrap(), "{name}");
    }
}

#[tokio::test]
async fn commands_at_the_same_time_share_one_private_stack() {
    let project = Project::new();
    let flow = project.flow("small.py", SMALL);
    let arguments = ["run", flow.as_str()];
    let (first, second) = tokio::join!(project.ok(&arguments), project.ok(&arguments));
    assert!(first.stdout.contains("alpha=0.5") && second.stdout.contains("alpha=0.5"));
    project.is_quiet().await;
    assert_eq!(project.ok(&["runs", "--json"]).await.json_lines().len(), 2);
}
