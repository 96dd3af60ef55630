//! Errors that end a load early.

use std::io;
use std::{error, fmt};

use super::ARRIVAL_TIMEOUT;

/// A failure between the load and the server.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The connection could not be established.
    Connect(io::Error),
    /// The server replied with an error line, whose text this is.
    Refused(String),
    /// The server shut down.
    ShutDown,
    /// The server closed a connection without an error line.
    Closed,
    /// Input that no client of the load sent.
    Unexpected(String),
    /// The server did not reply to a login in time.
    LoginTimeout,
    /// The load was stopped before it measured anything.
    Stopped,
    /// A system call failed.
    Io {
        /// What was attempted.
        what: &'static str,
        /// The system's error.
        source: io::Error,
    },
}

impl Error {
    /// Wraps a system error.
    pub(super) fn io<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::Io { what, source: source.into() }
    }

    /// Wraps an error of a login. Without a TLS handshake there is not even a connection.
    pub(super) fn login(error: io::Error) -> Self {
        #[cfg(feature = "tls")]
        if let Some(cause) = error.get_ref() {
            if cause.is::<crate::client::TlsError>() {
                return Self::Connect(error);
            }
        }
        Self::io("log in")(error)
    }

    /// True if it only says that the connection ended: other clients may know why.
    pub(super) fn is_vague(&self) -> bool {
        matches!(self, Self::Closed | Self::Io { .. })
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(source) => write!(f, "cannot connect: {source}"),
            Self::Refused(text) => write!(f, "the server refused: {text}"),
            Self::ShutDown => f.write_str("the server shut down"),
            Self::Closed => f.write_str("the server closed a connection"),
            Self::Unexpected(text) => write!(f, "not a message of this load: {text:?}"),
            Self::LoginTimeout => write!(f, "no reply to a login within {ARRIVAL_TIMEOUT:?}"),
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
