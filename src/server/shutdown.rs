//! The shutdown latches: a flag and a file descriptor for each of its two steps, shared by every
//! thread that waits.
//!
//! Every wait on a socket goes through [`ShutdownHandle::wait`], so no thread can sleep through a
//! shutdown, and none has to poll for it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

/// How long it takes to reset one connection of many and to join its threads: 0.12 ms on two cores
/// with 3,000 stuck clients, and as much again to be safe.
const TEARDOWN_TIME: Duration = Duration::from_micros(240);

/// This many connections are torn down in no time that matters.
const FREE_TEARDOWNS: usize = 100;

/// Signals within this time of the first one count as the same request.
const DEBOUNCE: Duration = Duration::from_millis(500);

/// Shuts a server down. Cheap to clone, and usable from any thread at any time, even before `run`.
///
/// ```
/// use a_chat::{Config, Server};
///
/// let server = Server::bind("127.0.0.1:0", Config::default())?;
/// let handle = server.shutdown_handle();
/// let other_thread = std::thread::spawn(move || handle.shutdown());
/// let report = server.run()?;
/// assert!(report.is_clean());
/// # other_thread.join().expect("it does not panic");
/// # Ok::<(), a_chat::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct ShutdownHandle {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// When the drain began. Set before `drain`, so every thread that sees that latch sees this.
    drain_started: OnceLock<Instant>,
    drain: Latch,
    force: Latch,
    drain_timeout: Duration,
    /// How many connections the acceptor has to join.
    connections: AtomicUsize,
    /// When [`ShutdownHandle::signalled`] was first called.
    first_signal: OnceLock<Instant>,
}

/// How far the shutdown has progressed; it never goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Running,
    Draining,
    Forced,
}

/// Why a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WaitOutcome {
    /// The descriptor is ready, or has an error or a hang-up to report.
    Ready,
    /// The phase is no longer the one that the caller knows.
    PhaseChanged,
    TimedOut,
}

