//! A log that blocks, closes or fills up delays neither clients nor the drain nor the exit, and
//! clients can neither fill it by connecting nor forge its lines.
//!
//! Each case starts the real process and fills its log with clients that connect and disconnect,
//! while the log's output is full, closed, or never read.
#![cfg(feature = "cli")]
#![allow(clippy::print_stdout, reason = "a test that cannot run here prints why")]

mod common;
#[path = "common/process.rs"]
mod process;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;

use common::{Client, try_login, wait_until};
use process::{Process, executable, serve, serve_through};
use rustix::process::Signal;

/// Clients that connect and disconnect. The two log lines of each exceed a pipe's 64 KiB, and stay
/// below the log's own queue.
const PASSERS_BY: usize = 700;

/// Clients connect and disconnect, two talk to each other, then the server shuts down.
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

/// Clients disconnect before login in every possible way.
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
fn a_client_that_never_logs_in_is_logged_only_at_debug() {
    for (level, lines) in [("info", 0), ("debug", 80)] {
        // A client that is slow between two steps still sees no reset.
        let flags = ["--login-timeout", "20ms", "--linger", "1min", "--log-level", level];
        let mut process = Process::start(serve(&flags));
        knock(process.address());
        let (status, log) = process.terminate();
        assert_eq!(status, 0, "{log:#?}");
        let gone =
            log.iter().filter(|line| line.contains("unnamed client disconnected (connection "));
        assert_eq!(gone.count(), lines, "{log:#?}");
        // The report counts them all.
        assert!(log.last().is_some_and(|line| line.contains("stopped: 80 connections, ")));
        assert!(lines > 0 || log.len() == 3, "{log:#?}");
    }
}

#[test]
fn a_client_named_nobody_is_not_logged_like_an_unnamed_one() {
    let mut process = Process::start(serve(&["--log-level", "debug"]));
    let address = process.address();
    drop(try_login(address, "nobody").expect("room"));
    process.log.expect("] nobody disconnected (connection 1, ");
    drop(Client::connect(address));
    process.log.expect("unnamed client disconnected (connection 2, ");
    let (status, log) = process.terminate();
    assert_eq!(status, 0, "{log:#?}");
}

#[test]
fn the_only_client_input_in_the_log_is_the_name() {
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
    alice.leave();
    let (status, log) = process.terminate();
    assert_eq!(status, 0, "{log:#?}");
    assert!(log.iter().any(|line| line.contains(" alice connected (")), "{log:#?}");
    let clean = |line: &String| !line.contains("forged") && !line.contains(char::is_control);
    assert!(log.iter().all(clean), "{log:#?}");
}

#[test]
fn a_log_pipe_that_is_never_read_delays_no_client() {
    let mut process = Process::start_without_reading_stderr(&mut serve(&[]));
    let mut unread = process.take_stderr();
    let address = process.address();
    bustle(&process, address);
    assert_eq!(process.wait().0, 0);
    // Only now is the pipe read, and it holds this much.
    let mut log = String::new();
    unread.read_to_string(&mut log).expect("text");
    // A write that does not fit into the rest of one of its sixteen pages begins the next page, so
    // any two neighbours hold more than one page.
    assert!(log.len() > 32 * 1024, "{} bytes are not a full pipe", log.len());
    assert!(log.lines().next().is_some_and(|line| line.contains("listening on ")), "{log}");
}

#[test]
fn a_log_pipe_that_is_read_late_gets_every_line() {
    let mut process = Process::start_without_reading_stderr(&mut serve(&[]));
    let address = process.address();
    bustle(&process, address);
    process.read_stderr();
    let (status, log) = process.wait();
    let report = log.last().expect("a log");
    assert!(status == 0 && report.contains("] stopped: 702 connections, "), "{report}");
    for event in [" connected (", " disconnected ("] {
        let times = log.iter().filter(|line| line.contains(event)).count();
        assert_eq!(times, PASSERS_BY + 2, "{event}: {log:#?}");
    }
}

#[test]
fn every_time_stamp_has_the_same_width() {
    let mut process = Process::start(serve(&[]));
    for number in 0..50 {
        drop(process.login(&format!("client-{number}")));
    }
    let (status, log) = process.terminate();
    assert_eq!(status, 0, "{log:#?}");
    for line in log {
        let (stamp, _) = line.split_once(' ').expect("a time and a text");
        assert_eq!(stamp.len(), "2026-01-01T00:00:00.000000Z".len(), "{line}");
    }
}

