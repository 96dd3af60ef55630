//! `/sync`: it is answered when every delivery of the client's lines before it has ended, and says
//! whether all of them were made.
//!
//! Recipients read, do not read, leave or fail. Strangers are stuck. The server is shut down in
//! between.

mod common;

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use a_chat::{Config, Listener, Server, UnixOptions};
use common::{Client, TEST_TIMEOUT, TestServer, wait_until};

const DELIVERED: &str = "everything before it is delivered";
const OR_LOST: &str = "everything before it is delivered or was reported lost";
const SHUTTING_DOWN: &str = "the server is shutting down before everything is delivered";

/// Evicts nobody within a test.
fn lenient() -> Config {
    Config::default().stall_timeout(TEST_TIMEOUT * 10).linger(Duration::from_millis(50))
}

/// Asks, as the line of this number, and expects this reply.
fn expect_synced(client: &mut Client, line: u64, outcome: &str) {
    client.send("/sync");
    client.expect_line(&format!("notice: line {line}: {outcome}"));
}

#[test]
fn a_sync_is_answered_once_all_lines_before_it_are_delivered() {
    let server = TestServer::with(lenient());
    let (mut alice, mut bob) = (server.login("alice"), server.login("bob"));
    expect_synced(&mut alice, 1, DELIVERED);
    for round in 0..3 {
        for line in 0..100 {
            alice.send(&format!("bob, alice: {round} {line}"));
        }
        alice.send("/sync 5");
        for line in 0..100 {
            alice.expect_line(&format!("from alice: {round} {line}"));
            bob.expect_line(&format!("from alice: {round} {line}"));
        }
        alice.expect_line(&format!("notice: line {}: {DELIVERED}", 101 * (round + 1) + 1));
    }
    alice.send("nobody: x");
    alice.expect_line("error: line 305: no such peer: nobody");
    expect_synced(&mut alice, 306, DELIVERED);
    let report = server.stop_with([(alice, 306), (bob, 0)]);
    assert_eq!((report.owed, report.lost()), (600, 0), "{report}");
}

/// Of a large write the server asks at once what has arrived, and on one machine that may be all of it.
#[test]
fn a_sync_is_answered_if_all_is_acknowledged_while_it_is_written() {
    const LINES: usize = 120;
    let server = TestServer::with(lenient());
    let (mut alice, mut bob) = (server.login("alice"), server.login("bob"));
    let text = "x".repeat(1000);
    let burst = format!("{}/sync 5\n", format!("bob: {text}\n").repeat(LINES));
    let message = format!("from alice: {text}");
    let mut line = 0;
    for _ in 0..200 {
        alice.send_bytes(burst.as_bytes());
        for _ in 0..LINES {
            bob.expect_line(&message);
        }
        line += LINES + 1;
        alice.expect_line(&format!("notice: line {line}: {DELIVERED}"));
    }
    let report = server.stop_with([(alice, line as u64), (bob, 0)]);
    assert_eq!((report.delivered, report.lost()), (200 * LINES as u64, 0), "{report}");
}

#[test]
fn a_time_that_is_none_is_refused() {
    let server = TestServer::start();
    let mut alice = server.login("alice");
    for (line, time) in (1..).zip(["0", "3601", "5s", "-1", "1.5", "5 5"]) {
        alice.send(&format!("/sync {time}"));
        alice.expect_line(&format!("error: line {line}: bad time, expected 1 to 3600"));
    }
    server.stop_with([(alice, 6)]);
}

#[test]
fn a_sync_does_not_wait_for_what_strangers_have_sent() {
    let server = TestServer::with(lenient());
    let mut alice = server.login("alice");
    let (mut bob, mut stuck) = (server.login("bob"), server.login_with_small_buffers("stuck"));
    let mut carol = server.login("carol");
    // Alice has written to the stuck client, too, when it was not stuck yet.
    alice.send("stuck: hello");
    stuck.expect_line("from alice: hello");
    carol.fill("stuck", 200);
    carol.send("/who carol");
    carol.expect_line("notice: line 201: here: carol");
    alice.send("bob: hello");
    bob.expect_line("from alice: hello");
    let asked = Instant::now();
    expect_synced(&mut alice, 3, DELIVERED);
    alice.send("bob: hello");
    bob.expect_line("from alice: hello");
    expect_synced(&mut alice, 5, DELIVERED);
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    // Carol does wait.
    carol.send("/sync 1");
    carol.expect_line("error: line 202: not everything before it is delivered after 1 s");
    for line in 1..=200 {
        assert!(stuck.line().expect("a message").starts_with(&format!("from carol: {line} ")));
    }
    expect_synced(&mut carol, 203, DELIVERED);
    server.stop_with([(alice, 5), (carol, 203), (bob, 0), (stuck, 0)]);
}

