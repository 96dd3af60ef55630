//! How many messages a second go through, by topology.

use criterion::Criterion;

use super::{MESH, MESH_MESSAGES, SHORT, begin, compare, start};
use crate::load::mesh::Mesh;
use crate::load::protocol::Protocol;
use crate::load::stream::{self, Stream};
use crate::load::table::{Kind, Table};
use crate::load::topology::Topology;

/// One sender to one recipient, many times over.
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

/// A few busy clients among many that are connected and quiet.
pub fn clients(criterion: &mut Criterion, table: &mut Table) {
    for clients in [1, 10, 100, 1000, 5000] {
        let topology = Topology::ring(clients.min(8), clients);
        saturate(criterion, table, ("clients", &clients.to_string()), &topology, SHORT);
    }
}

/// Measures how much goes through a topology when every sender sends all it can.
fn saturate(
    criterion: &mut Criterion,
    table: &mut Table,
    (group_name, row): (&str, &str),
    topology: &Topology,
    size: usize,
) {
    let deliveries = stream::deliveries(topology, size);
    let group = begin(criterion, group_name, deliveries);
    let kind = Kind::Rate { bytes: frame(topology, size) };
    compare(group, table, (group_name, row), kind, deliveries, |protocol| {
        let server = start(protocol, topology, size);
        let mut stream = Stream::connect(protocol, &server, topology, size);
        (server, move |rounds| stream.run(rounds))
    });
}

/// Everybody to everybody.
pub fn mesh(criterion: &mut Criterion, table: &mut Table) {
    let topology = Topology::ring(MESH, MESH);
    let group = begin(criterion, "mesh", MESH_MESSAGES);
    let row = format!("{MESH}x{SHORT}");
    let kind = Kind::Rate { bytes: frame(&topology, SHORT) };
    compare(group, table, ("mesh", &row), kind, MESH_MESSAGES, |protocol| {
        let server = start(protocol, &topology, SHORT);
        let mut mesh = Mesh::connect(protocol, &server, &topology, MESH, SHORT);
        (server, move |rounds| mesh.run(rounds * MESH_MESSAGES))
    });
}

/// How long a message is when it arrives, in bytes.
fn frame(topology: &Topology, size: usize) -> usize {
    let name = topology.name(0);
    Protocol::Chat.frame(&name, &name, size).stride
}
