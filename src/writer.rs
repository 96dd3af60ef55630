//! The writer thread, one per logged-in client: it owns the queue of what is due to that client
//! and ends when the broker has dropped the queue's sender and the client has everything.
//!
//! It writes all that is queued with one call, counts in messages what was written and what was
//! acknowledged, and after the last message says goodbye to the socket so that nothing on its way
//! is thrown away. If the client fails it, it stays to count what can not be delivered.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use rustix::event::PollFlags;

use crate::connection::Connection;
use crate::due::{Due, Piece};
use crate::in_flight::InFlight;
use crate::linger::{AckPoll, check_drain, linger, wait};
use crate::patience::Stall;
use crate::protocol::Rejection;
use crate::report::CloseReason;
use crate::server::Shared;
use crate::shutdown::has_passed;

/// How many parts one call writes at most; more than that gave no more throughput.
const PARTS: usize = 64;

/// Pieces of up to so many bytes are copied together for one write. The bytes were written by
/// another processor: when this thread copies many small pieces in a row it waits for them all at
/// once, where the kernel would wait for one part after the other.
const SMALL: usize = 512;

/// How many bytes are copied together, at most and about.
const GATHERED: usize = 16 * 1024;

/// How many entries an empty queue keeps memory for: what a backlog has taken is given back.
const QUEUE_KEPT: usize = 256;

/// How long written messages may stay unsettled while there is nothing to write.
const SETTLE: Duration = Duration::from_millis(500);

/// What the broker queues for a client.
#[derive(Debug)]
pub(crate) enum Outgoing {
    One(Due),
    Many(Vec<Due>),
    /// Nothing comes after this. In a box, since every entry is as large as the largest, and an idle
    /// client's queue has room for dozens.
    Last(Box<Goodbye>),
}

/// How the broker parts with a client.
#[derive(Debug)]
pub(crate) struct Goodbye {
    pub(crate) reason: CloseReason,
    /// How many of the client's lines were accepted.
    pub(crate) accepted: u64,
    /// A last line for the client, its line end included.
    pub(crate) text: Option<Vec<u8>>,
}

/// How a writer ended; its reader makes the departure's record of it.
#[derive(Debug)]
pub(crate) struct Farewell {
    pub(crate) reason: CloseReason,
    pub(crate) accepted: u64,
    /// Messages that the peer's kernel has acknowledged to the last byte.
    pub(crate) delivered: u64,
    pub(crate) lost: u64,
    /// Bytes written and not acknowledged: the last of `lost` are in them.
    pub(crate) unacknowledged: u64,
    /// Whether it failed when the server was stopping already.
    pub(crate) in_drain: bool,
}

impl Farewell {
    /// For a connection that nothing was ever due to.
    pub(crate) fn nothing_due(reason: CloseReason) -> Self {
        Self { reason, accepted: 0, delivered: 0, lost: 0, unacknowledged: 0, in_drain: false }
    }
}

/// The thread's state.
#[derive(Debug)]
pub(crate) struct Writer {
    connection: Arc<Connection>,
    inbox: Receiver<Outgoing>,
    shared: Arc<Shared>,
    queue: VecDeque<Due>,
    /// How much of the queue's first piece is written, in bytes.
    written_of_first: u32,
    in_flight: InFlight,
    stall: Stall,
    /// Messages taken out of the inbox: delivered, queued or lost.
    owed: u64,
    /// Messages written to the last byte, as the live counters know them.
    written: u64,
    /// Bytes of the client's stream that were written.
    written_bytes: u64,
    /// Whether it failed in the drain, if that was decided before its end.
    in_drain: Option<bool>,
    goodbye: Option<Box<Goodbye>>,
}

