//! The executable keeps the library's promise with real signals, and its interface is dependable:
//! exit status, one-line errors, log, help, completions and manual pages.
//!
//! Each case starts the real process on a free port of the loopback and checks what an operator can
//! observe: both outputs, the log file, the exit status, and the lines that clients receive.
#![cfg(feature = "cli")]
#![allow(clippy::print_stdout, reason = "a test that cannot run here prints why")]

mod common;
#[path = "common/process.rs"]
mod process;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::{Client, TEST_TIMEOUT, try_login, wait_until};
use process::{EXECUTABLE, Process, SIGNALLED, executable, run, serve, serve_through, through};
use rustix::process::{Pid, Signal};
use socket2::{Domain, SockRef, Socket, Type};
use tempfile::TempDir;

/// Longer than any test waits: a timeout that must not decide a test.
const NEVER: &str = "10min";

/// Runs through `sh`, for its redirections.
fn redirected(redirections: &str, flags: &[&str]) -> Command {
    serve_through(&["sh", "-c", &format!("exec \"$0\" \"$@\" {redirections}")], flags)
}

/// The report is the log's last line.
fn report(log: &[String]) -> &str {
    let line = log.last().expect("a log");
    let (_, report) = line.split_once("] stopped").expect("the report at the end of the log");
    report
}

/// A client that logs in and never reads; its kernel buffers next to nothing for it.
fn stuck_client(address: SocketAddr, name: &str) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(1).expect("the smallest there is");
    socket.connect(&address.into()).expect("a listening server");
    let mut stream = TcpStream::from(socket);
    writeln!(stream, "{name}").expect("a server that reads");
    stream
}

/// Alice's window, large enough that it never fills in [`overload_bob`].
const WINDOW: [&str; 2] = ["--window", "1MiB"];

/// Makes `alice` send more to a stuck `bob` than the kernel takes; returns the number of messages.
fn overload_bob(process: &mut Process) -> (Client, TcpStream, usize) {
    const MESSAGES: usize = 400;
    let mut alice = process.login("alice");
    let bob = stuck_client(process.address(), "bob");
    let mut line = 1;
    wait_until("bob's login", || {
        line += 1;
        alice.send("/who bob");
        alice.line() == Some(format!("notice: line {line}: here: bob"))
    });
    for _ in 0..MESSAGES {
        alice.send(&format!("bob: {}", "x".repeat(1000)));
    }
    // The reply comes once all of them are routed.
    alice.send("/who bob");
    alice.expect_line(&format!("notice: line {}: here: bob", line + 1 + MESSAGES));
    (alice, bob, MESSAGES)
}

fn assert_drains_on(signal: Signal) {
    let mut process = Process::start(serve(&[]));
    let (mut alice, mut bob) = (process.login("alice"), process.login("bob"));
    alice.send("bob: hi");
    bob.expect_line("from alice: hi");
    process.signal(signal);
    alice.expect_line("notice: server is shutting down, 2 of your lines were accepted");
    bob.expect_line("notice: server is shutting down, 1 of your lines were accepted");
    for client in [&mut alice, &mut bob] {
        client.expect_eof();
        client.half_close();
    }
    let (status, log) = process.wait();
    assert_eq!(status, 0, "{log:#?}");
    assert!(log.iter().any(|line| line.contains(SIGNALLED)), "{log:#?}");
    let expected = ": 2 connections, 0 refused, 3 lines accepted, 1 delivery owed, 1 delivered, \
                    0 lost before the drain, 0 lost during it, drained in ";
    assert!(report(&log).starts_with(expected), "{log:#?}");
    assert!(!report(&log).contains("(forced)"), "{log:#?}");
}

#[test]
fn sigint_drains() {
    assert_drains_on(Signal::INT);
}

#[test]
fn sigterm_drains() {
    assert_drains_on(Signal::TERM);
}

#[test]
fn sigquit_drains() {
    assert_drains_on(Signal::QUIT);
}

#[test]
fn sighup_drains() {
    assert_drains_on(Signal::HUP);
}

#[test]
fn a_signal_in_the_middle_of_a_stream_loses_no_accepted_message() {
    // Alice writes until the test ends her stream, so the server must not close first.
    let flags = ["--linger", NEVER, "--drain-timeout", NEVER];
    let mut process = Process::start(serve(&flags));
    let (mut alice, mut bob) = (process.login("alice"), process.login("bob"));
    let mut sending = alice.stream.try_clone().expect("a descriptor");
    let sender = thread::spawn(move || {
        let mut number = 2;
        while writeln!(sending, "bob: {number}").is_ok() {
            number += 1;
        }
    });
    let mut received = 1;
    let mut receive = |line: &str| {
        received += 1;
        assert_eq!(line, format!("from alice: {received}"));
    };
    for _ in 0..5000 {
        receive(&bob.line().expect("the stream goes on"));
    }
    process.signal(Signal::TERM);
    let mut lines = bob.lines_to_eof();
    bob.half_close();
    let notice = "notice: server is shutting down, 1 of your lines were accepted";
    assert_eq!(lines.pop().as_deref(), Some(notice));
    for line in lines {
        receive(&line);
    }
    // Alice's number includes her `/who`, as the numbers in her messages do.
    let accepted =
        format!("notice: server is shutting down, {received} of your lines were accepted");
    alice.expect_line(&accepted);
    alice.expect_eof();
    alice.stream.shutdown(Shutdown::Both).expect("an open connection");
    sender.join().expect("no panic");
    let (status, log) = process.wait();
    assert_eq!(status, 0, "{log:#?}");
}

#[test]
fn a_second_signal_forces_the_drain_to_end_and_the_loss_is_named() {
    let mut command = serve(&WINDOW);
    command.args(["--drain-timeout", NEVER, "--stall-timeout", NEVER]);
    let mut process = Process::start(command);
    let (_alice, _bob, messages) = overload_bob(&mut process);
    process.signal(Signal::TERM);
    process.log.expect(SIGNALLED);
    // As an impatient operator would.
    let deadline = Instant::now() + TEST_TIMEOUT;
    let forced = "second signal received, forcing the drain to end";
    while !process.log.has_within(Duration::from_millis(100), forced) {
        assert!(Instant::now() < deadline, "{:#?}", process.log);
        process.signal(Signal::INT);
    }
    let (status, log) = process.wait();
    assert_eq!(status, 1, "{log:#?}");
    assert_bobs_loss(&log, messages, "drain forced");
}

