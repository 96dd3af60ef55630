//! What is written to one client and not yet acknowledged by its kernel. Plain state, owned by the
//! client's writer.
//!
//! The kernel tells how many of the last bytes are unacknowledged. To know which messages those are,
//! and whose, the ends of messages in flight are kept: as lengths, of one to three bytes each, and
//! before a message that does not continue the lines of its predecessor's sender, two to six bytes
//! that say whose line it is. Finding lengths takes time, so the first frames in flight, up to a
//! fixed amount, are kept instead, and searched only if their client fails in the middle of them.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::server::delivery::losses::{Losses, Origin};
use crate::server::delivery::pending::FrameSlice;
use crate::socket::connection::ConnectionId;
use crate::wire::batch::Frames;

/// How many bytes may be in flight before no more are written, whatever the round trip.
const MAX_BYTES: u64 = 1024 * 1024;

/// How many bytes the record of lengths may take before no more are written. It takes up to twice
/// that while it grows. Empty messages from many senders in turn reach this limit before the other.
const MAX_RECORD_BYTES: usize = 128 * 1024;

/// With more bytes than this in flight, it is worth asking the kernel what was acknowledged.
const SETTLE_BYTES: u64 = 64 * 1024;

/// How much memory of frames is kept. Frames are kept only if at least half of their memory is in
/// flight, so these are 256 KiB in flight at least, and nearly twice that where buffers are full.
///
/// On loopback no more than 196 KiB are in flight to a client that reads, so no time is spent on
/// lengths there: with half of this limit, a fan-out took half as much CPU time again. In a room
/// whose members share one CPU with the load, up to a megabyte is; with a limit of 256 KiB in
/// flight, a quarter of the server's CPU time went into the lengths of the rest.
const MAX_FRAME_MEMORY: usize = 512 * 1024;

/// What a number of 64 bits takes, seven bits in each byte.
const MAX_NUMBER_BYTES: usize = 10;

/// Lengths are grouped up to this many bytes in flight, so acknowledging them is one step.
const GROUP_BYTES: u32 = 16 * 1024;

/// The messages in flight to one peer, in stream order.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    groups: VecDeque<Group>,
    /// The lengths of all groups that have them, see [`push_length`](Self::push_length).
    lengths: VecDeque<u8>,
    /// The origin of a message that continues the last group without further notice.
    next: Origin,
    /// Where the stream ends, as far as it is recorded, in bytes.
    end: u64,
    /// Up to where it is acknowledged.
    acknowledged_to: u64,
    /// The sum of all groups' bytes.
    bytes: u64,
    /// The memory of all frames that are kept, those of which only a part is in flight included.
    frame_memory: usize,
    /// Messages that were acknowledged up to their last byte, and are no longer in `groups`.
    acknowledged: u64,
}

/// Consecutive bytes that are acknowledged in one step.
#[derive(Debug)]
struct Group {
    bytes: u32,
    messages: u32,
    /// Whose line the first message is.
    origin: Origin,
    ends: Ends,
}

/// Where the messages of a group end.
#[derive(Debug)]
enum Ends {
    /// At each line end in these frames, from this offset on; the lines follow each other.
    InFrames(Frames, u32),
    /// After the lengths in this many bytes of [`InFlight::lengths`].
    Lengths(u32),
}

impl InFlight {
    pub(crate) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// True if nothing more may be written until the client acknowledges some.
    pub(crate) fn is_full(&self) -> bool {
        self.bytes >= MAX_BYTES || self.lengths.len() >= MAX_RECORD_BYTES
    }

    /// Whether to [`settle`](Self::settle) before `written` more bytes are recorded.
    pub(crate) fn wants_settling(&self, written: usize) -> bool {
        self.bytes + written as u64 > SETTLE_BYTES
    }

