//! What A, B and the engine hold, and what is known from outside of each line.

pub use crate::bytes::{Entry, bit};
use crate::pack::{Pack, packed};

// Recipients, by their number; the members of the room are the first two.
pub const BOB: u8 = 0;
pub const CAROL: u8 = 1;
pub const ROOM: u8 = 2;
pub const RECIPIENTS: usize = 3;
/// Instead of a recipient.
pub const SYNC: u8 = 9;

// Where a process stands.
pub const RUNS: u8 = 0;
pub const LEAVES: u8 = 1; // the engine holds lines for its names
pub const ENDED: u8 = 2;
pub const KILLED: u8 = 3;

// What the engine knows of B.
pub const HERE: u8 = 0;
pub const LEAVING: u8 = 1;
pub const DOWN: u8 = 2;
pub const REAPED: u8 = 3;

// Where a delivery is, as A has heard.
pub const UNKNOWN: u8 = 0;
pub const AT_B: u8 = 1;
pub const HELD: u8 = 2;
pub const ABSENT: u8 = 3;

// Entries of A's inbox.
pub const PLACED: u8 = 1; // number, place
pub const ACK: u8 = 2; // handled, settled, finished, lost
pub const EVENT: u8 = 3; // DOWN or REAPED
pub const HOLD_OVER: u8 = 4; // number
pub const OPEN: u8 = 5; // whether B has entered

// What has become of an account.
pub const OPEN_YET: u8 = 0;
pub const FINISHED: u8 = 1;
pub const UNCONFIRMED: u8 = 2;
pub const DOUBT: u8 = 3;
pub const LOST: u8 = 4;
pub const REFUSED: u8 = 5;

// Answers to a `/sync`.
pub const DELIVERED: u8 = 1;
pub const OR_LOST: u8 = 2;
pub const NOT_CONFIRMED: u8 = 3;

packed! {
#[derive(Clone, Copy, Debug)]
pub struct Account { pub number: u8, pub place: u8, pub is_handled: bool, pub is_paid: bool, }
}
packed! {
#[derive(Clone, Debug, Default)]
pub struct Sender {
    /// The next of what it says, and what waits for room.
    pub next: u8,
    pub parked: Vec<u8>,
    /// The last line that was routed.
    pub routed: u8,
    pub asks: bool,
    /// Something was told lost, or is not known, since its last `/sync`.
    pub lost: bool,
    pub unsure: bool,
}
}
packed! {
#[derive(Clone, Debug, Default)]
pub struct Origin {
    pub phase: u8,
    pub accounts: Vec<Account>,
    /// Numbers that wait for egress, and the last one that it has brought.
    pub egress: Vec<u8>,
    pub sent: u8,
    pub senders: [Sender; 2],
    /// What is charged, and the senders that wait for room, by recipient.
    pub used: [u8; RECIPIENTS],
    pub waiting: [Vec<u8>; RECIPIENTS],
    pub freed: [bool; RECIPIENTS],
    /// The sums of its report.
    pub owed: u8,
    pub handed_over: u8,
    pub in_doubt: u8,
    pub lost: u8,
    /// Whether it has not heard that B has ended.
    pub knows_b: bool,
    pub is_paused: bool,
    pub has_entered: bool,
    /// Numbers below this one were a former life's.
    pub old: u8,
}
}
packed! {
/// A delivery to one client of B's, which is not at its end.
#[derive(Clone, Copy, Debug)]
pub struct Item { pub number: u8, pub member: u8, pub is_written: bool, }
}
packed! {
#[derive(Clone, Copy, Debug, Default)]
pub struct Told { pub handled: u8, pub settled: u8, pub finished: u8, pub lost: u8, }
}
packed! {
#[derive(Clone, Debug, Default)]
pub struct Receiver {
    pub phase: u8,
    /// Clients that have left, as bits.
    pub gone: u8,
    pub items: Vec<Item>,
    /// What is to be told, what was ever told, and losses that are told too late.
    pub tell: Told,
    pub known: Told,
    pub late: u8,
    pub has_entered: bool,
}
}
packed! {
/// What is known from outside of a line that A has routed.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    pub sender: u8,
    pub to: u8,
    pub account: u8,
    /// How many have received it, and how many were to; B has lost it for one of them.
    pub received: u8,
    pub of: u8,
    pub lost_at_b: bool,
    pub handled_at_b: bool,
    pub told: bool,
    /// An earlier `/sync` has said that it may be lost.
    pub excused: bool,
}
}
packed! {
#[derive(Clone, Debug, Default)]
pub struct State {
    pub a: Origin,
    pub b: Receiver,
    /// The engine: B's state, inboxes, and what is held.
    pub state: u8,
    pub inbox_a: Vec<Entry>,
    pub inbox_b: Vec<u8>,
    pub hold: Vec<u8>,
    /// It has forgotten, and not everybody has entered.
    pub is_early: bool,
    pub entered: Told,
    pub lines: Vec<Line>,
    pub failures: u8,
    pub fences: u8,
    pub forgets: u8,
    /// B ended without a last word, or died.
    pub is_silent: bool,
}
}
