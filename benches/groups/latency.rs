//! Latency of one message in flight, on an idle server and beside a mesh.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use a_chat::load::beside::Beside;
use a_chat::load::latency::PingPong;
use a_chat::load::mesh::{Mesh, Writes};
use a_chat::load::process::Process;
use a_chat::load::topology::Topology;
use a_chat::load::{Amount, Control, Latencies};
use criterion::Criterion;

use super::{BESIDE_PAIRS, BESIDE_RATE, MESH, MESH_MESSAGES, SHORT, SIDES, start, start_group};
use crate::rig::clean;
use crate::rig::servers::end;
use crate::rig::table::{Kind, Sample, Side, Table};

/// One message in flight, alone or beside a mesh.
pub fn latency(criterion: &mut Criterion, table: &mut Table) {
    for (row, others) in [("idle", 0), ("beside_mesh", MESH)] {
        let topology = Topology::ring(others, others).with_pair();
        for (side, protocol, name) in SIDES {
            let mut rig: Option<(PingPong, Option<Background>, Process)> = None;
            let mut group = start_group(criterion, "latency", 1);
            group.bench_function(format!("{row}/{name}"), |bencher| {
                let (ping, _, server) = rig.get_or_insert_with(|| {
                    let server = start(protocol, &topology, SHORT);
                    let target = &server.address.clone().into();
                    let mesh = (others > 0).then(|| {
                        let control = Control::default();
                        Mesh::connect(
                            protocol,
                            target,
                            &topology,
                            others,
                            SHORT,
                            Writes::HalfWindow,
                            &control,
                        )
                        .expect("logins")
                    });
                    let ping = PingPong::connect(protocol, target, &topology, SHORT);
                    (ping.expect("logins"), mesh.map(Background::of), server)
                });
                bencher.iter_custom(|messages| {
                    let amount = Amount::Messages(messages);
                    let mut sample = Sample::of(server, messages, || {
                        clean(ping.run(amount, &Control::default()))
                    });
                    if others > 0 {
                        // The mesh's share cannot be told from this message's.
                        (sample.server_cpu, sample.load_cpu) = (Duration::ZERO, Duration::ZERO);
                    }
                    table.add(&format!("latency/{row} mean"), Kind::Time, side, sample);
                    sample.elapsed
                });
            });
            group.finish();
            let Some((ping, background, server)) = rig else { continue };
            add_quantiles(table, "latency", row, side, &ping.latencies);
            drop((ping, background));
            end(server);
        }
    }
}

/// One message in flight beside pairs that send single messages at a fixed rate.
pub fn beside_singles(criterion: &mut Criterion, table: &mut Table) {
    let row = "beside_singles";
    let topology = Topology::pairs(BESIDE_PAIRS).with_pair();
    for (side, protocol, name) in SIDES {
        let mut rig: Option<(Beside, Process)> = None;
        let mut group = start_group(criterion, "latency", 1);
        group.bench_function(format!("{row}/{name}"), |bencher| {
            let (beside, server) = rig.get_or_insert_with(|| {
                let server = start(protocol, &topology, SHORT);
                let control = Control::default();
                let (target, rate) = (&server.address.clone().into(), BESIDE_RATE);
                let beside = Beside::connect(protocol, target, &topology, SHORT, rate, &control);
                (beside.expect("logins"), server)
            });
            bencher.iter_custom(|messages| {
                let amount = Amount::Messages(messages);
                let mut sample =
                    Sample::of(server, messages, || clean(beside.run(amount, &Control::default())));
                // The pairs' share cannot be told from this message's.
                (sample.server_cpu, sample.load_cpu) = (Duration::ZERO, Duration::ZERO);
                table.add(&format!("latency/{row} mean"), Kind::Time, side, sample);
                sample.elapsed
            });
        });
        group.finish();
        let Some((beside, server)) = rig else { continue };
        add_quantiles(table, "latency", row, side, beside.latencies());
        drop(beside);
        end(server);
    }
}

/// Adds a row for each percentile that is of interest.
pub fn add_quantiles(table: &mut Table, group: &str, row: &str, side: Side, latencies: &Latencies) {
    for (name, quantile) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)] {
        let row = format!("{group}/{row} {name}");
        table.add(&row, Kind::Time, side, Sample::time(latencies.quantile(quantile)));
    }
}

/// A mesh kept busy by its own thread until this is dropped.
struct Background {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Background {
    fn of(mut mesh: Mesh) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            while !stopped.load(SeqCst) {
                clean(mesh.run(Amount::Messages(MESH_MESSAGES), &Control::default()));
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.stop.store(true, SeqCst);
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(!matches!(ended, Some(Err(_))) || thread::panicking(), "the mesh has failed");
    }
}
