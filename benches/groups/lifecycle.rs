//! Many logins at once, and the drain.

use std::time::Duration;

use a_chat::load::logins::{self, Logins};
use a_chat::load::process::Process;
use a_chat::load::protocol::{Protocol, STAMP};
use a_chat::load::topology::Topology;
use criterion::{Criterion, Throughput};

use super::{SHORT, SIDES, cpus, start_chat, start_group};
use crate::rig::crowd::Crowd;
use crate::rig::servers::end;
use crate::rig::table::{Kind, Sample, Table};
use crate::rig::{baseline, clean};

/// Number of simultaneous logins.
pub const LOGINS: usize = 5000;

/// Logins as fast as possible, each of which then delivers a message.
pub fn connect(criterion: &mut Criterion, table: &mut Table) {
    let start = |protocol| match protocol {
        Protocol::Raw => baseline::echo(cpus().as_deref()),
        _ => start_chat(),
    };
    let topology = Topology::quiet(LOGINS);
    for (side, protocol, name) in SIDES {
        let mut group = start_group(criterion, "connect", LOGINS as u64);
        group.measurement_time(Duration::from_secs(5));
        group.bench_function(format!("{LOGINS}/{name}"), |bencher| {
            bencher.iter_custom(|rounds| {
                let mut elapsed = Duration::ZERO;
                for _ in 0..rounds {
                    let server = start(protocol);
                    let target = server.address.clone().into();
                    let mut logins = Logins::new().expect("a descriptor");
                    let sample = Sample::of(&server, LOGINS as u64, || {
                        clean(logins.storm(protocol, &target, &topology))
                    });
                    let kind =
                        Kind::Rate { bytes: logins::frame(Protocol::Chat, &topology, STAMP) };
                    table.add(&format!("connect/{LOGINS}"), kind, side, sample);
                    elapsed += sample.elapsed;
                    drop(logins);
                    end(server);
                }
                elapsed
            });
        });
        group.finish();
    }
}

/// From the shutdown request to the server's exit, with this many clients and unread messages.
pub fn drain(criterion: &mut Criterion, table: &mut Table) {
    let by_clients = [10, 100, 1000, 5000].map(|clients| (clients, 0));
    let by_messages = [10_000, 100_000, 500_000].map(|queued| (100, queued));
    for (clients, queued) in by_clients.into_iter().chain(by_messages) {
        let row = format!("{clients}_clients_{queued}_queued");
        for (side, protocol, name) in SIDES {
            let mut group = start_group(criterion, "drain", 0);
            group.throughput(Throughput::Elements((clients + queued) as u64));
            // Connecting takes far longer than the drain and is not measured.
            group.measurement_time(Duration::from_millis(100));
            group.warm_up_time(Duration::from_millis(50));
            group.bench_function(format!("{row}/{name}"), |bencher| {
                bencher.iter_custom(|rounds| {
                    let drain = |_| drain_once(protocol, clients, queued / clients);
                    let elapsed: Duration = (0..rounds).map(drain).sum();
                    let mut sample = Sample::time(elapsed);
                    sample.count = rounds;
                    table.add(&format!("drain/{row}"), Kind::Time, side, sample);
                    elapsed
                });
            });
            group.finish();
        }
    }
}

fn drain_once(protocol: Protocol, clients: usize, each: usize) -> Duration {
    let server: Process = match protocol {
        Protocol::Raw => {
            let bytes = each * logins::frame(protocol, &Topology::quiet(clients), SHORT);
            baseline::drain(clients, bytes, cpus().as_deref())
        }
        _ => start_chat(),
    };
    let mut crowd = Crowd::connect(protocol, &server, clients, SHORT);
    if protocol != Protocol::Raw {
        crowd.send_to_neighbours(each);
    }
    crowd.drain(server, each)
}
