//! An idle client costs little more memory than its two threads, and no more memory mappings.
//!
//! Clients of the executable log in, send themselves a message, and then do nothing; what the
//! process has grown by is counted page by page. Most of that is stacks. Two pages are touched of
//! each at best, and one that is touched in passing, because a function needs more of the stack
//! than it did, stays for as long as the client does.
#![cfg(feature = "cli")]

mod common;
#[path = "common/process.rs"]
mod process;

use process::{Process, serve};

/// Those who come before the others have the program's pages and the allocator's arenas loaded.
const CLIENTS_BEFORE: u32 = 100;

const CLIENTS: u32 = 400;

/// What a client may cost, in bytes: two pages for each of its two threads, and what they allocate.
/// A third page for either of them is more than that. Without optimisation stack frames are several
/// times as large, so that a debug build shows gross mistakes only.
const MOST_EACH: u64 = if cfg!(debug_assertions) { 48 * 1024 } else { 24 * 1024 };

/// A thread has its stack and the guard of that.
const MAPPINGS_EACH: usize = 2 * 2;

/// The arenas of the allocator, which have one or two mappings each, may not all be there before.
const OTHER_MAPPINGS: usize = 100;

#[test]
fn an_idle_client_costs_little_more_memory_than_its_two_threads() {
    let mut server = Process::start(serve(&[]));
    let mut log_in = |count| {
        let names = (0..count).map(|number| format!("client-{number}-of-{count}"));
        let clients = names.map(|name| {
            let mut client = server.login(&name);
            client.send(&format!("{name}: a note to myself"));
            client.expect_line(&format!("from {name}: a note to myself"));
            client
        });
        let clients: Vec<_> = clients.collect();
        (clients, server.resident(), server.mappings())
    };
    let (_clients_before, before, mappings_before) = log_in(CLIENTS_BEFORE);
    let (_clients, after, mappings) = log_in(CLIENTS);
    let each = after.saturating_sub(before) / u64::from(CLIENTS);
    assert!(each <= MOST_EACH, "{each} bytes for an idle client");
    let most = MAPPINGS_EACH * CLIENTS as usize + OTHER_MAPPINGS;
    let taken = mappings - mappings_before;
    assert!(taken <= most, "{taken} memory mappings for {CLIENTS} clients");
}
