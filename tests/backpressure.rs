//! Backpressure without loss: a recipient that does not read slows down only its own senders, costs
//! the server no more memory than their windows, and is evicted if it does not recover.
//!
//! Recipients with small kernel buffers do not read. Each is sent a finite stream of numbered lines,
//! larger than the kernels and windows can hold. Received lines are compared one by one, and missing
//! lines with the report.

mod common;

use std::io::Write;
use std::net::Shutdown;
use std::thread;
use std::time::Duration;

use a_chat::{CloseReason, Config, Report};
use common::bystanders::{Bystanders, Peak};
use common::wire::{Transport, skipped_over_unix, transport};
use common::{Client, TEST_TIMEOUT, TestServer, read_to_end, send_until_blocked, wait_until};

const WINDOW: usize = 64 * 1024;

/// The most that a line is charged in addition to its text: its share of a batch, an entry for each
/// of a few recipients, the prefix, and room for an error reply.
const OVERHEAD: usize = 1024;

/// Evicts no client.
fn lenient() -> Config {
    Config::default()
        .window(WINDOW)
        .stall_timeout(TEST_TIMEOUT * 10)
        .linger(Duration::from_millis(100))
}

/// Quickly evicts a client that does not read, then gives it ample time to read the reason.
fn strict() -> Config {
    lenient().stall_timeout(Duration::from_millis(300)).linger(TEST_TIMEOUT * 10)
}

/// The text of a numbered message.
fn text(number: usize, length: usize) -> String {
    format!("{number:06}-{}", "x".repeat(length))
}

/// Numbered lines to the same recipients, `length(number)` bytes of padding each.
fn lines(recipients: &str, count: usize, length: impl Fn(usize) -> usize) -> Vec<u8> {
    let line = |number| format!("{recipients}: {}\n", text(number, length(number)));
    (0..count).map(line).collect::<String>().into_bytes()
}

/// Reads numbered messages from a sender, exactly these and in order.
fn expect_messages(
    client: &mut Client,
    sender: &str,
    numbers: std::ops::Range<usize>,
    length: impl Fn(usize) -> usize,
) {
    for number in numbers {
        let line = client.line().expect("a message");
        let expected = format!("from {sender}: {}", text(number, length(number)));
        let (start, wanted) = (&line[..line.len().min(40)], &expected[..expected.len().min(40)]);
        assert!(line == expected, "received {start}, expected {wanted}");
    }
}

/// Counts the numbered messages from `sender` at the start of `bytes`; returns the rest as well.
fn count_messages<'a>(bytes: &'a [u8], sender: &str, length: usize) -> (usize, &'a [u8]) {
    let (mut rest, mut count) = (bytes, 0);
    loop {
        let expected = format!("from {sender}: {}\n", text(count, length));
        match rest.strip_prefix(expected.as_bytes()) {
            Some(next) => (rest, count) = (next, count + 1),
            None => return (count, rest),
        }
    }
}

/// Sends all of it, however long that takes, then half-closes.
fn send_all(client: &Client, bytes: &[u8]) {
    (&client.stream).write_all(bytes).expect("a server that reads on in the end");
    client.stream.shutdown(Shutdown::Write).expect("an open connection");
}

fn assert_nothing_lost(report: &Report, owed: usize) {
    let counts = (report.owed, report.delivered, report.lost());
    assert_eq!(counts, (owed as u64, owed as u64, 0), "{report}");
}

fn assert_evicted(report: &Report, name: &str) {
    let [loss] = report.losses_before_drain.as_slice() else { panic!("{report}") };
    assert_eq!((loss.name.as_str(), loss.reason), (name, CloseReason::Evicted));
    assert_eq!(loss.messages, report.lost(), "{report}");
}

