//! Why each connection ended, and what became of every message. Plain values; the acceptor keeps
//! the totals while it joins readers.

use std::time::Duration;
use std::{fmt, io};

use log::Level;

#[cfg(feature = "cluster")]
use crate::server::cluster_report::ClusterReport;
use crate::server::counted::Counted;
use crate::server::disconnects::Disconnects;
use crate::server::stats::Stats;
use crate::socket::connection::ConnectionId;
use crate::socket::peer::Peer;
use crate::wire::name::Name;

/// How many losses are listed by name before the drain; those during the drain are all listed. A
/// server that runs for years must not keep a list that only grows.
const MAX_NAMED_LOSSES: usize = 1000;

/// Why a connection ended. [`Display`](fmt::Display), and `Serialize`, is the text in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CloseReason {
    /// The client left: it closed its side of the connection.
    Left,
    /// The client disconnected before it logged in.
    LeftBeforeLogin,
    /// The connection broke, for example by a reset or a TCP timeout.
    Broken(io::ErrorKind),
    /// The client's login line was not a valid name.
    BadName,
    /// The client's first line ended with a carriage return alone.
    NoLineFeed,
    /// Another client has the name.
    NameTaken,
    /// The client did not speak TLS where it has to.
    Unencrypted,
    /// The TLS handshake failed, for example because the client does not trust the certificate.
    HandshakeFailed,
    /// The login line did not arrive in time.
    LoginTimeout,
    /// The name has to be proven by a token, and none came.
    NeedsToken,
    /// The token is not one of this name, or nobody has the name.
    WrongToken,
    /// A token came, and this server has none.
    NoTokens,
    /// Too many connections waited for their login, and this one waited longest.
    LoginCrowd,
    /// Another connection has proven the name.
    LoggedInElsewhere,
    /// The token that proved the name has left the user file.
    Revoked,
    /// The name was a guest's, and is in the user file now.
    NameReserved,
    /// The node's cluster could not be asked for the name.
    ClusterUnreachable,
    /// No thread could be spawned for it.
    ServerFull,
    /// As many connections as allowed came from its address, which a proxy told.
    PerAddressLimit,
    /// Too many failed logins came from its address, which a proxy told.
    TooManyFailedLogins {
        /// How long the address is refused, in seconds.
        seconds: u64,
    },
    /// A proxy sent no PROXY header.
    NoProxyHeader,
    /// It acknowledged too little of what was pending for it within the stall timeout.
    Evicted,
    /// The server shut down, and the client received everything.
    Shutdown,
    /// The drain's deadline passed first.
    Deadline,
    /// The drain was forced to end.
    Forced,
    /// One of the connection's threads panicked.
    Panicked,
    /// The server itself failed.
    ServerFailed,
}

impl CloseReason {
    pub(crate) const RESET: Self = Self::Broken(io::ErrorKind::ConnectionReset);

    pub(crate) fn broken(error: &io::Error) -> Self {
        Self::Broken(error.kind())
    }

