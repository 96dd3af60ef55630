//! `a-chat connect` in a pipe sends its input, writes what it receives, and reports by its exit
//! status whether the server accepted every line.
//!
//! Each case runs the real executable against a real server in this process or, where the server
//! has to misbehave, against one that the test plays.
#![cfg(feature = "cli")]

mod common;
#[path = "common/process.rs"]
mod process;

use std::io::{BufRead, BufReader, Seek, Write};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use a_chat::Config;
use common::script::{Peer, Script};
use common::{TEST_TIMEOUT, TestServer, unacknowledged, wait_until};
use process::{Process, connect, executable, run};
use rustix::net::{SendFlags, send};
use rustix::process::Signal;

/// A client of the test's server.
fn client(server: &TestServer, flags: &[&str]) -> Process {
    Process::start(connect(server.address, flags))
}

/// A client of a server that the test plays.
fn client_of(script: &Script, flags: &[&str]) -> (Process, Peer) {
    let mut command = connect(script.address, &["--name", "bot"]);
    command.args(flags);
    let client = Process::start(command);
    (client, script.log_in("bot"))
}

/// Waits for the client to exit; returns its exit status, standard output and standard error.
fn outcome(mut client: Process) -> (i32, Vec<String>, Vec<String>) {
    let stdout = client.stdout.take_to_end();
    let (status, mut stderr) = client.wait();
    // A client whose login takes a while says what it waits for.
    stderr.retain(|line| !line.starts_with("a-chat: connecting to "));
    (status, stdout, stderr)
}

#[test]
fn input_is_sent_and_messages_are_written_unchanged() {
    let server = TestServer::start();
    let mut alice = server.login("alice");
    let mut bot = client(&server, &["--name", "bot"]);
    bot.write("alice: h\u{e9}llo \u{1b}[31m\u{7} \r\n\nalice:\n");
    alice.expect_lines(&["from bot: h\u{e9}llo \u{1b}[31m\u{7} ", "from bot: "]);
    // Each line is written at once, whatever it holds.
    for text in ["one", "", "\u{1b}]0;title\u{7}\ttwo\u{9b}", "from carol: three"] {
        alice.send(&format!("bot: {text}"));
        bot.stdout.expect_line(&format!("from alice: {text}"));
    }
    bot.write_and_end("/who alice, carol\nalice: bye\n");
    bot.stdout.expect_line("notice: line 4: here: alice; not here: carol");
    alice.expect_line("from bot: bye");
    assert_eq!(outcome(bot), (0, Vec::new(), Vec::new()));
}

#[test]
fn at_the_end_of_input_the_client_stays_for_everything_queued() {
    const LINES: usize = 50_000;
    let server = TestServer::start();
    let mut bot = client(&server, &["--name", "bot"]);
    let lines: Vec<_> = (0..LINES).map(|number| format!("bot: {number}\n")).collect();
    bot.write_and_end(&lines.concat());
    let (status, stdout, stderr) = outcome(bot);
    assert_eq!((status, stderr), (0, Vec::new()));
    let expected = (0..LINES).map(|number| format!("from bot: {number}"));
    assert!(stdout.into_iter().eq(expected), "all of it, in order");
    let report = server.stop();
    assert_eq!((report.owed, report.lost()), (LINES as u64, 0), "{report}");
}

#[test]
fn a_refused_line_is_reported_with_its_number_and_text() {
    let server = TestServer::start();
    let mut bot = client(&server, &["--name", "bot"]);
    bot.write_and_end("bot: one\nnonsense \u{1b}[31m\nbot, bob: two\nbot: three\n");
    let (status, stdout, stderr) = outcome(bot);
    let expected = [
        "from bot: one",
        "error: line 2: no ':' in it, expected \"name, name: text\"",
        "from bot: two",
        "error: line 3: no such peer: bob",
        "from bot: three",
    ];
    // Replies keep their order, and messages theirs.
    let sorted = |mut lines: Vec<String>| {
        lines.sort();
        lines
    };
    assert_eq!(sorted(stdout), sorted(expected.map(str::to_owned).to_vec()));
    let errors = [
        "a-chat: line 2 was refused, no ':' in it, expected \"name, name: text\": nonsense ^[[31m",
        "a-chat: line 3 was refused, no such peer: bob: bot, bob: two",
    ];
    assert_eq!((status, stderr), (1, errors.map(str::to_owned).to_vec()));
}

