//! Three nats-servers with JetStream as one cluster on loopback, each with a folder of its own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use async_nats::jetstream::stream::Config;
use async_nats::jetstream::{Context, ContextBuilder};
use async_nats::{Client, ServerAddr};

use crate::service::{Service, listening};
use crate::tools;
use crate::wait::until;

const SIZE: usize = 3;

/// While servers elect a leader nobody answers; asking again soon finds it soon.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// Where one server listens.
#[derive(Clone, Copy, Debug)]
struct Ports {
    clients: u16,
    routes: u16,
}

/// The servers; dropping them kills them.
#[derive(Debug)]
pub struct Cluster {
    folder: PathBuf,
    ports: [Ports; SIZE],
    nodes: [Option<Service>; SIZE],
}

impl Cluster {
    /// Starts all three and waits until they keep a stream with three copies.
    ///
    /// # Panics
    /// When they do not come up.
    pub async fn start(folder: &Path) -> Self {
        std::fs::create_dir_all(folder).expect("a folder");
        let [a, b, c, d, e, f] = tools::free_ports();
        let ports = [(a, b), (c, d), (e, f)].map(|(clients, routes)| Ports { clients, routes });
        let mut cluster = Self { folder: folder.to_owned(), ports, nodes: [const { None }; SIZE] };
        for node in 0..SIZE {
            std::fs::write(cluster.configuration(node), cluster.configured(node)).expect("the configuration can be written");
            cluster.start_node(node).await;
        }
        let context = context(cluster.client().await);
        let config = Config { name: "READY".into(), subjects: vec!["ready".into()], num_replicas: SIZE, ..Config::default() };
        until("a cluster of three", 60, async || context.create_stream(config.clone()).await.ok()).await;
        until("the stream goes away", 20, async || context.delete_stream("READY").await.ok()).await;
        cluster
    }

    fn configuration(&self, node: usize) -> PathBuf {
        self.folder.join(format!("n{node}.conf"))
    }

    fn configured(&self, node: usize) -> String {
        let Ports { clients, routes } = self.ports[node];
        let peers = self.ports.map(|ports| format!("\"nats://127.0.0.1:{}\"", ports.routes)).join(", ");
        let store = self.folder.join(format!("n{node}"));
        format!(
            "server_name: n{node}\nlisten: \"127.0.0.1:{clients}\"\njetstream {{ store_dir: \"{}\" }}\n\
             cluster {{ name: causey, listen: \"127.0.0.1:{routes}\", routes: [{peers}] }}\n",
            store.display()
        )
    }

    /// Starts a server that does not run and waits until it listens.
    ///
    /// # Panics
    /// When it does not come up.
    pub async fn start_node(&mut self, node: usize) {
        let start = || {
            let mut command = Command::new(tools::nats_server());
            command.arg("--config").arg(self.configuration(node));
            Service::start(command, &self.folder.join(format!("n{node}-log")))
        };
        let Ports { clients, routes } = self.ports[node];
        self.nodes[node] = Some(listening(start, &[clients, routes]).await);
    }

    /// Ends a server as a crash would.
    pub fn kill(&mut self, node: usize) {
        self.nodes[node] = None;
    }

    /// The address of one server; clients learn the others from it.
    #[must_use]
    pub fn url(&self, node: usize) -> String {
        format!("nats://127.0.0.1:{}", self.ports[node].clients)
    }

    /// A connection to whichever server runs.
    ///
    /// # Panics
    /// When none takes connections.
    pub async fn client(&self) -> Client {
        let running = (0..SIZE).filter(|node| self.nodes[*node].is_some());
        let addresses: Vec<ServerAddr> = running.map(|node| self.url(node).parse().expect("an address")).collect();
        until("a server of the cluster", 20, async || async_nats::connect(addresses.clone()).await.ok()).await
    }

    /// The server that leads a stream.
    ///
    /// # Panics
    /// When there is none for long.
    pub async fn leader_of(&self, stream: &str) -> usize {
        let context = context(self.client().await);
        until(&format!("a leader of {stream}"), 60, async || {
            let info = context.get_stream(stream).await.ok()?.cached_info().clone();
            info.cluster?.leader?.strip_prefix('n')?.parse().ok()
        })
        .await
    }
}

fn context(client: Client) -> Context {
    ContextBuilder::new().timeout(ANSWER_TIMEOUT).build(client)
}
