//! Throughput, latency and lifecycle by topology, each compared with a baseline: a relay that moves
//! the same bytes without looking at them. `benches/README.md` explains how to read it.
//!
//! Server and baseline run as separate processes. Connecting is not timed, except in the group that
//! measures it. With the feature `tls`, the server over TLS is compared with itself without. Every message that arrives is checked to be its sender's next one.

mod groups;
mod rig;

use criterion::Criterion;

#[cfg(feature = "tls")]
use groups::tls;
use groups::{latency, lifecycle, parse, throughput};
use rig::baseline;
use rig::table::Table;

fn main() {
    if baseline::run_if_asked() {
        return;
    }
    let _ = a_chat::raise_nofile_limit();
    let mut criterion = Criterion::default().configure_from_args();
    let mut table = Table::default();
    for group in [
        throughput::pair,
        throughput::fan,
        throughput::mesh,
        throughput::mesh_at_once,
        throughput::clients,
        latency::latency,
        latency::beside_singles,
        lifecycle::connect,
        lifecycle::drain,
        parse::parse,
    ] {
        group(&mut criterion, &mut table);
    }
    #[cfg(feature = "tls")]
    for group in [tls::pair, tls::mesh, tls::latency, tls::connect] {
        group(&mut criterion, &mut table);
    }
    criterion.final_summary();
    // As a test each row runs once, and its figures mean nothing.
    let is_argument = |wanted: &str| std::env::args().any(|argument| argument == wanted);
    if is_argument("--bench") && !is_argument("--test") {
        print(&table.text());
    }
}

#[expect(clippy::print_stdout, reason = "the table is what a run is for")]
fn print(text: &str) {
    println!("{text}");
}
