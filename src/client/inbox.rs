//! What the server says, as the user gets it: blocks of lines, and the event that each of them
//! is. No thread runs here; the client's reader thread fills an inbox, whoever has it empties it.

use std::collections::{VecDeque, vec_deque};

use crossbeam_channel::Receiver;

use crate::wire::protocol::{self, ERROR, ERROR_LINE, FROM, NOTICE, NOTICE_LINE, Name};

/// What the server says, in order, up to the end of the connection.
///
/// Take what arrives: an inbox that is full holds up the connection, and a server evicts clients
/// that take nothing. A dropped one does not; what arrives is then thrown away.
#[derive(Debug)]
pub struct Inbox {
    /// What came before the login was known to have worked.
    pub(crate) early: VecDeque<Block>,
    pub(crate) blocks: Receiver<Block>,
}

impl Inbox {
    /// Waits for more; `None` when the connection has ended and everything was taken.
    pub fn next_block(&mut self) -> Option<Block> {
        self.early.pop_front().or_else(|| self.blocks.recv().ok())
    }

    /// Each line as an event, up to the end of the connection.
    pub fn events(mut self) -> impl Iterator<Item = Event> {
        std::iter::from_fn(move || self.next_block()).flat_map(Block::into_events)
    }
}

/// Lines from the server that came at once.
///
/// They are as the server wrote them, but for two things: the answers to what the client has asked
/// by itself are taken out, and line numbers are those of the user's lines.
#[derive(Debug)]
pub struct Block {
    pub(crate) bytes: Vec<u8>,
    pub(crate) refusals: Vec<Refusal>,
}

impl Block {
    /// The lines, line ends included.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The user's lines that the server has refused, wholly or in part, for each of which
    /// [`bytes`](Self::bytes) holds an error.
    #[must_use]
    pub fn refusals(&self) -> &[Refusal] {
        &self.refusals
    }

    /// True if somebody's message is in it.
    pub(crate) fn has_message(&self) -> bool {
        self.bytes.split(|&byte| byte == b'\n').any(|line| line.starts_with(FROM.as_bytes()))
    }

    /// Each line as an event.
    #[must_use]
    pub fn into_events(self) -> Events {
        Events { bytes: self.bytes, start: 0, refusals: VecDeque::from(self.refusals).into_iter() }
    }
}

/// The events of a [`Block`].
#[derive(Debug)]
pub struct Events {
    bytes: Vec<u8>,
    start: usize,
    refusals: vec_deque::IntoIter<Refusal>,
}

impl Iterator for Events {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        let rest = &self.bytes[self.start..];
        let end = memchr::memchr(b'\n', rest)?;
        self.start += end + 1;
        let line = String::from_utf8_lossy(&rest[..end]);
        Some(match ServerLine::parse(&line) {
            ServerLine::Message { from, text } => Event::Message { from, text: text.to_owned() },
            ServerLine::Refusal { line, reason } => self.refusals.next().map_or_else(
                || Event::Other(format!("{ERROR_LINE}{line}: {reason}")),
                Event::Refused,
            ),
            ServerLine::Answer { line, text } => Event::Answer { line, text: text.to_owned() },
            ServerLine::ShuttingDown { accepted } => Event::ShuttingDown { accepted },
            ServerLine::Error(text) => Event::Error(text.to_owned()),
            ServerLine::Notice(text) => Event::Notice(text.to_owned()),
            ServerLine::Other => Event::Other(line.into_owned()),
        })
    }
}

/// A line from the server.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// Someone has sent a message.
    Message {
        /// Who has sent it.
        from: Name,
        /// What it says: any text but a line end, control characters included.
        text: String,
    },
    /// One of the user's lines was refused, wholly or for some of its recipients.
    Refused(Refusal),
    /// The answer to one of the user's lines, `/who` that is.
    Answer {
        /// The number of the line.
        line: u64,
        /// What the server says to it.
        text: String,
    },
    /// Why the server closes the connection.
    Error(String),
    /// The server stops.
    ShuttingDown {
        /// The number of the user's last line that it has accepted, and with it all before.
        accepted: u64,
    },
    /// Something else that is no error.
    Notice(String),
    /// A line of no known form.
    Other(String),
}

/// A line that the server has refused, wholly or for some of its recipients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The number of the line.
    pub line: u64,
    /// What the server says.
    pub reason: String,
    /// The line itself.
    pub text: String,
}

