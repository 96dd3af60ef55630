//! The receiving half: blocks of lines, and the events in them. The client's reader thread fills an
//! inbox; the thread that owns the inbox empties it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{RecvError, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

use super::event::{Event, LostLines, Refusal, ServerLine};
use super::shared::Shared;
use crate::wire::protocol::FROM;

/// The receiving half of a connection: everything that the server sends, in order.
///
/// Keep taking what arrives. A full inbox stops the connection from being read, and a server evicts
/// clients that do not read. A dropped inbox stops nothing: what arrives is discarded.
///
/// ```
/// use std::time::Duration;
///
/// use a_chat::client::{self, Event};
/// # use a_chat::{Config, Name, Server};
/// # let server = Server::bind("127.0.0.1:0", Config::default())?.spawn()?;
/// # let (address, name) = (server.local_addr(), Name::new("alice")?);
///
/// let (mut outbox, mut inbox) = client::connect(address, &name)?;
/// outbox.send("alice: one")?;
/// outbox.send("alice: two")?;
/// let first = inbox.recv()?;
/// assert!(matches!(first, Event::Message { text, .. } if text == "one"));
/// let second = inbox.recv_timeout(Duration::from_secs(5))?;
/// assert!(matches!(second, Event::Message { text, .. } if text == "two"));
///
/// // From here on another thread may have it.
/// let receiver = std::thread::spawn(|| inbox.into_iter().count());
/// let _ = outbox.finish(None);
/// assert_eq!(receiver.join().expect("it counts"), 0);
/// # server.stop()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Inbox {
    blocks: Receiver<Block>,
    /// What is left of the block that was taken last.
    events: BlockEvents,
    shared: Arc<Shared>,
}

impl Inbox {
    pub(crate) fn new(blocks: Receiver<Block>, shared: Arc<Shared>) -> Self {
        Self { blocks, events: Block::default().into_events(), shared }
    }

    /// Waits for the next event.
    ///
    /// # Errors
    ///
    /// [`RecvError`] when the connection has ended and everything was taken.
    pub fn recv(&mut self) -> Result<Event, RecvError> {
        loop {
            if let Some(event) = self.events.next() {
                return Ok(event);
            }
            let block = self.blocks.recv().map_err(|_| RecvError)?;
            self.open(block);
        }
    }

    /// The next event if there is one.
    ///
    /// # Errors
    ///
    /// [`TryRecvError::Empty`] if there is none yet, [`TryRecvError::Disconnected`] when the
    /// connection has ended and everything was taken.
    pub fn try_recv(&mut self) -> Result<Event, TryRecvError> {
        loop {
            if let Some(event) = self.events.next() {
                return Ok(event);
            }
            let block = self.blocks.try_recv().map_err(|error| match error {
                crossbeam_channel::TryRecvError::Empty => TryRecvError::Empty,
                crossbeam_channel::TryRecvError::Disconnected => TryRecvError::Disconnected,
            })?;
            self.open(block);
        }
    }

    /// Waits at most this long for the next event.
    ///
    /// # Errors
    ///
    /// [`RecvTimeoutError::Timeout`] if none came in time, [`RecvTimeoutError::Disconnected`] when
    /// the connection has ended and everything was taken.
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<Event, RecvTimeoutError> {
        let Some(deadline) = Instant::now().checked_add(timeout) else {
            return self.recv().map_err(|_| RecvTimeoutError::Disconnected);
        };
        loop {
            if let Some(event) = self.events.next() {
                return Ok(event);
            }
            let block = self.blocks.recv_deadline(deadline).map_err(|error| match error {
                crossbeam_channel::RecvTimeoutError::Timeout => RecvTimeoutError::Timeout,
                crossbeam_channel::RecvTimeoutError::Disconnected => RecvTimeoutError::Disconnected,
            })?;
            self.open(block);
        }
    }

