//! Everything one session sent and received. Each line is checked on arrival against what its
//! sender, or this session itself, sends under that number; the model checks the properties of
//! several transcripts.

use std::collections::HashMap;
use std::fmt;
use std::io::BufRead;
use std::net::SocketAddrV4;
use std::time::Instant;

use super::World;
use super::line_generator::{LineGenerator, Meaning, parse_origin};
use super::losses::ToldLoss;
use super::reply::Reply;
use super::rooms::ROOMS;
use super::session_plan::{SessionId, SessionPlan};

/// Everything known of a finished session.
#[derive(Debug)]
pub struct Transcript {
    pub session: SessionPlan,
    /// Its own address, which identifies it in the log; no other session of this process shares the
    /// IP address.
    pub address: SocketAddrV4,
    /// Just before it connected.
    pub began: Instant,
    /// The lines it created, by packet.
    pub packets: Vec<Packet>,
    /// Bytes and line ends passed to its kernel, and whether the last byte was a line end.
    pub bytes_sent: u64,
    pub line_ends_sent: u64,
    pub sent_whole: bool,
    /// Just before it did something that ends the connection.
    pub left_at: Option<Instant>,
    pub half_closed: bool,
    pub ending: Ending,
    pub ended: Instant,
    /// When it received the first line that only a logged-in client receives.
    pub logged_in_at: Option<Instant>,
    pub messages: Vec<ReceivedMessage>,
    pub replies: Vec<Reply>,
    /// What it was told of lines that were accepted and then lost.
    pub losses: Vec<ToldLoss>,
    /// A line after which nothing may follow.
    pub final_line: Option<FinalLine>,
    /// It was told that its last line had no line end.
    pub unterminated: bool,
    pub bytes_received: u64,
    /// The beginning of an incomplete line.
    unfinished: Vec<u8>,
    lines: LineGenerator,
    /// The sessions it received messages from, each with its last line number.
    speakers: HashMap<SessionId, (LineGenerator, u64)>,
}

/// Lines that a session created together, before it sent them.
#[derive(Clone, Copy, Debug)]
pub struct Packet {
    pub first_line: u64,
    /// Bytes created before.
    pub offset: u64,
    pub made: Instant,
}

/// How a connection ended for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With an end of file, and no reset before it.
    Clean,
    /// With a reset, after everything its kernel had received.
    Reset,
    /// By the client itself, which left data unread.
    Abandoned,
    /// With an end of file in the middle of the TLS handshake, so it was told nothing.
    InHandshake,
}

/// A received message.
#[derive(Clone, Copy, Debug)]
pub struct ReceivedMessage {
    pub from: SessionId,
    pub line: u32,
    /// Bytes received up to its end.
    pub end: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinalLine {
    /// This many of the session's lines were accepted.
    Notice(u64),
    BadName,
    NameTaken,
    LoginTimeout,
    Full,
    Evicted,
}

const FINAL_LINES: [(&str, FinalLine); 5] = [
    ("error: bad name, expected 1 to 32 of A-Z a-z 0-9 _ . -", FinalLine::BadName),
    ("error: name taken", FinalLine::NameTaken),
    ("error: login not in time", FinalLine::LoginTimeout),
    ("error: server is full", FinalLine::Full),
    ("error: evicted, nothing was read for too long", FinalLine::Evicted),
];

const UNTERMINATED: &str = "error: the last line had no line end and was not accepted";

impl Transcript {
    pub fn new(session: SessionPlan, address: SocketAddrV4, began: Instant) -> Self {
        Self {
            lines: session.line_generator(),
            session,
            address,
            began,
            packets: Vec::new(),
            bytes_sent: 0,
            line_ends_sent: 0,
            sent_whole: true,
            left_at: None,
            half_closed: false,
            ending: Ending::Abandoned,
            ended: began,
            logged_in_at: None,
            messages: Vec::new(),
            replies: Vec::new(),
            losses: Vec::new(),
            final_line: None,
            unterminated: false,
            bytes_received: 0,
            unfinished: Vec::new(),
            speakers: HashMap::new(),
        }
    }

    /// Lines passed to its kernel completely, without the login line.
    pub fn lines_sent(&self) -> u64 {
        self.line_ends_sent.saturating_sub(1)
    }

    /// When it created a line, which it sent after that.
    pub fn made(&self, line: u64) -> Instant {
        let next = self.packets.partition_point(|packet| packet.first_line <= line);
        self.packets[next - 1].made
    }

    /// Its lines within the first `bytes` that it sent.
    pub fn lines_within(&self, world: &World, bytes: u64) -> u64 {
        let packet = self.packets.partition_point(|packet| packet.offset <= bytes);
        let Some(packet) = packet.checked_sub(1).map(|index| self.packets[index]) else { return 0 };
        let (mut end, mut lines) = (packet.offset, self.session.line_generator());
        let is_within = |line: &u64| {
            end += lines.line(world, *line).wire.len() as u64;
            end <= bytes
        };
        (packet.first_line..=self.lines_sent())
            .take_while(is_within)
            .last()
            .unwrap_or(packet.first_line - 1)
    }

    /// Records written bytes.
    pub fn say(&mut self, bytes: &[u8]) {
        self.bytes_sent += bytes.len() as u64;
        self.line_ends_sent += memchr::memchr_iter(b'\n', bytes).count() as u64;
        self.sent_whole = bytes.last().map_or(self.sent_whole, |&byte| byte == b'\n');
    }

