//! The lines of a server, as its client reads them. Pure.

use std::fmt;

use super::room::RoomEvent;
use crate::wire::loss::{LossNotice, LossReason};
use crate::wire::name::Name;
use crate::wire::protocol::{self, ERROR_LINE, FROM, HERE, NOT_HERE, NOTICE, NOTICE_LINE};
use crate::wire::reasons::{ERROR, RefusalReason, Rejection};
use crate::wire::room::Room;
use crate::wire::sync::SyncOutcome;

/// A line from the server.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A message from another client, or from this one to itself.
    Message {
        /// The sender.
        from: Name,
        /// Any text without a line end, control characters included.
        text: String,
    },
    /// A message to a room in which this client is.
    RoomMessage {
        /// The room.
        room: Room,
        /// The sender.
        from: Name,
        /// As in [`Message`](Self::Message).
        text: String,
    },
    /// Something about a room.
    Room(RoomEvent),
    /// The server refused one of the user's lines, as a whole or for some of its recipients.
    Refused(Refusal),
    /// Lines of the user's were accepted, and lost on the way to some recipient.
    Lost(LostLines),
    /// The reply to a `/sync`, as [`Outbox::sync`](super::Outbox::sync) sends it.
    Synced(Synced),
    /// The reply to `/who`.
    Who(WhoReply),
    /// Why the server closes the connection.
    Error(Rejection),
    /// The server shuts down.
    ShuttingDown {
        /// The number of the user's last line that it accepted. It accepted all lines before, too.
        accepted: u64,
    },
    /// Anything else that is no error.
    Notice(String),
    /// A line of no known form.
    Other(String),
}

/// A line that the server refused, as a whole or for some of its recipients.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refusal {
    /// The number of the line.
    pub line: u64,
    /// Why it was refused.
    pub reason: RefusalReason,
    /// The line itself. Bytes that are not UTF-8 are replaced.
    pub text: String,
}

/// The reply to a `/sync` line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Synced {
    /// The number of the line that asked.
    pub line: u64,
    /// What became of the lines before it.
    pub outcome: SyncOutcome,
}

/// Lines that the server had accepted, and that it then lost on the way to a recipient, which was
/// evicted, vanished, or left too soon.
///
/// It comes at any time, also after replies to later lines. One such event tells all that was lost
/// on the way to one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LostLines {
    /// The number of the first lost line.
    pub first: u64,
    /// The number of the last lost line. Others between the two may have been for someone else.
    pub last: u64,
    /// How many deliveries are lost: to one recipient, as many as there are lost lines.
    pub deliveries: u64,
    /// Who did not get them.
    pub recipient: LostRecipient,
    /// Those of the lost lines that the client still has, each with its number: it keeps the last
    /// thousand, or 256 KiB, of the lines that were accepted. Bytes that are not UTF-8 are replaced.
    pub lines: Vec<(u64, String)>,
}

/// Who did not get some lost lines.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LostRecipient {
    /// One connection.
    One {
        /// Its name.
        name: Name,
        /// Why it did not get them.
        reason: LossReason,
    },
    /// So many connections that they are not named.
    Several(u64),
}

impl fmt::Display for LostRecipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One { name, reason } => write!(f, "{name}: {reason}"),
            Self::Several(recipients) => write!(f, "{recipients} others"),
        }
    }
}

/// As on the wire, after the `error: `, and with the user's numbers.
impl fmt::Display for LostLines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { first, last, deliveries, recipient, .. } = self;
        write!(f, "line {last}: ")?;
        match recipient {
            LostRecipient::One { .. } if *deliveries == 1 => {}
            LostRecipient::One { .. } => write!(f, "{deliveries} lines from line {first} on ")?,
            LostRecipient::Several(_) => {
                write!(f, "{deliveries} deliveries from line {first} on ")?;
            }
        }
        write!(f, "lost on the way to {recipient}")
    }
}

