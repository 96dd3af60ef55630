//! What one life has sent and heard. Each line is checked as it comes, against what its sender, or
//! this life itself, is known to say under that number; what needs more than one transcript is the
//! model's.

use std::collections::HashMap;
use std::fmt;
use std::io::BufRead;
use std::net::SocketAddrV4;
use std::time::Instant;

use super::World;
use super::answer::Answer;
use super::life::{SessionPlan, Who};
use super::speech::{LineGenerator, Meaning, origin};

/// All that is known of a life when it is over.
#[derive(Debug)]
pub struct Transcript {
    pub life: SessionPlan,
    /// Its own, by which the log names it; nobody else in this process has the first half of it.
    pub address: SocketAddrV4,
    /// Just before it connected.
    pub began: Instant,
    /// What it had the words for, a packet at a time.
    pub packets: Vec<Packet>,
    /// All bytes that it gave to its kernel, the line ends among them, and whether the last byte
    /// was one.
    pub bytes_sent: u64,
    pub line_ends_sent: u64,
    pub sent_whole: bool,
    /// Just before it did something that ends the connection.
    pub parted: Option<Instant>,
    pub half_closed: bool,
    pub ending: Ending,
    pub ended: Instant,
    /// When it heard the first line that only who is logged in can hear.
    pub welcomed: Option<Instant>,
    pub messages: Vec<Heard>,
    pub answers: Vec<Answer>,
    /// Something after which nothing comes.
    pub last_word: Option<LastWord>,
    /// It was told that its last line had no line end.
    pub unterminated: bool,
    pub bytes_heard: u64,
    /// A line that has no line end yet.
    unfinished: Vec<u8>,
    speech: LineGenerator,
    /// Who has said something, and the number of the last line of it.
    speakers: HashMap<Who, (LineGenerator, u64)>,
}

/// Lines that a life made at one time, and sent after that.
#[derive(Clone, Copy, Debug)]
pub struct Packet {
    pub first_line: u64,
    /// How many bytes it had made before.
    pub offset: u64,
    pub made: Instant,
}

/// How a connection ended for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With an end of file, and no reset before it.
    Clean,
    /// With a reset, after all that its kernel had got.
    Reset,
    /// By itself: what its kernel had got, or would have, it did not read.
    Abandoned,
}

/// A message that came.
#[derive(Clone, Copy, Debug)]
pub struct Heard {
    pub from: Who,
    pub line: u32,
    /// How many bytes had come with the last of it.
    pub end: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastWord {
    /// So many of this life's lines were accepted.
    Notice(u64),
    BadName,
    NameTaken,
    LoginTimeout,
    Full,
    Evicted,
}

const LAST_WORDS: [(&str, LastWord); 5] = [
    ("error: bad name, expected 1 to 32 of A-Z a-z 0-9 _ . -", LastWord::BadName),
    ("error: name taken", LastWord::NameTaken),
    ("error: login not in time", LastWord::LoginTimeout),
    ("error: server is full", LastWord::Full),
    ("error: evicted, nothing was read for too long", LastWord::Evicted),
];

const TORN: &str = "error: the last line had no line end and was not accepted";

impl Transcript {
    pub fn new(life: SessionPlan, address: SocketAddrV4, began: Instant) -> Self {
        Self {
            speech: life.speech(),
            life,
            address,
            began,
            packets: Vec::new(),
            bytes_sent: 0,
            line_ends_sent: 0,
            sent_whole: true,
            parted: None,
            half_closed: false,
            ending: Ending::Abandoned,
            ended: began,
            welcomed: None,
            messages: Vec::new(),
            answers: Vec::new(),
            last_word: None,
            unterminated: false,
            bytes_heard: 0,
            unfinished: Vec::new(),
            speakers: HashMap::new(),
        }
    }

    /// Lines that it gave to its kernel to the last byte, the login line not counted.
    pub fn lines_sent(&self) -> u64 {
        self.line_ends_sent.saturating_sub(1)
    }

    /// When it made a line, which it sent after that.
    pub fn made(&self, line: u64) -> Instant {
        let next = self.packets.partition_point(|packet| packet.first_line <= line);
        self.packets[next - 1].made
    }

    /// How many of its lines are within the first `bytes` that it sent.
    pub fn lines_within(&self, world: &World, bytes: u64) -> u64 {
        let packet = self.packets.partition_point(|packet| packet.offset <= bytes);
        let Some(packet) = packet.checked_sub(1).map(|index| self.packets[index]) else { return 0 };
        let (mut end, mut speech) = (packet.offset, self.life.speech());
        let is_within = |line: &u64| {
            end += speech.line(world, *line).wire.len() as u64;
            end <= bytes
        };
        (packet.first_line..=self.lines_sent())
            .take_while(is_within)
            .last()
            .unwrap_or(packet.first_line - 1)
    }