#[test]
fn a_last_line_without_a_line_end_is_sent() {
    let server = TestServer::start();
    for (flags, input, expected) in [
        (&["--name", "bot"][..], "bot: one\nbot: two", &["from bot: one", "from bot: two"][..]),
        (&["--name", "bot"], "bot: one", &["from bot: one"]),
        (&["--name", "bot"], "bot: one\nbot:", &["from bot: one", "from bot: "]),
        (&["--name", "bot"], "bot: one\r", &["from bot: one"]),
        (&[], "bot\nbot: one", &["from bot: one"]),
        (&[], "bot", &[]),
        (&["--name", "bot"], "", &[]),
    ] {
        let mut bot = client(&server, flags);
        bot.write_and_end(input);
        assert_eq!(
            outcome(bot),
            (0, expected.iter().map(|&line| line.to_owned()).collect(), vec![])
        );
    }
    // From a file, too.
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(b"bot: one\nbot: two").expect("room for it");
    file.rewind().expect("a file");
    let mut command = connect(server.address, &["--name", "bot"]);
    command.stdin(file);
    let expected = ["from bot: one", "from bot: two"].map(str::to_owned).to_vec();
    assert_eq!(outcome(Process::start(command)), (0, expected, Vec::new()));
    assert_eq!(server.stop().unterminated, 0);
}

/// What a signal cuts off may be half a line.
#[test]
fn a_line_cut_off_by_a_signal_is_reported_and_not_sent() {
    let server = TestServer::start();
    let mut bot = client(&server, &["--name", "bot"]);
    bot.write("bot: whole\nbot: to");
    bot.stdout.expect_line("from bot: whole");
    bot.signal(Signal::TERM);
    let (status, stdout, stderr) = outcome(bot);
    assert_eq!((status, stdout), (1, Vec::new()));
    assert_eq!(stderr, ["a-chat: the last line is incomplete and was not sent: bot: to"]);
    assert_eq!(server.stop().unterminated, 0);
}

/// `O_NONBLOCK` belongs to the open file: any program that shares it may have set it.
#[test]
fn non_blocking_standard_streams_lose_nothing() {
    const LINES: usize = 20_000;
    let server = TestServer::start();
    let mut command = connect(server.address, &["--name", "bot"]);
    let streams = [(); 3].map(|()| UnixStream::pair().expect("two sockets"));
    for (theirs, _) in &streams {
        theirs.set_nonblocking(true).expect("a socket");
    }
    let [(stdin, mut input), (stdout, output), (stderr, errors)] = streams;
    command.stdin(OwnedFd::from(stdin)).stdout(OwnedFd::from(stdout)).stderr(OwnedFd::from(stderr));
    let bot = Process::start(command);
    let writing = thread::spawn(move || {
        for number in 0..LINES {
            // Each line comes back, and its second recipient is refused.
            writeln!(input, "bot, dave: {number}").expect("a client that reads");
        }
    });
    // The reader is slower than the client: it begins when every buffer is full or all is there.
    let mut delivered = 0;
    wait_until("the client to be held up", || {
        let before = std::mem::replace(&mut delivered, server.stats().delivered);
        delivered > 0 && before == delivered
    });
    let lines = |stream| BufReader::new(stream).lines().map_while(Result::ok);
    let reading = thread::spawn(move || lines(errors).collect::<Vec<_>>());
    let received: Vec<_> = lines(output).filter(|line| line.starts_with("from ")).collect();
    writing.join().expect("no panic");
    let expected = (0..LINES).map(|number| format!("from bot: {number}"));
    assert!(received.iter().cloned().eq(expected), "{} of {LINES} lines", received.len());
    let errors = reading.join().expect("no panic");
    assert_eq!(errors.len(), LINES, "{:#?}", errors.last());
    assert_eq!(bot.wait().0, 1, "every line was refused in part");
}