#[test]
fn signals_sent_together_are_one_request() {
    while !are_one_request_if_taken_together() {}
}

/// False if the process took the signals so slowly that they count as more than one request.
fn are_one_request_if_taken_together() -> bool {
    let mut command = serve(&WINDOW);
    command.args(["--drain-timeout", NEVER, "--stall-timeout", NEVER, "--log-level", "debug"]);
    let mut process = Process::start(command);
    let (mut alice, bob, messages) = overload_bob(&mut process);
    // While the process is suspended they stay pending, so they arrive together on any machine.
    process.signal(Signal::STOP);
    wait_until("the process to be suspended", || process.state() == 'T');
    let begin = Instant::now();
    for signal in [Signal::TERM, Signal::HUP, Signal::INT, Signal::CONT] {
        process.signal(signal);
    }
    process.log.expect(SIGNALLED);
    for _ in 0..2 {
        let taken = process.log.expect_next(" signal ");
        if !taken.contains("ignored a repeated signal within 500 ms") {
            assert!(begin.elapsed() >= Duration::from_millis(500), "{taken}");
            return false;
        }
    }
    // So the drain continues until bob has received everything.
    bob.set_read_timeout(Some(TEST_TIMEOUT)).expect("a timeout");
    let lines: Vec<_> = BufReader::new(bob).lines().map_while(Result::ok).collect();
    assert_eq!(lines.len(), messages + 1);
    assert!(lines[messages].starts_with("notice: server is shutting down"), "{}", lines[messages]);
    alice.lines_to_eof();
    drop(alice);
    let (status, log) = process.wait();
    assert_eq!(status, 0, "{log:#?}");
    assert!(!report(&log).contains("(forced)"), "{log:#?}");
    true
}

#[test]
fn the_drain_deadline_forces_the_end_and_the_loss_is_named() {
    let mut command = serve(&WINDOW);
    command.args(["--drain-timeout", "200ms", "--stall-timeout", NEVER]);
    let mut process = Process::start(command);
    let (_alice, _bob, messages) = overload_bob(&mut process);
    let (status, log) = process.terminate();
    assert_eq!(status, 1, "{log:#?}");
    assert_bobs_loss(&log, messages, "drain deadline");
}

/// The log names bob's loss in a line of its own, and the report's numbers add up.
fn assert_bobs_loss(log: &[String], messages: usize, reason: &str) {
    let report = report(log);
    assert!(report.starts_with(" with losses: "), "{log:#?}");
    assert!(report.ends_with(" s (forced)"), "{log:#?}");
    let number_before = |text: &str| -> usize {
        let (before, _) = report.split_once(text).expect("the report's words");
        before.rsplit(' ').next().and_then(|word| word.parse().ok()).expect("a number")
    };
    let lost = number_before(" lost during it");
    assert_eq!(number_before(" deliveries owed"), messages, "{log:#?}");
    assert_eq!(number_before(" delivered,") + lost, messages, "{log:#?}");
    let is_bobs = |line: &&String| line.contains("bob disconnected (connection 2, ");
    let line = log.iter().find(is_bobs).unwrap_or_else(|| panic!("{log:#?}"));
    let (reason, loss) = (format!("): {reason}; 0 lines in, "), format!(", {lost} lost, "));
    assert!(lost > 0 && line.contains(&reason) && line.contains(&loss), "{log:#?}");
}

#[test]
fn a_client_that_stays_connected_but_received_everything_is_no_loss() {
    let mut process = Process::start(serve(&["--linger", "50ms"]));
    let (mut alice, _bob) = (process.login("alice"), process.login("bob"));
    alice.send("bob: hi\n/who bob");
    alice.expect_line("notice: line 3: here: bob");
    let (status, log) = process.terminate();
    assert_eq!(status, 0, "{log:#?}");
    assert!(
        report(&log).contains("1 delivered, 0 lost before the drain, 0 lost during it"),
        "{log:#?}"
    );
}

#[test]
fn a_loss_before_the_drain_is_reported_but_does_not_fail_the_drain() {
    let mut command = serve(&WINDOW);
    command.args(["--stall-timeout", NEVER]);
    let mut process = Process::start(command);
    let (mut alice, bob, messages) = overload_bob(&mut process);
    // This resets the connection.
    SockRef::from(&bob).set_linger(Some(Duration::ZERO)).expect("an option");
    drop(bob);
    process.log.expect("bob disconnected");
    alice.half_close();
    let (status, log) = process.terminate();
    assert_eq!(status, 0, "{log:#?}");
    let expected = format!(" {messages} deliveries owed, ");
    let report = report(&log);
    assert!(report.contains(&expected) && !report.contains(" 0 lost before"), "{log:#?}");
    alice.lines_to_eof();
}

#[test]
fn the_first_process_of_a_container_drains() {
    // A process with the number 1 receives only signals that it has a handler for.
    let root = rustix::process::geteuid().is_root();
    let mut launcher = vec!["unshare", "--pid", "--fork", "--kill-child"];
    launcher.extend((!root).then_some("--user"));
    let mut attempt = Command::new(launcher[0]);
    attempt.args(&launcher[1..]).arg("true").stdin(Stdio::null()).stderr(Stdio::null());
    if !attempt.status().is_ok_and(|status| status.success()) {
        println!("skipped: no process can be number 1 here");
        return;
    }
    let mut process = Process::start(serve_through(&launcher, &[]));
    let (mut alice, mut bob) = (process.login("alice"), process.login("bob"));
    let launcher = process.pid.as_raw_pid();
    let children = fs::read_to_string(format!("/proc/{launcher}/task/{launcher}/children"));
    let child = children.ok().and_then(|child| child.trim().parse().ok()).and_then(Pid::from_raw);
    let Some(child) = child else {
        println!("skipped: this kernel does not list the children of a process");
        return;
    };
    process.pid = child;
    let status = fs::read_to_string(format!("/proc/{}/status", child.as_raw_pid()));
    let status = status.expect("procfs");
    let numbers =
        status.lines().find(|line| line.starts_with("NSpid:")).expect("a kernel like this");
    assert!(numbers.ends_with("\t1"), "{numbers}");
    alice.send("bob: hi");
    process.signal(Signal::TERM);
    let notice = "notice: server is shutting down, 1 of your lines were accepted";
    bob.expect_lines(&["from alice: hi", notice]);
    drop((alice, bob));
    let (status, log) = process.wait();
    assert_eq!(status, 0, "{log:#?}");
    assert!(report(&log).contains("1 delivered"), "{log:#?}");
}

