//! A server of the load's own: another process of the same executable on a free port, so that
//! what it uses can be told from what the load uses. It ends with the load, however that ends.

use std::io;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use a_chat::load::process::Process;

/// A running server.
#[derive(Debug)]
pub(super) struct OwnServer(Process);

/// What it has used.
#[derive(Clone, Copy, Debug)]
pub(super) struct Usage {
    /// While the load ran.
    pub(super) cpu: Duration,
    /// The most memory that was resident so far, in bytes.
    pub(super) peak_memory: u64,
    pub(super) threads: u64,
}

impl OwnServer {
    /// Starts it, with a log of what goes wrong, on standard error.
    pub(super) fn start() -> Result<Self, String> {
        // This very file, whatever has become of the name that it was started by.
        let mut command = Command::new("/proc/self/exe");
        command.arg0("a-chat").args(["serve", "--listen", "127.0.0.1:0", "--log-level", "warn"]);
        command.args(["--parent", &std::process::id().to_string()]);
        // Ctrl-C at a terminal is for the load alone, which needs its server to the end.
        command.process_group(0).stdin(Stdio::null());
        let server = Process::start(&mut command);
        server.map(Self).map_err(|error| format!("cannot start a server: {error}"))
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.0.address
    }

    pub(super) fn cpu(&self) -> io::Result<Duration> {
        self.0.cpu()
    }

    /// What it has used since it had used so much processor time.
    pub(super) fn usage(&self, before: Duration) -> io::Result<Usage> {
        Ok(Usage {
            cpu: self.cpu()?.saturating_sub(before),
            peak_memory: self.0.status("VmHWM")? * 1024,
            threads: self.0.status("Threads")?,
        })
    }

    /// Has it drain, and waits for its verdict: success if it has lost nothing.
    pub(super) fn end(mut self) -> io::Result<ExitStatus> {
        self.0.stop();
        self.0.wait()
    }
}
