//! Bytes of every message this version writes, kept for ever: an old message must read back as what it was. Files are added,
//! never edited; `CAUSEY_WRITE_GOLDEN=1` writes those that are missing.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::PathBuf;

use causey_protocol::artifact::ObjectRef;
use causey_protocol::chunk::{Chunk, ChunkList, ChunkStep, ChunkTask, ChunkedForeach, ReusedTasks};
use causey_protocol::codec::{self, TURN_BYTES_MAX};
use causey_protocol::flow::{Definition, Flow, StepIndex, Transition};
use causey_protocol::gate::{ApprovalGate, Awaited, ChildStart, DefaultData, EndedChild, Gate, Parent, SignalGate, SignalSource, StepGate};
use causey_protocol::id::{ContentId, Digest, MemoKey, NotificationId, Origin, Path, RunId, TaskKey, Timestamp};
use causey_protocol::input::{FlowChoice, Request, RequestMessage, Resume};
use causey_protocol::live::{Ask, LiveOutput, Offer, OpenAttempt, Order, OutputStream, Told};
use causey_protocol::policy::{HostMode, MemoPolicy};
use causey_protocol::problem::{Code, Problem};
use causey_protocol::record::{
    Answer, BackfillStarted, Cause, FailureCause, ItemReused, ItemSucceeded, ModelPublished, Position, Record, ResultRemembered,
    Resumption, RunStarted, RunState, TaskSet, Topic, Turn, Work,
};
use causey_protocol::resources::{Equipment, Gpu, Resources, Spill, count_shapes};
use causey_protocol::schedule::{BackfillPlan, Concurrency, Strategy};
use causey_protocol::share::{Share, Shares, Standing};
use causey_protocol::surroundings::{Environment, Surroundings};
use causey_protocol::task::{
    Address, Dispatch, DispatchedTask, ErrorInfo, Failure, FailureKind, InputRef, Inputs, MemoryKeeper, MemoryLimit, Outcome, Publication,
    Report, ReportItem, SplitLevel, Success, Usage,
};
use causey_protocol::upkeep::{SnapshotTaken, Storage, StorageLevel};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

fn check<T: Serialize + DeserializeOwned + PartialEq + Debug>(name: &str, message: &T) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.msgpack"));
    let bytes = codec::encode(message);
    if !path.exists() && std::env::var_os("CAUSEY_WRITE_GOLDEN").is_some() {
        std::fs::write(&path, &bytes).unwrap();
    }
    let golden = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let read: T = codec::decode(&golden, TURN_BYTES_MAX).unwrap_or_else(|error| panic!("{name} of this version does not read: {error:?}"));
    assert_eq!(&read, message, "{name} reads back as something else");
    assert_eq!(bytes, golden, "{name} is written otherwise than before");
}

fn flow() -> Flow {
    let definition: Definition = serde_json::from_value(json!({
        "format": 1, "name": "Hello", "language": "python", "file": "hello.py", "package": Digest::of(b"package"), "doc": "A flow.",
        "steps": [
            {"name": "start", "line": 5, "next": {"foreach": {"to": "work", "variable": "items"}}},
            {"name": "work", "line": 9, "next": {"linear": {"to": "join"}}, "host": "reuse", "catch": {"variable": "error"},
             "retry": {"times": 3, "delay_seconds": 1.5, "factor": 2.0, "cap_seconds": 60.0, "jitter": 0.25},
             "resources": {"cpu": 2.0, "memory_mb": 512, "gpu": 0.5, "pool": "gpu"}},
            {"name": "join", "join": true, "line": 14, "next": {"linear": {"to": "end"}}},
            {"name": "end", "line": 18, "next": "end"}
        ],
        "parameters": [{"name": "alpha", "type": "float", "required": false, "default": 0.5, "help": "Step size."}],
        "triggers": [{"events": [{"name": "arrived", "parameters": {"alpha": "a"}}]}]
    }))
    .unwrap();
    Flow::try_from(definition).unwrap()
}

fn run() -> RunId {
    RunId::derive(Timestamp(1_700_000_000_000_000), &Origin([7; 16]))
}

fn object() -> ObjectRef {
    ObjectRef { run: run(), key: TaskKey([1; 16]), digest: Digest::of(b"object"), bytes: 321 }
}

fn error() -> ErrorInfo {
    ErrorInfo {
        kind: "NameError".into(),
        message: "name 'x' is not defined".into(),
        traceback: "Traceback …".into(),
        file: Some("hello.py".into()),
        line: Some(9),
        step: Some("work".into()),
        source: Some("self.y = x".into()),
        column: Some(17),
        end_column: Some(18),
        hash: Some("abc".into()),
        hint: None,
        classes: Vec::new(),
    }
}

fn publication() -> Publication {
    let metrics = json!({"mape": 0.1}).as_object().unwrap().clone();
    let tags = BTreeMap::from([("stage".to_owned(), "test".to_owned())]);
    let (artifact, format, description) = ("_model_demand".into(), "skops".into(), "Demand.".into());
    Publication { model: "demand".parse().unwrap(), artifact, format, metrics, tags, description, allow_pickle: false }
}

#[test]
fn requests() {
    let message = |request| RequestMessage { id: "r-1".parse().unwrap(), user: "ann".into(), request };
    let parameters = BTreeMap::from([("alpha".to_owned(), json!(0.1))]);
    let submit = Request::Submit {
        flow: FlowChoice::Given(Box::new(flow())),
        parameters,
        tags: vec!["t".into()],
        host: Some(HostMode::Spawn),
        timeout_seconds: None,
        standing: Standing::default(),
        fresh: false,
    };
    check("request-submit", &message(submit));
    check("request-deploy", &message(Request::Deploy { flow: Box::new(flow()) }));
    check("request-cancel", &message(Request::Cancel { run: run(), because: "wrong data".into() }));
    check("request-worker-lost", &message(Request::WorkerLost { pool: "gpu".parse().unwrap(), worker: "w1".parse().unwrap() }));
}