#[test]
fn the_server_prints_the_port_it_took_and_how_to_connect() {
    let mut process = Process::start(serve(&[]));
    let address = process.address();
    assert_ne!(address.port(), 0);
    TcpStream::connect(address).expect("a listening server");
    process.stdout.expect(&format!("nc 127.0.0.1 {}", address.port()));
    process.log.expect(&format!("listening on {address}"));
}

#[test]
fn the_program_serves_without_a_command() {
    let mut command = executable();
    command.env("A_CHAT_LISTEN", "127.0.0.1:0").env("A_CHAT_MAX_CONNECTIONS", "1");
    let mut process = Process::start(command);
    let _alice = process.login("alice");
    let refused = try_login(process.address(), "bob");
    assert!(refused.is_none(), "the environment applies without a command too");
    assert_eq!(process.terminate().0, 0);
}

#[test]
fn a_server_reachable_from_other_hosts_logs_a_warning() {
    let warned = |address| {
        let mut command = executable();
        command.args(["serve", "--listen", address, "--log-level", "warn"]);
        let mut process = Process::start(command);
        process.address();
        process.terminate().1
    };
    assert!(warned("0.0.0.0:0").iter().any(|line| line.contains("is reachable from other hosts")));
    assert_eq!(warned("127.0.0.1:0"), Vec::<String>::new());
    if has_ipv6() {
        assert_eq!(warned("[::ffff:127.0.0.1]:0"), Vec::<String>::new());
        assert_eq!(warned("[::1]:0"), Vec::<String>::new());
    }
}

/// True if this machine has IPv6; prints why a test is skipped otherwise.
fn has_ipv6() -> bool {
    let bound = TcpListener::bind("[::1]:0").is_ok();
    if !bound {
        println!("skipped: no IPv6 here");
    }
    bound
}

#[test]
fn the_server_listens_on_every_address_it_is_given() {
    let mut by_flags = executable();
    by_flags.args(["-l", "127.0.0.1:0", "--listen", "127.0.0.2:0"]);
    let mut by_variable = executable();
    by_variable.env("A_CHAT_LISTEN", "127.0.0.1:0, 127.0.0.2:0");
    for command in [by_flags, by_variable] {
        let mut process = Process::start(command);
        let first = process.address();
        let second = process.stdout.expect("a-chat listens on 127.0.0.2:");
        let second = second.rsplit(' ').next().and_then(|word| word.parse().ok());
        let second: SocketAddr = second.expect("an address");
        process.log.expect(&format!("listening on {first} and {second}, capacity"));
        let login = |address, name| try_login(address, name).expect("room");
        let (mut alice, mut bob) = (login(first, "alice"), login(second, "bob"));
        alice.send("bob: hi");
        bob.expect_line("from alice: hi");
        // Both are closed before the drain.
        process.signal(Signal::TERM);
        process.log.expect(SIGNALLED);
        alice.lines_to_eof();
        for address in [first, second] {
            let refused = TcpStream::connect(address).expect_err("no server listens");
            assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        }
        drop((alice, bob));
        let (status, log) = process.wait();
        assert_eq!(status, 0, "{log:#?}");
    }
}

#[test]
fn one_address_in_use_among_several_is_an_error_that_names_it() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address").to_string();
    let flags = ["--listen", "127.0.0.2:0", "--listen", &address];
    assert_fails(executable(), &flags, &["cannot listen on ", &address, "in use"]);
    assert_fails(
        executable(),
        &["-l", "nowhere.invalid:1"],
        &["cannot listen on nowhere.invalid:1"],
    );
}

#[test]
fn the_wildcards_of_both_families_work_on_one_port() {
    if !has_ipv6() {
        return;
    }
    for order in [["0.0.0.0", "[::]"], ["[::]", "0.0.0.0"], ["[::]", "127.0.0.1"]] {
        // Another process may take the port in between, as seldom as that is.
        let started = (0..10).find_map(|_| {
            let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
            let port = free.local_addr().expect("an address").port();
            drop(free);
            let listen = order.map(|host| format!("{host}:{port}")).join(",");
            let mut command = executable();
            command.args(["--listen", &listen, "--linger", "50ms"]);
            let mut process = Process::start(command);
            process.log.expect_or_end("listening on ");
            let line = process.log.last().unwrap_or_default().to_owned();
            assert!(line.contains("listening on ") || line.contains("in use"), "{line}");
            line.contains("listening on ").then_some((process, port))
        });
        let (process, port) = started.expect("a free port");
        let mut alice = try_login(([127, 0, 0, 1], port).into(), "alice").expect("room");
        let mut bob = try_login((Ipv6Addr::LOCALHOST, port).into(), "bob").expect("room");
        alice.send("bob: hi");
        bob.expect_line("from alice: hi");
        alice.leave();
        bob.leave();
        let (status, log) = process.terminate();
        assert_eq!(status, 0, "{log:#?}");
    }
}

