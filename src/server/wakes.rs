//! Which writers are to be woken, and how many at a time. Plain state, owned by the broker.
//!
//! Queueing a line for a large room takes the broker a fraction of a millisecond; waking the writers
//! of all its members takes many times as long, and everyone else waits meanwhile. So these wakes are
//! spread over many rounds, behind those of smaller steps.

use std::collections::VecDeque;

/// Wakes for steps with more recipients than this are spread.
pub(crate) const MAX_URGENT: usize = 256;

/// How many of those are made in one round: about a millisecond's worth.
const SPREAD_WAKES: usize = 256;

/// The peers that have something pending, by their keys.
///
/// A key may outlive its peer, and then be that of another one. Waking a peer for which nothing is
/// pending does nothing, so no key has to be searched for when a peer leaves.
#[derive(Debug, Default)]
pub(crate) struct Dirty {
    /// To be woken at the end of the round.
    urgent: Vec<usize>,
    /// To be woken some in each round.
    spread: VecDeque<usize>,
}

/// From which of the lists a peer is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    Urgent,
    Spread,
}

/// In which of the lists a peer is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Waits {
    urgent: bool,
    spread: bool,
}

impl Dirty {
    /// Adds a peer, unless its turn comes early enough anyway.
    pub(crate) fn add(&mut self, key: usize, waits: &mut Waits, is_urgent: bool) {
        if waits.urgent {
            return;
        }
        if is_urgent {
            waits.urgent = true;
            self.urgent.push(key);
        } else if !waits.spread {
            waits.spread = true;
            self.spread.push_back(key);
        }
    }

    /// Whether some are to be woken in the rounds to come.
    pub(crate) fn has_spread(&self) -> bool {
        !self.spread.is_empty()
    }

    /// The peers to wake now, those that are urgent first. [`Waits::woken`] must be called for each.
    pub(crate) fn next_round(&mut self) -> impl Iterator<Item = (usize, Turn)> {
        let spread = self.spread.len().min(SPREAD_WAKES);
        let urgent = self.urgent.drain(..).map(|key| (key, Turn::Urgent));
        urgent.chain(self.spread.drain(..spread).map(|key| (key, Turn::Spread)))
    }
}

impl Waits {
    /// The peer was taken from one of the lists; it may still be in the other.
    pub(crate) fn woken(&mut self, turn: Turn) {
        match turn {
            Turn::Urgent => self.urgent = false,
            Turn::Spread => self.spread = false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wakes_of_a_large_step_are_spread_behind_all_others() {
        let (mut dirty, mut waits) = (Dirty::default(), vec![Waits::default(); 1000]);
        for (key, waits) in waits.iter_mut().enumerate() {
            dirty.add(key, waits, false);
            dirty.add(key, waits, false);
        }
        for round in 0..4 {
            // A message to one of them alone, each round.
            dirty.add(999, &mut waits[999], true);
            dirty.add(999, &mut waits[999], false);
            let woken: Vec<_> = dirty.next_round().collect();
            for (key, turn) in &woken {
                waits[*key].woken(*turn);
            }
            assert_eq!(woken[0], (999, Turn::Urgent));
            let spread = woken[1..].iter().map(|(key, _)| *key);
            assert!(spread.eq(256 * round..1000.min(256 * (round + 1))));
        }
        assert!(!dirty.has_spread(), "a key is in a list once, however often it is added");
        assert!(waits.iter().all(|waits| *waits == Waits::default()));
    }
}
