//! Two nodes of a cluster beside one node, beside a bare link through the same engine, beside two
//! clustered `nats-server` and beside Redis Pub/Sub through one server: the same work in turn, and one
//! table. Half of the messages of `mesh` and all of `pair` and `latency` go from one node to the other.
//!
//! `ROUNDS` sets the number of rounds; arguments select work by parts of its name. Every measurement
//! starts its servers afresh, without files.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a table is what a run is for")]
#![allow(clippy::cast_precision_loss, reason = "such numbers stay far below 2^52")]

mod rig;

use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use a_chat::load::latency::PingPong;
use a_chat::load::link::Target;
use a_chat::load::mesh::{Mesh, Writes};
use a_chat::load::process::Process;
use a_chat::load::protocol::Protocol;
use a_chat::load::stream::Stream;
use a_chat::load::topology::Topology;
use a_chat::load::{Aborted, Amount, Control, Outcome};
use rig::baseline;
use rig::clean;
use rig::servers::{chat, free_address, start_on};
use rig::table::median_of;

const TIME: Amount = Amount::Time(Duration::from_secs(2));

/// A message as it is delivered: 32 bytes of text behind `from c00: `.
const FRAME: usize = 44;

/// An entry of a stream: its number, and its fields and their values in turn.
type Entry = (String, Vec<String>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum System {
    OneNode,
    TwoNodes,
    /// Parcels of [`FRAME`]s through the engine, and nothing else.
    BareLink,
    TwoNats,
    RedisPubSub,
}

const SYSTEMS: [System; 5] =
    [System::OneNode, System::TwoNodes, System::BareLink, System::TwoNats, System::RedisPubSub];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    Mesh(Writes),
    Pair,
    Latency,
}

const WORKS: [(Work, &str); 4] = [
    (Work::Mesh(Writes::HalfWindow), "mesh/100x32"),
    (Work::Mesh(Writes::AtOnce), "mesh_at_once/100x32"),
    (Work::Pair, "pair/8x32"),
    (Work::Latency, "latency"),
];

/// Running servers; dropped from the top, nodes before their engine.
struct Running {
    nodes: Vec<Process>,
    engine: Option<Process>,
}

fn main() {
    if baseline::run_if_asked() {
        return;
    }
    let wanted: Vec<String> = std::env::args().skip(1).filter(|it| !it.starts_with("--")).collect();
    let rounds = std::env::var("ROUNDS").ok().and_then(|it| it.parse().ok()).unwrap_or(3);
    println!("| work | system | messages/s | p50 us | p99 us |\n| --- | --- | --: | --: | --: |");
    for (work, name) in WORKS {
        if !wanted.is_empty() && !wanted.iter().any(|it| name.contains(it.as_str())) {
            continue;
        }
        let mut figures = vec![Vec::new(); SYSTEMS.len()];
        for _ in 0..rounds {
            for (figures, system) in figures.iter_mut().zip(SYSTEMS) {
                figures.extend(measure(work, system));
            }
        }
        for (figures, system) in figures.iter().zip(SYSTEMS).filter(|(it, _)| !it.is_empty()) {
            let median =
                |at: usize| median_of(figures.iter().map(|it: &[f64; 3]| it[at]).collect());
            let [rate, p50, p99] = [median(0), median(1), median(2)];
            println!("| {name} | {system:?} | {:.0} k | {p50:.0} | {p99:.0} |", rate / 1e3);
        }
    }
}