/// A launcher with these addresses for the name `twofold`, in a network of its own whose loopback has
/// IPv6 or not. `None` where that cannot be arranged.
fn with_twofold_name(ipv6: bool) -> Option<(TempDir, Vec<String>)> {
    let directory = tempfile::tempdir().expect("a directory");
    let hosts = directory.path().join("hosts");
    fs::write(&hosts, "127.0.0.1 twofold\n::1 twofold\n").expect("a file");
    let ipv6 = u8::from(!ipv6);
    let script = format!(
        "mount --bind {} /etc/hosts && ip link set lo up && \
         echo {ipv6} > /proc/sys/net/ipv6/conf/all/disable_ipv6 && exec \"$0\" \"$@\"",
        hosts.display()
    );
    let launcher = ["unshare", "--net", "--mount", "sh", "-c", &script].map(str::to_owned).to_vec();
    let mut attempt = Command::new(&launcher[0]);
    let attempt = attempt.args(&launcher[1..]).arg("true").stdin(Stdio::null()).output();
    if attempt.is_ok_and(|attempt| attempt.status.success()) {
        return Some((directory, launcher));
    }
    println!("skipped: no network with a name of two addresses here");
    None
}

fn listen_on_twofold(launcher: &[String]) -> Process {
    let launcher: Vec<_> = launcher.iter().map(String::as_str).collect();
    let mut command = through(&launcher, EXECUTABLE);
    command.args(["--listen", "twofold:0"]);
    Process::start(command)
}

#[test]
fn a_name_stands_for_all_its_addresses() {
    let Some((_hosts, launcher)) = with_twofold_name(true) else { return };
    let mut process = listen_on_twofold(&launcher);
    let port = process.address().port();
    for address in ["127.0.0.1", "[::1]"] {
        process.stdout.expect(&format!("a-chat listens on {address}:{port}"));
    }
    assert_eq!(process.terminate().0, 0);
}

#[test]
fn a_family_that_the_machine_lacks_is_skipped() {
    let Some((_hosts, launcher)) = with_twofold_name(false) else { return };
    let mut process = listen_on_twofold(&launcher);
    assert!(process.address().is_ipv4());
    let (status, log) = process.terminate();
    assert_eq!(status, 0, "{log:#?}");
    assert!(
        log[0].contains("cannot listen on [::1]:") && log[0].ends_with("; skipped"),
        "{log:#?}"
    );
    // It is no reason to go without an address that was asked for by itself.
    let launcher: Vec<_> = launcher.iter().map(String::as_str).collect();
    let alone = through(&launcher, EXECUTABLE);
    assert_fails(alone, &["-l", "127.0.0.1:0", "-l", "[::1]:0"], &["cannot listen on [::1]:0"]);
}

/// The program prints one line that names the fault, and exits with status 1.
fn assert_fails(mut command: Command, flags: &[&str], named: &[&str]) {
    command.args(flags);
    let (status, stdout, stderr) = run(command);
    assert_eq!((status, stdout.as_slice()), (1, [].as_slice()), "{flags:?}: {stderr:#?}");
    assert_eq!(stderr.len(), 1, "{flags:?}: {stderr:#?}");
    let causes: Vec<_> = stderr[0].split(": ").collect();
    let is_told_once = (1..causes.len()).all(|next| !causes[..next].contains(&causes[next]));
    assert!(is_told_once, "{flags:?}: {stderr:#?}");
    for named in ["a-chat: "].iter().chain(named) {
        assert!(stderr[0].contains(named), "{flags:?}: {stderr:#?}");
    }
}

#[test]
fn a_port_in_use_is_reported_in_one_line() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address").to_string();
    assert_fails(executable(), &["serve", "--listen", &address], &[&address, "in use"]);
}

#[test]
fn an_address_of_another_machine_is_reported_in_one_line() {
    let flags = ["serve", "--listen", "192.0.2.1:1"];
    assert_fails(executable(), &flags, &["192.0.2.1:1", "assign"]);
}

#[test]
fn an_unusable_limit_is_a_wrong_command_line_that_names_flag_or_variable() {
    let limits = [
        ("--max-connections", "0", "must be at least 1"),
        ("--max-per-address", "0", "must be at least 1"),
        ("--max-line", "0", "must be at least 1 byte, as in 64KiB"),
        ("--max-line", "1GiB", "must be at most 64 MiB, as in 64KiB"),
        ("--window", "0", "must be at least 1 byte, as in 256KiB"),
        ("--login-timeout", "0s", "must not be zero, as in 10s"),
        ("--stall-timeout", "0", "must not be zero, as in 10s"),
        ("--stall-bytes", "0", "must be at least 1 byte, as in 32KiB"),
        ("--stats-every", "0", "must not be zero"),
        ("--drain-timeout", "400days", "of at most a year, as in 10, 1.5s or 2min"),
    ];
    for (flag, value, cause) in limits {
        let named = format!("invalid value '{value}' for '{flag}': ");
        assert_refuses(serve(&[]), &[flag, value], &[&named, cause]);
        let variable = format!("A_CHAT_{}", flag[2..].replace('-', "_").to_uppercase());
        let mut command = executable();
        command.env(&variable, value);
        let named = format!("invalid value '{value}' for the environment variable {variable}: ");
        assert_refuses(command, &[], &[&named, cause]);
    }
}

#[test]
fn a_log_file_that_cannot_be_opened_is_reported_in_one_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("missing").join("log");
    let path = path.to_str().expect("a path in UTF-8");
    assert_fails(serve(&[]), &["--log-file", path], &[path]);
}

/// The command line is refused with status 2 and a text that names the fault.
fn assert_refuses(mut command: Command, arguments: &[&str], named: &[&str]) {
    command.args(arguments);
    let (status, stdout, stderr) = run(command);
    assert_eq!((status, stdout.as_slice()), (2, [].as_slice()), "{arguments:?}: {stderr:#?}");
    let text = stderr.join("\n");
    for named in named {
        assert!(text.contains(named), "{arguments:?}: {stderr:#?}");
    }
}

#[test]
fn a_wrong_command_line_is_refused() {
    assert_refuses(executable(), &["--nonsense"], &["--nonsense"]);
    assert_refuses(executable(), &["nonsense"], &["nonsense"]);
    assert_refuses(executable(), &["serve", "nonsense"], &["nonsense"]);
    assert_refuses(executable(), &["serve", "--nonsense"], &["--nonsense"]);
    assert_refuses(executable(), &["serve", "--listen"], &["--listen"]);
}