#[test]
fn reports() {
    let (started, ended) = (Timestamp(10), Timestamp(20));
    let outcomes = [
        Outcome::Started { at: started },
        Outcome::Succeeded(Success {
            digest: Digest::of(b"object"),
            bytes: 321,
            next: vec!["join".parse().unwrap()],
            foreach: Some(3),
            publications: vec![publication()],
            children: Vec::new(),
            started,
            ended,
            content: None,
        }),
        Outcome::Failed(Failure {
            kind: FailureKind::User,
            error: Box::new(error()),
            digest: Some(Digest::of(b"o")),
            bytes: 9,
            started,
            ended,
        }),
        Outcome::Released { because: "draining".into() },
    ];
    let item = |outcome| ReportItem { run: run(), step: "work".parse().unwrap(), path: Path(vec![2, 300]), visit: 1, attempt: 2, outcome };
    let report = Report { pool: "gpu".parse().unwrap(), worker: "w1".parse().unwrap(), items: outcomes.map(item).into() };
    check("report", &report);
}

#[test]
fn dispatches() {
    let input = InputRef { step: "start".parse().unwrap(), path: Path::default(), object: object() };
    let task = |inputs| DispatchedTask { path: Path(vec![2]), visit: 0, attempt: 1, retry: 1, inputs };
    let manifest = Inputs::Manifest { digest: Digest::of(b"manifest"), count: 3_000 };
    let dispatch = Dispatch {
        run: run(),
        run_name: "brisk-otter-41".parse().unwrap(),
        flow: "Hello".parse().unwrap(),
        language: "python".into(),
        package: Digest::of(b"package"),
        file: "hello.py".into(),
        step: "work".parse().unwrap(),
        host: HostMode::Reuse,
        slots: 2,
        retries_max: 3,
        parameters: BTreeMap::from([("alpha".to_owned(), json!(0.5))]),
        user: "ann".into(),
        tags: vec!["t".into()],
        events: vec![json!({"id": "e1"})],
        splits: vec![SplitLevel { step: "start".parse().unwrap(), count: 3 }],
        tasks: vec![task(Inputs::Listed(vec![input])), task(manifest)],
        again: true,
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
    };
    check("dispatch", &dispatch);
    let ended = EndedChild {
        run: run(),
        name: "calm-fox-2".parse().unwrap(),
        flow: "Other".parse().unwrap(),
        state: RunState::Succeeded,
        step: "work".parse().unwrap(),
        path: Path(vec![2]),
        visit: 0,
        ordinal: 1,
        object: Some(object()),
    };
    let signals = BTreeMap::from([("go".parse().unwrap(), json!({"rate": 0.5}))]);
    check("dispatch-gates", &Dispatch { signals, children: vec![ended], ..dispatch.clone() });
    check("dispatch-scheduled", &Dispatch { scheduled_at: Some(Timestamp(1_700_000_000_000_000)), ..dispatch.clone() });
    check("dispatch-gang", &Dispatch { gang: true, ..dispatch.clone() });
    check("dispatch-timeout", &Dispatch { timeout_seconds: Some(90.0), grace_seconds: Some(0.5), ..dispatch.clone() });
    check("dispatch-resume", &Dispatch { origin_run: Some(run()), ..dispatch.clone() });
    check("dispatch-memo", &Dispatch { content: true, ..dispatch.clone() });
    check("dispatch-needs", &Dispatch { needs: Some(Box::new(needs())), ..dispatch.clone() });
    let transition = Some(Transition::Foreach { to: "fit".parse().unwrap(), variable: "series".into() });
    check("dispatch-typed", &Dispatch { language: "r".into(), file: "fit.R".into(), transition, typed: true, ..dispatch.clone() });
    check("dispatch-surroundings", &Dispatch { surroundings: Some(surroundings()), ..dispatch });
}

fn surroundings() -> Box<Surroundings> {
    Box::new(Surroundings {
        variables: BTreeMap::from([("OMP_NUM_THREADS".to_owned(), "4".to_owned())]),
        secrets: vec!["env:TOKEN".parse().unwrap(), "DB=command:vault/db".parse().unwrap()],
        environment: Some(Environment { lock: Digest::of(b"lock"), python: ">=3.11".into() }),
    })
}

fn needs() -> Resources {
    Resources {
        cpu: 2.0,
        memory_mb: Some(512),
        gpu: 0.5,
        pool: Some("gpu".parse().unwrap()),
        gpu_model: Some("A100".into()),
        gpu_memory_mb: Some(20_000),
        disk_mb: Some(10_240),
        shared_memory_mb: Some(64),
        labels: [("zone".to_owned(), "b".to_owned())].into(),
        custom: [("licence".to_owned(), 1.0)].into(),
        spill: Some(Spill { pool: "default".parse().unwrap(), after_seconds: Some(20.0) }),
    }
}

fn equipment() -> Equipment {
    let gpu = Gpu { uuid: "GPU-1".into(), model: "NVIDIA A100".into(), memory_mb: 40_000, mig: false };
    Equipment {
        cpu: Some(3_500),
        disk_mb: 20_000,
        shared_memory_mb: 128,
        gpus: vec![gpu.clone(), Gpu { uuid: "MIG-2".into(), mig: true, ..gpu }],
        labels: [("zone".to_owned(), "b".to_owned())].into(),
        custom: [("licence".to_owned(), 2_000)].into(),
    }
}

#[test]
fn resources_offers_and_orders() {
    let mut definition = Definition::from(flow());
    definition.steps[0].resources = Some(needs());
    let deploy = Request::Deploy { flow: Box::new(Flow::try_from(definition).unwrap()) };
    check("request-deploy-resources", &RequestMessage { id: "r-1".parse().unwrap(), user: "ann".into(), request: deploy });
    let offer = Offer {
        pool: "gpu".parse().unwrap(),
        worker: "w1".parse().unwrap(),
        slots: 2,
        memory_mb: 1024,
        languages: vec!["python".into()],
        version: "0.1.0".into(),
        started: Timestamp(5),
        equipment: equipment(),
        closed: true,
    };
    let (run, pool) = (run(), || "gpu".parse().unwrap());
    let shapes = count_shapes([offer.shape()]);
    check("ask-hello-equipment", &Ask::Hello { offer, open: vec![] });
    check("told-welcome-order", &Told::Welcome { epoch: 2, closed: vec![], order: Order::Drain });
    let order = Request::OrderWorkers { pool: pool(), worker: Some("w1".parse().unwrap()), order: Order::Cordon };
    check("request-order-workers", &RequestMessage { id: "r-1".parse().unwrap(), user: "ann".into(), request: order });
    let cause = FailureCause::Released { because: "no place".into() };
    let (started, ended) = (Timestamp(10), Timestamp(20));
    let records = vec![
        Record::PoolOffered { pool: pool(), shapes },
        Record::PoolOffered { pool: pool(), shapes: Vec::new() },
        Record::GangMoved { run, step: StepIndex(1), path: Path::default(), pool: pool() },
        Record::WorkersOrdered { pool: pool(), worker: None, order: Order::Cordon, user: "ann".into() },
        Record::AttemptFailed {
            run,
            step: StepIndex(1),
            path: Path(vec![2]),
            visit: 0,
            attempt: 1,
            worker: None,
            cause,
            started,
            ended,
            pool: Some(pool()),
        },
    ];
    let (at, previous) = (Timestamp(1_700_000_000_000_000), Digest::of(b"before"));
    check("turn-resources", &Turn { epoch: 3, at, inbox: 41, events: 7, announced: Position::default(), previous, records });
}

