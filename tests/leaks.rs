//! Threads, descriptors and memory come back: one test, alone in its process, that starts, loads
//! and drains servers over and over, with clients of all kinds, and counts what is left each time.

mod common;

use std::fs;

use a_chat::Name;
use a_chat::client::{self, Event};
use common::population::{Manners, Population, Stop, World};
use common::{TestServer, descriptor_count, thread_count, wait_until};

/// Resident memory of this process, in KiB, from proc(5).
fn resident_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("procfs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a field");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

fn cycle(seed: u64) {
    let world = World::new(seed, 6, 0, Manners::Polite);
    let server = TestServer::with(world.config());
    let clients = Population::start(server.address, world);
    wait_until("some traffic", || server.stats().accepted > 50);
    let (report, _) = clients.stop(server, Stop::Drain);
    assert_eq!(report.lost(), 0, "{report}");
}

/// Clients of the library: one that leaves, one that is dropped, one whose server stops.
fn client_cycle() {
    let server = TestServer::start();
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|name| {
        let name = Name::new(name.as_bytes()).expect("a good name");
        let (mut outbox, inbox) = client::connect(server.address, &name).expect("a login");
        outbox.send("alice, bob, carol: hi").expect("an open connection");
        (outbox, inbox)
    });
    drop(alice);
    assert_eq!(bob.0.finish(None).accepted, 1);
    let (outbox, inbox) = carol;
    let mut events = inbox.events();
    let is_her_own =
        |event| matches!(event, Event::Message { from, .. } if from.as_str() == "carol");
    assert!(events.any(is_her_own), "what she has sent is accepted before the stop");
    let report = server.stop();
    assert_eq!(report.connections, 3, "{report}");
    drop(events);
    assert_eq!(outbox.finish(None).accepted, 1);
}

#[test]
fn nothing_is_left_behind() {
    // The first rounds grow what the allocator and the runtime keep.
    (0..20).for_each(cycle);
    client_cycle();
    let (threads, descriptors, memory) = (thread_count(), descriptor_count(), resident_memory());
    for seed in 0..100 {
        cycle(seed);
        client_cycle();
        // A thread that was joined leaves the kernel's list a moment later.
        wait_until("the threads to be gone", || thread_count() == threads);
        assert_eq!(descriptor_count(), descriptors, "cycle {seed}");
    }
    let grown = resident_memory().saturating_sub(memory);
    assert!(grown < 8 * 1024, "{grown} KiB more after 100 cycles");
}
