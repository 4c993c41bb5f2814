//! Gangs of real processes: members that reach each other, a worker that dies under them, a pool that is too small. Numbers of rows are
//! those of the fault table in `docs/operations.md`.

use std::path::PathBuf;

use causey_protocol::record::Record;
use causey_tests::service::{Place, worker};
use causey_tests::wait::until_true;
use causey_tests::{Api, Coordinator, History, Nats, Project, Service, process, until};
use serde_json::{Value, json};

use crate::flows::GANG;

/// A coordinator with two workers of two slots each in one pool.
struct Scene {
    project: Project,
    nats: Nats,
    place: Place,
    _coordinator: Coordinator,
    api: Api,
    marks: PathBuf,
    workers: [Service; 2],
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
        let workers = ["one", "two"].map(|name| worker(&nats.url(), base, &place.store, name));
        let scene = Self { project, nats, place, _coordinator: coordinator, api, marks, workers };
        scene.has_workers().await;
        scene.project.ok(&["deploy", &scene.project.flow("gang.py", GANG), "--url", &scene.api.url, "--token", &scene.api.token]).await;
        scene
    }

    async fn has_workers(&self) {
        let both = async || self.api.get("/v1/status").await["workers"].as_array().filter(|all| all.len() == 2).map(|_| ());
        until("two workers", 30, both).await;
    }

    async fn submit(&self, id: &str, parameters: Value) -> String {
        let reply = self.api.post("/v1/runs", &json!({"request_id": id, "flow": "Gang", "parameters": parameters})).await;
        assert_eq!(reply.status.as_u16(), 201, "{reply:?}");
        reply.body["name"].as_str().unwrap().to_owned()
    }

    /// Processes of members that know the sum.
    fn there(&self) -> Vec<u32> {
        let names = std::fs::read_dir(&self.marks).unwrap().flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter_map(|name| name.strip_prefix("there-")?.split_once('-')?.1.parse().ok()).collect()
    }

    fn alive(&self) -> usize {
        self.there().into_iter().filter(|pid| process::is_alive(*pid)).count()
    }

    async fn ends_well(&self, run: &str, line: &str) -> History {
        let ended = self.api.ended(run, 90).await;
        assert_eq!(ended["state"], "succeeded", "{ended}");
        let logs = self.api.get(&format!("/v1/runs/{run}/logs?step=end")).await;
        assert_eq!(logs["chunks"][0]["text"].as_str().unwrap().trim(), line);
        let history = History::read(&self.nats.client().await).await;
        assert_eq!(history.violations(), Vec::<String>::new());
        assert_eq!(history.store_violations(&self.place.store).unwrap(), Vec::<String>::new());
        history
    }
}

fn count(history: &History, wanted: impl Fn(&Record) -> bool) -> usize {
    history.records().filter(|(_, record)| wanted(record)).count()
}

#[tokio::test]
async fn four_members_on_two_workers_reach_each_other_and_the_join_sees_all_of_them() {
    let scene = Scene::start().await;
    // Two runs at once: their gangs want the same four slots.
    let runs = [scene.submit("r-1", json!({"members": 4})).await, scene.submit("r-2", json!({"members": 3})).await];
    let history = scene.ends_well(&runs[1], "totals=[14, 14, 14] hosts=2 retries=[0, 0, 0]").await;
    let joined = count(&history, |record| matches!(record, Record::MemberJoined { .. }));
    assert!(joined >= 7, "{joined} members joined");
    let history = scene.ends_well(&runs[0], "totals=[30, 30, 30, 30] hosts=2 retries=[0, 0, 0, 0]").await;
    assert_eq!(count(&history, |record| matches!(record, Record::AttemptFailed { .. })), 0);
}

#[tokio::test]
async fn row_1_a_worker_killed_under_a_gang_costs_it_an_attempt_but_no_retry() {
    let mut scene = Scene::start().await;
    let run = scene.submit("r-1", json!({"members": 4, "marks": scene.marks, "hold": true})).await;
    until_true("all members are there", 60, || scene.alive() == 4).await;
    let before = scene.there();
    scene.workers[1].kill();
    // The same worker in a new life: the leader knows at once that the old one is over.
    scene.workers[1] = worker(&scene.nats.url(), scene.project.path(), &scene.place.store, "two");
    until_true("the other members are stopped", 60, || before.iter().all(|pid| !process::is_alive(*pid))).await;
    until_true("all members are there again", 60, || scene.alive() == 4).await;
    std::fs::write(scene.marks.join("go"), "").unwrap();
    let history = scene.ends_well(&run, "totals=[30, 30, 30, 30] hosts=2 retries=[0, 0, 0, 0]").await;
    assert_eq!(count(&history, |record| matches!(record, Record::GangDissolved { retry: 0, .. })), 1);
}

#[tokio::test]
async fn a_member_that_fails_stops_the_others_and_the_gang_is_tried_again_as_a_whole() {
    let scene = Scene::start().await;
    let run = scene.submit("r-1", json!({"members": 3, "fail": true})).await;
    let history = scene.ends_well(&run, "totals=[14, 14, 14] hosts=2 retries=[1, 1, 1]").await;
    assert_eq!(count(&history, |record| matches!(record, Record::AttemptFailed { .. })), 1);
}

#[tokio::test]
async fn a_gang_that_waits_can_be_cancelled_and_one_larger_than_its_pool_fails_by_name() {
    let scene = Scene::start().await;
    let large = scene.submit("r-1", json!({"members": 9})).await;
    let next = scene.submit("r-2", json!({"members": 3})).await;
    let ended = scene.api.ended(&large, 60).await;
    assert_eq!((&ended["state"], &ended["problem"]["code"]), (&json!("failed"), &json!("CSY-3003")), "{ended}");
    let message = "step `train` asks for a gang of 9 members, but pool default has room for 4: 2 workers with 4 slots";
    assert_eq!(ended["problem"]["message"], message);
    // What it held is free again.
    let history = scene.ends_well(&next, "totals=[14, 14, 14] hosts=2 retries=[0, 0, 0]").await;
    let joined = |history: &History| count(history, |record| matches!(record, Record::MemberJoined { .. }));
    let before = joined(&history);
    let waits = scene.submit("r-3", json!({"members": 5})).await;
    let there = async || (joined(&History::read(&scene.nats.client().await).await) >= before + 4).then_some(());
    until("four of its members are there", 30, there).await;
    let reply = scene.api.post(&format!("/v1/runs/{waits}/cancel"), &json!({"request_id": "c-1", "reason": "enough"})).await;
    assert_eq!(reply.status.as_u16(), 202, "{reply:?}");
    assert_eq!(scene.api.ended(&waits, 20).await["state"], "cancelled");
    let last = scene.submit("r-4", json!({"members": 4})).await;
    scene.ends_well(&last, "totals=[30, 30, 30, 30] hosts=2 retries=[0, 0, 0, 0]").await;
}

/// A private stack of one worker with two slots.
#[tokio::test]
async fn causey_run_runs_a_gang_and_names_a_wrong_number_of_members() {
    let project = Project::new();
    let flow = project.flow("gang.py", GANG);
    let output = project.ok(&["run", &flow, "--members", "2"]).await;
    assert!(output.stdout.contains("totals=[5, 5] hosts=1 retries=[0, 0]"), "{output:#?}");
    let output = project.expect(1, &["run", &flow, "--members", "0"]).await;
    output.says(&["num_parallel=0 in step 'start' is not a whole number from 1 to 500"]);
    project.is_quiet().await;
}
