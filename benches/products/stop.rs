//! SIGTERM in the middle of a stream: what each server had acknowledged to the sender by its end is
//! held against what the recipient got of it.
//!
//! One thread sends, one hears the answers, one receives; the main thread stops the server.

use std::fmt::Display;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::ExitStatus;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use a_chat::load::ARRIVAL_TIMEOUT;
use a_chat::load::process::Process;
use a_chat::load::protocol::{read_stamp, spread};

use super::dialect::{Answers, BATCH, Dialect, Hello, MARK, SIZE, STAMPED};
use crate::rig::table::median_of;

pub const HEAD: &str = "| work | server | acknowledged | lost of these | delivered beyond these \
     | sender's end | recipient's end | stop to exit, ms | status |\n\
     | --- | --- | --: | --: | --: | --- | --- | --: | --: |";

/// How much a slow recipient reads at a time, and how long a byte keeps it busy: 10 MB/s.
const SIP: usize = 64 * 1024;
const NANOSECONDS_PER_BYTE: u64 = 100;

/// How far behind it is when the server is stopped, in bytes of text that were sent, unless the
/// server does not let it come to that for so long.
const BEHIND: u64 = 8 << 20;
const LONG: Duration = Duration::from_secs(1);

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
    /// Not, for [`ARRIVAL_TIMEOUT`].
    Never,
}

/// What one round has shown.
#[derive(Debug)]
pub struct Round {
    acknowledged: u64,
    received: u64,
    sender: End,
    recipient: End,
    exit: Duration,
    status: ExitStatus,
}

/// Both sides' progress, for the one that chooses the moment.
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
            // Not always at the same place of whatever goes on in the server.
            thread::sleep(Duration::from_millis(200) + round * Duration::from_micros(37_300));
            return;
        }
        let started = Instant::now();
        let behind = || {
            let received = progress.received.load(Relaxed);
            progress.sent.load(Relaxed).saturating_sub(received) * SIZE as u64
        };
        while behind() < BEHIND && started.elapsed() < LONG {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Stops a server while a sender writes to it as fast as it may.
pub fn measure(dialect: Dialect, mut server: Process, pace: Pace, round: u32) -> Round {
    let recipient = login(server.address, &dialect.recipient());
    let sender = login(server.address, &dialect.sender());
    let progress = &Progress::default();
    thread::scope(|scope| {
        let receiving = scope.spawn(|| receive(&recipient, pace, progress));
        let hearing = scope.spawn(|| hear(dialect, &sender));
        let sending = scope.spawn(|| send(dialect, &sender, progress));
        pace.wait(round, progress);
        let stopped = Instant::now();
        server.stop();
        let status = server.wait().expect("a child");
        let exit = stopped.elapsed();
        let (acknowledged, sender) = hearing.join().expect("the one who hears");
        // Of a reset only one of two calls is told.
        let sender = sender.and(sending.join().expect("the one who sends"));
        let (received, mut recipient, ended) = receiving.join().expect("the one who receives");
        if ended < stopped {
            recipient = End::CutOff;
        }
        Round { acknowledged, received, sender, recipient, exit, status }
    })
}

/// A client that the server knows.
fn login(address: SocketAddr, hello: &Hello) -> TcpStream {
    let mut socket = TcpStream::connect(address).expect("a connection");
    socket.set_nodelay(true).expect("a socket");
    socket.set_read_timeout(Some(ARRIVAL_TIMEOUT)).expect("a socket");
    socket.set_write_timeout(Some(ARRIVAL_TIMEOUT)).expect("a socket");
    socket.write_all(hello.says.as_bytes()).expect("room for a login");
    let mut heard = Vec::new();
    while !heard.ends_with(hello.hears.as_bytes()) {
        let mut chunk = [0; 4096];
        let count = socket.read(&mut chunk).expect("an answer to the login");
        assert!(count > 0, "refused: {}", String::from_utf8_lossy(&heard));
        heard.extend_from_slice(&chunk[..count]);
    }
    socket
}

/// Sends numbered messages until the server takes no more.
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

/// Hears the answers to what is sent, and ends the sending.
fn hear(dialect: Dialect, mut socket: &TcpStream) -> (u64, End) {
    let mut answers = Answers::default();
    let end = read(&mut socket, 256 * 1024, |bytes| {
        let whole = memchr::memrchr(b'\n', bytes).map_or(0, |end| end + 1);
        for line in String::from_utf8_lossy(&bytes[..whole]).lines() {
            dialect.hear(line, &mut answers);
        }
        whole
    });
    // The sender may wait for room. It fails if the connection is gone, as it may be.
    let _ = socket.shutdown(Shutdown::Both);
    (answers.taken, end)
}

/// Receives messages, each of which has to be the next one, and tells when they ended.
fn receive(mut socket: &TcpStream, pace: Pace, progress: &Progress) -> (u64, End, Instant) {
    let (mut received, mut used) = (0, 0);
    let begun = Instant::now();
    let size = if pace == Pace::Fast { 256 * 1024 } else { SIP };
    let end = read(&mut socket, size, |bytes| {
        let mut rest = from_mark(bytes);
        // With the first byte of its end.
        while rest.len() > SIZE {
            let (_, number) = read_stamp(&rest[STAMPED]);
            assert_eq!(number, spread(received), "the message after {received} is another one");
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
    // a-chat waits for its clients to close, a second at most.
    let _ = socket.shutdown(Shutdown::Both);
    (u64::from(received), end, ended)
}

/// The next text, as far as it has come, and what follows it.
fn from_mark(bytes: &[u8]) -> &[u8] {
    memchr::memchr(MARK, bytes).map_or(&[], |at| &bytes[at..])
}

/// Reads to the end; `take` says how much it has used of what has come.
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
            // That of a socket which was shut down.
            _ => Self::Clean,
        }
    }

    /// That of a connection of which two threads have each seen one.
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
    /// How many of the first messages, so many as were acknowledged, have not come.
    fn lost(&self) -> u64 {
        self.acknowledged.saturating_sub(self.received)
    }
}

/// A row of the table.
pub fn text(pace: Pace, dialect: Dialect, rounds: &[Round]) -> String {
    let counts = |count: fn(&Round) -> u64| range(rounds.iter().map(count));
    let ends = |end: fn(&Round) -> End| counts(rounds.iter().map(|round| end(round).text()));
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
        counts(rounds.iter().map(|round| status(round.status))),
    )
}

fn status(status: ExitStatus) -> String {
    status.code().map_or_else(|| status.to_string(), |code| code.to_string())
}

/// The least and the most, and in how many rounds there were any if not in all.
fn range(counts: impl Iterator<Item = u64> + Clone) -> String {
    let (least, most) = (counts.clone().min().unwrap_or(0), counts.clone().max().unwrap_or(0));
    let some = counts.filter(|&count| count > 0).count();
    match least {
        _ if least == most => least.to_string(),
        0 => format!("0 to {most} (in {some})"),
        _ => format!("{least} to {most}"),
    }
}

/// How often there is what, unless it is always the same.
fn counts<T: Display + PartialEq>(all: impl Iterator<Item = T>) -> String {
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
