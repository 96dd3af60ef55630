//! How a reader waits until the broker has handled an event of its own, and learns what came of it,
//! without a channel that points back. Plain state; no thread of its own.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};
use std::thread::{self, Thread};
use std::time::Instant;

/// The broker's half. Dropping it wakes the reader, answered or not, so an event that is dropped
/// with the inbox of a broker that failed keeps no reader waiting.
#[derive(Debug)]
pub(crate) struct Ticket<T> {
    shared: Arc<Shared<T>>,
    reader: Thread,
}

/// The reader's half.
#[derive(Debug)]
pub(crate) struct Answer<T>(Arc<Shared<T>>);

#[derive(Debug)]
struct Shared<T> {
    answer: OnceLock<T>,
    is_handled: AtomicBool,
}

/// A ticket for an event of the calling thread, which alone may wait for its answer.
pub(crate) fn ticket<T>() -> (Ticket<T>, Answer<T>) {
    let shared = Arc::new(Shared { answer: OnceLock::new(), is_handled: AtomicBool::new(false) });
    (Ticket { shared: Arc::clone(&shared), reader: thread::current() }, Answer(shared))
}

impl<T> Ticket<T> {
    pub(crate) fn answer(self, answer: T) {
        // Nothing else sets it, since this takes the ticket.
        let _ = self.shared.answer.set(answer);
    }
}

impl<T> Drop for Ticket<T> {
    fn drop(&mut self) {
        self.shared.is_handled.store(true, SeqCst);
        self.reader.unpark();
    }
}

impl<T: Clone> Answer<T> {
    /// Waits until the event is handled; `None` if it was dropped unanswered.
    ///
    /// `give_up` is called before each wait, as that of
    /// [`Window::acquire`](super::window::Window::acquire): it returns until when to wait, or `Err`
    /// to stop waiting. Other events wake the thread too, so each wake-up looks again.
    pub(crate) fn wait<E>(
        &self,
        mut give_up: impl FnMut() -> Result<Option<Instant>, E>,
    ) -> Result<Option<T>, E> {
        while !self.0.is_handled.load(SeqCst) {
            match give_up()? {
                None => thread::park(),
                Some(until) => {
                    thread::park_timeout(until.saturating_duration_since(Instant::now()));
                }
            }
        }
        Ok(self.0.answer.get().cloned())
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    const WAIT_FOREVER: fn() -> Result<Option<Instant>, Infallible> = || Ok(None);

    #[test]
    fn a_reader_gets_the_answer_or_none_if_its_event_is_dropped() {
        let (answered, answer) = ticket();
        answered.answer(7);
        assert_eq!(answer.wait(WAIT_FOREVER), Ok(Some(7)));
        let (dropped, answer) = ticket::<u8>();
        drop(dropped);
        assert_eq!(answer.wait(WAIT_FOREVER), Ok(None));
    }

    #[test]
    fn a_wait_ends_when_it_is_given_up() {
        let (_ticket, answer) = ticket::<u8>();
        assert_eq!(answer.wait(|| Err("the client has gone")), Err("the client has gone"));
    }

    /// A lost wake-up would hang this test forever.
    #[test]
    fn no_wake_up_is_lost() {
        for round in 0..1000 {
            let (ticket, answer) = ticket();
            thread::scope(|scope| {
                scope.spawn(move || ticket.answer(round));
                assert_eq!(answer.wait(WAIT_FOREVER), Ok(Some(round)));
            });
        }
    }
}
