//! Login: a client with a valid, free name is logged in. Any other client gets an error that says
//! why not, and a clean end of file. A name belongs to one connection at a time.
//!
//! A client proves that it is logged in by sending itself a message. Rejection shows in its error
//! and end of file, in the absence of its messages elsewhere, and in the server's counters.

mod common;

use std::io::ErrorKind;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use a_chat::Config;
use common::{Client, TEST_TIMEOUT, TestServer, wait_until};

const BAD_NAME: &str = "error: bad name, expected 1 to 32 of A-Z a-z 0-9 _ . -";
const NAME_TAKEN: &str = "error: name taken";
const LOGIN_TIMEOUT: &str = "error: login not in time";
const NO_LINE_FEED: &str =
    "error: the first line ended with a carriage return alone, lines end with a line feed";
const NO_LINE_END: &str = "error: the last line had no line end and was not accepted";

/// A server that lingers long enough for clients to send everything that it will only discard. With
/// a shorter linger time, a client delayed on a busy machine could see a reset.
fn start() -> TestServer {
    TestServer::with(Config::default().linger(TEST_TIMEOUT))
}

fn connect_and_send(server: &TestServer, bytes: impl AsRef<[u8]>) -> Client {
    let mut client = Client::connect(server.address);
    client.send_bytes(bytes.as_ref());
    client
}

/// Expects that the client is logged in.
fn expect_logged_in(client: &mut Client, name: &str) {
    client.send(&format!("{name}: am I logged in?"));
    client.expect_line(&format!("from {name}: am I logged in?"));
}

/// Expects that the client is rejected, with this error and nothing else.
fn expect_rejected(mut client: Client, error: &str) {
    client.expect_line(error);
    client.expect_eof();
}

fn leave(mut client: Client) {
    client.half_close();
    client.expect_eof();
}

