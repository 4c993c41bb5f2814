//! The worker's end of the line to a host: whole JSON lines in both directions, bounded, over a Unix socket or over a pair of named
//! pipes. Receiving may be cut at any await and taken up again; nothing read is lost.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use serde::Serialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;

use crate::frame::FromHost;
use crate::process::Line;

/// Longest line in either direction, in bytes.
const LINE_BYTES_MAX: usize = 1024 * 1024;

/// Why a host cannot be talked to any more.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectionError {
    #[error("the connection to the host broke")]
    Broken(#[from] io::Error),
    #[error("the host sent what the host protocol does not know")]
    Line(#[source] serde_json::Error),
    #[error("a line to or from the host is longer than {LINE_BYTES_MAX} bytes")]
    TooLong,
}

/// A pair of named pipes, for hosts that cannot open a socket. Until the host has opened its ends this side keeps both open in both
/// directions: a pipe without a far end would read as closed and could not be opened for writing.
#[derive(Debug)]
pub(crate) struct Pipes {
    from_host: pipe::Receiver,
    to_host: pipe::Sender,
    /// Gone once the host has opened its ends.
    opening: Option<Opening>,
}

#[derive(Debug)]
struct Opening {
    _from_host: pipe::Sender,
    names: Names,
}

/// The names of the pipes; removed with this.
#[derive(Debug)]
struct Names {
    from_host: PathBuf,
    to_host: PathBuf,
}

impl Drop for Names {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.from_host);
        let _ = std::fs::remove_file(&self.to_host);
    }
}

impl Pipes {
    /// Makes the pipes for the host `id` in a private folder.
    ///
    /// # Errors
    /// When they cannot be made or opened.
    pub(crate) fn make(folder: &Path, id: &str) -> io::Result<Self> {
        let names = Names { from_host: folder.join(format!("{id}.out")), to_host: folder.join(format!("{id}.in")) };
        for name in [&names.from_host, &names.to_host] {
            rustix::fs::mknodat(CWD, name, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
        }
        let from_host = pipe::OpenOptions::new().open_receiver(&names.from_host)?;
        let held = pipe::OpenOptions::new().open_sender(&names.from_host)?;
        let to_host = pipe::OpenOptions::new().read_write(true).open_sender(&names.to_host)?;
        Ok(Self { from_host, to_host, opening: Some(Opening { _from_host: held, names }) })
    }

    /// How the host is told of them.
    pub(crate) fn line(&self) -> Option<Line<'_>> {
        self.opening.as_ref().map(|opening| Line::Pipes(&opening.names.to_host, &opening.names.from_host))
    }

    /// The host has opened its ends: from now on its end is noticed.
    fn settle(&mut self) -> io::Result<()> {
        if let Some(opening) = self.opening.take() {
            self.to_host = pipe::OpenOptions::new().open_sender(&opening.names.to_host)?;
        }
        Ok(())
    }
}

#[derive(Debug)]
enum Stream {
    Socket(UnixStream),
    Pipes(Pipes),
}

#[derive(Debug)]
pub(crate) struct Connection {
    stream: Stream,
    /// Received bytes that make no whole line yet, or several.
    received: Vec<u8>,
    /// Up to here `received` holds no line end.
    searched: usize,
}

