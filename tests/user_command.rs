//! The program with users: `a-chat user` and what it leaves in the file, `serve --users` while the
//! file changes or hangs, refusals of addresses that are not the loopback's, and clients that keep
//! their token to themselves.
//!
//! Remote clients are on hosts of their own, which are network namespaces; where those are not
//! permitted, the tests that need them are skipped with a note on standard error.
#![cfg(all(feature = "cli", feature = "users"))]

mod common;
#[path = "common/netns.rs"]
mod netns;
#[path = "common/process.rs"]
mod process;

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use common::{Client, skipped};
use netns::{Network, address_of};
use process::{
    EXECUTABLE, Process, connect, executable, filled, run, serve, serve_through, through,
};
use rustix::process::Signal;
use tempfile::TempDir;

const WRONG_TOKEN: &str = "error: name or token wrong";

struct Users {
    folder: TempDir,
}

impl Users {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a folder") }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("users")
    }

    fn text(&self) -> String {
        fs::read_to_string(self.path()).expect("a user file")
    }

    /// The path as an argument.
    fn argument(&self) -> String {
        self.path().to_str().expect("text").to_owned()
    }

    /// Runs `a-chat user`; returns the exit status, standard output and standard error.
    fn command(&self, words: &[&str]) -> (i32, Vec<String>, Vec<String>) {
        user(&self.path(), words)
    }

    /// Runs `a-chat user` to get a token.
    fn token(&self, words: &[&str]) -> String {
        let (status, stdout, stderr) = self.command(words);
        assert_eq!((status, stderr), (0, Vec::new()), "{words:?}");
        let [token] = stdout.as_slice() else { panic!("{stdout:?}") };
        assert!(token.len() == 32 && token.starts_with("achat_"), "{token}");
        token.clone()
    }
}

fn user(path: &Path, words: &[&str]) -> (i32, Vec<String>, Vec<String>) {
    let mut command = executable();
    command.arg("user").arg(words[0]).arg(path).args(&words[1..]);
    run(command)
}

fn login(address: SocketAddr, name: &str, token: &str) -> Client {
    let mut client = Client::connect(address);
    client.send(&format!("{name} {token}\n/who {name}"));
    client.expect_line(&format!("notice: line 1: here: {name}"));
    client
}

fn expect_refused(address: SocketAddr, login: &str, error: &str) {
    let mut client = Client::connect(address);
    client.send(login);
    client.expect_line(error);
    client.expect_eof();
}