/// The reply to a `/who` line. [`Display`](fmt::Display) is its text on the wire, without the
/// line's number.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WhoReply {
    /// The number of the line that asked.
    pub line: u64,
    /// How many clients are connected, if the line named none. They may be more than are listed.
    pub connected: Option<u64>,
    /// Those that are connected.
    pub here: Vec<Name>,
    /// Those of the list that are not connected, as they were typed.
    pub not_here: Vec<String>,
}

impl Refusal {
    /// The refusal of the line of this number and text.
    #[must_use]
    pub fn new(line: u64, reason: RefusalReason, text: impl Into<String>) -> Self {
        Self { line, reason, text: text.into() }
    }
}

impl WhoReply {
    /// Reads the reply to the line of this number, without the `notice: line N: ` before it. `None`
    /// for a text that replies to something else.
    ///
    /// ```
    /// let reply = a_chat::client::WhoReply::parse(5, "here: bob; not here: carol").expect("a reply");
    /// assert_eq!(reply.here[0], "bob");
    /// assert_eq!(reply.not_here, ["carol"]);
    /// ```
    #[must_use]
    pub fn parse(line: u64, text: &str) -> Option<Self> {
        let names = |list: &str| list.split(", ").map(Name::new).collect::<Result<_, _>>().ok();
        let typed = |list: &str| list.split(", ").map(str::to_owned).collect();
        if let Some(list) = text.strip_prefix(NOT_HERE) {
            return Some(Self { line, connected: None, here: Vec::new(), not_here: typed(list) });
        }
        if let Some(lists) = text.strip_prefix(HERE) {
            // No name holds the `;`, so the first one ends the list of names.
            let (here, not_here) = match lists.split_once("; ") {
                Some((here, rest)) => (here, typed(rest.strip_prefix(NOT_HERE)?)),
                None => (lists, Vec::new()),
            };
            return Some(Self { line, connected: None, here: names(here)?, not_here });
        }
        let (connected, list) = text.split_once(' ')?;
        let list = list.strip_prefix(HERE)?;
        let list = list.strip_suffix(", ...").unwrap_or(list);
        let connected = Some(connected.parse().ok()?);
        Some(Self { line, connected, here: names(list)?, not_here: Vec::new() })
    }
}

impl fmt::Display for WhoReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let here: Vec<_> = self.here.iter().map(Name::as_str).collect();
        if let Some(connected) = self.connected {
            write!(f, "{connected} {HERE}{}", here.join(", "))?;
            return f.write_str(if connected > here.len() as u64 { ", ..." } else { "" });
        }
        if !here.is_empty() {
            write!(f, "{HERE}{}", here.join(", "))?;
        }
        if !self.not_here.is_empty() {
            let between = if here.is_empty() { "" } else { "; " };
            write!(f, "{between}{NOT_HERE}{}", self.not_here.join(", "))?;
        }
        Ok(())
    }
}