#[test]
fn live_messages() {
    let offer = Offer {
        pool: "gpu".parse().unwrap(),
        worker: "w1".parse().unwrap(),
        slots: 2,
        memory_mb: 1024,
        languages: vec!["python".into()],
        version: "0.1.0".into(),
        started: Timestamp(5),
        equipment: Equipment::default(),
        closed: false,
    };
    let open = OpenAttempt { run: run(), key: TaskKey([1; 16]) };
    check("ask-hello", &Ask::Hello { offer, open: vec![open] });
    check("ask-find-model", &Ask::FindModel { model: "demand".parse().unwrap(), version: Some(3) });
    check("told-welcome", &Told::Welcome { epoch: 2, closed: vec![open], order: Order::Serve });
    let metrics = json!({"mape": 0.1}).as_object().unwrap().clone();
    check("told-model", &Told::Model { version: 3, object: object(), artifact: "_m".into(), format: "json".into(), metrics });
    check("told-refused", &Told::Refused(Problem::new(Code::NOT_FOUND, "no model").hint("see: causey models ls")));
    let output = LiveOutput {
        step: "work".parse().unwrap(),
        task: "2".into(),
        attempt: 0,
        at: Timestamp(5),
        stream: OutputStream::Stderr,
        text: "hi\n".into(),
        position: 0,
    };
    check("live-output", &output);
    check("live-output-later", &LiveOutput { position: 70_000, ..output });
}

/// A flow with a switch, one case of which leads back to its step.
fn switching() -> Flow {
    let definition: Definition = serde_json::from_value(json!({
        "format": 1, "name": "Switching", "language": "python", "file": "switching.py", "package": Digest::of(b"package"),
        "steps": [
            {"name": "start", "line": 5, "next": {"linear": {"to": "again"}}},
            {"name": "again", "line": 9, "visits_max": 50, "next": {"switch": {"condition": "left", "cases": [
                {"value": "more", "to": "again"}, {"value": 0, "to": "end"}, {"value": true, "to": "end"}]}}},
            {"name": "end", "line": 18, "next": "end"}
        ]
    }))
    .unwrap();
    Flow::try_from(definition).unwrap()
}

#[test]
fn switches() {
    let (run, step, path) = (run(), StepIndex(1), Path(vec![2]));
    let records = vec![
        Record::FlowRegistered { digest: switching().digest(), flow: Box::new(switching()) },
        Record::SwitchTaken { run, step, path, visit: 3, to: StepIndex(2) },
    ];
    let (at, previous) = (Timestamp(1_700_000_000_000_000), Digest::of(b"before"));
    check("turn-switch", &Turn { epoch: 3, at, inbox: 41, events: 7, announced: Position::default(), previous, records });
}

#[test]
fn steps_in_several_languages() {
    let definition: Definition = serde_json::from_value(json!({
        "format": 1, "name": "Mixed", "language": "exec", "file": "flow.toml", "package": Digest::of(b"package"),
        "steps": [
            {"name": "start", "line": 5, "next": {"linear": {"to": "fit"}}},
            {"name": "fit", "line": 9, "code": {"language": "r", "file": "fit.R"}, "next": "end"}
        ]
    }))
    .unwrap();
    let flow = Flow::try_from(definition).unwrap();
    assert!(flow.is_mixed());
    assert_eq!((flow.code(StepIndex(0)), flow.code(StepIndex(1))), (("exec", "flow.toml"), ("r", "fit.R")));
    let records = vec![Record::FlowRegistered { digest: flow.digest(), flow: Box::new(flow) }];
    let (at, previous) = (Timestamp(1_700_000_000_000_000), Digest::of(b"before"));
    check("turn-languages", &Turn { epoch: 3, at, inbox: 41, events: 7, announced: Position::default(), previous, records });
}

#[test]
fn gangs() {
    let definition: Definition = serde_json::from_value(json!({
        "format": 1, "name": "Gang", "language": "python", "file": "gang.py", "package": Digest::of(b"package"),
        "steps": [
            {"name": "start", "line": 5, "next": {"gang": {"to": "train"}}},
            {"name": "train", "line": 9, "gather_seconds": 30.0, "next": {"linear": {"to": "join"}}},
            {"name": "join", "join": true, "line": 14, "next": {"linear": {"to": "end"}}},
            {"name": "end", "line": 18, "next": "end"}
        ]
    }))
    .unwrap();
    let flow = Flow::try_from(definition).unwrap();
    let (run, step, path, attempt) = (run(), StepIndex(1), Path(vec![2]), 3);
    let worker = || "w1".parse().unwrap();
    let address = Address { ip: [10, 0, 0, 7].into(), port: 4_711 };
    let (at, started, ended) = (Timestamp(1_700_000_000_000_000), Timestamp(5), Timestamp(7));
    let next = vec!["join".parse().unwrap()];
    let success = Success {
        digest: Digest::of(b"object"),
        bytes: 10,
        next,
        foreach: None,
        publications: Vec::new(),
        children: Vec::new(),
        started,
        ended,
        content: None,
    };
    let records = vec![
        Record::FlowRegistered { digest: flow.digest(), flow: Box::new(flow) },
        Record::GangOpened { run, step, path: path.clone(), size: 4, pool: "gpu".parse().unwrap() },
        Record::GangCalled { run, step, path: path.clone(), attempt, until: at },
        Record::MemberJoined { run, step, path: path.child(1), attempt, worker: worker(), address, at },
        Record::GangFormed { run, step, path: path.clone(), attempt },
        Record::MemberSucceeded { run, step, path: path.child(1), attempt, worker: worker(), success: Box::new(success) },
        Record::GangDissolved { run, step, path: path.clone(), attempt, retry: 1, not_before: at, because: "train/2.1 failed".into() },
    ];
    let previous = Digest::of(b"before");
    check("turn-gang", &Turn { epoch: 3, at, inbox: 41, events: 7, announced: Position::default(), previous, records });
    let step = || "train".parse().unwrap();
    let item = ReportItem { run, step: step(), path: path.child(1), visit: 0, attempt, outcome: Outcome::Joined { address, at } };
    check("report-joined", &Report { pool: "gpu".parse().unwrap(), worker: worker(), items: vec![item] });
    check("ask-gang", &Ask::Gang { run, step: step(), path: path.child(1), attempt });
    let other = Address { ip: "2001:db8::1".parse().unwrap(), port: 1 };
    check("told-gang", &Told::Gang { members: Some(vec![address, other]) });
}

