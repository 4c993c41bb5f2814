//! People and systems who want something: they submit, deploy, send events, resume, cancel, and repeat whatever is not confirmed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use causey_artifacts::Store;
use causey_coordinator::outside::{Expect, Message, Streams as _};
use causey_engine::{Letter, Run, State, resumption};
use causey_protocol::codec;
use causey_protocol::flow::Flow;
use causey_protocol::id::{Digest, FlowName, RequestId, RunId, StepName, Timestamp};
use causey_protocol::input::{FlowChoice, Request, RequestMessage, Resume};
use causey_protocol::letter::{Dead, DeadLetter, LetterEnd};
use causey_protocol::record::Answer;
use causey_protocol::schedule::BackfillPlan;
use causey_protocol::share::Standing;
use causey_protocol::subject;
use fastrand::Rng;
use serde_json::json;

use super::flows;
use super::forger;
use super::node::Node;
use super::world::{BEGINNING, lock};

/// Longest wait for the answer that a cancel needs.
const PATIENCE: Duration = Duration::from_secs(60);

/// Those to whom runs belong.
pub(crate) const USERS: [&str; 3] = ["ann", "bob", "cleo"];

const MINUTE_MICROS: u64 = 60_000_000;

#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) node: Node,
    /// Before the numbers of its requests.
    name: &'static str,
    requests: u32,
}

fn name(flow: &str) -> FlowName {
    flow.parse().expect("a flow name")
}

impl Client {
    pub(crate) fn new(node: Node, name: &'static str) -> Self {
        Self { node, name, requests: 0 }
    }

    pub(crate) fn draw<T>(&self, draw: impl FnOnce(&mut Rng) -> T) -> T {
        self.node.world.chance(draw)
    }

    /// Stores a message, again until somebody says that it is stored, and once more at times.
    pub(crate) async fn store(&self, subject: String, payload: Vec<u8>) -> u64 {
        let message = Message { subject, expect: Expect::Nothing, headers: Vec::new(), payload: payload.into() };
        let twice = self.draw(|chance| chance.u32(..8) == 0);
        loop {
            if let Ok(sequence) = self.node.append(message.clone()).await {
                if twice {
                    let _ = self.node.append(message).await;
                }
                return sequence;
            }
        }
    }

    pub(crate) async fn request(&mut self, request: Request) -> RequestId {
        self.requests += 1;
        let id = format!("{}-{}", self.name, self.requests);
        self.request_as(&id, request).await
    }

    async fn request_as(&self, id: &str, request: Request) -> RequestId {
        let id: RequestId = id.parse().expect("a request id");
        let user = self.draw(|chance| USERS[chance.usize(..USERS.len())]);
        let message = RequestMessage { id: id.clone(), user: user.into(), request };
        self.store(subject::request(message.request.kind()), codec::encode(&message)).await;
        lock(&self.node.world.judge).accepted(&message);
        id
    }

    async fn submit(&mut self, flow: &Arc<Flow>, timeout_seconds: Option<f64>) -> RequestId {
        let flow = FlowChoice::Given(Box::new(Flow::clone(flow)));
        let standing = self.draw(|chance| {
            let priority = (chance.u32(..4) == 0).then(|| chance.i8(-3..4));
            Standing { priority, max_parallel: (chance.u32(..4) == 0).then(|| chance.u32(1..4)) }
        });
        let (parameters, tags, fresh) = (BTreeMap::new(), Vec::new(), self.draw(|chance| chance.u32(..6) == 0));
        self.request(Request::Submit { flow, parameters, tags, host: None, timeout_seconds, standing, fresh }).await
    }

    async fn event(&self, id: &str, kind: &str) {
        let event = json!({"specversion": "1.0", "id": id, "source": "/simulation", "type": kind, "data": {}});
        let source = "api".parse().expect("a source name");
        let sequence = self.store(subject::event(&source), serde_json::to_vec(&event).expect("an event serializes")).await;
        lock(&self.node.world.judge).accepted_event(sequence);
    }

