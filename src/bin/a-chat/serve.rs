//! `serve`: runs a server until a signal, and turns its report into the exit status. Runs on the main
//! thread; the log, signals and live counters have threads of their own.

use std::convert::Infallible;
use std::error::Error;
use std::fmt::Write;
use std::fs::File;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::process::ExitCode;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use a_chat::{Report, Server, ShutdownHandle, StatsHandle};
use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use nix::sys::signal::SigSet;
use rustix::process::{Signal, getppid, set_parent_process_death_signal};

use crate::cli::ServeArgs;
use crate::logger::LogHandle;
use crate::operator::{self, Operator};
use crate::signals::{self, Caught};
use crate::{check, error_chain, logger, output};

/// Serves until a signal: success if the drain lost no message, failure otherwise.
pub(crate) fn run(args: &ServeArgs, held_back: &SigSet) -> Result<ExitCode, Box<dyn Error>> {
    if args.configuration.check {
        return check::check(args).map(|()| ExitCode::SUCCESS);
    }
    if args.configuration.print_limits {
        return check::print_limits(args).map(|()| ExitCode::SUCCESS);
    }
    let signals = signals::catch(held_back)?;
    let _ = a_chat::enlarge_futex_hash();
    a_chat::limit_malloc_arenas();
    let log_file = args.log_file.as_deref();
    let log = logger::start(args.log_level, args.log_format, log_file)?;
    for variable in &args.configuration.settings.unknown_variables {
        log::warn!("ignored the environment variable {variable}, which belongs to no flag");
    }
    let result = serve(args, signals, log);
    if let Err(error) = &result {
        // The caller prints it to standard error, so a log that goes there needs no copy.
        if log_file.is_some_and(|path| path != Path::new("-")) {
            log::error!("{}", error_chain::in_one_line(&**error));
        }
    }
    result
}

fn serve(args: &ServeArgs, signals: Caught, log: LogHandle) -> Result<ExitCode, Box<dyn Error>> {
    let _ = a_chat::raise_nofile_limit();
    let names = args.listen.iter().map(|name| resolve(name));
    let names: Vec<_> = names.collect::<Result<_, _>>()?;
    let server = Server::bind_all(names.iter().map(Vec::as_slice), args.config())?;
    let handle = server.shutdown_handle();
    let operator = Operator { log, stats: server.stats_handle() };
    signals.react(handle.clone(), move || operator.attend())?;
    shut_down_on_signals(handle.clone())?;
    if let Some(parent) = args.parent {
        shut_down_with(parent, &handle)?;
    }
    // Created before the server runs: a path that cannot be written must not surprise at the end.
    let json = args.report.as_deref().map(create_report).transpose()?;
    let stats = args.stats_every.map(|interval| log_stats(interval, server.stats_handle()));
    let stats = stats.transpose()?;
    let addresses = server.local_addrs().to_vec();
    let report = server.run_with(|| greet(&addresses))?;
    if let Some((running, thread)) = stats {
        drop(running);
        // A panic is in the log's place already: on standard error.
        let _ = thread.join();
    }
    if let Some(file) = json {
        write_report(file, &report).map_err(|error| format!("cannot write the report: {error}"))?;
    }
    Ok(if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// All addresses of a name.
fn resolve(name: &str) -> Result<Vec<SocketAddr>, String> {
    let addresses = name.to_socket_addrs();
    addresses.map(Iterator::collect).map_err(|error| format!("cannot listen on {name}: {error}"))
}

/// Prints where the server listens, now that it serves.
fn greet(addresses: &[SocketAddr]) {
    let mut greeting = String::new();
    for address in addresses {
        // Writing to a string cannot fail.
        let _ = writeln!(greeting, "a-chat listens on {address}");
    }
    if let Some(first) = addresses.first() {
        let (ip, port) = (first.ip(), first.port());
        let _ = writeln!(
            greeting,
            "connect with: nc {ip} {port}, type a name, then lines like \"bob, carol: hello\""
        );
    }
    // A closed standard output does not keep the server from serving.
    let _ = output::to_stdout(greeting.as_bytes());
}

/// Creates the file for the report; `None` is standard output.
fn create_report(path: &Path) -> Result<Option<File>, String> {
    if path == Path::new("-") {
        return Ok(None);
    }
    let created = File::create(path);
    created.map(Some).map_err(|error| format!("cannot create {}: {error}", path.display()))
}

/// Writes the report as one JSON object in one line.
fn write_report(file: Option<File>, report: &Report) -> io::Result<()> {
    let mut json = serde_json::to_vec(report)?;
    json.push(b'\n');
    match file {
        Some(mut file) => io::Write::write_all(&mut file, &json),
        None => output::to_stdout(&json),
    }
}

/// Spawns the thread `stats`, which logs the live counters until the sender is dropped.
fn log_stats(
    interval: Duration,
    stats: StatsHandle,
) -> io::Result<(Sender<Infallible>, JoinHandle<()>)> {
    let (running, ended) = bounded(0);
    let thread = thread::Builder::new().name("stats".to_owned());
    let thread = thread.spawn(move || {
        while ended.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
            operator::log_figures(&stats.read());
        }
    })?;
    Ok((running, thread))
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

/// The first signal begins the drain, and a later one forces it to end.
fn shut_down_on_signals(handle: ShutdownHandle) -> Result<(), String> {
    signals::on_request(move |_| handle.signalled())
}
