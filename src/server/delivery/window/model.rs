//! The window under loom: the same code on loom's threads and atomics, run through the
//! interleavings of two senders, two recipients, an eviction and a shutdown.
//!
//! Loom reports a wait that nothing ends as a deadlock, so each model fails if a wake-up is lost,
//! whatever the interleaving. Run them with `RUSTFLAGS="--cfg loom" cargo test --lib
//! window::model`.

use loom::model::Builder;
use loom::sync::atomic::{self, Ordering};
pub(crate) use loom::thread::Thread;
use loom::thread::{JoinHandle, spawn};

use super::*;

/// The only ordering that a window uses; a weaker one does not compile here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SeqCst;

/// An atomic whose accesses have a single total order.
///
/// Loom's own loads may see older values than such an order allows, and where two of them precede a
/// store it looks for a race with the last one only. So every access here is a read-modify-write,
/// of which it tries all orders.
#[derive(Debug)]
pub(crate) struct AtomicUsize(atomic::AtomicUsize);

impl AtomicUsize {
    pub(crate) fn new(value: usize) -> Self {
        Self(atomic::AtomicUsize::new(value))
    }

    pub(crate) fn load(&self, _: SeqCst) -> usize {
        self.0.fetch_add(0, Ordering::SeqCst)
    }

    pub(crate) fn store(&self, value: usize, _: SeqCst) {
        self.0.swap(value, Ordering::SeqCst);
    }

    pub(crate) fn fetch_add(&self, value: usize, _: SeqCst) -> usize {
        self.0.fetch_add(value, Ordering::SeqCst)
    }

    pub(crate) fn fetch_sub(&self, value: usize, _: SeqCst) -> usize {
        self.0.fetch_sub(value, Ordering::SeqCst)
    }
}

/// The part of `std::thread` that a window uses.
pub(crate) mod thread {
    use std::time::Duration;

    pub(crate) use loom::thread::{current, park};

    /// No time passes here: only a wake-up ends a wait, so no timeout can hide a lost one.
    pub(crate) fn park_timeout(_timeout: Duration) {
        park();
    }
}

/// Each window's size, in bytes.
const LIMIT: usize = 10;

/// Runs a model in all executions with at most this many preemptions of a runnable thread;
/// `LOOM_MAX_PREEMPTIONS` overrides the number.
fn with_preemptions(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(preemptions));
    builder.check(model);
}

/// What the threads of a server share.
#[derive(Clone)]
struct Server {
    /// Nonzero once the server shuts down.
    shutdown: Arc<AtomicUsize>,
    counters: Arc<Counters>,
}

impl Server {
    fn new() -> Self {
        Self { shutdown: Arc::new(AtomicUsize::new(0)), counters: Arc::default() }
    }

    fn shut_down(&self, senders: &[Thread]) {
        self.shutdown.store(1, SeqCst);
        senders.iter().for_each(Thread::unpark);
    }

    /// A window for the calling thread.
    fn window(&self) -> Arc<Window> {
        Arc::new(Window::new(LIMIT, Arc::clone(&self.counters)))
    }

    /// Waits for room, or for shutdown.
    fn acquire(&self, window: &Arc<Window>, bytes: usize) -> Option<Permit> {
        let give_up = || match self.shutdown.load(SeqCst) {
            0 => Ok(Some(Instant::now())),
            _ => Err(()),
        };
        let permit = window.acquire(bytes, give_up).ok()?;
        assert!(window.used() <= LIMIT, "more than there is");
        Some(permit)
    }

    /// Acquires room that is available, for a batch with two recipients.
    fn send(&self, window: &Arc<Window>, bytes: usize) -> (Share, Share) {
        let share = Arc::new(self.acquire(window, bytes).expect("there is room"));
        (Arc::clone(&share), share)
    }

    /// How many bytes are charged to all senders.
    fn charged(&self) -> u64 {
        self.counters.queued_bytes.get()
    }
}

/// A recipient's reference to a batch.
type Share = Arc<Permit>;

/// A recipient that receives its queue, one entry at a time.
fn reader(queue: Vec<Share>) -> JoinHandle<()> {
    spawn(|| queue.into_iter().for_each(drop))
}

