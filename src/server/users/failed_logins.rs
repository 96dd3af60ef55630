//! Sources that sent too many wrong tokens, and are refused for a while. Plain state behind a mutex,
//! shared by the acceptor and the readers before login.
//!
//! Nobody can guess a token. This only keeps the noise of those who try, or whose token is old, out
//! of the log and away from the readers. So it never keeps out whoever has a right token and shares
//! an address with somebody logged in, and addresses that many share by nature are exempt.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;

use crate::server::per_source::SourcePrefix;

/// How many sources of a kind are remembered.
const MAX_SOURCES: usize = 4096;

/// How many times as many wrong tokens the first 48 bits of an IPv6 address may send as 64 bits.
/// One site usually has all of them, but sometimes they belong to many.
const SITE_FACTOR: u32 = 8;

/// The most lines that are logged a second.
const MAX_LINES_PER_SECOND: u32 = 20;

/// How many wrong tokens a source may send in which time; then it is refused for as long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limit {
    pub(crate) count: u32,
    pub(crate) time: Duration,
}

/// The sources that sent wrong tokens, and those that have clients logged in.
#[derive(Debug)]
pub(crate) struct FailedLogins {
    limit: Limit,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    v4: Strikes<SourcePrefix>,
    v6: Strikes<SourcePrefix>,
    sites: Strikes<u128>,
    present: HashMap<SourcePrefix, usize, RandomState>,
    /// The second in which lines were logged last, and how many.
    logged: (Instant, u32),
}

/// Held while a client of a source is logged in.
#[derive(Debug)]
pub(crate) struct Present {
    failed_logins: Arc<FailedLogins>,
    source: SourcePrefix,
}

/// What became of a wrong token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Noted,
    /// The limit was reached just now.
    Reached,
    /// There is no room to remember the source.
    Full,
}

impl FailedLogins {
    pub(crate) fn new(limit: Limit) -> Arc<Self> {
        let state = State {
            v4: Strikes::default(),
            v6: Strikes::default(),
            sites: Strikes::default(),
            present: HashMap::default(),
            logged: (Instant::now(), 0),
        };
        Arc::new(Self { limit, state: Mutex::new(state) })
    }

    /// Notes a wrong token, and logs when its source is refused from now on.
    pub(crate) fn add(&self, peer: IpAddr, now: Instant) {
        if let Some(line) = self.note(peer, now) {
            log::warn!("{line}");
        }
    }

    fn note(&self, peer: IpAddr, now: Instant) -> Option<String> {
        if is_exempt(peer) {
            return None;
        }
        let Limit { count, time } = self.limit;
        let peer = peer.to_canonical();
        let source = SourcePrefix::of_ip(peer);
        let mut state = self.state();
        let (verdict, count) = if let Some(site) = site(peer) {
            let limits = (count, count.saturating_mul(SITE_FACTOR));
            let own = state.v6.add(source, Limit { count, time }, now);
            let all = state.sites.add(site, Limit { count: limits.1, time }, now);
            match (own, all) {
                (Verdict::Reached, _) => (own, limits.0),
                (_, Verdict::Reached) => (all, limits.1),
                _ => (own, limits.0),
            }
        } else {
            (state.v4.add(source, self.limit, now), count)
        };
        let seconds = time.as_secs().max(1);
        // The address itself, and not its prefix: other programs block what they read here.
        let line = match verdict {
            Verdict::Noted => return None,
            Verdict::Full => {
                format!("{peer} has failed to log in, and too many others have to remember it")
            }
            Verdict::Reached if state.present.contains_key(&source) => format!(
                "{peer} has failed to log in {count} times, not refused since others from there \
                 are logged in"
            ),
            Verdict::Reached => {
                format!("{peer} has failed to log in {count} times, refused for {seconds} s")
            }
        };
        state.may_log(now).then_some(line)
    }

    /// For how many more seconds a source is refused, if it is.
    pub(crate) fn refuses(&self, peer: IpAddr, now: Instant) -> Option<u64> {
        if is_exempt(peer) {
            return None;
        }
        let peer = peer.to_canonical();
        let source = SourcePrefix::of_ip(peer);
        let state = self.state();
        let until = match site(peer) {
            Some(site) => state.v6.refused_until(source).max(state.sites.refused_until(site)),
            None => state.v4.refused_until(source),
        };
        let left = until?.checked_duration_since(now).filter(|left| !left.is_zero())?;
        let is_refused = !state.present.contains_key(&source);
        is_refused.then(|| left.as_secs() + u64::from(left.subsec_nanos() > 0))
    }

