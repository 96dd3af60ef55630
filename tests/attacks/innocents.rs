//! A pair of innocent clients: one sends a numbered line every few milliseconds, whatever becomes
//! of the ones before, and the other receives them. What they see is what an attack costs others.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::account::Account;
use crate::common::try_login;
use crate::crowd::{End, Received};

/// How often the sender sends a line.
const INTERVAL: Duration = Duration::from_millis(5);

/// How long a reader waits for anything at all.
const SILENCE: Duration = Duration::from_secs(120);

/// What a message of an innocent client may take beside a flood, half of them less than this: by
/// far more than it takes, and by far less than the time in which each flooding client's window
/// has its turn alone.
pub const MEDIAN: Duration = Duration::from_secs(if cfg!(debug_assertions) { 5 } else { 1 });

pub struct Innocents {
    finish: Arc<AtomicBool>,
    arrived: Arc<AtomicU64>,
    addresses: [SocketAddr; 2],
    sender: JoinHandle<u64>,
    sender_reads: JoinHandle<Seen>,
    recipient_reads: JoinHandle<Seen>,
    latencies: Arc<Mutex<Vec<Duration>>>,
}

/// What one of the two saw to its end.
#[derive(Debug)]
pub struct Seen {
    pub received: Received,
    pub end: End,
}

impl Innocents {
    pub fn start(server: SocketAddr) -> Self {
        Self::start_as(server, ["innocent-a", "innocent-b"])
    }

    pub fn start_as(server: SocketAddr, names: [&str; 2]) -> Self {
        let clients = names.map(|name| try_login(server, name).expect("room"));
        let [from, to] = clients.map(|client| client.stream.try_clone().expect("a descriptor"));
        let addresses = [&from, &to].map(|stream| stream.local_addr().expect("an address"));
        let finish = Arc::new(AtomicBool::new(false));
        let arrived = Arc::new(AtomicU64::new(0));
        let times = Arc::new(Mutex::new(VecDeque::new()));
        let latencies = Arc::new(Mutex::new(Vec::new()));
        let sender = {
            let (finish, times) = (Arc::clone(&finish), Arc::clone(&times));
            let (mut stream, to) = (from.try_clone().expect("a descriptor"), names[1].to_owned());
            thread::spawn(move || {
                let mut sent = 0;
                while !finish.load(SeqCst) {
                    lock(&times).push_back(Instant::now());
                    if stream.write_all(format!("{to}: #{sent} is here\n").as_bytes()).is_err() {
                        break;
                    }
                    sent += 1;
                    thread::sleep(INTERVAL);
                }
                sent
            })
        };
        let sender_reads = {
            let finish = Arc::clone(&finish);
            thread::spawn(move || {
                let seen = read_to_end(from.tcp(), |_| {});
                finish.store(true, SeqCst);
                seen
            })
        };
        let recipient_reads = {
            let (arrived, latencies) = (Arc::clone(&arrived), Arc::clone(&latencies));
            thread::spawn(move || {
                read_to_end(to.tcp(), |line| {
                    if line.starts_with(b"from ") {
                        let sent = lock(&times).pop_front().expect("it was sent");
                        lock(&latencies).push(sent.elapsed());
                        arrived.fetch_add(1, SeqCst);
                    }
                })
            })
        };
        Self { finish, arrived, addresses, sender, sender_reads, recipient_reads, latencies }
    }

    /// How many lines have arrived.
    pub fn arrived(&self) -> u64 {
        self.arrived.load(SeqCst)
    }

    /// Forgets the latencies so far.
    pub fn restart_latencies(&self) {
        lock(&self.latencies).clear();
    }

    /// The latency below which half of the messages stayed, and 99 of 100, in what was measured.
    pub fn latencies(&self) -> (Duration, Duration) {
        let mut latencies = lock(&self.latencies).clone();
        latencies.sort_unstable();
        let at = |part: usize| {
            let index = (latencies.len() * part / 100).min(latencies.len().saturating_sub(1));
            latencies.get(index).copied().unwrap_or(Duration::MAX)
        };
        (at(50), at(99))
    }

    /// Lets the sender send no more.
    pub fn hush(&self) {
        self.finish.store(true, SeqCst);
    }

    /// Waits for the end of both, whose server was shut down, and checks that they got everything:
    /// each accepted line, the closing notice, and a clean end.
    pub fn expect_no_loss(self, account: &Account) {
        let (seen, sent, addresses) = self.end();
        let [from, to] = &seen;
        let told = || format!("sent {sent}: {seen:#?}\n{}", account.summary());
        assert_eq!([from.end, to.end], [End::Clean; 2], "{}", told());
        // The question of the login is a line too.
        let accepted = from.received.accepted.expect("a closing notice") - 1;
        assert_eq!(to.received.accepted, Some(1), "{}", told());
        assert_eq!(to.received.messages, accepted, "{}", told());
        assert!(accepted <= sent, "{}", told());
        for (seen, address) in seen.iter().zip(addresses) {
            let record = account.record(address);
            assert_eq!(Some(record.accepted), seen.received.accepted, "{}", told());
            assert_eq!(record.delivered, seen.received.messages, "{}", told());
            assert_eq!(record.lost, 0, "{}", told());
            assert_eq!(seen.received.fault, None, "{}", told());
        }
    }

    /// How many lines the closing notice calls accepted, and how many arrived.
    pub fn accepted_and_arrived(self) -> (u64, u64) {
        let ([from, to], ..) = self.end();
        let accepted = from.received.accepted.expect("a closing notice");
        (accepted - 1, to.received.messages)
    }

    fn end(self) -> ([Seen; 2], u64, [SocketAddr; 2]) {
        let from = self.sender_reads.join().expect("no panic");
        let to = self.recipient_reads.join().expect("no panic");
        let sent = self.sender.join().expect("no panic");
        ([from, to], sent, self.addresses)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads a connection line by line to its end.
pub fn read_to_end(stream: &TcpStream, mut line: impl FnMut(&[u8])) -> Seen {
    stream.set_read_timeout(Some(SILENCE)).expect("a timeout");
    let mut reader = BufReader::new(stream);
    let mut received = Received::default();
    let mut bytes = Vec::new();
    let end = loop {
        bytes.clear();
        match reader.read_until(b'\n', &mut bytes) {
            Ok(0) => break End::Clean,
            Ok(_) => {
                received.feed(&bytes);
                line(&bytes);
            }
            Err(error) => {
                let is_timeout = error.kind() == std::io::ErrorKind::WouldBlock;
                assert!(!is_timeout, "nothing came: {received:#?}");
                break End::Reset;
            }
        }
    };
    Seen { received, end }
}
