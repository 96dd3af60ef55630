//! The messages that are in flight to one client: written to its socket, and not yet acknowledged
//! by its kernel. Plain state, owned by the client's writer.
//!
//! The kernel reports how many bytes of the stream are unacknowledged, and the report must state
//! how many messages those are, so the ends of messages in flight are kept: as lengths, of one to
//! three bytes each. Finding them takes time, so the first frames in flight, up to a fixed amount,
//! are kept instead, and searched only if their client fails in the middle of them.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::server::delivery::pending::FrameSlice;
use crate::wire::batch::Frames;

/// How many bytes may be in flight before no more are written, whatever the round trip. It bounds
/// what the record takes: about an eighth of it, twice that while the record grows.
const MAX_BYTES: u64 = 1024 * 1024;

/// With more bytes than this in flight, it is worth asking the kernel what was acknowledged.
const SETTLE_BYTES: u64 = 64 * 1024;

/// How many bytes in flight are kept as frames. Frames are kept only if at least half of their
/// memory is in flight, so this retains twice as much memory at most.
///
/// On loopback no more than 196 KiB are in flight, so no time is spent on lengths there: with half
/// of this limit, a fan-out took half as much CPU time again.
const MAX_FRAME_BYTES: u64 = 256 * 1024;

/// Lengths are grouped up to this many bytes in flight, so acknowledging them is one step.
const GROUP_BYTES: u32 = 16 * 1024;

/// The messages in flight to one peer, in stream order.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    groups: VecDeque<Group>,
    /// The lengths of all groups that have them, see [`push_length`](Self::push_length).
    lengths: VecDeque<u8>,
    /// Where the stream ends, as far as it is recorded, in bytes.
    end: u64,
    /// Up to where it is acknowledged.
    acknowledged_to: u64,
    /// The sum of all groups' bytes.
    bytes: u64,
    /// The bytes of those groups whose frames are kept.
    frame_bytes: u64,
    /// Messages that were acknowledged up to their last byte, and are no longer in `groups`.
    acknowledged: u64,
}

/// Consecutive bytes that are acknowledged in one step.
#[derive(Debug)]
struct Group {
    bytes: u32,
    messages: u32,
    ends: Ends,
}

/// Where the messages of a group end.
#[derive(Debug)]
enum Ends {
    /// At each line end in these frames, from this offset on.
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
        self.bytes >= MAX_BYTES
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
            self.push_length(bytes, slice.messages == 1);
        } else if self.may_keep(slice) {
            self.frame_bytes += u64::from(bytes);
            let ends = Ends::InFrames(Arc::clone(&slice.frames.bytes), slice.start);
            self.groups.push_back(Group { bytes, messages: slice.messages, ends });
        } else {
            self.push_lines(slice.bytes());
        }
    }

    /// Records a slice of which only the first `written` bytes were written, and no more will be.
    pub(crate) fn push_part(&mut self, slice: &FrameSlice, written: u32) {
        self.end += u64::from(written);
        self.bytes += u64::from(written);
        if slice.messages == 0 {
            self.push_length(written, false);
        } else {
            self.push_lines(&slice.bytes()[..written as usize]);
        }
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
                Ends::InFrames(..) => self.frame_bytes -= u64::from(first.bytes),
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

    /// The number of messages acknowledged up to their last byte, once nothing more will be.
    /// Forgets everything.
    pub(crate) fn finish(&mut self, acknowledged_to: u64) -> u64 {
        self.settle(acknowledged_to);
        if let Some(first) = self.groups.front() {
            let start = self.end - self.bytes;
            self.acknowledged +=
                first.messages_within(self.acknowledged_to.saturating_sub(start), &self.lengths);
        }
        let acknowledged = self.acknowledged;
        *self = Self::default();
        acknowledged
    }

    /// Whether the frames of this slice may be kept instead of its messages' lengths.
    fn may_keep(&self, slice: &FrameSlice) -> bool {
        let bytes = slice.end - slice.start;
        slice.frames.bytes.capacity() <= 2 * bytes as usize
            && self.frame_bytes + u64::from(bytes) <= MAX_FRAME_BYTES
    }

    /// Records messages, and after the last of them the beginning of another.
    fn push_lines(&mut self, lines: &[u8]) {
        for line in lines.split_inclusive(|&byte| byte == b'\n') {
            let length = u32::try_from(line.len()).unwrap_or(u32::MAX);
            self.push_length(length, line.ends_with(b"\n"));
        }
    }

    /// Records bytes that end with the end of a message, or that are no message.
    ///
    /// Which of the two is the lowest bit of a number whose other bits are the length; each byte
    /// holds seven bits of it, the lowest first, and all but the last have the top bit set.
    fn push_length(&mut self, length: u32, is_message: bool) {
        let mut left = u64::from(length) << 1 | u64::from(is_message);
        let mut encoded = 0;
        loop {
            let more = left >= 0x80;
            self.lengths.push_back((left & 0x7f) as u8 | u8::from(more) << 7);
            encoded += 1;
            left >>= 7;
            if !more {
                break;
            }
        }
        match self.groups.back_mut() {
            Some(Group { bytes, messages, ends: Ends::Lengths(count) })
                if *bytes + length <= GROUP_BYTES =>
            {
                *bytes += length;
                *messages += u32::from(is_message);
                *count += encoded;
            }
            _ => self.groups.push_back(Group {
                bytes: length,
                messages: u32::from(is_message),
                ends: Ends::Lengths(encoded),
            }),
        }
    }
}

