//! How each product tells a sender which messages it accepted: logins, lines and replies. Pure:
//! bytes only.

use std::ops::Range;

use a_chat::load::protocol::{Lines, STAMP};

use crate::rig::crowd::accepted;

/// Length of a text, in bytes: a mark, a stamp and filling.
pub const SIZE: usize = 128;

/// The first byte of each text, and of nothing else.
pub const MARK: u8 = b'#';

/// The place of a text's stamp.
pub const STAMPED: Range<usize> = 1..1 + STAMP;

/// Messages per write of the sender.
pub const BATCH: u32 = 64;

const SENDER: &str = "sender";
const RECIPIENT: &str = "recipient";

/// A product that tells the sender, one way or another, which messages it accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// The closing notice counts all accepted lines.
    Chat,
    /// Replies come in order, so a reply to a query covers all lines before it.
    Ngircd,
    /// A reply to each message, in verbose mode.
    Nats,
    /// A reply to each message, with its number of recipients.
    Redis,
}

/// A client's first request, and the end of the reply.
#[derive(Debug)]
pub struct Handshake {
    pub request: String,
    pub reply_end: &'static str,
}

/// The sender's messages as far as the replies account for them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Replies {
    /// This many of the first messages were accepted.
    pub accepted: u64,
    /// Refused lines among those that the next reply counts.
    refused: u64,
}

impl Dialect {
    pub fn name(self) -> &'static str {
        match self {
            Self::Chat => "a-chat",
            Self::Ngircd => "ngircd",
            Self::Nats => "NATS",
            Self::Redis => "Redis",
        }
    }

    pub fn recipient(self) -> Handshake {
        let (request, reply_end) = match self {
            Self::Chat | Self::Ngircd => return self.login(RECIPIENT),
            Self::Nats => (
                format!("CONNECT {{\"verbose\":false}}\r\nSUB {RECIPIENT} 1\r\nPING\r\n"),
                "PONG\r\n",
            ),
            Self::Redis => (format!("SUBSCRIBE {RECIPIENT}\r\n"), ":1\r\n"),
        };
        Handshake { request, reply_end }
    }

    pub fn sender(self) -> Handshake {
        let (request, reply_end) = match self {
            Self::Chat | Self::Ngircd => return self.login(SENDER),
            Self::Nats => ("CONNECT {\"verbose\":true}\r\nPING\r\n", "+OK\r\nPONG\r\n"),
            Self::Redis => ("PING\r\n", "+PONG\r\n"),
        };
        Handshake { request: request.to_owned(), reply_end }
    }

    /// The login of products where senders and recipients log in alike.
    fn login(self, name: &str) -> Handshake {
        let (request, reply_end) = match self {
            Self::Ngircd => {
                (format!("NICK {name}\r\nUSER {name} 0 * :{name}\r\nPING :in\r\n"), ":in\r\n")
            }
            _ => (format!("{name}\n/who nobody\n"), "not here: nobody\n"),
        };
        Handshake { request, reply_end }
    }

    /// A batch of messages to the recipient.
    pub fn lines(self) -> Lines {
        let (head, end) = match self {
            Self::Chat => (format!("{RECIPIENT}:"), "\n"),
            Self::Ngircd => (format!("PRIVMSG {RECIPIENT} :"), "\r\n"),
            Self::Nats => (format!("PUB {RECIPIENT} {SIZE}\r\n"), "\r\n"),
            Self::Redis => {
                let length = RECIPIENT.len();
                let head =
                    format!("*3\r\n$7\r\nPUBLISH\r\n${length}\r\n{RECIPIENT}\r\n${SIZE}\r\n");
                (head, "\r\n")
            }
        };
        let mut bytes = [head.as_bytes(), &[b'x'; SIZE], end.as_bytes()].concat();
        bytes[head.len()] = MARK;
        let line = Lines { stamp: head.len() + 1, stride: bytes.len(), bytes };
        line.repeat(BATCH as usize)
    }

    /// The query that a sender appends to each batch.
    pub fn question(self) -> &'static [u8] {
        if self == Self::Ngircd { b"PING :so far\r\n" } else { b"" }
    }

    /// Handles one line from the server to the sender.
    pub fn handle_reply(self, line: &str, replies: &mut Replies) {
        let counts = match self {
            Self::Chat => {
                replies.refused += u64::from(line.starts_with("error: line "));
                // The first accepted line was the login's query.
                accepted(line.as_bytes()).map(|accepted| accepted - 1)
            }
            Self::Ngircd => {
                // 401: no such nick.
                replies.refused += u64::from(line.contains(" 401 "));
                line.contains(" PONG ").then_some(u64::from(BATCH))
            }
            Self::Nats => (line == "+OK").then_some(1),
            Self::Redis => (line == ":1").then_some(1),
        };
        if let Some(count) = counts {
            replies.accepted += count - replies.refused;
            replies.refused = 0;
        }
    }
}
