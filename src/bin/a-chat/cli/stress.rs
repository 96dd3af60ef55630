//! The flags of `stress`, and the plan that they make. Pure data.

use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, ValueEnum};
use rustix::process::{Resource, getrlimit};

use a_chat::load::Amount;
use a_chat::load::protocol::{Protocol, SENDERS, STAMP, TIMED};
use a_chat::load::stream;
use a_chat::load::topology::Topology;
use a_chat::{Capacity, Endpoint};

use super::Command;
use super::serve::ServeArgs;
use super::tls::ClientTlsArgs;
use super::token::LoginsFlags;
use super::values::{ADDRESS, BYTES, COUNT, LONG_COUNT, RATE, TIME};

/// Maximum length of a text, in bytes: the default limit of a line.
const MAX_TEXT_BYTES: usize = 64 * 1024;

/// Maximum number of recipients of one line.
const MAX_RECIPIENTS: usize = 1024;

/// The default, minimum and maximum number of clients of `--beside`: pairs, and two that are
/// measured.
const BESIDE_CLIENTS: (usize, usize, usize) = (18, 4, 2 * SENDERS);

/// What is missing for TLS to a server that is started for the load.
const NO_CERTIFICATE: &str = "'--tls' without an address needs the variables A_CHAT_TLS_CERT and \
                              A_CHAT_TLS_KEY, the certificate of the server started for the load";

/// Descriptors reserved for everything except the clients.
const SPARE_FILES: u64 = 32;

/// The arguments of `stress`.
#[derive(Debug, Args)]
pub(crate) struct StressArgs {
    /// Who sends to whom
    #[arg(value_name = "MODE")]
    mode: Mode,

    /// Server to put under load, or several nodes of a cluster, over which the clients are spread
    /// [default: one started for the duration of the load]
    #[arg(value_name = "ADDR:PORT", value_parser = ADDRESS)]
    addresses: Vec<String>,

    #[command(flatten)]
    pub(crate) token: LoginsFlags,

    /// Number of clients [default: 16 in pair, 101 in fan-out, 100 in mesh and room, 2 in latency,
    /// 1000 in connect]
    #[arg(long, value_name = "COUNT", value_parser = COUNT)]
    clients: Option<usize>,

    /// Length of a message's text [default: 32]
    #[arg(long, value_name = "BYTES", value_parser = BYTES)]
    size: Option<usize>,

    /// Time to send for; messages sent by then are waited for
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = TIME)]
    duration: Duration,

    /// Send exactly this many messages; in connect mode, log in this many times
    #[arg(long, value_name = "COUNT", conflicts_with = "duration", value_parser = LONG_COUNT)]
    messages: Option<u64>,

    /// Messages a second in total, sent by a schedule that does not wait for the server [default:
    /// as many as the server accepts; in latency mode the next one when the last one arrived]
    ///
    /// Latencies are then measured from a message's scheduled time, not from when it was sent, so a
    /// server that stalls also pays for the messages that could not be sent meanwhile.
    #[arg(long, value_name = "RATE", value_parser = RATE)]
    rate: Option<f64>,

    /// In mesh mode, write every message as soon as it may be sent, not half a window at a time
    #[arg(long, conflicts_with = "rate")]
    at_once: bool,

    /// In latency mode, measure beside pairs of clients that send this many messages a second in
    /// total [default clients: 18, of which 16 are pairs]
    #[arg(long, value_name = "RATE", value_parser = RATE, conflicts_with = "rate")]
    beside: Option<f64>,

    /// In latency mode, measure until the server confirms each message, not until it arrives
    ///
    /// A recipient that is not reading at that moment is confirmed up to 44 ms later, by the delayed
    /// acknowledgement of TCP. This one reads.
    #[arg(long, conflicts_with_all = ["rate", "beside"])]
    confirm: bool,

    /// Write one JSON object to standard output instead of a table
    #[arg(long)]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) tls: ClientTlsArgs,
}

/// The kinds of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// Half of the clients send, each to its own recipient
    Pair,
    /// One client sends each message to all others
    FanOut,
    /// All clients send, each message to a random client
    Mesh,
    /// All clients are in one room and send, each message to all others
    Room,
    /// One client sends to one other, one message at a time; further clients are idle
    Latency,
    /// All clients log in, send themselves a message, disconnect, and repeat
    Connect,
}

