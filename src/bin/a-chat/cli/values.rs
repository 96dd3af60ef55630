//! The values of flags, and what is said about those that cannot be used. Pure functions.

use std::time::Duration;

use a_chat::{InvalidName, Name};

/// Checks the form alone: only listening on the address shows whether it exists.
pub(super) fn address(text: &str) -> Result<String, &'static str> {
    match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
            Ok(text.to_owned())
        }
        _ => Err("expected an address and a port, as in 127.0.0.1:8080 or [::1]:8080"),
    }
}

pub(super) fn name(text: &str) -> Result<Name, InvalidName> {
    text.parse()
}

/// A plain number of seconds, or a duration with units as the other flags accept it.
pub(super) fn seconds(text: &str) -> Result<Duration, humantime::DurationError> {
    text.parse().map(Duration::from_secs).or_else(|_| humantime::parse_duration(text))
}
