//! SIGTERM in the middle of a stream: compares the messages that each server acknowledged to the
//! sender with those the recipient received.
//!
//! One thread sends, one reads the replies, one receives; the main thread stops the server.

use std::fmt::Display;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::ExitStatus;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use a_chat::Endpoint;
use a_chat::load::ARRIVAL_TIMEOUT;
use a_chat::load::process::Process;
use a_chat::load::protocol::{encode_bits, read_stamp};

use super::dialect::{BATCH, Dialect, Handshake, MARK, Replies, SIZE, STAMPED};
use crate::rig::table::median_of;

pub const HEAD: &str = "| work | server | acknowledged | lost of these | delivered beyond these \
     | sender's end | recipient's end | stop to exit, ms | status |\n\
     | --- | --- | --: | --: | --: | --- | --- | --: | --: |";

/// Read size of a slow recipient, and its time per byte: 10 MB/s.
const SLOW_READ: usize = 64 * 1024;
const NANOSECONDS_PER_BYTE: u64 = 100;

/// The lag at which the server is stopped, in bytes of sent text, unless it is not reached within
/// the maximum wait.
const MAX_LAG: u64 = 8 << 20;
const MAX_WAIT: Duration = Duration::from_secs(1);

/// How the recipient reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    Fast,
    Slow,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// By an end of file.
    Clean,
    Reset,
    /// Before the server was told to stop.
    CutOff,
    /// Not within [`ARRIVAL_TIMEOUT`].
    Never,
}

/// The result of one round.
#[derive(Debug)]
pub struct Round {
    acknowledged: u64,
    received: u64,
    sender: End,
    recipient: End,
    exit: Duration,
    status: ExitStatus,
}

/// Both sides' progress, used to choose the moment of the stop.
#[derive(Debug, Default)]
struct Progress {
    sent: AtomicU64,
    received: AtomicU64,
}

