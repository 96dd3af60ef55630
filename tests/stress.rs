//! `a-chat stress` reports throughput and losses: its figures add up and agree with the server's,
//! it finds what a faulty server loses, and it fails with one clear line.
//!
//! The real executable loads a server: its own, one in this process, a process that dies, or a
//! relay that makes deliberate errors.
#![cfg(feature = "cli")]

mod common;
#[path = "common/process.rs"]
mod process;
#[path = "common/terminal.rs"]
mod terminal;

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use common::{TEST_TIMEOUT, TestServer, wait_until};
use process::{EXECUTABLE, Process, executable, run, serve};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use serde_json::Value;
use terminal::Terminal;

/// A few clients of each mode, and the deliveries per message.
const MODES: [(&[&str], u64); 5] = [
    (&["pair", "--clients", "4"], 1),
    (&["fan-out", "--clients", "4"], 3),
    (&["mesh", "--clients", "5"], 1),
    (&["latency"], 1),
    (&["connect", "--clients", "7"], 1),
];

fn stress(flags: &[&[&str]]) -> Command {
    let mut command = executable();
    command.arg("stress").args(flags.concat());
    command
}

/// The figures of a load that must succeed.
fn figures(flags: &[&[&str]]) -> Value {
    let (status, stdout, stderr) = run(stress(&[flags, &[&["--json"]]].concat()));
    assert_eq!((status, stderr.as_slice()), (0, &[][..]), "{flags:?}: {stdout:?}");
    parse(&stdout)
}

/// One object on one line.
fn parse(stdout: &[String]) -> Value {
    let [line] = stdout else { panic!("not one line: {stdout:?}") };
    serde_json::from_str(line).expect("JSON")
}

/// The error line of a load that must fail with exit status 1.
fn failure(flags: &[&[&str]]) -> String {
    let (status, stdout, stderr) = run(stress(flags));
    assert_eq!((status, stdout.as_slice()), (1, &[][..]), "{flags:?}: {stderr:?}");
    let [line] = &stderr[..] else { panic!("not one line: {stderr:?}") };
    line.strip_prefix("a-chat: ").expect("the program's name").to_owned()
}

fn count(figures: &Value, key: &str) -> u64 {
    figures[key].as_u64().unwrap_or_else(|| panic!("no count {key} in {figures}"))
}

fn number(figures: &Value, key: &str) -> f64 {
    figures[key].as_f64().unwrap_or_else(|| panic!("no number {key} in {figures}"))
}

/// Invariants of every successful load.
fn check(figures: &Value, per_message: u64) {
    let received = count(figures, "received");
    assert!(received > 0, "{figures}");
    assert_eq!(count(figures, "sent") * per_message, received, "{figures}");
    assert_eq!(count(figures, "owed"), received, "{figures}");
    for key in ["lost", "reordered", "repeated"] {
        assert_eq!(count(figures, key), 0, "{figures}");
    }
    let float = |count: u64| f64::from(u32::try_from(count).expect("a short load"));
    let total = number(figures, "received_per_second") * number(figures, "duration_seconds");
    assert!((total / float(received) - 1.0).abs() < 1e-6, "{figures}");
    if figures["mode"] != "connect" {
        let size = number(figures, "bytes_per_second") / number(figures, "received_per_second");
        assert!(size > number(figures, "size_bytes"), "{figures}");
    }
    let latency = &figures["latency_us"];
    let is_timed = figures["mode"] == "latency" || figures["mode"] == "connect";
    assert!(!is_timed || latency.is_object(), "{figures}");
    if latency.is_object() {
        assert_eq!(count(latency, "count"), received, "{figures}");
        let steps = ["min", "p50", "p90", "p99", "p99_9", "max"].map(|key| number(latency, key));
        assert!(steps.is_sorted() && steps[0] > 0.0, "{figures}");
    }
}

#[test]
fn each_mode_starts_a_server_of_its_own_by_default() {
    for (mode, per_message) in MODES {
        let figures = figures(&[mode, &["--duration", "200ms"]]);
        check(&figures, per_message);
        assert_eq!((&figures["mode"], &figures["own_server"]), (&mode[0].into(), &true.into()));
        assert_eq!(figures["interrupted"], false);
        let server = &figures["server"];
        assert_eq!(server["drained_clean"], true, "{figures}");
        assert!(count(server, "threads") > 2 && count(server, "peak_memory_bytes") > 1 << 20);
        assert!(
            number(server, "cpu_seconds") >= 0.0 && number(&figures, "load_cpu_seconds") >= 0.0
        );
    }
}