    /// Records a slice that was written completely.
    pub(crate) fn push(&mut self, slice: &FrameSlice) {
        let bytes = slice.end - slice.start;
        self.end += u64::from(bytes);
        if self.end <= self.acknowledged_to {
            self.acknowledged += u64::from(slice.messages);
            return;
        }
        self.bytes += u64::from(bytes);
        if slice.messages <= 1 {
            self.push_length(bytes, (slice.messages == 1).then(|| slice.origin()));
        } else if self.may_keep(slice) {
            self.frame_memory += slice.frames.bytes.capacity();
            let ends = Ends::InFrames(Arc::clone(&slice.frames.bytes), slice.start);
            let (messages, origin) = (slice.messages, slice.origin());
            self.groups.push_back(Group { bytes, messages, origin, ends });
        } else {
            self.push_lines(slice.bytes(), slice.origin());
        }
    }

    /// Records a slice of which only the first `written` bytes were written, and no more will be.
    /// Returns how many whole messages those are.
    pub(crate) fn push_part(&mut self, slice: &FrameSlice, written: u32) -> u32 {
        self.end += u64::from(written);
        self.bytes += u64::from(written);
        if slice.messages == 0 {
            self.push_length(written, None);
            return 0;
        }
        self.push_lines(&slice.bytes()[..written as usize], slice.origin())
    }

    /// Forgets everything before `acknowledged_to`, the position in the stream up to which it is
    /// acknowledged.
    pub(crate) fn settle(&mut self, acknowledged_to: u64) {
        self.acknowledged_to = self.acknowledged_to.max(acknowledged_to);
        while let Some(first) = self.groups.front() {
            if self.end - self.bytes + u64::from(first.bytes) > self.acknowledged_to {
                return;
            }
            self.bytes -= u64::from(first.bytes);
            self.acknowledged += u64::from(first.messages);
            match &first.ends {
                Ends::InFrames(frames, _) => self.frame_memory -= frames.capacity(),
                Ends::Lengths(count) => drop(self.lengths.drain(..*count as usize)),
            }
            self.groups.pop_front();
        }
        // Nothing is in flight, and an idle client holds no memory for it.
        (self.groups, self.lengths) = (VecDeque::new(), VecDeque::new());
    }

    /// The number of messages known to be acknowledged up to their last byte.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// As [`acknowledged`](Self::acknowledged), and looks into the first group, too.
    pub(crate) fn acknowledged_exactly(&self) -> u64 {
        let mut acknowledged = self.acknowledged;
        if let Some(first) = self.groups.front() {
            let within = self.acknowledged_to.saturating_sub(self.end - self.bytes);
            first.for_each_message(&mut self.lengths.iter().copied(), |end, _| {
                acknowledged += u64::from(end <= within);
            });
        }
        acknowledged
    }

    /// The number of the last message of this sender's that is not acknowledged, counted over all
    /// that were ever written.
    pub(crate) fn last_of(&self, sender: ConnectionId) -> Option<u64> {
        let (mut number, mut last) = (self.acknowledged, None);
        self.for_each_message(|end, origin| {
            number += 1;
            if origin.sender == sender && end > self.acknowledged_to {
                last = Some(number);
            }
        });
        last
    }

    /// The number of messages acknowledged up to their last byte, once nothing more will be. The
    /// others are lost. Forgets everything.
    pub(crate) fn finish(&mut self, acknowledged_to: u64, losses: &mut Losses) -> u64 {
        self.settle(acknowledged_to);
        let (mut acknowledged, until) = (self.acknowledged, self.acknowledged_to);
        self.for_each_message(|end, origin| {
            if end <= until {
                acknowledged += 1;
            } else {
                losses.note(origin, 1);
            }
        });
        *self = Self::default();
        acknowledged
    }

    /// Calls `each` with the end of each message in flight, as a position in the stream, and its
    /// origin.
    fn for_each_message(&self, mut each: impl FnMut(u64, Origin)) {
        let (mut start, mut lengths) = (self.end - self.bytes, self.lengths.iter().copied());
        for group in &self.groups {
            group.for_each_message(&mut lengths, |end, origin| each(start + end, origin));
            start += u64::from(group.bytes);
        }
    }

