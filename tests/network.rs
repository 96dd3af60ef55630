//! Bad networks: links that are slow, lose packets, go down for a while in mid-message, or die
//! silently. Whatever happens to one link, clients on other links are not disturbed, and the report
//! counts every message that did not arrive.
//!
//! The executable runs on a host of its own, which is a network namespace, and its clients on two
//! more: the bad link leads to the first of these, and bystanders exchange messages over the second.
//! Where namespaces are not permitted, or the kernel cannot impair a link as requested, the test is
//! skipped with a note on standard error.
#![cfg(feature = "cli")]

mod common;
#[path = "common/netns.rs"]
mod netns;
#[path = "common/process.rs"]
mod process;

use std::io::Write;
use std::net::{Shutdown, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use common::bystanders::Bystanders;
use common::stream::Stream;
use common::{Client, try_login, unacknowledged_between, wait_until};
use netns::{Network, address_of};
use process::{EXECUTABLE, Process, through};
use rustix::process::Signal;

/// The host at the end of the bad link, and the one whose link stays up.
const BAD: usize = 0;
const GOOD: usize = 1;

/// Longer than any test waits: a timeout that must not expire.
const NEVER: &str = "10min";

/// Three hosts, the server on one of them, and two bystanders, who must not notice anything.
struct Scene {
    // Dropped before the network, in which it runs.
    process: Process,
    bystanders: Bystanders,
    port: u16,
    network: Network,
}

impl Scene {
    /// Starts the server with windows large enough for everything that a test sends.
    fn start(flags: &[&str]) -> Option<Self> {
        Self::start_with(["--window", "8MiB"], flags)
    }

    fn start_with(window: [&str; 2], flags: &[&str]) -> Option<Self> {
        let network = Network::new(2)?;
        let mut command = through(&network.server.launcher(), EXECUTABLE);
        command.args(["serve", "--listen", "0.0.0.0:0"]).args(window).args(flags);
        let mut process = Process::start(command);
        let port = process.address().port();
        let bystanders = ["left", "right"].map(|name| login(&network, port, GOOD, name));
        let bystanders = Bystanders::between(bystanders);
        Some(Self { process, bystanders, port, network })
    }

    fn login(&self, host: usize, name: &str) -> Client {
        login(&self.network, self.port, host, name)
    }

    /// Waits until a client has acknowledged everything that the server has sent to it.
    fn wait_until_acknowledged(&self, client: &Client) {
        let (local, remote) = endpoints(client);
        self.network.server.run(|| {
            wait_until("the acknowledgements", || unacknowledged_between(remote, local) == 0);
        });
    }

    /// Lets the bystanders finish; returns how many messages they exchanged.
    fn end_bystanders(bystanders: Bystanders, process: &mut Process) -> u64 {
        // They close, so the drain has to wait only for the clients on the bad link.
        let (_, messages) = bystanders.end();
        // On a busy machine a reset in reply to the closing notice can overtake their FIN, and with
        // it the last acknowledgement.
        for name in ["left", "right"] {
            process.log.expect(&format!("{name} disconnected ("));
        }
        messages
    }
}

fn login(network: &Network, port: u16, host: usize, name: &str) -> Client {
    let server: SocketAddr = format!("{}:{port}", address_of(host)).parse().expect("an address");
    network.clients[host].run(|| try_login(server, name)).expect("room")
}

/// The two endpoints of a client's connection, its own first.
fn endpoints(client: &Client) -> (SocketAddr, SocketAddr) {
    let stream = &client.stream;
    (stream.local_addr().expect("an address"), stream.peer_addr().expect("a connection"))
}

/// The number in front of these words.
fn number_before(line: &str, words: &str) -> u64 {
    let (before, _) = line.split_once(words).unwrap_or_else(|| panic!("{words:?} in {line}"));
    let number = before.rsplit([' ', '(']).next().and_then(|word| word.parse().ok());
    number.unwrap_or_else(|| panic!("a number before {words:?} in {line}"))
}

/// A numbered message to this recipient, with this much padding.
fn message(to: &str, number: u64, length: usize) -> String {
    format!("{to}: {number} {}\n", "x".repeat(length))
}

fn messages(to: &str, count: u64, length: usize) -> String {
    (0..count).map(|number| message(to, number, length)).collect::<Vec<_>>().concat()
}

fn expect_messages(client: &mut Client, from: &str, count: u64, length: usize) {
    for number in 0..count {
        client.expect_line(message(&format!("from {from}"), number, length).trim_end_matches('\n'));
    }
}

/// Logs in `bob` on the bad link and `alice` on the good one, lets her send him ten messages, and
/// unplugs his link.
fn login_and_unplug_bob(scene: &Scene) -> (Client, Client) {
    let (mut bob, mut alice) = (scene.login(BAD, "bob"), scene.login(GOOD, "alice"));
    alice.send_bytes(messages("bob", 10, 0).as_bytes());
    expect_messages(&mut bob, "alice", 10, 0);
    // The server now knows that he has received them.
    scene.wait_until_acknowledged(&bob);
    scene.network.unplug(BAD);
    (bob, alice)
}

/// Sends messages to `bob`; returns how many were routed rather than refused.
fn send_to_bob(alice: &mut Client, count: u64, length: usize) -> u64 {
    alice.send_bytes(messages("bob", count, length).as_bytes());
    alice.send("alice: that is all");
    let mut routed = count;
    while alice.line().expect("a reply") != "from alice: that is all" {
        routed -= 1;
    }
    routed
}

/// Sends `bob` this many messages after he has vanished, and expects that he is evicted.
fn expect_eviction_after_vanishing(count: u64, length: usize) {
    let Some(mut scene) = Scene::start(&["--stall-timeout", "2s", "--linger", "10ms"]) else {
        return;
    };
    let (mut bob, mut alice) = login_and_unplug_bob(&scene);
    let routed = send_to_bob(&mut alice, count, length);
    scene.bystanders.exchange(500);
    let end = scene.process.log.expect("bob disconnected (");
    assert!(end.contains("evicted"), "{end}");
    assert_eq!(number_before(&end, " messages out"), 10, "{end}");
    assert_eq!(number_before(&end, " lost"), routed, "{end}");
    assert!(routed > 0, "no message was sent in time");
    assert_eq!(bob.arrived(), b"", "no byte can have reached him");

    // He is reset once he can be reached, and his name is free.
    scene.network.plug_in(BAD);
    bob.send("alice: am I there?");
    // Only packets that were in flight when he was evicted may still arrive.
    let late = bob.drain();
    let expected = messages("from alice", routed, length);
    assert!(expected.as_bytes().starts_with(&late), "{}", String::from_utf8_lossy(&late));
    assert!(late.len() as u64 <= number_before(&end, " B unacknowledged"), "{end}");
    let mut bob = scene.login(BAD, "bob");
    alice.send("bob: welcome back");
    bob.expect_line("from alice: welcome back");
    scene.bystanders.exchange(500);
    alice.leave();
    bob.leave();

    let others = Scene::end_bystanders(scene.bystanders, &mut scene.process);
    let (status, log) = scene.process.terminate();
    assert_eq!(status, 0, "{log:#?}");
    let report = log.last().expect("a report");
    // Besides the messages to bob, there is one from alice to herself.
    assert_eq!(number_before(report, " deliveries owed"), others + routed + 12, "{report}");
    assert_eq!(number_before(report, " delivered"), others + 12, "{report}");
    assert_eq!(number_before(report, " lost before the drain"), routed, "{report}");
    assert_eq!(number_before(report, " lost during it"), 0, "{report}");
}

#[test]
fn a_client_that_vanishes_is_evicted_and_its_messages_in_flight_are_counted_as_lost() {
    expect_eviction_after_vanishing(50, 100);
}

#[test]
fn a_client_that_vanishes_is_evicted_and_its_queued_messages_are_counted_as_lost() {
    expect_eviction_after_vanishing(4000, 1000);
}

#[test]
#[ignore = "takes the two minutes after which keepalive gives up a silent connection"]
fn a_client_that_vanishes_with_no_message_pending_is_detected_by_keepalive() {
    let Some(mut scene) = Scene::start(&[]) else { return };
    let (bob, _alice) = login_and_unplug_bob(&scene);
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(110) {
        scene.bystanders.exchange(500);
        thread::sleep(Duration::from_secs(5));
    }
    let end = scene.process.log.expect("bob disconnected (");
    assert!(end.contains("connection broken"), "{end}");
    assert_eq!(number_before(&end, " messages out"), 10, "{end}");
    drop(bob);
}

#[test]
fn a_link_that_goes_down_for_a_while_in_mid_message_loses_no_message() {
    const HALF: usize = 30_000;
    let Some(mut scene) = Scene::start(&["--stall-timeout", NEVER]) else { return };
    let (mut alice, mut bob) = (scene.login(BAD, "alice"), scene.login(GOOD, "bob"));
    for _ in 0..3 {
        // The link goes down while she sends: the server has the first half.
        alice.send_bytes(format!("bob: {}", "x".repeat(HALF)).as_bytes());
        let (local, remote) = endpoints(&alice);
        scene.network.clients[BAD].run(|| {
            wait_until("the acknowledgements", || unacknowledged_between(local, remote) == 0);
        });
        scene.network.unplug(BAD);
        alice.send_bytes(format!("{}\nbob: after it\n", "y".repeat(HALF)).as_bytes());
        scene.bystanders.exchange(500);
        scene.network.plug_in(BAD);
        bob.expect_line(&format!("from alice: {}{}", "x".repeat(HALF), "y".repeat(HALF)));
        bob.expect_line("from alice: after it");

        // And it goes down while she receives.
        bob.send_bytes(messages("alice", 100, 1000).as_bytes());
        alice.expect_line(message("from bob", 0, 1000).trim_end_matches('\n'));
        scene.network.unplug(BAD);
        bob.send_bytes(messages("alice", 1000, 1000).as_bytes());
        scene.bystanders.exchange(500);
        scene.network.plug_in(BAD);
        for number in 1..100 {
            alice.expect_line(message("from bob", number, 1000).trim_end_matches('\n'));
        }
        expect_messages(&mut alice, "bob", 1000, 1000);
    }
    alice.leave();
    bob.leave();
    Scene::end_bystanders(scene.bystanders, &mut scene.process);
    let (status, log) = scene.process.terminate();
    assert_eq!(status, 0, "{log:#?}");
    let report = log.last().expect("a report");
    assert!(report.contains(" 0 lost before the drain, 0 lost during it"), "{log:#?}");
}

/// Waits for the report of a drain that its deadline ended and that lost messages to `bob` only.
/// Returns it with the number of messages lost and of bytes unacknowledged.
fn expect_report_of_bobs_loss(process: Process, deadline: Duration) -> (String, u64, u64) {
    let (status, mut log) = process.wait();
    assert_eq!(status, 1, "{log:#?}");
    let report = log.pop().expect("a report");
    let Some(sum) = report.strip_suffix(" s (forced)") else {
        panic!("not forced: {report} {log:#?}");
    };
    let losses: Vec<_> = log.iter().filter(|line| line.contains(" lost, ")).collect();
    let [loss] = losses.as_slice() else { panic!("not his loss alone: {report} {log:#?}") };
    assert!(loss.contains(" bob disconnected (") && loss.contains("): drain deadline; "), "{loss}");
    let (lost, unacknowledged) =
        (number_before(loss, " lost, "), number_before(loss, " B unacknowledged"));
    let drained = sum.rsplit(' ').next().and_then(|seconds| seconds.parse().ok());
    let drained = Duration::from_secs_f64(drained.expect("a number of seconds"));
    assert!(drained >= deadline && drained < deadline + Duration::from_secs(10), "{report}");
    assert_eq!(number_before(&report, " lost during it"), lost, "{report}");
    (report, lost, unacknowledged)
}

fn closing_notice(accepted: u64) -> String {
    format!("notice: server is shutting down, {accepted} of your lines were accepted")
}

/// Sends `bob` this many messages after he has vanished, shuts the server down, and expects that
/// the drain reports them all as lost.
fn expect_loss_in_drain_after_vanishing(count: u64, length: usize) {
    let flags = ["--drain-timeout", "2s", "--stall-timeout", NEVER];
    let Some(mut scene) = Scene::start(&flags) else { return };
    // Another client on that link is in the middle of a line.
    let mut carol = scene.login(BAD, "carol");
    carol.send_bytes(b"alice: to be cont");
    let (mut bob, mut alice) = login_and_unplug_bob(&scene);
    assert_eq!(send_to_bob(&mut alice, count, length), count);
    let others = Scene::end_bystanders(scene.bystanders, &mut scene.process);
    scene.process.signal(Signal::TERM);
    alice.expect_line(&closing_notice(1 + 10 + count + 1));
    alice.expect_eof();
    drop(alice);

    let (report, lost, _) = expect_report_of_bobs_loss(scene.process, Duration::from_secs(2));
    assert_eq!(lost, count, "{report}");
    assert_eq!(number_before(&report, " deliveries owed"), others + 11 + count, "{report}");
    assert_eq!(number_before(&report, " delivered"), others + 11, "{report}");
    assert!(bob.arrived().is_empty() && carol.arrived().is_empty(), "no byte can arrive");
}

#[test]
fn a_drain_over_a_dead_link_ends_by_its_deadline_and_reports_the_messages_in_flight() {
    expect_loss_in_drain_after_vanishing(50, 100);
}

#[test]
fn a_drain_over_a_dead_link_ends_by_its_deadline_and_reports_the_queued_messages() {
    expect_loss_in_drain_after_vanishing(4000, 1000);
}

#[test]
fn the_report_is_exact_even_if_a_link_dies_in_mid_stream() {
    const LENGTH: usize = 500;
    for _ in 0..3 {
        // Alice writes until the end, so the server must not close first.
        let flags = ["--drain-timeout", "4s", "--stall-timeout", NEVER, "--linger", NEVER];
        let Some(mut scene) = Scene::start(&flags) else { return };
        let (mut bob, mut alice) = (scene.login(BAD, "bob"), scene.login(GOOD, "alice"));
        let mut stream = alice.stream.try_clone().expect("a descriptor");
        let sender = thread::spawn(move || {
            let lines = (0..).map(|number| message("bob", number, LENGTH));
            lines.map(|line| stream.write_all(line.as_bytes())).take_while(Result::is_ok).count()
        });
        expect_messages(&mut bob, "alice", 2000, LENGTH);
        scene.network.unplug(BAD);
        scene.bystanders.exchange(500);
        let (local, remote) = endpoints(&bob);
        scene.network.server.run(|| {
            wait_until("bytes in flight", || unacknowledged_between(remote, local) > 0);
        });
        let others = Scene::end_bystanders(scene.bystanders, &mut scene.process);
        scene.process.signal(Signal::TERM);
        let notice = alice.line().expect("a notice");
        let accepted = number_before(&notice, " of your lines were accepted") - 1;
        drop(alice.lines_to_eof());
        alice.stream.shutdown(Shutdown::Both).expect("an open connection");
        assert!(sender.join().expect("no panic") as u64 >= accepted, "{notice}");

        let (report, lost, unacknowledged) =
            expect_report_of_bobs_loss(scene.process, Duration::from_secs(4));
        assert_eq!(number_before(&report, " deliveries owed"), others + accepted, "{report}");
        let delivered = accepted - lost;
        assert_eq!(number_before(&report, " delivered"), others + delivered, "{report}");
        // These lines reached his kernel; the server may not know about the last of them.
        let mut received = 2000;
        let rest = bob.arrived();
        for line in rest.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n"))
        {
            let expected = message("from alice", received, LENGTH);
            assert_eq!(String::from_utf8_lossy(line), expected);
            received += 1;
        }
        let shortest = message("from alice", 0, LENGTH).len() as u64;
        let max = delivered + unacknowledged.div_ceil(shortest);
        assert!((delivered..=max).contains(&received), "{received} received: {report}");
    }
}

/// Runs streams in both directions over an impaired link, then a drain over it.
fn expect_no_loss_over(impair: impl FnOnce(&Network) -> bool) {
    // A full window takes a while on a slow link.
    let window = ["--window", "1MiB"];
    let flags = ["--drain-timeout", NEVER, "--stall-timeout", NEVER];
    let Some(mut scene) = Scene::start_with(window, &flags) else { return };
    if !impair(&scene.network) {
        return;
    }
    let pair = |[from, to]: [usize; 2], names: [&str; 2]| {
        let clients = [scene.login(from, names[0]), scene.login(to, names[1])];
        Stream::start(clients, names, 500)
    };
    let streams = [pair([GOOD, BAD], ["a", "b"]), pair([BAD, GOOD], ["c", "d"])];
    for stream in &streams {
        stream.flows(500);
    }
    scene.bystanders.exchange(500);
    let messages_of_streams: u64 = streams.map(|stream| stream.finish().0).iter().sum();

    let (mut bob, mut alice) = (scene.login(BAD, "bob"), scene.login(GOOD, "alice"));
    assert_eq!(send_to_bob(&mut alice, 500, 1000), 500);
    let others = Scene::end_bystanders(scene.bystanders, &mut scene.process) + messages_of_streams;
    scene.process.signal(Signal::TERM);
    scene.process.log.expect(process::SIGNALLED);
    expect_messages(&mut bob, "alice", 500, 1000);
    bob.expect_line(&closing_notice(1));
    bob.expect_eof();
    alice.expect_line(&closing_notice(1 + 500 + 1));
    alice.expect_eof();
    drop((alice, bob));
    let (status, log) = scene.process.wait();
    assert_eq!(status, 0, "{log:#?}");
    let expected =
        format!(" {} delivered, 0 lost before the drain, 0 lost during it", others + 501);
    assert!(log.last().is_some_and(|report| report.contains(&expected)), "{expected}: {log:#?}");
}

#[test]
fn a_slow_link_loses_no_message() {
    expect_no_loss_over(|network| network.slow_down(BAD, "16mbit"));
}

#[test]
fn a_link_that_drops_packets_loses_no_message() {
    expect_no_loss_over(|network| network.drop_one_in(BAD, 30));
}

#[test]
fn a_link_that_delays_drops_duplicates_and_reorders_packets_loses_no_message() {
    expect_no_loss_over(|network| network.impair(BAD));
}