#[test]
fn a_token_is_printed_once_and_the_file_holds_its_hash() {
    let users = Users::new();
    let token = users.token(&["add", "alice"]);
    let text = users.text();
    assert!(text.starts_with("alice sha256:") && !text.contains(&token[6..]), "{text}");
    assert!(text.contains(" since=20"), "{text}");
    let mode = fs::metadata(users.path()).expect("a file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    users.token(&["add", "bot-1", "--rate", "100"]);
    users.token(&["token", "bot-1"]);
    let (status, listed, _) = users.command(&["list"]);
    assert_eq!(status, 0);
    assert!(listed[0].starts_with("alice 1 token since=20"), "{listed:?}");
    assert!(listed[1].starts_with("bot-1 2 tokens since=20"), "{listed:?}");
    assert!(listed[1].ends_with(" rate=100"), "{listed:?}");
    let (status, checked, _) = users.command(&["check"]);
    assert_eq!((status, checked), (0, vec![format!("{}: 2 users", users.argument())]));
    users.command(&["remove", "alice"]);
    assert!(users.text().starts_with("bot-1 sha256:"));
}

#[test]
fn a_change_keeps_owner_mode_comments_and_links() {
    let users = Users::new();
    users.token(&["add", "alice"]);
    let real = users.folder.path().join("real");
    fs::write(&real, format!("# our users\n\n{}# the end", users.text())).expect("written");
    fs::set_permissions(&real, PermissionsExt::from_mode(0o640)).expect("a mode");
    // Only root can give files away.
    let owner = if std::os::unix::fs::chown(&real, Some(4242), Some(4343)).is_ok() {
        (4242, 4343)
    } else {
        let file = fs::metadata(&real).expect("a file");
        (file.uid(), file.gid())
    };
    fs::remove_file(users.path()).expect("removed");
    symlink("real", users.path()).expect("a link");
    users.token(&["add", "bob"]);
    users.token(&["token", "alice", "--only"]);
    assert!(fs::symlink_metadata(users.path()).expect("a link").is_symlink());
    let file = fs::metadata(&real).expect("a file");
    assert_eq!((file.uid(), file.gid(), file.mode() & 0o777), (owner.0, owner.1, 0o640));
    let text = fs::read_to_string(&real).expect("a user file");
    let lines: Vec<_> = text.lines().map(|line| line.split(' ').next().expect("a word")).collect();
    assert_eq!(lines, ["#", "", "alice", "#", "bob"]);
    let files = fs::read_dir(users.folder.path()).expect("a folder").count();
    assert_eq!(files, 2, "nothing is left behind");
}

#[test]
fn changes_at_the_same_time_are_all_kept() {
    const EACH: usize = 8;
    let users = Users::new();
    users.token(&["add", "first"]);
    thread::scope(|scope| {
        for crowd in ["a", "b", "c"] {
            let users = &users;
            scope.spawn(move || {
                for number in 0..EACH {
                    users.token(&["add", &format!("{crowd}{number}")]);
                }
            });
        }
    });
    let (_, listed, _) = users.command(&["list"]);
    assert_eq!(listed.len(), 1 + 3 * EACH);
}

#[test]
fn what_cannot_be_done_is_refused_and_changes_nothing() {
    let users = Users::new();
    let refused = |words: &[&str], text: &str| {
        let before = fs::read(users.path()).ok();
        let (status, stdout, stderr) = users.command(words);
        assert_eq!((status, stdout.len(), stderr.len()), (1, 0, 1), "{words:?}: {stderr:?}");
        assert!(stderr[0].contains(text), "{stderr:?}");
        assert_eq!(fs::read(users.path()).ok(), before);
    };
    for words in [&["token", "alice"][..], &["remove", "alice"], &["list"], &["check"]] {
        refused(words, "No such file");
    }
    symlink("nowhere", users.path()).expect("a link");
    refused(&["add", "alice"], "No such file");
    fs::remove_file(users.path()).expect("removed");
    users.token(&["add", "alice"]);
    refused(&["add", "alice"], "alice has a line already");
    refused(&["token", "bob"], "bob is not in it");
    refused(&["remove", "bob"], "bob is not in it");
    fs::write(users.path(), users.text() + "bob hunter2\n").expect("written");
    for words in [&["add", "carol"][..], &["remove", "alice"], &["list"], &["check"]] {
        refused(words, "line 2: unknown option");
    }
    let (status, _, stderr) = users.command(&["add", "no name"]);
    assert_eq!(status, 2, "{stderr:?}");
}

#[test]
fn a_running_server_follows_the_tool() {
    let users = Users::new();
    let old = users.token(&["add", "alice"]);
    let mut server = Process::start(serve(&["--users", &users.argument(), "--takeover"]));
    let address = server.address();
    let mut client = login(address, "alice", &old);
    let new = users.token(&["token", "alice"]);
    // Both are valid, and the new one takes over.
    let mut next = login(address, "alice", &new);
    client.expect_line("notice: 1 of your lines were accepted");
    client.expect_line("error: your name has logged in elsewhere");
    client.expect_eof();
    let newest = users.token(&["token", "alice", "--only"]);
    next.expect_line("notice: 1 of your lines were accepted");
    next.expect_line("error: your token is no longer valid");
    next.expect_eof();
    for token in [&old, &new] {
        expect_refused(address, &format!("alice {token}"), WRONG_TOKEN);
    }
    let mut last = login(address, "alice", &newest);
    fs::write(users.path(), "alice hunter2\n").expect("written");
    server.log.expect("line 1: unknown option");
    last.send("alice: still here");
    last.expect_line("from alice: still here");
    users.write("");
    last.expect_line("notice: 2 of your lines were accepted");
    let (status, log) = server.terminate();
    assert_eq!(status, 0);
    let log = log.join("\n");
    for secret in [&old, &new, &newest, "hunter2"] {
        assert!(!log.contains(secret), "{log}");
    }
    assert!(log.contains("disconnected") && log.contains("logged in elsewhere"), "{log}");
    assert!(log.contains("token no longer valid"), "{log}");
}

impl Users {
    fn write(&self, text: &str) {
        fs::write(self.path(), text).expect("written");
    }
}

#[test]
fn a_login_line_is_logged_nowhere_even_at_trace() {
    let users = Users::new();
    let token = users.token(&["add", "alice"]);
    let flags = ["--users", &users.argument(), "--log-level", "trace"];
    let mut server = Process::start(serve(&flags));
    let address = server.address();
    drop(login(address, "alice", &token));
    expect_refused(address, &format!("bob {token}"), WRONG_TOKEN);
    let wrong = "achat_00000000000000000000000000";
    expect_refused(address, &format!("alice {wrong}"), WRONG_TOKEN);
    let (status, log) = server.terminate();
    let log = log.join("\n");
    assert_eq!(status, 0, "{log}");
    assert!(!log.contains(&token) && !log.contains(wrong), "{log}");
}

#[test]
fn a_user_file_that_hangs_delays_neither_logins_for_long_nor_the_drain() {
    let users = Users::new();
    let token = users.token(&["add", "alice"]);
    let path = users.argument();
    if Command::new("strace").arg("-V").output().is_err() {
        return skipped("strace is not installed");
    }
    // Every look after the first hangs, as on a network mount that is gone.
    let launcher = [
        "strace",
        "-f",
        "-qq",
        "-o",
        "/dev/null",
        "-P",
        &path,
        "-e",
        "trace=openat",
        "-e",
        "inject=openat:delay_enter=600s:when=2+",
    ];
    let mut server = Process::start(serve_through(&launcher, &["--users", &path]));
    let address = server.address();
    users.write(&(users.text() + "# changed\n"));
    let started = Instant::now();
    let mut client = login(address, "alice", &token);
    // By the table at hand.
    client.send("alice: hello");
    client.expect_line("from alice: hello");
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
    let pid = process_named("a-chat", &path).expect("the server behind strace");
    let started = Instant::now();
    rustix::process::kill_process(pid, Signal::TERM).expect("it runs");
    client.expect_line("notice: server is shutting down, 2 of your lines were accepted");
    client.expect_eof();
    drop(client);
    server.log.expect("stopped: ");
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    let _ = rustix::process::kill_process(pid, Signal::KILL);
}

/// The process of this name with this word in its command line.
fn process_named(name: &str, word: &str) -> Option<rustix::process::Pid> {
    let processes = fs::read_dir("/proc").expect("procfs").map_while(Result::ok);
    let mut pids = processes.filter_map(|entry| {
        let comm = fs::read_to_string(entry.path().join("comm")).ok()?;
        let line = fs::read_to_string(entry.path().join("cmdline")).ok()?;
        let is_it = comm.trim() == name && line.contains(word);
        is_it.then(|| entry.file_name().to_str()?.parse().ok()).flatten()
    });
    pids.next().and_then(rustix::process::Pid::from_raw)
}

#[test]
fn the_start_says_what_a_reachable_server_lacks() {
    let users = Users::new();
    users.token(&["add", "alice"]);
    let warnings = |flags: &[&str]| {
        let mut command = executable();
        command.args(["serve", "--listen", "0.0.0.0:0"]).args(flags);
        let mut server = Process::start(command);
        server.address();
        let (_, log) = server.terminate();
        log.into_iter().filter(|line| line.contains("[WARN]")).collect::<Vec<_>>()
    };
    let without = warnings(&[]);
    assert!(without.iter().any(|line| line.contains("--users")), "{without:?}");
    let with = warnings(&["--users", &users.argument()]);
    assert!(with.iter().all(|line| !line.contains("--users")), "{with:?}");
    let mut local = Process::start(serve(&[]));
    local.address();
    let (_, log) = local.terminate();
    assert!(log.iter().all(|line| !line.contains("--users")), "{log:?}");
}

#[test]
fn a_user_file_that_every_user_can_read_is_worth_one_warning() {
    let users = Users::new();
    users.token(&["add", "alice"]);
    fs::set_permissions(users.path(), PermissionsExt::from_mode(0o644)).expect("a mode");
    let mut server = Process::start(serve(&["--users", &users.argument()]));
    let address = server.address();
    for _ in 0..3 {
        users.write(&(users.text() + "# changed\n"));
        expect_refused(address, "alice wrong", WRONG_TOKEN);
    }
    let (_, log) = server.terminate();
    let warnings = log.iter().filter(|line| line.contains("can be read by every user"));
    assert_eq!(warnings.count(), 1, "{log:#?}");
}

#[test]
fn clients_log_in_with_a_token_from_a_file_or_from_the_environment() {
    let users = Users::new();
    let token = users.token(&["add", "alice"]);
    let mut server = Process::start(serve(&["--users", &users.argument()]));
    let address = server.address();
    let file = users.folder.path().join("token");
    fs::write(&file, format!("{token}\n")).expect("written");
    fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).expect("a mode");
    let say = |mut command: Command| {
        command.args(["--name", "alice", "--wait", "20s"]);
        let mut client = Process::start(command);
        client.write_and_end("alice: hello\n");
        client.outcome()
    };
    let received = vec!["from alice: hello".to_owned()];
    let from_file = connect(address, &["--token-file", file.to_str().expect("text")]);
    assert_eq!(say(from_file), (0, received.clone(), Vec::new()));
    let mut from_environment = connect(address, &[]);
    from_environment.env("A_CHAT_TOKEN", &token);
    assert_eq!(say(from_environment), (0, received, Vec::new()));
    let fail = |mut command: Command| {
        command.args(["--name", "alice"]);
        Process::start(command).outcome()
    };
    let mut odd = connect(address, &[]);
    odd.env("A_CHAT_TOKEN", "hunter2");
    let (status, _, stderr) = fail(odd);
    assert!(status == 1 && stderr[0].contains("no token in the environment"), "{stderr:?}");
    assert!(!stderr.concat().contains("hunter2"), "{stderr:?}");
    fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).expect("a mode");
    let exposed = connect(address, &["--token-file", file.to_str().expect("text")]);
    let (status, _, stderr) = fail(exposed);
    assert!(status == 1 && stderr[0].contains("can read it"), "{stderr:?}");
    let (status, _, stderr) = fail(connect(address, &["--reconnect"]));
    assert!(status == 1 && stderr.concat().contains("as in: alice achat_"), "{stderr:?}");
    server.terminate();
}

