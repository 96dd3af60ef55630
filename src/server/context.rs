//! What all threads of a server share, and how they are spawned.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use super::config::Config;
use super::shutdown::ShutdownHandle;
use super::stats::{Counter, Counters};

/// A thread's stack size, in bytes. This is address space; only pages that were touched take
/// memory. A logger of the embedding program runs on this stack too.
///
/// An idle client's threads touch two pages of 4 KiB each, of which the C library uses 4.3 KiB for
/// the thread itself. Everything that a thread does before it becomes idle must fit in the rest;
/// `tests/footprint.rs` checks this.
pub(crate) const STACK_SIZE: usize = 256 * 1024;

/// What all threads of a server share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) shutdown: ShutdownHandle,
    pub(crate) counters: Arc<Counters>,
    /// Readers that are about to exit, so the acceptor knows when there are threads to join.
    pub(crate) finished_readers: Counter,
}

/// Spawns a named thread of this server.
pub(crate) fn spawn<T: Send + 'static>(
    name: impl Into<String>,
    run: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    thread::Builder::new().name(name.into()).stack_size(STACK_SIZE).spawn(run)
}
