//! Users: a name in the user file can be taken with a token of its own and with nothing else, and
//! only for as long as the token is there. Whoever must leave is told how much was accepted.
//!
//! The file changes under a running server, and clients wait for what the server says. Where the
//! program is needed, or an address that is not the loopback's, the tests are in
//! `tests/user_command.rs`.
#![cfg(feature = "users")]

mod common;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use a_chat::client::{Client as LibraryClient, DisconnectReason, Options, Rejection};
use a_chat::{CloseReason, Config, Error, Name, Server, Token, UserTable};
use common::{Client, TEST_TIMEOUT, TestServer, wait_until};
use tempfile::TempDir;

const NEEDS_TOKEN: &str = "error: log in with a name and its token, as in: alice achat_...";
const WRONG_TOKEN: &str = "error: name or token wrong";
const NO_TOKENS: &str = "error: this server has no tokens, log in with the name alone";
const NAME_TAKEN: &str = "error: name taken";
const BAD_NAME: &str = "error: bad name, expected 1 to 32 of A-Z a-z 0-9 _ . -";
const REVOKED: &str = "error: your token is no longer valid";
const RESERVED: &str = "error: your name belongs to a user of this server now";
const LOGIN_CROWD: &str = "error: too many connections wait to log in, try again";
const ELSEWHERE: &str = "error: your name has logged in elsewhere";

/// A user file in a folder of its own.
struct Users {
    folder: TempDir,
}

impl Users {
    fn new(text: &str) -> Self {
        let users = Self { folder: tempfile::tempdir().expect("a folder") };
        users.write(text);
        users
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("users")
    }

    /// Replaces the file at once, as `a-chat user` does.
    fn write(&self, text: &str) {
        let new = self.folder.path().join("new");
        fs::write(&new, text).expect("written");
        fs::rename(new, self.path()).expect("renamed");
    }

    fn config(&self) -> Config {
        Config::default().linger(Duration::from_millis(100)).users(self.path())
    }
}

fn token() -> Token {
    Token::generate().expect("random numbers")
}

fn line(name: &str, token: &Token) -> String {
    format!("{name} {}\n", token.hash())
}

/// Connects and sends a login line.
fn send_login(server: &TestServer, line: &str) -> Client {
    let mut client = Client::connect(server.address);
    client.send(line);
    client
}

/// Logs in, and waits until the server knows.
fn login(server: &TestServer, name: &str, token: Option<&Token>) -> Client {
    let token = token.map(|token| format!(" {}", token.expose())).unwrap_or_default();
    let mut client = send_login(server, &format!("{name}{token}\n/who {name}"));
    client.expect_line(&format!("notice: line 1: here: {name}"));
    client
}

fn expect_rejected(mut client: Client, error: &str) {
    client.expect_line(error);
    client.expect_eof();
}

/// Expects what a client gets that must leave after this many lines.
fn expect_parting(client: &mut Client, accepted: u64, error: &str) {
    client.expect_line(&format!("notice: {accepted} of your lines were accepted"));
    client.expect_line(error);
    client.expect_eof();
}

fn expect_connected(client: &mut Client, name: &str) {
    client.send(&format!("{name}: a note"));
    client.expect_line(&format!("from {name}: a note"));
}

/// Expects that a client that has said nothing so far can still log in.
fn expect_late_login(mut client: Client, name: &str) {
    client.send(name);
    expect_connected(&mut client, name);
}

/// Whether something has arrived, or the end.
fn has_input(client: &Client) -> bool {
    client.stream.set_nonblocking(true).expect("an option");
    let peeked = client.stream.peek(&mut [0]);
    client.stream.set_nonblocking(false).expect("an option");
    peeked.is_ok()
}

