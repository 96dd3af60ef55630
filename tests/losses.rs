//! Losses before a shutdown: the sender of a line that was accepted and then lost is told so, exactly
//! once for each delivery, if it is still connected.
//!
//! Recipients stop reading, vanish or reset. What their senders are told is compared with the report,
//! line by line.

mod common;

use std::time::Duration;

use a_chat::{CloseReason, Config, Report};
use common::{Client, TEST_TIMEOUT, TestServer, wait_until};

/// Evicts a client that does not read once all is sent to it, and does not wait for it to read the
/// reason.
fn strict() -> Config {
    Config::default().stall_timeout(Duration::from_secs(2)).linger(Duration::from_millis(50))
}

/// Evicts nobody within a test.
fn lenient() -> Config {
    Config::default().stall_timeout(TEST_TIMEOUT * 10).linger(Duration::from_millis(50))
}

/// A notice of lost lines.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    first: u64,
    last: u64,
    count: u64,
    to: String,
}

fn told(line: &str) -> Told {
    let (last, text) = line
        .strip_prefix("error: line ")
        .and_then(|rest| rest.split_once(": "))
        .unwrap_or_else(|| panic!("no error about a line: {line}"));
    let last = last.parse().expect("a number");
    let Some((what, to)) = text.split_once("lost on the way to ") else { panic!("{line}") };
    let to = to.to_owned();
    if what.is_empty() {
        return Told { first: last, last, count: 1, to };
    }
    let (count, first) = what
        .strip_suffix(" on ")
        .and_then(|what| what.split_once(" lines from line "))
        .unwrap_or_else(|| panic!("{line}"));
    let (count, first) = (count.parse().expect("a number"), first.parse().expect("a number"));
    Told { first, last, count, to }
}

fn assert_law(report: &Report) {
    let Report { lost_told, lost_sender_gone, lost_untold, .. } = *report;
    assert_eq!(report.lost(), lost_told + lost_sender_gone + lost_untold, "{report:?}");
}

#[test]
fn a_sender_is_told_which_lines_an_evicted_recipient_did_not_get() {
    let server = TestServer::with(strict());
    let stuck = server.login_with_small_buffers("stuck");
    let mut alice = server.login("alice");
    alice.fill("stuck", 200);
    let told = told(&alice.line().expect("a notice"));
    assert_eq!((told.last, told.to.as_str()), (200, "stuck: evicted"));
    assert_eq!(told.count, 200 - told.first + 1, "a loss is a suffix: {told:?}");
    drop(stuck);
    let report = server.stop_with([(alice, 200)]);
    assert_eq!((report.lost(), report.lost_told), (told.count, told.count), "{report:?}");
}

#[test]
fn one_lost_line_is_told_by_its_number_alone() {
    let server = TestServer::with(lenient());
    let bob = server.login_with_small_buffers("bob");
    let (mut alice, mut carol) = (server.login("alice"), server.login("carol"));
    carol.fill("bob", 200);
    carol.send("/who carol");
    carol.expect_line("notice: line 201: here: carol");
    for line in ["", "/who alice", "bob: behind carol's"] {
        alice.send(line);
    }
    alice.expect_line("notice: line 2: here: alice");
    alice.send("alice: all is accepted");
    alice.expect_line("from alice: all is accepted");
    bob.reset();
    alice.expect_line("error: line 3: lost on the way to bob: connection broken");
    let carols = told(&carol.line().expect("a notice"));
    assert_eq!((carols.last, carols.to.as_str()), (200, "bob: connection broken"));
    let report = server.stop_with([(alice, 4), (carol, 201)]);
    assert_eq!((report.lost(), report.lost_told), (1 + carols.count, 1 + carols.count));
}

#[test]
fn lines_to_several_recipients_are_told_for_each_that_is_lost() {
    let server = TestServer::with(lenient());
    let (bob, carol) =
        (server.login_with_small_buffers("bob"), server.login_with_small_buffers("carol"));
    let mut alice = server.login("alice");
    alice.fill("bob, carol", 200);
    alice.fill("carol", 100);
    alice.send("/who alice");
    alice.expect_line("notice: line 301: here: alice");
    bob.reset();
    let to_bob = told(&alice.line().expect("a notice"));
    assert_eq!((to_bob.last, to_bob.to.as_str()), (200, "bob: connection broken"));
    carol.reset();
    let to_carol = told(&alice.line().expect("a notice"));
    assert_eq!((to_carol.last, to_carol.to.as_str()), (300, "carol: connection broken"));
    let lost = to_bob.count + to_carol.count;
    let report = server.stop_with([(alice, 301)]);
    assert_eq!((report.lost(), report.lost_told), (lost, lost), "{report:?}");
}

