//! How many bytes may be on their way to other nodes: what the engine and the others' brokers hold of
//! this node's lines has a bound, whatever clients do. Pure state, owned by the broker.
//!
//! A recipient may have half of what is left, and no more than [`MAX_OF_ONE`]: those that read slowly
//! get less the more of them there are, and never all of it. A recipient that has nothing on its way
//! may always have one batch.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use crate::cluster::engine::Recipient;

/// The bytes that may be unsettled in all.
pub(crate) const MAX_IN_ALL: usize = 64 * 1024 * 1024;

/// The bytes that may be unsettled for one recipient.
pub(crate) const MAX_OF_ONE: usize = 256 * 1024;

/// What is on its way, and not written by the recipient's node yet.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    by_recipient: HashMap<Recipient, usize, RandomState>,
    total: usize,
    /// Recipients for which senders wait.
    awaited: HashMap<Recipient, usize, RandomState>,
    freed: Vec<Recipient>,
}

impl Budget {
    /// Whether no recipient can have more than it may.
    pub(crate) fn is_ample(&self) -> bool {
        self.total < MAX_OF_ONE
    }

    /// Whether something more may be sent to this recipient.
    pub(crate) fn has_room(&self, recipient: &Recipient) -> bool {
        let used = self.by_recipient.get(recipient).copied().unwrap_or(0);
        used == 0 || used < MAX_OF_ONE.min(MAX_IN_ALL.saturating_sub(self.total) / 2)
    }

    pub(crate) fn charge(&mut self, recipient: &Recipient, bytes: usize) {
        self.total += bytes;
        *self.by_recipient.entry(recipient.clone()).or_default() += bytes;
    }

    pub(crate) fn release(&mut self, recipient: &Recipient, bytes: usize) {
        self.total = self.total.saturating_sub(bytes);
        if let Some(used) = self.by_recipient.get_mut(recipient) {
            *used = used.saturating_sub(bytes);
            if *used == 0 {
                self.by_recipient.remove(recipient);
            }
        }
        if self.awaited.contains_key(recipient) && self.has_room(recipient) {
            self.freed.push(recipient.clone());
        }
    }

    /// A sender waits until there is room for this recipient.
    pub(crate) fn wait(&mut self, recipient: &Recipient) {
        *self.awaited.entry(recipient.clone()).or_default() += 1;
    }

    /// A sender waits no more.
    pub(crate) fn wait_no_more(&mut self, recipient: &Recipient) {
        if let Some(waiting) = self.awaited.get_mut(recipient) {
            *waiting -= 1;
            if *waiting == 0 {
                self.awaited.remove(recipient);
            }
        }
    }

    /// The recipients for which there is room again since this was last asked.
    pub(crate) fn take_freed(&mut self) -> Vec<Recipient> {
        std::mem::take(&mut self.freed)
    }

    /// The bytes on their way.
    pub(crate) fn total(&self) -> usize {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::name::Name;

    fn recipient(number: usize) -> Recipient {
        Recipient::Client(Name::new(format!("n{number}")).expect("a name"))
    }

    #[test]
    fn recipients_that_take_nothing_never_get_all_of_it() {
        let mut budget = Budget::default();
        assert!(budget.is_ample());
        // A thousand of them, each of which is sent something for as long as it may.
        for number in 0..1000 {
            while budget.has_room(&recipient(number)) {
                budget.charge(&recipient(number), 4096);
            }
        }
        assert!(budget.total() <= MAX_IN_ALL + 1000 * 4096, "{}", budget.total());
        let other = recipient(1000);
        assert!(budget.has_room(&other), "somebody else still gets something");
    }

    #[test]
    fn who_waits_for_a_recipient_hears_of_room_for_it() {
        let mut budget = Budget::default();
        let (slow, other) = (recipient(1), recipient(2));
        budget.charge(&slow, MAX_OF_ONE);
        assert!(!budget.has_room(&slow) && budget.has_room(&other) && !budget.is_ample());
        budget.wait(&slow);
        budget.charge(&other, 10);
        budget.release(&other, 10);
        assert!(budget.take_freed().is_empty());
        budget.release(&slow, 100);
        assert_eq!(budget.take_freed(), std::slice::from_ref(&slow));
        budget.wait_no_more(&slow);
        budget.release(&slow, 100);
        assert!(budget.take_freed().is_empty(), "nobody waits");
        budget.release(&slow, MAX_OF_ONE - 200);
        assert_eq!(budget.total(), 0);
        assert!(budget.by_recipient.is_empty() && budget.awaited.is_empty());
    }
}