/// Messages a second, and two quantiles of the latency in microseconds; nothing if a program is missing.
fn measure(work: Work, system: System) -> Option<[f64; 3]> {
    if system == System::BareLink {
        let engine = engine()?;
        let url = format!("redis://{}/", engine.address);
        return Some(if work == Work::Latency { ping_engine(&url) } else { flood_engine(&url) });
    }
    let running = start(system)?;
    let protocol = match system {
        System::TwoNats => Protocol::Nats,
        System::RedisPubSub => Protocol::Redis,
        _ => Protocol::Chat,
    };
    let targets: Vec<Target> = running.nodes.iter().map(|it| it.address.clone().into()).collect();
    let (first, others) = targets.split_first()?;
    let of = |topology| Topology { others: others.to_vec(), ..topology };
    let control = &Control::default();
    let figures = match work {
        Work::Mesh(writes) => {
            let topology = of(Topology::ring(100, 100));
            let mesh = Mesh::connect(protocol, first, &topology, 100, 32, writes, control);
            let mut mesh = mesh.expect("logins");
            settle(system);
            let outcome = mesh.run(TIME, control);
            figures_of(system, outcome)
        }
        Work::Pair => {
            let topology = of(Topology::pairs(8));
            let stream = Stream::connect(protocol, first, &topology, 32, control);
            let mut stream = stream.expect("logins");
            settle(system);
            let outcome = stream.run(TIME, control);
            figures_of(system, outcome)
        }
        Work::Latency => {
            let topology = of(Topology::pairs(1));
            let mut ping = PingPong::connect(protocol, first, &topology, 32).expect("logins");
            settle(system);
            let outcome = ping.run(TIME, control);
            let received = outcome.as_ref().map_or(0, |it| it.received);
            let micros = |quantile| ping.latencies.quantile(quantile).as_secs_f64() * 1e6;
            let [rate, ..] = rate(received, clean(outcome));
            [rate, micros(0.5), micros(0.99)]
        }
    };
    for mut node in running.nodes {
        node.stop();
        let _ = node.wait();
    }
    drop(running.engine);
    Some(figures)
}

/// NATS may lose messages, which is told; nobody else may.
fn figures_of(system: System, outcome: Result<Outcome, Aborted>) -> [f64; 3] {
    match outcome {
        Ok(Outcome { owed, received, elapsed, .. }) if system == System::TwoNats => {
            if received < owed {
                eprintln!("two NATS servers lost {} of {owed} messages", owed - received);
            }
            rate(received, elapsed)
        }
        outcome => rate(outcome.as_ref().map_or(0, |it| it.received), clean(outcome)),
    }
}

/// Interest in a subject takes a moment to reach the other server of NATS.
fn settle(system: System) {
    if system == System::TwoNats {
        thread::sleep(Duration::from_millis(500));
    }
}

fn rate(received: u64, elapsed: Duration) -> [f64; 3] {
    [received as f64 / elapsed.as_secs_f64(), 0.0, 0.0]
}

fn engine() -> Option<Process> {
    let address = free_address();
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1", "--port", &address.port().to_string()]);
    command.args(["--save", "", "--appendonly", "no", "--loglevel", "warning"]);
    command.args(["--client-output-buffer-limit", "pubsub 0 0 0"]);
    is_installed("redis-server").then(|| start_on(&mut command, address))
}

fn is_installed(program: &str) -> bool {
    let found = Command::new(program).arg("--version").stdout(Stdio::null()).status().is_ok();
    if !found {
        eprintln!("{program} is not installed and is skipped");
    }
    found
}

fn start(system: System) -> Option<Running> {
    let one = |command: &mut Command, address| vec![start_on(command, address)];
    Some(match system {
        System::OneNode => {
            let address = free_address();
            Running { nodes: one(&mut chat(&address.to_string(), None), address), engine: None }
        }
        System::TwoNodes => {
            let engine = engine()?;
            let url = format!("redis://{}/", engine.address);
            let node = |name: &str| {
                let address = free_address();
                let mut command = chat(&address.to_string(), None);
                command.args(["--cluster", &url, "--node", name, "--cluster-first"]);
                start_on(&mut command, address)
            };
            let nodes = ["a", "b"].map(node);
            Running { nodes: nodes.into(), engine: Some(engine) }
        }
        System::TwoNats => {
            let (addresses, routes) =
                ([free_address(), free_address()], [free_address(), free_address()]);
            let route = |at: usize| format!("nats://{}", routes[at]);
            let node = |at: usize| {
                let port = addresses[at].port().to_string();
                let mut command = Command::new("/usr/sbin/nats-server");
                command.args(["--addr", "127.0.0.1", "--port", &port, "--log", "/dev/null"]);
                command.args(["--cluster", &route(at), "--cluster_name", "bench"]);
                command.args(["--routes", &route(1 - at)]);
                start_on(&mut command, addresses[at])
            };
            if !is_installed("/usr/sbin/nats-server") {
                return None;
            }
            let nodes = [0, 1].map(node);
            thread::sleep(Duration::from_secs(1));
            Running { nodes: nodes.into(), engine: None }
        }
        System::RedisPubSub => Running { nodes: vec![engine()?], engine: None },
        System::BareLink => return None,
    })
}

