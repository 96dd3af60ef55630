//! A sender's byte window: its reader waits for room, and dropping the last reference to a batch
//! releases it. Plain state; no thread of its own.
//!
//! Queues have no limit on entries, so the broker never blocks; each sender's window limits their
//! bytes. That caps memory, and makes TCP slow down exactly the sender that sends too much.

use std::sync::Arc;
#[cfg(not(all(loom, test)))]
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
#[cfg(not(all(loom, test)))]
use std::thread::{self, Thread};
use std::time::Instant;

#[cfg(all(loom, test))]
use self::model::{AtomicUsize, SeqCst, Thread, thread};

use crate::server::stats::Counters;

#[cfg(all(loom, test))]
pub(crate) mod model;

/// The bytes that one connection may have queued. Only its reader ever waits for them.
#[derive(Debug)]
pub(crate) struct Window {
    limit: usize,
    used: AtomicUsize,
    /// How many of them stay charged as long as the client is in rooms. Nothing waits for these.
    standing: AtomicUsize,
    /// How many bytes the reader waits for; 0 if it does not wait.
    wanted: AtomicUsize,
    reader: Thread,
    counters: Arc<Counters>,
}

/// A charge on a window. It lives as long as the bytes it was acquired for: whatever holds those
/// holds the permit too, so no code path can forget to release it.
#[derive(Debug)]
pub(crate) struct Permit {
    window: Arc<Window>,
    bytes: usize,
    /// Dropped with the permit, once the room is released.
    #[cfg(feature = "cluster")]
    token: Option<Box<Token>>,
}

/// A charge that lasts: while there are only such charges, the window counts as empty, so a line
/// larger than the window does not wait for them.
#[derive(Debug)]
pub(crate) struct StandingPermit(Permit);

/// Whatever has to be told when a permit is dropped.
#[cfg(feature = "cluster")]
pub(crate) type Token = Box<dyn Held>;

/// Something that only its end matters of.
#[cfg(feature = "cluster")]
pub(crate) trait Held: std::fmt::Debug + Send + Sync {}

impl Window {
    /// A window of `limit` bytes for the calling thread.
    pub(crate) fn new(limit: usize, counters: Arc<Counters>) -> Self {
        let reader = thread::current();
        let (used, standing) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Self { limit, used, standing, wanted: AtomicUsize::new(0), reader, counters }
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// Acquires `bytes` of room, waiting until they are available.
    ///
    /// More than the whole window is granted when nothing else is charged, so a single large line
    /// cannot get stuck. `give_up` is called before each wait: it returns until when to wait
    /// (`Ok(None)` to wait indefinitely), or `Err` to stop waiting. A thread that changes what it
    /// returns must unpark the reader's thread.
    pub(crate) fn acquire<E>(
        self: &Arc<Self>,
        bytes: usize,
        mut give_up: impl FnMut() -> Result<Option<Instant>, E>,
    ) -> Result<Permit, E> {
        while !self.has_room(bytes) {
            // Announce the request, then check again: a release either sees the request or is seen
            // here.
            self.wanted.store(bytes, SeqCst);
            if !self.has_room(bytes) {
                match give_up().inspect_err(|_| self.wanted.store(0, SeqCst))? {
                    None => thread::park(),
                    Some(until) => {
                        thread::park_timeout(until.saturating_duration_since(Instant::now()));
                    }
                }
            }
            self.wanted.store(0, SeqCst);
        }
        Ok(self.charge(bytes))
    }

    /// Charges bytes without waiting for room, so the limit may be exceeded; the reader then waits
    /// longer.
    pub(crate) fn charge(self: &Arc<Self>, bytes: usize) -> Permit {
        self.used.fetch_add(bytes, SeqCst);
        self.counters.queued_bytes.add(bytes as u64);
        Permit {
            window: Arc::clone(self),
            bytes,
            #[cfg(feature = "cluster")]
            token: None,
        }
    }

    /// A charge that nobody waits for, for bytes that another node answers for; `token` is dropped
    /// with it.
    #[cfg(feature = "cluster")]
    pub(crate) fn charge_for(self: &Arc<Self>, bytes: usize, token: Token) -> Permit {
        let mut permit = self.charge(bytes);
        permit.token = Some(Box::new(token));
        permit
    }

    fn has_room(&self, bytes: usize) -> bool {
        let used = self.used.load(SeqCst);
        used == 0 || used.saturating_add(bytes) <= self.limit || used <= self.standing.load(SeqCst)
    }
}

impl StandingPermit {
    /// Makes a permit one that may be held for as long as the client likes.
    pub(crate) fn new(permit: Permit) -> Self {
        permit.window.standing.fetch_add(permit.bytes, SeqCst);
        Self(permit)
    }
}

impl Drop for StandingPermit {
    fn drop(&mut self) {
        // Before the permit itself is released, which wakes the reader.
        self.0.window.standing.fetch_sub(self.0.bytes, SeqCst);
    }
}

impl Permit {
    /// A further charge on the same window, for a cost that was unknown when this permit was
    /// acquired.
    ///
    /// It never waits, so it may exceed the limit; the window's reader then waits longer.
    pub(crate) fn charge_more(&self, bytes: usize) -> Self {
        self.window.charge(bytes)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.window.counters.queued_bytes.sub(self.bytes as u64);
        self.window.used.fetch_sub(self.bytes, SeqCst);
        let wanted = self.window.wanted.load(SeqCst);
        if wanted > 0 && self.window.has_room(wanted) {
            self.window.reader.unpark();
        }
    }
}

#[cfg(any(test, feature = "status"))]
impl Window {
    pub(crate) fn used(&self) -> usize {
        self.used.load(SeqCst)
    }

