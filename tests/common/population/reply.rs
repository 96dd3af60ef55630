//! The server's reply to a line.

use std::time::Instant;

use a_chat::Name;

use super::World;
use super::line_generator::{LineGenerator, Meaning};
use super::rooms::ROOMS;

/// Maximum names in the reply to a bare `/who`.
const MAX_WHO_NAMES: usize = 100;

#[derive(Clone, Debug)]
pub struct Reply {
    pub line: u64,
    pub came: Instant,
    /// Names not connected.
    pub absent: Vec<u16>,
    /// Names connected.
    pub present: Vec<u16>,
    /// What it says about a room.
    pub room: Option<RoomReply>,
    /// To a `/sync`: whether everything before it was confirmed, and how.
    pub synced: Option<Synced>,
    /// How many losses the client had been told of before.
    pub losses: usize,
}

/// What a reply says about a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoomReply {
    Joined,
    Left,
    NotIn,
    /// Nobody got the line, although its sender is in the room.
    NotSent,
    Members,
}

/// The reply to a `/sync`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Synced {
    Delivered,
    OrLost,
    Not,
}

impl Reply {
    /// Parses the server's reply to one of these lines; `None` if that line cannot get it. The
    /// client itself is connected, so it cannot be absent.
    pub fn read(
        world: &World,
        lines: &mut LineGenerator,
        said: &str,
        came: Instant,
    ) -> Option<Self> {
        let (is_notice, said) = match said.strip_prefix("notice: line ") {
            Some(said) => (true, said),
            None => (false, said.strip_prefix("error: line ")?),
        };
        let (line, text) = said.split_once(": ")?;
        let mut reply = Self {
            line: line.parse().ok()?,
            came,
            absent: Vec::new(),
            present: Vec::new(),
            room: None,
            synced: None,
            losses: 0,
        };
        let meaning = lines.line(world, reply.line).meaning;
        let is_question = match meaning {
            Meaning::Who { .. }
            | Meaning::WhoAll
            | Meaning::WhoIn { .. }
            | Meaning::Join { .. } => true,
            Meaning::Leave { .. } => text.starts_with("left "),
            _ => false,
        };
        let is_right = match meaning {
            Meaning::Sync { seconds } => {
                reply.synced = Some(read_synced(is_notice, text, seconds)?);
                return Some(reply);
            }
            Meaning::Nothing => false,
            Meaning::Refused(reason) => text == reason,
            Meaning::Message { to, .. } => reply.read_missing(world, text, &to)?,
            Meaning::Who { about } => reply.read_who(world, text, &about)?,
            Meaning::WhoAll => reply.read_who_all(world, text, lines.name())?,
            Meaning::Join { room } => {
                let members = text.strip_prefix("in ")?.strip_prefix(ROOMS[room])?;
                let members = members.strip_prefix(", ")?.strip_suffix(" are")?;
                reply.room = Some(RoomReply::Joined);
                members.parse::<usize>().is_ok_and(|members| members > 0)
            }
            Meaning::WhoIn { room } => reply.read_who_in(world, text, ROOMS[room])?,
            Meaning::Leave { room } | Meaning::RoomMessage { room, .. } => {
                let room = ROOMS[room];
                reply.room = [
                    (format!("left {room}"), RoomReply::Left),
                    (format!("not in {room}"), RoomReply::NotIn),
                    (format!("nobody else is in {room}"), RoomReply::NotSent),
                    (format!("{room} has grown, send it again"), RoomReply::NotSent),
                ]
                .into_iter()
                .find_map(|(expected, reply)| (text == expected).then_some(reply));
                reply.room.is_some()
            }
        };
        let is_right = is_right && is_notice == is_question;
        (is_right && !reply.absent.contains(&lines.name())).then_some(reply)
    }

