//! The writer thread, one per logged-in client. It owns that client's outbound queue, and exits
//! when the broker has dropped the queue's sender and the client has acknowledged everything.
//!
//! It writes everything queued with one call, counts messages written and acknowledged, and after
//! the last one sends FIN and lingers, so nothing in flight is discarded. If the client fails or is
//! evicted, it keeps receiving only to count what is lost.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use rustix::event::PollFlags;

use crate::server::context::Shared;
use crate::server::delivery::backlog::Backlog;
use crate::server::delivery::in_flight::InFlight;
use crate::server::delivery::losses::Losses;
#[cfg(feature = "cluster")]
use crate::server::delivery::marks::EVERYONE;
use crate::server::delivery::marks::{Departed, MAX_LOOK_INTERVAL, Marker, Marks, Unsettled};
use crate::server::delivery::pending::{FrameSlice, Pending};
use crate::server::linger::{AckPoll, check_drain_deadline, linger, wait};
use crate::server::report::CloseReason;
use crate::server::scheduling::YieldingReceiver;
use crate::server::shutdown::is_past;
use crate::server::timeout::StallDetector;
use crate::socket::connection::{Connection, ConnectionId};
use crate::socket::position::Plain;
use crate::wire::reasons::Rejection;

/// How long written messages may remain unsettled while there is nothing to write.
const SETTLE_INTERVAL: Duration = Duration::from_millis(500);

/// How often, at most, a writer looks at the window that its client's kernel offers, while it writes.
/// The window is largest just after the client has read everything, so one look is not enough.
const WINDOW_INTERVAL: Duration = Duration::from_millis(25);

/// How much must be written between two such looks. A kernel opens its window further only for what it
/// receives, and a client that gets a short message now and then is not worth a call for each.
const WINDOW_BYTES: u64 = 2048;

/// As long as no client has ever sent a `/sync`, a writer that waits for its client looks into its
/// queue this seldom: the first one may find it in the middle of such a wait.
const UNASKED_LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// What the broker queues for a client.
#[derive(Debug)]
pub(crate) enum Outgoing {
    One(Pending),
    Many(Vec<Pending>),
    /// The same, and then markers. Boxed as the following is.
    Marked(Box<(Vec<Pending>, Vec<Marker>)>),
    /// The last entry. Boxed because every entry is as large as the largest variant, and an idle
    /// client's queue has space for dozens.
    Close(Box<Close>),
}

/// Why and how a client's connection is closed.
#[derive(Debug)]
pub(crate) struct Close {
    pub(crate) reason: CloseReason,
    /// How many of the client's lines were accepted.
    pub(crate) accepted: u64,
    /// A final line for the client, including its line end.
    pub(crate) text: Option<Vec<u8>>,
    /// Where markers for a client go that has left while its writer still delivers.
    pub(crate) departed: Option<Arc<Departed>>,
}

/// A writer's result, from which its reader makes the connection's record.
#[derive(Debug)]
pub(crate) struct WriterExit {
    pub(crate) reason: CloseReason,
    pub(crate) accepted: u64,
    /// Messages acknowledged by the peer's kernel up to their last byte.
    pub(crate) delivered: u64,
    pub(crate) lost: u64,
    /// Of those lost, the ones that were wholly written.
    pub(crate) lost_written: u64,
    /// Bytes written and not acknowledged; the last of the `lost` messages are among them.
    pub(crate) unacknowledged: u64,
    /// Whether the connection failed after shutdown had begun.
    pub(crate) in_drain: bool,
    /// Whether its client had left before the connection failed.
    pub(crate) had_left: bool,
    /// `None` if nothing is lost and nobody asks. Boxed because the thread's result has its place
    /// from the start, even if the client is idle.
    pub(crate) account: Option<Box<Account>>,
}

/// What the senders are to learn of a connection that has ended.
#[derive(Debug)]
pub(crate) struct Account {
    /// Whose messages are lost. After a panic it may hold fewer than there are.
    pub(crate) losses: Losses,
    pub(crate) unsettled: Unsettled,
}

