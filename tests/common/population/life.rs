//! Who a client is for the time of one connection: what it intends, never what becomes of it.

use std::fmt;
use std::time::Duration;

use super::speech::LineGenerator;
use super::{Profile, World};

/// What chance is asked about, so that no two questions get the same answer.
const LIFE: u64 = 1;
const MOOD: u64 = 2;

/// Tells the lives of a population apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Who {
    pub seat: u16,
    pub life: u32,
}

/// What a client intends.
#[derive(Clone, Debug)]
pub struct SessionPlan {
    pub who: Who,
    /// The name that it takes, or would: an index into the world's names.
    pub name: u16,
    pub greeting: Greeting,
    /// How many lines it wants to send.
    pub lines: u64,
    /// Sends as fast as it can all the time.
    pub floods: bool,
    /// Always reads what there is: such a client has a right to everything.
    pub reads: bool,
    /// Its kernel takes little for it.
    pub small_buffers: bool,
    /// How long nobody sat here before.
    pub pause: Duration,
    /// After how long it leaves; or else it stays until the server ends.
    pub span: Option<Duration>,
    pub end: End,
    /// How long it holds on to the connection after the server's end of it.
    pub clings: Duration,
}

/// What it says first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Greeting {
    /// Its name, and a line end.
    Name(&'static str),
    /// Something that can not be a name.
    Bad(&'static [u8]),
    /// Part of a name and no line end, or nothing at all.
    Unfinished(&'static str),
}

/// How it leaves, if it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Finishes the line that it is in, ends its side, and reads to the end.
    HalfClose,
    /// As that, but its last line has no line end.
    UnterminatedLine,
    /// Closes the socket, whatever there is to be read.
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
    /// Many lines at a time, as fast as they are taken.
    Packets,
    /// A line every now and then.
    Lines,
    /// A byte at a time.
    Bytes,
    Nothing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    Eagerly,
    /// A few bytes at a time.
    Sips,
    Nothing,
    /// Nothing, whatever mood comes next, until the server has reported.
    NothingEver,
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
    pub fn of(world: &World, who: Who) -> Self {
        let mut random = world.random(who, LIFE, 0);
        let seat = usize::from(who.seat);
        let storm = seat >= world.seats;
        // What a seat's lives have in common: they stay, come as guests, or live for an instant.
        let seat_kind = world.random(Who { life: 0, ..who }, LIFE, 1).u8(..8);
        let (lines, span) = match seat_kind {
            _ if storm => (random.u64(..6), random.bool().then(|| random.u64(..50))),
            0..4 if random.u8(..4) == 0 => (0, None),
            0..4 => (random.u64(..3000), None),
            4..6 => (random.u64(..400), Some(random.u64(10..700))),
            _ => (random.u64(..8), Some(random.u64(..12))),
        };
        let floods = !storm && random.u8(..24) == 0;
        // Who takes another's name finds it in use, or keeps its owner out.
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
                _ if world.manners == Profile::Polite => End::HalfClose,
                5 => End::Close,
                _ => End::Reset,
            },
            clings: Duration::from_millis(random.u64(..100) * random.u64(..2)),
        }
    }

    pub fn speech(&self) -> LineGenerator {
        LineGenerator::of(self.who, self.name)
    }

    /// How it acts in its first, second, … while.
    pub fn mood(&self, world: &World, number: u64) -> Behaviour {
        let mut random = world.random(self.who, MOOD, number);
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
            9..12 => (Reading::Sips, 250),
            12 if world.manners == Profile::Stubborn => (Reading::NothingEver, 250),
            // Long enough to be evicted, and to read why.
            13 if world.manners == Profile::Stubborn => (Reading::Nothing, 1500),
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

    /// The bytes of it.
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

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.seat, self.life)
    }
}
