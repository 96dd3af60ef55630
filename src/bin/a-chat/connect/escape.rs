//! Makes text from other clients safe to show. Pure functions.

use std::fmt::Write;

use unicode_segmentation::UnicodeSegmentation;
use unicode_width::UnicodeWidthChar;

/// Escapes every character that a terminal might obey or that is invisible: control characters in
/// caret notation or by number, others by number. Characters that join or choose the form of their
/// neighbours stay where they do so, as in an emoji of several characters.
pub(crate) fn escape_controls(text: &str) -> String {
    if text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len());
    for (start, cluster) in text.grapheme_indices(true) {
        let mut before = None;
        for (at, char) in cluster.char_indices() {
            let after = text[start + at + char.len_utf8()..].chars().next();
            if is_hidden(char) && !has_effect(cluster, at, char, before, after) {
                escape(char, &mut out);
            } else {
                out.push(char);
            }
            before = Some(char);
        }
    }
    out
}

fn escape(char: char, out: &mut String) {
    match char {
        // Caret notation: the character 64 places on.
        '\0'..='\x1f' | '\x7f' => out.extend(['^', char::from(char as u8 ^ 0x40)]),
        _ => {
            // Writing to a string cannot fail.
            let _ = write!(out, "<U+{:04X}>", u32::from(char));
        }
    }
}

/// True for control characters and for others that are invisible on their own.
fn is_hidden(char: char) -> bool {
    match char {
        ' '..='~' => false,
        // The joiners, and those of the invisible characters that extend a cluster or are letters:
        // variation selectors, fillers, tags.
        '\u{34f}'
        | '\u{115f}'
        | '\u{1160}'
        | '\u{17b4}'
        | '\u{17b5}'
        | '\u{180b}'..='\u{180f}'
        | '\u{200c}'
        | '\u{200d}'
        | '\u{3164}'
        | '\u{fe00}'..='\u{fe0f}'
        | '\u{ffa0}'
        | '\u{e0000}'..='\u{e0fff}' => true,
        _ if char.is_alphanumeric() => false,
        // A character without a width that is no mark is one that fonts do not know.
        _ => is_control(char) || (char.width() == Some(0) && cluster_count(&['a', char]) == 2),
    }
}

/// True if Unicode's text segmentation counts it as a control: no mark attaches to it. These are the
/// control characters, line and paragraph separators, and format characters such as overrides of
/// direction, the zero width space and the byte order mark.
fn is_control(char: char) -> bool {
    cluster_count(&[char, '\u{301}']) == 2
}

/// True if a hidden character shapes its neighbours here. `at` is its place in its cluster, `before`
/// the character before it in the cluster, `after` the one after it in the text.
fn has_effect(
    cluster: &str,
    at: usize,
    char: char,
    before: Option<char>,
    after: Option<char>,
) -> bool {
    let Some(before) = before else { return false };
    let ends_cluster = at + char.len_utf8() == cluster.len();
    match char {
        '\u{200d}' if !ends_cluster && after.is_some_and(is_pictograph) => true,
        // Scripts whose letters change their forms by it.
        '\u{200c}' | '\u{200d}' => is_joining(before) && after.is_some_and(is_joining),
        '\u{fe0e}' | '\u{fe0f}' if is_pictograph(before) => true,
        // Keycaps.
        '\u{fe0f}' => matches!(before, '0'..='9' | '#' | '*') && after == Some('\u{20e3}'),
        '\u{fe00}'..='\u{fe02}' | '\u{e0100}'..='\u{e01ef}' => is_ideograph(before),
        '\u{180b}'..='\u{180d}' | '\u{180f}' => matches!(before, '\u{1820}'..='\u{18aa}'),
        // Flags of regions.
        '\u{e0020}'..='\u{e007f}' => {
            cluster.starts_with('\u{1f3f4}') && cluster.ends_with('\u{e007f}')
        }
        _ => false,
    }
}

/// True if a zero width joiner joins an emoji to it.
fn is_pictograph(char: char) -> bool {
    cluster_count(&[char, '\u{200d}', '\u{1f600}']) == 1
}

/// Letters of the scripts from Arabic to Myanmar and from Khmer to Mongolian, and their marks.
fn is_joining(char: char) -> bool {
    matches!(char, '\u{600}'..='\u{109f}' | '\u{1780}'..='\u{18af}') && !is_hidden(char)
}

