//! The command line of `stress`, and what it comes to. No thread runs here.

use std::time::Duration;

use bytesize::ByteSize;
use clap::{Args, ValueEnum};
use rustix::process::{Resource, getrlimit};

use a_chat::Capacity;
use a_chat::load::Amount;
use a_chat::load::protocol::{SENDERS, STAMP, TIMED};
use a_chat::load::topology::Topology;

use super::address;

/// The longest text, in bytes: as long as a line may be by default.
const LONGEST_TEXT: usize = 64 * 1024;

/// What a server takes of names in one line.
const LONGEST_LIST: usize = 1024;

/// Descriptors kept for everything but the clients.
const SPARE_FILES: u64 = 32;

/// What `stress` needs to know.
#[derive(Debug, Args)]
pub(crate) struct StressArgs {
    /// Who sends to whom
    #[arg(value_name = "MODE")]
    mode: Mode,

    /// The server to put under load [default: one of its own, for as long as the load runs]
    #[arg(value_name = "ADDR:PORT", value_parser = address)]
    address: Option<String>,

    /// How many clients there are [default: 16 in pair, 101 in fan-out, 100 in mesh, 2 in latency,
    /// 1000 in connect]
    #[arg(long, value_name = "COUNT")]
    clients: Option<usize>,

    /// How long the text of a message is [default: 32]
    #[arg(long, value_name = "BYTES")]
    size: Option<ByteSize>,

    /// How long to send; what was sent by then is waited for
    #[arg(long, value_name = "TIME", default_value = "5s")]
    duration: humantime::Duration,

    /// Send exactly so many messages instead; in connect, log in so often
    #[arg(long, value_name = "COUNT", conflicts_with = "duration")]
    messages: Option<u64>,

    /// Send so many messages a second in all, by a schedule that does not wait for the server
    /// [default: as many as go through; in latency the next one when the last one has arrived]
    ///
    /// Latencies then count from when a message was due, not from when it was sent, so that a server
    /// that holds the load up is not spared the messages that could not be sent meanwhile.
    #[arg(long, value_name = "RATE", value_parser = rate)]
    rate: Option<f64>,

    /// Write one JSON object to standard output instead of a table
    #[arg(long)]
    pub(crate) json: bool,
}

/// The kinds of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// Half of the clients, each to a recipient of its own
    Pair,
    /// One client, to all others at once
    FanOut,
    /// All clients, each message to a random one
    Mesh,
    /// One client to one other, one message at a time; further clients are quiet
    Latency,
    /// All clients log in, send themselves a message and leave, and again
    Connect,
}

/// What is to be done.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) mode: Mode,
    /// Without one a server has to be started.
    pub(crate) address: Option<String>,
    pub(crate) clients: usize,
    pub(crate) size: usize,
    pub(crate) amount: Amount,
    pub(crate) rate: Option<f64>,
}

impl StressArgs {
    /// What the flags come to.
    ///
    /// # Errors
    ///
    /// Says what is wrong with the flags together.
    pub(crate) fn plan(&self) -> Result<Plan, String> {
        let Self { mode, rate, .. } = *self;
        let name = mode.name();
        let (default, least, most) = mode.clients();
        let clients = self.clients.unwrap_or(default);
        if !(least..=most).contains(&clients) {
            return Err(format!("{name} takes {least} to {most} clients"));
        }
        if mode == Mode::Pair && clients % 2 > 0 {
            return Err("pair takes an even number of clients".to_owned());
        }
        let least = if rate.is_some() { TIMED } else { STAMP };
        let size = match self.size {
            None => 32,
            Some(_) if mode == Mode::Connect => {
                return Err("connect has messages of one size".to_owned());
            }
            Some(size) => usize::try_from(size.as_u64()).unwrap_or(usize::MAX),
        };
        if !(least..=LONGEST_TEXT).contains(&size) {
            return Err(format!(
                "a text has {least} to {LONGEST_TEXT} bytes{}",
                if rate.is_some() { ", the time included that comes with a rate" } else { "" }
            ));
        }
        let amount = match self.messages {
            Some(0) => return Err("there is nothing to measure with no messages".to_owned()),
            Some(messages) => Amount::Messages(messages),
            None => Amount::Time(self.duration.into()),
        };
        if amount == Amount::Time(Duration::ZERO) {
            return Err("there is nothing to measure in no time".to_owned());
        }
        Ok(Plan { mode, address: self.address.clone(), clients, size, amount, rate })
    }
}

impl Mode {
    /// As it stands on the command line.
    #[must_use]
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map(|it| it.get_name().to_owned()).unwrap_or_default()
    }

    /// The default number of clients, the least and the most.
    fn clients(self) -> (usize, usize, usize) {
        match self {
            Self::Pair => (16, 2, 2 * SENDERS),
            Self::FanOut => (101, 2, LONGEST_LIST + 1),
            Self::Mesh => (100, 2, SENDERS),
            Self::Latency => (2, 2, 100_000),
            Self::Connect => (1000, 1, 100_000),
        }
    }
}

impl Plan {
    /// Checks that this process, and a server of its own, can have so many clients.
    ///
    /// # Errors
    ///
    /// Says what has no room for them.
    pub(crate) fn fits(&self) -> Result<(), String> {
        let Self { clients, .. } = self;
        let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        if *clients as u64 > files.saturating_sub(SPARE_FILES) {
            return Err(format!("{clients} clients need more than {files} open files (ulimit -n)"));
        }
        let capacity = Capacity::detect();
        if self.address.is_none() && *clients > capacity.connections {
            return Err(format!("a server on this machine has room for {capacity}"));
        }
        Ok(())
    }

    /// Who sends to whom, by names that begin like this.
    #[must_use]
    pub(crate) fn topology(&self, prefix: String) -> Topology {
        let topology = match self.mode {
            Mode::Pair => Topology::pairs(self.clients / 2),
            Mode::FanOut => Topology::fan_out(self.clients - 1),
            Mode::Mesh => Topology::ring(self.clients, self.clients),
            Mode::Latency => Topology::quiet(self.clients - 2).and_a_pair(),
            Mode::Connect => Topology::quiet(self.clients),
        };
        Topology { prefix, ..topology }
    }
}

fn rate(text: &str) -> Result<f64, &'static str> {
    let rate: Option<f64> = text.parse().ok();
    rate.filter(|rate| (1e-3..=1e9).contains(rate)).ok_or("expected 0.001 to 1000000000 a second")
}
