//! Processes of this host that may take any name: over a Unix socket, by the user that the kernel says
//! they have, and never from whoever has the name already.
//!
//! Other users' processes are threads that change theirs, which only root may do; without that, those
//! parts are skipped with a note on standard error.
#![cfg(all(feature = "cli", feature = "users"))]

mod common;
#[path = "common/process.rs"]
mod process;

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use a_chat::{Config, Error, Listener, Server, Token, UnixOptions};
use common::{Client, TestServer, skipped};
use process::{Process, executable, run, serve};
use rustix::process::{Uid, geteuid};
use tempfile::TempDir;

const NEEDS_TOKEN: &str = "error: log in with a name and its token, as in: alice achat_...";

/// A folder that every user of this host may enter, with a file of one user, alice.
struct Place {
    folder: TempDir,
    token: Token,
}

impl Place {
    fn new() -> Self {
        let place = Self {
            folder: tempfile::tempdir().expect("a folder"),
            token: Token::generate().expect("random numbers"),
        };
        let open = PermissionsExt::from_mode(0o755);
        fs::set_permissions(place.folder.path(), open).expect("a mode");
        fs::write(place.users(), format!("alice {}\n", place.token.hash())).expect("written");
        place
    }

    fn users(&self) -> PathBuf {
        self.folder.path().join("users")
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("chat.sock")
    }

    fn config(&self) -> Config {
        Config::default().linger(Duration::from_millis(100)).users(self.users()).takeover(true)
    }

    /// A server on an address, and on a socket that everyone may open.
    fn serve(&self, config: Config) -> TestServer {
        let mut listeners = Listener::bind_tcp(["127.0.0.1:0"]).expect("a free port");
        let options = UnixOptions::default().mode(0o666);
        listeners.push(Listener::bind_unix(self.socket(), options).expect("a free path"));
        TestServer::of(Server::from_listeners(listeners, config).expect("a valid config"))
    }

    /// Connects as this user.
    fn connect_as(&self, uid: u32) -> Client {
        let path = self.socket();
        let connect = move || {
            let uid = Uid::from_raw(uid);
            if uid != geteuid() {
                rustix::thread::set_thread_res_uid(uid, uid, uid).expect("root");
            }
            UnixStream::connect(path).expect("a listening server")
        };
        Client::from_stream(thread::spawn(connect).join().expect("no panic"))
    }
}

fn over_tcp(server: &TestServer, login: &str) -> Client {
    let socket = TcpStream::connect(server.address).expect("a listening server");
    let mut client = Client::from_stream(socket);
    client.send(login);
    client
}

fn own_uid() -> u32 {
    geteuid().as_raw()
}

fn is_in(client: &mut Client, name: &str) {
    client.send(&format!("/who {name}"));
    client.expect_line(&format!("notice: line 1: here: {name}"));
}

fn is_refused(client: &mut Client, why: &str) {
    client.expect_line(why);
    client.expect_eof();
}

#[test]
fn a_trusted_users_process_takes_any_name_over_a_unix_socket_and_no_other_way() {
    let place = Place::new();
    let server = place.serve(place.config().trust_unix([own_uid()]));
    for name in ["alice", "Alice", "somebody"] {
        let mut client = place.connect_as(own_uid());
        client.send(name);
        is_in(&mut client, name);
        client.half_close();
        client.expect_eof();
    }
    is_refused(&mut over_tcp(&server, "alice"), NEEDS_TOKEN);
    // A token that is wrong is not made right by who sends it.
    let mut client = place.connect_as(own_uid());
    client.send("alice achat_wrong");
    is_refused(&mut client, "error: name or token wrong");
    server.stop();
}

