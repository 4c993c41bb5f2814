//! The other end of a delivery: a process of its own that waits for messages of a stream and tells when each arrived, by the wall clock
//! that all processes of a machine share. In a step, too, a message goes from one process to another.

use std::process::{Child, Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use async_nats::jetstream::Context as JetStream;
use async_nats::jetstream::consumer::AckPolicy;
use async_nats::jetstream::consumer::pull::Config;
use async_nats::{ConnectOptions, Subscriber};
use futures_util::StreamExt as _;

use crate::session::Session;

/// The first argument that makes this program a peer.
pub(crate) const ROLE: &str = "peer";

const ARRIVED: &str = "bench.arrived";

/// Most messages asked for at once.
const BATCH: usize = 100;

/// A running peer, as its owner sees it. It ends with its standard input.
#[derive(Debug)]
pub(crate) struct Peer {
    child: Child,
    arrivals: Subscriber,
}

impl Peer {
    /// Starts a peer on `stream` and waits until it listens. Its messages are acknowledged if `acked`.
    pub(crate) async fn start(session: &Session<'_>, stream: &str, acked: bool) -> anyhow::Result<Self> {
        let mut arrivals = session.nats.subscribe(ARRIVED).await?;
        session.nats.flush().await?;
        let (user, password) = session.stack.credentials();
        let mut command = Command::new(std::env::current_exe()?);
        command.args([ROLE, &session.stack.nats_address, user, password, stream, if acked { "acked" } else { "unacked" }]);
        let child = command.stdin(Stdio::piped()).spawn()?;
        arrivals.next().await.context("the peer did not start")?;
        Ok(Self { child, arrivals })
    }

    /// When the next message arrived, in nanoseconds since the Unix epoch.
    pub(crate) async fn arrived(&mut self) -> anyhow::Result<u128> {
        let message = self.arrivals.next().await.context("the peer ended")?;
        Ok(std::str::from_utf8(&message.payload)?.parse()?)
    }

    pub(crate) fn stop(mut self) -> anyhow::Result<()> {
        drop(self.child.stdin.take());
        self.child.wait()?;
        Ok(())
    }
}

/// Nanoseconds since the Unix epoch.
pub(crate) fn now() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos()
}

/// What the process does.
pub(crate) async fn run(arguments: &[String]) -> anyhow::Result<()> {
    let [address, user, password, stream, acked] = arguments else { anyhow::bail!("a peer takes five arguments") };
    std::thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        std::process::exit(0);
    });
    let nats = ConnectOptions::with_user_and_password(user.into(), password.into()).connect(address).await?;
    let jetstream: JetStream = async_nats::jetstream::new(nats.clone());
    let (ack_policy, memory_storage) = if acked == "acked" { (AckPolicy::Explicit, false) } else { (AckPolicy::None, true) };
    let durable_name = (!memory_storage).then(|| "bench".to_owned());
    let config = Config { durable_name, ack_policy, memory_storage, ..Config::default() };
    let consumer = jetstream.create_consumer_on_stream(config, stream.as_str()).await?;
    let mut messages = consumer.stream().max_messages_per_batch(BATCH).messages().await?;
    nats.publish(ARRIVED, "listening".into()).await?;
    while let Some(message) = messages.next().await {
        let at = now();
        let message = message?;
        nats.publish(ARRIVED, at.to_string().into()).await?;
        if ack_policy == AckPolicy::Explicit {
            message.ack().await.map_err(|error| anyhow::anyhow!(error))?;
        }
    }
    Ok(())
}
