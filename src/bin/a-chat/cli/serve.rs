//! The flags of `serve`, their environment variables and defaults: one table of limits.

use std::path::PathBuf;
use std::time::Duration;

use a_chat::{Config, Error};
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Args};
use log::LevelFilter;

use crate::logger::LogFormat;

use super::cluster::ClusterArgs;
use super::config_file::ConfigFile;
use super::configuration::ConfigurationArgs;
use super::doors::DoorArgs;
#[cfg(feature = "status")]
use super::status::StatusArgs;
use super::tls::ServerTlsArgs;
use super::users::{RateFlags, UserFlags};
use super::values::{BYTES, COUNT, LEVEL, LOG_FORMAT, TIME, refusal};

/// The arguments of `serve`.
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    pub(crate) doors: DoorArgs,

    #[command(flatten)]
    users: UserFlags,

    #[command(flatten)]
    limits: Limits,

    #[command(flatten)]
    rates: RateFlags,

    #[command(flatten)]
    timeouts: Timeouts,

    #[command(flatten)]
    pub(crate) tls: ServerTlsArgs,

    /// Minimum severity to log
    #[arg(
        long,
        value_name = "LEVEL",
        env = "A_CHAT_LOG_LEVEL",
        default_value = "info",
        value_parser = LEVEL,
        help_heading = "Log"
    )]
    pub(crate) log_level: LevelFilter,

    /// Form of the log's lines
    #[arg(
        long,
        value_name = "FORMAT",
        env = "A_CHAT_LOG_FORMAT",
        default_value = "text",
        value_parser = LOG_FORMAT,
        help_heading = "Log"
    )]
    pub(crate) log_format: LogFormat,

    /// Append the log to this file; `-` is standard error, the default
    ///
    /// SIGUSR1 opens it anew, for log rotation.
    #[arg(long, value_name = "PATH", env = "A_CHAT_LOG_FILE", help_heading = "Log")]
    pub(crate) log_file: Option<PathBuf>,

    /// Log the live counters at this interval [default: never]
    #[arg(
        long,
        value_name = "TIME",
        env = "A_CHAT_STATS_EVERY",
        value_parser = TIME,
        help_heading = "Log"
    )]
    pub(crate) stats_every: Option<Duration>,

    /// Write the final report to this file as one JSON object; `-` is standard output
    #[arg(long, value_name = "PATH", env = "A_CHAT_REPORT", help_heading = "Log")]
    pub(crate) report: Option<PathBuf>,

    #[cfg(feature = "status")]
    #[command(flatten)]
    pub(crate) status: StatusArgs,

    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,

    #[command(flatten)]
    pub(crate) configuration: ConfigurationArgs,

    /// The process that started the server: when it exits, the server shuts down
    #[arg(long, value_name = "PID", hide = true)]
    pub(crate) parent: Option<i32>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
struct Limits {
    /// Maximum number of connected clients [default: what the machine can hold]
    #[arg(long, value_name = "COUNT", env = "A_CHAT_MAX_CONNECTIONS", value_parser = COUNT)]
    max_connections: Option<usize>,

    /// Maximum number of connected clients from one address; IPv6 addresses with the same first 64
    /// bits count as one [default: no limit]
    #[arg(long, value_name = "COUNT", env = "A_CHAT_MAX_PER_ADDRESS", value_parser = COUNT)]
    max_per_address: Option<usize>,

    /// Maximum length of a line, without its line end
    #[arg(
        long,
        value_name = "BYTES",
        env = "A_CHAT_MAX_LINE",
        default_value = "64KiB",
        value_parser = BYTES
    )]
    max_line: usize,

    /// Maximum bytes queued from one client before the server stops reading from it
    #[arg(
        long,
        value_name = "BYTES",
        env = "A_CHAT_WINDOW",
        default_value = "256KiB",
        value_parser = BYTES
    )]
    window: usize,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Timeouts")]
