//! What an engine has to do: order commands, and carry entries to inboxes. Plain values and two small
//! traits; the only engine is Redis, in `redis.rs`, and a second one would be one more file.
//!
//! The engine runs one command at a time. What a command has to say to its own node comes back in
//! that node's inbox, in order with everything else; the reply says only that it ran.

mod dialler;
pub(crate) mod redis;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod frozen_test;
#[cfg(test)]
mod scripts_test;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub(crate) use crate::cluster::parcel::{ALL_MEMBERS, Session};

use crate::cluster::parcel::Arrived;
use crate::wire::batch::Frames;
use crate::wire::name::Name;
use crate::wire::room::Room;

/// One run of a node's process: the node's name, a dot, and 64 random bits.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Life(Arc<str>);

impl Life {
    pub(crate) fn new(text: &str) -> Self {
        Self(text.into())
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of the node whose life this is.
    pub(crate) fn node(&self) -> &str {
        self.0.rsplit_once('.').map_or(&self.0, |(node, _)| node)
    }
}

impl fmt::Display for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whom a delivery is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Recipient {
    Client(Name),
    /// The members of a room at one node.
    Room(Room, Life),
}

impl Recipient {
    /// As scripts see it. No name and no room holds a `@`.
    pub(crate) fn text(&self) -> Cow<'_, str> {
        match self {
            Self::Client(name) => Cow::Borrowed(name.as_str()),
            Self::Room(room, life) => Cow::Owned(format!("{room}@{life}")),
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        match text.split_once('@') {
            None => Some(Self::Client(Name::new(text).ok()?)),
            Some((room, life)) => Some(Self::Room(Room::new(room).ok()?, Life::new(life))),
        }
    }

    pub(crate) fn client(&self) -> Option<&Name> {
        match self {
            Self::Client(name) => Some(name),
            Self::Room(..) => None,
        }
    }
}

impl From<Name> for Recipient {
    fn from(name: Name) -> Self {
        Self::Client(name)
    }
}

/// Some messages for some recipients, and the numbers of these deliveries: one for each, from
/// `first` on.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    pub(crate) first: u64,
    pub(crate) names: Vec<Recipient>,
    pub(crate) body: Arc<[u8]>,
}

/// What a node asks of the engine. Commands are numbered, and each number runs once.
#[derive(Clone, Debug)]
pub(crate) enum Command {
    Send(Vec<Piece>),
    Claim {
        name: Name,
        session: Session,
    },
    /// `claim` is the session's claim number, if it had got the name.
    Free {
        name: Name,
        session: Session,
        claim: Option<u64>,
    },
    Who {
        question: u64,
        names: Vec<Name>,
    },
    /// A client enters a room; its node is told how many are in it, and which nodes they are at.
    JoinRoom {
        question: u64,
        room: Room,
        name: Name,
    },
    PartRoom {
        room: Room,
        name: Name,
    },
    WhoIn {
        question: u64,
        room: Room,
    },
    Leave,
    Cut,
    Release {
        regardless: bool,
    },
    EndHold {
        life: Life,
    },
    Down,
}

impl Command {
    /// The caller's number for a question.
    pub(crate) fn question(&self) -> Option<u64> {
        match self {
            Self::Who { question, .. }
            | Self::WhoIn { question, .. }
            | Self::JoinRoom { question, .. } => Some(*question).filter(|number| *number > 0),
            _ => None,
        }
    }
}

/// What a node tells when it enters an incarnation of the engine.
#[derive(Clone, Debug)]
pub(crate) struct Entrance {
    pub(crate) incarnation: Arc<str>,
    /// No incarnation has seen this life yet.
    pub(crate) fresh: bool,
    pub(crate) state: LifeState,
    /// Names with their session and claim number.
    pub(crate) names: Vec<(Name, Session, u64)>,
    /// Who is in which room.
    pub(crate) seats: Vec<(Room, Name)>,
    /// For each origin, what is known of its deliveries, as in an acknowledgement.
    pub(crate) known: Vec<(Life, String)>,
}

/// How far a life has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LifeState {
    Here,
    /// Its drain has begun.
    Leaving,
    /// Its drain has begun, and its clients' last lines are sent.
    Cut,
    /// Its clients may go elsewhere.
    Released,
    /// It has ended, and its names are held.
    Down,
    /// Its lease was over.
    Reaped,
}

impl LifeState {
    const ALL: [(Self, &'static str); 6] = [
        (Self::Here, "here"),
        (Self::Leaving, "leaving"),
        (Self::Cut, "cut"),
        (Self::Released, "released"),
        (Self::Down, "down"),
        (Self::Reaped, "reaped"),
    ];

    pub(crate) fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(state, _)| *state == self).map_or("", |(_, text)| text)
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, known)| *known == text).map(|(state, _)| *state)
    }
}