fn is_legal(byte: u8) -> bool {
    matches!(byte, b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.' | b'-')
}

#[test]
fn valid_names_are_accepted() {
    let server = start();
    let longest = "x".repeat(32);
    let names = ["alice", "Alice_2.b-C", "..", "-", "007", "_", &longest, &longest[1..]];
    for name in names {
        let mut client = connect_and_send(&server, format!("{name}\n"));
        expect_logged_in(&mut client, name);
        leave(client);
    }
}

#[test]
fn every_legal_byte_is_a_valid_name() {
    let server = start();
    let clients: Vec<_> = (0..=u8::MAX)
        .filter(|&byte| is_legal(byte))
        .map(|byte| {
            let name = char::from(byte).to_string();
            let mut client = connect_and_send(&server, format!("{name}\n"));
            expect_logged_in(&mut client, &name);
            client
        })
        .collect();
    assert_eq!(clients.len(), 26 + 26 + 10 + 3);
    assert_eq!(server.stats().connected, clients.len() as u64);
}

#[test]
fn a_name_with_an_illegal_byte_is_rejected() {
    let server = start();
    // Every byte except the line end, even one of a UTF-8 sequence or of no encoding at all.
    for byte in (0..=u8::MAX).filter(|&byte| !is_legal(byte) && byte != b'\n') {
        for name in [&[byte, b'a'][..], &[b'a', byte, b'a']] {
            let is_outer = name[0] == byte;
            // White space around a name is dropped, and a line end may be two bytes.
            if is_outer && byte.is_ascii_whitespace() && byte != b'\r' || is_outer && byte == 0x0b {
                continue;
            }
            let client = connect_and_send(&server, [name, b"\n"].concat());
            expect_rejected(client, if byte == b'\r' { NO_LINE_FEED } else { BAD_NAME });
        }
    }
    assert_eq!(server.stats().connected, 0);
}

#[test]
fn invalid_names_are_rejected() {
    let server = start();
    let (too_long, far_too_long) = ("x".repeat(33), "x".repeat(200_000));
    let names = [
        "",
        " ",
        "two words",
        "alice:",
        "bob: hi",
        "alice,bob",
        "/who",
        "é",
        "алиса",
        "alice\u{200b}",
        "a\0b",
        "\x1b[2J",
        "\u{7f}",
        &too_long,
        &far_too_long,
    ];
    for name in names {
        expect_rejected(connect_and_send(&server, format!("{name}\n")), BAD_NAME);
        expect_rejected(connect_and_send(&server, format!("{name}\r\n")), BAD_NAME);
    }
    for name in [&b"\xff\xfe"[..], b"alice\xc3", b"\xed\xa0\x80"] {
        expect_rejected(connect_and_send(&server, [name, b"\n"].concat()), BAD_NAME);
    }
    assert_eq!(server.stats().connected, 0);
}

#[test]
fn a_line_that_cannot_become_a_name_is_rejected_before_it_ends() {
    let server = start();
    // One byte more than the longest login line plus a carriage return.
    expect_rejected(connect_and_send(&server, "x".repeat(102)), BAD_NAME);
    expect_rejected(connect_and_send(&server, "x".repeat(1 << 20)), BAD_NAME);
    expect_rejected(connect_and_send(&server, vec![0xff; 1 << 20]), BAD_NAME);
}

#[test]
fn white_space_and_a_byte_order_mark_around_a_name_are_dropped() {
    let server = start();
    let longest = "x".repeat(32);
    let cases = [
        ("\u{feff}alice\n", "alice"),
        (" bob\t \r\n", "bob"),
        ("\u{feff} \u{a0}carol\u{2003}\n", "carol"),
        (&format!("\u{feff}{}{longest}\r\n", " ".repeat(65)), longest.as_str()),
    ];
    for (login, name) in cases {
        let mut client = connect_and_send(&server, login);
        expect_logged_in(&mut client, name);
    }
    for bad in ["\u{feff}\n", "\u{feff}\u{feff}alice\n", " \n", "\n", "\u{200b}alice\n"] {
        expect_rejected(connect_and_send(&server, bad), BAD_NAME);
    }
    expect_rejected(connect_and_send(&server, format!("a{}\n", " ".repeat(100))), BAD_NAME);
    // Only at the very start of a connection.
    let mut dave = connect_and_send(&server, "dave\n\u{feff}dave: hi\n");
    dave.expect_line("error: line 1: not a name: \\u{feff}dave");
}

#[test]
fn a_first_line_ended_by_a_carriage_return_alone_gets_an_error() {
    let server = start();
    for login in ["alice\r", "alice\rbob: hi\r", "al\rice\n", "alice\r\r\n"] {
        expect_rejected(connect_and_send(&server, login), NO_LINE_FEED);
    }
    // The line feed may come a little later.
    let mut alice = connect_and_send(&server, "alice\r");
    alice.send_bytes(b"\n");
    expect_logged_in(&mut alice, "alice");
}

#[test]
fn lines_after_an_invalid_name_are_not_routed() {
    let server = start();
    let mut bob = server.login("bob");
    let lines = "bob: hi\ncarol\nbob: hi\n".repeat(1000);
    for _ in 0..10 {
        expect_rejected(connect_and_send(&server, format!("not a name\n{lines}")), BAD_NAME);
    }
    expect_logged_in(&mut bob, "bob");
    let report = server.stop_with([(bob, 1)]);
    assert_eq!((report.accepted, report.owed, report.connections), (1, 1, 11), "{report}");
}

#[test]
fn a_carriage_return_before_the_line_end_is_dropped() {
    let server = start();
    for name in ["alice", "a", &"x".repeat(32)] {
        let mut client = connect_and_send(&server, format!("{name}\r\n"));
        expect_logged_in(&mut client, name);
    }
    assert_eq!(server.stats().lost, 0);
}

#[test]
fn a_login_may_arrive_byte_by_byte() {
    let server = start();
    let longest = "x".repeat(32);
    for (name, line_end) in [("alice", "\n"), ("bob", "\r\n"), (&longest, "\r\n")] {
        let mut client = Client::connect(server.address);
        for byte in format!("{name}{line_end}").bytes() {
            client.send_bytes(&[byte]);
        }
        expect_logged_in(&mut client, name);
    }
}

#[test]
fn login_and_messages_may_arrive_in_one_packet() {
    let server = start();
    let mut bob = server.login("bob");
    let mut alice = connect_and_send(&server, "alice\nbob: 1\nalice: 2\r\nnonsense\nbob: 4\n");
    bob.expect_lines(&["from alice: 1", "from alice: 4"]);
    alice.expect_line("from alice: 2");
    alice.expect_line("error: line 3: no ':' in it, expected \"name, name: text\"");
    let report = server.stop_with([(alice, 4), (bob, 0)]);
    assert_eq!((report.accepted, report.owed, report.delivered), (4, 3, 3), "{report}");
}

#[test]
fn packets_may_end_anywhere_in_login_and_messages() {
    let server = start();
    let mut bob = server.login("bob");
    let session = "alice\r\nbob: 1\nbob: é\n";
    for first in 1..session.len() {
        let (head, tail) = session.as_bytes().split_at(first);
        let mut alice = connect_and_send(&server, head);
        alice.send_bytes(tail);
        bob.expect_lines(&["from alice: 1", "from alice: é"]);
        leave(alice);
    }
}

#[test]
fn names_are_case_sensitive() {
    let server = start();
    let names = ["alice", "Alice", "ALICE"];
    let mut clients = names.map(|name| server.login(name));
    clients[0].send("Alice: one\nALICE: two\nalice: three\naLICE: four");
    clients[0].expect_line("from alice: three");
    clients[0].expect_line("error: line 4: no such peer: aLICE");
    clients[1].expect_line("from alice: one");
    clients[2].expect_line("from alice: two");
    server.stop_with(clients.into_iter().zip([4, 0, 0]));
}

#[test]
fn a_login_under_a_taken_name_is_rejected_and_its_lines_are_not_routed() {
    let server = start();
    let (mut bob, mut alice) = (server.login("bob"), server.login("alice"));
    let forged = "bob: forged\nalice: forged\n/who\nnonsense\n\n".repeat(1000);
    for _ in 0..20 {
        expect_rejected(connect_and_send(&server, format!("alice\n{forged}")), NAME_TAKEN);
        expect_rejected(connect_and_send(&server, "alice\r\nbob: forged\n"), NAME_TAKEN);
    }
    // The owner of the name is not disturbed.
    alice.send("bob, alice: I am alice");
    bob.expect_line("from alice: I am alice");
    alice.expect_line("from alice: I am alice");
    bob.send("/who");
    bob.expect_line("notice: line 1: 2 here: bob, alice");
    assert_eq!(server.stats().connected, 2);
    let report = server.stop_with([(alice, 1), (bob, 1)]);
    assert_eq!((report.accepted, report.owed, report.delivered), (2, 2, 2), "{report}");
    assert_eq!((report.connections, report.refused), (42, 0), "{report}");
}

#[test]
fn lines_that_a_rejected_client_keeps_sending_are_discarded() {
    let server = start();
    let (mut bob, mut alice) = (server.login("bob"), server.login("alice"));
    let mut other = connect_and_send(&server, "alice\n");
    other.expect_line(NAME_TAKEN);
    other.send_bytes("bob: forged\n".repeat(100_000).as_bytes());
    other.half_close();
    other.expect_eof();
    expect_logged_in(&mut alice, "alice");
    expect_logged_in(&mut bob, "bob");
    let report = server.stop_with([(alice, 1), (bob, 1)]);
    assert_eq!((report.accepted, report.owed), (2, 2), "{report}");
}

#[test]
fn a_name_is_free_once_its_owner_has_seen_end_of_file() {
    let server = start();
    let mut before = Vec::new();
    for round in 0..200 {
        let mut alice = connect_and_send(&server, format!("alice\nalice: {round}\n"));
        alice.expect_line(&format!("from alice: {round}"));
        alice.half_close();
        alice.expect_eof();
        // The name is free even though this end's socket stays open.
        before.push(alice);
    }
    let report = server.stop();
    assert_eq!((report.accepted, report.delivered), (200, 200), "{report}");
    assert_eq!(report.connections, 200);
}

#[test]
fn the_name_of_a_client_that_resets_becomes_free() {
    let server = start();
    for _ in 0..50 {
        let mut alice = connect_and_send(&server, "alice\n");
        expect_logged_in(&mut alice, "alice");
        alice.reset();
        wait_until("the reset to be seen", || server.stats().connected == 0);
    }
}

#[test]
fn a_name_is_free_at_once_even_if_its_owner_has_much_left_to_read() {
    const MESSAGES: usize = 4000;
    let config = Config::default().window(64 << 20).stall_timeout(TEST_TIMEOUT);
    let server = TestServer::with(config);
    let mut bob = server.login("bob");
    let padding = "x".repeat(1000);
    let mut owners = Vec::new();
    for generation in 0..3 {
        let mut alice = connect_and_send(&server, "alice\n");
        expect_logged_in(&mut alice, "alice");
        let lines: Vec<_> = (0..MESSAGES)
            .map(|number| format!("alice: {generation} {number} {padding}\n"))
            .collect();
        bob.send_bytes(lines.concat().as_bytes());
        expect_logged_in(&mut bob, "bob");
        alice.half_close();
        wait_until("alice's disconnection", || server.stats().connected == 1);
        owners.push(alice);
        // The queue of each former owner is still being written, one more each round.
        let stats = server.stats();
        assert!(stats.owed - stats.delivered > generation * 1000, "{stats:?}");
    }
    let mut last = connect_and_send(&server, "alice\n");
    expect_logged_in(&mut last, "alice");
    for (generation, mut alice) in owners.into_iter().enumerate() {
        for number in 0..MESSAGES {
            alice.expect_line(&format!("from bob: {generation} {number} {padding}"));
        }
        alice.expect_eof();
    }
    // A former owner's disconnection does not take the name from the last one.
    bob.send("alice: still there?");
    last.expect_line("from bob: still there?");
    let report = server.stop_with([(last, 1), (bob, 3 * MESSAGES as u64 + 4)]);
    assert_eq!((report.owed, report.lost()), (report.delivered, 0), "{report}");
}

#[test]
fn exactly_one_of_many_clients_that_claim_a_name_at_once_gets_it() {
    let server = start();
    for round in 0..30 {
        let barrier = Barrier::new(8);
        let attempt = |number: u64| {
            let mut client = Client::connect(server.address);
            barrier.wait();
            client.send(&format!("alice\nalice: {number}"));
            let reply = client.line().expect("a reply");
            // Every client has its reply before any of them leaves.
            barrier.wait();
            let logged_in = reply == format!("from alice: {number}");
            if logged_in {
                client.half_close();
            } else {
                assert_eq!(reply, NAME_TAKEN);
            }
            client.expect_eof();
            logged_in
        };
        let attempt = &attempt;
        let winners = thread::scope(|scope| {
            let attempts: Vec<_> =
                (0..8).map(|number| scope.spawn(move || attempt(number))).collect();
            let outcomes = attempts.into_iter().map(|attempt| attempt.join().expect("no panic"));
            outcomes.filter(|&logged_in| logged_in).count()
        });
        assert_eq!(winners, 1, "round {round}");
    }
    let report = server.stop();
    assert_eq!((report.accepted, report.delivered, report.connections), (30, 30, 240), "{report}");
}

/// Tries to log in as alice over and over; a message to itself proves each login. Half of the
/// logged-in clients leave politely, the others reset. Returns how many logins succeeded.
fn storm(server: &TestServer, thread: u64) -> u64 {
    let mut logins = 0;
    for attempt in 0..50 {
        let text = format!("{thread}-{attempt}");
        let mut client = connect_and_send(server, format!("alice\nalice: {text}\n"));
        let reply = client.line().expect("a reply");
        if reply == NAME_TAKEN {
            client.expect_eof();
            continue;
        }
        assert_eq!(reply, format!("from alice: {text}"));
        logins += 1;
        if attempt % 2 == 0 {
            leave(client);
        } else {
            client.reset();
        }
    }
    logins
}

#[test]
fn every_login_in_a_reconnect_storm_is_answered_and_the_name_ends_up_free() {
    let server = start();
    let logins = AtomicU64::new(0);
    thread::scope(|scope| {
        for thread in 0..8 {
            let (server, logins) = (&server, &logins);
            scope.spawn(move || logins.fetch_add(storm(server, thread), SeqCst));
        }
    });
    wait_until("the last disconnection", || server.stats().connected == 0);
    let (mut alice, mut bob) = (server.login("alice"), server.login("bob"));
    alice.send("bob: it is calm again");
    bob.expect_line("from alice: it is calm again");
    expect_logged_in(&mut alice, "alice");
    let report = server.stop_with([(alice, 2), (bob, 0)]);
    let accepted = logins.into_inner() + 2;
    assert!(accepted > 2, "no login ever succeeded");
    assert_eq!((report.accepted, report.owed), (accepted, accepted), "{report}");
    assert_eq!((report.connections, report.refused), (402, 0), "{report}");
}

#[test]
fn a_storm_of_logins_under_a_taken_name_does_not_disturb_its_owner() {
    let server = start();
    let (mut alice, mut bob) = (server.login("alice"), server.login("bob"));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50 {
                    let refused = connect_and_send(&server, "alice\nbob: forged\nalice: forged\n");
                    expect_rejected(refused, NAME_TAKEN);
                }
            });
        }
        // Meanwhile the owner keeps sending.
        for number in 0..1000 {
            alice.send(&format!("bob, alice: {number}"));
            alice.expect_line(&format!("from alice: {number}"));
            bob.expect_line(&format!("from alice: {number}"));
        }
    });
    let report = server.stop_with([(alice, 1000), (bob, 0)]);
    assert_eq!((report.accepted, report.owed, report.delivered), (1000, 2000, 2000), "{report}");
    assert_eq!(report.connections, 202, "{report}");
}