#[test]
fn an_ipv4_client_of_a_listener_for_both_families_is_logged_as_ipv4() {
    if TcpListener::bind("[::1]:0").is_err() {
        println!("skipped: no IPv6 here");
        return;
    }
    let mut command = executable();
    command.args(["--listen", "[::]:0", "--max-per-address", "1"]);
    let mut process = Process::start(command);
    let port = process.address().port();
    let ipv4 = SocketAddr::from(([127, 0, 0, 1], port));
    let alice = try_login(ipv4, "alice").expect("room");
    process.log.expect("alice connected (connection 1, 127.0.0.1:");
    let mut bob = Client::connect(ipv4);
    bob.expect_line("error: too many connections from your address");
    process.log.expect("refused 127.0.0.1:");
    drop(alice);
    let (status, log) = process.terminate();
    assert_eq!(status, 0, "{log:#?}");
    assert!(!log.iter().any(|line| line.contains("::ffff:")), "{log:#?}");
}

#[test]
fn a_dash_as_log_file_is_standard_error() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut command = serve(&["--log-file", "-"]);
    command.current_dir(directory.path());
    let mut process = Process::start(command);
    process.address();
    process.log.expect("listening on ");
    assert_eq!(process.terminate().0, 0);
    assert_eq!(fs::read_dir(directory.path()).expect("a directory").count(), 0);
}

#[test]
fn a_fifo_that_is_never_read_does_not_block_the_start() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("log");
    let made = Command::new("mkfifo").arg(&path).status();
    assert!(made.is_ok_and(|status| status.success()), "mkfifo(1)");
    let mut process = Process::start(serve(&["--log-file", path.to_str().expect("UTF-8")]));
    let address = process.address();
    drop(try_login(address, "alice").expect("room"));
    // A reader that comes later gets the log from its beginning.
    let mut fifo = BufReader::new(File::open(&path).expect("a writer"));
    let mut line = String::new();
    fifo.read_line(&mut line).expect("text");
    assert!(line.contains("listening on "), "{line}");
    assert_eq!(process.terminate().0, 0);
    line.clear();
    fifo.read_to_string(&mut line).expect("text");
    assert!(
        line.trim_end().lines().last().is_some_and(|line| line.contains("stopped: ")),
        "{line}"
    );
}

#[test]
fn a_log_file_can_be_rotated_by_copying_and_truncating_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("log");
    let mut process = Process::start(serve(&["--log-file", path.to_str().expect("UTF-8")]));
    process.address();
    let read = || fs::read_to_string(&path).expect("a log file");
    wait_until("the first line", || read().ends_with('\n'));
    fs::copy(&path, directory.path().join("log.1")).expect("room");
    File::options().write(true).truncate(true).open(&path).expect("a log file");
    drop(process.login("alice"));
    assert_eq!(process.terminate().0, 0);
    let log = read();
    assert!(log.lines().next().is_some_and(|line| line.contains(" alice connected ")), "{log:?}");
}

#[test]
fn a_log_file_that_was_moved_away_is_opened_anew_on_request() {
    let directory = tempfile::tempdir().expect("a directory");
    let (path, old) = (directory.path().join("log"), directory.path().join("log.1"));
    let mut process = Process::start(serve(&["--log-file", path.to_str().expect("UTF-8")]));
    let address = process.address();
    let read = |path: &Path| fs::read_to_string(path).unwrap_or_default();
    drop(process.login("alice"));
    wait_until("alice's end", || read(&path).contains(" alice disconnected "));
    fs::rename(&path, &old).expect("a log file");
    process.signal(Signal::USR1);
    wait_until("the figures", || read(&path).contains("counters: 0 connected now, 1 connection, "));
    let mode = fs::metadata(&path).expect("a log file").mode() & 0o777;
    assert_eq!(mode & !0o640, 0, "{mode:o}");
    // Somebody puts a link in the file's place: the log stays where it is and says so.
    fs::remove_file(&path).expect("a log file");
    std::os::unix::fs::symlink(directory.path().join("elsewhere"), &path).expect("a link");
    process.signal(Signal::USR1);
    drop(try_login(address, "bob").expect("room"));
    assert_eq!(process.terminate().0, 0);
    assert!(!directory.path().join("elsewhere").exists(), "the link was followed");
    assert!(!read(&old).contains("counters: "), "{}", read(&old));
}