#[test]
fn every_login_that_is_refused_is_told_why() {
    let (alice, bob) = (token(), token());
    let users = Users::new(&(line("alice", &alice) + &line("bob", &bob) + "carol disabled\n"));
    let server = TestServer::with(users.config());
    let (alice_token, bob_token) = (alice.expose(), bob.expose());
    for (login, error) in [
        ("alice".to_owned(), NEEDS_TOKEN),
        ("carol".to_owned(), NEEDS_TOKEN),
        ("stranger".to_owned(), NEEDS_TOKEN),
        (format!("alice {bob_token}"), WRONG_TOKEN),
        (format!("stranger {alice_token}"), WRONG_TOKEN),
        (format!("Alice {alice_token}"), WRONG_TOKEN),
        (format!("carol {alice_token}"), WRONG_TOKEN),
        (format!("alice {}", &alice_token[..31]), WRONG_TOKEN),
        (format!("alice {alice_token}x"), WRONG_TOKEN),
        (format!("alice {}", alice_token.to_uppercase()), WRONG_TOKEN),
        ("alice hunter2".to_owned(), WRONG_TOKEN),
        (format!("alice {alice_token} x"), BAD_NAME),
        (format!("alice: {alice_token}"), BAD_NAME),
        ("GET / HTTP/1.1".to_owned(), BAD_NAME),
    ] {
        expect_rejected(send_login(&server, &login), error);
    }
    assert_eq!(server.stats().connected, 0);
    // White space around them matters as little as around a name alone.
    for login in ["alice TOKEN", " alice TOKEN ", "alice  TOKEN", "alice\tTOKEN", "alice TOKEN\r"] {
        let mut client = send_login(&server, &login.replace("TOKEN", alice_token));
        expect_connected(&mut client, "alice");
        client.half_close();
        client.expect_eof();
        wait_until("the end", || server.stats().connected == 0);
    }
}

#[test]
fn a_token_is_refused_by_name_where_there_are_no_users() {
    let server = TestServer::start();
    expect_rejected(send_login(&server, &format!("alice {}", token().expose())), NO_TOKENS);
    expect_rejected(send_login(&server, "alice achat_"), NO_TOKENS);
    expect_rejected(send_login(&server, "alice hunter2"), BAD_NAME);
}

#[test]
fn guests_may_take_the_names_that_no_user_has() {
    let alice = token();
    let users = Users::new(&line("alice", &alice));
    let server = TestServer::with(users.config().guests(true));
    for name in ["alice", "Alice", "ALICE"] {
        expect_rejected(send_login(&server, name), NEEDS_TOKEN);
    }
    let mut guest = login(&server, "guest", None);
    let mut user = login(&server, "alice", Some(&alice));
    guest.send("alice: hello");
    user.expect_line("from guest: hello");
    expect_rejected(send_login(&server, "guest"), NAME_TAKEN);
}

#[test]
fn a_revoked_user_is_disconnected_and_told() {
    let (alice, other) = (token(), token());
    for (what, after) in [
        ("removed", String::new()),
        ("changed", line("alice", &other)),
        ("disabled", line("alice", &alice).replace('\n', " disabled\n")),
    ] {
        let bob = token();
        let users = Users::new(&(line("alice", &alice) + &line("bob", &bob)));
        let server = TestServer::with(users.config());
        let mut alice_client = login(&server, "alice", Some(&alice));
        let mut bob_client = login(&server, "bob", Some(&bob));
        alice_client.send("bob: hello");
        bob_client.expect_line("from alice: hello");
        // Nobody logs in, and nobody asks: the server looks by itself.
        users.write(&(after + &line("bob", &bob)));
        expect_parting(&mut alice_client, 2, REVOKED);
        expect_rejected(send_login(&server, &format!("alice {}", alice.expose())), WRONG_TOKEN);
        bob_client.send("alice: are you there?");
        bob_client.expect_line("error: line 2: no such peer: alice");
        expect_connected(&mut bob_client, "bob");
        let report = server.stop_with([(bob_client, 3)]);
        assert_eq!((report.owed, report.lost()), (2, 0), "{what}: {report}");
    }
}

#[test]
fn a_user_changes_the_token_without_a_gap() {
    let (old, new) = (token(), token());
    let users = Users::new(&line("alice", &old));
    let server = TestServer::with(users.config());
    let mut client = login(&server, "alice", Some(&old));
    users.write(&format!("alice {},{}\n", old.hash(), new.hash()));
    // The login has the server look first.
    expect_rejected(send_login(&server, &format!("alice {}", new.expose())), NAME_TAKEN);
    expect_connected(&mut client, "alice");
    client.half_close();
    client.expect_eof();
    wait_until("the end", || server.stats().connected == 0);
    let mut client = login(&server, "alice", Some(&new));
    users.write(&line("alice", &new));
    expect_rejected(send_login(&server, &format!("alice {}", old.expose())), WRONG_TOKEN);
    expect_connected(&mut client, "alice");
}

#[test]
fn a_guest_whose_name_becomes_a_users_is_disconnected_and_told() {
    let users = Users::new("");
    let server = TestServer::with(users.config().guests(true));
    let (mut guest, mut other) = (login(&server, "Alice", None), login(&server, "bob", None));
    users.write(&line("alice", &token()));
    expect_parting(&mut guest, 1, RESERVED);
    expect_connected(&mut other, "bob");
}

