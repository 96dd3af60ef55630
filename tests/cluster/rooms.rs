//! Rooms span nodes: members of all nodes get what is sent to a room, and are counted and told of each
//! other.

use std::time::Duration;

use crate::common::{Client, wait_until};
use crate::engine::Engine;
use crate::nodes::{check_clean, config, login, node_with, nodes, options, stop_all};

fn join(client: &mut Client, line: u64, members: u64) {
    client.send("/join #dev");
    client.expect_line(&format!("notice: line {line}: in #dev, {members} are"));
}

#[test]
fn a_line_to_a_room_reaches_its_members_at_all_nodes() {
    let Some(engine) = Engine::start() else { return };
    let nodes = nodes(&engine, 3);
    let mut alice = login(&nodes[0], "alice");
    let mut bob = login(&nodes[1], "bob");
    let mut carol = login(&nodes[1], "carol");
    let mut dave = login(&nodes[2], "dave");
    alice.send("/join #dev loud");
    alice.expect_line("notice: line 2: in #dev, 1 are");
    join(&mut bob, 2, 2);
    alice.expect_line("notice: #dev: bob joined");
    join(&mut carol, 2, 3);
    alice.expect_line("notice: #dev: carol joined");
    alice.send("#dev: from a");
    for client in [&mut bob, &mut carol] {
        client.expect_line("from alice #dev: from a");
    }
    carol.send("#dev: from b");
    alice.expect_line("from carol #dev: from b");
    bob.expect_line("from carol #dev: from b");
    // A client need not be a member to ask for the members.
    dave.send("/who #dev");
    dave.expect_line("notice: line 2: 3 in #dev: alice, bob, carol");
    dave.send("#dev: not in it");
    dave.expect_line("error: line 3: not in #dev");
    bob.send("/leave #dev");
    bob.expect_line("notice: line 3: left #dev");
    alice.expect_line("notice: #dev: bob left");
    drop(carol);
    alice.expect_line("notice: #dev: carol left");
    alice.send("#dev: alone");
    alice.expect_line("error: line 4: nobody else is in #dev");
    drop((alice, bob, dave));
    let reports = stop_all(nodes);
    check_clean(&reports);
    let copies: Vec<u64> = reports
        .iter()
        .map(|report| report.cluster.as_ref().expect("a node's report").room_copies.arrived)
        .collect();
    assert_eq!(copies, [1, 1, 0], "one copy for each node, however many members it has");
}

#[test]
fn lines_to_a_room_and_to_its_members_keep_their_order() {
    let Some(engine) = Engine::start() else { return };
    let nodes = nodes(&engine, 2);
    let mut alice = login(&nodes[0], "alice");
    let mut bob = login(&nodes[1], "bob");
    alice.send("/join #dev loud");
    alice.expect_line("notice: line 2: in #dev, 1 are");
    join(&mut bob, 2, 2);
    // Her node knows him when it has heard of him, not when his does.
    alice.expect_line("notice: #dev: bob joined");
    for number in 0..500 {
        alice.send(&format!("#dev: {number}"));
        alice.send(&format!("bob: {number}"));
    }
    for number in 0..500 {
        bob.expect_line(&format!("from alice #dev: {number}"));
        bob.expect_line(&format!("from alice: {number}"));
    }
    drop((alice, bob));
    check_clean(&stop_all(nodes));
}

#[test]
fn members_stay_in_their_rooms_when_the_engine_forgets() {
    let Some(mut engine) = Engine::start() else { return };
    let nodes = nodes(&engine, 2);
    let mut alice = login(&nodes[0], "alice");
    let mut bob = login(&nodes[1], "bob");
    alice.send("/join #dev loud");
    alice.expect_line("notice: line 2: in #dev, 1 are");
    join(&mut bob, 2, 2);
    // Until she hears of him, the room is hers alone.
    alice.expect_line("notice: #dev: bob joined");
    engine.restart();
    alice.send("#dev: sent while it had forgotten");
    bob.expect_line("from alice #dev: sent while it had forgotten");
    bob.send("/who #dev");
    // The order in which members came is forgotten.
    let line = bob.line().expect("a reply");
    let rest = line.strip_prefix("notice: line 3: 2 in #dev: ").unwrap_or_else(|| panic!("{line}"));
    assert!(["alice, bob", "bob, alice"].contains(&rest), "{line}");
    bob.send("#dev: back");
    alice.expect_line("from bob #dev: back");
    drop((alice, bob));
    check_clean(&stop_all(nodes));
}

#[test]
fn members_of_a_node_that_stops_have_left_its_rooms() {
    let Some(engine) = Engine::start() else { return };
    let mut nodes = nodes(&engine, 2);
    let mut alice = login(&nodes[0], "alice");
    let mut bob = login(&nodes[1], "bob");
    join(&mut alice, 2, 1);
    join(&mut bob, 2, 2);
    let mut reports = vec![nodes.pop().expect("two nodes").stop()];
    wait_until("the room to be left", || {
        alice.send("/who #dev");
        alice.line().is_some_and(|line| line.ends_with("1 in #dev: alice"))
    });
    alice.send("#dev: alone");
    let line = alice.line().expect("a reply");
    assert!(line.ends_with("nobody else is in #dev"), "{line}");
    drop((alice, bob));
    reports.extend(stop_all(nodes));
    check_clean(&reports);
}

#[test]
fn a_member_at_another_node_that_reads_nothing_holds_up_its_room_until_it_is_evicted() {
    let Some(engine) = Engine::start() else { return };
    let config = || config().stall_timeout(Duration::from_secs(1));
    let node = |name| node_with(options(&engine, name), config());
    let nodes = vec![node("a"), node("b")];
    let mut alice = login(&nodes[0], "alice");
    let mut fast = login(&nodes[1], "fast");
    let slow = nodes[1].login_with_small_buffers("slow");
    wait_until("three clients", || nodes[1].stats().connected == 2);
    let mut slow = slow;
    alice.send("/join #dev loud");
    alice.expect_line("notice: line 2: in #dev, 1 are");
    join(&mut fast, 2, 2);
    alice.expect_line("notice: #dev: fast joined");
    slow.send("/join #dev");
    alice.expect_line("notice: #dev: slow joined");
    let reader = std::thread::spawn(move || {
        let lines = fast.lines_to_eof();
        lines.iter().filter(|line| line.starts_with("from alice #dev: ")).count()
    });
    let text = "x".repeat(1000);
    for _ in 0..3000 {
        alice.send(&format!("#dev: {text}"));
    }
    // All of it has passed, which it could not while the slow one held it up.
    wait_until("all lines", || nodes[0].stats().accepted >= 3002);
    alice.send("/sync");
    let mut told = Vec::new();
    while !told.last().is_some_and(|line: &String| line.starts_with("notice: line 3003: ")) {
        told.push(alice.line().expect("a notice"));
    }
    told.retain(|line| line != "notice: #dev: slow left");
    assert!(told[0].ends_with("lost on the way to slow: evicted"), "{told:?}");
    let answer = "notice: line 3003: everything before it is delivered or was reported lost";
    assert_eq!(told[1..], [answer]);
    drop(slow);
    drop(alice);
    let reports = stop_all(nodes);
    crate::nodes::check(&reports);
    assert_eq!(reader.join().expect("no panic"), 3000);
}
