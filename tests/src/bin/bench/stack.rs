//! A stack of its own: nats-server, coordinator and worker as real processes in a temporary folder. Each holds a pipe of
//! this process as its standard input and stops when that is closed, however this process ends.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::programs::Programs;

/// Tasks that run at once on the worker.
pub(crate) const SLOTS: usize = 2;

const POOL: &str = "default";
const CREDENTIALS: (&str, &str) = ("bench", "secret");
const TOKEN: &str = "token-of-the-benchmark";
const START: Duration = Duration::from_secs(30);
const STOP: Duration = Duration::from_secs(10);

/// When what is acknowledged is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sync {
    /// Some minutes later, by the server's default; the store leaves it to the system.
    Default,
    /// At once: `sync_interval: always`, and every file of the store.
    Always,
}

/// The running processes.
#[derive(Debug)]
pub(crate) struct Stack {
    folder: PathBuf,
    port: u16,
    sync: Sync,
    monitoring: u16,
    nats: Child,
    coordinator: Child,
    worker: Child,
    /// Without user and password, which the client library takes apart from it.
    pub(crate) nats_address: String,
    pub(crate) url: String,
}

impl Stack {
    /// Starts all three and waits until the worker has said hello.
    pub(crate) async fn start(programs: &Programs, folder: &Path, sync: Sync) -> anyhow::Result<Self> {
        fs::create_dir_all(folder)?;
        let (port, monitoring) = (free_port()?, free_port()?);
        let (user, password) = CREDENTIALS;
        let nats_address = format!("nats://127.0.0.1:{port}");
        let config = folder.join("nats.conf");
        let interval = if sync == Sync::Always { ", sync_interval: always" } else { "" };
        let text = format!(
            "listen: \"127.0.0.1:{port}\"\nhttp: \"127.0.0.1:{monitoring}\"\nmax_payload: 1MB\njetstream {{ store_dir: {:?}, max_file_store: 100GB{interval} }}\nauthorization {{ user: {user}, password: {password} }}\n",
            folder.join("nats").display().to_string()
        );
        fs::write(&config, text)?;
        fs::write(folder.join("token"), TOKEN)?;
        let mut nats = programs.causey();
        nats.arg("guard").arg("--pid-file").arg(folder.join("nats.pid")).arg("--").arg(&programs.nats_server).arg("--config").arg(&config);
        let nats = spawn(nats, &folder.join("nats.log"), false)?;
        let mut worker = command(programs, "worker", folder, port, sync);
        worker.args(["--pool", POOL, "--name", "bench", "--slots", &SLOTS.to_string(), "--folder"]).arg(folder.join("worker"));
        worker.arg("--python").arg(&programs.python).arg("--sdk").arg(&programs.sdk);
        let coordinator = spawn(coordinator(programs, folder, (port, monitoring), sync), &folder.join("coordinator.log"), true)?;
        let worker = spawn(worker, &folder.join("worker.log"), false)?;
        let mut stack =
            Self { folder: folder.to_owned(), port, sync, monitoring, nats, coordinator, worker, nats_address, url: String::new() };
        stack.listen()?;
        stack.wait_for_worker().await?;
        Ok(stack)
    }

    /// Reads where the coordinator listens.
    fn listen(&mut self) -> anyhow::Result<()> {
        let stdout = self.coordinator.stdout.take().context("the coordinator has no output")?;
        let mut lines = BufReader::new(stdout).lines();
        let listening = lines.find_map(|line| Some(line.ok()?.strip_prefix("listening ")?.to_owned()));
        // The rest of its output goes nowhere, but must be read.
        std::thread::spawn(move || lines.for_each(drop));
        match listening {
            Some(url) => self.url = url,
            None => bail!("the coordinator did not start:\n{}", self.logs()),
        }
        Ok(())
    }

