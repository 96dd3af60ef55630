//! What is still to be sent: first the lines that a server has not accepted, then what the input
//! brings. It belongs to the thread that holds the conversation.
//!
//! It also keeps the time, since how long to stay is counted from the end of the input.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, TryRecvError, never, select};

/// How many pieces of input are taken while nothing can be sent, to see whether there are more.
const AHEAD: usize = 4;

/// Disconnected at the end of a connection.
pub(crate) type End = Receiver<()>;

/// The lines to send, in order.
#[derive(Debug)]
pub(crate) struct SendQueue<'a> {
    input: &'a Receiver<Vec<u8>>,
    /// Lines to send before what the input brings.
    pending: VecDeque<Vec<u8>>,
    /// When the end of the input was seen.
    outcome: Option<Instant>,
    /// How long to stay after the end of the input.
    stay: Option<Duration>,
}

impl<'a> SendQueue<'a> {
    pub(crate) fn new(input: &'a Receiver<Vec<u8>>, stay: Option<Duration>) -> Self {
        Self { input, pending: VecDeque::new(), outcome: None, stay }
    }

    /// Waits for lines; `None` at the end of the input or of the connection.
    pub(crate) fn next(&mut self, end: &End) -> Option<Vec<u8>> {
        if !self.pending.is_empty() || self.outcome.is_some() {
            return self.pending.pop_front();
        }
        select! {
            recv(self.input) -> lines => lines.map_err(|_| self.note_end()).ok(),
            recv(end) -> _ => None,
        }
    }

    /// Takes back lines that were not sent: they come next.
    pub(crate) fn put_back(&mut self, lines: Vec<u8>) {
        if !lines.is_empty() {
            self.pending.push_front(lines);
        }
    }

    /// Waits between two attempts, for more input too: less long if the input ends, so that it can
    /// be seen whether there is use in another attempt. `Break` if the connection ends or the time
    /// to stay is over.
    pub(crate) fn pause(&mut self, pause: Duration, end: &End) -> ControlFlow<()> {
        let until = Instant::now() + pause;
        let (none, mut input) = (never(), self.input);
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let left = self.time_left().map_or(left, |time| time.min(left));
            if self.outcome.is_some() || self.pending.len() >= AHEAD {
                input = &none;
            }
            select! {
                recv(input) -> lines => if let Ok(lines) = lines {
                    self.pending.push_back(lines);
                } else {
                    self.note_end();
                    return ControlFlow::Continue(());
                },
                recv(end) -> _ => return ControlFlow::Break(()),
                default(left) => return self.check_time(),
            }
        }
    }

    /// Without waiting, looks whether there is more. True if there is nothing more and will be
    /// nothing more.
    pub(crate) fn is_over(&mut self) -> bool {
        if self.pending.is_empty() && self.outcome.is_none() {
            match self.input.try_recv() {
                Ok(lines) => self.pending.push_back(lines),
                Err(TryRecvError::Disconnected) => self.note_end(),
                Err(TryRecvError::Empty) => {}
            }
        }
        self.outcome.is_some() && self.pending.is_empty()
    }

    /// True if lines are left that were seen.
    pub(crate) fn has_more(&self) -> bool {
        !self.pending.is_empty()
    }

    /// How much longer to stay; `None` for as long as it takes.
    pub(crate) fn time_left(&self) -> Option<Duration> {
        let (outcome, stay) = self.outcome.zip(self.stay)?;
        Some(stay.saturating_sub(outcome.elapsed()))
    }

    /// `Break` if the time to stay is over.
    pub(crate) fn check_time(&self) -> ControlFlow<()> {
        if self.time_left().is_some_and(|left| left.is_zero()) {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }

    fn note_end(&mut self) {
        self.outcome.get_or_insert_with(Instant::now);
    }
}