#[test]
fn timeouts_and_filters() {
    let timed = || {
        let mut definition = Definition::from(flow());
        definition.timeout_seconds = Some(3600.0);
        let step = &mut definition.steps[1];
        (step.timeout_seconds, step.grace_seconds) = (Some(90.0), Some(0.5));
        step.retry.as_mut().unwrap().on = vec!["OSError".into(), "TimeoutException".into()];
        Flow::try_from(definition).unwrap()
    };
    let error = || ErrorInfo { classes: vec!["OSError".into(), "Exception".into()], ..error() };
    let submit = Request::Submit {
        flow: FlowChoice::Given(Box::new(timed())),
        parameters: BTreeMap::new(),
        tags: Vec::new(),
        host: None,
        timeout_seconds: Some(60.0),
        standing: Standing::default(),
        fresh: false,
    };
    check("request-submit-timeout", &RequestMessage { id: "r-1".parse().unwrap(), user: "ann".into(), request: submit });
    let (run, step, path, started, ended) = (run(), StepIndex(1), Path(vec![2]), Timestamp(10), Timestamp(20));
    let outcome = Outcome::Failed(Failure {
        kind: FailureKind::TimedOut,
        error: Box::new(error()),
        digest: Some(Digest::of(b"o")),
        bytes: 9,
        started,
        ended,
    });
    let item = ReportItem { run, step: "work".parse().unwrap(), path: path.clone(), visit: 0, attempt: 1, outcome };
    check("report-timeout", &Report { pool: "gpu".parse().unwrap(), worker: "w1".parse().unwrap(), items: vec![item] });
    let cause = FailureCause::TimedOut { error: Box::new(error()), object: Some((Digest::of(b"o"), 9)) };
    let start = RunStarted {
        run,
        name: "brisk-otter-41".parse().unwrap(),
        origin: Origin([7; 16]),
        joined: Vec::new(),
        definition: timed().digest(),
        version: None,
        parameters: BTreeMap::new(),
        cause: Cause::Request { id: "r-1".parse().unwrap() },
        user: "ann".into(),
        tags: Vec::new(),
        host: None,
        timeout_seconds: Some(60.0),
        waits: false,
        standing: Standing::default(),
        fresh: false,
    };
    let records = vec![
        Record::RunStarted(Box::new(start)),
        Record::AttemptFailed { run, step, path, visit: 0, attempt: 1, worker: None, cause, started, ended, pool: None },
    ];
    let (at, previous) = (Timestamp(1_700_000_000_000_000), Digest::of(b"before"));
    check("turn-timeout", &Turn { epoch: 3, at, inbox: 41, events: 7, announced: Position::default(), previous, records });
}

