//! A node that is killed, and one that is suspended for longer than its lease: both as processes.

use rustix::process::Signal;

use crate::common::{Client, wait_until};
use crate::engine::Engine;
use crate::nodes::{SHORT_LEASE, check, config, login, login_soon, node_with, options};
use crate::process::{Process, serve};

fn process(engine: &Engine, name: &str) -> Process {
    let url = engine.url();
    let flags = ["--cluster", url.as_str(), "--node", name, "--cluster-lease", "2s"];
    Process::start(serve(&[&flags[..], &["--linger", "0.1"]].concat()))
}

#[test]
fn a_killed_node_is_taken_for_dead_and_its_messages_are_in_doubt() {
    let Some(engine) = Engine::start() else { return };
    let first = node_with(options(&engine, "a").lease(SHORT_LEASE), config());
    let mut alice = login(&first, "alice");
    let mut second = process(&engine, "b");
    let mut bob = Client::connect(second.address());
    bob.send("bob");
    bob.send("alice: hello");
    alice.expect_line("from bob: hello");
    alice.send("bob: this arrives");
    bob.expect_line("from alice: this arrives");
    alice.send("/sync");
    alice.expect_line("notice: line 3: everything before it is delivered");
    // Lines sent while it stands still are in its inbox, which is not read any more.
    second.suspend();
    alice.send("bob: this is in doubt");
    alice.send("bob: and this");
    alice.send("carol: nobody");
    alice.expect_line("error: line 6: no such peer: carol");
    second.signal(Signal::KILL);
    let mut told = 0;
    while told < 2 {
        let line = alice.line().expect("a notice");
        assert!(line.ends_with("lost on the way to bob: its node is gone"), "{line}");
        told += if line.contains("2 lines from line 4 on") { 2 } else { 1 };
    }
    let mut bob = login_soon(first.address, "bob");
    alice.send("bob: welcome back");
    bob.expect_line("from alice: welcome back");
    drop((alice, bob));
    let report = first.stop();
    let node = report.cluster.as_ref().expect("a node's report");
    // Exactly what was not known to have arrived.
    assert_eq!(node.in_doubt, 2, "{report}");
    assert!(report.is_clean(), "that was before the drain: {report}");
}

#[test]
fn a_node_that_was_suspended_for_too_long_begins_a_new_life() {
    let Some(engine) = Engine::start() else { return };
    let first = node_with(options(&engine, "a").lease(SHORT_LEASE), config());
    let mut second = process(&engine, "b");
    let mut bob = Client::connect(second.address());
    bob.send("bob");
    let mut dave = Client::connect(second.address());
    dave.send("dave");
    dave.send("bob: both are there");
    bob.expect_line("from dave: both are there");
    dave.send("/sync");
    dave.expect_line("notice: line 2: everything before it is delivered");
    second.suspend();
    // Another client takes the name meanwhile.
    let mut other = login_soon(first.address, "bob");
    second.resume();
    bob.expect_line("error: name taken");
    bob.expect_eof();
    // The other name was still free, and its client goes on.
    dave.send("bob: to the new one");
    other.expect_line("from dave: to the new one");
    other.send("dave: back");
    dave.expect_line("from bob: back");
    drop((other, dave));
    wait_until("nobody to be left", || first.stats().connected == 0);
    let (status, _) = second.terminate();
    assert_eq!(status, 0);
    let report = first.stop();
    check(&[]);
    assert!(report.is_clean(), "{report}");
}
