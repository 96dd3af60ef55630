//! `serve`: runs a server until a signal, and turns its report into the exit status. Runs on the main
//! thread; the log, the signals and whatever attends the server have threads of their own.

use std::error::Error;
use std::fmt::Write;
use std::fs::File;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::ExitCode;

use a_chat::{Endpoint, Listener, Report, Server, ShutdownHandle};
use nix::sys::signal::SigSet;
use rustix::process::{Signal, getppid, set_parent_process_death_signal};

use crate::attendants::Attendants;
use crate::cli::{DoorArgs, ServeArgs};
use crate::logger::LogHandle;
use crate::operator::Operator;
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
    // Before anything else is opened: they come by the numbers of their descriptors.
    let passed = passed_sockets(args)?;
    let signals = signals::catch(held_back)?;
    let _ = a_chat::enlarge_futex_hash();
    a_chat::limit_malloc_arenas();
    let log_file = args.log_file.as_deref();
    let log = logger::start(args.log_level, args.log_format, log_file)?;
    for variable in &args.configuration.settings.unknown_variables {
        log::warn!("ignored the environment variable {variable}, which belongs to no flag");
    }
    let result = serve(args, passed, signals, log);
    if let Err(error) = &result {
        // The caller prints it to standard error, so a log that goes there needs no copy.
        if log_file.is_some_and(|path| path != Path::new("-")) {
            log::error!("{}", error_chain::in_one_line(&**error));
        }
    }
    result
}

fn serve(
    args: &ServeArgs,
    passed: Vec<OwnedFd>,
    signals: Caught,
    log: LogHandle,
) -> Result<ExitCode, Box<dyn Error>> {
    let _ = a_chat::raise_nofile_limit();
    let config = args.doors.proxies(args.config())?;
    config.validate()?;
    let listeners = if passed.is_empty() { listen(&args.doors)? } else { take(passed)? };
    let server = Server::from_listeners(listeners, config)?;
    #[cfg(feature = "tls")]
    let server = match args.tls.tls()? {
        Some(tls) => server.tls(tls),
        None => server,
    };
    let server = crate::cluster::join(server, &args.cluster)?;
    let handle = server.shutdown_handle();
    #[cfg(feature = "systemd")]
    let reloads = crate::systemd::Reloads::new()?;
    let operator = Operator {
        log,
        stats: server.stats_handle(),
        files: server.files_handle(),
        #[cfg(feature = "systemd")]
        reloads: reloads.clone(),
    };
    signals.react(handle.clone(), move || operator.attend())?;
    shut_down_on_signals(handle.clone())?;
    if let Some(parent) = args.parent {
        shut_down_with(parent, &handle)?;
    }
    // Created before the server runs: a path that cannot be written must not surprise at the end.
    let json = args.report.as_deref().map(create_report).transpose()?;
    let mut attendants = Attendants::start(
        args,
        &server,
        #[cfg(feature = "systemd")]
        &reloads,
    )?;
    let endpoints = server.endpoints().to_vec();
    let report = server.run_with(|| {
        greet(&endpoints);
        attendants.serving();
    })?;
    let written = json.map_or(Ok(()), |file| write_report(file, &report));
    attendants.end(&report);
    written.map_err(|error| format!("cannot write the report: {error}"))?;
    Ok(if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The listening sockets that a service manager has passed, which take the place of `--listen`.
fn passed_sockets(args: &ServeArgs) -> Result<Vec<OwnedFd>, String> {
    #[cfg(feature = "systemd")]
    let passed = crate::systemd::passed_sockets()?;
    #[cfg(not(feature = "systemd"))]
    let passed = Vec::new();
    match args.configuration.settings.given("listen") {
        Some(listen) if !passed.is_empty() => Err(format!(
            "a socket was passed to listen on, and 'listen' is set by {}: remove one of them",
            listen.origin
        )),
        _ => Ok(passed),
    }
}

/// The sockets that were passed, as listeners.
fn take(passed: Vec<OwnedFd>) -> Result<Vec<Listener>, a_chat::Error> {
    passed.into_iter().map(Listener::from_fd).collect()
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
