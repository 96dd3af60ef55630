//! The server over TLS, compared with itself without.

use std::time::Duration;

use a_chat::load::latency::PingPong;
use a_chat::load::link::Target;
use a_chat::load::logins::{self, Logins};
use a_chat::load::mesh::{Mesh, Writes};
use a_chat::load::process::Process;
use a_chat::load::protocol::{Protocol, STAMP};
use a_chat::load::stream::{self, Stream};
use a_chat::load::topology::Topology;
use a_chat::load::{Amount, Control};
use criterion::Criterion;

use super::latency::add_quantiles;
use super::lifecycle::LOGINS;
use super::{MESH, MESH_MESSAGES, SHORT, compare, cpus, start_group};
use crate::rig::certificate::Certificate;
use crate::rig::clean;
use crate::rig::servers::{chat, end, start};
use crate::rig::table::{Kind, Sample, Side, Table};

const CHAT: Protocol = Protocol::Chat;

/// Measured in this order: the columns of the server are those over TLS, those of the baseline without.
fn sides() -> [(Side, Option<Certificate>, &'static str); 2] {
    [(Side::Server, Some(Certificate::new()), "tls"), (Side::Baseline, None, "plain")]
}

/// A server, and how to reach it.
fn serve(certificate: Option<&Certificate>) -> (Process, Target) {
    let mut command = chat("127.0.0.1:0", cpus().as_deref());
    let Some(certificate) = certificate else {
        let server = start(&mut command);
        let target = server.address.clone().into();
        return (server, target);
    };
    let server = start(certificate.configure(&mut command));
    let target = Target::from(server.address.clone()).with_tls(certificate.client(), None);
    (server, target)
}

/// One sender to one recipient, several times over.
pub fn pair(criterion: &mut Criterion, table: &mut Table) {
    for (pairs, size) in [(1, SHORT), (1, 512), (8, SHORT), (8, 512), (64, SHORT)] {
        let topology = Topology::pairs(pairs);
        let (row, kind) = (format!("pair_{pairs}x{size}"), rate(&topology, size));
        let deliveries = stream::deliveries(&topology, size);
        let messages = (stream::batch_messages(&topology, size) * topology.routes.len()) as u64;
        let group = start_group(criterion, "tls", deliveries);
        compare(group, table, ("tls", &row), kind, deliveries, sides(), |certificate| {
            let (server, target) = serve(certificate.as_ref());
            let stream = Stream::connect(CHAT, &target, &topology, size, &Control::default());
            let mut stream = stream.expect("logins");
            let run = move |rounds| {
                clean(stream.run(Amount::Messages(rounds * messages), &Control::default()))
            };
            (server, run)
        });
    }
}

/// Every client to every other, with both kinds of writes.
pub fn mesh(criterion: &mut Criterion, table: &mut Table) {
    let topology = Topology::ring(MESH, MESH);
    for (name, writes) in [("mesh", Writes::HalfWindow), ("mesh_at_once", Writes::AtOnce)] {
        let (row, kind) = (format!("{name}_{MESH}x{SHORT}"), rate(&topology, SHORT));
        let group = start_group(criterion, "tls", MESH_MESSAGES);
        compare(group, table, ("tls", &row), kind, MESH_MESSAGES, sides(), |certificate| {
            let (server, target) = serve(certificate.as_ref());
            let control = Control::default();
            let mesh = Mesh::connect(CHAT, &target, &topology, MESH, SHORT, writes, &control);
            let mut mesh = mesh.expect("logins");
            let run = move |rounds| {
                clean(mesh.run(Amount::Messages(rounds * MESH_MESSAGES), &Control::default()))
            };
            (server, run)
        });
    }
}

fn rate(topology: &Topology, size: usize) -> Kind {
    Kind::Rate { bytes: logins::frame(CHAT, topology, size) }
}

/// One message in flight on an idle server.
pub fn latency(criterion: &mut Criterion, table: &mut Table) {
    let topology = Topology::pairs(1);
    for (side, certificate, name) in sides() {
        let mut rig: Option<(PingPong, Process)> = None;
        let mut group = start_group(criterion, "tls", 1);
        group.bench_function(format!("latency/{name}"), |bencher| {
            let (ping, server) = rig.get_or_insert_with(|| {
                let (server, target) = serve(certificate.as_ref());
                let ping = PingPong::connect(CHAT, &target, &topology, SHORT);
                (ping.expect("logins"), server)
            });
            bencher.iter_custom(|messages| {
                let run = || clean(ping.run(Amount::Messages(messages), &Control::default()));
                let sample = Sample::of(server, messages, run);
                table.add("tls/latency mean", Kind::Time, side, sample);
                sample.elapsed
            });
        });
        group.finish();
        let Some((ping, server)) = rig else { continue };
        add_quantiles(table, "tls", "latency", side, &ping.latencies);
        drop(ping);
        end(server);
    }
}

/// Logins as fast as possible, each of which then delivers a message.
pub fn connect(criterion: &mut Criterion, table: &mut Table) {
    let topology = Topology::quiet(LOGINS);
    let row = format!("connect_{LOGINS}");
    for (side, certificate, name) in sides() {
        let mut group = start_group(criterion, "tls", LOGINS as u64);
        group.measurement_time(Duration::from_secs(5));
        group.bench_function(format!("{row}/{name}"), |bencher| {
            bencher.iter_custom(|rounds| {
                let mut elapsed = Duration::ZERO;
                for _ in 0..rounds {
                    let (server, target) = serve(certificate.as_ref());
                    let mut logins = Logins::new().expect("a descriptor");
                    let run = || clean(logins.storm(CHAT, &target, &topology));
                    let sample = Sample::of(&server, LOGINS as u64, run);
                    table.add(&format!("tls/{row}"), rate(&topology, STAMP), side, sample);
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
