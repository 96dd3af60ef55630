//! The line being typed. Plain state owned by whichever thread owns the console.
//!
//! The unit of editing is the grapheme cluster: an emoji of several characters, or a letter with its
//! marks, is passed and erased as one.
//!
//! rustyline's `LineBuffer` does not serve here: outside that crate it has a fixed capacity, so a
//! longer paste would be cut off, and its kill ring and its undo are private.

use unicode_segmentation::UnicodeSegmentation;

use super::keys::Key;
use super::text::Text;

/// How many steps can be undone, and how many bytes of text are kept for that: always one step.
const MAX_UNDO: usize = 200;
const MAX_UNDO_BYTES: usize = 1024 * 1024;

/// A text, a cursor in it, and what was erased.
#[derive(Debug, Default)]
pub(crate) struct Line {
    text: Text,
    /// A byte offset, on a character boundary.
    cursor: usize,
    /// The text that Ctrl-Y inserts.
    killed: Text,
    /// Earlier states of the text and its cursor, the latest last.
    undo: Vec<(Text, usize)>,
    last: LastEdit,
}

/// What the last key did, since some keys continue what the one before began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum LastEdit {
    #[default]
    Other,
    Insert,
    Erase,
    Kill,
}

/// In which direction from the cursor a text was killed.
#[derive(Clone, Copy, Debug)]
enum Direction {
    Backward,
    Forward,
}

