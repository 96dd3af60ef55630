//! The model: checks the transcripts and the log, connection by connection, against the report.
//! Properties of several connections are checked in [`streams`] and [`presence`](super::presence).

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddrV4;
use std::time::Instant;

use a_chat::{CloseReason, Loss, Report};

use super::super::wire::{Transport, transport};
use super::log_capture::{self, ConnectionRecord};
use super::presence::Presence;
use super::session_plan::Greeting;
use super::transcript::{Ending, FinalLine, Transcript};
use super::{Profile, Stop, World, streams};

/// What was checked, and how exactly.
#[derive(Clone, Copy, Debug)]
pub struct Verdict {
    pub connections: u64,
    pub received: u64,
    /// Deliveries that may or may not have been owed: accepted lines of senders that were dropped
    /// before the reply, which might have said that the recipient is not connected.
    pub in_doubt: u64,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { connections, received, in_doubt } = self;
        write!(f, "{connections} connections, {received} messages received, {in_doubt} in doubt")
    }
}

/// How and when the server was shut down, and the state just before.
#[derive(Debug)]
pub struct Stopped {
    pub how: Stop,
    pub at: Instant,
    /// Bytes from each address that had reached the server's kernel.
    pub acknowledged: HashMap<SocketAddrV4, u64>,
}

/// A connection as its client and the server's log saw it.
#[derive(Debug)]
pub struct Connection {
    pub seen: Transcript,
    pub record: ConnectionRecord,
}

/// Checks everything; panics at the first impossible observation.
pub fn check(
    world: &World,
    seen: impl Iterator<Item = Transcript>,
    stopped: &Stopped,
    report: &Report,
) -> Verdict {
    let (mut connections, mut unserved) = (Vec::new(), Vec::new());
    for seen in seen {
        match log_capture::take(seen.address) {
            Some(record) => connections.push(Connection { seen, record }),
            None => unserved.push(seen),
        }
    }
    if world.is_patient(stopped.how) {
        assert!(!report.forced, "{report}");
    }
    check_unserved(&unserved, stopped, report);
    for connection in &connections {
        connection.check_end(world, stopped.how);
        connection.check_numbers();
        if world.is_patient(stopped.how) {
            connection.check_patience(world, stopped);
        }
    }
    check_report(&connections, report);
    let presence = Presence::of(&connections, stopped.at);
    for connection in &connections {
        presence.check(connection);
    }
    let patient = world.is_patient(stopped.how);
    let in_doubt = streams::check(world, &connections, &presence, (patient, report));
    let received = connections.iter().map(|connection| connection.seen.messages.len() as u64);
    Verdict { connections: report.connections, received: received.sum(), in_doubt }
}

/// A client that is not in the log was told that the server is full, or was still in the listen
/// backlog when the listener closed.
fn check_unserved(unserved: &[Transcript], stopped: &Stopped, report: &Report) {
    let is_told = |seen: &&Transcript| seen.final_line == Some(FinalLine::Full);
    let told = unserved.iter().filter(is_told).count() as u64;
    assert!((told..=unserved.len() as u64).contains(&report.refused), "{told} were told; {report}");
    for seen in unserved.iter().filter(|seen| !is_told(seen)) {
        let waits =
            seen.ending == Ending::Reset && seen.ended > stopped.at && seen.bytes_received == 0;
        // It may have left before the end of that line.
        let goes = seen.ending == Ending::Abandoned && seen.logged_in_at.is_none();
        assert!(waits || goes, "not served, not refused: {seen}");
    }
}

