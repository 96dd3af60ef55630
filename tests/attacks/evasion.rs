//! Odd clients and odd limits: urgent bytes, sides that are closed, single bytes in tiny segments,
//! and flags at their extremes. None of them makes the server spin, panic or lose count.

use std::io::Write;
use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::{SendFlags, send};
use socket2::{Domain, Socket, Type};

use crate::common::{Client, try_login, wait_until};
use crate::crowd::{Buffer, Crowd, Plan, Reading, Sending};
use crate::floods::{Kind, names};
use crate::target::{Target, beside_others, by_form, figure};

/// The most that a server with idle clients may run in a second.
const IDLE: Duration = Duration::from_millis(100);

#[test]
fn urgent_bytes_cost_no_line_and_no_time() {
    let _machine = beside_others();
    let target = Target::start(&["--linger", "100ms"]);
    let mut bob = try_login(target.address, "bob").expect("room");
    let mut alice = try_login(target.address, "alice").expect("room");
    for _ in 0..50 {
        send(&alice.stream, b"!", SendFlags::OOB).expect("a server that reads");
    }
    alice.send("bob: after the urgent bytes");
    // The last of the urgent bytes is out of band, and those before it are in the stream or not.
    let line = loop {
        send(&alice.stream, b"!", SendFlags::OOB).expect("a server that reads");
        alice.send("bob: again");
        let line = bob.line().expect("a line");
        if line == "from alice: again" {
            break line;
        }
    };
    assert_eq!(line, "from alice: again");
    let before = target.process.cpu_time();
    thread::sleep(Duration::from_secs(1));
    let spent = target.process.cpu_time().saturating_sub(before);
    assert!(spent <= IDLE, "{spent:?} of CPU time while nothing happens");
    let reader = thread::spawn(move || {
        drop(alice.drain());
        drop(bob.drain());
    });
    target.terminate();
    reader.join().expect("no panic");
}

#[test]
fn half_closed_clients_that_stay_cost_no_time() {
    let _machine = beside_others();
    let target = Target::start(&["--linger", "1s"]);
    let clients: Vec<_> = names(50)
        .iter()
        .map(|name| {
            let mut client = try_login(target.address, name).expect("room");
            client.half_close();
            client.expect_eof();
            client
        })
        .collect();
    let before = target.process.cpu_time();
    thread::sleep(Duration::from_secs(1));
    let spent = target.process.cpu_time().saturating_sub(before);
    assert!(spent <= IDLE, "{spent:?} of CPU time while nothing happens");
    let account = target.terminate();
    assert_eq!(account.report.accepted, clients.len() as u64, "{}", account.summary());
}

#[test]
fn a_recipient_that_shuts_its_reading_side_holds_nobody_up() {
    let _machine = beside_others();
    let target = Target::start(&["--stall-timeout", "1s", "--linger", "100ms"]);
    let deaf = try_login(target.address, "deaf").expect("room");
    deaf.stream.shutdown(Shutdown::Read).expect("a connection");
    let mut alice = try_login(target.address, "alice").expect("room");
    for number in 0..2000 {
        alice.send(&format!("deaf: {number} {}", "x".repeat(1000)));
    }
    alice.send("/who alice");
    wait_until("the reply", || alice.line().expect("a reply") == "notice: line 2002: here: alice");
    drop((alice, deaf));
    target.terminate();
}

#[test]
fn single_bytes_in_tiny_segments_are_one_line() {
    let _machine = beside_others();
    let target = Target::start(&["--linger", "100ms"]);
    let plan = Plan::new("dripper", Sending::Nothing, Reading::Nothing)
        .with_buffer(Buffer::Bytes(2304))
        .with_segment(88);
    let mut dripper = Client::from_stream(plan.connect(target.address).expect("a server"));
    dripper.send("dripper");
    for byte in b"dripper: drop by drop\n" {
        dripper.send_bytes(&[*byte]);
    }
    dripper.expect_line("from dripper: drop by drop");
    dripper.half_close();
    dripper.expect_eof();
    let account = target.terminate();
    assert_eq!(account.report.delivered, 1, "{}", account.summary());
}

