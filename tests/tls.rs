//! What TLS adds: the handshake and everything that can go wrong with it, certificates and their
//! renewal, clients of other makers on the same port, and ours. That the promise holds over TLS as
//! it does without is the subject of `over_tls.rs`.

mod common;
#[path = "common/injection.rs"]
mod injection;
#[path = "common/netns.rs"]
mod netns;
#[path = "common/process.rs"]
mod process;

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use a_chat::client::{
    Client as LibraryClient, ConnectError, DisconnectReason, Event, Options, Tls,
};
use a_chat::{Config, Error, Name, PlainText, Server, ServerTls};
use common::link::{Link, Transport};
use common::tls::{Certificate, certificate};
use common::{Client, TEST_TIMEOUT, TestServer, skipped, wait_until};
use netns::{Network, address_of};
use process::{EXECUTABLE, Process, connect, run, serve, through};

/// A server that speaks TLS with those who do, and lets the others on this host in as well.
fn server() -> TestServer {
    with(Config::default().linger(Duration::from_millis(100)), certificate().server_tls())
}

fn with(config: Config, tls: ServerTls) -> TestServer {
    TestServer::of(Server::bind("127.0.0.1:0", config).expect("a free port").tls(tls))
}

/// A client of the rig's own, with or without TLS.
fn login(server: &TestServer, transport: Transport, name: &str) -> Client {
    let mut client = client(server.address, transport);
    client.send(&format!("{name}\n/who {name}"));
    client.expect_line(&format!("notice: line 1: here: {name}"));
    client
}

fn client(address: SocketAddr, transport: Transport) -> Client {
    let socket = TcpStream::connect(address).expect("a server");
    Client::from_stream(Link::new(socket, transport).expect("a handshake"))
}

fn name(name: &str) -> Name {
    Name::new(name).expect("a name")
}

fn trusting(certificate: &Certificate) -> Tls {
    Tls::trusting_file(certificate.certificate()).expect("a certificate")
}

#[test]
fn clients_with_and_without_tls_talk_to_each_other_on_one_port() {
    let server = server();
    let mut alice = login(&server, Transport::Tls, "alice");
    let mut bob = login(&server, Transport::Plain, "bob");
    for number in 0..100 {
        alice.send(&format!("bob, alice: {number}"));
        bob.send(&format!("alice: and {number}"));
    }
    for number in 0..100 {
        bob.expect_line(&format!("from alice: {number}"));
    }
    let received: Vec<_> = (0..200).map(|_| alice.line().expect("a message")).collect();
    let from_bob = received.iter().filter(|line| line.starts_with("from bob: and ")).count();
    assert_eq!(from_bob, 100);
    let report = server.stop_with([(alice, 101), (bob, 101)]);
    assert_eq!((report.delivered, report.lost()), (300, 0), "{report}");
}

#[test]
fn a_client_without_tls_is_told_so_where_it_has_to_encrypt() {
    let server = with(Config::default(), certificate().server_tls().plain(PlainText::Refused));
    let mut nc = Client::from_stream(Link::plain(TcpStream::connect(server.address).expect("one")));
    nc.send("alice");
    nc.expect_line("error: not encrypted, this server expects TLS");
    nc.expect_eof();
    drop(nc);
    let alice = login(&server, Transport::Tls, "alice");
    let report = server.stop_with([(alice, 1)]);
    assert_eq!((report.connections, report.accepted), (2, 1), "{report}");
}

/// Which clients without TLS are served, of those that send this before their name.
#[cfg(feature = "proxy")]
fn is_served_without_tls(plain: PlainText, proxies: &[&str], header: &str) -> bool {
    let proxies = proxies.iter().map(|range| range.parse().expect("a range"));
    let config = Config::default().linger(Duration::from_millis(100)).proxy_from(proxies);
    let server = with(config, certificate().server_tls().plain(plain));
    let mut nc = Client::from_stream(Link::plain(TcpStream::connect(server.address).expect("one")));
    nc.send_bytes(header.as_bytes());
    nc.send("alice\n/who alice");
    let said = nc.line().expect("an answer");
    let is_served = said == "notice: line 1: here: alice";
    assert!(is_served || said == "error: not encrypted, this server expects TLS", "{said}");
    server.handle.force();
    is_served
}

/// Whoever can claim an address must not gain by claiming one of the loopback, and whoever comes
/// through a proxy must not lose by having another.
#[cfg(feature = "proxy")]
#[test]
fn whether_a_client_must_encrypt_depends_on_the_sockets_peer_and_on_no_header() {
    const REMOTE: &str = "PROXY TCP4 203.0.113.7 192.0.2.1 56324 8080\r\n";
    const ITSELF: &str = "PROXY UNKNOWN\r\n";
    for (plain, proxies, header, is_served) in [
        (PlainText::FromLoopback, &[][..], "", true),
        (PlainText::FromLoopback, &["127.0.0.1"][..], REMOTE, true),
        (PlainText::FromLoopback, &["127.0.0.1"][..], ITSELF, true),
        // A listed proxy is the operator's.
        (PlainText::Refused, &["127.0.0.1"][..], REMOTE, true),
        (PlainText::Refused, &["127.0.0.1"][..], ITSELF, true),
        (PlainText::Refused, &["192.0.2.7"][..], "", false),
        (PlainText::Refused, &[][..], "", false),
        (PlainText::Accepted, &[][..], "", true),
    ] {
        let served = is_served_without_tls(plain, proxies, header);
        assert_eq!(served, is_served, "{plain:?} with {proxies:?} and {header:?}");
    }
}

