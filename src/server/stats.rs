//! Live counters. Each is written by the threads it concerns, and any thread can read all of them
//! at any time.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::server::counted::Counted;
use crate::server::disconnects::{DisconnectCounters, Disconnects, WordCounters};

/// What a server has done so far, and what it holds at the moment.
///
/// All numbers but [`connected`](Self::connected) and [`queued_bytes`](Self::queued_bytes) only grow,
/// and count the same things as the [`Report`](crate::Report) at the end. They are read one after the
/// other while the server works, so they agree with each other only when it is at rest. Then `owed =
/// delivered + lost`, except for what is queued or in flight.
///
/// [`Display`](fmt::Display) is one line of text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Stats {
    /// Clients that are logged in now.
    pub connected: u64,
    /// Connections that were or are served, whether they logged in or not.
    pub connections: u64,
    /// Connections that were refused because the server was full or at the limit for their address,
    /// or because of failed logins from there.
    pub refused: u64,
    /// Clients that were evicted because they acknowledged too little.
    pub evicted: u64,
    /// Complete lines accepted from clients after their login line, those included that a client of
    /// this crate sends on its own.
    pub accepted: u64,
    /// Last lines without a line end, which were therefore not accepted.
    pub unterminated: u64,
    /// Accepted lines that were answered by an error whoever was connected, such as one without a
    /// colon.
    pub refused_lines: u64,
    /// Accepted lines of which at least one recipient was not connected.
    pub unreachable_lines: u64,
    /// Deliveries owed: one for each accepted message and each of its recipients that was
    /// connected.
    pub owed: u64,
    /// Deliveries whose last byte was written to the recipient's socket. Those that its kernel did
    /// not acknowledge in the end are lost all the same.
    pub written: u64,
    /// Deliveries that the recipient's kernel acknowledged up to the last byte.
    ///
    /// This lags behind: the kernel tells nobody of an acknowledgement, so each client's is looked
    /// for once it has been sent nothing for half a second, once 64 KiB are in flight to it, and at
    /// its end. A client that is sent short lines, and never pauses, can so have up to 64 KiB of
    /// messages that are delivered and not counted yet. The report at the end is exact.
    pub delivered: u64,
    /// Deliveries that were given up.
    pub lost: u64,
    /// Lost deliveries that their sender was told of, or at least had queued for it.
    pub lost_told: u64,
    /// Lost deliveries whose sender had left.
    pub lost_sender_gone: u64,
    /// Lost deliveries of which no sender is told: those lost in the drain, or so shortly before it
    /// that it was too late.
    pub lost_untold: u64,
    /// Bytes charged to the senders' windows now: queued message text and overhead.
    pub queued_bytes: u64,
    /// Rounds in which the broker has routed lines, logins and departures.
    pub broker_rounds: u64,
    /// Events that the broker has handled in these rounds.
    pub broker_events: u64,
    /// Whether the broker is in the middle of a round. If it stays so while
    /// [`broker_rounds`](Self::broker_rounds) does not grow, it is stuck.
    pub broker_busy: bool,
}

/// The result of a handshake that was completed.
#[cfg(feature = "tls")]
pub(crate) const HANDSHAKE_OK: &str = "ok";

/// Reads a server's live counters. Cheap to clone, and usable from any thread, even after the
/// server has stopped.
///
/// ```
/// use a_chat::{Config, Server};
///
/// let server = Server::bind("127.0.0.1:0", Config::default())?;
/// let stats = server.stats_handle();
/// assert_eq!(stats.read().connected, 0);
/// # Ok::<(), a_chat::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct StatsHandle {
    counters: Arc<Counters>,
}

impl StatsHandle {
    pub(crate) fn new(counters: Arc<Counters>) -> Self {
        Self { counters }
    }

    /// The current values of the counters.
    #[must_use]
    pub fn read(&self) -> Stats {
        let counters = &*self.counters;
        // What must not exceed another is read before that one.
        let delivered = counters.delivered.get();
        let (lost, written) = (counters.lost.get(), counters.written.get());
        Stats {
            connected: counters.connected.get(),
            connections: counters.connections.get(),
            refused: counters.refused.get(),
            evicted: counters.evicted.get(),
            accepted: counters.accepted.get(),
            unterminated: counters.unterminated.get(),
            refused_lines: counters.refused_lines.get(),
            unreachable_lines: counters.unreachable_lines.get(),
            owed: counters.owed.get(),
            written,
            delivered,
            lost,
            lost_told: counters.lost_told.get(),
            lost_sender_gone: counters.lost_sender_gone.get(),
            lost_untold: counters.lost_untold.get(),
            queued_bytes: counters.queued_bytes.get(),
            broker_rounds: counters.pulse.rounds(),
            broker_events: counters.pulse.events.load(Relaxed),
            broker_busy: counters.pulse.is_busy(),
        }
    }