#[test]
fn a_look_at_the_files_can_be_asked_for() {
    let alice = token();
    let users = Users::new(&line("alice", &alice));
    let server = Server::bind("127.0.0.1:0", users.config()).expect("a free port");
    let files = server.files_handle();
    let server = server.spawn().expect("a thread");
    let mut client = Client::connect(server.local_addr());
    client.send(&format!("alice {}\n/who alice", alice.expose()));
    client.expect_line("notice: line 1: here: alice");
    let status = || files.status().iter().map(|file| (file.name, file.failed)).collect::<Vec<_>>();
    assert_eq!(status(), [("users", false)]);
    // Broken: everything stays as it is, and that shows.
    users.write("alice hunter2\n");
    files.check_now();
    wait_until("the failure", || status() == [("users", true)]);
    expect_connected(&mut client, "alice");
    users.write("");
    files.check_now();
    expect_parting(&mut client, 2, REVOKED);
    wait_until("the recovery", || status() == [("users", false)]);
    server.stop().expect("no error");
}

#[test]
fn a_user_takes_the_name_over_and_what_was_due_goes_to_whom_it_was_due() {
    let alice = token();
    let users = Users::new(&(line("alice", &alice) + "bob disabled\n"));
    let config = users.config().takeover(true).guests(true);
    let server = TestServer::with(config);
    let mut old = login(&server, "alice", Some(&alice));
    let mut carol = login(&server, "carol", None);
    old.send("carol: one\ncarol: two");
    carol.expect_lines(&["from alice: one", "from alice: two"]);
    carol.send("alice: for the old one\n/who");
    carol.expect_line("notice: line 3: 2 here: alice, carol");
    let mut new = login(&server, "alice", Some(&alice));
    old.expect_line("from carol: for the old one");
    expect_parting(&mut old, 3, ELSEWHERE);
    carol.send("alice: for the new one");
    new.expect_line("from carol: for the new one");
    // Not again so soon: two clients would take it from each other forever.
    expect_rejected(send_login(&server, &format!("alice {}", alice.expose())), NAME_TAKEN);
    expect_connected(&mut new, "alice");
    let report = server.stop_with([(new, 2), (carol, 4)]);
    assert_eq!((report.owed, report.lost()), (5, 0), "{report}");
}

/// A client with small buffers, which is in the broker's map when this returns.
fn stuck(server: &TestServer, name: &str) -> Client {
    server.login_with_small_buffers(name)
}

/// Sends more to it than the kernels hold.
fn fill(sender: &mut Client, recipient: &str) {
    for line in 0..200 {
        sender.send(&format!("{recipient}: {line} {}", "x".repeat(1000)));
    }
}

#[test]
fn rooms_and_losses_belong_to_the_connection_and_not_to_the_name() {
    let alice = token();
    let users = Users::new(&line("alice", &alice));
    let config = users.config().takeover(true).guests(true).stall_timeout(TEST_TIMEOUT * 10);
    let server = TestServer::with(config);
    let bob = stuck(&server, "bob");
    let mut old = login(&server, "alice", Some(&alice));
    let mut carol = login(&server, "carol", None);
    old.send("/join #dev");
    old.expect_line("notice: line 2: in #dev, 1 are");
    carol.send("/join #dev loud");
    carol.expect_line("notice: line 2: in #dev, 2 are");
    fill(&mut old, "bob");
    old.send("/who carol");
    old.expect_line("notice: line 203: here: carol");
    let mut new = login(&server, "alice", Some(&alice));
    carol.expect_line("notice: #dev: alice left");
    expect_parting(&mut old, 203, ELSEWHERE);
    // The new one is in no room, and nobody in it hears of the change.
    new.send("#dev: am I in?\n/who #dev");
    new.expect_line("error: line 2: not in #dev");
    new.expect_line("notice: line 3: 1 in #dev: carol");
    carol.send("#dev: anybody?");
    carol.expect_line("error: line 3: nobody else is in #dev");
    // What the old one has lost is not told to the new one, which may take the old one's place in
    // every list. Nor does its /sync ask for what the old one has sent.
    new.send("/sync 1");
    new.expect_line("notice: line 4: everything before it is delivered");
    bob.reset();
    wait_until("the loss", || server.stats().lost_sender_gone > 0);
    new.send("/join #dev\n/sync");
    new.expect_line("notice: line 5: in #dev, 2 are");
    new.expect_line("notice: line 6: everything before it is delivered");
    carol.expect_line("notice: #dev: alice joined");
    let report = server.stop_with([(new, 6), (carol, 3)]);
    assert_eq!((report.lost(), report.lost_told), (report.lost_sender_gone, 0), "{report:?}");
}

