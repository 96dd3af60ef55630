//! When a thread of the server lets others run first, and how long it stays awake for its next
//! message: every such heuristic, with its measurement. Called by readers, the broker and writers,
//! each for itself.
//!
//! Nothing here decides *whether* a message is passed on, only when: without all of it the server does
//! the same, more slowly. A thread that yields or polls holds no lock and owes no wake-up, and one
//! that has nothing to do for a while sleeps in a channel or in poll(2) until it is woken.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Select, TryRecvError};

/// So many bytes are worth a call by themselves. A mesh of clients that write 128 messages of 44 bytes at
/// a time, paired with readers that always yield, nine times: 1.18 times the rate and 0.86 of the CPU
/// time; the mesh of clients that write at once is no slower (1.02). With 2,048 that lost 17 %, and a
/// bound on the *last* read instead lost 19 %: after a large read little is there.
const ENOUGH: usize = 4096;

/// After this many waits in a row that gained nothing, a reader waits only before every so many reads.
const VAIN_WAITS: u32 = 16;

/// A reader's turns: when its socket has become readable, it lets other threads run before it reads, for
/// as long as that pays.
///
/// Where other threads want the CPU, more of the client's lines arrive meanwhile, which then take one
/// call, one batch and one wake-up together. Paired with readers that never wait, ten times: a mesh of
/// 100 clients that write each message as soon as they may is 4.2 times as fast on one CPU, and 1.14
/// times on two, with 0.24 and 0.87 of the CPU time.
///
/// Where nothing more arrives, the look at what is there and the wait are two calls in vain, so a
/// reader finds out whether it gains by them. With one message in flight on one CPU, a wait before each
/// read lost 7 %, and loses 1 % so; beside 50,000 single messages a second there, the median latency was
/// 110 us with a wait before each read, and is 66 us so, as without any.
#[derive(Debug)]
pub(crate) struct ReaderTurn {
    /// How many waits, and reads without one since then, gained nothing.
    in_vain: u32,
    /// How many bytes were there before the last wait, until the read after it.
    were_there: Option<usize>,
}

impl Default for ReaderTurn {
    /// As one that has waited in vain: most clients send a line now and then.
    fn default() -> Self {
        Self { in_vain: VAIN_WAITS, were_there: None }
    }
}

impl ReaderTurn {
    /// Called when the socket is readable. `available` is how many bytes are there; it is only asked
    /// if that decides. Over TLS these are more than will be read, so small gains go unnoticed.
    pub(crate) fn before_reading(&mut self, available: impl FnOnce() -> usize) {
        if self.in_vain >= VAIN_WAITS && self.in_vain % VAIN_WAITS != 0 {
            self.in_vain = self.in_vain.wrapping_add(1);
            return;
        }
        let available = available();
        self.were_there = Some(available);
        if available < ENOUGH {
            thread::yield_now();
        }
    }

    /// Called with the number of bytes of each read.
    pub(crate) fn after_reading(&mut self, bytes: usize) {
        if let Some(were_there) = self.were_there.take() {
            self.in_vain = if bytes > were_there { 0 } else { self.in_vain.wrapping_add(1) };
        }
    }
}

/// What the writers and the broker of one server know of each other's turns.
#[derive(Debug)]
pub(crate) struct Turns {
    /// On a single CPU, the thread that has the next message cannot run while another one polls.
    has_several_cpus: bool,
    /// A writer polls for its next message. At most one does at a time: there are only so many CPUs.
    writer_is_polling: AtomicBool,
}

impl Turns {
    pub(crate) fn new() -> Self {
        let has_several_cpus = thread::available_parallelism().is_ok_and(|count| count.get() > 1);
        Self { has_several_cpus, writer_is_polling: AtomicBool::new(false) }
    }
}

/// What arrives this soon after the previous one is likely to be followed by another as soon, and the
/// broker polls that long for it, as one of the writers does. When CPUs are idle, waking a thread
/// accounts for most of a message's latency, and for even more on virtual CPUs: with one message in
/// flight, a broker that polls cuts the latency from 51 us to 38 us, on another machine from 44 us to
/// 30 us.
const BUSY_POLL: Duration = Duration::from_micros(64);

/// A channel's receiver that polls while events follow each other closely.
///
/// It yields between polls, so it never delays another thread that needs the CPU.
#[derive(Debug)]
pub(crate) struct BusyPollReceiver<'a, T> {
    inbox: &'a Receiver<T>,
    /// The maximum time to poll for.
    poll_for: Duration,
    /// True if the last wait was shorter than that.
    poll_next: bool,
}