/// Row 37 of the fault model.
#[test]
fn turns() {
    let (run, step, path, worker, pool) = (run(), StepIndex(1), Path(vec![2]), "w1".parse().unwrap(), "gpu".parse().unwrap());
    let (started, ended, digest) = (Timestamp(10), Timestamp(20), Digest::of(b"object"));
    let failed = |cause| Record::AttemptFailed {
        run,
        step,
        path: Path(vec![2]),
        visit: 0,
        attempt: 1,
        worker: None,
        cause,
        started,
        ended,
        pool: None,
    };
    let error = || Box::new(error());
    let start = RunStarted {
        run,
        name: "brisk-otter-41".parse().unwrap(),
        origin: Origin([7; 16]),
        joined: vec![Origin([8; 16])],
        definition: flow().digest(),
        version: Some(2),
        parameters: BTreeMap::from([("alpha".to_owned(), json!(0.5))]),
        cause: Cause::Event { trigger: 0, events: vec![json!({"id": "e1"})] },
        user: "ann".into(),
        tags: vec!["t".into()],
        host: Some(HostMode::Fork),
        timeout_seconds: None,
        waits: false,
        standing: Standing::default(),
        fresh: false,
    };
    let published =
        ModelPublished { version: 4, run, step, path: path.clone(), visit: 0, attempt: 1, digest, bytes: 321, publication: publication() };
    let records = vec![
        Record::LogOpened { store: uuid::Uuid::from_u128(9) },
        Record::LeaderChanged { leader: "coordinator".into() },
        Record::RequestAnswered { id: "r-1".parse().unwrap(), answer: Answer::RunStarted { run, name: "brisk-otter-41".parse().unwrap() } },
        Record::RequestAnswered { id: "r-2".parse().unwrap(), answer: Answer::Deployed { flow: "Hello".parse().unwrap(), version: 2 } },
        Record::RequestAnswered { id: "r-3".parse().unwrap(), answer: Answer::Cancelling { run } },
        Record::RequestAnswered { id: "r-4".parse().unwrap(), answer: Answer::Done },
        Record::RequestAnswered { id: "r-5".parse().unwrap(), answer: Answer::Refused(Problem::new(Code::GRAPH, "a cycle")) },
        Record::FlowRegistered { digest: flow().digest(), flow: Box::new(flow()) },
        Record::FlowDeployed { flow: "Hello".parse().unwrap(), version: 2, definition: flow().digest(), user: "ann".into() },
        Record::EventTaken {
            sequence: 3,
            source: "/s".into(),
            id: "e1".into(),
            started: vec![run],
            because: vec!["why".into()],
            duplicate: false,
        },
        Record::EventHeld {
            flow: "Hello".parse().unwrap(),
            trigger: 0,
            event: 1,
            origin: Origin([8; 16]),
            cloud_event: json!({"id": "e1"}),
        },
        Record::RunStarted(Box::new(start.clone())),
        Record::RunStarted(Box::new(RunStarted { cause: Cause::Request { id: "r-1".parse().unwrap() }, ..start })),
        Record::AttemptsOpened { run, step, pool, tasks: TaskSet::Range { path: Path::default(), from: 0, to: 300 }, attempt: 0, retry: 0 },
        Record::AttemptsOpened {
            run,
            step,
            pool: "gpu".parse().unwrap(),
            tasks: TaskSet::One { path: path.clone(), visit: 1 },
            attempt: 1,
            retry: 1,
        },
        Record::AttemptStarted { run, step, path: path.clone(), visit: 0, attempt: 1, worker, at: started },
        Record::AttemptSucceeded {
            run,
            step,
            path: path.clone(),
            visit: 0,
            attempt: 1,
            worker: "w1".parse().unwrap(),
            digest,
            bytes: 321,
            started,
            ended,
        },
        failed(FailureCause::User { error: error(), object: Some((digest, 9)) }),
        failed(FailureCause::Permanent { error: error(), object: None }),
        failed(FailureCause::Infrastructure { error: error() }),
        failed(FailureCause::Lost),
        failed(FailureCause::Released { because: "draining".into() }),
        Record::RetryScheduled { run, step, path: path.clone(), visit: 0, attempt: 2, retry: 2, not_before: Timestamp(99) },
        Record::ForeachOpened { run, step, path: path.clone(), count: 3_000, chunk: None },
        Record::InputsGathered { run, step, path: path.clone(), digest, count: 3_000 },
        Record::InputsStored { run, step, path },
        Record::ModelPublished(Box::new(published)),
        Record::Notified {
            id: NotificationId([3; 16]),
            topic: Topic::ModelPublished,
            name: "demand".into(),
            run,
            data: json!({"version": 4}),
        },
        Record::Notified { id: NotificationId([4; 16]), topic: Topic::RunFinished, name: "Hello".into(), run, data: json!({}) },
        Record::RunFinished { run, state: RunState::Failed, problem: Some(Problem::new(Code::USER_CODE, "work/2 failed")) },
        Record::Ignored { because: "late report".into() },
    ];
    let turn = Turn {
        epoch: 3,
        at: Timestamp(1_700_000_000_000_000),
        inbox: 41,
        events: 7,
        announced: Position { sequence: 12, index: 3 },
        previous: Digest::of(b"before"),
        records,
    };
    check("turn", &turn);
}

#[test]
fn turns_of_wide_foreaches() {
    let (run, step, path, digest) = (run(), StepIndex(1), Path(vec![2]), Digest::of(b"object"));
    let items = vec![ItemSucceeded(7, digest, 321, 0, 9), ItemSucceeded(70_000, digest, 5_000_000_000, 1_000, 2_000_000)];
    let (outer, worker, since) = (path.clone(), "w1".parse().unwrap(), Timestamp(1_700_000_000_000_000));
    let records = vec![
        Record::ForeachOpened { run, step, path: path.clone(), count: 1_000_000, chunk: Some(1_000) },
        Record::AttemptsSucceeded { run, step, outer, visit: 0, attempt: 1, worker, since, items },
        Record::ChunkGathered { run, step, path: path.clone(), chunk: 3, digest },
        Record::ChunkStored { run, step, path, chunk: 3 },
    ];
    let announced = Position { sequence: 12, index: 3 };
    check("turn-wide-foreach", &Turn { epoch: 3, at: since, inbox: 41, events: 7, announced, previous: Digest::of(b"before"), records });
    check("inputs-chunks", &Inputs::Chunks { digest, count: 1_000_000 });
}

#[test]
fn turns_of_a_resumed_run() {
    let (run, step, path, digest) = (run(), StepIndex(1), Path(vec![2]), Digest::of(b"object"));
    let earlier = Resumption {
        run,
        name: "brisk-otter-41".parse().unwrap(),
        step: Some("join".parse().unwrap()),
        again: BTreeMap::from([("join".parse().unwrap(), "it was asked for".to_owned())]),
        events: vec![json!({"id": "e1"})],
        instant: Some(Timestamp(1_600_000_000_000_000)),
    };
    let wish = Resume {
        earlier: earlier.clone(),
        flow: flow(),
        version: Some(2),
        parameters: BTreeMap::from([("alpha".to_owned(), json!(0.5))]),
        tags: vec!["t".into()],
        host: Some(HostMode::Fork),
        timeout_seconds: Some(60.0),
        standing: Standing::default(),
    };
    let message = |wish: &Resume| {
        let request = Request::Resume(Box::new(wish.clone()));
        RequestMessage { id: "r-9".parse().unwrap(), user: "ann".into(), request }
    };
    check("request-resume", &message(&wish));
    let standing = Standing { priority: Some(50), max_parallel: Some(4) };
    check("request-resume-urgent", &message(&Resume { standing, ..wish }));
    let start = RunStarted {
        run,
        name: "calm-otter-41".parse().unwrap(),
        origin: Origin([9; 16]),
        joined: Vec::new(),
        definition: flow().digest(),
        version: None,
        parameters: BTreeMap::new(),
        cause: Cause::Resume { id: "r-9".parse().unwrap(), earlier: Box::new(earlier) },
        user: "ann".into(),
        tags: Vec::new(),
        host: None,
        timeout_seconds: None,
        waits: false,
        standing: Standing::default(),
        fresh: false,
    };
    let tasks = TaskSet::Range { path: path.clone(), from: 1_000, to: 2_000 };
    let records = vec![
        Record::RunStarted(Box::new(start)),
        Record::ResultsSought { run, step, tasks: TaskSet::One { path: path.clone(), visit: 1 } },
        Record::ResultsReused { run, step, tasks, owners: vec![run], items: vec![ItemReused(7, 0, 1, digest, 321)] },
        Record::ChunkReused { run, step, path, chunk: 3, digest, tasks: vec![(StepIndex(1), 1_000), (StepIndex(2), 4_000)] },
    ];
    let (at, announced) = (Timestamp(1_700_000_000_000_000), Position { sequence: 12, index: 3 });
    check("turn-resume", &Turn { epoch: 3, at, inbox: 41, events: 7, announced, previous: Digest::of(b"before"), records });
}

