//! Decodes a terminal's input into keys. Plain state owned by the console.
//!
//! `vte` parses the escape sequences. It is made for the other direction, a program's output, so a
//! few things are settled here: what keyboards send that no program writes, mouse reports, whose
//! bytes follow a complete sequence, and pasted text.

use std::fmt;
use std::ops::RangeInclusive;

use vte::{Params, Parser, Perform};

/// What a key means. The bindings are those that shells made familiar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    /// A character to insert.
    Char(char),
    /// Pasted text, as a whole. It may contain line ends and tabs, and no other control character.
    Paste(String),
    Enter,
    Tab,
    Backspace,
    Delete,
    Left,
    Right,
    WordLeft,
    WordRight,
    Home,
    End,
    Up,
    Down,
    /// Ctrl-W, Alt-Backspace.
    EraseWord,
    /// Alt-D.
    EraseNextWord,
    /// Ctrl-U.
    EraseToStart,
    /// Ctrl-K.
    EraseToEnd,
    /// Ctrl-Y: inserts the text erased last.
    Yank,
    /// Ctrl-_.
    Undo,
    /// Ctrl-R: searches the history backwards.
    Search,
    /// Ctrl-G: ends a search.
    Cancel,
    /// Ctrl-L.
    Redraw,
    /// Ctrl-C.
    Interrupt,
    /// Ctrl-D, which deletes unless the line is empty.
    EndOfFile,
    /// Ctrl-Z.
    Suspend,
}

const ESCAPE: u8 = 0x1b;
const CTRL_C: u8 = 0x03;

/// What a terminal sends after pasted text.
const PASTE_END: &[u8] = b"\x1b[201~";

/// In UTF-8, the first bytes of characters of two bytes, and what can follow them.
const LEADING: RangeInclusive<u8> = 0xc2..=0xdf;
const CONTINUING: RangeInclusive<u8> = 0x80..=0xbf;

/// Decodes keys, however the input is cut into pieces.
#[derive(Default)]
pub(crate) struct Decoder {
    parser: Parser,
    keys: Keys,
    /// The last byte was ESC.
    escaped: bool,
    /// The last byte, if it was part of a mouse report.
    report_byte: Option<u8>,
}

/// Collects keys from the parser.
#[derive(Default)]
struct Keys {
    decoded: Vec<Key>,
    next: Next,
    /// How many characters of a mouse report are still to come.
    report: usize,
    /// Pasted text so far, while there is any.
    paste: Option<Vec<u8>>,
}

/// What the next character is.
#[derive(Clone, Copy, Default)]
enum Next {
    #[default]
    Char,
    /// Part of a sequence that began with `ESC O`.
    SingleShift,
    /// The end of a function key of the Linux console, as in `ESC [ [ A`.
    FunctionKey,
}

impl Decoder {
    pub(crate) fn decode(&mut self, bytes: &[u8]) -> Vec<Key> {
        for &byte in bytes {
            self.feed(byte);
        }
        std::mem::take(&mut self.keys.decoded)
    }

    /// Abandons an incomplete sequence or character, but not pasted text.
    pub(crate) fn abandon_sequence(&mut self) {
        self.parser = Parser::new();
        self.escaped = false;
        self.keys.next = Next::Char;
        self.keys.report = 0;
    }

    fn feed(&mut self, byte: u8) {
        if self.keys.paste.is_some() {
            return self.keys.paste(byte);
        }
        if self.is_reported(byte) {
            self.report_byte = Some(byte);
            return;
        }
        self.report_byte = None;
        // The Escape key on its own means nothing. For the parser it begins a sequence, which a key
        // that cannot be part of one does not end.
        let lone_escape = self.escaped && !matches!(byte, ESCAPE | b' '..=b'~');
        if lone_escape || ends_string(byte) {
            self.abandon_sequence();
        }
        if lone_escape && matches!(byte, 0x08 | 0x7f) {
            return self.keys.decoded.push(Key::EraseWord);
        }
        self.escaped = byte == ESCAPE;
        self.parser.advance(&mut self.keys, &[byte]);
    }