#[cfg(feature = "proxy")]
#[test]
fn a_client_behind_a_proxy_may_speak_tls_through_it() {
    let proxies = ["127.0.0.1".parse().expect("a range")];
    let server = with(Config::default().proxy_from(proxies), certificate().server_tls());
    let socket = TcpStream::connect(server.address).expect("a server");
    (&socket).write_all(b"PROXY TCP4 203.0.113.7 192.0.2.1 56324 8080\r\n").expect("a server");
    let mut alice =
        Client::from_stream(Link::new(socket, Transport::Tls).expect("a handshake after it"));
    alice.send("alice\n/who alice");
    alice.expect_line("notice: line 1: here: alice");
    server.stop_with([(alice, 1)]);
}

#[test]
fn bytes_that_come_one_by_one_make_a_handshake_and_lines() {
    let server = server();
    let mut socket = TcpStream::connect(server.address).expect("a server");
    socket.set_nodelay(true).expect("an option");
    socket.set_read_timeout(Some(TEST_TIMEOUT)).expect("a timeout");
    let mut rustls = certificate().rustls();
    rustls.writer().write_all(b"alice\nalice: in pieces\n").expect("memory");
    let mut text = Vec::new();
    while !text.ends_with(b"from alice: in pieces\n") {
        if rustls.wants_write() {
            let mut bytes = Vec::new();
            rustls.write_tls(&mut bytes).expect("memory");
            for byte in bytes {
                socket.write_all(&[byte]).expect("a server that reads");
            }
        } else {
            assert!(rustls.read_tls(&mut socket).expect("an open connection") > 0);
        }
        rustls.process_new_packets().expect("good records");
        let _ = rustls.reader().read_to_end(&mut text);
    }
    drop(socket);
    assert_eq!(server.stop().accepted, 1);
}

/// What a client sends first.
fn client_hello() -> Vec<u8> {
    let mut hello = Vec::new();
    certificate().rustls().write_tls(&mut hello).expect("memory");
    hello
}

#[test]
fn a_handshake_that_stalls_at_any_byte_is_over_in_time() {
    // Long enough for the first byte to be there: a client without any is told off in plain text.
    let config =
        Config::default().login_timeout(Duration::from_secs(3)).linger(Duration::from_millis(10));
    let server = with(config, certificate().server_tls());
    let hello = client_hello();
    let steps = [1, 2, 5, 6, 40, 100, 127, 128, 129, hello.len() - 1];
    let stalled_at = |length: usize| {
        let mut socket = TcpStream::connect(server.address).expect("a server");
        socket.write_all(&hello[..length]).expect("a server");
        socket.set_read_timeout(Some(TEST_TIMEOUT)).expect("a timeout");
        socket
    };
    // All of them wait at the same time.
    let stalled = steps.map(stalled_at);
    let mut whole = stalled_at(hello.len());
    for mut socket in stalled {
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).expect("a clean end");
        assert_eq!(answer, b"", "nothing is sent without TLS to a client that speaks it");
    }
    // After the whole hello, the server's answer comes, and then the end.
    let mut answer = Vec::new();
    whole.read_to_end(&mut answer).expect("a clean end");
    assert_eq!(answer[0], 0x16);
    assert_eq!(server.stop().connections, 11);
}

#[test]
fn a_stop_in_the_last_flight_of_a_handshake_ends_with_a_close_notify() {
    let server = with(Config::default(), certificate().server_tls());
    let mut socket = TcpStream::connect(server.address).expect("a server");
    socket.set_read_timeout(Some(TEST_TIMEOUT)).expect("a timeout");
    let mut rustls = certificate().rustls();
    rustls.write_tls(&mut socket).expect("a server");
    // The server has answered, and waits for the last flight, which is ready and stays here.
    while rustls.is_handshaking() {
        assert!(rustls.read_tls(&mut socket).expect("an open connection") > 0);
        rustls.process_new_packets().expect("good records");
    }
    server.handle.shutdown();
    let mut text = Vec::new();
    while rustls.read_tls(&mut socket).expect("no reset") > 0 {
        rustls.process_new_packets().expect("good records");
    }
    // An end without a close_notify would be an error here.
    rustls.reader().read_to_end(&mut text).expect("an end that the server vouches for");
    assert_eq!(text, b"");
    drop(socket);
    let report = server.stop();
    assert!(!report.forced && report.accepted == 0, "{report}");
}

