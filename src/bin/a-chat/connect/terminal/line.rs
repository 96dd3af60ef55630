//! The line being typed. Plain state owned by whichever thread owns the console.

use unicode_width::UnicodeWidthChar;

use super::keys::Key;

/// A text and a cursor in it.
#[derive(Debug, Default)]
pub(crate) struct Line {
    text: String,
    /// A byte offset, on a character boundary.
    cursor: usize,
    /// The text erased last by a command that erases words or more.
    erased: String,
}

impl Line {
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// The text before the cursor and the text after it.
    pub(crate) fn split_at_cursor(&self) -> (&str, &str) {
        self.text.split_at(self.cursor)
    }

    /// Replaces the whole text.
    pub(crate) fn set(&mut self, text: String) {
        self.cursor = text.len();
        self.text = text;
    }

    pub(crate) fn take(&mut self) -> String {
        self.cursor = 0;
        std::mem::take(&mut self.text)
    }

    /// Replaces the text from `start` to the cursor.
    pub(crate) fn replace_from(&mut self, start: usize, text: &str) {
        self.text.replace_range(start..self.cursor, text);
        self.cursor = start + text.len();
    }

    /// Applies a key; false if the key does not edit a line.
    pub(crate) fn edit(&mut self, key: Key) -> bool {
        match key {
            Key::Char(char) => {
                self.text.insert(self.cursor, char);
                self.cursor += char.len_utf8();
            }
            Key::Left => self.cursor = self.before(),
            Key::Right => self.cursor = self.after(),
            Key::WordLeft => self.cursor = self.word_before(),
            Key::WordRight => self.cursor = self.word_after(),
            Key::Home => self.cursor = 0,
            Key::End => self.cursor = self.text.len(),
            Key::Backspace => drop(self.cut(self.before(), self.cursor)),
            Key::Delete | Key::EndOfFile => drop(self.cut(self.cursor, self.after())),
            Key::EraseWord => self.erased = self.cut(self.word_before(), self.cursor),
            Key::EraseNextWord => self.erased = self.cut(self.cursor, self.word_after()),
            Key::EraseToStart => self.erased = self.cut(0, self.cursor),
            Key::EraseToEnd => self.erased = self.cut(self.cursor, self.text.len()),
            Key::Yank => {
                self.text.insert_str(self.cursor, &self.erased);
                self.cursor += self.erased.len();
            }
            _ => return false,
        }
        true
    }

    fn cut(&mut self, start: usize, end: usize) -> String {
        self.cursor = start;
        self.text.drain(start..end).collect()
    }

    /// Where the character before the cursor begins, its combining marks included.
    fn before(&self) -> usize {
        let (before, _) = self.split_at_cursor();
        before.char_indices().rfind(|&(_, char)| char.width() != Some(0)).map_or(0, |(at, _)| at)
    }

    /// Where the character at the cursor ends, its combining marks included.
    fn after(&self) -> usize {
        let (_, after) = self.split_at_cursor();
        let mut next = after.char_indices().skip(1);
        let end = next.find(|&(_, char)| char.width() != Some(0));
        self.cursor + end.map_or(after.len(), |(at, _)| at)
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
        line.set(before.to_owned() + after);
        line.cursor = before.len();
        line
    }

    fn shown(line: &Line) -> String {
        let (before, after) = line.split_at_cursor();
        format!("{before}|{after}")
    }

    #[test]
    fn keys_edit_the_line() {
        for (before, key, after) in [
            ("a|c", Key::Char('b'), "ab|c"),
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
            assert!(line.edit(key));
            assert_eq!(shown(&line), after, "{before} {key:?}");
        }
        assert!(!line("a|").edit(Key::Enter));
    }

    #[test]
    fn combining_marks_move_with_their_letter() {
        let mut line = line("xe\u{301}|");
        line.edit(Key::Left);
        assert_eq!(shown(&line), "x|e\u{301}");
        line.edit(Key::Right);
        assert_eq!(shown(&line), "xe\u{301}|");
        line.edit(Key::Backspace);
        assert_eq!(shown(&line), "x|");
    }

    #[test]
    fn yank_inserts_the_erased_text() {
        let mut line = line("one two| three");
        line.edit(Key::EraseToStart);
        line.edit(Key::End);
        line.edit(Key::Backspace);
        line.edit(Key::Yank);
        line.edit(Key::Yank);
        assert_eq!(shown(&line), " threone twoone two|");
    }

    #[test]
    fn a_completion_replaces_the_word() {
        let mut line = line("hi bo| there");
        line.replace_from(3, "bob");
        assert_eq!(shown(&line), "hi bob| there");
        assert_eq!((line.take().as_str(), line.text()), ("hi bob there", ""));
    }
}
