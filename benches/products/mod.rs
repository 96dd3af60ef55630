//! Starting each server, and its cost when idle.

#![allow(unreachable_pub, reason = "a bench has no other crate to be public to")]

pub mod curves;
pub mod dialect;
pub mod stop;
#[cfg(feature = "tls")]
pub mod tls;
pub mod work;

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use a_chat::load::client::Client;
use a_chat::load::link::Target;
use a_chat::load::process::Process;
use a_chat::load::protocol::Protocol;
use a_chat::load::topology::Topology;
use dialect::Dialect;
use tempfile::NamedTempFile;

use crate::rig::baseline;
use crate::rig::servers::{self, chat, command, free_address, start_on};
use crate::rig::table::median_of;

/// A server that gets the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    Chat,
    /// The baseline.
    Raw,
    Nats,
    /// Another version of it, whose path is in [`OTHER_NATS`].
    OtherNats,
    Redis,
    Valkey,
    /// With a second I/O thread, which spins for work while there is some.
    ValkeyThreads,
}

/// In the order in which they take turns.
pub const SERVERS: [Server; 7] = [
    Server::Chat,
    Server::Raw,
    Server::Nats,
    Server::OtherNats,
    Server::Redis,
    Server::Valkey,
    Server::ValkeyThreads,
];

/// The environment variable that holds the path of a second `nats-server`.
const OTHER_NATS: &str = "OTHER_NATS";

/// Idle clients connected to measure the memory of one.
const IDLE_CLIENTS: usize = 5000;

pub const IDLE_HEAD: &str = "| server | start to first accept, ms | resident, MiB | KiB per idle client | binary, MiB |\n\
     | --- | --: | --: | --: | --: |";