/// The load to generate.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) mode: Mode,
    /// Empty if a server has to be started.
    pub(crate) addresses: Vec<String>,
    pub(crate) clients: usize,
    pub(crate) size: usize,
    pub(crate) amount: Amount,
    pub(crate) rate: Option<f64>,
    /// Whether a mesh writes each message as soon as it may.
    pub(crate) at_once: bool,
    /// The rate of the load beside which latencies are measured.
    pub(crate) beside: Option<f64>,
    /// Whether to measure until the server confirms each message.
    pub(crate) confirm: bool,
    /// Whether the clients speak TLS.
    pub(crate) tls: bool,
}

impl StressArgs {
    /// The plan that the flags make.
    ///
    /// # Errors
    ///
    /// If the flags contradict each other, the mode, or the limits that the environment sets for a
    /// server started for the load.
    pub(crate) fn plan(&self) -> Result<Plan, clap::Error> {
        let plan = self.check().map_err(usage_error)?;
        if plan.addresses.is_empty() {
            plan.check_own_server(&*own_server()?).map_err(usage_error)?;
        }
        Ok(plan)
    }

    fn check(&self) -> Result<Plan, String> {
        let Self { mode, rate, at_once, beside, confirm, .. } = *self;
        let name = mode.name();
        if self.token.token_file.is_some() && mode == Mode::Connect {
            return Err(
                "'--token-file' cannot be used in connect mode, whose clients take many names"
                    .to_owned(),
            );
        }
        if at_once && mode != Mode::Mesh {
            return Err(format!("'--at-once' is for mesh, not for {name}"));
        }
        if rate.is_some() && mode == Mode::Room {
            return Err("'--rate' is not for room".to_owned());
        }
        if beside.is_some() && mode != Mode::Latency {
            return Err(format!("'--beside' is for latency, not for {name}"));
        }
        if confirm && mode != Mode::Latency {
            return Err(format!("'--confirm' is for latency, not for {name}"));
        }
        let (default, min, max) = match beside {
            Some(_) => BESIDE_CLIENTS,
            None => mode.clients(),
        };
        let clients = self.clients.unwrap_or(default);
        if !(min..=max).contains(&clients) {
            return Err(format!(
                "invalid value '{clients}' for '--clients': {name} takes {min} to {max}, as in \
                 {default}"
            ));
        }
        if (mode == Mode::Pair || beside.is_some()) && clients % 2 > 0 {
            return Err(format!(
                "invalid value '{clients}' for '--clients': {name} takes an even number, as in \
                 {default}"
            ));
        }
        let is_timed = rate.or(beside).is_some();
        let min = if is_timed { TIMED } else { STAMP };
        let size = match self.size {
            None => 32,
            Some(_) if mode == Mode::Connect => {
                return Err(
                    "'--size' cannot be used in connect mode, where all messages have one size"
                        .to_owned(),
                );
            }
            Some(size) => size,
        };
        if !(min..=MAX_TEXT_BYTES).contains(&size) {
            return Err(format!(
                "invalid value '{size}' for '--size': a text has {min} to {MAX_TEXT_BYTES} bytes{}",
                if is_timed { ", including the time stamp that a rate needs" } else { "" }
            ));
        }
        let amount = match self.messages {
            Some(0) => {
                return Err(
                    "invalid value '0' for '--messages': must be at least 1, as in 1000".to_owned()
                );
            }
            Some(messages) => Amount::Messages(messages),
            None => Amount::Time(self.duration),
        };
        if amount == Amount::Time(Duration::ZERO) {
            return Err("invalid value '0' for '--duration': must not be zero, as in 5s".to_owned());
        }
        let (addresses, tls) = (self.addresses.clone(), self.tls.tls);
        if tls && addresses.iter().any(|it| Endpoint::unix_path(it).is_some()) {
            return Err("'--tls' is not for Unix sockets, which never leave this host".to_owned());
        }
        Ok(Plan { mode, addresses, clients, size, amount, rate, at_once, beside, confirm, tls })
    }
}

