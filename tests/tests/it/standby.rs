//! Several coordinators on one log: one leads, the others follow, and whoever is killed, stopped or cut off takes nothing with it.
//! Numbers of rows are those of the fault table in `docs/operations.md`.

use causey_coordinator::projection::Projection;
use causey_protocol::record::{GENERATION, Record};
use causey_protocol::subject;
use causey_tests::process::{self, Signal};
use causey_tests::service::{Place, worker};
use causey_tests::{Api, Cable, Coordinator, History, Nats, Project, Service, until};
use reqwest::Method;
use serde_json::{Value, json};

use crate::log::deploy;
use crate::marked::Marked;

/// Two coordinators with one store on one server.
pub(crate) struct Pair {
    project: Project,
    nats: Nats,
    one: Coordinator,
    pub(crate) two: Coordinator,
}

/// A pair of which the leader, with flow `a`, reaches the server through a cable.
pub(crate) struct Cabled {
    pub(crate) pair: Pair,
    pub(crate) cable: Cable,
    pub(crate) first: Api,
    pub(crate) second: Api,
}

impl Cabled {
    pub(crate) async fn start() -> Self {
        let project = Project::new();
        let base = project.path();
        let nats = Nats::start(&project.file("jetstream")).await;
        let cable = Cable::to(nats.port).await;
        let mut one = Coordinator::start_at(&format!("nats://127.0.0.1:{}", cable.port), base, &Place::new(base, "one"));
        let first = one.with_role("leader").await;
        deploy(&first, "a").await;
        let mut two = Coordinator::start(&nats, base, &Place::new(base, "two"));
        let second = two.with_role("standby").await;
        Self { pair: Pair { project, nats, one, two }, cable, first, second }
    }
}

impl Pair {
    /// `one` leads, `two` stands by.
    async fn start() -> (Self, Api, Api) {
        let project = Project::new();
        let base = project.path();
        let nats = Nats::start(&project.file("jetstream")).await;
        let (one, leader) = Coordinator::leading(&nats, base, &Place::new(base, "one")).await;
        let mut two = Coordinator::start(&nats, base, &Place::new(base, "two"));
        let standby = two.with_role("standby").await;
        (Self { project, nats, one, two }, leader, standby)
    }

    fn place(&self, name: &str) -> Place {
        Place::new(self.project.path(), name)
    }

    fn again(&self, name: &str) -> Coordinator {
        Coordinator::start(&self.nats, self.project.path(), &self.place(name))
    }

    pub(crate) async fn history(&self) -> History {
        let history = History::read(&self.nats.client().await).await;
        assert_eq!(history.violations(), Vec::<String>::new());
        history
    }

    async fn leaders(&self) -> Vec<String> {
        let history = self.history().await;
        let leader = |record: &Record| if let Record::LeaderChanged { leader } = record { Some(leader.clone()) } else { None };
        history.records().filter_map(|(_, record)| leader(record)).collect()
    }
}

pub(crate) async fn leads(api: &Api, name: &str) -> Value {
    until(&format!("{name} leads"), 20, async || api.try_get("/v1/status").await.filter(|status| status["leader"] == name)).await
}

/// Waits until a coordinator, which may lag behind another one, knows this many flows.
pub(crate) async fn knows_flows(api: &Api, count: usize) {
    let known = async || api.try_get("/v1/flows").await.filter(|known| known["flows"].as_array().is_some_and(|known| known.len() == count));
    until(&format!("{count} flows are known"), 20, known).await;
}

/// A pair with a worker in the middle of a foreach.
struct Scene {
    pair: Pair,
    _worker: Service,
    marked: Marked,
}

impl Scene {
    async fn start(items: u32) -> Self {
        let (pair, leader, _) = Pair::start().await;
        let worker = worker(&pair.nats.url(), pair.project.path(), &pair.place("one").store, "worker");
        let marked = Marked::start(&pair.project, &leader, items).await;
        Self { pair, _worker: worker, marked }
    }

