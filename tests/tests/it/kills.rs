//! Workers that are killed at any moment under load, and one that acknowledges what is not its own.

use std::path::Path;

use causey_protocol::record::Record;
use causey_tests::service::{Place, worker_command, worker_with};
use causey_tests::wait::until_true;
use causey_tests::{Coordinator, Nats, Project, Service, process, until};

use crate::cancel::running;
use crate::marked::Marked;
use crate::network::in_production;

const KILLS: usize = 20;
const ITEMS: u32 = 1_000;
const ACK_WAIT: &str = "--ack-wait-seconds=2";

fn killable(nats: &Nats, base: &Path, store: &Path, name: &str) -> Service {
    let mut command = worker_command(&nats.url(), base, store, name);
    command.arg(ACK_WAIT);
    Service::start(command, &base.join(name))
}

/// Row 1 of the fault model.
#[tokio::test]
async fn row_1_twenty_workers_killed_at_any_moment_of_a_thousand_tasks_lose_and_double_nothing() {
    let project = Project::new();
    let base = project.path();
    let nats = Nats::start(&project.file("jetstream")).await;
    let place = Place { options: vec![ACK_WAIT.into()], ..Place::new(base, "one") };
    let (_coordinator, api) = Coordinator::leading(&nats, base, &place).await;
    let names = ["left", "right"];
    let mut workers = names.map(|name| killable(&nats, base, &place.store, name));
    let marked = Marked::start_with(&project, &api, ITEMS, 0.0).await;
    for kill in 0..KILLS {
        // A moment that no step of the worker is tied to: some number of tasks on, with others anywhere between queue and report.
        marked.come_to(kill * 45 + (kill * 7 + 3) % 11).await;
        let killed = kill % workers.len();
        workers[killed].kill();
        workers[killed] = killable(&nats, base, &place.store, names[killed]);
    }
    let history = marked.ends_well(&api, &nats.client().await, &place.store).await;
    let charged = history.records().filter(|(_, record)| matches!(record, Record::AttemptsOpened { retry: 1.., .. }));
    assert_eq!(charged.count(), 0, "no attempt of a killed worker is charged");
}

/// Row 41 of the fault model.
#[tokio::test]
async fn row_41_tasks_that_another_worker_of_the_pool_acknowledged_run_all_the_same() {
    let project = Project::new();
    let (nats, _coordinator, mut holder, api) = in_production(&project, None, &[ACK_WAIT]).await;
    let marked = Marked::start_with(&project, &api, 2, 6.0).await;
    until_true("two tasks run", 30, || running(&marked.marks).len() == 2).await;
    let forger = nats.client_for("worker-default-one", "secret").await;
    let reader = nats.client_for("coordinator", "secret").await;
    let queue = async_nats::jetstream::new(reader.clone());
    until("the queue has forgotten its tasks", 20, async || {
        for sequence in 1..=32 {
            forger.publish(format!("$JS.ACK.CAUSEY_TASK.default.1.{sequence}.{sequence}.0.0"), "+ACK".into()).await.unwrap();
        }
        forger.flush().await.unwrap();
        let stream = queue.get_stream("CAUSEY_TASK").await.ok()?;
        (stream.cached_info().state.messages == 0).then_some(())
    })
    .await;
    // Nobody delivers again what is not queued any more: the coordinator must do it.
    let hosts = running(&marked.marks);
    holder.kill();
    until_true("what ran has ended with its worker", 20, || hosts.iter().all(|pid| !process::is_alive(*pid))).await;
    let store = project.file("store");
    let _next = worker_with(&nats.url_for("worker-default-one", "secret"), project.path(), &store, "one", &[ACK_WAIT]);
    marked.ends_well(&api, &reader, &store).await;
}
