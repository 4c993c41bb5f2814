//! Keeps one process of the stack alive: starts it, and when it dies starts it again after a growing wait, on the same ports and
//! folders. A process that never lives long enough is given up with the last words of its log.

use std::sync::Arc;
use std::time::{Duration, Instant};

use causey_protocol::backoff::Delays;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::ChildStdout;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::client::Client;
use crate::exit::Exit;
use crate::fault::{self, Fault};
use crate::stack::Notice;
use crate::stack::child::{Asking, Owned, last_lines};
use crate::stack::plan::{Kind, POOL, Plan, Role, WORKER};
use crate::stack::process::{self, ending};

/// A life shorter than this counts as a failed start.
const SHORT_LIFE: Duration = Duration::from_secs(2);

/// Failed starts in a row after which a process is given up.
const FAILED_STARTS_MAX: u32 = 3;

/// How long to try to tell the coordinator of a dead worker; longer, and its tasks come back by their ack wait as fast.
const LOST: Duration = Duration::from_secs(3);

/// What the keepers of one stack share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) plan: Plan,
    /// The API's address once it answers.
    pub(super) url: watch::Sender<Option<String>>,
    /// Why the stack has given up.
    pub(super) failure: watch::Sender<Option<Fault>>,
    pub(super) kill: CancellationToken,
    pub(super) tell: mpsc::Sender<Notice>,
}

/// The keeper of one process.
#[derive(Debug)]
pub(super) struct Keeper {
    role: Role,
    shared: Arc<Shared>,
    stop: CancellationToken,
    delays: Delays,
    failed_starts: u32,
    /// Whether it ever stayed up: only then is its death an accident that another start can mend.
    proven: bool,
}

impl Keeper {
    pub(super) fn new(role: Role, shared: Arc<Shared>, stop: CancellationToken) -> Self {
        Self {
            role,
            shared,
            stop,
            delays: Delays::new(Duration::from_millis(100), Duration::from_secs(5)),
            failed_starts: 0,
            proven: false,
        }
    }

    /// Runs until it is told to stop or gives up.
    pub(super) async fn run(mut self) {
        let mut again = false;
        loop {
            let begun = Instant::now();
            let how = match self.start() {
                Ok(mut process) => {
                    if again {
                        self.notice(Notice::Restarted { role: self.role });
                    }
                    tokio::select! {
                        ended = process.ended() => ended.map_or_else(|error| error.to_string(), ending),
                        () = self.stop.cancelled() => {
                            self.end(process).await;
                            return;
                        }
                    }
                }
                Err(error) => format!("cannot be started: {error}"),
            };
            if self.role == Role::Nats {
                // The guard may have been killed and left its server behind, which would hold the port and the store.
                process::reap(&self.shared.plan.nats_note());
            }
            again = true;
            if !self.survive(&how, begun.elapsed()).await {
                return;
            }
        }
    }

    fn start(&self) -> std::io::Result<Owned> {
        let plan = &self.shared.plan;
        let known = self.shared.url.borrow().as_deref().and_then(port_of);
        let listen = self.role == Role::Coordinator;
        let (process, stdout) = Owned::start(plan.command(self.role, known), &plan.log(self.role), &plan.note(self.role), listen)?;
        if let Some(stdout) = stdout {
            tokio::spawn(read_address(stdout, Arc::clone(&self.shared)));
        }
        Ok(process)
    }

    async fn end(&self, process: Owned) {
        let seconds = match (self.role, self.shared.plan.kind) {
            (Role::Worker, Kind::Dev) => 15,
            (Role::Coordinator, _) | (Role::Worker, Kind::Private) => 5,
            // One second more than the guard gives its server.
            (Role::Nats, _) => 4,
        };
        let grace = Duration::from_secs(seconds);
        if self.role != Role::Nats {
            return process.stop(Asking::Signal, grace, &self.shared.kill).await;
        }
        // To kill, the server is killed and not its guard, which then collects it: a killed guard would leave that to the kernel.
        let patient = CancellationToken::new();
        let mut stopping = std::pin::pin!(process.stop(Asking::Leash, grace, &patient));
        tokio::select! {
            () = &mut stopping => {}
            () = self.shared.kill.cancelled() => {
                process::reap(&self.shared.plan.nats_note());
                stopping.await;
            }
        }
        process::reap(&self.shared.plan.nats_note());
    }

    /// Waits before the next start. False when there is to be none.
    async fn survive(&mut self, how: &str, lived: Duration) -> bool {
        self.failed_starts = if lived < SHORT_LIFE { self.failed_starts + 1 } else { 0 };
        if self.failed_starts == 0 {
            self.delays.reset();
        }
        let was_up = self.shared.url.borrow().is_some();
        self.proven |= lived >= SHORT_LIFE;
        let patient = self.shared.plan.kind == Kind::Dev && was_up && self.proven;
        if self.failed_starts >= FAILED_STARTS_MAX && !patient {
            self.give_up(how);
            return false;
        }
        let again_in = self.delays.next_delay();
        let log = self.shared.plan.log(self.role).display().to_string();
        self.notice(Notice::Died { role: self.role, how: how.to_owned(), again_in, log });
        let waited = async {
            // Told before the next one starts: said later, it would cost that one's tasks their attempt.
            if self.role == Role::Worker && was_up && self.report_lost().await {
                self.notice(Notice::Lost);
            }
            tokio::time::sleep(again_in).await;
        };
        tokio::select! {
            () = waited => true,
            () = self.stop.cancelled() => false,
        }
    }

    async fn report_lost(&self) -> bool {
        let url = self.shared.url.borrow().clone();
        let Some(client) = url.and_then(|url| Client::new(&url, &self.shared.plan.token).ok()) else { return false };
        let begun = Instant::now();
        while begun.elapsed() < LOST {
            if client.report_lost(POOL, WORKER, LOST).await {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        false
    }

    fn give_up(&self, how: &str) {
        let log = self.shared.plan.log(self.role);
        let mut fault = Fault::new(Exit::Unreachable, fault::STACK, format!("{} does not start: it {how}", self.role.name()));
        fault.details = last_lines(&log, 8);
        self.shared.failure.send_replace(Some(fault.hint(format!("see {}; causey doctor checks what it needs", log.display()))));
    }

    fn notice(&self, notice: Notice) {
        // Full means nobody reads; notices only inform.
        let _ = self.shared.tell.try_send(notice);
    }
}

/// Waits for the coordinator's word that it listens, then keeps its output flowing into nothing: a full pipe would stop it.
async fn read_address(stdout: ChildStdout, shared: Arc<Shared>) {
    let mut lines = BufReader::new(stdout).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if let Some(url) = line.strip_prefix("listening ") {
            shared.url.send_replace(Some(url.trim().trim_end_matches('/').to_owned()));
        }
    }
}

pub(super) fn port_of(url: &str) -> Option<u16> {
    url.rsplit(':').next()?.trim_end_matches('/').parse().ok()
}