fn is_ideograph(char: char) -> bool {
    matches!(char, '\u{3400}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}')
}

fn cluster_count(chars: &[char]) -> usize {
    chars.iter().collect::<String>().graphemes(true).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_character_is_left_that_a_terminal_obeys() {
        assert_eq!(escape_controls("plain, h\u{e9}llo \u{1f600}"), "plain, h\u{e9}llo \u{1f600}");
        assert_eq!(escape_controls("\x1b[31mred\x07\r\x7f\t"), "^[[31mred^G^M^?^I");
        assert_eq!(escape_controls("\u{9b}31m \u{202e}abc"), "<U+009B>31m <U+202E>abc");
        for char in ('\0'..='\u{ffff}').filter(|char| char.is_control()) {
            let shown = escape_controls(&format!("a{char}b"));
            assert!(!shown.chars().any(char::is_control), "{shown:?}");
        }
    }

    #[test]
    fn invisible_characters_are_shown() {
        for hidden in [
            '\u{ad}',
            '\u{34f}',
            '\u{61c}',
            '\u{115f}',
            '\u{180e}',
            '\u{200b}',
            '\u{200c}',
            '\u{200d}',
            '\u{200e}',
            '\u{2028}',
            '\u{202a}',
            '\u{2060}',
            '\u{2064}',
            '\u{2066}',
            '\u{206f}',
            '\u{3164}',
            '\u{fe00}',
            '\u{fe0f}',
            '\u{feff}',
            '\u{ffa0}',
            '\u{fff9}',
            '\u{1d173}',
            '\u{e0001}',
            '\u{e0041}',
            '\u{e007f}',
            '\u{e0100}',
        ] {
            let number = format!("<U+{:04X}>", u32::from(hidden));
            for (before, after) in
                [("", ""), ("al", "ice"), ("\u{e9}", "\u{301}"), ("1", "2"), (" ", " ")]
            {
                let shown = escape_controls(&format!("{before}{hidden}{after}"));
                assert_eq!(shown, format!("{before}{number}{after}"), "{hidden:?}");
            }
        }
        // Where they would have an effect on what follows, and there is nothing of the kind.
        let (heart, joiner) = ('\u{2764}', '\u{200d}');
        assert_eq!(escape_controls(&format!("{heart}{joiner}a")), format!("{heart}<U+200D>a"));
        assert_eq!(escape_controls("1\u{fe0f}"), "1<U+FE0F>");
        assert_eq!(escape_controls("\u{1f3f4}\u{e0067}"), "\u{1f3f4}<U+E0067>");
    }

    #[test]
    fn every_character_without_a_width_is_a_mark_or_is_shown() {
        let all = (0x80..=0x10_ffff).filter_map(char::from_u32);
        for char in all.filter(|char| char.width() == Some(0)) {
            // Some letters have no width on their own, such as the parts of a Hangul syllable.
            let is_letter = char.is_alphanumeric() && char != '\u{1160}';
            if !is_letter && cluster_count(&['a', char]) == 2 {
                assert!(escape_controls(&format!("a{char}b")).contains("<U+"), "{char:?}");
            }
        }
    }

    #[test]
    fn emoji_and_joined_letters_stay_whole() {
        for text in [
            "\u{1f469}\u{200d}\u{2764}\u{fe0f}\u{200d}\u{1f468}",
            "\u{1f3f3}\u{fe0f}\u{200d}\u{1f308}",
            "\u{1f469}\u{1f3fd}\u{200d}\u{1f680}",
            "\u{2764}\u{fe0f}",
            "\u{2764}\u{fe0e}",
            "1\u{fe0f}\u{20e3}",
            "\u{1f1e9}\u{1f1ea}",
            "\u{1f3f4}\u{e0067}\u{e0062}\u{e0065}\u{e006e}\u{e0067}\u{e007f}",
            "\u{645}\u{6cc}\u{200c}\u{62e}\u{648}\u{627}\u{647}\u{645}",
            "\u{915}\u{94d}\u{200d}\u{937}",
            "\u{845b}\u{e0100}",
            "e\u{301}\u{303}",
        ] {
            assert_eq!(escape_controls(&format!("a{text}b")), format!("a{text}b"));
        }
    }
}
