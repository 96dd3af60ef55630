//! Starting each server, and its cost when idle.

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

/// Idle clients connected to measure the memory of one.
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

pub fn is_product(server: Protocol) -> bool {
    server != Protocol::Raw
}

/// True if the server can be started.
pub fn is_installed(server: Protocol) -> bool {
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
    let mut server_command = server_command(server, address, cpus);
    if server == Protocol::Redis {
        // By default Redis drops a subscriber that is 32 MB behind; nothing may be lost here.
        server_command.args(["--client-output-buffer-limit", "pubsub 0 0 0"]);
    }
    start_on(&mut server_command, address)
}

/// Ends a server; a-chat must report that nothing was lost.
pub fn end(server: Protocol, process: Process) {
    if server == Protocol::Chat {
        servers::end(process);
    }
}

fn server_command(server: Protocol, address: SocketAddr, cpus: Option<&str>) -> Command {
    let (host, port) = (address.ip().to_string(), address.port().to_string());
    let installed = |name| find(name).expect("installed, as was checked before");
    let mut server_command = match server {
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
    server_command.stdin(Stdio::null());
    server_command
}

/// The products that are stopped in the middle of a stream.
pub const STOPPED: [Dialect; 4] = [Dialect::Chat, Dialect::Ngircd, Dialect::Nats, Dialect::Redis];

/// True if the server can be started.
pub fn can_be_stopped(server: Dialect) -> bool {
    match server {
        Dialect::Chat => true,
        Dialect::Ngircd => find("ngircd").is_some(),
        Dialect::Nats => is_installed(Protocol::Nats),
        Dialect::Redis => is_installed(Protocol::Redis),
    }
}

/// Starts a server with its default limits.
pub fn start_to_stop(server: Dialect) -> Process {
    let address = free_address();
    let mut command = match server {
        Dialect::Chat => server_command(Protocol::Chat, address, None),
        Dialect::Nats => server_command(Protocol::Nats, address, None),
        Dialect::Redis => server_command(Protocol::Redis, address, None),
        Dialect::Ngircd => {
            // ngircd has read its settings once it accepts.
            let settings = ngircd_settings(address);
            let mut ngircd =
                command(find("ngircd").expect("installed, as was checked before"), None);
            ngircd.arg("--nodaemon").arg("--config").arg(settings.path());
            return start_on(&mut ngircd, address);
        }
    };
    start_on(&mut command, address)
}

/// Settings that ngircd does not accept on its command line. Without penalties it keeps reading
/// from a client that sends more than a few lines a second, as all others do.
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

/// An executable of this name, including the directory that is only in root's path.
fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into()]);
    folders.map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// A row of the table: the cost of an idle server.
pub fn idle(server: Protocol, rounds: u32) -> String {
    let mut starts = Vec::new();
    for _ in 0..rounds * 3 {
        let address = free_address();
        let mut server_command = server_command(server, address, None);
        let started = Instant::now();
        let process = start_on(&mut server_command, address);
        starts.push(started.elapsed().as_secs_f64() * 1e3);
        // Its socket accepts before it handles signals; once it replies, it does both.
        let known = Client::subscribe(server, address, "first", "first").expect("a login");
        drop(known);
        end(server, process);
    }
    // No client sends anything.
    let topology = Topology::quiet(IDLE_CLIENTS);
    let process = start(server, &topology, 32, None);
    let resident = |process: &Process| mebibytes(process.status("VmRSS").expect("procfs"));
    let before = resident(&process);
    // One connection each, even for Redis, whose second one is not needed here.
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

/// From KiB, the unit of procfs.
pub fn mebibytes(kibibytes: u64) -> f64 {
    to_float(kibibytes) / 1024.0
}

#[expect(clippy::cast_precision_loss, reason = "such numbers stay far below 2^52")]
pub fn to_float(number: u64) -> f64 {
    number as f64
}
