//! `stress`: puts a server under load, and reports throughput and latency.
//!
//! The load runs on the main thread. One thread shows its progress and another receives signals: the
//! first signal ends the load early, with the figures so far, the next one ends it at once.

mod figures;
mod own_server;
mod progress;
mod resolve;

use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;

use crate::cli::{LoginsFlags, Mode, OWN_PREFIX, Plan, StressArgs};
use a_chat::Endpoint;
use a_chat::load::beside::Beside;
use a_chat::load::client::Client;
use a_chat::load::latency::PingPong;
use a_chat::load::link::Target;
use a_chat::load::mesh::{Mesh, Writes};
use a_chat::load::open_loop::OpenLoop;
use a_chat::load::process::own_cpu;
use a_chat::load::protocol::Protocol;
use a_chat::load::stream::Stream;
use a_chat::load::tokens;
use a_chat::load::topology::{ROOM, Topology};
use a_chat::load::{self, Aborted, Control, Outcome, logins, timed};

use self::figures::Figures;
use self::own_server::OwnServer;
use self::progress::Progress;
use self::resolve::resolve;
use crate::signals::{self, ShutdownSignal};
use crate::{output, token};

/// The exit status of a process ended by an interrupt.
const INTERRUPTED: i32 = 130;

/// Puts the server under load: success if every message arrived, once and in order.
pub(crate) fn run(args: &StressArgs) -> Result<ExitCode, Box<dyn Error>> {
    let plan = args.plan()?;
    let _ = a_chat::raise_nofile_limit();
    plan.check_capacity()?;
    let control = Arc::new(Control::default());
    stop_on_signals(&control)?;
    let (addresses, server) = if plan.addresses.is_empty() {
        OwnServer::start().map(|server| (vec![server.address().clone()], Some(server)))?
    } else {
        let found = plan.addresses.iter().map(|address| resolve(address));
        (found.collect::<Result<Vec<_>, _>>()?, None)
    };
    let (address, _) = addresses.split_first().ok_or("an address is missing")?;
    take_logins(&args.token, &plan, &addresses)?;
    let names = plan.addresses.iter().map(|name| Some(name.as_str())).chain([None]);
    let targets = addresses.iter().zip(names).map(|(address, name)| target(args, name, address));
    let mut targets = targets.collect::<Result<Vec<_>, _>>()?;
    let others = targets.split_off(1);
    let target = targets.remove(0);
    let topology = plan.topology(prefix(server.is_some()));
    let topology = Topology { others, ..topology };
    let measured = measure(&plan, &target, &topology, server, &control);
    let figures = measured.map_err(|error| format!("{address}: {error}"))?;
    let text = if args.json { figures.json()? } else { figures.table() };
    output::to_stdout(text.as_bytes())?;
    match figures.complaint() {
        None => Ok(ExitCode::SUCCESS),
        Some(complaint) => Err(complaint.into()),
    }
}

/// Where the load connects to, over TLS if the command line says so.
#[cfg(feature = "tls")]
fn target(args: &StressArgs, name: Option<&str>, address: &Endpoint) -> Result<Target, String> {
    let tls = args.tls.tls().map_err(|error| format!("cannot use TLS: {error}"))?;
    let target = Target::from(address.clone());
    Ok(match tls {
        Some(tls) => target.with_tls(tls, name),
        None => target,
    })
}

#[cfg(not(feature = "tls"))]
#[expect(clippy::unnecessary_wraps, reason = "as with TLS")]
fn target(_: &StressArgs, _: Option<&str>, address: &Endpoint) -> Result<Target, String> {
    Ok(address.clone().into())
}

/// Has the clients log in with the tokens that the command line asks for.
fn take_logins(flags: &LoginsFlags, plan: &Plan, addresses: &[Endpoint]) -> Result<(), String> {
    let Some(path) = &flags.token_file else { return Ok(()) };
    let cannot = |problem: String| format!("cannot use {}: {problem}", path.display());
    let logins = tokens::parse(&token::read_logins(path)?).map_err(cannot)?;
    if logins.len() < plan.clients {
        let Plan { clients, .. } = plan;
        return Err(cannot(format!("{} names are too few for {clients} clients", logins.len())));
    }
    let is_public = |address: &&Endpoint| match address {
        Endpoint::Tcp(address) => !address.ip().to_canonical().is_loopback(),
        _ => false,
    };
    let address = addresses.iter().find(is_public);
    if let Some(address) = address.filter(|_| !plan.tls && !flags.plaintext_token) {
        return Err(format!(
            "the tokens would be sent unencrypted to {address}; --tls encrypts them, \
             --plaintext-token sends them all the same"
        ));
    }
    tokens::set(logins);
    Ok(())
}

/// The prefix of the clients' names: short on the load's own server, random on any other, where
/// names must not clash.
fn prefix(is_own: bool) -> String {
    let random: String = std::iter::repeat_with(fastrand::alphanumeric).take(6).collect();
    if is_own { OWN_PREFIX.to_owned() } else { format!("s{random}-") }
}

