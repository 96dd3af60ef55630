//! Everything at once: clients of three nodes that talk by name and in a room, ask `/sync`, come, leave
//! and reset their connections, while the engine between them fails in every way. Each line between
//! clients that stay arrives once and in its sender's order, and the reports add up, all in all.
//!
//! `CLUSTER_ROUNDS=6 cargo test --features cluster --test cluster chaos` has each fault six times, and
//! the engine stand still for five seconds, and come back empty and from its file, too.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use a_chat::{ClusterReport, NodeLoss, NodeLossReason, Report};

use crate::common::rounds::env_number;
use crate::common::{Client, wait_until};
use crate::engine::Engine;
use crate::nodes::{check_up_to_doubt, config, login, node_with, options_at, stop_all_at_once};
use crate::proxy::{Harm, Proxy};

const NODES: usize = 3;

/// Clients that stay, two at each node, all of them in one room.
const STAYERS: usize = 6;

/// Clients that come and go, at any node.
const GUESTS: usize = 3;

/// What a stayer has said before its first numbered line: `/who`, `/join` and `/who #all`.
const BEFORE: u64 = 3;

/// Who does not enter within this time after the engine has forgotten is taken for dead; a busy machine
/// may need some of it.
const LEASE: Duration = Duration::from_secs(4);

/// No guest says more lines in a session.
const IN_SESSION: u64 = 16;

/// How many lines arrive at stayers, about, when each of them has said one.
const DUE_BY_LINE: u64 = 12;

/// Whom a stayer's line is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum To {
    Stayer(usize),
    Room,
    Guest(usize),
    Sync,
}

/// Its number alone says whom a line is for, so the closing notice says what must have arrived where.
fn to(me: usize, number: u64) -> To {
    let turn = usize::try_from(number).expect("small");
    match number % 8 {
        _ if number % 1009 == 1008 => To::Sync,
        0..=4 => To::Stayer((me + 1 + turn % (STAYERS - 1)) % STAYERS),
        5 | 6 => To::Room,
        _ => To::Guest(turn / 8 % GUESTS),
    }
}

fn line(me: usize, number: u64) -> String {
    match to(me, number) {
        To::Stayer(to) => format!("stayer{to}: {number}\n"),
        To::Room => format!("#all: {number}\n"),
        To::Guest(to) => format!("guest{to}: {number}\n"),
        To::Sync => "/sync\n".to_owned(),
    }
}

/// What a stayer has heard of each sender, and how many of its own lines its node has accepted.
struct Heard {
    numbers: HashMap<String, Vec<u64>>,
    accepted: u64,
    /// Its own lines that nobody got, since guests had come to the room meanwhile.
    refused: Vec<u64>,
}

fn listen(me: usize, mut client: Client, arrived: &AtomicU64) -> Heard {
    let (mut numbers, mut accepted) = (HashMap::<String, Vec<u64>>::new(), None::<u64>);
    let mut refused = Vec::new();
    while let Some(line) = client.line() {
        if let Some(message) = line.strip_prefix("from ") {
            let (from, number) = message.split_once(": ").expect("a message");
            let from = from.strip_suffix(" #all").unwrap_or(from);
            let number: u64 = number.parse().expect("a number");
            // A guest that goes without a word may be elsewhere before its last lines are read.
            let session = if from.starts_with("guest") { number / IN_SESSION } else { 0 };
            let of_it = numbers.entry(format!("{from} {session}")).or_default();
            let before = of_it.last().copied();
            let is_again = of_it.contains(&number);
            assert!(
                before < Some(number),
                "stayer{me}: {from} {number} after {before:?}, again: {is_again}"
            );
            of_it.push(number);
            arrived.fetch_add(u64::from(from.starts_with("stayer")), SeqCst);
        } else if let Some(rest) = line.strip_prefix("notice: server is shutting down, ") {
            accepted = rest.split_once(' ').and_then(|(count, _)| count.parse().ok());
        } else if let Some(line) = line.strip_suffix(": #all has grown, send it again") {
            let line = line.strip_prefix("error: line ").and_then(|it| it.parse::<u64>().ok());
            refused.push(line.expect("a line") - 1 - BEFORE);
        } else if line.contains("lost on the way to ") || line.contains("no such peer: ") {
            // Those of many sessions are told together, without names.
            let is_of_guests = line.contains("guest") || line.contains(" others");
            assert!(is_of_guests && !line.contains("stayer"), "{line}");
        } else {
            let answers = ["everything before it is delivered", "the server is shutting down"];
            assert!(answers.iter().any(|answer| line.contains(answer)), "{line}");
        }
    }
    Heard { numbers, accepted: accepted.expect("a closing notice") - BEFORE, refused }
}

