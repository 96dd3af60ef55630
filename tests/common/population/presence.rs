//! Names over time: which client certainly held a name when a reply said it was not connected, and
//! whether any client can have held it when a reply said it was.
//!
//! All clients read one clock. A line was routed after its sender created it and before it read the
//! reply. A client held its name from before its first received line until after it began to leave.

use std::collections::HashMap;
use std::time::Instant;

use a_chat::CloseReason;

use super::model::Connection;
use super::reply::Reply;
use super::session_plan::SessionId;
use super::transcript::{Ending, FinalLine};

/// Which client held which name, and when.
#[derive(Debug)]
pub struct Presence {
    sure: Stays,
    possible: Stays,
}

/// Stays under each name, by start.
type Stays = HashMap<u16, Vec<Stay>>;

/// A period whose end may be unknown.
#[derive(Clone, Copy, Debug)]
struct Stay {
    from: Instant,
    to: Option<Instant>,
    who: SessionId,
}

impl Presence {
    /// Computes the stays, and checks that no two clients held a name at once.
    pub fn of(connections: &[Connection], stop: Instant) -> Self {
        let sure = stays(connections, |connection| surely(connection, stop));
        for stays in sure.values() {
            for (first, second) in stays.iter().zip(&stays[1..]) {
                let is_over = first.to.is_some_and(|to| to <= second.from);
                assert!(is_over, "both had the same name: {first:?}, {second:?}");
            }
        }
        Self { sure, possible: stays(connections, possibly) }
    }

    /// Checks a client's replies about others, and a rejected name.
    pub fn check(&self, connection: &Connection) {
        let seen = &connection.seen;
        for reply in &seen.replies {
            self.check_reply(connection, reply);
        }
        if seen.final_line == Some(FinalLine::NameTaken) {
            let others = of(&self.possible, seen.session.name).iter();
            let mut others = others.filter(|stay| stay.who != seen.session.who);
            let is_taken = others.any(|stay| stay.meets(seen.began, seen.ended));
            assert!(is_taken, "no other client had the name of {connection}");
        }
    }

    fn check_reply(&self, to: &Connection, reply: &Reply) {
        let made = to.seen.made(reply.line);
        for &name in &reply.absent {
            let here = self.last_before(name, made).filter(|stay| stay.lasts_until(reply.came));
            assert!(here.is_none(), "{here:?}, but not according to {reply:?} to {to}");
        }
        for &name in &reply.present {
            let mut stays = of(&self.possible, name).iter();
            let was_here = stays.any(|stay| stay.meets(made, reply.came));
            assert!(was_here, "no client had one of these names: {reply:?} to {to}");
        }
    }

    /// Whether some client held this name at an unknown time no earlier than `from`; `None` if
    /// undecidable.
    pub fn after(&self, name: u16, from: Instant) -> Option<bool> {
        if of(&self.possible, name).iter().all(|stay| !stay.lasts_until(from)) {
            return Some(false);
        }
        let stays_to_the_end = self.last_before(name, from).is_some_and(|stay| stay.to.is_none());
        stays_to_the_end.then_some(true)
    }

    /// The last stay that certainly started by that time.
    fn last_before(&self, name: u16, time: Instant) -> Option<Stay> {
        let stays = of(&self.sure, name);
        let count = stays.partition_point(|stay| stay.from <= time);
        count.checked_sub(1).map(|last| stays[last])
    }
}

impl Stay {
    fn lasts_until(&self, time: Instant) -> bool {
        self.to.is_none_or(|to| to >= time)
    }

    fn meets(&self, from: Instant, to: Instant) -> bool {
        self.from <= to && self.lasts_until(from)
    }
}

fn of(stays: &Stays, name: u16) -> &[Stay] {
    stays.get(&name).map_or(&[], Vec::as_slice)
}

fn stays(connections: &[Connection], stay: impl Fn(&Connection) -> Option<Stay>) -> Stays {
    let mut stays = Stays::new();
    for connection in connections {
        if let Some(stay) = stay(connection) {
            stays.entry(connection.seen.session.name).or_default().push(stay);
        }
    }
    for stays in stays.values_mut() {
        stays.sort_by_key(|stay| stay.from);
    }
    stays
}

/// When a client certainly held its name, if ever.
fn surely(connection: &Connection, stop: Instant) -> Option<Stay> {
    let Connection { seen, record } = connection;
    let to = match record.reason {
        // Unless it left on its own, it keeps its name until the server ends.
        CloseReason::Shutdown | CloseReason::Left | CloseReason::Broken(_) => seen.left_at,
        CloseReason::Deadline | CloseReason::Forced => {
            Some(seen.left_at.map_or(stop, |left_at| left_at.min(stop)))
        }
        // It lost its name before it could know.
        _ => return None,
    };
    let from = seen.logged_in_at.filter(|from| to.is_none_or(|to| *from < to))?;
    Some(Stay { from, to, who: seen.session.who })
}

/// When a client may have held its name.
fn possibly(connection: &Connection) -> Option<Stay> {
    let Connection { seen, record } = connection;
    let is_named = record.name.is_some() && record.reason != CloseReason::NameTaken;
    let knows_its_end = record.reason == CloseReason::Left && seen.ending == Ending::Clean;
    let to = knows_its_end.then_some(seen.ended);
    is_named.then_some(Stay { from: seen.began, to, who: seen.session.who })
}
