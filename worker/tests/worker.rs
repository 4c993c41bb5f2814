//! A whole worker against a real nats-server and the real Python SDK, with the coordinator's part played by the test. Needs
//! `nats-server` (from `CAUSEY_TEST_NATS_SERVER` or PATH) and `python3` (or `CAUSEY_TEST_PYTHON`); without them a test says so and is
//! skipped.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path as FilePath, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_nats::jetstream::{self, consumer, stream};
use async_nats::{Client, Subscriber};
use causey_artifacts::{Put, Store, read_artifact, read_object, read_output};
use causey_protocol::artifact::{ObjectRef, blob_path};
use causey_protocol::codec::{self, MESSAGE_BYTES_MAX};
use causey_protocol::id::{Digest, Path, PoolName, RunId, WorkerName};
use causey_protocol::live::{Ask, LiveOutput, OpenAttempt, Order, Told};
use causey_protocol::policy::HostMode;
use causey_protocol::subject;
use causey_protocol::task::{Address, Dispatch, DispatchedTask, FailureKind, Inputs, Outcome, Report, ReportItem};
use causey_worker::config::Config;
use futures_util::StreamExt as _;
use serde_json::json;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const FLOW: &str = r#"
import os, signal, sys, time
from causey import FlowSpec, Parameter, current, step

class Probe(FlowSpec):
    mode = Parameter("mode", default="plain")

    @step
    def start(self):
        print("hello from", self.mode)
        print("a warning", file=sys.stderr)
        if self.mode == "gang":
            print("reached at", current.parallel.addresses)
        if self.mode == "raise":
            raise ValueError("no such title")
        if self.mode == "abort":
            os.abort()
        if self.mode == "exit":
            os._exit(3)
        if self.mode == "sleep":
            time.sleep(120)
        if self.mode == "brief":
            time.sleep(1.5)
        if self.mode == "large":
            self.large = bytes(3_000_000)
        self.pid = os.getpid()
        self.next(self.end)

    @step
    def end(self):
        pass

if __name__ == "__main__":
    Probe()
"#;

/// Longest wait for anything in these tests.
const PATIENCE: Duration = Duration::from_secs(60);

struct Server {
    child: Child,
    port: u16,
    folder: PathBuf,
    program: PathBuf,
}

