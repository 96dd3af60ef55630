//! Clients that hold others up: by replies that they do not read, by a cycle of full windows, or by
//! being gone with their name still taken.

use std::io::Write;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{Client, try_login, unacknowledged_between, wait_until};
use crate::crowd::{Buffer, Crowd, Plan, Reading, Sending};
use crate::floods::{Kind, names};
use crate::slow_readers::longest_wait;
use crate::target::{Target, beside_others, by_form, figure};

const KIB: u64 = 1024;
const WINDOW: u64 = 256 * KIB;

/// What is written to a socket and not acknowledged, at most, with a last write on top.
const MAX_IN_FLIGHT: u64 = 1024 * KIB + 256 * KIB;

/// Sends runs to unknown names until the server reads no more, in the hope that many replies stand
/// before the first of them is charged.
fn queue_refusals(client: &Client) {
    let run = format!("{}:\n", "~".repeat(700)).repeat(1000);
    crate::common::send_until_blocked(&client.stream, run.as_bytes());
}

#[test]
fn replies_to_unknown_names_delay_others_by_no_more_than_nine_windows() {
    let _machine = beside_others();
    let (mut most, mut most_in_socket) = (0, 0);
    for attempt in 0..by_form(5, 30) {
        let target = Target::start(&["--stall-timeout", "1min"]);
        let hog = Plan::new("hog", Sending::Nothing, Reading::Nothing)
            .with_buffer(Buffer::Bytes(8 * 1024))
            .with_segment(536);
        let stream = hog.connect(target.address).expect("a listening server");
        let mut hog = Client::from_stream(stream);
        hog.send("hog\n/who hog");
        hog.expect_line("notice: line 1: here: hog");
        queue_refusals(&hog);
        let mut victim = try_login(target.address, "victim").expect("room");
        victim.send("hog: at last\n/who victim");
        victim.expect_line("notice: line 3: here: victim");
        let local = hog.stream.local_addr().expect("an address");
        let in_socket = unacknowledged_between(target.address, local);
        let mut before = 0;
        loop {
            let line = hog.line().expect("the victim's line");
            if line == "from victim: at last" {
                break;
            }
            assert!(line.starts_with("error: line "), "{line}");
            before += line.len() as u64 + 1;
        }
        figure(&format!(
            "attempt {attempt}: {} KiB of replies before another's line, {} KiB of them in the socket",
            before / KIB,
            in_socket / KIB
        ));
        most = most.max(before.saturating_sub(in_socket));
        most_in_socket = most_in_socket.max(in_socket);
        let reader = thread::spawn(move || drop(hog.drain()));
        drop(victim);
        target.terminate();
        reader.join().expect("no panic");
    }
    figure(&format!(
        "{} KiB queued and {} KiB in the socket at most",
        most / KIB,
        most_in_socket / KIB
    ));
    // Its own kernel holds the rest.
    let allowed = 9 * WINDOW + 64 * KIB;
    assert!(most <= allowed, "{} KiB of replies queued before another's line", most / KIB);
    assert!(most_in_socket <= MAX_IN_FLIGHT, "{} KiB in the socket", most_in_socket / KIB);
}

#[test]
fn a_sender_is_held_up_by_anothers_unread_replies_no_longer_than_stated() {
    let _machine = beside_others();
    let (timeout, stall_bytes) = by_form((1, 128 * KIB), (4, 32 * KIB));
    let (seconds, bytes) = (format!("{timeout}s"), stall_bytes.to_string());
    let target = Target::start(&["--stall-timeout", &seconds, "--stall-bytes", &bytes]);
    let window = 16 * KIB;
    // Somewhat faster than it must read, so that it is never evicted.
    let reading = Reading::Rate {
        fast_for: Duration::ZERO,
        bytes_per_second: stall_bytes / timeout * 14 / 10,
    };
    let run = format!("{}:\n", "~".repeat(700)).repeat(1000);
    let plan = Plan::new("hog", Sending::Forever(Arc::new(run.into_bytes())), reading);
    let plan = plan.with_buffer(Buffer::Bytes(8 * 1024)).with_segment(536);
    let crowd = Crowd::start(target.address, [plan]);
    thread::sleep(Duration::from_secs(1));
    let mut victim = try_login(target.address, "victim").expect("room");
    let mut other = try_login(target.address, "other").expect("room");
    let began = Instant::now();
    let lines = format!("hog: {}\n", "x".repeat(1000)).repeat(420) + "other: hello\n";
    let mut sender = victim.stream.try_clone().expect("a descriptor");
    let sending = thread::spawn(move || sender.write_all(lines.as_bytes()));
    // Its own window, three of replies, and what the socket holds.
    let bound = longest_wait(timeout, stall_bytes, 4 * WINDOW + MAX_IN_FLIGHT, window);
    other.stream.set_read_timeout(Some(bound * 4)).expect("a timeout");
    other.expect_line("from victim: hello");
    let time = began.elapsed();
    figure(&format!("held up for {time:?} of {bound:?}"));
    sending.join().expect("no panic").expect("a server that reads");
    crowd.hush();
    crowd.read_everything();
    let leftovers = thread::spawn(move || {
        drop(victim.drain());
        drop(other.drain());
    });
    let account = target.terminate();
    account.check_members(&crowd.finish());
    leftovers.join().expect("no panic");
    assert!(time <= bound, "held up for {time:?}, {bound:?} is stated");
}

