//! The command line: the commands, and the texts of `--help`. Plain data; the main thread parses it
//! before anything else runs.

mod cluster;
mod config_file;
mod configuration;
mod confirm;
mod connect;
mod doors;
mod serve;
#[cfg(feature = "status")]
mod status;
mod stress;
mod token;
mod users;
mod tls;
mod values;

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::builder::Resettable;
use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::Shell;

use config_file::ConfigFile;
use configuration::unknown_variables;

pub(crate) use cluster::ClusterArgs;
pub(crate) use configuration::Settings;
pub(crate) use connect::ConnectArgs;
pub(crate) use doors::DoorArgs;
pub(crate) use serve::ServeArgs;
pub(crate) use stress::{Mode, OWN_PREFIX, OWN_SERVER, Plan, StressArgs};
pub(crate) use token::{LoginsFlags, TokenFlags};
#[cfg(not(feature = "users"))]
pub(crate) use users::NOT_BUILT_IN;
pub(crate) use users::UserArgs;
#[cfg(feature = "users")]
pub(crate) use users::{UserAction, UserName};

/// The width of the help in columns. It does not depend on the terminal, since the documents show it.
const HELP_WIDTH: usize = 80;

/// Relays lines of text between named clients over TCP. It can be shut down at any moment without
/// losing an accepted message.
///
/// Without a command it serves, by default on 127.0.0.1:8080; the flags of `serve` need no command.
///
/// Every time can be given with a unit, as in 1.5s or 2min, or as a plain number of seconds.
#[derive(Debug, Parser)]
#[command(name = "a-chat", version, term_width = HELP_WIDTH)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the server until SIGINT, SIGTERM, SIGQUIT or SIGHUP; a second signal forces it to exit.
    ///
    /// SIGINT, SIGQUIT and SIGHUP stay ignored if they are when it starts, as after nohup(1). No other
    /// signal ends the server, except those of a crash and SIGKILL. Signals within half a second of the first count as the same request, since shells and
    /// service managers send some of them in pairs.
    ///
    /// Exit status: 0 if the drain delivered every accepted message, 1 if a message was lost or
    /// the server could not start, 2 if the command line is wrong.
    Serve(Box<ServeArgs>),

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
    /// lost or none was made, 2 if the command line is wrong. With `--confirm` 0 only if every line
    /// was also delivered, and 3 if that could not be confirmed.
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

    /// Change or show a file of users, for `serve --users`.
    ///
    /// A token is printed once, alone on standard output, and only its hash is kept. A running server
    /// sees a change within a second, and disconnects whoever uses a token that is no longer valid.
    User(UserArgs),

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

/// Parses the process's command line. If it is wrong, or only asks for help, the process exits here.
pub(crate) fn parse() -> Command {
    parse_from(std::env::args_os().skip(1).collect()).unwrap_or_else(|error| error.exit())
}

fn parse_from(mut arguments: Vec<OsString>) -> Result<Command, clap::Error> {
    if arguments.first().is_none_or(is_flag_of_serve) {
        arguments.insert(0, "serve".into());
    }
    arguments.insert(0, "a-chat".into());
    let mut command = ignore_empty_variables(Cli::command());
    let file = read_config_file(&command, &arguments)?;
    command = command.mut_subcommand("serve", |serve| file.apply(serve));
    command.build();
    let matches = match command.try_get_matches_from_mut(&arguments) {
        // The help names every variable, including those that are set but empty.
        Err(error) if error.kind() == ErrorKind::DisplayHelp => {
            return Err(Cli::command().try_get_matches_from(arguments).err().unwrap_or(error));
        }
        matches => matches?,
    };
    // `parse_from` adds the command that is left out.
    let mut parsed = Cli::from_arg_matches(&matches)?.command.unwrap_or_else(|| unreachable!());
    if let Some((name, matches)) = matches.subcommand() {
        let unknown = unknown_variables(&command, std::env::vars_os());
        if let Some(command) = command.find_subcommand_mut(name) {
            match &mut parsed {
                Command::Serve(args) => {
                    args.validate(command, matches, &file)?;
                    let settings = Settings::of(command, matches, &file);
                    args.configuration.take(command, settings, unknown)?;
                }
                Command::Connect(args) => args.tls.validate(command)?,
                Command::Stress(args) => {
                    args.tls.validate(command)?;
                    args.plan()?;
                }
                _ => {}
            }
        }
    }
    Ok(parsed)
}

/// The file that `--config` or its variable names; an empty one if there is none.
fn read_config_file(
    command: &clap::Command,
    arguments: &[OsString],
) -> Result<ConfigFile, clap::Error> {
    // What is wrong elsewhere is refused later, once the file's defaults are known.
    let matches = command.clone().ignore_errors(true).try_get_matches_from(arguments).ok();
    let serve = matches.as_ref().and_then(|matches| matches.subcommand_matches("serve"));
    let path = serve.and_then(|serve| serve.try_get_one::<PathBuf>("config").ok().flatten());
    let (Some(path), mut command) = (path, command.clone()) else {
        return Ok(ConfigFile::default());
    };
    command.build();
    let Some(serve) = command.find_subcommand_mut("serve") else {
        return Ok(ConfigFile::default());
    };
    ConfigFile::read(path, serve)
        .map_err(|error| serve.clone().error(ErrorKind::ValueValidation, error))
}

/// A command line that begins with a flag is one of `serve`, unless the flag is the program's own.
fn is_flag_of_serve(argument: &OsString) -> bool {
    let own = ["-h", "--help", "-V", "--version"];
    argument.as_encoded_bytes().starts_with(b"-") && !own.iter().any(|flag| argument == flag)
}

/// Treats variables that are set to nothing as absent, as Compose files and service managers set them.
fn ignore_empty_variables(command: clap::Command) -> clap::Command {
    let is_empty = |name: &OsStr| std::env::var_os(name).is_some_and(|value| value.is_empty());
    let command = command.mut_args(|arg| match arg.get_env() {
        Some(name) if is_empty(name) => arg.env(Resettable::Reset),
        _ => arg,
    });
    command.mut_subcommands(ignore_empty_variables)
}
