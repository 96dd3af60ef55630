//! Both halves of a connection in one value, for programs that use them from one thread. It runs on
//! its owner's thread.

use std::ops::Range;
use std::sync::mpsc::{RecvError, RecvTimeoutError, TryRecvError};
use std::time::Duration;

use super::error::{AbsentError, SendError};
use super::event::Event;
use super::inbox::{Block, Inbox};
use super::outbox::{Outbox, Wait, message};
use super::outcome::ConnectionOutcome;
use super::room::{RoomNotices, join_line, leave_line, room_message};
use super::shared::Owner;
use crate::wire::name::Name;
use crate::wire::room::Room;

/// A connection that one thread both sends and receives on.
///
/// Sending never waits for the caller to receive: while the inbox is full it takes more lines than
/// usual instead. [`split`](Self::split) gives the halves to two threads.
///
/// ```
/// use a_chat::client::{Client, Event};
/// # use a_chat::{Config, Name, Server};
/// # let server = Server::bind("127.0.0.1:0", Config::default())?.spawn()?;
/// # let (address, name) = (server.local_addr(), Name::new("echo")?);
/// # let alice = Name::new("alice")?;
/// # let mut alice = Client::connect(address, &alice)?;
/// # alice.send("echo: hi")?;
///
/// let mut echo = Client::connect(address, &name)?;
/// # alice.send("echo: hi")?;
/// while let Ok(event) = echo.recv() {
///     if let Event::Message { from, text } = event {
///         echo.send_to([&from], text)?;
///         # break;
///     }
/// }
/// # assert!(matches!(alice.recv(), Ok(Event::Refused(_)) | Ok(Event::Message { .. })));
/// let outcome = echo.finish(None);
/// println!("{}; {} lines were accepted", outcome.reason, outcome.accepted);
/// # drop(alice);
/// # server.stop()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Client {
    /// Above the inbox: it ends the threads.
    outbox: Outbox,
    inbox: Inbox,
}

impl Client {
    pub(crate) fn of(outbox: Outbox, inbox: Inbox) -> Self {
        Self { outbox, inbox }
    }

    /// The two halves, each for a thread of its own.
    #[must_use]
    pub fn split(self) -> (Outbox, Inbox) {
        (self.outbox, self.inbox)
    }

    /// Sends one line, given without its line end, and returns its number.
    ///
    /// It waits while too much is on its way, see [`Outbox::send`], but never for this inbox to be
    /// emptied.
    ///
    /// # Errors
    ///
    /// As for [`Outbox::send`], with [`SendError::Full`] if the inbox is full and 64 MiB of lines
    /// are on their way: receive, then try again.
    pub fn send(&mut self, line: impl AsRef<[u8]>) -> Result<u64, SendError> {
        self.outbox.send_waiting(line.as_ref(), Wait::Indefinitely, Owner::Caller)
    }

    /// As [`send`](Self::send), but never waits.
    ///
    /// # Errors
    ///
    /// As for [`Outbox::try_send`].
    pub fn try_send(&mut self, line: impl AsRef<[u8]>) -> Result<u64, SendError> {
        self.outbox.send_waiting(line.as_ref(), Wait::Never, Owner::Caller)
    }