#[test]
fn a_cycle_of_clients_that_never_read_is_broken_in_time() {
    let _machine = beside_others();
    let clients = by_form(10, 40);
    let (timeout, stall_bytes) = (1, 64 * KIB);
    let target = Target::start(&["--stall-timeout", "1s", "--stall-bytes", "64KiB"]);
    let names = names(clients);
    let plan = |(number, name): (usize, &String)| {
        let to = names[(number + 1) % clients].clone();
        let sending = Sending::Numbered { to, padding: 1000 };
        Plan::new(name, sending, Reading::Nothing).with_buffer(Buffer::Bytes(8 * 1024))
    };
    let crowd = Crowd::start(target.address, names.iter().enumerate().map(plan));
    let mut victim = try_login(target.address, "victim").expect("room");
    let began = Instant::now();
    let lines = format!("{}: {}\n", names[0], "x".repeat(1000)).repeat(200);
    victim.send_bytes(lines.as_bytes());
    victim.send("/who victim");
    // Some of its lines may be refused, if the recipient is evicted before they are routed.
    let reply = "notice: line 202: here: victim";
    wait_until("the victim's reply", || victim.line().expect("a reply") == reply);
    let time = began.elapsed();
    let bound = longest_wait(timeout, stall_bytes, 2 * 256 * KIB, 16 * KIB);
    figure(&format!("a cycle of {clients}: a victim was held up for {time:?} of {bound:?}"));
    assert!(time <= bound, "held up for {time:?}");
    drop(victim);
    let account = target.terminate();
    account.check_members(&crowd.finish());
    assert!(account.ended_by("evicted") > 0, "{}", account.summary());
}

/// How many bytes that a client has sent are in the server's kernel, and not read.
fn unread_by_the_server(client: &Client) -> u64 {
    let local = client.stream.local_addr().expect("an address").port();
    let remote = client.stream.peer_addr().expect("a connection").port();
    let ports = (format!(":{remote:04X}"), format!(":{local:04X}"));
    let table = std::fs::read_to_string("/proc/net/tcp").expect("procfs");
    let unread = table.lines().find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let is_it = fields.get(1)?.ends_with(&ports.0) && fields.get(2)?.ends_with(&ports.1);
        let (_, unread) = fields.get(4)?.split_once(':')?;
        is_it.then(|| u64::from_str_radix(unread, 16).ok())?
    });
    // The table may pass over an entry while others come and go.
    unread.unwrap_or(1)
}

#[test]
fn the_name_of_a_client_that_has_closed_is_free_even_if_its_window_is_full() {
    let _machine = beside_others();
    let target = Target::start(&["--stall-timeout", "2s"]);
    let slow = Reading::Rate { fast_for: Duration::ZERO, bytes_per_second: 24 * 1024 };
    let plan = Plan::new("slow", Sending::Nothing, slow).with_buffer(Buffer::Bytes(8 * 1024));
    let crowd = Crowd::start(target.address, [plan]);
    let crashed = try_login(target.address, "crashed").expect("room");
    let lines = format!("slow: {}\n", "x".repeat(1000)).repeat(16);
    let mut sent = 0;
    let mut full_since = Instant::now();
    // Until the server reads no more; what it has not read by then is in its kernel.
    while full_since.elapsed() < Duration::from_millis(300) {
        if unread_by_the_server(&crashed) == 0 {
            full_since = Instant::now();
            (&crashed.stream).write_all(lines.as_bytes()).expect("a server with room for this");
            sent += lines.len();
        }
    }
    // As when a program ends: the kernel sends the end behind everything that it wrote.
    drop(crashed);
    let began = Instant::now();
    let mut attempts = 0;
    wait_until("the name to be free", || {
        attempts += 1;
        let mut client = Client::connect(target.address);
        client.send("crashed\n/who crashed");
        client.line().expect("an answer") != "error: name taken"
    });
    let time = began.elapsed();
    figure(&format!("the name was free after {time:?}, {sent} B were sent before"));
    // The recipient needs ten seconds for what is in its window alone.
    assert!(time <= Duration::from_secs(5), "taken for {time:?}");
    crowd.read_everything();
    let account = target.terminate();
    account.check_members(&crowd.finish());
}

#[test]
fn clients_that_leave_before_the_shutdown_and_in_it_have_an_exact_account() {
    let _machine = beside_others();
    let target = Target::start(&["--drain-timeout", "20s", "--linger", "100ms"]);
    let mut plans = Kind::SelfSendsRead.plans(20);
    let leaving = Crowd::start(target.address, plans.drain(..10));
    let staying = Crowd::start(target.address, plans);
    wait_until("messages", || leaving.received().0.min(staying.received().0) > 1000);
    leaving.half_close();
    let left = leaving.finish();
    let account = target.terminate();
    let stayed = staying.finish();
    account.check_members(left.iter().chain(&stayed));
    assert_eq!(account.ended_by("left"), left.len(), "{}", account.summary());
    assert!(left.iter().all(|member| member.received.accepted.is_none()));
    assert!(stayed.iter().all(|member| member.received.accepted.is_some()));
}
