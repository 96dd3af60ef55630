//! What must have happened: the transcripts and the log, connection by connection, against the
//! report. What takes two connections to see is for [`streams`] and
//! [`presence`](super::presence).

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddrV4;
use std::time::Instant;

use a_chat::{CloseReason, Loss, Report};

use super::journal::{self, Departure};
use super::life::Greeting;
use super::presence::Presence;
use super::transcript::{Ending, LastWord, Transcript};
use super::{END, Profile, Stop, World, streams};

/// What was checked, and how exactly.
#[derive(Clone, Copy, Debug)]
pub struct Verdict {
    pub connections: u64,
    pub received: u64,
    /// Deliveries of which nobody can say whether they were owed: of accepted lines of senders that
    /// were cut off before the answer, which may have been that the recipient is not there.
    pub in_doubt: u64,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { connections, received, in_doubt } = self;
        write!(f, "{connections} connections, {received} messages received, {in_doubt} in doubt")
    }
}

/// How the server was stopped, and what was known just before.
#[derive(Debug)]
pub struct Stopped {
    pub how: Stop,
    pub at: Instant,
    /// How many bytes sent from each address its kernel had got.
    pub acknowledged: HashMap<SocketAddrV4, u64>,
}

/// A connection as the client and the server know it.
#[derive(Debug)]
pub struct Connection {
    pub seen: Transcript,
    pub departure: Departure,
}

