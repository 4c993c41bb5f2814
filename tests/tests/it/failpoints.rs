//! kill -9 between every two durable actions of coordinator and worker: the failpoints of debug builds. At each of them the process
//! dies as often as the tables below say while runs go on, a supervisor starts it again, and at the end the history checker and the
//! artifacts judge what came of it.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use causey_protocol::record::Topic;
use causey_tests::process::{self, Signal};
use causey_tests::service::{Place, TOKEN, worker, worker_command};
use causey_tests::wait::until_true;
use causey_tests::{Api, Coordinator, History, Nats, Project, Service, tools, until};
use reqwest::Method;
use serde_json::{Value, json};

use crate::cancel::{done, running};
use crate::environments::BUILD;
use crate::flows::{ARRIVAL, MARKED};

/// Where a process dies and how often.
type Points = &'static [(&'static str, usize)];

/// Before there is a log. The streams are created at once, so that the second start finds them all.
const FIRST_START: Points =
    &[("stream.created", 1), ("bucket.created", 2), ("key.taken", 2), ("fence.decided", 2), ("fence.written", 2), ("mark.missing", 2)];

/// Of the coordinator in a run: from the request to the next task.
const RUN: Points = &[
    ("request.stored", 2),
    ("turn.decided", 2),
    ("turn.sent", 2),
    ("turn.committed", 2),
    ("turn.applied", 2),
    ("command.performed", 2),
    ("task.queued", 2),
];

/// Of the coordinator in a run whose join takes a manifest, and which publishes a model.
const WIDE_RUN: Points = &[("object.unnamed", 2), ("object.named", 2), ("blob.stored", 2), ("notification.stored", 2)];

/// Of the coordinator when it keeps the log short, and when it writes its copy.
const UPKEEP: [Points; 3] = [
    &[("history.stored", 1), ("snapshot.stored", 1), ("archive.extended", 1), ("archive.reaches", 1)],
    &[("log.trimmed", 1), ("inbox.trimmed", 1), ("snapshot.removed", 1)],
    &[("projection.unwritten", 2), ("projection.written", 2), ("projection.flushed", 2)],
];

/// Of the worker on the way to a first attempt, once per code package.
const FIRST_ATTEMPT: Points = &[("package.unpacked", 2), ("package.named", 2)];

/// Of the worker in any attempt.
const ATTEMPT: [Points; 2] = [
    &[("step.ended", 2), ("object.unnamed", 2), ("object.named", 2), ("result.stored", 2)],
    &[("report.packed", 2), ("report.confirmed", 2), ("delivery.answered", 2)],
];

/// Of the worker when it is asked to stop.
const DRAIN: Points = &[("drain.begun", 1), ("drain.answered", 1), ("drain.finished", 1)];

/// Points that are met only after another one: the second death of the same process.
const AFTERWARDS: Points = &[("takeover.performed", 1), ("start.reported", 1), ("tasks.removed", 1), ("event.stored", 1)];

/// A process that is started again whenever it has died at a failpoint.
struct Kept {
    command: Box<dyn Fn() -> Command>,
    service: Service,
    log: PathBuf,
    marks: PathBuf,
    /// Deaths that are still to come, per point.
    armed: Vec<(&'static str, usize)>,
}

impl Kept {
    fn start(log: &Path, points: Points, command: impl Fn() -> Command + 'static) -> Self {
        let marks = log.with_extension("failpoints");
        std::fs::create_dir_all(&marks).unwrap();
        points.iter().for_each(|(point, _)| arm(&marks, point));
        let folder = marks.clone();
        let command = Box::new(move || {
            let mut command = command();
            command.env("CAUSEY_FAILPOINTS", &folder);
            command
        });
        let service = Service::start(command(), log);
        Self { command, service, log: log.to_owned(), marks, armed: points.to_vec() }
    }

    fn arm(&mut self, point: &'static str, deaths: usize) {
        arm(&self.marks, point);
        self.armed.push((point, deaths));
    }

    /// Whether all deaths have been died.
    fn is_over(&self) -> bool {
        self.armed.is_empty()
    }