#[test]
fn garbage_and_a_thousand_broken_off_handshakes_leave_nothing_behind() {
    let server = server();
    let threads = common::thread_count();
    let hello = client_hello();
    for number in 0..1000 {
        let mut socket = TcpStream::connect(server.address).expect("a server");
        let cut = number % hello.len();
        let garbage: Vec<_> = std::iter::once(0x16).chain(std::iter::repeat_n(0x42, cut)).collect();
        let bytes = if number % 2 == 0 { &hello[..cut] } else { &garbage };
        // The server may have closed already.
        let _ = socket.write_all(bytes);
        if number % 3 == 0 {
            let linger = Some(Duration::ZERO);
            socket2::SockRef::from(&socket).set_linger(linger).expect("an option");
        }
    }
    wait_until("all threads to end", || common::thread_count() <= threads);
    let alice = login(&server, Transport::Tls, "alice");
    server.stop_with([(alice, 1)]);
}

#[test]
fn a_client_of_another_protocol_is_refused() {
    let server = server();
    let mut config = rustls::ClientConfig::clone(&certificate().client_config());
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let name = "localhost".try_into().expect("a name");
    let mut rustls = rustls::ClientConnection::new(Arc::new(config), name).expect("a session");
    let mut socket = TcpStream::connect(server.address).expect("a server");
    let error = rustls.complete_io(&mut socket).expect_err("no handshake").to_string();
    assert!(error.contains("NoApplicationProtocol"), "{error}");
    drop(socket);
    server.stop();
}

#[test]
fn a_recipient_that_stops_reading_after_many_short_lines_is_evicted_as_soon_as_without_tls() {
    let time_until_eviction = |transport| {
        let config =
            Config::default().stall_timeout(Duration::from_secs(1)).stall_bytes(256 * 1024);
        let server = with(config, certificate().server_tls());
        let mut alice = login(&server, Transport::Plain, "alice");
        let mut bob = login(&server, transport, "bob");
        // Each in a record of its own, whose overhead must not count as progress later.
        for number in 0..20_000 {
            alice.send(&format!("bob: {number}"));
            bob.expect_line(&format!("from alice: {number}"));
        }
        let began = Instant::now();
        let sender = thread::spawn(move || {
            let lines = format!("bob: {}\n", "x".repeat(1000)).repeat(100);
            while (&alice.stream).write_all(lines.as_bytes()).is_ok() {}
        });
        wait_until("the eviction", || server.stats().evicted == 1);
        let elapsed = began.elapsed();
        server.handle.force();
        let report = server.stop();
        sender.join().expect("no panic");
        assert!(report.lost() > 0, "{report}");
        drop(bob);
        elapsed
    };
    let [plain, tls] = [Transport::Plain, Transport::Tls].map(time_until_eviction);
    assert!(tls < 2 * plain + Duration::from_secs(2), "{tls:?} and {plain:?} without TLS");
}

/// Of a record that is there in part a client can read nothing, and what it cannot read is not
/// delivered; also while somebody asks about it, and its writer looks again and again.
#[test]
fn a_record_that_has_arrived_in_part_counts_as_lost_even_if_a_sync_waits_for_it() {
    const COUNT: usize = 60;
    let server = with(
        Config::default().stall_timeout(TEST_TIMEOUT).drain_timeout(TEST_TIMEOUT),
        certificate().server_tls(),
    );
    // It does not read, and its kernel takes a part of the first record.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
    let socket = socket.expect("a descriptor");
    socket.set_recv_buffer_size(4096).expect("an option");
    socket.connect(&server.address.into()).expect("a server");
    let mut bob = Client::from_stream(Link::new(socket.into(), Transport::Tls).expect("TLS"));
    bob.send("bob\n/who bob");
    bob.expect_line("notice: line 1: here: bob");
    let mut alice = login(&server, Transport::Plain, "alice");
    // Less than the server's kernel holds, so bob's writer has nothing left to write.
    alice.send_bytes(format!("bob: {}\n", "x".repeat(1000)).repeat(COUNT).as_bytes());
    alice.send("alice: all is routed");
    alice.expect_line("from alice: all is routed");
    wait_until("bob's queue to be written", || server.stats().queued_bytes == 0);
    alice.send("/sync 1");
    // The question is charged until it is answered.
    wait_until("the question", || server.stats().queued_bytes > 0);
    bob.half_close();
    let asked = COUNT + 3;
    alice.expect_line(&format!(
        "error: line {asked}: not everything before it is delivered after 1 s"
    ));
    server.handle.force();
    let report = server.stop();
    let received = common::read_to_end(&bob.stream);
    let received = received.split(|byte| *byte == b'\n').count() as u64 - 1;
    // One of them is alice's to herself.
    assert_eq!(report.owed, COUNT as u64 + 1, "{report}");
    assert!(received < COUNT as u64, "everything was received");
    assert_eq!(report.delivered, received + 1, "{report}");
}

#[test]
fn new_keys_in_the_middle_of_a_flood_lose_nothing() {
    let server = server();
    let mut bob = login(&server, Transport::Tls, "bob");
    let alice = login(&server, Transport::Tls, "alice");
    let sender = thread::spawn(move || {
        let mut alice = alice;
        for number in 0..3000 {
            if number % 10 == 0 {
                alice.stream.tls().expect("TLS").refresh_keys();
            }
            alice.send(&format!("bob: {number}"));
        }
        alice
    });
    for number in 0..3000 {
        if number % 7 == 0 {
            // An answer of the server's is due, while it writes; nothing is read for it here.
            bob.stream.tls().expect("TLS").refresh_keys();
            bob.send("");
        }
        bob.expect_line(&format!("from alice: {number}"));
    }
    let alice = sender.join().expect("no panic");
    for client in [&alice, &bob] {
        let has_arrived = || common::unacknowledged(&client.stream) == 0;
        wait_until("the server's kernel to have every line", has_arrived);
    }
    let empty_lines = 3000_u64.div_ceil(7);
    server.stop_with([(alice, 3001), (bob, 1 + empty_lines)]);
}

