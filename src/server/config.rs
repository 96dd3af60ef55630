//! Every limit of a server, with its unit and the reason for its default.

#[cfg(feature = "users")]
use std::path::PathBuf;
use std::time::Duration;

use crate::error::Error;
use crate::socket::peer::Peer;
#[cfg(feature = "proxy")]
use crate::wire::address_range::AddressRange;
use crate::wire::framing::MAX_LINE_CEILING;

/// The limits of a server. The defaults suit a relay for people who type.
///
/// ```
/// use std::time::Duration;
///
/// use a_chat::Config;
///
/// let config = Config::default().drain_timeout(Duration::from_secs(30)).max_connections(100);
/// assert_eq!(config.max_connections, Some(100));
/// assert_eq!(config.max_line, 64 * 1024);
/// config.validate()?;
/// # Ok::<(), a_chat::Error>(())
/// ```
///
/// With the feature `serde` it can be deserialized. What is left out has its default, and times are
/// numbers of seconds.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Deserialize), serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct Config {
    /// How many clients may be connected at once; further ones are refused. `None`, the default,
    /// uses what the machine can hold, see [`Capacity`](crate::Capacity). Whatever the setting, the
    /// server never accepts more clients than there are memory mappings for, since that would abort
    /// the process.
    pub max_connections: Option<usize>,

    /// How many clients may be connected at once from one address; further ones are refused. IPv6
    /// addresses with the same first 64 bits count as one address, since a single host can use all
    /// of them. `None`, the default, sets no limit: a whole office may share one address, and
    /// loopback has only one.
    pub max_per_address: Option<usize>,

    /// From which addresses connections are those of a proxy: each has to begin with a header of the
    /// PROXY protocol, version 1 or 2, which says who the client is. From all others such a header is
    /// never read. Default none. Everybody at these addresses can claim any address, so list hosts,
    /// and not the network of an office.
    #[cfg(feature = "proxy")]
    pub proxy_from: Vec<AddressRange>,

    /// Whether connections to Unix sockets are those of a proxy, too. Default false.
    #[cfg(feature = "proxy")]
    pub proxy_from_unix: bool,

    /// How many connections may be open whose clients have not logged in. `None`, the default, is a
    /// quarter of the server's capacity, but no fewer than 8 and no more than 512. At the limit the
    /// oldest of the address that has most of them makes room for a new one, so that clients that
    /// never log in cannot keep out those that do.
    pub max_logins: Option<usize>,

    /// How many lines a second a client may send on average, and as many at once after a pause.
    /// `None`, the default, sets no limit. The server stops reading from a client that sends faster,
    /// so TCP slows it down and nothing is lost; the client is told once. A line to many recipients
    /// counts as one for each 16 of them. At a shutdown nothing is held back.
    pub rate: Option<u32>,

    /// The user file: names that only their users can take, with hashes of the tokens that prove
    /// them. `None`, the default, lets everyone take any name. [`UserTable`](crate::UserTable) is its
    /// format. The file is read again when it has changed; clients whose token has left it are
    /// disconnected within a second. A broken file changes nothing.
    #[cfg(feature = "users")]
    pub users: Option<PathBuf>,

    /// Whether names that are not in the user file can be taken by anyone. Default false.
    #[cfg(feature = "users")]
    pub guests: bool,

    /// Whether a client that proves its name takes it over from an earlier connection, once in 10 s.
    /// Default false: the name is taken until that connection ends.
    #[cfg(feature = "users")]
    pub takeover: bool,

    /// The users of this host, by their numbers, whose processes may take any name without a token when
    /// they connect to a Unix socket. Default none. They never take a name that is in use. Where a
    /// proxy's header comes from that socket, its process is not believed. 65534, which stands for
    /// everyone whom this host has no number for, is refused.
    #[cfg(feature = "users")]
    pub trust_unix: Vec<u32>,

    /// How many wrong tokens, or broken TLS handshakes, may come from one address within
    /// [`failed_logins_time`](Self::failed_logins_time). Then, unless somebody from there is logged
    /// in, it is refused for as long. Default 10; `None` sets no limit. Loopback addresses are exempt.
    #[cfg(feature = "users")]
    pub failed_logins: Option<u32>,

    /// The time for `failed_logins`. Default 60 s.
    #[cfg(feature = "users")]
    #[cfg_attr(feature = "serde", serde(deserialize_with = "crate::server::seconds::deserialize"))]
    pub failed_logins_time: Duration,

    /// The maximum length of a client's line, in bytes, not counting the line end. Default 64 KiB.
    /// The rest of a longer line is discarded, and the connection stays open.
    pub max_line: usize,

    /// Maximum bytes queued from one client to its recipients, including overhead. Default 256 KiB.
    /// The server stops reading from a client that reaches it until some of those bytes are
    /// written, so TCP slows down exactly the client that sends to a slow recipient. A single line
    /// larger than the window is accepted once nothing else is queued.
    ///
    /// Together with the other limits this bounds memory. A connection takes no more than one window
    /// (error replies are rendered only when they are written), a batch of up to 128 KiB and a line
    /// that are being built, a read buffer of 128 KiB and a line, 768 KiB for what is in flight to
    /// it (loopback: 512 KiB), and its two threads.
    pub window: usize,

    /// How long a client may take to send its login line. Default 10 s. Time during which the
    /// server itself is suspended does not count.
    #[cfg_attr(feature = "serde", serde(deserialize_with = "crate::server::seconds::deserialize"))]
    pub login_timeout: Duration,

    /// In which time a recipient must take [`stall_bytes`](Self::stall_bytes) on average, as long as
    /// anything is pending for it. A recipient that takes less is evicted, and its unacknowledged
    /// messages are counted as lost. Default 10 s. Time during which the server itself is suspended,
    /// for example by SIGSTOP, does not count.
    #[cfg_attr(feature = "serde", serde(deserialize_with = "crate::server::seconds::deserialize"))]
    pub stall_timeout: Duration,

    /// How many bytes a recipient must take in each `stall_timeout` on average, as long as that much
    /// is pending for it. Default 32 KiB, or 3.2 KiB/s.
    ///
    /// A program that reads at this pace is never evicted. Its kernel acknowledges in lumps: once a
    /// receive buffer was full, it accepts nothing until a sixteenth of it is free. So a recipient
    /// has credit for one such lump, which depends on the largest receive window that its kernel has
    /// offered: a sixteenth of it and 256 KiB, but no more than one and a half windows. That is
    /// 140 KiB for a socket as it is created on loopback, 640 KiB for a window of 6 MiB, and never
    /// more than 2.25 MiB.
    ///
    /// Without this minimum, a trickling recipient could hold the windows of all its senders
    /// forever. With it, a recipient that takes nothing is evicted after `stall_timeout × (1 +
    /// credit / stall_bytes)`, and a line waits for a recipient for at most `stall_timeout × (1 +
    /// (pending + credit) / stall_bytes)`, where `pending` is the number of bytes pending for the
    /// recipient up to and including that line: at most one window from each of its senders, nine
    /// more for error replies if it sends lines to names that are not connected as fast as it can,
    /// and what its socket holds. By default that is 54 s for an ordinary recipient that reads
    /// nothing, three minutes for a sender whose window is full of lines to it, and 80 s more for
    /// each further window.
    pub stall_bytes: usize,

    /// How long a drain may take before it is forced to end. Default 5 s, because `docker stop`
    /// kills the process after 10 s.
    #[cfg_attr(feature = "serde", serde(deserialize_with = "crate::server::seconds::deserialize"))]
    pub drain_timeout: Duration,

    /// How long the server waits for a client to close, once the last byte is acknowledged. Default
    /// 1 s. Closing immediately could answer input in flight with a reset, and some systems discard
    /// received data when a reset arrives.
    #[cfg_attr(feature = "serde", serde(deserialize_with = "crate::server::seconds::deserialize"))]
    pub linger: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_connections: None,
            max_per_address: None,
            #[cfg(feature = "proxy")]
            proxy_from: Vec::new(),
            #[cfg(feature = "proxy")]
            proxy_from_unix: false,
            max_logins: None,
            rate: None,
            #[cfg(feature = "users")]
            users: None,
            #[cfg(feature = "users")]
            guests: false,
            #[cfg(feature = "users")]
            takeover: false,
            #[cfg(feature = "users")]
            trust_unix: Vec::new(),
            #[cfg(feature = "users")]
            failed_logins: Some(10),
            #[cfg(feature = "users")]
            failed_logins_time: Duration::from_secs(60),
            max_line: 64 * 1024,
            window: 256 * 1024,
            login_timeout: Duration::from_secs(10),
            stall_timeout: Duration::from_secs(10),
            stall_bytes: 32 * 1024,
            drain_timeout: Duration::from_secs(5),
            linger: Duration::from_secs(1),
        }
    }
}

