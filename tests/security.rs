//! The attacks of `docs/security.md`: the harm that each one does to other clients stays within the
//! bound stated there. For attacks that other files already try, that page names the test.
//!
//! The attacker is an ordinary client that does one thing relentlessly, while the others are
//! checked.

mod common;

use std::io::{ErrorKind, Read};
use std::net::{Ipv4Addr, SocketAddr};
use std::thread;
use std::time::Duration;

use a_chat::{CloseReason, Config};
use common::bystanders::{Bystanders, Peak};
use common::{Client, TEST_TIMEOUT, TestServer, send_until_blocked, wait_until};
use crossbeam_channel::{Receiver, RecvTimeoutError};
use socket2::{Domain, Socket, Type};

/// The error that a client gets when its address has too many connections.
const TOO_MANY: &str = "error: too many connections from your address";

fn short_linger() -> Config {
    Config::default().linger(Duration::from_millis(100))
}

/// Connects from one of the many loopback addresses.
fn connect_from(source: [u8; 4], server: &TestServer) -> Client {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a descriptor");
    let source = SocketAddr::from((Ipv4Addr::from(source), 0));
    socket.bind(&source.into()).expect("a free port of the loopback");
    socket.connect(&server.address.into()).expect("a listening server");
    Client::from_stream(std::net::TcpStream::from(socket))
}

/// Connects, logs in, and waits for the reply; `None` if the address has too many connections.
fn try_login_from(source: [u8; 4], server: &TestServer, name: &str) -> Option<Client> {
    let mut client = connect_from(source, server);
    client.send(&format!("{name}\n/who {name}"));
    let reply = client.line().expect("a reply");
    if reply == TOO_MANY {
        client.expect_eof();
        return None;
    }
    assert_eq!(reply, format!("notice: line 1: here: {name}"));
    Some(client)
}

