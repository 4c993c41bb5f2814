//! A cable between a program and a server that a test can cut: a TCP relay on a port of its own. Cut, it closes what is connected
//! and takes nothing new, as a partition that both sides notice.

use std::net::Ipv4Addr;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The relay; dropping it cuts it for good.
#[derive(Debug)]
pub struct Cable {
    pub port: u16,
    whole: watch::Sender<bool>,
    relaying: JoinHandle<()>,
}

impl Cable {
    /// Lays a cable to a port of this machine.
    ///
    /// # Panics
    /// When no port is free.
    pub async fn to(port: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let own = listener.local_addr().expect("it has an address").port();
        let (whole, seen) = watch::channel(true);
        Self { port: own, whole, relaying: tokio::spawn(relay(listener, port, seen)) }
    }

    pub fn cut(&self) {
        self.whole.send_replace(false);
    }

    pub fn mend(&self) {
        self.whole.send_replace(true);
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        self.relaying.abort();
        self.cut();
    }
}

async fn relay(listener: TcpListener, port: u16, whole: watch::Receiver<bool>) {
    loop {
        let Ok((mut near, _)) = listener.accept().await else { continue };
        let mut whole = whole.clone();
        tokio::spawn(async move {
            if !*whole.borrow() {
                return;
            }
            let Ok(mut far) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await else { return };
            tokio::select! {
                _ = copy_bidirectional(&mut near, &mut far) => {}
                _ = whole.wait_for(|whole| !whole) => {}
            }
        });
    }
}
