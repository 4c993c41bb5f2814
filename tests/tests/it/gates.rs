//! What runs wait for beside their tasks: signals, approvals, runs of other flows.

use causey_protocol::record::{Record, Topic};
use causey_tests::{History, Project, Role, Stack, until};
use serde_json::{Value, json};

use crate::flows::{GATED, PARENT, QUOTIENT, TELLING};

/// Starts a deployed flow and gives the run's name.
async fn start(stack: &Stack, flow: &str, parameters: Value) -> String {
    let reply = stack.api.post("/v1/runs", &json!({"flow": flow, "parameters": parameters, "user": "cleo"})).await;
    assert_eq!(reply.status.as_u16(), 201, "{reply:?}");
    reply.body["name"].as_str().unwrap().to_owned()
}

/// Waits until tasks of a step wait, and gives what for.
async fn waiting(stack: &Stack, run: &str, step: &str) -> Value {
    let path = format!("/v1/runs/{run}");
    until(&format!("step {step} of {run} to wait"), 30, async || {
        let view = stack.api.try_get(&path).await?;
        view["gates"]["waiting"].as_array()?.iter().find(|waiting| waiting["step"] == step).cloned()
    })
    .await
}

#[tokio::test]
async fn a_run_waits_for_a_signal_and_an_approval_through_a_killed_coordinator() {
    let project = Project::new();
    let stack = Stack::start(&project).await;
    let flow = project.flow("gated.py", GATED);
    let shown = project.ok(&["show", &flow]).await.stdout;
    assert!(shown.contains("waits for signal optional, at most 1 s, then {\"rate\":0.25} · waits for signal go"), "{shown}");
    assert!(shown.contains("needs approval by ann or bob, within 60 min"), "{shown}");
    project.ok(&["deploy", &flow]).await;
    let run = start(&stack, "Gated", json!({})).await;
    waiting(&stack, &run, "work").await;

    project.expect(4, &["signal", &run, "og"]).await.says(&["CSY-3023", "it waits for: optional, go"]);
    project.expect(2, &["signal", &run, "go", "--data", "{"]).await.says(&["--data is not JSON"]);
    project.expect(3, &["signal", "nobody-42", "go"]).await.says(&["CSY-1006"]);
    let large = json!({"data": "x".repeat(70_000)});
    stack.api.post(&format!("/v1/runs/{run}/signals/go"), &large).await.refused(413, "CSY-1104", &["70002 bytes"]);
    stack.crash(Role::Coordinator).await;
    let signal = json!({"request_id": "signal-1", "user": "cleo", "data": {"rate": 0.5}});
    for _ in 0..2 {
        let reply = until("the coordinator answers", 30, async || {
            let call = stack.api.call(reqwest::Method::POST, &format!("/v1/runs/{run}/signals/go")).json(&signal);
            call.send().await.ok().filter(|answer| !answer.status().is_server_error())
        });
        assert_eq!(reply.await.status().as_u16(), 200, "the same request again is no second signal");
    }
    project.expect(4, &["signal", &run, "go"]).await.says(&["has received signal `go` before, from \"cleo\""]);

    let waits = waiting(&stack, &run, "deploy").await;
    assert_eq!((&waits["approval"], &waits["tasks"]), (&json!(true), &json!(1)), "{waits}");
    let text = project.ok(&["show", &run]).await.stdout;
    assert!(text.contains(&format!("waits for approval (causey approve {run} deploy)")), "{text}");
    project.expect(2, &["approve", &run, "deploy", "--user", "cleo"]).await.says(&["CSY-1007", "its flow names: ann, bob"]);
    project.expect(4, &["approve", &run, "work", "--user", "ann"]).await.says(&["CSY-3023", "those that do: deploy"]);
    project.ok(&["approve", &run, "deploy", "--user", "bob", "--because", "numbers are fine"]).await;
    let ended = stack.api.ended(&run, 60).await;
    assert_eq!(ended["state"], "succeeded", "{ended}");
    let decision = &ended["gates"]["approvals"][0]["decision"];
    assert_eq!((&decision["user"], &decision["because"]), (&json!("bob"), &json!("numbers are fine")), "{ended}");
    assert_eq!((&ended["gates"]["signals"]["go"]["by"], &ended["gates"]["signals"]["optional"]["by"]), (&json!("cleo"), &Value::Null));
    let output = project.ok(&["logs", &run]).await.stdout;
    assert!(output.contains("deployed with 0.75, as ['go', 'optional'] say"), "{output}");
    project.expect(4, &["signal", &run, "go"]).await.says(&["CSY-3024", "has ended (succeeded)"]);

    let history = History::read(&stack.nats().await).await;
    let asked = history.announced(Topic::ApprovalRequested);
    assert_eq!(asked.len(), 1);
    assert_eq!((&asked[0].event["data"]["step"], &asked[0].event["data"]["by"]), (&json!("deploy"), &json!(["ann", "bob"])));
    assert_eq!(history.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn a_rejected_step_fails_its_run() {
    let project = Project::new();
    let stack = Stack::start(&project).await;
    project.ok(&["deploy", &project.flow("gated.py", GATED)]).await;
    let run = start(&stack, "Gated", json!({})).await;
    project.ok(&["signal", &run, "go", "--data", r#"{"rate": 1}"#]).await;
    waiting(&stack, &run, "deploy").await;
    project.ok(&["reject", &run, "deploy", "--user", "ann", "--because", "wrong day"]).await;
    let ended = stack.api.ended(&run, 30).await;
    assert_eq!((&ended["state"], &ended["problem"]["code"]), (&json!("failed"), &json!("CSY-3021")), "{ended}");
    assert_eq!(ended["problem"]["message"], "step `deploy` was rejected by \"ann\": wrong day");
}

#[tokio::test]
async fn a_flow_waits_for_another_one_and_reads_what_it_left_through_a_killed_worker() {
    let project = Project::new();
    let stack = Stack::start(&project).await;
    project.ok(&["deploy", &project.flow("parent.py", PARENT)]).await;
    let early = start(&stack, "Parent", json!({})).await;
    let ended = stack.api.ended(&early, 60).await;
    let problem = ended["problem"]["message"].as_str().unwrap_or_default();
    assert!(problem.contains("step `start` cannot start flow Quotient: no flow `Quotient` is deployed"), "{ended}");

    project.ok(&["deploy", &project.flow("quotient.py", QUOTIENT)]).await;
    let run = start(&stack, "Parent", json!({})).await;
    stack.crash(Role::Worker).await;
    let ended = stack.api.ended(&run, 60).await;
    assert_eq!(ended["state"], "succeeded", "{ended}");
    let children = ended["gates"]["children"].as_array().unwrap();
    assert_eq!(children.len(), 2, "{ended}");
    let name = children[0]["name"].as_str().unwrap();
    let output = project.ok(&["logs", &run]).await.stdout;
    assert!(output.contains(&format!("the child {name} succeeded")) && output.contains("it left 5.0 299999 1"), "{output}");
    let child = stack.api.get(&format!("/v1/runs/{name}")).await;
    assert_eq!(
        (&child["cause"]["kind"], &child["cause"]["name"], &child["user"]),
        (&json!("parent"), &json!(run), &json!("cleo")),
        "{child}"
    );
    assert_eq!((&child["flow"], &child["parameters"]["dividend"]), (&json!("Quotient"), &json!(20)));

    let failing = start(&stack, "Parent", json!({"divisor": 0})).await;
    let ended = stack.api.ended(&failing, 60).await;
    assert_eq!((&ended["state"], &ended["problem"]["code"]), (&json!("failed"), &json!("CSY-3022")), "{ended}");
    assert!(ended["problem"]["message"].as_str().unwrap().contains("ZeroDivisionError"), "{ended}");
    let patient = start(&stack, "Parent", json!({"divisor": 0, "patience": true})).await;
    assert_eq!(stack.api.ended(&patient, 60).await["state"], "succeeded");
    let history = History::read(&stack.nats().await).await;
    assert_eq!(history.violations(), Vec::<String>::new());
    assert_eq!(history.store_violations(&stack.store()).unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn a_running_run_tells_about_itself_and_its_last_word_is_kept() {
    let project = Project::new();
    let stack = Stack::start(&project).await;
    project.ok(&["deploy", &project.flow("telling.py", TELLING)]).await;
    let over = project.file("over");
    let run = start(&stack, "Telling", json!({"until": over})).await;
    let path = format!("/v1/runs/{run}/status");
    let told =
        until("the run tells", 30, async || stack.api.try_get(&path).await.filter(|told| told["status"]["phase"]["value"] == "waiting"));
    let told = told.await;
    assert_eq!(told["status"]["progress"]["value"], json!({"done": 999}), "{told}");
    assert_eq!((&told["state"], &told["status"]["progress"]["step"]), (&json!("running"), &json!("start")));
    assert_eq!(project.ok(&["query", &run, "progress"]).await.stdout, "{\"done\":999}\n");
    project.expect(3, &["query", &run, "speed"]).await.says(&["CSY-1006", "it tells: phase, progress"]);
    std::fs::write(&over, "").unwrap();
    assert_eq!(stack.api.ended(&run, 60).await["state"], "succeeded");
    let text = project.ok(&["query", &run]).await.stdout;
    assert!(text.contains(r#"{"done":1000}"#) && text.contains(r#""over""#), "{text}");
    let history = History::read(&stack.nats().await).await;
    let reports =
        history.entries.iter().flat_map(|entry| &entry.turn.records).filter(|record| matches!(record, Record::StatusSet { .. })).count();
    assert!((3..=6).contains(&reports), "a thousand values were {reports} records");
    assert_eq!(history.violations(), Vec::<String>::new());
}
