//! A session's plan: what a client intends for one connection, whatever comes of it.

use std::fmt;
use std::time::Duration;

use super::line_generator::LineGenerator;
use super::{Profile, World};

/// Topics of random choices, so no two choices share a generator.
const PLAN: u64 = 1;
const BEHAVIOUR: u64 = 2;

/// Identifies a session of the population.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId {
    pub seat: u16,
    pub session: u32,
}

/// What a client intends.
#[derive(Clone, Debug)]
pub struct SessionPlan {
    pub who: SessionId,
    /// The name it asks for: an index into the world's names.
    pub name: u16,
    pub greeting: Greeting,
    /// The number of lines it wants to send.
    pub lines: u64,
    /// Always sends as fast as it can.
    pub floods: bool,
    /// Always reads everything: such a client must lose nothing.
    pub reads: bool,
    /// Its kernel buffers are small.
    pub small_buffers: bool,
    /// How long its seat stays empty before.
    pub pause: Duration,
    /// When it leaves; otherwise it stays until the server ends.
    pub span: Option<Duration>,
    pub end: End,
    /// How long it keeps the connection after the server closed it.
    pub lingers: Duration,
}

/// Its first line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Greeting {
    /// Its name, and a line end.
    Name(&'static str),
    /// An invalid name.
    Bad(&'static [u8]),
    /// Part of a name without a line end, or nothing at all.
    Unfinished(&'static str),
}

/// How it leaves, if it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Completes its current line, half-closes, and reads to the end.
    HalfClose,
    /// The same, but its last line has no line end.
    UnterminatedLine,
    /// Closes the socket regardless of unread data.
    Close,
    /// Closes the socket with a reset.
    Reset,
}

/// How it acts for a while.
#[derive(Clone, Copy, Debug)]
pub struct Behaviour {
    pub lasts: Duration,
    pub writing: Writing,
    pub reading: Reading,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writing {
    /// Many lines at a time, as fast as possible.
    Packets,
    /// A line now and then.
    Lines,
    /// One byte at a time.
    Bytes,
    Nothing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    Eagerly,
    /// A few bytes at a time.
    Trickle,
    Nothing,
    /// Nothing, in all later behaviours too, until the server has reported.
    Never,
}

const BAD_NAMES: [&[u8]; 7] = [
    b"\n",
    b"no name\n",
    b"c0:\n",
    b"/who\n",
    b"\xFF\xFE\n",
    b"a.name.of.thirty-three.characters\n",
    b"no.line.end.and.more.than.any.name.could.be.long",
];

impl SessionPlan {
    pub fn of(world: &World, who: SessionId) -> Self {
        let mut random = world.random(who, PLAN, 0);
        let seat = usize::from(who.seat);
        let storm = seat >= world.seats;
        // Common to a seat's sessions: they stay, visit for a while, or last an instant.
        let seat_kind = world.random(SessionId { session: 0, ..who }, PLAN, 1).u8(..8);
        let (lines, span) = match seat_kind {
            _ if storm => (random.u64(..6), random.bool().then(|| random.u64(..50))),
            0..4 if random.u8(..4) == 0 => (0, None),
            0..4 => (random.u64(..3000), None),
            4..6 => (random.u64(..400), Some(random.u64(10..700))),
            _ => (random.u64(..8), Some(random.u64(..12))),
        };
        let floods = !storm && random.u8(..24) == 0;
        // A session with another seat's name finds it taken, or keeps its owner out.
        let strays = random.u8(..5) == 0;
        let name = if strays { random.usize(..world.seats + world.storm) } else { seat };
        Self {
            who,
            name: u16::try_from(name).expect("few names"),
            greeting: Greeting::random(&mut random),
            lines: if floods { u64::MAX } else { lines },
            floods,
            reads: random.u8(..3) > 0,
            small_buffers: random.u8(..4) == 0,
            pause: Duration::from_millis(if storm { 0 } else { random.u64(..30) }),
            span: span.map(Duration::from_millis),
            end: match random.u8(..8) {
                0..4 => End::HalfClose,
                4 => End::UnterminatedLine,
                _ if world.profile == Profile::Polite => End::HalfClose,
                5 => End::Close,
                _ => End::Reset,
            },
            lingers: Duration::from_millis(random.u64(..100) * random.u64(..2)),
        }
    }

    pub fn line_generator(&self) -> LineGenerator {
        LineGenerator::of(self.who, self.name)
    }

    /// Its behaviour number `number`.
    pub fn behaviour(&self, world: &World, number: u64) -> Behaviour {
        let mut random = world.random(self.who, BEHAVIOUR, number);
        let writing = match random.u8(..8) {
            _ if self.floods => Writing::Packets,
            0..4 => Writing::Packets,
            4..6 => Writing::Lines,
            6 => Writing::Bytes,
            _ => Writing::Nothing,
        };
        let (reading, longest) = match random.u8(..16) {
            _ if self.reads => (Reading::Eagerly, 250),
            0..9 => (Reading::Eagerly, 250),
            9..12 => (Reading::Trickle, 250),
            12 if world.profile == Profile::Stubborn => (Reading::Never, 250),
            // Long enough to be evicted, and to read why.
            13 if world.profile == Profile::Stubborn => (Reading::Nothing, 1500),
            _ => (Reading::Nothing, 250),
        };
        Behaviour { lasts: Duration::from_millis(random.u64(1..longest)), writing, reading }
    }
}

impl Greeting {
    fn random(random: &mut fastrand::Rng) -> Self {
        match random.u8(..16) {
            0 => Self::Bad(BAD_NAMES[random.usize(..BAD_NAMES.len())]),
            1 => Self::Unfinished(["", "c", "c0"][random.usize(..3)]),
            2 => Self::Name("\r\n"),
            _ => Self::Name("\n"),
        }
    }

    /// The bytes to send.
    pub fn wire(&self, name: &str) -> Vec<u8> {
        match self {
            Self::Name(line_end) => format!("{name}{line_end}").into_bytes(),
            Self::Bad(bytes) => bytes.to_vec(),
            Self::Unfinished(bytes) => bytes.as_bytes().to_vec(),
        }
    }

    pub fn is_name(&self) -> bool {
        matches!(self, Self::Name(_))
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.seat, self.session)
    }
}
