//! Versions of a flow on real processes. Numbers of rows are those of the fault table in `docs/operations.md`.

use std::path::Path;

use causey_tests::wait::until_true;
use causey_tests::{History, Project, Stack};
use serde_json::json;

use crate::flows::WAITING;
use crate::main_road::artifacts;

#[tokio::test]
async fn row_36_a_run_keeps_the_version_that_it_began_with() {
    let project = Project::new();
    let stack = Stack::start(&project).await;
    let flow = project.flow("waiting.py", WAITING);
    let go = project.file("go");
    let begun = |number: u32| go.with_file_name(format!("go-{number}")).is_file();
    let submit = async |request: &str| {
        let body = json!({"request_id": request, "flow": "Waiting", "parameters": {"go": go}});
        stack.api.post("/v1/runs", &body).await.body["run"].as_str().unwrap().to_owned()
    };
    project.ok(&["deploy", &flow]).await;
    let old = submit("old").await;
    until_true("an item runs", 60, || (0..4).any(begun)).await;
    std::fs::write(&flow, WAITING.replace("VERSION = 1", "VERSION = 2")).unwrap();
    project.ok(&["deploy", &flow]).await;
    let new = submit("new").await;
    std::fs::write(&go, "").unwrap();
    for (run, deployed, version) in [(&old, 1, 1), (&new, 2, 2)] {
        let ended = stack.api.ended(run, 60).await;
        assert_eq!((&ended["state"], &ended["version"]), (&json!("succeeded"), &json!(deployed)), "{ended}");
        let last = artifacts(&stack.store(), run, Path::new(&flow)).await["end/0"]["last"].clone();
        assert_eq!(last, json!(vec![version; 6]), "all its steps have run version {version}");
    }
    assert_eq!(History::read(&stack.nats().await).await.violations(), Vec::<String>::new());
}
