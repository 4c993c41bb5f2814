//! A NATS cluster of three, whose servers are killed in the middle of a run. Numbers of rows are those of the fault table in
//! `docs/operations.md`.

use causey_protocol::subject::{EVENT_STREAM, INBOX_STREAM, LOG_STREAM, NOTIFY_STREAM};
use causey_tests::service::{Place, worker};
use causey_tests::{Cluster, Coordinator, Nats, Project, until};

use crate::marked::Marked;

#[tokio::test]
async fn row_11_a_run_goes_on_when_the_server_that_leads_the_log_is_killed_and_again_when_its_successor_is() {
    let project = Project::new();
    let base = project.path();
    let mut cluster = Cluster::start(&project.file("cluster")).await;
    let place = |name: &str| Place { options: vec!["--replicas=3".into()], ..Place::new(base, name) };
    let store = place("one").store;
    let mut one = Coordinator::start_at(&cluster.url(0), base, &place("one"));
    let first = one.with_role("leader").await;
    let mut two = Coordinator::start_at(&cluster.url(1), base, &place("two"));
    let second = two.with_role("standby").await;
    let _worker = worker(&cluster.url(2), base, &store, "worker");
    let marked = Marked::start(&project, &first, 60).await;
    for count in [10, 30] {
        marked.come_to(count).await;
        let leader = cluster.leader_of(LOG_STREAM).await;
        cluster.kill(leader);
        // Another one leads before the killed one is back: two of three go on.
        assert_ne!(cluster.leader_of(LOG_STREAM).await, leader);
        cluster.start_node(leader).await;
    }
    // The run may end before every stream that the checker reads has a leader again.
    for stream in [INBOX_STREAM, EVENT_STREAM, NOTIFY_STREAM] {
        cluster.leader_of(stream).await;
    }
    let client = cluster.client().await;
    for api in [&first, &second] {
        marked.ends_well(api, &client, &store).await;
    }
    assert_eq!(one.service.ended().or(two.service.ended()), None, "{}\n{}", one.service.stderr(), two.service.stderr());
}

#[tokio::test]
async fn a_coordinator_that_starts_while_the_streams_have_no_leader_waits_for_one() {
    let project = Project::new();
    let base = project.path();
    let mut cluster = Cluster::start(&project.file("cluster")).await;
    let place = Place { options: vec!["--replicas=3".into()], ..Place::new(base, "one") };
    let mut first = Coordinator::start_at(&cluster.url(0), base, &place);
    first.with_role("leader").await;
    drop(first);
    // One of three is not most of them.
    (1..3).for_each(|node| cluster.kill(node));
    let mut second = Coordinator::start_at(&cluster.url(0), base, &place);
    until("it says what it waits for", 60, async || second.service.stderr().contains("waiting for the NATS servers").then_some(())).await;
    cluster.start_node(1).await;
    cluster.leader_of(LOG_STREAM).await;
    second.with_role("leader").await;
}

#[tokio::test]
async fn whichever_of_several_addresses_answers_is_taken() {
    let project = Project::new();
    let base = project.path();
    let nats = Nats::start(&project.file("jetstream")).await;
    // A free port could become the server of another test meanwhile; nobody listens on this one.
    let addresses = format!("nats://127.0.0.1:1,{}", nats.url());
    let place = Place::new(base, "one");
    let mut coordinator = Coordinator::start_at(&addresses, base, &place);
    let api = coordinator.with_role("leader").await;
    let _worker = worker(&addresses, base, &place.store, "worker");
    let marked = Marked::start(&project, &api, 4).await;
    marked.ends_well(&api, &nats.client().await, &place.store).await;
}
