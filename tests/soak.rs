//! Soak test: one server runs for as long as requested, while some clients stay and others connect
//! and disconnect in every way. Each time all the visitors have left, the server must be back to
//! the threads, descriptors and memory it had before.
//!
//! The server is the real executable, so the measurements exclude the test itself. The load is
//! light, about a twentieth of a CPU. `cargo test --release --test soak -- --ignored --nocapture`
//! runs for an hour, or `A_CHAT_SECONDS`, and prints the measurements.
#![cfg(feature = "cli")]

mod common;
#[path = "common/process.rs"]
mod process;

use std::fmt;
use std::io::Write;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use common::rounds::env_number;
use common::{Client, try_login, wait_until};
use process::{Process, serve};

/// How many clients stay connected throughout.
const RESIDENTS: usize = 8;

/// How many lines each of them sends in a round.
const BURST: usize = 50;

/// How long the load pauses after a round.
const REST: Duration = Duration::from_millis(200);

/// How many KiB the memory may grow beyond its maximum in the first quarter of the time.
const MAX_GROWTH: u64 = 1024;

/// The resources that a server uses.
#[derive(Clone, Copy, Debug)]
struct Size {
    threads: usize,
    descriptors: usize,
    /// Resident, in KiB.
    memory: u64,
}

impl Size {
    fn of(server: &Process) -> Self {
        let (threads, descriptors) = (server.count("task"), server.count("fd"));
        Self { threads, descriptors, memory: server.resident() / 1024 }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { threads, descriptors, memory } = self;
        write!(f, "{threads} threads, {descriptors} descriptors, {memory} KiB")
    }
}

/// A client that stays connected, and how many lines it has sent.
struct Resident {
    name: String,
    client: Client,
    sent: u64,
}

impl Resident {
    fn send(&mut self, lines: &[String]) {
        self.client.send_bytes((lines.join("\n") + "\n").as_bytes());
        self.sent += lines.len() as u64;
    }
}

struct Load {
    server: SocketAddr,
    residents: Vec<Resident>,
    rounds: u64,
}

impl Load {
    fn start(server: SocketAddr) -> Self {
        let residents = (0..RESIDENTS).map(|number| {
            let name = format!("resident-{number}");
            let client = try_login(server, &name).expect("room");
            // The login's `/who` is a line, too.
            Resident { name, client, sent: 1 }
        });
        Self { server, residents: residents.collect(), rounds: 0 }
    }

    /// Does a bit of everything; at the end every visitor has disconnected or is about to.
    fn round(&mut self) {
        self.rounds += 1;
        (0..RESIDENTS).for_each(|sender| self.burst(sender));
        self.visit();
        self.claim_taken_name();
        self.reset_with_messages_in_flight();
    }

    /// Lines from one resident to the next two.
    fn burst(&mut self, sender: usize) {
        let neighbours = [1, 2].map(|step| (sender + step) % RESIDENTS);
        let list = neighbours.map(|neighbour| self.residents[neighbour].name.clone()).join(", ");
        let text = |line| format!("{line}{}", "x".repeat(line * 7));
        let lines: Vec<_> = (0..BURST).map(|line| format!("{list}: {}", text(line))).collect();
        self.residents[sender].send(&lines);
        let name = self.residents[sender].name.clone();
        for neighbour in neighbours {
            for line in 0..BURST {
                let client = &mut self.residents[neighbour].client;
                client.expect_reply(&format!("from {name}: {}", text(line)));
            }
        }
    }

    /// A client connects, makes a mistake, sends a message, and leaves.
    fn visit(&mut self) {
        let name = format!("passer-by-{}", self.rounds);
        let mut client = try_login(self.server, &name).expect("room");
        client.send(&format!("nobody: where are you?\n{}: hello", self.residents[0].name));
        client.expect_line("error: line 2: no such peer: nobody");
        self.residents[0].client.expect_line(&format!("from {name}: hello"));
        client.half_close();
        client.expect_eof();
    }