/// Says a few lines in each of its sessions, at one node after the other; leaves, or is gone.
fn visit(me: usize, addresses: &[SocketAddr], is_over: &AtomicBool) {
    for visit in me.. {
        let mut number = visit as u64 * IN_SESSION;
        if is_over.load(SeqCst) {
            return;
        }
        let mut client = Client::connect(addresses[visit % NODES]);
        let mut buffer = [0; 4096];
        // A client that went elsewhere before its login was answered may find that answered later, and
        // its lines behind those that it has said there.
        let login = format!("guest{me}\n/who guest{me}\n");
        let has_name = client.stream.write_all(login.as_bytes()).is_ok()
            && client
                .stream
                .read(&mut buffer)
                .is_ok_and(|count| buffer[..count].starts_with(b"notice"));
        let mut text = if visit % 2 == 0 { "/join #all\n".to_owned() } else { String::new() };
        for to in (0..12).map(|at| (visit + at) % STAYERS).filter(|_| has_name) {
            number += 1;
            text.push_str(&match to {
                0 if visit % 2 == 0 => format!("#all: {number}\n"),
                _ => format!("stayer{to}: {number}\n"),
            });
        }
        let _ = client.stream.write_all(text.as_bytes());
        match visit % 3 {
            0 => client.reset(),
            1 => drop(client),
            _ => {
                // It may have been refused.
                let _ = client.stream.shutdown(Shutdown::Write);
                while client.stream.read(&mut buffer).is_ok_and(|count| count > 0) {}
            }
        }
    }
}

