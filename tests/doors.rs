//! Several ways into one server: addresses and Unix sockets, in one process and as an executable, at
//! its start, its restart and its end.

mod common;
#[path = "common/process.rs"]
mod process;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use a_chat::client::{Client as LibraryClient, Event, Options};
use a_chat::{Config, Endpoint, Error, Listener, Name, Server, UnixOptions};
use common::{Client, TestServer, wait_until};
use process::{Process, executable, run};
use rustix::process::Signal;

fn unix_client(path: &Path) -> Client {
    Client::from_stream(UnixStream::connect(path).expect("a listening server"))
}

fn listeners(path: &Path) -> Vec<Listener> {
    let mut listeners = Listener::bind_tcp(["127.0.0.1:0", "127.0.0.2:0"]).expect("free ports");
    listeners.push(Listener::bind_unix(path, UnixOptions::default()).expect("a free path"));
    listeners
}

#[test]
fn clients_of_every_door_meet_and_the_drain_reaches_all_of_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("chat.sock");
    let server = Server::from_listeners(listeners(&path), Config::default()).expect("a server");
    let endpoints = server.endpoints().to_vec();
    let [first, second] = server.local_addrs() else { panic!("two addresses: {endpoints:?}") };
    assert_eq!(endpoints, [(*first).into(), (*second).into(), Endpoint::Unix(path.clone())]);
    let (first, second) = (*first, *second);
    let server = TestServer::of(server);
    let connect = |address| std::net::TcpStream::connect(address).expect("a listening server");
    let mut clients = [
        Client::from_stream(connect(first)),
        Client::from_stream(connect(second)),
        unix_client(&path),
    ];
    for (number, client) in clients.iter_mut().enumerate() {
        client.send(&format!("c{number}\n/who c{number}"));
        client.expect_line(&format!("notice: line 1: here: c{number}"));
    }
    for from in 0..3 {
        clients[from].send("c0, c1, c2: hello");
        for client in &mut clients {
            client.expect_line(&format!("from c{from}: hello"));
        }
    }
    server.handle.shutdown();
    for client in &mut clients {
        client.expect_line("notice: server is shutting down, 2 of your lines were accepted");
        client.expect_eof();
    }
    let report = server.stop();
    assert_eq!((report.connections, report.delivered, report.lost()), (3, 9, 0), "{report}");
    assert!(!path.exists(), "the socket goes with its listener");
}

/// A Unix socket acknowledges what it takes at once, so all that was written is delivered, even of a
/// slice of many lines that was written in part.
#[test]
fn a_client_that_vanishes_in_the_middle_of_a_run_has_an_exact_account() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("chat.sock");
    let config = Config::default().linger(Duration::from_millis(100));
    let server = Server::from_listeners(listeners(&path), config).expect("a server");
    let (address, stats) = (server.local_addrs()[0], server.stats_handle());
    let server = TestServer::of(server);
    let mut bob = unix_client(&path);
    bob.send("bob\n/who bob");
    bob.expect_line("notice: line 1: here: bob");
    let alice = std::net::TcpStream::connect(address).expect("a listening server");
    let mut alice = Client::from_stream(alice);
    let line = format!("bob: {}\n", "x".repeat(100));
    alice.send_bytes(format!("alice\n{}", line.repeat(4000)).as_bytes());
    // As many as a socket holds, in the middle of a run.
    let mut before = 0;
    wait_until("a full socket", || {
        let written = std::mem::replace(&mut before, stats.read().written);
        thread::sleep(Duration::from_millis(100));
        written > 0 && written == stats.read().written
    });
    drop(bob);
    wait_until("the loss", || stats.read().lost > 0);
    // Lines that came too late for him are refused, before or after the notice.
    while !alice.line().expect("a notice").contains(" lost on the way to bob: ") {}
    drop(alice);
    let report = server.stop();
    let (stats, ends) = (stats.read(), stats.disconnects());
    let broken: Vec<_> = ends.iter().map(|(_, it)| (it.lost_unwritten, it.lost_written)).collect();
    let (unwritten, written) = broken.iter().fold((0, 0), |sum, it| (sum.0 + it.0, sum.1 + it.1));
    assert_eq!((unwritten + written, report.owed), (report.lost(), stats.owed), "{report:?}");
    assert_eq!(report.delivered + written, stats.written, "{ends:?}, {stats:?}");
    assert!(report.delivered > 0 && report.lost() > 0, "{report}");
}

