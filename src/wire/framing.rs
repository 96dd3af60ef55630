//! Splits a byte stream into lines. Pure state, owned by the reader; nothing here blocks or fails.
//!
//! UTF-8 is validated once for all complete lines of a read, since a line end cannot occur inside a
//! character. Only if that fails is each line validated on its own.

use crate::wire::token::wipe;

/// The maximum number of bytes for one read. Larger reads did not increase throughput.
const READ_CHUNK: usize = 64 * 1024;

/// The initial buffer size of a new connection, in bytes: enough for a login and a chat line, so an
/// idle client costs little more than its threads.
const FIRST_CHUNK: usize = 128;

/// The upper bound on a configured line limit, in bytes: offsets in a batch are 32 bits wide.
pub(crate) const MAX_LINE_CEILING: usize = 64 * 1024 * 1024;

/// One line as received, without its line end (`\n` or `\r\n`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Line<'a> {
    /// A line that is UTF-8 and within the limit.
    Text(&'a [u8]),
    /// A line within the limit that is not UTF-8.
    NotUtf8,
    /// A line over the limit. Its bytes were discarded.
    TooLong,
}

impl<'a> Line<'a> {
    /// The line's text, if it is valid.
    pub(crate) fn text(self) -> Option<&'a [u8]> {
        match self {
            Self::Text(text) => Some(text),
            Self::NotUtf8 | Self::TooLong => None,
        }
    }
}

/// A growing read buffer that yields complete lines.
///
/// Fill it through [`spare`](Self::spare) and [`advance`](Self::advance), then call
/// [`next_line`](Self::next_line) until it returns `None`.
#[derive(Debug)]
pub(crate) struct LineBuffer {
    /// Fully initialised; `start..end` is input that has not been consumed.
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    /// `start..lines_end` holds only complete lines; `lines_utf8` is true if all of them are UTF-8.
    lines_end: usize,
    lines_utf8: bool,
    /// No line end lies between `lines_end` and here, so a long line arriving in small reads is
    /// searched only once.
    searched: usize,
    /// The line at `start` is over the limit, and its bytes so far were discarded.
    skipping: bool,
    max_line: usize,
}

impl LineBuffer {
    /// An empty buffer for lines of up to `max_line` bytes, not counting the line end.
    pub(crate) fn new(max_line: usize) -> Self {
        Self {
            bytes: Vec::new(),
            start: 0,
            end: 0,
            lines_end: 0,
            lines_utf8: true,
            searched: 0,
            skipping: false,
            max_line,
        }
    }