#[test]
fn each_mode_agrees_with_the_report_of_a_given_server() {
    for (mode, per_message) in MODES {
        let server = TestServer::start();
        let address = server.address.to_string();
        let figures = figures(&[mode, &["--messages", "1003", &address]]);
        check(&figures, per_message);
        assert_eq!(count(&figures, "sent"), 1003, "{figures}");
        assert_eq!((&figures["address"], &figures["server"]), (&address.into(), &Value::Null));
        wait_until("the clients' end", || server.stats().connected == 0);
        let report = server.stop();
        assert_eq!((report.delivered, report.lost()), (1003 * per_message, 0), "{report}");
    }
}

#[test]
fn a_mesh_that_writes_at_once_loses_no_message() {
    let server = TestServer::start();
    let address = server.address.to_string();
    let flags = ["mesh", "--at-once", "--clients", "20", "--messages", "10007", &address];
    let figures = figures(&[&flags]);
    check(&figures, 1);
    assert_eq!((count(&figures, "sent"), &figures["at_once"]), (10_007, &true.into()));
    let report = server.stop();
    assert_eq!((report.delivered, report.lost()), (10_007, 0), "{report}");
    // A window of messages at once, and then whatever is freed.
    check(&self::figures(&[&["mesh", "--at-once", "--duration", "200ms"]]), 1);
}

#[test]
fn a_room_hands_each_message_to_all_others() {
    let server = TestServer::start();
    let address = server.address.to_string();
    let figures = figures(&[&["room", "--clients", "7", "--messages", "1003", &address]]);
    check(&figures, 6);
    assert_eq!((count(&figures, "sent"), &figures["mode"]), (1003, &"room".into()));
    wait_until("the clients' end", || server.stats().connected == 0);
    let report = server.stop();
    assert_eq!((report.delivered, report.lost()), (6 * 1003, 0), "{report}");
    check(&self::figures(&[&["room", "--clients", "3", "--duration", "200ms"]]), 2);
    let (status, _, stderr) = run(stress(&[&["room", "--rate", "5"]]));
    assert_eq!((status, &*stderr[0]), (2, "error: '--rate' is not for room"));
}

#[test]
fn each_message_is_confirmed_before_the_next_one_is_sent() {
    let server = TestServer::start();
    let address = server.address.to_string();
    let figures = figures(&[&["latency", "--confirm", "--messages", "300", &address]]);
    check(&figures, 1);
    assert_eq!((count(&figures, "sent"), &figures["confirm"]), (300, &true.into()));
    assert_eq!(count(&figures["latency_us"], "count"), 300, "{figures}");
    let report = server.stop();
    // Each message and its `/sync`; and the two questions of the logins.
    assert_eq!((report.delivered, report.accepted), (300, 602), "{report}");
}

#[test]
fn latency_beside_a_load_counts_both_exactly() {
    let server = TestServer::start();
    let address = server.address.to_string();
    let flags = ["latency", "--beside", "2000", "--duration", "500ms", &address];
    let begin = Instant::now();
    let figures = figures(&[&flags]);
    let most = 2000.0 * begin.elapsed().as_secs_f64() + 1.0;
    check(&figures, 1);
    let beside = &figures["beside"];
    assert_eq!((number(beside, "rate_asked_per_second"), count(&figures, "clients")), (2000.0, 18));
    let [sent, received] = ["sent", "received"].map(|key| count(beside, key));
    assert_eq!(sent, received, "{figures}");
    // No more than are due. How many those are depends on when the pairs' thread runs.
    assert!(sent > 0 && number(beside, "sent") <= most, "{figures}");
    for key in ["lost", "reordered", "repeated"] {
        assert_eq!(count(beside, key), 0, "{figures}");
    }
    assert_eq!(count(&beside["latency_us"], "count"), received, "{figures}");
    let report = server.stop();
    let all = received + count(&figures, "received");
    assert_eq!((report.delivered, report.lost()), (all, 0), "{report}");
}

#[test]
fn messages_lost_beside_a_latency_are_an_error() {
    // The sender that is measured has number 16 of 18.
    let fault: Fault = |_, frame, held| {
        let is_measured = frame.windows(4).any(|bytes| bytes == b"-16:");
        if is_measured {
            return vec![frame];
        }
        held.push(Vec::new());
        if held.len() == 1 { Vec::new() } else { vec![frame] }
    };
    let address = relay(fault).to_string();
    let flags = ["latency", "--beside", "500", "--duration", "300ms", "--json", &address];
    let (status, stdout, stderr) = run(stress(&[&flags]));
    let figures = parse(&stdout);
    assert_eq!((status, count(&figures, "lost"), count(&figures["beside"], "lost")), (1, 0, 1));
    assert_eq!(stderr, ["a-chat: 1 lost, 0 out of order, 0 repeated"]);
}

#[test]
fn a_rate_is_kept_and_every_latency_recorded() {
    for (mode, per_message) in MODES {
        let figures = figures(&[mode, &["--rate", "400", "--messages", "100"]]);
        check(&figures, per_message);
        // The last one is due after 99 / 400 s.
        assert!(number(&figures, "duration_seconds") >= 0.247, "{figures}");
        assert!(figures["latency_us"].is_object(), "{figures}");
    }
}

