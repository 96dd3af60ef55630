//! The receiving side of a connection: runs on its reader's thread, owns the read buffer, and ends
//! with the client's last byte or at the shutdown cutoff.
//!
//! It tries to read before it polls, and polls the socket and the shutdown latch together.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;

use crate::server::context::{Burst, Shared};
use crate::server::per_source::Place;
use crate::server::report::CloseReason;
use crate::server::scheduling::ReaderTurn;
use crate::server::shutdown::{Phase, WaitOutcome, is_past};
use crate::socket::connection::{Connection, ReadResult};
use crate::wire::framing::LineBuffer;

/// How long a client must be idle before its read buffer is freed.
const SHRINK_AFTER: Duration = Duration::from_secs(1);

/// How often, at most, a reader that discards looks whether its writer has ended.
const MIN_LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// What a client has sent, and how much more may be read.
#[derive(Debug)]
pub(crate) struct Input {
    pub(crate) connection: Arc<Connection>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) lines: LineBuffer,
    /// Held for as long as the connection counts among those of its address.
    #[cfg_attr(not(feature = "proxy"), allow(dead_code, reason = "it is only held"))]
    pub(crate) place: Option<Place>,
    /// The last read filled the buffer, so the next one is tried without polling first.
    maybe_readable: bool,
    turn: ReaderTurn,
    /// Set once shutdown is noticed: how much of the input available at that moment is still
    /// unread, in bytes.
    cutoff_remaining: Option<usize>,
    /// Held from when the read buffer is large until the client has been quiet for a while.
    burst: Option<Burst>,
}

/// The result of waiting for input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadOutcome {
    Read,
    /// The client closed its sending side.
    Eof,
    /// Everything available at the start of the shutdown is read, or the time limit for that has
    /// passed.
    Cutoff,
    TimedOut,
}

impl Input {
    pub(crate) fn new(
        connection: Arc<Connection>,
        shared: Arc<Shared>,
        place: Option<Place>,
    ) -> Self {
        let lines = LineBuffer::new(shared.config.max_line);
        Self {
            connection,
            shared,
            lines,
            place,
            maybe_readable: true,
            turn: ReaderTurn::default(),
            cutoff_remaining: None,
            burst: None,
        }
    }

    /// Whether shutdown was noticed, and no more is read than was available then.
    pub(crate) fn is_cut_off(&self) -> bool {
        self.cutoff_remaining.is_some()
    }

    /// Reads available input, waiting until `until` for it; after shutdown, only what was available
    /// then. If it had to wait, it lets other threads run before it reads, where that pays.
    pub(crate) fn fill(&mut self, until: Option<Instant>) -> Result<ReadOutcome, CloseReason> {
        let broken = |error| CloseReason::broken(&error);
        loop {
            let phase = self.shared.shutdown.phase();
            if phase != Phase::Running && self.cutoff_remaining.is_none() {
                self.cutoff_remaining = Some(self.connection.readable_bytes());
                self.maybe_readable = true;
            }
            if self.maybe_readable {
                let mut budget = match self.cutoff_remaining {
                    Some(_) if self.shared.shutdown.cutoff_expired() => 0,
                    Some(remaining) => remaining,
                    None => usize::MAX,
                };
                let spare = self.lines.spare();
                match self.connection.read(spare, &mut budget).map_err(broken)? {
                    ReadResult::Bytes(count) => {
                        self.maybe_readable = self.cutoff_remaining.is_some()
                            || self.connection.maybe_readable(count == spare.len());
                        self.cutoff_remaining = self.cutoff_remaining.map(|_| budget);
                        self.lines.advance(count);
                        self.turn.after_reading(count);
                        return Ok(ReadOutcome::Read);
                    }
                    ReadResult::Eof => return Ok(ReadOutcome::Eof),
                    ReadResult::WouldBlock if self.cutoff_remaining.is_some() => {
                        return Ok(ReadOutcome::Cutoff);
                    }
                    ReadResult::WouldBlock => {}
                }
            }
            let is_large = self.lines.is_large();
            let shrink_at = Instant::now()
                .checked_add(SHRINK_AFTER)
                .filter(|_| is_large || self.burst.is_some());
            if is_large {
                self.burst.get_or_insert_with(|| Burst::begin(&self.shared));
            }
            let deadline = [until, shrink_at].into_iter().flatten().min();
            let socket = Some(self.connection.as_fd());
            let outcome = self.shared.shutdown.wait(socket, PollFlags::IN, deadline, phase);
            self.maybe_readable = true;
            match outcome.map_err(broken)? {
                WaitOutcome::Ready => {
                    self.turn.before_reading(|| self.connection.readable_bytes());
                }
                WaitOutcome::PhaseChanged => {}
                WaitOutcome::TimedOut => {
                    if until.is_some_and(|until| Instant::now() >= until) {
                        return Ok(ReadOutcome::TimedOut);
                    }
                    if is_large {
                        self.lines.shrink();
                    }
                    self.burst = None;
                }
            }
        }
    }

    /// Discards input after the cutoff, and returns once the connection has ended, or its writer has
    /// and the client has not closed within the linger time after that. A client that writes before it
    /// reads thus gets to read what is queued for it.
    ///
    /// The writer leaves it to this thread to wait for the client's end, which both would wake for.
    pub(crate) fn discard(&self) {
        let Self { connection, shared, .. } = self;
        while let Ok(ReadResult::Bytes(_) | ReadResult::WouldBlock) = connection.discard_input() {
            let (shutdown, linger) = (&shared.shutdown, shared.config.linger);
            let (phase, deadline) = (shutdown.phase(), shutdown.deadline());
            let client_must_close = connection.settled_at().map(|at| at.checked_add(linger));
            if phase == Phase::Forced || is_past(deadline) || client_must_close.is_some_and(is_past)
            {
                // If the writer has not ended yet, it does now, and the caller joins it.
                return;
            }
            // Nothing wakes this thread when the writer ends, so it looks.
            let look = || Instant::now().checked_add(linger.max(MIN_LOOK_INTERVAL));
            let until = client_must_close.unwrap_or_else(look);
            let first = [deadline, until].into_iter().flatten().min();
            let socket = Some(connection.as_fd());
            if shutdown.wait(socket, PollFlags::IN, first, phase).is_err() {
                return;
            }
        }
    }
}
