//! The lines to send: first those that no server accepted, then those that the input brings. Owned
//! by the thread that runs the session.
//!
//! It also keeps the time, since the time to stay counts from the end of the input.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, TryRecvError, after, never, select};

use super::control::Control;
use super::lines::LineReceiver;

/// How many pieces of input are taken while nothing can be sent, to see whether there are more.
const AHEAD: usize = 4;

/// The lines to send, in order.
#[derive(Debug)]
pub(super) struct SendQueue {
    pub(super) input: LineReceiver,
    control: Arc<Control>,
    /// Lines to send before those that the input brings.
    pending: VecDeque<Vec<u8>>,
    /// When the end of the input was seen.
    ended: Option<Instant>,
    /// How long to stay after the end of the input.
    stay: Option<Duration>,
    /// There was a connection.
    connected: bool,
}

/// Why a wait is over.
#[derive(Debug)]
pub(super) enum Waited<T> {
    /// The time that was asked for is over.
    Elapsed,
    /// The other channel had this, or is disconnected.
    Other(Option<T>),
    /// The input has just ended. It is worth a look whether anything is left to do.
    InputEnded,
    /// The time to stay is over, or the session is aborted.
    Over,
}

impl SendQueue {
    pub(super) fn new(input: LineReceiver, control: Arc<Control>, stay: Option<Duration>) -> Self {
        Self { input, control, pending: VecDeque::new(), ended: None, stay, connected: false }
    }

    /// Waits for lines; `None` at the end of the input or of the connection, which disconnects
    /// `end`.
    pub(super) fn next(&mut self, end: &Receiver<()>) -> Option<Vec<u8>> {
        if !self.pending.is_empty() || self.ended.is_some() {
            return self.pending.pop_front();
        }
        select! {
            recv(self.input.queue) -> lines => if let Ok(lines) = lines {
                Some(self.input.took(lines))
            } else {
                self.note_end();
                None
            },
            recv(self.control.stopped.receiver) -> _ => {
                self.note_end();
                self.pending.pop_front()
            }
            recv(end) -> _ => None,
        }
    }

    /// Takes back lines that were not sent: they come next.
    pub(super) fn put_back(&mut self, lines: Vec<u8>) {
        if !lines.is_empty() {
            self.pending.push_front(lines);
        }
    }

    /// Waits this long, or until `other` is ready. Meanwhile it looks for the end of the input.
    pub(super) fn wait<T>(&mut self, time: Option<Duration>, other: &Receiver<T>) -> Waited<T> {
        let elapsed = time.map_or_else(never, after);
        loop {
            let over = self.time_left().map_or_else(never, after);
            let (none, not_stopped, not_cancelled) = (never(), never(), never());
            let ended = self.ended.is_some();
            let ahead = ended || self.pending.len() >= AHEAD;
            let input = if ahead { &none } else { &self.input.queue };
            let stopped = if ended { &not_stopped } else { &self.control.stopped.receiver };
            let control = &self.control;
            let cancelled =
                if self.connected { &not_cancelled } else { &control.cancelled.receiver };
            select! {
                recv(input) -> lines => if let Ok(lines) = lines {
                    let lines = self.input.took(lines);
                    self.pending.push_back(lines);
                } else {
                    self.note_end();
                    return Waited::InputEnded;
                },
                recv(stopped) -> _ => {
                    self.note_end();
                    return Waited::InputEnded;
                }
                recv(cancelled) -> _ => return Waited::Over,
                recv(control.aborted.receiver) -> _ => return Waited::Over,
                recv(other) -> other => return Waited::Other(other.ok()),
                recv(over) -> _ => return Waited::Over,
                recv(elapsed) -> _ => return Waited::Elapsed,
            }
        }
    }

    /// Without waiting: true if nothing is left to send and nothing will come.
    pub(super) fn is_over(&mut self) -> bool {
        if self.pending.is_empty() && self.ended.is_none() {
            match self.input.queue.try_recv() {
                Ok(lines) => {
                    let lines = self.input.took(lines);
                    self.pending.push_back(lines);
                }
                Err(TryRecvError::Disconnected) => self.note_end(),
                Err(TryRecvError::Empty) if self.control.stopped.is_set() => {
                    self.note_end();
                }
                Err(TryRecvError::Empty) => {}
            }
        }
        self.ended.is_some() && self.pending.is_empty()
    }

    /// Ends the input and returns everything that was not sent.
    pub(super) fn close(&mut self) -> Vec<u8> {
        self.pending.extend(self.input.close());
        Vec::from(std::mem::take(&mut self.pending)).concat()
    }

    /// How much longer to stay; `None` for as long as it takes.
    pub(super) fn time_left(&self) -> Option<Duration> {
        let (ended, stay) = self.ended.zip(self.stay)?;
        Some(stay.saturating_sub(ended.elapsed()))
    }

    /// From now on, cancelling the first connection changes nothing.
    pub(super) fn note_connected(&mut self) {
        self.connected = true;
    }

    /// Whether the end of the input was seen.
    pub(super) fn has_ended(&self) -> bool {
        self.ended.is_some()
    }

    /// Whether the session is to end now: its time to stay is over, or it was aborted.
    pub(super) fn is_time_over(&self) -> bool {
        self.control.aborted.is_set()
            || !self.connected && self.control.cancelled.is_set()
            || self.time_left().is_some_and(|left| left.is_zero())
    }

    /// Notes the end of the input, with what was still in it.
    fn note_end(&mut self) {
        self.pending.extend(self.input.close());
        self.ended.get_or_insert_with(Instant::now);
    }
}
