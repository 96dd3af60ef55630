//! What can keep a server from running. No thread runs here.

use std::{fmt, io};

/// Why a server could not be bound or run. What clients do is never one of these.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// A limit in the [`Config`](crate::Config) can not work; the text says which and why.
    Config(&'static str),
    /// The address could not be listened on.
    Bind {
        /// The address as it was tried, or as it was given if it did not resolve.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// The system refused something that the server needs to start.
    Start {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A thread that all clients depend on has panicked. Everything else was joined.
    Panicked {
        /// The thread's name.
        thread: &'static str,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(broken) => write!(f, "invalid configuration: {broken}"),
            Self::Bind { address, source } => write!(f, "cannot listen on {address}: {source}"),
            Self::Start { what, source } => write!(f, "cannot {what}: {source}"),
            Self::Panicked { thread } => write!(f, "the {thread} thread panicked"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Bind { source, .. } | Self::Start { source, .. } => Some(source),
            Self::Config(_) | Self::Panicked { .. } => None,
        }
    }
}
