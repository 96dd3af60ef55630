//! A program that embeds a server finds what it needs: a thread for it, handles that any thread may
//! use, counters that only grow, a shutdown by signals, and values that serialize.

mod common;

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use a_chat::client::{Client, Event};
use a_chat::{Config, Error, Name, Report, Running, Server, Stats};
use common::{TEST_TIMEOUT, TestServer, send_until_blocked, wait_until};
use crossbeam_channel::unbounded;

fn name(name: &str) -> Name {
    Name::new(name).expect("a valid name")
}

fn start(config: Config) -> Running {
    Server::bind("127.0.0.1:0", config).and_then(Server::spawn).expect("a free port")
}

/// The value of each counter that may only grow.
fn totals(stats: &Stats) -> [u64; 9] {
    let Stats { connections, refused, evicted, accepted, unterminated, .. } = *stats;
    let Stats { owed, written, delivered, lost, .. } = *stats;
    [connections, refused, evicted, accepted, unterminated, owed, written, delivered, lost]
}

#[test]
fn counters_only_grow_even_when_a_stuck_client_is_evicted() {
    let config = Config::default()
        .stall_timeout(Duration::from_secs(1))
        .linger(Duration::from_millis(100))
        .max_connections(3);
    let server = TestServer::with(config);
    let (done, watched) = (Arc::new(AtomicBool::new(false)), server.stats());
    let stats = server.stats_handle();
    let until = Arc::clone(&done);
    let watcher = thread::spawn(move || {
        let mut last = watched;
        while !until.load(SeqCst) {
            let now = stats.read();
            let grows = totals(&last).iter().zip(totals(&now)).all(|(last, now)| *last <= now);
            assert!(grows, "{last:?} then {now:?}");
            assert!(now.delivered <= now.written, "{now:?}");
            last = now;
            thread::yield_now();
        }
        last
    });
    let _stuck = server.login_with_small_buffers("stuck");
    let alice = server.login("alice");
    let _bob = server.login("bob");
    drop(common::Client::connect(server.address));
    wait_until("a refusal", || server.stats().refused == 1);
    send_until_blocked(&alice.stream, format!("stuck: {}\n", "x".repeat(1000)).as_bytes());
    wait_until("the eviction", || server.stats().evicted == 1);
    wait_until("its loss", || server.stats().lost > 0);
    done.store(true, SeqCst);
    let last = watcher.join().expect("counters that only grow");
    assert!(last.written > 0 && last.connections == 3, "{last:?}");
    drop(alice);
    let report = server.stop();
    assert_eq!(report.owed, report.delivered + report.lost(), "{report}");
    assert!(report.lost() > 0, "{report}");
}

/// `delivered` means the same in the live counters and in the report, without a wait for the end.
#[test]
fn live_deliveries_are_those_that_are_acknowledged() {
    let server = start(Config::default());
    let mut alice = Client::connect(server.local_addr(), &name("alice")).expect("a login");
    for _ in 0..100 {
        alice.send("alice: hi").expect("an open connection");
    }
    let stats = server.stats_handle();
    wait_until("the acknowledgements", || stats.read().delivered == 100);
    assert_eq!(stats.read().written, 100);
    let text = stats.read().to_string();
    assert!(text.contains("1 connected now") && text.contains("100 delivered"), "{text}");
    drop(alice);
    let report = server.stop().expect("a report");
    assert_eq!((report.delivered, stats.read().delivered), (100, 100), "{report}");
}

/// A shell that closes sends SIGHUP twice. Taken for two requests, the second one would lose
/// whatever is still queued.
#[test]
fn two_signals_close_together_lose_nothing() {
    while !are_one_request_if_close_together() {}
}

/// False if the signals were so far apart that they count as two requests.
fn are_one_request_if_close_together() -> bool {
    let config = Config::default()
        .window(16 * 1024 * 1024)
        .stall_timeout(TEST_TIMEOUT)
        .drain_timeout(TEST_TIMEOUT)
        .linger(Duration::from_millis(100));
    let server = TestServer::with(config);
    let mut bob = server.login_with_small_buffers("bob");
    let mut alice = Client::connect(server.address, &name("alice")).expect("a login");
    for _ in 0..400 {
        alice.send(format!("bob: {}", "x".repeat(10_000))).expect("an open connection");
    }
    wait_until("the lines", || alice.accepted() == 400);
    assert!(server.stats().queued_bytes > 0, "everything is delivered already");
    let begin = Instant::now();
    server.handle.signalled();
    server.handle.signalled();
    if begin.elapsed() >= Duration::from_millis(500) {
        return false;
    }
    let lines = bob.lines_to_eof();
    assert_eq!(lines.iter().filter(|line| line.starts_with("from alice: ")).count(), 400);
    drop((alice, bob));
    let report = server.stop();
    assert!(report.is_clean() && !report.forced, "{report}");
    assert_eq!(report.lost(), 0, "{report}");
    true
}

