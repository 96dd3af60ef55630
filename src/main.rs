//! The binary: arguments, log, signals to [`ShutdownHandle`], result to exit status. It runs on
//! the main thread and ends with the server, or with the client of [`connect`].

mod cli;
mod connect;
mod logger;
mod signals;

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;

use a_chat::{Server, ShutdownHandle};

use crate::cli::{Command, ServeArgs};
use crate::signals::Request;

fn main() -> ExitCode {
    let done = match &cli::parse() {
        Command::Serve(args) => serve(args),
        Command::Connect(args) => connect::run(args),
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

/// Serves until a signal comes: success if the drain lost nothing, failure otherwise.
fn serve(args: &ServeArgs) -> Result<ExitCode, Box<dyn std::error::Error>> {
    a_chat::expect_many_threads();
    start_log(args)?;
    a_chat::raise_open_files();
    let server = Server::bind(&args.listen, args.config())?;
    stop_on_signals(server.shutdown_handle())?;
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
        Request::First => {
            // Nobody waits for the log; and the process may be gone right after the other.
            log::info!("signalled, delivering what is due; a second signal ends that by force");
            handle.shutdown();
        }
        Request::Same => log::debug!("signalled again so soon that it is the same request"),
        Request::Again => {
            log::warn!("signalled again, ending the drain by force");
            handle.force();
        }
    })
}
