//! Why a server rejects a connection or refuses a line, in both directions: as the text on the wire,
//! and read back from it. Pure.

use std::{error, fmt};

/// How an error begins on the wire.
pub(crate) const ERROR: &str = "error: ";

/// How many different names a list may hold. Each costs the broker a look-up, a queue entry and a
/// writer's wake-up while every other client waits: at this many, a millisecond or two.
pub(crate) const MAX_RECIPIENTS: usize = 1024;

/// What stands before the names that are not connected, in the refusal of a line.
pub(crate) const NO_SUCH_PEER: &str = "no such peer: ";

/// What stands before the recipients that cannot be names, in the refusal of a line.
pub(crate) const NOT_A_NAME: &str = "not a name: ";

/// Why a server closed a connection. [`Display`](fmt::Display) is its text on the wire.
///
/// ```
/// use a_chat::client::Rejection;
///
/// assert_eq!(Rejection::NameTaken.to_string(), "name taken");
/// assert!(Rejection::NameTaken.is_temporary());
/// assert!(!Rejection::BadName.is_temporary());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rejection {
    /// The first line was no valid name.
    BadName,
    /// Another connection has the name, perhaps an earlier one of this client's.
    NameTaken,
    /// The name did not come in time.
    LoginTimeout,
    /// The server has as many connections as it allows or can hold.
    ServerFull,
    /// The server has as many connections from this address as it allows.
    PerAddressLimit,
    /// The client read too little of what was queued for it.
    Evicted,
    /// The last line had no line end.
    UnterminatedLine,
    /// The first line ended with a carriage return alone.
    NoLineFeed,
    /// Something that this version does not know.
    Other(String),
}

impl Rejection {
    const KNOWN: [Self; 8] = [
        Self::BadName,
        Self::NameTaken,
        Self::LoginTimeout,
        Self::ServerFull,
        Self::PerAddressLimit,
        Self::Evicted,
        Self::UnterminatedLine,
        Self::NoLineFeed,
    ];

    /// Whether logging in again, later, may work.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::NameTaken
            | Self::LoginTimeout
            | Self::ServerFull
            | Self::PerAddressLimit
            | Self::Evicted => true,
            Self::BadName | Self::UnterminatedLine | Self::NoLineFeed | Self::Other(_) => false,
        }
    }

    /// The whole line, line end included.
    pub(crate) fn line(&self) -> String {
        format!("{ERROR}{self}\n")
    }

    /// Reads what follows `error: `.
    pub(crate) fn parse(text: &str) -> Self {
        let known = Self::KNOWN.into_iter().find(|known| known.text() == text);
        known.unwrap_or_else(|| Self::Other(text.to_owned()))
    }

    fn text(&self) -> &str {
        match self {
            Self::BadName => "bad name, expected 1 to 32 of A-Z a-z 0-9 _ . -",
            Self::NameTaken => "name taken",
            Self::LoginTimeout => "login not in time",
            Self::ServerFull => "server is full",
            Self::PerAddressLimit => "too many connections from your address",
            Self::Evicted => "evicted, nothing was read for too long",
            Self::UnterminatedLine => "the last line had no line end and was not accepted",
            Self::NoLineFeed => {
                "the first line ended with a carriage return alone, lines end with a line feed"
            }
            Self::Other(text) => text,
        }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl error::Error for Rejection {}

/// Why the server refuses one line as a whole. Nothing else of that client is affected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LineRefusal {
    /// The line holds no `:` and is no command.
    NoColon,
    /// No name stands before the `:`.
    NoRecipients,
    /// The list holds more than [`MAX_RECIPIENTS`] different names.
    TooManyNames,
    /// The line is not UTF-8.
    NotUtf8,
    /// The line is longer than `limit` bytes, its line end not counted.
    TooLong {
        /// The limit in force, in bytes.
        limit: usize,
    },
}

impl fmt::Display for LineRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoColon => f.write_str("no ':' in it, expected \"name, name: text\""),
            Self::NoRecipients => f.write_str("no recipient before the ':'"),
            Self::TooManyNames => write!(f, "more than {MAX_RECIPIENTS} names in its list"),
            Self::NotUtf8 => f.write_str("not UTF-8"),
            Self::TooLong { limit } => write!(f, "longer than {limit} bytes"),
        }
    }
}