    /// Space for the next read, never empty. Call it only after consuming all complete lines.
    ///
    /// The buffer doubles each time a read fills it, until it has room for `READ_CHUNK`.
    pub(crate) fn spare(&mut self) -> &mut [u8] {
        debug_assert_eq!(
            self.start, self.lines_end,
            "complete lines are taken before more is read"
        );
        let was_filled = self.end == self.bytes.len();
        if self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.searched -= self.start;
            (self.start, self.lines_end) = (0, 0);
        }
        if was_filled && self.bytes.len() - self.end < READ_CHUNK {
            let more = self.bytes.len().clamp(FIRST_CHUNK, READ_CHUNK);
            self.bytes.resize(self.bytes.len() + more, 0);
        }
        let limit = self.bytes.len().min(self.end + READ_CHUNK);
        &mut self.bytes[self.end..limit]
    }

    /// Marks the first `count` bytes of [`spare`](Self::spare) as input.
    pub(crate) fn advance(&mut self, count: usize) {
        self.end += count;
        match memchr::memrchr(b'\n', &self.bytes[self.searched..self.end]) {
            Some(last) => {
                self.lines_end = self.searched + last + 1;
                let lines = &self.bytes[self.start..self.lines_end];
                self.lines_utf8 = simdutf8::basic::from_utf8(lines).is_ok();
            }
            // One byte over the limit may be the `\r` of a line end; two cannot.
            None if self.end - self.start > self.max_line + 1 => {
                self.skipping = true;
                (self.start, self.end, self.lines_end) = (0, 0, 0);
            }
            None => {}
        }
        self.searched = self.end;
    }

    /// The next complete line, or `None` if there is none yet.
    pub(crate) fn next_line(&mut self) -> Option<Line<'_>> {
        let lines = &self.bytes[self.start..self.lines_end];
        let length = memchr::memchr(b'\n', lines)?;
        self.start += length + 1;
        let line = lines[..length].strip_suffix(b"\r").unwrap_or(&lines[..length]);
        if std::mem::take(&mut self.skipping) || line.len() > self.max_line {
            return Some(Line::TooLong);
        }
        if self.lines_utf8 || simdutf8::basic::from_utf8(line).is_ok() {
            Some(Line::Text(line))
        } else {
            Some(Line::NotUtf8)
        }
    }

    /// All complete lines that were not consumed yet, including line ends, or nothing if any of
    /// them is invalid: the fast path for a caller that takes many lines at once and then calls
    /// [`consume`](Self::consume).
    pub(crate) fn valid_lines(&self) -> &[u8] {
        let end = if self.lines_utf8 && !self.skipping { self.lines_end } else { self.start };
        &self.bytes[self.start..end]
    }

    /// Consumes whole lines of `count` bytes in total, including line ends.
    pub(crate) fn consume(&mut self, count: usize) {
        self.start += count;
    }

    /// The partial line in the buffer; empty if that line is already over the limit.
    pub(crate) fn partial(&self) -> &[u8] {
        if self.skipping { &[] } else { &self.bytes[self.lines_end..self.end] }
    }

    /// The length of the partial line in the buffer, or `usize::MAX` if that line is already over
    /// the limit. Call it only after consuming all complete lines.
    pub(crate) fn partial_len(&self) -> usize {
        if self.skipping { usize::MAX } else { self.end - self.lines_end }
    }

    /// Overwrites the lines that were taken since the last read: they held a secret.
    pub(crate) fn wipe_taken(&mut self) {
        wipe(&mut self.bytes[..self.start]);
    }

    /// True if [`shrink`](Self::shrink) would free a worthwhile amount of memory.
    pub(crate) fn is_large(&self) -> bool {
        let unread = self.end - self.start;
        self.bytes.capacity() > FIRST_CHUNK.max(2 * unread)
    }

    /// Frees the memory that a burst of input has used, except for a line that it left unfinished.
    /// Call it when the client is idle.
    pub(crate) fn shrink(&mut self) {
        self.bytes = self.bytes[self.start..self.end].to_vec();
        self.lines_end -= self.start;
        self.searched -= self.start;
        (self.start, self.end) = (0, self.bytes.len());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAX_LINE: usize = 40;

    /// Feeds `input` in chunks of the given sizes; returns each line and the length of the partial
    /// one.
    fn lines_of(input: &[u8], chunks: &[usize]) -> (Vec<String>, usize) {
        let mut buffer = LineBuffer::new(MAX_LINE);
        let (mut seen, mut rest) = (Vec::new(), input);
        let mut sizes = chunks.iter().copied().chain(std::iter::repeat(usize::MAX));
        while !rest.is_empty() {
            let spare = buffer.spare();
            let size = sizes.next().unwrap_or(1).clamp(1, rest.len().min(spare.len()));
            spare[..size].copy_from_slice(&rest[..size]);
            buffer.advance(size);
            rest = &rest[size..];
            while let Some(line) = buffer.next_line() {
                seen.push(format!("{line:?}"));
            }
        }
        (seen, buffer.partial_len())
    }

    /// The specification in its plainest form: the whole input at once, without a buffer.
    fn model(input: &[u8]) -> Vec<String> {
        let mut lines: Vec<&[u8]> = input.split(|&byte| byte == b'\n').collect();
        lines.pop();
        let line = |line: &&[u8]| {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let read = match std::str::from_utf8(line) {
                _ if line.len() > MAX_LINE => Line::TooLong,
                Ok(_) => Line::Text(line),
                Err(_) => Line::NotUtf8,
            };
            format!("{read:?}")
        };
        lines.iter().map(line).collect()
    }

    #[test]
    fn a_line_at_the_limit_passes_and_one_over_does_not() {
        for (line_end, chunks) in [("\n", 1), ("\r\n", 1), ("\n", 7), ("\r\n", 41)] {
            let fits = "x".repeat(MAX_LINE) + line_end;
            let over = "x".repeat(MAX_LINE + 1) + line_end;
            let input = format!("{fits}{over}{fits}");
            let (seen, partial_len) = lines_of(input.as_bytes(), &[chunks; 200]);
            assert_eq!(seen, model(input.as_bytes()));
            assert_eq!(seen[1], "TooLong");
            assert_eq!(partial_len, 0);
        }
    }

    #[test]
    fn an_endless_line_uses_bounded_memory() {
        let mut buffer = LineBuffer::new(MAX_LINE);
        for _ in 0..10_000 {
            let spare = buffer.spare();
            let size = spare.len();
            spare.fill(b'x');
            buffer.advance(size);
            assert!(buffer.next_line().is_none());
            assert!(buffer.bytes.len() <= 2 * READ_CHUNK);
        }
        assert_eq!(buffer.partial_len(), usize::MAX);
    }

    #[test]
    fn a_line_that_held_a_secret_is_overwritten_and_what_follows_stays() {
        let mut buffer = LineBuffer::new(MAX_LINE);
        buffer.spare()[..19].copy_from_slice(b"alice secret\nbob: x");
        buffer.advance(19);
        assert_eq!(buffer.next_line(), Some(Line::Text(b"alice secret")));
        buffer.wipe_taken();
        assert_eq!(buffer.bytes[..13], [0; 13]);
        assert_eq!(buffer.partial(), b"bob: x");
        buffer.spare()[..1].copy_from_slice(b"\n");
        buffer.advance(1);
        assert_eq!(buffer.next_line(), Some(Line::Text(b"bob: x")));
    }

    #[test]
    fn a_shrunk_buffer_frees_its_memory_and_still_works() {
        let mut buffer = LineBuffer::new(MAX_LINE);
        buffer.spare()[..3].copy_from_slice(b"ab\n");
        buffer.advance(3);
        assert_eq!(buffer.next_line(), Some(Line::Text(b"ab")));
        buffer.shrink();
        assert_eq!(buffer.bytes.capacity(), 0);
        buffer.spare()[..3].copy_from_slice(b"cd\n");
        buffer.advance(3);
        assert_eq!(buffer.next_line(), Some(Line::Text(b"cd")));
    }

    #[test]
    fn a_shrunk_buffer_keeps_no_more_than_an_unfinished_line() {
        let mut buffer = LineBuffer::new(MAX_LINE);
        while buffer.bytes.len() < READ_CHUNK {
            let spare = buffer.spare();
            let length = spare.len();
            spare.fill(b'\n');
            buffer.advance(length);
            while buffer.next_line().is_some() {}
        }
        buffer.spare()[..5].copy_from_slice(b"\nabcd");
        buffer.advance(5);
        assert_eq!(buffer.next_line(), Some(Line::Text(b"")));
        assert!(buffer.is_large());
        buffer.shrink();
        assert!(!buffer.is_large());
        assert_eq!((buffer.bytes.capacity(), buffer.partial_len()), (4, 4));
        buffer.spare()[..2].copy_from_slice(b"e\n");
        buffer.advance(2);
        assert_eq!(buffer.next_line(), Some(Line::Text(b"abcde")));
        assert_eq!(buffer.next_line(), None);
    }

    proptest! {
        /// As a reader does when its client pauses, wherever in a line that is.
        #[test]
        fn shrinking_between_reads_changes_no_line(
            input in proptest::collection::vec(
                prop_oneof![6 => Just(b'x'), 1 => Just(b'\n'), 1 => Just(b'\r')],
                0..600,
            ),
            chunks in proptest::collection::vec((1_usize..90, any::<bool>()), 1..60),
        ) {
            let (mut buffer, mut lines, mut rest) =
                (LineBuffer::new(MAX_LINE), Vec::new(), input.as_slice());
            for (chunk, pauses) in chunks.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                if *pauses {
                    buffer.shrink();
                }
                let spare = buffer.spare();
                let count = (*chunk).min(rest.len()).min(spare.len());
                spare[..count].copy_from_slice(&rest[..count]);
                buffer.advance(count);
                rest = &rest[count..];
                while let Some(line) = buffer.next_line() {
                    lines.push(format!("{line:?}"));
                }
            }
            prop_assert_eq!(lines, model(&input));
        }

        #[test]
        fn any_split_gives_the_same_lines(
            input in proptest::collection::vec(
                prop_oneof![4 => Just(b'x'), 1 => Just(b'\n'), 1 => Just(b'\r'), 1 => any::<u8>()],
                0..600,
            ),
            chunks in proptest::collection::vec(1_usize..90, 0..60),
        ) {
            prop_assert_eq!(lines_of(&input, &chunks).0, model(&input));
        }
    }
}