impl Pace {
    pub fn name(self) -> &'static str {
        match self {
            Self::Fast => "stop/reading",
            Self::Slow => "stop/slow",
        }
    }

    /// Waits for the moment to stop the server.
    fn wait(self, round: u32, progress: &Progress) {
        if self == Self::Fast {
            // Varies the moment from round to round.
            thread::sleep(Duration::from_millis(200) + round * Duration::from_micros(37_300));
            return;
        }
        let started = Instant::now();
        let lag = || {
            let received = progress.received.load(Relaxed);
            progress.sent.load(Relaxed).saturating_sub(received) * SIZE as u64
        };
        while lag() < MAX_LAG && started.elapsed() < MAX_WAIT {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Stops a server while a sender writes to it as fast as possible.
pub fn measure(dialect: Dialect, mut server: Process, pace: Pace, round: u32) -> Round {
    let recipient = login(&server.address, &dialect.recipient());
    let sender = login(&server.address, &dialect.sender());
    let progress = &Progress::default();
    thread::scope(|scope| {
        let receiver = scope.spawn(|| receive(&recipient, pace, progress));
        let replies = scope.spawn(|| handle_reply(dialect, &sender));
        let sending = scope.spawn(|| send(dialect, &sender, progress));
        pace.wait(round, progress);
        let stopped = Instant::now();
        server.stop();
        let status = server.wait().expect("a child");
        let exit = stopped.elapsed();
        let (acknowledged, sender) = replies.join().expect("the one who hears");
        // Only one of two calls sees a reset.
        let sender = sender.and(sending.join().expect("the one who sends"));
        let (received, mut recipient, ended) = receiver.join().expect("the one who receives");
        if ended < stopped {
            recipient = End::CutOff;
        }
        Round { acknowledged, received, sender, recipient, exit, status }
    })
}

/// Connects a client and waits until the server knows it.
fn login(address: &Endpoint, handshake: &Handshake) -> TcpStream {
    let mut socket = TcpStream::connect(address.tcp_addr().expect("TCP")).expect("a connection");
    socket.set_nodelay(true).expect("a socket");
    socket.set_read_timeout(Some(ARRIVAL_TIMEOUT)).expect("a socket");
    socket.set_write_timeout(Some(ARRIVAL_TIMEOUT)).expect("a socket");
    socket.write_all(handshake.request.as_bytes()).expect("room for a login");
    let mut heard = Vec::new();
    while !heard.ends_with(handshake.reply_end.as_bytes()) {
        let mut chunk = [0; 4096];
        let count = socket.read(&mut chunk).expect("an answer to the login");
        assert!(count > 0, "refused: {}", String::from_utf8_lossy(&heard));
        heard.extend_from_slice(&chunk[..count]);
    }
    socket
}

/// Sends numbered messages until the server closes the connection.
fn send(dialect: Dialect, mut socket: &TcpStream, progress: &Progress) -> End {
    let mut lines = dialect.lines();
    lines.bytes.extend_from_slice(dialect.question());
    let mut first = 0;
    loop {
        lines.number(0, first);
        if let Err(error) = socket.write_all(&lines.bytes) {
            return End::of(error.kind());
        }
        first += BATCH;
        progress.sent.store(u64::from(first), Relaxed);
    }
}

/// Reads the replies to the sender; their end stops the sending.
fn handle_reply(dialect: Dialect, mut socket: &TcpStream) -> (u64, End) {
    let mut replies = Replies::default();
    let end = read(&mut socket, 256 * 1024, |bytes| {
        let whole = memchr::memrchr(b'\n', bytes).map_or(0, |end| end + 1);
        for line in String::from_utf8_lossy(&bytes[..whole]).lines() {
            dialect.handle_reply(line, &mut replies);
        }
        whole
    });
    // The sender may be blocked in a write. Fails if the connection is gone already.
    let _ = socket.shutdown(Shutdown::Both);
    (replies.accepted, end)
}

/// Receives messages, each of which must be the next one; returns how many, how they ended and
/// when.
fn receive(mut socket: &TcpStream, pace: Pace, progress: &Progress) -> (u64, End, Instant) {
    let (mut received, mut used) = (0, 0);
    let begun = Instant::now();
    let size = if pace == Pace::Fast { 256 * 1024 } else { SLOW_READ };
    let end = read(&mut socket, size, |bytes| {
        let mut rest = from_mark(bytes);
        // Together with the first byte of its line end.
        while rest.len() > SIZE {
            let (_, number) = read_stamp(&rest[STAMPED]);
            assert_eq!(
                number,
                encode_bits(received),
                "the message after {received} is another one"
            );
            received += 1;
            rest = from_mark(&rest[SIZE..]);
        }
        progress.received.store(u64::from(received), Relaxed);
        let whole = bytes.len() - rest.len();
        used += whole as u64;
        if pace == Pace::Slow {
            let busy = Duration::from_nanos(used * NANOSECONDS_PER_BYTE);
            thread::sleep(busy.saturating_sub(begun.elapsed()));
        }
        whole
    });
    let ended = Instant::now();
    // a-chat waits up to a second for its clients to close.
    let _ = socket.shutdown(Shutdown::Both);
    (u64::from(received), end, ended)
}

/// The bytes from the next text on.
fn from_mark(bytes: &[u8]) -> &[u8] {
    memchr::memchr(MARK, bytes).map_or(&[], |at| &bytes[at..])
}

/// Reads to the end; `take` returns how many bytes it consumed.
fn read(socket: &mut &TcpStream, size: usize, mut take: impl FnMut(&[u8]) -> usize) -> End {
    let (mut buffer, mut held) = (vec![0; size], 0);
    loop {
        match socket.read(&mut buffer[held..]) {
            Ok(0) => return End::Clean,
            Ok(count) => {
                let used = take(&buffer[..held + count]);
                buffer.copy_within(used..held + count, 0);
                held = held + count - used;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return End::of(error.kind()),
        }
    }
}

impl End {
    fn of(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::ConnectionReset => Self::Reset,
            ErrorKind::WouldBlock => Self::Never,
            // The end of a socket that was shut down.
            _ => Self::Clean,
        }
    }

    /// The end of a connection as seen by two threads.
    fn and(self, other: Self) -> Self {
        if self == Self::Clean { other } else { self }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::Reset => "reset",
            Self::CutOff => "cut off before",
            Self::Never => "none",
        }
    }
}

impl Round {
    /// How many of the acknowledged messages did not arrive.
    fn lost(&self) -> u64 {
        self.acknowledged.saturating_sub(self.received)
    }
}

/// A row of the table.
pub fn text(pace: Pace, dialect: Dialect, rounds: &[Round]) -> String {
    let counts = |count: fn(&Round) -> u64| range(rounds.iter().map(count));
    let ends = |end: fn(&Round) -> End| tally(rounds.iter().map(|round| end(round).text()));
    let exit = rounds.iter().map(|round| round.exit.as_secs_f64() * 1e3);
    format!(
        "| {} | {} | {} | {} | {} | {} | {} | {:.1} | {} |",
        pace.name(),
        dialect.name(),
        counts(|round| round.acknowledged),
        counts(Round::lost),
        counts(|round| round.received.saturating_sub(round.acknowledged)),
        ends(|round| round.sender),
        ends(|round| round.recipient),
        median_of(exit.collect()),
        tally(rounds.iter().map(|round| status(round.status))),
    )
}

fn status(status: ExitStatus) -> String {
    status.code().map_or_else(|| status.to_string(), |code| code.to_string())
}

/// Minimum and maximum; if the minimum is 0, also the number of rounds above it.
fn range(counts: impl Iterator<Item = u64> + Clone) -> String {
    let (min, max) = (counts.clone().min().unwrap_or(0), counts.clone().max().unwrap_or(0));
    let some = counts.filter(|&count| count > 0).count();
    match min {
        _ if min == max => min.to_string(),
        0 => format!("0 to {max} (in {some})"),
        _ => format!("{min} to {max}"),
    }
}

/// Each distinct value with its count, or the value alone if all are equal.
fn tally<T: Display + PartialEq>(all: impl Iterator<Item = T>) -> String {
    let mut kinds: Vec<(T, usize)> = Vec::new();
    for one in all {
        match kinds.iter_mut().find(|(kind, _)| *kind == one) {
            Some((_, count)) => *count += 1,
            None => kinds.push((one, 1)),
        }
    }
    match &kinds[..] {
        [(kind, _)] => kind.to_string(),
        kinds => {
            let kinds: Vec<_> =
                kinds.iter().map(|(kind, count)| format!("{kind} ({count})")).collect();
            kinds.join(", ")
        }
    }
}
