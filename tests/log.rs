//! Whatever becomes of the log, nobody waits for it: neither clients, nor the drain, nor the exit.
//! And nobody fills it by connecting, or puts into it what it is not for.
//!
//! Each case starts the real process and fills its log by clients that come and go, while what it
//! is written to is full, closed, or not read.
#![cfg(feature = "cli")]

mod common;
#[path = "common/process.rs"]
mod process;

use std::io::Read;
use std::net::SocketAddr;

use common::{Client, try_login};
use process::{Process, serve};
use rustix::process::Signal;

/// How many clients come and go: the two lines that each of them adds to the log are more than
/// a pipe holds (64 KiB), and less than what the server keeps for it.
const PASSERS_BY: usize = 700;

/// Has clients come and go, then two talk to each other, and then the server stopped.
fn bustle(process: &Process, address: SocketAddr) {
    let login = |name: &str| try_login(address, name).expect("room");
    for number in 0..PASSERS_BY {
        let mut passer_by = login(&format!("passer-by-{number}"));
        passer_by.half_close();
        passer_by.expect_eof();
    }
    let (mut alice, mut bob) = (login("alice"), login("bob"));
    alice.send("bob: hi");
    bob.expect_line("from alice: hi");
    process.signal(Signal::TERM);
    let notice = |client: &mut Client, accepted: u64| {
        client.expect_line(&format!(
            "notice: server is shutting down, {accepted} of your lines were accepted"
        ));
        client.expect_eof();
    };
    notice(&mut alice, 2);
    notice(&mut bob, 1);
}

/// Has clients end in every way there is before they are logged in.
fn knock(address: SocketAddr) {
    for _ in 0..20 {
        for said in ["", "unterminated", "no name\n"] {
            let mut client = Client::connect(address);
            client.send_bytes(said.as_bytes());
            client.half_close();
            client.lines_to_eof();
        }
        let mut silent = Client::connect(address);
        silent.expect_line("error: login not in time");
        silent.expect_eof();
    }
}

#[test]
fn who_never_logs_in_leaves_no_line_unless_one_asks_for_it() {
    for (level, lines) in [("info", 0), ("debug", 80)] {
        // However long a client is held up between two steps, it sees no reset.
        let flags = ["--login-timeout", "20ms", "--linger", "1min", "--log-level", level];
        let mut process = Process::start(serve(&flags));
        knock(process.address());
        let (status, log) = process.terminate();
        assert_eq!(status, 0, "{log:#?}");
        let gone = log.iter().filter(|line| line.contains("nobody went, connection"));
        assert_eq!(gone.count(), lines, "{log:#?}");
        // What one has to know is in the report.
        assert!(log.last().is_some_and(|line| line.contains("stopped: 80 connections, ")));
        assert!(lines > 0 || log.len() == 3, "{log:#?}");
    }
}

#[test]
fn nothing_that_a_client_says_but_its_name_gets_into_the_log() {
    let mut process = Process::start(serve(&["--log-level", "trace"]));
    let address = process.address();
    for name in ["\u{1b}[2J", "alice\rforged", "x\u{9b}31m", "\u{85}"] {
        let mut client = Client::connect(address);
        client.send(name);
        client.lines_to_eof();
    }
    let mut alice = try_login(address, "alice").expect("room");
    alice.send("\u{1b}[2J\nalice: \u{1b}[2J forged\n/who \rforged\nalice: seen");
    while alice.line().as_deref() != Some("from alice: seen") {}
    drop(alice);
    let (status, log) = process.terminate();
    assert_eq!(status, 0, "{log:#?}");
    assert!(log.iter().any(|line| line.contains(" alice came, ")), "{log:#?}");
    let clean = |line: &String| !line.contains("forged") && !line.contains(char::is_control);
    assert!(log.iter().all(clean), "{log:#?}");
}

#[test]
fn a_pipe_that_nobody_reads_holds_nobody_up() {
    let mut process = Process::start_unheard(&mut serve(&[]));
    let mut unread = process.take_stderr();
    let address = process.address();
    bustle(&process, address);
    assert_eq!(process.wait().0, 0);
    // Only now: as much as the pipe has held.
    let mut log = String::new();
    unread.read_to_string(&mut log).expect("text");
    // What does not fit into the rest of one of its sixteen pages begins the next one, so that any
    // two neighbours hold more than one page.
    assert!(log.len() > 32 * 1024, "{} bytes are no full pipe", log.len());
    assert!(log.lines().next().is_some_and(|line| line.contains("listening on ")), "{log}");
}

#[test]
fn a_pipe_that_is_read_late_gets_all_of_the_log() {
    let mut process = Process::start_unheard(&mut serve(&[]));
    let address = process.address();
    bustle(&process, address);
    process.hear();
    let (status, log) = process.wait();
    let report = log.last().expect("a log");
    assert!(status == 0 && report.contains("] stopped: 702 connections, "), "{report}");
    for event in [" came, ", " went, "] {
        let times = log.iter().filter(|line| line.contains(event)).count();
        assert_eq!(times, PASSERS_BY + 2, "{event}: {log:#?}");
    }
}

#[test]
fn a_pipe_that_is_closed_is_no_harm() {
    let mut process = Process::start_unheard(&mut serve(&[]));
    let address = process.address();
    drop(process.take_stderr());
    bustle(&process, address);
    assert_eq!(process.wait().0, 0);
}

#[test]
fn a_full_disk_is_no_harm() {
    let mut process = Process::start(serve(&["--log-file", "/dev/full"]));
    let address = process.address();
    bustle(&process, address);
    assert_eq!(process.wait(), (0, Vec::new()));
}
