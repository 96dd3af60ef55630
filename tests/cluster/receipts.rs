//! What a sender is told of lines to another node: losses, and with `/sync` that everything has
//! arrived.

use a_chat::Config;

use crate::common::{Client, TEST_TIMEOUT, TestServer, wait_until};
use crate::engine::Engine;
use crate::nodes::{
    SHORT_LEASE, check, check_clean, check_up_to_doubt, config, login, node_with, nodes, options,
    stop_all,
};

fn pair(engine: &Engine, config: &Config) -> Vec<TestServer> {
    ["a", "b"].map(|name| node_with(options(engine, name), config.clone())).into()
}

/// Two nodes; alice at the first has sent 200 lines to bob at the second, who does not read, and her
/// `/sync` behind them was not confirmed.
fn with_a_recipient_that_does_not_read(engine: &Engine) -> (Vec<TestServer>, Client, Client) {
    let nodes = pair(engine, &config().stall_timeout(TEST_TIMEOUT * 10));
    let mut alice = login(&nodes[0], "alice");
    let bob = nodes[1].login_with_small_buffers("bob");
    let text = "x".repeat(1000);
    for _ in 0..200 {
        alice.send(&format!("bob: {text}"));
    }
    alice.send("/sync 1");
    alice.expect_line("error: line 202: not everything before it is delivered after 1 s");
    (nodes, alice, bob)
}

#[test]
fn a_sync_is_answered_when_recipients_at_other_nodes_have_everything() {
    let Some(engine) = Engine::start() else { return };
    let nodes = nodes(&engine, 2);
    let mut alice = login(&nodes[0], "alice");
    let mut bob = login(&nodes[1], "bob");
    for number in 0..100 {
        alice.send(&format!("bob: {number}"));
    }
    alice.send("/sync");
    alice.expect_line("notice: line 102: everything before it is delivered");
    // It is true: all of it is there to be read.
    for number in 0..100 {
        bob.expect_line(&format!("from alice: {number}"));
    }
    drop((alice, bob));
    check_clean(&stop_all(nodes));
}

#[test]
fn a_sync_is_not_answered_while_a_recipient_at_another_node_does_not_read() {
    let Some(engine) = Engine::start() else { return };
    let (nodes, mut alice, mut bob) = with_a_recipient_that_does_not_read(&engine);
    let reader = std::thread::spawn(move || bob.lines_to_eof().len());
    alice.send("/sync");
    alice.expect_line("notice: line 203: everything before it is delivered");
    drop(alice);
    check_clean(&stop_all(nodes));
    assert!(reader.join().expect("no panic") >= 200);
}

/// An engine that forgets may forget notices of losses that their senders' node has not read.
#[test]
fn a_sync_confirms_nothing_that_was_on_its_way_when_the_engine_forgot() {
    let Some(engine) = Engine::start() else { return };
    let (nodes, mut alice, mut bob) = with_a_recipient_that_does_not_read(&engine);
    engine.say(&["FLUSHALL"]);
    // An answer of the engine's comes only from one that is open again.
    alice.send("/who bob");
    alice.expect_line("notice: line 203: here: bob");
    let reader = std::thread::spawn(move || bob.lines_to_eof().len());
    alice.send("/sync");
    let answer = alice.line().expect("an answer");
    assert!(answer.starts_with("error: line 204: not everything before it is"), "{answer}");
    alice.send("/sync");
    alice.expect_line("notice: line 205: everything before it is delivered");
    drop(alice);
    check_clean(&stop_all(nodes));
    assert!(reader.join().expect("no panic") >= 200);
}

#[test]
fn a_sender_is_told_what_a_recipient_at_another_node_did_not_get() {
    let Some(engine) = Engine::start() else { return };
    let nodes = pair(&engine, &config().stall_timeout(TEST_TIMEOUT * 10));
    let mut alice = login(&nodes[0], "alice");
    let bob = nodes[1].login_with_small_buffers("bob");
    let text = "x".repeat(1000);
    for _ in 0..200 {
        alice.send(&format!("bob: {text}"));
    }
    let arrived = || nodes[1].stats_handle().cluster().map_or(0, |stats| stats.arrived);
    wait_until("the lines", || arrived() == 200);
    bob.reset();
    alice.send("/sync");
    let told = alice.line().expect("a notice");
    // The last of its lines is the 201st, behind a /who.
    let rest = told.strip_prefix("error: line 201: ").unwrap_or_else(|| panic!("{told}"));
    let count: u64 = rest.split(' ').next().expect("a word").parse().expect("a number");
    let expected = format!(
        "{count} lines from line {} on lost on the way to bob: connection broken",
        202 - count
    );
    assert_eq!(rest, expected);
    alice.expect_line("notice: line 202: everything before it is delivered or was reported lost");
    drop(alice);
    let reports = stop_all(nodes);
    check(&reports);
    // The account is the recipient's node's, and so is the word to the sender.
    assert_eq!((reports[0].lost(), reports[1].lost()), (0, count), "{reports:#?}");
    assert_eq!(reports[1].lost_told, count, "{reports:#?}");
}

