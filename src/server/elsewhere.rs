//! Senders at other nodes, as connections of this one: what is queued of their lines, and lost, is
//! known by a number for each, as it is for clients of this node. Plain state, owned by the broker.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use crate::cluster::engine::{Life, Session};
use crate::socket::connection::ConnectionId;

/// No connection of this node has such a number. Differences between numbers must fit 62 bits, see
/// `InFlight`.
const ELSEWHERE: u64 = 1 << 61;

/// Where in a number the life stands; below it the session, whose numbers count from 1.
const LIFE_SHIFT: u32 = 40;

/// All lives that were ever heard of; each is a few bytes.
#[derive(Debug, Default)]
pub(crate) struct Elsewhere {
    lives: Vec<Life>,
    numbers: HashMap<Life, u64, RandomState>,
}

impl Elsewhere {
    /// The number that stands for this sender.
    pub(crate) fn id(&mut self, life: &Life, session: Session) -> ConnectionId {
        let known = self.numbers.get(life).copied();
        let number = known.unwrap_or_else(|| {
            let number = self.lives.len() as u64;
            self.lives.push(life.clone());
            self.numbers.insert(life.clone(), number);
            number
        });
        let session = session & ((1 << LIFE_SHIFT) - 1);
        // More lives than fit would share numbers; their losses could not be told.
        ConnectionId(ELSEWHERE | number << LIFE_SHIFT & !ELSEWHERE | session)
    }

    /// The sender that this number stands for.
    pub(crate) fn sender(&self, id: ConnectionId) -> Option<(&Life, Session)> {
        let number = id.0 ^ ELSEWHERE;
        let life = usize::try_from(number >> LIFE_SHIFT).ok()?;
        let is_elsewhere = id.0 & ELSEWHERE != 0;
        let life = is_elsewhere.then(|| self.lives.get(life)).flatten()?;
        Some((life, number & ((1 << LIFE_SHIFT) - 1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_stands_for_one_sender() {
        let mut elsewhere = Elsewhere::default();
        let (a, b) = (Life::new("a.1"), Life::new("b.2"));
        let ids =
            [(&a, 1), (&b, 1), (&a, 70_000)].map(|(life, it)| (life, it, elsewhere.id(life, it)));
        for (life, session, id) in ids {
            assert_eq!(elsewhere.sender(id), Some((life, session)));
            assert_eq!(elsewhere.id(life, session), id);
        }
        assert_eq!(elsewhere.sender(ConnectionId(1)), None);
        assert_eq!(elsewhere.sender(crate::server::delivery::marks::EVERYONE), None);
    }
}
