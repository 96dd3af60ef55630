//! Rooms: a line to a room reaches each other member once, whoever comes and goes, and every copy of
//! it is a delivery like any other.
//!
//! Each case is a short session over real sockets, and ends with `stop_with`, which checks that no
//! client received more lines than the case has read.

mod common;

use common::{Client, TestServer};

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
