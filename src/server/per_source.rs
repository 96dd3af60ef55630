//! Per-source connection limit. Plain state, owned by the acceptor.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use foldhash::fast::RandomState;

use crate::socket::peer::Peer;

/// What counts as one source: an IPv4 address, or the first 64 bits of an IPv6 address, since a
/// host that has one address with this prefix can use all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SourcePrefix(IpAddr);

impl SourcePrefix {
    /// `None` for a client of this host's Unix sockets, which no address stands for.
    pub(crate) fn of(peer: Peer) -> Option<Self> {
        match peer {
            Peer::Tcp(address) => Some(Self::of_address(address)),
            Peer::Unix(_) => None,
        }
    }

    fn of_address(address: SocketAddr) -> Self {
        match address.ip().to_canonical() {
            IpAddr::V6(ip) => Self(Ipv6Addr::from_bits(ip.to_bits() & (u128::MAX << 64)).into()),
            ip @ IpAddr::V4(_) => Self(ip),
        }
    }
}

/// Counts connected clients by source, up to a limit.
#[derive(Debug)]
pub(crate) struct PerSourceLimit {
    /// `None` means no limit, and then nothing is counted.
    limit: Option<usize>,
    /// Sources without clients are removed, so the map grows no larger than the number of clients.
    connected: HashMap<SourcePrefix, usize, RandomState>,
}

impl PerSourceLimit {
    pub(crate) fn new(limit: Option<usize>) -> Self {
        Self { limit, connected: HashMap::default() }
    }

    /// Whether a further client from this source must be refused.
    pub(crate) fn is_full(&self, source: Option<SourcePrefix>) -> bool {
        let connected = |source| self.connected.get(&source).copied().unwrap_or(0);
        self.limit.zip(source).is_some_and(|(limit, source)| connected(source) >= limit)
    }

    pub(crate) fn add(&mut self, source: Option<SourcePrefix>) {
        if let Some(source) = source.filter(|_| self.limit.is_some()) {
            *self.connected.entry(source).or_default() += 1;
        }
    }

    pub(crate) fn remove(&mut self, source: Option<SourcePrefix>) {
        let Some(source) = source else { return };
        if let Some(connected) = self.connected.get_mut(&source) {
            *connected -= 1;
            if *connected == 0 {
                self.connected.remove(&source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::socket::peer::Credentials;

    fn source(address: &str) -> SourcePrefix {
        SourcePrefix::of_address(SocketAddr::new(address.parse().expect("an address"), 1))
    }

    #[test]
    fn an_ipv4_address_is_one_source_in_either_notation() {
        assert_eq!(source("192.0.2.1"), source("::ffff:192.0.2.1"));
        assert_ne!(source("192.0.2.1"), source("192.0.2.2"));
        assert_ne!(source("::ffff:192.0.2.1"), source("::ffff:192.0.2.2"));
    }

    #[test]
    fn ipv6_addresses_with_the_same_first_64_bits_are_one_source() {
        assert_eq!(source("2001:db8:1:2::1"), source("2001:db8:1:2:ffff:ffff:ffff:ffff"));
        assert_ne!(source("2001:db8:1:2::1"), source("2001:db8:1:3::1"));
        assert_ne!(source("::1"), source("0:0:0:1::1"));
    }

    #[test]
    fn sources_are_counted_up_to_the_limit_and_removed_when_empty() {
        let (one, other) = (Some(source("192.0.2.1")), Some(source("2001:db8::1")));
        let mut per_source = PerSourceLimit::new(Some(2));
        per_source.add(one);
        per_source.add(other);
        assert!(!per_source.is_full(one) && !per_source.is_full(other));
        per_source.add(one);
        assert!(per_source.is_full(one) && !per_source.is_full(other));
        per_source.remove(one);
        assert!(!per_source.is_full(one));
        per_source.remove(one);
        per_source.remove(other);
        assert!(per_source.connected.is_empty());
    }

    #[test]
    fn without_a_limit_nothing_is_counted() {
        let mut per_source = PerSourceLimit::new(None);
        per_source.add(Some(source("192.0.2.1")));
        assert!(per_source.connected.is_empty() && !per_source.is_full(Some(source("192.0.2.1"))));
        per_source.remove(Some(source("192.0.2.1")));
    }

    #[test]
    fn a_client_of_a_unix_socket_has_no_address_to_be_counted_by() {
        let peer = Peer::Unix(Credentials { uid: 0, pid: 1 });
        let mut per_source = PerSourceLimit::new(Some(1));
        per_source.add(SourcePrefix::of(peer));
        assert!(per_source.connected.is_empty() && !per_source.is_full(SourcePrefix::of(peer)));
    }
}
