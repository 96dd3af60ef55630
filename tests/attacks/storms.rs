//! Storms: clients that come, go and race for names by the thousand, recipients of every character,
//! and signals at bad moments.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use socket2::SockRef;

use crate::account::Account;
use crate::common::{Client, try_login, wait_until};
use crate::crowd::{Buffer, Crowd, Plan, Reading, Sending};
use crate::floods::{Kind, names};
use crate::innocents::{Innocents, MEDIAN};
use crate::target::{Target, beside_others, by_form, figure};

/// Sends RST instead of FIN when it is closed.
fn reset_on_close(stream: &TcpStream) {
    SockRef::from(stream).set_linger(Some(Duration::ZERO)).expect("an option");
}

#[test]
fn a_storm_of_connections_and_resets_harms_no_other_client() {
    let _machine = beside_others();
    let target = Target::start(&["--drain-timeout", "10s"]);
    let innocents = Innocents::start(target.address);
    let finish = Arc::new(AtomicBool::new(false));
    let count = Arc::new(AtomicU64::new(0));
    let storm = |login: bool| {
        let (finish, count, server) = (Arc::clone(&finish), Arc::clone(&count), target.address);
        thread::spawn(move || {
            while !finish.load(SeqCst) {
                // With no port left for the moment the storm has a lull.
                let Ok(mut stream) = TcpStream::connect(server) else { continue };
                if login {
                    // Fails if the server has ended the connection already.
                    let name = count.load(SeqCst) % 50;
                    let _ = stream.write_all(format!("s{name}\ninnocent-a: psst\n").as_bytes());
                }
                reset_on_close(&stream);
                count.fetch_add(1, SeqCst);
            }
        })
    };
    let storms = [storm(false), storm(true)];
    thread::sleep(Duration::from_secs(by_form(1, 6)));
    wait_until("messages beside a storm", || innocents.arrived() >= 40);
    let (median, p99) = innocents.latencies();
    finish.store(true, SeqCst);
    for storm in storms {
        storm.join().expect("no panic");
    }
    let resident = target.resident() / 1024;
    innocents.hush();
    let account = target.terminate();
    figure(&format!(
        "{} connections, innocents {median:?} and {p99:?}, {resident} KiB; {}",
        count.load(SeqCst),
        account.summary()
    ));
    assert_eq!(account.report.lost_in_drain, 0, "{}", account.summary());
    assert!(median < MEDIAN, "{median:?}");
}

#[test]
fn one_of_many_simultaneous_logins_wins_and_nothing_of_the_others_is_routed() {
    const CLIENTS: usize = 20;
    let _machine = beside_others();
    let target = Target::start(&["--linger", "100ms"]);
    let mut witness = try_login(target.address, "witness").expect("room");
    for round in 0..by_form(10, 100) {
        let barrier = Arc::new(Barrier::new(CLIENTS));
        let racer = |number: usize| {
            let (barrier, server) = (Arc::clone(&barrier), target.address);
            thread::spawn(move || {
                let mut client = Client::connect(server);
                barrier.wait();
                client.send(&format!("racer\nwitness: {number} won round {round}\n/who racer"));
                let answer = client.line().expect("an answer");
                if answer == "error: name taken" {
                    client.expect_eof();
                    return None;
                }
                assert_eq!(answer, "notice: line 2: here: racer");
                Some((number, client))
            })
        };
        let racers: Vec<_> = (0..CLIENTS).map(racer).collect();
        let winners = racers.into_iter().filter_map(|racer| racer.join().expect("no panic"));
        let mut winners: Vec<_> = winners.collect();
        let (number, mut winner) = winners.pop().expect("a winner");
        assert!(winners.is_empty(), "two clients have one name");
        witness.expect_line(&format!("from racer: {number} won round {round}"));
        winner.half_close();
        winner.expect_eof();
    }
    witness.send("witness: that is all");
    witness.expect_line("from witness: that is all");
    witness.half_close();
    witness.expect_eof();
    let account = target.terminate();
    assert_eq!(account.report.delivered, by_form(10, 100) + 1, "{}", account.summary());
    assert_eq!(account.report.owed, by_form(10, 100) + 1, "{}", account.summary());
}