/// Why the server refused a line, as its client reads it. [`Display`](fmt::Display) is the text on
/// the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RefusalReason {
    /// These recipients are not connected. The others got the message.
    NoSuchPeer(Vec<String>),
    /// Some recipients cannot be names. The others got the message, apart from those not connected.
    NotAName {
        /// The recipients that cannot be names, their invisible characters escaped.
        invalid: Vec<String>,
        /// The recipients that are not connected.
        absent: Vec<String>,
    },
    /// The line holds no `:` and is no command.
    NoColon,
    /// No name stands before the `:`.
    NoRecipient,
    /// The list holds more different names than the server accepts.
    TooManyNames,
    /// The line is not UTF-8.
    NotUtf8,
    /// The line is longer than the server accepts.
    TooLong {
        /// The server's limit in bytes, line end not counted.
        limit: usize,
    },
    /// Something that this version does not know.
    Other(String),
}

impl RefusalReason {
    /// Reads what follows `error: line N: `.
    pub(crate) fn parse(text: &str) -> Self {
        let list = |names: &str| names.split(", ").map(str::to_owned).collect();
        if let Some(names) = text.strip_prefix(NOT_A_NAME) {
            return Self::NotAName { invalid: list(names), absent: Vec::new() };
        }
        if let Some(names) = text.strip_prefix(NO_SUCH_PEER) {
            return match names.split_once(&format!("; {NOT_A_NAME}")) {
                Some((absent, invalid)) => {
                    Self::NotAName { invalid: list(invalid), absent: list(absent) }
                }
                None => Self::NoSuchPeer(list(names)),
            };
        }
        let limit = text.strip_prefix("longer than ").and_then(|rest| rest.strip_suffix(" bytes"));
        if let Some(limit) = limit.and_then(|limit| limit.parse().ok()) {
            return Self::TooLong { limit };
        }
        let known = [Self::NoColon, Self::NoRecipient, Self::TooManyNames, Self::NotUtf8];
        let known = known.into_iter().find(|known| known.to_string() == text);
        known.unwrap_or_else(|| Self::Other(text.to_owned()))
    }
}

impl fmt::Display for RefusalReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let refusal = match self {
            Self::NoSuchPeer(names) => return write!(f, "{NO_SUCH_PEER}{}", names.join(", ")),
            Self::NotAName { invalid, absent } => {
                if !absent.is_empty() {
                    write!(f, "{NO_SUCH_PEER}{}; ", absent.join(", "))?;
                }
                return write!(f, "{NOT_A_NAME}{}", invalid.join(", "));
            }
            Self::Other(text) => return f.write_str(text),
            Self::NoColon => LineRefusal::NoColon,
            Self::NoRecipient => LineRefusal::NoRecipients,
            Self::TooManyNames => LineRefusal::TooManyNames,
            Self::NotUtf8 => LineRefusal::NotUtf8,
            Self::TooLong { limit } => LineRefusal::TooLong { limit: *limit },
        };
        refusal.fmt(f)
    }
}

impl error::Error for RefusalReason {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejections_are_read_back_from_their_text() {
        for rejection in Rejection::KNOWN {
            assert_eq!(Rejection::parse(&rejection.to_string()), rejection);
        }
        assert_eq!(Rejection::parse("odd"), Rejection::Other("odd".to_owned()));
        assert_eq!(Rejection::NameTaken.line(), "error: name taken\n");
    }

    #[test]
    fn refusals_are_read_back_from_their_text() {
        let refusals = [
            (LineRefusal::NoColon, RefusalReason::NoColon),
            (LineRefusal::NoRecipients, RefusalReason::NoRecipient),
            (LineRefusal::TooManyNames, RefusalReason::TooManyNames),
            (LineRefusal::NotUtf8, RefusalReason::NotUtf8),
            (LineRefusal::TooLong { limit: 9 }, RefusalReason::TooLong { limit: 9 }),
        ];
        for (written, read) in refusals {
            assert_eq!(RefusalReason::parse(&written.to_string()), read);
            assert_eq!(read.to_string(), written.to_string());
        }
        let missing = RefusalReason::NoSuchPeer(vec!["bob".to_owned(), "no name".to_owned()]);
        assert_eq!(RefusalReason::parse("no such peer: bob, no name"), missing);
        assert_eq!(missing.to_string(), "no such peer: bob, no name");
        for text in ["not a name: a b, c d", "no such peer: bob, carol; not a name: a; b"] {
            let reason = RefusalReason::parse(text);
            assert!(matches!(reason, RefusalReason::NotAName { .. }), "{reason:?}");
            assert_eq!(reason.to_string(), text);
        }
        assert_eq!(RefusalReason::parse("odd"), RefusalReason::Other("odd".to_owned()));
    }
}