    /// Starts it again if it has died, and sees to the deaths that are still to come.
    fn tend(&mut self) {
        let Some(status) = self.service.ended() else { return };
        assert_eq!(status.signal(), Some(9), "it was not a failpoint: {status} {}", self.service.stderr());
        let met = self.armed.iter().position(|(point, _)| !self.marks.join(point).exists()).expect("one of the points was met");
        match self.armed[met] {
            (_, 1) => drop(self.armed.remove(met)),
            (point, left) => {
                arm(&self.marks, point);
                self.armed[met].1 = left - 1;
            }
        }
        self.service = Service::start((self.command)(), &self.log);
    }

    /// For messages.
    fn state(&self) -> String {
        format!("still to come: {:?}\n{}", self.armed, self.service.stderr())
    }
}

fn arm(marks: &Path, point: &str) {
    std::fs::write(marks.join(point), "").unwrap();
}

/// A coordinator and a worker that die and are started again, and the runs they were given meanwhile.
struct Lab {
    project: Project,
    nats: Nats,
    coordinator: Kept,
    worker: Kept,
    api: Api,
    runs: Vec<(String, u32)>,
    store: PathBuf,
}

impl Lab {
    /// `first`: where the coordinator dies at its first start.
    async fn start(options: &[&str], first: Points) -> Self {
        let project = Project::new();
        let base = project.path().to_owned();
        let nats = Nats::start(&project.file("jetstream")).await;
        let mut options: Vec<String> = options.iter().map(|&option| option.to_owned()).collect();
        options.push("--ack-wait-seconds=2".into());
        let place = Place { options, port: tools::free_port(), ..Place::new(&base, "one") };
        let (store, url, port) = (place.store.clone(), nats.url(), place.port);
        let coordinator = {
            let (url, base, place) = (url.clone(), base.clone(), place.clone());
            move || Coordinator::command(&url, &base, &place)
        };
        let worker = {
            let (base, store) = (base.clone(), store.clone());
            move || {
                let mut command = worker_command(&url, &base, &store, "local");
                command.arg("--ack-wait-seconds=2");
                command
            }
        };
        let coordinator = Kept::start(&base.join("one"), first, coordinator);
        let worker = Kept::start(&base.join("local"), &[], worker);
        let api = Api::new(&format!("http://127.0.0.1:{port}"), TOKEN);
        let mut lab = Self { project, nats, coordinator, worker, api, runs: Vec::new(), store };
        lab.until("there is a leader", async |lab| lab.api.try_get("/v1/status").await.filter(|status| status["role"] == "leader")).await;
        lab
    }

    /// Waits for something while both processes are kept.
    async fn until<T>(&mut self, what: &str, mut look: impl AsyncFnMut(&mut Self) -> Option<T>) -> T {
        let begun = std::time::Instant::now();
        until(what, 61, async || {
            self.coordinator.tend();
            self.worker.tend();
            let late = begun.elapsed().as_secs() >= 60;
            assert!(!late, "{what}\ncoordinator {}\nworker {}", self.coordinator.state(), self.worker.state());
            look(self).await
        })
        .await
    }

    async fn deploy(&self, name: &str, text: &str) {
        let flow = self.project.flow(name, text);
        self.project.ok(&["deploy", &flow, "--url", &self.api.url, "--token", &self.api.token]).await;
    }

    /// Calls until it is answered well: a call may meet a coordinator that is dead or dies.
    async fn call(&mut self, path: &str, body: &Value) -> Value {
        self.until(&format!("POST {path} is answered"), async |lab| {
            let answer = lab.api.call(Method::POST, path).json(body).send().await.ok()?;
            let status = answer.status();
            let body = answer.text().await.ok()?;
            assert!(status.is_success() || status.as_u16() == 503, "{status} {body}");
            status.is_success().then(|| serde_json::from_str(&body).unwrap())
        })
        .await
    }

    /// Starts a run of the marked flow and gives the folder of its marks.
    async fn submit(&mut self, items: u32, seconds: f64) -> PathBuf {
        let number = self.runs.len();
        let marks = self.project.file(&format!("marks-{number}"));
        std::fs::create_dir_all(&marks).unwrap();
        let parameters = json!({"marks": marks, "items": items, "seconds": seconds});
        let request = json!({"request_id": format!("run-{number}"), "flow": "Marked", "parameters": parameters});
        let answer = self.call("/v1/runs", &request).await;
        self.runs.push((answer["name"].as_str().unwrap().to_owned(), items));
        marks
    }

