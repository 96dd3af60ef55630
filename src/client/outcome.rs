//! How a connection ended, and what became of the lines that were sent on it. Plain data.

use std::ops::Range;
use std::time::Duration;
use std::{error, fmt, io};

use crate::wire::reasons::Rejection;

/// The account of a connection that has ended. It covers every line that was sent.
///
/// Numbers are those that [`Outbox::send`](super::Outbox::send) returned.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ConnectionOutcome {
    /// Why it ended.
    pub reason: DisconnectReason,
    /// The number of the last line that the server certainly accepted. It accepted all lines
    /// before, too.
    pub accepted: u64,
    /// Lines that the server may have accepted: it ended without saying so. Empty if the server
    /// shut down, since it then reports how many lines it accepted.
    pub in_doubt: Lines,
    /// Lines that the server certainly did not accept: send them on the next connection.
    pub unaccepted: Lines,
}

impl ConnectionOutcome {
    /// The number of the last line whose account is closed: it was accepted, or is in doubt.
    ///
    /// [`resume`](super::resume) after this number to send [`unaccepted`](Self::unaccepted) under
    /// the numbers that its lines have.
    #[must_use]
    pub fn settled(&self) -> u64 {
        self.in_doubt.last_number()
    }
}

/// Why a connection ended.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum DisconnectReason {
    /// This side half-closed, the server accepted all lines and closed in turn.
    Left,
    /// The server shut down and reported how many lines it accepted.
    ShutDown,
    /// The server closed the connection, for this reason.
    Rejected(Rejection),
    /// The connection was lost, with this kind of system error if there was one.
    Lost(Option<io::ErrorKind>),
    /// The connection was reset after this side had read nothing for this long, because its inbox
    /// was full. The server almost certainly evicted it, and could not say so.
    Stalled(Duration),
    /// This side gave up, see [`Outbox::finish`](super::Outbox::finish).
    GivenUp,
}

impl fmt::Display for DisconnectReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Left => f.write_str("left"),
            Self::ShutDown => f.write_str("the server was shut down"),
            Self::Rejected(rejection) => {
                write!(f, "the server closed the connection: {rejection}")
            }
            Self::Lost(None) => f.write_str("the connection ended without notice"),
            Self::Lost(Some(kind)) => write!(f, "the connection was lost: {kind}"),
            Self::Stalled(time) => {
                let seconds = time.as_secs_f64();
                write!(
                    f,
                    "probably evicted: the connection was reset after {seconds:.0} s in which nothing was read"
                )
            }
            Self::GivenUp => f.write_str("the connection was given up"),
        }
    }
}

impl error::Error for DisconnectReason {}

/// Consecutive lines and their numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lines {
    /// The number of the line before the first one.
    before: u64,
    count: u64,
    bytes: Vec<u8>,
}

impl Lines {
    /// These complete lines, which follow the one of number `before`. Bytes after the last line end
    /// are left out.
    #[must_use]
    pub fn new(before: u64, lines: &[u8]) -> Self {
        let end = memchr::memrchr(b'\n', lines).map_or(0, |end| end + 1);
        let mut all = Self::after(before);
        all.push(&lines[..end]);
        all
    }

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
    pub fn len(&self) -> u64 {
        self.count
    }

    /// True if there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The number of the first line, or the one it would have if there are none.
    #[must_use]
    pub fn first_number(&self) -> u64 {
        self.before + 1
    }

    /// The number of the last line, or of the line before the first if there are none.
    #[must_use]
    pub fn last_number(&self) -> u64 {
        self.before + self.count
    }

    /// The numbers of all lines.
    #[must_use]
    pub fn numbers(&self) -> Range<u64> {
        self.first_number()..self.last_number() + 1
    }

    /// Each line's number and text, without its line end.
    #[must_use]
    pub fn iter(&self) -> LinesIter<'_> {
        LinesIter { number: self.first_number(), rest: &self.bytes }
    }

    /// The lines as they were sent, line ends included.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The lines as they were sent, line ends included.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

impl<'a> IntoIterator for &'a Lines {
    type Item = (u64, &'a [u8]);
    type IntoIter = LinesIter<'a>;

    fn into_iter(self) -> LinesIter<'a> {
        self.iter()
    }
}

/// Each of some [`Lines`]: its number and its text, without its line end.
#[derive(Clone, Debug)]
pub struct LinesIter<'a> {
    number: u64,
    rest: &'a [u8],
}

impl<'a> Iterator for LinesIter<'a> {
    type Item = (u64, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let end = memchr::memchr(b'\n', self.rest)?;
        let line = &self.rest[..end];
        self.rest = &self.rest[end + 1..];
        let number = self.number;
        self.number += 1;
        Some((number, line.strip_suffix(b"\r").unwrap_or(line)))
    }
}