#[test]
fn only_the_senders_to_a_stuck_recipient_are_slowed_and_no_message_is_lost() {
    const LENGTH: usize = 500;
    let server = TestServer::with(lenient());
    let peak = Peak::watch(&server);
    let bystanders = Bystanders::start(&server);
    let mut stuck = server.login_with_small_buffers("stuck");
    let names = ["alice", "bob"];
    let clients = names.map(|name| server.login(name));
    let stream = lines("stuck", 60_000, |_| LENGTH);
    let line = stream.len() / 60_000;

    let sent = clients.each_ref().map(|client| send_until_blocked(&client.stream, &stream));
    bystanders.exchange(5000);
    // The kernels accept only so much more, however long the bystanders go on.
    let sent: Vec<_> = clients
        .iter()
        .zip(sent)
        .map(|(client, sent)| {
            let sent = usize::try_from(sent).expect("memory is smaller");
            let more = send_until_blocked(&client.stream, &stream[sent..]);
            sent + usize::try_from(more).expect("memory is smaller")
        })
        .collect();
    bystanders.exchange(5000);
    assert!(sent.iter().all(|sent| *sent < stream.len()), "{sent:?} bytes were sent");

    // Now it reads and everything flows again, starting with the rest of each unfinished line.
    let counts = sent.iter().map(|sent| sent.div_ceil(line)).collect::<Vec<_>>();
    thread::scope(|scope| {
        for ((client, sent), count) in clients.iter().zip(&sent).zip(&counts) {
            let rest = &stream[*sent..count * line];
            scope.spawn(move || send_all(client, rest));
        }
        let mut next = [0, 0];
        for _ in 0..counts.iter().sum() {
            let line = stuck.line().expect("a message");
            let sender = usize::from(line.starts_with("from bob: "));
            let expected = format!("from {}: {}", names[sender], text(next[sender], LENGTH));
            assert_eq!(line, expected);
            next[sender] += 1;
        }
        assert_eq!(next.as_slice(), counts);
    });
    for mut client in clients {
        client.expect_eof();
    }
    let report = bystanders.finish(server);
    assert_nothing_lost(&report, counts.iter().sum());
    let (peak, bound) = (peak.end(), 4 * (WINDOW + LENGTH + OVERHEAD) as u64);
    assert!(peak <= bound, "{peak} bytes were queued, {bound} are allowed");
    stuck.expect_line("notice: server is shutting down, 0 of your lines were accepted");
}

#[test]
fn a_sender_never_has_more_than_its_window_queued() {
    // Each line fits in the window on its own, whatever its length; two of them may not.
    let length = |number: usize| number * 7919 % (WINDOW - OVERHEAD);
    let server = TestServer::with(lenient());
    let peak = Peak::watch(&server);
    let (mut slow, mut alice) = (server.login_with_small_buffers("slow"), server.login("alice"));
    let stream = lines("slow", 600, length);
    thread::scope(|scope| {
        scope.spawn(|| send_all(&alice, &stream));
        wait_until("her window to be full", || server.stats().queued_bytes > WINDOW as u64 / 4);
        expect_messages(&mut slow, "alice", 0..600, length);
    });
    alice.expect_eof();
    wait_until("the window to be empty", || server.stats().queued_bytes == 0);
    let peak = peak.end();
    assert!(peak <= WINDOW as u64, "{peak} bytes were queued");
    assert_nothing_lost(&server.stop(), 600);
}

#[test]
fn a_line_larger_than_the_window_is_routed_on_its_own() {
    let length = |number: usize| if number % 3 == 1 { 60_000 } else { 10 };
    let server = TestServer::with(lenient().window(1000));
    let peak = Peak::watch(&server);
    let mut recipients = ["b1", "b2", "b3"].map(|name| server.login(name));
    let mut alice = server.login("alice");
    let stream = lines("b1, b2, b3, b4", 90, length);
    thread::scope(|scope| {
        let sender = &alice;
        scope.spawn(|| send_all(sender, &stream));
        for recipient in &mut recipients {
            scope.spawn(move || expect_messages(recipient, "alice", 0..90, length));
        }
    });
    for line in 1..=90 {
        alice.expect_line(&format!("error: line {line}: no such peer: b4"));
    }
    alice.expect_eof();
    wait_until("the window to be empty", || server.stats().queued_bytes == 0);
    let (peak, bound) = (peak.end(), 1000 + 60_000 + OVERHEAD as u64);
    assert!(peak <= bound, "{peak} bytes were queued, {bound} are allowed");
    assert_nothing_lost(&server.stop(), 3 * 90);
}

