//! Rooms: a line to a room reaches each other member once, whoever comes and goes, and every copy of
//! it is a delivery like any other.
//!
//! Each case is a short session over real sockets, and ends with `stop_with`, which checks that no
//! client received more lines than the case has read.

mod common;

use std::io::Write;
use std::thread;
use std::time::Duration;

use a_chat::Config;
use common::{Client, TestServer, wait_until};

/// Enters a room, as the client's line of this number.
fn join(client: &mut Client, line: u64, room: &str, members: usize) {
    client.send(&format!("/join {room}"));
    let room = room.split(' ').next().expect("a room");
    client.expect_line(&format!("notice: line {line}: in {room}, {members} are"));
}

#[test]
fn a_line_to_a_room_reaches_all_other_members() {
    let server = TestServer::start();
    let [mut alice, mut bob, mut carol, dave] =
        ["alice", "bob", "carol", "dave"].map(|name| server.login(name));
    for (members, client) in (1..).zip([&mut alice, &mut bob, &mut carol]) {
        join(client, 1, "#dev", members);
    }
    alice.send("#dev: hello: all");
    bob.expect_line("from alice #dev: hello: all");
    carol.expect_line("from alice #dev: hello: all");
    alice.send("/who #dev");
    alice.expect_line("notice: line 3: 3 in #dev: alice, bob, carol");
    bob.send("/leave #dev");
    bob.expect_line("notice: line 2: left #dev");
    alice.send("#dev: bye");
    carol.expect_line("from alice #dev: bye");
    let report = server.stop_with([(alice, 4), (bob, 2), (carol, 1), (dave, 0)]);
    assert_eq!((report.owed, report.delivered), (3, 3), "{report}");
}

#[test]
fn a_join_and_a_line_to_the_room_work_in_one_write() {
    let server = TestServer::start();
    let (mut alice, mut bob) = (server.login("alice"), server.login("bob"));
    join(&mut bob, 1, "#dev", 1);
    alice.send_bytes(b"bob: before\n/join #dev\n#dev: 1\n#dev: 2\n/leave #dev\n#dev: 3\n");
    bob.expect_lines(&["from alice: before", "from alice #dev: 1", "from alice #dev: 2"]);
    alice.expect_lines(&[
        "notice: line 2: in #dev, 2 are",
        "notice: line 5: left #dev",
        "error: line 6: not in #dev",
    ]);
    server.stop_with([(alice, 6), (bob, 1)]);
}

#[test]
fn lines_to_rooms_that_nobody_gets_are_refused() {
    let server = TestServer::start();
    let mut alice = server.login("alice");
    for (number, line, refusal) in [
        (1, "#dev: x", "not in #dev"),
        (2, "/leave #dev", "not in #dev"),
        (3, "#dev, bob: x", "a room stands alone in its list"),
        (4, "bob, #dev: x", "a room stands alone in its list"),
        (5, "/join dev", "bad room, expected # and 1 to 31 of A-Z a-z 0-9 _ . -"),
        (6, "#: x", "bad room, expected # and 1 to 31 of A-Z a-z 0-9 _ . -"),
    ] {
        alice.send(line);
        alice.expect_line(&format!("error: line {number}: {refusal}"));
    }
    alice.send("/who #dev");
    alice.expect_line("notice: line 7: 0 in #dev");
    join(&mut alice, 8, "#dev", 1);
    alice.send_bytes(b"#dev: 1\n#dev: 2\n");
    alice.expect_line("error: line 9: nobody else is in #dev");
    alice.expect_line("error: line 10: nobody else is in #dev");
    for number in 11..=73 {
        join(&mut alice, number, &format!("#{number}"), 1);
    }
    alice.send("/join #more");
    alice.expect_line("error: line 74: in 64 rooms already");
    join(&mut alice, 75, "#11", 1);
    server.stop_with([(alice, 75)]);
}

