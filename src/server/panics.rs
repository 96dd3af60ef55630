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

/// A panic in the middle of a record, with the lock held that reader and writer share.
#[cfg(feature = "tls")]
#[test]
fn a_panic_with_the_tls_lock_held_ends_one_connection_and_leaves_an_exact_report() {
    use crate::client::{Client, Event, Options, Tls};
    use crate::{Name, ServerTls};

    let folder = tempfile::tempdir().expect("a folder");
    let [file, key] = ["certificate.pem", "key.pem"].map(|name| folder.path().join(name));
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("one");
    std::fs::write(&file, made.cert.pem()).expect("written");
    std::fs::write(&key, made.key_pair.serialize_pem()).expect("written");
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&key, private).expect("a mode");
    let tls = ServerTls::from_pem_files(&file, &key).expect("a pair");
    let server = Server::bind("127.0.0.1:0", Config::default()).expect("a free port").tls(tls);
    let server = server.spawn().expect("a thread");
    let connect = |name: &str| -> Client {
        let tls = Tls::trusting_file(&file).expect("a certificate");
        let name = Name::new(name).expect("a name");
        Options::new(&name).tls(tls).connect(server.local_addr()).expect("a login")
    };
    let (mut alice, mut bob, mut carol) = (connect("alice"), connect("bob"), connect("carol"));
    // Bob's writer panics as it encrypts the second line, alice's reader as it decrypts her last.
    alice.send("bob: before").expect("room");
    bob.recv().expect("a message");
    alice.send("bob: panic-encrypting").expect("room");
    let end = bob.recv();
    assert!(end.is_err(), "the connection has not ended: {end:?}");
    alice.send("carol: still here").expect("room");
    carol.recv().expect("a message");
    // She is told of the line that bob lost.
    let told = alice.recv();
    assert!(matches!(told, Ok(Event::Lost(_))), "{told:?}");
    alice.send("carol: panic-decrypting").expect("room");
    let end = alice.recv();
    assert!(end.is_err(), "the connection has not ended: {end:?}");
    carol.send("carol: and here").expect("room");
    carol.recv().expect("a message");
    let report = server.stop().expect("no error");
    assert_eq!(report.owed, report.delivered + report.lost(), "{report}");
    assert_eq!((report.owed, report.lost()), (4, 1), "{report}");
    let [loss] = report.losses_before_drain.as_slice() else { panic!("{report}") };
    assert_eq!((loss.name.as_str(), loss.reason), ("bob", CloseReason::Panicked));
}