#[test]
fn without_a_flag_the_first_line_is_the_name() {
    let server = TestServer::start();
    for input in ["bot\nbot: hi\n", "bot\r\nbot: hi\r\n"] {
        let mut bot = client(&server, &[]);
        bot.write_and_end(input);
        assert_eq!(outcome(bot), (0, vec!["from bot: hi".to_owned()], Vec::new()));
    }
    // A client may send no line at all.
    let mut quiet = client(&server, &[]);
    quiet.write_and_end("quiet\n");
    assert_eq!(outcome(quiet), (0, Vec::new(), Vec::new()));
    for (input, error) in [
        ("", "a-chat: no --name, and no first line to take for it"),
        ("bot: hi\n", "a-chat: no --name, and the first line is none"),
    ] {
        let mut bot = client(&server, &[]);
        bot.write_and_end(input);
        assert_eq!(outcome(bot), (1, Vec::new(), vec![error.to_owned()]));
    }
}

/// A socket that is bound and does not listen, and its address.
fn bound_address() -> (socket2::Socket, SocketAddr) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)
        .expect("a descriptor");
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a free port");
    let address = socket.local_addr().expect("an address").as_socket();
    (socket, address.expect("an address of IP"))
}

#[test]
fn a_failed_login_is_reported_in_one_line() {
    let server = TestServer::start();
    let _taken = server.login("bot");
    let bot = client(&server, &["--name", "bot"]);
    let error = "a-chat: cannot log in as bot: name taken".to_owned();
    assert_eq!(outcome(bot), (1, Vec::new(), vec![error]));

    // Nobody else can listen there meanwhile.
    let (_bound, unused) = bound_address();
    let bot = Process::start(connect(unused, &["--name", "bot"]));
    let (status, stdout, stderr) = outcome(bot);
    assert_eq!((status, stdout.len(), stderr.len()), (1, 0, 1), "{stderr:?}");
    assert!(stderr[0].starts_with("a-chat: cannot connect to 127.0.0.1:"), "{stderr:?}");

    // A server of another kind.
    let script = Script::listen();
    let bot = Process::start(connect(script.address, &["--name", "bot"]));
    let mut peer = script.accept();
    peer.client.send("HTTP/1.1 400 Bad Request");
    drop(peer);
    let (status, stdout, stderr) = outcome(bot);
    assert_eq!((status, stdout.len(), stderr.len()), (1, 0, 1), "{stderr:?}");
    assert!(
        stderr[0].ends_with(" is no a-chat server, it said \"HTTP/1.1 400 Bad Request\""),
        "{stderr:?}"
    );
}

#[test]
fn a_wrong_command_line_is_refused() {
    for (flags, named) in [
        (&["--name", "a b"][..], "A-Z a-z 0-9 _ . -"),
        (&["--wait", "soon"], "soon"),
        (&["--no-wait"], "--reconnect"),
        (&["here"], "127.0.0.1:8080"),
    ] {
        let mut command = executable();
        command.arg("connect").args(flags);
        let (status, stdout, stderr) = run(command);
        assert_eq!((status, stdout.len()), (2, 0), "{stderr:#?}");
        assert!(stderr.join("\n").contains(named), "{stderr:#?}");
    }
}

#[test]
fn the_wait_is_bounded_and_only_the_lines_decide_the_status() {
    let script = Script::listen();
    for (wait, answered) in [("0.3s", true), ("100ms", false)] {
        let (mut bot, mut peer) = client_of(&script, &["--wait", wait]);
        bot.write("bob: hi\n");
        peer.expect_line("bob: hi");
        if answered {
            // It asks when it has been quiet for a while.
            peer.answer_who("bot");
            peer.client.send("from bob: hi yourself");
            bot.stdout.expect_line("from bob: hi yourself");
        }
        // Now the time runs, and the server does not close the connection.
        bot.stdin = None;
        let (status, stdout, stderr) = outcome(bot);
        assert_eq!(stdout, Vec::<String>::new());
        assert_eq!(status, i32::from(!answered), "{stderr:#?}");
        assert_eq!(stderr.iter().any(|line| line.contains("line 1 is in doubt")), !answered);
    }
}