impl Server {
    fn start(program: PathBuf, folder: PathBuf, port: u16) -> Self {
        let mut command = Command::new(&program);
        command.args(["-a", "127.0.0.1", "-p", &port.to_string(), "-js", "-sd"]).arg(&folder);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Self { child, port, folder, program }
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn restart(&mut self) {
        self.kill();
        let fresh = Self::start(self.program.clone(), self.folder.clone(), self.port);
        *self = fresh;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The broker, a store with the code package, and the part of the coordinator.
struct Bench {
    folder: tempfile::TempDir,
    server: Server,
    client: Client,
    store: Store,
    package: Digest,
    python: PathBuf,
    /// What the coordinator answers to be closed.
    closed: Arc<Mutex<BTreeSet<OpenAttempt>>>,
    /// What it answers about gangs.
    gang: Arc<Mutex<Option<Vec<Address>>>>,
}

fn find(variable: &str, name: &str) -> Option<PathBuf> {
    if let Some(path) = std::env::var_os(variable) {
        return Some(path.into());
    }
    let path = std::env::var_os("PATH")?;
    let found = std::env::split_paths(&path).map(|folder| folder.join(name)).find(|path| path.is_file());
    if found.is_none() {
        eprintln!("skipped: {name} is neither named by {variable} nor in PATH");
    }
    found
}

/// The program that hosts start as: `CAUSEY_BIN`, else the one cargo has built beside this test.
fn program() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let beside = own.ancestors().nth(2).unwrap().join("causey");
    let found = std::env::var_os("CAUSEY_BIN").map_or(beside, PathBuf::from);
    assert!(found.is_file(), "there is no program {}: run `cargo build -p causey-cli` first", found.display());
    found
}

fn run_id() -> RunId {
    "0199aaaa-0000-7000-8000-000000000000".parse().unwrap()
}

fn pool() -> PoolName {
    PoolName::new("default").unwrap()
}

async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

impl Bench {
    async fn new(flow: &str) -> Option<Self> {
        let program = find("CAUSEY_TEST_NATS_SERVER", "nats-server")?;
        let python = find("CAUSEY_TEST_PYTHON", "python3")?;
        let folder = tempfile::tempdir().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let server = Server::start(program, folder.path().join("nats"), port);
        let url = format!("nats://127.0.0.1:{port}");
        let client = eventually("nats-server listens", async || async_nats::connect(&url).await.ok()).await;
        let jetstream = jetstream::new(client.clone());
        let streams = [
            (subject::INBOX_STREAM, subject::INBOX_ALL, stream::RetentionPolicy::Limits),
            (subject::TASK_STREAM, subject::TASK_ALL, stream::RetentionPolicy::WorkQueue),
        ];
        for (name, all, retention) in streams {
            let config = stream::Config { name: name.into(), subjects: vec![all.into()], retention, ..Default::default() };
            jetstream.create_stream(config).await.unwrap();
        }
        let bucket = subject::PRESENCE_BUCKET.into();
        jetstream.create_key_value(jetstream::kv::Config { bucket, max_age: Duration::from_secs(15), ..Default::default() }).await.unwrap();

        let store = Store::open(&folder.path().join("store").to_string_lossy(), false).await.unwrap();
        let package = put_package(&store, flow).await;
        let bench = Self { folder, server, client, store, package, python, closed: Arc::default(), gang: Arc::default() };
        bench.answer_hellos().await;
        Some(bench)
    }

    /// Plays the leader: makes the consumer, and says which attempts are closed.
    async fn answer_hellos(&self) {
        let mut asks = self.client.subscribe(subject::LIVE_WORKER_ALL).await.unwrap();
        let (client, closed, gang) = (self.client.clone(), self.closed.clone(), self.gang.clone());
        tokio::spawn(async move {
            while let Some(message) = asks.next().await {
                let ask = codec::decode(&message.payload, MESSAGE_BYTES_MAX);
                let reply = message.reply.unwrap();
                if let Ok(Ask::Gang { .. }) = ask {
                    let told = codec::encode(&Told::Gang { members: gang.lock().unwrap().clone() });
                    client.publish(reply.clone(), told.into()).await.unwrap();
                }
                let Ok(Ask::Hello { open, offer }) = ask else { continue };
                let (queue, _) = (jetstream::new(client.clone()).get_stream(subject::TASK_STREAM).await.unwrap(), offer);
                let config = consumer::pull::Config {
                    durable_name: Some("default".into()),
                    filter_subject: subject::pool_tasks(&pool()),
                    ack_wait: Duration::from_secs(3),
                    ..Default::default()
                };
                queue.get_or_create_consumer("default", config).await.unwrap();
                let closed = open.into_iter().filter(|attempt| closed.lock().unwrap().contains(attempt)).collect();
                let told = codec::encode(&Told::Welcome { epoch: 1, closed, order: Order::Serve });
                client.publish(reply, told.into()).await.unwrap();
            }
        });
    }

    fn worker(&self, slots: u32) -> Running {
        let config = Config {
            nats_url: format!("nats://127.0.0.1:{}", self.server.port),
            store: self.folder.path().join("store").to_string_lossy().into_owned(),
            folder: self.folder.path().join("worker"),
            pool: pool(),
            name: WorkerName::new("w1").unwrap(),
            slots: Some(slots),
            equipment: Default::default(),
            max_tasks: None,
            exit_when_idle: None,
            python: self.python.clone(),
            rscript: "Rscript".into(),
            r_sdk: None,
            command_host: Some(program()),
            sandbox: Default::default(),
            no_memory_limit: false,
            writable: Vec::new(),
            unreadable: Vec::new(),
            uv: None,
            environments: None,
            sdk: Some(FilePath::new(env!("CARGO_MANIFEST_DIR")).join("../sdk/python")),
            ack_wait_seconds: 3,
            free_bytes_min: 0,
            unsafe_durability: true,
            owned: false,
            secrets: Vec::new(),
            secret_command: Vec::new(),
            address: None,
        };
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(causey_worker::run(config, shutdown.clone()));
        Running { shutdown, task }
    }

    fn dispatch(&self, host: HostMode, mode: &str, items: std::ops::Range<u32>) -> Dispatch {
        let task = |index| DispatchedTask { path: Path(vec![index]), visit: 0, attempt: 0, retry: 0, inputs: Inputs::Listed(vec![]) };
        Dispatch {
            run: run_id(),
            run_name: "brisk-otter-41".parse().unwrap(),
            flow: "Probe".parse().unwrap(),
            language: "python".into(),
            package: self.package,
            file: "flow.py".into(),
            step: "start".parse().unwrap(),
            host,
            slots: 1,
            retries_max: 0,
            parameters: [("mode".to_owned(), json!(mode))].into(),
            user: "ann".into(),
            tags: vec![],
            events: vec![],
            splits: vec![],
            tasks: items.map(task).collect(),
            again: false,
            timeout_seconds: None,
            grace_seconds: None,
            scheduled_at: None,
            gang: false,
            signals: BTreeMap::new(),
            children: Vec::new(),
            origin_run: None,
            content: false,
            needs: None,
            transition: None,
            typed: false,
            surroundings: None,
        }
    }

    async fn send(&self, dispatch: &Dispatch) -> OpenAttempt {
        let key = dispatch.key(&dispatch.tasks[0]);
        let jetstream = jetstream::new(self.client.clone());
        let sent = jetstream.publish(subject::task(&pool(), dispatch.run, &key), codec::encode(dispatch).into()).await;
        sent.unwrap().await.unwrap();
        OpenAttempt { run: dispatch.run, key }
    }

    async fn reports(&self) -> Reports {
        Reports(self.client.subscribe(subject::INBOX_ALL).await.unwrap())
    }

    async fn queued(&self) -> u64 {
        let mut queue = jetstream::new(self.client.clone()).get_stream(subject::TASK_STREAM).await.unwrap();
        queue.info().await.unwrap().state.messages
    }

    async fn queue_is_empty(&self) {
        eventually("all deliveries are acknowledged", async || (self.queued().await == 0).then_some(())).await;
    }
}

struct Running {
    shutdown: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Running {
    async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(PATIENCE, self.task).await.expect("the worker stops").unwrap().unwrap();
    }
}

struct Reports(Subscriber);

impl Reports {
    /// The next reports, those of started attempts and of what they use left out.
    async fn ends(&mut self, count: usize) -> Vec<ReportItem> {
        let mut ends = vec![];
        while ends.len() < count {
            let message = tokio::time::timeout(PATIENCE, self.0.next()).await.expect("a report comes").unwrap();
            let report: Report = codec::decode(&message.payload, MESSAGE_BYTES_MAX).unwrap();
            assert_eq!(message.subject.as_str(), subject::report(&report.pool, &report.worker));
            ends.extend(report.items.into_iter().filter(|item| !matches!(item.outcome, Outcome::Started { .. } | Outcome::Used { .. })));
        }
        ends
    }

    async fn end(&mut self) -> Outcome {
        self.ends(1).await.remove(0).outcome
    }
}

async fn put_package(store: &Store, flow: &str) -> Digest {
    let mut builder = tar::Builder::new(vec![]);
    let mut header = tar::Header::new_gnu();
    header.set_size(flow.len() as u64);
    header.set_mode(0o644);
    builder.append_data(&mut header, "flow.py", flow.as_bytes()).unwrap();
    let tar = builder.into_inner().unwrap();
    let digest = Digest::of(&tar);
    assert_eq!(store.put_if_absent(&blob_path(&digest), tar.into()).await.unwrap(), Put::Stored);
    digest
}

async fn succeeds(mode: HostMode) {
    let Some(bench) = Bench::new(FLOW).await else { return };
    let mut reports = bench.reports().await;
    let mut live = bench.client.subscribe(subject::live_output(run_id())).await.unwrap();
    let worker = bench.worker(2);
    let dispatch = bench.dispatch(mode, "large", 0..1);
    let OpenAttempt { run, key } = bench.send(&dispatch).await;
    let Outcome::Succeeded(success) = reports.end().await else { panic!("the step fails") };
    assert_eq!(success.next[0].as_str(), "end");
    let object = read_object(&bench.store, &ObjectRef { run, key, digest: success.digest, bytes: success.bytes }).await.unwrap();
    assert!(read_artifact(&bench.store, &object, "large").await.unwrap().len() >= 3_000_000);
    let output = read_output(&bench.store, &object).await.unwrap();
    let stdout: String = output.iter().filter(|chunk| !chunk.is_error).map(|chunk| chunk.text.as_str()).collect();
    let stderr: String = output.iter().filter(|chunk| chunk.is_error).map(|chunk| chunk.text.as_str()).collect();
    assert_eq!((stdout.as_str(), stderr.as_str()), ("hello from large\n", "a warning\n"));
    let seen = tokio::time::timeout(PATIENCE, live.next()).await.unwrap().unwrap();
    let seen: LiveOutput = codec::decode(&seen.payload, MESSAGE_BYTES_MAX).unwrap();
    assert_eq!((seen.step.as_str(), seen.task.as_str()), ("start", "0"));
    bench.queue_is_empty().await;
    worker.stop().await;
    let tasks = bench.folder.path().join("worker/tasks");
    eventually("task folders are removed", async || std::fs::read_dir(&tasks).unwrap().next().is_none().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_runs_in_a_forked_child() {
    succeeds(HostMode::Fork).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_runs_in_a_fresh_interpreter() {
    succeeds(HostMode::Spawn).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_tasks_of_a_dispatch_share_processes() {
    let Some(bench) = Bench::new(FLOW).await else { return };
    let mut reports = bench.reports().await;
    let worker = bench.worker(2);
    let dispatch = bench.dispatch(HostMode::Reuse, "plain", 0..64);
    bench.send(&dispatch).await;
    let mut pids = BTreeSet::new();
    for item in reports.ends(64).await {
        let Outcome::Succeeded(success) = item.outcome else { panic!("a task fails: {item:?}") };
        let key = dispatch.key(dispatch.tasks.iter().find(|task| task.path == item.path).unwrap());
        let object = ObjectRef { run: item.run, key, digest: success.digest, bytes: success.bytes };
        let object = read_object(&bench.store, &object).await.unwrap();
        pids.insert(read_artifact(&bench.store, &object, "pid").await.unwrap());
    }
    assert!((1..=6).contains(&pids.len()), "{} processes for 64 tasks in 2 slots", pids.len());
    bench.queue_is_empty().await;
    worker.stop().await;
}

/// Rows 27 and 28 of the fault model.
#[tokio::test(flavor = "multi_thread")]
async fn failures_say_what_happened() {
    let Some(bench) = Bench::new(FLOW).await else { return };
    let mut reports = bench.reports().await;
    let worker = bench.worker(2);
    let mut item = 0;
    for host in [HostMode::Fork, HostMode::Spawn, HostMode::Reuse] {
        for (mode, kind, message) in [
            ("raise", "ValueError", "no such title"),
            ("abort", "CSY-2102", "the process that ran step `start` was killed by SIGABRT"),
            ("exit", "CSY-2102", "the process that ran step `start` ended by itself with exit status 3"),
        ] {
            item += 1;
            bench.send(&bench.dispatch(host, mode, item..item + 1)).await;
            let outcome = reports.end().await;
            let Outcome::Failed(failure) = outcome else { panic!("{host:?} {mode}: {outcome:?}") };
            assert_eq!((failure.kind, failure.error.kind.as_str()), (FailureKind::User, kind), "{host:?} {mode}");
            assert!(failure.error.message.contains(message), "{host:?} {mode}: {}", failure.error.message);
            assert!(failure.digest.is_some(), "{host:?} {mode}: the output is kept");
        }
    }
    bench.queue_is_empty().await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flow_that_cannot_be_imported_fails_for_good() {
    let Some(bench) = Bench::new("import no_such_module\n").await else { return };
    let mut reports = bench.reports().await;
    let worker = bench.worker(2);
    for (item, host) in [(0, HostMode::Fork), (1, HostMode::Spawn)] {
        bench.send(&bench.dispatch(host, "plain", item..item + 1)).await;
        let Outcome::Failed(failure) = reports.end().await else { panic!("the import works") };
        assert_eq!(failure.kind, FailureKind::Permanent);
        assert!(failure.error.message.contains("no_such_module"), "{}", failure.error.message);
    }
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interpreter_that_dies_at_import_fails_the_attempt() {
    let Some(bench) = Bench::new("import os\nprint('last words', flush=True)\nos.abort()\n").await else { return };
    let mut reports = bench.reports().await;
    let worker = bench.worker(2);
    bench.send(&bench.dispatch(HostMode::Fork, "plain", 0..1)).await;
    let Outcome::Failed(failure) = reports.end().await else { panic!("the import works") };
    assert!(failure.error.message.contains("SIGABRT") && failure.error.message.contains("starting"), "{}", failure.error.message);
    assert!(failure.error.traceback.contains("last words"), "{}", failure.error.traceback);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_is_no_longer_open_is_killed() {
    let Some(bench) = Bench::new(FLOW).await else { return };
    let mut live = bench.client.subscribe(subject::live_output(run_id())).await.unwrap();
    let worker = bench.worker(1);
    let attempt = bench.send(&bench.dispatch(HostMode::Fork, "sleep", 0..1)).await;
    tokio::time::timeout(PATIENCE, live.next()).await.unwrap().unwrap();
    bench.closed.lock().unwrap().insert(attempt);
    bench.client.publish(subject::cancel(run_id()), "".into()).await.unwrap();
    bench.queue_is_empty().await;
    // The slot is free again.
    let mut reports = bench.reports().await;
    bench.send(&bench.dispatch(HostMode::Fork, "plain", 1..2)).await;
    assert!(matches!(reports.end().await, Outcome::Succeeded(_)));
    worker.stop().await;
}

/// Row 2 of the fault model.
#[tokio::test(flavor = "multi_thread")]
async fn a_stored_result_is_reported_again_and_not_made_again() {
    let Some(bench) = Bench::new(FLOW).await else { return };
    let mut reports = bench.reports().await;
    let worker = bench.worker(1);
    let dispatch = bench.dispatch(HostMode::Fork, "plain", 0..1);
    bench.send(&dispatch).await;
    let first = reports.end().await;
    bench.queue_is_empty().await;
    bench.send(&Dispatch { again: true, ..dispatch.clone() }).await;
    assert_eq!(reports.end().await, first);
    bench.queue_is_empty().await;
    // Without the hint it runs, and still the first result counts.
    bench.send(&dispatch).await;
    assert_eq!(reports.end().await, first);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_step_stays_with_its_worker_and_is_announced() {
    let Some(bench) = Bench::new(FLOW).await else { return };
    let mut inbox = bench.client.subscribe(subject::INBOX_ALL).await.unwrap();
    let worker = bench.worker(1);
    bench.send(&bench.dispatch(HostMode::Fork, "sleep", 0..1)).await;
    let first = tokio::time::timeout(PATIENCE, inbox.next()).await.unwrap().unwrap();
    let report: Report = codec::decode(&first.payload, MESSAGE_BYTES_MAX).unwrap();
    assert!(matches!(report.items[0].outcome, Outcome::Started { .. }));
    // Two ack waits later the queue has delivered it to nobody else.
    tokio::time::sleep(Duration::from_secs(7)).await;
    let queue = jetstream::new(bench.client.clone()).get_stream(subject::TASK_STREAM).await.unwrap();
    let mut pulling: consumer::PullConsumer = queue.get_consumer("default").await.unwrap();
    let info = pulling.info().await.unwrap();
    assert_eq!((info.delivered.consumer_sequence, info.num_ack_pending), (1, 1));
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_of_a_gang_runs_once_it_is_told_of_the_others_and_is_handed_back_by_a_worker_that_stops() {
    let Some(bench) = Bench::new(FLOW).await else { return };
    let mut reports = bench.reports().await;
    let worker = bench.worker(1);
    let member = |index| Dispatch { gang: true, ..bench.dispatch(HostMode::Fork, "gang", index..index + 1) };
    let OpenAttempt { run, key } = bench.send(&member(0)).await;
    let Outcome::Joined { address, .. } = reports.end().await else { panic!("it does not join") };
    assert!(address.ip.is_loopback());
    assert!(std::net::TcpListener::bind(("0.0.0.0", address.port)).is_err(), "the port is kept until the gang has formed");
    // Nobody tells it that something has changed: it asks by itself.
    let other = Address { ip: [10, 0, 0, 7].into(), port: 1 };
    *bench.gang.lock().unwrap() = Some(vec![address, other]);
    let Outcome::Succeeded(success) = reports.end().await else { panic!("the step fails") };
    let object = read_object(&bench.store, &ObjectRef { run, key, digest: success.digest, bytes: success.bytes }).await.unwrap();
    // Of one stream: what the other one says comes anywhere in between.
    let chunks = read_output(&bench.store, &object).await.unwrap();
    let output: String = chunks.iter().filter(|chunk| !chunk.is_error).map(|chunk| chunk.text.as_str()).collect();
    assert!(output.contains(&format!("reached at [('127.0.0.1', {}), ('10.0.0.7', 1)]", address.port)), "{output}");
    // A gang that has formed with somebody else in its place is not its own.
    bench.send(&member(1)).await;
    assert!(matches!(reports.end().await, Outcome::Joined { .. }));
    worker.stop().await;
    assert_eq!(reports.end().await, Outcome::Released { because: "the worker stops".into() });
    assert_eq!(bench.queued().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_worker_lets_run_what_runs_and_hands_back_the_rest() {
    let Some(bench) = Bench::new(FLOW).await else { return };
    let mut reports = bench.reports().await;
    let mut live = bench.client.subscribe(subject::live_output(run_id())).await.unwrap();
    let worker = bench.worker(1);
    bench.send(&bench.dispatch(HostMode::Fork, "brief", 0..1)).await;
    tokio::time::timeout(PATIENCE, live.next()).await.unwrap().unwrap();
    bench.send(&bench.dispatch(HostMode::Fork, "plain", 1..2)).await;
    eventually("the second task is held ahead", async || {
        let queue = jetstream::new(bench.client.clone()).get_stream(subject::TASK_STREAM).await.unwrap();
        let mut pulling: consumer::PullConsumer = queue.get_consumer("default").await.unwrap();
        (pulling.info().await.unwrap().num_ack_pending == 2).then_some(())
    })
    .await;
    worker.stop().await;
    let ends = reports.ends(2).await;
    assert!(matches!(ends[0].outcome, Outcome::Released { .. }), "{ends:?}");
    assert!(matches!(ends[1].outcome, Outcome::Succeeded(_)), "{ends:?}");
    assert_eq!(bench.queued().await, 0);
}

/// Rows 9 and 16 of the fault model.
#[tokio::test(flavor = "multi_thread")]
async fn a_result_outlives_the_broker() {
    let Some(mut bench) = Bench::new(FLOW).await else { return };
    let mut live = bench.client.subscribe(subject::live_output(run_id())).await.unwrap();
    let worker = bench.worker(1);
    bench.send(&bench.dispatch(HostMode::Fork, "brief", 0..1)).await;
    tokio::time::timeout(PATIENCE, live.next()).await.unwrap().unwrap();
    bench.server.kill();
    tokio::time::sleep(Duration::from_secs(2)).await;
    bench.server.restart();
    // From the stream: the worker may be connected again before this test is.
    let report = subject::report(&pool(), &WorkerName::new("w1").unwrap());
    let last = eventually("the result is in the inbox", async || {
        let inbox = jetstream::new(bench.client.clone()).get_stream(subject::INBOX_STREAM).await.ok()?;
        let message = inbox.get_last_raw_message_by_subject(&report).await.ok()?;
        let report: Report = codec::decode(&message.payload, MESSAGE_BYTES_MAX).unwrap();
        report.items.into_iter().find(|item| !matches!(item.outcome, Outcome::Started { .. } | Outcome::Used { .. }))
    })
    .await;
    assert!(matches!(last.outcome, Outcome::Succeeded(_)), "{last:?}");
    bench.queue_is_empty().await;
    worker.stop().await;
}

/// Row 31 of the fault model.
#[tokio::test(flavor = "multi_thread")]
async fn a_dispatch_nobody_can_read_is_dropped() {
    let Some(bench) = Bench::new(FLOW).await else { return };
    let mut reports = bench.reports().await;
    let worker = bench.worker(1);
    let jetstream = jetstream::new(bench.client.clone());
    for (number, payload) in [&b""[..], b"\x01garbage", &[1, 0xdd, 0xff, 0xff, 0xff, 0xff]].into_iter().enumerate() {
        let subject = format!("causey.task.default.{}.{number:032x}", run_id());
        jetstream.publish(subject, payload.to_vec().into()).await.unwrap().await.unwrap();
    }
    bench.queue_is_empty().await;
    bench.send(&bench.dispatch(HostMode::Fork, "plain", 0..1)).await;
    assert!(matches!(reports.end().await, Outcome::Succeeded(_)));
    worker.stop().await;
}

/// Prints how long a step takes from its dispatch to its report, with the broker's hops: for people, not for CI.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement; run it alone with --nocapture"]
async fn measure_the_latency_of_a_step() {
    const STEPS: u32 = 300;
    let Some(bench) = Bench::new(FLOW).await else { return };
    let mut reports = bench.reports().await;
    let worker = bench.worker(1);
    for host in [HostMode::Reuse, HostMode::Fork] {
        let mut times: Vec<Duration> = vec![];
        for item in 0..STEPS {
            let mut dispatch = bench.dispatch(host, "plain", item..item + 1);
            dispatch.tasks[0].visit = u32::from(host == HostMode::Fork);
            let begun = Instant::now();
            bench.send(&dispatch).await;
            assert!(matches!(reports.end().await, Outcome::Succeeded(_)));
            times.push(begun.elapsed());
            // Time to make a new child ready: what is measured is a step, not how fast processes can be made.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        times.sort();
        let at = |percent: usize| times[times.len() * percent / 100];
        println!("{host:?}: median {:?}, 90 % {:?}, 99 % {:?}", at(50), at(90), at(99));
    }
    worker.stop().await;
}
