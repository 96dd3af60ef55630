//! Which recipients were seen on one connection, and which lines are for these alone. Plain state.

use std::collections::HashSet;

use crate::wire::name::Name;
use crate::wire::protocol::{self, Request};

/// The clients that were connected when asked for, on one connection.
#[derive(Debug, Default)]
pub(super) struct Presence {
    seen: HashSet<Name>,
    /// The beginning of the last line that was for these alone, up to its `:`. Lines with the same
    /// recipients come in runs.
    list: Vec<u8>,
}

impl Presence {
    /// How many bytes of these complete lines are for recipients that were seen, and which
    /// recipients of the next line were not.
    pub(super) fn sendable_prefix(&mut self, lines: &[u8]) -> (usize, Vec<Name>) {
        let mut sendable_prefix = 0;
        for line in lines.split_inclusive(|&byte| byte == b'\n') {
            let unknown_recipients = self.unknown_recipients(line);
            if !unknown_recipients.is_empty() {
                return (sendable_prefix, unknown_recipients);
            }
            sendable_prefix += line.len();
        }
        (sendable_prefix, Vec::new())
    }

    pub(super) fn add(&mut self, names: Vec<Name>) {
        self.seen.extend(names);
    }

    /// The recipients of a line that were not seen yet.
    fn unknown_recipients(&mut self, line: &[u8]) -> Vec<Name> {
        if !self.list.is_empty() && line.starts_with(&self.list) {
            return Vec::new();
        }
        let unknown = recipients(line).filter(|name| !self.seen.contains(name));
        let unknown_recipients: Vec<_> = unknown.collect();
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

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> Vec<Name> {
        list.iter().map(|name| Name::new(name).expect("a valid name")).collect()
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
        assert_eq!(presence.sendable_prefix(lines.as_bytes()), (0, names(&["bob"])));
        presence.add(names(&["bob"]));
        let three = lines.find("carol").expect("the third message");
        assert_eq!(presence.sendable_prefix(lines.as_bytes()), (three, names(&["carol"])));
        assert_eq!(presence.sendable_prefix(&lines.as_bytes()[three..]), (0, names(&["carol"])));
        presence.add(names(&["carol"]));
        assert_eq!(presence.sendable_prefix(lines.as_bytes()), (lines.len(), Vec::new()));
    }

    #[test]
    fn a_list_that_only_begins_like_the_last_one_is_not_the_same() {
        let mut presence = Presence::default();
        presence.add(names(&["bob"]));
        assert_eq!(presence.sendable_prefix(b"bob: 1\n"), (7, Vec::new()));
        for list in ["bobby: 2\n", "bob, dave: 2\n", "b: 2\n", " dave: 2\n"] {
            assert_eq!(presence.sendable_prefix(list.as_bytes()).0, 0, "{list}");
        }
    }
}
