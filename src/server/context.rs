//! What all threads of a server share, and how they are spawned.

use std::io;
use std::sync::Arc;
#[cfg(any(feature = "status", feature = "tls"))]
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
#[cfg(feature = "users")]
use std::time::Instant;

use super::config::Config;
use super::login_places::LoginPlaces;
use super::per_source::Places;
use super::scheduling::Turns;
use super::shutdown::ShutdownHandle;
use super::stats::{Counter, Counters};
#[cfg(feature = "tls")]
use super::tls::ServerTls;
#[cfg(feature = "users")]
use super::users::{Users, failed_logins::FailedLogins};
use crate::error::Error;
#[cfg(feature = "users")]
use crate::socket::peer::Peer;
use crate::socket::sys;
use crate::socket::watch::Watch;

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
    /// How many clients are connected from each address.
    pub(crate) places: Arc<Places>,
    /// Set before the server runs, if it speaks TLS.
    #[cfg(feature = "tls")]
    pub(crate) tls: OnceLock<ServerTls>,
    /// Readers that are about to exit, so the acceptor knows when there are threads to join.
    pub(crate) finished_readers: Counter,
    /// For connections before their login.
    pub(crate) login_places: Arc<LoginPlaces>,
    /// Who may have which name, if the server has users.
    #[cfg(feature = "users")]
    pub(crate) users: Option<Users>,
    /// Who sent too many wrong tokens or broken handshakes, if that is limited.
    #[cfg(feature = "users")]
    pub(crate) all_failed_logins: Option<Arc<FailedLogins>>,
    /// How many connections are busy, see [`Burst`].
    pub(crate) busy: AtomicUsize,
    pub(crate) turns: Turns,
    /// Set once somebody watches.
    #[cfg(feature = "status")]
    pub(crate) registry: OnceLock<Arc<super::observer::Registry>>,
}

impl Shared {
    /// What a server that strangers can reach should have and this one has not, with the flag for it.
    #[cfg_attr(
        not(any(feature = "tls", feature = "users")),
        expect(clippy::unused_self, reason = "as with these features")
    )]
    pub(crate) fn lacks(&self) -> impl Iterator<Item = &'static str> {
        #[cfg(feature = "users")]
        let has_users = self.users.is_some();
        #[cfg(not(feature = "users"))]
        let has_users = false;
        #[cfg(feature = "tls")]
        let has_tls = self.tls.get().is_some();
        #[cfg(not(feature = "tls"))]
        let has_tls = false;
        let lacks = [
            (has_users, "anyone can take any name (--users)"),
            (has_tls, "nothing is encrypted (--tls-cert)"),
        ];
        lacks.into_iter().filter_map(|(is_there, lack)| (!is_there).then_some(lack))
    }

    /// Who has failed to log in too often, on a server where that can fail: with users, or with TLS.
    #[cfg(feature = "users")]
    pub(crate) fn failed_logins(&self) -> Option<&Arc<FailedLogins>> {
        #[cfg(feature = "tls")]
        let can_fail = self.users.is_some() || self.tls.get().is_some();
        #[cfg(not(feature = "tls"))]
        let can_fail = self.users.is_some();
        self.all_failed_logins.as_ref().filter(|_| can_fail)
    }

    /// For how many more seconds a client is refused because of others from its address, if it is.
    #[cfg(feature = "users")]
    pub(crate) fn refuses(&self, client: Peer) -> Option<u64> {
        self.failed_logins()?.refuses(client.ip()?, Instant::now())
    }

    /// Everything that is read again when it changes.
    #[cfg_attr(
        not(any(feature = "tls", feature = "users")),
        expect(clippy::unused_self, reason = "as with these features")
    )]
    pub(crate) fn watches(&self) -> impl Iterator<Item = &Watch> {
        let watches: [Option<&Watch>; 2] = [
            #[cfg(feature = "tls")]
            self.tls.get().map(ServerTls::watch),
            #[cfg(not(feature = "tls"))]
            None,
            #[cfg(feature = "users")]
            self.users.as_ref().map(Users::watch),
            #[cfg(not(feature = "users"))]
            None,
        ];
        watches.into_iter().flatten()
    }
}

/// What readers send to the broker by. Cloned for each of them.
#[cfg(not(feature = "cluster"))]
pub(crate) type Events<T> = crossbeam_channel::Sender<T>;

/// What readers send to the broker by. Cloned for each of them; the last one to go says so, since in
/// a cluster others hold senders too, and the broker has to know when its own clients' lines end.
#[cfg(feature = "cluster")]
#[derive(Debug)]
pub(crate) struct Events<T> {
    sender: crossbeam_channel::Sender<T>,
    last: Option<Arc<SendLast<T>>>,
}

#[cfg(feature = "cluster")]
impl<T> Clone for Events<T> {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone(), last: self.last.clone() }
    }
}

#[cfg(feature = "cluster")]
impl<T> Events<T> {
    /// Sends `last` when the last clone is dropped.
    pub(crate) fn new(sender: crossbeam_channel::Sender<T>, last: Option<T>) -> Self {
        let end = last.map(|last| Arc::new(SendLast(sender.clone(), Some(last))));
        Self { sender, last: end }
    }
}

#[cfg(feature = "cluster")]
impl<T> std::ops::Deref for Events<T> {
    type Target = crossbeam_channel::Sender<T>;

    fn deref(&self) -> &Self::Target {
        &self.sender
    }
}

#[cfg(feature = "cluster")]
#[derive(Debug)]
struct SendLast<T>(crossbeam_channel::Sender<T>, Option<T>);

#[cfg(feature = "cluster")]
impl<T> Drop for SendLast<T> {
    fn drop(&mut self) {
        if let Some(last) = self.1.take() {
            // Fails only if the broker has panicked.
            let _ = self.0.send(last);
        }
    }
}

/// Held by a connection while it is busy, so memory is returned to the system once none of them is.
///
/// The allocator keeps what a burst took. Returning it takes some milliseconds, in which threads may
/// wait for the allocator, so that happens only when no connection is busy.
#[derive(Debug)]
pub(crate) struct Burst(Arc<Shared>);

impl Burst {
    pub(crate) fn begin(shared: &Arc<Shared>) -> Self {
        shared.busy.fetch_add(1, Relaxed);
        Self(Arc::clone(shared))
    }
}

impl Drop for Burst {
    fn drop(&mut self) {
        if self.0.busy.fetch_sub(1, Relaxed) == 1 && !self.0.shutdown.is_shutdown() {
            sys::trim_heap();
        }
    }
}

/// Spawns a named thread of this server.
pub(crate) fn spawn<T: Send + 'static>(
    name: impl Into<String>,
    run: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    thread::Builder::new().name(name.into()).stack_size(STACK_SIZE).spawn(run)
}

/// Spawns a thread that every client depends on. Its exit, even by a panic, begins the drain, so
/// no other thread outlives it for long.
pub(crate) fn spawn_stage<T: Send + 'static>(
    name: &'static str,
    shutdown: &ShutdownHandle,
    run: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, Error> {
    let guard = ShutdownOnDrop(shutdown.clone());
    let guarded = move || {
        let _shutdown_even_after_a_panic = guard;
        run()
    };
    spawn(name, guarded).map_err(|source| Error::Start { what: "spawn a thread", source })
}

/// Begins the drain when it is dropped.
#[derive(Debug)]
struct ShutdownOnDrop(ShutdownHandle);

impl Drop for ShutdownOnDrop {
    fn drop(&mut self) {
        self.0.shutdown();
    }
}
