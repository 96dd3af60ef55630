//! Leases: a node that is silent for too long is taken for dead, and nothing that it says after that
//! has an effect. Time passes in intervals of renewal; each node sees it on a clock of its own.
//!
//! All clients want the same name: a node that was taken for dead must not keep it, and one that lives
//! must not lose it. Read `engine` and `steps` next.

mod engine;
mod steps;

use crate::pack::{Pack, packed};
use crate::topic::Topic;

/// Nodes at most; the lives after these are their next ones.
pub const NODES: usize = 3;
pub const LIVES: usize = 6;

/// In intervals of renewal: how long a lease lasts, and after how long a renewal is overdue.
pub const LEASE: u8 = 3;
pub const OVERDUE: u8 = 2;
/// A node that has not looked for this long starts to count anew.
pub const LATE: u8 = 2;
/// Faults begin before the first moment, and are over at the second one or never.
pub const FAULTS: u8 = 2;
pub const MENDED: u8 = 6;
/// By then every node has heard of everything.
pub const END: u8 = 14;

// Where a life stands, in the engine; 0 if it has never begun.
pub const HERE: u8 = 1;
pub const LEAVING: u8 = 2;
pub const DOWN: u8 = 3; // it was reaped while it was leaving: its names are held
pub const GONE: u8 = 4;

// Where its process stands.
pub const RUNS: u8 = 0;
pub const STOPPED: u8 = 1; // it may be continued
pub const DEAD: u8 = 2;

// Its client, which wants the name.
pub const NOBODY: u8 = 0;
pub const CLAIMING: u8 = 1;
pub const ACTIVE: u8 = 2;
pub const REFUSED: u8 = 3;

// Commands, and entries of an inbox.
pub const CLAIM: u8 = 1;
pub const FREE: u8 = 2;
pub const PING: u8 = 3;
pub const MARK: u8 = 4;
pub const TAKEN: u8 = 5;
pub const LATER: u8 = 6;

packed! {
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen { pub known: bool, pub counter: u8, pub still: u8, }
}
packed! {
#[derive(Clone, Copy, Debug)]
pub struct Entry { pub kind: u8, pub counter: u8, }
}
packed! {
#[derive(Clone, Copy, Debug)]
pub struct Late { pub life: u8, pub kind: u8, }
}
packed! {
#[derive(Clone, Debug, Default)]
pub struct Machine {
    pub life: u8,
    pub process: u8,
    /// Its connection to the engine carries nothing either way, or nothing from the engine.
    pub away: bool,
    pub deaf: bool,
    pub leaving: bool,
    pub client: u8,
    /// Its claim is to be said again.
    pub again: bool,
    /// It has heard that it was taken for dead.
    pub fenced: bool,
    pub renewed: bool,
    /// The counter of its last renewal, and the last ping that it has read.
    pub counter: u8,
    pub pinged: u8,
    /// The intervals since it looked at the others, and what it saw.
    pub looked: u8,
    pub seen: [Seen; LIVES],
    pub reaps: Vec<Late>,
    pub egress: Vec<u8>,
}
}
packed! {
#[derive(Clone, Debug, Default)]
pub struct Engine {
    pub stands_still: bool,
    pub state: [u8; LIVES],
    pub counter: [u8; LIVES],
    pub inbox: [Vec<Entry>; LIVES],
    /// The name's owner: its life, and one more than the node whose client it is.
    pub life: u8,
    pub owner: u8,
}
}
packed! {
#[derive(Clone, Debug, Default)]
pub struct State {
    pub now: u8,
    pub engine: Engine,
    pub machines: [Machine; NODES],
    /// Claims that a closed connection may still bring.
    pub late: Vec<Late>,
    /// How long each life has said nothing, while it could be heard.
    pub silent: [u8; LIVES],
    pub kills: u8,
    pub stops: u8,
    pub cuts: u8,
    pub deaf: u8,
    pub freezes: u8,
    pub lates: u8,
}
}

/// A rule that can be taken out: the model has to fail then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// A reap says which counter it has seen.
    Counter,
    /// A node that has not looked for a while cannot tell how long the others have been silent.
    LateLook,
    /// A node renews only if it has heard the last renewal.
    Hears,
    /// The engine runs no command of a life that it does not know.
    Fenced,
    /// A life that has ended hears so when it renews.
    Told,
    /// In a new life every client claims its name again.
    ClaimAgain,
    /// A claim of a name whose node is overdue waits.
    Overdue,
    /// The names of a life that was reaped are free.
    Freed,
}
pub const RULES: &[Rule] = &[
    Rule::Counter,
    Rule::LateLook,
    Rule::Hears,
    Rule::Fenced,
    Rule::Told,
    Rule::ClaimAgain,
    Rule::Overdue,
    Rule::Freed,
];

/// What may happen, and how often.
#[derive(Clone, Debug)]
pub struct Leases {
    pub name: &'static str,
    pub nodes: usize,
    pub kills: u8,
    pub stops: u8,
    pub cuts: u8,
    pub deaf: u8,
    /// The engine answers no node for a while.
    pub freezes: u8,
    pub lates: u8,
    /// The second node is leaving.
    pub leaving: bool,
    /// The client of A may leave, and one comes to B that wants the same name.
    pub logins: bool,
    pub without: Option<Rule>,
}

const NOTHING: Leases = Leases {
    name: "",
    nodes: 2,
    kills: 0,
    stops: 0,
    cuts: 0,
    deaf: 0,
    freezes: 0,
    lates: 0,
    leaving: false,
    logins: true,
    without: None,
};

impl Topic for Leases {
    type Rule = Rule;
    const RULES: &'static [Rule] = RULES;
    const NOTICED: &'static [(Rule, &'static str)] = &[
        (Rule::Counter, "lease-stopped"),
        (Rule::LateLook, "lease-engine-stands-still"),
        (Rule::Hears, "lease-deaf"),
        (Rule::Fenced, "lease-late-claim"),
        (Rule::Told, "lease-reaped-while-leaving"),
        (Rule::ClaimAgain, "lease-stopped"),
        (Rule::Overdue, "lease-killed"),
        (Rule::Freed, "lease-killed"),
    ];

    fn all() -> Vec<Self> {
        vec![
            Leases { name: "lease-killed", kills: 1, ..NOTHING },
            Leases { name: "lease-stopped", stops: 1, ..NOTHING },
            Leases { name: "lease-cut-off", cuts: 1, ..NOTHING },
            Leases { name: "lease-deaf", deaf: 1, ..NOTHING },
            Leases { name: "lease-engine-stands-still", freezes: 1, ..NOTHING },
            Leases { name: "lease-late-claim", cuts: 1, lates: 1, ..NOTHING },
            Leases {
                name: "lease-reaped-while-leaving",
                stops: 1,
                leaving: true,
                logins: false,
                ..NOTHING
            },
            Leases { name: "deep-lease-all", kills: 1, stops: 1, freezes: 1, ..NOTHING },
            Leases { name: "deep-lease-two-of-3", nodes: 3, kills: 1, stops: 1, ..NOTHING },
            Leases {
                name: "deep-lease-cut-off-3",
                nodes: 3,
                cuts: 1,
                freezes: 1,
                logins: false,
                ..NOTHING
            },
        ]
    }

    fn name(&self) -> &'static str {
        self.name
    }
    fn without(self, rule: Rule) -> Self {
        Leases { without: Some(rule), ..self }
    }
}

impl Leases {
    pub fn has(&self, rule: Rule) -> bool {
        self.without != Some(rule)
    }
}
