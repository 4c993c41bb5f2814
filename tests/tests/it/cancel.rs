//! Runs that are cancelled, and runs that outlive their stack.

use std::path::Path;

use causey_tests::wait::until_true;
use causey_tests::{History, Project, Stack, process, until};
use serde_json::json;

use crate::flows::{MARKED, SMALL};

/// Process ids of tasks that run now.
pub(crate) fn running(marks: &Path) -> Vec<u32> {
    let names = std::fs::read_dir(marks).unwrap().flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let pids = names.filter_map(|name| name.strip_prefix("running-")?.split_once('-')?.1.parse().ok());
    pids.filter(|pid| process::is_alive(*pid)).collect()
}

/// How many tasks have come to their last line.
pub(crate) fn done(marks: &Path) -> usize {
    std::fs::read_dir(marks).unwrap().flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with("done-")).count()
}

/// Starts the marked flow on the stack without waiting for it; gives the run's name.
pub(crate) async fn start_marked(project: &Project, marks: &Path, items: u32, seconds: f64) -> String {
    std::fs::create_dir_all(marks).unwrap();
    let flow = project.flow("marked.py", MARKED);
    project.ok(&["deploy", &flow]).await;
    let api = {
        let url = std::fs::read_to_string(project.state().join("url")).unwrap();
        let token = std::fs::read_to_string(project.state().join("token")).unwrap();
        causey_tests::Api::new(url.trim(), token.trim())
    };
    let parameters = json!({"marks": marks, "items": items, "seconds": seconds});
    let reply = api.post("/v1/runs", &json!({"request_id": "marked-1", "flow": "Marked", "parameters": parameters, "user": "ann"})).await;
    assert_eq!(reply.status.as_u16(), 201, "{reply:?}");
    reply.body["name"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn cancelling_in_the_middle_of_a_foreach_kills_what_runs_and_starts_no_more() {
    let project = Project::new();
    let stack = Stack::start(&project).await;
    let marks = project.file("marks");
    let run = start_marked(&project, &marks, 6, 60.0).await;
    let hosts = until("two tasks run", 30, async || Some(running(&marks)).filter(|pids| pids.len() == 2)).await;
    let cancelled = project.ok(&["cancel", &run, "--reason", "enough", "--json"]).await.json();
    assert_eq!(cancelled["name"], json!(run));
    until_true("the hosts are killed", 3, || hosts.iter().all(|pid| !process::is_alive(*pid))).await;
    let ended = stack.api.ended(&run, 10).await;
    assert_eq!((&ended["state"], &ended["problem"]["code"]), (&json!("cancelled"), &json!("CSY-3001")), "{ended}");
    assert_eq!(ended["tasks"]["running"], 0);
    let output = project.ok(&["run", &project.flow("small.py", SMALL)]).await;
    assert!(output.stdout.contains("alpha=0.5"));
    assert_eq!(done(&marks), 0);
    assert_eq!(running(&marks), Vec::<u32>::new());
    let history = History::read(&stack.nats().await).await;
    assert_eq!(history.violations(), Vec::<String>::new());
    // Asked again, it stays what it is.
    project.ok(&["cancel", &run]).await;
    assert_eq!(stack.api.get(&format!("/v1/runs/{run}")).await["state"], "cancelled");
    project.expect(3, &["cancel", "nobody-42"]).await.says(&["CSY-1006", "nobody-42"]);
}

/// Row 9 of the fault model.
#[tokio::test]
async fn a_run_goes_on_when_causey_dev_is_stopped_and_started_again() {
    let project = Project::new();
    let stack = Stack::start(&project).await;
    let marks = project.file("marks");
    let run = start_marked(&project, &marks, 20, 0.2).await;
    until_true("some tasks are done", 30, || done(&marks) >= 4).await;
    assert!(stack.stop().await.success());
    project.is_quiet().await;
    let before = done(&marks);
    assert!(before < 20, "the run was over before the stack stopped");
    let stack = Stack::start(&project).await;
    let ended = stack.api.ended(&run, 60).await;
    assert_eq!(ended["state"], "succeeded", "{ended}");
    let history = History::read(&stack.nats().await).await;
    assert_eq!(history.violations(), Vec::<String>::new());
    assert_eq!(history.store_violations(&stack.store()).unwrap(), Vec::<String>::new());
}
