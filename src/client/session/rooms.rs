//! The rooms that a session's user is in, so that the next connection can enter them again. Plain
//! state, owned by the thread that runs the session.
//!
//! What counts is what a server accepted: a line that leaves a room and was not accepted is sent
//! again, and so are lines to that room before it.

use std::collections::{BTreeMap, VecDeque};

use super::super::room::RoomNotices;
use crate::wire::protocol::{self, Request};
use crate::wire::room::Room;

/// The rooms, and what was asked for since.
#[derive(Debug, Default)]
pub(super) struct Rooms {
    joined: BTreeMap<Room, RoomNotices>,
    /// Sent and not known to be accepted, by line number.
    pending: VecDeque<(u64, Room, Change)>,
}

#[derive(Clone, Copy, Debug)]
enum Change {
    /// `None` leaves the notices as they are.
    Join(Option<RoomNotices>),
    Leave,
}

impl Rooms {
    /// Notes complete lines that were sent, the first of them with this number.
    pub(super) fn sent(&mut self, first: u64, lines: &[u8]) {
        let begins_line = |&at: &usize| at == 0 || lines[at - 1] == b'\n';
        for start in memchr::memchr_iter(b'/', lines).filter(begins_line) {
            let rest = &lines[start..];
            let line = &rest[..memchr::memchr(b'\n', rest).unwrap_or(rest.len())];
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let (room, change) = match protocol::parse_request(line) {
                Ok(Request::Join { room, loud }) => {
                    let notices = |loud| if loud { RoomNotices::Loud } else { RoomNotices::Quiet };
                    (room, Change::Join(loud.map(notices)))
                }
                Ok(Request::Leave { room }) => (room, Change::Leave),
                _ => continue,
            };
            let number = first + memchr::memchr_iter(b'\n', &lines[..start]).count() as u64;
            if let Ok(room) = Room::new(room) {
                self.pending.push_back((number, room, change));
            }
        }
    }

    /// Lines up to this number are settled, and those after it will be sent again.
    pub(super) fn settled(&mut self, number: u64) {
        for (line, room, change) in self.pending.drain(..) {
            match change {
                _ if line > number => {}
                Change::Join(notices) => {
                    let known = self.joined.entry(room).or_default();
                    *known = notices.unwrap_or(*known);
                }
                Change::Leave => drop(self.joined.remove(&room)),
            }
        }
    }

    pub(super) fn joined(&self) -> impl Iterator<Item = (&Room, RoomNotices)> {
        self.joined.iter().map(|(room, notices)| (room, *notices))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(rooms: &Rooms) -> Vec<(String, RoomNotices)> {
        rooms.joined().map(|(room, notices)| (room.to_string(), notices)).collect()
    }

    #[test]
    fn only_what_was_accepted_counts() {
        let mut rooms = Rooms::default();
        let lines = b"/join #a\nbob: /join #no\n/join #b loud\r\n#a: x\n/leave #a\n#a: y\n";
        rooms.sent(11, lines);
        rooms.settled(14);
        let a_and_b = [("#a".to_owned(), RoomNotices::Quiet), ("#b".to_owned(), RoomNotices::Loud)];
        assert_eq!(joined(&rooms), a_and_b);
        // The rest is sent again.
        rooms.sent(15, b"/leave #a\n#a: y\n/join #b\n");
        rooms.settled(17);
        assert_eq!(joined(&rooms), [("#b".to_owned(), RoomNotices::Loud)]);
    }
}
