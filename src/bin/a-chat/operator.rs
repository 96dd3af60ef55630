//! What an operator may request of a running server at any time, with SIGUSR1. Runs on the thread
//! `signals`.

use a_chat::{FilesHandle, Stats, StatsHandle};

use crate::logger::LogHandle;
#[cfg(feature = "systemd")]
use crate::systemd::Reloads;

/// What a request needs.
#[derive(Debug)]
pub(crate) struct Operator {
    pub(crate) log: LogHandle,
    pub(crate) stats: StatsHandle,
    pub(crate) files: FilesHandle,
    #[cfg(feature = "systemd")]
    pub(crate) reloads: Reloads,
}

impl Operator {
    /// Opens the log anew, logs one line of figures, the first one in the new file, and has the server
    /// look at its files.
    pub(crate) fn attend(&self) {
        self.log.reopen();
        log_figures(&self.stats.read());
        for file in self.files.status().iter().filter(|file| file.failed) {
            log::warn!("{}: the file cannot be used, what it held before is in force", file.name);
        }
        self.files.check_now();
        #[cfg(feature = "systemd")]
        self.reloads.done();
    }
}

/// Logs the live counters in one line.
pub(crate) fn log_figures(stats: &Stats) {
    log::info!(
        connected = stats.connected, connections = stats.connections, refused = stats.refused,
        evicted = stats.evicted, accepted = stats.accepted, owed = stats.owed,
        written = stats.written, delivered = stats.delivered, lost = stats.lost,
        queued_bytes = stats.queued_bytes;
        "counters: {stats}"
    );
}
