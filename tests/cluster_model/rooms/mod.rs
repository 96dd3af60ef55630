//! Rooms: one copy of a line goes to each node with members, and is spread there, beside direct lines,
//! clients that move and nodes that stop; and an engine that forgets.
//!
//! Read in this order: `state`, `engine` (the scripts), `broker`, `steps` (what may happen, and what
//! must hold).

mod broker;
mod engine;
mod state;
mod steps;

use crate::topic::Topic;
use state::{ALICE, BOB, CAROL, ROOM};

/// A rule that can be taken out: the model has to fail then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// A member for whom something is on its way gets lines to its room by that way, too.
    Away,
    /// And then it does not get them here as well.
    NotHereAsWell,
    /// A node sends no copy to itself.
    NotItself,
    /// A client that joins a room is announced to all nodes with members before it gets its own answer.
    JoinTells,
    /// Nothing to a room overtakes what is held for one of its members that is about to move.
    BehindHolds,
    /// It waits there, rather than to leave a gap if all stop.
    RoomsWait,
    /// As long as there are members.
    HeldWhileThere,
    /// And nothing for one of them by name overtakes it.
    NamesWait,
    /// What is held goes back in one order.
    OneOrder,
    /// A life that enters a new incarnation names the members of its rooms.
    EnterSeats,
    /// All nodes with members hear of the others when it is opened.
    OpenTells,
    /// Joins without an answer are said again.
    JoinAgain,
}
const RULES: &[Rule] = &[
    Rule::Away,
    Rule::NotHereAsWell,
    Rule::NotItself,
    Rule::JoinTells,
    Rule::BehindHolds,
    Rule::RoomsWait,
    Rule::HeldWhileThere,
    Rule::NamesWait,
    Rule::OneOrder,
    Rule::EnterSeats,
    Rule::OpenTells,
    Rule::JoinAgain,
];

/// What may happen, and how often.
#[derive(Clone, Debug)]
pub struct Rooms {
    pub name: &'static str,
    pub nodes: usize,
    /// Where each client is logged in at the start.
    pub homes: [Option<u8>; state::CLIENTS],
    /// The clients that are in the room at the start, and those that join it wherever they are, as bits.
    pub members: u8,
    pub joins: u8,
    /// The recipients of each client's lines.
    pub says: [&'static [u8]; state::CLIENTS],
    /// How often each client leaves of its own will, to come back.
    pub moves: [u8; state::CLIENTS],
    /// Which nodes drain, as bits.
    pub drains: u8,
    pub forgets: u8,
    pub without: Option<Rule>,
}

const NOTHING: Rooms = Rooms {
    name: "",
    nodes: 2,
    homes: [Some(0), Some(1), None],
    members: 0b11,
    joins: 0,
    says: [&[ROOM, ROOM], &[], &[]],
    moves: [0; state::CLIENTS],
    drains: 0,
    forgets: 0,
    without: None,
};
const A: u8 = 1;
const B: u8 = 2;

impl Topic for Rooms {
    type Rule = Rule;
    const RULES: &'static [Rule] = RULES;
    const NOTICED: &'static [(Rule, &'static str)] = &[
        (Rule::Away, "rooms-moves"),
        (Rule::NotHereAsWell, "rooms-moves"),
        (Rule::NotItself, "rooms"),
        (Rule::JoinTells, "rooms-join"),
        (Rule::BehindHolds, "rooms-drain"),
        (Rule::RoomsWait, "rooms-stop-all"),
        (Rule::HeldWhileThere, "rooms-drain"),
        (Rule::NamesWait, "rooms-two-of-3-names"),
        (Rule::OneOrder, "rooms-stop-all"),
        (Rule::EnterSeats, "rooms-forgets"),
        (Rule::OpenTells, "rooms-forgets-join"),
        (Rule::JoinAgain, "rooms-forgets-join"),
    ];

    fn all() -> Vec<Self> {
        let three =
            Rooms { nodes: 3, homes: [Some(0), Some(1), Some(2)], members: 0b111, ..NOTHING };
        vec![
            Rooms { name: "rooms", homes: [Some(0), Some(1), Some(0)], ..three.clone() },
            Rooms { name: "rooms-3", ..three.clone() },
            // A direct line, and one to the room, while the member moves to the sender's node.
            Rooms {
                name: "rooms-moves",
                joins: 0b10,
                says: [&[BOB, ROOM], &[], &[]],
                moves: [0, 1, 0],
                ..NOTHING
            },
            Rooms { name: "rooms-sender-moves", joins: 0b1, moves: [1, 0, 0], ..NOTHING },
            // A client that has spoken is a member for each client that has heard it.
            Rooms {
                name: "rooms-join",
                members: 0b1,
                joins: 0b10,
                says: [&[ROOM], &[ALICE], &[]],
                ..NOTHING
            },
            Rooms { name: "rooms-drain", says: [&[BOB, ROOM], &[], &[]], drains: B, ..NOTHING },
            Rooms {
                name: "rooms-stop-all",
                says: [&[BOB, ROOM, BOB], &[], &[]],
                drains: A | B,
                ..NOTHING
            },
            // Two of three leave, and the third one is where the clients go.
            Rooms {
                name: "rooms-two-of-3",
                nodes: 3,
                says: [&[BOB, ROOM], &[], &[]],
                drains: A | B,
                ..NOTHING
            },
            // What is held for one of them holds up the room, and that the other.
            Rooms {
                name: "rooms-two-of-3-names",
                nodes: 3,
                homes: [Some(0), Some(1), Some(1)],
                says: [&[CAROL, ROOM, BOB], &[], &[]],
                drains: A | B,
                ..NOTHING
            },
            Rooms { name: "rooms-forgets", forgets: 1, ..NOTHING },
            Rooms {
                name: "rooms-forgets-join",
                members: 0b1,
                joins: 0b10,
                says: [&[ROOM], &[ALICE], &[]],
                forgets: 1,
                ..NOTHING
            },
            Rooms {
                name: "deep-rooms-moves-3",
                joins: 0b11,
                says: [&[BOB, ROOM], &[ROOM], &[]],
                moves: [1, 1, 0],
                ..NOTHING
            },
            Rooms {
                name: "deep-rooms-two-of-3",
                says: [&[BOB, ROOM, BOB], &[], &[]],
                joins: 0b10,
                drains: A | B,
                ..three.clone()
            },
            Rooms { name: "deep-rooms-forgets-3", forgets: 1, ..three },
            Rooms {
                name: "deep-rooms-forgets-direct",
                says: [&[BOB, ROOM, BOB], &[], &[]],
                forgets: 1,
                ..NOTHING
            },
        ]
    }

    fn name(&self) -> &'static str {
        self.name
    }
    fn without(self, rule: Rule) -> Self {
        Rooms { without: Some(rule), ..self }
    }
}

impl Rooms {
    pub fn has(&self, rule: Rule) -> bool {
        self.without != Some(rule)
    }
}
