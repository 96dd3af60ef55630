//! What the ledger still knows of lines that were accepted, in case the server loses them: the user's
//! number of each line, and the text of the last ones. Plain state.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::wire::protocol::{self, Request};

/// How many lines, and bytes of lines, are kept. The oldest piece is dropped when the others suffice
/// for either.
const KEPT_LINES: u64 = 1000;
const KEPT_BYTES: usize = 256 * 1024;

/// The lines of one connection, by the server's numbers.
#[derive(Debug)]
pub(crate) struct History {
    /// The user's number of the line before the first.
    before: u64,
    /// The lines of the client's own, which the user's numbers leave out. There is one for every
    /// 128 KiB or second of silence at most.
    own: Vec<u64>,
    pieces: VecDeque<Piece>,
    /// The sums of all pieces.
    lines: u64,
    bytes: usize,
}

/// Lines of the user's that were accepted together.
#[derive(Debug)]
struct Piece {
    /// The server's number of the first line.
    first: u64,
    lines: u64,
    bytes: Arc<[u8]>,
}

impl History {
    /// For lines that the user counts from `before + 1` on.
    pub(crate) fn new(before: u64) -> Self {
        Self { before, own: Vec::new(), pieces: VecDeque::new(), lines: 0, bytes: 0 }
    }

    /// Notes that the line of this number is one of the client's own.
    pub(crate) fn note_own(&mut self, line: u64) {
        self.own.push(line);
    }

    /// Keeps lines of the user's, from the one of this number on.
    pub(crate) fn keep(&mut self, first: u64, lines: u64, bytes: Arc<[u8]>) {
        (self.lines, self.bytes) = (self.lines + lines, self.bytes + bytes.len());
        self.pieces.push_back(Piece { first, lines, bytes });
        while let Some(oldest) = self.pieces.front() {
            let (lines, bytes) = (self.lines - oldest.lines, self.bytes - oldest.bytes.len());
            if lines < KEPT_LINES && bytes < KEPT_BYTES {
                break;
            }
            (self.lines, self.bytes) = (lines, bytes);
            self.pieces.pop_front();
        }
    }

    /// The user's number of a line, or of the last one before it if it is the client's own.
    pub(crate) fn number(&self, line: u64) -> u64 {
        let own = self.own.partition_point(|own| *own <= line) as u64;
        self.before + line.saturating_sub(own)
    }

    /// The lines from `first` to `last`, as the server counts them, that are kept and that this
    /// recipient was due: each with the user's number.
    pub(crate) fn texts(&self, first: u64, last: u64, recipient: &str) -> Vec<(u64, String)> {
        let in_range = self
            .pieces
            .iter()
            .filter(|piece| piece.first <= last && first < piece.first.saturating_add(piece.lines));
        let lines = in_range.flat_map(|piece| {
            (piece.first..).zip(piece.bytes.split_inclusive(|&byte| byte == b'\n'))
        });
        lines
            .filter(|(line, text)| (first..=last).contains(line) && is_for(text, recipient))
            .map(|(line, text)| (self.number(line), shown(text)))
            .collect()
    }
}

/// Whether a line names this recipient, or a room, which it may have been in.
fn is_for(line: &[u8], recipient: &str) -> bool {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    match protocol::parse_request(line) {
        Ok(Request::Message { recipients, .. }) => {
            protocol::names(recipients).any(|name| name == recipient.as_bytes())
        }
        Ok(Request::RoomMessage { .. }) => true,
        _ => false,
    }
}

fn shown(line: &[u8]) -> String {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line)).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keep(history: &mut History, first: u64, lines: &str) {
        history.keep(first, lines.lines().count() as u64, lines.as_bytes().into());
    }

    #[test]
    fn a_lost_line_is_found_by_the_servers_number_and_shown_with_the_users() {
        let mut history = History::new(100);
        history.note_own(1);
        keep(&mut history, 2, "bob: x\ncarol, bob: y\r\n");
        history.note_own(4);
        keep(&mut history, 5, "carol: bob: not for bob\n#dev: perhaps\n/who bob\nbob: z\n");
        let expected = [(102, "carol, bob: y"), (104, "#dev: perhaps"), (106, "bob: z")];
        let expected = expected.map(|(number, text)| (number, text.to_owned()));
        assert_eq!(history.texts(3, 8, "bob"), expected);
        assert_eq!(history.texts(5, 5, "bob"), []);
        assert_eq!(
            [1, 2, 3, 4, 5, 8].map(|line| history.number(line)),
            [100, 101, 102, 102, 103, 106]
        );
    }

    #[test]
    fn only_the_last_lines_are_kept() {
        let mut history = History::new(0);
        for line in 1..=5000 {
            keep(&mut history, line, "bob: x\n");
        }
        assert_eq!(history.texts(1, 5000, "bob").len(), 1000);
        let long = format!("bob: {}\n", "x".repeat(100_000));
        for line in 5001..=5010 {
            keep(&mut history, line, &long);
        }
        assert_eq!(history.texts(1, 9999, "bob").len(), 3);
        keep(&mut history, 5011, &"bob: x\n".repeat(10_000));
        assert_eq!(history.pieces.len(), 1, "a large piece stands alone");
    }
}
