//! A member of a gang before its user code runs: it says where it can be reached and waits until all others are there too. Whether they
//! are is asked of the leader again and again; a broadcast only makes the next question come sooner.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use causey_artifacts::wall::now;
use causey_protocol::live::{Ask, OpenAttempt, Told};
use causey_protocol::task::{Address, FailureKind, Outcome};
use tokio::net::{TcpSocket, UdpSocket};
use tokio::sync::watch;

use crate::attempt::{Fault, Job};
use crate::config::Config;
use crate::leader::Leader;
use crate::nats;
use crate::outside::Outside;
use crate::report::Reports;
use crate::result;

/// Pause between two questions whether the gang has formed.
const ASK_PERIOD: Duration = Duration::from_secs(2);

/// What all members on this worker share.
#[derive(Debug)]
pub(crate) struct Gangs {
    /// Where the NATS servers are: whoever reaches one is reached by others of the installation.
    servers: Vec<(String, u16)>,
    /// What the operator said instead.
    address: Option<IpAddr>,
    changed: watch::Sender<()>,
    waiting: Mutex<BTreeSet<OpenAttempt>>,
}

/// A member that waits, until it is dropped.
struct Waiting<'a>(&'a Gangs, OpenAttempt);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.lock().remove(&self.1);
    }
}

impl Gangs {
    /// # Errors
    /// When the server's URL is no address.
    pub(crate) fn new(config: &Config) -> anyhow::Result<Self> {
        let servers = nats::servers(&config.nats_url).context("the NATS server's URL is no address")?;
        let servers = servers.iter().map(|server| (server.host().to_owned(), server.port())).collect();
        Ok(Self { servers, address: config.address, changed: watch::Sender::new(()), waiting: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<OpenAttempt>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something about a gang has changed: whoever waits asks now.
    pub(crate) fn tell(&self) {
        self.changed.send_replace(());
    }

    /// Members that wait for the others.
    pub(crate) fn waiting(&self) -> Vec<OpenAttempt> {
        self.lock().iter().copied().collect()
    }

    /// Joins the job's gang and waits until it has formed; gives the addresses of all members in order. Whether the attempt is still open
    /// is not asked here: the worker's loop learns that, and cuts this short. Safe to cut.
    ///
    /// # Errors
    /// When this host has no address or no free port.
    pub(crate) async fn gather<O: Outside>(&self, leader: &Leader<O>, job: &Job, reports: &Reports) -> Result<Vec<Address>, Fault> {
        self.lock().insert(job.open_attempt());
        let _waiting = Waiting(self, job.open_attempt());
        let mut changed = self.changed.subscribe();
        // The socket keeps other members on this host off the port; user code opens one of its own there.
        let placed = self.place().await;
        let (address, _socket) =
            placed.map_err(|error| (FailureKind::Infrastructure, result::infrastructure(&job.dispatch.step, &error)))?;
        reports.confirmed(job.report(Outcome::Joined { address, at: now() })).await;
        let task = job.task();
        let ask = Ask::Gang { run: job.dispatch.run, step: job.dispatch.step.clone(), path: task.path.clone(), attempt: task.attempt };
        loop {
            match leader.ask(&ask).await {
                // With another address in our place it has formed without us: the leader is about to dissolve it.
                Ok(Told::Gang { members: Some(members) }) if members.get(job.index_in_gang() as usize) == Some(&address) => {
                    return Ok(members);
                }
                Ok(_) => {}
                Err(error) => tracing::debug!(%error, "no answer about a gang"),
            }
            tokio::select! {
                _ = changed.changed() => {}
                () = tokio::time::sleep(ASK_PERIOD) => {}
            }
        }
    }

    /// The address of this host that the others reach.
    async fn ip(&self) -> std::io::Result<IpAddr> {
        if let Some(address) = self.address {
            return Ok(address);
        }
        let mut failure = std::io::Error::other("no NATS server has an address");
        let mut server = None;
        for (host, port) in &self.servers {
            match tokio::net::lookup_host((host.as_str(), *port)).await {
                Ok(mut found) => server = found.next(),
                Err(error) => failure = error,
            }
            if server.is_some() {
                break;
            }
        }
        let Some(server) = server else { return Err(failure) };
        // Nothing is sent: the kernel only chooses the route, and the source address with it.
        let socket = UdpSocket::bind(SocketAddr::new(unspecified(server.ip()), 0)).await?;
        socket.connect(server).await?;
        Ok(socket.local_addr()?.ip())
    }

    /// This host's address with a port that stays free until the socket is dropped.
    async fn place(&self) -> std::io::Result<(Address, TcpSocket)> {
        let ip = self.ip().await?;
        let socket = if ip.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.bind(SocketAddr::new(unspecified(ip), 0))?;
        let port = socket.local_addr()?.port();
        Ok((Address { ip, port }, socket))
    }
}

fn unspecified(like: IpAddr) -> IpAddr {
    if like.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
}
