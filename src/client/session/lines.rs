//! The input of a session: lines from any number of threads, bounded in bytes.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::super::error::SendError;
use super::super::outbox::message;
use super::super::room::{RoomNotices, join_line, room_message};
use crate::wire::name::Name;
use crate::wire::room::Room;

/// How many bytes the session's own output may queue, since it cannot wait for room.
const MAX_OVERFLOW: usize = 64 * 1024 * 1024;

/// A queue of lines for a [`Session`](super::Session). Sending waits while it holds this many bytes.
///
/// ```
/// let (lines, input) = a_chat::client::lines(64 * 1024);
/// lines.send("bob: hello")?;
/// // Dropping every sender ends the session's input.
/// drop(lines);
/// # drop(input);
/// # Ok::<(), a_chat::client::SendError>(())
/// ```
#[must_use]
pub fn lines(max_bytes: usize) -> (LineSender, LineReceiver) {
    let (sender, receiver) = unbounded();
    let fill = Fill { queued: 0, closed: false, output: None };
    let gauge = Arc::new(Gauge { fill: Mutex::new(fill), changed: Condvar::new(), max_bytes });
    let lines = LineSender { queue: sender, gauge: Arc::clone(&gauge) };
    (lines, LineReceiver { queue: receiver, gauge })
}

/// Hands lines to a session. When the last one is dropped, the input has ended.
#[derive(Clone, Debug)]
pub struct LineSender {
    queue: Sender<Vec<u8>>,
    gauge: Arc<Gauge>,
}

/// The input of a session.
#[derive(Debug)]
pub struct LineReceiver {
    pub(super) queue: Receiver<Vec<u8>>,
    gauge: Arc<Gauge>,
}

/// How many bytes are queued.
#[derive(Debug)]
struct Gauge {
    fill: Mutex<Fill>,
    /// Signalled when lines are taken, and when the session has ended.
    changed: Condvar,
    max_bytes: usize,
}

#[derive(Debug)]
struct Fill {
    queued: usize,
    /// The session has ended.
    closed: bool,
    /// The thread that runs the session's output. Lines are sent only while that receives, so it
    /// never waits for room.
    output: Option<ThreadId>,
}

impl LineSender {
    /// Hands over one line, given without its line end. It waits for room, except in the session's
    /// own output.
    ///
    /// # Errors
    ///
    /// [`SendError::NotALine`] if it holds a line end, [`SendError::Closed`] if the session has
    /// ended, [`SendError::Full`] if 64 MiB are queued and it cannot wait.
    pub fn send(&self, line: impl AsRef<[u8]>) -> Result<(), SendError> {
        let line = line.as_ref();
        if line.contains(&b'\n') {
            return Err(SendError::NotALine);
        }
        self.push([line, b"\n"].concat())
    }

    /// Hands over a message to these recipients.
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send) and [`Outbox::send_to`](super::super::Outbox::send_to).
    pub fn send_to<'a>(
        &self,
        recipients: impl IntoIterator<Item = &'a Name>,
        text: impl AsRef<str>,
    ) -> Result<(), SendError> {
        self.send(message(recipients, text.as_ref())?)
    }

    /// Hands over a message to all others in a room, in which the session's client must be.
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send) and [`Outbox::send_to_room`](super::super::Outbox::send_to_room).
    pub fn send_to_room(&self, room: &Room, text: impl AsRef<str>) -> Result<(), SendError> {
        self.send(room_message(room, text.as_ref())?)
    }

    /// Hands over a line that enters a room. The session enters it again after each reconnection.
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send).
    pub fn join(&self, room: &Room, notices: RoomNotices) -> Result<(), SendError> {
        self.send(join_line(room, notices))
    }

    /// Hands over complete lines, given with their line ends.
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send), with [`SendError::NotALine`] if there is no line or the last
    /// one has no end.
    pub fn send_lines(&self, lines: impl Into<Vec<u8>>) -> Result<(), SendError> {
        let lines = lines.into();
        if !lines.ends_with(b"\n") {
            return Err(SendError::NotALine);
        }
        self.push(lines)
    }

    fn push(&self, lines: Vec<u8>) -> Result<(), SendError> {
        let mut fill = self.gauge.fill();
        while !fill.closed && fill.queued > 0 && fill.queued + lines.len() > self.gauge.max_bytes {
            if fill.output == Some(thread::current().id()) {
                if fill.queued + lines.len() > MAX_OVERFLOW {
                    return Err(SendError::Full);
                }
                break;
            }
            fill = self.gauge.changed.wait(fill).unwrap_or_else(PoisonError::into_inner);
        }
        if fill.closed {
            return Err(SendError::Closed);
        }
        fill.queued += lines.len();
        // Under the lock, so a session that ends finds every line that was handed over.
        self.queue.send(lines).map_err(|_| SendError::Closed)
    }
}

impl LineReceiver {
    /// Counts out lines that were taken from the queue.
    pub(super) fn took(&self, lines: Vec<u8>) -> Vec<u8> {
        self.gauge.fill().queued -= lines.len();
        self.gauge.changed.notify_all();
        lines
    }

    /// The calling thread runs the session's output.
    pub(super) fn output_marker(&self) -> impl FnOnce() + Send + use<> {
        let gauge = Arc::clone(&self.gauge);
        move || gauge.fill().output = Some(thread::current().id())
    }

    /// Ends the queue, and returns everything that is in it.
    pub(super) fn close(&self) -> Vec<Vec<u8>> {
        self.gauge.fill().closed = true;
        self.gauge.changed.notify_all();
        self.queue.try_iter().collect()
    }
}

impl Drop for LineReceiver {
    fn drop(&mut self) {
        self.close();
    }
}

impl Gauge {
    fn fill(&self) -> MutexGuard<'_, Fill> {
        self.fill.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_output_thread_does_not_wait_for_room() {
        let (lines, input) = lines(10);
        lines.send("bob: first").expect("an empty queue");
        input.output_marker()();
        lines.send("bob: second").expect("room beyond the limit");
        assert_eq!(lines.send("two\nlines"), Err(SendError::NotALine));
        assert_eq!(lines.send_lines("no end"), Err(SendError::NotALine));
        assert_eq!(input.close(), [b"bob: first\n".to_vec(), b"bob: second\n".to_vec()]);
        assert_eq!(lines.send("bob: late"), Err(SendError::Closed));
    }

    #[test]
    fn a_sender_waits_for_room_until_the_session_ends() {
        let (lines, input) = lines(10);
        lines.send("bob: first").expect("an empty queue");
        let waiting = thread::spawn(move || {
            lines.send("bob: second")?;
            lines.send("bob: third")
        });
        let first = input.queue.recv().expect("the first line");
        assert_eq!(input.took(first), b"bob: first\n");
        let second = input.queue.recv().expect("the second line");
        assert_eq!(second, b"bob: second\n");
        drop(input);
        assert_eq!(waiting.join().expect("no panic"), Err(SendError::Closed));
    }
}
