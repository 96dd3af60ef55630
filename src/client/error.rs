//! Why a client could not connect, send or ask.

use std::net::SocketAddr;
use std::{error, fmt, io};

use super::outcome::DisconnectReason;
use crate::wire::endpoint::Endpoint;
use crate::wire::name::Name;
use crate::wire::reasons::RefusalReason;

/// Why a client could not connect and log in.
///
/// `Display` does not repeat what [`source`](error::Error::source) gives: print the whole chain.
#[derive(Debug)]
#[non_exhaustive]
pub enum ConnectError {
    /// No address was found, or none of them could be reached.
    #[non_exhaustive]
    Connect {
        /// The name or address as it was given, where the client was given text.
        host: Option<String>,
        /// The address that was tried last.
        address: Option<Endpoint>,
        /// What the system said.
        source: io::Error,
    },
    /// No encrypted connection came about.
    #[cfg(feature = "tls")]
    #[non_exhaustive]
    Tls {
        /// The server's address.
        address: SocketAddr,
        /// What went wrong.
        source: super::tls::TlsError,
    },
    /// The system refused a thread.
    Start(io::Error),
    /// The connection ended before the login was complete, and before anything was delivered.
    #[non_exhaustive]
    Login {
        /// The name that was to log in.
        name: Name,
        /// How the connection ended.
        reason: DisconnectReason,
    },
    /// The server did not reply to the login in time.
    #[non_exhaustive]
    LoginTimeout {
        /// The name that was to log in.
        name: Name,
        /// The server's address.
        address: Endpoint,
    },
    /// The token would have been sent unencrypted, so no connection was made. See
    /// [`Options::plaintext_token`](super::Options::plaintext_token).
    #[non_exhaustive]
    PlaintextToken {
        /// The server's address.
        address: SocketAddr,
    },
    /// Whatever listens at this address is no server of this kind.
    #[non_exhaustive]
    NotAChat {
        /// Its address.
        address: Endpoint,
        /// The first line that it sent.
        line: String,
    },
    /// The attempt was abandoned, because its time was over or on request.
    #[non_exhaustive]
    Abandoned {
        /// The server's name or address, as it was given.
        host: String,
    },
}

impl ConnectError {
    /// Whether another attempt, later, may work.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Login { reason: DisconnectReason::Rejected(rejection), .. } => {
                rejection.is_temporary()
            }
            Self::NotAChat { .. } | Self::PlaintextToken { .. } => false,
            #[cfg(feature = "tls")]
            Self::Tls { source, .. } => source.is_temporary(),
            _ => true,
        }
    }

    /// Adds the name that the address was looked up by.
    pub(crate) fn with_host(mut self, name: &str) -> Self {
        if let Self::Connect { host, .. } = &mut self {
            *host = Some(name.to_owned());
        }
        self
    }
}

/// How much of a foreign server's line is quoted, in characters.
const QUOTED: usize = 80;

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect { host: Some(host), address: Some(address), .. }
                if *host != address.to_string() =>
            {
                write!(f, "cannot connect to {host} ({address})")
            }
            Self::Connect { address: Some(address), .. } => {
                write!(f, "cannot connect to {address}")
            }
            Self::Connect { host: Some(host), .. } => write!(f, "cannot find {host}"),
            Self::Connect { .. } => f.write_str("cannot find the server's address"),
            #[cfg(feature = "tls")]
            Self::Tls { address, .. } => write!(f, "cannot connect to {address} with TLS"),
            Self::Start(_) => f.write_str("cannot start a thread"),
            Self::Login { name, .. } => write!(f, "cannot log in as {name}"),
            Self::LoginTimeout { name, address } => {
                write!(f, "cannot log in as {name}: {address} does not reply")
            }
            Self::PlaintextToken { address } => {
                write!(
                    f,
                    "the token would be sent unencrypted to {address}, where others can read it"
                )
            }
            Self::NotAChat { address, line } => {
                let quoted: String = line.chars().take(QUOTED).collect();
                let more = if quoted.len() < line.len() { "..." } else { "" };
                write!(f, "{address} is no a-chat server, it said {quoted:?}{more}")
            }
            Self::Abandoned { host } => write!(f, "gave up connecting to {host}"),
        }
    }
}

impl error::Error for ConnectError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::Connect { source, .. } | Self::Start(source) => Some(source),
            #[cfg(feature = "tls")]
            Self::Tls { source, .. } => Some(source),
            Self::Login { reason: DisconnectReason::Rejected(rejection), .. } => Some(rejection),
            Self::Login { reason, .. } => Some(reason),
            Self::LoginTimeout { .. }
            | Self::PlaintextToken { .. }
            | Self::NotAChat { .. }
            | Self::Abandoned { .. } => None,
        }
    }
}

/// Why a line was not sent. It has no number and is in no account: the line is still the caller's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SendError {
    /// The connection has ended. Keep receiving: what is in the inbox was delivered. Then
    /// [`finish`](super::Outbox::finish) reports what became of the lines before this one, which
    /// goes after [`unaccepted`](super::ConnectionOutcome::unaccepted) on the next connection.
    Closed,
    /// This side has half-closed.
    HalfClosed,
    /// There is no room now: the lines on their way are not known to be accepted.
    ///
    /// From [`send`](super::Outbox::send), which waits for room otherwise, it means that waiting is
    /// in vain: the thread that waits is the one that has to empty the full inbox first.
    Full,
    /// It is not a line: it holds a line end, or it lacks one.
    NotALine,
    /// No recipient was given.
    NoRecipient,
}

impl SendError {
    /// Whether no line can be sent on this connection any more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self, Self::Closed | Self::HalfClosed)
    }
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "the connection has ended",
            Self::HalfClosed => "this side has half-closed",
            Self::Full => "too much is on its way and not known to be accepted",
            Self::NotALine => "not one line",
            Self::NoRecipient => "no recipient",
        })
    }
}

impl error::Error for SendError {}

/// Why it is not known which clients are absent.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AbsentError {
    /// The question was not sent, or the connection ended before the reply.
    Send(SendError),
    /// The server refused the question.
    Refused(RefusalReason),
}

impl From<SendError> for AbsentError {
    fn from(error: SendError) -> Self {
        Self::Send(error)
    }
}

impl fmt::Display for AbsentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Send(_) => "cannot ask who is absent",
            Self::Refused(_) => "the server refused to say who is absent",
        })
    }
}

impl error::Error for AbsentError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::Send(error) => Some(error),
            Self::Refused(reason) => Some(reason),
        }
    }
}
