//! Servers as separate processes, restricted to certain CPUs on request.

use std::ffi::OsStr;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use a_chat::load::ARRIVAL_TIMEOUT;
use a_chat::load::process::Process;

/// Starts a server that prints its address as the last word of its first line.
pub fn start(command: &mut Command) -> Process {
    match Process::start(command) {
        Ok(server) => server,
        Err(error) => panic!("cannot start {command:?}: {error}"),
    }
}

/// Starts a server on a given port, and waits until it accepts.
pub fn start_on(command: &mut Command, address: SocketAddr) -> Process {
    let child = match command.stdout(Stdio::null()).stdin(Stdio::null()).spawn() {
        Ok(child) => child,
        Err(error) => panic!("cannot start {command:?}: {error}"),
    };
    let server = Process::of(child, address);
    let deadline = Instant::now() + ARRIVAL_TIMEOUT;
    while TcpStream::connect(address).is_err() {
        assert!(Instant::now() < deadline, "{address} does not accept");
        std::thread::sleep(Duration::from_micros(200));
    }
    server
}

/// Stops a server, which must exit with success.
pub fn end(mut server: Process) {
    server.stop();
    wait(server);
}

/// Waits for a stopped server to exit.
pub fn wait(server: Process) {
    let status = server.wait().expect("a child");
    assert!(status.success(), "the server ended with {status}");
}

/// The server under test, logging warnings and errors only. `STRESS_SERVER` selects another build
/// of it.
pub fn chat(listen: &str, cpus: Option<&str>) -> Command {
    let built = env!("CARGO_BIN_EXE_a-chat");
    let mut command = command(std::env::var_os("STRESS_SERVER").unwrap_or(built.into()), cpus);
    command.args(["serve", "--listen", listen, "--log-level", "warn"]).stdin(Stdio::null());
    command
}

/// A port that was free a moment ago.
pub fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address")
}

/// A command restricted to a list of CPUs for taskset(1), or to none. taskset execs the command, so
/// the pid is the same.
pub fn command(executable: impl AsRef<OsStr>, cpus: Option<&str>) -> Command {
    let Some(cpus) = cpus else { return Command::new(executable) };
    let mut command = Command::new("taskset");
    command.args(["-c", cpus]).arg(executable);
    command
}
