//! The rooms in which this node has members: their names, for an engine that forgets, and the nodes of
//! all other members. Pure state, owned by the broker.

use std::collections::{BTreeSet, HashMap};

use foldhash::fast::RandomState;

use crate::cluster::engine::Life;
use crate::wire::name::Name;
use crate::wire::room::Room;

/// All rooms with members here.
#[derive(Debug, Default)]
pub(crate) struct Seats {
    rooms: HashMap<Room, Table, RandomState>,
}

#[derive(Debug, Default)]
struct Table {
    here: BTreeSet<Name>,
    /// As the engine has told last; this node is among them.
    lives: Vec<Life>,
}

impl Seats {
    /// A client of this node enters a room. False if it is in it already.
    pub(crate) fn join(&mut self, room: &Room, name: &Name) -> bool {
        self.rooms.entry(room.clone()).or_default().here.insert(name.clone())
    }

    /// A client of this node leaves a room. False if it is not in it.
    pub(crate) fn part(&mut self, room: &Room, name: &Name) -> bool {
        let Some(table) = self.rooms.get_mut(room) else { return false };
        let was_in = table.here.remove(name);
        if table.here.is_empty() {
            self.rooms.remove(room);
        }
        was_in
    }

    /// The engine has told where members are.
    pub(crate) fn note(&mut self, room: &Room, lives: Vec<Life>) {
        if let Some(table) = self.rooms.get_mut(room) {
            table.lives = lives;
        }
    }

    /// The other nodes with members, each with the room.
    pub(crate) fn elsewhere<'a>(
        &'a self,
        room: &[u8],
        own: &'a Life,
    ) -> impl Iterator<Item = (&'a Room, &'a Life)> + use<'a> {
        let lives = self.rooms.get_key_value(room).into_iter();
        let lives = lives.flat_map(|(room, table)| table.lives.iter().map(move |it| (room, it)));
        lives.filter(move |(_, life)| *life != own)
    }

    /// All members at this node, by room.
    pub(crate) fn all(&self) -> Vec<(Room, Name)> {
        let rooms = self.rooms.iter();
        rooms
            .flat_map(|(room, table)| table.here.iter().map(|name| (room.clone(), name.clone())))
            .collect()
    }

    pub(crate) fn clear(&mut self) {
        self.rooms.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_room_is_known_as_long_as_somebody_here_is_in_it() {
        let (a, b) = (Life::new("a.1"), Life::new("b.2"));
        let room = Room::new("#dev").expect("a room");
        let [alice, bob] = ["alice", "bob"].map(|name| Name::new(name).expect("a name"));
        let mut seats = Seats::default();
        let elsewhere = |seats: &Seats| {
            seats.elsewhere(b"#dev", &a).map(|(_, life)| life.clone()).collect::<Vec<_>>()
        };
        seats.note(&room, vec![a.clone(), b.clone()]);
        assert!(elsewhere(&seats).is_empty(), "nobody here is in it");
        assert!(seats.join(&room, &alice) && seats.join(&room, &bob));
        assert!(!seats.join(&room, &bob));
        seats.note(&room, vec![a.clone(), b.clone()]);
        assert_eq!(elsewhere(&seats), std::slice::from_ref(&b));
        assert!(seats.part(&room, &alice) && !seats.part(&room, &alice));
        assert_eq!(seats.all(), [(room.clone(), bob.clone())]);
        seats.part(&room, &bob);
        assert!(elsewhere(&seats).is_empty() && seats.all().is_empty());
    }
}