/// The upper bound on any configured time, far below what clock arithmetic can represent.
const MAX_TIMEOUT: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// The user that a process seems to have whose own has no number in this user namespace.
#[cfg(feature = "users")]
const OVERFLOW_UID: u32 = 65534;

impl Config {
    /// Sets [`max_connections`](field@Self::max_connections).
    #[must_use]
    pub fn max_connections(mut self, max_connections: impl Into<Option<usize>>) -> Self {
        self.max_connections = max_connections.into();
        self
    }

    /// Sets [`max_per_address`](field@Self::max_per_address).
    #[must_use]
    pub fn max_per_address(mut self, max_per_address: impl Into<Option<usize>>) -> Self {
        self.max_per_address = max_per_address.into();
        self
    }

    /// Sets [`proxy_from`](field@Self::proxy_from).
    #[cfg(feature = "proxy")]
    #[must_use]
    pub fn proxy_from(mut self, ranges: impl IntoIterator<Item = AddressRange>) -> Self {
        self.proxy_from = ranges.into_iter().collect();
        self
    }

    /// Sets [`proxy_from_unix`](field@Self::proxy_from_unix).
    #[cfg(feature = "proxy")]
    #[must_use]
    pub fn proxy_from_unix(mut self, expected: bool) -> Self {
        self.proxy_from_unix = expected;
        self
    }