    /// A word for the reason that programs can rely on, such as `name_taken`.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Left => "left",
            Self::LeftBeforeLogin => "left_before_login",
            Self::Broken(_) => "broken",
            Self::BadName => "bad_name",
            Self::NoLineFeed => "no_line_feed",
            Self::NameTaken => "name_taken",
            Self::Unencrypted => "unencrypted",
            Self::HandshakeFailed => "handshake_failed",
            Self::LoginTimeout => "login_timeout",
            Self::NeedsToken => "needs_token",
            Self::WrongToken => "wrong_token",
            Self::NoTokens => "no_tokens",
            Self::LoginCrowd => "login_crowd",
            Self::LoggedInElsewhere => "logged_in_elsewhere",
            Self::Revoked => "revoked",
            Self::NameReserved => "name_reserved",
            Self::PerAddressLimit => "per_address",
            Self::TooManyFailedLogins { .. } => "failed_logins",
            Self::NoProxyHeader => "no_proxy_header",
            Self::ServerFull => "full",
            Self::Evicted => "evicted",
            Self::Shutdown => "shutdown",
            Self::Deadline => "deadline",
            Self::Forced => "forced",
            Self::Panicked => "panicked",
            Self::ServerFailed => "server_failed",
            Self::ClusterUnreachable => "cluster_unreachable",
        }
    }

    /// Whether the client was not let in because of what it said, or did not say.
    pub(crate) fn refuses_login(self) -> bool {
        matches!(
            self,
            Self::BadName
                | Self::NoLineFeed
                | Self::NameTaken
                | Self::LoginTimeout
                | Self::Unencrypted
                | Self::HandshakeFailed
                | Self::NeedsToken
                | Self::WrongToken
                | Self::NoTokens
        )
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Left => "left",
            Self::LeftBeforeLogin => "left before login",
            Self::Broken(kind) => return write!(f, "connection broken: {kind}"),
            Self::BadName => "bad name",
            Self::NoLineFeed => "first line ended with a carriage return alone",
            Self::NameTaken => "name taken",
            Self::Unencrypted => "not encrypted",
            Self::HandshakeFailed => "TLS handshake failed",
            Self::LoginTimeout => "login not in time",
            Self::NeedsToken => "no token",
            Self::WrongToken => "name or token wrong",
            Self::NoTokens => "a token, and there are no users",
            Self::LoginCrowd => "too many connections waited to log in",
            Self::LoggedInElsewhere => "logged in elsewhere",
            Self::Revoked => "token no longer valid",
            Self::NameReserved => "name reserved for a user",
            Self::ClusterUnreachable => "cluster not reachable",
            Self::ServerFull => "server is full",
            Self::PerAddressLimit => "too many connections from its address",
            Self::TooManyFailedLogins { .. } => "too many failed logins from its address",
            Self::NoProxyHeader => "no PROXY header",
            Self::Evicted => "evicted, nothing was read for too long",
            Self::Shutdown => "server shut down",
            Self::Deadline => "drain deadline",
            Self::Forced => "drain forced",
            Self::Panicked => "a thread panicked",
            Self::ServerFailed => "server failed",
        })
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for CloseReason {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What one client did not receive.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Loss {
    /// The recipient.
    pub name: Name,
    /// How many messages are lost: those never written, and those whose last byte the peer's kernel
    /// had not acknowledged.
    pub messages: u64,
    /// How many bytes were written and not acknowledged. Only messages within these bytes may have
    /// arrived after all, at the moment the connection was given up.
    pub unacknowledged_bytes: u64,
    /// Why the connection ended.
    pub reason: CloseReason,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, messages, unacknowledged_bytes, reason } = self;
        write!(f, "{name}: {messages} lost ({unacknowledged_bytes} B unacknowledged): {reason}")
    }
}

/// What a server did from its start to the end of its drain.
///
/// Every delivery that was owed is accounted for: `owed = delivered + lost()`; in a cluster other nodes
/// take some of them over, see `ClusterReport`. So is every one that was lost: `lost() = lost_told +
/// lost_sender_gone + lost_untold`. The default is that of a server that did nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Report {
    /// Connections that were served, whether they logged in or not.
    pub connections: u64,
    /// Connections that were refused because the server was full, or at the limit for their
    /// address.
    pub refused: u64,
    /// Complete lines accepted from clients after their login line, those included that a client of
    /// this crate sends on its own.
    pub accepted: u64,
    /// Last lines without a line end, which were therefore not accepted.
    pub unterminated: u64,
    /// Deliveries owed: one for each accepted message and each of its recipients that was
    /// connected.
    pub owed: u64,
    /// Deliveries that the recipient's kernel acknowledged up to the last byte.
    pub delivered: u64,
    /// Deliveries lost before the drain, by eviction or by a broken connection.
    pub lost_before_drain: u64,
    /// Deliveries lost during the drain.
    pub lost_in_drain: u64,
    /// Lost deliveries that their sender was told of, or at least had queued for it.
    pub lost_told: u64,
    /// Lost deliveries whose sender had left.
    pub lost_sender_gone: u64,
    /// Lost deliveries of which no sender was told: those lost in the drain, or so shortly before it
    /// that it was too late.
    pub lost_untold: u64,
    /// Each recipient's loss before the drain, for the first thousand connections that lost
    /// anything.
    pub losses_before_drain: Vec<Loss>,
    /// Each recipient's loss during the drain.
    pub losses_in_drain: Vec<Loss>,
    /// How long the drain took. Serialized as seconds.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::server::seconds::serialize"))]
    pub drain: Duration,
    /// Whether a connection was ended by the drain's deadline or by
    /// [`ShutdownHandle::force`](crate::ShutdownHandle::force).
    pub forced: bool,
    /// What the server did as a node of a cluster, if it was one.
    #[cfg(feature = "cluster")]
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub cluster: Option<ClusterReport>,
}

impl Report {
    pub(crate) fn new(totals: Totals, stats: Stats, drain: Duration) -> Self {
        let report = Self {
            connections: totals.connections,
            refused: totals.refused,
            accepted: stats.accepted,
            unterminated: stats.unterminated,
            owed: stats.owed,
            delivered: totals.delivered,
            lost_before_drain: totals.lost_before_drain,
            lost_in_drain: totals.lost_in_drain,
            lost_told: stats.lost_told,
            lost_sender_gone: stats.lost_sender_gone,
            lost_untold: stats.lost_untold,
            losses_before_drain: totals.losses_before_drain,
            losses_in_drain: totals.losses_in_drain,
            drain,
            forced: totals.forced,
            #[cfg(feature = "cluster")]
            cluster: None,
        };
        #[cfg(not(feature = "cluster"))]
        debug_assert_eq!(report.owed, report.delivered + report.lost());
        debug_assert_eq!(
            report.lost(),
            report.lost_told + report.lost_sender_gone + report.lost_untold
        );
        report
    }

