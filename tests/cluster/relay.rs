//! Messages, error replies, `/who` and names: the same over several nodes as on one.

use crate::engine::Engine;
use crate::nodes::{check_clean, login, login_soon, nodes, stop_all};

#[test]
fn clients_of_different_nodes_reach_each_other_by_the_same_lines() {
    let Some(engine) = Engine::start() else { return };
    let nodes = nodes(&engine, 2);
    let mut alice = login(&nodes[0], "alice");
    let mut bob = login(&nodes[1], "bob");
    alice.send("bob: hello");
    bob.expect_line("from alice: hello");
    bob.send("alice, bob: back");
    alice.expect_line("from bob: back");
    bob.expect_line("from bob: back");
    alice.send("carol, bob: some of you");
    bob.expect_line("from alice: some of you");
    alice.expect_line("error: line 3: no such peer: carol");
    alice.send("/who");
    alice.expect_line("notice: line 4: 2 here: alice, bob");
    bob.send("/who carol, alice");
    bob.expect_line("notice: line 3: here: alice; not here: carol");
    drop((alice, bob));
    check_clean(&stop_all(nodes));
}

#[test]
fn a_name_exists_once_in_the_whole_cluster() {
    let Some(engine) = Engine::start() else { return };
    let nodes = nodes(&engine, 2);
    let alice = login(&nodes[0], "alice");
    for node in &nodes {
        let mut other = crate::common::Client::connect(node.address);
        other.send("alice");
        other.send("alice: not routed");
        other.expect_line("error: name taken");
        other.expect_eof();
    }
    drop(alice);
    // It is free once the engine has heard of that.
    let mut again = login_soon(nodes[1].address, "alice");
    again.send("alice: mine now");
    again.expect_line("from alice: mine now");
    drop(again);
    check_clean(&stop_all(nodes));
}