#[test]
fn a_client_does_not_come_back_to_a_name_that_was_taken_over() {
    let users = Users::new();
    let token = users.token(&["add", "alice"]);
    let mut server = Process::start(serve(&["--users", &users.argument(), "--takeover"]));
    let address = server.address();
    let mut command = connect(address, &["--name", "alice", "--reconnect"]);
    command.env("A_CHAT_TOKEN", &token);
    let mut first = Process::start(command);
    first.write("alice: hello\n");
    first.stdout.expect("from alice: hello");
    let mut second = login(address, "alice", &token);
    let (status, _, stderr) = first.outcome();
    assert_eq!(status, 1, "{stderr:?}");
    assert!(stderr.concat().contains("logged in elsewhere"), "{stderr:?}");
    second.send("alice: still here");
    second.expect_line("from alice: still here");
    server.terminate();
}

/// A server on a host of its own, and hosts for its clients.
fn remote(clients: usize, flags: &[&str]) -> Option<(Process, u16, Network)> {
    let network = Network::new(clients)?;
    let mut command = through(&network.server.launcher(), EXECUTABLE);
    command.args(["serve", "--listen", "0.0.0.0:0"]).args(flags);
    let mut server = Process::start(command);
    let port = server.address().port();
    Some((server, port, network))
}

