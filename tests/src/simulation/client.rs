//! People and systems who want something: they submit, deploy, send events, cancel, and repeat whatever is not confirmed.

use std::sync::Arc;
use std::time::Duration;

use causey_coordinator::outside::{Expect, Message, Streams as _};
use causey_protocol::codec;
use causey_protocol::flow::Flow;
use causey_protocol::id::{RequestId, RunId};
use causey_protocol::input::{FlowChoice, Request, RequestMessage};
use causey_protocol::record::Answer;
use causey_protocol::subject;
use serde_json::json;

use super::flows;
use super::node::Node;
use super::world::lock;

/// Longest wait for the answer that a cancel needs.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) node: Node,
    requests: u32,
}

impl Client {
    pub(crate) fn new(node: Node) -> Self {
        Self { node, requests: 0 }
    }

    /// Stores a message, again until somebody says that it is stored, and once more at times.
    async fn store(&self, message: Message) -> u64 {
        let twice = self.node.world.chance(|chance| chance.u32(..8) == 0);
        loop {
            if let Ok(sequence) = self.node.append(message.clone()).await {
                if twice {
                    let _ = self.node.append(message).await;
                }
                return sequence;
            }
        }
    }

    async fn request(&mut self, request: Request) -> RequestId {
        self.requests += 1;
        let id: RequestId = format!("request-{}", self.requests).parse().expect("a request id");
        let message = RequestMessage { id: id.clone(), user: "ann".into(), request };
        let (subject, payload) = (subject::request(message.request.kind()), codec::encode(&message).into());
        self.store(Message { subject, expect: Expect::Nothing, headers: Vec::new(), payload }).await;
        lock(&self.node.world.judge).accepted(&message);
        id
    }

    async fn submit(&mut self, flow: &Arc<Flow>, timeout_seconds: Option<f64>) -> RequestId {
        let flow = FlowChoice::Given(Box::new(Flow::clone(flow)));
        let parameters = Default::default();
        self.request(Request::Submit {
            flow,
            parameters,
            tags: Vec::new(),
            host: None,
            timeout_seconds,
            standing: Default::default(),
            fresh: false,
        })
        .await
    }

    async fn event(&self, id: &str, kind: &str) {
        let event = json!({"specversion": "1.0", "id": id, "source": "/simulation", "type": kind, "data": {}});
        let source = "api".parse().expect("a source name");
        let (subject, payload) = (subject::event(&source), serde_json::to_vec(&event).expect("an event serializes").into());
        let sequence = self.store(Message { subject, expect: Expect::Nothing, headers: Vec::new(), payload }).await;
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
        let world = self.node.world.clone();
        for flow in flows::deployed() {
            self.request(Request::Deploy { flow: Box::new(Flow::clone(&flow)) }).await;
        }
        let submitted = flows::submitted();
        for number in 0..world.chance(|chance| chance.u32(5..16)) {
            let flow = world.chance(|chance| chance.choice(&submitted).cloned()).expect("there are flows");
            match world.chance(|chance| chance.u32(..10)) {
                0..=1 => {
                    let id = self.submit(&flow, None).await;
                    if let Some(run) = self.run_of(&id).await {
                        self.pause(2_000).await;
                        self.request(Request::Cancel { run, because: "enough".into() }).await;
                    }
                }
                2 => drop(self.submit(&flow, Some(3.0)).await),
                3..=5 => {
                    let kind = if world.chance(fastrand::Rng::bool) { "arrived" } else { "approved" };
                    self.event(&format!("event-{}", number / 2), kind).await;
                }
                6 => self.rubbish().await,
                _ => drop(self.submit(&flow, None).await),
            }
            self.pause(1_200).await;
        }
    }

    async fn pause(&self, longest: u64) {
        let pause = self.node.world.chance(|chance| chance.u64(..longest));
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }

    /// Bytes that mean nothing, and a report in the name of another pool's worker (I14).
    async fn rubbish(&self) {
        let (pool, worker) = ("default".parse().expect("a pool"), "nobody".parse().expect("a worker"));
        for subject in [subject::report(&pool, &worker), subject::request("submit"), "causey.event.api".into()] {
            self.store(Message { subject, expect: Expect::Nothing, headers: Vec::new(), payload: b"rubbish".as_slice().into() }).await;
        }
    }
}