#[test]
fn the_librarys_client_reaches_a_unix_socket() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("chat.sock");
    let name = Name::new("alice").expect("a name");
    let error = Options::new(&name).connect_unix(&path).expect_err("nobody listens");
    assert_eq!(error.to_string(), format!("cannot connect to unix:{}", path.display()));
    let listener = Listener::bind_unix(&path, UnixOptions::default()).expect("a free path");
    let server = Server::from_listeners([listener], Config::default()).expect("a server");
    let server = server.spawn().expect("a thread");
    let mut alice: LibraryClient = Options::new(&name).connect_unix(&path).expect("a server");
    alice.send("alice: a note").expect("room");
    let event = alice.recv().expect("the note");
    assert!(matches!(event, Event::Message { text, .. } if text == "a note"));
    drop(alice);
    assert_eq!(server.stop().expect("no error").lost(), 0);
}

#[test]
fn a_server_without_a_listener_is_an_error() {
    let error = Server::from_listeners([], Config::default()).expect_err("no listener");
    assert!(matches!(error, Error::Config(_)), "{error}");
}

/// A server on a Unix socket; the text for it.
fn serve(path: &Path, flags: &[&str]) -> (Process, String) {
    let socket = format!("unix:{}", path.display());
    let mut command = executable();
    command.args(["serve", "--listen", &socket]).args(flags);
    let mut process = Process::start(command);
    assert_eq!(process.stdout.expect("a-chat listens on "), format!("a-chat listens on {socket}"));
    (process, socket)
}

fn output(command: Command) -> (i32, String, String) {
    let (status, stdout, stderr) = run(command);
    (status, stdout.join("\n"), stderr.join("\n"))
}

#[test]
fn the_executable_serves_and_connects_over_a_unix_socket_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("chat.sock");
    let (server, socket) = serve(&path, &["--unix-mode", "600"]);
    assert_eq!(fs::metadata(&path).expect("a socket").permissions().mode() & 0o777, 0o600);
    let mut bob = unix_client(&path);
    bob.send("bob\n/who bob");
    bob.expect_line("notice: line 1: here: bob");
    let mut alice = executable();
    alice.args(["connect", &socket, "--name", "alice"]).stdin(Stdio::piped());
    let mut alice = Process::start(alice);
    alice.write_and_end("bob: hello\n");
    bob.expect_line("from alice: hello");
    assert_eq!(alice.wait().0, 0);
    let mut stress = executable();
    stress.args(["stress", "pair", &socket, "--messages", "1000", "--json"]);
    let (status, figures, errors) = output(stress);
    assert_eq!(status, 0, "{errors}");
    assert!(figures.contains(&format!("\"address\":\"{socket}\"")), "{figures}");
    assert_eq!(server.terminate().0, 0);
    assert!(!path.exists());
}

#[test]
fn a_second_server_on_the_socket_fails_and_the_next_one_starts_while_the_first_drains() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("chat.sock");
    let (first, socket) = serve(&path, &["--drain-timeout", "60s", "--linger", "60s"]);
    let mut second = executable();
    second.args(["serve", "--listen", &socket]);
    let (status, _, errors) = output(second);
    assert_eq!(status, 1);
    assert_eq!(errors, format!("a-chat: cannot listen on {socket}: another server has locked it"));
    // This client stays through the drain.
    let mut alice = unix_client(&path);
    alice.send("alice\n/who alice");
    alice.expect_line("notice: line 1: here: alice");
    first.signal(Signal::TERM);
    alice.expect_line("notice: server is shutting down, 1 of your lines were accepted");
    wait_until("the socket to go", || !path.exists());
    let (second, _) = serve(&path, &[]);
    alice.leave();
    assert_eq!(first.wait().0, 0);
    unix_client(&path).send("bob");
    assert_eq!(second.terminate().0, 0);
}

#[test]
fn a_socket_that_a_killed_server_left_behind_is_replaced() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("chat.sock");
    let (first, _) = serve(&path, &[]);
    first.signal(Signal::KILL);
    first.wait_for_any_end();
    assert!(path.exists());
    let (second, _) = serve(&path, &[]);
    unix_client(&path).send("bob");
    assert_eq!(second.terminate().0, 0);
}
