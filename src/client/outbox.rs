//! The sending half: lines go in, numbers come out, and at the end the account of all of them. It
//! owns the two threads of its connection and joins them.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TryRecvError};

use super::error::{AbsentError, SendError};
use super::ledger::{Probe, Sent};
use super::outcome::ConnectionOutcome;
use super::room::{RoomEvent, RoomNotices, join_line, leave_line, room_message, who_line};
use super::shared::{Owner, Shared};
use super::threads::{AbortHandle, Threads};
use super::update::Update;
use crate::wire::name::Name;
use crate::wire::protocol::{self, SYNC, WHO};
use crate::wire::reasons::{MAX_RECIPIENTS, RefusalReason, SYNC_SECONDS};
use crate::wire::room::Room;
use crate::wire::sync::SyncOutcome;

/// What a piece costs beside its bytes: its entry, its counts, its allocation.
const PIECE_CHARGE: usize = 96;

/// The sending half of a connection. It knows which lines the server accepted.
///
/// A line that was taken is never forgotten: [`finish`](Self::finish) reports of each whether the
/// server accepted it. Dropping the outbox instead aborts the connection.
#[derive(Debug)]
pub struct Outbox {
    /// Dropped to half-close. Above the threads, which exit when it is gone.
    queue: Option<Sender<Sent>>,
    updates: Receiver<Update>,
    threads: Threads,
    shared: Arc<Shared>,
    room: Allowance,
    /// The number of the last line that was taken.
    number: u64,
    /// The charge of the lines that are not known to be accepted.
    unconfirmed: usize,
    /// How many replies to come nobody waits for any more.
    stale_replies: usize,
    /// The connection has ended, seen from here.
    broken: bool,
    /// The first line of a server of another kind, if it came before anyone waited for it.
    pub(crate) foreign: Option<String>,
    /// This side was the first to end the connection.
    left: bool,
}

/// How many bytes of lines may be on their way and not known to be accepted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Allowance {
    /// Sending waits for room beyond this.
    pub(crate) usual: usize,
    /// Beyond this it fails, where waiting is in vain.
    pub(crate) max: usize,
}

/// How long to wait for room.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wait {
    Never,
    Until(Instant),
    Indefinitely,
}

impl Outbox {
    /// An outbox for lines that are numbered from `number + 1` on.
    pub(crate) fn new(
        queue: Sender<Sent>,
        updates: Receiver<Update>,
        threads: Threads,
        shared: Arc<Shared>,
        room: Allowance,
        number: u64,
    ) -> Self {
        Self {
            queue: Some(queue),
            updates,
            threads,
            shared,
            room,
            number,
            unconfirmed: 0,
            stale_replies: 0,
            broken: false,
            foreign: None,
            left: false,
        }
    }

    /// Sends one line, given without its line end, and returns its number.
    ///
    /// It waits while too much is on its way: by default 1 MiB of lines that are not known to be
    /// accepted. The replies that free room come after everything that the server sent before, so
    /// another thread should empty the [`Inbox`](super::Inbox) meanwhile. If the calling thread is
    /// the one that empties it and it is full, then `send` does not wait but takes up to 64 MiB.
    ///
    /// ```
    /// use a_chat::client::{self, SendError};
    /// # use a_chat::{Config, Name, Server};
    /// # let server = Server::bind("127.0.0.1:0", Config::default())?.spawn()?;
    /// # let (address, name) = (server.local_addr(), Name::new("alice")?);
    ///
    /// let (mut outbox, inbox) = client::connect(address, &name)?;
    /// assert_eq!(outbox.send("alice: one"), Ok(1));
    /// assert_eq!(outbox.send("alice: two"), Ok(2));
    /// assert_eq!(outbox.send("two\nlines"), Err(SendError::NotALine));
    /// # drop(inbox);
    /// # let _ = outbox.finish(None);
    /// # server.stop()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// An error means that the line was not taken: it has no number and is in no account.
    /// [`SendError::NotALine`] if it holds a line end, [`SendError::Closed`] if the connection has
    /// ended, [`SendError::HalfClosed`] after [`half_close`](Self::half_close), and
    /// [`SendError::Full`] if there is no room and waiting would be in vain.
    pub fn send(&mut self, line: impl AsRef<[u8]>) -> Result<u64, SendError> {
        self.send_waiting(line.as_ref(), Wait::Indefinitely, Owner::AnyThread)
    }

