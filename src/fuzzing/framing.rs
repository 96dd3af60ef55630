//! Streams to lines: the framing of a stream that arrives in any pieces.

use super::{Step, model, steps};
use crate::wire::framing::{Line, LineBuffer};

/// The connection is idle, and the buffer releases its memory.
const IDLE: u8 = 0xFF;

/// Switches between taking lines in runs, as from a busy client, and one by one.
const RUNS: u8 = 0xFE;

/// Checks the framing: the first byte of the input is the line limit; each piece of data is one
/// read.
///
/// # Panics
///
/// If the lines differ from those of the whole stream split at once.
pub fn framing(input: &[u8]) {
    let Some((&limit, input)) = input.split_first() else { return };
    let max_line = 1 + usize::from(limit);
    let mut buffer = LineBuffer::new(max_line);
    let (mut stream, mut seen, mut in_runs) = (Vec::new(), Vec::new(), false);
    for step in steps(input) {
        match step {
            Step::Data(data) => {
                stream.extend_from_slice(data);
                read(&mut buffer, data, |buffer| {
                    take_lines(buffer, in_runs.then_some(max_line), &mut seen);
                });
            }
            Step::Sign(IDLE) => buffer.shrink(),
            Step::Sign(RUNS) => in_runs = !in_runs,
            // Ends a read, and does nothing else.
            Step::Sign(_) => {}
        }
        check_partial(&buffer, &stream, max_line);
    }
    let (lines, _) = model::lines(&stream);
    let expected: Vec<_> = lines.into_iter().map(|line| expected(line, max_line)).collect();
    assert_eq!(seen, expected);
}

/// Puts data into a buffer, in as many reads as it asks for, and calls `take` after each.
pub(super) fn read(buffer: &mut LineBuffer, data: &[u8], mut take: impl FnMut(&mut LineBuffer)) {
    let mut rest = data;
    while !rest.is_empty() {
        let spare = buffer.spare();
        let (now, later) = rest.split_at(spare.len().min(rest.len()));
        spare[..now.len()].copy_from_slice(now);
        buffer.advance(now.len());
        rest = later;
        take(buffer);
    }
}

/// Takes all lines, and those of up to `runs` bytes as a run.
fn take_lines(buffer: &mut LineBuffer, runs: Option<usize>, seen: &mut Vec<String>) {
    while let Some(line) = buffer.next_line() {
        seen.push(render(line));
        if let Some(longest) = runs {
            let run = buffer.valid_lines();
            let mut taken = 0;
            for line in run.split_inclusive(|byte| *byte == b'\n') {
                let (lines, rest) = model::lines(line);
                assert_eq!((lines.len(), rest), (1, b"".as_slice()), "complete lines only");
                if lines[0].len() > longest {
                    break;
                }
                seen.push(render(Line::Text(lines[0])));
                taken += line.len();
            }
            buffer.consume(taken);
        }
    }
}

fn expected(line: &[u8], max_line: usize) -> String {
    render(if line.len() > max_line {
        Line::TooLong
    } else if std::str::from_utf8(line).is_err() {
        Line::NotUtf8
    } else {
        Line::Text(line)
    })
}

fn render(line: Line<'_>) -> String {
    match line {
        Line::Text(text) => text.escape_ascii().to_string(),
        Line::NotUtf8 => "(not UTF-8)".to_owned(),
        Line::TooLong => "(too long)".to_owned(),
    }
}

/// An incomplete line is kept completely, or known to be too long.
fn check_partial(buffer: &LineBuffer, stream: &[u8], max_line: usize) {
    let (_, rest) = model::lines(stream);
    let partial_len = buffer.partial_len();
    let is_skipped = rest.len() > max_line + 1 && partial_len == usize::MAX;
    assert!(partial_len == rest.len() || is_skipped, "{partial_len} of {}", rest.len());
}
