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

use a_chat::{Endpoint, Listener, Report, Server, ShutdownHandle, StatsHandle};
use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use nix::sys::signal::SigSet;
use rustix::process::{Signal, getppid, set_parent_process_death_signal};

use crate::cli::{DoorArgs, ServeArgs};
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
    let config = args.doors.proxies(args.config())?;
    config.validate()?;
    let server = Server::from_listeners(listen(&args.doors)?, config)?;
    #[cfg(feature = "tls")]
    let server = match args.tls.tls()? {
        Some(tls) => server.tls(tls),
        None => server,
    };
    let handle = server.shutdown_handle();
    let operator = Operator { log, stats: server.stats_handle(), files: server.files_handle() };
    signals.react(handle.clone(), move || operator.attend())?;
    shut_down_on_signals(handle.clone())?;
    if let Some(parent) = args.parent {
        shut_down_with(parent, &handle)?;
    }
    // Created before the server runs: a path that cannot be written must not surprise at the end.
    let json = args.report.as_deref().map(create_report).transpose()?;
    let stats = args.stats_every.map(|interval| log_stats(interval, server.stats_handle()));
    let stats = stats.transpose()?;
    let endpoints = server.endpoints().to_vec();
    let report = server.run_with(|| greet(&endpoints))?;
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

/// Opens everything that clients can connect to: addresses first, then Unix sockets.
fn listen(doors: &DoorArgs) -> Result<Vec<Listener>, Box<dyn Error>> {
    let names = doors.addresses().into_iter().map(resolve);
    let names: Vec<_> = names.collect::<Result<_, _>>()?;
    let mut listeners = Vec::new();
    if !names.is_empty() {
        listeners = Listener::bind_tcp(names.iter().map(Vec::as_slice))?;
    }
    let options = doors.unix_options()?;
    for path in doors.paths() {
        listeners.push(Listener::bind_unix(path, options)?);
    }
    Ok(listeners)
}

/// Prints where the server listens, now that it serves.
fn greet(endpoints: &[Endpoint]) {
    let mut greeting = String::new();
    for endpoint in endpoints {
        // Writing to a string cannot fail.
        let _ = writeln!(greeting, "a-chat listens on {endpoint}");
    }
    let command = match endpoints.first() {
        Some(Endpoint::Unix(path)) => format!("nc -U {}", path.display()),
        Some(Endpoint::Tcp(address)) => format!("nc {} {}", address.ip(), address.port()),
        _ => String::new(),
    };
    let _ = writeln!(
        greeting,
        "connect with: {command}, type a name, then lines like \"bob, carol: hello\""
    );
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
