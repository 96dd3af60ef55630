//! Servers release every thread, descriptor and byte of memory.
//!
//! One test, alone in its process, starts, loads and drains servers over and over with clients of
//! all kinds, four at a time, and compares the process with its baseline each time.
//! `A_CHAT_ROUNDS=1000` runs four thousand cycles instead of a hundred.
#![expect(unsafe_code, reason = "an allocator that counts")]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;
use std::{fs, io, thread};

use a_chat::Name;
use a_chat::client::{self, Event};
use common::population::{Population, Profile, Stop, World};
use common::rounds::rounds;
use common::{TestServer, descriptor_count, thread_count, wait_until};

/// The system allocator, with a count of the bytes allocated.
struct CountingAllocator;

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);

/// How many servers of each kind run at a time, since they wait most of it.
const SIDE_BY_SIDE: u64 = 4;

/// How many bytes more may be allocated at the end than at the start, however many cycles ran: less
/// than one connection takes.
const MAX_GROWTH: usize = 1024;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

// SAFETY: every call is passed on to the system allocator unchanged.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(layout.size(), Relaxed);
        // SAFETY: the caller upholds the same contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as above; the memory came from the system allocator.
        unsafe { System.dealloc(memory, layout) }
    }
}

/// How many bytes this process has allocated right now.
fn allocated() -> usize {
    ALLOCATED.load(Relaxed)
}

/// Resident memory of this process, in KiB, from proc(5).
fn resident_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("procfs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a field");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

fn run_server_cycle(seed: u64) {
    let world = World::new(seed, 6, 0, Profile::Polite);
    let server = TestServer::with(world.config());
    let clients = Population::start(server.address, world);
    wait_until("some traffic", || server.stats().accepted > 50);
    let (report, _) = clients.stop(server, Stop::Drain);
    assert_eq!(report.lost(), 0, "{report}");
}

/// Clients of the library: one is dropped, one leaves, and one sees its server shut down.
fn run_client_cycle() {
    let server = TestServer::start();
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|name| {
        let name = Name::new(name).expect("a good name");
        let (mut outbox, inbox) = client::connect(server.address, &name).expect("a login");
        outbox.send("alice, bob, carol: hi").expect("an open connection");
        (outbox, inbox)
    });
    drop(alice);
    assert_eq!(bob.0.finish(None).accepted, 1);
    let (outbox, inbox) = carol;
    let mut events = inbox.into_events();
    let is_her_own =
        |event| matches!(event, Event::Message { from, .. } if from.as_str() == "carol");
    assert!(events.any(is_her_own), "her line is accepted before the shutdown");
    let report = server.stop();
    assert_eq!(report.connections, 3, "{report}");
    drop(events);
    assert_eq!(outbox.finish(None).accepted, 1);
}

/// Runs several servers of each kind at once.
fn run_cycles(seed: u64) {
    thread::scope(|scope| {
        for at in 0..SIDE_BY_SIDE {
            scope.spawn(move || {
                run_server_cycle(seed * SIDE_BY_SIDE + at);
                run_client_cycle();
            });
        }
    });
}

#[test]
fn servers_leave_no_thread_descriptor_or_memory_behind() {
    // The first cycles allocate what the runtime and the test itself retain.
    (0..5).for_each(run_cycles);
    let (threads, descriptors, allocated) = (thread_count(), descriptor_count(), allocated());
    let (mut cycles, resident) = (0, resident_memory());
    rounds("servers_leave_no_thread_descriptor_or_memory_behind", 0, 25, Duration::MAX, |seed| {
        run_cycles(seed);
        // A joined thread leaves the kernel's list a moment later, also one of those that were counted
        // at first.
        wait_until("the threads to exit", || thread_count() <= threads);
        assert_eq!(descriptor_count(), descriptors);
        cycles += SIDE_BY_SIDE;
    });
    let more = self::allocated().saturating_sub(allocated);
    // Shown with `--nocapture`. Resident memory also depends on the allocator.
    let _ = writeln!(
        io::stderr(),
        "{cycles} cycles: {threads} threads and {descriptors} descriptors as before, {more} B more \
         allocated, {resident} KiB resident before and {} KiB after",
        resident_memory()
    );
    assert!(more < MAX_GROWTH, "{more} B more after {cycles} cycles");
}
