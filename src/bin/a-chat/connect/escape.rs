//! Makes text from other clients safe to show. Pure functions.

use std::fmt::Write;

/// Escapes every character that a terminal might obey: control characters in caret notation or by
/// number, and those that change the direction of text.
pub(crate) fn escape_controls(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            // Caret notation: the character 64 places on.
            '\0'..='\x1f' | '\x7f' => out.extend(['^', char::from(char as u8 ^ 0x40)]),
            _ if char.is_control() || is_invisible(char) => {
                // Writing to a string cannot fail.
                let _ = write!(out, "<U+{:04X}>", u32::from(char));
            }
            _ => out.push(char),
        }
    }
    out
}

/// Characters that are no control characters, yet change how others are shown: line and paragraph
/// separators, direction marks and overrides, the byte order mark.
fn is_invisible(char: char) -> bool {
    matches!(
        char,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_character_is_left_that_a_terminal_obeys() {
        assert_eq!(escape_controls("plain, h\u{e9}llo \u{1f600}"), "plain, h\u{e9}llo \u{1f600}");
        assert_eq!(escape_controls("\x1b[31mred\x07\r\x7f\t"), "^[[31mred^G^M^?^I");
        assert_eq!(escape_controls("\u{9b}31m \u{202e}abc"), "<U+009B>31m <U+202E>abc");
        for char in (0..=0x10_ffff).filter_map(char::from_u32) {
            let shown = escape_controls(&char.to_string());
            assert!(!shown.chars().any(char::is_control), "{shown:?}");
        }
    }
}