#[test]
fn memoised_steps() {
    let mut definition = Definition::from(flow());
    let version = Some("v1".into());
    (definition.steps[1].memo, definition.steps[1].catch) = (Some(MemoPolicy { version, expires_seconds: Some(604_800.0) }), None);
    let flow = Flow::try_from(definition).unwrap();
    let submit = Request::Submit {
        flow: FlowChoice::Given(Box::new(flow.clone())),
        parameters: BTreeMap::new(),
        tags: Vec::new(),
        host: None,
        timeout_seconds: None,
        standing: Standing::default(),
        fresh: true,
    };
    check("request-submit-fresh", &RequestMessage { id: "r-1".parse().unwrap(), user: "ann".into(), request: submit });
    let (run, step, path, content) = (run(), StepIndex(1), Path(vec![2]), ContentId([3; 16]));
    let success = Success {
        digest: Digest::of(b"object"),
        bytes: 321,
        next: vec!["join".parse().unwrap()],
        foreach: None,
        publications: Vec::new(),
        children: Vec::new(),
        started: Timestamp(10),
        ended: Timestamp(20),
        content: Some(content),
    };
    let outcome = Outcome::Succeeded(success);
    let item = ReportItem { run, step: "work".parse().unwrap(), path: path.clone(), visit: 0, attempt: 0, outcome };
    check("report-content", &Report { pool: "gpu".parse().unwrap(), worker: "w1".parse().unwrap(), items: vec![item] });
    let key = MemoKey([4; 16]);
    let start = RunStarted {
        run,
        name: "calm-otter-41".parse().unwrap(),
        origin: Origin([9; 16]),
        joined: Vec::new(),
        definition: flow.digest(),
        version: None,
        parameters: BTreeMap::new(),
        cause: Cause::Request { id: "r-1".parse().unwrap() },
        user: "ann".into(),
        tags: Vec::new(),
        host: None,
        timeout_seconds: None,
        waits: false,
        standing: Standing::default(),
        fresh: true,
    };
    let results = vec![ResultRemembered(path.clone(), 1, Some(content), None), ResultRemembered(path, 0, None, Some(key))];
    let records = vec![
        Record::FlowRegistered { digest: flow.digest(), flow: Box::new(flow) },
        Record::RunStarted(Box::new(start)),
        Record::ResultsRemembered { run, step, results },
        Record::ResultsForgotten { keys: vec![key] },
    ];
    let (at, announced) = (Timestamp(1_700_000_000_000_000), Position { sequence: 12, index: 3 });
    check("turn-memo", &Turn { epoch: 3, at, inbox: 41, events: 7, announced, previous: Digest::of(b"before"), records });
}

#[test]
fn chunks_of_a_foreach() {
    let digest = Digest::of(b"object");
    let tasks = vec![ChunkTask(vec![1_000], 0, 0, 0, 0, digest, 321, 0, 9), ChunkTask(vec![1_001, 4], 1, 2, 1, 0, digest, 5, 10, 20)];
    let nested = ChunkedForeach { split: "outer".parse().unwrap(), path: Path(vec![1_002]), count: 65, chunks: vec![digest] };
    let chunk = Chunk {
        run: run(),
        split: "start".parse().unwrap(),
        path: Path::default(),
        from: 1_000,
        to: 2_000,
        steps: vec![ChunkStep {
            step: "work".parse().unwrap(),
            workers: vec!["w1".parse().unwrap()],
            since: Timestamp(5),
            tasks,
            reused: Vec::new(),
        }],
        nested: vec![nested.clone()],
    };
    check("chunk", &chunk);
    let mut mixed = chunk;
    mixed.steps[0].reused = vec![ReusedTasks(1, 2, RunId::derive(Timestamp(1_600_000_000_000_000), &Origin([8; 16])))];
    check("chunk-reused", &mixed);
    let owners: Vec<RunId> = mixed.tasks(&"work".parse().unwrap()).map(|task| task.object.run).collect();
    assert_eq!(owners, [mixed.run, mixed.steps[0].reused[0].2]);
    check("chunk-list", &ChunkList { run: run(), step: "work".parse().unwrap(), foreach: nested });
}

#[test]
fn turns_about_upkeep() {
    let (run, step, digest) = (run(), StepIndex(1), Digest::of(b"object"));
    let snapshot = SnapshotTaken {
        sequence: 41,
        turn: Digest::of(b"turn"),
        state: Digest::of(b"state"),
        digest,
        bytes: 321,
        records: 90,
        inbox: 12,
        events: 3,
    };
    let tasks = TaskSet::One { path: Path(vec![2]), visit: 0 };
    let records = vec![
        Record::StreamsSeen { created: BTreeMap::from([("CAUSEY_IN".to_owned(), 1_700_000_000_000_000)]) },
        Record::SnapshotTaken(Box::new(snapshot)),
        Record::HistoryStored { run, digest, bytes: 321 },
        Record::RunRetired { run },
        Record::StorageChanged(Storage { level: StorageLevel::Critical, stream: "CAUSEY_LOG".into(), percent: 91 }),
        Record::AttemptsHeld { run, step, tasks, attempt: 1, retry: 1 },
        Record::LossAccepted { stream: "CAUSEY_IN".into(), seen: 12, found: 7, user: "ann".into() },
    ];
    let (at, announced, previous) = (Timestamp(1_700_000_000_000_000), Position { sequence: 12, index: 3 }, Digest::of(b"before"));
    check("turn-upkeep", &Turn { epoch: 3, at, inbox: 7, events: 3, announced, previous, records });
}

