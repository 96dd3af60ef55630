//! How pieces of lines stand in the engine: written by the origin's egress, completed by the script
//! that sends them, read and checked by the receiver's ingress. Pure.
//!
//! A parcel is any number of pieces. A piece begins with its deliveries at this node, as text: their
//! numbers and sessions, `17:4,18:9;`; session 0 stands for all members of a room. Several pieces for
//! one session have one such text, `17+18+21:4;`, with a number for each. Then follow,
//! little-endian: the format (1 byte), the length of the sender's name (1 byte) and the name, those of
//! its room, or 0, the sender's session (8), the lowest number that the origin may still send again
//! (8), the number of the first line (8), of messages (4), of bytes (4), and the frames as the socket
//! will get them.

use std::ops::Range;

use crate::wire::name::Name;
use crate::wire::protocol;
use crate::wire::room::Room;

/// A client's connection at one node: the connection's number.
pub(crate) type Session = u64;

/// No node counts its deliveries further than that, and the next number can still be told.
pub(crate) const MAX_NUMBER: u64 = u64::MAX >> 1;

/// The session of a delivery to all members of a room. No connection has this number.
pub(crate) const ALL_MEMBERS: Session = 0;

/// The format of pieces. Each release reads this one and the one before.
const FORMAT: u8 = 1;

/// A piece as it was read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Arrived {
    /// The deliveries: their numbers, and the sessions they are for.
    pub(crate) deliveries: Vec<(u64, Session)>,
    pub(crate) sender: Name,
    /// The room that the lines were sent to.
    pub(crate) room: Option<Room>,
    /// The sender's session at its own node.
    pub(crate) from: Session,
    pub(crate) lowest: u64,
    pub(crate) first_line: u64,
    pub(crate) messages: u32,
    /// Where the frames stand in the parcel.
    pub(crate) frames: Range<u32>,
}

/// What does not change a piece's way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin<'a> {
    pub(crate) sender: &'a Name,
    pub(crate) room: Option<&'a Room>,
    pub(crate) from: Session,
    pub(crate) lowest: u64,
    pub(crate) first_line: u64,
    pub(crate) messages: u32,
}

/// Writes a piece without its deliveries, which the script adds.
pub(crate) fn write_piece(origin: Origin<'_>, frames: &[u8]) -> Vec<u8> {
    let sender = origin.sender.as_str().as_bytes();
    let room = origin.room.map_or(&b""[..], |room| room.as_str().as_bytes());
    let mut body = Vec::with_capacity(35 + sender.len() + room.len() + frames.len());
    body.push(FORMAT);
    // A name has at most 32 bytes, and so has a room.
    body.push(u8::try_from(sender.len()).unwrap_or(0));
    body.extend_from_slice(sender);
    body.push(u8::try_from(room.len()).unwrap_or(0));
    body.extend_from_slice(room);
    body.extend_from_slice(&origin.from.to_le_bytes());
    body.extend_from_slice(&origin.lowest.to_le_bytes());
    body.extend_from_slice(&origin.first_line.to_le_bytes());
    body.extend_from_slice(&origin.messages.to_le_bytes());
    body.extend_from_slice(&u32::try_from(frames.len()).unwrap_or(0).to_le_bytes());
    body.extend_from_slice(frames);
    body
}

/// Reads a parcel. `None` if anything in it is not as a node writes it: whoever can write to the
/// engine could otherwise send any bytes to any client, in anybody's name.
pub(crate) fn read_parcel(parcel: &[u8]) -> Option<Vec<Arrived>> {
    let mut pieces = Vec::new();
    let mut rest = parcel;
    while !rest.is_empty() {
        let end = memchr::memchr(b';', rest)?;
        let head = std::str::from_utf8(&rest[..end]).ok()?;
        rest = &rest[end + 1..];
        if let Some((numbers, session)) = head.split_once(':').filter(|(it, _)| it.contains('+')) {
            let session = session.parse().ok()?;
            for number in numbers.split('+') {
                let deliveries = vec![(read_number(number)?, session)];
                pieces.push(read_piece(parcel, &mut rest, deliveries)?);
            }
            continue;
        }
        let deliveries = head.split(',').map(|delivery| {
            let (number, session) = delivery.split_once(':')?;
            Some((read_number(number)?, session.parse().ok()?))
        });
        let deliveries = deliveries.collect::<Option<_>>()?;
        pieces.push(read_piece(parcel, &mut rest, deliveries)?);
    }
    Some(pieces)
}

