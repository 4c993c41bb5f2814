//! Pools on real processes: steps find the workers that have what they need, say what is missing, and lose and double nothing while
//! workers come and go.

use std::path::PathBuf;

use causey_protocol::flow::StepIndex;
use causey_protocol::record::Record;
use causey_tests::service::{Place, worker_with};
use causey_tests::{Api, Coordinator, History, Nats, Output, Project, Service, until};
use serde_json::{Value, json};

use crate::flows::POOLS;

const SPILLING: &str = r#"
import time

from causey import FlowSpec, resources, step


class Spilling(FlowSpec):
    @step
    def start(self):
        self.numbers = list(range(4))
        self.next(self.work, foreach="numbers")

    @resources(pool="default", spill="second", spill_seconds=1)
    @step
    def work(self):
        time.sleep(3)
        self.next(self.gather)

    @step
    def gather(self, inputs):
        self.next(self.end)

    @step
    def end(self):
        pass
"#;

struct Scene {
    project: Project,
    nats: Nats,
    place: Place,
    _coordinator: Coordinator,
    api: Api,
    marks: PathBuf,
}

impl Scene {
    async fn start() -> Self {
        let project = Project::new();
        let base = project.path();
        let nats = Nats::start(&project.file("jetstream")).await;
        let place = Place::new(base, "coordinator");
        let (coordinator, api) = Coordinator::leading(&nats, base, &place).await;
        let marks = project.file("marks");
        std::fs::create_dir_all(&marks).unwrap();
        Self { project, nats, place, _coordinator: coordinator, api, marks }
    }

    fn worker(&self, name: &str, options: &[&str]) -> Service {
        worker_with(&self.nats.url(), self.project.path(), &self.place.store, name, options)
    }

    /// One accelerator and two slots.
    fn accelerated(&self, name: &str, options: &[&str]) -> Service {
        let words = ["--pool", "gpu", "--label", "kind=pretend-gpu", "--resource", "accelerator=1", "--gpu", "none"];
        self.worker(name, &[&words, options].concat())
    }

    async fn causey(&self, words: &[&str]) -> Output {
        self.project.ok(&[words, &["--url", &self.api.url, "--token", &self.api.token]].concat()).await
    }

    async fn submit(&self, id: &str, flow: &str, parameters: Value) -> String {
        let reply = self.api.post("/v1/runs", &json!({"request_id": id, "flow": flow, "parameters": parameters})).await;
        assert_eq!(reply.status.as_u16(), 201, "{reply:?}");
        reply.body["name"].as_str().unwrap().to_owned()
    }

    fn parameters(&self, items: u32, seconds: f64) -> Value {
        json!({"marks": self.marks, "items": items, "seconds": seconds})
    }

    async fn history(&self) -> History {
        let history = History::read(&self.nats.client().await).await;
        assert_eq!(history.violations(), Vec::<String>::new());
        history
    }
}

/// The pools that attempts of a step were opened in.
fn pools(history: &History, wanted: u16) -> Vec<String> {
    let opened = history.records().filter_map(|(_, record)| match record {
        Record::AttemptsOpened { step, pool, tasks, .. } if *step == StepIndex(wanted) => {
            Some(std::iter::repeat_n(pool.to_string(), tasks.len() as usize))
        }
        _ => None,
    });
    opened.flatten().collect()
}

#[tokio::test]
async fn steps_find_the_pool_that_has_what_they_need_and_say_what_nobody_offers() {
    let scene = Scene::start().await;
    scene.causey(&["deploy", &scene.project.flow("pools.py", POOLS)]).await;
    let _plain = scene.worker("plain", &["--gpu", "none"]);
    let run = scene.submit("r-1", "Pools", scene.parameters(6, 0.2)).await;
    let waits = until("what is missing is said", 30, async || {
        let answer = scene.api.get(&format!("/v1/runs/{run}/why")).await;
        answer["waits"].as_array().unwrap().iter().find(|wait| wait["because"] == "nowhere").cloned()
    })
    .await;
    let text = waits["text"].as_str().unwrap();
    assert!(
        text.starts_with("no live worker offers label kind=pretend-gpu and accelerator≥1; there are pool `default` (1 × 2 cores,"),
        "{text}"
    );
    assert_eq!((&waits["count"], waits["step"].as_str()), (&json!(6), Some("train")));
    let said = scene.causey(&["why", &run]).await.stdout;
    assert!(said.contains("help  start one: causey worker --pool default --label kind=pretend-gpu --resource accelerator=1"), "{said}");
    let demand = scene.api.get("/v1/pools/default/demand").await;
    assert_eq!((&demand["queued_slots"], &demand["missing"]), (&json!(6), &json!(["label kind=pretend-gpu", "accelerator≥1"])), "{demand}");

    let _accelerated = scene.accelerated("fast", &[]);
    let ended = scene.api.ended(&run, 60).await;
    assert_eq!(ended["state"], "succeeded", "{ended}");
    let history = scene.history().await;
    assert_eq!((pools(&history, 1), pools(&history, 0)), (vec!["gpu".to_owned(); 6], vec!["default".to_owned()]));
    let printed = scene.causey(&["logs", &format!("{run}/gather")]).await.stdout;
    assert!(printed.contains("most at once: 1"), "one accelerator, two slots: {printed}");
    let listed = scene.causey(&["pools"]).await.stdout;
    for words in ["POOL", "default", "kind=pretend-gpu, accelerator=1"] {
        assert!(listed.contains(words), "{words:?} is not in {listed}");
    }
    let metrics = scene.api.bare(reqwest::Method::GET, "/metrics").send().await.unwrap().text().await.unwrap();
    assert!(metrics.contains("causey_pool_wanted_workers"), "{metrics}");
}