fn start_with_login_timeout(login_timeout: Duration) -> TestServer {
    TestServer::with(Config::default().login_timeout(login_timeout).linger(TEST_TIMEOUT))
}

#[test]
fn a_client_that_misses_the_login_timeout_gets_an_error() {
    let server = start_with_login_timeout(Duration::from_millis(100));
    expect_rejected(Client::connect(server.address), LOGIN_TIMEOUT);
    // A name without a line end does not count yet.
    expect_rejected(connect_and_send(&server, "alice"), LOGIN_TIMEOUT);
    expect_rejected(connect_and_send(&server, "x".repeat(32) + "\r"), LOGIN_TIMEOUT);
    let report = server.stop();
    assert_eq!((report.connections, report.accepted, report.refused), (3, 0, 0), "{report}");
}

#[test]
fn trickling_bytes_do_not_extend_the_login_timeout() {
    let server = start_with_login_timeout(Duration::from_millis(300));
    let mut client = Client::connect(server.address);
    client.stream.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
    // Sending a whole name at this pace would take ten times the login timeout.
    let sent = (0..32).find(|_| {
        client.send_bytes(b"x");
        match client.stream.peek(&mut [0]) {
            Ok(_) => true,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
                false
            }
        }
    });
    assert!(sent.is_some(), "each byte has extended the login timeout");
    client.stream.set_read_timeout(Some(TEST_TIMEOUT)).expect("a timeout");
    expect_rejected(client, LOGIN_TIMEOUT);
}