struct Timeouts {
    /// Maximum time for a client to send its name
    #[arg(
        long,
        value_name = "TIME",
        env = "A_CHAT_LOGIN_TIMEOUT",
        default_value = "10s",
        value_parser = TIME
    )]
    login_timeout: Duration,

    /// Evict a recipient that on average acknowledges less than `--stall-bytes` in this time
    #[arg(
        long,
        value_name = "TIME",
        env = "A_CHAT_STALL_TIMEOUT",
        default_value = "10s",
        value_parser = TIME
    )]
    stall_timeout: Duration,

    /// Minimum a recipient must acknowledge per stall timeout, or all that is pending if less
    #[arg(
        long,
        value_name = "BYTES",
        env = "A_CHAT_STALL_BYTES",
        default_value = "32KiB",
        value_parser = BYTES
    )]
    stall_bytes: usize,

    /// Maximum duration of the drain before it is forced to end
    #[arg(
        long,
        value_name = "TIME",
        env = "A_CHAT_DRAIN_TIMEOUT",
        default_value = "5s",
        value_parser = TIME
    )]
    drain_timeout: Duration,

    /// Maximum time to wait for a client to close once it has received everything
    #[arg(
        long,
        value_name = "TIME",
        env = "A_CHAT_LINGER",
        default_value = "1s",
        value_parser = TIME
    )]
    linger: Duration,
}

impl ServeArgs {
    /// The limits of the server that the arguments describe.
    pub(crate) fn config(&self) -> Config {
        let config = self.rates.apply(self.users.apply(Config::default()));
        config
            .max_connections(self.limits.max_connections)
            .max_per_address(self.limits.max_per_address)
            .max_line(self.limits.max_line)
            .window(self.limits.window)
            .login_timeout(self.timeouts.login_timeout)
            .stall_timeout(self.timeouts.stall_timeout)
            .stall_bytes(self.timeouts.stall_bytes)
            .drain_timeout(self.timeouts.drain_timeout)
            .linger(self.timeouts.linger)
    }

    /// Refuses limits that no server can work with, naming the flag or variable.
    pub(super) fn validate(
        &self,
        command: &mut clap::Command,
        matches: &ArgMatches,
        file: &ConfigFile,
    ) -> Result<(), clap::Error> {
        // Flags and variables come before the file, whatever it says.
        let from_file = |id: &str| matches.value_source(id) == Some(ValueSource::DefaultValue);
        let place = |flag: &str| file.place_of(flag).filter(|_| from_file(&flag.replace('-', "_")));
        self.tls.validate(command, place)?;
        let id = "stats_every";
        let broken = match (self.config().validate(), self.stats_every) {
            (Err(Error::Config(rule)), _) => rule.split_once(' '),
            (_, Some(Duration::ZERO)) => Some((id, "must not be zero")),
            _ => None,
        };
        #[cfg(not(feature = "users"))]
        let broken = match &self.users.users {
            Some(_) => Some(("users", super::users::NOT_BUILT_IN)),
            None if !self.users.trust_unix.is_empty() => {
                Some(("trust_unix", super::users::NOT_BUILT_IN))
            }
            None => broken,
        };
        let Some((id, rule)) = broken else {
            return self.cluster.validate(command, matches.value_source("cluster"));
        };
        let arg = command.get_arguments().find(|arg| arg.get_id() == id);
        let source = matches.value_source(id).unwrap_or(ValueSource::CommandLine);
        let value = matches.get_raw(id).and_then(Iterator::last).unwrap_or_default();
        let example = arg.and_then(|arg| arg.get_default_values().first());
        let example = example.map(|value| format!(", as in {}", value.to_string_lossy()));
        let cause = format!("{rule}{}", example.unwrap_or_default());
        let place = arg.and_then(Arg::get_long).and_then(|flag| file.place_of(flag));
        let place = place.filter(|_| source == ValueSource::DefaultValue);
        let cause = place.map(|place| format!("{cause} ({place})")).unwrap_or(cause);
        Err(refusal(command, arg, source, value, cause))
    }
}