/// Parcels of 64 KiB, a few at a time, and a reader that trims: messages a second.
fn flood_engine(url: &str) -> [f64; 3] {
    const PARCELS: u64 = 40_000;
    const AHEAD: u64 = 64;
    let client = redis::Client::open(url).expect("a URL");
    let (mut writes, mut reads) =
        (client.get_connection().expect("one"), client.get_connection().expect("another"));
    let parcel = vec![b'x'; 64 * 1024];
    let (done, seen) = std::sync::mpsc::channel::<u64>();
    let started = Instant::now();
    let reader = thread::spawn(move || {
        let (mut after, mut count) = ("0-0".to_owned(), 0);
        while count < PARCELS {
            let mut pipe = redis::pipe();
            pipe.cmd("XTRIM").arg("link").arg("MINID").arg("=").arg(&after).ignore();
            pipe.cmd("XREAD").arg("COUNT").arg(64).arg("BLOCK").arg(100);
            pipe.arg("STREAMS").arg("link").arg(&after);
            let (value,): (redis::Value,) = pipe.query(&mut reads).expect("entries");
            let redis::Value::Array(streams) = value else { continue };
            let Some(redis::Value::Array(stream)) = streams.into_iter().next() else { continue };
            let Some(redis::Value::Array(entries)) = stream.into_iter().nth(1) else { continue };
            count += entries.len() as u64;
            if let Some(redis::Value::Array(entry)) = entries.into_iter().next_back() {
                if let Some(redis::Value::BulkString(id)) = entry.into_iter().next() {
                    after = String::from_utf8_lossy(&id).into_owned();
                }
            }
            let _ = done.send(count);
        }
    });
    let (mut sent, mut received) = (0, 0);
    while sent < PARCELS {
        while sent - received >= AHEAD {
            received = seen.recv().expect("a reader");
        }
        let mut pipe = redis::pipe();
        let count = (AHEAD - (sent - received)).min(16).min(PARCELS - sent);
        for _ in 0..count {
            pipe.cmd("XADD").arg("link").arg("*").arg("b").arg(&parcel[..]).ignore();
        }
        let () = pipe.query(&mut writes).expect("room");
        sent += count;
    }
    reader.join().expect("no panic");
    rate(PARCELS * (parcel.len() / FRAME) as u64, started.elapsed())
}

/// One message in flight: half a round trip.
fn ping_engine(url: &str) -> [f64; 3] {
    const ROUNDS: usize = 5_000;
    let connect =
        || redis::Client::open(url).and_then(|it| it.get_connection()).expect("the engine");
    let add = |connection: &mut redis::Connection, key: &str| {
        let () = redis::cmd("XADD")
            .arg(key)
            .arg("*")
            .arg("b")
            .arg([b'x'; FRAME].as_slice())
            .query::<String>(connection)
            .map(drop)
            .expect("room");
    };
    let read = |connection: &mut redis::Connection, key: &str, after: &mut String| loop {
        let mut cmd = redis::cmd("XREAD");
        cmd.arg("BLOCK").arg(1000).arg("STREAMS").arg(key).arg(after.as_str());
        let reply: Vec<(String, Vec<Entry>)> = cmd.query(connection).unwrap_or_default();
        if let Some((id, _)) = reply.first().and_then(|(_, entries)| entries.last()) {
            id.clone_into(after);
            return;
        }
    };
    let (mut there, mut there_reads) = (connect(), connect());
    let echo = thread::spawn(move || {
        let mut after = "0-0".to_owned();
        for _ in 0..ROUNDS {
            read(&mut there_reads, "ping", &mut after);
            add(&mut there, "pong");
        }
    });
    let (mut here, mut here_reads) = (connect(), connect());
    let (mut times, mut after) = (Vec::with_capacity(ROUNDS), "0-0".to_owned());
    let started = Instant::now();
    for _ in 0..ROUNDS {
        let sent = Instant::now();
        add(&mut here, "ping");
        read(&mut here_reads, "pong", &mut after);
        times.push(sent.elapsed().as_secs_f64() * 1e6 / 2.0);
    }
    let [rate, ..] = rate(2 * ROUNDS as u64, started.elapsed());
    echo.join().expect("no panic");
    times.sort_by(f64::total_cmp);
    [rate, times[ROUNDS / 2], times[ROUNDS * 99 / 100]]
}
