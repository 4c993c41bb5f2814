//! Dead letters on real processes. Numbers of rows are those of the fault table in `docs/operations.md`.

use async_nats::jetstream;
use causey_protocol::codec;
use causey_protocol::id::Digest;
use causey_protocol::letter::{Dead, DeadLetter, Original};
use causey_protocol::record::{Record, Topic, Turn};
use causey_protocol::subject;
use causey_tests::process::{self, Signal};
use causey_tests::service::{Place, worker};
use causey_tests::{Api, Coordinator, History, Nats, Output, Project, until};
use serde_json::json;

use crate::cancel::running;
use crate::flows::{ARRIVAL, MARKED};

struct Scene {
    project: Project,
    nats: Nats,
    place: Place,
    coordinator: Coordinator,
    api: Api,
}

impl Scene {
    async fn start() -> Self {
        let project = Project::new();
        let nats = Nats::start(&project.file("jetstream")).await;
        let place = Place::new(project.path(), "one");
        let (coordinator, api) = Coordinator::leading(&nats, project.path(), &place).await;
        Self { project, nats, place, coordinator, api }
    }

    /// `causey WORDS` at this server, which must end with `status`.
    async fn causey(&self, status: i32, words: &[&str]) -> Output {
        let server = ["--url", &self.api.url, "--token", &self.api.token];
        self.project.expect(status, &[words, &server[..]].concat()).await
    }

    async fn publish(&self, subject: &str, payload: &str) {
        let context = jetstream::new(self.nats.client().await);
        context.publish(subject.to_owned(), payload.to_owned().into()).await.unwrap().await.unwrap();
    }

    /// The id of the only dead letter.
    async fn letter(&self) -> String {
        let listed = until("a dead letter", 20, async || {
            let listed = self.api.get("/v1/dead-letters").await["dead_letters"].as_array().unwrap().clone();
            (!listed.is_empty()).then_some(listed)
        })
        .await;
        assert_eq!(listed.len(), 1, "{listed:?}");
        listed[0]["letter"].as_str().unwrap().to_owned()
    }

    async fn restart(&mut self) {
        self.coordinator.service.stop(20).await;
        (self.coordinator, self.api) = Coordinator::leading(&self.nats, self.project.path(), &self.place).await;
    }
}

#[tokio::test]
async fn row_31_an_unreadable_event_is_kept_told_about_once_and_discarded() {
    let mut scene = Scene::start().await;
    scene.publish("causey.event.shop", "{ this is no event").await;
    let letter = scene.letter().await;
    scene.restart().await;
    assert_eq!(scene.letter().await, letter);
    let shown = scene.causey(0, &["dead-letters", "show", &letter]).await.stdout;
    for words in ["causey.event.shop #1", "{ this is no event", "why"] {
        assert!(shown.contains(words), "{words:?} is not in {shown}");
    }
    scene.causey(2, &["dead-letters", "redrive", &letter]).await.says(&["still cannot be read", "upgrade the coordinator"]);
    scene.causey(0, &["dead-letters", "discard", &letter]).await;
    scene.causey(3, &["dead-letters", "show", &letter]).await;
    scene.causey(0, &["dead-letters", "ls"]).await.says(&["no dead letters"]);
    let history = History::read(&scene.nats.client().await).await;
    assert_eq!((history.violations(), history.announced(Topic::DeadLetter).len()), (Vec::<String>::new(), 1));
}

#[tokio::test]
async fn an_event_that_an_earlier_version_could_not_read_starts_its_run_once_it_is_redriven() {
    let mut scene = Scene::start().await;
    scene.causey(0, &["deploy", &scene.project.flow("arrival.py", ARRIVAL)]).await;
    // What such a version would have left in the log.
    scene.coordinator.service.stop(20).await;
    let client = scene.nats.client().await;
    let history = History::read(&client).await;
    let event = json!({"specversion": "1.0", "id": "7", "source": "/shop", "type": "numbers.arrived", "data": {"values": "1,2,3"}});
    let original =
        Original::new(&[("content-type".to_owned(), "application/cloudevents+json".to_owned())].into(), event.to_string().as_bytes());
    let what = Dead::Message { subject: "causey.event.shop".into(), sequence: 1, original };
    let records = vec![Record::DeadLettered(Box::new(DeadLetter { what, because: "a later version".into() }))];
    let last = history.entries.last().unwrap();
    let state = history.state();
    let turn = Turn {
        epoch: state.epoch,
        at: state.at,
        inbox: state.inbox,
        events: state.events,
        announced: state.announced,
        previous: Digest::of(&last.payload),
        records,
    };
    let context = jetstream::new(client);
    context.publish(subject::LOG_TURN, codec::encode(&turn).into()).await.unwrap().await.unwrap();
    (scene.coordinator, scene.api) = Coordinator::leading(&scene.nats, scene.project.path(), &scene.place).await;

    let letter = scene.letter().await;
    let runs = async || scene.api.get("/v1/runs").await["runs"].as_array().unwrap().clone();
    assert!(runs().await.is_empty());
    let redrive = json!({"request_id": "once"});
    for _ in 0..2 {
        let reply = scene.api.post(&format!("/v1/dead-letters/{letter}/redrive"), &redrive).await;
        assert_eq!((reply.status.as_u16(), &reply.body["end"]), (202, &json!("redriven")), "{reply:?}");
    }
    let started = until("the run starts", 20, async || Some(runs().await).filter(|runs| !runs.is_empty())).await;
    assert_eq!((started.len(), &started[0]["parameters"]["numbers"]), (1, &json!("1,2,3")), "{started:?}");
    let reply = scene.api.post(&format!("/v1/dead-letters/{letter}/redrive"), &json!({"request_id": "twice"})).await;
    reply.refused(404, "CSY-1006", &["no dead letter"]);
}

