//! Accounts: the lines that a node has on their way to another one, each from the moment it is routed
//! until its end is known; and all that depends on them: budgets, `/sync`, notices of losses, reports,
//! and forced shutdowns.
//!
//! A is the origin, with two senders. B has two recipients, which are also the members of a room; a line
//! to the room is one delivery to B. Read in this order: `state`, `origin` (A), `receiver` (B and the
//! engine), `steps` (what may happen, and what must hold).

mod origin;
mod receiver;
mod state;
mod steps;

use crate::topic::Topic;
use state::{BOB, CAROL, ROOM, SYNC};

/// A rule that can be taken out: the model has to fail then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    // Budgets.
    /// The end of an account gives back what its settling has not.
    GivenBackOnce,
    /// An account that is refused or given up gives back its share.
    EndsGiveBack,
    /// Room for a recipient wakes the senders that wait for it, as many as there is room for.
    WakesWhileRoom,
    /// A sender that was woken checks again whether there is room for its line.
    LooksAgain,
    /// A recipient that has nothing on its way may always have something.
    AlwaysOne,
    /// What a sender says while it waits stands behind what it waits with.
    ParkedBehind,
    /// In a drain no sender waits for room.
    DrainGoesOn,
    // `/sync` and notices.
    /// It is answered when nothing of its sender is open, not when everything is handled.
    WaitsForEnds,
    /// A loss is told before the end of its delivery.
    LossFirst,
    /// A copy for a room is at its end when the last member is.
    LastMember,
    /// What lay with a dead node is told to its sender.
    GoneTells,
    /// A copy for a room that is in doubt cannot be told, so the next `/sync` confirms nothing.
    RoomDoubt,
    /// An engine that forgets may have forgotten notices of losses, so the next `/sync` of a sender
    /// with an open account confirms nothing.
    ForgottenNotices,
    /// Nor does that of any sender at a node that was fenced.
    FencedUnsure,
    /// A life that enters a new incarnation tells what it has finished.
    EnterTells,
    /// A life that ends leaves nothing open at others.
    DownCloses,
    // Reports.
    /// What was handed over without word of its end is named as unconfirmed.
    Unconfirmed,
    /// What was sent and not handled is in doubt, and not lost.
    DoubtIfSent,
    /// What is given up after it was handed over is taken off that sum.
    GivenUpOnce,
}
const RULES: &[Rule] = &[
    Rule::GivenBackOnce,
    Rule::EndsGiveBack,
    Rule::WakesWhileRoom,
    Rule::LooksAgain,
    Rule::AlwaysOne,
    Rule::ParkedBehind,
    Rule::DrainGoesOn,
    Rule::WaitsForEnds,
    Rule::LossFirst,
    Rule::LastMember,
    Rule::GoneTells,
    Rule::RoomDoubt,
    Rule::ForgottenNotices,
    Rule::FencedUnsure,
    Rule::EnterTells,
    Rule::DownCloses,
    Rule::Unconfirmed,
    Rule::DoubtIfSent,
    Rule::GivenUpOnce,
];

