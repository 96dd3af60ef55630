//! Lines that one server did not accept go to the next, in order, without loss or duplicates. If it
//! is unknown whether a line was accepted, the client reports it as in doubt and does not resend it.
//!
//! Each case runs real clients against real servers that are stopped or killed in mid-stream and
//! restarted on the same port, or against a server that the test plays itself.
#![cfg(feature = "cli")]
#![expect(clippy::print_stdout, reason = "the figures are there to be looked at")]

mod common;
#[path = "common/process.rs"]
mod process;

use std::io::Write;
use std::net::SocketAddr;
use std::process::ChildStdin;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use common::script::{Peer, Script};
use crossbeam_channel::{Sender, unbounded};
use process::{Process, connect, executable, serve};
use rustix::process::Signal;

/// Timeouts longer than any test waits, so none of them ends anything.
const PATIENT: [&str; 6] =
    ["--stall-timeout", "10min", "--drain-timeout", "10min", "--linger", "10min"];

/// A real server that is restarted on the same port.
struct Restarted {
    server: Process,
    address: SocketAddr,
}

impl Restarted {
    fn start() -> Self {
        let mut server = Process::start(serve(&PATIENT));
        let address = server.address();
        Self { server, address }
    }

    /// Waits for a server that was signalled to exit; it must lose nothing.
    fn stopped(self) -> SocketAddr {
        let (status, log) = self.server.wait();
        assert_eq!(status, 0, "{log:#?}");
        self.address
    }

    fn start_on(address: SocketAddr) -> Self {
        let mut command = executable();
        command.args(["serve", "--listen", &address.to_string()]).args(PATIENT);
        let mut server = Process::start(command);
        assert_eq!(server.address(), address);
        Self { server, address }
    }
}

/// A client that reconnects.
fn steady(address: SocketAddr, name: &str, flags: &[&str]) -> Process {
    let mut command = connect(address, &["--reconnect", "--name", name]);
    command.args(flags);
    Process::start(command)
}

/// The length of alice's messages in bytes: a tenth of all of them exceeds all the buffers between
/// her input and the server's.
const LENGTH: usize = 500;

/// Feeds numbered lines to alice, up to a number that is raised from time to time.
struct Feeder {
    limits: Sender<u64>,
    thread: JoinHandle<()>,
}

impl Feeder {
    fn start(mut stdin: ChildStdin) -> Self {
        let (limits, raised) = unbounded();
        let thread = thread::spawn(move || {
            let mut number = 0;
            for limit in raised {
                let numbers = number + 1..=limit;
                number = limit;
                let lines = numbers.map(|number| format!("bob: message {number:<LENGTH$}.\n"));
                let lines = lines.collect::<Vec<_>>().concat();
                stdin.write_all(lines.as_bytes()).expect("a client that reads");
            }
        });
        Self { limits, thread }
    }

    fn feed(&self, limit: u64) {
        self.limits.send(limit).expect("a thread that feeds");
    }

    /// Ends the client's input.
    fn end(self) {
        drop(self.limits);
        self.thread.join().expect("no panic");
    }
}

/// The number of alice's message, if the line is one.
fn number(line: &str) -> Option<u64> {
    let message = line.strip_prefix("from alice: message ")?;
    let number = message.strip_suffix('.').expect("a whole line").trim_end();
    Some(number.parse().expect("a number"))
}

/// Bob's side of alice's stream.
struct Received {
    bob: Process,
    /// The number of the last message.
    last: u64,
}

impl Received {
    /// Takes one line; a message must be the next in order. True for a closing notice.
    fn take(&mut self) -> bool {
        let line = self.bob.stdout.next();
        if let Some(number) = number(&line) {
            assert_eq!(number, self.last + 1);
            self.last = number;
            return false;
        }
        assert!(line.starts_with("notice: server is shutting down, "), "{line}");
        true
    }

    fn up_to(&mut self, number: u64) {
        while self.last < number {
            assert!(!self.take(), "no server stops now");
        }
    }

    fn up_to_notice(&mut self) {
        while !self.take() {}
    }
}