/// A line from the server, borrowed from it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ServerLine<'a> {
    Message {
        from: Name,
        text: &'a str,
    },
    RoomMessage {
        room: Room,
        from: Name,
        text: &'a str,
    },
    Refusal {
        line: u64,
        reason: &'a str,
    },
    Lost(LossNotice),
    Synced(Synced),
    Reply {
        line: u64,
        text: &'a str,
    },
    ShuttingDown {
        accepted: u64,
    },
    /// What the server accepted, before the error that says why it parts with the client.
    Parting {
        accepted: u64,
    },
    Error(&'a str),
    Notice(&'a str),
    Other,
}

impl<'a> ServerLine<'a> {
    /// Reads one line without its line end.
    pub(crate) fn parse(line: &'a str) -> Self {
        Self::parse_known(line).unwrap_or(Self::Other)
    }

    fn parse_known(line: &'a str) -> Option<Self> {
        if let Some(message) = line.strip_prefix(FROM) {
            let (from, text) = message.split_once(": ")?;
            return Some(match from.split_once(' ') {
                None => Self::Message { from: Name::new(from).ok()?, text },
                Some((from, room)) => {
                    let (from, room) = (Name::new(from).ok()?, Room::new(room).ok()?);
                    Self::RoomMessage { room, from, text }
                }
            });
        }
        if let Some((line, reason)) = numbered(line, ERROR_LINE) {
            if let Some(loss) = LossNotice::parse(line, reason) {
                return Some(Self::Lost(loss));
            }
            if let Some(outcome) = SyncOutcome::parse(reason) {
                return Some(Self::Synced(Synced { line, outcome }));
            }
            return Some(Self::Refusal { line, reason });
        }
        if let Some((line, text)) = numbered(line, NOTICE_LINE) {
            if let Some(outcome) = SyncOutcome::parse(text) {
                return Some(Self::Synced(Synced { line, outcome }));
            }
            return Some(Self::Reply { line, text });
        }
        if let Some(accepted) = protocol::accepted_in_closing_notice(line) {
            return Some(Self::ShuttingDown { accepted });
        }
        if let Some(accepted) = protocol::accepted_in_parting_notice(line) {
            return Some(Self::Parting { accepted });
        }
        let error = line.strip_prefix(ERROR).map(Self::Error);
        error.or_else(|| line.strip_prefix(NOTICE).map(Self::Notice))
    }

    /// As an event. The refusals and losses of a block come beside its lines, since they hold lines
    /// of the user's.
    pub(crate) fn into_event(
        self,
        whole: &str,
        refusal: impl FnOnce() -> Option<Refusal>,
        loss: impl FnOnce() -> Option<LostLines>,
    ) -> Event {
        match self {
            Self::Message { from, text } => Event::Message { from, text: text.to_owned() },
            Self::RoomMessage { room, from, text } => {
                Event::RoomMessage { room, from, text: text.to_owned() }
            }
            Self::Refusal { .. } => {
                refusal().map_or_else(|| Event::Other(whole.to_owned()), Event::Refused)
            }
            Self::Lost(_) => loss().map_or_else(|| Event::Other(whole.to_owned()), Event::Lost),
            Self::Synced(synced) => Event::Synced(synced),
            Self::Reply { line, text } => WhoReply::parse(line, text)
                .map(Event::Who)
                .or_else(|| RoomEvent::parse_reply(line, text).map(Event::Room))
                .unwrap_or_else(|| Event::Notice(format!("line {line}: {text}"))),
            Self::ShuttingDown { accepted } => Event::ShuttingDown { accepted },
            Self::Parting { .. } => {
                Event::Notice(whole.strip_prefix(NOTICE).unwrap_or(whole).to_owned())
            }
            Self::Error(text) => Event::Error(Rejection::parse(text)),
            Self::Notice(text) => RoomEvent::parse_notice(text)
                .map_or_else(|| Event::Notice(text.to_owned()), Event::Room),
            Self::Other => Event::Other(whole.to_owned()),
        }
    }
}

/// The number after `prefix`, and the text after that.
fn numbered<'a>(line: &'a str, prefix: &str) -> Option<(u64, &'a str)> {
    let (number, text) = line.strip_prefix(prefix)?.split_once(": ")?;
    Some((number.parse().ok()?, text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::reasons::LineRefusal;

    fn written(write: &dyn Fn(&mut Vec<u8>)) -> String {
        let mut line = Vec::new();
        write(&mut line);
        assert_eq!(line.pop(), Some(b'\n'));
        String::from_utf8(line).expect("text")
    }

    #[test]
    fn a_client_reads_every_line_that_a_server_writes() {
        let alice = Name::new("alice").expect("a valid name");
        for text in ["see: this", "", " kept "] {
            let message = written(&|out| {
                out.extend_from_slice(&protocol::message_prefix(&alice));
                out.extend_from_slice(text.as_bytes());
                out.push(b'\n');
            });
            let expected = ServerLine::Message { from: alice.clone(), text };
            assert_eq!(ServerLine::parse(&message), expected);
        }
        let refusal =
            written(&|out| protocol::push_refusal(out, 7, LineRefusal::TooLong { limit: 9 }));
        let reason = "longer than 9 bytes";
        assert_eq!(ServerLine::parse(&refusal), ServerLine::Refusal { line: 7, reason });
        let no_peer = written(&|out| protocol::push_missing(out, 8, b"no such peer: bob, c: d"));
        let reason = "no such peer: bob, c: d";
        assert_eq!(ServerLine::parse(&no_peer), ServerLine::Refusal { line: 8, reason });
        let closing = written(&|out| out.extend_from_slice(protocol::closing_notice(3).as_bytes()));
        assert_eq!(ServerLine::parse(&closing), ServerLine::ShuttingDown { accepted: 3 });
        let parting = written(&|out| out.extend_from_slice(protocol::parting_notice(3).as_bytes()));
        assert_eq!(ServerLine::parse(&parting), ServerLine::Parting { accepted: 3 });
        let slow = written(&|out| protocol::push_rate_notice(out, 100));
        let notice = "you send faster than 100 lines a second and are slowed down";
        assert_eq!(ServerLine::parse(&slow), ServerLine::Notice(notice));
        let taken = Rejection::NameTaken.line();
        assert_eq!(ServerLine::parse(taken.trim_end()), ServerLine::Error("name taken"));
    }

    #[test]
    fn who_replies_are_read_and_written_alike() {
        let reply = |write: &dyn Fn(&mut Vec<u8>)| {
            let line = written(write);
            let ServerLine::Reply { line, text } = ServerLine::parse(&line) else {
                panic!("no reply: {line}")
            };
            let reply = WhoReply::parse(line, text).expect("a reply");
            assert_eq!(reply.to_string(), text);
            let here: Vec<_> = reply.here.iter().map(ToString::to_string).collect();
            (reply.line, reply.connected, here.join(" "), reply.not_here.join("|"))
        };
        let owned = |line, connected, here: &str, not_here: &str| {
            (line, connected, here.to_owned(), not_here.to_owned())
        };
        let both = reply(&|out| protocol::push_who_of(out, 9, &[b"bob"], &[b"a b", b"c; d"]));
        assert_eq!(both, owned(9, None, "bob", "a b|c; d"));
        let here = reply(&|out| protocol::push_who_of(out, 9, &[b"bob", b"al"], &[]));
        assert_eq!(here, owned(9, None, "bob al", ""));
        let absent = reply(&|out| protocol::push_who_of(out, 9, &[], &[b"x; not here: y"]));
        assert_eq!(absent, owned(9, None, "", "x; not here: y"));
        let all = reply(&|out| protocol::push_who(out, 10, 1, &[b"bob"]));
        assert_eq!(all, owned(10, Some(1), "bob", ""));
        let some = reply(&|out| protocol::push_who(out, 10, 200, &[b"bob"]));
        assert_eq!(some, owned(10, Some(200), "bob", ""));
        for odd in ["", "here", "x here: bob", "here: a b", "here: bob; else: carol"] {
            assert_eq!(WhoReply::parse(1, odd), None, "{odd}");
        }
    }

    #[test]
    fn a_line_that_no_server_writes_is_something_else() {
        for line in ["", "from alice", "from al ice: x", "from : x", "hello: x", "errors: x"] {
            assert_eq!(ServerLine::parse(line), ServerLine::Other, "{line}");
        }
        assert_eq!(ServerLine::parse("error: line x: y"), ServerLine::Error("line x: y"));
        assert_eq!(ServerLine::parse("notice: line 1"), ServerLine::Notice("line 1"));
        let other = "server is shutting down, x of your lines were accepted";
        assert_eq!(ServerLine::parse(&format!("notice: {other}")), ServerLine::Notice(other));
    }
}