    /// Handles received bytes.
    pub fn hear(&mut self, world: &World, mut bytes: &[u8]) {
        let now = Instant::now();
        loop {
            let taken = bytes.read_until(b'\n', &mut self.unfinished).expect("memory can be read");
            self.bytes_received += taken as u64;
            let line = std::mem::take(&mut self.unfinished);
            let Some(whole) = line.strip_suffix(b"\n") else {
                self.unfinished = line;
                return;
            };
            let understood = self.understand(world, whole, now);
            let said = String::from_utf8_lossy(&whole[..whole.len().min(300)]);
            assert!(understood.is_some(), "{} cannot have received {said:?}", self.session.who);
        }
    }

    /// Handles the end of the stream.
    pub fn end(&mut self, ending: Ending) {
        (self.ending, self.ended) = (ending, Instant::now());
        let unterminated = !self.unfinished.is_empty();
        assert!(
            !unterminated || ending != Ending::Clean,
            "{}: an unterminated line before the end",
            self.session.who
        );
        // The model does not need these any more.
        (self.speakers, self.unfinished) = (HashMap::new(), Vec::new());
    }

    /// Handles a line; `None` if the server cannot have sent it to this session.
    fn understand(&mut self, world: &World, line: &[u8], now: Instant) -> Option<()> {
        if self.final_line.is_some() {
            return None;
        }
        if let Some(message) = line.strip_prefix(b"from ") {
            self.logged_in_at.get_or_insert(now);
            return self.take_message(world, message);
        }
        let line = std::str::from_utf8(line).ok()?;
        if line.starts_with("error: line ") || line.starts_with("notice: line ") {
            self.logged_in_at.get_or_insert(now);
            if let Some(loss) = ToldLoss::read(world, line) {
                self.losses.push(loss);
                return (loss.last <= self.lines_sent()).then_some(());
            }
            return self.take_reply(world, line, now);
        }
        if let Some(notice) = line.strip_prefix("notice: #") {
            return take_room_notice(world, notice);
        }
        if line == UNTERMINATED {
            return (!std::mem::replace(&mut self.unterminated, true)).then_some(());
        }
        let known = FINAL_LINES.into_iter().find(|(text, _)| *text == line);
        self.final_line = known.map(|(_, word)| word);
        if self.final_line.is_none() {
            let count = line.strip_prefix("notice: server is shutting down, ")?;
            let count = count.strip_suffix(" of your lines were accepted")?;
            self.final_line = Some(FinalLine::Notice(count.parse().ok()?));
        }
        Some(())
    }

    /// A message must equal, byte for byte, the line of the session and number that it names, be
    /// addressed to this client, and come after all earlier ones from there.
    fn take_message(&mut self, world: &World, message: &[u8]) -> Option<()> {
        let (name, text) =
            message.split_at_checked(message.iter().position(|&byte| byte == b':')?)?;
        let text = text.strip_prefix(b": ")?;
        let (from, number) = parse_origin(text)?;
        let speaker = self.speakers.entry(from);
        let (lines, last) =
            speaker.or_insert_with(|| (SessionPlan::of(world, from).line_generator(), 0));
        let from_whom = world.name(lines.name());
        let (is_for_me, is_named, expected) = match lines.line(world, number).meaning {
            Meaning::Message { to, text } => {
                (to.contains(&self.session.name), from_whom.as_bytes() == name, text)
            }
            // Whether it was in the room, the model checks.
            Meaning::RoomMessage { room, text } => {
                let is_named = format!("{from_whom} {}", ROOMS[room]).as_bytes() == name;
                (from != self.session.who, is_named, text)
            }
            _ => return None,
        };
        let after = std::mem::replace(last, number);
        let is_right = is_named && expected == text && number > after;
        let line = u32::try_from(number).ok()?;
        self.messages.push(ReceivedMessage { from, line, end: self.bytes_received });
        (is_right && is_for_me).then_some(())
    }

    /// A reply must fit one of this session's lines, and come after all replies to earlier lines.
    fn take_reply(&mut self, world: &World, said: &str, now: Instant) -> Option<()> {
        let mut reply = Reply::read(world, &mut self.lines, said, now)?;
        reply.losses = self.losses.len();
        let last = self.replies.last().map_or(0, |last| last.line);
        let is_next = last < reply.line && reply.line <= self.lines_sent();
        self.replies.push(reply);
        is_next.then_some(())
    }
}

/// Who came to a room and left it, or that this client was too slow for it.
fn take_room_notice(world: &World, notice: &str) -> Option<()> {
    let (room, told) = notice.split_once(": ")?;
    let is_room = ROOMS.iter().any(|known| known[1..] == *room);
    if told == "you are out of it, too slow" {
        return is_room.then_some(());
    }
    let mut told = told.split(", ");
    let (name, verb) = told.next()?.split_once(' ')?;
    let is_right = is_room && world.find(name).is_some() && ["joined", "left"].contains(&verb);
    let is_count = |told: &str| {
        let (count, what) = told.split_once(' ').unwrap_or_default();
        count.parse::<u64>().is_ok() && ["other came", "others came", "left"].contains(&what)
    };
    (is_right && told.all(is_count)).then_some(())
}

impl fmt::Display for Transcript {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sent, heard, replies) = (self.lines_sent(), self.messages.len(), self.replies.len());
        write!(f, "{} from {} sent {sent} lines, ", self.session.who, self.address)?;
        write!(f, "heard {heard} messages and {replies} replies, {} bytes, ", self.bytes_received)?;
        write!(f, "last {:?}, {:?} end; it is {:?}", self.final_line, self.ending, self.session)
    }
}