    /// True if the byte is part of a mouse report. Its characters are single bytes or, in a mode that
    /// old programs ask for, UTF-8.
    fn is_reported(&mut self, byte: u8) -> bool {
        let lead = self.report_byte.is_some_and(|last| LEADING.contains(&last));
        if lead && CONTINUING.contains(&byte) {
            return true;
        }
        // Keys such as Ctrl-C are none of it.
        let is_reported = self.keys.report > 0 && byte >= b' ';
        self.keys.report = if is_reported { self.keys.report - 1 } else { 0 };
        is_reported
    }
}

impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoder").finish_non_exhaustive()
    }
}

/// True for control characters that a control string cannot contain, see ECMA-48, 5.6: they are keys,
/// and end it. The parser itself handles BEL, CAN, SUB and ESC.
fn ends_string(byte: u8) -> bool {
    matches!(byte, 0x00..=0x06 | 0x0e..=0x17 | 0x19 | 0x1c..=0x1f)
}

impl Perform for Keys {
    fn print(&mut self, char: char) {
        match (std::mem::take(&mut self.next), char) {
            (Next::FunctionKey, _) | (Next::Char, '\u{80}'..='\u{9f}') => {}
            (Next::SingleShift, '0'..='9' | ';') => self.next = Next::SingleShift,
            (Next::SingleShift, 'M') => self.decoded.push(Key::Enter),
            (Next::SingleShift, _) => self.decoded.extend(cursor_key(char)),
            (Next::Char, '\x7f') => self.decoded.push(Key::Backspace),
            (Next::Char, _) => self.decoded.push(Key::Char(char)),
        }
    }

    fn execute(&mut self, byte: u8) {
        self.next = Next::Char;
        self.decoded.extend(control_key(byte));
    }

    fn esc_dispatch(&mut self, intermediates: &[u8], _: bool, byte: u8) {
        self.next = Next::Char;
        match byte {
            _ if !intermediates.is_empty() => {}
            b'O' => self.next = Next::SingleShift,
            b'b' => self.decoded.push(Key::WordLeft),
            b'f' => self.decoded.push(Key::WordRight),
            b'd' => self.decoded.push(Key::EraseNextWord),
            // The end of a control string.
            b'\\' => {}
            // The Escape key, and then another one.
            _ => self.decoded.push(Key::Char(char::from(byte))),
        }
    }

    fn csi_dispatch(&mut self, params: &Params, intermediates: &[u8], ignored: bool, last: char) {
        self.next = Next::Char;
        if ignored || !intermediates.is_empty() {
            return;
        }
        let mut params = params.iter().map(|param| param[0]);
        let (first, modifier) = (params.next().unwrap_or(0), params.next().unwrap_or(0));
        let by_word = matches!((first, modifier), (0 | 1, 3 | 5) | (5, 0));
        let key = match (last, first, modifier) {
            ('~', 200, 0) => {
                self.paste = Some(Vec::new());
                None
            }
            // A mouse report, and two of a kind that tracks a selection.
            ('M', 0, 0) => self.expect_report(3),
            ('t', 0, 0) => self.expect_report(2),
            ('T', 0, 0) => self.expect_report(6),
            ('[', 0, 0) => {
                self.next = Next::FunctionKey;
                None
            }
            ('~', 1 | 7, 0) => Some(Key::Home),
            ('~', 4 | 8, 0) => Some(Key::End),
            ('~', 3, 0) => Some(Key::Delete),
            ('C', ..) if by_word => Some(Key::WordRight),
            ('D', ..) if by_word => Some(Key::WordLeft),
            (_, 0 | 1, 0 | 1) => cursor_key(last),
            _ => None,
        };
        self.decoded.extend(key);
    }
}

impl Keys {
    fn expect_report(&mut self, characters: usize) -> Option<Key> {
        self.report = characters;
        None
    }

    /// Collects pasted text: none of it is sent before the user has seen it. Only Ctrl-C keeps its
    /// meaning, in case the end of the paste never arrives.
    fn paste(&mut self, byte: u8) {
        let Some(bytes) = &mut self.paste else { return };
        bytes.push(byte);
        let length = match byte {
            CTRL_C => bytes.len() - 1,
            _ if bytes.ends_with(PASTE_END) => bytes.len() - PASTE_END.len(),
            _ => return,
        };
        let text = plain_text(&bytes[..length]);
        self.paste = None;
        self.decoded.push(Key::Paste(text));
        self.decoded.extend((byte == CTRL_C).then_some(Key::Interrupt));
    }
}