fn address(client: usize, port: u16) -> SocketAddr {
    format!("{}:{port}", address_of(client)).parse().expect("an address")
}

#[test]
fn wrong_tokens_get_an_address_refused_but_not_while_somebody_is_logged_in() {
    let users = Users::new();
    let token = users.token(&["add", "alice"]);
    let flags = ["--users", &users.argument(), "--failed-logins", "3/10min"];
    let Some((mut server, port, network)) = remote(2, &flags) else { return };
    let (bot, office) = (address(0, port), address(1, port));
    network.clients[1].run(|| {
        // A neighbour with an old token does not get the others refused.
        let mut alice = login(office, "alice", &token);
        for _ in 0..10 {
            expect_refused(office, "alice achat_wrong", WRONG_TOKEN);
        }
        alice.send("alice: hello");
        alice.expect_line("from alice: hello");
        let again = format!("alice {token}");
        expect_refused(office, &again, "error: name taken");
    });
    server.log.expect("10.77.1.2 has failed to log in 3 times, not refused since");
    network.clients[0].run(|| {
        // Other mistakes do not count.
        for _ in 0..5 {
            expect_refused(
                bot,
                "alice",
                "error: log in with a name and its token, as in: alice achat_...",
            );
        }
        for _ in 0..3 {
            expect_refused(bot, "alice achat_wrong", WRONG_TOKEN);
        }
        let mut refused = Client::connect(bot);
        let line = refused.line().expect("a refusal");
        let start = "error: too many failed logins from your address, try again in ";
        assert!(line.starts_with(start), "{line}");
        refused.expect_eof();
    });
    server.log.expect("10.77.0.2 has failed to log in 3 times, refused for 600 s");
    let (_, log) = server.terminate();
    let refusals = log.iter().filter(|line| line.contains("has failed to log in"));
    assert_eq!(refusals.count(), 2, "{log:#?}");
}

