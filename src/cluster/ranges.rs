//! Sets of delivery numbers, and what a node acknowledges of them. Pure.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::ops::RangeInclusive;

use crate::cluster::parcel::{MAX_NUMBER, Session};
use crate::wire::loss::{LossReason, LostLines};
use crate::wire::name::Name;

/// A set of numbers, kept as ranges: numbers come nearly in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ranges {
    /// From the first to the last number of each range. No two ranges touch.
    ranges: BTreeMap<u64, u64>,
}

impl Ranges {
    #[cfg(test)]
    pub(crate) fn contains(&self, number: u64) -> bool {
        self.ranges.range(..=number).next_back().is_some_and(|(_, last)| number <= *last)
    }

    /// Adds a number; false if it is there already.
    pub(crate) fn insert(&mut self, number: u64) -> bool {
        let before = self.ranges.range_mut(..=number).next_back();
        let mut first = number;
        match before {
            Some((_, last)) if number <= *last => return false,
            Some((start, last)) if number == *last + 1 => {
                first = *start;
                *last = number;
            }
            _ => {}
        }
        let last = match self.ranges.remove(&(number + 1)) {
            Some(last) => last,
            None if first < number => return true,
            None => number,
        };
        self.ranges.insert(first, last);
        true
    }

    /// Adds all of `other`.
    pub(crate) fn extend(&mut self, other: &Self) {
        for range in other.iter() {
            for number in range {
                self.insert(number);
            }
        }
    }

    /// How many numbers there are.
    pub(crate) fn len(&self) -> u64 {
        self.iter().map(|range| range.end() - range.start() + 1).sum()
    }

    /// Drops the numbers below `lowest`.
    pub(crate) fn forget_below(&mut self, lowest: u64) {
        while let Some(entry) = self.ranges.first_entry() {
            let (first, last) = (*entry.key(), *entry.get());
            if first >= lowest {
                break;
            }
            entry.remove();
            if last >= lowest {
                self.ranges.insert(lowest, last);
            }
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = RangeInclusive<u64>> {
        self.ranges.iter().map(|(first, last)| *first..=*last)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut ranges = BTreeMap::new();
        let (mut end, mut count) = (None, 0);
        for part in text.split(',').filter(|part| *part != "-") {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
            // In order, and not so many that a damaged entry costs more than it is worth.
            if first > last || end.is_some_and(|end| first <= end) || last > MAX_NUMBER {
                return None;
            }
            count += last - first + 1;
            if count > MAX_COUNT {
                return None;
            }
            end = Some(last);
            ranges.insert(first, last);
        }
        Some(Self { ranges })
    }
}

/// No acknowledgement covers more numbers at once: a node may have 64 MiB unsettled, and each number is
/// looked at.
const MAX_COUNT: u64 = 1 << 24;

impl fmt::Display for Ranges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.ranges.is_empty() {
            return f.write_char('-');
        }
        for (at, (first, last)) in self.ranges.iter().enumerate() {
            if at > 0 {
                f.write_char(',')?;
            }
            write!(f, "{first}")?;
            if last > first {
                write!(f, "-{last}")?;
            }
        }
        Ok(())
    }
}

/// What a node tells an origin about its deliveries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Acknowledgement {
    /// The broker has them: the account is this node's now.
    pub(crate) handled: Ranges,
    /// Written, or given up: the sender's window has room again.
    pub(crate) settled: Ranges,
    /// Delivered or lost: nothing more will be told.
    pub(crate) finished: Ranges,
    /// How many messages of a delivery were lost, all of them, and why.
    pub(crate) lost: Vec<(u64, u32, LossReason)>,
    /// What a connection has lost.
    pub(crate) told: Vec<Told>,
}

/// Lines of one client that one connection has lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    /// Counted from 1 for each origin: an acknowledgement that is repeated tells nothing twice.
    pub(crate) serial: u64,
    /// The sender, at its own node.
    pub(crate) session: Session,
    pub(crate) lines: LostLines,
    pub(crate) recipient: Name,
    pub(crate) reason: LossReason,
}

/// How a reason stands in an acknowledgement.
fn reason_number(reason: &LossReason) -> usize {
    LossReason::KNOWN.iter().position(|known| known == reason).unwrap_or(LossReason::KNOWN.len())
}

fn read_reason(text: &str) -> Option<LossReason> {
    let number: usize = text.parse().ok()?;
    let known = LossReason::KNOWN.get(number).cloned();
    Some(known.unwrap_or(LossReason::ServerError))
}