#[test]
fn a_client_whose_name_is_taken_over_does_not_wait_out_its_sync() {
    let alice = token();
    let users = Users::new(&line("alice", &alice));
    let config = users.config().takeover(true).guests(true).stall_timeout(TEST_TIMEOUT * 10);
    let server = TestServer::with(config.drain_timeout(TEST_TIMEOUT * 10));
    let mut bob = stuck(&server, "bob");
    let mut old = login(&server, "alice", Some(&alice));
    fill(&mut old, "bob");
    old.send("/sync 3600\nbob: behind it");
    wait_until("the /sync", || server.stats().accepted >= 202);
    let started = Instant::now();
    let mut new = login(&server, "alice", Some(&alice));
    expect_parting(&mut old, 202, ELSEWHERE);
    drop(old);
    // Its reader looks after its connection every half second.
    new.send("/sync");
    new.expect_line("notice: line 2: everything before it is delivered");
    assert!(started.elapsed() < TEST_TIMEOUT, "{:?}", started.elapsed());
    for line in 0..200 {
        assert!(bob.line().expect("a message").starts_with(&format!("from alice: {line} ")));
    }
    let report = server.stop_with([(new, 2), (bob, 0)]);
    assert_eq!((report.delivered, report.lost()), (200, 0), "{report}");
}

#[test]
fn a_revoked_user_leaves_its_rooms_and_its_members_are_told() {
    let alice = token();
    let users = Users::new(&line("alice", &alice));
    let server = TestServer::with(users.config().guests(true));
    let mut member = login(&server, "alice", Some(&alice));
    let [mut carol, mut dave] = ["carol", "dave"].map(|name| login(&server, name, None));
    for (members, client) in (1..).zip([&mut member, &mut carol, &mut dave]) {
        client.send("/join #dev");
        client.expect_line(&format!("notice: line 2: in #dev, {members} are"));
    }
    carol.send("/join #dev loud");
    carol.expect_line("notice: line 3: in #dev, 3 are");
    dave.send("#dev: before");
    for client in [&mut member, &mut carol] {
        client.expect_line("from dave #dev: before");
    }
    users.write("alice disabled\n");
    expect_parting(&mut member, 2, REVOKED);
    carol.expect_line("notice: #dev: alice left");
    dave.send("#dev: after\n/who #dev\n/sync");
    carol.expect_line("from dave #dev: after");
    dave.expect_line("notice: line 5: 2 in #dev: carol, dave");
    dave.expect_line("notice: line 6: everything before it is delivered");
    let report = server.stop_with([(carol, 3), (dave, 6)]);
    assert_eq!((report.owed, report.lost()), (3, 0), "{report}");
}

#[test]
fn a_client_of_the_library_is_not_taken_for_lost_when_its_name_is_taken_over() {
    let alice = token();
    let users = Users::new(&line("alice", &alice));
    let server = TestServer::with(users.config().takeover(true));
    let name = Name::new("alice").expect("a valid name");
    let options = Options::new(&name).token(alice.clone());
    let mut client: LibraryClient = options.connect(server.address).expect("a login");
    client.send("alice: one").expect("a connection");
    let event = client.recv().expect("a message");
    assert!(format!("{event:?}").contains("one"), "{event:?}");
    let mut other = login(&server, "alice", Some(&alice));
    let events: Vec<_> = client.events().map(|event| format!("{event:?}")).collect();
    let outcome = client.finish(None);
    let expected = DisconnectReason::Rejected(Rejection::LoggedInElsewhere);
    assert_eq!(format!("{:?}", outcome.reason), format!("{expected:?}"), "{events:?}");
    // The server has said how many lines it accepted, so none is in doubt.
    assert_eq!((outcome.accepted, outcome.in_doubt.len(), outcome.unaccepted.len()), (1, 0, 0));
    expect_connected(&mut other, "alice");
}

#[test]
fn a_vanished_clients_name_is_taken_over_at_once() {
    let alice = token();
    let users = Users::new(&line("alice", &alice));
    let server = TestServer::with(users.config().takeover(true));
    // It reads nothing and says nothing, as if its host were gone.
    let old = login(&server, "alice", Some(&alice));
    let mut new = login(&server, "alice", Some(&alice));
    expect_connected(&mut new, "alice");
    drop(old);
}

