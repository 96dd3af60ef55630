//! The live counters: every thread writes its own part, any thread reads them at any time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What a server has done so far and what it holds just now.
///
/// The counters are read one after the other while the server works, so that they agree with each
/// other only when it is at rest; then `owed = delivered + lost` but for what is queued.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Clients that are logged in.
    pub connected: u64,
    /// Complete lines taken from clients after their login line.
    pub accepted: u64,
    /// Close lines that had no line end, and so were not accepted.
    pub unterminated: u64,
    /// Deliveries owed: one for each accepted message and each of its recipients that was there.
    pub owed: u64,
    /// Deliveries whose last byte was given to the recipient's socket. When a connection ends,
    /// those that its peer's kernel has not acknowledged move over to `lost`.
    pub delivered: u64,
    /// Deliveries that were given up.
    pub lost: u64,
    /// Bytes charged to the senders' windows: message text and overhead on its way.
    pub queued_bytes: u64,
}

/// Reads a server's live counters; cheap to clone, usable from any thread, also after the end.
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

    /// The counters' present values.
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

/// A number that nothing is synchronised by, in a cache line of its own: each is written by other
/// threads than its neighbours are.
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
