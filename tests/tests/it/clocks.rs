//! Clocks that are wrong, on real processes of a debug build, which have a place where a test puts their wall clocks wrong.

use std::path::PathBuf;

use causey_protocol::record::Record;
use causey_tests::service::{Place, worker_command};
use causey_tests::{Coordinator, Nats, Project, Service};

use crate::marked::Marked;

/// The files in which the clocks of coordinator and worker are put wrong.
struct Clocks {
    coordinator: PathBuf,
    worker: PathBuf,
}

impl Clocks {
    fn new(project: &Project) -> Self {
        Self { coordinator: project.file("clock-coordinator"), worker: project.file("clock-worker") }
    }

    /// Puts them wrong by so many seconds, each at once.
    fn put(&self, coordinator: i64, worker: i64) {
        for (file, seconds) in [(&self.coordinator, coordinator), (&self.worker, worker)] {
            let fresh = file.with_extension("new");
            std::fs::write(&fresh, seconds.to_string()).unwrap();
            std::fs::rename(&fresh, file).unwrap();
        }
    }
}

#[tokio::test]
async fn row_23_clocks_that_jump_by_an_hour_cost_neither_leadership_nor_attempts() {
    let project = Project::new();
    let base = project.path();
    let clocks = Clocks::new(&project);
    let nats = Nats::start(&project.file("jetstream")).await;
    let place = Place { options: vec!["--ack-wait-seconds=2".into()], ..Place::new(base, "one") };
    let mut command = Coordinator::command(&nats.url(), base, &place);
    command.env("CAUSEY_CLOCK_WRONG_BY", &clocks.coordinator);
    let mut coordinator = Coordinator::start_as(command, base, &place);
    let api = coordinator.with_role("leader").await;
    let mut command = worker_command(&nats.url(), base, &place.store, "local");
    command.arg("--ack-wait-seconds=2").env("CAUSEY_CLOCK_WRONG_BY", &clocks.worker);
    let worker = Service::start(command, &base.join("local"));
    let marked = Marked::start(&project, &api, 60).await;
    let jumps = [(3_600, 0), (0, 3_600), (-3_600, 3_600), (3_600, -3_600), (0, 0)];
    for (round, (leader, follower)) in (1..).zip(jumps) {
        marked.come_to(round * 10).await;
        clocks.put(leader, follower);
    }
    let history = marked.ends_well(&api, &nats.client().await, &place.store).await;
    let lost = history.records().filter(|(_, record)| matches!(record, Record::AttemptFailed { .. })).count();
    assert_eq!((history.state().epoch, lost), (1, 0), "{}{}", coordinator.service.stderr(), worker.stderr());
    let times: Vec<_> = history.entries.iter().map(|entry| entry.turn.at).collect();
    assert!(times.is_sorted(), "the log's time goes back");
    assert!(times.last().zip(times.first()).is_some_and(|(last, first)| last.micros_since(*first) > 3_500_000_000), "no clock jumped");
}