/// Ten restarts in the middle of a stream: alice sends as fast as bob's output is read, which is
/// slow, so she has megabytes in flight whenever the server is signalled to stop.
#[test]
fn each_line_arrives_once_and_in_order_over_ten_restarts() {
    const RESTARTS: u64 = 10;
    const LINES: u64 = 100_000;
    const PART: u64 = LINES / (RESTARTS + 1);
    let mut random = fastrand::Rng::with_seed(17);
    let mut running = Restarted::start();
    let flags = ["--reconnect", "--name", "bob"];
    let mut bob = Process::start_with_bounded_stdout(connect(running.address, &flags));
    bob.write("bob: here\n");
    bob.stdout.expect_line("from bob: here");
    let mut bob = Received { bob, last: 0 };
    let mut alice = steady(running.address, "alice", &[]);
    let feeder = Feeder::start(alice.stdin.take().expect("an input"));
    for part in 1..=RESTARTS {
        feeder.feed(part * PART);
        bob.up_to((part - 1) * PART + random.u64(1..PART / 10));
        running.server.signal(Signal::TERM);
        bob.up_to_notice();
        let address = running.stopped();
        running = Restarted::start_on(address);
    }
    feeder.feed(LINES);
    bob.up_to(LINES);
    feeder.end();
    let (status, stderr) = alice.wait();
    assert_eq!(status, 0, "{stderr:#?}");
    let count = |text: &str| stderr.iter().filter(|line| line.contains(text)).count() as u64;
    assert_eq!(count("the server was shut down"), RESTARTS, "{stderr:#?}");
    assert_eq!(count("connected again"), RESTARTS, "{stderr:#?}");
    assert_eq!(count("in doubt") + count("refused, "), 0, "{stderr:#?}");
    let cuts = stderr.iter().filter_map(|line| {
        let lines = line.strip_suffix(" were accepted")?;
        lines.rsplit(' ').next()?.parse::<u64>().ok()
    });
    let rests: Vec<_> = cuts.zip(1..).map(|(cut, part)| part * PART - cut).collect();
    let in_the_middle = rests.iter().filter(|&&rest| rest > 0).count() as u64;
    assert!(in_the_middle > RESTARTS / 2, "hardly any restart left a rest: {stderr:#?}");
    println!("{LINES} lines, {RESTARTS} restarts, {rests:?} lines to send again each time");
    // Bob has nothing more to say and gets nothing more.
    bob.bob.stdin = None;
    let rest = bob.bob.stdout.take_to_end();
    assert!(rest.is_empty(), "{rest:#?}");
    let (status, stderr) = bob.bob.wait();
    assert_eq!(status, 0, "{stderr:#?}");
    running.server.signal(Signal::TERM);
    running.stopped();
}

/// A server is killed in mid-stream, with everything that it had still to deliver. The client reports
/// the lines that were perhaps accepted and does not resend them; everything after them arrives.
#[test]
fn after_a_crash_the_doubtful_lines_are_named_and_not_sent_again() {
    const LINES: u64 = 20_000;
    let mut running = Restarted::start();
    let flags = ["--reconnect", "--name", "bob"];
    let mut bob = Process::start_with_bounded_stdout(connect(running.address, &flags));
    bob.write("bob: here\n");
    bob.stdout.expect_line("from bob: here");
    let mut alice = steady(running.address, "alice", &[]);
    let feeder = Feeder::start(alice.stdin.take().expect("an input"));
    feeder.feed(LINES);
    let mut last = 0;
    let mut gap = None;
    while last < LINES {
        let line = bob.stdout.next();
        let number = number(&line).expect("a message");
        if number != last + 1 {
            assert!(gap.replace(last + 1..number).is_none(), "one crash, one gap");
        }
        assert!(number > last, "{number} again");
        last = number;
        if number == LINES / 10 {
            running.server.signal(Signal::KILL);
            let address = running.address;
            drop(running);
            running = Restarted::start_on(address);
        }
    }
    feeder.end();
    let (status, stderr) = alice.wait();
    assert_eq!(status, 1, "{stderr:#?}");
    let doubt = stderr.iter().find(|line| line.contains("in doubt")).expect("a crash");
    let mut numbers = doubt.split(' ').filter_map(|word| word.parse::<u64>().ok());
    let (first, last) = (numbers.next().expect("a number"), numbers.next().expect("two of them"));
    assert!(
        gap.is_none_or(|gap| gap.end <= last + 1),
        "more is missing than was in doubt: {doubt}"
    );
    assert!(stderr.iter().any(|line| line.starts_with(&format!("  line {first}: bob: "))));
    bob.stdin = None;
    let rest = bob.stdout.take_to_end();
    assert!(rest.is_empty(), "{rest:#?}");
    running.server.signal(Signal::TERM);
    running.stopped();
}

#[test]
fn an_idle_client_goes_on_with_the_next_server() {
    let running = Restarted::start();
    let mut bob = steady(running.address, "bob", &[]);
    bob.write("bob: one\n");
    bob.stdout.expect_line("from bob: one");
    running.server.signal(Signal::TERM);
    let running = Restarted::start_on(running.stopped());
    bob.log.expect("connected again");
    bob.write_and_end("bob: two\n");
    bob.stdout.expect_line("notice: server is shutting down, 1 of your lines were accepted");
    bob.stdout.expect_line("from bob: two");
    let (status, stderr) = bob.wait();
    assert_eq!(status, 0, "{stderr:#?}");
    running.server.signal(Signal::TERM);
    running.stopped();
}

