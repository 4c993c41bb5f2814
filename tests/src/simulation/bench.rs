//! User code of a simulated worker: it takes its time, ends as chance has it, differently each time it runs, and what it leaves is
//! stored once for each attempt.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use bytes::Bytes;
use causey_artifacts::{Artifact, Manifest, Object, OutputPlace, Put, ReportNote, Store, StoreError, compose};
use causey_protocol::artifact::{blob_path, object_path};
use causey_protocol::backoff::Delays;
use causey_protocol::codec;
use causey_protocol::flow::{Step, Transition};
use causey_protocol::gate::ChildStart;
use causey_protocol::id::{Digest, FlowName, StepName};
use causey_protocol::live::OpenAttempt;
use causey_protocol::task::{Address, Dispatch, ErrorInfo, Failure, FailureKind, InputRef, Inputs, Outcome, Publication, Success};
use causey_worker::bench::Bench;
use causey_worker::{Confirm, Gangs, Job, Leader, Reports, stored_outcome};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::flows;
use super::node::Node;
use super::world::lock;

/// Tries of a store call.
const TRIES_MAX: u32 = 8;

/// When a running attempt says that it has started.
const STARTED_AFTER: Duration = Duration::from_secs(1);

/// Longest encoding that is read back.
const BYTES_MAX: usize = 1 << 20;

#[derive(Debug)]
pub(crate) struct Simulated {
    pub(crate) node: Node,
    pub(crate) store: Store,
    pub(crate) leader: Leader<Node>,
    pub(crate) gangs: Gangs,
}

/// Tries a store call again as long as it may work later.
async fn patiently<T, F: Future<Output = Result<T, StoreError>>>(call: impl Fn() -> F) -> Result<T, StoreError> {
    let mut delays = Delays::new(Duration::from_millis(50), Duration::from_secs(2));
    for _ in 1..TRIES_MAX {
        match call().await {
            Err(error) if error.is_transient() => tokio::time::sleep(delays.next_delay()).await,
            done => return done,
        }
    }
    call().await
}

/// The outcome that an object tells.
fn read(job: &Job, bytes: &Bytes) -> Outcome {
    stored_outcome(&Object::read(bytes.clone()).expect("an object of the simulation"), job.dispatch.content)
}

/// The object of an attempt that left its outcome and one small value.
fn object(job: &Job, ran: &Outcome, value: u8) -> Bytes {
    let mut manifest = Manifest {
        format: 1,
        task: job.note(),
        objects: Vec::new(),
        artifacts: BTreeMap::new(),
        output: None,
        error: None,
        next: Vec::new(),
        foreach: None,
        report: None,
    };
    match ran {
        Outcome::Succeeded(success) => {
            let (publications, children) = (success.publications.clone(), success.children.clone());
            (manifest.next, manifest.foreach) = (success.next.clone(), success.foreach);
            manifest.artifacts.insert("value".into(), artifact(value));
            manifest.report = Some(ReportNote { started: success.started, ended: success.ended, failure: None, publications, children });
        }
        Outcome::Failed(failure) => {
            let (publications, children) = (Vec::new(), Vec::new());
            manifest.error = Some((*failure.error).clone());
            let kind = Some(failure.kind);
            manifest.report = Some(ReportNote { started: failure.started, ended: failure.ended, failure: kind, publications, children });
        }
        other => unreachable!("user code does not end with {other:?}"),
    }
    compose(vec![value], OutputPlace::Nothing, manifest).into()
}

fn artifact(value: u8) -> Artifact {
    let (encoding, kind, hash) = ("bytes".into(), "bytes".into(), Digest::of(&[value]).to_string());
    Artifact { object: None, blob: None, offset: Some(0), bytes: 1, buffers: None, encoding, kind, hash }
}

impl Simulated {
    fn failure(&self, kind: FailureKind, message: &str) -> Outcome {
        let error = ErrorInfo { kind: "ValueError".into(), message: message.into(), ..ErrorInfo::default() };
        let now = self.node.now();
        Outcome::Failed(Failure { kind, error: Box::new(error), digest: None, bytes: 0, started: now, ended: now })
    }