    /// Takes what was written.
    pub fn say(&mut self, bytes: &[u8]) {
        self.bytes_sent += bytes.len() as u64;
        self.line_ends_sent += memchr::memchr_iter(b'\n', bytes).count() as u64;
        self.sent_whole = bytes.last().map_or(self.sent_whole, |&byte| byte == b'\n');
    }

    /// Takes some of the stream.
    pub fn hear(&mut self, world: &World, mut bytes: &[u8]) {
        let now = Instant::now();
        loop {
            let taken = bytes.read_until(b'\n', &mut self.unfinished).expect("memory can be read");
            self.bytes_heard += taken as u64;
            let line = std::mem::take(&mut self.unfinished);
            let Some(whole) = line.strip_suffix(b"\n") else {
                self.unfinished = line;
                return;
            };
            let understood = self.understand(world, whole, now);
            let said = String::from_utf8_lossy(&whole[..whole.len().min(300)]);
            assert!(understood.is_some(), "{} can not have got {said:?}", self.life.who);
        }
    }

    /// Takes the end of the stream.
    pub fn end(&mut self, ending: Ending) {
        (self.ending, self.ended) = (ending, Instant::now());
        let unterminated = !self.unfinished.is_empty();
        assert!(
            !unterminated || ending != Ending::Clean,
            "{}: a unterminated line, then the end",
            self.life.who
        );
        // What is not needed any more need not wait for the model.
        (self.speakers, self.unfinished) = (HashMap::new(), Vec::new());
    }

    /// Takes a line; `None` if the server can not have said that to this life.
    fn understand(&mut self, world: &World, line: &[u8], now: Instant) -> Option<()> {
        if self.last_word.is_some() {
            return None;
        }
        if let Some(message) = line.strip_prefix(b"from ") {
            self.welcomed.get_or_insert(now);
            return self.take_message(world, message);
        }
        let line = std::str::from_utf8(line).ok()?;
        if line.starts_with("error: line ") || line.starts_with("notice: line ") {
            self.welcomed.get_or_insert(now);
            return self.take_answer(world, line, now);
        }
        if line == TORN {
            return (!std::mem::replace(&mut self.unterminated, true)).then_some(());
        }
        let known = LAST_WORDS.into_iter().find(|(text, _)| *text == line);
        self.last_word = known.map(|(_, word)| word);
        if self.last_word.is_none() {
            let count = line.strip_prefix("notice: server is shutting down, ")?;
            let count = count.strip_suffix(" of your lines were accepted")?;
            self.last_word = Some(LastWord::Notice(count.parse().ok()?));
        }
        Some(())
    }

    /// A message must be, to the byte, what the life that it names says in the line that it names,
    /// to this client, and later than all that came from there before.
    fn take_message(&mut self, world: &World, message: &[u8]) -> Option<()> {
        let (name, text) =
            message.split_at_checked(message.iter().position(|&byte| byte == b':')?)?;
        let text = text.strip_prefix(b": ")?;
        let (from, number) = origin(text)?;
        let speaker = self.speakers.entry(from);
        let (speech, last) = speaker.or_insert_with(|| (SessionPlan::of(world, from).speech(), 0));
        let Meaning::Message { to, text: expected } = speech.line(world, number).meaning else {
            return None;
        };
        let is_named = world.name(speech.name()).as_bytes() == name;
        let after = std::mem::replace(last, number);
        let is_right = is_named && expected == text && number > after;
        let is_for_me = to.contains(&self.life.name);
        let line = u32::try_from(number).ok()?;
        self.messages.push(Heard { from, line, end: self.bytes_heard });
        (is_right && is_for_me).then_some(())
    }

    /// An answer must be one that a line of this life can get, and come after all answers to
    /// earlier lines.
    fn take_answer(&mut self, world: &World, said: &str, now: Instant) -> Option<()> {
        let answer = Answer::read(world, &mut self.speech, said, now)?;
        let last = self.answers.last().map_or(0, |last| last.line);
        let is_next = last < answer.line && answer.line <= self.lines_sent();
        self.answers.push(answer);
        is_next.then_some(())
    }
}

impl fmt::Display for Transcript {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sent, heard, answers) = (self.lines_sent(), self.messages.len(), self.answers.len());
        write!(f, "{} from {} sent {sent} lines, ", self.life.who, self.address)?;
        write!(f, "heard {heard} messages and {answers} answers, {} bytes, ", self.bytes_heard)?;
        write!(f, "last {:?}, {:?} end; it is {:?}", self.last_word, self.ending, self.life)
    }
}