impl Writer {
    pub(crate) fn new(
        connection: Arc<Connection>,
        inbox: Receiver<Outgoing>,
        shared: Arc<Shared>,
    ) -> Self {
        let stall = Stall::new(shared.config.stall_timeout);
        Self {
            connection,
            inbox,
            shared,
            queue: VecDeque::new(),
            written_of_first: 0,
            in_flight: InFlight::default(),
            stall,
            owed: 0,
            written: 0,
            written_bytes: 0,
            in_drain: None,
            goodbye: None,
        }
    }

    /// The thread: delivers until the queue is disconnected, and accounts for every message.
    pub(crate) fn run(mut self) -> Farewell {
        let served = catch_unwind(AssertUnwindSafe(|| self.serve()));
        let failure = served.unwrap_or(Err(CloseReason::Panicked)).err();
        let in_drain = self.in_drain.unwrap_or_else(|| self.shared.shutdown.is_shutdown());
        // First the numbers, then the end of the socket: what is acknowledged in between counts as
        // lost, which is the safe side.
        let (delivered, unacknowledged) = self.settle_for_good();
        match failure {
            Some(_) => self.connection.abort(),
            None => self.connection.close(),
        }
        // That has woken the reader, whose leave lets the broker drop this queue.
        self.outlast_inbox();
        let lost = self.owed - delivered;
        let (reason, accepted) = match self.goodbye {
            Some(goodbye) => (failure.unwrap_or(goodbye.reason), goodbye.accepted),
            None => (CloseReason::ServerFailed, 0),
        };
        Farewell { reason, accepted, delivered, lost, unacknowledged, in_drain }
    }

    fn serve(&mut self) -> Result<(), CloseReason> {
        let delivered = self.deliver_all();
        if delivered == Err(CloseReason::Evicted) {
            self.in_drain = Some(self.shared.shutdown.is_shutdown());
            self.say_why_evicted();
        }
        delivered.and_then(|()| self.part())
    }

    /// Delivers until the broker has dropped the queue's sender and all of it is written.
    fn deliver_all(&mut self) -> Result<(), CloseReason> {
        while let Some(outgoing) = self.next()? {
            self.take(outgoing);
            self.take_all();
            self.write_queue()?;
        }
        Ok(())
    }

    /// Waits for something to write, and watches meanwhile whether the client takes what it was
    /// written last; `None` when nothing will come any more.
    fn next(&mut self) -> Result<Option<Outgoing>, CloseReason> {
        while !self.in_flight.is_empty() {
            let settle = Instant::now() + SETTLE;
            let until = self.stall.next_look().map_or(settle, |look| settle.min(look));
            match self.inbox.recv_deadline(until) {
                Ok(outgoing) => return Ok(Some(outgoing)),
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
                Err(RecvTimeoutError::Timeout) => {
                    self.settle();
                    self.watch()?;
                }
            }
        }
        Ok(self.inbox.recv().ok())
    }

    fn take_all(&mut self) {
        while let Ok(outgoing) = self.inbox.try_recv() {
            self.take(outgoing);
        }
    }

    fn take(&mut self, outgoing: Outgoing) {
        let queued = self.queue.len();
        match outgoing {
            Outgoing::One(due) => self.queue.push_back(due),
            Outgoing::Many(due) => self.queue.extend(due),
            Outgoing::Last(mut goodbye) => {
                self.queue
                    .extend(goodbye.text.take().map(|text| Due::Piece(Piece::from_text(text))));
                self.goodbye = Some(goodbye);
            }
        }
        self.owed += self.queue.range(queued..).map(Due::messages).sum::<u64>();
    }

    /// Writes the queue, waiting for a slow client as long as the limits allow.
    ///
    /// A byte now and then does not count as progress: who takes less than the quota holds up
    /// everybody who has sent to it.
    fn write_queue(&mut self) -> Result<(), CloseReason> {
        while !self.queue.is_empty() {
            if self.write_some()? > 0 {
                check_drain(&self.shared)?;
                // What came meanwhile can go out with the rest.
                self.take_all();
            } else {
                let (events, until) = (Some(PollFlags::OUT), self.stall.next_look());
                wait(&self.connection, &self.shared, events, until)?;
            }
            self.watch()?;
        }
        if self.queue.capacity() > QUEUE_KEPT {
            self.queue = VecDeque::new();
        }
        Ok(())
    }

