//! The local stack: nats-server, coordinator and worker as separate processes, started at once, restarted when they die, stopped in
//! order. `causey dev` runs one in the foreground; other commands run one for themselves where none is up.

pub(crate) mod child;
pub(crate) mod guard;
mod keeper;
pub(crate) mod lock;
pub(crate) mod nats;
pub(crate) mod plan;
pub(crate) mod process;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::exit::Exit;
use crate::fault::{self, Fault};
use crate::stack::keeper::{Keeper, Shared};
use crate::stack::plan::{Kind, Plan, Role};
use crate::state::Ports;

/// How long the parts of a stack may take to become an API that answers.
const START: Duration = Duration::from_secs(60);

/// Notices waiting to be shown; more are dropped, for they only inform.
const NOTICES_MAX: usize = 64;

/// Something worth telling the person at the terminal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    Died {
        role: Role,
        how: String,
        again_in: Duration,
        log: String,
    },
    Restarted {
        role: Role,
    },
    /// The worker's death was told to the coordinator, so its tasks run again at once.
    Lost,
}

impl Notice {
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Died { role, how, again_in, log } => {
                format!("{} {how}; restarting in {:.1} s (log: {log})", role.name(), again_in.as_secs_f64())
            }
            Self::Restarted { role } => format!("{} restarted", role.name()),
            Self::Lost => "the worker's tasks run again".into(),
        }
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        match self {
            Self::Died { role, how, again_in, log } => {
                serde_json::json!({"event": "died", "process": role.name(), "how": how, "again_in_seconds": again_in.as_secs_f64(), "log": log})
            }
            Self::Restarted { role } => serde_json::json!({"event": "restarted", "process": role.name()}),
            Self::Lost => serde_json::json!({"event": "worker_lost"}),
        }
    }
}

/// A running stack.
#[derive(Debug)]
pub(crate) struct Stack {
    shared: Arc<Shared>,
    nats: Kept,
    coordinator: Kept,
    worker: Kept,
    notices: mpsc::Receiver<Notice>,
}

#[derive(Debug)]
struct Kept {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Kept {
    async fn stop(self) {
        self.stop.cancel();
        // A keeper that panicked has dropped its child's leash; there is nothing more to stop.
        let _ = self.task.await;
    }
}

/// Returns when the stack has given up.
async fn failed(failure: &mut watch::Receiver<Option<Fault>>) -> Fault {
    match failure.wait_for(Option::is_some).await.map(|fault| fault.clone()) {
        Ok(Some(fault)) => fault,
        _ => std::future::pending().await,
    }
}

impl Stack {
    /// Kills what an earlier stack of this folder left behind, then starts all parts at once.
    pub(crate) fn start(plan: Plan) -> Self {
        for role in [Role::Worker, Role::Coordinator, Role::Nats] {
            process::reap(&plan.note(role));
        }
        process::reap(&plan.nats_note());
        let (tell, notices) = mpsc::channel(NOTICES_MAX);
        let shared = Arc::new(Shared {
            plan,
            url: watch::Sender::new(None),
            failure: watch::Sender::new(None),
            kill: CancellationToken::new(),
            tell,
        });
        let keep = |role| {
            let stop = CancellationToken::new();
            let keeper = Keeper::new(role, Arc::clone(&shared), stop.clone());
            Kept { stop, task: tokio::spawn(keeper.run()) }
        };
        Self { nats: keep(Role::Nats), coordinator: keep(Role::Coordinator), worker: keep(Role::Worker), shared, notices }
    }

    /// Waits until the API answers, notes its address and ports in the state folder, and gives the address.
    ///
    /// # Errors
    /// When a part does not start.
    pub(crate) async fn url(&self) -> Result<String, Fault> {
        let mut url = self.shared.url.subscribe();
        let mut failure = self.shared.failure.subscribe();
        let found = tokio::select! {
            found = url.wait_for(Option::is_some) => found.ok().and_then(|url| url.clone()),
            fault = failed(&mut failure) => return Err(fault),
            () = tokio::time::sleep(START) => None,
        };
        let late = || {
            let log = self.shared.plan.log(Role::Coordinator);
            Fault::new(Exit::Unreachable, fault::STACK, format!("the stack is not up after {} s", START.as_secs()))
                .detail(format!("log: {}", log.display()))
        };
        let url = found.ok_or_else(late)?;
        let plan = &self.shared.plan;
        plan.state.note_ports(Ports { nats: Some(plan.settings.port), api: keeper::port_of(&url) })?;
        plan.state.note_url(&url)?;
        Ok(url)
    }

    /// The next notice.
    ///
    /// # Errors
    /// When the stack has given up.
    pub(crate) async fn next(&mut self) -> Result<Notice, Fault> {
        let mut failure = self.shared.failure.subscribe();
        tokio::select! {
            // The sender lives in `shared`, so there is always another notice to wait for.
            Some(notice) = self.notices.recv() => Ok(notice),
            fault = failed(&mut failure) => Err(fault),
        }
    }

    /// Returns when the stack has given up. Independent of the stack's life, so that it can be waited for beside any use of it.
    pub(crate) fn given_up(&self) -> impl Future<Output = Fault> + use<> {
        let mut failure = self.shared.failure.subscribe();
        async move { failed(&mut failure).await }
    }

    pub(crate) fn plan(&self) -> &Plan {
        &self.shared.plan
    }

    /// Set it to kill what does not stop by itself at once.
    pub(crate) fn kill(&self) -> CancellationToken {
        self.shared.kill.clone()
    }

    /// Stops the parts in order: the worker drains and reports, the coordinator writes that down, the server keeps it. A private stack's
    /// run is over, so its worker and coordinator stop side by side.
    pub(crate) async fn stop(self) {
        self.shared.plan.state.forget_url();
        match self.shared.plan.kind {
            Kind::Dev => {
                self.worker.stop().await;
                self.coordinator.stop().await;
            }
            Kind::Private => {
                tokio::join!(self.worker.stop(), self.coordinator.stop());
            }
        }
        self.nats.stop().await;
    }
}