    /// Notes that a client of this source is logged in, until the result is dropped.
    pub(crate) fn enter(self: &Arc<Self>, peer: IpAddr) -> Option<Present> {
        if is_exempt(peer) {
            return None;
        }
        let source = SourcePrefix::of_ip(peer);
        *self.state().present.entry(source).or_default() += 1;
        Some(Present { failed_logins: Arc::clone(self), source })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        let mut state = self.failed_logins.state();
        if let Some(count) = state.present.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                state.present.remove(&self.source);
            }
        }
    }
}

impl State {
    fn may_log(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.logged.0) >= Duration::from_secs(1) {
            self.logged = (now, 0);
        }
        self.logged.1 += 1;
        self.logged.1 <= MAX_LINES_PER_SECOND
    }
}

/// Everybody on this host has these addresses, and whatever a proxy or a container's gateway lets
/// in may have them, too.
fn is_exempt(peer: IpAddr) -> bool {
    peer.to_canonical().is_loopback()
}

/// The first 48 bits of an IPv6 address.
fn site(peer: IpAddr) -> Option<u128> {
    match peer {
        IpAddr::V6(ip) => Some(ip.to_bits() >> 80),
        IpAddr::V4(_) => None,
    }
}

/// The wrong tokens of each source, for a bounded number of them.
#[derive(Debug)]
struct Strikes<K> {
    sources: HashMap<K, Strike, RandomState>,
    /// When a full table was last searched for what can be forgotten.
    purged: Option<Instant>,
}

impl<K> Default for Strikes<K> {
    fn default() -> Self {
        Self { sources: HashMap::default(), purged: None }
    }
}

#[derive(Clone, Copy, Debug)]
struct Strike {
    count: u32,
    since: Instant,
    refused_until: Option<Instant>,
}

impl<K: Eq + Hash + Copy> Strikes<K> {
    fn add(&mut self, source: K, limit: Limit, now: Instant) -> Verdict {
        let is_over = |strike: &Strike| {
            let until = strike.refused_until.or_else(|| strike.since.checked_add(limit.time));
            until.is_some_and(|until| until <= now)
        };
        if self.sources.len() >= MAX_SOURCES && !self.sources.contains_key(&source) {
            // A strike that still counts is never pushed out by those of other sources.
            let is_due = |purged: Instant| now.saturating_duration_since(purged).as_secs() >= 1;
            if self.purged.is_none_or(is_due) {
                self.purged = Some(now);
                self.sources.retain(|_, strike| !is_over(strike));
            }
            if self.sources.len() >= MAX_SOURCES {
                return Verdict::Full;
            }
        }
        let new = Strike { count: 0, since: now, refused_until: None };
        let strike = self.sources.entry(source).or_insert(new);
        if is_over(strike) {
            *strike = new;
        }
        strike.count = strike.count.saturating_add(1);
        if strike.count < limit.count || strike.refused_until.is_some() {
            return Verdict::Noted;
        }
        strike.refused_until = now.checked_add(limit.time);
        Verdict::Reached
    }

