//! Why connections ended and clients were refused, and how their handshakes went, counted by reason.
//! Each is counted once a connection, by the thread that knows it; any thread can read the counts at
//! any time.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Connections that ended for one reason, see
/// [`StatsHandle::disconnects`](crate::StatsHandle::disconnects).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Disconnects {
    /// How many connections ended.
    pub connections: u64,
    /// How many of them ended because the client was not let in.
    pub refused_logins: u64,
    /// Deliveries to their clients that were lost before they were wholly written.
    pub lost_unwritten: u64,
    /// Deliveries that were written to their clients and not acknowledged.
    pub lost_written: u64,
}

/// Counts by reason.
#[derive(Debug, Default)]
pub(crate) struct DisconnectCounters(Mutex<BTreeMap<&'static str, Disconnects>>);

impl DisconnectCounters {
    /// Counts what one connection, or more, came to.
    pub(crate) fn count(&self, reason: &'static str, further: Disconnects) {
        let mut all = self.lock();
        let counts = all.entry(reason).or_default();
        counts.connections += further.connections;
        counts.refused_logins += further.refused_logins;
        counts.lost_unwritten += further.lost_unwritten;
        counts.lost_written += further.lost_written;
    }

    pub(crate) fn read(&self) -> Vec<(&'static str, Disconnects)> {
        self.lock().iter().map(|(reason, counts)| (*reason, *counts)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, Disconnects>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts by a word: refused connections by reason, handshakes by result.
#[derive(Debug, Default)]
pub(crate) struct WordCounters(Mutex<BTreeMap<&'static str, u64>>);

impl WordCounters {
    pub(crate) fn count(&self, word: &'static str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(word).or_default() += 1;
    }

    pub(crate) fn read(&self) -> Vec<(&'static str, u64)> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().map(|(word, count)| (*word, *count)).collect()
    }
}