/// Every flag, its environment variable, its default, and an unusable value if the command line can
/// tell.
const FLAGS: [(&str, &str, Option<&str>, Option<&str>); 38] = [
    ("--listen", "A_CHAT_LISTEN", Some("127.0.0.1:8080"), Some("8080")),
    ("--unix-mode", "A_CHAT_UNIX_MODE", Some("660"), Some("rw")),
    ("--unix-group", "A_CHAT_UNIX_GROUP", None, None),
    ("--proxy-from", "A_CHAT_PROXY_FROM", None, Some("10.0.0.1/8")),
    ("--users", "A_CHAT_USERS", None, None),
    ("--guests", "A_CHAT_GUESTS", Some("no"), Some("some")),
    ("--takeover", "A_CHAT_TAKEOVER", Some("no"), Some("maybe")),
    ("--trust-unix", "A_CHAT_TRUST_UNIX", None, Some("65534")),
    ("--failed-logins", "A_CHAT_FAILED_LOGINS", Some("10/60s"), Some("10")),
    ("--max-logins", "A_CHAT_MAX_LOGINS", None, Some("few")),
    ("--rate", "A_CHAT_RATE", None, Some("0")),
    ("--max-connections", "A_CHAT_MAX_CONNECTIONS", None, Some("many")),
    ("--max-per-address", "A_CHAT_MAX_PER_ADDRESS", None, Some("few")),
    ("--max-line", "A_CHAT_MAX_LINE", Some("64KiB"), Some("long")),
    ("--window", "A_CHAT_WINDOW", Some("256KiB"), Some("-1")),
    ("--login-timeout", "A_CHAT_LOGIN_TIMEOUT", Some("10s"), Some("1,5")),
    ("--stall-timeout", "A_CHAT_STALL_TIMEOUT", Some("10s"), Some("soon")),
    ("--stall-bytes", "A_CHAT_STALL_BYTES", Some("32KiB"), Some("some")),
    ("--drain-timeout", "A_CHAT_DRAIN_TIMEOUT", Some("5s"), Some("5 apples")),
    ("--linger", "A_CHAT_LINGER", Some("1s"), Some("-1s")),
    ("--tls-cert", "A_CHAT_TLS_CERT", None, None),
    ("--tls-key", "A_CHAT_TLS_KEY", None, None),
    ("--plain", "A_CHAT_PLAIN", Some("loopback"), Some("perhaps")),
    ("--log-level", "A_CHAT_LOG_LEVEL", Some("info"), Some("loud")),
    ("--log-format", "A_CHAT_LOG_FORMAT", Some("text"), Some("xml")),
    ("--log-file", "A_CHAT_LOG_FILE", None, None),
    ("--config", "A_CHAT_CONFIG", None, None),
    ("--status", "A_CHAT_STATUS", None, Some("9090")),
    ("--status-clients", "A_CHAT_STATUS_CLIENTS", None, None),
    ("--cluster", "A_CHAT_CLUSTER", None, None),
    ("--node", "A_CHAT_NODE", None, Some("a b")),
    ("--cluster-name", "A_CHAT_CLUSTER_NAME", Some("a-chat"), Some("a b")),
    ("--cluster-password-file", "A_CHAT_CLUSTER_PASSWORD_FILE", None, None),
    ("--cluster-hold", "A_CHAT_CLUSTER_HOLD", Some("10s"), Some("soon")),
    ("--cluster-lease", "A_CHAT_CLUSTER_LEASE", Some("10s"), Some("soon")),
    ("--cluster-first", "A_CHAT_CLUSTER_FIRST", None, None),
    ("--report", "A_CHAT_REPORT", None, None),
    ("--stats-every", "A_CHAT_STATS_EVERY", None, Some("often")),
];

#[test]
fn an_unusable_value_is_refused_from_a_flag_and_from_the_environment() {
    for (flag, variable, _, wrong) in FLAGS {
        let Some(wrong) = wrong else {
            continue;
        };
        assert_refuses(executable(), &["serve", &format!("{flag}={wrong}")], &[flag, wrong]);
        for arguments in [&["serve"][..], &[]] {
            let mut command = executable();
            command.env(variable, wrong);
            let named = format!("invalid value '{wrong}' for the environment variable {variable}");
            assert_refuses(command, arguments, &[&named, "expected "]);
        }
    }
}

#[test]
fn an_empty_variable_counts_as_absent() {
    let mut command = executable();
    for (_, variable, ..) in FLAGS {
        command.env(variable, "");
    }
    command.args(["serve", "--listen", "127.0.0.1:0"]);
    let mut process = Process::start(command);
    drop(process.login("alice"));
    let (status, log) = process.terminate();
    assert!(status == 0 && log.iter().any(|line| line.contains("alice connected")), "{log:#?}");
    // The help shows all variables even then.
    let mut command = executable();
    command.args(["serve", "--help"]);
    for (_, variable, ..) in FLAGS {
        command.env(variable, "");
    }
    let (_, text, _) = run(command);
    let text: Vec<_> = text.iter().map(|line| line.trim_end()).collect();
    assert_eq!(text, help(&["serve", "--help"]));
}

#[test]
fn a_refused_value_shows_control_characters_escaped() {
    assert_refuses(
        serve(&[]),
        &["--window", "\u{1b}[2J"],
        &["invalid value '\\u{1b}[2J' for '--window'"],
    );
}

#[test]
fn a_command_line_that_begins_with_a_flag_is_one_of_serve() {
    let mut command = executable();
    command.args(["--listen", "127.0.0.1:0", "--log-level", "warning"]);
    let mut process = Process::start(command);
    drop(process.login("alice"));
    assert_eq!(process.terminate(), (0, Vec::new()));
    assert_refuses(executable(), &["--max-line", "0"], &["Usage: a-chat serve [OPTIONS]"]);
    assert!(help(&["--log-level", "off", "--help"]).iter().any(|line| line.contains("--window")));
}

