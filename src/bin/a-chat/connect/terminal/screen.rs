//! The screen: finished lines, and below them the row with the line being typed. Owned by whichever
//! thread owns the console.

use std::fmt::Write as _;
use std::io;

use rustix::termios::tcgetwinsize;
use unicode_width::UnicodeWidthChar;

use super::super::escape::escape_controls;
use super::style::Prompt;
use crate::output;

/// Switches bracketed paste on and off: the terminal then marks pasted text, see `keys.rs`.
const BRACKETED_PASTE: (&str, &str) = ("\x1b[?2004h", "\x1b[?2004l");

/// Moves to the beginning of the row, and clears it and everything below.
const CLEAR_ROW: &str = "\r\x1b[J";

/// Clears the whole screen.
const CLEAR_ALL: &str = "\x1b[H\x1b[2J";

/// The width assumed for a terminal that does not report one.
const DEFAULT_COLUMNS: u16 = 80;

/// The terminal's screen.
#[derive(Debug, Default)]
pub(crate) struct Screen {
    /// Output that was not yet written.
    out: String,
}

impl Screen {
    pub(crate) fn open(&mut self) {
        self.out.push_str(BRACKETED_PASTE.0);
    }

    pub(crate) fn close(&mut self) {
        self.out.push_str(BRACKETED_PASTE.1);
    }

    pub(crate) fn columns() -> usize {
        let columns = tcgetwinsize(io::stdout()).map_or(0, |size| size.ws_col);
        usize::from(if columns == 0 { DEFAULT_COLUMNS } else { columns })
    }

    pub(crate) fn clear_all(&mut self) {
        self.out.push_str(CLEAR_ALL);
    }

    /// Removes the lowest row.
    ///
    /// When a window becomes narrower, some terminals wrap the row; its upper part then stays on the
    /// screen. Moving up to clear it would erase a message on terminals that do not wrap.
    pub(crate) fn clear_row(&mut self) {
        self.out.push_str(CLEAR_ROW);
    }

    /// Writes complete lines where the lowest row was.
    pub(crate) fn put(&mut self, lines: &str) {
        self.out.push_str(lines);
    }

    /// Draws the lowest row: the prompt, and as much of the line as fits.
    pub(crate) fn put_row(&mut self, prompt: &Prompt, (before, after): (&str, &str)) {
        // The last column stays free, so no terminal wraps this row.
        let room = Self::columns().saturating_sub(prompt.width + 1).max(1);
        let (part, cursor) = part_around(before, after, room);
        let column = prompt.width + cursor;
        // Writing to a string cannot fail.
        let _ = write!(self.out, "{}{part}\r\x1b[{column}C", prompt.text);
    }

    /// Writes everything at once.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        let written = output::to_stdout(self.out.as_bytes());
        self.out.clear();
        written
    }
}

/// The part of a text that fits `room` columns, and the column in it where `after` begins.
///
/// A longer text scrolls by half of the room at a time, so it rarely moves.
fn part_around(before: &str, after: &str, room: usize) -> (String, usize) {
    let (before, after) = (escape_controls(before), escape_controls(after));
    let cursor: usize = before.chars().map(width).sum();
    let step = room.div_ceil(2);
    let start = cursor.saturating_sub(room).div_ceil(step) * step;
    let (mut part, mut column) = (String::new(), 0);
    for char in before.chars().chain(after.chars()) {
        let next = column + width(char);
        if next > start + room {
            break;
        }
        if column >= start {
            part.push(char);
        } else if next > start {
            // The second half of a wide character.
            part.push(' ');
        }
        column = next;
    }
    (part, cursor - start)
}

fn width(char: char) -> usize {
    char.width().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_line_is_shown_whole() {
        assert_eq!(part_around("he", "llo", 10), ("hello".to_owned(), 2));
        assert_eq!(part_around("", "", 1), (String::new(), 0));
        assert_eq!(part_around("a\n\u{1b}", "\t", 10), ("a^J^[^I".to_owned(), 5));
        assert_eq!(part_around("e\u{301}\u{1f600}", "x", 4), ("e\u{301}\u{1f600}x".to_owned(), 3));
    }

    #[test]
    fn a_long_line_is_shown_around_the_cursor() {
        assert_eq!(part_around("", "0123456789", 4), ("0123".to_owned(), 0));
        assert_eq!(part_around("0123", "456789", 4), ("0123".to_owned(), 4));
        assert_eq!(part_around("01234", "56789", 4), ("2345".to_owned(), 3));
        assert_eq!(part_around("0123456789", "", 4), ("6789".to_owned(), 4));
        // A wide character is not split.
        assert_eq!(part_around("0\u{1f600}12", "34", 4), (" 123".to_owned(), 3));
        assert_eq!(part_around("0", "12\u{1f600}", 4), ("012".to_owned(), 1));
    }

    #[test]
    fn the_cursor_stays_within_the_room() {
        let text =
            "some \u{4e2d}\u{6587} and e\u{301} and \u{1f600}\u{1f600}\u{1f600} of it\n".repeat(3);
        for room in 1..40 {
            for (at, _) in text.char_indices() {
                let (before, after) = text.split_at(at);
                let (part, cursor) = part_around(before, after, room);
                let width: usize = part.chars().map(width).sum();
                assert!(cursor <= room && width <= room, "{room} {at}: {part:?} {cursor}");
            }
        }
    }
}
