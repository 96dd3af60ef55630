//! An idle client costs little more memory than its two threads.
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
const CLIENTS_BEFORE: u64 = 100;

const CLIENTS: u64 = 400;

/// What a client may cost, in bytes: two pages for each of its two threads, and what they allocate.
/// A third page for either of them is more than that. Without optimisation stack frames are several
/// times as large, so that a debug build shows gross mistakes only.
const MOST_EACH: u64 = if cfg!(debug_assertions) { 48 * 1024 } else { 24 * 1024 };

#[test]
fn an_idle_client_takes_little_more_than_its_threads() {
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
        (clients, server.resident())
    };
    let (_clients_before, before) = log_in(CLIENTS_BEFORE);
    let (_clients, after) = log_in(CLIENTS);
    let each = after.saturating_sub(before) / CLIENTS;
    assert!(each <= MOST_EACH, "{each} bytes for an idle client");
}
