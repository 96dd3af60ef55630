//! How a connection ended, and what became of the lines that were sent on it. No thread runs here.

use std::{fmt, io};

/// The account of a connection that has ended: every line that was handed over is in it.
///
/// Numbers are those that [`Outbox::send`](super::Outbox::send) gave out.
#[derive(Debug)]
#[non_exhaustive]
pub struct ConnectionOutcome {
    /// Why it ended.
    pub reason: DisconnectReason,
    /// The number of the last line that the server has accepted for certain, and with it all
    /// before.
    pub accepted: u64,
    /// Lines that were sent and of which nobody can tell whether the server accepted them: it
    /// ended without a word. Empty if it was shut down, since then it says where the cut was.
    pub in_doubt: Lines,
    /// Lines that the server has certainly not accepted: send them on the next connection.
    pub unaccepted: Lines,
}

/// Why a connection ended.
#[derive(Debug)]
#[non_exhaustive]
pub enum DisconnectReason {
    /// This side half-closed, the server accepted all lines and closed in turn.
    Left,
    /// The server was shut down, and has said how many lines it accepted.
    ShutDown,
    /// The server has closed the connection with this error.
    Refused(String),
    /// The connection is gone, with this error of the system's if there was one.
    Lost(Option<io::Error>),
    /// This side has given it up, see [`Outbox::finish`](super::Outbox::finish).
    Closed,
}

impl fmt::Display for DisconnectReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Left => f.write_str("left"),
            Self::ShutDown => f.write_str("the server was shut down"),
            Self::Refused(error) => write!(f, "the server has closed the connection: {error}"),
            Self::Lost(None) => f.write_str("the connection ended without a word"),
            Self::Lost(Some(error)) => write!(f, "the connection was lost: {error}"),
            Self::Closed => f.write_str("the connection was given up"),
        }
    }
}

/// Consecutive lines and their numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lines {
    /// The number of the line before the first one.
    before: u64,
    count: u64,
    bytes: Vec<u8>,
}

impl Lines {
    /// No lines yet; the first one will follow that of number `before`.
    pub(crate) fn after(before: u64) -> Self {
        Self { before, count: 0, bytes: Vec::new() }
    }

    /// Appends complete lines.
    pub(crate) fn push(&mut self, lines: &[u8]) {
        self.count += memchr::memchr_iter(b'\n', lines).count() as u64;
        self.bytes.extend_from_slice(lines);
    }

    /// How many lines there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// True if there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The number of the first line, or of the one that would come next if there is none.
    #[must_use]
    pub fn first(&self) -> u64 {
        self.before + 1
    }

    /// The number of the last line, or of the one before if there is none.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.before + self.count
    }

    /// Each line's number and text, without its line end.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &[u8])> {
        let texts = self.bytes.strip_suffix(b"\n").filter(|_| self.count > 0);
        let texts = texts.into_iter().flat_map(|lines| lines.split(|&byte| byte == b'\n'));
        (self.first()..).zip(texts.map(|line| line.strip_suffix(b"\r").unwrap_or(line)))
    }

    /// The lines as they were sent, line ends included.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}
