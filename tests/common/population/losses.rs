//! What a session was told of its lost lines: `error: line 9: 3 lines from line 2 on lost on the way
//! to c7: evicted`.

use std::collections::HashMap;

use super::World;
use super::line_generator::{LineGenerator, Meaning};
use super::session_plan::SessionId;

/// The lines between the first and the last that were due to one connection, or deliveries to
/// several.
#[derive(Clone, Copy, Debug)]
pub struct ToldLoss {
    pub first: u64,
    pub last: u64,
    pub count: u64,
    /// The recipient, unless there are too many to be named.
    pub to: Option<u16>,
}

const REASONS: [&str; 4] = ["evicted", "left", "connection broken", "server error"];

impl ToldLoss {
    /// Parses what the server says of one of these lines; `None` if it says something else.
    pub fn read(world: &World, said: &str) -> Option<Self> {
        let (last, text) = said.strip_prefix("error: line ")?.split_once(": ")?;
        let (what, to) = text.split_once("lost on the way to ")?;
        let last = last.parse().ok()?;
        if let Some(what) = what.strip_suffix(" on ") {
            let (count, first) = what
                .split_once(" lines from line ")
                .or_else(|| what.split_once(" deliveries from line "))?;
            let (count, first) = (count.parse().ok()?, first.parse().ok()?);
            if let Some(others) = to.strip_suffix(" others") {
                let recipients: u64 = others.parse().ok()?;
                return (recipients <= count).then_some(Self { first, last, count, to: None });
            }
            let to = Some(read_recipient(world, to)?);
            return (count > 1).then_some(Self { first, last, count, to });
        }
        let to = Some(read_recipient(world, to)?);
        what.is_empty().then_some(Self { first: last, last, count: 1, to })
    }
}

fn read_recipient(world: &World, text: &str) -> Option<u16> {
    let (name, reason) = text.split_once(": ")?;
    REASONS.contains(&reason).then_some(())?;
    world.find(name)
}

/// What one session was told, line by line.
#[derive(Debug, Default)]
pub struct ToldLines {
    /// By name, ranges that do not overlap, in order.
    by_name: HashMap<u16, Vec<ToldLoss>>,
    /// Deliveries whose recipients were not named.
    pub unnamed: u64,
}

impl ToldLines {
    /// What is lost on the way to one connection is all that its sender sent to it from some line
    /// on. So every line for that name in the range is meant, and no line twice.
    pub fn of(
        world: &World,
        who: SessionId,
        mut lines: LineGenerator,
        told: &[ToldLoss],
        accepted: u64,
    ) -> Self {
        let mut all = Self::default();
        for loss in told {
            assert!(loss.first <= loss.last && loss.last <= accepted, "{who} was told {loss:?}");
            match loss.to {
                None => all.unnamed += loss.count,
                Some(name) => all.by_name.entry(name).or_default().push(*loss),
            }
        }
        for (name, losses) in &mut all.by_name {
            losses.sort_by_key(|loss| loss.first);
            let overlap = losses.windows(2).find(|two| two[0].last >= two[1].first);
            assert!(overlap.is_none(), "{who} was told twice: {overlap:?}");
            for loss in losses {
                // A line to a room was due to the connection if that was in the room.
                let (mut due, mut in_rooms) = (0, 0);
                for line in loss.first..=loss.last {
                    match lines.line(world, line).meaning {
                        Meaning::Message { to, .. } if to.contains(name) => due += 1,
                        Meaning::RoomMessage { .. } => in_rooms += 1,
                        _ => {}
                    }
                }
                let is_whole = (due..=due + in_rooms).contains(&loss.count);
                assert!(is_whole, "{who} sent {due} lines, {in_rooms} to rooms, told {loss:?}");
            }
        }
        all
    }

    /// Whether the session was told that this line did not reach this name.
    pub fn contains(&self, line: u64, name: u16) -> bool {
        let losses = self.by_name.get(&name).map_or(&[][..], Vec::as_slice);
        let next = losses.partition_point(|loss| loss.last < line);
        losses.get(next).is_some_and(|loss| loss.first <= line)
    }
}
