//! Losses and receipts as a weapon: recipients that die by the thousand at once, notices of losses and
//! of comings and goings that nobody reads, and a `/sync` with every line. The memory bound holds, and
//! each lost delivery is told, or its sender had left, or nobody was told since the server shut down.

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::common::{Client, send_until_blocked, try_login, unacknowledged, wait_until};
use crate::crowd::{Buffer, Plan, Reading, Sending};
use crate::innocents::{Innocents, MEDIAN};
use crate::memory::{KIB, MAX_LINE, MIB, Terms, WINDOW};
use crate::target::{Target, alone, beside_others, by_form, figure, for_each};

/// How long clients flood.
const FLOOD: Duration = Duration::from_secs(2);

/// A server that writes its report as JSON, and the folder for that.
fn start(flags: &[&str]) -> (Target, TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    let report = folder.path().join("report");
    let flags = [&["--report", report.to_str().expect("UTF-8")], flags].concat();
    (Target::start(&flags), folder)
}

/// How many lost deliveries were told, how many senders had left, and of how many nobody was told;
/// these are all that were lost.
fn law(folder: &TempDir) -> [u64; 3] {
    let text = fs::read_to_string(folder.path().join("report")).expect("a report");
    let report: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let number = |key: &str| report[key].as_u64().unwrap_or_else(|| panic!("{key} in {text}"));
    let by_sender = ["lost_told", "lost_sender_gone", "lost_untold"].map(number);
    assert_eq!(number("owed") - number("delivered"), by_sender.iter().sum::<u64>(), "{text}");
    by_sender
}

/// Clients that read nothing and whose kernels hold next to nothing.
fn stuck(server: SocketAddr, count: usize, name: impl Fn(usize) -> String) -> Vec<Client> {
    let connect = |number| {
        let plan = Plan::new(name(number), Sending::Nothing, Reading::Nothing);
        let stream = plan.with_buffer(Buffer::Bytes(4096)).connect(server).expect("room");
        let mut client = Client::from_stream(stream);
        client.send(&format!("{}\n/who {}", name(number), name(number)));
        client.expect_line(&format!("notice: line 1: here: {}", name(number)));
        client
    };
    (0..count).map(connect).collect()
}

/// Asks for a receipt, and reads until it comes. Returns how many lines told of losses.
fn told_until_synced(client: &mut Client) -> u64 {
    client.send("/sync 60");
    told_until_reply(client)
}

fn told_until_reply(client: &mut Client) -> u64 {
    let mut told = 0;
    loop {
        let line = client.line().expect("a reply");
        told += u64::from(line.contains(" lost on the way to "));
        if line.contains(": everything before it is ") {
            return told;
        }
    }
}

/// Lines in turn to two lists, whose owners reset at once: every line ends a run, so what each of them
/// has lost has as many gaps as lines.
#[test]
fn recipients_of_two_lists_that_die_at_once_cost_their_sender_a_line_each_at_most() {
    let _machine = beside_others();
    for_each(by_form(&[50_usize], &[300, 1024]), |each| {
        let (target, folder) = start(&["--drain-timeout", "20s", "--window", "4MiB"]);
        let owners = stuck(target.address, 2 * each, |number| format!("r{number}"));
        let list = |from: usize| {
            let names = (from..from + each).map(|number| format!("r{number}"));
            names.collect::<Vec<_>>().join(",")
        };
        let (first, second) = (list(0), list(each));
        let mut alice = stuck(target.address, 1, |_| "alice".to_owned()).pop().expect("one");
        let before = target.resident();
        let watch = target.watch_memory();
        // Until her window and every buffer on the way are full.
        let lines = format!("{first}: x\n{second}: y\n").repeat(64);
        let sent = send_until_blocked(&alice.stream, lines.as_bytes());
        let died = Instant::now();
        owners.into_iter().for_each(Client::reset);
        // What was cut off in the middle of a line ends here, whatever it comes to. What still waited
        // to be sent has refusals for replies, so she reads meanwhile.
        let mut stream = alice.stream.try_clone().expect("a descriptor");
        let sender = thread::spawn(move || stream.write_all(b"\n/sync 60\n"));
        let lines = told_until_reply(&mut alice);
        let took = died.elapsed();
        sender.join().expect("no panic").expect("a server that reads");
        let peak = watch.end();
        drop(alice);
        let account = target.terminate();
        let [told, gone, untold] = law(&folder);
        figure(&format!(
            "two lists of {each} die after {} KiB: {told} told in {lines} lines, {took:.1?}, \
             {} KiB more; {}",
            sent / KIB,
            peak.saturating_sub(before) / KIB,
            account.summary()
        ));
        assert!(told > 2 * each as u64 && lines <= 2 * each as u64, "{told} in {lines} lines");
        assert_eq!((gone, untold), (0, 0), "she was there");
        // Her own window and buffers, and what each owner has in flight.
        let bound = Terms::all(4 * MIB, MAX_LINE).bound(2) + 2 * each as u64 * 64 * KIB;
        assert!(peak <= before + bound, "{} KiB of {} KiB", (peak - before) / KIB, bound / KIB);
    });
}