#[test]
fn texts_may_be_short_or_long() {
    for mode in [&["pair"][..], &["mesh"], &["latency"], &["pair", "--rate", "50"]] {
        for size in ["14", "64000"] {
            let flags = ["--clients", "2", "--messages", "20", "--size", size];
            check(&figures(&[mode, &flags]), 1);
        }
    }
    check(&figures(&[&["mesh", "--size", "6B", "--messages", "500"]]), 1);
}

#[test]
fn concurrent_loads_use_different_names() {
    let server = TestServer::start();
    let address = server.address.to_string();
    let flags = ["mesh", "--clients", "20", "--messages", "20000", "--json", &address];
    let loads = [(); 3].map(|()| Process::start(stress(&[&flags])));
    for load in loads {
        let (status, log) = load.wait();
        assert_eq!((status, log), (0, Vec::new()));
    }
    assert_eq!(server.stop().delivered, 60_000);
}

#[test]
fn the_default_output_is_a_table() {
    let (status, stdout, stderr) = run(stress(&[&["latency", "--messages", "50"]]));
    assert_eq!((status, stderr), (0, Vec::new()));
    assert!(stdout[0].starts_with("latency: 2 clients, 32 B each message; "), "{stdout:#?}");
    for row in ["deliveries      50", "lost            0", "out of order    0", "p99.9 ", "server "]
    {
        assert!(stdout.iter().any(|line| line.trim_start().starts_with(row)), "{row}: {stdout:#?}");
    }
}

/// Starts each mode against a server and calls `end` on it while messages flow; checks the figures
/// so far, and returns the loads' errors.
fn errors_when_the_server_ends(end: fn(&Process)) -> Vec<String> {
    let paced: (&[&str], u64) = (&["mesh", "--rate", "1000", "--clients", "5"], 1);
    let modes = MODES.into_iter().chain([paced]);
    let errors = modes.map(|(mode, per_message)| {
        let mut server = Process::start(serve(&[]));
        let address = server.address().to_string();
        let before = server.cpu_time();
        let load = Process::start(stress(&[mode, &["--duration", "10min", "--json", &address]]));
        // More than logins take.
        wait_until("messages", || server.cpu_time() > before + Duration::from_millis(100));
        end(&server);
        let (status, stdout, stderr) = load.outcome();
        let [line] = &stderr[..] else { panic!("not one line: {stderr:#?}") };
        assert_eq!(status, 1, "{line}");
        let error = line.strip_prefix(&format!("a-chat: {address}: ")).expect("the address");
        let figures = parse(&stdout);
        assert_eq!((&figures["failure"], &figures["interrupted"]), (&error.into(), &false.into()));
        let [sent, owed, received, lost] =
            ["sent", "owed", "received", "lost"].map(|key| count(&figures, key));
        assert!(received > 0 && received <= owed && lost == owed - received, "{figures}");
        assert_eq!(owed, sent * per_message, "{figures}");
        assert!(number(&figures, "duration_seconds") > 0.0, "{figures}");
        error.to_owned()
    });
    errors.collect()
}

#[test]
fn a_server_that_is_killed_is_an_error() {
    for error in errors_when_the_server_ends(|server| server.signal(Signal::KILL)) {
        let expected =
            ["the server closed a connection", "cannot receive: ", "cannot send: ", "cannot "];
        assert!(expected.iter().any(|it| error.starts_with(it)), "{error}");
    }
}

#[test]
fn a_server_that_shuts_down_is_an_error() {
    let errors = errors_when_the_server_ends(|server| server.signal(Signal::TERM));
    let said = errors.iter().filter(|error| *error == "the server shut down").count();
    // A client that logs in at that moment may find the listener closed.
    assert!(said >= errors.len() - 1, "{errors:#?}");
}

#[test]
fn a_table_of_the_figures_so_far_names_the_reason() {
    let mut server = Process::start(serve(&[]));
    let before = server.cpu_time();
    let address = server.address().to_string();
    let load = Process::start(stress(&[&["pair", "--duration", "10min", &address]]));
    wait_until("messages", || server.cpu_time() > before + Duration::from_millis(100));
    server.signal(Signal::TERM);
    let (status, stdout, stderr) = load.outcome();
    assert_eq!(status, 1);
    assert_eq!(stderr, [format!("a-chat: {address}: the server shut down")]);
    assert!(stdout[0].contains(" s, ended early; the server on "), "{stdout:#?}");
    assert_eq!(stdout[1], "  failed          the server shut down");
    assert!(stdout[2].starts_with("  deliveries      "), "{stdout:#?}");
}