impl Server {
    pub fn name(self) -> &'static str {
        match self {
            Self::Chat => "a-chat",
            Self::Raw => "raw relay",
            Self::Nats => "NATS",
            Self::OtherNats => "the other NATS",
            Self::Redis => "Redis",
            Self::Valkey => "Valkey",
            Self::ValkeyThreads => "Valkey, 2 I/O threads",
        }
    }

    /// What its clients speak.
    pub fn protocol(self) -> Protocol {
        match self {
            Self::Chat => Protocol::Chat,
            Self::Raw => Protocol::Raw,
            Self::Nats | Self::OtherNats => Protocol::Nats,
            Self::Redis | Self::Valkey | Self::ValkeyThreads => Protocol::Redis,
        }
    }

    /// Its program, if that is installed; none comes with the bench.
    fn program(self) -> Option<PathBuf> {
        match self {
            Self::Chat | Self::Raw => None,
            Self::Nats => find("nats-server"),
            Self::OtherNats => std::env::var_os(OTHER_NATS).map(PathBuf::from),
            Self::Redis => find("redis-server"),
            Self::Valkey | Self::ValkeyThreads => find("valkey-server"),
        }
    }

    pub fn is_product(self) -> bool {
        self != Self::Raw
    }

    /// What it says of its version.
    pub fn version(self) -> String {
        let output = self.program().map(|it| Command::new(it).arg("--version").output());
        match output {
            Some(Ok(output)) => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
            _ => env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// True if the server can be started, with TLS if that is asked for.
    pub fn is_installed(self) -> bool {
        #[cfg(feature = "tls")]
        if tls::is_asked() && !tls::is_spoken_by(self) {
            return false;
        }
        matches!(self, Self::Chat | Self::Raw) || self.program().is_some()
    }
}

/// Starts a server for a topology's clients, whose texts are `size` bytes long.
pub fn start(server: Server, topology: &Topology, size: usize, cpus: Option<&str>) -> Process {
    if server == Server::Raw {
        let name = topology.name(0);
        let stride = server.protocol().frame(&name, &name, size).stride;
        return baseline::relay(topology, stride, cpus);
    }
    let address = free_address();
    let mut server_command = server_command(server, address, cpus);
    if server.protocol() == Protocol::Redis {
        // By default Redis drops a subscriber that is 32 MB behind; nothing may be lost here.
        server_command.args(["--client-output-buffer-limit", "pubsub 0 0 0"]);
    }
    start_on(&mut server_command, address)
}

/// Ends a server; a-chat must report that nothing was lost.
pub fn end(server: Server, process: Process) {
    if server == Server::Chat {
        servers::end(process);
    }
}

fn server_command(server: Server, address: SocketAddr, cpus: Option<&str>) -> Command {
    let (host, port) = (address.ip().to_string(), address.port().to_string());
    let mut command = if server == Server::Chat {
        chat(&address.to_string(), cpus)
    } else {
        command(server.program().expect("installed, as was checked before"), cpus)
    };
    if server.protocol() == Protocol::Nats {
        command.args(["--addr", &host, "--port", &port, "--log", "/dev/null"]);
    } else if server != Server::Chat {
        command.args(["--bind", &host, "--port", &port, "--save", "", "--appendonly", "no"]);
        command.args(["--maxclients", "15000", "--loglevel", "warning"]);
    }
    if server == Server::ValkeyThreads {
        command.args(["--io-threads", "2"]);
    }
    #[cfg(feature = "tls")]
    tls::configure(server, &mut command, address.port());
    command.stdin(Stdio::null());
    command
}

/// Where the load connects to: over TLS if that is asked for.
pub fn destination(server: Server, process: &Process) -> Target {
    #[cfg(feature = "tls")]
    return tls::destination(server, process);
    #[cfg(not(feature = "tls"))]
    {
        let _ = server;
        process.address.clone().into()
    }
}

/// The products that are stopped in the middle of a stream.
pub const STOPPED: [Dialect; 4] = [Dialect::Chat, Dialect::Ngircd, Dialect::Nats, Dialect::Redis];

/// True if the server can be started.
pub fn can_be_stopped(server: Dialect) -> bool {
    match server {
        Dialect::Chat => true,
        Dialect::Ngircd => find("ngircd").is_some(),
        Dialect::Nats => Server::Nats.is_installed(),
        Dialect::Redis => Server::Redis.is_installed(),
    }
}

/// Starts a server with its default limits.
pub fn start_to_stop(server: Dialect) -> Process {
    let address = free_address();
    let mut command = match server {
        Dialect::Chat => server_command(Server::Chat, address, None),
        Dialect::Nats => server_command(Server::Nats, address, None),
        Dialect::Redis => server_command(Server::Redis, address, None),
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
pub fn idle(server: Server, rounds: u32) -> String {
    let mut starts = Vec::new();
    for _ in 0..rounds * 3 {
        let address = free_address();
        let mut server_command = server_command(server, address, None);
        let started = Instant::now();
        let process = start_on(&mut server_command, address);
        starts.push(started.elapsed().as_secs_f64() * 1e3);
        // Its socket accepts before it handles signals; once it replies, it does both.
        let destination = destination(server, &process);
        let known = Client::subscribe(server.protocol(), &destination, "first", "first");
        drop(known.expect("a login"));
        end(server, process);
    }
    // No client sends anything.
    let topology = Topology::quiet(IDLE_CLIENTS);
    let process = start(server, &topology, 32, None);
    let resident = |process: &Process| mebibytes(process.status("VmRSS").expect("procfs"));
    let before = resident(&process);
    let destination = destination(server, &process);
    // One connection each, even for Redis, whose second one is not needed here.
    let connect = |client| {
        let name = topology.name(client);
        Client::subscribe(server.protocol(), &destination, &name, &name).expect("a login")
    };
    let clients: Vec<_> = (0..topology.clients).map(connect).collect();
    let grown = resident(&process) - before;
    let size = mebibytes(process.executable_size().expect("procfs") / 1024);
    drop(clients);
    end(server, process);
    let each = grown * 1024.0 / to_float(IDLE_CLIENTS as u64);
    let start = median_of(starts);
    format!("| {} | {start:.1} | {before:.1} | {each:.1} | {size:.1} |", server.name())
}

/// From KiB, the unit of procfs.
pub fn mebibytes(kibibytes: u64) -> f64 {
    to_float(kibibytes) / 1024.0
}

#[expect(clippy::cast_precision_loss, reason = "such numbers stay far below 2^52")]
pub fn to_float(number: u64) -> f64 {
    number as f64
}
