//! No client harms another, whatever it sends, leaves unread, or cuts short.
//!
//! Every attack runs while two bystanders exchange numbered messages, which must continue
//! afterwards. The report, without the bystanders' share, is compared with what the attack did.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::{PoisonError, RwLock};
use std::thread;
use std::time::Duration;

use a_chat::{CloseReason, Config, Report, raise_nofile_limit};
use common::bystanders::Bystanders;
use common::wire::{Wire, skipped_over_unix};
use common::{
    Client, TEST_TIMEOUT, TestServer, descriptor_count, send_until_blocked, try_login, wait_until,
};

/// Held for writing by the attacks that count threads and descriptors of the whole process.
static ALONE: RwLock<()> = RwLock::new(());

/// Runs an attack on a server and returns the report without the bystanders' share.
fn run_attack(config: Config, attack: impl FnOnce(&TestServer, &Bystanders)) -> Report {
    let _shared = ALONE.read().unwrap_or_else(PoisonError::into_inner);
    run_attack_unlocked(config, attack)
}

/// As [`run_attack`], while no other attack of this file runs.
fn run_attack_alone(config: Config, attack: impl FnOnce(&TestServer, &Bystanders)) -> Report {
    let _alone = ALONE.write().unwrap_or_else(PoisonError::into_inner);
    run_attack_unlocked(config, attack)
}

fn run_attack_unlocked(config: Config, attack: impl FnOnce(&TestServer, &Bystanders)) -> Report {
    let server = TestServer::with(config);
    let bystanders = Bystanders::start(&server);
    bystanders.exchange(1);
    attack(&server, &bystanders);
    bystanders.exchange(100);
    bystanders.finish(server)
}

fn short_linger() -> Config {
    Config::default().linger(Duration::from_millis(100))
}

/// Checks how many lines the attack got accepted, and how many deliveries, none of them lost.
fn assert_counts(report: &Report, accepted: u64, delivered: u64) {
    let counts = (report.accepted, report.owed, report.delivered, report.lost());
    assert_eq!(counts, (accepted, delivered, delivered, 0), "{report}");
}

/// Waits until everything that a client has sent is routed: a message to itself comes last.
fn wait_until_routed(client: &mut Client, name: &str) {
    client.send(&format!("{name}: routed"));
    client.expect_line(&format!("from {name}: routed"));
}

#[test]
fn an_endless_line_is_skipped_and_its_sender_stays_connected() {
    let report = run_attack(short_linger(), |server, bystanders| {
        let (mut alice, mut bob) = (server.login("alice"), server.login("bob"));
        let chunk = vec![b'x'; 1 << 20];
        for _ in 0..8 {
            alice.send_bytes(&chunk);
        }
        bystanders.exchange(100);
        // The end of the line arrives together with a valid line.
        alice.send_bytes(b"\nbob: alive\n");
        alice.expect_line("error: line 1: longer than 65536 bytes");
        bob.expect_line("from alice: alive");
        // A line that never ends is not a line.
        alice.send_bytes(&chunk);
        alice.half_close();
        alice.expect_line("error: the last line had no line end and was not accepted");
        alice.expect_eof();
    });
    assert_counts(&report, 2, 1);
}

#[test]
fn a_line_of_maximum_length_is_routed_and_one_byte_more_is_refused() {
    for max_line in [32, 511, 512, 1000, 65_535, 65_536, 100_000] {
        let report = run_attack(short_linger().max_line(max_line), |server, _| {
            let mut bob = server.login("bob");
            // The text is what `bob:` leaves of the line.
            let longest = "x".repeat(max_line - 4);
            for end in ["\n", "\r\n"] {
                bob.send_bytes(format!("bob:{longest}{end}").as_bytes());
                bob.expect_line(&format!("from bob: {longest}"));
            }
            for (line, end) in [(3, "\n"), (4, "\r\n")] {
                bob.send_bytes(format!("bob:{longest}x{end}").as_bytes());
                bob.expect_line(&format!("error: line {line}: longer than {max_line} bytes"));
            }
            // All of them again in one packet, each surrounded by the others' bytes.
            let (good, bad) = (format!("bob:{longest}\r\n"), format!("bob:{longest}x\n"));
            bob.send_bytes([&*good, &*bad, &*good, &*bad].concat().as_bytes());
            for bad in [6, 8] {
                bob.expect_line(&format!("from bob: {longest}"));
                bob.expect_line(&format!("error: line {bad}: longer than {max_line} bytes"));
            }
        });
        assert_counts(&report, 8, 4);
    }
}

