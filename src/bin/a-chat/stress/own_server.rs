//! The load's own server: another process of the same executable on a free port, so its CPU time
//! and memory can be told from the load's. It ends with the load, however the load ends.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use crate::cli::OWN_SERVER;
use a_chat::Endpoint;
use a_chat::load::process::Process;

/// A running server.
#[derive(Debug)]
pub(super) struct OwnServer(Process);

/// What it used.
#[derive(Clone, Copy, Debug)]
pub(super) struct Usage {
    /// CPU time while the load ran.
    pub(super) cpu: Duration,
    /// Peak resident memory so far, in bytes.
    pub(super) peak_memory: u64,
    pub(super) threads: u64,
}

impl OwnServer {
    /// Starts it, logging warnings and errors to standard error.
    pub(super) fn start() -> Result<Self, String> {
        // This very file, whatever happened to the path it was started by.
        let mut command = Command::new("/proc/self/exe");
        let (program, arguments) = OWN_SERVER.split_at(1);
        command.arg0(program[0]).args(arguments).args(["--log-level", "warn"]);
        command.args(["--parent", &std::process::id().to_string()]);
        // Ctrl-C at a terminal is for the load alone, which needs its server until the end.
        command.process_group(0).stdin(Stdio::null());
        let server = Process::start(&mut command);
        server.map(Self).map_err(|error| format!("cannot start a server: {error}"))
    }

    pub(super) fn address(&self) -> &Endpoint {
        &self.0.address
    }

    pub(super) fn cpu(&self) -> io::Result<Duration> {
        self.0.cpu()
    }

    /// What it used since its CPU time was `before`.
    pub(super) fn usage(&self, before: Duration) -> io::Result<Usage> {
        Ok(Usage {
            cpu: self.cpu()?.saturating_sub(before),
            peak_memory: self.0.status("VmHWM")? * 1024,
            threads: self.0.status("Threads")?,
        })
    }

    /// Shuts it down and returns its exit status: success if the drain lost nothing.
    pub(super) fn end(mut self) -> io::Result<ExitStatus> {
        self.0.stop();
        self.0.wait()
    }
}
