//! `causey dev` and its parts, from outside: addresses, process ids, crashes.

use std::path::PathBuf;
use std::process::{Command, ExitStatus};

use serde_json::Value;

use crate::api::Api;
use crate::process::{self, Signal};
use crate::project::Project;
use crate::service::Service;
use crate::wait::until;

/// A part of the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Nats,
    Coordinator,
    Worker,
}

impl Role {
    /// The file in the state folder that says which process it is.
    fn note(self) -> &'static str {
        match self {
            Self::Nats => "nats-server.pid",
            Self::Coordinator => "coordinator.pid",
            Self::Worker => "worker.pid",
        }
    }
}

/// A running `causey dev`. Dropping it kills it; its parts stop when it is gone.
#[derive(Debug)]
pub struct Stack {
    service: Service,
    state: PathBuf,
    pub api: Api,
}

impl Stack {
    /// Starts `causey dev` in the project and waits until its worker can take tasks.
    ///
    /// # Panics
    /// When it does not come up.
    pub async fn start(project: &Project) -> Self {
        Self::start_with(project, &[]).await
    }

    /// Starts it with further options.
    ///
    /// # Panics
    /// When it does not come up.
    pub async fn start_with(project: &Project, options: &[&str]) -> Self {
        let mut command: Command = project.causey().into_std();
        command.args(["dev", "--random-ports", "--json"]).args(options);
        let mut service = Service::start(command, &project.file("dev"));
        let url = until("the start of causey dev", 60, async || {
            assert_eq!(service.ended(), None, "causey dev ended: {}{}", service.stderr(), project.logs());
            let said = service.stdout();
            let lines = said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            lines.filter(|line| line["event"] == "listening").find_map(|line| Some(line["url"].as_str()?.to_owned()))
        })
        .await;
        let token = std::fs::read_to_string(project.state().join("token")).expect("the stack has a token");
        let stack = Self { service, state: project.state(), api: Api::new(&url, token.trim()) };
        stack.has_worker().await;
        stack
    }

    /// Waits until a worker has said hello.
    ///
    /// # Panics
    /// When none does.
    pub async fn has_worker(&self) {
        let hello =
            async || self.api.try_get("/v1/status").await.filter(|status| status["workers"].as_array().is_some_and(|all| !all.is_empty()));
        until("a worker", 30, hello).await;
    }

    /// The process that is this part now.
    #[must_use]
    pub fn pid(&self, role: Role) -> Option<u32> {
        let note = std::fs::read_to_string(self.state.join(role.note())).ok()?;
        let pid = note.split_whitespace().next()?.parse().ok()?;
        process::is_alive(pid).then_some(pid)
    }

    /// Kills a part with SIGKILL and waits until another process has taken its place.
    ///
    /// # Panics
    /// When it is not there or does not come back.
    pub async fn crash(&self, role: Role) {
        let before = until("the part to be killed", 20, async || self.pid(role)).await;
        process::signal(before, Signal::KILL);
        until("the part to come back", 30, async || self.pid(role).filter(|now| *now != before)).await;
        if role == Role::Coordinator {
            until("the coordinator to listen again", 30, async || self.api.try_get("/v1/status").await).await;
        }
    }

    /// What the supervisor has said, as JSON lines.
    #[must_use]
    pub fn said(&self) -> Vec<Value> {
        self.service.stdout().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// A connection to the stack's NATS server, with the password from its configuration.
    ///
    /// # Panics
    /// When it cannot be reached.
    pub async fn nats(&self) -> async_nats::Client {
        let text = std::fs::read_to_string(self.state.join("nats/nats.conf")).expect("the server has a configuration");
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.trim().strip_prefix(name)).unwrap_or_else(|| panic!("{name} in {text}"));
            line.trim().trim_matches('"').to_owned()
        };
        let options = async_nats::ConnectOptions::new().user_and_password(value("user:"), value("password:"));
        options.connect(value("listen:")).await.expect("nats-server takes connections")
    }

    /// Its artifact store.
    #[must_use]
    pub fn store(&self) -> PathBuf {
        self.state.join("store")
    }

    /// Asks it to stop and waits until it has.
    ///
    /// # Panics
    /// When it does not stop.
    pub async fn stop(mut self) -> ExitStatus {
        self.service.stop(40).await
    }

    #[must_use]
    pub fn process(&self) -> u32 {
        self.service.pid()
    }
}