#[test]
fn a_wait_may_be_a_plain_number_of_seconds() {
    let script = Script::listen();
    let (mut bot, _peer) = client_of(&script, &["--wait", "0"]);
    bot.stdin = None;
    assert_eq!(outcome(bot).0, 0);
}

/// Messages that cannot be written are not waited for forever.
#[test]
fn the_wait_is_bounded_even_if_the_output_is_stuck() {
    let script = Script::listen();
    let mut command = connect(script.address, &["--name", "bot", "--wait", "100ms"]);
    let (theirs, _stuck) = UnixStream::pair().expect("two sockets");
    // Filled before there is a client, which blocks at its first write.
    while send(&theirs, &[b'x'; 1024], SendFlags::DONTWAIT).is_ok() {}
    command.stdout(Stdio::from(OwnedFd::from(theirs)));
    let mut bot = Process::start(command);
    let mut peer = script.log_in("bot");
    peer.client.send("from bob: hi");
    wait_until("the client's kernel to have it", || unacknowledged(&peer.client.stream) == 0);
    bot.stdin = None;
    peer.client.expect_eof();
    let (status, stderr) = bot.wait();
    assert_eq!(status, 1, "{stderr:#?}");
    assert!(stderr.iter().any(|line| line.starts_with("a-chat: cannot write what arrives: ")));
}

/// A server may send anything, and standard error may be a terminal.
#[test]
fn standard_error_holds_no_control_character() {
    let script = Script::listen();
    let (mut bot, mut peer) = client_of(&script, &[]);
    bot.write("bob: \u{1b}c\n");
    peer.expect_line("bob: \u{1b}c");
    peer.client.send("error: line 2: \u{1b}[2J\nerror: \u{1b}[3J");
    drop(peer);
    let (status, _, stderr) = outcome(bot);
    let errors = [
        "a-chat: line 1 was refused, ^[[2J: bob: ^[c",
        "a-chat: the server closed the connection: ^[[3J; line 1 was accepted",
    ];
    assert_eq!((status, stderr), (1, errors.map(str::to_owned).to_vec()));
}

/// Losses come out of the order of the line numbers, and more than once for a line.
#[test]
fn a_lost_line_is_reported_with_its_text() {
    let script = Script::listen();
    let (mut bot, mut peer) = client_of(&script, &[]);
    bot.write_and_end("bob: one\ncarol, bob: \u{1b}c\nbob: three\nnonsense\n");
    for line in ["bob: one", "carol, bob: \u{1b}c", "bob: three", "nonsense"] {
        peer.expect_line(line);
    }
    for said in [
        "error: line 4: 3 lines from line 2 on lost on the way to bob: evicted",
        "error: line 3: lost on the way to carol: left",
        "error: line 5: no ':' in it, expected \"name, name: text\"",
    ] {
        peer.client.send(said);
    }
    peer.answer_who("bot");
    drop(peer);
    let (status, stdout, mut stderr) = outcome(bot);
    let received = [
        "error: line 3: 3 lines from line 1 on lost on the way to bob: evicted",
        "error: line 2: lost on the way to carol: left",
        "error: line 4: no ':' in it, expected \"name, name: text\"",
    ];
    assert_eq!(stdout, received);
    // A refusal may be named before a loss that arrived with it.
    stderr.sort_by_key(|line| line.contains("refused"));
    let errors = [
        "a-chat: line 3: 3 lines from line 1 on lost on the way to bob: evicted",
        "  1: bob: one",
        "  2: carol, bob: ^[c",
        "  3: bob: three",
        "a-chat: line 2: lost on the way to carol: left",
        "  2: carol, bob: ^[c",
        "a-chat: line 4 was refused, no ':' in it, expected \"name, name: text\": nonsense",
    ];
    assert_eq!((status, stderr), (1, errors.map(str::to_owned).to_vec()));
}