#[test]
fn a_failed_load_reports_how_its_own_server_ended() {
    let load = Process::start(stress(&[&["mesh", "--duration", "10min", "--json"]]));
    let server = child(&load);
    let login_time = Duration::from_millis(500);
    wait_until("messages", || threads(server, "writer-") == 100 && cpu_time(server) > login_time);
    kill_process(server, Signal::KILL).expect("a running server");
    let (status, stdout, stderr) = load.outcome();
    let figures = parse(&stdout);
    let [line] = &stderr[..] else { panic!("not one line: {stderr:#?}") };
    let (address, failure) = (figures["address"].as_str(), figures["failure"].as_str());
    let (address, failure) = (address.expect("a text"), failure.expect("a text"));
    let end = "the server ended with signal: 9 (SIGKILL)";
    assert_eq!((status, line.clone()), (1, format!("a-chat: {address}: {failure}; {end}")));
    assert_eq!((&figures["own_server"], &figures["server"]), (&true.into(), &Value::Null));
    assert!(count(&figures, "received") > 0, "{figures}");
}

/// The keys and their order, which programs depend on.
#[test]
fn the_json_has_these_keys_in_this_order() {
    let (status, stdout, _) = run(stress(&[&["latency", "--messages", "5", "--json"]]));
    let keys: Vec<_> = stdout[0].split('"').skip(1).step_by(2).collect();
    let keys: Vec<_> = keys.into_iter().filter(|key| !key.contains([':', ' '])).collect();
    let expected = "mode latency address own_server clients size_bytes rate_asked_per_second \
                    interrupted duration_seconds sent owed received lost reordered repeated \
                    received_per_second bytes_per_second latency_us count min mean p50 p90 p99 \
                    p99_9 max load_cpu_seconds server cpu_seconds cpu_us_per_delivery \
                    peak_memory_bytes threads drained_clean failure at_once beside confirm \
                    tls";
    assert_eq!((status, keys.join(" ")), (0, expected.to_owned()), "{stdout:?}");
}

#[test]
fn a_name_is_resolved() {
    let server = TestServer::start();
    let address = format!("localhost:{}", server.address.port());
    let figures = figures(&[&["pair", "--messages", "100", &address]]);
    check(&figures, 1);
    assert_eq!(figures["address"], server.address.to_string());
    let report = server.stop();
    assert_eq!(report.delivered, 100, "{report}");
}

/// Each limit that the environment sets for the load's own server, and flags that exceed it.
#[test]
fn a_load_that_its_own_server_would_refuse_is_a_wrong_command_line() {
    let refusal = |variable: &str, value: &str, flags: &[&str]| {
        let mut command = stress(&[flags, &["--messages", "10"]]);
        command.env(variable, value);
        let (status, stdout, stderr) = run(command);
        if status == 0 {
            return None;
        }
        assert_eq!((status, stdout), (2, Vec::new()), "{stderr:#?}");
        assert!(stderr.iter().any(|line| line.starts_with("Usage: a-chat stress ")), "{stderr:#?}");
        Some(stderr[0].strip_prefix("error: ").expect("an error").to_owned())
    };
    let too_long = |length: usize, limit: usize| {
        Some(format!(
            "the load's lines have {length} bytes, but the server started for it accepts {limit}; \
             A_CHAT_MAX_LINE raises that"
        ))
    };
    // `c1:` and the text.
    for (mode, limit) in [("pair", "1KiB"), ("mesh", "1KiB"), ("latency", "1KiB")] {
        let flags = |size| [mode, "--clients", "2", "--size", size];
        assert_eq!(refusal("A_CHAT_MAX_LINE", limit, &flags("1021")), None);
        assert_eq!(refusal("A_CHAT_MAX_LINE", limit, &flags("1022")), too_long(1025, 1024));
    }
    assert_eq!(
        refusal("A_CHAT_LOG_LEVEL", "warn", &["pair", "--size", "64KiB"]),
        too_long(65_540, 65_536)
    );
    let list = ["fan-out", "--clients", "11"];
    assert_eq!(refusal("A_CHAT_MAX_LINE", "72", &list), None, "ten names, ten marks, 32 bytes");
    assert_eq!(refusal("A_CHAT_MAX_LINE", "71", &list), too_long(72, 71));
    for variable in ["A_CHAT_MAX_CONNECTIONS", "A_CHAT_MAX_PER_ADDRESS"] {
        let expected = format!("11 clients exceed {variable}, which is 10");
        assert_eq!(refusal(variable, "10", &list), Some(expected));
        assert_eq!(refusal(variable, "11", &list), None);
    }
}