#[test]
fn one_slow_recipient_of_many_delays_the_others_but_costs_them_no_message() {
    const COUNT: usize = 2000;
    let length = |number: usize| number % 700;
    let server = TestServer::with(lenient());
    let peak = Peak::watch(&server);
    let mut slow = server.login_with_small_buffers("slow");
    let names: Vec<_> = (0..20).map(|number| format!("fast{number}")).collect();
    let fast: Vec<_> = names.iter().map(|name| server.login(name)).collect();
    let mut alice = server.login("alice");
    let stream = lines(&format!("slow, {}", names.join(", ")), COUNT, length);
    thread::scope(|scope| {
        scope.spawn(|| send_all(&alice, &stream));
        let reading = fast.into_iter().map(|mut client| {
            scope.spawn(move || expect_messages(&mut client, "alice", 0..COUNT, length))
        });
        let reading: Vec<_> = reading.collect();
        // The fast recipients are ahead of the slow one by no more than her window.
        let before = wait_until_blocked(&server);
        assert!(before < COUNT as u64, "{before} lines were accepted");
        expect_messages(&mut slow, "alice", 0..COUNT, length);
        for fast in reading {
            fast.join().expect("every message");
        }
    });
    alice.expect_eof();
    wait_until("the window to be empty", || server.stats().queued_bytes == 0);
    let peak = peak.end();
    assert!(peak <= WINDOW as u64, "{peak} bytes were queued");
    assert_nothing_lost(&server.stop(), 21 * COUNT);
}

/// Waits until a window is nearly full; returns how many lines were accepted by then.
fn wait_until_blocked(server: &TestServer) -> u64 {
    wait_until("a full window", || server.stats().queued_bytes > WINDOW as u64 / 4);
    server.stats().accepted
}

#[test]
fn lines_accepted_from_a_blocked_sender_are_delivered_after_it_leaves_or_resets() {
    const LENGTH: usize = 100;
    for reset in [false, true] {
        let server = TestServer::with(lenient());
        let mut stuck = server.login_with_small_buffers("stuck");
        let alice = server.login("alice");
        let sent = send_until_blocked(&alice.stream, &lines("stuck", 200_000, |_| LENGTH));
        // What waits in her program goes with her. Of a record whose end the server lacks it can read
        // nothing.
        let sent = sent - alice.stream.unsent();
        if reset {
            alice.reset();
        } else {
            drop(alice);
        }
        let reading = thread::spawn(move || {
            let mut bytes = Vec::new();
            while let Some(line) = stuck.line() {
                bytes.extend(line.into_bytes());
                bytes.push(b'\n');
            }
            bytes
        });
        wait_until("her name to be free", || server.stats().connected == 1);
        let report = server.stop();
        let received = reading.join().expect("no panic");
        let (count, rest) = count_messages(&received, "alice", LENGTH);
        let notice = "notice: server is shutting down, 0 of your lines were accepted\n";
        assert_eq!(String::from_utf8_lossy(rest), notice);
        assert_eq!(report.accepted, count as u64);
        assert_nothing_lost(&report, count);
        // After a clean close every complete line counts; an unterminated last line does not.
        let line = "stuck: \n".len() + text(0, LENGTH).len();
        assert!(reset || count as u64 == sent / line as u64, "{count} lines of {sent} bytes");
    }
}

#[test]
fn a_recipient_that_never_reads_is_evicted_and_every_lost_message_is_counted() {
    const LENGTH: usize = 500;
    const COUNT: usize = 4000;
    let frame = format!("from alice: {}\n", text(0, LENGTH)).len() as u64;
    let config = strict().linger(Duration::from_millis(100));
    let server = TestServer::with(config);
    let bystanders = Bystanders::start(&server);
    let stuck = server.login_with_small_buffers("stuck");
    let mut alice = server.login("alice");
    let stream = lines("stuck", COUNT, |_| LENGTH);
    let first_refused = thread::scope(|scope| {
        scope.spawn(|| (&alice.stream).write_all(&stream).expect("a server that goes on"));
        // From the eviction on, each of her lines gets an error.
        let mut alice = Client::from_stream(alice.stream.try_clone().expect("a descriptor"));
        let error = alice.reply().expect("an error");
        let number = error.strip_prefix("error: line ").and_then(|rest| rest.split(':').next());
        let first: usize = number.expect("a line number").parse().expect("a number");
        assert_eq!(error, format!("error: line {first}: no such peer: stuck"));
        for line in first + 1..=COUNT {
            alice.expect_reply(&format!("error: line {line}: no such peer: stuck"));
        }
        first
    });
    alice.send("alice: I go on");
    alice.expect_reply("from alice: I go on");
    bystanders.exchange(100);
    let report = bystanders.finish(server);

    assert_eq!((report.accepted, report.owed), (COUNT as u64 + 1, first_refused as u64));
    assert_evicted(&report, "stuck");
    // What it finally reads was acknowledged or is covered by the unacknowledged bytes.
    let received = read_to_end(&stuck.stream);
    let received = count_messages(&received, "alice", LENGTH).0 as u64;
    let loss = &report.losses_before_drain[0];
    let delivered = report.delivered - 1;
    let max = delivered + loss.unacknowledged_bytes.div_ceil(frame);
    assert!((delivered..=max).contains(&received), "{received} received; {loss}; {report}");
}

