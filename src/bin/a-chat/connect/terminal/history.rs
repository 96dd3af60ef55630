//! Earlier lines, in memory only: conversations do not belong on a disk unasked. Plain state owned by
//! the thread `terminal`.

use std::collections::VecDeque;

/// How many lines are kept.
const MAX_LINES: usize = 1000;

/// Entered lines, and which of them is being shown.
#[derive(Debug, Default)]
pub(crate) struct History {
    lines: VecDeque<String>,
    /// How many lines back the shown one is; 0 is the line being typed.
    back: usize,
    /// The line being typed, while another one is shown.
    draft: String,
}

impl History {
    /// Appends a line and returns to the line being typed.
    pub(crate) fn push(&mut self, line: &str) {
        self.back = 0;
        if self.lines.back().is_none_or(|last| last != line) {
            if self.lines.len() == MAX_LINES {
                self.lines.pop_front();
            }
            self.lines.push_back(line.to_owned());
        }
    }

    /// The line before the shown one, if there is one; `current` is the shown one's present text.
    pub(crate) fn previous(&mut self, current: &str) -> Option<String> {
        let line = self.lines.len().checked_sub(self.back + 1).and_then(|at| self.lines.get(at))?;
        if self.back == 0 {
            current.clone_into(&mut self.draft);
        }
        self.back += 1;
        Some(line.clone())
    }

    /// The line after the shown one.
    pub(crate) fn next(&mut self) -> Option<String> {
        self.back = self.back.checked_sub(1)?;
        if self.back == 0 {
            return Some(std::mem::take(&mut self.draft));
        }
        self.lines.get(self.lines.len() - self.back).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn up_and_down_walk_through_the_lines() {
        let mut history = History::default();
        assert_eq!((history.previous("draft"), history.next()), (None, None));
        for line in ["one", "two", "two", "three"] {
            history.push(line);
        }
        let line = |text: &str| Some(text.to_owned());
        assert_eq!(history.previous("draft"), line("three"));
        assert_eq!(history.previous("three, changed"), line("two"));
        assert_eq!(history.next(), line("three"));
        assert_eq!(history.previous("three"), line("two"));
        assert_eq!(history.previous("two"), line("one"));
        assert_eq!(history.previous("one"), None);
        assert_eq!((history.next(), history.next()), (line("two"), line("three")));
        assert_eq!((history.next(), history.next()), (line("draft"), None));
    }

    #[test]
    fn the_oldest_line_is_dropped() {
        let mut history = History::default();
        for number in 0..=MAX_LINES {
            history.push(&number.to_string());
        }
        let mut last = String::new();
        while let Some(line) = history.previous("") {
            last = line;
        }
        assert_eq!(last, "1");
    }
}