    /// Whether the reader waits for room.
    #[cfg(feature = "status")]
    pub(crate) fn is_waiting(&self) -> bool {
        self.wanted.load(SeqCst) > 0
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::convert::Infallible;
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    const WAIT_FOREVER: fn() -> Result<Option<Instant>, Infallible> = || Ok(None);

    fn window(limit: usize) -> Arc<Window> {
        Arc::new(Window::new(limit, Arc::default()))
    }

    #[test]
    fn a_charge_larger_than_the_window_is_granted_alone() {
        let window = window(10);
        let permit = window.acquire(1000, WAIT_FOREVER).expect("it never fails");
        let refused = window.acquire(1, || Err("not while something is on its way"));
        assert!(refused.is_err());
        drop(permit);
        window.acquire(1, WAIT_FOREVER).expect("it never fails");
        assert_eq!(window.used(), 0);
    }

    #[test]
    fn a_later_charge_may_exceed_the_limit_and_is_waited_for() {
        let window = window(10);
        let permit = window.acquire(1, WAIT_FOREVER).expect("it never fails");
        let more = permit.charge_more(1000);
        assert_eq!(window.used(), 1001);
        drop(permit);
        let refused = window.acquire(1, || Err("not while that is on its way"));
        assert!(refused.is_err());
        drop(more);
        window.acquire(10, WAIT_FOREVER).expect("it never fails");
    }

    #[test]
    fn a_window_that_holds_only_what_stands_grants_a_larger_charge() {
        let window = window(10);
        let acquire = |bytes| window.acquire(bytes, || Err("it would wait"));
        let standing = StandingPermit::new(acquire(4).expect("room"));
        let more = StandingPermit::new(acquire(4).expect("room"));
        let large = acquire(1000).expect("nothing else is charged");
        assert!(acquire(1).is_err(), "now something is");
        drop((standing, large));
        let rest = acquire(6).expect("room");
        assert!(acquire(1).is_err());
        drop((more, rest));
        assert_eq!((window.used(), window.standing.load(SeqCst)), (0, 0));
    }

    #[test]
    fn a_wait_ends_when_it_is_given_up() {
        let window = window(10);
        let _permit = window.acquire(10, WAIT_FOREVER).expect("it never fails");
        let deadline = Instant::now() + Duration::from_millis(20);
        let given_up = window
            .acquire(1, || if Instant::now() < deadline { Ok(Some(deadline)) } else { Err(()) });
        assert!(given_up.is_err() && Instant::now() >= deadline);
        assert_eq!(window.wanted.load(SeqCst), 0);
    }

    /// One thread acquires, others release; a lost wake-up would hang this test forever.
    #[test]
    fn no_wake_up_is_lost() {
        let window = window(100);
        let (permits, returned) = mpsc::channel::<Permit>();
        let returned = std::sync::Mutex::new(returned);
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    loop {
                        let permit = returned.lock().expect("no panic").recv();
                        if permit.is_err() {
                            break;
                        }
                    }
                });
            }
            // The window belongs to this thread.
            for round in 0..100_000 {
                let permit = window.acquire(1 + round % 100, WAIT_FOREVER).expect("it never fails");
                assert!(window.used() <= 100);
                permits.send(permit).expect("threads that listen");
            }
            drop(permits);
        });
        assert_eq!(window.used(), 0);
    }
}