    async fn ends_well(&self, api: &Api) -> History {
        self.marked.ends_well(api, &self.pair.nats.client().await, &self.pair.place("one").store).await
    }
}

#[tokio::test]
async fn a_standby_reads_and_writes_like_the_leader() {
    let (pair, leader, standby) = Pair::start().await;
    leads(&standby, "one").await;
    assert_eq!(standby.get("/v1/status").await["records"], json!({"reads": GENERATION, "writes": GENERATION, "for": null}));
    for (api, words) in [(&leader, "ready, leader\n"), (&standby, "ready, standby\n")] {
        assert_eq!(api.bare(Method::GET, "/readyz").send().await.unwrap().text().await.unwrap(), words);
    }
    // What one of them has accepted, the other knows by its sequence.
    deploy(&standby, "a").await;
    let submitted = json!({"request_id": "r-1", "flow": "Flowa"});
    let started = standby.call(Method::POST, "/v1/runs").json(&submitted).send().await.unwrap();
    assert_eq!(started.status().as_u16(), 201);
    let sequence = started.headers()["causey-sequence"].clone();
    let started: Value = started.json().await.unwrap();
    let read = leader.call(Method::GET, "/v1/runs").header("Causey-Sequence", sequence).send().await.unwrap();
    assert_eq!(read.json::<Value>().await.unwrap()["runs"][0]["run"], started["run"]);
    let again = leader.post("/v1/runs", &submitted).await;
    assert_eq!((again.status.as_u16(), &again.body["run"]), (200, &started["run"]));
    let event = json!({"specversion": "1.0", "id": "1", "source": "/s", "type": "t"});
    assert_eq!(standby.post_event(&event).await.status.as_u16(), 202);
    assert_eq!(leader.post_event(&event).await.body["duplicate"], standby.post_event(&event).await.body["duplicate"]);
    assert_eq!(pair.leaders().await, ["one"]);
}

#[tokio::test]
async fn row_6_a_run_goes_on_when_the_leader_is_killed_and_again_when_its_successor_is() {
    let mut scene = Scene::start(60).await;
    scene.marked.come_to(10).await;
    scene.pair.one.service.kill();
    let second = scene.pair.two.with_role("leader").await;
    scene.pair.one = scene.pair.again("one");
    let first = scene.pair.one.with_role("standby").await;
    assert!(second.get("/v1/status").await["workers"].as_array().is_some());
    scene.marked.come_to(30).await;
    scene.pair.two.service.kill();
    scene.pair.one.with_role("leader").await;
    let history = scene.ends_well(&first).await;
    assert_eq!(history.state().epoch, 3);
}

#[tokio::test]
async fn row_6_ten_takeovers_in_a_row_lose_and_double_nothing() {
    let mut scene = Scene::start(90).await;
    let mut api = scene.pair.two.api().await;
    for round in 0..10 {
        scene.marked.come_to(4 + round * 6).await;
        let Pair { one, two, .. } = &mut scene.pair;
        let (name, leader, standby) = if round % 2 == 0 { ("one", one, two) } else { ("two", two, one) };
        leader.service.kill();
        api = standby.with_role("leader").await;
        let mut back = scene.pair.again(name);
        back.with_role("standby").await;
        *(if round % 2 == 0 { &mut scene.pair.one } else { &mut scene.pair.two }) = back;
    }
    let history = scene.ends_well(&api).await;
    assert_eq!(history.state().epoch, 11);
}

#[tokio::test]
async fn rows_7_and_8_a_leader_that_slept_through_a_takeover_writes_nothing_and_stands_by() {
    let (mut pair, first, second) = Pair::start().await;
    deploy(&first, "a").await;
    process::signal(pair.one.service.pid(), Signal::STOP);
    // On the same machine, but alive: only the key's time limit tells.
    leads(&second, "two").await;
    deploy(&second, "b").await;
    process::signal(pair.one.service.pid(), Signal::CONT);
    let first = pair.one.with_role("standby").await;
    leads(&first, "two").await;
    knows_flows(&first, 2).await;
    deploy(&first, "c").await;
    assert!(pair.one.service.stderr().contains("no longer leading"), "{}", pair.one.service.stderr());
    pair.two.service.kill();
    pair.one.with_role("leader").await;
    knows_flows(&first, 3).await;
    assert_eq!(pair.leaders().await, ["one", "two", "one"]);
}

