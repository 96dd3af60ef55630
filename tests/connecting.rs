//! `connect` before and without a connection: `--wait` and the first signal end an attempt, errors
//! say what was tried, and every line that no server accepted is named.
//!
//! Each case runs the real client against a server that the test plays itself.
#![cfg(feature = "cli")]

mod common;
#[path = "common/process.rs"]
mod process;

use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use common::script::Script;
use common::{TEST_TIMEOUT, wait_until};
use process::{Process, connect, filled};
use rustix::process::Signal;

/// A listener to which one can connect, but which never says anything.
fn silent() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    (listener, address)
}

fn client(address: SocketAddr, flags: &[&str]) -> Process {
    let mut command = connect(address, &["--name", "alice"]);
    command.args(flags);
    Process::start(command)
}

/// The same, with one line as its whole input.
fn client_with_a_line(address: SocketAddr, flags: &[&str]) -> Process {
    let mut command = connect(address, &["--name", "alice"]);
    command.args(flags).stdin(filled("bob: hi\n"));
    Process::start(command)
}

/// The status, and standard error without the note that connecting takes its time.
fn end(client: Process) -> (i32, Vec<String>) {
    let (status, mut stderr) = client.wait();
    stderr.retain(|line| !line.starts_with("a-chat: connecting to "));
    (status, stderr)
}

fn not_accepted(last: &str) -> (i32, Vec<String>) {
    let lines = ["a-chat: from line 1 on nothing was accepted", "  line 1: bob: hi", last];
    (1, lines.map(str::to_owned).to_vec())
}

/// The client's own timeouts for connecting and logging in are 5 and 15 s.
#[test]
fn the_wait_bounds_a_login_that_hangs() {
    let (_listener, address) = silent();
    for flags in [&["--wait", "1"][..], &["--wait", "1", "--reconnect"]] {
        let begin = Instant::now();
        let alice = client_with_a_line(address, flags);
        let gave_up = format!("a-chat: gave up connecting to {address}");
        assert_eq!(end(alice), not_accepted(&gave_up));
        assert!(begin.elapsed() < Duration::from_secs(14), "after {:?}", begin.elapsed());
    }
}

#[test]
fn the_first_signal_ends_a_login_that_hangs() {
    let (_listener, address) = silent();
    for flags in [&[][..], &["--reconnect"]] {
        let mut alice = client(address, flags);
        alice.write("bob: hi\n");
        // By then it has read its input.
        alice.log.expect(&format!("a-chat: connecting to {address}"));
        alice.signal(Signal::INT);
        let gave_up = format!("a-chat: gave up connecting to {address}");
        assert_eq!(end(alice), not_accepted(&gave_up));
    }
}

#[test]
fn lines_are_named_when_the_connection_is_refused() {
    let (listener, address) = silent();
    drop(listener);
    let alice = client_with_a_line(address, &[]);
    let refused = format!("a-chat: cannot connect to {address}: Connection refused (os error 111)");
    assert_eq!(end(alice), not_accepted(&refused));
}

#[test]
fn a_name_without_an_address_is_named() {
    let mut command = process::executable();
    command.args(["connect", "no-such-host.invalid:1", "--name", "alice"]);
    let mut alice = Process::start(command);
    alice.stdin = None;
    let (status, stderr) = end(alice);
    assert_eq!(status, 1, "{stderr:?}");
    let last = stderr.last().expect("an error");
    assert!(last.starts_with("a-chat: cannot find no-such-host.invalid:1: "), "{stderr:?}");
}

/// The server takes nothing, so most lines are still in the client when it is forced to end.
#[test]
fn a_forced_end_names_the_lines_that_are_in_doubt_and_not_accepted() {
    const LINES: usize = 2_000;
    let script = Script::listen();
    let mut alice = client(script.address, &[]);
    let mut peer = script.log_in("alice");
    alice.write("bob: first\n");
    peer.expect_line("bob: first");
    let line = format!("bob: {}\n", "x".repeat(2_000));
    let mut stdin = alice.stdin.take().expect("an input");
    let writer = std::thread::spawn(move || {
        use std::io::Write;
        // The client stops reading when it is told to end.
        let _ = stdin.write_all(line.repeat(LINES).as_bytes());
    });
    // The first signal ends the input, and one after half a second everything.
    let begin = Instant::now();
    wait_until("the end", || {
        alice.signal(Signal::TERM);
        alice.state() == 'Z'
    });
    assert!(begin.elapsed() < TEST_TIMEOUT);
    let (status, stderr) = end(alice);
    assert_eq!(status, 1);
    let has = |text: &str| stderr.iter().any(|line| line.contains(text));
    assert!(has("given up") && has("in doubt") && has("  line 1: bob: first"), "{stderr:#?}");
    drop(peer);
    writer.join().expect("no panic");
}