#[test]
fn a_log_whose_folder_is_gone_goes_on_in_the_old_file() {
    let directory = tempfile::tempdir().expect("a directory");
    let folder = directory.path().join("logs");
    fs::create_dir(&folder).expect("room");
    let path = folder.join("log");
    let mut process = Process::start(serve(&["--log-file", path.to_str().expect("UTF-8")]));
    process.address();
    let file = File::open(&path).expect("a log file");
    fs::remove_dir_all(&folder).expect("a folder");
    process.signal(Signal::USR1);
    let log = || {
        let mut text = vec![0; 4096];
        let length = file.read_at(&mut text, 0).expect("a file, even without a name");
        String::from_utf8_lossy(&text[..length]).into_owned()
    };
    wait_until("the figures", || log().contains("counters: "));
    assert!(log().contains("[WARN] the log goes on in the old file: cannot open "), "{}", log());
    assert_eq!(process.terminate().0, 0);
    assert!(log().contains("] stopped: "), "{}", log());
}

#[test]
fn a_log_in_json_has_the_figures_of_the_text_as_members() {
    let mut process = Process::start(serve(&["--log-format", "json"]));
    let mut alice = process.login("alice");
    alice.send("alice: one\nalice: two");
    alice.expect_line("from alice: one");
    alice.expect_line("from alice: two");
    process.signal(Signal::USR1);
    process.log.expect("counters: ");
    alice.leave();
    process.log.expect("alice disconnected");
    let (status, log) = process.terminate();
    assert_eq!(status, 0, "{log:#?}");
    let lines = log.iter().map(|line| {
        serde_json::from_str::<serde_json::Value>(line)
            .unwrap_or_else(|error| panic!("{error}: {line}"))
    });
    let lines: Vec<_> = lines.collect();
    for line in &lines {
        let time = line["time"].as_str().expect("a time");
        assert!(time.ends_with('Z') && line["message"].is_string(), "{line}");
        assert!(["info", "error"].contains(&line["level"].as_str().expect("a level")), "{line}");
    }
    let with = |text: &str| {
        let mut all = lines.iter();
        let found = all.find(|line| line["message"].as_str().is_some_and(|it| it.contains(text)));
        found.unwrap_or_else(|| panic!("{text} in {log:#?}"))
    };
    assert_eq!(with("alice connected")["client"], "alice");
    assert_eq!(with("alice connected")["connection"], 1);
    let left = with("alice disconnected");
    assert_eq!((&left["reason"], &left["accepted"]), (&"left".into(), &3.into()));
    assert_eq!(
        (&with("counters: ")["owed"], &with("counters: ")["connected"]),
        (&2.into(), &1.into())
    );
    assert_eq!(
        (&with("stopped: ")["delivered"], &with("stopped: ")["forced"]),
        (&2.into(), &false.into())
    );
}

#[test]
fn a_line_for_the_journal_has_a_priority_and_no_time() {
    // As systemd does it: the variable names the device and the inode of standard error.
    for (redirection, is_journal) in [("", true), ("2>/dev/stdout", false)] {
        let script = format!(
            "export JOURNAL_STREAM=$(stat -L -c %d:%i /dev/stderr); exec \"$0\" \"$@\" {redirection}"
        );
        let mut command = serve_through(&["sh", "-c", &script], &[]);
        command.env_remove("JOURNAL_STREAM");
        let mut process = Process::start(command);
        let address = process.address();
        drop(try_login(address, "alice").expect("room"));
        process.signal(Signal::TERM);
        let (status, stdout, stderr) = process.outcome();
        assert_eq!(status, 0);
        let log = if is_journal { stderr } else { stdout };
        let lines = log.iter().filter(|line| line.contains("alice connected ("));
        let lines: Vec<_> = lines.collect();
        assert_eq!(lines.len(), 1, "{log:#?}");
        assert_eq!(lines[0].starts_with("<6>alice connected ("), is_journal, "{log:#?}");
    }
}

#[test]
fn a_closed_log_pipe_does_no_harm() {
    let mut process = Process::start_without_reading_stderr(&mut serve(&[]));
    let address = process.address();
    drop(process.take_stderr());
    bustle(&process, address);
    assert_eq!(process.wait().0, 0);
}

#[test]
fn a_full_disk_does_no_harm() {
    let mut process = Process::start(serve(&["--log-file", "/dev/full"]));
    let address = process.address();
    bustle(&process, address);
    assert_eq!(process.wait(), (0, Vec::new()));
}
