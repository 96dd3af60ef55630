//! Where a server can be reached, as text and as a value. Plain value.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// What the path of a Unix socket follows wherever an address is expected as text.
const UNIX_PREFIX: &str = "unix:";

/// Where a server listens: an address with a port, or the path of a Unix socket.
///
/// As text it is what every command takes: `127.0.0.1:8080`, or `unix:/run/a-chat/a-chat.sock`.
///
/// ```
/// use a_chat::Endpoint;
///
/// let tcp: Endpoint = "127.0.0.1:8080".parse()?;
/// assert_eq!(tcp, Endpoint::Tcp(([127, 0, 0, 1], 8080).into()));
/// let unix: Endpoint = "unix:/run/chat.sock".parse()?;
/// assert_eq!(unix, Endpoint::Unix("/run/chat.sock".into()));
/// assert_eq!(unix.to_string(), "unix:/run/chat.sock");
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Endpoint {
    /// An address and a port.
    Tcp(SocketAddr),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl Endpoint {
    /// The path in a text such as `unix:/run/chat.sock`; `None` if the text stands for something
    /// else, such as a host and a port.
    ///
    /// ```
    /// use std::path::Path;
    ///
    /// use a_chat::Endpoint;
    ///
    /// assert_eq!(Endpoint::unix_path("unix:chat.sock"), Some(Path::new("chat.sock")));
    /// assert_eq!(Endpoint::unix_path("localhost:8080"), None);
    /// ```
    #[must_use]
    pub fn unix_path(text: &str) -> Option<&Path> {
        text.strip_prefix(UNIX_PREFIX).map(Path::new)
    }

    /// The address, unless it is a Unix socket.
    #[must_use]
    pub fn tcp_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

impl FromStr for Endpoint {
    type Err = std::net::AddrParseError;

    /// Parses a numeric address with a port, or a Unix socket's path after `unix:`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match Self::unix_path(text) {
            Some(path) => Ok(Self::Unix(path.to_owned())),
            None => text.parse().map(Self::Tcp),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "{UNIX_PREFIX}{}", path.display()),
        }
    }
}
