//! How fast the server is, grouped by topology, and how close that is to the floor: a relay that
//! moves the same bytes and looks at none of them. `benches/README.md` says how to read it.
//!
//! Server and floor are processes of their own. Connecting is never timed, but where it is what
//! a group measures, and every message that arrives is checked to be its sender's next.

mod groups;
mod rig;

use criterion::Criterion;

use groups::{latency, lifecycle, parse, throughput};
use rig::baseline;
use rig::table::Table;

fn main() {
    if baseline::run_if_asked() {
        return;
    }
    a_chat::raise_nofile_limit();
    let mut criterion = Criterion::default().configure_from_args();
    let mut table = Table::default();
    for group in [
        throughput::pair,
        throughput::fan,
        throughput::mesh,
        throughput::clients,
        latency::latency,
        lifecycle::connect,
        lifecycle::drain,
        parse::parse,
    ] {
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
