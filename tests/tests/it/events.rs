//! From an event to a consumer: triggers, models, notifications, subscribers.

use causey_protocol::record::Topic;
use causey_tests::{History, Project, Stack};
use serde_json::{Value, json};

use crate::flows::ARRIVAL;

const FOLLOW: [&str; 6] = ["events", "follow", "--type", "dev.causey.model.published.v1", "--subscriber", "planning"];

#[tokio::test]
async fn an_event_starts_one_run_publishes_one_model_and_a_subscriber_acts_once_under_one_id() {
    let project = Project::new();
    let stack = Stack::start(&project).await;
    let flow = project.flow("arrival.py", ARRIVAL);
    let deployed = project.ok(&["deploy", &flow, "--json"]).await.json();
    assert_eq!((&deployed["flow"], &deployed["version"]), (&json!("Arrival"), &json!(1)));

    let publish = ["events", "publish", "numbers.arrived", "--id", "day-1", "--data", r#"{"values": "2,4"}"#, "--json"];
    let (first, second) = (project.ok(&publish).await.json(), project.ok(&publish).await.json());
    assert_eq!((first["duplicate"].as_bool(), first["started"].as_array().map(Vec::len)), (Some(false), Some(1)), "{first}");
    assert_eq!((second["duplicate"].as_bool(), second["started"].as_array().map(Vec::len)), (Some(true), Some(0)), "{second}");
    let run = first["started"][0]["name"].as_str().unwrap();
    let ended = stack.api.ended(run, 60).await;
    assert_eq!((&ended["state"], &ended["parameters"]["numbers"]), (&json!("succeeded"), &json!("2,4")), "{ended}");
    assert_eq!(ended["cause"]["events"][0]["id"], "day-1");

    let acted = project.file("acted");
    let exec = format!("cat >> '{}'", acted.display());
    let follow = |timeout: &'static str| [&FOLLOW[..], &["--from-start", "--exec", &exec, "--count", "1", "--timeout", timeout]].concat();
    project.ok(&follow("20")).await;
    // Published again and followed again: nothing new, so the count is not reached in time.
    project.ok(&publish).await;
    project.expect(6, &follow("2")).await;

    let events: Vec<Value> = std::fs::read_to_string(&acted).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(events.len(), 1, "{events:?}");
    let history = History::read(&stack.nats().await).await;
    let notices = history.announced(Topic::ModelPublished);
    assert_eq!(notices.len(), 1);
    assert_eq!(events[0]["id"], notices[0].event["id"]);
    assert_eq!((&events[0]["subject"], &events[0]["causeysequence"]), (&json!("mean"), &json!(notices[0].position)));
    assert_eq!((&events[0]["data"]["run"], &events[0]["data"]["version"]), (&first["started"][0]["run"], &json!(1)));
    assert_eq!(history.violations(), Vec::<String>::new());
    assert_eq!(history.store_violations(&stack.store()).unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn a_published_model_can_be_listed_shown_and_read() {
    let project = Project::new();
    let stack = Stack::start(&project).await;
    let flow = project.flow("arrival.py", ARRIVAL);
    project.ok(&["run", &flow]).await;
    project.ok(&["run", &flow, "--numbers", "3,5,7"]).await;
    let listed = project.ok(&["models", "ls", "--json"]).await.json();
    assert_eq!((&listed["name"], &listed["version"], &listed["format"]), (&json!("mean"), &json!(2), &json!("json")));
    assert_eq!(listed["metrics"], json!({"count": 3.0}));
    let text = project.ok(&["models", "show", "mean@1"]).await.stdout;
    assert!(text.starts_with("mean@1\n") && text.contains("count=2"), "{text}");
    let versions = project.ok(&["models", "show", "mean", "--json"]).await.json();
    assert_eq!(versions["versions"].as_array().map(Vec::len), Some(2));
    assert_eq!(stack.api.get("/v1/models/mean/latest/content").await, json!({"mean": 5.0}));
    assert_eq!(stack.api.get("/v1/models/mean/1/content").await, json!({"mean": 1.5}));
    project.expect(3, &["models", "show", "median"]).await.says(&["median", "CSY-1006"]);
    project.expect(3, &["models", "show", "mean@9"]).await.says(&["CSY-1006"]);
}

#[tokio::test]
async fn a_step_loads_a_model_that_another_flow_has_published() {
    let project = Project::new();
    let _stack = Stack::start(&project).await;
    project.ok(&["run", &project.flow("arrival.py", ARRIVAL), "--numbers", "8,10"]).await;
    let flow = project.flow("given.py", &crate::flows::with_start("from causey import models; print('loaded', models.load('mean'))"));
    let output = project.ok(&["run", &flow]).await;
    assert!(output.stdout.contains("loaded {'mean': 9.0}"), "{output:#?}");
}

#[tokio::test]
async fn an_event_that_matches_nothing_is_accepted_and_says_why_it_started_nothing() {
    let project = Project::new();
    let stack = Stack::start(&project).await;
    let answer = project.ok(&["events", "publish", "nobody.asked", "--data", "{}", "--json"]).await.json();
    assert_eq!((answer["started"].as_array().map(Vec::len), answer["duplicate"].as_bool()), (Some(0), Some(false)), "{answer}");
    assert!(answer["because"].to_string().contains("nobody.asked"), "{answer}");
    assert_eq!(stack.api.get("/v1/runs").await["runs"], json!([]));
}
