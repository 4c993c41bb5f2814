//! A client of the stack: deploys flows, starts runs and waits for their ends as an outside observer does, by the notification.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use async_nats::Subscriber;
use async_nats::jetstream::Context as JetStream;
use causey_protocol::flow::Flow;
use causey_protocol::id::Digest;
use causey_protocol::subject;
use futures_util::StreamExt as _;
use serde_json::{Value, json};

use crate::flows;
use crate::programs::Programs;
use crate::stack::Stack;

/// A run that takes longer has failed.
const RUN_MAX: Duration = Duration::from_secs(120);

/// Connections to the stack.
#[derive(Debug)]
pub(crate) struct Session<'a> {
    pub(crate) stack: &'a Stack,
    pub(crate) programs: &'a Programs,
    pub(crate) http: reqwest::Client,
    pub(crate) nats: async_nats::Client,
    pub(crate) jetstream: JetStream,
    ends: Subscriber,
}

/// A run as its client saw it.
#[derive(Clone, Debug)]
pub(crate) struct Ended {
    pub(crate) run: String,
    /// From the request to the notification.
    pub(crate) wall: Duration,
}

impl<'a> Session<'a> {
    pub(crate) async fn open(stack: &'a Stack, programs: &'a Programs) -> anyhow::Result<Self> {
        let (user, password) = stack.credentials();
        let nats = async_nats::ConnectOptions::with_user_and_password(user.into(), password.into()).connect(&stack.nats_address).await?;
        let ends = nats.subscribe("causey.notify.run-finished.*").await?;
        let jetstream = async_nats::jetstream::new(nats.clone());
        Ok(Self { stack, programs, http: reqwest::Client::new(), nats, jetstream, ends })
    }

    /// Deploys a flow file, by the program people use for it.
    pub(crate) fn deploy(&self, file: &Path) -> anyhow::Result<()> {
        let mut command = self.programs.causey();
        command.arg("deploy").arg(file).args(["--url", &self.stack.url, "--token", self.stack.token()]);
        command.arg("--python").arg(&self.programs.python).arg("--state").arg(file.with_extension("state"));
        let output = command.output()?;
        ensure!(output.status.success(), "causey deploy {} failed:\n{}", file.display(), String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// Starts a run of a deployed flow and waits for its end.
    pub(crate) async fn run(&mut self, flow: &str, host: &str) -> anyhow::Result<Ended> {
        let begun = Instant::now();
        let answer = self.post("/v1/runs", &json!({"flow": flow, "host": host, "request_id": random_id()})).await?;
        let run = answer["run"].as_str().context("the answer names no run")?.to_owned();
        self.ended(Some(&run)).await?;
        Ok(Ended { run, wall: begun.elapsed() })
    }

    /// Waits for the end of a run: of this one, or of the next that ends.
    pub(crate) async fn ended(&mut self, run: Option<&str>) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            let left = RUN_MAX.saturating_sub(begun.elapsed());
            let Ok(message) = tokio::time::timeout(left, self.ends.next()).await else {
                bail!("run {} did not end within {RUN_MAX:?}\n{}\n{}", run.unwrap_or("?"), self.explain(run).await, self.stack.logs());
            };
            let event: Value = serde_json::from_slice(&message.context("the subscription ended")?.payload)?;
            let ended = event["data"]["run"].as_str().unwrap_or_default().to_owned();
            if run.is_none_or(|run| run == ended) {
                if event["data"]["state"] == "succeeded" {
                    return Ok(());
                }
                bail!("run {ended} did not succeed: {}\n{}", event["data"], self.explain(Some(&ended)).await);
            }
        }
    }

    async fn explain(&self, run: Option<&str>) -> String {
        let Some(run) = run else { return String::new() };
        let asked = self.http.get(format!("{}/v1/runs/{run}", self.stack.url)).bearer_auth(self.stack.token()).send().await;
        match asked {
            Ok(answer) => answer.text().await.unwrap_or_default(),
            Err(error) => error.to_string(),
        }
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let request = self.http.post(format!("{}{path}", self.stack.url)).bearer_auth(self.stack.token());
        let content_type = if path == "/v1/events" { causey_protocol::event::STRUCTURED } else { "application/json" };
        let answer = request.header("Content-Type", content_type).body(body.to_string()).send().await?;
        let (status, text) = (answer.status(), answer.text().await?);
        ensure!(status.is_success(), "POST {path}: {status} {text}");
        Ok(serde_json::from_str(&text)?)
    }

    /// As [`Session::post`], for requests that are made side by side.
    pub(crate) async fn post_owned(&self, path: &str, body: Value) -> anyhow::Result<Value> {
        self.post(path, &body).await
    }

    /// Stores the package of flows whose steps nobody runs.
    pub(crate) async fn put_no_code(&self) -> anyhow::Result<()> {
        let digest = Digest::of(flows::NO_CODE);
        let request = self.http.put(format!("{}/v1/packages/{digest}", self.stack.url)).bearer_auth(self.stack.token());
        request.body(flows::NO_CODE).send().await?.error_for_status()?;
        Ok(())
    }

    /// Deploys a flow whose steps nobody runs.
    pub(crate) async fn deploy_definition(&self, flow: &Flow) -> anyhow::Result<()> {
        self.put_no_code().await?;
        self.post("/v1/flows", &json!({"definition": flow, "request_id": random_id()})).await.map(drop)
    }

    /// Bytes that a stream holds.
    pub(crate) async fn bytes(&self, stream: &str) -> anyhow::Result<u64> {
        Ok(self.jetstream.get_stream(stream).await?.cached_info().state.bytes)
    }

    /// Where the log and the inbox end now.
    pub(crate) async fn place(&self) -> anyhow::Result<Place> {
        Ok(Place { log: self.last(subject::LOG_STREAM).await?, inbox: self.last(subject::INBOX_STREAM).await? })
    }

    pub(crate) async fn last(&self, stream: &str) -> anyhow::Result<u64> {
        Ok(self.jetstream.get_stream(stream).await?.cached_info().state.last_sequence)
    }
}

/// Positions behind which a run's messages lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) log: u64,
    pub(crate) inbox: u64,
}

/// An id that nobody has used.
pub(crate) fn random_id() -> String {
    format!("{:032x}", rand::random::<u128>())
}
