//! The network between hosts: links that are slow, lose packets, go down for a while in the middle
//! of a message, or for good without a word of farewell. Whatever becomes of one link, those on
//! others notice nothing, and the report counts to the message what did not arrive.
//!
//! The executable runs on a host of its own, a network namespace, and its clients are on two more:
//! the bad link leads to the first of them, while bystanders talk to each other over the second.
//! Where namespaces are not permitted, or the kernel can not do to a link what is asked for, it is
//! skipped with a word on standard error.
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

/// The host at the end of the bad link, and the one that nothing happens to.
const BAD: usize = 0;
const GOOD: usize = 1;

/// Longer than any test waits: a time-out that must not be what ends something.
const NEVER: &str = "10min";

/// Three hosts, the server that runs on one of them, and the two who must not notice anything.
struct Scene {
    // Before the network: it runs there.
    process: Process,
    bystanders: Bystanders,
    port: u16,
    network: Network,
}

impl Scene {
    /// With windows in which there is room for all that a test sends.
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

    /// Waits until all that the server has sent to a client is acknowledged.
    fn all_acknowledged(&self, client: &Client) {
        let (local, remote) = ends(client);
        self.network.server.run(|| {
            wait_until("the acknowledgements", || unacknowledged_between(remote, local) == 0);
        });
    }

    /// Lets the bystanders finish; returns how many messages they have exchanged.
    fn end_bystanders(bystanders: Bystanders) -> u64 {
        // They close, so that the drain has to wait for nobody but those on the bad link.
        bystanders.end().1
    }
}

fn login(network: &Network, port: u16, host: usize, name: &str) -> Client {
    let server: SocketAddr = format!("{}:{port}", address_of(host)).parse().expect("an address");
    network.clients[host].run(|| try_login(server, name)).expect("room")
}

/// The two ends of a client's connection, its own one first.
fn ends(client: &Client) -> (SocketAddr, SocketAddr) {
    let stream = &client.stream;
    (stream.local_addr().expect("an address"), stream.peer_addr().expect("a connection"))
}

/// The number in front of these words.
fn number_before(line: &str, words: &str) -> u64 {
    let (before, _) = line.split_once(words).unwrap_or_else(|| panic!("{words:?} in {line}"));
    let number = before.rsplit([' ', '(']).next().and_then(|word| word.parse().ok());
    number.unwrap_or_else(|| panic!("a number before {words:?} in {line}"))
}

/// A numbered message to somebody, of about so many bytes.
fn message(to: &str, number: u64, length: usize) -> String {
    format!("{to}: {number} {}\n", "x".repeat(length))
}

fn messages(to: &str, count: u64, length: usize) -> String {
    (0..count).map(|number| message(to, number, length)).collect::<Vec<_>>().concat()
}

fn expect_messages(client: &mut Client, from: &str, count: u64, length: usize) {
    for number in 0..count {
        client.expect_line(message(&format!("from {from}"), number, length).trim_end());
    }
}

/// `bob` on the bad link and `alice` on the good one, who have talked already; and then his cable
/// is taken out.
fn bob_vanishes(scene: &Scene) -> (Client, Client) {
    let (mut bob, mut alice) = (scene.login(BAD, "bob"), scene.login(GOOD, "alice"));
    alice.send_bytes(messages("bob", 10, 0).as_bytes());
    expect_messages(&mut bob, "alice", 10, 0);
    // What he has received is then what the server knows that he has.
    scene.all_acknowledged(&bob);
    scene.network.unplug(BAD);
    (bob, alice)
}

/// Sends messages to `bob`, and returns how many were routed: those that were not are refused.
fn send_to_bob(alice: &mut Client, count: u64, length: usize) -> u64 {
    alice.send_bytes(messages("bob", count, length).as_bytes());
    alice.send("alice: that is all");
    let mut routed = count;
    while alice.line().expect("an answer") != "from alice: that is all" {
        routed -= 1;
    }
    routed
}