    /// What a node of a cluster has done for and with the others; `None` for any other server.
    #[cfg(feature = "cluster")]
    #[must_use]
    pub fn cluster(&self) -> Option<ClusterStats> {
        let link = self.counters.link.get()?;
        let counts = link.counts();
        Some(ClusterStats {
            arrived: counts.arrived,
            handed_over: counts.handed_over,
            in_doubt: counts.in_doubt,
            unsettled_bytes: counts.unsettled_bytes,
            is_reachable: link.is_reachable(),
            is_settled: link.is_settled(),
            was_settled: link.was_settled(),
        })
    }

    /// Connections that have ended, and what was lost with them, by reason; the reasons are the words
    /// of [`CloseReason::code`](crate::CloseReason::code).
    #[must_use]
    pub fn disconnects(&self) -> Vec<(&'static str, Disconnects)> {
        self.counters.disconnects.read()
    }

    /// Connections that were refused at once, by reason, each a word such as `full`.
    #[must_use]
    pub fn refusals(&self) -> Vec<(&'static str, u64)> {
        self.counters.refusals.read()
    }

    /// Handshakes of TLS that have ended, by result: `ok`, which is there from the start, or the word
    /// of the reason why they failed, such as `handshake_failed` or `login_timeout`.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls_handshakes(&self) -> Vec<(&'static str, u64)> {
        let mut counts = self.counters.handshakes.read();
        if !counts.iter().any(|(word, _)| *word == HANDSHAKE_OK) {
            counts.push((HANDSHAKE_OK, 0));
        }
        counts
    }
}

/// A node's dealings with the others of its cluster so far, as in
/// [`ClusterReport`](crate::ClusterReport).
#[cfg(feature = "cluster")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ClusterStats {
    /// Messages taken over from other nodes.
    pub arrived: u64,
    /// Messages taken over by other nodes.
    pub handed_over: u64,
    /// Messages that may have arrived.
    pub in_doubt: u64,
    /// Bytes on their way to other nodes now, and not written by these yet.
    pub unsettled_bytes: u64,
    /// Whether the engine answers.
    pub is_reachable: bool,
    /// Whether all nodes are there and nothing is held for clients of one that has stopped: until
    /// then no other node should be stopped.
    pub is_settled: bool,
    /// Whether that was so since this node started; the node is ready then.
    pub was_settled: bool,
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { connected, connections, refused, evicted, accepted, .. } = self;
        let Self { owed, written, delivered, lost, queued_bytes, .. } = self;
        write!(
            f,
            "{connected} connected now, {}, {refused} refused, {evicted} evicted, \
             {accepted} accepted, {owed} owed, {written} written, {delivered} delivered, \
             {lost} lost, {queued_bytes} B queued now",
            Counted(*connections, "connection", "connections"),
        )
    }
}

/// The counters behind [`Stats`], shared by all of a server's threads.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) connected: Counter,
    pub(crate) connections: Counter,
    pub(crate) refused: Counter,
    pub(crate) evicted: Counter,
    pub(crate) accepted: Counter,
    pub(crate) unterminated: Counter,
    pub(crate) refused_lines: Counter,
    pub(crate) unreachable_lines: Counter,
    pub(crate) owed: Counter,
    pub(crate) written: Counter,
    pub(crate) delivered: Counter,
    pub(crate) lost: Counter,
    pub(crate) lost_told: Counter,
    pub(crate) lost_sender_gone: Counter,
    pub(crate) lost_untold: Counter,
    /// How many `/sync` were asked. Not among the public counters: writers look whether any was.
    pub(crate) syncs: Counter,
    pub(crate) queued_bytes: Counter,
    pub(crate) pulse: Pulse,
    pub(crate) disconnects: DisconnectCounters,
    pub(crate) refusals: WordCounters,
    #[cfg(feature = "tls")]
    pub(crate) handshakes: WordCounters,
    /// What a node of a cluster counts beside these.
    #[cfg(feature = "cluster")]
    pub(crate) link: std::sync::OnceLock<Arc<crate::cluster::link::Link>>,
}

/// What the broker has got done. Only the broker writes it, so it needs plain stores and nothing that
/// costs more.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(crate) struct Pulse {
    /// Twice the number of rounds that have ended, and one more while the broker is in a round.
    beats: AtomicU64,
    events: AtomicU64,
}

impl Pulse {
    /// Notes that a round begins, of which the broker knows the number.
    pub(crate) fn begin(&self, rounds: u64) {
        self.beats.store(2 * rounds + 1, Relaxed);
    }

    /// Notes that so many rounds have ended, with so many events in all of them.
    pub(crate) fn end(&self, rounds: u64, events: u64) {
        self.events.store(events, Relaxed);
        self.beats.store(2 * rounds, Relaxed);
    }

    fn rounds(&self) -> u64 {
        self.beats.load(Relaxed) / 2
    }

    fn is_busy(&self) -> bool {
        self.beats.load(Relaxed) % 2 == 1
    }
}

/// A number that synchronises nothing. It has a cache line of its own, since its neighbours are
/// written by other threads.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Relaxed);
    }

    pub(crate) fn sub(&self, count: u64) {
        self.0.fetch_sub(count, Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}
