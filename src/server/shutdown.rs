//! The stop: a flag and a descriptor for each of its two steps, owned by all that may wait.
//!
//! No thread runs here. Everything that waits for a socket waits through
//! [`ShutdownHandle::wait`], so that no stop can be slept through and nothing has to poll for it.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

/// Stops a server; cheap to clone, usable from any thread at any time, before `run` too.
///
/// ```
/// use a_chat::{Config, Server};
///
/// let server = Server::bind("127.0.0.1:0", Config::default())?;
/// let handle = server.shutdown_handle();
/// let stopper = std::thread::spawn(move || handle.shutdown());
/// let report = server.run()?;
/// assert!(report.is_clean());
/// # stopper.join().expect("the stopper does not panic");
/// # Ok::<(), a_chat::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct ShutdownHandle {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// When the drain began. Set before `stop`, so that whoever sees `stop` sees this.
    drain_started: OnceLock<Instant>,
    drain: Latch,
    force: Latch,
    drain_timeout: Duration,
}

/// How far the stop has come; it never goes back.
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
        let inner = Inner { drain_started: OnceLock::new(), drain, force, drain_timeout };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Begins the drain: the server accepts nobody any more, delivers what it has and ends.
    ///
    /// Further calls change nothing. It does not wait; [`Server::run`](crate::Server::run)
    /// returns when the drain is over.
    pub fn shutdown(&self) {
        self.inner.drain_started.get_or_init(Instant::now);
        self.inner.drain.set();
    }

    /// Ends the drain now, beginning it if need be: what is not delivered yet is reported lost.
    pub fn force(&self) {
        self.shutdown();
        self.inner.force.set();
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
    pub(crate) fn drain_elapsed(&self) -> Duration {
        self.drain_started().map_or(Duration::ZERO, |started| started.elapsed())
    }

    /// When the drain began. `None` before that.
    fn drain_started(&self) -> Option<Instant> {
        self.inner.drain_started.get().copied()
    }

    /// When the drain must be over. `None` before it began, or if that lies beyond all time.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.drain_started()?.checked_add(self.inner.drain_timeout)
    }

    /// Until when a reader may wait for its window to take what it was sent before the stop.
    ///
    /// Half of the drain: the other half belongs to the writers, and all clients' closing notices
    /// wait for the last reader.
    pub(crate) fn cutoff_deadline(&self) -> Option<Instant> {
        self.drain_started()?.checked_add(self.inner.drain_timeout / 2)
    }

    /// Whether readers have to be done with what they were sent before the stop.
    pub(crate) fn cutoff_expired(&self) -> bool {
        self.phase() == Phase::Forced || is_past(self.cutoff_deadline())
    }

    /// Waits deadline `fd` is ready for `events`, the phase is no longer `known`, or it is `deadline`.
    ///
    /// No descriptor waits for the phase and the time alone; `None` for `deadline` is for ever.
    ///
    /// # Errors
    ///
    /// Fails as poll(2) does, but for `EINTR`, after which it goes on.
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

/// Whether it is this late already; never, if there is no limit.
pub(crate) fn is_past(limit: Option<Instant>) -> bool {
    limit.is_some_and(|limit| Instant::now() >= limit)
}

/// A flag that can be waited for together with a socket, and that stays set for ever.
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

    /// Nobody ever reads the descriptor, so that one write makes it readable for all and for good.
    fn set(&self) {
        if !self.set.swap(true, SeqCst) {
            // A write of 1 to an empty eventfd can neither block nor fail.
            let written = rustix::io::write(&self.fd, &1_u64.to_ne_bytes());
            debug_assert_eq!(written, Ok(8));
        }
    }

    fn is_set(&self) -> bool {
        self.set.load(SeqCst)
    }
}