impl Outgoing {
    /// Notes everything in it as lost.
    fn lose(&self, losses: &mut Losses) {
        let pending = match self {
            Self::One(pending) => std::slice::from_ref(pending),
            Self::Many(pending) => pending,
            Self::Marked(marked) => &marked.0,
            Self::Close(_) => &[],
        };
        pending.iter().filter_map(Pending::as_slice).for_each(|slice| slice.lose_rest(0, losses));
    }

    fn messages(&self) -> u64 {
        match self {
            Self::One(pending) => pending.messages(),
            Self::Many(pending) => pending.iter().map(Pending::messages).sum(),
            Self::Marked(marked) => marked.0.iter().map(Pending::messages).sum(),
            Self::Close(_) => 0,
        }
    }
}

impl WriterExit {
    /// For a connection to which no message was ever owed.
    pub(crate) fn without_deliveries(reason: CloseReason) -> Self {
        Self {
            reason,
            accepted: 0,
            delivered: 0,
            lost: 0,
            lost_written: 0,
            unacknowledged: 0,
            in_drain: false,
            had_left: false,
            account: None,
        }
    }
}

/// The thread's state.
#[derive(Debug)]
pub(crate) struct Writer {
    connection: Arc<Connection>,
    inbox: YieldingReceiver<Outgoing>,
    shared: Arc<Shared>,
    backlog: Backlog,
    in_flight: InFlight,
    stall: StallDetector,
    /// When to look again how large a window the client's kernel offers.
    next_window_look: Instant,
    /// But not before this much is written.
    window_look_from: u64,
    /// Messages taken from the inbox: delivered, queued or lost.
    owed: u64,
    /// Messages acknowledged to the last byte, as counted in the live counters.
    delivered: u64,
    /// Messages written to the last byte.
    written: u64,
    /// Bytes written to the client's stream.
    written_bytes: u64,
    /// Whether the failure counts as part of the drain, if that was decided before the thread's
    /// end.
    in_drain: Option<bool>,
    close: Option<Box<Close>>,
    /// What is known to be lost.
    losses: Losses,
    marks: Marks,
    /// Markers that came too late to be placed.
    unplaced: Vec<Marker>,
}

impl Writer {
    /// On the heap, and never inlined, so that the thread's stack fits in two pages.
    #[inline(never)]
    pub(crate) fn new(
        connection: Arc<Connection>,
        inbox: Receiver<Outgoing>,
        shared: Arc<Shared>,
    ) -> Box<Self> {
        let stall = StallDetector::new(shared.config.stall_timeout, shared.config.stall_bytes);
        Box::new(Self {
            connection,
            inbox: YieldingReceiver::new(inbox),
            shared,
            backlog: Backlog::default(),
            in_flight: InFlight::default(),
            stall,
            next_window_look: Instant::now(),
            window_look_from: 0,
            owed: 0,
            delivered: 0,
            written: 0,
            written_bytes: 0,
            in_drain: None,
            close: None,
            losses: Losses::default(),
            marks: Marks::default(),
            unplaced: Vec::new(),
        })
    }

    /// The thread: delivers until the queue is disconnected, and accounts for every message.
    pub(crate) fn run(mut self: Box<Self>) -> WriterExit {
        let served = catch_unwind(AssertUnwindSafe(|| self.serve()));
        let failure = served.unwrap_or(Err(CloseReason::Panicked)).err();
        self.account(failure)
    }

