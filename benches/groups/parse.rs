//! The protocol alone: bytes to lines to batches, with no socket and no thread. Its floor takes
//! the same bytes over and looks for line ends.

use std::hint::black_box;
use std::time::Instant;

use criterion::{Criterion, Throughput};

use super::begin;
use crate::batch::BatchBuilder;
use crate::framing::LineBuffer;
use crate::load::protocol::Protocol;
use crate::load::table::{Kind, Sample, Side, Table};
use crate::protocol::Name;

/// How much of it there is, in bytes and about: as much as a reader reads at a time.
const INPUT: usize = 64 * 1024;

/// The longest line, in bytes.
const MAX_LINE: usize = 64 * 1024;

pub fn parse(criterion: &mut Criterion, table: &mut Table) {
    // A run of lines to one recipient is cheaper than lines that all go to different ones.
    for (row, recipients, size) in
        [("run_x32", 1, 32), ("run_x512", 1, 512), ("scattered_x32", 100, 32)]
    {
        let input = input(recipients, size);
        let bytes = input.len() as u64;
        let mut group = begin(criterion, "parse", 0);
        group.throughput(Throughput::Bytes(bytes));
        for (side, name) in [(Side::Server, "a-chat"), (Side::Floor, "floor")] {
            let mut parser = Parser::new();
            let mut copy = Vec::new();
            group.bench_function(format!("{row}/{name}"), |bencher| {
                bencher.iter_custom(|rounds| {
                    let started = Instant::now();
                    for _ in 0..rounds {
                        match side {
                            Side::Server => parser.take(&input),
                            Side::Floor => count_lines(&input, &mut copy),
                        }
                    }
                    let mut sample = Sample::time(started.elapsed());
                    sample.count = rounds * bytes;
                    table.add(&format!("parse/{row}"), Kind::Bytes, side, sample);
                    sample.elapsed
                });
            });
        }
        group.finish();
    }
}

/// As many lines as fit, to each recipient in turn.
fn input(recipients: usize, size: usize) -> Vec<u8> {
    let line = |to: usize| Protocol::Chat.line("c00", &[&format!("c{to:02}")], size).bytes;
    let lines: Vec<u8> = (0..recipients).flat_map(line).collect();
    lines.repeat(INPUT / lines.len())
}

struct Parser {
    lines: LineBuffer,
    builder: BatchBuilder,
}

impl Parser {
    fn new() -> Self {
        let name = Name::new(b"c00").expect("a valid name");
        Self { lines: LineBuffer::new(MAX_LINE), builder: BatchBuilder::new(&name, MAX_LINE) }
    }

    /// What a reader does with its input.
    fn take(&mut self, input: &[u8]) {
        let mut rest = input;
        while !rest.is_empty() {
            let space = self.lines.space();
            let count = space.len().min(rest.len());
            let (now, later) = rest.split_at(count);
            space[..count].copy_from_slice(now);
            self.lines.advance(count);
            rest = later;
            while let Some(line) = self.lines.next_line() {
                self.builder.push(line);
                let run = self.builder.push_run(self.lines.good_lines(), usize::MAX, usize::MAX);
                self.lines.skip(run);
            }
        }
        black_box(self.builder.finish());
    }
}

fn count_lines(input: &[u8], copy: &mut Vec<u8>) {
    copy.clear();
    copy.extend_from_slice(input);
    black_box(memchr::memchr_iter(b'\n', copy).count());
}
