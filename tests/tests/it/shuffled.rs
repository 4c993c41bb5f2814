//! An inbox out of order, under a real coordinator: the test is the worker, and what it reports comes in any order, twice and late.

use causey_protocol::codec;
use causey_protocol::id::{Digest, RunId, Timestamp};
use causey_protocol::record::Record;
use causey_protocol::task::{Outcome, Report, ReportItem, Success};
use causey_tests::history::accepted;
use causey_tests::service::Place;
use causey_tests::{Api, Coordinator, History, Nats, Project, until};
use serde_json::{Value, json};

use crate::flows::MARKED;

const ITEMS: u32 = 24;

/// Tasks of a run whose attempts are open, with those attempts' numbers.
async fn open(api: &Api, run: &str) -> Vec<(Value, u32)> {
    let page = api.get(&format!("/v1/runs/{run}/tasks?limit=1000")).await;
    let tasks = page["tasks"].as_array().unwrap().iter();
    let open = tasks.filter(|task| ["dispatched", "running"].contains(&task["state"].as_str().unwrap()));
    open.map(|task| (task.clone(), u32::try_from(task["attempt"].as_u64().unwrap()).unwrap())).collect()
}

/// Everything that is said about an attempt, some of it twice, and of some attempts what cannot both be true.
fn said(run: RunId, task: &Value, attempt: u32) -> Vec<ReportItem> {
    let step = task["step"].as_str().unwrap();
    let (next, foreach) = match step {
        "start" => (vec!["work"], Some(ITEMS)),
        "work" => (vec!["join"], None),
        "join" => (vec!["end"], None),
        _ => (vec![], None),
    };
    let path = causey_protocol::id::Path(serde_json::from_value(task["path"].clone()).unwrap());
    let item = |outcome| ReportItem { run, step: step.parse().unwrap(), path: path.clone(), visit: 0, attempt, outcome };
    let (digest, at) = (Digest::of(format!("{task}").as_bytes()), Timestamp(1_700_000_000_000_000));
    let success = Outcome::Succeeded(Success {
        digest,
        bytes: 10,
        next: next.into_iter().map(|step| step.parse().unwrap()).collect(),
        foreach,
        publications: Vec::new(),
        children: Vec::new(),
        started: at,
        ended: at,
        content: None,
    });
    let mut said = vec![item(Outcome::Started { at }), item(success.clone()), item(success.clone())];
    if attempt == 0 && path.0.last().is_some_and(|index| index % 3 == 0) {
        said.push(item(Outcome::Released { because: "in a hurry".into() }));
    }
    // About attempts long over, or not yet opened.
    said.extend([attempt.wrapping_sub(1), attempt + 1].map(|attempt| ReportItem { attempt, ..item(success.clone()) }));
    said
}

#[tokio::test]
async fn row_25_reports_in_any_order_lead_to_one_result_per_task() {
    let project = Project::new();
    let base = project.path();
    let nats = Nats::start(&project.file("jetstream")).await;
    let (mut coordinator, api) = Coordinator::leading(&nats, base, &Place::new(base, "one")).await;
    project.ok(&["deploy", &project.flow("marked.py", MARKED), "--url", &api.url, "--token", &api.token]).await;
    let body = json!({"request_id": "r", "flow": "Marked", "parameters": {"marks": base, "items": ITEMS, "seconds": 0.0}});
    let run = api.post("/v1/runs", &body).await.body["run"].as_str().unwrap().to_owned();
    let context = async_nats::jetstream::new(nats.client().await);
    let mut random = fastrand::Rng::with_seed(25);
    let ended = until("the run ends", 60, async || {
        let mut items: Vec<ReportItem> =
            open(&api, &run).await.iter().flat_map(|(task, attempt)| said(run.parse().unwrap(), task, *attempt)).collect();
        random.shuffle(&mut items);
        for item in items {
            let report = Report { pool: "default".parse().unwrap(), worker: "w".parse().unwrap(), items: vec![item] };
            context.publish("causey.in.report.default.w", codec::encode(&report).into()).await.unwrap().await.unwrap();
        }
        let shown = api.get(&format!("/v1/runs/{run}")).await;
        (shown["finished"] != json!(null)).then_some(shown)
    })
    .await;
    assert_eq!(ended["state"], "succeeded", "{ended}");
    let history = History::read(&nats.client().await).await;
    assert_eq!(history.violations(), Vec::<String>::new());
    assert_eq!(history.records().map(|(_, record)| accepted(record).len()).sum::<usize>(), ITEMS as usize + 3);
    let ignored = history.records().filter(|(_, record)| matches!(record, Record::Ignored { .. })).count();
    assert!(ignored > 3 * ITEMS as usize, "{ignored} were ignored, each with a reason");
    assert!(coordinator.service.ended().is_none());
}