    /// Whether the frames of this slice may be kept instead of its messages' lengths.
    fn may_keep(&self, slice: &FrameSlice) -> bool {
        let (bytes, memory) = (slice.end - slice.start, slice.frames.bytes.capacity());
        memory <= 2 * bytes as usize && self.frame_memory + memory <= MAX_FRAME_MEMORY
    }

    /// Records messages, and after the last of them the beginning of another. Returns how many.
    fn push_lines(&mut self, lines: &[u8], mut origin: Origin) -> u32 {
        let (mut start, mut count) = (0, 0);
        let length = |from: usize, to: usize| u32::try_from(to - from).unwrap_or(u32::MAX);
        for line_end in memchr::memchr_iter(b'\n', lines) {
            self.push_length(length(start, line_end + 1), Some(origin));
            origin.line += 1;
            (start, count) = (line_end + 1, count + 1);
        }
        if start < lines.len() {
            self.push_length(length(start, lines.len()), None);
        }
        count
    }

    /// Records bytes that end with the end of a message, or that are no message.
    ///
    /// Which of the two is the lowest bit of a number. For bytes that are no message, the other bits
    /// are the length. For a message, the next bit says whether its origin follows: as the
    /// differences of the sender and the line from those that were to be expected.
    fn push_length(&mut self, length: u32, message: Option<Origin>) {
        let origin = message.unwrap_or_default();
        let continues = self.groups.back().is_some_and(|group| {
            matches!(group.ends, Ends::Lengths(_)) && group.bytes + length <= GROUP_BYTES
        });
        if !continues {
            let ends = Ends::Lengths(0);
            self.groups.push_back(Group { bytes: 0, messages: 0, origin, ends });
        }
        let Some(group) = self.groups.back_mut() else { return };
        group.bytes += length;
        let mut numbers = Numbers::default();
        if message.is_none() {
            numbers.push(u64::from(length) << 1);
        } else {
            if group.messages == 0 {
                (group.origin, self.next) = (origin, origin);
            }
            group.messages += 1;
            let has_origin = self.next != origin;
            numbers.push(u64::from(length) << 2 | u64::from(has_origin) << 1 | 1);
            if has_origin {
                numbers.push(difference(origin.sender.0, self.next.sender.0));
                numbers.push(difference(origin.line, self.next.line));
            }
            self.next = Origin { line: origin.line + 1, ..origin };
        }
        self.lengths.extend(numbers.bytes());
        if let Ends::Lengths(count) = &mut group.ends {
            *count += u32::from(numbers.length);
        }
    }
}

impl Group {
    /// Calls `each` with the end of each message, counted from the group's beginning, and its
    /// origin. Takes the group's part of the lengths.
    fn for_each_message(
        &self,
        lengths: &mut impl Iterator<Item = u8>,
        mut each: impl FnMut(u64, Origin),
    ) {
        let mut origin = self.origin;
        match &self.ends {
            Ends::InFrames(frames, start) => {
                let start = *start as usize;
                for end in memchr::memchr_iter(b'\n', &frames[start..start + self.bytes as usize]) {
                    each(end as u64 + 1, origin);
                    origin.line += 1;
                }
            }
            Ends::Lengths(count) => {
                let lengths = &mut lengths.take(*count as usize);
                let mut end = 0;
                while let Some(number) = read_number(lengths) {
                    if number & 1 == 0 {
                        end += number >> 1;
                        continue;
                    }
                    end += number >> 2;
                    if number & 2 != 0 {
                        for part in [&mut origin.sender.0, &mut origin.line] {
                            *part = advance(*part, read_number(lengths).unwrap_or_default());
                        }
                    }
                    each(end, origin);
                    origin.line += 1;
                }
            }
        }
    }
}