/// What a line from the server says, borrowed from it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ServerLine<'a> {
    Message { from: Name, text: &'a str },
    Refusal { line: u64, reason: &'a str },
    Answer { line: u64, text: &'a str },
    ShuttingDown { accepted: u64 },
    Error(&'a str),
    Notice(&'a str),
    Other,
}

impl<'a> ServerLine<'a> {
    /// Reads one line, its line end taken off.
    pub(crate) fn parse(line: &'a str) -> Self {
        Self::parse_known(line).unwrap_or(Self::Other)
    }

    fn parse_known(line: &'a str) -> Option<Self> {
        if let Some(message) = line.strip_prefix(FROM) {
            let (from, text) = message.split_once(": ")?;
            return Some(Self::Message { from: Name::new(from.as_bytes())?, text });
        }
        if let Some((line, reason)) = numbered(line, ERROR_LINE) {
            return Some(Self::Refusal { line, reason });
        }
        if let Some((line, text)) = numbered(line, NOTICE_LINE) {
            return Some(Self::Answer { line, text });
        }
        if let Some(accepted) = protocol::accepted_in_closing_notice(line) {
            return Some(Self::ShuttingDown { accepted });
        }
        let error = line.strip_prefix(ERROR).map(Self::Error);
        error.or_else(|| line.strip_prefix(NOTICE).map(Self::Notice))
    }
}

/// The number after `prefix` and what follows it.
fn numbered<'a>(line: &'a str, prefix: &str) -> Option<(u64, &'a str)> {
    let (number, text) = line.strip_prefix(prefix)?.split_once(": ")?;
    Some((number.parse().ok()?, text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::protocol::{LineRefusal, Rejection};

    /// What the server's side writes is what this side reads.
    #[test]
    fn reads_what_the_server_writes() {
        let written = |write: &dyn Fn(&mut Vec<u8>)| {
            let mut line = Vec::new();
            write(&mut line);
            assert_eq!(line.pop(), Some(b'\n'));
            String::from_utf8(line).expect("text")
        };
        let alice = Name::new(b"alice").expect("a good name");
        let message = written(&|out| {
            out.extend_from_slice(&protocol::message_prefix(&alice));
            out.extend_from_slice(b"see: this\n");
        });
        assert_eq!(
            ServerLine::parse(&message),
            ServerLine::Message { from: alice.clone(), text: "see: this" }
        );
        let empty = written(&|out| {
            out.extend_from_slice(&protocol::message_prefix(&alice));
            out.push(b'\n');
        });
        assert_eq!(ServerLine::parse(&empty), ServerLine::Message { from: alice, text: "" });
        let refusal =
            written(&|out| protocol::push_refusal(out, 7, LineRefusal::TooLong { limit: 9 }));
        let reason = "longer than 9 bytes";
        assert_eq!(ServerLine::parse(&refusal), ServerLine::Refusal { line: 7, reason });
        let no_peer = written(&|out| protocol::push_no_such_peer(out, 8, b"bob, c: d"));
        let reason = "no such peer: bob, c: d";
        assert_eq!(ServerLine::parse(&no_peer), ServerLine::Refusal { line: 8, reason });
        let who = written(&|out| protocol::push_who_of(out, 9, &[b"bob"], &[b"carol"]));
        let text = "here: bob; not here: carol";
        assert_eq!(ServerLine::parse(&who), ServerLine::Answer { line: 9, text });
        let who = written(&|out| protocol::push_who(out, 10, 2, &[b"bob"]));
        assert_eq!(
            ServerLine::parse(&who),
            ServerLine::Answer { line: 10, text: "2 here: bob, ..." }
        );
        let closing = written(&|out| out.extend_from_slice(protocol::closing_notice(3).as_bytes()));
        assert_eq!(ServerLine::parse(&closing), ServerLine::ShuttingDown { accepted: 3 });
        let taken = written(&|out| out.extend_from_slice(Rejection::NameTaken.line().as_bytes()));
        assert_eq!(ServerLine::parse(&taken), ServerLine::Error("name taken"));
    }

    #[test]
    fn what_no_server_writes_is_something_else() {
        for line in ["", "from alice", "from al ice: x", "from : x", "hello: x", "errors: x"] {
            assert_eq!(ServerLine::parse(line), ServerLine::Other, "{line}");
        }
        assert_eq!(ServerLine::parse("error: line x: y"), ServerLine::Error("line x: y"));
        assert_eq!(ServerLine::parse("notice: line 1"), ServerLine::Notice("line 1"));
        let other = "server is shutting down, x of your lines were accepted";
        assert_eq!(ServerLine::parse(&format!("notice: {other}")), ServerLine::Notice(other));
    }
}
