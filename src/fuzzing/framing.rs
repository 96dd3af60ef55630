//! Streams to lines: what the framing makes of a stream that comes in any portions.

use super::{Step, model, steps};
use crate::wire::framing::{Line, LineBuffer};

/// The connection was idle, and the buffer gives its memory back.
const IDLE: u8 = 0xFF;

/// From here on lines are taken in runs, as from a client that sends many of them, or no more.
const RUNS: u8 = 0xFE;

/// Checks the framing: the first byte of the input is the line limit, data is what one read brings.
///
/// # Panics
///
/// If the lines are not those of the whole stream at once.
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
            // Only ends a read.
            Step::Sign(_) => {}
        }
        check_unfinished(&buffer, &stream, max_line);
    }
    let (lines, _) = model::lines(&stream);
    let expected: Vec<_> = lines.into_iter().map(|line| expected(line, max_line)).collect();
    assert_eq!(seen, expected);
}

/// Puts data into a buffer, in as many reads as it asks for, and lets its lines be taken each time.
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

/// Takes all lines, those of up to `runs` bytes that follow each other by the run.
fn take_lines(buffer: &mut LineBuffer, runs: Option<usize>, seen: &mut Vec<String>) {
    while let Some(line) = buffer.next_line() {
        seen.push(spelled_out(line));
        if let Some(longest) = runs {
            let run = buffer.valid_lines();
            let mut taken = 0;
            for line in run.split_inclusive(|byte| *byte == b'\n') {
                let (lines, rest) = model::lines(line);
                assert_eq!((lines.len(), rest), (1, b"".as_slice()), "complete lines only");
                if lines[0].len() > longest {
                    break;
                }
                seen.push(spelled_out(Line::Text(lines[0])));
                taken += line.len();
            }
            buffer.consume(taken);
        }
    }
}

fn expected(line: &[u8], max_line: usize) -> String {
    spelled_out(if line.len() > max_line {
        Line::TooLong
    } else if std::str::from_utf8(line).is_err() {
        Line::NotUtf8
    } else {
        Line::Text(line)
    })
}

fn spelled_out(line: Line<'_>) -> String {
    match line {
        Line::Text(text) => text.escape_ascii().to_string(),
        Line::NotUtf8 => "(not UTF-8)".to_owned(),
        Line::TooLong => "(too long)".to_owned(),
    }
}

/// Of a line that came in part, all is still there, or it is known to be too long.
fn check_unfinished(buffer: &LineBuffer, stream: &[u8], max_line: usize) {
    let (_, rest) = model::lines(stream);
    let partial_len = buffer.partial_len();
    let is_skipped = rest.len() > max_line + 1 && partial_len == usize::MAX;
    assert!(partial_len == rest.len() || is_skipped, "{partial_len} of {}", rest.len());
}