/// A client that has logged in for the second time, with these lines to send.
fn back(script: &Script, flags: &[&str], lines: &str) -> (Process, Peer) {
    let mut client = steady(script.address, "alice", flags);
    let mut peer = script.log_in("alice");
    client.write(lines);
    for line in lines.lines() {
        peer.expect_line(line);
    }
    // It accepted none of them.
    peer.close_after(1);
    peer.client.half_close();
    peer.client.drain();
    (client, script.log_in("alice"))
}

#[test]
fn unaccepted_lines_wait_for_their_recipients() {
    let script = Script::listen();
    let lines = "bob: 1\nbob: 2\ncarol, bob, no name: 3\n/who\nnonsense\nbob: 4\n";
    let (mut alice, mut peer) = back(&script, &[], lines);
    let answer = |peer: &mut Peer, question: &str, text: &str| {
        peer.expect_line_after_questions("alice", question);
        peer.reply(text);
    };
    answer(&mut peer, "/who bob", "not here: bob");
    answer(&mut peer, "/who bob", "not here: bob");
    answer(&mut peer, "/who bob", "here: bob");
    for line in ["bob: 1", "bob: 2"] {
        peer.expect_line_after_questions("alice", line);
    }
    // A recipient that was seen is not asked for again.
    answer(&mut peer, "/who carol", "not here: carol");
    alice.log.expect("a-chat: waiting for bob");
    alice.log.expect("a-chat: waiting for carol");
    answer(&mut peer, "/who carol", "here: carol");
    for line in ["carol, bob, no name: 3", "/who", "nonsense", "bob: 4"] {
        peer.expect_line_after_questions("alice", line);
    }
    // Later lines wait for their recipients too.
    alice.write("dave: 5\n");
    peer.expect_line_after_questions("alice", "/who dave");
}

/// What counts is what was accepted: the rooms that it left in lines to be sent again it enters, too.
#[test]
fn a_client_enters_its_rooms_again_before_it_sends() {
    let script = Script::listen();
    let mut alice = steady(script.address, "alice", &[]);
    let mut peer = script.log_in("alice");
    let lines = ["/join #dev loud", "/join #ops", "/join #old", "/leave #old", "/leave #ops"];
    alice.write(&(lines.join("\n") + "\n#dev: 1\n"));
    for line in lines {
        peer.expect_line(line);
    }
    peer.expect_line("#dev: 1");
    // The login's question was the first line.
    peer.close_after(5);
    drop(peer);
    let mut peer = script.log_in("alice");
    for (line, room) in [("/join #dev loud", "#dev"), ("/join #ops quiet", "#ops")] {
        peer.expect_line(line);
        let number = peer.line;
        peer.client.send(&format!("notice: line {number}: in {room}, 1 are"));
    }
    // Nothing is sent to an empty room.
    peer.expect_line("/leave #ops");
    for reply in ["1 in #dev: alice", "2 in #dev: alice, bob"] {
        let line = loop {
            match peer.line() {
                line if line == "/who alice" => {}
                line => break line,
            }
        };
        assert_eq!(line, "/who #dev");
        let number = peer.line;
        peer.client.send(&format!("notice: line {number}: {reply}"));
    }
    alice.log.expect("a-chat: waiting for others in #dev");
    peer.expect_line("#dev: 1");
}

#[test]
fn unaccepted_lines_do_not_wait_with_no_wait() {
    let script = Script::listen();
    let (_alice, mut peer) = back(&script, &["--no-wait"], "bob: 1\ncarol: 2\n");
    peer.expect_line("bob: 1");
    peer.expect_line("carol: 2");
}

/// The server stops again while the client waits for a recipient.
#[test]
fn a_restart_while_waiting_keeps_everything() {
    let script = Script::listen();
    let (mut alice, mut peer) = back(&script, &[], "bob: 1\ncarol: 2\n");
    peer.expect_line("/who bob");
    peer.client.send("notice: line 2: here: bob");
    peer.expect_line("bob: 1");
    peer.expect_line("/who carol");
    peer.client.send("notice: line 4: not here: carol");
    alice.log.expect("a-chat: waiting for carol");
    peer.close_after(peer.line);
    drop(peer);
    let mut peer = script.log_in("alice");
    peer.expect_line("/who carol");
    peer.client.send("notice: line 2: here: carol");
    peer.expect_line("carol: 2");
}

