//! Rooms, as a client sees them: what the server says about them, and the lines that ask for it. Pure.

use std::fmt;

use super::error::SendError;
use crate::wire::name::Name;
use crate::wire::protocol::{ARE, IN, JOIN, LEAVE, LEFT, LOUD, PUT_OUT, QUIET, WHO};
use crate::wire::room::Room;

/// What the server says about a room. [`Display`](fmt::Display) is its text on the wire, without a
/// line's number.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RoomEvent {
    /// The reply to `/join`: this client is in the room.
    Joined {
        /// The number of the line that asked.
        line: u64,
        /// The room.
        room: Room,
        /// How many are in it, this client included.
        members: u64,
    },
    /// The reply to `/leave`: this client is in the room no more.
    Left {
        /// The number of the line that asked.
        line: u64,
        /// The room.
        room: Room,
    },
    /// The reply to `/who #dev`.
    Members {
        /// The number of the line that asked.
        line: u64,
        /// The room.
        room: Room,
        /// How many are in it. They may be more than are listed.
        count: u64,
        /// Those that came first.
        names: Vec<Name>,
    },
    /// Others came and went, in a room in which this client is loud.
    Moved {
        /// The room.
        room: Room,
        /// Who was the first of them.
        name: Name,
        /// Whether this one joined or left.
        joined: bool,
        /// How many others joined since, and how many left.
        others: (u64, u64),
    },
    /// This client was too slow for the room, and is in it no more.
    PutOut {
        /// The room.
        room: Room,
    },
}

/// Whether a client is told who else comes to a room and leaves it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum RoomNotices {
    /// It is told.
    Loud,
    /// It is not told.
    #[default]
    Quiet,
}

impl RoomEvent {
    /// The room that it is about.
    #[must_use]
    pub fn room(&self) -> &Room {
        match self {
            Self::Joined { room, .. }
            | Self::Left { room, .. }
            | Self::Members { room, .. }
            | Self::Moved { room, .. }
            | Self::PutOut { room } => room,
        }
    }

    /// Reads the reply to the line of this number, without the `notice: line N: ` before it.
    pub(crate) fn parse_reply(line: u64, text: &str) -> Option<Self> {
        if let Some(room) = text.strip_prefix(LEFT) {
            return Some(Self::Left { line, room: Room::new(room).ok()? });
        }
        if let Some(text) = text.strip_prefix(IN) {
            let (room, members) = text.strip_suffix(ARE)?.split_once(", ")?;
            let members = members.parse().ok()?;
            return Some(Self::Joined { line, room: Room::new(room).ok()?, members });
        }
        let (count, text) = text.split_once(' ')?;
        let text = text.strip_prefix(IN)?;
        let (room, list) = text.split_once(": ").unwrap_or((text, ""));
        let list = list.strip_suffix(", ...").unwrap_or(list);
        let names = list.split(", ").filter(|name| !name.is_empty()).map(Name::new);
        let (room, count) = (Room::new(room).ok()?, count.parse().ok()?);
        Some(Self::Members { line, room, count, names: names.collect::<Result<_, _>>().ok()? })
    }

    /// Reads a notice that replies to no line, without the `notice: ` before it.
    pub(crate) fn parse_notice(text: &str) -> Option<Self> {
        if let Some(room) = text.strip_suffix(PUT_OUT) {
            return Some(Self::PutOut { room: Room::new(room).ok()? });
        }
        let (room, told) = text.split_once(": ")?;
        let room = Room::new(room).ok()?;
        let mut told = told.split(", ");
        let (name, verb) = told.next()?.split_once(' ')?;
        let joined = match verb {
            "joined" => true,
            "left" => false,
            _ => return None,
        };
        let mut others = (0, 0);
        for told in told {
            match told.split_once(' ')? {
                (count, "other came" | "others came") => others.0 = count.parse().ok()?,
                (count, "left") => others.1 = count.parse().ok()?,
                _ => return None,
            }
        }
        Some(Self::Moved { room, name: Name::new(name).ok()?, joined, others })
    }
}

impl fmt::Display for RoomEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Joined { room, members, .. } => write!(f, "{IN}{room}, {members}{ARE}"),
            Self::Left { room, .. } => write!(f, "{LEFT}{room}"),
            Self::Members { room, count, names, .. } => {
                write!(f, "{count} {IN}{room}")?;
                for (index, name) in names.iter().enumerate() {
                    write!(f, "{}{name}", if index == 0 { ": " } else { ", " })?;
                }
                f.write_str(if *count > names.len() as u64 { ", ..." } else { "" })
            }
            Self::Moved { room, name, joined, others } => {
                write!(f, "{room}: {name} {}", if *joined { "joined" } else { "left" })?;
                match others.0 {
                    0 => {}
                    1 => f.write_str(", 1 other came")?,
                    came => write!(f, ", {came} others came")?,
                }
                if others.1 > 0 { write!(f, ", {} left", others.1) } else { Ok(()) }
            }
            Self::PutOut { room } => write!(f, "{room}{PUT_OUT}"),
        }
    }
}