    /// Some of the recipients may not be connected, and all that cannot be names must be listed.
    fn read_missing(&mut self, world: &World, text: &str, to: &[u16]) -> Option<bool> {
        let (absent, invalid) = match text.split_once("; not a name: ") {
            Some((absent, invalid)) => (Some(absent), Some(invalid)),
            None if text.starts_with("not a name: ") => (None, text.strip_prefix("not a name: ")),
            None => (Some(text), None),
        };
        let absent = absent.map(|list| read_list(world, list.strip_prefix("no such peer: ")?));
        let (absent, invalid) = (absent.unwrap_or(Some(Vec::new()))?, invalid.unwrap_or_default());
        let is_name = |name: &&u16| Name::new(world.name(**name)).is_ok();
        let expected = to.iter().filter(|name| !is_name(name)).map(|&name| world.name(name));
        let is_right = invalid == expected.collect::<Vec<_>>().join(", ")
            && absent.iter().all(|name| is_name(&name))
            && is_part_of(&absent, to);
        self.absent = absent;
        self.absent.extend(to.iter().filter(|name| !is_name(name)));
        Some(is_right)
    }

    /// Every name must be here or not here, in the order asked.
    fn read_who(&mut self, world: &World, text: &str, about: &[u16]) -> Option<bool> {
        let (here, away) = match text.split_once("; not here: ") {
            Some((here, away)) => (Some(here), Some(away)),
            None if text.starts_with("not here: ") => (None, text.strip_prefix("not here: ")),
            None => (Some(text), None),
        };
        if let Some(here) = here {
            self.present = read_list(world, here.strip_prefix("here: ")?)?;
        }
        if let Some(away) = away {
            self.absent = read_list(world, away)?;
        }
        let are_all = self.present.len() + self.absent.len() == about.len();
        Some(are_all && is_part_of(&self.present, about) && is_part_of(&self.absent, about))
    }

    /// The list must have the stated length, or the maximum.
    fn read_who_in(&mut self, world: &World, text: &str, room: &str) -> Option<bool> {
        let (count, names) = text.split_once(" in ")?;
        let names = names.strip_prefix(room)?;
        let (count, is_whole) = (count.parse::<usize>().ok()?, !names.ends_with(", ..."));
        if let Some(names) = names.strip_suffix(", ...").unwrap_or(names).strip_prefix(": ") {
            self.present = read_list(world, names)?;
        }
        self.room = Some(RoomReply::Members);
        let listed = self.present.len();
        Some(listed == MAX_WHO_NAMES.min(count) && is_whole == (listed == count))
    }

    /// The list must have the stated length, or the maximum; a complete one contains the client
    /// itself.
    fn read_who_all(&mut self, world: &World, text: &str, speaker: u16) -> Option<bool> {
        let (count, names) = text.split_once(" here: ")?;
        let (names, is_whole) = match names.strip_suffix(", ...") {
            Some(names) => (names, false),
            None => (names, true),
        };
        self.present = read_list(world, names)?;
        let (count, listed) = (count.parse().ok()?, self.present.len());
        let is_there = self.present.contains(&speaker) || !is_whole;
        Some(listed == MAX_WHO_NAMES.min(count) && is_whole == (listed == count) && is_there)
    }
}

/// A loss of others' must never show, nor may a reply come before its time is over.
fn read_synced(is_notice: bool, text: &str, seconds: u64) -> Option<Synced> {
    let late = format!("not everything before it is delivered after {seconds} s");
    match (is_notice, text) {
        (true, "everything before it is delivered") => Some(Synced::Delivered),
        (true, "everything before it is delivered or was reported lost") => Some(Synced::OrLost),
        (false, "the server is shutting down before everything is delivered") => Some(Synced::Not),
        (false, text) if text == late => Some(Synced::Not),
        _ => None,
    }
}

/// A non-empty list of names as the server writes it.
fn read_list(world: &World, list: &str) -> Option<Vec<u16>> {
    list.split(", ").map(|name| world.find(name)).collect()
}

/// True if `part` is `whole` with some names left out.
fn is_part_of(part: &[u16], whole: &[u16]) -> bool {
    let mut whole = whole.iter();
    part.iter().all(|name| whole.any(|other| other == name))
}
