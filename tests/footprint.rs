//! An idle client costs little more memory than its two threads, and no more memory mappings.
//!
//! Clients of the executable log in, send themselves a message and go idle; the growth of the
//! process is counted page by page. Most of it is stack. At best, two pages of each stack are
//! touched. A page touched only in passing, because a function needs more stack than before, stays
//! resident as long as the client.
#![cfg(feature = "cli")]

mod common;
#[path = "common/process.rs"]
mod process;

use process::{Process, serve};

/// These clients connect first, to load the program's pages and create the allocator's arenas.
const CLIENTS_BEFORE: u32 = 100;

const CLIENTS: u32 = 400;

/// The most that a client may cost, in bytes: two pages for each of its two threads, plus their
/// heap of 9 KiB. A third page for either of them exceeds it. Without optimisation, stack frames are several
/// times as large, so a debug build catches only gross mistakes.
const MAX_BYTES_EACH: u64 = if cfg!(debug_assertions) { 48 * 1024 } else { 26 * 1024 };

/// Each thread has its stack and a guard page.
const MAPPINGS_EACH: usize = 2 * 2;

/// Some of the allocator's arenas, with one or two mappings each, may be created late.
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
    assert!(each <= MAX_BYTES_EACH, "{each} bytes for an idle client");
    let max = MAPPINGS_EACH * CLIENTS as usize + OTHER_MAPPINGS;
    let added = mappings - mappings_before;
    assert!(added <= max, "{added} memory mappings for {CLIENTS} clients");
}

/// What TLS adds to an idle client, in bytes. Measured: 34 KiB, of which 12 are stack that the handshake
/// has touched. 14 are in use on the heap: the buffer of rustls with 4, and the session. The rest is
/// what the handshake has left behind in pieces.
#[cfg(feature = "tls")]
const MAX_TLS_BYTES_EACH: u64 = if cfg!(debug_assertions) { 160 * 1024 } else { 40 * 1024 };

#[cfg(feature = "tls")]
#[test]
fn an_idle_client_with_tls_costs_its_session_and_a_few_pages_of_stack_more() {
    use common::Client;
    use common::link::{Link, Transport};

    let certificate = common::tls::certificate();
    let mut command = serve(&[]);
    command.arg("--tls-cert").arg(certificate.certificate());
    command.arg("--tls-key").arg(certificate.key());
    let mut server = Process::start(command);
    let address = server.address();
    let log_in = |count| {
        let names = (0..count).map(|number| format!("client-{number}-of-{count}"));
        let clients = names.map(|name| {
            let socket = std::net::TcpStream::connect(address).expect("a server");
            let mut client = Client::from_stream(Link::new(socket, Transport::Tls).expect("TLS"));
            client.send(&format!("{name}\n{name}: a note to myself"));
            client.expect_line(&format!("from {name}: a note to myself"));
            client
        });
        clients.collect::<Vec<_>>()
    };
    let _clients_before = log_in(CLIENTS_BEFORE);
    let before = server.resident();
    let _clients = log_in(CLIENTS);
    let each = server.resident().saturating_sub(before) / u64::from(CLIENTS);
    let max = MAX_BYTES_EACH + MAX_TLS_BYTES_EACH;
    assert!(each <= max, "{each} bytes for an idle client with TLS");
}
