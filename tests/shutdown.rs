//! The promise: whenever the server is shut down, no accepted message is lost, and the report names
//! any that cannot be delivered.
//!
//! At the centre is message conservation: a population of clients that behave in every way, a
//! shutdown at a random moment, and a model that checks each client's transcript against the report.
//! A round that fails prints how to repeat it; `A_CHAT_ROUNDS` sets how many rounds run.

mod common;

use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use a_chat::{CloseReason, Config, Report, Server};
use common::population::{Population, Profile, Stop, Verdict, World};
use common::rounds::rounds_side_by_side;
use common::wire::{Transport, Wire, transport};
use common::{
    Client, TEST_TIMEOUT, TestServer, fin_in_flight, read_to_end, send_until_blocked,
    unacknowledged, wait_until,
};

/// Runs one round with a few clients and shuts the server down at a random moment.
fn run_population(seed: u64, profile: Profile) -> (Report, Verdict) {
    let mut random = fastrand::Rng::with_seed(seed);
    let world = World::new(seed, random.usize(3..14), 0, profile);
    let config = world.config();
    let server = TestServer::with(config.clone());
    let population = Population::start(server.address, world);
    let (lines, began) = (random.u64(..3000), Instant::now());
    // Stuck clients may prevent that count from ever being reached; then time decides.
    wait_until("some traffic", || {
        server.stats().accepted >= lines || began.elapsed() > Duration::from_millis(300)
    });
    let (report, verdict) = population.stop(server, Stop::Drain);
    assert!(report.drain < config.drain_timeout + Duration::from_secs(5), "{report}");
    (report, verdict)
}

#[test]
fn every_message_is_delivered_to_polite_clients() {
    rounds_side_by_side("every_message_is_delivered_to_polite_clients", 1000, 100, |seed| {
        let (report, verdict) = run_population(seed, Profile::Polite);
        assert!(report.is_clean() && !report.forced, "{report}");
        assert_eq!((report.lost(), verdict.in_doubt), (0, 0), "{report}");
        assert_eq!(report.delivered, verdict.received, "{report}");
    });
}

#[test]
fn every_loss_is_accounted_for_with_stubborn_clients() {
    rounds_side_by_side("every_loss_is_accounted_for_with_stubborn_clients", 2000, 30, |seed| {
        run_population(seed, Profile::Stubborn);
    });
}

/// Timeouts that do not expire in these tests, even on a loaded machine.
fn generous_timeouts() -> Config {
    let (stall_timeout, drain_timeout) = (2 * TEST_TIMEOUT, 2 * TEST_TIMEOUT);
    Config::default().stall_timeout(stall_timeout).drain_timeout(drain_timeout)
}

/// Logs in, sends one message and stays until the connection ends. Returns what the server sent, if
/// anything.
fn log_in_and_send_one_message(address: SocketAddr, name: &str) -> Option<String> {
    let mut stream = Wire::connect(address).ok()?;
    stream.write_all(format!("{name}\nbob: {name}\n").as_bytes()).ok()?;
    let received = String::from_utf8(read_to_end(&stream)).expect("the server writes UTF-8");
    (!received.is_empty()).then_some(received)
}

#[test]
fn a_client_connecting_during_shutdown_is_served_or_never_accepted() {
    for round in 1..30 {
        let mut server = TestServer::start();
        let mut bob = server.login("bob");
        let (address, handle, clients) = (server.address, &server.handle, AtomicU64::new(0));
        let storm = || {
            let mut notices = Vec::new();
            while !handle.is_shutdown() {
                let name = format!("n{}", clients.fetch_add(1, SeqCst));
                notices.extend(
                    log_in_and_send_one_message(address, &name).map(|notice| (name, notice)),
                );
            }
            notices
        };
        let notices: Vec<_> = thread::scope(|scope| {
            let storms: Vec<_> = (0..8).map(|_| scope.spawn(storm)).collect();
            // No client leaves by itself, so only the first eight are served before the shutdown.
            wait_until("the storm", || server.stats().accepted >= round % 8);
            handle.shutdown();
            storms.into_iter().flat_map(|storm| storm.join().expect("no panic")).collect()
        });
        let report = server.join();
        let mut accepted = Vec::new();
        for (name, notice) in notices {
            let count = notice.strip_prefix("notice: server is shutting down, ").expect("a notice");
            match count {
                "1 of your lines were accepted\n" => accepted.push(format!("from {name}: {name}")),
                count => assert_eq!(count, "0 of your lines were accepted\n"),
            }
        }
        let mut received = bob.lines_to_eof();
        received.pop();
        received.sort();
        accepted.sort();
        assert_eq!(received, accepted);
        assert_eq!((report.accepted, report.lost()), (accepted.len() as u64, 0), "{report}");
    }
}