/// How many lines a notice tells as lost: it has a number if there are several.
fn lines_in(notice: &str) -> u64 {
    let count = notice.split(": ").nth(2).and_then(|it| it.split(' ').next());
    count.and_then(|it| it.parse().ok()).unwrap_or(1)
}

#[test]
fn a_line_that_comes_too_late_for_its_recipient_is_told_as_lost() {
    let Some(engine) = Engine::start() else { return };
    let nodes = nodes(&engine, 2);
    let mut alice = login(&nodes[0], "alice");
    let mut bob = login(&nodes[1], "bob");
    alice.send("bob: one");
    bob.expect_line("from alice: one");
    // Lines keep coming while bob leaves: each of them arrives, is refused, or is told as lost.
    let (mut sent, mut refused, mut lost) = (1, 0, 0);
    drop(bob);
    while refused == 0 {
        alice.send("bob: more");
        sent += 1;
        alice.send("/who");
        loop {
            let line = alice.line().expect("a reply");
            if line.contains("no such peer: bob") {
                refused += 1;
            } else if line.contains("lost on the way to bob") {
                lost += lines_in(&line);
            } else if line.starts_with("notice: ") {
                break;
            }
        }
    }
    alice.send("/sync");
    loop {
        let line = alice.line().expect("a reply");
        if line.contains("everything before it") {
            break;
        }
        lost += lines_in(&line);
    }
    drop(alice);
    let reports = stop_all(nodes);
    check(&reports);
    let delivered = reports[1].delivered;
    assert_eq!(sent, delivered + refused + lost, "{reports:#?}");
    assert_eq!(reports.iter().map(a_chat::Report::lost).sum::<u64>(), lost);
}

#[test]
fn lines_of_a_client_that_leaves_at_once_are_delivered() {
    let Some(engine) = Engine::start() else { return };
    let nodes = nodes(&engine, 2);
    let mut bob = login(&nodes[1], "bob");
    for number in 0..20 {
        let mut once = Client::connect(nodes[0].address);
        once.send_bytes(format!("once{number}\nbob: {number}\n").as_bytes());
        once.half_close();
        bob.expect_line(&format!("from once{number}: {number}"));
        once.expect_eof();
    }
    wait_until("their end", || nodes[0].stats().connected == 0);
    drop(bob);
    check_clean(&stop_all(nodes));
}

/// A copy for a room has no recipient to name, so the answer itself says it.
#[test]
fn a_sync_is_not_confirmed_for_members_of_a_node_that_has_ended_without_a_word() {
    let Some(engine) = Engine::start() else { return };
    let patient = config().stall_timeout(TEST_TIMEOUT * 10);
    let node = |name| node_with(options(&engine, name).lease(SHORT_LEASE), patient.clone());
    let mut nodes = vec![node("a"), node("b")];
    let mut alice = login(&nodes[0], "alice");
    let mut probe = login(&nodes[1], "probe");
    let mut stuck = nodes[1].login_with_small_buffers("stuck");
    stuck.send("/join #dev");
    stuck.expect_line("notice: line 1: in #dev, 1 are");
    alice.send("/join #dev");
    alice.expect_line("notice: line 2: in #dev, 2 are");
    let text = "x".repeat(1000);
    for _ in 0..200 {
        alice.send(&format!("#dev: {text}"));
    }
    // What stands behind them has arrived, so the other node has taken them over.
    alice.send("probe: behind them");
    probe.expect_line("from alice: behind them");
    nodes[1].handle.force();
    let forced = nodes.pop().expect("two nodes").stop();
    assert!(!forced.is_clean(), "{forced}");
    alice.send("/sync");
    let mut answer = alice.line().expect("an answer");
    if answer == "error: line 203: lost on the way to probe: its node is gone" {
        // It was not told as delivered yet.
        answer = alice.line().expect("an answer");
    }
    let expected = "error: line 204: not everything before it is delivered after ";
    assert!(answer.starts_with(expected), "{answer}");
    alice.send("/sync");
    let answer = alice.line().expect("an answer");
    assert!(answer.starts_with("notice: line 205: everything before it is delivered"), "{answer}");
    drop((alice, stuck, probe));
    let mut reports = stop_all(nodes);
    assert!(reports[0].is_clean(), "{reports:#?}");
    reports.push(forced);
    // Forced, it may have had no time for its last words.
    check_up_to_doubt(&reports);
}
