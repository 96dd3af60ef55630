//! A text of which each byte was either typed or pasted. Plain values.
//!
//! Pasted text is text throughout: it contains no command and names no recipient, whatever it looks
//! like. So the difference stays with the text wherever editing moves it.

use std::ops::Range;

/// A text, and for each of its bytes whether it was pasted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Text {
    text: String,
    pasted: Vec<bool>,
}

impl Text {
    /// A text that was typed.
    pub(crate) fn typed(text: impl Into<String>) -> Self {
        Self::new(text.into(), false)
    }

    /// A text that was pasted.
    pub(crate) fn pasted(text: impl Into<String>) -> Self {
        Self::new(text.into(), true)
    }

    fn new(text: String, pasted: bool) -> Self {
        let pasted = vec![pasted; text.len()];
        Self { text, pasted }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    pub(crate) fn len(&self) -> usize {
        self.text.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// True if all bytes in this range were typed.
    pub(crate) fn is_typed(&self, range: Range<usize>) -> bool {
        !self.pasted[range].contains(&true)
    }

    /// Replaces a range and returns what was there.
    ///
    /// # Panics
    ///
    /// If an end of the range is not on a character boundary.
    pub(crate) fn replace(&mut self, range: Range<usize>, with: &Self) -> Self {
        let text = self.text[range.clone()].to_owned();
        self.text.replace_range(range.clone(), &with.text);
        let pasted = self.pasted.splice(range, with.pasted.iter().copied()).collect();
        Self { text, pasted }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn editing_keeps_typed_and_pasted_text_apart() {
        let mut text = Text::typed("one three");
        text.replace(4..4, &Text::pasted("two "));
        assert_eq!(text.as_str(), "one two three");
        assert!(text.is_typed(0..4) && text.is_typed(8..13) && !text.is_typed(3..5));
        let removed = text.replace(2..6, &Text::default());
        assert_eq!((removed.as_str(), text.as_str()), ("e tw", "ono three"));
        assert!(removed.is_typed(0..2) && !removed.is_typed(2..3));
        assert!(!text.is_typed(2..3) && text.is_typed(4..9));
    }
}