/// Where a delivery lies, as far as its origin knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// No answer was read.
    Unknown,
    /// In the inbox of this life, or read by it.
    At(Life),
    /// In the hold of its name, whose client moves.
    Held,
    /// Out of a hold, in the inbox of this life: the account stays the hold's.
    Moved(Life),
}

impl Place {
    pub(crate) fn life(self) -> Option<Life> {
        match self {
            Self::At(life) | Self::Moved(life) => Some(life),
            Self::Unknown | Self::Held => None,
        }
    }
}

/// One entry of an inbox.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// Pieces of an origin, and the frames in which they stand.
    Message {
        origin: Life,
        pieces: Vec<Arrived>,
        frames: Frames,
    },
    /// Where the deliveries from `first` to `last` are, by name; `None`: nobody has the name.
    Placed {
        first: u64,
        last: u64,
        places: Vec<(Recipient, Option<Place>)>,
    },
    /// Deliveries that were held lie with this life now.
    Moved {
        life: Life,
        numbers: Vec<u64>,
    },
    /// What a life has done with deliveries of this one.
    Ack {
        from: Life,
        text: String,
    },
    /// From here on the session has its name.
    Mark {
        session: Session,
        name: Name,
        claim: u64,
    },
    /// Another session has the name.
    Taken {
        session: Session,
    },
    /// The name's node is leaving: claim it again, later.
    ClaimLater {
        session: Session,
    },
    /// The own clients are released.
    Released,
    /// Another node still has lines to send: ask again, later.
    ReleaseLater,
    Who {
        question: u64,
        count: u64,
        names: Vec<Name>,
    },
    /// Members of a room are at these nodes now; and who came or left, if that is known.
    Room {
        room: Room,
        lives: Vec<Life>,
        moved: Option<(Name, bool)>,
    },
    Event {
        life: Life,
        state: LifeState,
    },
    /// All who live have entered: these.
    Open {
        lives: Vec<Life>,
    },
    Ping {
        counter: u64,
    },
    /// A hold is over, and this node has to name what was held.
    HoldOver {
        name: Name,
        origin: Life,
        pieces: Vec<Arrived>,
    },
    /// Something that this version does not know, or that is damaged.
    Unreadable,
}

/// Something that egress asks of the engine in one cycle.
#[derive(Debug)]
pub(crate) enum Call<'a> {
    Run { number: u64, command: &'a Command, overdue: &'a str },
    Ack { origin: &'a Life, text: &'a str },
    Renew { ping: bool },
    Reap { life: &'a Life, counter: u64 },
    Enter { entrance: &'a Entrance, last: u64 },
    Open,
    Forget,
}

/// What the engine says to a call.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    Done,
    /// The answer to a renewal.
    Lives {
        open: bool,
        lives: Vec<(Life, LifeState, u64)>,
    },
    /// The answer to `down` of the last life: what was held, by origin and name.
    Left(Vec<(Life, Name, Vec<Arrived>)>),
    /// The engine is in another incarnation, or does not know the life.
    Unknown,
    /// Not all who live may have entered yet.
    Early,
    /// Others have gone on without this life.
    Fenced,
    /// The engine has no memory left.
    Full,
    /// Something else; the text is the engine's.
    Failed(String),
}

/// What the engine says to a new connection.
#[derive(Clone, Debug)]
pub(crate) struct Hello {
    pub(crate) incarnation: Arc<str>,
    pub(crate) open: bool,
    /// What it knows of the caller.
    pub(crate) state: Option<LifeState>,
}

/// Why the engine could not be used. The text never holds a password.
#[derive(Clone, Debug)]
pub(crate) struct EngineError(pub(crate) String);

impl fmt::Display for EngineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An engine that can be dialled.
pub(crate) trait Engine: fmt::Debug + Send + Sync {
    /// Connects, within `timeout`, which the first answer is a part of. A connection belongs to one thread.
    fn dial(&self, timeout: Duration) -> Result<Box<dyn Wire>, EngineError>;
}

/// A connection to the engine. After an error it is of no use any more.
pub(crate) trait Wire: Send {
    /// Begins: tells which incarnation the engine is in. `random` names a new one.
    fn hello(&mut self, life: &Life, random: u64) -> Result<Hello, EngineError>;

    /// Runs calls, one after the other, and returns their replies.
    fn run(
        &mut self,
        incarnation: &str,
        life: &Life,
        calls: &[Call<'_>],
        timeout: Duration,
    ) -> Result<Vec<Reply>, EngineError>;

    /// Reads the inbox behind `after`, which it moves on, and lets the engine forget what was read
    /// before. Waits up to `wait` for something to read; the engine may take `timeout` longer to
    /// answer.
    fn read(
        &mut self,
        life: &Life,
        after: &mut String,
        wait: Duration,
        timeout: Duration,
    ) -> Result<Vec<Entry>, EngineError>;
}