#[test]
fn a_process_of_another_user_needs_a_token() {
    const TRUSTED: u32 = 41_001;
    let place = Place::new();
    let server = place.serve(place.config().trust_unix([TRUSTED]));
    let mut client = place.connect_as(own_uid());
    client.send("alice");
    is_refused(&mut client, NEEDS_TOKEN);
    let mut client = place.connect_as(own_uid());
    client.send(&format!("alice {}", place.token.expose()));
    is_in(&mut client, "alice");
    drop(client);
    if own_uid() != 0 {
        return skipped("only root can have processes of other users");
    }
    let mut client = place.connect_as(TRUSTED);
    client.send("bob");
    is_in(&mut client, "bob");
    // Nor is the next number trusted, nor the one that stands for everyone without a number.
    for uid in [TRUSTED + 1, 65_534] {
        let mut client = place.connect_as(uid);
        client.send("carol");
        is_refused(&mut client, NEEDS_TOKEN);
    }
    server.stop();
}

#[test]
fn a_trusted_process_never_takes_a_name_from_its_user_who_may_take_it_back() {
    let place = Place::new();
    let server = place.serve(place.config().trust_unix([own_uid()]));
    let login = format!("alice {}", place.token.expose());
    let mut alice = over_tcp(&server, &login);
    is_in(&mut alice, "alice");
    let mut process = place.connect_as(own_uid());
    process.send("alice");
    is_refused(&mut process, "error: name taken");
    alice.send("alice: still here");
    alice.expect_line("from alice: still here");
    alice.half_close();
    alice.expect_eof();
    let mut process = place.connect_as(own_uid());
    process.send("alice");
    is_in(&mut process, "alice");
    let mut alice = over_tcp(&server, &login);
    is_in(&mut alice, "alice");
    process.expect_line("notice: 1 of your lines were accepted");
    is_refused(&mut process, "error: your name has logged in elsewhere");
    server.stop();
}

#[cfg(feature = "proxy")]
#[test]
fn the_process_of_a_proxy_is_not_its_client() {
    let place = Place::new();
    let config = place.config().trust_unix([own_uid()]).proxy_from_unix(true);
    let server = place.serve(config);
    for header in ["PROXY TCP4 203.0.113.7 192.0.2.1 56324 8080\r\n", "PROXY UNKNOWN\r\n"] {
        let mut client = place.connect_as(own_uid());
        client.send_bytes(header.as_bytes());
        client.send("alice");
        is_refused(&mut client, NEEDS_TOKEN);
    }
    server.stop();
}

#[test]
fn the_number_that_stands_for_everyone_is_no_user() {
    let place = Place::new();
    let trusting = place.config().trust_unix([1000, 65_534]);
    let Err(Error::Config(why)) = Server::bind("127.0.0.1:0", trusting) else { panic!("trusted") };
    assert!(why.starts_with("trust_unix "), "{why}");
    let file = place.folder.path().join("a-chat.conf");
    fs::write(&file, "trust-unix = 1000,65534\n").expect("written");
    let file = file.to_str().expect("text");
    for arguments in [&["--trust-unix", "1000,65534"][..], &["--config", file]] {
        let mut command = serve(arguments);
        command.stdout(std::process::Stdio::null());
        let (status, _, errors) = run(command);
        let text = errors.concat();
        assert!(status == 2 && text.contains("65534") && text.contains("trust-unix"), "{text}");
    }
}

#[test]
fn the_executable_trusts_by_flag_variable_and_file() {
    let place = Place::new();
    let (users, path) = (place.users(), place.socket());
    let socket = format!("unix:{}", path.display());
    let file = place.folder.path().join("a-chat.conf");
    let trusted = format!("1,{}", own_uid());
    fs::write(&file, format!("trust-unix = {trusted}\n")).expect("written");
    for how in 0..3 {
        let mut command = executable();
        command.args(["serve", "--listen", &socket]).arg("--users").arg(&users);
        match how {
            0 => command.args(["--trust-unix", &trusted]),
            1 => command.env("A_CHAT_TRUST_UNIX", &trusted),
            _ => command.arg("--config").arg(&file),
        };
        let mut server = Process::start(command);
        server.stdout.expect("a-chat listens on ");
        let mut client = place.connect_as(own_uid());
        client.send("alice");
        is_in(&mut client, "alice");
        drop(client);
        assert_eq!(server.terminate().0, 0);
    }
}
