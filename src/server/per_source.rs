//! Where clients come from, and how many from each address are here. No thread runs here; the
//! acceptor owns the counts.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use foldhash::fast::RandomState;

/// What counts as one address: an IPv4 address, or the first 64 bits of an IPv6 address, since
/// whoever has one of the rest has them all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SourcePrefix(IpAddr);

impl SourcePrefix {
    pub(crate) fn of(peer: SocketAddr) -> Self {
        // A listener for both kinds of address is told an IPv4 one inside an IPv6 one.
        match peer.ip().to_canonical() {
            IpAddr::V6(ip) => Self(Ipv6Addr::from_bits(ip.to_bits() & (u128::MAX << 64)).into()),
            ip @ IpAddr::V4(_) => Self(ip),
        }
    }
}

/// How many clients of each source are connected, up to a limit.
#[derive(Debug)]
pub(crate) struct PerSourceLimit {
    /// `None` is no limit, and then nothing is counted.
    limit: Option<usize>,
    /// Holds no source that nobody is here from, so that it grows no larger than the server.
    connected: HashMap<SourcePrefix, usize, RandomState>,
}

impl PerSourceLimit {
    pub(crate) fn new(limit: Option<usize>) -> Self {
        Self { limit, connected: HashMap::default() }
    }

    /// Whether nobody more from there is to be let in.
    pub(crate) fn is_full(&self, source: SourcePrefix) -> bool {
        let connected = || self.connected.get(&source).copied().unwrap_or(0);
        self.limit.is_some_and(|limit| connected() >= limit)
    }

    pub(crate) fn add(&mut self, source: SourcePrefix) {
        if self.limit.is_some() {
            *self.connected.entry(source).or_default() += 1;
        }
    }

    pub(crate) fn remove(&mut self, source: SourcePrefix) {
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

    fn source(address: &str) -> SourcePrefix {
        SourcePrefix::of(SocketAddr::new(address.parse().expect("an address"), 1))
    }

    #[test]
    fn an_ipv4_address_counts_by_itself_however_it_is_told() {
        assert_eq!(source("192.0.2.1"), source("::ffff:192.0.2.1"));
        assert_ne!(source("192.0.2.1"), source("192.0.2.2"));
        assert_ne!(source("::ffff:192.0.2.1"), source("::ffff:192.0.2.2"));
    }

    #[test]
    fn an_ipv6_address_counts_by_its_first_64_bits() {
        assert_eq!(source("2001:db8:1:2::1"), source("2001:db8:1:2:ffff:ffff:ffff:ffff"));
        assert_ne!(source("2001:db8:1:2::1"), source("2001:db8:1:3::1"));
        assert_ne!(source("::1"), source("0:0:0:1::1"));
    }

    #[test]
    fn counts_go_up_to_the_limit_and_leave_nothing_behind() {
        let (one, other) = (source("192.0.2.1"), source("2001:db8::1"));
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
        per_source.add(source("192.0.2.1"));
        assert!(per_source.connected.is_empty() && !per_source.is_full(source("192.0.2.1")));
        per_source.remove(source("192.0.2.1"));
    }
}
