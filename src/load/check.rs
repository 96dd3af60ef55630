//! Checks what arrives: every message must be its sender's next one. Pure: bytes in, counts out.

use std::ops::Range;

use super::Error;
use super::protocol::{Frame, NUMBERS, Protocol, decode_bits, encode_bits, read_stamp};
use crate::wire::protocol::{NOTICE, accepted_in_closing_notice};
use crate::wire::reasons::ERROR;

/// Maximum gaps remembered per recipient. Beyond that, a late message cannot be told from a
/// repeated one.
const MAX_GAPS: usize = 1 << 16;

/// A message that arrived for the first time.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// The message's sender.
    pub sender: usize,
    /// How many messages of this sender the arrival settles: itself and any it skipped, or none if
    /// it had been skipped earlier.
    pub advance: u32,
    /// The text, including its line end.
    pub text: &'a [u8],
}

/// What arrived at one recipient, or at several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Messages, each counted once.
    pub received: u64,
    /// Messages overtaken by later ones that have not arrived.
    pub missing: u64,
    /// Messages that arrived after later ones.
    pub reordered: u64,
    /// Messages that arrived again.
    pub repeated: u64,
}

impl Counts {
    /// The sum of this and another recipient's counts.
    pub(super) fn merge(self, other: Self) -> Self {
        Self {
            received: self.received + other.received,
            missing: self.missing + other.missing,
            reordered: self.reordered + other.reordered,
            repeated: self.repeated + other.repeated,
        }
    }

    /// The growth since an earlier count.
    pub(super) fn delta(self, before: Self) -> Self {
        Self {
            received: self.received - before.received,
            missing: self.missing.saturating_sub(before.missing),
            reordered: self.reordered - before.reordered,
            repeated: self.repeated - before.repeated,
        }
    }
}

/// Checks one recipient's input: every message must be its sender's next one.
#[derive(Debug)]
pub struct SequenceChecker {
    pub(super) frame: Frame,
    first_byte: u8,
    interlude: &'static [u8],
    /// The first sender.
    first: usize,
    /// The expected number of each sender's next message.
    next: Vec<u32>,
    gaps: Vec<Gap>,
    /// What arrived so far.
    pub counts: Counts,
}

/// A range of one sender's numbers that has not arrived.
#[derive(Clone, Copy, Debug)]
struct Gap {
    sender: usize,
    first: u32,
    count: u32,
}

/// What was found where the next message was expected.
enum Found<'a> {
    /// A message out of order: its sender and how many messages it settles, `None` if repeated.
    Message(usize, Option<u32>),
    /// Something that may stand between messages, and the bytes behind it.
    Interlude(&'a [u8]),
    /// The beginning of a line.
    Partial,
}

impl SequenceChecker {
    /// A checker for messages from these senders, none of which has arrived.
    pub fn new(protocol: Protocol, frame: Frame, senders: Range<usize>) -> Self {
        Self {
            frame,
            first_byte: protocol.first_byte(),
            interlude: protocol.interlude(),
            first: senders.start,
            next: vec![0; senders.len()],
            gaps: Vec::new(),
            counts: Counts::default(),
        }
    }

