//! Nodes that stop: all at once, and one after the other.

use std::collections::HashMap;
use std::io::Write;
use std::thread;

use crate::common::{Client, TEST_TIMEOUT, wait_until};
use crate::engine::Engine;
use crate::nodes::{
    SHORT_LEASE, check, check_clean, check_up_to_doubt, config, login, node, node_with, nodes,
    options, stop_all, stop_all_at_once,
};

/// What a client received: of each sender the numbers, in order.
fn received(client: &mut Client) -> (HashMap<String, Vec<u64>>, Option<u64>) {
    let (mut streams, mut accepted): (HashMap<String, Vec<u64>>, _) = (HashMap::new(), None);
    for line in client.lines_to_eof() {
        if let Some(message) = line.strip_prefix("from ") {
            let (sender, number) = message.split_once(": ").expect("a message");
            let number = number.parse().expect("a number");
            streams.entry(sender.to_owned()).or_default().push(number);
        } else if let Some(rest) = line.strip_prefix("notice: server is shutting down, ") {
            let (count, _) = rest.split_once(' ').expect("a number of lines");
            accepted = Some(count.parse().expect("a number"));
        } else {
            panic!("{line}");
        }
    }
    (streams, accepted)
}

/// The claim of the whole: whatever each sender's notice says was accepted has reached its recipient,
/// on whichever node that is, once and in order; and no report knows of a loss.
#[test]
fn all_nodes_stopped_at_once_under_load_lose_nothing() {
    const NODES: usize = 3;
    const CLIENTS: usize = 4;
    let Some(engine) = Engine::start() else { return };
    let nodes = nodes(&engine, NODES);
    let mut clients = Vec::new();
    for at in 0..NODES * CLIENTS {
        clients.push(login(&nodes[at % NODES], &format!("client{at}")));
    }
    let count = clients.len();
    let senders: Vec<_> = clients
        .iter()
        .enumerate()
        .map(|(me, client)| {
            let mut socket = client.stream.try_clone().expect("a descriptor");
            thread::spawn(move || {
                // To each of the others in turn, each with numbers of its own, until the node ends.
                for number in 0.. {
                    let mut lines = String::new();
                    for step in 1..count {
                        lines.push_str(&format!("client{}: {number}\n", (me + step) % count));
                    }
                    if socket.write_all(lines.as_bytes()).is_err() {
                        break;
                    }
                }
            })
        })
        .collect();
    let readers: Vec<_> = clients
        .into_iter()
        .map(|mut client| thread::spawn(move || received(&mut client)))
        .collect();
    wait_until("some load", || nodes.iter().all(|node| node.stats().delivered > 2_000));
    let reports = stop_all_at_once(&engine, nodes);
    check_clean(&reports);
    let streams: Vec<_> = readers.into_iter().map(|it| it.join().expect("no panic")).collect();
    senders.into_iter().for_each(|sender| sender.join().expect("no panic"));
    for (me, (_, accepted)) in streams.iter().enumerate() {
        // The first line was `/who`.
        let accepted = accepted.expect("a closing notice") - 1;
        for step in 1..count {
            let (per_round, rest) = (accepted / (count as u64 - 1), accepted % (count as u64 - 1));
            let expected = per_round + u64::from((step as u64) <= rest);
            let to = (me + step) % count;
            let got = streams[to].0.get(&format!("client{me}")).map_or(&[][..], Vec::as_slice);
            let all: Vec<u64> = (0..expected).collect();
            assert_eq!(got, all, "client{me} to client{to}");
        }
    }
}

