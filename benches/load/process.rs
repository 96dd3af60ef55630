//! A server as a process of its own: started on a free port, asked through procfs what it has
//! used, and ended and reaped whatever happens.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::PATIENCE;

/// A running server.
#[derive(Debug)]
pub struct Process {
    child: Child,
    pub address: SocketAddr,
}

impl Process {
    /// Starts a server that says where it listens with the last word of its first line.
    pub fn start(command: &mut Command) -> Self {
        let mut child = spawn(command.stdout(Stdio::piped()));
        let mut line = String::new();
        let stdout = child.stdout.as_mut().expect("a pipe");
        BufReader::new(stdout).read_line(&mut line).expect("a greeting");
        let address = line.split_whitespace().next_back().and_then(|word| word.parse().ok());
        Self { child, address: address.expect("an address") }
    }

    /// Starts a server on a port that it is told, and waits until it accepts.
    pub fn start_on(command: &mut Command, address: SocketAddr) -> Self {
        let child = spawn(command.stdout(Stdio::null()).stdin(Stdio::null()));
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(address).is_err() {
            assert!(Instant::now() < deadline, "{address} does not accept");
            std::thread::sleep(Duration::from_micros(200));
        }
        Self { child, address }
    }

    /// What all the process's threads have run so far, in steps of 10 ms.
    pub fn cpu(&self) -> Duration {
        cpu_of(&self.child.id().to_string())
    }

    /// How large the executable is, in bytes.
    pub fn executable_size(&self) -> u64 {
        fs::metadata(format!("/proc/{}/exe", self.child.id())).expect("procfs").len()
    }

    /// A value of `/proc/…/status`, as `VmHWM` in KiB or `Threads`.
    pub fn status(&self, field: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.expect("procfs");
        let mut lines = status.lines().filter_map(|line| line.split_once(':'));
        let (_, value) = lines.find(|(name, _)| *name == field).expect("a field of that name");
        value.split_whitespace().next().and_then(|word| word.parse().ok()).expect("a number")
    }

    /// Tells the server to stop: the end of its standard input for a floor, else a signal.
    pub fn stop(&mut self) {
        match self.child.stdin.take() {
            Some(input) => drop(input),
            // A child that was not waited for is there, alive or not.
            None => kill_process(Pid::from_child(&self.child), Signal::TERM).expect("a process"),
        }
    }

    /// Waits for the end; the server has to be content with how it went.
    pub fn wait(mut self) {
        let status = self.child.wait().expect("a child");
        assert!(status.success(), "the server ended with {status}");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The server under test, with a log of what goes wrong only. `STRESS_SERVER` names another
/// build of it to measure.
pub fn chat(executable: &str, listen: &str, cpus: Option<&str>) -> Command {
    let executable = std::env::var_os("STRESS_SERVER").unwrap_or_else(|| executable.into());
    let mut command = command(executable, cpus);
    command.args(["serve", "--listen", listen, "--log-level", "warn"]).stdin(Stdio::null());
    command
}

/// What this process, the load, has run so far.
pub fn own_cpu() -> Duration {
    cpu_of("self")
}

fn cpu_of(pid: &str) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("procfs");
    // The second field, the name in brackets, may hold blanks; the third one is next.
    let (_, fields) = stat.rsplit_once(')').expect("a name in brackets");
    let ticks = fields.split_whitespace().skip(11).take(2);
    let ticks: u64 = ticks.map(|ticks| ticks.parse::<u64>().expect("a number")).sum();
    // Whatever its own clock does, Linux tells user space hundredths of a second.
    Duration::from_millis(ticks * 10)
}

/// A port that was free a moment ago.
pub fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address")
}

/// A command that runs on some processors only, as a list for taskset(1), or on any. taskset
/// becomes the command, and so has its id.
pub fn command(executable: impl AsRef<OsStr>, cpus: Option<&str>) -> Command {
    let Some(cpus) = cpus else { return Command::new(executable) };
    let mut command = Command::new("taskset");
    command.args(["-c", cpus]).arg(executable);
    command
}

fn spawn(command: &mut Command) -> Child {
    match command.spawn() {
        Ok(child) => child,
        Err(error) => panic!("can not start {command:?}: {error}"),
    }
}