    /// Checks all complete messages, calls `arrived` for each, and returns the remaining bytes.
    ///
    /// # Errors
    ///
    /// If the bytes contain anything but messages.
    pub fn walk<'a>(
        &mut self,
        bytes: &'a [u8],
        mut arrived: impl FnMut(Arrival<'_>),
    ) -> Result<&'a [u8], Error> {
        let mut rest = bytes;
        while rest.len() >= self.frame.stride {
            let (frame, after) = rest.split_at(self.frame.stride);
            let text = &frame[self.frame.stamp..];
            let (sender, number) = read_stamp(text);
            let next = self.next.get_mut(sender.wrapping_sub(self.first));
            let next = next.filter(|next| encode_bits(**next) == number);
            match next.filter(|_| frame.ends_with(b"\n")) {
                Some(next) => {
                    *next = next.wrapping_add(1);
                    self.counts.received += 1;
                    arrived(Arrival { sender, advance: 1, text });
                    rest = after;
                }
                None => match self.find(rest)? {
                    Found::Message(sender, advance) => {
                        if let Some(advance) = advance {
                            arrived(Arrival { sender, advance, text });
                        }
                        rest = after;
                    }
                    Found::Interlude(after) => rest = after,
                    Found::Partial => return Ok(rest),
                },
            }
        }
        while rest.first().is_some_and(|first| *first != self.first_byte) {
            match self.find(rest)? {
                Found::Interlude(after) => rest = after,
                Found::Message(..) | Found::Partial => break,
            }
        }
        Ok(rest)
    }

    #[cold]
    fn find<'a>(&mut self, bytes: &'a [u8]) -> Result<Found<'a>, Error> {
        if let Some(rest) = bytes.strip_prefix(self.interlude).filter(|rest| rest != &bytes) {
            return Ok(Found::Interlude(rest));
        }
        let frame = bytes.get(..self.frame.stride);
        let frame = frame.filter(|it| it[0] == self.first_byte && it.ends_with(b"\n"));
        if let Some((sender, number)) = frame.map(|frame| read_stamp(&frame[self.frame.stamp..])) {
            let is_known = self.next.get(sender.wrapping_sub(self.first)).is_some();
            if let Some(number) = decode_bits(number).filter(|_| is_known) {
                return Ok(Found::Message(sender, self.out_of_order(sender, number)));
            }
        }
        let Some(end) = memchr::memchr(b'\n', bytes) else { return Ok(Found::Partial) };
        let (line, rest) = bytes.split_at(end + 1);
        match refusal(line) {
            Some(refusal) => Err(refusal),
            None if line.starts_with(NOTICE.as_bytes()) => Ok(Found::Interlude(rest)),
            None => Err(unexpected(line)),
        }
    }

    /// Counts a message as following a gap, as late, or as repeated.
    fn out_of_order(&mut self, sender: usize, number: u32) -> Option<u32> {
        let next = &mut self.next[sender - self.first];
        let skipped = number.wrapping_sub(*next) % NUMBERS;
        if skipped < NUMBERS / 2 {
            if self.gaps.len() == MAX_GAPS {
                self.gaps.remove(0);
            }
            self.gaps.push(Gap { sender, first: *next % NUMBERS, count: skipped });
            *next = number.wrapping_add(1);
            self.counts.received += 1;
            self.counts.missing += u64::from(skipped);
            return Some(skipped + 1);
        }
        let behind = |gap: &Gap| number.wrapping_sub(gap.first) % NUMBERS;
        let is_in = |gap: &Gap| gap.sender == sender && behind(gap) < gap.count;
        let Some(place) = self.gaps.iter().position(is_in) else {
            self.counts.repeated += 1;
            return None;
        };
        let gap = self.gaps.swap_remove(place);
        let before = behind(&gap);
        let after =
            Gap { first: number.wrapping_add(1) % NUMBERS, count: gap.count - before - 1, ..gap };
        let parts = [Gap { count: before, ..gap }, after];
        self.gaps.extend(parts.iter().filter(|gap| gap.count > 0));
        self.counts.received += 1;
        self.counts.missing -= 1;
        self.counts.reordered += 1;
        Some(0)
    }
}

/// Finds an error line or the closing notice of a-chat among complete lines.
pub(super) fn refusal(lines: &[u8]) -> Option<Error> {
    lines.split_inclusive(|byte| *byte == b'\n').find_map(|line| {
        let line = std::str::from_utf8(line).ok()?.strip_suffix('\n')?;
        match line.strip_prefix(ERROR) {
            Some(text) => Some(Error::Refused(text.to_owned())),
            None => accepted_in_closing_notice(line).map(|_| Error::ShutDown),
        }
    })
}