#[test]
fn loud_members_are_told_who_comes_and_goes() {
    let server = TestServer::start();
    let [mut alice, mut bob, mut carol] = ["alice", "bob", "carol"].map(|name| server.login(name));
    join(&mut alice, 1, "#dev loud", 1);
    join(&mut bob, 1, "#dev", 2);
    alice.expect_line("notice: #dev: bob joined");
    join(&mut carol, 1, "#dev", 3);
    alice.expect_line("notice: #dev: carol joined");
    bob.send("/leave #dev");
    bob.expect_line("notice: line 2: left #dev");
    alice.expect_line("notice: #dev: bob left");
    drop(carol);
    alice.expect_line("notice: #dev: carol left");
    alice.send("/join #dev quiet");
    alice.expect_line("notice: line 2: in #dev, 1 are");
    join(&mut bob, 3, "#dev", 2);
    server.stop_with([(alice, 2), (bob, 3)]);
}

#[test]
fn a_storm_of_joins_and_leaves_is_one_notice_for_a_member_that_does_not_read() {
    const STORM: u64 = 500;
    let server = TestServer::with(Config::default().stall_timeout(Duration::from_secs(300)));
    let mut alice = server.login_with_small_buffers("alice");
    let (bob, mut carol) = (server.login("bob"), server.login("carol"));
    join(&mut alice, 1, "#dev loud", 1);
    let line = format!("alice: {}\n", "x".repeat(500));
    let sent = server.fill_window(&bob, &line);
    for round in 0..STORM {
        join(&mut carol, 2 * round + 1, "#dev", 2);
        carol.send("/leave #dev");
        carol.expect_line(&format!("notice: line {}: left #dev", 2 * round + 2));
    }
    let last = loop {
        let line = alice.line().expect("an open connection");
        if !line.starts_with("from bob: ") {
            break line;
        }
    };
    // How many of the storm were before it was written depends on nothing but its length.
    let (others, left) = (STORM - 1, STORM);
    assert_eq!(last, format!("notice: #dev: carol joined, {others} others came, {left} left"));
    assert!(sent > 256 * 1024, "{sent} bytes filled no window");
    server.handle.force();
}

#[test]
fn a_member_that_does_not_read_is_put_out_of_the_room() {
    const LENGTH: usize = 500;
    const COUNT: usize = 8000;
    // It would not be evicted for hours.
    let config = Config::default()
        .stall_timeout(Duration::from_millis(500))
        .stall_bytes(1)
        .linger(Duration::from_millis(100));
    let server = TestServer::with(config);
    let mut stuck = server.login_with_small_buffers("stuck");
    let [mut alice, mut bob, mut carol] = ["alice", "bob", "carol"].map(|name| server.login(name));
    for (members, client) in (1..).zip([&mut stuck, &mut alice, &mut bob]) {
        join(client, 1, "#dev", members);
    }
    let text = "x".repeat(LENGTH);
    let expected = format!("from alice #dev: {text}");
    let received = thread::scope(|scope| {
        let line = format!("#dev: {text}\n");
        scope.spawn(move || {
            let mut stream = &alice.stream;
            stream.write_all(line.repeat(COUNT).as_bytes()).expect("a server that goes on");
        });
        scope.spawn(|| (0..COUNT).for_each(|_| bob.expect_line(&expected)));
        let mut line = 0;
        wait_until("the slow member to be put out", || {
            line += 1;
            carol.send("/who #dev");
            let reply = carol.line().expect("a reply");
            reply == format!("notice: line {line}: 2 in #dev: alice, bob")
        });
        // What is queued for it by then is still due.
        let mut received = 0;
        loop {
            let line = stuck.line().expect("an open connection");
            if line != expected {
                assert_eq!(line, "notice: #dev: you are out of it, too slow");
                break received;
            }
            received += 1;
        }
    });
    assert!(received > 0 && received < COUNT, "{received} of {COUNT}");
    stuck.send("#dev: am I in?");
    stuck.expect_line("error: line 2: not in #dev");
    join(&mut stuck, 3, "#dev", 3);
    let report = server.stop();
    assert_eq!((report.owed, report.lost()), ((COUNT + received) as u64, 0), "{report}");
}