#[test]
fn a_misspelt_command_flag_or_value_gets_a_suggestion() {
    assert_refuses(executable(), &["conect"], &["a similar subcommand exists: 'connect'"]);
    assert_refuses(executable(), &["serve", "--lisen", "x"], &["exists: '--listen'"]);
    let named = ["[possible values: off, error, warn, info, debug, trace]", "exists: 'warn'"];
    assert_refuses(executable(), &["--log-level", "warnin"], &named);
}

#[test]
fn a_wrong_command_line_shows_the_usage_of_its_command() {
    let usage = "Usage: a-chat stress [OPTIONS] <MODE> [ADDR:PORT]";
    let cases: [(&[&str], &str); 5] = [
        (&["mesh", "--clients", "1"], "'1' for '--clients': mesh takes 2 to 4096, as in 100"),
        (&["pair", "--clients", "3"], "'3' for '--clients': pair takes an even number, as in 16"),
        (&["pair", "--size", "1"], "'1' for '--size': a text has "),
        (&["pair", "--messages", "0"], "'0' for '--messages': must be at least 1"),
        (&["pair", "--duration", "0"], "'0' for '--duration': must not be zero"),
    ];
    for (arguments, cause) in cases {
        assert_refuses(executable(), &[&["stress"], arguments].concat(), &[cause, usage]);
    }
    let connect = "Usage: a-chat connect [OPTIONS] [ADDR:PORT]";
    assert_refuses(
        executable(),
        &["connect", "-n", "no name"],
        &["'no name' for '--name'", connect],
    );
}

#[test]
fn connect_takes_address_and_name_from_variables_and_short_flags() {
    let mut process = Process::start(serve(&[]));
    let address = process.address().to_string();
    let mut bob = process.login("bob");
    for by_variable in [true, false] {
        let mut command = executable();
        command.arg("connect").stdin(Stdio::piped());
        if by_variable {
            command.env("A_CHAT_CONNECT", &address).env("A_CHAT_NAME", "alice");
        } else {
            command
                .args(["-n", "alice", &address])
                .env("A_CHAT_CONNECT", "")
                .env("A_CHAT_NAME", "");
        }
        let mut client = Process::start(command);
        client.write_and_end("bob: hi\n");
        bob.expect_line("from alice: hi");
        assert_eq!(client.outcome(), (0, Vec::new(), Vec::new()));
    }
    bob.leave();
    assert_eq!(process.terminate().0, 0);
}

#[test]
fn a_client_that_only_receives_needs_no_input() {
    let mut process = Process::start(serve(&[]));
    let address = process.address().to_string();
    let mut command = executable();
    command.args(["connect", "--receive", "--name", "bob", &address]);
    let mut client = Process::start(command);
    let mut alice = process.login("alice");
    let mut line = 1;
    wait_until("bob's login", || {
        line += 1;
        alice.send("/who bob");
        alice.line() == Some(format!("notice: line {line}: here: bob"))
    });
    alice.send("bob: hi");
    client.stdout.expect_line("from alice: hi");
    client.signal(Signal::TERM);
    assert_eq!(client.wait(), (0, Vec::new()));
    // The server's shutdown is as good an end.
    let mut command = executable();
    command.args(["connect", "--receive", "--name", "carol", &address]);
    let mut client = Process::start(command);
    wait_until("carol's login", || {
        line += 1;
        alice.send("/who carol");
        let last = alice.line();
        last.is_some_and(|last| last.ends_with(": here: carol"))
    });
    // The server knows the name before she knows that she is logged in, and until then a shutdown is
    // a failed login.
    alice.send("carol: hi");
    client.stdout.expect_line("from alice: hi");
    process.signal(Signal::TERM);
    client.stdout.expect("notice: server is shutting down, 0 of your lines were accepted");
    let (status, stderr) = client.wait();
    assert_eq!(status, 0, "{stderr:#?}");
    let needs = ["connect", "--receive"];
    assert_refuses(executable(), &needs, &["--name <NAME>"]);
    let both = ["connect", "--receive", "-n", "bob", "--wait", "1"];
    assert_refuses(executable(), &both, &["--receive", "cannot be used with", "--wait"]);
    alice.lines_to_eof();
    drop(alice);
    assert_eq!(process.wait().0, 0);
}

#[test]
fn a_start_that_fails_is_in_the_log_file_too() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("log");
    let mut command = executable();
    command.arg("serve").arg("--log-file").arg(&path);
    assert_fails(command, &["--listen", "192.0.2.1:1"], &["cannot listen on 192.0.2.1:1"]);
    let log = fs::read_to_string(&path).expect("a log file");
    assert!(log.contains(" [ERROR] cannot listen on 192.0.2.1:1: "), "{log}");
}

#[test]
fn the_report_is_written_as_one_json_object() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("report.json");
    for to_file in [true, false] {
        let mut command = serve(&WINDOW);
        command.args(["--drain-timeout", "0.2", "--stall-timeout", NEVER]);
        command.arg("--report").arg(if to_file { path.as_os_str() } else { OsStr::new("-") });
        let mut process = Process::start(command);
        let (_alice, _bob, messages) = overload_bob(&mut process);
        process.signal(Signal::TERM);
        let (status, stdout, log) = process.outcome();
        assert_eq!(status, 1, "{log:#?}");
        let json = if to_file {
            fs::read_to_string(&path).expect("a report")
        } else {
            stdout.last().cloned().expect("a report")
        };
        let report: serde_json::Value = serde_json::from_str(&json).expect("one JSON object");
        let number = |key: &str| report[key].as_u64().unwrap_or_else(|| panic!("{key} in {json}"));
        assert_eq!(number("owed"), messages as u64, "{json}");
        assert_eq!(number("connections"), 2, "{json}");
        assert_eq!(number("delivered") + number("lost_in_drain"), messages as u64, "{json}");
        let loss = &report["losses_in_drain"][0];
        assert_eq!(loss["name"], "bob", "{json}");
        assert_eq!(loss["messages"].as_u64(), Some(number("lost_in_drain")), "{json}");
        assert_eq!(loss["reason"], "drain deadline", "{json}");
        assert!(report["drain"].as_f64().is_some_and(|seconds| seconds >= 0.2), "{json}");
        assert_eq!(report["forced"], true, "{json}");
    }
    let flags = ["--report", "/dev/null/report"];
    assert_fails(serve(&[]), &flags, &["cannot create /dev/null/report"]);
}

