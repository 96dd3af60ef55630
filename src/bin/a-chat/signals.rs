//! The signals that ask the process to exit. They are handled on a thread of their own, which lasts
//! until the process exits.

use std::time::{Duration, Instant};

/// Signals within this time of the first one count as the same request. A shell that closes sends
/// SIGHUP twice, and others send SIGTERM and SIGHUP together; a person who presses Ctrl-C again
/// because the first one had no visible effect is slower.
pub(crate) const DEBOUNCE: Duration = Duration::from_millis(500);

/// The meaning of a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ShutdownSignal {
    /// Exit.
    First,
    /// The same request as the first.
    Duplicate,
    /// Exit at once.
    Force,
}

/// Calls `handle` on every SIGINT, SIGTERM and SIGHUP from now on.
pub(crate) fn on_request(
    mut handle: impl FnMut(ShutdownSignal) + Send + 'static,
) -> Result<(), String> {
    let mut first: Option<Instant> = None;
    ctrlc::set_handler(move || {
        handle(match first {
            None => ShutdownSignal::First,
            Some(first) if first.elapsed() < DEBOUNCE => ShutdownSignal::Duplicate,
            Some(_) => ShutdownSignal::Force,
        });
        first.get_or_insert_with(Instant::now);
    })
    .map_err(|error| match error {
        // Its own text omits the cause.
        ctrlc::Error::System(error) => format!("cannot wait for signals: {error}"),
        error => format!("cannot wait for signals: {error}"),
    })
}