#[test]
fn whoever_comes_and_goes_every_copy_is_a_delivery_and_in_order() {
    const CLIENTS: usize = 8;
    const LINES: usize = 3000;
    let server = TestServer::start();
    let mut clients: Vec<_> =
        (0..CLIENTS).map(|number| server.login(&format!("c{number}"))).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        // However the threads are scheduled, somebody is in each room from the first line on.
        join(client, 1, &format!("#{}", number % 3), number / 3 + 1);
    }
    let received = thread::scope(|scope| {
        let threads = clients.into_iter().enumerate().map(|(number, mut client)| {
            scope.spawn(move || {
                let reader = client.stream.try_clone().expect("a descriptor");
                let reader = thread::spawn(move || Client::from_stream(reader).lines_to_eof());
                let line = |step| {
                    let room = (step / 7 + number) % 3;
                    match (step * 31 + number * 17) % 11 {
                        0 | 1 => format!("/join #{room} loud\n"),
                        2 => format!("/leave #{room}\n"),
                        _ => format!("#{room}: {step}\n"),
                    }
                };
                let lines: Vec<_> = (0..LINES).map(line).collect();
                client.send_bytes(lines.concat().as_bytes());
                client.half_close();
                reader.join().expect("no panic")
            })
        });
        let threads: Vec<_> = threads.collect();
        let lines = threads.into_iter().map(|thread| thread.join().expect("no panic"));
        lines.collect::<Vec<_>>()
    });
    let report = server.stop();
    let mut messages = 0;
    for lines in &received {
        let mut last = [[None; 3]; CLIENTS];
        for line in lines {
            let Some(line) = line.strip_prefix("from c") else { continue };
            let (sender, rest) = line.split_once(" #").expect("a room");
            let (room, step) = rest.split_once(": ").expect("a text");
            let number = |text: &str| text.parse::<usize>().expect("a number");
            let last = &mut last[number(sender)][number(room)];
            assert!(*last < Some(number(step)), "{line:?} after {last:?}");
            *last = Some(number(step));
            messages += 1;
        }
    }
    assert!(messages > 0, "nobody received anything");
    assert_eq!((report.accepted, report.lost()), ((CLIENTS * (LINES + 1)) as u64, 0), "{report}");
    assert_eq!((report.owed, report.delivered), (messages, messages), "{report}");
}

#[test]
fn a_line_reaches_a_large_room_and_its_members_wait_for_no_other() {
    const MEMBERS: usize = 600;
    let server = TestServer::start();
    let mut members: Vec<_> =
        (0..MEMBERS).map(|number| server.login(&format!("c{number}"))).collect();
    for (count, member) in (1..).zip(&mut members) {
        join(member, 1, "#all", count);
    }
    // Each wave takes several rounds of wake-ups; a line between two members waits for none.
    for wave in 0..20 {
        members[0].send(&format!("#all: {wave}\nc1: {wave}"));
    }
    for member in &mut members[2..] {
        (0..20).for_each(|wave| member.expect_line(&format!("from c0 #all: {wave}")));
    }
    for wave in 0..20 {
        let lines = [format!("from c0 #all: {wave}"), format!("from c0: {wave}")];
        members[1].expect_lines(&lines.each_ref().map(String::as_str));
    }
    let others = members.drain(1..).map(|member| (member, 1)).collect::<Vec<_>>();
    let first = members.pop().expect("the first");
    let report = server.stop_with([(first, 41)].into_iter().chain(others));
    assert_eq!((report.owed, report.lost()), (20 * MEMBERS as u64, 0), "{report}");
}
