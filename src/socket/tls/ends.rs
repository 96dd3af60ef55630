//! Where the records of an encrypted stream end, in ciphertext and in plaintext, for those that are
//! not acknowledged. Plain state, owned by the thread that sends.
//!
//! The kernel reports how much ciphertext is acknowledged. A record is useless without its last
//! byte, so the plaintext that is acknowledged ends with the last record that is so as a whole.

use std::collections::VecDeque;

use crate::socket::position::{Plain, Wire};

/// From so many records in flight on, several count as one, so that they take no more memory: 64 KiB.
/// Those are tens of thousands of lines that went out one by one within a round trip. What counts as
/// one is acknowledged with the last byte of it, so it may count as lost and never as delivered.
const MAX_RECORDS: usize = 16 * 1024;

/// The records that are not acknowledged as a whole, oldest first.
#[derive(Debug, Default)]
pub(crate) struct RecordEnds {
    /// The plaintext of each record, and how much longer its ciphertext is. In two bytes each: a
    /// client that gets one short line after another has thousands of records in flight.
    records: VecDeque<(u16, u16)>,
    /// Up to where whole records are acknowledged.
    acknowledged: (Wire, Plain),
    /// Where the last record ends.
    end: (Wire, Plain),
}

/// A state of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    records: usize,
    last: Option<(u16, u16)>,
    end: (Wire, Plain),
}

impl RecordEnds {
    /// Notes what was encrypted next: some plaintext, and all ciphertext that came of it. Alerts and
    /// the like have no plaintext.
    pub(crate) fn push(&mut self, plain: usize, cipher: usize) {
        self.end = advance(self.end, plain, cipher);
        let (mut plain, mut overhead) = (plain, cipher.saturating_sub(plain));
        if self.records.len() >= MAX_RECORDS && self.extend_last(plain, overhead) {
            return;
        }
        // One entry, unless a record is larger than any may be.
        loop {
            let part = |rest: usize| u16::try_from(rest).unwrap_or(u16::MAX);
            let entry = (part(plain), part(overhead));
            (plain, overhead) = (plain - usize::from(entry.0), overhead - usize::from(entry.1));
            self.records.push_back(entry);
            if (plain, overhead) == (0, 0) {
                break;
            }
        }
    }

    /// Takes a record for a part of the one before; false if that would be too large.
    fn extend_last(&mut self, plain: usize, overhead: usize) -> bool {
        let sum = |part: u16, more: usize| u16::try_from(usize::from(part) + more).ok();
        let Some(last) = self.records.back_mut() else { return false };
        let (Some(plain), Some(overhead)) = (sum(last.0, plain), sum(last.1, overhead)) else {
            return false;
        };
        *last = (plain, overhead);
        true
    }

    /// Where to [`roll back`](Self::roll_back) to, should what is encrypted next not be sent.
    pub(crate) fn mark(&self) -> Mark {
        Mark { records: self.records.len(), last: self.records.back().copied(), end: self.end }
    }

    /// Forgets what was noted since, with no acknowledgement in between.
    pub(crate) fn roll_back(&mut self, to: Mark) {
        self.records.truncate(to.records);
        if let (Some(last), Some(before)) = (self.records.back_mut(), to.last) {
            // It may have grown.
            *last = before;
        }
        self.end = to.end;
    }

    /// Where the last record ends.
    pub(crate) fn end(&self) -> (Wire, Plain) {
        self.end
    }

    /// Forgets the records that end before this, and returns up to where the plaintext is
    /// acknowledged.
    pub(crate) fn acknowledge(&mut self, to: Wire) -> Plain {
        while let Some(&(plain, overhead)) = self.records.front() {
            let (plain, overhead) = (usize::from(plain), usize::from(overhead));
            let next = advance(self.acknowledged, plain, plain + overhead);
            if next.0 > to {
                return self.acknowledged.1;
            }
            self.acknowledged = next;
            self.records.pop_front();
        }
        // Nothing is in flight, and an idle client holds no memory for it.
        self.records = VecDeque::new();
        self.acknowledged.1
    }
}

fn advance((wire, at): (Wire, Plain), plain: usize, cipher: usize) -> (Wire, Plain) {
    (Wire(wire.0 + cipher as u64), Plain(at.0 + plain as u64))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_record_counts_with_its_last_byte() {
        let mut ends = RecordEnds::default();
        ends.push(0, 1000);
        ends.push(100, 122);
        ends.push(50, 99);
        for (acknowledged, plain) in [(0, 0), (1121, 0), (1122, 100), (1220, 100), (1221, 150)] {
            assert_eq!(ends.acknowledge(Wire(acknowledged)), Plain(plain), "{acknowledged}");
        }
        assert_eq!(ends.records.capacity(), 0);
    }

    #[test]
    fn what_is_rolled_back_was_never_there() {
        let mut ends = RecordEnds::default();
        ends.push(100, 122);
        for fill in [0, MAX_RECORDS] {
            // With that many, the next ones become a part of the last.
            (0..fill).for_each(|_| ends.push(9, 31));
            let (mark, end) = (ends.mark(), ends.end());
            ends.push(1, 23);
            ends.push(1, 23);
            ends.roll_back(mark);
            assert_eq!(ends.end(), end);
        }
        ends.push(0, 24);
        let (wire, plain) = ends.end();
        assert_eq!(ends.acknowledge(wire), plain);
        assert_eq!(plain, Plain(100 + 9 * MAX_RECORDS as u64));
    }

    #[test]
    fn any_number_of_records_takes_bounded_memory_and_none_counts_too_early() {
        let (mut ends, count) = (RecordEnds::default(), 100_000);
        for _ in 0..count {
            ends.push(9, 31);
        }
        assert!(ends.records.len() < MAX_RECORDS + 100, "{}", ends.records.len());
        let mut arrived = 0;
        while arrived < 31 * count {
            arrived = (arrived + 1234).min(31 * count);
            let plain = ends.acknowledge(Wire(arrived)).0;
            assert!(plain <= arrived / 31 * 9 && plain + 65_536 >= arrived / 31 * 9, "{arrived}");
        }
        assert_eq!(ends.acknowledge(Wire(arrived)), Plain(9 * count));
    }

    proptest! {
        /// Against a plain list of ends, with acknowledgements at arbitrary times.
        #[test]
        fn the_acknowledged_plaintext_is_that_of_a_list_of_ends(
            steps in proptest::collection::vec((0_usize..=16_384, 22_usize..100, 0_u64..60_000), 0..40),
        ) {
            let (mut ends, mut list) = (RecordEnds::default(), vec![(Wire(0), Plain(0))]);
            let mut acknowledged = 0;
            for (plain, overhead, more) in steps {
                ends.push(plain, plain + overhead);
                list.push(advance(list[list.len() - 1], plain, plain + overhead));
                prop_assert_eq!(ends.end(), list[list.len() - 1]);
                acknowledged = ends.end().0.0.min(acknowledged + more);
                let whole = list.iter().rfind(|(wire, _)| wire.0 <= acknowledged);
                prop_assert_eq!(ends.acknowledge(Wire(acknowledged)), whole.expect("the first").1);
            }
        }
    }
}
