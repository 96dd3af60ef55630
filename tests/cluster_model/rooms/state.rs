//! What nodes, clients and the engine hold.

pub use crate::bytes::{Entry, bit, bits, line_of, number_of, sender};
use crate::pack::{Pack, packed};

pub const CLIENTS: usize = 3;
pub const LIVES: usize = 3;
pub const LINES: usize = 3;

pub const ALICE: u8 = 0;
pub const BOB: u8 = 1;
pub const CAROL: u8 = 2;
/// Instead of a client: all members of the room.
pub const ROOM: u8 = 9;
/// A delivery to the members at one node: this, and its number.
pub const AT: u8 = 0x10;

// Where a life stands, in the engine; 0 if it has not told.
pub const HERE: u8 = 1;
pub const LEAVING: u8 = 2;
pub const CUT: u8 = 3;
pub const RELEASED: u8 = 4;
pub const DOWN: u8 = 5;

// Where its process stands; 0 if it is none.
pub const RUNS: u8 = 1;
pub const DRAINS: u8 = 2;
pub const CLOSES: u8 = 3;
pub const ENDED: u8 = 4;

// Sessions at a broker.
pub const CLAIMING: u8 = 1;
pub const ACTIVE: u8 = 2;
pub const MOVED: u8 = 3; // its client has had the closing notice

// Commands.
pub const SEND: u8 = 1; // first, count, line
pub const CLAIM: u8 = 2; // client, session
pub const FREE: u8 = 3; // client, session
pub const JOIN: u8 = 4; // client, session
pub const PART: u8 = 5; // client
pub const LEAVE: u8 = 6;
pub const CUT_DONE: u8 = 7;
pub const RELEASE: u8 = 8;

// Entries of an inbox.
pub const MSG: u8 = 1; // origin, number, line, session or ALL
pub const ACK: u8 = 2; // from, handled
pub const MARK: u8 = 3; // client, session
pub const PLACE: u8 = 4; // number, place
pub const SEATS: u8 = 5; // lives with members
pub const JOINED: u8 = 6; // client, session
pub const LET_GO: u8 = 7; // its release
pub const OPEN: u8 = 8;

/// The session of a delivery to all members.
pub const ALL: u8 = 0xff;

// Places of a delivery.
pub const UNKNOWN: u8 = 0xf0;
pub const HELD: u8 = 0xf1;
pub const ABSENT: u8 = 0xf2;

packed! {
#[derive(Clone, Copy, Debug)]
pub struct Owed { pub number: u8, pub to: u8, pub line: u8, pub place: u8, pub handled: bool, }
}
packed! {
#[derive(Clone, Copy, Debug, Default)]
pub struct Session { pub id: u8, pub state: u8, }
}
packed! {
#[derive(Clone, Debug, Default)]
pub struct Engine {
    pub state: [u8; LIVES],
    /// Each name's life and session.
    pub names: [Session; CLIENTS],
    pub seats: [u8; LIVES],
    pub inbox: [Vec<Entry>; LIVES],
    /// In the order in which they came; the last field says whom each is for.
    pub hold: Vec<Entry>,
    pub entered: u8,
    pub handled: [[u8; LIVES]; LIVES],
}
}
packed! {
#[derive(Clone, Debug, Default)]
pub struct Node {
    pub phase: u8,
    pub cut: bool,
    pub cut_done: bool,
    pub leave_done: bool,
    pub release_sent: bool,
    pub sessions: [Session; CLIENTS],
    /// Clients here that are in the room, and those that have been answered so.
    pub members: u8,
    pub joined: u8,
    /// Lives with members, as it has heard last.
    pub lives: u8,
    pub next: u8,
    pub owed: Vec<Owed>,
    pub egress: Vec<Entry>,
    pub handled: [u8; LIVES],
    pub tell: [u8; LIVES],
    pub has_entered: bool,
    pub is_paused: bool,
}
}
packed! {
#[derive(Clone, Debug, Default)]
pub struct Client {
    /// Its node, and one more, and its session; 0 if it is nowhere.
    pub at: u8,
    pub session: u8,
    pub sessions: u8,
    pub next: u8,
    pub moves: u8,
    /// The last line that it got of each client.
    pub last: [u8; CLIENTS],
    /// Whose lines it has heard that were said as a member.
    pub heard: u8,
}
}
packed! {
#[derive(Clone, Debug, Default)]
pub struct State {
    pub engine: Engine,
    pub is_early: bool,
    pub nodes: [Node; LIVES],
    pub clients: [Client; CLIENTS],
    /// The clients that have received each line, that were members when it was said, and that must get it.
    pub received: [[u8; LINES]; CLIENTS],
    pub wanted: [[u8; LINES]; CLIENTS],
    pub must: [[u8; LINES]; CLIENTS],
    /// For each line, whether its sender was a member when it said it.
    pub as_member: [u8; CLIENTS],
    pub drains: u8,
    pub forgets: u8,
}
}

pub const NAMES: [&str; CLIENTS] = ["alice", "bob", "carol"];
pub const NODES: [&str; LIVES] = ["A", "B", "C"];

pub fn leaves(state: u8) -> bool {
    [LEAVING, CUT].contains(&state)
}