#[test]
fn a_client_that_only_asks_for_new_keys_and_never_reads_holds_nobody_up() {
    let server = server();
    let (alice, mut carol) =
        (login(&server, Transport::Tls, "alice"), login(&server, Transport::Plain, "carol"));
    let tls = alice.stream.tls().expect("TLS");
    for _ in 0..10_000 {
        tls.refresh_keys();
        (&alice.stream).write_all(b"\n").expect("a server that reads");
    }
    carol.send("carol: still here");
    carol.expect_line("from carol: still here");
    let mut alice = alice;
    alice.send("/who alice");
    alice.expect_line("notice: line 10002: here: alice");
    server.stop_with([(alice, 10_002), (carol, 2)]);
}

#[test]
fn an_end_with_and_one_without_a_close_notify_mean_the_same() {
    for says_so in [true, false] {
        let server = server();
        let (mut alice, mut bob) =
            (login(&server, Transport::Tls, "alice"), login(&server, Transport::Plain, "bob"));
        bob.send("alice: before");
        alice.expect_line("from bob: before");
        alice.send("alice: still due");
        if says_so {
            alice.half_close();
        } else {
            let socket: &TcpStream = alice.stream.tcp();
            socket.shutdown(Shutdown::Write).expect("an open connection");
        }
        alice.expect_line("from alice: still due");
        // The rig takes an end without close_notify for an error.
        alice.expect_eof();
        let report = server.stop_with([(bob, 2)]);
        assert_eq!((report.accepted, report.lost()), (4, 0), "{report}");
    }
}

#[test]
fn what_follows_a_close_notify_is_ignored_and_costs_nothing() {
    let server = server();
    let mut alice = login(&server, Transport::Tls, "alice");
    alice.stream.tls().expect("TLS").finish(alice.stream.tcp()).expect("a server that reads");
    let mut socket: &TcpStream = alice.stream.tcp();
    // Until the server closes, of which it need not read anything.
    let _ = socket.write_all(&vec![0x16; 1 << 20]);
    let _ = alice.drain();
    wait_until("the end", || server.stats().connected == 0);
    server.stop();
}

#[test]
fn a_pair_is_renewed_without_a_restart_and_a_mismatch_changes_nothing() {
    let (shown, other) = (Certificate::new(), Certificate::new());
    let server = with(Config::default(), shown.server_tls());
    let options = |certificate: &Certificate, who: &str| {
        Options::new(&name(who)).tls(trusting(certificate).server_name("localhost"))
    };
    let old = trusting(&shown).server_name("localhost");
    let mut before = Options::new(&name("before")).tls(old.clone()).connect(server.address);
    let before = before.as_mut().expect("a good certificate");
    // Halfway: the new certificate with the old key.
    std::fs::copy(other.certificate(), shown.certificate()).expect("copied");
    for number in 0..20 {
        let client = Options::new(&name(&format!("old{number}"))).tls(old.clone());
        client.connect(server.address).expect("the old pair is still in force").half_close();
        thread::yield_now();
    }
    shown.renew_from(&other);
    wait_until("the new certificate", || options(&other, "new").connect(server.address).is_ok());
    // Who was connected stays.
    before.send("before: still here").expect("an open connection");
    assert!(matches!(before.recv().expect("an event"), Event::Message { .. }));
    server.stop();
}

#[test]
fn a_key_that_everyone_can_read_or_that_belongs_to_another_is_refused() {
    let (one, other) = (Certificate::new(), Certificate::new());
    let mismatch = ServerTls::from_pem_files(one.certificate(), other.key());
    let Err(Error::Tls(problem)) = mismatch else { panic!("{mismatch:?}") };
    assert!(problem.contains("the private key does not belong to the certificate"), "{problem}");
    let exposed = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(one.key(), exposed).expect("a mode");
    let readable = ServerTls::from_pem_files(one.certificate(), one.key());
    let Err(Error::Tls(problem)) = readable else { panic!("{readable:?}") };
    assert!(problem.contains("others can read it (mode 644)"), "{problem}");
}

/// The error of a client that cannot connect, with its cause.
fn refusal(connected: Result<LibraryClient, ConnectError>) -> (String, bool) {
    let error = connected.expect_err("it must not connect");
    let source = std::error::Error::source(&error).expect("a cause").to_string();
    (source, error.is_temporary())
}

