//! Who is at the other end of a connection, as the socket tells. Plain value.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// The other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    /// An address; an IPv4 one is always written as such.
    Tcp(SocketAddr),
    /// A process of this host.
    Unix(Credentials),
}

/// The user and the process that connected to a Unix socket, as the kernel saw them at that time.
///
/// Another process may have the socket by now: descriptors can be inherited and passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Credentials {
    pub(crate) uid: u32,
    pub(crate) pid: i32,
}

impl Peer {
    /// A TCP client. A listener for both families reports IPv4 clients by IPv6 addresses.
    pub(crate) fn tcp(address: SocketAddr) -> Self {
        Self::Tcp(SocketAddr::new(address.ip().to_canonical(), address.port()))
    }

    /// The address that others can be recognised by; `None` for a process of this host.
    #[cfg_attr(not(feature = "users"), expect(dead_code, reason = "nobody has to log in"))]
    pub(crate) fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Tcp(address) => Some(address.ip()),
            Self::Unix(_) => None,
        }
    }

    /// True if everything that is sent stays on this host.
    #[cfg_attr(
        not(any(test, feature = "tls", feature = "users")),
        expect(dead_code, reason = "nobody logs in")
    )]
    pub(crate) fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().is_loopback(),
            Self::Unix(_) => true,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(Credentials { uid, pid }) => write!(f, "unix:uid={uid},pid={pid}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_local_if_nothing_leaves_the_host() {
        let tcp = |address: &str| Peer::tcp(SocketAddr::new(address.parse().expect("one"), 7));
        for local in ["127.0.0.1", "127.9.8.7", "::1", "::ffff:127.0.0.1"] {
            assert!(tcp(local).is_local(), "{local}");
        }
        for remote in ["192.0.2.1", "::ffff:192.0.2.1", "2001:db8::1", "fe80::1"] {
            assert!(!tcp(remote).is_local(), "{remote}");
        }
        assert!(Peer::Unix(Credentials { uid: 1000, pid: 42 }).is_local());
    }

    #[test]
    fn a_peer_is_written_without_blanks() {
        let tcp = Peer::tcp(SocketAddr::new("::ffff:192.0.2.1".parse().expect("one"), 7));
        assert_eq!(tcp.to_string(), "192.0.2.1:7");
        let unix = Peer::Unix(Credentials { uid: 1000, pid: 42 });
        assert_eq!(unix.to_string(), "unix:uid=1000,pid=42");
    }
}