#[test]
fn the_live_counters_are_logged_at_an_interval() {
    let mut process = Process::start(serve(&["--stats-every", "0.05"]));
    let mut alice = process.login("alice");
    alice.send("alice: hi");
    let line =
        process.log.expect(" 2 accepted, 1 owed, 1 written, 1 delivered, 0 lost, 0 B queued");
    assert!(line.contains("] counters: 1 connected now, 1 connection, 0 refused"), "{line}");
    alice.leave();
    assert_eq!(process.terminate().0, 0);
}

#[test]
fn environment_variables_set_what_flags_set() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("log");
    let mut command = executable();
    command.args(["serve", "--max-line", "20"]);
    command.env("A_CHAT_LISTEN", "127.0.0.1:0").env("A_CHAT_LOG_FILE", &path);
    command.env("A_CHAT_LOG_LEVEL", "error").env("A_CHAT_LOGIN_TIMEOUT", "2s");
    command.env("A_CHAT_MAX_LINE", "10");
    let mut process = Process::start(command);
    let mut silent = Client::connect(process.address());
    silent.expect_lines(&["error: login not in time"]);
    let mut alice = Client::connect(process.address());
    alice.send("a\na: sixteen bytes");
    alice.expect_line("from a: sixteen bytes");
    assert_eq!(process.terminate(), (0, Vec::new()));
    let log = fs::read_to_string(path).expect("a log file");
    assert_eq!(log, "", "both level and file come from the environment");
}

/// The lines of a help text, without trailing blanks.
fn help(arguments: &[&str]) -> Vec<String> {
    let mut command = executable();
    command.args(arguments);
    let (status, stdout, stderr) = run(command);
    assert_eq!((status, stderr.as_slice()), (0, [].as_slice()));
    stdout.into_iter().map(|line| line.trim_end().to_owned()).collect()
}

#[test]
fn the_help_lists_every_flag_default_and_environment_variable() {
    let lines = help(&["serve", "--help"]);
    let mut flags = BTreeMap::new();
    let mut current = String::new();
    for line in lines.iter().map(|line| line.trim()) {
        if line.starts_with('-') && !line.starts_with("- ") {
            current =
                line.split([' ', '[']).find(|word| word.starts_with("--")).expect("a name").into();
        }
        flags.entry(current.clone()).or_insert_with(Vec::new).push(line);
    }
    for (flag, variable, default, _) in FLAGS {
        let text = flags.remove(flag).expect(flag).join("\n");
        // One that may hold a password is shown without its value.
        let shown = [format!("[env: {variable}=]"), format!("[env: {variable}]")];
        assert!(shown.iter().any(|shown| text.contains(shown)), "{text}");
        assert!(
            default.is_none_or(|default| text.contains(&format!("[default: {default}]"))),
            "{text}"
        );
    }
    // The text before the first flag, the help itself, and what replaces a start.
    let rest: Vec<_> = flags.into_keys().collect();
    assert_eq!(rest, ["", "--check", "--help", "--print-limits"]);
    let all = lines.join(" ").split_whitespace().collect::<Vec<_>>().join(" ");
    for text in
        ["SIGINT", "SIGTERM", "SIGQUIT", "SIGHUP", "Exit status: 0", "what the machine can hold"]
    {
        assert!(all.contains(text), "{text} in {lines:#?}");
    }
}

#[test]
fn the_programs_help_states_what_runs_without_a_command() {
    let text = help(&["--help"]).join(" ");
    assert!(text.contains("serve") && text.contains("127.0.0.1:8080"), "{text}");
    assert_eq!(help(&["--version"]), [concat!("a-chat ", env!("CARGO_PKG_VERSION"))]);
}

#[test]
fn the_help_does_not_depend_on_the_terminal() {
    let mut command = executable();
    command.args(["serve", "--help"]).env("COLUMNS", "40");
    let (_, narrow, _) = run(command);
    let narrow: Vec<_> = narrow.iter().map(|line| line.trim_end()).collect();
    assert_eq!(help(&["serve", "--help"]), narrow);
}

#[test]
fn the_operations_page_shows_the_help_as_it_is() {
    let expected = help(&["serve", "--help"]);
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operations.md");
    let page = fs::read_to_string(path).expect("docs/operations.md");
    let blocks = page.split("\n```text\n").skip(1);
    let mut blocks = blocks.filter_map(|rest| Some(rest.split_once("\n```")?.0));
    let shown = blocks.find(|block| block.lines().next() == expected.first().map(String::as_str));
    let whole = expected.join("\n");
    if let Some(shown) = shown.filter(|_| std::env::var_os("A_CHAT_RENEW").is_some()) {
        fs::write(path, page.replace(shown, &whole)).expect("room");
        return;
    }
    let shown =
        shown.unwrap_or_else(|| panic!("docs/operations.md lacks this block of text:\n{whole}"));
    let shown: Vec<_> = shown.lines().map(str::trim_end).collect();
    assert_eq!(shown, expected, "expected:\n{whole}");
}

/// The current time in UTC to the second, in the format of log lines.
fn now() -> String {
    let date = Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%S"]).output().expect("date(1)");
    String::from_utf8(date.stdout).expect("UTF-8").trim().to_owned()
}

