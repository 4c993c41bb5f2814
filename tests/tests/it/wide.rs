//! Foreaches wider than a chunk: results leave the state chunk by chunk, and nobody notices.

use causey_protocol::record::Record;
use causey_tests::{Api, History, Project, Stack, until};
use serde_json::json;

use crate::flows::WIDE;

/// The names of all tasks of the wide step, page by page.
async fn listed(api: &Api, run: &str) -> Vec<String> {
    let (mut names, mut after) = (Vec::new(), String::new());
    loop {
        let page = api.get(&format!("/v1/runs/{run}/tasks?step=work&limit=400{after}")).await;
        names.extend(page["tasks"].as_array().unwrap().iter().map(|task| task["task"].as_str().unwrap().to_owned()));
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => return names,
        }
    }
}

/// Row 38 of the fault model.
#[tokio::test]
async fn a_join_receives_every_item_of_a_foreach_that_is_kept_in_chunks() {
    let project = Project::new();
    let stack = Stack::start(&project).await;
    let output = project.ok(&["run", &project.flow("wide.py", WIDE), "--host", "reuse"]).await;
    let total: u64 = (0..2_100).map(|number| number * number).sum();
    assert!(output.stdout.contains(&format!("total={total} last=(2100, {}, 2099)", 2_099 * 2_099)), "{output:#?}");
    let runs = stack.api.get("/v1/runs").await;
    let run = runs["runs"][0]["name"].as_str().unwrap();
    assert_eq!(listed(&stack.api, run).await, (0..2_100).map(|index: u32| index.to_string()).collect::<Vec<_>>());
    let logs = project.ok(&["logs", &format!("{run}/work/640")]).await;
    assert!(logs.stdout.contains("this is item 640"), "{logs:#?}");
    let history = History::read(&stack.nats().await).await;
    assert_eq!(history.violations(), Vec::<String>::new());
    assert_eq!(history.store_violations(&stack.store()).unwrap(), Vec::<String>::new());
    let stored = history.records().filter(|(_, record)| matches!(record, Record::ChunkStored { .. })).count();
    assert_eq!(stored, 3);
    let held = history.state().runs.values().next().unwrap().tasks(std::ops::Bound::Unbounded).count();
    assert_eq!(held, 3, "start, gather and end");
}

/// Row 38 of the fault model.
#[tokio::test]
async fn cancelling_a_foreach_of_a_hundred_thousand_ends_at_once() {
    let project = Project::new();
    let stack = Stack::start(&project).await;
    project.ok(&["deploy", &project.flow("wide.py", WIDE)]).await;
    let body = json!({"request_id": "wide-1", "flow": "Wide", "parameters": {"items": 100_000}, "host": "reuse", "user": "ann"});
    let reply = stack.api.post("/v1/runs", &body).await;
    let run = reply.body["name"].as_str().unwrap().to_owned();
    until("more than a chunk is done", 60, async || {
        let shown = stack.api.get(&format!("/v1/runs/{run}")).await;
        shown["tasks"]["succeeded"].as_u64().filter(|done| *done > 1_200)
    })
    .await;
    project.ok(&["cancel", &run]).await;
    let ended = stack.api.ended(&run, 10).await;
    assert_eq!(ended["state"], "cancelled", "{ended}");
    let open = ["waiting", "ready", "dispatched", "running"].map(|state| ended["tasks"][state].clone());
    assert_eq!(open, [json!(0), json!(0), json!(0), json!(0)], "{ended}");
    let history = History::read(&stack.nats().await).await;
    assert_eq!(history.violations(), Vec::<String>::new());
}