#[test]
fn each_line_reaches_one_incarnation_of_a_recipient_or_is_refused() {
    let _machine = beside_others();
    let rounds = by_form(30, 300);
    let target = Target::start(&["--drain-timeout", "20s"]);
    let mut sender = try_login(target.address, "sender").expect("room");
    let mut stream = sender.stream.try_clone().expect("a descriptor");
    let finish = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&finish);
    let writing = thread::spawn(move || {
        let mut sent = 0_u64;
        while !told.load(SeqCst) {
            let lines = (sent..sent + 100).map(|number| format!("bob: {number}\n"));
            let lines = lines.collect::<Vec<_>>().concat();
            stream.write_all(lines.as_bytes()).expect("a server that reads");
            sent += 100;
        }
        sent
    });
    let refusals = thread::spawn(move || {
        let mut refused = Vec::new();
        loop {
            let line = sender.line().expect("a closing notice");
            if let Some(rest) = line.strip_prefix("notice: server is shutting down, ") {
                let accepted: Option<u64> =
                    rest.split(' ').next().and_then(|number| number.parse().ok());
                return (refused, accepted.expect("a number"));
            }
            let (number, text) = line
                .strip_prefix("error: line ")
                .and_then(|line| line.split_once(": "))
                .expect("a refused line");
            if text.contains("lost on the way to bob: ") {
                continue;
            }
            assert_eq!(text, "no such peer: bob");
            // The question of its login is line 1.
            refused.push(number.parse::<u64>().expect("a number") - 2);
        }
    });
    let number_in = |line: &str| line.strip_prefix("from sender: ")?.parse::<u64>().ok();
    let mut got = Vec::new();
    for round in 0..rounds {
        let mut bob = None;
        wait_until("bob's name", || {
            let mut client = Client::connect(target.address);
            client.send("bob");
            let line = client.line().expect("a message or a refusal");
            let is_in = line != "error: name taken";
            if is_in {
                got.extend(number_in(&line));
                bob = Some(client);
            }
            is_in
        });
        let mut bob = bob.expect("waited for");
        for _ in 0..round % 7 * 50 {
            let line = bob.line().expect("a message");
            got.push(number_in(&line).expect("one of hers"));
        }
        bob.half_close();
        for line in bob.lines_to_eof() {
            got.push(number_in(&line).expect("one of hers"));
        }
    }
    finish.store(true, SeqCst);
    let sent: u64 = writing.join().expect("no panic");
    let account = target.terminate();
    let (refused, accepted) = refusals.join().expect("no panic");
    let counts = (got.len() as u64, refused.len() as u64);
    figure(&format!("{sent} lines, {accepted} accepted, {counts:?} delivered and refused"));
    assert!(got.is_sorted() && refused.is_sorted(), "in order");
    let mut all: Vec<u64> = [got, refused].concat();
    all.sort_unstable();
    let expected: Vec<_> = (0..accepted - 1).collect();
    assert!(all == expected, "a gap, or a line with two fates: {counts:?} of {accepted}");
    assert_eq!(account.report.delivered, counts.0, "{}", account.summary());
    assert_eq!(account.report.accepted, accepted, "{}", account.summary());
}

/// What a recipient is like that others send to.
#[derive(Clone, Copy, Debug)]
enum Character {
    Honest,
    Slow,
    Never,
    TinyBuffers,
    ResetsWithInput,
    ResetsWithoutInput,
    HalfCloses,
    ShutsItsReadingSide,
    LeavesAMessageUnfinished,
}

const CHARACTERS: [Character; 9] = [
    Character::Honest,
    Character::Slow,
    Character::Never,
    Character::TinyBuffers,
    Character::ResetsWithInput,
    Character::ResetsWithoutInput,
    Character::HalfCloses,
    Character::ShutsItsReadingSide,
    Character::LeavesAMessageUnfinished,
];

