//! The program: command line, log, signals to [`ShutdownHandle`], result to exit status. Runs on the
//! main thread and exits with the server, the client of [`connect`] or the load of [`stress`].

mod cli;
mod connect;
mod error_chain;
mod generate;
mod logger;
mod output;
mod signal_stacks;
mod signals;
mod stress;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::process::ExitCode;

use crate::cli::{Cli, Command, ServeArgs};
use a_chat::{Server, ShutdownHandle};
use clap::Parser;
use rustix::process::{Signal, getppid, set_parent_process_death_signal};

use crate::signals::ShutdownSignal;

fn main() -> ExitCode {
    signal_stacks::restore_default();
    let result = match &parse() {
        Command::Serve(args) => serve(args),
        Command::Connect(args) => connect::run(args),
        Command::Stress(args) => stress::run(args),
        Command::Completions { shell } => generate::completions(*shell).map(|()| ExitCode::SUCCESS),
        Command::Manual { directory } => generate::manual(directory).map(|()| ExitCode::SUCCESS),
    };
    log::logger().flush();
    match result {
        Ok(status) => status,
        Err(error) => {
            // If standard error fails, the exit status has to do.
            let _ = output::to_stderr(
                format!("a-chat: {}\n", error_chain::in_one_line(&*error)).as_bytes(),
            );
            ExitCode::FAILURE
        }
    }
}

/// Parses the command line; if it is wrong, exits with a message and status 2.
fn parse() -> Command {
    let command = Cli::parse().command;
    if let Some(Command::Stress(args)) = &command {
        if let Err(error) = args.plan() {
            error.exit();
        }
    }
    let serve = || Cli::parse_from(["a-chat", "serve"]).command;
    command
        .or_else(serve)
        .unwrap_or_else(|| unreachable!("the second command line names a command"))
}

/// Serves until a signal: success if the drain lost no message, failure otherwise.
fn serve(args: &ServeArgs) -> Result<ExitCode, Box<dyn std::error::Error>> {
    a_chat::enlarge_futex_hash();
    start_log(args)?;
    a_chat::raise_nofile_limit();
    let server = Server::bind(&args.listen, args.config())?;
    shut_down_on_signals(server.shutdown_handle())?;
    if let Some(parent) = args.parent {
        shut_down_with(parent, &server.shutdown_handle())?;
    }
    let address = server.local_addr();
    let greeting = format!(
        "a-chat listens on {address}\n\
         connect with: nc {} {}, type a name, then lines like \"bob, carol: hello\"\n",
        address.ip(),
        address.port(),
    );
    // A closed standard output does not keep the server from serving.
    let _ = output::to_stdout(greeting.as_bytes());
    let report = server.run()?;
    Ok(if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Requests a signal when the parent process exits.
fn shut_down_with(parent: i32, handle: &ShutdownHandle) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::TERM))?;
    // The parent may have exited before the request.
    let is_alive = getppid().is_some_and(|current| current.as_raw_pid() == parent);
    if !is_alive {
        handle.shutdown();
    }
    Ok(())
}

/// Sends the log to the file, or by default to standard error.
fn start_log(args: &ServeArgs) -> Result<(), Box<dyn std::error::Error>> {
    let out = match &args.log_file {
        Some(path) => {
            let file = OpenOptions::new().create(true).append(true).open(path);
            file.map_err(|error| format!("cannot open {}: {error}", path.display()))?
        }
        // A duplicate descriptor: a blocked write to the log must not hold standard error's lock.
        None => File::from(io::stderr().as_fd().try_clone_to_owned()?),
    };
    logger::start(args.log_level, out)
}

/// The first signal begins the drain, and a later one forces it to end.
fn shut_down_on_signals(handle: ShutdownHandle) -> Result<(), String> {
    signals::on_request(move |request| match request {
        ShutdownSignal::First => {
            // Logged before acting: the process may exit as soon as the handle is set.
            log::info!("shutdown signal received, draining; send another to force exit");
            handle.shutdown();
        }
        ShutdownSignal::Duplicate => {
            log::debug!("ignored a repeated signal within 500 ms");
        }
        ShutdownSignal::Force => {
            log::warn!("second signal received, forcing the drain to end");
            handle.force();
        }
    })
}