#[test]
fn a_signal_ends_the_input() {
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let server = TestServer::start();
        let mut bot = client(&server, &["--name", "bot"]);
        bot.write("bot: one\n");
        bot.stdout.expect_line("from bot: one");
        bot.signal(signal);
        assert_eq!(outcome(bot), (0, Vec::new(), Vec::new()));
        assert_eq!(server.stop().accepted, 3, "the line, and a question before and after");
    }
}

#[test]
fn at_a_signal_the_content_of_the_pipe_is_sent() {
    const LINES: usize = 2000;
    let server = TestServer::start();
    let mut bot = client(&server, &["--name", "bot"]);
    bot.write("bot: one\n");
    bot.stdout.expect_line("from bot: one");
    // The client is suspended meanwhile, so all of it is in the pipe when the signal arrives.
    bot.signal(Signal::STOP);
    bot.write(&"bot: two\n".repeat(LINES));
    bot.signal(Signal::TERM);
    bot.signal(Signal::CONT);
    let (status, stdout, stderr) = outcome(bot);
    assert_eq!((status, stdout.len(), stderr.len()), (0, LINES, 0), "{stderr:#?}");
}

#[test]
fn two_signals_at_once_count_as_one() {
    let script = Script::listen();
    let (bot, mut peer) = client_of(&script, &[]);
    bot.signal(Signal::TERM);
    bot.signal(Signal::HUP);
    peer.client.expect_eof();
    peer.client.send("from bob: late");
    drop(peer);
    assert_eq!(outcome(bot), (0, vec!["from bob: late".to_owned()], Vec::new()));
}

#[test]
fn a_later_signal_ends_the_client() {
    let script = Script::listen();
    let (mut bot, mut peer) = client_of(&script, &[]);
    bot.write("bob: hi\n");
    peer.expect_line("bob: hi");
    bot.signal(Signal::TERM);
    peer.answer_who("bot");
    peer.client.expect_eof();
    // The server does not close the connection. A signal right after the first does not count.
    wait_until("the end", || {
        bot.signal(Signal::TERM);
        bot.state() == 'Z'
    });
    assert_eq!(outcome(bot).0, 1);
}

/// All of a file is readable at once, however much is left: the signal takes precedence.
#[test]
fn a_signal_ends_a_file_before_its_end() {
    const LINES: usize = 4_000_000;
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all("bob: hi\n".repeat(LINES).as_bytes()).expect("room for it");
    file.rewind().expect("a file");
    let script = Script::listen();
    let mut command = connect(script.address, &["--name", "bot"]);
    command.stdin(file);
    let bot = Process::start(command);
    let mut peer = script.log_in("bot");
    // Much more is left than the client sends before the server answers.
    bot.signal(Signal::TERM);
    let mut sent = 0;
    while let Some(line) = peer.client.line() {
        peer.line += 1;
        if line == "bob: hi" {
            sent += 1;
        } else {
            let line = peer.line;
            peer.client.send(&format!("notice: line {line}: here: bot"));
        }
    }
    assert!(sent < LINES, "all of it was sent");
    drop(peer);
    let reported =
        format!("a-chat: standard input was read up to line {sent} only: stopped before its end");
    assert_eq!(outcome(bot), (1, Vec::new(), vec![reported]));
}

/// As in `| head -1`: the client ends quietly, without waiting for another message or for input.
#[test]
fn a_closed_output_ends_the_client_quietly() {
    let server = TestServer::start();
    let mut alice = server.login("alice");
    for flags in [&["--name", "bot"][..], &["--name", "bot", "--reconnect"]] {
        let mut command = connect(server.address, flags);
        let (theirs, output) = UnixStream::pair().expect("two sockets");
        command.stdout(OwnedFd::from(theirs));
        let bot = Process::start(command);
        wait_until("the login", || server.stats().connected == 2);
        alice.send("bot: hi");
        let mut line = String::new();
        let mut output = BufReader::new(output);
        output.read_line(&mut line).expect("a message");
        assert_eq!(line, "from alice: hi\n");
        drop(output);
        assert_eq!(bot.wait(), (0, Vec::new()));
    }
}