#[test]
fn a_recipient_is_evicted_even_if_all_its_messages_are_already_in_flight() {
    if skipped_over_unix("nothing is in flight") {
        return;
    }
    let (stall_timeout, linger) = (Duration::from_secs(1), Duration::from_millis(100));
    let server = TestServer::with(strict().stall_timeout(stall_timeout).linger(linger));
    let bystanders = Bystanders::start(&server);
    let stuck = server.login_with_small_buffers("stuck");
    let mut alice = server.login("alice");
    // More than its own kernel holds, less than the server's does: the server's queue is empty.
    alice.send_bytes(&lines("stuck", 60, |_| 1000));
    wait_until("the eviction", || server.stats().connected == 3);
    let (lost, delivered) = (server.stats().lost, 60 - server.stats().lost);
    alice.send("stuck: are you there?");
    alice.expect_reply("error: line 61: no such peer: stuck");
    bystanders.exchange(100);
    drop(alice);
    let report = bystanders.finish(server);
    assert_eq!((report.owed, report.delivered, report.lost()), (60, delivered, lost), "{report}");
    assert_evicted(&report, "stuck");
    let received = read_to_end(&stuck.stream);
    assert!(count_messages(&received, "alice", 1000).0 < 60, "everything was received");
}

/// Gets a recipient evicted in the middle of a stream of messages; it then reads to the end.
fn evict_in_mid_stream_and_read_on(segment: Option<u32>, length: usize) {
    // All are accepted before the eviction, and exceed what the kernel can hold.
    let count = 600_000 / (length + 32);
    // A Unix socket has no window that tells how much a client may take at once, so its eviction comes
    // many times later.
    let stall_timeout = Duration::from_secs(if transport() == Transport::Unix { 1 } else { 3 });
    let config = strict().stall_timeout(stall_timeout);
    let server = TestServer::with(config.window(4 * 1024 * 1024));
    let mut stuck = Client::connect_with_small_buffers(server.address, segment);
    stuck.send("stuck");
    wait_until("the login", || server.stats().connected == 1);
    let mut alice = server.login("alice");
    alice.send_bytes(&lines("stuck", count, |_| length));
    alice.send("alice: that is all");
    alice.expect_line("from alice: that is all");
    // The eviction releases the window and starts the linger time.
    wait_until("the window to be empty", || server.stats().queued_bytes == 0);
    let bytes = stuck.drain();
    drop(stuck);
    wait_until("its loss to be told", || server.stats().lost_told > 0);
    let told = alice.line().expect("a notice");
    assert!(told.ends_with(" lost on the way to stuck: evicted"), "{told}");
    let report = server.stop_with([(alice, count as u64 + 1)]);

    let (received, rest) = count_messages(&bytes, "alice", length);
    let rest = String::from_utf8_lossy(rest);
    let end = "error: evicted, nothing was read for too long\n";
    assert!(rest == end, "{received} messages, then {} bytes: {rest:.80}", rest.len());
    assert_evicted(&report, "stuck");
    let loss = &report.losses_before_drain[0];
    assert_eq!((report.delivered, loss.unacknowledged_bytes), (received as u64 + 1, 0), "{loss}");
    assert_eq!(report.owed, count as u64 + 1, "{report}");
}