#[test]
fn input_in_the_receive_queue_at_shutdown_is_delivered() {
    for _ in 0..50 {
        let server = TestServer::start();
        let (mut bob, mut alice) = (server.login("bob"), server.login("alice"));
        let lines: Vec<_> = (0..1000).map(|number| format!("bob: {number}\n")).collect();
        alice.send_bytes(lines.concat().as_bytes());
        wait_until("the receive queue to hold it all", || unacknowledged(&alice.stream) == 0);
        let report = server.stop();
        assert_eq!((report.accepted, report.delivered), (1000, 1000));
        for number in 0..1000 {
            bob.expect_line(&format!("from alice: {number}"));
        }
        bob.expect_line("notice: server is shutting down, 0 of your lines were accepted");
        bob.expect_eof();
        alice.expect_line("notice: server is shutting down, 1000 of your lines were accepted");
        alice.expect_eof();
    }
}

#[test]
fn input_of_a_sender_blocked_at_shutdown_is_accepted_up_to_the_cutoff() {
    let server = TestServer::with(generous_timeouts().window(50_000));
    let (mut bob, mut alice) = (server.login("bob"), server.login("alice"));
    let sent =
        send_until_blocked(&alice.stream, b"bob: 0123456789012345678901234567890123456789\n");
    let held = sent.saturating_sub(unacknowledged(&alice.stream) + alice.stream.uncertain());
    server.handle.shutdown();
    let reading = thread::spawn(move || bob.lines_to_eof());
    let lines = alice.lines_to_eof();
    let report = server.stop();
    let received = reading.join().expect("no panic");
    let notice =
        format!("notice: server is shutting down, {} of your lines were accepted", report.accepted);
    assert_eq!(lines, [notice]);
    assert_eq!(received.len() as u64, report.accepted + 1);
    // Every acknowledged byte was read by the server or was in its receive queue.
    assert!(report.accepted >= held / 46, "{report}, {held} of {sent} bytes were acknowledged");
    assert!(report.accepted <= sent / 46, "{report}, {sent} bytes were sent");
    assert_eq!(report.lost(), 0, "{report}");
}

#[test]
fn a_half_closed_client_receives_its_queue_during_the_drain() {
    let server = TestServer::start();
    let (mut bob, mut alice) = (server.login("bob"), server.login("alice"));
    // Less than the kernels and her window hold: a Unix socket's hold a fifth of what TCP's do.
    let count = if transport() == Transport::Unix { 1000 } else { 5000 };
    for number in 0..count {
        alice.send(&format!("bob: {number} {}", "x".repeat(200)));
    }
    bob.half_close();
    wait_until("bob's disconnection", || server.stats().connected == 1);
    let reading = thread::spawn(move || bob.lines_to_eof());
    let report = server.stop();
    let received = reading.join().expect("no panic");
    for (number, line) in received.iter().enumerate() {
        assert!(line.starts_with(&format!("from alice: {number} ")), "{line}");
    }
    assert_eq!((received.len() as u64, report.lost()), (report.owed, 0), "{report}");
}

#[test]
fn a_server_shut_down_before_it_runs_exits_at_once() {
    let server = Server::bind("127.0.0.1:0", Config::default()).expect("a free port");
    let (address, handle) = (server.local_addr(), server.shutdown_handle());
    handle.shutdown();
    assert!(handle.is_shutdown());
    let report = server.run().expect("no error");
    assert_eq!((report.connections, report.owed), (0, 0));
    assert_eq!(
        TcpStream::connect(address).expect_err("closed").kind(),
        ErrorKind::ConnectionRefused
    );
}

#[test]
fn concurrent_and_repeated_shutdowns_count_as_one() {
    for round in 0..50 {
        let mut server = TestServer::start();
        let mut bob = server.login("bob");
        bob.send("bob: hello");
        // On a busy machine a socket may have it a moment later.
        wait_until("the server's kernel to have it", || unacknowledged(&bob.stream) == 0);
        let barrier = Barrier::new(32);
        thread::scope(|scope| {
            for _ in 0..32 {
                scope.spawn(|| {
                    barrier.wait();
                    server.handle.shutdown();
                    server.handle.shutdown();
                });
            }
        });
        let reading = thread::spawn(move || bob.lines_to_eof());
        let report = server.join();
        server.handle.shutdown();
        server.handle.force();
        assert_eq!((report.accepted, report.lost(), report.forced), (1, 0, false), "{round}");
        let received = reading.join().expect("no panic");
        let notice = "notice: server is shutting down, 1 of your lines were accepted";
        assert_eq!(received, ["from bob: hello", notice]);
    }
}