#[test]
fn a_progress_bar_stays_on_one_line_of_a_narrow_window() {
    for columns in [2, 4, 9, 20, 60, 100] {
        let only_stderr = "exec \"$0\" \"$@\" 2>&1 >/dev/null";
        let launcher = ["setsid", "--ctty", "sh", "-c", only_stderr];
        let mut command = process::through(&launcher, EXECUTABLE);
        command.args(["stress", "latency", "--rate", "100", "--messages", "1000"]);
        command.env("TERM", "xterm-256color");
        let mut terminal = Terminal::run(command, 5, columns);
        let mut drawn: Vec<String> = Vec::new();
        terminal.wait_until("changes", |terminal| {
            let rows = terminal.rows();
            assert!(rows.len() <= 1, "in {columns} columns: {rows:#?}");
            if let Some(row) = rows.first().filter(|row| drawn.last() != Some(*row)) {
                drawn.push(row.clone());
            }
            drawn.len() >= 8
        });
        assert!(drawn.iter().all(|row| row.starts_with('[') == (columns == 100)), "{drawn:#?}");
        terminal.process.signal(Signal::INT);
        assert_eq!(terminal.wait(), (0, Vec::new()), "in {columns} columns");
    }
}

#[test]
fn a_wrong_address_is_an_error() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address").to_string();
    drop(listener);
    for (mode, _) in MODES {
        let line = failure(&[mode, &[&address]]);
        let expected = format!("{address}: cannot connect: Connection refused");
        assert!(line.starts_with(&expected), "{line}");
    }
}

#[test]
fn a_server_that_refuses_is_an_error() {
    let mut full = Process::start(serve(&["--max-connections", "3"]));
    let address = full.address().to_string();
    for (mode, _) in MODES.iter().filter(|(mode, _)| mode.len() > 1) {
        // In connect mode there are figures of those who logged in before the refusal came.
        let (status, _, stderr) = run(stress(&[mode, &[&address]]));
        let refusal = format!("a-chat: {address}: the server refused: server is full");
        assert_eq!((status, stderr), (1, vec![refusal]), "{mode:?}");
    }
    // One that has room: it may be a moment before it knows that a load's clients have left.
    let mut narrow = Process::start(serve(&["--max-line", "100"]));
    let address = narrow.address().to_string();
    for mode in ["pair", "mesh", "latency"] {
        let line = failure(&[&[mode, "--clients", "2", "--size", "200", &address]]);
        assert!(line.starts_with(&format!("{address}: the server refused: line ")), "{line}");
        assert!(line.ends_with(": longer than 100 bytes"), "{line}");
    }
}

#[test]
fn a_server_that_speaks_another_protocol_is_an_error() {
    let answer = |answer: &'static [u8]| {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address").to_string();
        thread::spawn(move || {
            let (mut client, _) = listener.accept().expect("a client");
            // Unread input would turn the close into a reset.
            let lines = BufReader::new(client.try_clone().expect("a descriptor")).lines();
            lines.map_while(Result::ok).nth(1).expect("a login");
            client.write_all(answer).expect("a client that reads");
        });
        failure(&[&["pair", &address]]).split_once(": ").expect("an address").1.to_owned()
    };
    assert_eq!(answer(b"error: name taken\n"), "the server refused: name taken");
    let foreign = "not a message of this load: \"HTTP/1.1 400 Bad Request\"";
    assert_eq!(answer(b"HTTP/1.1 400 Bad Request\r\n"), foreign);
    assert_eq!(answer(b"noti"), "not a message of this load: \"noti\"");
    assert_eq!(answer(b""), "the server closed a connection");
}

#[test]
fn a_wrong_command_line_has_status_two() {
    for flags in [
        &["pair", "--clients", "3"][..],
        &["mesh", "--clients", "1"],
        &["fan-out", "--clients", "2000"],
        &["pair", "--size", "5"],
        &["pair", "--size", "13", "--rate", "1"],
        &["pair", "--size", "1MiB"],
        &["connect", "--size", "32"],
        &["pair", "--messages", "0"],
        &["pair", "--duration", "0s"],
        &["pair", "--messages", "1", "--duration", "1s"],
        &["pair", "--rate", "0"],
        &["pair", "--rate", "NaN"],
        &["pair", "127.0.0.1"],
        &["pair", "--at-once"],
        &["mesh", "--at-once", "--rate", "5"],
        &["mesh", "--beside", "5"],
        &["latency", "--beside", "5", "--rate", "5"],
        &["latency", "--beside", "0"],
        &["latency", "--beside", "5", "--clients", "2"],
        &["latency", "--beside", "5", "--clients", "7"],
        &["latency", "--beside", "5", "--size", "13"],
        &["pair", "--ca", "file"],
        &["pair", "--server-name", "localhost"],
        &["pair", "--tls", "unix:/nowhere"],
        &["nonsense"],
        &[],
    ] {
        let (status, stdout, stderr) = run(stress(&[flags]));
        assert_eq!((status, stdout), (2, Vec::new()), "{flags:?}: {stderr:#?}");
        assert!(stderr[0].starts_with("error: "), "{flags:?}: {stderr:#?}");
        let has_usage = stderr.iter().any(|line| line.starts_with("Usage: "));
        let is_right = stderr.iter().any(|line| line.starts_with("Usage: a-chat stress "));
        assert!(is_right || !has_usage, "{flags:?}: {stderr:#?}");
    }
}