    /// Whether connections of this peer begin with a PROXY header.
    #[cfg(feature = "proxy")]
    pub(crate) fn is_proxy(&self, peer: Peer) -> bool {
        match peer {
            Peer::Tcp(address) => self.proxy_from.iter().any(|it| it.contains(address.ip())),
            Peer::Unix(_) => self.proxy_from_unix,
        }
    }

    /// Proxies are known only with the feature `proxy`.
    #[cfg(not(feature = "proxy"))]
    #[expect(clippy::unused_self, reason = "with the feature it is used")]
    pub(crate) fn is_proxy(&self, _peer: Peer) -> bool {
        false
    }

    /// Sets [`max_logins`](field@Self::max_logins).
    #[must_use]
    pub fn max_logins(mut self, max_logins: impl Into<Option<usize>>) -> Self {
        self.max_logins = max_logins.into();
        self
    }

    /// Sets [`rate`](field@Self::rate).
    #[must_use]
    pub fn rate(mut self, lines_per_second: impl Into<Option<u32>>) -> Self {
        self.rate = lines_per_second.into();
        self
    }

    /// Sets [`users`](field@Self::users).
    #[cfg(feature = "users")]
    #[must_use]
    pub fn users(mut self, file: impl Into<Option<PathBuf>>) -> Self {
        self.users = file.into();
        self
    }

    /// Sets [`guests`](field@Self::guests).
    #[cfg(feature = "users")]
    #[must_use]
    pub fn guests(mut self, guests: bool) -> Self {
        self.guests = guests;
        self
    }

    /// Sets [`takeover`](field@Self::takeover).
    #[cfg(feature = "users")]
    #[must_use]
    pub fn takeover(mut self, takeover: bool) -> Self {
        self.takeover = takeover;
        self
    }

    /// Sets [`trust_unix`](field@Self::trust_unix).
    #[cfg(feature = "users")]
    #[must_use]
    pub fn trust_unix(mut self, users: impl IntoIterator<Item = u32>) -> Self {
        self.trust_unix = users.into_iter().collect();
        self
    }

    /// Whether this peer may take any name, as its process's user. A proxy's process is not its client.
    #[cfg(feature = "users")]
    pub(crate) fn trusts(&self, peer: Peer) -> bool {
        match peer {
            Peer::Unix(process) => !self.is_proxy(peer) && self.trust_unix.contains(&process.uid),
            Peer::Tcp(_) => false,
        }
    }