/// The beginning of unexpected input.
pub(super) fn unexpected(bytes: &[u8]) -> Error {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(200)]);
    Error::Unexpected(text.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a client receives for the first two senders' messages with these numbers.
    fn frames(numbers: &[(usize, u32)]) -> Vec<u8> {
        let mut line = Protocol::Raw.line("ann", &[], 8);
        let frames = numbers.iter().flat_map(|&(sender, number)| {
            line.number(sender, number);
            line.bytes.clone()
        });
        frames.collect()
    }

    fn check() -> SequenceChecker {
        SequenceChecker::new(Protocol::Chat, Protocol::Chat.frame("ann", "bob", 8), 0..2)
    }

    fn counts(received: u64, missing: u64, reordered: u64, repeated: u64) -> Counts {
        Counts { received, missing, reordered, repeated }
    }

    #[test]
    fn each_sender_is_counted_separately() {
        let (mut check, mut from) = (check(), Vec::new());
        let bytes = frames(&[(0, 0), (1, 0), (1, 1), (0, 1)]);
        let (whole, partial) = bytes.split_at(bytes.len() - 3);
        let rest = check.walk(whole, |it| from.push((it.sender, it.advance))).expect("messages");
        assert_eq!(from, [(0, 1), (1, 1), (1, 1)]);
        let rest = [rest, partial].concat();
        assert_eq!(check.walk(&rest, |_| {}).expect("messages"), b"");
        assert_eq!(check.counts, counts(4, 0, 0, 0));
    }

    #[test]
    fn a_gap_counts_as_missing_until_it_is_filled() {
        let mut check = check();
        let mut advances = Vec::new();
        let mut walk = |check: &mut SequenceChecker, numbers: &[u32]| {
            let numbers: Vec<_> = numbers.iter().map(|&number| (1, number)).collect();
            let rest =
                check.walk(&frames(&numbers), |it| advances.push(it.advance)).map(<[_]>::len);
            assert_eq!(rest.expect("messages"), 0);
            check.counts
        };
        assert_eq!(walk(&mut check, &[0, 4]), counts(2, 3, 0, 0));
        assert_eq!(walk(&mut check, &[2, 5]), counts(4, 2, 1, 0));
        assert_eq!(walk(&mut check, &[2, 5]), counts(4, 2, 1, 2));
        assert_eq!(walk(&mut check, &[3, 1]), counts(6, 0, 3, 2));
        assert_eq!(advances, [1, 4, 0, 1, 0, 0]);
    }

    #[test]
    fn message_numbers_wrap_around() {
        let mut check = check();
        check.next[0] = NUMBERS - 1;
        let bytes = frames(&[(0, NUMBERS - 1), (0, 1), (0, 0), (0, 2)]);
        assert_eq!(check.walk(&bytes, |_| {}).expect("messages"), b"");
        assert_eq!(check.counts, counts(4, 0, 1, 0));
    }

    #[test]
    fn anything_but_a_message_is_an_error() {
        let error = |text: &str| {
            let bytes = [frames(&[(0, 0)]), text.as_bytes().to_vec()].concat();
            check().walk(&bytes, |_| {}).expect_err("no message").to_string()
        };
        assert_eq!(
            error("error: line 2: no such peer: bob\n"),
            "the server refused: line 2: no such peer: bob"
        );
        assert_eq!(error("error: x\n"), "the server refused: x");
        let notice = crate::wire::protocol::closing_notice(3);
        assert_eq!(error(&notice), "the server shut down");
        let unexpected = "not a message of this load: \"from eve: and a longer text\"";
        assert_eq!(error("from eve: and a longer text\n"), unexpected);
    }

    #[test]
    fn other_notices_are_skipped_and_partial_lines_kept() {
        let mut check = check();
        let bytes = [b"notice: hm\n".to_vec(), frames(&[(0, 0)]), b"error: lin".to_vec()].concat();
        assert_eq!(check.walk(&bytes, |_| {}).expect("messages"), b"error: lin");
        assert_eq!(check.counts, counts(1, 0, 0, 0));
    }
}
