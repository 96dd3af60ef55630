//! Soak: one server that serves for as long as one likes, clients that stay and clients that come
//! and go in every way. Again and again all who came have gone, and then the server must have no
//! more threads, descriptors and memory than before.
//!
//! The server is the real executable, so that nothing of the test is measured. The pace leaves the
//! machine to others: it takes about a twentieth of a processor. `cargo test --release --test soak
//! -- --ignored --nocapture` goes on for an hour, or `A_CHAT_SECONDS`, and tells the numbers.
#![cfg(feature = "cli")]

mod common;
#[path = "common/process.rs"]
mod process;

use std::fmt;
use std::io::Write;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use common::rounds::asked;
use common::{Client, try_login, wait_until};
use process::{Process, serve};

/// How many clients stay all the time.
const RESIDENTS: usize = 8;

/// How many lines each of them sends in a round.
const BURST: usize = 50;

/// How long the load rests after a round.
const REST: Duration = Duration::from_millis(200);

/// How much larger, in KiB, the memory may be than in the first quarter of the time.
const GROWTH: u64 = 1024;

/// What a server takes of the machine.
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

/// A client that stays, and how many lines it has sent.
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
            // The question of the login is a line, too.
            Resident { name, client, sent: 1 }
        });
        Self { server, residents: residents.collect(), rounds: 0 }
    }

    /// Something of everything; all who came are gone at its end, or about to go.
    fn round(&mut self) {
        self.rounds += 1;
        (0..RESIDENTS).for_each(|sender| self.burst(sender));
        self.passer_by();
        self.impostor();
        self.victim();
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
                client.expect_line(&format!("from {name}: {}", text(line)));
            }
        }
    }

    /// Comes, makes a mistake, says something, and leaves.
    fn passer_by(&mut self) {
        let name = format!("passer-by-{}", self.rounds);
        let mut client = try_login(self.server, &name).expect("room");
        client.send(&format!("nobody: where are you?\n{}: hello", self.residents[0].name));
        client.expect_line("error: line 2: no such peer: nobody");
        self.residents[0].client.expect_line(&format!("from {name}: hello"));
        client.half_close();
        client.expect_eof();
    }

    /// Wants another's name.
    fn impostor(&mut self) {
        let mut client = Client::connect(self.server);
        client.send(&self.residents[0].name);
        client.expect_line("error: name taken");
        client.expect_eof();
    }

    /// Resets with something on its way to it.
    fn victim(&mut self) {
        let victim = try_login(self.server, "victim").expect("room");
        let sender = &mut self.residents[1];
        sender.send(&vec!["victim: watch out".to_owned(); BURST]);
        victim.reset();
        // Its name is free when the server has noticed, the lines before that may be refused.
        wait_until("the victim's end", || {
            sender.send(&["/who victim".to_owned()]);
            let is_answer = |line: &String| !line.ends_with(": no such peer: victim");
            let answer = std::iter::from_fn(|| sender.client.line()).find(is_answer);
            answer.expect("an answer").ends_with(" not here: victim")
        });
    }

    /// One who never reads, and is evicted; who has flooded it until then leaves.
    fn eviction(&self) {
        let idler = try_login(self.server, "idler").expect("room");
        let mut flooder = try_login(self.server, "flooder").expect("room");
        // Much more than its window and what the kernel holds for the other one.
        flooder.send_bytes(format!("idler: {}\n", "x".repeat(1000)).repeat(2000).as_bytes());
        flooder.half_close();
        flooder.drain();
        drop(idler);
    }
}

/// Measures the server so many times in all this time, at even intervals. Returns how much memory
/// it had each time, in KiB.
fn soak(time: Duration, samples: u32) -> Vec<u64> {
    let mut command = serve(&["--stall-timeout=300ms", "--linger=100ms"]);
    // With an arena for every few threads, each grows to its own peak, and that takes hours: what
    // is resident then says little about what is allocated.
    command.env("MALLOC_ARENA_MAX", "1");
    let mut server = Process::start(command);
    let mut load = Load::start(server.address());
    let (began, start) = (Instant::now(), Size::of(&server));
    let mut memory = Vec::new();
    for sample in 1..=samples {
        load.eviction();
        while {
            load.round();
            thread::sleep(REST);
            began.elapsed() < time * sample / samples
        } {}
        wait_until("all who came to be gone", || {
            let now = Size::of(&server);
            (now.threads, now.descriptors) == (start.threads, start.descriptors)
        });
        let (now, seconds) = (Size::of(&server), began.elapsed().as_secs());
        // Seen with `--nocapture`.
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
        client.expect_line(&format!("notice: {notice}"));
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
#[ignore = "takes an hour, or as long as A_CHAT_SECONDS says"]
fn a_server_does_not_grow_in_an_hour_of_load() {
    let hour = Duration::from_secs(3600);
    let memory = soak(asked("A_CHAT_SECONDS").map_or(hour, Duration::from_secs), 60);
    let (early, late) = memory.split_at(memory.len() / 4);
    let most = early.iter().max().expect("enough samples") + GROWTH;
    assert!(late.iter().all(|late| *late <= most), "grows: {memory:?} KiB");
}