#[test]
fn a_client_that_is_logged_in_may_stay_silent_past_the_login_timeout() {
    let server = start_with_login_timeout(Duration::from_secs(3));
    let mut alice = connect_and_send(&server, "alice\n");
    expect_logged_in(&mut alice, "alice");
    // A later client has timed out, so alice's login time has passed too.
    expect_rejected(Client::connect(server.address), LOGIN_TIMEOUT);
    expect_logged_in(&mut alice, "alice");
    server.stop_with([(alice, 2)]);
}

#[test]
fn a_client_that_leaves_before_logging_in_sees_a_clean_end_of_file() {
    let server = start();
    for _ in 0..50 {
        leave(Client::connect(server.address));
    }
    let report = server.stop();
    assert_eq!((report.connections, report.accepted), (50, 0), "{report}");
}

#[test]
fn a_name_without_a_line_end_is_not_a_login() {
    let server = start();
    for unterminated in ["a", "alice", "alice\r", "not a name"] {
        let mut client = connect_and_send(&server, unterminated);
        client.half_close();
        expect_rejected(client, NO_LINE_END);
    }
    assert_eq!(server.stats().connected, 0);
    // The name is still free.
    let mut alice = connect_and_send(&server, "alice\n");
    expect_logged_in(&mut alice, "alice");
    let report = server.stop_with([(alice, 1)]);
    assert_eq!((report.connections, report.accepted), (5, 1), "{report}");
}