impl ShutdownHandle {
    pub(crate) fn new(drain_timeout: Duration) -> io::Result<Self> {
        let (drain, force) = (Latch::new()?, Latch::new()?);
        let inner = Inner {
            drain_started: OnceLock::new(),
            drain,
            force,
            drain_timeout,
            connections: AtomicUsize::new(0),
            first_signal: OnceLock::new(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Begins the drain: the server accepts no further clients, delivers everything it accepted,
    /// and stops.
    ///
    /// Further calls have no effect. This does not block; [`Server::run`](crate::Server::run)
    /// returns when the drain is over.
    pub fn shutdown(&self) {
        self.inner.drain_started.get_or_init(Instant::now);
        self.inner.drain.set();
    }

    /// Ends the drain immediately, beginning it if necessary. Whatever is not delivered yet is
    /// reported as lost.
    pub fn force(&self) {
        self.shutdown();
        self.inner.force.set();
    }

    /// Does what a signal that asks a process to exit should do: the first call begins the drain, a
    /// later one forces it to end.
    ///
    /// Calls within 500 ms of the first count as the same request. A shell that closes sends SIGHUP
    /// twice, and others send SIGTERM and SIGHUP together; a person who presses Ctrl-C again because
    /// the first one had no visible effect is slower. What the call does is logged.
    ///
    /// ```
    /// # use a_chat::{Config, Server};
    /// # let server = Server::bind("127.0.0.1:0", Config::default())?;
    /// let handle = server.shutdown_handle();
    /// // With the crate ctrlc: ctrlc::set_handler(move || handle.signalled())?;
    /// handle.signalled();
    /// handle.signalled();
    /// let report = server.run()?;
    /// assert!(!report.forced);
    /// # Ok::<(), a_chat::Error>(())
    /// ```
    pub fn signalled(&self) {
        let now = Instant::now();
        let first = *self.inner.first_signal.get_or_init(|| now);
        // Logged before acting: the process may exit as soon as a latch is set.
        if first == now {
            log::info!("shutdown signal received, draining; send another to force exit");
            self.shutdown();
        } else if now.saturating_duration_since(first) < DEBOUNCE {
            log::debug!("ignored a repeated signal within {} ms", DEBOUNCE.as_millis());
        } else {
            log::warn!("second signal received, forcing the drain to end");
            self.force();
        }
    }

    /// True once [`shutdown`](Self::shutdown) or [`force`](Self::force) was called.
    #[must_use]
    pub fn is_shutdown(&self) -> bool {
        self.phase() != Phase::Running
    }

    pub(crate) fn phase(&self) -> Phase {
        if self.inner.force.is_set() {
            Phase::Forced
        } else if self.inner.drain.is_set() {
            Phase::Draining
        } else {
            Phase::Running
        }
    }

    /// How long the drain has lasted; zero before it begins.
    #[must_use]
    pub fn drain_elapsed(&self) -> Duration {
        self.drain_started().map_or(Duration::ZERO, |started| started.elapsed())
    }

    /// How long the drain may last, see [`Config::drain_timeout`](crate::Config::drain_timeout).
    #[must_use]
    pub fn drain_timeout(&self) -> Duration {
        self.inner.drain_timeout
    }

    /// When the drain began; `None` before that.
    fn drain_started(&self) -> Option<Instant> {
        self.inner.drain_started.get().copied()
    }

    /// Notes how many connections the acceptor has to join.
    pub(crate) fn note_connections(&self, connections: usize) {
        self.inner.connections.store(connections, Relaxed);
    }

    /// When writers must give up, so the drain is over by its deadline; `None` before it begins, or
    /// if that time cannot be represented.
    ///
    /// Resetting and joining thousands of connections takes a while, which belongs to the drain.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let connections = self.inner.connections.load(Relaxed).saturating_sub(FREE_TEARDOWNS);
        let connections = u32::try_from(connections).unwrap_or(u32::MAX);
        let timeout = self.inner.drain_timeout;
        let teardown = TEARDOWN_TIME.saturating_mul(connections).min(timeout / 4);
        self.drain_started()?.checked_add(timeout.saturating_sub(teardown))
    }

    /// Until when a reader may wait for its window before it forwards input received before the
    /// cutoff.
    ///
    /// Half of the drain: the other half belongs to the writers, and every client's closing notice
    /// waits for the last reader.
    pub(crate) fn cutoff_deadline(&self) -> Option<Instant> {
        self.drain_started()?.checked_add(self.inner.drain_timeout / 2)
    }

    /// Until when the broker routes lines.
    ///
    /// Three quarters of the drain: readers have given up by then, and the last quarter belongs to
    /// the writers, for what was routed and for the closing notices.
    fn routing_deadline(&self) -> Option<Instant> {
        self.drain_started()?.checked_add(self.inner.drain_timeout / 4 * 3)
    }

    /// Whether a node of a cluster must not wait any longer for the last lines of other nodes that stop.
    ///
    /// Five eighths of the drain: the node's own last lines come by the half, and what the others
    /// still send after this is lost.
    #[cfg(feature = "cluster")]
    pub(crate) fn release_expired(&self) -> bool {
        let until = self
            .drain_started()
            .and_then(|started| started.checked_add(self.inner.drain_timeout / 8 * 5));
        self.phase() == Phase::Forced || is_past(until)
    }

    /// Whether the broker must not route any more lines.
    pub(crate) fn routing_expired(&self) -> bool {
        match self.phase() {
            Phase::Running => false,
            Phase::Draining => is_past(self.routing_deadline()),
            Phase::Forced => true,
        }
    }

    /// Whether readers must stop forwarding input received before the cutoff.
    pub(crate) fn cutoff_expired(&self) -> bool {
        self.phase() == Phase::Forced || is_past(self.cutoff_deadline())
    }

    /// Waits until `fd` is ready for `events`, the phase is no longer `known`, or `deadline`
    /// passes.
    ///
    /// Without a descriptor it waits only for the phase and the deadline; with `deadline: None` it
    /// waits indefinitely.
    ///
    /// # Errors
    ///
    /// Fails as poll(2) does, except for `EINTR`, after which it continues.
    pub(crate) fn wait(
        &self,
        fd: Option<BorrowedFd<'_>>,
        events: PollFlags,
        deadline: Option<Instant>,
        known: Phase,
    ) -> io::Result<WaitOutcome> {
        let latch = match known {
            Phase::Running => Some(&self.inner.drain),
            Phase::Draining => Some(&self.inner.force),
            Phase::Forced => None,
        };
        loop {
            if self.phase() != known {
                return Ok(WaitOutcome::PhaseChanged);
            }
            let timeout =
                deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
            let latch = latch.map(|latch| PollFd::new(&latch.fd, PollFlags::IN));
            let fd = fd.map(|fd| PollFd::from_borrowed_fd(fd, events));
            let ready = match (latch, fd) {
                (Some(latch), Some(fd)) => poll(&mut [latch, fd], timeout.as_ref()),
                (Some(only), None) | (None, Some(only)) => poll(&mut [only], timeout.as_ref()),
                (None, None) => poll(&mut [], timeout.as_ref()),
            };
            match ready {
                Ok(0) => return Ok(WaitOutcome::TimedOut),
                Ok(_) if self.phase() == known => return Ok(WaitOutcome::Ready),
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// A descriptor that becomes readable once the drain begins, and stays so. It is there to be polled
/// together with others, and never to be read from.
impl AsFd for ShutdownHandle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.drain.fd.as_fd()
    }
}

/// Whether this time has passed; `None` never passes.
pub(crate) fn is_past(limit: Option<Instant>) -> bool {
    limit.is_some_and(|limit| Instant::now() >= limit)
}

/// A flag that stays set forever, and that can be polled for together with a socket.
#[derive(Debug)]
struct Latch {
    set: AtomicBool,
    fd: OwnedFd,
}

impl Latch {
    fn new() -> io::Result<Self> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { set: AtomicBool::new(false), fd })
    }

    /// No thread ever reads the descriptor, so one write makes it readable for all of them,
    /// permanently.
    fn set(&self) {
        if !self.set.swap(true, SeqCst) {
            // Writing 1 to an empty eventfd can neither block nor fail.
            let written = rustix::io::write(&self.fd, &1_u64.to_ne_bytes());
            debug_assert_eq!(written, Ok(8));
        }
    }

    fn is_set(&self) -> bool {
        self.set.load(SeqCst)
    }
}
