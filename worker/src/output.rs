//! What an attempt prints: read from its pipes, cut into chunks with their time, sent live and kept for its object. Keeping is
//! bounded; live output is lossy by contract.

use std::io;

use causey_protocol::id::Timestamp;
use causey_protocol::live::OutputStream;
use tokio::net::unix::pipe::Receiver;

use crate::mask::{Held, Mask};

/// Most bytes kept of one attempt's output; what follows is dropped after a notice.
const KEPT_BYTES_MAX: usize = 10 * 1024 * 1024;

/// Most bytes looked through for the last lines.
const LAST_LINES_BYTES_MAX: usize = 64 * 1024;

/// Bytes taken from a pipe in one go: its capacity.
const PIECE_BYTES: usize = 64 * 1024;

/// Both pipes of a host. After the far end of one is closed it is left alone.
#[derive(Debug)]
pub(crate) struct Pipes {
    stdout: Pipe,
    stderr: Pipe,
    buffer: Box<[u8]>,
}

#[derive(Debug)]
struct Pipe {
    receiver: Receiver,
    closed: bool,
}

/// Whether to trust what the runtime knows about a pipe.
#[derive(Clone, Copy)]
enum Look {
    /// Take what the runtime has noticed; notices the rest later.
    Noticed,
    /// Ask the kernel: the runtime may have seen a line on the socket before output that was written earlier.
    Kernel,
}

impl Pipe {
    /// Bytes read now; 0 when there are none or the far end is closed.
    fn read(&mut self, look: Look, into: &mut [u8]) -> usize {
        if self.closed {
            return 0;
        }
        let read = match look {
            Look::Noticed => self.receiver.try_read(into),
            Look::Kernel => rustix::io::read(&self.receiver, into).map_err(io::Error::from),
        };
        match read {
            Ok(bytes) => {
                self.closed = bytes == 0;
                bytes
            }
            Err(error) => {
                self.closed = !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted);
                0
            }
        }
    }

    async fn readable(&self) {
        if self.closed || self.receiver.readable().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Pipes {
    pub(crate) fn new(stdout: Receiver, stderr: Receiver) -> Self {
        let pipe = |receiver| Pipe { receiver, closed: false };
        Self { stdout: pipe(stdout), stderr: pipe(stderr), buffer: vec![0; PIECE_BYTES].into() }
    }

    /// Waits until one of the pipes has something, or its end; for ever when both are closed. May be cut.
    pub(crate) async fn readable(&self) {
        tokio::select! {
            () = self.stdout.readable() => {}
            () = self.stderr.readable() => {}
        }
    }

    /// Takes at most one piece of each pipe without waiting. Returns whether there was anything.
    fn take(&mut self, look: Look, mut give: impl FnMut(OutputStream, &[u8])) -> bool {
        let mut any = false;
        for (pipe, stream) in [(&mut self.stdout, OutputStream::Stdout), (&mut self.stderr, OutputStream::Stderr)] {
            let bytes = pipe.read(look, &mut self.buffer);
            if bytes > 0 {
                any = true;
                give(stream, &self.buffer[..bytes]);
            }
        }
        any
    }

    /// Throws away what is there: it belongs to no attempt.
    pub(crate) fn discard(&mut self) {
        while self.take(Look::Kernel, |_, _| {}) {}
    }
}

/// A piece of output to be shown at once.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct LiveChunk {
    pub(crate) at: Timestamp,
    pub(crate) stream: OutputStream,
    pub(crate) text: String,
    /// Bytes of text before this.
    pub(crate) position: u64,
}

/// The output of one attempt.
#[derive(Debug, Default)]
pub(crate) struct Output {
    /// JSON Lines as they go into the object.
    kept: Vec<u8>,
    full: bool,
    /// Bytes of text that have been printed, whether they are kept or not.
    printed: u64,
    /// Bytes that came after that.
    dropped: u64,
    /// The start of a character whose rest has not come yet, per stream.
    partial: [Vec<u8>; 2],
    mask: Mask,
    /// What may be the beginning of a secret, per stream.
    held: [Held; 2],
}

impl Output {
    /// The output of an attempt that has secrets.
    pub(crate) fn masked(mask: Mask) -> Self {
        Self { mask, ..Self::default() }
    }

    /// Takes what is in the pipes now, without waiting, and returns it for showing.
    pub(crate) fn take(&mut self, pipes: &mut Pipes, now: Timestamp) -> Vec<LiveChunk> {
        let mut chunks = vec![];
        pipes.take(Look::Noticed, |stream, bytes| chunks.extend(self.add(stream, bytes, now)));
        chunks
    }

    /// Takes all that is in the pipes now.
    pub(crate) fn drain(&mut self, pipes: &mut Pipes, now: Timestamp) -> Vec<LiveChunk> {
        let mut chunks = vec![];
        while pipes.take(Look::Kernel, |stream, bytes| chunks.extend(self.add(stream, bytes, now))) {}
        for stream in [OutputStream::Stdout, OutputStream::Stderr] {
            let held = self.held[place(stream)].rest(&self.mask);
            chunks.extend(self.add_shown(stream, &held, now));
            let rest = std::mem::take(&mut self.partial[place(stream)]);
            if !rest.is_empty() {
                chunks.push(self.keep(stream, String::from_utf8_lossy(&rest).into_owned(), now));
            }
        }
        if self.dropped > 0 {
            let notice = format!("[{} more bytes were printed and not kept]\n", std::mem::take(&mut self.dropped));
            self.write(OutputStream::Stderr, &notice, now);
        }
        chunks
    }

    /// The output section of the object.
    pub(crate) fn section(&self) -> &[u8] {
        &self.kept
    }

