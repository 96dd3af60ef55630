//! The program: parses the command line, runs the command, and turns its result into the exit status.
//! Runs on the main thread and exits with the command.

#[cfg(not(target_os = "linux"))]
compile_error!("the program needs Linux; use the library's client with default-features = false");

mod attendants;
mod check;
mod cluster;
mod cli;
mod connect;
mod dispositions;
mod error_chain;
mod generate;
#[cfg(any(feature = "status", feature = "systemd"))]
mod liveness;
mod logger;
mod operator;
mod output;
mod serve;
mod signal_stacks;
mod signals;
#[cfg(feature = "status")]
mod status;
mod stress;
#[cfg(feature = "systemd")]
mod systemd;
mod token;
mod user;

use std::process::ExitCode;

use crate::cli::Command;

fn main() -> ExitCode {
    signal_stacks::restore_default();
    // An operator may send these at any time, also before anything is ready for them.
    let held_back = signals::hold_back();
    token::take_from_environment();
    // A write beyond the limit of file sizes then fails, as on a full disk.
    dispositions::ignore(libc::SIGXFSZ);
    let command = cli::parse();
    if !matches!(command, Command::Serve(_)) {
        // Only a server has a use for them.
        signals::let_through(&held_back);
    }
    let result = match &command {
        Command::Serve(args) => serve::run(args, &held_back),
        Command::Connect(args) => connect::run(args),
        Command::Stress(args) => stress::run(args),
        Command::User(args) => user::run(args),
        Command::Completions { shell } => generate::completions(*shell).map(|()| ExitCode::SUCCESS),
        Command::Manual { directory } => generate::manual(directory).map(|()| ExitCode::SUCCESS),
    };
    log::logger().flush();
    match result {
        Ok(status) => status,
        Err(error) => {
            let priority = log::Level::Error;
            let priority =
                logger::is_journal().then(|| format!("<{}>", logger::priority(priority)));
            let priority = priority.unwrap_or_default();
            let error = error_chain::in_one_line(&*error);
            // If standard error fails, the exit status has to do.
            let _ = output::to_stderr(format!("{priority}a-chat: {error}\n").as_bytes());
            ExitCode::FAILURE
        }
    }
}
