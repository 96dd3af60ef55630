//! The command line: flags, environment variables and their defaults, as one table of limits. No
//! thread runs here.

mod stress;

use std::path::PathBuf;
use std::time::Duration;

use a_chat::{Config, Name};
use bytesize::ByteSize;
use clap::{Args, CommandFactory, Parser, Subcommand};
use log::LevelFilter;

pub(crate) use stress::{Mode, Plan, StressArgs};

/// How many columns the help takes: the same everywhere, since the README shows it as it is.
const HELP_WIDTH: usize = 80;

/// Relays lines of text between named clients over TCP, and can be stopped at any moment without
/// losing an accepted message.
///
/// Without a command it serves on 127.0.0.1:8080.
#[derive(Debug, Parser)]
#[command(name = "a-chat", version, term_width = HELP_WIDTH)]
pub(crate) struct Cli {
    #[command(subcommand)]
    /// What to do: without one, to serve.
    pub(crate) command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the server until SIGINT, SIGTERM or SIGHUP comes; another one forces the end.
    ///
    /// What comes within half a second of the first is taken for the same request, since shells
    /// and service managers send some of them in pairs.
    ///
    /// Exit status: 0 if every accepted message was delivered in the drain, 1 if one was lost or
    /// the server could not start, 2 if the command line is wrong.
    Serve(ServeArgs),

    /// Connect to a server: to chat at a terminal, or to send and receive lines in a pipe.
    ///
    /// At a terminal, `bob: hello` says hello to bob, after `/to bob` plain lines do, and Tab
    /// completes names; `/help` tells the rest. Ctrl-D and Ctrl-C leave: what is still due is
    /// shown. Names have colours unless `NO_COLOR` is set; `TERM=dumb` is taken for a pipe.
    ///
    /// In a pipe, lines from standard input are sent as they are, and what arrives goes to
    /// standard output; at the end of the input it stays until all that is due has arrived. The
    /// first signal is taken for the end of the input, another one ends it at once; as with
    /// `serve`, what comes within half a second of the first is the same request.
    ///
    /// Exit status: 0 if the server has taken every line, 1 if it has refused one, or a connection
    /// was lost, or there was none, 2 if the command line is wrong.
    Connect(ConnectArgs),

    /// Put a server under load, and say how much went through and how long it took.
    ///
    /// Every message is checked to be its sender's next, and those that are lost, out of order or
    /// repeated are counted; what has not come within ten seconds is lost. Ctrl-C ends the load
    /// early, with the figures so far.
    ///
    /// A server of its own heeds the environment variables of `serve`.
    ///
    /// Exit status: 0 if everything arrived, once and in order, 1 if not, or if the server could
    /// not be reached, refused something or stopped, 2 if the command line is wrong.
    Stress(StressArgs),
}

/// What `serve` needs to know.
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// Where to listen; port 0 takes a free port, which is then printed
    #[arg(
        long,
        value_name = "ADDR:PORT",
        env = "A_CHAT_LISTEN",
        default_value = "127.0.0.1:8080",
        value_parser = address
    )]
    pub(crate) listen: String,

    #[command(flatten)]
    limits: Limits,

    #[command(flatten)]
    timeouts: Timeouts,

    /// Log what is at least this grave: off, error, warn, info, debug, trace
    #[arg(
        long,
        value_name = "LEVEL",
        env = "A_CHAT_LOG_LEVEL",
        default_value = "info",
        help_heading = "Log"
    )]
    pub(crate) log_level: LevelFilter,

    /// Append the log to this file instead of writing it to standard error
    #[arg(long, value_name = "PATH", env = "A_CHAT_LOG_FILE", help_heading = "Log")]
    pub(crate) log_file: Option<PathBuf>,

    /// The process that has started the server: when it ends, the server stops
    #[arg(long, value_name = "PID", hide = true)]
    pub(crate) parent: Option<i32>,
}

/// What `connect` needs to know.
#[derive(Debug, Args)]
pub(crate) struct ConnectArgs {
    /// Where the server listens
    #[arg(value_name = "ADDR:PORT", default_value = "127.0.0.1:8080", value_parser = address)]
    pub(crate) address: String,

    /// The name to log in with [default: asked for at a terminal, the first line in a pipe]
    #[arg(long, value_name = "NAME", value_parser = name)]
    pub(crate) name: Option<Name>,

