//! A rolling restart: each node is stopped and started again, one after the other, while numbered lines
//! flow. Sender and recipient move to another node each time theirs stops, and each line arrives once
//! and in order. `CLUSTER_LINES=100000` sets how many there are at least, and `CLUSTER_RESTARTS` how
//! often a node is restarted; with `--nocapture` it prints how long each step took.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use a_chat::Report;

use crate::common::rounds::env_number;
use crate::common::{Client, TestServer, wait_until};
use crate::engine::Engine;
use crate::nodes::{check_clean, node, nodes, stop_all};

const NODES: usize = 3;

/// Where the nodes are at the moment.
type Addresses = Arc<Mutex<Vec<Option<SocketAddr>>>>;

/// Logs in at any node that lets the client in; returns what it received before the answer.
fn join(addresses: &Addresses, name: &str, first: usize) -> (Client, Vec<String>) {
    let started = Instant::now();
    for at in first.. {
        assert!(started.elapsed().as_secs() < 60, "{name} does not get in");
        let address = {
            let all = addresses.lock().expect("no panic");
            all[at % all.len()]
        };
        let Some(stream) = address.and_then(|it| std::net::TcpStream::connect(it).ok()) else {
            thread::yield_now();
            continue;
        };
        let mut client = Client::from_stream(stream);
        if client.stream.write_all(format!("{name}\n/who {name}\n").as_bytes()).is_err() {
            continue;
        }
        let mut before = Vec::new();
        while let Some(line) = client.line() {
            if line == format!("notice: line 1: here: {name}") {
                return (client, before);
            }
            before.push(line);
        }
        assert!(!before.iter().any(|line| line.starts_with("from ")), "lost: {before:?}");
    }
    unreachable!("there are always more nodes to try")
}

/// How far the load is.
#[derive(Default)]
struct Progress {
    /// The recipient has logged in for the first time.
    has_begun: AtomicBool,
    /// No more than `min` lines are needed.
    is_enough: AtomicBool,
    min: u64,
    /// How many lines were sent in all; 0 until that is known.
    last: AtomicU64,
}

impl Progress {
    fn is_last(&self, number: u64) -> bool {
        let last = self.last.load(SeqCst);
        last > 0 && number >= last
    }
}

/// Sends numbered lines until there were enough restarts; after each closing notice it goes on
/// elsewhere with the first line that was not accepted.
fn send_all(addresses: &Addresses, progress: &Progress) {
    let (mut next, mut place) = (1, 0);
    while !progress.has_begun.load(SeqCst) {
        thread::yield_now();
    }
    let mut count = u64::MAX;
    while next <= count {
        let (client, _) = join(addresses, "alice", place);
        place += 1;
        let mut socket = client.stream.try_clone().expect("one more");
        let reader = thread::spawn(move || {
            let mut client = client;
            // Its notice counts the `/who` too.
            client.lines_to_eof().iter().find_map(|line| {
                let rest = line.strip_prefix("notice: server is shutting down, ")?;
                rest.split_once(' ')?.0.parse::<u64>().ok()
            })
        });
        let mut at = next;
        while at <= count {
            if count == u64::MAX && at > progress.min && progress.is_enough.load(SeqCst) {
                count = at;
                progress.last.store(count, SeqCst);
            }
            let end = (at + 50).min(count.saturating_add(1));
            let lines: String = (at..end).map(|number| format!("bob: {number}\n")).collect();
            if socket.write_all(lines.as_bytes()).is_err() || reader.is_finished() {
                break;
            }
            at = end;
        }
        if at > count {
            // Until the server has read all of it.
            let _ = socket.shutdown(std::net::Shutdown::Write);
        }
        match reader.join().expect("no panic") {
            Some(accepted) => next += accepted - 1,
            None => return assert!(at > count, "a connection ended without a notice"),
        }
    }
}

/// Receives numbers until the last one, and checks that they are those after each other; returns how
/// many.
fn receive_all(addresses: &Addresses, progress: &Progress) -> u64 {
    let (mut received, mut place) = (0, 1);
    while !progress.is_last(received) {
        let (mut client, before) = join(addresses, "bob", place);
        progress.has_begun.store(true, SeqCst);
        place += 1;
        let mut before = before.into_iter();
        while !progress.is_last(received) {
            let Some(line) = before.next().or_else(|| client.line()) else { break };
            if let Some(number) = line.strip_prefix("from alice: ") {
                received += 1;
                assert_eq!(number, received.to_string(), "once, and in order");
            }
        }
    }
    received
}

#[test]
fn a_rolling_restart_loses_no_line_and_delivers_each_once_and_in_order() {
    let min = env_number("CLUSTER_LINES").unwrap_or(20_000);
    let restarts = env_number("CLUSTER_RESTARTS").unwrap_or(6);
    let Some(engine) = Engine::start() else { return };
    let mut running = nodes(&engine, NODES);
    let addresses: Addresses =
        Arc::new(Mutex::new(running.iter().map(|node| Some(node.address)).collect()));
    let progress = Arc::new(Progress { min, ..Progress::default() });
    let receiver = {
        let (addresses, progress) = (Arc::clone(&addresses), Arc::clone(&progress));
        thread::spawn(move || receive_all(&addresses, &progress))
    };
    let sender = {
        let (addresses, progress) = (Arc::clone(&addresses), Arc::clone(&progress));
        thread::spawn(move || send_all(&addresses, &progress))
    };
    let mut reports: Vec<Report> = Vec::new();
    for restart in 0..restarts {
        // Both are back, lines flow, and nothing is held: the node that was restarted is ready.
        let delivered =
            |running: &[TestServer]| running.iter().map(|node| node.stats().delivered).sum::<u64>();
        let before = delivered(&running);
        wait_until("both clients, and lines between them", || {
            let connected = running.iter().map(|node| node.stats().connected).sum::<u64>();
            connected == 2 && delivered(&running) > before + 500
        });
        let at = usize::try_from(restart).expect("small") % NODES;
        let begun = Instant::now();
        addresses.lock().expect("no panic")[at] = None;
        let mut stopped = running.remove(at);
        stopped.handle.shutdown();
        reports.push(stopped.join());
        let drained = begun.elapsed();
        let again = node(&engine, ["a", "b", "c"][at]);
        addresses.lock().expect("no panic")[at] = Some(again.address);
        running.insert(at, again);
        println!("restart {}: stopped in {drained:?}, back in {:?}", restart + 1, begun.elapsed());
    }
    progress.is_enough.store(true, SeqCst);
    sender.join().expect("no panic");
    let received = receiver.join().expect("no panic");
    println!("{received} lines over {restarts} restarts");
    assert!(received >= min);
    reports.extend(stop_all(running));
    check_clean(&reports);
}