#[test]
fn schedules_backfills_and_concurrency() {
    let scheduled = || {
        let mut definition = Definition::from(flow());
        let schedules = json!([
            {"cron": "0 2 * * *", "timezone": "Europe/Berlin", "line": 3, "catch_up": "all", "catch_up_max": 7, "jitter_seconds": 60,
             "parameters": {"alpha": "seconds"}},
            {"cron": "0 0 ? * SUN *"}
        ]);
        definition.schedules = serde_json::from_value(schedules).unwrap();
        definition.concurrency = Some(Concurrency { strategy: Strategy::Queue, max: 2 });
        Flow::try_from(definition).unwrap()
    };
    let plan = BackfillPlan {
        flow: "Hello".parse().unwrap(),
        cron: "0 2 * * *".into(),
        timezone: "Europe/Berlin".into(),
        first: Timestamp(10),
        last: Timestamp(90),
        total: 9,
        max_parallel: 2,
        parameters: BTreeMap::from([("alpha".to_owned(), json!(0.1))]),
        instant: BTreeMap::from([("day".to_owned(), "date".to_owned())]),
    };
    let message = |request| RequestMessage { id: "r-1".parse().unwrap(), user: "ann".into(), request };
    let (flow, id) = (|| "Hello".parse().unwrap(), || "b-1".parse().unwrap());
    check("request-deploy-schedules", &message(Request::Deploy { flow: Box::new(scheduled()) }));
    check("request-pause-schedules", &message(Request::PauseSchedules { flow: flow() }));
    check("request-resume-schedules", &message(Request::ResumeSchedules { flow: flow() }));
    check("request-backfill", &message(Request::Backfill(Box::new(plan.clone()))));
    check("request-cancel-backfill", &message(Request::CancelBackfill { backfill: id(), because: "enough".into() }));
    let run = run();
    let (schedule, instant) = ("0 2 * * * Europe/Berlin".to_owned(), Timestamp(1_700_000_000_000_000));
    let start = RunStarted {
        run,
        name: "brisk-otter-41".parse().unwrap(),
        origin: Origin([7; 16]),
        joined: Vec::new(),
        definition: scheduled().digest(),
        version: Some(1),
        parameters: BTreeMap::new(),
        cause: Cause::Schedule { schedule: schedule.clone(), instant },
        user: "ann".into(),
        tags: Vec::new(),
        host: None,
        timeout_seconds: None,
        waits: true,
        standing: Standing::default(),
        fresh: false,
    };
    let records = vec![
        Record::RunStarted(Box::new(start.clone())),
        Record::RunStarted(Box::new(RunStarted { cause: Cause::Backfill { backfill: id(), instant }, ..start })),
        Record::RunAdmitted { run },
        Record::StartSkipped {
            flow: flow(),
            origin: Origin([7; 16]),
            joined: vec![Origin([8; 16])],
            trigger: Some(1),
            because: "w".into(),
        },
        Record::ScheduleFired { flow: flow(), schedule: schedule.clone(), instant, missed: 0, run: Some(run), because: None },
        Record::ScheduleFired { flow: flow(), schedule, instant, missed: 3, run: None, because: Some("missed".into()) },
        Record::SchedulesPaused { flow: flow(), user: "ann".into() },
        Record::SchedulesResumed { flow: flow(), user: "ann".into() },
        Record::BackfillStarted(Box::new(BackfillStarted {
            backfill: id(),
            plan,
            definition: scheduled().digest(),
            version: 1,
            user: "ann".into(),
        })),
        Record::BackfillAdvanced { backfill: id(), instant, run: Some(run), because: None },
        Record::BackfillCancelled { backfill: id(), because: "enough".into() },
        Record::RequestAnswered { id: "r-1".parse().unwrap(), answer: Answer::BackfillStarted { backfill: id(), total: 9 } },
    ];
    let turn = Turn { epoch: 3, at: instant, inbox: 41, events: 7, announced: Position::default(), previous: Digest::of(b"b"), records };
    check("turn-schedules", &turn);
}

