//! The server's protocol on its own: bytes to lines to batches, without sockets or threads.

use crate::Name;
use crate::wire::batch::BatchBuilder;
use crate::wire::framing::LineBuffer;

/// The parsing half of the server's reader.
#[derive(Debug)]
pub struct Parser {
    lines: LineBuffer,
    builder: BatchBuilder,
}

impl Parser {
    /// A parser for a client's lines of at most this many bytes.
    pub fn new(name: &Name, max_line: usize) -> Self {
        Self { lines: LineBuffer::new(max_line), builder: BatchBuilder::new(name, max_line) }
    }

    /// Parses the result of one read and discards the batch.
    pub fn take(&mut self, input: &[u8]) {
        let mut rest = input;
        while !rest.is_empty() {
            let spare = self.lines.spare();
            let count = spare.len().min(rest.len());
            let (now, later) = rest.split_at(count);
            spare[..count].copy_from_slice(now);
            self.lines.advance(count);
            rest = later;
            while let Some(line) = self.lines.next_line() {
                // One that enters a room is discarded, too.
                drop(self.builder.push(line));
                let run = self.builder.push_run(self.lines.valid_lines(), usize::MAX, usize::MAX);
                self.lines.consume(run);
            }
        }
        std::hint::black_box(self.builder.finish());
    }
}
