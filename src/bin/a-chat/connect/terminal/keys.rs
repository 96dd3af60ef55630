//! Decodes a terminal's input into keys. Plain state owned by the console.

/// What a key means. The bindings are those that shells made familiar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    /// A character to insert. Pasted text may contain line ends.
    Char(char),
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
    /// Ctrl-L.
    Redraw,
    /// Ctrl-C.
    Interrupt,
    /// Ctrl-D, which deletes unless the line is empty.
    EndOfFile,
    /// Ctrl-Z.
    Suspend,
}

/// The longest escape sequence that is decoded, in characters.
const MAX_SEQUENCE: usize = 16;

/// Decodes keys, however the input is cut into pieces.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    /// The first bytes of an incomplete character.
    bytes: Vec<u8>,
    state: State,
    /// The terminal marked the current input as pasted.
    pasting: bool,
    /// The last character was a pasted `\r`; a following `\n` belongs to it.
    returned: bool,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Ground,
    /// After ESC.
    Escape,
    /// After `ESC [` or `ESC O`, with the characters since.
    Sequence(String),
}

impl Decoder {
    pub(crate) fn decode(&mut self, bytes: &[u8]) -> Vec<Key> {
        self.bytes.extend_from_slice(bytes);
        let bytes = std::mem::take(&mut self.bytes);
        let mut rest = &bytes[..];
        let mut keys = Vec::new();
        loop {
            let error = match std::str::from_utf8(rest) {
                Ok(text) => {
                    keys.extend(text.chars().filter_map(|char| self.key(char)));
                    return keys;
                }
                Err(error) => error,
            };
            let (valid, after) = rest.split_at(error.valid_up_to());
            let text = String::from_utf8_lossy(valid);
            keys.extend(text.chars().filter_map(|char| self.key(char)));
            let Some(length) = error.error_len() else {
                self.bytes = after.to_vec();
                return keys;
            };
            keys.extend(self.key(char::REPLACEMENT_CHARACTER));
            rest = &after[length..];
        }
    }

    fn key(&mut self, char: char) -> Option<Key> {
        let returned = std::mem::take(&mut self.returned);
        match std::mem::take(&mut self.state) {
            State::Escape => match char {
                '[' | 'O' => {
                    self.state = State::Sequence(String::new());
                    None
                }
                _ if self.pasting => self.pasted(char, returned),
                'b' => Some(Key::WordLeft),
                'f' => Some(Key::WordRight),
                'd' => Some(Key::EraseNextWord),
                '\x7f' => Some(Key::EraseWord),
                // The Escape key on its own means nothing.
                _ => self.plain(char),
            },
            State::Sequence(sequence) if !char.is_control() => self.sequence(sequence, char),
            _ if self.pasting => self.pasted(char, returned),
            _ => self.plain(char),
        }
    }

    fn plain(&mut self, char: char) -> Option<Key> {
        Some(match char {
            '\r' | '\n' => Key::Enter,
            '\t' => Key::Tab,
            '\x08' | '\x7f' => Key::Backspace,
            '\x01' => Key::Home,
            '\x02' => Key::Left,
            '\x03' => Key::Interrupt,
            '\x04' => Key::EndOfFile,
            '\x05' => Key::End,
            '\x06' => Key::Right,
            '\x0b' => Key::EraseToEnd,
            '\x0c' => Key::Redraw,
            '\x0e' => Key::Down,
            '\x10' => Key::Up,
            '\x15' => Key::EraseToStart,
            '\x17' => Key::EraseWord,
            '\x19' => Key::Yank,
            '\x1a' => Key::Suspend,
            '\x1b' => {
                self.state = State::Escape;
                return None;
            }
            _ if char.is_control() => return None,
            _ => Key::Char(char),
        })
    }

