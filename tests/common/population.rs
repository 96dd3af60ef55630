//! A population of clients of every character, and the model that says what each of them must have
//! seen: message for message, from what they sent, what they were answered, and the report.
//!
//! Every line that a client sends is a function of its seed and the line's number, and carries
//! that number. So from the number of accepted lines alone follows, for each recipient, exactly
//! which numbers it must have received from whom, in which order.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use a_chat::Report;
use crossbeam_channel::{Receiver, Sender};

use super::PATIENCE;

/// How a client behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Character {
    /// Logs in and reads.
    Quiet,
    /// Sends this many lines and reads.
    Chatty(u64),
    /// Sends until it is stopped, also while the end of the stream comes, and reads.
    Flooding,
    /// Sends this many lines, half-closes, and reads on.
    HalfClosing(u64),
    /// As chatty, but reads a few bytes at a time.
    Slow(u64),
    /// Sends part of a name and no line end.
    MidLogin,
    /// Logs in and reads nothing until the server has reported.
    Stuck,
}

/// What became of one client.
#[derive(Debug)]
pub struct Transcript {
    pub name: String,
    character: Character,
    seed: u64,
    /// Lines that left this client whole.
    sent: u64,
    /// It has said that it leaves, after its last line.
    left: bool,
    /// The number in the closing notice, if one came.
    pub accepted: Option<u64>,
    /// Line number to recipients that were not there.
    missing: HashMap<u64, Vec<String>>,
    /// Sender to the numbers of its lines, in the order in which they came.
    received: HashMap<String, Vec<u64>>,
    /// The stream ended with a reset.
    pub reset: bool,
}

/// Clients of one server.
pub struct Population {
    names: Arc<Vec<String>>,
    clients: Vec<JoinHandle<Transcript>>,
    /// Dropped to let the stuck clients read.
    release: Option<Sender<()>>,
}

impl Population {
    /// Starts a client for each character; each of them connects, and acts, on its own.
    pub fn start(address: SocketAddr, seed: u64, characters: &[Character]) -> Self {
        let names: Vec<_> = (0..characters.len()).map(|number| format!("c{number}")).collect();
        let names = Arc::new(names);
        let (release, released) = crossbeam_channel::bounded(0);
        let clients = characters.iter().zip(0..).map(|(&character, number)| {
            let client = Actor {
                names: Arc::clone(&names),
                number,
                character,
                seed: seed ^ (number as u64) << 32,
                released: released.clone(),
            };
            thread::spawn(move || client.run(address))
        });
        let clients = clients.collect();
        Self { names, clients, release: Some(release) }
    }

    /// Waits for all clients' ends, which the server's end brings about, and checks what they saw
    /// against each other and against the report. Returns whether that could be done to the
    /// message: not if the deadline has kept from a sender how many of its lines were accepted.
    pub fn check(mut self, report: &Report) -> bool {
        drop(self.release.take());
        let join = |client: JoinHandle<Transcript>| client.join().expect("a client saw no fault");
        let transcripts: Vec<_> = self.clients.into_iter().map(join).collect();
        let cut_off = report.forced && transcripts.iter().any(Transcript::was_cut_off);
        if cut_off {
            check_order(&self.names, &transcripts);
        } else {
            check(&self.names, &transcripts, report);
        }
        !cut_off
    }
}

/// The recipients of a client's line, and the line.
fn line(seed: u64, number: u64, names: &[String]) -> (Vec<&String>, String) {
    let mut random = fastrand::Rng::with_seed(seed.wrapping_add(number));
    let count = if random.u8(..8) == 0 { random.usize(0..4) } else { 1 };
    let mut recipients: Vec<&String> = Vec::new();
    for _ in 0..count {
        // Runs of lines to the same recipient are what batches are made of.
        let stay = random.u8(..4) > 0;
        let pick = if stay { seed ^ (number / 16) } else { random.u64(..) };
        let name = &names[usize::try_from(pick % names.len() as u64).expect("an index")];
        if !recipients.contains(&name) {
            recipients.push(name);
        }
    }
    let padding = if random.u8(..64) == 0 { random.usize(..6000) } else { random.usize(..80) };
    let list = recipients.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
    // Without a recipient it is a line to be refused; every now and then an empty one.
    let line = match count {
        0 if number % 2 == 0 => String::new(),
        0 => format!("nonsense {number}"),
        _ => format!("{list}: {number} {}", "x".repeat(padding)),
    };
    (recipients, line)
}

struct Actor {
    names: Arc<Vec<String>>,
    number: usize,
    character: Character,
    seed: u64,
    released: Receiver<()>,
}