#[test]
fn the_librarys_client_talks_tls_and_learns_what_was_accepted() {
    let server = server();
    let tls = trusting(certificate()).server_name("localhost");
    let mut alice = Options::new(&name("alice")).tls(tls).connect(server.address).expect("a login");
    let text = "x".repeat(60_000);
    for _ in 0..100 {
        alice.send(format!("alice: {text}")).expect("room");
        let Event::Message { text: received, .. } = alice.recv().expect("an event") else {
            panic!("no message")
        };
        assert_eq!(received, text);
    }
    alice.half_close();
    let outcome = alice.finish(None);
    assert!(matches!(outcome.reason, DisconnectReason::Left), "{outcome:?}");
    assert_eq!((outcome.accepted, outcome.unaccepted.len()), (100, 0));
    server.stop();
}

#[test]
fn a_certificate_that_is_not_accepted_says_why_and_what_would_help() {
    let server = server();
    let connect = |tls| refusal(Options::new(&name("alice")).tls(tls).connect(server.address));
    let (cause, is_temporary) = connect(trusting(&Certificate::new()).server_name("localhost"));
    assert!(cause.contains("no authority that is trusted here") && cause.contains("--ca FILE"));
    assert!(!is_temporary);
    let (cause, _) = connect(trusting(certificate()).server_name("chat.example.org"));
    assert!(cause.contains("it is not for chat.example.org (--server-name NAME"), "{cause}");
    // Without a name, the address counts.
    let tls = trusting(certificate());
    drop(Options::new(&name("bob")).tls(tls).connect(server.address).expect("127.0.0.1 is in it"));
    server.stop();
}

#[test]
fn an_authoritys_own_certificate_is_refused_with_the_way_to_make_a_servers() {
    let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).expect("a name");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().expect("a key");
    let made = params.self_signed(&key).expect("a certificate");
    let files = Certificate::new();
    std::fs::write(files.certificate(), made.pem()).expect("written");
    std::fs::write(files.key(), key.serialize_pem()).expect("written");
    let server = with(Config::default(), files.server_tls());
    let tls = trusting(&files).server_name("localhost");
    let (cause, _) = refusal(Options::new(&name("alice")).tls(tls).connect(server.address));
    assert!(cause.contains("basicConstraints=critical,CA:FALSE"), "{cause}");
    server.stop();
}

#[test]
fn an_expired_certificate_is_called_expired() {
    let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).expect("a name");
    params.not_after = rcgen::date_time_ymd(2001, 1, 1);
    params.not_before = rcgen::date_time_ymd(2000, 1, 1);
    let key = rcgen::KeyPair::generate().expect("a key");
    let made = params.self_signed(&key).expect("a certificate");
    let files = Certificate::new();
    std::fs::write(files.certificate(), made.pem()).expect("written");
    std::fs::write(files.key(), key.serialize_pem()).expect("written");
    let server = with(Config::default(), files.server_tls());
    let tls = trusting(&files).server_name("localhost");
    let (cause, _) = refusal(Options::new(&name("alice")).tls(tls).connect(server.address));
    assert!(cause.contains("it has expired"), "{cause}");
    server.stop();
}

#[test]
fn a_refusal_without_tls_is_shown_as_such_and_is_temporary_if_its_cause_is() {
    let server = with(Config::default().max_connections(1), certificate().server_tls());
    let alice = login(&server, Transport::Tls, "alice");
    let tls = trusting(certificate()).server_name("localhost");
    let full = Options::new(&name("bob")).tls(tls.clone()).connect(server.address);
    let full = refusal(full);
    assert_eq!(full, ("it said, unencrypted: \"error: server is full\"".to_owned(), true));
    server.stop_with([(alice, 1)]);
    // A server without TLS takes the handshake for a name.
    let plain = TestServer::start();
    let (cause, is_temporary) = refusal(Options::new(&name("bob")).tls(tls).connect(plain.address));
    assert!(cause.contains("unencrypted: \"error: bad name"), "{cause}");
    assert!(cause.ends_with("it may not speak TLS") && !is_temporary, "{cause}");
    plain.stop();
}

#[test]
fn an_end_that_nobody_vouches_for_is_a_lost_connection() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    let relay = server();
    let to = relay.address;
    // Someone on the way who passes everything on, and then ends the connection.
    let (cut, is_cut) = crossbeam_channel::bounded::<()>(0);
    let middle = thread::spawn(move || {
        let (client, _) = listener.accept().expect("a client");
        let server = TcpStream::connect(to).expect("a server");
        let copy = |mut from: TcpStream, mut to: TcpStream| {
            thread::spawn(move || io::copy(&mut from, &mut to))
        };
        let clone = |socket: &TcpStream| socket.try_clone().expect("a descriptor");
        copy(clone(&client), clone(&server));
        copy(clone(&server), clone(&client));
        let _ = is_cut.recv();
        client.shutdown(Shutdown::Write).expect("an open connection");
        let _ = server.shutdown(Shutdown::Both);
    });
    let tls = trusting(certificate()).server_name("localhost");
    let mut alice = Options::new(&name("alice")).tls(tls).connect(address).expect("a login");
    drop(cut);
    assert!(alice.recv().is_err());
    let reason = alice.finish(Some(TEST_TIMEOUT)).reason;
    assert!(matches!(reason, DisconnectReason::Lost(Some(_))), "{reason:?}");
    middle.join().expect("no panic");
    relay.stop();
}