fn faults(engine: &mut Engine, proxy: &Proxy, is_long: bool, arrived: &AtomicU64) {
    let pause = |millis| thread::park_timeout(Duration::from_millis(millis));
    let lines_arrive = |what: &str| {
        let goal = arrived.load(SeqCst) + 500;
        wait_until(&format!("lines after {what}"), || arrived.load(SeqCst) > goal);
        println!("{what}: {} lines have arrived", arrived.load(SeqCst));
    };
    lines_arrive("the start");
    engine.say(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    lines_arrive("broken connections");
    for harm in [Harm::Delay, Harm::Swallow] {
        proxy.do_harm(harm);
        pause(200);
    }
    proxy.do_harm(Harm::None);
    // A reply that was swallowed would be waited for in vain.
    proxy.cut();
    lines_arrive("a proxy that delays, swallows and cuts");
    engine.say(&["CONFIG", "SET", "maxmemory", "1"]);
    pause(if is_long { 3000 } else { 300 });
    engine.say(&["CONFIG", "SET", "maxmemory", "0"]);
    lines_arrive("no memory");
    engine.freeze(Duration::from_millis(if is_long { 5000 } else { 500 }));
    lines_arrive("standing still");
    if is_long {
        engine.restart_empty();
        lines_arrive("a restart without anything");
        engine.restart();
        lines_arrive("a restart from its file");
    }
}

/// As far as the engine's failures let them: a delivery may be in doubt although it has arrived.
fn check(reports: &[Report]) {
    check_up_to_doubt(reports);
    for report in reports {
        let node = report.cluster.as_ref().expect("a node's report");
        // What was sent by a guest that has left is not sent again, and the engine may forget just
        // before the stop. What is lost was for guests: all that stay are asked below what they have got.
        let mut in_doubt = node.losses.iter().filter(|it| it.reason == NodeLossReason::InDoubt);
        let is_guests = |loss: &NodeLoss| loss.first_line.is_some_and(|line| line <= IN_SESSION);
        assert!(in_doubt.all(is_guests), "{report:#?}");
    }
    let sum = |of: fn(&ClusterReport) -> u64| -> u64 {
        reports.iter().filter_map(|report| report.cluster.as_ref().map(of)).sum()
    };
    let (handed_over, in_doubt) = (sum(|node| node.handed_over), sum(|node| node.in_doubt));
    println!("{handed_over} messages handed over, {in_doubt} in doubt");
}

#[test]
fn whatever_the_engine_does_lines_between_clients_that_stay_arrive_once_and_in_order() {
    let rounds = env_number("CLUSTER_ROUNDS");
    let file = ["--save", "", "--appendonly", "yes", "--appendfsync", "everysec"];
    let Some(mut engine) = Engine::with(&file) else { return };
    let proxy = Proxy::start(engine.socket());
    let nodes: Vec<_> = ["a", "b", "c"]
        .map(|name| node_with(options_at(&proxy.url(), name).lease(LEASE), config()))
        .into();
    let mut clients: Vec<_> =
        (0..STAYERS).map(|at| login(&nodes[at % NODES], &format!("stayer{at}"))).collect();
    for (at, client) in clients.iter_mut().enumerate() {
        client.send("/join #all");
        client.expect_line(&format!("notice: line 2: in #all, {} are", at + 1));
    }
    for client in &mut clients {
        // Then its node has heard of all of them.
        client.send("/who #all");
        let line = client.line().expect("an answer");
        assert!(line.starts_with("notice: line 3: 6 in #all: "), "{line}");
    }
    let began = Instant::now();
    let arrived = Arc::new(AtomicU64::new(0));
    let (is_over, has_stopped): (Arc<AtomicBool>, Arc<AtomicBool>) = Default::default();
    let writers: Vec<_> = clients
        .iter()
        .enumerate()
        .map(|(me, client)| {
            let mut socket = client.stream.try_clone().expect("a descriptor");
            let (arrived, has_stopped) = (Arc::clone(&arrived), Arc::clone(&has_stopped));
            thread::spawn(move || {
                for round in 0.. {
                    // No more than can be delivered soon: the stop waits for what is accepted.
                    while round * 40 > arrived.load(SeqCst) / DUE_BY_LINE + 2000 {
                        if has_stopped.load(SeqCst) {
                            return;
                        }
                        thread::park_timeout(Duration::from_millis(1));
                    }
                    let lines: String =
                        (round * 40..(round + 1) * 40).map(|it| line(me, it)).collect();
                    if socket.write_all(lines.as_bytes()).is_err() {
                        return;
                    }
                }
            })
        })
        .collect();
    let listeners: Vec<_> = clients
        .into_iter()
        .enumerate()
        .map(|(me, client)| {
            let arrived = Arc::clone(&arrived);
            thread::spawn(move || listen(me, client, &arrived))
        })
        .collect();
    let addresses: Vec<_> = nodes.iter().map(|node| node.address).collect();
    let guests: Vec<_> = (0..GUESTS)
        .map(|me| {
            let (addresses, is_over) = (addresses.clone(), Arc::clone(&is_over));
            thread::spawn(move || visit(me, &addresses, &is_over))
        })
        .collect();
    for _ in 0..rounds.unwrap_or(1) {
        faults(&mut engine, &proxy, rounds.is_some(), &arrived);
    }
    is_over.store(true, SeqCst);
    guests.into_iter().for_each(|guest| guest.join().expect("no panic"));
    wait_until("the guests to have left", || {
        nodes.iter().map(|node| node.stats().connected).sum::<u64>() == STAYERS as u64
    });
    let reports = stop_all_at_once(&engine, nodes);
    has_stopped.store(true, SeqCst);
    writers.into_iter().for_each(|writer| writer.join().expect("no panic"));
    let heard: Vec<_> = listeners.into_iter().map(|it| it.join().expect("no panic")).collect();
    check(&reports);
    let mut lines = 0;
    for me in 0..STAYERS {
        for (of, Heard { numbers, .. }) in heard.iter().enumerate().filter(|(of, _)| *of != me) {
            let is_for_it = |number: &u64| match to(me, *number) {
                To::Stayer(to) => to == of,
                to => to == To::Room && !heard[me].refused.contains(number),
            };
            let expected: Vec<u64> = (0..heard[me].accepted).filter(is_for_it).collect();
            let got = numbers.get(&format!("stayer{me} 0")).map_or(&[][..], Vec::as_slice);
            assert_eq!(got, expected, "stayer{me} to stayer{of} {reports:#?}");
            lines += got.len();
        }
    }
    println!("{lines} lines between those that stay, {:?}", began.elapsed());
}
