//! Who comes to a room and leaves it, as one loud member is told: one notice at a time, which sums up
//! whatever happens until it is written. Filled by the broker, spelled out by the member's writer.
//!
//! Nobody is charged for these notices, so their number is bounded instead: however many come and
//! go, a member that reads nothing has one of them queued for each room.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::wire::name::Name;
use crate::wire::protocol;
use crate::wire::room::Room;

/// Whether somebody came or left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Move {
    Joined,
    Left,
}

/// A notice that is not written yet.
#[derive(Debug)]
pub(crate) struct RoomNews {
    room: Room,
    /// What the notice begins with.
    first: (Name, Move),
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    /// How many others joined and left after the first.
    joined: u64,
    left: u64,
    is_written: bool,
}

impl RoomNews {
    pub(crate) fn new(room: Room, who: Name, what: Move) -> Self {
        Self { room, first: (who, what), counts: Mutex::default() }
    }

    /// Adds to the notice; false if it is too late for that, and another is needed.
    pub(crate) fn add(&self, what: Move) -> bool {
        let mut counts = self.lock();
        match what {
            _ if counts.is_written => return false,
            Move::Joined => counts.joined += 1,
            Move::Left => counts.left += 1,
        }
        true
    }

    /// The notice, line end included. Nothing is added to it afterwards.
    pub(crate) fn spell_out(&self) -> Vec<u8> {
        let mut counts = self.lock();
        counts.is_written = true;
        let (who, what) = &self.first;
        let has_joined = *what == Move::Joined;
        protocol::room_news(&self.room, who, has_joined, counts.joined, counts.left)
    }

    /// Nothing here panics while it holds the lock.
    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notice_sums_up_what_happens_until_it_is_written() {
        let name = Name::new("bob").expect("a name");
        let room = Room::new("#dev").expect("a room");
        let news = |what| RoomNews::new(room.clone(), name.clone(), what);
        assert_eq!(news(Move::Joined).spell_out(), b"notice: #dev: bob joined\n");
        assert_eq!(news(Move::Left).spell_out(), b"notice: #dev: bob left\n");
        let summed_up = news(Move::Joined);
        for count in 0..57 {
            assert!(summed_up.add(Move::Joined));
            assert!(count >= 12 || summed_up.add(Move::Left));
        }
        let expected = b"notice: #dev: bob joined, 57 others came, 12 left\n";
        assert_eq!(summed_up.spell_out(), expected);
        assert!(!summed_up.add(Move::Joined), "it is written");
        let once = news(Move::Left);
        assert!(once.add(Move::Joined));
        assert_eq!(once.spell_out(), b"notice: #dev: bob left, 1 other came\n");
    }
}
