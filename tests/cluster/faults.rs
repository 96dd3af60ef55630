//! Faults between nodes and the engine: broken connections, an engine that forgets, freezes or is away, a
//! node that hears nothing. The load goes on meanwhile, and every message is accounted for.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use crate::common::rounds::env_number;
use crate::common::{Client, TEST_TIMEOUT, TestServer, wait_until};
use crate::engine::Engine;
use crate::nodes::{
    SHORT_LEASE, check_clean, config, login, login_soon, node_with, nodes, options, options_at,
    stop_all,
};
use crate::proxy::{Harm, Proxy};

/// Sends numbered lines from a client of one node to a client of another, while `fault` happens; the
/// lines must all arrive, once and in order. `CLUSTER_ROUNDS` says how often, instead of `rounds`.
fn lines_survive(engine: &mut Engine, rounds: usize, mut fault: impl FnMut(&mut Engine)) {
    let nodes = nodes(engine, 2);
    lines_survive_at(nodes, rounds, || fault(engine));
}

/// The same behind a proxy.
fn lines_survive_harm(rounds: usize, fault: impl Fn(&Proxy)) {
    let Some(engine) = Engine::start() else { return };
    let proxy = Proxy::start(engine.socket());
    let nodes = ["a", "b"].map(|name| node_with(options_at(&proxy.url(), name), config()));
    lines_survive_at(nodes.into(), rounds, || fault(&proxy));
}

fn lines_survive_at(nodes: Vec<TestServer>, rounds: usize, mut fault: impl FnMut()) {
    let alice = login(&nodes[0], "alice");
    let mut bob = login(&nodes[1], "bob");
    let stop = Arc::new(AtomicBool::new(false));
    let (mut socket, stopped) = (alice.stream.try_clone().expect("one more"), Arc::clone(&stop));
    let received = Arc::new(AtomicU64::new(0));
    let [seen, arrived] = [(); 2].map(|()| Arc::clone(&received));
    let sender = thread::spawn(move || {
        let mut number = 0_u64;
        while !stopped.load(SeqCst) {
            // No more than can be delivered soon: the test waits for all of it at the end.
            if number > seen.load(SeqCst) + 10_000 {
                thread::park_timeout(Duration::from_millis(1));
                continue;
            }
            let lines: String = (0..50).map(|at| format!("bob: {}\n", number + at)).collect();
            socket.write_all(lines.as_bytes()).expect("a server that reads");
            number += 50;
        }
        number
    });
    let reader = thread::spawn(move || {
        let mut next = 0_u64;
        while let Some(line) = bob.line() {
            match line.strip_prefix("from alice: ") {
                Some(number) => {
                    assert_eq!(number, next.to_string(), "once, and in order");
                    next += 1;
                    received.store(next, SeqCst);
                }
                None => assert!(line.starts_with("notice: server is shutting down"), "{line}"),
            }
        }
        next
    });
    let rounds = env_number("CLUSTER_ROUNDS").map_or(rounds, |it| usize::try_from(it).unwrap_or(1));
    for _ in 0..rounds {
        let before = nodes[1].stats().delivered;
        wait_until("lines to arrive", || nodes[1].stats().delivered > before + 500);
        fault();
    }
    let before = nodes[1].stats().delivered;
    wait_until("lines to arrive again", || nodes[1].stats().delivered > before + 500);
    stop.store(true, SeqCst);
    let sent = sender.join().expect("no panic");
    wait_until("all lines", || arrived.load(SeqCst) == sent);
    let reports = stop_all(nodes);
    check_clean(&reports);
    assert_eq!(reader.join().expect("no panic"), sent);
    drop(alice);
}