    /// Waits until the newest runs have ended.
    async fn runs_end(&mut self) {
        let newest: Vec<String> = self.runs.iter().rev().take(2).map(|(run, _)| run.clone()).collect();
        for run in newest {
            self.until("the run ends", async |lab| {
                let found = lab.api.try_get(&format!("/v1/runs/{run}")).await?;
                (found["state"] == "succeeded" || found["state"] == "cancelled").then_some(())
            })
            .await;
        }
    }

    /// Waits until the runs have ended and all deaths have been died.
    async fn settled(&mut self) {
        self.runs_end().await;
        self.until("the deaths are over", async |lab| (lab.coordinator.is_over() && lab.worker.is_over()).then_some(())).await;
        self.runs_end().await;
    }

    /// One run per death, and what it comes to.
    async fn run_through(&mut self, points: Points, items: u32, whose: fn(&mut Self) -> &mut Kept) {
        for (point, deaths) in points {
            whose(self).arm(point, *deaths);
            for _ in 0..*deaths {
                self.submit(items, 0.0).await;
            }
            self.settled().await;
        }
    }

    /// Everything that must hold at the end.
    async fn ends_well(mut self) -> History {
        let mut items_of = BTreeMap::new();
        for (run, items) in &self.runs {
            let ended = self.api.ended(run, 60).await;
            if ended["state"] != "cancelled" {
                assert_eq!((&ended["state"], &ended["tasks"]["succeeded"]), (&json!("succeeded"), &json!(items + 3)), "{ended}");
                items_of.insert(ended["run"].to_string(), *items);
            }
        }
        let published = items_of.len();
        let client = self.nats.client().await;
        let history = History::read_whole(&client, &self.store).await;
        assert_eq!(history.violations(), Vec::<String>::new());
        assert_eq!(history.store_violations(&self.store).unwrap(), Vec::<String>::new());
        let state = history.state();
        assert_eq!(state.models.values().map(Vec::len).sum::<usize>(), published, "one version per run that published one");
        let announced = history.announced(Topic::ModelPublished);
        let ids: BTreeSet<&str> = announced.iter().filter_map(|notice| notice.event["id"].as_str()).collect();
        assert_eq!(ids.len(), published, "one id per version");
        for version in 1..=published {
            let model = self.api.get(&format!("/v1/models/squares/{version}")).await;
            let total: u32 = (0..items_of[&model["run"].to_string()]).map(|number| number * number).sum();
            assert_eq!(self.api.get(&format!("/v1/models/squares/{version}/content")).await, json!({"total": total}));
        }
        assert!(self.worker.service.stop(20).await.success());
        assert!(self.coordinator.service.stop(20).await.success());
        history
    }
}

fn of_coordinator(lab: &mut Lab) -> &mut Kept {
    &mut lab.coordinator
}

fn of_worker(lab: &mut Lab) -> &mut Kept {
    &mut lab.worker
}

/// Rows 6 and 8 of the fault model.
#[tokio::test]
async fn a_coordinator_that_dies_between_any_two_actions_of_start_and_run_loses_and_doubles_nothing() {
    let mut lab = Lab::start(&[], FIRST_START).await;
    lab.until("the deaths of the first start are over", async |lab| lab.coordinator.is_over().then_some(())).await;
    lab.deploy("marked.py", MARKED).await;
    lab.run_through(RUN, 3, of_coordinator).await;
    let history = lab.ends_well().await;
    assert!(history.state().epoch > 14);
}

/// Rows 6 and 8 of the fault model.
#[tokio::test]
async fn a_coordinator_that_dies_around_manifests_takeovers_cancels_and_events_loses_and_doubles_nothing() {
    let mut lab = Lab::start(&[], &[]).await;
    lab.deploy("marked.py", MARKED).await;
    lab.deploy("arrival.py", ARRIVAL).await;
    lab.run_through(WIDE_RUN, 66, of_coordinator).await;

    // The turn that opens an attempt is committed; the next leader dies when it has performed what that asked for.
    lab.coordinator.arm("takeover.performed", 1);
    lab.coordinator.arm("turn.committed", 1);
    lab.submit(3, 0.0).await;
    lab.settled().await;

    let marks = lab.submit(4, 600.0).await;
    let hosts = lab.until("two tasks run", async |_| Some(running(&marks)).filter(|pids| pids.len() == 2)).await;
    lab.coordinator.arm("tasks.removed", 1);
    let run = lab.runs.last().unwrap().0.clone();
    lab.call(&format!("/v1/runs/{run}/cancel"), &json!({"request_id": "cancel-1"})).await;
    lab.until("what runs is killed", async |_| hosts.iter().all(|pid| !process::is_alive(*pid)).then_some(())).await;
    lab.settled().await;
    assert_eq!(done(&marks), 0);

    lab.coordinator.arm("event.stored", 1);
    let event = json!({"specversion": "1.0", "id": "day-1", "source": "/test", "type": "numbers.arrived", "data": {"values": "2,4"}});
    lab.until("the event is taken", async |lab| {
        let call = lab.api.call(Method::POST, "/v1/events").header("Content-Type", "application/cloudevents+json");
        call.body(event.to_string()).send().await.ok().filter(|answer| answer.status().is_success())
    })
    .await;
    let client = lab.nats.client().await;
    let store = lab.store.clone();
    lab.until("the event's run is over", async |lab| {
        let runs = lab.api.try_get("/v1/runs?flow=Arrival").await?;
        (runs["runs"][0]["state"] == "succeeded" && lab.coordinator.is_over()).then_some(())
    })
    .await;
    let runs = lab.api.get("/v1/runs?flow=Arrival").await;
    assert_eq!(runs["runs"].as_array().map(Vec::len), Some(1), "one event, one run: {runs}");
    let history = History::read_whole(&client, &store).await;
    assert_eq!(history.violations(), Vec::<String>::new());
    assert_eq!(history.store_violations(&store).unwrap(), Vec::<String>::new());
}

async fn upkeep(points: Points) {
    let mut lab = Lab::start(&["--snapshot-seconds=1", "--runs-whole-max=1"], &[]).await;
    lab.deploy("marked.py", MARKED).await;
    for (point, deaths) in points {
        lab.coordinator.arm(point, *deaths);
        lab.submit(3, 0.0).await;
        lab.runs_end().await;
        // Snapshots are taken only of a state that has changed, so requests that change little go on until the point was met.
        let (path, mut number) = (format!("/v1/runs/{}/cancel", lab.runs[0].0), 0);
        lab.until("the point is met", async |lab| {
            number += 1;
            let request = json!({"request_id": format!("{}-{number}", point.replace('.', "-"))});
            // One that meets a coordinator that is dead or dies has no answer.
            if let Ok(answer) = lab.api.call(Method::POST, &path).json(&request).send().await {
                assert!(answer.status().is_success() || answer.status().is_server_error(), "{answer:?}");
            }
            lab.coordinator.is_over().then_some(())
        })
        .await;
        lab.settled().await;
    }
    lab.ends_well().await;
}

/// Row 6 of the fault model.
#[tokio::test]
async fn a_coordinator_that_dies_between_any_two_actions_of_its_upkeep_loses_and_doubles_nothing() {
    let [histories, trimming, copy] = UPKEEP;
    tokio::join!(upkeep(histories), upkeep(trimming), upkeep(copy));
}

/// A first attempt and what follows until its result is stored.
async fn until_stored() {
    let mut lab = Lab::start(&[], &[]).await;
    lab.deploy("marked.py", MARKED).await;
    FIRST_ATTEMPT.iter().for_each(|(point, deaths)| lab.worker.arm(point, *deaths));
    lab.submit(3, 0.0).await;
    lab.settled().await;
    lab.run_through(ATTEMPT[0], 3, of_worker).await;
    lab.ends_well().await;
}

/// From a stored result to the end of the delivery, a second delivery, and the worker's own end.
async fn from_stored() {
    let mut lab = Lab::start(&[], &[]).await;
    lab.deploy("marked.py", MARKED).await;
    lab.run_through(ATTEMPT[1], 3, of_worker).await;
    // A second delivery says that it has begun before its host starts.
    lab.worker.arm("step.ended", 1);
    lab.worker.arm("start.reported", 1);
    lab.submit(3, 0.0).await;
    lab.settled().await;
    for (point, deaths) in DRAIN {
        lab.worker.arm(point, *deaths);
        let marks = lab.submit(3, 0.3).await;
        lab.until("a task runs", async |_| (!running(&marks).is_empty()).then_some(())).await;
        process::signal(lab.worker.service.pid(), Signal::TERM);
        lab.settled().await;
    }
    lab.ends_well().await;
}

/// Rows 1, 2 and 3 of the fault model.
#[tokio::test]
async fn a_worker_that_dies_between_any_two_actions_of_an_attempt_loses_and_doubles_nothing() {
    tokio::join!(until_stored(), from_stored());
}

/// A leader that stops at `point`, and the standby that takes its place meanwhile.
async fn sleeps_at(point: &str) {
    let project = Project::new();
    let base = project.path();
    let nats = Nats::start(&project.file("jetstream")).await;
    let marks = project.file("failpoints");
    std::fs::create_dir_all(&marks).unwrap();
    let (first, second) = (Place { port: tools::free_port(), ..Place::new(base, "one") }, Place::new(base, "two"));
    let mut command = Coordinator::command(&nats.url(), base, &first);
    command.env("CAUSEY_FAILPOINTS", &marks);
    let mut one = Service::start(command, &base.join("one"));
    let leader = Api::new(&format!("http://127.0.0.1:{}", first.port), TOKEN);
    let role = async |api: &Api, role: &str| {
        until(role, 30, async || api.try_get("/v1/status").await.filter(|status| status["role"] == role)).await;
    };
    role(&leader, "leader").await;
    let mut two = Coordinator::start(&nats, base, &second);
    let api = two.with_role("standby").await;
    let _worker = worker(&nats.url(), base, &first.store, "local");
    project.ok(&["deploy", &project.flow("marked.py", MARKED), "--url", &api.url, "--token", &api.token]).await;

    std::fs::write(marks.join(point), "stop").unwrap();
    let marked = project.file("marks");
    std::fs::create_dir_all(&marked).unwrap();
    let request = json!({"request_id": "run-1", "flow": "Marked", "parameters": {"marks": marked, "items": 3, "seconds": 0.0}});
    // The leader stops while it decides this; the standby leads once the key has expired, and knows the request.
    let run = until("the run has started", 30, async || {
        let answer = api.call(Method::POST, "/v1/runs").json(&request).send().await.ok()?;
        answer.status().is_success().then_some(answer.json::<Value>().await.ok()?)
    })
    .await;
    until_true(&format!("the leader comes to {point}"), 20, || !marks.join(point).exists()).await;
    role(&api, "leader").await;
    let ended = api.ended(run["name"].as_str().unwrap(), 60).await;
    assert_eq!(ended["state"], "succeeded", "{ended}");
    process::signal(one.pid(), Signal::CONT);
    role(&leader, "standby").await;
    assert_eq!(leader.ended(run["name"].as_str().unwrap(), 20).await["state"], "succeeded");
    assert!(one.stderr().contains("no longer leading") && one.ended().is_none(), "{}", one.stderr());
    let history = History::read(&nats.client().await).await;
    assert_eq!(history.violations(), Vec::<String>::new());
    assert_eq!((history.state().epoch, history.state().runs.len()), (2, 1));
}

#[tokio::test]
async fn rows_7_and_8_a_leader_that_sleeps_between_deciding_and_knowing_what_came_of_it_changes_nothing() {
    tokio::join!(sleeps_at("turn.decided"), sleeps_at("turn.sent"), sleeps_at("turn.committed"));
}

/// Calls of `failpoint::here` in the sources of a folder.
fn points_in(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            points_in(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let names = text.split("failpoint::here(\"").skip(1);
            found.extend(names.filter_map(|rest| rest.split('"').next()).map(str::to_owned));
        }
    }
}

#[test]
fn every_failpoint_is_one_at_which_a_test_dies() {
    let mut there = BTreeSet::new();
    for folder in ["coordinator/src", "worker/src", "worker/artifacts/src"] {
        points_in(&tools::workspace().join(folder), &mut there);
    }
    let tables = [&[FIRST_START, RUN, WIDE_RUN, FIRST_ATTEMPT, DRAIN, AFTERWARDS], &UPKEEP[..], &ATTEMPT[..]].concat();
    let points = tables.into_iter().flatten().map(|(point, _)| *point).chain(BUILD);
    let met: BTreeSet<String> = points.map(str::to_owned).collect();
    assert_eq!(there, met);
}