#[test]
fn too_many_clients_for_the_open_files_are_refused() {
    let mut command =
        process::through(&["sh", "-c", "ulimit -n 100 && exec \"$0\" \"$@\""], EXECUTABLE);
    command.args(["stress", "mesh", "--clients", "90"]);
    let (status, stdout, stderr) = run(command);
    assert_eq!((status, stdout), (1, Vec::new()), "{stderr:#?}");
    assert_eq!(stderr, ["a-chat: 90 clients need more than 100 open files (ulimit -n)"]);
}

/// The server started by a load.
fn child(load: &Process) -> Pid {
    let pid = load.pid.as_raw_pid();
    let path = format!("/proc/{pid}/task/{pid}/children");
    let mut child = None;
    wait_until("a server", || {
        let children = fs::read_to_string(&path).expect("procfs");
        child = children.split_whitespace().next().and_then(|it| Pid::from_raw(it.parse().ok()?));
        child.is_some()
    });
    child.expect("waited for")
}

/// CPU time of a process.
fn cpu_time(pid: Pid) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_pid())).expect("procfs");
    let (_, fields) = stat.rsplit_once(')').expect("a name in parentheses");
    let ticks = fields.split_whitespace().skip(11).take(2);
    let ticks: u64 = ticks.map(|ticks| ticks.parse::<u64>().expect("a number")).sum();
    Duration::from_millis(ticks * 10)
}

/// Number of a process's threads whose names start with `name`.
fn threads(pid: Pid, name: &str) -> usize {
    let tasks = fs::read_dir(format!("/proc/{}/task", pid.as_raw_pid()));
    let tasks = tasks.into_iter().flatten().map_while(Result::ok);
    let names = tasks.map_while(|task| fs::read_to_string(task.path().join("comm")).ok());
    names.filter(|it| it.starts_with(name)).count()
}

#[test]
fn an_interrupt_ends_the_load_with_its_figures() {
    for (mode, per_message) in MODES {
        let server = TestServer::start();
        let flags = ["--duration", "10min", "--json", &server.address.to_string()];
        let load = Process::start(stress(&[mode, &flags]));
        wait_until("messages", || server.stats().delivered > 10 * per_message);
        load.signal(Signal::INT);
        let (status, stdout, stderr) = load.outcome();
        assert_eq!((status, stderr), (0, Vec::new()));
        let figures = parse(&stdout);
        check(&figures, per_message);
        assert_eq!(figures["interrupted"], true);
        assert_eq!(server.stop().delivered, count(&figures, "received"));
    }
}

#[test]
fn an_interrupted_load_ends_its_own_server() {
    let flags = ["mesh", "--clients", "20", "--duration", "10min", "--json"];
    let load = Process::start(stress(&[&flags]));
    let server = child(&load);
    // A client's writer starts at its login; the load begins after the last login.
    wait_until("the logins", || threads(server, "writer-") == 20);
    load.signal(Signal::INT);
    let (status, stdout, stderr) = load.outcome();
    assert_eq!((status, stderr), (0, Vec::new()));
    let figures = parse(&stdout);
    assert_eq!((count(&figures, "lost"), &figures["server"]["drained_clean"]), (0, &true.into()));
    assert_eq!(threads(server, ""), 0, "the server goes on");
}

#[test]
fn the_server_does_not_outlive_a_load_that_is_killed() {
    let load = Process::start(stress(&[&["mesh", "--duration", "10min"]]));
    let server = pidfd_open(child(&load), PidfdFlags::empty()).expect("a descriptor");
    let pid = child(&load);
    wait_until("a client", || threads(pid, "writer-") > 0);
    load.signal(Signal::KILL);
    let patience = Timespec::try_from(TEST_TIMEOUT).expect("not that long");
    let ended = poll(&mut [PollFd::new(&server, PollFlags::IN)], Some(&patience));
    assert_eq!(ended, Ok(1), "the server goes on");
}

/// A relay's fault: the messages to deliver in place of the one with this number.
type Fault = fn(u64, Vec<u8>, &mut Vec<Vec<u8>>) -> Vec<Vec<u8>>;

/// A server that speaks the protocol and mistreats the messages.
fn relay(fault: Fault) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    let peers = Arc::new(Mutex::new(HashMap::new()));
    let state = Arc::new(Mutex::new((0, Vec::new())));
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let (peers, state) = (Arc::clone(&peers), Arc::clone(&state));
            thread::spawn(move || serve_with_fault(client, &peers, &state, fault));
        }
    });
    address
}

