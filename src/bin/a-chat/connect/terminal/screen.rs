//! The screen: finished lines, and below them the row with the line being typed. Owned by whichever
//! thread owns the console.

use std::io;
use std::iter;

use rustix::termios::tcgetwinsize;
use unicode_segmentation::UnicodeSegmentation;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::super::escape::escape_controls;
use super::style::Prompt;
use crate::output;

/// Switches bracketed paste on and off: the terminal then marks pasted text, see `keys.rs`.
const BRACKETED_PASTE: (&str, &str) = ("\x1b[?2004h", "\x1b[?2004l");

/// Switches the wrapping of rows that are too long on and off.
const WRAP: (&str, &str) = ("\x1b[?7h", "\x1b[?7l");

/// Saves and restores the place of the cursor.
const CURSOR: (&str, &str) = ("\x1b7", "\x1b8");

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
    ///
    /// How wide some characters are, only the terminal knows. So it is the terminal that remembers
    /// where the cursor belongs, and it must not wrap the row, whatever it finds too wide.
    pub(crate) fn put_row(&mut self, prompt: &Prompt, (before, after): (&str, &str)) {
        // The last column stays free, because the cursor needs a place after the line.
        let columns = Self::columns().saturating_sub(1);
        let (prompt, width) = match columns.checked_sub(prompt.width) {
            Some(1..) => (prompt.text.as_str(), prompt.width),
            _ => ("", 0),
        };
        let (before, after) = part_around(before, after, columns.saturating_sub(width).max(1));
        let row = [WRAP.1, prompt, &before, CURSOR.0, &after, CURSOR.1, WRAP.0];
        self.out.extend(row);
    }

    /// Writes everything at once.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        let written = output::to_stdout(self.out.as_bytes());
        self.out.clear();
        written
    }
}

/// The part of a text that fits `room` columns, divided at the cursor, where `after` begins.
///
/// A longer text scrolls by half of the room at a time, so it rarely moves.
fn part_around(before: &str, after: &str, room: usize) -> (String, String) {
    let (before, after) = (escape_controls(before), escape_controls(after));
    let cursor = before.graphemes(true).map(width).sum::<usize>();
    let step = room.div_ceil(2);
    let start = cursor.saturating_sub(room).div_ceil(step) * step;
    let mut column = 0;
    let mut take = |text: &str| {
        let mut part = String::new();
        for cluster in text.graphemes(true) {
            let next = column + width(cluster);
            if next > start + room {
                break;
            }
            if column >= start {
                part.push_str(cluster);
            } else if next > start {
                // The rest of a wide character.
                part.extend(iter::repeat_n(' ', next - start));
            }
            column = next;
        }
        part
    };
    let before = take(&before);
    (before, take(&after))
}

/// The width of a cluster in columns, at most: a terminal that does not know the cluster shows its
/// characters one by one.
fn width(cluster: &str) -> usize {
    let apart = cluster.chars().filter_map(UnicodeWidthChar::width).sum();
    cluster.width().max(apart)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(before: &str, after: &str, room: usize) -> (String, String) {
        part_around(before, after, room)
    }

    fn pair(before: &str, after: &str) -> (String, String) {
        (before.to_owned(), after.to_owned())
    }

    #[test]
    fn a_short_line_is_shown_whole() {
        assert_eq!(parts("he", "llo", 10), pair("he", "llo"));
        assert_eq!(parts("", "", 1), pair("", ""));
        assert_eq!(parts("a\n\u{1b}", "\t", 10), pair("a^J^[", "^I"));
        assert_eq!(parts("e\u{301}\u{1f600}", "x", 4), pair("e\u{301}\u{1f600}", "x"));
    }

    #[test]
    fn a_long_line_is_shown_around_the_cursor() {
        assert_eq!(parts("", "0123456789", 4), pair("", "0123"));
        assert_eq!(parts("0123", "456789", 4), pair("0123", ""));
        assert_eq!(parts("01234", "56789", 4), pair("234", "5"));
        assert_eq!(parts("0123456789", "", 4), pair("6789", ""));
        // A wide character is not split.
        assert_eq!(parts("0\u{1f600}12", "34", 4), pair(" 12", "3"));
        assert_eq!(parts("0", "12\u{1f600}", 4), pair("0", "12"));
        let family = "\u{1f469}\u{200d}\u{1f467}";
        assert_eq!(parts(family, "x", 5), pair(family, "x"));
        assert_eq!(parts(family, "x", 4), pair(family, ""));
        assert_eq!(parts("", family, 3), pair("", ""));
    }

    #[test]
    fn the_line_stays_within_the_room() {
        let text =
            "some \u{4e2d}\u{6587} and e\u{301} and \u{1f600}\u{1f469}\u{200d}\u{1f467} of it\n"
                .repeat(3);
        for room in 1..40 {
            for (at, _) in text.char_indices() {
                let (before, after) = text.split_at(at);
                let (before, after) = part_around(before, after, room);
                let shown = before.graphemes(true).chain(after.graphemes(true)).map(width);
                assert!(shown.sum::<usize>() <= room, "{room} {at}: {before:?} {after:?}");
            }
        }
    }
}
