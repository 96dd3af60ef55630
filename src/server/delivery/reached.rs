//! Whom a client has sent messages to: the peers that its next `/sync` has to ask. Plain state, owned
//! by the broker.

/// The keys of peers that a client may have unfinished messages at.
///
/// A key is that of a slot, which another peer may use later. So these may be more peers than were
/// sent anything; one that was not has nothing to wait for, and says so at once.
#[derive(Debug, Default)]
pub(crate) struct Reached {
    /// The keys modulo 64, as bits. They cost nothing, and narrow down the first `/sync` of a client,
    /// for which nothing else is known.
    folded: u64,
    /// All keys since the last `/sync` that was confirmed, from a client's first `/sync` on: each key
    /// is a bit.
    exact: Option<Vec<u64>>,
    /// The client was told of a loss since its last `/sync`.
    pub(crate) lost: bool,
    /// A loss since then cannot be excluded.
    pub(crate) unaccounted: bool,
}

impl Reached {
    /// Notes that a message was sent to the peer of this key.
    pub(crate) fn add(&mut self, key: usize) {
        match &mut self.exact {
            None => self.folded |= 1 << (key % 64),
            Some(bits) => {
                if bits.len() <= key / 64 {
                    bits.resize(key / 64 + 1, 0);
                }
                bits[key / 64] |= 1 << (key % 64);
            }
        }
    }

    /// Whether a message may have been sent to the peer of this key.
    pub(crate) fn contains(&self, key: usize) -> bool {
        let bits = match &self.exact {
            None => self.folded,
            Some(bits) => bits.get(key / 64).copied().unwrap_or(0),
        };
        bits >> (key % 64) & 1 == 1
    }

    /// True if no message was sent, or every one is accounted for.
    pub(crate) fn is_empty(&self) -> bool {
        match &self.exact {
            None => self.folded == 0,
            Some(bits) => bits.iter().all(|bits| *bits == 0),
        }
    }

    /// Remembers from now on exactly whom messages are sent to; these peers were asked.
    pub(crate) fn note_asked(&mut self, asked: &[usize]) {
        if self.exact.is_none() {
            self.exact = Some(Vec::new());
            for &key in asked {
                self.add(key);
            }
        }
    }

    /// Everything sent so far is accounted for.
    pub(crate) fn clear(&mut self) {
        self.exact = Some(Vec::new());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_question_goes_to_too_many_and_the_next_ones_to_exactly_those_reached() {
        let mut reached = Reached::default();
        assert!(reached.is_empty());
        reached.add(3);
        let asked: Vec<_> = (0..200).filter(|key| reached.contains(*key)).collect();
        assert_eq!(asked, [3, 67, 131, 195]);
        reached.note_asked(&asked);
        reached.add(70);
        let asked: Vec<_> = (0..200).filter(|key| reached.contains(*key)).collect();
        assert_eq!(asked, [3, 67, 70, 131, 195], "what is not confirmed stays");
        reached.clear();
        assert!(reached.is_empty());
        reached.add(5000);
        let asked: Vec<_> = (0..9000).filter(|key| reached.contains(*key)).collect();
        assert_eq!(asked, [5000]);
    }
}