impl Actor {
    fn run(self, address: SocketAddr) -> Transcript {
        let mut transcript = Transcript {
            name: self.names[self.number].clone(),
            character: self.character,
            seed: self.seed,
            sent: 0,
            left: false,
            accepted: None,
            missing: HashMap::new(),
            received: HashMap::new(),
            reset: false,
        };
        let Ok(stream) = self.connect(address) else {
            // The listener was closed before: nothing was promised to this client.
            transcript.reset = true;
            return transcript;
        };
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
        let ended = Arc::new(AtomicBool::new(false));
        let (writer, ended_too) = (stream.try_clone().expect("a descriptor"), Arc::clone(&ended));
        thread::scope(|scope| {
            let sending = scope.spawn(|| self.send(writer, &ended_too));
            if self.character == Character::Stuck {
                // Ends with an error when the population lets it go.
                let _ = self.released.recv();
            }
            transcript.read(&stream);
            ended.store(true, SeqCst);
            // Unblocks a writer that the server no longer reads from.
            let _ = stream.shutdown(Shutdown::Both);
            (transcript.sent, transcript.left) = sending.join().expect("no panic");
        });
        transcript
    }

    fn connect(&self, address: SocketAddr) -> io::Result<TcpStream> {
        if self.character != Character::Stuck {
            return TcpStream::connect(address);
        }
        // With a small receive buffer a client that does not read is soon a burden to the server.
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
        socket.set_recv_buffer_size(4096)?;
        socket.connect(&address.into())?;
        Ok(socket.into())
    }

    /// Sends what the character says; returns how many lines left whole, and whether it could say
    /// that it leaves.
    fn send(&self, mut stream: TcpStream, ended: &AtomicBool) -> (u64, bool) {
        let count = match self.character {
            Character::Quiet | Character::Stuck => 0,
            Character::Chatty(count) | Character::HalfClosing(count) | Character::Slow(count) => {
                count
            }
            Character::Flooding => u64::MAX,
            Character::MidLogin => {
                // Whether it arrives makes no difference: nobody is logged in.
                let _ = stream.write_all(b"c");
                return (0, false);
            }
        };
        if stream.write_all(format!("{}\n", self.names[self.number]).as_bytes()).is_err() {
            return (0, false);
        }
        let mut random = fastrand::Rng::with_seed(self.seed);
        let mut sent = 0;
        while sent < count && !ended.load(SeqCst) {
            let lines = random.u64(1..40).min(count - sent);
            let packet: String = (sent..sent + lines)
                .map(|number| line(self.seed, number, &self.names).1 + "\n")
                .collect();
            if stream.write_all(packet.as_bytes()).is_err() {
                return (sent, false);
            }
            sent += lines;
        }
        // Fails if the connection was reset, which then is all that the client hears of it.
        let leaves = matches!(self.character, Character::HalfClosing(_)) && sent == count;
        (sent, leaves && stream.shutdown(Shutdown::Write).is_ok())
    }
}

impl Transcript {
    fn read(&mut self, stream: &TcpStream) {
        let chunk = if matches!(self.character, Character::Slow(_)) { 7 } else { 64 * 1024 };
        let mut input = BufReader::with_capacity(chunk, stream);
        let mut line = Vec::new();
        loop {
            line.clear();
            match input.read_until(b'\n', &mut line) {
                Ok(0) => return,
                Ok(_) if line.ends_with(b"\n") => {
                    let line = std::str::from_utf8(&line[..line.len() - 1]).expect("UTF-8");
                    self.note(line);
                }
                // A message that was cut off by force is none.
                Ok(_) => assert_eq!(self.character, Character::Stuck, "{}: torn line", self.name),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    self.reset = true;
                    return;
                }
                Err(error) => panic!("{}: {error}", self.name),
            }
        }
    }

    fn note(&mut self, line: &str) {
        assert_eq!(self.accepted, None, "{}: {line:?} after the closing notice", self.name);
        if let Some(message) = line.strip_prefix("from ") {
            let (sender, text) = message.split_once(": ").expect("a sender");
            let number = text.split(' ').next().and_then(|number| number.parse().ok());
            self.received.entry(sender.to_owned()).or_default().push(number.expect("a number"));
        } else if let Some(refusal) = line.strip_prefix("error: line ") {
            let (number, text) = refusal.split_once(": ").expect("a line number");
            let number: u64 = number.parse().expect("a number");
            if let Some(names) = text.strip_prefix("no such peer: ") {
                let names = names.split(", ").map(str::to_owned).collect();
                assert_eq!(self.missing.insert(number, names), None, "{}: {line}", self.name);
            } else {
                assert!(text.starts_with("no ':' in it"), "{}: {line}", self.name);
            }
        } else {
            let count = line
                .strip_prefix("notice: server is shutting down, ")
                .and_then(|rest| rest.strip_suffix(" of your lines were accepted"));
            let count = count.unwrap_or_else(|| panic!("{}: unexpected {line:?}", self.name));
            self.accepted = Some(count.parse().expect("a number"));
        }
    }

    /// True if it sent lines and does not know how many of them were accepted. Without force that
    /// is so only if its connection was never taken up.
    fn was_cut_off(&self) -> bool {
        let knows = self.accepted.is_some() || self.left && !self.reset;
        self.sent > 0 && !knows
    }

    /// How many of this client's lines were accepted; it must be able to tell.
    fn accepted_lines(&self) -> u64 {
        match self.accepted {
            Some(accepted) => accepted,
            // It left, saw a clean end, and was told nothing else: everything was accepted.
            None if self.left && !self.reset => self.sent,
            // Its connection was never taken up, or it was cut off by force having sent nothing.
            None => 0,
        }
    }
}

