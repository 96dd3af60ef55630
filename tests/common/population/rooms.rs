//! Rooms over time: which client certainly was in a room when a line to it was routed, and whether a
//! client that received one can have been in it.
//!
//! A client entered a room after it created the line that asks for it and before it read the reply.
//! It left after it created the line that asks for that, or did what ends its connection.

use std::time::Instant;

use a_chat::CloseReason;

use super::World;
use super::line_generator::Meaning;
use super::model::Connection;
use super::reply::RoomReply;

/// The names of all rooms.
pub const ROOMS: [&str; 3] = ["#r0", "#r1", "#r2"];

/// The stays of each connection in each room.
#[derive(Debug)]
pub struct Rooms {
    stays: Vec<[Vec<Stay>; ROOMS.len()]>,
}

/// A period in which a client was in a room.
#[derive(Clone, Copy, Debug)]
struct Stay {
    /// When it certainly was in it, if ever; the end may be unknown.
    sure: Option<(Instant, Option<Instant>)>,
    /// When it may have been in it.
    possible: (Instant, Option<Instant>),
}

/// Whether a line to a room was owed to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owed {
    Yes,
    Maybe,
    No,
}

impl Rooms {
    /// Follows each client's lines about rooms, and checks their replies.
    pub fn of(world: &World, connections: &[Connection], patient: bool) -> Self {
        let of = |connection| Walk::of(world, connection, patient);
        Self { stays: connections.iter().map(of).collect() }
    }

    /// Whether a line was owed to this connection, if it was routed to the room at an unknown time
    /// between these.
    pub fn owed(&self, by: usize, room: usize, from: Instant, to: Option<Instant>) -> Owed {
        let stays = &self.stays[by][room];
        let covers = |stay: &Stay| {
            stay.sure.is_some_and(|(began, ended)| {
                began <= from && ended.is_none_or(|ended| to.is_some_and(|to| to <= ended))
            })
        };
        let meets = |stay: &Stay| {
            let (began, ended) = stay.possible;
            to.is_none_or(|to| began <= to) && ended.is_none_or(|ended| from <= ended)
        };
        if stays.iter().any(covers) {
            Owed::Yes
        } else if stays.iter().any(meets) {
            Owed::Maybe
        } else {
            Owed::No
        }
    }
}

/// One client's way through the rooms.
struct Walk {
    stays: [Vec<Stay>; ROOMS.len()],
    is_in: [bool; ROOMS.len()],
}

impl Walk {
    fn of(world: &World, connection: &Connection, patient: bool) -> [Vec<Stay>; ROOMS.len()] {
        let (seen, record) = (&connection.seen, &connection.record);
        let mut walk = Self { stays: Default::default(), is_in: [false; ROOMS.len()] };
        let mut lines = seen.session.line_generator();
        let mut replies = seen.replies.iter().peekable();
        let last_reply = seen.replies.last().map_or(0, |reply| reply.line);
        // A client that the server drops, or that vanishes, is out of its rooms some time before it
        // or the log knows.
        let stays_to_the_end = patient
            && (record.reason == CloseReason::Shutdown || record.reason == CloseReason::Left);
        for line in 1..=record.accepted {
            let reply = replies.next_if(|reply| reply.line == line);
            let is_settled = line <= last_reply || connection.knows_all_replies();
            let said = reply.and_then(|reply| reply.room);
            let made = || seen.made(line);
            match lines.line(world, line).meaning {
                Meaning::Join { room } => {
                    assert!(
                        said == Some(RoomReply::Joined) || reply.is_none() && !is_settled,
                        "{reply:?} to line {line}, which joins: {connection}"
                    );
                    let came = reply.map(|reply| reply.came);
                    walk.join(room, made(), came.filter(|_| stays_to_the_end), seen.left_at);
                }
                Meaning::Leave { room } => {
                    let expected =
                        if walk.is_in[room] { RoomReply::Left } else { RoomReply::NotIn };
                    let put_out = !patient && said == Some(RoomReply::NotIn);
                    assert!(
                        said == Some(expected) || put_out || reply.is_none() && !is_settled,
                        "{reply:?} to line {line}, which leaves: {connection}"
                    );
                    walk.leave(room, made(), reply.map(|reply| reply.came));
                }
                Meaning::RoomMessage { room, .. } if is_settled => {
                    let put_out = !patient && said == Some(RoomReply::NotIn);
                    let is_right = if walk.is_in[room] {
                        put_out || said != Some(RoomReply::NotIn)
                    } else {
                        said == Some(RoomReply::NotIn)
                    };
                    assert!(is_right, "{reply:?} to line {line}, for a room: {connection}");
                }
                _ => {}
            }
        }
        walk.stays
    }

    fn join(&mut self, room: usize, made: Instant, sure: Option<Instant>, left: Option<Instant>) {
        self.is_in[room] = true;
        match self.stays[room].last_mut().filter(|stay| stay.possible.1.is_none()) {
            // It was in it already, unless it was put out.
            Some(stay) => stay.sure = stay.sure.or(sure.map(|sure| (sure, left))),
            None => self.stays[room]
                .push(Stay { sure: sure.map(|sure| (sure, left)), possible: (made, None) }),
        }
    }

    fn leave(&mut self, room: usize, made: Instant, came: Option<Instant>) {
        self.is_in[room] = false;
        let Some(stay) = self.stays[room].last_mut() else { return };
        if let Some((_, ended)) = &mut stay.sure {
            *ended = Some(ended.map_or(made, |ended| ended.min(made)));
        }
        if stay.possible.1.is_none() {
            stay.possible.1 = came;
        }
    }
}