    /// As [`send`](Self::send), but never waits.
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send), with [`SendError::Full`] whenever there is no room.
    pub fn try_send(&mut self, line: impl AsRef<[u8]>) -> Result<u64, SendError> {
        self.send_waiting(line.as_ref(), Wait::Never, Owner::AnyThread)
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
        self.send_waiting(line.as_ref(), Wait::at_most(timeout), Owner::AnyThread)
    }

    /// Sends a message to these recipients and returns the number of its line.
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send), with [`SendError::NoRecipient`] if the list is empty, and
    /// [`SendError::NotALine`] if the text holds a line feed or ends with a carriage return.
    pub fn send_to<'a>(
        &mut self,
        recipients: impl IntoIterator<Item = &'a Name>,
        text: impl AsRef<str>,
    ) -> Result<u64, SendError> {
        self.send(message(recipients, text.as_ref())?)
    }

    /// Enters a room and returns the number of the line that asks for it; the reply is
    /// [`RoomEvent::Joined`]. Lines to the room may follow at once.
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send).
    pub fn join(&mut self, room: &Room, notices: RoomNotices) -> Result<u64, SendError> {
        self.send(join_line(room, notices))
    }

    /// Leaves a room and returns the number of the line that asks for it; the reply is
    /// [`RoomEvent::Left`].
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
    /// As for [`send`](Self::send), with [`SendError::NotALine`] if the text holds a line feed or
    /// ends with a carriage return.
    pub fn send_to_room(&mut self, room: &Room, text: impl AsRef<str>) -> Result<u64, SendError> {
        self.send(room_message(room, text.as_ref())?)
    }

    /// Sends complete lines, given with their line ends, and returns their numbers.
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send), with [`SendError::NotALine`] if there is no line or the last
    /// one has no end.
    pub fn send_lines(&mut self, lines: impl AsRef<[u8]>) -> Result<Range<u64>, SendError> {
        self.send_lines_of(lines.as_ref(), Owner::AnyThread)
    }

    /// Asks which of these are not connected, and waits for the reply. It has no number.
    ///
    /// The reply comes after everything that the server sent before it, so another thread has to
    /// empty the [`Inbox`](super::Inbox) meanwhile. If the calling thread is the one that empties
    /// it, it takes up to 64 MiB more while this waits.
    ///
    /// # Errors
    ///
    /// [`AbsentError::Refused`] if the server refused the question, [`AbsentError::Send`] if it
    /// could not be sent or the connection ended before the reply.
    pub fn absent(&mut self, names: &[Name]) -> Result<Vec<Name>, AbsentError> {
        self.absent_of(names, Owner::AnyThread)
    }

    /// Asks to be told when every delivery of the lines sent so far has ended, and returns the number
    /// of the line that asks. It never waits: an [`Event::Synced`](super::Event::Synced) of that number
    /// comes, after 30 s at the latest, and after the losses that it speaks of.
    ///
    /// Until then the server reads nothing more of this client's, so read what it sends meanwhile. Of
    /// a line that was refused for some recipients, the answer means the others.
    ///
    /// ```
    /// use a_chat::client::{self, Event, SyncOutcome};
    /// # use a_chat::{Config, Name, Server};
    /// # let server = Server::bind("127.0.0.1:0", Config::default())?.spawn()?;
    /// # let (address, name) = (server.local_addr(), Name::new("alice")?);
    ///
    /// let (mut outbox, inbox) = client::connect(address, &name)?;
    /// outbox.send("alice: a note")?;
    /// let asked = outbox.sync()?;
    /// for event in inbox {
    ///     if let Event::Synced(synced) = event {
    ///         assert_eq!((synced.line, synced.outcome), (asked, SyncOutcome::Delivered));
    ///         break;
    ///     }
    /// }
    /// # server.stop()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`try_send`](Self::try_send).
    pub fn sync(&mut self) -> Result<u64, SendError> {
        self.send_waiting(SYNC.as_bytes(), Wait::Never, Owner::AnyThread)
    }

    /// As [`sync`](Self::sync), but the answer comes after this time at the latest: 1 to 3600 s, in
    /// whole seconds, rounded up.
    ///
    /// # Errors
    ///
    /// As for [`sync`](Self::sync).
    pub fn sync_within(&mut self, limit: Duration) -> Result<u64, SendError> {
        self.send_waiting(sync_line(limit).as_bytes(), Wait::Never, Owner::AnyThread)
    }

    /// Sends a `/sync` of the client's own, to be replied to by [`Update::Confirmation`].
    pub(crate) fn ask_confirmation(&mut self, limit: Duration) -> Result<(), SendError> {
        self.note_all();
        let bytes = (sync_line(limit) + "\n").into_bytes().into();
        self.enqueue(Sent { bytes, lines: 1, own: Some(Probe::Confirmation), charge: 0 })
    }

    /// The reply to it, once it has come; `None` before. An error at the end of the connection.
    pub(crate) fn confirmation(&mut self, wait: Wait) -> Result<Option<SyncOutcome>, SendError> {
        match self.next_update(wait) {
            Ok(Update::Confirmation(outcome)) => Ok(Some(outcome)),
            Ok(update) => {
                self.note(&update);
                if self.broken { Err(SendError::Closed) } else { Ok(None) }
            }
            Err(Ended::Time) => Ok(None),
            Err(Ended::Threads) => Err(SendError::Closed),
        }
    }

    /// The number of the user's last line that is known to be accepted by now.
    ///
    /// It is known late: at a reply, after about a second without sending, or at the end.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.shared.accepted()
    }

    /// Announces that no more lines will come. Everything queued for this client still arrives,
    /// then the server closes.
    pub fn half_close(&mut self) {
        self.note_all();
        self.left |= !self.broken && self.queue.is_some();
        self.queue = None;
    }

    /// Half-closes, waits for the server to close, and accounts for all lines.
    ///
    /// With a time limit it aborts the connection when that is over. Without one it waits for as
    /// long as it takes, and another thread has to empty the inbox meanwhile, or drop it. If the
    /// calling thread is the one that empties the inbox, then that takes everything that arrives,
    /// to be received afterwards.
    ///
    /// ```
    /// use a_chat::client::{self, DisconnectReason};
    /// # use a_chat::{Config, Name, Server};
    /// # let server = Server::bind("127.0.0.1:0", Config::default())?.spawn()?;
    /// # let (address, name) = (server.local_addr(), Name::new("alice")?);
    ///
    /// let (mut outbox, inbox) = client::connect(address, &name)?;
    /// outbox.send("alice: a note")?;
    /// let outcome = outbox.finish(None);
    /// assert!(matches!(outcome.reason, DisconnectReason::Left));
    /// assert_eq!((outcome.accepted, outcome.unaccepted.len()), (1, 0));
    /// assert_eq!(inbox.into_iter().count(), 1);
    /// # server.stop()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Panics
    ///
    /// Resumes the panic of a thread of this connection. There is no known way to cause one.
    #[must_use = "it says what became of the lines"]
    pub fn finish(self, within: Option<Duration>) -> ConnectionOutcome {
        self.finish_of(within, Owner::AnyThread)
    }

    pub(crate) fn send_waiting(
        &mut self,
        line: &[u8],
        wait: Wait,
        owner: Owner,
    ) -> Result<u64, SendError> {
        if line.contains(&b'\n') {
            return Err(SendError::NotALine);
        }
        self.push(&[line, b"\n"].concat(), 1, wait, owner)?;
        Ok(self.number)
    }

    pub(crate) fn send_lines_of(
        &mut self,
        lines: &[u8],
        owner: Owner,
    ) -> Result<Range<u64>, SendError> {
        if !lines.ends_with(b"\n") {
            return Err(SendError::NotALine);
        }
        let count = memchr::memchr_iter(b'\n', lines).count() as u64;
        let first = self.number + 1;
        self.push(lines, count, Wait::Indefinitely, owner)?;
        Ok(first..first + count)
    }

    pub(crate) fn absent_of(
        &mut self,
        names: &[Name],
        owner: Owner,
    ) -> Result<Vec<Name>, AbsentError> {
        let mut absent = Vec::new();
        for names in names.chunks(MAX_RECIPIENTS) {
            self.ask(names)?;
            absent.append(&mut self.await_reply(owner)?);
        }
        Ok(absent)
    }

    /// Sends the question which of these are connected, to be replied to by [`Update::Answer`].
    pub(crate) fn ask(&mut self, names: &[Name]) -> Result<(), SendError> {
        self.note_all();
        let bytes = who_query(names).into();
        // A question takes no room, since its sender waits for the reply.
        self.enqueue(Sent { bytes, lines: 1, own: Some(Probe::Question), charge: 0 })
    }

    /// Enters a room with a line of the client's own, and waits for the reply.
    pub(crate) fn rejoin(&mut self, room: &Room, notices: RoomNotices) -> Result<(), SendError> {
        match self.ask_about_room(join_line(room, notices)) {
            Ok(_) | Err(AbsentError::Refused(_)) => Ok(()),
            Err(AbsentError::Send(error)) => Err(error),
        }
    }

    /// How many are in a room, asked with a line of the client's own.
    pub(crate) fn members(&mut self, room: &Room) -> Result<u64, AbsentError> {
        match self.ask_about_room(who_line(room))? {
            Some(RoomEvent::Members { count, .. }) => Ok(count),
            _ => Ok(0),
        }
    }

    fn ask_about_room(&mut self, line: String) -> Result<Option<RoomEvent>, AbsentError> {
        self.note_all();
        let bytes = (line + "\n").into_bytes().into();
        self.enqueue(Sent { bytes, lines: 1, own: Some(Probe::Question), charge: 0 })?;
        match self.await_reply(Owner::AnyThread) {
            // The reader knows no other replies to its client's questions.
            Err(AbsentError::Refused(RefusalReason::Other(text))) => {
                Ok(RoomEvent::parse_reply(0, &text))
            }
            reply => reply.map(|_| None),
        }
    }

    pub(crate) fn finish_of(mut self, within: Option<Duration>, owner: Owner) -> ConnectionOutcome {
        self.half_close();
        let wait = within.map_or(Wait::Indefinitely, Wait::at_most);
        let in_time = loop {
            if self.shared.would_wait_for_itself(owner) {
                self.shared.set_limit(usize::MAX);
            }
            match self.next_update(wait) {
                Ok(_) => {}
                // Both threads have reported everything when their senders are gone.
                Err(Ended::Threads) => break true,
                Err(Ended::Time) => break false,
            }
        };
        let Self { threads, left, .. } = self;
        threads.end(in_time, left)
    }

    pub(crate) fn abort_handle(&self) -> AbortHandle {
        self.threads.abort_handle()
    }

    /// Waits for the next update.
    pub(crate) fn next_update(&mut self, wait: Wait) -> Result<Update, Ended> {
        let update = match wait {
            Wait::Never => self.updates.try_recv().map_err(|error| match error {
                TryRecvError::Empty => Ended::Time,
                TryRecvError::Disconnected => Ended::Threads,
            }),
            Wait::Until(deadline) => self
                .updates
                .recv_deadline(deadline)
                .map_err(|error| if error.is_timeout() { Ended::Time } else { Ended::Threads }),
            Wait::Indefinitely => self.updates.recv().map_err(|_| Ended::Threads),
        };
        self.shared.outbox_woke();
        update
    }

    /// Takes lines, as soon as there is room for them.
    fn push(
        &mut self,
        lines: &[u8],
        count: u64,
        wait: Wait,
        owner: Owner,
    ) -> Result<(), SendError> {
        let charge = lines.len() + PIECE_CHARGE;
        self.wait_for_room(charge, wait, owner)?;
        self.enqueue(Sent { bytes: lines.into(), lines: count, own: None, charge })?;
        self.number += count;
        self.unconfirmed += charge;
        Ok(())
    }

    fn enqueue(&mut self, sent: Sent) -> Result<(), SendError> {
        let queue = self.queue.as_ref().ok_or(SendError::HalfClosed)?;
        if self.broken {
            return Err(SendError::Closed);
        }
        // The writer takes everything to the last line, even if the connection is broken by then.
        queue.send(sent).map_err(|_| SendError::Closed)
    }

    /// Waits until this much more may be on its way. More than all the room passes when nothing
    /// else is on its way.
    fn wait_for_room(&mut self, charge: usize, wait: Wait, owner: Owner) -> Result<(), SendError> {
        self.note_all();
        loop {
            let needed = self.unconfirmed + charge;
            let fits = self.unconfirmed == 0 || needed <= self.room.usual;
            // What else keeps a line from being taken is found when it is enqueued.
            if fits || self.broken || self.queue.is_none() {
                return Ok(());
            }
            if matches!(wait, Wait::Never) {
                return Err(SendError::Full);
            }
            if self.shared.would_wait_for_itself(owner) {
                return if needed <= self.room.max { Ok(()) } else { Err(SendError::Full) };
            }
            match self.next_update(wait) {
                Ok(update) => self.note(&update),
                Err(Ended::Threads) => self.broken = true,
                Err(Ended::Time) => return Err(SendError::Full),
            }
        }
    }

    /// Waits for the reply to the question that was asked last, and returns the absent.
    fn await_reply(&mut self, owner: Owner) -> Result<Vec<Name>, AbsentError> {
        let mut limit = None;
        let reply = loop {
            if self.broken {
                break Err(SendError::Closed.into());
            }
            if self.shared.would_wait_for_itself(owner) {
                if limit.is_some() {
                    self.stale_replies += 1;
                    break Err(SendError::Full.into());
                }
                limit = Some(self.shared.set_limit(self.room.max));
                continue;
            }
            match self.next_update(Wait::Indefinitely) {
                Ok(Update::Answer(_)) if self.stale_replies > 0 => self.stale_replies -= 1,
                Ok(Update::Answer(Ok(reply))) => {
                    let names = reply.not_here.iter().filter_map(|name| Name::new(name).ok());
                    break Ok(names.collect());
                }
                Ok(Update::Answer(Err(reason))) => break Err(AbsentError::Refused(reason)),
                Ok(update) => self.note(&update),
                Err(_) => self.broken = true,
            }
        };
        if let Some(limit) = limit {
            self.shared.set_limit(limit);
        }
        reply
    }

    /// Notes everything that the threads have reported.
    fn note_all(&mut self) {
        while let Ok(update) = self.updates.try_recv() {
            self.note(&update);
        }
    }

    pub(crate) fn note(&mut self, update: &Update) {
        match *update {
            Update::Freed(bytes) => self.unconfirmed = self.unconfirmed.saturating_sub(bytes),
            Update::Broken => self.broken = true,
            Update::Foreign(ref line) => {
                self.broken = true;
                self.foreign = Some(line.clone());
            }
            Update::Answer(_) => self.stale_replies = self.stale_replies.saturating_sub(1),
            Update::InboxFull | Update::Confirmation(_) => {}
        }
    }
}

