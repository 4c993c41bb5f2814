//! Where the members of gangs on this host can be reached by those elsewhere.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Context as _;
use causey_protocol::task::Address;
use tokio::net::{TcpSocket, UdpSocket};

use crate::config::Config;
use crate::nats;

#[derive(Debug)]
pub(crate) struct Places {
    /// Where the NATS servers are: whoever reaches one is reached by others of the installation.
    servers: Vec<(String, u16)>,
    /// What the operator said instead.
    address: Option<IpAddr>,
}

impl Places {
    /// # Errors
    /// When the server's URL is no address.
    pub(crate) fn new(config: &Config) -> anyhow::Result<Self> {
        let servers = nats::servers(&config.nats_url).context("the NATS server's URL is no address")?;
        let servers = servers.iter().map(|server| (server.host().to_owned(), server.port())).collect();
        Ok(Self { servers, address: config.address })
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
    ///
    /// # Errors
    /// When this host has no address or no free port.
    pub(crate) async fn place(&self) -> std::io::Result<(Address, TcpSocket)> {
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
