//! Behind a proxy: a PROXY header from a listed address says who the client is, for the log and for
//! the limit per address, and is believed from nobody else.
#![cfg(feature = "proxy")]

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use a_chat::{AddressRange, Config, Server};
use common::{Client, TestServer, skipped, wait_until};

fn loopback() -> [AddressRange; 1] {
    ["127.0.0.0/8".parse().expect("a range")]
}

fn config() -> Config {
    Config::default().linger(Duration::from_millis(100))
}

/// Listens on TCP only: the proxies of these tests do.
fn server(config: Config) -> TestServer {
    TestServer::of(Server::bind("127.0.0.1:0", config).expect("a free port"))
}

fn connect(address: SocketAddr) -> Client {
    Client::from_stream(TcpStream::connect(address).expect("a listening server"))
}

fn v1(client: &str) -> Vec<u8> {
    format!("PROXY TCP4 {client} 192.0.2.1 56324 8080\r\n").into_bytes()
}

/// Version 2, with this command, and a part that the server does not know.
fn v2(command: u8) -> Vec<u8> {
    let payload = [203, 0, 113, 9, 192, 0, 2, 1, 0xDC, 0x04, 0x1F, 0x90, 0xEE, 0, 2, 7, 7];
    let length = u16::try_from(payload.len()).expect("short").to_be_bytes();
    let start = b"\r\n\r\n\0\r\nQUIT\n";
    [&start[..], &[0x20 | command, 0x11], &length, &payload].concat()
}

#[test]
fn a_client_behind_a_proxy_logs_in_after_a_header_of_either_version_in_pieces_of_any_size() {
    let server = server(config().proxy_from(loopback()));
    for (number, header) in
        [v1("203.0.113.7"), v2(1), v2(0), b"PROXY UNKNOWN\r\n".to_vec()].into_iter().enumerate()
    {
        let login = format!("n{number}\n/who n{number}\n");
        let bytes = [&header, login.as_bytes()].concat();
        for size in [1, 5, bytes.len()] {
            let mut client = connect(server.address);
            for piece in bytes.chunks(size) {
                client.send_bytes(piece);
            }
            client.expect_line(&format!("notice: line 1: here: n{number}"));
            client.half_close();
            client.expect_eof();
        }
    }
    let report = server.stop();
    assert_eq!((report.connections, report.accepted), (12, 12), "{report}");
}

#[test]
fn the_limit_per_address_counts_clients_behind_a_proxy_by_their_own_address() {
    let server = server(config().proxy_from(loopback()).max_per_address(2));
    let login = |address: &str, name: &str| {
        let mut client = connect(server.address);
        client.send_bytes(&v1(address));
        client.send(&format!("{name}\n/who {name}"));
        client
    };
    let mut kept = Vec::new();
    for (address, name) in [("203.0.113.7", "a"), ("203.0.113.7", "b"), ("203.0.113.8", "c")] {
        let mut client = login(address, name);
        client.expect_line(&format!("notice: line 1: here: {name}"));
        kept.push(client);
    }
    let mut refused = login("203.0.113.7", "d");
    refused.expect_line("error: too many connections from your address");
    refused.expect_eof();
    // A proxy's own checks take no place.
    for _ in 0..5 {
        let mut check = connect(server.address);
        check.send_bytes(&v2(0));
        kept.push(check);
    }
    drop(kept.remove(0));
    wait_until("a place", || {
        let mut client = login("203.0.113.7", "e");
        let reply = client.line().expect("a reply");
        reply == "notice: line 1: here: e"
    });
}

#[test]
fn a_header_from_an_address_that_is_not_listed_is_a_bad_name() {
    let elsewhere = ["192.0.2.0/24".parse().expect("a range")];
    let server = server(config().proxy_from(elsewhere));
    for header in [v1("203.0.113.7"), v2(1), b"PROXY UNKNOWN\r\n".to_vec()] {
        let mut client = connect(server.address);
        client.send_bytes(&header);
        client.send_bytes(b"alice\n");
        client.expect_line("error: bad name, expected 1 to 32 of A-Z a-z 0-9 _ . -");
        client.expect_eof();
    }
}

