//! Messages a second, by topology.

use a_chat::load::mesh::{Mesh, Writes};
use a_chat::load::protocol::Protocol;
use a_chat::load::stream::{self, Stream};
use a_chat::load::topology::Topology;
use a_chat::load::{Amount, Control, logins};
use criterion::Criterion;

use super::{MESH, MESH_MESSAGES, SHORT, SIDES, compare, start, start_group};
use crate::rig::clean;
use crate::rig::table::{Kind, Table};

/// One sender to one recipient, several times over.
pub fn pair(criterion: &mut Criterion, table: &mut Table) {
    for pairs in [1, 8, 64] {
        for size in [SHORT, 512] {
            let topology = Topology::pairs(pairs);
            saturate(criterion, table, ("pair", &format!("{pairs}x{size}")), &topology, size);
        }
    }
}

/// One to many, and many to one.
pub fn fan(criterion: &mut Criterion, table: &mut Table) {
    saturate(criterion, table, ("fan_out", "1to100x64"), &Topology::fan_out(100), 64);
    saturate(criterion, table, ("fan_in", "100to1x64"), &Topology::fan_in(100), 64);
}

/// A few busy clients among many idle ones.
pub fn clients(criterion: &mut Criterion, table: &mut Table) {
    for clients in [1, 10, 100, 1000, 5000] {
        let topology = Topology::ring(clients.min(8), clients);
        saturate(criterion, table, ("clients", &clients.to_string()), &topology, SHORT);
    }
}

/// Measures the throughput of a topology whose senders send all they can.
fn saturate(
    criterion: &mut Criterion,
    table: &mut Table,
    (group_name, row): (&str, &str),
    topology: &Topology,
    size: usize,
) {
    let deliveries = stream::deliveries(topology, size);
    let group = start_group(criterion, group_name, deliveries);
    let messages = (stream::batch_messages(topology, size) * topology.routes.len()) as u64;
    let control = Control::default();
    let kind = Kind::Rate { bytes: logins::frame(Protocol::Chat, topology, size) };
    compare(group, table, (group_name, row), kind, deliveries, SIDES, |&protocol| {
        let server = start(protocol, topology, size);
        let target = server.address.clone().into();
        let stream = Stream::connect(protocol, &target, topology, size, &control);
        let mut stream = stream.expect("logins");
        let control = &control;
        (server, move |rounds| clean(stream.run(Amount::Messages(rounds * messages), control)))
    });
}

/// Every client to every other, with senders that write half a window at a time.
pub fn mesh(criterion: &mut Criterion, table: &mut Table) {
    measure_mesh(criterion, table, "mesh", Writes::HalfWindow);
}

/// The same with senders that write whatever they may at once.
pub fn mesh_at_once(criterion: &mut Criterion, table: &mut Table) {
    measure_mesh(criterion, table, "mesh_at_once", Writes::AtOnce);
}

fn measure_mesh(criterion: &mut Criterion, table: &mut Table, name: &str, writes: Writes) {
    let topology = Topology::ring(MESH, MESH);
    let group = start_group(criterion, name, MESH_MESSAGES);
    let row = format!("{MESH}x{SHORT}");
    let kind = Kind::Rate { bytes: logins::frame(Protocol::Chat, &topology, SHORT) };
    let control = Control::default();
    compare(group, table, (name, &row), kind, MESH_MESSAGES, SIDES, |&protocol| {
        let server = start(protocol, &topology, SHORT);
        let target = server.address.clone().into();
        let mesh = Mesh::connect(protocol, &target, &topology, MESH, SHORT, writes, &control);
        let mut mesh = mesh.expect("logins");
        let control = &control;
        (server, move |rounds| clean(mesh.run(Amount::Messages(rounds * MESH_MESSAGES), control)))
    });
}
