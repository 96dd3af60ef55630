//! Every limit of a server, with its unit and its reason. No thread runs here.

use std::time::Duration;

use crate::error::Error;
use crate::wire::framing::MAX_LINE_CEILING;

/// The limits of a server. The default is right for a relay that people type into.
///
/// ```
/// use std::time::Duration;
///
/// use a_chat::Config;
///
/// let config = Config { drain_timeout: Duration::from_secs(30), ..Config::default() };
/// assert_eq!(config.max_line, 64 * 1024);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// How many clients may be connected at once; those above are refused. `None`, the default,
    /// is what the machine can hold, see [`Capacity`](crate::Capacity). More than there are memory
    /// mappings for are not taken in whatever is asked for, since that would abort the process.
    pub max_connections: Option<usize>,

    /// How many clients of one address may be connected at once; those above are refused. IPv6
    /// addresses with the same first 64 bits count as one, since a single host has as many as it
    /// likes of them. `None`, the default, is no limit: behind one address there may be a whole
    /// office, and on the loopback there is only one.
    pub max_per_address: Option<usize>,

    /// The longest line that a client may send, in bytes, its line end not counted. Default
    /// 64 KiB. The rest of a longer line is skipped; the connection goes on.
    pub max_line: usize,

    /// How much one client may have on its way to its recipients, in bytes, overhead included.
    /// Default 256 KiB. A client that has as much is not read from until some of it is written,
    /// so that TCP slows down the one who sends to a slow recipient, and nobody else. Memory is
    /// bounded by connections × window (a single line passes also if it needs more).
    pub window: usize,

    /// How long a client may take to send its login line. Default 10 s, of which time in which the
    /// server itself is stopped is no part either.
    pub login_timeout: Duration,

    /// How long a recipient's kernel has to take [`stall_bytes`](Self::stall_bytes) of what is due
    /// to it, or all of that if it is less, before it is evicted and what it has not taken is
    /// counted as lost. Default 10 s. Time in which the server itself is stopped, as by SIGSTOP,
    /// does not count.
    pub stall_timeout: Duration,

    /// How much of what is due to it a recipient has to take in each `stall_timeout`, in bytes;
    /// all of it, if that is less. Default 32 KiB: a third of what a line of 10 KiB/s carries in
    /// that time, and half of what a kernel may take at once on the loopback.
    ///
    /// Who takes less, a byte now and then, would otherwise hold the windows of all its senders
    /// for ever. A line waits for a recipient no longer than `stall_timeout × (1 + due /
    /// stall_bytes)`, where `due` is what is due to the recipient before and with that line: a
    /// window at most from each of its senders, about one more of answers to lines of its own,
    /// and what the kernel holds for it. By default that is two minutes for a sender whose window
    /// is full of lines to a recipient that has no other sender, and 80 s more for each other
    /// window.
    pub stall_bytes: usize,

    /// How long a drain may take before it is forced. Default 5 s, because `docker stop` kills
    /// after 10 s.
    pub drain_timeout: Duration,

    /// How long the server waits, after its last byte was acknowledged, for a client to close.
    /// Default 1 s. Closing at once could answer input that is still on its way with a reset,
    /// and some systems throw away what they have received when a reset comes.
    pub linger: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_connections: None,
            max_per_address: None,
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

/// The longest time that can be asked for: far below what the clock's arithmetic can hold.
const MAX_TIMEOUT: Duration = Duration::from_secs(366 * 24 * 60 * 60);

impl Config {
    /// Looks for limits that no server could work with.
    pub(crate) fn validate(&self) -> Result<(), Error> {
        let rules = [
            (self.max_connections != Some(0), "max_connections must be at least 1"),
            (self.max_per_address != Some(0), "max_per_address must be at least 1"),
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