/// The executable with the tests' certificate.
fn serve_tls(flags: &[&str]) -> Process {
    let (cert, key) = (certificate().certificate(), certificate().key());
    let mut command = serve(flags);
    command.arg("--tls-cert").arg(cert).arg("--tls-key").arg(key);
    Process::start(command)
}

#[test]
fn connect_sends_and_receives_over_tls_and_goes_on_after_a_restart() {
    let mut server = serve_tls(&["--plain", "no"]);
    let address = server.address();
    let ca = certificate().certificate();
    let ca = ca.to_str().expect("UTF-8");
    let mut alice =
        Process::start(connect(address, &["--name", "alice", "--tls", "--ca", ca, "--reconnect"]));
    alice.write("alice: one\n");
    alice.stdout.expect_line("from alice: one");
    let (status, _) = server.terminate();
    assert_eq!(status, 0);
    alice.write("alice: two\n");
    let (cert, key) = (certificate().certificate(), certificate().key());
    let mut command = process::executable();
    command.args(["serve", "--listen", &address.to_string()]);
    command.arg("--tls-cert").arg(cert).arg("--tls-key").arg(key);
    let server = Process::start(command);
    alice.stdout.expect("from alice: two");
    alice.stdin = None;
    let (status, log) = alice.wait();
    assert_eq!(status, 0, "{log:#?}");
    assert_eq!(server.terminate().0, 0);
}

#[test]
fn connect_says_what_would_help_in_one_line() {
    let mut server = serve_tls(&[]);
    let address = server.address();
    let other = Certificate::new();
    let other = other.certificate();
    let ca = ["--name", "alice", "--tls", "--ca", other.to_str().expect("UTF-8")];
    let (status, _, errors) = run(connect(address, &ca));
    assert_eq!(status, 1);
    assert_eq!(
        errors,
        [format!(
            "a-chat: cannot connect to {address} with TLS: its certificate is not accepted: no \
             authority that is trusted here has signed it (--ca FILE trusts another)"
        )]
    );
    server.terminate();
}

#[test]
fn a_certificate_without_its_key_is_refused_naming_the_flag() {
    let mut command = serve(&["--tls-cert", "x.pem"]);
    command.stdout(Stdio::null());
    let (status, _, errors) = run(command);
    assert_eq!(status, 2);
    assert!(errors[0].contains("'--tls-cert' needs '--tls-key <FILE>'"), "{errors:#?}");
    let mut command = serve(&[]);
    command.env("A_CHAT_TLS_KEY", "x.pem");
    let (status, _, errors) = run(command);
    assert_eq!((status, errors[0].contains("'--tls-key' needs")), (2, true), "{errors:#?}");
}

/// A tool, if it is installed.
fn tool(name: &str) -> Option<Command> {
    let found = Command::new("sh").args(["-c", &format!("command -v {name}")]).output();
    if !found.is_ok_and(|found| found.status.success()) {
        skipped(&format!("{name} is not installed"));
        return None;
    }
    let mut command = Command::new(name);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Some(command)
}

/// A tool logs in as alice, and bob without TLS on the same port: each gets the other's line, the
/// tool what is due to it at the end.
fn talk_with(mut command: Command, closes: bool, at: impl FnOnce(&mut Command, SocketAddr)) {
    let mut server = serve_tls(&[]);
    let address = server.address();
    at(&mut command, address);
    let mut alice = Process::start(command);
    let mut bob = Client::from_stream(Link::plain(TcpStream::connect(address).expect("a server")));
    // She cannot send to him before he is in.
    bob.send("bob\n/who bob");
    bob.expect_line("notice: line 1: here: bob");
    alice.write("alice\n/who alice\n");
    alice.stdout.expect("notice: line 1: here: alice");
    alice.write("bob: over TLS\n");
    bob.expect_line("from alice: over TLS");
    bob.send("alice: without");
    alice.stdout.expect_line("from bob: without");
    if closes {
        alice.stdin = None;
        let _ = alice.wait_for_any_end();
    } else {
        server.signal(rustix::process::Signal::TERM);
        alice.stdout.expect_line("notice: server is shutting down, 2 of your lines were accepted");
        bob.expect_line("notice: server is shutting down, 2 of your lines were accepted");
        drop((alice, bob));
        assert_eq!(server.wait().0, 0);
        return;
    }
    bob.leave();
    assert_eq!(server.terminate().0, 0);
}

#[test]
fn openssl_s_client_and_nc_share_a_port() {
    for closes in [true, false] {
        let Some(command) = tool("openssl") else { return };
        let connect = |command: &mut Command, address: SocketAddr| {
            command.args(["s_client", "-quiet", "-verify_quiet", "-connect", &address.to_string()]);
            command.arg("-CAfile").arg(certificate().certificate()).arg("-verify_return_error");
            if closes {
                // Otherwise it stays when its input ends.
                command.arg("-no_ign_eof");
            }
        };
        talk_with(command, closes, connect);
    }
}

#[test]
fn openssl_gets_nothing_below_tls_1_3() {
    let Some(mut command) = tool("openssl") else { return };
    let mut server = serve_tls(&[]);
    command.args(["s_client", "-tls1_2", "-connect", &server.address().to_string()]);
    command.stdin(Stdio::null());
    let (status, _, errors) = run(command);
    assert!(status != 0 && errors.join("\n").contains("protocol version"), "{errors:#?}");
    server.terminate();
}

