//! A server in a process of its own: measured through procfs, and always killed and reaped.

use std::fs;
use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use crate::wire::endpoint::Endpoint;
use rustix::process::{Pid, Signal, kill_process};

/// A running server, killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    /// The address it listens on.
    pub address: Endpoint,
}

impl Process {
    /// Starts a server that prints its address as the last word of its first line.
    ///
    /// # Errors
    ///
    /// If it cannot be started, or exits without printing an address.
    pub fn start(command: &mut Command) -> io::Result<Self> {
        let nowhere = SocketAddr::from(([0; 4], 0));
        let mut child = Self::of(command.stdout(Stdio::piped()).spawn()?, nowhere);
        let mut line = String::new();
        if let Some(stdout) = child.child.stdout.as_mut() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        let address = line.split_whitespace().next_back().and_then(|word| word.parse().ok());
        let unheard = || io::Error::other("it does not say where it listens");
        child.address = address.ok_or_else(unheard)?;
        Ok(child)
    }

    /// A server that listens on this address, or will.
    pub fn of(child: Child, address: impl Into<Endpoint>) -> Self {
        Self { child, address: address.into() }
    }

    /// CPU time of all its threads so far, in steps of 10 ms.
    ///
    /// # Errors
    ///
    /// If there is no procfs.
    pub fn cpu(&self) -> io::Result<Duration> {
        cpu_of(&self.child.id().to_string())
    }

    /// A value of `/proc/…/status`, such as `VmHWM` in KiB or `Threads`.
    ///
    /// # Errors
    ///
    /// If procfs or the value is missing.
    pub fn status(&self, field: &str) -> io::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let mut lines = status.lines().filter_map(|line| line.split_once(':'));
        let value = lines.find(|(name, _)| *name == field).map(|(_, value)| value);
        let number = value.and_then(|value| value.split_whitespace().next()?.parse().ok());
        number.ok_or_else(|| io::Error::other(format!("no {field} in procfs")))
    }

    /// Size of the executable, in bytes.
    ///
    /// # Errors
    ///
    /// If there is no procfs.
    pub fn executable_size(&self) -> io::Result<u64> {
        Ok(fs::metadata(format!("/proc/{}/exe", self.child.id()))?.len())
    }

    /// Shuts the server down: by closing its standard input if that is a pipe, otherwise by
    /// SIGTERM.
    pub fn stop(&mut self) {
        match self.child.stdin.take() {
            Some(input) => drop(input),
            // A child that has not been reaped still has its pid.
            None => drop(kill_process(Pid::from_child(&self.child), Signal::TERM)),
        }
    }

    /// Waits until the server exits.
    ///
    /// # Errors
    ///
    /// If waiting fails.
    pub fn wait(mut self) -> io::Result<ExitStatus> {
        self.child.wait()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only if it has exited already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// CPU time of this process, the load, so far.
///
/// # Errors
///
/// If there is no procfs.
pub fn own_cpu() -> io::Result<Duration> {
    cpu_of("self")
}

fn cpu_of(pid: &str) -> io::Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field, the name in parentheses, may contain spaces.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>);
    let ticks: u64 = ticks.sum::<Result<_, _>>().map_err(io::Error::other)?;
    // Linux reports hundredths of a second to user space, whatever its own clock.
    Ok(Duration::from_millis(ticks * 10))
}
