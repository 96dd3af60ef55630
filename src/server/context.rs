//! What all threads of a server share, and how they are started. No thread runs here.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use super::config::Config;
use super::shutdown::ShutdownHandle;
use super::stats::{Counter, Counters};

/// A thread's stack, in bytes: address space, of which only the pages that were touched take memory.
/// A logger of the embedding program runs on it too.
///
/// An idle client's threads touch two pages of 4 KiB each, of which the C library takes 4.3 KiB for
/// the thread itself. What they do until then has to fit into the rest; `tests/footprint.rs` looks.
const STACK_SIZE: usize = 256 * 1024;

/// What all threads of a server share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) shutdown: ShutdownHandle,
    pub(crate) counters: Arc<Counters>,
    /// Readers that are at their end: how the acceptor knows that joining is worth a look.
    pub(crate) finished_readers: Counter,
}

/// Starts a thread of this server.
pub(crate) fn spawn<T: Send + 'static>(
    name: impl Into<String>,
    run: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    thread::Builder::new().name(name.into()).stack_size(STACK_SIZE).spawn(run)
}