    /// All that a task receives must be there and whole (I8).
    async fn inputs(&self, job: &Job) -> Result<(), StoreError> {
        let listed = match &job.task().inputs {
            Inputs::Listed(listed) => listed.clone(),
            Inputs::Manifest { digest, .. } => {
                let bytes = self.verified(&blob_path(digest), digest).await?;
                codec::decode::<Vec<InputRef>>(&bytes, BYTES_MAX).expect("a manifest")
            }
            Inputs::Chunks { digest, .. } => {
                self.verified(&blob_path(digest), digest).await?;
                Vec::new()
            }
        };
        for input in listed {
            let object = &input.object;
            self.verified(&object_path(object.run, &object.key), &object.digest).await?;
        }
        Ok(())
    }

    async fn verified(&self, path: &str, digest: &Digest) -> Result<Bytes, StoreError> {
        let found = patiently(|| self.store.get(path)).await?;
        let bytes = found.unwrap_or_default();
        if Digest::of(&bytes) != *digest {
            lock(&self.node.world.judge).blame(format!("I8: a task was given {path} with digest {digest}, which is not there"));
        }
        Ok(bytes)
    }

    /// What user code leaves.
    fn outcome(&self, job: &Job) -> Outcome {
        let flow = flows::named(&job.dispatch.flow);
        let step = flow.step(flow.find(&job.dispatch.step).expect("a step of the flow"));
        let (task, world) = (job.task(), &self.node.world);
        let fails = if step.retry.is_some() || step.catch.is_some() { 5 } else { 60 };
        if world.chance(|chance| chance.u32(..fails) == 0) {
            let kinds = [FailureKind::User, FailureKind::User, FailureKind::Infrastructure, FailureKind::Permanent];
            return self.failure(kinds[world.chance(|chance| chance.usize(..kinds.len()))], "bad luck");
        }
        let targets: Vec<StepName> = step.next.targets().into_iter().cloned().collect();
        let (next, foreach) = match &step.next {
            Transition::Switch { .. } if task.visit < 3 => {
                (vec![targets[world.chance(|chance| chance.usize(..targets.len()))].clone()], None)
            }
            Transition::Switch { .. } => (vec![targets[targets.len() - 1].clone()], None),
            Transition::Foreach { .. } => (targets, Some(world.chance(|chance| if chance.u32(..16) == 0 { 70 } else { chance.u32(1..5) }))),
            // The last is more than any pool has slots.
            Transition::Gang { .. } => (targets, Some(world.chance(|chance| [1, 2, 2, 2, 3, 3, 4][chance.usize(..7)]))),
            Transition::Linear { .. } | Transition::Branch { .. } | Transition::End => (targets, None),
        };
        let publishes = step.next == Transition::End && world.chance(fastrand::Rng::bool);
        let publication = || Publication {
            model: "forecast".parse().expect("a model name"),
            artifact: "model".into(),
            format: "json".into(),
            metrics: serde_json::Map::new(),
            tags: Default::default(),
            description: world.chance(|chance| chance.u64(..)).to_string(),
            allow_pickle: false,
        };
        let publications = if publishes { vec![publication()] } else { Vec::new() };
        let children = self.children(step);
        let (started, ended) = (self.node.now(), self.node.now());
        Outcome::Succeeded(Success {
            digest: Digest([0; 32]),
            bytes: 0,
            next,
            foreach,
            publications,
            children,
            started,
            ended,
            content: None,
        })
    }

    /// The runs that a step starts.
    fn children(&self, step: &Step) -> Vec<ChildStart> {
        if step.name.as_str() != flows::SPAWNING {
            return Vec::new();
        }
        let (count, wait, allow_failure) = self.node.world.chance(|chance| (chance.usize(1..3), chance.u32(..4) > 0, chance.bool()));
        let flow: FlowName = flows::CHILD.parse().expect("a flow name");
        vec![ChildStart { flow, parameters: BTreeMap::new(), wait, allow_failure }; count]
    }

    /// A member of a gang waits for the others, in the worker's own manner.
    async fn gather(&self, job: &Job, reports: &Reports) {
        if !job.dispatch.gang {
            return;
        }
        let process = &self.node.process;
        let ip = Ipv4Addr::from_bits(u32::try_from(process.id & 0xff_ffff).unwrap_or_default() | 10 << 24).into();
        let port = u16::try_from(process.number() % 60_000).unwrap_or_default() + 1_024;
        let member = self.gangs.member(job);
        member.gather(&self.leader, reports, Address { ip, port }, self.node.now()).await;
    }