#[tokio::test]
async fn rows_7_and_8_a_leader_that_sleeps_in_the_middle_of_a_run_does_not_disturb_it() {
    let mut scene = Scene::start(60).await;
    scene.marked.come_to(10).await;
    process::signal(scene.pair.one.service.pid(), Signal::STOP);
    let second = scene.pair.two.with_role("leader").await;
    scene.marked.come_to(20).await;
    process::signal(scene.pair.one.service.pid(), Signal::CONT);
    let first = scene.pair.one.with_role("standby").await;
    scene.ends_well(&second).await;
    assert_eq!(first.ended(&scene.marked.run, 20).await["state"], "succeeded");
}

#[tokio::test]
async fn a_leader_that_is_asked_to_stop_hands_over() {
    let (mut pair, first, second) = Pair::start().await;
    deploy(&first, "a").await;
    assert!(pair.one.service.stop(20).await.success());
    leads(&second, "two").await;
    deploy(&second, "b").await;
    let back = pair.again("one");
    pair.one = back;
    let first = pair.one.with_role("standby").await;
    assert!(pair.two.service.stop(20).await.success());
    leads(&first, "one").await;
    knows_flows(&first, 2).await;
    assert_eq!(pair.leaders().await, ["one", "two", "one"]);
}

/// Row 22 of the fault model.
#[tokio::test]
async fn a_standby_keeps_a_copy_of_its_own_and_does_without_it() {
    let (mut pair, first, _) = Pair::start().await;
    for name in ["a", "b", "c"] {
        deploy(&first, name).await;
    }
    let place = pair.place("two");
    let end = pair.history().await.entries.len() as u64;
    let second = pair.two.api().await;
    until("the standby has come so far", 20, async || {
        second.try_get("/v1/status").await.filter(|status| status["sequence"].as_u64() >= Some(end))
    })
    .await;
    assert!(pair.two.service.stop(20).await.success());
    {
        let (_, state, tail) = Projection::open(&place.projection).unwrap();
        assert_eq!(tail.sequence, end);
        assert_eq!(state.hash(), pair.history().await.state_at(end).hash(), "I9: the standby's copy is not the fold of the log");
    }
    std::fs::remove_dir_all(&place.projection).unwrap();
    pair.two = pair.again("two");
    let second = pair.two.with_role("standby").await;
    knows_flows(&second, 3).await;
    pair.one.service.kill();
    pair.two.with_role("leader").await;
    deploy(&second, "d").await;
    assert_eq!(pair.leaders().await, ["one", "two"]);
}

#[tokio::test]
async fn a_coordinator_that_is_given_anothers_projection_refuses_and_leaves_it_alone() {
    let (mut pair, first, _) = Pair::start().await;
    deploy(&first, "a").await;
    let projection = pair.place("one").projection;
    let mut third = Coordinator::start(&pair.nats, pair.project.path(), &Place { projection: projection.clone(), ..pair.place("three") });
    let (status, words) = third.last_words().await;
    assert_eq!(status, Some(1), "{words}");
    for expected in ["another process uses it", &projection.display().to_string(), "--projection"] {
        assert!(words.contains(expected), "{words}");
    }
    deploy(&first, "b").await;
    assert!(pair.one.service.stop(20).await.success());
    let end = pair.two.with_role("leader").await;
    knows_flows(&end, 2).await;
    let (_, state, tail) = Projection::open(&projection).unwrap();
    assert_eq!(state.hash(), pair.history().await.state_at(tail.sequence).hash());
    assert!(tail.sequence > 0 && !projection.join("sled.damaged").exists());
}

