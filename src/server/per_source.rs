//! Per-source connection limit: shared by the acceptor and, for clients behind a proxy, the readers. A
//! connection holds its place and frees it with its end.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
        Self::of_ip(address.ip())
    }

    pub(crate) fn of_ip(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V6(ip) => Self(Ipv6Addr::from_bits(ip.to_bits() & (u128::MAX << 64)).into()),
            ip @ IpAddr::V4(_) => Self(ip),
        }
    }
}

/// Counts connected clients by source, up to a limit.
#[derive(Debug)]
pub(crate) struct Places {
    /// `None` means no limit, and then nothing is counted.
    limit: Option<usize>,
    /// Sources without clients are removed, so the map grows no larger than the number of clients.
    /// Locked for one look-up: readers take places, too, for clients behind a proxy.
    taken: Mutex<HashMap<SourcePrefix, usize, RandomState>>,
}

/// A client's place among those of its source. Dropping it frees the place.
#[derive(Debug)]
pub(crate) struct Place(Option<(Arc<Places>, SourcePrefix)>);

impl Places {
    pub(crate) fn new(limit: Option<usize>) -> Arc<Self> {
        Arc::new(Self { limit, taken: Mutex::default() })
    }

    /// A place for a further client from this source, if there is one. What has no source, and
    /// everything without a limit, needs none.
    pub(crate) fn take(self: &Arc<Self>, source: Option<SourcePrefix>) -> Option<Place> {
        let Some((limit, source)) = self.limit.zip(source) else { return Some(Place(None)) };
        let mut taken = self.lock();
        let connected = taken.get(&source).copied().unwrap_or(0);
        if connected >= limit {
            return None;
        }
        taken.insert(source, connected + 1);
        drop(taken);
        Some(Place(Some((Arc::clone(self), source))))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SourcePrefix, usize, RandomState>> {
        // No call between locking and unlocking panics.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some((places, source)) = self.0.take() else { return };
        let mut taken = places.lock();
        if let Some(connected) = taken.get_mut(&source) {
            *connected -= 1;
            if *connected == 0 {
                taken.remove(&source);
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
        let places = Places::new(Some(2));
        let first = places.take(one);
        let (second, elsewhere) = (places.take(one), places.take(other));
        assert!(first.is_some() && second.is_some() && elsewhere.is_some());
        assert!(places.take(one).is_none());
        drop(first);
        let third = places.take(one);
        assert!(third.is_some() && places.take(one).is_none());
        drop((second, third, elsewhere));
        assert!(places.lock().is_empty());
    }

    #[test]
    fn of_many_threads_as_many_get_a_place_as_there_are() {
        let (one, places) = (Some(source("192.0.2.1")), Places::new(Some(3)));
        for _ in 0..100 {
            let taken = std::thread::scope(|scope| {
                let all: Vec<_> = (0..8).map(|_| scope.spawn(|| places.take(one))).collect();
                let all = all.into_iter().filter_map(|one| one.join().expect("no panic"));
                all.collect::<Vec<_>>()
            });
            assert_eq!(taken.len(), 3);
        }
        assert!(places.lock().is_empty());
    }

    #[test]
    fn without_a_limit_or_an_address_nothing_is_counted() {
        let unix = SourcePrefix::of(Peer::Unix(Credentials { uid: 0, pid: 1 }));
        for (limit, source) in [(None, Some(source("192.0.2.1"))), (Some(1), unix)] {
            let places = Places::new(limit);
            let _taken = [places.take(source), places.take(source)].map(|it| it.expect("room"));
            assert!(places.lock().is_empty());
        }
    }
}