    /// The run that a request has started, once it is known.
    async fn run_of(&self, id: &RequestId) -> Option<RunId> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while tokio::time::Instant::now() < deadline {
            if let Some((_, answer)) = lock(&self.node.world.judge).state().requests.get(id) {
                return if let Answer::RunStarted { run, .. } = answer { Some(*run) } else { None };
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        None
    }

    /// Everything this client wants.
    pub(crate) async fn live(mut self) {
        for flow in flows::DEPLOYED.iter() {
            self.request(Request::Deploy { flow: Box::new(Flow::clone(flow)) }).await;
        }
        for number in 0..self.draw(|chance| chance.u32(4..13)) {
            let flow = self.draw(flow);
            match self.draw(|chance| chance.u32(..25)) {
                0..=2 => {
                    let id = self.submit(flow, None).await;
                    if let Some(run) = self.run_of(&id).await {
                        self.pause(2_000).await;
                        self.request(Request::Cancel { run, because: "enough".into() }).await;
                    }
                }
                3..=4 => drop(self.submit(flow, Some(3.0)).await),
                5..=9 => {
                    let kind = if self.draw(Rng::bool) { "arrived" } else { "approved" };
                    self.event(&format!("event-{}", number / 2), kind).await;
                }
                10 => self.rubbish().await,
                11 => forger::forge(&self).await,
                12..=14 => self.resume().await,
                15 => self.backfill().await,
                16 => {
                    self.request(Request::PauseSchedules { flow: name(flows::SCHEDULED) }).await;
                    self.pause(3_000).await;
                    self.request(Request::ResumeSchedules { flow: name(flows::SCHEDULED) }).await;
                }
                17 => self.close_letter().await,
                18 => {
                    self.submit(memoised(), None).await;
                    for _ in 0..20 {
                        self.pause(3_000).await;
                        if self.tidy().await {
                            break;
                        }
                    }
                    self.submit(memoised(), None).await;
                }
                _ => drop(self.submit(flow, None).await),
            }
            self.pause(1_200).await;
        }
        // Or there would be runs for ever.
        self.request(Request::PauseSchedules { flow: name(flows::SCHEDULED) }).await;
    }

    pub(crate) async fn pause(&self, longest: u64) {
        let pause = self.draw(|chance| chance.u64(..longest));
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }

    /// Bytes that mean nothing.
    async fn rubbish(&self) {
        let (pool, worker) = ("default".parse().expect("a pool"), "nobody".parse().expect("a worker"));
        for subject in [subject::report(&pool, &worker), subject::request("submit"), "causey.event.api".into()] {
            self.store(subject, b"rubbish".to_vec()).await;
        }
    }

    /// Resumes a run that has ended, from a step on or where it failed.
    async fn resume(&mut self) {
        let wish = {
            let judge = lock(&self.node.world.judge);
            let state = judge.state();
            let ended: Vec<&Run> = state.runs.values().map(Arc::as_ref).filter(|run| run.state.is_terminal()).collect();
            let Some(run) = self.draw(|chance| chance.choice(&ended).copied()) else { return };
            let Some(flow) = state.flow_of(run) else { return };
            let steps: Vec<_> = flow.indices().map(|step| flow.step(step).name.clone()).collect();
            let step = self.draw(|chance| if chance.bool() { chance.choice(&steps) } else { None });
            let Some(wish) = resumed(state, run, step) else { return };
            wish
        };
        self.request(wish).await;
    }

    /// Wants a run for each of some minutes before the world began, and sometimes not all of them after all.
    async fn backfill(&mut self) {
        let (total, max_parallel) = self.draw(|chance| (chance.u32(1..5), chance.u32(1..3)));
        let first = BEGINNING - MINUTE_MICROS * 100;
        let last = Timestamp(first + MINUTE_MICROS * u64::from(total - 1));
        let plan = BackfillPlan {
            flow: name(flows::FILLED),
            cron: "* * * * *".into(),
            timezone: "UTC".into(),
            first: Timestamp(first),
            last,
            total,
            max_parallel,
            parameters: BTreeMap::new(),
            instant: BTreeMap::new(),
        };
        let backfill = self.request(Request::Backfill(Box::new(plan))).await;
        if self.draw(|chance| chance.u32(..4) == 0) {
            self.pause(2_000).await;
            self.request(Request::CancelBackfill { backfill, because: "enough".into() }).await;
        }
    }

    /// Discards a dead letter, or has what it is about done again.
    async fn close_letter(&mut self) {
        let letter = lock(&self.node.world.judge).state().dead_letters.first().map(|(id, letter)| (*id, letter.clone()));
        let Some((letter, Letter { letter: DeadLetter { what, .. }, .. })) = letter else { return };
        let mut end = LetterEnd::Discarded;
        if self.draw(Rng::bool) {
            end = LetterEnd::Redriven;
            match what {
                Dead::Task { run, .. } => {
                    let wish = {
                        let judge = lock(&self.node.world.judge);
                        judge.state().run(run).and_then(|run| resumed(judge.state(), run, None))
                    };
                    let Some(wish) = wish else { return };
                    self.request_as(&format!("redrive-{}-{}", letter.sequence, letter.index), wish).await;
                }
                Dead::Message { subject, original, .. } => drop(self.store(subject, original.payload.unwrap_or_default()).await),
            }
        }
        self.request(Request::CloseLetter { letter, end }).await;
    }

    /// Removes a remembered result from the store, which nobody is told. Not while somebody could be taking it: returns whether it did.
    async fn tidy(&self) -> bool {
        let world = &self.node.world;
        let (store, mut objects) = (Store::in_memory(world.store.clone()), Vec::new());
        let owners: BTreeSet<RunId> = lock(&world.judge).state().memo.values().map(|found| found.run).collect();
        for run in owners {
            let names = store.list(&format!("runs/{run}")).await.expect("memory can be listed");
            objects.extend(names.into_iter().map(|name| format!("runs/{run}/{name}")));
        }
        let unused = {
            let judge = lock(&world.judge);
            let state = judge.state();
            let digests: BTreeSet<Digest> = state.memo.values().map(|found| found.digest).collect();
            let is_remembered = |place: &&String| world.store.object(place).is_some_and(|bytes| digests.contains(&Digest::of(&bytes)));
            let takes = |run: &Run| run.start.cause.earlier().is_some() || state.flow_of(run).is_some_and(|flow| remembers(&flow));
            let unused: Vec<&String> = objects.iter().filter(is_remembered).collect();
            if state.live_runs().any(takes) { None } else { self.draw(|chance| chance.choice(&unused).map(|place| (*place).clone())) }
        };
        let Some(place) = unused else { return false };
        world.note(&format!("{place} is removed"));
        store.remove(&place).await.expect("memory removes");
        true
    }
}

/// A flow to submit. Memoised ones come often: a result is taken by a later run only.
fn flow(chance: &mut Rng) -> &'static Arc<Flow> {
    if chance.u32(..5) == 0 { memoised() } else { &flows::SUBMITTED[chance.usize(..flows::SUBMITTED.len())] }
}

fn memoised() -> &'static Arc<Flow> {
    flows::SUBMITTED.iter().find(|flow| flow.definition().name.as_str() == flows::MEMOISED).expect("one is memoised")
}

fn remembers(flow: &Flow) -> bool {
    flow.indices().any(|step| flow.step(step).memo.is_some())
}

/// The request to resume a run, if that can be.
fn resumed(state: &State, run: &Run, step: Option<&StepName>) -> Option<Request> {
    let flow = state.flow_of(run)?;
    let earlier = resumption(run, &flow, &flow, step).ok()?;
    let start = &run.start;
    Some(Request::Resume(Box::new(Resume {
        earlier,
        version: start.version,
        parameters: start.parameters.clone(),
        tags: Vec::new(),
        host: None,
        timeout_seconds: None,
        standing: start.standing.beyond(flow.definition().standing),
        flow: Flow::clone(&flow),
    })))
}
