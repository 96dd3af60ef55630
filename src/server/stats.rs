//! Live counters. Each is written by the threads it concerns, and any thread can read all of them
//! at any time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What a server has done so far, and what it holds at the moment.
///
/// The counters are read one after the other while the server works, so they agree with each other
/// only when it is at rest. Then `owed = delivered + lost`, except for what is queued.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Clients that are logged in.
    pub connected: u64,
    /// Complete lines accepted from clients after their login line.
    pub accepted: u64,
    /// Last lines without a line end, which were therefore not accepted.
    pub unterminated: u64,
    /// Deliveries owed: one for each accepted message and each of its recipients that was
    /// connected.
    pub owed: u64,
    /// Deliveries whose last byte was written to the recipient's socket. When a connection ends,
    /// those that the peer's kernel has not acknowledged move to `lost`.
    pub delivered: u64,
    /// Deliveries that were given up.
    pub lost: u64,
    /// Bytes charged to the senders' windows: queued message text and overhead.
    pub queued_bytes: u64,
}

/// Reads a server's live counters. Cheap to clone, and usable from any thread, even after the
/// server has stopped.
///
/// ```
/// use a_chat::{Config, Server};
///
/// let server = Server::bind("127.0.0.1:0", Config::default())?;
/// let stats = server.stats_handle();
/// assert_eq!(stats.read().connected, 0);
/// # Ok::<(), a_chat::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct StatsHandle {
    counters: Arc<Counters>,
}

impl StatsHandle {
    pub(crate) fn new(counters: Arc<Counters>) -> Self {
        Self { counters }
    }

    /// The current values of the counters.
    #[must_use]
    pub fn read(&self) -> Stats {
        let Counters { connected, accepted, unterminated, owed, delivered, lost, queued_bytes } =
            &*self.counters;
        Stats {
            connected: connected.get(),
            accepted: accepted.get(),
            unterminated: unterminated.get(),
            owed: owed.get(),
            delivered: delivered.get(),
            lost: lost.get(),
            queued_bytes: queued_bytes.get(),
        }
    }
}

/// The counters behind [`Stats`], shared by all of a server's threads.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) connected: Counter,
    pub(crate) accepted: Counter,
    pub(crate) unterminated: Counter,
    pub(crate) owed: Counter,
    pub(crate) delivered: Counter,
    pub(crate) lost: Counter,
    pub(crate) queued_bytes: Counter,
}

/// A number that synchronises nothing. It has a cache line of its own, since its neighbours are
/// written by other threads.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Relaxed);
    }

    pub(crate) fn sub(&self, count: u64) {
        self.0.fetch_sub(count, Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}