impl<'a, T> BusyPollReceiver<'a, T> {
    pub(crate) fn new(inbox: &'a Receiver<T>, turns: &Turns) -> Self {
        Self::with(inbox, if turns.has_several_cpus { BUSY_POLL } else { Duration::ZERO })
    }

    fn with(inbox: &'a Receiver<T>, poll_for: Duration) -> Self {
        Self { inbox, poll_for, poll_next: false }
    }

    /// Waits for the next event; `None` once the channel is disconnected and empty.
    pub(crate) fn next(&mut self) -> Option<T> {
        let started = Instant::now();
        while self.poll_next && started.elapsed() < self.poll_for {
            match self.inbox.try_recv() {
                Ok(event) => return Some(event),
                Err(TryRecvError::Disconnected) => return None,
                Err(TryRecvError::Empty) => thread::yield_now(),
            }
        }
        let event = self.inbox.recv().ok();
        self.poll_next = started.elapsed() < self.poll_for;
        event
    }
}

/// After waiting this long, a writer considers its client idle.
const IDLE_WAIT: Duration = Duration::from_millis(100);

/// After this many consecutive shorter waits, it considers its client busy. A client that just
/// logged in receives a message or two without being busy.
const BUSY_AFTER_WAITS: u32 = 4;

/// How often the writer of a busy client yields before it sleeps. In the mesh above, with readers that
/// wait, 0.85 instead of 0.66 million messages a second on one CPU, 1.21 instead of 0.92 on two.
const YIELDS_BEFORE_SLEEP: u32 = 4;

/// A writer's inbox: for a busy client it yields a few times before it sleeps. Other threads then get
/// to queue more, and none of them has to wake it. A channel's own `recv` does that too, but on every
/// call, which accounts for a good part of a login's cost, and it spins in between.
///
/// If the last message came within [`BUSY_POLL`], and no other writer polls, it then polls that long,
/// as the broker does. Beside 50,000 single messages a second, that makes the median latency 75
/// instead of 144 us, and 17.8 us of CPU time for each message instead of 20.2. Writers that all poll
/// would take the CPUs from each other: 174 us.
#[derive(Debug)]
pub(crate) struct YieldingReceiver<T> {
    inbox: Receiver<T>,
    /// How many consecutive waits were shorter than `IDLE_WAIT`.
    short_waits: u32,
    /// The last wait was shorter than [`BUSY_POLL`].
    poll_next: bool,
}

impl<T> YieldingReceiver<T> {
    pub(crate) fn new(inbox: Receiver<T>) -> Self {
        Self { inbox, short_waits: 0, poll_next: false }
    }

    /// What is queued already, if anything is.
    pub(crate) fn try_next(&self) -> Option<T> {
        self.inbox.try_recv().ok()
    }

    /// Waits for the next entry, until the deadline if there is one.
    pub(crate) fn next(
        &mut self,
        deadline: Option<Instant>,
        turns: &Turns,
    ) -> Result<T, RecvTimeoutError> {
        if let Some(next) = self.try_next() {
            return Ok(next);
        }
        let started = Instant::now();
        let received = match self.stay_awake(started, turns) {
            Some(next) => Ok(next),
            None => receive_without_spinning(&self.inbox, deadline),
        };
        let waited = started.elapsed();
        self.poll_next = waited < BUSY_POLL;
        self.short_waits = if waited >= IDLE_WAIT { 0 } else { self.short_waits.saturating_add(1) };
        received
    }

    fn stay_awake(&self, started: Instant, turns: &Turns) -> Option<T> {
        let yields = if self.short_waits < BUSY_AFTER_WAITS { 0 } else { YIELDS_BEFORE_SLEEP };
        for _ in 0..yields {
            thread::yield_now();
            if let Some(next) = self.try_next() {
                return Some(next);
            }
        }
        if !self.poll_next || !turns.has_several_cpus || turns.writer_is_polling.swap(true, Relaxed)
        {
            return None;
        }
        let mut next = None;
        while next.is_none() && started.elapsed() < BUSY_POLL {
            thread::yield_now();
            next = self.try_next();
        }
        turns.writer_is_polling.store(false, Relaxed);
        next
    }

    /// Waits for the next entry without a limit, and without yielding; `None` once the queue is
    /// disconnected.
    pub(crate) fn next_of_the_rest(&self) -> Option<T> {
        self.inbox.recv().ok()
    }
}