    /// Waits for more lines; `None` when the connection has ended and everything was taken.
    pub fn next_block(&mut self) -> Option<Block> {
        let rest = std::mem::take(&mut self.events).into_rest();
        if !rest.bytes.is_empty() {
            return Some(rest);
        }
        let block = self.blocks.recv().ok()?;
        self.shared.took(block.bytes.len());
        Some(block)
    }

    /// All events up to the end of the connection.
    #[must_use]
    pub fn into_events(self) -> InboxEvents {
        InboxEvents(self)
    }

    fn open(&mut self, block: Block) {
        self.shared.took(block.bytes.len());
        self.events = block.into_events();
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.shared.close_inbox();
    }
}

impl IntoIterator for Inbox {
    type Item = Event;
    type IntoIter = InboxEvents;

    fn into_iter(self) -> InboxEvents {
        self.into_events()
    }
}

/// The events of an [`Inbox`], up to the end of the connection. Each step waits for the next one.
///
/// ```
/// use a_chat::client::{self, Event, InboxEvents};
/// # use a_chat::{Config, Name, Server};
/// # let server = Server::bind("127.0.0.1:0", Config::default())?.spawn()?;
/// # let (address, name) = (server.local_addr(), Name::new("alice")?);
///
/// struct Log(InboxEvents);
///
/// let (mut outbox, inbox) = client::connect(address, &name)?;
/// let mut log = Log(inbox.into_events());
/// outbox.send("alice: a note")?;
/// assert!(matches!(log.0.next(), Some(Event::Message { .. })));
/// # server.shutdown_handle().shutdown();
/// # drop((outbox, log));
/// # server.join()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct InboxEvents(Inbox);

impl Iterator for InboxEvents {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        self.0.recv().ok()
    }
}

/// Lines from the server that arrived together.
///
/// They are as the server wrote them, with two exceptions: replies to the client's own questions
/// are left out, and line numbers are those of the user's lines.
#[derive(Clone, Debug, Default)]
pub struct Block {
    pub(crate) bytes: Vec<u8>,
    pub(crate) refusals: Vec<Refusal>,
    pub(crate) losses: Vec<LostLines>,
}

impl Block {
    /// The lines, line ends included.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The user's lines that the server refused, as a whole or for some recipients.
    /// [`bytes`](Self::bytes) holds an error for each of them.
    #[must_use]
    pub fn refusals(&self) -> &[Refusal] {
        &self.refusals
    }

    /// The user's lines that were accepted and then lost. [`bytes`](Self::bytes) holds an error for
    /// each of these.
    #[must_use]
    pub fn losses(&self) -> &[LostLines] {
        &self.losses
    }

    /// Each line as an event.
    #[must_use]
    pub fn into_events(self) -> BlockEvents {
        let Self { bytes, refusals, losses } = self;
        BlockEvents { bytes, start: 0, refusals: refusals.into(), losses: losses.into() }
    }
}

impl IntoIterator for Block {
    type Item = Event;
    type IntoIter = BlockEvents;

    fn into_iter(self) -> BlockEvents {
        self.into_events()
    }
}

/// The events of a [`Block`].
#[derive(Clone, Debug, Default)]
pub struct BlockEvents {
    bytes: Vec<u8>,
    start: usize,
    refusals: VecDeque<Refusal>,
    losses: VecDeque<LostLines>,
}

impl BlockEvents {
    /// The lines that were not taken.
    fn into_rest(mut self) -> Block {
        self.bytes.drain(..self.start);
        let Self { bytes, refusals, losses, .. } = self;
        Block { bytes, refusals: refusals.into(), losses: losses.into() }
    }
}

impl Iterator for BlockEvents {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        let rest = &self.bytes[self.start..];
        let end = memchr::memchr(b'\n', rest)?;
        self.start += end + 1;
        let line = String::from_utf8_lossy(&rest[..end]);
        let Self { refusals, losses, .. } = self;
        let line_of = ServerLine::parse(&line);
        Some(line_of.into_event(&line, || refusals.pop_front(), || losses.pop_front()))
    }
}

/// Whether a line is a message from a client.
pub(crate) fn is_message(line: &[u8]) -> bool {
    line.starts_with(FROM.as_bytes())
}
