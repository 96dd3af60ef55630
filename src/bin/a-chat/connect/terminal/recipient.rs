//! Who a line is for: a client, or a room. Plain values.

use std::fmt;

use a_chat::{Name, Room};

/// A client, or a room, which stands alone among recipients.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Recipient {
    Name(Name),
    Room(Room),
}

impl Recipient {
    /// Reads a name, or a room if it begins with `#`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let room = Room::new(text).map(Self::Room);
        room.or_else(|_| Name::new(text).map(Self::Name)).ok()
    }

    pub(crate) fn as_str(&self) -> &str {
        match self {
            Self::Name(name) => name.as_str(),
            Self::Room(room) => room.as_str(),
        }
    }

    pub(crate) fn is_room(&self) -> bool {
        matches!(self, Self::Room(_))
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<&Name> for Recipient {
    fn from(name: &Name) -> Self {
        Self::Name(name.clone())
    }
}

impl From<&Room> for Recipient {
    fn from(room: &Room) -> Self {
        Self::Room(room.clone())
    }
}