/// Lives by its character on a connection that is logged in, until it ends; returns what it got.
fn live(character: Character, mut stream: TcpStream, rng: &mut fastrand::Rng) -> Vec<u8> {
    let mut got = Vec::new();
    let mut buffer = vec![0; 16 * 1024];
    let act_after = Duration::from_millis(rng.u64(50..600));
    let began = Instant::now();
    stream.set_read_timeout(Some(Duration::from_millis(20))).expect("a timeout");
    loop {
        let is_time = began.elapsed() >= act_after;
        match character {
            Character::ResetsWithInput if is_time => {
                thread::sleep(Duration::from_millis(100));
                reset_on_close(&stream);
                return got;
            }
            Character::ResetsWithoutInput if is_time => {
                reset_on_close(&stream);
                return got;
            }
            Character::HalfCloses if is_time => {
                let _ = stream.shutdown(Shutdown::Write);
            }
            Character::ShutsItsReadingSide if is_time => {
                let _ = stream.shutdown(Shutdown::Read);
                // It stays, and hears nothing.
                thread::sleep(Duration::from_millis(2500));
                return got;
            }
            Character::LeavesAMessageUnfinished if is_time => {
                let _ = stream.write_all(b"recipient-0: to be contin");
                return got;
            }
            Character::Never => {
                thread::sleep(Duration::from_secs(3));
                let _ = stream.read_to_end(&mut got);
                return got;
            }
            Character::Slow => thread::sleep(Duration::from_millis(5)),
            _ => {}
        }
        match stream.read(&mut buffer) {
            Ok(0) => return got,
            Ok(count) => got.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return got,
        }
    }
}

/// Checks what a recipient got of numbered lines from each sender: a prefix without a gap.
fn check_streams(name: &str, got: &[u8]) -> u64 {
    let mut next: HashMap<String, u64> = HashMap::new();
    let mut messages = 0;
    for line in got.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n")) {
        let line = std::str::from_utf8(line).expect("UTF-8").trim_end();
        let Some(message) = line.strip_prefix("from ") else { continue };
        let (sender, text) = message.split_once(": #").expect("a numbered message");
        let number = text.split(' ').next().and_then(|number| number.parse().ok());
        let next = next.entry(sender.to_owned()).or_default();
        assert_eq!(number, Some(*next), "{name} from {sender}");
        *next += 1;
        messages += 1;
    }
    messages
}

fn recipients_of_every_character(seed: u64, window: &str) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let flags = ["--stall-timeout", "500ms", "--drain-timeout", "1s", "--linger", "200ms"];
    let target = Target::start(&[&flags[..], &["--window", window]].concat());
    let recipients: Vec<_> = CHARACTERS
        .into_iter()
        .enumerate()
        .map(|(number, character)| {
            let plan = Plan::new(format!("recipient-{number}"), Sending::Nothing, Reading::Nothing);
            let plan = match character {
                Character::TinyBuffers => plan.with_buffer(Buffer::Bytes(4096)).with_segment(88),
                Character::Never => plan.with_buffer(Buffer::Bytes(4096)),
                _ => plan,
            };
            let stream = plan.connect(target.address).expect("a listening server");
            let mut client = Client::from_stream(stream);
            client.send(&format!("{0}\n/who {0}", plan.name));
            client.expect_line(&format!("notice: line 1: here: {}", plan.name));
            (plan.name, character, client.stream.tcp().try_clone().expect("a descriptor"))
        })
        .collect();
    let addresses: Vec<SocketAddr> =
        recipients.iter().map(|(_, _, stream)| stream.local_addr().expect("an address")).collect();
    let senders = (0..3).map(|number| {
        // Each sender has all recipients, in an order of its own.
        let mut to: Vec<_> = recipients.iter().map(|(name, ..)| name.clone()).collect();
        rng.shuffle(&mut to);
        let sending = Sending::Numbered { to: to.join(", "), padding: rng.usize(0..400) };
        Plan::new(format!("sender-{number}"), sending, Reading::Everything)
    });
    let crowd = Crowd::start(target.address, senders.collect::<Vec<_>>());
    let living = recipients.into_iter().map(|(name, character, stream)| {
        let mut rng = rng.fork();
        thread::spawn(move || (name, character, live(character, stream, &mut rng)))
    });
    let living: Vec<_> = living.collect();
    thread::sleep(Duration::from_millis(rng.u64(100..1500)));
    let account = target.terminate();
    account.check_members(&crowd.finish());
    for (life, address) in living.into_iter().zip(addresses) {
        let (name, character, got) = life.join().expect("no panic");
        let messages = check_streams(&name, &got);
        let record = account.record(address);
        let told = format!("seed {seed}, {character:?}: {messages} messages, {record:?}");
        assert!(messages <= record.delivered + record.lost, "{told}");
        // The others throw away what their kernels have acknowledged.
        if let Character::Honest | Character::Slow | Character::TinyBuffers = character {
            assert!(messages >= record.delivered, "{told}");
        }
    }
}