#[tokio::test]
async fn row_27_a_task_that_takes_four_workers_with_it_is_a_dead_letter_and_the_pool_lives() {
    let scene = Scene::start().await;
    let marks = scene.project.file("marks");
    std::fs::create_dir_all(&marks).unwrap();
    scene.causey(0, &["deploy", &scene.project.flow("marked.py", MARKED)]).await;
    let parameters = json!({"marks": marks, "items": 1, "seconds": 60.0});
    let reply = scene.api.post("/v1/runs", &json!({"request_id": "r-1", "flow": "Marked", "parameters": parameters})).await;
    let run = reply.body["name"].as_str().unwrap().to_owned();
    for number in 0..4 {
        let name = format!("w{number}");
        let mut worker = worker(&scene.nats.url(), scene.project.path(), &scene.place.store, &name);
        until("the log says who runs the task", 40, async || {
            let tasks = scene.api.get(&format!("/v1/runs/{run}/tasks?step=work")).await;
            (tasks["tasks"][0]["worker"] == name.as_str() && tasks["tasks"][0]["state"] == "running").then_some(())
        })
        .await;
        let hosts = running(&marks);
        worker.kill();
        hosts.into_iter().for_each(|host| process::signal(host, Signal::KILL));
        let lost = scene.api.post(&format!("/v1/workers/default/{name}/lost"), &json!({})).await;
        assert_eq!(lost.status.as_u16(), 202);
    }
    let ended = scene.api.ended(&run, 20).await;
    assert_eq!((&ended["state"], &ended["problem"]["code"]), (&json!("failed"), &json!("CSY-2106")), "{ended}");
    let letter = scene.letter().await;
    let shown = scene.causey(0, &["dead-letters", "show", &letter, "--json"]).await.json();
    assert_eq!((&shown["run_name"], &shown["step"], &shown["worker"]), (&json!(run), &json!("work"), &json!("w3")), "{shown}");
    let _worker = worker(&scene.nats.url(), scene.project.path(), &scene.place.store, "w4");
    // Twice the same request, as a client does that has heard nothing.
    let redrive = async || scene.api.post(&format!("/v1/dead-letters/{letter}/redrive"), &json!({"request_id": "once"})).await;
    let (first, again) = (redrive().await, redrive().await);
    assert_eq!((first.status.as_u16(), &first.body["end"]), (202, &json!("redriven")), "{first:?}");
    assert_eq!(first.body["name"], again.body["name"], "{again:?}");
    let resumed = first.body["name"].as_str().unwrap();
    let of = async |step: &str| scene.api.get(&format!("/v1/runs/{resumed}/tasks?step={step}")).await["tasks"][0].clone();
    until("the task runs again", 40, async || (of("work").await["worker"] == "w4").then_some(())).await;
    assert_eq!(of("start").await["reused"], shown["run"], "what had a result is taken");
    scene.causey(3, &["dead-letters", "redrive", &letter]).await.says(&["no dead letter"]);
    scene.causey(0, &["cancel", resumed]).await;
    let parameters = json!({"marks": marks, "items": 2, "seconds": 0.0});
    let reply = scene.api.post("/v1/runs", &json!({"request_id": "r-2", "flow": "Marked", "parameters": parameters})).await;
    assert_eq!(scene.api.ended(reply.body["name"].as_str().unwrap(), 40).await["state"], "succeeded");
    let history = History::read(&scene.nats.client().await).await;
    assert_eq!((history.violations(), history.announced(Topic::DeadLetter).len()), (Vec::<String>::new(), 1));
}