impl Line {
    pub(crate) fn text(&self) -> &Text {
        &self.text
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// The text before the cursor and the text after it.
    pub(crate) fn split_at_cursor(&self) -> (&str, &str) {
        self.text.as_str().split_at(self.cursor)
    }

    /// Replaces the whole text, with nothing to undo.
    pub(crate) fn set(&mut self, text: Text) {
        self.cursor = text.len();
        self.text = text;
        self.undo.clear();
        self.last = LastEdit::Other;
    }

    pub(crate) fn take(&mut self) -> Text {
        let text = std::mem::take(&mut self.text);
        self.set(Text::default());
        text
    }

    /// Replaces the text from `start` to the cursor.
    pub(crate) fn replace_from(&mut self, start: usize, text: &str) {
        self.begin(LastEdit::Other);
        self.text.replace(start..self.cursor, &Text::typed(text));
        self.cursor = start + text.len();
    }

    /// Applies a key; false if the key does not edit a line.
    pub(crate) fn edit(&mut self, key: &Key) -> bool {
        match key {
            Key::Char(char) => {
                // A word is undone at once, with the blank before it.
                if char.is_whitespace() {
                    self.last = LastEdit::Other;
                }
                self.begin(LastEdit::Insert);
                self.insert(&Text::typed(*char));
            }
            Key::Paste(text) => {
                self.begin(LastEdit::Other);
                self.insert(&Text::pasted(text.as_str()));
            }
            Key::Left => self.move_to(self.before()),
            Key::Right => self.move_to(self.after()),
            Key::WordLeft => self.move_to(self.word_before()),
            Key::WordRight => self.move_to(self.word_after()),
            Key::Home => self.move_to(0),
            Key::End => self.move_to(self.text.len()),
            Key::Backspace => self.erase(self.before(), self.cursor),
            Key::Delete | Key::EndOfFile => self.erase(self.cursor, self.after()),
            Key::EraseWord => self.kill(self.word_before(), Direction::Backward),
            Key::EraseNextWord => self.kill(self.word_after(), Direction::Forward),
            Key::EraseToStart => self.kill(0, Direction::Backward),
            Key::EraseToEnd => self.kill(self.text.len(), Direction::Forward),
            Key::Yank => {
                self.begin(LastEdit::Other);
                self.insert(&self.killed.clone());
            }
            Key::Undo => self.undo(),
            _ => return false,
        }
        true
    }

    /// Begins a change: saves the state, unless the change continues the last one.
    fn begin(&mut self, edit: LastEdit) {
        if edit == LastEdit::Other || edit == LastEdit::Kill || edit != self.last {
            self.undo.push((self.text.clone(), self.cursor));
            let mut bytes = self.undo.iter().map(|(text, _)| text.len()).sum::<usize>();
            while self.undo.len() > MAX_UNDO || (self.undo.len() > 1 && bytes > MAX_UNDO_BYTES) {
                let (oldest, _) = self.undo.remove(0);
                bytes -= oldest.len();
            }
        }
        self.last = edit;
    }

    fn undo(&mut self) {
        if let Some((text, cursor)) = self.undo.pop() {
            (self.text, self.cursor) = (text, cursor);
        }
        self.last = LastEdit::Other;
    }

    fn insert(&mut self, text: &Text) {
        self.text.replace(self.cursor..self.cursor, text);
        self.cursor += text.len();
    }

    fn move_to(&mut self, cursor: usize) {
        self.cursor = cursor;
        self.last = LastEdit::Other;
    }

    fn erase(&mut self, start: usize, end: usize) {
        if start < end {
            self.begin(LastEdit::Erase);
            self.text.replace(start..end, &Text::default());
            self.cursor = start;
        }
    }

    /// Erases from the cursor up to `to` and keeps the text for Ctrl-Y. Several of these in a row
    /// add up; one that erases nothing changes nothing.
    fn kill(&mut self, to: usize, direction: Direction) {
        if to == self.cursor {
            return;
        }
        let continued = self.last == LastEdit::Kill;
        self.begin(LastEdit::Kill);
        let start = to.min(self.cursor);
        let killed = self.text.replace(start..to.max(self.cursor), &Text::default());
        self.cursor = start;
        if !continued {
            self.killed = Text::default();
        }
        let at = match direction {
            Direction::Backward => 0,
            Direction::Forward => self.killed.len(),
        };
        self.killed.replace(at..at, &killed);
    }

    /// Where the cluster before the cursor begins.
    fn before(&self) -> usize {
        let (before, _) = self.split_at_cursor();
        before.grapheme_indices(true).next_back().map_or(0, |(at, _)| at)
    }

    /// Where the cluster at the cursor ends.
    fn after(&self) -> usize {
        let (_, after) = self.split_at_cursor();
        self.cursor + after.graphemes(true).next().map_or(0, str::len)
    }

    /// Where the word begins that ends at the cursor or before it.
    fn word_before(&self) -> usize {
        let (before, _) = self.split_at_cursor();
        let word = before.trim_end();
        word.char_indices()
            .rfind(|(_, char)| char.is_whitespace())
            .map_or(0, |(at, char)| at + char.len_utf8())
    }

    /// Where the word ends that begins at the cursor or after it.
    fn word_after(&self) -> usize {
        let (_, after) = self.split_at_cursor();
        let blanks = after.len() - after.trim_start().len();
        let end = after[blanks..].find(char::is_whitespace);
        self.cursor + end.map_or(after.len(), |at| blanks + at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A line of this text, the cursor at the `|`.
    fn line(text: &str) -> Line {
        let (before, after) = text.split_once('|').expect("a cursor");
        let mut line = Line::default();
        line.set(Text::typed(before.to_owned() + after));
        line.cursor = before.len();
        line
    }

    fn shown(line: &Line) -> String {
        let (before, after) = line.split_at_cursor();
        format!("{before}|{after}")
    }

    fn press(line: &mut Line, keys: &[Key]) {
        for key in keys {
            assert!(line.edit(key), "{key:?}");
        }
    }

    fn type_in(line: &mut Line, text: &str) {
        text.chars().for_each(|char| press(line, &[Key::Char(char)]));
    }

    #[test]
    fn keys_edit_the_line() {
        for (before, key, after) in [
            ("a|c", Key::Char('b'), "ab|c"),
            ("a|c", Key::Paste("b\nb".to_owned()), "ab\nb|c"),
            ("|\u{e9}", Key::Right, "\u{e9}|"),
            ("\u{1f600}|", Key::Left, "|\u{1f600}"),
            ("|", Key::Left, "|"),
            ("|", Key::Right, "|"),
            ("one two|", Key::WordLeft, "one |two"),
            ("one  |two", Key::WordLeft, "|one  two"),
            ("one| two three", Key::WordRight, "one two| three"),
            ("one| ", Key::WordRight, "one |"),
            ("a|b", Key::Home, "|ab"),
            ("a|b", Key::End, "ab|"),
            ("ab|c", Key::Backspace, "a|c"),
            ("|c", Key::Backspace, "|c"),
            ("a|bc", Key::Delete, "a|c"),
            ("a|bc", Key::EndOfFile, "a|c"),
            ("one two |three", Key::EraseWord, "one |three"),
            ("one| two three", Key::EraseNextWord, "one| three"),
            ("one| two", Key::EraseToStart, "| two"),
            ("one| two", Key::EraseToEnd, "one|"),
        ] {
            let mut line = line(before);
            assert!(line.edit(&key));
            assert_eq!(shown(&line), after, "{before} {key:?}");
        }
        assert!(!line("a|").edit(&Key::Enter));
    }

    #[test]
    fn a_grapheme_cluster_is_one_unit() {
        for cluster in [
            "e\u{301}",
            "\u{1f469}\u{200d}\u{1f469}\u{200d}\u{1f467}\u{200d}\u{1f466}",
            "\u{1f44d}\u{1f3fd}",
            "\u{1f1e9}\u{1f1ea}",
            "\u{2764}\u{fe0f}",
            "1\u{fe0f}\u{20e3}",
            "\u{1f3f4}\u{e0067}\u{e0062}\u{e0065}\u{e006e}\u{e0067}\u{e007f}",
            "\u{1112}\u{1161}\u{11ab}",
        ] {
            let mut line = line(&format!("x{cluster}{cluster}|"));
            press(&mut line, &[Key::Left]);
            assert_eq!(shown(&line), format!("x{cluster}|{cluster}"));
            press(&mut line, &[Key::Left, Key::Right]);
            assert_eq!(shown(&line), format!("x{cluster}|{cluster}"));
            press(&mut line, &[Key::Backspace]);
            assert_eq!(shown(&line), format!("x|{cluster}"));
            press(&mut line, &[Key::Delete]);
            assert_eq!(shown(&line), "x|");
        }
    }

    #[test]
    fn yank_inserts_the_erased_text() {
        let mut line = line("one two| three");
        press(&mut line, &[Key::EraseToStart, Key::End, Key::Backspace, Key::Yank, Key::Yank]);
        assert_eq!(shown(&line), " threone twoone two|");
    }

    #[test]
    fn erasures_in_a_row_add_up() {
        let mut words = line("one two three|");
        press(&mut words, &[Key::EraseWord, Key::EraseWord, Key::EraseWord, Key::Yank]);
        assert_eq!(shown(&words), "one two three|");
        let mut around = line("one |two three");
        press(&mut around, &[Key::EraseToStart, Key::EraseToEnd, Key::Yank]);
        assert_eq!(shown(&around), "one two three|");
        let mut forward = line("|one two");
        press(&mut forward, &[Key::EraseNextWord, Key::EraseNextWord, Key::Yank]);
        assert_eq!(shown(&forward), "one two|");
        // Any other key in between begins anew.
        let mut apart = line("one two|");
        press(&mut apart, &[Key::EraseWord, Key::Home, Key::EraseToEnd, Key::Yank]);
        assert_eq!(shown(&apart), "one |");
    }

    #[test]
    fn erasing_nothing_keeps_the_erased_text() {
        for key in [Key::EraseToStart, Key::EraseWord, Key::EraseToEnd, Key::EraseNextWord] {
            let mut line = line("one two|");
            press(&mut line, &[Key::EraseToStart, key.clone(), key, Key::Yank]);
            assert_eq!(shown(&line), "one two|");
        }
    }

    #[test]
    fn erased_text_outlives_its_line() {
        let mut line = line("one|");
        press(&mut line, &[Key::EraseToStart]);
        line.take();
        press(&mut line, &[Key::Yank]);
        assert_eq!(shown(&line), "one|");
    }

    #[test]
    fn undo_goes_back_step_by_step() {
        let mut line = Line::default();
        type_in(&mut line, "one two");
        press(&mut line, &[Key::Paste(" pasted text".to_owned()), Key::EraseWord, Key::Yank]);
        press(&mut line, &[Key::Backspace, Key::Backspace, Key::Home, Key::EraseToEnd]);
        for expected in [
            "|one two pasted te",
            "one two pasted text|",
            "one two pasted |",
            "one two pasted text|",
            "one two|",
            "one|",
            "|",
            "|",
        ] {
            press(&mut line, &[Key::Undo]);
            assert_eq!(shown(&line), expected);
        }
        // What comes after an undo can be undone, too.
        type_in(&mut line, "new");
        press(&mut line, &[Key::Undo]);
        assert_eq!(shown(&line), "|");
    }

    #[test]
    fn undo_is_bounded_and_ends_with_the_line() {
        let mut line = Line::default();
        type_in(&mut line, &" x".repeat(2 * MAX_UNDO));
        assert_eq!(line.undo.len(), MAX_UNDO);
        let paste = || Key::Paste("x".repeat(MAX_UNDO_BYTES));
        press(&mut line, &[paste(), paste(), Key::Home, Key::EraseToEnd, Key::Undo]);
        assert_eq!((line.text().len() > 2 * MAX_UNDO_BYTES, line.undo.len()), (true, 0));
        line.take();
        press(&mut line, &[Key::Undo]);
        assert_eq!(shown(&line), "|");
    }

    #[test]
    fn a_completion_replaces_the_word() {
        let mut line = line("hi bo| there");
        line.replace_from(3, "bob");
        assert_eq!(shown(&line), "hi bob| there");
        press(&mut line, &[Key::Undo]);
        assert_eq!(shown(&line), "hi bo| there");
        assert_eq!((line.take().as_str(), line.is_empty()), ("hi bo there", true));
    }

    #[test]
    fn yanked_text_stays_pasted() {
        let mut line = Line::default();
        press(&mut line, &[Key::Paste("/quit".to_owned()), Key::EraseToStart, Key::Yank]);
        assert!(!line.text().is_typed(0..1));
    }
}
