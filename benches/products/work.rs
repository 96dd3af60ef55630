//! The work given to each server, and the figures of one measurement.

use std::time::Duration;

use a_chat::load::beside::Beside;
use a_chat::load::latency::PingPong;
use a_chat::load::link::Target;
use a_chat::load::logins::Logins;
use a_chat::load::mesh::{Mesh, Writes};
use a_chat::load::process::Process;
use a_chat::load::stream::{self, Stream};
use a_chat::load::topology::Topology;
use a_chat::load::{Amount, Control, Latencies, Outcome};

use super::{Server, destination, end, mebibytes, start, to_float};
use crate::rig::clean;
use crate::rig::table::Sample;

/// The length of a measurement in the tables.
const TARGET: Duration = Duration::from_millis(1500);

const MESH: usize = 100;

/// The length of a short text, in bytes.
const SHORT: usize = 32;

/// Clients that log in at once.
const LOGINS: usize = 3000;

/// Pairs that send single messages beside the one that is measured, and how many a second in total.
const BESIDE_PAIRS: usize = 8;
const BESIDE_RATE: f64 = 50_000.0;

/// The search for the rate that a server can carry: where it begins, its step, and what it counts as
/// late.
const FIRST_RATE: f64 = 5_000.0;
const RATE_STEP: f64 = 1.4;
const LATE: Duration = Duration::from_millis(1);

pub const HEAD: &str = "| work | server | messages/s | p50 us | p99 us | p99.9 us | CPU time, us each | load, CPUs | peak MiB \
     | threads |\n| --- | --- | --: | --: | --: | --: | --: | --: | --: | --: |";

/// The work of one row.
#[derive(Debug)]
pub struct Work {
    pub name: String,
    kind: Kind,
    topology: Topology,
    size: usize,
    /// Approximate length of a measurement.
    target: Duration,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Stream,
    Mesh(Writes),
    Latency,
    /// All at once.
    Logins,
    /// Beside pairs that send this many messages a second in total.
    Beside(f64),
    /// Beside half as many as the server can carry.
    BesideHalf,
}

/// The figures of one server; 0 where a figure makes no sense for the work.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    /// Deliveries a second.
    pub rate: f64,
    /// In microseconds.
    pub p50: f64,
    pub p99: f64,
    pub p999: f64,
    /// The server's CPU time per delivery, in microseconds.
    pub cpu: f64,
    /// CPUs used by the load: near 1, its thread is the limit.
    pub load_cores: f64,
    /// Peak resident memory, in MiB.
    pub peak: f64,
    pub threads: f64,
}

pub fn works() -> Vec<Work> {
    let mut works = Vec::new();
    for pairs in [1, 8, 64] {
        for size in [32, 512] {
            let topology = Topology::pairs(pairs);
            works.push(Work::new(format!("pair/{pairs}x{size}"), Kind::Stream, topology, size));
        }
    }
    works.push(Work::new("fan_out/1to100x64", Kind::Stream, Topology::fan_out(100), 64));
    works.push(Work::new("room/100x64", Kind::Stream, Topology::room(MESH, false), 64));
    let kind = Kind::Mesh(Writes::HalfWindow);
    works.push(Work::new("mesh/100x32", kind, Topology::ring(MESH, MESH), SHORT));
    works.push(Work::mesh_at_once(MESH, TARGET));
    works.push(Work::new("latency/idle", Kind::Latency, Topology::pairs(1), SHORT));
    works.push(Work::new(
        format!("connect/{LOGINS}"),
        Kind::Logins,
        Topology::quiet(LOGINS),
        SHORT,
    ));
    works.push(Work::beside(BESIDE_RATE, TARGET));
    let topology = Topology::pairs(BESIDE_PAIRS).with_pair();
    works.push(Work::new("latency/beside_half", Kind::BesideHalf, topology, SHORT));
    works
}

impl Work {
    /// The raw relay forwards one sender's bytes to each recipient, so it has no rooms and no logins.
    pub fn suits(&self, server: Server) -> bool {
        let needs_names = self.topology.is_room || matches!(self.kind, Kind::Logins);
        !needs_names || server != Server::Raw
    }

    fn new(name: impl Into<String>, kind: Kind, topology: Topology, size: usize) -> Self {
        Self { name: name.into(), kind, topology, size, target: TARGET }
    }

    /// A mesh of this many clients, each of which writes each message as soon as it may.
    pub fn mesh_at_once(clients: usize, target: Duration) -> Self {
        let (name, kind) = (format!("mesh_at_once/{clients}x{SHORT}"), Kind::Mesh(Writes::AtOnce));
        Self { target, ..Self::new(name, kind, Topology::ring(clients, clients), SHORT) }
    }

    /// The latency of one message in flight beside this many single messages a second.
    pub fn beside(rate: f64, target: Duration) -> Self {
        let topology = Topology::pairs(BESIDE_PAIRS).with_pair();
        Self { target, ..Self::new("latency/beside_singles", Kind::Beside(rate), topology, SHORT) }
    }