/// A switch dies, and half of a large room with it.
#[test]
fn half_a_room_that_dies_at_once_costs_its_members_a_notice_and_innocents_little() {
    let _machine = alone();
    for_each(by_form(&[200_usize], &[1000, 5000]), |count| {
        // Nobody has to leave before the switch dies.
        let (target, folder) = start(&["--drain-timeout", "20s", "--stall-timeout", "10min"]);
        let join = |client: &mut Client| {
            client.send("/join #all loud");
            while !client.line().expect("a reply").ends_with(" are") {}
        };
        // Those that die read nothing, so that there is something to lose.
        let mut dying = stuck(target.address, count / 2, |number| format!("d{number}"));
        let mut senders = stuck(target.address, 10, |number| format!("s{number}"));
        dying.iter_mut().chain(&mut senders).for_each(join);
        let innocents = Innocents::start(target.address);
        wait_until("messages", || innocents.arrived() >= 20);
        let watch = target.watch_memory();
        for sender in &mut senders {
            for line in 0..20 {
                sender.send(&format!("#all: {line} {}", "x".repeat(500)));
            }
        }
        for sender in &senders {
            wait_until("lines", || unacknowledged(&sender.stream) == 0);
        }
        innocents.restart_latencies();
        let so_far = innocents.arrived();
        dying.into_iter().for_each(Client::reset);
        wait_until("messages beside it", || innocents.arrived() >= so_far + by_form(40, 400));
        let (median, p99) = innocents.latencies();
        let peak = watch.end();
        // They read now, all at once since they wait for each other: messages, one notice of joins and
        // leaves, and of the losses at most a line for each that died.
        let lines: Vec<_> = thread::scope(|scope| {
            let reads = senders.iter_mut().map(|sender| scope.spawn(|| told_until_synced(sender)));
            let reads: Vec<_> = reads.collect();
            reads.into_iter().map(|read| read.join().expect("no panic")).collect()
        });
        let lines = lines.into_iter().max().expect("some");
        innocents.hush();
        drop(senders);
        let account = target.terminate();
        innocents.expect_no_loss(&account);
        let [told, gone, untold] = law(&folder);
        figure(&format!(
            "| {} of {count} die | {told} told, at most {lines} lines each, {gone} gone, {untold} untold \
             | {median:.1?} | {p99:.1?} | {} MiB |",
            count / 2,
            peak / MIB
        ));
        assert!(told > 0, "nothing was lost: {}", account.summary());
        assert!(lines <= count as u64 / 2, "{lines} lines");
        let bound = Terms::all(WINDOW, MAX_LINE).bound(count as u64 + 12);
        assert!(peak <= bound, "{} MiB, bound {} MiB", peak / MIB, bound / MIB);
        assert!(median < MEDIAN, "{count} members: {median:?}");
    });
}

