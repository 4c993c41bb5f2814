//! States to look at, made as the leader makes them: by deciding inputs.

use std::sync::Arc;

use causey_artifacts::Store;
use causey_engine::{Command, Run, State, decide, outstanding};
use causey_protocol::artifact::blob_path;
use causey_protocol::flow::{Definition, Flow, Step, Transition};
use causey_protocol::id::{Digest, FlowName, Path, PoolName, RequestId, RunId, StepName, Timestamp, WorkerName};
use causey_protocol::input::{FlowChoice, Input, Request, RequestMessage};
use causey_protocol::parameter::Values;
use causey_protocol::policy::RetryPolicy;
use causey_protocol::task::{ErrorInfo, Failure, FailureKind, Outcome, Publication, ReportItem, Success};

/// One run of the flow `start` → foreach `work` → `join`.
pub(in crate::api) struct Scene {
    pub(in crate::api) state: State,
    pub(in crate::api) run: RunId,
    /// What tasks that succeed leave.
    pub(in crate::api) object: Vec<u8>,
    now: u64,
}

/// The first step's task is offered to a pool.
pub(in crate::api) fn started() -> Scene {
    start(0)
}

/// The first step is done: `count` tasks of `work` are offered, as far as the window reaches.
pub(in crate::api) fn fanned_out(count: u32) -> Scene {
    let mut scene = start(0);
    scene.fan_out(count);
    scene
}

/// Likewise, and a failed task of `work` waits to be tried again.
pub(in crate::api) fn fanned_out_with_retries(count: u32) -> Scene {
    let mut scene = start(3);
    scene.fan_out(count);
    scene
}

fn name(text: &str) -> StepName {
    StepName::new(text).unwrap()
}

fn flow(retries: u32) -> Flow {
    let step = |text: &str, join: bool, next: Transition, retry: Option<RetryPolicy>| Step {
        name: name(text),
        line: 1,
        doc: String::new(),
        join,
        next,
        retry,
        catch: None,
        resources: None,
        host: None,
        visits_max: None,
        timeout_seconds: None,
        grace_seconds: None,
        gather_seconds: None,
        gate: None,
        memo: None,
        code: None,
        surroundings: None,
    };
    let retry = RetryPolicy { times: retries, delay_seconds: 60.0, factor: 1.0, cap_seconds: 60.0, jitter: 0.0, on: Vec::new() };
    let definition = Definition {
        format: 1,
        name: FlowName::new("Demo").unwrap(),
        language: "python".into(),
        file: "demo.py".into(),
        package: Digest::of(b"code"),
        doc: String::new(),
        steps: vec![
            step("start", false, Transition::Foreach { to: name("work"), variable: "items".into() }, None),
            step("work", false, Transition::Linear { to: name("join") }, (retries > 0).then_some(retry)),
            step("join", true, Transition::End, None),
        ],
        parameters: Vec::new(),
        triggers: Vec::new(),
        timeout_seconds: None,
        schedules: Vec::new(),
        concurrency: None,
        standing: Default::default(),
    };
    Flow::try_from(definition).unwrap()
}

fn start(retries: u32) -> Scene {
    let mut state = State::default();
    state.open_turn(Timestamp(1_700_000_000_000_000));
    let id = RequestId::new("request-1").unwrap();
    let flow = FlowChoice::Given(Box::new(flow(retries)));
    let request = Request::Submit {
        flow,
        parameters: Values::new(),
        tags: vec!["nightly".into()],
        host: None,
        timeout_seconds: None,
        standing: Default::default(),
        fresh: false,
    };
    decide(&mut state, Input::Request(RequestMessage { id, user: "ann".into(), request }));
    let run = state.runs.values().next().unwrap().id();
    Scene { state, run, object: b"object".to_vec(), now: 1_700_000_000_000_000 }
}

impl Scene {
    pub(in crate::api) fn run(&self) -> (&Run, Arc<Flow>) {
        let run = self.state.run(self.run).unwrap();
        (run, self.state.flow_of(run).unwrap())
    }

    fn fan_out(&mut self, count: u32) {
        let (next, object) = (vec![name("work")], self.object.clone());
        self.report("start", &[], |started, ended| Outcome::Succeeded(success(&object, next, Some(count), Vec::new(), started, ended)));
    }

    pub(in crate::api) fn succeed(&mut self, step: &str, index: u32) {
        let (next, object) = (vec![name("join")], self.object.clone());
        self.report(step, &[index], |started, ended| Outcome::Succeeded(success(&object, next, None, Vec::new(), started, ended)));
    }

    /// Does what the leader does with full chunks of a wide foreach.
    pub(in crate::api) async fn store_chunks(&mut self, store: &Store) {
        for command in outstanding(&self.state) {
            if let Command::StoreBlob { digest, bytes } = command {
                store.put_if_absent(&blob_path(&digest), bytes.into()).await.unwrap();
                self.state.open_turn(Timestamp(self.now));
                decide(&mut self.state, Input::BlobStored { digest });
            }
        }
    }

    /// The run's last step ends and publishes a model.
    pub(in crate::api) fn publish(&mut self, publication: Publication) {
        let object = self.object.clone();
        self.report("join", &[], |started, ended| {
            Outcome::Succeeded(success(&object, Vec::new(), None, vec![publication], started, ended))
        });
    }

    pub(in crate::api) fn fail(&mut self, step: &str, index: u32, kind: &str, hash: &str) {
        let error = ErrorInfo { kind: kind.into(), message: "no".into(), hash: Some(hash.into()), ..ErrorInfo::default() };
        self.report(step, &[index], |started, ended| {
            Outcome::Failed(Failure { kind: FailureKind::User, error: Box::new(error), digest: None, bytes: 0, started, ended })
        });
    }

    fn report(&mut self, step: &str, path: &[u32], outcome: impl FnOnce(Timestamp, Timestamp) -> Outcome) {
        self.now += 1_000;
        let (started, ended) = (Timestamp(self.now), Timestamp(self.now + 500));
        self.state.open_turn(ended);
        let (pool, worker) = (PoolName::new("default").unwrap(), WorkerName::new("w-1").unwrap());
        let item = ReportItem {
            run: self.run,
            step: name(step),
            path: Path(path.to_vec()),
            visit: 0,
            attempt: 0,
            outcome: outcome(started, ended),
        };
        decide(&mut self.state, Input::Report { pool, worker, items: vec![item] });
    }
}

fn success(
    object: &[u8],
    next: Vec<StepName>,
    foreach: Option<u32>,
    publications: Vec<Publication>,
    started: Timestamp,
    ended: Timestamp,
) -> Success {
    Success {
        digest: Digest::of(object),
        bytes: object.len() as u64,
        next,
        foreach,
        publications,
        children: Vec::new(),
        started,
        ended,
        content: None,
    }
}