/// A message that cannot be written any more changes the exit status, and is no error to report.
#[test]
fn a_message_to_a_closed_output_fails_quietly() {
    let script = Script::listen();
    let mut command = connect(script.address, &["--name", "bot"]);
    let (theirs, output) = UnixStream::pair().expect("two sockets");
    command.stdout(OwnedFd::from(theirs));
    let bot = Process::start(command);
    let mut peer = script.log_in("bot");
    drop(output);
    peer.client.expect_eof();
    peer.client.send("from bob: late");
    drop(peer);
    assert_eq!(bot.wait(), (1, Vec::new()));
}

#[test]
fn a_server_shutdown_is_reported_with_the_first_line_not_accepted() {
    let script = Script::listen();
    let (mut bot, mut peer) = client_of(&script, &[]);
    bot.write("bob: 1\nbob: 2\nbob: 3\n");
    for number in 1..=3 {
        peer.expect_line(&format!("bob: {number}"));
    }
    peer.close_after(3);
    peer.client.half_close();
    let (status, stdout, stderr) = outcome(bot);
    assert_eq!(stdout, ["notice: server is shutting down, 2 of your lines were accepted"]);
    let errors = [
        "a-chat: the server was shut down; lines 1 to 2 were accepted",
        "a-chat: from line 3 on nothing was accepted",
        "  line 3: bob: 3",
    ];
    assert_eq!((status, stderr), (1, errors.map(str::to_owned).to_vec()));
}

#[test]
fn a_server_that_shuts_down_last_has_accepted_every_line() {
    let script = Script::listen();
    let (mut bot, mut peer) = client_of(&script, &[]);
    bot.write_and_end("bob: 1\n");
    peer.expect_line("bob: 1");
    peer.expect_line("/who bot");
    peer.close_after(3);
    drop(peer);
    let (status, stdout, _) = outcome(bot);
    let notice = "notice: server is shutting down, 1 of your lines were accepted".to_owned();
    assert_eq!((status, stdout), (0, vec![notice]));
}

#[test]
fn a_crash_leaves_lines_in_doubt() {
    let script = Script::listen();
    let (mut bot, mut peer) = client_of(&script, &[]);
    bot.write("bob: 1\nbob: 2\n");
    peer.expect_line("bob: 1");
    peer.expect_line("bob: 2");
    drop(peer);
    let (status, stdout, stderr) = outcome(bot);
    assert_eq!((status, stdout), (1, Vec::new()));
    assert!(stderr[0].starts_with("a-chat: the connection "), "{stderr:#?}");
    let doubt =
        "a-chat: lines 1 to 2 are in doubt, sent but perhaps not accepted, and not sent again";
    assert_eq!(stderr[1..], [doubt, "  line 1: bob: 1", "  line 2: bob: 2"]);
}

/// The sender waits for a slow recipient, and receives meanwhile.
#[test]
fn a_client_that_waits_to_send_still_receives() {
    const LINES: usize = 4000;
    let (linger, stall_timeout) = (Duration::from_millis(100), 10 * TEST_TIMEOUT);
    let server = TestServer::with(Config::default().linger(linger).stall_timeout(stall_timeout));
    let mut alice = server.login("alice");
    let mut slow = server.login_with_small_buffers("slow");
    let mut bot = client(&server, &["--name", "bot"]);
    wait_until("the login", || server.stats().connected == 3);
    let line = format!("slow: {}\n", "x".repeat(1000));
    let mut stdin = bot.stdin.take().expect("an input");
    let writer = thread::spawn(move || {
        stdin.write_all(line.repeat(LINES).as_bytes()).expect("a client that reads");
    });
    wait_until("the window to be full", || server.stats().queued_bytes > 100 * 1024);
    for number in 0..100 {
        alice.send(&format!("bot: {number}"));
        bot.stdout.expect_line(&format!("from alice: {number}"));
    }
    for _ in 0..LINES {
        assert!(slow.line().is_some());
    }
    writer.join().expect("no panic");
    assert_eq!(outcome(bot), (0, Vec::new(), Vec::new()));
}
