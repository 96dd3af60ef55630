//! Rooms: what they make the server hold, and what a flood of lines to a large one costs others.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::common::{Client, try_login, wait_until};
use crate::innocents::{Innocents, MEDIAN};
use crate::memory::{KIB, MAX_LINE, MIB, Terms, WINDOW};
use crate::target::{Target, alone, beside_others, by_form, figure, for_each};

/// How many rooms a client may be in.
const MAX_ROOMS: usize = 64;

/// What a membership is charged to its client's window, in bytes.
const MEMBERSHIP_CHARGE: u64 = 512;

/// How long members flood their rooms.
const FLOOD: Duration = Duration::from_secs(2);

/// Clients that have entered the rooms that `rooms` gives for each.
fn members(server: SocketAddr, count: usize, rooms: impl Fn(usize) -> Vec<String>) -> Vec<Client> {
    let member = |number| {
        let mut client = try_login(server, &format!("m{number}")).expect("room");
        let rooms = rooms(number);
        let lines = rooms.iter().map(|room| format!("/join {room}\n"));
        client.send_bytes(lines.collect::<String>().as_bytes());
        for _ in rooms {
            let reply = client.line().expect("a reply");
            assert!(reply.ends_with(" are"), "{reply}");
        }
        client
    };
    (0..count).map(member).collect()
}

#[test]
fn a_client_alone_in_its_rooms_takes_no_more_than_it_is_charged() {
    let _machine = beside_others();
    for_each(by_form(&[100_usize], &[300, 1700]), |clients| {
        let target = Target::start(&[]);
        let idle = members(target.address, clients, |_| Vec::new());
        let before = target.resident();
        drop(idle);
        let mut probe = try_login(target.address, "probe").expect("room");
        wait_until("their names to be free", || {
            probe.send("/who");
            probe.line().is_some_and(|line| line.ends_with(": 1 here: probe"))
        });
        // The memory of those that left is given back, or used for the next.
        let own = |number| (0..MAX_ROOMS).map(|room| format!("#m{number}-{room}")).collect();
        let members = members(target.address, clients, own);
        let each = target.resident().saturating_sub(before) / (clients * MAX_ROOMS) as u64;
        figure(&format!("{clients} clients alone in {MAX_ROOMS} rooms each: {each} B a room"));
        // Stacks grow with the first lines of a client, too.
        let stacks = 16 * KIB / MAX_ROOMS as u64;
        drop(members);
        drop(target.terminate());
        assert!(each <= MEMBERSHIP_CHARGE + stacks, "{each} B a room");
    });
}

/// Lines in turn to two rooms are a step each, with an entry in every member's queue.
#[test]
fn members_that_flood_two_rooms_in_turn_and_read_nothing_stay_within_the_memory_bound() {
    let _machine = beside_others();
    for_each(by_form(&[60_usize], &[300, 1700]), |clients| {
        let target = Target::start(&["--drain-timeout", "1s"]);
        let rooms = |_| vec!["#a".to_owned(), "#b".to_owned()];
        let members = members(target.address, clients, rooms);
        let watch = target.watch_memory();
        let (lines, deadline) = (b"#a: x\n#b: x\n".repeat(5000), Instant::now() + FLOOD);
        for member in &members {
            member.stream.set_nonblocking(true).expect("an option");
        }
        while Instant::now() < deadline {
            // What is cut off in the middle of a line is refused, or begins another.
            for member in &members {
                let _ = (&member.stream).write(&lines);
            }
            thread::sleep(Duration::from_millis(1));
        }
        let peak = watch.end();
        drop(members);
        drop(target.terminate());
        let bound = Terms::all(WINDOW, MAX_LINE).bound(clients as u64);
        figure(&format!("{clients} in two rooms: {} MiB; bound {} MiB", peak / MIB, bound / MIB));
        assert!(peak <= bound, "{} MiB, bound {} MiB", peak / MIB, bound / MIB);
    });
}

#[test]
fn innocent_clients_are_served_beside_a_flood_of_lines_to_a_large_room() {
    let _machine = alone();
    for_each(by_form(&[200_usize], &[1000, 5000]), |count| {
        let target = Target::start(&["--drain-timeout", "20s"]);
        let members = members(target.address, count, |_| vec!["#all".to_owned()]);
        let innocents = Innocents::start(target.address);
        wait_until("messages", || innocents.arrived() >= 20);
        let (over, unread) = (AtomicBool::new(false), AtomicBool::new(false));
        let (median, p99, lines) = thread::scope(|scope| {
            let reads = scope.spawn(|| read_all(&members, &unread));
            let writes = scope.spawn(|| {
                let (mut stream, mut lines) = (&members[0].stream, 0_u64);
                while !over.load(SeqCst) && stream.write_all(b"#all: x\n#none: x\n").is_ok() {
                    lines += 1;
                }
                lines
            });
            thread::sleep(Duration::from_millis(by_form(300, 3000)));
            innocents.restart_latencies();
            let so_far = innocents.arrived();
            wait_until("messages beside a flood", || {
                innocents.arrived() >= so_far + by_form(40, 1000)
            });
            let (median, p99) = innocents.latencies();
            over.store(true, SeqCst);
            // Until its last write is done they read on.
            let lines = writes.join().expect("no panic");
            unread.store(true, SeqCst);
            reads.join().expect("no panic");
            (median, p99, lines)
        });
        figure(&format!("| room of {count} | {lines} lines | {median:.1?} | {p99:.1?} |"));
        innocents.hush();
        drop(members);
        let account = target.terminate();
        innocents.expect_no_loss(&account);
        assert!(median < MEDIAN, "{count} members: {median:?}");
    });
}

/// Reads whatever arrives at any of these.
fn read_all(members: &[Client], over: &AtomicBool) {
    let mut buffer = vec![0; 64 * 1024];
    let mut sockets: Vec<_> =
        members.iter().map(|member| PollFd::new(&member.stream, PollFlags::IN)).collect();
    let tick = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
    while !over.load(SeqCst) {
        let _ = poll(&mut sockets, Some(&tick));
        for (member, socket) in members.iter().zip(&sockets) {
            if socket.revents().contains(PollFlags::IN) {
                let _ = (&member.stream).read(&mut buffer);
            }
        }
    }
}