/// What may happen, and how often.
#[derive(Clone, Debug)]
pub struct Accounts {
    pub name: &'static str,
    /// What each sender says: to whom, or `SYNC`.
    pub says: [&'static [u8]; 2],
    /// How many lines may be on their way to one recipient, and in all.
    pub of_one: u8,
    pub in_all: u8,
    /// Senders that are thrown out while they wait for room, as bits.
    pub thrown_out: u8,
    /// Recipients that fail, or leave.
    pub failures: u8,
    /// Nodes that drain, and whose stop may be forced, as bits.
    pub drains: u8,
    pub forced: u8,
    /// B is killed, and taken for dead.
    pub kills: u8,
    /// A is taken for dead while it lives.
    pub fences: u8,
    pub forgets: u8,
    pub without: Option<Rule>,
}

const NOTHING: Accounts = Accounts {
    name: "",
    says: [&[], &[]],
    of_one: 2,
    in_all: 4,
    thrown_out: 0,
    failures: 0,
    drains: 0,
    forced: 0,
    kills: 0,
    fences: 0,
    forgets: 0,
    without: None,
};
const A: u8 = 1;
const B: u8 = 2;

impl Topic for Accounts {
    type Rule = Rule;
    const RULES: &'static [Rule] = RULES;
    const NOTICED: &'static [(Rule, &'static str)] = &[
        (Rule::GivenBackOnce, "budget"),
        (Rule::EndsGiveBack, "budget-leaves"),
        (Rule::WakesWhileRoom, "budget-two-wait"),
        (Rule::LooksAgain, "budget"),
        (Rule::AlwaysOne, "budget-all"),
        (Rule::ParkedBehind, "budget"),
        (Rule::DrainGoesOn, "budget-drain"),
        (Rule::WaitsForEnds, "sync"),
        (Rule::LossFirst, "sync"),
        (Rule::LastMember, "sync-room"),
        (Rule::GoneTells, "sync-killed"),
        (Rule::RoomDoubt, "sync-room-killed"),
        (Rule::ForgottenNotices, "sync-forgets"),
        (Rule::FencedUnsure, "sync-fenced"),
        (Rule::EnterTells, "sync-forgets"),
        (Rule::DownCloses, "sync-forced"),
        (Rule::Unconfirmed, "forced-sender"),
        (Rule::DoubtIfSent, "forced-sender"),
        (Rule::GivenUpOnce, "sync-killed"),
    ];

    fn all() -> Vec<Self> {
        let asks = Accounts { says: [&[BOB, SYNC], &[]], ..NOTHING };
        let asks_room = Accounts { says: [&[ROOM, SYNC], &[]], ..NOTHING };
        let two = Accounts { says: [&[BOB, BOB, SYNC], &[]], ..NOTHING };
        vec![
            // Budgets.
            Accounts { name: "budget", says: [&[BOB, BOB, BOB, BOB, SYNC], &[]], ..NOTHING },
            Accounts {
                name: "budget-two-wait",
                says: [&[BOB, BOB], &[BOB, SYNC]],
                of_one: 1,
                thrown_out: 1,
                ..NOTHING
            },
            Accounts {
                name: "budget-all",
                says: [&[BOB, CAROL, CAROL], &[]],
                in_all: 2,
                ..NOTHING
            },
            Accounts {
                name: "budget-leaves",
                says: [&[BOB, BOB], &[BOB]],
                of_one: 1,
                failures: 1,
                ..NOTHING
            },
            Accounts {
                name: "budget-drain",
                says: [&[BOB, BOB, SYNC], &[BOB]],
                of_one: 1,
                drains: A,
                ..NOTHING
            },
            Accounts {
                name: "budget-killed",
                says: [&[BOB, BOB], &[BOB]],
                of_one: 1,
                kills: 1,
                ..NOTHING
            },
            Accounts {
                name: "budget-forgets",
                says: [&[BOB, BOB], &[]],
                of_one: 1,
                forgets: 1,
                ..NOTHING
            },
            // `/sync`, and notices of losses.
            Accounts { name: "sync", failures: 1, ..two.clone() },
            Accounts { name: "sync-room", failures: 1, ..asks_room.clone() },
            Accounts { name: "sync-killed", kills: 1, ..two.clone() },
            Accounts { name: "sync-room-killed", kills: 1, ..asks_room.clone() },
            Accounts { name: "sync-forgets", failures: 1, forgets: 1, ..asks.clone() },
            Accounts { name: "sync-fenced", failures: 1, fences: 1, ..two.clone() },
            Accounts { name: "sync-drain", drains: B, failures: 1, ..two.clone() },
            Accounts { name: "sync-forced", drains: B, forced: B, ..two.clone() },
            Accounts { name: "sync-room-forced", drains: B, forced: B, ..asks_room.clone() },
            // Reports.
            Accounts { name: "forced-sender", drains: A, forced: A, ..two.clone() },
            Accounts { name: "forced-both", drains: A | B, forced: A | B, ..two.clone() },
            Accounts { name: "forced-forgets", drains: A, forced: A, forgets: 1, ..asks.clone() },
            // The same with more.
            Accounts {
                name: "deep-accounts-forced",
                says: [&[BOB, ROOM, SYNC], &[]],
                drains: A | B,
                forced: A | B,
                failures: 1,
                ..NOTHING
            },
            Accounts {
                name: "deep-accounts-killed",
                says: [&[BOB, ROOM, SYNC], &[CAROL, SYNC]],
                kills: 1,
                ..NOTHING
            },
            Accounts {
                name: "deep-accounts-forgets",
                says: [&[BOB, ROOM, SYNC], &[]],
                forgets: 1,
                failures: 1,
                ..NOTHING
            },
            Accounts {
                name: "deep-accounts-forgets-killed",
                says: [&[BOB, ROOM, SYNC], &[]],
                forgets: 1,
                kills: 1,
                failures: 1,
                ..NOTHING
            },
            Accounts {
                name: "deep-accounts-forgets-drain",
                says: [&[BOB, BOB, SYNC], &[]],
                of_one: 1,
                forgets: 1,
                drains: A | B,
                forced: B,
                ..NOTHING
            },
            Accounts {
                name: "deep-accounts-fenced",
                says: [&[BOB, ROOM, SYNC], &[]],
                fences: 1,
                failures: 1,
                drains: B,
                ..NOTHING
            },
        ]
    }

    fn name(&self) -> &'static str {
        self.name
    }
    fn without(self, rule: Rule) -> Self {
        Accounts { without: Some(rule), ..self }
    }
}

impl Accounts {
    pub fn has(&self, rule: Rule) -> bool {
        self.without != Some(rule)
    }
    /// No node dies or is forced to stop, and the engine forgets nothing.
    pub fn is_calm(&self) -> bool {
        self.forced + self.kills + self.fences + self.forgets == 0
    }
}