#[test]
fn lines_follow_a_client_to_the_node_that_it_moves_to() {
    let Some(engine) = Engine::start() else { return };
    let mut nodes = nodes(&engine, 2);
    let mut alice = login(&nodes[0], "alice");
    let bob = login(&nodes[1], "bob");
    let second = nodes.pop().expect("two nodes");
    let stopped = {
        let mut bob = bob;
        second.handle.shutdown();
        bob.expect_line("notice: server is shutting down, 1 of your lines were accepted");
        bob.expect_eof();
        second.stop()
    };
    // Bob is nowhere, and his lines wait.
    alice.send("bob: 1");
    alice.send("bob: 2");
    alice.send("/who bob");
    alice.expect_line("notice: line 4: here: bob");
    let mut bob = Client::connect(nodes[0].address);
    bob.send("bob");
    bob.expect_lines(&["from alice: 1", "from alice: 2"]);
    alice.send("bob: 3");
    bob.expect_line("from alice: 3");
    drop((alice, bob));
    let mut reports = stop_all(nodes);
    reports.push(stopped);
    check_clean(&reports);
}

#[test]
fn what_is_held_for_a_client_that_does_not_come_back_is_named() {
    let Some(engine) = Engine::start() else { return };
    let (first, second) = (node(&engine, "a"), node(&engine, "b"));
    let mut alice = login(&first, "alice");
    let bob = login(&second, "bob");
    second.handle.shutdown();
    let gone = second.stop();
    drop(bob);
    alice.send("bob: nobody comes for this");
    wait_until("the end of the hold", || {
        alice.send("/who bob");
        alice.line().is_some_and(|line| line.ends_with("not here: bob"))
    });
    drop(alice);
    let report = first.stop();
    check(&[report.clone(), gone]);
    let node = report.cluster.expect("a node's report");
    let named: Vec<_> = node.losses.iter().map(|loss| (loss.messages, loss.reason)).collect();
    assert_eq!(named, [(1, a_chat::NodeLossReason::DidNotComeBack)]);
    assert_eq!(report.lost_before_drain, 1);
}

/// A second signal ends a node while others wait for word of what it has taken over.
#[test]
fn a_node_whose_stop_is_forced_leaves_nothing_open_at_others() {
    let Some(engine) = Engine::start() else { return };
    let node = |name| {
        let options = options(&engine, name).hold(std::time::Duration::from_secs(1));
        node_with(options.lease(SHORT_LEASE), config().stall_timeout(TEST_TIMEOUT * 10))
    };
    let (first, second) = (node("a"), node("b"));
    let mut alice = login(&first, "alice");
    let stuck = second.login_with_small_buffers("stuck");
    wait_until("the recipient", || second.stats().connected == 1);
    let text = "x".repeat(1000);
    for _ in 0..200 {
        alice.send(&format!("stuck: {text}"));
    }
    // Taken over, and more than its socket's buffers hold.
    let arrived = || second.stats_handle().cluster().map_or(0, |stats| stats.arrived);
    wait_until("the lines", || arrived() == 200);
    second.handle.force();
    let forced = second.stop();
    assert!(!forced.is_clean(), "{forced}");
    drop(stuck);
    alice.send("/sync");
    let mut told = 0;
    let mut answer = alice.line().expect("an answer");
    while answer.contains(" lost on the way to stuck: ") {
        // Those that came too late for the node were held for a client that does not come back.
        let is_known =
            ["its node is gone", "did not come back"].iter().any(|it| answer.ends_with(it));
        assert!(is_known, "{answer}");
        let count = answer.split(": ").nth(2).and_then(|rest| rest.split(' ').next());
        told += count.and_then(|count| count.parse().ok()).unwrap_or(1);
        answer = alice.line().expect("an answer");
    }
    assert_eq!(answer, "notice: line 202: everything before it is delivered or was reported lost");
    // What the other node has told as delivered is not told as lost, and all else is.
    assert!(told >= forced.lost() && told <= 200, "{told} {forced}");
    alice.send("/sync");
    alice.expect_line("notice: line 203: everything before it is delivered");
    drop(alice);
    let report = first.stop();
    assert!(report.is_clean(), "{report}");
    assert!(report.drain < std::time::Duration::from_secs(15), "{report}");
    let node = report.cluster.as_ref().expect("a node's report");
    let unconfirmed: u64 = node.unconfirmed.values().sum();
    // Forced, it may have had no time for its last words; then it was taken for dead.
    assert!(unconfirmed + node.in_doubt >= forced.lost(), "{report}");
    check_up_to_doubt(&[report, forced]);
}