    /// As [`send`](Self::send), but waits at most this long.
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send), with [`SendError::Full`] if there is no room in time.
    pub fn send_timeout(
        &mut self,
        line: impl AsRef<[u8]>,
        timeout: Duration,
    ) -> Result<u64, SendError> {
        self.outbox.send_waiting(line.as_ref(), Wait::at_most(timeout), Owner::Caller)
    }

    /// Sends a message to these recipients and returns the number of its line.
    ///
    /// # Errors
    ///
    /// As for [`Outbox::send_to`] and [`send`](Self::send).
    pub fn send_to<'a>(
        &mut self,
        recipients: impl IntoIterator<Item = &'a Name>,
        text: impl AsRef<str>,
    ) -> Result<u64, SendError> {
        self.send(message(recipients, text.as_ref())?)
    }

    /// Enters a room and returns the number of the line that asks for it; the reply is
    /// [`RoomEvent::Joined`](crate::client::RoomEvent::Joined). Lines to the room may follow at once.
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send).
    pub fn join(&mut self, room: &Room, notices: RoomNotices) -> Result<u64, SendError> {
        self.send(join_line(room, notices))
    }

    /// Leaves a room and returns the number of the line that asks for it; the reply is
    /// [`RoomEvent::Left`](crate::client::RoomEvent::Left).
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send).
    pub fn leave(&mut self, room: &Room) -> Result<u64, SendError> {
        self.send(leave_line(room))
    }

    /// Sends a message to all others in a room, in which this client must be, and returns the number
    /// of its line.
    ///
    /// # Errors
    ///
    /// As for [`Outbox::send_to_room`] and [`send`](Self::send).
    pub fn send_to_room(&mut self, room: &Room, text: impl AsRef<str>) -> Result<u64, SendError> {
        self.send(room_message(room, text.as_ref())?)
    }

    /// Sends complete lines, given with their line ends, and returns their numbers.
    ///
    /// # Errors
    ///
    /// As for [`Outbox::send_lines`] and [`send`](Self::send).
    pub fn send_lines(&mut self, lines: impl AsRef<[u8]>) -> Result<Range<u64>, SendError> {
        self.outbox.send_lines_of(lines.as_ref(), Owner::Caller)
    }

    /// Asks which of these are not connected, and waits for the reply. It has no number. Everything
    /// that arrives before the reply waits in the inbox, up to 64 MiB of it.
    ///
    /// # Errors
    ///
    /// As for [`Outbox::absent`].
    pub fn absent(&mut self, names: &[Name]) -> Result<Vec<Name>, AbsentError> {
        self.outbox.absent_of(names, Owner::Caller)
    }

    /// Asks to be told when every delivery of the lines sent so far has ended, see [`Outbox::sync`].
    /// It never waits: keep receiving until the [`Event::Synced`] of this number comes.
    ///
    /// # Errors
    ///
    /// As for [`Outbox::sync`].
    pub fn sync(&mut self) -> Result<u64, SendError> {
        self.outbox.sync()
    }

    /// As [`sync`](Self::sync), with another time limit, see [`Outbox::sync_within`].
    ///
    /// # Errors
    ///
    /// As for [`Outbox::sync`].
    pub fn sync_within(&mut self, limit: Duration) -> Result<u64, SendError> {
        self.outbox.sync_within(limit)
    }

    /// The number of the user's last line that is known to be accepted by now, see
    /// [`Outbox::accepted`].
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.outbox.accepted()
    }

    /// Announces that no more lines will come: keep receiving until the server closes.
    pub fn half_close(&mut self) {
        self.outbox.half_close();
    }

    /// Waits for the next event.
    ///
    /// # Errors
    ///
    /// [`RecvError`] when the connection has ended and everything was taken.
    pub fn recv(&mut self) -> Result<Event, RecvError> {
        self.inbox.recv()
    }

    /// The next event if there is one.
    ///
    /// # Errors
    ///
    /// As for [`Inbox::try_recv`].
    pub fn try_recv(&mut self) -> Result<Event, TryRecvError> {
        self.inbox.try_recv()
    }

    /// Waits at most this long for the next event.
    ///
    /// # Errors
    ///
    /// As for [`Inbox::recv_timeout`].
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<Event, RecvTimeoutError> {
        self.inbox.recv_timeout(timeout)
    }

    /// Waits for more lines; `None` when the connection has ended and everything was taken.
    pub fn next_block(&mut self) -> Option<Block> {
        self.inbox.next_block()
    }

    /// The events to come, up to the end of the connection. Each step waits for the next one.
    pub fn events(&mut self) -> ClientEvents<'_> {
        ClientEvents(&mut self.inbox)
    }

    /// Half-closes, waits for the server to close, and accounts for all lines. What was not
    /// received is discarded, although the server counts it as delivered: to have everything,
    /// [`half_close`](Self::half_close) and receive to the end first.
    ///
    /// With a time limit it aborts the connection when that is over.
    ///
    /// # Panics
    ///
    /// As for [`Outbox::finish`].
    #[must_use = "it says what became of the lines"]
    pub fn finish(self, within: Option<Duration>) -> ConnectionOutcome {
        drop(self.inbox);
        self.outbox.finish_of(within, Owner::Caller)
    }
}

/// The events of a [`Client`] that are to come.
#[derive(Debug)]
pub struct ClientEvents<'a>(&'a mut Inbox);

impl Iterator for ClientEvents<'_> {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        self.0.recv().ok()
    }
}
