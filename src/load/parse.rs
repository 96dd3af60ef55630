//! The server's protocol alone: bytes to lines to batches, with no socket and no thread.

use crate::Name;
use crate::wire::batch::BatchBuilder;
use crate::wire::framing::LineBuffer;

/// What a reader of the server does with its input.
#[derive(Debug)]
pub struct Parser {
    lines: LineBuffer,
    builder: BatchBuilder,
}

impl Parser {
    /// The parser of a client's lines, which may be so long.
    pub fn new(name: &Name, max_line: usize) -> Self {
        Self { lines: LineBuffer::new(max_line), builder: BatchBuilder::new(name, max_line) }
    }

    /// Takes what a read has brought, and throws the batch away.
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
                self.builder.push(line);
                let run = self.builder.push_run(self.lines.valid_lines(), usize::MAX, usize::MAX);
                self.lines.consume(run);
            }
        }
        std::hint::black_box(self.builder.finish());
    }
}