/// `bob` vanishes, and so many messages are sent to him then.
fn vanishes_and_is_evicted(count: u64, length: usize) {
    let Some(mut scene) = Scene::start(&["--stall-timeout", "2s", "--linger", "10ms"]) else {
        return;
    };
    let (mut bob, mut alice) = bob_vanishes(&scene);
    let routed = send_to_bob(&mut alice, count, length);
    scene.bystanders.exchange(500);
    let end = scene.process.log.expect("bob disconnected (");
    assert!(end.contains("evicted"), "{end}");
    assert_eq!(number_before(&end, " messages out"), 10, "{end}");
    assert_eq!(number_before(&end, " lost"), routed, "{end}");
    assert!(routed > 0, "none was sent in time");
    assert_eq!(bob.arrived(), b"", "nobody has told him anything");

    // He is told when he can be reached, and his name is free.
    scene.network.plug_in(BAD);
    bob.send("alice: am I there?");
    // Packets that were on their way when he was given up may still come, and no others.
    let late = bob.drain();
    let expected = messages("from alice", routed, length);
    assert!(expected.as_bytes().starts_with(&late), "{}", String::from_utf8_lossy(&late));
    assert!(late.len() as u64 <= number_before(&end, " B unacknowledged"), "{end}");
    let mut bob = scene.login(BAD, "bob");
    alice.send("bob: welcome back");
    bob.expect_line("from alice: welcome back");
    scene.bystanders.exchange(500);
    drop((alice, bob));

    let others = Scene::end_bystanders(scene.bystanders);
    let (status, log) = scene.process.terminate();
    assert_eq!(status, 0, "{log:#?}");
    let report = log.last().expect("a report");
    // Beside the messages to bob there is one of alice to herself.
    assert_eq!(number_before(report, " deliveries owed"), others + routed + 12, "{report}");
    assert_eq!(number_before(report, " delivered"), others + 12, "{report}");
    assert_eq!(number_before(report, " lost before the drain"), routed, "{report}");
    assert_eq!(number_before(report, " lost during it"), 0, "{report}");
}

#[test]
fn a_client_that_vanishes_is_evicted_and_its_messages_in_flight_are_counted_as_lost() {
    vanishes_and_is_evicted(50, 100);
}

#[test]
fn a_client_that_vanishes_is_evicted_and_its_queued_messages_are_counted_as_lost() {
    vanishes_and_is_evicted(4000, 1000);
}

#[test]
#[ignore = "takes the two minutes after which a silent connection is given up"]
fn a_client_that_vanishes_with_no_message_pending_is_found_by_keepalive() {
    let Some(mut scene) = Scene::start(&[]) else { return };
    let (bob, _alice) = bob_vanishes(&scene);
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
    let Some(scene) = Scene::start(&["--stall-timeout", NEVER]) else { return };
    let (mut alice, mut bob) = (scene.login(BAD, "alice"), scene.login(GOOD, "bob"));
    for _ in 0..3 {
        // In the middle of what she sends: the server has the first half.
        alice.send_bytes(format!("bob: {}", "x".repeat(HALF)).as_bytes());
        let (local, remote) = ends(&alice);
        scene.network.clients[BAD].run(|| {
            wait_until("the acknowledgements", || unacknowledged_between(local, remote) == 0);
        });
        scene.network.unplug(BAD);
        alice.send_bytes(format!("{}\nbob: after it\n", "y".repeat(HALF)).as_bytes());
        scene.bystanders.exchange(500);
        scene.network.plug_in(BAD);
        bob.expect_line(&format!("from alice: {}{}", "x".repeat(HALF), "y".repeat(HALF)));
        bob.expect_line("from alice: after it");

        // And of what is sent to her.
        bob.send_bytes(messages("alice", 100, 1000).as_bytes());
        alice.expect_line(message("from bob", 0, 1000).trim_end());
        scene.network.unplug(BAD);
        bob.send_bytes(messages("alice", 1000, 1000).as_bytes());
        scene.bystanders.exchange(500);
        scene.network.plug_in(BAD);
        for number in 1..100 {
            alice.expect_line(message("from bob", number, 1000).trim_end());
        }
        expect_messages(&mut alice, "bob", 1000, 1000);
    }
    drop((alice, bob));
    Scene::end_bystanders(scene.bystanders);
    let (status, log) = scene.process.terminate();
    assert_eq!(status, 0, "{log:#?}");
    let report = log.last().expect("a report");
    assert!(report.contains(" 0 lost before the drain, 0 lost during it"), "{log:#?}");
}

/// The report of a drain that `bob` was lost in, with the number of messages and of unacknowledged
/// bytes; the drain has ended by its deadline.
fn report_of_bobs_loss(process: Process, deadline: Duration) -> (String, u64, u64) {
    let (status, mut log) = process.wait();
    assert_eq!(status, 1, "{log:#?}");
    let report = log.pop().expect("a report");
    let Some((sum, loss)) = report.split_once(" s (forced); bob: ") else {
        panic!("his loss, and no other: {report} {log:#?}");
    };
    assert!(loss.ends_with("drain deadline") && !loss.contains("; "), "{report}");
    let (lost, unacknowledged) =
        (number_before(loss, " lost ("), number_before(loss, " B unacknowledged"));
    let drained = sum.rsplit(' ').next().and_then(|seconds| seconds.parse().ok());
    let drained = Duration::from_secs_f64(drained.expect("a number of seconds"));
    assert!(drained >= deadline && drained < deadline + Duration::from_secs(10), "{report}");
    assert_eq!(number_before(&report, " lost during it"), lost, "{report}");
    (report, lost, unacknowledged)
}

fn closing_notice(accepted: u64) -> String {
    format!("notice: server is shutting down, {accepted} of your lines were accepted")
}

