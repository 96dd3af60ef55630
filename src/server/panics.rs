//! How a panic in one thread affects the others. Tests only.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::{CloseReason, Config, Error, Report, Server, ShutdownHandle, StatsHandle};

struct Running {
    address: std::net::SocketAddr,
    handle: ShutdownHandle,
    stats: StatsHandle,
    thread: JoinHandle<Result<Report, Error>>,
}

fn start() -> Running {
    let server = Server::bind("127.0.0.1:0", Config::default()).expect("a free port");
    let (address, handle) = (server.local_addr(), server.shutdown_handle());
    let (stats, thread) = (server.stats_handle(), thread::spawn(|| server.run()));
    Running { address, handle, stats, thread }
}

impl Running {
    fn login(&self, name: &str) -> BufReader<TcpStream> {
        let before = self.stats.read().connected;
        let mut stream = TcpStream::connect(self.address).expect("a server");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
        stream.write_all(format!("{name}\n").as_bytes()).expect("a server that reads");
        self.wait_until(|| self.stats.read().connected == before + 1);
        BufReader::new(stream)
    }

    fn wait_until(&self, condition: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !condition() {
            assert!(Instant::now() < deadline, "{:?}", self.stats);
            thread::yield_now();
        }
    }
}

fn send(client: &mut BufReader<TcpStream>, line: &str) {
    client.get_mut().write_all(format!("{line}\n").as_bytes()).expect("a server that reads");
}

/// The next line; empty at the end of the stream, clean or not.
fn line(client: &mut BufReader<TcpStream>) -> String {
    let mut line = String::new();
    match client.read_line(&mut line) {
        Err(error) if error.kind() != std::io::ErrorKind::ConnectionReset => panic!("{error}"),
        _ => line,
    }
}

#[test]
fn a_panic_in_a_reader_ends_only_its_connection() {
    let server = start();
    let (mut alice, mut bob) = (server.login("alice"), server.login("bob"));
    send(&mut alice, "bob: before");
    assert_eq!(line(&mut bob), "from alice: before\n");
    send(&mut alice, "bob: panic-reader");
    assert_eq!(line(&mut alice), "");
    let mut alice = server.login("alice");
    send(&mut alice, "bob: after");
    assert_eq!(line(&mut bob), "from alice: after\n");
    server.handle.shutdown();
    let report = server.thread.join().expect("no panic").expect("no error");
    assert_eq!((report.connections, report.delivered, report.lost()), (3, 2, 0), "{report}");
}

#[test]
fn a_panic_in_a_writer_ends_only_its_connection_and_its_loss_is_reported() {
    let server = start();
    let (mut alice, mut bob, mut carol) =
        (server.login("alice"), server.login("bob"), server.login("carol"));
    send(&mut alice, "bob: panic-writer");
    assert_eq!(line(&mut bob), "");
    server.wait_until(|| server.stats.read().connected == 2);
    send(&mut alice, "carol: after");
    assert_eq!(line(&mut carol), "from alice: after\n");
    server.handle.shutdown();
    let report = server.thread.join().expect("no panic").expect("no error");
    assert_eq!((report.owed, report.delivered, report.lost()), (2, 1, 1), "{report}");
    let [loss] = report.losses_before_drain.as_slice() else { panic!("{report}") };
    assert_eq!((loss.name.as_str(), loss.messages), ("bob", 1));
    assert_eq!(loss.reason, CloseReason::Panicked);
}

#[test]
fn a_panic_in_the_broker_ends_the_server_with_an_error() {
    let server = start();
    let mut bob = server.login("bob");
    let mut mallory = TcpStream::connect(server.address).expect("a server");
    mallory.write_all(b"panic-broker\n").expect("a server that reads");
    let error = server.thread.join().expect("no panic").expect_err("the broker has panicked");
    assert_eq!(error.to_string(), "the broker thread panicked");
    assert_eq!(line(&mut bob), "");
    assert!(server.handle.is_shutdown());
}