    /// Adds what the server did as a node of a cluster; `owed`, and what was lost before the drain and
    /// during it, come on top.
    #[cfg(feature = "cluster")]
    pub(crate) fn with_cluster(mut self, node: Option<NodeTotals>) -> Self {
        if let Some(NodeTotals { report, owed, lost_before_drain, lost_in_drain, lost_untold }) =
            node
        {
            self.owed += owed;
            self.lost_before_drain += lost_before_drain;
            self.lost_in_drain += lost_in_drain;
            self.lost_untold += lost_untold;
            self.lost_told += lost_before_drain + lost_in_drain - lost_untold;
            self.cluster = Some(report);
        }
        let (arrived, elsewhere) =
            self.cluster.as_ref().map_or((0, 0), |it| (it.arrived, it.handed_over + it.in_doubt));
        debug_assert_eq!(self.owed + arrived, self.delivered + self.lost() + elsewhere);
        self
    }

    /// Deliveries lost, before and during the drain.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost_before_drain + self.lost_in_drain
    }

    /// True if nothing was lost during the drain: the shutdown kept its promise to every client.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        #[cfg(feature = "cluster")]
        if self.cluster.as_ref().is_some_and(|cluster| cluster.in_doubt_in_drain > 0) {
            return false;
        }
        self.lost_in_drain == 0
    }

    pub(crate) fn log(&self) {
        let (level, how) = if self.is_clean() {
            (Level::Info, "stopped")
        } else {
            (Level::Error, "stopped with losses")
        };
        log::log!(
            level,
            connections = self.connections, refused = self.refused, accepted = self.accepted,
            owed = self.owed, delivered = self.delivered,
            lost_before_drain = self.lost_before_drain, lost_in_drain = self.lost_in_drain,
            drain_seconds = self.drain.as_secs_f64(), forced = self.forced;
            "{how}: {self}"
        );
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}, {} refused, {} accepted, {} owed, {} delivered, {} lost before the drain, \
             {} lost during it, drained in {:.3} s{}",
            Counted(self.connections, "connection", "connections"),
            self.refused,
            Counted(self.accepted, "line", "lines"),
            Counted(self.owed, "delivery", "deliveries"),
            self.delivered,
            self.lost_before_drain,
            self.lost_in_drain,
            self.drain.as_secs_f64(),
            if self.forced { " (forced)" } else { "" },
        )?;
        #[cfg(feature = "cluster")]
        if let Some(cluster) = &self.cluster {
            let ClusterReport { life, arrived, handed_over, in_doubt, .. } = cluster;
            write!(
                f,
                "; node {life}: {arrived} arrived, {handed_over} handed over, {in_doubt} in doubt"
            )?;
            for (place, messages) in &cluster.unconfirmed {
                write!(f, ", {messages} unconfirmed at {place}")?;
            }
        }
        Ok(())
    }
}

/// What a node of a cluster adds to its server's report.
#[cfg(feature = "cluster")]
#[derive(Debug, Default)]
pub(crate) struct NodeTotals {
    pub(crate) report: ClusterReport,
    pub(crate) owed: u64,
    pub(crate) lost_before_drain: u64,
    pub(crate) lost_in_drain: u64,
    pub(crate) lost_untold: u64,
}

/// The record of one connection, made by its reader once the connection has ended.
#[derive(Debug)]
pub(crate) struct ConnectionRecord {
    pub(crate) id: ConnectionId,
    pub(crate) peer: Peer,
    /// `None` if the client never logged in.
    pub(crate) name: Option<Name>,
    pub(crate) reason: CloseReason,
    pub(crate) accepted: u64,
    pub(crate) delivered: u64,
    pub(crate) lost: u64,
    /// Of those lost, the ones that were wholly written.
    pub(crate) lost_written: u64,
    pub(crate) unacknowledged: u64,
    /// Whether the connection failed after shutdown had begun.
    pub(crate) in_drain: bool,
}

impl ConnectionRecord {
    /// What it adds to the counts of its reason.
    pub(crate) fn counts(&self) -> Disconnects {
        Disconnects {
            connections: 1,
            refused_logins: u64::from(self.reason.refuses_login()),
            lost_unwritten: self.lost - self.lost_written,
            lost_written: self.lost_written,
        }
    }