#[test]
fn a_line_that_is_not_utf8_is_refused_and_its_neighbours_are_routed() {
    let report = run_attack(short_linger(), |server, _| {
        let (mut alice, mut bob) = (server.login("alice"), server.login("bob"));
        alice.send_bytes(b"bob: 1\nbob: \xff\nbob: 3\n\xc3\nbob: \xe2\x82\n\xac bob: 6\nbob: 7\n");
        for number in [1, 3, 7] {
            bob.expect_line(&format!("from alice: {number}"));
        }
        for line in [2, 4, 5, 6] {
            alice.expect_line(&format!("error: line {line}: not UTF-8"));
        }
        // A whole line of invalid bytes, longer than a read.
        alice.send_bytes(&vec![0x80; 60_000]);
        alice.send_bytes(b"\n");
        alice.expect_line("error: line 8: not UTF-8");
    });
    assert_counts(&report, 8, 3);
}

#[test]
fn a_character_split_across_two_reads_stays_intact() {
    // The first reads of a connection end at multiples of 512 bytes. With one of the four offsets,
    // each such boundary falls inside a character.
    let text = "\u{1f980}".repeat(5000);
    let mut lines = 0;
    let report = run_attack(short_linger(), |server, _| {
        let mut bob = server.login("bob");
        for offset in 0..4 {
            let mut bob = Client::connect(server.address);
            let text = format!("{}{text}", "x".repeat(offset));
            bob.send(&format!("bob{offset}\nbob{offset}: {text}"));
            bob.expect_line(&format!("from bob{offset}: {text}"));
            lines += 1;
        }
        // With packets of one byte, the server may see every possible boundary.
        for _ in 0..100 {
            for byte in "bob: \u{1f980}\u{20ac}\u{e9}\n".as_bytes() {
                bob.send_bytes(&[*byte]);
            }
            bob.expect_line("from bob: \u{1f980}\u{20ac}\u{e9}");
            lines += 1;
        }
    });
    assert_counts(&report, lines, lines);
}

#[test]
fn control_characters_pass_unchanged() {
    let report = run_attack(short_linger(), |server, _| {
        let (mut alice, mut bob) = (server.login("alice"), server.login("bob"));
        let controls = (0..0x20_u8).chain([0x7f]).filter(|byte| *byte != b'\n');
        let text = String::from_utf8(controls.collect()).expect("ASCII");
        alice.send(&format!("bob: <{text}\u{85}\u{2028}\u{9b}31m>"));
        bob.expect_line(&format!("from alice: <{text}\u{85}\u{2028}\u{9b}31m>"));
        // At the ends of a text too.
        alice.send("bob: \0\u{1b}[2J\0");
        bob.expect_line("from alice: \0\u{1b}[2J\0");
    });
    assert_counts(&report, 2, 2);
}

#[test]
fn a_carriage_return_inside_a_text_does_not_end_the_line() {
    let report = run_attack(short_linger(), |server, _| {
        let (mut alice, mut bob) = (server.login("alice"), server.login("bob"));
        alice.send_bytes(b"bob: 1\rbob: 2\r\r\n\rbob: 3\r\n");
        // Only the one before the line feed is no part of the text.
        bob.expect_line("from alice: 1\rbob: 2\r");
        bob.expect_line("from alice: 3");
    });
    assert_counts(&report, 2, 2);
}

#[test]
fn a_client_cannot_forge_a_message_from_another() {
    let report = run_attack(short_linger(), |server, _| {
        let (mut alice, mut bob) = (server.login("alice"), server.login("bob"));
        alice.send("from bob: x");
        alice.expect_line("error: line 1: not a name: from bob");
        // Neither a text, nor a name that is echoed, nor a message to oneself can forge one.
        alice.send("bob: from carol: x");
        bob.expect_line("from alice: from carol: x");
        alice.send("bob: \rfrom carol: x");
        bob.expect_line("from alice: \rfrom carol: x");
        alice.send("/who from bob: x");
        alice.expect_line("notice: line 4: not here: from bob: x");
        alice.send("\rfrom bob,\u{2028}notice: x");
        alice.expect_line("error: line 5: no such peer: notice; not a name: from bob");
        alice.send("alice: from bob: x");
        alice.expect_line("from alice: from bob: x");
    });
    assert_counts(&report, 6, 3);
}

#[test]
fn an_unterminated_last_line_is_refused_and_not_counted() {
    let report = run_attack(short_linger(), |server, _| {
        let (mut alice, mut bob) = (server.login("alice"), server.login("bob"));
        alice.send_bytes(b"bob: whole\nbob: unterminated");
        alice.half_close();
        alice.expect_line("error: the last line had no line end and was not accepted");
        alice.expect_eof();
        bob.expect_line("from alice: whole");
        wait_until_routed(&mut bob, "bob");
    });
    assert_counts(&report, 2, 2);
}