/// Connects the clients, runs the load, and shuts the server down if it is the load's own. A load
/// that failed has figures if anything arrived.
fn measure(
    plan: &Plan,
    target: &Target,
    topology: &Topology,
    server: Option<OwnServer>,
    control: &Arc<Control>,
) -> Result<Figures, Box<dyn Error>> {
    let mut load = Load::connect(plan, target, topology, control)?;
    let progress = Progress::start(plan, per_message(topology), control)?;
    let before = (own_cpu()?, server.as_ref().map(OwnServer::cpu).transpose()?);
    let outcome = load.run(plan, target, topology, control);
    progress.end();
    let (outcome, failure) = match outcome {
        Ok(outcome) => (outcome, None),
        Err(Aborted { error, outcome }) if outcome.received == 0 => return Err(error.into()),
        Err(Aborted { error, outcome }) => (*outcome, Some(error.to_string())),
    };
    let load_cpu = own_cpu()?.saturating_sub(before.0);
    let own_server = server.is_some();
    let usage = server.as_ref().zip(before.1).map(|(server, before)| server.usage(before));
    // A server that ended before the load has nothing left to ask.
    let usage = if failure.is_some() { usage.and_then(Result::ok) } else { usage.transpose()? };
    // The clients disconnect before the server shuts down.
    drop(load);
    let exit = server.map(OwnServer::end).transpose()?;
    Ok(Figures {
        mode: plan.mode,
        address: target.address.clone(),
        others: topology.others.iter().map(|it| it.address.clone()).collect(),
        own_server,
        clients: plan.clients,
        size: plan.size,
        rate: plan.rate,
        at_once: plan.at_once,
        beside: plan.beside,
        confirm: plan.confirm,
        tls: plan.tls,
        frame: frame(topology, plan.size),
        interrupted: control.is_stopped(),
        failure,
        outcome,
        load_cpu,
        usage,
        exit,
    })
}

/// Length of a message as it arrives, in bytes.
fn frame(topology: &Topology, size: usize) -> usize {
    let room = if topology.is_room { 1 + ROOM.len() } else { 0 };
    logins::frame(Protocol::Chat, topology, size) + room
}

/// Deliveries owed per message; 1 for logins.
fn per_message(topology: &Topology) -> u64 {
    topology.routes.first().map_or(1, |route| route.to.len() as u64)
}

/// Connected clients and the work they do.
enum Load {
    Stream(Stream),
    Mesh(Mesh),
    /// Two busy clients and the idle ones.
    Latency(PingPong, #[expect(dead_code, reason = "they stay connected")] Vec<Client>),
    /// Two busy clients and pairs.
    Beside(Beside),
    OpenLoop(OpenLoop, f64),
    /// Clients that connect while the load runs.
    Logins,
}

impl Load {
    fn connect(
        plan: &Plan,
        target: &Target,
        topology: &Topology,
        control: &Control,
    ) -> Result<Self, load::Error> {
        let (chat, size) = (Protocol::Chat, plan.size);
        Ok(match (plan.mode, plan.rate) {
            (Mode::Connect, _) => Self::Logins,
            (mode, Some(rate)) => {
                let is_mesh = mode == Mode::Mesh;
                Self::OpenLoop(
                    OpenLoop::connect(chat, target, topology, is_mesh, size, control)?,
                    rate,
                )
            }
            (Mode::Pair | Mode::FanOut | Mode::Room, None) => {
                Self::Stream(Stream::connect(chat, target, topology, size, control)?)
            }
            (Mode::Mesh, None) => {
                let writes = if plan.at_once { Writes::AtOnce } else { Writes::HalfWindow };
                let clients = topology.clients;
                Self::Mesh(Mesh::connect(chat, target, topology, clients, size, writes, control)?)
            }
            (Mode::Latency, None) => {
                if let Some(rate) = plan.beside {
                    let beside = Beside::connect(chat, target, topology, size, rate, control)?;
                    return Ok(Self::Beside(beside));
                }
                let quiet = Topology { clients: topology.clients - 2, ..topology.clone() };
                let quiet = Client::connect_all(chat, target, &quiet, control)?;
                let ping = PingPong::connect(chat, target, topology, size)?;
                Self::Latency(ping.confirmed(plan.confirm), quiet)
            }
        })
    }

    fn run(
        &mut self,
        plan: &Plan,
        target: &Target,
        topology: &Topology,
        control: &Control,
    ) -> Result<Outcome, Aborted> {
        match self {
            Self::Stream(stream) => stream.run(plan.amount, control),
            Self::Mesh(mesh) => mesh.run(plan.amount, control),
            Self::Latency(ping, _) => {
                let ended = ping.run(plan.amount, control);
                timed(ended, &ping.latencies)
            }
            Self::Beside(beside) => {
                let ended = beside.run(plan.amount, control);
                timed(ended, beside.latencies())
            }
            Self::OpenLoop(open_loop, rate) => open_loop.run(plan.amount, *rate, control),
            Self::Logins => logins::run(target, topology, plan.amount, plan.rate, control),
        }
    }
}

/// The first signal ends the load early, a later one ends the process.
fn stop_on_signals(control: &Arc<Control>) -> Result<(), String> {
    let control = Arc::clone(control);
    signals::on_request(move |request| match request {
        ShutdownSignal::First => control.stop(),
        ShutdownSignal::Duplicate => {}
        #[expect(clippy::exit, reason = "the load may be in a wait that nothing else ends")]
        ShutdownSignal::Force => std::process::exit(INTERRUPTED),
    })
}