#[test]
fn a_login_is_judged_by_the_file_of_that_moment_even_in_a_storm() {
    const ROUNDS: usize = 30;
    let tokens: Vec<_> = (0..=ROUNDS).map(|_| token()).collect();
    let users = Users::new(&line("alice", &tokens[0]));
    let server = TestServer::with(users.config().guests(true));
    thread::scope(|scope| {
        for crowd in 0..4 {
            let server = &server;
            scope.spawn(move || {
                for number in 0..50 {
                    drop(login(server, &format!("guest-{crowd}-{number}"), None));
                }
            });
        }
        for pair in tokens.windows(2) {
            users.write(&line("alice", &pair[1]));
            let login = |token: &Token| format!("alice {}", token.expose());
            expect_rejected(send_login(&server, &login(&pair[0])), WRONG_TOKEN);
            let mut client = send_login(&server, &login(&pair[1]));
            expect_connected(&mut client, "alice");
            client.half_close();
            client.expect_eof();
        }
    });
}

#[test]
fn a_user_file_that_cannot_be_trusted_keeps_the_server_from_starting() {
    let users = Users::new("alice hunter2\n");
    let refused = |text: &str| {
        let refused = Server::bind("127.0.0.1:0", users.config()).map(drop);
        let Err(Error::File(problem)) = refused else { panic!("{refused:?}") };
        assert!(problem.contains(text) && problem.contains("users"), "{problem}");
        let read = UserTable::read(users.path()).map(drop).expect_err("the same").to_string();
        assert_eq!(read, problem);
    };
    refused("line 1: unknown option");
    users.write("");
    fs::set_permissions(users.path(), PermissionsExt::from_mode(0o666)).expect("a mode");
    refused("others can write it");
    fs::remove_file(users.path()).expect("removed");
    refused("No such file");
    symlink(users.folder.path(), users.path()).expect("a link");
    refused("not a regular file");
}

#[test]
fn a_client_that_sends_too_fast_is_slowed_down_and_loses_nothing() {
    const LINES: u32 = 60;
    const RATE: u32 = 40;
    let server = TestServer::with(Config::default().rate(RATE));
    let (mut alice, mut bob) = (server.login("alice"), server.login("bob"));
    let started = Instant::now();
    alice.send_bytes(&b"bob: hello\n".repeat(LINES as usize));
    for _ in 0..LINES {
        bob.expect_line("from alice: hello");
    }
    // A second of lines passes at once, and the rest at the rate.
    let rest = Duration::from_secs_f64(f64::from(LINES - RATE - 2) / f64::from(RATE));
    assert!(started.elapsed() >= rest, "{:?}", started.elapsed());
    alice.expect_line("notice: you send faster than 40 lines a second and are slowed down");
    // Once a connection, whatever comes.
    alice.send_bytes(&b"alice: x\n".repeat(50));
    for _ in 0..50 {
        alice.expect_line("from alice: x");
    }
    let report = server.stop_with([(alice, u64::from(LINES) + 50), (bob, 0)]);
    assert_eq!(report.lost(), 0, "{report}");
}

