//! Names in time: who surely had a name when a sender was told that nobody has it, and whether
//! anybody can have had it when somebody was told so.
//!
//! All clients read one clock. A line was routed after its sender had made it, and before it read
//! the answer; a client had its name from before it was first told something until after it began
//! to leave.

use std::collections::HashMap;
use std::time::Instant;

use a_chat::CloseReason;

use super::answer::Answer;
use super::life::Who;
use super::model::Connection;
use super::transcript::{Ending, LastWord};

/// Who had which name when.
#[derive(Debug)]
pub struct Presence {
    sure: Stays,
    possible: Stays,
}

/// Stays under each name, by their beginning.
type Stays = HashMap<u16, Vec<Stay>>;

/// A time, whose end may not be known or never have come.
#[derive(Clone, Copy, Debug)]
struct Stay {
    from: Instant,
    to: Option<Instant>,
    who: Who,
}

impl Presence {
    /// Finds out, and checks that no two clients ever had the same name.
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

    /// Checks what a client was told of others, and of its own name.
    pub fn check(&self, connection: &Connection) {
        let seen = &connection.seen;
        for answer in &seen.answers {
            self.check_answer(connection, answer);
        }
        if seen.last_word == Some(LastWord::NameTaken) {
            let others = of(&self.possible, seen.life.name).iter();
            let mut others = others.filter(|stay| stay.who != seen.life.who);
            let is_taken = others.any(|stay| stay.meets(seen.began, seen.ended));
            assert!(is_taken, "nobody had the name of {connection}");
        }
    }

    fn check_answer(&self, to: &Connection, answer: &Answer) {
        let made = to.seen.made(answer.line);
        for &name in &answer.absent {
            let here = self.last_before(name, made).filter(|stay| stay.lasts_until(answer.came));
            assert!(here.is_none(), "{here:?}, but not according to {answer:?} to {to}");
        }
        for &name in &answer.present {
            let mut stays = of(&self.possible, name).iter();
            let was_here = stays.any(|stay| stay.meets(made, answer.came));
            assert!(was_here, "nobody had one of these names: {answer:?} to {to}");
        }
    }

    /// Whether somebody had this name at a time of which it is only known that it is no earlier
    /// than `from`, if that can be told.
    pub fn after(&self, name: u16, from: Instant) -> Option<bool> {
        if of(&self.possible, name).iter().all(|stay| !stay.lasts_until(from)) {
            return Some(false);
        }
        let stays_to_the_end = self.last_before(name, from).is_some_and(|stay| stay.to.is_none());
        stays_to_the_end.then_some(true)
    }

    /// The last that surely began by that time.
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
            stays.entry(connection.seen.life.name).or_default().push(stay);
        }
    }
    for stays in stays.values_mut() {
        stays.sort_by_key(|stay| stay.from);
    }
    stays
}

/// When a client had its name for certain, if it ever had.
fn surely(connection: &Connection, stop: Instant) -> Option<Stay> {
    let Connection { seen, departure } = connection;
    let to = match departure.reason {
        // Unless it left on its own, the name stays with it until the server ends.
        CloseReason::Shutdown | CloseReason::Left | CloseReason::Broken(_) => seen.parted,
        CloseReason::Deadline | CloseReason::Forced => {
            Some(seen.parted.map_or(stop, |parted| parted.min(stop)))
        }
        // It lost the name before it could know.
        _ => return None,
    };
    let from = seen.welcomed.filter(|from| to.is_none_or(|to| *from < to))?;
    Some(Stay { from, to, who: seen.life.who })
}

/// When a client may have had its name.
fn possibly(connection: &Connection) -> Option<Stay> {
    let Connection { seen, departure } = connection;
    let is_named = departure.name.is_some() && departure.reason != CloseReason::NameTaken;
    let knows_its_end = departure.reason == CloseReason::Left && seen.ending == Ending::Clean;
    let to = knows_its_end.then_some(seen.ended);
    is_named.then_some(Stay { from: seen.began, to, who: seen.life.who })
}
