//! What lies between processes and server: cables that are cut, fall silent one way or are slow, broadcasts that do not arrive, a server
//! that dies again and again, and users who may not do everything.

use std::future::IntoFuture as _;
use std::path::PathBuf;
use std::time::Duration;

use causey_protocol::record::Record;
use causey_tests::service::{Config, Place, worker, worker_command, worker_with};
use causey_tests::wait::until_true;
use causey_tests::{Api, Cable, Coordinator, Direction, History, Nats, Project, Service, process, tools};
use serde_json::json;

use crate::cancel::{done, running};
use crate::log::deploy;
use crate::marked::Marked;
use crate::standby::{Cabled, knows_flows, leads};

/// A coordinator and a worker that each have a cable of their own to the server.
struct Wired {
    project: Project,
    nats: Nats,
    coordinator: Coordinator,
    worker: Service,
    cables: [Cable; 2],
    api: Api,
    store: PathBuf,
}

impl Wired {
    async fn start() -> Self {
        let project = Project::new();
        let base = project.path();
        let nats = Nats::start(&project.file("jetstream")).await;
        let cables = [Cable::to(nats.port).await, Cable::to(nats.port).await];
        let url = |cable: &Cable| format!("nats://127.0.0.1:{}", cable.port);
        let place = Place { options: vec!["--ack-wait-seconds=2".into()], ..Place::new(base, "one") };
        let mut coordinator = Coordinator::start_at(&url(&cables[0]), base, &place);
        let api = coordinator.with_role("leader").await;
        let mut command = worker_command(&url(&cables[1]), base, &place.store, "local");
        command.arg("--ack-wait-seconds=2");
        let worker = Service::start(command, &base.join("local"));
        Self { coordinator, worker, cables, api, store: place.store, nats, project }
    }

    async fn ends_well(&self, marked: &Marked) -> History {
        marked.ends_well(&self.api, &self.nats.client().await, &self.store).await
    }
}

/// Row 16 of the fault model.
#[tokio::test]
async fn row_16_a_worker_cut_off_while_the_server_lives_gives_its_attempts_up_and_takes_new_ones_when_it_is_back() {
    let wired = Wired::start().await;
    // Longer than it takes to give one up, however slow the machine is.
    let marked = Marked::start_with(&wired.project, &wired.api, 4, 6.0).await;
    let [_, cable] = &wired.cables;
    let given_up = || wired.worker.stderr().matches("no sign of life reached the queue in time").count();
    let faults: [fn(&Cable); 3] = [Cable::cut, |cable| cable.silence(Direction::ToServer), |cable| cable.silence(Direction::FromServer)];
    for fault in faults {
        until_true("a task runs", 30, || !running(&marked.marks).is_empty()).await;
        let before = given_up();
        fault(cable);
        until_true("the worker gives up what it holds", 30, || given_up() > before).await;
        // What runs next is another attempt: one that is being killed would be cut off when nothing is held.
        let hosts = running(&marked.marks);
        until_true("what it held has ended", 20, || hosts.iter().all(|pid| !process::is_alive(*pid))).await;
        cable.mend();
    }
    wired.ends_well(&marked).await;
}

/// Rows 16 and 17 of the fault model.
#[tokio::test]
async fn rows_16_and_17_a_run_goes_on_over_slow_cables() {
    let wired = Wired::start().await;
    wired.cables.iter().for_each(|cable| cable.slow_down(Duration::from_millis(60)));
    let marked = Marked::start_with(&wired.project, &wired.api, 6, 0.1).await;
    let history = wired.ends_well(&marked).await;
    assert_eq!(history.state().epoch, 1, "the leader keeps its key: {}", wired.coordinator.service.stderr());
}

