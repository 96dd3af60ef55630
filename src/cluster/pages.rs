//! A map from numbers that grow: entries are put in at the end and taken out nearly in order, thousands
//! later. Plain data.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// How many numbers a page has. One that is left alone keeps a whole page, of some KiB; and the map of
/// pages is that much smaller, and quicker, than one of entries.
const PAGE: u64 = 32;

#[derive(Debug)]
struct Page<T> {
    /// How many of the slots are taken.
    count: usize,
    slots: Box<[Option<T>]>,
}

/// The entries, by their number.
#[derive(Debug)]
pub(crate) struct Pages<T> {
    /// By the number of their first slot, divided by [`PAGE`]. None is empty.
    pages: BTreeMap<u64, Page<T>>,
}

impl<T> Default for Pages<T> {
    fn default() -> Self {
        Self { pages: BTreeMap::new() }
    }
}

fn slot(number: u64) -> usize {
    // Below PAGE.
    usize::try_from(number % PAGE).unwrap_or(0)
}

impl<T> Pages<T> {
    pub(crate) fn insert(&mut self, number: u64, entry: T) {
        let page = self
            .pages
            .entry(number / PAGE)
            .or_insert_with(|| Page { count: 0, slots: (0..PAGE).map(|_| None).collect() });
        page.count += usize::from(page.slots[slot(number)].replace(entry).is_none());
    }

    pub(crate) fn get(&self, number: u64) -> Option<&T> {
        self.pages.get(&(number / PAGE))?.slots[slot(number)].as_ref()
    }

    pub(crate) fn get_mut(&mut self, number: u64) -> Option<&mut T> {
        self.pages.get_mut(&(number / PAGE))?.slots[slot(number)].as_mut()
    }

    pub(crate) fn remove(&mut self, number: u64) -> Option<T> {
        let page = self.pages.get_mut(&(number / PAGE))?;
        let entry = page.slots[slot(number)].take()?;
        page.count -= 1;
        if page.count == 0 {
            self.pages.remove(&(number / PAGE));
        }
        Some(entry)
    }

    /// All entries, in the order of their numbers.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &T)> {
        self.pages.iter().flat_map(|(page, Page { slots, .. })| {
            let numbers = page * PAGE..;
            numbers.zip(slots).filter_map(|(number, slot)| Some((number, slot.as_ref()?)))
        })
    }

    /// The same, to be changed.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (u64, &mut T)> {
        self.range_mut(0..=u64::MAX)
    }

    /// Those with these numbers, in their order, to be changed.
    pub(crate) fn range_mut(
        &mut self,
        numbers: RangeInclusive<u64>,
    ) -> impl Iterator<Item = (u64, &mut T)> {
        let pages = self.pages.range_mut(numbers.start() / PAGE..=numbers.end() / PAGE);
        let entries = pages.flat_map(|(page, Page { slots, .. })| {
            let numbers = page * PAGE..;
            numbers.zip(slots).filter_map(|(number, slot)| Some((number, slot.as_mut()?)))
        });
        entries.filter(move |(number, _)| numbers.contains(number))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn pages_are_a_map(
            steps in prop::collection::vec((any::<bool>(), 0u64..200), 0..200),
            from in 0u64..200,
            to in 0u64..200,
        ) {
            let (mut pages, mut map) = (Pages::default(), BTreeMap::new());
            for (at, (is_put, number)) in steps.into_iter().enumerate() {
                if is_put {
                    pages.insert(number, at);
                    map.insert(number, at);
                } else {
                    prop_assert_eq!(pages.remove(number), map.remove(&number));
                }
                prop_assert_eq!(pages.get(number), map.get(&number));
            }
            prop_assert!(pages.iter().eq(map.iter().map(|(number, it)| (*number, it))));
            let (from, to) = (from.min(to), to.max(from));
            let of_map = map.range_mut(from..=to).map(|(number, it)| (*number, it));
            prop_assert!(pages.range_mut(from..=to).eq(of_map));
            prop_assert!(pages.iter_mut().count() == map.len());
            let in_pages: usize = pages.pages.values().map(|page| page.count).sum();
            prop_assert_eq!(in_pages, map.len());
            prop_assert!(pages.pages.values().all(|page| page.count > 0));
        }
    }
}
