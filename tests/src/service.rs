//! Single services outside any supervisor: a nats-server, a coordinator. For tests about what one of them does alone.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use crate::api::Api;
use crate::process::{self, Signal};
use crate::tools;
use crate::wait::until;

/// A running program whose output goes to files. Dropping it kills it.
#[derive(Debug)]
pub struct Service {
    child: Child,
    log: PathBuf,
}

impl Service {
    /// Starts `command`; standard output goes to `<log>.out`, standard error to `<log>.err`.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start(mut command: Command, log: &Path) -> Self {
        let open = |end: &str| File::create(log.with_extension(end)).expect("the log can be written");
        let child = command.stdin(Stdio::null()).stdout(open("out")).stderr(open("err")).spawn().expect("the program can be started");
        Self { child, log: log.to_owned() }
    }

    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    #[must_use]
    pub fn stdout(&self) -> String {
        std::fs::read_to_string(self.log.with_extension("out")).unwrap_or_default()
    }

    #[must_use]
    pub fn stderr(&self) -> String {
        std::fs::read_to_string(self.log.with_extension("err")).unwrap_or_default()
    }

    /// How it ended; `None` while it runs.
    ///
    /// # Panics
    /// When the kernel does not say.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("the kernel knows its children")
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it still runs after `seconds`.
    pub async fn wait(&mut self, seconds: u64) -> ExitStatus {
        let what = format!("the end of process {} ({})", self.pid(), self.log.display());
        until(&what, seconds, async || self.ended()).await
    }

    /// Asks it to stop and waits for its end.
    ///
    /// # Panics
    /// When it does not stop within `seconds`.
    pub async fn stop(&mut self, seconds: u64) -> ExitStatus {
        process::signal(self.pid(), Signal::TERM);
        self.wait(seconds).await
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Starts a nats-server and waits until it listens on all its ports. One of them can be taken by somebody's outgoing connection
/// between choosing and using it, so a failed start is tried again.
pub(crate) async fn listening(start: impl Fn() -> Service, ports: &[u16]) -> Service {
    for _ in 0..20 {
        let service = start();
        let taken = || service.stderr().contains("address already in use");
        let connected = || ports.iter().all(|port| std::net::TcpStream::connect(("127.0.0.1", *port)).is_ok());
        let up = until("nats-server", 20, async || if taken() { Some(false) } else { connected().then_some(true) }).await;
        if up {
            return service;
        }
    }
    panic!("one of the ports {ports:?} stays in use");
}

/// A nats-server with JetStream on its own port and folder.
#[derive(Debug)]
pub struct Nats {
    service: Service,
    pub port: u16,
    pub folder: PathBuf,
    config: Option<Config>,
}

/// What a server is told beyond address and folder.
#[derive(Clone, Debug)]
pub struct Config {
    pub file: PathBuf,
    /// Variables that the file names.
    pub variables: Vec<(String, String)>,
}

impl Nats {
    /// Starts a server whose JetStream data lie in `folder`, and waits until it takes connections.
    ///
    /// # Panics
    /// When it does not come up.
    pub async fn start(folder: &Path) -> Self {
        Self::start_at(folder, tools::free_port(), None).await
    }

    /// Starts one with a configuration of its own.
    ///
    /// # Panics
    /// When it does not come up.
    pub async fn configured(folder: &Path, config: Config) -> Self {
        Self::start_at(folder, tools::free_port(), Some(config)).await
    }

    async fn start_at(folder: &Path, port: u16, config: Option<Config>) -> Self {
        let start = || {
            let mut command = Command::new(tools::nats_server());
            command.args(["--addr", "127.0.0.1", "--port", &port.to_string(), "--jetstream", "--store_dir"]).arg(folder);
            if let Some(Config { file, variables }) = &config {
                command.arg("--config").arg(file).envs(variables.iter().cloned());
            }
            Service::start(command, &folder.with_extension("nats"))
        };
        Self { service: listening(start, &[port]).await, port, folder: folder.to_owned(), config }
    }

    /// Starts it again on the same port and folder.
    ///
    /// # Panics
    /// When it does not come up.
    pub async fn again(mut self) -> Self {
        self.service.kill();
        Self::start_at(&self.folder.clone(), self.port, self.config.take()).await
    }

    /// Stops it in good order and starts it again with whatever `between` has left of its folder.
    ///
    /// # Panics
    /// When it does not come up.
    pub async fn changed(mut self, between: impl FnOnce(&Path)) -> Self {
        self.service.stop(20).await;
        between(&self.folder);
        Self::start_at(&self.folder.clone(), self.port, self.config.take()).await
    }

    #[must_use]
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// # Panics
    /// When it cannot be reached.
    pub async fn client(&self) -> async_nats::Client {
        async_nats::connect(self.url()).await.expect("nats-server takes connections")
    }

    /// Its address for a user.
    #[must_use]
    pub fn url_for(&self, user: &str, password: &str) -> String {
        format!("nats://{user}:{password}@127.0.0.1:{}", self.port)
    }

    /// A connection of a user with a private inbox. Calls that nobody answers fail soon.
    ///
    /// # Panics
    /// When it cannot be reached.
    pub async fn client_for(&self, user: &str, password: &str) -> async_nats::Client {
        let options = async_nats::ConnectOptions::new().user_and_password(user.into(), password.into());
        let options = options.custom_inbox_prefix(format!("_INBOX_{user}")).request_timeout(Some(std::time::Duration::from_secs(2)));
        options.connect(self.url()).await.expect("nats-server takes connections")
    }
}

/// The token of every coordinator started here.
pub const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// A coordinator on somebody's streams.
#[derive(Debug)]
pub struct Coordinator {
    pub service: Service,
    token: String,
}

/// Where a coordinator keeps its things.
#[derive(Clone, Debug)]
pub struct Place {
    pub name: String,
    pub store: PathBuf,
    pub projection: PathBuf,
    /// Port of the API; 0 for any.
    pub port: u16,
    /// Further options.
    pub options: Vec<String>,
}

impl Place {
    /// The usual folders below `base`.
    #[must_use]
    pub fn new(base: &Path, name: &str) -> Self {
        Self {
            name: name.into(),
            store: base.join("store"),
            projection: base.join(format!("projection-{name}")),
            port: 0,
            options: Vec::new(),
        }
    }
}

impl Coordinator {
    /// Starts one; it may still be on its way up, or on its way to an error.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start(nats: &Nats, base: &Path, place: &Place) -> Self {
        Self::start_at(&nats.url(), base, place)
    }

    /// Starts one that reaches the server under another address.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start_at(nats_url: &str, base: &Path, place: &Place) -> Self {
        Self::start_as(Self::command(nats_url, base, place), base, place)
    }

    /// Starts what [`Coordinator::command`] gave, with whatever was added to it.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start_as(command: Command, base: &Path, place: &Place) -> Self {
        Self { service: Service::start(command, &base.join(&place.name)), token: TOKEN.into() }
    }

    /// What [`Coordinator::start_at`] starts.
    ///
    /// # Panics
    /// When its token cannot be written.
    #[must_use]
    pub fn command(nats_url: &str, base: &Path, place: &Place) -> Command {
        std::fs::create_dir_all(base).expect("a folder");
        std::fs::write(base.join("token"), TOKEN).expect("the token can be written");
        let mut command = Command::new(tools::causey());
        command.args(["coordinator", "--unsafe-durability", "--name", &place.name, "--listen", &format!("127.0.0.1:{}", place.port)]);
        command.args(&place.options);
        if !place.options.iter().any(|option| option.starts_with("--stream-bytes-max")) {
            // The server reserves caps; this machine's disk may be small.
            command.arg("--stream-bytes-max=-1");
        }
        command.arg("--nats-url").arg(nats_url).arg("--store").arg(&place.store).arg("--projection").arg(&place.projection);
        command.arg("--token-file").arg(base.join("token")).env("NO_COLOR", "1").env_remove("RUST_LOG");
        command
    }

    /// Starts one and waits until it leads.
    ///
    /// # Panics
    /// When it does not come to lead.
    pub async fn leading(nats: &Nats, base: &Path, place: &Place) -> (Self, Api) {
        let mut coordinator = Self::start(nats, base, place);
        let api = coordinator.with_role("leader").await;
        (coordinator, api)
    }

    /// Its API, as soon as it listens.
    ///
    /// # Panics
    /// When it does not listen.
    pub async fn api(&mut self) -> Api {
        let service = &mut self.service;
        let url = until("the coordinator listens", 30, async || {
            assert_eq!(service.ended(), None, "the coordinator ended: {}", service.stderr());
            service.stdout().lines().find_map(|line| line.strip_prefix("listening ").map(str::to_owned))
        })
        .await;
        Api::new(&url, &self.token)
    }

    /// Its API, once it says that it has this role.
    ///
    /// # Panics
    /// When it does not come to it.
    pub async fn with_role(&mut self, role: &str) -> Api {
        let api = self.api().await;
        until(&format!("a coordinator is {role}"), 30, async || {
            assert_eq!(self.service.ended(), None, "the coordinator ended: {}", self.service.stderr());
            api.try_get("/v1/status").await.filter(|status| status["role"] == role)
        })
        .await;
        api
    }

    /// Waits for its end and gives its last words.
    ///
    /// # Panics
    /// When it goes on.
    pub async fn last_words(&mut self) -> (Option<i32>, String) {
        let status = self.service.wait(30).await;
        (status.code(), self.service.stderr())
    }
}

/// Starts a worker of two slots in the pool `default`; it may still be on its way up.
///
/// # Panics
/// When it cannot be started.
#[must_use]
pub fn worker(nats_url: &str, base: &Path, store: &Path, name: &str) -> Service {
    worker_with(nats_url, base, store, name, &[])
}

/// Starts such a worker with further options.
///
/// # Panics
/// When it cannot be started.
#[must_use]
pub fn worker_with(nats_url: &str, base: &Path, store: &Path, name: &str, options: &[&str]) -> Service {
    let mut command = worker_command(nats_url, base, store, name);
    command.args(options);
    Service::start(command, &base.join(name))
}

/// What [`worker`] starts.
#[must_use]
pub fn worker_command(nats_url: &str, base: &Path, store: &Path, name: &str) -> Command {
    let mut command = Command::new(tools::causey());
    command.args(["worker", "--unsafe-durability", "--slots", "2", "--name", name, "--nats-url", nats_url]);
    command.arg("--store").arg(store).arg("--folder").arg(base.join(format!("worker-{name}")));
    command.arg("--python").arg(tools::python()).arg("--sdk").arg(tools::sdk()).env("NO_COLOR", "1").env_remove("RUST_LOG");
    command
}
