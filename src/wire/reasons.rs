//! Why a server rejects a connection or refuses a line, in both directions: as the text on the wire,
//! and read back from it. Pure.

use std::time::Duration;
use std::{error, fmt};

use crate::wire::room;
use crate::wire::room::MAX_ROOMS;

/// How an error begins on the wire.
pub(crate) const ERROR: &str = "error: ";

/// How many different names a list may hold. Each costs the broker a look-up, a queue entry and a
/// writer's wake-up while every other client waits: at this many, a millisecond or two.
pub(crate) const MAX_RECIPIENTS: usize = 1024;

/// How long a `/sync` without a time waits at most.
pub(crate) const DEFAULT_SYNC: Duration = Duration::from_secs(30);

/// The shortest and the longest time that a `/sync` may give, in seconds.
pub(crate) const SYNC_SECONDS: (u64, u64) = (1, 3600);

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
    /// The server expects a PROXY header from the address of the proxy in front of it, which sent
    /// none.
    NoProxyHeader,
    /// The name has to be proven by a token, and none came.
    NeedsToken,
    /// The token is not one of this name, or nobody has the name.
    WrongToken,
    /// A token came to a server that has none.
    NoTokens,
    /// Too many wrong tokens came from this address.
    TooManyFailedLogins {
        /// How long the address is refused, in seconds.
        seconds: u64,
    },
    /// More connections wait for their login than the server allows, and this one waited longest.
    LoginCrowd,
    /// Another connection has proven the name.
    LoggedInElsewhere,
    /// The token that proved the name is no longer valid.
    Revoked,
    /// The name was a guest's, and belongs to a user now.
    NameReserved,
    /// The client must speak TLS, and did not.
    Unencrypted,
    /// The server is a node of a cluster, and could not ask the others whether the name is free.
    ClusterUnreachable,
    /// Something that this version does not know.
    Other(String),
}

/// Stand around the seconds of [`Rejection::TooManyFailedLogins`].
const TOO_MANY_FAILED_LOGINS: (&str, &str) =
    ("too many failed logins from your address, try again in ", " s");

impl Rejection {
    const KNOWN: [Self; 18] = [
        Self::BadName,
        Self::NameTaken,
        Self::LoginTimeout,
        Self::ServerFull,
        Self::PerAddressLimit,
        Self::Evicted,
        Self::UnterminatedLine,
        Self::NoLineFeed,
        Self::NoProxyHeader,
        Self::NeedsToken,
        Self::WrongToken,
        Self::NoTokens,
        Self::LoginCrowd,
        Self::LoggedInElsewhere,
        Self::Revoked,
        Self::NameReserved,
        Self::Unencrypted,
        Self::ClusterUnreachable,
    ];

    /// Whether logging in again, later, may work.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::NameTaken
            | Self::LoginTimeout
            | Self::ServerFull
            | Self::PerAddressLimit
            | Self::TooManyFailedLogins { .. }
            | Self::LoginCrowd
            | Self::ClusterUnreachable
            | Self::Evicted => true,
            // Two clients of one name that both came back would take it from each other forever.
            Self::LoggedInElsewhere
            | Self::BadName
            | Self::UnterminatedLine
            | Self::NoLineFeed
            | Self::NoProxyHeader
            | Self::NeedsToken
            | Self::WrongToken
            | Self::NoTokens
            | Self::Revoked
            | Self::NameReserved
            | Self::Unencrypted
            | Self::Other(_) => false,
        }
    }

    /// The whole line, line end included.
    pub(crate) fn line(&self) -> String {
        format!("{ERROR}{self}\n")
    }

    /// Reads what follows `error: `.
    pub(crate) fn parse(text: &str) -> Self {
        let (before, after) = TOO_MANY_FAILED_LOGINS;
        let seconds = text.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
        if let Some(seconds) = seconds.and_then(|seconds| seconds.parse().ok()) {
            return Self::TooManyFailedLogins { seconds };
        }
        let known = Self::KNOWN.into_iter().find(|known| known.text() == text);
        known.unwrap_or_else(|| Self::Other(text.to_owned()))
    }

    /// The text, up to a number in it.
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
            Self::NoProxyHeader => "expected a PROXY header from your address",
            Self::NeedsToken => "log in with a name and its token, as in: alice achat_...",
            Self::WrongToken => "name or token wrong",
            Self::NoTokens => "this server has no tokens, log in with the name alone",
            Self::TooManyFailedLogins { .. } => TOO_MANY_FAILED_LOGINS.0,
            Self::LoginCrowd => "too many connections wait to log in, try again",
            Self::LoggedInElsewhere => "your name has logged in elsewhere",
            Self::Revoked => "your token is no longer valid",
            Self::NameReserved => "your name belongs to a user of this server now",
            Self::Unencrypted => "not encrypted, this server expects TLS",
            Self::ClusterUnreachable => "cluster not reachable, try again",
            Self::Other(text) => text,
        }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())?;
        match self {
            Self::TooManyFailedLogins { seconds } => {
                write!(f, "{seconds}{}", TOO_MANY_FAILED_LOGINS.1)
            }
            _ => Ok(()),
        }
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
    /// A room stands beside other recipients.
    RoomNotAlone,
    /// Where a room is expected stands something else.
    BadRoom,
    /// The client is in [`MAX_ROOMS`] rooms.
    TooManyRooms,
    /// The time of a `/sync` is no number of seconds, or out of range.
    BadTime,
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
            Self::RoomNotAlone => f.write_str("a room stands alone in its list"),
            Self::BadRoom => write!(f, "bad room, {}", room::RULE),
            Self::TooManyRooms => write!(f, "in {MAX_ROOMS} rooms already"),
            Self::BadTime => {
                let (min, max) = SYNC_SECONDS;
                write!(f, "bad time, expected {min} to {max}")
            }
            Self::NotUtf8 => f.write_str("not UTF-8"),
            Self::TooLong { limit } => write!(f, "longer than {limit} bytes"),
        }
    }
}