#[test]
fn one_address_cannot_take_every_connection() {
    const GREEDY: [u8; 4] = [127, 0, 0, 2];
    let max_per_address = Some(3);
    let config = Config::default().max_per_address(max_per_address).linger(TEST_TIMEOUT);
    let server = TestServer::with(config);
    let mut greedy: Vec<_> = (0..2)
        .map(|number| try_login_from(GREEDY, &server, &format!("greedy{number}")).expect("room"))
        .collect();
    // A silent connection counts too.
    let silent = connect_from(GREEDY, &server);
    for _ in 0..50 {
        assert!(try_login_from(GREEDY, &server, "one-more").is_none(), "that is one too many");
    }
    // Other addresses are not affected.
    let mut alice = server.login("alice");
    let mut bob = try_login_from([127, 0, 0, 3], &server, "bob").expect("room");
    alice.send("bob, greedy1: hi");
    bob.expect_line("from alice: hi");
    greedy[1].expect_line("from alice: hi");

    // Once one of its connections has closed, the address may open another.
    let mut refused = 50;
    drop(silent);
    wait_until("a connection to be free again", || {
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
fn an_address_gets_its_connections_back_when_they_close() {
    let max_per_address = Some(2);
    let server = TestServer::with(Config::default().max_per_address(max_per_address));
    let _stays = server.login("stays");
    // The other connection of the address is opened and closed again and again.
    for round in 0..300 {
        let mut client = None;
        wait_until("a free connection", || {
            client = try_login_from([127, 0, 0, 1], &server, &format!("client{round}"));
            client.is_some()
        });
        match (client, round % 2) {
            (Some(client), 0) => client.reset(),
            (client, _) => drop(client),
        }
    }
}

/// Reads up to `bytes` bytes after each pause, until the connection ends or `over` is disconnected;
/// returns the total. The pace of these recipients is the point, and it has no event to wait for.
fn trickle(client: &mut Client, bytes: usize, pause: Duration, over: &Receiver<()>) -> usize {
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

/// Logs in a recipient whose kernel buffers next to nothing for it, in small segments.
fn login_trickling(server: &TestServer, name: &str) -> Client {
    let mut client = Client::connect_with_small_buffers(server.address, Some(536));
    client.send(&format!("{name}\n/who {name}"));
    client.expect_line(&format!("notice: line 1: here: {name}"));
    client
}

#[test]
fn a_trickling_recipient_cannot_block_a_sender_forever() {
    let stall_timeout = Duration::from_secs(1);
    let config = Config::default().window(64 * 1024).stall_timeout(stall_timeout);
    let server = TestServer::with(config);
    let bystanders = Bystanders::start(&server);
    let mut mallory = login_trickling(&server, "mallory");
    let mut alice = server.login("alice");
    let (over, is_over) = crossbeam_channel::bounded::<()>(0);
    thread::scope(|scope| {
        // About 10 KB/s: it never stops reading, but always reads less than it must.
        scope.spawn(move || trickle(&mut mallory, 500, Duration::from_millis(50), &is_over));
        send_until_blocked(&alice.stream, &b"mallory: 0123456789 0123456789\n".repeat(1000));
        // Her window is full; the server resumes reading from her as soon as it has room.
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
fn a_slow_but_steady_recipient_receives_the_full_windows_of_many_senders() {
    const SENDERS: usize = 8;
    const LINES: usize = 50;
    // It reads much more than it must, but its queue lasts much longer than the stall timeout.
    let (stall_timeout, stall_bytes) = (Duration::from_secs(3), 1024);
    let config =
        Config::default().window(64 * 1024).stall_timeout(stall_timeout).stall_bytes(stall_bytes);
    let server = TestServer::with(config);
    let mut modem = login_trickling(&server, "modem");
    let names: Vec<_> = (0..SENDERS).map(|number| format!("sender{number}")).collect();
    let mut senders: Vec<_> = names.iter().map(|name| server.login(name)).collect();
    let lines = format!("modem: {}\n", "x".repeat(1000)).repeat(LINES);
    let (over, is_over) = crossbeam_channel::bounded::<()>(0);
    let received = thread::scope(|scope| {
        // About 25 KB/s.
        let modem = scope.spawn(|| trickle(&mut modem, 500, Duration::from_millis(20), &is_over));
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
    assert_eq!(server.stats().lost, 0, "it was evicted after {received} bytes");
    assert!(received > 128 * 1024, "{received} bytes are too few for a long wait");
    let rest = thread::spawn(move || modem.drain());
    drop(senders);
    let report = server.stop();
    rest.join().expect("no panic");
    assert_eq!((report.owed, report.lost()), ((LINES * SENDERS) as u64, 0), "{report}");
}

#[test]
fn a_list_of_too_many_names_is_refused_as_a_whole() {
    const MAX_RECIPIENTS: usize = 1024;
    let server = TestServer::start();
    let bystanders = Bystanders::start(&server);
    let (mut alice, mut mallory) = (server.login("alice"), server.login("mallory"));
    let unknown: Vec<_> = (1..=MAX_RECIPIENTS).map(|number| format!("n{number}")).collect();
    // With alice, the shorter list is as long as permitted, and the longer one has a name too many.
    let (fitting, unknown) = (unknown[1..].join(","), unknown.join(","));
    for line in (1..=200).step_by(4) {
        mallory.send(&format!("alice,{unknown}: x\n/who {unknown},alice\nalice,{fitting}: {line}"));
        let refused = format!("more than {MAX_RECIPIENTS} names in its list");
        mallory.expect_line(&format!("error: line {line}: {refused}"));
        mallory.expect_line(&format!("error: line {}: {refused}", line + 1));
        let missing = fitting.replace(',', ", ");
        mallory.expect_line(&format!("error: line {}: no such peer: {missing}", line + 2));
        mallory.send(&format!("/who alice,alice,{fitting}"));
        let here = mallory.line().expect("a reply");
        assert!(here.starts_with(&format!("notice: line {}: here: alice; not here:", line + 3)));
        alice.expect_line(&format!("from mallory: {line}"));
    }
    drop((alice, mallory));
    let report = bystanders.finish(server);
    assert_eq!((report.accepted, report.owed, report.lost()), (200, 50, 0), "{report}");
}

#[test]
fn an_address_that_hoards_connections_does_not_affect_other_addresses() {
    const HOARD: usize = 200;
    let max_per_address = Some(HOARD);
    let server = TestServer::with(short_linger().max_per_address(max_per_address));
    let bystanders = Bystanders::start(&server);
    // They are logged in, so they may stay forever; only others at their address notice.
    let hoard: Vec<_> = (0..HOARD)
        .map(|number| try_login_from([127, 0, 0, 2], &server, &format!("idle{number}")))
        .map(|client| client.expect("room"))
        .collect();
    assert!(try_login_from([127, 0, 0, 2], &server, "neighbour").is_none(), "that is one too many");
    bystanders.exchange(1000);
    let mut alice = try_login_from([127, 0, 0, 3], &server, "alice").expect("room");
    alice.send("alice: hi");
    alice.expect_line("from alice: hi");
    drop((alice, hoard));
    let report = bystanders.finish(server);
    assert_eq!((report.connections, report.refused), (HOARD as u64 + 1, 1), "{report}");
    assert_eq!((report.accepted, report.owed), (HOARD as u64 + 2, 1), "{report}");
}

#[test]
fn a_client_that_requests_long_replies_and_reads_none_fills_only_its_own_window() {
    const ASKED: usize = 5000;
    let window = 16 * 1024;
    // It must not be evicted here.
    let server = TestServer::with(short_linger().window(window).stall_timeout(TEST_TIMEOUT * 10));
    let names: Vec<_> = (0..120).map(|number| format!("{number:032}")).collect();
    let _crowd: Vec<_> = names.iter().map(|name| server.login(name)).collect();
    let mut mallory = server.login_with_small_buffers("mallory");
    let peak = Peak::watch(&server);
    let bystanders = Bystanders::start(&server);
    // Five bytes request more than three thousand.
    mallory.send_bytes(&b"/who\n".repeat(ASKED));
    wait_until("a full window", || server.stats().queued_bytes > window as u64 / 2);
    bystanders.exchange(1000);
    // Lines accepted but not owed are hers: as many as her window and the kernels hold replies to.
    let stats = server.stats();
    assert!(stats.accepted < stats.owed + ASKED as u64 / 5, "{stats:?}");
    for line in 1..=ASKED {
        let reply = mallory.line().expect("a reply");
        assert!(reply.starts_with(&format!("notice: line {line}: 123 here: {}", names[0])));
        assert!(reply.len() > 3000, "{reply}");
    }
    drop(mallory);
    let report = bystanders.finish(server);
    assert_eq!((report.accepted, report.owed), (ASKED as u64, 0), "{report}");
    // Her replies, and the bystanders' queued messages.
    let peak = peak.end();
    assert!(peak <= 3 * window as u64, "{peak} bytes were queued");
}

#[test]
fn a_client_that_takes_over_a_name_receives_nothing_queued_for_the_former_owner() {
    const ROUNDS: usize = 50;
    let server = TestServer::with(short_linger().window(4 << 20));
    let mut bob = server.login("bob");
    let mut before: Option<Client> = None;
    let text = |round: usize| format!("for number {round} {}", "x".repeat(2000));
    for round in 0..ROUNDS {
        let mut holder = server.login_with_small_buffers("alice");
        // While the name is taken no other client gets it, however often it tries.
        for _ in 0..3 {
            let mut squatter = Client::connect(server.address);
            squatter.send("alice\nbob: I am alice");
            squatter.expect_line("error: name taken");
            squatter.expect_eof();
        }
        // More than its kernel holds: the rest is still queued when the next client has the name.
        for _ in 0..100 {
            bob.send(&format!("alice: {}", text(round)));
        }
        bob.send("bob: sent");
        bob.expect_line("from bob: sent");
        holder.half_close();
        wait_until("its disconnection", || server.stats().connected == 1);
        if let Some(mut before) = before.replace(holder) {
            for _ in 0..100 {
                before.expect_line(&format!("from bob: {}", text(round - 1)));
            }
            before.expect_eof();
        }
    }
    let mut last = before.expect("the last one");
    for _ in 0..100 {
        last.expect_line(&format!("from bob: {}", text(ROUNDS - 1)));
    }
    last.expect_eof();
    let report = server.stop_with([(bob, 101 * ROUNDS as u64)]);
    let expected = 101 * ROUNDS as u64;
    assert_eq!((report.owed, report.delivered), (expected, expected), "{report}");
}

#[test]
fn terminal_control_sequences_stay_within_their_line_behind_the_senders_name() {
    // The server relays text unchanged. It guarantees where a line begins and ends, so a program
    // that displays it can escape the rest: see docs/security.md.
    let escapes = [
        "\rfrom bob: pay mallory",
        "\u{1b}[2K\u{1b}[1Gfrom bob: pay mallory",
        "\u{1b}]0;a title\u{7}",
        "\u{8}\u{8}\u{8}\u{8}\u{7f}",
        "\u{9b}2J",
        "\u{b}\u{c}\u{85}\u{2028}from bob: pay mallory",
        "\0",
    ];
    let server = TestServer::start();
    let (mut alice, mut mallory) = (server.login("alice"), server.login("mallory"));
    for (text, line) in escapes.iter().zip(1..) {
        mallory.send(&format!("alice: <{text}>\n{text}"));
        alice.expect_line(&format!("from mallory: <{text}>"));
        // Text is echoed only to its sender, on a line that begins like any reply.
        let reply = mallory.line().expect("a reply");
        assert!(reply.starts_with(&format!("error: line {}: ", 2 * line)), "{reply:?}");
    }
    let lines = 2 * escapes.len() as u64;
    server.stop_with([(alice, 0), (mallory, lines)]);
}
