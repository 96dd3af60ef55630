//! The binary: arguments, log, signals to [`ShutdownHandle`], result to exit status. It runs on
//! the main thread and ends with the server, with the client of [`connect`] or
//! with the load of [`stress`].

mod cli;
mod connect;
mod logger;
mod signal_stacks;
mod signals;
mod stress;

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;

use crate::cli::{Cli, Command, ServeArgs};
use a_chat::{Server, ShutdownHandle};
use clap::Parser;
use clap::error::ErrorKind;
use rustix::process::{Signal, getppid, set_parent_process_death_signal};

use crate::signals::ShutdownSignal;

fn main() -> ExitCode {
    signal_stacks::restore_default();
    let done = match &parse() {
        Command::Serve(args) => serve(args),
        Command::Connect(args) => connect::run(args),
        Command::Stress(args) => stress::run(args),
    };
    log::logger().flush();
    match done {
        Ok(status) => status,
        Err(error) => {
            // Nowhere is left to complain to, should this fail.
            let _ = writeln!(io::stderr(), "a-chat: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Reads the command line; ends the process with a message and status 2 if it is wrong.
fn parse() -> Command {
    let command = Cli::parse().command;
    if let Some(Command::Stress(args)) = &command {
        if let Err(why) = args.plan() {
            cli::command().error(ErrorKind::ValueValidation, why).exit();
        }
    }
    let serve = || Cli::parse_from(["a-chat", "serve"]).command;
    command
        .or_else(serve)
        .unwrap_or_else(|| unreachable!("the second command line names a command"))
}

/// Serves until a signal comes: success if the drain lost nothing, failure otherwise.
fn serve(args: &ServeArgs) -> Result<ExitCode, Box<dyn std::error::Error>> {
    a_chat::enlarge_futex_hash();
    start_log(args)?;
    a_chat::raise_nofile_limit();
    let server = Server::bind(&args.listen, args.config())?;
    stop_on_signals(server.shutdown_handle())?;
    if let Some(parent) = args.parent {
        stop_with(parent, &server.shutdown_handle())?;
    }
    let address = server.local_addr();
    let greeting = format!(
        "a-chat listens on {address}\n\
         connect with: nc {} {}, type a name, then lines like \"bob, carol: hello\"\n",
        address.ip(),
        address.port(),
    );
    // A closed standard output is no reason not to serve.
    let _ = io::stdout().write_all(greeting.as_bytes());
    let report = server.run()?;
    Ok(if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Has the end of the process that started the server come as a signal.
fn stop_with(parent: i32, handle: &ShutdownHandle) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::TERM))?;
    // It may have ended before that.
    let is_there = getppid().is_some_and(|now| now.as_raw_pid() == parent);
    if !is_there {
        handle.shutdown();
    }
    Ok(())
}

/// Sends the log to the file, or else to standard error.
fn start_log(args: &ServeArgs) -> Result<(), Box<dyn std::error::Error>> {
    let out = match &args.log_file {
        Some(path) => {
            let file = OpenOptions::new().create(true).append(true).open(path);
            file.map_err(|error| format!("cannot open {}: {error}", path.display()))?
        }
        // A descriptor of its own: to be held up in writing must not hold standard error's lock.
        None => File::from(io::stderr().as_fd().try_clone_to_owned()?),
    };
    logger::start(args.log_level, out)
}

/// The first signal begins the drain, one that comes later ends it by force.
fn stop_on_signals(handle: ShutdownHandle) -> Result<(), String> {
    signals::on_request(move |request| match request {
        ShutdownSignal::First => {
            // Nobody waits for the log; and the process may be gone right after the other.
            log::info!("signalled, delivering what is due; a second signal ends that by force");
            handle.shutdown();
        }
        ShutdownSignal::Duplicate => {
            log::debug!("signalled again so soon that it is the same request");
        }
        ShutdownSignal::Force => {
            log::warn!("signalled again, ending the drain by force");
            handle.force();
        }
    })
}