    /// Tells about its run while it goes on.
    fn tell_status(&self, job: &Job, reports: &Reports) {
        let values = [("progress".parse().expect("a name"), json!(self.node.world.chance(|chance| chance.u32(..100))))].into();
        reports.send(job.report(Outcome::Status { values }), Confirm::Nobody);
    }
}

impl Bench for Simulated {
    type Ran = Outcome;
    type Used = ();

    async fn prepare(&self, _: &Dispatch) {}

    async fn known(&self, job: &Job) -> Option<Outcome> {
        let path = object_path(job.dispatch.run, &job.key);
        match patiently(|| self.store.get(&path)).await {
            Ok(found) => found.as_ref().map(|bytes| read(job, bytes)),
            Err(error) => Some(self.failure(FailureKind::Infrastructure, &error.to_string())),
        }
    }

    async fn run(&self, job: &Job, reports: &Reports, end: &CancellationToken) -> Option<Outcome> {
        if let Err(error) = self.inputs(job).await {
            return Some(self.failure(FailureKind::Infrastructure, &error.to_string()));
        }
        let told = job.redelivered && !job.dispatch.gang;
        if told {
            reports.started(job, self.node.now()).await;
        }
        tokio::select! {
            biased;
            () = end.cancelled() => return None,
            () = self.gather(job, reports) => {}
        }
        let time = self.node.world.chance(|chance| match chance.u32(..30) {
            0 => Duration::from_millis(chance.u64(5_000..40_000)),
            1..=4 => Duration::from_millis(chance.u64(500..3_000)),
            _ => Duration::from_millis(chance.u64(1..200)),
        });
        let limit = job.dispatch.timeout_seconds.map(Duration::from_secs_f64);
        let runs = async {
            if time > STARTED_AFTER && limit.is_none_or(|limit| limit > STARTED_AFTER) {
                tokio::time::sleep(STARTED_AFTER).await;
                if !told {
                    reports.send(job.report(Outcome::Started { at: self.node.now() }), Confirm::Nobody);
                }
                self.tell_status(job, reports);
                tokio::time::sleep(time - STARTED_AFTER).await;
            } else {
                tokio::time::sleep(time).await;
            }
            self.outcome(job)
        };
        let timed = async {
            match limit {
                Some(limit) => tokio::time::timeout(limit, runs).await.unwrap_or_else(|_| self.failure(FailureKind::TimedOut, "too slow")),
                None => runs.await,
            }
        };
        tokio::select! {
            biased;
            () = end.cancelled() => None,
            outcome = timed => Some(outcome),
        }
    }

    async fn store(&self, job: &Job, ran: Outcome) -> (Outcome, Option<()>) {
        if matches!(&ran, Outcome::Failed(Failure { kind: FailureKind::Infrastructure, .. })) {
            return (ran, None);
        }
        // Mostly the same: what is made of it may then be the same too.
        let value = self.node.world.chance(|chance| u8::from(chance.u32(..4) == 0));
        let (path, bytes) = (object_path(job.dispatch.run, &job.key), object(job, &ran, value));
        let overwrites = self.node.world.plan.mistake == Some(super::plan::Mistake::ResultsOverwritten);
        let put = || async {
            if overwrites {
                self.store.remove(&path).await?;
            }
            self.store.put_if_absent(&path, bytes.clone()).await
        };
        let stored = match patiently(put).await {
            Ok(Put::Stored) => Ok(Some(bytes)),
            Ok(Put::Present) => patiently(|| self.store.get(&path)).await,
            Err(error) => Err(error),
        };
        match stored {
            Ok(Some(bytes)) => (read(job, &bytes), None),
            Ok(None) => (self.failure(FailureKind::Infrastructure, "the object was there and is gone"), None),
            Err(error) => (self.failure(FailureKind::Infrastructure, &error.to_string()), None),
        }
    }

    fn finish(&self, (): ()) {}

    fn gang_changed(&self) {
        self.gangs.tell();
    }

    fn gathering(&self) -> Vec<OpenAttempt> {
        self.gangs.waiting()
    }
}