#[test]
fn an_evicted_recipient_that_reads_again_gets_its_last_message_whole_and_the_reason() {
    for length in [0, 1000, 50_000] {
        evict_in_mid_stream_and_read_on(None, length);
    }
}

#[test]
fn an_evicted_recipient_gets_its_last_message_whole_in_ethernet_sized_segments_too() {
    for length in [0, 1000, 50_000] {
        evict_in_mid_stream_and_read_on(Some(1448), length);
    }
}

#[test]
fn the_loss_of_a_client_evicted_before_shutdown_is_not_counted_against_the_drain() {
    let config = strict().drain_timeout(Duration::from_millis(300));
    let server = TestServer::with(config);
    let _stuck = server.login_with_small_buffers("stuck");
    let mut alice = server.login("alice");
    let stream = lines("stuck", 2000, |_| 500);
    alice.send_bytes(&stream);
    // Its eviction error is sent, and it still has time to read that, when the shutdown begins.
    alice.send("/who stuck");
    wait_until("her window to be empty", || {
        let stats = server.stats();
        stats.accepted == 2001 && stats.queued_bytes == 0
    });
    let report = server.stop();
    assert_evicted(&report, "stuck");
    assert!(report.is_clean(), "{report}");
}

#[test]
fn a_cycle_of_clients_that_never_read_does_not_deadlock() {
    let config = strict().linger(Duration::from_millis(100));
    let server = TestServer::with(config);
    let peak = Peak::watch(&server);
    let bystanders = Bystanders::start(&server);
    let names = ["a", "b", "c"];
    let clients = names.map(|name| server.login_with_small_buffers(name));
    let packet = lines("a, b, c", 100, |_| 500);
    thread::scope(|scope| {
        for client in &clients {
            // They only write, until their connection ends.
            scope.spawn(|| while (&client.stream).write_all(&packet).is_ok() {});
        }
        wait_until("all of them to be evicted", || server.stats().connected == 2);
    });
    bystanders.exchange(100);
    let report = bystanders.finish(server);
    assert!(report.lost() > 0, "{report}");
    for loss in &report.losses_before_drain {
        assert!(names.contains(&loss.name.as_str()), "{loss}");
        assert_eq!(loss.reason, CloseReason::Evicted, "{loss}");
    }
    assert!(report.losses_in_drain.is_empty(), "{report}");
    let (peak, bound) = (peak.end(), 5 * (WINDOW + 500 + OVERHEAD) as u64);
    assert!(peak <= bound, "{peak} bytes were queued, {bound} are allowed");
}

#[test]
fn a_recipient_that_reads_slowly_but_steadily_is_not_evicted() {
    const COUNT: usize = 60;
    // It reads one line at a time, ten times as fast as `stall_bytes` requires.
    let (stall_timeout, stall_bytes) = (Duration::from_secs(2), 2000);
    let config = lenient().stall_timeout(stall_timeout).stall_bytes(stall_bytes);
    let server = TestServer::with(config.window(2 * 1024 * 1024));
    let mut slow = Client::connect_with_small_buffers(server.address, Some(536));
    slow.send("slow");
    wait_until("the login", || server.stats().connected == 1);
    let mut alice = server.login("alice");
    alice.send_bytes(&lines("slow", 400, |_| 1000));
    alice.send("alice: that is all");
    alice.expect_line("from alice: that is all");
    for number in 0..COUNT {
        expect_messages(&mut slow, "alice", number..number + 1, |_| 1000);
        // This sets its pace, for which there is no event: several lines per stall timeout.
        thread::sleep(Duration::from_millis(100));
    }
    expect_messages(&mut slow, "alice", COUNT..400, |_| 1000);
    wait_until("the window to be empty", || server.stats().queued_bytes == 0);
    assert_nothing_lost(&server.stop(), 401);
}

#[test]
fn a_sender_that_resets_while_its_window_is_full_frees_its_name() {
    let server = TestServer::with(lenient());
    let (_stuck, alice) = (server.login_with_small_buffers("stuck"), server.login("alice"));
    send_until_blocked(&alice.stream, b"stuck: 0123456789012345678901234567890123456789\n");
    alice.reset();
    // The recipient is still stuck, so nothing frees her reader's window.
    wait_until("her disconnection", || server.stats().connected == 1);
    server.login("alice");
}