#[test]
fn the_account_is_exact_with_recipients_of_every_character() {
    let _machine = beside_others();
    for seed in 0..by_form(2, 10) {
        recipients_of_every_character(seed, "256KiB");
        recipients_of_every_character(seed, "8KiB");
    }
}

/// Numbered streams around a ring of clients, and signals at bad moments; the account has to be
/// exact, whatever is lost.
fn streams_and(flags: &[&str], act: impl FnOnce(&Target)) -> Account {
    let target = Target::start(flags);
    let names = names(10);
    let plan = |(number, name): (usize, &String)| {
        let to = names[(number + 1) % names.len()].clone();
        let sending = Sending::Numbered { to, padding: 50 };
        Plan::new(name, sending, Reading::Everything)
    };
    let crowd = Crowd::start(target.address, names.iter().enumerate().map(plan));
    wait_until("streams", || crowd.received().0 > 1000);
    act(&target);
    let account = target.wait();
    let members = crowd.finish();
    account.check_members(&members);
    account
}

#[test]
fn signals_at_bad_moments_leave_an_exact_account() {
    let _machine = beside_others();
    for _ in 0..by_form(1, 5) {
        let flags = ["--drain-timeout", "20s", "--linger", "200ms"];
        let account = streams_and(&flags, |target| target.process.signal(Signal::TERM));
        assert_eq!(account.report.lost_in_drain, 0, "{}", account.summary());
        streams_and(&flags, |target| {
            target.process.signal(Signal::TERM);
            thread::sleep(Duration::from_millis(550));
            // It may be over by then.
            let _ = rustix::process::kill_process(target.process.pid, Signal::INT);
        });
        let account = streams_and(&flags, |target| {
            target.process.signal(Signal::TERM);
            target.process.signal(Signal::STOP);
            thread::sleep(Duration::from_millis(500));
            target.process.signal(Signal::CONT);
        });
        assert_eq!(account.report.lost_in_drain, 0, "{}", account.summary());
        streams_and(&flags, |target| {
            let signals = [Signal::TERM, Signal::INT, Signal::HUP, Signal::STOP, Signal::CONT];
            for number in 0..200 {
                let signal = signals[number % signals.len()];
                let _ = rustix::process::kill_process(target.process.pid, signal);
            }
            let _ = rustix::process::kill_process(target.process.pid, Signal::CONT);
        });
    }
}

#[test]
fn a_shutdown_amid_evictions_leaves_an_exact_account() {
    let _machine = beside_others();
    for seed in 0..by_form(2, 10) {
        let flags = ["--stall-timeout", "200ms", "--stall-bytes", "1MiB", "--drain-timeout", "2s"];
        let target = Target::start(&flags);
        let mut plans = Kind::LongTexts.plans(20);
        plans.extend(Kind::SelfSends.plans(40).drain(20..));
        let crowd = Crowd::start(target.address, plans);
        thread::sleep(Duration::from_millis(200 + 100 * seed));
        let account = target.terminate();
        account.check_members(&crowd.finish());
    }
}
