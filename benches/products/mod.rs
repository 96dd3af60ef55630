//! How each server is started, and what it costs when it has nothing to do.

#![allow(unreachable_pub, reason = "a bench has no other crate to be public to")]

pub mod dialect;
pub mod stop;
pub mod work;

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use a_chat::load::client::Client;
use a_chat::load::process::Process;
use a_chat::load::protocol::Protocol;
use a_chat::load::topology::Topology;
use dialect::Dialect;
use tempfile::NamedTempFile;

use crate::rig::baseline;
use crate::rig::servers::{self, chat, command, free_address, start_on};
use crate::rig::table::median_of;

/// In the order in which they take turns.
pub const SERVERS: [Protocol; 4] = [Protocol::Chat, Protocol::Raw, Protocol::Nats, Protocol::Redis];

/// How many idle clients are connected to find out what one of them costs.
const IDLE_CLIENTS: usize = 5000;

pub const IDLE_HEAD: &str = "| server | start to first accept, ms | resident, MiB | KiB per idle client | binary, MiB |\n\
     | --- | --: | --: | --: | --: |";

pub fn name(server: Protocol) -> &'static str {
    match server {
        Protocol::Chat => "a-chat",
        Protocol::Raw => "raw relay",
        Protocol::Nats => "NATS",
        Protocol::Redis => "Redis",
    }
}

pub fn is_a_product(server: Protocol) -> bool {
    server != Protocol::Raw
}

/// True if the server can be started.
pub fn is_there(server: Protocol) -> bool {
    match server {
        Protocol::Chat | Protocol::Raw => true,
        Protocol::Nats => find("nats-server").is_some(),
        Protocol::Redis => find("redis-server").is_some(),
    }
}

/// Starts a server for a topology's clients, whose texts are `size` bytes long.
pub fn start(server: Protocol, topology: &Topology, size: usize, cpus: Option<&str>) -> Process {
    if server == Protocol::Raw {
        let name = topology.name(0);
        return baseline::relay(topology, server.frame(&name, &name, size).stride, cpus);
    }
    let address = free_address();
    let mut product = product(server, address, cpus);
    if server == Protocol::Redis {
        // By default it drops a subscriber that is 32 MB behind; nothing may be lost here.
        product.args(["--client-output-buffer-limit", "pubsub 0 0 0"]);
    }
    start_on(&mut product, address)
}

/// Ends a server; a-chat has to find that nothing was lost.
pub fn end(server: Protocol, process: Process) {
    if server == Protocol::Chat {
        servers::end(process);
    }
}

fn product(server: Protocol, address: SocketAddr, cpus: Option<&str>) -> Command {
    let (host, port) = (address.ip().to_string(), address.port().to_string());
    let installed = |name| find(name).expect("installed, as was checked before");
    let mut product = match server {
        Protocol::Nats => {
            let mut nats = command(installed("nats-server"), cpus);
            nats.args(["--addr", &host, "--port", &port, "--log", "/dev/null"]);
            nats
        }
        Protocol::Redis => {
            let mut redis = command(installed("redis-server"), cpus);
            redis.args(["--bind", &host, "--port", &port, "--save", "", "--appendonly", "no"]);
            redis.args(["--maxclients", "15000", "--loglevel", "warning"]);
            redis
        }
        Protocol::Chat | Protocol::Raw => chat(&address.to_string(), cpus),
    };
    product.stdin(Stdio::null());
    product
}

/// Those of which it is measured what a stop does to what they have taken.
pub const STOPPED: [Dialect; 4] = [Dialect::Chat, Dialect::Ngircd, Dialect::Nats, Dialect::Redis];

/// True if the server can be started.
pub fn can_be_stopped(server: Dialect) -> bool {
    match server {
        Dialect::Chat => true,
        Dialect::Ngircd => find("ngircd").is_some(),
        Dialect::Nats => is_there(Protocol::Nats),
        Dialect::Redis => is_there(Protocol::Redis),
    }
}

/// Starts a server with the limits that it has by default.
pub fn start_to_stop(server: Dialect) -> Process {
    let address = free_address();
    let mut command = match server {
        Dialect::Chat => product(Protocol::Chat, address, None),
        Dialect::Nats => product(Protocol::Nats, address, None),
        Dialect::Redis => product(Protocol::Redis, address, None),
        Dialect::Ngircd => {
            // It has read its settings when it accepts.
            let settings = ngircd_settings(address);
            let mut ngircd =
                command(find("ngircd").expect("installed, as was checked before"), None);
            ngircd.arg("--nodaemon").arg("--config").arg(settings.path());
            return start_on(&mut ngircd, address);
        }
    };
    start_on(&mut command, address)
}

/// What ngircd does not take from its command line. Without penalties it reads on when a client
/// sends more than a few lines a second, as all others do.
fn ngircd_settings(address: SocketAddr) -> NamedTempFile {
    let mut file = NamedTempFile::new().expect("a temporary file");
    let (host, port) = (address.ip(), address.port());
    let settings = format!(
        "[Global]\nName = irc.bench\nInfo = bench\nListen = {host}\nPorts = {port}\n\
         MotdPhrase = bench\nAdminEMail = bench@localhost\n\
         [Limits]\nMaxConnectionsIP = 0\nMaxPenaltyTime = 0\n\
         [Options]\nDNS = no\nIdent = no\nPAM = no\n"
    );
    file.write_all(settings.as_bytes()).expect("room for a few lines");
    file
}

/// An executable of that name, also where only root looks for it.
fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into()]);
    folders.map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// What a server costs that has nothing to do, as a row of the table.
pub fn idle(server: Protocol, rounds: usize) -> String {
    let mut starts = Vec::new();
    for _ in 0..rounds.max(1) * 3 {
        let address = free_address();
        let mut product = product(server, address, None);
        let started = Instant::now();
        let process = start_on(&mut product, address);
        starts.push(started.elapsed().as_secs_f64() * 1e3);
        // Its socket accepts before it listens to signals; when it answers it does.
        let known = Client::subscribe(server, address, "first", "first").expect("a login");
        drop(known);
        end(server, process);
    }
    // Nobody sends anything.
    let topology = Topology::quiet(IDLE_CLIENTS);
    let process = start(server, &topology, 32, None);
    let resident = |process: &Process| mebibytes(process.status("VmRSS").expect("procfs"));
    let before = resident(&process);
    // One connection each: what Redis needs a second one for is not done here.
    let connect = |client| {
        let name = topology.name(client);
        Client::subscribe(server, process.address, &name, &name).expect("a login")
    };
    let clients: Vec<_> = (0..topology.clients).map(connect).collect();
    let grown = resident(&process) - before;
    let size = mebibytes(process.executable_size().expect("procfs") / 1024);
    drop(clients);
    end(server, process);
    let each = grown * 1024.0 / to_float(IDLE_CLIENTS as u64);
    let start = median_of(starts);
    format!("| {} | {start:.1} | {before:.1} | {each:.1} | {size:.1} |", name(server))
}

/// From KiB, as procfs has it.
pub fn mebibytes(kibibytes: u64) -> f64 {
    to_float(kibibytes) / 1024.0
}

#[expect(clippy::cast_precision_loss, reason = "such numbers stay far below 2^52")]
pub fn to_float(number: u64) -> f64 {
    number as f64
}
