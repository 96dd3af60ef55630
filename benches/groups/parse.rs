//! The protocol on its own: bytes to lines to batches, without sockets or threads. Its baseline
//! copies the same bytes and looks for line ends.

use std::hint::black_box;
use std::time::Instant;

use a_chat::Name;
use a_chat::load::parse::Parser;
use a_chat::load::protocol::Protocol;
use criterion::{Criterion, Throughput};

use super::start_group;
use crate::rig::table::{Kind, Sample, Side, Table};

/// Approximate input, in bytes: the size of a reader's read.
const INPUT: usize = 64 * 1024;

/// The longest line, in bytes.
const MAX_LINE: usize = 64 * 1024;

pub fn parse(criterion: &mut Criterion, table: &mut Table) {
    // A run of lines to one recipient is cheaper than lines to changing recipients.
    for (row, recipients, size) in
        [("run_x32", 1, 32), ("run_x512", 1, 512), ("scattered_x32", 100, 32)]
    {
        let input = input(recipients, size);
        let bytes = input.len() as u64;
        let mut group = start_group(criterion, "parse", 0);
        group.throughput(Throughput::Bytes(bytes));
        for (side, name) in [(Side::Server, "a-chat"), (Side::Baseline, "baseline")] {
            let mut parser = Parser::new(&Name::new(b"c00").expect("a name"), MAX_LINE);
            let mut copy = Vec::new();
            group.bench_function(format!("{row}/{name}"), |bencher| {
                bencher.iter_custom(|rounds| {
                    let started = Instant::now();
                    for _ in 0..rounds {
                        match side {
                            Side::Server => parser.take(&input),
                            Side::Baseline => count_lines(&input, &mut copy),
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

fn count_lines(input: &[u8], copy: &mut Vec<u8>) {
    copy.clear();
    copy.extend_from_slice(input);
    black_box(memchr::memchr_iter(b'\n', copy).count());
}
