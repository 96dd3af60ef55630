//! The server's answer to a line.

use std::time::Instant;

use super::World;
use super::speech::{LineGenerator, Meaning};

/// How many names the answer to a bare `/who` holds at most.
const CENSUS: usize = 100;

#[derive(Clone, Debug)]
pub struct Answer {
    pub line: u64,
    pub came: Instant,
    /// Who is not there.
    pub absent: Vec<u16>,
    /// Who is there.
    pub present: Vec<u16>,
}

impl Answer {
    /// Reads what the server says to one of these lines; `None` if that line can not be answered
    /// so. The speaker is there, and so can not be missing.
    pub fn read(
        world: &World,
        speech: &mut LineGenerator,
        said: &str,
        came: Instant,
    ) -> Option<Self> {
        let (is_notice, said) = match said.strip_prefix("notice: line ") {
            Some(said) => (true, said),
            None => (false, said.strip_prefix("error: line ")?),
        };
        let (line, text) = said.split_once(": ")?;
        let mut answer =
            Self { line: line.parse().ok()?, came, absent: Vec::new(), present: Vec::new() };
        let meaning = speech.line(world, answer.line).meaning;
        let is_question = matches!(meaning, Meaning::Question { .. } | Meaning::Census);
        let is_right = match meaning {
            Meaning::Nothing => false,
            Meaning::Refused(reason) => text == reason,
            Meaning::Message { to, .. } => {
                answer.absent = read_list(world, text.strip_prefix("no such peer: ")?)?;
                is_part_of(&answer.absent, &to)
            }
            Meaning::Question { about } => answer.read_who(world, text, &about)?,
            Meaning::Census => answer.read_census(world, text, speech.name())?,
        };
        let is_right = is_right && is_notice == is_question;
        (is_right && !answer.absent.contains(&speech.name())).then_some(answer)
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

    /// The list must be as long as it says, or as it may be; in a whole one is the speaker too.
    fn read_census(&mut self, world: &World, text: &str, speaker: u16) -> Option<bool> {
        let (count, names) = text.split_once(" here: ")?;
        let (names, is_whole) = match names.strip_suffix(", ...") {
            Some(names) => (names, false),
            None => (names, true),
        };
        self.present = read_list(world, names)?;
        let (count, listed) = (count.parse().ok()?, self.present.len());
        let is_there = self.present.contains(&speaker) || !is_whole;
        Some(listed == CENSUS.min(count) && is_whole == (listed == count) && is_there)
    }
}

/// A list of names as the server writes it, never an empty one.
fn read_list(world: &World, list: &str) -> Option<Vec<u16>> {
    list.split(", ").map(|name| world.find(name)).collect()
}

/// True if `part` is what is left of `whole` when some names are left out.
fn is_part_of(part: &[u16], whole: &[u16]) -> bool {
    let mut whole = whole.iter();
    part.iter().all(|name| whole.any(|other| other == name))
}