    /// Closes the connection and accounts for every message. Never inlined, since its frame would lie
    /// beneath those of the loop.
    #[inline(never)]
    fn account(mut self: Box<Self>, failure: Option<CloseReason>) -> WriterExit {
        let in_drain = self.in_drain.unwrap_or_else(|| self.shared.shutdown.is_shutdown());
        // The numbers come before the close: bytes acknowledged in between then count as lost,
        // which errs on the safe side.
        let (delivered, unacknowledged) = self.settle_final();
        // Before the abort, which looks like an end of file to the reader.
        let had_left = self.connection.has_left();
        match failure {
            Some(_) => self.connection.abort(),
            // It closes the connection when the client has.
            None if self.connection.reader_lingers() => {}
            None => self.connection.close(),
        }
        // Closing the socket woke the reader, whose `Leave` makes the broker drop this queue.
        self.discard_until_disconnected();
        let Self { owed, written, close, losses, marks, unplaced, .. } = *self;
        let lost = owed - delivered;
        let (reason, accepted) = match close {
            Some(close) => (failure.unwrap_or(close.reason), close.accepted),
            None => (CloseReason::ServerFailed, 0),
        };
        let lost_written = written - delivered;
        debug_assert!(losses.total() == lost || failure == Some(CloseReason::Panicked));
        let unsettled = marks.into_unsettled(unplaced);
        let is_needed = lost > 0 || !unsettled.is_empty();
        let account = is_needed.then(|| Box::new(Account { losses, unsettled }));
        WriterExit {
            reason,
            accepted,
            delivered,
            lost,
            lost_written,
            unacknowledged,
            in_drain,
            had_left,
            account,
        }
    }

    fn serve(&mut self) -> Result<(), CloseReason> {
        let delivered = self.deliver_all();
        if delivered == Err(CloseReason::Evicted) {
            self.in_drain = Some(self.shared.shutdown.is_shutdown());
            self.shared.counters.evicted.add(1);
            self.send_eviction_error();
        }
        delivered.and_then(|()| self.close_gracefully())
    }

    /// Delivers until the broker has dropped the queue's sender and everything is written.
    fn deliver_all(&mut self) -> Result<(), CloseReason> {
        while let Some(outgoing) = self.next()? {
            self.enqueue(outgoing);
            self.enqueue_ready();
            self.write_backlog()?;
        }
        Ok(())
    }

    /// Waits for something to write, and meanwhile watches whether the client acknowledges what was
    /// written; `None` once the queue is disconnected.
    fn next(&mut self) -> Result<Option<Outgoing>, CloseReason> {
        while !self.in_flight.is_empty() {
            let settle_at = Instant::now() + SETTLE_INTERVAL;
            let checks = self.stall.next_check().into_iter().chain(self.marks.next_look());
            let deadline = checks.fold(settle_at, Instant::min);
            match self.inbox.next(Some(deadline), &self.shared.turns) {
                Ok(outgoing) => return Ok(Some(outgoing)),
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
                Err(RecvTimeoutError::Timeout) => {
                    self.settle();
                    self.check_stall()?;
                }
            }
        }
        let outgoing = self.inbox.next(None, &self.shared.turns).ok();
        self.stall.restart(self.connection.wire_end(self.written()).0, Instant::now());
        Ok(outgoing)
    }

    fn enqueue_ready(&mut self) {
        while let Some(outgoing) = self.inbox.try_next() {
            self.enqueue(outgoing);
        }
    }

    fn enqueue(&mut self, outgoing: Outgoing) {
        self.owed += outgoing.messages();
        match outgoing {
            Outgoing::One(pending) => self.backlog.push(pending),
            Outgoing::Many(pending) => self.backlog.push_all(pending),
            Outgoing::Marked(marked) => {
                let (pending, markers) = *marked;
                self.backlog.push_all(pending);
                for marker in markers {
                    let Self { marks, backlog, in_flight, owed, .. } = self;
                    marks.place(marker, |of| position(backlog, in_flight, *owed, of));
                }
            }
            Outgoing::Close(mut close) => {
                if let Some(departed) = close.departed.take() {
                    self.marks.depart(departed);
                }
                if let Some(text) = close.text.take() {
                    self.backlog.push(Pending::FrameSlice(FrameSlice::from_text(text)));
                }
                self.close = Some(close);
            }
        }
    }

    /// Counts an entry that will not be written, and releases its senders' window charges.
    fn discard(&mut self, outgoing: Outgoing) {
        self.owed += outgoing.messages();
        outgoing.lose(&mut self.losses);
        match outgoing {
            Outgoing::One(_) | Outgoing::Many(_) => {}
            Outgoing::Marked(marked) => self.unplaced.extend(marked.1),
            Outgoing::Close(mut close) => {
                if let Some(departed) = close.departed.take() {
                    self.marks.depart(departed);
                }
                self.close = Some(close);
            }
        }
    }

