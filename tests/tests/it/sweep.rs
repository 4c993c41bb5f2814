//! Task messages that vanish from their queue behind our back, and ones that are left in it. Numbers of rows are those of the fault table
//! in `docs/operations.md`.

use async_nats::jetstream;
use causey_protocol::id::{RunId, TaskId};
use causey_protocol::record::Record;
use causey_protocol::subject;
use causey_tests::service::{Place, worker_with};
use causey_tests::wait::until_true;
use causey_tests::{Api, Coordinator, History, Nats, Project, until};
use futures_util::StreamExt as _;
use serde_json::{Value, json};

use crate::flows::WAITING;
use crate::marked::Marked;

/// Short, so that a test need not wait long: the coordinator looks at its queues this often.
const ACK_WAIT: &str = "--ack-wait-seconds=3";

struct Scene {
    project: Project,
    nats: Nats,
    place: Place,
    _coordinator: Coordinator,
    api: Api,
}

impl Scene {
    /// A coordinator that leads, without a worker.
    async fn start() -> Self {
        let project = Project::new();
        let base = project.path();
        let nats = Nats::start(&project.file("jetstream")).await;
        let place = Place { options: vec![ACK_WAIT.into()], ..Place::new(base, "one") };
        let (coordinator, api) = Coordinator::leading(&nats, base, &place).await;
        Self { project, nats, place, _coordinator: coordinator, api }
    }

    async fn queue(&self) -> jetstream::stream::Stream {
        jetstream::new(self.nats.client().await).get_stream(subject::TASK_STREAM).await.unwrap()
    }

    fn worker(&self, name: &str) -> causey_tests::Service {
        worker_with(&self.nats.url(), self.project.path(), &self.place.store, name, &[ACK_WAIT])
    }
}

async fn messages(queue: &mut jetstream::stream::Stream) -> u64 {
    queue.info().await.unwrap().state.messages
}

#[tokio::test]
async fn row_26_tasks_deleted_from_the_queue_are_offered_again_and_each_has_one_result() {
    let scene = Scene::start().await;
    let mut queue = scene.queue().await;
    let marked = Marked::start(&scene.project, &scene.api, 60).await;
    until("the first task is queued", 20, async || (messages(&mut queue).await == 1).then_some(())).await;
    queue.purge().await.unwrap();
    let _worker = scene.worker("worker");
    marked.come_to(10).await;
    let purged = queue.purge().await.unwrap().purged;
    assert!(purged > 10, "only {purged} messages were queued");
    let history = marked.ends_well(&scene.api, &scene.nats.client().await, &scene.place.store).await;
    let failed = history.records().filter(|(_, record)| matches!(record, Record::AttemptFailed { .. })).count();
    assert_eq!(failed, 0, "what a worker holds goes on");
}

#[tokio::test]
async fn row_26_queued_tasks_whose_attempts_are_closed_are_removed() {
    let scene = Scene::start().await;
    let mut queue = scene.queue().await;
    let marked = Marked::start(&scene.project, &scene.api, 200).await;
    let run: RunId = scene.api.get(&format!("/v1/runs/{}", marked.run)).await["run"].as_str().unwrap().parse().unwrap();
    // No worker pulls from this pool.
    let left = async |step: &str| {
        let task = TaskId { step: step.parse().unwrap(), path: Default::default(), visit: 0 };
        let subject = subject::task(&"elsewhere".parse().unwrap(), run, &task.key(0));
        let client = jetstream::new(scene.nats.client().await);
        client.publish(subject, "left behind".into()).await.unwrap().await.unwrap().sequence
    };
    let gone = async |sequence: u64| {
        let queue = scene.queue().await;
        until("what was left is removed", 30, async || queue.get_raw_message(sequence).await.is_err().then_some(())).await;
    };
    let _worker = scene.worker("worker");
    marked.come_to(1).await;
    gone(left("start").await).await;
    marked.ends_well(&scene.api, &scene.nats.client().await, &scene.place.store).await;
    gone(left("end").await).await;
    assert_eq!(messages(&mut queue).await, 0);
}

/// A single server keeps the queue in memory: killed, it comes back without it.
#[tokio::test]
async fn row_10_what_runs_when_the_server_loses_its_queue_runs_on_and_once() {
    let mut scene = Scene::start().await;
    let flow = scene.project.flow("waiting.py", WAITING);
    scene.project.ok(&["deploy", &flow, "--url", &scene.api.url, "--token", &scene.api.token]).await;
    let go = scene.project.file("go");
    let reply = scene.api.post("/v1/runs", &json!({"request_id": "one", "flow": "Waiting", "parameters": {"go": go}})).await;
    let run = reply.body["name"].as_str().unwrap().to_owned();
    let _first = scene.worker("first");
    let begun = |state: &Value| state["tasks"]["running"] == 2;
    until("two tasks run", 60, async || begun(&scene.api.get(&format!("/v1/runs/{run}")).await).then_some(())).await;
    let made = scene.queue().await.cached_info().created;
    scene.nats = scene.nats.again().await;
    until("the queue is made anew", 60, async || {
        let queue = jetstream::new(scene.nats.client().await).get_stream(subject::TASK_STREAM).await.ok()?;
        (queue.cached_info().created > made).then_some(())
    })
    .await;
    let _others = [scene.worker("second"), scene.worker("third")];
    let marks =
        || (0..4).map(|item| std::fs::read_to_string(scene.project.file(&format!("go-{item}"))).unwrap_or_default()).collect::<Vec<_>>();
    until_true("all four run", 60, || marks().iter().all(|mark| !mark.is_empty())).await;
    // Two rounds of the sweep, with a worker that has room: whatever is offered once more runs by then.
    let client = jetstream::new(scene.nats.client().await);
    client.publish("causey.task.elsewhere.nobody.nothing", "stray".into()).await.unwrap().await.unwrap();
    let queue = scene.queue().await;
    until("the sweep has looked twice", 60, async || {
        (queue.info_with_subjects("causey.task.elsewhere.>").await.unwrap().count().await == 0).then_some(())
    })
    .await;
    std::fs::write(&go, "").unwrap();
    assert_eq!(scene.api.ended(&run, 90).await["state"], "succeeded");
    assert_eq!(marks(), [".", ".", ".", "."], "each item ran once");
    let history = History::read(&scene.nats.client().await).await;
    assert_eq!(history.violations(), Vec::<String>::new());
}
