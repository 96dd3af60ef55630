//! The groups of rows and their common parts: each row measures the server, then its baseline, with
//! the same work.
#![allow(unreachable_pub, reason = "a bench has no other crate to be public to")]

pub mod latency;
pub mod lifecycle;
pub mod parse;
pub mod throughput;
#[cfg(feature = "tls")]
pub mod tls;

use std::time::Duration;

use a_chat::load::process::Process;
use a_chat::load::protocol::Protocol;
use a_chat::load::topology::Topology;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, SamplingMode, Throughput};

use crate::rig::table::{Kind, SAMPLES, Sample, Side, Table};
use crate::rig::{baseline, servers};

/// Measured in this order.
pub const SIDES: [(Side, Protocol, &str); 2] =
    [(Side::Server, Protocol::Chat, "a-chat"), (Side::Baseline, Protocol::Raw, "baseline")];

/// Number of clients in a mesh.
pub const MESH: usize = 100;

/// Messages of a mesh per iteration.
pub const MESH_MESSAGES: u64 = 10_000;

/// Pairs that send single messages beside the one that is measured.
pub const BESIDE_PAIRS: usize = 8;

/// Messages a second of all these pairs.
pub const BESIDE_RATE: f64 = 50_000.0;

/// Length of a short message's text, in bytes.
pub const SHORT: usize = 32;

/// A criterion group whose rows take two seconds each.
pub fn start_group<'a>(
    criterion: &'a mut Criterion,
    name: &str,
    messages: u64,
) -> BenchmarkGroup<'a, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group
        .throughput(Throughput::Elements(messages))
        .sample_size(SAMPLES)
        .sampling_mode(SamplingMode::Flat)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    group
}

/// Measures two sides with the same work, `count` deliveries a round. `build` runs only if the row is
/// selected.
pub fn compare<S, W: FnMut(u64) -> Duration>(
    mut group: BenchmarkGroup<'_, WallTime>,
    table: &mut Table,
    (group_name, row): (&str, &str),
    kind: Kind,
    count: u64,
    sides: [(Side, S, &str); 2],
    build: impl Fn(&S) -> (Process, W),
) {
    let full_name = format!("{group_name}/{row}");
    for (side, what, name) in sides {
        let mut rig = None;
        group.bench_function(format!("{row}/{name}"), |bencher| {
            let (server, work) = rig.get_or_insert_with(|| build(&what));
            bencher.iter_custom(|rounds| {
                let sample = Sample::of(server, rounds * count, || work(rounds));
                table.add(&full_name, kind, side, sample);
                sample.elapsed
            });
        });
        if let Some((server, work)) = rig {
            // The clients disconnect before the server shuts down.
            drop(work);
            servers::end(server);
        }
    }
    group.finish();
}

/// Starts the server under test, or a relay as its baseline.
pub fn start(protocol: Protocol, topology: &Topology, size: usize) -> Process {
    if protocol == Protocol::Raw {
        let name = topology.name(0);
        return baseline::relay(
            topology,
            protocol.frame(&name, &name, size).stride,
            cpus().as_deref(),
        );
    }
    start_chat()
}

pub fn start_chat() -> Process {
    servers::start(&mut servers::chat("127.0.0.1:0", cpus().as_deref()))
}

/// The CPUs of the server under test and the baseline: `STRESS_CPUS=0` for one CPU that they share
/// with the load.
pub fn cpus() -> Option<String> {
    std::env::var("STRESS_CPUS").ok()
}
