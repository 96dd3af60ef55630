//! Cuts a stream into blocks of complete lines. Plain state, owned by the thread that reads the
//! stream.

use std::io::{self, Read};

use crate::wire::framing::MAX_LINE_CEILING;

/// How many bytes one read takes at most.
const READ_CHUNK: usize = 64 * 1024;

/// The maximum length of a line in bytes: the highest limit that a server can have, and the sender's
/// name before it.
const MAX_LINE_BYTES: usize = MAX_LINE_CEILING + READ_CHUNK;

/// Reads a stream in blocks of complete lines, as many as one read returns.
///
/// ```
/// use a_chat::client::LineBlocks;
///
/// let mut blocks = LineBlocks::new(&b"one\ntwo\nthr"[..]);
/// assert_eq!(blocks.next_block()?, Some(&b"one\ntwo\n"[..]));
/// assert_eq!(blocks.next_block()?, None);
/// assert_eq!(blocks.unfinished(), b"thr");
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct LineBlocks<R> {
    source: R,
    /// All of it is initialised; `start..end` was read and is in no block yet.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl<R: Read> LineBlocks<R> {
    /// Blocks of this stream.
    pub fn new(source: R) -> Self {
        Self { source, buffer: Vec::new(), start: 0, end: 0 }
    }

    /// Waits for more complete lines; `None` at the end of the stream. Each block ends with a line
    /// end.
    ///
    /// # Errors
    ///
    /// Fails as the source does, and with [`io::ErrorKind::InvalidData`] if a line is longer than
    /// any server accepts, 64 MiB and a little.
    pub fn next_block(&mut self) -> io::Result<Option<&[u8]>> {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        loop {
            if self.buffer.len() - self.end < READ_CHUNK {
                // Doubles, since a long line may come in many small pieces.
                let longer = (2 * self.buffer.len()).max(self.end + READ_CHUNK);
                self.buffer.resize(longer, 0);
            }
            let limit = self.end + READ_CHUNK;
            let count = match self.source.read(&mut self.buffer[self.end..limit]) {
                Ok(0) => return Ok(None),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let new = self.end..self.end + count;
            self.end = new.end;
            if let Some(last) = memchr::memrchr(b'\n', &self.buffer[new.clone()]) {
                self.start = new.start + last + 1;
                return Ok(Some(&self.buffer[..self.start]));
            }
            if self.end > MAX_LINE_BYTES {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a line without an end"));
            }
        }
    }

    /// The beginning of a line without its end.
    pub fn unfinished(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Returns its bytes in pieces of these sizes.
    struct Pieces<'a> {
        bytes: &'a [u8],
        sizes: std::slice::Iter<'a, usize>,
    }

    impl Read for Pieces<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let size = self.sizes.next().copied().unwrap_or(usize::MAX);
            let size = size.min(self.bytes.len()).min(buffer.len());
            self.bytes.read(&mut buffer[..size])
        }
    }

    #[test]
    fn a_line_without_an_end_takes_bounded_memory() {
        let mut blocks = LineBlocks::new(io::repeat(b'x'));
        let error = blocks.next_block().expect_err("no line can be that long");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(blocks.buffer.len() <= 2 * MAX_LINE_BYTES);
    }

    proptest! {
        #[test]
        fn any_split_yields_all_lines_in_whole_blocks(
            input in proptest::collection::vec(prop_oneof![3 => Just(b'x'), 1 => Just(b'\n')], 0..300),
            sizes in proptest::collection::vec(1_usize..60, 0..40),
        ) {
            let mut blocks = LineBlocks::new(Pieces { bytes: &input, sizes: sizes.iter() });
            let mut seen = Vec::new();
            while let Some(block) = blocks.next_block().expect("it never fails") {
                prop_assert!(block.ends_with(b"\n"));
                seen.extend_from_slice(block);
            }
            prop_assert!(!blocks.unfinished().contains(&b'\n'));
            seen.extend_from_slice(blocks.unfinished());
            prop_assert_eq!(seen, input);
        }
    }
}