    /// Watches whether the client takes enough of what is due to it.
    fn watch(&mut self) -> Result<(), CloseReason> {
        let now = Instant::now();
        if !self.stall.is_due(now) {
            return Ok(());
        }
        let acknowledged = self.written_bytes.saturating_sub(self.connection.unacknowledged());
        let quota = self.next_quota(acknowledged);
        self.stall.look(acknowledged, quota, now)
    }

    /// What a client that has taken so much has to have taken when the next stall time-out is
    /// over: the quota more, or all that is due to it if that is less.
    fn next_quota(&self, acknowledged: u64) -> u64 {
        let enough = acknowledged.saturating_add(self.shared.config.stall_bytes as u64);
        // Where its stream will end, as far as that matters: mostly the kernel alone has enough.
        let mut end = self.written_bytes - u64::from(self.written_of_first);
        for piece in self.queue.iter().filter_map(Due::as_piece) {
            if end >= enough {
                break;
            }
            end += piece.bytes().len() as u64;
        }
        end.max(self.written_bytes).min(enough)
    }

    /// Writes once, what the socket takes of the queue. Returns how many bytes that were.
    fn write_some(&mut self) -> Result<usize, CloseReason> {
        self.spell_out_refusals();
        #[cfg(test)]
        if let Some(first) = self.pieces().next() {
            crate::fault::point("panic-writer", first.bytes());
        }
        let small = self.gather_small();
        let written = if small.is_empty() {
            self.write_pieces()
        } else {
            self.connection.write(&[IoSlice::new(&small)])
        };
        let written = written.map_err(|error| CloseReason::broken(&error))?;
        self.note_written(written);
        Ok(written)
    }

    /// What is next to write, up to the first answers that are not spelled out.
    fn pieces(&self) -> impl Iterator<Item = &Piece> {
        self.queue.iter().map_while(Due::as_piece)
    }

    /// The small pieces that are next, copied together; nothing if there are not two of them.
    fn gather_small(&self) -> Vec<u8> {
        let is_small = |piece: &&Piece| piece.bytes().len() <= SMALL;
        let mut gathered = Vec::new();
        if self.pieces().take(2).filter(is_small).count() == 2 {
            gathered.reserve(2 * SMALL);
            for piece in self.pieces().take_while(is_small) {
                gathered.extend_from_slice(piece.bytes());
                if gathered.len() >= GATHERED {
                    break;
                }
            }
            gathered.drain(..self.written_of_first as usize);
        }
        gathered
    }

    /// Writes the pieces that are next from where they are.
    fn write_pieces(&self) -> io::Result<usize> {
        let mut parts = [IoSlice::new(&[]); PARTS];
        let mut count = 0;
        for (part, piece) in parts.iter_mut().zip(self.pieces()) {
            *part = IoSlice::new(piece.bytes());
            count += 1;
        }
        let mut unwritten = &mut parts[..count];
        IoSlice::advance_slices(&mut unwritten, self.written_of_first as usize);
        self.connection.write(unwritten)
    }

    /// Makes pieces of the answers whose turn it is: of short ones wherever they stand among the
    /// next parts, of long ones when they are first.
    fn spell_out_refusals(&mut self) {
        for due in self.queue.iter_mut().take(PARTS) {
            match due {
                Due::Refusals(refusals) if refusals.are_short() => {
                    *due = Due::Piece(refusals.next_piece());
                }
                Due::Refusals(_) => break,
                Due::Piece(_) => {}
            }
        }
        if let Some(Due::Refusals(refusals)) = self.queue.front_mut() {
            let piece = refusals.next_piece();
            self.queue.push_front(Due::Piece(piece));
        }
    }