#[test]
fn a_client_that_leaves_with_messages_unacknowledged_is_told_as_one_that_left() {
    let server = TestServer::with(lenient());
    let mut bob = server.login_with_small_buffers("bob");
    let mut alice = server.login("alice");
    alice.fill("bob", 200);
    alice.send("/who alice");
    alice.expect_line("notice: line 201: here: alice");
    bob.half_close();
    wait_until("bob's name to be free", || server.stats().connected == 1);
    bob.reset();
    let told = told(&alice.line().expect("a notice"));
    assert_eq!((told.last, told.to.as_str()), (200, "bob: left"));
    let report = server.stop_with([(alice, 201)]);
    assert_eq!((report.lost(), report.lost_told), (told.count, told.count), "{report:?}");
}

#[test]
fn a_loss_whose_sender_has_gone_is_counted_and_told_to_nobody_under_its_name() {
    let server = TestServer::with(lenient());
    let bob = server.login_with_small_buffers("bob");
    let mut alice = server.login("alice");
    alice.fill("bob", 200);
    alice.half_close();
    alice.expect_eof();
    let mut next = server.login("alice");
    bob.reset();
    wait_until("the loss", || server.stats().lost_sender_gone > 0);
    next.send("alice: to the next one of that name");
    next.expect_line("from alice: to the next one of that name");
    let report = server.stop_with([(next, 1)]);
    assert_eq!((report.lost(), report.lost_told), (report.lost_sender_gone, 0), "{report:?}");
}

#[test]
fn what_is_lost_in_the_drain_is_told_to_nobody() {
    let server = TestServer::with(lenient().drain_timeout(Duration::from_secs(3)));
    let _stuck = server.login_with_small_buffers("stuck");
    let mut alice = server.login("alice");
    alice.fill("stuck", 200);
    alice.send("/who alice");
    alice.expect_line("notice: line 201: here: alice");
    let report = server.stop_with([(alice, 201)]);
    let [loss] = report.losses_in_drain.as_slice() else { panic!("{report:?}") };
    assert_eq!((loss.reason, loss.messages), (CloseReason::Deadline, report.lost_untold));
    assert_law(&report);
}

/// Its reader waits for its writer, and must not keep the broker from ending meanwhile.
#[test]
fn a_client_that_has_left_and_does_not_read_keeps_no_notice_from_the_others() {
    let server = TestServer::with(lenient().drain_timeout(TEST_TIMEOUT * 10));
    let mut bob = server.login_with_small_buffers("bob");
    let mut alice = server.login("alice");
    alice.fill("bob", 200);
    alice.send("/who alice");
    alice.expect_line("notice: line 201: here: alice");
    bob.half_close();
    wait_until("bob's name to be free", || server.stats().connected == 1);
    server.handle.shutdown();
    // The writer of bob, who reads nothing yet, still lingers.
    alice.expect_line("notice: server is shutting down, 201 of your lines were accepted");
    alice.expect_eof();
    assert_eq!(bob.lines_to_eof().len(), 200);
    drop((alice, bob));
    let report = server.stop();
    assert_eq!((report.delivered, report.lost()), (200, 0), "{report:?}");
}

#[test]
fn a_sender_that_does_not_read_gets_one_bounded_notice_of_a_storm_of_losses() {
    let server = TestServer::with(lenient().window(8 * 1024 * 1024));
    let crowd: Vec<_> =
        (0..100).map(|number| server.login_with_small_buffers(&format!("r{number}"))).collect();
    let mut alice = server.login_with_small_buffers("alice");
    let mut carol = server.login("carol");
    // More than the kernels hold: nothing else reaches alice until she reads, so losses gather.
    carol.fill("alice", 4000);
    carol.send("/who carol");
    carol.expect_line("notice: line 4001: here: carol");
    let names: Vec<_> = (0..crowd.len()).map(|number| format!("r{number}")).collect();
    alice.fill(&names.join(","), 100);
    alice.send("carol: all is accepted");
    carol.expect_line("from alice: all is accepted");
    crowd.into_iter().for_each(Client::reset);
    // This is read only once the losses were reported.
    alice.send("/sync\ncarol: all is settled");
    carol.expect_line("from alice: all is settled");
    let lost = server.stats().lost;
    for _ in 0..4000 {
        let line = alice.line().expect("a message");
        assert!(line.starts_with("from carol: "), "{line}");
    }
    let named: Vec<_> = (0..64).map(|_| told(&alice.line().expect("a notice"))).collect();
    let rest = alice.line().expect("a notice");
    let sum: u64 = named.iter().map(|told| told.count).sum();
    let first = rest.split(" from line ").nth(1).and_then(|rest| rest.split(' ').next());
    let first = first.expect("a number");
    let others = format!(
        "error: line 100: {} deliveries from line {first} on lost on the way to 36 others",
        lost - sum
    );
    assert_eq!(rest, others);
    alice.expect_line("notice: line 102: everything before it is delivered or was reported lost");
    let report = server.stop_with([(alice, 103), (carol, 4001)]);
    assert_eq!((report.lost(), report.lost_told), (lost, lost), "{report:?}");
}
