//! How the broker waits for its next event. No thread runs here; the broker's thread owns the one
//! receiver, which ends when nobody holds a sender any more.

use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, TryRecvError};

/// An event that has come so soon after the one before is likely to be followed as soon by the
/// next, and so long the broker stays awake for it. To wake a thread is the better part of what a
/// message's way takes where the processors are idle, and longer where they are virtual ones: with
/// one message in flight it arrives after 38 us instead of 51.
const BUSY_POLL: Duration = Duration::from_micros(64);

/// A channel's receiver that stays awake while one thing follows another closely.
///
/// Awake it yields all the time, so that nobody has to wait for the processor.
#[derive(Debug)]
pub(crate) struct BusyPollReceiver<'a, T> {
    inbox: &'a Receiver<T>,
    /// How long it stays awake at most.
    poll_for: Duration,
    /// The last wait was shorter than that.
    poll_next: bool,
}

impl<'a, T> BusyPollReceiver<'a, T> {
    pub(crate) fn new(inbox: &'a Receiver<T>) -> Self {
        // On a single processor whoever has the next event can not run meanwhile.
        let has_other_cpus = thread::available_parallelism().is_ok_and(|count| count.get() > 1);
        Self::with(inbox, if has_other_cpus { BUSY_POLL } else { Duration::ZERO })
    }

    fn with(inbox: &'a Receiver<T>, poll_for: Duration) -> Self {
        Self { inbox, poll_for, poll_next: false }
    }

    /// Waits for the next one; `None` when none will come any more.
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

#[cfg(test)]
mod tests {
    use crossbeam_channel::{after, unbounded};

    use super::*;

    const FOR_LONG: Duration = Duration::from_secs(3600);

    #[test]
    fn awake_it_takes_what_comes_and_sees_the_end() {
        let (events, inbox) = unbounded();
        let mut receiver = BusyPollReceiver::with(&inbox, FOR_LONG);
        for event in 0..3 {
            events.send(event).expect("an inbox");
            assert_eq!((receiver.next(), receiver.poll_next), (Some(event), true));
        }
        drop(events);
        assert_eq!(receiver.next(), None);
    }

    #[test]
    fn awake_it_takes_what_is_not_there_yet() {
        let inbox = after(Duration::from_millis(1));
        let mut receiver =
            BusyPollReceiver { poll_next: true, ..BusyPollReceiver::with(&inbox, FOR_LONG) };
        assert!(receiver.next().is_some());
    }

    #[test]
    fn what_comes_later_wakes_it_and_is_not_waited_for_the_next_time() {
        let soon = Duration::from_millis(1);
        let comes_late = || {
            let inbox = after(10 * soon);
            let mut receiver =
                BusyPollReceiver { poll_next: true, ..BusyPollReceiver::with(&inbox, soon) };
            assert!(receiver.next().is_some());
            !receiver.poll_next
        };
        // Should this thread have been held up before it began to wait, the event was not late.
        assert!((0..100).any(|_| comes_late()));
    }

    #[test]
    fn who_may_not_stay_awake_sleeps_at_once() {
        let (events, inbox) = unbounded();
        let mut receiver = BusyPollReceiver::with(&inbox, Duration::ZERO);
        events.send(()).expect("an inbox");
        assert_eq!((receiver.next(), receiver.poll_next), (Some(()), false));
    }
}
