//! The flags of `serve`, their environment variables and defaults: one table of limits.

use std::path::PathBuf;
use std::time::Duration;

use a_chat::Config;
use bytesize::ByteSize;
use clap::Args;
use log::LevelFilter;

use super::values::address;

/// The arguments of `serve`.
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// Address to listen on; port 0 picks a free port, which is printed
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

    /// Minimum severity to log: off, error, warn, info, debug, trace
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

    /// The process that started the server: when it exits, the server shuts down
    #[arg(long, value_name = "PID", hide = true)]
    pub(crate) parent: Option<i32>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
struct Limits {
    /// Maximum number of connected clients [default: what the machine can hold]
    #[arg(long, value_name = "COUNT", env = "A_CHAT_MAX_CONNECTIONS")]
    max_connections: Option<usize>,

    /// Maximum number of connected clients from one address; IPv6 addresses with the same first 64
    /// bits count as one [default: no limit]
    #[arg(long, value_name = "COUNT", env = "A_CHAT_MAX_PER_ADDRESS")]
    max_per_address: Option<usize>,

    /// Maximum length of a line, without its line end
    #[arg(long, value_name = "BYTES", env = "A_CHAT_MAX_LINE", default_value = "64KiB")]
    max_line: ByteSize,

    /// Maximum bytes queued from one client before the server stops reading from it
    #[arg(long, value_name = "BYTES", env = "A_CHAT_WINDOW", default_value = "256KiB")]
    window: ByteSize,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Timeouts")]
struct Timeouts {
    /// Maximum time for a client to send its name
    #[arg(long, value_name = "TIME", env = "A_CHAT_LOGIN_TIMEOUT", default_value = "10s")]
    login_timeout: humantime::Duration,

    /// Evict a recipient that acknowledges less than `--stall-bytes` within this time
    #[arg(long, value_name = "TIME", env = "A_CHAT_STALL_TIMEOUT", default_value = "10s")]
    stall_timeout: humantime::Duration,

    /// Minimum a recipient must acknowledge per stall timeout, or all that is pending if less
    #[arg(long, value_name = "BYTES", env = "A_CHAT_STALL_BYTES", default_value = "32KiB")]
    stall_bytes: ByteSize,

    /// Maximum duration of the drain before it is forced to end
    #[arg(long, value_name = "TIME", env = "A_CHAT_DRAIN_TIMEOUT", default_value = "5s")]
    drain_timeout: humantime::Duration,

    /// Maximum time to wait for a client to close once it has received everything
    #[arg(long, value_name = "TIME", env = "A_CHAT_LINGER", default_value = "1s")]
    linger: humantime::Duration,
}

impl ServeArgs {
    /// The limits of the server that the arguments describe.
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