/// Sleeps at once: a [`Select`] does not spin, even on a single channel.
fn receive_without_spinning<T>(
    inbox: &Receiver<T>,
    deadline: Option<Instant>,
) -> Result<T, RecvTimeoutError> {
    let mut select = Select::new();
    select.recv(inbox);
    let ready = match deadline {
        Some(deadline) => {
            select.select_deadline(deadline).map_err(|_| RecvTimeoutError::Timeout)?
        }
        None => select.select(),
    };
    ready.recv(inbox).map_err(RecvTimeoutError::from)
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::{after, unbounded};

    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    #[test]
    fn a_reader_waits_before_every_read_for_as_long_as_more_arrives_meanwhile() {
        let (mut turn, mut looks) = (ReaderTurn::default(), 0);
        for _ in 0..10 {
            turn.before_reading(|| {
                looks += 1;
                50
            });
            turn.after_reading(100);
        }
        assert_eq!(looks, 10);
    }

    #[test]
    fn a_reader_that_waits_in_vain_waits_seldom_until_it_gains_by_it_again() {
        let mut turn = ReaderTurn::default();
        let mut looks_in = |reads: u32, were_there: usize, read: usize| {
            let mut looks = 0;
            for _ in 0..reads {
                turn.before_reading(|| {
                    looks += 1;
                    were_there
                });
                turn.after_reading(read);
            }
            looks
        };
        assert_eq!(looks_in(10 * VAIN_WAITS, 50, 50), 10, "from the first read on");
        assert_eq!(looks_in(10, 50, 100), 10);
        assert_eq!(looks_in(VAIN_WAITS, 50, 50), VAIN_WAITS);
        assert_eq!(looks_in(10 * VAIN_WAITS, 50, 50), 10);
        assert_eq!(looks_in(10 * VAIN_WAITS, ENOUGH, ENOUGH), 10, "much at a time is no gain");
    }

    #[test]
    fn a_polling_receiver_returns_every_event_and_then_none() {
        let (events, inbox) = unbounded();
        let mut receiver = BusyPollReceiver::with(&inbox, LONG);
        for event in 0..3 {
            events.send(event).expect("an inbox");
            assert_eq!((receiver.next(), receiver.poll_next), (Some(event), true));
        }
        drop(events);
        assert_eq!(receiver.next(), None);
    }

    fn turns() -> Turns {
        Turns { has_several_cpus: true, writer_is_polling: AtomicBool::new(false) }
    }

    #[test]
    fn a_busy_writer_gets_every_entry_in_order_and_only_one_polls_at_a_time() {
        let (turns, count) = (&turns(), 10_000);
        thread::scope(|scope| {
            for _ in 0..3 {
                let (queue, inbox) = unbounded();
                scope.spawn(move || {
                    let mut receiver = YieldingReceiver::new(inbox);
                    let next = || receiver.next(None, turns).ok();
                    assert!(std::iter::from_fn(next).eq(0..count));
                });
                scope.spawn(move || {
                    (0..count).for_each(|entry| queue.send(entry).expect("a writer"));
                });
            }
        });
        assert!(!turns.writer_is_polling.load(Relaxed), "the place is free again");
    }

    #[test]
    fn a_writer_that_polls_in_vain_times_out_at_its_deadline() {
        let (_queue, inbox) = unbounded::<()>();
        let mut receiver = YieldingReceiver { poll_next: true, ..YieldingReceiver::new(inbox) };
        let deadline = Instant::now() + Duration::from_millis(1);
        let received = receiver.next(Some(deadline), &turns());
        assert_eq!(received, Err(RecvTimeoutError::Timeout));
        assert!(Instant::now() >= deadline);
        assert!(!receiver.poll_next);
    }

    #[test]
    fn a_polling_receiver_returns_an_event_that_arrives_later() {
        let inbox = after(Duration::from_millis(1));
        let mut receiver =
            BusyPollReceiver { poll_next: true, ..BusyPollReceiver::with(&inbox, LONG) };
        assert!(receiver.next().is_some());
    }

    #[test]
    fn a_late_event_wakes_the_receiver_and_stops_it_from_polling() {
        let soon = Duration::from_millis(1);
        let arrives_late = || {
            let inbox = after(10 * soon);
            let mut receiver =
                BusyPollReceiver { poll_next: true, ..BusyPollReceiver::with(&inbox, soon) };
            assert!(receiver.next().is_some());
            !receiver.poll_next
        };
        // If this thread is delayed before it begins to wait, the event is not late.
        assert!((0..100).any(|_| arrives_late()));
    }

    #[test]
    fn a_receiver_without_polling_time_never_polls() {
        let (events, inbox) = unbounded();
        let mut receiver = BusyPollReceiver::with(&inbox, Duration::ZERO);
        events.send(()).expect("an inbox");
        assert_eq!((receiver.next(), receiver.poll_next), (Some(()), false));
    }
}