#[test]
fn commands_are_repeated_after_a_connection_breaks() {
    let Some(mut engine) = Engine::start() else { return };
    lines_survive(&mut engine, 5, |engine| {
        engine.say(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    });
}

#[test]
fn an_engine_that_freezes_loses_nothing() {
    let Some(mut engine) = Engine::start() else { return };
    lines_survive(&mut engine, 2, |engine| engine.freeze(Duration::from_millis(500)));
}

#[test]
fn an_engine_that_comes_back_empty_loses_nothing() {
    let Some(mut engine) = Engine::start() else { return };
    lines_survive(&mut engine, 2, Engine::restart);
}

#[test]
fn an_engine_that_comes_back_with_its_file_loses_nothing() {
    let file = ["--save", "", "--appendonly", "yes", "--appendfsync", "everysec"];
    let Some(mut engine) = Engine::with(&file) else { return };
    lines_survive(&mut engine, 2, Engine::restart);
}

#[test]
fn an_engine_that_is_wiped_loses_nothing() {
    let Some(mut engine) = Engine::start() else { return };
    lines_survive(&mut engine, 2, |engine| {
        engine.say(&["FLUSHALL"]);
    });
}

#[test]
fn an_engine_without_memory_loses_nothing() {
    let Some(engine) = Engine::start() else { return };
    let nodes =
        ["a", "b"].map(|name| node_with(options(&engine, name).lease(SHORT_LEASE), config()));
    lines_survive_at(nodes.into(), 2, || {
        engine.say(&["CONFIG", "SET", "maxmemory", "1"]);
        // Longer than a lease: it is renewed all the same.
        thread::park_timeout(SHORT_LEASE * 3 / 2);
        engine.say(&["CONFIG", "SET", "maxmemory", "0"]);
    });
}

#[test]
fn a_login_without_an_engine_is_refused() {
    let Some(mut engine) = Engine::start() else { return };
    let config = config().drain_timeout(Duration::from_secs(3));
    let only = node_with(options(&engine, "a").lease(SHORT_LEASE), config);
    let mut alice = login(&only, "alice");
    let mut bob = login(&only, "bob");
    engine.kill();
    let mut carol = Client::connect(only.address);
    carol.send("carol");
    // Connected clients still reach each other.
    alice.send("bob: still here");
    bob.expect_line("from alice: still here");
    carol.expect_line("error: cluster not reachable, try again");
    carol.expect_eof();
    drop((alice, bob));
    let report = only.stop();
    assert!(report.is_clean(), "{report}");
}

#[test]
fn a_drain_without_an_engine_ends_by_its_deadline_and_names_what_it_could_not_send() {
    let Some(mut engine) = Engine::start() else { return };
    let config = config().drain_timeout(Duration::from_secs(2));
    let first = node_with(options(&engine, "a"), config);
    let mut alice = login(&first, "alice");
    engine.kill();
    alice.send("bob: nobody can be asked");
    wait_until("the line", || first.stats().accepted == 2);
    let report = first.stop();
    assert!(report.drain < Duration::from_secs(12), "{report}");
    let node = report.cluster.as_ref().expect("a node's report");
    assert_eq!((report.owed, report.lost() + node.in_doubt), (1, 1), "{report}");
    assert!(!report.is_clean(), "{report}");
    assert_eq!(node.losses.len(), 1);
}

/// It accepts connections, and answers nothing: each wait for it ends when the drain does.
#[test]
fn a_frozen_engine_holds_no_stop_beyond_its_deadline() {
    const TIMEOUT: Duration = Duration::from_secs(3);
    let Some(engine) = Engine::start() else { return };
    let nodes: Vec<_> = ["a", "b"]
        .map(|name| node_with(options(&engine, name), config().drain_timeout(TIMEOUT)))
        .into();
    let (mut alice, bob) = (login(&nodes[0], "alice"), login(&nodes[1], "bob"));
    engine.suspend();
    // Each is a command of its own, which has no reply when the stop begins.
    for number in 0..50 {
        alice.send(&format!("bob: {number}\n/who bob"));
    }
    wait_until("the lines", || nodes[0].stats().accepted == 101);
    for report in stop_all(nodes) {
        // Not one wait for each of the commands.
        assert!(report.drain < TIMEOUT + Duration::from_secs(10), "{report}");
        let node = report.cluster.as_ref().expect("a node's report");
        assert_eq!(report.owed, report.lost() + node.in_doubt, "{report}");
    }
    drop((alice, bob));
}

#[test]
fn a_wrong_engine_or_policy_is_refused_at_the_start() {
    let Some(engine) = Engine::start() else { return };
    let server = || a_chat::Server::bind("127.0.0.1:0", config()).expect("a free port");
    engine.say(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    let error = server().join(options(&engine, "a")).expect_err("keys may vanish");
    assert!(error.to_string().contains("allkeys-lru"), "{error}");
    let name = a_chat::Name::new("a").expect("a name");
    let nowhere = a_chat::Cluster::new("redis://:secret@127.0.0.1:1/0", name);
    let error = server().join(nowhere).expect_err("nobody listens there");
    assert!(!error.to_string().contains("secret"), "{error}");
}

#[test]
fn a_proxy_that_cuts_delays_and_swallows_loses_nothing() {
    lines_survive_harm(3, |proxy| {
        proxy.cut();
        proxy.do_harm(Harm::Delay);
        thread::park_timeout(Duration::from_millis(200));
        proxy.do_harm(Harm::Swallow);
        thread::park_timeout(Duration::from_millis(300));
        proxy.do_harm(Harm::None);
        // A reply that was swallowed would be waited for in vain.
        proxy.cut();
    });
}

#[test]
fn an_engine_that_stands_still_for_longer_than_a_lease_loses_nothing() {
    let Some(mut engine) = Engine::start() else { return };
    lines_survive(&mut engine, 1, |engine| engine.freeze(Duration::from_secs(8)));
}

/// One that was free a moment ago.
pub fn free_port() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address").port().to_string()
}

#[test]
fn a_replica_that_is_promoted_loses_nothing() {
    let Some(mut master) = Engine::start() else { return };
    let port = free_port();
    master.say(&["CONFIG", "SET", "repl-diskless-sync-delay", "0"]);
    master.say(&["CONFIG", "SET", "port", &port]);
    let file = ["--save", "", "--appendonly", "no", "--replicaof", "127.0.0.1", &port];
    let Some(replica) = Engine::with(&file) else { return };
    wait_until("the replica", || {
        replica.say(&["INFO", "replication"]).contains("master_link_status:up")
    });
    let proxy = Proxy::start(master.socket());
    let nodes = ["a", "b"].map(|name| node_with(options_at(&proxy.url(), name), config()));
    let mut is_promoted = false;
    lines_survive_at(nodes.into(), 1, || {
        if !std::mem::replace(&mut is_promoted, true) {
            master.kill();
            replica.say(&["REPLICAOF", "NO", "ONE"]);
            proxy.lead_to(replica.socket());
            proxy.cut();
        }
    });
}

/// A node whose lease goes on being renewed while it hears nothing would hold its names forever and
/// receive nothing.
#[test]
fn a_node_that_hears_nothing_is_taken_for_dead() {
    let Some(engine) = Engine::start() else { return };
    let proxy = Proxy::start(engine.socket());
    let first = node_with(options(&engine, "a").lease(SHORT_LEASE), config());
    let deaf = node_with(options_at(&proxy.url(), "b").lease(SHORT_LEASE), config());
    let mut bob = login(&deaf, "bob");
    proxy.do_harm(Harm::Deafen);
    // Its name is free within the lease.
    let mut other = Client::connect(first.address);
    wait_until("the name", || {
        other = Client::connect(first.address);
        other.send("bob");
        other.send("/who bob");
        other.line().is_some_and(|line| line.ends_with("here: bob"))
    });
    proxy.do_harm(Harm::None);
    bob.expect_line("error: name taken");
    bob.expect_eof();
    drop((bob, other));
    for report in stop_all(vec![first, deaf]) {
        assert!(report.is_clean(), "{report}");
    }
}

/// Its name was taken meanwhile, so it is thrown out; what was queued for it is still on its way.
#[test]
fn a_sync_waits_for_a_client_that_has_lost_its_name_to_another_node() {
    let Some(engine) = Engine::start() else { return };
    let proxy = Proxy::start(engine.socket());
    let first = node_with(options(&engine, "a").lease(SHORT_LEASE), config());
    let patient = config().stall_timeout(TEST_TIMEOUT * 10);
    let deaf = node_with(options_at(&proxy.url(), "b").lease(SHORT_LEASE), patient);
    let mut bob = deaf.login_with_small_buffers("bob");
    let mut dave = login(&deaf, "dave");
    let text = "x".repeat(1000);
    for _ in 0..200 {
        dave.send(&format!("bob: {text}"));
    }
    wait_until("the lines", || deaf.stats().accepted == 201);
    proxy.do_harm(Harm::Deafen);
    let other = login_soon(first.address, "bob");
    proxy.do_harm(Harm::None);
    wait_until("bob to be thrown out", || deaf.stats().connected == 1);
    dave.send("/sync 1");
    dave.expect_line("error: line 202: not everything before it is delivered after 1 s");
    let lines = bob.lines_to_eof();
    assert_eq!((lines.len(), lines[200].as_str()), (201, "error: name taken"));
    drop((bob, other, dave));
    stop_all(vec![first, deaf]);
}

/// However many clients come and give up, they leave no work behind.
#[test]
fn logins_that_gave_up_while_the_engine_was_away_delay_nobody_after_it_is_back() {
    let Some(mut engine) = Engine::start() else { return };
    let waves = env_number("CLUSTER_ROUNDS").unwrap_or(3);
    let impatient = config().login_timeout(Duration::from_secs(2));
    let nodes: Vec<_> =
        ["a", "b"].map(|name| node_with(options(&engine, name), impatient.clone())).into();
    let (mut alice, mut bob) = (login(&nodes[0], "alice"), login(&nodes[1], "bob"));
    engine.kill();
    for wave in 0..waves {
        let clients: Vec<_> = (0..250)
            .map(|at| {
                let mut client = Client::connect(nodes[at % 2].address);
                client.send(&format!("w{wave}n{at}"));
                client
            })
            .collect();
        for mut client in clients {
            client.expect_line("error: cluster not reachable, try again");
            client.expect_eof();
        }
    }
    engine.restart();
    alice.send("bob: it is back");
    bob.expect_line("from alice: it is back");
    let late = login_soon(nodes[1].address, "w0n0");
    // None of them has left its name behind, nor does one come to it now.
    alice.send("/who");
    let line = alice.line().expect("an answer");
    assert!(line.starts_with("notice: line 3: 3 here: ") && line.contains("w0n0"), "{line}");
    drop((alice, bob, late));
    check_clean(&stop_all(nodes));
}
