//! What ends a load before its time. No thread runs here.

use std::io;
use std::{error, fmt};

use super::ARRIVAL_TIMEOUT;

/// What went wrong, between the load and the server.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// There is no connection to be had, says the system.
    Connect(io::Error),
    /// The server has answered with an error of its own, which is this text.
    Refused(String),
    /// The server shuts down.
    ShutDown,
    /// The server has ended a connection without a word.
    Closed,
    /// Something arrived that nobody of the load has sent.
    Foreign(String),
    /// The server has left a client's login without an answer.
    Silent,
    /// The load was told to end before there was anything to measure.
    Stopped,
    /// The system has refused something.
    Io {
        /// What was tried.
        what: &'static str,
        /// What the system says.
        source: io::Error,
    },
}

impl Error {
    /// Makes one of what the system says to an attempt.
    pub(super) fn io<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::Io { what, source: source.into() }
    }

    /// True for what only says that the connection has ended: others may know more.
    pub(super) fn is_vague(&self) -> bool {
        matches!(self, Self::Closed | Self::Io { .. })
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(source) => write!(f, "cannot connect: {source}"),
            Self::Refused(text) => write!(f, "the server refuses: {text}"),
            Self::ShutDown => f.write_str("the server shuts down"),
            Self::Closed => f.write_str("the server has closed a connection"),
            Self::Foreign(text) => write!(f, "not a message of this load: {text:?}"),
            Self::Silent => write!(f, "no answer to a login within {ARRIVAL_TIMEOUT:?}"),
            Self::Stopped => f.write_str("stopped before anything was measured"),
            Self::Io { what, source } => write!(f, "cannot {what}: {source}"),
        }
    }
}

impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::Connect(source) | Self::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}