#[test]
fn a_proxy_that_sends_no_header_is_told_so_at_once() {
    let server = server(config().proxy_from(loopback()));
    for start in ["alice\n", "PROXY TCP4 nonsense\r\n", "GET / HTTP/1.1\r\n"] {
        let mut client = connect(server.address);
        client.send_bytes(start.as_bytes());
        client.expect_line("error: expected a PROXY header from your address");
        client.expect_eof();
    }
}

#[test]
fn a_header_that_does_not_end_meets_the_login_timeout_and_the_shutdown() {
    let timeout = Duration::from_millis(500);
    let strict = server(config().proxy_from(loopback()).login_timeout(timeout));
    let mut client = connect(strict.address);
    client.send_bytes(b"PROXY TCP4 203.0.113.7 ");
    client.expect_line("error: login not in time");
    client.expect_eof();
    let server = server(config().proxy_from(loopback()));
    let mut client = connect(server.address);
    client.send_bytes(&v2(1)[..14]);
    wait_until("the connection", || server.stats().connections == 1);
    server.handle.shutdown();
    client.expect_line("notice: server is shutting down, 0 of your lines were accepted");
    client.expect_eof();
}

/// `HAProxy` in front of a server, killed when dropped.
struct HaProxy {
    process: Child,
    _folder: tempfile::TempDir,
}

impl Drop for HaProxy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl HaProxy {
    /// Starts it with this way to send a header; `None` if it is not installed.
    fn start(send: &str, server: SocketAddr) -> Option<(Self, SocketAddr)> {
        let folder = tempfile::tempdir().expect("a folder");
        let free = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("one");
        let settings = format!(
            "defaults\n  mode tcp\n  timeout connect 10s\n  timeout client 60s\n  \
             timeout server 60s\nlisten chat\n  bind {free}\n  \
             server chat {server} {send} check inter 50ms\n"
        );
        let path = folder.path().join("haproxy.cfg");
        std::fs::write(&path, settings).expect("a file");
        let mut command = Command::new("haproxy");
        command.arg("-db").arg("-f").arg(path).stdout(Stdio::null()).stderr(Stdio::null());
        let proxy = Self { process: command.spawn().ok()?, _folder: folder };
        wait_until("HAProxy", || TcpStream::connect(free).is_ok());
        Some((proxy, free))
    }
}

#[test]
fn haproxy_in_front_passes_clients_on_with_their_addresses() {
    for send in ["send-proxy", "send-proxy-v2"] {
        let server = server(config().proxy_from(loopback()).max_per_address(1));
        let Some((_proxy, front)) = HaProxy::start(send, server.address) else {
            return skipped("haproxy is not installed");
        };
        let from = |last: u8| {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
            let socket = socket.expect("a descriptor");
            let local = SocketAddr::from(([127, 0, 7, last], 0));
            socket.bind(&local.into()).expect("an address of the loopback");
            socket.connect(&front.into()).expect("HAProxy");
            Client::from_stream(TcpStream::from(socket))
        };
        let (mut alice, mut bob) = (from(1), from(2));
        for (client, name) in [(&mut alice, "alice"), (&mut bob, "bob")] {
            client.send(&format!("{name}\n/who {name}"));
            client.expect_line(&format!("notice: line 1: here: {name}"));
        }
        let mut again = from(1);
        again.send("carol");
        again.expect_line("error: too many connections from your address");
        alice.send("bob: hello");
        bob.expect_line("from alice: hello");
        server.handle.shutdown();
        for (client, accepted) in [(&mut alice, 2), (&mut bob, 1)] {
            client.expect_line(&format!(
                "notice: server is shutting down, {accepted} of your lines were accepted"
            ));
            let mut rest = Vec::new();
            client.stream.read_to_end(&mut rest).expect("an end");
            let _ = client.stream.flush();
        }
        assert_eq!(server.stop().lost(), 0);
    }
}