#[test]
fn a_later_signal_forces_the_drain_to_end() {
    let server = TestServer::with(
        Config::default()
            .stall_timeout(TEST_TIMEOUT * 10)
            .drain_timeout(TEST_TIMEOUT * 10)
            .linger(TEST_TIMEOUT * 10),
    );
    let _stuck = server.login_with_small_buffers("stuck");
    let alice = server.login("alice");
    send_until_blocked(&alice.stream, format!("stuck: {}\n", "x".repeat(1000)).as_bytes());
    let (handle, (done, ended)) = (server.handle.clone(), unbounded());
    thread::spawn(move || drop(done.send(server.stop())));
    handle.signalled();
    let mut report = None;
    wait_until("the end", || {
        handle.signalled();
        report = ended.try_recv().ok();
        report.is_some()
    });
    assert!(report.is_some_and(|report| report.forced && !report.is_clean()));
}

#[test]
fn a_running_server_that_is_dropped_shuts_down() {
    let server = start(Config::default());
    let (address, stats) = (server.local_addr(), server.stats_handle());
    let alice = Client::connect(address, &name("alice")).expect("a login");
    assert_eq!(stats.read().connected, 1);
    let waiting = thread::spawn(move || alice.finish(None));
    drop(server);
    assert_eq!(stats.read().connected, 0);
    drop(waiting.join().expect("no panic"));
    Client::connect(address, &name("alice")).expect_err("a closed port");
}

#[test]
fn a_server_serves_on_a_listener_that_it_is_given() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    let server = Server::from_listener(listener, Config::default()).expect("a server");
    let server = server.spawn().expect("a thread");
    assert_eq!(server.local_addr(), address);
    let mut alice = Client::connect(address, &name("alice")).expect("a login");
    alice.send("alice: hi").expect("an open connection");
    assert!(matches!(alice.recv(), Ok(Event::Message { .. })));
    drop(alice.finish(None));
    assert!(server.stop().expect("a report").is_clean());
}

#[test]
fn an_address_that_is_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("an address");
    let error = Server::bind(address, Config::default()).expect_err("a taken port");
    assert_eq!(error.to_string(), format!("cannot listen on {address}"));
    assert!(matches!(error, Error::Bind { endpoint: Some(named), .. } if named == address.into()));
}

#[test]
fn limits_are_set_one_by_one_and_validated() {
    let config = Config::default().max_line(100).max_per_address(Some(3)).max_connections(None);
    assert_eq!(
        (config.max_line, config.max_per_address, config.max_connections),
        (100, Some(3), None)
    );
    config.validate().expect("valid limits");
    let error = Config::default().window(0).validate().expect_err("no window");
    assert_eq!(error.to_string(), "invalid configuration: window must be at least 1 byte");
    assert!(matches!(error, Error::Config(_)));
}

#[test]
fn a_report_can_be_made_up() {
    let mut report = Report::default();
    assert!(report.is_clean());
    report.lost_in_drain = 1;
    assert!(!report.is_clean());
}

#[cfg(feature = "serde")]
mod serialized {
    use serde_json::{from_str, json, to_value};

    use super::*;

    #[test]
    fn a_report_is_one_json_object() {
        let server = TestServer::with(Config::default().stall_timeout(Duration::from_secs(1)));
        let _stuck = server.login_with_small_buffers("stuck");
        let alice = server.login("alice");
        send_until_blocked(&alice.stream, format!("stuck: {}\n", "x".repeat(1000)).as_bytes());
        wait_until("the eviction", || server.stats().evicted == 1);
        let live = to_value(server.stats()).expect("JSON");
        assert_eq!(live["evicted"], json!(1));
        drop(alice);
        let report = server.stop();
        let value = to_value(&report).expect("JSON");
        assert_eq!(value["owed"], json!(report.owed));
        assert_eq!(value["drain"], json!(report.drain.as_secs_f64()));
        let loss = &value["losses_before_drain"][0];
        assert_eq!(loss["name"], json!("stuck"));
        assert_eq!(loss["reason"], json!("evicted, nothing was read for too long"));
        to_value(a_chat::Capacity::detect()).expect("JSON");
    }

    #[test]
    fn limits_are_read_from_json_with_times_in_seconds() {
        let config: Config =
            from_str(r#"{ "max_connections": 7, "linger": 0.25 }"#).expect("limits");
        assert_eq!(config, Config::default().max_connections(7).linger(Duration::from_millis(250)));
        from_str::<Config>(r#"{ "max_conections": 7 }"#).expect_err("a misspelt limit");
        from_str::<Config>(r#"{ "linger": -1.0 }"#).expect_err("a negative time");
    }

    #[test]
    fn a_name_is_text_and_validated() {
        assert_eq!(to_value(name("bob")).expect("JSON"), json!("bob"));
        assert_eq!(from_str::<Name>(r#""bob""#).expect("a name"), "bob");
        from_str::<Name>(r#""no name""#).expect_err("it holds a blank");
    }
}