/// Up to three numbers, each as bytes of seven bits, the lowest first; all but its last byte have the
/// top bit set. Collected here, so that a queue takes them in one step.
#[derive(Debug, Default)]
struct Numbers {
    bytes: [u8; 3 * MAX_NUMBER_BYTES],
    length: u8,
}

impl Numbers {
    fn push(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.push_byte((number & 0x7f) as u8 | 0x80);
            number >>= 7;
        }
        self.push_byte((number & 0x7f) as u8);
    }

    fn push_byte(&mut self, byte: u8) {
        self.bytes[usize::from(self.length)] = byte;
        self.length += 1;
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

/// Reads what [`Numbers::push`] wrote.
fn read_number(from: &mut impl Iterator<Item = u8>) -> Option<u64> {
    let (mut number, mut shift) = (0, 0);
    for byte in from {
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
        shift += 7;
    }
    None
}

/// A difference, for [`advance`]: small if the two are close to each other, whichever is larger.
fn difference(to: u64, from: u64) -> u64 {
    if to >= from { (to - from) << 1 } else { (from - to) << 1 | 1 }
}

fn advance(from: u64, difference: u64) -> u64 {
    if difference & 1 == 0 { from + (difference >> 1) } else { from - (difference >> 1) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::server::delivery::pending::ChargedFrames;

    /// A slice of messages of these lengths, with other bytes before it in the same frames.
    fn slice(lengths: &[usize], before: usize, counted: bool) -> FrameSlice {
        slice_from(Origin { sender: ConnectionId(1), line: 1 }, lengths, before, counted)
    }

    fn slice_from(origin: Origin, lengths: &[usize], before: usize, counted: bool) -> FrameSlice {
        let Origin { sender, line } = origin;
        let mut frames = vec![b'-'; before];
        for length in lengths {
            frames.extend(std::iter::repeat_n(b'x', length - 1));
            frames.push(b'\n');
        }
        let (start, end) = (u32::try_from(before), u32::try_from(frames.len()));
        let messages = if counted { u32::try_from(lengths.len()) } else { Ok(0) };
        FrameSlice {
            frames: Arc::new(ChargedFrames {
                bytes: Arc::new(frames),
                permit: None,
                sender,
                first_line: line - line.min(2),
            }),
            start: start.expect("small"),
            end: end.expect("small"),
            messages: messages.expect("small"),
            line: u32::try_from(line.min(2)).expect("small"),
        }
    }

    #[test]
    fn a_message_counts_when_its_last_byte_is_acknowledged() {
        for before in [0, 1000] {
            for (unacknowledged, acknowledged) in [(0, 3), (1, 2), (5, 2), (6, 1), (9, 1), (10, 0)]
            {
                let mut in_flight = InFlight::default();
                in_flight.push(&slice(&[2, 4, 5], before, true));
                assert_eq!(
                    in_flight.finish(11 - unacknowledged, &mut Losses::default()),
                    acknowledged
                );
            }
        }
    }

    #[test]
    fn replies_do_not_count_as_messages() {
        let mut in_flight = InFlight::default();
        in_flight.push(&slice(&[9, 9], 0, false));
        in_flight.push_part(&slice(&[9, 9], 0, false), 12);
        assert_eq!(in_flight.finish(30, &mut Losses::default()), 0);
    }

    #[test]
    fn a_message_of_any_length_keeps_its_length() {
        for length in [2, 63, 64, 8191, 8192, 1 << 20, (1 << 24) - 1] {
            let mut in_flight = InFlight::default();
            in_flight.push(&slice(&[length], 0, true));
            in_flight.push(&slice(&[5], 0, true));
            let length = length as u64;
            assert_eq!(in_flight.groups.len(), if length < 8192 * 2 { 1 } else { 2 }, "{length}");
            in_flight.settle(length - 1);
            assert_eq!((in_flight.acknowledged, in_flight.bytes), (0, length + 5));
            assert_eq!(in_flight.finish(length + 4, &mut Losses::default()), 1);
        }
    }

    #[test]
    fn a_slice_that_is_acknowledged_already_takes_no_memory() {
        let mut in_flight = InFlight::default();
        in_flight.settle(100);
        in_flight.push(&slice(&[50], 0, true));
        in_flight.push(&slice(&[20, 30], 0, true));
        assert!(in_flight.is_empty());
        in_flight.push(&slice(&[1], 0, true));
        assert!(!in_flight.is_empty());
        assert_eq!(in_flight.finish(100, &mut Losses::default()), 3);
    }

    /// A message of this length.
    fn message(sender: u64, line: u64, length: usize) -> FrameSlice {
        slice_from(Origin { sender: ConnectionId(sender), line }, &[length], 0, true)
    }

    #[test]
    fn the_record_of_small_messages_takes_a_byte_or_two_each() {
        let mut in_flight = InFlight::default();
        let reply = slice(&[40], 0, false);
        let mut count = 0;
        while !in_flight.is_full() {
            count += 1;
            in_flight.push(&message(1, count, 9));
            in_flight.push(&reply);
        }
        assert!(count > 20_000);
        let groups = in_flight.groups.capacity() * size_of::<Group>();
        let lengths = in_flight.lengths.len() as u64;
        assert!(lengths == 2 * count && groups < 8192, "{lengths} and {groups} for {count}");
        in_flight.settle(in_flight.end);
        assert_eq!((in_flight.lengths.capacity(), in_flight.groups.capacity()), (0, 0));
    }

    #[test]
    fn the_record_of_small_messages_from_a_hundred_senders_takes_a_few_bytes_each() {
        let mut in_flight = InFlight::default();
        let mut random = fastrand::Rng::with_seed(1);
        // They have sent some hundred thousand lines each, to several recipients in turn.
        let mut lines: Vec<u64> = (0..100).map(|_| 500_000 + random.u64(..1000)).collect();
        let mut count = 0;
        while in_flight.bytes < 100 * 1024 {
            count += 1;
            let sender = random.usize(..lines.len());
            lines[sender] += random.u64(1..5);
            in_flight.push(&message(1000 + sender as u64, lines[sender], 20));
        }
        let each = in_flight.lengths.len() * 100 / count;
        assert!((200..=500).contains(&each), "{}.{:02} bytes each", each / 100, each % 100);
    }

    #[test]
    fn the_last_message_of_a_sender_is_found_until_it_is_acknowledged() {
        let mut in_flight = InFlight::default();
        for (sender, line) in [(1, 1), (2, 1), (1, 2), (2, 7)] {
            in_flight.push(&message(sender, line, 10));
        }
        in_flight.push(&slice_from(
            Origin { sender: ConnectionId(3), line: 1 },
            &[10, 10, 10],
            0,
            true,
        ));
        let last_of = |in_flight: &InFlight| {
            [1, 2, 3, 4].map(|sender| in_flight.last_of(ConnectionId(sender)))
        };
        assert_eq!(last_of(&in_flight), [Some(3), Some(4), Some(7), None]);
        in_flight.settle(35);
        assert_eq!((in_flight.acknowledged(), in_flight.acknowledged_exactly()), (0, 3));
        assert_eq!(last_of(&in_flight), [None, Some(4), Some(7), None]);
        in_flight.settle(69);
        assert_eq!((in_flight.acknowledged(), in_flight.acknowledged_exactly()), (4, 6));
        in_flight.settle(70);
        assert_eq!(last_of(&in_flight), [None; 4]);
    }

    #[test]
    fn the_record_is_bounded_whatever_the_messages() {
        let mut in_flight = InFlight::default();
        let mut line = 0;
        while !in_flight.is_full() {
            line += 1;
            // The most a message can take: empty, from two connections far apart.
            let far = 1 << 40;
            in_flight.push(&message(1 + line % 2 * far, line + line % 2 * far, 9));
        }
        assert!(in_flight.lengths.len() < MAX_RECORD_BYTES + 32);
        assert!(in_flight.bytes < MAX_BYTES);
    }

    #[test]
    fn no_more_than_a_bounded_amount_of_frames_is_kept() {
        let mut in_flight = InFlight::default();
        let frames: Vec<_> = (0..60).map(|_| slice(&[5000, 5000], 0, true)).collect();
        let kept: Vec<_> = frames.iter().map(|slice| Arc::downgrade(&slice.frames.bytes)).collect();
        let memory = frames[0].frames.bytes.capacity();
        for slice in &frames {
            in_flight.push(slice);
        }
        drop(frames);
        let kept = kept.iter().filter(|frames| frames.upgrade().is_some()).count();
        assert_eq!(kept, MAX_FRAME_MEMORY / memory);
        assert_eq!(in_flight.finish(599_999, &mut Losses::default()), 119);
    }

    #[test]
    fn a_small_slice_does_not_retain_a_large_buffer() {
        let mut in_flight = InFlight::default();
        let small = slice(&[2, 2], 10_000, true);
        let frames = Arc::downgrade(&small.frames.bytes);
        in_flight.push(&small);
        drop(small);
        assert!(frames.upgrade().is_none());
    }

    proptest! {
        /// Against a plain list of messages, with acknowledgements at arbitrary times.
        #[test]
        fn counts_and_losses_agree_with_a_list_of_messages(
            slices in proptest::collection::vec(
                (
                    proptest::collection::vec(1_usize..20, 1..9),
                    0_usize..300,
                    any::<bool>(),
                    0_u64..90,
                    (1_u64..4, 0_u64..300),
                ),
                0..20,
            ),
            part in proptest::option::of((proptest::collection::vec(1_usize..20, 1..9), 1_u32..9)),
            unacknowledged in 0_u64..400,
        ) {
            let mut in_flight = InFlight::default();
            let (mut written, mut arrived, mut messages) = (0, 0, Vec::new());
            let mut lines = [0; 4];
            for (lengths, before, counted, acknowledged, (sender, gap)) in &slices {
                let sender = ConnectionId(*sender);
                let line = &mut lines[usize::try_from(sender.0).expect("small")];
                *line += gap + 1;
                let first = Origin { sender, line: *line };
                for length in lengths {
                    written += *length as u64;
                    messages.extend(counted.then_some((written, Origin { sender, line: *line })));
                    *line += 1;
                }
                in_flight.push(&slice_from(first, lengths, *before, *counted));
                arrived = written.min(arrived + acknowledged);
                in_flight.settle(arrived);
            }
            if let Some((lengths, bytes)) = part {
                let mut origin = Origin { sender: ConnectionId(2), line: lines[2] + 5 };
                let slice = slice_from(origin, &lengths, 7, true);
                let bytes = bytes.min(slice.end - slice.start);
                let recorded = in_flight.push_part(&slice, bytes);
                let (mut end, before) = (written, messages.len());
                for length in lengths {
                    end += length as u64;
                    messages.extend((end <= written + u64::from(bytes)).then_some((end, origin)));
                    origin.line += 1;
                }
                prop_assert_eq!(recorded as usize, messages.len() - before);
                written += u64::from(bytes);
            }
            let arrived = arrived.max(written.saturating_sub(unacknowledged));
            let (mut losses, mut expected) = (Losses::default(), Losses::default());
            let arrives = |(end, _): &&(u64, Origin)| *end <= arrived;
            let count = messages.iter().filter(arrives).count();
            messages[count..].iter().for_each(|(_, origin)| expected.note(*origin, 1));
            prop_assert_eq!(in_flight.finish(arrived, &mut losses), count as u64);
            prop_assert_eq!(losses, expected);
        }
    }
}
