//! The attacks of `docs/security.md`, each tried on a server: what it does to others stays within
//! the bound that is stated there. Those that other files try already are named there by test.
//!
//! The attacker is an ordinary client that does one thing without mercy; the others are watched.

mod common;

use std::io::{ErrorKind, Read};
use std::net::{Ipv4Addr, SocketAddr};
use std::thread;
use std::time::Duration;

use a_chat::{CloseReason, Config};
use common::bystanders::Bystanders;
use common::{Client, PATIENCE, TestServer, send_until_blocked, wait_until};
use crossbeam_channel::{Receiver, RecvTimeoutError};
use socket2::{Domain, Socket, Type};

/// What a client gets if too many of its address are there.
const TOO_MANY: &str = "error: too many connections from your address";

/// Connects from one of the loopback's many addresses.
fn connect_from(source: [u8; 4], server: &TestServer) -> Client {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a descriptor");
    let source = SocketAddr::from((Ipv4Addr::from(source), 0));
    socket.bind(&source.into()).expect("a free port of the loopback");
    socket.connect(&server.address.into()).expect("a listening server");
    Client::from_stream(socket.into())
}

/// Connects, logs in, and returns when the server has answered: `None` if there are too many.
fn try_login_from(source: [u8; 4], server: &TestServer, name: &str) -> Option<Client> {
    let mut client = connect_from(source, server);
    client.send(&format!("{name}\n/who {name}"));
    let answer = client.line().expect("an answer");
    if answer == TOO_MANY {
        client.expect_eof();
        return None;
    }
    assert_eq!(answer, format!("notice: line 1: here: {name}"));
    Some(client)
}

#[test]
fn one_address_can_not_take_all_the_places() {
    const GREEDY: [u8; 4] = [127, 0, 0, 2];
    let max_per_address = Some(3);
    let config = Config { max_per_address, linger: PATIENCE, ..Config::default() };
    let server = TestServer::with(config);
    let mut greedy: Vec<_> = (0..2)
        .map(|number| try_login_from(GREEDY, &server, &format!("greedy{number}")).expect("room"))
        .collect();
    // Who says nothing takes a place too.
    let silent = connect_from(GREEDY, &server);
    for _ in 0..50 {
        assert!(try_login_from(GREEDY, &server, "one-more").is_none(), "that is one too many");
    }
    // Nobody else is concerned.
    let mut alice = server.login("alice");
    let mut bob = try_login_from([127, 0, 0, 3], &server, "bob").expect("room");
    alice.send("bob, greedy1: hi");
    bob.expect_line("from alice: hi");
    greedy[1].expect_line("from alice: hi");

    // Its places are its own: when one is free it may take that.
    let mut refused = 50;
    drop(silent);
    wait_until("a place to be free again", || {
        let client = try_login_from(GREEDY, &server, "one-more");
        refused += u64::from(client.is_none());
        greedy.extend(client);
        greedy.len() == 3
    });
    assert!(try_login_from(GREEDY, &server, "yet-another").is_none(), "that is one too many");
    drop((alice, bob, greedy));
    let report = server.stop();
    assert_eq!((report.connections, report.refused), (6, refused + 1), "{report}");
    assert_eq!((report.owed, report.delivered), (2, 2), "{report}");
}

#[test]
fn the_places_of_an_address_do_not_wear_out() {
    let max_per_address = Some(2);
    let server = TestServer::with(Config { max_per_address, ..Config::default() });
    let _stays = server.login("stays");
    for round in 0..300 {
        let mut client = None;
        wait_until("a free place", || {
            client = try_login_from([127, 0, 0, 1], &server, &format!("client{round}"));
            client.is_some()
        });
        match (client, round % 2) {
            (Some(client), 0) => client.reset(),
            (client, _) => drop(client),
        }
    }
}

/// Reads up to `bytes` bytes every now and then, until the connection ends or `over` does; returns
/// how many bytes that were. A pace is what these recipients are about, and no event stands for it.
fn sip(client: &mut Client, bytes: usize, pause: Duration, over: &Receiver<()>) -> usize {
    let (mut buffer, mut sum) = (vec![0; bytes], 0);
    while over.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
        match client.stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => sum += count,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
            Err(error) => panic!("{error}"),
        }
    }
    sum
}

/// A recipient whose kernel takes next to nothing for it, and that in small portions.
fn login_of_a_sipper(server: &TestServer, name: &str) -> Client {
    let mut client = Client::connect_with_small_buffers(server.address, Some(536));
    client.send(&format!("{name}\n/who {name}"));
    client.expect_line(&format!("notice: line 1: here: {name}"));
    client
}