    /// kill -9 of the coordinator, and another one in its place; the time from its exec until it has decided about a request.
    pub(crate) async fn recover(&mut self, programs: &Programs, request: &str) -> anyhow::Result<Duration> {
        self.coordinator.kill()?;
        self.coordinator.wait()?;
        let command = coordinator(programs, &self.folder, (self.port, self.monitoring), self.sync);
        let begun = Instant::now();
        self.coordinator = spawn(command, &self.folder.join("coordinator.log"), true)?;
        self.listen()?;
        let http = reqwest::Client::new();
        loop {
            let asked = http.post(format!("{}/v1/workers/{POOL}/nobody/lost", self.url)).bearer_auth(TOKEN);
            let answer = asked.json(&serde_json::json!({"request_id": request})).send().await?;
            if answer.status().is_success() {
                return Ok(begun.elapsed());
            }
            ensure!(begun.elapsed() < START, "the coordinator does not come back: {}\n{}", answer.text().await?, self.logs());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    async fn wait_for_worker(&mut self) -> anyhow::Result<()> {
        let begun = Instant::now();
        let http = reqwest::Client::new();
        loop {
            let asked = async { http.get(format!("{}/v1/status", self.url)).bearer_auth(TOKEN).send().await?.json::<Value>().await };
            if let Ok(status) = asked.await
                && status["workers"].as_array().is_some_and(|workers| !workers.is_empty())
            {
                return Ok(());
            }
            let ended =
                [&mut self.nats, &mut self.coordinator, &mut self.worker].into_iter().any(|child| matches!(child.try_wait(), Ok(Some(_))));
            ensure!(!ended && begun.elapsed() < START, "the stack did not come up:\n{}", self.logs());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// User and password at the NATS server.
    pub(crate) fn credentials(&self) -> (&'static str, &'static str) {
        CREDENTIALS
    }

    pub(crate) fn token(&self) -> &'static str {
        TOKEN
    }

    /// The server's, not its guard's.
    pub(crate) fn nats_pid(&self) -> Option<u32> {
        fs::read_to_string(self.folder.join("nats.pid")).ok()?.split(' ').next()?.trim().parse().ok()
    }

    pub(crate) fn coordinator_pid(&self) -> u32 {
        self.coordinator.id()
    }

    pub(crate) fn worker_pid(&self) -> u32 {
        self.worker.id()
    }

    /// The last lines of every process's log.
    pub(crate) fn logs(&self) -> String {
        let tail = |name: &str| {
            let text = fs::read_to_string(self.folder.join(name)).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            format!("-- {name}\n{}\n", lines[lines.len().saturating_sub(12)..].join("\n"))
        };
        ["nats.log", "coordinator.log", "worker.log"].map(tail).concat()
    }

    /// Stops worker, coordinator and server, in this order.
    pub(crate) fn stop(mut self) {
        stop(&mut self.worker);
        stop(&mut self.coordinator);
        // The guard stops its server when its standard input is closed.
        drop(self.nats.stdin.take());
        wait(&mut self.nats);
    }
}

fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

fn command(programs: &Programs, role: &str, folder: &Path, port: u16, sync: Sync) -> Command {
    let mut command = programs.causey();
    command.arg(role).arg("--owned").arg("--store").arg(folder.join("store"));
    if sync == Sync::Default {
        command.arg("--unsafe-durability");
    }
    let (user, password) = CREDENTIALS;
    command.env("CAUSEY_NATS_URL", format!("nats://{user}:{password}@127.0.0.1:{port}"));
    command
}

fn coordinator(programs: &Programs, folder: &Path, (port, monitoring): (u16, u16), sync: Sync) -> Command {
    let mut command = command(programs, "coordinator", folder, port, sync);
    command.args(["--stream-bytes-max=-1", "--listen", "127.0.0.1:0", "--projection"]).arg(folder.join("projection"));
    command.arg("--token-file").arg(folder.join("token")).arg("--nats-monitoring-url").arg(format!("http://127.0.0.1:{monitoring}"));
    command
}

fn spawn(mut command: Command, log: &Path, listen: bool) -> anyhow::Result<Child> {
    let log = File::create(log)?;
    let stdout = if listen { Stdio::piped() } else { log.try_clone()?.into() };
    command.stdin(Stdio::piped()).stdout(stdout).stderr(log).process_group(0).spawn().with_context(|| format!("cannot start {command:?}"))
}

/// Asks a process to stop, and kills it when it does not.
pub(crate) fn stop(child: &mut Child) {
    signal(child.id(), Signal::TERM);
    wait(child);
}

fn wait(child: &mut Child) {
    let begun = Instant::now();
    while matches!(child.try_wait(), Ok(None)) && begun.elapsed() < STOP {
        std::thread::sleep(Duration::from_millis(5));
    }
    let _ = child.kill();
    let _ = child.wait();
}

fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}