/// The line that enters a room.
pub(crate) fn join_line(room: &Room, notices: RoomNotices) -> String {
    let notices = match notices {
        RoomNotices::Loud => LOUD,
        RoomNotices::Quiet => QUIET,
    };
    format!("{JOIN} {room} {notices}")
}

/// The line that leaves a room.
pub(crate) fn leave_line(room: &Room) -> String {
    format!("{LEAVE} {room}")
}

/// The line that asks who is in a room.
pub(crate) fn who_line(room: &Room) -> String {
    format!("{WHO} {room}")
}

/// The line that sends a text to a room.
pub(crate) fn room_message(room: &Room, text: &str) -> Result<String, SendError> {
    // The server takes a carriage return before a line end for a part of that.
    if text.contains('\n') || text.ends_with('\r') {
        return Err(SendError::NotALine);
    }
    Ok(format!("{room}: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::protocol;

    fn room() -> Room {
        Room::new("#dev").expect("a room")
    }

    fn names(list: &[&str]) -> Vec<Name> {
        list.iter().map(|name| Name::new(name).expect("a valid name")).collect()
    }

    #[test]
    fn replies_about_rooms_are_read_back() {
        let written = |write: &dyn Fn(&mut Vec<u8>)| {
            let mut text = Vec::new();
            write(&mut text);
            let text = String::from_utf8(text).expect("text");
            text.strip_prefix("notice: line 7: ").expect("a reply").trim_end().to_owned()
        };
        let in_room = |count, names: &[&str]| RoomEvent::Members {
            line: 7,
            room: room(),
            count,
            names: self::names(names),
        };
        for (text, event) in [
            (
                written(&|out| protocol::push_joined(out, 7, b"#dev", 5)),
                RoomEvent::Joined { line: 7, room: room(), members: 5 },
            ),
            (
                written(&|out| protocol::push_left(out, 7, b"#dev")),
                RoomEvent::Left { line: 7, room: room() },
            ),
            (
                written(&|out| protocol::push_who_in(out, 7, b"#dev", 2, &[b"alice", b"bob"])),
                in_room(2, &["alice", "bob"]),
            ),
            (
                written(&|out| protocol::push_who_in(out, 7, b"#dev", 200, &[b"alice"])),
                in_room(200, &["alice"]),
            ),
            (written(&|out| protocol::push_who_in(out, 7, b"#dev", 0, &[])), in_room(0, &[])),
        ] {
            assert_eq!(event.to_string(), text);
            assert_eq!(event.room(), &room());
            assert_eq!(RoomEvent::parse_reply(7, &text), Some(event));
        }
        for odd in
            ["in dev, 5 are", "in #dev, 5", "left dev", "5 here: bob", "here: bob", "x in #d"]
        {
            assert_eq!(RoomEvent::parse_reply(7, odd), None, "{odd}");
        }
    }

    #[test]
    fn notices_about_rooms_are_read_back() {
        let name = names(&["bob"]).remove(0);
        for (joined, came, left) in [(true, 0, 0), (false, 0, 0), (true, 1, 0), (true, 57, 12)] {
            let line = protocol::room_news(&room(), &name, joined, came, left);
            let line = String::from_utf8(line).expect("text");
            let text = line.strip_prefix("notice: ").expect("a notice").trim_end();
            let (room, name, others) = (room(), name.clone(), (came, left));
            let event = RoomEvent::Moved { room, name, joined, others };
            assert_eq!(event.to_string(), text);
            assert_eq!(RoomEvent::parse_notice(text), Some(event));
        }
        let text = "#dev: you are out of it, too slow";
        assert_eq!(RoomEvent::parse_notice(text), Some(RoomEvent::PutOut { room: room() }));
        assert_eq!(RoomEvent::PutOut { room: room() }.to_string(), text);
        for odd in ["#dev: bob sang", "dev: bob left", "#dev: bob left, 5 sang", "#dev"] {
            assert_eq!(RoomEvent::parse_notice(odd), None, "{odd}");
        }
    }

    #[test]
    fn requests_about_rooms_are_lines_of_the_protocol() {
        assert_eq!(join_line(&room(), RoomNotices::Loud), "/join #dev loud");
        assert_eq!(join_line(&room(), RoomNotices::default()), "/join #dev quiet");
        assert_eq!(
            (leave_line(&room()), who_line(&room())),
            ("/leave #dev".into(), "/who #dev".into())
        );
        assert_eq!(room_message(&room(), " hi").as_deref(), Ok("#dev:  hi"));
        assert_eq!(room_message(&room(), "a\nb"), Err(SendError::NotALine));
    }
}
