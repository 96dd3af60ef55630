//! What was typed before, in memory only: what people say does not belong on a disk unasked. Pure:
//! no thread runs here.

use std::collections::VecDeque;

/// How many lines are kept.
const MOST: usize = 1000;

/// Lines that were typed, and which of them is looked at.
#[derive(Debug, Default)]
pub(crate) struct History {
    lines: VecDeque<String>,
    /// How many lines back; none is the line being typed.
    back: usize,
    /// That line, while another one is looked at.
    draft: String,
}

impl History {
    /// Appends a line, and is back at the next one being typed.
    pub(crate) fn push(&mut self, line: &str) {
        self.back = 0;
        if self.lines.back().is_none_or(|last| last != line) {
            if self.lines.len() == MOST {
                self.lines.pop_front();
            }
            self.lines.push_back(line.to_owned());
        }
    }

    /// The line before the one looked at, if there is one; `current` is what was made of that.
    pub(crate) fn previous(&mut self, current: &str) -> Option<String> {
        let line = self.lines.len().checked_sub(self.back + 1).and_then(|at| self.lines.get(at))?;
        if self.back == 0 {
            current.clone_into(&mut self.draft);
        }
        self.back += 1;
        Some(line.clone())
    }

    /// The line after the one looked at.
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
    fn goes_back_and_forth() {
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
    fn forgets_the_oldest() {
        let mut history = History::default();
        for number in 0..=MOST {
            history.push(&number.to_string());
        }
        let mut last = String::new();
        while let Some(line) = history.previous("") {
            last = line;
        }
        assert_eq!(last, "1");
    }
}