/// Strangers connect, join and vanish in a loop, and every member is loud and reads nothing.
#[test]
fn a_storm_of_strangers_in_a_loud_room_takes_no_memory() {
    let _machine = beside_others();
    for_each(by_form(&[50_usize], &[300, 1700]), |count| {
        let (target, _folder) = start(&["--drain-timeout", "1s"]);
        let rooms: Vec<_> = (0..by_form(4, 64)).map(|room| format!("/join #r{room}\n")).collect();
        let loud = rooms.concat().replace('\n', " loud\n");
        let quiet = rooms.concat();
        let mut members = stuck(target.address, count, |number| format!("m{number}"));
        for member in &mut members {
            member.send_bytes(loud.as_bytes());
        }
        let mut strangers = 0_u64;
        let storm = |strangers: &mut u64| {
            let until = Instant::now() + by_form(FLOOD / 2, 5 * FLOOD);
            while Instant::now() < until {
                let name = format!("stranger-{strangers}");
                let mut stranger = Client::connect(target.address);
                stranger.send_bytes(format!("{name}\n{quiet}/who {name}\n").as_bytes());
                let here = format!("here: {name}");
                while !stranger.line().expect("a reply").ends_with(&here) {}
                *strangers += 1;
            }
        };
        storm(&mut strangers);
        let before = target.resident();
        storm(&mut strangers);
        let after = target.resident();
        figure(&format!(
            "{strangers} strangers in {} rooms of {count} loud members: {} KiB more in the second \
             half",
            rooms.len(),
            after.saturating_sub(before) / KIB
        ));
        drop(members);
        drop(target.terminate());
        // A notice is open for each membership, however much it sums up.
        let bound = by_form(4, 16) * MIB;
        assert!(after <= before + bound, "{} KiB", (after - before) / KIB);
    });
}

/// A `/sync` behind every line to a room whose members read nothing.
#[test]
fn a_sync_behind_every_line_stays_within_the_memory_bound() {
    let _machine = beside_others();
    for_each(by_form(&[60_usize], &[300, 1700]), |count| {
        let (target, folder) = start(&["--drain-timeout", "1s"]);
        let mut members = stuck(target.address, count, |number| format!("m{number}"));
        for member in &mut members {
            member.send("/join #a\n/join #b");
        }
        let watch = target.watch_memory();
        let line = |line| format!("#a: x\nm{}: y\n/sync 1\n#b: x\n", line % count);
        let lines = (0..2000).map(line).collect::<Vec<_>>().concat();
        let deadline = Instant::now() + by_form(FLOOD, 5 * FLOOD);
        for member in &members {
            member.stream.set_nonblocking(true).expect("an option");
        }
        while Instant::now() < deadline {
            for member in &members {
                let _ = (&member.stream).write(lines.as_bytes());
            }
            thread::sleep(Duration::from_millis(1));
        }
        let peak = watch.end();
        drop(members);
        let account = target.terminate();
        let by_sender = law(&folder);
        let bound = Terms::all(WINDOW, MAX_LINE).bound(count as u64);
        figure(&format!(
            "{count} clients that sync behind every line: {} MiB; bound {} MiB; told, gone, untold: \
             {by_sender:?}; {}",
            peak / MIB,
            bound / MIB,
            account.summary()
        ));
        assert!(peak <= bound, "{} MiB, bound {} MiB", peak / MIB, bound / MIB);
    });
}

/// The signal comes while everyone waits in a `/sync`, with tens of thousands of them behind.
#[test]
fn a_shutdown_amid_tens_of_thousands_of_syncs_ends_in_time() {
    let _machine = beside_others();
    for_each(by_form(&[20_usize], &[300]), |count| {
        let (target, folder) = start(&["--drain-timeout", "5s", "--stall-timeout", "10min"]);
        let stuck = stuck(target.address, 1, |_| "stuck".to_owned());
        let mut clients: Vec<_> = (0..count)
            .map(|number| try_login(target.address, &format!("c{number}")).expect("room"))
            .collect();
        let line = format!("stuck: {}\n", "x".repeat(1000));
        let syncs = b"/sync 3600\n".repeat(by_form(4_000, 40_000));
        for client in &mut clients {
            client.send_bytes(line.repeat(150).as_bytes());
            client.stream.set_nonblocking(true).expect("an option");
            let _ = client.stream.write(&syncs);
            client.stream.set_nonblocking(false).expect("an option");
        }
        target.process.signal(Signal::TERM);
        for client in &mut clients {
            let told = client.lines_to_eof();
            let notice = told.last().expect("a notice");
            assert!(notice.starts_with("notice: server is shutting down, "), "{notice}");
        }
        let account = target.wait();
        let [_, gone, untold] = law(&folder);
        figure(&format!(
            "{count} clients in a /sync at the signal: {:.1?}, {gone} gone, {untold} untold; {}",
            account.took,
            account.summary()
        ));
        assert!(account.took < Duration::from_secs(by_form(15, 30)), "{:?}", account.took);
        drop((stuck, clients));
    });
}
