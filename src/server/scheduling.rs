//! When a thread of the server lets others run first, and how long it stays awake for its next
//! message: every such heuristic, with its measurement. Called by readers, the broker and writers,
//! each for itself.
//!
//! Nothing here decides *whether* a message is passed on, only when: without all of it the server does
//! the same, more slowly. A thread that yields or polls holds no lock and owes no wake-up, and one
//! that has nothing to do for a while sleeps in a channel or in poll(2) until it is woken.

use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Select, Sender, TryRecvError};

/// A reader calls this when its socket has become readable, before it reads: while the broker has not
/// yet handled what other readers have sent, it lets other threads run first.
///
/// The broker could not handle this client's lines any sooner, and meanwhile more of them arrive, which
/// then cost one call, one batch and one wake-up together. In a mesh of 100 clients that write each
/// message as soon as they may, this makes TBD of TBD messages a second with the server on one CPU, and
/// TBD of TBD on two. It costs one look at the inbox where the broker keeps up, as with one message in
/// flight.
pub(crate) fn let_broker_catch_up<T>(broker: &Sender<T>) {
    if !broker.is_empty() {
        thread::yield_now();
    }
}

/// An event that arrives this soon after the previous one is likely to be followed by another one
/// as soon, and the broker polls that long for it. When CPUs are idle, waking a thread accounts for
/// most of a message's latency, and for even more on virtual CPUs: with one message in flight,
/// polling cuts the latency from 51 us to 38 us.
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
    pub(crate) fn new(inbox: &'a Receiver<T>) -> Self {
        // On a single CPU, the thread that has the next event cannot run meanwhile.
        let has_other_cpus = thread::available_parallelism().is_ok_and(|count| count.get() > 1);
        Self::with(inbox, if has_other_cpus { BUSY_POLL } else { Duration::ZERO })
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

/// How often the writer of a busy client yields before it sleeps. TBD
const YIELDS_BEFORE_SLEEP: u32 = 4;

/// A writer's inbox: for a busy client it yields a few times before it sleeps. Other threads then get
/// to queue more, and none of them has to wake it. A channel's own `recv` does that too, but on every
/// call, which accounts for a good part of a login's cost, and it spins in between.
#[derive(Debug)]
pub(crate) struct YieldingReceiver<T> {
    inbox: Receiver<T>,
    /// How many consecutive waits were shorter than `IDLE_WAIT`.
    short_waits: u32,
}

impl<T> YieldingReceiver<T> {
    pub(crate) fn new(inbox: Receiver<T>) -> Self {
        Self { inbox, short_waits: 0 }
    }

    /// What is queued already, if anything is.
    pub(crate) fn try_next(&self) -> Option<T> {
        self.inbox.try_recv().ok()
    }

    /// Waits for the next entry, until the deadline if there is one.
    pub(crate) fn next(&mut self, deadline: Option<Instant>) -> Result<T, RecvTimeoutError> {
        if let Some(next) = self.try_next() {
            return Ok(next);
        }
        let yields = if self.short_waits < BUSY_AFTER_WAITS { 0 } else { YIELDS_BEFORE_SLEEP };
        for _ in 0..yields {
            thread::yield_now();
            if let Some(next) = self.try_next() {
                return Ok(next);
            }
        }
        let started = Instant::now();
        let received = receive_without_spinning(&self.inbox, deadline);
        let was_idle = started.elapsed() >= IDLE_WAIT;
        self.short_waits = if was_idle { 0 } else { self.short_waits.saturating_add(1) };
        received
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