    /// Moves what `written` more bytes complete from the queue to what is in flight.
    fn note_written(&mut self, written: usize) {
        self.written_bytes += written as u64;
        let mut rest = self.written_of_first as usize + written;
        let mut messages = 0;
        while let Some(piece) = self.queue.front().and_then(Due::as_piece) {
            let length = piece.bytes().len();
            if rest < length {
                break;
            }
            rest -= length;
            messages += u64::from(piece.messages);
            self.in_flight.push(piece);
            self.queue.pop_front();
        }
        self.written_of_first = u32::try_from(rest).unwrap_or(u32::MAX);
        self.written += messages;
        self.shared.counters.delivered.add(messages);
        if self.in_flight.wants_settling() {
            self.settle();
        }
    }

    /// Forgets the messages that the peer's kernel has acknowledged meanwhile.
    fn settle(&mut self) {
        let unacknowledged = self.connection.unacknowledged();
        self.in_flight.settle(unacknowledged.saturating_sub(u64::from(self.written_of_first)));
    }

    /// Sends FIN and stays until nothing is on its way any more.
    fn part(&mut self) -> Result<(), CloseReason> {
        self.connection.finish_writing();
        linger(&self.connection, &self.shared)
    }

    /// Tells a stalled client why it is evicted, should it read again within the linger time: the
    /// message that it was in the middle of, then the reason, then the end. The rest is lost.
    fn say_why_evicted(&mut self) {
        self.connection.make_room();
        self.queue.truncate(usize::from(self.written_of_first > 0));
        if let Some(Due::Piece(begun)) = self.queue.front_mut() {
            begun.cut_after_line_of(self.written_of_first);
        }
        self.queue.push_back(Due::Piece(Piece::from_text(Rejection::Evicted.line().into())));
        let until = Instant::now().checked_add(self.shared.config.linger);
        let mut pause = AckPoll::default();
        while self.queue.is_empty() || self.write_some().is_ok() {
            if self.queue.is_empty() {
                self.connection.finish_writing();
            }
            let over = has_passed(until);
            if over || self.queue.is_empty() && self.connection.unacknowledged() == 0 {
                break;
            }
            let waited = wait(&self.connection, &self.shared, None, pause.next());
            if let Err(CloseReason::Deadline | CloseReason::Forced) = waited {
                break;
            }
            // The senders get their room back at once, not when this client is gone.
            let kept = self.queue.len();
            self.take_all();
            self.queue.truncate(kept);
        }
    }

    /// Drops what is queued and gives the senders their room back. What of it was written already
    /// counts as in flight.
    fn drop_queue(&mut self) {
        let first = self.queue.front().and_then(Due::as_piece);
        if let Some(first) = first.filter(|_| self.written_of_first > 0) {
            self.in_flight.push_part(first, self.written_of_first);
        }
        self.written_of_first = 0;
        self.queue.clear();
    }

    /// Settles what was written and what was queued, once and for all: what is not acknowledged by
    /// now is lost. Returns the messages delivered and the bytes not acknowledged.
    fn settle_for_good(&mut self) -> (u64, u64) {
        self.drop_queue();
        let unacknowledged = self.connection.unacknowledged();
        let delivered = self.in_flight.finish(unacknowledged);
        self.shared.counters.delivered.sub(self.written);
        self.shared.counters.delivered.add(delivered);
        self.shared.counters.lost.add(self.owed - delivered);
        (delivered, unacknowledged)
    }

    /// Takes what still comes as lost, until the broker has dropped the queue's sender.
    fn outlast_inbox(&mut self) {
        while let Ok(outgoing) = self.inbox.recv() {
            let owed = self.owed;
            self.take(outgoing);
            self.shared.counters.lost.add(self.owed - owed);
            self.queue.clear();
        }
    }
}
