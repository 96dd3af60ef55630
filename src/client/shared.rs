//! State that a connection's reader thread shares with the two halves: how full the inbox is, which
//! thread empties it, and what the server has accepted.
//!
//! The inbox itself is an unbounded channel; this bounds the bytes in it. A lock is taken once per
//! block of up to 64 KiB, never per line.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};
use std::time::Duration;

/// Shared by a reader thread, its outbox and its inbox.
#[derive(Debug)]
pub(crate) struct Shared {
    fill: Mutex<Fill>,
    /// Signalled when blocks are taken, when the limit is lifted and when the inbox is closed.
    changed: Condvar,
    /// The number of the user's last line that is known to be accepted.
    accepted: AtomicU64,
    /// A message has arrived from another client.
    delivered: AtomicBool,
    /// This side aborted the connection.
    aborted: AtomicBool,
}

/// How full the inbox is.
#[derive(Debug)]
struct Fill {
    queued: usize,
    limit: usize,
    /// Nobody takes what arrives, so it is discarded.
    closed: bool,
    /// The thread that last took a block.
    taker: Option<ThreadId>,
    /// The reader waits for room.
    reader_waits: bool,
    /// The outbox waits, and has to be woken when the reader does too.
    outbox_waits: bool,
}

/// Whether a block may enter the inbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    Open,
    Closed,
    Full {
        /// The outbox has to be woken: it may be waiting for the reader, which waits for room.
        wake_outbox: bool,
    },
}

/// Which threads may empty the inbox while the outbox waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// The caller has the inbox too.
    Caller,
    /// Any thread may have it; the one that last took something is presumed to.
    AnyThread,
}

impl Shared {
    pub(crate) fn new(inbox_bytes: usize, accepted: u64) -> Self {
        let fill = Fill {
            queued: 0,
            limit: inbox_bytes,
            closed: false,
            taker: None,
            reader_waits: false,
            outbox_waits: false,
        };
        Self {
            fill: Mutex::new(fill),
            changed: Condvar::new(),
            accepted: AtomicU64::new(accepted),
            delivered: AtomicBool::new(false),
            aborted: AtomicBool::new(false),
        }
    }

    /// Counts a block of this many bytes in, unless the inbox is full or closed.
    pub(crate) fn enter(&self, bytes: usize) -> Entry {
        self.fill().enter(bytes)
    }

    /// As [`enter`](Self::enter), but waits this long for room.
    pub(crate) fn enter_timeout(&self, bytes: usize, timeout: Duration) -> Entry {
        let full = |fill: &mut Fill| fill.is_full() && !fill.closed;
        let waited = self.changed.wait_timeout_while(self.fill(), timeout, full);
        waited.unwrap_or_else(PoisonError::into_inner).0.enter(bytes)
    }

    /// Counts out a block that the calling thread took.
    pub(crate) fn took(&self, bytes: usize) {
        let mut fill = self.fill();
        fill.queued -= bytes;
        fill.taker = Some(thread::current().id());
        drop(fill);
        self.changed.notify_all();
    }

    /// Whether waiting for the reader thread would be waiting for oneself: it waits for room in the
    /// inbox, which only the calling thread empties. If not, the reader thread reports when it does,
    /// until [`outbox_woke`](Self::outbox_woke).
    pub(crate) fn would_wait_for_itself(&self, owner: Owner) -> bool {
        let mut fill = self.fill();
        let empties = owner == Owner::Caller
            || fill.taker.is_none_or(|taker| taker == thread::current().id());
        let stuck = fill.reader_waits && fill.is_full() && empties && !fill.closed;
        fill.outbox_waits = !stuck;
        stuck
    }

    pub(crate) fn outbox_woke(&self) {
        self.fill().outbox_waits = false;
    }

    /// Sets another limit, and returns the one that held.
    pub(crate) fn set_limit(&self, bytes: usize) -> usize {
        let before = std::mem::replace(&mut self.fill().limit, bytes);
        self.changed.notify_all();
        before
    }

    /// From now on arriving blocks are discarded.
    pub(crate) fn close_inbox(&self) {
        self.fill().closed = true;
        self.changed.notify_all();
    }

    pub(crate) fn accepted(&self) -> u64 {
        self.accepted.load(Relaxed)
    }

    pub(crate) fn set_accepted(&self, accepted: u64) {
        self.accepted.store(accepted, Relaxed);
    }

    pub(crate) fn has_delivered(&self) -> bool {
        self.delivered.load(Relaxed)
    }

    pub(crate) fn set_delivered(&self) {
        self.delivered.store(true, Relaxed);
    }

    pub(crate) fn is_aborted(&self) -> bool {
        self.aborted.load(Relaxed)
    }

    /// Notes that this side aborts the connection: arriving blocks are discarded.
    pub(crate) fn set_aborted(&self) {
        self.aborted.store(true, Relaxed);
        self.close_inbox();
    }

    fn fill(&self) -> MutexGuard<'_, Fill> {
        // Every change is complete before anything can panic.
        self.fill.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Fill {
    /// A block that finds room may be larger than that room: one line can be.
    fn is_full(&self) -> bool {
        self.queued >= self.limit
    }

    fn enter(&mut self, bytes: usize) -> Entry {
        self.reader_waits = !self.closed && self.is_full();
        if self.closed {
            Entry::Closed
        } else if self.reader_waits {
            Entry::Full { wake_outbox: std::mem::take(&mut self.outbox_waits) }
        } else {
            self.queued += bytes;
            Entry::Open
        }
    }
}
