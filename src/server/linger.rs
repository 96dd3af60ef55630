//! How a connection waits and how it ends, for the thread that writes to it: the writer, or the
//! reader while nobody is logged in. Nothing is owned here.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;

use crate::server::context::Shared;
use crate::server::report::CloseReason;
use crate::server::shutdown::{Phase, is_past};
use crate::server::timeout::StallDetector;
use crate::socket::connection::{Connection, ReadResult};

/// Waits for the socket (if `events` says for what), the next phase, or `until`, but no longer
/// than the drain may last: to reach its end is the failure.
pub(crate) fn wait(
    connection: &Connection,
    shared: &Shared,
    events: Option<PollFlags>,
    until: Option<Instant>,
) -> Result<(), CloseReason> {
    let shutdown = &shared.shutdown;
    let phase = shutdown.phase();
    check_drain_deadline(shared)?;
    let first = [shutdown.deadline(), until].into_iter().flatten().min();
    let socket = events.map(|_| connection.as_fd());
    shutdown
        .wait(socket, events.unwrap_or(PollFlags::empty()), first, phase)
        .map_err(|error| CloseReason::broken(&error))?;
    check_drain_deadline(shared)
}

/// Fails if the drain has to end now.
pub(crate) fn check_drain_deadline(shared: &Shared) -> Result<(), CloseReason> {
    let shutdown = &shared.shutdown;
    match shutdown.phase() {
        Phase::Forced => Err(CloseReason::Forced),
        Phase::Draining if is_past(shutdown.deadline()) => Err(CloseReason::Deadline),
        Phase::Draining | Phase::Running => Ok(()),
    }
}

/// Stays, after FIN was sent, until nothing is on its way any more, so that nothing gets lost.
///
/// A socket that is closed with unread input answers with a reset, and a reset discards what the
/// client has not received yet. So input is thrown away until the client's kernel has acknowledged
/// everything and the client has closed too, or has not done so for the linger time.
pub(crate) fn linger(connection: &Connection, shared: &Shared) -> Result<(), CloseReason> {
    let mut ack_poll = AckPoll::default();
    let mut stall = StallDetector::new(shared.config.stall_timeout);
    let total = connection.unacknowledged();
    let mut all_acknowledged = None;
    loop {
        let client_closed = !matches!(
            connection.discard_input(),
            Ok(ReadResult::Bytes(_) | ReadResult::WouldBlock)
        );
        let disconnected = connection.is_disconnected();
        let unacknowledged = connection.unacknowledged();
        if disconnected || unacknowledged == 0 && client_closed {
            // Also a client that ended with a reset may have received all there was.
            return if unacknowledged == 0 { Ok(()) } else { Err(CloseReason::RESET) };
        }
        let events = (!client_closed).then_some(PollFlags::IN);
        if unacknowledged > 0 {
            wait(connection, shared, events, ack_poll.next())?;
            let (acknowledged, now) = (total.saturating_sub(unacknowledged), Instant::now());
            if stall.check_due(now) {
                // Nobody else waits for it any more: any byte will do.
                stall.check(acknowledged, acknowledged + 1, now)?;
            }
        } else {
            let since = *all_acknowledged.get_or_insert_with(Instant::now);
            let deadline = since.checked_add(shared.config.linger);
            if is_past(deadline) || wait(connection, shared, events, deadline).is_err() {
                return Ok(());
            }
        }
    }
}

/// When to look again whether bytes on their way have arrived, since the kernel has no event for
/// that: soon, then less and less often.
#[derive(Debug, Default)]
pub(crate) struct AckPoll {
    polls: u32,
}

impl AckPoll {
    pub(crate) fn next(&mut self) -> Option<Instant> {
        let interval = Duration::from_millis(1 << self.polls.min(4));
        self.polls += 1;
        Instant::now().checked_add(interval)
    }
}
