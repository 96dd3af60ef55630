//! A `/sync`, as the reader of its client serves it: it reads no further line until every delivery of
//! the lines before has ended. Plain functions; the waiting is that reader's.

use std::time::{Duration, Instant};

use crate::server::delivery::token::{Settlement, Token};
use crate::server::delivery::window::Permit;
use crate::server::report::CloseReason;
use crate::server::shutdown::ShutdownHandle;
use crate::socket::connection::ConnectionId;
use crate::wire::sync::SyncOutcome;

/// The end of a `/sync`. The broker writes the reply: it knows what its client was told meanwhile.
#[derive(Debug)]
pub(crate) struct Synced {
    pub(crate) id: ConnectionId,
    pub(crate) line: u64,
    pub(crate) outcome: SyncOutcome,
    /// The charge for the line, which covers the reply: nothing is acquired twice.
    pub(crate) permit: Permit,
}

/// Why a wait ended before every share was settled.
enum End {
    TimedOut,
    ShuttingDown,
    Closed(CloseReason),
}

/// Waits until every share of the token is settled, as long as the client may wait.
///
/// A shutdown ends the wait at once: nobody's notice must be delayed by a recipient. So does the end
/// of the client's own connection, whose messages to itself nobody else would settle. `check_client`
/// looks for that, and returns when to look next.
pub(crate) fn await_settlement(
    token: &Token,
    limit: Duration,
    shutdown: &ShutdownHandle,
    mut check_client: impl FnMut() -> Result<Option<Instant>, CloseReason>,
) -> Result<SyncOutcome, CloseReason> {
    let started = Instant::now();
    let deadline = started.checked_add(limit);
    let settlement = token.wait(|| {
        if shutdown.is_shutdown() {
            return Err(End::ShuttingDown);
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Err(End::TimedOut);
        }
        let check = check_client().map_err(End::Closed)?;
        Ok(check.into_iter().chain(deadline).min())
    });
    match settlement {
        Ok(Settlement::Confirmed) => Ok(SyncOutcome::Delivered),
        // Writers that give up settle nothing, and this was seen before the shutdown itself.
        Ok(Settlement::NotConfirmed) if shutdown.is_shutdown() => Ok(SyncOutcome::ShuttingDown),
        // Some thread has failed; how long this took is all that can be said.
        Ok(Settlement::NotConfirmed) => Ok(SyncOutcome::NotInTime(started.elapsed())),
        Err(End::TimedOut) => Ok(SyncOutcome::NotInTime(limit)),
        Err(End::ShuttingDown) => Ok(SyncOutcome::ShuttingDown),
        Err(End::Closed(reason)) => Err(reason),
    }
}