#[tokio::test]
async fn workers_that_come_and_go_under_load_lose_and_double_nothing() {
    let scene = Scene::start().await;
    scene.causey(&["deploy", &scene.project.flow("pools.py", POOLS)]).await;
    let _plain = scene.worker("plain", &["--gpu", "none"]);
    let mut one = scene.accelerated("one", &[]);
    let run = scene.submit("r-1", "Pools", scene.parameters(240, 0.1)).await;
    let succeeded = async |least: u64| {
        until(&format!("{least} tasks have succeeded"), 60, async || {
            let shown = scene.api.get(&format!("/v1/runs/{run}")).await;
            shown["tasks"]["succeeded"].as_u64().filter(|done| *done >= least)
        })
        .await
    };
    succeeded(8).await;
    let mut two = scene.accelerated("two", &["--max-tasks", "10"]);
    let mut three = scene.accelerated("three", &[]);
    scene.causey(&["drain", "gpu/one"]).await;
    assert!(one.wait(60).await.success(), "{}", one.stderr());
    assert!(two.wait(60).await.success(), "{}", two.stderr());
    // The last one is stopped as a supervisor does it, and another comes.
    assert!(three.stop(60).await.success(), "{}", three.stderr());
    let mut four = scene.accelerated("four", &[]);
    let ended = scene.api.ended(&run, 90).await;
    assert_eq!((ended["state"].as_str(), ended["tasks"]["failed"].as_u64()), (Some("succeeded"), Some(0)), "{ended}");
    assert!(four.stop(60).await.success(), "{}", four.stderr());
    let mut idle = scene.accelerated("idle", &["--exit-when-idle", "2"]);
    assert!(idle.wait(60).await.success(), "{}", idle.stderr());
    let history = scene.history().await;
    assert!(pools(&history, 1).len() >= 240);
    assert!(pools(&history, 1).iter().all(|pool| pool == "gpu"));
}

#[tokio::test]
async fn a_cordoned_worker_takes_nothing_until_it_is_uncordoned() {
    let scene = Scene::start().await;
    scene.causey(&["deploy", &scene.project.flow("pools.py", POOLS)]).await;
    let _plain = scene.worker("plain", &["--gpu", "none"]);
    let _accelerated = scene.accelerated("fast", &[]);
    until("both are known", 30, async || scene.api.get("/v1/status").await["workers"].as_array().filter(|all| all.len() == 2).map(|_| ()))
        .await;
    scene.causey(&["cordon", "gpu"]).await;
    let closed = async |wanted: bool| {
        until(&format!("the worker says closed={wanted}"), 40, async || {
            let status = scene.api.get("/v1/status").await;
            status["workers"].as_array()?.iter().find(|worker| worker["name"] == "fast" && worker["closed"] == wanted).map(|_| ())
        })
        .await;
    };
    closed(true).await;
    let run = scene.submit("r-1", "Pools", scene.parameters(2, 0.0)).await;
    until("nobody offers it", 40, async || {
        let answer = scene.api.get(&format!("/v1/runs/{run}/why")).await;
        answer["waits"].as_array().unwrap().iter().any(|wait| wait["because"] == "nowhere").then_some(())
    })
    .await;
    scene.causey(&["uncordon", "gpu"]).await;
    assert_eq!(scene.api.ended(&run, 60).await["state"], "succeeded");
    scene.history().await;
}

#[tokio::test]
async fn words_reach_workers_long_before_they_ask() {
    let scene = Scene::start().await;
    let mut worker = scene.worker("fast", &["--gpu", "none"]);
    let closed = async |wanted: bool, seconds: u64| {
        until(&format!("the worker says closed={wanted}"), seconds, async || {
            let status = scene.api.get("/v1/status").await;
            status["workers"].as_array()?.first().filter(|worker| worker["closed"] == wanted).map(|_| ())
        })
        .await;
    };
    closed(false, 30).await;
    // They ask by themselves every ten seconds: that might be quick once, but not each time.
    for _ in 0..5 {
        scene.causey(&["cordon", "default"]).await;
        closed(true, 3).await;
        scene.causey(&["uncordon", "default"]).await;
        closed(false, 3).await;
    }
    scene.causey(&["drain", "default/fast"]).await;
    assert!(worker.wait(5).await.success(), "{}", worker.stderr());
}

#[tokio::test]
async fn tasks_spill_to_the_pool_that_has_places() {
    let scene = Scene::start().await;
    scene.causey(&["deploy", &scene.project.flow("spilling.py", SPILLING)]).await;
    let _first = scene.worker("first", &["--gpu", "none"]);
    let _second = scene.worker("second", &["--gpu", "none", "--pool", "second"]);
    until("both are known", 30, async || scene.api.get("/v1/status").await["workers"].as_array().filter(|all| all.len() == 2).map(|_| ()))
        .await;
    let run = scene.submit("r-1", "Spilling", json!({})).await;
    let ended = scene.api.ended(&run, 90).await;
    assert_eq!((ended["state"].as_str(), ended["tasks"]["failed"].as_u64()), (Some("succeeded"), Some(0)), "{ended}");
    let history = scene.history().await;
    let places = pools(&history, 1);
    assert!(places.iter().any(|pool| pool == "second"), "{places:?}");
    let tasks = scene.api.get(&format!("/v1/runs/{run}/tasks?step=work")).await;
    let usage = &tasks["tasks"][0]["usage"];
    assert!(
        usage["peak_memory_bytes"].as_u64().unwrap() > 1_000_000 && usage["cpu_millis"].is_u64(),
        "three seconds are looked at: {tasks}"
    );
    let shown = scene.causey(&["show", &run]).await.stdout;
    assert!(shown.lines().any(|line| line.contains(" work ") && line.contains("peak ") && line.contains(" MiB · cpu ")), "{shown}");
}
