//! Which recipients were seen on one connection, and which lines are for these alone. Plain state.

use std::collections::HashSet;

use crate::wire::name::Name;
use crate::wire::protocol::{self, Request};
use crate::wire::room::Room;

/// The clients that were connected when asked for, on one connection.
#[derive(Debug, Default)]
pub(super) struct Presence {
    seen: HashSet<Name>,
    /// The rooms in which somebody else was.
    rooms: HashSet<Room>,
    /// The beginning of the last line that was for these alone, up to its `:`. Lines with the same
    /// recipients come in runs.
    list: Vec<u8>,
}

/// What a line waits for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Unknown {
    pub(super) names: Vec<Name>,
    /// Its room, if it goes to one.
    pub(super) room: Option<Room>,
}

impl Unknown {
    fn is_empty(&self) -> bool {
        self.names.is_empty() && self.room.is_none()
    }
}

impl Presence {
    /// How many bytes of these complete lines are for recipients that were seen, and which
    /// recipients of the next line were not.
    pub(super) fn sendable_prefix(&mut self, lines: &[u8]) -> (usize, Unknown) {
        let mut sendable_prefix = 0;
        for line in lines.split_inclusive(|&byte| byte == b'\n') {
            let unknown_recipients = self.unknown_recipients(line);
            if !unknown_recipients.is_empty() {
                return (sendable_prefix, unknown_recipients);
            }
            sendable_prefix += line.len();
        }
        (sendable_prefix, Unknown::default())
    }

    pub(super) fn add(&mut self, known: Unknown) {
        self.seen.extend(known.names);
        self.rooms.extend(known.room);
    }

    /// The recipients of a line that were not seen yet.
    fn unknown_recipients(&mut self, line: &[u8]) -> Unknown {
        if !self.list.is_empty() && line.starts_with(&self.list) {
            return Unknown::default();
        }
        let names = recipients(line).filter(|name| !self.seen.contains(name)).collect();
        let room = room(line).filter(|room| !self.rooms.contains(room));
        let unknown_recipients = Unknown { names, room };
        if unknown_recipients.is_empty() {
            let list = memchr::memchr(b':', line).map_or(0, |colon| colon + 1);
            self.list = line[..list].to_vec();
        }
        unknown_recipients
    }
}

/// The recipients of a line, as far as they are valid names.
fn recipients(line: &[u8]) -> impl Iterator<Item = Name> {
    let list = match protocol::parse_request(line) {
        Ok(Request::Message { recipients, .. }) => recipients,
        _ => b"",
    };
    protocol::names(list).filter_map(|name| Name::new(name).ok())
}

/// The room of a line, if it goes to one.
fn room(line: &[u8]) -> Option<Room> {
    match protocol::parse_request(line) {
        Ok(Request::RoomMessage { room, .. }) => Room::new(room).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> Vec<Name> {
        list.iter().map(|name| Name::new(name).expect("a valid name")).collect()
    }

    fn unknown(list: &[&str]) -> Unknown {
        Unknown { names: names(list), room: None }
    }

    #[test]
    fn a_line_to_a_room_waits_until_somebody_else_is_in_it() {
        let mut presence = Presence::default();
        let dev = || Unknown { names: Vec::new(), room: Some(Room::new("#dev").expect("a room")) };
        let lines = b"/join #dev\n#dev: 1\n#dev: 2\nbob: 3\n";
        assert_eq!(presence.sendable_prefix(lines), (11, dev()));
        presence.add(dev());
        assert_eq!(presence.sendable_prefix(&lines[11..]), (16, unknown(&["bob"])));
    }

    #[test]
    fn recipients_are_the_valid_names_of_a_message() {
        let of = |line: &[u8]| recipients(line).collect::<Vec<_>>();
        assert_eq!(of(b"bob, carol, no name: hi"), names(&["bob", "carol"]));
        assert_eq!(of(b"/who bob"), names(&[]));
    }

    #[test]
    fn lines_are_sendable_up_to_the_first_unknown_recipient() {
        let mut presence = Presence::default();
        let lines = "bob: 1\nbob: 2\n/who\nnonsense\ncarol, bob, no name: 3\nbob: 4\n";
        assert_eq!(presence.sendable_prefix(lines.as_bytes()), (0, unknown(&["bob"])));
        presence.add(unknown(&["bob"]));
        let three = lines.find("carol").expect("the third message");
        assert_eq!(presence.sendable_prefix(lines.as_bytes()), (three, unknown(&["carol"])));
        assert_eq!(presence.sendable_prefix(&lines.as_bytes()[three..]), (0, unknown(&["carol"])));
        presence.add(unknown(&["carol"]));
        assert_eq!(presence.sendable_prefix(lines.as_bytes()), (lines.len(), Unknown::default()));
    }

    #[test]
    fn a_list_that_only_begins_like_the_last_one_is_not_the_same() {
        let mut presence = Presence::default();
        presence.add(unknown(&["bob"]));
        assert_eq!(presence.sendable_prefix(b"bob: 1\n"), (7, Unknown::default()));
        for list in ["bobby: 2\n", "bob, dave: 2\n", "b: 2\n", " dave: 2\n"] {
            assert_eq!(presence.sendable_prefix(list.as_bytes()).0, 0, "{list}");
        }
    }
}