/// Row 17 of the fault model.
#[tokio::test]
async fn row_17_a_leader_that_is_heard_but_does_not_hear_or_hears_but_is_not_heard_is_replaced() {
    for direction in [Direction::FromServer, Direction::ToServer] {
        let Cabled { pair, cable, first, second } = &mut Cabled::start().await;
        cable.silence(direction);
        pair.two.with_role("leader").await;
        deploy(second, "b").await;
        cable.mend();
        leads(first, "two").await;
        for api in [&*first, &*second] {
            knows_flows(api, 2).await;
        }
        assert_eq!(pair.history().await.state().epoch, 2, "{direction:?}");
    }
}

/// Row 10 of the fault model.
#[tokio::test]
async fn row_10_a_run_goes_on_through_six_crashes_of_the_server() {
    let project = Project::new();
    let base = project.path();
    let mut nats = Nats::start(&project.file("jetstream")).await;
    let place = Place::new(base, "one");
    let (mut coordinator, api) = Coordinator::leading(&nats, base, &place).await;
    let _worker = worker(&nats.url(), base, &place.store, "local");
    let marked = Marked::start(&project, &api, 60).await;
    for round in 1..=6 {
        marked.come_to(round * 8).await;
        nats = nats.again().await;
    }
    let history = marked.ends_well(&api, &nats.client().await, &place.store).await;
    let fences = history.records().filter(|(_, record)| matches!(record, Record::LeaderChanged { .. })).count();
    assert!(fences > 1 && coordinator.service.ended().is_none(), "{}", coordinator.service.stderr());
}

/// What `deploy/nats` gives each user, with `without` taken away; passwords are the users' names.
fn production(project: &Project, without: Option<&str>) -> Config {
    let text = std::fs::read_to_string(tools::workspace().join("deploy/nats/accounts.conf")).unwrap();
    let file = project.file("accounts.conf");
    assert!(without.is_none_or(|without| text.contains(without)));
    std::fs::write(&file, without.map_or(text.clone(), |without| text.replace(without, ""))).unwrap();
    let names = text
        .split("password: $")
        .skip(1)
        .map(|rest| rest.split(|letter: char| !(letter.is_ascii_uppercase() || letter == '_')).next().unwrap());
    Config { file, variables: names.map(|name| (name.to_owned(), "secret".to_owned())).collect() }
}

/// A coordinator and the worker `one` as users of the production configuration.
pub(crate) async fn in_production(project: &Project, without: Option<&str>, options: &[&str]) -> (Nats, Coordinator, Service, Api) {
    let base = project.path();
    let nats = Nats::configured(&project.file("jetstream"), production(project, without)).await;
    let place = Place { options: options.iter().map(ToString::to_string).collect(), ..Place::new(base, "coordinator") };
    let mut coordinator = Coordinator::start_at(&nats.url_for("coordinator", "secret"), base, &place);
    let api = coordinator.with_role("leader").await;
    let worker = worker_with(&nats.url_for("worker-default-one", "secret"), base, &place.store, "one", options);
    (nats, coordinator, worker, api)
}