#[test]
fn refused_lines_are_not_sent_again_and_numbers_go_on() {
    let script = Script::listen();
    let mut alice = steady(script.address, "alice", &["--no-wait"]);
    let mut peer = script.log_in("alice");
    alice.write("bob: 1\nbob: 2\nbob: 3\n");
    for number in 1..=3 {
        peer.expect_line(&format!("bob: {number}"));
    }
    peer.client.send("error: line 2: no such peer: bob");
    peer.close_after(3);
    drop(peer);
    let mut peer = script.log_in("alice");
    peer.expect_line("bob: 3");
    peer.client.send("error: line 2: no such peer: bob");
    alice.write_and_end("bob: 4\n");
    peer.expect_line_after_questions("alice", "bob: 4");
    peer.answer_who("alice");
    drop(peer);
    for line in [
        "error: line 1: no such peer: bob",
        "notice: server is shutting down, 2 of your lines were accepted",
        "error: line 3: no such peer: bob",
    ] {
        alice.stdout.expect_line(line);
    }
    let (status, stderr) = alice.wait();
    assert_eq!(status, 1, "{stderr:#?}");
    for number in [1, 3] {
        let told = format!("a-chat: line {number} was refused, no such peer: bob: bob: {number}");
        assert!(stderr.contains(&told), "{stderr:#?}");
    }
}

#[test]
fn a_temporary_rejection_is_retried() {
    let script = Script::listen();
    let mut alice = steady(script.address, "alice", &[]);
    for error in ["name taken", "server is full", "name taken"] {
        let mut peer = script.accept();
        peer.client.expect_line("alice");
        peer.client.send(&format!("error: {error}"));
        drop(peer);
        alice.log.expect_next(&format!("a-chat: cannot log in as alice: {error}; trying again"));
    }
    let mut peer = script.log_in("alice");
    alice.write_and_end("bob: hi\n");
    peer.expect_line("bob: hi");
    peer.answer_who("alice");
    drop(peer);
    assert_eq!(alice.wait().0, 0);
}

/// A server that accepts the login and then disconnects is not flooded with attempts: each pause is
/// longer than the one before.
#[test]
fn a_client_that_is_disconnected_again_and_again_waits_longer_each_time() {
    let script = Script::listen();
    let _alice = steady(script.address, "alice", &[]);
    let begin = Instant::now();
    for _ in 0..4 {
        drop(script.log_in("alice"));
    }
    let pauses = Duration::from_millis(50 + 100 + 200);
    assert!(begin.elapsed() >= pauses, "after only {:?}", begin.elapsed());
}

/// It also exits with a status that says that something went wrong.
#[test]
fn an_evicted_client_reconnects() {
    let script = Script::listen();
    let mut bob = steady(script.address, "bob", &[]);
    let mut peer = script.log_in("bob");
    peer.client.send("from alice: hi\nerror: evicted, nothing was read for too long");
    drop(peer);
    let peer = script.log_in("bob");
    bob.stdin = None;
    let mut peer = peer;
    peer.client.expect_eof();
    drop(peer);
    let error = "error: evicted, nothing was read for too long";
    assert_eq!(bob.stdout.take_to_end(), ["from alice: hi", error]);
    let (status, stderr) = bob.wait();
    assert_eq!(status, 1, "{stderr:#?}");
    assert!(stderr[0].contains("closed the connection: evicted"), "{stderr:#?}");
}

#[test]
fn the_wait_bounds_the_search_for_the_next_server() {
    let script = Script::listen();
    let (mut alice, mut peer) = back(&script, &["--wait", "50ms"], "bob: 1\nbob: 2\n");
    peer.expect_line("/who bob");
    peer.client.send("notice: line 2: not here: bob");
    alice.log.expect("a-chat: waiting for bob");
    alice.stdin = None;
    drop((peer, script));
    let (status, stderr) = alice.wait();
    assert_eq!(status, 1, "{stderr:#?}");
    let expected =
        ["a-chat: from line 1 on nothing was accepted", "  line 1: bob: 1", "  line 2: bob: 2"];
    assert!(stderr.ends_with(&expected.map(str::to_owned)), "{stderr:#?}");
}

/// With nothing left to send there is no reason to look for another server.
#[test]
fn the_end_of_the_input_ends_the_search_for_the_next_server() {
    let script = Script::listen();
    let mut alice = steady(script.address, "alice", &[]);
    let mut peer = script.log_in("alice");
    peer.close_after(1);
    drop((peer, script));
    alice.log.expect("trying again");
    alice.stdin = None;
    assert_eq!(alice.wait().0, 0);
}

#[test]
fn a_client_that_never_logged_in_fails() {
    let nobody = Script::listen().address;
    let mut alice = steady(nobody, "alice", &[]);
    alice.stdin = None;
    let (status, stderr) = alice.wait();
    assert_eq!(status, 1, "{stderr:#?}");
    assert!(stderr.last().is_some_and(|line| line.starts_with("a-chat: cannot connect to ")));
}
