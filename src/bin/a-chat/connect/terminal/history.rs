//! Earlier lines, in memory only: conversations do not belong on a disk unasked. Plain state owned by
//! the thread `terminal`.

use std::collections::{BTreeMap, VecDeque};

use super::text::Text;

/// How many lines are kept.
const MAX_LINES: usize = 1000;

/// Entered lines, and which of them is being shown.
#[derive(Debug, Default)]
pub(crate) struct History {
    lines: VecDeque<Text>,
    /// How many lines back the shown one is; 0 is the line being typed.
    back: usize,
    /// Lines as they were left when another one was shown, by how many lines back they are. They are
    /// kept until a line is entered.
    edited: BTreeMap<usize, Text>,
}

impl History {
    /// Appends a line and returns to the line being typed.
    pub(crate) fn push(&mut self, line: Text) {
        self.back = 0;
        self.edited.clear();
        if self.lines.back().is_none_or(|last| *last != line) {
            if self.lines.len() == MAX_LINES {
                self.lines.pop_front();
            }
            self.lines.push_back(line);
        }
    }

    /// The line before the shown one, if there is one; `current` is the shown one's present text.
    pub(crate) fn previous(&mut self, current: &Text) -> Option<Text> {
        (self.back < self.lines.len()).then(|| self.show(self.back + 1, current))
    }

    /// The line after the shown one, if there is one.
    pub(crate) fn next(&mut self, current: &Text) -> Option<Text> {
        let back = self.back.checked_sub(1)?;
        Some(self.show(back, current))
    }

    /// The latest line that contains `pattern` and is at least `back` lines back, and how many.
    pub(crate) fn find(&self, pattern: &str, back: usize) -> Option<(usize, &Text)> {
        let latest_first = (1..).zip(self.lines.iter().rev());
        latest_first.skip(back.saturating_sub(1)).find(|(_, line)| line.as_str().contains(pattern))
    }

    /// Shows the line that is this many lines back, as it was left.
    pub(crate) fn show(&mut self, back: usize, current: &Text) -> Text {
        self.edited.insert(self.back, current.clone());
        self.back = back;
        let shown = self.edited.get(&back).or_else(|| self.get(back));
        shown.cloned().unwrap_or_default()
    }

    /// The line that is this many lines back, as it was entered.
    pub(crate) fn get(&self, back: usize) -> Option<&Text> {
        self.lines.len().checked_sub(back).and_then(|at| self.lines.get(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Text {
        Text::typed(text)
    }

    fn history(lines: &[&str]) -> History {
        let mut history = History::default();
        for line in lines {
            history.push(text(line));
        }
        history
    }

    #[test]
    fn up_and_down_walk_through_the_lines() {
        let mut none = History::default();
        assert_eq!((none.previous(&text("draft")), none.next(&text("draft"))), (None, None));
        let mut history = history(&["one", "two", "two", "three"]);
        assert_eq!(history.previous(&text("draft")), Some(text("three")));
        assert_eq!(history.previous(&text("three")), Some(text("two")));
        assert_eq!(history.previous(&text("two")), Some(text("one")));
        assert_eq!(history.previous(&text("one")), None);
        assert_eq!(history.next(&text("one")), Some(text("two")));
        assert_eq!(history.next(&text("two")), Some(text("three")));
        assert_eq!(history.next(&text("three")), Some(text("draft")));
        assert_eq!(history.next(&text("draft")), None);
    }

    #[test]
    fn edits_are_kept_until_a_line_is_entered() {
        let mut history = history(&["one", "two"]);
        assert_eq!(history.previous(&text("draft")), Some(text("two")));
        assert_eq!(history.previous(&text("two, edited")), Some(text("one")));
        assert_eq!(history.next(&text("one, edited")), Some(text("two, edited")));
        assert_eq!(history.next(&text("two, edited")), Some(text("draft")));
        assert_eq!(history.previous(&text("draft, edited")), Some(text("two, edited")));
        assert_eq!(history.previous(&text("two, edited")), Some(text("one, edited")));
        history.push(text("three"));
        for (current, line) in [("", "three"), ("three", "two"), ("two", "one")] {
            assert_eq!(history.previous(&text(current)), Some(text(line)));
        }
    }

    #[test]
    fn a_search_goes_back_from_line_to_line() {
        let history = history(&["bob: one", "carol: two", "bob: three"]);
        let found =
            |pattern, back| history.find(pattern, back).map(|(at, line)| (at, line.as_str()));
        assert_eq!(found("bob", 1), Some((1, "bob: three")));
        assert_eq!(found("bob", 2), Some((3, "bob: one")));
        assert_eq!(found("bob", 4), None);
        assert_eq!(found("two", 1), Some((2, "carol: two")));
        assert_eq!(found("dave", 1), None);
    }

    #[test]
    fn the_oldest_line_is_dropped() {
        let mut history = History::default();
        for number in 0..=MAX_LINES {
            history.push(text(&number.to_string()));
        }
        let mut last = text("");
        while let Some(line) = history.previous(&last) {
            last = line;
        }
        assert_eq!(last, text("1"));
    }
}