/// A recipient that is evicted, so its queue is dropped.
fn evicted(queue: Vec<Share>) -> JoinHandle<()> {
    spawn(|| drop(queue))
}

/// Joins threads. Only the main thread may call this, as loom takes an unpark for the end of any
/// wait.
fn join<T>(threads: impl IntoIterator<Item = JoinHandle<T>>) -> Vec<T> {
    threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
}

/// All executions of one sender that needs all the room of two batches: it must be woken by the
/// release of the last reference to both, whichever thread drops it.
#[test]
fn a_sender_is_woken_by_the_last_release() {
    loom::model(|| {
        let server = Server::new();
        let sender = spawn({
            let server = server.clone();
            move || {
                let window = server.window();
                let ((one, two), (three, four)) =
                    (server.send(&window, 4), server.send(&window, 6));
                let recipients = [reader(vec![one, three]), evicted(vec![four, two])];
                assert!(server.acquire(&window, 7).is_some());
                recipients
            }
        });
        join(join([sender]).into_iter().flatten());
        assert_eq!(server.charged(), 0);
    });
}

/// All executions of one sender that waits while one recipient reads, the server shuts down, and
/// the other recipient is evicted.
#[test]
fn a_sender_notices_the_shutdown_or_gets_its_room() {
    loom::model(|| {
        let server = Server::new();
        let sender = spawn({
            let server = server.clone();
            move || {
                let window = server.window();
                let (one, two) = server.send(&window, LIMIT);
                let (shared, this) = (server.clone(), loom::thread::current());
                let shut_down_and_evict = spawn(move || {
                    shared.shut_down(&[this]);
                    drop(two);
                });
                let recipients = [reader(vec![one]), shut_down_and_evict];
                drop(server.acquire(&window, 1));
                recipients
            }
        });
        join(join([sender]).into_iter().flatten());
        assert_eq!(server.charged(), 0);
    });
}

/// All executions of two senders whose recipients release nothing, and a shutdown.
#[test]
fn a_shutdown_ends_every_wait() {
    loom::model(|| {
        let server = Server::new();
        let senders = [1, LIMIT].map(|bytes| {
            let server = server.clone();
            spawn(move || {
                let window = server.window();
                let held = server.send(&window, LIMIT);
                assert!(server.acquire(&window, bytes).is_none());
                held
            })
        });
        server.shut_down(&senders.each_ref().map(|sender| sender.thread().clone()));
        let held = join(senders);
        assert_eq!(server.charged(), 2 * LIMIT as u64);
        drop(held);
        assert_eq!(server.charged(), 0);
    });
}

/// Two senders, each of which waits until both recipients have dropped the last of its references.
#[test]
fn two_senders_are_each_woken_by_the_last_release() {
    with_preemptions(3, || two_senders(false));
}

/// The same, with a shutdown just before the eviction.
#[test]
fn two_senders_and_a_shutdown_at_any_time() {
    with_preemptions(2, || two_senders(true));
}

/// The first sender spawns the second one, and that one spawns the recipients. Each thus has
/// everything it needs from its start, and nothing has to be handed over.
fn two_senders(with_shutdown: bool) {
    let server = Server::new();
    let first = spawn({
        let server = server.clone();
        move || {
            let window = server.window();
            let (one, two) = server.send(&window, LIMIT);
            let (first, other) = (loom::thread::current(), server.clone());
            let slices = [one, two];
            let second = spawn(move || second_sender(&other, slices, first, with_shutdown));
            assert!(server.acquire(&window, 1).is_some() || with_shutdown);
            second
        }
    });
    let recipients = join(join([first]));
    join(recipients.into_iter().flatten());
    assert_eq!(server.charged(), 0);
}

fn second_sender(
    server: &Server,
    [one, two]: [Share; 2],
    first: Thread,
    with_shutdown: bool,
) -> [JoinHandle<()>; 2] {
    let window = server.window();
    let (three, four) = server.send(&window, LIMIT);
    let (shared, threads) = (server.clone(), [first, loom::thread::current()]);
    let evicted = spawn(move || {
        if with_shutdown {
            shared.shut_down(&threads);
        }
        drop([two, four]);
    });
    let recipients = [reader(vec![one, three]), evicted];
    assert!(server.acquire(&window, LIMIT).is_some() || with_shutdown);
    recipients
}