#[test]
fn socat_gets_what_is_due_after_the_end_of_its_input() {
    for closes in [true, false] {
        let Some(command) = tool("socat") else { return };
        let connect = |command: &mut Command, address: SocketAddr| {
            let ca = certificate().certificate();
            let address = format!("OPENSSL:{address},cafile={}", ca.display());
            command.args(["-t", "30", "-", &address]);
        };
        talk_with(command, closes, connect);
    }
}

#[test]
fn ncat_gets_what_is_due_after_the_end_of_its_input() {
    for closes in [true, false] {
        let Some(command) = tool("ncat") else { return };
        let connect = |command: &mut Command, address: SocketAddr| {
            command.args(["--ssl", "127.0.0.1", &address.port().to_string()]);
        };
        talk_with(command, closes, connect);
    }
}

#[test]
fn testssl_finds_no_weak_protocol_or_cipher() {
    let Some(mut command) = tool("testssl") else { return };
    let mut server = serve_tls(&[]);
    let address = server.address();
    let folder = tempfile::tempdir().expect("a folder");
    let json = folder.path().join("found.json");
    command.args(["--quiet", "--color", "0", "-p", "-s", "-U", "--warnings", "off", "--jsonfile"]);
    command.arg(&json).arg(address.to_string()).stdin(Stdio::null());
    // A script, of some twenty seconds on a machine that does nothing else.
    let _ = Process::start(command).outcome_within(Duration::from_secs(300));
    let found = std::fs::read_to_string(json).expect("a report");
    let found: serde_json::Value = serde_json::from_str(&found).expect("JSON");
    let entries = found.as_array().expect("a list");
    let weak: Vec<_> = entries
        .iter()
        .filter(|it| {
            ["LOW", "MEDIUM", "HIGH", "CRITICAL"].map(Some).contains(&it["severity"].as_str())
        })
        .collect();
    assert!(weak.is_empty(), "{weak:#?}");
    let offered = |id: &str| {
        let entry = entries.iter().find(|it| it["id"] == id).expect("a finding");
        entry["finding"].as_str().expect("text").to_owned()
    };
    assert!(offered("TLS1_3").starts_with("offered"), "{entries:#?}");
    assert!(offered("TLS1_2").starts_with("not offered"), "{entries:#?}");
    server.terminate();
}

#[test]
fn half_a_second_of_handshakes_keeps_no_client_waiting() {
    let server = server();
    let stop = Arc::new(Mutex::new(false));
    let over = Arc::clone(&stop);
    let (address, hello) = (server.address, client_hello());
    let flood = thread::spawn(move || {
        let mut count = 0_u32;
        while !*over.lock().expect("no panic") {
            let mut socket = TcpStream::connect(address).expect("a server");
            let _ = socket.write_all(&hello);
            count += 1;
        }
        count
    });
    let began = Instant::now();
    let mut clients = Vec::new();
    while began.elapsed() < Duration::from_millis(500) {
        clients.push((login(&server, Transport::Tls, &format!("c{}", clients.len())), 1));
    }
    *stop.lock().expect("no panic") = true;
    assert!(flood.join().expect("no panic") > 0 && !clients.is_empty());
    server.stop_with(clients);
}

/// How many system calls on sockets a client without TLS causes by sending itself messages, one after
/// the other.
fn calls_of_a_client_without_tls(flags: &[&str]) -> Option<usize> {
    const MESSAGES: usize = 300;
    let trace = injection::Injection::trace_only("recvfrom,sendmsg,sendto,poll,ppoll")?;
    let launcher: Vec<_> = trace.launcher.iter().map(String::as_str).collect();
    let mut server = Process::start(process::serve_through(&launcher, flags));
    let mut alice =
        Client::from_stream(Link::plain(TcpStream::connect(server.address()).expect("a server")));
    alice.send("alice");
    let mut exchange = |count| {
        for number in 0..count {
            alice.send(&format!("alice: {number}"));
            alice.expect_line(&format!("from alice: {number}"));
        }
    };
    exchange(10);
    let before = trace.calls().len();
    exchange(MESSAGES);
    let calls = trace.calls().len() - before;
    drop(alice);
    server.terminate();
    Some(calls)
}

#[test]
fn a_client_without_tls_causes_no_more_system_calls_where_others_have_it() {
    let Some(without) = calls_of_a_client_without_tls(&[]) else { return };
    let (cert, key) = (certificate().certificate(), certificate().key());
    let path = |path: &std::path::Path| path.to_str().expect("UTF-8").to_owned();
    let (cert, key) = (path(&cert), path(&key));
    let flags = ["--tls-cert", &cert, "--tls-key", &key];
    let with = calls_of_a_client_without_tls(&flags).expect("it can be traced");
    // Four a message: receive, send, and two waits, one of which may find more already.
    assert!(with.abs_diff(without) <= 30 && without < 4 * 300 + 100, "{with} and {without}");
}