#[test]
fn a_reset_in_mid_line_loses_no_complete_line() {
    let report = run_attack(short_linger(), |server, _| {
        let mut bob = server.login("bob");
        for number in 0..50 {
            let mut alice = try_login(server.address, &format!("alice{number}")).expect("room");
            alice.send_bytes(b"bob: whole\nbob: unterminated");
            bob.expect_line(&format!("from alice{number}: whole"));
            alice.reset();
        }
        wait_until_routed(&mut bob, "bob");
    });
    // Each client has sent one `/who` when it logged in.
    assert_counts(&report, 101, 51);
}

#[test]
fn messages_pending_for_a_client_that_resets_are_reported_as_lost_by_name() {
    const MESSAGES: u64 = 400;
    if skipped_over_unix("the kernel holds all of these messages, and what it holds is delivered") {
        return;
    }
    let text = "x".repeat(480);
    let frame = format!("from alice: 000 {text}\n").len() as u64;
    let mut received = 0;
    let report = run_attack(short_linger(), |server, _| {
        let mut victim = server.login_with_small_buffers("victim");
        let mut alice = server.login("alice");
        for number in 0..MESSAGES {
            alice.send(&format!("victim: {number:03} {text}"));
        }
        wait_until_routed(&mut alice, "alice");
        for number in 0..3 {
            victim.expect_line(&format!("from alice: {number:03} {text}"));
            received += 1;
        }
        victim.reset();
        // Its senders get an error, and continue.
        wait_until("its disconnection", || server.stats().connected == 3);
        alice.send("victim: one more");
        alice.expect_reply(&format!("error: line {}: no such peer: victim", MESSAGES + 2));
    });
    assert_eq!((report.accepted, report.owed), (MESSAGES + 2, MESSAGES + 1), "{report}");
    let [loss] = report.losses_before_drain.as_slice() else { panic!("{report}") };
    assert_eq!((loss.name.as_str(), loss.messages), ("victim", report.lost()));
    assert!(matches!(loss.reason, CloseReason::Broken(_)), "{loss}");
    // Every message that the victim read was delivered or is covered by the unacknowledged bytes.
    // Those that only the server's kernel held, far more than the victim's can hold, were not
    // delivered.
    let delivered = MESSAGES - loss.messages;
    assert!(received <= delivered + loss.unacknowledged_bytes / frame, "{loss}");
    assert!(delivered < received + 64 * 1024 / frame, "{loss}");
}

#[test]
fn a_client_that_half_closes_still_receives_every_message_and_reply() {
    let report = run_attack(short_linger(), |server, _| {
        let (mut alice, mut bob) = (server.login("alice"), server.login("bob"));
        for number in 0..500 {
            alice.send(&format!("bob: {number} {}", "x".repeat(300)));
        }
        wait_until_routed(&mut alice, "alice");
        // More replies than fit in bob's window.
        bob.send_bytes("nonsense\n".repeat(20_000).as_bytes());
        bob.half_close();
        let (mut messages, mut errors) = (0, 0);
        for line in bob.lines_to_eof() {
            if line.starts_with("from ") {
                assert!(line.starts_with(&format!("from alice: {messages} ")), "{line}");
                messages += 1;
            } else {
                errors += 1;
                assert!(line.starts_with(&format!("error: line {errors}: no ':' in it")), "{line}");
            }
        }
        assert_eq!((messages, errors), (500, 20_000));
    });
    assert_counts(&report, 20_501, 501);
}

#[test]
fn a_client_that_floods_garbage_and_reads_no_reply_is_slowed_by_its_own_window() {
    const GARBAGE: &[u8] = b"this is no message\n";
    let window = 16 * 1024;
    let mut accepted = 0;
    // It must not be evicted here.
    let config = short_linger().window(window).stall_timeout(TEST_TIMEOUT * 10);
    let report = run_attack(config, |server, bystanders| {
        let mut mallory = server.login_with_small_buffers("mallory");
        let sent = send_until_blocked(&mallory.stream, &GARBAGE.repeat(1000));
        bystanders.exchange(1000);
        assert!(server.stats().queued_bytes <= 3 * window as u64, "{:?}", server.stats());

        let lines = sent.div_ceil(GARBAGE.len() as u64);
        let rest = lines * GARBAGE.len() as u64 - sent;
        let rest = &GARBAGE[GARBAGE.len() - usize::try_from(rest).expect("small")..];
        let mut stream = mallory.stream.try_clone().expect("a descriptor");
        thread::scope(|scope| {
            scope.spawn(|| {
                stream.write_all(rest).expect("a server that reads");
                stream.shutdown(Shutdown::Write).expect("an open connection");
            });
            for number in 1..=lines {
                let line = mallory.line().expect("a reply");
                assert!(line.starts_with(&format!("error: line {number}: no ':' in it")), "{line}");
            }
            mallory.expect_eof();
        });
        accepted = lines;
    });
    assert_counts(&report, accepted, 0);
}