/// It came over the loopback, wherever its client is: what the header says decides nothing.
#[cfg(feature = "proxy")]
#[test]
fn a_token_through_a_proxy_of_this_host_is_no_reason_for_a_warning() {
    let users = Users::new();
    let token = users.token(&["add", "alice"]);
    let flags = ["--users", &users.argument(), "--proxy-from", "127.0.0.1"];
    let mut server = Process::start(serve(&flags));
    let mut alice = Client::connect(server.address());
    alice.send_bytes(b"PROXY TCP4 203.0.113.7 192.0.2.1 56324 8080\r\n");
    alice.send(&format!("alice {token}\n/who alice"));
    alice.expect_line("notice: line 1: here: alice");
    drop(alice);
    let (_, log) = server.terminate();
    assert!(log.iter().any(|line| line.contains("alice connected")), "{log:#?}");
    assert!(!log.iter().any(|line| line.contains("the token of")), "{log:#?}");
}

/// They all come from the proxy's address, which is never refused.
#[cfg(feature = "proxy")]
#[test]
fn wrong_tokens_through_a_proxy_count_by_the_clients_own_address() {
    let users = Users::new();
    users.token(&["add", "alice"]);
    let flags = ["--users", &users.argument(), "--proxy-from", "127.0.0.1"];
    let flags = [&flags[..], &["--failed-logins", "3/10min"]].concat();
    let mut server = Process::start(serve(&flags));
    let address = server.address();
    let try_through = |header: &str| {
        let mut client = Client::connect(address);
        client.send_bytes(header.as_bytes());
        client.send("alice achat_wrong");
        let line = client.line().expect("a refusal");
        client.expect_eof();
        line
    };
    let from = |host: u8| format!("PROXY TCP4 203.0.113.{host} 192.0.2.1 56324 8080\r\n");
    for _ in 0..3 {
        assert_eq!(try_through(&from(7)), WRONG_TOKEN);
    }
    let start = "error: too many failed logins from your address, try again in ";
    assert!(try_through(&from(7)).starts_with(start));
    assert_eq!(try_through(&from(8)), WRONG_TOKEN);
    // A proxy that speaks for itself stands for no client.
    for _ in 0..5 {
        assert_eq!(try_through("PROXY UNKNOWN\r\n"), WRONG_TOKEN);
    }
    let (_, log) = server.terminate();
    let lines: Vec<_> = log.iter().filter(|it| it.contains("has failed to log in")).collect();
    assert!(lines.len() == 1 && lines[0].contains("203.0.113.7 has failed"), "{log:#?}");
}

#[test]
fn a_token_goes_unencrypted_over_a_network_only_on_request_and_with_a_warning() {
    let users = Users::new();
    let token = users.token(&["add", "alice"]);
    let flags = ["--users", &users.argument()];
    let Some((mut server, port, network)) = remote(1, &flags) else { return };
    let say = |flags: &[&str]| {
        let mut command = through(&network.clients[0].launcher(), EXECUTABLE);
        command.args(["connect", &address(0, port).to_string(), "--name", "alice"]).args(flags);
        command.args(["--wait", "20s"]).env("A_CHAT_TOKEN", &token);
        command.stdin(filled("alice: hello\n"));
        run(command)
    };
    let (status, _, stderr) = say(&[]);
    assert_eq!(status, 1, "{stderr:?}");
    let told = stderr.concat();
    assert!(told.contains("--tls") && told.contains("--plaintext-token"), "{told}");
    assert!(!told.contains(&token), "{told}");
    let (status, stdout, _) = say(&["--plaintext-token"]);
    assert_eq!((status, stdout), (0, vec!["from alice: hello".to_owned()]));
    server.log.expect("the token of alice came from 10.77.0.2");
    let (_, log) = server.terminate();
    let warnings: Vec<_> = log.iter().filter(|line| line.contains("the token of")).collect();
    assert!(warnings.len() == 1 && warnings[0].contains("change it"), "{warnings:?}");
}