impl Mode {
    /// The mode's name on the command line.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map(|it| it.get_name().to_owned()).unwrap_or_default()
    }

    /// The default, minimum and maximum number of clients.
    fn clients(self) -> (usize, usize, usize) {
        match self {
            Self::Pair => (16, 2, 2 * SENDERS),
            Self::FanOut => (101, 2, MAX_RECIPIENTS + 1),
            Self::Mesh => (100, 2, SENDERS),
            Self::Room => (100, 2, MAX_RECIPIENTS),
            Self::Latency => (2, 2, 100_000),
            Self::Connect => (1000, 1, 100_000),
        }
    }
}

/// The command line of the server started for the load. The environment sets its limits.
pub(crate) const OWN_SERVER: [&str; 4] = ["a-chat", "serve", "--listen", "127.0.0.1:0"];

/// Prefix of the clients' names on that server.
pub(crate) const OWN_PREFIX: &str = "c";

fn own_server() -> Result<Box<ServeArgs>, clap::Error> {
    let arguments = OWN_SERVER.iter().skip(1).map(Into::into).collect();
    match super::parse_from(arguments)? {
        Command::Serve(args) => Ok(args),
        _ => unreachable!("the command line says serve"),
    }
}

/// An error with the usage of `stress`.
fn usage_error(cause: String) -> clap::Error {
    let mut command = super::command();
    command.build();
    match command.find_subcommand_mut("stress") {
        Some(stress) => stress.error(ErrorKind::ValueValidation, cause),
        None => command.error(ErrorKind::ValueValidation, cause),
    }
}

impl Plan {
    /// Checks that a server with these arguments accepts the load.
    fn check_own_server(&self, args: &ServeArgs) -> Result<(), String> {
        if self.tls && !args.tls.is_given() {
            return Err(NO_CERTIFICATE.to_owned());
        }
        let Self { clients, size, .. } = self;
        let config = args.config();
        let topology = self.topology(OWN_PREFIX.to_owned());
        let names = topology.names();
        let name = |client: usize| names[client].as_str();
        let longest = topology.routes.first().map_or_else(
            || Protocol::Chat.line(name(0), &[name(0)], STAMP),
            |it| stream::line(Protocol::Chat, &topology, &names, it, *size),
        );
        let length = longest.stride - 1;
        let max_line = config.max_line;
        if length > max_line {
            return Err(format!(
                "the load's lines have {length} bytes, but the server started for it accepts \
                 {max_line}; A_CHAT_MAX_LINE raises that"
            ));
        }
        for (limit, variable) in [
            (config.max_connections, "A_CHAT_MAX_CONNECTIONS"),
            (config.max_per_address, "A_CHAT_MAX_PER_ADDRESS"),
        ] {
            if let Some(limit) = limit.filter(|limit| clients > limit) {
                return Err(format!("{clients} clients exceed {variable}, which is {limit}"));
            }
        }
        Ok(())
    }

    /// Checks that this process, and the server it may have to start, can hold this many clients.
    ///
    /// # Errors
    ///
    /// Names the limit that is too low.
    pub(crate) fn check_capacity(&self) -> Result<(), String> {
        let Self { clients, .. } = self;
        let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        if *clients as u64 > files.saturating_sub(SPARE_FILES) {
            return Err(format!("{clients} clients need more than {files} open files (ulimit -n)"));
        }
        let capacity = Capacity::detect();
        if self.addresses.is_empty() && *clients > capacity.connections {
            return Err(format!("the capacity of a server on this machine is {capacity}"));
        }
        Ok(())
    }

    /// The senders and their recipients, with names that begin with `prefix`.
    pub(crate) fn topology(&self, prefix: String) -> Topology {
        let topology = match self.mode {
            Mode::Pair => Topology::pairs(self.clients / 2),
            Mode::FanOut => Topology::fan_out(self.clients - 1),
            Mode::Mesh => Topology::ring(self.clients, self.clients),
            Mode::Room => Topology::room(self.clients, Protocol::Chat.echoes()),
            Mode::Latency if self.beside.is_some() => {
                Topology::pairs(self.clients / 2 - 1).with_pair()
            }
            Mode::Latency => Topology::quiet(self.clients - 2).with_pair(),
            Mode::Connect => Topology::quiet(self.clients),
        };
        Topology { prefix, ..topology }
    }
}