fn serve_with_fault(
    client: TcpStream,
    peers: &Mutex<HashMap<String, TcpStream>>,
    state: &Mutex<(u64, Vec<Vec<u8>>)>,
    fault: Fault,
) {
    let mut answers = client.try_clone().expect("a descriptor");
    let mut lines = BufReader::new(client).lines().map_while(Result::ok);
    let name = lines.next().expect("a name");
    peers
        .lock()
        .expect("no panic")
        .insert(name.clone(), answers.try_clone().expect("a descriptor"));
    for line in lines {
        let Some((to, text)) = line.split_once(':') else {
            answers
                .write_all(format!("notice: line 1: here: {name}\n").as_bytes())
                .expect("a client");
            continue;
        };
        let frame = format!("from {name}: {text}\n").into_bytes();
        let (number, held) = &mut *state.lock().expect("no panic");
        *number += 1;
        let frames = fault(*number, frame, held);
        let mut to = &peers.lock().expect("no panic")[to];
        // The load may have ended already.
        let _ = frames.iter().try_for_each(|frame| to.write_all(frame));
    }
}

/// The figures of a load through a faulty relay.
fn figures_through(flags: &[&str], fault: Fault) -> [u64; 5] {
    let address = relay(fault).to_string();
    let (status, stdout, stderr) = run(stress(&[flags, &["--json", &address]]));
    let figures = parse(&stdout);
    let counts = ["sent", "received", "lost", "reordered", "repeated"];
    let counts = counts.map(|key| count(&figures, key));
    let [.., lost, reordered, repeated] = counts;
    let bad = lost + reordered + repeated > 0;
    assert_eq!(status, i32::from(bad), "{stderr:#?}");
    if bad {
        let line = format!("a-chat: {lost} lost, {reordered} out of order, {repeated} repeated");
        assert_eq!(stderr, [line]);
    }
    counts
}

const PAIR: [&str; 5] = ["pair", "--clients", "2", "--messages", "100"];

#[test]
fn a_correct_relay_passes() {
    assert_eq!(figures_through(&PAIR, |_, frame, _| vec![frame]), [100, 100, 0, 0, 0]);
    let mesh = ["mesh", "--clients", "4", "--messages", "500"];
    assert_eq!(figures_through(&mesh, |_, frame, _| vec![frame]), [500, 500, 0, 0, 0]);
}

#[test]
fn messages_that_a_relay_drops_reorders_and_repeats_are_counted() {
    let fault: Fault = |number, frame, held| match number {
        10 | 11 | 50 => Vec::new(),
        // Two messages late.
        20 => {
            held.push(frame);
            Vec::new()
        }
        22 => vec![frame, held.remove(0)],
        30 => vec![frame.clone(), frame],
        _ => vec![frame],
    };
    assert_eq!(figures_through(&PAIR, fault), [100, 97, 3, 1, 1]);
    let paced = [&PAIR[..], &["--rate", "1000"]].concat();
    assert_eq!(figures_through(&paced, fault), [100, 97, 3, 1, 1]);
}

/// Latencies count from when a message was due: a server that stalls for a second delays all
/// messages due meanwhile, not only the one in flight.
#[test]
fn a_server_that_stalls_delays_every_message_due_meanwhile() {
    let address = relay(|number, frame, _| {
        if number == 100 {
            thread::sleep(Duration::from_secs(1));
        }
        vec![frame]
    });
    let load = ["latency", "--rate", "500", "--messages", "800", &address.to_string()];
    let figures = figures(&[&load]);
    check(&figures, 1);
    // More than half of them were due in that second.
    assert!(number(&figures["latency_us"], "p50") > 1e5, "{figures}");
}

#[test]
fn messages_that_never_arrive_are_lost() {
    let mesh = ["mesh", "--clients", "4", "--messages", "500"];
    // Some are the last of their sender, others are followed by more.
    let every_fifth: Fault =
        |number, frame, _| if number % 5 == 0 { Vec::new() } else { vec![frame] };
    assert_eq!(figures_through(&mesh, every_fifth), [500, 400, 100, 0, 0]);
    let last: Fault = |number, frame, _| if number == 3 { Vec::new() } else { vec![frame] };
    assert_eq!(figures_through(&["latency", "--messages", "3"], last), [3, 2, 1, 0, 0]);
}

#[cfg(not(feature = "tls"))]
#[test]
fn without_tls_its_flag_says_how_to_get_it() {
    let (status, stdout, stderr) = run(stress(&[&["pair", "--tls", "127.0.0.1:1"]]));
    assert_eq!((status, stdout), (2, Vec::new()));
    assert!(stderr[0].ends_with("`cargo install a-chat --features tls` builds one with it"));
}

#[cfg(feature = "tls")]
mod over_tls {
    use a_chat::{Config, PlainText, Server};

    use super::common::tls::certificate;
    use super::*;

    /// The flags of clients that trust the tests' certificate.
    fn trust() -> [String; 3] {
        ["--tls", "--ca", certificate().certificate().to_str().expect("UTF-8")].map(str::to_owned)
    }