/// The key that sends this last character after `ESC [` or `ESC O`.
fn cursor_key(last: char) -> Option<Key> {
    Some(match last {
        'A' => Key::Up,
        'B' => Key::Down,
        'C' => Key::Right,
        'D' => Key::Left,
        'H' => Key::Home,
        'F' => Key::End,
        _ => return None,
    })
}

/// The key that sends this control character.
fn control_key(byte: u8) -> Option<Key> {
    Some(match byte {
        b'\r' | b'\n' => Key::Enter,
        b'\t' => Key::Tab,
        0x01 => Key::Home,
        0x02 => Key::Left,
        CTRL_C => Key::Interrupt,
        0x04 => Key::EndOfFile,
        0x05 => Key::End,
        0x06 => Key::Right,
        0x07 => Key::Cancel,
        0x08 => Key::Backspace,
        0x0b => Key::EraseToEnd,
        0x0c => Key::Redraw,
        0x0e => Key::Down,
        0x10 => Key::Up,
        0x12 => Key::Search,
        0x15 => Key::EraseToStart,
        0x17 => Key::EraseWord,
        0x19 => Key::Yank,
        0x1a => Key::Suspend,
        0x1f => Key::Undo,
        _ => return None,
    })
}

/// Pasted bytes as text: without colours and the like, and without control characters other than
/// line ends and tabs.
fn plain_text(bytes: &[u8]) -> String {
    #[derive(Default)]
    struct Plain(String);

    impl Perform for Plain {
        fn print(&mut self, char: char) {
            self.0.extend(Some(char).filter(|&char| char != '\x7f'));
        }

        fn execute(&mut self, byte: u8) {
            self.0.extend(Some(char::from(byte)).filter(|char| "\n\t".contains(*char)));
        }
    }

    let text = String::from_utf8_lossy(bytes).replace("\r\n", "\n").replace('\r', "\n");
    let mut plain = Plain::default();
    for (index, part) in text.split('\x1b').enumerate() {
        let mut parser = Parser::new();
        // Only `ESC [` begins something that is certain to end soon.
        if index > 0 && part.starts_with('[') {
            parser.advance(&mut plain, b"\x1b");
        }
        parser.advance(&mut plain, part.as_bytes());
    }
    plain.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(bytes: &[u8]) -> Vec<Key> {
        let whole = Decoder::default().decode(bytes);
        let mut decoder = Decoder::default();
        let pieces: Vec<_> = bytes.iter().flat_map(|&byte| decoder.decode(&[byte])).collect();
        assert_eq!(whole, pieces, "it depends on how the bytes are cut");
        whole
    }

    fn typed(text: &str) -> Vec<Key> {
        text.chars().map(Key::Char).collect()
    }

    fn pasted(text: &str) -> Key {
        Key::Paste(text.to_owned())
    }

    #[test]
    fn characters_and_control_keys_are_decoded() {
        assert_eq!(decode("h\u{e9} \u{1f600}".as_bytes()), typed("h\u{e9} \u{1f600}"));
        assert_eq!(decode(b"a\xffb\xe2\x28"), typed("a\u{fffd}b\u{fffd}("));
        assert_eq!(
            decode(b"\r\n\t\x7f\x08"),
            [Key::Enter, Key::Enter, Key::Tab, Key::Backspace, Key::Backspace]
        );
        assert_eq!(decode(b"\x03\x04\x1a"), [Key::Interrupt, Key::EndOfFile, Key::Suspend]);
        assert_eq!(decode(b"\x12\x1f\x07"), [Key::Search, Key::Undo, Key::Cancel]);
        assert_eq!(decode(b"\0\x1c\x1d\xc2\x9b"), []);
    }

    #[test]
    fn escape_sequences_are_decoded() {
        for (bytes, key) in [
            ("\x1b[A", Key::Up),
            ("\x1bOB", Key::Down),
            ("\x1b[H", Key::Home),
            ("\x1b[8~", Key::End),
            ("\x1b[3~", Key::Delete),
            ("\x1b[1;5C", Key::WordRight),
            ("\x1b[5D", Key::WordLeft),
            ("\x1bb", Key::WordLeft),
            ("\x1b\x7f", Key::EraseWord),
            ("\x1b\x1b[D", Key::Left),
            ("\x1bOM", Key::Enter),
        ] {
            assert_eq!(decode(bytes.as_bytes()), [key], "{bytes:?}");
        }
    }

    #[test]
    fn unknown_sequences_end_and_do_nothing() {
        for bytes in ["\x1b[5~", "\x1b[[A", "\x1b[?1;2c", "\x1b[24;80R", "\x1b[I", "\x1b[13;2u"] {
            assert_eq!(decode(format!("{bytes}x").as_bytes()), typed("x"), "{bytes:?}");
        }
        // A control key ends a sequence, and no sequence goes on forever.
        assert_eq!(decode(b"\x1b[1\x03"), [Key::Interrupt]);
        assert_eq!(decode(format!("\x1b[{}mx", "1;".repeat(1000)).as_bytes()), typed("x"));
    }

    #[test]
    fn the_escape_key_on_its_own_means_nothing() {
        for after in ["\r", "\x03", "\x15", "\u{e9}", "\t"] {
            let expected = decode(format!("{after}b").as_bytes());
            assert_eq!(decode(format!("\x1b{after}b").as_bytes()), expected, "{after:?}");
        }
        assert_eq!(decode(b"\x1bx"), typed("x"));
        // Whatever it began is over when no more comes.
        for begun in ["\x1b", "\x1b[", "\x1b]", "\x1bP", "\x1bO", "\x1b[M", "\x1b[["] {
            let mut decoder = Decoder::default();
            assert_eq!(decoder.decode(begun.as_bytes()), []);
            decoder.abandon_sequence();
            assert_eq!(decoder.decode(b"bc"), typed("bc"), "{begun:?}");
        }
    }

    #[test]
    fn mouse_reports_do_nothing() {
        for report in [
            &b"\x1b[M !!"[..],
            b"\x1b[M#\xe8\xff",
            b"\x1b[MCab",
            // UTF-8, SGR, and urxvt's.
            "\x1b[M \u{100}\u{a1}".as_bytes(),
            "\x1b[M !\u{100}".as_bytes(),
            b"\x1b[<0;10;20M\x1b[<0;10;20m",
            b"\x1b[32;10;20M",
            // Of a selection.
            b"\x1b[t!!",
            b"\x1b[T!!!!!!",
        ] {
            assert_eq!(decode(&[report, b"x\xc3\xa9"].concat()), typed("x\u{e9}"), "{report:?}");
        }
        assert_eq!(decode(b"\x1b[M \x03x"), [vec![Key::Interrupt], typed("x")].concat());
    }

    #[test]
    fn replies_of_the_terminal_do_nothing() {
        for reply in [
            "\x1b]11;rgb:0000/0000/0000\x07",
            "\x1b]11;rgb:0000/0000/0000\x1b\\",
            "\x1b]l\u{e9} title\x1b\\",
            "\x1bP1$r0m\x1b\\",
            "\x1bP>|name 1.2\x1b\\",
            "\x1bP1+r\r\n436f\x1b\\",
            "\x1b_Gi=1;OK\x1b\\",
            "\x1b^private\x1b\\",
            "\x1bXstring\x1b\\",
            "\x1b[?62;4c",
        ] {
            assert_eq!(decode(format!("a{reply}x").as_bytes()), typed("ax"), "{reply:?}");
        }
        // Should the end of one never arrive, keys still work.
        for begun in ["\x1b]11;rgb:", "\x1bP1$r", "\x1b_G"] {
            let keys = decode(format!("{begun}\x03x").as_bytes());
            assert_eq!(keys, [vec![Key::Interrupt], typed("x")].concat(), "{begun:?}");
        }
    }

    #[test]
    fn pasted_text_is_one_key() {
        let paste = "\x1b[200~a\r\nb\rc\n\x01\x04\t\x1b[31md\x1b[Ae\x1b]f\x1bPg\x7f\x1b[201~\x01";
        assert_eq!(decode(paste.as_bytes()), [pasted("a\nb\nc\n\tde]fPg"), Key::Home]);
        let empty = "\x1b[200~\x1b[201~";
        assert_eq!(decode(empty.as_bytes()), [pasted("")]);
        let text = "  \u{e9}\n\n\t\u{1f600}\n";
        assert_eq!(decode(format!("\x1b[200~{text}\x1b[201~").as_bytes()), [pasted(text)]);
        assert_eq!(decode(b"\x1b[200~a\x03x"), [pasted("a"), Key::Interrupt, Key::Char('x')]);
    }
}
