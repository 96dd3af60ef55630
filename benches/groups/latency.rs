//! How long one message takes that has the server to itself, or shares it with a mesh.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use criterion::Criterion;

use super::{MESH, MESH_MESSAGES, SHORT, SIDES, begin, end, start};
use crate::load::latency::PingPong;
use crate::load::mesh::Mesh;
use crate::load::process::Process;
use crate::load::table::{Kind, Sample, Table};
use crate::load::topology::Topology;

/// One message in flight, alone or beside a mesh.
pub fn latency(criterion: &mut Criterion, table: &mut Table) {
    for (row, others) in [("idle", 0), ("beside_mesh", MESH)] {
        let topology = Topology::ring(others, others).and_a_pair();
        for (side, protocol, name) in SIDES {
            let mut rig: Option<(PingPong, Option<Background>, Process)> = None;
            let mut group = begin(criterion, "latency", 1);
            group.bench_function(format!("{row}/{name}"), |bencher| {
                let (ping, _, server) = rig.get_or_insert_with(|| {
                    let server = start(protocol, &topology, SHORT);
                    let mesh = (others > 0)
                        .then(|| Mesh::connect(protocol, &server, &topology, others, SHORT));
                    let ping = PingPong::connect(protocol, &server, &topology, SHORT);
                    (ping, mesh.map(Background::of), server)
                });
                bencher.iter_custom(|messages| {
                    let mut sample = Sample::of(server, messages, || ping.run(messages));
                    if others > 0 {
                        // The mesh's share can not be told from this message's.
                        (sample.server_cpu, sample.load_cpu) = (Duration::ZERO, Duration::ZERO);
                    }
                    table.add(&format!("latency/{row} mean"), Kind::Time, side, sample);
                    sample.elapsed
                });
            });
            group.finish();
            let Some((ping, background, server)) = rig else { continue };
            for (name, quantile) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)] {
                let time = Duration::from_nanos(ping.times.value_at_quantile(quantile));
                let row = format!("latency/{row} {name}");
                table.add(&row, Kind::Time, side, Sample::time(time));
            }
            drop((ping, background));
            end(server);
        }
    }
}

/// A mesh that is kept busy by a thread of its own until this is dropped.
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
                mesh.run(MESH_MESSAGES);
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