    /// The flags, with those of [`trust`].
    fn trusting<'a>(trust: &'a [String; 3], flags: &[&'a str]) -> Vec<&'a str> {
        flags.iter().copied().chain(trust.iter().map(String::as_str)).collect()
    }

    /// A server that nobody reaches without TLS.
    fn server() -> TestServer {
        let tls = certificate().server_tls().plain(PlainText::Refused);
        let config = Config::default().linger(Duration::from_millis(100));
        TestServer::of(Server::bind("127.0.0.1:0", config).expect("a free port").tls(tls))
    }

    const ROOM: (&[&str], u64) = (&["room", "--clients", "4"], 3);

    #[test]
    fn each_mode_agrees_with_the_report_of_a_given_server() {
        let trust = trust();
        for (mode, per_message) in MODES.into_iter().chain([ROOM]) {
            let server = server();
            let address = server.address.to_string();
            let flags = trusting(&trust, &["--messages", "1003", &address]);
            let figures = figures(&[mode, &flags]);
            check(&figures, per_message);
            assert_eq!((count(&figures, "sent"), &figures["tls"]), (1003, &true.into()));
            wait_until("the clients' end", || server.stats().connected == 0);
            let report = server.stop();
            let delivered = (report.delivered, report.lost());
            assert_eq!(delivered, (1003 * per_message, 0), "{mode:?}: {report}");
        }
    }

    #[test]
    fn long_texts_and_schedules_lose_nothing() {
        let (trust, server) = (trust(), server());
        let address = server.address.to_string();
        for flags in [
            // Many records for each message, and many messages for each record.
            &["pair", "--clients", "2", "--size", "64000", "--messages", "500"][..],
            &["pair", "--clients", "2", "--size", "6", "--messages", "300000"],
            &["mesh", "--at-once", "--clients", "9", "--messages", "5000"],
            &["mesh", "--rate", "2000", "--messages", "400", "--clients", "5"],
            &["latency", "--confirm", "--messages", "50"],
            &["latency", "--beside", "500", "--duration", "200ms"],
            &["connect", "--clients", "20", "--rate", "500", "--messages", "50"],
        ] {
            check(&figures(&[flags, &trusting(&trust, &[&address])]), 1);
        }
        let report = server.stop();
        assert_eq!(report.lost(), 0, "{report}");
    }

    #[test]
    fn a_server_of_its_own_has_the_certificate_of_the_environment() {
        let trust = trust();
        let load = |set_certificate| {
            let mut command =
                stress(&[&trusting(&trust, &["mesh", "--clients", "5", "--messages", "500"])]);
            command.arg("--json");
            if set_certificate {
                command.env("A_CHAT_TLS_CERT", certificate().certificate());
                command.env("A_CHAT_TLS_KEY", certificate().key());
                command.env("A_CHAT_PLAIN", "no");
            }
            run(command)
        };
        let (status, stdout, stderr) = load(true);
        assert_eq!((status, stderr), (0, Vec::new()));
        let figures = parse(&stdout);
        check(&figures, 1);
        assert_eq!((&figures["own_server"], &figures["tls"]), (&true.into(), &true.into()));
        assert_eq!(figures["server"]["drained_clean"], true, "{figures}");
        let (status, _, stderr) = load(false);
        assert_eq!(status, 2);
        let expected = "error: '--tls' without an address needs the variables A_CHAT_TLS_CERT and";
        assert!(stderr[0].starts_with(expected), "{stderr:?}");
    }

    #[test]
    fn a_handshake_that_fails_is_an_error_that_says_why() {
        let (trust, server) = (trust(), server());
        let address = server.address.to_string();
        let other = common::tls::Certificate::new();
        let other = other.certificate();
        let untrusted = ["pair", "--tls", "--ca", other.to_str().expect("UTF-8"), &address];
        let reason = "no authority that is trusted here has signed it (--ca FILE trusts another)";
        let expected =
            format!("{address}: cannot connect: its certificate is not accepted: {reason}");
        assert_eq!(failure(&[&untrusted]), expected);
        let misnamed = trusting(&trust, &["connect", "--server-name", "chat.example", &address]);
        assert!(failure(&[&misnamed]).contains("it is not for chat.example"));
        let plain = failure(&[&["pair", &address]]);
        let refusal = "the server refused: not encrypted, this server expects TLS";
        assert_eq!(plain, format!("{address}: {refusal}"));
        server.stop();
        let mut full = Process::start(serve(&["--max-connections", "1"]));
        let address = full.address().to_string();
        let _client = full.login("alice");
        let line = failure(&[&trusting(&trust, &["mesh", &address])]);
        let said = "it said, unencrypted: \"error: server is full\"";
        assert_eq!(line, format!("{address}: cannot connect: {said}"));
    }
}
