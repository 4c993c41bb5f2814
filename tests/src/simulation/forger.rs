//! Somebody who has a worker's password for one pool and reports about attempts that are not his (I14): of another pool, or under the
//! name of another worker. What he says looks like the truth in everything else.

use causey_engine::TaskRef;
use causey_protocol::codec;
use causey_protocol::id::{Digest, PoolName, RunId, StepName, WorkerName};
use causey_protocol::subject;
use causey_protocol::task::{ErrorInfo, Failure, FailureKind, Outcome, Report, ReportItem, Success};

use super::client::Client;
use super::flows::OTHER_POOL;
use super::world::lock;

/// An attempt that is open.
struct Open {
    run: RunId,
    step: StepName,
    task: TaskRef,
    attempt: u32,
    pool: PoolName,
    next: Vec<StepName>,
}

fn pool(name: &str) -> PoolName {
    name.parse().expect("a pool name")
}

fn worker(name: &str) -> WorkerName {
    name.parse().expect("a worker name")
}

/// Reports about all attempts that are open now.
pub(crate) async fn forge(client: &Client) {
    for open in open(client) {
        let foreign = pool(if open.pool.as_str() == OTHER_POOL { "default" } else { OTHER_POOL });
        let (of, by) = (open.pool.clone(), worker("nobody"));
        // The pool and worker of the subject, and those of the body.
        let (at, said) = match client.draw(|chance| chance.u32(..3)) {
            0 => ((foreign.clone(), by.clone()), (foreign, by)),
            1 => ((foreign, by.clone()), (of, by)),
            _ => ((of.clone(), by), (of, worker("worker-0"))),
        };
        let outcome = outcome(client, open.next);
        let Open { run, step, task, attempt, .. } = Open { next: Vec::new(), ..open };
        let item = ReportItem { run, step, path: task.path, visit: task.visit, attempt, outcome };
        let report = Report { pool: said.0, worker: said.1, items: vec![item] };
        client.store(subject::report(&at.0, &at.1), codec::encode(&report)).await;
    }
}

fn open(client: &Client) -> Vec<Open> {
    let judge = lock(&client.node.world.judge);
    let state = judge.state();
    let mut found = Vec::new();
    for run in state.live_runs() {
        let Some(flow) = state.flow_of(run) else { continue };
        for (task, known) in run.unfinished().filter(|(_, known)| known.state.is_open()) {
            let Some(dispatch) = run.dispatch_of(&task, known) else { continue };
            let step = flow.step(task.step);
            let (next, pool) = (step.next.targets().into_iter().take(1).cloned().collect(), dispatch.pool.clone());
            found.push(Open { run: run.id(), step: step.name.clone(), attempt: known.attempt, task, pool, next });
        }
    }
    found
}

fn outcome(client: &Client, next: Vec<StepName>) -> Outcome {
    let now = client.node.now();
    match client.draw(|chance| chance.u32(..3)) {
        0 => Outcome::Started { at: now },
        1 => Outcome::Succeeded(Success {
            digest: Digest::of(b"forged"),
            bytes: 6,
            next,
            foreach: None,
            publications: Vec::new(),
            children: Vec::new(),
            started: now,
            ended: now,
            content: None,
        }),
        _ => {
            let error = Box::new(ErrorInfo { kind: "Forged".into(), message: "not true".into(), ..ErrorInfo::default() });
            Outcome::Failed(Failure { kind: FailureKind::Permanent, error, digest: None, bytes: 0, started: now, ended: now })
        }
    }
}