impl Connection {
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self { stream: Stream::Socket(stream), received: Vec::with_capacity(4096), searched: 0 }
    }

    pub(crate) fn through(pipes: Pipes) -> Self {
        Self { stream: Stream::Pipes(pipes), received: Vec::with_capacity(4096), searched: 0 }
    }

    /// To be called once, when the host has said its first line.
    ///
    /// # Errors
    /// When the host is gone already.
    pub(crate) fn settle(&mut self) -> io::Result<()> {
        match &mut self.stream {
            Stream::Socket(_) => Ok(()),
            Stream::Pipes(pipes) => pipes.settle(),
        }
    }

    /// The next line; `None` when the host has closed.
    ///
    /// # Errors
    /// [`ConnectionError`]; the connection is of no use afterwards.
    pub(crate) async fn receive(&mut self) -> Result<Option<FromHost>, ConnectionError> {
        loop {
            if let Some(at) = self.received[self.searched..].iter().position(|byte| *byte == b'\n') {
                let end = self.searched + at;
                let line = read_line(&self.received[..end]);
                self.received.drain(..=end);
                self.searched = 0;
                return line.map(Some);
            }
            self.searched = self.received.len();
            if self.searched > LINE_BYTES_MAX {
                return Err(ConnectionError::TooLong);
            }
            let read = match &mut self.stream {
                Stream::Socket(stream) => stream.read_buf(&mut self.received).await,
                Stream::Pipes(pipes) => pipes.from_host.read_buf(&mut self.received).await,
            };
            match read {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                // A host that was killed with unread lines resets the socket.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sends one line. Must not be cut: half a line would stand in front of the next one.
    ///
    /// # Errors
    /// [`ConnectionError`] when the line is too long (nothing is sent) or the connection broke.
    pub(crate) async fn send(&mut self, line: &impl Serialize) -> Result<(), ConnectionError> {
        self.write(&line_bytes(line)?).await
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), ConnectionError> {
        match &mut self.stream {
            Stream::Socket(stream) => stream.write_all(bytes).await?,
            Stream::Pipes(pipes) => pipes.to_host.write_all(bytes).await?,
        }
        Ok(())
    }

    /// Sends one line, and with its first byte two descriptors, which only a socket carries. Must not be cut, as [`Connection::send`].
    ///
    /// # Errors
    /// As [`Connection::send`].
    pub(crate) async fn send_with(&mut self, line: &impl Serialize, descriptors: [BorrowedFd<'_>; 2]) -> Result<(), ConnectionError> {
        let bytes = line_bytes(line)?;
        let Stream::Socket(stream) = &mut self.stream else {
            return Err(io::Error::from(io::ErrorKind::Unsupported).into());
        };
        let send = || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)), "there is room for two descriptors");
            Ok(rustix::net::sendmsg(stream.as_fd(), &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL)?)
        };
        let sent = stream.async_io(Interest::WRITABLE, send).await?;
        Ok(stream.write_all(&bytes[sent..]).await?)
    }
}

/// A host's line, without its end.
///
/// # Errors
/// [`ConnectionError::Line`] for what the host protocol does not know.
pub(crate) fn read_line(line: &[u8]) -> Result<FromHost, ConnectionError> {
    serde_json::from_slice(line).map_err(ConnectionError::Line)
}

fn line_bytes(line: &impl Serialize) -> Result<Vec<u8>, ConnectionError> {
    let mut bytes = serde_json::to_vec(line).map_err(ConnectionError::Line)?;
    if bytes.len() > LINE_BYTES_MAX {
        return Err(ConnectionError::TooLong);
    }
    bytes.push(b'\n');
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_come_whole_however_they_are_cut() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut connection = Connection::new(ours);
        theirs.write_all(b"{\"type\":\"ready\"}\n{\"type\":\"fetch\",").await.unwrap();
        assert!(matches!(connection.receive().await.unwrap(), Some(FromHost::Ready)));
        // A receive that is cut loses nothing.
        let cut = tokio::time::timeout(std::time::Duration::from_millis(5), connection.receive()).await;
        assert!(cut.is_err());
        theirs.write_all(b"\"path\":\"cas/x\"}\n").await.unwrap();
        assert!(matches!(connection.receive().await.unwrap(), Some(FromHost::Fetch { path }) if path == "cas/x"));
        drop(theirs);
        assert!(connection.receive().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn an_endless_line_is_refused() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let writer = tokio::spawn(async move { while theirs.write_all(&[b'x'; 65536]).await.is_ok() {} });
        let error = Connection::new(ours).receive().await.unwrap_err();
        assert!(matches!(error, ConnectionError::TooLong));
        writer.await.unwrap();
    }
}
