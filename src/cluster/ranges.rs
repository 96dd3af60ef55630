//! Sets of delivery numbers, and what a node acknowledges of them. Pure.

use std::collections::VecDeque;
use std::fmt::{self, Write};
use std::ops::RangeInclusive;

use crate::cluster::parcel::{MAX_NUMBER, Session};
use crate::wire::loss::{LossReason, LostLines};
use crate::wire::name::Name;

/// A set of numbers, kept as ranges: numbers come nearly in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ranges {
    /// The first and the last number of each range, in order. No two ranges touch. They come at the back
    /// and go at the front, mostly.
    ranges: VecDeque<(u64, u64)>,
}

impl Ranges {
    /// The set of these numbers, in any order.
    pub(crate) fn of(mut numbers: Vec<u64>) -> Self {
        numbers.sort_unstable();
        let mut set = Self::default();
        for number in numbers {
            set.push(number, number);
        }
        set
    }

    /// Where the first range is that ends at or behind this number.
    fn position(&self, number: u64) -> usize {
        self.ranges.partition_point(|(_, last)| *last < number)
    }

    #[cfg(test)]
    pub(crate) fn contains(&self, number: u64) -> bool {
        self.ranges.get(self.position(number)).is_some_and(|(first, _)| *first <= number)
    }

    /// Adds a range none of whose numbers is below the last range's first.
    fn push(&mut self, first: u64, last: u64) {
        match self.ranges.back_mut() {
            Some((_, end)) if first <= *end + 1 => *end = last.max(*end),
            _ => self.ranges.push_back((first, last)),
        }
    }

    /// Adds a number; false if it is there already.
    pub(crate) fn insert(&mut self, number: u64) -> bool {
        if self.ranges.back().is_none_or(|(_, last)| *last < number) {
            self.push(number, number);
            return true;
        }
        let at = self.position(number);
        if self.ranges[at].0 <= number {
            return false;
        }
        let follows = at > 0 && self.ranges[at - 1].1 + 1 == number;
        let precedes = self.ranges[at].0 == number + 1;
        match (follows, precedes) {
            (true, true) => {
                let (_, last) = self.ranges.remove(at).unwrap_or_default();
                self.ranges[at - 1].1 = last;
            }
            (true, false) => self.ranges[at - 1].1 = number,
            (false, true) => self.ranges[at].0 = number,
            (false, false) => self.ranges.insert(at, (number, number)),
        }
        true
    }

    /// Takes a number out; false if it is not there.
    pub(crate) fn remove(&mut self, number: u64) -> bool {
        let at = self.position(number);
        let Some((first, last)) = self.ranges.get_mut(at).filter(|(first, _)| *first <= number)
        else {
            return false;
        };
        match (*first == number, *last == number) {
            (true, true) => drop(self.ranges.remove(at)),
            (true, false) => *first += 1,
            (false, true) => *last -= 1,
            (false, false) => {
                let end = std::mem::replace(last, number - 1);
                self.ranges.insert(at + 1, (number + 1, end));
            }
        }
        true
    }

    /// The lowest number.
    pub(crate) fn first(&self) -> Option<u64> {
        self.ranges.front().map(|(first, _)| *first)
    }

    /// Adds all of `other`.
    pub(crate) fn extend(&mut self, other: &Self) {
        let Some(&(first, _)) = other.ranges.front() else { return };
        // What is below stays as it is.
        let rest = self.ranges.split_off(self.position(first));
        let (mut one, mut another) = (rest.into_iter().peekable(), other.ranges.iter().peekable());
        loop {
            let next = match (one.peek(), another.peek()) {
                (Some((first, _)), Some((other, _))) if first <= other => one.next(),
                (Some(_), None) => one.next(),
                (_, Some(_)) => another.next().copied(),
                (None, None) => break,
            };
            if let Some((first, last)) = next {
                self.push(first, last);
            }
        }
    }

    /// How many numbers there are.
    pub(crate) fn len(&self) -> u64 {
        self.iter().map(|range| range.end() - range.start() + 1).sum()
    }

    /// Drops the numbers below `lowest`.
    pub(crate) fn forget_below(&mut self, lowest: u64) {
        self.ranges.drain(..self.position(lowest));
        if let Some((first, _)) = self.ranges.front_mut() {
            *first = lowest.max(*first);
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = RangeInclusive<u64>> {
        self.ranges.iter().map(|(first, last)| *first..=*last)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut ranges = VecDeque::new();
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
            ranges.push_back((first, last));
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
            numbers in prop::collection::vec(1u64..60, 0..80),
            gone in prop::collection::vec(1u64..60, 0..20),
            lowest in 0u64..70,
        ) {
            let (mut ranges, mut set) = (Ranges::default(), BTreeSet::new());
            for number in numbers {
                prop_assert_eq!(ranges.insert(number), set.insert(number));
            }
            for number in gone {
                prop_assert_eq!(ranges.remove(number), set.remove(&number));
            }
            prop_assert_eq!(ranges.first(), set.first().copied());
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
        fn sets_of_ranges_are_joined_as_sets_are(
            one in prop::collection::vec(1u64..40, 0..30),
            another in prop::collection::vec(1u64..40, 0..30),
        ) {
            let mut joined = Ranges::of(one.clone());
            joined.extend(&Ranges::of(another.clone()));
            let all: BTreeSet<u64> = one.into_iter().chain(another).collect();
            prop_assert_eq!(joined, Ranges::of(all.into_iter().collect()));
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
