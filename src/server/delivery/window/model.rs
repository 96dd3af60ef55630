//! The window under loom: the same code on loom's threads and atomics, run through the
//! interleavings of two senders, two recipients, an eviction and a stop.
//!
//! Loom reports a wait that nothing ends as a deadlock, so that each model fails on a wake-up that
//! gets lost, wherever the threads stand when it does. Run them with
//! `RUSTFLAGS="--cfg loom" cargo test --lib window::model`.

use loom::model::Builder;
use loom::sync::atomic::{self, Ordering};
pub(super) use loom::thread::Thread;
use loom::thread::{JoinHandle, spawn};

use super::*;

/// The only ordering that a window uses, so that one that is weaker does not compile here.
#[derive(Clone, Copy, Debug)]
pub(super) struct SeqCst;

/// An atomic all of whose accesses are in one order that all threads agree on.
///
/// Loom's own loads may see older values than such an order allows, and where two of them come
/// before a store it looks for a race with the last one only. So every access here is a
/// read-modify-write, of which it tries all orders.
#[derive(Debug)]
pub(super) struct AtomicUsize(atomic::AtomicUsize);

impl AtomicUsize {
    pub(super) fn new(value: usize) -> Self {
        Self(atomic::AtomicUsize::new(value))
    }

    pub(super) fn load(&self, _: SeqCst) -> usize {
        self.0.fetch_add(0, Ordering::SeqCst)
    }

    pub(super) fn store(&self, value: usize, _: SeqCst) {
        self.0.swap(value, Ordering::SeqCst);
    }

    pub(super) fn fetch_add(&self, value: usize, _: SeqCst) -> usize {
        self.0.fetch_add(value, Ordering::SeqCst)
    }

    pub(super) fn fetch_sub(&self, value: usize, _: SeqCst) -> usize {
        self.0.fetch_sub(value, Ordering::SeqCst)
    }
}

/// The part of `std::thread` that a window uses.
pub(super) mod thread {
    use std::time::Duration;

    pub(crate) use loom::thread::{current, park};

    /// No time passes here: to be woken is the only end of a wait, so that no time-out can hide
    /// that a wake-up got lost.
    pub(crate) fn park_timeout(_timeout: Duration) {
        park();
    }
}

/// Each window's size, in bytes.
const LIMIT: usize = 10;

/// Runs a model in all its executions in which up to so many times a thread that could go on has
/// to wait for another; `LOOM_MAX_PREEMPTIONS` asks for another number.
fn with_preemptions(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(preemptions));
    builder.check(model);
}

/// What the threads of a server share.
#[derive(Clone)]
struct Server {
    /// Not 0 once it stops.
    stop: Arc<AtomicUsize>,
    counters: Arc<Counters>,
}

impl Server {
    fn new() -> Self {
        Self { stop: Arc::new(AtomicUsize::new(0)), counters: Arc::default() }
    }

    fn stop(&self, senders: &[Thread]) {
        self.stop.store(1, SeqCst);
        senders.iter().for_each(Thread::unpark);
    }

    /// The calling thread's window.
    fn window(&self) -> Arc<Window> {
        Arc::new(Window::new(LIMIT, Arc::clone(&self.counters)))
    }

    /// Waits for room, or for the stop.
    fn acquire(&self, window: &Arc<Window>, bytes: usize) -> Option<Permit> {
        let give_up = || match self.stop.load(SeqCst) {
            0 => Ok(Some(Instant::now())),
            _ => Err(()),
        };
        let permit = window.acquire(bytes, give_up).ok()?;
        assert!(window.used() <= LIMIT, "more than there is");
        Some(permit)
    }

    /// Takes room that is there, for a batch that is due to two recipients.
    fn send(&self, window: &Arc<Window>, bytes: usize) -> (Share, Share) {
        let share = Arc::new(self.acquire(window, bytes).expect("there is room"));
        (Arc::clone(&share), share)
    }

    /// How much is charged to all senders.
    fn charged(&self) -> u64 {
        self.counters.queued_bytes.get()
    }
}

/// What a recipient's queue holds of a batch.
type Share = Arc<Permit>;

/// A recipient that takes what is due to it, one by one.
fn reader(queue: Vec<Share>) -> JoinHandle<()> {
    spawn(|| queue.into_iter().for_each(drop))
}

/// A recipient that is given up, and its queue with it.
fn evicted(queue: Vec<Share>) -> JoinHandle<()> {
    spawn(|| drop(queue))
}

/// Waits for threads. Only the main thread may, as loom takes an unpark for the end of any wait.
fn join<T>(threads: impl IntoIterator<Item = JoinHandle<T>>) -> Vec<T> {
    threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
}

/// Every execution of one sender, who needs all the room that two batches take up: it has to hear
/// of the last share of both, whoever drops it.
#[test]
fn a_sender_hears_of_the_last_share() {
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

/// Every execution of one sender that waits while one recipient reads, the server stops, and the
/// other recipient is evicted.
#[test]
fn a_sender_hears_of_the_stop_or_gets_its_room() {
    loom::model(|| {
        let server = Server::new();
        let sender = spawn({
            let server = server.clone();
            move || {
                let window = server.window();
                let (one, two) = server.send(&window, LIMIT);
                let (stopping, this) = (server.clone(), loom::thread::current());
                let stop_and_evict = spawn(move || {
                    stopping.stop(&[this]);
                    drop(two);
                });
                let recipients = [reader(vec![one]), stop_and_evict];
                drop(server.acquire(&window, 1));
                recipients
            }
        });
        join(join([sender]).into_iter().flatten());
        assert_eq!(server.charged(), 0);
    });
}

/// Every execution of two senders whose recipients hold on to everything, and a stop.
#[test]
fn a_stop_ends_every_wait() {
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
        server.stop(&senders.each_ref().map(|sender| sender.thread().clone()));
        let held = join(senders);
        assert_eq!(server.charged(), 2 * LIMIT as u64);
        drop(held);
        assert_eq!(server.charged(), 0);
    });
}

/// Two senders, each of whom waits until both recipients have dropped the last of its shares.
#[test]
fn each_of_two_senders_hears_of_the_last_share() {
    with_preemptions(3, || two_senders(false));
}

/// The same, and a stop just before the eviction.
#[test]
fn two_senders_and_a_stop_at_any_time() {
    with_preemptions(2, || two_senders(true));
}

/// The first sender starts the second one, and that one the recipients, so that each of them has
/// what it needs from its start and nothing else has to be handed over.
fn two_senders(with_stop: bool) {
    let server = Server::new();
    let first = spawn({
        let server = server.clone();
        move || {
            let window = server.window();
            let (one, two) = server.send(&window, LIMIT);
            let (first, other) = (loom::thread::current(), server.clone());
            let due = [one, two];
            let second = spawn(move || second_sender(&other, due, first, with_stop));
            assert!(server.acquire(&window, 1).is_some() || with_stop);
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
    with_stop: bool,
) -> [JoinHandle<()>; 2] {
    let window = server.window();
    let (three, four) = server.send(&window, LIMIT);
    let (stopping, threads) = (server.clone(), [first, loom::thread::current()]);
    let evicted = spawn(move || {
        if with_stop {
            stopping.stop(&threads);
        }
        drop([two, four]);
    });
    let recipients = [reader(vec![one, three]), evicted];
    assert!(server.acquire(&window, LIMIT).is_some() || with_stop);
    recipients
}
