//! How the thread that writes to a connection waits on it, and how it ends it. That thread is the
//! writer, or the reader before login. Plain functions without state.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;

use crate::server::context::Shared;
use crate::server::report::CloseReason;
use crate::server::shutdown::{Phase, is_past};
use crate::server::timeout::StallDetector;
use crate::socket::connection::{Connection, ReadResult};

/// Waits until the socket is ready for `events` (if any), the phase changes, or `until` passes, but
/// no longer than the drain may last: reaching its deadline is an error. Ciphertext that waits for
/// the socket goes out meanwhile.
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
    let events = connection.events(events);
    let socket = events.map(|_| connection.as_fd());
    shutdown
        .wait(socket, events.unwrap_or(PollFlags::empty()), first, phase)
        .and_then(|_| connection.flush())
        .map_err(|error| CloseReason::broken(&error))?;
    check_drain_deadline(shared)
}

/// Fails if the drain must end now.
pub(crate) fn check_drain_deadline(shared: &Shared) -> Result<(), CloseReason> {
    let shutdown = &shared.shutdown;
    match shutdown.phase() {
        Phase::Forced => Err(CloseReason::Forced),
        Phase::Draining if is_past(shutdown.deadline()) => Err(CloseReason::Deadline),
        Phase::Draining | Phase::Running => Ok(()),
    }
}

/// Called after FIN was sent: stays until nothing is in flight, so nothing gets lost.
///
/// Closing a socket with unread input sends a reset, and a reset destroys data that the client has
/// not received yet. So this discards input until the client's kernel has acknowledged everything
/// and the client has closed too, or has failed to do so within the linger time. The latter is left to
/// the client's reader in a drain, which is awake for it anyway ([`Input::discard`]). `observe` is
/// called whenever that was looked up, and told whether everything is acknowledged.
///
/// [`Input::discard`]: crate::server::input::Input::discard
pub(crate) fn linger(
    connection: &Connection,
    shared: &Shared,
    stall: &mut StallDetector,
    mut observe: impl FnMut(bool),
) -> Result<(), CloseReason> {
    let mut ack_poll = AckPoll::default();
    let total = connection.unacknowledged();
    stall.restart(0, Instant::now());
    let mut all_acknowledged = None;
    loop {
        let unacknowledged = connection.unacknowledged();
        if unacknowledged == 0 && connection.reader_lingers() {
            // The reader stays until the client has closed.
            observe(true);
            return Ok(());
        }
        let client_closed = !matches!(
            connection.discard_input(),
            Ok(ReadResult::Bytes(_) | ReadResult::WouldBlock)
        );
        let disconnected = connection.is_disconnected();
        let unacknowledged = connection.unacknowledged();
        observe(unacknowledged == 0);
        if disconnected || unacknowledged == 0 && client_closed {
            // Even a client that ended with a reset may have received everything.
            return if unacknowledged == 0 { Ok(()) } else { Err(CloseReason::RESET) };
        }
        let events = (!client_closed).then_some(PollFlags::IN);
        if unacknowledged > 0 {
            wait(connection, shared, events, ack_poll.next())?;
            let (acknowledged, now) = (total.saturating_sub(unacknowledged), Instant::now());
            if stall.check_due(now) {
                // No sender waits for this client any more, so any progress at all is enough.
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

/// When to check again whether bytes in flight are acknowledged, since the kernel has no event for
/// that: soon at first, then less and less often.
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