    /// Sets [`failed_logins`](field@Self::failed_logins).
    #[cfg(feature = "users")]
    #[must_use]
    pub fn failed_logins(mut self, count: impl Into<Option<u32>>) -> Self {
        self.failed_logins = count.into();
        self
    }

    /// Sets [`failed_logins_time`](field@Self::failed_logins_time).
    #[cfg(feature = "users")]
    #[must_use]
    pub fn failed_logins_time(mut self, time: Duration) -> Self {
        self.failed_logins_time = time;
        self
    }

    /// Sets [`max_line`](field@Self::max_line).
    #[must_use]
    pub fn max_line(mut self, max_line: usize) -> Self {
        self.max_line = max_line;
        self
    }

    /// Sets [`window`](field@Self::window).
    #[must_use]
    pub fn window(mut self, window: usize) -> Self {
        self.window = window;
        self
    }

    /// Sets [`login_timeout`](field@Self::login_timeout).
    #[must_use]
    pub fn login_timeout(mut self, login_timeout: Duration) -> Self {
        self.login_timeout = login_timeout;
        self
    }

    /// Sets [`stall_timeout`](field@Self::stall_timeout).
    #[must_use]
    pub fn stall_timeout(mut self, stall_timeout: Duration) -> Self {
        self.stall_timeout = stall_timeout;
        self
    }

    /// Sets [`stall_bytes`](field@Self::stall_bytes).
    #[must_use]
    pub fn stall_bytes(mut self, stall_bytes: usize) -> Self {
        self.stall_bytes = stall_bytes;
        self
    }

    /// Sets [`drain_timeout`](field@Self::drain_timeout).
    #[must_use]
    pub fn drain_timeout(mut self, drain_timeout: Duration) -> Self {
        self.drain_timeout = drain_timeout;
        self
    }

    /// Sets [`linger`](field@Self::linger).
    #[must_use]
    pub fn linger(mut self, linger: Duration) -> Self {
        self.linger = linger;
        self
    }

    /// Rejects limits that no server could work with, as [`Server::bind`](crate::Server::bind) does.
    ///
    /// # Errors
    ///
    /// [`Error::Config`], whose text begins with the field's name.
    pub fn validate(&self) -> Result<(), Error> {
        let rules = [
            (self.max_connections != Some(0), "max_connections must be at least 1"),
            (self.max_per_address != Some(0), "max_per_address must be at least 1"),
            (self.max_logins != Some(0), "max_logins must be at least 1"),
            (self.rate != Some(0), "rate must be at least 1 line a second"),
            #[cfg(feature = "users")]
            (
                !self.trust_unix.contains(&OVERFLOW_UID),
                "trust_unix must not have 65534, who is anyone",
            ),
            #[cfg(feature = "users")]
            (self.failed_logins != Some(0), "failed_logins must be at least 1"),
            #[cfg(feature = "users")]
            (!self.failed_logins_time.is_zero(), "failed_logins_time must not be zero"),
            #[cfg(feature = "users")]
            (self.failed_logins_time <= MAX_TIMEOUT, "failed_logins_time must be at most a year"),
            (self.max_line > 0, "max_line must be at least 1 byte"),
            (self.max_line <= MAX_LINE_CEILING, "max_line must be at most 64 MiB"),
            (self.window > 0, "window must be at least 1 byte"),
            (!self.login_timeout.is_zero(), "login_timeout must not be zero"),
            (!self.stall_timeout.is_zero(), "stall_timeout must not be zero"),
            (self.stall_bytes > 0, "stall_bytes must be at least 1 byte"),
            (self.login_timeout <= MAX_TIMEOUT, "login_timeout must be at most a year"),
            (self.stall_timeout <= MAX_TIMEOUT, "stall_timeout must be at most a year"),
            (self.drain_timeout <= MAX_TIMEOUT, "drain_timeout must be at most a year"),
            (self.linger <= MAX_TIMEOUT, "linger must be at most a year"),
        ];
        match rules.into_iter().find(|(holds, _)| !holds) {
            Some((_, broken)) => Err(Error::Config(broken)),
            None => Ok(()),
        }
    }
}