#[test]
fn a_loss_stands_before_the_answer_that_speaks_of_it() {
    let config = lenient().stall_timeout(Duration::from_secs(2));
    let server = TestServer::with(config);
    let stuck = server.login_with_small_buffers("stuck");
    let mut alice = server.login("alice");
    alice.fill("stuck", 200);
    alice.send("/sync");
    let told = alice.line().expect("a notice");
    assert!(told.ends_with(" lost on the way to stuck: evicted"), "{told}");
    alice.expect_line(&format!("notice: line 201: {OR_LOST}"));
    expect_synced(&mut alice, 202, DELIVERED);
    drop(stuck);
    let report = server.stop_with([(alice, 202)]);
    assert_eq!(report.lost(), report.lost_told, "{report:?}");
}

#[test]
fn a_loss_that_was_told_before_is_not_forgotten() {
    let server = TestServer::with(lenient());
    let bob = server.login_with_small_buffers("bob");
    let (mut alice, mut carol) = (server.login("alice"), server.login("carol"));
    carol.fill("bob", 200);
    carol.send("/who carol");
    carol.expect_line("notice: line 201: here: carol");
    alice.send("bob: behind carol's");
    alice.send("/who alice");
    alice.expect_line("notice: line 2: here: alice");
    bob.reset();
    alice.expect_line("error: line 1: lost on the way to bob: connection broken");
    expect_synced(&mut alice, 3, OR_LOST);
    expect_synced(&mut alice, 4, DELIVERED);
    assert!(carol.line().expect("a notice").ends_with("to bob: connection broken"));
    server.stop_with([(alice, 4), (carol, 201)]);
}

#[test]
fn a_client_that_has_left_is_asked_while_its_queue_is_delivered() {
    let server = TestServer::with(lenient().linger(TEST_TIMEOUT * 10));
    let mut bob = server.login_with_small_buffers("bob");
    let mut alice = server.login("alice");
    alice.fill("bob", 200);
    alice.send("/who alice");
    alice.expect_line("notice: line 201: here: alice");
    bob.half_close();
    wait_until("bob's name to be free", || server.stats().connected == 1);
    // An answer that came too late is no confirmation for the next question.
    for line in [202, 203] {
        alice.send("/sync 1");
        let late = "not everything before it is delivered after 1 s";
        alice.expect_line(&format!("error: line {line}: {late}"));
    }
    alice.send("/sync");
    for line in 1..=200 {
        assert!(bob.line().expect("a message").starts_with(&format!("from alice: {line} ")));
    }
    // Bob does not close, and the server lingers for minutes; nobody has to wait for that.
    alice.expect_line(&format!("notice: line 204: {DELIVERED}"));
    expect_synced(&mut alice, 205, DELIVERED);
    bob.expect_eof();
    drop(bob);
    let report = server.stop_with([(alice, 205)]);
    assert_eq!((report.delivered, report.lost()), (200, 0), "{report}");
}

#[test]
fn a_client_that_has_left_and_fails_is_reported_before_the_answer() {
    let server = TestServer::with(lenient());
    let mut bob = server.login_with_small_buffers("bob");
    let mut alice = server.login("alice");
    alice.fill("bob", 200);
    alice.send("/who alice");
    alice.expect_line("notice: line 201: here: alice");
    bob.half_close();
    wait_until("bob's name to be free", || server.stats().connected == 1);
    alice.send("/sync");
    bob.reset();
    assert!(alice.line().expect("a notice").ends_with(" lost on the way to bob: left"));
    alice.expect_line(&format!("notice: line 202: {OR_LOST}"));
    server.stop_with([(alice, 202)]);
}