/// Why the server refuses a line to a room. Nobody got it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RoomRefusal {
    /// The sender is not in the room.
    NotIn,
    /// Nobody else is in it.
    NobodyElse,
    /// It has more members than the line was charged for.
    HasGrown,
}

impl RoomRefusal {
    const ALL: [Self; 3] = [Self::NotIn, Self::NobodyElse, Self::HasGrown];

    /// The text before and after the room's name.
    fn texts(self) -> (&'static str, &'static str) {
        match self {
            Self::NotIn => ("not in ", ""),
            Self::NobodyElse => ("nobody else is in ", ""),
            Self::HasGrown => ("", " has grown, send it again"),
        }
    }

    /// The refusal's text.
    pub(crate) fn of(self, room: &[u8]) -> Vec<u8> {
        let (before, after) = self.texts();
        [before.as_bytes(), room, after.as_bytes()].concat()
    }

    fn parse(text: &str) -> Option<(Self, String)> {
        Self::ALL.into_iter().find_map(|refusal| {
            let (before, after) = refusal.texts();
            let room = text.strip_prefix(before)?.strip_suffix(after)?;
            room::is_room(room.as_bytes()).then(|| (refusal, room.to_owned()))
        })
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
    /// The client is not in this room.
    NotInRoom(String),
    /// Nobody else is in this room.
    NobodyElseInRoom(String),
    /// This room has grown so much since the line was charged that it has to be sent again.
    RoomHasGrown(String),
    /// A room stands beside other recipients.
    RoomNotAlone,
    /// Where a room is expected stands something else.
    BadRoom,
    /// The client is in as many rooms as it may be.
    TooManyRooms,
    /// The time of a `/sync` is no number of seconds, or out of range.
    BadTime,
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
        if let Some((refusal, room)) = RoomRefusal::parse(text) {
            return match refusal {
                RoomRefusal::NotIn => Self::NotInRoom(room),
                RoomRefusal::NobodyElse => Self::NobodyElseInRoom(room),
                RoomRefusal::HasGrown => Self::RoomHasGrown(room),
            };
        }
        let known = [
            Self::NoColon,
            Self::NoRecipient,
            Self::TooManyNames,
            Self::RoomNotAlone,
            Self::BadRoom,
            Self::TooManyRooms,
            Self::NotUtf8,
            Self::BadTime,
        ];
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
            Self::NotInRoom(room) => return write_room(f, RoomRefusal::NotIn, room),
            Self::NobodyElseInRoom(room) => return write_room(f, RoomRefusal::NobodyElse, room),
            Self::RoomHasGrown(room) => return write_room(f, RoomRefusal::HasGrown, room),
            Self::RoomNotAlone => LineRefusal::RoomNotAlone,
            Self::BadRoom => LineRefusal::BadRoom,
            Self::TooManyRooms => LineRefusal::TooManyRooms,
            Self::Other(text) => return f.write_str(text),
            Self::NoColon => LineRefusal::NoColon,
            Self::NoRecipient => LineRefusal::NoRecipients,
            Self::TooManyNames => LineRefusal::TooManyNames,
            Self::BadTime => LineRefusal::BadTime,
            Self::NotUtf8 => LineRefusal::NotUtf8,
            Self::TooLong { limit } => LineRefusal::TooLong { limit: *limit },
        };
        refusal.fmt(f)
    }
}

impl error::Error for RefusalReason {}

fn write_room(f: &mut fmt::Formatter<'_>, refusal: RoomRefusal, room: &str) -> fmt::Result {
    let (before, after) = refusal.texts();
    write!(f, "{before}{room}{after}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejections_are_read_back_from_their_text() {
        for rejection in Rejection::KNOWN {
            assert_eq!(Rejection::parse(&rejection.to_string()), rejection);
        }
        let refused = Rejection::TooManyFailedLogins { seconds: 60 };
        let text = "too many failed logins from your address, try again in 60 s";
        assert_eq!((refused.to_string().as_str(), Rejection::parse(text)), (text, refused));
        assert_eq!(Rejection::parse("odd"), Rejection::Other("odd".to_owned()));
        assert_eq!(Rejection::NameTaken.line(), "error: name taken\n");
    }

    #[test]
    fn refusals_are_read_back_from_their_text() {
        let refusals = [
            (LineRefusal::NoColon, RefusalReason::NoColon),
            (LineRefusal::NoRecipients, RefusalReason::NoRecipient),
            (LineRefusal::TooManyNames, RefusalReason::TooManyNames),
            (LineRefusal::RoomNotAlone, RefusalReason::RoomNotAlone),
            (LineRefusal::BadRoom, RefusalReason::BadRoom),
            (LineRefusal::TooManyRooms, RefusalReason::TooManyRooms),
            (LineRefusal::BadTime, RefusalReason::BadTime),
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

    #[test]
    fn refusals_of_lines_to_rooms_are_read_back_from_their_text() {
        let room = || "#dev".to_owned();
        for (text, reason) in [
            ("not in #dev", RefusalReason::NotInRoom(room())),
            ("nobody else is in #dev", RefusalReason::NobodyElseInRoom(room())),
            ("#dev has grown, send it again", RefusalReason::RoomHasGrown(room())),
        ] {
            assert_eq!(RefusalReason::parse(text), reason);
            assert_eq!(reason.to_string(), text);
        }
        let other = "not in a room";
        assert_eq!(RefusalReason::parse(other), RefusalReason::Other(other.to_owned()));
    }
}