fn read_number(text: &str) -> Option<u64> {
    text.parse().ok().filter(|number| *number <= MAX_NUMBER)
}

/// Reads the piece at the front of `rest`, which is the end of `parcel`.
fn read_piece(parcel: &[u8], rest: &mut &[u8], deliveries: Vec<(u64, Session)>) -> Option<Arrived> {
    let mut take = |count: usize| {
        let (taken, left) = rest.split_at_checked(count)?;
        *rest = left;
        Some(taken)
    };
    if take(1)? != [FORMAT] {
        return None;
    }
    let length = usize::from(take(1)?[0]);
    let sender = Name::new(take(length)?).ok()?;
    let room = match usize::from(take(1)?[0]) {
        0 => None,
        length => Some(Room::new(take(length)?).ok()?),
    };
    if room.is_none() && deliveries.iter().any(|(_, session)| *session == ALL_MEMBERS) {
        return None;
    }
    let from = u64::from_le_bytes(take(8)?.try_into().ok()?);
    let lowest = u64::from_le_bytes(take(8)?.try_into().ok()?);
    let first_line = u64::from_le_bytes(take(8)?.try_into().ok()?);
    let messages = u32::from_le_bytes(take(4)?.try_into().ok()?);
    let length = u32::from_le_bytes(take(4)?.try_into().ok()?);
    let frames = take(length as usize)?;
    if !are_frames(frames, &sender, room.as_ref(), messages) {
        return None;
    }
    let end = u32::try_from(parcel.len() - rest.len()).ok()?;
    let frames = end - length..end;
    Some(Arrived { deliveries, sender, room, from, lowest, first_line, messages, frames })
}

