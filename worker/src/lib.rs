//! A worker: pulls dispatches of its pool, runs them in hosts, stores what they leave and reports. What it knows by itself it may
//! lose at any time: the queue delivers again, the store keeps the first result of each attempt, the coordinator decides.
//!
//! `life` goes from the first hello to the last word; `worker` is the loop; `pull`, `slots`, `capacity`, `held` and `lease` are its bookkeeping; `attempt` runs one task with `hosts`, `template`,
//! `host` and `connection` (processes), `confine`, `family` and `orphans` (what they may do and leave behind), `pressure`, `limits`, `cgroup` and `watchdog` (what they booked), `executable` (the host of commands), `package`, `environment`, `depot`, `cache` and `space` (files), `output`, `result`, `secret` and `mask`; `report`, `leader`,
//! `presence` and `live` speak to the rest of Causey.

mod attempt;
pub mod bench;
mod cache;
mod capacity;
mod cgroup;
pub mod config;
pub mod confine;
mod connection;
pub mod decoders;
mod depot;
mod environment;
pub mod equipment;
pub mod executable;
mod family;
mod frame;
mod gang;
mod gpu;
mod held;
mod host;
mod hosts;
mod inputs;
mod leader;
mod lease;
mod leftover;
pub mod life;
mod limits;
mod live;
mod mask;
pub mod nats;
mod orphans;
mod output;
pub mod outside;
mod package;
mod place;
mod presence;
mod pressure;
mod process;
mod pull;
mod python;
mod report;
mod result;
mod secret;
mod slots;
mod space;
mod start;
mod status;
mod template;
pub mod uv;
mod watchdog;
mod worker;

pub use attempt::Job;
pub use gang::{Gangs, Member};
pub use leader::Leader;
pub use report::{Confirm, Reports};
pub use result::stored_outcome;
pub use worker::Event;

use tokio_util::sync::CancellationToken;

/// Runs a worker until `shutdown`; then drains.
///
/// # Errors
/// When it cannot start: no store, no writable folder, no thread; the text says which and how to mend it. A NATS server or a
/// coordinator that is not there is waited for.
pub async fn run(config: config::Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    let (done, outcome) = tokio::sync::oneshot::channel();
    let thread = std::thread::Builder::new().name("causey-worker".into());
    thread.spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let outcome = runtime.map_err(anyhow::Error::from).and_then(|runtime| {
            let outcome = runtime.block_on(start::run(config, shutdown));
            // Tasks that still wait for something are dropped, file work under way is not waited for.
            runtime.shutdown_background();
            orphans::end_all();
            outcome
        });
        let _ = done.send(outcome);
    })?;
    outcome.await.unwrap_or_else(|_| Err(anyhow::anyhow!("the worker's thread died; this is a bug in Causey")))
}
