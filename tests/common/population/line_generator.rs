//! The lines of a session: each is a function of the session and the line's number, and comes with
//! the effect the server must give it.

use std::sync::LazyLock;

use super::World;
use super::rooms::ROOMS;
use super::session_plan::SessionId;

/// Topics of random choices.
const THEME: u64 = 3;
const LINE: u64 = 4;

/// Lines per theme. Consecutive lines with an identical list of recipients form batches.
const THEME_LINES: u64 = 32;

/// Texts list at most this many recipients.
const LISTED: usize = 12;

/// Maximum recipients that the server accepts in a line.
const MAX_RECIPIENTS: usize = 1024;

/// Unusual text: multi-byte characters, NUL, a lone CR, an escape sequence, and imitations of the
/// server's lines.
const FILLER: &str = "é→\0 \r\tfrom: \x1b[1m x";
static ODD_FILLER: LazyLock<String> = LazyLock::new(|| FILLER.repeat(256));
static PLAIN_FILLER: LazyLock<String> = LazyLock::new(|| "x".repeat(16 * 1024));

/// One name more than the server accepts.
static LONG_LIST: LazyLock<String> = LazyLock::new(|| {
    let names = (0..=MAX_RECIPIENTS).map(|number| format!("n{number}"));
    names.collect::<Vec<_>>().join(",")
});

/// A session's lines, in any order.
#[derive(Clone, Debug)]
pub struct LineGenerator {
    who: SessionId,
    name: u16,
    theme: Option<(u64, Theme)>,
}

#[derive(Clone, Debug)]
struct Theme {
    to: Vec<u16>,
    /// The room to which all messages go, if it is one about a room.
    room: Option<usize>,
    /// The recipients as typed.
    list: Vec<u8>,
    long_texts: bool,
    nonsense: bool,
}

/// A line.
#[derive(Debug)]
pub struct Line {
    pub meaning: Meaning,
    /// As sent, including its line end.
    pub wire: Vec<u8>,
}

/// The effect of a line. Lists contain each name once, in the order typed.
#[derive(Debug, PartialEq, Eq)]
pub enum Meaning {
    /// It is ignored.
    Nothing,
    /// It is sent to these; a reply names those not connected.
    Message { to: Vec<u16>, text: Vec<u8> },
    /// It is sent to the other members of this room, or refused.
    RoomMessage { room: usize, text: Vec<u8> },
    /// A reply says how many are in this room.
    Join { room: usize },
    /// A reply says that the client has left this room, or was not in it.
    Leave { room: usize },
    /// A reply says who is in this room.
    WhoIn { room: usize },
    /// A reply says which of these are connected.
    Who { about: Vec<u16> },
    /// A reply says whether everything before it is delivered, after this many seconds at most.
    Sync { seconds: u64 },
    /// A reply says how many clients are connected, and lists them.
    WhoAll,
    /// It is refused with this text.
    Refused(String),
}

impl LineGenerator {
    pub fn of(who: SessionId, name: u16) -> Self {
        Self { who, name, theme: None }
    }

    /// The name of its client.
    pub fn name(&self) -> u16 {
        self.name
    }

    /// The line with this number; the first after the login line has number 1.
    pub fn line(&mut self, world: &World, number: u64) -> Line {
        let theme = match self.theme.take() {
            Some((index, theme)) if index == number / THEME_LINES => theme,
            _ => Theme::of(world, self, number / THEME_LINES),
        };
        let mut random = world.random(self.who, LINE, number);
        let (meaning, mut wire) = if let Some(room) = theme.room {
            self.in_room(world, &theme, room, &mut random, number)
        } else if theme.nonsense {
            self.nonsense(world, &theme, &mut random, number)
        } else {
            let odd = random.u8(..16) == 0;
            let longest = if theme.long_texts { world.max_line / 4 } else { 60 };
            let length = random.usize(..longest);
            self.message(world, &theme, number, length, odd)
        };
        wire.extend_from_slice(if random.u8(..16) == 0 { b"\r\n" } else { b"\n" });
        self.theme = Some((number / THEME_LINES, theme));
        Line { meaning, wire }
    }

    /// A valid message with about this many bytes of filling.
    fn message(
        &self,
        world: &World,
        theme: &Theme,
        number: u64,
        length: usize,
        odd: bool,
    ) -> (Meaning, Vec<u8>) {
        let mut text = self.address(world, theme, number).into_bytes();
        text.extend_from_slice(filler(length, odd).as_bytes());
        text.push(b'.');
        // One blank before a text is not part of it, and white space behind it is.
        let before = if odd { "" } else { " " };
        text.extend_from_slice(if odd { "\u{2003}\t ".as_bytes() } else { b"" });
        let wire = [&theme.list[..], b":", before.as_bytes(), &text].concat();
        (Meaning::Message { to: theme.to.clone(), text }, wire)
    }

    /// A line about a room: the client enters it at the beginning of a theme, and leaves it some time.
    fn in_room(
        &self,
        world: &World,
        theme: &Theme,
        room: usize,
        random: &mut fastrand::Rng,
        number: u64,
    ) -> (Meaning, Vec<u8>) {
        let name = ROOMS[room];
        match number % THEME_LINES {
            0 => {
                let notices = ["", " loud", " quiet"][random.usize(..3)];
                (Meaning::Join { room }, format!("/join {name}{notices}").into_bytes())
            }
            20 if random.bool() => (Meaning::Leave { room }, format!("/leave {name}").into_bytes()),
            10 => (Meaning::WhoIn { room }, format!("/who {name}").into_bytes()),
            _ => {
                let (meaning, wire) = self.message(world, theme, number, random.usize(..60), false);
                let Meaning::Message { text, .. } = meaning else { return (meaning, wire) };
                (Meaning::RoomMessage { room, text }, wire)
            }
        }
    }

