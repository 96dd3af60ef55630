//! How a sender of each product learns what the server has taken: logins, lines and answers. Pure:
//! bytes only.

use std::ops::Range;

use a_chat::load::protocol::{Lines, STAMP};

use crate::rig::crowd::accepted;

/// How long a text is, in bytes: a mark, a stamp and filling.
pub const SIZE: usize = 128;

/// Each text begins with it, and it stands nowhere else.
pub const MARK: u8 = b'#';

/// Where a text's stamp stands.
pub const STAMPED: Range<usize> = 1..1 + STAMP;

/// How many messages a sender writes at once.
pub const BATCH: u32 = 64;

const SENDER: &str = "sender";
const RECIPIENT: &str = "recipient";

/// A product whose sender is told, in one way or another, what was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// The closing notice says it of all lines at once.
    Chat,
    /// Its answers come in order, so that one to a question says it of all lines before.
    Ngircd,
    /// An answer to each message, in its verbose mode.
    Nats,
    /// An answer to each message, which says how many get it.
    Redis,
}

/// What a client says first, and the end of what it has to hear then.
#[derive(Debug)]
pub struct Hello {
    pub says: String,
    pub hears: &'static str,
}

/// What the answers so far say of the sender's messages.
#[derive(Clone, Copy, Debug, Default)]
pub struct Answers {
    /// So many of them, the first ones, were taken.
    pub taken: u64,
    /// Refused of those that the next answer counts.
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

    pub fn recipient(self) -> Hello {
        let (says, hears) = match self {
            Self::Chat | Self::Ngircd => return self.login(RECIPIENT),
            Self::Nats => (
                format!("CONNECT {{\"verbose\":false}}\r\nSUB {RECIPIENT} 1\r\nPING\r\n"),
                "PONG\r\n",
            ),
            Self::Redis => (format!("SUBSCRIBE {RECIPIENT}\r\n"), ":1\r\n"),
        };
        Hello { says, hears }
    }

    pub fn sender(self) -> Hello {
        let (says, hears) = match self {
            Self::Chat | Self::Ngircd => return self.login(SENDER),
            Self::Nats => ("CONNECT {\"verbose\":true}\r\nPING\r\n", "+OK\r\nPONG\r\n"),
            Self::Redis => ("PING\r\n", "+PONG\r\n"),
        };
        Hello { says: says.to_owned(), hears }
    }

    /// Where there is no difference between those who send and those who receive.
    fn login(self, name: &str) -> Hello {
        let (says, hears) = match self {
            Self::Ngircd => {
                (format!("NICK {name}\r\nUSER {name} 0 * :{name}\r\nPING :in\r\n"), ":in\r\n")
            }
            _ => (format!("{name}\n/who nobody\n"), "not here: nobody\n"),
        };
        Hello { says, hears }
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
        line.times(BATCH as usize)
    }

    /// What a sender asks after each batch.
    pub fn question(self) -> &'static [u8] {
        if self == Self::Ngircd { b"PING :so far\r\n" } else { b"" }
    }

    /// Takes in one line that the server has told the sender.
    pub fn hear(self, line: &str, answers: &mut Answers) {
        let counts = match self {
            Self::Chat => {
                answers.refused += u64::from(line.starts_with("error: line "));
                // The first line that was accepted was a question.
                accepted(line.as_bytes()).map(|accepted| accepted - 1)
            }
            Self::Ngircd => {
                // 401: there is no such nick.
                answers.refused += u64::from(line.contains(" 401 "));
                line.contains(" PONG ").then_some(u64::from(BATCH))
            }
            Self::Nats => (line == "+OK").then_some(1),
            Self::Redis => (line == ":1").then_some(1),
        };
        if let Some(count) = counts {
            answers.taken += count - answers.refused;
            answers.refused = 0;
        }
    }
}