/// Its own writer holds the share that it waits for.
#[test]
fn a_client_that_is_evicted_while_it_waits_for_itself_leaves_its_name() {
    let server = TestServer::with(lenient().stall_timeout(Duration::from_secs(3)));
    let mut alice = server.login_with_small_buffers("alice");
    alice.fill("alice", 200);
    alice.send("/sync 3600");
    wait_until("the eviction", || server.stats().evicted == 1);
    wait_until("the name to be free", || server.stats().connected == 0);
    let mut next = server.login("alice");
    expect_synced(&mut next, 1, DELIVERED);
    drop(alice);
    server.stop_with([(next, 1)]);
}

#[test]
fn a_shutdown_answers_at_once_and_accepts_the_lines_behind() {
    let server = TestServer::with(lenient().drain_timeout(TEST_TIMEOUT * 10));
    let mut stuck = server.login_with_small_buffers("stuck");
    let (mut alice, mut bob) = (server.login("alice"), server.login("bob"));
    alice.fill("stuck", 200);
    // All of it is in the kernel when the server is shut down, and the reader waits at the first.
    alice.send_bytes(&b"/sync\n".repeat(10_000));
    alice.send("bob: behind them");
    wait_until("the first one to be asked", || server.stats().accepted >= 201);
    wait_until("the rest to arrive", || common::unacknowledged(&alice.stream) == 0);
    server.handle.shutdown();
    for line in 201..10_201 {
        alice.expect_line(&format!("error: line {line}: {SHUTTING_DOWN}"));
    }
    bob.expect_line("from alice: behind them");
    for line in 1..=200 {
        assert!(stuck.line().expect("a message").starts_with(&format!("from alice: {line} ")));
    }
    let report = server.stop_with([(alice, 10_201), (bob, 0), (stuck, 0)]);
    assert_eq!((report.delivered, report.lost()), (201, 0), "{report}");
}

/// Two clients that write to each other and read nothing, not even the answer.
#[test]
fn clients_that_do_not_read_are_evicted_even_if_they_wait_for_each_other() {
    let config = lenient().stall_timeout(Duration::from_millis(300)).window(4 << 20);
    let server = TestServer::with(config);
    let mut clients = ["alice", "bob"].map(|name| server.login_with_small_buffers(name));
    for (client, other) in clients.iter_mut().zip(["bob", "alice"]) {
        let lines = format!("{other}: {}\n", "x".repeat(1000)).repeat(1000) + "/sync 3600\n";
        // On a slow machine one may be evicted before it has written all.
        let _written_or_evicted = client.stream.write_all(lines.as_bytes());
    }
    wait_until("both to be evicted", || server.stats().connected == 0);
    drop(clients);
    let report = server.stop();
    let untold = report.lost_untold;
    assert_eq!(report.lost(), report.lost_told + report.lost_sender_gone + untold, "{report:?}");
}

/// A Unix socket acknowledges what it takes at once, and takes little.
#[test]
fn a_sync_waits_for_a_recipient_behind_a_unix_socket_and_tells_of_its_loss() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("chat.sock");
    let mut listeners = Listener::bind_tcp(["127.0.0.1:0"]).expect("a free port");
    listeners.push(Listener::bind_unix(&path, UnixOptions::default()).expect("a free path"));
    let server = Server::from_listeners(listeners, lenient().window(4 << 20)).expect("a server");
    let server = TestServer::of(server);
    let log_in = |name: &str| {
        let unix = UnixStream::connect(&path).expect("a listening server");
        let mut client = Client::from_stream(unix);
        client.send(&format!("{name}\n/who {name}"));
        client.expect_line(&format!("notice: line 1: here: {name}"));
        client
    };
    let (mut bob, mut alice) = (log_in("bob"), log_in("alice"));
    alice.fill("bob", 2000);
    alice.send("/sync 1");
    alice.expect_line("error: line 2002: not everything before it is delivered after 1 s");
    for line in 1..=2000 {
        assert!(bob.line().expect("a message").starts_with(&format!("from alice: {line} ")));
    }
    expect_synced(&mut alice, 2003, DELIVERED);
    alice.fill("bob", 2000);
    // They are all routed by then.
    alice.send("/who alice");
    alice.expect_line("notice: line 4004: here: alice");
    alice.send("/sync");
    drop(bob);
    let told = alice.line().expect("a notice");
    assert!(told.contains(" lost on the way to bob: "), "{told}");
    alice.expect_line(&format!("notice: line 4005: {OR_LOST}"));
    let report = server.stop_with([(alice, 4005)]);
    assert_eq!((report.lost(), report.owed), (report.lost_told, 4000), "{report:?}");
}