    /// The last lines of standard error that are kept.
    pub(crate) fn last_lines(&self, count: usize) -> String {
        let mut text = String::new();
        for chunk in self.kept.split(|byte| *byte == b'\n').rev().filter(|chunk| !chunk.is_empty()) {
            let Ok((_, letter, piece)) = serde_json::from_slice::<(u64, String, String)>(chunk) else { break };
            if letter == "e" {
                text.insert_str(0, &piece);
            }
            if text.lines().count() > count || text.len() > LAST_LINES_BYTES_MAX {
                break;
            }
        }
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(count)..].iter().map(|line| format!("{line}\n")).collect()
    }

    fn add(&mut self, stream: OutputStream, bytes: &[u8], now: Timestamp) -> Option<LiveChunk> {
        if self.mask.is_empty() {
            return self.add_shown(stream, bytes, now);
        }
        let shown = self.held[place(stream)].pass(&self.mask, bytes);
        self.add_shown(stream, &shown, now)
    }

    fn add_shown(&mut self, stream: OutputStream, bytes: &[u8], now: Timestamp) -> Option<LiveChunk> {
        let partial = &mut self.partial[place(stream)];
        let mut whole = std::mem::take(partial);
        whole.extend_from_slice(bytes);
        *partial = whole.split_off(whole.len() - unfinished_character(&whole));
        if whole.is_empty() {
            return None;
        }
        let text = String::from_utf8(whole).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
        Some(self.keep(stream, text, now))
    }

    fn keep(&mut self, stream: OutputStream, text: String, at: Timestamp) -> LiveChunk {
        if !self.full && self.kept.len() + text.len() > KEPT_BYTES_MAX {
            self.full = true;
            let notice = format!("[output above {} MiB is not kept]\n", KEPT_BYTES_MAX / (1024 * 1024));
            self.write(OutputStream::Stderr, &notice, at);
        } else if !self.full {
            self.write(stream, &text, at);
        }
        if self.full {
            self.dropped += text.len() as u64;
        }
        let position = self.printed;
        self.printed += text.len() as u64;
        LiveChunk { at, stream, text, position }
    }

    fn write(&mut self, stream: OutputStream, text: &str, at: Timestamp) {
        let letter = match stream {
            OutputStream::Stdout => "o",
            OutputStream::Stderr => "e",
        };
        serde_json::to_writer(&mut self.kept, &(at.0, letter, text)).expect("text has a JSON form");
        self.kept.push(b'\n');
    }
}

fn place(stream: OutputStream) -> usize {
    match stream {
        OutputStream::Stdout => 0,
        OutputStream::Stderr => 1,
    }
}

/// How many bytes at the end are the start of a UTF-8 character that may still become whole.
fn unfinished_character(bytes: &[u8]) -> usize {
    for back in 1..=bytes.len().min(3) {
        let byte = bytes[bytes.len() - back];
        let length = match byte {
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            0x80..=0xbf => continue,
            _ => return 0,
        };
        return if length > back { back } else { 0 };
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(7);

    fn texts(output: &Output) -> String {
        String::from_utf8(output.section().to_vec()).unwrap()
    }

    #[test]
    fn a_character_cut_between_two_reads_is_kept_whole() {
        let mut output = Output::default();
        let bytes = "a€b".as_bytes();
        assert_eq!(output.add(OutputStream::Stdout, &bytes[..2], NOW).unwrap().text, "a");
        assert_eq!(output.add(OutputStream::Stdout, &bytes[2..], NOW).unwrap().text, "€b");
        assert_eq!(texts(&output), "[7,\"o\",\"a\"]\n[7,\"o\",\"€b\"]\n");
        let last = output.add(OutputStream::Stderr, b"\xff!", NOW).unwrap();
        assert_eq!((last.text.as_str(), last.position), ("\u{fffd}!", 5));
    }

    #[test]
    fn output_above_the_limit_is_named_once_and_still_shown() {
        let mut output = Output::default();
        let piece = "x".repeat(1024 * 1024);
        for _ in 0..12 {
            assert!(output.add(OutputStream::Stdout, piece.as_bytes(), NOW).is_some());
        }
        assert!(output.section().len() < KEPT_BYTES_MAX + 4096);
        assert_eq!(texts(&output).matches("is not kept").count(), 1);
        assert_eq!(output.dropped, 3 * 1024 * 1024);
    }

    #[test]
    fn the_last_lines_are_those_of_standard_error() {
        let mut output = Output::default();
        for (stream, text) in [(OutputStream::Stderr, "a\nb"), (OutputStream::Stdout, "no\n"), (OutputStream::Stderr, "c\nd\n")] {
            output.add(stream, text.as_bytes(), NOW);
        }
        assert_eq!(output.last_lines(2), "bc\nd\n");
        assert_eq!(output.last_lines(9), "a\nbc\nd\n");
        assert_eq!(Output::default().last_lines(9), "");
    }

    #[tokio::test]
    async fn a_closed_pipe_is_left_alone() {
        use tokio::io::AsyncWriteExt as _;
        let ((mut stdout, out), (stderr, err)) = (tokio::net::unix::pipe::pipe().unwrap(), tokio::net::unix::pipe::pipe().unwrap());
        let mut pipes = Pipes::new(out, err);
        stdout.write_all(b"hello").await.unwrap();
        drop((stdout, stderr));
        let mut output = Output::default();
        pipes.readable().await;
        assert_eq!(output.take(&mut pipes, NOW)[0].text, "hello");
        assert!(output.drain(&mut pipes, NOW).is_empty());
        let wait = tokio::time::timeout(std::time::Duration::from_millis(5), pipes.readable()).await;
        assert!(wait.is_err(), "the end of a pipe wakes only once");
    }
}