    /// Pasted text triggers nothing: none of its lines is sent before the user has seen it, and other
    /// control characters are dropped. Only Ctrl-C keeps its meaning, in case the end of the paste
    /// never arrives.
    fn pasted(&mut self, char: char, returned: bool) -> Option<Key> {
        match char {
            '\n' if returned => None,
            '\r' => {
                self.returned = true;
                Some(Key::Char('\n'))
            }
            '\n' | '\t' => Some(Key::Char(char)),
            '\x03' | '\x1b' => self.plain(char),
            _ if char.is_control() => None,
            _ => Some(Key::Char(char)),
        }
    }

    fn sequence(&mut self, mut sequence: String, char: char) -> Option<Key> {
        sequence.push(char);
        // The Linux console's function keys begin with a second bracket.
        if !matches!(char, '\x40'..='\x7e') || sequence == "[" {
            if sequence.len() < MAX_SEQUENCE {
                self.state = State::Sequence(sequence);
            }
            return None;
        }
        match sequence.as_str() {
            "200~" => self.pasting = true,
            "201~" => self.pasting = false,
            _ if self.pasting => {}
            _ => return named(&sequence),
        }
        None
    }
}

/// The key that sends this sequence after `ESC [` or `ESC O`.
fn named(sequence: &str) -> Option<Key> {
    Some(match sequence {
        "A" => Key::Up,
        "B" => Key::Down,
        "C" => Key::Right,
        "D" => Key::Left,
        "H" | "1~" | "7~" => Key::Home,
        "F" | "4~" | "8~" => Key::End,
        "3~" => Key::Delete,
        "M" => Key::Enter,
        "1;5C" | "1;3C" | "5C" => Key::WordRight,
        "1;5D" | "1;3D" | "5D" => Key::WordLeft,
        _ => return None,
    })
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

    #[test]
    fn characters_and_control_keys_are_decoded() {
        assert_eq!(decode("h\u{e9} \u{1f600}".as_bytes()), typed("h\u{e9} \u{1f600}"));
        assert_eq!(decode(b"a\xffb\xe2\x28"), typed("a\u{fffd}b\u{fffd}("));
        assert_eq!(
            decode(b"\r\n\t\x7f\x08"),
            [Key::Enter, Key::Enter, Key::Tab, Key::Backspace, Key::Backspace]
        );
        assert_eq!(decode(b"\x03\x04\x1a"), [Key::Interrupt, Key::EndOfFile, Key::Suspend]);
        assert_eq!(decode(b"\0\x1c\x1d"), []);
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
            ("\x1bb", Key::WordLeft),
            ("\x1b\x7f", Key::EraseWord),
            ("\x1b\x1b[D", Key::Left),
        ] {
            assert_eq!(decode(bytes.as_bytes()), [key], "{bytes:?}");
        }
    }

    #[test]
    fn unknown_sequences_end_and_do_nothing() {
        for bytes in ["\x1b[5~", "\x1b[[A", "\x1b[<0;1;1M", "\x1b[?1;2c", "\x1bx\x7f\x1b"] {
            let keys = decode(format!("{bytes}x").as_bytes());
            assert_eq!(keys.last(), Some(&Key::Char('x')), "{bytes:?}");
        }
        // A control key ends a sequence, and no sequence goes on forever.
        assert_eq!(decode(b"\x1b[1\x03"), [Key::Interrupt]);
        assert_eq!(decode(format!("\x1b[{}x", "1".repeat(MAX_SEQUENCE)).as_bytes()), typed("x"));
    }

    #[test]
    fn pasted_text_triggers_nothing() {
        let paste = "\x1b[200~a\r\nb\rc\n\x01\x04\t\x1b[31md\x1b[Ae\x1b[201~\x01";
        let mut expected = typed("a\nb\nc\n\tde");
        expected.push(Key::Home);
        assert_eq!(decode(paste.as_bytes()), expected);
        assert_eq!(decode(b"\x1b[200~a\x03"), [Key::Char('a'), Key::Interrupt]);
    }
}