#[test]
fn a_dripping_reader_is_evicted_in_time() {
    let _machine = beside_others();
    let target = Target::start(&["--stall-timeout", "1s", "--stall-bytes", "64KiB"]);
    let mut target = target;
    let drip = Reading::Rate { fast_for: Duration::ZERO, bytes_per_second: 50 };
    let plans = [
        Plan::new("dripper", Sending::Nothing, drip)
            .with_buffer(Buffer::Bytes(2304))
            .with_segment(88),
        Plan::new(
            "sender",
            Sending::Numbered { to: "dripper".to_owned(), padding: 1000 },
            Reading::Everything,
        ),
    ];
    let began = Instant::now();
    let crowd = Crowd::start(target.address, plans);
    let bound = crate::slow_readers::longest_wait(1, 64 * 1024, 256 * 1024, 8 * 1024);
    let evicted = target.process.log.has_within(bound, "evicted");
    figure(&format!("a dripping reader: {:?} of {bound:?}", began.elapsed()));
    let account = target.terminate();
    account.check_members(&crowd.finish());
    assert!(evicted, "not in {bound:?}");
}

#[test]
fn limits_at_their_extremes_leave_an_exact_account() {
    let _machine = beside_others();
    let sets: &[&[&str]] = &[
        &["--drain-timeout", "0s"],
        &["--linger", "0s"],
        &["--drain-timeout", "0s", "--linger", "0s"],
        &["--window", "1"],
        &["--window", "2", "--max-line", "1"],
        &["--window", "16EiB"],
        &["--window", "18446744073709551615"],
        &["--max-line", "1"],
        &["--max-line", "64MiB", "--window", "1"],
        &["--stall-bytes", "18446744073709551615"],
        &["--stall-bytes", "1"],
        &["--stall-timeout", "1ns"],
        &["--stall-timeout", "1ms"],
        &["--stall-timeout", "365days", "--stall-bytes", "18446744073709551615"],
        &["--login-timeout", "1ns"],
    ];
    for flags in sets {
        let target = Target::start(&[flags, &["--log-level", "debug"][..]].concat());
        if flags.contains(&"--login-timeout") {
            // Some are in time all the same; nobody else is served.
            for name in names(20) {
                let mut client = Client::connect(target.address);
                // Fails if the connection has ended.
                let _ = client.stream.write_all(format!("{name}\n").as_bytes());
                drop(client);
            }
            target.terminate();
            continue;
        }
        let shortest = flags.contains(&"--max-line") && flags.contains(&"1");
        let plans = if shortest { Vec::new() } else { Kind::SelfSendsRead.plans(by_form(4, 20)) };
        let crowd = Crowd::start(target.address, plans);
        thread::sleep(Duration::from_millis(300));
        let account = target.terminate();
        account.check_members(&crowd.finish());
        let panicked = account.log.iter().find(|line| line.contains("panicked"));
        assert_eq!(panicked, None, "{flags:?}");
    }
}

#[test]
fn many_source_addresses_leave_no_trace_in_the_limit_per_address() {
    let _machine = beside_others();
    let target = Target::start(&["--max-per-address", "2", "--linger", "100ms"]);
    let connect = |number: u32| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a descriptor");
        let source = Ipv4Addr::from_bits(0x7F02_0000 + number);
        socket.bind(&SocketAddr::from((source, 0)).into()).expect("an address of the loopback");
        socket.connect(&target.address.into()).expect("a listening server");
        Client::from_stream(std::net::TcpStream::from(socket))
    };
    let come_and_go = |first: u32, count: u32| {
        for number in first..first + count {
            let mut client = connect(number);
            client.send(&format!("n{number}"));
            client.half_close();
            client.expect_eof();
        }
    };
    come_and_go(0, 500);
    let before = target.resident();
    let count = by_form(2000, 50_000);
    come_and_go(500, count);
    let growth = target.resident().saturating_sub(before) / 1024;
    figure(&format!("{count} further addresses: {growth} KiB more"));
    // Each has its full share still, and no more.
    let mut clients: Vec<_> = (0..3).map(|_| connect(1)).collect();
    let mut third = clients.pop().expect("three");
    assert_eq!(third.line().as_deref(), Some("error: too many connections from your address"));
    let mut account = None;
    thread::scope(|scope| {
        scope.spawn(|| clients.iter_mut().for_each(|client| drop(client.drain())));
        account = Some(target.terminate());
    });
    let account = account.expect("the end");
    assert!(growth <= 1024, "{growth} KiB for {count} addresses: {}", account.summary());
}
