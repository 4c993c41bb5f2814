//! How long nobody decides after the leader is gone: from the moment it goes until a request that its standby took at that moment
//! is decided by the standby. Everything the leader was is lost; the standby has followed the log.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::ensure;
use causey_tests::process::{self, Signal};
use causey_tests::service::Place;
use causey_tests::{Api, Coordinator, Nats};
use serde_json::json;

use crate::stats::Samples;
use crate::table::Row;

const KILLS: usize = 50;
const HAND_OVERS: usize = 20;

/// How a leader goes.
#[derive(Clone, Copy)]
enum End {
    /// It falls silent, as when its machine is gone: only the time limit of its key tells. (It is killed after the takeover.)
    Vanishes,
    /// kill -9 on the standby's machine.
    Killed,
    /// SIGTERM.
    Stopped,
}

/// Two coordinators, of which the second stands by.
struct Pair<'a> {
    nats: &'a Nats,
    folder: &'a Path,
    leader: (Coordinator, &'static str),
    standby: (Coordinator, &'static str),
    api: Api,
}

impl<'a> Pair<'a> {
    async fn start(nats: &'a Nats, folder: &'a Path) -> Self {
        let (leader, _) = Coordinator::leading(nats, folder, &Place::new(folder, "one")).await;
        let mut standby = Coordinator::start(nats, folder, &Place::new(folder, "two"));
        let api = standby.with_role("standby").await;
        Self { nats, folder, leader: (leader, "one"), standby: (standby, "two"), api }
    }

    /// Ends the leader and starts it again as the standby; gives the milliseconds in which nothing was decided.
    async fn turn_over(&mut self, end: End, number: usize) -> anyhow::Result<f64> {
        // At another moment between two renewals of the key each time.
        if matches!(end, End::Vanishes) {
            tokio::time::sleep(Duration::from_millis(number as u64 * 371 % 1_000)).await;
        }
        let pid = self.leader.0.service.pid();
        let begun = Instant::now();
        process::signal(
            pid,
            match end {
                End::Vanishes => Signal::STOP,
                End::Killed => Signal::KILL,
                End::Stopped => Signal::TERM,
            },
        );
        let request = json!({"request_id": format!("takeover-{number}")});
        let reply = self.api.post("/v1/workers/bench/nobody/lost", &request).await;
        let millis = begun.elapsed().as_secs_f64() * 1_000.0;
        ensure!(reply.status.as_u16() == 202, "the standby did not take over: {reply:?}");
        self.leader.0.service.kill();
        let name = self.leader.1;
        let mut back = Coordinator::start(self.nats, self.folder, &Place::new(self.folder, name));
        let api = back.with_role("standby").await;
        self.leader = std::mem::replace(&mut self.standby, (back, name));
        self.api = api;
        Ok(millis)
    }
}

pub(crate) async fn measure(folder: &Path) -> anyhow::Result<Vec<Row>> {
    std::fs::create_dir_all(folder)?;
    let nats = Nats::start(&folder.join("jetstream")).await;
    let mut pair = Pair::start(&nats, folder).await;
    let mut rows = Vec::new();
    let mut number = 0;
    let ends = [
        (End::Vanishes, KILLS, "takeover after the leader vanished"),
        (End::Killed, KILLS, "takeover after kill -9 on the same machine"),
        (End::Stopped, HAND_OVERS, "hand-over by a leader that is asked to stop"),
    ];
    for (end, count, name) in ends {
        let mut samples = Samples::default();
        for _ in 0..count {
            number += 1;
            samples.push(pair.turn_over(end, number).await?);
        }
        let spread = samples.spread();
        rows.push(Row::less("takeover", format!("{name}, median"), "ms", spread.median).spread(spread).gate(5_000.0).goal(3_000.0));
        rows.push(Row::less("takeover", format!("{name}, worst"), "ms", spread.max).gate(5_000.0).goal(3_000.0));
    }
    Ok(rows)
}
