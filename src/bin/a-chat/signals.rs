//! The signals that ask a process to end. They are handled on a thread that lasts as long as the
//! process does.

use std::time::{Duration, Instant};

/// How soon after the first signal another one belongs to it. A shell that closes sends SIGHUP
/// twice, others send SIGTERM and SIGHUP together; nobody who presses Ctrl-C a second time because
/// the first did not do is that fast.
pub(crate) const DEBOUNCE: Duration = Duration::from_millis(500);

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ShutdownSignal {
    /// To end.
    First,
    /// The same that the first has asked for.
    Duplicate,
    /// To end at once.
    Force,
}

/// Has `handle` called for every SIGINT, SIGTERM and SIGHUP from now on.
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
        // Its own text keeps the cause to itself.
        ctrlc::Error::System(error) => format!("cannot wait for signals: {error}"),
        error => format!("cannot wait for signals: {error}"),
    })
}
