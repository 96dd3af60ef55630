//! What an operator may request of a running server at any time, with SIGUSR1. Runs on the thread
//! `signals`.

use a_chat::{Stats, StatsHandle};

use crate::logger::LogHandle;

/// What a request needs.
#[derive(Debug)]
pub(crate) struct Operator {
    pub(crate) log: LogHandle,
    pub(crate) stats: StatsHandle,
}

impl Operator {
    /// Opens the log anew, and logs one line of figures, the first one in the new file.
    pub(crate) fn attend(&self) {
        self.log.reopen();
        log_figures(&self.stats.read());
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