#[test]
fn the_log_file_is_complete_and_in_utc() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("log");
    let before = now();
    for round in 1..=2 {
        let mut command = serve(&["--log-file", path.to_str().expect("a path in UTF-8")]);
        command.env("TZ", "XYZ-5:30");
        let mut process = Process::start(command);
        let address = process.address();
        wait_until("the log's first line", || {
            let log = fs::read_to_string(&path).unwrap_or_default();
            log.lines().filter(|line| line.contains(&format!("listening on {address}"))).count()
                == 1
        });
        for name in ["alice", "bob", "carol"] {
            drop(process.login(name));
        }
        let _dave = process.login("dave");
        let (status, stderr) = process.terminate();
        assert_eq!((status, stderr.as_slice()), (0, [].as_slice()), "the log goes to the file");

        // The second server appends.
        let log = fs::read_to_string(&path).expect("a log file");
        assert!(log.ends_with('\n'), "{log}");
        let lines: Vec<_> = log.lines().map(str::to_owned).collect();
        let session = lines.iter().rposition(|line| line.contains("listening on"));
        let session = &lines[session.expect("the log's first line")..];
        assert_eq!(log.matches("listening on").count(), round, "{log}");
        assert!(report(session).starts_with(": 4 connections"), "{session:#?}");
        for name in ["alice", "bob", "carol", "dave"] {
            for event in [" connected (", " disconnected ("] {
                let event = format!(" {name}{event}");
                let times = session.iter().filter(|line| line.contains(&event)).count();
                assert_eq!(times, 1, "{event}: {session:#?}");
            }
        }
        let after = now();
        for line in &lines {
            let (stamp, rest) = line.split_once(' ').expect("a time and a text");
            let second = stamp.get(..before.len()).expect("a time to the second at least");
            assert!(stamp.ends_with('Z') && rest.starts_with('['), "{line}");
            assert!(
                before.as_str() <= second && second <= after.as_str(),
                "{before} {line} {after}"
            );
        }
    }
}

#[test]
fn the_log_level_is_obeyed() {
    for (level, silent) in [("off", true), ("warn", true), ("info", false)] {
        let mut process = Process::start(serve(&["--log-level", level]));
        drop(process.login("alice"));
        let (status, log) = process.terminate();
        assert_eq!(status, 0, "{log:#?}");
        assert_eq!(log.is_empty(), silent, "{level}: {log:#?}");
    }
}

/// A session and a clean shutdown.
fn assert_serves(process: Process, address: SocketAddr) {
    let login = |name| try_login(address, name).expect("room");
    let (mut alice, mut bob) = (login("alice"), login("bob"));
    alice.send("bob: hi");
    bob.expect_line("from alice: hi");
    process.signal(Signal::TERM);
    bob.expect_line("notice: server is shutting down, 1 of your lines were accepted");
    drop((alice, bob));
    assert_eq!(process.wait().0, 0);
}

/// One end of a stream whose other end is closed.
fn broken_pipe() -> OwnedFd {
    let (ours, _closed) = UnixStream::pair().expect("two sockets");
    ours.into()
}

/// The address from the log, for a process that cannot print it.
fn address_in_log(process: &mut Process) -> SocketAddr {
    let line = process.log.expect("listening on ");
    let (_, rest) = line.split_once("listening on ").expect("as it was found");
    let (address, _) = rest.split_once(',').expect("an address and the room there");
    address.parse().expect("an address")
}

#[test]
fn the_server_works_with_a_broken_standard_output() {
    let mut broken = serve(&[]);
    broken.stdout(broken_pipe());
    for command in [broken, redirected(">&-", &[]), redirected("> /dev/full", &[])] {
        let mut process = Process::start(command);
        let address = address_in_log(&mut process);
        assert_serves(process, address);
    }
}

#[test]
fn the_server_works_with_a_broken_log() {
    let mut broken = serve(&[]);
    broken.stderr(broken_pipe());
    for command in [broken, redirected("2>&-", &[]), redirected("2> /dev/full", &[])] {
        let mut process = Process::start(command);
        let address = process.address();
        assert_serves(process, address);
    }
}

#[test]
fn the_port_is_free_again_after_the_exit() {
    let mut process = Process::start(serve(&[]));
    let address = process.address();
    let mut alice = process.login("alice");
    process.signal(Signal::TERM);
    alice.lines_to_eof();
    drop(alice);
    assert_eq!(process.wait().0, 0);
    let refused = TcpStream::connect(address).expect_err("nobody listens");
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    let mut command = executable();
    command.args(["serve", "--listen", &address.to_string()]);
    let mut next = Process::start(command);
    assert_eq!(next.address(), address);
}

#[test]
fn every_command_is_in_the_completions_of_every_shell() {
    let commands = ["serve", "connect", "stress", "completions", "manual"];
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let mut command = executable();
        command.args(["completions", shell]);
        let (status, script, stderr) = run(command);
        assert_eq!((status, stderr.as_slice()), (0, [].as_slice()), "{shell}");
        let script = script.join("\n");
        for expected in commands.iter().chain(&["drain-timeout", "a-chat"]) {
            assert!(script.contains(expected), "{shell}: {expected} in {script}");
        }
    }
    assert_refuses(executable(), &["completions", "csh"], &["csh", "bash"]);
    assert_refuses(executable(), &["completions"], &["SHELL"]);
}

#[test]
fn the_completions_are_valid_bash() {
    let mut check = Command::new("sh");
    check.args(["-c", "\"$0\" completions bash | bash -n", EXECUTABLE]);
    let checked = check.output().expect("sh(1)");
    assert!(checked.status.success() && checked.stderr.is_empty(), "{checked:?}");
}

#[test]
fn every_command_gets_a_manual_page() {
    let directory = tempfile::tempdir().expect("a directory");
    let pages = directory.path().join("man").join("man1");
    let mut command = executable();
    command.arg("manual").arg(&pages);
    assert_eq!(run(command), (0, Vec::new(), Vec::new()));
    let read = |name: &str| {
        fs::read_to_string(pages.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    };
    assert!(read("a-chat.1").contains(".TH a-chat 1"));
    for name in ["serve", "connect", "stress", "completions", "manual"] {
        let page = read(&format!("a-chat-{name}.1"));
        assert!(page.contains(&format!("a\\-chat\\-{name}")), "{page}");
    }
    let serve = read("a-chat-serve.1");
    assert!(serve.contains("drain\\-timeout") && serve.contains("A_CHAT_DRAIN_TIMEOUT"), "{serve}");
    assert!(!serve.contains("\\-\\-parent"), "hidden flags stay hidden: {serve}");
}

#[test]
fn a_directory_that_cannot_be_created_is_reported_in_one_line() {
    let flags = ["manual", "/dev/null/pages"];
    assert_fails(executable(), &flags, &["cannot write manual pages into /dev/null/pages"]);
}