impl Group {
    /// How many messages end within the first `bytes` of a partly acknowledged group, the first of
    /// all, so that its lengths come first.
    fn messages_within(&self, bytes: u64, lengths: &VecDeque<u8>) -> u64 {
        match &self.ends {
            Ends::InFrames(frames, start) => {
                let start = *start as usize;
                let end = start + usize::try_from(bytes).unwrap_or(usize::MAX);
                memchr::memchr_iter(b'\n', &frames[start..end]).count() as u64
            }
            Ends::Lengths(count) => {
                let (mut end, mut messages, mut number, mut shift) = (0, 0, 0_u64, 0);
                for byte in lengths.iter().take(*count as usize) {
                    number |= u64::from(byte & 0x7f) << shift;
                    shift += 7;
                    if byte & 0x80 == 0 {
                        end += number >> 1;
                        if end > bytes {
                            break;
                        }
                        messages += number & 1;
                        (number, shift) = (0, 0);
                    }
                }
                messages
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::server::delivery::pending::ChargedFrames;

    /// A slice of messages of these lengths, with other bytes before it in the same frames.
    fn slice(lengths: &[usize], before: usize, counted: bool) -> FrameSlice {
        let mut frames = vec![b'-'; before];
        for length in lengths {
            frames.extend(std::iter::repeat_n(b'x', length - 1));
            frames.push(b'\n');
        }
        let (start, end) = (u32::try_from(before), u32::try_from(frames.len()));
        let messages = if counted { u32::try_from(lengths.len()) } else { Ok(0) };
        FrameSlice {
            frames: Arc::new(ChargedFrames { bytes: Arc::new(frames), permit: None }),
            start: start.expect("small"),
            end: end.expect("small"),
            messages: messages.expect("small"),
        }
    }

    #[test]
    fn a_message_counts_when_its_last_byte_is_acknowledged() {
        for before in [0, 1000] {
            for (unacknowledged, acknowledged) in [(0, 3), (1, 2), (5, 2), (6, 1), (9, 1), (10, 0)]
            {
                let mut in_flight = InFlight::default();
                in_flight.push(&slice(&[2, 4, 5], before, true));
                assert_eq!(in_flight.finish(11 - unacknowledged), acknowledged);
            }
        }
    }

    #[test]
    fn replies_do_not_count_as_messages() {
        let mut in_flight = InFlight::default();
        in_flight.push(&slice(&[9, 9], 0, false));
        in_flight.push_part(&slice(&[9, 9], 0, false), 12);
        assert_eq!(in_flight.finish(30), 0);
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
            assert_eq!(in_flight.finish(length + 4), 1);
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
        assert_eq!(in_flight.finish(100), 3);
    }

    #[test]
    fn the_record_of_small_messages_takes_a_byte_or_two_each() {
        let mut in_flight = InFlight::default();
        let (message, reply) = (slice(&[9], 0, true), slice(&[40], 0, false));
        let mut count = 0;
        while !in_flight.is_full() {
            in_flight.push(&message);
            in_flight.push(&reply);
            count += 1;
        }
        assert!(count > 20_000);
        let groups = in_flight.groups.capacity() * size_of::<Group>();
        assert!(in_flight.lengths.len() == 2 * count && groups < 8192, "{groups}");
        in_flight.settle(in_flight.end);
        assert_eq!((in_flight.lengths.capacity(), in_flight.groups.capacity()), (0, 0));
    }

    #[test]
    fn no_more_than_a_bounded_amount_of_frames_is_kept() {
        let mut in_flight = InFlight::default();
        let frames: Vec<_> = (0..60).map(|_| slice(&[5000, 5000], 0, true)).collect();
        let kept: Vec<_> = frames.iter().map(|slice| Arc::downgrade(&slice.frames.bytes)).collect();
        for slice in &frames {
            in_flight.push(slice);
        }
        drop(frames);
        let kept = kept.iter().filter(|frames| frames.upgrade().is_some()).count() as u64;
        assert_eq!(kept, MAX_FRAME_BYTES / 10_000);
        assert_eq!(in_flight.finish(599_999), 119);
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
        /// Against a plain list of message ends, with acknowledgements at arbitrary times.
        #[test]
        fn counts_agree_with_a_list_of_ends(
            slices in proptest::collection::vec(
                (proptest::collection::vec(1_usize..20, 1..9), 0_usize..300, any::<bool>(), 0_u64..90),
                0..20,
            ),
            part in proptest::option::of((proptest::collection::vec(1_usize..20, 1..9), 1_u32..9)),
            unacknowledged in 0_u64..400,
        ) {
            let mut in_flight = InFlight::default();
            let (mut written, mut arrived, mut ends) = (0, 0, Vec::new());
            for (lengths, before, counted, acknowledged) in &slices {
                for length in lengths {
                    written += *length as u64;
                    ends.extend(counted.then_some(written));
                }
                in_flight.push(&slice(lengths, *before, *counted));
                arrived = written.min(arrived + acknowledged);
                in_flight.settle(arrived);
            }
            if let Some((lengths, bytes)) = part {
                let slice = slice(&lengths, 7, true);
                let bytes = bytes.min(slice.end - slice.start);
                in_flight.push_part(&slice, bytes);
                let mut end = written;
                for length in lengths {
                    end += length as u64;
                    ends.extend((end <= written + u64::from(bytes)).then_some(end));
                }
                written += u64::from(bytes);
            }
            let arrived = arrived.max(written.saturating_sub(unacknowledged));
            let expected = ends.iter().filter(|end| **end <= arrived).count();
            prop_assert_eq!(in_flight.finish(arrived), expected as u64);
        }
    }
}