impl Wait {
    pub(crate) fn at_most(timeout: Duration) -> Self {
        Instant::now().checked_add(timeout).map_or(Self::Indefinitely, Self::Until)
    }
}

/// Why no update came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Both threads have reported everything.
    Threads,
    /// The time is over.
    Time,
}

/// The line that asks whether everything is delivered, without its line end.
pub(crate) fn sync_line(limit: Duration) -> String {
    let (min, max) = SYNC_SECONDS;
    let seconds = limit.as_secs().saturating_add(u64::from(limit.subsec_nanos() > 0));
    format!("{SYNC} {}", seconds.clamp(min, max))
}

/// The line that asks which of these are connected.
pub(crate) fn who_query(names: &[Name]) -> Vec<u8> {
    let names: Vec<_> = names.iter().map(|name| name.as_str().as_bytes()).collect();
    [WHO.as_bytes(), b" ", &protocol::list(&names), b"\n"].concat()
}

/// The line that sends a text to these.
pub(crate) fn message<'a>(
    recipients: impl IntoIterator<Item = &'a Name>,
    text: &str,
) -> Result<Vec<u8>, SendError> {
    let names: Vec<_> = recipients.into_iter().map(|name| name.as_str().as_bytes()).collect();
    if names.is_empty() {
        return Err(SendError::NoRecipient);
    }
    // The server takes a carriage return before a line end for a part of that.
    if text.contains('\n') || text.ends_with('\r') {
        return Err(SendError::NotALine);
    }
    Ok([&protocol::list(&names), b": ".as_slice(), text.as_bytes()].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> Vec<Name> {
        list.iter().map(|name| Name::new(name).expect("a valid name")).collect()
    }

    #[test]
    fn the_time_of_a_sync_is_in_whole_seconds() {
        for (limit, expected) in [(0, "/sync 1"), (1000, "/sync 1"), (1001, "/sync 2")] {
            assert_eq!(sync_line(Duration::from_millis(limit)), expected);
        }
        assert_eq!(sync_line(Duration::MAX), "/sync 3600");
    }

    #[test]
    fn questions_and_messages_are_lines_of_the_protocol() {
        assert_eq!(who_query(&names(&["bob", "carol"])), b"/who bob, carol\n");
        let line = message(&names(&["bob", "carol"]), " hi").expect("a line");
        assert_eq!(line, b"bob, carol:  hi");
        assert_eq!(message(&[], "hi"), Err(SendError::NoRecipient));
        for text in ["a\nb", "a\n", "a\r"] {
            assert_eq!(message(&names(&["bob"]), text), Err(SendError::NotALine));
        }
    }
}
