//! Who was met on one connection, and which lines are for nobody else. No thread runs here.

use std::collections::HashSet;

use a_chat::Name;
use a_chat::client;

/// Everybody who was there when asked for, on one connection.
#[derive(Debug, Default)]
pub(crate) struct Presence {
    met: HashSet<Name>,
    /// The beginning of the last line that was for none but these, up to its `:`. Lines with the
    /// same recipients come in runs.
    list: Vec<u8>,
}

impl Presence {
    /// How much of these complete lines, in bytes, is for nobody who was not met; and who of the
    /// recipients of the line after that was not.
    pub(crate) fn sendable_prefix(&mut self, lines: &[u8]) -> (usize, Vec<Name>) {
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

    pub(crate) fn meet(&mut self, names: Vec<Name>) {
        self.met.extend(names);
    }

    /// The recipients of a line that were not met yet.
    fn unknown_recipients(&mut self, line: &[u8]) -> Vec<Name> {
        if !self.list.is_empty() && line.starts_with(&self.list) {
            return Vec::new();
        }
        let recipients = client::recipients(line);
        let unknown_recipients: Vec<_> =
            recipients.filter(|name| !self.met.contains(name)).collect();
        if unknown_recipients.is_empty() {
            let list = memchr::memchr(b':', line).map_or(0, |colon| colon + 1);
            self.list = line[..list].to_vec();
        }
        unknown_recipients
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> Vec<Name> {
        list.iter().filter_map(|name| Name::new(name.as_bytes())).collect()
    }

    #[test]
    fn lines_go_as_far_as_their_recipients_were_met() {
        let mut presence = Presence::default();
        let lines = "bob: 1\nbob: 2\n/who\nnonsense\ncarol, bob, no name: 3\nbob: 4\n";
        assert_eq!(presence.sendable_prefix(lines.as_bytes()), (0, names(&["bob"])));
        presence.meet(names(&["bob"]));
        let three = lines.find("carol").expect("the third message");
        assert_eq!(presence.sendable_prefix(lines.as_bytes()), (three, names(&["carol"])));
        assert_eq!(presence.sendable_prefix(&lines.as_bytes()[three..]), (0, names(&["carol"])));
        presence.meet(names(&["carol"]));
        assert_eq!(presence.sendable_prefix(lines.as_bytes()), (lines.len(), Vec::new()));
    }

    #[test]
    fn a_list_that_only_begins_like_the_last_one_is_another_one() {
        let mut presence = Presence::default();
        presence.meet(names(&["bob"]));
        assert_eq!(presence.sendable_prefix(b"bob: 1\n"), (7, Vec::new()));
        for list in ["bobby: 2\n", "bob, dave: 2\n", "b: 2\n", " dave: 2\n"] {
            assert_eq!(presence.sendable_prefix(list.as_bytes()).0, 0, "{list}");
        }
    }
}