/// What holds also where nobody knows how many lines were accepted: each stream is in order, and
/// holds only what its sender has sent to this recipient.
fn check_order(names: &[String], transcripts: &[Transcript]) {
    for recipient in transcripts {
        for (sender, numbers) in &recipient.received {
            let sender = transcripts.iter().find(|client| client.name == *sender);
            let sender = sender.expect("a sender that exists");
            assert!(numbers.is_sorted_by(|a, b| a < b), "{} to {}", sender.name, recipient.name);
            let due = |&number: &u64| line(sender.seed, number, names).0.contains(&&recipient.name);
            assert!(numbers.iter().all(due), "{} to {}", sender.name, recipient.name);
        }
    }
}

fn check(names: &[String], transcripts: &[Transcript], report: &Report) {
    let mut expected: HashMap<(&str, &str), Vec<u64>> = HashMap::new();
    let mut accepted = 0;
    for sender in transcripts {
        let lines = sender.accepted_lines();
        // A line may be accepted and its packet's write still fail.
        assert!(lines <= sender.sent + 40, "{}: {lines} accepted of {}", sender.name, sender.sent);
        accepted += lines;
        for number in 0..lines {
            let missing = sender.missing.get(&(number + 1));
            for name in line(sender.seed, number, names).0 {
                if missing.is_none_or(|missing| !missing.contains(name)) {
                    expected.entry((&sender.name, name)).or_default().push(number);
                }
            }
        }
        let told = sender.missing.keys().copied().max().unwrap_or(0);
        assert!(told <= lines, "{}: line {told} was answered, {lines} accepted", sender.name);
    }
    assert_eq!(report.accepted, accepted, "accepted lines");
    let owed: usize = expected.values().map(Vec::len).sum();
    assert_eq!(report.owed, owed as u64, "deliveries owed");
    assert_eq!(report.owed, report.delivered + report.lost(), "{report}");

    let nothing = Vec::new();
    for recipient in transcripts {
        let losses = report.losses_before_drain.iter().chain(&report.losses_in_drain);
        let loss = losses.clone().find(|loss| loss.name.as_str() == recipient.name);
        let (mut due, mut got) = (0, 0);
        for sender in transcripts {
            let stream = (sender.name.as_str(), recipient.name.as_str());
            let received = recipient.received.get(stream.0).unwrap_or(&nothing);
            let expected = expected.get(&stream).unwrap_or(&nothing);
            assert!(
                expected.starts_with(received),
                "{stream:?}: not a gap-free prefix: {} of {}, differs at {:?}",
                received.len(),
                expected.len(),
                received.iter().zip(expected).position(|(a, b)| a != b),
            );
            due += expected.len() as u64;
            got += received.len() as u64;
        }
        let lost = loss.map_or(0, |loss| loss.messages);
        // Bytes may arrive in the instant in which a reading client is given up, and only then.
        let certain = recipient.character == Character::Stuck
            || loss.is_none_or(|loss| loss.unacknowledged_bytes == 0);
        assert!(got >= due - lost, "{}: {got} of {due}, {lost} reported lost", recipient.name);
        assert!(!certain || got == due - lost, "{}: {got} of {due}, {lost} lost", recipient.name);
        // Only the report's own losers, and those that were never taken up, may see a reset.
        let taken_up = recipient.accepted.is_some() || got > 0;
        assert!(!recipient.reset || loss.is_some() || !taken_up, "{}: reset", recipient.name);
    }
    let known = transcripts.iter().map(|client| client.name.as_str()).collect::<Vec<_>>();
    for loss in report.losses_before_drain.iter().chain(&report.losses_in_drain) {
        assert!(known.contains(&loss.name.as_str()), "{loss}");
    }
}

/// Reads whatever is left of a stream.
pub fn leftovers(mut stream: &TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
    // Both a clean end and a reset leave what came before them.
    let _ = stream.read_to_end(&mut bytes);
    bytes
}