/// Row 41 of the fault model.
#[tokio::test]
async fn row_41_the_permissions_of_production_suffice_for_a_run_and_for_nothing_else() {
    let project = Project::new();
    let (nats, _coordinator, _worker, api) = in_production(&project, None, &[]).await;
    let marked = Marked::start(&project, &api, 4).await;
    let reader = nats.client_for("coordinator", "secret").await;
    marked.ends_well(&api, &reader, &project.file("store")).await;

    let worker = nats.client_for("worker-default-one", "secret").await;
    let producer = nats.client_for("producer-warehouse", "secret").await;
    let subscriber = nats.client_for("subscriber-planning", "secret").await;
    let subjects = |client: &async_nats::Client, subject: &str| (async_nats::jetstream::new(client.clone()), subject.to_owned());
    let last = async || {
        let mut ends = Vec::new();
        for stream in ["CAUSEY_IN", "CAUSEY_EVENT", "CAUSEY_TASK", "CAUSEY_NOTIFY"] {
            let context = async_nats::jetstream::new(reader.clone());
            ends.push(context.get_stream(stream).await.unwrap().cached_info().state.last_sequence);
        }
        ends
    };
    let before = last().await;
    let foreign = [
        subjects(&worker, "causey.log"),
        subjects(&worker, "causey.log.fence"),
        subjects(&worker, "causey.task.default.0199aaaa-0000-7000-8000-000000000000.00"),
        subjects(&worker, "causey.in.request.submit"),
        subjects(&worker, "causey.in.report.default.two"),
        subjects(&worker, "causey.in.report.other.one"),
        subjects(&worker, "causey.event.warehouse"),
        subjects(&worker, "causey.notify.model-published.squares"),
        subjects(&producer, "causey.event.elsewhere"),
        subjects(&producer, "causey.in.request.submit"),
        subjects(&subscriber, "causey.notify.model-published.squares"),
    ];
    let refused = foreign.iter().map(async |(context, subject)| {
        let sent = context.publish(subject.clone(), "forged".into()).await.unwrap();
        (!matches!(tokio::time::timeout(Duration::from_secs(2), sent.into_future()).await, Ok(Ok(_))), subject)
    });
    let refused = futures_util::future::join_all(refused).await;
    assert!(refused.iter().all(|(refused, _)| *refused), "{refused:?}");
    let api_calls =
        ["STREAM.INFO.CAUSEY_LOG", "STREAM.DELETE.CAUSEY_LOG", "STREAM.PURGE.CAUSEY_TASK", "CONSUMER.MSG.NEXT.CAUSEY_TASK.other"];
    let users = [("worker", &worker), ("producer", &producer), ("subscriber", &subscriber)];
    let calls = users.iter().flat_map(|user| api_calls.iter().map(move |call| (user, call)));
    let answered = calls.map(async |((user, client), call)| {
        let answer = client.request(format!("$JS.API.{call}"), "".into()).await;
        answer.is_ok().then(|| format!("{user} may {call}"))
    });
    let answered: Vec<String> = futures_util::future::join_all(answered).await.into_iter().flatten().collect();
    assert_eq!(answered, Vec::<String>::new());
    assert_eq!(last().await, before, "something of it was stored");
    assert_eq!(History::read(&reader).await.violations(), Vec::<String>::new());
    // What is theirs they may do.
    let event = json!({"specversion": "1.0", "id": "1", "source": "/s", "type": "t"}).to_string();
    let (context, _) = subjects(&producer, "");
    context.publish("causey.event.warehouse", event.into()).await.unwrap().await.unwrap();
    assert_eq!(api.get("/v1/status").await["leader"], "coordinator");
}

/// The server lets no broadcast of a cancel through to the worker, which asks all the same.
#[tokio::test]
async fn a_cancel_whose_broadcasts_are_all_lost_reaches_the_worker_by_its_own_question() {
    let project = Project::new();
    let (nats, _coordinator, worker, api) = in_production(&project, Some(", \"causey.cancel.*\""), &[]).await;
    let marked = Marked::start_with(&project, &api, 4, 600.0).await;
    until_true("two tasks run", 30, || running(&marked.marks).len() == 2).await;
    assert!(worker.stderr().contains("NATS refuses something"), "the worker hears cancels: {}", worker.stderr());
    let hosts = running(&marked.marks);
    let cancelled = api.post(&format!("/v1/runs/{}/cancel", marked.run), &json!({"reason": "enough"})).await;
    assert_eq!(cancelled.status.as_u16(), 202, "{cancelled:?}");
    until_true("what runs is killed", 20, || hosts.iter().all(|pid| !process::is_alive(*pid))).await;
    assert_eq!((api.ended(&marked.run, 20).await["state"].clone(), done(&marked.marks)), (json!("cancelled"), 0));
    let history = History::read(&nats.client_for("coordinator", "secret").await).await;
    assert_eq!(history.violations(), Vec::<String>::new());
    // Its slots are free again.
    let again = Marked::start_again(&project, &api, 2).await;
    assert_eq!(api.ended(&again.run, 60).await["state"], "succeeded");
}