    /// The one place where the end of a connection is logged.
    ///
    /// Connections that never logged in are logged only at `debug`: connecting costs a client
    /// nothing, and must not be a way to fill the log.
    #[inline(never)] // Formatting takes much of the stack, see `Reader::run`.
    pub(crate) fn log(&self) {
        let level = match &self.name {
            _ if self.lost > 0 => Level::Warn,
            Some(_) => Level::Info,
            None => Level::Debug,
        };
        log::log!(
            level,
            client = self.name.as_ref().map_or("", Name::as_str),
            connection = self.id.0, address:% = self.peer, reason:% = self.reason,
            accepted = self.accepted, delivered = self.delivered, lost = self.lost,
            unacknowledged_bytes = self.unacknowledged;
            "{self}"
        );
    }
}

impl fmt::Display for ConnectionRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, peer, reason, lost, unacknowledged, .. } = self;
        // No valid name contains a space, so no client can have this one.
        let client = self.name.as_ref().map_or("unnamed client", Name::as_str);
        let lines = Counted(self.accepted, "line", "lines");
        let messages = Counted(self.delivered, "message", "messages");
        write!(
            f,
            "{client} disconnected (connection {id}, {peer}): {reason}; {lines} in, {messages} out"
        )?;
        if *lost > 0 {
            write!(f, ", {lost} lost, {unacknowledged} B unacknowledged")?;
        }
        Ok(())
    }
}

/// The sum of all connections' records.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    pub(crate) connections: u64,
    pub(crate) refused: u64,
    pub(crate) delivered: u64,
    pub(crate) lost_before_drain: u64,
    pub(crate) lost_in_drain: u64,
    pub(crate) losses_before_drain: Vec<Loss>,
    pub(crate) losses_in_drain: Vec<Loss>,
    /// Whether a connection was ended by the drain's deadline or by force.
    pub(crate) forced: bool,
}

impl Totals {
    pub(crate) fn add(&mut self, record: ConnectionRecord) {
        let ConnectionRecord { name, reason, delivered, lost, unacknowledged, in_drain, .. } =
            record;
        self.connections += 1;
        self.delivered += delivered;
        self.forced |= matches!(reason, CloseReason::Deadline | CloseReason::Forced);
        let (total, losses, max_named) = if in_drain {
            (&mut self.lost_in_drain, &mut self.losses_in_drain, usize::MAX)
        } else {
            (&mut self.lost_before_drain, &mut self.losses_before_drain, MAX_NAMED_LOSSES)
        };
        *total += lost;
        if let Some(name) = name.filter(|_| lost > 0 && losses.len() < max_named) {
            let unacknowledged_bytes = unacknowledged;
            losses.push(Loss { name, messages: lost, unacknowledged_bytes, reason });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(lost: u64, in_drain: bool) -> ConnectionRecord {
        ConnectionRecord {
            id: ConnectionId(1),
            peer: Peer::tcp(([127, 0, 0, 1], 1).into()),
            name: Name::new("bob").ok(),
            reason: CloseReason::Evicted,
            accepted: 0,
            delivered: 3,
            lost,
            lost_written: 0,
            unacknowledged: 7,
            in_drain,
        }
    }

    #[test]
    fn a_client_named_nobody_is_not_logged_like_an_unnamed_one() {
        let nobody = ConnectionRecord { name: Name::new("nobody").ok(), ..record(0, false) };
        let unnamed = ConnectionRecord { name: None, ..record(0, false) };
        let rest = "disconnected (connection 1, 127.0.0.1:1): \
                    evicted, nothing was read for too long; 0 lines in, 3 messages out";
        assert_eq!(nobody.to_string(), format!("nobody {rest}"));
        assert_eq!(unnamed.to_string(), format!("unnamed client {rest}"));
        Name::new("unnamed client").expect_err("it holds a blank");
    }

    #[test]
    fn a_count_of_one_takes_the_singular() {
        let one = ConnectionRecord { accepted: 1, delivered: 1, ..record(1, false) };
        let expected = "; 1 line in, 1 message out, 1 lost, 7 B unacknowledged";
        assert!(one.to_string().ends_with(expected), "{one}");
    }

    #[test]
    fn losses_are_named_and_their_list_is_bounded_before_the_drain_only() {
        let mut totals = Totals::default();
        for _ in 0..MAX_NAMED_LOSSES + 5 {
            totals.add(record(2, false));
            totals.add(record(1, true));
            totals.add(record(0, true));
        }
        let rounds = (MAX_NAMED_LOSSES + 5) as u64;
        assert_eq!((totals.connections, totals.delivered), (3 * rounds, 9 * rounds));
        assert_eq!((totals.lost_before_drain, totals.lost_in_drain), (2 * rounds, rounds));
        assert_eq!(totals.losses_before_drain.len(), MAX_NAMED_LOSSES);
        assert_eq!(totals.losses_in_drain.len(), MAX_NAMED_LOSSES + 5);
    }
}
