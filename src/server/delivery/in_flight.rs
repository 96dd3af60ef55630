//! The messages that are in flight to one client: written to its socket, and not yet acknowledged
//! by its kernel. Plain state, owned by the client's writer.
//!
//! The kernel reports how many bytes of the stream are unacknowledged, and the report must state
//! how many messages those are, so the ends of messages in flight are kept. They are found in the
//! frames themselves, which are shared, as long as that retains no more than twice the memory of
//! the bytes in flight; otherwise they are kept as lengths.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::server::delivery::pending::FrameSlice;
use crate::wire::batch::Frames;

/// With more bytes than this in flight, it is worth asking the kernel what was acknowledged.
const SETTLE_BYTES: u64 = 64 * 1024;

/// The same limit, in entries.
const SETTLE_ENTRIES: usize = 1024;

/// Consecutive replies share an entry until it reaches this many bytes.
const MAX_REPLY_ENTRY_BYTES: u32 = 16 * 1024;

/// The messages in flight to one peer, in stream order.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    entries: VecDeque<Entry>,
    /// The sum of all entries' bytes.
    bytes: u64,
    /// Messages that were acknowledged up to their last byte, and are no longer in `entries`.
    acknowledged: u64,
}

/// The bytes of one slice; every message in them is a line.
#[derive(Debug)]
struct Entry {
    bytes: u32,
    messages: u32,
    ends: Ends,
}

/// Where the messages of an entry end.
#[derive(Debug)]
enum Ends {
    /// At the end of the entry: it is one message, or none.
    WithEntry,
    /// At each line end in these frames, from this offset on.
    InFrames(Frames, u32),
    /// After these lengths.
    Lengths(Box<[u32]>),
}

impl InFlight {
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(crate) fn wants_settling(&self) -> bool {
        self.bytes > SETTLE_BYTES || self.entries.len() > SETTLE_ENTRIES
    }

    /// Records that a whole slice was written.
    pub(crate) fn push(&mut self, slice: &FrameSlice) {
        let bytes = slice.end - slice.start;
        let ends = if slice.messages <= 1 {
            Ends::WithEntry
        } else if slice.frames.bytes.capacity() <= 2 * bytes as usize {
            Ends::InFrames(Arc::clone(&slice.frames.bytes), slice.start)
        } else {
            Ends::Lengths(line_lengths(slice.bytes()))
        };
        self.bytes += u64::from(bytes);
        match self.entries.back_mut() {
            // The ends of replies do not matter, so many small ones share an entry.
            Some(last)
                if last.messages + slice.messages == 0 && last.bytes < MAX_REPLY_ENTRY_BYTES =>
            {
                last.bytes += bytes;
            }
            _ => self.entries.push_back(Entry { bytes, messages: slice.messages, ends }),
        }
    }

    /// Records that the first `written` bytes of a slice were written, and that no more will be.
    pub(crate) fn push_part(&mut self, slice: &FrameSlice, written: u32) {
        let part = &slice.bytes()[..written as usize];
        let lines = memchr::memchr_iter(b'\n', part).count();
        let messages = slice.messages.min(u32::try_from(lines).unwrap_or(u32::MAX));
        let ends = Ends::InFrames(Arc::clone(&slice.frames.bytes), slice.start);
        self.bytes += u64::from(written);
        self.entries.push_back(Entry { bytes: written, messages, ends });
    }

    /// Forgets everything acknowledged, given that the last `unacknowledged` bytes are not.
    pub(crate) fn settle(&mut self, unacknowledged: u64) {
        while let Some(first) = self.entries.front() {
            if self.bytes < unacknowledged + u64::from(first.bytes) {
                return;
            }
            self.bytes -= u64::from(first.bytes);
            self.acknowledged += u64::from(first.messages);
            self.entries.pop_front();
        }
        // Nothing is in flight: an idle client keeps no memory for it.
        self.entries = VecDeque::new();
    }

    /// How many messages were acknowledged up to their last byte, given that the last
    /// `unacknowledged` bytes are not and never will be. Forgets everything.
    pub(crate) fn finish(&mut self, unacknowledged: u64) -> u64 {
        self.settle(unacknowledged);
        if let Some(first) = self.entries.front() {
            self.acknowledged += first.messages_within(self.bytes.saturating_sub(unacknowledged));
        }
        (self.entries, self.bytes) = (VecDeque::new(), 0);
        self.acknowledged
    }
}

impl Entry {
    /// How many messages end within the first `bytes` of an entry that is not fully acknowledged.
    fn messages_within(&self, bytes: u64) -> u64 {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        let messages = match &self.ends {
            Ends::WithEntry => 0,
            Ends::InFrames(frames, start) => {
                let start = *start as usize;
                memchr::memchr_iter(b'\n', &frames[start..start + bytes]).count() as u64
            }
            Ends::Lengths(lengths) => {
                let ends = lengths.iter().scan(0, |end, length| {
                    *end += *length as usize;
                    Some(*end)
                });
                ends.take_while(|end| *end <= bytes).count() as u64
            }
        };
        messages.min(u64::from(self.messages))
    }
}

fn line_lengths(bytes: &[u8]) -> Box<[u32]> {
    let mut last = 0;
    let lengths = memchr::memchr_iter(b'\n', bytes).map(|end| {
        let length = end + 1 - last;
        last = end + 1;
        u32::try_from(length).unwrap_or(u32::MAX)
    });
    lengths.collect()
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
                assert_eq!(in_flight.finish(unacknowledged), acknowledged);
            }
        }
    }

    #[test]
    fn replies_do_not_count_as_messages() {
        let mut in_flight = InFlight::default();
        in_flight.push(&slice(&[9, 9], 0, false));
        in_flight.push_part(&slice(&[9, 9], 0, false), 12);
        assert_eq!(in_flight.finish(0), 0);
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
                in_flight.settle(written - arrived);
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
            prop_assert_eq!(in_flight.finish(written - arrived), expected as u64);
        }
    }
}
