//! Errors that keep a server from running.

use std::{fmt, io};

use crate::wire::endpoint::Endpoint;

/// Why a server could not be bound or run. Nothing that a client does causes one of these.
///
/// Its text states what was tried; [`source`](std::error::Error::source) is the system's reason.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// A limit in the [`Config`](crate::Config) is out of range; the text states which and why.
    Config(&'static str),
    /// No address could be listened on.
    Bind {
        /// What was tried; `None` if the name given for it has no address.
        endpoint: Option<Endpoint>,
        /// The system's error.
        source: io::Error,
    },
    /// The system refused something that the server needs to start.
    Start {
        /// What was tried.
        what: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// A file that the server needs cannot be used: the text says which, and why.
    File(String),
    /// A certificate or its private key cannot be used; the text states the file and the problem.
    #[cfg(feature = "tls")]
    Tls(String),
    /// The cluster's engine cannot be reached, or refuses. Only with the feature `cluster`.
    Cluster(String),
    /// A thread that every client depends on panicked. All other threads were joined.
    Panicked {
        /// The thread's name.
        thread: &'static str,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(broken) => write!(f, "invalid configuration: {broken}"),
            Self::Bind { endpoint: Some(endpoint), .. } => write!(f, "cannot listen on {endpoint}"),
            Self::Bind { endpoint: None, .. } => f.write_str("cannot find an address to listen on"),
            Self::Start { what, .. } => write!(f, "cannot {what}"),
            Self::File(problem) => f.write_str(problem),
            #[cfg(feature = "tls")]
            Self::Tls(problem) => f.write_str(problem),
            Self::Cluster(why) => write!(f, "cannot join the cluster: {why}"),
            Self::Panicked { thread } => write!(f, "the {thread} thread panicked"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Bind { source, .. } | Self::Start { source, .. } => Some(source),
            Self::Config(_) | Self::File(_) | Self::Cluster(_) | Self::Panicked { .. } => None,
            #[cfg(feature = "tls")]
            Self::Tls(_) => None,
        }
    }
}