impl Told {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(':');
        let mut next = || parts.next();
        let mut number = || next()?.parse::<u64>().ok();
        let (serial, session) = (number()?, number()?);
        let lines = LostLines { first: number()?, last: number()?, count: number()? };
        let reason = read_reason(next()?)?;
        let recipient = Name::new(next()?).ok()?;
        let has_room = lines.count.checked_sub(1).is_some_and(|further| {
            lines.last.checked_sub(lines.first).is_some_and(|most| further <= most)
        });
        let is_sound = has_room && next().is_none();
        is_sound.then_some(Self { serial, session, lines, recipient, reason })
    }
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { serial, session, lines, recipient, reason } = self;
        let LostLines { first, last, count } = lines;
        let reason = reason_number(reason);
        write!(f, "{serial}:{session}:{first}:{last}:{count}:{reason}:{recipient}")
    }
}

impl Acknowledgement {
    /// Adds all of `other`.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.handled.extend(&other.handled);
        self.settled.extend(&other.settled);
        self.finished.extend(&other.finished);
        self.lost.extend_from_slice(&other.lost);
        self.told.extend_from_slice(&other.told);
        self.told.sort_by_key(|told| told.serial);
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(' ');
        let mut next = || Ranges::parse(parts.next()?);
        let (handled, settled, finished) = (next()?, next()?, next()?);
        let mut lost = Vec::new();
        for part in parts.next()?.split(',').filter(|part| *part != "-") {
            let (number, rest) = part.split_once(':')?;
            let (messages, reason) = rest.split_once(':')?;
            lost.push((number.parse().ok()?, messages.parse().ok()?, read_reason(reason)?));
        }
        let told = parts.next()?.split(',').filter(|part| *part != "-");
        let told = told.map(Told::parse).collect::<Option<_>>()?;
        parts.next().is_none().then_some(Self { handled, settled, finished, lost, told })
    }
}

impl fmt::Display for Acknowledgement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} ", self.handled, self.settled, self.finished)?;
        if self.lost.is_empty() {
            f.write_char('-')?;
        }
        for (at, (number, messages, reason)) in self.lost.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            write!(f, "{comma}{number}:{messages}:{}", reason_number(reason))?;
        }
        f.write_char(' ')?;
        if self.told.is_empty() {
            f.write_char('-')?;
        }
        for (at, told) in self.told.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            write!(f, "{comma}{told}")?;
        }
        Ok(())
    }
}

/// Whether an entry's text can be read as an acknowledgement.
pub(crate) fn is_acknowledgement(text: &str) -> bool {
    Acknowledgement::parse(text).is_some()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_set_of_ranges_is_a_set(
            numbers in prop::collection::vec(1u64..60, 0..80), lowest in 0u64..70,
        ) {
            let (mut ranges, mut set) = (Ranges::default(), BTreeSet::new());
            for number in numbers {
                prop_assert_eq!(ranges.insert(number), set.insert(number));
            }
            let parsed = Ranges::parse(&ranges.to_string());
            prop_assert_eq!(parsed.as_ref(), Some(&ranges));
            ranges.forget_below(lowest);
            set.retain(|number| *number >= lowest);
            prop_assert_eq!(ranges.len(), set.len() as u64);
            let flat: BTreeSet<u64> = ranges.iter().flatten().collect();
            prop_assert_eq!(&flat, &set);
            for number in 0..70 {
                prop_assert_eq!(ranges.contains(number), set.contains(&number));
            }
            let touching = ranges.iter().zip(ranges.iter().skip(1));
            prop_assert!(touching.into_iter().all(|(a, b)| a.end() + 1 < *b.start()));
        }

        #[test]
        fn whatever_stands_in_an_acknowledgement_is_read_or_refused(text in "[-,: 0-9a]{0,30}") {
            if let Some(read) = Acknowledgement::parse(&text) {
                let again = Acknowledgement::parse(&read.to_string());
                prop_assert_eq!(again, Some(read));
            }
        }
    }

    #[test]
    fn an_acknowledgement_is_read_back_from_its_text() {
        let mut told = Acknowledgement::default();
        assert_eq!(Acknowledgement::parse(&told.to_string()), Some(told.clone()));
        for number in [1, 2, 3, 7] {
            told.handled.insert(number);
        }
        told.settled.insert(2);
        told.lost.push((7, 3, LossReason::Left));
        told.told.push(Told {
            serial: 4,
            session: 9,
            lines: LostLines { first: 2, last: 5, count: 3 },
            recipient: Name::new("bob").expect("a name"),
            reason: LossReason::Evicted,
        });
        assert_eq!(told.to_string(), "1-3,7 2 - 7:3:1 4:9:2:5:3:0:bob");
        assert_eq!(Acknowledgement::parse(&told.to_string()), Some(told));
        for damaged in [
            "",
            "1 2",
            "3-1 - - - -",
            "1,1 - - - -",
            "1-99999999999 - - - -",
            "x - - - -",
            "1 - - -",
            "1 - - - 1:2:3",
            "1 - - - 4:9:5:2:3:0:bob",
            "1 - - - - -",
        ] {
            assert_eq!(Acknowledgement::parse(damaged), None, "{damaged}");
        }
    }
}