    /// A client tries to log in under a resident's name.
    fn claim_taken_name(&mut self) {
        let mut client = Client::connect(self.server);
        client.send(&self.residents[0].name);
        client.expect_line("error: name taken");
        client.expect_eof();
    }

    /// A client resets while messages for it are in flight.
    fn reset_with_messages_in_flight(&mut self) {
        let victim = try_login(self.server, "victim").expect("room");
        let sender = &mut self.residents[1];
        sender.send(&vec!["victim: watch out".to_owned(); BURST]);
        victim.reset();
        // Its name becomes free once the server notices; lines sent after that are refused.
        wait_until("the victim's disconnection", || {
            sender.send(&["/who victim".to_owned()]);
            let is_reply = |line: &String| !line.ends_with(": no such peer: victim");
            let reply = std::iter::from_fn(|| sender.client.reply()).find(is_reply);
            reply.expect("a reply").ends_with(" not here: victim")
        });
    }

    /// A client that never reads is evicted; the one that flooded it then leaves.
    fn evict_idler(&self) {
        let idler = try_login(self.server, "idler").expect("room");
        let mut flooder = try_login(self.server, "flooder").expect("room");
        // Far more than its own window plus what the kernels hold for the idler.
        flooder.send_bytes(format!("idler: {}\n", "x".repeat(1000)).repeat(2000).as_bytes());
        flooder.half_close();
        flooder.drain();
        drop(idler);
    }
}

/// Measures the server this many times at even intervals. Returns its resident memory at each, in
/// KiB.
fn soak(time: Duration, samples: u32) -> Vec<u64> {
    let mut command = serve(&["--stall-timeout=300ms", "--linger=100ms"]);
    // With many arenas, each takes hours to grow to its own peak, and resident memory says little
    // about allocated memory.
    command.env("MALLOC_ARENA_MAX", "1");
    let mut server = Process::start(command);
    let mut load = Load::start(server.address());
    let (began, start) = (Instant::now(), Size::of(&server));
    let mut memory = Vec::new();
    for sample in 1..=samples {
        load.evict_idler();
        while {
            load.round();
            thread::sleep(REST);
            began.elapsed() < time * sample / samples
        } {}
        wait_until("all visitors to be gone", || {
            let now = Size::of(&server);
            (now.threads, now.descriptors) == (start.threads, start.descriptors)
        });
        let (now, seconds) = (Size::of(&server), began.elapsed().as_secs());
        // Shown with `--nocapture`.
        let _ = writeln!(
            std::io::stderr(),
            "{seconds} s, {} rounds: {now}, {:?} of CPU",
            load.rounds,
            server.cpu_time()
        );
        memory.push(now.memory);
    }
    server.signal(rustix::process::Signal::TERM);
    for Resident { client, sent, .. } in &mut load.residents {
        let notice = format!("server is shutting down, {sent} of your lines were accepted");
        client.expect_reply(&format!("notice: {notice}"));
        client.expect_eof();
    }
    drop(load);
    let (status, log) = server.wait();
    let last = log.last().expect("a report");
    assert!(status == 0 && last.contains(", 0 lost during it, "), "{status}: {last}");
    let _ = writeln!(std::io::stderr(), "{last}");
    memory
}

#[test]
fn a_server_does_not_grow_in_seconds_of_load() {
    soak(Duration::from_secs(4), 8);
}

#[test]
#[ignore = "takes an hour, or A_CHAT_SECONDS"]
fn a_server_does_not_grow_in_an_hour_of_load() {
    let hour = Duration::from_secs(3600);
    let memory = soak(env_number("A_CHAT_SECONDS").map_or(hour, Duration::from_secs), 60);
    let (early, late) = memory.split_at(memory.len() / 4);
    let max = early.iter().max().expect("enough samples") + MAX_GROWTH;
    assert!(late.iter().all(|late| *late <= max), "grows: {memory:?} KiB");
}