/// Gates, and runs that runs start.
#[test]
fn gates() {
    let gated = || {
        let mut definition = Definition::from(flow());
        let signal = |name: &str| SignalGate { name: name.parse().unwrap(), timeout_seconds: None, default: None };
        let late = SignalGate { timeout_seconds: Some(60.0), default: Some(DefaultData { value: json!(null) }), ..signal("late") };
        let approval = Some(ApprovalGate { by: vec!["ann".into()], timeout_seconds: Some(3600.0) });
        definition.steps[1].gate = Some(Box::new(StepGate { signals: vec![signal("go"), late], approval }));
        Flow::try_from(definition).unwrap()
    };
    let message = |request| RequestMessage { id: "r-1".parse().unwrap(), user: "ann".into(), request };
    check("request-deploy-gate", &message(Request::Deploy { flow: Box::new(gated()) }));
    let signal = Request::Signal { run: run(), name: "go".parse().unwrap(), data: json!({"rate": [0.5, null]}) };
    check("request-signal", &message(signal));
    let (step, because) = ("work".parse().unwrap(), "looks right".into());
    check("request-approve", &message(Request::Approve { run: run(), step, approved: true, because }));
    let (run, at, flow_name) = (run(), Timestamp(1_700_000_000_000_000), "Other".parse().unwrap());
    let parameters = BTreeMap::from([("alpha".to_owned(), json!(0.5))]);
    let child = ChildStart { flow: flow_name, parameters, wait: true, allow_failure: false };
    let parent = Parent {
        run,
        name: "brisk-otter-41".parse().unwrap(),
        step: "work".parse().unwrap(),
        path: Path(vec![2]),
        visit: 0,
        ordinal: 1,
        wait: true,
        allow_failure: false,
        depth: 1,
    };
    let started = RunStarted {
        run,
        name: "calm-fox-2".parse().unwrap(),
        origin: Origin([9; 16]),
        joined: Vec::new(),
        definition: gated().digest(),
        version: Some(1),
        parameters: child.parameters.clone(),
        cause: Cause::Parent(Box::new(parent)),
        user: "ann".into(),
        tags: Vec::new(),
        host: None,
        timeout_seconds: None,
        waits: false,
        standing: Standing::default(),
        fresh: false,
    };
    let success = Success {
        digest: Digest::of(b"object"),
        bytes: 321,
        next: vec!["join".parse().unwrap()],
        foreach: None,
        publications: Vec::new(),
        children: vec![child],
        started: Timestamp(10),
        ended: Timestamp(20),
        content: None,
    };
    let item =
        ReportItem { run, step: "work".parse().unwrap(), path: Path(vec![2]), visit: 0, attempt: 0, outcome: Outcome::Succeeded(success) };
    let told = || BTreeMap::from([("progress".parse().unwrap(), json!({"done": 7}))]);
    let telling = ReportItem { outcome: Outcome::Status { values: told() }, ..item.clone() };
    check("report-status", &Report { pool: "gpu".parse().unwrap(), worker: "w1".parse().unwrap(), items: vec![telling] });
    check("report-children", &Report { pool: "gpu".parse().unwrap(), worker: "w1".parse().unwrap(), items: vec![item] });
    let awaits = vec![
        Awaited { gate: Gate::Signal { name: "go".parse().unwrap() }, until: None },
        Awaited { gate: Gate::Approval, until: Some(at) },
        Awaited { gate: Gate::Child { run }, until: None },
    ];
    let (name, user) = ("go".parse().unwrap(), "ann".to_owned());
    let sent = SignalSource::Sent { user: user.clone(), request: "r-1".parse().unwrap() };
    let records = vec![
        Record::RunStarted(Box::new(started)),
        Record::TasksGated { run, step: StepIndex(1), tasks: TaskSet::Range { path: Path::default(), from: 0, to: 9 }, awaits },
        Record::SignalReceived { run, name, data: json!([1]), source: sent },
        Record::SignalReceived { run, name: "late".parse().unwrap(), data: json!(null), source: SignalSource::Default },
        Record::ApprovalRequested { run, step: StepIndex(1), until: Some(at) },
        Record::ApprovalDecided { run, step: StepIndex(1), approved: false, user, because: "no".into() },
        Record::ChildEnded { run, child: run, state: RunState::Succeeded, object: Some(object()) },
        Record::Notified {
            id: NotificationId([5; 16]),
            topic: Topic::ApprovalRequested,
            name: "Hello".into(),
            run,
            data: json!({"step": "work"}),
        },
    ];
    let usage = Usage { peak_memory_bytes: 123_456_789, cpu_millis: Some(1_500), memory_limit: None };
    let used = ReportItem {
        run,
        step: "work".parse().unwrap(),
        path: Path(vec![2]),
        visit: 0,
        attempt: 1,
        outcome: Outcome::Used { usage: Usage { cpu_millis: None, ..usage } },
    };
    check("report-used", &Report { pool: "gpu".parse().unwrap(), worker: "w1".parse().unwrap(), items: vec![used] });
    let limited = Usage { memory_limit: Some(MemoryLimit { bytes: 1 << 30, by: MemoryKeeper::Watchdog }), ..usage };
    let used = Record::AttemptUsed { run, step: StepIndex(1), path: Path(vec![2]), visit: 0, attempt: 1, usage };
    let (now, hash) = (Timestamp(1_700_000_000_000_000), Digest::of(b"before"));
    check(
        "turn-used",
        &Turn { epoch: 3, at: now, inbox: 41, events: 7, announced: Position::default(), previous: hash, records: vec![used] },
    );
    let limited = Record::AttemptUsed { run, step: StepIndex(1), path: Path(vec![2]), visit: 0, attempt: 1, usage: limited };
    check(
        "turn-used-limited",
        &Turn { epoch: 3, at: now, inbox: 41, events: 7, announced: Position::default(), previous: hash, records: vec![limited] },
    );
    let set = Record::StatusSet { run, step: StepIndex(1), path: Path(vec![2]), visit: 0, attempt: 1, values: told() };
    let (at_status, before) = (Timestamp(1_700_000_000_000_000), Digest::of(b"before"));
    let told = Turn { epoch: 3, at: at_status, inbox: 41, events: 7, announced: Position::default(), previous: before, records: vec![set] };
    check("turn-status", &told);
    let previous = Digest::of(b"before");
    check("turn-gates", &Turn { epoch: 3, at, inbox: 41, events: 7, announced: Position::default(), previous, records });
}

#[test]
fn standings_shares_and_work() {
    let standing = Standing { priority: Some(-7), max_parallel: Some(4) };
    let mut definition = Definition::from(flow());
    definition.standing = standing;
    let flow = Flow::try_from(definition).unwrap();
    let submit = Request::Submit {
        flow: FlowChoice::Given(Box::new(flow.clone())),
        parameters: BTreeMap::new(),
        tags: Vec::new(),
        host: None,
        timeout_seconds: None,
        standing: Standing { priority: Some(100), max_parallel: None },
        fresh: false,
    };
    check("request-submit-standing", &RequestMessage { id: "r-1".parse().unwrap(), user: "ann".into(), request: submit });
    let (run, pool) = (run(), || "gpu".parse().unwrap());
    let start = RunStarted {
        run,
        name: "brisk-otter-41".parse().unwrap(),
        origin: Origin([7; 16]),
        joined: Vec::new(),
        definition: flow.digest(),
        version: None,
        parameters: BTreeMap::new(),
        cause: Cause::Request { id: "r-1".parse().unwrap() },
        user: "ann".into(),
        tags: Vec::new(),
        host: None,
        timeout_seconds: None,
        waits: false,
        standing,
        fresh: false,
    };
    let ann = Share { weight: 3, window: Some(20) };
    let shares = Shares { tenants: [("ann".to_owned(), ann)].into(), others: Share::default(), runs_max: Some(9) };
    let cloud_event = json!({"specversion": "1.0", "id": "e1", "source": "/s", "type": "t"});
    let records = vec![
        Record::RunStarted(Box::new(start)),
        Record::PoolResized { pool: pool(), slots: 12 },
        Record::SharesChanged(Box::new(shares)),
        Record::WorkAccepted(Box::new(Work::Event { sequence: 3, source: "api".parse().unwrap(), cloud_event })),
        Record::WorkAccepted(Box::new(Work::WorkerLost { pool: pool(), worker: "w1".parse().unwrap() })),
        Record::EventSpread {
            sequence: 3,
            next: ("Hello".parse().unwrap(), 1, 0),
            started: vec![run],
            because: vec!["why".into()],
            duplicates: 1,
        },
        Record::WorkDone { work: 77 },
    ];
    let (at, previous) = (Timestamp(1_700_000_000_000_000), Digest::of(b"before"));
    check("turn-shares", &Turn { epoch: 3, at, inbox: 41, events: 7, announced: Position::default(), previous, records });
}