    /// Go on with the next server when this one stops, and try until there is one: what the last
    /// one has not accepted is sent to that one, nothing twice
    #[arg(long)]
    pub(crate) reconnect: bool,

    /// After a restart, do not wait for the recipients of a line before sending it
    #[arg(long, requires = "reconnect")]
    pub(crate) no_wait: bool,

    /// How long to stay at most when all of the input is sent, or to look for a server that takes
    /// the rest [default: as long as it takes]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) wait: Option<Duration>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
struct Limits {
    /// How many clients may be connected at once [default: what the machine can hold]
    #[arg(long, value_name = "COUNT", env = "A_CHAT_MAX_CONNECTIONS")]
    max_connections: Option<usize>,

    /// How many clients of one address may be connected at once; IPv6 addresses with the same
    /// first 64 bits count as one [default: no limit]
    #[arg(long, value_name = "COUNT", env = "A_CHAT_MAX_PER_ADDRESS")]
    max_per_address: Option<usize>,

    /// The longest line, its line end not counted
    #[arg(long, value_name = "BYTES", env = "A_CHAT_MAX_LINE", default_value = "64KiB")]
    max_line: ByteSize,

    /// How much one client may have on its way before it is read from no more
    #[arg(long, value_name = "BYTES", env = "A_CHAT_WINDOW", default_value = "256KiB")]
    window: ByteSize,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Times")]
struct Timeouts {
    /// How long a client may take to send its name
    #[arg(long, value_name = "TIME", env = "A_CHAT_LOGIN_TIMEOUT", default_value = "10s")]
    login_timeout: humantime::Duration,

    /// How long a recipient may take next to nothing of what is due to it before it is evicted
    #[arg(long, value_name = "TIME", env = "A_CHAT_STALL_TIMEOUT", default_value = "10s")]
    stall_timeout: humantime::Duration,

    /// How much is more than next to nothing: a recipient that takes less, and not all that is due
    /// to it, within each stall time-out holds its senders up for too long
    #[arg(long, value_name = "BYTES", env = "A_CHAT_STALL_BYTES", default_value = "32KiB")]
    stall_bytes: ByteSize,

    /// How long the drain may take before it is ended by force
    #[arg(long, value_name = "TIME", env = "A_CHAT_DRAIN_TIMEOUT", default_value = "5s")]
    drain_timeout: humantime::Duration,

    /// How long to wait for a client to close when it has received everything
    #[arg(long, value_name = "TIME", env = "A_CHAT_LINGER", default_value = "1s")]
    linger: humantime::Duration,
}

/// The whole command line, for who describes it elsewhere.
#[must_use]
pub(crate) fn command() -> clap::Command {
    Cli::command()
}

/// Looks at the form alone: whether the address exists only listening on it can tell.
fn address(text: &str) -> Result<String, &'static str> {
    match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
            Ok(text.to_owned())
        }
        _ => Err("expected an address and a port, as in 127.0.0.1:8080 or [::1]:8080"),
    }
}

fn name(text: &str) -> Result<Name, &'static str> {
    Name::new(text.as_bytes()).ok_or("expected 1 to 32 of A-Z a-z 0-9 _ . -")
}

/// Takes a number of seconds, and also a time as the other flags do.
fn seconds(text: &str) -> Result<Duration, humantime::DurationError> {
    text.parse().map(Duration::from_secs).or_else(|_| humantime::parse_duration(text))
}

impl ServeArgs {
    #[must_use]
    pub(crate) fn config(&self) -> Config {
        let bytes = |size: ByteSize| usize::try_from(size.as_u64()).unwrap_or(usize::MAX);
        let time = |duration: humantime::Duration| -> Duration { duration.into() };
        Config {
            max_connections: self.limits.max_connections,
            max_per_address: self.limits.max_per_address,
            max_line: bytes(self.limits.max_line),
            window: bytes(self.limits.window),
            login_timeout: time(self.timeouts.login_timeout),
            stall_timeout: time(self.timeouts.stall_timeout),
            stall_bytes: bytes(self.timeouts.stall_bytes),
            drain_timeout: time(self.timeouts.drain_timeout),
            linger: time(self.timeouts.linger),
        }
    }
}
