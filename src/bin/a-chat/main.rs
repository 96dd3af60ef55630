//! The program: parses the command line, runs the command, and turns its result into the exit status.
//! Runs on the main thread and exits with the command.

#[cfg(not(target_os = "linux"))]
compile_error!("the program needs Linux; use the library's client with default-features = false");

mod cli;
mod connect;
mod dispositions;
mod error_chain;
mod generate;
mod logger;
mod output;
mod serve;
mod signal_stacks;
mod signals;
mod stress;

use std::process::ExitCode;

use crate::cli::Command;

fn main() -> ExitCode {
    signal_stacks::restore_default();
    // A write beyond the limit of file sizes then fails, as on a full disk.
    dispositions::ignore(libc::SIGXFSZ);
    let result = match &cli::parse() {
        Command::Serve(args) => serve::run(args),
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