    fn refused_until(&self, source: K) -> Option<Instant> {
        self.sources.get(&source).and_then(|strike| strike.refused_until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Limit = Limit { count: 3, time: Duration::from_secs(60) };

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn strike(failed: &FailedLogins, peer: &str, times: u32, now: Instant) -> Vec<String> {
        (0..times).filter_map(|_| failed.note(ip(peer), now)).collect()
    }

    #[test]
    fn a_source_is_refused_for_a_while_once_it_reaches_the_limit() {
        let (failed, now) = (FailedLogins::new(LIMIT), Instant::now());
        let peer = ip("203.0.113.7");
        assert!(strike(&failed, "203.0.113.7", 2, now).is_empty());
        assert_eq!(failed.refuses(peer, now), None);
        let line = "203.0.113.7 has failed to log in 3 times, refused for 60 s";
        assert_eq!(strike(&failed, "203.0.113.7", 5, now), [line]);
        assert_eq!(failed.refuses(peer, now), Some(60));
        assert_eq!(failed.refuses(peer, now + Duration::from_millis(59_500)), Some(1));
        assert_eq!(failed.refuses(peer, now + LIMIT.time), None);
        assert_eq!(failed.refuses(ip("203.0.113.8"), now), None);
        // Another period, another line.
        assert_eq!(strike(&failed, "203.0.113.7", 3, now + LIMIT.time), [line]);
    }

    #[test]
    fn wrong_tokens_now_and_then_are_no_flood() {
        let (failed, now) = (FailedLogins::new(LIMIT), Instant::now());
        for round in 0..100 {
            let now = now + round * LIMIT.time;
            assert!(strike(&failed, "203.0.113.7", 2, now).is_empty(), "{round}");
        }
    }

    #[test]
    fn a_source_with_somebody_logged_in_is_not_refused() {
        let (failed, now) = (FailedLogins::new(LIMIT), Instant::now());
        let peer = ip("203.0.113.7");
        let (one, other) = (failed.enter(peer), failed.enter(peer));
        let lines = strike(&failed, "203.0.113.7", 3, now);
        assert!(lines[0].ends_with("not refused since others from there are logged in"));
        assert_eq!(failed.refuses(peer, now), None);
        drop(one);
        assert_eq!(failed.refuses(peer, now), None);
        drop(other);
        assert_eq!(failed.refuses(peer, now), Some(60));
        assert!(failed.state().present.is_empty());
    }

    #[test]
    fn loopback_is_never_refused() {
        let (failed, now) = (FailedLogins::new(LIMIT), Instant::now());
        for peer in ["127.0.0.1", "::1", "127.1.2.3", "::ffff:127.0.0.1"] {
            assert!(strike(&failed, peer, 1000, now).is_empty());
            assert_eq!(failed.refuses(ip(peer), now), None);
            assert!(failed.enter(ip(peer)).is_none());
        }
    }

    #[test]
    fn ipv6_addresses_count_by_64_bits_and_with_more_patience_by_48() {
        let (failed, now) = (FailedLogins::new(LIMIT), Instant::now());
        strike(&failed, "2001:db8:1:2::1", 2, now);
        let lines = strike(&failed, "2001:db8:1:2::2", 1, now);
        assert_eq!(lines, ["2001:db8:1:2::2 has failed to log in 3 times, refused for 60 s"]);
        assert!(failed.refuses(ip("2001:db8:1:2::3"), now).is_some());
        assert!(failed.refuses(ip("2001:db8:1:3::3"), now).is_none());
        // Two from each of many networks of one site.
        let lines: Vec<_> = (10..24)
            .flat_map(|net| strike(&failed, &format!("2001:db8:1:{net}::1"), 2, now))
            .collect();
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(failed.refuses(ip("2001:db8:1:ffff::1"), now).is_some());
        assert!(failed.refuses(ip("2001:db8:2::1"), now).is_none());
    }

    #[test]
    fn a_mapped_address_is_the_ipv4_address_itself() {
        let (failed, now) = (FailedLogins::new(LIMIT), Instant::now());
        strike(&failed, "::ffff:203.0.113.7", 3, now);
        assert!(failed.refuses(ip("203.0.113.7"), now).is_some());
    }

    #[test]
    fn a_crowd_of_sources_pushes_none_out_and_keeps_none_away() {
        let (failed, now) = (FailedLogins::new(LIMIT), Instant::now());
        strike(&failed, "203.0.113.7", 3, now);
        strike(&failed, "2001:db8:1:2::1", 3, now);
        let crowd = (0..u32::try_from(MAX_SOURCES).expect("small") + 100)
            .map(|number| IpAddr::from((0x0a00_0000 + number).to_be_bytes()).to_string());
        let lines: Vec<_> = crowd.flat_map(|peer| strike(&failed, &peer, 1, now)).collect();
        assert_eq!(lines.len(), MAX_LINES_PER_SECOND as usize - 2, "{lines:?}");
        assert_eq!(failed.state().v4.sources.len(), MAX_SOURCES);
        assert!(failed.refuses(ip("203.0.113.7"), now).is_some(), "it stays refused");
        assert!(failed.refuses(ip("198.51.100.1"), now).is_none());
        // IPv6 has a table of its own.
        assert!(failed.refuses(ip("2001:db8:1:2::1"), now).is_some());
        // Once these are over, there is room again.
        let later = now + LIMIT.time;
        assert_eq!(strike(&failed, "198.51.100.1", 3, later).len(), 1);
        assert!(failed.state().v4.sources.len() < MAX_SOURCES);
    }
}
