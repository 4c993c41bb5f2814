//! `causey why` on real processes: what only a coordinator knows, such as which workers there are.

use causey_tests::service::{Place, worker};
use causey_tests::{Api, Coordinator, Nats, Project, until};
use serde_json::{Value, json};

use crate::cancel::running;
use crate::flows::{ARRIVAL, MARKED};

async fn waits(api: &Api, path: &str) -> Vec<Value> {
    api.get(path).await["waits"].as_array().unwrap().clone()
}

#[tokio::test]
async fn a_run_says_that_no_worker_is_there_and_then_who_runs_it_and_what_the_rest_waits_for() {
    let project = Project::new();
    let base = project.path();
    let nats = Nats::start(&project.file("jetstream")).await;
    let place = Place::new(base, "one");
    let (_coordinator, api) = Coordinator::leading(&nats, base, &place).await;
    let server = ["--url", &api.url, "--token", &api.token];
    let causey = async |words: &[&str]| project.ok(&[words, &server[..]].concat()).await;
    causey(&["deploy", &project.flow("marked.py", MARKED)]).await;
    let marks = project.file("marks");
    std::fs::create_dir_all(&marks).unwrap();
    let parameters = json!({"marks": marks, "items": 6, "seconds": 60.0});
    let reply = api.post("/v1/runs", &json!({"request_id": "r-1", "flow": "Marked", "parameters": parameters})).await;
    let run = reply.body["name"].as_str().unwrap().to_owned();

    let said = causey(&["why", &run]).await.stdout;
    for words in [
        &format!("{run} is running"),
        "start",
        "pool `default` has no worker; no pool has one",
        "help  start one: causey worker --pool default",
    ] {
        assert!(said.contains(words), "{words:?} is not in {said}");
    }
    let pool = causey(&["why", "--pool", "default", "--json"]).await.json();
    assert_eq!((&pool["waits"][0]["queued"], &pool["waits"][1]["because"]), (&json!(1), &json!("no_worker")), "{pool}");

    let _worker = worker(&nats.url(), base, &place.store, "worker");
    until("two tasks run", 40, async || (running(&marks).len() == 2).then_some(())).await;
    let path = format!("/v1/runs/{run}/why");
    // The start of an attempt is reported once it is a second old.
    until("the log knows of both", 20, async || {
        waits(&api, &path).await.iter().find(|wait| wait["because"] == "running" && wait["count"] == 2).cloned()
    })
    .await;
    let busy = until("the rest is queued behind them", 20, async || {
        waits(&api, &path).await.iter().find(|wait| wait["because"] == "busy").cloned()
    })
    .await;
    assert_eq!((&busy["pool"], &busy["workers"], &busy["slots"]), (&json!("default"), &json!(1), &json!(2)), "{busy}");
    let join = waits(&api, &format!("{path}?step=join&task=0")).await;
    assert_eq!((&join[0]["because"], &join[0]["arrived"], &join[0]["expected"]), (&json!("siblings"), &json!(0), &json!(6)), "{join:?}");
    causey(&["cancel", &run]).await;
    let said = causey(&["why", &format!("{run}/join")]).await.stdout;
    assert!(said.contains("cancelled") && said.contains("cancelled on request"), "{said}");
    project.expect(3, &[&["why", &format!("{run}/nothing")], &server[..]].concat()).await;
}

#[tokio::test]
async fn a_trigger_says_which_event_it_waits_for() {
    let project = Project::new();
    let base = project.path();
    let nats = Nats::start(&project.file("jetstream")).await;
    let (_coordinator, api) = Coordinator::leading(&nats, base, &Place::new(base, "one")).await;
    let server = ["--url", &api.url, "--token", &api.token];
    let deployed = project.ok(&[&["deploy", &project.flow("arrival.py", ARRIVAL), "--json"], &server[..]].concat()).await.json();
    let (flow, event) = (deployed["flow"].as_str().unwrap(), deployed["triggers"][0]["events"][0]["name"].as_str().unwrap());
    let said = project.ok(&[&["why", "--trigger", flow], &server[..]].concat()).await.stdout;
    assert!(said.contains(&format!("waits for an event of type `{event}`")), "{said}");
    project.expect(3, &[&["why", "--trigger", "Nothing"], &server[..]].concat()).await.says(&["no flow `Nothing` is deployed"]);
    project.expect(2, &["why"]).await;
}