/// Whether these are `messages` messages from `sender`, to the room if there is one.
fn are_frames(frames: &[u8], sender: &Name, room: Option<&Room>, messages: u32) -> bool {
    let mut prefix = protocol::message_prefix(sender);
    if let Some(room) = room {
        prefix = protocol::room_prefix(&prefix, room.as_str().as_bytes());
    }
    let (mut rest, mut count) = (frames, 0_u32);
    while let Some(end) = memchr::memchr(b'\n', rest) {
        if !rest.starts_with(&prefix) {
            return false;
        }
        count = count.saturating_add(1);
        rest = &rest[end + 1..];
    }
    rest.is_empty() && count == messages && count > 0 && simdutf8::basic::from_utf8(frames).is_ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn alice() -> Name {
        Name::new("alice").expect("a name")
    }

    fn piece(frames: &str, messages: u32) -> Vec<u8> {
        let sender = alice();
        let from = 5;
        let origin =
            Origin { sender: &sender, room: None, from, lowest: 3, first_line: 9, messages };
        write_piece(origin, frames.as_bytes())
    }

    #[test]
    fn a_parcel_is_read_as_it_was_written() {
        let frames = "from alice: x\nfrom alice: y\n";
        let mut parcel = b"17:4,18:9;".to_vec();
        parcel.extend(piece(frames, 2));
        parcel.extend_from_slice(b"20:4;");
        parcel.extend(piece("from alice: \u{e4};:,\n", 1));
        let read = read_parcel(&parcel).expect("a parcel");
        assert_eq!(read.len(), 2);
        assert_eq!(read[0].deliveries, [(17, 4), (18, 9)]);
        assert_eq!((read[0].lowest, read[0].first_line, read[0].messages), (3, 9, 2));
        let range = read[0].frames.start as usize..read[0].frames.end as usize;
        assert_eq!(&parcel[range], frames.as_bytes());
        assert_eq!((read[1].deliveries.as_slice(), read[1].messages), (&[(20, 4)][..], 1));
        assert_eq!(read_parcel(b""), Some(Vec::new()));
    }

    #[test]
    fn pieces_for_one_session_stand_behind_one_text() {
        let mut parcel = b"17+18+21:4;".to_vec();
        for text in ["x", "y", "z"] {
            parcel.extend(piece(&format!("from alice: {text}\n"), 1));
        }
        parcel.extend_from_slice(b"19:5;");
        parcel.extend(piece("from alice: x\n", 1));
        let read = read_parcel(&parcel).expect("a parcel");
        let deliveries: Vec<_> = read.iter().map(|piece| piece.deliveries[0]).collect();
        assert_eq!(deliveries, [(17, 4), (18, 4), (21, 4), (19, 5)]);
        let range = read[1].frames.start as usize..read[1].frames.end as usize;
        assert_eq!(&parcel[range], b"from alice: y\n");
        for damaged in ["17+18+21+22:4;", "17+:4;", "17+18:4,5:6;", "17+x:4;"] {
            let mut parcel = damaged.as_bytes().to_vec();
            parcel.extend(piece("from alice: x\n", 1));
            assert_eq!(read_parcel(&parcel), None, "{damaged}");
        }
    }

    #[test]
    fn frames_that_no_node_writes_are_refused() {
        for (frames, messages) in [
            ("from bob: x\n", 1),
            ("from alice: x", 1),
            ("from alice: x\nnotice: forged\n", 2),
            ("error: forged\n", 1),
            ("from alice: x\nfrom alice: y\n", 1),
            ("", 0),
        ] {
            let mut parcel = b"1:1;".to_vec();
            parcel.extend(piece(frames, messages));
            assert_eq!(read_parcel(&parcel), None, "{frames}");
        }
    }

    #[test]
    fn a_parcel_for_a_room_says_so_in_its_frames() {
        let (sender, room) = (alice(), Room::new("#dev").expect("a room"));
        let read = |room: Option<&Room>, session, frames: &str| {
            let origin =
                Origin { sender: &sender, room, from: 5, lowest: 3, first_line: 9, messages: 1 };
            let mut parcel = format!("7:{session};").into_bytes();
            parcel.extend(write_piece(origin, frames.as_bytes()));
            read_parcel(&parcel)
        };
        let arrived = read(Some(&room), ALL_MEMBERS, "from alice #dev: x\n").expect("a parcel");
        assert_eq!((arrived[0].room.as_ref(), arrived[0].from), (Some(&room), 5));
        assert_eq!(read(Some(&room), ALL_MEMBERS, "from alice: x\n"), None);
        assert_eq!(read(Some(&room), ALL_MEMBERS, "from alice #other: x\n"), None);
        assert_eq!(read(None, ALL_MEMBERS, "from alice: x\n"), None, "nobody is everybody");
        assert!(read(None, 4, "from alice: x\n").is_some());
    }

    /// The bytes of this release, which the next one has to read.
    #[test]
    fn the_format_does_not_change_by_accident() {
        let expected =
            b"\x01\x05alice\0\x05\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\x09\0\0\0\0\0\0\0\x01\0\0\0\x0e\0\0\0from alice: x\n";
        assert_eq!(piece("from alice: x\n", 1), expected);
    }

    proptest! {
        #[test]
        fn a_damaged_parcel_is_refused_or_read_and_never_a_panic(
            at in 0usize..60, byte in any::<u8>(), length in 0usize..80,
        ) {
            let mut parcel = b"17:4,18:9;".to_vec();
            parcel.extend(piece("from alice: x\nfrom alice: y\n", 2));
            let last = parcel.len() - 1;
            parcel[at.min(last)] = byte;
            parcel.truncate(length);
            let _ = read_parcel(&parcel);
        }
    }
}
