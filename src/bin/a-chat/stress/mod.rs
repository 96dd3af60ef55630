//! `stress`: puts a server under load, and says how much went through and how long it took.
//!
//! The load runs on the main thread; another one shows how far it is, and signals come on one of
//! their own: the first ends the load early, with the figures so far, the next one at once.

mod figures;
mod own_server;
mod progress;

use std::error::Error;
use std::net::{SocketAddr, ToSocketAddrs};
use std::process::ExitCode;
use std::sync::Arc;

use crate::cli::{Mode, Plan, StressArgs};
use a_chat::load::client::Client;
use a_chat::load::latency::PingPong;
use a_chat::load::mesh::Mesh;
use a_chat::load::open_loop::OpenLoop;
use a_chat::load::process::own_cpu;
use a_chat::load::protocol::Protocol;
use a_chat::load::stream::Stream;
use a_chat::load::topology::Topology;
use a_chat::load::{self, Control, Outcome, logins};

use self::figures::Figures;
use self::own_server::OwnServer;
use self::progress::Progress;
use crate::output;
use crate::signals::{self, ShutdownSignal};

/// The exit status of a process that an interrupt has ended.
const INTERRUPTED: i32 = 130;

/// Puts the server under load: success if everything arrived, once and in order.
pub(crate) fn run(args: &StressArgs) -> Result<ExitCode, Box<dyn Error>> {
    let plan = args.plan()?;
    a_chat::raise_nofile_limit();
    plan.check_capacity()?;
    let control = Arc::new(Control::default());
    stop_on_signals(&control)?;
    let (address, server) = match &plan.address {
        Some(address) => (resolve(address)?, None),
        None => OwnServer::start().map(|server| (server.address(), Some(server)))?,
    };
    let topology = plan.topology(prefix(server.is_some()));
    let measured = measure(&plan, address, &topology, server, &control);
    let figures = measured.map_err(|error| format!("{address}: {error}"))?;
    let text = if args.json { figures.json() } else { figures.table() };
    output::to_stdout(text.as_bytes())?;
    match figures.failure() {
        None => Ok(ExitCode::SUCCESS),
        Some(complaint) => Err(complaint.into()),
    }
}

/// The first address that a name stands for.
fn resolve(address: &str) -> Result<SocketAddr, String> {
    let addresses = address.to_socket_addrs();
    let mut addresses = addresses.map_err(|error| format!("cannot find {address}: {error}"))?;
    addresses.next().ok_or_else(|| format!("cannot find {address}"))
}

/// Names that nobody else has are short on a server of its own, and random elsewhere.
fn prefix(is_own: bool) -> String {
    let random: String = std::iter::repeat_with(fastrand::alphanumeric).take(6).collect();
    if is_own { "c".to_owned() } else { format!("s{random}-") }
}

/// Connects the clients, has them work, and ends the server if it is its own.
fn measure(
    plan: &Plan,
    address: SocketAddr,
    topology: &Topology,
    server: Option<OwnServer>,
    control: &Arc<Control>,
) -> Result<Figures, Box<dyn Error>> {
    let mut load = Load::connect(plan, address, topology, control)?;
    let progress = Progress::start(plan, per_message(topology), control)?;
    let before = (own_cpu()?, server.as_ref().map(OwnServer::cpu).transpose()?);
    let outcome = load.run(plan, address, topology, control);
    progress.end();
    let outcome = outcome?;
    let load_cpu = own_cpu()?.saturating_sub(before.0);
    let usage = server.as_ref().zip(before.1).map(|(server, before)| server.usage(before));
    let usage = usage.transpose()?;
    // The clients leave before the server stops.
    drop(load);
    let verdict = server.map(OwnServer::end).transpose()?;
    Ok(Figures {
        mode: plan.mode,
        address,
        clients: plan.clients,
        size: plan.size,
        rate: plan.rate,
        frame: logins::frame(Protocol::Chat, topology, plan.size),
        interrupted: control.is_stopped(),
        outcome,
        load_cpu,
        server: usage.zip(verdict),
    })
}

/// How many deliveries are owed for each message, or logins for each.
fn per_message(topology: &Topology) -> u64 {
    topology.routes.first().map_or(1, |route| route.to.len() as u64)
}

/// Clients that are connected and have something to do.
#[expect(clippy::large_enum_variant, reason = "there is only one")]
enum Load {
    Stream(Stream),
    Mesh(Mesh),
    /// And those that are quiet.
    Latency(PingPong, #[expect(dead_code, reason = "they are connected")] Vec<Client>),
    OpenLoop(OpenLoop, f64),
    /// To connect is all they do.
    Logins,
}

impl Load {
    fn connect(
        plan: &Plan,
        address: SocketAddr,
        topology: &Topology,
        control: &Control,
    ) -> Result<Self, load::Error> {
        let (chat, size) = (Protocol::Chat, plan.size);
        Ok(match (plan.mode, plan.rate) {
            (Mode::Connect, _) => Self::Logins,
            (mode, Some(rate)) => {
                let is_mesh = mode == Mode::Mesh;
                Self::OpenLoop(OpenLoop::connect(address, topology, is_mesh, size, control)?, rate)
            }
            (Mode::Pair | Mode::FanOut, None) => {
                Self::Stream(Stream::connect(chat, address, topology, size, control)?)
            }
            (Mode::Mesh, None) => {
                let clients = topology.clients;
                Self::Mesh(Mesh::connect(chat, address, topology, clients, size, control)?)
            }
            (Mode::Latency, None) => {
                let quiet = Topology { clients: topology.clients - 2, ..topology.clone() };
                let quiet = Client::connect_all(chat, address, &quiet, control)?;
                Self::Latency(PingPong::connect(chat, address, topology, size)?, quiet)
            }
        })
    }

    fn run(
        &mut self,
        plan: &Plan,
        address: SocketAddr,
        topology: &Topology,
        control: &Control,
    ) -> Result<Outcome, load::Error> {
        match self {
            Self::Stream(stream) => stream.run(plan.amount, control),
            Self::Mesh(mesh) => mesh.run(plan.amount, control),
            Self::Latency(ping, _) => {
                let outcome = ping.run(plan.amount, control)?;
                Ok(Outcome { latencies: Some(ping.latencies.clone()), ..outcome })
            }
            Self::OpenLoop(open_loop, rate) => open_loop.run(plan.amount, *rate, control),
            Self::Logins => logins::run(address, topology, plan.amount, plan.rate, control),
        }
    }
}

/// The first signal ends the load early, one that comes later ends the process.
fn stop_on_signals(control: &Arc<Control>) -> Result<(), String> {
    let control = Arc::clone(control);
    signals::on_request(move |request| match request {
        ShutdownSignal::First => control.stop(),
        ShutdownSignal::Duplicate => {}
        #[expect(clippy::exit, reason = "the load may be in a wait that nothing else ends")]
        ShutdownSignal::Force => std::process::exit(INTERRUPTED),
    })
}
