//! How a connection waits and how it ends, for the thread that writes to it: the writer, or the
//! reader while nobody is logged in. Nothing is owned here.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;

use crate::connection::{Connection, Input};
use crate::report::CloseReason;
use crate::server::Shared;
use crate::shutdown::{Phase, has_passed};

/// Waits for the socket (if `events` says for what), the next phase, or `until`, but no longer
/// than the limits allow: to reach one is the failure. `last_progress` is when the client last
/// took something.
pub(crate) fn wait(
    connection: &Connection,
    shared: &Shared,
    events: Option<PollFlags>,
    until: Option<Instant>,
    last_progress: Instant,
) -> Result<(), CloseReason> {
    let shutdown = &shared.shutdown;
    let phase = shutdown.phase();
    check_drain(shared)?;
    let stalled = last_progress.checked_add(shared.config.stall_timeout);
    let first = [stalled, shutdown.deadline(), until].into_iter().flatten().min();
    let socket = events.map(|_| connection.as_fd());
    shutdown
        .wait(socket, events.unwrap_or(PollFlags::empty()), first, phase)
        .map_err(|error| CloseReason::broken(&error))?;
    check_drain(shared)?;
    if has_passed(stalled) { Err(CloseReason::Evicted) } else { Ok(()) }
}

/// Fails if the drain has to end now.
pub(crate) fn check_drain(shared: &Shared) -> Result<(), CloseReason> {
    let shutdown = &shared.shutdown;
    match shutdown.phase() {
        Phase::Forced => Err(CloseReason::Forced),
        Phase::Draining if has_passed(shutdown.deadline()) => Err(CloseReason::Deadline),
        Phase::Draining | Phase::Running => Ok(()),
    }
}

/// Stays, after FIN was sent, until nothing is on its way any more, so that nothing gets lost.
///
/// A socket that is closed with unread input answers with a reset, and a reset discards what the
/// client has not received yet. So input is thrown away until the client's kernel has acknowledged
/// everything and the client has closed too, or has not done so for the linger time.
pub(crate) fn linger(connection: &Connection, shared: &Shared) -> Result<(), CloseReason> {
    let mut pause = AckPoll::default();
    let mut last_progress = Instant::now();
    let mut unacknowledged = u64::MAX;
    loop {
        let client_closed =
            !matches!(connection.discard_input(), Ok(Input::Bytes(_) | Input::Empty));
        let gone = connection.is_gone();
        let left = connection.unacknowledged();
        if gone || left == 0 && client_closed {
            // Also a client that ended with a reset may have received all there was.
            return if left == 0 { Ok(()) } else { Err(CloseReason::RESET) };
        }
        if left < unacknowledged {
            (unacknowledged, last_progress) = (left, Instant::now());
        }
        let linger_until = last_progress.checked_add(shared.config.linger);
        if left == 0 && has_passed(linger_until) {
            return Ok(());
        }
        let until = if left == 0 { linger_until } else { pause.next() };
        let events = (!client_closed).then_some(PollFlags::IN);
        match wait(connection, shared, events, until, last_progress) {
            Err(_) if left == 0 => return Ok(()),
            waited => waited?,
        }
    }
}

/// When to look again whether bytes on their way have arrived, since the kernel has no event for
/// that: soon, then less and less often.
#[derive(Debug, Default)]
pub(crate) struct AckPoll {
    looks: u32,
}

impl AckPoll {
    pub(crate) fn next(&mut self) -> Option<Instant> {
        let pause = Duration::from_millis(1 << self.looks.min(4));
        self.looks += 1;
        Instant::now().checked_add(pause)
    }
}