impl Connection {
    /// The reason must apply, and the end of the stream must fit it.
    fn check_end(&self, world: &World, stop: Stop) {
        let Self { seen, record } = self;
        let (gives_name, parts) = (seen.session.greeting.is_name(), seen.left_at.is_some());
        let is_impatient = world.profile == Profile::Stubborn;
        let is_so = match record.reason {
            CloseReason::Left => parts,
            CloseReason::LeftBeforeLogin => parts && seen.line_ends_sent == 0,
            CloseReason::Broken(_) => parts && seen.ending == Ending::Abandoned,
            CloseReason::BadName => matches!(seen.session.greeting, Greeting::Bad(_)),
            // The server is full if the machine has no thread for the writer.
            CloseReason::NameTaken | CloseReason::ServerFull => gives_name,
            CloseReason::Shutdown => true,
            CloseReason::LoginTimeout | CloseReason::Evicted | CloseReason::Deadline => {
                is_impatient
            }
            CloseReason::Forced => stop != Stop::Drain,
            _ => false,
        };
        assert!(is_so, "no reason to end so: {self}");
        assert!(
            seen.final_line.is_none_or(|word| self.may_receive(word)),
            "a wrong last word: {self}"
        );
        assert!(seen.ending != Ending::Reset || self.was_dropped(), "a reset: {self}");
        assert!(!seen.unterminated || !seen.sent_whole, "no line was unterminated: {self}");
        let ends_handshakes = [CloseReason::Shutdown, CloseReason::LoginTimeout];
        let ends_handshake = ends_handshakes.contains(&record.reason) && record.name.is_none();
        // Its handshake may have been over, and the server's not: the last flight was on its way.
        let was_in_handshake =
            transport() == Transport::Tls && ends_handshake && seen.bytes_received == 0;
        if seen.ending == Ending::InHandshake {
            assert!(ends_handshake, "no reason for a failed handshake: {self}");
        } else if seen.ending == Ending::Clean && !self.was_dropped() && !was_in_handshake {
            let leaves = [CloseReason::Left, CloseReason::LeftBeforeLogin].contains(&record.reason);
            assert!(leaves == seen.final_line.is_none(), "a last word is missing: {self}");
            assert!(
                !leaves || seen.unterminated != seen.sent_whole,
                "no reply to an unterminated line: {self}"
            );
        }
        match record.name.as_deref() {
            Some(name) => assert!(gives_name && name == world.name(seen.session.name), "{self}"),
            None => assert!(seen.logged_in_at.is_none() && record.accepted == 0, "{self}"),
        }
    }

    /// True if the server sends this line for such an end, or before the client ended it.
    fn may_receive(&self, word: FinalLine) -> bool {
        match (word, self.record.reason) {
            (
                FinalLine::Notice(accepted),
                CloseReason::Shutdown
                | CloseReason::Deadline
                | CloseReason::Forced
                | CloseReason::Broken(_),
            ) => accepted == self.record.accepted,
            (
                FinalLine::NameTaken,
                CloseReason::NameTaken
                | CloseReason::Deadline
                | CloseReason::Forced
                | CloseReason::Broken(_),
            )
            | (FinalLine::BadName, CloseReason::BadName)
            | (FinalLine::LoginTimeout, CloseReason::LoginTimeout)
            | (FinalLine::Full, CloseReason::ServerFull)
            | (FinalLine::Evicted, CloseReason::Evicted) => true,
            _ => false,
        }
    }

    /// The client's counts bound, or equal, the server's.
    fn check_numbers(&self) {
        let Self { seen, record } = self;
        let (sent, received) = (seen.lines_sent(), seen.messages.len() as u64);
        assert!(record.accepted <= sent, "{sent} sent: {self}");
        if record.reason == CloseReason::Left && seen.half_closed {
            assert_eq!(record.accepted, sent, "{self}");
        }
        assert!(received <= record.delivered + record.lost, "{received} received: {self}");
        if seen.ending != Ending::Abandoned {
            // Acknowledged data is in the client's kernel, which was read to the end.
            assert!(record.delivered <= received, "{received} received: {self}");
        }
        // Everything written except the unacknowledged bytes counts as delivered, and no less was
        // written than received.
        let certain = seen.bytes_received.saturating_sub(record.unacknowledged.unwrap_or(0));
        let certain = seen.messages.partition_point(|message| message.end <= certain) as u64;
        assert!(record.delivered >= certain, "{certain} surely arrived: {self}");
    }