/// `bob` vanishes, so many messages are sent to him, and the server is stopped.
fn vanishes_before_the_stop(count: u64, length: usize) {
    let flags = ["--drain-timeout", "2s", "--stall-timeout", NEVER];
    let Some(scene) = Scene::start(&flags) else { return };
    // One more is at the end of that link, in the middle of a line.
    let mut carol = scene.login(BAD, "carol");
    carol.send_bytes(b"alice: to be cont");
    let (mut bob, mut alice) = bob_vanishes(&scene);
    assert_eq!(send_to_bob(&mut alice, count, length), count);
    let others = Scene::end_bystanders(scene.bystanders);
    scene.process.signal(Signal::TERM);
    alice.expect_line(&closing_notice(1 + 10 + count + 1));
    alice.expect_eof();
    drop(alice);

    let (report, lost, _) = report_of_bobs_loss(scene.process, Duration::from_secs(2));
    assert_eq!(lost, count, "{report}");
    assert_eq!(number_before(&report, " deliveries owed"), others + 11 + count, "{report}");
    assert_eq!(number_before(&report, " delivered"), others + 11, "{report}");
    assert!(bob.arrived().is_empty() && carol.arrived().is_empty(), "nothing can arrive");
}

#[test]
fn a_drain_over_a_dead_link_ends_by_its_deadline_and_reports_the_messages_in_flight() {
    vanishes_before_the_stop(50, 100);
}

#[test]
fn a_drain_over_a_dead_link_ends_by_its_deadline_and_reports_the_queued_messages() {
    vanishes_before_the_stop(4000, 1000);
}

#[test]
fn the_report_is_exact_even_if_a_link_dies_in_mid_stream() {
    const LENGTH: usize = 500;
    for _ in 0..3 {
        // Alice writes until the end, so that the server must not be the first to close.
        let flags = ["--drain-timeout", "1s", "--stall-timeout", NEVER, "--linger", NEVER];
        let Some(scene) = Scene::start(&flags) else { return };
        let (mut bob, mut alice) = (scene.login(BAD, "bob"), scene.login(GOOD, "alice"));
        let mut stream = alice.stream.try_clone().expect("a descriptor");
        let sender = thread::spawn(move || {
            let lines = (0..).map(|number| message("bob", number, LENGTH));
            lines.map(|line| stream.write_all(line.as_bytes())).take_while(Result::is_ok).count()
        });
        expect_messages(&mut bob, "alice", 2000, LENGTH);
        scene.network.unplug(BAD);
        scene.bystanders.exchange(500);
        let (local, remote) = ends(&bob);
        scene.network.server.run(|| {
            wait_until("something to be on its way", || unacknowledged_between(remote, local) > 0);
        });
        let others = Scene::end_bystanders(scene.bystanders);
        scene.process.signal(Signal::TERM);
        let notice = alice.line().expect("a notice");
        let accepted = number_before(&notice, " of your lines were accepted") - 1;
        drop(alice.lines_to_eof());
        alice.stream.shutdown(Shutdown::Both).expect("an open connection");
        assert!(sender.join().expect("no panic") as u64 >= accepted, "{notice}");

        let (report, lost, unacknowledged) =
            report_of_bobs_loss(scene.process, Duration::from_secs(1));
        assert_eq!(number_before(&report, " deliveries owed"), others + accepted, "{report}");
        let delivered = accepted - lost;
        assert_eq!(number_before(&report, " delivered"), others + delivered, "{report}");
        // What has reached his kernel: the last of it without the server having heard of it.
        let mut received = 2000;
        let rest = bob.arrived();
        for line in rest.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n"))
        {
            let expected = message("from alice", received, LENGTH);
            assert_eq!(String::from_utf8_lossy(line), expected);
            received += 1;
        }
        let shortest = message("from alice", 0, LENGTH).len() as u64;
        let most = delivered + unacknowledged.div_ceil(shortest);
        assert!((delivered..=most).contains(&received), "{received} received: {report}");
    }
}

/// Streams in both directions over a link that something is done to, then a drain over it.
fn nothing_is_lost_over_a_link_after(spoil: impl FnOnce(&Network) -> bool) {
    // What a window holds takes its time on a slow link.
    let window = ["--window", "1MiB"];
    let flags = ["--drain-timeout", NEVER, "--stall-timeout", NEVER];
    let Some(mut scene) = Scene::start_with(window, &flags) else { return };
    if !spoil(&scene.network) {
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
    let others = Scene::end_bystanders(scene.bystanders) + messages_of_streams;
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
    nothing_is_lost_over_a_link_after(|network| network.slow_down(BAD, "16mbit"));
}

#[test]
fn a_link_that_drops_packets_loses_no_message() {
    nothing_is_lost_over_a_link_after(|network| network.lose_one_of(BAD, 30));
}

#[test]
fn a_link_that_delays_drops_duplicates_and_reorders_packets_loses_no_message() {
    nothing_is_lost_over_a_link_after(|network| network.trouble(BAD));
}