#[test]
fn who_takes_a_little_now_and_then_can_not_hold_a_sender_for_ever() {
    let stall_timeout = Duration::from_secs(1);
    let config = Config { window: 64 * 1024, stall_timeout, ..Config::default() };
    let server = TestServer::with(config);
    let bystanders = Bystanders::start(&server);
    let mut mallory = login_of_a_sipper(&server, "mallory");
    let mut alice = server.login("alice");
    let (over, is_over) = crossbeam_channel::bounded::<()>(0);
    thread::scope(|scope| {
        // Some 10 KB/s: it takes something all the time, and never as much as it has to.
        scope.spawn(move || sip(&mut mallory, 500, Duration::from_millis(50), &is_over));
        send_until_blocked(&alice.stream, &b"mallory: 0123456789 0123456789\n".repeat(1000));
        // Her window is full, and she is read from again as soon as it is not.
        alice.send("\nalice: I go on");
        let last = std::iter::from_fn(|| alice.line()).find(|line| !line.starts_with("error: "));
        assert_eq!(last.as_deref(), Some("from alice: I go on"));
        drop(over);
    });
    drop(alice);
    let report = bystanders.finish(server);
    let [loss] = report.losses_before_drain.as_slice() else { panic!("{report}") };
    assert_eq!((loss.name.as_str(), loss.reason), ("mallory", CloseReason::Evicted));
    assert_eq!(loss.messages, report.lost(), "{report}");
}

#[test]
fn who_is_slow_and_honest_gets_the_full_windows_of_many_senders() {
    const SENDERS: usize = 8;
    const LINES: usize = 50;
    // It takes much more than it has to, and what is due to it much longer than the time-out.
    let (stall_timeout, stall_bytes) = (Duration::from_secs(1), 1024);
    let config = Config { window: 64 * 1024, stall_timeout, stall_bytes, ..Config::default() };
    let server = TestServer::with(config);
    let mut modem = login_of_a_sipper(&server, "modem");
    let names: Vec<_> = (0..SENDERS).map(|number| format!("sender{number}")).collect();
    let mut senders: Vec<_> = names.iter().map(|name| server.login(name)).collect();
    let lines = format!("modem: {}\n", "x".repeat(1000)).repeat(LINES);
    let (over, is_over) = crossbeam_channel::bounded::<()>(0);
    let received = thread::scope(|scope| {
        // Some 50 KB/s.
        let modem = scope.spawn(|| sip(&mut modem, 1000, Duration::from_millis(20), &is_over));
        for sender in &mut senders {
            sender.send_bytes(lines.as_bytes());
        }
        wait_until("the windows to be full and empty again", || {
            let stats = server.stats();
            stats.accepted == (1 + LINES * SENDERS) as u64 && stats.queued_bytes == 0
        });
        drop(over);
        modem.join().expect("no panic")
    });
    assert!(received > 128 * 1024, "{received} bytes are no long wait");
    let rest = thread::spawn(move || modem.drain());
    drop(senders);
    let report = server.stop();
    rest.join().expect("no panic");
    assert_eq!((report.owed, report.lost()), ((LINES * SENDERS) as u64, 0), "{report}");
}

#[test]
fn a_list_of_too_many_names_is_refused_as_a_whole() {
    const MOST: usize = 1024;
    let server = TestServer::start();
    let bystanders = Bystanders::start(&server);
    let (mut alice, mut mallory) = (server.login("alice"), server.login("mallory"));
    let nobody: Vec<_> = (1..=MOST).map(|number| format!("n{number}")).collect();
    let (most, nobody) = (nobody[1..].join(","), nobody.join(","));
    for line in (1..=200).step_by(4) {
        mallory.send(&format!("alice,{nobody}: x\n/who {nobody},alice\nalice,{most}: {line}"));
        let refused = format!("more than {MOST} names in its list");
        mallory.expect_line(&format!("error: line {line}: {refused}"));
        mallory.expect_line(&format!("error: line {}: {refused}", line + 1));
        let missing = most.replace(',', ", ");
        mallory.expect_line(&format!("error: line {}: no such peer: {missing}", line + 2));
        mallory.send(&format!("/who alice,alice,{most}"));
        let here = mallory.line().expect("an answer");
        assert!(here.starts_with(&format!("notice: line {}: here: alice; not here:", line + 3)));
        alice.expect_line(&format!("from mallory: {line}"));
    }
    drop((alice, mallory));
    let report = bystanders.finish(server);
    assert_eq!((report.accepted, report.owed, report.lost()), (200, 50, 0), "{report}");
}