    /// The beginning of a text: its session, the line's number, the sender and the recipients.
    fn address(&self, world: &World, theme: &Theme, number: u64) -> String {
        let names = theme.to.iter().map(|&name| world.name(name));
        let names = match theme.to.len() {
            0..=LISTED => names.collect::<Vec<_>>().join("+"),
            many => format!("{many} names"),
        };
        format!("{} #{number} {}>{names} ", self.who, world.name(self.name))
    }

    /// An invalid or unusual line.
    fn nonsense(
        &self,
        world: &World,
        theme: &Theme,
        random: &mut fastrand::Rng,
        number: u64,
    ) -> (Meaning, Vec<u8>) {
        let mut choose = random.clone();
        let mut pick =
            |choices: &[&str]| choices[choose.usize(..choices.len())].as_bytes().to_vec();
        let refused = |reason: &str| Meaning::Refused(reason.to_owned());
        match number % 12 {
            // Seldom, since nothing more is read from the client until it is answered.
            0 if random.u8(..8) == 0 => {
                let seconds = random.u64(1..3);
                (Meaning::Sync { seconds }, format!("/sync {seconds}").into_bytes())
            }
            0 => (Meaning::Nothing, Vec::new()),
            1 => {
                let line = pick(&["nonsense", " ", "/whom", "\0\0", "\r\r", "c0 c1", "from c0"]);
                (refused("no ':' in it, expected \"name, name: text\""), line)
            }
            2 => {
                let line = pick(&[":", ": hello", " , ,: hello", "\u{a0}: hello", "\t::"]);
                (refused("no recipient before the ':'"), line)
            }
            3 => {
                let mut line = self.message(world, theme, number, 40, false).1;
                let at = random.usize(..line.len());
                line.insert(at, 0xFF);
                (refused("not UTF-8"), line)
            }
            4 => {
                let mut line = self.message(world, theme, number, 0, false).1;
                line.resize(world.max_line + random.usize(1..3000), b'x');
                (Meaning::Refused(format!("longer than {} bytes", world.max_line)), line)
            }
            5 => {
                let least = self.message(world, theme, number, 0, false).1.len();
                self.message(world, theme, number, world.max_line - least, false)
            }
            6 => {
                let list = [b"/who ", theme.list.as_slice()].concat();
                (Meaning::Who { about: theme.to.clone() }, list)
            }
            7 => (Meaning::WhoAll, pick(&["/who", "/who ", "/who\t,, ,"])),
            8 => self.message(world, theme, number, 0, true),
            9 => {
                let line = format!("{}: hello", *LONG_LIST);
                let reason = format!("more than {MAX_RECIPIENTS} names in its list");
                (Meaning::Refused(reason), line.into_bytes())
            }
            _ => self.message(world, theme, number, random.usize(..2000), true),
        }
    }
}

impl Theme {
    fn of(world: &World, speaker: &LineGenerator, index: u64) -> Self {
        let mut random = world.random(speaker.who, THEME, index);
        let count = match random.u8(..16) {
            0..11 => 1,
            11..14 => random.usize(2..4),
            14 => random.usize(5..2 * LISTED),
            _ => 2,
        };
        let everyone = random.u8(..128) == 0;
        let mut to: Vec<u16> = Vec::new();
        let seats = 0..u16::try_from(world.seats).expect("few seats");
        if everyone {
            to.extend(seats);
        } else {
            for _ in 0..count {
                let name = match random.u8(..16) {
                    0 => random.u16(..u16::try_from(world.names.len()).expect("few names")),
                    1 => speaker.name,
                    _ => random.u16(seats.clone()),
                };
                if !to.contains(&name) {
                    to.push(name);
                }
            }
        }
        let mut list = spell(world, &to, &mut random);
        let room = (random.u8(..6) == 0).then(|| random.usize(..ROOMS.len()));
        if let Some(room) = room {
            list = ROOMS[room].into();
        }
        let long_texts = random.u8(..12) == 0;
        Self { to, room, list, long_texts, nonsense: random.u8(..6) == 0 }
    }
}

/// A list of names in one of the ways to type it.
fn spell(world: &World, names: &[u16], random: &mut fastrand::Rng) -> Vec<u8> {
    let between = [", ", ",", " ,\t", ",, "][random.usize(..4)];
    let mut list = names.iter().map(|&name| world.name(name)).collect::<Vec<_>>();
    if random.u8(..8) == 0 {
        // A name that is listed twice counts once.
        list.push(world.name(names[0]));
    }
    let around = ["", "", "", " "][random.usize(..4)];
    format!("{around}{}{around}", list.join(between)).into_bytes()
}

/// This many bytes of text, or slightly fewer.
fn filler(length: usize, odd: bool) -> &'static str {
    if odd {
        let steps = (length / FILLER.len()).min(256);
        &ODD_FILLER[..steps * FILLER.len()]
    } else {
        &PLAIN_FILLER[..length]
    }
}

/// The session and line number at the beginning of a text.
pub fn parse_origin(text: &[u8]) -> Option<(SessionId, u64)> {
    let mut words = text.splitn(3, |&byte| byte == b' ').map(std::str::from_utf8);
    let (who, number) = (words.next()?.ok()?, words.next()?.ok()?);
    let (seat, session) = who.split_once('.')?;
    let who = SessionId { seat: seat.parse().ok()?, session: session.parse().ok()? };
    Some((who, number.strip_prefix('#')?.parse().ok()?))
}