#[test]
fn the_fail2ban_filter_finds_refused_addresses_in_every_form_of_the_log() {
    const REFUSED: &str = "has failed to log in 10 times, refused for 60 s";
    let time = "2026-11-26T15:06:27.123456Z";
    let json = |level: &str, text: &str| {
        format!("{{\"time\":\"{time}\",\"level\":\"{level}\",\"message\":\"{text}\"}}")
    };
    let found = |lines: &[String]| {
        let file = tempfile::NamedTempFile::new().expect("a file");
        fs::write(file.path(), lines.join("\n") + "\n").expect("written");
        let filter = concat!(env!("CARGO_MANIFEST_DIR"), "/contrib/fail2ban/filter.d/a-chat.conf");
        let mut command = Command::new("fail2ban-regex");
        let output = command.arg(file.path()).arg(filter).output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let counts = text.lines().find_map(|line| line.strip_prefix("Lines: ")).expect("counts");
        let matched = counts.split(", ").find_map(|count| count.strip_suffix(" matched"));
        Some(matched.expect("a count").parse::<usize>().expect("a number"))
    };
    let good: Vec<_> = ["203.0.113.7", "2001:db8:1:2::2"]
        .into_iter()
        .flat_map(|address| {
            let text = format!("{address} {REFUSED}");
            [
                format!("{time} [WARN] {text}"),
                format!("<4>{text}"),
                format!("host a-chat[77]: {text}"),
                json("warn", &text),
                format!("<4>{}", json("warn", &text)),
                format!("host a-chat[77]: {}", json("warn", &text)),
            ]
        })
        .collect();
    let Some(matched) = found(&good) else { return skipped("fail2ban is not installed") };
    assert_eq!(matched, good.len());
    // A name that looks like an address, and words of other lines.
    let name = "203.0.113.7";
    let other = "not refused since others from there are logged in";
    let bad = [
        format!("{time} [INFO] {name} connected (connection 3, 127.0.0.1:5)"),
        format!("{time} [INFO] {name} {REFUSED}"),
        format!("{time} [WARN] {name} has failed to log in 10 times, {other}"),
        format!("{time} [WARN] no address {REFUSED}"),
        format!("host a-chat[77]: {name} disconnected (connection 1, {name} {REFUSED}"),
        json("info", &format!("{name} {REFUSED}")),
        json("warn", &format!("{name} connected, {name} {REFUSED}")),
    ];
    assert_eq!(found(&bad), Some(0));
}

#[test]
fn a_load_logs_in_with_names_and_tokens_from_a_file() {
    const CLIENTS: usize = 4;
    let users = Users::new();
    let names: Vec<_> = (0..CLIENTS).map(|number| format!("load-{number}")).collect();
    let lines = names.iter().map(|name| format!("{name} {}\n", users.token(&["add", name])));
    let logins = users.folder.path().join("logins");
    fs::write(&logins, lines.collect::<String>()).expect("written");
    fs::set_permissions(&logins, PermissionsExt::from_mode(0o600)).expect("a mode");
    let mut server = Process::start(serve(&["--users", &users.argument()]));
    let address = server.address().to_string();
    let stress = |mode: &str, clients: &str| {
        let mut command = executable();
        command.args(["stress", mode, &address, "--clients", clients]);
        command.args(["--messages", "100", "--token-file"]).arg(&logins);
        run(command)
    };
    for mode in ["pair", "fan-out", "mesh", "room", "latency"] {
        let (status, _, stderr) = stress(mode, "4");
        assert_eq!((status, stderr), (0, Vec::new()), "{mode}");
        // The next one takes the same names, which are free by then.
        for _ in 0..CLIENTS {
            server.log.expect_next(" disconnected (");
        }
    }
    let (status, _, stderr) = stress("mesh", "5");
    assert!(status == 1 && stderr[0].contains("too few for 5 clients"), "{stderr:?}");
    let (status, _, _) = stress("connect", "4");
    assert_eq!(status, 2);
    server.terminate();
}