    /// Starts the server, gives it the work, and ends it.
    pub fn measure(&self, server: Server, cpus: Option<&str>) -> Figures {
        let Self { topology, size, target, .. } = self;
        let target = *target;
        let echoing = Topology::room(topology.clients, server.protocol().echoes());
        let topology = if topology.is_room { &echoing } else { topology };
        let process = start(server, topology, *size, cpus);
        let (destination, control) = (&destination(server, &process), &Control::default());
        let protocol = server.protocol();
        let figures = match self.kind {
            Kind::Stream => {
                let stream = Stream::connect(protocol, destination, topology, *size, control);
                let mut stream = stream.expect("logins");
                let messages = stream::batch_messages(topology, *size) * topology.routes.len();
                let amount = |rounds| Amount::Messages(rounds * messages as u64);
                let deliveries = stream::deliveries(topology, *size);
                let work = |rounds| clean(stream.run(amount(rounds), control));
                Figures::of(&process, deliveries, target, work)
            }
            Kind::Mesh(writes) => {
                let mesh = Mesh::connect(
                    protocol,
                    destination,
                    topology,
                    topology.clients,
                    *size,
                    writes,
                    control,
                );
                let mut mesh = mesh.expect("logins");
                let work = |rounds| clean(mesh.run(Amount::Messages(1000 * rounds), control));
                Figures::of(&process, 1000, target, work)
            }
            Kind::Latency => {
                let ping = PingPong::connect(protocol, destination, topology, *size);
                let mut ping = ping.expect("logins");
                let work = |messages| clean(ping.run(Amount::Messages(messages), control));
                Figures::of(&process, 1, target, work).with(&ping.latencies)
            }
            Kind::Logins => {
                let mut logins = Logins::new().expect("a descriptor");
                let work = || clean(logins.storm(protocol, destination, topology));
                let sample = Sample::of(&process, topology.clients as u64, work);
                Figures::sampled(&process, &sample).with(logins.latencies())
            }
            Kind::Beside(_) | Kind::BesideHalf => {
                let rate = match self.kind {
                    Kind::Beside(rate) => rate,
                    _ => self.max_rate(server, cpus) / 2.0,
                };
                let mut beside = self.connect_beside(server, destination, rate);
                // Rate and CPU time are those of all messages, most of which are the pairs'.
                let mut share = 1.0;
                let work = |messages| {
                    let outcome = beside.run(Amount::Messages(messages), control);
                    if let Ok(Outcome { received, beside: Some(beside), .. }) = &outcome {
                        share = to_float(*received) / to_float(received + beside.received);
                    }
                    clean(outcome)
                };
                let figures = Figures::of(&process, 1, target, work).with(beside.latencies());
                Figures { rate: figures.rate / share, cpu: figures.cpu * share, ..figures }
            }
        };
        end(server, process);
        figures
    }

    fn connect_beside(&self, server: Server, destination: &Target, rate: f64) -> Beside {
        let (topology, control) = (&self.topology, Control::default());
        let beside =
            Beside::connect(server.protocol(), destination, topology, self.size, rate, &control);
        beside.expect("logins")
    }

    /// How many single messages a second the server carries without falling behind. A server that
    /// falls behind gets several messages with one read, so its latency tells, not its throughput.
    fn max_rate(&self, server: Server, cpus: Option<&str>) -> f64 {
        let mut carried = FIRST_RATE;
        loop {
            let rate = carried * RATE_STEP;
            let process = start(server, &self.topology, self.size, cpus);
            let mut beside = self.connect_beside(server, &destination(server, &process), rate);
            clean(beside.run(Amount::Time(TARGET / 4), &Control::default()));
            let is_late = beside.pairs_latencies().quantile(0.5) > LATE;
            drop(beside);
            end(server, process);
            if is_late {
                return carried;
            }
            carried = rate;
        }
    }
}

impl Figures {
    /// Runs growing amounts of `work`, of `count` deliveries each, until one takes long enough to
    /// measure, and then as many as take about the time `target`.
    fn of(
        process: &Process,
        count: u64,
        target: Duration,
        mut work: impl FnMut(u64) -> Duration,
    ) -> Self {
        let (mut rounds, mut elapsed) = (1, work(1));
        while elapsed < target / 10 {
            rounds *= 2;
            elapsed = work(rounds);
        }
        let per_round = elapsed / u32::try_from(rounds).unwrap_or(u32::MAX);
        let rounds = target.as_nanos() / per_round.as_nanos().max(1);
        let rounds = u64::try_from(rounds).unwrap_or(u64::MAX).max(1);
        Self::sampled(process, &Sample::of(process, rounds * count, || work(rounds)))
    }

    fn sampled(process: &Process, sample: &Sample) -> Self {
        let (deliveries, seconds) = (to_float(sample.count), sample.elapsed.as_secs_f64());
        Self {
            rate: deliveries / seconds,
            p50: 0.0,
            p99: 0.0,
            p999: 0.0,
            cpu: sample.server_cpu.as_secs_f64() * 1e6 / deliveries,
            load_cores: sample.load_cpu.as_secs_f64() / seconds,
            peak: mebibytes(process.status("VmHWM").expect("procfs")),
            threads: to_float(process.status("Threads").expect("procfs")),
        }
    }

    fn with(self, latencies: &Latencies) -> Self {
        let micros = |quantile| latencies.quantile(quantile).as_secs_f64() * 1e6;
        Self { p50: micros(0.5), p99: micros(0.99), p999: micros(0.999), ..self }
    }

    /// A row of the table.
    pub fn text(&self, work: &str, server: &str) -> String {
        let Self { rate, p50, p99, p999, cpu, load_cores, peak, threads } = self;
        let time = |time: &f64| if *time > 0.0 { format!("{time:.1}") } else { "-".to_owned() };
        let rate = if *rate < 1e6 {
            format!("{:.1} k", rate / 1e3)
        } else {
            format!("{:.2} M", rate / 1e6)
        };
        let (p50, p99, p999) = (time(p50), time(p99), time(p999));
        format!(
            "| {work} | {server} | {rate} | {p50} | {p99} | {p999} | {cpu:.4} | {load_cores:.2} \
             | {peak:.1} | {threads} |"
        )
    }
}
