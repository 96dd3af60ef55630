//! Whatever becomes of the log, nobody waits for it: neither clients, nor the drain, nor the exit.
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
    assert!(log.len() > 60_000, "{} bytes are no full pipe", log.len());
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