/// Checks everything; panics at the first thing that can not have happened.
pub fn check(
    world: &World,
    seen: impl Iterator<Item = Transcript>,
    stopped: &Stopped,
    report: &Report,
) -> Verdict {
    let (mut connections, mut unserved) = (Vec::new(), Vec::new());
    for seen in seen {
        match journal::take(seen.address) {
            Some(departure) => connections.push(Connection { seen, departure }),
            None => unserved.push(seen),
        }
    }
    if world.is_patient(stopped.how) {
        assert!(!report.forced && report.drain < END, "{report}");
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
    let in_doubt = streams::check(world, &connections, &presence);
    let received = connections.iter().map(|connection| connection.seen.messages.len() as u64);
    Verdict { connections: report.connections, received: received.sum(), in_doubt }
}

/// Who is not in the log was told that the server is full, or was still waiting to be accepted when
/// the listener was closed.
fn check_unserved(unserved: &[Transcript], stopped: &Stopped, report: &Report) {
    let is_told = |seen: &&Transcript| seen.last_word == Some(LastWord::Full);
    let told = unserved.iter().filter(is_told).count() as u64;
    assert!((told..=unserved.len() as u64).contains(&report.refused), "{told} were told; {report}");
    for seen in unserved.iter().filter(|seen| !is_told(seen)) {
        let waits =
            seen.ending == Ending::Reset && seen.ended > stopped.at && seen.bytes_heard == 0;
        // It may have gone in the middle of that line.
        let goes = seen.ending == Ending::Abandoned && seen.welcomed.is_none();
        assert!(waits || goes, "not served, not refused: {seen}");
    }
}

impl Connection {
    /// The reason must be one that there was, and the end of the stream what goes with it.
    fn check_end(&self, world: &World, stop: Stop) {
        let Self { seen, departure } = self;
        let (gives_name, parts) = (seen.life.greeting.is_name(), seen.parted.is_some());
        let is_hurried = world.manners == Profile::Stubborn;
        let is_so = match departure.reason {
            CloseReason::Left => parts,
            CloseReason::LeftBeforeLogin => parts && seen.line_ends_sent == 0,
            CloseReason::Broken(_) => parts && seen.ending == Ending::Abandoned,
            CloseReason::BadName => matches!(seen.life.greeting, Greeting::Bad(_)),
            CloseReason::NameTaken => gives_name,
            CloseReason::Shutdown => true,
            CloseReason::LoginTimeout | CloseReason::Evicted | CloseReason::Deadline => is_hurried,
            CloseReason::Forced => stop != Stop::Drain,
            _ => false,
        };
        assert!(is_so, "no reason to end so: {self}");
        assert!(seen.last_word.is_none_or(|word| self.may_hear(word)), "a wrong last word: {self}");
        assert!(seen.ending != Ending::Reset || self.was_cut_off(), "a reset: {self}");
        assert!(!seen.unterminated || !seen.sent_whole, "no line was unterminated: {self}");
        if seen.ending == Ending::Clean && !self.was_cut_off() {
            let leaves =
                [CloseReason::Left, CloseReason::LeftBeforeLogin].contains(&departure.reason);
            assert!(leaves == seen.last_word.is_none(), "a last word is missing: {self}");
            assert!(
                !leaves || seen.unterminated != seen.sent_whole,
                "a unterminated line is unanswered: {self}"
            );
        }
        match departure.name.as_deref() {
            Some(name) => assert!(gives_name && name == world.name(seen.life.name), "{self}"),
            None => assert!(seen.welcomed.is_none() && departure.accepted == 0, "{self}"),
        }
    }

    /// True if this is what the server says at such an end, or before the client ended it.
    fn may_hear(&self, word: LastWord) -> bool {
        match (word, self.departure.reason) {
            (
                LastWord::Notice(accepted),
                CloseReason::Shutdown
                | CloseReason::Deadline
                | CloseReason::Forced
                | CloseReason::Broken(_),
            ) => accepted == self.departure.accepted,
            (
                LastWord::NameTaken,
                CloseReason::NameTaken
                | CloseReason::Deadline
                | CloseReason::Forced
                | CloseReason::Broken(_),
            )
            | (LastWord::BadName, CloseReason::BadName)
            | (LastWord::LoginTimeout, CloseReason::LoginTimeout)
            | (LastWord::Evicted, CloseReason::Evicted) => true,
            _ => false,
        }
    }

    /// What the client has sent and received bounds, or is, what the server has counted.
    fn check_numbers(&self) {
        let Self { seen, departure } = self;
        let (sent, received) = (seen.lines_sent(), seen.messages.len() as u64);
        assert!(departure.accepted <= sent, "{sent} sent: {self}");
        if departure.reason == CloseReason::Left && seen.half_closed {
            assert_eq!(departure.accepted, sent, "{self}");
        }
        assert!(received <= departure.delivered + departure.lost, "{received} received: {self}");
        if seen.ending != Ending::Abandoned {
            // What was acknowledged is in the client's kernel, which was read to the end.
            assert!(departure.delivered <= received, "{received} received: {self}");
        }
        // All but the unacknowledged bytes of what the server wrote, which is no less than what
        // came, count as delivered.
        let certain = seen.bytes_heard.saturating_sub(departure.unacknowledged.unwrap_or(0));
        let certain = seen.messages.partition_point(|message| message.end <= certain) as u64;
        assert!(departure.delivered >= certain, "{certain} surely arrived: {self}");
    }

    /// With deadlines that are far, nothing is lost but by the client's own doing, and all that the
    /// server's kernel had got at the stop is accepted.
    fn check_patience(&self, world: &World, stopped: &Stopped) {
        let Self { seen, departure } = self;
        assert!(departure.lost == 0 || seen.ending == Ending::Abandoned, "{self}");
        let acknowledged = stopped.acknowledged.get(&seen.address);
        let lines = acknowledged.map_or(0, |&bytes| seen.lines_within(world, bytes));
        let is_cut = [CloseReason::Left, CloseReason::Shutdown].contains(&departure.reason);
        assert!(!is_cut || departure.accepted >= lines, "{lines} were there at the stop: {self}");
    }

    /// How many messages were owed to this client that it did not receive.
    pub fn gap(&self) -> u64 {
        self.departure.delivered + self.departure.lost - self.seen.messages.len() as u64
    }

    /// True if the client knows the answers to all of its accepted lines.
    pub fn knows_all_answers(&self) -> bool {
        self.seen.ending == Ending::Clean && !self.was_cut_off()
    }

    /// True if the server gave this client up.
    fn was_cut_off(&self) -> bool {
        let reasons = [CloseReason::Evicted, CloseReason::Deadline, CloseReason::Forced];
        reasons.contains(&self.departure.reason)
    }
}

/// The report is the sum of what the log says of each connection.
fn check_report(connections: &[Connection], report: &Report) {
    let sum = |number: fn(&Departure) -> u64| {
        connections.iter().map(|connection| number(&connection.departure)).sum::<u64>()
    };
    assert_eq!(report.connections, connections.len() as u64, "{report}");
    assert_eq!(report.accepted, sum(|departure| departure.accepted), "{report}");
    assert_eq!(report.delivered, sum(|departure| departure.delivered), "{report}");
    assert_eq!(report.lost(), sum(|departure| departure.lost), "{report}");
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
    let ended = |reason| connections.iter().any(|connection| connection.departure.reason == reason);
    let forced = ended(CloseReason::Deadline) || ended(CloseReason::Forced);
    assert_eq!(report.forced, forced, "{report}");

    let messages = |losses: &[Loss]| losses.iter().map(|loss| loss.messages).sum::<u64>();
    assert_eq!(report.lost_in_drain, messages(&report.losses_in_drain), "{report}");
    if report.losses_before_drain.len() < 1000 {
        let logged = connections.iter().map(|connection| &connection.departure);
        let logged = logged.filter(|departure| departure.lost > 0).map(|departure| {
            let Departure { name, reason, lost, unacknowledged, .. } = departure.clone();
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
        write!(f, "{}; the log says {:?}", self.seen, self.departure)
    }
}