    /// With distant deadlines only clients cause losses, and everything in the server's kernel at
    /// shutdown is accepted.
    fn check_patience(&self, world: &World, stopped: &Stopped) {
        let Self { seen, record } = self;
        assert!(record.lost == 0 || seen.ending == Ending::Abandoned, "{self}");
        let acknowledged = stopped.acknowledged.get(&seen.address);
        let lines = acknowledged.map_or(0, |&bytes| seen.lines_within(world, bytes));
        let is_cut = [CloseReason::Left, CloseReason::Shutdown].contains(&record.reason);
        assert!(!is_cut || record.accepted >= lines, "{lines} were there at the stop: {self}");
    }

    /// Messages owed to this client that it did not receive.
    pub fn gap(&self) -> u64 {
        self.record.delivered + self.record.lost - self.seen.messages.len() as u64
    }

    /// Messages delivered to this client that it did not read.
    pub fn unread(&self) -> u64 {
        self.record.delivered.saturating_sub(self.seen.messages.len() as u64)
    }

    /// True if the client knows the replies to all of its accepted lines.
    pub fn knows_all_replies(&self) -> bool {
        self.seen.ending == Ending::Clean && !self.was_dropped()
    }

    /// True if the server dropped this client.
    fn was_dropped(&self) -> bool {
        let reasons = [CloseReason::Evicted, CloseReason::Deadline, CloseReason::Forced];
        reasons.contains(&self.record.reason)
    }
}

/// The report is the sum of the log's records.
fn check_report(connections: &[Connection], report: &Report) {
    let sum = |number: fn(&ConnectionRecord) -> u64| {
        connections.iter().map(|connection| number(&connection.record)).sum::<u64>()
    };
    assert_eq!(report.connections, connections.len() as u64, "{report}");
    assert_eq!(report.accepted, sum(|record| record.accepted), "{report}");
    assert_eq!(report.delivered, sum(|record| record.delivered), "{report}");
    assert_eq!(report.lost(), sum(|record| record.lost), "{report}");
    assert_eq!(report.owed, report.delivered + report.lost(), "{report}");
    let count = |is_so: fn(&Connection) -> bool| {
        connections.iter().filter(|connection| is_so(connection)).count() as u64
    };
    let told = count(|connection| connection.seen.unterminated);
    let unterminated = told..=count(|connection| !connection.seen.sent_whole);
    assert!(
        unterminated.contains(&report.unterminated),
        "{} of {unterminated:?} lines are unterminated",
        report.unterminated
    );
    let ended = |reason| connections.iter().any(|connection| connection.record.reason == reason);
    let forced = ended(CloseReason::Deadline) || ended(CloseReason::Forced);
    assert_eq!(report.forced, forced, "{report}");

    let messages = |losses: &[Loss]| losses.iter().map(|loss| loss.messages).sum::<u64>();
    assert_eq!(report.lost_in_drain, messages(&report.losses_in_drain), "{report}");
    if report.losses_before_drain.len() < 1000 {
        let logged = connections.iter().map(|connection| &connection.record);
        let logged = logged.filter(|record| record.lost > 0).map(|record| {
            let ConnectionRecord { name, reason, lost, unacknowledged, .. } = record.clone();
            (name, lost, unacknowledged, reason.to_string())
        });
        let named = report.losses_before_drain.iter().chain(&report.losses_in_drain).map(|loss| {
            let name = Some(loss.name.as_str().to_owned());
            (name, loss.messages, Some(loss.unacknowledged_bytes), loss.reason.to_string())
        });
        let (mut logged, mut named): (Vec<_>, Vec<_>) = (logged.collect(), named.collect());
        logged.sort();
        named.sort();
        assert_eq!(logged, named, "losses in the log and in the report");
    }
}

impl fmt::Display for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; the log says {:?}", self.seen, self.record)
    }
}