    /// Writes the backlog, waiting for a slow client as long as the limits allow.
    ///
    /// A byte now and then does not count as progress: a client that acknowledges less than its
    /// quota holds up every client that sends to it.
    fn write_backlog(&mut self) -> Result<(), CloseReason> {
        let mut ack_poll = AckPoll::default();
        while !self.backlog.is_empty() || self.connection.has_pending() {
            if self.in_flight.is_full() {
                self.settle();
            }
            if self.in_flight.is_full() {
                // The kernel has no event for an acknowledgement.
                wait(&self.connection, &self.shared, None, ack_poll.next())?;
                // Markers come through the queue, which nobody looks at meanwhile.
                self.enqueue_ready();
            } else if self.write_once()? > 0 {
                ack_poll = AckPoll::default();
                check_drain_deadline(&self.shared)?;
                // Whatever arrived meanwhile can go out with the rest.
                self.enqueue_ready();
            } else if self.backlog.is_empty() && !self.connection.has_pending() {
                break;
            } else {
                let asked = self.shared.counters.syncs.get() > 0;
                let interval = if asked { MAX_LOOK_INTERVAL } else { UNASKED_LOOK_INTERVAL };
                let look = Some(Instant::now() + interval);
                let checks = [self.stall.next_check(), self.marks.next_look(), look];
                let until = checks.into_iter().flatten().min();
                wait(&self.connection, &self.shared, Some(PollFlags::OUT), until)?;
                self.enqueue_ready();
            }
            if self.marks.next_look().is_some_and(|look| Instant::now() >= look) {
                self.settle();
            }
            self.check_stall()?;
        }
        Ok(())
    }

    /// Checks whether the client acknowledges enough of what is pending for it.
    fn check_stall(&mut self) -> Result<(), CloseReason> {
        let now = Instant::now();
        if now >= self.next_window_look && self.written_bytes >= self.window_look_from {
            self.next_window_look = now + WINDOW_INTERVAL;
            self.window_look_from = self.written_bytes + WINDOW_BYTES;
            self.stall.note_window(self.connection.offered_window().map_or(u64::MAX, u64::from));
        }
        if !self.stall.check_due(now) {
            return Ok(());
        }
        let acknowledged = self.connection.acknowledged(self.written()).wire.0;
        self.stall.check(acknowledged, self.pending_end(acknowledged), now)
    }

    fn written(&self) -> Plain {
        Plain(self.written_bytes)
    }

    /// Where the bytes on the network will end, at least, when everything pending is written, as far
    /// as that matters to a client that has acknowledged this much of them.
    fn pending_end(&self, acknowledged: u64) -> u64 {
        let horizon = acknowledged.saturating_add(self.stall.horizon());
        let end_written = self.connection.wire_end(self.written()).0;
        let queued_from = end_written - u64::from(self.backlog.head_written());
        let end = queued_from + self.backlog.len_capped(horizon.saturating_sub(queued_from));
        end.max(end_written).min(horizon)
    }

    /// Writes as much of the backlog as the socket accepts, with one call. Returns the number of
    /// bytes.
    fn write_once(&mut self) -> Result<usize, CloseReason> {
        let written = self.backlog.write(&self.connection);
        let written = written.map_err(|error| CloseReason::broken(&error))?;
        self.written_bytes += written as u64;
        if self.in_flight.wants_settling(written) {
            self.settle();
        }
        let messages = self.backlog.advance(written, &mut self.in_flight);
        self.count_written(messages);
        if self.in_flight.is_empty() {
            // All of it is acknowledged already, and nothing else will ask.
            self.note_acknowledged();
        }
        Ok(written)
    }

    /// Counts messages written to the last byte, also in the live counters.
    fn count_written(&mut self, messages: u64) {
        self.written += messages;
        self.shared.counters.written.add(messages);
    }

    /// Forgets messages that the peer's kernel has acknowledged.
    fn settle(&mut self) {
        self.in_flight.settle(self.connection.acknowledged(self.written()).plain.0);
        self.note_acknowledged();
    }