/// A server with TLS on a host of its own, and one for a client; the address to connect to.
fn remote(flags: &[&str]) -> Option<(Process, SocketAddr, Network)> {
    let network = Network::new(1)?;
    let mut command = through(&network.server.launcher(), EXECUTABLE);
    command.args(["serve", "--listen", "0.0.0.0:0"]).args(flags);
    command.arg("--tls-cert").arg(certificate().certificate());
    command.arg("--tls-key").arg(certificate().key());
    let mut server = Process::start(command);
    let address = format!("{}:{}", address_of(0), server.address().port());
    Some((server, address.parse().expect("an address"), network))
}

#[cfg(feature = "users")]
#[test]
fn handshakes_that_fail_get_an_address_refused_but_not_while_somebody_is_logged_in() {
    for has_users in [false, true] {
        let folder = tempfile::tempdir().expect("a folder");
        let users = folder.path().join("users");
        std::fs::write(&users, "").expect("written");
        let mut flags = vec!["--failed-logins", "3/10min", "--plain", "no"];
        if has_users {
            flags.extend(["--users", users.to_str().expect("UTF-8"), "--guests", "yes"]);
        }
        let Some((mut server, address, network)) = remote(&flags) else { return };
        let break_off = |count: u32| {
            for _ in 0..count {
                let mut socket = TcpStream::connect(address).expect("a server");
                socket.write_all(&[0x16, 3, 1, 0, 4, 9, 9, 9, 9]).expect("a server");
                socket.set_read_timeout(Some(TEST_TIMEOUT)).expect("a timeout");
                let mut answer = Vec::new();
                // The alert, or what the next one is told.
                let _ = socket.read_to_end(&mut answer);
            }
        };
        network.clients[0].run(|| {
            let mut alice = client(address, Transport::Tls);
            alice.send("alice\n/who alice");
            alice.expect_line("notice: line 1: here: alice");
            break_off(5);
            // Others from there are let in.
            drop(client(address, Transport::Tls));
            alice.half_close();
            alice.expect_eof();
        });
        server.log.expect("10.77.0.2 has failed to log in 3 times, not refused since");
        server.log.expect("alice disconnected");
        network.clients[0].run(|| {
            let refused = || {
                let socket = TcpStream::connect(address).expect("a server");
                let mut refused = Client::from_stream(Link::plain(socket));
                refused.line().expect("a refusal")
            };
            wait_until("the refusal", || {
                refused().starts_with("error: too many failed logins from your address")
            });
        });
        let (_, log) = server.terminate();
        let lines = log.iter().filter(|line| line.contains("has failed to log in")).count();
        assert_eq!(lines, 1, "one line for each period: {log:#?}");
    }
}

#[cfg(feature = "users")]
#[test]
fn a_token_over_tls_is_no_reason_for_a_warning() {
    let folder = tempfile::tempdir().expect("a folder");
    let users = folder.path().join("users");
    let token = a_chat::Token::generate().expect("random numbers");
    std::fs::write(&users, format!("alice {}\n", token.hash())).expect("written");
    let flags = ["--users", users.to_str().expect("UTF-8"), "--plain", "yes"];
    let Some((server, address, network)) = remote(&flags) else { return };
    let log_in = |transport| {
        network.clients[0].run(|| {
            let mut alice = client(address, transport);
            alice.send(&format!("alice {}\n/who alice", token.expose()));
            alice.expect_line("notice: line 1: here: alice");
            alice.half_close();
            alice.expect_eof();
        });
    };
    log_in(Transport::Tls);
    log_in(Transport::Plain);
    let (_, log) = server.terminate();
    let warned: Vec<_> = log.iter().filter(|line| line.contains("the token of alice")).collect();
    assert!(warned.len() == 1 && warned[0].contains("unencrypted, change it"), "{log:#?}");
    // Nothing is missing here: it has users, and it has TLS.
    assert!(!log.iter().any(|line| line.contains("is reachable from other hosts")), "{log:#?}");
}

#[test]
fn a_server_that_others_can_reach_says_what_it_lacks() {
    let folder = tempfile::tempdir().expect("a folder");
    let users = folder.path().join("users");
    std::fs::write(&users, "").expect("written");
    let users = users.to_str().expect("UTF-8");
    let (cert, key) = (certificate().certificate(), certificate().key());
    let tls = ["--tls-cert", cert.to_str().expect("UTF-8"), "--tls-key", key.to_str().expect("it")];
    for (listen, has_users, has_tls) in [
        ("0.0.0.0:0", false, false),
        ("0.0.0.0:0", true, false),
        ("0.0.0.0:0", false, true),
        ("0.0.0.0:0", true, true),
        ("127.0.0.1:0", false, false),
    ] {
        let mut command = process::executable();
        command.args(["serve", "--listen", listen, "--log-level", "warn"]);
        if has_users {
            command.args(["--users", users]);
        }
        if has_tls {
            command.args(tls);
        }
        let mut server = Process::start(command);
        server.address();
        let (_, log) = server.terminate();
        let is_reachable = listen != "127.0.0.1:0";
        for (flag, has) in [("(--users)", has_users), ("(--tls-cert)", has_tls)] {
            let warned = log.iter().filter(|line| line.contains(flag)).count();
            assert_eq!(warned, usize::from(is_reachable && !has), "{flag} at {listen}: {log:#?}");
        }
    }
}