#[test]
fn a_line_full_of_unknown_names_gets_a_single_reply() {
    // As many different names as a list may hold, with blanks that fill a line of maximum length.
    let names: Vec<_> = (0..1024).map(|number| format!("{number:032}")).collect();
    let blanks = " ".repeat(30);
    let line = format!("{}: x", names.join(&format!("{blanks},")));
    let twice = format!("{}: x", vec!["n"; 32_000].join(","));
    let report = run_attack(short_linger(), |server, _| {
        let mut mallory = server.login("mallory");
        for number in 0..10 {
            mallory.send(&line);
            mallory.send(&twice);
            let number = 2 * number + 1;
            let expected = format!("error: line {number}: no such peer: {}", names.join(", "));
            assert!(mallory.line().as_deref() == Some(&*expected), "a different reply");
            mallory.expect_line(&format!("error: line {}: no such peer: n", number + 1));
        }
        // Any of them that is connected still gets the message, once.
        let list = line.replacen(&names[5], "mallory", 1).replacen(&names[9], "mallory", 1);
        mallory.send(&list);
        mallory.expect_line("from mallory: x");
        let reply = mallory.line().expect("a reply");
        assert_eq!(reply.split(',').count(), names.len() - 2);
    });
    assert_counts(&report, 21, 1);
}

#[test]
fn a_thousand_silent_clients_time_out_and_leave_no_thread_or_descriptor_behind() {
    const SILENT: usize = 1000;
    let _ = raise_nofile_limit();
    let config = short_linger().login_timeout(Duration::from_secs(2)).max_logins(SILENT);
    let report = run_attack_alone(config, |server, bystanders| {
        let before = (client_threads(), descriptor_count());
        let clients: Vec<_> =
            (0..SILENT).map(|_| Wire::connect(server.address).expect("room")).collect();
        bystanders.exchange(1000);
        for mut client in clients {
            client.set_read_timeout(Some(TEST_TIMEOUT)).expect("a timeout");
            let mut reply = String::new();
            client.read_to_string(&mut reply).expect("a reply and a clean end of file");
            assert_eq!(reply, "error: login not in time\n");
        }
        wait_until_gone(before);
    });
    assert_eq!((report.connections, report.refused), (SILENT as u64, 0));
    assert_counts(&report, 0, 0);
}

#[test]
fn clients_that_connect_and_vanish_leave_no_thread_or_descriptor_behind() {
    const ROUNDS: u64 = 300;
    let report = run_attack_alone(short_linger(), |server, bystanders| {
        let before = (client_threads(), descriptor_count());
        for round in 0..ROUNDS {
            let connect = || Client::connect(server.address);
            drop(connect());
            connect().reset();
            let mut half = connect();
            half.send_bytes(b"half-a-na");
            half.reset();
            let mut whole = connect();
            whole.send(&format!("gone{round}"));
            drop(whole);
            let mut whole = connect();
            whole.send(&format!("reset{round}"));
            whole.reset();
        }
        bystanders.exchange(100);
        // Clients are accepted in the order in which they connected.
        drop(try_login(server.address, "last").expect("room"));
        wait_until("their names to be free", || server.stats().connected == 2);
        wait_until_gone(before);
    });
    assert_eq!((report.connections, report.refused), (5 * ROUNDS + 1, 0));
    assert_counts(&report, 1, 0);
}

/// Waits until there are no more threads and descriptors than before an attack.
fn wait_until_gone(before: (usize, usize)) {
    // There other suites run beside this one, with threads and descriptors of their own.
    if module_path!().starts_with("over_tls") {
        return;
    }
    // A joined thread leaves the kernel's list a moment later, also one of those that were counted
    // before.
    wait_until("their threads to exit", || client_threads() <= before.0);
    wait_until("their sockets to be closed", || descriptor_count() <= before.1);
}

/// How many reader and writer threads exist. The test runner has threads of its own.
fn client_threads() -> usize {
    let name = |task: fs::DirEntry| fs::read_to_string(task.path().join("comm")).ok();
    let tasks = fs::read_dir("/proc/self/task").expect("procfs").flatten();
    tasks
        .filter_map(name)
        .filter(|name| name.starts_with("reader-") || name.starts_with("writer-"))
        .count()
}