#[test]
fn a_stop_takes_what_a_slowed_client_had_sent_by_then() {
    const LINES: usize = 500;
    let server = TestServer::with(Config::default().rate(1).linger(TEST_TIMEOUT));
    let (mut alice, mut bob) = (server.login("alice"), server.login("bob"));
    alice.send_bytes(&b"bob: hello\n".repeat(LINES));
    alice.expect_line("notice: you send faster than 1 line a second and are slowed down");
    let started = Instant::now();
    server.handle.shutdown();
    for _ in 0..LINES {
        bob.expect_line("from alice: hello");
    }
    alice.expect_line(&format!(
        "notice: server is shutting down, {LINES} of your lines were accepted"
    ));
    drop((alice, bob));
    let report = server.stop();
    assert_eq!((report.delivered, report.lost()), (LINES as u64, 0), "{report}");
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

#[test]
fn a_slowed_client_that_leaves_or_vanishes_frees_its_name() {
    let server = TestServer::with(Config::default().rate(1));
    let log_in = || {
        let mut client = None;
        wait_until("the name to be free", || {
            let mut next = Client::connect(server.address);
            next.send("alice\n/who alice");
            let is_in = next.line().is_some_and(|line| line != NAME_TAKEN);
            client = is_in.then_some(next);
            is_in
        });
        client.expect("waited for")
    };
    let mut left = Vec::new();
    for is_reset in [false, true] {
        let mut alice = log_in();
        alice.send_bytes(&b"alice: hello\n".repeat(1000));
        while alice.line().as_deref() == Some("from alice: hello") {}
        if is_reset {
            alice.reset();
        } else {
            // What it has sent is not due for many minutes.
            alice.half_close();
            left.push(alice);
        }
    }
    drop(log_in());
}

#[test]
fn a_user_may_have_a_rate_of_its_own() {
    let (fast, slow) = (token(), token());
    let text = line("fast", &fast).replace('\n', " rate=100000\n") + &line("slow", &slow);
    let users = Users::new(&text);
    let server = TestServer::with(users.config().rate(1));
    let mut client = login(&server, "fast", Some(&fast));
    client.send_bytes(&b"fast: x\n".repeat(1000));
    for _ in 0..1000 {
        client.expect_line("from fast: x");
    }
    let mut client = login(&server, "slow", Some(&slow));
    client.send_bytes(&b"slow: x\n".repeat(10));
    let told = std::iter::from_fn(|| client.line()).find(|line| line.starts_with("notice: you"));
    assert_eq!(
        told.as_deref(),
        Some("notice: you send faster than 1 line a second and are slowed down")
    );
}

#[test]
fn strangers_that_never_log_in_keep_nobody_out() {
    const PLACES: usize = 16;
    let config = Config::default().max_logins(PLACES).linger(Duration::from_millis(100));
    let server = TestServer::with(config);
    let mut strangers: Vec<_> = (0..PLACES).map(|_| Client::connect(server.address)).collect();
    wait_until("the strangers", || server.stats().connections == PLACES as u64);
    let started = Instant::now();
    let alice = server.login("alice");
    // Less than the strangers' own time to log in.
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
    // The one that waited longest makes room, once it has had some time, and is told.
    let (first, last) = (strangers.remove(0), strangers.pop().expect("a stranger"));
    wait_until("room to be made", || {
        let before = server.stats().connections;
        drop(Client::connect(server.address));
        wait_until("the client", || server.stats().connections > before);
        has_input(&first)
    });
    expect_rejected(first, LOGIN_CROWD);
    expect_late_login(last, "late");
    drop(alice);
    server.stop();
}

#[test]
fn the_address_with_the_most_strangers_makes_room() {
    let server = TestServer::with(Config::default().max_logins(4));
    let from = |host: u8| {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let socket = socket.expect("a descriptor");
        let local = std::net::SocketAddr::from(([127, 0, 0, host], 0));
        socket.bind(&local.into()).expect("a loopback address");
        socket.connect(&server.address.into()).expect("a listening server");
        Client::from_stream(std::net::TcpStream::from(socket))
    };
    let oldest = from(2);
    wait_until("the client", || server.stats().connections == 1);
    let mut crowd: Vec<_> = (0..3).map(|_| from(3)).collect();
    wait_until("the crowd", || server.stats().connections == 4);
    wait_until("room to be made", || {
        let before = server.stats().connections;
        drop(from(4));
        wait_until("the client", || server.stats().connections > before);
        has_input(&crowd[0])
    });
    expect_rejected(crowd.remove(0), LOGIN_CROWD);
    expect_late_login(oldest, "oldest");
}

#[test]
fn a_storm_of_logins_from_one_address_loses_nobody() {
    const CLIENTS: usize = 600;
    let server = TestServer::with(Config::default().max_logins(4));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| send_login(&server, &format!("c{number}\n/who c{number}")))
        .collect();
    for (number, mut client) in clients.into_iter().enumerate() {
        client.expect_line(&format!("notice: line 1: here: c{number}"));
    }
}

#[test]
fn a_drain_reports_why_users_had_to_leave() {
    let alice = token();
    let users = Users::new(&line("alice", &alice));
    let server = TestServer::with(users.config());
    let mut client = server.login_with_small_buffers(&format!("alice {}", alice.expose()));
    // Nothing is read, so the message is still due when the token goes.
    client.send(&format!("alice: {}", "x".repeat(60_000)));
    wait_until("the line", || server.stats().accepted == 1);
    users.write("");
    wait_until("the end", || server.stats().connected == 0);
    let text = client.line().expect("what was due");
    assert_eq!(text.len(), "from alice: ".len() + 60_000);
    expect_parting(&mut client, 1, REVOKED);
    drop(client);
    let report = server.stop();
    assert_eq!((report.delivered, report.lost()), (1, 0), "{report}");
    assert_eq!(CloseReason::Revoked.to_string(), "token no longer valid");
}