    /// Counts the messages that are acknowledged, and settles the marks that are reached by them.
    fn note_acknowledged(&mut self) {
        self.count_delivered(self.in_flight.acknowledged());
        if !self.marks.is_empty() {
            let Self { marks, backlog, in_flight, owed, .. } = self;
            marks.collect(|of| position(backlog, in_flight, *owed, of));
            marks.settle(in_flight.acknowledged_exactly());
        }
    }

    /// Counts all messages delivered so far in the live counters.
    fn count_delivered(&mut self, delivered: u64) {
        self.shared.counters.delivered.add(delivered - self.delivered);
        self.delivered = delivered;
    }

    /// Sends FIN and stays until nothing is in flight.
    fn close_gracefully(&mut self) -> Result<(), CloseReason> {
        self.connection.shutdown_write();
        let Self { connection, shared, stall, marks, backlog, in_flight, .. } = self;
        let (owed, written) = (self.owed, Plain(self.written_bytes));
        linger(connection, shared, stall, |is_all_acknowledged| {
            if is_all_acknowledged {
                // The client may take its time to close, and nobody waits for that.
                marks.finish();
            } else if !marks.is_empty() {
                // How many bytes are unacknowledged does not say it: of a record that has arrived in
                // part the client can read nothing.
                in_flight.settle(connection.acknowledged(written).plain.0);
                marks.collect(|of| position(backlog, in_flight, owed, of));
                marks.settle(in_flight.acknowledged_exactly());
            }
        })
    }

    /// Sends a stalled client the reason for its eviction, in case it reads again within the linger
    /// time: the rest of a partly written message, then the error, then FIN. Everything else is
    /// lost.
    fn send_eviction_error(&mut self) {
        self.connection.lift_send_limits();
        self.backlog.truncate_and_append(Rejection::Evicted.line().into(), &mut self.losses);
        let deadline = Instant::now().checked_add(self.shared.config.linger);
        let mut ack_poll = AckPoll::default();
        while self.backlog.is_empty() || self.write_once().is_ok() {
            if self.backlog.is_empty() {
                self.connection.shutdown_write();
            }
            let expired = is_past(deadline);
            if expired || self.backlog.is_empty() && self.connection.unacknowledged() == 0 {
                break;
            }
            let outcome = wait(&self.connection, &self.shared, None, ack_poll.next());
            if outcome.is_err() {
                break;
            }
            while let Some(outgoing) = self.inbox.try_next() {
                self.discard(outgoing);
            }
        }
    }

    /// Settles everything written and queued for the last time: what is not acknowledged by now is
    /// lost. Returns the messages delivered and the bytes not acknowledged.
    fn settle_final(&mut self) -> (u64, u64) {
        let whole = self.backlog.abandon(&mut self.in_flight, &mut self.losses);
        self.count_written(whole);
        let acknowledged = self.connection.acknowledged(self.written()).plain.0;
        let unacknowledged = self.written_bytes.saturating_sub(acknowledged);
        let delivered = self.in_flight.finish(acknowledged, &mut self.losses);
        self.count_delivered(delivered);
        self.shared.counters.lost.add(self.owed - delivered);
        (delivered, unacknowledged)
    }

    /// Counts everything that still arrives as lost, until the broker has dropped the queue's
    /// sender.
    fn discard_until_disconnected(&mut self) {
        while let Some(outgoing) = self.inbox.next_of_the_rest() {
            let owed = self.owed;
            self.discard(outgoing);
            self.shared.counters.lost.add(self.owed - owed);
        }
    }
}

/// Which of a client's messages is the last of this sender's that may not have arrived, counted over
/// all `owed` ones.
fn position(
    backlog: &Backlog,
    in_flight: &InFlight,
    owed: u64,
    sender: ConnectionId,
) -> Option<u64> {
    #[cfg(feature = "cluster")]
    if sender == EVERYONE {
        return (!backlog.is_empty() || !in_flight.is_empty()).then_some(owed);
    }
    let queued = backlog.behind_last_of(sender).map(|behind| owed - behind);
    queued.or_else(|| in_flight.last_of(sender))
}