#[test]
fn the_listener_closes_at_once_even_if_the_drain_takes_long() {
    let config = Config::default().drain_timeout(Duration::from_secs(600));
    let mut server = TestServer::with(config);
    let _clients = stuck_client_and_sender(&server);
    server.handle.shutdown();
    wait_until("the port to be closed", || {
        let refused = [ErrorKind::ConnectionRefused, ErrorKind::NotFound];
        Wire::connect(server.address).is_err_and(|error| refused.contains(&error.kind()))
    });
    // Only force ends this drain; the report names the stuck client's loss.
    server.handle.force();
    let report = server.join();
    assert!(report.forced && !report.is_clean(), "{report}");
    let [loss] = report.losses_in_drain.as_slice() else { panic!("{report}") };
    assert_eq!((loss.name.as_str(), loss.reason), ("stuck", CloseReason::Forced));
    assert_eq!(loss.messages, report.lost());
}

#[test]
fn the_drain_ends_at_its_deadline_and_reports_what_was_lost() {
    let config = Config::default().drain_timeout(Duration::from_millis(300));
    let server = TestServer::with(config);
    let (stuck, _sender) = stuck_client_and_sender(&server);
    let report = server.stop();
    assert!(report.forced && !report.is_clean(), "{report}");
    let [loss] = report.losses_in_drain.as_slice() else { panic!("{report}") };
    assert_eq!((loss.name.as_str(), loss.reason), ("stuck", CloseReason::Deadline));
    assert_eq!(loss.messages, report.lost());
    let received = read_to_end(&stuck.stream);
    let received = received.split(|&byte| byte == b'\n').count() - 1;
    assert_eq!(received as u64, report.delivered, "{report}");
}

#[test]
fn a_shutdown_forced_at_once_joins_every_thread_and_accounts_for_every_message() {
    for seed in 0..20 {
        let world = World::new(seed, 5, 0, Profile::Rude);
        let server = TestServer::with(world.config());
        let population = Population::start(server.address, world);
        wait_until("some traffic", || server.stats().accepted > 100);
        let (report, _) = population.stop(server, Stop::Twice(Duration::ZERO));
        assert!(report.drain < Duration::from_secs(5), "{report}");
    }
}

#[test]
fn clients_that_do_not_close_delay_the_drain_only_by_the_linger_time() {
    let server = TestServer::start();
    let clients: Vec<_> = (0..50).map(|number| server.login(&format!("n{number}"))).collect();
    let report = server.stop();
    assert!(!report.forced && report.drain < Duration::from_secs(4), "{report}");
    for mut client in clients {
        client.expect_line("notice: server is shutting down, 0 of your lines were accepted");
        client.expect_eof();
    }
}

#[test]
fn a_client_that_writes_before_it_reads_receives_everything_queued_for_it() {
    let server = TestServer::with(generous_timeouts().window(8 * 1024 * 1024));
    // More is queued for bob than the kernels hold, so the drain cannot end before he reads.
    let (mut bob, mut alice) = (server.login("bob"), server.login("alice"));
    for number in 0..2000 {
        alice.send(&format!("bob: {number} {}", "x".repeat(1000)));
    }
    alice.send("alice: all is accepted");
    alice.expect_line("from alice: all is accepted");
    let handle = server.handle.clone();
    let writing = thread::spawn(move || {
        handle.shutdown();
        // This also exceeds every buffer: it gets through only if the server discards it.
        for _ in 0..16 {
            bob.send_bytes(&vec![b'\n'; 1 << 20]);
        }
        bob.lines_to_eof()
    });
    let received = writing.join().expect("no panic");
    assert_eq!(received.len(), 2001);
    assert_eq!(server.stop().lost(), 0);
}

#[test]
fn a_client_that_sends_after_the_servers_fin_receives_everything_in_flight() {
    let server = TestServer::with(generous_timeouts());
    let (mut bob, mut alice) = (server.login_with_small_buffers("bob"), server.login("alice"));
    // Bob's kernel cannot hold this much; the server's can.
    for number in 0..40 {
        alice.send(&format!("bob: {number} {}", "x".repeat(1000)));
    }
    alice.send("alice: all is accepted");
    alice.expect_line("from alice: all is accepted");
    server.handle.shutdown();
    wait_until("the server's FIN", || fin_in_flight(&bob.stream));
    bob.send("too late");
    wait_until("the server's kernel to receive it", || unacknowledged(&bob.stream) == 0);
    assert_eq!(bob.lines_to_eof().len(), 41);
    drop((alice, bob));
    let report = server.stop();
    assert_eq!((report.delivered, report.lost()), (41, 0), "{report}");
}

/// A client that reads nothing, and a sender that has sent it more than the kernels hold.
fn stuck_client_and_sender(server: &TestServer) -> (Client, Client) {
    let (stuck, sender) = (server.login("stuck"), server.login("sender"));
    server.fill_window(&sender, &format!("stuck: {}\n", "x".repeat(500)));
    (stuck, sender)
}
