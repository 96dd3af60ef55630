//! A server as a process of its own: asked through procfs what it has used, and ended and reaped
//! whatever happens.

use std::fs;
use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// A running server; dropped, it is killed.
#[derive(Debug)]
pub struct Process {
    child: Child,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Process {
    /// Starts a server that says where it listens with the last word of its first line.
    ///
    /// # Errors
    ///
    /// If it can not be started, or ends without having said that.
    pub fn start(command: &mut Command) -> io::Result<Self> {
        let mut child = Self::of(command.stdout(Stdio::piped()).spawn()?, ([0; 4], 0).into());
        let mut line = String::new();
        if let Some(stdout) = child.child.stdout.as_mut() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        let address = line.split_whitespace().next_back().and_then(|word| word.parse().ok());
        let unheard = || io::Error::other("it does not say where it listens");
        child.address = address.ok_or_else(unheard)?;
        Ok(child)
    }

    /// A server that listens there, or will.
    pub fn of(child: Child, address: SocketAddr) -> Self {
        Self { child, address }
    }

    /// What all the process's threads have run so far, in steps of 10 ms.
    ///
    /// # Errors
    ///
    /// If there is no procfs.
    pub fn cpu(&self) -> io::Result<Duration> {
        cpu_of(&self.child.id().to_string())
    }

    /// A value of `/proc/…/status`, as `VmHWM` in KiB or `Threads`.
    ///
    /// # Errors
    ///
    /// If there is no procfs, or no such value in it.
    pub fn status(&self, field: &str) -> io::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let mut lines = status.lines().filter_map(|line| line.split_once(':'));
        let value = lines.find(|(name, _)| *name == field).map(|(_, value)| value);
        let number = value.and_then(|value| value.split_whitespace().next()?.parse().ok());
        number.ok_or_else(|| io::Error::other(format!("no {field} in procfs")))
    }

    /// How large the executable is, in bytes.
    ///
    /// # Errors
    ///
    /// If there is no procfs.
    pub fn executable_size(&self) -> io::Result<u64> {
        Ok(fs::metadata(format!("/proc/{}/exe", self.child.id()))?.len())
    }

    /// Tells the server to stop: the end of its standard input if that is a pipe, else SIGTERM.
    pub fn stop(&mut self) {
        match self.child.stdin.take() {
            Some(input) => drop(input),
            // A child that was not waited for is there, alive or not.
            None => drop(kill_process(Pid::from_child(&self.child), Signal::TERM)),
        }
    }

    /// Waits for the end.
    ///
    /// # Errors
    ///
    /// If the system does not let it wait.
    pub fn wait(mut self) -> io::Result<ExitStatus> {
        self.child.wait()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What this process, the load, has run so far.
///
/// # Errors
///
/// If there is no procfs.
pub fn own_cpu() -> io::Result<Duration> {
    cpu_of("self")
}

fn cpu_of(pid: &str) -> io::Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field, the name in brackets, may hold blanks; the third one is next.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>);
    let ticks: u64 = ticks.sum::<Result<_, _>>().map_err(io::Error::other)?;
    // Whatever its own clock does, Linux tells user space hundredths of a second.
    Ok(Duration::from_millis(ticks * 10))
}
