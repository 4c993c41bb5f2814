//! A cable between a program and a server that a test can spoil: a TCP relay on a port of its own. Cut, it closes what is connected and
//! takes nothing new, as a partition that both sides notice; silent, it swallows one direction and nobody is told; slow, it holds
//! everything back for a while.

use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Which way bytes travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    ToServer,
    FromServer,
}

/// What the cable does with bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Quality {
    Whole,
    Cut,
    Silent(Direction),
    Slow(Duration),
}

/// The relay; dropping it cuts it for good.
#[derive(Debug)]
pub struct Cable {
    pub port: u16,
    quality: watch::Sender<Quality>,
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
        let (quality, seen) = watch::channel(Quality::Whole);
        Self { port: own, quality, relaying: tokio::spawn(relay(listener, port, seen)) }
    }

    pub fn cut(&self) {
        self.quality.send_replace(Quality::Cut);
    }

    /// Swallows what goes one way. Connections that lost something are closed when the cable is mended.
    pub fn silence(&self, direction: Direction) {
        self.quality.send_replace(Quality::Silent(direction));
    }

    /// Holds back whatever passes, in both directions.
    pub fn slow_down(&self, delay: Duration) {
        self.quality.send_replace(Quality::Slow(delay));
    }

    pub fn mend(&self) {
        self.quality.send_replace(Quality::Whole);
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        self.relaying.abort();
        self.cut();
    }
}

async fn relay(listener: TcpListener, port: u16, quality: watch::Receiver<Quality>) {
    loop {
        let Ok((near, _)) = listener.accept().await else { continue };
        let mut quality = quality.clone();
        tokio::spawn(async move {
            if *quality.borrow() == Quality::Cut {
                return;
            }
            let Ok(far) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await else { return };
            let ((from_near, to_near), (from_far, to_far)) = (near.into_split(), far.into_split());
            tokio::select! {
                () = carry(from_near, to_far, Direction::ToServer, quality.clone()) => {}
                () = carry(from_far, to_near, Direction::FromServer, quality.clone()) => {}
                _ = quality.wait_for(|quality| *quality == Quality::Cut) => {}
            }
        });
    }
}

/// Carries one direction until an end is closed or bytes were lost.
async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, direction: Direction, mut quality: watch::Receiver<Quality>) {
    let mut piece = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut piece).await {
        let now = *quality.borrow();
        match now {
            Quality::Silent(silent) if silent == direction => {
                let _ = quality.wait_for(|quality| *quality != now).await;
                return;
            }
            Quality::Slow(delay) => tokio::time::sleep(delay).await,
            Quality::Whole | Quality::Cut | Quality::Silent(_) => {}
        }
        if to.write_all(&piece[..read]).await.is_err() {
            return;
        }
    }
}
