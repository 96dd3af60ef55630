//! `a-chat connect --confirm` exits with 0 only if every line was delivered, with 1 if a line was
//! refused or lost, and with 3 if everything was accepted and the confirmation is missing.
//!
//! Each case runs the real executable against a real server in this process or, where the server has
//! to misbehave, against one that the test plays.
#![cfg(feature = "cli")]

mod common;
#[path = "common/process.rs"]
mod process;

use a_chat::Config;
use common::script::Script;
use common::{Client, TEST_TIMEOUT, TestServer, wait_until};
use process::{Process, connect};

fn client(address: std::net::SocketAddr, flags: &[&str]) -> Process {
    let mut command = connect(address, &["--name", "ci", "--confirm"]);
    command.args(flags);
    Process::start(command)
}

/// A client whose 100 lines and question are accepted, while `stuck` does not read. So few lines
/// are sent without a question in between.
fn undelivered() -> (TestServer, Client, Process) {
    let server = TestServer::with(Config::default().stall_timeout(TEST_TIMEOUT * 10));
    let stuck = server.login_with_small_buffers("stuck");
    let mut ci = client(server.address, &[]);
    let line = format!("stuck: {}\n", "x".repeat(1000));
    ci.write_and_end(&line.repeat(100));
    // The first one is the login's question.
    wait_until("the last question", || server.stats().accepted >= 102);
    (server, stuck, ci)
}

/// Waits for the client to exit; returns its exit status, standard output and standard error.
fn outcome(mut client: Process) -> (i32, Vec<String>, Vec<String>) {
    let stdout = client.stdout.take_to_end();
    let (status, stderr) = client.wait();
    (status, stdout, stderr)
}

#[test]
fn a_confirmed_line_is_delivered() {
    let server = TestServer::start();
    let mut bob = server.login("bob");
    let mut ci = client(server.address, &[]);
    ci.write_and_end("bob: deploy done\n");
    let (status, stdout, stderr) = outcome(ci);
    assert_eq!((status, stdout, stderr), (0, Vec::new(), Vec::new()));
    bob.expect_line("from ci: deploy done");
    server.stop_with([(bob, 0)]);
}

#[test]
fn a_refused_line_is_named_and_the_status_is_1() {
    let server = TestServer::start();
    let mut ci = client(server.address, &[]);
    ci.write_and_end("bob: deploy done\n");
    let (status, _, stderr) = outcome(ci);
    let refused = "a-chat: line 1 was refused, no such peer: bob: bob: deploy done";
    assert_eq!((status, stderr), (1, vec![refused.to_owned()]));
}

#[test]
fn a_lost_line_is_named_and_the_status_is_1() {
    let (server, stuck, ci) = undelivered();
    stuck.reset();
    let (status, stdout, stderr) = outcome(ci);
    let told = " on lost on the way to stuck: connection broken";
    let [error] = &stdout[..] else { panic!("{stdout:?}") };
    assert!(error.starts_with("error: line 100: ") && error.ends_with(told), "{error}");
    assert_eq!(status, 1, "{stderr:?}");
    assert!(stderr[0].ends_with(told) && stderr[1].contains(": stuck: xxx"), "{stderr:?}");
    server.stop();
}

#[test]
fn a_shutdown_before_the_confirmation_gives_status_3() {
    let (server, mut stuck, ci) = undelivered();
    server.handle.shutdown();
    // `stuck` reads only afterwards: what it receives in time is confirmed even in the drain.
    let (status, _, stderr) = outcome(ci);
    assert_eq!(status, 3, "{stderr:?}");
    let last = "a-chat: everything was accepted, but not confirmed as delivered";
    assert_eq!(stderr.last().map(String::as_str), Some(last));
    let received = stuck.lines_to_eof();
    assert_eq!(received.len(), 101);
    drop(stuck);
    assert_eq!(server.stop().lost(), 0);
}

#[test]
fn a_client_asks_again_until_everything_is_delivered() {
    let script = Script::listen();
    let mut ci = client(script.address, &[]);
    let mut peer = script.log_in("ci");
    ci.write_and_end("bob: x\n");
    peer.expect_line("bob: x");
    for _ in 0..3 {
        peer.expect_line("/sync 30");
        let line = peer.line;
        let late = "not everything before it is delivered after 30 s";
        peer.client.send(&format!("error: line {line}: {late}"));
    }
    peer.expect_line("/sync 30");
    let line = peer.line;
    peer.client.send(&format!("notice: line {line}: everything before it is delivered"));
    peer.client.expect_eof();
    drop(peer);
    let (status, stdout, stderr) = outcome(ci);
    assert_eq!((status, stdout, stderr), (0, Vec::new(), Vec::new()));
}

#[test]
fn the_wait_for_a_confirmation_is_bounded() {
    let script = Script::listen();
    let mut ci = client(script.address, &["--wait", "1"]);
    let mut peer = script.log_in("ci");
    ci.write_and_end("bob: x\n");
    peer.expect_line("bob: x");
    peer.expect_line("/sync 1");
    let (status, _, stderr) = outcome(ci);
    // Nobody replied, so the line is in doubt.
    assert_eq!(status, 1, "{stderr:?}");
    drop(peer);
}