#[tokio::test]
async fn row_17_a_leader_cut_off_from_the_server_is_replaced_and_stands_by_when_it_is_back() {
    let Cabled { pair, cable, first, second } = &mut Cabled::start().await;
    cable.cut();
    // It knows that it leads no longer, and still answers what it has read.
    pair.one.with_role("standby").await;
    knows_flows(first, 1).await;
    assert_eq!(first.bare(Method::GET, "/readyz").send().await.unwrap().status().as_u16(), 503);
    pair.two.with_role("leader").await;
    deploy(second, "b").await;
    cable.mend();
    leads(first, "two").await;
    deploy(first, "c").await;
    for api in [&*first, &*second] {
        knows_flows(api, 3).await;
    }
    assert_eq!(pair.history().await.state().epoch, 2);
}

/// Row 10 of the fault model.
#[tokio::test]
async fn both_go_on_after_a_crash_of_the_server_and_one_of_them_leads() {
    let (mut pair, first, second) = Pair::start().await;
    deploy(&first, "a").await;
    pair.nats = pair.nats.again().await;
    let led = until("one of them leads", 30, async || {
        let (one, two) = (first.try_get("/v1/status").await?, second.try_get("/v1/status").await?);
        (one["leader"].is_string() && one["leader"] == two["leader"]).then_some(one["leader"].clone())
    })
    .await;
    assert!(led == "one" || led == "two");
    deploy(&first, "b").await;
    deploy(&second, "c").await;
    assert_eq!(pair.one.service.ended().or(pair.two.service.ended()), None);
    pair.history().await;
}

/// Row 14 of the fault model.
#[tokio::test]
async fn a_log_that_breaks_ends_both_with_the_reason() {
    let (mut pair, first, _) = Pair::start().await;
    deploy(&first, "a").await;
    let context = async_nats::jetstream::new(pair.nats.client().await);
    let at = context.publish(subject::LOG_TURN, "rubbish".into()).await.unwrap().await.unwrap().sequence;
    // The leader notices at its next write, which is not to be.
    let refused = first.post("/v1/runs", &json!({"flow": "Flowa"})).await;
    assert_eq!(refused.status.as_u16(), 503, "{refused:?}");
    for coordinator in [&mut pair.one, &mut pair.two] {
        let (status, words) = coordinator.last_words().await;
        assert!(status == Some(1) && words.contains(&format!("turn {at} of stream CAUSEY_LOG cannot be read")), "{words}");
    }
}

/// Row 37 of the fault model.
#[tokio::test]
async fn nothing_is_decided_that_a_living_coordinator_could_not_read() {
    let (pair, first, second) = Pair::start().await;
    deploy(&first, "a").await;
    let context = async_nats::jetstream::new(pair.nats.client().await);
    let bucket = context.get_key_value(subject::LEADER_BUCKET).await.unwrap();
    let key = subject::coordinator_key("older");
    let announce = async || bucket.put(&key, json!({"name": "old", "reads": 0}).to_string().into()).await.unwrap();
    for api in [&first, &second] {
        until("the older one is known", 20, async || {
            announce().await;
            let status = api.get("/v1/status").await;
            (status["records"] == json!({"reads": GENERATION, "writes": 0, "for": "old"})).then_some(())
        })
        .await;
    }
    let before = pair.history().await.entries.len();
    let (deployed, ()) = tokio::join!(deploy(&second, "b"), async {
        until("the leader says for whom it waits", 20, async || {
            announce().await;
            pair.one.service.stderr().contains("coordinator `old` reads up to 0").then_some(())
        })
        .await;
        assert_eq!(pair.history().await.entries.len(), before);
        bucket.delete(&key).await.unwrap();
    });
    assert_eq!(deployed["version"], 1);
    assert_eq!(second.get("/v1/status").await["records"]["for"], json!(null));
}
