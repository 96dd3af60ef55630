//! The command line: the commands, and the texts of `--help`. Plain data; the main thread parses it
//! before anything else runs.

mod connect;
mod serve;
mod stress;
mod values;

use std::path::PathBuf;

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

pub(crate) use connect::ConnectArgs;
pub(crate) use serve::ServeArgs;
pub(crate) use stress::{Mode, OWN_PREFIX, OWN_SERVER, Plan, StressArgs};

/// The width of the help in columns. It does not depend on the terminal, since the documents show it.
const HELP_WIDTH: usize = 80;

/// Relays lines of text between named clients over TCP. It can be shut down at any moment without
/// losing an accepted message.
///
/// Without a command it serves on 127.0.0.1:8080.
#[derive(Debug, Parser)]
#[command(name = "a-chat", version, term_width = HELP_WIDTH)]
pub(crate) struct Cli {
    /// Without a command it serves.
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the server until SIGINT, SIGTERM or SIGHUP; a second signal forces it to exit.
    ///
    /// Signals within half a second of the first count as the same request, since shells and
    /// service managers send some of them in pairs.
    ///
    /// Exit status: 0 if the drain delivered every accepted message, 1 if a message was lost or
    /// the server could not start, 2 if the command line is wrong.
    Serve(ServeArgs),

    /// Connect to a server, to chat at a terminal or to send and receive lines in a pipe.
    ///
    /// At a terminal, `bob: hello` sends hello to bob, after `/to bob` plain lines go to bob, and
    /// Tab completes names; `/help` lists the rest. Ctrl-D and Ctrl-C leave, and messages that are
    /// still on their way are shown first. Names have colours unless `NO_COLOR` is set; with
    /// `TERM=dumb` the terminal is treated as a pipe.
    ///
    /// In a pipe, lines from standard input are sent unchanged, and messages that arrive go to
    /// standard output; at the end of the input the client stays until everything has arrived. The
    /// first signal ends the input and a second one ends the client at once; as with `serve`,
    /// signals within half a second of the first count as the same request.
    ///
    /// Exit status: 0 if the server accepted every line, 1 if it refused one, a connection was
    /// lost or none was made, 2 if the command line is wrong.
    Connect(ConnectArgs),

    /// Put a server under load, and measure throughput and latency.
    ///
    /// Every message must be its sender's next; lost, reordered and repeated ones are counted. A
    /// message that takes longer than ten seconds is lost. Ctrl-C ends the load early and prints
    /// the figures so far.
    ///
    /// A server started for the load reads the environment variables of `serve`.
    ///
    /// Exit status: 0 if every message arrived, once and in order, 1 if not, or if the server could
    /// not be reached, refused something or stopped, 2 if the command line is wrong.
    Stress(StressArgs),

    /// Write a completion script for a shell to standard output.
    Completions {
        /// The shell
        shell: Shell,
    },

    /// Write manual pages, one for each command, into a directory.
    Manual {
        /// The directory; it is created if it does not exist
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
}

/// The whole command line, for `completions` and `manual`.
pub(crate) fn command() -> clap::Command {
    Cli::command()
}
