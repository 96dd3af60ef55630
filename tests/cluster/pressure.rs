//! Backpressure from end to end, and many clients at once: a recipient that does not read slows down its
//! senders, on every node, and no other client; the engine holds no more than is stated.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::rounds::env_number;
use crate::common::{Client, TEST_TIMEOUT, wait_until};
use crate::engine::Engine;
use crate::nodes::{
    check, check_clean, config, login, node_with, nodes, options, stop_all, stop_all_at_once,
};

/// The engine's own figure, in bytes.
fn used_memory(engine: &Engine) -> u64 {
    let info = engine.say(&["INFO", "memory"]);
    let line = info.lines().find_map(|line| line.strip_prefix("used_memory:"));
    line.and_then(|text| text.trim().parse().ok()).expect("the engine's memory")
}

#[test]
fn a_recipient_that_does_not_read_slows_its_senders_at_all_nodes_and_nobody_else() {
    const SENDERS: usize = 40;
    let Some(engine) = Engine::start() else { return };
    let config = config().stall_timeout(TEST_TIMEOUT * 10);
    let nodes: Vec<_> =
        ["a", "b", "c"].map(|name| node_with(options(&engine, name), config.clone())).into();
    let stuck = nodes[2].login_with_small_buffers("stuck");
    wait_until("the recipient", || nodes[2].stats().connected == 1);
    let idle = used_memory(&engine);
    let stop = Arc::new(AtomicBool::new(false));
    // Each sends far more than the recipient's share; together 40 windows of 256 KiB and more.
    let senders: Vec<_> = (0..SENDERS)
        .map(|at| {
            let client = login(&nodes[at % 2], &format!("sender{at}"));
            let (stop, mut socket) = (Arc::clone(&stop), client.stream.try_clone().expect("one"));
            let writer = thread::spawn(move || {
                let line = format!("stuck: {}\n", "x".repeat(1000));
                while !stop.load(SeqCst) && socket.write_all(line.as_bytes()).is_ok() {}
            });
            (client, writer)
        })
        .collect();
    let mut alice = login(&nodes[0], "alice");
    let mut bob = login(&nodes[2], "bob");
    // Until nothing is accepted any more: all its senders wait.
    let accepted = || nodes.iter().map(|node| node.stats().accepted).sum::<u64>();
    let (mut before, mut since) = (accepted(), Instant::now());
    while since.elapsed() < Duration::from_secs(1) {
        let now = accepted();
        if now != before {
            (before, since) = (now, Instant::now());
        }
        thread::park_timeout(Duration::from_millis(1));
    }
    let held = used_memory(&engine).saturating_sub(idle);
    assert!(held < 16 << 20, "the engine holds {held} bytes");
    // Others are as fast as ever.
    let mut slowest = Duration::ZERO;
    for number in 0..50 {
        let sent = Instant::now();
        alice.send(&format!("bob: {number}"));
        bob.expect_line(&format!("from alice: {number}"));
        slowest = slowest.max(sent.elapsed());
    }
    assert!(slowest < Duration::from_secs(15), "{slowest:?}");
    // It reads again, and everything goes on.
    let stats = nodes[2].stats_handle();
    let mut stuck = stuck;
    let reader = thread::spawn(move || stuck.lines_to_eof().len() as u64);
    let goal = stats.read().delivered + 2_000;
    wait_until("lines to arrive again", || stats.read().delivered > goal);
    stop.store(true, SeqCst);
    let reports = {
        drop((alice, bob));
        stop_all_at_once(&engine, nodes)
    };
    for (client, writer) in senders {
        drop(client);
        writer.join().expect("no panic");
    }
    check_clean(&reports);
    assert!(reader.join().expect("no panic") > 2_000);
}

#[test]
fn a_storm_of_claims_for_one_name_has_one_winner() {
    let Some(engine) = Engine::start() else { return };
    let nodes = nodes(&engine, 3);
    for round in 0..5 {
        let name = format!("name{round}");
        let clients: Vec<_> = (0..30).map(|at| Client::connect(nodes[at % 3].address)).collect();
        let asked = clients.into_iter().map(|mut client| {
            client.send_bytes(format!("{name}\n/who {name}\n").as_bytes());
            client
        });
        let answers: Vec<_> = asked
            .collect::<Vec<_>>()
            .into_iter()
            .map(|mut client| (client.line().expect("an answer"), client))
            .collect();
        let winners = answers.iter().filter(|(line, _)| line.ends_with(&format!("here: {name}")));
        assert_eq!(winners.count(), 1);
        let losers = answers.iter().filter(|(line, _)| line == "error: name taken");
        assert_eq!(losers.count(), 29);
    }
    check_clean(&stop_all(nodes));
}

#[test]
fn many_clients_that_come_at_once_all_get_in_and_reach_each_other() {
    let count = usize::try_from(env_number("CLUSTER_CLIENTS").unwrap_or(200)).expect("small");
    let Some(engine) = Engine::start() else { return };
    let _ = a_chat::raise_nofile_limit();
    // All of them are connected before the first one says its name.
    let nodes: Vec<_> = ["a", "b", "c"]
        .map(|name| {
            let config = config().max_logins(count).login_timeout(TEST_TIMEOUT);
            node_with(options(&engine, name).lease(TEST_TIMEOUT), config)
        })
        .into();
    let began = Instant::now();
    let mut clients: Vec<_> =
        (0..3 * count).map(|at| Client::connect(nodes[at % 3].address)).collect();
    for (at, client) in clients.iter_mut().enumerate() {
        client.send_bytes(format!("c{at}\n/who c{at}\n").as_bytes());
    }
    for (at, client) in clients.iter_mut().enumerate() {
        client.expect_line(&format!("notice: line 1: here: c{at}"));
    }
    println!("{} clients are in after {:?}", clients.len(), began.elapsed());
    for (at, client) in clients.iter_mut().enumerate() {
        client.send(&format!("c{}: hello", (at + 1) % (3 * count)));
    }
    for (at, client) in clients.iter_mut().enumerate() {
        client.expect_line(&format!("from c{}: hello", (at + 3 * count - 1) % (3 * count)));
    }
    println!("and each has had a line from another node after {:?}", began.elapsed());
    drop(clients);
    let reports = stop_all(nodes);
    check(&reports);
}
