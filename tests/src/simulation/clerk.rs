//! Whoever answers runs that wait for somebody: sends the signals that they wait for and decides about their approvals, in his own time,
//! sometimes twice, and not where he may leave it.

use std::collections::BTreeSet;
use std::time::Duration;

use causey_protocol::gate::{Awaited, Gate};
use causey_protocol::id::{RunId, StepName};
use causey_protocol::input::Request;
use serde_json::json;

use super::client::Client;
use super::world::lock;

/// How often he looks.
const PERIOD: Duration = Duration::from_millis(700);

/// What he has answered, or leaves.
type Seen = BTreeSet<(RunId, StepName, Gate)>;

/// Answers for ever.
pub(crate) async fn answer(mut client: Client) {
    let mut seen = Seen::new();
    loop {
        tokio::time::sleep(PERIOD).await;
        for (run, step, Awaited { gate, until }) in waiting(&client) {
            if !seen.insert((run, step.clone(), gate.clone())) || (until.is_some() && client.draw(fastrand::Rng::bool)) {
                continue;
            }
            client.pause(3_000).await;
            let Some(request) = request(&client, run, step, gate) else { continue };
            if client.draw(|chance| chance.u32(..6) == 0) {
                client.request(request.clone()).await;
            }
            client.request(request).await;
        }
    }
}

fn waiting(client: &Client) -> Vec<(RunId, StepName, Awaited)> {
    let judge = lock(&client.node.world.judge);
    let state = judge.state();
    let mut found = Vec::new();
    for run in state.live_runs() {
        let Some(flow) = state.flow_of(run) else { continue };
        for (first, gated) in run.gated() {
            found.extend(gated.awaits.iter().map(|awaited| (run.id(), flow.step(first.step).name.clone(), awaited.clone())));
        }
    }
    found
}

/// What ends the wait; nobody can do that for a run.
fn request(client: &Client, run: RunId, step: StepName, gate: Gate) -> Option<Request> {
    match gate {
        Gate::Signal { name } => Some(Request::Signal { run, name, data: json!({"answer": client.draw(fastrand::Rng::bool)}) }),
        Gate::Approval => {
            let approved = client.draw(|chance| chance.u32(..4) > 0);
            Some(Request::Approve { run, step, approved, because: "looked at it".into() })
        }
        Gate::Child { .. } => None,
    }
}
