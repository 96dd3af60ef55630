//! A room's name and the rule for it, and the rooms of one client as its reader knows them. Pure.

use std::borrow::Borrow;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::{error, fmt};

/// How a room's name begins. No client's name holds it, so no client can pass for a room.
pub(crate) const SIGN: u8 = b'#';

/// The longest name of a room, in bytes, its `#` included.
pub(crate) const MAX_ROOM: usize = 32;

/// How many rooms a client may be in. Each is charged to its window as long as it is in it.
pub(crate) const MAX_ROOMS: usize = 64;

/// The rule for a room's name, as refusals state it.
pub(crate) const RULE: &str = "expected # and 1 to 31 of A-Z a-z 0-9 _ . -";

/// A room's name: `#` and 1 to 31 of `A-Z a-z 0-9 _ . -`, case-sensitive. Cheap to clone.
///
/// ```
/// use a_chat::Room;
///
/// let dev: Room = "#dev".parse()?;
/// assert_eq!(dev, "#dev");
/// assert_eq!(dev.as_str(), "#dev");
///
/// let error = Room::new("dev").expect_err("it has no #");
/// assert_eq!(error.to_string(), "expected # and 1 to 31 of A-Z a-z 0-9 _ . -");
/// # Ok::<(), a_chat::InvalidRoom>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(into = "String", try_from = "String")
)]
pub struct Room(Arc<str>);

impl Room {
    /// Takes text or bytes as a room's name, which begins with `#`.
    ///
    /// # Errors
    ///
    /// [`InvalidRoom`] if they break the rule for rooms.
    pub fn new(name: impl AsRef<[u8]>) -> Result<Self, InvalidRoom> {
        let bytes = name.as_ref();
        let text = std::str::from_utf8(bytes).ok().filter(|_| is_room(bytes));
        let text = text.ok_or(InvalidRoom(()))?;
        Ok(Self(text.into()))
    }

    /// The name as text, with its `#`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether these bytes follow the rule for rooms.
pub(crate) fn is_room(bytes: &[u8]) -> bool {
    let legal = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    (2..=MAX_ROOM).contains(&bytes.len()) && bytes[0] == SIGN && bytes[1..].iter().all(legal)
}

/// The text or the bytes are no [`Room`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidRoom(());

impl fmt::Display for InvalidRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(RULE)
    }
}

impl error::Error for InvalidRoom {}

impl fmt::Display for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for Room {
    type Err = InvalidRoom;

    fn from_str(name: &str) -> Result<Self, InvalidRoom> {
        Self::new(name)
    }
}

impl TryFrom<&str> for Room {
    type Error = InvalidRoom;

    fn try_from(name: &str) -> Result<Self, InvalidRoom> {
        Self::new(name)
    }
}

impl TryFrom<String> for Room {
    type Error = InvalidRoom;

    fn try_from(name: String) -> Result<Self, InvalidRoom> {
        Self::new(name)
    }
}

impl From<Room> for String {
    fn from(room: Room) -> Self {
        room.as_str().to_owned()
    }
}

impl AsRef<str> for Room {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl PartialEq<str> for Room {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

impl PartialEq<&str> for Room {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == *other
    }
}

/// As the broker looks rooms up: by the bytes that a sender typed.
impl Borrow<[u8]> for Room {
    fn borrow(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl Hash for Room {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.as_bytes().hash(state);
    }
}

/// How many members of a room get what is sent to it. The broker counts them, and the members'
/// readers charge for them.
#[derive(Clone, Debug, Default)]
pub(crate) struct RoomSize(Arc<AtomicU32>);

impl RoomSize {
    pub(crate) fn get(&self) -> u32 {
        self.0.load(Relaxed)
    }

    pub(crate) fn set(&self, members: u32) {
        self.0.store(members, Relaxed);
    }

    /// How many members to charge a line for, so that the room may grow meanwhile: until it has
    /// more than that, the line is routed.
    pub(crate) fn to_charge(&self) -> u32 {
        self.get().max(1).next_power_of_two()
    }
}

/// The rooms that a client is in, as its reader knows them: at most [`MAX_ROOMS`].
#[derive(Debug, Default)]
pub(crate) struct Memberships(Vec<(Room, RoomSize)>);

impl Memberships {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the client may be in one more room, or is in this one already.
    pub(crate) fn may_join(&self, room: &[u8]) -> bool {
        self.0.len() < MAX_ROOMS || self.size(room).is_some()
    }

    pub(crate) fn size(&self, room: &[u8]) -> Option<&RoomSize> {
        self.0.iter().find(|(name, _)| name.as_str().as_bytes() == room).map(|(_, size)| size)
    }

    /// Notes that the client is in a room; it may have been in it before.
    pub(crate) fn insert(&mut self, room: Room, size: RoomSize) {
        self.remove(room.as_str().as_bytes());
        self.0.push((room, size));
    }

    /// Whether the client was in the room.
    pub(crate) fn remove(&mut self, room: &[u8]) -> bool {
        let place = self.0.iter().position(|(name, _)| name.as_str().as_bytes() == room);
        place.is_some_and(|place| {
            self.0.swap_remove(place);
            if self.0.is_empty() {
                *self = Self::default();
            }
            true
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rooms_follow_their_rule() {
        for good in ["#a", "#Z", "#0", "#_.-", "#dev", &format!("#{}", "x".repeat(31))] {
            assert!(Room::new(good).is_ok(), "{good}");
        }
        for bad in ["", "#", "dev", "##dev", "#a b", "#a:b", "#é", &format!("#{}", "x".repeat(32))]
        {
            assert_eq!(Room::new(bad), Err(InvalidRoom(())), "{bad}");
        }
        Room::new(b"#\xff").expect_err("it is not text");
    }

    #[test]
    fn a_room_is_charged_for_room_to_grow() {
        let size = RoomSize::default();
        for (members, charged) in [(0, 1), (1, 1), (2, 2), (3, 4), (100, 128), (4096, 4096)] {
            size.set(members);
            assert_eq!(size.to_charge(), charged, "{members}");
        }
    }

    #[test]
    fn a_client_is_in_so_many_rooms_at_once_and_no_more() {
        let mut rooms = Memberships::default();
        let room = |number: usize| Room::new(format!("#{number}")).expect("a room");
        for number in 0..MAX_ROOMS {
            assert!(rooms.may_join(room(number).as_str().as_bytes()));
            rooms.insert(room(number), RoomSize::default());
        }
        rooms.insert(room(3), RoomSize::default());
        assert!(!rooms.may_join(b"#one-more") && rooms.may_join(b"#3"));
        assert!(rooms.remove(b"#3") && !rooms.remove(b"#3"));
        assert!(rooms.may_join(b"#one-more") && rooms.size(b"#3").is_none());
    }
}
